//! The accounts of a store against its segments and its index, counted anew: after anything that can happen to it.

use super::faults::{cut, reopen};
use super::set::{open, put_chunked, shards};
use super::*;
use crate::shard::layout::Kind;
use crate::shard::{reclaim, set, store};
use std::collections::HashMap;
use std::os::unix::fs::FileExt;

const KEYS: u32 = 60;
const STEPS: usize = 250;
const RUNS: u64 = 8;
/// Segments reclaimed between two starts, at least once: else there are more runs.
const ENOUGH: u64 = 10;
/// Objects a run remembers the numbers of, to store more of their chunks.
const NUMBERS: usize = 8;

struct Run {
    dice: Dice,
    all: Vec<Options>,
    writer: set::Writer,
    readers: Vec<set::Reader>,
    held: Vec<Pinned>,
    /// Numbers of large objects, with or without a head, and whose key it is.
    numbers: Vec<(u64, u32)>,
    version: u64,
}

/// What one shard says of itself is so.
fn check(writer: &store::Writer) {
    let (segments, geometry, index) = (&writer.segments, writer.geometry, &writer.find.index);
    let active = segments.active.iter().flatten().map(|(segment, _)| *segment);
    let draining = segments.draining.iter().map(|drain| drain.segment);
    let used: Vec<usize> = active.chain(segments.sealed.iter().flatten().copied()).chain(draining).collect();
    let mut each: Vec<usize> = used.iter().chain(&segments.shut).chain(&segments.free).copied().collect();
    each.sort_unstable();
    assert_eq!(each, (0..geometry.segments).collect::<Vec<_>>(), "each segment is in one place");
    assert_eq!(segments.in_use(), used.len());

    let (mut objects, mut object_bytes, mut heads) = (0, 0, HashMap::new());
    for (slot, entry) in index.entries() {
        let location = entry.location();
        let (header, _) = writer.record(location).expect("an entry leads to a record");
        assert_eq!(index.locate(header.hash, location), Some(slot), "where it is looked for");
        assert!(used.contains(&geometry.place(location).0), "in a segment that is in use");
        if header.kind != Kind::Chunk {
            objects += 1;
            object_bytes += reclaim::object_bytes(&header);
        }
        if matches!(header.kind, Kind::Head | Kind::Partial) {
            heads.insert(header.object, store::Place { hash: header.hash, location });
        }
        if header.kind == Kind::Head {
            assert!(writer.complete(header.object, header.position), "a head has all its chunks");
        }
    }
    let counts = &writer.counts;
    let counted = (counts.entries, counts.objects, counts.object_bytes);
    assert_eq!(counted, (index.entries().count() as u64, objects, object_bytes));
    assert_eq!(writer.heads, heads);
    let usage = writer.usage();
    assert_eq!((usage.objects, usage.object_bytes), (counts.entries, object_bytes));
    assert_eq!(usage.used_bytes, (used.len() * geometry.segment_bytes()) as u64);
    assert!(writer.fills.iter().all(|object| !heads.contains_key(object)));

    for segment in used {
        let mut at = geometry.words_bytes();
        while at < writer.map.filled(segment) {
            let location = geometry.location(segment, at);
            let (header, _) = writer.record(location).expect("a chain of records");
            let is_found = index.locate(header.hash, location).is_some();
            assert_eq!(layout::is_dead(writer.map.words(segment), at), !is_found, "{header:?}");
            at += header.record_bytes();
        }
        assert_eq!(at, writer.map.filled(segment));
    }
}

impl Run {
    fn new(scratch: &Scratch, seed: u64) -> Self {
        // With one log, and with two; and with an index that is too small for what is stored.
        let small = |options| Options { object_bytes: 3_000, ..options };
        let all: Vec<_> = shards(scratch, &[6, 12]).into_iter().map(small).collect();
        let (writer, readers, _) = open(&all);
        let (held, numbers) = (Vec::new(), Vec::new());
        Run { dice: Dice::new(seed), all, writer, readers, held, numbers, version: 0 }
    }

    fn step(&mut self) {
        self.version += 1;
        let number = self.dice.roll(KEYS as usize) as u32;
        // With segments held there may be no room; and a shard that has failed takes nothing.
        match self.dice.roll(100) {
            0..40 => drop(self.put(number)),
            40..50 => drop(put_chunked(&mut self.writer, number, self.version)),
            50..56 => self.begin(number, true),
            56..59 => self.begin(number, false),
            59..65 => self.more(),
            65..68 => self.end(),
            68..70 => self.give_up(),
            70..76 => drop(self.writer.remove(hash(number), &key(number))),
            76..78 => {
                let (hash, key, newest) = (hash(number), key(number), self.version);
                self.writer.remove_if(hash, &key, |meta| Object::of(number, meta).version + 30 < newest);
            }
            78..88 if self.held.len() < 6 => {
                let found = self.readers[0].lookup(hash(number), &key(number), |_| true);
                self.held.extend(found);
            }
            78..94 if !self.held.is_empty() => {
                self.held.swap_remove(self.dice.roll(self.held.len()));
            }
            94 => self.restart(true, 0),
            95 => self.restart(false, 0),
            96 => {
                let sectors = 1 + self.dice.roll(8);
                self.restart(false, sectors);
            }
            97 | 98 => self.fail(),
            99 => {
                let shard = self.dice.roll(2);
                self.writer.shards[shard].writer.as_mut().unwrap().clear();
            }
            _ => {}
        }
    }

    fn put(&mut self, number: u32) -> Result<(), PutError> {
        let object = Object { body_bytes: self.dice.roll(4_000), ..Object::small(number, self.version) };
        let (key, meta, body) = (key(number), object.meta(), Bytes::from(object.body()));
        self.writer.put(&Label::new(hash(number), &key, &meta, b""), Body::Whole(&[body]), |_| true)
    }

    fn label(&mut self, number: u32, object: u64, whole: bool) -> Result<(), PutError> {
        let (key, meta) = (key(number), Object::small(number, self.version).meta());
        let bytes = 2_000 * 6;
        let body = if whole { Body::Chunks { object, bytes } } else { Body::Partial { object, bytes } };
        self.writer.put(&Label::new(hash(number), &key, &meta, b""), body, |_| true)
    }

    /// A large object of six chunks: a part of it with its head, or a fill that has none yet.
    fn begin(&mut self, number: u32, with_head: bool) {
        let object = self.writer.new_object(hash(number));
        if with_head {
            let _ = self.label(number, object, false);
        }
        if self.numbers.len() == NUMBERS {
            self.numbers.remove(0);
        }
        self.numbers.push((object, number));
        self.more();
    }

    fn one(&mut self) -> Option<(u64, u32)> {
        let at = self.dice.roll(self.numbers.len().max(1));
        self.numbers.get(at).copied()
    }

    fn more(&mut self) {
        if let Some((object, _)) = self.one() {
            for chunk in (0..6).filter(|_| self.dice.roll(2) == 0).collect::<Vec<_>>() {
                let _ = self.writer.put_chunk(object, chunk, &[Bytes::from(vec![chunk as u8; 2_000])]);
            }
        }
    }

    /// Its head says that all is there, be it so or not.
    fn end(&mut self) {
        if let Some((object, number)) = self.one() {
            let _ = self.label(number, object, true);
        }
    }

    fn give_up(&mut self) {
        if let Some((object, _)) = self.one() {
            self.writer.give_up(object);
        }
    }

    /// After a clean stop, or a kill; with so many sectors of each file lost.
    fn restart(&mut self, clean: bool, sectors: usize) {
        self.held.clear();
        if clean {
            self.writer.checkpoints().iter().for_each(|(path, bytes)| std::fs::write(path, bytes).unwrap());
        }
        // Their locks are free once the old ends are gone.
        let elsewhere = Scratch::new("accounts-elsewhere");
        (self.writer, self.readers, _) = open(&shards(&elsewhere, &[4]));
        for options in &self.all {
            let file = std::fs::File::options().write(true).open(options.path.join("shard-0")).unwrap();
            for _ in 0..sectors {
                // Not the page that says whose file this is.
                let sector = 8 + self.dice.roll(options.size_bytes as usize / 512 - 8);
                file.write_all_at(&[self.dice.roll(2) as u8; 512], sector as u64 * 512).unwrap();
            }
        }
        (self.writer, self.readers, _) = open(&self.all);
    }

    /// A shard fails, is away for some changes, and comes back: as it was, or made anew.
    fn fail(&mut self) {
        let shard = self.dice.roll(2);
        if self.dice.roll(3) == 0 {
            cut(&self.all[shard], 0);
        }
        assert!(self.writer.fail(shard, "it could not be flushed".into()));
        for _ in 0..self.dice.roll(20) {
            self.version += 1;
            let number = self.dice.roll(KEYS as usize) as u32;
            match self.dice.roll(4) {
                0 => drop(self.writer.remove(hash(number), &key(number))),
                1 => self.more(),
                _ => drop(self.put(number)),
            }
            self.check();
        }
        // Who holds on keeps the lock for as long as the process lives.
        self.held.clear();
        reopen(&mut self.writer, &mut self.readers, shard);
    }

    fn check(&self) {
        self.writer.live().for_each(|(_, writer)| check(writer));
    }
}

#[test]
fn accounts_are_what_is_counted_after_anything_that_can_happen() {
    let mut most = 0;
    // Shards draw secrets of their own, so that the same seed does not do the same again.
    for seed in 0..10 * RUNS {
        if seed >= RUNS && most > ENOUGH {
            break;
        }
        let scratch = Scratch::new("accounts");
        let mut run = Run::new(&scratch, seed);
        for step in 0..STEPS {
            run.step();
            let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.check()));
            assert!(checked.is_ok(), "seed {seed}, step {step}");
            most = most.max(run.writer.usage().reclaimed_segments);
        }
    }
    assert!(most > ENOUGH, "too little happened: {most} segments reclaimed between two starts");
}
