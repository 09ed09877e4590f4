//! How the body of a fill is stored while it streams. Objects up to `CHUNK_BYTES` are stored whole at their end;
//! larger ones chunk by chunk, and published with their head record once the last chunk is in. Nothing is
//! published of a body that did not end whole. What cannot be stored still reaches those who wait for it.
#![forbid(unsafe_code)]

use super::Node;
use super::fill::{Fill, State};
use super::mailbox::Ticket;
use super::ranged::{self, Part};
use super::reasons::Reason;
use super::response::ResponseBody;
use super::rules::{self, Selector};
use super::slices::{self, SliceError};
use super::stream::{self, Stream};
use crate::limits;
use crate::proto::conditional;
use crate::proto::freshness::Facts;
use crate::proto::generations::Verdict;
use crate::proto::partial::Validator;
use crate::proto::request::RequestHead;
use crate::proto::response::OriginHead;
use crate::proto::reuse;
use crate::proto::stored::Meta;
use crate::shard::{Body, Label, PutError};
use crate::stats::Counter;
use bytes::Bytes;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How often it is looked whether workers have let go of bytes.
const HELD_POLL: Duration = Duration::from_millis(1);
const UNSEALED_STALL: Duration = Duration::from_millis(limits::UNSEALED_STALL_MS);

/// The part of a fill whose head is there.
pub(super) struct Filling {
    stream: Stream,
    head: Arc<OriginHead>,
    facts: Facts,
    selector: Selector,
    chunks: u32,
    total_bytes: u64,
    /// With which the rest can be asked for if the origin breaks off.
    validator: Option<Validator>,
}

impl Filling {
    /// Nothing has come yet.
    pub(super) fn new(stream: Stream, head: Arc<OriginHead>, facts: Facts, request: &RequestHead) -> Self {
        let selector = Selector::new(&facts, request);
        let validator = if head.status == 200 { Validator::of_lines(&head.lines) } else { None };
        Filling { stream, head, facts, selector, chunks: 0, total_bytes: 0, validator }
    }

    /// The variant of this response's key that a request belongs to.
    pub(super) fn selector(&self, request: &RequestHead) -> Selector {
        Selector::new(&self.facts, request)
    }

    /// Whether this response answers the request, and the bytes it wants are there or soon will be.
    pub(super) fn reaches(&self, request: &RequestHead) -> bool {
        self.takes(request) && ranged::is_near(self.part(request, &self.head).as_ref(), self.total_bytes)
    }

    /// The part a request asks for, under what of this head concerns a part; `None`: all of it.
    fn part(&self, request: &RequestHead, sent: &OriginHead) -> Option<Part> {
        let complete_bytes = self.head.body_bytes?;
        if !request.has_range() {
            return None;
        }
        let (head, meta) = rules::record(&self.head, &self.facts, request, complete_bytes);
        let selected = rules::selected(request, &Meta::read(&meta)?, &head);
        ranged::part(sent, selected, complete_bytes)
    }

    /// Whether this response answers the request, and still can from its first byte.
    pub(super) fn takes(&self, request: &RequestHead) -> bool {
        self.stream.joinable() && self.selector.selects(request) && reuse::may_join(self.facts.flags, request)
    }

    /// Whether a purge names it that came after it was asked for.
    pub(super) fn is_purged(&self, node: &Node, fill: &Fill) -> bool {
        self.selector.judge(node, fill.key().1) != Verdict::Valid
    }

    /// Lets a request be answered by it. `own`: the head of the one for whose request it was fetched.
    pub(super) fn join(
        &mut self,
        node: &Node,
        ticket: Ticket,
        request: &RequestHead,
        own: Option<&Arc<OriginHead>>,
    ) {
        let collapsed = own.is_none();
        if !conditional::is_current(request, &self.facts, &self.head.lines) {
            let head = own.unwrap_or(&self.head);
            let whole = || (!Arc::ptr_eq(head, &self.head)).then(|| (0..u64::MAX, head.clone()));
            let part = self.part(request, head).or_else(whole);
            return self.stream.join(node, ticket, part, collapsed);
        }
        // The client has this very representation: it is told so, and the fill goes on without it.
        let head = Arc::new(self.head.not_modified());
        let mut told = Stream::new(node.new_stream(), head, 0, true, node.workers());
        told.join(node, ticket, None, collapsed);
        told.end(node);
    }

    /// Takes bytes in: sends them on, and seals full chunks as soon as it is known that more follows.
    fn take(&mut self, node: &Node, mut bytes: Bytes) -> Result<(), PutError> {
        let mut result = Ok(());
        self.total_bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.stream.joinable() {
                if self.stream.pieces_bytes() == limits::CHUNK_BYTES {
                    result = result.and(self.seal(node));
                    continue;
                }
                let room = limits::CHUNK_BYTES - self.stream.pieces_bytes();
                self.stream.piece(node, bytes.split_to(bytes.len().min(room)));
            } else {
                self.stream.piece(node, std::mem::take(&mut bytes));
            }
        }
        result
    }

    /// The stream goes on, and is not stored any more.
    fn stop_sealing(&mut self, node: &Node) {
        node.writer.borrow_mut().give_up(self.stream.object());
        self.stream.stop_sealing(node);
    }

    /// Puts the bytes that were kept into the shard. If that fails, the stream is not stored any more.
    fn seal(&mut self, node: &Node) -> Result<(), PutError> {
        let object = self.stream.object();
        let put = node.writer.borrow_mut().put_chunk(object, self.chunks, self.stream.pieces());
        match put {
            Ok(()) => {
                self.chunks += 1;
                self.stream.sealed(node);
            }
            Err(_) => self.stop_sealing(node),
        }
        put
    }

    /// The body ended whole: publishes the object.
    fn publish(&mut self, node: &Node, fill: &Fill, request: &RequestHead) -> Result<(), PutError> {
        let (hash, key) = fill.key();
        let (head, meta) = rules::record(&self.head, &self.facts, request, self.total_bytes);
        let label = Label::new(hash, key, &meta, &head);
        let replaces = |old: &[u8]| rules::matches(old, request);
        if self.chunks == 0 {
            let mut writer = node.writer.borrow_mut();
            return writer.put(&label, Body::Whole(self.stream.pieces()), replaces);
        }
        self.seal(node)?;
        let (object, bytes) = (self.stream.object(), self.total_bytes);
        node.writer.borrow_mut().put(&label, Body::Chunks { object, bytes }, replaces)
    }
}

/// Whether a body of this length (`None`: not said) may have to be stored in chunks.
pub(super) fn needs_object(body_bytes: Option<u64>) -> bool {
    body_bytes.is_none_or(|bytes| bytes > limits::CHUNK_BYTES as u64)
}

/// Reads the body to its end, sends it on and stores it.
pub(super) async fn run(node: &Rc<Node>, fill: &Rc<Fill>, request: &RequestHead, mut body: ResponseBody) {
    let most_bytes = rules::object_bytes_max(node);
    let mut resumed = Resumed { tries: 0, complete_bytes: None };
    loop {
        room(node, fill).await;
        match body.next().await {
            // Of a framing that is broken nobody knows how much of what came before was meant.
            Err(error) if error.malformed => return stop(node, fill, &error.reason),
            Err(error) => match resumed.resume(node, fill, request).await {
                Some(rest) => body = rest,
                None => return stop(node, fill, &error.reason),
            },
            Ok(None) => {
                let total_bytes = with(fill, |filling| filling.total_bytes);
                if resumed.complete_bytes.is_some() && resumed.complete_bytes != total_bytes {
                    return stop(node, fill, "the rest of it was of another length");
                }
                break;
            }
            Ok(Some(bytes)) => {
                let taken = with(fill, |filling| (filling.take(node, bytes), filling.total_bytes));
                let Some((put, total_bytes)) = taken else { return };
                if let Err(error) = put {
                    stop_sealing(node, fill, &error.to_string());
                } else if total_bytes > most_bytes {
                    stop_sealing(node, fill, "larger than its share of the store");
                }
            }
        }
    }
    let mut overtaken = false;
    let stored = with(fill, |filling| {
        let purged = filling.selector.judge(node, fill.key().1) == Verdict::Gone;
        overtaken = purged || !fill.publishes();
        let publishes = filling.stream.joinable() && !overtaken;
        let stored = publishes.then(|| filling.publish(node, fill, request));
        node.writer.borrow_mut().give_up(filling.stream.object());
        filling.stream.end(node);
        stored
    });
    fill.state.replace(State::Done);
    match stored.flatten() {
        Some(Ok(())) => {
            node.cells.add(Counter::FillsStored, 1);
            node.reasons.borrow_mut().forget(fill.key().0);
        }
        Some(Err(error)) => {
            node.not_stored(fill.key().0, Reason::NoRoom);
            node.cells.add(Counter::FillsNotStored, 1);
            tracing::warn!(%error, "object served and not stored");
        }
        None => {
            node.cells.add(Counter::FillsNotStored, 1);
            node.not_stored(fill.key().0, if overtaken { Reason::Overtaken } else { Reason::NoRoom });
        }
    }
}

/// How a fill was taken up again after it had broken off.
struct Resumed {
    tries: u32,
    /// What the origin said the whole is long, once it has.
    complete_bytes: Option<u64>,
}

impl Resumed {
    /// Asks for the rest of the same version. `None`: it cannot be had, or not told apart from another's.
    async fn resume(&mut self, node: &Rc<Node>, fill: &Fill, request: &RequestHead) -> Option<ResponseBody> {
        let state = |filling: &mut Filling| {
            Some((filling.validator.clone()?, filling.head.body_bytes, filling.total_bytes))
        };
        let (validator, said_bytes, at) = with(fill, state).flatten()?;
        while self.tries < limits::RESUMES_MAX {
            tokio::time::sleep(Duration::from_millis(limits::RESUME_DELAY_MS) * self.tries).await;
            self.tries += 1;
            let known_bytes = said_bytes.or(self.complete_bytes);
            match slices::remainder(node, request, &validator, known_bytes, at, None).await {
                Ok((body, complete_bytes)) => {
                    self.complete_bytes = Some(complete_bytes);
                    node.cells.add(Counter::FillsResumed, 1);
                    return Some(body);
                }
                Err(SliceError::Changed) => return None,
                Err(error) => tracing::debug!(?error, "not resumed yet"),
            }
        }
        None
    }
}

/// Ends a fill that is not over as broken.
pub(super) fn break_off(node: &Node, fill: &Fill) {
    let broken = |filling: &mut Filling| {
        node.writer.borrow_mut().give_up(filling.stream.object());
        filling.stream.broken(node);
    };
    let streaming = with(fill, broken).is_some();
    if streaming {
        fill.state.replace(State::Done);
        node.cells.add(Counter::FillsBroken, 1);
        node.not_stored(fill.key().0, Reason::Broken);
    }
}

fn stop(node: &Node, fill: &Fill, reason: &str) {
    tracing::debug!(reason, "fill broken off");
    break_off(node, fill);
}

fn stop_sealing(node: &Node, fill: &Fill, reason: &str) {
    with(fill, |filling| {
        if filling.stream.joinable() {
            tracing::debug!(reason, "object goes on without being stored");
            filling.stop_sealing(node);
        }
    });
}

/// Waits until workers can take more; those that could not for too long have lost the stream.
async fn room(node: &Node, fill: &Fill) {
    let workers = with(fill, |filling| filling.stream.workers()).unwrap_or_default();
    stream::room(node, workers, |worker| {
        with(fill, |filling| filling.stream.lose(node, worker));
    })
    .await;
    // A stream that is not stored goes as fast as its slowest client, unless that one does not move at all.
    let held = || with(fill, |filling| filling.stream.held_bytes()).unwrap_or(0);
    let (mut last, mut since) = (held(), Instant::now());
    while last >= limits::UNSEALED_WINDOW_BYTES && since.elapsed() < UNSEALED_STALL {
        tokio::time::sleep(HELD_POLL).await;
        let now = held();
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
}

fn with<T>(fill: &Fill, act: impl FnOnce(&mut Filling) -> T) -> Option<T> {
    match &mut *fill.state.borrow_mut() {
        State::Streaming(filling) => Some(act(filling)),
        _ => None,
    }
}
