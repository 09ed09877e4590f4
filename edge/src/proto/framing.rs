//! RFC 9112 framing: what makes a request head acceptable, and where its body ends. Caching never.
//!
//! Where RFC 9112 leaves a recipient the choice between repair and refusal, we refuse: two parties that
//! repair differently are what request smuggling is made of. httparse tokenises; the rules are here:
//!
//! - Every line ends in CRLF. A bare LF or CR, a folded line, space before a colon or before the first
//!   field, or a control byte in a value is 400.
//! - Content-Length is one field of digits alone. A second one is 400 even if equal: the parties behind
//!   us differ on it.
//! - Transfer-Encoding is the one word `chunked`, in HTTP/1.1, without Content-Length. A coding that we
//!   do not know is 501, anything else 400.
//! - Exactly one valid Host in HTTP/1.1 (at most one in 1.0), and the authority of an absolute-form
//!   target must agree with it.
//! - Up to four empty lines before a request line are skipped; peers of old sent one after a body.
#![forbid(unsafe_code)]

use super::key::Scheme;
use super::request::{BodyLength, Refusal};
use crate::limits;
use std::ops::Range;

/// Bytes of a method name; the longest registered one (UPDATEREDIRECTREF) has 17. Longer is 501.
pub(super) const METHOD_BYTES_MAX: usize = 32;
/// Empty lines skipped before a request line.
const EMPTY_LINES_MAX: usize = 4;
/// A request line without its LF: method, target, version, two spaces and a CR. Longer is 414.
pub(super) const REQUEST_LINE_BYTES_MAX: usize =
    METHOD_BYTES_MAX + 1 + limits::REQUEST_TARGET_BYTES_MAX + 1 + "HTTP/1.1\r".len();

const _: () = assert!(REQUEST_LINE_BYTES_MAX < limits::REQUEST_HEAD_BYTES_MAX);

/// The refusals, each with its one reason.
pub(super) struct Refused;

#[rustfmt::skip]
impl Refused {
    pub(super) const REQUEST_LINE: Refusal = Refusal { status: 400, reason: "request line" };
    pub(super) const LINE_END: Refusal = Refusal { status: 400, reason: "line not ended by CRLF" };
    pub(super) const METHOD: Refusal = Refusal { status: 400, reason: "method" };
    pub(super) const METHOD_UNKNOWN: Refusal = Refusal { status: 501, reason: "method not implemented" };
    pub(super) const TARGET: Refusal = Refusal { status: 400, reason: "request target" };
    pub(super) const TARGET_TOO_LONG: Refusal = Refusal { status: 414, reason: "request target too long" };
    pub(super) const VERSION: Refusal = Refusal { status: 400, reason: "HTTP version" };
    pub(super) const VERSION_UNKNOWN: Refusal = Refusal { status: 505, reason: "HTTP version not supported" };
    pub(super) const FIELD_SYNTAX: Refusal = Refusal { status: 400, reason: "field syntax" };
    pub(super) const HEAD_TOO_LARGE: Refusal = Refusal { status: 431, reason: "request head too large" };
    pub(super) const TOO_MANY_FIELDS: Refusal = Refusal { status: 431, reason: "too many fields" };
    pub(super) const HOST: Refusal = Refusal { status: 400, reason: "invalid host" };
    pub(super) const HOST_MISSING: Refusal = Refusal { status: 400, reason: "Host missing" };
    pub(super) const HOST_TWICE: Refusal = Refusal { status: 400, reason: "more than one Host" };
    pub(super) const HOST_DIFFERS: Refusal = Refusal { status: 400, reason: "Host differs from target" };
    pub(super) const LENGTH: Refusal = Refusal { status: 400, reason: "Content-Length" };
    pub(super) const LENGTH_TWICE: Refusal = Refusal { status: 400, reason: "more than one Content-Length" };
    pub(super) const LENGTH_AND_CODING: Refusal = Refusal { status: 400, reason: "Content-Length with Transfer-Encoding" };
    pub(super) const CODING: Refusal = Refusal { status: 400, reason: "Transfer-Encoding" };
    pub(super) const CODING_UNKNOWN: Refusal = Refusal { status: 501, reason: "transfer coding not implemented" };
    pub(super) const EXPECTATION: Refusal = Refusal { status: 417, reason: "unknown expectation" };
}

/// Bytes of the empty lines `input` begins with, as far as they are tolerated.
pub(super) fn empty_lines(input: &[u8]) -> usize {
    let lines = input.chunks_exact(2).take(EMPTY_LINES_MAX).take_while(|pair| *pair == b"\r\n");
    2 * lines.count()
}

/// RFC 9110 section 5.6.2.
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Bytes a target may hold: what RFC 3986 allows, without `#`, and what browsers leave as it is: `|{}[]\^`.
/// Not `"<>` and the back quote, which URL libraries refuse.
const TARGET_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0x21;
    while byte < 0x7f {
        table[byte] = !matches!(byte as u8, b'"' | b'#' | b'<' | b'>' | b'`');
        byte += 1;
    }
    table
};

/// Whether all bytes may stand in a request target.
pub(super) fn is_target(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| TARGET_BYTES[byte as usize])
}

/// A request line, as offsets from the start of the head.
#[derive(Clone, Debug)]
pub(super) struct RequestLine {
    pub(super) method_end: u32,
    pub(super) target: Range<u32>,
    pub(super) minor_version: u8,
    /// Bytes of the line with its CRLF.
    pub(super) bytes: u32,
}

impl RequestLine {
    /// Reads the line at the start of `head`; `None`: its end has not come.
    pub(super) fn parse(head: &[u8]) -> Result<Option<RequestLine>, Refusal> {
        match head.first() {
            None => return Ok(None),
            // The half of a tolerated empty line.
            Some(b'\r') if head.len() == 1 => return Ok(None),
            Some(&byte) if !is_token_byte(byte) => return Err(Refused::REQUEST_LINE),
            Some(_) => {}
        }
        let window = &head[..head.len().min(REQUEST_LINE_BYTES_MAX + 1)];
        let Some(newline) = window.iter().position(|&byte| byte == b'\n') else {
            return if head.len() > REQUEST_LINE_BYTES_MAX {
                Err(Refused::TARGET_TOO_LONG)
            } else {
                Ok(None)
            };
        };
        let line = head[..newline].strip_suffix(b"\r").ok_or(Refused::LINE_END)?;
        let method_end = line.iter().position(|&byte| byte == b' ').ok_or(Refused::REQUEST_LINE)?;
        let method = &line[..method_end];
        if !method.iter().all(|&byte| is_token_byte(byte)) {
            return Err(Refused::METHOD);
        }
        let rest = &line[method_end + 1..];
        // Without a version this is HTTP/0.9, which has no fields to judge by.
        let target_len = rest.iter().position(|&byte| byte == b' ').ok_or(Refused::VERSION)?;
        let target = &rest[..target_len];
        let minor_version = version(&rest[target_len + 1..])?;
        if method_end > METHOD_BYTES_MAX || method == b"CONNECT" {
            return Err(Refused::METHOD_UNKNOWN);
        }
        if target_len > limits::REQUEST_TARGET_BYTES_MAX {
            return Err(Refused::TARGET_TOO_LONG);
        }
        if target.is_empty() || !is_target(target) || (target == b"*" && method != b"OPTIONS") {
            return Err(Refused::TARGET);
        }
        let start = method_end as u32 + 1;
        Ok(Some(RequestLine {
            method_end: method_end as u32,
            target: start..start + target_len as u32,
            minor_version,
            bytes: newline as u32 + 1,
        }))
    }
}

/// HTTP/1.0 and 1.1 only. No other minor version was ever specified: 400. Other major versions: 505.
fn version(text: &[u8]) -> Result<u8, Refusal> {
    match text {
        b"HTTP/1.1" => Ok(1),
        b"HTTP/1.0" => Ok(0),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() && *major != b'1' =>
        {
            Err(Refused::VERSION_UNKNOWN)
        }
        _ => Err(Refused::VERSION),
    }
}

/// Start and end of the authority in an absolute-form target (RFC 9112 section 3.2.2) of the connection's own
/// scheme: what was asked without TLS is not answered as if it had come with it, nor the other way round.
pub(super) fn absolute_form(target: &[u8], scheme: Scheme) -> Result<(usize, usize), Refusal> {
    let own = scheme.prefix().as_bytes();
    let asked = target.get(..own.len()).ok_or(Refused::TARGET)?;
    if !asked.eq_ignore_ascii_case(own) {
        return Err(Refused::TARGET);
    }
    let rest = &target[own.len()..];
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    Ok((own.len(), own.len() + end))
}

/// Checks the field line that starts at `at` and was tokenised with these lengths: no gap that the
/// tokeniser skipped, CRLF at its end. Returns name, value, and the start of the next line.
pub(super) fn field_line(
    head: &[u8],
    at: usize,
    name_len: usize,
    value_len: usize,
) -> Result<(Range<usize>, Range<usize>, usize), Refusal> {
    let colon = at + name_len;
    if name_len == 0 || head.get(colon) != Some(&b':') {
        return Err(Refused::FIELD_SYNTAX);
    }
    let blanks = |from: usize| head[from..].iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
    let value = colon + 1 + blanks(colon + 1);
    let value_end = value + value_len;
    if value_end > head.len() {
        return Err(Refused::FIELD_SYNTAX);
    }
    let end = value_end + blanks(value_end);
    if head.get(end..end + 2) != Some(b"\r\n") {
        return Err(Refused::LINE_END);
    }
    Ok((at..colon, value..value_end, end + 2))
}

pub(super) fn is_host(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"host")
}

/// What the framing fields of one head said so far.
#[derive(Default)]
pub(super) struct Rules {
    /// Where the value of Host is.
    pub(super) host: Option<Range<u32>>,
    pub(super) expect_continue: bool,
    length: Option<u64>,
    codings: Codings,
    close: bool,
    keep_alive: bool,
}

/// What the Transfer-Encoding fields listed.
#[derive(Default)]
struct Codings {
    present: bool,
    chunked: u32,
    unknown: bool,
    malformed: bool,
}

impl Rules {
    /// Takes one field. Every field of the head comes here, in order.
    pub(super) fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        match name.len() {
            4 if is_host(name) && self.host.is_some() => return Err(Refused::HOST_TWICE),
            6 if name.eq_ignore_ascii_case(b"expect") => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Refused::EXPECTATION);
                }
                self.expect_continue = true;
            }
            10 if name.eq_ignore_ascii_case(b"connection") => {
                self.close |= list_has(value, "close");
                self.keep_alive |= list_has(value, "keep-alive");
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                if self.length.is_some() {
                    return Err(Refused::LENGTH_TWICE);
                }
                self.length = Some(decimal(value).ok_or(Refused::LENGTH)?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.codings.list(value),
            _ => {}
        }
        Ok(())
    }

    /// How the body is delimited (RFC 9112 section 6.3).
    pub(super) fn body(&self, minor_version: u8) -> Result<BodyLength, Refusal> {
        match (&self.codings, self.length) {
            (Codings { present: false, .. }, None | Some(0)) => Ok(BodyLength::None),
            (Codings { present: false, .. }, Some(bytes)) => Ok(BodyLength::Bytes(bytes)),
            (_, Some(_)) => Err(Refused::LENGTH_AND_CODING),
            (Codings { malformed: true, .. }, _) => Err(Refused::CODING),
            (_, _) if minor_version == 0 => Err(Refused::CODING),
            (Codings { unknown: true, .. }, _) => Err(Refused::CODING_UNKNOWN),
            (Codings { chunked: 1, .. }, _) => Ok(BodyLength::Chunked),
            _ => Err(Refused::CODING),
        }
    }

    /// RFC 9112 section 9.3.
    pub(super) fn keep_alive(&self, minor_version: u8) -> bool {
        !self.close && (minor_version == 1 || self.keep_alive)
    }
}

impl Codings {
    fn list(&mut self, value: &[u8]) {
        self.present = true;
        for item in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
            if item.eq_ignore_ascii_case(b"chunked") {
                self.chunked += 1;
            } else if !item.is_empty() && item.iter().all(|&byte| is_token_byte(byte)) {
                self.unknown = true;
            } else {
                self.malformed = true;
            }
        }
    }
}

/// Digits alone, no sign, no list, within u64.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |number, &byte| {
        let digit = byte.is_ascii_digit().then_some(u64::from(byte.wrapping_sub(b'0')))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Whether a comma-separated list has `word`, in any case.
pub(super) fn list_has(value: &[u8], word: &str) -> bool {
    value.split(|&byte| byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
}

/// Fields about one connection alone (RFC 9110 section 7.6.1), and the proxy authentication ones, which
/// are between the peer and us. Any case.
pub(super) fn is_hop_by_hop(name: &[u8]) -> bool {
    const NAMES: &[&str] = &[
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    NAMES.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}

/// Fields that stay even if Connection lists them: without them the next party would see another message.
pub(super) fn never_hop_by_hop(name: &[u8]) -> bool {
    const NAMES: &[&str] = &["host", "content-length", "cache-control", "date", "age", "vary"];
    NAMES.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
}
