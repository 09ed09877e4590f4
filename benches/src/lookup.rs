//! Lookups of the store among many small objects, on one CPU: how many a second, and what one costs when its memory is
//! in the CPU's caches and when it is not, one after the other and announced together as a worker does in a turn. Runs
//! the store's own code on a store in an empty directory.
#![forbid(unsafe_code)]
#![expect(clippy::disallowed_methods, reason = "measures real time")]

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Parser;
use edge::shard::{self, Body, Label, Options, Reader, Usage};
use std::hint::black_box;
use std::path::PathBuf;
use std::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

/// Keys made ahead of each measured run, so that making them is not measured.
const RUN: usize = 1 << 14;
/// Objects that stay in the CPU's caches.
const FEW: u64 = 4096;
const KEY_BYTES: usize = 40;
const DIGITS_AT: usize = 25;
/// A record: its header, key, meta and body.
const RECORD_BYTES: u64 = 64 + KEY_BYTES as u64 + 8 + 48;
/// Lookups that are announced together; 1: none is announced.
const BATCHES: [usize; 4] = [1, 8, 16, 32];
/// Memory whose latency is measured: more than any cache holds.
const FAR_BYTES: usize = 512 << 20;
/// And less than a core's own cache holds.
const NEAR_BYTES: usize = 16 << 10;

#[derive(Parser)]
struct Arguments {
    /// Objects in the store.
    #[arg(long)]
    objects: u64,
    /// Lookups of each measure.
    #[arg(long)]
    lookups: u64,
    /// The CPU to run on.
    #[arg(long)]
    cpu: usize,
    /// An empty directory for the store.
    #[arg(long)]
    store: PathBuf,
}

type Key = [u8; KEY_BYTES];

fn key(number: u64) -> Key {
    let mut key = *b"http://bench.test:80/obj/000000000000000";
    let mut rest = number;
    for digit in key[DIGITS_AT..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}

/// Nanoseconds of one step.
struct Cost {
    /// The tenth part of the runs that was fastest took at most this: the others had to share the CPU.
    undisturbed: f64,
    mean: f64,
}

fn cost(mut runs: Vec<f64>) -> Cost {
    let mean = runs.iter().sum::<f64>() / runs.len() as f64;
    runs.sort_by(f64::total_cmp);
    Cost { undisturbed: runs[runs.len() / 10], mean }
}

/// Lookups of random objects below `among`, so many announced together.
fn lookups(reader: &Reader, among: u64, count: u64, batch: usize) -> Result<Cost> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let (mut runs, mut keys) = (Vec::new(), Vec::with_capacity(RUN));
    let (mut asked, mut found) = (0, 0);
    for _ in 0..count.div_ceil(RUN as u64) {
        keys.clear();
        for _ in 0..RUN {
            // xorshift64: Marsaglia, Xorshift RNGs, 2003.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let key = key(state % among);
            keys.push((xxh3_64(&key), key));
        }
        let started = Instant::now();
        for keys in keys.chunks(batch) {
            if batch > 1 {
                keys.iter().for_each(|(hash, _)| reader.prefetch_entries(black_box(*hash)));
                keys.iter().for_each(|(hash, _)| reader.prefetch_records(black_box(*hash)));
            }
            for (hash, key) in keys {
                let record = reader.try_lookup(black_box(*hash), key, |_| true);
                found += usize::from(record.is_ok_and(|record| record.is_some()));
            }
        }
        runs.push(started.elapsed().as_nanos() as f64 / RUN as f64);
        asked += RUN;
    }
    // A full bucket may have cost one in a million.
    ensure!(found as f64 > 0.9999 * asked as f64, "{} of {asked} objects were not found", asked - found);
    Ok(cost(runs))
}

/// Loads whose address comes from the load before, anywhere in so much memory: what a lookup waits for at least once,
/// for the record, after the index said where it is.
fn latency(bytes: usize) -> Cost {
    const LINE_WORDS: usize = 16;
    let lines = bytes / 64;
    // One cycle through all lines: Sattolo, An algorithm to generate a random cyclic permutation, 1986.
    let mut next: Vec<u32> = (0..lines as u32).collect();
    let mut state = 1_u64;
    for i in (1..lines).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        next.swap(i, (state >> 33) as usize % i);
    }
    let memory: Vec<[u32; LINE_WORDS]> = next.iter().map(|&to| [to; LINE_WORDS]).collect();
    let mut at = 0;
    let mut run = || {
        let started = Instant::now();
        for _ in 0..RUN {
            at = memory[at as usize][0];
        }
        started.elapsed().as_nanos() as f64 / RUN as f64
    };
    let runs = (0..100).map(|_| run()).collect();
    black_box(at);
    cost(runs)
}

fn filled(usage: &Usage, seconds: f64) {
    println!(
        "{} objects stored in {seconds:.0} s; index of {:.0} MiB: {:.1} bytes an object, {:.0} % full; {:.1} bytes with the memory of what was evicted",
        usage.objects,
        usage.index_bytes as f64 / (1 << 20) as f64,
        usage.index_bytes as f64 / usage.objects as f64,
        100.0 * usage.objects as f64 / usage.index_entries_max as f64,
        (usage.index_bytes + usage.policy_bytes) as f64 / usage.objects as f64,
    );
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    edge::sys::cpu::pin(arguments.cpu).context("stay on the CPU")?;
    let options = Options {
        path: arguments.store,
        // A third of the index stays free, so that hardly a bucket runs over.
        size_bytes: (arguments.objects * RECORD_BYTES * 3 / 2).max(Options::default().size_bytes),
        object_bytes: RECORD_BYTES,
        readers: 1,
        ..Options::default()
    };
    let (mut writer, readers, _) = shard::open(&[options])?;
    let reader = readers.first().context("a reader")?;
    let started = Instant::now();
    let body = [Bytes::from_static(&[7; 48])];
    for number in 0..arguments.objects {
        let key = key(number);
        writer.put(
            &Label::new(xxh3_64(&key), &key, &number.to_le_bytes(), &[]),
            Body::Whole(&body),
            |_| false,
        )?;
    }
    let usage = writer.usage();
    ensure!(usage.objects * 1000 > arguments.objects * 999, "only {} objects are stored", usage.objects);
    filled(&usage, started.elapsed().as_secs_f64());

    let all = usage.objects;
    let measure = |among: u64| -> Result<Vec<Cost>> {
        BATCHES.iter().map(|batch| lookups(reader, among, arguments.lookups, *batch)).collect()
    };
    let (few, many) = (measure(FEW.min(arguments.objects))?, measure(arguments.objects)?);
    println!(
        "\n| lookups announced together | among {FEW}, in the caches: ns each | million a second | among all {all}: ns each | million a second |"
    );
    println!("|---|---|---|---|---|");
    for ((batch, few), many) in BATCHES.iter().zip(&few).zip(&many) {
        let [few, many] = [few, many].map(|cost| (cost.undisturbed, 1e3 / cost.undisturbed, cost.mean));
        println!(
            "| {batch} | {:.0} (mean {:.0}) | {:.1} | {:.0} (mean {:.0}) | {:.1} |",
            few.0, few.2, few.1, many.0, many.2, many.1
        );
    }
    drop((writer, readers));
    let (near, far) = (latency(NEAR_BYTES).undisturbed, latency(FAR_BYTES).undisturbed);
    println!(
        "\none load that hangs on the load before: {near:.1} ns in the cache, {far:.0} ns in {} MiB",
        FAR_BYTES >> 20
    );
    let (alone, near_all) = (many[0].undisturbed, few[0].undisturbed);
    let waited = (alone - near_all).max(0.0);
    println!(
        "bound of one after the other: {waited:.0} of {alone:.0} ns are waiting for memory, the time of {:.1} such loads; the index and then the record have to be read",
        waited / far,
    );
    Ok(())
}
