//! What the node's worker did in a window, counted by the kernel and by the node itself: how much work a turn of it is, how
//! many hits share one, and how long it was ready and had to wait for its CPU. What a client waits beyond that is neither
//! work of the worker nor its disk, but others who run on the same CPUs.
#![forbid(unsafe_code)]

use crate::{http, machine};
use anyhow::{Context, Result};
use std::net::SocketAddr;
use std::time::Instant;

/// Sums since the worker began.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    at: Instant,
    /// Nanoseconds on its CPU, and waiting for it.
    run_ns: u64,
    delay_ns: u64,
    major_faults: u64,
    turns: u64,
    hits: u64,
    from_disk: u64,
    populates: u64,
}

impl Counts {
    /// Of a node with one worker.
    pub fn now(pid: u32, admin: SocketAddr) -> Result<Self> {
        let threads = machine::threads(pid)?;
        let worker =
            threads.iter().find(|thread| thread.name.starts_with("edge-worker")).context("no worker")?;
        let (run_ns, delay_ns) = machine::scheduled_ns(pid, worker.id)?;
        let metrics = http::get(admin, "/metrics")?;
        let text = String::from_utf8_lossy(&metrics.body).into_owned();
        let metric = |name: &str| metric(&text, name).with_context(|| format!("/metrics has no {name}"));
        Ok(Counts {
            at: Instant::now(),
            run_ns,
            delay_ns,
            major_faults: machine::major_faults(pid, worker.id)?,
            turns: metric("edge_ring_enters_total")?,
            hits: metric("edge_hits_total")?,
            from_disk: metric("edge_hits_from_disk_total")?,
            populates: metric("edge_populates_total")?,
        })
    }

    /// What came after these.
    pub fn until(&self, later: &Counts) -> Work {
        let per = |part: u64, of: u64| part as f64 / of.max(1) as f64;
        let turns = later.turns - self.turns;
        let seconds = later.at.duration_since(self.at).as_secs_f64();
        Work {
            turns_per_s: turns as f64 / seconds,
            hits_per_turn: per(later.hits - self.hits, turns),
            populates_per_turn: per(later.populates - self.populates, turns),
            turn_us: per(later.run_ns - self.run_ns, turns) / 1000.0,
            waited: (later.delay_ns - self.delay_ns) as f64 / 1e9 / seconds,
            from_disk: later.from_disk - self.from_disk,
            major_faults: later.major_faults - self.major_faults,
        }
    }
}

/// What the worker did in a window.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Its turns: a call of the kernel, and what came of it.
    pub turns_per_s: f64,
    /// Hits answered in one.
    pub hits_per_turn: f64,
    /// Reads from the disk begun in one.
    pub populates_per_turn: f64,
    /// Microseconds on its CPU in one, in the kernel or not: what a request may find before it.
    pub turn_us: f64,
    /// Share of the time in which it was ready and others had its CPU.
    pub waited: f64,
    /// Hits that had waited for the disk.
    pub from_disk: u64,
    /// Times the worker itself had to wait for the disk.
    pub major_faults: u64,
}

/// The sum of all samples of a metric.
fn metric(text: &str, name: &str) -> Option<u64> {
    let value = |line: &str| {
        let rest = line.strip_prefix(name)?;
        rest.starts_with([' ', '{']).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
    };
    let values: Vec<f64> = text.lines().filter_map(value).collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_a_metric_are_summed() {
        let text = "# HELP edge_hits Hits\nedge_hits_total{worker=\"0\"} 3\nedge_hits_total{worker=\"1\"} 4\nedge_hits_x 9\n";
        assert_eq!(metric(text, "edge_hits_total"), Some(7));
        assert_eq!(metric(text, "edge_hits"), None);
    }

    #[test]
    fn the_kernel_counts_a_threads_time() {
        let id = nix::unistd::gettid().as_raw() as u32;
        let before = machine::scheduled_ns(std::process::id(), id).unwrap();
        let began = Instant::now();
        let mut sum = 0_u64;
        while began.elapsed().as_millis() < 20 {
            sum = sum.wrapping_mul(3) + 1;
        }
        assert!(machine::scheduled_ns(std::process::id(), id).unwrap().0 > before.0, "{sum}");
        assert!(machine::major_faults(std::process::id(), id).is_ok());
    }
}
