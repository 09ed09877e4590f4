//! What a store of half and of double the size would do with the same requests: miniatures of it, given a sample.
//!
//! Keys are sampled by their hash (spatial sampling: Waldspurger, Park, Garthwaite, Ahmad, *Efficient MRC construction with
//! SHARDS*, FAST 2015), so that either all requests of a key are seen or none. A miniature with a part of the capacity that
//! is as large as the sampled part of the keys then does with them what the store does with all of them (Waldspurger,
//! Saemundsson, Ahmad, Park: *Cache modeling and optimization using miniature simulations*, ATC 2017). Whether a very popular
//! key is in the sample is chance, and a hit at any size; so not the miniatures' hit ratios are shown, but the node's own,
//! with its misses changed by as much as those of the miniatures differ from the one of the present size.
//!
//! A worker's part is one comparison for each key, and for sampled ones a place in a bounded queue; when that is full the
//! sample is lost and counted. The miniatures are played by whoever writes the store.
#![forbid(unsafe_code)]

use super::miniature::Miniature;
use crate::limits;
use crossbeam::queue::ArrayQueue;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a request found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing was stored.
    Nothing,
    /// What was stored had been purged.
    Purged,
    /// An object of so many bytes, which may answer until then (Unix seconds).
    Stored {
        /// Its bytes.
        bytes: u64,
        /// Until when.
        until_s: u32,
    },
}

/// A request for a sampled key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    hash: u64,
    seen: Seen,
}

#[derive(Debug)]
struct Line {
    queue: ArrayQueue<Sample>,
    lost: AtomicU64,
}

/// A worker's side.
#[derive(Debug)]
pub(super) struct Sampler {
    below: u64,
    line: Arc<Line>,
}

impl Sampler {
    /// Whether requests for this key are wanted.
    #[inline]
    pub fn wants(&self, hash: u64) -> bool {
        hash < self.below
    }

    /// A request for a wanted key.
    pub fn add(&self, hash: u64, seen: Seen) {
        if self.line.queue.push(Sample { hash, seen }).is_err() {
            self.line.lost.fetch_add(1, Relaxed);
        }
    }
}

/// What the store is like that is played.
#[derive(Clone, Copy, Debug)]
pub(super) struct Original {
    /// Bytes it has for records.
    pub capacity: u64,
    /// Segments they are in.
    pub segments: u64,
    /// Entries of its index.
    pub entries: u64,
}

/// Sizes that are played, in halves of the present one.
const HALVES: [u64; 3] = [1, 2, 4];
const PRESENT: usize = 1;
/// Segments of a miniature of the present size at most: more would make no difference.
const SEGMENTS_MAX: u64 = 1024;

/// Requests, and what became of them.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    samples: u64,
    misses: [u64; HALVES.len()],
    /// Of all keys.
    lookups: u64,
    hits: u64,
}

/// What is estimated for one size.
#[derive(Clone, Copy, Debug)]
pub struct Estimate {
    /// Times the present size.
    pub factor: f64,
    /// Part of the lookups that it would answer; `None`: nothing is known yet.
    pub hit_ratio: Option<f64>,
    /// Part of it that would be in use now. While that is less than of the store itself, the estimate is too low.
    pub used_share: f64,
}

/// The estimates, and what stands behind them.
#[derive(Clone, Copy, Debug)]
pub struct Estimates {
    /// Part of the keys that is sampled.
    pub sampled_share: f64,
    /// Requests behind the estimates; old ones count less.
    pub samples: u64,
    /// Requests taken into account since the start.
    pub samples_all: u64,
    /// Requests for sampled keys that were lost because a queue was full.
    pub lost: u64,
    /// Half, present and double size.
    pub sizes: [Estimate; HALVES.len()],
}

/// The writer's side.
pub(super) struct Shadow {
    below: u64,
    sampled_share: f64,
    lines: Vec<Arc<Line>>,
    miniatures: [Miniature; HALVES.len()],
    capacities: [u64; HALVES.len()],
    bytes_max: u64,
    counts: Counts,
    /// Totals at the last call of [`Shadow::replay`].
    lookups: u64,
    hits: u64,
    samples_all: u64,
}

impl Shadow {
    /// For a store like this one, which takes at most [`limits::SHADOW_OBJECTS_MAX`] of its objects as a sample.
    pub fn new(original: Original, readers: usize) -> (Self, Vec<Sampler>) {
        let most = limits::SHADOW_OBJECTS_MAX as f64 / (2 * original.entries.max(1)) as f64;
        Shadow::sampling(original, readers, most.min(limits::SHADOW_SHARE_MAX))
    }

    /// As [`Shadow::new`], with this part of the keys.
    pub(super) fn sampling(original: Original, readers: usize, share: f64) -> (Self, Vec<Sampler>) {
        // Rounds down, so that below the end of the numbers nothing overflows.
        let below = (share * u64::MAX as f64) as u64;
        let part = |number: u64| ((number as f64 * share) as u64).max(1);
        let capacities = HALVES.map(|halves| part(original.capacity) * halves / 2);
        let segment_bytes = (part(original.capacity) / original.segments.clamp(1, SEGMENTS_MAX)).max(1);
        let miniatures = std::array::from_fn(|i| {
            let entries = (part(original.entries) * HALVES[i] / 2).max(1) as usize;
            Miniature::new(capacities[i], segment_bytes, entries).bounded(entries)
        });
        let line =
            || Line { queue: ArrayQueue::new(limits::SHADOW_SAMPLES_QUEUED_MAX), lost: AtomicU64::new(0) };
        let lines: Vec<_> = (0..readers).map(|_| Arc::new(line())).collect();
        let samplers = lines.iter().map(|line| Sampler { below, line: Arc::clone(line) }).collect();
        let shadow = Shadow {
            below,
            sampled_share: share,
            lines,
            bytes_max: miniatures.iter().map(Miniature::object_bytes_max).min().unwrap_or(0),
            miniatures,
            capacities,
            counts: Counts::default(),
            lookups: 0,
            hits: 0,
            samples_all: 0,
        };
        (shadow, samplers)
    }

    /// Plays what workers have seen. `lookups` and `hits` are those of all keys since the start.
    pub fn replay(&mut self, lookups: u64, hits: u64, now_s: u32) {
        self.counts.lookups += lookups.saturating_sub(std::mem::replace(&mut self.lookups, lookups));
        self.counts.hits += hits.saturating_sub(std::mem::replace(&mut self.hits, hits));
        self.play(now_s);
    }

    /// An object was stored that may answer until then.
    pub fn stored(&mut self, hash: u64, bytes: u64, until_s: u32, now_s: u32) {
        if hash >= self.below || bytes > self.bytes_max {
            return;
        }
        // Whoever asked for it did so before.
        self.play(now_s);
        self.miniatures.iter_mut().for_each(|miniature| miniature.store(mixed(hash), bytes, until_s));
    }

    /// What is stored under this key was removed because it must not be served any more.
    pub fn removed(&mut self, hash: u64, now_s: u32) {
        if hash < self.below {
            self.play(now_s);
            self.miniatures.iter_mut().for_each(|miniature| miniature.remove(mixed(hash)));
        }
    }

    fn play(&mut self, now_s: u32) {
        for number in 0..self.lines.len() {
            // No more than were there when it began: workers go on meanwhile.
            for _ in 0..self.lines[number].queue.len() {
                let Some(sample) = self.lines[number].queue.pop() else { break };
                self.take(sample, now_s);
            }
        }
    }

    fn take(&mut self, Sample { hash, seen }: Sample, now_s: u32) {
        let hash = mixed(hash);
        // What is too large for the smallest miniature, because that is so much smaller than the store, is left out.
        if matches!(seen, Seen::Stored { bytes, .. } if bytes > self.bytes_max) {
            return;
        }
        for (miniature, misses) in self.miniatures.iter_mut().zip(&mut self.counts.misses) {
            let noted = miniature.read(hash);
            let answers = match seen {
                Seen::Nothing => noted.is_some_and(|until_s| now_s < until_s),
                Seen::Purged => {
                    miniature.remove(hash);
                    false
                }
                Seen::Stored { bytes, until_s } => {
                    miniature.store(hash, bytes, until_s);
                    noted.is_some() && now_s < until_s
                }
            };
            *misses += u64::from(!answers);
        }
        self.counts.samples += 1;
        self.samples_all += 1;
        if self.counts.samples >= limits::SHADOW_WINDOW_SAMPLES {
            let Counts { samples, misses, lookups, hits } = &mut self.counts;
            misses.iter_mut().chain([samples, lookups, hits]).for_each(|count| *count /= 2);
        }
    }

    /// Misses at each size so far, those of old samples halved.
    #[cfg(test)]
    pub(super) fn misses(&self) -> [u64; HALVES.len()] {
        self.counts.misses
    }

    /// What is known now.
    pub fn estimates(&self) -> Estimates {
        let Counts { samples, misses, lookups, hits } = self.counts;
        let missed = lookups.saturating_sub(hits) as f64 / lookups.max(1) as f64;
        let ratio = |i: usize| match misses[PRESENT] {
            0 => 1.0 - missed,
            present => (1.0 - missed * misses[i] as f64 / present as f64).clamp(0.0, 1.0),
        };
        let estimate = |i: usize| Estimate {
            factor: HALVES[i] as f64 / HALVES[PRESENT] as f64,
            hit_ratio: (samples > 0 && lookups > 0).then(|| ratio(i)),
            used_share: self.miniatures[i].used_bytes() as f64 / self.capacities[i] as f64,
        };
        Estimates {
            sampled_share: self.sampled_share,
            samples,
            samples_all: self.samples_all,
            lost: self.lines.iter().map(|line| line.lost.load(Relaxed)).sum(),
            sizes: std::array::from_fn(estimate),
        }
    }
}

/// Sampled hashes begin with the same bits, which the miniatures would take for the same place.
fn mixed(hash: u64) -> u64 {
    (hash ^ hash >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}
