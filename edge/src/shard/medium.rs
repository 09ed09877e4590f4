//! What a shard lies on, as far as it matters here: whether its pages can leave memory at all.
#![forbid(unsafe_code)]

use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use std::path::Path;

/// Whether the pages of files in this directory stay in memory whatever happens: it is tmpfs, and there is no swap. What
/// cannot be told is taken for a disk. Swap that is turned on later is not noticed; pages that went there are then waited
/// for.
pub(crate) fn stays_in_memory(directory: &Path) -> bool {
    let is_tmpfs = statfs(directory).is_ok_and(|stat| stat.filesystem_type() == TMPFS_MAGIC);
    is_tmpfs && std::fs::read_to_string("/proc/swaps").is_ok_and(|swaps| !has_swap(&swaps))
}

/// From `/proc/swaps`: a headline, then a line for each area.
fn has_swap(swaps: &str) -> bool {
    swaps.lines().nth(1).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::scratch::Scratch;
    use crate::shard::{Body, Label, Options, open};
    use bytes::Bytes;

    #[test]
    fn swap_is_seen() {
        assert!(!has_swap("Filename Type Size Used Priority\n"));
        assert!(has_swap("Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n"));
        assert!(!stays_in_memory(Path::new("/proc")) && !stays_in_memory(Path::new("/nowhere")));
    }

    #[test]
    fn what_lies_on_tmpfs_is_believed_at_once_after_it_is_opened_again() {
        let scratch = Scratch::below(Path::new("/dev/shm"), "medium");
        if !stays_in_memory(scratch.path()) {
            eprintln!("SKIPPED what_lies_on_tmpfs: /dev/shm is no tmpfs, or there is swap");
            return;
        }
        let options = [Options { path: scratch.path().into(), readers: 1, ..Options::default() }];
        let (mut writer, readers, _) = open(&options).unwrap();
        writer
            .put(&Label::new(9, b"k", &[], &[]), Body::Whole(&[Bytes::from(vec![1; 50_000])]), |_| false)
            .unwrap();
        drop((writer, readers));
        let (writer, readers, opened) = open(&options).unwrap();
        assert_eq!((opened.objects, writer.usage().residency_bytes), (1, 0));
        let found = readers[0].try_lookup(9, b"k", |_| true).expect("nothing to populate");
        assert_eq!(found.unwrap().body(), vec![1; 50_000]);
    }
}
