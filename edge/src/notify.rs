//! Talks to the service manager: ready, status, stopping, and the watchdog.
//!
//! The watchdog is fed only while every worker advances: a node with one stuck worker answers some clients
//! and hangs others, which is worse than a restart. Whether they advance is decided from turn counters alone.
#![forbid(unsafe_code)]

use crate::proto::Now;
use sd_notify::NotifyState;
use std::time::Duration;

/// Milliseconds within which a worker must have begun another turn. Idle workers wake up every second by
/// their own timeout, so three seconds leave room for a burst on a busy machine.
pub const STUCK_AFTER_MS: u64 = 3_000;

/// What the turn counters say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every worker advanced lately.
    Advancing,
    /// These workers did not begin a turn for `STUCK_AFTER_MS`: do not feed the watchdog.
    Stuck(Vec<usize>),
}

/// Remembers when each worker's turn counter last changed.
#[derive(Debug)]
pub struct Watch {
    workers: Vec<Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    turns: u64,
    changed_ms: u64,
}

impl Watch {
    /// A watch over `workers` that have just been started.
    pub fn new(workers: usize, now: Now) -> Self {
        Watch { workers: vec![Seen { turns: 0, changed_ms: now.mono_ms }; workers] }
    }

    /// Takes the turn counters of all workers, in their order. A counter that is missing has not advanced.
    pub fn look(&mut self, turns: impl IntoIterator<Item = u64>, now: Now) -> Verdict {
        for (seen, turns) in self.workers.iter_mut().zip(turns) {
            if seen.turns != turns {
                *seen = Seen { turns, changed_ms: now.mono_ms };
            }
        }
        let late = |seen: &Seen| now.mono_ms.saturating_sub(seen.changed_ms) >= STUCK_AFTER_MS;
        let stuck: Vec<usize> = (0..self.workers.len()).filter(|i| late(&self.workers[*i])).collect();
        if stuck.is_empty() { Verdict::Advancing } else { Verdict::Stuck(stuck) }
    }
}

/// How often [`feed`] must be called: half of what the service manager allows; `None`: it does not watch.
pub fn watchdog_period() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

/// Start-up is done; `status` is shown by `systemctl status`.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Start-up takes long and has come so far; the service manager waits another minute.
pub fn starting(status: &str) {
    send(&[NotifyState::Status(status), NotifyState::ExtendTimeoutUsec(60_000_000)]);
}

/// The node drains and stops.
pub fn stopping() {
    send(&[NotifyState::Stopping, NotifyState::Status("draining")]);
}

/// Feeds the watchdog, or says which workers are stuck and lets the service manager act.
pub fn feed(verdict: &Verdict) {
    match verdict {
        Verdict::Advancing => send(&[NotifyState::Watchdog]),
        Verdict::Stuck(workers) => send(&[NotifyState::Status(&format!("workers {workers:?} are stuck"))]),
    }
}

/// Without a service manager this does nothing. A manager that is gone is no reason to stop serving.
fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager could not be notified");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono_ms: u64) -> Now {
        Now { mono_ms, unix_s: 0 }
    }

    #[test]
    fn fed_while_every_worker_advances() {
        let mut watch = Watch::new(2, at(1000));
        for turn in 1..20 {
            assert_eq!(watch.look([turn, turn * 7], at(1000 + turn * 1000)), Verdict::Advancing);
        }
    }

    #[test]
    fn one_stuck_worker_among_busy_ones_is_named() {
        let mut watch = Watch::new(3, at(0));
        assert_eq!(watch.look([5, 5, 5], at(100)), Verdict::Advancing);
        assert_eq!(watch.look([9, 5, 9], at(100 + STUCK_AFTER_MS - 1)), Verdict::Advancing);
        assert_eq!(watch.look([12, 5, 12], at(100 + STUCK_AFTER_MS)), Verdict::Stuck(vec![1]));
        assert_eq!(watch.look([13, 6, 13], at(200 + STUCK_AFTER_MS)), Verdict::Advancing, "it came back");
    }

    #[test]
    fn workers_that_never_begin_are_stuck_after_the_grace_of_a_start() {
        let mut watch = Watch::new(1, at(500));
        assert_eq!(watch.look([0], at(600)), Verdict::Advancing);
        assert_eq!(watch.look([0], at(500 + STUCK_AFTER_MS)), Verdict::Stuck(vec![0]));
        assert_eq!(
            watch.look([], at(500 + STUCK_AFTER_MS)),
            Verdict::Stuck(vec![0]),
            "no counter, no progress"
        );
    }

    #[test]
    fn a_counter_that_wraps_still_counts_as_progress() {
        let mut watch = Watch::new(1, at(0));
        watch.look([u64::MAX], at(10));
        assert_eq!(watch.look([0], at(STUCK_AFTER_MS + 5)), Verdict::Advancing);
    }
}
