//! Looking records up: what a worker does at each hit. Waits for nothing, allocates nothing, writes nothing but
//! its own pin counter and, rarely, a frequency or that a page is in use. What may not be in memory is not touched:
//! whoever asks is told what to bring in first ([`Cold`]).
#![forbid(unsafe_code)]

use super::index::{Entry, Index, Slot};
use super::layout::{self, Geometry, HEADER_BYTES, Header, Kind};
use super::reclaim;
use super::residency::Doubt;
use crate::sys::mapping::{Extent, Pin, Pins, Window};
use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

/// How often a lookup follows one slot that changes under it. Each time the record it led to was replaced.
const FOLLOWS_MAX: usize = 4;

/// Bytes that are read of a record of common size before it is sent: its header, key and meta.
const READ_BYTES: usize = 256;

/// The reading side of one worker. `Send`, but neither `Sync` nor `Clone`: its pin counters have one writer.
pub struct Reader {
    find: Find,
    _one_thread: PhantomData<Cell<()>>,
}

impl Reader {
    pub(super) fn new(find: Find) -> Self {
        Reader { find, _one_thread: PhantomData }
    }

    /// Finds the newest record with this key whose meta `accept` takes. Bumps its frequency. `hash` must be the
    /// one the record was stored under, from a function that stays the same across restarts.
    ///
    /// # Errors
    /// Some of what must be read, or of the record found, may not be in memory: populate it and look again.
    #[inline]
    pub fn try_lookup(
        &self,
        hash: u64,
        key: &[u8],
        accept: impl FnMut(&[u8]) -> bool,
    ) -> Result<Option<Pinned>, Cold> {
        self.find.object(hash, key, accept, Touch::Believed)
    }

    /// The first of two hints that a lookup of this hash is coming: memory of the index is asked for. Lookups that are
    /// announced together wait together.
    #[inline]
    pub fn prefetch_entries(&self, hash: u64) {
        self.find.index.prefetch(hash);
    }

    /// The second hint, some lookups later: what the entries lead to is asked for.
    #[inline]
    pub fn prefetch_records(&self, hash: u64) {
        let Find { index, pins, geometry } = &self.find;
        for (_, entry) in index.candidates(hash) {
            let (segment, start) = geometry.place(entry.location());
            pins.prefetch(segment, start, READ_BYTES);
        }
    }

    /// As [`Reader::try_lookup`], but what is not in memory is waited for.
    pub fn lookup(&self, hash: u64, key: &[u8], accept: impl FnMut(&[u8]) -> bool) -> Option<Pinned> {
        self.find.lookup(hash, key, accept)
    }

    /// Finds chunk number `chunk` of a large object.
    ///
    /// # Errors
    /// As [`Reader::try_lookup`].
    pub fn try_chunk(&self, object: u64, chunk: u32) -> Result<Option<Pinned>, Cold> {
        self.find.chunk(object, chunk, Touch::Believed)
    }

    /// What to bring in before that chunk can be read, if it is there and anything is missing. Counts as no read.
    pub fn chunk_ahead(&self, object: u64, chunk: u32) -> Option<Cold> {
        self.find.newest_chunk(object, chunk, Touch::Believed).err()
    }

    /// As [`Reader::try_chunk`], but what is not in memory is waited for.
    pub fn chunk(&self, object: u64, chunk: u32) -> Option<Pinned> {
        self.find.lookup_chunk(object, chunk)
    }
}

/// Pages that have to be brought into memory before a lookup can go on.
#[derive(Debug)]
pub struct Cold {
    window: Window,
    /// Of the shard file.
    bytes: Range<usize>,
    doubt: Doubt,
}

impl Cold {
    /// What to populate.
    pub fn extent(&self) -> Extent {
        self.window.extent(self.bytes.clone())
    }

    /// Whether it is known to come from the disk.
    pub fn is_absent(&self) -> bool {
        self.doubt == Doubt::Absent
    }

    /// It could not be read: its shard is not to be used any more.
    pub fn failed(&self) {
        self.window.fail();
    }

    /// It was populated: lookups may touch it.
    pub fn came(&self) {
        self.window.residency().used(self.bytes.clone());
    }
}

/// What a lookup may touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Touch {
    /// Pages that are believed to be in memory.
    Believed,
    /// All, also if that means to wait for the disk.
    All,
}

/// A record and the entry that led to it.
type Newest = (Pinned, Slot, Entry);

/// What it takes to find records.
pub(super) struct Find {
    pub(super) index: Arc<Index>,
    pub(super) pins: Pins,
    pub(super) geometry: Geometry,
}

impl Find {
    /// As [`Reader::lookup`].
    pub(super) fn lookup(&self, hash: u64, key: &[u8], accept: impl FnMut(&[u8]) -> bool) -> Option<Pinned> {
        self.object(hash, key, accept, Touch::All).unwrap_or_default()
    }

    /// As [`Reader::chunk`].
    pub(super) fn lookup_chunk(&self, object: u64, chunk: u32) -> Option<Pinned> {
        self.chunk(object, chunk, Touch::All).unwrap_or_default()
    }

    #[inline]
    fn object(
        &self,
        hash: u64,
        key: &[u8],
        mut accept: impl FnMut(&[u8]) -> bool,
        touch: Touch,
    ) -> Result<Option<Pinned>, Cold> {
        let wanted = |record: &Pinned| {
            record.header.kind != Kind::Chunk && record.key() == key && accept(record.meta())
        };
        Ok(self.newest(hash, wanted, touch)?.map(|newest| self.read(newest)))
    }

    fn chunk(&self, object: u64, chunk: u32, touch: Touch) -> Result<Option<Pinned>, Cold> {
        Ok(self.newest_chunk(object, chunk, touch)?.map(|newest| self.read(newest)))
    }

    fn newest_chunk(&self, object: u64, chunk: u32, touch: Touch) -> Result<Option<Newest>, Cold> {
        let wanted = |record: &Pinned| record.header.is_chunk(object, chunk);
        self.newest(layout::chunk_hash(object, chunk), wanted, touch)
    }

    /// Counts the read.
    #[inline]
    fn read(&self, (record, slot, entry): Newest) -> Pinned {
        self.index.bump(slot, entry);
        record
    }

    #[inline]
    fn newest(
        &self,
        hash: u64,
        mut wanted: impl FnMut(&Pinned) -> bool,
        touch: Touch,
    ) -> Result<Option<Newest>, Cold> {
        if self.pins.failed() {
            return Ok(None);
        }
        let mut best: Option<Newest> = None;
        for (slot, entry) in self.index.candidates(hash) {
            let (record, entry) = match self.hold(slot, entry, touch) {
                Ok(Some(held)) => held,
                Ok(None) => continue,
                Err(untouched) => return Err(self.cold(untouched)),
            };
            if wanted(&record) && best.as_ref().is_none_or(|(other, ..)| other.age() < record.age()) {
                best = Some((record, slot, entry));
            }
        }
        Ok(best)
    }

    /// Pins the record that a slot leads to.
    #[inline]
    fn hold(&self, slot: Slot, mut entry: Entry, touch: Touch) -> Result<Option<(Pinned, Entry)>, Untouched> {
        for _ in 0..FOLLOWS_MAX {
            let (segment, start) = self.geometry.place(entry.location());
            let pin = self.pins.pin(segment);
            match self.index.unchanged(slot, entry) {
                Ok(()) => {
                    let Some(pin) = pin else { return Ok(None) };
                    let pinned = Pinned::new(pin, start..start + entry.span_bytes(), touch)?;
                    return Ok(pinned.map(|pinned| (pinned, entry)));
                }
                Err(Some(now)) => entry = now,
                Err(None) => return Ok(None),
            }
        }
        Ok(None)
    }

    #[cold]
    fn cold(&self, Untouched { pin, range }: Untouched) -> Cold {
        let bytes = pin.in_file(range);
        let doubt = pin.residency().doubt(bytes.clone());
        Cold { window: self.pins.window(), bytes, doubt }
    }
}

/// A part of a segment that was not touched.
struct Untouched {
    pin: Pin,
    range: Range<usize>,
}

/// A record held in place: its bytes do not change until this and its clones are dropped. Not `Send`.
#[derive(Clone)]
pub struct Pinned {
    pin: Pin,
    start: u32,
    header: Header,
}

impl Pinned {
    /// `None`: there is no whole record there. The parts before the body are then being used. `span`: what most likely
    /// holds it, to be brought in at once.
    #[inline]
    fn new(pin: Pin, span: Range<usize>, touch: Touch) -> Result<Option<Self>, Untouched> {
        let may_touch = |range| touch == Touch::All || pin.residency().believes(pin.in_file(range));
        let start = span.start;
        let fixed = start..start + HEADER_BYTES;
        if fixed.end <= pin.filled() && !may_touch(fixed.clone()) {
            let range = start..span.end.min(pin.filled());
            return Err(Untouched { pin, range });
        }
        let Some(header) = pin.bytes(fixed).and_then(Header::decode) else { return Ok(None) };
        let whole = start..start + header.body().end;
        if whole.end > pin.filled() {
            return Ok(None);
        }
        if !may_touch(whole.clone()) {
            return Err(Untouched { pin, range: whole });
        }
        pin.residency().used(pin.in_file(start..start + header.head().end));
        Ok(Some(Pinned { pin, start: start as u32, header }))
    }

    /// The body is about to be sent.
    #[inline]
    pub fn sending(&self) {
        let start = self.start as usize;
        self.pin.residency().used(self.pin.in_file(start..start + self.header.body().end));
    }

    #[inline]
    fn part(&self, range: Range<usize>) -> &[u8] {
        let start = self.start as usize;
        self.pin
            .bytes(start + range.start..start + range.end)
            .expect("the whole record was checked when it was pinned")
    }

    fn key(&self) -> &[u8] {
        self.part(self.header.key())
    }

    /// Later records compare greater.
    fn age(&self) -> (u64, u64, u32) {
        (self.header.object, self.header.sequence, self.start)
    }

    /// Meta bytes.
    pub fn meta(&self) -> &[u8] {
        self.part(self.header.meta())
    }

    /// Head bytes.
    pub fn head(&self) -> &[u8] {
        self.part(self.header.head())
    }

    /// Body bytes of this record: the whole object, or empty in the head record of a chunked one. They
    /// follow the head bytes immediately in memory, so that both go out as one extent.
    pub fn body(&self) -> &[u8] {
        self.part(self.header.body())
    }

    /// Where the kernel reads a part of this record to send it. Valid while the record is held; not for user space,
    /// where a missing page would end the process.
    pub fn sent_from(&self, part: &[u8]) -> *const u8 {
        self.pin.sent_from(part)
    }

    /// Whether the file could not give a page: then what was read of this record may be zeroes instead. Whoever has
    /// read body bytes in user space asks this before sending anything made of them.
    pub fn failed(&self) -> bool {
        self.pin.failed()
    }

    /// Whether another record lies in the same shard file.
    pub fn is_beside(&self, other: &Pinned) -> bool {
        self.pin.shares_file(&other.pin)
    }

    /// The kernel could not read the record: its shard is out of use from now on.
    pub fn fail(&self) {
        self.pin.fail();
    }

    /// Bytes of the whole object's body; of a chunk: of its own.
    pub fn object_bytes(&self) -> u64 {
        self.header.object_bytes()
    }

    /// Bytes of the whole object in the store.
    pub fn stored_bytes(&self) -> u64 {
        reclaim::object_bytes(&self.header)
    }

    /// The same record; the number of its chunks carries these bits as well.
    #[inline]
    pub(super) fn of_shard(mut self, bits: u64) -> Self {
        self.header.object |= bits;
        self
    }

    /// The chunks' object number, if the body is chunked.
    pub fn chunked(&self) -> Option<u64> {
        matches!(self.header.kind, Kind::Head | Kind::Partial).then_some(self.header.object)
    }

    /// Whether chunks may be missing.
    pub fn partial(&self) -> bool {
        self.header.kind == Kind::Partial
    }
}
