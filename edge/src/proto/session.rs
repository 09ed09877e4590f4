//! One HTTP/1.1 connection as a machine: typed inputs in, actions out.
//!
//! The worker owns buffers, sockets and the shard; the session owns what HTTP means. For every input
//! the worker clears `out`, calls [`Session::on`], and carries the actions out in order.
//!
//! | state   | input        | then                                                            |
//! |---------|--------------|-----------------------------------------------------------------|
//! | Head    | Received, Head | incomplete: stay; refused: answer, Close; else an exchange begins |
//! | Busy    | Received     | request body, or through a tunnel: Forward; before a 101: 400; else nothing is consumed |
//! | Busy    | of the exchange | what it says next (see `exchange`), framed; at its end back to Head (or Close); Broken: Abort |
//! | Busy    | OriginHead 101 | the connection is a tunnel until the exchange ends              |
//! | any     | Deadline     | 408 in a half-read head or body, else Close/Abort               |
//! | any     | PeerClosed   | Close when nothing is owed; a half-closed peer still gets its answer |
//!
//! What the worker has to keep to, beside the table:
//! - While [`Session::wants_input`] holds, unread bytes are offered again after every input that took some.
//!   `PeerClosed` is given once no unread bytes are left, or the session takes none.
//! - `Close` and `Abort` without `Done` may come while a fetch is running; control is then told that the
//!   client is gone.
//! - A client that expects a 100 gets the origin's, or control's; until then it is not late with its body.
//! - A worker that holds a request's body back because control has no room calls [`Session::hold`].
#![forbid(unsafe_code)]

use super::Now;
use super::answer::Answer;
use super::body::{Decoder, Step};
use super::delivery::{self, Framing, Persistence};
use super::exchange::{Exchange, Next};
use super::framing;
use super::request::BodyLength;
use crate::limits;

pub use super::io::{Action, Again, Chunks, FetchKind, Found, Input, Interim, Late, Out, Timeouts};

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
    /// An exchange is under way.
    Busy,
    /// Nothing more is taken or sent.
    Closing,
}

/// The machine. Small, for there is one per connection, idle ones included (≤ 64 bytes).
#[derive(Debug)]
pub struct Session {
    deadline_ms: u64,
    /// Reads the body of the current request.
    body: Decoder,
    exchange: Exchange,
    /// Bytes of an incomplete head that were looked at.
    seen_bytes: u32,
    state: State,
    /// Delimits the body of the current response, if it is streamed.
    framing: Framing,
    /// Responses queued since all was sent.
    unsent: u8,
    minor_version: u8,
    keep_alive: bool,
    sending: bool,
    peer_closed: bool,
    /// The client waits for a 100 before it sends its body.
    expects: bool,
    /// The worker holds its body back.
    held: bool,
}

const _: () = assert!(size_of::<Session>() <= 64);

impl Session {
    /// A connection that was just accepted.
    pub fn new(now: Now, timeouts: &Timeouts) -> Self {
        Session {
            deadline_ms: now.mono_ms.saturating_add(timeouts.head_ms),
            body: Decoder::new(BodyLength::None),
            exchange: Exchange::none(),
            seen_bytes: 0,
            state: State::Head,
            framing: Framing::Counted,
            unsent: 0,
            minor_version: 1,
            keep_alive: true,
            sending: false,
            peer_closed: false,
            expects: false,
            held: false,
        }
    }

    /// Takes one input and leaves actions in `out`, which the caller has cleared.
    pub fn on(&mut self, input: Input<'_>, now: Now, out: &mut Out) {
        match (input, self.state) {
            (Input::Sent { drained, bytes }, _) => self.sent(drained, bytes, now, out),
            (Input::Deadline, _) => self.deadline(now, out),
            (_, State::Closing) => {}
            (Input::PeerClosed, _) => self.peer_closed(now, out),
            (Input::Received(bytes), State::Head) => self.head(bytes, now, out),
            (Input::Received(bytes), State::Busy) => self.request_body(bytes, now, out),
            (Input::Head(bytes), State::Head) => {
                debug_assert!(self.awaits_head());
                self.whole_head(bytes, now, out);
            }
            (Input::Head(_), State::Busy) => {}
            (_, State::Head) => {}
            (input, State::Busy) => {
                let next = self.exchange.on(input, &out.request, now);
                self.carry_on(next, now, out);
            }
        }
    }

    /// Whether [`Input::Received`] would be taken now. If not, the worker keeps the bytes, and stops
    /// reading from the peer once its bound is reached.
    pub fn wants_input(&self) -> bool {
        match self.state {
            State::Head => self.unsent < PIPELINED_MAX,
            // What comes before a 101 has to be seen, and refused.
            State::Busy => self.takes_body() || self.exchange.awaits_upgrade(),
            State::Closing => false,
        }
    }

    /// Whether a response is being streamed: what the peer sends meanwhile leads to nothing that is sent.
    pub fn is_answering(&self) -> bool {
        self.state == State::Busy && self.exchange.is_streaming()
    }

    /// Whether the next bytes from the peer begin a request, of which nothing was seen yet.
    pub fn awaits_head(&self) -> bool {
        self.state == State::Head && self.seen_bytes == 0 && self.wants_input()
    }

    /// Monotonic milliseconds at which [`Input::Deadline`] is due; `u64::MAX`: never.
    pub fn deadline_ms(&self) -> u64 {
        self.deadline_ms
    }

    /// What the deadline is for.
    pub fn late(&self) -> Late {
        match self.state {
            _ if self.sending => Late::Reader,
            State::Closing => Late::Reader,
            State::Head if self.seen_bytes > 0 => Late::Head,
            State::Head => Late::Request,
            State::Busy if self.is_tunnel() => Late::Tunnel,
            State::Busy => Late::Body,
        }
    }

    /// The worker holds received body bytes back for want of room at control: the client is not late.
    /// The time starts anew with the next bytes that are offered, or with [`Session::resume`].
    pub fn hold(&mut self) {
        if self.state == State::Busy && !self.is_tunnel() {
            self.held = true;
            if !self.sending {
                self.deadline_ms = NEVER;
            }
        }
    }

    /// Control has room again: what the client has not sent yet is its own delay.
    pub fn resume(&mut self, now: Now, out: &Out) {
        if std::mem::take(&mut self.held) {
            self.rearm(now, out);
        }
    }

    // Requests.

    fn head(&mut self, bytes: &[u8], now: Now, out: &mut Out) {
        if bytes.is_empty() || !self.wants_input() || self.is_unchanged(bytes) {
            return;
        }
        match out.request.parse(bytes) {
            Ok(Some(taken)) => {
                out.queries.apply(&mut out.request);
                self.whole_head(taken, now, out);
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
                self.refuse_head(refusal.status, now, out);
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

    /// `out.request` was parsed from so many bytes.
    fn whole_head(&mut self, bytes: usize, now: Now, out: &mut Out) {
        out.consumed = bytes;
        self.seen_bytes = 0;
        let request = &out.request;
        self.body = Decoder::new(request.body);
        self.held = false;
        self.minor_version = request.minor_version;
        self.keep_alive = request.keep_alive;
        self.state = State::Busy;
        let next = self.exchange.begin(request, &out.transport, now);
        self.carry_on(next, now, out);
    }

    /// Whether bytes from the peer belong to the body of the current request.
    fn takes_body(&self) -> bool {
        self.exchange.is_fetching() && !self.body.ended()
    }

    /// Whether the connection has gone over to another protocol.
    fn is_tunnel(&self) -> bool {
        self.framing == Framing::Tunnel && self.exchange.is_streaming()
    }

    fn request_body(&mut self, bytes: &[u8], now: Now, out: &mut Out) {
        if self.exchange.awaits_upgrade() && !bytes.is_empty() {
            // Another request to the one, the first bytes of the new protocol to the other: nobody may choose. Clients
            // of WebSocket wait (RFC 6455 section 4.1).
            out.consumed = bytes.len();
            return self.fail(400, now, out);
        }
        if !self.takes_body() || bytes.is_empty() {
            return;
        }
        (self.expects, self.held) = (false, false);
        let mut at = 0;
        for _ in 0..FORWARDS_MAX {
            match self.body.step(bytes, at) {
                Ok(Step::Data(range)) => {
                    at = range.end;
                    out.actions.push(Action::Forward(range));
                }
                Ok(Step::Trailer(range)) => {
                    at = range.end;
                    out.actions.push(Action::ForwardTrailer(range));
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
        if !self.takes_body() || self.is_tunnel() {
            self.rearm(now, out);
        } else {
            // Also of a response that is being sent: some read nothing before they have sent all.
            let due_ms = out.timeouts.body_due_ms(self.deadline_ms, at, now.mono_ms);
            self.deadline_ms = if self.sending { self.deadline_ms.max(due_ms) } else { due_ms };
        }
    }

    // Responses.

    #[inline]
    fn carry_on(&mut self, next: Next<'_>, now: Now, out: &mut Out) {
        match next {
            Next::Nothing => {}
            Next::Lookup => out.actions.push(Action::Lookup),
            Next::Fetch(kind) => self.fetch(kind, now, out),
            Next::Answer(answer) => self.answer(&answer, now, out),
            // Who has begun to send needs no leave any more.
            Next::Interim(Interim { status: 100, .. }) if !self.expects => {}
            Next::Interim(interim) => {
                self.expects &= interim.status != 100;
                if self.minor_version > 0 {
                    delivery::push_interim(interim, out);
                    self.queued(now, out);
                }
            }
            Next::Piece(bytes) => {
                delivery::push_piece(self.framing, bytes, out);
                self.queued(now, out);
            }
            Next::End | Next::Trailers(_) => {
                let trailers = if let Next::Trailers(lines) = next { lines } else { &[] };
                if delivery::push_end(self.framing, trailers, out) {
                    self.queued(now, out);
                }
                self.finish(now, out);
            }
            Next::Broken => self.abort(out),
        }
    }

    fn fetch(&mut self, kind: FetchKind, now: Now, out: &mut Out) {
        self.expects = out.request.expect_continue && !self.body.ended();
        out.actions.push(Action::Fetch(kind));
        self.rearm(now, out);
    }

    #[inline]
    fn answer(&mut self, answer: &Answer<'_>, now: Now, out: &mut Out) {
        self.framing = Framing::of(answer.length, self.minor_version);
        self.keep_alive &= !matches!(self.framing, Framing::Close | Framing::Tunnel) && !out.draining;
        let is_whole = !self.exchange.is_streaming();
        // Of a body that is not wanted any more, the end is not waited for.
        self.keep_alive &= !is_whole || self.body.ended();
        delivery::push_answer(answer, self.framing, self.persistence(), out);
        if answer.refresh {
            out.actions.push(Action::Refresh);
        }
        self.queued(now, out);
        if self.framing == Framing::Tunnel {
            self.body = Decoder::endless();
            if self.peer_closed {
                self.end_tunnelled(now, out);
            }
        }
        if is_whole {
            self.finish(now, out);
        }
    }

    /// The client sends nothing more through its tunnel.
    fn end_tunnelled(&mut self, now: Now, out: &mut Out) {
        self.body = Decoder::new(BodyLength::None);
        out.actions.push(Action::ForwardEnd);
        self.rearm(now, out);
    }

    // Ends.

    /// The request cannot be carried on. There is no `Done`: control still works on it, and is told by the
    /// worker that the client is gone.
    fn fail(&mut self, status: u16, now: Now, out: &mut Out) {
        if self.exchange.is_streaming() {
            return self.abort(out);
        }
        self.keep_alive = false;
        self.push_error(status, self.exchange.head_only(), now, out);
        self.close(now, out);
    }

    /// There is no request that could be answered: its head was refused, or did not come to its end.
    fn refuse_head(&mut self, status: u16, now: Now, out: &mut Out) {
        self.keep_alive = false;
        self.push_error(status, false, now, out);
        self.finish(now, out);
    }

    fn push_error(&mut self, status: u16, head_only: bool, now: Now, out: &mut Out) {
        let answer = Answer::error(status, b"", None, head_only, now);
        delivery::push_answer(&answer, Framing::Counted, self.persistence(), out);
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
            State::Head if self.seen_bytes > 0 => self.refuse_head(400, now, out),
            State::Head => self.close(now, out),
            _ if self.is_tunnel() => self.end_tunnelled(now, out),
            _ if !self.body.ended() => self.fail(400, now, out),
            _ => {}
        }
    }

    fn deadline(&mut self, now: Now, out: &mut Out) {
        match self.late() {
            Late::Reader => self.abort(out),
            Late::Head => self.refuse_head(408, now, out),
            Late::Request | Late::Tunnel => self.close(now, out),
            Late::Body => self.fail(408, now, out),
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

    fn sent(&mut self, drained: bool, bytes: usize, now: Now, out: &Out) {
        if drained {
            self.sending = false;
            self.unsent = 0;
            self.rearm(now, out);
        } else if self.sending {
            self.deadline_ms = out.timeouts.send_due_ms(self.deadline_ms, bytes, now.mono_ms);
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
            State::Busy if self.is_tunnel() => out.timeouts.tunnel_ms,
            // It is not the client who is awaited.
            State::Busy if self.expects || self.held => NEVER,
            State::Busy if self.takes_body() => out.timeouts.body_ms,
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
