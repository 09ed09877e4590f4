//! `cargo xtask bench idle`: anonymous memory per idle keep-alive connection. Every connection has asked
//! for one small object and was answered, as the connections of real clients have.
#![forbid(unsafe_code)]

use super::origin::{Origin, path};
use super::peers::{self, Kind, Peer, Stage};
use crate::http::Connection;
use crate::machine;
use crate::process::{self, Scratch};
use anyhow::{Context, Result, ensure};
use clap::Args;
use std::net::TcpStream;
use std::time::Duration;

/// The object every connection asks for once.
const BYTES: usize = 1024;
/// What edge may use for a connection, in bytes.
const EDGE_BYTES_MAX: f64 = 1024.0;
/// How long memory may settle before it is read.
const SETTLE: Duration = Duration::from_millis(500);

/// Options of the measure.
#[derive(Args, Debug)]
pub struct Options {
    /// Connections held at once.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=15_000))]
    connections: u32,
    /// Which servers.
    #[arg(long, value_delimiter = ',', default_values = ["edge", "nginx", "h2o"])]
    servers: Vec<Kind>,
}

/// The measure.
pub fn run(options: &Options) -> Result<()> {
    let limit = machine::raise_open_files()?;
    ensure!(
        limit > u64::from(options.connections) + 200,
        "the hard limit of open files is {limit}: raise it (`ulimit -Hn`) or hold fewer --connections"
    );
    let (cpu, _) = super::server_and_client_cpu()?;
    let scratch = Scratch::create("idle")?;
    let origin = Origin::start()?;
    let stage = Stage { scratch: &scratch, origin: &origin, cpu, sizes: &[BYTES] };
    let count = f64::from(options.connections);
    let mut rows = Vec::new();
    for kind in &options.servers {
        // One at a time: the file table and the ports of this machine are shared.
        let peer = peers::start(*kind, &stage)?;
        peer.verify(BYTES, &origin)?;
        let memory = hold(&peer, options.connections).with_context(|| format!("holding {}", kind.name()))?;
        eprintln!("{}: {} connections held", kind.name(), options.connections);
        rows.push((*kind, memory));
    }
    println!("\nAnonymous memory with {count} idle keep-alive connections, one answer each\n");
    println!("| server | before | with them | growth, bytes a connection | all, bytes a connection |");
    println!("|---|---|---|---|---|");
    for (kind, Memory { before, after }) in &rows {
        println!(
            "| {} | {} KiB | {} KiB | {:.0} | {:.0} |",
            kind.name(),
            before / 1024,
            after / 1024,
            after.saturating_sub(*before) as f64 / count,
            *after as f64 / count,
        );
    }
    println!();
    for (kind, Memory { before, after }) in rows {
        let each = after.saturating_sub(before) as f64 / count;
        let fits = kind != Kind::Edge || each <= EDGE_BYTES_MAX;
        ensure!(fits, "edge grew by {each:.0} bytes per idle connection, more than {EDGE_BYTES_MAX}");
    }
    Ok(())
}

/// Anonymous bytes of all processes of a server.
struct Memory {
    before: u64,
    after: u64,
}

fn hold(peer: &Peer, connections: u32) -> Result<Memory> {
    let target = peer.endpoint(BYTES)?;
    let pid = target.server.pid();
    process::sleep(SETTLE)?;
    let before = machine::anonymous_bytes(pid)?;
    let mut held: Vec<TcpStream> = Vec::with_capacity(connections as usize);
    for number in 0..connections {
        process::proceed()?;
        let mut connection = Connection::open(target.address)?;
        let response = connection.get(&path(BYTES)).with_context(|| format!("connection {number}"))?;
        ensure!(response.status == 200 && response.body.len() == BYTES, "status {}", response.status);
        held.push(connection.into_stream());
    }
    process::sleep(SETTLE)?;
    target.server.alive()?;
    let after = machine::anonymous_bytes(pid)?;
    ensure_open(&held)?;
    Ok(Memory { before, after })
}

/// A connection that the server closed would not count: none may be.
fn ensure_open(held: &[TcpStream]) -> Result<()> {
    for (number, stream) in held.iter().enumerate() {
        stream.set_nonblocking(true)?;
        let state = stream.peek(&mut [0]);
        let open = matches!(&state, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
        ensure!(open, "connection {number} was closed while idle: {state:?}");
    }
    Ok(())
}
