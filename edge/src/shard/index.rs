//! The index: from a key's hash to the place of its record. Fixed size, made at start, read without waiting.
//! It never sees a key: an entry is a hint that whoever follows it must confirm in the record.
//!
//! A hash has two candidate buckets of one cache line, eight entries each. An entry is one word:
//!
//! ```text
//! 63      48 47 46 45  42 41                                0
//! |   tag   | freq | span | location in units of 16 bytes; 0: empty |
//! ```
//!
//! The span says about how long the record is, so that one that has left memory can be brought in at once.
//!
//! One thread writes entries. Readers only raise `freq`, by a compare-and-swap that fails if the entry has changed
//! since, so that they never bring back what the writer took out. Stores of the writer and [`Index::unchanged`] are
//! sequentially consistent: they take part in the protocol by which a segment is emptied (see `sys::mapping`). An
//! entry is taken out before its segment is shut; a reader holds the segment and then looks at the entry again. If
//! the entry still is what it was, the segment was not emptied in between and will not be while it is held.
#![forbid(unsafe_code)]

use super::layout::RECORD_ALIGN;
use crate::limits;
use crate::sys::atomics::AtomicU64;
use crate::sys::table::{LINE_WORDS, Table};
use std::collections::HashSet;
use std::io;
use std::sync::atomic::Ordering;

const BUCKET_ENTRIES: usize = LINE_WORDS;
const LOCATION_BITS: u32 = 42;
const SPAN_SHIFT: u32 = LOCATION_BITS;
const FREQUENCY_SHIFT: u32 = 46;
const FREQUENCY_MASK: u64 = 3 << FREQUENCY_SHIFT;
/// Highest number of a span.
const SPAN_MAX: u64 = 15;
/// Beyond every span: what comes with a body of a round number of bytes.
const SPAN_MORE_BYTES: usize = 1024;

/// Entries looked at to find one that can be moved. In an index that is 99 % full some hundred do; in one without any free
/// place but the last ones it takes all.
const WAYS_MAX: usize = 4096;

/// Entries of the largest index: its buckets are numbered with 32 bits.
pub const ENTRIES_MAX: usize = u32::MAX as usize * BUCKET_ENTRIES;

/// Locations lie below this.
pub const LOCATIONS: u64 = 1 << LOCATION_BITS;

/// Highest frequency an entry counts.
pub const FREQUENCY_MAX: u64 = 3;

/// One entry, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry(u64);

impl Entry {
    /// For a record of so many bytes at `location` whose key has this hash.
    pub fn new(hash: u64, (location, bytes): (u64, usize), frequency: u64) -> Self {
        assert!(location != 0 && location < LOCATIONS && frequency <= FREQUENCY_MAX);
        let span = (0..SPAN_MAX).find(|&span| span_bytes(span) >= bytes).unwrap_or(SPAN_MAX);
        Entry(tag(hash) << 48 | frequency << FREQUENCY_SHIFT | span << SPAN_SHIFT | location)
    }

    /// Where the record is.
    #[inline]
    pub fn location(self) -> u64 {
        self.0 & (LOCATIONS - 1)
    }

    /// Bytes that hold the whole record, at most half of them too many; only of one beyond 1.5 MiB too few.
    pub fn span_bytes(self) -> usize {
        span_bytes(self.0 >> SPAN_SHIFT & SPAN_MAX)
    }

    /// How often it was read lately, 0 to 3.
    pub fn frequency(self) -> u64 {
        (self.0 & FREQUENCY_MASK) >> FREQUENCY_SHIFT
    }

    #[inline]
    fn same_record(self, other: Entry) -> bool {
        (self.0 ^ other.0) & !FREQUENCY_MASK == 0
    }
}

const _: () = assert!(LOCATIONS as u128 * RECORD_ALIGN as u128 >= limits::SHARD_BYTES_MAX as u128);

/// Number of a place for an entry.
pub type Slot = usize;

/// The table.
pub struct Index {
    buckets: Table,
}

impl Index {
    /// With room for at least `entries`, of which there may be [`ENTRIES_MAX`], in the memory of these nodes.
    ///
    /// # Errors
    /// There is not that much memory.
    pub fn new(entries: usize, nodes: &[usize]) -> io::Result<Self> {
        let buckets = entries.div_ceil(BUCKET_ENTRIES).max(2);
        assert!(buckets <= ENTRIES_MAX / BUCKET_ENTRIES);
        Ok(Index { buckets: Table::new(buckets, nodes)? })
    }

    /// Entries it has room for.
    pub fn entries_max(&self) -> usize {
        self.buckets.len() * BUCKET_ENTRIES
    }

    /// Buckets it has.
    pub fn buckets(&self) -> usize {
        self.buckets.len()
    }

    /// Where entries of this hash can be in an index of so many buckets, as [`Index::place_of`] has it.
    pub fn places(hash: u64, buckets: usize) -> [u64; 2] {
        buckets_of(hash, buckets).map(|bucket| (bucket as u64) << 16 | tag(hash))
    }

    /// The bucket and the tag of an entry, in one number.
    pub fn place_of(slot: Slot, entry: Entry) -> u64 {
        ((slot / BUCKET_ENTRIES) as u64) << 16 | entry.0 >> 48
    }

    /// Bytes of the table.
    pub fn bytes(&self) -> usize {
        std::mem::size_of_val(&*self.buckets)
    }

    /// The entries of this hash are about to be asked for.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        self.buckets_of(hash).into_iter().for_each(|bucket| self.buckets.prefetch(bucket));
    }

    /// The entries that may be of this hash.
    #[inline]
    pub fn candidates(&self, hash: u64) -> impl Iterator<Item = (Slot, Entry)> + use<'_> {
        let tag = tag(hash);
        let is_candidate = move |word: u64| word >> 48 == tag && word != 0;
        let buckets = self.buckets_of(hash);
        // Which of the sixteen, without a branch for each: nearly always it is one.
        let mut candidates = 0_u32;
        for (number, bucket) in buckets.into_iter().enumerate() {
            for (place, word) in self.buckets[bucket].0.iter().enumerate() {
                let bit = u32::from(is_candidate(word.load(Ordering::Relaxed)));
                candidates |= bit << (number * BUCKET_ENTRIES + place);
            }
        }
        std::iter::from_fn(move || {
            while candidates != 0 {
                let place = candidates.trailing_zeros() as usize;
                candidates &= candidates - 1;
                let slot = buckets[place / BUCKET_ENTRIES] * BUCKET_ENTRIES + place % BUCKET_ENTRIES;
                // It may have changed since.
                let word = self.word(slot).load(Ordering::Acquire);
                if is_candidate(word) {
                    return Some((slot, Entry(word)));
                }
            }
            None
        })
    }

    /// Whether the slot still leads to the same record; else what is there now, if it may be of this hash.
    #[inline]
    pub fn unchanged(&self, slot: Slot, entry: Entry) -> Result<(), Option<Entry>> {
        let now = Entry(self.word(slot).load(Ordering::SeqCst));
        if now.same_record(entry) {
            return Ok(());
        }
        Err((now.0 != 0 && now.0 >> 48 == entry.0 >> 48).then_some(now))
    }

    /// Counts a read, unless the count is full or the entry has changed.
    #[inline]
    pub fn bump(&self, slot: Slot, entry: Entry) {
        if entry.frequency() < FREQUENCY_MAX {
            let more = entry.0 + (1 << FREQUENCY_SHIFT);
            // Failing means that another reader was first or that the record is gone: either way nothing is lost.
            let _ = self.word(slot).compare_exchange(entry.0, more, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Writes a slot. Writer only.
    pub fn set(&self, slot: Slot, entry: Entry) {
        self.word(slot).store(entry.0, Ordering::SeqCst);
    }

    /// Empties a slot. Writer only.
    pub fn clear(&self, slot: Slot) {
        self.word(slot).store(0, Ordering::SeqCst);
    }

    /// The slot that leads to this location.
    pub fn locate(&self, hash: u64, location: u64) -> Option<Slot> {
        self.leading_to(hash, location).map(|(slot, _)| slot)
    }

    /// The slot that leads to this location, and its entry.
    pub fn leading_to(&self, hash: u64, location: u64) -> Option<(Slot, Entry)> {
        self.candidates(hash).find(|(_, entry)| entry.location() == location)
    }

    /// A slot for a new entry: free, in the emptier of its two buckets; or the least read entry of the two, which
    /// must go then.
    pub fn vacancy(&self, hash: u64) -> Result<Slot, (Slot, Entry)> {
        let entries = || self.slots(hash).map(|slot| (slot, Entry(self.word(slot).load(Ordering::Relaxed))));
        let free = |bucket: usize| {
            entries().skip(bucket * BUCKET_ENTRIES).take(BUCKET_ENTRIES).filter(|(_, entry)| entry.0 == 0)
        };
        let emptier = usize::from(free(1).count() > free(0).count());
        if let Some((slot, _)) = free(emptier).next() {
            return Ok(slot);
        }
        Err(entries().min_by_key(|(_, entry)| entry.frequency()).expect("buckets have entries"))
    }

    /// Makes a free slot for a new entry where there is none, by moving others to their other bucket, if few steps do (Pagh,
    /// Rodler: *Cuckoo hashing*, 2004; with buckets, Dietzfelbinger and Weidling, 2007). `hash_of` finds an entry's hash in
    /// its record. While nobody reads: an entry that moves may not be found. Says whether there is one now.
    pub fn make_way(&self, hash: u64, hash_of: impl Fn(Entry) -> Option<u64>) -> bool {
        if self.vacancy(hash).is_ok() {
            return true;
        }
        // Slots to move from, breadth first, and which of them each would give its entry to.
        let mut ways: Vec<(Slot, usize)> = self.slots(hash).map(|slot| (slot, usize::MAX)).collect();
        let mut seen: HashSet<Slot> = self.slots(hash).collect();
        let mut next = 0;
        while let Some(&(slot, _)) = ways.get(next) {
            let entry = Entry(self.word(slot).load(Ordering::Relaxed));
            let others = hash_of(entry).map_or([usize::MAX; 2], |hash| self.buckets_of(hash));
            for bucket in others.into_iter().filter(|&other| other < self.buckets.len()) {
                for to in bucket * BUCKET_ENTRIES..(bucket + 1) * BUCKET_ENTRIES {
                    if self.word(to).load(Ordering::Relaxed) == 0 {
                        self.move_along(&ways, next, to);
                        return true;
                    }
                    if ways.len() < WAYS_MAX && seen.insert(to) {
                        ways.push((to, next));
                    }
                }
            }
            next += 1;
        }
        false
    }

    /// Each entry of a way takes the place of the next one, the last one the free slot `to`.
    fn move_along(&self, ways: &[(Slot, usize)], last: usize, to: Slot) {
        let (mut way, mut to) = (last, to);
        while let Some(&(slot, before)) = ways.get(way) {
            self.word(to).store(self.word(slot).load(Ordering::Relaxed), Ordering::Relaxed);
            self.word(slot).store(0, Ordering::Relaxed);
            (way, to) = (before, slot);
        }
    }

    /// All entries.
    pub fn entries(&self) -> impl Iterator<Item = (Slot, Entry)> + use<'_> {
        self.words().enumerate().filter(|&(_, word)| word != 0).map(|(slot, word)| (slot, Entry(word)))
    }

    /// All words, for a checkpoint.
    pub fn words(&self) -> impl Iterator<Item = u64> + use<'_> {
        self.buckets.iter().flat_map(|bucket| &bucket.0).map(|word| word.load(Ordering::Relaxed))
    }

    /// Takes the words of a checkpoint over; says how many entries there are. As many as [`Index::entries_max`].
    pub fn restore(&self, words: impl Iterator<Item = u64>) -> u64 {
        let cells = self.buckets.iter().flat_map(|bucket| &bucket.0);
        let mut entries = 0;
        for (cell, word) in cells.zip(words) {
            // Nobody reads yet: the readers are handed out afterwards.
            cell.store(word, Ordering::Relaxed);
            entries += u64::from(word != 0);
        }
        entries
    }

    #[inline]
    fn word(&self, slot: Slot) -> &AtomicU64 {
        &self.buckets[slot / BUCKET_ENTRIES].0[slot % BUCKET_ENTRIES]
    }

    #[inline]
    fn buckets_of(&self, hash: u64) -> [usize; 2] {
        buckets_of(hash, self.buckets.len())
    }

    /// The slots of both buckets, the first bucket's first.
    #[inline]
    fn slots(&self, hash: u64) -> impl Iterator<Item = Slot> + use<> {
        let [first, second] = self.buckets_of(hash);
        let slots = |bucket: usize| (0..BUCKET_ENTRIES).map(move |i| bucket * BUCKET_ENTRIES + i);
        slots(first).chain(slots(second))
    }
}

/// The numbers of both buckets of a hash, of so many.
#[inline]
fn buckets_of(hash: u64, buckets: usize) -> [usize; 2] {
    let buckets = buckets as u64;
    let first = ((hash >> 32) * buckets) >> 32;
    let mixed = (hash ^ hash >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let second = ((mixed >> 32) * buckets) >> 32;
    // Two different ones, so that no entry is seen twice.
    let second = if second == first { (second + 1) % buckets } else { second };
    [first as usize, second as usize]
}

/// 8 KiB, 12, 16, 24, 32 and so on, and a little.
fn span_bytes(span: u64) -> usize {
    let (octave, half) = (span / 2, span as usize % 2);
    (4096 << octave) * (2 + half) + SPAN_MORE_BYTES
}

/// The tag comes from bits that choose no bucket.
#[inline]
fn tag(hash: u64) -> u64 {
    hash & 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u64) -> u64 {
        xxhash_rust::xxh3::xxh3_64(&n.to_le_bytes())
    }

    #[test]
    fn two_thirds_fit_before_anything_must_go() {
        let index = Index::new(1 << 14, &[]).unwrap();
        let mut stored = 0;
        while let Ok(slot) = index.vacancy(hash(stored)) {
            index.set(slot, Entry::new(hash(stored), (stored + 1, 0), 0));
            stored += 1;
        }
        assert!(stored as usize * 3 > index.entries_max() * 2, "{stored} of {}", index.entries_max());
        assert!(index.bytes() as u64 <= 12 * stored);
        for n in 0..stored {
            assert!(index.locate(hash(n), n + 1).is_some(), "{n}");
        }
    }

    #[test]
    fn all_but_a_few_places_can_be_filled_by_moving_entries() {
        let index = Index::new(1 << 12, &[]).unwrap();
        let hash_of = |entry: Entry| Some(hash(entry.location() - 1));
        let mut stored = 0;
        loop {
            index.make_way(hash(stored), hash_of);
            let Ok(slot) = index.vacancy(hash(stored)) else { break };
            index.set(slot, Entry::new(hash(stored), (stored + 1, 0), 0));
            stored += 1;
        }
        assert!(stored as usize * 100 > index.entries_max() * 98, "{stored} of {}", index.entries_max());
        for n in 0..stored {
            assert!(index.locate(hash(n), n + 1).is_some(), "{n}");
        }
        assert_eq!(index.entries().count() as u64, stored);
    }

    /// Stores so many entries one after the other, the least read going where there is no place; then the same that are left
    /// in the opposite order. Says how many there were, and how many found no place the second time.
    fn filled_and_filled_again(entries_max: usize, stored: u64) -> (usize, usize) {
        let index = Index::new(entries_max, &[]).unwrap();
        for n in 0..stored {
            let slot = index.vacancy(hash(n)).unwrap_or_else(|(slot, _)| slot);
            index.set(slot, Entry::new(hash(n), (n + 1, 0), n % 4));
        }
        let mut left: Vec<u64> = index.entries().map(|(_, entry)| entry.location() - 1).collect();
        left.sort_unstable();
        let again = Index::new(entries_max, &[]).unwrap();
        let mut lost = 0;
        for &n in left.iter().rev() {
            let has_place = again.make_way(hash(n), |entry| Some(hash(entry.location() - 1)));
            lost += usize::from(!has_place);
            let slot = again.vacancy(hash(n)).unwrap_or_else(|(slot, _)| slot);
            again.set(slot, Entry::new(hash(n), (n + 1, 0), 0));
        }
        (left.len(), lost)
    }

    #[test]
    fn what_had_a_place_in_one_order_has_one_in_another() {
        let (entries, lost) = filled_and_filled_again(1 << 14, 1 << 14);
        assert!(entries > 15_000 && lost == 0, "{lost} of {entries}");
        // Not one place is free.
        let (entries, lost) = filled_and_filled_again(1 << 14, 1 << 15);
        assert!(entries == 1 << 14 && lost < entries / 4096, "{lost} of {entries}");
    }

    #[test]
    fn the_least_read_goes() {
        let index = Index::new(16, &[]).unwrap();
        for n in 1..=16 {
            let slot = index.vacancy(0).unwrap();
            index.set(slot, Entry::new(0, (n, 0), if n == 7 { 1 } else { 2 }));
        }
        let (slot, entry) = index.vacancy(0).unwrap_err();
        assert_eq!((entry.location(), index.locate(0, 7)), (7, Some(slot)));
    }

    #[test]
    fn a_bump_does_not_bring_back_what_was_taken_out() {
        let index = Index::new(16, &[]).unwrap();
        let entry = Entry::new(42, (9, 0), 0);
        index.set(3, entry);
        index.bump(3, entry);
        index.bump(3, entry);
        let read: Vec<u64> = index.words().filter(|&word| word != 0).collect();
        assert_eq!(read, [Entry::new(42, (9, 0), 1).0], "the second bump was of a stale reading");
        index.clear(3);
        index.bump(3, Entry::new(42, (9, 0), 1));
        assert_eq!(index.words().filter(|&word| word != 0).count(), 0);
        assert_eq!(index.unchanged(3, entry), Err(None));
        index.set(3, Entry::new(42, (10, 0), 0));
        assert_eq!(index.unchanged(3, entry), Err(Some(Entry::new(42, (10, 0), 0))));
        assert_eq!(index.unchanged(3, Entry::new(42, (10, 0), 3)), Ok(()));
    }

    #[test]
    fn an_entry_says_about_how_long_its_record_is() {
        for bytes in [64, 9 << 10, 66_000, 70_000, (1 << 20) + 64, 1 << 20, 1_500_000] {
            let entry = Entry::new(7, (LOCATIONS - 1, bytes), FREQUENCY_MAX);
            let (whole, most) = (bytes, (bytes + bytes / 2).max(9 << 10));
            assert!((whole..=most).contains(&entry.span_bytes()), "{bytes}: {}", entry.span_bytes());
            assert_eq!((entry.location(), entry.frequency()), (LOCATIONS - 1, FREQUENCY_MAX));
        }
        assert_eq!(Entry::new(7, (1, 66_000), 0).span_bytes(), 65 << 10);
        assert!(Entry::new(7, (1, 8 << 20), 0).span_bytes() > 1 << 20, "the rest follows");
    }

    #[test]
    fn tag_zero_is_not_mistaken_for_an_empty_slot() {
        let index = Index::new(16, &[]).unwrap();
        assert_eq!(index.candidates(0).count(), 0);
        let slot = index.vacancy(0).unwrap();
        index.set(slot, Entry::new(0, (1, 0), 0));
        assert_eq!(index.candidates(0).count(), 1);
    }
}
