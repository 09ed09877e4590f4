//! The pages of a mapping as the kernel sees them: which are in memory, and advice about them. Their bytes are not
//! read here.

use super::Shared;
use crate::shard::residency::Residency;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// A run of pages of a mapping, by its address: something to give the kernel advice about, never to read through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub(in crate::sys) start: usize,
    pub(in crate::sys) bytes: usize,
}

impl Extent {
    /// Bytes of the pages.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Bytes of a page of memory.
pub fn memory_page_bytes() -> usize {
    // SAFETY: no pointers are involved.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).ok().filter(|bytes| bytes.is_power_of_two()).unwrap_or(4096)
}

/// The whole mapping, for what is asked of the kernel about its pages. Bytes are not read through it.
#[derive(Clone, Debug)]
pub struct Window {
    pub(super) shared: Arc<Shared>,
}

impl Window {
    /// Whether the file could not give a page: it is not used any more.
    pub fn failed(&self) -> bool {
        self.shared.watched.failed()
    }

    /// Marks the mapping as failed, because the kernel could not read it.
    pub fn fail(&self) {
        self.shared.watched.fail();
    }

    /// What is known about which pages are in memory.
    pub fn residency(&self) -> &Residency {
        &self.shared.residency
    }

    /// The pages that hold these bytes of the file. Panics beyond its end.
    pub fn extent(&self, bytes: Range<usize>) -> Extent {
        self.shared.extent(bytes)
    }

    /// Which pages of a range of the file (on page boundaries) are in memory: one number for each, odd if it is.
    pub fn look(&self, bytes: Range<usize>, into: &mut Vec<u8>) -> io::Result<()> {
        let extent = self.extent(bytes);
        into.clear();
        into.resize(extent.bytes.div_ceil(memory_page_bytes()), 0);
        // SAFETY: the range lies in the mapping, which `shared` keeps; `into` has a byte for each of its pages.
        let done =
            unsafe { libc::mincore(extent.start as *mut libc::c_void, extent.bytes, into.as_mut_ptr()) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
