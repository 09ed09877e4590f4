//! Memory of the index: zeroed words in cache lines, on huge pages where the kernel has them, from all nodes of memory that
//! are named by turns, touched at the start.
//! What the words mean is not known here.

use super::atomics::AtomicU64;
use super::prefetch;
use std::ops::Deref;

/// Words of a cache line.
pub const LINE_WORDS: usize = 8;

/// A cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Line(pub [AtomicU64; LINE_WORDS]);

#[cfg(not(feature = "interleave"))]
const _: () = assert!(size_of::<Line>() == 64);

/// So many lines, all zero at first.
pub struct Table(Backing);

impl Deref for Table {
    type Target = [Line];

    #[inline]
    fn deref(&self) -> &[Line] {
        self.0.lines()
    }
}

impl Table {
    /// `lines` lines, from these nodes of memory if there are several. A line is read from every node as often as from any
    /// other, so that no place is nearest: the nodes share the reads.
    pub fn new(lines: usize, nodes: &[usize]) -> std::io::Result<Self> {
        Backing::new(lines, nodes).map(Table)
    }

    /// This line is about to be read. Nothing happens if there is none with that number.
    #[inline]
    pub fn prefetch(&self, number: usize) {
        if let Some(line) = self.get(number) {
            prefetch::bytes((&raw const *line).cast(), size_of::<Line>());
        }
    }
}

#[cfg(feature = "interleave")]
use boxed::Backing;
#[cfg(not(feature = "interleave"))]
use mapped::Backing;

/// Under the scheduler of a test an atomic is no word of memory.
#[cfg(feature = "interleave")]
mod boxed {
    use super::Line;

    pub(super) struct Backing(Box<[Line]>);

    impl Backing {
        pub(super) fn new(lines: usize, _nodes: &[usize]) -> std::io::Result<Self> {
            Ok(Backing((0..lines).map(|_| Line::default()).collect()))
        }

        pub(super) fn lines(&self) -> &[Line] {
            &self.0
        }
    }
}

#[cfg(not(feature = "interleave"))]
mod mapped {
    use super::Line;
    use memmap2::{Advice, MmapOptions, MmapRaw};
    use std::io;

    /// Where a huge page may begin, on the machines that have them.
    const HUGE_PAGE_BYTES: usize = 2 << 20;

    pub(super) struct Backing {
        map: MmapRaw,
        /// Bytes before the first line.
        skipped: usize,
        lines: usize,
    }

    impl Backing {
        pub(super) fn new(lines: usize, nodes: &[usize]) -> io::Result<Self> {
            let bytes = lines.checked_mul(size_of::<Line>()).ok_or(io::ErrorKind::OutOfMemory)?;
            let map = MmapRaw::from(MmapOptions::new().len(bytes + HUGE_PAGE_BYTES).map_anon()?);
            let skipped = map.as_ptr().align_offset(HUGE_PAGE_BYTES);
            if nodes.len() > 1
                && let Err(error) = interleave(&map, nodes)
            {
                tracing::warn!(%error, "the index lies on one node of memory");
            }
            // Both are for speed alone: without them it is the same memory, in small pages that come when touched.
            let _ = map.advise_range(Advice::HugePage, skipped, bytes);
            let _ = map.advise_range(Advice::PopulateWrite, skipped, bytes);
            Ok(Backing { map, skipped, lines })
        }

        #[inline]
        pub(super) fn lines(&self) -> &[Line] {
            // SAFETY: `skipped` leads to a multiple of a line's alignment, and as many lines as are named fit behind it.
            // The memory is zeroed and lives as `self` does; atomics may be zero and are only changed as atomics.
            unsafe {
                let start = self.map.as_ptr().add(self.skipped).cast::<Line>();
                std::slice::from_raw_parts(start, self.lines)
            }
        }
    }

    /// Has the pages of a mapping come from these nodes by turns, from when they are touched (Linux 2.6).
    fn interleave(map: &MmapRaw, nodes: &[usize]) -> io::Result<()> {
        const NODES_MAX: usize = 1024;
        let mut mask = [0_u64; NODES_MAX / 64];
        for &node in nodes {
            let word = mask.get_mut(node / 64).ok_or(io::ErrorKind::InvalidInput)?;
            *word |= 1 << (node % 64);
        }
        // SAFETY: the range is the mapping; the mask lives through the call and is as long as is said. The kernel reads one
        // bit less than it is told.
        let done = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                map.as_ptr(),
                map.len(),
                libc::MPOL_INTERLEAVE,
                mask.as_ptr(),
                NODES_MAX + 1,
                0,
            )
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use std::sync::atomic::Ordering::Relaxed;

        #[test]
        fn pages_come_from_the_nodes_that_are_named() {
            // MPOL_F_ADDR of linux/mempolicy.h.
            const BY_ADDRESS: libc::c_int = 2;
            let map = MmapRaw::from(MmapOptions::new().len(1 << 22).map_anon().unwrap());
            let policy = || {
                let mut policy: libc::c_int = -1;
                // SAFETY: only the number of the policy is written, the address is one of the mapping.
                let done = unsafe {
                    let none = std::ptr::null_mut::<u64>();
                    libc::syscall(libc::SYS_get_mempolicy, &raw mut policy, none, 0, map.as_ptr(), BY_ADDRESS)
                };
                (done, policy)
            };
            assert_eq!(policy(), (0, libc::MPOL_DEFAULT));
            // The machine of a test may have one only; that it is there is what the kernel checks.
            interleave(&map, &[0]).unwrap();
            assert_eq!(policy(), (0, libc::MPOL_INTERLEAVE));
            assert!(interleave(&map, &[1023]).is_err() && interleave(&map, &[1 << 20]).is_err());
        }

        #[test]
        fn lines_are_zero_apart_and_keep_what_is_stored() {
            for lines in [1, 3, 40_000] {
                let backing = Backing::new(lines, &[]).unwrap();
                assert_eq!(backing.lines().len(), lines);
                assert!(backing.lines().iter().all(|line| line.0.iter().all(|word| word.load(Relaxed) == 0)));
                backing.lines()[lines - 1].0[7].store(9, Relaxed);
                assert_eq!(backing.lines()[lines - 1].0[7].load(Relaxed), 9);
                assert!(backing.lines().as_ptr().cast::<u8>().addr().is_multiple_of(HUGE_PAGE_BYTES));
            }
        }
    }
}
