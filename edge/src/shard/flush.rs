//! Which files of shards are to be flushed, and what is known to be on the disk since. Flushes nothing itself.
#![forbid(unsafe_code)]

use super::set::{Shard, Writer};
use std::fs::File;
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
    /// The shards written since the last call, for flushing them; each that was is to be told to [`Writer::flushed`], before
    /// this is called again.
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
            let dirty = writer.dirty();
            shard.flushing = changes;
            if dirty.is_none() {
                shard.flushed = changes;
            }
            let (path, file) = (writer.path.clone(), Arc::clone(&writer.flusher));
            (all || dirty.is_some()).then_some(ToFlush { number, path, file })
        };
        self.shards.iter_mut().enumerate().filter_map(one).collect()
    }

    /// The file of a shard was flushed, as [`Writer::dirty`] had asked.
    pub fn flushed(&mut self, number: usize) {
        if let Some(shard) = self.shards.get_mut(number) {
            shard.flushed = shard.flushing;
        }
    }
}
