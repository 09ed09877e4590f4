//! The only way between workers and control: two bounded queues per worker, each with an eventfd that
//! wakes the other side.
//!
//! A response travels as a *stream*. Control opens a stream on each worker that has clients waiting for
//! it ([`ToWorker::Open`]), attaches waiting requests to it ([`ToWorker::Join`]), sends pieces once per
//! worker, and ends it. A stream of a fill has no back-pressure from clients: pieces that were sealed into
//! the shard ([`ToWorker::Sealed`]) are dropped by the worker, and slow clients read them from there. A
//! stream that is passed through has one client, which returns credit for what it has sent.
#![forbid(unsafe_code)]

use crate::config::Network;
use crate::limits;
use crate::proto::query::Rules;
use crate::proto::request::RequestHead;
use crate::proto::response::OriginHead;
use crate::proto::session::{Again, FetchKind, Interim};
use crate::proto::tls::Policies;
use crate::proto::transport;
use crate::shard::ShardReader;
use bytes::Bytes;
use crossbeam::queue::ArrayQueue;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// One waiting request of one connection. Never reused: `serial` counts the fetches of the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// The worker's number.
    pub worker: u16,
    /// The connection's slot.
    pub slot: u32,
    /// The fetch's serial number on that worker.
    pub serial: u64,
}

/// A response on its way from control to workers; never reused within a run.
pub type StreamId = u64;

/// What a worker asks of control.
#[derive(Debug)]
pub enum ToControl {
    /// Fetch this request's object.
    Fetch {
        /// Who waits.
        ticket: Ticket,
        /// How.
        kind: FetchKind,
        /// The request. Its body, if it has one, follows as [`ToControl::Body`].
        request: Box<RequestHead>,
    },
    /// This request was answered from the store with what is no longer fresh: ask for a fresh one. Nobody waits.
    Refresh {
        /// The request.
        request: Box<RequestHead>,
    },
    /// The next bytes of the request's body. The worker keeps to `REQUEST_BODY_WINDOW_BYTES` without credit.
    Body {
        /// Whose.
        ticket: Ticket,
        /// The bytes; empty only with `last`.
        bytes: Bytes,
        /// The body is complete.
        last: bool,
    },
    /// Some of the trailer section that follows the request's body; it comes before the message that the body is complete.
    Trailer {
        /// Whose.
        ticket: Ticket,
        /// Bytes of its lines; all together bounded by `REQUEST_TRAILER_BYTES_MAX`.
        bytes: Bytes,
    },
    /// The client of a passed stream has been sent this many more body bytes.
    Credit {
        /// Which stream.
        stream: StreamId,
        /// How many bytes.
        bytes: usize,
    },
    /// The client left before its response was whole. A fill goes on; a pass is stopped.
    Gone {
        /// Whose.
        ticket: Ticket,
    },
}

/// What control tells a worker.
#[derive(Debug)]
pub enum ToWorker {
    /// A response begins (or is joined by its first client on this worker).
    Open {
        /// The stream.
        stream: StreamId,
        /// Its head.
        head: Arc<OriginHead>,
        /// Body bytes from the start that are sealed in the shard, a multiple of `CHUNK_BYTES`.
        sealed_bytes: u64,
        /// The chunks' object in the shard.
        object: u64,
        /// Whether credit is wanted: one client, not stored.
        pass: bool,
        /// The bytes after `sealed_bytes` that are already here.
        pieces: Vec<Bytes>,
    },
    /// This request is answered by that stream.
    Join {
        /// Who.
        ticket: Ticket,
        /// Which stream, open on this worker.
        stream: StreamId,
        /// Only by these bytes of it, under a head of its own; else by all, from the first.
        part: Option<(Range<u64>, Arc<OriginHead>)>,
        /// It was fetched for another request.
        collapsed: bool,
    },
    /// An interim response of the origin; the final one follows.
    Interim {
        /// Who waits.
        ticket: Ticket,
        /// The response.
        interim: Box<Interim>,
    },
    /// The next bytes of a stream.
    Piece {
        /// Which.
        stream: StreamId,
        /// Never empty.
        bytes: Bytes,
    },
    /// The chunks below this offset can be read from the shard. Of an object that is sent slice by slice, those from
    /// its reader's first byte on.
    Sealed {
        /// Which.
        stream: StreamId,
        /// Offset from the start of the body.
        sealed_bytes: u64,
    },
    /// From here on the stream is not stored, and nobody joins it any more: what all its clients have taken can
    /// be let go of.
    Unstored {
        /// Which.
        stream: StreamId,
    },
    /// The stream ended whole; nothing more is sent for it, and nobody joins any more.
    End {
        /// Which.
        stream: StreamId,
        /// Field lines that follow the body, if any.
        trailers: Bytes,
    },
    /// The stream broke off; as [`ToWorker::End`], but the response must not look whole.
    Broken {
        /// Which.
        stream: StreamId,
    },
    /// What is in the shard may answer: look it up again.
    Again {
        /// Who.
        ticket: Ticket,
        /// Its request comes back.
        request: Box<RequestHead>,
        /// Why.
        why: Again,
    },
    /// A shard was opened again: to be read instead of the one with its number.
    Shard(Box<ShardReader>),
    /// No response can be had: 404 (no route), 502, 503 or 504.
    Refused {
        /// Who.
        ticket: Ticket,
        /// The status to answer.
        status: u16,
        /// Field lines of the answer.
        lines: Vec<u8>,
    },
    /// From now on clients of TLS are met so; who is connected stays so.
    Policies(Arc<Policies>),
    /// From now on these arguments of a query count for keys.
    Queries(Arc<Rules>),
    /// What its own answers say of TLS from now on.
    Transport(Arc<transport::Policies>),
    /// From now on these proxies' word on their clients counts.
    Trusted(Arc<[Network]>),
    /// Control has taken this much of the request's body.
    BodyCredit {
        /// Whose.
        ticket: Ticket,
        /// Bytes.
        bytes: usize,
    },
}

/// A bounded queue with an eventfd. `T` is handed back when it is full.
#[derive(Debug)]
pub struct Queue<T> {
    items: ArrayQueue<T>,
    event: OwnedFd,
    woken: AtomicBool,
}

impl<T> Queue<T> {
    fn new(capacity: usize, nonblocking: bool) -> std::io::Result<Self> {
        let event = crate::sys::socket::eventfd(nonblocking)?;
        Ok(Queue { items: ArrayQueue::new(capacity), event, woken: AtomicBool::new(false) })
    }

    /// Puts an item in. `Ok(true)`: the other side sleeps, and the caller must write to
    /// [`Queue::event`]. `Err`: full, the item comes back.
    pub fn push(&self, item: T) -> Result<bool, T> {
        self.items.push(item)?;
        // SeqCst, as in `sleep`: either this swap sees the announcement, or the sleeper sees the item.
        Ok(!self.woken.swap(true, Ordering::SeqCst))
    }

    /// Takes the oldest item. When it returns `None` the consumer must call [`Queue::sleep`] before it waits.
    pub fn pop(&self) -> Option<T> {
        self.items.pop()
    }

    /// Announces that the consumer will wait for the event. `false`: items came meanwhile, pop again.
    pub fn sleep(&self) -> bool {
        self.woken.store(false, Ordering::SeqCst);
        self.items.is_empty() || self.woken.swap(true, Ordering::SeqCst)
    }

    /// Items in it now.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The eventfd the consumer waits on.
    pub fn event(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// Both directions of one worker.
#[derive(Debug)]
pub struct Mailbox {
    /// Worker to control.
    pub to_control: Queue<ToControl>,
    /// Control to worker.
    pub to_worker: Queue<ToWorker>,
}

impl Mailbox {
    /// Mailboxes with the bounds of `limits`. Control polls its event, which wants it non-blocking; a worker
    /// reads its event through the ring, which waits in the kernel.
    pub fn new() -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Mailbox {
            to_control: Queue::new(limits::TO_CONTROL_MESSAGES_MAX, true)?,
            to_worker: Queue::new(limits::TO_WORKER_MESSAGES_MAX, false)?,
        }))
    }
}
