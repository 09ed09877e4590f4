//! Cache-Status (RFC 9211): what this cache did with a request, and why. Nothing is decided here.
//!
//! | the answer comes from             | is written                                                        |
//! |-----------------------------------|-------------------------------------------------------------------|
//! | the store, fresh                  | `hit; ttl=SECONDS`                                                |
//! | the store, stale, at once         | `hit; ttl=-SECONDS; detail=RULE`; the rule that allows it         |
//! | the store, the origin having failed | `fwd=stale; fwd-status=STATUS; ttl=-SECONDS; detail=stale-if-error`, STATUS if it answered |
//! | the store, validated              | `fwd=REASON; fwd-status=304; ttl=SECONDS`, `collapsed` if the validation was another request's |
//! | the store, fetched for it         | `fwd=REASON; stored; ttl=SECONDS`                                 |
//! | the origin                        | `fwd=REASON; fwd-status=STATUS`, `stored` or `detail=RULE` that forbids it, `collapsed` |
//! | us, the origin having failed      | `fwd=REASON`                                                      |
#![forbid(unsafe_code)]

use super::answer::{Fetched, Source};
use super::freshness::Storing;
use super::io::FetchKind;
use super::response::{Forwarded, push_number};

impl Forwarded {
    fn word(self) -> &'static [u8] {
        match self {
            Forwarded::Bypass => b"bypass",
            Forwarded::Method => b"method",
            Forwarded::UriMiss => b"uri-miss",
            Forwarded::VaryMiss => b"vary-miss",
            Forwarded::Request => b"request",
            Forwarded::Stale => b"stale",
            Forwarded::Partial => b"partial",
        }
    }
}

/// Of an answer from the store.
#[inline]
pub(super) fn push_stored(out: &mut Vec<u8>, source: Source, age_s: u32, lifetime_s: u32) {
    match source {
        Source::Hit => out.extend_from_slice(b"Cache-Status: edge; hit"),
        Source::Failed { status } => {
            push_forwarded(out, Forwarded::Stale);
            if let Some(status) = status {
                push_status(out, status);
            }
        }
        Source::Stale(_) => out.extend_from_slice(b"Cache-Status: edge; hit"),
        Source::Fetched { forwarded } => {
            push_forwarded(out, forwarded);
            out.extend_from_slice(b"; stored");
        }
        Source::Revalidated { forwarded, collapsed } => {
            push_forwarded(out, forwarded);
            out.extend_from_slice(if collapsed {
                b"; fwd-status=304; collapsed"
            } else {
                b"; fwd-status=304"
            });
        }
    }
    out.extend_from_slice(b"; ttl=");
    if age_s > lifetime_s {
        out.push(b'-');
    }
    push_number(out, u64::from(age_s.abs_diff(lifetime_s)));
    match source {
        Source::Stale(by) => push_detail(out, by.word()),
        Source::Failed { .. } => push_detail(out, b"stale-if-error"),
        Source::Hit | Source::Fetched { .. } | Source::Revalidated { .. } => {}
    }
    out.extend_from_slice(b"\r\n");
}

/// Of a response that comes from the origin.
pub(super) fn push_fetched(out: &mut Vec<u8>, fetched: Fetched, status: u16, storing: Storing) {
    push_forwarded(out, fetched.forwarded);
    // A fill asks without the client's conditions: its 304 is our own judgement of what the origin sent.
    if fetched.kind == FetchKind::Pass || status != 304 {
        push_status(out, status);
    }
    if fetched.kind != FetchKind::Pass {
        match storing {
            Storing::Store => out.extend_from_slice(b"; stored"),
            Storing::No(rule) => push_detail(out, rule.as_bytes()),
        }
    }
    out.extend_from_slice(if fetched.collapsed { b"; collapsed\r\n" } else { b"\r\n" });
}

/// Of an answer of our own; nothing if the origin was not asked.
pub(super) fn push_own(out: &mut Vec<u8>, forwarded: Option<Forwarded>) {
    if let Some(forwarded) = forwarded {
        push_forwarded(out, forwarded);
        out.extend_from_slice(b"\r\n");
    }
}

fn push_status(out: &mut Vec<u8>, status: u16) {
    out.extend_from_slice(b"; fwd-status=");
    push_number(out, u64::from(status));
}

fn push_forwarded(out: &mut Vec<u8>, forwarded: Forwarded) {
    out.extend_from_slice(b"Cache-Status: edge; fwd=");
    out.extend_from_slice(forwarded.word());
}

/// The words are tokens (RFC 9651 section 3.3.4), so they need no quotes.
fn push_detail(out: &mut Vec<u8>, rule: &[u8]) {
    out.extend_from_slice(b"; detail=");
    out.extend_from_slice(rule);
}
