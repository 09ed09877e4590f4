//! What the store counts, and what it says of itself. Decides nothing.
#![forbid(unsafe_code)]

use super::store::Writer;
use super::{Opened, Usage};
use std::fmt;
use std::path::PathBuf;

/// What is counted.
#[derive(Default)]
pub(super) struct Counts {
    /// Entries in the index.
    pub(super) entries: u64,
    /// Those that are not chunks.
    pub(super) objects: u64,
    /// Bytes of whole objects, as they are judged.
    pub(super) object_bytes: u64,
    pub(super) evicted: u64,
    pub(super) evicted_bytes: u64,
    pub(super) reclaimed_segments: u64,
    /// Bytes of records written, and of those that were only moved.
    pub(super) written_bytes: u64,
    pub(super) survivor_bytes: u64,
    pub(super) survivors: u64,
    /// Records that were found damaged when they were to be moved.
    pub(super) damaged: u64,
}

impl Writer {
    /// Usage now.
    pub fn usage(&self) -> Usage {
        let window = self.map.window();
        let residency = window.residency();
        Usage {
            size_bytes: self.geometry.file_bytes(),
            used_bytes: (self.segments.in_use() * self.geometry.segment_bytes()) as u64,
            objects: self.counts.entries,
            index_entries_max: self.find.index.entries_max() as u64,
            index_bytes: self.find.index.bytes() as u64,
            residency_bytes: residency.bytes() as u64,
            memory_bytes: match residency.is_tracked() {
                true => residency.present_bytes(),
                false => self.geometry.file_bytes(),
            },
            evicted: self.counts.evicted,
            reclaimed_segments: self.counts.reclaimed_segments,
            object_bytes: self.counts.object_bytes,
            small_log_bytes: self.occupancy().small_bytes,
            small_target_bytes: self.policy.small_target(),
            evicted_bytes: self.counts.evicted_bytes,
            survivors: self.counts.survivors,
            survivor_bytes: self.counts.survivor_bytes,
            written_bytes: self.counts.written_bytes,
            ghost_hits: self.policy.ghost_hits(),
            policy_bytes: self.policy.bytes() as u64,
            damaged: self.counts.damaged,
        }
    }
}

/// How one shard stands, for the status.
#[derive(Clone, Debug)]
pub struct ShardStatus {
    /// Its directory.
    pub path: PathBuf,
    /// Bytes it was given.
    pub size_bytes: u64,
    /// What opening it found.
    pub opened: Opened,
    /// What is in it; else why it is not in use.
    pub state: Result<Usage, String>,
}

impl fmt::Display for ShardStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Opened { objects, dropped, lost_segments, clean, scanned_bytes, took_ms } = self.opened;
        match &self.state {
            Err(why) => write!(f, "out of use: {why}"),
            Ok(_) if clean => write!(f, "{objects} objects, opened from its checkpoint in {took_ms} ms"),
            Ok(_) => {
                let rate = scanned_bytes as f64 / (1 << 30) as f64 / (took_ms.max(1) as f64 / 1000.0);
                let mib = scanned_bytes >> 20;
                write!(f, "{objects} objects, {mib} MiB scanned in {took_ms} ms, {rate:.2} GiB/s")?;
                write!(f, ", {dropped} torn records and {lost_segments} segments dropped")
            }
        }
    }
}
