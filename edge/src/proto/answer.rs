//! The answer a stored response gives to one request: whole, a part, 304 or 416. Whether it may answer at
//! all was decided before. Runs on every hit: nothing here allocates once the buffers have grown.
#![forbid(unsafe_code)]

use super::Now;
use super::conditional;
use super::io::{Action, Found, Out};
use super::range::{self, Selected};
use super::request::{Marks, Method};
use super::response::{self, Delimited, Forwarded, Persistence};
use super::stored::{self, Meta};
use std::ops::Range;

/// How the stored response came to be usable, for Cache-Status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// It was there and fresh.
    Hit,
    /// It was stored, or validated, on behalf of this request.
    Fetched { forwarded: Forwarded, revalidated: bool },
}

/// Leaves in `out` the actions that answer `out.request`.
pub(super) fn from_store(
    out: &mut Out,
    found: &Found<'_>,
    meta: &Meta<'_>,
    age_s: u32,
    source: Source,
    persistence: Persistence,
    now: Now,
) {
    let begin = |out: &mut Vec<u8>, status: u16| match source {
        Source::Hit => response::push_hit(out, status, age_s, persistence),
        Source::Fetched { forwarded, revalidated } => {
            response::push_fetched(out, status, age_s, forwarded, revalidated, persistence);
        }
    };
    let start = out.bytes.len();
    if conditional::not_modified(&out.request, meta, found) {
        begin(&mut out.bytes, 304);
        push_validation_fields(&mut out.bytes, found.head);
        out.bytes.extend_from_slice(b"\r\n");
        out.actions.push(Action::Write(start..out.bytes.len()));
        return;
    }
    let complete_bytes = meta.body_bytes();
    let (head, body) = match asked_range(out, meta, found) {
        Selected::Unsatisfiable => {
            begin(&mut out.bytes, 416);
            response::push_date(&mut out.bytes, now.unix_s);
            response::push_content_range(&mut out.bytes, None, complete_bytes);
            response::push_delimited(&mut out.bytes, Delimited::Bytes(0));
            out.bytes.extend_from_slice(b"\r\n");
            out.actions.push(Action::Write(start..out.bytes.len()));
            return;
        }
        Selected::Part(part) => {
            begin(&mut out.bytes, 206);
            response::push_content_range(&mut out.bytes, Some(&part), complete_bytes);
            response::push_delimited(&mut out.bytes, Delimited::Bytes(part.end - part.start));
            (meta.lines_offset().min(found.head.len())..found.head.len(), part)
        }
        Selected::Whole => {
            begin(&mut out.bytes, meta.status());
            (0..found.head.len(), whole_body(out.request.method, meta))
        }
    };
    out.actions.push(Action::Write(start..out.bytes.len()));
    out.actions.push(Action::StoredHead(head));
    if !body.is_empty() {
        out.actions.push(Action::StoredBody(body));
    }
}

/// Range is defined for GET alone (RFC 9110 section 14.2), and judged after the other conditions.
fn asked_range(out: &Out, meta: &Meta<'_>, found: &Found<'_>) -> Selected {
    let request = &out.request;
    if !request.marks.has(Marks::RANGE) || request.method != Method::Get || meta.status() != 200 {
        return Selected::Whole;
    }
    let mut values = request.field_all("range");
    match (values.next(), values.next()) {
        (Some(value), None) if conditional::range_applies(request, meta, found) => {
            range::select(value, meta.body_bytes())
        }
        _ => Selected::Whole,
    }
}

fn whole_body(method: Method, meta: &Meta<'_>) -> Range<u64> {
    let has_body = method == Method::Get && response::may_have_body(meta.status());
    0..if has_body { meta.body_bytes() } else { 0 }
}

/// The fields a 304 must carry if the 200 had them (RFC 9110 section 15.4.5), and no others.
fn push_validation_fields(out: &mut Vec<u8>, head: &[u8]) {
    const NAMES: [&str; 6] = ["cache-control", "content-location", "date", "etag", "expires", "vary"];
    for (name, value) in stored::fields(head) {
        if NAMES.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes())) {
            response::push_line(out, name, value);
        }
    }
}
