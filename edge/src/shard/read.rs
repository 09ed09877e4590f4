//! Looking records up: what a worker does at each hit. Waits for nothing, allocates nothing, writes nothing but
//! its own pin counter and, rarely, a frequency.
#![forbid(unsafe_code)]

use super::index::{Entry, Index, Slot};
use super::layout::{self, Geometry, HEADER_BYTES, Header, Kind};
use crate::sys::mapping::{Pin, Pins};
use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

/// How often a lookup follows one slot that changes under it. Each time the record it led to was replaced.
const FOLLOWS_MAX: usize = 4;

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
    pub fn lookup(&self, hash: u64, key: &[u8], accept: impl FnMut(&[u8]) -> bool) -> Option<Pinned> {
        self.find.object(hash, key, accept)
    }

    /// Finds chunk number `chunk` of a large object.
    pub fn chunk(&self, object: u64, chunk: u32) -> Option<Pinned> {
        self.find.chunk(object, chunk)
    }
}

/// What it takes to find records.
pub(super) struct Find {
    pub(super) index: Arc<Index>,
    pub(super) pins: Pins,
    pub(super) geometry: Geometry,
}

impl Find {
    pub(super) fn object(
        &self,
        hash: u64,
        key: &[u8],
        mut accept: impl FnMut(&[u8]) -> bool,
    ) -> Option<Pinned> {
        self.newest(hash, |record| {
            record.header.kind != Kind::Chunk && record.key() == key && accept(record.meta())
        })
    }

    pub(super) fn chunk(&self, object: u64, chunk: u32) -> Option<Pinned> {
        self.newest(layout::chunk_hash(object, chunk), |record| record.header.is_chunk(object, chunk))
    }

    #[inline]
    fn newest(&self, hash: u64, mut wanted: impl FnMut(&Pinned) -> bool) -> Option<Pinned> {
        if self.pins.failed() {
            return None;
        }
        let mut best: Option<(Pinned, Slot, Entry)> = None;
        for (slot, entry) in self.index.candidates(hash) {
            let Some((record, entry)) = self.hold(slot, entry) else { continue };
            if wanted(&record) && best.as_ref().is_none_or(|(other, ..)| other.age() < record.age()) {
                best = Some((record, slot, entry));
            }
        }
        let (record, slot, entry) = best?;
        self.index.bump(slot, entry);
        Some(record)
    }

    /// Pins the record that a slot leads to.
    #[inline]
    fn hold(&self, slot: Slot, mut entry: Entry) -> Option<(Pinned, Entry)> {
        for _ in 0..FOLLOWS_MAX {
            let (segment, start) = self.geometry.place(entry.location());
            let pin = self.pins.pin(segment);
            match self.index.unchanged(slot, entry) {
                Ok(()) => return Some((Pinned::new(pin?, start)?, entry)),
                Err(Some(now)) => entry = now,
                Err(None) => return None,
            }
        }
        None
    }
}

/// A record held in place: its bytes do not change until this and its clones are dropped. Not `Send`.
#[derive(Clone)]
pub struct Pinned {
    pin: Pin,
    start: u32,
    header: Header,
}

impl Pinned {
    /// `None`: there is no whole record there.
    #[inline]
    fn new(pin: Pin, start: usize) -> Option<Self> {
        let header = Header::decode(pin.bytes(start..start + HEADER_BYTES)?)?;
        pin.bytes(start..start + header.body().end)?;
        Some(Pinned { pin, start: start as u32, header })
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
    fn age(&self) -> (u64, u32) {
        (self.header.sequence, self.start)
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

    /// The kernel could not read the record: its shard is out of use from now on.
    pub fn fail(&self) {
        self.pin.fail();
    }

    /// Bytes of the whole object's body; of a chunk: of its own.
    pub fn object_bytes(&self) -> u64 {
        self.header.object_bytes()
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
