//! Requests for a part: what of a response, a running fill or a partial object answers them. Fetching slices is done in
//! `slices`; how ranges are read is known in `proto`.
//!
//! | there is                               | a single Range gets                                                 |
//! |----------------------------------------|---------------------------------------------------------------------|
//! | a fill that has come near it           | its part of the stream                                              |
//! | a partial object                       | what is stored, the slices that are missing fetched with If-Range   |
//! | nothing                                | the aligned slices that hold it, asked for as one part, which begin a partial object |
//! | nothing, and the origin sends a whole  | its part of that fill                                               |
//! | nothing, and the part cannot be kept   | its bytes cut out of what came; the next one is passed unchanged    |
//! | nothing, and its bytes are not in what came | what the origin says to its own request                        |
//!
//! A part can be kept if it may be stored as a 200 could, says the complete length, and has a strong validator.
#![forbid(unsafe_code)]

use super::fill::{self, Fill, Leader, Waiter};
use super::origin::FetchError;
use super::outgoing::Outgoing;
use super::pass::{self, Pass};
use super::response::Response;
use super::rules::{self, Selector};
use super::slices::{self, Object, Reading, SliceError};
use super::stream::Stream;
use super::{Node, Routed};
use crate::clock;
use crate::limits;
use crate::proto::freshness::Facts;
use crate::proto::freshness::Storing;
use crate::proto::partial::{self, ContentRange, Validator};
use crate::proto::range::{self, Selected, Spec};
use crate::proto::request::RequestHead;
use crate::proto::response::OriginHead;
use crate::proto::reuse;
use crate::proto::session::Again;
use crate::proto::stored::Meta;
use http::StatusCode;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderValue, RANGE};
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

const CHUNK: u64 = limits::CHUNK_BYTES as u64;

/// A part of a response for one client, and the head it gets.
pub(super) type Part = (Range<u64>, Arc<OriginHead>);

/// The part of a complete response that a request asks for; `None`: all of it.
pub(super) fn part(head: &OriginHead, selected: Selected, complete_bytes: u64) -> Option<Part> {
    let (part, status) = match selected {
        Selected::Whole | Selected::Parts(_) => return None,
        Selected::Part(part) => (part, 206),
        Selected::Unsatisfiable => (0..0, 416),
    };
    let mut head = OriginHead { status, body_bytes: Some(part.end - part.start), ..head.clone() };
    if status == 416 {
        head.lines.clear();
    }
    let sent = (status == 206).then_some(&part);
    crate::proto::response::push_content_range(&mut head.lines, sent, complete_bytes);
    Some((part, Arc::new(head)))
}

/// The one range of a request that says where it begins.
fn spec(request: &RequestHead) -> Option<Spec> {
    let mut values = request.field_all("range");
    let (value, None) = (values.next()?, values.next()) else { return None };
    range::single(value)
}

/// Whether this request has to go to the origin as it is: its range is none that slices could be asked for, or it is
/// the origin that has to judge whether the range counts.
pub(super) fn is_for_origin(request: &RequestHead) -> bool {
    request.has_range() && (request.has_if_range() || spec(request).and_then(partial::aligned).is_none())
}

/// Makes a request ask for the slices that hold its range; says where they begin.
pub(super) fn ask(request: &RequestHead, outgoing: &mut Outgoing) -> Option<u64> {
    let (value, start) = partial::aligned(spec(request)?)?;
    outgoing.fields_mut().insert(RANGE, value);
    Some(start)
}

/// A 206 that holds all of a small object is as good as a 200 (RFC 9111 section 3.4): makes it one.
pub(super) fn make_whole(response: &mut Response) {
    if response.status != 206 {
        return;
    }
    let Some(ContentRange { part, complete_bytes: Some(complete) }) =
        partial::content_range(&response.fields)
    else {
        return;
    };
    if part == (0..complete) && complete <= CHUNK {
        response.body.must_be(complete);
        disguise(response, complete);
    }
}

/// Gives a 206 the head its 200 would have had.
fn disguise(response: &mut Response, complete_bytes: u64) {
    response.status = StatusCode::OK;
    response.fields.remove(CONTENT_RANGE);
    response.fields.insert(CONTENT_LENGTH, HeaderValue::from(complete_bytes));
}

/// A part has come, or that there is none (416), for a fill that asked for slices from `start` on.
pub(super) fn opened(
    node: &Rc<Node>,
    fill: &Rc<Fill>,
    leader: &Leader,
    mut response: Response,
    routed: &Routed,
    start: u64,
) -> Result<(), FetchError> {
    let request = &leader.request;
    let sent = (response.status, response.fields.clone());
    if let Some((part, complete_bytes, validator)) = keepable(node, request, &response, start) {
        response.body.must_be(part.end - part.start);
        disguise(&mut response, complete_bytes);
        let judged = rules::judge(request, &mut response, routed)?;
        // Whoever is answered slice by slice is answered from the store: fields that are one client's would not reach it.
        let keeps = |facts: &Facts| fill.publishes() && facts.unstored.is_empty();
        if let Some(facts) = judged.facts.filter(keeps) {
            let (head, meta) = rules::record(&judged.head, &facts, request, complete_bytes);
            let number = rules::put_partial(node, request, &meta, &head, complete_bytes);
            if let Some(number) = number {
                let object = node.slices.object(number, complete_bytes, validator);
                let chunks = (start / CHUNK) as u32..part.end.div_ceil(CHUNK) as u32;
                slices::take_over(node, &object, request, chunks, response.body);
                share(node, fill, leader, &Selector::new(&facts, request));
                return Ok(());
            }
        }
    }
    (response.status, response.fields) = sent;
    not_kept(node, fill, leader, response)
}

/// What of a 206 can begin a partial object: its bytes, the complete length, and its validator.
fn keepable(
    node: &Node,
    request: &RequestHead,
    response: &Response,
    start: u64,
) -> Option<(Range<u64>, u64, Validator)> {
    if response.status != 206 {
        return None;
    }
    let ContentRange { part, complete_bytes } = partial::content_range(&response.fields)?;
    let complete_bytes = complete_bytes.filter(|bytes| bytes.div_ceil(CHUNK) < u64::from(u32::MAX))?;
    let aligned = part.start == start && (part.end == complete_bytes || part.end.is_multiple_of(CHUNK));
    let wanted = spec(request)?.of(complete_bytes);
    let fits = wanted.end - wanted.start <= rules::object_bytes_max(node);
    let validator = Validator::of_fields(&response.fields)?;
    (aligned && fits).then_some((part, complete_bytes, validator))
}

/// All who wait are answered from the partial object, if it is theirs.
fn share(node: &Rc<Node>, fill: &Rc<Fill>, leader: &Leader, selector: &Selector) {
    node.fills.sliceable(fill);
    for waiter in fill.take_waiters(node) {
        if Some(waiter.ticket) == leader.ticket || selector.selects(&waiter.request) {
            serve(node, waiter, Again::Stored);
        } else {
            fill::request(node, waiter);
        }
    }
}

/// The part belongs to the one that asked; it is cut to what was asked for. The others ask for themselves, and so does
/// that one if what it asked for is not in it.
fn not_kept(
    node: &Rc<Node>,
    fill: &Rc<Fill>,
    leader: &Leader,
    mut response: Response,
) -> Result<(), FetchError> {
    if response.status == 206 {
        node.fills.not_sliceable(fill);
    }
    let mut head = rules::passed(&response)?;
    let cut = cut(&leader.request, &response, &head);
    let is_its_own = cut.is_some() || response.status != 206;
    if let Some((range, part)) = cut {
        response.body.cut(range.start, range.end - range.start);
        head = part;
    }
    let mut leads = None;
    for waiter in fill.take_waiters(node) {
        if Some(waiter.ticket) == leader.ticket {
            leads = leader.ticket;
        } else {
            fill::request(node, waiter);
        }
    }
    match leads {
        Some(ticket) if is_its_own => pass::take_over(node, ticket, head, response.body),
        Some(ticket) => pass::start(node, ticket, leader.request.clone()),
        None => {}
    }
    Ok(())
}

/// The bytes of a 206's body that a client asked for, and the head for them. `None`: they are not there, or not known to be.
fn cut(request: &RequestHead, response: &Response, head: &OriginHead) -> Option<Part> {
    let ContentRange { part: came, complete_bytes } = partial::content_range(&response.fields)?;
    let complete_bytes = complete_bytes?;
    let wanted = spec(request)?.of(complete_bytes);
    let is_there = came.start <= wanted.start && wanted.end <= came.end && !wanted.is_empty();
    if response.status != 206 || !is_there {
        return None;
    }
    let mut lines = Vec::with_capacity(head.lines.len());
    for line in head.lines.split_inclusive(|&byte| byte == b'\n') {
        if !line.get(..14).is_some_and(|name| name.eq_ignore_ascii_case(b"content-range:")) {
            lines.extend_from_slice(line);
        }
    }
    let head = OriginHead { lines, ..head.clone() };
    let (_, head) = part(&head, Selected::Part(wanted.clone()), complete_bytes)?;
    Some((wanted.start - came.start..wanted.end - came.start, head))
}

/// A request for what is stored and fresh: looked up again if it is whole, else read slice by slice.
pub(super) fn fresh(node: &Rc<Node>, waiter: Waiter) -> Result<(), Waiter> {
    if !rules::is_fresh(node, &waiter.request) {
        return Err(waiter);
    }
    serve(node, waiter, Again::Stored);
    Ok(())
}

/// Answers a request by what is stored for it, fetched on its behalf or validated.
pub(super) fn serve(node: &Rc<Node>, waiter: Waiter, why: Again) {
    let Some(record) = rules::partial(node, &waiter.request) else { return node.again(waiter, why) };
    let (Some(meta), Some(validator)) = (Meta::read(&record.meta), Validator::of_lines(&record.head)) else {
        return pass::start(node, waiter.ticket, waiter.request);
    };
    let complete_bytes = meta.body_bytes();
    let selected = rules::selected(&waiter.request, &meta, &record.head);
    let wanted = match &selected {
        Selected::Whole => 0..complete_bytes,
        Selected::Part(part) => part.clone(),
        // Said by the worker; parts are fetched with the client's own request if they are not there.
        Selected::Unsatisfiable => return node.again(waiter, why),
        Selected::Parts(_) => return pass::start(node, waiter.ticket, waiter.request),
    };
    let chunks = (wanted.start / CHUNK) as u32..wanted.end.div_ceil(CHUNK) as u32;
    let few = chunks.len() <= limits::SLICES_LOOKED_UP_MAX;
    if few && chunks.clone().all(|chunk| node.writer().has_chunk(record.object, chunk)) {
        return node.again(waiter, why);
    }
    if wanted.end - wanted.start > rules::object_bytes_max(node) {
        return pass::start(node, waiter.ticket, waiter.request);
    }
    if node.slices.readers() >= limits::SLICE_READERS_MAX {
        return node.refuse(waiter.ticket, &waiter.request, 503);
    }
    let whole = OriginHead {
        status: meta.status(),
        lines: record.head.get(meta.lines_offset()..record.head.len() - 2).unwrap_or_default().to_vec(),
        body_bytes: Some(complete_bytes),
        age_s: Some(u64::from(reuse::current_age(&meta, clock::now().unix_s))),
        storing: Storing::Store,
    };
    let (range, head) = part(&whole, selected, complete_bytes).unwrap_or((wanted, Arc::new(whole)));
    let object = node.slices.object(record.object, complete_bytes, validator);
    read(node, waiter, object, range, head);
}

/// Sends a part of a partial object to one client, as fast as it takes it.
fn read(node: &Rc<Node>, waiter: Waiter, object: Rc<Object>, range: Range<u64>, head: Arc<OriginHead>) {
    let Waiter { ticket, request, .. } = waiter;
    let pass = Pass::begin(node, ticket);
    let reading = Reading::new(node, &object);
    let own = node.clone();
    node.spawn(async move {
        let node = own;
        let is_passed = Cell::new(false);
        let work = async {
            match send(&node, &pass, &object, &request, range, head).await {
                Ok(()) => {}
                Err(SliceError::Changed) => {
                    // Nothing of this version may answer any more.
                    rules::forget_partial(&node, &request, object.number());
                    is_passed.set(true);
                }
                Err(SliceError::Unkept(_)) => is_passed.set(true),
                Err(SliceError::Failed(error)) => node.refuse(ticket, &request, error.status),
            }
        };
        pass::until_gone(&node, &pass, work).await;
        drop(reading);
        if is_passed.get() {
            // Whoever has nothing yet gets what the origin says now.
            pass::start(&node, ticket, request);
        }
    });
}

/// The error is that of the first slice; once the head is sent, what is missing later breaks the response.
async fn send(
    node: &Rc<Node>,
    pass: &Rc<Pass>,
    object: &Rc<Object>,
    request: &RequestHead,
    range: Range<u64>,
    head: Arc<OriginHead>,
) -> Result<(), SliceError> {
    let (first, last) = ((range.start / CHUNK) as u32, ((range.end - 1) / CHUNK) as u32);
    slices::obtain(node, object, request, first, last).await?;
    let id = node.new_stream();
    pass.streams(node, id);
    let stream = RefCell::new(Stream::new(id, head.clone(), object.number(), true, node.workers()));
    stream.borrow_mut().join(node, pass.ticket(), Some((range.clone(), head)), false);
    let mut sent = range.start;
    for chunk in first..=last {
        if let Err(error) = slices::obtain(node, object, request, chunk, last).await {
            tracing::debug!(?error, "an answer from slices broken off");
            if error == SliceError::Changed {
                rules::forget_partial(node, request, object.number());
            }
            stream.borrow_mut().broken(node);
            return Ok(());
        }
        let end = range.end.min(u64::from(chunk + 1) * CHUNK);
        stream.borrow_mut().advance(node, end);
        let bytes = (end - std::mem::replace(&mut sent, end)) as usize;
        if pass.sent(bytes, limits::SLICES_WINDOW_BYTES).await.is_err() {
            stream.borrow_mut().broken(node);
            return Ok(());
        }
    }
    stream.borrow_mut().end(node);
    Ok(())
}

/// Whether a fill that has come so far is near enough to wait for.
pub(super) fn is_near(part: Option<&Part>, arrived_bytes: u64) -> bool {
    part.is_none_or(|(range, _)| range.start <= arrived_bytes + u64::from(limits::SLICES_NEAR) * CHUNK)
}
