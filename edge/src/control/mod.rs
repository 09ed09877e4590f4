//! MISS PATH: one thread with a tokio-uring runtime. Fetches from origins, is the only writer of the
//! shards, and answers the admin endpoint. Held still, it changes nothing about what hits return.
//!
//! Everything runs as tasks of one thread, so the state in [`Node`] needs no lock; no borrow of it lives across an
//! await. Workers are reached through `mailbox` alone.
#![forbid(unsafe_code)]

mod admin;
mod admin_listener;
pub mod certificates;
mod disk;
mod fill;
pub mod mailbox;
mod metrics;
mod origin;
mod outbox;
mod outgoing;
mod pass;
mod places;
mod pool;
pub mod purge;
mod ranged;
mod reasons;
mod response;
mod routes;
mod rules;
mod sealing;
mod slices;
mod standing;
mod stream;
mod transport;
mod tunnel;
mod uncacheable;
mod upload;
mod waiter;
mod why;

use crate::clock;
use crate::config::{Caching, Config, Network, Token};
use crate::limits;
use crate::proto::Now;
use crate::proto::forwarding::Pseudonym;
use crate::proto::key;
use crate::proto::query::Rules;
use crate::proto::request::RequestHead;
use crate::proto::session::FetchKind;
use crate::shard;
use crate::stats::{Cells, Counter};
use crate::sys::cpu;
use crate::sys::readiness::Event;
use certificates::Certificates;
use mailbox::{Mailbox, StreamId, Ticket, ToControl, ToWorker};
use origin::{Bounds, FetchError, Origin};
use outbox::Outbox;
use std::cell::{Cell, Ref, RefCell};
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

#[cfg(test)]
mod tests;

/// What the control thread starts with.
pub struct Start {
    /// Origins, routes and the admin address; see [`Handle::reload`] for what may change later.
    pub config: Arc<Config>,
    /// What is served over TLS.
    pub certificates: Certificates,
    /// The only writer of the store.
    pub writer: shard::Writer,
    /// What opening the store found, for the status.
    pub opened: shard::Opened,
    /// The purges that were found in the store's log.
    pub purges: purge::Opened,
    /// One for each worker, in the order of their numbers.
    pub mailboxes: Vec<Arc<Mailbox>>,
    /// The workers' counters.
    pub worker_cells: Vec<Arc<Cells>>,
    /// Counters only this thread writes.
    pub cells: Arc<Cells>,
    /// Set once the workers drain, which is before [`Handle::stop`].
    pub drain: Arc<AtomicBool>,
    /// What else `/status` shows: workers, steering and its reason. An object; its members are merged in.
    pub status: Box<dyn Fn() -> serde_json::Value + Send>,
}

/// The running control thread.
pub struct Handle {
    commands: mpsc::Sender<Command>,
    thread: std::thread::JoinHandle<io::Result<()>>,
    admin: Option<SocketAddr>,
}

enum Command {
    Reload(Arc<Config>, oneshot::Sender<Result<(), String>>),
    Stop,
}

/// Starts the thread, named `edge-control`. Errors: no ring or no epoll, an admin address that cannot be bound or that
/// others reach without a token, an origin whose servers or certificate file cannot be read.
pub fn spawn(start: Start) -> io::Result<Handle> {
    let admin = start.config.admin.as_ref().map(admin_listener::listen).transpose()?;
    let address = admin.as_ref().map_or(Ok(None), admin_listener::Socket::address)?;
    let (commands, inbox) = mpsc::channel(limits::CONTROL_COMMANDS_MAX);
    let (ready, started) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name("edge-control".into()).spawn(move || {
        let mut ring = tokio_uring::uring_builder();
        ring.setup_coop_taskrun().setup_single_issuer();
        let runtime = match tokio_uring::Runtime::new(tokio_uring::builder().uring_builder(&ring)) {
            Ok(runtime) => runtime,
            Err(error) => return ready.send(Err(error)).or(Ok(())),
        };
        cpu::give_way();
        runtime.block_on(run(start, admin, inbox, ready))
    })?;
    match started.recv() {
        Ok(Ok(())) => Ok(Handle { commands, thread, admin: address }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::other("the control thread ended before it was ready")),
    }
}

impl Handle {
    /// Where the admin endpoint listens, if that is an address and no Unix socket.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Takes over origins, routes and their limits; what runs goes on as it began. The error says what is wrong, and
    /// nothing has changed then. Listening addresses and the store need a restart.
    pub fn reload(&self, config: Arc<Config>) -> Result<(), String> {
        let (answer, answered) = oneshot::channel();
        self.commands.blocking_send(Command::Reload(config, answer)).map_err(|_| GONE.to_owned())?;
        answered.blocking_recv().map_err(|_| GONE.to_owned())?
    }

    /// Clean stop: new fetches are refused, running ones get `STOP_GRACE_MS` and are broken off then; the store is
    /// flushed and its checkpoint written. Workers should have drained before. Returns when the thread has ended; the
    /// error is that of the flush or the checkpoint, without which the next start scans the store.
    pub fn stop(self) -> io::Result<()> {
        let _ = self.commands.blocking_send(Command::Stop);
        self.thread.join().map_err(|_| io::Error::other("the control thread panicked"))?
    }
}

const GONE: &str = "the control thread has ended";

/// The state of the thread.
struct Node {
    config: RefCell<Arc<Config>>,
    routes: RefCell<routes::Routes>,
    queries: RefCell<Arc<Rules>>,
    origins: RefCell<Vec<Rc<Origin>>>,
    bounds: Bounds,
    certificates: RefCell<Certificates>,
    writer: RefCell<shard::Writer>,
    /// Held by the one flush that runs.
    flushing: tokio::sync::Mutex<()>,
    opened: shard::Opened,
    outboxes: Vec<Outbox>,
    worker_cells: Vec<Arc<Cells>>,
    cells: Arc<Cells>,
    purges: purge::Purges,
    reasons: RefCell<reasons::Reasons>,
    fills: fill::Fills,
    passes: pass::Passes,
    slices: slices::Slices,
    /// Tunnels, and attempts at one.
    tunnels: Cell<usize>,
    tunnels_max: usize,
    next_stream: Cell<StreamId>,
    pseudonym: Pseudonym,
    tasks: Cell<usize>,
    /// Nothing more is fetched.
    draining: Cell<bool>,
    /// Nothing more is accepted.
    drain: Arc<AtomicBool>,
    admin_token: RefCell<Option<Token>>,
    break_off: watch::Sender<bool>,
    status: Box<dyn Fn() -> serde_json::Value>,
    started: Now,
}

/// Where a request goes, with the fields the choice depended on, and what the operator rules for it.
struct Routed {
    origin: usize,
    fields: Vec<String>,
    caching: Caching,
}

impl Node {
    fn begin(
        start: Start,
        latency: prometheus_client::metrics::histogram::Histogram,
    ) -> Result<Rc<Self>, String> {
        let purges = purge::Purges::new(start.purges);
        let mut reasons = reasons::Reasons::default();
        for (key, unix_s) in purges.invalidated() {
            reasons.note(key::hash(&key), reasons::Reason::Invalidated, unix_s);
        }
        Ok(Rc::new(Node {
            origins: RefCell::new(origins(&start.config)?),
            routes: RefCell::new(routes::Routes::of(&start.config)),
            queries: RefCell::new(start.config.queries()),
            tunnels_max: start.config.clients.tunnels_max,
            admin_token: RefCell::new(start.config.admin.as_ref().and_then(|admin| admin.token.clone())),
            config: RefCell::new(start.config),
            bounds: Bounds::new(start.cells.clone(), latency, purges.sequence()),
            purges,
            reasons: RefCell::new(reasons),
            certificates: RefCell::new(start.certificates),
            writer: RefCell::new(with_meaning(start.writer)),
            flushing: tokio::sync::Mutex::default(),
            opened: start.opened,
            outboxes: start.mailboxes.into_iter().map(Outbox::new).collect(),
            worker_cells: start.worker_cells,
            cells: start.cells,
            fills: fill::Fills::default(),
            passes: pass::Passes::default(),
            slices: slices::Slices::default(),
            tunnels: Cell::new(0),
            next_stream: Cell::new(1),
            // The keys of the standard library's hashing are the machine's random numbers.
            pseudonym: Pseudonym::new(RandomState::new().hash_one(std::process::id())),
            tasks: Cell::new(0),
            draining: Cell::new(false),
            drain: start.drain,
            break_off: watch::channel(false).0,
            status: start.status,
            started: clock::now(),
        }))
    }

    /// Seconds since the thread began.
    fn uptime_s(&self) -> u64 {
        (clock::now().mono_ms - self.started.mono_ms) / 1000
    }

    /// Whether the node is on its way to a stop.
    fn is_draining(&self) -> bool {
        self.draining.get() || self.drain.load(Ordering::Relaxed)
    }

    fn workers(&self) -> usize {
        self.outboxes.len()
    }

    fn outbox(&self, worker: u16) -> &Outbox {
        &self.outboxes[usize::from(worker)]
    }

    fn new_stream(&self) -> StreamId {
        self.next_stream.replace(self.next_stream.get() + 1)
    }

    fn refuse(&self, ticket: Ticket, request: &RequestHead, status: u16) {
        self.refuse_with(ticket, status, transport::lines(self, request));
    }

    /// The same of a request that is not at hand.
    fn refuse_with(&self, ticket: Ticket, status: u16, lines: Vec<u8>) {
        if status == 503 {
            self.cells.add(Counter::Overflows, 1);
        }
        self.outbox(ticket.worker).post(ToWorker::Refused { ticket, status, lines });
    }

    fn route(&self, request: &RequestHead) -> Result<(Rc<Origin>, Routed), FetchError> {
        let routes = self.routes.borrow();
        let Some(routed) = routes.find(request) else {
            return Err(FetchError::new(404, "no route"));
        };
        let origin = self.origins.borrow()[routed.origin].clone();
        let fields = routed.fields.into_iter().map(str::to_owned).collect();
        Ok((origin, Routed { origin: routed.origin, fields, caching: routed.caching.clone() }))
    }

    /// The keys that requests for a URL may have, see [`Rules::keys`].
    fn keys(&self, url_key: &[u8]) -> Vec<Vec<u8>> {
        self.queries.borrow().keys(url_key)
    }

    /// Whether its route lets connections go over to WebSocket.
    fn upgrades(&self, request: &RequestHead) -> bool {
        self.routes.borrow().find(request).is_some_and(|routed| routed.websocket)
    }

    /// Removes what is stored under a key and keeps what is under way from being published. Says how many records
    /// there were.
    fn invalidate(&self, hash: u64, key: &[u8]) -> u64 {
        self.fills.invalidate(key);
        self.writer.borrow_mut().remove(hash, key)
    }

    /// Remembers why the last response of a key is not stored.
    fn not_stored(&self, hash: u64, reason: reasons::Reason) {
        self.reasons.borrow_mut().note(hash, reason, clock::now().unix_s);
    }

    fn writer(&self) -> Ref<'_, shard::Writer> {
        self.writer.borrow()
    }

    /// Runs a task that a clean stop waits for.
    fn spawn(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        let node = self.clone();
        node.tasks.set(node.tasks.get() + 1);
        tokio_uring::spawn(async move {
            task.await;
            node.tasks.set(node.tasks.get() - 1);
        });
    }

    /// Returns once running fetches must be broken off.
    async fn broken_off(&self) {
        // The sender lives in `self`, so this ends only with the signal.
        let _ = self.break_off.subscribe().wait_for(|&broken_off| broken_off).await;
    }

    fn take(self: &Rc<Self>, message: ToControl) {
        match message {
            ToControl::Fetch { ticket, request, .. } if self.draining.get() => {
                self.refuse(ticket, &request, 503);
            }
            ToControl::Refresh { .. } if self.draining.get() => {}
            // Before it could join the fill that sent it round, and wait for itself.
            ToControl::Fetch { ticket, request, .. } if self.pseudonym.goes_round(&request) => {
                self.cells.add(Counter::Loops, 1);
                tracing::debug!(
                    url = %request.key.escape_ascii(),
                    "a request goes round: an origin leads back to this node"
                );
                self.refuse(ticket, &request, 508);
            }
            ToControl::Fetch { ticket, request, .. } if transport::redirect(self, ticket, &request) => {}
            ToControl::Fetch { ticket, kind: FetchKind::Pass, request } => pass::start(self, ticket, request),
            ToControl::Fetch { ticket, kind: FetchKind::Upgrade, request } => {
                tunnel::start(self, ticket, request)
            }
            ToControl::Fetch { ticket, kind, request } => {
                fill::request(self, fill::Waiter { ticket, kind, request })
            }
            ToControl::Refresh { request } => fill::refresh(self, request),
            ToControl::Body { ticket, bytes, last } => match self.passes.get(ticket) {
                Some(pass) => pass.body(bytes, last),
                // The response is over already: what the client still sends is taken and dropped.
                None if bytes.is_empty() => {}
                None => self.outbox(ticket.worker).post(ToWorker::BodyCredit { ticket, bytes: bytes.len() }),
            },
            ToControl::Trailer { ticket, bytes } => {
                if let Some(pass) = self.passes.get(ticket) {
                    pass.trailer(&bytes);
                }
            }
            ToControl::Credit { stream, bytes } => self.passes.credit(stream, bytes),
            ToControl::Gone { ticket } => match self.passes.get(ticket) {
                Some(pass) => pass.gone(),
                None => self.fills.gone(ticket),
            },
        }
    }
}

fn with_meaning(mut writer: shard::Writer) -> shard::Writer {
    writer.set_meaning(disk::MEANING);
    writer
}

fn origins(config: &Config) -> Result<Vec<Rc<Origin>>, String> {
    config.origins.iter().map(|origin| Origin::new(origin).map(Rc::new)).collect()
}

async fn run(
    start: Start,
    admin: Option<admin_listener::Socket>,
    inbox: mpsc::Receiver<Command>,
    ready: std::sync::mpsc::SyncSender<io::Result<()>>,
) -> io::Result<()> {
    let node = match begin(start, admin) {
        Ok(node) => node,
        Err(error) => {
            let _ = ready.send(Err(error));
            return Ok(());
        }
    };
    let _ = ready.send(Ok(()));
    drop(ready);
    obey(&node, inbox).await;
    stop(&node).await
}

fn begin(start: Start, admin: Option<admin_listener::Socket>) -> io::Result<Rc<Node>> {
    let latency = metrics::latency();
    let node = Node::begin(start, latency.clone()).map_err(io::Error::other)?;
    for worker in 0..node.workers() {
        let event = Event::new(node.outboxes[worker].mailbox().to_control.event())?;
        let receiver = node.clone();
        tokio_uring::spawn(async move { receive(&receiver, worker, event).await });
        let pump = node.clone();
        tokio_uring::spawn(async move { pump.outboxes[worker].pump().await });
    }
    disk::begin(&node);
    let keeper = node.clone();
    tokio_uring::spawn(async move { purge::keep_log(&keeper).await });
    let reaper = node.clone();
    tokio_uring::spawn(async move { reap_forever(&reaper).await });
    let watcher = node.clone();
    tokio_uring::spawn(async move { certificates::watch(&watcher).await });
    if let Some(listener) = admin {
        admin_listener::serve(&node, listener, metrics::Metrics::new(&node, latency))?;
    }
    Ok(node)
}

/// Takes one worker's messages for as long as the thread runs.
async fn receive(node: &Rc<Node>, worker: usize, event: Event) {
    let queue = &node.outboxes[worker].mailbox().to_control;
    loop {
        let mut taken = 0;
        while let Some(message) = queue.pop() {
            node.take(message);
            taken += 1;
            if taken % limits::MESSAGES_PER_TURN_MAX == 0 {
                tokio::task::yield_now().await;
            }
        }
        if queue.sleep() && event.fired().await.is_err() {
            return;
        }
    }
}

async fn reap_forever(node: &Node) {
    loop {
        tokio::time::sleep(Duration::from_millis(limits::ORIGIN_IDLE_TIMEOUT_MS / 4)).await;
        node.origins.borrow().iter().for_each(|origin| origin.reap());
    }
}

/// Carries out commands until the one to stop.
async fn obey(node: &Node, mut inbox: mpsc::Receiver<Command>) {
    // A dropped handle stops the thread too.
    while let Some(Command::Reload(config, answer)) = inbox.recv().await {
        let result = origins(&config).and_then(|origins| {
            certificates::reload(node, &config)?;
            take_queries(node, config.queries());
            take_trusted(node, &config.trusted_proxies);
            *node.routes.borrow_mut() = routes::Routes::of(&config);
            transport::tell_workers(node, &config);
            admin_listener::take_token(node, &config);
            *node.origins.borrow_mut() = origins;
            *node.config.borrow_mut() = config;
            Ok(())
        });
        let _ = answer.send(result);
    }
}

/// Tells every worker which arguments of a query count from now on.
fn take_queries(node: &Node, queries: Arc<Rules>) {
    if **node.queries.borrow() != *queries {
        node.outboxes.iter().for_each(|outbox| outbox.post(ToWorker::Queries(queries.clone())));
        *node.queries.borrow_mut() = queries;
    }
}

/// Tells every worker whose word on clients counts from now on.
fn take_trusted(node: &Node, proxies: &[Network]) {
    if node.config.borrow().trusted_proxies != proxies {
        let proxies: Arc<[Network]> = proxies.into();
        node.outboxes.iter().for_each(|outbox| outbox.post(ToWorker::Trusted(proxies.clone())));
    }
}

async fn stop(node: &Rc<Node>) -> io::Result<()> {
    node.draining.set(true);
    let poll = Duration::from_millis(5);
    let grace = Duration::from_millis(limits::STOP_GRACE_MS);
    let idle = async {
        while node.tasks.get() > 0 {
            tokio::time::sleep(poll).await;
        }
    };
    if tokio::time::timeout(grace, idle).await.is_err() {
        tracing::warn!(fetches = node.tasks.get(), "broken off at the stop");
        node.break_off.send_replace(true);
        while node.tasks.get() > 0 {
            tokio::time::sleep(poll).await;
        }
    }
    disk::close(node).await
}
