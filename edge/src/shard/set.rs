//! Several shards behind one writer and one kind of reader: which shard a key belongs to, and what the rest of
//! the node sees of them. Knows no format and no segment.
//!
//! A key's hash picks one of [`HOMES`] places, and each place belongs to the live shard with the highest score for it
//! (weighted rendezvous hashing: Thaler and Ravishankar 1998, weights after Schindelhauer and Schomaker 2005).
//! So a shard gets its share by size; when one goes, only its places move, and each of them to where it would
//! have been without it. The scores hang on the random id in the shard file, not on the order in the configuration.
//!
//! All records of an object are in one shard: the numbers of large objects carry the shard's number. A record that
//! was stored when its key had another home is never found and is dropped when its key is stored or removed again.
#![forbid(unsafe_code)]

use super::accounts::ShardStatus;
use super::append::{Body, Label};
use super::home::Home;
use super::inspect::Inspected;
use super::layout::Geometry;
use super::left::Left;
use super::missed::{Changes, Missed};
use super::purge_log::Owner;
pub use super::reader::Reader;
use super::shadow::{Estimates, Original, Shadow};
use super::sweep::Sweeper;
use super::{
    Meaning, OpenError, Opened, Options, Pinned, PutError, Usage, layout, read, recover, store, sweep,
};
use crate::sys::mapping::Window;
use crate::{clock, limits};
use bytes::Bytes;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// Places a hash can pick: the share of a shard is exact to 1/4096.
const HOMES: usize = 4096;
/// A place without a shard.
const NOWHERE: u8 = u8::MAX;
/// Where the shard's number stands in an object's number.
pub(super) const SHARD_SHIFT: u32 = layout::OBJECT_BITS;

const _: () = assert!(limits::SHARDS_MAX < NOWHERE as usize && limits::SHARDS_MAX <= 1 << (64 - SHARD_SHIFT));

/// Which shard each place belongs to. Written by the writer, read by everybody.
pub(super) struct Homes(Box<[AtomicU8]>);

impl Homes {
    fn new() -> Self {
        Homes((0..HOMES).map(|_| AtomicU8::new(NOWHERE)).collect())
    }

    /// The number of the shard for a hash. The bits are those that choose neither tag nor bucket in the index.
    #[inline]
    pub(super) fn of(&self, hash: u64) -> usize {
        self.0[(hash >> 16) as usize % HOMES].load(Relaxed).into()
    }

    /// Gives each place to the live shard with the highest score: `(number, id, weight)`.
    fn share_out(&self, live: &[(usize, u64, u64)]) {
        for (place, home) in self.0.iter().enumerate() {
            let score =
                |&(_, id, weight): &(usize, u64, u64)| -(weight as f64) / layout::unit(id, place as u64).ln();
            let best = live.iter().max_by(|a, b| score(a).total_cmp(&score(b)));
            home.store(best.map_or(NOWHERE, |&(number, ..)| number as u8), Relaxed);
        }
    }
}

/// One shard as the writer has it.
pub(super) struct Shard {
    pub(super) options: Options,
    pub(super) opened: Opened,
    /// Else why it is not in use.
    pub(super) writer: Result<store::Writer, String>,
    /// Where one lay that failed while it was in use, which is still ours, and the number of its run.
    pub(super) left: Option<(Home, u64)>,
    /// What such a one has missed.
    pub(super) missed: Option<Missed>,
    /// Whether it is being taken into use again.
    pub(super) reopening: bool,
    /// How many changes had been made when its last flush began, and when the one began that runs.
    pub(super) flushed: u64,
    pub(super) flushing: u64,
    /// Whether a flush was due that was not begun.
    pub(super) put_off: bool,
}

impl Shard {
    fn new(options: &Options, writer: Result<store::Writer, String>, opened: Opened) -> Self {
        let options = options.clone();
        let (left, missed) = (None, None);
        let (reopening, put_off) = (false, false);
        Shard { options, opened, writer, left, missed, reopening, flushed: 0, flushing: 0, put_off }
    }
}

/// One worker's side of a shard that was opened later, see [`Reader::take`].
pub struct ShardReader {
    pub(super) number: usize,
    pub(super) reader: read::Reader,
}

impl fmt::Debug for ShardReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardReader").field("number", &self.number).finish_non_exhaustive()
    }
}

/// Bytes of a segment of a new shard, by the bytes of the shard.
pub(super) type Cut = fn(u64) -> usize;

/// The writing side of all shards; one, owned by control.
pub struct Writer {
    pub(super) cut: Cut,
    pub(super) meaning: Meaning,
    shadow: Shadow,
    pub(super) changes: Changes,
    pub(super) shards: Vec<Shard>,
    homes: Arc<Homes>,
    pub(super) sweeper: Option<Sweeper>,
}

/// Opens all shards at once. One that cannot be used for reasons of its disk is left out, as long as another can;
/// one that the operator must look at (foreign, of another version, in use by another process) is refused.
pub(super) fn open(shards: &[Options], cut: Cut) -> Result<(Writer, Vec<Reader>, Opened), OpenError> {
    assert!((1..=limits::SHARDS_MAX).contains(&shards.len()));
    put_together(shards, cut, open_each(shards, cut))
}

/// An empty store of one shard in memory, for tests of what uses stores.
#[cfg(test)]
pub(crate) fn simulated(segment_bytes: usize, segments: usize, readers: usize) -> (Writer, Vec<Reader>) {
    let image = vec![0; segment_bytes * segments];
    let disk = recover::Simulated { image: &image, segment_bytes, segments, index_entries: 1024, readers };
    let options = Options { readers, ..Options::default() };
    let opened = vec![Ok(recover::open_simulated(&disk))];
    let (writer, readers, _) = put_together(&[options], limits::segment_bytes, opened).expect("it is there");
    (writer, readers)
}

fn put_together(
    shards: &[Options],
    cut: Cut,
    all: Vec<OneOpened>,
) -> Result<(Writer, Vec<Reader>, Opened), OpenError> {
    let any = all.iter().any(Result::is_ok);
    let mut list = Vec::new();
    let mut sides: Vec<Vec<Option<read::Reader>>> = (0..shards[0].readers).map(|_| Vec::new()).collect();
    for (options, one) in shards.iter().zip(all) {
        let (writer, readers, opened) = match one {
            Ok((writer, readers, opened)) => (Ok(writer), readers, opened),
            Err(error) if error.of_disk && any => {
                tracing::error!(%error, "shard left out, the others serve");
                (Err(error.to_string()), Vec::new(), Opened::default())
            }
            Err(error) => return Err(error),
        };
        let mut readers = readers.into_iter();
        sides.iter_mut().for_each(|side| side.push(readers.next()));
        list.push(Shard::new(options, writer, opened));
    }
    let homes = Arc::new(Homes::new());
    let (shadow, samplers) = Shadow::new(original(shards, cut), shards[0].readers);
    let meaning = Meaning::default();
    let changes = Changes::default();
    let mut writer = Writer { cut, meaning, shadow, changes, shards: list, homes, sweeper: None };
    writer.forget_what_missed_something();
    writer.regroup();
    let mut sum = Opened { clean: true, ..Opened::default() };
    writer.shards.iter().filter(|s| s.writer.is_ok()).for_each(|shard| sum.add(&shard.opened));
    let reader = |(side, sampler): (Vec<_>, _)| Reader {
        shards: side.into(),
        homes: Arc::clone(&writer.homes),
        sampler,
    };
    let readers = sides.into_iter().zip(samplers).map(reader).collect();
    Ok((writer, readers, sum))
}

/// All shards as one store, for its miniatures.
fn original(shards: &[Options], cut: Cut) -> Original {
    let mut sum = Original { capacity: 0, segments: 0, entries: 0 };
    for options in shards {
        let segment_bytes = cut(options.size_bytes);
        let segments = options.size_bytes / segment_bytes as u64;
        sum.segments += segments;
        sum.capacity += segments * Geometry::new(segment_bytes, 1).records_bytes() as u64;
        sum.entries += options.index_entries() as u64;
    }
    sum
}

pub(super) type OneOpened = Result<(store::Writer, Vec<read::Reader>, Opened), OpenError>;

/// Each shard on a thread of its own: their disks work at the same time.
fn open_each(shards: &[Options], cut: Cut) -> Vec<OneOpened> {
    let open_one =
        |options: &Options| recover::open(options, cut(options.size_bytes), options.index_entries());
    match shards {
        [only] => vec![open_one(only)],
        several => std::thread::scope(|scope| {
            let threads: Vec<_> =
                several.iter().map(|options| scope.spawn(move || open_one(options))).collect();
            threads.into_iter().map(|thread| thread.join().expect("opening does not panic")).collect()
        }),
    }
}

impl Writer {
    /// Empties shards that have not seen the newest era: while they were away, something they hold may have been
    /// removed or replaced.
    pub(super) fn forget_what_missed_something(&mut self) {
        let newest = self.live().map(|(_, writer)| writer.era().0).max().unwrap_or(0);
        for shard in &mut self.shards {
            let Ok(writer) = &mut shard.writer else { continue };
            if writer.era().0 < newest && shard.opened.objects > 0 {
                let path = shard.options.path.display();
                tracing::warn!(%path, "emptied: the other shards were used without this one meanwhile");
                writer.clear();
                shard.opened.objects = 0;
            }
        }
    }

    /// After the set of live shards has changed: a new era on their disks, and a home for every key. A shard that
    /// cannot be written fails, and the rest begins again.
    pub(super) fn regroup(&mut self) {
        loop {
            let newest = self.live().map(|(_, writer)| writer.era().0).max().unwrap_or(0);
            let members = self.live().fold(0, |members, (_, writer)| members ^ writer.id);
            let same = self.live().all(|(_, writer)| writer.era() == (newest, members));
            // Never one that a set of other shards has had, of which none is here.
            let next = (newest + 1).max(clock::unix_ms());
            let mut refused = None;
            for (number, shard) in self.shards.iter_mut().enumerate().filter(|_| !same) {
                if let Ok(writer) = &mut shard.writer
                    && let Err(error) = writer.set_era((next, members))
                {
                    refused = Some((number, error));
                }
            }
            match refused {
                Some((number, error)) => self.put_out(number, format!("cannot be written: {error}")),
                None => break,
            }
        }
        let live: Vec<_> = self
            .live()
            .map(|(number, writer)| (number, writer.id, writer.geometry.segments as u64))
            .collect();
        self.homes.share_out(&live);
    }

    pub(super) fn live(&self) -> impl Iterator<Item = (usize, &store::Writer)> {
        let numbered = self.shards.iter().enumerate();
        numbered.filter_map(|(number, shard)| Some((number, shard.writer.as_ref().ok()?)))
    }

    fn live_mut(&mut self) -> impl Iterator<Item = &mut store::Writer> {
        self.shards.iter_mut().filter_map(|shard| shard.writer.as_mut().ok())
    }

    fn shard(&mut self, number: usize) -> Option<&mut store::Writer> {
        self.shards.get_mut(number)?.writer.as_mut().ok().filter(|writer| !writer.map.failed())
    }

    /// A number for the chunks of a new large object whose key has this hash, never used before, also across
    /// restarts. Of an object that has no shard it is no shard's, so that nothing is ever stored under it.
    pub fn new_object(&mut self, hash: u64) -> u64 {
        let number = self.homes.of(hash);
        let object = self.shard(number).map(|shard| tagged(shard.new_object(), number));
        object.unwrap_or(tagged(0, NOWHERE.into()))
    }

    /// Stores an object and publishes it, replacing records of the same key for which `replaces(old meta)` holds, and
    /// any with the same discriminator. A large object whose chunks are said to be all there, and are not (any more),
    /// does not fit the store: [`PutError::TooLarge`].
    pub fn put(
        &mut self,
        label: &Label,
        mut body: Body,
        mut replaces: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), PutError> {
        let home = self.homes.of(label.hash);
        if let Body::Chunks { object, .. } | Body::Partial { object, .. } = &mut body {
            let (shard, number) = untagged(*object);
            // The key may have got another home since its chunks were begun.
            if shard != home {
                return Err(PutError::NoShard);
            }
            *object = number;
        }
        self.shard(home).ok_or(PutError::NoShard)?.put(label, body, &mut replaces)?;
        self.note_change(label.hash);
        self.play_stored(label, body);
        self.supersede(home, label, replaces);
        Ok(())
    }

    /// Stores one chunk of a large object; it can be read at once by [`Reader::chunk`].
    pub fn put_chunk(&mut self, object: u64, chunk: u32, pieces: &[Bytes]) -> Result<(), PutError> {
        let (number, object) = untagged(object);
        self.shard(number).ok_or(PutError::NoShard)?.put_chunk(object, chunk, pieces)
    }

    /// A large object of which chunks may be stored gets no head, and no more of them: they are nothing worth keeping.
    pub fn give_up(&mut self, object: u64) {
        let (number, object) = untagged(object);
        if let Some(shard) = self.shard(number) {
            shard.give_up(object);
        }
    }

    /// Whether this chunk of a large object is there.
    pub fn has_chunk(&self, object: u64, chunk: u32) -> bool {
        self.of(object).is_some_and(|(shard, object)| shard.has_chunk(object, chunk))
    }

    /// Whether chunks from number 0 on are there that together are so long.
    pub fn complete(&self, object: u64, object_bytes: u64) -> bool {
        self.of(object).is_some_and(|(shard, object)| shard.complete(object, object_bytes))
    }

    /// The shard of a large object, and the object's number there.
    fn of(&self, object: u64) -> Option<(&store::Writer, u64)> {
        let (number, object) = untagged(object);
        Some((self.shards.get(number)?.writer.as_ref().ok()?, object))
    }

    /// Drops from the other shards what a record just stored takes the place of.
    fn supersede(&mut self, home: usize, label: &Label, mut replaces: impl FnMut(&[u8]) -> bool) {
        for (number, shard) in self.shards.iter_mut().enumerate() {
            if let (true, Ok(writer)) = (number != home, &mut shard.writer) {
                writer.supersede(label, &mut replaces);
            }
        }
    }

    /// Reads a record as a worker would (for validation and refresh). The result must be dropped before the
    /// next call that stores.
    pub fn lookup(&self, hash: u64, key: &[u8], accept: impl FnMut(&[u8]) -> bool) -> Option<Pinned> {
        let number = self.homes.of(hash);
        let shard = self.shards.get(number)?.writer.as_ref().ok()?;
        Some(shard.lookup(hash, key, accept)?.of_shard((number as u64) << SHARD_SHIFT))
    }

    /// Removes all records of a key; says how many. They stay away if the process is killed right after.
    pub fn remove(&mut self, hash: u64, key: &[u8]) -> u64 {
        self.shadow.removed(hash, now_s());
        self.note_change(hash);
        self.live_mut().map(|writer| writer.remove(hash, key)).sum()
    }

    /// Removes the records of a key whose meta `wanted` takes; says how many.
    pub fn remove_if(&mut self, hash: u64, key: &[u8], wanted: impl Fn(&[u8]) -> bool) -> u64 {
        self.note_change(hash);
        self.live_mut().map(|writer| writer.remove_if(hash, key, &wanted)).sum()
    }

    /// The directories of the shards in use in which files can be written, and whose purge log is to be there.
    pub fn states(&self) -> Vec<(PathBuf, Owner)> {
        self.live().map(|(_, writer)| (writer.home.state.clone(), writer.owner())).collect()
    }

    /// The purge log beside a shard is on disk and goes with what is stored from now on. `shard` is of its [`Owner`].
    ///
    /// # Errors
    /// The shard's file cannot be written.
    pub fn set_log(&mut self, shard: u64, log: u64) -> std::io::Result<()> {
        let mut outdated = self.live_mut().filter(|writer| writer.id == shard && writer.owner().log != log);
        outdated.try_for_each(|writer| writer.set_log(log))
    }

    /// All records of a key that are found, for an operator who asks.
    pub fn inspect(&self, hash: u64, key: &[u8]) -> Vec<Inspected> {
        let home = self.homes.of(hash);
        let shard = self.shards.get(home).and_then(|shard| shard.writer.as_ref().ok());
        let mut records = shard.map_or(Vec::new(), |writer| writer.inspect(hash, key));
        records.iter_mut().for_each(|record| record.shard = home);
        records
    }

    /// When and why a record of this hash had to leave, if that is remembered.
    pub fn left(&self, hash: u64) -> Option<Left> {
        self.live().filter_map(|(_, writer)| writer.left(hash)).max_by_key(|left| left.unix_s)
    }

    /// Sets what the meta bytes of records mean. At first they say nothing, see [`Meaning::default`].
    pub fn set_meaning(&mut self, meaning: Meaning) {
        self.meaning = meaning;
        self.live_mut().for_each(|writer| writer.meaning = meaning);
    }

    /// Plays the requests that readers have sampled in stores of other sizes, see [`super::shadow`]. `lookups` and
    /// `hits` are those of all keys since the start.
    pub fn replay(&mut self, lookups: u64, hits: u64) {
        self.shadow.replay(lookups, hits, now_s());
    }

    /// What stores of other sizes would do.
    pub fn estimates(&self) -> Estimates {
        self.shadow.estimates()
    }

    fn play_stored(&mut self, label: &Label, body: Body) {
        let body_bytes = match body {
            Body::Whole(pieces) => pieces.iter().map(|piece| piece.len() as u64).sum(),
            Body::Chunks { bytes, .. } => bytes,
            // Another store may have more or less of it.
            Body::Partial { .. } => return,
        };
        let Label { hash, key, meta, head } = *label;
        let bytes = (layout::HEADER_BYTES + key.len() + meta.len() + head.len()) as u64 + body_bytes;
        self.shadow.stored(hash, bytes, (self.meaning.until_s)(meta), now_s());
    }

    /// Usage now, of all shards together.
    pub fn usage(&self) -> Usage {
        let mut sum = Usage::default();
        self.live().for_each(|(_, writer)| sum.add(&writer.usage()));
        sum
    }

    /// Bytes of the smallest shard: an object lies in one shard, and nobody knows yet in which.
    pub fn smallest_shard_bytes(&self) -> u64 {
        self.live().map(|(_, writer)| writer.geometry.file_bytes()).min().unwrap_or(0)
    }

    /// Starts the thread that finds out which pages of the shards leave memory, see [`super::sweep`]; it ends with
    /// this writer.
    pub fn sweep(&mut self) -> std::io::Result<()> {
        self.sweeper = Some(sweep::spawn(self.windows())?);
        Ok(())
    }

    pub(super) fn windows(&self) -> Vec<Window> {
        self.live().map(|(_, writer)| writer.window()).collect()
    }

    /// Each shard, in the order of the configuration.
    pub fn shards(&self) -> impl Iterator<Item = ShardStatus> {
        self.shards.iter().map(|shard| ShardStatus {
            path: shard.options.path.clone(),
            size_bytes: shard.options.size_bytes,
            opened: shard.opened.clone(),
            placed: shard.writer.as_ref().map(|writer| writer.placed.clone()).unwrap_or_default(),
            state: shard.writer.as_ref().map(store::Writer::usage).map_err(String::clone),
        })
    }

    /// The checkpoints of a clean stop: where to write each and its bytes. Nothing may be stored afterwards.
    /// The caller flushes the shard files, and then writes these to their paths with a temporary name and a rename.
    pub fn checkpoints(&mut self) -> Vec<(PathBuf, Vec<u8>)> {
        let on_disk = self.shards.iter_mut().filter(|shard| !shard.put_off);
        let writers = on_disk.filter_map(|shard| shard.writer.as_mut().ok());
        writers.filter(|writer| !writer.map.failed()).map(store::Writer::checkpoint).collect()
    }
}

/// Unix seconds.
fn now_s() -> u32 {
    u32::try_from(clock::now().unix_s).unwrap_or(u32::MAX)
}

fn tagged(object: u64, number: usize) -> u64 {
    object | (number as u64) << SHARD_SHIFT
}

pub(super) fn untagged(object: u64) -> (usize, u64) {
    ((object >> SHARD_SHIFT) as usize, object & ((1 << SHARD_SHIFT) - 1))
}
