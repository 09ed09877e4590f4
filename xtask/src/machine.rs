//! What can be read about this machine and its processes: CPUs, kernel, CPU time, memory. Never changes
//! anything but this process's own limit of open files, and the CPUs of the thread that asks for it.
#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Pid, SysconfVar, sysconf};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The CPUs this process may use, in ascending order.
pub fn cpus() -> Result<Vec<usize>> {
    let set = nix::sched::sched_getaffinity(Pid::from_raw(0)).context("sched_getaffinity")?;
    Ok((0..nix::sched::CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect())
}

/// Keeps the calling thread on these CPUs.
pub fn stay_on(cpus: &[usize]) -> Result<()> {
    let mut set = nix::sched::CpuSet::new();
    cpus.iter().try_for_each(|cpu| set.set(*cpu)).context("CPU number")?;
    nix::sched::sched_setaffinity(Pid::from_raw(0), &set).context("sched_setaffinity")
}

/// Whether we may create namespaces, attach XDP and the like.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The kernel's release.
pub fn kernel() -> String {
    read_line("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".into())
}

/// The processor's name.
pub fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or("unknown", |(_, name)| name.trim()).into()
}

fn read_line(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().into())
}

/// Finds a program on the PATH or where administration programs are.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from));
    folders.into_iter().map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Raises the soft limit of open files to the hard one, for us and all we start; returns it.
pub fn raise_open_files() -> Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

/// A process and all that descend from it.
pub fn tree(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some(parent) = stat(&entry.path()).and_then(|fields| fields.get(1)?.parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut all = vec![root];
    let mut next = 0;
    while let Some(pid) = all.get(next) {
        all.extend(children.get(pid).into_iter().flatten());
        next += 1;
    }
    all
}

/// The fields of `/proc/PID/stat` after the name: state is 0, parent 1, majflt 9, utime 11, stime 12
/// (proc(5)).
fn stat(directory: &Path) -> Option<Vec<String>> {
    let text = fs::read_to_string(directory.join("stat")).ok()?;
    // The name may hold anything, also parentheses: the last one ends it.
    let (_, fields) = text.rsplit_once(')')?;
    Some(fields.split_whitespace().map(String::from).collect())
}

fn ticks(directory: &Path) -> Option<u64> {
    let fields = stat(directory)?;
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

/// User and system time of a process tree with all its threads, in microseconds. The kernel gives it in
/// clock ticks of usually 10 ms.
pub fn cpu_us(root: u32) -> Result<u64> {
    let tick = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick")? as u64;
    let all = tree(root).into_iter().filter_map(|pid| ticks(Path::new(&format!("/proc/{pid}"))));
    Ok(all.sum::<u64>() * 1_000_000 / tick)
}

/// Nanoseconds a thread was on a CPU, and ready but not on one.
pub fn scheduled_ns(pid: u32, thread: u32) -> Result<(u64, u64)> {
    let path = format!("/proc/{pid}/task/{thread}/schedstat");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let mut numbers = text.split_whitespace().map(str::parse::<u64>);
    let mut number = || numbers.next().context("a number")?.with_context(|| path.clone());
    Ok((number()?, number()?))
}

/// How long the host of a virtual machine has run others on this CPU while it was wanted here (`steal` in proc_stat(5)).
pub fn stolen(cpu: usize) -> Result<Duration> {
    let tick = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick")? as u64;
    let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    let name = format!("cpu{cpu}");
    let line = text.lines().find(|line| line.split(' ').next() == Some(&name));
    let ticks = line.and_then(|line| line.split_whitespace().nth(8)?.parse::<u64>().ok());
    Ok(Duration::from_millis(
        ticks.with_context(|| format!("/proc/stat has no steal of {name}"))? * 1000 / tick,
    ))
}

/// How often a thread had to wait for a page from a disk.
pub fn major_faults(pid: u32, thread: u32) -> Result<u64> {
    let fields = stat(Path::new(&format!("/proc/{pid}/task/{thread}"))).context("the thread has ended")?;
    Ok(fields.get(9).context("no faults are counted")?.parse()?)
}

/// A thread of a process.
pub struct Thread {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its CPU time so far, in clock ticks.
    pub ticks: u64,
}

/// The threads of one process.
pub fn threads(pid: u32) -> Result<Vec<Thread>> {
    let mut threads = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default().trim().into();
        threads.push(Thread { id, name, ticks: ticks(&entry.path()).unwrap_or(0) });
    }
    Ok(threads)
}

/// Anonymous memory of a process tree, in bytes: what belongs to no file and cannot be dropped. A descendant that ends
/// meanwhile has none.
///
/// # Errors
/// The process itself has ended, or may not be read.
pub fn anonymous_bytes(root: u32) -> Result<u64> {
    let mut kib = 0;
    for pid in tree(root) {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = match fs::read_to_string(&path) {
            Err(_) if pid != root => continue,
            text => text.with_context(|| format!("read {path}"))?,
        };
        let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:"));
        let value = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        kib += value.with_context(|| format!("no Anonymous in {path}"))?;
    }
    Ok(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_tree_holds_children_and_their_cpu_time() {
        let mut child = Command::new("sh").args(["-c", "sleep 30 & wait"]).spawn().unwrap();
        let found = (0..6000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            tree(child.id()).len() == 2
        });
        let all = tree(child.id());
        for pid in all.into_iter().rev() {
            let _ = nix::sys::signal::kill(Pid::from_raw(pid as i32), nix::sys::signal::Signal::SIGKILL);
        }
        child.wait().unwrap();
        assert!(found, "sh and sleep");
    }

    /// Of a process of this test's own: beside it others start and end theirs, which would belong to the same tree.
    #[test]
    fn the_figures_of_a_busy_process_are_there() {
        assert!(!cpus().unwrap().is_empty());
        assert!(threads(std::process::id()).unwrap().len() >= 2);
        let mut child = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let pid = child.id();
        let found = (0..6000).find_map(|_| {
            std::thread::sleep(Duration::from_millis(5));
            let (cpu_us, anonymous_bytes) = (cpu_us(pid).ok()?, anonymous_bytes(pid).ok()?);
            (cpu_us > 0 && anonymous_bytes > 64 * 1024).then_some((cpu_us, threads(pid).ok()?.len()))
        });
        child.kill().unwrap();
        child.wait().unwrap();
        let (cpu_us, threads) = found.expect("CPU time and memory within half a minute");
        assert!(cpu_us < 60_000_000 && threads == 1, "{cpu_us} µs, {threads} threads");
        assert!(anonymous_bytes(pid).is_err(), "the process has ended");
    }
}
