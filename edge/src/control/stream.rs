//! One response on its way to every worker that has clients waiting for it. Sends each piece once per
//! worker, and keeps what is not sealed in the shard for those who join late.
#![forbid(unsafe_code)]

use super::Node;
use super::mailbox::{StreamId, Ticket, ToWorker};
use super::ranged::Part;
use crate::limits;
use crate::proto::response::OriginHead;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Pieces kept before they are copied into one, so that an origin that sends single bytes costs no more than
/// the bytes.
const PIECES_MAX: usize = 4096;

/// What a worker has of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// Nobody there asked.
    None,
    /// Open.
    Open,
    /// The worker took nothing for too long and was told that the stream broke.
    Lost,
}

/// A response and the workers that receive it.
pub(super) struct Stream {
    id: StreamId,
    head: Arc<OriginHead>,
    object: u64,
    pass: bool,
    links: Vec<Link>,
    sealed_bytes: u64,
    /// The bytes after `sealed_bytes`, as long as others may join.
    pieces: Vec<Bytes>,
    pieces_bytes: usize,
    /// Set once the stream is no longer stored: bytes held by workers.
    held: Option<Arc<AtomicUsize>>,
}

impl Stream {
    /// A stream nobody receives yet. `object`: where its chunks will be; `pass`: it has one client, which returns credit.
    pub(super) fn new(id: StreamId, head: Arc<OriginHead>, object: u64, pass: bool, workers: usize) -> Self {
        Stream {
            id,
            head,
            object,
            pass,
            links: vec![Link::None; workers],
            sealed_bytes: 0,
            pieces: Vec::new(),
            pieces_bytes: 0,
            held: None,
        }
    }

    /// The chunks' object in the shard.
    pub(super) fn object(&self) -> u64 {
        self.object
    }

    /// Lets a request be answered by this stream: by a part of it, or by all. `collapsed`: the response was fetched for
    /// another one.
    pub(super) fn join(&mut self, node: &Node, ticket: Ticket, part: Option<Part>, collapsed: bool) {
        let outbox = node.outbox(ticket.worker);
        let link = &mut self.links[usize::from(ticket.worker)];
        if *link == Link::None {
            *link = Link::Open;
            outbox.post(ToWorker::Open {
                stream: self.id,
                head: self.head.clone(),
                sealed_bytes: self.sealed_bytes,
                object: self.object,
                pass: self.pass,
                pieces: self.pieces.clone(),
            });
        }
        match *link {
            Link::Open => outbox.post(ToWorker::Join { ticket, stream: self.id, part, collapsed }),
            _ => node.refuse_with(ticket, 503, Vec::new()),
        }
    }

    /// The workers that receive it.
    pub(super) fn workers(&self) -> Vec<u16> {
        (0..self.links.len())
            .filter(|&worker| self.links[worker] == Link::Open)
            .map(|worker| worker as u16)
            .collect()
    }

    /// Gives one worker up.
    pub(super) fn lose(&mut self, node: &Node, worker: u16) {
        self.links[usize::from(worker)] = Link::Lost;
        node.outbox(worker).post(ToWorker::Broken { stream: self.id });
    }

    /// Sends the next bytes, and keeps them until they are sealed.
    pub(super) fn piece(&mut self, node: &Node, bytes: Bytes) {
        let bytes = match &self.held {
            Some(held) => Bytes::from_owner(Held::new(bytes, held.clone())),
            None if self.pass => bytes,
            None => {
                self.keep(bytes.clone());
                bytes
            }
        };
        for worker in self.workers() {
            node.outbox(worker).post(ToWorker::Piece { stream: self.id, bytes: bytes.clone() });
        }
    }

    fn keep(&mut self, bytes: Bytes) {
        self.pieces_bytes += bytes.len();
        self.pieces.push(bytes);
        if self.pieces.len() >= PIECES_MAX {
            self.pieces = vec![self.pieces.concat().into()];
        }
    }

    /// The bytes that are not sealed.
    pub(super) fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// How many these are.
    pub(super) fn pieces_bytes(&self) -> usize {
        self.pieces_bytes
    }

    /// What was kept is in the shard now.
    pub(super) fn sealed(&mut self, node: &Node) {
        self.sealed_bytes += self.pieces_bytes as u64;
        self.forget_pieces();
        for worker in self.workers() {
            node.outbox(worker).post(ToWorker::Sealed { stream: self.id, sealed_bytes: self.sealed_bytes });
        }
    }

    /// The bytes below this offset that its one client wants are in the shard; they came another way.
    pub(super) fn advance(&mut self, node: &Node, sealed_bytes: u64) {
        self.sealed_bytes = sealed_bytes;
        for worker in self.workers() {
            node.outbox(worker).post(ToWorker::Sealed { stream: self.id, sealed_bytes });
        }
    }

    /// From here on nothing is sealed: nobody can join, and [`Stream::held_bytes`] counts what workers hold.
    pub(super) fn stop_sealing(&mut self, node: &Node) {
        self.forget_pieces();
        self.held = Some(Arc::default());
        for worker in self.workers() {
            node.outbox(worker).post(ToWorker::Unstored { stream: self.id });
        }
    }

    /// Whether requests may still join.
    pub(super) fn joinable(&self) -> bool {
        self.held.is_none()
    }

    /// Bytes of a stream that is not stored which workers have not let go of.
    pub(super) fn held_bytes(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.load(Relaxed))
    }

    /// The stream ended whole.
    pub(super) fn end(&mut self, node: &Node) {
        self.end_with(node, Bytes::new());
    }

    /// The same, and these field lines follow it, if any.
    pub(super) fn end_with(&mut self, node: &Node, trailers: Bytes) {
        self.close(node, |stream| ToWorker::End { stream, trailers: trailers.clone() });
    }

    /// The stream broke off.
    pub(super) fn broken(&mut self, node: &Node) {
        self.close(node, |stream| ToWorker::Broken { stream });
    }

    fn close(&mut self, node: &Node, message: impl Fn(StreamId) -> ToWorker) {
        for worker in self.workers() {
            node.outbox(worker).post(message(self.id));
        }
        self.links.fill(Link::Lost);
        self.forget_pieces();
    }

    fn forget_pieces(&mut self) {
        self.pieces = Vec::new();
        self.pieces_bytes = 0;
    }
}

/// Waits until every worker of the stream has room for a piece; those that had none for too long lose the stream.
/// `stream` gives access for a moment at a time.
pub(super) async fn room(node: &Node, workers: Vec<u16>, lose: impl Fn(u16)) {
    for worker in workers {
        if !node.outbox(worker).room().await {
            tracing::warn!(
                worker,
                stall_ms = limits::WORKER_STALL_MS,
                "worker takes no messages: stream broken off"
            );
            lose(worker);
        }
    }
}

/// Bytes that are counted until the last worker lets go of them.
struct Held {
    bytes: Bytes,
    held: Arc<AtomicUsize>,
}

impl Held {
    fn new(bytes: Bytes, held: Arc<AtomicUsize>) -> Self {
        held.fetch_add(bytes.len(), Relaxed);
        Held { bytes, held }
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes.len(), Relaxed);
    }
}
