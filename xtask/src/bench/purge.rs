//! `cargo xtask bench purge`: how long a purge takes to be acknowledged with a store full of tagged objects, and that
//! the next request on every worker is no hit any more. Objects come from an origin in this process, through the node.
#![forbid(unsafe_code)]

use crate::http::{self, Connection};
use crate::node::Node;
use crate::process::{self, Scratch, Server};
use crate::{build, machine};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What the acknowledgement may take at most, for the median.
const MEDIAN_MAX: Duration = Duration::from_millis(10);
const READY: Duration = Duration::from_secs(60);
/// Bytes of an object's body.
const BYTES: usize = 200;
/// Requests sent ahead on one connection while the store is filled.
const AHEAD: usize = 16;
/// Connections that fill the store.
const FILLERS: usize = 16;
/// Connections that ask after each purge; the kernel spreads them over the workers.
const CLIENTS: usize = 32;

/// Options of the measure.
#[derive(Args, Debug)]
pub struct Options {
    /// Objects in the store.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    objects: u32,
    /// Tags; each object has one.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    tags: u32,
    /// Purges of a tag that are measured.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    purges: u32,
    /// Where the store lies; by default in memory, where a flush costs nothing. Must be empty or not there.
    #[arg(long, value_name = "DIRECTORY")]
    store: Option<PathBuf>,
}

/// The measure.
pub fn run(options: &Options) -> Result<()> {
    let (objects, tags) = (options.objects as usize, options.tags as usize);
    ensure!(objects >= 2 * tags, "fewer than two objects a tag: raise --objects or lower --tags");
    ensure!((options.purges as usize) < tags, "as many purges as tags: raise --tags or lower --purges");
    let scratch = Scratch::create("purge")?;
    let origin = serve_tagged(tags)?;
    let address = || http::free_port().map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let (http, admin) = (address()?, address()?);
    // The index has an entry for each 4 KiB of store; a third of it stays free.
    let size = format!("{}MiB", (objects * 6 / 1024).max(64));
    let node = Node {
        cpus: String::new(),
        http: http.to_string(),
        admin: admin.to_string(),
        origin: origin.to_string(),
        xdp: None,
        store_size: &size,
    };
    let store = options.store.clone().map_or_else(|| scratch.directory("store"), Ok)?;
    ensure!(is_empty(&store), "{} holds something: name another --store", store.display());
    let file = scratch.write("edge.toml", node.text(&store.display().to_string()))?;
    let mut command = Command::new(build::release_binary("edge")?);
    command.args(["run", "--config"]).arg(file);
    let server = Server::start("edge", &command, &scratch.path("edge.log"))?;
    server.wait_ready(READY, || http::listens(http))?;
    process::step(&format!("fill the store with {objects} objects under {tags} tags"));
    let started = Instant::now();
    fill(http, objects)?;
    let seconds = started.elapsed().as_secs_f64();
    let stored = status(admin)?["store"]["objects"].as_u64().unwrap_or(0);
    eprintln!("{objects} asked for in {seconds:.0} s, {stored} stored");
    ensure!(stored as f64 > 0.95 * objects as f64, "only {stored} of {objects} objects are stored");

    process::step(&format!("purge {} tags, one after the other", options.purges));
    let mut clients = clients_of_every_worker(http, admin)?;
    let (mut times, mut kept) = (Vec::new(), 0);
    for tag in 0..options.purges as usize {
        process::proceed()?;
        let started = Instant::now();
        let answer = http::post(admin, "/purge", &format!("{{\"tag\":\"tag-{tag}\"}}"))?;
        times.push(started.elapsed());
        ensure!(answer.status == 200, "the purge was answered {}", answer.status);
        for (row, client) in clients.iter_mut().enumerate() {
            let row = row % (objects / tags);
            let purged = client.get_with(&path(row * tags + tag), ONLY_IF_CACHED)?;
            ensure!(purged.status == 504, "an object of tag-{tag} was served after its purge");
            let other = client.get_with(&path(row * tags + tags - 1), ONLY_IF_CACHED)?;
            kept += usize::from(other.status == 200);
        }
    }
    let asked = times.len() * clients.len();
    ensure!(kept as f64 > 0.9 * asked as f64, "of {asked} requests for others only {kept} were hits");
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
    println!(
        "\n| objects | tags | purges | acknowledged after, median | 99 % | slowest |\n|---|---|---|---|---|---|"
    );
    println!(
        "| {stored} | {tags} | {} | {:.2} ms | {:.2} ms | {:.2} ms |\n",
        times.len(),
        milliseconds(at(0.5)),
        milliseconds(at(0.99)),
        milliseconds(at(1.0)),
    );
    println!(
        "Right after: {asked} requests for purged objects, none a hit; {kept} of {asked} for others were. \
         {} connections, every worker has some.\n",
        clients.len()
    );
    ensure!(at(0.5) <= MEDIAN_MAX, "the median is more than {MEDIAN_MAX:?}");
    process::proceed()
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).map_or(true, |mut entries| entries.next().is_none())
}

/// The path of object `number`; its tag is the number modulo the tags.
fn path(number: usize) -> String {
    format!("/{number}")
}

/// A hit is answered 200, anything else 504, and nothing is fetched.
const ONLY_IF_CACHED: &str = "Host: purge.test\r\nCache-Control: only-if-cached\r\n";

/// Asks for every object once, some requests ahead on each connection.
fn fill(node: SocketAddr, objects: usize) -> Result<()> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        let mut stream = TcpStream::connect(node)?;
        stream.set_read_timeout(Some(READY))?;
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        loop {
            let first = next.fetch_add(AHEAD, Ordering::Relaxed);
            let numbers = first..objects.min(first + AHEAD);
            if numbers.is_empty() || process::interrupted() {
                return Ok(());
            }
            let requests: String = numbers
                .clone()
                .map(|number| format!("GET {} HTTP/1.1\r\nHost: purge.test\r\n\r\n", path(number)))
                .collect();
            stream.write_all(requests.as_bytes())?;
            for number in numbers {
                let answer = http::read_response(&mut reader)?;
                ensure!(answer.status == 200, "{} was answered {}", path(number), answer.status);
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..FILLERS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(filled) => filled,
            Err(_) => bail!("a thread that filled the store panicked"),
        })
    })
}

/// Connections of which every worker has at least one.
fn clients_of_every_worker(node: SocketAddr, admin: SocketAddr) -> Result<Vec<Connection>> {
    let accepted = || -> Result<Vec<u64>> {
        let workers = status(admin)?["workers"].as_array().cloned().unwrap_or_default();
        Ok(workers.iter().map(|worker| worker["accepted"].as_u64().unwrap_or(0)).collect())
    };
    let before = accepted()?;
    // The kernel gives a connection to the worker of the CPU that opens it.
    let cpus = machine::cpus()?;
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        machine::stay_on(&[cpus[number % cpus.len()]])?;
        let mut client = Connection::open(node)?;
        ensure!(client.get_with("/0", ONLY_IF_CACHED)?.status > 0, "no answer");
        clients.push(client);
    }
    machine::stay_on(&cpus)?;
    let after = accepted()?;
    let idle = before.iter().zip(&after).filter(|(before, after)| before == after).count();
    ensure!(idle == 0, "{idle} of {} workers were given no connection", after.len());
    Ok(clients)
}

fn status(admin: SocketAddr) -> Result<Value> {
    let answer = http::get(admin, "/status")?;
    serde_json::from_slice(&answer.body).context("the status is not JSON")
}

/// An origin that tags what it serves; its threads end with the process.
fn serve_tagged(tags: usize) -> Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    std::thread::Builder::new().name("origin".into()).spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                // A cache may close its connection at any time: nothing to report.
                let _ = answer_tagged(stream, tags);
            });
        }
    })?;
    Ok(address)
}

fn answer_tagged(mut stream: TcpStream, tags: usize) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut head, body) = (String::new(), "x".repeat(BYTES));
    loop {
        head.clear();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        let number: Option<usize> =
            head.split(' ').nth(1).and_then(|path| path.strip_prefix('/')?.parse().ok());
        let tag = number.context("not a path of ours")? % tags;
        let fields = format!("Cache-Control: max-age=86400\r\nSurrogate-Key: all tag-{tag}\r\n");
        stream.write_all(
            format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {BYTES}\r\n\r\n{body}").as_bytes(),
        )?;
    }
}
