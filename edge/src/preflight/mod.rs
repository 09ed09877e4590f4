//! What the machine lacks before the node starts: kernel, ring, limits, CPUs, capabilities, disk. Each
//! finding says what still works and the fix.
//!
//! [`judge`] is pure: it takes what `probe` read. Nothing here changes the machine but [`raise_nofile`]
//! and [`raise_memlock`].
#![forbid(unsafe_code)]

pub mod kernel_tls;
mod probe;

use crate::config::{Clients, Config, Shard, Steering, XdpMode};
use crate::limits;
use crate::shard::Hold;
use crate::worst_case;
pub use probe::{probe, raise_memlock, raise_nofile};
use std::fmt;
use std::net::SocketAddr;

/// The oldest kernel with multishot receive, buffer rings and DEFER_TASKRUN.
pub const KERNEL_FLOOR: (u32, u32) = (6, 1);

/// `net.core.somaxconn` that takes a burst of new connections; the kernel's default since 5.4.
const SOMAXCONN_WANTED: u64 = 4096;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing; nothing is lost.
    Note,
    /// The node serves, with less.
    Warning,
    /// The node cannot serve.
    Fatal,
}

/// One thing that is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What is missing.
    pub what: String,
    /// What still works.
    pub still_works: &'static str,
    /// What the operator can do.
    pub fix: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Fatal => "error",
        };
        write!(f, "{severity}: {}; {}; fix: {}", self.what, self.still_works, self.fix)
    }
}

/// What is known about a machine. `None` and empty mean that it could not be read.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Major and minor number of the running kernel.
    pub kernel: Option<(u32, u32)>,
    /// Why a ring like the workers' could not be made, as the kernel's number and words; `None`: it could.
    pub ring_error: Option<(i32, String)>,
    /// `kernel.io_uring_disabled`.
    pub io_uring_disabled: Option<u64>,
    /// Soft and hard limit of descriptors.
    pub nofile: Option<(u64, u64)>,
    /// How far the limit of locked memory may be raised, in bytes.
    pub memlock_bytes: Option<u64>,
    /// `CapEff` of `/proc/self/status`.
    pub capabilities: Option<u64>,
    /// CPUs this process may run on.
    pub cpus: Vec<usize>,
    /// `net.core.somaxconn`.
    pub somaxconn: Option<u64>,
    /// `net.ipv4.ip_unprivileged_port_start`.
    pub unprivileged_port_start: Option<u16>,
    /// Addresses to listen on that cannot be had, with the kernel's number and words.
    pub untakeable: Vec<(SocketAddr, i32, String)>,
    /// Names of the network interfaces.
    pub interfaces: Vec<String>,
    /// For each shard its directory or its nearest parent that exists.
    pub shards: Vec<Option<StoreDisk>>,
    /// `MemAvailable` in bytes.
    pub memory_available_bytes: Option<u64>,
}

/// The file system under the store.
#[derive(Clone, Debug, Default)]
pub struct StoreDisk {
    /// Its type, `tmpfs` or `ext4` for example; a number when unknown here.
    pub kind: String,
    /// Bytes that are free for this process.
    pub free_bytes: u64,
    /// Bytes that files of the store take already.
    pub own_bytes: u64,
    /// Whether it can be written.
    pub writable: bool,
    /// Whether it still can be without capabilities.
    pub own: bool,
}

/// Bits of `CapEff`, as in `linux/capability.h`.
const NET_BIND_SERVICE: u32 = 10;
const NET_ADMIN: u32 = 12;
const SYS_ADMIN: u32 = 21;
const SYS_NICE: u32 = 23;
const SYS_RESOURCE: u32 = 24;
const PERFMON: u32 = 38;
const BPF: u32 = 39;

impl Machine {
    /// Unknown capabilities count as held: the kernel will say.
    fn can(&self, capability: u32) -> bool {
        self.capabilities.is_none_or(|set| set >> capability & 1 == 1)
    }
}

/// Everything that is missing for this configuration, worst first.
pub fn judge(machine: &Machine, config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    kernel(machine, &mut findings);
    cpus(machine, config, &mut findings);
    descriptors(machine, config, &mut findings);
    capabilities(machine, config, &mut findings);
    network(machine, config, &mut findings);
    for (disk, shard) in machine.shards.iter().zip(&config.store) {
        if let Some(disk) = disk {
            self::shard(machine, disk, shard, config.store.len() == 1, &mut findings);
        }
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

/// The descriptor limit the node needs. Clients' connections are direct descriptors of a worker's ring and
/// take none of the process; but the kernel bounds each ring's table by the same limit.
pub fn nofile_needed(workers: usize, clients: &Clients) -> u64 {
    let each_worker = limits::LISTENERS_MAX + 8;
    // Of each shard its locks, its file, and its log; maps and programs, admin connections.
    const OTHERS: usize = 8 * limits::SHARDS_MAX + 192;
    let process = workers * each_worker + limits::FETCHES_RUNNING_MAX + clients.tunnels_max + OTHERS;
    process.max(clients.connections_max) as u64
}

fn kernel(machine: &Machine, findings: &mut Vec<Finding>) {
    if let Some((major, minor)) = machine.kernel
        && (major, minor) < KERNEL_FLOOR
    {
        findings.push(Finding {
            severity: Severity::Fatal,
            what: format!("Linux {major}.{minor} is older than {}.{}", KERNEL_FLOOR.0, KERNEL_FLOOR.1),
            still_works: "nothing is served",
            fix: "boot a kernel from 6.1 on, such as Debian 12's".into(),
        });
    }
    let Some((number, error)) = &machine.ring_error else { return };
    let fix = match machine.io_uring_disabled {
        Some(1 | 2) => "sysctl kernel.io_uring_disabled=0",
        _ if *number == nix::libc::ENOMEM => {
            "LimitMEMLOCK=infinity in the unit, for rings count as locked memory"
        }
        _ => "allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile",
    };
    findings.push(Finding {
        severity: Severity::Fatal,
        what: format!("io_uring is refused ({error})"),
        still_works: "nothing is served",
        fix: fix.into(),
    });
}

fn cpus(machine: &Machine, config: &Config, findings: &mut Vec<Finding>) {
    let Some(wanted) = &config.cpus else { return };
    let missing: Vec<String> =
        wanted.iter().filter(|cpu| !machine.cpus.contains(cpu)).map(usize::to_string).collect();
    if !missing.is_empty() && !machine.cpus.is_empty() {
        findings.push(Finding {
            severity: Severity::Fatal,
            what: format!("node.cpus names CPU {}, which this process may not run on", missing.join(", ")),
            still_works: "nothing is served",
            fix: format!("choose among {}, or widen the service's CPUAffinity", ranges(&machine.cpus)),
        });
    }
}

/// CPU numbers as the configuration writes them.
fn ranges(cpus: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for cpu in cpus {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == *cpu => *last = *cpu,
            _ => parts.push((*cpu, *cpu)),
        }
    }
    let part = |(first, last): &(usize, usize)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    parts.iter().map(part).collect::<Vec<_>>().join(",")
}

fn descriptors(machine: &Machine, config: &Config, findings: &mut Vec<Finding>) {
    let workers = config.cpus.as_ref().map_or(machine.cpus.len(), Vec::len);
    let needed = nofile_needed(workers, &config.clients);
    // CAP_SYS_RESOURCE may raise the hard limit as well; see `raise_nofile`.
    if let Some((_, hard)) = machine.nofile
        && hard < needed
        && !(machine.capabilities.is_some() && machine.can(SYS_RESOURCE))
    {
        findings.push(Finding {
            severity: Severity::Warning,
            what: format!("{hard} descriptors are fewer than the {needed} for {workers} full workers"),
            still_works: "fewer connections at once, the rest is refused and counted",
            fix: format!("LimitNOFILE={needed} in the unit, or a smaller limits.connections_max"),
        });
    }
    let Some(bytes) = machine.memlock_bytes else { return };
    // See `raise_memlock`.
    if machine.capabilities.is_some() && machine.can(SYS_RESOURCE) {
        return;
    }
    // The right to lock more is given up before workers make their rings; control has one, too.
    let rings = (workers as u64 + 1) * worst_case::RING_BYTES as u64;
    if bytes < rings {
        findings.push(Finding {
            severity: Severity::Warning,
            what: format!(
                "only {} KiB may be locked, and some kernels count the rings so: {} KiB",
                bytes >> 10,
                rings >> 10
            ),
            still_works: "all, where the kernel does not count them",
            fix: "LimitMEMLOCK=infinity in the unit".into(),
        });
    }
}

fn capabilities(machine: &Machine, config: &Config, findings: &mut Vec<Finding>) {
    let first_free = machine.unprivileged_port_start.unwrap_or(1024);
    let https = config.https.iter().map(|entry| entry.address);
    let admin = config.admin.iter().filter_map(|admin| admin.address.tcp());
    let low =
        config.http.iter().copied().chain(https).chain(admin).find(|address| address.port() < first_free);
    if let Some(address) = low
        && !machine.can(NET_BIND_SERVICE)
    {
        findings.push(Finding {
            severity: Severity::Fatal,
            what: format!("{address} needs CAP_NET_BIND_SERVICE"),
            still_works: "nothing is served",
            fix: format!(
                "AmbientCapabilities=CAP_NET_BIND_SERVICE in the unit, or a port from {first_free} on"
            ),
        });
    }
    // The pieces split from CAP_SYS_ADMIN in 5.8 are included in it.
    let can_bpf = |capability| machine.can(capability) || machine.can(SYS_ADMIN);
    let mut missing: Vec<&str> = Vec::new();
    if !can_bpf(BPF) {
        missing.push("CAP_BPF");
    }
    if !machine.can(NET_ADMIN) {
        missing.push("CAP_NET_ADMIN");
    }
    let xdp = config.xdp.as_ref().filter(|xdp| xdp.mode != XdpMode::Off);
    if xdp.is_some() && !can_bpf(PERFMON) {
        missing.push("CAP_PERFMON");
    }
    if !missing.is_empty() {
        findings.push(Finding {
            severity: if xdp.is_some() { Severity::Warning } else { Severity::Note },
            what: format!(
                "no {}: neither XDP nor the program that picks a worker's socket can be loaded",
                missing.join(", ")
            ),
            still_works: "all is served, the kernel's hash spreads connections over workers",
            fix: format!("AmbientCapabilities={} in the unit", missing.join(" ")),
        });
    }
    let cpumap = xdp.is_some_and(|xdp| matches!(xdp.steering, Steering::Cpumap | Steering::Auto));
    if cpumap && !machine.can(SYS_NICE) {
        findings.push(Finding {
            severity: Severity::Note,
            what: "no CAP_SYS_NICE: the threads behind the cpumap keep their default priority".into(),
            still_works: "steering, with a longer tail under saturation",
            fix: "AmbientCapabilities=CAP_SYS_NICE in the unit".into(),
        });
    }
}

fn network(machine: &Machine, config: &Config, findings: &mut Vec<Finding>) {
    for (address, number, error) in &machine.untakeable {
        let port = address.port();
        let (what, fix) = match *number {
            nix::libc::EADDRINUSE => (
                format!("another process listens on {address}"),
                format!(
                    "stop it (`ss -ltnp sport = :{port}` names it), or write another address in [listen]"
                ),
            ),
            nix::libc::EADDRNOTAVAIL => (
                format!("this machine has no address {}", address.ip()),
                "write one that `ip address` shows, or sysctl net.ipv4.ip_nonlocal_bind=1".into(),
            ),
            // Missing capabilities have their own finding.
            nix::libc::EACCES | nix::libc::EPERM => continue,
            _ => (
                format!("{address} cannot be listened on ({error})"),
                "write another address in [listen]".into(),
            ),
        };
        findings.push(Finding { severity: Severity::Fatal, what, still_works: "nothing is served", fix });
    }
    if let Some(somaxconn) = machine.somaxconn.filter(|n| *n < SOMAXCONN_WANTED) {
        findings.push(Finding {
            severity: Severity::Note,
            what: format!("only {somaxconn} connections may wait for accept on a listening socket"),
            still_works: "all, but bursts of new connections are dropped earlier",
            fix: format!("sysctl net.core.somaxconn={SOMAXCONN_WANTED}; `edge tune` shows the rest"),
        });
    }
    let Some(xdp) = &config.xdp else { return };
    if !machine.interfaces.is_empty() && !machine.interfaces.contains(&xdp.interface) {
        findings.push(Finding {
            severity: Severity::Warning,
            what: format!("xdp.interface {:?} does not exist", xdp.interface),
            still_works: "all is served without XDP",
            fix: format!("name one of {}", machine.interfaces.join(", ")),
        });
    }
}

/// `only`: without this shard nothing is stored.
fn shard(machine: &Machine, disk: &StoreDisk, shard: &Shard, only: bool, findings: &mut Vec<Finding>) {
    let path = shard.path.display();
    let (severity, without) = match only {
        true => (Severity::Fatal, "nothing is served"),
        false => (Severity::Warning, "the other shards"),
    };
    if !disk.writable {
        findings.push(Finding {
            severity,
            what: format!("{path} is no directory that can be written"),
            still_works: without,
            fix: format!(
                "install -d -o USER {path} on a file system mounted read-write, or CacheDirectory= in the unit"
            ),
        });
        return;
    }
    if !disk.own {
        findings.push(Finding {
            severity: Severity::Warning,
            what: format!(
                "{path} is another account's, and the right to write there all the same is given up"
            ),
            still_works: "serving, but purges may not be logged and no checkpoint is written",
            fix: "chown the directory to the account that runs edge, or run edge as its owner".into(),
        });
    }
    let wanted = shard.size_bytes.saturating_sub(disk.own_bytes);
    let huge = disk.kind == "hugetlbfs";
    if huge && disk.free_bytes < wanted {
        findings.push(Finding {
            severity: Severity::Warning,
            what: format!(
                "{path} has {} MiB of huge pages free, the store wants {} MiB more",
                disk.free_bytes >> 20,
                wanted >> 20
            ),
            still_works: "all, on ordinary pages beside the purge log",
            fix: "reserve more: sysctl vm.nr_hugepages, and size= of the mount".into(),
        });
    } else if disk.free_bytes < wanted {
        findings.push(Finding {
            severity,
            what: format!(
                "{path} has {} MiB free, the store wants {} MiB more",
                disk.free_bytes >> 20,
                wanted >> 20
            ),
            still_works: without,
            fix: format!(
                "size = \"{}MiB\" at most, or a larger disk",
                (disk.free_bytes + disk.own_bytes) >> 20
            ),
        });
    }
    let in_memory = matches!(disk.kind.as_str(), "tmpfs" | "ramfs");
    if let Some(available) = machine
        .memory_available_bytes
        .filter(|a| shard.hold == Hold::Lock && !in_memory && !huge && *a < shard.size_bytes)
    {
        findings.push(Finding {
            severity: Severity::Fatal,
            what: format!("lock wants {path} in memory, and {} MiB are available", available >> 20),
            still_works: "nothing is served",
            fix: format!("size = \"{}MiB\" at most, or lock = false", available >> 20),
        });
    }
    if let Some(available) = machine.memory_available_bytes.filter(|a| in_memory && *a < wanted) {
        findings.push(Finding {
            severity: Severity::Warning,
            what: format!("{path} is memory ({}), and {} MiB are available", disk.kind, available >> 20),
            still_works: "all, until memory runs out",
            fix: format!("size = \"{}MiB\" at most, or a directory on a disk", available >> 20),
        });
    }
    if matches!(disk.kind.as_str(), "nfs" | "cifs" | "smb2" | "fuse" | "ceph" | "9p") {
        findings.push(Finding {
            severity: Severity::Warning,
            what: format!("{path} is on {}, whose server can take mapped pages away", disk.kind),
            still_works: "all, until the server is slow or gone",
            fix: "a local file system, such as xfs or ext4".into(),
        });
    }
}

#[cfg(test)]
mod tests;
