//! Which part of a stored body a Range field asks for (RFC 9110 section 14). Byte ranges of complete
//! stored responses only; whether Range applies at all (If-Range) is judged in `conditional`.
#![forbid(unsafe_code)]

use super::framing::decimal;
use std::ops::Range;

/// What to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selected {
    /// All of it: another unit, a malformed set, or more than one range. A server may ignore Range
    /// (RFC 9110 section 14.2), and several ranges are not worth a multipart body.
    Whole,
    /// These bytes; never empty.
    Part(Range<u64>),
    /// None of it: 416.
    Unsatisfiable,
}

/// Reads the value of a Range field for a body of `bytes`.
pub fn select(value: &[u8], bytes: u64) -> Selected {
    let Some(("bytes", set)) = str::from_utf8(value)
        .ok()
        .and_then(|text| text.split_once('='))
        .map(|(unit, set)| (if unit.eq_ignore_ascii_case("bytes") { "bytes" } else { unit }, set))
    else {
        return Selected::Whole;
    };
    // A list may hold empty members (RFC 9110 section 5.6.1).
    let mut specs = set.split(',').map(|spec| spec.trim_matches([' ', '\t'])).filter(|spec| !spec.is_empty());
    let (Some(spec), None) = (specs.next(), specs.next()) else {
        return Selected::Whole;
    };
    let Some((first, last)) = spec.split_once('-') else {
        return Selected::Whole;
    };
    match (first, last) {
        ("", suffix) => match number(suffix) {
            None => Selected::Whole,
            Some(suffix) => part(bytes.saturating_sub(suffix), bytes, bytes),
        },
        (first, "") => match number(first) {
            None => Selected::Whole,
            Some(first) => part(first, bytes, bytes),
        },
        (first, last) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => part(first, last.saturating_add(1), bytes),
            _ => Selected::Whole,
        },
    }
}

fn part(start: u64, end: u64, bytes: u64) -> Selected {
    let end = end.min(bytes);
    if start < end { Selected::Part(start..end) } else { Selected::Unsatisfiable }
}

/// Digits; what exceeds u64 is beyond any body.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| decimal(text.as_bytes()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::Selected::{Part, Unsatisfiable, Whole};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges() {
        for (value, bytes, want) in [
            ("bytes=0-0", 10, Part(0..1)),
            ("bytes=0-9", 10, Part(0..10)),
            ("bytes=0-10", 10, Part(0..10)),
            ("bytes=0-99999999999999999999999", 10, Part(0..10)),
            ("bytes=0-18446744073709551615", 10, Part(0..10)),
            ("bytes=3-", 10, Part(3..10)),
            ("bytes=9-", 10, Part(9..10)),
            ("bytes=10-", 10, Unsatisfiable),
            ("bytes=10-11", 10, Unsatisfiable),
            ("bytes=99999999999999999999999-", 10, Unsatisfiable),
            ("bytes=-1", 10, Part(9..10)),
            ("bytes=-10", 10, Part(0..10)),
            ("bytes=-11", 10, Part(0..10)),
            ("bytes=-99999999999999999999999", 10, Part(0..10)),
            ("bytes=-0", 10, Unsatisfiable),
            ("bytes=0-", 0, Unsatisfiable),
            ("bytes=-1", 0, Unsatisfiable),
            ("BYTES=1-2", 10, Part(1..3)),
            ("bytes= 1-2 ", 10, Part(1..3)),
            ("bytes=,1-2,", 10, Part(1..3)),
            ("bytes=1-2,4-5", 10, Whole),
            ("bytes=2-1", 10, Whole),
            ("bytes=", 10, Whole),
            ("bytes=-", 10, Whole),
            ("bytes=1", 10, Whole),
            ("bytes=a-b", 10, Whole),
            ("bytes=1-b", 10, Whole),
            ("bytes=+1-2", 10, Whole),
            ("bytes=1--2", 10, Whole),
            ("bytes=--1", 10, Whole),
            ("bytes=1 -2", 10, Whole),
            ("bytes 1-2", 10, Whole),
            ("bytes =1-2", 10, Whole),
            ("items=1-2", 10, Whole),
            ("", 10, Whole),
        ] {
            assert_eq!(select(value.as_bytes(), bytes), want, "{value} of {bytes}");
        }
        assert_eq!(select(b"bytes=\xff-", 10), Whole);
    }

    proptest! {
        #[test]
        fn a_part_lies_inside(value in "bytes=[0-9,-]{0,12}", bytes in 0u64..2000) {
            if let Part(part) = select(value.as_bytes(), bytes) {
                prop_assert!(part.start < part.end && part.end <= bytes);
            }
        }
    }
}
