//! One HTTP/1.1 connection as a machine: typed inputs in, actions out.
//!
//! The worker owns buffers, sockets and the shard; the session owns what HTTP means. For every input
//! the worker clears `out`, calls [`Session::on`], and carries the actions out in order.
//!
//! | state     | input            | then                                                            |
//! |-----------|------------------|-----------------------------------------------------------------|
//! | Head      | Received         | incomplete: stay; refused: answer, Close; GET/HEAD: Lookup; else Fetch(Pass) |
//! | (lookup)  | Found            | fresh: answer from the record, back to Head; stale: Fetch(Revalidate); none: Fetch(Fill) |
//! | Waiting   | Received         | request body: Forward; else nothing is consumed                  |
//! | Waiting   | OriginHead       | head written, Streaming                                         |
//! | Waiting   | Again            | Lookup once more: the object is in the shard now                 |
//! | Waiting   | Refused          | error answer, back to Head (or Close)                            |
//! | Streaming | Piece, End       | pieces framed; at End back to Head (or Close)                    |
//! | Streaming | Broken           | Abort: a broken body must never look whole                       |
//! | any       | Deadline         | 408 in a half-read head or body, else Close/Abort               |
//! | any       | PeerClosed       | Close when nothing is owed; a half-closed peer still gets its answer |
//!
//! What the worker has to keep to, beside the table:
//! - While [`Session::wants_input`] holds, unread bytes are offered again after every input that took some.
//!   `PeerClosed` is given once no unread bytes are left, or the session takes none.
//! - `Close` and `Abort` without `Done` may come while a fetch is running; control is then told that the
//!   client is gone.
//! - A worker that holds a request's body back because control has no room calls [`Session::hold`].
#![forbid(unsafe_code)]

use super::Now;
use super::answer::{self, Source};
use super::body::{Decoder, Step};
use super::delivery::Delivery;
use super::framing;
use super::freshness::{self, Reuse};
use super::request::{BodyLength, Marks, Method};
use super::response::{self, Delimited, Forwarded, OriginHead, Persistence};
use super::stored::Meta;
use crate::limits;

pub use super::io::{Action, FetchKind, Found, Input, Out, Timeouts};

/// Responses queued and not yet sent before further pipelined requests are left unread.
const PIPELINED_MAX: u8 = 16;
/// Body runs handed over by one input; more wait for the next offer.
const FORWARDS_MAX: usize = 64;
/// No deadline.
const NEVER: u64 = u64::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between requests, or within a head.
    Head,
    /// A lookup is being answered.
    Lookup,
    /// A lookup after a fetch is being answered.
    LookupAgain,
    /// Control was asked.
    Waiting,
    /// A fetched response is being sent.
    Streaming,
    /// Nothing more is taken or sent.
    Closing,
}

/// The machine. Small, for there is one per connection, idle ones included (≤ 64 bytes).
#[derive(Debug)]
pub struct Session {
    deadline_ms: u64,
    /// Reads the body of the current request.
    body: Decoder,
    /// Sends the body of the current response, if it was fetched.
    delivery: Delivery,
    /// When the current request was read, Unix seconds.
    asked_s: u64,
    /// Bytes of an incomplete head that were looked at.
    seen_bytes: u32,
    state: State,
    forwarded: Forwarded,
    kind: FetchKind,
    /// Responses queued since all was sent.
    unsent: u8,
    minor_version: u8,
    head_only: bool,
    keep_alive: bool,
    sending: bool,
    peer_closed: bool,
    /// This request was looked up again already.
    again: bool,
    revalidated: bool,
}

const _: () = assert!(size_of::<Session>() <= 64);

impl Session {
    /// A connection that was just accepted.
    pub fn new(now: Now, timeouts: &Timeouts) -> Self {
        Session {
            deadline_ms: now.mono_ms.saturating_add(timeouts.head_ms),
            body: Decoder::new(BodyLength::None),
            delivery: Delivery::new(Delimited::None, true),
            asked_s: 0,
            seen_bytes: 0,
            state: State::Head,
            forwarded: Forwarded::Bypass,
            kind: FetchKind::Pass,
            unsent: 0,
            minor_version: 1,
            head_only: false,
            keep_alive: true,
            sending: false,
            peer_closed: false,
            again: false,
            revalidated: false,
        }
    }

    /// Takes one input and leaves actions in `out`, which the caller has cleared.
    pub fn on(&mut self, input: Input<'_>, now: Now, out: &mut Out) {
        match (input, self.state) {
            (Input::Sent { drained }, _) => self.sent(drained, now, out),
            (Input::Deadline, _) => self.deadline(now, out),
            (_, State::Closing) => {}
            (Input::PeerClosed, _) => self.peer_closed(now, out),
            (Input::Received(bytes), State::Head) => self.head(bytes, now, out),
            (Input::Received(bytes), State::Waiting | State::Streaming) => self.request_body(bytes, now, out),
            (Input::Found(found), State::Lookup) => self.found(found, now, out),
            (Input::Found(found), State::LookupAgain) => self.found_again(found, now, out),
            (Input::OriginHead(head), State::Waiting) => self.origin_head(head, now, out),
            (Input::Again { revalidated }, State::Waiting) => self.look_again(revalidated, now, out),
            (Input::Refused(status), State::Waiting) => self.refused(status, now, out),
            (Input::End | Input::Broken, State::Waiting) => self.refused(502, now, out),
            (Input::Piece(bytes), State::Streaming) => self.piece(bytes, now, out),
            (Input::End, State::Streaming) => self.end(now, out),
            (Input::Broken, State::Streaming) => self.abort(out),
            // Inputs out of turn carry nothing that is owed to anybody.
            _ => {}
        }
    }

    /// Whether [`Input::Received`] would be taken now. If not, the worker keeps the bytes, and stops
    /// reading from the peer once its bound is reached.
    pub fn wants_input(&self) -> bool {
        match self.state {
            State::Head => self.unsent < PIPELINED_MAX,
            State::Waiting | State::Streaming => !self.body.ended(),
            State::Lookup | State::LookupAgain | State::Closing => false,
        }
    }

    /// Monotonic milliseconds at which [`Input::Deadline`] is due; `u64::MAX`: never.
    pub fn deadline_ms(&self) -> u64 {
        self.deadline_ms
    }

    /// The worker holds received body bytes back for want of room at control: the client is not late.
    /// The time starts anew with the next bytes that are offered.
    pub fn hold(&mut self) {
        if matches!(self.state, State::Waiting | State::Streaming) && !self.sending {
            self.deadline_ms = NEVER;
        }
    }

    // Requests.

    fn head(&mut self, bytes: &[u8], now: Now, out: &mut Out) {
        if bytes.is_empty() || !self.wants_input() || self.is_unchanged(bytes) {
            return;
        }
        match out.request.parse(bytes) {
            Ok(Some(taken)) => {
                out.consumed = taken;
                self.seen_bytes = 0;
                self.request(now, out);
            }
            Ok(None) => {
                let seen = (bytes.len() - framing::empty_lines(bytes)) as u32;
                if self.seen_bytes == 0 && seen > 0 && !self.sending {
                    self.deadline_ms = now.mono_ms.saturating_add(out.timeouts.head_ms);
                }
                self.seen_bytes = seen;
            }
            Err(refusal) => {
                out.consumed = bytes.len();
                self.keep_alive = false;
                self.head_only = false;
                self.error(refusal.status, None, now, out);
            }
        }
    }

    /// Whether nothing came that could change the verdict "incomplete": a verdict changes only with the end
    /// of a line or when a limit is crossed. Keeps a head that trickles in from being parsed at every byte.
    fn is_unchanged(&self, bytes: &[u8]) -> bool {
        let seen = self.seen_bytes as usize;
        let crossed = |limit: usize| seen <= limit && bytes.len() > limit;
        seen > 0
            && bytes.get(seen..).is_some_and(|new| !new.contains(&b'\n'))
            && !crossed(framing::REQUEST_LINE_BYTES_MAX)
            && bytes.len() < limits::REQUEST_HEAD_BYTES_MAX
    }

    fn request(&mut self, now: Now, out: &mut Out) {
        let request = &out.request;
        self.body = Decoder::new(request.body);
        self.asked_s = now.unix_s;
        self.minor_version = request.minor_version;
        self.head_only = request.method == Method::Head;
        self.keep_alive = request.keep_alive;
        self.again = false;
        self.revalidated = false;
        if request.method == Method::Other {
            self.fetch(FetchKind::Pass, Forwarded::Method, now, out);
        } else if request.body != BodyLength::None || request.marks.has(Marks::IF_MATCH) {
            self.fetch(FetchKind::Pass, Forwarded::Bypass, now, out);
        } else {
            self.state = State::Lookup;
            out.actions.push(Action::Lookup);
        }
    }

    fn request_body(&mut self, bytes: &[u8], now: Now, out: &mut Out) {
        if self.body.ended() || bytes.is_empty() {
            return;
        }
        let mut at = 0;
        for _ in 0..FORWARDS_MAX {
            match self.body.step(bytes, at) {
                Ok(Step::Data(range)) => {
                    at = range.end;
                    out.actions.push(Action::Forward(range));
                }
                Ok(Step::More) => {
                    at = bytes.len();
                    break;
                }
                Ok(Step::End(end)) => {
                    at = end;
                    out.actions.push(Action::ForwardEnd);
                    break;
                }
                Err(_) => {
                    out.actions.clear();
                    out.consumed = bytes.len();
                    return self.fail(400, now, out);
                }
            }
        }
        out.consumed = at;
        self.rearm(now, out);
    }

    // Answers from the store.

    fn found(&mut self, found: Option<Found<'_>>, now: Now, out: &mut Out) {
        let Some((found, meta)) =
            found.and_then(|found| Some((found, Meta::of_record(found.meta, found.head)?)))
        else {
            let vary = out.request.vary_missed.get();
            let forwarded = if vary { Forwarded::VaryMiss } else { Forwarded::UriMiss };
            return self.missed(forwarded, false, now, out);
        };
        match freshness::reuse(&meta, &out.request, now.unix_s) {
            Reuse::Fresh { age_s } => {
                answer::from_store(out, &found, &meta, age_s, Source::Hit, self.persistence(), now);
                self.queued(now, out);
                self.finish(now, out);
            }
            Reuse::Stale => self.missed(Forwarded::Stale, meta.has_validator(), now, out),
            Reuse::Request => self.missed(Forwarded::Request, meta.has_validator(), now, out),
        }
    }

    /// Nothing stored can answer: whom to ask, and whether the answer may be shared.
    fn missed(&mut self, forwarded: Forwarded, validator: bool, now: Now, out: &mut Out) {
        let Some(kind) = freshness::fetch_kind(&out.request, validator) else {
            return self.error(504, None, now, out);
        };
        self.fetch(kind, forwarded, now, out);
    }

    fn look_again(&mut self, revalidated: bool, now: Now, out: &mut Out) {
        if self.again {
            return self.refused(502, now, out);
        }
        self.again = true;
        self.revalidated = revalidated;
        self.state = State::LookupAgain;
        out.actions.push(Action::Lookup);
    }

    /// What was fetched for this request answers it even if it may not be reused without validation.
    /// If it is gone again, this client alone is served from the origin.
    fn found_again(&mut self, found: Option<Found<'_>>, now: Now, out: &mut Out) {
        let usable = found.and_then(|found| {
            let meta = Meta::of_record(found.meta, found.head)?;
            let fetched = self.revalidated || meta.response_s() >= self.asked_s;
            match freshness::reuse(&meta, &out.request, now.unix_s) {
                Reuse::Fresh { .. } => Some((found, meta)),
                Reuse::Stale | Reuse::Request => fetched.then_some((found, meta)),
            }
        });
        let Some((found, meta)) = usable else {
            return self.fetch(FetchKind::Pass, self.forwarded, now, out);
        };
        let age_s = freshness::current_age(&meta, now.unix_s);
        let source = Source::Fetched { forwarded: self.forwarded, revalidated: self.revalidated };
        answer::from_store(out, &found, &meta, age_s, source, self.persistence(), now);
        self.queued(now, out);
        self.finish(now, out);
    }

    // Answers from the origin.

    fn fetch(&mut self, kind: FetchKind, forwarded: Forwarded, now: Now, out: &mut Out) {
        if out.request.expect_continue && !self.again {
            let start = out.bytes.len();
            out.bytes.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            out.actions.push(Action::Write(start..out.bytes.len()));
            self.queued(now, out);
        }
        self.kind = kind;
        self.forwarded = forwarded;
        self.state = State::Waiting;
        out.actions.push(Action::Fetch(kind));
        self.rearm(now, out);
    }

    fn origin_head(&mut self, head: &OriginHead, now: Now, out: &mut Out) {
        let delimited = Delimited::of(head, self.head_only, self.minor_version);
        self.keep_alive &= delimited != Delimited::Close;
        self.delivery = Delivery::new(delimited, self.head_only);
        let start = out.bytes.len();
        let persistence = self.persistence();
        response::push_origin(&mut out.bytes, head, self.forwarded, self.kind, delimited, persistence);
        out.actions.push(Action::Write(start..out.bytes.len()));
        self.state = State::Streaming;
        self.queued(now, out);
    }

    fn piece(&mut self, bytes: usize, now: Now, out: &mut Out) {
        match self.delivery.piece(bytes, out) {
            Ok(true) => self.queued(now, out),
            Ok(false) => {}
            Err(_) => self.abort(out),
        }
    }

    fn end(&mut self, now: Now, out: &mut Out) {
        match self.delivery.end(out) {
            Ok(true) => self.queued(now, out),
            Ok(false) => {}
            Err(_) => return self.abort(out),
        }
        self.finish(now, out);
    }

    fn refused(&mut self, status: u16, now: Now, out: &mut Out) {
        let status = if (400..=599).contains(&status) { status } else { 502 };
        // 404 (no route) and 503 (no room) were never forwarded.
        let forwarded = matches!(status, 502 | 504).then_some(self.forwarded);
        self.keep_alive &= self.body.ended();
        self.error(status, forwarded, now, out);
    }

    // Ends.

    /// The request cannot be carried on. There is no `Done`: control still works on it, and is told by the
    /// worker that the client is gone.
    fn fail(&mut self, status: u16, now: Now, out: &mut Out) {
        if self.state == State::Streaming {
            return self.abort(out);
        }
        self.keep_alive = false;
        self.push_error(status, None, now, out);
        self.close(now, out);
    }

    fn error(&mut self, status: u16, forwarded: Option<Forwarded>, now: Now, out: &mut Out) {
        self.push_error(status, forwarded, now, out);
        self.finish(now, out);
    }

    fn push_error(&mut self, status: u16, forwarded: Option<Forwarded>, now: Now, out: &mut Out) {
        let start = out.bytes.len();
        let persistence = self.persistence();
        response::push_error(&mut out.bytes, status, forwarded, self.head_only, now.unix_s, persistence);
        out.actions.push(Action::Write(start..out.bytes.len()));
        self.queued(now, out);
    }

    /// The response is whole: on to the next request, or close.
    fn finish(&mut self, now: Now, out: &mut Out) {
        out.actions.push(Action::Done);
        self.unsent = self.unsent.saturating_add(1);
        if self.keep_alive && !self.peer_closed && self.body.ended() {
            self.state = State::Head;
            self.rearm(now, out);
        } else {
            self.close(now, out);
        }
    }

    fn close(&mut self, now: Now, out: &mut Out) {
        out.actions.push(Action::Close);
        self.state = State::Closing;
        self.deadline_ms = now.mono_ms.saturating_add(out.timeouts.send_ms);
    }

    fn abort(&mut self, out: &mut Out) {
        out.actions.push(Action::Abort);
        self.state = State::Closing;
        self.deadline_ms = NEVER;
    }

    fn peer_closed(&mut self, now: Now, out: &mut Out) {
        self.peer_closed = true;
        match self.state {
            State::Head if self.seen_bytes > 0 => {
                self.keep_alive = false;
                self.head_only = false;
                self.error(400, None, now, out);
            }
            State::Head => self.close(now, out),
            _ if !self.body.ended() => self.fail(400, now, out),
            _ => {}
        }
    }

    fn deadline(&mut self, now: Now, out: &mut Out) {
        match self.state {
            State::Closing => self.abort(out),
            _ if self.sending => self.abort(out),
            State::Head if self.seen_bytes > 0 => {
                self.keep_alive = false;
                self.head_only = false;
                self.error(408, None, now, out);
            }
            State::Head => self.close(now, out),
            _ => self.fail(408, now, out),
        }
    }

    // Time.

    /// Something was queued for sending.
    fn queued(&mut self, now: Now, out: &Out) {
        if !self.sending {
            self.sending = true;
            self.deadline_ms = now.mono_ms.saturating_add(out.timeouts.send_ms);
        }
    }

    fn sent(&mut self, drained: bool, now: Now, out: &Out) {
        if drained {
            self.sending = false;
            self.unsent = 0;
            self.rearm(now, out);
        } else if self.sending {
            self.deadline_ms = now.mono_ms.saturating_add(out.timeouts.send_ms);
        }
    }

    /// The deadline of the phase. While something is being sent, sending sets it.
    fn rearm(&mut self, now: Now, out: &Out) {
        if self.sending {
            return;
        }
        let wait_ms = match self.state {
            State::Head if self.seen_bytes > 0 => out.timeouts.head_ms,
            State::Head => out.timeouts.idle_ms,
            State::Waiting | State::Streaming if !self.body.ended() => out.timeouts.body_ms,
            State::Closing => out.timeouts.send_ms,
            // Control has timeouts of its own for the origin.
            _ => NEVER,
        };
        self.deadline_ms = now.mono_ms.saturating_add(wait_ms);
    }

    fn persistence(&self) -> Persistence {
        Persistence { keep_alive: self.keep_alive && !self.peer_closed, minor_version: self.minor_version }
    }
}
