//! When a CPU stood still under a window. The host of a virtual machine takes its CPUs away for milliseconds, and what
//! hits take then says nothing about the node. On each CPU a thread before all others sleeps for a moment, again and
//! again: where it wakes late, nobody ran there, or the kernel let nobody else run. Only what the kernel counts as stolen
//! by the host is the host's; a CPU that stood still without that was held by ourselves. Knows nothing of requests.
#![forbid(unsafe_code)]

use crate::{machine, process};
use anyhow::{Context, Result};
use std::fs::File;
use std::io::{self, Write};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the watching thread sleeps. Standing still for longer is always seen.
const NAP: Duration = Duration::from_micros(400);
/// Waking later than this is standing still: more than any interrupt takes.
const LATE: Duration = Duration::from_micros(100);
/// Among real-time threads: before the client that measures.
const PRIORITY: &str = "20";

/// A time in which a CPU stood still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// Since when.
    pub from: Instant,
    /// Until when.
    pub until: Instant,
}

impl Stall {
    /// Whether something that went on from then until then met it, or what had piled up behind it: as long again.
    pub fn touched(&self, from: Instant, until: Instant) -> bool {
        self.from < until && from < self.until + (self.until - self.from)
    }
}

/// What happened to the CPUs in a window.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Of all CPUs, those that the host made.
    pub stolen_stalls: Vec<Stall>,
    /// The others.
    pub own_stalls: Vec<Stall>,
    /// Share of the window for which each CPU stood still, as the threads saw it.
    pub stalled: Vec<f64>,
    /// Share of the window that the host took, as the kernel counts it, in ticks of 10 ms.
    pub stolen: Vec<f64>,
}

/// Sums at a moment.
pub struct Mark {
    at: Instant,
    steal: Vec<Duration>,
}

/// One CPU, watched.
struct Watched {
    cpu: usize,
    stalls: Arc<Mutex<Vec<Stall>>>,
}

/// Watches CPUs until it is dropped, and keeps them from falling asleep meanwhile: a CPU of a virtual machine that
/// sleeps is given away, and comes back when the host likes.
pub struct Watch {
    stop: Arc<AtomicBool>,
    _awake: File,
    cpus: Vec<Watched>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Watch {
    /// Begins.
    pub fn begin(cpus: &[usize]) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut watch =
            Watch { stop: stop.clone(), _awake: keep_awake()?, cpus: Vec::new(), threads: Vec::new() };
        for &cpu in cpus {
            let (stalls, ended) = (Arc::<Mutex<Vec<Stall>>>::default(), stop.clone());
            watch.cpus.push(Watched { cpu, stalls: stalls.clone() });
            watch.threads.push(std::thread::spawn(move || nap(cpu, &ended, &stalls)));
        }
        Ok(watch)
    }

    /// A window begins.
    pub fn mark(&self) -> Result<Mark> {
        self.cpus.iter().for_each(|cpu| drop(cpu.take()));
        Ok(Mark { at: Instant::now(), steal: self.steal()? })
    }

    /// It ends.
    pub fn since(&self, mark: &Mark) -> Result<Seen> {
        // What began within the window is known when the thread has woken.
        process::sleep(2 * NAP)?;
        let time = mark.at.elapsed().as_secs_f64();
        let mut seen = Seen::default();
        for (cpu, (before, after)) in self.cpus.iter().zip(mark.steal.iter().zip(self.steal()?)) {
            let stalls = cpu.take();
            let stalled: Duration = stalls.iter().map(|stall| stall.until - stall.from).sum();
            let stolen = after.saturating_sub(*before);
            let (stolen_stalls, own_stalls) = split(stalls, stolen);
            seen.stolen_stalls.extend(stolen_stalls);
            seen.own_stalls.extend(own_stalls);
            seen.stalled.push(stalled.as_secs_f64() / time);
            seen.stolen.push(stolen.as_secs_f64() / time);
        }
        Ok(seen)
    }

    fn steal(&self) -> Result<Vec<Duration>> {
        self.cpus.iter().map(|watched| machine::stolen(watched.cpu)).collect()
    }

    /// Ends it; an error when a thread could not do its work.
    pub fn end(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).try_for_each(|thread| {
            thread.join().map_err(|_| anyhow::anyhow!("a watching thread panicked"))?
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Watched {
    fn take(&self) -> Vec<Stall> {
        std::mem::take(&mut *self.stalls.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Which stalls of a CPU the host made, of whom is known how much it took in all: the longest, for the kernel holds a CPU
/// for less than a millisecond; the rest were made here.
fn split(mut stalls: Vec<Stall>, stolen: Duration) -> (Vec<Stall>, Vec<Stall>) {
    stalls.sort_unstable_by_key(|stall| std::cmp::Reverse(stall.until - stall.from));
    let mut left = stolen;
    stalls.into_iter().partition(|stall| {
        let rest = left.checked_sub(stall.until - stall.from);
        left = rest.unwrap_or(left);
        rest.is_some()
    })
}

fn nap(cpu: usize, stop: &AtomicBool, stalls: &Mutex<Vec<Stall>>) -> Result<()> {
    machine::stay_on(&[cpu])?;
    schedule(&["--fifo", "--pid", PRIORITY])?;
    while !stop.load(Ordering::Relaxed) {
        let from = Instant::now() + NAP;
        std::thread::sleep(NAP);
        let until = Instant::now();
        if until.saturating_duration_since(from) > LATE {
            stalls.lock().unwrap_or_else(PoisonError::into_inner).push(Stall { from, until });
        }
    }
    Ok(())
}

/// As long as the file is open, CPUs that have nothing to do wait for it awake. The kernel does that, where a thread of
/// ours at the lowest priority would do it too, but would not be without effect: it is given the CPU for next to nothing
/// in return, which leaves whoever else wants a small share of it with a claim to milliseconds in one piece.
fn keep_awake() -> Result<File> {
    let awake = || -> io::Result<File> {
        let mut file = File::options().write(true).open("/dev/cpu_dma_latency")?;
        file.write_all(&0_i32.to_ne_bytes())?;
        Ok(file)
    };
    awake().context("CPUs cannot be kept awake: run as root, where the kernel has /dev/cpu_dma_latency")
}

/// Sets how the calling thread is scheduled.
pub fn schedule(how: &[&str]) -> Result<()> {
    let id = nix::unistd::gettid().to_string();
    process::output(Command::new("chrt").args(how).arg(&id)).map(drop).context(
        "real-time priority is needed, else the loads would disturb the measure: run as root on a machine that grants it",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_made_as_much_of_the_stalls_as_it_has_stolen_and_no_more() {
        let began = Instant::now();
        let stall = |ms| Stall { from: began, until: began + Duration::from_millis(ms) };
        let stalls = || vec![stall(1), stall(7), stall(2), stall(9)];
        let split = |stolen| split(stalls(), Duration::from_millis(stolen));
        assert_eq!(split(0), (vec![], vec![stall(9), stall(7), stall(2), stall(1)]));
        assert_eq!(split(10), (vec![stall(9), stall(1)], vec![stall(7), stall(2)]));
        assert_eq!(split(30).1, []);
    }

    #[test]
    fn a_stall_touches_what_ran_through_it_or_piled_up_behind_it() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let stall = Stall { from: at(10), until: at(14) };
        assert!(
            stall.touched(at(9), at(11)) && stall.touched(at(11), at(12)) && stall.touched(at(0), at(99))
        );
        assert!(stall.touched(at(17), at(18)), "as long again");
        assert!(!stall.touched(at(18), at(19)) && !stall.touched(at(8), at(10)));
    }
}
