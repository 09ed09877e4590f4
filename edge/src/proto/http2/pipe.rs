//! The two ends of a connection in memory: what the peer sent, and what is to be sent to it, in order. The
//! `h2` crate reads and writes here; bytes of bodies pass through as the shared extents they are, uncopied.
#![forbid(unsafe_code)]

use bytes::{Buf, Bytes};
use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A slice of a body shorter than this is copied: two more entries in a send cost more than that.
const SHARED_BYTES_MIN: usize = 2048;
/// Bytes copied ahead of what was taken out.
const COPIED_BYTES_MAX: usize = 16 * 1024;

/// A record of a shard, whose body is sent from where it is.
pub trait Record: Clone {
    /// Its body.
    fn body(&self) -> &[u8];
}

/// Bytes of a body and whoever keeps them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece<R> {
    /// A buffer.
    Bytes(Bytes),
    /// A part of a record's body.
    Stored(R, Range<usize>),
}

impl<R: Record> Piece<R> {
    /// How many bytes there are.
    pub fn len(&self) -> usize {
        match self {
            Piece::Bytes(bytes) => bytes.len(),
            Piece::Stored(_, range) => range.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Piece::Bytes(bytes) => bytes,
            Piece::Stored(record, range) => &record.body()[range.clone()],
        }
    }

    /// Takes the first bytes out.
    pub(super) fn split_to(&mut self, bytes: usize) -> Self {
        match self {
            Piece::Bytes(all) => Piece::Bytes(all.split_to(bytes)),
            Piece::Stored(record, range) => {
                let end = range.end.min(range.start + bytes);
                let first = std::mem::replace(&mut range.start, end)..end;
                Piece::Stored(record.clone(), first)
            }
        }
    }

    /// The part of it that `slice` is, if it is one.
    fn part(&self, slice: &[u8]) -> Option<Self> {
        let from = (slice.as_ptr() as usize).checked_sub(self.bytes().as_ptr() as usize)?;
        let end = from.checked_add(slice.len()).filter(|end| *end <= self.len())?;
        Some(match self {
            Piece::Bytes(bytes) => Piece::Bytes(bytes.slice(from..end)),
            Piece::Stored(record, range) => {
                Piece::Stored(record.clone(), range.start + from..range.start + end)
            }
        })
    }
}

/// The next bytes to send.
#[derive(Debug, PartialEq, Eq)]
pub enum Segment<'a, R> {
    /// To be copied: frame heads, field sections, short bodies.
    Copied(&'a [u8]),
    /// To be sent from where they are.
    Shared(Piece<R>),
}

enum Queued<R> {
    Copied(usize),
    Shared(Piece<R>),
}

struct Queues<R> {
    inbound: Vec<u8>,
    read: usize,
    ended: bool,
    /// The reader has asked for more than there was since bytes came last.
    exhausted: bool,
    copied: Vec<u8>,
    outbound: Vec<Queued<R>>,
    /// Entries `outbound` may grow to before writing has to wait.
    room: usize,
    /// The body whose bytes the writer is being offered.
    offered: Option<Piece<R>>,
}

/// A handle of the pipe; the machine and the `h2` connection have one each.
pub(super) struct Pipe<R>(Rc<RefCell<Queues<R>>>);

impl<R> Clone for Pipe<R> {
    fn clone(&self) -> Self {
        Pipe(self.0.clone())
    }
}

impl<R> Default for Pipe<R> {
    fn default() -> Self {
        Pipe(Rc::new(RefCell::new(Queues {
            inbound: Vec::new(),
            read: 0,
            ended: false,
            exhausted: false,
            copied: Vec::new(),
            outbound: Vec::new(),
            room: 0,
            offered: None,
        })))
    }
}

impl<R: Record> Pipe<R> {
    /// Bytes came from the peer.
    pub(super) fn receive(&self, bytes: &[u8]) {
        let queues = &mut *self.0.borrow_mut();
        // Mostly all was read; of a peer that is answered bit by bit there may always be a rest.
        queues.inbound.drain(..queues.read);
        queues.read = 0;
        queues.inbound.extend_from_slice(bytes);
        queues.exhausted = false;
    }

    /// The peer sends no more.
    pub(super) fn end(&self) {
        self.0.borrow_mut().ended = true;
    }

    /// Whether all whole frames that came were dealt with: the reader keeps what it cannot go on with for want of room.
    pub(super) fn is_exhausted(&self) -> bool {
        self.0.borrow().exhausted
    }

    /// Bytes that came and were not read.
    pub(super) fn unread_bytes(&self) -> usize {
        let queues = self.0.borrow();
        queues.inbound.len() - queues.read
    }

    /// So many segments may be written before they are taken out.
    pub(super) fn set_room(&self, segments: usize) {
        self.0.borrow_mut().room = segments;
    }

    /// Whether writing would wait.
    pub(super) fn is_full(&self) -> bool {
        self.0.borrow().is_full()
    }

    /// Takes out what was written, in order.
    pub(super) fn take(&self, mut sink: impl FnMut(Segment<'_, R>)) {
        let queues = &mut *self.0.borrow_mut();
        let mut at = 0;
        for queued in queues.outbound.drain(..) {
            match queued {
                Queued::Copied(bytes) => {
                    sink(Segment::Copied(&queues.copied[at..at + bytes]));
                    at += bytes;
                }
                Queued::Shared(piece) => sink(Segment::Shared(piece)),
            }
        }
        queues.copied.clear();
    }

    /// A body as the `h2` crate takes it.
    pub(super) fn body(&self, piece: Piece<R>) -> Body<R> {
        Body { piece, pipe: self.clone() }
    }
}

impl<R: Record> Queues<R> {
    fn is_full(&self) -> bool {
        // A frame takes two: its head, and its payload.
        self.outbound.len() + 2 > self.room || self.copied.len() >= COPIED_BYTES_MAX
    }

    fn write(&mut self, slice: &[u8]) {
        if slice.is_empty() {
            return;
        }
        if slice.len() >= SHARED_BYTES_MIN
            && let Some(piece) = self.offered.as_ref().and_then(|offered| offered.part(slice))
        {
            return self.outbound.push(Queued::Shared(piece));
        }
        self.copied.extend_from_slice(slice);
        match self.outbound.last_mut() {
            Some(Queued::Copied(bytes)) => *bytes += slice.len(),
            _ => self.outbound.push(Queued::Copied(slice.len())),
        }
    }
}

impl<R: Record> AsyncRead for Pipe<R> {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let queues = &mut *self.0.borrow_mut();
        let unread = &queues.inbound[queues.read..];
        queues.exhausted |= unread.is_empty();
        if unread.is_empty() && !queues.ended {
            return Poll::Pending;
        }
        let bytes = unread.len().min(into.remaining());
        into.put_slice(&unread[..bytes]);
        queues.read += bytes;
        if queues.read == queues.inbound.len() {
            // An idle connection keeps no buffer.
            queues.inbound = Vec::new();
            queues.read = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl<R: Record> AsyncWrite for Pipe<R> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let queues = &mut *self.0.borrow_mut();
        if queues.is_full() {
            queues.offered = None;
            return Poll::Pending;
        }
        for slice in slices {
            queues.write(slice);
        }
        queues.offered = None;
        Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Bytes of a body. When a writer asks for its slices, which it does directly before it writes them, the pipe
/// learns which body they are of, and takes a share of it instead of a copy.
pub(super) struct Body<R> {
    piece: Piece<R>,
    pipe: Pipe<R>,
}

impl<R: Record> Buf for Body<R> {
    fn remaining(&self) -> usize {
        self.piece.len()
    }

    fn chunk(&self) -> &[u8] {
        self.piece.bytes()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let Some(slice) = slices.first_mut().filter(|_| !self.piece.is_empty()) else {
            return 0;
        };
        *slice = IoSlice::new(self.piece.bytes());
        if self.piece.len() >= SHARED_BYTES_MIN {
            self.pipe.0.borrow_mut().offered = Some(self.piece.clone());
        }
        1
    }

    fn advance(&mut self, bytes: usize) {
        match &mut self.piece {
            Piece::Bytes(all) => all.advance(bytes),
            Piece::Stored(_, range) => {
                assert!(bytes <= range.len(), "no more than there is");
                range.start += bytes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    impl Record for Rc<Vec<u8>> {
        fn body(&self) -> &[u8] {
            self
        }
    }

    type Stored = Rc<Vec<u8>>;

    fn taken(pipe: &Pipe<Stored>) -> Vec<(bool, Vec<u8>)> {
        let mut taken = Vec::new();
        pipe.take(|segment| match segment {
            Segment::Copied(bytes) => taken.push((false, bytes.to_vec())),
            Segment::Shared(piece) => taken.push((true, piece.bytes().to_vec())),
        });
        taken
    }

    /// Writes a head and a body as the `h2` crate does.
    fn write(pipe: &mut Pipe<Stored>, body: &Body<Stored>) {
        let mut slices = [IoSlice::new(b"head"), IoSlice::new(b"")];
        assert_eq!(body.chunks_vectored(&mut slices[1..]), 1);
        let mut context = Context::from_waker(Waker::noop());
        let written = Pin::new(pipe).poll_write_vectored(&mut context, &slices);
        assert!(matches!(written, Poll::Ready(Ok(bytes)) if bytes == 4 + body.remaining()));
    }

    #[test]
    fn long_bodies_are_shared_and_the_rest_is_copied_in_order() {
        let mut pipe = Pipe::default();
        assert!(pipe.is_full(), "no room was given yet");
        pipe.set_room(6);
        let long: Vec<u8> = (0..SHARED_BYTES_MIN + 9).map(|at| at as u8).collect();
        let mut buffer = pipe.body(Piece::Bytes(Bytes::from(long.clone())));
        buffer.advance(9);
        let mut stored = Piece::Stored(Rc::new([&long[..], &long[..]].concat()), 5..long.len() + 9);
        assert_eq!(stored.split_to(4), Piece::Stored(Rc::new([&long[..], &long[..]].concat()), 5..9));
        let stored = pipe.body(stored);
        for body in [&buffer, &stored, &pipe.body(Piece::Bytes(Bytes::from_static(b"short")))] {
            write(&mut pipe, body);
        }
        assert!(pipe.is_full());
        assert!(Pin::new(&mut pipe).poll_write(&mut Context::from_waker(Waker::noop()), b"x").is_pending());
        let head = (false, b"head".to_vec());
        let second = [&long[9..], &long[..9]].concat();
        let last = (false, b"headshort".to_vec());
        assert_eq!(taken(&pipe), [head.clone(), (true, long[9..].to_vec()), head, (true, second), last]);
        assert_eq!(taken(&pipe), []);
        assert!(!pipe.is_full());
    }

    /// A peer that takes little: its frames are read bit by bit, and never all of them.
    #[test]
    fn what_was_read_is_not_kept() {
        let mut pipe = Pipe::<Stored>::default();
        pipe.receive(&[7; 10]);
        let (mut room, mut context) = ([0; 100], Context::from_waker(Waker::noop()));
        for _ in 0..1000 {
            pipe.receive(&[7; 100]);
            let mut room = ReadBuf::new(&mut room);
            assert!(Pin::new(&mut pipe).poll_read(&mut context, &mut room).is_ready());
            assert_eq!((room.filled(), pipe.unread_bytes()), (&[7; 100][..], 10));
        }
        assert!(pipe.0.borrow().inbound.capacity() < 1000);
    }

    #[test]
    fn a_slice_of_some_other_memory_is_never_taken_for_the_offered_body() {
        let mut pipe = Pipe::default();
        pipe.set_room(9);
        let mut slices = [IoSlice::new(b"")];
        let body = pipe.body(Piece::Bytes(Bytes::from(vec![1; 8192])));
        body.chunks_vectored(&mut slices);
        let other = vec![2; 8192];
        let mut context = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut pipe).poll_write(&mut context, &other).is_ready());
        assert_eq!(taken(&pipe), [(false, other)]);
    }
}
