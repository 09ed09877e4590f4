//! What the status shows about steering. Values only; nothing here touches the kernel.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use edge_ebpf::{Cells, counters::TABLE};
use serde::Serialize;

use super::{Kind, Steering};

/// What became of a step of the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It runs.
    Taken,
    /// The system refused it.
    Refused,
    /// It was not tried.
    Skipped,
}

/// A step of the ladder with its reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Its name in the table of [`super`].
    pub step: &'static str,
    /// What became of it.
    pub outcome: Outcome,
    /// Why.
    pub reason: String,
}

/// The steps in the order they were tried. Each is logged as it is added.
#[derive(Clone, Debug, Default)]
pub struct Steps(Vec<Step>);

impl Steps {
    pub(super) fn taken(&mut self, step: &'static str, reason: impl Into<String>) {
        let reason = reason.into();
        tracing::info!(step, %reason, "steering step taken");
        self.0.push(Step { step, outcome: Outcome::Taken, reason });
    }

    pub(super) fn refused(&mut self, step: &'static str, reason: impl Into<String>) {
        let reason = reason.into();
        tracing::warn!(step, %reason, "steering step refused");
        self.0.push(Step { step, outcome: Outcome::Refused, reason });
    }

    pub(super) fn skipped(&mut self, step: &'static str, reason: impl Into<String>) {
        let reason = reason.into();
        tracing::info!(step, %reason, "steering step not tried");
        self.0.push(Step { step, outcome: Outcome::Skipped, reason });
    }
}

/// Counters by name, as in the table of `edge-ebpf`.
pub type Counters = BTreeMap<&'static str, u64>;

/// The counters of one CPU.
#[derive(Clone, Debug, Serialize)]
pub struct CpuCounters {
    /// The CPU.
    pub cpu: usize,
    /// Packets the XDP program sent to this CPU.
    pub steered_here: u64,
    /// What the programs counted on this CPU.
    pub counters: Counters,
}

/// One listening address.
#[derive(Clone, Debug, Serialize)]
pub struct ListenerReport {
    /// The address.
    pub address: SocketAddr,
    /// `pick`, `classic` or `hash`.
    pub choice: &'static str,
    /// Why nothing better chooses; empty for `pick`.
    pub reason: String,
    /// CPUs of the sockets, in their order.
    pub cpus: Vec<usize>,
}

/// The steering part of the status.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// `native`, `generic` or `none`.
    pub xdp: &'static str,
    /// What moves packets to CPUs.
    pub steering: Kind,
    /// The interface, if one is configured.
    pub interface: Option<String>,
    /// What was tried, in order, with reasons.
    pub steps: Vec<Step>,
    /// CPUs of the workers.
    pub cpus: Vec<usize>,
    /// Buckets of the indirection table by CPU; empty unless the program steers.
    pub buckets: BTreeMap<u32, u32>,
    /// The listening addresses.
    pub listeners: Vec<ListenerReport>,
    /// Counters of all CPUs together.
    pub counters: Counters,
    /// Counters by CPU; CPUs that counted nothing are left out.
    pub per_cpu: Vec<CpuCounters>,
}

impl Report {
    pub(super) fn new(steering: &Steering, per_cpu: &[Cells]) -> Report {
        let mut buckets = BTreeMap::new();
        for cpu in steering.attached.iter().flat_map(|attached| attached.buckets()) {
            *buckets.entry(*cpu).or_default() += 1;
        }
        let mut total = Cells::ZERO;
        let mut rows = Vec::new();
        for (cpu, cells) in per_cpu.iter().enumerate() {
            for (sum, n) in total.0.iter_mut().zip(cells.0) {
                *sum += n;
            }
            let steered_here = steering.attached.as_ref().map_or(0, |attached| attached.steered(cpu as u32));
            if *cells != Cells::ZERO || steered_here != 0 {
                rows.push(CpuCounters { cpu, steered_here, counters: named(cells) });
            }
        }
        let listeners = steering.listeners.iter().map(|listener| ListenerReport {
            address: listener.address,
            choice: listener.choice,
            reason: listener.reason.clone(),
            cpus: listener.cpus.clone(),
        });
        Report {
            xdp: steering.attached.as_ref().map_or("none", |attached| attached.step()),
            steering: steering.kind,
            interface: steering.interface.clone(),
            steps: steering.steps.0.clone(),
            cpus: steering.cpus.clone(),
            buckets,
            listeners: listeners.collect(),
            counters: named(&total),
            per_cpu: rows,
        }
    }
}

fn named(cells: &Cells) -> Counters {
    TABLE.iter().map(|(counter, name, _)| (*name, cells.get(*counter))).collect()
}
