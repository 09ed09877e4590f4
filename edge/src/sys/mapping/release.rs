//! Letting go of a file that has failed, while some may still read it: their memory stays, and is not the file's any more.

use super::Appender;
use std::io;
use std::sync::atomic::Ordering;

impl Appender {
    /// Marks the mapping as failed and shuts all segments; then puts empty memory in the place of both mappings. Whoever
    /// still holds a segment reads zeroes, which the mark tells them not to use, and the kernel finds nothing to send. So
    /// the file can be written by others from now on, and its cached pages can be dropped.
    ///
    /// # Errors
    /// There is no memory for it; the file is mapped still.
    pub fn release(&mut self) -> io::Result<()> {
        self.fail();
        self.shared.filled.iter().for_each(|filled| filled.store(0, Ordering::SeqCst));
        let bytes = self.shared.shape.file_bytes();
        let empty = |start: *mut u8, access: libc::c_int| {
            let how = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
            // SAFETY: the range is one of our two mappings, whole, which nobody unmaps before `Shared` is dropped. As where
            // a page is lost (see `fault`), what is lent out turns into zeroes, which are valid for plain bytes and for
            // atomics, after it was marked as failed; through the second mapping nothing is read but by the kernel.
            match unsafe { libc::mmap(start.cast(), bytes, access, how, -1, 0) } {
                libc::MAP_FAILED => Err(io::Error::last_os_error()),
                _ => Ok(()),
            }
        };
        empty(self.shared.map.as_mut_ptr(), libc::PROT_READ | libc::PROT_WRITE)?;
        empty(self.shared.sent_from.as_mut_ptr(), libc::PROT_NONE)
    }
}
