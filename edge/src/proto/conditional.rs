//! Conditions of clients judged against a stored response (RFC 9110 section 13, RFC 9111 section 4.3.2).
//! If-Match and If-Unmodified-Since are the origin's to judge and never come here.
#![forbid(unsafe_code)]

use super::freshness::Facts;
use super::io::Found;
use super::range::{self, Selected};
use super::request::{Marks, Method, RequestHead};
use super::stored::{self, Meta};

const CONDITIONS: Marks = Marks::IF_NONE_MATCH.and(Marks::IF_MODIFIED_SINCE);

/// Whether the client already has this representation: answer 304 (RFC 9110 section 13.2.2).
pub(super) fn not_modified(request: &RequestHead, meta: &Meta<'_>, found: &Found<'_>) -> bool {
    // Most requests have none.
    request.marks.has(CONDITIONS)
        && has_current(request, meta.status(), meta.etag(found.head), meta.last_modified_s())
}

/// As [`not_modified`], of a response with this status and these validators, which is being stored.
pub fn is_current(request: &RequestHead, facts: &Facts, lines: &[u8]) -> bool {
    let etag = stored::fields(lines).find(|(name, _)| name.eq_ignore_ascii_case(b"etag"));
    let etag = etag.map(|(_, value)| value);
    request.marks.has(CONDITIONS) && has_current(request, facts.status, etag, facts.last_modified_s)
}

fn has_current(
    request: &RequestHead,
    status: u16,
    etag: Option<&[u8]>,
    last_modified_s: Option<u64>,
) -> bool {
    // Conditions count only for what would be a success without them (RFC 9110 section 13.2.1).
    if !(200..300).contains(&status) {
        return false;
    }
    if request.marks.has(Marks::IF_NONE_MATCH) {
        // It takes precedence: If-Modified-Since beside it is not looked at.
        return request.field_all("if-none-match").any(|list| lists(list, etag));
    }
    if request.marks.has(Marks::IF_MODIFIED_SINCE) {
        let mut values = request.field_all("if-modified-since");
        if let (Some(value), None) = (values.next(), values.next()) {
            return match (super::parse_date(value), last_modified_s) {
                (Some(since_s), Some(modified_s)) => modified_s <= since_s,
                _ => false,
            };
        }
    }
    false
}

/// What of a stored response with this head a request asks for. Range is defined for GET alone (RFC 9110 section 14.2),
/// and judged after the other conditions (section 13.2.2).
#[inline]
pub fn selected(request: &RequestHead, meta: &Meta<'_>, head: &[u8]) -> Selected {
    if !request.marks.has(Marks::RANGE) || request.method != Method::Get || meta.status() != 200 {
        return Selected::Whole;
    }
    let mut values = request.field_all("range");
    match (values.next(), values.next()) {
        (Some(value), None) if range_applies(request, meta, head) => range::select(value, meta.body_bytes()),
        _ => Selected::Whole,
    }
}

/// Whether Range counts (RFC 9110 section 13.1.5): no If-Range, or one that names this very representation.
fn range_applies(request: &RequestHead, meta: &Meta<'_>, head: &[u8]) -> bool {
    if !request.marks.has(Marks::IF_RANGE) {
        return true;
    }
    let mut values = request.field_all("if-range");
    let (Some(value), None) = (values.next(), values.next()) else {
        return false;
    };
    if value.starts_with(b"\"") || value.starts_with(b"W/") {
        return strong_match(meta.etag(head).unwrap_or(b""), value);
    }
    // A date is a strong validator if it is a second or more older than Date (RFC 9110 section 8.8.2.2).
    match (super::parse_date(value), meta.last_modified_s(), meta.date_s()) {
        (Some(asked_s), Some(modified_s), Some(date_s)) => asked_s == modified_s && modified_s < date_s,
        _ => false,
    }
}

/// Whether an If-None-Match list holds `*` or a tag that weakly matches.
fn lists(list: &[u8], etag: Option<&[u8]>) -> bool {
    if list.trim_ascii() == b"*" {
        return true;
    }
    let Some(etag) = etag else { return false };
    let mut rest = list;
    while let Some(tag) = next_tag(&mut rest) {
        if weak_match(tag, etag) {
            return true;
        }
    }
    false
}

/// Takes the next entity-tag (RFC 9110 section 8.8.3) off a list. What is malformed ends the list.
fn next_tag<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let blanks = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b',')).count();
    let text = rest.get(blanks..)?;
    let open = if text.starts_with(b"W/") { 2 } else { 0 };
    if text.get(open) != Some(&b'"') {
        return None;
    }
    let inner = text.get(open + 1..)?;
    let close = inner.iter().position(|&byte| byte == b'"')?;
    let (tag, after) = text.split_at(open + 1 + close + 1);
    *rest = after;
    Some(tag)
}

/// RFC 9110 section 8.8.3.2, weak comparison.
pub(super) fn weak_match(one: &[u8], other: &[u8]) -> bool {
    let opaque = |tag: &'_ [u8]| tag.strip_prefix(b"W/").map_or(0, |_| 2);
    one[opaque(one)..] == other[opaque(other)..]
}

/// RFC 9110 section 8.8.3.2, strong comparison.
fn strong_match(one: &[u8], other: &[u8]) -> bool {
    one == other && one.starts_with(b"\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags() {
        for (list, etag, want) in [
            ("\"a\"", "\"a\"", true),
            ("\"a\"", "\"b\"", false),
            ("W/\"a\"", "\"a\"", true),
            ("\"a\"", "W/\"a\"", true),
            ("W/\"a\"", "W/\"a\"", true),
            ("\"x\", \"a\"", "\"a\"", true),
            ("\"x\",W/\"a\"", "\"a\"", true),
            (",, \"a\" ,", "\"a\"", true),
            ("\"x,\\\", \"a\"", "\"a\"", true),
            ("\"a, b\"", "\"a, b\"", true),
            ("\"a, b\"", "\"a\"", false),
            ("*", "\"a\"", true),
            (" * ", "\"a\"", true),
            ("\"*\"", "\"a\"", false),
            ("a", "\"a\"", false),
            ("w/\"a\"", "\"a\"", false),
            ("\"a", "\"a\"", false),
            ("", "\"a\"", false),
            ("\"A\"", "\"a\"", false),
        ] {
            assert_eq!(lists(list.as_bytes(), Some(etag.as_bytes())), want, "{list} against {etag}");
        }
        assert!(lists(b"*", None));
        assert!(!lists(b"\"a\"", None));
    }
}
