//! The only reader of time. Everything else is handed a [`Now`].
#![forbid(unsafe_code)]

use crate::proto::Now;
use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Reads both clocks once. Workers call it once a turn and pass the result on.
#[expect(clippy::disallowed_methods, reason = "this is the one reader of time")]
pub fn now() -> Now {
    static START: OnceLock<Instant> = OnceLock::new();
    let mono_ms = START.get_or_init(Instant::now).elapsed().as_millis() as u64 + 1;
    let unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    Now { mono_ms, unix_s }
}
