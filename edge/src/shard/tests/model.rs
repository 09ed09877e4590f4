//! The store against a model: long seeded runs of everything a caller can do, restarts included.

use super::*;
use std::collections::BTreeMap;

const KEYS: u32 = 60;
const VARIANTS: u64 = 3;

/// What was stored last under each key and variant and not removed since. The store may have evicted it; it may
/// never have anything else.
type Model = BTreeMap<(u32, u64), Object>;

struct Run {
    dice: Dice,
    options: Options,
    writer: Writer,
    readers: Vec<Reader>,
    model: Model,
    held: Vec<(Object, usize, Pinned)>,
    version: u64,
    evicted_before: u64,
    stored: u64,
    partial: u64,
}

impl Run {
    fn new(scratch: &Scratch, seed: u64) -> Self {
        // With one log, and with two.
        let options = options(scratch, if seed.is_multiple_of(2) { 6 } else { 12 });
        let (writer, readers, _) = open(&options);
        let dice = Dice::new(seed);
        let (model, held) = (Model::new(), Vec::new());
        Run {
            dice,
            options,
            writer,
            readers,
            model,
            held,
            version: 0,
            evicted_before: 0,
            stored: 0,
            partial: 0,
        }
    }

    fn step(&mut self) {
        match self.dice.roll(100) {
            0..50 => self.put(),
            50..58 => self.remove(),
            58..80 => self.read(),
            80..90 => self.hold(),
            90..98 => self.let_go(),
            98 if self.dice.roll(6) == 0 => self.restart(),
            _ => self.compare(),
        }
    }

    fn object(&mut self) -> Object {
        self.version += 1;
        let body_bytes = match self.dice.roll(10) {
            0..6 => self.dice.roll(600),
            6..9 => self.dice.roll(9_000),
            _ => self.dice.roll(50_000),
        };
        let chunk_bytes = if self.dice.roll(8) == 0 { 1 + self.dice.roll(12_000) } else { 0 };
        let (body_bytes, chunk_bytes) = match body_bytes.checked_div(chunk_bytes) {
            Some(chunks) if chunks > 20 => (body_bytes, 3_000),
            _ => (body_bytes, chunk_bytes),
        };
        Object {
            key: self.dice.roll(KEYS as usize) as u32,
            variant: self.dice.roll(VARIANTS as usize) as u64,
            version: self.version,
            body_bytes,
            chunk_bytes,
        }
    }

    fn put(&mut self) {
        let object = self.object();
        let part = object.chunk_bytes > 0 && self.dice.roll(3) == 0;
        let put = if part {
            self.partial += 1;
            object.put_part(&mut self.writer, self.dice.0)
        } else {
            object.put(&mut self.writer)
        };
        match put {
            Ok(()) => {
                self.stored += 1;
                self.model.insert((object.key, object.variant), object);
                assert_eq!(served(&self.readers[0], object.key, object.variant), Some(object));
            }
            Err(PutError::Pinned) => assert!(!self.held.is_empty()),
            // Pinned segments may leave too little for a large one; what was there before stays.
            Err(PutError::TooLarge) => assert_ne!(object.chunk_bytes, 0),
            Err(PutError::NoShard) => panic!("one shard has no other"),
        }
    }

    fn remove(&mut self) {
        let number = self.dice.roll(KEYS as usize) as u32;
        let there =
            (0..VARIANTS).filter(|&variant| served(&self.readers[0], number, variant).is_some()).count();
        assert_eq!(self.writer.remove(hash(number), &key(number)), there as u64);
        self.model.retain(|(key, _), _| *key != number);
        assert!(self.readers[0].lookup(hash(number), &key(number), |_| true).is_none());
    }

    fn read(&mut self) {
        let number = self.dice.roll(KEYS as usize) as u32;
        let reader = &self.readers[self.dice.roll(2)];
        let each = (0..VARIANTS).filter_map(|variant| served(reader, number, variant));
        let newest = each.max_by_key(|object| object.version);
        let any = reader.lookup(hash(number), &key(number), |_| true);
        assert_eq!(any.map(|record| Object::of(number, record.meta())), newest);
    }

    fn hold(&mut self) {
        if self.held.len() < 12 {
            let number = self.dice.roll(KEYS as usize) as u32;
            let reader = self.dice.roll(2);
            if let Some(record) = self.readers[reader].lookup(hash(number), &key(number), |_| true) {
                self.held.push((Object::of(number, record.meta()), reader, record));
            }
        }
    }

    fn let_go(&mut self) {
        if !self.held.is_empty() {
            let (object, reader, record) = self.held.swap_remove(self.dice.roll(self.held.len()));
            object.check(&record, &self.readers[reader]);
        }
    }

    fn restart(&mut self) {
        for (object, reader, record) in self.held.drain(..) {
            object.check(&record, &self.readers[reader]);
        }
        let before = all_served(&self.readers[1], KEYS, VARIANTS);
        let chunks = chunks_there(&self.readers[1], KEYS, VARIANTS);
        let clean = self.dice.roll(3) == 0;
        if clean {
            let (path, bytes) = self.writer.checkpoint();
            std::fs::write(path, bytes).unwrap();
        }
        self.evicted_before += self.writer.usage().evicted;
        // The lock is free once the old ends are gone.
        let elsewhere = Scratch::new("model-elsewhere");
        let (writer, readers, _) = open(&options(&elsewhere, 4));
        (self.writer, self.readers) = (writer, readers);
        let (writer, readers, opened) = open(&self.options);
        (self.writer, self.readers) = (writer, readers);
        assert_eq!((opened.clean, opened.dropped), (clean, 0));
        assert_eq!(all_served(&self.readers[0], KEYS, VARIANTS), before, "neither more nor less than before");
        assert_eq!(chunks_there(&self.readers[0], KEYS, VARIANTS), chunks, "the same chunks too");
        assert_eq!(opened.objects, before.len() as u64);
    }

    fn compare(&mut self) {
        let all = all_served(&self.readers[0], KEYS, VARIANTS);
        for object in &all {
            assert_eq!(self.model.get(&(object.key, object.variant)), Some(object));
        }
        let evicted = self.evicted_before + self.writer.usage().evicted;
        assert!((self.model.len() - all.len()) as u64 <= evicted, "what is gone was evicted");
    }
}

#[test]
fn the_store_does_what_its_model_does() {
    let (mut reclaimed, mut stored, mut partial) = (0, 0, 0);
    for seed in 0..12 {
        let scratch = Scratch::new("model");
        let mut run = Run::new(&scratch, seed);
        for _ in 0..1200 {
            run.step();
            reclaimed = reclaimed.max(run.writer.usage().reclaimed_segments);
        }
        run.restart();
        run.compare();
        stored += run.stored;
        partial += run.partial;
    }
    assert!(partial > 100, "too little happened: {partial} partial objects");
    assert!(reclaimed > 10 && stored > 3000, "too little happened: {reclaimed} segments, {stored} objects");
}
