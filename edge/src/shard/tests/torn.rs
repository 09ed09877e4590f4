//! Disks that lost, mixed up or damaged what was written: nothing but whole objects is ever served, and damage
//! costs what it touches, no more.

use super::*;
use crate::shard::layout::HEADER_BYTES;

const SEGMENTS: usize = 6;
const KEYS: u32 = 120;
const SECTOR: usize = 512;

/// Stores some objects, replaces and removes some.
fn fill(writer: &mut Writer, dice: &mut Dice, versions: std::ops::Range<u64>) {
    for version in versions {
        let number = dice.roll(KEYS as usize) as u32;
        if dice.roll(10) == 0 {
            writer.remove(hash(number), &key(number));
            continue;
        }
        let chunk_bytes = if dice.roll(8) == 0 { 5_000 } else { 0 };
        let object = Object { body_bytes: dice.roll(7_000), chunk_bytes, ..Object::small(number, version) };
        object.put(writer).unwrap();
    }
}

/// Opens a store whose file has these bytes; what it serves has passed every check of `served`.
fn open_with(bytes: &[u8]) -> (Vec<Object>, Opened) {
    let scratch = Scratch::new("torn-copy");
    std::fs::write(scratch.path().join("shard-0"), bytes).unwrap();
    let (mut writer, readers, opened) = open(&options(&scratch, SEGMENTS));
    let all = all_served(&readers[0], KEYS, 1);
    // It can be written on, too, all around.
    fill(&mut writer, &mut Dice::new(1), 10_000..10_100);
    all_served(&readers[0], KEYS, 1);
    (all, opened)
}

/// Where an object's record lies in the file: its header, and its payload.
fn lies(writer: &Writer, object: &Object) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
    let mut records = writer.find.index.candidates(hash(object.key)).filter_map(|(_, entry)| {
        let (header, record) = writer.record(entry.location())?;
        (record[header.meta()] == object.meta()).then_some((entry.location() as usize * 16, header))
    });
    let (start, header) = records.next().unwrap();
    (start..start + HEADER_BYTES, start + HEADER_BYTES..start + header.body().end)
}

#[test]
fn a_damaged_payload_costs_one_object() {
    let scratch = Scratch::new("torn-payload");
    let (mut writer, readers, _) = open(&options(&scratch, SEGMENTS));
    fill(&mut writer, &mut Dice::new(3), 0..150);
    let whole = std::fs::read(scratch.path().join("shard-0")).unwrap();
    let before = all_served(&readers[0], KEYS, 1);
    let mut dice = Dice::new(4);
    for object in before.iter().step_by(3) {
        let (_, payload) = lies(&writer, object);
        let mut bytes = whole.clone();
        bytes[payload.start + dice.roll(payload.len())] ^= 1 << dice.roll(8);
        let (after, opened) = open_with(&bytes);
        let rest: Vec<Object> = before.iter().filter(|other| *other != object).copied().collect();
        assert_eq!((after, opened.dropped), (rest, 1));
    }
}

#[test]
fn a_damaged_header_costs_one_object_also_when_the_store_is_written_on() {
    let scratch = Scratch::new("torn-header");
    let (mut writer, readers, _) = open(&options(&scratch, SEGMENTS));
    for number in 0..KEYS {
        Object::small(number, 1).put(&mut writer).unwrap();
    }
    let whole = std::fs::read(scratch.path().join("shard-0")).unwrap();
    let before = all_served(&readers[0], KEYS, 1);
    assert_eq!(before.len(), KEYS as usize);
    for object in before.iter().step_by(7) {
        let (header, _) = lies(&writer, object);
        let mut bytes = whole.clone();
        bytes[header.start + object.key as usize % HEADER_BYTES] ^= 1;
        let rest: Vec<Object> = before.iter().filter(|other| *other != object).copied().collect();
        assert_eq!(open_with(&bytes).0, rest);
    }
}

#[test]
fn a_damaged_sector_of_dead_bits_costs_its_segment() {
    let scratch = Scratch::new("torn-dead-bits");
    let (mut writer, readers, _) = open(&options(&scratch, SEGMENTS));
    for number in 0..KEYS {
        Object::small(number, 1).put(&mut writer).unwrap();
    }
    assert_eq!(writer.remove(hash(1), &key(1)), 1);
    let whole = std::fs::read(scratch.path().join("shard-0")).unwrap();
    let before = all_served(&readers[0], KEYS, 1);
    let (first, _) = lies(&writer, &before[0]);
    let dead_bits = first.start / SEGMENT * SEGMENT + 4096;
    let mut bytes = whole.clone();
    // All alive again: what was removed would be served.
    bytes[dead_bits..dead_bits + SECTOR].fill(0);
    let elsewhere = |object: &&Object| lies(&writer, object).0.start / SEGMENT != first.start / SEGMENT;
    let rest: Vec<Object> = before.iter().filter(elsewhere).copied().collect();
    let (after, opened) = open_with(&bytes);
    assert_eq!((after, opened.lost_segments), (rest, 1));
}

#[test]
fn zeroed_and_scrambled_sectors_are_never_served() {
    let scratch = Scratch::new("torn-sectors");
    let (mut writer, readers, _) = open(&options(&scratch, SEGMENTS));
    fill(&mut writer, &mut Dice::new(5), 0..200);
    let whole = std::fs::read(scratch.path().join("shard-0")).unwrap();
    let before = all_served(&readers[0], KEYS, 1);
    let mut lost = 0;
    for seed in 0..60 {
        let mut dice = Dice::new(100 + seed);
        let mut bytes = whole.clone();
        let mut touched = [false; SEGMENTS];
        for _ in 0..1 + dice.roll(6) {
            // Not the page that says whose file this is: without it nothing is opened at all.
            let sector = 8 + dice.roll(bytes.len() / SECTOR - 8);
            touched[sector * SECTOR / SEGMENT] = true;
            let zeroed = dice.roll(2) == 0;
            for byte in &mut bytes[sector * SECTOR..(sector + 1) * SECTOR] {
                *byte = if zeroed { 0 } else { dice.roll(256) as u8 };
            }
        }
        let (after, _) = open_with(&bytes);
        // A scrambled dead bit may kill a record, a zeroed one may bring a replaced one back, whole as it was;
        // what lies all in untouched segments is as before.
        let untouched = |object: &&Object| {
            let (at, _) = lies(&writer, object);
            object.chunk_bytes == 0 && !touched[at.start / SEGMENT]
        };
        for object in before.iter().filter(untouched) {
            assert!(after.contains(object), "seed {seed}: {object:?} is lost");
        }
        lost += before.iter().filter(|object| !after.contains(object)).count();
    }
    assert!(lost > 60, "the damage has done next to nothing: {lost}");
}

#[test]
fn pages_that_were_never_written_back_are_never_served() {
    let scratch = Scratch::new("torn-pages");
    let (mut writer, _readers, _) = open(&options(&scratch, SEGMENTS));
    let path = scratch.path().join("shard-0");
    let mut dice = Dice::new(6);
    fill(&mut writer, &mut dice, 0..100);
    let mut version = 100;
    for round in 0..25 {
        // At least one segment has begun another life in between, on top of what was there.
        let before = std::fs::read(&path).unwrap();
        fill(&mut writer, &mut dice, version..version + 40);
        version += 40;
        let after = std::fs::read(&path).unwrap();
        let (mut mixed, mut dropped) = (after.clone(), 0);
        for page in (0..mixed.len()).step_by(4096) {
            if dice.roll(4) == 0 {
                mixed[page..page + 4096].copy_from_slice(&before[page..page + 4096]);
                dropped += usize::from(before[page..page + 4096] != after[page..page + 4096]);
            }
        }
        assert!(dropped > 0, "round {round}");
        let (all, _) = open_with(&mixed);
        for object in all {
            assert!(object.version < version);
        }
    }
}
