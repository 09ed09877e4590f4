//! The XDP program on one interface with its maps and tracepoints. Listening sockets are no concern
//! of this file.

use std::net::SocketAddr;

use aya::Ebpf;
use aya::maps::{Array, CpuMap, HashMap, MapData};
use aya::programs::links::FdLink;
use aya::programs::{RawTracePoint, Xdp, XdpMode};
use edge_ebpf::{BUCKETS, Cells, STEERING_COUNT, STEERING_CPUMAP, Service};

use super::object::{self, Globals, reason};
use super::report::Steps;
use crate::limits::CPUMAP_QUEUE_PACKETS;
use crate::sys;

/// Niceness of the kernel threads that take packets off the cpumap queues. They do what softirqs do
/// elsewhere; at the default they starve under load and connections stall for hundreds of milliseconds.
const QUEUE_THREAD_NICE: i32 = -20;

/// Tracepoints that tell what a cpumap lost: program and kernel name.
const TRACEPOINTS: &[(&str, &str)] = &[
    ("cpumap_enqueue", "xdp_cpumap_enqueue"),
    ("cpumap_kthread", "xdp_cpumap_kthread"),
    ("redirect_failed", "xdp_redirect_err"),
];

/// An attached XDP program. Dropping it detaches.
pub struct Attached {
    bpf: Ebpf,
    step: &'static str,
    is_redirecting: bool,
    buckets: Vec<u32>,
    /// Closing its descriptor detaches the program, whoever closes it: drop, exit or kill.
    _link: FdLink,
}

impl Attached {
    /// Loads the object, fills its maps, and attaches last, when everything a packet needs is there.
    /// A refused cpumap leaves a program that counts.
    pub(super) fn new(
        step: &'static str,
        interface: &str,
        is_redirecting: bool,
        cpus: &[usize],
        steps: &mut Steps,
    ) -> Result<Attached, String> {
        let steering = if is_redirecting { STEERING_CPUMAP } else { STEERING_COUNT };
        let mut bpf = object::load(Globals::new(steering), object::cpu_count())?;
        let mut buckets = Vec::new();
        let mut is_redirecting = is_redirecting;
        if is_redirecting {
            match fill(&mut bpf, cpus) {
                Ok(filled) => {
                    buckets = filled;
                    raise_queue_threads(&bpf, cpus.len(), steps);
                    watch(&mut bpf, steps);
                }
                Err(refused) => {
                    steps.refused("cpumap", refused);
                    is_redirecting = false;
                    bpf = object::load(Globals::new(STEERING_COUNT), object::cpu_count())?;
                }
            }
        }
        let (program, mode) = match step {
            "generic" => ("edge_generic", XdpMode::Skb),
            _ => ("edge", XdpMode::Driver),
        };
        let link = attach(&mut bpf, program, interface, mode)?;
        if is_redirecting {
            steps.taken("cpumap", format!("{BUCKETS} buckets over {} CPUs", cpus.len()));
        }
        Ok(Attached { bpf, step, is_redirecting, buckets, _link: link })
    }

    /// Whether packets of served flows are redirected.
    pub(super) fn is_redirecting(&self) -> bool {
        self.is_redirecting
    }

    /// `native` or `generic`.
    pub(super) fn step(&self) -> &'static str {
        self.step
    }

    /// CPU of each bucket; empty if packets are only counted.
    pub(super) fn buckets(&self) -> &[u32] {
        &self.buckets
    }

    /// Adds a served address.
    pub(super) fn serve(&mut self, address: SocketAddr) -> Result<(), String> {
        let map = self.bpf.map_mut("SERVICES").ok_or("the object has no map SERVICES")?;
        let mut services =
            HashMap::<&mut MapData, Service, u32>::try_from(map).map_err(|error| reason(&error))?;
        services.insert(object::service(address), 1, 0).map_err(|error| reason(&error))
    }

    /// The counters, one row per CPU.
    pub(super) fn counters(&self) -> Vec<Cells> {
        object::counters(&self.bpf)
    }

    /// Packets redirected to a CPU.
    pub(super) fn steered(&self, cpu: u32) -> u64 {
        object::steered(&self.bpf, cpu)
    }
}

/// Gives each CPU a queue and spreads the buckets over the CPUs. Each entry is set exactly once:
/// setting one again would replace its queue and lose the packets in it.
fn fill(bpf: &mut Ebpf, cpus: &[usize]) -> Result<Vec<u32>, String> {
    if cpus.is_empty() {
        return Err("there are no workers to steer to".into());
    }
    let map = bpf.map_mut("CPUS").ok_or("the object has no map CPUS")?;
    let mut queues = CpuMap::<&mut MapData>::try_from(map).map_err(|error| reason(&error))?;
    for cpu in cpus {
        queues
            .set(*cpu as u32, CPUMAP_QUEUE_PACKETS, None, 0)
            .map_err(|error| format!("no queue for CPU {cpu}: {}", reason(&error)))?;
    }
    let map = bpf.map_mut("BUCKETS").ok_or("the object has no map BUCKETS")?;
    let mut table = Array::<&mut MapData, u32>::try_from(map).map_err(|error| reason(&error))?;
    let buckets: Vec<u32> = cpus.iter().cycle().take(BUCKETS as usize).map(|cpu| *cpu as u32).collect();
    for (bucket, cpu) in (0..).zip(&buckets) {
        table.set(bucket, cpu, 0).map_err(|error| reason(&error))?;
    }
    Ok(buckets)
}

/// Loads and attaches the program. Only a link is accepted: an attachment over netlink would outlive
/// a killed process.
fn attach(bpf: &mut Ebpf, program: &str, interface: &str, mode: XdpMode) -> Result<FdLink, String> {
    let program = bpf.program_mut(program).ok_or_else(|| format!("the object has no program {program}"))?;
    let program: &mut Xdp = program.try_into().map_err(|error| reason(&error))?;
    program.load().map_err(|error| reason(&error))?;
    let id = program.attach(interface, mode).map_err(|error| reason(&error))?;
    let link = program.take_link(id).map_err(|error| reason(&error))?;
    FdLink::try_from(link)
        .map_err(|_| "this kernel cannot hold XDP by a link; Linux 5.9 and later can".to_owned())
}

/// Attaches the tracepoints. Without them drops are not counted, which is no reason not to steer.
fn watch(bpf: &mut Ebpf, steps: &mut Steps) {
    if let Err(reason) = try_watch(bpf) {
        steps.refused("drop counters", reason);
    }
}

fn try_watch(bpf: &mut Ebpf) -> Result<(), String> {
    let id = cpumap_id(bpf).ok_or("the kernel does not tell the id of the cpumap")?;
    let map = bpf.map_mut("WATCHED").ok_or("the object has no map WATCHED")?;
    let mut watched = Array::<&mut MapData, u32>::try_from(map).map_err(|error| reason(&error))?;
    watched.set(0, id, 0).map_err(|error| reason(&error))?;
    for (name, tracepoint) in TRACEPOINTS {
        let program = bpf.program_mut(name).ok_or_else(|| format!("the object has no program {name}"))?;
        let program: &mut RawTracePoint = program.try_into().map_err(|error| reason(&error))?;
        program.load().map_err(|error| reason(&error))?;
        program.attach(tracepoint).map_err(|error| reason(&error))?;
    }
    Ok(())
}

fn cpumap_id(bpf: &Ebpf) -> Option<u32> {
    let Some(aya::maps::Map::CpuMap(data)) = bpf.map("CPUS") else {
        return None;
    };
    Some(data.info().ok()?.id())
}

/// Raises the priority of the kernel threads behind the cpumap. They carry the map's id in their name.
fn raise_queue_threads(bpf: &Ebpf, expected: usize, steps: &mut Steps) {
    let Some(id) = cpumap_id(bpf) else { return };
    let suffix = format!("/map:{id}");
    let mut raised = 0;
    let mut refused = None;
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(name) = std::fs::read_to_string(entry.path().join("comm")) else {
            continue;
        };
        if name.starts_with("cpumap/") && name.trim_end().ends_with(&suffix) {
            match sys::steering::set_nice(pid, QUEUE_THREAD_NICE) {
                Ok(()) => raised += 1,
                Err(error) => refused = Some(error),
            }
        }
    }
    if raised < expected {
        let why = match refused {
            Some(error) => format!("{error}; CAP_SYS_NICE allows it"),
            None => "they are not visible in this process namespace".to_owned(),
        };
        steps.refused("queue priority", format!("the cpumap threads keep their default priority: {why}"));
    }
}
