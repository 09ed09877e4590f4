//! What leaves the store and what stays: the policy as the store carries it out.

use super::*;
use crate::limits;
use crate::shard::miniature::Miniature;
use crate::shard::set;

/// Enough for two logs.
const SEGMENTS: usize = 24;
/// Keys of objects that are stored once and never read start here.
const ONCE: u32 = 1_000_000;

fn put(writer: &mut Writer, object: Object) {
    object.put(writer).unwrap();
}

/// Stores objects that nobody reads until so many segments were reclaimed.
fn flood(writer: &mut Writer, next: &mut u32, segments: u64, mut between: impl FnMut(&mut Writer)) {
    let before = writer.usage().reclaimed_segments;
    while writer.usage().reclaimed_segments < before + segments {
        put(writer, Object { body_bytes: 3_000, ..Object::small(ONCE + *next, 1) });
        *next += 1;
        if next.is_multiple_of(20) {
            between(writer);
        }
    }
}

#[test]
fn what_is_read_stays_while_the_rest_passes_through() {
    let scratch = Scratch::new("evict-stay");
    let (mut writer, readers, _) = open(&options(&scratch, SEGMENTS));
    let mut hot: Vec<Object> = (0..40).map(|n| Object { body_bytes: 2_000, ..Object::small(n, 7) }).collect();
    // A large one among them: its chunks and its head stay together.
    hot.push(Object { body_bytes: 40_000, chunk_bytes: 6_000, ..Object::small(40, 7) });
    hot.iter().for_each(|&object| put(&mut writer, object));
    let mut next = 0;
    flood(&mut writer, &mut next, 5 * SEGMENTS as u64, |_| {
        for object in &hot {
            assert_eq!(served(&readers[0], object.key, 0), Some(*object), "no moment without it");
            let _ = readers[1].lookup(hash(object.key), &key(object.key), |_| true);
            let _ = readers[1].lookup(hash(object.key), &key(object.key), |_| true);
        }
    });
    let usage = writer.usage();
    assert!(usage.survivors > 40 && usage.survivor_bytes > 100_000, "{usage:?}");
    assert!(usage.survivor_bytes * 5 < usage.written_bytes, "moving stays cheap: {usage:?}");
    assert!(usage.evicted > 100 && usage.small_log_bytes < usage.size_bytes / 2, "{usage:?}");
    assert_eq!(usage.damaged, 0);

    // A killed process opens to the same, and what was removed after it had moved does not come back.
    assert_eq!(writer.remove(hash(3), &key(3)), 1);
    let before = writer.usage();
    drop((writer, readers));
    let (mut writer, readers, opened) = open(&options(&scratch, SEGMENTS));
    assert_eq!((opened.clean, opened.dropped), (false, 0));
    for object in &hot {
        assert_eq!(served(&readers[0], object.key, 0), Some(*object).filter(|object| object.key != 3));
    }
    let after = writer.usage();
    assert_eq!((after.objects, after.object_bytes), (before.objects, before.object_bytes));
    let (path, bytes) = writer.checkpoint();
    std::fs::write(path, bytes).unwrap();
    drop((writer, readers));
    let (writer, _, opened) = open(&options(&scratch, SEGMENTS));
    assert!(opened.clean);
    let again = writer.usage();
    assert_eq!((again.objects, again.object_bytes), (before.objects, before.object_bytes));
    assert_eq!(again.used_bytes, after.used_bytes);
}

#[test]
fn what_nobody_reads_leaves_although_it_came_first_and_what_is_not_worth_it_although_it_is_read() {
    let scratch = Scratch::new("evict-worth");
    let (mut writer, readers, _) = open(&options(&scratch, SEGMENTS));
    writer.meaning.is_worth = |meta| meta_variant(meta) == 0;
    let worthless = Object { variant: 1, body_bytes: 2_000, ..Object::small(1, 1) };
    let unread = Object { body_bytes: 4_000, ..Object::small(2, 1) };
    let read = Object { body_bytes: 4_000, ..Object::small(3, 1) };
    [worthless, unread, read].into_iter().for_each(|object| put(&mut writer, object));
    let mut next = 0;
    flood(&mut writer, &mut next, 3 * SEGMENTS as u64, |_| {
        let _ = served(&readers[0], 1, 1);
        assert_eq!(served(&readers[0], 3, 0), Some(read));
    });
    assert_eq!(served(&readers[0], 1, 1), None);
    assert_eq!(served(&readers[0], 2, 0), None);
    // Back within the horizon, it is known: from now on it lives in the main log.
    let hits = writer.usage().ghost_hits;
    put(&mut writer, Object { body_bytes: 4_000, ..Object::small(ONCE + next - 450, 2) });
    assert_eq!(writer.usage().ghost_hits, hits + 1);
}

#[test]
fn a_held_segment_is_left_for_later_and_nothing_is_lost_by_it() {
    let scratch = Scratch::new("evict-held");
    let (mut writer, readers, _) = open(&options(&scratch, SEGMENTS));
    let object = Object { body_bytes: 5_000, ..Object::small(1, 1) };
    put(&mut writer, object);
    let held = readers[1].lookup(hash(1), &key(1), |_| true).unwrap();
    let mut next = 0;
    flood(&mut writer, &mut next, 2 * SEGMENTS as u64, |_| {});
    object.check(&held, &readers[1]);
    assert_eq!(served(&readers[0], 1, 0), Some(object), "its segment was not emptied");
    drop(held);
    flood(&mut writer, &mut next, 2 * SEGMENTS as u64, |_| {});
    let usage = writer.usage();
    assert!(usage.used_bytes + SEGMENT as u64 * 2 >= usage.size_bytes, "{usage:?}");
}

#[test]
fn the_store_misses_what_its_miniature_misses() {
    let scratch = Scratch::new("evict-miniature");
    // Enough for what is emptied ahead not to matter; objects large enough for the index to have room for them.
    const SEGMENTS: usize = 64;
    let (mut writer, readers, _) = open(&options(&scratch, SEGMENTS));
    let capacity = (SEGMENTS * writer.geometry.records_bytes()) as u64;
    let mut small = Miniature::new(capacity, writer.geometry.records_bytes() as u64, 4096);
    let mut dice = Dice::new(11);
    let (mut misses, mut missed, mut asked) = (0, 0, 0);
    for _ in 0..25_000 {
        // Popularity falls with the square of the number; every fifth request never comes again.
        let rank = dice.roll(1_500) * dice.roll(1_500) / 1_500;
        asked += 1;
        let number = if dice.roll(5) == 0 { ONCE + asked } else { rank as u32 };
        let object = Object { body_bytes: 2_000 + number as usize * 37 % 9_000, ..Object::small(number, 1) };
        if readers[0].lookup(hash(number), &key(number), |_| true).is_none() {
            misses += 1;
            put(&mut writer, object);
        }
        let bytes = (object.body_bytes + 180) as u64;
        missed += u32::from(!small.request(hash(number), bytes));
    }
    let (real, model) = (f64::from(misses) / f64::from(asked), f64::from(missed) / f64::from(asked));
    assert!((real - model).abs() < 0.02, "miss ratio of the store {real:.4}, of its miniature {model:.4}");
    assert!(real > 0.3 && real < 0.7, "neither all nor nothing: {real:.4}");
}

/// Bytes of an object of the scan below.
const SCANNED_BYTES: usize = 20_000;
/// Objects that are asked for again and again: a fifth of the smallest store.
const HOT: u32 = 300;

/// Reads an object and stores it if it is not there, as a node does. Says whether it was.
fn ask(writer: &mut set::Writer, reader: &set::Reader, number: u32, body: &Bytes) -> bool {
    let (key, hash) = (key(number), hash(number));
    let hit = reader.lookup(hash, &key, |_| true).is_some();
    if !hit {
        let label = Label::new(hash, &key, &[0; 32], b"\r\n");
        writer.put(&label, Body::Whole(std::slice::from_ref(body)), |_| true).unwrap();
    }
    hit
}

/// The share of hits of the hot objects while eight times the store passes by, each asked for once.
fn hot_hits_in_a_scan(scratch: &Scratch, size_bytes: u64, cut: fn(u64) -> usize) -> f64 {
    let options = Options { path: scratch.path().join("scan"), size_bytes, readers: 1, ..Options::default() };
    let (mut writer, readers, _) = set::open(std::slice::from_ref(&options), cut).unwrap();
    let body = Bytes::from(vec![7; SCANNED_BYTES]);
    for number in (0..HOT).chain(0..HOT) {
        ask(&mut writer, &readers[0], number, &body);
    }
    let scanned = (8 * size_bytes) as u32 / SCANNED_BYTES as u32;
    let mut dice = Dice::new(3);
    // Ten objects of the scan for each hot one: a hot one is back after about twice the store was written.
    let hits = (0..scanned).filter(|&number| {
        ask(&mut writer, &readers[0], ONCE + number, &body);
        number % 10 == 0 && ask(&mut writer, &readers[0], dice.roll(HOT as usize) as u32, &body)
    });
    let share = hits.count() as f64 / f64::from(scanned / 10);
    drop((writer, readers));
    std::fs::remove_dir_all(options.path).unwrap();
    share
}

#[test]
fn the_smallest_stores_keep_what_is_hot_through_a_scan() {
    let scratch = Scratch::new("evict-smallest");
    for mib in [32, 48] {
        // With so few segments there is one log.
        let fifo = hot_hits_in_a_scan(&scratch, mib << 20, |_| limits::SEGMENT_BYTES);
        let ours = hot_hits_in_a_scan(&scratch, mib << 20, limits::segment_bytes);
        println!("hits of hot objects in a scan, {mib} MiB: {ours:.3}, in order {fifo:.3}");
        assert!(ours > 0.95 && fifo < 0.8, "{mib} MiB: {ours:.3}, in order {fifo:.3}");
    }
}

#[test]
fn the_smallest_store_holds_large_objects_and_small_ones_beside_them() {
    let scratch = Scratch::new("evict-large");
    let options = Options { path: scratch.path().into(), readers: 1, ..Options::default() };
    assert_eq!(options.size_bytes, 32 << 20, "the least that can be configured");
    let (mut writer, readers, _) = set::open(&[options], limits::segment_bytes).unwrap();
    let small = Bytes::from(vec![7; SCANNED_BYTES]);
    for number in (0..HOT / 2).chain(0..HOT / 2) {
        ask(&mut writer, &readers[0], number, &small);
    }
    // Of the largest size that is stored, in chunks and in one record; each is there when it has been stored.
    let chunk = Bytes::from(vec![9; limits::CHUNK_BYTES]);
    let chunks = (writer.smallest_shard_bytes() / limits::STORE_SHARE_PER_OBJECT) as u32 / chunk.len() as u32;
    let mut kept = 0;
    for number in ONCE..ONCE + 12 {
        let (key, hash) = (key(number), hash(number));
        let object = writer.new_object(hash);
        for number in 0..chunks {
            writer.put_chunk(object, number, std::slice::from_ref(&chunk)).unwrap();
        }
        let body = Body::Chunks { object, bytes: u64::from(chunks) * chunk.len() as u64 };
        let head = vec![b'h'; limits::RESPONSE_HEAD_BYTES_MAX];
        writer.put(&Label::new(hash, &key, &[0; 32], &head), body, |_| true).unwrap();
        let record = readers[0].lookup(hash, &key, |_| true).expect("a head");
        let object = record.chunked().expect("in chunks");
        for number in 0..chunks {
            assert!(readers[0].chunk(object, number).expect("all chunks").body() == chunk);
        }
        let largest = Label::new(!hash, &key, &[0; 32], &head);
        writer.put(&largest, Body::Whole(std::slice::from_ref(&chunk)), |_| true).unwrap();
        assert!(readers[0].lookup(!hash, &key, |_| true).is_some_and(|record| record.body() == chunk));
        let hits = (0..HOT / 2).filter(|&number| ask(&mut writer, &readers[0], number, &small)).count();
        kept += hits;
    }
    let share = kept as f64 / f64::from(12 * (HOT / 2));
    println!("hits of small objects beside large ones that pass: {share:.3}");
    assert!(share > 0.9, "{share:.3}");
}

#[test]
fn what_a_fill_that_was_given_up_has_stored_leaves() {
    let scratch = Scratch::new("eviction-given-up");
    let (mut writer, readers, _) = open(&options(&scratch, 24));
    let [given_up, runs] = [(); 2].map(|()| writer.new_object());
    for chunk in 0..24 {
        for object in [given_up, runs] {
            writer.put_chunk(object, chunk, &[Bytes::from(vec![chunk as u8; 8_000])]).unwrap();
        }
    }
    writer.give_up(given_up);
    let mut next = 100;
    flood(&mut writer, &mut next, 60, |_| {});
    let there = |object| (0..24).filter(|&chunk| readers[0].chunk(object, chunk).is_some()).count();
    assert_eq!((there(given_up), there(runs)), (0, 24));
}
