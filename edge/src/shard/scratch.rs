//! A directory for a test, removed when the test is over.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The directory.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// A new empty one, on a disk if there is one.
    pub(crate) fn new(name: &str) -> Self {
        let usual = std::env::temp_dir();
        let elsewhere = super::medium::Medium::of(&usual).is_memory();
        Scratch::below(if elsewhere { Path::new("/var/tmp") } else { &usual }, name)
    }

    /// A new empty one in this directory.
    pub(crate) fn below(directory: &Path, name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!("edge-{name}-{}-{unique}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
