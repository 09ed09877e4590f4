//! Fills: one origin request for a key, however many ask. Decides who shares a response, who has to be fetched
//! alone, and what a validation changes. How the body is stored while it streams is in `sealing`.
//!
//! | the response            | who asked first              | who else waits                                       |
//! |-------------------------|------------------------------|------------------------------------------------------|
//! | may be stored           | joins the stream             | joins if its selected fields match, else a fill of its own variant |
//! | may not                 | gets it passed through       | fetched alone, each; the key is remembered a while   |
//! | a part, to a request for slices | see `ranged`             |                                                      |
//! | 304 to our validation   | looks up again               | the same if it matches the record, else a fill       |
//! | 500, 502, 503 or 504    | what is stored, where stale-if-error allows it, else as above | the same            |
//! | none                    | what is stored, where that is allowed, else 502, 503 or 504   | the same            |
//!
//! A refresh of what was served stale has nobody who asked first.
#![forbid(unsafe_code)]

use super::mailbox::Ticket;
use super::origin::{FetchError, Told};
use super::outgoing::Outgoing;
use super::reasons::Reason;
use super::response::Response;
use super::rules::{self, Selector};
use super::sealing::{self, Filling};
use super::uncacheable::Uncacheable;
use super::upload::UploadBody;
pub(super) use super::waiter::{Leader, Waiter};
use super::{Node, Routed, pass, ranged, stream::Stream};
use crate::clock;
use crate::proto::freshness::Storing;
use crate::proto::generations::Verdict;
use crate::proto::purge::Tags;
use crate::proto::request::RequestHead;
use crate::proto::response::OriginHead;
use crate::proto::reuse::{self, Failure};
use crate::proto::session::{Again, FetchKind};
use crate::stats::Counter;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::Notify;

/// One fetch of one key.
pub(super) struct Fill {
    key: Vec<u8>,
    hash: u64,
    /// Which origin, for requests that would go elsewhere must not share it.
    origin: usize,
    /// Whether others may wait for its head. Not so where the last response could not be stored, or where the origin
    /// may answer to one client alone.
    shared: bool,
    /// The variant it is for, where an earlier response has told what the key varies on.
    selector: Option<Selector>,
    /// The number of the last purge when it began: who asks after a later one that names it does not join.
    purges: u64,
    /// Cleared when the key was invalidated meanwhile: what is under way must not be published.
    publish: Cell<bool>,
    /// The origin has been sent its request; or somebody wants it who does not wait, as for a refresh.
    sent: Cell<bool>,
    /// Somebody who waited has left.
    left: Notify,
    pub(super) state: RefCell<State>,
}

/// How far a fill is.
pub(super) enum State {
    /// No head yet.
    Waiting(Vec<Waiter>),
    /// Its body is on the way.
    Streaming(Box<Filling>),
    /// Over.
    Done,
}

/// All fills.
#[derive(Default)]
pub(super) struct Fills {
    /// All that run; their state says which may be joined.
    by_key: RefCell<HashMap<Vec<u8>, Vec<Rc<Fill>>>>,
    waiting: RefCell<HashMap<Ticket, Rc<Fill>>>,
    uncacheable: RefCell<Uncacheable>,
    /// Keys of which the origin's last part could not be kept.
    unsliceable: RefCell<Uncacheable>,
    running: Cell<usize>,
}

impl Fills {
    /// Fills that run.
    pub(super) fn running(&self) -> usize {
        self.running.get()
    }

    /// Requests that wait for a head.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.borrow().len()
    }

    /// A part of this fill's object could be kept.
    pub(super) fn sliceable(&self, fill: &Fill) {
        self.uncacheable.borrow_mut().forget(fill.hash);
        self.unsliceable.borrow_mut().forget(fill.hash);
    }

    /// It could not.
    pub(super) fn not_sliceable(&self, fill: &Fill) {
        self.unsliceable.borrow_mut().remember(fill.hash, clock::now().mono_ms);
    }

    /// Keys remembered as uncacheable.
    pub(super) fn uncacheable(&self) -> usize {
        self.uncacheable.borrow().len()
    }

    /// Whether a fill of this key runs.
    pub(super) fn runs(&self, key: &[u8]) -> bool {
        self.by_key.borrow().contains_key(key)
    }

    /// A client left. Its fill goes on if others wait, or the origin was asked already.
    pub(super) fn gone(&self, ticket: Ticket) {
        let Some(fill) = self.waiting.borrow_mut().remove(&ticket) else { return };
        if let State::Waiting(waiters) = &mut *fill.state.borrow_mut() {
            waiters.retain(|waiter| waiter.ticket != ticket);
            fill.left.notify_one();
        }
    }

    /// What runs for this key is not published, and not joined by later requests.
    pub(super) fn invalidate(&self, key: &[u8]) {
        for fill in self.by_key.borrow().get(key).into_iter().flatten() {
            fill.publish.set(false);
        }
    }

    fn list(&self, fill: &Rc<Fill>) {
        self.by_key.borrow_mut().entry(fill.key.clone()).or_default().push(fill.clone());
    }

    fn unlist(&self, fill: &Rc<Fill>) {
        let mut by_key = self.by_key.borrow_mut();
        if let Some(fills) = by_key.get_mut(&fill.key) {
            fills.retain(|other| !Rc::ptr_eq(other, fill));
            if fills.is_empty() {
                by_key.remove(&fill.key);
            }
        }
    }

    /// Whether a fill runs that this request could share.
    fn runs_for(&self, request: &RequestHead, origin: usize) -> bool {
        let by_key = self.by_key.borrow();
        let mut fills = by_key.get(request.key.as_slice()).into_iter().flatten();
        fills.any(|fill| match &*fill.state.borrow() {
            _ if !fill.publish.get() => false,
            State::Streaming(filling) => filling.takes(request),
            State::Waiting(_) => fill.waits_for(request, origin),
            State::Done => false,
        })
    }

    /// Lets a waiter share what already runs, or gives it back.
    fn join(&self, node: &Node, waiter: Waiter, origin: usize) -> Result<(), Waiter> {
        let by_key = self.by_key.borrow();
        for fill in by_key.get(waiter.request.key.as_slice()).into_iter().flatten() {
            match &mut *fill.state.borrow_mut() {
                _ if !fill.publish.get() => continue,
                State::Streaming(filling) if filling.is_purged(node, fill) => continue,
                State::Streaming(filling) if filling.reaches(&waiter.request) => {
                    filling.join(node, waiter.ticket, &waiter.request, None)
                }
                State::Waiting(_) if fill.is_purged(node) => continue,
                State::Waiting(waiters) if fill.waits_for(&waiter.request, origin) => {
                    self.waiting.borrow_mut().insert(waiter.ticket, fill.clone());
                    waiters.push(waiter);
                }
                _ => continue,
            }
            node.cells.add(Counter::FillsJoined, 1);
            return Ok(());
        }
        Err(waiter)
    }
}

impl Fill {
    /// Whether its object may be published.
    pub(super) fn publishes(&self) -> bool {
        self.publish.get()
    }

    /// Key and its hash.
    pub(super) fn key(&self) -> (u64, &[u8]) {
        (self.hash, &self.key)
    }

    /// Whether a purge since it began may name it: as long as its head is not there, it may have any tag.
    fn is_purged(&self, node: &Node) -> bool {
        node.purges.judge(self.purges, &self.key, Tags::UNKNOWN) != Verdict::Valid
    }

    /// Returns once nobody waits for it any more, and nothing was done for it yet.
    async fn deserted(&self) {
        let is_wanted = || !matches!(&*self.state.borrow(), State::Waiting(waiters) if waiters.is_empty());
        while self.sent.get() || is_wanted() {
            self.left.notified().await;
        }
    }

    fn waits_for(&self, request: &RequestHead, origin: usize) -> bool {
        let variant = self.selector.as_ref().is_none_or(|selector| selector.selects(request));
        self.shared && self.origin == origin && variant && reuse::is_shareable(request)
    }

    /// Puts back those that wait on.
    fn wait(self: &Rc<Self>, node: &Node, waiters: Vec<Waiter>) {
        let mut waiting = node.fills.waiting.borrow_mut();
        waiting.extend(waiters.iter().map(|waiter| (waiter.ticket, self.clone())));
        *self.state.borrow_mut() = State::Waiting(waiters);
    }

    /// All who wait for its head.
    pub(super) fn take_waiters(&self, node: &Node) -> Vec<Waiter> {
        let State::Waiting(waiters) = self.state.replace(State::Done) else { return Vec::new() };
        let mut waiting = node.fills.waiting.borrow_mut();
        waiters.iter().for_each(|waiter| {
            waiting.remove(&waiter.ticket);
        });
        waiters
    }
}

/// A request asks for a key: it joins what runs, is told to look again, or starts a fill.
pub(super) fn request(node: &Rc<Node>, waiter: Waiter) {
    let hash = waiter.request.key_hash;
    let origin = match node.route(&waiter.request) {
        Ok((_, routed)) => routed.origin,
        Err(error) => return node.refuse(waiter.ticket, &waiter.request, error.status),
    };
    let waiter = match node.fills.join(node, waiter, origin) {
        Ok(()) => return,
        Err(waiter) => waiter,
    };
    // Its lookup may have come before what was published since.
    let Err(waiter) = ranged::fresh(node, waiter) else { return };
    let now_ms = clock::now().mono_ms;
    let alone =
        node.fills.uncacheable.borrow_mut().contains(hash, now_ms) || !reuse::is_shareable(&waiter.request);
    if waiter.kind == FetchKind::Part && waiter.request.has_range() {
        let unsliceable = node.fills.unsliceable.borrow_mut().contains(hash, now_ms);
        if alone || unsliceable || ranged::is_for_origin(&waiter.request) {
            return pass::start(node, waiter.ticket, waiter.request);
        }
    }
    start(node, vec![waiter], origin, None, !alone);
}

/// Something stale was served that may be for a while: a fresh one is asked for, once, and nobody waits for it.
pub(super) fn refresh(node: &Rc<Node>, request: Box<RequestHead>) {
    let Ok((_, routed)) = node.route(&request) else { return };
    if node.fills.runs_for(&request, routed.origin) || rules::is_fresh(node, &request) {
        return;
    }
    node.cells.add(Counter::Refreshes, 1);
    let shared = reuse::is_shareable(&request);
    let leader = Leader { ticket: None, kind: FetchKind::Revalidate, request };
    start_for(node, leader, Vec::new(), routed.origin, None, shared);
}

/// Starts a fill for these waiters; the first one's request is sent. `shared`: others may join before its head is there.
fn start(node: &Rc<Node>, waiters: Vec<Waiter>, origin: usize, selector: Option<Selector>, shared: bool) {
    let Some(first) = waiters.first() else { return };
    let leader = Leader { ticket: Some(first.ticket), kind: first.kind, request: first.request.clone() };
    start_for(node, leader, waiters, origin, selector, shared);
}

fn start_for(
    node: &Rc<Node>,
    leader: Leader,
    waiters: Vec<Waiter>,
    origin: usize,
    selector: Option<Selector>,
    shared: bool,
) {
    let request = &leader.request;
    let fill = Rc::new(Fill {
        key: request.key.clone(),
        hash: request.key_hash,
        origin,
        shared,
        selector,
        purges: node.purges.sequence().get(),
        publish: Cell::new(true),
        sent: Cell::new(leader.ticket.is_none()),
        left: Notify::new(),
        state: RefCell::new(State::Done),
    });
    fill.wait(node, waiters);
    node.fills.list(&fill);
    let task_node = node.clone();
    node.spawn(async move {
        let node = task_node;
        node.fills.running.set(node.fills.running.get() + 1);
        tokio::select! {
            biased;
            () = fill.deserted() => {}
            () = run(&node, &fill, &leader) => {}
            () = node.broken_off() => {}
        }
        node.fills.running.set(node.fills.running.get() - 1);
        node.fills.unlist(&fill);
        sealing::break_off(&node, &fill);
        for waiter in fill.take_waiters(&node) {
            node.refuse(waiter.ticket, &waiter.request, 503);
        }
    });
}

async fn run(node: &Rc<Node>, fill: &Rc<Fill>, leader: &Leader) {
    let Err(error) = fetch_and_share(node, fill, leader).await else { return };
    node.not_stored(fill.hash, Reason::Failed(error.status));
    for waiter in fill.take_waiters(node) {
        node.fail(waiter, &error);
    }
}

/// The error is what waiters are told; there is none once the head has reached them.
async fn fetch_and_share(node: &Rc<Node>, fill: &Rc<Fill>, leader: &Leader) -> Result<(), FetchError> {
    let request = &leader.request;
    let (origin, routed) = node.route(request)?;
    let mut outgoing = Outgoing::new(node, &origin, request)?;
    if fill.shared {
        outgoing.unconditional();
    }
    outgoing.name_capability();
    outgoing.obey(&routed.caching);
    let conditional = leader.kind != FetchKind::Fill && rules::condition(node, request, &mut outgoing);
    let slices = if leader.kind == FetchKind::Part { ranged::ask(request, &mut outgoing) } else { None };
    let interim = |interim| node.interim(leader.ticket, interim);
    let told = Told { upload: None, sending: &|| fill.sent.set(true), interim: &interim };
    let mut response = origin.fetch(&node.bounds, &outgoing, UploadBody::empty(), told).await?;
    super::transport::harden(node, request, &mut response.fields);
    if response.status == 304 && conditional {
        not_modified(node, fill, leader, &mut response, &routed);
        return Ok(());
    }
    let status = response.status.as_u16();
    if let Some(failure) = Failure::of_status(status)
        && !replace(node, fill, leader, failure, status)
    {
        return Ok(());
    }
    if let Some(start) = slices {
        ranged::make_whole(&mut response);
        if matches!(response.status.as_u16(), 206 | 416) {
            return ranged::opened(node, fill, leader, response, &routed, start);
        }
    }
    let judged = rules::judge(request, &mut response, &routed)?;
    let fits = judged.head.body_bytes.is_none_or(|bytes| bytes <= rules::object_bytes_max(node));
    match judged.facts {
        Some(facts) if fits => {
            let chunked = sealing::needs_object(judged.head.body_bytes);
            let object = if chunked { node.writer.borrow_mut().new_object(request.key_hash) } else { 0 };
            let stream = Stream::new(node.new_stream(), judged.head.clone(), object, false, node.workers());
            share(node, fill, leader, Filling::new(stream, judged.head, facts, request), judged.own);
            sealing::run(node, fill, request, response.body).await;
        }
        Some(_) => not_stored(node, fill, leader, rules::unstored(&judged.own, "too-large"), response),
        None => not_stored(node, fill, leader, judged.own, response),
    }
    Ok(())
}

/// The origin has answered with an error: those who may get what is stored instead do. Says whether the error still
/// goes to the client whose request was sent; else nobody wants it, nor does the store, which has better.
fn replace(node: &Rc<Node>, fill: &Rc<Fill>, leader: &Leader, failure: Failure, status: u16) -> bool {
    let mut left = Vec::new();
    let mut leads = false;
    for waiter in fill.take_waiters(node) {
        if rules::may_replace(node, &waiter.request, failure) {
            node.replace(waiter, Some(status));
        } else {
            leads |= Some(waiter.ticket) == leader.ticket;
            left.push(waiter);
        }
    }
    if leads {
        fill.wait(node, left);
        return true;
    }
    for waiter in left {
        start(node, vec![waiter], fill.origin, None, false);
    }
    false
}

/// The response may be stored: all who match it share its stream, under its `own` head the one whose request was sent;
/// the others get fills of their variants.
fn share(node: &Rc<Node>, fill: &Rc<Fill>, leader: &Leader, mut filling: Filling, own: Arc<OriginHead>) {
    node.fills.uncacheable.borrow_mut().forget(fill.hash);
    let mut variants: Vec<(Selector, Vec<Waiter>)> = Vec::new();
    let mut far = Vec::new();
    for waiter in fill.take_waiters(node) {
        let leads = Some(waiter.ticket) == leader.ticket;
        if !leads && filling.takes(&waiter.request) && !filling.reaches(&waiter.request) {
            far.push(waiter);
            continue;
        }
        if leads || filling.takes(&waiter.request) {
            filling.join(node, waiter.ticket, &waiter.request, leads.then_some(&own));
            continue;
        }
        match variants.iter_mut().find(|(selector, _)| selector.selects(&waiter.request)) {
            Some((_, waiters)) => waiters.push(waiter),
            None => variants.push((filling.selector(&waiter.request), vec![waiter])),
        }
    }
    *fill.state.borrow_mut() = State::Streaming(Box::new(filling));
    for waiter in far {
        self::request(node, waiter);
    }
    for (selector, waiters) in variants {
        start(node, waiters, fill.origin, Some(selector), true);
    }
}

/// The response may not be stored: it belongs to the one whose request was sent.
fn not_stored(node: &Rc<Node>, fill: &Rc<Fill>, leader: &Leader, head: Arc<OriginHead>, response: Response) {
    // What one client's Authorization brings says nothing of what others get.
    if reuse::is_shareable(&leader.request) {
        node.fills.uncacheable.borrow_mut().remember(fill.hash, clock::now().mono_ms);
    }
    if leader.ticket.is_none() {
        // A refresh has brought what may not be stored: what was served meanwhile has had its time.
        node.invalidate(fill.hash, &fill.key);
    }
    if let Storing::No(rule) = head.storing {
        node.not_stored(fill.hash, Reason::Uncacheable(rule));
    }
    let mut leads = None;
    for waiter in fill.take_waiters(node) {
        if Some(waiter.ticket) == leader.ticket {
            leads = leader.ticket;
        } else {
            self::request(node, waiter);
        }
    }
    if let Some(ticket) = leads {
        pass::take_over(node, ticket, head, response.body);
    }
}

/// The stored response is good again.
fn not_modified(node: &Rc<Node>, fill: &Rc<Fill>, leader: &Leader, response: &mut Response, routed: &Routed) {
    let freshened = fill.publishes() && rules::freshen(node, &leader.request, response, routed);
    if freshened {
        node.cells.add(Counter::Revalidated, 1);
    }
    let mut others = Vec::new();
    for mut waiter in fill.take_waiters(node) {
        if freshened && rules::is_stored(node, &waiter.request) {
            let collapsed = Some(waiter.ticket) != leader.ticket;
            ranged::serve(node, waiter, Again::Revalidated { collapsed });
        } else {
            // The record was lost meanwhile, or is of another variant: what is needed is the whole response.
            waiter.kind = if freshened { waiter.kind } else { FetchKind::Fill };
            others.push(waiter);
        }
    }
    for waiter in others {
        self::request(node, waiter);
    }
}
