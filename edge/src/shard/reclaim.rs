//! Which segment is written next, and how one is emptied for it: the oldest of the log that the policy names, those that
//! a reader holds left for later. What the policy keeps is appended to the main log again. No reader is waited for.
//!
//! The order in which a record moves, so that a reader never finds a gap and a killed process never serves again what
//! was removed: the copy is complete; then the index leads to it; then the old one is marked dead; and only when that
//! is done for all records of a segment is its header taken off and the segment written again.
//!
//! Emptying is done in steps, some bytes for each byte that is stored, so that no single put has to carry a whole
//! segment's survivors.
#![forbid(unsafe_code)]

use super::PutError;
use super::evict::{Candidate, Log, Occupancy, Verdict};
use super::index::{Entry, Slot};
use super::layout::{self, HEADER_BYTES, Header, Kind, PayloadChecksum};
use super::left::Why;
use super::store::{Place, Writer};
use std::collections::VecDeque;
use std::sync::atomic::Ordering::Release;

/// Stores below so many segments have one log, in which everything is judged as in the main one, and keep no segment
/// in reserve: two logs being written and a reserve would be too large a part of them.
const TWO_LOGS_FROM: usize = 8;
/// Segments kept free in stores with two logs, so that survivors have a place before their old one is given back.
const RESERVE: usize = 1;
/// Bytes of a segment being emptied that are looked at for each byte stored. What survives costs as many bytes written:
/// at 4, up to three quarters may survive and emptying still keeps up with storing.
const PACE: usize = 4;
/// Segments of survivors that one put may have to append when emptying did not keep up; then no more survive.
const FORCED_SEGMENTS: usize = 1;

/// Which segment is what. Each one is in exactly one place.
#[derive(Default)]
pub(super) struct Segments {
    /// The one of each log that is being written, and where its next record goes.
    pub(super) active: [Option<(usize, usize)>; 2],
    /// Full ones of each log, the oldest first.
    pub(super) sealed: [VecDeque<usize>; 2],
    /// The one being emptied.
    pub(super) draining: Option<Drain>,
    /// Emptied of index entries, but still held by a reader.
    pub(super) shut: Vec<usize>,
    /// Holding nothing.
    pub(super) free: Vec<usize>,
    /// Sequence number given out last. The lowest bit of a segment's number tells its log.
    pub(super) sequence: u64,
}

/// How far a segment is emptied.
#[derive(Clone, Copy)]
pub(super) struct Drain {
    pub(super) segment: usize,
    log: Log,
    at: usize,
}

impl Segments {
    /// Puts a full segment where its sequence number says it belongs. To be called in the order of these numbers.
    pub(super) fn take_over(&mut self, segment: usize, sequence: u64, all: usize) {
        self.sealed[log_of(sequence, all) as usize].push_back(segment);
        self.sequence = self.sequence.max(sequence);
    }

    /// Segments that hold something.
    pub(super) fn in_use(&self) -> usize {
        self.of(Log::Small) + self.of(Log::Main)
    }

    /// Ends the writing and the emptying of segments: all that hold something are sealed.
    pub(super) fn seal_all(&mut self) {
        let draining = self.draining.take().map(|drain| drain.segment);
        let active = self.active.iter_mut().filter_map(Option::take).map(|(segment, _)| segment);
        self.sealed[Log::Main as usize].extend(active.chain(draining));
    }

    fn of(&self, log: Log) -> usize {
        let draining = self.draining.is_some_and(|drain| drain.log == log);
        self.sealed[log as usize].len()
            + usize::from(self.active[log as usize].is_some())
            + usize::from(draining)
    }
}

/// The log that a segment with this sequence number belongs to, in a store of so many segments.
pub(super) fn log_of(sequence: u64, segments: usize) -> Log {
    if segments >= TWO_LOGS_FROM && sequence.is_multiple_of(2) { Log::Small } else { Log::Main }
}

impl Writer {
    /// Where the next record of this length goes in this log.
    pub(super) fn room(&mut self, log: Log, record_bytes: usize) -> Result<(usize, usize), PutError> {
        let log = if self.two_logs() { log } else { Log::Main };
        self.empty_ahead(log, record_bytes);
        if let Some(place) = self.room_in_active(log, record_bytes) {
            return Ok(place);
        }
        self.empty_enough();
        self.next_active(log).ok_or(PutError::Pinned)
    }

    /// What fills the store, for the policy.
    pub(super) fn occupancy(&self) -> Occupancy {
        Occupancy {
            objects: self.counts.objects,
            bytes: self.counts.object_bytes,
            small_bytes: (self.segments.of(Log::Small) * self.geometry.segment_bytes()) as u64,
            // Those given back are free for a moment too, but for them something had to leave.
            filling: self.counts.reclaimed_segments == 0 && self.segments.free.len() > self.reserve(),
        }
    }

    fn two_logs(&self) -> bool {
        self.geometry.segments >= TWO_LOGS_FROM
    }

    fn reserve(&self) -> usize {
        if self.two_logs() { RESERVE } else { 0 }
    }

    fn room_in_active(&self, log: Log, record_bytes: usize) -> Option<(usize, usize)> {
        let (segment, at) = self.segments.active[log as usize]?;
        (at + record_bytes <= self.geometry.segment_bytes()).then_some((segment, at))
    }

    /// Begins a new segment of this log, if one is ready.
    fn next_active(&mut self, log: Log) -> Option<(usize, usize)> {
        let segments = &mut self.segments;
        let segment = [&mut segments.shut, &mut segments.free].into_iter().find_map(|list| {
            let i = list.iter().position(|&segment| self.map.reset(segment))?;
            Some(list.swap_remove(i))
        })?;
        if let Some((full, _)) = self.segments.active[log as usize].take() {
            self.segments.sealed[log as usize].push_back(full);
        }
        self.begin(segment, log);
        let start = self.geometry.words_bytes();
        self.segments.active[log as usize] = Some((segment, start));
        Some((segment, start))
    }

    /// Segments that could be begun now.
    fn ready(&self) -> usize {
        let left = self.segments.shut.iter().filter(|&&segment| !self.map.pinned(segment));
        self.segments.free.len() + left.count()
    }

    /// A step of emptying for a record about to be stored, once the segment that takes it is half full.
    fn empty_ahead(&mut self, log: Log, record_bytes: usize) {
        let half = self.geometry.segment_bytes() / 2;
        let is_due = self.segments.active[log as usize].is_some_and(|(_, at)| at > half);
        if !self.two_logs() || !is_due && self.segments.draining.is_none() {
            return;
        }
        let mut budget = PACE * record_bytes;
        while budget > 0 && self.ready() <= self.reserve() {
            if !self.drain_some(&mut budget, true) {
                return;
            }
        }
    }

    /// Empties until a segment can be begun and the reserve is left. At first what is kept is appended again; after
    /// [`FORCED_SEGMENTS`] nothing is kept, so that this ends with the first segment that no reader holds.
    fn empty_enough(&mut self) {
        let mut keeping = FORCED_SEGMENTS * self.geometry.segment_bytes();
        while self.ready() <= self.reserve() {
            let keep = keeping > 0;
            let mut budget = if keep { keeping } else { usize::MAX };
            if !self.drain_some(&mut budget, keep) {
                return;
            }
            if keep {
                keeping = budget;
            }
        }
    }

    /// Empties a segment, or a part of it: bytes looked at are taken from the budget. `false`: there is none to empty.
    fn drain_some(&mut self, budget: &mut usize, keep: bool) -> bool {
        let Some(mut drain) = self.segments.draining.take().or_else(|| self.next_victim()) else {
            return false;
        };
        let end = self.map.filled(drain.segment);
        while drain.at < end && *budget > 0 {
            let location = self.geometry.location(drain.segment, drain.at);
            let Some((header, _)) = self.record(location) else { break };
            drain.at += header.record_bytes();
            *budget = budget.saturating_sub(header.record_bytes());
            self.judge(location, &header, drain.log, keep);
        }
        if drain.at < end && *budget == 0 {
            self.segments.draining = Some(drain);
            return true;
        }
        self.close(drain, end);
        true
    }

    /// Empties all of a sealed segment now, whoever holds it, and keeps nothing of it.
    pub(super) fn drain(&mut self, segment: usize) {
        self.segments.sealed.iter_mut().for_each(|sealed| sealed.retain(|&other| other != segment));
        let before = self.segments.draining.take();
        self.segments.draining = Some(Drain { segment, log: Log::Main, at: self.geometry.words_bytes() });
        let mut all = usize::MAX;
        self.drain_some(&mut all, false);
        self.segments.draining = before;
    }

    /// The oldest segment of the log that the policy names, else of the other, that no reader holds.
    fn next_victim(&mut self) -> Option<Drain> {
        let first = if self.two_logs() { self.policy.victim(&self.occupancy()) } else { Log::Main };
        let second = if first == Log::Small { Log::Main } else { Log::Small };
        [first, second].into_iter().find_map(|log| {
            let sealed = &mut self.segments.sealed[log as usize];
            let i = sealed.iter().position(|&segment| !self.map.pinned(segment))?;
            let segment = sealed.remove(i)?;
            Some(Drain { segment, log, at: self.geometry.words_bytes() })
        })
    }

    /// Settles what becomes of a record whose segment is emptied.
    fn judge(&mut self, location: u64, header: &Header, log: Log, keep: bool) {
        let Some((slot, entry)) = self.find.index.leading_to(header.hash, location) else { return };
        // The head of a fill under way is not there yet: what it has so far is neither judged nor lost.
        let is_fill = header.kind == Kind::Chunk && self.fills.contains(&header.object);
        if is_fill && keep && self.relocate(slot, location, header, 0) {
            return;
        }
        if let Some(candidate) = self.candidate(location, header, entry, log) {
            match self.policy.judge(&candidate, &self.occupancy()) {
                Verdict::Keep(frequency) if keep && self.relocate(slot, location, header, frequency) => {
                    return;
                }
                _ => self.policy.left(&candidate),
            }
        }
        self.evict(slot, location, header);
    }

    /// What the policy is to judge. `None`: nothing worth keeping, such as a chunk without a head. Chunks are judged as
    /// the object that needs them all, those of a partial object each on its own.
    fn candidate(&self, location: u64, header: &Header, entry: Entry, log: Log) -> Option<Candidate> {
        let candidate = |header: &Header, entry: Entry| Candidate {
            hash: header.hash,
            bytes: object_bytes(header),
            frequency: entry.frequency(),
            log,
        };
        let is_worth = |header: &Header, record: &[u8]| (self.meaning.is_worth)(&record[header.meta()]);
        if header.kind != Kind::Chunk {
            let (_, record) = self.record(location)?;
            return is_worth(header, record).then(|| candidate(header, entry));
        }
        let place = self.heads.get(&header.object)?;
        let (head, record) = self.record(place.location)?;
        if !is_worth(&head, record) {
            return None;
        }
        if head.kind == Kind::Partial {
            return Some(candidate(header, entry));
        }
        let (_, entry) = self.find.index.leading_to(place.hash, place.location)?;
        Some(candidate(&head, entry))
    }

    /// Appends a record of the main log again and lets its entry lead there. `false`: no room, or the record is damaged.
    fn relocate(&mut self, slot: Slot, location: u64, header: &Header, frequency: u64) -> bool {
        let bytes = header.record_bytes();
        let Some((segment, start)) =
            self.room_in_active(Log::Main, bytes).or_else(|| self.next_active(Log::Main))
        else {
            return false;
        };
        let (from, offset) = self.geometry.place(location);
        let whole = offset..offset + header.body().end;
        let Some(record) = self.map.bytes(from, whole.clone()) else { return false };
        // What is damaged must not get a new checksum that says it is whole.
        let seed = layout::seed(self.id, header.sequence);
        let payload = &record[HEADER_BYTES..];
        let verified = Header::verify(&record[..HEADER_BYTES], header.sequence, seed);
        if verified.is_none_or(|(_, checksum)| PayloadChecksum::of(payload, seed) != checksum) {
            self.counts.damaged += 1;
            return false;
        }
        let Some(sequence) = self.sequence(segment) else { return false };
        let seed = layout::seed(self.id, sequence);
        let moved = Header { sequence, ..*header }.encode(PayloadChecksum::of(payload, seed), seed);
        self.map.copy(from, whole.start + HEADER_BYTES..whole.end, segment, start + HEADER_BYTES);
        self.map.write(segment, start, &moved);
        let new = self.written(segment, start, bytes);
        self.find.index.set(slot, Entry::new(header.hash, (new, bytes), frequency));
        if matches!(header.kind, Kind::Head | Kind::Partial) {
            self.heads.insert(header.object, Place { hash: header.hash, location: new });
        }
        self.mark_dead(location);
        self.counts.survivors += u64::from(header.kind != Kind::Chunk);
        self.counts.survivor_bytes += bytes as u64;
        true
    }

    fn evict(&mut self, slot: Slot, location: u64, header: &Header) {
        self.take_out(slot, location);
        match header.kind {
            Kind::Chunk => self.lost_chunk(header.object),
            Kind::Whole | Kind::Head | Kind::Partial => {
                self.count_evicted(location);
                self.left.note(header.hash, Why::Reclaimed);
            }
        }
    }

    /// Drops the head of an object that has lost a chunk, if it has one that needs them all.
    pub(super) fn lost_chunk(&mut self, object: u64) {
        let head = self.heads.get(&object).and_then(|head| self.record(head.location));
        if head.is_some_and(|(header, _)| header.kind == Kind::Head) {
            self.drop_head(object);
        }
    }

    pub(super) fn drop_head(&mut self, object: u64) {
        let Some(head) = self.heads.get(&object).copied() else { return };
        if let Some(slot) = self.find.index.locate(head.hash, head.location) {
            self.count_evicted(head.location);
            self.left.note(head.hash, Why::ChunkLost);
            self.take_out(slot, head.location);
        }
    }

    /// Ends the emptying of a segment: its header goes off the disk, and it can be written again once no reader holds it.
    fn close(&mut self, drain: Drain, end: usize) {
        let Drain { segment, at, .. } = drain;
        for word in &self.map.words(segment)[layout::SEGMENT_WORDS] {
            word.store(0, Release);
        }
        self.wrote(segment, 0..self.geometry.words_bytes());
        if at < end {
            // Something other than us has written here. Costs a walk over the whole index, once.
            let here = |entry: &Entry| self.geometry.place(entry.location()).0 == segment;
            let lost: Vec<_> = self.find.index.entries().filter(|(_, entry)| here(entry)).collect();
            lost.iter().for_each(|&(slot, _)| self.find.index.clear(slot));
            self.heads.retain(|_, head| self.geometry.place(head.location).0 != segment);
            self.settle();
        }
        self.counts.reclaimed_segments += 1;
        let list = if self.map.reset(segment) { &mut self.segments.free } else { &mut self.segments.shut };
        list.push(segment);
    }

    /// Starts a new life of an emptied segment.
    fn begin(&mut self, segment: usize, log: Log) {
        self.segments.sequence = (self.segments.sequence / 2 + 1) * 2 + u64::from(log == Log::Main);
        let words = self.map.words(segment);
        layout::clear_dead(words, layout::seed(self.id, self.segments.sequence));
        let values = layout::segment_words(self.id, segment, self.segments.sequence);
        for (word, value) in words[layout::SEGMENT_WORDS].iter().zip(values) {
            word.store(value, Release);
        }
        self.wrote(segment, 0..self.geometry.words_bytes());
    }
}

/// Bytes that an object takes in the store, near enough for judging it.
pub(super) fn object_bytes(header: &Header) -> u64 {
    match header.kind {
        Kind::Head => header.object_bytes() + header.record_bytes() as u64,
        Kind::Whole | Kind::Partial | Kind::Chunk => header.record_bytes() as u64,
    }
}
