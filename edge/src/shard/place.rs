//! The memory of a shard before it is served: allocated, and touched for the first time, by threads on the nodes that the
//! workers' CPUs are next to; on request brought into memory whole, and kept there. Progress is told meanwhile. What the
//! bytes mean is not known here.
//!
//! The kernel takes a page from the node of the CPU that touches it first. Every worker serves every key, so no place is
//! near to all that read it: segments go to the nodes in turn, and each node's memory carries its share of the reads. On a
//! machine with one node, or with workers on one node alone, everything comes from there. Pages of a disk are touched first
//! by whoever reads or writes them, unless they are brought in at the start.
#![forbid(unsafe_code)]

use super::layout::Geometry;
use super::medium::{self, Medium};
use crate::clock;
use crate::sys::cpu;
use crate::sys::mapping::Unserved;
use nix::fcntl::{self, FallocateFlags};
use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Threads of each node that read a shard from its disk: enough requests at once for a fast one.
const READERS_PER_NODE: usize = 4;
/// Milliseconds between two words about progress.
const PROGRESS_MS: u64 = 2_000;

/// What becomes of a shard's pages at the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hold {
    /// They come when they are used.
    #[default]
    AsUsed,
    /// All are brought into memory before anything is served.
    Prefault,
    /// They also stay there.
    Lock,
}

/// Where a shard lies and how it is held, for the status.
#[derive(Clone, Debug, Default)]
pub struct Placed {
    /// What kind of pages it has.
    pub pages: String,
    /// Whether they were brought in, and stay.
    pub held: String,
    /// The nodes they come from.
    pub nodes: String,
    /// Whether no page ever leaves memory.
    pub(super) stays_in_memory: bool,
}

/// The nodes whose threads touch a shard's pages.
pub(super) struct Nodes(Vec<(usize, Vec<usize>)>);

impl Nodes {
    /// Those that the CPUs of the workers are next to.
    pub(super) fn of(cpus: &[usize]) -> Self {
        Nodes(cpu::by_node(cpus))
    }

    /// Their numbers.
    pub(super) fn numbers(&self) -> Vec<usize> {
        self.0.iter().map(|(number, _)| *number).collect()
    }

    fn is_one(&self) -> bool {
        self.0.len() < 2
    }

    /// Does something with each unit: units go to the nodes in turn, and are dealt with by so many threads on each. The
    /// first error ends it.
    fn each(
        &self,
        units: usize,
        per_node: usize,
        work: impl Fn(usize) -> io::Result<()> + Sync,
    ) -> io::Result<()> {
        if self.is_one() && per_node == 1 {
            return (0..units).try_for_each(work);
        }
        let nodes = self.0.len().max(1);
        let (failed, work) = (AtomicBool::new(false), &work);
        let on_node = |number: usize, thread: usize| {
            if let Some((_, cpus)) = self.0.get(number)
                && let Err(error) = cpu::pin(cpus[thread % cpus.len()])
            {
                // The pages come from elsewhere then, and are as good.
                tracing::warn!(%error, cpu = cpus[thread % cpus.len()], "store: not placed by node");
            }
            let own = (0..units).filter(|unit| unit % nodes == number && unit / nodes % per_node == thread);
            for unit in own {
                if failed.load(Relaxed) {
                    return Ok(());
                }
                work(unit).inspect_err(|_| failed.store(true, Relaxed))?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let on_node = &on_node;
            let threads: Vec<_> = (0..nodes * per_node)
                .map(|number| scope.spawn(move || on_node(number % nodes, number / nodes)))
                .collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("it does not panic"))
        })
    }
}

impl fmt::Display for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|(node, _)| node.to_string()).collect();
        write!(f, "{}", names.join(", "))
    }
}

/// Makes all blocks of a file, so that writing through its mapping never meets a full disk.
pub(super) fn allocate(
    file: &File,
    geometry: Geometry,
    medium: Medium,
    nodes: &Nodes,
    progress: &Progress<'_>,
) -> Result<(), nix::Error> {
    let bytes = geometry.file_bytes();
    if !medium.is_memory() {
        return fallocate(file, 0, bytes);
    }
    // Asked before, so that what cannot be had is not taken piece by piece from everybody else first.
    if room_bytes(file, medium)? < bytes {
        return Err(nix::Error::ENOSPC);
    }
    let unit = match medium {
        Medium::HugePages(page_bytes) => page_bytes.max(geometry.segment_bytes() as u64),
        _ => geometry.segment_bytes() as u64,
    };
    let one = |number: usize| {
        let at = number as u64 * unit;
        fallocate(file, at, unit.min(bytes - at))?;
        progress.add(unit);
        Ok(())
    };
    let done = nodes.each(bytes.div_ceil(unit) as usize, 1, one);
    done.map_err(|error| nix::Error::from_raw(error.raw_os_error().unwrap_or(0)))
}

/// As fallocate(2), which memory file systems break off for whatever the kernel wants of the thread: no signal need
/// have been sent (fs/hugetlbfs/inode.c and mm/shmem.c ask `signal_pending`, which task work sets too).
fn fallocate(file: &File, at: u64, bytes: u64) -> Result<(), nix::Error> {
    loop {
        match fcntl::fallocate(file, FallocateFlags::empty(), at as i64, bytes as i64) {
            Err(nix::Error::EINTR) => {}
            ended => return ended,
        }
    }
}

/// Bytes that a file in memory can have, with those that it has.
fn room_bytes(file: &File, medium: Medium) -> Result<u64, nix::Error> {
    let stat = nix::sys::statfs::fstatfs(file)?;
    let has = nix::sys::stat::fstat(file)?.st_blocks.cast_unsigned() * 512;
    let block_bytes = stat.block_size().cast_unsigned();
    let free = match (medium, stat.blocks()) {
        // Only the pool of pages bounds this mount.
        (Medium::HugePages(page_bytes), 0) => medium::free_huge_pages(page_bytes).unwrap_or(0),
        (_, 0) => return Ok(u64::MAX),
        _ => stat.blocks_available(),
    };
    Ok(free.saturating_mul(block_bytes).saturating_add(has))
}

/// Brings the pages of a mapping into memory as asked, and says what became of it.
///
/// # Errors
/// The file cannot give a page.
pub(super) fn hold(
    map: &Unserved,
    geometry: Geometry,
    (hold, medium): (Hold, Medium),
    nodes: &Nodes,
    progress: &Progress<'_>,
) -> io::Result<Placed> {
    let mut placed = Placed {
        pages: medium.to_string(),
        held: "as used".into(),
        nodes: match (nodes.is_one(), hold == Hold::AsUsed && !medium.is_memory()) {
            (true, _) => format!("node {nodes}, the workers' only one"),
            (false, true) => format!("nodes {nodes}, by whoever touches a page first"),
            (false, false) => format!("nodes {nodes}, segments in turn"),
        },
        stays_in_memory: medium.stays_in_memory(),
    };
    if hold == Hold::AsUsed {
        return Ok(placed);
    }
    let locked = match (hold, medium) {
        (Hold::Lock, Medium::HugePages(_)) => Some(Ok(())),
        (Hold::Lock, _) => Some(map.lock_on_fault()),
        _ => None,
    };
    nodes.each(geometry.segments, READERS_PER_NODE, |segment| {
        map.populate(segment)?;
        progress.add(geometry.segment_bytes() as u64);
        Ok(())
    })?;
    progress.end();
    placed.held = match locked {
        None => "prefaulted".into(),
        Some(Ok(())) => {
            placed.stays_in_memory = true;
            "locked".into()
        }
        Some(Err(error)) => {
            let why = format!("prefaulted, not locked: {error}: {MAY_LOCK}");
            tracing::warn!(path = %progress.path.display(), "{why}");
            why
        }
    };
    Ok(placed)
}

const MAY_LOCK: &str =
    "set LimitMEMLOCK=infinity in the unit (ulimit -l unlimited), or give the process CAP_IPC_LOCK";

/// How far something that takes long has come.
pub(super) struct Progress<'a> {
    path: &'a Path,
    what: &'static str,
    all_bytes: u64,
    done_bytes: AtomicU64,
    began_ms: u64,
    told_ms: AtomicU64,
    tell: fn(&str),
}

impl<'a> Progress<'a> {
    /// Nothing is done yet.
    pub(super) fn new(path: &'a Path, what: &'static str, all_bytes: u64, tell: fn(&str)) -> Self {
        let began_ms = clock::now().mono_ms;
        let (done_bytes, told_ms) = (AtomicU64::new(0), AtomicU64::new(began_ms));
        Progress { path, what, all_bytes, done_bytes, began_ms, told_ms, tell }
    }

    fn add(&self, bytes: u64) {
        self.done_bytes.fetch_add(bytes, Relaxed);
        let now_ms = clock::now().mono_ms;
        let told_ms = self.told_ms.load(Relaxed);
        let is_due = now_ms.saturating_sub(told_ms) >= PROGRESS_MS;
        if is_due && self.told_ms.compare_exchange(told_ms, now_ms, Relaxed, Relaxed).is_ok() {
            let line = self.line(now_ms);
            tracing::info!("{line}");
            (self.tell)(&line);
        }
    }

    fn end(&self) {
        tracing::info!("{}", self.line(clock::now().mono_ms));
    }

    fn line(&self, now_ms: u64) -> String {
        let done = self.done_bytes.load(Relaxed).min(self.all_bytes);
        let gib = |bytes: u64| bytes as f64 / (1 << 30) as f64;
        let rate = gib(done) / ((now_ms - self.began_ms).max(1) as f64 / 1000.0);
        let percent = done * 100 / self.all_bytes.max(1);
        let Progress { path, what, all_bytes, .. } = self;
        let path = path.display();
        format!("{path}: {what} {percent} % of {:.2} GiB, {rate:.2} GiB/s", gib(*all_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn units_go_to_the_nodes_in_turn_each_once() {
        let cpus = cpu::allowed().unwrap();
        let two = Nodes(vec![(0, cpus.clone()), (3, cpus.clone())]);
        assert_eq!(two.to_string(), "0, 3");
        let seen = Mutex::new(Vec::new());
        let note = |unit| {
            seen.lock().unwrap().push((unit, std::thread::current().id()));
            Ok(())
        };
        two.each(40, 2, note).unwrap();
        let mut seen = seen.into_inner().unwrap();
        seen.sort_by_key(|(unit, _)| *unit);
        assert_eq!(seen.iter().map(|(unit, _)| *unit).collect::<Vec<_>>(), (0..40).collect::<Vec<_>>());
        // Four threads: units 0 and 4 are of the same node and of the same thread there, 0 and 2 of another thread.
        let thread = |unit: usize| seen[unit].1;
        assert!(thread(0) == thread(4) && thread(0) != thread(2) && thread(0) != thread(1));
        let failed =
            two.each(40, 1, |unit| if unit == 7 { Err(io::ErrorKind::Other.into()) } else { Ok(()) });
        assert!(failed.is_err());
        assert!(Nodes(vec![(0, cpus)]).is_one());
    }

    #[test]
    fn progress_is_told_in_numbers_and_not_too_often() {
        static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());
        let progress = Progress::new(Path::new("/x"), "prefault", 4 << 30, |line| {
            TOLD.lock().unwrap().push(line.into());
        });
        progress.add(1 << 30);
        assert!(TOLD.lock().unwrap().is_empty(), "it has only begun");
        assert_eq!(progress.line(progress.began_ms + 500), "/x: prefault 25 % of 4.00 GiB, 2.00 GiB/s");
        let late = Progress { began_ms: 0, told_ms: AtomicU64::new(0), ..progress };
        while clock::now().mono_ms < PROGRESS_MS {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        late.add(1 << 30);
        late.add(1 << 30);
        assert_eq!(TOLD.lock().unwrap().len(), 1);
        assert!(TOLD.lock().unwrap()[0].starts_with("/x: prefault 50 % of 4.00 GiB, "));
    }
}
