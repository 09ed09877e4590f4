//! Purges: numbered, put in force at once, and logged before they are acknowledged, so that nothing that was purged
//! is served again whatever happens. How they are compared with what is stored is in `proto::generations`, the log's
//! format in `shard::purge_log`.
//!
//! | named           | in force by                         | after a crash                                          |
//! |-----------------|-------------------------------------|--------------------------------------------------------|
//! | url             | removing its records                | the log: older records of the key are removed again    |
//! | all else, soft  | the table that every lookup looks at | the log: the table is made again                       |
//! | by a request    | as an url                            | as an url, but for what was logged too late            |
//!
//! What requests with unsafe methods invalidate (RFC 9111 section 4.4) is in the log as purges of URLs are, but no client waits
//! for that, and it is written once in `INVALIDATIONS_LOG_MS` for all of them. Only a loss of power in that time brings
//! any of it back: a process that dies leaves the removal in the store's file.
//!
//! Whoever purges at the same time shares one write and one fdatasync. A log that has grown long is written anew: the
//! words of the table, the last purges, and removals that the store's own file may not have on disk yet. Where the
//! log cannot be read, or is not there although the store holds something, nothing stored before is served: what
//! was purged is not known. Of several shards each has the whole log beside it, so that it is there whichever disk
//! fails; at the start the one that goes furthest counts, of those that are of this store and of its last run. A shard whose
//! log could not be written says so until it can: without the others' it counts as one whose log is missing.
#![forbid(unsafe_code)]

use super::reasons::Reason;
use super::{Node, disk, why};
use crate::clock;
use crate::limits;
use crate::proto::generations::{Table, Verdict};
use crate::proto::key;
use crate::proto::purge::{Class, Subject, Tags};
use crate::proto::stored::Meta;
use crate::shard;
use crate::shard::purge_log::{self, Cause, Item, LACKS, Owner, Purge, Replayed};
use crate::stats::Counter;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio_uring::fs::{File, OpenOptions};

/// The log's name, among the written files of each shard.
pub const FILE_NAME: &str = "purges";

/// Where a log lies, and beside which shard.
type Place = (PathBuf, Owner);

/// The purges found at the start.
pub struct Opened {
    table: Arc<Table>,
    places: Vec<Place>,
    id: u64,
    end: u64,
    replayed: Replayed,
}

impl Opened {
    /// No purge yet, and a log that is never written.
    #[cfg(test)]
    pub(super) fn nowhere() -> Self {
        Opened { table: Arc::default(), places: Vec::new(), id: 1, end: 0, replayed: first(&[]) }
    }

    /// The purges in force, for workers.
    pub fn table(&self) -> Arc<Table> {
        self.table.clone()
    }
}

/// Reads the log beside the shards, puts what it says in force, and begins a new one. Blocks; before the store is
/// served. Errors: those of reading and writing it.
pub fn open(writer: &mut shard::Writer) -> io::Result<Opened> {
    let places = places(writer);
    let mut logs = Vec::new();
    let mut why = "it is missing".to_owned();
    for (path, owner) in &places {
        match fs::read(path) {
            Ok(bytes) => match read(&bytes, path, *owner) {
                Ok(log) => logs.push(log),
                Err(what) => {
                    tracing::warn!("purge log {what}; it does not count, and is replaced");
                    why = what;
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(explain(path, &error)),
        }
    }
    let furthest = logs.into_iter().max_by_key(|(_, replayed)| replayed.sequence);
    let (table, mut replayed) = furthest.unwrap_or_else(|| match writer.usage().objects {
        0 => (Table::default(), first(&places)),
        _ => distrust(&places, &why),
    });
    for purge in &replayed.removals {
        remove(writer, purge);
    }
    let excess = replayed.history.len().saturating_sub(limits::PURGES_REMEMBERED);
    replayed.history.drain(..excess);
    // Later than all before it, and not below a number that was given out, whatever the clock says.
    let id = clock::unix_ms().max(last_log(&places) + 1).max(replayed.sequence);
    let mut end = 0;
    for (path, owner) in &places {
        let bytes = whole_log((id, *owner), replayed.sequence, &table, &replayed.history, &replayed.removals);
        end = bytes.len() as u64;
        let written = disk::replace_now(path, &bytes).and_then(|()| writer.set_log(owner.shard, id));
        written.map_err(|error| explain(path, &error))?;
    }
    Ok(Opened { table: Arc::new(table), id, end, replayed, places })
}

fn places(writer: &shard::Writer) -> Vec<Place> {
    let states = writer.states().into_iter();
    states.map(|(directory, owner)| (directory.join(FILE_NAME), owner)).collect()
}

fn explain(path: &Path, error: &io::Error) -> io::Error {
    let what = format!("purge log {}: {error}: check the disk and the access rights", path.display());
    io::Error::new(error.kind(), what)
}

/// The error says why it does not count.
fn read(bytes: &[u8], path: &Path, owner: Owner) -> Result<(Table, Replayed), String> {
    let contents = purge_log::read(bytes, owner).map_err(|error| format!("{}: {error}", path.display()))?;
    if contents.torn_bytes > 0 {
        tracing::info!(bytes = contents.torn_bytes, "purge log: the last write was not finished, dropped");
    }
    let table = Table::default();
    let replayed = purge_log::replay(contents.items, &table);
    replayed
        .map(|replayed| (table, replayed))
        .ok_or_else(|| format!("{}: of another version", path.display()))
}

/// Nothing that was stored before counts.
fn distrust(places: &[Place], why: &str) -> (Table, Replayed) {
    tracing::warn!(
        ?places,
        "purge log: {why}: what was purged is not known, so nothing stored before is served"
    );
    let (table, replayed) = (Table::default(), first(places));
    table.apply_to_everything(replayed.sequence);
    (table, replayed)
}

/// A log that begins now.
fn first(places: &[Place]) -> Replayed {
    let sequence = purge_log::first_sequence(clock::unix_ms(), last_log(places));
    Replayed { sequence, ..Replayed::default() }
}

fn last_log(places: &[Place]) -> u64 {
    purge_log::last_id(places.iter().map(|(_, owner)| owner.log))
}

fn remove(writer: &mut shard::Writer, purge: &Purge) -> u64 {
    let key = &purge.subject.bytes;
    let older = |meta: &[u8]| Meta::read(meta).is_none_or(|meta| meta.purges() < purge.sequence);
    writer.remove_if(key::hash(key), key, older)
}

/// A log that says all this.
fn whole_log<'a>(
    (id, owner): (u64, Owner),
    sequence: u64,
    table: &Table,
    history: impl IntoIterator<Item = &'a Purge>,
    removals: &[Purge],
) -> Vec<u8> {
    let mut items = vec![Item::Sequence(sequence), Item::Table(table.words())];
    let is_removal = |purge: &&Purge| removals.iter().any(|removal| removal.sequence == purge.sequence);
    items.extend(history.into_iter().filter(|purge| !is_removal(purge)).cloned().map(Item::Remembered));
    items.extend(removals.iter().cloned().map(Item::Purge));
    let mut bytes = purge_log::header(id, owner).to_vec();
    bytes.extend(purge_log::frame(id, bytes.len() as u64, &items));
    bytes
}

/// A purge that waits for the log. The error says what went wrong.
pub(super) type Logged = oneshot::Receiver<Result<(), String>>;

/// A purge the log has not taken yet, and whom to tell.
type Waiting = (Purge, Option<oneshot::Sender<Result<(), String>>>);

/// What became of a purge, apart from its being logged.
pub(super) struct Applied {
    /// Its number.
    pub(super) sequence: u64,
    /// Records that were removed; `None`: they are passed over from now on, and not counted.
    pub(super) removed: Option<u64>,
    /// What it was widened to for want of room.
    pub(super) widened: Option<Subject>,
    /// Tells when it will outlast a crash.
    pub(super) logged: Logged,
}

/// The purges of a running node.
pub(super) struct Purges {
    table: Arc<Table>,
    sequence: Rc<Cell<u64>>,
    history: RefCell<VecDeque<Purge>>,
    /// Hard purges of one URL that the store's file may not have on disk yet.
    removals: RefCell<Vec<Purge>>,
    waiting: RefCell<Vec<Waiting>>,
    wake: Notify,
    /// As `wake`, for what nobody waits for.
    unhurried: Notify,
    places: RefCell<Vec<Place>>,
    id: u64,
    /// Bytes of the longest log.
    end: Cell<u64>,
    settling: Cell<bool>,
    rewrite: Cell<bool>,
}

impl Purges {
    /// Goes on from what was found.
    pub(super) fn new(opened: Opened) -> Self {
        let Opened { table, places, id, end, replayed } = opened;
        Purges {
            table,
            sequence: Rc::new(Cell::new(replayed.sequence)),
            history: RefCell::new(replayed.history.into()),
            removals: RefCell::new(replayed.removals),
            waiting: RefCell::default(),
            wake: Notify::new(),
            unhurried: Notify::new(),
            places: places.into(),
            id,
            end: Cell::new(end),
            settling: Cell::new(false),
            rewrite: Cell::new(false),
        }
    }

    /// The number of the last purge.
    pub(super) fn sequence(&self) -> Rc<Cell<u64>> {
        self.sequence.clone()
    }

    /// What purges since `sequence` mean for a response.
    pub(super) fn judge(&self, sequence: u64, key: &[u8], tags: Tags<'_>) -> Verdict {
        self.table.judge(sequence, key, tags)
    }

    /// The remembered purges that name this key, or a tag of its records; the oldest first.
    pub(super) fn naming(&self, key: &[u8], metas: &[&[u8]]) -> Vec<Purge> {
        let history = self.history.borrow();
        history.iter().filter(|purge| why::names(purge, key, metas)).cloned().collect()
    }

    /// What purges mean for a record.
    pub(super) fn judge_record(&self, key: &[u8], meta: &[u8]) -> Verdict {
        self.table.judge_record(key, meta)
    }

    /// What requests have invalidated, as far as the log knows: keys, and when, Unix seconds.
    pub(super) fn invalidated(&self) -> Vec<(Vec<u8>, u64)> {
        let removals = self.removals.borrow();
        let by_request = removals.iter().filter(|removal| removal.cause == Cause::UnsafeRequest);
        by_request.map(|removal| (removal.subject.bytes.clone(), removal.unix_s)).collect()
    }

    fn number(&self, subject: Subject, soft: bool, cause: Cause) -> Purge {
        self.sequence.set(self.sequence.get() + 1);
        Purge { sequence: self.sequence.get(), unix_s: clock::now().unix_s, subject, soft, cause }
    }

    /// Hands the removal of a key to the log, without haste.
    fn record_invalidation(&self, key: &[u8]) {
        let subject = Subject { class: Class::Url, bytes: key.to_vec() };
        let purge = self.number(subject, false, Cause::UnsafeRequest);
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() >= limits::INVALIDATIONS_WAITING_MAX {
            // The disk does not keep up: the table remembers it, and the log is written anew from that.
            self.table.apply(purge.sequence, &purge.subject, false);
            self.rewrite.set(true);
            return;
        }
        self.removals.borrow_mut().push(purge.clone());
        waiting.push((purge, None));
        self.unhurried.notify_one();
    }

    /// Returns when there is something to log: at once for a purge, after a while for what nobody waits for.
    async fn due(&self) {
        let unhurried = async {
            self.unhurried.notified().await;
            tokio::time::sleep(Duration::from_millis(limits::INVALIDATIONS_LOG_MS)).await;
        };
        tokio::select! {
            () = self.wake.notified() => {}
            () = unhurried => {}
        }
    }

    /// Gives a purge its number and hands it to the log.
    fn record(&self, subject: Subject, soft: bool) -> (Purge, Logged) {
        let purge = self.number(subject, soft, Cause::Operator);
        let mut history = self.history.borrow_mut();
        if history.len() == limits::PURGES_REMEMBERED {
            history.pop_front();
        }
        history.push_back(purge.clone());
        let (tell, logged) = oneshot::channel();
        self.waiting.borrow_mut().push((purge.clone(), Some(tell)));
        self.wake.notify_one();
        (purge, logged)
    }

    /// The table takes over what only the log keeps from coming back.
    fn absorb_removals(&self) {
        for removal in self.removals.take() {
            self.table.apply(removal.sequence, &removal.subject, false);
        }
    }
}

/// Puts a purge in force: for the next lookup of every worker, and for fills that run.
pub(super) fn apply(node: &Node, subject: Subject, soft: bool) -> Applied {
    let (purge, logged) = node.purges.record(subject, soft);
    let (mut removed, mut widened) = (None, None);
    if purge.subject.class == Class::Url && !soft {
        let key = &purge.subject.bytes;
        removed = Some(node.invalidate(key::hash(key), key));
        node.purges.removals.borrow_mut().push(purge.clone());
    } else {
        widened = node.purges.table.apply(purge.sequence, &purge.subject, soft);
    }
    node.cells.add(Counter::Purges, 1);
    node.cells.add(Counter::Purged, removed.unwrap_or(0));
    Applied { sequence: purge.sequence, removed, widened, logged }
}

/// A request with an unsafe method has succeeded: what is stored under these keys goes, and does not come back.
pub(super) fn invalidate(node: &Node, keys: impl IntoIterator<Item = Vec<u8>>) {
    for key in keys {
        let hash = key::hash(&key);
        let removed = node.invalidate(hash, &key);
        node.not_stored(hash, Reason::Invalidated);
        // Where nothing was there to be removed a crash brings nothing back either, but what had to leave for want of room.
        if removed > 0 || node.writer().left(hash).is_some() {
            node.purges.record_invalidation(&key);
        }
    }
}

/// A shard has come into use: it gets its log, and those that are not in use go without.
pub(super) fn cover_shards(node: &Node) {
    *node.purges.places.borrow_mut() = places(&node.writer());
    node.purges.wake.notify_one();
}

/// One file of the log.
struct LogFile {
    path: PathBuf,
    owner: Owner,
    file: Option<File>,
    /// Where the next frame goes; 0: the file has to be written anew.
    end: u64,
}

/// The files that are to be written now: those known as they are, others with this end.
fn files_of(purges: &Purges, mut known: Vec<LogFile>, end: u64) -> Vec<LogFile> {
    let places = purges.places.borrow();
    let file = |(path, owner): &Place| {
        let same = |file: &LogFile| file.path == *path && file.owner.shard == owner.shard;
        match known.iter().position(same) {
            Some(at) => known.swap_remove(at),
            None => LogFile { path: path.clone(), owner: *owner, file: None, end },
        }
    };
    places.iter().map(file).collect()
}

/// Writes the log for as long as the thread runs.
pub(super) async fn keep_log(node: &Rc<Node>) {
    let purges = &node.purges;
    let mut files = files_of(purges, Vec::new(), purges.end.get());
    loop {
        purges.due().await;
        files = files_of(purges, files, 0);
        let batch = purges.waiting.take();
        let items: Vec<Item> = batch.iter().map(|(purge, _)| Item::Purge(purge.clone())).collect();
        let result = write(node, &mut files, &items).await;
        if let Err(error) = &result {
            node.cells.add(Counter::PurgesNotLogged, batch.len() as u64);
            tracing::error!(%error, "purges are in force and not logged: see whether the store's device is full");
        }
        for waiter in batch.into_iter().filter_map(|(_, waiter)| waiter) {
            // A client that has left is told nothing.
            let _ = waiter.send(result.as_ref().copied().map_err(ToString::to_string));
        }
        purges.end.set(files.iter().map(|log| log.end).max().unwrap_or(0));
        if purges.end.get() > limits::PURGE_LOG_BYTES_MAX {
            shorten(node);
        }
    }
}

/// Brings a batch to every disk that takes it. The error is that of the last one if none does.
async fn write(node: &Node, files: &mut [LogFile], items: &[Item]) -> io::Result<()> {
    let anew = node.purges.rewrite.take();
    let (mut result, mut lacking) = (Err(io::Error::other("there is no log")), Vec::new());
    for log in files {
        if anew {
            log.end = 0;
        }
        match write_one(node, log, items).await {
            Ok(()) => result = Ok(()),
            Err(error) => {
                tracing::warn!(%error, path = %log.path.display(), "purge log not written");
                lacking.push(log.owner.shard);
                result = result.or(Err(error));
            }
        }
    }
    // A shard whose log lacks what is acknowledged now must not be believed by that log, should the others be lost.
    let mut writer = node.writer.borrow_mut();
    result.and_then(|()| {
        lacking.into_iter().try_for_each(|shard| writer.set_log(shard, node.purges.id | LACKS))
    })
}

/// Writes a batch behind the others, or everything in a new file.
async fn write_one(node: &Node, log: &mut LogFile, items: &[Item]) -> io::Result<()> {
    let purges = &node.purges;
    if log.end > 0 {
        let appended = match items {
            [] => Ok(()),
            _ => append(purges.id, log, items).await,
        };
        match appended {
            Ok(()) => return Ok(()),
            // After a failed flush nobody knows what of the file is on disk.
            Err(error) => tracing::warn!(%error, "purge log: not written, tried again in a new file"),
        }
    }
    (log.file, log.end) = (None, 0);
    let bytes = whole_log(
        (purges.id, log.owner),
        purges.sequence.get(),
        &purges.table,
        purges.history.borrow().iter(),
        &purges.removals.borrow(),
    );
    let end = bytes.len() as u64;
    disk::replace(&log.path, bytes).await?;
    node.writer.borrow_mut().set_log(log.owner.shard, purges.id)?;
    log.end = end;
    Ok(())
}

async fn append(id: u64, log: &mut LogFile, items: &[Item]) -> io::Result<()> {
    let file = match &mut log.file {
        Some(file) => file,
        none => none.insert(OpenOptions::new().write(true).open(&log.path).await?),
    };
    let frame = purge_log::frame(id, log.end, items);
    let bytes = frame.len() as u64;
    let (written, _) = file.write_all_at(frame, log.end).await;
    written?;
    file.sync_data().await?;
    log.end += bytes;
    Ok(())
}

/// Has the log written anew, once what was removed from the store's file is on disk without it.
fn shorten(node: &Rc<Node>) {
    if node.purges.settling.replace(true) {
        if node.purges.end.get() > 2 * limits::PURGE_LOG_BYTES_MAX {
            node.purges.absorb_removals();
            node.purges.rewrite.set(true);
        }
        return;
    }
    let node = node.clone();
    tokio_uring::spawn(async move {
        let last = node.purges.sequence.get();
        match disk::settle(&node).await {
            Ok(()) => node.purges.removals.borrow_mut().retain(|removal| removal.sequence > last),
            Err(error) => {
                tracing::warn!(%error, "the store could not be flushed: the table of purges takes removals over");
                node.purges.absorb_removals();
            }
        }
        node.purges.settling.set(false);
        node.purges.rewrite.set(true);
        node.purges.wake.notify_one();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalidations_that_the_disk_does_not_keep_up_with_go_to_the_table() {
        let purges = Purges::new(Opened::nowhere());
        let before = purges.sequence.get();
        let key = |number: usize| format!("http://a/{number}").into_bytes();
        for number in 0..limits::INVALIDATIONS_WAITING_MAX + 2 {
            assert!(!purges.rewrite.get() || number > limits::INVALIDATIONS_WAITING_MAX);
            purges.record_invalidation(&key(number));
        }
        assert_eq!(purges.waiting.borrow().len(), limits::INVALIDATIONS_WAITING_MAX);
        assert_eq!(purges.removals.borrow().len(), limits::INVALIDATIONS_WAITING_MAX);
        assert!(purges.rewrite.get() && purges.history.borrow().is_empty());
        let judge = |number| purges.judge(before, &key(number), Tags::UNKNOWN);
        assert_eq!(judge(limits::INVALIDATIONS_WAITING_MAX + 1), Verdict::Gone);
        assert_eq!(judge(0), Verdict::Valid, "its records are removed instead");
        assert_eq!(purges.invalidated().len(), limits::INVALIDATIONS_WAITING_MAX);
        let log = whole_log(
            (1, Owner::default()),
            purges.sequence.get(),
            &purges.table,
            [],
            &purges.removals.borrow(),
        );
        let (table, replayed) = read(&log, Path::new("log"), Owner { log: 1, ..Owner::default() }).unwrap();
        assert_eq!(replayed.removals, *purges.removals.borrow());
        assert_eq!(
            table.judge(before, &key(limits::INVALIDATIONS_WAITING_MAX), Tags::UNKNOWN),
            Verdict::Gone
        );
    }
}
