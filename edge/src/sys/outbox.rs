//! What one connection has still to send: extents of shards, pieces of bodies, and small heads, in order.
//!
//! Extents are not copied: the queue holds their owners (a pin, a shared buffer) until the kernel has taken
//! every byte. While a send is in flight the memory it reads must stay, so an [`Outbox`] in flight cannot be
//! freed: dropping one ends the process.

use crate::limits;
use crate::shard::Pinned;
use bytes::Bytes;
use std::collections::VecDeque;
use std::ops::Range;

/// Bytes of heads kept inside; larger writes go to the heap.
const HEAD_BYTES: usize = 4096;
/// Bytes kept free for the next response head: with less than this there is no room.
const HEAD_RESERVE_BYTES: usize = 768;
/// Segments queued at most before there is no room.
const SEGMENTS_MAX: usize = 32;
/// Segments one response may add.
const SEGMENTS_RESERVE: usize = 4;
/// Segments sent by one message.
const MESSAGE_SEGMENTS: usize = 16;

/// Keeps a segment's memory.
enum Owner {
    /// The head buffer, or a later segment's owner.
    Queue,
    Pinned(Pinned),
    #[expect(dead_code, reason = "held for its drop")]
    Bytes(Bytes),
}

struct Segment {
    start: *const u8,
    len: usize,
    owner: Owner,
}

struct Inner {
    head: [u8; HEAD_BYTES],
    head_used: usize,
    segments: VecDeque<Segment>,
    iov: [libc::iovec; MESSAGE_SEGMENTS],
    message: libc::msghdr,
    in_flight: bool,
    /// Where records are read: by us, or by the kernel through a mapping of its own.
    copied: bool,
}

const _: () = assert!(size_of::<Inner>() + SEGMENTS_MAX * size_of::<Segment>() <= limits::OUTBOX_BYTES);

/// A queue of extents to send. Boxed: its address does not change.
pub struct Outbox(Box<Inner>);

impl Default for Outbox {
    fn default() -> Self {
        // SAFETY: iovec and msghdr are plain C structures for which all zeroes is a valid (empty) value.
        let (iov, message) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        Outbox(Box::new(Inner {
            head: [0; HEAD_BYTES],
            head_used: 0,
            segments: VecDeque::with_capacity(SEGMENTS_MAX),
            iov,
            message,
            in_flight: false,
            copied: false,
        }))
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        if self.0.in_flight {
            // The kernel may still read the memory; an invariant of the worker is broken.
            std::process::abort();
        }
    }
}

impl Outbox {
    /// Segments an empty one takes.
    pub const SEGMENTS: usize = SEGMENTS_MAX;

    /// Segments it takes now.
    pub fn segments_free(&self) -> usize {
        SEGMENTS_MAX.saturating_sub(self.0.segments.len())
    }

    /// Whether another response (its head and a few extents) fits.
    pub fn has_room(&self) -> bool {
        self.0.head_used + HEAD_RESERVE_BYTES <= HEAD_BYTES
            && self.0.segments.len() + SEGMENTS_RESERVE <= SEGMENTS_MAX
    }

    /// Whether nothing is left to send.
    pub fn is_empty(&self) -> bool {
        self.0.segments.is_empty()
    }

    /// Whether a send is in flight.
    pub fn in_flight(&self) -> bool {
        self.0.in_flight
    }

    /// Queues a copy of a few bytes.
    pub fn push_copy(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let inner = &mut *self.0;
        let end = inner.head_used + bytes.len();
        if end > HEAD_BYTES {
            return self.push_bytes(Bytes::copy_from_slice(bytes));
        }
        // Bytes before `head_used` may be in flight; these lie behind them.
        inner.head[inner.head_used..end].copy_from_slice(bytes);
        let start = inner.head[inner.head_used..].as_ptr();
        inner.head_used = end;
        self.extend(start, bytes.len(), Owner::Queue);
    }

    /// Queues a shared buffer.
    pub fn push_bytes(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.0.segments.push_back(Segment {
                start: bytes.as_ptr(),
                len: bytes.len(),
                owner: Owner::Bytes(bytes),
            });
        }
    }

    /// Says whether what is queued from now on is taken by [`Outbox::copy_out`], or sent by the kernel. Only
    /// while nothing is queued.
    pub fn set_copied(&mut self, copied: bool) {
        assert!(self.is_empty(), "extents are read where they were queued for");
        self.0.copied = copied;
    }

    /// From now on the kernel takes what is queued, and what was queued to be copied: extents of shards are moved to where
    /// the kernel reads them.
    pub fn send_uncopied(&mut self) {
        let inner = &mut *self.0;
        assert!(!inner.in_flight, "these bytes are with the kernel");
        inner.copied = false;
        let head = inner.head.as_ptr_range();
        let mut later: Option<&Pinned> = None;
        for segment in inner.segments.iter_mut().rev() {
            match &segment.owner {
                Owner::Bytes(_) => continue,
                Owner::Queue if head.contains(&segment.start) => continue,
                Owner::Queue => {}
                Owner::Pinned(pinned) => later = Some(pinned),
            }
            // SAFETY: the segment lies in the record of its own owner, or of the next one in the queue, which keeps it.
            let bytes = unsafe { std::slice::from_raw_parts(segment.start, segment.len) };
            segment.start = later.expect("the owner follows").sent_from(bytes);
        }
    }

    /// Bytes queued.
    pub fn bytes(&self) -> usize {
        self.0.segments.iter().map(|segment| segment.len).sum()
    }

    /// Queues a part of a record's head and then of its body; one extent where they touch.
    pub fn push_record(&mut self, pinned: Pinned, head: Range<usize>, body: Range<usize>) {
        let (head, body) = (&pinned.head()[head], &pinned.body()[body]);
        // A page that is missing ends a send of the kernel's, but would end the process that reads it elsewhere
        // than in the mapping that is watched.
        let start = |part: &[u8]| if self.0.copied { part.as_ptr() } else { pinned.sent_from(part) };
        let (first, second) = ((start(head), head.len()), (start(body), body.len()));
        match (first.1, second.1) {
            (0, 0) => {}
            (0, len) => self.push_segment(second.0, len, Owner::Pinned(pinned)),
            (len, 0) => self.push_segment(first.0, len, Owner::Pinned(pinned)),
            (a, b) if first.0.wrapping_add(a) == second.0 => {
                self.push_segment(first.0, a + b, Owner::Pinned(pinned));
            }
            (a, b) => {
                // Sent in order: the second's pin also covers the first.
                self.push_segment(first.0, a, Owner::Queue);
                self.push_segment(second.0, b, Owner::Pinned(pinned));
            }
        }
    }

    fn push_segment(&mut self, start: *const u8, len: usize, owner: Owner) {
        self.0.segments.push_back(Segment { start, len, owner });
    }

    /// Lengthens the last segment if it is ours, adjoins, and no send may have read its length.
    fn extend(&mut self, start: *const u8, len: usize, owner: Owner) {
        let in_flight = self.0.in_flight;
        match self.0.segments.back_mut() {
            Some(last)
                if !in_flight
                    && matches!(last.owner, Owner::Queue)
                    && last.start.wrapping_add(last.len) == start =>
            {
                last.len += len;
            }
            _ => self.push_segment(start, len, owner),
        }
    }

    /// Forgets what was queued, unless it is in flight.
    pub fn clear(&mut self) {
        if !self.0.in_flight {
            self.0.segments.clear();
            self.0.head_used = 0;
        }
    }

    /// Whether a record waits here whose shard has failed: what was made of it must not go out.
    pub fn is_torn(&self) -> bool {
        self.pinned().any(Pinned::failed)
    }

    /// The kernel could not read what it was to send: the shard of these records is at fault. Where they are of several
    /// nobody knows of which; the next send from that one alone tells.
    pub fn fail(&self) {
        let mut pinned = self.pinned();
        if let Some(first) = pinned.next()
            && pinned.all(|other| other.is_beside(first))
        {
            first.fail();
        }
    }

    fn pinned(&self) -> impl Iterator<Item = &Pinned> {
        let owners = self.0.segments.iter().map(|segment| &segment.owner);
        owners.filter_map(|owner| if let Owner::Pinned(pinned) = owner { Some(pinned) } else { None })
    }

    /// The message of the next send, and its bytes. From now until [`Outbox::sent`] the memory is the kernel's
    /// to read.
    pub(super) fn start(&mut self) -> (*const libc::msghdr, usize) {
        let inner = &mut *self.0;
        assert!(!inner.in_flight && !inner.segments.is_empty(), "one send at a time, and of something");
        let (mut count, mut bytes) = (0, 0);
        for (slot, segment) in inner.iov.iter_mut().zip(&inner.segments) {
            *slot = libc::iovec { iov_base: segment.start.cast_mut().cast(), iov_len: segment.len };
            count += 1;
            bytes += segment.len;
        }
        inner.message.msg_iov = inner.iov.as_mut_ptr();
        inner.message.msg_iovlen = count as _;
        inner.in_flight = true;
        (&raw const inner.message, bytes)
    }

    /// As [`Outbox::start`], at most so many bytes, of which there is one at least.
    pub(super) fn start_some(&mut self, most: usize) -> *const libc::msghdr {
        let (message, _) = self.start();
        let inner = &mut *self.0;
        let (mut count, mut left) = (0, most);
        for slot in &mut inner.iov[..inner.message.msg_iovlen] {
            slot.iov_len = slot.iov_len.min(left);
            left -= slot.iov_len;
            count += usize::from(slot.iov_len > 0);
        }
        inner.message.msg_iovlen = count as _;
        message
    }

    /// Copies what comes next into `room`, as much as fits, releases the owners of what was copied wholly, and says
    /// how many bytes that were. For connections whose bytes are sealed before they are sent. Whoever sends them
    /// asks first whether a page was missing ([`super::fault::count`]).
    pub fn copy_out(&mut self, room: &mut [u8]) -> usize {
        let inner = &mut *self.0;
        assert!(!inner.in_flight && inner.copied, "the kernel takes these bytes already");
        let mut copied = 0;
        while copied < room.len()
            && let Some(segment) = inner.segments.front_mut()
        {
            let bytes = segment.len.min(room.len() - copied);
            // SAFETY: the segment's owner, still queued here, keeps its memory, and nobody writes to it.
            let from = unsafe { std::slice::from_raw_parts(segment.start, bytes) };
            room[copied..copied + bytes].copy_from_slice(from);
            copied += bytes;
            segment.start = segment.start.wrapping_add(bytes);
            segment.len -= bytes;
            if segment.len == 0 {
                inner.segments.pop_front();
            }
        }
        if inner.segments.is_empty() {
            inner.head_used = 0;
        }
        copied
    }

    /// The send in flight ended: `bytes` were taken; owners of what is wholly sent are released.
    pub fn sent(&mut self, mut bytes: usize) {
        let inner = &mut *self.0;
        assert!(inner.in_flight, "a completion belongs to a send");
        inner.in_flight = false;
        while bytes > 0 {
            let segment = inner.segments.front_mut().expect("no more can be sent than was queued");
            if bytes < segment.len {
                segment.start = segment.start.wrapping_add(bytes);
                segment.len -= bytes;
                break;
            }
            bytes -= segment.len;
            inner.segments.pop_front();
        }
        if inner.segments.is_empty() {
            inner.head_used = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays the kernel: takes at most `most` bytes of the message.
    fn take(outbox: &mut Outbox, most: usize) -> Vec<u8> {
        let (message, _) = outbox.start();
        let mut taken = Vec::new();
        // SAFETY: `start` returned a message whose segments are alive until `sent`.
        unsafe {
            let message = &*message;
            for i in 0..message.msg_iovlen {
                let iov = &*message.msg_iov.add(i);
                taken.extend_from_slice(std::slice::from_raw_parts(iov.iov_base.cast::<u8>(), iov.iov_len));
            }
        }
        taken.truncate(most);
        outbox.sent(taken.len());
        taken
    }

    #[test]
    fn bytes_leave_in_order_whatever_the_kernel_takes() {
        for most in [1, 2, 3, 7, 100, 10_000] {
            let mut outbox = Outbox::default();
            let mut expected = Vec::new();
            let mut sent = Vec::new();
            for round in 0..40_u8 {
                let small = [round; 5];
                outbox.push_copy(&small);
                outbox.push_copy(&small[..2]);
                outbox.push_bytes(Bytes::from(vec![round ^ 0x55; 11]));
                expected.extend_from_slice(&[round; 7]);
                expected.extend_from_slice(&[round ^ 0x55; 11]);
                sent.extend(take(&mut outbox, most));
            }
            while !outbox.is_empty() {
                sent.extend(take(&mut outbox, most));
            }
            assert_eq!(sent, expected, "most {most}");
        }
    }

    #[test]
    fn bytes_are_copied_out_in_order_whatever_the_room() {
        for room in [1, 2, 5, 7, 4096] {
            let mut outbox = Outbox::default();
            outbox.set_copied(true);
            outbox.push_copy(b"head");
            outbox.push_bytes(Bytes::from_static(b"some body"));
            outbox.push_copy(b"tail");
            let mut copied = Vec::new();
            while !outbox.is_empty() {
                let mut bytes = vec![0; room];
                let count = outbox.copy_out(&mut bytes);
                assert!(count == room || outbox.is_empty());
                copied.extend_from_slice(&bytes[..count]);
            }
            assert_eq!(copied, b"headsome bodytail");
            assert_eq!(outbox.copy_out(&mut [0; 9]), 0);
        }
    }

    #[test]
    fn large_writes_go_to_the_heap() {
        let mut outbox = Outbox::default();
        let big = vec![7; HEAD_BYTES * 3];
        outbox.push_copy(b"x");
        outbox.push_copy(&big);
        assert!(outbox.has_room());
        assert_eq!(take(&mut outbox, usize::MAX).len(), big.len() + 1);
        assert!(outbox.is_empty());
    }

    #[test]
    fn what_is_sent_of_a_record_lies_in_the_mapping_head_and_body_as_one_extent() {
        use crate::shard::{Body, Label, Options, scratch::Scratch};
        let scratch = Scratch::new("outbox-extent");
        let store = Options { path: scratch.path().to_path_buf(), readers: 1, ..Options::default() };
        let (mut writer, readers, _) = crate::shard::open(&[store]).unwrap();
        let body = Bytes::from(vec![b'x'; 1024]);
        let label = Label::new(7, b"key", &[0; 8], b"head");
        writer.put(&label, Body::Whole(&[body]), |_| true).unwrap();
        let pinned = readers[0].lookup(7, b"key", |_| true).unwrap();
        let mut outbox = Outbox::default();
        outbox.push_copy(b"status");
        outbox.push_record(pinned.clone(), 0..4, 0..1024);
        let (message, bytes) = outbox.start();
        // SAFETY: `start` returned a message whose segments are alive until `sent`.
        let extents: Vec<_> =
            unsafe { std::slice::from_raw_parts((*message).msg_iov, (*message).msg_iovlen) }
                .iter()
                .map(|extent| (extent.iov_base.cast_const().cast(), extent.iov_len))
                .collect();
        assert_eq!(extents[1..], [(pinned.sent_from(pinned.head()), 4 + 1024)]);
        assert_eq!((extents[0].1, bytes), (6, 6 + 4 + 1024));
        outbox.sent(bytes);
    }

    #[test]
    fn a_page_that_is_gone_is_not_sent_and_neither_is_one_in_its_place() {
        use crate::shard::{Body, Label, Options, scratch::Scratch};
        use std::os::fd::AsRawFd;
        let scratch = Scratch::new("outbox-gone");
        let path = scratch.path().to_path_buf();
        let store = Options { path, readers: 2, ..Options::default() };
        let (mut writer, readers, _) = crate::shard::open(&[store]).unwrap();
        let body = Bytes::from(vec![b'x'; 20_000]);
        writer.put(&Label::new(7, b"key", &[0; 8], b"head"), Body::Whole(&[body]), |_| true).unwrap();
        let pinned = readers[0].lookup(7, b"key", |_| true).unwrap();
        let mut outbox = Outbox::default();
        outbox.push_record(pinned, 0..4, 0..20_000);
        assert!(!outbox.is_torn());

        let file = std::fs::File::options().write(true).open(scratch.path().join("shard-0")).unwrap();
        file.set_len(4096).unwrap();
        // Read in user space: a page of zeroes comes in the place of the one that is gone.
        assert!(readers[1].lookup(7, b"key", |_| true).is_none());
        assert!(outbox.is_torn() && readers[0].lookup(7, b"key", |_| true).is_none());
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let (message, _) = outbox.start();
        // SAFETY: `start` returned a message whose segments are alive until `sent`.
        let sent = unsafe { libc::sendmsg(ours.as_raw_fd(), message, libc::MSG_DONTWAIT) };
        assert_eq!((sent, std::io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EFAULT)));
        outbox.sent(0);
        theirs.set_nonblocking(true).unwrap();
        assert!(std::io::Read::read(&mut &theirs, &mut [0; 1]).is_err(), "nothing has arrived");
        assert_eq!(writer.watch(), 1);
    }

    #[test]
    fn a_page_that_is_gone_costs_no_shard_but_its_own() {
        use crate::shard::{Body, Label, Options, scratch::Scratch};
        use std::os::fd::AsRawFd;
        let scratch = Scratch::new("outbox-two");
        let open = |name| {
            let store = Options { path: scratch.path().join(name), readers: 1, ..Options::default() };
            let (mut writer, readers, _) = crate::shard::open(&[store]).unwrap();
            let body = Bytes::from(vec![b'x'; 20_000]);
            writer.put(&Label::new(7, b"key", &[0; 8], b"head"), Body::Whole(&[body]), |_| true).unwrap();
            (writer, readers)
        };
        let ((mut sound, at_sound), (mut cut, at_cut)) = (open("sound"), open("cut"));
        let record = |readers: &[crate::shard::Reader]| readers[0].lookup(7, b"key", |_| true).unwrap();
        let (first, second) = (record(&at_sound), record(&at_cut));
        let file = std::fs::File::options().write(true).open(scratch.path().join("cut/shard-0")).unwrap();
        file.set_len(4096).unwrap();
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let send = |records: &[&Pinned]| {
            let mut outbox = Outbox::default();
            records.iter().for_each(|&record| outbox.push_record(record.clone(), 0..4, 0..100));
            let (message, _) = outbox.start();
            // SAFETY: `start` returned a message whose segments are alive until `sent`.
            let sent = unsafe { libc::sendmsg(ours.as_raw_fd(), message, libc::MSG_DONTWAIT) };
            assert_eq!((sent, std::io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EFAULT)));
            outbox.sent(0);
            outbox.fail();
        };
        send(&[&first, &second]);
        assert_eq!(sound.watch(), 0, "it has all its pages");
        send(&[&second, &second]);
        assert_eq!((sound.watch(), cut.watch()), (0, 1));
    }

    #[test]
    fn room_ends_before_the_head_buffer_does() {
        let mut outbox = Outbox::default();
        let mut rounds = 0;
        while outbox.has_room() {
            outbox.push_copy(&[1; 100]);
            outbox.push_bytes(Bytes::from_static(b"body"));
            rounds += 1;
        }
        assert!((10..=SEGMENTS_MAX).contains(&rounds), "{rounds}");
    }
}
