//! Where control asks `proto` what a response means, and the store what it has. Knows no connection.
#![forbid(unsafe_code)]

use super::outgoing::Outgoing;
use super::response::Response;
use super::{Node, Routed};
use crate::clock;
use crate::config::Caching;
use crate::limits;
use crate::proto::conditional;
use crate::proto::forwarded;
use crate::proto::freshness::{self, Exchange, Facts, Policy, Storing};
use crate::proto::generations::Verdict;
use crate::proto::range::Selected;
use crate::proto::request::RequestHead;
use crate::proto::response::{HeadError, OriginHead};
use crate::proto::reuse::{self, Failure, Reuse};
use crate::proto::stored::{self, Meta};
use crate::proto::validation::{self, Freshened, Unusable};
use crate::shard::{Body, Label};
use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue, SET_COOKIE, VARY};
use std::sync::Arc;

/// What a response is to the cache.
pub(super) struct Judged {
    /// As it is stored, and as everybody gets it but the client whose request it answers.
    pub(super) head: Arc<OriginHead>,
    /// As that client gets it; the same unless the response says that some fields are for nobody else.
    pub(super) own: Arc<OriginHead>,
    /// What is known for storing it; `None`: it may not be stored.
    pub(super) facts: Option<Facts>,
}

impl Judged {
    /// Of a response that is passed on.
    pub(super) fn unstored(head: Arc<OriginHead>) -> Self {
        Judged { head: head.clone(), own: head, facts: None }
    }
}

/// Judges the response to a request. The fields its route depended on count as named by Vary, for the key does not
/// hold them.
pub(super) fn judge(
    request: &RequestHead,
    response: &mut Response,
    routed: &Routed,
) -> Result<Judged, HeadError> {
    // What clients send selects variants, and not what their origin is told instead.
    let varies_on_told = forwarded::varies(&response.fields);
    for name in &routed.fields {
        if let Ok(name) = HeaderValue::from_str(name) {
            response.fields.append(VARY, name);
        }
    }
    if routed.caching.strip_set_cookie {
        response.fields.remove(SET_COOKIE);
    }
    let status = response.status.as_u16();
    let policy = policy(&routed.caching);
    let (storing, facts) = freshness::decide(request, status, &response.fields, response.exchange, &policy);
    let storing = match storing {
        Storing::Store if varies_on_told => Storing::No("vary-forwarded"),
        storing => storing,
    };
    let head = |fields: &HeaderMap| {
        OriginHead::from_origin(status, fields, storing, response.exchange.response_s).map(Arc::new)
    };
    let own = head(&response.fields)?;
    if storing != Storing::Store {
        return Ok(Judged::unstored(own));
    }
    let mut stored = own.clone();
    if facts.unstored.iter().any(|name| response.fields.contains_key(name)) {
        let mut fields = response.fields.clone();
        facts.unstored.iter().for_each(|name| drop(fields.remove(name)));
        stored = head(&fields)?;
    }
    Ok(Judged { head: stored, own, facts: Some(facts) })
}

fn policy(caching: &Caching) -> Policy {
    Policy { ttl_s: caching.ttl_s, ttl_override_s: caching.ttl_override_s, stale_max_s: caching.stale_max_s }
}

/// The head of a response that is passed on without being stored.
pub(super) fn passed(response: &Response) -> Result<Arc<OriginHead>, HeadError> {
    let storing = Storing::No("pass");
    let (status, now_s) = (response.status.as_u16(), response.exchange.response_s);
    OriginHead::from_origin(status, &response.fields, storing, now_s).map(Arc::new)
}

/// The same head, once it is clear that the object will not be stored.
pub(super) fn unstored(head: &OriginHead, rule: &'static str) -> Arc<OriginHead> {
    Arc::new(OriginHead { storing: Storing::No(rule), ..head.clone() })
}

/// Stored head and meta bytes of a response whose body has this length.
pub(super) fn record(
    head: &OriginHead,
    facts: &Facts,
    request: &RequestHead,
    body_bytes: u64,
) -> (Vec<u8>, Vec<u8>) {
    let lines = stored::head(head.status, body_bytes, &head.lines);
    let meta = stored::encode(facts, request, &lines, body_bytes);
    (lines, meta)
}

/// Whether a response with these meta bytes was selected by the same field values.
pub(super) fn matches(meta: &[u8], request: &RequestHead) -> bool {
    stored::matches(meta, request)
}

/// The fields a key varies on, and a request's values of them.
pub(super) struct Selector {
    meta: Vec<u8>,
}

impl Selector {
    /// The variant this request belongs to.
    pub(super) fn new(facts: &Facts, request: &RequestHead) -> Self {
        Selector { meta: stored::encode(facts, request, &[], 0) }
    }

    /// What purges since mean for the response that told what the key varies on.
    pub(super) fn judge(&self, node: &Node, key: &[u8]) -> Verdict {
        node.purges.judge_record(key, &self.meta)
    }

    /// Whether another request belongs to it too.
    pub(super) fn selects(&self, request: &RequestHead) -> bool {
        stored::matches(&self.meta, request)
    }
}

/// Whether a record with these meta bytes may be used for this request: as workers see it.
fn accepts(node: &Node, request: &RequestHead, meta: &[u8]) -> bool {
    stored::matches(meta, request) && node.purges.judge_record(&request.key, meta) != Verdict::Gone
}

/// Whether something is stored that this request's variant selects.
pub(super) fn is_stored(node: &Node, request: &RequestHead) -> bool {
    let accept = |meta: &[u8]| accepts(node, request, meta);
    node.writer.borrow().lookup(request.key_hash, &request.key, accept).is_some()
}

/// Whether what is stored may answer this request as it is.
pub(super) fn is_fresh(node: &Node, request: &RequestHead) -> bool {
    let accept = |meta: &[u8]| {
        accepts(node, request, meta) && node.purges.judge_record(&request.key, meta) == Verdict::Valid
    };
    let writer = node.writer.borrow();
    let Some(record) = writer.lookup(request.key_hash, &request.key, accept) else { return false };
    let now_s = clock::now().unix_s;
    Meta::read(record.meta())
        .is_some_and(|meta| matches!(reuse::reuse(&meta, request, now_s), Reuse::Fresh { .. }))
}

/// Whether what is stored may answer this request although it is not fresh, now that the origin has failed.
pub(super) fn may_replace(node: &Node, request: &RequestHead, failure: Failure) -> bool {
    let accept = |meta: &[u8]| stored::matches(meta, request);
    let writer = node.writer.borrow();
    let Some(record) = writer.lookup(request.key_hash, &request.key, accept) else { return false };
    let now_s = clock::now().unix_s;
    Meta::of_record(record.meta(), record.head())
        .is_some_and(|meta| reuse::may_replace(&meta, request, now_s, failure))
}

/// Makes a request conditional on what is stored. `false`: nothing with a validator is.
pub(super) fn condition(node: &Node, request: &RequestHead, outgoing: &mut Outgoing) -> bool {
    let accept = |meta: &[u8]| accepts(node, request, meta);
    let writer = node.writer.borrow();
    let Some(record) = writer.lookup(request.key_hash, &request.key, accept) else { return false };
    validation::condition(record.meta(), record.head(), outgoing.fields_mut())
}

/// Updates what is stored by a 304. `false`: it could not be, and the whole response has to be asked for.
pub(super) fn freshen(node: &Node, request: &RequestHead, response: &mut Response, routed: &Routed) -> bool {
    if forwarded::varies(&response.fields) {
        return false;
    }
    if response.fields.contains_key(VARY) {
        for name in routed.fields.iter().filter_map(|name| HeaderValue::from_str(name).ok()) {
            response.fields.append(VARY, name);
        }
    }
    if routed.caching.strip_set_cookie {
        response.fields.remove(SET_COOKIE);
    }
    update(node, request, response, routed, validation::freshen).is_ok()
}

/// Updates what is stored by the answer to a HEAD, or removes it where that shows it to be outdated
/// (RFC 9111 section 4.3.5).
pub(super) fn freshen_by_head(node: &Node, request: &RequestHead, response: &mut Response, routed: &Routed) {
    if forwarded::varies(&response.fields) {
        return;
    }
    let updated = update(node, request, response, routed, validation::freshen_by_head);
    if updated == Err(Some(Unusable::OtherValidator)) {
        node.invalidate(request.key_hash, &request.key);
    }
}

type Update = fn(&[u8], &[u8], &RequestHead, &HeaderMap, Exchange, &Policy) -> Result<Freshened, Unusable>;

/// The error is `None` where nothing is stored, or it could not be stored again.
fn update(
    node: &Node,
    request: &RequestHead,
    response: &Response,
    routed: &Routed,
    update: Update,
) -> Result<(), Option<Unusable>> {
    let accept = |meta: &[u8]| accepts(node, request, meta);
    let (hash, key) = (request.key_hash, request.key.as_slice());
    // A record is held only until the next call that stores, so a whole body is copied: at most one chunk.
    let (freshened, partial, body) = {
        let writer = node.writer.borrow();
        let record = writer.lookup(hash, key, accept).ok_or(None)?;
        let policy = policy(&routed.caching);
        let freshened =
            update(record.meta(), record.head(), request, &response.fields, response.exchange, &policy)
                .map_err(Some)?;
        let body = match record.chunked() {
            Some(object) => Err((object, record.object_bytes())),
            None => Ok(Bytes::copy_from_slice(record.body())),
        };
        (freshened, record.partial(), body)
    };
    let (meta, head) = (freshened.meta.as_slice(), freshened.head.as_slice());
    let mut writer = node.writer.borrow_mut();
    let body = match &body {
        Ok(body) => Body::Whole(std::slice::from_ref(body)),
        &Err((object, bytes)) if partial => Body::Partial { object, bytes },
        &Err((object, bytes)) => Body::Chunks { object, bytes },
    };
    writer.put(&Label::new(hash, key, meta, head), body, accept).map_err(|error| {
        tracing::warn!(%error, "validated response could not be stored again");
        None
    })
}

/// Stores a response whose body is here whole, such as the answer to a POST.
pub(super) fn store(node: &Node, request: &RequestHead, judged: &Judged, body: Bytes) {
    let Some(facts) = &judged.facts else { return };
    let (head, meta) = record(&judged.head, facts, request, body.len() as u64);
    let accept = |meta: &[u8]| stored::matches(meta, request);
    let label = Label::new(request.key_hash, &request.key, &meta, &head);
    if let Err(error) = node.writer.borrow_mut().put(&label, Body::Whole(&[body]), accept) {
        tracing::warn!(%error, "object served and not stored");
    }
}

/// The head record of a partial object.
pub(super) struct Partial {
    /// Its number in the shard.
    pub(super) object: u64,
    pub(super) meta: Vec<u8>,
    pub(super) head: Vec<u8>,
}

/// What is stored for a request, if that is a partial object.
pub(super) fn partial(node: &Node, request: &RequestHead) -> Option<Partial> {
    let writer = node.writer.borrow();
    let accept = |meta: &[u8]| accepts(node, request, meta);
    let record = writer.lookup(request.key_hash, &request.key, accept)?;
    let object = record.chunked().filter(|_| record.partial())?;
    Some(Partial { object, meta: record.meta().to_vec(), head: record.head().to_vec() })
}

/// Begins a partial object; says its number. `None`: it could not be stored.
pub(super) fn put_partial(
    node: &Node,
    request: &RequestHead,
    meta: &[u8],
    head: &[u8],
    complete_bytes: u64,
) -> Option<u64> {
    let mut writer = node.writer.borrow_mut();
    let object = writer.new_object(request.key_hash);
    let label = Label::new(request.key_hash, &request.key, meta, head);
    let replaces = |old: &[u8]| stored::matches(old, request);
    writer.put(&label, Body::Partial { object, bytes: complete_bytes }, replaces).ok()?;
    Some(object)
}

/// All chunks of a partial object are there: if its head still is, the object counts as whole from now on.
pub(super) fn complete(node: &Node, request: &RequestHead, object: u64) {
    let Some(record) = partial(node, request).filter(|record| record.object == object) else { return };
    let Some(bytes) = Meta::read(&record.meta).map(|meta| meta.body_bytes()) else { return };
    let label = Label::new(request.key_hash, &request.key, &record.meta, &record.head);
    let replaces = |old: &[u8]| stored::matches(old, request);
    let mut writer = node.writer.borrow_mut();
    // It may have lost a chunk to the room for its own head: then it stays partial.
    let _ = writer.put(&label, Body::Chunks { object, bytes }, replaces);
}

/// The origin has another version than this partial object: it may not answer any more.
pub(super) fn forget_partial(node: &Node, request: &RequestHead, object: u64) {
    if let Some(record) = partial(node, request).filter(|record| record.object == object) {
        // Of other variants nothing is known.
        let is_it = |meta: &[u8]| *meta == *record.meta;
        node.writer.borrow_mut().remove_if(request.key_hash, &request.key, is_it);
    }
}

/// What of a stored response this request gets.
pub(super) fn selected(request: &RequestHead, meta: &Meta<'_>, head: &[u8]) -> Selected {
    conditional::selected(request, meta, head)
}

/// The most bytes one object may take of the store.
pub(super) fn object_bytes_max(node: &Node) -> u64 {
    node.writer.borrow().smallest_shard_bytes() / limits::STORE_SHARE_PER_OBJECT
}
