//! STORAGE: mapped segment logs with an index that workers read without waiting.
//!
//! One writer (control) appends records and publishes them into the index; workers look keys up and pin
//! the segment until their last send from it completes. HTTP is not known here: a record is a key, meta
//! bytes, head bytes and body bytes.
//!
//! The first 8 bytes of the meta are the record's *discriminator* (zeroes stand in for missing ones). It tells apart
//! records of one key that live side by side, such as variants by Vary: a caller writes a hash of what selects the
//! variant there, or 0. Of several records with the same key and discriminator only the newest is kept, while running
//! and when the store is opened again. Callers may not use it for anything else.
//!
//! Hashes are stored: the function that makes them from keys must stay the same across restarts.
#![forbid(unsafe_code)]

mod accounts;
mod append;
mod checkpoint;
pub mod evict;
mod flush;
mod home;
pub mod index;
pub mod inspect;
pub mod layout;
pub mod left;
mod medium;
pub mod miniature;
mod missed;
mod place;
pub mod purge_log;
mod read;
mod reader;
mod rebuild;
mod reclaim;
mod recover;
mod reopen;
mod rescue;
pub mod residency;
mod scan;
mod set;
mod shadow;
mod store;
mod sweep;
mod usage;

pub use read::{Cold, Pinned};

pub use accounts::{Ages, ShardStatus};
pub use append::{Body, Label};
pub use flush::{ToFlush, is_passing};
pub use medium::free_huge_pages;
pub use place::{Hold, Placed};
pub use reopen::{Reopened, Reopening};
pub use set::{Reader, ShardReader, Writer};
pub use shadow::{Estimate, Estimates, Seen};

use crate::limits;
use std::path::PathBuf;

/// Bytes of a sampled request that waits to be played, see [`Reader::sample`].
pub const SAMPLE_BYTES: usize = size_of::<shadow::Sample>();

/// What the meta bytes of a record mean to who stored it.
#[derive(Clone, Copy, Debug)]
pub struct Meaning {
    /// Whether it is worth keeping when its segment is emptied; else it can never be served again.
    pub is_worth: fn(&[u8]) -> bool,
    /// When it came, Unix seconds.
    pub born_s: fn(&[u8]) -> u64,
    /// Until when it may answer as it is, Unix seconds.
    pub until_s: fn(&[u8]) -> u32,
}

impl Default for Meaning {
    /// For records without a time: all are worth keeping and answer for ever.
    fn default() -> Self {
        Meaning { is_worth: |_| true, born_s: |_| 0, until_s: |_| u32::MAX }
    }
}

/// How to open one shard of a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of the shard file; made if missing.
    pub path: PathBuf,
    /// Bytes of the shard file; rounded down to whole segments, at least four of them.
    pub size_bytes: u64,
    /// Bytes an object takes on average; the index has an entry for each object of that size.
    pub object_bytes: u64,
    /// How many readers there will be.
    pub readers: usize,
    /// Directory of the files that are written, not mapped. `None`: `path`; or, where that is hugetlbfs, one named after
    /// it below `/var/lib/edge`.
    pub state: Option<PathBuf>,
    /// What becomes of its pages at the start.
    pub hold: Hold,
    /// CPUs of the readers: its pages come from the memory next to them.
    pub cpus: Vec<usize>,
    /// Is told how far opening has come, if that takes long.
    pub progress: fn(&str),
}

impl Default for Options {
    fn default() -> Self {
        Options {
            path: PathBuf::new(),
            size_bytes: limits::STORE_BYTES_MIN,
            object_bytes: limits::OBJECT_BYTES,
            readers: 0,
            state: None,
            hold: Hold::AsUsed,
            cpus: Vec::new(),
            progress: |_| {},
        }
    }
}

impl Options {
    fn index_entries(&self) -> usize {
        let entries = self.size_bytes / self.object_bytes.max(1);
        usize::try_from(entries).map_or(index::ENTRIES_MAX, |entries| entries.min(index::ENTRIES_MAX))
    }
}

/// Why a store did not open.
#[derive(Debug, thiserror::Error)]
#[error("store {path}: {what}: {remedy}")]
pub struct OpenError {
    /// The path concerned.
    pub path: String,
    /// What happened.
    pub what: String,
    /// What the operator can do.
    pub remedy: String,
    /// Whether the disk or its file system is at fault, so that other shards may serve without this one. Else
    /// somebody has to decide something: whose file this is, which process uses it, how large it shall be.
    pub of_disk: bool,
}

/// What opening found.
#[derive(Clone, Debug, Default)]
pub struct Opened {
    /// Objects served again.
    pub objects: u64,
    /// Records dropped because a checksum did not match.
    pub dropped: u64,
    /// Segments lost whole, because what was removed from them is not known any more.
    pub lost_segments: u64,
    /// Whether a checkpoint made a scan needless.
    pub clean: bool,
    /// Bytes scanned.
    pub scanned_bytes: u64,
    /// Milliseconds it took.
    pub took_ms: u64,
}

impl Opened {
    fn add(&mut self, other: &Opened) {
        self.objects += other.objects;
        self.dropped += other.dropped;
        self.lost_segments += other.lost_segments;
        self.clean &= other.clean;
        self.scanned_bytes += other.scanned_bytes;
        // They are opened at the same time.
        self.took_ms = self.took_ms.max(other.took_ms);
    }
}

/// Why an object could not be stored; it is served all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PutError {
    /// Every segment that could be reclaimed is pinned by a reader.
    #[error("all segments are pinned")]
    Pinned,
    /// Key, meta, head and body do not fit one segment.
    #[error("record larger than a segment")]
    TooLarge,
    /// The shard it belongs to is out of use.
    #[error("its shard is out of use")]
    NoShard,
}

/// Usage for status and metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Bytes of the shard file.
    pub size_bytes: u64,
    /// Bytes in segments that hold records.
    pub used_bytes: u64,
    /// Entries in the index.
    pub objects: u64,
    /// Entries the index can hold.
    pub index_entries_max: u64,
    /// Bytes of the index.
    pub index_bytes: u64,
    /// Bytes that note which pages are in memory; 0: the shard is memory.
    pub residency_bytes: u64,
    /// Bytes of the shard file that were in memory when last counted.
    pub memory_bytes: u64,
    /// Objects dropped by reclaim since start.
    pub evicted: u64,
    /// How old they were.
    pub evicted_ages: Ages,
    /// Segments reclaimed since start.
    pub reclaimed_segments: u64,
    /// Bytes of the objects stored, without what is dead.
    pub object_bytes: u64,
    /// Bytes of segments of the small log, where new objects wait to be read again.
    pub small_log_bytes: u64,
    /// Bytes that the policy gives the small log now.
    pub small_target_bytes: u64,
    /// Bytes of the objects dropped by reclaim since start.
    pub evicted_bytes: u64,
    /// Objects kept by reclaim since start: written again.
    pub survivors: u64,
    /// Bytes written again for them.
    pub survivor_bytes: u64,
    /// Bytes of records written since start, those written again included.
    pub written_bytes: u64,
    /// Misses of objects that had been evicted not long before.
    pub ghost_hits: u64,
    /// Bytes of memory of the eviction policy.
    pub policy_bytes: u64,
    /// Records found damaged when they were to be kept, and dropped.
    pub damaged: u64,
}

impl Usage {
    fn add(&mut self, other: &Usage) {
        self.size_bytes += other.size_bytes;
        self.used_bytes += other.used_bytes;
        self.objects += other.objects;
        self.index_entries_max += other.index_entries_max;
        self.index_bytes += other.index_bytes;
        self.residency_bytes += other.residency_bytes;
        self.memory_bytes += other.memory_bytes;
        self.evicted += other.evicted;
        self.evicted_ages.add(&other.evicted_ages);
        self.reclaimed_segments += other.reclaimed_segments;
        self.object_bytes += other.object_bytes;
        self.small_log_bytes += other.small_log_bytes;
        self.small_target_bytes += other.small_target_bytes;
        self.evicted_bytes += other.evicted_bytes;
        self.survivors += other.survivors;
        self.survivor_bytes += other.survivor_bytes;
        self.written_bytes += other.written_bytes;
        self.ghost_hits += other.ghost_hits;
        self.policy_bytes += other.policy_bytes;
        self.damaged += other.damaged;
    }
}

/// Opens (or creates) the store: one shard or several, with the same number of readers each, at most
/// [`limits::SHARDS_MAX`]. The readers are returned in order.
///
/// A shard file of another size is kept: it grows, or it loses the segments beyond the new end and what they
/// held; how long its segments are was settled when it was made. One that another version made, or that is none of ours, is refused and left alone. Of several shards one
/// whose disk fails is left out. Blocks until all is read that must be: after a clean stop the checkpoint, else
/// every record.
pub fn open(shards: &[Options]) -> Result<(Writer, Vec<Reader>, Opened), OpenError> {
    set::open(shards, limits::segment_bytes)
}

#[cfg(test)]
pub(crate) use set::simulated;

#[cfg(test)]
pub(crate) mod scratch;
#[cfg(test)]
mod tests;
