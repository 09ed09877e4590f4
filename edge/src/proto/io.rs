//! The words between a worker and a session: what it is told, what it asks for. No behaviour.
#![forbid(unsafe_code)]

use super::query::Rules;
use super::request::RequestHead;
use super::response::OriginHead;
use super::transport::Policies;
use crate::limits;
use std::ops::Range;
use std::sync::Arc;

/// What happened to the connection.
#[derive(Debug)]
pub enum Input<'a> {
    /// Bytes from the peer, not consumed before. `out.consumed` says how many were taken now; what is
    /// left is offered again, with what came since, when the session wants input (see `Session::wants_input`).
    Received(&'a [u8]),
    /// As [`Input::Received`] of bytes that begin with a whole head of this length, when the session awaits one (see
    /// `Session::awaits_head`): `out.request` is what [`RequestHead::parse`] made of them.
    Head(usize),
    /// The peer will send no more.
    PeerClosed,
    /// The answer to [`Action::Lookup`], in the same call chain: `out.request` is still the request.
    Found(Option<Found<'a>>),
    /// The head of the response that was fetched.
    OriginHead {
        /// It.
        head: &'a OriginHead,
        /// It was fetched for another request, which this one has joined.
        collapsed: bool,
    },
    /// An interim response of the origin (100, 102 or 103); the final one is still to come.
    Interim(&'a Interim),
    /// So many body bytes of the fetched response are next.
    Piece(usize),
    /// The fetched response ended whole.
    End,
    /// The same, and these field lines follow it, `name: value\r\n` each.
    Trailers(&'a [u8]),
    /// The fetched response broke off.
    Broken,
    /// The object is in the shard now: look it up again. The worker has put the request back into `out.request`.
    Again(Again),
    /// Control (or a full queue) refused the fetch with this status; the answer tells these field lines.
    Refused(u16, &'a [u8]),
    /// Queued bytes were sent; `drained`: all of them.
    Sent {
        /// Nothing is left to send.
        drained: bool,
        /// How many.
        bytes: usize,
    },
    /// `Session::deadline_ms` has passed.
    Deadline,
}

/// Says of a partial object whether these bytes of its body are there.
#[derive(Clone, Copy)]
pub struct Chunks<'a>(pub &'a dyn Fn(Range<u64>) -> bool);

impl std::fmt::Debug for Chunks<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Chunks")
    }
}

/// Why a request is looked up once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// The object is in the shard now.
    Stored,
    /// The origin answered a validation with 304.
    Revalidated {
        /// The validation was another request's, which this one has joined.
        collapsed: bool,
    },
    /// The origin failed, and what is stored may answer although it is not fresh.
    /// [`RequestHead::failed_status`] is what it answered.
    OriginFailed,
}

/// An interim response (RFC 9110 section 15.2), on its way to the one client whose request was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interim {
    /// 100, 102 or 103.
    pub status: u16,
    /// End-to-end field lines, `name: value\r\n` each, without the closing empty line.
    pub lines: Vec<u8>,
}

impl Interim {
    /// Leave to send the body that was announced (100).
    pub fn go_on() -> Self {
        Interim { status: 100, lines: Vec::new() }
    }
}

/// A record that was found under the key and whose Vary matches.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// Meta bytes, see [`super::stored`].
    pub meta: &'a [u8],
    /// Stored head lines: `content-length: N\r\n` first, then the others, then the empty line.
    pub head: &'a [u8],
    /// Bytes of the body may be missing.
    pub chunks: Option<Chunks<'a>>,
    /// Whether it was purged softly: as stale as if its time were over.
    pub purged: bool,
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
    /// Queue these bytes of `out.bytes` and then these, if any, of the found object's body, behind those of the
    /// `StoredPart` before. There may be many: what has no room yet is queued once there is.
    StoredPart {
        /// Of `out.bytes`.
        text: Range<usize>,
        /// Of the body; may be empty.
        body: Range<u64>,
    },
    /// Hand `out.request` to control.
    Fetch(FetchKind),
    /// `out.request` was answered with a stale response: have control ask the origin for a fresh one.
    Refresh,
    /// Queue the piece announced by [`Input::Piece`].
    Piece,
    /// Hand these bytes of the input (a part of the request's body) to control.
    Forward(Range<usize>),
    /// Hand these bytes of the input, which are of the request's trailer section, to control.
    ForwardTrailer(Range<usize>),
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
    /// A GET whose response may be stored, and shared if it may be.
    Fill,
    /// As [`FetchKind::Fill`], but a stale record with a validator is there: ask conditionally.
    Revalidate,
    /// A part of the object, or what is missing of a partial one: others may share it, and it may be stored.
    Part,
    /// For this client alone: other methods, other Ranges, no-store.
    Pass,
    /// As [`FetchKind::Pass`], and with a response of 101 the connection goes over to WebSocket: what the client sends
    /// from then on is the request's body.
    Upgrade,
}

/// What a client is late with when its deadline passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// The rest of a head.
    Head,
    /// Another request.
    Request,
    /// The rest of a request's body.
    Body,
    /// Taking what is sent.
    Reader,
    /// A tunnel through which nothing goes, either way.
    Tunnel,
}

/// What a client may take of time: milliseconds of a connection, and bytes a second that it must be worth. While more
/// comes, or is taken, at the least rate or faster, it has a whole timeout for what follows; a client that is slower
/// uses that up, and is late when it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a complete head, from its first byte.
    pub head_ms: u64,
    /// Between requests.
    pub idle_ms: u64,
    /// Without progress of the request's body.
    pub body_ms: u64,
    /// Without progress of sending.
    pub send_ms: u64,
    /// Without a byte through a tunnel, either way.
    pub tunnel_ms: u64,
    /// Bytes of a request's body in a second, at least.
    pub body_rate_min: u32,
    /// Bytes of responses taken in a second, at least.
    pub send_rate_min: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            head_ms: limits::HEAD_TIMEOUT_MS,
            idle_ms: limits::IDLE_TIMEOUT_MS,
            body_ms: limits::BODY_TIMEOUT_MS,
            send_ms: limits::SEND_TIMEOUT_MS,
            tunnel_ms: limits::TUNNEL_TIMEOUT_MS,
            body_rate_min: limits::BODY_RATE_MIN,
            send_rate_min: limits::SEND_RATE_MIN,
        }
    }
}

impl Timeouts {
    /// When a client is late with its request's body that was to be late at `due_ms` (`u64::MAX`: not awaited), now that
    /// so many more bytes came.
    pub(super) fn body_due_ms(&self, due_ms: u64, bytes: usize, now_ms: u64) -> u64 {
        postpone(due_ms, bytes, self.body_rate_min, now_ms.saturating_add(self.body_ms))
    }

    /// The same of what is sent to it.
    pub(super) fn send_due_ms(&self, due_ms: u64, bytes: usize, now_ms: u64) -> u64 {
        postpone(due_ms, bytes, self.send_rate_min, now_ms.saturating_add(self.send_ms))
    }
}

/// By the time that the bytes may take, and never beyond `latest_ms`.
fn postpone(due_ms: u64, bytes: usize, rate: u32, latest_ms: u64) -> u64 {
    let worth_ms = (bytes as u64).saturating_mul(1000) / u64::from(rate.max(1));
    due_ms.saturating_add(worth_ms).min(latest_ms)
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
    /// Which arguments of a query count for keys.
    pub queries: Arc<Rules>,
    /// What routes rule for the way clients come.
    pub transport: Arc<Policies>,
    /// The node stops: responses say that their connection carries no further one.
    pub draining: bool,
    /// Heads of HTTP/2 responses.
    pub heads: super::http2::Heads,
}

impl Out {
    /// Empty, with room for what one answer takes.
    pub fn new(timeouts: Timeouts, queries: Arc<Rules>, transport: Arc<Policies>) -> Self {
        Out {
            actions: Vec::with_capacity(16),
            bytes: Vec::with_capacity(4096),
            consumed: 0,
            request: RequestHead::default(),
            timeouts,
            queries,
            transport,
            draining: false,
            heads: Default::default(),
        }
    }

    /// Empties what the last input left (the request stays).
    pub fn clear(&mut self) {
        self.actions.clear();
        self.bytes.clear();
        self.consumed = 0;
    }
}
