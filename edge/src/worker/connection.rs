//! One connection of a worker: a slot of its table, numbered as its direct descriptor is.
#![forbid(unsafe_code)]

use super::clients::Place;
use super::multiplex::Multiplex;
use super::parts::Parts;
use super::secure::Secure;
use crate::config::Network;
use crate::control::mailbox::StreamId;
use crate::limits;
use crate::proto::request::{RequestHead, Scheme};
use crate::proto::session::{Late, Session};
use crate::sys::outbox::Outbox;
use std::net::IpAddr;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No connection.
    Free,
    /// Requests are read and answered.
    Open,
    /// Nothing more is read; closes when everything queued is sent.
    Finishing,
    /// Our side is shut; waits a little for the peer to close, lest a reset destroys the last answer.
    Lingering {
        /// Until then, monotonic milliseconds.
        until_ms: u64,
        /// Bytes that are still read, and dropped: what is unread at the close makes it a reset.
        bytes_left: u32,
    },
    /// To be closed at once, whatever is queued.
    Aborted,
    /// Shut; waits for the kernel to give back what operations in flight use.
    Closing,
}

/// A body that is not wholly queued yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// None.
    None,
    /// Chunks of a stored large object.
    Chunks {
        /// Its number in the shard.
        object: u64,
        /// The next byte to queue.
        offset: u64,
        /// Where to stop.
        end: u64,
    },
    /// Parts of a stored object, see `Connection::parts`.
    Parts,
    /// A response on its way from control.
    Stream {
        /// Which.
        id: StreamId,
        /// The next byte to queue.
        offset: u64,
        /// Where this client's part of it ends; all ones: with the stream.
        end: u64,
    },
}

/// A request that control works on.
#[derive(Clone, Copy, Debug)]
pub struct Fetch {
    /// Its number on this worker.
    pub serial: u64,
    /// Bytes of the request's body that control has not taken yet.
    pub body_unacked: usize,
}

/// A request whose lookup waits for pages of the shard.
#[derive(Debug)]
pub struct Parked {
    /// The request.
    pub request: RequestHead,
    /// Came with new bytes: it is counted when it is answered.
    pub fresh: bool,
    /// Some pages come from the disk.
    pub from_disk: bool,
    /// How often it has waited.
    pub waits: u8,
    /// When to go on without them, monotonic milliseconds.
    pub until_ms: u64,
}

/// Whether the next chunk can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ahead {
    /// As far as is known.
    Ready,
    /// Its pages are being populated.
    Populating,
    /// They could not be.
    Failed,
}

/// A slot.
pub struct Connection {
    /// Which life of the slot.
    pub generation: u32,
    /// Where it stands.
    pub phase: Phase,
    /// The protocol machine; present but meaningless when free.
    pub session: Session,
    /// What is to be sent; taken from the worker's pool while there is something.
    pub outbox: Option<Outbox>,
    /// The TLS layer, where the listener speaks it.
    pub secure: Option<Box<Secure>>,
    /// What it sends is sealed by us, and so copied.
    pub sealed_here: bool,
    /// What keys of requests begin with.
    pub scheme: Scheme,
    /// The address it came from.
    pub peer: Option<IpAddr>,
    /// It is a proxy whose word on its clients counts.
    pub trusted: bool,
    /// Its client has shown a certificate: no request comes before that.
    pub certified: bool,
    /// Where it is counted among those of its client.
    pub place: Place,
    /// The connection speaks HTTP/2; its streams have what `source` and `fetch` are for the session.
    pub multiplex: Option<Box<Multiplex>>,
    /// The first bytes tell which version of HTTP it speaks; or ALPN, once the handshake of TLS is done.
    pub undecided: bool,
    /// Received bytes that the session would not take yet.
    pub stash: Vec<u8>,
    /// What follows the outbox.
    pub source: Source,
    /// What [`Source::Parts`] stands for.
    pub parts: Option<Box<Parts>>,
    /// The request under way at control.
    pub fetch: Option<Fetch>,
    /// The lookup that waits for pages.
    pub parked: Option<Box<Parked>>,
    /// The chunk that `source` goes on with.
    pub ahead: Ahead,
    /// Operations in flight that name this slot's memory or descriptor.
    pub operations: u8,
    /// A multishot receive is armed.
    pub receiving: bool,
    /// The receive is being cancelled because the stash is full.
    pub pausing: bool,
    /// The peer sends no more.
    pub peer_closed: bool,
    /// The session was told so.
    pub peer_closed_told: bool,
    /// Requests so far, for sampling.
    pub requests: u32,
}

impl Connection {
    /// A free slot.
    pub fn free(session: Session) -> Self {
        Connection {
            generation: 0,
            phase: Phase::Free,
            session,
            outbox: None,
            secure: None,
            sealed_here: false,
            scheme: Scheme::Http,
            peer: None,
            trusted: false,
            certified: false,
            place: Place::NONE,
            multiplex: None,
            undecided: false,
            stash: Vec::new(),
            source: Source::None,
            parts: None,
            fetch: None,
            parked: None,
            ahead: Ahead::Ready,
            operations: 0,
            receiving: false,
            pausing: false,
            peer_closed: false,
            peer_closed_told: false,
            requests: 0,
        }
    }

    /// Tells in a request whom it comes from.
    #[inline]
    pub fn introduce(&self, request: &mut RequestHead) {
        request.scheme = self.scheme;
        request.peer = self.peer;
        request.trusted = self.trusted;
        request.certified = self.certified;
    }

    /// Finds out whether it comes from one of these proxies, whose word on their clients counts.
    pub fn judge(&mut self, trusted: &[Network]) {
        self.trusted = self.peer.is_some_and(|peer| trusted.iter().any(|proxies| proxies.contains(peer)));
    }

    /// Whether the session may be given bytes: it wants them, and what it may answer has room. The rest of a body whose
    /// answer is on its way needs none; a client that reads nothing before it has sent all would wait for ever.
    pub fn takes_input(&self) -> bool {
        self.phase == Phase::Open
            && self.multiplex.is_none()
            && !self.sends_stored()
            && self.session.wants_input()
            && (self.session.is_answering() || self.outbox.as_ref().is_none_or(Outbox::has_room))
            && self.fetch.is_none_or(|fetch| fetch.body_unacked < limits::REQUEST_BODY_WINDOW_BYTES)
    }

    /// Whether a stored body is not wholly queued yet.
    fn sends_stored(&self) -> bool {
        matches!(self.source, Source::Chunks { .. } | Source::Parts)
    }

    /// Whether some response of it follows this stream of control's.
    pub fn follows(&self, stream: StreamId) -> bool {
        match &self.multiplex {
            Some(mux) => mux.follows(stream),
            None => matches!(self.source, Source::Stream { id, .. } if id == stream),
        }
    }

    /// The offset up to which all its responses have followed this stream of control's; `None`: none does.
    pub fn offset(&self, stream: StreamId) -> Option<u64> {
        match (&self.multiplex, self.source) {
            (Some(mux), _) => mux.offsets(stream).min(),
            (None, Source::Stream { id, offset, .. }) if id == stream => Some(offset),
            _ => None,
        }
    }

    /// Whether a request of it waits at control under this number.
    pub fn waits(&self, serial: u64) -> bool {
        match &self.multiplex {
            Some(mux) => mux.waits(serial),
            None => self.fetch.is_some_and(|fetch| fetch.serial == serial),
        }
    }

    /// Whether nothing is left to send, now or later.
    pub fn drained(&self) -> bool {
        self.source == Source::None && self.parked.is_none() && self.caught_up()
    }

    /// Whether the client has taken all there is for it: what an origin still owes is not the client's delay.
    pub fn caught_up(&self) -> bool {
        !self.sends_stored()
            && self.outbox.as_ref().is_none_or(Outbox::is_empty)
            && self.secure.as_ref().is_none_or(|secure| secure.is_flushed())
    }

    /// Whether it is the client that is late when [`Connection::deadline_ms`] has passed, and not what its streams wait for.
    pub fn is_late(&self, now_ms: u64) -> bool {
        self.multiplex.as_ref().is_none_or(|mux| mux.http2.deadline_ms() <= now_ms)
    }

    /// What the client is late with when [`Connection::deadline_ms`] has passed, which is not that of its handshake.
    pub fn late(&self) -> Late {
        self.multiplex.as_ref().map_or(self.session.late(), |mux| mux.http2.late())
    }

    /// When the connection has to be looked at next, monotonic milliseconds.
    pub fn deadline_ms(&self) -> u64 {
        match self.phase {
            Phase::Open | Phase::Finishing => match (&self.secure, &self.parked) {
                (Some(secure), _) if secure.deadline_ms != u64::MAX => secure.deadline_ms,
                (_, Some(parked)) => parked.until_ms,
                _ => self.multiplex.as_ref().map_or(self.session.deadline_ms(), |mux| mux.deadline_ms()),
            },
            Phase::Lingering { until_ms, .. } => until_ms,
            Phase::Free | Phase::Aborted | Phase::Closing => u64::MAX,
        }
    }
}

const _: () = assert!(size_of::<Connection>() <= 256, "every idle connection costs this much");
