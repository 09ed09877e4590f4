//! The only reader of time. Everything else is handed a [`Now`].
#![forbid(unsafe_code)]

use crate::proto::Now;
use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The wall clock as rustls asks for it, once or twice a handshake.
#[derive(Debug)]
pub struct Wall;

impl rustls::time_provider::TimeProvider for Wall {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        Some(rustls::pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(now().unix_s)))
    }
}

/// Reads both clocks once. Workers call it once a turn and pass the result on.
#[expect(clippy::disallowed_methods, reason = "this is the one reader of time")]
pub fn now() -> Now {
    static START: OnceLock<Instant> = OnceLock::new();
    let mono_ms = START.get_or_init(Instant::now).elapsed().as_millis() as u64 + 1;
    let unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    Now { mono_ms, unix_s }
}

/// The wall clock in milliseconds since the Unix epoch, for numbers that must rise from one start to the next.
#[expect(clippy::disallowed_methods, reason = "this is the one reader of time")]
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}
