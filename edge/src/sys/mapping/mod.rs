//! A file mapped whole and shared by one appender and many readers: the only place where the bytes of
//! a store are touched through pointers. What the bytes mean is not known here, nor where to look for them.
//!
//! Why the API is safe to call. The file is cut into equal segments, and each segment into two parts:
//!
//! - *words* at its start, only ever touched as `AtomicU64`;
//! - *bytes* behind them, append-only: each segment has a mark, `filled`. Bytes below the mark do not change
//!   and may be lent out as `&[u8]`; bytes at or above it belong to the one [`Appender`] and are never lent.
//!
//! A segment is emptied again (its mark moved back) only while no reader holds it. A reader holds a segment by
//! counting itself in ([`Pins::pin`]) and then reading the mark; the appender first shuts the mark (0: not to
//! be held) and then reads the counters. All four steps are sequentially consistent, so one of the two sees
//! the other: either the reader finds the segment shut and leaves, or the appender finds it held and waits.
//! The counting instruction of the reader is the fence as well; a held segment costs one locked instruction
//! to enter and one to leave, and no cache line is written by two readers.
//!
//! The file is mapped twice. User space reads and writes the first mapping, in which a page that is missing is
//! replaced (see `fault`); the kernel sends from the second, in which it is not, so that it fails instead.

mod hold;
mod lock;
mod release;
#[cfg(test)]
mod simulated;
mod window;

pub use lock::LockedDirectory;
pub use window::{Extent, Window, memory_page_bytes};

use super::atomics::AtomicU32;
use super::fault::Watched;
use super::prefetch;
use crate::shard::residency::Residency;
use memmap2::{MmapOptions, MmapRaw};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A page of any file system but hugetlbfs; where the kernel's are larger, replacing fails and the process ends.
const PAGE_BYTES: usize = 4096;

/// How a mapped file is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of a segment, a multiple of the page size.
    pub segment_bytes: usize,
    /// Bytes of the words at the start of each segment, a multiple of 8.
    pub words_bytes: usize,
    /// Number of segments.
    pub segments: usize,
}

impl Shape {
    /// Bytes of the whole file.
    pub fn file_bytes(&self) -> usize {
        self.segment_bytes * self.segments
    }
}

/// A mapped file that nobody writes bytes to yet: all of it can be read, to find out what it holds.
#[derive(Debug)]
pub struct Unserved {
    watched: Watched,
    map: MmapRaw,
    sent_from: MmapRaw,
    shape: Shape,
    directory: Arc<LockedDirectory>,
}

impl Unserved {
    /// Maps `file`, which must lie in `directory`: the lock is what keeps other writers away.
    pub fn map(directory: Arc<LockedDirectory>, file: &File, shape: Shape) -> io::Result<Self> {
        assert!(shape.words_bytes.is_multiple_of(8) && shape.words_bytes < shape.segment_bytes);
        assert!(shape.segment_bytes.is_multiple_of(4096) && shape.segment_bytes < 1 << 31);
        if file.metadata()?.len() < shape.file_bytes() as u64 {
            return Err(io::Error::other("the file is shorter than its segments"));
        }
        let map = MmapOptions::new().len(shape.file_bytes()).map_raw(file)?;
        let sent_from = MmapOptions::new().len(shape.file_bytes()).map_raw_read_only(file)?;
        let watched = Watched::new(map.as_ptr(), shape.file_bytes(), page_bytes(file)?)?;
        Ok(Unserved { watched, map, sent_from, shape, directory })
    }

    /// Whether the file could not give a page: what was read does not count then.
    pub fn failed(&self) -> bool {
        self.watched.failed()
    }

    /// The words of a segment.
    pub fn words(&self, segment: usize) -> &[AtomicU64] {
        words(&self.map, &self.shape, segment)
    }

    /// The bytes of a segment behind its words.
    pub fn bytes(&self, segment: usize) -> &[u8] {
        let Shape { segment_bytes, words_bytes, segments } = self.shape;
        assert!(segment < segments);
        let start = segment * segment_bytes + words_bytes;
        // SAFETY: in bounds by the assertion. No `Appender` exists before `serve`, which consumes `self` and so
        // ends this borrow; the lock keeps other processes out; the words are not covered.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(start), segment_bytes - words_bytes) }
    }

    /// Copies `bytes` to this offset of a segment, behind its words.
    pub fn write(&mut self, segment: usize, offset: usize, bytes: &[u8]) {
        let Shape { segment_bytes, words_bytes, segments } = self.shape;
        assert!(segment < segments && offset >= words_bytes);
        assert!(bytes.len() <= segment_bytes && offset <= segment_bytes - bytes.len());
        // SAFETY: in bounds by the assertions; `&mut self`: nothing of the mapping is lent out.
        unsafe {
            let to = self.map.as_mut_ptr().add(segment * segment_bytes + offset);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
    }

    /// Writes the words of segment 0 through to the disk.
    pub fn flush_first_words(&self) -> io::Result<()> {
        self.map.flush_range(0, self.shape.words_bytes)
    }

    /// Hands out the appender and `readers` reading sides. `filled[s]` is the offset in segment `s` below which
    /// its bytes hold something (0: nothing, the segment must be emptied before it is used). `residency` is for as
    /// many bytes as the file has.
    pub fn serve(self, filled: &[usize], residency: Residency, readers: usize) -> (Appender, Vec<Pins>) {
        let Shape { segment_bytes, words_bytes, segments } = self.shape;
        assert_eq!(filled.len(), segments);
        let filled = filled
            .iter()
            .map(|&end| {
                assert!(end == 0 || (words_bytes..=segment_bytes).contains(&end));
                AtomicU32::new(end as u32)
            })
            .collect();
        assert!(
            !residency.is_tracked() || residency.pages() * memory_page_bytes() >= self.shape.file_bytes()
        );
        let shared = Arc::new(Shared {
            watched: self.watched,
            map: self.map,
            sent_from: self.sent_from,
            residency,
            shape: self.shape,
            filled,
            rows: (0..readers).map(|_| Row::new(segments)).collect(),
            _directory: self.directory,
        });
        let pins = (0..readers).map(|row| Pins { shared: Arc::clone(&shared), row }).collect();
        (Appender { shared }, pins)
    }
}

/// What the appender and the readers share. Freed with the last of them, unless a pin outlives its reader.
#[derive(Debug)]
struct Shared {
    watched: Watched,
    map: MmapRaw,
    sent_from: MmapRaw,
    residency: Residency,
    shape: Shape,
    filled: Box<[AtomicU32]>,
    rows: Box<[Row]>,
    /// Ours for as long as anybody reads.
    _directory: Arc<LockedDirectory>,
}

/// The pin counters of one reader, one for each segment, on cache lines of its own.
#[derive(Debug)]
struct Row(Box<[Line]>);

#[derive(Debug, Default)]
#[repr(align(64))]
struct Line([AtomicU32; 16]);

impl Row {
    fn new(segments: usize) -> Self {
        Row((0..segments.div_ceil(16)).map(|_| Line::default()).collect())
    }

    #[inline]
    fn counter(&self, segment: usize) -> &AtomicU32 {
        &self.0[segment / 16].0[segment % 16]
    }
}

impl Shared {
    fn extent(&self, bytes: Range<usize>) -> Extent {
        assert!(bytes.start <= bytes.end && bytes.end <= self.shape.file_bytes());
        let page = memory_page_bytes();
        let (start, end) = (bytes.start & !(page - 1), bytes.end.next_multiple_of(page));
        // Where the kernel sends from: that mapping holds most of what is read, and has no stand-ins for lost pages.
        Extent { start: self.sent_from.as_ptr() as usize + start, bytes: end - start }
    }
}

fn words<'a>(map: &'a MmapRaw, shape: &Shape, segment: usize) -> &'a [AtomicU64] {
    assert!(segment < shape.segments);
    // SAFETY: in bounds by the assertion; a segment starts on a page, so the words are aligned; this part of
    // a segment is touched as atomics only, here and by everybody who maps the file under the lock.
    unsafe {
        let start = map.as_mut_ptr().add(segment * shape.segment_bytes);
        std::slice::from_raw_parts(start.cast::<AtomicU64>(), shape.words_bytes / 8)
    }
}

/// Bytes of a page of the file's mapping, which is what goes missing at once.
fn page_bytes(file: &File) -> io::Result<usize> {
    let stat = nix::sys::statfs::fstatfs(file)?;
    let huge = stat.filesystem_type() == nix::sys::statfs::HUGETLBFS_MAGIC;
    let bytes = if huge { usize::try_from(stat.block_size()).unwrap_or(0) } else { 0 };
    Ok(if bytes.is_power_of_two() { bytes.max(PAGE_BYTES) } else { PAGE_BYTES })
}

/// The one side that writes bytes.
#[derive(Debug)]
pub struct Appender {
    shared: Arc<Shared>,
}

impl Appender {
    /// How the file is cut.
    pub fn shape(&self) -> Shape {
        self.shared.shape
    }

    /// The whole mapping, to ask the kernel about.
    pub fn window(&self) -> Window {
        Window { shared: Arc::clone(&self.shared) }
    }

    /// The words of a segment.
    pub fn words(&self, segment: usize) -> &[AtomicU64] {
        words(&self.shared.map, &self.shared.shape, segment)
    }

    /// Whether the file could not give a page, or somebody said that it failed: what is read there does not count.
    pub fn failed(&self) -> bool {
        self.shared.watched.failed()
    }

    /// Marks the mapping as failed: readers find nothing there any more.
    pub fn fail(&self) {
        self.shared.watched.fail();
    }

    /// Writes the words of segment 0 through to the disk.
    pub fn flush_first_words(&self) -> io::Result<()> {
        self.shared.map.flush_range(0, self.shared.shape.words_bytes)
    }

    /// The offset below which bytes of this segment can be read; 0: it is shut.
    pub fn filled(&self, segment: usize) -> usize {
        self.shared.filled[segment].load(Ordering::Relaxed) as usize
    }

    /// Copies `bytes` to this offset of a segment, at or above its mark. Panics outside of that.
    pub fn write(&mut self, segment: usize, offset: usize, bytes: &[u8]) {
        let shape = self.shared.shape;
        let filled = self.filled(segment);
        assert!(filled >= shape.words_bytes && offset >= filled, "write below the mark");
        assert!(
            bytes.len() <= shape.segment_bytes && offset <= shape.segment_bytes - bytes.len(),
            "write beyond the segment"
        );
        // SAFETY: in bounds by the assertions. At or above the mark nothing is lent out, and `&mut self` makes this
        // the only writer. The source is a live slice, so it lies elsewhere or below a mark: no overlap.
        unsafe {
            let to = self.shared.map.as_mut_ptr().add(segment * shape.segment_bytes + offset);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
    }

    /// Copies bytes below the mark of one segment to an offset of another, at or above its mark. Panics outside of that.
    pub fn copy(&mut self, from: usize, range: Range<usize>, to: usize, offset: usize) {
        let shape = self.shared.shape;
        assert!(
            from != to && range.start >= shape.words_bytes && range.end <= self.filled(from),
            "not filled"
        );
        let filled = self.filled(to);
        assert!(filled >= shape.words_bytes && offset >= filled, "copy below the mark");
        assert!(
            range.len() <= shape.segment_bytes && offset <= shape.segment_bytes - range.len(),
            "copy beyond the segment"
        );
        // SAFETY: both in bounds by the assertions. What is copied lies below a mark and does not change; where it goes
        // nothing is lent out, and `&mut self` makes this the only writer. Two segments do not overlap.
        unsafe {
            let base = self.shared.map.as_mut_ptr();
            let source = base.add(from * shape.segment_bytes + range.start);
            let target = base.add(to * shape.segment_bytes + offset);
            std::ptr::copy_nonoverlapping(source, target, range.len());
        }
    }

    /// Moves the mark of a segment up: what is below does not change any more and can be read.
    pub fn fill(&mut self, segment: usize, end: usize) {
        let filled = self.filled(segment);
        assert!(filled >= self.shared.shape.words_bytes && end >= filled, "the mark only rises");
        assert!(end <= self.shared.shape.segment_bytes, "mark beyond the segment");
        if end > filled {
            let start = segment * self.shared.shape.segment_bytes;
            self.shared.residency.used(start + filled..start + end);
        }
        self.shared.filled[segment].store(end as u32, Ordering::Release);
    }

    /// The bytes of a range below the mark of a segment; `None` if it is not below.
    pub fn bytes(&self, segment: usize, range: Range<usize>) -> Option<&[u8]> {
        let shape = self.shared.shape;
        let filled = self.filled(segment);
        if range.start < shape.words_bytes || range.end < range.start || range.end > filled {
            return None;
        }
        // SAFETY: in bounds and below the mark. Only `reset` lets these bytes change, which needs `&mut self` and so
        // cannot be called while this borrow lives.
        Some(unsafe {
            let start = self.shared.map.as_ptr().add(segment * shape.segment_bytes + range.start);
            std::slice::from_raw_parts(start, range.len())
        })
    }

    /// Whether some reader holds this segment now.
    pub fn pinned(&self, segment: usize) -> bool {
        let held = |row: &Row| row.counter(segment).load(Ordering::SeqCst) != 0;
        self.shared.rows.iter().any(held)
    }

    /// Shuts a segment to readers and, if none of them holds it, empties it for writing. `false`: still held, it
    /// stays shut; try again later.
    #[must_use]
    pub fn reset(&mut self, segment: usize) -> bool {
        self.shared.filled[segment].store(0, Ordering::SeqCst);
        if self.pinned(segment) {
            return false;
        }
        self.shared.filled[segment].store(self.shared.shape.words_bytes as u32, Ordering::Release);
        true
    }
}

/// The reading side of one thread.
#[derive(Debug)]
pub struct Pins {
    shared: Arc<Shared>,
    row: usize,
}

impl Pins {
    /// Whether the file could not give a page: nothing is to be looked up there any more.
    #[inline]
    pub fn failed(&self) -> bool {
        self.shared.watched.failed()
    }

    /// The whole mapping, to ask the kernel about.
    pub fn window(&self) -> Window {
        Window { shared: Arc::clone(&self.shared) }
    }

    /// Bytes from this offset of a segment on are about to be read. Nothing happens but that, also where there are none.
    #[inline]
    pub fn prefetch(&self, segment: usize, start: usize, bytes: usize) {
        let offset = segment.wrapping_mul(self.shared.shape.segment_bytes).wrapping_add(start);
        prefetch::bytes(self.shared.map.as_ptr().wrapping_add(offset), bytes);
    }

    /// Holds a segment. `None`: there is no such segment, or it is shut.
    #[inline]
    pub fn pin(&self, segment: usize) -> Option<Pin> {
        let shared = &*self.shared;
        let filled = shared.filled.get(segment)?;
        let counter = shared.rows[self.row].counter(segment);
        // Counted first, mark read second; see the head of this file. A counter near overflow means that pins are
        // leaked on purpose.
        assert!(counter.fetch_add(1, Ordering::SeqCst) < u32::MAX / 2);
        let filled = filled.load(Ordering::SeqCst);
        if filled == 0 {
            counter.fetch_sub(1, Ordering::Release);
            return None;
        }
        // SAFETY: `segment` is in bounds, for its mark is.
        let start = unsafe {
            let start = segment * shared.shape.segment_bytes;
            NonNull::new_unchecked(shared.map.as_mut_ptr().add(start))
        };
        Some(Pin {
            start,
            words_bytes: shared.shape.words_bytes as u32,
            filled,
            counter: NonNull::from(counter),
            shared: NonNull::from(shared),
        })
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let segments = 0..self.shared.shape.segments;
        let row = &self.shared.rows[self.row];
        if segments.into_iter().any(|s| row.counter(s).load(Ordering::Acquire) != 0) {
            // Pins point into the mapping and the counters: both stay for as long as the process does.
            std::mem::forget(Arc::clone(&self.shared));
        }
    }
}

/// A segment held in place. Not `Send`: it is given back on the thread that took it.
#[derive(Debug)]
pub struct Pin {
    start: NonNull<u8>,
    words_bytes: u32,
    filled: u32,
    counter: NonNull<AtomicU32>,
    shared: NonNull<Shared>,
}

impl Pin {
    #[inline]
    fn shared(&self) -> &Shared {
        // SAFETY: it lives as the mapping does, see `Pin::bytes`.
        unsafe { self.shared.as_ref() }
    }

    /// Where the kernel reads these bytes of the segment to send them: in a mapping of their own. To be read for as
    /// long as the segment is held, and by the kernel alone.
    pub fn sent_from(&self, bytes: &[u8]) -> *const u8 {
        let shared = self.shared();
        let offset = (bytes.as_ptr() as usize).wrapping_sub(shared.map.as_ptr() as usize);
        assert!(offset <= shared.shape.file_bytes() - bytes.len(), "bytes of another mapping");
        shared.sent_from.as_ptr().wrapping_add(offset)
    }

    /// Whether the file could not give a page: what was read there does not count.
    pub fn failed(&self) -> bool {
        self.shared().watched.failed()
    }

    /// Marks the mapping as failed, because the kernel could not read it.
    pub fn fail(&self) {
        self.shared().watched.fail();
    }

    /// Whether another holds a segment of the same file.
    pub fn shares_file(&self, other: &Pin) -> bool {
        self.shared == other.shared
    }

    /// What is known about which pages are in memory.
    #[inline]
    pub fn residency(&self) -> &Residency {
        &self.shared().residency
    }

    /// Where a range of the segment is in the file.
    #[inline]
    pub fn in_file(&self, range: Range<usize>) -> Range<usize> {
        let start = self.start.as_ptr() as usize - self.shared().map.as_ptr() as usize;
        start + range.start..start + range.end
    }

    /// The offset in the segment below which its bytes can be read.
    #[inline]
    pub fn filled(&self) -> usize {
        self.filled as usize
    }

    /// The bytes of a range of the segment, if they were filled when it was pinned.
    #[inline]
    pub fn bytes(&self, range: Range<usize>) -> Option<&[u8]> {
        if range.start < self.words_bytes as usize
            || range.end < range.start
            || range.end > self.filled as usize
        {
            return None;
        }
        // SAFETY: below the mark that was read after the segment was counted as held: `reset` does not succeed, and so
        // nothing is written below that mark, until this pin is dropped, which ends the borrow. The mapping
        // lives: `Pins::drop` leaks it if it finds this pin.
        Some(unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(range.start), range.len()) })
    }
}

impl Clone for Pin {
    /// Holds the segment once more.
    #[inline]
    fn clone(&self) -> Self {
        // SAFETY: the counter lives as the mapping does, see `Pin::bytes`. It is not 0, for this pin counts in it, so
        // no `reset` comes between; and it is counted on the one thread that has it, for pins are not `Send`.
        assert!(unsafe { self.counter.as_ref() }.fetch_add(1, Ordering::SeqCst) < u32::MAX / 2);
        Pin { ..*self }
    }
}

impl Drop for Pin {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the counter lives as the mapping does, see `Pin::bytes`; after this instruction nothing of it is used.
        unsafe { self.counter.as_ref() }.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::scratch::Scratch;

    const SHAPE: Shape = Shape { segment_bytes: 8192, words_bytes: 4096, segments: 3 };

    fn served(scratch: &Scratch) -> (Appender, Vec<Pins>) {
        let directory = LockedDirectory::lock(scratch.path()).unwrap().unwrap();
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(scratch.path().join("f"))
            .unwrap();
        file.set_len(SHAPE.file_bytes() as u64).unwrap();
        let map = Unserved::map(Arc::new(directory), &file, SHAPE).unwrap();
        map.serve(&[0; 3], Residency::always(), 2)
    }

    #[test]
    fn a_held_segment_is_not_emptied() {
        let scratch = Scratch::new("mapping-held");
        let (mut appender, pins) = served(&scratch);
        assert!(pins[0].pin(1).is_none(), "never emptied: nothing to hold there");
        assert!(appender.reset(1));
        appender.write(1, 4096, b"abcd");
        appender.fill(1, 4100);
        let (first, second) = (pins[0].pin(1).unwrap(), pins[1].pin(1).unwrap());
        assert_eq!(first.bytes(4096..4100), Some(&b"abcd"[..]));
        assert_eq!(first.bytes(4096..4101), None, "above the mark");
        assert_eq!(first.bytes(4095..4100), None, "words are not lent");
        assert_eq!(appender.bytes(1, 4096..4100), Some(&b"abcd"[..]));
        assert!(!appender.reset(1));
        assert!(pins[0].pin(1).is_none(), "shut to new readers");
        drop(first);
        assert!(!appender.reset(1));
        assert_eq!(second.bytes(4096..4100), Some(&b"abcd"[..]), "held bytes stay");
        drop(second);
        assert!(appender.reset(1));
        assert!(pins[0].pin(3).is_none(), "no such segment");
    }

    #[test]
    fn the_lock_lasts_as_long_as_a_pin() {
        let scratch = Scratch::new("mapping-lock");
        let (mut appender, pins) = served(&scratch);
        assert!(appender.reset(0));
        assert!(LockedDirectory::lock(scratch.path()).unwrap().is_none());
        drop((appender, pins));
        let (mut appender, pins) = served(&scratch);
        assert!(appender.reset(0));
        appender.write(0, 5000, b"x");
        appender.fill(0, 5001);
        let pin = pins[0].pin(0).unwrap();
        drop((appender, pins));
        assert!(LockedDirectory::lock(scratch.path()).unwrap().is_none());
        assert_eq!(pin.bytes(5000..5001), Some(&b"x"[..]));
    }

    #[test]
    fn who_removes_the_lock_file_does_not_get_the_directory() {
        let scratch = Scratch::new("mapping-removed");
        let directory = LockedDirectory::lock(scratch.path()).unwrap().unwrap();
        std::fs::remove_file(scratch.path().join("lock")).unwrap();
        assert!(LockedDirectory::lock(scratch.path()).unwrap().is_none());
        // Nor under another name.
        let link = scratch.path().with_extension("link");
        std::os::unix::fs::symlink(scratch.path(), &link).unwrap();
        assert!(LockedDirectory::lock(&link).unwrap().is_none());
        std::fs::remove_file(&link).unwrap();
        drop(directory);
        assert!(LockedDirectory::lock(scratch.path()).unwrap().is_some());
    }

    #[test]
    fn a_duplicate_of_the_lock_file_does_not_keep_the_lock() {
        let scratch = Scratch::new("mapping-duplicate");
        let directory = LockedDirectory::lock(scratch.path()).unwrap().unwrap();
        // What a child process has between fork and exec.
        let duplicate = directory.lock.try_clone().unwrap();
        drop(directory);
        assert!(LockedDirectory::lock(scratch.path()).unwrap().is_some());
        drop(duplicate);
    }

    #[test]
    #[should_panic(expected = "write below the mark")]
    fn what_was_filled_is_not_overwritten() {
        let scratch = Scratch::new("mapping-mark");
        let (mut appender, _pins) = served(&scratch);
        assert!(appender.reset(0));
        appender.fill(0, 4200);
        appender.write(0, 4199, b"x");
    }
}
