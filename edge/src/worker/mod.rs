//! HIT PATH: a thread pinned to one CPU with one ring. Reap, dispatch, submit; one system call a turn.
//!
//! Never blocks, takes no lock, calls nothing of tokio, reads the clock once a turn. Reaches control only
//! through the mailbox, and serves hits whatever control does.
#![forbid(unsafe_code)]

mod actions;
mod connection;
mod streams;
mod token;
mod wheel;

use crate::control::mailbox::{Mailbox, Ticket, ToWorker};
use crate::proto::session::{Input, Out, Session, Timeouts};
use crate::shard::Reader;
use crate::stats::{Cells, Counter};
use crate::sys::buffers::Buffers;
use crate::sys::ring::{Completion, Features, Ring};
use crate::{clock, limits, sys};
use actions::Node;
use connection::{Connection, Phase, Source};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use streams::State;
use token::{Op, Token};
use wheel::{TICK_MS, Wheel};

/// What a worker is made of.
pub struct Setup {
    /// Its number.
    pub number: u16,
    /// The CPU it is pinned to.
    pub cpu: usize,
    /// Its listening sockets.
    pub listeners: Vec<OwnedFd>,
    /// Connections it can hold.
    pub connections_max: usize,
    /// Timeouts of its connections.
    pub timeouts: Timeouts,
    /// Its view of the shards.
    pub reader: Reader,
    /// Its way to control.
    pub mailbox: Arc<Mailbox>,
    /// Its counters.
    pub cells: Arc<Cells>,
    /// Set once: accept no more, finish, end.
    pub drain: Arc<AtomicBool>,
}

/// Starts a worker's thread; returns when it serves, or with the reason why it cannot.
pub fn spawn(setup: Setup) -> io::Result<(JoinHandle<()>, Features)> {
    let (tell, started) = mpsc::channel();
    let name = format!("edge-worker-{}", setup.number);
    let thread =
        std::thread::Builder::new()
            .name(name)
            .spawn(move || match Worker::new(setup) {
                Ok(mut worker) => {
                    let _ = tell.send(Ok(worker.ring.features()));
                    worker.run();
                }
                Err(error) => drop(tell.send(Err(error))),
            })?;
    let features = started
        .recv()
        .map_err(|_| io::Error::other("the worker ended while it started"))??;
    Ok((thread, features))
}

const BUFFER_GROUP: u16 = 0;

/// Fields are dropped in order: the ring ends before the memory its operations may use.
struct Worker {
    ring: Ring,
    buffers: Buffers,
    table: Vec<Connection>,
    node: Node,
    wheel: Wheel,
    due: Vec<u32>,
    completions: Vec<Completion>,
    listeners: Vec<Listener>,
    drain: Arc<AtomicBool>,
    /// Once draining: when to cut off what is still open.
    end_ms: Option<u64>,
    open: usize,
    mail_left: bool,
    cpu: usize,
}

struct Listener {
    socket: OwnedFd,
    armed: bool,
}

impl Worker {
    fn new(setup: Setup) -> io::Result<Self> {
        sys::cpu::pin(setup.cpu)?;
        let ring = Ring::new(limits::RING_ENTRIES, setup.connections_max as u32)?;
        let buffers = Buffers::new(
            &ring,
            BUFFER_GROUP,
            limits::RECEIVE_BUFFERS,
            limits::RECEIVE_BUFFER_BYTES,
        )?;
        let now = clock::now();
        let table = || {
            (0..setup.connections_max).map(|_| Connection::free(Session::new(now, &setup.timeouts)))
        };
        let out = Out {
            actions: Vec::with_capacity(16),
            bytes: Vec::with_capacity(4096),
            consumed: 0,
            request: Default::default(),
            timeouts: setup.timeouts,
        };
        Ok(Worker {
            ring,
            buffers,
            table: table().collect(),
            node: Node::new(
                setup.number,
                setup.reader,
                setup.mailbox,
                setup.cells,
                out,
                now,
            ),
            wheel: Wheel::new(setup.connections_max, now.mono_ms),
            due: Vec::new(),
            completions: Vec::with_capacity(4 * limits::RING_ENTRIES as usize),
            listeners: setup
                .listeners
                .into_iter()
                .map(|socket| Listener {
                    socket,
                    armed: false,
                })
                .collect(),
            drain: setup.drain,
            end_ms: None,
            open: 0,
            mail_left: false,
            cpu: setup.cpu,
        })
    }

    fn run(&mut self) {
        self.ring.read_event(
            self.node.mailbox.to_worker.event(),
            Token::new(Op::Mail, 0, 0),
        );
        self.tick();
        while !self.finished() {
            let mut completions = std::mem::take(&mut self.completions);
            self.ring
                .turn(usize::from(!self.mail_left), &mut completions)
                .expect("the ring is ours and sound");
            self.node.cells.add(Counter::Enters, 1);
            self.node.now = clock::now();
            for completion in completions.drain(..) {
                self.dispatch(completion);
            }
            self.completions = completions;
            self.read_mail();
            if std::mem::take(&mut self.node.wake_control) {
                self.ring.write_event(
                    self.node.mailbox.to_control.event(),
                    Token::new(Op::Unwatched, 0, 0),
                );
            }
        }
    }

    fn dispatch(&mut self, completion: Completion) {
        let token = Token::of(completion.token);
        match token.op {
            Op::Receive => self.received(token, completion),
            Op::Send => self.sent(token.slot, completion.result),
            Op::Accept => self.accepted(token.slot as usize, completion),
            Op::Mail => {
                self.mail_left = true;
                self.ring.read_event(
                    self.node.mailbox.to_worker.event(),
                    Token::new(Op::Mail, 0, 0),
                );
            }
            Op::Tick => self.tick(),
            Op::SampleConnection => {
                let counters = (Counter::ConnectionsSampled, Counter::ConnectionsLocal);
                self.sampled(token.slot, completion.result, counters);
            }
            Op::SampleRequest => {
                let counters = (Counter::LocalitySampled, Counter::LocalityLocal);
                self.sampled(token.slot, completion.result, counters);
            }
            Op::Unwatched => {}
        }
    }

    /// Every [`TICK_MS`]: deadlines, listeners that paused, messages that had to wait, the stop.
    fn tick(&mut self) {
        self.ring.tick(TICK_MS, Token::new(Op::Tick, 0, 0));
        self.node.post_unsent();
        if self.drain.load(Ordering::Relaxed) {
            self.drain();
        }
        for number in 0..self.listeners.len() {
            if !self.listeners[number].armed && self.end_ms.is_none() {
                self.listeners[number].armed = true;
                self.ring.accept_multi(
                    self.listeners[number].socket.as_fd(),
                    Token::new(Op::Accept, 0, number as u32),
                );
            }
        }
        let mut due = std::mem::take(&mut self.due);
        self.wheel.expire(self.node.now.mono_ms, &mut due);
        for slot in due.drain(..) {
            self.due(slot);
        }
        self.due = due;
    }

    fn due(&mut self, slot: u32) {
        let connection = &mut self.table[slot as usize];
        let deadline_ms = connection.deadline_ms();
        if deadline_ms > self.node.now.mono_ms {
            if deadline_ms != u64::MAX {
                self.wheel.set(slot, deadline_ms);
            }
            return;
        }
        match connection.phase {
            Phase::Open => {
                self.node.cells.add(Counter::Timeouts, 1);
                self.node.tell(connection, slot, Input::Deadline);
                self.advance(slot);
            }
            // The peer does not take the last answer, or does not close.
            Phase::Finishing | Phase::Lingering { .. } => self.close(slot),
            Phase::Free | Phase::Aborted | Phase::Closing => {}
        }
    }

    fn accepted(&mut self, number: usize, completion: Completion) {
        self.listeners[number].armed &= completion.more;
        let Ok(file) = u32::try_from(completion.result) else {
            // Out of slots or descriptors: the listener is armed again at the next tick.
            self.node.cells.add(Counter::AcceptRefused, 1);
            return;
        };
        let Some(connection) = self
            .table
            .get_mut(file as usize)
            .filter(|c| c.phase == Phase::Free)
        else {
            self.node.cells.add(Counter::AcceptRefused, 1);
            self.ring.close(file, Token::new(Op::Unwatched, 0, 0));
            return;
        };
        let generation = connection.generation.wrapping_add(1) & token::GENERATION_MASK;
        *connection = Connection::free(Session::new(self.node.now, &self.node.timeouts()));
        connection.generation = generation;
        connection.phase = Phase::Open;
        self.open += 1;
        self.node.cells.add(Counter::Accepted, 1);
        self.wheel.set(file, connection.deadline_ms());
        self.receive(file);
        self.ring.sample_cpu(file, |sample| {
            Token::new(Op::SampleConnection, 0, u32::from(sample))
        });
    }

    fn receive(&mut self, slot: u32) {
        let connection = &mut self.table[slot as usize];
        connection.receiving = true;
        connection.operations += 1;
        self.ring.receive_multi(
            slot,
            BUFFER_GROUP,
            Token::new(Op::Receive, connection.generation, slot),
        );
    }

    fn received(&mut self, token: Token, completion: Completion) {
        let slot = token.slot;
        let connection = &mut self.table[slot as usize];
        debug_assert_eq!(
            connection.generation, token.generation,
            "a slot is free only when its operations ended"
        );
        if !completion.more {
            connection.receiving = false;
            connection.pausing = false;
            connection.operations -= 1;
        }
        if let (Some(id), Ok(len)) = (completion.buffer, usize::try_from(completion.result)) {
            if connection.phase == Phase::Open {
                self.node
                    .receive(connection, slot, self.buffers.bytes(id, len));
            }
            self.buffers.give_back(id);
        }
        match completion.result {
            1.. => {}
            0 => connection.peer_closed = true,
            error if error == -libc::ENOBUFS => self.node.cells.add(Counter::BuffersExhausted, 1),
            error if error == -libc::ECANCELED => {}
            _ => {
                connection.phase = if connection.phase == Phase::Closing {
                    Phase::Closing
                } else {
                    Phase::Aborted
                }
            }
        }
        if connection.requests % limits::LOCALITY_SAMPLE_EVERY == 1 && completion.result > 0 {
            self.ring.sample_cpu(slot, |sample| {
                Token::new(Op::SampleRequest, 0, u32::from(sample))
            });
        }
        self.advance(slot);
    }

    fn sent(&mut self, slot: u32, result: i32) {
        let connection = &mut self.table[slot as usize];
        connection.operations -= 1;
        let bytes = usize::try_from(result).unwrap_or(0);
        connection
            .outbox
            .as_mut()
            .expect("a send has an outbox")
            .sent(bytes);
        self.node.cells.add(Counter::SentBytes, bytes as u64);
        match connection.phase {
            Phase::Closing => {}
            _ if result <= 0 => connection.phase = Phase::Aborted,
            Phase::Open | Phase::Finishing => {
                let drained = connection.drained();
                self.node.tell(connection, slot, Input::Sent { drained });
            }
            _ => {}
        }
        self.advance(slot);
    }

    /// Moves a connection as far as it goes now: body into the outbox, kept bytes into the session, the
    /// outbox into the ring, and the connection to its end.
    fn advance(&mut self, slot: u32) {
        let Worker { node, table, .. } = self;
        let connection = &mut table[slot as usize];
        while matches!(connection.phase, Phase::Open | Phase::Finishing)
            && (node.refill(connection, slot) || node.feed_stash(connection, slot))
        {}
        if connection.peer_closed
            && !connection.peer_closed_told
            && connection.phase == Phase::Open
            && (connection.stash.is_empty() || connection.takes_input())
        {
            connection.peer_closed_told = true;
            node.tell(connection, slot, Input::PeerClosed);
        }
        if let Some(outbox) = &mut connection.outbox
            && !outbox.in_flight()
            && matches!(connection.phase, Phase::Open | Phase::Finishing)
        {
            if outbox.is_empty() {
                node.recycle(connection);
            } else {
                connection.operations += 1;
                self.ring.send(
                    slot,
                    outbox,
                    Token::new(Op::Send, connection.generation, slot),
                );
            }
        }
        match connection.phase {
            Phase::Open => self.listen(slot),
            Phase::Finishing if connection.drained() => self.linger(slot),
            Phase::Lingering { .. } if connection.peer_closed => self.close(slot),
            Phase::Aborted => self.close(slot),
            Phase::Closing if connection.operations == 0 => self.release(slot),
            _ => {}
        }
        let connection = &self.table[slot as usize];
        if connection.deadline_ms() != u64::MAX {
            self.wheel.set(slot, connection.deadline_ms());
        }
    }

    /// Keeps the receive armed while there is room for what it brings, and cancelled while there is not.
    fn listen(&mut self, slot: u32) {
        let connection = &mut self.table[slot as usize];
        if self.end_ms.is_some()
            && connection.drained()
            && connection.fetch.is_none()
            && connection.stash.is_empty()
        {
            return self.linger(slot);
        }
        let full = connection.stash.len() >= limits::STASH_BYTES_MAX;
        if connection.receiving && full && !connection.pausing {
            connection.pausing = true;
            let target = Token::new(Op::Receive, connection.generation, slot);
            self.ring.cancel(target, Token::new(Op::Unwatched, 0, 0));
        } else if !connection.receiving && !full && !connection.peer_closed {
            self.receive(slot);
        }
    }

    /// Everything was sent: shuts our side and waits a little for the peer's.
    fn linger(&mut self, slot: u32) {
        let connection = &mut self.table[slot as usize];
        if connection.peer_closed {
            return self.close(slot);
        }
        connection.phase = Phase::Lingering {
            until_ms: self.node.now.mono_ms + limits::LINGER_MS,
        };
        connection.stash = Vec::new();
        self.ring
            .shutdown(slot, libc::SHUT_WR, Token::new(Op::Unwatched, 0, 0));
        if !self.table[slot as usize].receiving {
            self.receive(slot);
        }
    }

    /// Ends both directions, so that operations in flight end too; the slot is released with the last.
    fn close(&mut self, slot: u32) {
        let connection = &mut self.table[slot as usize];
        self.node.detach(connection, slot, false);
        connection.source = Source::None;
        connection.phase = Phase::Closing;
        if connection.operations == 0 {
            return self.release(slot);
        }
        self.ring
            .shutdown(slot, libc::SHUT_RDWR, Token::new(Op::Unwatched, 0, 0));
    }

    fn release(&mut self, slot: u32) {
        let connection = &mut self.table[slot as usize];
        self.node.recycle(connection);
        connection.stash = Vec::new();
        connection.phase = Phase::Free;
        self.wheel.remove(slot);
        self.ring.close(slot, Token::new(Op::Unwatched, 0, 0));
        self.open -= 1;
        self.node.cells.add(Counter::Closed, 1);
    }

    fn sampled(&mut self, sample: u32, result: i32, (asked, local): (Counter, Counter)) {
        let cpu = self.ring.sampled_cpu(sample as u16);
        if result >= 0 {
            self.node.cells.add(asked, 1);
            self.node
                .cells
                .add(local, u64::from(usize::try_from(cpu) == Ok(self.cpu)));
        }
    }

    fn read_mail(&mut self) {
        if !self.mail_left {
            return;
        }
        for _ in 0..limits::MAIL_PER_TURN_MAX {
            match self.node.mailbox.to_worker.pop() {
                Some(message) => self.mail(message),
                None if self.node.mailbox.to_worker.sleep() => {
                    self.mail_left = false;
                    return;
                }
                None => {}
            }
        }
    }

    fn mail(&mut self, message: ToWorker) {
        match message {
            ToWorker::Open {
                stream,
                head,
                sealed_bytes,
                object,
                pass,
                pieces,
            } => {
                self.node
                    .streams
                    .open(stream, head, sealed_bytes, object, pass, pieces);
            }
            ToWorker::Join { ticket, stream } => {
                let Some(connection) = waiting(&mut self.table, ticket) else {
                    return;
                };
                let Some(joined) = self.node.streams.join(stream, ticket.slot) else {
                    return;
                };
                let head = joined.head.clone();
                connection.source = Source::Stream {
                    id: stream,
                    offset: 0,
                };
                self.node
                    .tell(connection, ticket.slot, Input::OriginHead(&head));
                self.advance(ticket.slot);
            }
            ToWorker::Piece { stream, bytes } => {
                if let Some(stream) = self.node.streams.get_mut(stream) {
                    stream.push(bytes);
                }
                self.wake_members(stream);
            }
            ToWorker::Sealed {
                stream,
                sealed_bytes,
            } => {
                if let Some(stream) = self.node.streams.get_mut(stream) {
                    stream.seal(sealed_bytes);
                }
            }
            ToWorker::End { stream } => self.end_stream(stream, State::Whole),
            ToWorker::Broken { stream } => self.end_stream(stream, State::Broken),
            ToWorker::Again {
                ticket,
                request,
                revalidated,
            } => {
                let Some(connection) = waiting(&mut self.table, ticket) else {
                    return;
                };
                connection.fetch = None;
                self.node
                    .again(connection, ticket.slot, *request, revalidated);
                self.advance(ticket.slot);
            }
            ToWorker::Refused { ticket, status } => {
                let Some(connection) = waiting(&mut self.table, ticket) else {
                    return;
                };
                connection.fetch = None;
                self.node
                    .tell(connection, ticket.slot, Input::Refused(status));
                self.advance(ticket.slot);
            }
            ToWorker::BodyCredit { ticket, bytes } => {
                let Some(connection) = waiting(&mut self.table, ticket) else {
                    return;
                };
                if let Some(fetch) = &mut connection.fetch {
                    fetch.body_unacked = fetch.body_unacked.saturating_sub(bytes);
                }
                self.advance(ticket.slot);
            }
        }
    }

    fn end_stream(&mut self, stream: u64, state: State) {
        self.node.streams.end(stream, state);
        self.wake_members(stream);
    }

    /// Moves every client of a stream on, and forgets those that left.
    fn wake_members(&mut self, id: u64) {
        let Some(stream) = self.node.streams.get_mut(id) else {
            return;
        };
        let mut members = std::mem::take(&mut stream.members);
        members.retain(|&slot| {
            let follows = matches!(self.table[slot as usize].source, Source::Stream { id: its, .. } if its == id);
            if follows {
                self.advance(slot);
            }
            follows
        });
        if let Some(stream) = self.node.streams.get_mut(id) {
            stream.members.append(&mut members);
        }
    }

    /// The stop: no new connections, idle ones close, the others finish in time or are cut off.
    fn drain(&mut self) {
        if let Some(end_ms) = self.end_ms {
            if self.node.now.mono_ms >= end_ms {
                self.cut_off();
            }
            return;
        }
        self.end_ms = Some(self.node.now.mono_ms + limits::DRAIN_MS);
        for number in 0..self.listeners.len() {
            let target = Token::new(Op::Accept, 0, number as u32);
            self.ring.cancel(target, Token::new(Op::Unwatched, 0, 0));
        }
        for slot in 0..self.table.len() as u32 {
            if self.table[slot as usize].phase == Phase::Open {
                self.advance(slot);
            }
        }
    }

    fn finished(&self) -> bool {
        self.end_ms
            .is_some_and(|end_ms| self.open == 0 || self.node.now.mono_ms >= end_ms)
    }
}

/// The connection that waits under this ticket, if it still does.
fn waiting(table: &mut [Connection], ticket: Ticket) -> Option<&mut Connection> {
    let connection = table.get_mut(ticket.slot as usize)?;
    let waits = connection.phase == Phase::Open
        && connection
            .fetch
            .is_some_and(|fetch| fetch.serial == ticket.serial);
    waits.then_some(connection)
}
