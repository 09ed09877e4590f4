//! Which objects leave the store. Pure: numbers in, verdicts out; no file, no clock, no mapping, no records.
//! Whoever plays the writer (the store, or a [`super::miniature`] of it) asks and carries out.
//!
//! # The policy, and why
//!
//! The store is a log of segments that are emptied whole, so an order of single objects, as LRU keeps one, cannot be
//! had, and a hit must not write more than two bits. What fits is a policy of queues that are only appended to:
//! **S3-FIFO** (Yang, Zhang, Qiu, Yue, Vinayak: *FIFO queues are all you need for cache eviction*, SOSP 2023).
//!
//! - New objects go to the *small* log, about a tenth of the store. What was read there moves to the *main* log when
//!   its segment is emptied; the rest leaves early. Most objects of a CDN are asked for once: they pass through without
//!   pushing anything out. So does a scan.
//! - The main log is a CLOCK: what was read since its last round is appended again, its count lowered by one.
//! - *Ghosts* remember the hashes of what left. Who comes back in time to the small log starts in the main log.
//!
//! Five things are different here, each because plain S3-FIFO loses badly somewhere (see the tests of `simulate`):
//!
//! - **The share of the small log adapts**, as in ARC (Megiddo, Modha: *ARC*, FAST 2003). A ghost that comes back shortly
//!   after it left would have been a hit, had its log been a little longer. So it lengthens that log; the sooner it is
//!   back, the more. Both logs then have about the same gain from a further byte, which is what a best split is. Without
//!   this, objects that are read again after a pause longer than the small log miss twice each, where LRU has a hit.
//! - **What a read is worth follows from that share.** Where the small log has become long, what was read lately is what
//!   is read again, and what was read often may well be out of date: no read counts for more than one round, and the
//!   store is nearly an LRU. Where it is short, frequency tells more: each read counts for a round; and since two reads in
//!   so short a time are often one demand, a place in the main log wants one more. Ghosts of the main log then start
//!   small too: they had their chance there, and would each push out another. In a loop a little too long to fit that
//!   is the very one needed next, so that nothing of it would ever be hit.
//! - **Size counts**, as in GDSF (Cherkasova: *Improving WWW proxies performance with Greedy-Dual-Size-Frequency*, HP Labs
//!   1998): what is kept is worth its reads *per byte*. Objects larger than the mean must have been read more often
//!   to stay, and pay more for a round; those below the mean get one round in the main log also unread. One huge object can
//!   so not flush the small ones: these survive the emptying that it causes, and it does not.
//! - **Reads are paid once**: those in the small log pay for the move to the main log and are forgotten there. What was
//!   in demand while it was new and then never is again, as news is, would else hold its place for up to three rounds.
//! - **While the store fills** for the first time nothing has to leave, so what does not fit the small log's share goes
//!   to the main log, where it stays until the store is full and it can be judged like the rest.
//!
//! Objects that are dead (replaced, purged) or can never be served again are not judged at all: the caller lets them go
//! with their segment. They cost nothing and leave first.
#![forbid(unsafe_code)]

use super::index::FREQUENCY_MAX;

/// The two logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    /// Where new objects wait to be read a second time.
    Small = 0,
    /// Where objects live that were.
    Main = 1,
}

/// What fills the store now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Occupancy {
    /// Objects stored.
    pub objects: u64,
    /// Bytes they take.
    pub bytes: u64,
    /// Bytes of the segments of the small log.
    pub small_bytes: u64,
    /// Whether there are segments that were never used, so that nothing has to leave.
    pub filling: bool,
}

impl Occupancy {
    fn mean_bytes(&self) -> u64 {
        (self.bytes / self.objects.max(1)).max(1)
    }
}

/// An object whose turn it is, because a segment that holds (a part of) it is emptied.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Its key's hash.
    pub hash: u64,
    /// All its bytes, also those in other segments.
    pub bytes: u64,
    /// How often it was read since it was written there, 0 to 3.
    pub frequency: u64,
    /// The log that the segment belongs to.
    pub log: Log,
}

/// What becomes of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Appended to the main log, with this frequency.
    Keep(u64),
    /// Leaves.
    Evict,
}

/// Share of the small log at the start, and the least and the most it may become.
const SMALL_START: f64 = 0.10;
const SMALL_LEAST: f64 = 0.01;
const SMALL_MOST: f64 = 0.97;
/// Below this share of the small log an object must have been read there once more to move to the main log.
const SMALL_SHORT: f64 = 0.08;
/// From this share of the small log on, an object of the main log carries no reads on to its next round.
const SMALL_LONG: f64 = 0.30;
/// What a ghost that is back at once changes the small log's share by, in objects of mean size.
const STEP_OBJECTS: f64 = 8.0;
/// It is never more than this part of the store: in a small one a few ghosts are no evidence.
const STEP_SHARE: f64 = 0.005;
/// How fast that falls with the bytes that left after the ghost: by `(1 - left / capacity)` to this power. Steep, since
/// what a *little* more room would have saved is asked for.
const STEP_POWER: i32 = 8;
/// Above so many times the mean an object must have been read once more to stay; above [`HUGE`], twice.
const LARGE: u64 = 2;
const HUGE: u64 = 8;

/// The state of the policy.
pub struct Policy {
    capacity: u64,
    small_target: f64,
    ghosts: Ghosts,
}

impl Policy {
    /// For a store of so many bytes that remembers at least `ghosts_max` hashes of what left. Memory:
    /// [`Policy::bytes`], all taken here.
    pub fn new(capacity: u64, ghosts_max: usize) -> Self {
        let capacity = capacity.max(1);
        Policy {
            capacity,
            small_target: capacity as f64 * SMALL_START,
            ghosts: Ghosts::new(capacity, ghosts_max),
        }
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.ghosts.bytes()
    }

    /// Bytes the small log should have now.
    pub fn small_target(&self) -> u64 {
        self.small_target as u64
    }

    fn small_share(&self) -> f64 {
        self.small_target / self.capacity as f64
    }

    /// Misses so far of objects that had left not long ago.
    pub fn ghost_hits(&self) -> u64 {
        self.ghosts.hits
    }

    /// Where an object goes that is about to be stored and was not there. To be asked once for each.
    pub fn admit(&mut self, hash: u64, now: &Occupancy) -> Log {
        if let Some(ghost) = self.ghosts.take(hash) {
            let near = (1.0 - ghost.left_since as f64 / self.capacity as f64).max(0.0).powi(STEP_POWER);
            let step = near * (STEP_OBJECTS * now.mean_bytes() as f64).min(self.capacity as f64 * STEP_SHARE);
            let change = if ghost.log == Log::Small { step } else { -step };
            let capacity = self.capacity as f64;
            self.small_target =
                (self.small_target + change).clamp(capacity * SMALL_LEAST, capacity * SMALL_MOST);
            let was_judged = ghost.log == Log::Main && self.small_share() < SMALL_SHORT;
            return if was_judged { Log::Small } else { Log::Main };
        }
        if now.filling && now.small_bytes as f64 >= self.small_target { Log::Main } else { Log::Small }
    }

    /// Which log's oldest segment is emptied next, if both have one.
    pub fn victim(&self, now: &Occupancy) -> Log {
        if now.small_bytes as f64 > self.small_target { Log::Small } else { Log::Main }
    }

    /// Whether an object stays. Objects of several records are judged once for each, always as a whole: the caller
    /// applies the new frequency with the last one, so that the verdict does not change in between.
    pub fn judge(&self, candidate: &Candidate, now: &Occupancy) -> Verdict {
        let mean = now.mean_bytes();
        let surplus = u64::from(candidate.bytes > LARGE * mean) + u64::from(candidate.bytes > HUGE * mean);
        let share = self.small_share();
        // Never more than can be counted.
        let surplus_in_small = (surplus + u64::from(share < SMALL_SHORT)).min(FREQUENCY_MAX - 1);
        // Below two thirds of the mean: objects of one size are none of them small.
        let is_small = candidate.bytes * 3 < mean * 2;
        match candidate.log {
            Log::Small if is_small => Verdict::Keep(candidate.frequency),
            Log::Small if candidate.frequency > surplus_in_small => Verdict::Keep(0),
            Log::Main if candidate.frequency > surplus && share >= SMALL_LONG => Verdict::Keep(0),
            Log::Main if candidate.frequency > surplus => Verdict::Keep(candidate.frequency - 1 - surplus),
            _ => Verdict::Evict,
        }
    }

    /// Remembers an object that left because of a verdict, or for want of room.
    pub fn left(&mut self, candidate: &Candidate) {
        self.ghosts.put(candidate);
    }
}

/// A ghost that came back.
struct Ghost {
    log: Log,
    /// Bytes that left the same log after it.
    left_since: u64,
}

const BUCKET: usize = 8;
/// Ghosts are forgotten when so many capacities' worth of bytes have left after them.
const HORIZON: f64 = 1.0;
/// Into how many parts the horizon is cut.
const HORIZON_STEPS: usize = 64;

/// Hashes of what left, in buckets of a cache line. Fixed size; in a full bucket the one that left first is forgotten.
///
/// ```text
/// 63      41 40    39                          0
/// |  tag    | log |  bytes that had left this log, in units; 0: empty |
/// ```
struct Ghosts {
    buckets: Box<[[u64; BUCKET]]>,
    /// Bytes of one unit.
    unit: u64,
    /// Bytes that left each log so far.
    left: [u64; 2],
    /// What `left` was at the last [`HORIZON_STEPS`] steps towards the horizon: a ring. The next one to be overwritten is
    /// the horizon.
    steps: [[u64; 2]; HORIZON_STEPS],
    next_step: usize,
    /// Bytes that have to leave until the next step, and what they are after each.
    until_step: u64,
    step_bytes: u64,
    hits: u64,
}

const STAMP_BITS: u32 = 40;
const STAMP_MASK: u64 = (1 << STAMP_BITS) - 1;
const LOG_BIT: u64 = 1 << STAMP_BITS;
const TAG_MASK: u64 = !(LOG_BIT | STAMP_MASK);

impl Ghosts {
    fn new(capacity: u64, ghosts_max: usize) -> Self {
        let step_bytes = ((capacity as f64 * HORIZON) as u64 / HORIZON_STEPS as u64).max(1);
        Ghosts {
            buckets: vec![[0; BUCKET]; ghosts_max.div_ceil(BUCKET).max(1)].into_boxed_slice(),
            unit: (capacity >> 20).max(1),
            left: [0; 2],
            steps: [[0; 2]; HORIZON_STEPS],
            next_step: 0,
            until_step: step_bytes,
            step_bytes,
            hits: 0,
        }
    }

    fn bytes(&self) -> usize {
        std::mem::size_of_val(&*self.buckets)
    }

    fn bucket(&mut self, hash: u64) -> &mut [u64; BUCKET] {
        // Other bits than those of the tag.
        let number = (u128::from(hash.rotate_left(24)) * self.buckets.len() as u128) >> 64;
        &mut self.buckets[number as usize]
    }

    fn put(&mut self, candidate: &Candidate) {
        let log = candidate.log as usize;
        // Never 0, which is an empty place. Wraps only after a million capacities.
        let stamp = (self.left[log] / self.unit + 1) & STAMP_MASK;
        self.count(log, candidate.bytes.max(1));
        let word = candidate.hash & TAG_MASK | (log as u64) << STAMP_BITS | stamp;
        let left = self.left.map(|left| left / self.unit + 1);
        let age = |word: u64| match word {
            0 => u64::MAX,
            _ => left[(word >> STAMP_BITS & 1) as usize].saturating_sub(word & STAMP_MASK),
        };
        let oldest = self.bucket(candidate.hash).iter_mut().max_by_key(|word| age(**word));
        *oldest.expect("buckets have places") = word;
    }

    fn take(&mut self, hash: u64) -> Option<Ghost> {
        let found =
            self.bucket(hash).iter_mut().find(|word| **word != 0 && (**word ^ hash) & TAG_MASK == 0)?;
        let word = std::mem::take(found);
        let log = if word & LOG_BIT == 0 { Log::Small } else { Log::Main };
        let stamp = (word & STAMP_MASK) - 1;
        let horizon = self.steps[self.next_step][log as usize] / self.unit;
        if stamp < horizon {
            return None;
        }
        self.hits += 1;
        let left_since = (self.left[log as usize] / self.unit).saturating_sub(stamp) * self.unit;
        Some(Ghost { log, left_since })
    }

    /// Counts bytes that leave a log, and moves the horizon.
    fn count(&mut self, log: usize, bytes: u64) {
        self.left[log] += bytes;
        let mut rest = bytes;
        // A single object passes the whole horizon at most once.
        for _ in 0..HORIZON_STEPS {
            if rest < self.until_step {
                break;
            }
            rest -= self.until_step;
            self.until_step = self.step_bytes;
            self.steps[self.next_step] = self.left;
            self.next_step = (self.next_step + 1) % HORIZON_STEPS;
        }
        self.until_step = self.until_step.saturating_sub(rest).max(1);
    }
}
