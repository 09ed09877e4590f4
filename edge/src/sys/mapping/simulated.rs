//! A disk in memory, in the place of a mapped file: what tests of crashes open, and look at.

use super::{Appender, LockedDirectory, PAGE_BYTES, Shape, Unserved, Watched};
use memmap2::MmapRaw;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

impl Unserved {
    /// A mapping of memory that holds a copy of `image`, in the place of a file.
    pub fn simulated(image: &[u8], shape: Shape) -> Self {
        use std::sync::OnceLock;
        static DIRECTORY: OnceLock<Arc<LockedDirectory>> = OnceLock::new();
        let lock = || File::open("/dev/null").expect("it can always be opened");
        let directory = || Arc::new(LockedDirectory::new(PathBuf::new(), lock()));
        let mut map = memmap2::MmapMut::map_anon(shape.file_bytes()).expect("little memory");
        map.copy_from_slice(image);
        let map = MmapRaw::from(map);
        let watched = Watched::new(map.as_ptr(), shape.file_bytes(), PAGE_BYTES).expect("few at once");
        let sent_from = MmapRaw::from(memmap2::MmapMut::map_anon(PAGE_BYTES).expect("little memory"));
        let directory = Arc::clone(DIRECTORY.get_or_init(directory));
        Unserved { watched, map, sent_from, shape, directory }
    }

    /// The lock that it has.
    pub fn directory(&self) -> Arc<LockedDirectory> {
        Arc::clone(&self.directory)
    }
}

impl Appender {
    /// All bytes as they are.
    pub fn image(&self) -> &[u8] {
        let bytes = self.shared.shape.file_bytes();
        // SAFETY: the whole mapping. Only the appender changes bytes or words, and in a test that looks at them its only
        // reader is on the same thread.
        unsafe { std::slice::from_raw_parts(self.shared.map.as_ptr(), bytes) }
    }
}
