//! A worker without a ring, for simulations: connections whose other ends are the caller, under the time the caller
//! lets pass. All between a connection and its descriptor is that of a real worker.
#![forbid(unsafe_code)]

use super::actions::Node;
use super::clients::Clients;
use super::connection::{Connection, Phase};
use super::mail::Desk;
use super::secure::{self, Secure};
use crate::control::mailbox::{Mailbox, StreamId};
use crate::proto::generations::Table;
use crate::proto::policy::Policy;
use crate::proto::request::Scheme;
use crate::proto::session::{Input, Out, Session, Timeouts};
use crate::proto::tls::{Failed, Policies};
use crate::shard::Reader;
use crate::stats::{Cells, Counter};
use crate::{clock, limits};
use std::net::IpAddr;
use std::sync::Arc;

/// The worker.
pub(crate) struct Simulated {
    node: Node,
    table: Vec<Connection>,
}

impl Simulated {
    /// Worker number `number`, without connections.
    pub(crate) fn new(
        number: u16,
        (reader, purges): (Reader, Arc<Table>),
        mailbox: Arc<Mailbox>,
        timeouts: Timeouts,
    ) -> Self {
        let out = Out::new(timeouts, Default::default(), Default::default());
        let clients = Arc::new(Clients::new(1, 1000, Vec::new()));
        let counted = (Arc::<Cells>::default(), clients);
        let node = Node::new(number, (reader, purges), mailbox, counted, out, clock::now());
        Simulated { node, table: Vec::new() }
    }

    /// A client connects, over TLS as far as the worker can tell: what it gets is copied.
    pub(crate) fn connect(&mut self) -> u32 {
        self.node.now = clock::now();
        let mut connection = Connection::free(Session::new(self.node.now, &self.node.timeouts()));
        connection.phase = Phase::Open;
        connection.scheme = Scheme::Https;
        connection.sealed_here = true;
        self.table.push(connection);
        self.table.len() as u32 - 1
    }

    /// A client of this address connects that speaks HTTP/2 from its first byte on.
    pub(crate) fn connect_http2(&mut self, address: IpAddr) -> u32 {
        let slot = self.connect();
        let connection = &mut self.table[slot as usize];
        connection.place = self.node.clients.enter(address).expect("it may have so many connections");
        self.node.begin_or_refuse(connection);
        slot
    }

    /// Whether bytes of this client would be read now: else they wait in the network.
    pub(crate) fn listens(&self, slot: u32) -> bool {
        let connection = &self.table[slot as usize];
        connection.phase == Phase::Open
            && connection.stash.len() < limits::STASH_BYTES_MAX
            && !connection.peer_closed
    }

    /// Bytes of a client arrive, and are dealt with in as many turns as that takes.
    pub(crate) fn receive(&mut self, slot: u32, bytes: &[u8]) {
        self.arrive(slot, bytes);
        self.finish();
    }

    /// Bytes of a client arrive in the turn that runs.
    pub(crate) fn arrive(&mut self, slot: u32, bytes: &[u8]) {
        self.node.now = clock::now();
        let connection = &mut self.table[slot as usize];
        if connection.phase == Phase::Open {
            self.node.receive(connection, slot, bytes, None);
        }
        self.advance(slot);
    }

    /// The turn that runs ends. Says whether it has left something for the next.
    pub(crate) fn end_turn(&mut self) -> bool {
        self.move_multiplexed();
        !self.node.multiplexed.is_empty()
    }

    fn finish(&mut self) {
        while self.end_turn() {}
    }

    /// Pages that a stream of this client has asked for are in memory, or cannot be had.
    pub(crate) fn populated(&mut self, slot: u32, stream: u32, came: bool) {
        self.node.stream_populated(&mut self.table[slot as usize], slot, stream, came);
        self.advance(slot);
        self.finish();
    }

    /// A record of this client's is refused.
    pub(crate) fn fail_secure(&mut self, slot: u32) {
        let config = rustls::ServerConfig::builder_with_provider(crate::proto::policy::provider().into())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::server::ResolvesServerCertUsingSni::new()));
        let connection = &mut self.table[slot as usize];
        let policy = Arc::new(Policy::from_config(&config, false));
        connection.secure = Some(Box::new(Secure::new(policy, u64::MAX, false)));
        secure::with_tls::<()>(&mut self.node, connection, slot, |_, _| Err(Failed::Flood));
        self.advance(slot);
        self.finish();
    }

    /// What this counter of the worker's stands at.
    pub(crate) fn count(&self, counter: Counter) -> u64 {
        self.node.cells.get(counter)
    }

    /// A client sends no more.
    pub(crate) fn peer_closed(&mut self, slot: u32) {
        self.node.now = clock::now();
        self.table[slot as usize].peer_closed = true;
        self.advance(slot);
        self.finish();
    }

    /// A client is gone.
    pub(crate) fn reset(&mut self, slot: u32) {
        self.node.now = clock::now();
        self.table[slot as usize].phase = Phase::Aborted;
        self.advance(slot);
        self.finish();
    }

    /// A client takes what fits `room` of what is queued for it; says how much that was.
    pub(crate) fn take(&mut self, slot: u32, room: &mut [u8]) -> usize {
        self.node.now = clock::now();
        let connection = &mut self.table[slot as usize];
        let Some(outbox) = &mut connection.outbox else { return 0 };
        let bytes = outbox.copy_out(room);
        if bytes > 0 {
            let drained = connection.caught_up();
            if matches!(connection.phase, Phase::Open | Phase::Finishing) {
                self.node.tell(connection, slot, Input::Sent { drained, bytes });
            }
            self.advance(slot);
            self.finish();
        }
        bytes
    }

    /// Whether the worker has closed the connection, and nothing more is to be taken.
    pub(crate) fn is_closed(&self, slot: u32) -> bool {
        self.table[slot as usize].phase == Phase::Free
    }

    /// Reads messages, at most so many; says how many there were. What passed its deadline meanwhile is dealt with.
    pub(crate) fn turn(&mut self, most: usize) -> usize {
        self.node.now = clock::now();
        self.node.post_unsent();
        let read = self.deliver(most);
        for slot in 0..self.table.len() as u32 {
            let connection = &mut self.table[slot as usize];
            if connection.deadline_ms() <= self.node.now.mono_ms {
                match connection.phase {
                    Phase::Open => self.node.tell(connection, slot, Input::Deadline),
                    _ => connection.phase = Phase::Aborted,
                }
                self.advance(slot);
            }
        }
        self.finish();
        read
    }

    /// Responses under way.
    pub(crate) fn streams(&self) -> usize {
        self.node.streams.len()
    }
}

impl Desk for Simulated {
    fn parts(&mut self) -> (&mut Node, &mut [Connection]) {
        (&mut self.node, &mut self.table)
    }

    fn move_on(&mut self, slot: u32) {
        let connection = &mut self.table[slot as usize];
        let left_behind = self.node.carry_on(connection, slot);
        let is_over = match connection.phase {
            Phase::Aborted => true,
            Phase::Finishing => connection.drained(),
            _ => false,
        };
        if is_over {
            self.node.detach(connection, slot, false);
            self.node.end_multiplex(connection, slot);
            self.node.clients.leave(connection.place);
            self.node.recycle(connection);
            *connection = Connection::free(Session::new(self.node.now, &self.node.timeouts()));
        }
        let progressed = std::mem::take(&mut self.node.progressed);
        let streams: Vec<StreamId> = left_behind.into_iter().chain(progressed).collect();
        streams.into_iter().for_each(|stream| self.let_go(stream));
    }

    fn take_policies(&mut self, _: Arc<Policies>) {}
}
