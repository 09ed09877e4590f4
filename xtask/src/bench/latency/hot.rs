//! The client that measures: asks for one small hot object at an even rate, over a few connections by turns, and notes
//! how long each answer took. It runs before everything else on its CPU, so that what it sees is the node and the
//! kernel, not the load that shares the CPU with it.
#![forbid(unsafe_code)]

use super::stalls::{self, Seen, Stall};
use crate::process;
use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long any answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The priority among real-time threads: any is before the others.
const PRIORITY: &str = "10";

/// A request and its answer.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// When it was due, or could be asked for at the earliest after that.
    asked: Instant,
    took: Duration,
    /// Its predecessor had not been answered when it was due.
    late: bool,
}

/// What a window showed, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latency {
    /// Half of them took at most so long, of those that met no stall of the host's.
    pub p50: f64,
    /// 99 of 100 of them.
    pub p99: f64,
    /// 99 of 100 of all.
    pub p99_of_all: f64,
    /// 99 of 100 of those that met no stall at all.
    pub p99_unstalled: f64,
    /// Share of them that met a stall of the host's.
    pub disturbed: f64,
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
    pub fn window(&mut self, rate: u32, time: Duration) -> Result<Vec<Answer>> {
        let mut answers = Vec::with_capacity((f64::from(rate) * time.as_secs_f64()) as usize + 1);
        let mut room = vec![0; self.bytes + 4096];
        let (began, pause) = (Instant::now(), Duration::from_secs(1) / rate);
        let mut due = Duration::ZERO;
        while due < time {
            process::proceed()?;
            let now = began.elapsed();
            // A request that is late because the one before it took long has waited since it was due.
            let late = now >= due;
            if !late {
                std::thread::sleep(due - now);
            }
            let asked = if late { began + due } else { Instant::now() };
            let number = answers.len() % self.streams.len();
            self.ask(number, &mut room).context("a hot hit")?;
            answers.push(Answer { asked, took: asked.elapsed(), late });
            due += pause;
        }
        Ok(answers)
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
    stalls::schedule(&["--fifo", "--pid", PRIORITY])
}

/// What a window's answers come to, beside what its CPUs did.
pub fn summary(answers: &[Answer], seen: &Seen) -> Latency {
    let mut undisturbed = without(answers, &[&seen.stolen_stalls]);
    let mut unstalled = without(answers, &[&seen.stolen_stalls, &seen.own_stalls]);
    let mut all = without(answers, &[]);
    let at = |times: &mut Vec<Duration>, share: f64| {
        times.sort_unstable();
        let place = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
        times.get(place).map_or(0.0, |time| time.as_nanos() as f64 / 1e3)
    };
    Latency {
        p50: at(&mut undisturbed, 0.5),
        p99: at(&mut undisturbed, 0.99),
        p99_of_all: at(&mut all, 0.99),
        p99_unstalled: at(&mut unstalled, 0.99),
        disturbed: 1.0 - undisturbed.len() as f64 / all.len().max(1) as f64,
    }
}

/// How long those took that met none of these stalls.
fn without(answers: &[Answer], stalls: &[&[Stall]]) -> Vec<Duration> {
    let mut disturbed = false;
    let took = answers.iter().filter_map(|answer| {
        // Who could not be asked in time because of a stall has met it as well.
        let met = |stall: &Stall| stall.touched(answer.asked, answer.asked + answer.took);
        disturbed = (disturbed && answer.late) || stalls.iter().copied().flatten().any(met);
        (!disturbed).then_some(answer.took)
    });
    took.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(took_us: impl Iterator<Item = u64>) -> Vec<Answer> {
        let began = Instant::now();
        let answer = |(number, us)| Answer {
            asked: began + Duration::from_millis(10) * number as u32,
            took: Duration::from_micros(us),
            late: false,
        };
        took_us.enumerate().map(answer).collect()
    }

    #[test]
    fn a_window_is_summed_up() {
        let found = summary(&answers((1..=1000).rev()), &Seen::default());
        let (p50, p99) = (501.0, 991.0);
        assert_eq!(found, Latency { p50, p99, p99_of_all: p99, p99_unstalled: p99, disturbed: 0.0 });
        assert_eq!(summary(&answers([7].into_iter()), &Seen::default()).p99, 7.0);
    }

    #[test]
    fn what_met_a_stall_of_the_hosts_is_left_out_and_what_was_late_after_it() {
        let mut window = answers([5, 9000, 100, 100, 6].into_iter());
        (window[2].late, window[4].late) = (true, true);
        let stall = Stall { from: window[1].asked, until: window[1].asked + Duration::from_millis(1) };
        let found = summary(&window, &Seen { stolen_stalls: vec![stall], ..Seen::default() });
        assert_eq!((found.p99, found.p99_of_all, found.disturbed), (100.0, 9000.0, 0.4));
        let found = summary(&window, &Seen { own_stalls: vec![stall], ..Seen::default() });
        assert_eq!((found.p99, found.p99_unstalled, found.disturbed), (9000.0, 100.0, 0.0), "ours count");
    }
}
