//! Receive buffers that the kernel takes from as bytes arrive, so that an idle connection holds none.
//!
//! A provided-buffer ring (5.19): we put buffers in at the tail, completions say which was used.

use super::ring::Ring;
use io_uring::types::BufRingEntry;
use memmap2::MmapMut;
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

/// The buffers of one worker.
pub struct Buffers {
    entries: MmapMut,
    memory: MmapMut,
    count: u16,
    bytes_each: usize,
    tail: u16,
}

impl Buffers {
    /// `count` buffers (a power of two) of `bytes_each`, given to `ring` as `group`. Must live as long as
    /// the ring; both are fields of one worker, the ring dropped first.
    pub fn new(ring: &Ring, group: u16, count: u16, bytes_each: usize) -> io::Result<Self> {
        assert!(count.is_power_of_two(), "a buffer ring has a power of two of entries");
        let mut buffers = Buffers {
            entries: MmapMut::map_anon(count as usize * size_of::<BufRingEntry>())?,
            memory: memmap2::MmapOptions::new().len(count as usize * bytes_each).populate().map_anon()?,
            count,
            bytes_each,
            tail: 0,
        };
        // SAFETY: the mapping is page aligned, holds `count` entries, and outlives the ring (see above).
        unsafe {
            let address = buffers.entries.as_mut_ptr() as u64;
            ring.inner().submitter().register_buf_ring_with_flags(address, count, group, 0)?;
        }
        for id in 0..count {
            buffers.give_back(id);
        }
        Ok(buffers)
    }

    /// The first `len` bytes of a buffer a completion named.
    pub fn bytes(&self, id: u16, len: usize) -> &[u8] {
        let start = id as usize * self.bytes_each;
        &self.memory[start..start + len.min(self.bytes_each)]
    }

    /// As [`Buffers::bytes`], to be changed in place.
    pub fn bytes_mut(&mut self, id: u16, len: usize) -> &mut [u8] {
        let start = id as usize * self.bytes_each;
        &mut self.memory[start..start + len.min(self.bytes_each)]
    }

    /// Gives a buffer back to the kernel.
    pub fn give_back(&mut self, id: u16) {
        assert!(id < self.count, "the kernel only names buffers it was given");
        let base = self.entries.as_mut_ptr().cast::<BufRingEntry>();
        let slot = (self.tail & (self.count - 1)) as usize;
        let address = self.memory[id as usize * self.bytes_each..].as_ptr() as u64;
        // SAFETY: `slot` < `count` entries of the mapping; the kernel reads the entry only after the tail
        // store below.
        unsafe {
            let entry = &mut *base.add(slot);
            entry.set_addr(address);
            entry.set_len(self.bytes_each as u32);
            entry.set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lies in the first entry's reserved field, inside the mapping and aligned; both
        // sides access it atomically.
        unsafe {
            AtomicU16::from_ptr(BufRingEntry::tail(base).cast_mut()).store(self.tail, Ordering::Release)
        };
    }
}
