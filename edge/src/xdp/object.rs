//! The BPF object: loading it, its map values, and reading errors of the kernel as reasons an operator
//! can act on. Decides nothing about which programs are attached.

use std::collections::hash_map::RandomState;
use std::error::Error;
use std::hash::{BuildHasher, Hasher};
use std::net::{IpAddr, SocketAddr};

use aya::maps::{MapData, PerCpuArray};
use aya::{Ebpf, EbpfLoader};
use edge_ebpf::{Cells, Service};

include!(concat!(env!("OUT_DIR"), "/bpf.rs"));

/// Values of the object's globals.
#[derive(Clone, Copy, Debug)]
pub struct Globals {
    /// [`edge_ebpf::STEERING_COUNT`] or [`edge_ebpf::STEERING_CPUMAP`].
    pub steering: u32,
    /// Seed of the flow hash.
    pub seed: u64,
}

impl Globals {
    /// With a seed nobody outside knows.
    pub fn new(steering: u32) -> Globals {
        // The standard library's hash keys come from the kernel's random numbers.
        Globals { steering, seed: RandomState::new().build_hasher().finish() }
    }
}

/// Creates the object's maps with room for `cpu_count` CPUs. No program is loaded yet.
///
/// # Errors
/// The reason, ready for the status.
pub fn load(globals: Globals, cpu_count: u32) -> Result<Ebpf, String> {
    let object = OBJECT.map_err(str::to_owned)?;
    EbpfLoader::new()
        .override_global("STEERING", &globals.steering, true)
        .override_global("SEED", &globals.seed, true)
        .map_max_entries("CPUS", cpu_count)
        .map_max_entries("STEERED", cpu_count)
        .map_max_entries("SOCKETS", cpu_count)
        .load(object)
        .map_err(|error| reason(&error))
}

/// CPU numbers the maps must have room for: possible CPUs of the machine, numbered from 0.
pub fn cpu_count() -> u32 {
    let possible = aya::util::nr_cpus().unwrap_or(edge_ebpf::CPUS_MAX as usize);
    (possible as u32).clamp(1, edge_ebpf::CPUS_MAX)
}

/// The map key of a served address.
pub fn service(address: SocketAddr) -> Service {
    let octets = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    };
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(octets.as_chunks::<4>().0) {
        *word = u32::from_ne_bytes(*bytes);
    }
    Service { address: words, port: address.port(), zero: 0 }
}

/// The counters of a program, one row per possible CPU; empty if the kernel does not give them.
pub fn counters(bpf: &Ebpf) -> Vec<Cells> {
    let map = bpf.map("COUNTERS").and_then(|map| PerCpuArray::<&MapData, Cells>::try_from(map).ok());
    map.and_then(|map| map.get(&0, 0).ok()).map(|row| row.to_vec()).unwrap_or_default()
}

/// Packets redirected to each CPU.
pub fn steered(bpf: &Ebpf, cpu: u32) -> u64 {
    let map = bpf.map("STEERED").and_then(|map| PerCpuArray::<&MapData, u64>::try_from(map).ok());
    map.and_then(|map| map.get(&cpu, 0).ok()).map_or(0, |row| row.iter().sum())
}

/// Puts an error of aya or the kernel into words, with what to do about it.
pub fn reason(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut number = None;
    let mut link = Some(error);
    while let Some(error) = link {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            number = number.or(io.raw_os_error());
        }
        // A verifier log has hundreds of lines, of which the last few say what was refused.
        let full = error.to_string();
        let lines: Vec<&str> = full.lines().filter(|line| !line.trim().is_empty()).collect();
        let short = match lines.as_slice() {
            [first, .., last] => format!("{first} … {last}"),
            [only] => (*only).to_owned(),
            [] => String::new(),
        };
        if !text.contains(&short) {
            text = if text.is_empty() { short } else { format!("{text}: {short}") };
        }
        link = error.source();
    }
    match number.and_then(remedy) {
        Some(remedy) => format!("{text}; {remedy}"),
        None => text,
    }
}

/// What usually helps against an error of `bpf(2)`.
fn remedy(number: i32) -> Option<String> {
    match number {
        libc::EPERM | libc::EACCES => Some(missing_capabilities()),
        libc::EBUSY | libc::EEXIST => {
            Some("another XDP program is attached and is left in place; `ip link show` names it".to_owned())
        }
        libc::EOPNOTSUPP => Some("the driver has no native XDP".to_owned()),
        libc::ENOSYS => Some("this kernel is built without BPF".to_owned()),
        libc::ENOMEM => Some("raise the memory limit of the control group".to_owned()),
        _ => None,
    }
}

/// Says which capabilities are lacking and how they are granted.
fn missing_capabilities() -> String {
    const NEEDED: &[(u32, &str)] = &[(12, "CAP_NET_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];
    const CAP_SYS_ADMIN: u32 = 21;
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let held = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    let holds = |bit: u32| held & (1 << bit) != 0;
    // CAP_SYS_ADMIN includes the two that were split from it in Linux 5.8.
    let is_missing = |&&(bit, _): &&(u32, &str)| !(holds(bit) || bit > 30 && holds(CAP_SYS_ADMIN));
    let missing: Vec<&str> = NEEDED.iter().filter(is_missing).map(|(_, name)| *name).collect();
    match missing.as_slice() {
        [] => {
            "the capabilities are there, so a security module, kernel lockdown or a memory limit refuses it"
                .to_owned()
        }
        names => format!(
            "{} missing: run as root, or grant them with AmbientCapabilities= in the unit",
            names.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_mapped_addresses() {
        let four = service("192.0.2.1:8080".parse().unwrap());
        assert_eq!(four.address[3].to_ne_bytes(), [192, 0, 2, 1]);
        assert!(edge_ebpf::flow::is_ipv4(&four.address) && four.port == 8080);
        assert_eq!(service("0.0.0.0:8080".parse().unwrap()), four.wildcard());
        let six = service("[2001:db8::1]:443".parse().unwrap());
        assert_eq!(six.address[0].to_ne_bytes(), [0x20, 0x01, 0x0d, 0xb8]);
        assert_eq!(service("[::]:443".parse().unwrap()), six.wildcard());
    }

    #[test]
    fn reasons_name_the_remedy() {
        let busy = std::io::Error::from_raw_os_error(libc::EBUSY);
        assert!(reason(&busy).contains("left in place"), "{}", reason(&busy));
        let unsupported = std::io::Error::from_raw_os_error(libc::EOPNOTSUPP);
        assert!(reason(&unsupported).contains("no native XDP"), "{}", reason(&unsupported));
    }
}
