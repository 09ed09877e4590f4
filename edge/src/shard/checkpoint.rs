//! What a clean stop leaves, so that the next start need not scan: the index and the state of the segments, as
//! one run of words with a checksum at its end. Reads and writes no file.
//!
//! It is tied to the shard file by its id and its run. Opening the file starts a new run, so a checkpoint is
//! believed at most once, and not at all if anything was stored after it was made.
#![forbid(unsafe_code)]

use super::index::Index;
use super::layout::{FileHeader, Geometry};
use super::store::{Place, Writer};
use std::iter::Map;
use std::slice;
use xxhash_rust::xxh3::xxh3_64;

/// The file's name, in the directory of the shard.
pub const FILE_NAME: &str = "checkpoint";

const MAGIC: u64 = u64::from_le_bytes(*b"edgeckpt");
const VERSION: u64 = 3;
const NONE: u64 = u64::MAX;
const CHECKSUM_BYTES: usize = 8;

/// What a checkpoint says.
pub(super) struct Checkpoint {
    /// Index entries that are not chunks.
    pub(super) objects: u64,
    /// Bytes of these objects.
    pub(super) object_bytes: u64,
    /// The segment of each log that is being written.
    pub(super) active: [Option<usize>; 2],
    /// For each segment its sequence number (0: holds nothing) and its mark.
    pub(super) segments: Vec<(u64, usize)>,
    /// Object numbers and their head records.
    pub(super) heads: Vec<(u64, Place)>,
    /// The whole file, for the index is most of it, and where in it the index begins.
    file: (Vec<u8>, usize),
}

impl Checkpoint {
    /// The words of the index.
    pub(super) fn index(&self) -> Words<'_> {
        let (bytes, begins) = &self.file;
        words(&bytes[*begins..bytes.len() - CHECKSUM_BYTES])
    }
}

/// The checkpoint of a store.
pub(super) fn encode(writer: &Writer) -> Vec<u8> {
    let index = &writer.find.index;
    let words = 12 + 2 * writer.geometry.segments + 3 * writer.heads.len() + index.entries_max();
    let mut bytes = Vec::with_capacity(words * 8);
    let mut push = |word: u64| bytes.extend_from_slice(&word.to_le_bytes());
    let active = writer.segments.active.map(|active| active.map_or(NONE, |(segment, _)| segment as u64));
    for word in [MAGIC, VERSION, writer.id, writer.run, writer.geometry.segment_bytes() as u64] {
        push(word);
    }
    let counts = [writer.geometry.segments, writer.heads.len(), index.entries_max()];
    counts.into_iter().for_each(|count| push(count as u64));
    push(writer.counts.objects);
    push(writer.counts.object_bytes);
    active.into_iter().for_each(&mut push);
    for segment in 0..writer.geometry.segments {
        push(writer.sequence(segment).unwrap_or(0));
        push(writer.map.filled(segment) as u64);
    }
    for (&object, head) in &writer.heads {
        [object, head.hash, head.location].into_iter().for_each(&mut push);
    }
    index.words().for_each(&mut push);
    let checksum = xxh3_64(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

/// Reads a checkpoint. `None`: it is damaged, or not of this file, run and index.
pub(super) fn decode(bytes: Vec<u8>, file: &FileHeader, index: &Index) -> Option<Checkpoint> {
    let (rest, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>()?;
    if !rest.len().is_multiple_of(8) || u64::from_le_bytes(*checksum) != xxh3_64(rest) {
        return None;
    }
    let mut words = words(rest);
    for expected in [MAGIC, VERSION, file.id, file.run, file.segment_bytes, file.segments] {
        if words.next()? != expected {
            return None;
        }
    }
    let heads = usize::try_from(words.next()?).ok()?;
    if words.next()? != index.entries_max() as u64 {
        return None;
    }
    let objects = words.next()?;
    let object_bytes = words.next()?;
    let mut active = || words.next().map(|active| if active == NONE { None } else { Some(active as usize) });
    let active = [active()?, active()?];
    let geometry = Geometry::new(file.segment_bytes as usize, file.segments as usize);
    let mut segments = Vec::with_capacity(geometry.segments);
    for _ in 0..geometry.segments {
        let (sequence, filled) = (words.next()?, words.next()? as usize);
        let holds = (geometry.words_bytes()..=geometry.segment_bytes()).contains(&filled);
        segments.push((sequence, if sequence == 0 || !holds { 0 } else { filled }));
    }
    if words.len() != heads.checked_mul(3)?.checked_add(index.entries_max())? {
        return None;
    }
    let mut head = || Some((words.next()?, Place { hash: words.next()?, location: words.next()? }));
    let heads = (0..heads).map(|_| head()).collect::<Option<_>>()?;
    let begins = rest.len() - 8 * words.len();
    Some(Checkpoint { objects, object_bytes, active, segments, heads, file: (bytes, begins) })
}

type Words<'a> = Map<slice::Iter<'a, [u8; 8]>, fn(&[u8; 8]) -> u64>;

fn words(bytes: &[u8]) -> Words<'_> {
    bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word))
}
