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
    #[cfg(test)]
    if let Some(now) = simulated::now() {
        return now;
    }
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

/// Time that a simulation lets pass, on its own thread.
#[cfg(test)]
pub(crate) mod simulated {
    use crate::proto::Now;
    use std::cell::Cell;
    use tokio::time::Instant;

    thread_local! {
        static BEGUN: Cell<Option<(Instant, Now)>> = const { Cell::new(None) };
    }

    /// From now on this thread's clock goes as tokio's does, from this moment on, until the result is dropped.
    pub(crate) fn begin(at: Now) -> Simulated {
        BEGUN.set(Some((Instant::now(), at)));
        Simulated(())
    }

    /// See [`begin`].
    pub(crate) struct Simulated(());

    impl Drop for Simulated {
        fn drop(&mut self) {
            BEGUN.set(None);
        }
    }

    pub(super) fn now() -> Option<Now> {
        let (begun, at) = BEGUN.get()?;
        let passed = begun.elapsed();
        let (ms, s) = (passed.as_millis() as u64, passed.as_secs());
        Some(Now { mono_ms: at.mono_ms + ms, unix_s: at.unix_s + s })
    }
}
