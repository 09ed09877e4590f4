//! Shards that leave and come back while the store is in use: taking one out that has failed, and taking it in again with
//! what its disk still holds, but for what was changed elsewhere meanwhile.
//!
//! Coming back has three steps: the writer lets go of the file and hands out what is known ([`Writer::begin_reopening`]);
//! the file is scanned, on a thread of its own, for that may take minutes ([`Reopening::run`]); the writer takes in what
//! was found ([`Writer::end_reopening`]). What changes during the scan is noted like all before.
#![forbid(unsafe_code)]

use super::home::Home;
use super::missed::Missed;
use super::set::{OneOpened, ShardReader, Writer};
use super::{Options, recover, rescue};
use std::path::Path;

/// A shard that is being taken into use again.
pub struct Reopening {
    number: usize,
    options: Options,
    segment_bytes: usize,
    /// Of one that failed while it was in use: where it lay, its run, and what it has missed since.
    left: Option<((Home, u64), Missed)>,
}

/// What became of it.
pub struct Reopened {
    number: usize,
    opened: OneOpened,
}

impl Reopened {
    /// Of one whose scan did not end.
    pub fn broken_off(number: usize) -> Self {
        let what = "its scan was broken off";
        Reopened { number, opened: Err(recover::failed(Path::new(""), what, "see the log, and try again")) }
    }
}

impl Reopening {
    /// Finds out what the file holds, and drops what it has missed. Blocks until that is on the disk.
    pub fn run(self) -> Reopened {
        let Reopening { number, options, segment_bytes, left } = self;
        let entries = options.index_entries();
        let opened = match left {
            None => recover::open(&options, segment_bytes, entries),
            Some((left, missed)) => rescue::open(&options, left, segment_bytes, entries).and_then(
                |(mut writer, readers, mut opened)| {
                    writer.forget(&missed)?;
                    opened.objects = writer.counts.objects;
                    Ok((writer, readers, opened))
                },
            ),
        };
        Reopened { number, opened }
    }
}

impl Writer {
    /// Notes that what is stored under this hash changes.
    pub(super) fn note_change(&mut self, hash: u64) {
        self.changes.note(hash);
        let missed = self.shards.iter_mut().filter_map(|shard| shard.missed.as_mut());
        missed.for_each(|missed| missed.note(hash));
    }

    /// Takes a shard out of use. Readers find nothing there from now on.
    pub(super) fn put_out(&mut self, number: usize, why: String) {
        let shard = &mut self.shards[number];
        let Ok(writer) = &mut shard.writer else { return };
        tracing::error!(path = %shard.options.path.display(), why, "shard out of use");
        match writer.map.release() {
            Ok(()) => {
                shard.missed = Some(Missed::since(shard.flushed, &self.changes, &writer.find.index));
                shard.left = Some((writer.home.clone(), writer.run));
            }
            // Its readers keep the file and its lock for as long as the process lives.
            Err(error) => {
                tracing::warn!(%error, "its file stays mapped: it can be used again after a restart")
            }
        }
        shard.writer = Err(why);
    }

    /// A shard is known to have failed. Says whether that is news.
    pub fn fail(&mut self, number: usize, why: String) -> bool {
        let news = self.shards.get(number).is_some_and(|shard| shard.writer.is_ok());
        if news {
            self.put_out(number, why);
            self.regroup();
        }
        news
    }

    /// Takes shards out of use whose file could not be read or written through its mapping. Says how many there were.
    pub fn watch(&mut self) -> u64 {
        let failed: Vec<usize> =
            self.live().filter(|(_, writer)| writer.map.failed()).map(|(number, _)| number).collect();
        let why = "its file was cut short, or its disk failed: see the kernel's log (dmesg)";
        failed.into_iter().map(|number| u64::from(self.fail(number, why.into()))).sum()
    }

    /// Begins to take a shard into use again that is out of use. What is returned is to be run on another thread, and its
    /// result to be given to [`Writer::end_reopening`].
    ///
    /// # Errors
    /// There is no such shard, or it is in use or about to be.
    pub fn begin_reopening(&mut self, number: usize) -> Result<Reopening, String> {
        let last = self.shards.len() - 1;
        let shard = self.shards.get_mut(number).ok_or_else(|| format!("the shards are 0 to {last}"))?;
        if shard.writer.is_ok() {
            return Err(format!("shard {number} is in use"));
        }
        if std::mem::replace(&mut shard.reopening, true) {
            return Err(format!("shard {number} is being opened already"));
        }
        shard.writer = Err("its file is being scanned, to take it into use again".into());
        Ok(Reopening {
            number,
            options: shard.options.clone(),
            segment_bytes: (self.cut)(shard.options.size_bytes),
            left: shard.left.clone().zip(shard.missed.clone()),
        })
    }

    /// The three steps in one.
    #[cfg(test)]
    pub(super) fn reopen(&mut self, number: usize) -> Result<Vec<ShardReader>, String> {
        let begun = self.begin_reopening(number)?;
        self.end_reopening(begun.run())
    }

    /// Takes it into use, if it could be opened. The readers are for the workers, in order.
    ///
    /// # Errors
    /// Why it could not; it stays out of use.
    pub fn end_reopening(&mut self, reopened: Reopened) -> Result<Vec<ShardReader>, String> {
        let Reopened { number, opened } = reopened;
        let newest = self.live().map(|(_, writer)| writer.era()).max();
        let shard = &mut self.shards[number];
        shard.reopening = false;
        let known = shard.missed.as_ref();
        let opened = opened.and_then(|(mut writer, readers, opened)| {
            if let Some(missed) = known {
                // What has changed since it was begun.
                writer.forget(missed)?;
                // So it is up to date, whatever its disk says.
                writer.catch_up(newest)?;
            }
            Ok((writer, readers, opened))
        });
        let (mut writer, readers, opened) = opened.map_err(|error| {
            let why = error.to_string();
            shard.writer = Err(why.clone());
            why
        })?;
        writer.meaning = self.meaning;
        if let Some(sweeper) = &self.sweeper {
            sweeper.add(writer.window());
        }
        (shard.writer, shard.opened) = (Ok(writer), opened);
        (shard.left, shard.missed, shard.flushed) = (None, None, self.changes.count());
        shard.put_off = false;
        self.forget_what_missed_something();
        self.regroup();
        Ok(readers.into_iter().map(|reader| ShardReader { number, reader }).collect())
    }
}
