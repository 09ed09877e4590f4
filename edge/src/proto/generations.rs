//! Purges in force: a table of fixed size that control writes and workers read, without waiting, at each hit.
//! What was purged is never searched for; a stored response is compared with the purges when it is looked up.
//!
//! Every purge takes the next *sequence* number. A response is stored with the number that was the last one when its
//! request was sent to the origin. It is purged if a later purge names its key, a prefix of its key, its host or one
//! of its tags. So a purge costs the same however many objects it concerns, and it wins over fills that run.
//!
//! ```text
//! newest      sequence of the last purge of all: a later response is good, one compare and nothing else
//! everything  all before this one is purged
//! classes     the last purge of each class, hard and soft: the others need not be looked at
//! lengths     the lengths of purged prefixes, each with its last purge
//! buckets     one cache line each: 7 subjects, and the floor of those that had to leave
//! subject     63..42 more bits of the hash, 41..0 sequence
//! ```
//!
//! Where a bucket is full the oldest subject leaves it and becomes its floor: every response that looks there and is
//! older than the floor counts as purged. So the table forgets nothing. With more purges than it has room for, old
//! responses are purged in vain; young ones are not. Prefixes beyond the lengths it has room for purge their host.
#![forbid(unsafe_code)]

use super::key;
use super::purge::{self, Class, Subject, Tags};
use super::stored::Meta;
use crate::limits::{PURGE_BUCKETS, PURGE_PREFIX_LENGTHS_MAX};
use std::sync::atomic::{AtomicU64, Ordering};

/// Bits of a sequence number: milliseconds since 1970, where numbering starts, until the year 2109.
const SEQUENCE_BITS: u32 = 42;
/// The highest sequence number.
pub const SEQUENCE_MAX: u64 = (1 << SEQUENCE_BITS) - 1;
const LENGTH_SHIFT: u32 = 48;
const BUCKET_SUBJECTS: usize = 7;
/// Turns the hash of a subject into that of its soft purges.
const SOFT: u64 = 0x9e37_79b9_7f4a_7c15;

const _: () = assert!(PURGE_BUCKETS.is_power_of_two() && PURGE_BUCKETS.trailing_zeros() < SEQUENCE_BITS);
const _: () = assert!(crate::limits::KEY_BYTES_MAX < 1 << (64 - LENGTH_SHIFT));

/// What purges mean for a stored response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// None names it.
    Valid,
    /// One does, softly: it is stale.
    Stale,
    /// One does: it is as if it were not stored.
    Gone,
}

#[derive(Default)]
#[repr(align(64))]
struct Bucket {
    subjects: [AtomicU64; BUCKET_SUBJECTS],
    floor: AtomicU64,
}

/// The words of a table, for a snapshot: those that are not 0, with their places.
pub type Words = Vec<(u32, u64)>;

/// The table. One thread calls [`Table::apply`].
pub struct Table {
    newest: AtomicU64,
    everything: AtomicU64,
    classes: [AtomicU64; 8],
    lengths: [AtomicU64; PURGE_PREFIX_LENGTHS_MAX],
    buckets: Box<[Bucket]>,
}

impl Default for Table {
    fn default() -> Self {
        Table {
            newest: AtomicU64::new(0),
            everything: AtomicU64::new(0),
            classes: Default::default(),
            lengths: std::array::from_fn(|_| AtomicU64::new(0)),
            buckets: (0..PURGE_BUCKETS).map(|_| Bucket::default()).collect(),
        }
    }
}

impl Table {
    /// Bytes of a table.
    pub const BYTES: usize = size_of::<Table>() + PURGE_BUCKETS * size_of::<Bucket>();

    /// What the purges since `sequence` mean for a response with this key and these tags.
    #[inline]
    pub fn judge(&self, sequence: u64, key: &[u8], tags: Tags<'_>) -> Verdict {
        if sequence >= self.newest.load(Ordering::Acquire) {
            return Verdict::Valid;
        }
        self.look(sequence, key, tags)
    }

    /// As [`Table::judge`], of a record with these meta bytes; what cannot be read is gone.
    #[inline]
    pub fn judge_record(&self, key: &[u8], meta: &[u8]) -> Verdict {
        Meta::read(meta).map_or(Verdict::Gone, |meta| self.judge(meta.purges(), key, meta.tags()))
    }

    #[inline(never)]
    fn look(&self, sequence: u64, key: &[u8], tags: Tags<'_>) -> Verdict {
        if self.everything.load(Ordering::Relaxed) > sequence {
            return Verdict::Gone;
        }
        let mut verdict = Verdict::Valid;
        if self.any(Class::Url, sequence) {
            verdict = verdict.max(self.ask(purge::hash(Class::Url, key), sequence));
        }
        if self.any(Class::Prefix, sequence) {
            for word in self.lengths.iter().map(|length| length.load(Ordering::Relaxed)) {
                if word == 0 || verdict == Verdict::Gone {
                    break;
                }
                if let Some(prefix) = key.get(..(word >> LENGTH_SHIFT) as usize)
                    && word & SEQUENCE_MAX > sequence
                {
                    verdict = verdict.max(self.ask(purge::hash(Class::Prefix, prefix), sequence));
                }
            }
        }
        if self.any(Class::Host, sequence) {
            verdict = verdict.max(self.ask(purge::hash(Class::Host, key::host_of(key)), sequence));
        }
        if self.any(Class::Tag, sequence) {
            verdict = verdict.max(self.ask_tags(sequence, tags));
        }
        verdict
    }

    fn ask_tags(&self, sequence: u64, tags: Tags<'_>) -> Verdict {
        if tags.is_every() {
            let hard = self.class(Class::Tag, false).load(Ordering::Relaxed) > sequence;
            return if hard { Verdict::Gone } else { Verdict::Stale };
        }
        tags.hashes().map(|hash| self.ask(hash, sequence)).max().unwrap_or(Verdict::Valid)
    }

    fn ask(&self, hash: u64, sequence: u64) -> Verdict {
        if self.last(hash) > sequence {
            Verdict::Gone
        } else if self.last(hash ^ SOFT) > sequence {
            Verdict::Stale
        } else {
            Verdict::Valid
        }
    }

    /// Whether anything of this class was purged since.
    fn any(&self, class: Class, sequence: u64) -> bool {
        [false, true].iter().any(|&soft| self.class(class, soft).load(Ordering::Relaxed) > sequence)
    }

    fn class(&self, class: Class, soft: bool) -> &AtomicU64 {
        &self.classes[class as usize * 2 + usize::from(soft)]
    }

    fn bucket(&self, hash: u64) -> &Bucket {
        &self.buckets[hash as usize % PURGE_BUCKETS]
    }

    /// The last purge that may have had this hash.
    fn last(&self, hash: u64) -> u64 {
        let bucket = self.bucket(hash);
        let named = bucket.subjects.iter().map(|subject| subject.load(Ordering::Acquire));
        let named = named.filter(|word| word >> SEQUENCE_BITS == hash >> SEQUENCE_BITS);
        let last = named.map(|word| word & SEQUENCE_MAX).max().unwrap_or(0);
        // Read last: a subject that left its place meanwhile had raised the floor before.
        last.max(bucket.floor.load(Ordering::Acquire))
    }

    /// Puts a purge in force, for the next lookup of every worker. Says what it was
    /// widened to, if there is no room for another length of prefixes: the host.
    pub fn apply(&self, sequence: u64, subject: &Subject, soft: bool) -> Option<Subject> {
        assert!(sequence <= SEQUENCE_MAX, "sequence numbers last until 2109");
        if subject.class == Class::Prefix && !self.note_length(subject.bytes.len(), sequence) {
            let host = Subject { class: Class::Host, bytes: key::host_of(&subject.bytes).to_vec() };
            self.apply(sequence, &host, soft);
            return Some(host);
        }
        self.put(if soft { subject.hash() ^ SOFT } else { subject.hash() }, sequence);
        self.class(subject.class, soft).fetch_max(sequence, Ordering::Relaxed);
        self.newest.fetch_max(sequence, Ordering::Release);
        None
    }

    /// All that is stored with a lower number is gone.
    pub fn apply_to_everything(&self, sequence: u64) {
        self.everything.fetch_max(sequence, Ordering::Relaxed);
        self.newest.fetch_max(sequence, Ordering::Release);
    }

    /// `false`: no room.
    fn note_length(&self, bytes: usize, sequence: u64) -> bool {
        for cell in &self.lengths {
            let word = cell.load(Ordering::Relaxed);
            if word == 0 || (word >> LENGTH_SHIFT) as usize == bytes {
                let last = sequence.max(word & SEQUENCE_MAX);
                cell.store((bytes as u64) << LENGTH_SHIFT | last, Ordering::Relaxed);
                return true;
            }
        }
        false
    }

    fn put(&self, hash: u64, sequence: u64) {
        let bucket = self.bucket(hash);
        let words = bucket.subjects.each_ref().map(|subject| subject.load(Ordering::Relaxed));
        let same = |word: &u64| word >> SEQUENCE_BITS == hash >> SEQUENCE_BITS && *word != 0;
        let oldest = || {
            let mut places = words.iter().enumerate();
            places.by_ref().min_by_key(|(_, word)| *word & SEQUENCE_MAX).map_or(0, |(place, _)| place)
        };
        let place = words.iter().position(same).unwrap_or_else(oldest);
        let mut last = sequence;
        if same(&words[place]) {
            last = last.max(words[place] & SEQUENCE_MAX);
        } else {
            bucket.floor.fetch_max(words[place] & SEQUENCE_MAX, Ordering::Release);
        }
        let word = (hash >> SEQUENCE_BITS) << SEQUENCE_BITS | last;
        bucket.subjects[place].store(word, Ordering::Release);
    }

    fn cells(&self) -> impl Iterator<Item = &AtomicU64> {
        let fixed = [&self.newest, &self.everything].into_iter().chain(&self.classes).chain(&self.lengths);
        let buckets = self.buckets.iter();
        fixed.chain(buckets.flat_map(|bucket| bucket.subjects.iter().chain([&bucket.floor])))
    }

    /// All it knows.
    pub fn words(&self) -> Words {
        let words = self.cells().map(|cell| cell.load(Ordering::Relaxed)).enumerate();
        words.filter(|(_, word)| *word != 0).map(|(place, word)| (place as u32, word)).collect()
    }

    /// Takes over what an empty table of the same size said. `None`: it is not such a table's.
    pub fn restore(&self, words: &[(u32, u64)]) -> Option<()> {
        let mut words = words.iter().peekable();
        for (place, cell) in self.cells().enumerate() {
            if let Some((_, word)) = words.next_if(|(at, _)| *at as usize == place) {
                cell.store(*word, Ordering::Release);
            }
        }
        words.next().is_none().then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::purge::TagSet;
    use http::HeaderMap;
    use proptest::prelude::*;

    fn subject(class: Class, text: &str) -> Subject {
        Subject::parse(class, text).unwrap()
    }

    fn tags(text: &str) -> (u16, Vec<u8>) {
        let mut fields = HeaderMap::new();
        fields.insert("surrogate-key", text.parse().unwrap());
        let set = TagSet::of(&fields);
        let (count, bytes) = set.encode();
        (count, bytes.collect())
    }

    fn judge(table: &Table, sequence: u64, key: &str, text: &str) -> Verdict {
        let (count, bytes) = tags(text);
        table.judge(sequence, key.as_bytes(), Tags::take(count, &mut bytes.as_slice()).unwrap())
    }

    #[test]
    fn a_purge_concerns_what_it_names_and_is_older() {
        use Class::{Host, Prefix, Tag, Url};
        for (class, text, names, others) in [
            (Url, "http://a/x", &["http://a/x"][..], &["http://a/x?", "http://a/", "https://a/x"][..]),
            (
                Prefix,
                "http://a/x/",
                &["http://a/x/", "http://a/x/y", "http://a/x/y/z?q"],
                &["http://a/x", "http://b/x/"],
            ),
            (Prefix, "http://a/im", &["http://a/images/1", "http://a/im"], &["http://a/i", "http://a:81/im"]),
            (Prefix, "http://a", &["http://a/", "http://a/1"], &["https://a/", "http://ab/"]),
            (Host, "A", &["http://a/1", "https://a:8443/"], &["http://b/a", "http://a.b/"]),
            (Tag, "News", &["http://a/tagged"], &["http://a/"]),
        ] {
            for soft in [false, true] {
                let table = Table::default();
                assert_eq!(table.apply(7, &subject(class, text), soft), None);
                let purged = if soft { Verdict::Stale } else { Verdict::Gone };
                let tag = |key: &str| if key.ends_with("tagged") { "sports news" } else { "sports" };
                for key in names {
                    assert_eq!(judge(&table, 6, key, tag(key)), purged, "{text} {key}");
                    assert_eq!(judge(&table, 7, key, tag(key)), Verdict::Valid, "{text} {key}");
                }
                for key in others {
                    assert_eq!(judge(&table, 6, key, tag(key)), Verdict::Valid, "{text} {key}");
                }
            }
        }
    }

    #[test]
    fn hard_outweighs_soft_and_everything_outweighs_all() {
        let table = Table::default();
        table.apply(5, &subject(Class::Host, "a"), true);
        table.apply(9, &subject(Class::Tag, "t"), false);
        assert_eq!(judge(&table, 4, "http://a/", "t"), Verdict::Gone);
        assert_eq!(judge(&table, 4, "http://a/", "u"), Verdict::Stale);
        assert_eq!(judge(&table, 5, "http://a/", "t"), Verdict::Gone);
        assert_eq!(judge(&table, 9, "http://a/", "t"), Verdict::Valid);
        // Of one whose tags are not known, any may be meant.
        assert_eq!(table.judge(8, b"http://b/", Tags::UNKNOWN), Verdict::Gone);
        assert_eq!(table.judge(9, b"http://b/", Tags::UNKNOWN), Verdict::Valid);
        table.apply_to_everything(11);
        assert_eq!(judge(&table, 10, "http://b/", ""), Verdict::Gone);
        assert_eq!(judge(&table, 11, "http://b/", ""), Verdict::Valid);
    }

    #[test]
    fn a_prefix_beyond_the_lengths_purges_its_host() {
        let table = Table::default();
        let path = "x".repeat(2 * PURGE_PREFIX_LENGTHS_MAX);
        let prefix = |bytes: usize| subject(Class::Prefix, &format!("http://a/{}", &path[..bytes]));
        for bytes in 0..PURGE_PREFIX_LENGTHS_MAX {
            assert_eq!(table.apply(1 + bytes as u64, &prefix(bytes), false), None);
        }
        let widened = table.apply(100, &prefix(PURGE_PREFIX_LENGTHS_MAX), false);
        assert_eq!(widened, Some(subject(Class::Host, "a")));
        assert_eq!(judge(&table, 99, "http://a/other", ""), Verdict::Gone);
        assert_eq!(table.apply(101, &prefix(3), false), None, "a length it has room for");
        assert_eq!(judge(&table, 100, "http://a/other", ""), Verdict::Valid);
        assert_eq!(judge(&table, 100, "http://a/xxxx", ""), Verdict::Gone);
    }

    /// More purges than the table has room for: all of them hold, and the young ones purge nothing else.
    #[test]
    fn a_full_table_forgets_nothing() {
        let table = Table::default();
        let purges = 3 * PURGE_BUCKETS * BUCKET_SUBJECTS;
        for n in 0..purges {
            let tag = Subject { class: Class::Tag, bytes: n.to_string().into_bytes() };
            table.apply(1 + n as u64, &tag, false);
        }
        for n in (0..purges).step_by(97) {
            assert_eq!(judge(&table, n as u64, "http://a/", &n.to_string()), Verdict::Gone, "{n}");
        }
        let young = purges - PURGE_BUCKETS;
        let others = (0..2000).map(|n| judge(&table, young as u64, "http://a/", &format!("other{n}")));
        let wrong = others.filter(|verdict| *verdict != Verdict::Valid).count();
        assert!(wrong < 20, "{wrong} of 2000 are purged in vain");
    }

    #[test]
    fn ten_thousand_purged_tags_leave_the_other_tags_alone() {
        let table = Table::default();
        for n in 0..10_000u64 {
            table.apply(1 + n, &Subject { class: Class::Tag, bytes: n.to_string().into_bytes() }, n % 2 == 0);
        }
        let others = (0..100_000).map(|n| judge(&table, 0, "http://a/", &format!("other{n}")));
        let wrong = others.filter(|verdict| *verdict != Verdict::Valid).count();
        assert!(wrong < 10, "{wrong} of 100000 are purged in vain");
    }

    #[test]
    fn a_snapshot_says_the_same() {
        let table = Table::default();
        for n in 0..3000u64 {
            let class = Class::ALL[n as usize % 4];
            table.apply(1 + n, &Subject { class, bytes: vec![b'a'; n as usize % 50] }, n % 3 == 0);
        }
        table.apply_to_everything(17);
        let copy = Table::default();
        copy.restore(&table.words()).unwrap();
        assert_eq!(copy.words(), table.words());
        let beyond = copy.cells().count() as u32;
        assert!(Table::default().restore(&[(beyond, 1)]).is_none(), "of a larger table");
        assert!(Table::default().restore(&[(3, 1), (2, 1)]).is_none(), "out of order");
    }

    proptest! {
        /// Against a list of all purges: never too little.
        #[test]
        fn nothing_that_was_purged_is_called_valid(
            purges in proptest::collection::vec((0u8..4, 0usize..6, any::<bool>()), 0..60),
            stored in 0u64..60,
            path in 0usize..6,
        ) {
            let names = ["", "x", "x/", "x/y", "x/y/z", "z"];
            let table = Table::default();
            let key = format!("http://h{}/{}", path % 2, names[path]);
            let mut want = Verdict::Valid;
            for (i, &(class, name, soft)) in purges.iter().enumerate() {
                let sequence = 1 + i as u64;
                let text = match Class::from_number(class).unwrap() {
                    Class::Url | Class::Prefix => format!("http://h{}/{}", name % 2, names[name]),
                    Class::Host => format!("h{}", name % 2),
                    Class::Tag => format!("t{name}"),
                };
                let subject = subject(Class::from_number(class).unwrap(), &text);
                table.apply(sequence, &subject, soft);
                let named = match subject.class {
                    Class::Url => key == text,
                    Class::Prefix => key.starts_with(&text),
                    Class::Host => path % 2 == name % 2,
                    Class::Tag => path == name,
                };
                if named && sequence > stored {
                    want = want.max(if soft { Verdict::Stale } else { Verdict::Gone });
                }
            }
            prop_assert_eq!(judge(&table, stored, &key, &format!("t{path}")), want);
        }
    }
}
