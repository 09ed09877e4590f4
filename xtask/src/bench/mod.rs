//! `cargo xtask bench`: what a cache hit costs, edge against its peers and against the practical limit, in
//! one run on one machine. Server on one CPU, wrk on another, rounds alternating over the servers, because
//! a machine's speed drifts by more than the servers differ.
#![forbid(unsafe_code)]

#[path = "../../../edge/src/proto/http2/frame.rs"]
mod frame;
mod idle;
mod idle_tls;
mod latency;
mod lookup;
pub mod measure;
mod origin;
mod peers;
mod purge;
mod report;
mod streams;
mod syscalls;
mod tls;

use crate::process::Scratch;
use crate::{build, machine, process, setup};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use measure::Load;
use origin::Origin;
use peers::{Kind, Peer, Stage};
use report::Report;
use std::path::PathBuf;

const EXAMPLES: &str = "Examples:
  cargo xtask bench                              all servers, four sizes, five rounds
  cargo xtask bench --quick                      three rounds of one second
  cargo xtask bench --servers edge,null --sizes 1024 --rounds 9
  cargo xtask bench --json bench.json            also for machines
  cargo xtask bench idle                         memory of 10,000 idle connections
  cargo xtask bench latency                      hot hits alone, and beside cold ones, trickles and floods
  cargo xtask bench lookup                       lookups a second of one core among ten million objects
  cargo xtask bench purge                        purges by tag with a million objects stored
  cargo xtask bench streams                      100 clients with 100 streams of 1 MiB each: bytes and fairness
  cargo xtask bench syscalls                     system calls of a worker under load
  cargo xtask bench tls                          hits, handshakes and idle connections over TLS";

/// Options of the task.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Options {
    #[command(subcommand)]
    measure: Option<Other>,
    #[command(flatten)]
    hits: Hits,
}

/// Measures besides the cost of a hit.
#[derive(Subcommand, Debug)]
enum Other {
    /// Anonymous memory of idle keep-alive connections, each of which has had one answer.
    Idle(idle::Options),
    /// How long hot hits take alone, and beside hits from the disk, clients that trickle, and floods over HTTP/2.
    Latency(latency::Options),
    /// Lookups of the store among millions of small objects on one core, and what bounds them.
    Lookup(lookup::Options),
    /// Time until a purge is acknowledged with a full store, and that it holds for the next request.
    Purge(purge::Options),
    /// Many streams of many HTTP/2 clients over TLS: every byte, and how much later the slowest ends.
    Streams(streams::Options),
    /// System calls of edge's worker under load, by strace.
    Syscalls,
    /// Hits, handshakes and idle connections over TLS.
    Tls(tls::Options),
}

/// The cost of a hit.
#[derive(Args, Debug)]
struct Hits {
    /// Rounds over all servers.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds of each window.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Three rounds of one second.
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    quick: bool,
    /// Keep-alive connections.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Body sizes in bytes.
    #[arg(long, value_delimiter = ',', default_values_t = [1 << 10, 16 << 10, 100 << 10, 1 << 20])]
    sizes: Vec<usize>,
    /// Which servers.
    #[arg(long, value_delimiter = ',', default_values = ["edge", "nginx", "varnish", "h2o", "null"])]
    servers: Vec<Kind>,
    /// Write all figures there as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The task.
pub fn run(options: Options) -> Result<()> {
    setup::ensure(&setup::Need::Bench)?;
    build::release(&["edge", "benches"])?;
    machine::raise_open_files()?;
    match options.measure {
        None => hits(&options.hits),
        Some(Other::Idle(options)) => idle::run(&options),
        Some(Other::Latency(options)) => latency::run(&options),
        Some(Other::Lookup(options)) => lookup::run(&options),
        Some(Other::Purge(options)) => purge::run(&options),
        Some(Other::Streams(options)) => streams::run(&options),
        Some(Other::Syscalls) => syscalls::run(),
        Some(Other::Tls(options)) => tls::run(&options),
    }
}

/// The servers' CPU and the clients': the last and the first that we may use.
fn server_and_client_cpu() -> Result<(usize, usize)> {
    let cpus = machine::cpus()?;
    let (first, last) = cpus.first().zip(cpus.last()).context("no CPU")?;
    if first == last {
        bail!("server and client need a CPU each: allow a second one (now only {first})");
    }
    Ok((*last, *first))
}

fn hits(options: &Hits) -> Result<()> {
    let (rounds, seconds) = if options.quick { (3, 1) } else { (options.rounds, options.seconds) };
    let cpus = server_and_client_cpu()?;
    let scratch = Scratch::create("bench")?;
    let origin = Origin::start()?;
    let stage = Stage { scratch: &scratch, origin: &origin, cpu: cpus.0, sizes: &options.sizes };
    let started = options.servers.iter().map(|kind| peers::start(*kind, &stage));
    let peers: Vec<Peer> = started.collect::<Result<_>>()?;
    let load = Load { cpu: cpus.1, connections: options.connections, seconds };
    let mut runs = Vec::new();
    for bytes in &options.sizes {
        eprintln!("{}: {rounds} rounds × {} servers × {seconds} s", report::size(*bytes), peers.len());
        for peer in &peers {
            peer.verify(*bytes, &origin)?;
        }
        let asked = origin.requests();
        let first = runs.len();
        runs.extend(peers.iter().map(|peer| (peer.kind, *bytes, Vec::new())));
        for _ in 0..rounds {
            for (index, peer) in peers.iter().enumerate() {
                let sample = measure::window(peer, *bytes, load);
                runs[first + index]
                    .2
                    .push(sample.with_context(|| format!("measuring {}", peer.kind.name()))?);
            }
        }
        if origin.requests() != asked {
            bail!("{} requests reached the origin: these were not hits", origin.requests() - asked);
        }
    }
    let report = Report::new(cpus, options.connections, seconds, &runs);
    println!("\n{}", report.table());
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_string_pretty(&report)? + "\n")
            .with_context(|| format!("write {}", file.display()))?;
    }
    process::proceed()
}
