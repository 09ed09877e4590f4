//! What a shard lies on, as far as it matters here: the size of its pages, whether these can leave memory, and whether
//! files there take writes at all.
#![forbid(unsafe_code)]

use nix::sys::statfs::{HUGETLBFS_MAGIC, TMPFS_MAGIC, statfs};
use std::fmt;
use std::path::Path;

/// What a directory lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Medium {
    /// hugetlbfs: memory in pages of this many bytes, which never leave it. Files there are mapped, not written.
    HugePages(u64),
    /// tmpfs on a machine without swap: memory that stays. Swap that is turned on later is not noticed; pages that went
    /// there are then waited for.
    Memory,
    /// tmpfs that may be swapped out.
    Swapped,
    /// Anything else, also what cannot be told.
    Disk,
}

impl Medium {
    /// What this directory lies on.
    pub(crate) fn of(directory: &Path) -> Self {
        let Ok(stat) = statfs(directory) else { return Medium::Disk };
        match stat.filesystem_type() {
            HUGETLBFS_MAGIC => match u64::try_from(stat.block_size()) {
                Ok(bytes) if bytes.is_power_of_two() => Medium::HugePages(bytes),
                _ => Medium::Disk,
            },
            TMPFS_MAGIC => match std::fs::read_to_string("/proc/swaps") {
                Ok(swaps) if !has_swap(&swaps) => Medium::Memory,
                _ => Medium::Swapped,
            },
            _ => Medium::Disk,
        }
    }

    /// Whether pages stay in memory whatever happens.
    pub(crate) fn stays_in_memory(self) -> bool {
        matches!(self, Medium::HugePages(_) | Medium::Memory)
    }

    /// Whether a block of a file is memory from the moment it is allocated.
    pub(crate) fn is_memory(self) -> bool {
        self != Medium::Disk
    }
}

impl fmt::Display for Medium {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Medium::HugePages(bytes) if *bytes >= 1 << 30 => write!(f, "huge pages of {} GiB", bytes >> 30),
            Medium::HugePages(bytes) => write!(f, "huge pages of {} MiB", bytes >> 20),
            Medium::Memory => f.write_str("memory (tmpfs)"),
            Medium::Swapped => f.write_str("memory that may be swapped out (tmpfs)"),
            Medium::Disk => f.write_str("disk"),
        }
    }
}

/// Huge pages of this size that are free on the machine.
pub fn free_huge_pages(page_bytes: u64) -> Option<u64> {
    let path = format!("/sys/kernel/mm/hugepages/hugepages-{}kB/free_hugepages", page_bytes >> 10);
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// From `/proc/swaps`: a headline, then a line for each area.
fn has_swap(swaps: &str) -> bool {
    swaps.lines().nth(1).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::scratch::Scratch;
    use crate::shard::{Body, Label, Options, open};
    use bytes::Bytes;

    #[test]
    fn swap_is_seen() {
        assert!(!has_swap("Filename Type Size Used Priority\n"));
        assert!(has_swap("Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n"));
        assert_eq!([Medium::of(Path::new("/proc")), Medium::of(Path::new("/nowhere"))], [Medium::Disk; 2]);
    }

    #[test]
    fn what_lies_on_tmpfs_is_believed_at_once_after_it_is_opened_again() {
        let scratch = Scratch::below(Path::new("/dev/shm"), "medium");
        if !Medium::of(scratch.path()).stays_in_memory() {
            eprintln!("SKIPPED what_lies_on_tmpfs: /dev/shm is no tmpfs, or there is swap");
            return;
        }
        let options = [Options { path: scratch.path().into(), readers: 1, ..Options::default() }];
        let (mut writer, readers, _) = open(&options).unwrap();
        writer
            .put(&Label::new(9, b"k", &[], &[]), Body::Whole(&[Bytes::from(vec![1; 50_000])]), |_| false)
            .unwrap();
        drop((writer, readers));
        let (writer, readers, opened) = open(&options).unwrap();
        assert_eq!((opened.objects, writer.usage().residency_bytes), (1, 0));
        let found = readers[0].try_lookup(9, b"k", |_| true).expect("nothing to populate");
        assert_eq!(found.unwrap().body(), vec![1; 50_000]);
    }
}
