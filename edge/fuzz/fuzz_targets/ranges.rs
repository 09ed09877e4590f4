//! Ranges: no bytes of a client or an origin panic, and what is sent is what was asked for, once.
#![no_main]

use edge::proto::partial::{self, Validator};
use edge::proto::range::{self, Selected};
use http::header::{CONTENT_RANGE, HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u64, &[u8])| {
    let (bytes, value) = input;
    let parts = match range::select(value, bytes) {
        Selected::Whole | Selected::Unsatisfiable => Vec::new(),
        Selected::Part(part) => vec![part],
        Selected::Parts(parts) => parts,
    };
    for (i, part) in parts.iter().enumerate() {
        assert!(part.start < part.end && part.end <= bytes);
        assert!(parts[..i].iter().all(|other| other.end < part.start || part.end < other.start));
    }
    if let Some((_, start)) = range::single(value).and_then(partial::aligned) {
        assert!(parts.first().is_none_or(|part| start <= part.start));
    }
    let _ = Validator::of_lines(value);
    if let Ok(value) = HeaderValue::from_bytes(value) {
        let mut fields = HeaderMap::new();
        fields.insert(CONTENT_RANGE, value);
        if let Some(range) = partial::content_range(&fields) {
            assert!(range.part.start < range.part.end);
            assert!(range.complete_bytes.is_none_or(|complete| range.part.end <= complete));
        }
    }
});
