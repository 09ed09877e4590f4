//! The thread that finds out which pages of the shards the kernel has dropped: it reads how much memory was reclaimed,
//! ends epochs by that, and asks for the pages that nobody has used for long. It touches no byte of a shard and no
//! worker waits for it; if it stands still, pages are believed for too long and a worker may meet the disk. Where it
//! shares a CPU with workers it gives way to them, and has the threads that read pages for them give way as well.
#![forbid(unsafe_code)]

use super::residency::{EPOCHS_PER_SWEEP, EPOCHS_PER_SWEEP_MAX, EPOCHS_PER_TURNOVER};
use crate::limits;
use crate::sys::cpu;
use crate::sys::mapping::{Window, memory_page_bytes};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Pages in which an epoch ends at the earliest, however little the shard has in memory.
const EPOCH_PAGES_MIN: u64 = 64;
/// Looks at what was reclaimed that showed nothing, after which what is seen in memory is taken to stay there.
const CALM_LOOKS: u32 = 50;

/// The running thread; ends when this is dropped.
pub(super) struct Sweeper {
    stop: Arc<AtomicBool>,
    /// Shards that the thread has not taken over yet.
    new: Arc<Mutex<Vec<Window>>>,
    thread: Option<JoinHandle<()>>,
}

impl Sweeper {
    /// Looks after one more shard.
    pub(super) fn add(&self, window: Window) {
        self.new.lock().unwrap_or_else(PoisonError::into_inner).push(window);
    }
}

/// Starts the thread, named `edge-sweep`. It looks after the shards that may leave memory, until they fail.
pub(super) fn spawn(windows: Vec<Window>) -> io::Result<Sweeper> {
    let stop = Arc::new(AtomicBool::new(false));
    let new = Arc::new(Mutex::new(windows));
    let mut reclaim = Reclaim::open()?;
    let (stopped, added) = (stop.clone(), new.clone());
    let thread = std::thread::Builder::new().name("edge-sweep".into()).spawn(move || {
        let nice = cpu::nice();
        cpu::give_way();
        let mut calm_looks = 0;
        let mut looks = 0_u64;
        let mut sweeps: Vec<Sweep> = Vec::new();
        while !stopped.load(Ordering::Relaxed) {
            let new = std::mem::take(&mut *added.lock().unwrap_or_else(PoisonError::into_inner));
            sweeps.extend(new.into_iter().filter(|window| window.residency().is_tracked()).map(Sweep::new));
            sweeps.retain(|sweep| !sweep.window.failed());
            if sweeps.is_empty() {
                std::thread::park_timeout(Duration::from_millis(limits::SWEEP_IDLE_MS));
                continue;
            }
            if looks.is_multiple_of(limits::LOOKS_PER_GIVING_WAY)
                && let Err(error) = cpu::ring_threads_give_way(nice)
            {
                tracing::debug!(%error, "threads that read pages do not give way to workers");
            }
            looks += 1;
            // Without a number nothing is believed for long.
            let reclaimed = reclaim.since_last().unwrap_or(Reclaimed::Everything);
            calm_looks = if reclaimed == Reclaimed::Pages(0) { calm_looks + 1 } else { 0 };
            sweeps.iter_mut().for_each(|sweep| sweep.begin(reclaimed, calm_looks >= CALM_LOOKS));
            // Little by little: a worker may want this CPU, and would have to wait for the end of a step.
            for step in 1..=limits::SWEEP_STEPS_PER_LOOK {
                sweeps.iter_mut().for_each(Sweep::step);
                let is_over = sweeps.iter().all(|sweep| sweep.at.is_none());
                let steps = if is_over { limits::SWEEP_STEPS_PER_LOOK - step + 1 } else { 1 };
                std::thread::park_timeout(Duration::from_millis(steps * limits::SWEEP_STEP_MS));
                if is_over || stopped.load(Ordering::Relaxed) {
                    break;
                }
            }
        }
    })?;
    Ok(Sweeper { stop, new, thread: Some(thread) })
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It does not panic; and if it had, there would be nothing left to do about it.
            let _ = thread.join();
        }
    }
}

/// What the kernel took back since the last look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reclaimed {
    /// So many pages.
    Pages(u64),
    /// The page cache as a whole, or nobody knows what.
    Everything,
}

/// The kernel's counters of reclaim.
struct Reclaim {
    file: File,
    text: Vec<u8>,
    pages: u64,
    drops: u64,
}

impl Reclaim {
    fn open() -> io::Result<Self> {
        let file = File::open("/proc/vmstat")?;
        let mut reclaim = Reclaim { file, text: vec![0; 32 * 1024], pages: 0, drops: 0 };
        reclaim.since_last()?;
        Ok(reclaim)
    }

    fn since_last(&mut self) -> io::Result<Reclaimed> {
        let bytes = self.file.read_at(&mut self.text, 0)?;
        let (pages, drops) = read_counters(&self.text[..bytes]);
        let reclaimed = match (pages.saturating_sub(self.pages), drops == self.drops) {
            (pages, true) => Reclaimed::Pages(pages),
            (_, false) => Reclaimed::Everything,
        };
        (self.pages, self.drops) = (pages, drops);
        Ok(reclaimed)
    }
}

/// Pages reclaimed from files and from memory that could be swapped, by whom and in which group ever; and how often
/// somebody had the page cache dropped. From `/proc/vmstat` (Linux 5.8).
fn read_counters(text: &[u8]) -> (u64, u64) {
    let (mut pages, mut drops) = (0, 0);
    for line in text.split(|&byte| byte == b'\n') {
        let mut words = line.split(|&byte| byte == b' ');
        let (Some(name), Some(value)) = (words.next(), words.next()) else { continue };
        let value = || std::str::from_utf8(value).ok().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        match name {
            b"pgsteal_file" | b"pgsteal_anon" => pages += value(),
            b"drop_pagecache" => drops += value(),
            _ => {}
        }
    }
    (pages, drops)
}

/// The sweep over one shard, again and again while memory is being reclaimed.
struct Sweep {
    window: Window,
    /// Where to go on; `None`: there is no reason to.
    at: Option<usize>,
    /// Nothing was reclaimed for a while.
    calm: bool,
    /// Also looks at pages that were never seen: once, for a shard that was in use before.
    all: bool,
    began_epochs: u64,
    was_calm: bool,
    /// Pages in memory by the last whole sweep, and by this one so far.
    present: u64,
    counted: u64,
    /// Reclaimed since the last epoch ended.
    reclaimed: u64,
    found: Vec<u8>,
}

impl Sweep {
    fn new(window: Window) -> Self {
        Sweep {
            window,
            at: Some(0),
            calm: false,
            all: true,
            began_epochs: 0,
            was_calm: true,
            present: 0,
            counted: 0,
            reclaimed: 0,
            found: Vec::new(),
        }
    }

    /// Ends epochs, and begins a new sweep if there is reason to. `calm`: nothing was reclaimed for a while.
    fn begin(&mut self, reclaimed: Reclaimed, calm: bool) {
        self.end_epochs(reclaimed);
        self.calm = calm;
        let epochs = self.window.residency().epochs();
        let is_due = match epochs - self.began_epochs {
            0 => calm && !self.was_calm,
            ended => calm || ended >= EPOCHS_PER_SWEEP,
        };
        if self.at.is_none() && is_due {
            (self.at, self.began_epochs, self.was_calm) = (Some(0), epochs, calm);
        }
    }

    /// Looks at some pages.
    fn step(&mut self) {
        let late = self.window.residency().epochs() - self.began_epochs > EPOCHS_PER_SWEEP_MAX;
        let (mut looks, mut passed) = (0, 0);
        while let Some(at) = self.at
            && (late || (looks < limits::SWEEP_LOOKS_PER_STEP && passed < limits::SWEEP_PAGES_PER_STEP))
        {
            let (looked, next) = self.look(at);
            looks += looked;
            passed += next - at;
        }
    }

    fn end_epochs(&mut self, reclaimed: Reclaimed) {
        let residency = self.window.residency();
        let epochs = match reclaimed {
            Reclaimed::Everything => 2,
            Reclaimed::Pages(pages) => {
                let epoch = (self.present / EPOCHS_PER_TURNOVER).max(EPOCH_PAGES_MIN);
                self.reclaimed += pages;
                let epochs = self.reclaimed / epoch;
                self.reclaimed %= epoch;
                epochs
            }
        };
        // After two nothing is believed any more.
        (0..epochs.min(2)).for_each(|_| residency.end_epoch());
    }

    /// Asks about the next run of pages that are in doubt. Says how many these were, and where the next is.
    fn look(&mut self, at: usize) -> (usize, usize) {
        let residency = self.window.residency();
        let (run, next) =
            residency.next_doubted(at, limits::SWEEP_LOOKS_PER_STEP, self.all, &mut self.counted);
        if !run.is_empty() {
            let bytes = residency.bytes_of(&run);
            if self.window.look(bytes, &mut self.found).is_err() {
                // Unknown is as good as gone: it will be brought in before it is touched.
                self.found.fill(0);
            }
            for (page, found) in run.clone().zip(&self.found) {
                residency.seen(page, found & 1 == 1, self.calm);
                self.counted += u64::from(found & 1);
            }
        }
        self.at = (next < residency.pages()).then_some(next);
        if self.at.is_none() {
            self.present = std::mem::take(&mut self.counted);
            self.all = false;
            residency.counted(self.present * memory_page_bytes() as u64);
        }
        (run.len(), next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::scratch::Scratch;
    use crate::shard::{Body, Label, Options, Reader, Writer, open};
    use bytes::Bytes;

    fn store(scratch: &Scratch) -> (Writer, Reader) {
        let options =
            Options { path: scratch.path().into(), size_bytes: 32 << 20, readers: 1, ..Options::default() };
        let (writer, mut readers, _) = open(std::slice::from_ref(&options)).unwrap();
        (writer, readers.remove(0))
    }

    fn whole_sweep(sweep: &mut Sweep, calm: bool) {
        (sweep.at, sweep.calm) = (Some(0), calm);
        while sweep.at.is_some() {
            sweep.step();
        }
    }

    fn is_believed(reader: &Reader) -> bool {
        reader.try_lookup(9, b"k", |_| true).is_ok_and(|found| found.is_some())
    }

    #[test]
    fn what_the_page_cache_still_holds_is_believed_after_one_sweep_of_a_calm_machine() {
        let scratch = Scratch::new("sweep-calm");
        let (mut writer, reader) = store(&scratch);
        writer
            .put(&Label::new(9, b"k", &[], &[]), Body::Whole(&[Bytes::from(vec![1; 50_000])]), |_| false)
            .unwrap();
        assert!(is_believed(&reader), "the writer has just touched it");
        drop((writer, reader));
        let (writer, reader) = store(&scratch);
        assert!(!is_believed(&reader));
        let mut sweep = Sweep::new(writer.windows().remove(0));
        whole_sweep(&mut sweep, true);
        assert!(is_believed(&reader));
        assert!(writer.usage().memory_bytes >= 50_000);
    }

    #[test]
    fn reclaim_ends_epochs_and_a_look_does_not_count_as_a_use_then() {
        let scratch = Scratch::new("sweep-reclaim");
        let (mut writer, reader) = store(&scratch);
        writer
            .put(&Label::new(9, b"k", &[], &[]), Body::Whole(&[Bytes::from(vec![1; 50_000])]), |_| false)
            .unwrap();
        let mut sweep = Sweep::new(writer.windows().remove(0));
        whole_sweep(&mut sweep, false);
        sweep.begin(Reclaimed::Pages(EPOCH_PAGES_MIN - 1), false);
        assert!(is_believed(&reader));
        sweep.begin(Reclaimed::Pages(2 * sweep.present.max(EPOCH_PAGES_MIN)), false);
        assert!(!is_believed(&reader));
        whole_sweep(&mut sweep, false);
        let cold = reader.try_lookup(9, b"k", |_| true).err().expect("still in doubt");
        assert!(!cold.is_absent(), "but known to be there");
        cold.came();
        assert!(is_believed(&reader), "all of it was brought in at once");
        sweep.begin(Reclaimed::Everything, false);
        assert!(!is_believed(&reader));
    }

    #[test]
    fn a_sweep_begins_when_some_epochs_have_ended_or_nothing_is_reclaimed_any_more() {
        let scratch = Scratch::new("sweep-begins");
        let (writer, _reader) = store(&scratch);
        let mut sweep = Sweep::new(writer.windows().remove(0));
        whole_sweep(&mut sweep, false);
        let epoch = |sweep: &mut Sweep, calm| {
            let epoch = (sweep.present / EPOCHS_PER_TURNOVER).max(EPOCH_PAGES_MIN);
            sweep.begin(Reclaimed::Pages(if calm { 0 } else { epoch }), calm);
            sweep.at.is_some()
        };
        assert!((1..EPOCHS_PER_SWEEP).all(|_| !epoch(&mut sweep, false)) && epoch(&mut sweep, false));
        whole_sweep(&mut sweep, false);
        assert!(!epoch(&mut sweep, false) && epoch(&mut sweep, true), "one last time");
        whole_sweep(&mut sweep, true);
        assert!(!epoch(&mut sweep, true));
    }

    #[test]
    fn the_kernels_counters_are_read() {
        let text = b"nr_free_pages 5\npgsteal_kswapd 7\npgsteal_anon 30\npgsteal_file 12\ndrop_pagecache 3\ndrop_slab 9\n";
        assert_eq!(read_counters(text), (42, 3));
        let mut reclaim = Reclaim::open().unwrap();
        assert!(reclaim.text.len() > reclaim.file.read_at(&mut vec![0; 32 * 1024], 0).unwrap());
        assert!(matches!(reclaim.since_last(), Ok(Reclaimed::Pages(_) | Reclaimed::Everything)));
    }
}
