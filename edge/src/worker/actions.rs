//! Between a session and the world: feeds inputs, carries actions out. Knows the shard, the streams and
//! the mailbox; knows no ring and no descriptor.
#![forbid(unsafe_code)]

use super::clients::{Clients, Place};
use super::connection::{Ahead, Connection, Fetch, Phase, Source};
use super::parts::Parts;
use super::populate::Populates;
use super::refreshes::Refreshes;
use super::streams::{Next, Streams, ended};
use super::versions::Admissions;
use super::waiting::{Lookup, Waits, is_there};
use crate::config::Network;
use crate::control::mailbox::{Mailbox, StreamId, Ticket, ToControl};
use crate::limits;
use crate::proto::Now;
use crate::proto::generations::Table;
use crate::proto::request::Scheme;
use crate::proto::session::{Action, Again, Chunks, FetchKind, Found, Input, Out};
use crate::shard::{Cold, Pinned, Reader, ShardReader};
use crate::stats::{Cells, Counter};
use crate::sys::{fault, outbox::Outbox};
use bytes::Bytes;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// What came with an input, for actions that refer to it.
pub(super) enum Given<'a> {
    Nothing,
    Received(&'a [u8]),
    Piece(Bytes),
    Chunk(Pinned, Range<usize>),
}

/// What a session or a stream must hear before anything else.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    None,
    Lookup,
    Refused(u16),
}

/// Everything of a worker but its ring, buffers and table.
pub struct Node {
    /// This turn's time.
    pub now: Now,
    /// Responses under way.
    pub streams: Streams,
    /// The way to control.
    pub mailbox: Arc<Mailbox>,
    /// This worker's counters.
    pub cells: Arc<Cells>,
    /// What each client has, on all workers.
    pub clients: Arc<Clients>,
    /// Pages on their way from the disk.
    pub populates: Populates,
    /// Control sleeps and must be woken at the end of the turn.
    pub wake_control: bool,
    /// The node stops: connections end with what they have under way.
    pub draining: bool,
    /// Streams of control's that HTTP/2 connections went on with; perhaps some can be let go of.
    pub progressed: Vec<StreamId>,
    /// How many connections may speak HTTP/2.
    pub(super) admissions: Admissions,
    /// Slots of those that have something to do at the end of the turn, each once.
    pub(super) multiplexed: VecDeque<u32>,
    /// Frames of theirs, and requests by what they count for, that this turn may still deal with.
    pub(super) frames_left: u32,
    /// Requests that wait until their connections may ask control for more.
    pub(super) held: usize,
    /// Proxies whose word on their clients counts.
    pub(super) trusted: Arc<[Network]>,
    pub(super) reader: Reader,
    pub(super) out: Out,
    /// What the input at hand made us ask control for.
    pub(super) fetched: Option<FetchKind>,
    pub(super) worker: u16,
    pub(super) serial: u64,
    pub(super) purges: Arc<Table>,
    /// Messages that did not fit the queue and must not be lost; new fetches are refused meanwhile.
    pub(super) unsent: VecDeque<ToControl>,
    pub(super) outboxes: Vec<Outbox>,
    pub(super) refreshes: Refreshes,
}

impl Node {
    /// The node of worker number `worker`.
    pub fn new(
        worker: u16,
        (reader, purges): (Reader, Arc<Table>),
        mailbox: Arc<Mailbox>,
        (cells, clients): (Arc<Cells>, Arc<Clients>),
        out: Out,
        now: Now,
    ) -> Self {
        Node {
            now,
            streams: Streams::default(),
            populates: Populates::default(),
            mailbox,
            cells,
            clients,
            wake_control: false,
            draining: false,
            progressed: Vec::new(),
            admissions: Admissions::new(limits::CONNECTIONS_PER_WORKER),
            trusted: Arc::default(),
            multiplexed: VecDeque::new(),
            frames_left: 0,
            held: 0,
            reader,
            purges,
            out,
            fetched: None,
            worker,
            serial: 0,
            unsent: VecDeque::new(),
            outboxes: (0..limits::OUTBOXES_READY).map(|_| Outbox::default()).collect(),
            refreshes: Refreshes::default(),
        }
    }

    /// Reads a shard that was opened later.
    pub fn take_shard(&mut self, shard: ShardReader) {
        self.reader.take(shard);
    }

    /// Timeouts in force.
    pub fn timeouts(&self) -> crate::proto::session::Timeouts {
        self.out.timeouts
    }

    /// Bytes came from the peer. Taken while the session takes them, kept else. `head`: they begin with so many of a
    /// request's head, which is parsed into `out.request` already.
    pub fn receive(&mut self, connection: &mut Connection, slot: u32, data: &[u8], head: Option<usize>) {
        if connection.undecided && connection.scheme == Scheme::Https {
            // It came with the end of the handshake, and ALPN says what it is: soon.
            return connection.stash.extend_from_slice(data);
        }
        if connection.undecided {
            return self.decide(connection, slot, data);
        }
        if !connection.stash.is_empty() || connection.multiplex.is_some() {
            connection.stash.extend_from_slice(data);
            self.feed_stash(connection, slot);
            return;
        }
        let used = self.feed_bytes(connection, slot, data, head);
        if connection.phase == Phase::Open {
            connection.stash.extend_from_slice(&data[used..]);
        }
    }

    /// Offers kept bytes again. Says whether any were taken.
    pub fn feed_stash(&mut self, connection: &mut Connection, slot: u32) -> bool {
        if connection.stash.is_empty() || !connection.takes_input() {
            return false;
        }
        let mut stash = std::mem::take(&mut connection.stash);
        let used = self.feed_bytes(connection, slot, &stash, None);
        if used == stash.len() || connection.phase != Phase::Open {
            // An idle connection keeps no buffer.
            return used > 0;
        }
        stash.drain(..used);
        connection.stash = stash;
        used > 0
    }

    fn feed_bytes(
        &mut self,
        connection: &mut Connection,
        slot: u32,
        data: &[u8],
        mut head: Option<usize>,
    ) -> usize {
        let mut used = 0;
        while used < data.len() && connection.takes_input() {
            let rest = &data[used..];
            // It was parsed before the completions ahead of it were dealt with: what is expected now decides.
            let input = match head.take() {
                Some(bytes) if connection.session.awaits_head() => Input::Head(bytes),
                _ => Input::Received(rest),
            };
            let taken = self.feed(connection, slot, input, Given::Received(rest));
            used += taken;
            if taken == 0 {
                break;
            }
        }
        used
    }

    /// Tells the session something that carries no bytes.
    pub fn tell(&mut self, connection: &mut Connection, slot: u32, input: Input<'_>) {
        if connection.multiplex.is_some() {
            return self.tell_multiplex(connection, slot, &input);
        }
        self.feed(connection, slot, input, Given::Nothing);
    }

    /// A request that control gave back is looked up again.
    pub fn again(
        &mut self,
        connection: &mut Connection,
        slot: u32,
        request: crate::proto::request::RequestHead,
        why: Again,
    ) {
        self.out.request = request;
        self.tell(connection, slot, Input::Again(why));
    }

    /// One input, and all that follows from it in the same call chain.
    fn feed(
        &mut self,
        connection: &mut Connection,
        slot: u32,
        input: Input<'_>,
        mut given: Given<'_>,
    ) -> usize {
        let fresh = matches!(input, Input::Received(_) | Input::Head(_));
        connection.introduce(&mut self.out.request);
        self.fetched = None;
        self.out.clear();
        connection.session.on(input, self.now, &mut self.out);
        let consumed = self.out.consumed;
        let answer = self.act(connection, slot, &mut given, None);
        self.answer(connection, slot, &mut given, answer, Lookup { fresh, ..Lookup::default() });
        consumed
    }

    /// Gives `on` what an action must hear, and returns the record that was found for it. The error: a lookup has to
    /// wait for the disk, and nothing was told.
    #[inline]
    pub(super) fn tell_answer(
        &mut self,
        answer: Answer,
        lookup: &mut Lookup,
        on: impl FnOnce(Input<'_>, Now, &mut Out),
    ) -> Result<Option<Pinned>, Cold> {
        let mut found = None;
        let mut lines = Vec::new();
        let has;
        let input = match answer {
            Answer::None => return Ok(None),
            Answer::Refused(status) => {
                self.cells.add(Counter::Overflows, 1);
                self.out.transport.push(&self.out.request, &mut lines);
                Input::Refused(status, &lines)
            }
            Answer::Lookup => {
                lookup.done = true;
                let purged;
                (found, purged) = self.look_up(*lookup)?;
                let partial = found.as_ref().filter(|pinned| pinned.partial()).and_then(Pinned::chunked);
                let reader = &self.reader;
                has = move |part| partial.is_some_and(|object| is_there(reader, object, part));
                Input::Found(found.as_ref().map(|pinned| Found {
                    meta: pinned.meta(),
                    head: pinned.head(),
                    chunks: partial.map(|_| Chunks(&has)),
                    purged,
                }))
            }
        };
        self.out.clear();
        on(input, self.now, &mut self.out);
        Ok(found)
    }

    /// Tells the session what it must hear until it asks for nothing more, or has to wait for the disk.
    pub(super) fn answer(
        &mut self,
        connection: &mut Connection,
        slot: u32,
        given: &mut Given<'_>,
        mut answer: Answer,
        mut lookup: Lookup,
    ) {
        let faults = fault::count();
        while answer != Answer::None {
            let session = &mut connection.session;
            match self.tell_answer(answer, &mut lookup, |input, now, out| session.on(input, now, out)) {
                Ok(found) => answer = self.act(connection, slot, given, found),
                Err(cold) => return self.park(connection, slot, cold, lookup),
            }
        }
        if lookup.fresh {
            self.count(connection, lookup);
        }
        if lookup.done && fault::count() != faults {
            // What was read of a record may have been zeroes in the place of a page that is gone.
            self.cells.add(Counter::Broken, 1);
            connection.phase = Phase::Aborted;
        }
    }

    fn act(
        &mut self,
        connection: &mut Connection,
        slot: u32,
        given: &mut Given<'_>,
        mut found: Option<Pinned>,
    ) -> Answer {
        let mut answer = Answer::None;
        let mut stored_head = 0..0;
        let actions = std::mem::take(&mut self.out.actions);
        for action in &actions {
            match action {
                Action::Lookup => answer = Answer::Lookup,
                Action::Write(range) => {
                    outbox(&mut self.outboxes, connection).push_copy(&self.out.bytes[range.clone()]);
                }
                Action::StoredHead(range) => stored_head = range.clone(),
                Action::StoredBody(range) => {
                    if let Some(pinned) = found.take() {
                        pinned.sending();
                        let head = std::mem::take(&mut stored_head);
                        let mut body = range.start as usize..range.end as usize;
                        if let Some(object) = pinned.chunked() {
                            // The chunks follow from the shard, as the outbox takes them.
                            connection.source =
                                Source::Chunks { object, offset: range.start, end: range.end };
                            body = 0..0;
                        }
                        outbox(&mut self.outboxes, connection).push_record(pinned, head, body);
                    }
                }
                Action::StoredPart { text, body } => {
                    if let Some(pinned) = found.take() {
                        connection.parts = Some(Box::new(Parts::new(pinned)));
                        connection.source = Source::Parts;
                    }
                    if let Some(parts) = &mut connection.parts {
                        parts.add(&self.out.bytes[text.clone()], body.clone());
                    }
                }
                Action::Refresh => self.refresh(),
                Action::Fetch(kind) => {
                    if !self.fetch(connection, slot, *kind) {
                        answer = Answer::Refused(503);
                    }
                }
                Action::Piece => match std::mem::replace(given, Given::Nothing) {
                    Given::Piece(bytes) => outbox(&mut self.outboxes, connection).push_bytes(bytes),
                    Given::Chunk(pinned, range) => {
                        outbox(&mut self.outboxes, connection).push_record(pinned, 0..0, range);
                    }
                    Given::Nothing | Given::Received(_) => {}
                },
                Action::Forward(range) => {
                    if let Given::Received(data) = given {
                        let bytes = Bytes::copy_from_slice(&data[range.clone()]);
                        self.forward_some(connection, slot, bytes, false);
                    }
                }
                Action::ForwardTrailer(range) => {
                    if let (Given::Received(data), Some(fetch)) = (&given, &connection.fetch) {
                        self.forward_trailer(fetch, slot, Bytes::copy_from_slice(&data[range.clone()]));
                    }
                }
                Action::ForwardEnd => self.forward_some(connection, slot, Bytes::new(), true),
                Action::Done => self.detach(connection, slot, true),
                Action::Close => {
                    // After `Done` nothing is left to detach; without it the request was given up.
                    self.detach(connection, slot, connection.fetch.is_none());
                    connection.phase = Phase::Finishing;
                }
                Action::Abort => connection.phase = Phase::Aborted,
            }
        }
        if let Some(pinned) = found
            && !stored_head.is_empty()
        {
            outbox(&mut self.outboxes, connection).push_record(pinned, stored_head, 0..0);
        }
        self.out.actions = actions;
        answer
    }

    /// Ends what connects a request with control. `whole`: the response was queued to its end.
    pub fn detach(&mut self, connection: &mut Connection, slot: u32, whole: bool) {
        let Connection { source, fetch, place, .. } = connection;
        self.release(source, fetch, (slot, *place), whole);
        if connection.source != Source::Parts {
            connection.parts = None;
        }
        if connection.source == Source::None {
            connection.ahead = Ahead::Ready;
        }
    }

    /// As [`Node::detach`], for the request of one exchange, on this slot, of a client counted there.
    pub(super) fn release(
        &mut self,
        source: &mut Source,
        fetch: &mut Option<Fetch>,
        (slot, place): (u32, Place),
        whole: bool,
    ) {
        if let Source::Stream { id, .. } = *source {
            self.streams.leave(id);
        }
        // A stored body is queued on after `Done`; nobody but the shard is concerned.
        if !(whole && matches!(source, Source::Chunks { .. } | Source::Parts)) {
            *source = Source::None;
        }
        let Some(fetch) = fetch.take() else {
            return;
        };
        self.asked(place, !whole);
        if !whole {
            let ticket = Ticket { worker: self.worker, slot, serial: fetch.serial };
            self.post(ToControl::Gone { ticket });
        }
    }

    /// Queues more of a body that is not wholly queued. Says whether anything changed.
    pub fn refill(&mut self, connection: &mut Connection, slot: u32) -> bool {
        if connection.outbox.as_ref().is_some_and(|outbox| !outbox.has_room()) {
            return false;
        }
        match connection.source {
            Source::None => false,
            _ if connection.ahead == Ahead::Populating => false,
            Source::Chunks { object, offset, end } => {
                self.refill_chunk(connection, slot, object, offset, end)
            }
            Source::Parts => self.refill_part(connection, slot),
            Source::Stream { offset, end, .. } if offset >= end => {
                self.tell(connection, slot, Input::End);
                true
            }
            Source::Stream { id, offset, end } => {
                let most = usize::try_from(end - offset).unwrap_or(usize::MAX);
                let (given, bytes) = match self.streams.next(id, offset) {
                    Next::Wait => return false,
                    Next::End(trailers) => {
                        self.tell(connection, slot, ended(&trailers));
                        return true;
                    }
                    Next::Piece(mut bytes) => {
                        bytes.truncate(most);
                        let len = bytes.len();
                        (Given::Piece(bytes), len)
                    }
                    Next::Chunk { object, chunk, from } => {
                        match self.chunk(connection, slot, object, chunk) {
                            Ok(Some(pinned)) if from < pinned.body().len() => {
                                let bytes = (pinned.body().len() - from).min(most);
                                (Given::Chunk(pinned, from..from + bytes), bytes)
                            }
                            Ok(_) => return self.broken(connection, slot),
                            Err(Waits) => return false,
                        }
                    }
                    Next::Broken => return self.broken(connection, slot),
                };
                connection.source = Source::Stream { id, offset: offset + bytes as u64, end };
                self.feed(connection, slot, Input::Piece(bytes), given);
                if self.streams.get_mut(id).is_some_and(|stream| stream.pass) {
                    self.credit(id, bytes);
                }
                true
            }
        }
    }

    fn broken(&mut self, connection: &mut Connection, slot: u32) -> bool {
        self.cells.add(Counter::Broken, 1);
        if let Source::Stream { id, .. } = connection.source
            && self.streams.is_broken(id)
        {
            // It is not the client who gives up.
            self.let_go_of_fetch(connection);
        }
        self.tell(connection, slot, Input::Broken);
        true
    }

    /// Takes back an outbox that is empty, or whose connection is gone; not what the kernel has still to send of it.
    pub fn recycle(&mut self, connection: &mut Connection) {
        if let Some(mut outbox) = connection.outbox.take_if(|outbox| !outbox.in_flight()) {
            outbox.clear();
            self.outboxes.push(outbox);
        }
    }
}

/// The connection's outbox, taken from the pool if it has none.
pub(super) fn outbox<'a>(pool: &mut Vec<Outbox>, connection: &'a mut Connection) -> &'a mut Outbox {
    connection.outbox.get_or_insert_with(|| {
        let mut outbox = pool.pop().unwrap_or_default();
        outbox.set_copied(connection.sealed_here);
        outbox
    })
}
