//! The writing side: where records go, what they replace, and what is kept true on disk. Which segment is
//! written next is settled in `reclaim`. Nothing here waits for a reader.
//!
//! Kept true at every step, so that a process killed at any point reopens to what it last served:
//!
//! - A record whose index entry is gone is marked dead, or its segment's header is gone. (What was removed or
//!   replaced does not come back.)
//! - A record is complete, checksums included, before an entry leads to it.
//! - A head of a chunked object is indexed only while all its chunks are: `heads` says whom to drop when one goes.
//!   Only the head of a partial object stays, whichever of its chunks are there; without it they are not kept.
#![forbid(unsafe_code)]

use super::accounts::Counts;
use super::append::{Body, Draft, Label};
use super::evict::{Log, Policy};
use super::home::Home;
use super::index::{Entry, Slot};
use super::layout::{self, Geometry, HEADER_BYTES, Header, Kind};
use super::missed::Missed;
use super::place::Placed;
use super::purge_log::Owner;
use super::read::Find;
use super::reclaim::{self, Segments};
use super::{Meaning, OpenError, Pinned, PutError, checkpoint, left, recover};
use crate::limits;
use crate::sys::mapping::Appender;
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Release};

/// The writing side; one, owned by control.
pub struct Writer {
    pub(super) map: Appender,
    pub(super) find: Find,
    pub(super) geometry: Geometry,
    pub(super) path: PathBuf,
    pub(super) flusher: Arc<File>,
    pub(super) home: Home,
    pub(super) placed: Placed,
    pub(super) id: u64,
    pub(super) run: u64,
    pub(super) segments: Segments,
    pub(super) heads: HashMap<u64, Place>,
    pub(super) counts: Counts,
    pub(super) left: left::Table,
    pub(super) policy: Policy,
    pub(super) meaning: Meaning,
    /// Objects of which chunks are stored and the head is not yet, the latest last.
    pub(super) fills: VecDeque<u64>,
    objects_made: u32,
    dirty: Option<Range<u64>>,
    checkpoint_made: bool,
}

/// How to find a record's entry again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) hash: u64,
    pub(super) location: u64,
}

impl Writer {
    pub(super) fn new(
        map: Appender,
        find: Find,
        (home, flusher, placed): (Home, File, Placed),
        id: u64,
        run: u64,
    ) -> Self {
        let capacity = find.geometry.file_bytes();
        Writer {
            policy: Policy::new(capacity, find.index.entries_max()),
            meaning: Meaning::default(),
            fills: VecDeque::with_capacity(limits::FETCHES_RUNNING_MAX),
            geometry: find.geometry,
            map,
            find,
            path: home.file(),
            flusher: Arc::new(flusher),
            home,
            placed,
            id,
            run,
            // No number is used twice, also if the disk has lost the segments of an earlier run: else a record of theirs
            // would pass for one of ours.
            segments: Segments { sequence: run << 32, ..Segments::default() },
            heads: HashMap::new(),
            counts: Counts::default(),
            left: left::Table::default(),
            objects_made: 0,
            dirty: None,
            checkpoint_made: false,
        }
    }

    /// A number for the chunks of a new large object, never used before, also across restarts.
    pub fn new_object(&mut self) -> u64 {
        self.objects_made = self.objects_made.checked_add(1).unwrap_or_else(|| {
            self.next_run();
            1
        });
        self.run << 32 | u64::from(self.objects_made)
    }

    /// Stores an object and publishes it, replacing records of the same key for which `replaces(old meta)` holds, and
    /// any with the same discriminator. A large object whose chunks are said to be all there, and are not (any more),
    /// does not fit the store: [`PutError::TooLarge`].
    pub fn put(
        &mut self,
        label: &Label,
        body: Body,
        replaces: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), PutError> {
        let (kind, object, position, pieces): (_, _, _, &[Bytes]) = match body {
            // Numbered, so that of two versions the newer one can be told, whatever segments they are in.
            Body::Whole(pieces) => (Kind::Whole, self.new_object(), total(pieces), pieces),
            Body::Chunks { object, bytes } => (Kind::Head, object, bytes, &[]),
            Body::Partial { object, bytes } => (Kind::Partial, object, bytes, &[]),
        };
        let log = self.log_for(label.hash, label.key);
        let location = self.append(&Draft { kind, object, position, label, pieces }, log)?;
        let old = self.replaced(label, replaces);
        let slot = self.slot_for(label.hash, &old);
        if matches!(body, Body::Chunks { .. }) {
            self.give_up(object);
            // Asked last: making room for the record and for its entry may have cost a chunk.
            if !self.complete(object, position) {
                self.mark_dead(location);
                return Err(PutError::TooLarge);
            }
        }
        self.publish(slot, &old, location);
        Ok(())
    }

    /// Stores one chunk of a large object; it can be read at once by [`super::Reader::chunk`].
    pub fn put_chunk(&mut self, object: u64, chunk: u32, pieces: &[Bytes]) -> Result<(), PutError> {
        let hash = layout::chunk_hash(object, chunk);
        let label = &Label::new(hash, &[], &[], &[]);
        self.note_fill(object);
        let location = self.append(
            &Draft { kind: Kind::Chunk, object, position: chunk.into(), label, pieces },
            Log::Small,
        )?;
        let old = self.entries(hash, |header, _| header.is_chunk(object, chunk));
        let slot = self.slot_for(hash, &old);
        self.publish(slot, &old, location);
        Ok(())
    }

    /// Whether this chunk of a large object is there.
    pub fn has_chunk(&self, object: u64, chunk: u32) -> bool {
        self.find.lookup_chunk(object, chunk).is_some()
    }

    /// Reads a record as a worker would (for validation and refresh). The result must be dropped before the
    /// next call that stores.
    pub fn lookup(&self, hash: u64, key: &[u8], accept: impl FnMut(&[u8]) -> bool) -> Option<Pinned> {
        self.find.lookup(hash, key, accept)
    }

    /// Removes all records of a key; says how many. They stay away if the process is killed right after; a loss of
    /// power may bring those back that were not flushed.
    pub fn remove(&mut self, hash: u64, key: &[u8]) -> u64 {
        self.remove_if(hash, key, |_| true)
    }

    /// Removes the records of a key whose meta `wanted` takes; says how many.
    pub fn remove_if(&mut self, hash: u64, key: &[u8], wanted: impl Fn(&[u8]) -> bool) -> u64 {
        self.changing();
        let old = self.entries(hash, |header, record| {
            header.kind != Kind::Chunk && &record[header.key()] == key && wanted(&record[header.meta()])
        });
        for &(slot, entry) in &old {
            self.take_out(slot, entry.location());
        }
        old.len() as u64
    }

    /// Removes what a record with this key and meta, stored in another shard, takes the place of.
    pub(super) fn supersede(&mut self, label: &Label, replaces: impl FnMut(&[u8]) -> bool) {
        let old = self.replaced(label, replaces);
        if !old.is_empty() {
            self.changing();
        }
        for (slot, entry) in old {
            self.take_out(slot, entry.location());
        }
    }

    /// Which times of the set of shards this one has seen, see [`layout::FileHeader`].
    pub(super) fn era(&self) -> (u64, u64) {
        let word = |word: usize| self.map.words(0)[word].load(Acquire);
        (word(layout::ERA_WORD), word(layout::MEMBERS_WORD))
    }

    /// Whose purge log lies beside the shard.
    pub(super) fn owner(&self) -> Owner {
        Owner { shard: self.id, log: self.map.words(0)[layout::LOG_WORD].load(Acquire) }
    }

    /// Sets which log goes with what is stored, on disk as well.
    pub(super) fn set_log(&mut self, log: u64) -> std::io::Result<()> {
        self.map.words(0)[layout::LOG_WORD].store(log, Release);
        self.map.flush_first_words()
    }

    /// Says on disk that nothing was missed until this time, if there is one.
    pub(super) fn catch_up(&mut self, era: Option<(u64, u64)>) -> Result<(), OpenError> {
        let set = era.map_or(Ok(()), |era| self.set_era(era));
        set.map_err(|error| recover::failed(&self.path, error, "replace the disk"))
    }

    /// Drops what may have been changed elsewhere, on disk as well.
    pub(super) fn forget(&mut self, missed: &Missed) -> Result<(), OpenError> {
        if missed.everything() {
            self.clear();
        }
        let index = Arc::clone(&self.find.index);
        for (slot, entry) in index.entries().filter(|&(slot, entry)| missed.may_hold(slot, entry)) {
            // Chunks go when their segment is emptied: without a head nobody finds them.
            if self.record(entry.location()).is_none_or(|(header, _)| header.kind != Kind::Chunk) {
                self.changing();
                self.take_out(slot, entry.location());
            }
        }
        let synced = File::open(&self.path).and_then(|file| file.sync_data());
        synced.map_err(|error| recover::failed(&self.path, error, "replace the disk"))
    }

    /// Sets what [`Writer::era`] says, on disk as well.
    pub(super) fn set_era(&mut self, (era, members): (u64, u64)) -> std::io::Result<()> {
        self.map.words(0)[layout::ERA_WORD].store(era, Release);
        self.map.words(0)[layout::MEMBERS_WORD].store(members, Release);
        self.map.flush_first_words()
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        self.changing();
        self.segments.seal_all();
        while let Some(&segment) = self.segments.sealed.iter().flatten().next() {
            self.drain(segment);
        }
    }

    /// The range of bytes of the shard file written since the last call, which are to be flushed.
    pub fn dirty(&mut self) -> Option<Range<u64>> {
        self.dirty.take()
    }

    /// The checkpoint of a clean stop: where to write it and its bytes. Nothing may be stored afterwards.
    /// The caller flushes the shard file, and then writes this to `path` with a temporary name and a rename.
    pub fn checkpoint(&mut self) -> (PathBuf, Vec<u8>) {
        self.checkpoint_made = true;
        (self.home.state.join(checkpoint::FILE_NAME), checkpoint::encode(self))
    }

    /// Takes a record over that was found on disk, or marks it dead if a newer one was taken over before. Older ones it
    /// replaces. `tries` says how often more a place in the index is looked for in vain.
    pub(super) fn adopt(&mut self, segment: usize, offset: usize, tries: &mut usize) {
        let location = self.geometry.location(segment, offset);
        let Some((header, record)) = self.record(location) else { return };
        let old = match header.kind {
            Kind::Chunk => {
                self.entries(header.hash, |old, _| old.is_chunk(header.object, header.position as u32))
            }
            Kind::Whole | Kind::Head | Kind::Partial => {
                let (key, meta) = (&record[header.key()], &record[header.meta()]);
                self.replaced(&Label::new(header.hash, key, meta, &[]), |_| false)
            }
        };
        let age = |header: &Header, location: u64| (header.object, header.sequence, location);
        let is_newer = |&(_, entry): &(Slot, Entry)| {
            let old = self.record(entry.location());
            old.is_some_and(|(old, _)| age(&old, entry.location()) > age(&header, location))
        };
        if old.iter().any(is_newer) {
            self.mark_dead(location);
            return;
        }
        if old.is_empty() && *tries > 0 {
            // All had a place when they came in another order; so there is one for each.
            let hash_of = |entry: Entry| Some(self.record(entry.location())?.0.hash);
            *tries -= usize::from(!self.find.index.make_way(header.hash, hash_of));
        }
        let slot = self.slot_for(header.hash, &old);
        self.publish(slot, &old, location);
    }

    /// After all records were taken over, or some were lost: drops heads without all their chunks and chunks without
    /// a head, and counts what is left.
    pub(super) fn settle(&mut self) {
        let heads: Vec<u64> = self.heads.keys().copied().collect();
        for object in heads {
            let header = self.record(self.heads[&object].location).map(|(header, _)| header);
            let sound = header.is_some_and(|header| {
                header.kind == Kind::Partial || self.complete(object, header.object_bytes())
            });
            if !sound {
                self.drop_head(object);
            }
        }
        let orphan = |entry: Entry| match self.record(entry.location()) {
            Some((header, _)) => header.kind == Kind::Chunk && !self.heads.contains_key(&header.object),
            None => true,
        };
        let orphans: Vec<_> = self.find.index.entries().filter(|&(_, entry)| orphan(entry)).collect();
        for (slot, entry) in orphans {
            self.take_out(slot, entry.location());
        }
        (self.counts.entries, self.counts.objects, self.counts.object_bytes) = (0, 0, 0);
        for (_, entry) in self.find.index.entries() {
            self.counts.entries += 1;
            if let Some((header, _)) =
                self.record(entry.location()).filter(|(header, _)| header.kind != Kind::Chunk)
            {
                self.counts.objects += 1;
                self.counts.object_bytes += reclaim::object_bytes(&header);
            }
        }
    }

    /// The header and all bytes of a record.
    pub(super) fn record(&self, location: u64) -> Option<(Header, &[u8])> {
        let (segment, start) = self.geometry.place(location);
        let header = Header::decode(self.map.bytes(segment, start..start + HEADER_BYTES)?)?;
        let record = self.map.bytes(segment, start..start + header.body().end)?;
        Some((header, record))
    }

    /// Marks a record as one that must not be served again.
    pub(super) fn mark_dead(&mut self, location: u64) {
        let (segment, start) = self.geometry.place(location);
        // A segment without a header holds nothing that could come back.
        let Some(sequence) = self.sequence(segment) else { return };
        let changed = layout::mark_dead(self.map.words(segment), start, layout::seed(self.id, sequence));
        self.wrote(segment, changed.start * 8..changed.end * 8);
    }

    /// Entries of this hash whose record is wanted.
    pub(super) fn entries(&self, hash: u64, wanted: impl Fn(&Header, &[u8]) -> bool) -> Vec<(Slot, Entry)> {
        let mut found = Vec::new();
        for (slot, entry) in self.find.index.candidates(hash) {
            if self.record(entry.location()).is_some_and(|(header, record)| wanted(&header, record)) {
                found.push((slot, entry));
            }
        }
        found
    }

    /// Entries of records that a new one with this key and meta takes the place of.
    fn replaced(&self, label: &Label, mut replaces: impl FnMut(&[u8]) -> bool) -> Vec<(Slot, Entry)> {
        let mut found = self.entries(label.hash, |header, record| {
            header.kind != Kind::Chunk && &record[header.key()] == label.key
        });
        found.retain(|(_, entry)| {
            self.record(entry.location()).is_some_and(|(header, record)| {
                let old = &record[header.meta()];
                layout::discriminator(old) == layout::discriminator(label.meta) || replaces(old)
            })
        });
        found
    }

    /// Where the entry of a new record goes: in the place of the first it replaces, or a free one. If both
    /// buckets are full, the least read entry goes.
    fn slot_for(&mut self, hash: u64, old: &[(Slot, Entry)]) -> Slot {
        if let Some(&(slot, _)) = old.first() {
            return slot;
        }
        self.find.index.vacancy(hash).unwrap_or_else(|(slot, victim)| {
            if let Some((header, _)) = self.record(victim.location()) {
                self.left.note(header.hash, left::Why::IndexFull);
                match header.kind {
                    Kind::Chunk => self.lost_chunk(header.object),
                    Kind::Whole | Kind::Head | Kind::Partial => self.count_evicted(victim.location()),
                }
            }
            self.take_out(slot, victim.location());
            slot
        })
    }

    /// Makes a complete record visible, and what it replaces dead. New first, so that there always is one.
    fn publish(&mut self, slot: Slot, old: &[(Slot, Entry)], location: u64) {
        // Written a moment ago: it cannot be read only if the file has failed since, and then nothing is served from it.
        let Some((header, _)) = self.record(location) else { return };
        let frequency = old.first().map_or(0, |(_, entry)| entry.frequency());
        self.find.index.set(slot, Entry::new(header.hash, (location, header.record_bytes()), frequency));
        self.counts.entries += 1;
        if header.kind != Kind::Chunk {
            self.counts.objects += 1;
            self.counts.object_bytes += reclaim::object_bytes(&header);
        }
        for &(other, entry) in old {
            if other != slot {
                self.find.index.clear(other);
            }
            self.bury(entry.location());
        }
        if matches!(header.kind, Kind::Head | Kind::Partial) {
            self.heads.insert(header.object, Place { hash: header.hash, location });
        }
    }

    pub(super) fn take_out(&mut self, slot: Slot, location: u64) {
        self.find.index.clear(slot);
        self.bury(location);
    }

    /// What is left to do for a record that no entry leads to any more.
    fn bury(&mut self, location: u64) {
        self.mark_dead(location);
        self.discount(location);
    }

    pub(super) fn discount(&mut self, location: u64) {
        self.counts.entries -= 1;
        let Some((header, _)) = self.record(location) else { return };
        if header.kind != Kind::Chunk {
            self.counts.objects -= 1;
            self.counts.object_bytes -= reclaim::object_bytes(&header);
        }
        if matches!(header.kind, Kind::Head | Kind::Partial)
            && self.heads.get(&header.object).is_some_and(|head| head.location == location)
        {
            self.heads.remove(&header.object);
        }
    }

    /// Whether chunks from number 0 on are indexed that together are so long.
    pub fn complete(&self, object: u64, object_bytes: u64) -> bool {
        let mut bytes = 0;
        let mut chunk = 0;
        while bytes < object_bytes {
            let found =
                self.entries(layout::chunk_hash(object, chunk), |header, _| header.is_chunk(object, chunk));
            let header = found.first().and_then(|(_, entry)| self.record(entry.location()));
            match header.map_or(0, |(header, _)| u64::from(header.body_bytes)) {
                0 => return false,
                more => bytes += more,
            }
            chunk += 1;
        }
        bytes == object_bytes
    }

    /// What a segment's header says about its present life.
    pub(super) fn sequence(&self, segment: usize) -> Option<u64> {
        layout::segment_sequence(self.id, segment, self.map.words(segment))
    }

    /// Called before every change: a checkpoint made earlier does not hold any more.
    pub(super) fn changing(&mut self) {
        if std::mem::take(&mut self.checkpoint_made) {
            self.next_run();
        }
    }

    fn next_run(&mut self) {
        self.run += 1;
        self.map.words(0)[layout::RUN_WORD].store(self.run, Release);
        self.wrote(0, layout::RUN_WORD * 8..layout::RUN_WORD * 8 + 8);
    }

    pub(super) fn wrote(&mut self, segment: usize, range: Range<usize>) {
        let base = (segment * self.geometry.segment_bytes()) as u64;
        let (start, end) = (base + range.start as u64, base + range.end as u64);
        self.dirty = Some(match self.dirty.take() {
            Some(dirty) => dirty.start.min(start)..dirty.end.max(end),
            None => start..end,
        });
    }
}

/// Bytes of a body in pieces.
fn total(pieces: &[Bytes]) -> u64 {
    pieces.iter().map(|piece| piece.len() as u64).sum()
}
