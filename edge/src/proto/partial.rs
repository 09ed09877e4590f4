//! Parts of a representation got from an origin (RFC 9110 section 14, RFC 9111 sections 3.3 and 3.4): what a 206 says
//! it holds, which slices to ask for, and whether two answers are of one and the same representation. How clients'
//! ranges are read is in `range`.
//!
//! The reasoning: parts of different versions must never be put together, so a part counts only with a strong
//! validator: a strong ETag, or else a Last-Modified that is older than Date, which two versions made within one second
//! cannot share. Every further part is asked for with If-Range, and what comes must carry that same validator.
#![forbid(unsafe_code)]

use super::framing::decimal;
use super::range::Spec;
use super::stored;
use crate::limits::CHUNK_BYTES;
use http::header::{self, HeaderMap, HeaderValue};
use std::ops::Range;

/// What a Content-Range field says (RFC 9110 section 14.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentRange {
    /// The bytes that follow; never empty.
    pub part: Range<u64>,
    /// Bytes of the whole, if known.
    pub complete_bytes: Option<u64>,
}

/// Reads the one Content-Range field of a 206; `None`: absent, twice, or not to be understood.
pub fn content_range(fields: &HeaderMap) -> Option<ContentRange> {
    let mut values = fields.get_all(header::CONTENT_RANGE).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let (unit, rest) = value.to_str().ok()?.split_once(' ')?;
    let (part, complete) = rest.split_once('/')?;
    let (first, last) = part.split_once('-')?;
    let number = |text: &str| decimal(text.as_bytes());
    let (first, last) = (number(first)?, number(last)?);
    let complete_bytes = if complete == "*" { None } else { Some(number(complete)?) };
    let sound = unit.eq_ignore_ascii_case("bytes")
        && first <= last
        && last < u64::MAX
        && complete_bytes.is_none_or(|bytes| last < bytes);
    sound.then(|| ContentRange { part: first..last + 1, complete_bytes })
}

/// The slices that hold what a client asks for, as a value of Range, and where they begin. `None`: not known before
/// the length is.
pub fn aligned(spec: Spec) -> Option<(HeaderValue, u64)> {
    const SLICE: u64 = CHUNK_BYTES as u64;
    let (first, last) = match spec {
        Spec::Closed(first, last) => (first, Some(last)),
        Spec::Open(first) => (first, None),
        Spec::Suffix(_) => return None,
    };
    let start = first / SLICE * SLICE;
    // Beyond any length the end may as well be left open.
    let end = last.and_then(|last| (last / SLICE + 1).checked_mul(SLICE));
    Some((value(start, end), start))
}

/// A Range value; `end` is the first byte not wanted, `None`: all.
fn value(start: u64, end: Option<u64>) -> HeaderValue {
    let text = match end {
        Some(end) => format!("bytes={start}-{}", end.saturating_sub(1)),
        None => format!("bytes={start}-"),
    };
    HeaderValue::try_from(text).expect("digits are a field value")
}

/// What tells versions apart so well that parts of one may be put together (RFC 9110 section 8.8.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Validator {
    /// A strong entity-tag.
    Tag(Vec<u8>),
    /// Last-Modified as it was sent, and in Unix seconds.
    Modified(Vec<u8>, u64),
}

impl Validator {
    /// That of a response with these lines; `None`: it has no strong one.
    pub fn of_lines(lines: &[u8]) -> Option<Validator> {
        let one = |wanted: &[u8]| {
            let mut values =
                stored::fields(lines).filter(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, v)| v);
            values.next().filter(|_| values.next().is_none())
        };
        Self::of(one(b"etag"), one(b"last-modified"), one(b"date"))
    }

    /// That of a response with these fields.
    pub fn of_fields(fields: &HeaderMap) -> Option<Validator> {
        let one = |name: header::HeaderName| {
            let mut values = fields.get_all(name).iter();
            values.next().filter(|_| values.next().is_none()).map(|value| value.as_bytes().trim_ascii())
        };
        Self::of(one(header::ETAG), one(header::LAST_MODIFIED), one(header::DATE))
    }

    fn of(etag: Option<&[u8]>, modified: Option<&[u8]>, date: Option<&[u8]>) -> Option<Validator> {
        if let Some(tag) = etag {
            // A weak tag says that the bytes may differ; then a date is not to be trusted either.
            let strong = tag.len() >= 2 && tag.starts_with(b"\"") && tag.ends_with(b"\"");
            return strong.then(|| Validator::Tag(tag.to_vec()));
        }
        // RFC 9110 section 8.8.2.2.
        let modified = modified?;
        let (modified_s, date_s) = (super::parse_date(modified)?, super::parse_date(date?)?);
        (modified_s < date_s).then(|| Validator::Modified(modified.to_vec(), modified_s))
    }

    /// Whether a response with these fields is of the same version.
    pub fn agrees(&self, fields: &HeaderMap) -> bool {
        match (self, Self::of_fields(fields)) {
            (Validator::Tag(tag), Some(Validator::Tag(other))) => *tag == other,
            (Validator::Modified(_, at_s), Some(Validator::Modified(_, other_s))) => *at_s == other_s,
            _ => false,
        }
    }

    /// Makes a request without conditions ask for these bytes of this version (RFC 9110 section 13.1.5).
    pub fn ask_for(&self, start: u64, end: Option<u64>, fields: &mut HeaderMap) {
        let (Validator::Tag(bytes) | Validator::Modified(bytes, _)) = self;
        if let Ok(validator) = HeaderValue::from_bytes(bytes) {
            fields.insert(header::IF_RANGE, validator);
        }
        fields.insert(header::RANGE, value(start, end));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[&str]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap();
            fields.append(header::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        fields
    }

    #[test]
    fn content_ranges() {
        for (value, want) in [
            ("bytes 0-0/1", Some((0..1, Some(1)))),
            ("bytes 5-9/10", Some((5..10, Some(10)))),
            ("Bytes 5-9/*", Some((5..10, None))),
            ("bytes 5-10/10", None),
            ("bytes 9-5/10", None),
            ("bytes */10", None),
            ("bytes 0-18446744073709551615/*", None),
            ("bytes 0-99999999999999999999/*", None),
            ("bytes=0-1/2", None),
            ("items 0-1/2", None),
            ("bytes 0-1", None),
            ("bytes -1/2", None),
            ("", None),
        ] {
            let read = content_range(&headers(&[&format!("Content-Range: {value}")]));
            assert_eq!(read.map(|r| (r.part, r.complete_bytes)), want, "{value}");
        }
        assert_eq!(
            content_range(&headers(&["Content-Range: bytes 0-0/1", "Content-Range: bytes 0-0/1"])),
            None
        );
        assert_eq!(content_range(&headers(&[])), None);
    }

    #[test]
    fn slices_hold_what_was_asked_for() {
        const MIB: u64 = 1 << 20;
        for (spec, want) in [
            (Spec::Closed(0, 0), Some(("bytes=0-1048575", 0))),
            (Spec::Closed(MIB - 1, MIB), Some(("bytes=0-2097151", 0))),
            (Spec::Closed(MIB, 2 * MIB - 1), Some(("bytes=1048576-2097151", MIB))),
            (Spec::Closed(7 * MIB + 3, u64::MAX), Some(("bytes=7340032-", 7 * MIB))),
            (Spec::Open(MIB + 5), Some(("bytes=1048576-", MIB))),
            (Spec::Suffix(5), None),
        ] {
            let got = aligned(spec);
            let got = got.as_ref().map(|(value, start)| (value.to_str().unwrap(), *start));
            assert_eq!(got, want, "{spec:?}");
        }
    }

    #[test]
    fn only_strong_validators_put_parts_together() {
        let date = "Date: Tue, 14 Nov 2023 22:13:20 GMT";
        let modified = "Last-Modified: Tue, 14 Nov 2023 22:13:19 GMT";
        let of = |lines: &[&str]| Validator::of_fields(&headers(lines));
        let tag = of(&["ETag: \"a\"", date, modified]).unwrap();
        assert_eq!(tag, Validator::Tag(b"\"a\"".to_vec()));
        assert!(tag.agrees(&headers(&["ETag: \"a\""])));
        for other in [
            &["ETag: \"b\""][..],
            &["ETag: W/\"a\""],
            &[date, modified],
            &[],
            &["ETag: \"a\"", "ETag: \"a\""],
        ] {
            assert!(!tag.agrees(&headers(other)), "{other:?}");
        }
        for weak in [
            &["ETag: W/\"a\"", date, modified][..],
            &["ETag: a"],
            &["ETag: \""],
            &[modified],
            &[date],
            &["Date: Tue, 14 Nov 2023 22:13:19 GMT", modified],
        ] {
            assert_eq!(of(weak), None, "{weak:?}");
        }
        let by_date = of(&[date, modified]).unwrap();
        assert!(by_date.agrees(&headers(&["Date: Wed, 15 Nov 2023 22:13:20 GMT", modified])));
        assert!(!by_date.agrees(&headers(&[date, "Last-Modified: Tue, 14 Nov 2023 22:13:18 GMT"])));
        assert!(!by_date.agrees(&headers(&[date, modified, "ETag: \"a\""])));
        let lines = format!("content-length: 3\r\n{date}\r\n{modified}\r\n\r\n");
        assert_eq!(Validator::of_lines(lines.as_bytes()), Some(by_date.clone()));

        let mut fields = headers(&["X: y"]);
        by_date.ask_for(5, Some(10), &mut fields);
        assert_eq!(fields[header::RANGE], "bytes=5-9");
        assert_eq!(fields[header::IF_RANGE], "Tue, 14 Nov 2023 22:13:19 GMT");
        tag.ask_for(5, None, &mut fields);
        assert_eq!(
            (&fields[header::RANGE], &fields[header::IF_RANGE]),
            (&"bytes=5-".parse().unwrap(), &"\"a\"".parse().unwrap())
        );
    }
}
