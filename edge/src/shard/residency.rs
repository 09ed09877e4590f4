//! Which pages of a shard a worker may touch without waiting for the disk: one byte a page, written by whoever
//! brings a page in or uses it, read at each lookup. Pure bookkeeping: it asks no kernel (`sweep` does).
//!
//! The kernel drops pages when memory is short, and tells nobody. But it only drops while it reclaims, and how much
//! it has reclaimed can be read. So time is measured in what was reclaimed: an *epoch* ends each time a small part
//! ([`EPOCHS_PER_TURNOVER`]) of what the shard has in memory was reclaimed on this machine. As long as nothing is
//! reclaimed, no epoch ends and every page that was seen stays believed.
//!
//! | byte      | meaning                                                                         |
//! |-----------|---------------------------------------------------------------------------------|
//! | 0         | not in memory, or never seen: bring it in first                                 |
//! | 1         | seen, but not used lately: most likely there; bring it in first all the same    |
//! | 2 to 255  | the epoch of its last use; believed if that is the present one or the one before |
//!
//! A page that was used within the last two epochs is far from the end of the kernel's own list, so that it is not
//! dropped between the look at its byte and its use. Where the kernel chooses otherwise a worker waits for the disk
//! once; that is what the counter of major faults shows.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

/// Epochs in which as much is reclaimed as the shard has in memory. The kernel's list of pages used only once is at
/// least a thirteenth of the page cache up to 16 GiB, and two of these must be well below that.
pub(super) const EPOCHS_PER_TURNOVER: u64 = 64;
/// Epochs between the beginnings of two sweeps: so much of what is in memory may have left it before that is noted. What
/// nobody used for two epochs is brought in first whether it is noted or not, so a sweep at each would only cost.
pub(super) const EPOCHS_PER_SWEEP: u64 = 8;
/// Epochs after which a sweep of all pages must have ended: numbers of epochs come back after 254.
pub(super) const EPOCHS_PER_SWEEP_MAX: u64 = 200;

const ABSENT: u8 = 0;
const SEEN: u8 = 1;
const FIRST_EPOCH: u8 = 2;

/// What is known about a range that is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// Some of it is not in memory: it comes from the disk.
    Absent,
    /// All of it was there when last seen.
    Unused,
}

/// The pages of one shard.
#[derive(Debug)]
pub struct Residency {
    /// Empty: the shard is memory itself, or locked there.
    pages: Box<[AtomicU8]>,
    page_shift: u32,
    epoch: AtomicU8,
    epochs: AtomicU64,
    present_bytes: AtomicU64,
}

impl Residency {
    /// For a shard of so many bytes that may leave memory, in pages of `page_bytes` (a power of two).
    pub fn tracked(bytes: u64, page_bytes: usize) -> Self {
        let pages = bytes.div_ceil(page_bytes as u64) as usize;
        Residency {
            pages: (0..pages).map(|_| AtomicU8::new(ABSENT)).collect(),
            page_shift: page_bytes.trailing_zeros(),
            epoch: AtomicU8::new(FIRST_EPOCH),
            epochs: AtomicU64::new(0),
            present_bytes: AtomicU64::new(0),
        }
    }

    /// For a shard that never leaves memory: everything is believed, nothing is kept.
    pub fn always() -> Self {
        Residency::tracked(0, 4096)
    }

    /// Whether pages are kept track of.
    pub fn is_tracked(&self) -> bool {
        !self.pages.is_empty()
    }

    /// Number of pages that are kept track of.
    pub fn pages(&self) -> usize {
        self.pages.len()
    }

    /// Bytes this takes.
    pub fn bytes(&self) -> usize {
        self.pages.len()
    }

    /// The pages that bytes of the shard file lie in.
    #[inline]
    pub fn pages_of(&self, bytes: Range<usize>) -> Range<usize> {
        bytes.start >> self.page_shift..((bytes.end - 1) >> self.page_shift) + 1
    }

    /// The bytes of the shard file that pages cover.
    pub fn bytes_of(&self, pages: &Range<usize>) -> Range<usize> {
        pages.start << self.page_shift..pages.end << self.page_shift
    }

    /// Whether all bytes of a range (of the shard file, not empty) may be touched now.
    #[inline]
    pub fn believes(&self, bytes: Range<usize>) -> bool {
        if self.pages.is_empty() {
            return true;
        }
        let (now, before) = self.believed();
        self.pages[self.pages_of(bytes)].iter().all(|page| {
            let epoch = page.load(Relaxed);
            epoch == now || epoch == before
        })
    }

    /// Notes that the bytes of a range (not empty) are in memory and being used.
    #[inline]
    pub fn used(&self, bytes: Range<usize>) {
        if self.pages.is_empty() {
            return;
        }
        let now = self.epoch.load(Relaxed);
        for page in &self.pages[self.pages_of(bytes)] {
            // Not written where nothing changes: the line stays shared by all workers.
            if page.load(Relaxed) != now {
                page.store(now, Relaxed);
            }
        }
    }

    /// What is known about a range that is not believed.
    pub fn doubt(&self, bytes: Range<usize>) -> Doubt {
        let absent = |page: &AtomicU8| page.load(Relaxed) == ABSENT;
        if self.pages[self.pages_of(bytes)].iter().any(absent) { Doubt::Absent } else { Doubt::Unused }
    }

    /// Ends an epoch.
    pub(super) fn end_epoch(&self) {
        self.epoch.store(after(self.epoch.load(Relaxed)), Relaxed);
        self.epochs.fetch_add(1, Relaxed);
    }

    /// Epochs that have ended.
    pub(super) fn epochs(&self) -> u64 {
        self.epochs.load(Relaxed)
    }

    /// So many bytes were in memory by the last whole sweep.
    pub(super) fn counted(&self, bytes: u64) {
        self.present_bytes.store(bytes, Relaxed);
    }

    /// Bytes in memory when last counted.
    pub fn present_bytes(&self) -> u64 {
        self.present_bytes.load(Relaxed)
    }

    /// Looks at the pages from `from` on, at most `most` of them, for those that are in doubt: their first run, and
    /// where to go on. `all`: also those that were never seen. Counts what is held to be in memory into `present`.
    pub(super) fn next_doubted(
        &self,
        from: usize,
        most: usize,
        all: bool,
        present: &mut u64,
    ) -> (Range<usize>, usize) {
        let (now, before) = self.believed();
        let end = self.pages.len().min(from + most);
        let mut run = from..from;
        for number in from..end {
            let state = self.pages[number].load(Relaxed);
            let doubted = if state == ABSENT { all } else { state != now && state != before };
            if doubted {
                if run.is_empty() {
                    run = number..number;
                }
                run.end = number + 1;
            } else {
                *present += u64::from(state != ABSENT);
                if !run.is_empty() {
                    return (run, number + 1);
                }
            }
        }
        (run, end)
    }

    /// The kernel says whether a page that was in doubt is in memory. `lasting`: nothing is being reclaimed, so that
    /// this is as good as a use.
    pub(super) fn seen(&self, page: usize, present: bool, lasting: bool) {
        let (now, before) = self.believed();
        let state = self.pages[page].load(Relaxed);
        if state == now || state == before {
            return;
        }
        let known = match (present, lasting) {
            (true, true) => now,
            (true, false) => SEEN,
            (false, _) => ABSENT,
        };
        // Failing means that somebody has just used it: then that holds.
        let _ = self.pages[page].compare_exchange(state, known, Relaxed, Relaxed);
    }

    /// The present epoch and the one before.
    #[inline]
    fn believed(&self) -> (u8, u8) {
        let now = self.epoch.load(Relaxed);
        (now, if now == FIRST_EPOCH { u8::MAX } else { now - 1 })
    }
}

fn after(epoch: u8) -> u8 {
    if epoch == u8::MAX { FIRST_EPOCH } else { epoch + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 4096;

    fn eight() -> Residency {
        Residency::tracked(8 * PAGE as u64, PAGE)
    }

    #[test]
    fn what_was_used_is_believed_for_two_epochs_and_longer_if_used_again() {
        let residency = eight();
        assert!(!residency.believes(0..1));
        assert_eq!(residency.doubt(0..1), Doubt::Absent);
        residency.used(100..PAGE + 1);
        for _ in 0..600 {
            assert!(residency.believes(0..2 * PAGE) && !residency.believes(0..2 * PAGE + 1));
            residency.used(0..1);
            residency.end_epoch();
            assert!(residency.believes(0..2 * PAGE), "the epoch before counts");
            residency.used(0..2 * PAGE);
        }
        residency.end_epoch();
        residency.end_epoch();
        assert!(!residency.believes(0..1));
        assert_eq!(residency.doubt(0..1), Doubt::Unused);
    }

    #[test]
    fn a_sweep_finds_what_is_in_doubt_and_leaves_what_is_used() {
        let residency = eight();
        residency.used(PAGE..4 * PAGE);
        residency.used(6 * PAGE..7 * PAGE);
        (0..2).for_each(|_| residency.end_epoch());
        residency.used(2 * PAGE..3 * PAGE);
        let (mut present, mut at, mut runs) = (0, 0, Vec::new());
        while at < residency.pages() {
            let (run, next) = residency.next_doubted(at, 100, false, &mut present);
            runs.extend((!run.is_empty()).then_some(run));
            at = next;
        }
        assert_eq!((runs, present), (vec![1..2, 3..4, 6..7], 1));
        residency.seen(1, false, true);
        residency.seen(2, false, true);
        residency.seen(3, true, false);
        residency.seen(6, true, true);
        assert_eq!(residency.doubt(PAGE..2 * PAGE), Doubt::Absent);
        assert!(residency.believes(2 * PAGE..3 * PAGE), "in use, whatever was seen before");
        assert_eq!(residency.doubt(3 * PAGE..4 * PAGE), Doubt::Unused);
        assert!(residency.believes(6 * PAGE..7 * PAGE));
        assert_eq!(
            residency.next_doubted(0, 1, true, &mut present),
            (0..1, 1),
            "never seen, but all were asked for"
        );
    }

    #[test]
    fn memory_is_always_believed() {
        let residency = Residency::always();
        residency.used(0..1 << 40);
        assert!(residency.believes(0..1 << 40) && residency.bytes() == 0 && !residency.is_tracked());
    }
}
