//! The text around the parts of a multipart/byteranges body (RFC 9110 sections 14.6 and 15.3.7.2, RFC 2046 section
//! 5.1.1). The parts themselves are never seen here.
#![forbid(unsafe_code)]

use super::Now;
use super::response::{push_content_range, push_line};
use super::stored;
use std::ops::Range;

const CONTENT_TYPE: &[u8] = b"content-type";

/// The body of an answer of several parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Multipart {
    boundary: [u8; 32],
    text: Vec<u8>,
    /// Where the text of each part ends, and its bytes; the last one has none.
    parts: Vec<(usize, Range<u64>)>,
}

impl Multipart {
    /// These parts of a body of `complete_bytes`, whose stored fields are `lines`.
    pub(super) fn new(
        key: &[u8],
        lines: &[u8],
        parts: &[Range<u64>],
        complete_bytes: u64,
        now: Now,
    ) -> Multipart {
        let content_type = stored::fields(lines).find(|(name, _)| is_type(name)).map(|(_, value)| value);
        let boundary = boundary(key, parts, now);
        let mut text = Vec::new();
        let mut ends = Vec::with_capacity(parts.len() + 1);
        for part in parts {
            let delimiter: &[u8] = if text.is_empty() { b"--" } else { b"\r\n--" };
            text.extend_from_slice(delimiter);
            text.extend_from_slice(&boundary);
            text.extend_from_slice(b"\r\n");
            if let Some(value) = content_type {
                push_line(&mut text, b"Content-Type", value);
            }
            push_content_range(&mut text, Some(part), complete_bytes);
            text.extend_from_slice(b"\r\n");
            ends.push((text.len(), part.clone()));
        }
        text.extend_from_slice(b"\r\n--");
        text.extend_from_slice(&boundary);
        text.extend_from_slice(b"--\r\n");
        ends.push((text.len(), 0..0));
        Multipart { boundary, text, parts: ends }
    }

    /// Bytes of it all.
    pub(super) fn bytes(&self) -> u64 {
        let bodies: u64 = self.parts.iter().map(|(_, part)| part.end - part.start).sum();
        self.text.len() as u64 + bodies
    }

    /// The fields of the answer: the stored ones, but for the type.
    pub(super) fn push_fields(&self, out: &mut Vec<u8>, lines: &[u8]) {
        out.extend_from_slice(b"Content-Type: multipart/byteranges; boundary=");
        out.extend_from_slice(&self.boundary);
        out.extend_from_slice(b"\r\n");
        for (name, value) in stored::fields(lines).filter(|(name, _)| !is_type(name)) {
            push_line(out, name, value);
        }
    }

    /// A text and the bytes of the object that follow it, one after the other. Those of the last are none.
    pub(super) fn parts(&self) -> impl Iterator<Item = (&[u8], Range<u64>)> {
        let starts = std::iter::once(0).chain(self.parts.iter().map(|(end, _)| *end));
        self.parts.iter().zip(starts).map(|((end, part), start)| (&self.text[start..*end], part.clone()))
    }
}

fn is_type(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(CONTENT_TYPE)
}

/// What separates the parts: 128 bits that differ from answer to answer, so that no body holds it but by chance. Whoever
/// made the body and guessed it would deceive only readers of that body who do not look at the lengths of its parts.
fn boundary(key: &[u8], parts: &[Range<u64>], now: Now) -> [u8; 32] {
    let mut answer = key.to_vec();
    let ends = parts.iter().flat_map(|part| [part.start, part.end]);
    answer.extend(ends.chain([now.mono_ms, now.unix_s]).flat_map(u64::to_le_bytes));
    let bits = xxhash_rust::xxh3::xxh3_128(&answer).to_be_bytes();
    std::array::from_fn(|at| b"0123456789abcdef"[usize::from(bits[at / 2] >> (4 * (1 - at % 2)) & 0xf)])
}
