//! The real writer and readers under a scheduler that switches threads at every atomic operation, in thousands of
//! seeded orders. What fails is printed with a schedule that replays it.
//!
//! `cargo test -p edge --features interleave --lib interleave`

use super::*;
use crate::shard::evict::Log;
use crate::shard::layout::{Header, Kind};
use shuttle::thread;

/// The smallest segment: one record of [`BODY_BYTES`], or two small ones.
const SMALL_SEGMENT: usize = 8192;
const BODY_BYTES: usize = 3200;
const KEYS: u32 = 6;

fn open_small(scratch: &Scratch, readers: usize) -> (Writer, Vec<Reader>) {
    let path = scratch.path().to_path_buf();
    let options = Options { path, size_bytes: (4 * SMALL_SEGMENT) as u64, readers, ..Options::default() };
    let (writer, readers, _) = recover::open(&options, SMALL_SEGMENT, 16).unwrap();
    (writer, readers)
}

fn explore(run: fn(), times: usize) {
    shuttle::check_random(run, times);
    shuttle::check_pct(run, times, 2);
    shuttle::check_pct(run, times, 3);
}

/// Looks up what is about to be evicted, holds it across the next lookup, and checks all bytes again.
fn read(reader: &Reader, first: u32) {
    let mut held: Option<(Object, Pinned)> = None;
    for number in (first..first + 4).map(|number| number % KEYS) {
        let Some(record) = reader.lookup(hash(number), &key(number), |_| true) else { continue };
        let found = Object::of(number, record.meta());
        found.check(&record, reader);
        if let Some((object, record)) = held.replace((found, record)) {
            object.check(&record, reader);
        }
    }
    if let Some((object, record)) = held {
        // One more step, before which the writer may run.
        reader.chunk(1, 1);
        object.check(&record, reader);
    }
}

/// Each object takes a segment, and each further one empties the oldest while readers go for it.
#[test]
fn held_bytes_do_not_change_in_any_order_of_steps() {
    fn run() {
        let scratch = Scratch::new("interleave");
        let (mut writer, readers) = open_small(&scratch, 2);
        let object =
            |version: u64| Object { body_bytes: BODY_BYTES, ..Object::small(version as u32 % KEYS, version) };
        (0..4).for_each(|version| object(version).put(&mut writer).unwrap());
        let threads: Vec<_> =
            (0..).zip(readers).map(|(first, reader)| thread::spawn(move || read(&reader, first))).collect();
        for version in 4..9 {
            // Refused only while readers hold what there is.
            let put = object(version).put(&mut writer);
            assert!(put.is_ok() || put == Err(PutError::Pinned));
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
    explore(run, 1_500);
}

/// A body with, `at` bytes into its record, the image of a record for `number` that was never stored.
fn forgery(at: usize, number: u32, before_body: usize) -> Vec<u8> {
    let never = Object::small(number, u64::MAX);
    let (key, meta) = (key(number), never.meta());
    let header = Header {
        kind: Kind::Whole,
        sequence: u64::MAX,
        hash: hash(number),
        object: 0,
        position: 0,
        key_bytes: key.len() as u16,
        meta_bytes: meta.len() as u32,
        head_bytes: 0,
        body_bytes: 0,
    };
    let mut body = vec![0; at - before_body];
    body.extend_from_slice(&header.encode(0, 0));
    body.extend_from_slice(&key);
    body.extend_from_slice(&meta);
    body.resize(BODY_BYTES, 0);
    body
}

/// A reader that has read an entry and comes back after the segment has begun another life finds other bytes at
/// the old place. They must not be believed, were they made to look like the record it wants.
#[test]
fn what_lies_at_a_place_is_believed_only_while_the_entry_stands() {
    fn run() {
        let scratch = Scratch::new("interleave-forgery");
        let (mut writer, readers) = open_small(&scratch, 1);
        let first = Object { body_bytes: 300, ..Object::small(0, 1) };
        let wanted = Object { body_bytes: 2500, ..Object::small(1, 1) };
        first.put(&mut writer).unwrap();
        let before = writer.segments.active[Log::Main as usize].unwrap().1 - writer.geometry.words_bytes();
        wanted.put(&mut writer).unwrap();
        for number in 2..5 {
            Object { body_bytes: BODY_BYTES, ..Object::small(number, 1) }.put(&mut writer).unwrap();
        }
        let threads: Vec<_> = readers
            .into_iter()
            .map(|reader| {
                thread::spawn(move || {
                    if let Some(record) = reader.lookup(hash(1), &key(1), |_| true) {
                        assert_eq!(Object::of(1, record.meta()).version, 1, "a forged record was believed");
                    }
                })
            })
            .collect();
        // Takes the first segment, if the reader does not hold it; the forgery lies where `wanted` was.
        let (key, meta) = (key(5), Object::small(5, 1).meta());
        let body = forgery(before, 1, crate::shard::layout::HEADER_BYTES + key.len() + meta.len());
        let put = writer.put(&Label::new(hash(5), &key, &meta, b""), Body::Whole(&[body.into()]), |_| true);
        assert!(put.is_ok() || put == Err(PutError::Pinned));
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
    explore(run, 1_500);
}

/// Segments with which there are two logs, and so survivors that move from one to the other.
const TWO_LOGS: usize = 9;

/// A store of that many segments, full: the hot objects in the segment that is emptied first, each read before, and a
/// large one in every other segment.
fn open_full(scratch: &Scratch, readers: usize, hot: &[Object]) -> (Writer, Vec<Reader>) {
    let path = scratch.path().to_path_buf();
    let size_bytes = (TWO_LOGS * SMALL_SEGMENT) as u64;
    let options = Options { path, size_bytes, readers, ..Options::default() };
    let (mut writer, readers, _) = recover::open(&options, SMALL_SEGMENT, 64).unwrap();
    hot.iter().for_each(|object| object.put(&mut writer).unwrap());
    for number in 100.. {
        if writer.segments.free.len() <= 1 {
            break;
        }
        Object { body_bytes: BODY_BYTES, ..Object::small(number, 1) }.put(&mut writer).unwrap();
    }
    for object in hot {
        for _ in 0..3 {
            assert!(writer.lookup(hash(object.key), &key(object.key), |_| true).is_some());
        }
    }
    (writer, readers)
}

/// Stores large objects, each of which has a segment emptied for it.
fn push(writer: &mut Writer, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let put = Object { body_bytes: BODY_BYTES, ..Object::small(number, 1) }.put(writer);
        assert!(put.is_ok() || put == Err(PutError::Pinned));
    }
}

/// Hot objects are appended again while readers look them up and hold them: there is no moment without them, what is held
/// does not change when its segment is emptied, and the copy is the same.
#[test]
fn survivors_are_found_and_held_in_any_order_of_steps_while_they_move() {
    fn run() {
        let scratch = Scratch::new("interleave-survivors");
        let hot = [0, 1].map(|number| Object { body_bytes: 600, ..Object::small(number, 7) });
        let (mut writer, readers) = open_full(&scratch, 2, &hot);
        let look = move |reader: Reader| {
            let mut missed = Vec::new();
            let mut held: Option<(Object, Pinned)> = None;
            for object in [hot[0], hot[1], hot[0]] {
                match reader.lookup(hash(object.key), &key(object.key), |_| true) {
                    Some(record) => {
                        object.check(&record, &reader);
                        if let Some((before, record)) = held.replace((object, record)) {
                            before.check(&record, &reader);
                        }
                    }
                    None => missed.push(object.key),
                }
            }
            missed
        };
        let threads: Vec<_> = readers.into_iter().map(|reader| thread::spawn(move || look(reader))).collect();
        push(&mut writer, 200..204);
        for missed in threads.into_iter().flat_map(|thread| thread.join().unwrap()) {
            assert!(writer.left(hash(missed)).is_some(), "{missed} was not found and had not left");
        }
        MOVED.fetch_add(writer.usage().survivors, std::sync::atomic::Ordering::Relaxed);
    }
    static MOVED: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    explore(run, 250);
    assert!(MOVED.load(std::sync::atomic::Ordering::Relaxed) > 400, "survivors do move");
}

/// One key is stored again and again while its records are moved and their segments are written anew. Whoever looks it up
/// finds one of its versions, whole, and never an older one than before.
#[test]
fn versions_only_go_forward_in_any_order_of_steps_while_segments_are_used_again() {
    fn run() {
        let scratch = Scratch::new("interleave-versions");
        let version = |version: u64| Object { body_bytes: 900, ..Object::small(0, version) };
        let (mut writer, readers) = open_full(&scratch, 2, &[version(1)]);
        let look = |reader: Reader| {
            let (mut last, mut missed) = (0, false);
            for _ in 0..4 {
                let Some(record) = reader.lookup(hash(0), &key(0), |_| true) else {
                    missed = true;
                    continue;
                };
                let found = Object::of(0, record.meta());
                found.check(&record, &reader);
                assert!(found.version >= last, "{} after {last}", found.version);
                last = found.version;
            }
            missed
        };
        let threads: Vec<_> = readers.into_iter().map(|reader| thread::spawn(move || look(reader))).collect();
        for number in 2..5 {
            let put = version(number).put(&mut writer);
            assert!(put.is_ok() || put == Err(PutError::Pinned));
            // Two laps in all: the segments that held the first versions are used again.
            push(&mut writer, number as u32 * 1000..number as u32 * 1000 + 3);
        }
        let missed = threads.into_iter().any(|thread| thread.join().unwrap());
        assert!(!missed || writer.left(hash(0)).is_some(), "not found, and it had not left");
    }
    explore(run, 250);
}
