//! Which CPUs this process may use, pinning a thread to one, and what the kernel counts for each thread.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use std::io;

/// CPUs the process is allowed to run on, ascending. Never assumed to be 0..N: a container or
/// `isolcpus` may leave any set.
pub fn allowed() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false)).collect())
}

/// Pins the calling thread.
pub fn pin(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// These CPUs by the node of memory they are next to, nodes ascending, with the nodes' numbers. A machine whose nodes
/// cannot be read has one.
pub fn by_node(cpus: &[usize]) -> Vec<(usize, Vec<usize>)> {
    let entries = std::fs::read_dir("/sys/devices/system/node").into_iter().flatten().flatten();
    let list = |entry: std::fs::DirEntry| {
        let node = entry.file_name().to_str()?.strip_prefix("node")?.parse().ok()?;
        Some((node, std::fs::read_to_string(entry.path().join("cpulist")).ok()?))
    };
    group(cpus, &entries.filter_map(list).collect::<Vec<_>>())
}

/// From the nodes' numbers and lists of CPUs, such as `0-3,8-11`.
fn group(cpus: &[usize], nodes: &[(usize, String)]) -> Vec<(usize, Vec<usize>)> {
    let holds = |list: &str, cpu: usize| {
        list.trim().split(',').any(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) = (first.parse().unwrap_or(usize::MAX), last.parse().unwrap_or(0));
            (first..=last).contains(&cpu)
        })
    };
    let mut groups: std::collections::BTreeMap<usize, Vec<usize>> = Default::default();
    for &cpu in cpus {
        let node = nodes.iter().find(|(_, list)| holds(list, cpu)).map_or(0, |(node, _)| *node);
        groups.entry(node).or_default().push(cpu);
    }
    groups.into_iter().collect()
}

/// Major page faults so far of this process's threads whose names begin so: each waited for a disk.
pub fn major_faults(threads: &str) -> io::Result<u64> {
    let mut faults = 0;
    for thread in std::fs::read_dir("/proc/self/task")? {
        // A thread that has ended meanwhile has no file any more.
        let Ok(stat) = std::fs::read_to_string(thread?.path().join("stat")) else { continue };
        faults += faults_of(&stat, threads).unwrap_or(0);
    }
    Ok(faults)
}

/// The twelfth field of `/proc/PID/task/TID/stat`; the second is the name, in brackets.
fn faults_of(stat: &str, threads: &str) -> Option<u64> {
    let (before, after) = stat.rsplit_once(") ")?;
    before.split_once(" (")?.1.starts_with(threads).then_some(())?;
    after.split(' ').nth(9)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_grouped_by_node() {
        let nodes = [(1, "4-7,12\n".to_owned()), (0, "0-3\n".into()), (2, "\n".into())];
        assert_eq!(group(&[5, 12, 0, 3], &nodes), [(0, vec![0, 3]), (1, vec![5, 12])]);
        assert_eq!(group(&[9, 1], &[]), [(0, vec![9, 1])], "nothing is known");
        let cpus = allowed().unwrap();
        let found: usize = by_node(&cpus).iter().map(|(_, cpus)| cpus.len()).sum();
        assert_eq!(found, cpus.len());
    }

    #[test]
    fn faults_are_those_of_the_named_threads() {
        let stat = "4242 (edge-worker-1) R 1 4242 4242 0 -1 4194368 771 0 13 0 5 6 0 0 20 0 4 0 100 0";
        assert_eq!(faults_of(stat, "edge-worker-"), Some(13));
        assert_eq!(faults_of(stat, "edge-control"), None);
        assert_eq!(faults_of("1 (odd) name) S 1 1 1 0 -1 4 1 2 3 4 5", "odd) "), Some(3));
        assert!(major_faults("no thread has this name").unwrap() == 0);
    }
}
