//! The store on a simulated disk that loses power: seeded runs of puts, chunked puts, removals and flushes, with a
//! crash at a random point and what is left opened again.
//!
//! The disk keeps whole sectors. Between two flushes it may have written any of the sectors that changed, in any
//! order and at any moment; at the crash each one that is not flushed is old, new, as it was at some moment in between
//! or, in half of the runs, torn: half of it, zeroes or noise. After each crash:
//!
//! - every byte that is served is as it was published;
//! - what was removed, and flushed afterwards, is gone;
//! - what was flushed, and not evicted, replaced or removed since, is there (where no sector was torn);
//! - after a kill of the process alone everything is as before.
//!
//! `cargo test -p edge --lib shard::tests::crashes -- --nocapture` prints how many runs there were; a failing seed is
//! printed with the command that replays it.

use super::*;
use crate::clock;
use crate::shard::recover::{Simulated, open_simulated};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The smallest segment: 3.5 KiB of records.
const SMALL_SEGMENT: usize = 8192;
/// The fewest there can be, so that they are reclaimed often; and the fewest with two logs.
const SEGMENTS: [usize; 2] = [4, 8];
const SECTOR: usize = 512;
const KEYS: u32 = 12;
const RUNS: u64 = 100_000;
/// No more runs are begun after so many milliseconds.
const BUDGET_MS: u64 = 40_000;
const SEED: &str = "EDGE_TEST_CRASH_SEED";

/// What the disk will give back.
struct Disk {
    image: Vec<u8>,
    /// May sectors be torn at a crash?
    tears: bool,
}

fn differing<'a>(memory: &'a [u8], disk: &'a [u8]) -> impl Iterator<Item = usize> + use<'a> {
    let (memory, disk) = (memory.chunks_exact(SECTOR), disk.chunks_exact(SECTOR));
    memory.zip(disk).enumerate().filter(|(_, (memory, disk))| memory != disk).map(|(sector, _)| sector)
}

impl Disk {
    /// Writes each changed sector with a chance of one in `odds`, unasked, as a kernel does.
    fn write_some(&mut self, memory: &[u8], dice: &mut Dice, odds: usize) {
        let changed: Vec<usize> = differing(memory, &self.image).collect();
        for sector in changed {
            if dice.roll(odds) == 0 {
                let range = sector * SECTOR..(sector + 1) * SECTOR;
                self.image[range.clone()].copy_from_slice(&memory[range]);
            }
        }
    }

    /// The power goes.
    fn crash(&mut self, memory: &[u8], dice: &mut Dice) {
        let odds = 1 + dice.roll(4);
        let changed: Vec<usize> = differing(memory, &self.image).collect();
        for sector in changed {
            let range = sector * SECTOR..(sector + 1) * SECTOR;
            let (new, old) = (&memory[range.clone()], &mut self.image[range]);
            // The sector that says whose file this is alone is not torn: without it nothing would be opened at all.
            match dice.roll(if self.tears && sector > 0 { 12 } else { 8 }) {
                8 => old[..SECTOR / 2].copy_from_slice(&new[..SECTOR / 2]),
                9 => old[SECTOR / 2..].copy_from_slice(&new[SECTOR / 2..]),
                10 => old.fill(0),
                11 => old.iter_mut().for_each(|byte| *byte = dice.roll(256) as u8),
                roll if roll % odds == 0 => old.copy_from_slice(new),
                _ => {}
            }
        }
    }
}

/// One run.
struct Run {
    dice: Dice,
    disk: Disk,
    writer: Writer,
    reader: Reader,
    version: u64,
    /// Of each key: versions up to this one were removed for good.
    removed: BTreeMap<u32, u64>,
    /// Removed since the last flush.
    removing: BTreeMap<u32, u64>,
    /// What a flush has made durable and nothing has touched since, and where it lies.
    durable: BTreeMap<u32, (Object, u64)>,
}

fn open_image(image: &[u8]) -> (Writer, Reader, Opened) {
    let segments = image.len() / SMALL_SEGMENT;
    let disk = Simulated { image, segment_bytes: SMALL_SEGMENT, segments, index_entries: 128, readers: 1 };
    let (writer, mut readers, opened) = open_simulated(&disk);
    (writer, readers.remove(0), opened)
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let tears = dice.roll(2) == 0;
        let disk = Disk { image: vec![0; SMALL_SEGMENT * SEGMENTS[dice.roll(2)]], tears };
        let (writer, reader, _) = open_image(&disk.image);
        let (removed, removing, durable) = Default::default();
        let mut run = Run { dice, disk, writer, reader, version: 0, removed, removing, durable };
        run.opened();
        run
    }

    /// Opening writes the first page through, whatever else is on its way.
    fn opened(&mut self) {
        let words = self.writer.geometry.words_bytes();
        self.disk.image[..words].copy_from_slice(&self.writer.map.image()[..words]);
    }

    fn step(&mut self) {
        match self.dice.roll(20) {
            0..12 => self.put(),
            12 => self.refresh(),
            13..16 => self.remove(),
            16 => self.flush(),
            17..19 => {
                let odds = 1 + self.dice.roll(6);
                self.disk.write_some(self.writer.map.image(), &mut self.dice, odds);
            }
            _ => drop(self.served()),
        }
    }

    fn put(&mut self) {
        self.version += 1;
        let large = self.dice.roll(6) == 0;
        let (body_bytes, chunk_bytes) =
            if large { (self.dice.roll(2500), 800) } else { (self.dice.roll(700), 0) };
        let key = self.dice.roll(KEYS as usize) as u32;
        let object = Object { key, variant: 0, version: self.version, body_bytes, chunk_bytes };
        let put = match chunk_bytes > 0 && self.dice.roll(3) == 0 {
            true => object.put_part(&mut self.writer, self.dice.0),
            false => object.put(&mut self.writer),
        };
        put.expect("nothing is pinned, and all fits");
        self.durable.remove(&key);
    }

    /// A large object gets a new head, as one that was validated does.
    fn refresh(&mut self) {
        let number = self.dice.roll(KEYS as usize) as u32;
        let Some(record) = self.reader.lookup(hash(number), &key(number), |_| true) else { return };
        let Some(object) = record.chunked() else { return };
        let (bytes, is_part) = (record.object_bytes(), record.partial());
        drop(record);
        let found = self.reader.lookup(hash(number), &key(number), |_| true).expect("it was there");
        let (key, meta, head) = (key(number), found.meta().to_vec(), found.head().to_vec());
        drop(found);
        let body = if is_part { Body::Partial { object, bytes } } else { Body::Chunks { object, bytes } };
        let put = self.writer.put(&Label::new(hash(number), &key, &meta, &head), body, |_| false);
        // The room for it may have cost a chunk.
        assert!(matches!(put, Ok(()) | Err(PutError::TooLarge)), "{put:?}");
        self.durable.remove(&number);
    }

    fn remove(&mut self) {
        let number = self.dice.roll(KEYS as usize) as u32;
        self.writer.remove(hash(number), &key(number));
        self.removing.insert(number, self.version);
        self.durable.remove(&number);
        if self.dice.roll(2) == 0 {
            // As a purge does before it is acknowledged.
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.disk.image.copy_from_slice(self.writer.map.image());
        self.removed.append(&mut self.removing);
        self.durable = self.places();
    }

    /// What there is, and where it lies, chunks included: one number that changes when any of them is moved.
    fn places(&self) -> BTreeMap<u32, (Object, u64)> {
        let index = &self.writer.find.index;
        let place = |number: u32| {
            let record = self.reader.lookup(hash(number), &key(number), |_| true)?;
            let heads = index.candidates(hash(number)).map(|(_, entry)| entry.location());
            let chunks = record.chunked().into_iter().flat_map(|object| {
                let hashes = (0..4).map(move |chunk| layout::chunk_hash(object, chunk));
                hashes.flat_map(|hash| index.candidates(hash)).map(|(_, entry)| entry.location())
            });
            Some((number, (Object::of(number, record.meta()), heads.chain(chunks).sum())))
        };
        (0..KEYS).filter_map(place).collect()
    }

    /// Everything that is served, checked byte by byte.
    fn served(&self) -> BTreeMap<u32, Object> {
        let keys = (0..KEYS).filter_map(|number| Some((number, served(&self.reader, number, 0)?)));
        let all: BTreeMap<u32, Object> = keys.collect();
        for (number, object) in &all {
            assert!(object.version <= self.version, "{object:?} was never published");
            let gone = self.removed.get(number).copied().unwrap_or(0);
            assert!(object.version > gone, "{object:?} is back, all up to version {gone} were removed");
        }
        all
    }

    /// The process is killed, or the power goes; then the store is opened again.
    fn crash(&mut self) {
        let before = self.places();
        let killed = self.dice.roll(8) == 0;
        let memory = self.writer.map.image();
        match killed {
            true => self.disk.image.copy_from_slice(memory),
            false => self.disk.crash(memory, &mut self.dice),
        }
        (self.writer, self.reader, _) = open_image(&self.disk.image);
        let after = self.served();
        if killed {
            let all: BTreeMap<u32, Object> = before.iter().map(|(&number, at)| (number, at.0)).collect();
            assert_eq!(after, all, "a kill alone loses nothing");
        }
        if !self.disk.tears {
            for (number, at) in self.durable.iter().filter(|(number, at)| before.get(number) == Some(at)) {
                assert_eq!(after.get(number), Some(&at.0), "it was flushed");
            }
        }
        self.opened();
        self.durable = self.places();
        if killed {
            self.removed.append(&mut self.removing);
        }
        self.removing.clear();
    }
}

fn run(seed: u64) {
    let mut run = Run::new(seed);
    for _ in 0..1 + run.dice.roll(3) {
        // As many as it takes to write all segments about once.
        for _ in 0..run.dice.roll(8 * run.writer.geometry.segments) {
            run.step();
        }
        run.crash();
    }
}

#[test]
fn what_a_crash_leaves_is_true() {
    if let Ok(seed) = std::env::var(SEED) {
        return run(seed.parse().expect("a number"));
    }
    let started_ms = clock::now().mono_ms;
    let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
    let work = || {
        while clock::now().mono_ms - started_ms < BUDGET_MS {
            let seed = next.fetch_add(1, Relaxed);
            if seed >= RUNS {
                return;
            }
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(seed))) {
                eprintln!(
                    "seed {seed} failed; replay it: {SEED}={seed} cargo test -p edge --lib shard::tests::crashes"
                );
                next.store(RUNS, Relaxed);
                resume_unwind(panic);
            }
            done.fetch_add(1, Relaxed);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
    });
    let (done, took_ms) = (done.into_inner(), clock::now().mono_ms - started_ms);
    println!("{done} seeded runs in {took_ms} ms, {} a second", done * 1000 / took_ms.max(1));
    // A machine that is busy with other tests gets to few of them; none at all would prove nothing.
    assert!(done > 100, "{done} runs: too few to mean anything");
}
