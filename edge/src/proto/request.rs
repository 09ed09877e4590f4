//! A request head: parsed by httparse under our framing rules, kept in buffers that are reused.
#![forbid(unsafe_code)]

use std::ops::Range;

/// The methods the cache treats specially; all else is passed through under its own name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Method {
    /// GET
    #[default]
    Get,
    /// HEAD
    Head,
    /// Any other; its name is in the head.
    Other,
}

/// How the request's body is delimited (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum BodyLength {
    /// No body.
    #[default]
    None,
    /// Exactly so many bytes.
    Bytes(u64),
    /// Chunked transfer coding.
    Chunked,
}

/// Why a head was refused: the status to answer, and a word for the log. The connection closes after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// 400, 414, 431, 501 or 505.
    pub status: u16,
    /// What was wrong, in a few words.
    pub reason: &'static str,
}

/// One request head. Cleared and refilled for each request, so that parsing allocates nothing after
/// the first few; cloned (boxed) when the request has to travel to control.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    /// The head's bytes as received.
    pub(super) bytes: Vec<u8>,
    /// Name and value of each field as ranges of `bytes`, in order.
    pub(super) fields: Vec<(Range<u32>, Range<u32>)>,
    pub(super) method_name: Range<u32>,
    pub(super) target: Range<u32>,
    /// Origin-form of the target: path and query (what the origin is asked).
    pub(super) path: Range<u32>,
    pub(super) host: Range<u32>,
    /// The method's class.
    pub method: Method,
    /// 0 or 1: the minor version of HTTP/1.
    pub minor_version: u8,
    /// How the body is delimited.
    pub body: BodyLength,
    /// Whether the connection may carry another request after this one.
    pub keep_alive: bool,
    /// `Expect: 100-continue` was sent.
    pub expect_continue: bool,
    /// The cache key: `http://host[:port]/path?query`.
    pub key: Vec<u8>,
    /// xxh3-64 of `key`.
    pub key_hash: u64,
}

impl RequestHead {
    /// Parses a head from the start of `input`. `Ok(None)`: more bytes are needed (none were kept).
    /// `Ok(Some(n))`: the head is the first `n` bytes of `input`, and `self` describes it.
    pub fn parse(&mut self, input: &[u8]) -> Result<Option<usize>, Refusal> {
        let _ = input;
        todo!()
    }

    /// The method as sent.
    pub fn method_name(&self) -> &str {
        todo!()
    }

    /// Path and query as asked, origin-form.
    pub fn path(&self) -> &str {
        todo!()
    }

    /// Host as asked, with its port if one was given.
    pub fn host(&self) -> &str {
        todo!()
    }

    /// The first value of a field; `name` in lower case.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        let _ = name;
        todo!()
    }

    /// All fields in order, names as sent.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        std::iter::empty()
    }
}
