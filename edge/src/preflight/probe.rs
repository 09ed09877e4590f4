//! Reads what `judge` needs from the running machine. Decides nothing; what cannot be read stays unknown.
#![forbid(unsafe_code)]

use super::{Machine, StoreDisk};
use crate::limits;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

/// Reads the machine. `shards` are the configured directories; they need not exist. `addresses` are those to listen on.
pub fn probe<'a>(
    shards: impl Iterator<Item = &'a Path>,
    addresses: impl Iterator<Item = SocketAddr>,
) -> Machine {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    Machine {
        kernel: kernel_version(&fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default()),
        ring_error: ring_error(),
        io_uring_disabled: number("/proc/sys/kernel/io_uring_disabled"),
        nofile: getrlimit(Resource::RLIMIT_NOFILE).ok(),
        memlock_bytes: getrlimit(Resource::RLIMIT_MEMLOCK).ok().map(|(_, hard)| hard),
        capabilities: field(&status, "CapEff:").and_then(|hex| u64::from_str_radix(hex, 16).ok()),
        cpus: allowed_cpus(),
        somaxconn: number("/proc/sys/net/core/somaxconn"),
        unprivileged_port_start: number("/proc/sys/net/ipv4/ip_unprivileged_port_start"),
        untakeable: addresses.filter_map(untakeable).collect(),
        interfaces: interfaces(),
        shards: shards.map(store_disk).collect(),
        memory_available_bytes: memory_available_bytes(
            &fs::read_to_string("/proc/meminfo").unwrap_or_default(),
        ),
    }
}

/// Raises the soft limit of descriptors to `needed`, and the hard one where that is allowed. Returns the
/// soft limit in force.
///
/// # Errors
/// What the kernel said when not even the limits could be read.
pub fn raise_nofile(needed: u64) -> std::io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft >= needed {
        return Ok(soft);
    }
    if hard < needed && setrlimit(Resource::RLIMIT_NOFILE, needed, needed).is_ok() {
        return Ok(needed);
    }
    let reachable = needed.min(hard);
    setrlimit(Resource::RLIMIT_NOFILE, reachable, hard)?;
    Ok(reachable)
}

/// Raises the limit of locked memory as far as is allowed: rings count in it once the right to lock more is given up, and
/// the usual 8 MiB are those of sixteen workers. Where nothing may be raised `judge` has said what that means.
pub fn raise_memlock() {
    let (infinity, limit) = (nix::libc::RLIM_INFINITY, Resource::RLIMIT_MEMLOCK);
    if setrlimit(limit, infinity, infinity).is_err()
        && let Ok((_, hard)) = getrlimit(limit)
    {
        let _ = setrlimit(limit, hard, hard);
    }
}

pub(super) fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// A field of `/proc/self/status` or `/proc/meminfo`: the first word after its name.
fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()
}

pub(super) fn memory_available_bytes(meminfo: &str) -> Option<u64> {
    field(meminfo, "MemAvailable:")?.parse::<u64>().ok()?.checked_mul(1024)
}

fn number<T: FromStr>(path: &str) -> Option<T> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Makes a ring as small as possible with the flags the workers use, to hear the kernel's own reason.
fn ring_error() -> Option<(i32, String)> {
    let ring: std::io::Result<io_uring::IoUring> =
        io_uring::IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(4);
    ring.err().map(|error| told(&error))
}

/// An error of the kernel: its number and its words.
fn told(error: &std::io::Error) -> (i32, String) {
    (error.raw_os_error().unwrap_or(0), error.to_string())
}

/// Why nobody else may have the address: workers share theirs, and so would another edge, silently. A process that was
/// killed gives its own back a moment later than it ends, for its rings are taken down behind it.
fn untakeable(address: SocketAddr) -> Option<(SocketAddr, i32, String)> {
    let in_use = |error: &std::io::Error| error.raw_os_error() == Some(nix::libc::EADDRINUSE);
    let mut tries = 0;
    loop {
        match crate::sys::socket::takeable(address) {
            Ok(()) => return None,
            Err(error) if in_use(&error) && tries < limits::ADDRESS_TRIES => {
                tries += 1;
                std::thread::sleep(Duration::from_millis(limits::ADDRESS_RETRY_MS));
            }
            Err(error) => {
                let (number, words) = told(&error);
                return Some((address, number, words));
            }
        }
    }
}

fn allowed_cpus() -> Vec<usize> {
    let Ok(set) = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)) else {
        return Vec::new();
    };
    (0..nix::sched::CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect()
}

fn interfaces() -> Vec<String> {
    let entries = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn store_disk(path: &Path) -> Option<StoreDisk> {
    let existing = path.ancestors().find(|ancestor| ancestor.exists())?;
    let stat = nix::sys::statfs::statfs(existing).ok()?;
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let files = entries.filter_map(|entry| entry.metadata().ok()).filter(|meta| meta.is_file());
    let block_bytes = u64::try_from(stat.block_size()).unwrap_or(0);
    let kind = file_system(stat.filesystem_type().0);
    // hugetlbfs has blocks of its own only where its mount limits them.
    let blocks = match kind == "hugetlbfs" && stat.blocks() == 0 {
        true => crate::shard::free_huge_pages(block_bytes).unwrap_or(0),
        false => stat.blocks_available(),
    };
    Some(StoreDisk {
        kind,
        free_bytes: blocks.saturating_mul(block_bytes),
        own_bytes: files.map(|meta| meta.blocks() * 512).sum(),
        writable: existing.is_dir() && nix::unistd::access(existing, nix::unistd::AccessFlags::W_OK).is_ok(),
        // What does not exist yet will be ours.
        own: existing != path || is_own(path),
    })
}

/// Whether the bits of its mode alone let this process write there; unknown counts as such.
fn is_own(directory: &Path) -> bool {
    let Ok(meta) = fs::metadata(directory) else { return true };
    let groups = nix::unistd::getgroups().unwrap_or_default();
    let of_group =
        |gid: u32| nix::unistd::getegid().as_raw() == gid || groups.iter().any(|own| own.as_raw() == gid);
    let bit = match () {
        () if meta.uid() == nix::unistd::geteuid().as_raw() => 0o200,
        () if of_group(meta.gid()) => 0o020,
        () => 0o002,
    };
    meta.mode() & bit != 0
}

/// Names from `linux/magic.h` for what a store is likely to stand on, or should not.
fn file_system(magic: i64) -> String {
    let name = match magic {
        0x0102_1994 => "tmpfs",
        0x8584_58f6 => "ramfs",
        0x9584_58f6 => "hugetlbfs",
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x2fc1_2fc1 => "zfs",
        0x794c_7630 => "overlay",
        0x6969 => "nfs",
        0xff53_4d42 => "cifs",
        0xfe53_4d42 => "smb2",
        0x6573_5546 => "fuse",
        0x00c3_6400 => "ceph",
        0x0102_1997 => "9p",
        other => return format!("{other:#x}"),
    };
    name.into()
}
