//! Between a session and the world: feeds inputs, carries actions out. Knows the shard, the streams and
//! the mailbox; knows no ring and no descriptor.
#![forbid(unsafe_code)]

use super::connection::{Connection, Fetch, Phase, Source};
use super::parts::{Part, Parts};
use super::streams::{Next, Streams};
use crate::control::mailbox::{Mailbox, Ticket, ToControl};
use crate::limits;
use crate::proto::Now;
use crate::proto::generations::{Table, Verdict};
use crate::proto::request::Scheme;
use crate::proto::session::{Action, Chunks, FetchKind, Found, Input, Out};
use crate::proto::stored;
use crate::shard::{Pinned, Reader, ShardReader};
use crate::stats::{Cells, Counter};
use crate::sys::{fault, outbox::Outbox};
use bytes::Bytes;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// What came with an input, for actions that refer to it.
enum Given<'a> {
    Nothing,
    Received(&'a [u8]),
    Piece(Bytes),
    Chunk(Pinned, Range<usize>),
}

/// What must be said to the session before anything else.
enum Answer {
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
    /// Control sleeps and must be woken at the end of the turn.
    pub wake_control: bool,
    worker: u16,
    serial: u64,
    reader: Reader,
    purges: Arc<Table>,
    out: Out,
    /// What the input at hand made us ask control for.
    fetched: Option<FetchKind>,
    /// Messages that did not fit the queue and must not be lost; new fetches are refused meanwhile.
    unsent: VecDeque<ToControl>,
    outboxes: Vec<Outbox>,
}

impl Node {
    /// The node of worker number `worker`.
    pub fn new(
        worker: u16,
        (reader, purges): (Reader, Arc<Table>),
        mailbox: Arc<Mailbox>,
        cells: Arc<Cells>,
        out: Out,
        now: Now,
    ) -> Self {
        Node {
            now,
            streams: Streams::default(),
            mailbox,
            cells,
            wake_control: false,
            worker,
            serial: 0,
            reader,
            purges,
            out,
            fetched: None,
            unsent: VecDeque::new(),
            outboxes: (0..limits::OUTBOXES_READY).map(|_| Outbox::default()).collect(),
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

    /// Bytes came from the peer. Taken while the session takes them, kept else.
    pub fn receive(&mut self, connection: &mut Connection, slot: u32, data: &[u8]) {
        if !connection.stash.is_empty() {
            connection.stash.extend_from_slice(data);
            self.feed_stash(connection, slot);
            return;
        }
        let used = self.feed_bytes(connection, slot, data);
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
        let used = self.feed_bytes(connection, slot, &stash);
        if used == stash.len() || connection.phase != Phase::Open {
            // An idle connection keeps no buffer.
            return used > 0;
        }
        stash.drain(..used);
        connection.stash = stash;
        used > 0
    }

    fn feed_bytes(&mut self, connection: &mut Connection, slot: u32, data: &[u8]) -> usize {
        let mut used = 0;
        while used < data.len() && connection.takes_input() {
            let rest = &data[used..];
            let taken = self.feed(connection, slot, Input::Received(rest), Given::Received(rest));
            used += taken;
            if taken == 0 {
                break;
            }
        }
        used
    }

    /// Tells the session something that carries no bytes.
    pub fn tell(&mut self, connection: &mut Connection, slot: u32, input: Input<'_>) {
        self.feed(connection, slot, input, Given::Nothing);
    }

    /// A request that control gave back is looked up again.
    pub fn again(
        &mut self,
        connection: &mut Connection,
        slot: u32,
        request: crate::proto::request::RequestHead,
        revalidated: bool,
    ) {
        self.out.request = request;
        self.tell(connection, slot, Input::Again { revalidated });
    }

    /// One input, and all that follows from it in the same call chain.
    fn feed(
        &mut self,
        connection: &mut Connection,
        slot: u32,
        input: Input<'_>,
        mut given: Given<'_>,
    ) -> usize {
        let fresh = matches!(input, Input::Received(_));
        let faults = fault::count();
        self.out.request.scheme = connection.scheme;
        self.fetched = None;
        self.out.clear();
        connection.session.on(input, self.now, &mut self.out);
        let consumed = self.out.consumed;
        let mut answer = self.act(connection, slot, &mut given, None);
        let mut looked_up = false;
        loop {
            let found;
            let has;
            let input = match answer {
                Answer::None => break,
                Answer::Refused(status) => {
                    found = None;
                    self.cells.add(Counter::Overflows, 1);
                    Input::Refused(status)
                }
                Answer::Lookup => {
                    looked_up = true;
                    let purged;
                    (found, purged) = self.look_up();
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
            connection.session.on(input, self.now, &mut self.out);
            answer = self.act(connection, slot, &mut given, found);
        }
        if fresh {
            self.count(connection, looked_up);
        }
        if looked_up && fault::count() != faults {
            // What was read of a record may have been zeroes in the place of a page that is gone.
            self.cells.add(Counter::Broken, 1);
            connection.phase = Phase::Aborted;
        }
        consumed
    }

    /// The stored response that may answer the request, and whether it was purged softly.
    fn look_up(&self) -> (Option<Pinned>, bool) {
        let request = &self.out.request;
        let mut purged = false;
        let found = self.reader.lookup(request.key_hash, &request.key, |meta| {
            if !stored::matches(meta, request) {
                return false;
            }
            let verdict = self.purges.judge_record(&request.key, meta);
            purged |= verdict == Verdict::Stale;
            verdict != Verdict::Gone
        });
        (found, purged)
    }

    /// Counts what became of new bytes, by the actions they led to.
    fn count(&mut self, connection: &mut Connection, looked_up: bool) {
        let fetched = self.fetched.map(|kind| match kind {
            FetchKind::Fill | FetchKind::Part => Counter::Misses,
            FetchKind::Revalidate => Counter::Revalidations,
            FetchKind::Pass => Counter::Passes,
        });
        if !looked_up && fetched.is_none() {
            if self.out.actions.contains(&Action::Close) && !self.out.bytes.is_empty() {
                self.cells.add(Counter::Refused, 1);
            }
            return;
        }
        connection.requests = connection.requests.wrapping_add(1);
        self.cells.add(Counter::Requests, 1);
        self.cells.add(fetched.unwrap_or(Counter::Hits), 1);
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
                        self.forward(connection, slot, Bytes::copy_from_slice(&data[range.clone()]), false);
                    }
                }
                Action::ForwardEnd => self.forward(connection, slot, Bytes::new(), true),
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

    fn fetch(&mut self, connection: &mut Connection, slot: u32, kind: FetchKind) -> bool {
        self.fetched = Some(kind);
        if !self.unsent.is_empty() {
            return false;
        }
        self.serial += 1;
        let ticket = Ticket { worker: self.worker, slot, serial: self.serial };
        let request = Box::new(self.out.request.clone());
        match self.mailbox.to_control.push(ToControl::Fetch { ticket, kind, request }) {
            Ok(wake) => self.wake_control |= wake,
            Err(_) => return false,
        }
        connection.fetch = Some(Fetch { serial: self.serial, body_unacked: 0 });
        true
    }

    fn forward(&mut self, connection: &mut Connection, slot: u32, bytes: Bytes, last: bool) {
        if let Some(fetch) = &mut connection.fetch {
            fetch.body_unacked += bytes.len();
            if fetch.body_unacked >= limits::REQUEST_BODY_WINDOW_BYTES {
                // It is the origin that is slow; the client must not be blamed for it.
                connection.session.hold();
            }
            let ticket = Ticket { worker: self.worker, slot, serial: fetch.serial };
            self.post(ToControl::Body { ticket, bytes, last });
        }
    }

    /// Ends what connects a request with control. `whole`: the response was queued to its end.
    pub fn detach(&mut self, connection: &mut Connection, slot: u32, whole: bool) {
        let source = match connection.source {
            // A stored body is queued on after `Done`; nobody but the shard is concerned.
            Source::Chunks { .. } | Source::Parts if whole => connection.source,
            _ => Source::None,
        };
        if let Source::Stream { id, .. } = connection.source {
            self.streams.leave(id);
        }
        connection.source = source;
        if source != Source::Parts {
            connection.parts = None;
        }
        if let Some(fetch) = connection.fetch.take()
            && !whole
        {
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
            Source::Chunks { object, offset, end } => {
                self.refill_chunk(connection, object, offset, end);
                true
            }
            Source::Parts => {
                self.refill_part(connection);
                true
            }
            Source::Stream { offset, end, .. } if offset >= end => {
                self.tell(connection, slot, Input::End);
                true
            }
            Source::Stream { id, offset, end } => {
                let most = usize::try_from(end - offset).unwrap_or(usize::MAX);
                let (given, bytes) = match self.streams.next(id, offset) {
                    Next::Wait => return false,
                    Next::End => {
                        self.tell(connection, slot, Input::End);
                        return true;
                    }
                    Next::Piece(mut bytes) => {
                        bytes.truncate(most);
                        let len = bytes.len();
                        (Given::Piece(bytes), len)
                    }
                    Next::Chunk { object, chunk, from } => match self.reader.chunk(object, chunk) {
                        Some(pinned) if from < pinned.body().len() => {
                            let bytes = (pinned.body().len() - from).min(most);
                            (Given::Chunk(pinned, from..from + bytes), bytes)
                        }
                        _ => return self.broken(connection, slot),
                    },
                    Next::Broken => return self.broken(connection, slot),
                };
                connection.source = Source::Stream { id, offset: offset + bytes as u64, end };
                self.feed(connection, slot, Input::Piece(bytes), given);
                if self.streams.get_mut(id).is_some_and(|stream| stream.pass) {
                    self.post(ToControl::Credit { stream: id, bytes });
                }
                true
            }
        }
    }

    fn broken(&mut self, connection: &mut Connection, slot: u32) -> bool {
        self.cells.add(Counter::Broken, 1);
        self.tell(connection, slot, Input::Broken);
        true
    }

    fn refill_part(&mut self, connection: &mut Connection) {
        let next = connection.parts.as_mut().map_or(Part::End, |parts| parts.next());
        match next {
            Part::Text(bytes) => outbox(&mut self.outboxes, connection).push_bytes(bytes),
            Part::Body(pinned, range) => {
                outbox(&mut self.outboxes, connection).push_record(pinned, 0..0, range);
            }
            Part::Chunk { object, offset, end } => {
                let offset = self.push_chunk(connection, object, offset, end);
                if let Some(parts) = &mut connection.parts {
                    parts.pushed(offset);
                }
            }
            Part::End => {
                connection.source = Source::None;
                connection.parts = None;
            }
        }
    }

    fn refill_chunk(&mut self, connection: &mut Connection, object: u64, offset: u64, end: u64) {
        let offset = self.push_chunk(connection, object, offset, end);
        connection.source = if offset == end { Source::None } else { Source::Chunks { object, offset, end } };
    }

    /// Queues more of a stored large object; says where it goes on.
    fn push_chunk(&mut self, connection: &mut Connection, object: u64, offset: u64, end: u64) -> u64 {
        let chunk_bytes = limits::CHUNK_BYTES as u64;
        let from = (offset % chunk_bytes) as usize;
        let wanted = (end - offset).min(chunk_bytes - from as u64) as usize;
        let pinned = self.reader.chunk(object, (offset / chunk_bytes) as u32);
        let Some(pinned) = pinned.filter(|pinned| pinned.body().len() >= from + wanted) else {
            // The chunk was reclaimed under a slow client: its response must not look whole.
            self.cells.add(Counter::Broken, 1);
            connection.phase = Phase::Aborted;
            return end;
        };
        outbox(&mut self.outboxes, connection).push_record(pinned, 0..0, from..from + wanted);
        offset + wanted as u64
    }

    /// Takes back an outbox that is empty, or whose connection is gone.
    pub fn recycle(&mut self, connection: &mut Connection) {
        if let Some(mut outbox) = connection.outbox.take() {
            outbox.clear();
            self.outboxes.push(outbox);
        }
    }

    fn post(&mut self, message: ToControl) {
        self.unsent.push_back(message);
        self.post_unsent();
    }

    /// Hands over what did not fit the queue before, oldest first.
    pub fn post_unsent(&mut self) {
        while let Some(message) = self.unsent.pop_front() {
            match self.mailbox.to_control.push(message) {
                Ok(wake) => self.wake_control |= wake,
                Err(message) => return self.unsent.push_front(message),
            }
        }
    }
}

/// Whether all chunks of this part of an object's body are stored. Of a long part that is not asked.
fn is_there(reader: &Reader, object: u64, part: Range<u64>) -> bool {
    let chunk_bytes = limits::CHUNK_BYTES as u64;
    let chunks = part.start / chunk_bytes..part.end.div_ceil(chunk_bytes);
    chunks.end - chunks.start <= limits::SLICES_LOOKED_UP_MAX as u64
        && chunks.into_iter().all(|chunk| reader.chunk(object, chunk as u32).is_some())
}

fn outbox<'a>(pool: &mut Vec<Outbox>, connection: &'a mut Connection) -> &'a mut Outbox {
    connection.outbox.get_or_insert_with(|| {
        let mut outbox = pool.pop().unwrap_or_default();
        outbox.set_copied(connection.scheme == Scheme::Https);
        outbox
    })
}
