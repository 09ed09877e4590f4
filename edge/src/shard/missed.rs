//! What a shard that is out of use misses: which keys were stored, replaced or removed elsewhere meanwhile, so that it does
//! not bring back what was there before. Knows no shard and no record.
#![forbid(unsafe_code)]

use super::index::{Entry, Index, Slot};
use crate::limits;
use std::collections::VecDeque;

/// The last changes, by the hashes of their keys, numbered.
#[derive(Default)]
pub(super) struct Changes {
    hashes: VecDeque<u64>,
    /// All there were.
    count: u64,
}

impl Changes {
    /// One more.
    pub(super) fn note(&mut self, hash: u64) {
        if self.hashes.len() == limits::CHANGES_REMEMBERED {
            self.hashes.pop_front();
        }
        self.hashes.push_back(hash);
        self.count += 1;
    }

    /// How many there were.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Those after the first `count`; `None`: some are not remembered any more.
    fn since(&self, count: u64) -> Option<impl Iterator<Item = u64>> {
        let wanted = usize::try_from(self.count - count).unwrap_or(usize::MAX);
        let first = self.hashes.len().checked_sub(wanted)?;
        Some(self.hashes.range(first..).copied())
    }
}

/// Bits for each entry of the index. If a tenth of the entries were changed, one of twenty of the others seems so.
const BITS_PER_ENTRY: usize = 4;

/// A set of keys, as the index of the shard sees them. It may seem to hold more than was noted, and never less. The more
/// has changed, the less comes back.
#[derive(Clone)]
pub(super) struct Missed {
    buckets: usize,
    bits: Box<[u64]>,
    /// Nobody knows what changed first.
    everything: bool,
}

impl Missed {
    /// For a shard with this index: what has changed after the first `count` changes.
    pub(super) fn since(count: u64, changes: &Changes, index: &Index) -> Self {
        let words = (index.entries_max() * BITS_PER_ENTRY).div_ceil(64);
        let mut missed = Missed { buckets: index.buckets(), bits: vec![0; words].into(), everything: false };
        match changes.since(count) {
            Some(changes) => changes.for_each(|hash| missed.note(hash)),
            None => missed.everything = true,
        }
        missed
    }

    /// One more.
    pub(super) fn note(&mut self, hash: u64) {
        for place in Index::places(hash, self.buckets) {
            let bit = self.bit(place);
            self.bits[bit / 64] |= 1 << (bit % 64);
        }
    }

    /// Whether all are in it.
    pub(super) fn everything(&self) -> bool {
        self.everything
    }

    /// Whether the key of this entry may be in it.
    pub(super) fn may_hold(&self, slot: Slot, entry: Entry) -> bool {
        let bit = self.bit(Index::place_of(slot, entry));
        self.everything || self.bits[bit / 64] >> (bit % 64) & 1 == 1
    }

    fn bit(&self, place: u64) -> usize {
        let mixed = place.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ mixed >> 32).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((u128::from(mixed) * (self.bits.len() * 64) as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u64) -> u64 {
        xxhash_rust::xxh3::xxh3_64(&n.to_le_bytes())
    }

    #[test]
    fn what_was_noted_is_in_it_and_little_else() {
        let index = Index::new(16_384, &[]).unwrap();
        let entries = 8_000;
        for n in 0..entries {
            let slot = index.vacancy(hash(n)).unwrap();
            index.set(slot, Entry::new(hash(n), (n + 1, 0), 0));
        }
        let mut changes = Changes::default();
        (0..500).for_each(|n| changes.note(hash(n)));
        let mut missed = Missed::since(100, &changes, &index);
        (7_000..8_000).for_each(|n| missed.note(hash(n)));
        let held: Vec<u64> = index
            .entries()
            .filter(|&(slot, entry)| missed.may_hold(slot, entry))
            .map(|(_, entry)| entry.location() - 1)
            .collect();
        assert!((100..500).chain(7_000..8_000).all(|n| held.contains(&n)));
        let seeming = held.len() - 1_400;
        assert!(seeming > 0 && seeming < 6_600 / 15, "{seeming}");
    }

    #[test]
    fn what_is_not_remembered_any_more_is_everything() {
        let index = Index::new(16, &[]).unwrap();
        let mut changes = Changes::default();
        (0..=limits::CHANGES_REMEMBERED as u64).for_each(|n| changes.note(n));
        assert_eq!(changes.since(1).unwrap().next(), Some(1));
        assert!(!Missed::since(1, &changes, &index).everything());
        let missed = Missed::since(0, &changes, &index);
        assert!(missed.everything() && missed.may_hold(3, Entry::new(9, (9, 0), 0)));
        assert!(!Missed::since(changes.count(), &changes, &index).may_hold(3, Entry::new(9, (9, 0), 0)));
    }
}
