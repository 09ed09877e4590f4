//! What is in a shard and how much of it is in memory, in numbers for the status. Changes nothing.
#![forbid(unsafe_code)]

use super::Usage;
use super::store::Writer;
use crate::sys::mapping::Window;

impl Writer {
    /// What is asked of the kernel about the shard's pages, see [`super::sweep`].
    pub(super) fn window(&self) -> Window {
        self.map.window()
    }

    /// Usage now.
    pub fn usage(&self) -> Usage {
        let window = self.map.window();
        let residency = window.residency();
        let in_use = self.segments.sealed.len() + usize::from(self.segments.active.is_some());
        Usage {
            size_bytes: self.geometry.file_bytes(),
            used_bytes: (in_use * self.geometry.segment_bytes()) as u64,
            objects: self.counts.entries,
            index_entries_max: self.find.index.entries_max() as u64,
            index_bytes: self.find.index.bytes() as u64,
            residency_bytes: residency.bytes() as u64,
            memory_bytes: match residency.is_tracked() {
                true => residency.present_bytes(),
                false => self.geometry.file_bytes(),
            },
            evicted: self.counts.evicted,
            reclaimed_segments: self.counts.reclaimed_segments,
        }
    }
}
