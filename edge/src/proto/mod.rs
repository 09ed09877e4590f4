//! SANS-IO: what HTTP means, and nothing of how bytes travel. No socket, clock, file, thread or unsafe.
//! Imports nothing of ours but `limits`.
#![forbid(unsafe_code)]

mod answer;
pub mod body;
pub mod cache_control;
mod cache_status;
pub mod certificate;
pub mod conditional;
mod date;
mod delivery;
mod der;
mod exchange;
pub mod forwarded;
pub mod forwarding;
pub mod framing;
pub mod freshness;
pub mod generations;
pub mod hello;
pub mod http2;
pub mod invalidation;
pub mod io;
pub mod kernel_tls;
pub mod key;
mod multipart;
pub mod partial;
pub mod policy;
pub mod purge;
pub mod query;
pub mod range;
pub mod records;
pub mod request;
pub mod response;
pub mod reuse;
pub mod route;
pub mod session;
pub mod staple;
pub mod stored;
pub mod targeted;
pub mod tickets;
pub mod tls;
mod traffic;
pub mod trailers;
pub mod transport;
pub mod validation;
mod vary;

/// A reading of both clocks, taken once a turn by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Now {
    /// Monotonic milliseconds since some start; never 0.
    pub mono_ms: u64,
    /// Seconds since the Unix epoch.
    pub unix_s: u64,
}

pub(crate) use date::parse as parse_date;
