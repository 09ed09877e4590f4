//! The real writer and readers under a scheduler that switches threads at every atomic operation, in thousands of
//! seeded orders. What fails is printed with a schedule that replays it.
//!
//! `cargo test -p edge --features interleave --lib interleave`

use super::*;
use shuttle::thread;

const KEYS: u32 = 3;

/// Two of these fill a segment.
fn object(number: u32, version: u64) -> Object {
    Object { body_bytes: 29_000, ..Object::small(number, version) }
}

/// Looks up, holds across other lookups, checks all bytes before and after.
fn read(reader: &Reader, rounds: u32) {
    let mut held: Option<(Object, Pinned)> = None;
    let mut newest = [0; KEYS as usize];
    for round in 0..rounds {
        let number = round % KEYS;
        let Some(record) = reader.lookup(hash(number), &key(number), |_| true) else { continue };
        let found = Object::of(number, record.meta());
        found.check(&record, reader);
        let newest = &mut newest[number as usize];
        assert!(found.version >= *newest, "an older version came back");
        *newest = found.version;
        if let Some((object, record)) = held.replace((found, record)) {
            object.check(&record, reader);
        }
    }
    if let Some((object, record)) = held {
        object.check(&record, reader);
    }
}

fn churn(writer: &mut Writer) {
    for version in 1..14 {
        let number = version as u32 % KEYS;
        if version == 9 {
            writer.remove(hash(number), &key(number));
        }
        // Refused only while readers hold what there is.
        let _ = object(number, version).put(writer);
    }
}

/// A writer that laps the whole store, and two readers.
#[test]
fn no_order_of_steps_shows_a_reader_bytes_that_change() {
    let run = || {
        let scratch = Scratch::new("interleave");
        let (mut writer, readers, _) = open(&options(&scratch, 4));
        let threads: Vec<_> =
            readers.into_iter().map(|reader| thread::spawn(move || read(&reader, 9))).collect();
        churn(&mut writer);
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(writer.usage().reclaimed_segments > 0);
    };
    shuttle::check_random(run, 1_000);
    shuttle::check_pct(run, 1_000, 4);
}
