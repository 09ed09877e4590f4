//! The format on disk: what the words of a segment mean, how records lie in its bytes, and their checksums.
//! Pure: bytes and numbers in, bytes and numbers out. No file, no mapping, no policy.
//!
//! ```text
//! file     segment 0 | segment 1 | …                          all of one size, a power of two
//! segment  page of words | sectors of dead bits, one bit for each 64 bytes | record | record | … | unused
//! record   header (64 bytes) | key | meta | head | body | padding to 16 bytes
//! ```
//!
//! - The first page's words 0.. describe the file (in segment 0 only), words 64.. the segment's present life.
//! - A record is at least as long as its header, so each has a dead bit of its own. Nothing else of a record
//!   changes once it is written.
//! - A sector of dead bits is [`SECTOR_WORDS`] words: two checksums, then the bits. The checksum that counts is the
//!   first while the number of bits set is even, else the second; so it can be written before the bit is set, and a
//!   process killed in between leaves a sector that is whole. One that is not whole was torn by a power loss, or is
//!   from another life of the segment: then nobody knows what was removed, and the segment holds nothing.
//! - Checksums are keyed with the file's random id and the segment's sequence number. So bytes left over from
//!   an earlier life of a segment never count, and a body crafted to look like records does not either.
#![forbid(unsafe_code)]

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed};

/// First word of a shard file.
pub const MAGIC: u64 = u64::from_le_bytes(*b"edgeshrd");
/// Version of this format.
pub const VERSION: u64 = 3;
/// Records start at multiples of this.
pub const RECORD_ALIGN: usize = 16;
/// Bytes of a record's header, and of what a dead bit stands for.
pub const HEADER_BYTES: usize = 64;
/// The words that describe the segment.
pub const SEGMENT_WORDS: Range<usize> = 64..66;
/// Bits of an object's number; those above are free for whoever tells shards apart.
pub const OBJECT_BITS: u32 = 56;
/// Runs of a file, so that a run and a count of 32 bits make an object's number.
pub const RUNS_MAX: u64 = 1 << (OBJECT_BITS - 32);
/// First word of the dead bits.
const DEAD_WORD: usize = 512;
/// Words of a sector of dead bits: what a disk writes whole or not at all, if it keeps its word.
const SECTOR_WORDS: usize = 64;
/// Of them the checksums.
const CHECK_WORDS: usize = 2;
/// Bits in the rest.
const SECTOR_BITS: usize = (SECTOR_WORDS - CHECK_WORDS) * 64;

const RECORD_MAGIC: u32 = 0x5243_4544;

/// How a file is cut into segments, and how places in it are numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    segment_shift: u32,
    /// Number of segments.
    pub segments: usize,
}

impl Geometry {
    /// `segment_bytes` is a power of two from 8 KiB to 1 GiB.
    pub fn new(segment_bytes: usize, segments: usize) -> Self {
        assert!(segment_bytes.is_power_of_two() && (13..=30).contains(&segment_bytes.trailing_zeros()));
        Geometry { segment_shift: segment_bytes.trailing_zeros(), segments }
    }

    /// Bytes of a segment.
    pub fn segment_bytes(&self) -> usize {
        1 << self.segment_shift
    }

    /// Bytes of the words at the start of a segment; its first record follows.
    pub fn words_bytes(&self) -> usize {
        let sectors = (self.segment_bytes() / HEADER_BYTES).div_ceil(SECTOR_BITS);
        (DEAD_WORD + sectors * SECTOR_WORDS) * 8
    }

    /// Bytes of a segment that records can take.
    pub fn records_bytes(&self) -> usize {
        self.segment_bytes() - self.words_bytes()
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> u64 {
        (self.segments as u64) << self.segment_shift
    }

    /// The number of the place `offset` bytes into a segment: its byte offset in the file, in units of
    /// [`RECORD_ALIGN`]. Never 0.
    pub fn location(&self, segment: usize, offset: usize) -> u64 {
        debug_assert!(offset.is_multiple_of(RECORD_ALIGN) && offset >= self.words_bytes());
        (((segment as u64) << self.segment_shift) + offset as u64) / RECORD_ALIGN as u64
    }

    /// The segment and the offset in it that a location stands for.
    #[inline]
    pub fn place(&self, location: u64) -> (usize, usize) {
        let byte = location * RECORD_ALIGN as u64;
        ((byte >> self.segment_shift) as usize, (byte & ((1 << self.segment_shift) - 1)) as usize)
    }
}

/// Where the dead bit of the record at `offset` is: the first word of its sector, its own word, and the mask.
fn dead_bit(offset: usize) -> (usize, usize, u64) {
    let bit = offset / HEADER_BYTES;
    let (sector, bit) = (bit / SECTOR_BITS, bit % SECTOR_BITS);
    let first = DEAD_WORD + sector * SECTOR_WORDS;
    (first, first + CHECK_WORDS + bit / 64, 1 << (bit % 64))
}

/// Whether the record at `offset` is dead. `words` are all of the segment's.
pub fn is_dead(words: &[AtomicU64], offset: usize) -> bool {
    let (_, word, mask) = dead_bit(offset);
    words[word].load(Ordering::Acquire) & mask != 0
}

/// Marks the record at `offset` as dead. `seed` is that of the segment's life. Says which words may have changed.
pub fn mark_dead(words: &[AtomicU64], offset: usize, seed: u64) -> Range<usize> {
    let (first, word, mask) = dead_bit(offset);
    if words[word].load(Ordering::Acquire) & mask == 0 {
        let (checksum, which) = dead_checksum(words, first, seed, Some((word, mask)));
        words[first + which].store(checksum, Ordering::Release);
        words[word].fetch_or(mask, Ordering::Release);
    }
    first..first + SECTOR_WORDS
}

/// Marks all records as alive, in a new life of the segment.
pub fn clear_dead(words: &[AtomicU64], seed: u64) {
    for first in (DEAD_WORD..words.len()).step_by(SECTOR_WORDS) {
        words[first..first + SECTOR_WORDS].iter().for_each(|word| word.store(0, Ordering::Relaxed));
        let (checksum, which) = dead_checksum(words, first, seed, None);
        words[first + which].store(checksum, Ordering::Release);
    }
}

/// Whether all sectors of dead bits are whole and of this life.
pub fn dead_is_sound(words: &[AtomicU64], seed: u64) -> bool {
    (DEAD_WORD..words.len()).step_by(SECTOR_WORDS).all(|first| {
        let (checksum, which) = dead_checksum(words, first, seed, None);
        words[first + which].load(Ordering::Acquire) == checksum
    })
}

/// The checksum of the sector that begins with word `first`, with one more bit set, and which of the two it is.
fn dead_checksum(words: &[AtomicU64], first: usize, seed: u64, more: Option<(usize, u64)>) -> (u64, usize) {
    let mut bytes = [0; (SECTOR_WORDS - CHECK_WORDS) * 8];
    let mut ones = 0;
    for (place, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(first + CHECK_WORDS..) {
        let mut value = words[word].load(Ordering::Acquire);
        if let Some((_, mask)) = more.filter(|&(changed, _)| changed == word) {
            value |= mask;
        }
        ones += value.count_ones() as usize;
        *place = value.to_le_bytes();
    }
    // With its place, so that no sector passes for another.
    (xxh3_64_with_seed(&bytes, seed ^ first as u64), ones % CHECK_WORDS)
}

/// What the first words of the file say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHeader {
    /// Random, made with the file; keys the checksums.
    pub id: u64,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Number of segments.
    pub segments: u64,
    /// Counts how often the file was opened; what was written for another run is stale.
    pub run: u64,
    /// Counts how often the set of shards changed; one that has not seen the newest era has missed something.
    pub era: u64,
    /// The ids of the shards of that era, combined by exclusive or.
    pub members: u64,
    /// The id of the purge log that goes with what the file holds; 0: none yet.
    pub log: u64,
}

/// Words that a [`FileHeader`] takes.
pub const FILE_WORDS: usize = 10;
/// Which of them counts runs; it and those below change while the file is in use, and so have no part in the checksum.
pub const RUN_WORD: usize = 6;
/// Which of them is [`FileHeader::era`].
pub const ERA_WORD: usize = 7;
/// Which of them is [`FileHeader::members`].
pub const MEMBERS_WORD: usize = 8;
/// Which of them is [`FileHeader::log`].
pub const LOG_WORD: usize = 9;

/// What a file turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Never used.
    Blank,
    /// A shard of this format.
    Shard(FileHeader),
    /// A shard of another format.
    OtherVersion(u64),
    /// Something else, or a damaged header.
    Foreign,
}

impl FileHeader {
    /// As words.
    pub fn encode(&self) -> [u64; FILE_WORDS] {
        let FileHeader { id, segment_bytes, segments, run, era, members, log } = *self;
        let mut words = [MAGIC, VERSION, id, segment_bytes, segments, 0, run, era, members, log];
        words[5] = checksum_words(&words[..5], 0);
        words
    }
}

impl FileKind {
    /// Reads the first words of a file.
    pub fn decode(words: &[u64; FILE_WORDS]) -> FileKind {
        if words.iter().all(|&word| word == 0) {
            return FileKind::Blank;
        }
        let [magic, version, id, segment_bytes, segments, checksum, run, era, members, log] = *words;
        match (magic, version) {
            (MAGIC, VERSION) if checksum == checksum_words(&words[..5], 0) => {
                FileKind::Shard(FileHeader { id, segment_bytes, segments, run, era, members, log })
            }
            (MAGIC, VERSION) => FileKind::Foreign,
            (MAGIC, other) => FileKind::OtherVersion(other),
            _ => FileKind::Foreign,
        }
    }
}

/// The [`SEGMENT_WORDS`] of a segment that is in use.
pub fn segment_words(id: u64, segment: usize, sequence: u64) -> [u64; 2] {
    [sequence, checksum_words(&[sequence, segment as u64], id)]
}

/// The sequence number of a segment's present life; `None`: it holds nothing. `words` are all its words.
pub fn segment_sequence(id: u64, segment: usize, words: &[AtomicU64]) -> Option<u64> {
    let [sequence, checksum] = [0, 1].map(|i| words[SEGMENT_WORDS][i].load(Ordering::Acquire));
    (sequence != 0 && [sequence, checksum] == segment_words(id, segment, sequence)).then_some(sequence)
}

/// The key of all checksums in one life of a segment.
pub fn seed(id: u64, sequence: u64) -> u64 {
    id ^ sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The hash under which a chunk is indexed.
pub fn chunk_hash(object: u64, chunk: u32) -> u64 {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&object.to_le_bytes());
    bytes[8..].copy_from_slice(&chunk.to_le_bytes());
    xxh3_64_with_seed(&bytes, MAGIC)
}

/// A number between 0 and 1, neither included, that looks random and is the same in every run.
pub fn unit(id: u64, place: u64) -> f64 {
    let hash = chunk_hash(id, place as u32);
    ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
}

/// The discriminator of a record: the first 8 bytes of its meta, as far as it has them.
pub fn discriminator(meta: &[u8]) -> [u8; 8] {
    let mut bytes = [0; 8];
    let some = meta.len().min(8);
    bytes[..some].copy_from_slice(&meta[..some]);
    bytes
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A whole object.
    Whole = 1,
    /// The head of an object whose body is in chunks.
    Head = 2,
    /// One chunk.
    Chunk = 3,
    /// As [`Kind::Head`], but chunks may be missing: those are there which the index leads to.
    Partial = 4,
}

/// The fixed part of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub kind: Kind,
    /// The segment's sequence number.
    pub sequence: u64,
    /// The hash it is indexed under.
    pub hash: u64,
    /// The object's number: later ones are higher, chunks share their head's.
    pub object: u64,
    /// Bytes of the object's body; of a chunk: its number.
    pub position: u64,
    /// Bytes of the key.
    pub key_bytes: u16,
    /// Bytes of the meta.
    pub meta_bytes: u32,
    /// Bytes of the head.
    pub head_bytes: u32,
    /// Bytes of the body in this record.
    pub body_bytes: u32,
}

impl Header {
    /// Bytes of key, meta, head and body.
    #[inline]
    pub fn payload_bytes(&self) -> usize {
        self.key_bytes as usize
            + self.meta_bytes as usize
            + self.head_bytes as usize
            + self.body_bytes as usize
    }

    /// Whether this is that chunk.
    #[inline]
    pub fn is_chunk(&self, object: u64, chunk: u32) -> bool {
        self.kind == Kind::Chunk && self.object == object && self.position == u64::from(chunk)
    }

    /// Bytes of the whole object's body; of a chunk: of its own.
    pub fn object_bytes(&self) -> u64 {
        match self.kind {
            Kind::Whole | Kind::Head | Kind::Partial => self.position,
            Kind::Chunk => u64::from(self.body_bytes),
        }
    }

    /// Bytes from this record's start to the next.
    pub fn record_bytes(&self) -> usize {
        (HEADER_BYTES + self.payload_bytes()).next_multiple_of(RECORD_ALIGN)
    }

    /// Where the key is, from the record's start.
    #[inline]
    pub fn key(&self) -> Range<usize> {
        HEADER_BYTES..HEADER_BYTES + self.key_bytes as usize
    }

    /// Where the meta is, from the record's start.
    #[inline]
    pub fn meta(&self) -> Range<usize> {
        let start = self.key().end;
        start..start + self.meta_bytes as usize
    }

    /// Where the head is, from the record's start.
    #[inline]
    pub fn head(&self) -> Range<usize> {
        let start = self.meta().end;
        start..start + self.head_bytes as usize
    }

    /// Where the body is, from the record's start: right behind the head.
    #[inline]
    pub fn body(&self) -> Range<usize> {
        let start = self.head().end;
        start..start + self.body_bytes as usize
    }

    /// As bytes. `payload` is the checksum of the payload, `seed` that of the segment.
    pub fn encode(&self, payload: u64, seed: u64) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&RECORD_MAGIC.to_le_bytes());
        bytes[4] = self.kind as u8;
        bytes[6..8].copy_from_slice(&self.key_bytes.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.hash.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.object.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.position.to_le_bytes());
        bytes[40..48].copy_from_slice(&payload.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.meta_bytes.to_le_bytes());
        bytes[52..56].copy_from_slice(&self.head_bytes.to_le_bytes());
        bytes[56..60].copy_from_slice(&self.body_bytes.to_le_bytes());
        let checksum = header_checksum(&bytes, seed);
        bytes[60..64].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads a header that was verified before: by [`Header::verify`], or by having been written in this run.
    #[inline]
    pub fn decode(bytes: &[u8]) -> Option<Header> {
        let bytes: &[u8; HEADER_BYTES] = bytes.try_into().ok()?;
        let kind = match (word32(bytes, 0), bytes[4]) {
            (RECORD_MAGIC, 1) => Kind::Whole,
            (RECORD_MAGIC, 2) => Kind::Head,
            (RECORD_MAGIC, 3) => Kind::Chunk,
            (RECORD_MAGIC, 4) => Kind::Partial,
            _ => return None,
        };
        Some(Header {
            kind,
            sequence: word64(bytes, 8),
            hash: word64(bytes, 16),
            object: word64(bytes, 24),
            position: word64(bytes, 32),
            key_bytes: u16::from_le_bytes([bytes[6], bytes[7]]),
            meta_bytes: word32(bytes, 48),
            head_bytes: word32(bytes, 52),
            body_bytes: word32(bytes, 56),
        })
    }

    /// Reads a header of unknown state: its checksum and sequence number must be right. The second value is the
    /// checksum its payload must have.
    pub fn verify(bytes: &[u8], sequence: u64, seed: u64) -> Option<(Header, u64)> {
        let header = Header::decode(bytes)?;
        let bytes: &[u8; HEADER_BYTES] = bytes.try_into().ok()?;
        let right = header.sequence == sequence && word32(bytes, 60) == header_checksum(bytes, seed);
        right.then_some((header, word64(bytes, 40)))
    }
}

/// The checksum of a payload, taken piece by piece.
pub struct PayloadChecksum(Xxh3);

impl PayloadChecksum {
    /// Of nothing yet.
    pub fn new(seed: u64) -> Self {
        PayloadChecksum(Xxh3::with_seed(seed))
    }

    /// Adds the next bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Of all that was added.
    pub fn value(&self) -> u64 {
        self.0.digest()
    }

    /// Of one run of bytes.
    pub fn of(bytes: &[u8], seed: u64) -> u64 {
        xxh3_64_with_seed(bytes, seed)
    }
}

fn header_checksum(bytes: &[u8; HEADER_BYTES], seed: u64) -> u32 {
    xxh3_64_with_seed(&bytes[..60], seed) as u32
}

fn checksum_words(words: &[u64], seed: u64) -> u64 {
    let mut sum = Xxh3::with_seed(seed);
    for word in words {
        sum.update(&word.to_le_bytes());
    }
    sum.digest()
}

#[inline]
fn word32(bytes: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[inline]
fn word64(bytes: &[u8; HEADER_BYTES], at: usize) -> u64 {
    u64::from(word32(bytes, at)) | u64::from(word32(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> impl Strategy<Value = Header> {
        let kind = prop_oneof![Just(Kind::Whole), Just(Kind::Head), Just(Kind::Chunk), Just(Kind::Partial)];
        (kind, any::<[u64; 4]>(), any::<u16>(), any::<[u16; 3]>()).prop_map(
            |(kind, wide, key_bytes, lengths)| Header {
                kind,
                sequence: wide[0],
                hash: wide[1],
                object: wide[2],
                position: wide[3],
                key_bytes,
                meta_bytes: lengths[0].into(),
                head_bytes: lengths[1].into(),
                body_bytes: lengths[2].into(),
            },
        )
    }

    proptest! {
        #[test]
        fn a_header_comes_back_and_no_flipped_bit_passes(
            header in header(), payload: u64, seed: u64, bit in 0..HEADER_BYTES * 8
        ) {
            let mut bytes = header.encode(payload, seed);
            prop_assert_eq!(Header::decode(&bytes), Some(header));
            prop_assert_eq!(Header::verify(&bytes, header.sequence, seed), Some((header, payload)));
            prop_assert_eq!(Header::verify(&bytes, header.sequence.wrapping_add(1), seed), None);
            prop_assert_eq!(Header::verify(&bytes, header.sequence, seed.wrapping_add(1)), None);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Header::verify(&bytes, header.sequence, seed), None);
        }

        #[test]
        fn parts_lie_one_behind_the_other(header in header()) {
            prop_assert_eq!(header.key().end, header.meta().start);
            prop_assert_eq!(header.meta().end, header.head().start);
            prop_assert_eq!(header.head().end, header.body().start);
            prop_assert_eq!(header.body().end, HEADER_BYTES + header.payload_bytes());
            prop_assert!(header.record_bytes() - header.body().end < RECORD_ALIGN);
        }

        #[test]
        fn locations_come_back(segment in 0usize..1 << 20, unit in 0usize..1 << 18) {
            let geometry = Geometry::new(8 << 20, 1 << 20);
            let offset = geometry.words_bytes() + unit * RECORD_ALIGN;
            let location = geometry.location(segment, offset);
            prop_assert!(location != 0 && location < 1 << 46);
            prop_assert_eq!(geometry.place(location), (segment, offset));
        }
    }

    #[test]
    fn neighbouring_records_have_different_dead_bits_inside_the_words() {
        let geometry = Geometry::new(64 << 10, 4);
        assert_eq!(geometry.words_bytes() % RECORD_ALIGN, 0);
        for offset in (geometry.words_bytes()..geometry.segment_bytes() - HEADER_BYTES).step_by(RECORD_ALIGN)
        {
            assert_ne!(dead_bit(offset), dead_bit(offset + HEADER_BYTES));
            assert!((DEAD_WORD..geometry.words_bytes() / 8).contains(&dead_bit(offset).0));
        }
    }

    #[test]
    fn files_are_told_apart() {
        let header =
            FileHeader { id: 7, segment_bytes: 8 << 20, segments: 9, run: 3, era: 4, members: 5, log: 6 };
        let check = |at: usize, value: u64, expected: FileKind| {
            let mut words = header.encode();
            words[at] = value;
            assert_eq!(FileKind::decode(&words), expected);
        };
        check(0, MAGIC, FileKind::Shard(header));
        check(RUN_WORD, 8, FileKind::Shard(FileHeader { run: 8, ..header }));
        check(LOG_WORD, 0, FileKind::Shard(FileHeader { log: 0, ..header }));
        check(0, MAGIC + 1, FileKind::Foreign);
        check(1, VERSION + 1, FileKind::OtherVersion(VERSION + 1));
        check(4, 10, FileKind::Foreign);
        assert_eq!(FileKind::decode(&[0; FILE_WORDS]), FileKind::Blank);
    }

    #[test]
    fn a_segment_belongs_to_its_file_and_place() {
        let words: Vec<AtomicU64> = (0..DEAD_WORD).map(|_| AtomicU64::new(0)).collect();
        assert_eq!(segment_sequence(0, 0, &words), None);
        for (word, value) in words[SEGMENT_WORDS].iter().zip(segment_words(5, 2, 77)) {
            word.store(value, Ordering::Relaxed);
        }
        assert_eq!(segment_sequence(5, 2, &words), Some(77));
        assert_eq!(segment_sequence(6, 2, &words), None);
        assert_eq!(segment_sequence(5, 3, &words), None);
        words[SEGMENT_WORDS.start].store(78, Ordering::Relaxed);
        assert_eq!(segment_sequence(5, 2, &words), None);
    }
}
