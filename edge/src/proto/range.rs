//! Which parts of a stored body a Range field asks for (RFC 9110 section 14). Byte ranges of complete
//! representations only; whether Range applies at all (If-Range) is judged in `conditional`.
//!
//! The reasoning: a set that is malformed, of another unit, or of more than `RANGES_MAX` ranges is ignored, as
//! section 14.2 allows, and the whole is sent. Ranges beyond the end are left out; if none remains the answer is
//! 416. What overlaps, or lies closer together than the head of a part is long, becomes one part (section 15.3.7.2),
//! so an answer is never longer than the whole and the heads of its parts. Parts come in the order they were asked for.
#![forbid(unsafe_code)]

use super::framing::decimal;
use crate::limits::{RANGES_GAP_BYTES, RANGES_MAX};
use std::ops::Range;

/// What to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selected {
    /// All of it: the field is to be ignored.
    Whole,
    /// These bytes; never empty.
    Part(Range<u64>),
    /// Several parts, two at least, none empty, none touching another.
    Parts(Vec<Range<u64>>),
    /// None of it: 416.
    Unsatisfiable,
}

/// One range as it is asked for (RFC 9110 section 14.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spec {
    /// From the first byte to the last, both included.
    Closed(u64, u64),
    /// From the first byte to the end.
    Open(u64),
    /// So many bytes at the end.
    Suffix(u64),
}

impl Spec {
    fn read(text: &str) -> Option<Spec> {
        Some(match text.split_once('-')? {
            ("", suffix) => Spec::Suffix(number(suffix)?),
            (first, "") => Spec::Open(number(first)?),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                if first > last {
                    return None;
                }
                Spec::Closed(first, last)
            }
        })
    }

    /// The bytes it stands for in a body of `bytes`; may be empty.
    pub fn of(self, bytes: u64) -> Range<u64> {
        match self {
            Spec::Closed(first, last) => first.min(bytes)..last.saturating_add(1).min(bytes),
            Spec::Open(first) => first.min(bytes)..bytes,
            Spec::Suffix(suffix) => bytes.saturating_sub(suffix)..bytes,
        }
    }
}

/// The ranges of a Range field's value; `None`: it is not to be understood, or there are too many.
fn specs(value: &[u8]) -> Option<impl Iterator<Item = Spec>> {
    let (unit, set) = str::from_utf8(value).ok()?.split_once('=')?;
    // A list may hold empty members (RFC 9110 section 5.6.1).
    let members = set.split(',').map(|spec| spec.trim_matches([' ', '\t'])).filter(|spec| !spec.is_empty());
    let good = unit.eq_ignore_ascii_case("bytes")
        && members.clone().all(|spec| Spec::read(spec).is_some())
        && (1..=RANGES_MAX).contains(&members.clone().take(RANGES_MAX + 1).count());
    good.then(|| members.filter_map(Spec::read))
}

/// The only range of a Range field's value; `None` if it is none, or several.
pub fn single(value: &[u8]) -> Option<Spec> {
    let mut specs = specs(value)?;
    let first = specs.next();
    if specs.next().is_some() { None } else { first }
}

/// Reads the value of a Range field for a body of `bytes`.
pub fn select(value: &[u8], bytes: u64) -> Selected {
    let Some(specs) = specs(value) else { return Selected::Whole };
    let mut ranges = specs.map(|spec| spec.of(bytes)).filter(|range| !range.is_empty());
    match (ranges.next(), ranges.next()) {
        (None, _) => Selected::Unsatisfiable,
        (Some(part), None) => Selected::Part(part),
        (Some(first), Some(second)) => several([first, second].into_iter().chain(ranges)),
    }
}

/// Joins what overlaps or lies close together; keeps the order of the first member of each.
fn several(ranges: impl Iterator<Item = Range<u64>>) -> Selected {
    let mut ordered: Vec<(usize, Range<u64>)> = ranges.enumerate().collect();
    ordered.sort_unstable_by_key(|(asked, range)| (range.start, *asked));
    let mut joined: Vec<(usize, Range<u64>)> = Vec::with_capacity(ordered.len());
    for (asked, range) in ordered {
        match joined.last_mut() {
            Some((first, last)) if range.start <= last.end.saturating_add(RANGES_GAP_BYTES) => {
                last.end = last.end.max(range.end);
                *first = asked.min(*first);
            }
            _ => joined.push((asked, range)),
        }
    }
    joined.sort_unstable_by_key(|(asked, _)| *asked);
    let mut parts: Vec<Range<u64>> = joined.into_iter().map(|(_, range)| range).collect();
    match parts.pop() {
        Some(only) if parts.is_empty() => Selected::Part(only),
        last => {
            parts.extend(last);
            Selected::Parts(parts)
        }
    }
}

/// Digits; what exceeds u64 is beyond any body.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| decimal(text.as_bytes()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::Selected::{Part, Parts, Unsatisfiable, Whole};
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
            ("bytes=1-2,4-5", 10, Part(1..6)),
            ("bytes=4-5 , 1-2", 10, Part(1..6)),
            ("bytes=0-0,-1", 1000, Parts(vec![0..1, 999..1000])),
            ("bytes=-1,0-0", 1000, Parts(vec![999..1000, 0..1])),
            ("bytes=0-9,500-,2000-3000", 1000, Parts(vec![0..10, 500..1000])),
            ("bytes=0-9,500-599,5-20", 1000, Parts(vec![0..21, 500..600])),
            ("bytes=500-599,0-9,590-700", 1000, Parts(vec![500..701, 0..10])),
            ("bytes=0-9,138-140", 1000, Part(0..141)),
            ("bytes=0-9,139-140", 1000, Parts(vec![0..10, 139..141])),
            ("bytes=0-,0-,0-", 1000, Part(0..1000)),
            ("bytes=0-499,-500", 1000, Part(0..1000)),
            ("bytes=1000-,1001-", 1000, Unsatisfiable),
            ("bytes=-0,0-0", 1000, Part(0..1)),
            ("bytes=0-0,x", 1000, Whole),
            ("bytes=0-0,9-8", 1000, Whole),
            ("bytes=0-0;9-", 1000, Whole),
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

    #[test]
    fn a_set_of_too_many_is_ignored() {
        let set = |count: usize| {
            let specs: Vec<String> = (0..count).map(|i| format!("{0}-{0}", i * 1000)).collect();
            format!("bytes={}", specs.join(","))
        };
        let Parts(parts) = select(set(RANGES_MAX).as_bytes(), 1 << 20) else {
            panic!("that many are served")
        };
        assert_eq!(parts.len(), RANGES_MAX);
        assert_eq!(select(set(RANGES_MAX + 1).as_bytes(), 1 << 20), Whole);
    }

    #[test]
    fn one_range_and_no_more() {
        assert_eq!(single(b"bytes=2-9"), Some(Spec::Closed(2, 9)));
        assert_eq!(single(b"bytes=,2-"), Some(Spec::Open(2)));
        assert_eq!(single(b"bytes=-7"), Some(Spec::Suffix(7)));
        assert_eq!(single(b"bytes=1-1,5-5"), None);
        assert_eq!(single(b"items=1-1"), None);
    }

    proptest! {
        #[test]
        fn parts_are_what_was_asked_for_and_no_more_than_the_gaps(
            asked in prop::collection::vec((0u64..3000, 0u64..400), 1..8),
            bytes in 0u64..3000,
        ) {
            let specs: Vec<String> = asked.iter().map(|(at, more)| format!("{at}-{}", at + more)).collect();
            let value = format!("bytes={}", specs.join(","));
            let parts = match select(value.as_bytes(), bytes) {
                Whole => return Err(TestCaseError::fail("a good set")),
                Unsatisfiable => vec![],
                Part(part) => vec![part],
                Parts(parts) => { prop_assert!(parts.len() > 1); parts }
            };
            let wanted = |byte: u64| asked.iter().any(|(at, more)| (*at..=at + more).contains(&byte));
            for byte in 0..bytes {
                let sent = parts.iter().filter(|part| part.contains(&byte)).count();
                prop_assert!(sent <= 1, "byte {byte} once at most");
                prop_assert!(sent == 1 || !wanted(byte), "byte {byte} was asked for");
            }
            for part in &parts {
                prop_assert!(part.start < part.end && part.end <= bytes);
                prop_assert!(wanted(part.start) && wanted(part.end - 1), "nothing is added at the ends");
            }
        }

        #[test]
        fn any_value_is_no_panic(value in "bytes=[0-9,-]{0,24}", bytes in 0u64..2000) {
            if let Part(part) = select(value.as_bytes(), bytes) {
                prop_assert!(part.start < part.end && part.end <= bytes);
            }
        }
    }
}
