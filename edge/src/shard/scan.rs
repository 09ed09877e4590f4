//! What a shard file holds, found out segment by segment without trusting any of it: a record whose checksum does
//! not match is dropped. Nothing is written here, and no index is known.
#![forbid(unsafe_code)]

use super::layout::{self, Geometry, HEADER_BYTES, Header, PayloadChecksum, RECORD_ALIGN};
use crate::sys::mapping::Unserved;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Threads that scan; a disk has no use for more.
const SCAN_THREADS_MAX: usize = 8;
/// Bytes of the file that are worth a thread of their own.
const SCAN_BYTES_PER_THREAD: u64 = 64 << 20;

/// What a scan finds in a segment.
pub(super) enum Found {
    /// No header.
    Nothing,
    /// A header with this sequence number, but dead bits that do not belong to it: what it holds is lost.
    Torn(u64),
    /// Records.
    Life(Life),
}

impl Found {
    /// The highest run that has left a trace here.
    pub(super) fn run(&self) -> u64 {
        match self {
            Found::Nothing => 0,
            Found::Torn(sequence) => sequence >> 32,
            Found::Life(life) => (life.object_max >> 32).max(life.sequence >> 32),
        }
    }

    pub(super) fn life(self) -> Option<Life> {
        match self {
            Found::Life(life) => Some(life),
            Found::Nothing | Found::Torn(_) => None,
        }
    }
}

/// What the present life of a segment holds.
pub(super) struct Life {
    pub(super) sequence: u64,
    /// Offset behind the last record.
    pub(super) end: usize,
    /// Where no record is, before that.
    pub(super) gaps: Vec<Range<usize>>,
    /// Offsets of the records that are whole.
    pub(super) whole: Vec<u32>,
    /// Offsets of those that are not.
    pub(super) torn: Vec<u32>,
    /// Highest object number seen.
    pub(super) object_max: u64,
}

/// Scans all segments, several at once.
pub(super) fn scan(map: &Unserved, id: u64, geometry: Geometry) -> Vec<Found> {
    // A small file is read before a second thread has begun.
    let useful = (geometry.file_bytes() / SCAN_BYTES_PER_THREAD) as usize + 1;
    let threads = match useful.min(SCAN_THREADS_MAX) {
        1 => 1,
        more => std::thread::available_parallelism().map_or(1, usize::from).min(more),
    };
    let next = AtomicUsize::new(0);
    let work = || {
        let mut lives = Vec::new();
        loop {
            let segment = next.fetch_add(1, Ordering::Relaxed);
            if segment >= geometry.segments || map.failed() {
                return lives;
            }
            let words = map.words(segment);
            let found = match layout::segment_sequence(id, segment, words) {
                None => Found::Nothing,
                Some(sequence) => {
                    scan_segment(map.bytes(segment), words, sequence, layout::seed(id, sequence))
                }
            };
            lives.push((segment, found));
        }
    };
    let mut all: Vec<Found> = (0..geometry.segments).map(|_| Found::Nothing).collect();
    let mut keep =
        |part: Vec<(usize, Found)>| part.into_iter().for_each(|(segment, found)| all[segment] = found);
    if threads == 1 {
        keep(work());
        return all;
    }
    std::thread::scope(|scope| {
        let scans: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        scans.into_iter().for_each(|scan| keep(scan.join().expect("a scan does not panic")));
    });
    all
}

/// Walks the records of one segment. Behind a broken header the next whole one is looked for at every place where a
/// record can begin: the checksums hang on a secret and on this life, so that neither bytes of a body nor those of an
/// earlier life pass for a header.
fn scan_segment(bytes: &[u8], words: &[AtomicU64], sequence: u64, seed: u64) -> Found {
    if !layout::dead_is_sound(words, seed) {
        return Found::Torn(sequence);
    }
    let words_bytes = words.len() * 8;
    let (gaps, whole, torn) = Default::default();
    let mut life = Life { sequence, end: words_bytes, gaps, whole, torn, object_max: 0 };
    let mut at = 0;
    while let Some(header) = bytes.get(at..at + HEADER_BYTES) {
        let header = Header::verify(header, sequence, seed);
        let record = header.and_then(|(header, checksum)| {
            Some((header, checksum, bytes.get(at + HEADER_BYTES..at + header.body().end)?))
        });
        let Some((header, checksum, payload)) = record else {
            // No record is shorter than its header: behind the last whole one the first step is a long one.
            at += if words_bytes + at == life.end { HEADER_BYTES } else { RECORD_ALIGN };
            continue;
        };
        let offset = words_bytes + at;
        if life.end < offset {
            life.gaps.push(life.end..offset);
        }
        life.object_max = life.object_max.max(header.object);
        if !layout::is_dead(words, offset) {
            let is_whole = PayloadChecksum::of(payload, seed) == checksum;
            let list = if is_whole { &mut life.whole } else { &mut life.torn };
            list.push(offset as u32);
        }
        at += header.record_bytes();
        life.end = words_bytes + at;
    }
    Found::Life(life)
}
