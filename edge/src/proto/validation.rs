//! Validation at the origin (RFC 9111 section 4.3): which condition to ask with, and what a 304 changes
//! in the stored response. Conditions of clients are judged in `conditional`.
#![forbid(unsafe_code)]

use super::freshness::{self, Exchange, Facts, Storing};
use super::request::RequestHead;
use super::response::{self, HeadError};
use super::stored::{self, Flags, Meta};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Puts If-None-Match and If-Modified-Since for a stored response into a request to the origin, replacing
/// what conditions it had. `false`: the response has no validator, the request is left without conditions.
pub fn condition(meta: &[u8], head: &[u8], fields: &mut HeaderMap) -> bool {
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
) -> Result<Freshened, Unusable> {
    let old = Meta::read(meta).ok_or(Unusable::Stored)?;
    if !same_representation(&old, head, update) {
        return Err(Unusable::OtherValidator);
    }
    let fields = merged(head, update).ok_or(Unusable::Stored)?;
    let (storing, facts) = freshness::decide(request, old.status(), &fields, exchange);
    let facts = match storing {
        Storing::Store => facts,
        Storing::No(_) => Facts { lifetime_s: 0, flags: facts.flags.with(Flags::NO_CACHE, true), ..facts },
    };
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
