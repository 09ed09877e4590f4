//! A store without bytes: the writer's part of eviction played over numbers alone, with the policy of
//! [`super::evict`]. It has segments, appends to two logs, empties the oldest segment, and appends again what stays,
//! as the store does. `cargo xtask simulate` replays traces through it, and `shadow` a sample of the requests, to learn
//! what a store of another size would do. Pure: no file, no clock, no mapping.
#![forbid(unsafe_code)]

use super::evict::{Candidate, Log, Occupancy, Policy, Verdict};
use super::index::FREQUENCY_MAX;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

/// Segments kept free so that survivors have a place before the segment they leave is given back.
const RESERVE: usize = 1;
/// Below so many segments none is kept free: it would be too large a part of the whole.
const RESERVE_FROM: usize = 16;
/// Laps over all segments in which survivors are kept before one is free: as many as a count can be lowered. A large object
/// whose last record, which lowers it, lies in the other log would go round for ever.
const LAPS_MAX: usize = FREQUENCY_MAX as usize + 1;
/// A segment holds at least so many of the largest records.
const RECORDS_PER_SEGMENT: u64 = 8;
/// An object may take this part (1/N) of the capacity.
const SHARE_PER_OBJECT: u64 = crate::limits::STORE_SHARE_PER_OBJECT;

/// Objects by the hash of their key.
type Objects = HashMap<u64, Object, BuildHasherDefault<Given>>;

/// The cache.
pub struct Miniature {
    policy: Policy,
    segment_bytes: u64,
    object_bytes_max: u64,
    objects_max: usize,
    logs: [Segments; 2],
    /// Segments that hold nothing.
    free: usize,
    reserve: usize,
    segments: usize,
    objects: Objects,
    bytes: u64,
    lives: u32,
    filling: bool,
}

/// The segments of one log.
#[derive(Default)]
struct Segments {
    sealed: VecDeque<Segment>,
    active: Option<Segment>,
}

#[derive(Default)]
struct Segment {
    used: u64,
    records: Vec<Record>,
}

/// One record of an object: all of it, or a chunk.
struct Record {
    hash: u64,
    life: u32,
    bytes: u64,
    is_last: bool,
}

struct Object {
    bytes: u64,
    /// What the caller wants to know of it again.
    note: u32,
    /// Which of the objects that had this hash: records of earlier ones are dead.
    life: u32,
    frequency: u8,
}

impl Miniature {
    /// A cache of at most `capacity` bytes in segments of `segment_bytes`, that remembers `ghosts_max` of what left.
    pub fn new(capacity: u64, segment_bytes: u64, ghosts_max: usize) -> Self {
        let segment_bytes = segment_bytes.clamp(1, capacity.max(1));
        let segments = (capacity / segment_bytes) as usize;
        let reserve = if segments >= RESERVE_FROM { RESERVE } else { 0 };
        Miniature {
            policy: Policy::new(capacity, ghosts_max),
            segment_bytes,
            object_bytes_max: (capacity / SHARE_PER_OBJECT).max(segment_bytes),
            objects_max: usize::MAX,
            logs: Default::default(),
            free: segments,
            reserve,
            segments,
            objects: Objects::default(),
            bytes: 0,
            lives: 0,
            filling: true,
        }
    }

    /// With at most so many objects, as the index of a store bounds them.
    pub fn bounded(self, objects_max: usize) -> Self {
        Miniature { objects_max: objects_max.max(1), ..self }
    }

    /// A request: a hit raises the count of what is stored, a miss stores the object. Says whether it was a hit. What is
    /// stored keeps the size it had when it was stored.
    pub fn request(&mut self, hash: u64, bytes: u64) -> bool {
        let hit = self.read(hash).is_some();
        if !hit {
            self.store(hash, bytes, 0);
        }
        hit
    }

    /// Reads an object: its count rises. The note it was stored with.
    pub fn read(&mut self, hash: u64) -> Option<u32> {
        let object = self.objects.get_mut(&hash)?;
        object.frequency = (object.frequency + 1).min(FREQUENCY_MAX as u8);
        Some(object.note)
    }

    /// Stores an object, if it is not too large; of one that is there only the note changes.
    pub fn store(&mut self, hash: u64, bytes: u64, note: u32) {
        if let Some(object) = self.objects.get_mut(&hash) {
            object.note = note;
        } else if bytes <= self.object_bytes_max {
            self.put(hash, bytes.max(1), note);
        }
    }

    /// Removes an object.
    pub fn remove(&mut self, hash: u64) {
        self.drop_object(hash);
    }

    /// Bytes of the largest object that is stored.
    pub fn object_bytes_max(&self) -> u64 {
        self.object_bytes_max
    }

    /// Objects stored.
    pub fn objects(&self) -> usize {
        self.objects.len()
    }

    /// Bytes of segments in use; never more than the capacity.
    pub fn used_bytes(&self) -> u64 {
        let segments = self.logs.iter().map(|log| log.sealed.len() + usize::from(log.active.is_some()));
        segments.sum::<usize>() as u64 * self.segment_bytes
    }

    /// Bytes that the policy gives the small log now.
    pub fn small_target(&self) -> u64 {
        self.policy.small_target()
    }

    fn occupancy(&self) -> Occupancy {
        let small = &self.logs[Log::Small as usize];
        Occupancy {
            objects: self.objects.len() as u64,
            bytes: self.bytes,
            small_bytes: (small.sealed.len() + usize::from(small.active.is_some())) as u64
                * self.segment_bytes,
            filling: self.filling,
        }
    }

    fn put(&mut self, hash: u64, bytes: u64, note: u32) {
        if !self.empty_while(Log::Small, |store| store.objects.len() >= store.objects_max) {
            return;
        }
        let log = self.policy.admit(hash, &self.occupancy());
        self.lives = self.lives.wrapping_add(1);
        let life = self.lives;
        self.objects.insert(hash, Object { bytes, note, life, frequency: 0 });
        self.bytes += bytes;
        let record_max = (self.segment_bytes / RECORDS_PER_SEGMENT).max(1);
        let mut rest = bytes;
        while rest > 0 {
            let record = Record { hash, life, bytes: rest.min(record_max), is_last: rest <= record_max };
            rest -= record.bytes;
            if !self.fits(log, record.bytes) {
                self.empty_while(log, |store| store.free <= store.reserve);
            }
            // What makes room may have cost this very object its first records.
            if !self.lives(&record) {
                return;
            }
            if !self.append(log, record) {
                self.drop_object(hash);
                return;
            }
        }
    }

    fn fits(&self, log: Log, bytes: u64) -> bool {
        self.logs[log as usize]
            .active
            .as_ref()
            .is_some_and(|active| active.used + bytes <= self.segment_bytes)
    }

    fn lives(&self, record: &Record) -> bool {
        self.objects.get(&record.hash).is_some_and(|object| object.life == record.life)
    }

    /// Empties segments, for a record of this log, as long as there is need to. Each lap over the main log lowers the
    /// counts of what is whole there; what still stays after [`LAPS_MAX`] leaves. `false`: there is none left.
    fn empty_while(&mut self, log: Log, needs: impl Fn(&Self) -> bool) -> bool {
        let mut keeping = LAPS_MAX * self.segments;
        while needs(self) {
            if !self.empty_one(log, keeping > 0) {
                return false;
            }
            keeping = keeping.saturating_sub(1);
        }
        true
    }

    /// Empties the segment whose turn it is. `false`: there is none.
    fn empty_one(&mut self, log: Log, keep: bool) -> bool {
        self.filling = false;
        let now = self.occupancy();
        let wanted = self.policy.victim(&now);
        let other = if wanted == Log::Small { Log::Main } else { Log::Small };
        let oldest = |log: Log| self.logs[log as usize].sealed.is_empty();
        let from = match (oldest(wanted), oldest(other)) {
            (false, _) => wanted,
            (_, false) => other,
            // Only segments being written are left.
            _ => match log {
                Log::Small => Log::Main,
                Log::Main => Log::Small,
            },
        };
        let segments = &mut self.logs[from as usize];
        let Some(segment) = segments.sealed.pop_front().or_else(|| segments.active.take()) else {
            return false;
        };
        self.free += 1;
        for record in segment.records {
            self.judge(record, from, keep);
        }
        true
    }

    /// Settles what becomes of a record whose segment is emptied.
    fn judge(&mut self, record: Record, log: Log, keep: bool) {
        let now = self.occupancy();
        let Some(object) = self.objects.get(&record.hash).filter(|object| object.life == record.life) else {
            return;
        };
        let frequency = u64::from(object.frequency);
        let candidate = Candidate { hash: record.hash, bytes: object.bytes, frequency, log };
        let (hash, is_last) = (record.hash, record.is_last);
        match self.policy.judge(&candidate, &now) {
            Verdict::Keep(frequency) if keep && self.append(Log::Main, record) => {
                if let Some(object) = self.objects.get_mut(&hash).filter(|_| is_last) {
                    object.frequency = frequency as u8;
                }
            }
            _ => {
                self.policy.left(&candidate);
                self.drop_object(hash);
            }
        }
    }

    fn append(&mut self, log: Log, record: Record) -> bool {
        if !self.fits(log, record.bytes) {
            if self.free == 0 {
                return false;
            }
            self.free -= 1;
            let segments = &mut self.logs[log as usize];
            segments.sealed.extend(segments.active.take());
        }
        let active = self.logs[log as usize].active.get_or_insert_default();
        active.used += record.bytes;
        active.records.push(record);
        true
    }

    fn drop_object(&mut self, hash: u64) {
        if let Some(object) = self.objects.remove(&hash) {
            self.bytes -= object.bytes;
        }
    }
}

/// The hasher of what is a hash already.
#[derive(Default)]
pub struct Given(u64);

impl Hasher for Given {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only hashes of 64 bits are keys here");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
