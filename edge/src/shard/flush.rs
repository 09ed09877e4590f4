//! Which files of shards are to be flushed, and what is known to be on the disk since; and which errors say nothing of the
//! disk. Flushes nothing itself.
#![forbid(unsafe_code)]

use super::set::{Shard, Writer};
use nix::errno::Errno;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// A shard that is to be flushed.
pub struct ToFlush {
    /// Its number.
    pub number: usize,
    /// Where its file should be.
    pub path: PathBuf,
    /// Its file, opened when the shard was: so it is told of every failure to write since, also of one that others were
    /// told of meanwhile.
    pub file: Arc<File>,
}

impl Writer {
    /// The shards written since the last call, for flushing them; what became of each is to be told to [`Writer::flushed`],
    /// [`Writer::not_flushed`] or [`Writer::fail`], before this is called again.
    pub fn dirty(&mut self) -> Vec<ToFlush> {
        self.those_to_flush(false)
    }

    /// The same of all shards in use, to bring all that is in them to the disk.
    pub fn files(&mut self) -> Vec<ToFlush> {
        self.those_to_flush(true)
    }

    fn those_to_flush(&mut self, all: bool) -> Vec<ToFlush> {
        let changes = self.changes.count();
        let one = |(number, shard): (usize, &mut Shard)| {
            let writer = shard.writer.as_mut().ok()?;
            let is_clean = writer.dirty().is_none() && !shard.put_off;
            shard.flushing = changes;
            if is_clean {
                shard.flushed = changes;
            }
            let (path, file) = (writer.path.clone(), Arc::clone(&writer.flusher));
            (all || !is_clean).then_some(ToFlush { number, path, file })
        };
        self.shards.iter_mut().enumerate().filter_map(one).collect()
    }

    /// The file of a shard was flushed, as [`Writer::dirty`] had asked.
    pub fn flushed(&mut self, number: usize) {
        if let Some(shard) = self.shards.get_mut(number) {
            (shard.flushed, shard.put_off) = (shard.flushing, false);
        }
    }

    /// It was not, and its disk was not asked: it is among those to be flushed until it was, and has no checkpoint.
    pub fn not_flushed(&mut self, number: usize) {
        if let Some(shard) = self.shards.get_mut(number) {
            shard.put_off = true;
        }
    }
}

/// Whether an error of opening or looking at a file says nothing of it or its disk: this process or the machine is short
/// of something, or was interrupted, and may have better luck later.
pub fn is_passing(error: &io::Error) -> bool {
    const PASSING: [Errno; 6] =
        [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ENOBUFS, Errno::EAGAIN, Errno::EINTR];
    error.raw_os_error().is_some_and(|error| PASSING.contains(&Errno::from_raw(error)))
}
