//! SANS-IO: what HTTP means, and nothing of how bytes travel. No socket, clock, file, thread or unsafe.
//! Imports nothing of ours but `limits`.
#![forbid(unsafe_code)]

pub mod framing;
pub mod freshness;
pub mod key;
pub mod range;
pub mod request;
pub mod response;
pub mod session;
pub mod stored;

/// A reading of both clocks, taken once a turn by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Now {
    /// Monotonic milliseconds since some start; never 0.
    pub mono_ms: u64,
    /// Seconds since the Unix epoch.
    pub unix_s: u64,
}
