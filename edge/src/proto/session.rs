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
use super::framing;
use super::freshness::{self, Reuse};
use super::request::{BodyLength, Marks, Method, RequestHead};
use super::response::{self, Delimited, Forwarded, OriginHead, Persistence};
use super::stored::Meta;
use crate::limits;
use std::ops::Range;

/// What happened to the connection.
#[derive(Debug)]
pub enum Input<'a> {
    /// Bytes from the peer, not consumed before. `out.consumed` says how many were taken now; what is
    /// left is offered again, with what came since, when the session wants input (see [`Session::wants_input`]).
    Received(&'a [u8]),
    /// The peer will send no more.
    PeerClosed,
    /// The answer to [`Action::Lookup`], in the same call chain: `out.request` is still the request.
    Found(Option<Found<'a>>),
    /// The head of the response that was fetched.
    OriginHead(&'a OriginHead),
    /// So many body bytes of the fetched response are next.
    Piece(usize),
    /// The fetched response ended whole.
    End,
    /// The fetched response broke off.
    Broken,
    /// The object is in the shard now: look it up again. The worker has put the request back into `out.request`.
    Again {
        /// Whether the origin answered the validation with 304.
        revalidated: bool,
    },
    /// Control (or a full queue) refused the fetch with this status.
    Refused(u16),
    /// Queued bytes were sent; `drained`: all of them.
    Sent {
        /// Nothing is left to send.
        drained: bool,
    },
    /// [`Session::deadline_ms`] has passed.
    Deadline,
}

/// A record that was found under the key and whose Vary matches.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// Meta bytes, see [`super::stored`].
    pub meta: &'a [u8],
    /// Stored head lines: `content-length: N\r\n` first, then the others, then the empty line.
    pub head: &'a [u8],
}

/// What the worker must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Look `out.request.key` up (accepting records by `stored::matches`) and answer at once with [`Input::Found`].
    Lookup,
    /// Queue these bytes of `out.bytes` for sending.
    Write(Range<usize>),
    /// Queue these bytes of the found record's stored head.
    StoredHead(Range<usize>),
    /// Queue these bytes of the found object's body.
    StoredBody(Range<u64>),
    /// Hand `out.request` to control.
    Fetch(FetchKind),
    /// Queue the piece announced by [`Input::Piece`].
    Piece,
    /// Hand these bytes of the input (a part of the request's body) to control.
    Forward(Range<usize>),
    /// The request's body is complete: tell control.
    ForwardEnd,
    /// The response is fully queued; count it, and release what it held once it is sent.
    Done,
    /// Close once all that is queued has been sent.
    Close,
    /// Close now; what is queued is dropped, so that the peer sees a broken response.
    Abort,
}

/// What control is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchKind {
    /// A plain GET that others may share and that may be stored.
    Fill,
    /// As [`FetchKind::Fill`], but a stale record with a validator is there: ask conditionally.
    Revalidate,
    /// For this client alone: other methods, Range, conditionals, Authorization, no-store.
    Pass,
}

/// Timeouts of a connection in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For a complete head, from its first byte.
    pub head_ms: u64,
    /// Between requests.
    pub idle_ms: u64,
    /// Without progress of the request's body.
    pub body_ms: u64,
    /// Without progress of sending.
    pub send_ms: u64,
}

/// Where a session leaves its results; one per worker, reused for every input of every connection.
#[derive(Debug)]
pub struct Out {
    /// Actions in order.
    pub actions: Vec<Action>,
    /// Bytes that [`Action::Write`] ranges refer to.
    pub bytes: Vec<u8>,
    /// How much of [`Input::Received`] was taken.
    pub consumed: usize,
    /// The request the actions are about.
    pub request: RequestHead,
    /// The timeouts in force.
    pub timeouts: Timeouts,
}

impl Out {
    /// Empties what the last input left (the request stays).
    pub fn clear(&mut self) {
        self.actions.clear();
        self.bytes.clear();
        self.consumed = 0;
    }
}

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

/// How the body that is streamed is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    NoBody,
    Counted,
    Chunked,
    Close,
}

/// The machine. Small, for there is one per connection, idle ones included (≤ 64 bytes).
#[derive(Debug)]
pub struct Session {
    deadline_ms: u64,
    /// Reads the body of the current request.
    body: Decoder,
    /// Bytes of the response's body still to come, if it is counted.
    owed_bytes: u64,
    /// When the current request was read, Unix seconds.
    asked_s: u64,
    /// Bytes of an incomplete head that were looked at.
    seen_bytes: u32,
    state: State,
    framing: Framing,
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
            owed_bytes: 0,
            asked_s: 0,
            seen_bytes: 0,
            state: State::Head,
            framing: Framing::NoBody,
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
        let Some((found, meta)) = found.and_then(|found| Some((found, Meta::read(found.meta)?))) else {
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
        const ALONE: Marks = Marks::RANGE.and(Marks::IF_RANGE).and(Marks::AUTHORIZATION);
        const CONDITIONS: Marks = Marks::IF_NONE_MATCH.and(Marks::IF_MODIFIED_SINCE);
        let request = &out.request;
        let control = freshness::request_control(request);
        if control.only_if_cached {
            return self.error(504, None, now, out);
        }
        let kind = if self.head_only || control.no_store || request.marks.has(ALONE) {
            FetchKind::Pass
        } else if validator {
            // The client's own conditions are judged against the record once it is validated.
            FetchKind::Revalidate
        } else if request.marks.has(CONDITIONS) {
            FetchKind::Pass
        } else {
            FetchKind::Fill
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
            let meta = Meta::read(found.meta)?;
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
        let delimited = match (response::may_have_body(head.status), head.body_bytes) {
            (false, _) => Delimited::None,
            (true, Some(bytes)) => Delimited::Bytes(bytes),
            (true, None) if self.head_only => Delimited::None,
            (true, None) if self.minor_version == 0 => Delimited::Close,
            (true, None) => Delimited::Chunked,
        };
        self.framing = match delimited {
            _ if self.head_only => Framing::NoBody,
            Delimited::None => Framing::NoBody,
            Delimited::Bytes(bytes) => {
                self.owed_bytes = bytes;
                Framing::Counted
            }
            Delimited::Chunked => Framing::Chunked,
            Delimited::Close => {
                self.keep_alive = false;
                Framing::Close
            }
        };
        let start = out.bytes.len();
        let persistence = self.persistence();
        response::push_origin(&mut out.bytes, head, self.forwarded, self.kind, delimited, persistence);
        out.actions.push(Action::Write(start..out.bytes.len()));
        self.state = State::Streaming;
        self.queued(now, out);
    }

    fn piece(&mut self, bytes: usize, now: Now, out: &mut Out) {
        match self.framing {
            _ if bytes == 0 => return,
            Framing::NoBody => return,
            Framing::Counted => match self.owed_bytes.checked_sub(bytes as u64) {
                Some(left) => {
                    self.owed_bytes = left;
                    out.actions.push(Action::Piece);
                }
                // Longer than announced: whatever followed would be read as the next response.
                None => return self.abort(out),
            },
            Framing::Chunked => {
                let start = out.bytes.len();
                response::push_chunk_size(&mut out.bytes, bytes);
                let end = out.bytes.len();
                out.bytes.extend_from_slice(b"\r\n");
                out.actions.push(Action::Write(start..end));
                out.actions.push(Action::Piece);
                out.actions.push(Action::Write(end..end + 2));
            }
            Framing::Close => out.actions.push(Action::Piece),
        }
        self.queued(now, out);
    }

    fn end(&mut self, now: Now, out: &mut Out) {
        match self.framing {
            Framing::Counted if self.owed_bytes > 0 => return self.abort(out),
            Framing::Chunked => {
                let start = out.bytes.len();
                out.bytes.extend_from_slice(b"0\r\n\r\n");
                out.actions.push(Action::Write(start..out.bytes.len()));
                self.queued(now, out);
            }
            Framing::NoBody | Framing::Counted | Framing::Close => {}
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
