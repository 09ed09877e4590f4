//! Validation at the origin (RFC 9111 section 4.3): which condition to ask with, and what a 304 changes
//! in the stored response. Conditions of clients are judged in `conditional`.
#![forbid(unsafe_code)]

use super::freshness::{self, Exchange, Facts, Policy, Storing};
use super::request::RequestHead;
use super::response::{self, HeadError};
use super::stored::{self, Flags, Meta};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Leaves out a request's conditions and range: what it asks for then is the whole, current representation.
pub fn unconditional(fields: &mut HeaderMap) {
    for name in [
        header::IF_NONE_MATCH,
        header::IF_MODIFIED_SINCE,
        header::IF_MATCH,
        header::IF_UNMODIFIED_SINCE,
        header::IF_RANGE,
        header::RANGE,
    ] {
        fields.remove(name);
    }
}

/// Puts If-None-Match and If-Modified-Since for a stored response into a request to the origin, replacing
/// what conditions it had. `false`: the response has no validator, the request is left without conditions.
pub fn condition(meta: &[u8], head: &[u8], fields: &mut HeaderMap) -> bool {
    unconditional(fields);
    let Some(meta) = Meta::read(meta) else { return false };
    let etag = meta.etag(head).and_then(|etag| HeaderValue::from_bytes(etag).ok());
    let modified = meta.last_modified_s().and_then(|_| {
        let (_, value) =
            stored::fields(head).find(|(name, _)| name.eq_ignore_ascii_case(b"last-modified"))?;
        HeaderValue::from_bytes(value).ok()
    });
    let any = etag.is_some() || modified.is_some();
    if let Some(etag) = etag {
        fields.insert(header::IF_NONE_MATCH, etag);
    }
    if let Some(modified) = modified {
        fields.insert(header::IF_MODIFIED_SINCE, modified);
    }
    any
}

/// A stored response after a 304.
#[derive(Clone, Debug)]
pub struct Freshened {
    /// The new stored head.
    pub head: Vec<u8>,
    /// The new meta bytes.
    pub meta: Vec<u8>,
    /// [`Storing::No`]: the 304 forbids further storing. The new meta then answers the requests that wait for
    /// this validation and is validated each time after; better remove the record once they are answered.
    pub storing: Storing,
}

/// Why a 304 could not be used: ask again without conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The stored bytes cannot be read.
    #[error("the stored response cannot be read")]
    Stored,
    /// The 304 is about another representation (RFC 9111 section 4.3.4).
    #[error("the 304 has another validator than the stored response")]
    OtherValidator,
    /// The updated head is too large or malformed.
    #[error("the updated head is unusable: {0}")]
    Head(HeadError),
}

/// Updates a stored response by the fields of a 304 (RFC 9111 sections 3.2 and 4.3.4). `request` is the one
/// that was asked with.
pub fn freshen(
    meta: &[u8],
    head: &[u8],
    request: &RequestHead,
    update: &HeaderMap,
    exchange: Exchange,
    policy: &Policy,
) -> Result<Freshened, Unusable> {
    let old = Meta::read(meta).ok_or(Unusable::Stored)?;
    if !same_representation(&old, head, update) {
        return Err(Unusable::OtherValidator);
    }
    updated(&old, head, request, update, exchange, policy)
}

/// Updates a stored response by the fields of a 200 that answers a HEAD (RFC 9111 section 4.3.5). The error
/// [`Unusable::OtherValidator`]: the HEAD shows that what is stored is outdated.
pub fn freshen_by_head(
    meta: &[u8],
    head: &[u8],
    request: &RequestHead,
    update: &HeaderMap,
    exchange: Exchange,
    policy: &Policy,
) -> Result<Freshened, Unusable> {
    let old = Meta::read(meta).ok_or(Unusable::Stored)?;
    let length = update.get(header::CONTENT_LENGTH).map(|value| super::framing::decimal(value.as_bytes()));
    let same_length = length.is_none_or(|length| length == Some(old.body_bytes()));
    let same_tag = update.get(header::ETAG).map(HeaderValue::as_bytes) == old.etag(head);
    let modified_s = update.get(header::LAST_MODIFIED).and_then(|value| super::parse_date(value.as_bytes()));
    if old.status() != 200 || !same_length || !same_tag || modified_s != old.last_modified_s() {
        return Err(Unusable::OtherValidator);
    }
    updated(&old, head, request, update, exchange, policy)
}

fn updated(
    old: &Meta<'_>,
    head: &[u8],
    request: &RequestHead,
    update: &HeaderMap,
    exchange: Exchange,
    policy: &Policy,
) -> Result<Freshened, Unusable> {
    let mut fields = merged(head, update).ok_or(Unusable::Stored)?;
    let (storing, facts) = freshness::decide_update(request, old.status(), &fields, exchange, policy);
    let facts = match storing {
        Storing::Store => facts,
        Storing::No(_) => Facts { lifetime_s: 0, flags: facts.flags.with(Flags::NO_CACHE, true), ..facts },
    };
    for name in &facts.unstored {
        fields.remove(name);
    }
    let cleaned = response::OriginHead::from_origin(old.status(), &fields, storing, exchange.response_s)
        .map_err(Unusable::Head)?;
    let head = stored::head(old.status(), old.body_bytes(), &cleaned.lines);
    let meta = stored::encode(&facts, request, &head, old.body_bytes());
    Ok(Freshened { head, meta, storing })
}

/// RFC 9111 section 4.3.4: the validator of the 304, if it has one, must be the stored one.
fn same_representation(old: &Meta<'_>, head: &[u8], update: &HeaderMap) -> bool {
    if let Some(etag) = update.get(header::ETAG) {
        return old.etag(head).is_some_and(|stored| super::conditional::weak_match(stored, etag.as_bytes()));
    }
    match update.get(header::LAST_MODIFIED).and_then(|value| super::parse_date(value.as_bytes())) {
        Some(modified_s) if old.etag(head).is_none() => old.last_modified_s() == Some(modified_s),
        _ => true,
    }
}

/// The stored fields, each replaced by those of the same name in the 304.
fn merged(head: &[u8], update: &HeaderMap) -> Option<HeaderMap> {
    // What describes the stored bytes stays (RFC 9111 section 3.2); Age belongs to the old exchange.
    let keeps = |name: &HeaderName| {
        *name == header::CONTENT_LENGTH || *name == header::CONTENT_ENCODING || *name == header::CONTENT_RANGE
    };
    let mut fields = HeaderMap::new();
    for (name, value) in stored::fields(head) {
        let name = HeaderName::from_bytes(name).ok()?;
        // A 304 without Date was made now; the old Date would make it look old.
        if name == header::DATE {
            continue;
        }
        if keeps(&name) || !update.contains_key(&name) {
            fields.append(name, HeaderValue::from_bytes(value).ok()?);
        }
    }
    for (name, value) in update {
        if !keeps(name) {
            fields.append(name.clone(), value.clone());
        }
    }
    Some(fields)
}

#[cfg(test)]
mod tests {
    use super::super::reuse;
    use super::*;

    const NOW_S: u64 = 1_700_000_000;
    const LATER: Exchange = Exchange { request_s: NOW_S + 100, response_s: NOW_S + 100, purges: 0 };

    fn headers(lines: &[&str]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap();
            fields.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        fields
    }

    fn request() -> RequestHead {
        let mut head = RequestHead::default();
        head.parse(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().unwrap();
        head
    }

    fn stored(lines: &[&str]) -> (Vec<u8>, Vec<u8>) {
        let (fields, exchange) =
            (headers(lines), Exchange { request_s: NOW_S, response_s: NOW_S, purges: 0 });
        let (storing, facts) = freshness::decide(&request(), 200, &fields, exchange, &Policy::default());
        let origin = response::OriginHead::from_origin(200, &fields, storing, NOW_S).unwrap();
        let head = stored::head(200, 10, &origin.lines);
        (stored::encode(&facts, &request(), &head, 10), head)
    }

    const OLD: [&str; 6] = [
        "Date: Tue, 14 Nov 2023 22:13:20 GMT",
        "ETag: \"v1\"",
        "Last-Modified: Tue, 14 Nov 2023 20:00:00 GMT",
        "Content-Encoding: gzip",
        "X-A: 1",
        "X-B: 1",
    ];

    #[test]
    fn conditions_for_the_origin() {
        let (meta, head) = stored(&OLD);
        let mut fields =
            headers(&["If-Match: \"z\"", "If-None-Match: \"client\"", "Range: bytes=0-1", "X-C: 1"]);
        assert!(condition(&meta, &head, &mut fields));
        assert_eq!(fields["if-none-match"], "\"v1\"");
        assert_eq!(fields["if-modified-since"], "Tue, 14 Nov 2023 20:00:00 GMT");
        assert_eq!(fields.len(), 3, "those of the client are gone, but for X-C");

        let (meta, head) = stored(&["Cache-Control: max-age=1"]);
        assert!(!condition(&meta, &head, &mut HeaderMap::new()));
        assert!(!condition(b"nonsense", b"", &mut HeaderMap::new()));
    }

    #[test]
    fn a_304_updates_the_stored_head() {
        let (meta, head) = stored(&OLD);
        let update = headers(&[
            "Date: Tue, 14 Nov 2023 22:15:00 GMT",
            "ETag: \"v1\"",
            "Cache-Control: max-age=60",
            "Content-Length: 0",
            "Content-Encoding: br",
            "X-A: 2",
            "X-A: 3",
            "Connection: X-Hop",
            "X-Hop: 1",
            "Age: 7",
        ]);
        let new = freshen(&meta, &head, &request(), &update, LATER, &Policy::default()).unwrap();
        assert_eq!(new.storing, Storing::Store);
        let lines: Vec<String> = stored::fields(&new.head)
            .map(|(name, value)| format!("{}: {}", name.escape_ascii(), value.escape_ascii()))
            .collect();
        for line in [
            "content-length: 10",
            "date: Tue, 14 Nov 2023 22:15:00 GMT",
            "content-encoding: gzip",
            "cache-control: max-age=60",
            "x-a: 2",
            "x-a: 3",
            "x-b: 1",
        ] {
            assert!(lines.iter().any(|have| have == line), "{line} in {lines:?}");
        }
        assert_eq!(lines.len(), 9, "{lines:?}");
        let meta = Meta::read(&new.meta).unwrap();
        assert_eq!((meta.status(), meta.body_bytes()), (200, 10));
        assert_eq!((meta.lifetime_s(), meta.initial_age_s(), meta.response_s()), (60, 7, NOW_S + 100));
        assert_eq!(meta.etag(&new.head), Some(&b"\"v1\""[..]));
    }

    #[test]
    fn which_304_fits() {
        for (old, update, fits) in [
            (&OLD[..], &["ETag: \"v1\""][..], true),
            (&OLD, &["ETag: W/\"v1\""], true),
            (&OLD, &[], true),
            (&OLD, &["ETag: \"v2\""], false),
            (&OLD[2..3], &["ETag: \"v1\""], false),
            (&OLD[2..3], &["Last-Modified: Tue, 14 Nov 2023 20:00:00 GMT"], true),
            (&OLD[2..3], &["Last-Modified: Tue, 14 Nov 2023 20:00:01 GMT"], false),
        ] {
            let (meta, head) = stored(old);
            let got = freshen(&meta, &head, &request(), &headers(update), LATER, &Policy::default());
            assert_eq!(got.is_ok(), fits, "{old:?} {update:?}");
        }
        assert_eq!(
            freshen(b"x", b"", &request(), &HeaderMap::new(), LATER, &Policy::default()).unwrap_err(),
            Unusable::Stored
        );
    }

    #[test]
    fn a_304_without_date_is_of_now() {
        let (meta, head) = stored(&OLD);
        let new = freshen(
            &meta,
            &head,
            &request(),
            &headers(&["Cache-Control: max-age=60"]),
            LATER,
            &Policy::default(),
        )
        .unwrap();
        let meta = Meta::read(&new.meta).unwrap();
        assert_eq!(meta.initial_age_s(), 0);
        assert!(new.head.windows(35).any(|line| line == b"Date: Tue, 14 Nov 2023 22:15:00 GMT"));
    }

    #[test]
    fn a_304_that_forbids_storing_is_never_fresh() {
        let (meta, head) = stored(&OLD);
        let update = headers(&["Cache-Control: no-store, max-age=60"]);
        let new = freshen(&meta, &head, &request(), &update, LATER, &Policy::default()).unwrap();
        assert_eq!(new.storing, Storing::No("no-store"));
        let meta = Meta::read(&new.meta).unwrap();
        assert_eq!(reuse::reuse(&meta, &request(), NOW_S + 100), reuse::Reuse::Stale);
    }

    #[test]
    fn a_head_updates_what_it_agrees_with() {
        let (meta, head) = stored(&OLD);
        for (update, fits) in [
            (&["ETag: \"v1\"", "Last-Modified: Tue, 14 Nov 2023 20:00:00 GMT", "X-A: 9"][..], true),
            (&["ETag: \"v1\"", "Last-Modified: Tue, 14 Nov 2023 20:00:00 GMT", "Content-Length: 10"], true),
            (&["ETag: \"v1\"", "Last-Modified: Tue, 14 Nov 2023 20:00:00 GMT", "Content-Length: 11"], false),
            (&["ETag: \"v1\"", "Last-Modified: Tue, 14 Nov 2023 20:00:01 GMT"], false),
            (&["ETag: W/\"v1\"", "Last-Modified: Tue, 14 Nov 2023 20:00:00 GMT"], false),
            (&["ETag: \"v1\""], false),
            (&[], false),
        ] {
            let policy = Policy::default();
            let got = freshen_by_head(&meta, &head, &request(), &headers(update), LATER, &policy);
            assert_eq!(got.is_ok(), fits, "{update:?}");
        }
    }
}
