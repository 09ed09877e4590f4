//! HIT PATH: a thread pinned to one CPU with one ring. Reap, dispatch, submit; one system call a turn.
//!
//! Never blocks, takes no lock, calls nothing of tokio, reads the clock once a turn. Reaches control only
//! through the mailbox, and serves hits whatever control does.
#![forbid(unsafe_code)]

mod actions;
mod asking;
mod bodies;
pub mod clients;
mod connection;
mod kernel_tls;
mod life;
mod lookahead;
mod mail;
mod multiplex;
mod parts;
mod patience;
mod populate;
mod refreshes;
mod secure;
mod streams;
mod token;
mod versions;
mod waiting;
mod wheel;

use crate::config::Network;
use crate::control::mailbox::Mailbox;
use crate::proto::generations::Table;
use crate::proto::kernel_tls::Ciphers;
use crate::proto::query::Rules;
use crate::proto::session::{Out, Session, Timeouts};
use crate::proto::tls::Policies;
use crate::proto::transport;
use crate::shard::Reader;
use crate::stats::{Cells, Counter};
use crate::sys::buffers::Buffers;
use crate::sys::ring::{Completion, Features, Ring};
use crate::{clock, limits, sys};
use actions::Node;
use clients::Clients;
use connection::{Connection, Phase};
use lookahead::Lookahead;
use mail::Desk;
use secure::Shared;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use token::{Op, Token};
use versions::Admissions;
use wheel::{TICK_MS, Wheel};

/// What a worker is made of.
pub struct Setup {
    /// Its number.
    pub number: u16,
    /// The CPU it is pinned to.
    pub cpu: usize,
    /// Its listening sockets, and which of the policies each follows; `None`: no TLS.
    pub listeners: Vec<(OwnedFd, Option<usize>)>,
    /// How clients of TLS are met.
    pub policies: Arc<Policies>,
    /// What the kernel may seal for them.
    pub kernel_tls: Ciphers,
    /// Connections it can hold.
    pub connections_max: usize,
    /// Of these, as many as may speak HTTP/2.
    pub http2_connections_max: usize,
    /// Those of each client, on all workers.
    pub clients: Arc<Clients>,
    /// Clients may speak HTTP/2 without TLS, if they know it before (RFC 9113 section 3.3).
    pub http2_cleartext: bool,
    /// Timeouts of its connections.
    pub timeouts: Timeouts,
    /// Which arguments of a query count for keys.
    pub queries: Arc<Rules>,
    /// What routes rule for the way clients come.
    pub transport: Arc<transport::Policies>,
    /// Proxies whose word on their clients counts.
    pub trusted: Arc<[Network]>,
    /// Its view of the shards.
    pub reader: Reader,
    /// The purges in force.
    pub purges: Arc<Table>,
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
    let thread = std::thread::Builder::new().name(name).spawn(move || match Worker::new(setup) {
        Ok(mut worker) => {
            let _ = tell.send(Ok(worker.ring.features()));
            worker.run();
        }
        Err(error) => drop(tell.send(Err(error))),
    })?;
    let features = started.recv().map_err(|_| io::Error::other("the worker ended while it started"))??;
    Ok((thread, features))
}

const BUFFER_GROUP: u16 = 0;

/// Bytes of one connection slot, idle or not.
pub const CONNECTION_BYTES: usize = size_of::<Connection>();

/// Bytes of a request that waits for pages of the shard, without its head and key.
pub const PARKED_BYTES: usize = size_of::<connection::Parked>();

/// Fields are dropped in order: the ring ends before the memory its operations may use.
struct Worker {
    ring: Ring,
    buffers: Buffers,
    table: Vec<Connection>,
    node: Node,
    wheel: Wheel,
    due: Vec<u32>,
    completions: Vec<Completion>,
    lookahead: Lookahead,
    listeners: Vec<Listener>,
    /// Accepts to be started at the next tick, see `limits::ACCEPTS_PER_LISTENER`.
    accepts_idle: Vec<u32>,
    secure: Shared,
    http2_cleartext: bool,
    drain: Arc<AtomicBool>,
    /// Once draining: when to cut off what is still open.
    end_ms: Option<u64>,
    open: usize,
    mail_left: bool,
    cpu: usize,
}

struct Listener {
    socket: OwnedFd,
    policy: Option<usize>,
}

impl Worker {
    fn new(setup: Setup) -> io::Result<Self> {
        sys::cpu::pin(setup.cpu)?;
        if let Err(error) = sys::cpu::run_soon() {
            tracing::warn!(%error, "a worker waits for its CPU as any thread does: sched_setattr is refused");
        }
        let accepts = setup.listeners.len() * limits::ACCEPTS_PER_LISTENER;
        let files = setup.connections_max as u32;
        let ring = Ring::new(limits::RING_ENTRIES, files, accepts, limits::POPULATES_MAX as u32)?;
        let buffers =
            Buffers::new(&ring, BUFFER_GROUP, limits::RECEIVE_BUFFERS, limits::RECEIVE_BUFFER_BYTES)?;
        let now = clock::now();
        let table =
            || (0..setup.connections_max).map(|_| Connection::free(Session::new(now, &setup.timeouts)));
        let out = Out::new(setup.timeouts, setup.queries, setup.transport);
        let counted = (setup.cells, setup.clients);
        let mut node =
            Node::new(setup.number, (setup.reader, setup.purges), setup.mailbox, counted, out, now);
        node.trusted = setup.trusted;
        node.admissions = Admissions::new(setup.http2_connections_max);
        Ok(Worker {
            ring,
            buffers,
            table: table().collect(),
            node,
            wheel: Wheel::new(setup.connections_max, now.mono_ms),
            due: Vec::with_capacity(setup.connections_max),
            completions: Vec::with_capacity(4 * limits::RING_ENTRIES as usize),
            lookahead: Lookahead::default(),
            listeners: setup
                .listeners
                .into_iter()
                .map(|(socket, policy)| Listener { socket, policy })
                .collect(),
            accepts_idle: (0..accepts as u32).collect(),
            secure: Shared::new(setup.policies, setup.kernel_tls),
            http2_cleartext: setup.http2_cleartext,
            drain: setup.drain,
            end_ms: None,
            open: 0,
            mail_left: false,
            cpu: setup.cpu,
        })
    }

    fn run(&mut self) {
        self.ring.read_event(self.node.mailbox.to_worker.event(), Token::pack(Op::Mail, 0, 0));
        self.tick();
        while !self.finished() {
            let mut completions = std::mem::take(&mut self.completions);
            let waits_for = usize::from(!self.has_work_left());
            self.ring.turn(waits_for, &mut completions).expect("the ring is ours and sound");
            self.node.cells.add(Counter::Enters, 1);
            self.node.now = clock::now();
            self.shake_waiting();
            let mut seen = 0;
            for (number, completion) in completions.iter().enumerate() {
                if number == seen {
                    seen += self.look_ahead(&completions[number..]);
                }
                self.dispatch(*completion);
            }
            completions.clear();
            self.completions = completions;
            self.read_mail();
            if !self.node.multiplexed.is_empty() {
                // What HTTP/2 asks for may take long: answers over HTTP/1.1 do not wait for it.
                self.ring.submit();
                self.move_multiplexed();
            }
            self.start_populates();
            if std::mem::take(&mut self.node.wake_control) {
                self.ring.write_event(self.node.mailbox.to_control.event(), Token::pack(Op::Unwatched, 0, 0));
            }
        }
    }

    /// Whether a turn has left something undone that is to be done in the next, whatever happens meanwhile.
    fn has_work_left(&self) -> bool {
        self.mail_left || self.secure.is_waiting() || !self.node.multiplexed.is_empty()
    }

    fn dispatch(&mut self, completion: Completion) {
        let token = Token::unpack(completion.token);
        match token.op {
            Op::Receive => self.received(token, completion),
            Op::Send => self.sent(token.slot, completion.result),
            Op::Accept => self.accepted(token.slot, completion),
            Op::Mail => {
                self.mail_left = true;
                self.ring.read_event(self.node.mailbox.to_worker.event(), Token::pack(Op::Mail, 0, 0));
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
            Op::Shutdown => {
                self.table[token.slot as usize].operations -= 1;
                self.advance(token.slot);
            }
            Op::Populate => self.populated(token.slot, completion),
            Op::KernelTls => self.keys_offered(token.slot, completion.result),
            Op::Unwatched => {}
        }
    }

    /// Every [`TICK_MS`]: deadlines, listeners that paused, messages that had to wait, the stop.
    fn tick(&mut self) {
        self.ring.tick(TICK_MS, Token::pack(Op::Tick, 0, 0));
        self.node.post_unsent();
        if self.drain.load(Ordering::Relaxed) {
            self.drain();
        }
        while let Some(number) = self.accepts_idle.pop() {
            self.accept(number);
        }
        let mut due = std::mem::take(&mut self.due);
        self.wheel.expire(self.node.now.mono_ms, &mut due);
        for slot in due.drain(..) {
            self.due(slot);
        }
        self.due = due;
    }

    fn sampled(&mut self, sample: u32, result: i32, (asked, local): (Counter, Counter)) {
        let cpu = self.ring.sampled_cpu(sample as u16);
        if result >= 0 {
            self.node.cells.add(asked, 1);
            self.node.cells.add(local, u64::from(usize::try_from(cpu) == Ok(self.cpu)));
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
        self.node.draining = true;
        self.node.out.draining = true;
        for listener in &self.listeners {
            self.ring.cancel_all(listener.socket.as_fd(), Token::pack(Op::Unwatched, 0, 0));
            // Whoever comes now is refused at once and can go elsewhere; else the kernel would still complete
            // handshakes, for clients that nobody will answer.
            sys::socket::stop_listening(listener.socket.as_fd());
        }
        for slot in 0..self.table.len() as u32 {
            if self.table[slot as usize].phase == Phase::Open {
                self.advance(slot);
            }
        }
    }

    fn cut_off(&mut self) {
        for slot in 0..self.table.len() as u32 {
            if !matches!(self.table[slot as usize].phase, Phase::Free | Phase::Closing) {
                self.close(slot);
            }
        }
    }

    fn finished(&self) -> bool {
        let now_ms = self.node.now.mono_ms;
        self.end_ms.is_some_and(|end_ms| self.open == 0 || now_ms >= end_ms + limits::LINGER_MS)
    }
}

#[cfg(test)]
pub(crate) mod simulated;
