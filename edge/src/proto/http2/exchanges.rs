//! The exchanges of an HTTP/2 connection: how a request begins one, and what becomes of what it says next.
#![forbid(unsafe_code)]

use super::Http2;
use super::heads;
use super::message::{self, Bad};
use super::pipe::{Body, Piece, Record};
use super::priority::Priority;
use super::stream::{Outgoing, Stream};
use crate::proto::Now;
use crate::proto::answer::{Answer, Body as Content};
use crate::proto::delivery;
use crate::proto::exchange::{Exchange, Next};
use crate::proto::io::{Action, Out};
use ::h2::server::SendResponse;
use ::h2::{Reason, RecvStream};
use bytes::Bytes;
use http::{HeaderValue, Request};
use std::task::{Context, Waker};

impl<R: Record> Http2<R> {
    /// A request came: begins its exchange and says which stream it is. `None`: it was malformed, or is reset.
    pub(super) fn request(
        &mut self,
        request: Request<RecvStream>,
        mut respond: SendResponse<Body<R>>,
        now: Now,
        out: &mut Out,
    ) -> Option<u32> {
        // All that has come was read before: what was given up with it is not begun.
        if self.meter.seen.reset && respond.poll_reset(&mut Context::from_waker(Waker::noop())).is_ready() {
            return None;
        }
        let id = respond.stream_id().as_u32();
        let (parts, upload) = request.into_parts();
        let ended = upload.is_end_stream();
        let read = message::read_request(&mut out.request, &parts, ended);
        if matches!(read, Err(Bad::Malformed)) {
            respond.send_reset(Reason::PROTOCOL_ERROR);
            if let Err(flood) = self.meter.refused() {
                self.cut_off(flood.into());
            }
            return None;
        }
        out.clear();
        let due_ms = self.timeouts.body_due_ms(u64::MAX, 0, now.mono_ms);
        let mut stream = Stream::new(id, Exchange::none(), respond, (!ended).then_some(upload), due_ms);
        let field = read.unwrap_or_else(|_| parts.headers.get("priority"));
        stream.priority = self.priority(id, field);
        let at = self.streams.len();
        let next = match read {
            Ok(_) => {
                out.queries.apply(&mut out.request);
                stream.exchange.begin(&out.request, &out.transport, now)
            }
            Err(Bad::Refused(status)) => {
                Next::Answer(Answer::error(status, b"", None, parts.method == http::Method::HEAD, now))
            }
            Err(Bad::Malformed) => return None,
        };
        self.streams.push_back(stream);
        self.carry_on(at, next, &[], out);
        Some(id)
    }

    /// What a PRIORITY_UPDATE frame said weighs more than the request's own field (RFC 9218 section 7).
    fn priority(&mut self, id: u32, field: Option<&HeaderValue>) -> Priority {
        let updated = self.early.iter().rev().find(|(early, _)| *early == id).map(|(_, priority)| *priority);
        self.early.retain(|(early, _)| *early > id);
        let field = || field.and_then(|value| Priority::parse(value.as_bytes()));
        updated.or_else(field).unwrap_or_default()
    }

    pub(super) fn carry_on(&mut self, at: usize, next: Next<'_>, stored: &[u8], out: &mut Out) {
        match next {
            Next::Nothing => {}
            Next::Lookup => out.actions.push(Action::Lookup),
            Next::Fetch(kind) => {
                self.streams[at].fetched(out.request.expect_continue);
                out.actions.push(Action::Fetch(kind));
            }
            Next::Answer(answer) => self.answer(at, &answer, stored, out),
            Next::Interim(interim) => self.streams[at].interim(interim, self.now_ms, &self.timeouts),
            Next::Piece(_) => out.actions.push(Action::Piece),
            Next::End => {
                out.actions.push(Action::Done);
                self.streams[at].end();
                self.remove(at);
            }
            Next::Trailers(lines) => {
                out.actions.push(Action::Done);
                self.streams[at].end_with(message::trailers(lines));
                self.remove(at);
            }
            Next::Broken => {
                out.actions.push(Action::Abort);
                self.streams[at].reset(Reason::INTERNAL_ERROR);
                self.remove(at);
            }
        }
    }

    fn answer(&mut self, at: usize, answer: &Answer<'_>, stored: &[u8], out: &mut Out) {
        let is_whole = !self.streams[at].exchange.is_streaming();
        if answer.refresh {
            out.actions.push(Action::Refresh);
        }
        let Some(mut head) = message::response(answer, stored, out) else {
            return self.carry_on(at, Next::Broken, &[], out);
        };
        let key_hash = out.request.key_hash;
        if std::mem::replace(&mut self.answered, key_hash) != key_hash {
            heads::keep_out(head.headers_mut());
        }
        let (body, text) = match &answer.body {
            Content::None if is_whole => (Outgoing::Owed(0), None),
            Content::None => (Outgoing::Silent, None),
            Content::Stored(range) => (Outgoing::Owed(range.end - range.start), None),
            Content::Streamed => (Outgoing::Open, None),
            Content::Parts(parts) => (Outgoing::Owed(parts.bytes()), None),
            Content::Text => {
                out.bytes.clear();
                answer.push_text(&mut out.bytes);
                (Outgoing::Owed(out.bytes.len() as u64), Some(Bytes::copy_from_slice(&out.bytes)))
            }
        };
        let ended = answer.body == Content::None;
        if !self.streams[at].answer(head, body, Piece::Bytes(text.unwrap_or_default()), ended) {
            return self.remove(at);
        }
        match &answer.body {
            Content::Stored(range) => out.actions.push(Action::StoredBody(range.clone())),
            Content::Parts(parts) => {
                out.bytes.clear();
                delivery::push_parts(parts, out);
            }
            Content::None | Content::Text | Content::Streamed => {}
        }
        if is_whole {
            out.actions.push(Action::Done);
            if ended {
                self.finish(at);
            }
        }
    }

    /// A stream that has ended, whole or not: what its exchange still holds on to is to be let go of.
    pub fn gone(&mut self) -> Option<u32> {
        if self.gone.is_empty() && self.meter.seen.reset {
            // It may be among what the crate does not deal with before there is room for its answers.
            self.meter.seen.reset = !self.pipe.is_exhausted();
            let mut context = Context::from_waker(Waker::noop());
            for at in (0..self.streams.len()).rev() {
                if self.streams[at].is_reset(&mut context) {
                    let given_up = self.streams[at].exchange.is_fetching();
                    self.remove(at);
                    if given_up && let Err(flood) = self.meter.gave_up(self.now_ms) {
                        self.cut_off(flood.into());
                    }
                }
            }
        }
        self.gone.pop()
    }

    /// The rest of a request did not come in time.
    pub(super) fn give_up(&mut self, id: u32, now: Now, out: &mut Out) {
        let Some(at) = self.find(id) else {
            return;
        };
        let stream = &mut self.streams[at];
        if stream.exchange.is_streaming() || stream.is_answered() {
            stream.reset(Reason::CANCEL);
        } else {
            let answer = Answer::error(408, b"", None, true, now);
            if let Some(head) = message::response(&answer, &[], out) {
                stream.answer(head, Outgoing::Owed(0), Piece::Bytes(Bytes::new()), true);
            }
        }
        self.remove(at);
    }
}
