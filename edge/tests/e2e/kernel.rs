//! What the kernel sees of the running node: which system calls a worker makes, what an idle connection
//! costs, and that hits need no control thread. Parts need root and say so when they cannot run.

use crate::support::process::{self, Held};
use crate::support::{Client, Edge, Origin, Setup, alone, content, eventually, request};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// An edge on these CPUs with a 1 KiB object stored at `/object`.
fn stored(cpus: Option<&str>) -> (Origin, Edge) {
    let origin = Origin::start();
    origin.cacheable("/object", 1024);
    let edge =
        Edge::start_with(origin.address(), Setup { cpus: cpus.map(String::from), ..Default::default() });
    edge.get("/object");
    edge.get_hit("/object");
    (origin, edge)
}

/// The first CPU this process may use, so that an edge on it has one worker.
pub fn one_cpu() -> String {
    let set = nix::sched::sched_getaffinity(Pid::from_raw(0)).expect("the CPUs allowed");
    let cpu = (0..nix::sched::CpuSet::count()).find(|cpu| set.is_set(*cpu).unwrap_or(false));
    cpu.expect("a CPU").to_string()
}

/// Clients asking for `/object` until told to stop; counts what they got, and what was wrong.
struct Load {
    stop: Arc<AtomicBool>,
    hits: Arc<AtomicUsize>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn start(address: SocketAddr, clients: usize) -> Self {
        let (stop, hits) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let threads = (0..clients).map(|_| {
            let (stop, hits) = (stop.clone(), hits.clone());
            std::thread::spawn(move || {
                let wanted = content::part(content::seed("/object"), 0, 1024);
                let mut client = Client::connect(address);
                while !stop.load(Ordering::Relaxed) {
                    let response = client.get("/object");
                    assert!(response.head.is_hit() && response.body == wanted, "{:?}", response.head);
                    hits.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        Load { threads: threads.collect(), stop, hits }
    }

    fn hits(&self) -> usize {
        self.hits.load(Ordering::Relaxed)
    }

    fn finish(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("every answer was a hit with the right bytes");
        }
        self.hits.load(Ordering::Relaxed)
    }
}

#[test]
fn threads_are_named_and_workers_pinned() {
    let (_origin, edge) = stored(None);
    assert_eq!(process::threads_named(edge.pid(), "edge-control").len(), 1);
    let allowed = nix::sched::sched_getaffinity(Pid::from_raw(0)).expect("the CPUs allowed");
    let mut taken = Vec::new();
    let workers = process::threads_named(edge.pid(), "edge-worker-");
    for tid in &workers {
        let set = nix::sched::sched_getaffinity(*tid).expect("the worker's CPUs");
        let cpus: Vec<_> =
            (0..nix::sched::CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect();
        assert_eq!(cpus.len(), 1, "worker {tid} may run on {cpus:?}");
        assert!(allowed.is_set(cpus[0]).unwrap_or(false));
        taken.extend(cpus);
    }
    taken.sort_unstable();
    taken.dedup();
    assert!(!workers.is_empty() && taken.len() == workers.len(), "one CPU each: {taken:?}");
}

#[test]
fn control_held_still() {
    const HOLD: Duration = Duration::from_secs(5);
    if !process::is_root("control_held_still") {
        return;
    }
    let _alone = alone();
    let (origin, edge) = stored(None);
    let control = process::threads_named(edge.pid(), "edge-control")[0];
    let load = Load::start(edge.http(), 4);
    let mut admin = Client::connect(edge.admin());
    let held = Held::stop(control);
    let begun = Instant::now();
    let wrk = wrk(&edge);
    while begun.elapsed() < HOLD {
        let before = load.hits();
        std::thread::sleep(Duration::from_millis(500));
        eventually("hits go on", || load.hits() > before);
        assert_eq!(process::state(edge.pid(), control), 't', "the control thread is held");
    }
    let mut fresh = edge.client();
    assert!(fresh.get("/object").head.is_hit(), "new connections are served, too");
    admin.stream().set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    admin.send(b"GET /healthz HTTP/1.1\r\nHost: admin\r\n\r\n");
    assert!(admin.response("GET").is_err(), "the admin endpoint answered: control was not held");
    if let Some(wrk) = wrk {
        check_wrk(wrk);
    }
    drop(held);
    let hits = load.finish();
    eprintln!("control held for {:?}: {hits} hits", begun.elapsed());
    assert_eq!(origin.count("/object"), 1);
    origin.cacheable("/later", 10);
    assert_eq!(edge.get("/later").status(), 200, "misses go on afterwards");
}

fn wrk(edge: &Edge) -> Option<std::process::Child> {
    if !process::has_program("control_held_still", "wrk") {
        return None;
    }
    let host = format!("Host: {}", crate::support::HOST);
    let url = format!("http://{}/object", edge.http());
    let arguments = ["-t", "1", "-c", "16", "-d", "4s", "--timeout", "30s", "-H", &host, &url];
    Some(Command::new("wrk").args(arguments).stdout(Stdio::piped()).spawn().expect("wrk starts"))
}

fn check_wrk(wrk: std::process::Child) {
    let output = wrk.wait_with_output().expect("wrk ends");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("requests in"), "{text}");
    assert!(!text.contains("Socket errors") && !text.contains("Non-2xx"), "{text}");
    eprintln!("{text}");
}

#[test]
fn workers_make_one_system_call() {
    const CLIENTS: usize = 16;
    const TEST: &str = "workers_make_one_system_call";
    if !process::is_root(TEST) || !process::has_program(TEST, "strace") {
        return;
    }
    let _alone = alone();
    let (_origin, edge) = stored(Some(&one_cpu()));
    let workers = process::threads_named(edge.pid(), "edge-worker-");
    assert_eq!(workers.len(), 1);
    let trace = edge.config_path().with_file_name("trace");
    let load = Load::start(edge.http(), CLIENTS);
    // Buffers are made with the first answers and used again from then on.
    eventually("the load is under way", || load.hits() > 2000);
    let mut strace = Command::new("strace")
        .args(["-q", "-p", &workers[0].to_string(), "-o"])
        .arg(&trace)
        .spawn()
        .expect("strace starts");
    eventually("strace is attached", || std::fs::metadata(&trace).is_ok_and(|file| file.len() > 0));
    let before = (load.hits(), calls(&trace).values().sum::<usize>());
    std::thread::sleep(Duration::from_millis(1500));
    eventually("there is load", || load.hits() > before.0 + 1000);
    let after = (load.hits(), calls(&trace).values().sum::<usize>());
    kill(Pid::from_raw(strace.id() as i32), Signal::SIGINT).expect("strace is told to stop");
    strace.wait().expect("strace ends");
    load.finish();
    let calls = calls(&trace);
    let per_request = (after.1 - before.1) as f64 / (after.0 - before.0) as f64;
    eprintln!("system calls of a worker under load: {calls:?}, {per_request:.3} per request");
    let others: Vec<_> = calls.keys().filter(|name| *name != "io_uring_enter").collect();
    assert!(others.is_empty(), "other system calls than io_uring_enter: {calls:?}");
    assert!(per_request <= 2.0, "{per_request} system calls per request");
}

/// How often each system call stands in a trace.
fn calls(trace: &std::path::Path) -> BTreeMap<String, usize> {
    let mut calls = BTreeMap::new();
    for line in std::fs::read_to_string(trace).unwrap_or_default().lines() {
        let Some((name, _)) = line.split_once('(') else { continue };
        let resumed = line.contains("resumed>");
        if !resumed && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            *calls.entry(name.to_string()).or_insert(0) += 1;
        }
    }
    calls
}

#[test]
fn ten_thousand_idle_connections() {
    const CONNECTIONS: usize = 10_000;
    const BYTES_EACH_MAX: f64 = 1024.0;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit");
    let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    if hard < CONNECTIONS as u64 + 2000 {
        eprintln!(
            "SKIPPED ten_thousand_idle_connections: only {hard} open files allowed; raise RLIMIT_NOFILE"
        );
        return;
    }
    let _alone = alone();
    let (_origin, edge) = stored(None);
    // Whatever is set up once by the first connections is no matter of the number of connections.
    let warm: Vec<_> = (0..200).map(|i| idle(&edge, i)).collect();
    drop(warm);
    edge.wait_closed();
    let before = process::anonymous_bytes(edge.pid());
    let mut clients: Vec<_> = (0..CONNECTIONS).map(|i| idle(&edge, i)).collect();
    let grown = process::anonymous_bytes(edge.pid()).saturating_sub(before);
    let each = grown as f64 / CONNECTIONS as f64;
    eprintln!(
        "{CONNECTIONS} idle connections: anonymous memory grew by {grown} bytes, {each:.1} each; \
         before the first it was {before}"
    );
    for client in clients.iter_mut().step_by(97) {
        assert!(client.get("/object").head.is_hit(), "an idle connection is served again");
    }
    let metrics = edge.metrics();
    let open = metrics["edge_connections_accepted_total"] - metrics["edge_connections_closed_total"];
    assert_eq!(open, CONNECTIONS as f64, "all are held");
    assert!(each <= BYTES_EACH_MAX, "{each:.0} bytes of anonymous memory for each connection");
}

/// A connection that has had one answer and waits.
fn idle(edge: &Edge, number: usize) -> Client {
    let source = Ipv4Addr::new(127, 0, 0, 2 + (number % 4) as u8);
    let mut client = Client::connect_from(source, edge.http()).expect("connected");
    client.send(request("GET", "/object", &[]).as_bytes());
    let response = client.response("GET").unwrap_or_else(|fault| panic!("connection {number}: {fault:?}"));
    assert!(response.head.is_hit());
    client
}
