//! Keys for which a refresh was asked for lately, so that not every hit of a stale object asks control again.
#![forbid(unsafe_code)]

use crate::limits;
use crate::proto::Now;

/// A small table by hash; a key that shares its place asks more often, which costs a message.
pub struct Refreshes([(u64, u64); limits::REFRESHES_REMEMBERED]);

impl Default for Refreshes {
    fn default() -> Self {
        Refreshes([(0, 0); limits::REFRESHES_REMEMBERED])
    }
}

impl Refreshes {
    /// Whether nobody asked for `REFRESH_AGAIN_MS`.
    pub fn is_due(&self, hash: u64, now: Now) -> bool {
        let (asked, at_ms) = self.0[place(hash)];
        asked != hash || now.mono_ms.saturating_sub(at_ms) >= limits::REFRESH_AGAIN_MS
    }

    /// Control was asked.
    pub fn asked(&mut self, hash: u64, now: Now) {
        self.0[place(hash)] = (hash, now.mono_ms);
    }
}

fn place(hash: u64) -> usize {
    (hash % limits::REFRESHES_REMEMBERED as u64) as usize
}
