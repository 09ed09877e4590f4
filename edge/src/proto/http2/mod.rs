//! One HTTP/2 connection (RFC 9113) as a machine: many exchanges at once, each the same as on HTTP/1.1.
//!
//! Frames, HPACK, stream states and flow control are the `h2` crate's, driven over a pipe in memory: it needs no
//! runtime, and nothing here waits for a waker, because whoever has news polls. Ours are the order in which responses
//! are sent ([`priority`]), what a request may look like ([`message`]), the floods ([`meter`]) and the deadlines.
//!
//! The caller, for every input: says what happened ([`Http2::receive`], [`Http2::on`] and the like); takes new requests
//! with [`Http2::poll`] until there are none, bodies of requests with [`Http2::upload`], and streams that ended
//! with [`Http2::gone`]; brings the bodies that [`Http2::next_body`] asks for; and sends what [`Http2::take`] yields.
//! Of the actions it finds `Action::Lookup`, `Action::Fetch`, `Action::StoredBody`, `Action::StoredPart`,
//! `Action::Piece` (bring it
//! with [`Http2::piece`]), `Action::Done`, and `Action::Abort`: this stream broke off.
#![forbid(unsafe_code)]

mod deadlines;
mod exchanges;
#[cfg(test)]
mod frame;
mod heads;
mod message;
mod meter;
mod pipe;
mod priority;
mod stream;

#[cfg(test)]
pub(crate) use frame::frame;
pub use heads::Heads;
pub use meter::{Flood, PREFACE};
pub use pipe::{Piece, Record, Segment};
pub use stream::Upload;

use super::Now;
use super::io::{Input, Out, Timeouts};
use crate::limits;
use ::h2::server::{Builder, Connection, Handshake, SendResponse};
use ::h2::{Reason, RecvStream};
use http::Request;
use meter::{Cut, Meter};
use pipe::{Body, Pipe};
use priority::{Priority, Turns};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use stream::{Stream, Turn};

/// What a client is told that should speak HTTP/1.1 instead: our preface, an empty SETTINGS frame, and GOAWAY with
/// HTTP_1_1_REQUIRED, before any stream (RFC 9113 sections 3.4, 6.8 and 7).
pub const HTTP1_REQUIRED: &[u8] = b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0d";

/// Bytes handed to the `h2` crate before it is made to write them: what it holds is in the order of an earlier choice.
const UNWRITTEN_BYTES_MAX: usize = 128 * 1024;
/// Priorities kept for streams that have not begun (RFC 9218 section 7.1).
const EARLY_PRIORITIES_MAX: usize = 32;
/// No deadline.
const NEVER: u64 = u64::MAX;

/// How much of everything one connection may have at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// As is usual.
    Wide,
    /// Less, on a worker that has many.
    Narrow,
}

impl Width {
    /// Streams at once.
    const fn streams(self) -> u32 {
        match self {
            Width::Wide => limits::HTTP2_STREAMS_MAX,
            Width::Narrow => limits::HTTP2_NARROW_STREAMS_MAX,
        }
    }

    /// Bytes of requests' bodies ahead of what is taken.
    const fn window_bytes(self) -> u32 {
        match self {
            Width::Wide => limits::HTTP2_CONNECTION_WINDOW_BYTES,
            Width::Narrow => limits::HTTP2_NARROW_WINDOW_BYTES,
        }
    }
}

enum Link<R: Record> {
    /// The preface has not come.
    Shaking(Box<Handshake<Pipe<R>, Body<R>>>),
    Open(Box<Connection<Pipe<R>, Body<R>>>),
    /// Nothing more is taken; what is queued is sent.
    Over,
}

/// The machine. Held by connections that speak HTTP/2 alone, for it is large: buffers of the `h2` crate included,
/// `limits::HTTP2_CONNECTION_BYTES` at most.
pub struct Http2<R: Record> {
    link: Link<R>,
    pipe: Pipe<R>,
    meter: Meter,
    /// By number. Most end in that order, and the first leaves without the others moving up.
    streams: VecDeque<Stream<R>>,
    gone: Vec<u32>,
    /// Bodies of requests that were answered before all of them had come, and how much is still read of each. A reset at
    /// once is allowed (RFC 9113 section 8.1), but clients such as curl 7.88 then throw the answer away.
    unwanted: VecDeque<(RecvStream, usize)>,
    /// Whose request was answered last: the hash of its key.
    answered: u64,
    /// Whether a stream was found without room in the windows since the peer last spoke.
    any_blocked: bool,
    turns: Turns,
    early: Vec<(u32, Priority)>,
    unwritten_bytes: usize,
    timeouts: Timeouts,
    now_ms: u64,
    /// When the connection began, the last stream ended, or the last of what was held up was taken.
    idle_since_ms: u64,
    /// When the peer is late with taking what it holds up; [`NEVER`]: it holds nothing up.
    send_due_ms: u64,
    /// Nothing more is read.
    cut: Option<Cut>,
    /// The bound that was passed, until that is told.
    flood: Option<Flood>,
    draining: bool,
}

impl<R: Record> Http2<R> {
    /// A connection whose next bytes are the preface.
    pub fn new(now: Now, timeouts: &Timeouts, width: Width) -> Self {
        let pipe = Pipe::default();
        let mut builder = Builder::new();
        builder
            .initial_window_size(limits::HTTP2_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(width.window_bytes())
            .max_concurrent_streams(width.streams())
            .max_header_list_size(limits::REQUEST_HEAD_BYTES_MAX as u32)
            .max_send_buffer_size(UNWRITTEN_BYTES_MAX)
            .max_concurrent_reset_streams(width.streams() as usize)
            .max_pending_accept_reset_streams(width.streams() as usize)
            .max_local_error_reset_streams(Some(limits::HTTP2_RESETS_PER_SECOND_MAX as usize))
            .reset_stream_duration(Duration::from_secs(1));
        Http2 {
            link: Link::Shaking(Box::new(builder.handshake(pipe.clone()))),
            pipe,
            meter: Meter::new(),
            streams: VecDeque::new(),
            gone: Vec::new(),
            unwanted: VecDeque::new(),
            answered: 0,
            any_blocked: false,
            turns: Turns::default(),
            early: Vec::new(),
            unwritten_bytes: 0,
            timeouts: *timeouts,
            now_ms: now.mono_ms,
            idle_since_ms: now.mono_ms,
            send_due_ms: NEVER,
            cut: None,
            flood: None,
            draining: false,
        }
    }

    // The connection.

    /// Bytes from the peer, all of which are taken.
    pub fn receive(&mut self, bytes: &[u8], now: Now) {
        self.now_ms = now.mono_ms;
        if self.cut.is_some() || matches!(self.link, Link::Over) {
            return;
        }
        let read = self.meter.read(bytes, now.mono_ms);
        self.pipe.receive(bytes);
        for (id, priority) in self.meter.updates.drain(..) {
            match self.streams.binary_search_by_key(&id, |stream| stream.id) {
                Ok(at) => self.streams[at].priority = priority,
                Err(_) if self.early.len() < EARLY_PRIORITIES_MAX => self.early.push((id, priority)),
                Err(_) => {}
            }
        }
        if let Err(cut) = read {
            self.cut_off(cut);
        }
    }

    /// How many of these bytes, which come next, may be received now: the `h2` crate leaves bytes where they are while
    /// what answers them can not be written, and keeps requests until they are taken. `room`: bytes of field sections
    /// that may be read ahead of that.
    pub fn takes(&self, bytes: &[u8], room: usize) -> usize {
        if self.pipe.unread_bytes() >= limits::HTTP2_UNREAD_BYTES_MAX {
            return 0;
        }
        let ahead_bytes = self.ahead_bytes();
        self.meter.within(bytes, room.saturating_sub(ahead_bytes), ahead_bytes == 0)
    }

    /// Bytes of field sections that were read ahead of the requests taken.
    pub fn ahead_bytes(&self) -> usize {
        self.meter.seen.ahead_bytes
    }

    /// The peer sends no more.
    pub fn peer_closed(&mut self) {
        self.pipe.end();
    }

    /// So many segments can be sent now.
    pub fn set_room(&mut self, segments: usize) {
        self.pipe.set_room(segments);
    }

    /// So many bytes of what was written were sent.
    pub fn sent(&mut self, bytes: usize, now: Now) {
        self.now_ms = now.mono_ms;
        if self.send_due_ms != NEVER {
            self.send_due_ms = self.timeouts.send_due_ms(self.send_due_ms, bytes, now.mono_ms);
            // Its stream may have ended long ago.
            self.idle_since_ms = now.mono_ms;
        }
    }

    /// Writes, and yields, what is to be sent now.
    pub fn take(&mut self, sink: impl FnMut(Segment<'_, R>)) {
        self.write();
        let ends = self.is_over() || self.cut.is_some();
        let is_held_up =
            ends || self.pipe.is_full() || (self.any_blocked && self.streams.iter().any(Stream::is_held_up));
        self.pipe.take(sink);
        if !is_held_up {
            self.send_due_ms = NEVER;
        } else if self.send_due_ms == NEVER {
            self.send_due_ms = self.now_ms.saturating_add(self.timeouts.send_ms);
        }
    }

    /// Takes no more streams, and ends with the last one (RFC 9113 section 6.8).
    pub fn drain(&mut self) {
        if std::mem::replace(&mut self.draining, true) {
            return;
        }
        self.unwanted.clear();
        // The preface and the first requests may have come together.
        self.shake();
        match &mut self.link {
            Link::Open(connection) => connection.graceful_shutdown(),
            Link::Shaking(_) => self.over(),
            Link::Over => {}
        }
    }

    /// Whether what there is to send waits for room.
    pub fn is_full(&self) -> bool {
        self.pipe.is_full()
    }

    /// Whether nothing more will happen, once what is written is sent.
    pub fn is_over(&self) -> bool {
        matches!(self.link, Link::Over)
    }

    /// Frames received since [`Http2::take_frames`].
    pub fn frames(&self) -> u32 {
        self.meter.seen.frames
    }

    /// Frames received since this was last asked.
    pub fn take_frames(&mut self) -> u32 {
        std::mem::take(&mut self.meter.seen.frames)
    }

    /// The peer gave up more than it may now, though less than a connection may at other times: it is cut off.
    pub fn tell_off(&mut self) {
        if self.cut.is_none() && !self.is_over() {
            self.cut_off(Flood::GivenUp.into());
        }
    }

    /// The bound that the peer passed, for the counters; told once, and at once.
    pub fn take_flood(&mut self) -> Option<Flood> {
        self.flood.take()
    }

    // Requests.

    /// Reads on, and takes the next request: `out` has it, and what is to be done for it. `None`: there is no other now.
    pub fn poll(&mut self, now: Now, out: &mut Out) -> Option<u32> {
        self.now_ms = now.mono_ms;
        self.unwritten_bytes = 0;
        if std::mem::take(&mut self.any_blocked) {
            self.streams.iter_mut().for_each(|stream| stream.blocked = false);
        }
        loop {
            let accepted = self.accept();
            self.unwanted.retain_mut(|(upload, left)| is_awaited(upload, left));
            if accepted.is_none() && self.pipe.unread_bytes() == 0 {
                self.meter.seen.ahead_bytes = 0;
            }
            let (request, respond) = accepted?;
            if let Some(id) = self.request(request, respond, now, out) {
                return Some(id);
            }
        }
    }

    /// Takes an input about one exchange.
    pub fn on(&mut self, id: u32, input: Input<'_>, now: Now, out: &mut Out) {
        let Some(at) = self.find(id) else {
            return;
        };
        let stored = match &input {
            Input::Found(Some(found)) => found.head,
            _ => &[],
        };
        let stream = &mut self.streams[at];
        stream.stalled = false;
        let next = stream.exchange.on(input, &out.request, now);
        self.carry_on(at, next, stored, out);
    }

    /// The next bytes of a request's body. `hold`: control has no room for more, and the peer is not late.
    pub fn upload(&mut self, id: u32, hold: bool) -> Upload {
        let (now_ms, timeouts) = (self.now_ms, self.timeouts);
        match self.find(id) {
            Some(at) => {
                let mut context = Context::from_waker(Waker::noop());
                let upload = self.streams[at].upload(hold, now_ms, &timeouts, &mut context);
                if let (Upload::Data(bytes), true) = (&upload, self.send_due_ms != NEVER) {
                    // Some read nothing before they have sent all.
                    let due_ms = timeouts.body_due_ms(self.send_due_ms, bytes.len(), now_ms);
                    self.send_due_ms = self.send_due_ms.max(due_ms);
                }
                upload
            }
            None => Upload::Nothing,
        }
    }

    // Responses.

    /// Sends what can be sent, the most urgent first, until that needs bytes which are not here: of this stream. Bring
    /// them with [`Http2::piece`] or [`Http2::on`], or say that there are none with [`Http2::stall`].
    pub fn next_body(&mut self) -> Option<u32> {
        while !self.pipe.is_full() {
            if self.unwritten_bytes >= UNWRITTEN_BYTES_MAX {
                self.write();
                continue;
            }
            let ready = self.streams.iter().enumerate().filter(|(_, stream)| stream.is_ready());
            let at = self.turns.next(ready.map(|(at, stream)| (at, stream.id, stream.priority)))?;
            let id = self.streams[at].id;
            match self.streams[at].take_turn(&self.pipe) {
                Turn::Sent { bytes, ended } => {
                    self.turns.took(id);
                    self.meter.sent(bytes);
                    self.unwritten_bytes += bytes;
                    if ended {
                        self.finish(at);
                    } else {
                        self.streams[at].moved(self.timeouts.body_due_ms(NEVER, 0, self.now_ms));
                    }
                }
                Turn::Wants => return Some(id),
                Turn::Blocked => {
                    self.streams[at].blocked = true;
                    self.any_blocked = true;
                }
                Turn::Gone => self.remove(at),
            }
        }
        None
    }

    /// The next bytes of a response.
    pub fn piece(&mut self, id: u32, piece: Piece<R>) {
        if let Some(at) = self.find(id) {
            debug_assert!(self.streams[at].piece.is_empty(), "it was asked for");
            self.streams[at].piece = piece;
        }
    }

    /// Nothing of this stream's response is here now; it is not asked for until [`Http2::resume`].
    pub fn stall(&mut self, id: u32) {
        if let Some(at) = self.find(id) {
            self.streams[at].stalled = true;
        }
    }

    /// There may be more of this stream's response.
    pub fn resume(&mut self, id: u32) {
        if let Some(at) = self.find(id) {
            self.streams[at].stalled = false;
        }
    }

    /// The response can not be completed: it must not look whole.
    pub fn break_off(&mut self, id: u32) {
        if let Some(at) = self.find(id) {
            self.streams[at].reset(Reason::INTERNAL_ERROR);
            self.remove(at);
        }
    }

    // Within.

    fn find(&self, id: u32) -> Option<usize> {
        // Mostly it is the one whose request came last.
        match self.streams.back() {
            Some(last) if last.id == id => Some(self.streams.len() - 1),
            _ => self.streams.binary_search_by_key(&id, |stream| stream.id).ok(),
        }
    }

    /// The response of this stream is whole.
    fn finish(&mut self, at: usize) {
        if !self.draining
            && let Some(upload) = self.streams[at].take_upload()
        {
            self.unwanted.push_back((upload, limits::HTTP2_UNWANTED_BYTES_MAX));
            if self.unwanted.len() > limits::HTTP2_UNWANTED_MAX {
                self.unwanted.pop_front();
            }
        }
        self.remove(at);
    }

    fn remove(&mut self, at: usize) {
        if let Some(stream) = self.streams.remove(at) {
            self.gone.push(stream.id);
        }
        self.idle_since_ms = self.now_ms;
    }

    fn accept(&mut self) -> Option<(Request<RecvStream>, SendResponse<Body<R>>)> {
        self.shake();
        let Link::Open(connection) = &mut self.link else {
            return None;
        };
        match connection.poll_accept(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => None,
            Poll::Ready(Some(Ok(accepted))) => Some(accepted),
            Poll::Ready(Some(Err(error))) => {
                self.ended(Some(error));
                None
            }
            Poll::Ready(None) => {
                self.ended(None);
                None
            }
        }
    }

    /// Goes on with the preface, if that has still to come.
    fn shake(&mut self) {
        if let Link::Shaking(handshake) = &mut self.link {
            match Pin::new(handshake.as_mut()).poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Pending => {}
                Poll::Ready(Ok(connection)) => self.link = Link::Open(Box::new(connection)),
                Poll::Ready(Err(error)) => self.ended(Some(error)),
            }
        }
    }

    /// Lets the `h2` crate write what it holds.
    fn write(&mut self) {
        self.unwritten_bytes = 0;
        if let Link::Open(connection) = &mut self.link
            && let Poll::Ready(result) = connection.poll_closed(&mut Context::from_waker(Waker::noop()))
        {
            self.ended(result.err());
        }
    }

    fn ended(&mut self, error: Option<::h2::Error>) {
        let floods = error.is_some_and(|error| {
            tracing::debug!("HTTP/2: {error}");
            !error.is_remote() && error.reason() == Some(Reason::ENHANCE_YOUR_CALM)
        });
        if floods {
            // The crate has bounds of its own: for streams that were reset before they were looked at, or by us.
            self.is_first(Flood::Resets.into());
        }
        self.over();
    }

    fn over(&mut self) {
        self.link = Link::Over;
        self.unwanted.clear();
        self.gone.extend(self.streams.drain(..).map(|stream| stream.id));
        self.send_due_ms = self.now_ms.saturating_add(self.timeouts.send_ms);
    }

    /// Whether there was no reason before this to cut the connection off; else that one counts.
    fn is_first(&mut self, cut: Cut) -> bool {
        let is_first = self.cut.is_none();
        if let (true, Cut::Flood(flood)) = (is_first, cut) {
            self.flood = Some(flood);
        }
        self.cut.get_or_insert(cut);
        is_first
    }

    fn cut_off(&mut self, cut: Cut) {
        if !self.is_first(cut) {
            return;
        }
        // What comes with the preface is told off as what comes later.
        self.shake();
        match &mut self.link {
            Link::Open(connection) => connection.abrupt_shutdown(cut.reason()),
            Link::Shaking(_) => self.over(),
            Link::Over => {}
        }
    }
}

/// Throws away what came of the body of a request that is answered. Whether more is to come, and may.
fn is_awaited(upload: &mut RecvStream, left: &mut usize) -> bool {
    loop {
        match upload.poll_data(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => return *left > 0,
            Poll::Ready(Some(Ok(bytes))) => {
                let _ = upload.flow_control().release_capacity(bytes.len());
                *left = left.saturating_sub(bytes.len());
            }
            Poll::Ready(None | Some(Err(_))) => return false,
        }
    }
}
