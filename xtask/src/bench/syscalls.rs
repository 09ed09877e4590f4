//! `cargo xtask bench syscalls`: every system call of edge's worker under load, counted by strace. Figures
//! of speed never come from here: tracing costs more than what it watches.
#![forbid(unsafe_code)]

use super::measure::{self, Load};
use super::origin::{self, Origin};
use super::peers::{self, Kind, Stage};
use crate::machine;
use crate::process::{Scratch, Server};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

const BYTES: usize = 1024;
const CONNECTIONS: u32 = 64;
const SECONDS: u32 = 2;
/// The only system call of a worker.
const ALLOWED: &str = "io_uring_enter";

/// The measure.
pub fn run() -> Result<()> {
    let (cpu, client) = super::server_and_client_cpu()?;
    let scratch = Scratch::create("syscalls")?;
    let origin = Origin::start()?;
    let stage = Stage { scratch: &scratch, origin: &origin, cpu, sizes: &[BYTES] };
    let edge = peers::start(Kind::Edge, &stage)?;
    edge.verify(BYTES, &origin)?;
    let target = edge.endpoint(BYTES)?;
    let load = Load { cpu: client, connections: CONNECTIONS, seconds: 1 };
    let path = origin::path(BYTES);
    let worker =
        busiest_thread(target.server.pid(), || measure::wrk(load, target.address, &path).map(|_| ()))?;

    let table = scratch.path("strace");
    let mut command = Command::new("strace");
    command.args(["-c", "-p", &worker.to_string(), "-o"]).arg(&table);
    let strace = Server::start("strace", &command, &scratch.path("strace.log"))?;
    strace.wait_ready(Duration::from_secs(5), || traced(worker))?;
    let wrk = measure::wrk(Load { seconds: SECONDS, ..load }, target.address, &path)?;
    strace.signal(Signal::SIGINT)?;
    strace.wait_end(Duration::from_secs(5))?;

    let calls = parse(&std::fs::read_to_string(&table)?);
    ensure!(!calls.is_empty(), "strace counted nothing: {}", strace.log());
    println!("\n| system call | count | per request |\n|---|---|---|");
    for (name, count) in &calls {
        println!("| {name} | {count} | {:.3} |", *count as f64 / wrk.requests as f64);
    }
    println!("\n{} requests over {CONNECTIONS} connections in {SECONDS} s under strace\n", wrk.requests);
    let others: Vec<_> = calls.keys().filter(|name| *name != ALLOWED).collect();
    ensure!(others.is_empty(), "the worker made other system calls than {ALLOWED}: {others:?}");
    Ok(())
}

/// The thread of the process that used most CPU time meanwhile: under load, that is the worker.
fn busiest_thread(pid: u32, mut load: impl FnMut() -> Result<()>) -> Result<u32> {
    let before: BTreeMap<u32, u64> =
        machine::threads(pid)?.iter().map(|thread| (thread.id, thread.ticks)).collect();
    load()?;
    let after = machine::threads(pid)?;
    let spent = |thread: &machine::Thread| thread.ticks - before.get(&thread.id).copied().unwrap_or(0);
    let busiest = after.iter().max_by_key(|thread| spent(thread)).context("no thread")?;
    eprintln!("thread {} ({}) used most CPU time under load", busiest.id, busiest.name);
    Ok(busiest.id)
}

fn traced(thread: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
    tracer.is_some_and(|pid| pid.trim() != "0")
}

/// The calls of a `strace -c` table with their counts.
fn parse(table: &str) -> BTreeMap<String, u64> {
    let rows = table.lines().filter_map(|line| {
        // % time, seconds, usecs/call, calls, errors (may be blank), syscall
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.first()?.parse::<f64>().ok()?;
        let name = fields.last().filter(|name| **name != "total")?;
        Some((name.to_string(), fields.get(3)?.parse().ok()?))
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_with_and_without_errors() {
        let table = "% time     seconds  usecs/call     calls    errors syscall\n\
                     ------ ----------- ----------- --------- --------- ----------------\n\
                     99.12    0.100000           5     20000         3 io_uring_enter\n  \
                     0.88    0.000100           1       100           futex\n\
                     ------ ----------- ----------- --------- --------- ----------------\n\
                     100.00    0.100100           5     20100         3 total\n";
        let calls: Vec<_> = parse(table).into_iter().collect();
        assert_eq!(calls, [("futex".to_owned(), 100), ("io_uring_enter".to_owned(), 20_000)]);
    }
}
