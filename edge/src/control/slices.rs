//! The slices of partial objects: which chunk is stored, which is on its way, and fetching the others. A run is one
//! request to the origin for adjoining slices; whoever needs one of them waits for it there, so clients share it.
//! Who is answered with what is decided in `ranged`.
//!
//! A run reads no further than its readers have asked, and ends when they do not come back for a while: a client that
//! leaves, or that is slow, costs the origin no more than the slices it was sent. What is fetched is always of the
//! version whose head is stored; a part of another one is dropped ([`SliceError::Changed`]).
#![forbid(unsafe_code)]

use super::Node;
use super::origin::{FetchError, Told};
use super::outgoing::Outgoing;
use super::response::ResponseBody;
use super::rules;
use super::upload::UploadBody;
use crate::limits;
use crate::proto::partial::{self, Validator};
use crate::proto::request::RequestHead;
use crate::stats::Counter;
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::timeout;

const CHUNK: u64 = limits::CHUNK_BYTES as u64;
const PAUSE: Duration = Duration::from_millis(limits::SLICES_PAUSE_MS);
const RESUME_DELAY: Duration = Duration::from_millis(limits::RESUME_DELAY_MS);
/// Pieces of a slice kept before they are copied into one.
const PIECES_MAX: usize = 1024;

/// Why a slice cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SliceError {
    /// The origin has another version now, or sends no parts any more.
    Changed,
    /// The store has no room for it: it can be passed on, and not read here.
    Unkept(String),
    /// It did not answer.
    Failed(FetchError),
}

impl From<FetchError> for SliceError {
    fn from(error: FetchError) -> Self {
        SliceError::Failed(error)
    }
}

fn failed(status: u16, reason: &str) -> SliceError {
    SliceError::Failed(FetchError::new(status, reason))
}

/// The objects that are read just now.
#[derive(Default)]
pub(super) struct Slices {
    objects: RefCell<HashMap<u64, Rc<Object>>>,
    readers: Cell<usize>,
}

impl Slices {
    /// The object of that number, of which the head that is stored says this.
    pub(super) fn object(&self, number: u64, complete_bytes: u64, validator: Validator) -> Rc<Object> {
        let mut objects = self.objects.borrow_mut();
        let object = objects.entry(number).or_insert_with(|| {
            let (runs, readers) = (RefCell::default(), Cell::new(0));
            Rc::new(Object { number, complete_bytes, validator, runs, readers })
        });
        object.clone()
    }

    /// Clients that are answered slice by slice.
    pub(super) fn readers(&self) -> usize {
        self.readers.get()
    }
}

/// Forgets an object that nobody reads and nothing brings any more.
fn settle(node: &Node, object: &Object) {
    if object.readers.get() == 0 && object.runs.borrow().is_empty() {
        node.slices.objects.borrow_mut().remove(&object.number);
        // Where its head was purged meanwhile.
        node.writer.borrow_mut().give_up(object.number);
    }
}

/// A partial object.
pub(super) struct Object {
    number: u64,
    complete_bytes: u64,
    validator: Validator,
    runs: RefCell<Vec<Rc<Run>>>,
    readers: Cell<usize>,
}

impl Object {
    /// Its number in the shard.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    fn bytes_of(&self, chunk: u32) -> u64 {
        let start = u64::from(chunk) * CHUNK;
        CHUNK.min(self.complete_bytes.saturating_sub(start))
    }

    /// A run that brings this chunk soon.
    fn run_to(&self, chunk: u32) -> Option<Rc<Run>> {
        let soon = |run: &&Rc<Run>| {
            let next = run.next.get();
            (next..run.end).contains(&chunk) && chunk - next <= limits::SLICES_NEAR
        };
        self.runs.borrow().iter().find(soon).cloned()
    }

    /// Where a run from `first` on ends, if nothing up to `last` is to be fetched twice.
    fn gap(&self, node: &Node, first: u32, last: u32) -> u32 {
        let most = last.min(first.saturating_add(limits::SLICES_PER_RUN_MAX - 1));
        let there =
            |chunk: &u32| node.writer().has_chunk(self.number, *chunk) || self.run_to(*chunk).is_some();
        (first + 1..=most).find(there).unwrap_or(most + 1)
    }
}

/// Counts a reader for as long as it is there.
pub(super) struct Reading {
    node: Rc<Node>,
    object: Rc<Object>,
}

impl Reading {
    /// One more reader of the object.
    pub(super) fn new(node: &Rc<Node>, object: &Rc<Object>) -> Self {
        node.slices.readers.set(node.slices.readers.get() + 1);
        object.readers.set(object.readers.get() + 1);
        Reading { node: node.clone(), object: object.clone() }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let slices = &self.node.slices;
        slices.readers.set(slices.readers.get() - 1);
        self.object.readers.set(self.object.readers.get() - 1);
        self.object.runs.borrow().iter().for_each(|run| run.asked.notify_one());
        settle(&self.node, &self.object);
    }
}

/// One request to the origin for adjoining slices.
struct Run {
    end: u32,
    /// The chunk that is on its way; those before it are stored.
    next: Cell<u32>,
    /// The first chunk nobody has asked for yet.
    wanted: Cell<u32>,
    ended: RefCell<Option<Result<(), SliceError>>>,
    moved: Notify,
    asked: Notify,
}

impl Run {
    fn want(&self, chunk: u32) {
        if self.wanted.get() <= chunk {
            self.wanted.set(chunk + 1);
            self.asked.notify_one();
        }
    }

    /// Waits until the chunk is stored, or the run has ended.
    async fn reached(&self, chunk: u32) -> Result<(), SliceError> {
        loop {
            let moved = self.moved.notified();
            if self.next.get() > chunk {
                return Ok(());
            }
            if let Some(ended) = &*self.ended.borrow() {
                return ended.clone();
            }
            moved.await;
        }
    }

    /// Waits until somebody wants the chunk. `false`: nobody does any more.
    async fn is_wanted(&self, object: &Object, chunk: u32) -> bool {
        while self.wanted.get() <= chunk {
            if object.readers.get() == 0 || timeout(PAUSE, self.asked.notified()).await.is_err() {
                return false;
            }
        }
        true
    }
}

/// Makes sure that a chunk is stored, for a request that wants those up to `last` too.
pub(super) async fn obtain(
    node: &Rc<Node>,
    object: &Rc<Object>,
    request: &RequestHead,
    chunk: u32,
    last: u32,
) -> Result<(), SliceError> {
    for _ in 0..limits::SLICE_TRIES_MAX {
        if node.writer().has_chunk(object.number, chunk) {
            return Ok(());
        }
        let run = object.run_to(chunk).unwrap_or_else(|| {
            let end = object.gap(node, chunk, last);
            start(node, object, request, chunk..end, None)
        });
        run.want(chunk);
        run.reached(chunk).await?;
    }
    Err(SliceError::Unkept("a slice was lost as soon as it was there".into()))
}

/// Stores the chunks of a response that has just come for them, as they are wanted; the first one in any case.
pub(super) fn take_over(
    node: &Rc<Node>,
    object: &Rc<Object>,
    request: &RequestHead,
    chunks: Range<u32>,
    body: ResponseBody,
) {
    let first = chunks.start;
    start(node, object, request, chunks, Some(body)).want(first);
}

fn start(
    node: &Rc<Node>,
    object: &Rc<Object>,
    request: &RequestHead,
    chunks: Range<u32>,
    body: Option<ResponseBody>,
) -> Rc<Run> {
    let run = Rc::new(Run {
        end: chunks.end,
        next: Cell::new(chunks.start),
        wanted: Cell::new(chunks.start),
        ended: RefCell::new(None),
        moved: Notify::new(),
        asked: Notify::new(),
    });
    object.runs.borrow_mut().push(run.clone());
    let (own, object, its, request) = (node.clone(), object.clone(), run.clone(), request.clone());
    node.spawn(async move {
        let (node, run) = (own, its);
        let ended = tokio::select! {
            biased;
            ended = transfer(&node, &object, &run, &request, body) => ended,
            () = node.broken_off() => Err(failed(503, "the node stops")),
        };
        if let Err(error) = &ended {
            tracing::debug!(?error, "slices broken off");
        }
        if ended == Err(SliceError::Changed) {
            rules::forget_partial(&node, &request, object.number);
        }
        *run.ended.borrow_mut() = Some(ended);
        object.runs.borrow_mut().retain(|other| !Rc::ptr_eq(other, &run));
        run.moved.notify_waiters();
        if node.writer().complete(object.number, object.complete_bytes) {
            rules::complete(&node, &request, object.number);
        }
        settle(&node, &object);
    });
    run
}

async fn transfer(
    node: &Rc<Node>,
    object: &Object,
    run: &Run,
    request: &RequestHead,
    body: Option<ResponseBody>,
) -> Result<(), SliceError> {
    let at = u64::from(run.next.get()) * CHUNK;
    let end = (u64::from(run.end) * CHUNK).min(object.complete_bytes);
    let mut source = Source { node, object, request, body, rest: Bytes::new(), at, end, resumed: 0 };
    for chunk in run.next.get()..run.end {
        if !run.is_wanted(object, chunk).await {
            return Ok(());
        }
        let pieces = source.take(object.bytes_of(chunk)).await?;
        if !node.writer().has_chunk(object.number, chunk) {
            let put = node.writer.borrow_mut().put_chunk(object.number, chunk, &pieces);
            put.map_err(|error| SliceError::Unkept(error.to_string()))?;
            node.cells.add(Counter::SlicesStored, 1);
        }
        run.next.set(chunk + 1);
        run.moved.notify_waiters();
    }
    Ok(())
}

/// The bytes of a run, asked for again where they broke off.
struct Source<'a> {
    node: &'a Rc<Node>,
    object: &'a Object,
    request: &'a RequestHead,
    body: Option<ResponseBody>,
    /// What came beyond the slice at hand.
    rest: Bytes,
    /// Where what comes next lies in the object.
    at: u64,
    end: u64,
    resumed: u32,
}

impl Source<'_> {
    async fn take(&mut self, bytes: u64) -> Result<Vec<Bytes>, SliceError> {
        let mut pieces: Vec<Bytes> = Vec::new();
        let mut missing_bytes = bytes as usize;
        while missing_bytes > 0 {
            if self.rest.is_empty() {
                self.rest = self.next().await?;
            }
            let piece = self.rest.split_to(self.rest.len().min(missing_bytes));
            missing_bytes -= piece.len();
            pieces.push(piece);
            if pieces.len() == PIECES_MAX {
                pieces = vec![pieces.concat().into()];
            }
        }
        Ok(pieces)
    }

    async fn next(&mut self) -> Result<Bytes, SliceError> {
        loop {
            let reason = match &mut self.body {
                None => match self.ask().await {
                    Ok(body) => {
                        self.body = Some(body);
                        continue;
                    }
                    Err(SliceError::Failed(error)) if self.resumed > 0 => error.reason,
                    Err(error) => return Err(error),
                },
                Some(body) => match body.next().await {
                    Ok(Some(bytes)) if bytes.len() as u64 <= self.end - self.at => {
                        self.at += bytes.len() as u64;
                        return Ok(bytes);
                    }
                    Ok(Some(_)) => return Err(failed(502, "more came than was asked for")),
                    Ok(None) => "a part ended short".to_owned(),
                    // What came of it before may be wrong, too, and stored.
                    Err(error) if error.malformed => return Err(SliceError::Changed),
                    Err(error) => error.reason,
                },
            };
            self.body = None;
            if self.resumed == limits::RESUMES_MAX {
                return Err(failed(502, &reason));
            }
            tracing::debug!(reason, at = self.at, "slices are asked for again");
            tokio::time::sleep(RESUME_DELAY * self.resumed).await;
            self.resumed += 1;
        }
    }

    async fn ask(&self) -> Result<ResponseBody, SliceError> {
        let (validator, complete) = (&self.object.validator, Some(self.object.complete_bytes));
        let body = remainder(self.node, self.request, validator, complete, self.at, Some(self.end)).await?;
        Ok(body.0)
    }
}

/// Asks for the bytes from `start` to `end` (`None`: to the end) of a version that is known by its validator and, if
/// told before, its length. Returns them and the length.
pub(super) async fn remainder(
    node: &Node,
    request: &RequestHead,
    validator: &Validator,
    complete_bytes: Option<u64>,
    start: u64,
    end: Option<u64>,
) -> Result<(ResponseBody, u64), SliceError> {
    let (origin, routed) = node.route(request)?;
    let mut outgoing = Outgoing::new(node, &origin, request)?;
    outgoing.unconditional();
    outgoing.name_capability();
    outgoing.obey(&routed.caching);
    validator.ask_for(start, end, outgoing.fields_mut());
    let told = Told { upload: None, sending: &|| {}, interim: &|_| {} };
    let mut response = origin.fetch(&node.bounds, &outgoing, UploadBody::empty(), told).await?;
    match response.status.as_u16() {
        206 => {}
        200 | 412 | 416 => return Err(SliceError::Changed),
        status => return Err(failed(502, &format!("status {status} instead of a part"))),
    }
    let part = partial::content_range(&response.fields).ok_or(SliceError::Changed)?;
    let length = part.complete_bytes.filter(|&bytes| complete_bytes.is_none_or(|known| known == bytes));
    let Some(length) = length.filter(|_| validator.agrees(&response.fields)) else {
        return Err(SliceError::Changed);
    };
    let end = end.unwrap_or(length);
    if part.part != (start..end) {
        return Err(SliceError::Changed);
    }
    response.body.must_be(end - start);
    Ok((response.body, length))
}
