//! Response heads: what an origin answered, and the field lines a client gets. How long a response may be
//! reused is decided elsewhere, and so is how a connection frames it.
#![forbid(unsafe_code)]

use super::framing;
use super::freshness::{self, Storing};
use super::io::Interim;
use super::request::WEBSOCKET;
use super::stored;
use crate::limits;
use http::header::{self, HeaderMap};
use std::io::Write;

/// The head of an origin's response as control hands it to workers, already cleaned of hop-by-hop fields.
#[derive(Clone, Debug)]
pub struct OriginHead {
    /// Status code, final (≥ 200), or 101.
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

/// Why an origin's head cannot be passed on: answer 502.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Not a final status code.
    #[error("status code is not final")]
    Status,
    /// More than `RESPONSE_HEAD_BYTES_MAX`.
    #[error("response head too large")]
    TooLarge,
    /// Content-Length is not one number.
    #[error("Content-Length of the response is malformed")]
    Length,
}

impl OriginHead {
    /// Cleans the head of an origin's response (RFC 9110 section 7.6.1): hop-by-hop fields and those that
    /// Connection names go; Content-Length and Age are taken out; a missing Date is added
    /// (RFC 9110 section 6.6.1).
    pub fn from_origin(
        status: u16,
        fields: &HeaderMap,
        storing: Storing,
        now_unix_s: u64,
    ) -> Result<OriginHead, HeadError> {
        if !(200..=999).contains(&status) {
            return Err(HeadError::Status);
        }
        let lines = end_to_end(fields, now_unix_s)?;
        let mut lengths =
            fields.get_all(header::CONTENT_LENGTH).iter().map(|value| framing::decimal(value.as_bytes()));
        let body_bytes = match lengths.next() {
            None => None,
            Some(first) if first.is_some() && lengths.all(|other| other == first) => first,
            Some(_) => return Err(HeadError::Length),
        };
        Ok(OriginHead { status, lines, body_bytes, age_s: freshness::age(fields), storing })
    }
}

/// The field lines of a response that are for its client.
fn end_to_end(fields: &HeaderMap, now_unix_s: u64) -> Result<Vec<u8>, HeadError> {
    let mut lines = Vec::new();
    for (name, value) in fields {
        let bytes = name.as_str().as_bytes();
        let dropped = framing::is_hop_by_hop(bytes)
            || *name == header::CONTENT_LENGTH
            || *name == header::AGE
            || (connection_lists(fields, name.as_str()) && !framing::never_hop_by_hop(bytes));
        if !dropped {
            push_line(&mut lines, bytes, value.as_bytes());
        }
    }
    if !fields.contains_key(header::DATE) {
        push_date(&mut lines, now_unix_s);
    }
    match lines.len() <= limits::RESPONSE_HEAD_BYTES_MAX {
        true => Ok(lines),
        false => Err(HeadError::TooLarge),
    }
}

fn connection_lists(fields: &HeaderMap, name: &str) -> bool {
    fields.get_all(header::CONNECTION).iter().any(|value| framing::list_has(value.as_bytes(), name))
}

/// Whether these are the fields of a 101 that goes over to WebSocket and to nothing else (RFC 9110 section 7.8).
pub fn switches_to_websocket(fields: &HeaderMap) -> bool {
    let mut protocols = fields.get_all(header::UPGRADE).iter().map(|value| value.as_bytes().trim_ascii());
    let is_websocket = |protocol: &[u8]| protocol.eq_ignore_ascii_case(WEBSOCKET.as_bytes());
    connection_lists(fields, "upgrade")
        && protocols.next().is_some_and(is_websocket)
        && protocols.next().is_none()
}

/// What an origin's interim response becomes for the client; `None`: it is not forwarded. A 101 makes a tunnel, and is
/// none.
pub fn interim(status: u16, fields: &HeaderMap) -> Option<Interim> {
    if status == 100 {
        return Some(Interim::go_on());
    }
    if !matches!(status, 102 | 103) {
        return None;
    }
    let mut lines = Vec::new();
    for (name, value) in fields {
        let bytes = name.as_str().as_bytes();
        let listed = connection_lists(fields, name.as_str());
        if !framing::is_hop_by_hop(bytes) && *name != header::CONTENT_LENGTH && !listed {
            push_line(&mut lines, bytes, value.as_bytes());
        }
    }
    (lines.len() <= limits::RESPONSE_HEAD_BYTES_MAX).then_some(Interim { status, lines })
}

impl OriginHead {
    /// The head of a 101, for a client that has asked for it; its connection adds what is about itself.
    pub fn switching(fields: &HeaderMap, now_unix_s: u64) -> Result<OriginHead, HeadError> {
        let lines = end_to_end(fields, now_unix_s)?;
        Ok(OriginHead { status: 101, lines, body_bytes: None, age_s: None, storing: Storing::No("pass") })
    }

    /// The head of a 304 to a client that has this representation already (RFC 9110 section 15.4.5).
    pub fn not_modified(&self) -> OriginHead {
        let mut lines = Vec::new();
        push_validation_fields(&mut lines, &self.lines);
        OriginHead { status: 304, lines, body_bytes: None, age_s: self.age_s, storing: self.storing }
    }
}

/// The fields a 304 must carry if the 200 had them (RFC 9110 section 15.4.5), and no others.
pub(super) fn push_validation_fields(out: &mut Vec<u8>, head: &[u8]) {
    const NAMES: [&str; 6] = ["cache-control", "content-location", "date", "etag", "expires", "vary"];
    for (name, value) in stored::fields(head) {
        if NAMES.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes())) {
            push_line(out, name, value);
        }
    }
}

/// Whether a response of this status can have a body (RFC 9112 section 6.3).
pub fn may_have_body(status: u16) -> bool {
    status >= 200 && !matches!(status, 204 | 304)
}

/// Why a request went to the origin (RFC 9211 section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Forwarded {
    /// The cache does not handle such requests.
    Bypass,
    /// The method is never answered from a cache.
    Method,
    /// Nothing is stored under the key.
    UriMiss,
    /// Something is, but Vary selects another.
    VaryMiss,
    /// What is stored is fresh, but the request does not take it.
    Request,
    /// What is stored has to be validated.
    Stale,
    /// Some of what is asked for is stored, and some is not.
    Partial,
}

/// The fields of an answer of our own.
pub(super) fn push_own(out: &mut Vec<u8>, status: u16) {
    if status == 503 {
        out.extend_from_slice(b"Retry-After: 1\r\n");
    }
    out.extend_from_slice(b"Content-Type: text/plain\r\n");
}

/// The text of an answer of our own: `404 Not Found`.
pub(super) fn push_text(out: &mut Vec<u8>, status: u16) {
    push_number(out, u64::from(status));
    out.push(b' ');
    out.extend_from_slice(reason(status).as_bytes());
    out.push(b'\n');
}

/// Bytes of that text.
pub(super) fn text_bytes(status: u16) -> u64 {
    4 + reason(status).len() as u64 + 1
}

/// `Content-Range: bytes first-last/complete` (RFC 9110 section 14.4); without a part: `bytes */complete`.
pub fn push_content_range(out: &mut Vec<u8>, part: Option<&std::ops::Range<u64>>, complete_bytes: u64) {
    out.extend_from_slice(b"Content-Range: bytes ");
    match part {
        Some(part) => {
            push_number(out, part.start);
            out.push(b'-');
            push_number(out, part.end.saturating_sub(1));
        }
        None => out.push(b'*'),
    }
    out.push(b'/');
    push_number(out, complete_bytes);
    out.extend_from_slice(b"\r\n");
}

/// One field line.
pub(super) fn push_line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[inline]
pub(super) fn push_age(out: &mut Vec<u8>, age_s: u64) {
    out.extend_from_slice(b"Age: ");
    push_number(out, age_s);
    out.extend_from_slice(b"\r\n");
}

pub(super) fn push_date(out: &mut Vec<u8>, unix_s: u64) {
    // HTTP dates end with the year 9999.
    const LAST_S: u64 = 253_402_300_799;
    let date = std::time::UNIX_EPOCH + std::time::Duration::from_secs(unix_s.min(LAST_S));
    out.extend_from_slice(b"Date: ");
    // Writing into a Vec cannot fail.
    let _ = write!(out, "{}", httpdate::HttpDate::from(date));
    out.extend_from_slice(b"\r\n");
}

/// The reason phrase of a registered status code; empty for others.
pub(super) fn reason(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("")
}

/// A number in decimal, without the formatting machinery.
pub(super) fn push_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}
