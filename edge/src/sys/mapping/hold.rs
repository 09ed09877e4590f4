//! Bringing the pages of a mapping into memory before anybody reads them, and keeping them there. Their bytes are not read
//! here.

use super::Unserved;
use memmap2::Advice;
use std::io;

impl Unserved {
    /// Keeps every page in memory from the time it comes there (`MLOCK_ONFAULT`, Linux 4.4). Of hugetlbfs that holds
    /// anyhow.
    ///
    /// # Errors
    /// The process may not lock that much.
    pub fn lock_on_fault(&self) -> io::Result<()> {
        // SAFETY: the range is the mapping of `self`; locking changes none of its bytes.
        let done = unsafe {
            libc::mlock2(
                self.map.as_ptr().cast(),
                self.shape.file_bytes(),
                libc::MLOCK_ONFAULT as libc::c_uint,
            )
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Brings the pages of a segment into memory, for user space and for sending. The pages of a hole come from the node of
    /// the CPU that this runs on.
    ///
    /// # Errors
    /// The file cannot give a page; or memory ran out.
    pub fn populate(&self, segment: usize) -> io::Result<()> {
        let (start, bytes) = (segment * self.shape.segment_bytes, self.shape.segment_bytes);
        // Read ahead in one go, where a disk is behind it; elsewhere this does nothing.
        self.map.advise_range(Advice::WillNeed, start, bytes)?;
        self.map.advise_range(Advice::PopulateRead, start, bytes)?;
        self.sent_from.advise_range(Advice::PopulateRead, start, bytes)
    }
}
