//! Response heads: what an origin answered, and the bytes a client gets.
#![forbid(unsafe_code)]

use super::freshness::Storing;

/// The head of an origin's response as control hands it to workers, already cleaned of hop-by-hop fields.
#[derive(Clone, Debug)]
pub struct OriginHead {
    /// Status code, final (≥ 200).
    pub status: u16,
    /// End-to-end field lines, `name: value\r\n` each, without Content-Length, Transfer-Encoding, Age,
    /// and without the closing empty line.
    pub lines: Vec<u8>,
    /// Length of the body, if the origin said it.
    pub body_bytes: Option<u64>,
    /// `Age` the response arrived with, seconds (RFC 9111 section 4.2.3), if any.
    pub age_s: Option<u64>,
    /// Whether it is being stored, for `Cache-Status`.
    pub storing: Storing,
}
