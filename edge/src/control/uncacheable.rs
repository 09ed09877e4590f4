//! Keys whose last response could not be stored, remembered for a short while and in bounded number, so that
//! requests for them do not wait for one another.
#![forbid(unsafe_code)]

use crate::limits;
use std::collections::{HashMap, VecDeque};

/// The table. Keys are known by their 64-bit hash: a collision costs one shared fill, never a wrong answer.
#[derive(Default)]
pub(super) struct Uncacheable {
    until_ms: HashMap<u64, u64>,
    /// In the order of their ends.
    order: VecDeque<(u64, u64)>,
}

impl Uncacheable {
    /// Remembers a key from now on.
    pub(super) fn remember(&mut self, hash: u64, now_ms: u64) {
        self.expire(now_ms);
        while self.order.len() >= limits::UNCACHEABLE_KEYS_MAX {
            self.drop_oldest();
        }
        let until_ms = now_ms + limits::UNCACHEABLE_MS;
        self.until_ms.insert(hash, until_ms);
        self.order.push_back((until_ms, hash));
    }

    /// Whether the key is remembered.
    pub(super) fn contains(&mut self, hash: u64, now_ms: u64) -> bool {
        self.expire(now_ms);
        self.until_ms.contains_key(&hash)
    }

    /// The key could be stored after all.
    pub(super) fn forget(&mut self, hash: u64) {
        self.until_ms.remove(&hash);
    }

    /// Keys remembered.
    pub(super) fn len(&self) -> usize {
        self.until_ms.len()
    }

    fn expire(&mut self, now_ms: u64) {
        while self.order.front().is_some_and(|&(until_ms, _)| until_ms <= now_ms) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((until_ms, hash)) = self.order.pop_front()
            && self.until_ms.get(&hash) == Some(&until_ms)
        {
            self.until_ms.remove(&hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_remembered_for_its_time_and_again_after_a_renewal() {
        let mut table = Uncacheable::default();
        table.remember(1, 100);
        assert!(table.contains(1, 100 + limits::UNCACHEABLE_MS - 1));
        table.remember(1, 200);
        assert!(table.contains(1, 100 + limits::UNCACHEABLE_MS), "renewed");
        assert!(!table.contains(1, 200 + limits::UNCACHEABLE_MS));
        table.remember(2, 300);
        table.forget(2);
        assert!(!table.contains(2, 300));
    }

    #[test]
    fn the_table_is_bounded_and_the_oldest_leave_first() {
        let mut table = Uncacheable::default();
        for hash in 0..limits::UNCACHEABLE_KEYS_MAX as u64 + 10 {
            table.remember(hash, 1);
        }
        assert_eq!(table.len(), limits::UNCACHEABLE_KEYS_MAX);
        assert!(!table.contains(9, 1));
        assert!(table.contains(10, 1));
    }
}
