//! The policies to compare with, each object by object and without overhead: FIFO, LRU, SIEVE, and Belady's, which knows
//! what comes. Keys are numbers from 0, so that all state is in arrays.
#![forbid(unsafe_code)]

use super::trace::Trace;
use std::collections::BinaryHeap;

/// A cache that a trace is replayed through.
pub trait Cache {
    /// A request for a key of so many bytes: whether it was a hit. After a miss it is stored, if it fits at all.
    fn request(&mut self, key: u32, bytes: u64) -> bool;
}

const NONE: u32 = u32::MAX;

/// Objects in the order of a list, with the bytes of each.
struct List {
    /// Towards the newer end, and towards the older, of each key.
    newer: Vec<u32>,
    older: Vec<u32>,
    /// Bytes as stored, plus 1; 0: not stored.
    stored: Vec<u64>,
    newest: u32,
    oldest: u32,
    used: u64,
    capacity: u64,
}

impl List {
    fn new(keys: usize, capacity: u64) -> Self {
        let empty = || vec![NONE; keys];
        let (newer, older, stored) = (empty(), empty(), vec![0; keys]);
        List { newer, older, stored, newest: NONE, oldest: NONE, used: 0, capacity }
    }

    fn holds(&self, key: u32) -> bool {
        self.stored[key as usize] != 0
    }

    fn push(&mut self, key: u32) {
        self.older[key as usize] = self.newest;
        self.newer[key as usize] = NONE;
        match self.newest {
            NONE => self.oldest = key,
            newest => self.newer[newest as usize] = key,
        }
        self.newest = key;
    }

    fn unlink(&mut self, key: u32) {
        let (newer, older) = (self.newer[key as usize], self.older[key as usize]);
        match newer {
            NONE => self.newest = older,
            newer => self.older[newer as usize] = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.newer[older as usize] = newer,
        }
    }

    fn store(&mut self, key: u32, bytes: u64) {
        self.stored[key as usize] = bytes + 1;
        self.used += bytes;
        self.push(key);
    }

    fn drop(&mut self, key: u32) {
        self.unlink(key);
        self.used -= std::mem::take(&mut self.stored[key as usize]) - 1;
    }

    fn is_short_of(&self, bytes: u64) -> bool {
        self.used + bytes > self.capacity
    }
}

/// By what a [`Queue`] is ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// When an object was read last: LRU.
    Read,
    /// When it was stored: FIFO.
    Stored,
}

/// LRU and FIFO.
pub struct Queue {
    list: List,
    order: Order,
}

impl Queue {
    /// For so many keys.
    pub fn new(keys: usize, capacity: u64, order: Order) -> Self {
        Queue { list: List::new(keys, capacity), order }
    }
}

impl Cache for Queue {
    fn request(&mut self, key: u32, bytes: u64) -> bool {
        if self.list.holds(key) {
            if self.order == Order::Read {
                self.list.unlink(key);
                self.list.push(key);
            }
            return true;
        }
        if bytes <= self.list.capacity {
            while self.list.is_short_of(bytes) {
                self.list.drop(self.list.oldest);
            }
            self.list.store(key, bytes);
        }
        false
    }
}

/// SIEVE (Zhang, Yang, Yue, Vigfusson, Rashmi, NSDI 2024).
pub struct Sieve {
    list: List,
    visited: Vec<bool>,
    hand: u32,
}

impl Sieve {
    /// For so many keys.
    pub fn new(keys: usize, capacity: u64) -> Self {
        Sieve { list: List::new(keys, capacity), visited: vec![false; keys], hand: NONE }
    }

    fn evict(&mut self) {
        let mut victim = if self.hand == NONE { self.list.oldest } else { self.hand };
        while std::mem::take(&mut self.visited[victim as usize]) {
            let newer = self.list.newer[victim as usize];
            victim = if newer == NONE { self.list.oldest } else { newer };
        }
        self.hand = self.list.newer[victim as usize];
        self.list.drop(victim);
    }
}

impl Cache for Sieve {
    fn request(&mut self, key: u32, bytes: u64) -> bool {
        if self.list.holds(key) {
            self.visited[key as usize] = true;
            return true;
        }
        if bytes <= self.list.capacity {
            while self.list.is_short_of(bytes) {
                self.evict();
            }
            self.visited[key as usize] = false;
            self.list.store(key, bytes);
        }
        false
    }
}

/// Belady's: what is needed latest leaves first, the object just requested included. For objects of one size no policy
/// has fewer misses; for others it only is a mark to measure by.
pub struct Belady {
    /// For each request, the number of the next one for the same key.
    next: Vec<u32>,
    at: usize,
    /// By their next request; one that does not stand in `due` any more is out of date.
    latest: BinaryHeap<(u32, u32)>,
    /// The next request of each stored key, plus 1; 0: not stored.
    due: Vec<u32>,
    stored: Vec<u64>,
    objects: usize,
    used: u64,
    capacity: u64,
}

impl Belady {
    /// Looks ahead over all of the trace.
    pub fn new(trace: &Trace, capacity: u64) -> Self {
        let mut next = vec![0; trace.len()];
        let mut seen = vec![NONE - 1; trace.keys()];
        for (i, (key, _)) in trace.requests().enumerate().rev() {
            next[i] = std::mem::replace(&mut seen[key as usize], i as u32);
        }
        let (due, stored) = (vec![0; trace.keys()], vec![0; trace.keys()]);
        Belady { next, at: 0, latest: BinaryHeap::new(), due, stored, objects: 0, used: 0, capacity }
    }

    fn note(&mut self, key: u32, next: u32) {
        self.due[key as usize] = next + 1;
        self.latest.push((next, key));
        if self.latest.len() > 4 * self.objects + 1024 {
            let due = &self.due;
            self.latest.retain(|&(next, key)| due[key as usize] == next + 1);
        }
    }

    fn evict(&mut self) {
        while let Some((next, key)) = self.latest.pop() {
            if self.due[key as usize] == next + 1 {
                self.due[key as usize] = 0;
                self.used -= self.stored[key as usize];
                self.objects -= 1;
                return;
            }
        }
    }
}

impl Cache for Belady {
    fn request(&mut self, key: u32, bytes: u64) -> bool {
        let next = self.next[self.at];
        self.at += 1;
        let hit = self.due[key as usize] != 0;
        if !hit {
            if bytes > self.capacity {
                return false;
            }
            self.stored[key as usize] = bytes;
            self.used += bytes;
            self.objects += 1;
        }
        self.note(key, next);
        while self.used > self.capacity {
            self.evict();
        }
        hit
    }
}
