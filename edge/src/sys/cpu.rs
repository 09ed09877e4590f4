//! Which CPUs this process may use, pinning a thread to one, how soon it runs there, and what the kernel counts for each
//! thread.

use nix::libc;
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

/// Nanoseconds of CPU that a thread of [`run_soon`] is given at a time: the least the kernel takes.
const SLICE_NS: u64 = 100_000;

/// From now on the calling thread runs soon after it wakes, at no greater share of the CPU: it is given less at a time
/// than others (from Linux 6.12 on; before, nothing changes), and who has less at a time goes first. Else it would wait
/// for a milliseconds' slice of whoever runs. Threads that come of it, as those of its ring do, are given as much at a
/// time as any. A thread that the operator schedules otherwise is left as it is.
pub fn run_soon() -> io::Result<()> {
    // SAFETY: integers only, for which zero is a value.
    let mut how: libc::sched_attr = unsafe { std::mem::zeroed() };
    how.size = size_of::<libc::sched_attr>() as u32;
    // SAFETY: room of the size that is said; thread 0 is the calling one.
    let read = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut how, how.size, 0) };
    if read != 0 {
        return Err(io::Error::last_os_error());
    }
    if how.sched_policy != libc::SCHED_OTHER as u32 {
        return Ok(());
    }
    how.sched_flags = libc::SCHED_FLAG_RESET_ON_FORK as u64;
    how.sched_runtime = SLICE_NS;
    // SAFETY: as above; only read.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const how, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How much nicer a thread of [`give_way`] is: each step takes a fifth off its share of a CPU that others want, too, so
/// that ten leave a tenth of theirs.
const NICER: i32 = 10;

/// From now on the calling thread, and those it makes, leave a CPU that others want to them, but for a tenth of what one
/// of these gets: control does, so that hits do not wait for it. Where the CPU is idle nothing changes.
pub fn give_way() {
    // SAFETY: integers only. Nobody is refused to be nicer; in Linux it is the calling thread alone that is.
    unsafe { libc::nice(NICER) };
}

/// The threads of the kernel that do for this process's rings what may wait for a disk.
const RING_THREADS: &str = "iou-wrk";

/// As [`give_way`], for [`RING_THREADS`]: each begins as nice as the thread whose ring it works for, which is a worker.
/// `nice` is what workers are. New ones come and go, so this is done again and again. Says how many have changed.
pub fn ring_threads_give_way(nice: i32) -> io::Result<usize> {
    let mut changed = 0;
    for thread in std::fs::read_dir("/proc/self/task")? {
        let thread = thread?;
        // One that has ended meanwhile has no file any more.
        let Ok(name) = std::fs::read_to_string(thread.path().join("comm")) else { continue };
        let id = thread.file_name().to_str().and_then(|id| id.parse::<libc::id_t>().ok());
        let Some(id) = id.filter(|_| name.starts_with(RING_THREADS)) else { continue };
        let wanted = (nice + NICER).min(NICE_MAX);
        if nice_of(id) < wanted {
            // SAFETY: integers only.
            changed += usize::from(unsafe { libc::setpriority(libc::PRIO_PROCESS, id, wanted) } == 0);
        }
    }
    Ok(changed)
}

const NICE_MAX: i32 = 19;

/// How nice the calling thread is.
pub fn nice() -> i32 {
    nice_of(0)
}

/// Of thread `id`; 0: the calling one. Of one that has ended: most.
fn nice_of(id: libc::id_t) -> i32 {
    nix::errno::Errno::clear();
    // SAFETY: integers only.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, id) };
    // -1 is a priority, too.
    if nice == -1 && nix::errno::Errno::last_raw() != 0 { NICE_MAX } else { nice }
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
    fn a_thread_that_runs_soon_hands_that_to_none_it_makes() {
        let of_this_thread = || {
            let text = std::fs::read_to_string("/proc/thread-self/sched").ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("se.slice"))?;
            line.trim_start_matches([' ', ':']).trim().parse::<f64>().ok()
        };
        std::thread::spawn(move || {
            run_soon().unwrap();
            // The kernel tells where it is built with CONFIG_SCHED_DEBUG, and is 6.12 or newer.
            if let Some(slice) = of_this_thread() {
                assert_eq!(slice as u64, SLICE_NS);
                assert!(std::thread::spawn(of_this_thread).join().unwrap().unwrap() as u64 > SLICE_NS);
            }
        })
        .join()
        .unwrap();
    }

    #[test]
    fn who_gives_way_is_nicer_and_others_are_not() {
        let before = nice();
        let inside = std::thread::spawn(move || {
            give_way();
            nice()
        });
        assert_eq!(inside.join().unwrap(), (before + NICER).min(NICE_MAX));
        assert_eq!(nice(), before);
    }

    #[test]
    fn threads_of_a_ring_give_way_once_and_whose_ring_it_is_does_not() {
        std::thread::spawn(|| {
            // What the kernel itself does in a thread of its own; the name is all that tells such a thread.
            let (done, ended) = std::sync::mpsc::channel::<()>();
            let (tell, told) = std::sync::mpsc::channel();
            let ring = std::thread::Builder::new().name("iou-wrk-7".into()).spawn(move || {
                tell.send(nix::unistd::gettid().as_raw() as libc::id_t).unwrap();
                let _ = ended.recv();
                nice()
            });
            let id = told.recv().unwrap();
            let before = nice();
            ring_threads_give_way(before).unwrap();
            let wanted = (before + NICER).min(NICE_MAX);
            assert_eq!((nice(), nice_of(id)), (before, wanted));
            ring_threads_give_way(before).unwrap();
            assert_eq!(nice_of(id), wanted, "not nicer each time");
            drop(done);
            ring.unwrap().join().unwrap();
        })
        .join()
        .unwrap();
    }

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
