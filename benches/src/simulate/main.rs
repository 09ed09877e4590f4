//! Replays a trace of requests through the node's eviction policy (the very module of the node) and, beside it,
//! through LRU, FIFO, SIEVE and Belady's algorithm, and prints the miss ratios. Only the command line and the printing
//! live here; `trace` reads, `peers` are the others.
#![forbid(unsafe_code)]

mod peers;
#[cfg(test)]
mod synthetic;
#[cfg(test)]
mod tests;
mod trace;

use anyhow::{Result, bail};
use clap::Parser;
use edge::shard::miniature::Miniature;
use peers::{Belady, Cache, Order, Queue, Sieve};
use std::path::PathBuf;
use trace::{Format, Trace};

/// The cache has so many segments: what a store of 4 GiB has. Of more it would differ little.
const SEGMENTS: u64 = 512;
/// Ghosts, as a multiple of the objects that fit: what lies within the policy's horizon, with room to spare.
const GHOSTS_PER_OBJECT: u64 = 4;
/// The least number of ghosts, and the most: 8 bytes each.
const GHOSTS: std::ops::RangeInclusive<u64> = 4096..=1 << 27;

/// No cache is larger, so that sums of sizes need no thought.
const CAPACITY_MAX: u64 = 1 << 60;

/// Miss ratios of eviction policies on a trace.
#[derive(Parser)]
#[command(name = "simulate")]
struct Options {
    /// The trace, plain or gzipped.
    #[arg(long)]
    trace: PathBuf,
    /// keys: one key a line. csv: a header line, then time,key,bytes.
    #[arg(long)]
    format: Format,
    /// Capacity in bytes.
    #[arg(long, value_name = "BYTES", required_unless_present = "objects", conflicts_with = "objects")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=CAPACITY_MAX))]
    size: Option<u64>,
    /// Capacity in objects: every object counts 1.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=CAPACITY_MAX))]
    objects: Option<u64>,
    /// Print one JSON object and nothing else.
    #[arg(long)]
    json: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let capacity = match (options.size, options.objects, options.format) {
        (Some(_), _, Format::Keys) => {
            bail!("a trace of keys has no sizes: give the capacity with --objects N, not --size")
        }
        (Some(bytes), _, _) => Capacity { total: bytes, is_objects: false },
        (_, objects, _) => Capacity { total: objects.unwrap_or(1), is_objects: true },
    };
    let trace = Trace::read(&options.trace, options.format)?;
    let results = simulate(&trace, capacity);
    if options.json {
        println!("{}", json(&results));
    } else {
        print!("{}", table(&trace, capacity, &results));
    }
    Ok(())
}

/// How much a cache holds.
#[derive(Clone, Copy, Debug)]
struct Capacity {
    total: u64,
    /// Of objects, whatever their size; else of bytes.
    is_objects: bool,
}

/// What a policy missed.
#[derive(Clone, Copy, Debug)]
struct Misses {
    name: &'static str,
    /// Part of the requests.
    objects: f64,
    /// Part of the requested bytes.
    bytes: f64,
}

/// Runs all policies, one after the other so that each has the memory to itself.
fn simulate(trace: &Trace, capacity: Capacity) -> Vec<Misses> {
    let total = capacity.total;
    let mut results = vec![replay("edge", trace, capacity, Edge::new(trace, capacity))];
    results.push(replay("lru", trace, capacity, Queue::new(trace.keys(), total, Order::Read)));
    results.push(replay("fifo", trace, capacity, Queue::new(trace.keys(), total, Order::Stored)));
    results.push(replay("sieve", trace, capacity, Sieve::new(trace.keys(), total)));
    results.push(replay("belady", trace, capacity, Belady::new(trace, total)));
    results
}

fn replay(name: &'static str, trace: &Trace, capacity: Capacity, mut cache: impl Cache) -> Misses {
    let (mut missed, mut missed_bytes, mut all_bytes) = (0u64, 0u128, 0u128);
    for (key, bytes) in trace.requests() {
        all_bytes += u128::from(bytes);
        if !cache.request(key, if capacity.is_objects { 1 } else { bytes }) {
            missed += 1;
            missed_bytes += u128::from(bytes);
        }
    }
    Misses {
        name,
        objects: missed as f64 / trace.len() as f64,
        bytes: missed_bytes as f64 / all_bytes.max(1) as f64,
    }
}

/// The node's store, with segments that scale with the cache.
struct Edge<'a> {
    trace: &'a Trace,
    store: Miniature,
}

impl<'a> Edge<'a> {
    fn new(trace: &'a Trace, capacity: Capacity) -> Self {
        let mean = if capacity.is_objects { 1 } else { trace.mean_bytes() };
        let ghosts = (capacity.total / mean).saturating_mul(GHOSTS_PER_OBJECT).min(trace.keys() as u64);
        let ghosts = ghosts.clamp(*GHOSTS.start(), *GHOSTS.end()) as usize;
        Edge { trace, store: Miniature::new(capacity.total, capacity.total / SEGMENTS, ghosts) }
    }
}

impl Cache for Edge<'_> {
    fn request(&mut self, key: u32, bytes: u64) -> bool {
        self.store.request(self.trace.hash(key), bytes)
    }
}

fn json(results: &[Misses]) -> serde_json::Value {
    let ratios = |misses: &Misses| serde_json::json!({ "object_miss_ratio": misses.objects, "byte_miss_ratio": misses.bytes });
    results
        .iter()
        .map(|misses| (misses.name.to_owned(), ratios(misses)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn table(trace: &Trace, capacity: Capacity, results: &[Misses]) -> String {
    let unit = if capacity.is_objects { "objects" } else { "bytes" };
    let mut text = format!(
        "{} requests for {} keys; capacity {} {unit}\n\n{:8} {:>18} {:>18}\n",
        trace.len(),
        trace.keys(),
        capacity.total,
        "policy",
        "object miss ratio",
        "byte miss ratio"
    );
    for misses in results {
        text += &format!("{:8} {:>18.4} {:>18.4}\n", misses.name, misses.objects, misses.bytes);
    }
    text
}
