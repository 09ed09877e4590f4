//! `/why`: what is stored under a URL and what became of what is not, from the store, the purges and what is
//! remembered of fills. Answers in JSON that also reads as text; changes nothing.
#![forbid(unsafe_code)]

use super::Node;
use super::reasons::Reason;
use crate::clock;
use crate::config::Caching;
use crate::proto::freshness;
use crate::proto::generations::Verdict;
use crate::proto::key;
use crate::proto::purge::{self, Class};
use crate::proto::query::{Arguments, Name, Rule};
use crate::proto::request::RequestHead;
use crate::proto::reuse;
use crate::proto::stored::{self, Flags, Meta};
use crate::shard::inspect::Inspected;
use crate::shard::left::Why;
use crate::shard::purge_log::Purge;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use std::time::{Duration, UNIX_EPOCH};

/// Purges shown at most, the last ones.
const PURGES_SHOWN: usize = 10;

/// All that is known of a URL. `None`: it is none that a request could carry.
pub(super) fn explain(node: &Node, url: &str) -> Option<Value> {
    let url_key = key::from_url(url)?;
    let mut keys = node.keys(&url_key);
    let now_s = clock::now().unix_s;
    let (mut purges, mut variants) = (Vec::new(), Vec::new());
    for key in &keys {
        let records = node.writer().inspect(key::hash(key), key);
        let metas: Vec<&[u8]> = records.iter().map(|record| &*record.meta).collect();
        purges.extend(node.purges.naming(key, &metas));
        variants.extend(records.iter().filter_map(|record| Variant::new(node, key, record, now_s)));
    }
    purges.sort_by_key(|purge| purge.sequence);
    purges.dedup_by_key(|purge| purge.sequence);
    // That of a request without fields.
    let key = keys.pop()?;
    let hash = key::hash(&key);
    let (state, because) = match variants.iter().map(|variant| variant.state).max() {
        Some(state) => (state.word(), state.sentence(&purges)),
        None => absent(node, hash, &purges),
    };
    Some(json!({
        "url": url,
        "key": String::from_utf8_lossy(&key),
        "hash": format!("{hash:016x}"),
        "keys_by_field": keys.iter().map(|key| String::from_utf8_lossy(key)).collect::<Vec<_>>(),
        "state": state,
        "because": because,
        "route": route(node, &url_key),
        "being_filled": node.fills.runs(&key),
        "variants": variants.into_iter().map(|variant| variant.shown).collect::<Vec<_>>(),
        "purges": purges.iter().rev().take(PURGES_SHOWN).map(shown_purge).collect::<Vec<_>>(),
    }))
}

/// How a stored variant stands; the best of several counts for the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Purged,
    PurgedSoftly,
    Stale,
    Fresh,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            State::Purged => "purged",
            State::PurgedSoftly => "stale by a soft purge",
            State::Stale => "stale",
            State::Fresh => "fresh",
        }
    }

    fn sentence(self, purges: &[Purge]) -> String {
        let by = |soft| purges.iter().rev().find(|purge| purge.soft == soft).map_or(String::new(), named);
        match self {
            State::Purged => format!("it was purged{}; the next request fetches it again", by(false)),
            State::PurgedSoftly => {
                format!("it was purged softly{}; the next request has it validated", by(true))
            }
            State::Stale => "its time is over; the next request has it validated, or fetched again".into(),
            State::Fresh => "it is served from the store".into(),
        }
    }
}

struct Variant {
    state: State,
    shown: Value,
}

impl Variant {
    /// `None`: its meta bytes cannot be read, so nothing ever uses it.
    fn new(node: &Node, key: &[u8], record: &Inspected, now_s: u64) -> Option<Self> {
        let meta = Meta::read(&record.meta)?;
        let age_s = reuse::current_age(&meta, now_s);
        let state = match node.purges.judge_record(key, &record.meta) {
            Verdict::Gone => State::Purged,
            Verdict::Stale => State::PurgedSoftly,
            Verdict::Valid if age_s >= meta.lifetime_s() || meta.flags().has(Flags::NO_CACHE) => State::Stale,
            Verdict::Valid => State::Fresh,
        };
        let fresh_until_s =
            meta.response_s() + u64::from(meta.lifetime_s().saturating_sub(meta.initial_age_s()));
        let vary: Vec<String> = meta
            .vary()
            .flatten()
            .map(|(name, value)| match value {
                Some(value) => format!("{name}: {}", String::from_utf8_lossy(value)),
                None => format!("without {name}"),
            })
            .collect();
        let shown = json!({
            "state": state.word(),
            "status": meta.status(),
            "vary": vary,
            "stored": date(meta.response_s()),
            "age_s": age_s,
            "lifetime_s": meta.lifetime_s(),
            "lifetime_from": meta.basis().word(),
            "fresh_until": date(fresh_until_s),
            "validator": meta.has_validator(),
            "always_validated": meta.flags().has(Flags::NO_CACHE),
            "fields_left_out": left_out(&record.head),
            "tags": tags(&record.head),
            "object_bytes": record.object_bytes,
            "chunked": record.chunked,
            "shard": record.shard,
            "segment": record.segment,
            "frequency": record.frequency,
        });
        Some(Variant { state, shown })
    }
}

/// The fields that its origin keeps from being stored.
fn left_out(head: &[u8]) -> Vec<String> {
    let field =
        |(name, value)| Some((HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?));
    let mut fields = HeaderMap::new();
    for (name, value) in stored::fields(head).filter_map(field) {
        fields.append(name, value);
    }
    freshness::unstored(&fields).iter().map(|name| name.as_str().to_owned()).collect()
}

fn tags(head: &[u8]) -> Vec<String> {
    let mut tags = Vec::new();
    for (name, value) in stored::fields(head) {
        let separates: fn(char) -> bool = if name.eq_ignore_ascii_case(b"surrogate-key") {
            |c| c.is_ascii_whitespace()
        } else if name.eq_ignore_ascii_case(b"cache-tag") {
            |c| c == ','
        } else {
            continue;
        };
        let text = String::from_utf8_lossy(value).into_owned();
        let parts = text.split(separates).map(|tag| tag.trim().to_owned());
        tags.extend(parts.filter(|tag| !tag.is_empty()));
    }
    tags
}

/// What became of a key of which nothing is stored: the last thing that is remembered.
fn absent(node: &Node, hash: u64, purges: &[Purge]) -> (&'static str, String) {
    let purged = purges.iter().rev().find(|purge| purge.subject.class == Class::Url && !purge.soft);
    let purged = purged.map(|purge| (purge.unix_s, "purged", format!("it was purged{}", named(purge))));
    let left = node.writer().left(hash).map(|left| {
        let why = match left.why {
            Why::Reclaimed => "its segment was the oldest when room was needed: the store is full",
            Why::IndexFull => "a newer object needed its place in the index: the index is full",
            Why::ChunkLost => "a part of it was in a segment that had to go",
        };
        (left.unix_s, "evicted", format!("{why}, {}", date(left.unix_s)))
    });
    let reason = node.reasons.borrow().get(hash).map(|(reason, unix_s)| {
        let (state, because) = not_stored(reason);
        (unix_s, state, format!("{because}, {}", date(unix_s)))
    });
    let last = [purged, left, reason].into_iter().flatten().max_by_key(|(unix_s, ..)| *unix_s);
    last.map_or_else(
        || ("never seen", "no request for it is remembered".to_owned()),
        |(_, state, because)| (state, because),
    )
}

/// What a reason is called, and what it says.
fn not_stored(reason: Reason) -> (&'static str, String) {
    match reason {
        Reason::Uncacheable(rule) => ("uncacheable", format!("{}: {rule}", forbids(rule))),
        Reason::NoRoom => ("not stored", "it was served, and the store had no room for it".into()),
        Reason::Overtaken => ("purged", "it was purged or changed while it was on its way".into()),
        Reason::Broken => ("not stored", "the origin's response broke off".into()),
        Reason::Failed(status) => ("not stored", format!("the origin gave no response, answered {status}")),
        Reason::Invalidated => {
            ("invalidated", "a request with an unsafe method to the same URL succeeded".into())
        }
    }
}

/// Where to look for what forbids storing.
fn forbids(rule: &str) -> &'static str {
    match rule {
        "no-store" | "private" | "must-understand" => "Cache-Control of the response forbids storing",
        "request-no-store" => "Cache-Control of the request forbids storing",
        "authorization" => "the request carries Authorization, and the response does not allow sharing",
        "vary-forwarded" => {
            "Vary of the response names what origins are told of clients, such as X-Forwarded-For"
        }
        "vary-star" | "vary-too-long" => "Vary of the response lets nothing be reused",
        "no-freshness" => "the response has neither a lifetime (Cache-Control, Expires) nor a validator",
        "status" | "method" => "such responses are not stored without an explicit lifetime, or not at all",
        "too-large" => "it is larger than one object may be in this store",
        _ => "a rule forbids storing",
    }
}

/// The route a plain GET of this key takes.
fn route(node: &Node, key: &[u8]) -> Value {
    let text = String::from_utf8_lossy(key);
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let mut request = RequestHead::default();
    let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let parsed = request.parse(head.as_bytes()).is_ok_and(|taken| taken.is_some());
    let (config, routes) = (node.config.borrow(), node.routes.borrow());
    let found = parsed.then(|| routes.find(&request)).flatten();
    match found {
        Some(routed) => {
            json!({
                "origin": config.origins[routed.origin].name,
                "also_depends_on": routed.fields,
                "rules": rules(routed.caching),
            })
        }
        None => json!(null),
    }
}

/// What the operator rules, under the names the configuration has for it.
fn rules(caching: &Caching) -> Value {
    let mut rules = serde_json::Map::new();
    let seconds = [
        ("ttl", caching.ttl_s),
        ("ttl_override", caching.ttl_override_s),
        ("stale_max", caching.stale_max_s),
    ];
    for (name, seconds) in seconds {
        rules.extend(seconds.map(|seconds| (name.to_owned(), json!(format!("{seconds}s")))));
    }
    let query = caching.query.as_deref();
    let flags = [
        ("strip_cookie", caching.strip_cookie),
        ("strip_set_cookie", caching.strip_set_cookie),
        ("query_sort", query.is_some_and(Rule::sorts)),
    ];
    rules.extend(flags.into_iter().filter(|(_, set)| *set).map(|(name, set)| (name.to_owned(), set.into())));
    let names = |names: &[Name]| names.iter().map(Name::to_string).collect::<Vec<_>>();
    match query.map(Rule::counted) {
        Some(Arguments::Ignoring(ignored)) => rules.extend([("query_ignore".into(), names(ignored).into())]),
        Some(Arguments::Only(counted)) => rules.extend([("query_only".into(), names(counted).into())]),
        Some(Arguments::All) | None => {}
    }
    rules.into()
}

fn shown_purge(purge: &Purge) -> Value {
    json!({
        "name": purge.subject.class.name(),
        "value": value(purge),
        "soft": purge.soft,
        "at": date(purge.unix_s),
        "sequence": purge.sequence,
    })
}

/// ` by tag news, Sun, …`.
fn named(purge: &Purge) -> String {
    format!(" by {} {}, {}", purge.subject.class.name(), value(purge), date(purge.unix_s))
}

/// What a purge names, without what only tells rules for queries apart.
fn value(purge: &Purge) -> String {
    let text = String::from_utf8_lossy(&purge.subject.bytes);
    match purge.subject.class {
        Class::Url => text.split('#').next().unwrap_or_default().to_owned(),
        _ => text.into_owned(),
    }
}

fn date(unix_s: u64) -> String {
    // HTTP dates end with the year 9999.
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(unix_s.min(253_402_300_799)))
}

/// Whether a purge names a key, or one of the tags of its records.
pub(super) fn names(purge: &Purge, key: &[u8], metas: &[&[u8]]) -> bool {
    let subject = &purge.subject;
    match subject.class {
        Class::Url => subject.bytes == key,
        Class::Prefix => key.starts_with(&subject.bytes),
        Class::Host => subject.bytes == key::host_of(key),
        Class::Tag => {
            let tag = purge::hash(Class::Tag, &subject.bytes);
            metas.iter().filter_map(|meta| Meta::read(meta)).any(|meta| meta.tags().has(tag))
        }
    }
}

/// The value of `url` in a query, percent-decoded.
pub(super) fn asked_url(query: &str) -> Option<String> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("url="))?;
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (digits, after) = rest.split_first_chunk::<2>()?;
        bytes.push(u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_in_a_query() {
        for (query, want) in [
            ("url=http://a/b", Some("http://a/b")),
            ("x=1&url=http%3A%2F%2fa%2F%3Fx%3D1%26y", Some("http://a/?x=1&y")),
            ("url=http://a/%252e", Some("http://a/%2e")),
            ("url=%", None),
            ("url=%zz", None),
            ("url=%ff", None),
            ("uri=x", None),
            ("", None),
        ] {
            assert_eq!(asked_url(query).as_deref(), want, "{query}");
        }
    }

    #[test]
    fn tags_are_shown_as_they_were_sent() {
        let head = b"content-length: 1\r\nSurrogate-Key: A b\r\nCache-Tag: new york, ,c\r\nOther: d\r\n\r\n";
        assert_eq!(tags(head), ["A", "b", "new york", "c"]);
    }
}
