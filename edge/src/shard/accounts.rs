//! What the store counts, and what it says of itself. Decides nothing.
#![forbid(unsafe_code)]

use super::place::Placed;
use super::reclaim::object_bytes;
use super::store::Writer;
use super::{Opened, Usage};
use crate::clock;
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
    pub(super) evicted_ages: Ages,
    pub(super) reclaimed_segments: u64,
    /// Bytes of records written, and of those that were only moved.
    pub(super) written_bytes: u64,
    pub(super) survivor_bytes: u64,
    pub(super) survivors: u64,
    /// Records that were found damaged when they were to be moved.
    pub(super) damaged: u64,
}

/// Upper bounds of the classes of ages, in seconds: a second to a month.
pub const AGES_S: [u64; 12] =
    [1, 10, 60, 600, 3600, 6 * 3600, DAY, 3 * DAY, 7 * DAY, 14 * DAY, 21 * DAY, 30 * DAY];
const DAY: u64 = 86_400;

/// How old objects were: how many of each class.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ages {
    classes: [u64; AGES_S.len() + 1],
    sum_s: u64,
}

impl Ages {
    /// One more of this age.
    pub(super) fn note(&mut self, age_s: u64) {
        self.classes[AGES_S.partition_point(|&most_s| most_s < age_s)] += 1;
        self.sum_s = self.sum_s.saturating_add(age_s);
    }

    pub(super) fn add(&mut self, other: &Ages) {
        self.classes.iter_mut().zip(other.classes).for_each(|(own, more)| *own += more);
        self.sum_s = self.sum_s.saturating_add(other.sum_s);
    }

    /// The classes: their upper bounds in seconds, and how many are in each.
    pub fn classes(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = AGES_S.iter().map(|&most_s| most_s as f64).chain([f64::INFINITY]);
        bounds.zip(self.classes)
    }

    /// All ages together, in seconds.
    pub fn sum_s(&self) -> u64 {
        self.sum_s
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.classes.iter().sum()
    }

    /// The age that this part of them did not exceed, in seconds: as if they were spread evenly within their class. What
    /// is beyond all classes counts as their end. `None`: there are none.
    pub fn quantile_s(&self, part: f64) -> Option<u64> {
        let wanted = part * self.count() as f64;
        let (mut before, mut least_s) = (0.0, 0);
        for (&most_s, &count) in AGES_S.iter().zip(&self.classes) {
            let count = count as f64;
            if count > 0.0 && before + count >= wanted {
                let into = ((wanted - before) / count).clamp(0.0, 1.0);
                return Some(least_s + (into * (most_s - least_s) as f64) as u64);
            }
            (before, least_s) = (before + count, most_s);
        }
        (self.count() > 0).then_some(least_s)
    }
}

impl Writer {
    /// Counts an object that had to leave, by its record.
    pub(super) fn count_evicted(&mut self, location: u64) {
        let Some((header, record)) = self.record(location) else { return };
        let born_s = (self.meaning.born_s)(&record[header.meta()]);
        self.counts.evicted += 1;
        self.counts.evicted_bytes += object_bytes(&header);
        self.counts.evicted_ages.note(clock::now().unix_s.saturating_sub(born_s));
    }

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
            evicted_ages: self.counts.evicted_ages,
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
    /// What its pages are, if it is in use.
    pub placed: Placed,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_fall_into_classes_and_quantiles_lie_within_them() {
        let mut ages = Ages::default();
        assert_eq!((ages.quantile_s(0.5), ages.count()), (None, 0));
        (0..100).for_each(|_| ages.note(40));
        assert_eq!((ages.count(), ages.sum_s()), (100, 4000));
        assert_eq!(ages.quantile_s(0.5), Some(35), "in the middle of 10 to 60");
        let mut more = Ages::default();
        (0..50).for_each(|_| more.note(10));
        (0..50).for_each(|_| more.note(365 * DAY));
        ages.add(&more);
        assert_eq!(ages.classes().map(|(_, count)| count).collect::<Vec<_>>()[1..3], [50, 100]);
        assert_eq!(ages.classes().last(), Some((f64::INFINITY, 50)));
        assert_eq!([ages.quantile_s(0.25), ages.quantile_s(1.0)], [Some(10), Some(30 * DAY)]);
    }
}
