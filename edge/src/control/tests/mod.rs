//! The control thread as it runs in the node, with fake workers that drain its mailboxes and real origins on
//! loopback.
#![allow(clippy::disallowed_methods, reason = "these tests wait in real time")]

mod admin;
mod certificates;
mod disk;
mod fills;
mod nginx;
mod origin;
mod passes;
mod purges;
mod simulation;
mod slices;
mod why;
mod worker;

use super::mailbox::Mailbox;
use super::{Handle, Start, spawn};
use crate::config::{Admin, AdminAddress, Clients, Config, Origin, Route, Shard};
use crate::limits;
use crate::proto::route::Pattern;
use crate::shard;
use crate::stats::{Cells, Counter};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use worker::Worker;

/// Long enough for a loaded machine; a test that hangs ends here.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory of its own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("edge-control-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running control thread.
struct Node {
    handle: Handle,
    cells: Arc<Cells>,
    config: Config,
    directory: Arc<Scratch>,
}

impl Node {
    fn count(&self, counter: Counter) -> u64 {
        self.cells.get(counter)
    }

    /// Waits for a counter, for some are written just after the message they belong to.
    fn await_count(&self, counter: Counter, wanted: u64) {
        let start = Instant::now();
        while self.count(counter) != wanted {
            assert!(start.elapsed() < PATIENCE, "{counter:?} is {}, not {wanted}", self.count(counter));
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// A configuration with one origin of these servers, and a route to it.
fn config(directory: &Path, servers: &[String]) -> Config {
    Config {
        cpus: None,
        http: vec![],
        http2_cleartext: false,
        https: vec![],
        tls: Default::default(),
        warnings: vec![],
        trusted_proxies: vec![],
        admin: Some(admin_on("127.0.0.1:0".parse().unwrap())),
        clients: Clients { connections_max: 1024, ..Clients::default() },
        store: vec![Shard {
            path: directory.into(),
            size_bytes: 256 << 20,
            object_bytes: limits::OBJECT_BYTES,
            state: None,
            hold: Default::default(),
        }],
        origins: vec![Origin {
            name: "main".into(),
            servers: servers.to_vec(),
            concurrency_max: 256,
            connect_timeout_ms: 2_000,
            first_byte_timeout_ms: 10_000,
            ca_file: None,
            forwarded: Default::default(),
        }],
        routes: vec![Route::default()],
        xdp: None,
    }
}

/// An admin endpoint that asks for no token.
fn admin_on(address: std::net::SocketAddr) -> Admin {
    Admin { address: AdminAddress::Tcp(address), token: None }
}

fn start(workers: usize, servers: &[String]) -> (Node, Vec<Worker>) {
    let directory = Arc::new(Scratch::new());
    start_in(workers, config(directory.path(), servers), directory)
}

fn shards(config: &Config, readers: usize) -> Vec<shard::Options> {
    let options = |one: &Shard| shard::Options {
        path: one.path.clone(),
        size_bytes: one.size_bytes,
        object_bytes: one.object_bytes,
        state: one.state.clone(),
        readers,
        ..Default::default()
    };
    config.store.iter().map(options).collect()
}

/// What the thread starts with, and the workers that go with it.
fn prepare(workers: usize, config: &Config) -> (Start, Vec<Worker>) {
    let (mut writer, readers, opened) = shard::open(&shards(config, workers)).unwrap();
    let purges = super::purge::open(&mut writer).unwrap();
    let table = purges.table();
    let mailboxes: Vec<_> = (0..workers).map(|_| Mailbox::new().unwrap()).collect();
    let start = Start {
        config: Arc::new(config.clone()),
        certificates: super::certificates::Certificates::load(config).unwrap(),
        writer,
        opened,
        purges,
        mailboxes: mailboxes.clone(),
        worker_cells: (0..workers).map(|_| Arc::default()).collect(),
        cells: Arc::default(),
        drain: Arc::default(),
        status: Box::new(|| serde_json::json!({ "steering": { "mode": "off" } })),
    };
    let fakes = mailboxes.into_iter().zip(readers).enumerate();
    let workers = fakes
        .map(|(number, (mailbox, reader))| Worker::new(number as u16, mailbox, reader, table.clone()))
        .collect();
    (start, workers)
}

fn start_in(workers: usize, config: Config, directory: Arc<Scratch>) -> (Node, Vec<Worker>) {
    let (start, workers) = prepare(workers, &config);
    let cells = start.cells.clone();
    let handle = spawn(start).unwrap();
    (Node { handle, cells, config, directory }, workers)
}

/// Bytes that differ at every offset of a few MiB, the same for the same seed.
fn pattern(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.extend_from_slice(&state.to_be_bytes());
    }
    out.truncate(bytes);
    out
}

fn hash(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}

#[test]
fn the_line_to_control_loses_no_wake_up() {
    // A consumer that only ever waits for the event, a producer that only rings when told to.
    let mailbox = Mailbox::new().unwrap();
    let producer = mailbox.clone();
    const ITEMS: u64 = 200_000;
    let thread = std::thread::spawn(move || {
        for stream in 0..ITEMS {
            let mut message = super::mailbox::ToControl::Credit { stream, bytes: 1 };
            loop {
                match producer.to_control.push(message) {
                    Ok(true) => break super::outbox::ring(&producer.to_control),
                    Ok(false) => break,
                    Err(back) => {
                        message = back;
                        std::thread::yield_now();
                    }
                }
            }
        }
    });
    let mut next = 0;
    while next < ITEMS {
        while let Some(super::mailbox::ToControl::Credit { stream, .. }) = mailbox.to_control.pop() {
            assert_eq!(stream, next);
            next += 1;
        }
        if next < ITEMS && mailbox.to_control.sleep() {
            worker::wait_for(mailbox.to_control.event(), PATIENCE).expect("woken");
        }
    }
    thread.join().unwrap();
}

#[test]
fn what_does_not_fit_a_workers_queue_arrives_later_and_in_order() {
    let directory = Arc::new(Scratch::new());
    let mut config = config(directory.path(), &["http://127.0.0.1:1".into()]);
    config.routes.clear();
    let (node, mut workers) = start_in(1, config, directory);
    let worker = &mut workers[0];
    let wanted = limits::TO_WORKER_MESSAGES_MAX + 1000;
    let tickets: Vec<_> = (0..wanted).map(|i| worker.fill(&format!("http://a/{i}"))).collect();
    // Nothing was taken meanwhile, so the queue is full and the rest waits in control.
    let start = Instant::now();
    while worker.queued() < limits::TO_WORKER_MESSAGES_MAX {
        assert!(start.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(1));
    }
    worker.run_until(|worker| tickets.iter().all(|ticket| worker.refused(*ticket) == Some(404)));
    assert_eq!(worker.order(), tickets);
    node.handle.stop().unwrap();
}

#[test]
fn a_clean_stop_breaks_what_runs_and_leaves_a_store_that_opens_at_once() {
    let origin = origin::Origin::start(|exchange| match exchange.path() {
        "/small" => exchange.respond("200 OK", "Cache-Control: max-age=60\r\n", b"small"),
        _ => exchange.respond_and_stall("200 OK", "Content-Length: 100\r\n", b"half"),
    });
    let (node, mut workers) = start(1, &[origin.url()]);
    let worker = &mut workers[0];
    let small = worker.fill("http://a/small");
    worker.run_until(|worker| worker.whole(small));
    let stalled = worker.pass("GET", "http://a/stalled", "");
    worker.run_until(|worker| worker.body(stalled) == b"half");
    let (config, directory) = (node.config.clone(), node.directory.clone());
    let begun = Instant::now();
    node.handle.stop().unwrap();
    assert!(begun.elapsed() < Duration::from_millis(limits::STOP_GRACE_MS) + Duration::from_secs(5));
    worker.run_until(|worker| worker.broken(stalled));
    drop(workers);

    let (writer, readers, opened) = shard::open(&shards(&config, 1)).unwrap();
    assert!(opened.clean, "{opened:?}");
    assert_eq!(opened.objects, 1);
    let key = b"http://a/small";
    let record = readers[0].lookup(hash(key), key, |_| true).expect("found again");
    assert_eq!(record.body(), b"small");
    drop(record);
    drop((writer, directory));
}
