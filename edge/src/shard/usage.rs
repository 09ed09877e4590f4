//! What is in a shard and how much of it is in memory, in numbers for the status. Changes nothing.
#![forbid(unsafe_code)]

use super::store::Writer;
use crate::sys::mapping::Window;

impl Writer {
    /// What is asked of the kernel about the shard's pages, see [`super::sweep`].
    pub(super) fn window(&self) -> Window {
        self.map.window()
    }
}
