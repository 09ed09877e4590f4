//! Response heads: what an origin answered, and the bytes a client gets. How long a response may be
//! reused is decided elsewhere.
#![forbid(unsafe_code)]

use super::framing;
use super::freshness::{self, Storing};
use super::io::FetchKind;
use crate::limits;
use http::header::{self, HeaderMap};
use std::io::Write;

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
        let listed = |name: &str| {
            fields.get_all(header::CONNECTION).iter().any(|value| framing::list_has(value.as_bytes(), name))
        };
        let mut lines = Vec::new();
        for (name, value) in fields {
            let bytes = name.as_str().as_bytes();
            let dropped = framing::is_hop_by_hop(bytes)
                || *name == header::CONTENT_LENGTH
                || *name == header::AGE
                || (listed(name.as_str()) && !framing::never_hop_by_hop(bytes));
            if !dropped {
                push_line(&mut lines, bytes, value.as_bytes());
            }
        }
        if !fields.contains_key(header::DATE) {
            push_date(&mut lines, now_unix_s);
        }
        if lines.len() > limits::RESPONSE_HEAD_BYTES_MAX {
            return Err(HeadError::TooLarge);
        }
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
}

impl Forwarded {
    fn word(self) -> &'static [u8] {
        match self {
            Forwarded::Bypass => b"bypass",
            Forwarded::Method => b"method",
            Forwarded::UriMiss => b"uri-miss",
            Forwarded::VaryMiss => b"vary-miss",
            Forwarded::Request => b"request",
            Forwarded::Stale => b"stale",
        }
    }
}

/// What becomes of the connection after a response, as its head has to say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Persistence {
    pub(super) keep_alive: bool,
    pub(super) minor_version: u8,
}

/// How a response's body is delimited for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delimited {
    /// There is none, and no field about it.
    None,
    /// Content-Length.
    Bytes(u64),
    /// Chunked transfer coding.
    Chunked,
    /// By the end of the connection.
    Close,
}

impl Delimited {
    /// For a response of the origin; by the end of the connection only where HTTP/1.0 knows nothing else.
    pub(super) fn of(head: &OriginHead, head_only: bool, minor_version: u8) -> Delimited {
        match (may_have_body(head.status), head.body_bytes) {
            (false, _) => Delimited::None,
            (true, Some(bytes)) => Delimited::Bytes(bytes),
            (true, None) if head_only => Delimited::None,
            (true, None) if minor_version == 0 => Delimited::Close,
            (true, None) => Delimited::Chunked,
        }
    }
}

/// Status line, Age and Cache-Status of an answer from the store; the fields and the empty line follow.
pub(super) fn push_hit(out: &mut Vec<u8>, status: u16, age_s: u32, persistence: Persistence) {
    push_status(out, status);
    push_age(out, u64::from(age_s));
    out.extend_from_slice(b"Cache-Status: edge; hit\r\n");
    push_persistence(out, persistence);
}

/// As [`push_hit`], for a response that was stored or validated on behalf of this very request.
pub(super) fn push_fetched(
    out: &mut Vec<u8>,
    status: u16,
    age_s: u32,
    forwarded: Forwarded,
    revalidated: bool,
    persistence: Persistence,
) {
    push_status(out, status);
    push_age(out, u64::from(age_s));
    out.extend_from_slice(b"Cache-Status: edge; fwd=");
    out.extend_from_slice(forwarded.word());
    out.extend_from_slice(if revalidated { b"; fwd-status=304\r\n" } else { b"; stored\r\n" });
    push_persistence(out, persistence);
}

/// The whole head of a response that comes from the origin.
pub(super) fn push_origin(
    out: &mut Vec<u8>,
    head: &OriginHead,
    forwarded: Forwarded,
    kind: FetchKind,
    delimited: Delimited,
    persistence: Persistence,
) {
    push_status(out, head.status);
    out.extend_from_slice(&head.lines);
    if let Some(age_s) = head.age_s {
        push_age(out, age_s);
    }
    out.extend_from_slice(b"Cache-Status: edge; fwd=");
    out.extend_from_slice(forwarded.word());
    out.extend_from_slice(b"; fwd-status=");
    push_number(out, u64::from(head.status));
    if kind != FetchKind::Pass && head.storing == Storing::Store {
        out.extend_from_slice(b"; stored");
    }
    out.extend_from_slice(b"\r\n");
    push_persistence(out, persistence);
    push_delimited(out, delimited);
    out.extend_from_slice(b"\r\n");
}

/// An answer of our own, head and body; for HEAD the head alone.
pub(super) fn push_error(
    out: &mut Vec<u8>,
    status: u16,
    forwarded: Option<Forwarded>,
    head_only: bool,
    now_unix_s: u64,
    persistence: Persistence,
) {
    push_status(out, status);
    push_date(out, now_unix_s);
    if let Some(forwarded) = forwarded {
        out.extend_from_slice(b"Cache-Status: edge; fwd=");
        out.extend_from_slice(forwarded.word());
        out.extend_from_slice(b"\r\n");
    }
    if status == 503 {
        out.extend_from_slice(b"Retry-After: 1\r\n");
    }
    push_persistence(out, persistence);
    let reason = reason(status);
    out.extend_from_slice(b"Content-Type: text/plain\r\n");
    push_delimited(out, Delimited::Bytes(4 + reason.len() as u64 + 1));
    out.extend_from_slice(b"\r\n");
    if !head_only {
        push_number(out, u64::from(status));
        out.push(b' ');
        out.extend_from_slice(reason.as_bytes());
        out.push(b'\n');
    }
}

/// Content-Length or Transfer-Encoding.
pub(super) fn push_delimited(out: &mut Vec<u8>, delimited: Delimited) {
    match delimited {
        Delimited::None | Delimited::Close => {}
        Delimited::Bytes(bytes) => {
            out.extend_from_slice(b"Content-Length: ");
            push_number(out, bytes);
            out.extend_from_slice(b"\r\n");
        }
        Delimited::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }
}

/// `Content-Range: bytes first-last/complete` (RFC 9110 section 14.4); without a part: `bytes */complete`.
pub(super) fn push_content_range(
    out: &mut Vec<u8>,
    part: Option<&std::ops::Range<u64>>,
    complete_bytes: u64,
) {
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

fn push_age(out: &mut Vec<u8>, age_s: u64) {
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

/// HTTP/1.1 connections persist unless told otherwise, HTTP/1.0 ones the other way round (RFC 9112 section 9.3).
fn push_persistence(out: &mut Vec<u8>, persistence: Persistence) {
    match persistence {
        Persistence { keep_alive: false, .. } => out.extend_from_slice(b"Connection: close\r\n"),
        Persistence { minor_version: 0, .. } => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        _ => {}
    }
}

fn push_status(out: &mut Vec<u8>, status: u16) {
    if status == 200 {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    push_number(out, u64::from(status));
    out.push(b' ');
    out.extend_from_slice(reason(status).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The reason phrase of a registered status code; empty for others.
fn reason(status: u16) -> &'static str {
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

/// A chunk's size line (RFC 9112 section 7.1).
pub(super) fn push_chunk_size(out: &mut Vec<u8>, bytes: usize) {
    let digits = (usize::BITS - bytes.leading_zeros()).div_ceil(4).max(1);
    for shift in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(bytes >> (4 * shift)) & 0xf]);
    }
    out.extend_from_slice(b"\r\n");
}
