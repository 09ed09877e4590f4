//! The client that measures: asks for one small hot object at an even rate, over a few connections by turns, and notes
//! how long each answer took. It runs before everything else on its CPU, so that what it sees is the node and the
//! kernel, not the load that shares the CPU with it.
#![forbid(unsafe_code)]

use crate::process;
use anyhow::{Context, Result, bail, ensure};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long any answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The priority among real-time threads: any is before the others.
const PRIORITY: &str = "10";

/// What a window showed, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latency {
    /// Half of them took at most so long.
    pub p50: f64,
    /// 99 of 100 of them.
    pub p99: f64,
}

/// The connections.
pub struct Hot {
    streams: Vec<TcpStream>,
    request: Vec<u8>,
    bytes: usize,
}

impl Hot {
    /// Opens them. The object has a body of so many bytes.
    pub fn open(to: SocketAddr, path: &str, bytes: usize, connections: usize) -> Result<Self> {
        let connect = || -> Result<TcpStream> {
            let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(stream)
        };
        let streams = (0..connections).map(|_| connect()).collect::<Result<_>>()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {to}\r\n\r\n").into_bytes();
        Ok(Hot { streams, request, bytes })
    }

    /// Asks `rate` times a second for so long. Every answer must be a hit.
    pub fn window(&mut self, rate: u32, time: Duration) -> Result<Latency> {
        let mut times = Vec::with_capacity((f64::from(rate) * time.as_secs_f64()) as usize + 1);
        let mut room = vec![0; self.bytes + 4096];
        let (began, pause) = (Instant::now(), Duration::from_secs(1) / rate);
        let mut due = Duration::ZERO;
        while due < time {
            process::proceed()?;
            let now = began.elapsed();
            // A request that is late because the one before it took long has waited since it was due.
            let asked = if now < due {
                std::thread::sleep(due - now);
                Instant::now()
            } else {
                began + due
            };
            let number = times.len() % self.streams.len();
            self.ask(number, &mut room).context("a hot hit")?;
            times.push(asked.elapsed());
            due += pause;
        }
        Ok(summary(times))
    }

    fn ask(&mut self, number: usize, room: &mut [u8]) -> Result<()> {
        let stream = &mut self.streams[number];
        stream.write_all(&self.request)?;
        let mut filled = 0;
        loop {
            let taken = stream.read(&mut room[filled..])?;
            ensure!(taken > 0, "the connection ended");
            filled += taken;
            let Some(end) = room[..filled].windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            if filled >= end + 4 + self.bytes {
                let head = room[..end].to_ascii_lowercase();
                let is_hit = head.windows(9).any(|word| word == b"edge; hit");
                let is_whole = filled == end + 4 + self.bytes && head.starts_with(b"http/1.1 200");
                ensure!(is_hit && is_whole, "no hit: {}", room[..end].escape_ascii());
                return Ok(());
            }
        }
    }
}

/// From now on the calling thread runs whenever it can.
pub fn run_first() -> Result<()> {
    let id = nix::unistd::gettid().to_string();
    let done = process::output(Command::new("chrt").args(["--fifo", "--pid", PRIORITY, &id]));
    match done {
        Ok(_) => Ok(()),
        Err(error) => {
            bail!("real-time priority is needed, else the loads would disturb the measure: {error:#}")
        }
    }
}

fn summary(mut times: Vec<Duration>) -> Latency {
    times.sort_unstable();
    let at = |share: f64| {
        let place = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
        times.get(place).map_or(0.0, |time| time.as_nanos() as f64 / 1e3)
    };
    Latency { p50: at(0.5), p99: at(0.99) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_summed_up() {
        let found = summary((1..=1000).rev().map(Duration::from_micros).collect());
        assert_eq!(found, Latency { p50: 501.0, p99: 991.0 });
        assert_eq!(summary(vec![Duration::from_micros(7)]), Latency { p50: 7.0, p99: 7.0 });
    }
}
