//! Readers on threads of their own while the writer publishes, replaces, removes and reclaims under them.

use super::*;
use std::sync::atomic::{AtomicBool, Ordering};

const KEYS: u32 = 50;

fn object(number: u32, version: u64) -> Object {
    let mut dice = Dice::new(version);
    let chunk_bytes = if number.is_multiple_of(10) { 4_000 } else { 0 };
    Object { body_bytes: dice.roll(6_000), chunk_bytes, ..Object::small(number, version) }
}

/// Looks up and holds at random until told to stop; says how many records were checked.
fn read(reader: &Reader, seed: u64, stop: &AtomicBool) -> u64 {
    let mut dice = Dice::new(seed);
    let mut held: Vec<(Object, Pinned)> = Vec::new();
    let mut checked = 0;
    let mut newest = vec![0; KEYS as usize];
    while !stop.load(Ordering::Relaxed) {
        let number = dice.roll(KEYS as usize) as u32;
        if let Some(record) = reader.lookup(hash(number), &key(number), |_| true) {
            let found = Object::of(number, record.meta());
            assert_eq!(found, object(number, found.version), "a record that was never stored");
            found.check(&record, reader);
            let newest = &mut newest[number as usize];
            assert!(found.version >= *newest, "an older version came back");
            *newest = found.version;
            checked += 1;
            if held.len() < 3 && dice.roll(4) == 0 {
                held.push((found, record));
            }
        }
        if !held.is_empty() && dice.roll(10) == 0 {
            let (object, record) = held.swap_remove(dice.roll(held.len()));
            object.check(&record, reader);
            checked += 1;
        }
    }
    checked
}

#[test]
fn readers_see_whole_records_while_the_writer_churns() {
    let scratch = Scratch::new("threads");
    let options = Options { readers: 3, ..options(&scratch, 12) };
    let (mut writer, readers, _) = open(&options);
    let stop = AtomicBool::new(false);
    let checked: Vec<u64> = std::thread::scope(|scope| {
        let stop = &stop;
        let threads: Vec<_> = (0u64..)
            .zip(readers)
            .map(|(seed, reader)| scope.spawn(move || read(&reader, seed, stop)))
            .collect();
        let mut dice = Dice::new(77);
        let mut refused = 0;
        for version in 1..40_000 {
            let number = dice.roll(KEYS as usize) as u32;
            if dice.roll(20) == 0 {
                writer.remove(hash(number), &key(number));
            }
            if object(number, version).put(&mut writer).is_err() {
                refused += 1;
            }
            if threads.iter().any(|thread| thread.is_finished()) {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(refused < 4_000, "{refused} of 40000 puts were refused");
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(checked.iter().all(|&checked| checked > 1_000), "{checked:?}");
    assert!(writer.usage().reclaimed_segments > 1_000, "{:?}", writer.usage());
}
