//! Traces made from a seed, one for each pattern that some policy is known to be bad at. Only tests use them.
#![forbid(unsafe_code)]

use super::trace::{Format, Trace};
use std::fmt::Write;

/// Requests of each trace.
const REQUESTS: usize = 60_000;

/// What a trace is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Popularity by Zipf's law, unchanging.
    Zipf,
    /// The same, with half of the requests for keys that never come again.
    OneHitWonders,
    /// The same, interrupted by long runs of such keys.
    Scans,
    /// The same, with a third of the requests going round and round.
    Loops,
    /// Popularity moves on to new keys slowly.
    SlowDrift,
    /// It moves on fast.
    FastDrift,
    /// What is popular gives way to new keys at once, the more popular the sooner: news.
    Churn,
    /// Another set of keys every few thousand requests.
    Phases,
    /// What was read lately is read again: what LRU is best at.
    Recency,
}

/// How large objects are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sizes {
    /// All one byte.
    One,
    /// A Pareto distribution that has nothing to do with popularity.
    Skewed,
    /// 4 to 12 KiB, but every 50th new key 2 MB.
    HugeAmongSmall,
}

/// All patterns.
pub const PATTERNS: [Pattern; 9] = [
    Pattern::Zipf,
    Pattern::OneHitWonders,
    Pattern::Scans,
    Pattern::Loops,
    Pattern::SlowDrift,
    Pattern::FastDrift,
    Pattern::Churn,
    Pattern::Phases,
    Pattern::Recency,
];

/// A trace, and the sum of its objects' bytes.
pub fn trace(pattern: Pattern, sizes: Sizes, seed: u64) -> (Trace, u64) {
    let mut dice = Dice(seed);
    let keys = keys(pattern, &mut dice);
    let mut text = String::from("time,key,bytes\n");
    let mut footprint = 0;
    let mut seen = std::collections::HashSet::new();
    for (time, key) in keys.into_iter().enumerate() {
        let bytes = bytes(sizes, key);
        footprint += if seen.insert(key) { bytes } else { 0 };
        writeln!(text, "{time},{key},{bytes}").expect("a string takes all");
    }
    (Trace::parse(text.as_bytes(), Format::Csv).expect("well formed"), footprint)
}

fn keys(pattern: Pattern, dice: &mut Dice) -> Vec<u64> {
    /// Keys from here on are asked for once.
    const ONCE: u64 = 1 << 40;
    let zipf = Zipf::new(12_000, 0.9);
    let mut keys = Vec::with_capacity(REQUESTS);
    let mut recent: Vec<u64> = Vec::new();
    let mut holders: Vec<u64> = (0..12_000).collect();
    while keys.len() < REQUESTS {
        let at = keys.len() as u64;
        let rank = zipf.draw(dice);
        match pattern {
            Pattern::Zipf => keys.push(rank),
            Pattern::OneHitWonders if dice.roll(2) == 0 => keys.push(ONCE + at),
            Pattern::Scans if dice.roll(4_000) == 0 => keys.extend((at..at + 1_500).map(|n| ONCE + n)),
            Pattern::Loops if dice.roll(3) == 0 => keys.push(ONCE + at / 3 % 3_000),
            Pattern::OneHitWonders | Pattern::Scans | Pattern::Loops => keys.push(rank),
            Pattern::SlowDrift => keys.push(rank + at / 200),
            Pattern::FastDrift => keys.push(rank + at / 20),
            Pattern::Churn => {
                if dice.roll(20) == 0 {
                    holders[zipf.draw(dice) as usize] = ONCE + at;
                }
                keys.push(holders[rank as usize]);
            }
            Pattern::Phases => keys.push(rank % 4_000 + at / 10_000 * 4_000),
            Pattern::Recency => {
                let depth = rank as usize;
                let key = if depth < recent.len() && dice.roll(40) != 0 {
                    let place = recent.len() - 1 - depth;
                    recent.remove(place)
                } else {
                    at
                };
                recent.push(key);
                keys.push(key);
            }
        }
    }
    keys
}

fn bytes(sizes: Sizes, key: u64) -> u64 {
    let mut dice = Dice(key ^ 0x5eed);
    match sizes {
        Sizes::One => 1,
        Sizes::Skewed => (500.0 * dice.unit().max(1e-9).powf(-1.0 / 1.2)).min(1e6) as u64,
        Sizes::HugeAmongSmall if dice.roll(50) == 0 => 2_000_000,
        Sizes::HugeAmongSmall => 4_096 + dice.roll(8_192),
    }
}

/// splitmix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.next() % sides
    }
}

struct Zipf(Vec<f64>);

impl Zipf {
    fn new(ranks: usize, exponent: f64) -> Self {
        let mut sum = 0.0;
        let mut sums = Vec::with_capacity(ranks);
        for rank in 1..=ranks {
            sum += (rank as f64).powf(-exponent);
            sums.push(sum);
        }
        Zipf(sums)
    }

    fn draw(&self, dice: &mut Dice) -> u64 {
        let at = dice.unit() * self.0.last().copied().unwrap_or(1.0);
        self.0.partition_point(|&sum| sum < at).min(self.0.len() - 1) as u64
    }
}
