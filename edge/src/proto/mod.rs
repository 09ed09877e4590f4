//! SANS-IO: what HTTP means, and nothing of how bytes travel. No socket, clock, file, thread or unsafe.
//! Imports nothing of ours but `limits`.
#![forbid(unsafe_code)]

mod answer;
pub mod body;
pub mod cache_control;
pub mod certificate;
pub mod conditional;
mod delivery;
mod exchange;
pub mod forwarding;
pub mod framing;
pub mod freshness;
pub mod generations;
pub mod http2;
pub mod io;
pub mod key;
mod multipart;
pub mod partial;
pub mod policy;
pub mod purge;
pub mod range;
pub mod records;
pub mod request;
pub mod response;
pub mod session;
pub mod stored;
pub mod tickets;
pub mod tls;
mod traffic;
pub mod validation;

/// A reading of both clocks, taken once a turn by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Now {
    /// Monotonic milliseconds since some start; never 0.
    pub mono_ms: u64,
    /// Seconds since the Unix epoch.
    pub unix_s: u64,
}

/// An HTTP-date (RFC 9110 section 5.6.7, all three forms) in seconds since the Unix epoch.
pub(crate) fn parse_date(value: &[u8]) -> Option<u64> {
    let time = httpdate::parse_http_date(str::from_utf8(value).ok()?).ok()?;
    time.duration_since(std::time::UNIX_EPOCH).ok().map(|since| since.as_secs())
}
