//! Files of the store that are not its mapping: flushing what was stored, and the checkpoint of a clean stop. All
//! through the ring of the control thread, which goes on meanwhile.
#![forbid(unsafe_code)]

use super::mailbox::ToWorker;
use super::{Node, purge};
use crate::clock;
use crate::limits;
use crate::proto::reuse;
use crate::proto::stored::Meta;
use crate::shard::{self, Reopened, ToFlush};
use crate::stats::Counter;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::thread;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio_uring::buf::BoundedBuf;
use tokio_uring::fs::File;

/// Bytes that the ring is given to write at once. It takes lengths of 32 bits, and a checkpoint may be longer.
pub(super) const WRITE_BYTES: usize = 16 << 20;

/// Begins what goes on for as long as the thread runs.
pub(super) fn begin(node: &Rc<Node>) {
    let [flusher, watcher, player] = [(); 3].map(|()| node.clone());
    tokio_uring::spawn(async move { flush_forever(&flusher).await });
    tokio_uring::spawn(async move { watch_forever(&watcher).await });
    tokio_uring::spawn(async move { replay_forever(&player).await });
}

/// Flushes every `FLUSH_INTERVAL_MS` what was stored since, so that a power loss costs little.
async fn flush_forever(node: &Node) {
    loop {
        tokio::time::sleep(Duration::from_millis(limits::FLUSH_INTERVAL_MS)).await;
        flush(node).await;
    }
}

/// Takes shards out of use that have failed, soon after they did.
async fn watch_forever(node: &Node) {
    loop {
        tokio::time::sleep(Duration::from_millis(limits::STORE_WATCH_MS)).await;
        let failed = node.writer.borrow_mut().watch();
        node.cells.add(Counter::ShardsFailed, failed);
    }
}

/// Flushes what was stored and removed. A shard that cannot be flushed is out of use: after a failed flush the kernel
/// takes its pages for clean, and what is read there later may be what was there before. Where the disk was not even asked,
/// for want of a descriptor or the like, the next flush does it.
pub(super) async fn flush(node: &Node) {
    // What could not be flushed is out of use or waits, and said to be.
    let _ = flush_each(node, shard::Writer::dirty).await;
}

/// Brings all that was changed in the store so far to the disk.
///
/// # Errors
/// Not all of it.
pub(super) async fn settle(node: &Node) -> io::Result<()> {
    flush_each(node, shard::Writer::files).await
}

async fn flush_each(node: &Node, which: fn(&mut shard::Writer) -> Vec<ToFlush>) -> io::Result<()> {
    // One after the other: who finds nothing that was written since takes it for being on the disk.
    let _alone = node.flushing.lock().await;
    let files = which(&mut node.writer.borrow_mut());
    let mut result = Ok(());
    for shard in files {
        match sync(&shard).await {
            Ok(()) => {
                node.cells.add(Counter::Flushes, 1);
                node.writer.borrow_mut().flushed(shard.number);
            }
            Err(Unflushed::PutOff(error)) => {
                node.cells.add(Counter::FlushErrors, 1);
                let path = shard.path.display();
                tracing::warn!(%path, %error, "not flushed for now: see LimitNOFILE, and what else uses up the machine");
                node.writer.borrow_mut().not_flushed(shard.number);
                result = Err(error);
            }
            Err(Unflushed::Failed(error)) => {
                node.cells.add(Counter::FlushErrors, 1);
                let why =
                    format!("could not be flushed: {error}: see whether its disk has failed or is full");
                let news = node.writer.borrow_mut().fail(shard.number, why);
                node.cells.add(Counter::ShardsFailed, u64::from(news));
                result = Err(error);
            }
        }
    }
    result
}

/// Takes a shard into use again that is out of use. Its file is scanned on a thread of its own. Goes on if whoever waits
/// for it does not any more.
///
/// # Errors
/// It is in use, or cannot be opened; it stays out of use.
pub(super) async fn reopen(node: &Rc<Node>, number: usize) -> Result<(), String> {
    let begun = node.writer.borrow_mut().begin_reopening(number)?;
    let (tell, scanned) = oneshot::channel();
    let scan = move || drop(tell.send(begun.run()));
    if let Err(error) = thread::Builder::new().name("edge-reopen".into()).spawn(scan) {
        tracing::error!(%error, "no thread to scan a shard");
    }
    let node = node.clone();
    let ended = tokio_uring::spawn(async move {
        let reopened = scanned.await.unwrap_or_else(|_| Reopened::broken_off(number));
        let readers = node.writer.borrow_mut().end_reopening(reopened);
        let readers =
            readers.inspect_err(|error| tracing::error!(number, error, "shard stays out of use"))?;
        tracing::info!(number, "shard in use again");
        for (outbox, reader) in node.outboxes.iter().zip(readers) {
            outbox.post(ToWorker::Shard(Box::new(reader)));
        }
        purge::cover_shards(&node);
        Ok(())
    });
    ended.await.unwrap_or_else(|error| Err(error.to_string()))
}

/// Has the sampled requests played in stores of other sizes.
async fn replay_forever(node: &Node) {
    loop {
        tokio::time::sleep(Duration::from_millis(limits::SHADOW_REPLAY_MS)).await;
        let sum = |counter| node.worker_cells.iter().map(|cells| cells.get(counter)).sum::<u64>();
        let hits = sum(Counter::Hits);
        let lookups = hits + sum(Counter::Misses) + sum(Counter::Revalidations);
        node.writer.borrow_mut().replay(lookups, hits);
    }
}

/// What the store is told of what it stores.
pub(super) const MEANING: shard::Meaning = shard::Meaning {
    is_worth: is_worth_keeping,
    born_s: |meta| Meta::read(meta).map_or(0, |meta| meta.response_s()),
    until_s: |meta| Meta::read(meta).map_or(0, |meta| reuse::answers_until(&meta)),
};

/// Whether a record may still be of use when its segment is emptied, by its meta: it is fresh, can be validated, or
/// was fresh not long ago and may be asked for stale.
fn is_worth_keeping(meta: &[u8]) -> bool {
    let Some(meta) = Meta::read(meta) else { return false };
    let useful_s = meta.lifetime_s().saturating_add(limits::STALE_KEPT_S);
    meta.has_validator() || reuse::current_age(&meta, clock::now().unix_s) < useful_s
}

/// Why a shard was not flushed.
enum Unflushed {
    /// Its disk was not asked, or was interrupted before it had said anything: nothing is lost.
    PutOff(io::Error),
    /// It could not be written.
    Failed(io::Error),
}

async fn sync(shard: &ToFlush) -> Result<(), Unflushed> {
    let ready = async {
        // So that it is noticed where it is gone. Without a descriptor, for there may be none left.
        tokio_uring::fs::statx(&shard.path).await?;
        Ok(File::from_std(shard.file.try_clone()?))
    };
    let file = ready.await.map_err(|error: io::Error| match shard::is_passing(&error) {
        true => Unflushed::PutOff(error),
        false => Unflushed::Failed(error),
    })?;
    let synced = file.sync_data().await;
    // It was opened for reading alone: closing it writes nothing.
    let _ = file.close().await;
    synced.map_err(|error| match error.kind() {
        // Anything else may be what the kernel was told when it wrote the pages, and tells once.
        io::ErrorKind::Interrupted => Unflushed::PutOff(error),
        _ => Unflushed::Failed(error),
    })
}

/// Flushes, then writes the checkpoints. Nothing may be stored afterwards. The error is that of the last shard that has
/// none now.
pub(super) async fn close(node: &Node) -> io::Result<()> {
    let mut result = flush_each(node, shard::Writer::dirty).await;
    let checkpoints = node.writer.borrow_mut().checkpoints();
    for (path, bytes) in checkpoints {
        if let Err(error) = replace(&path, bytes).await {
            let what = format!(
                "{}: {error}: the next start scans the store; check its access rights",
                path.display()
            );
            result = Err(io::Error::new(error.kind(), what));
        }
    }
    result
}

/// Writes a file so that after a crash either the old or the new one is there, whole.
pub(super) async fn replace(path: &Path, mut bytes: Vec<u8>) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let file = File::create(&temporary).await?;
    let (mut written, mut at) = (Ok(()), 0);
    while written.is_ok() && at < bytes.len() {
        let end = bytes.len().min(at + WRITE_BYTES);
        let (done, piece) = file.write_all_at(bytes.slice(at..end), at as u64).await;
        (written, at, bytes) = (done, end, piece.into_inner());
    }
    let synced = match written {
        Ok(()) => file.sync_all().await,
        Err(error) => Err(error),
    };
    file.close().await?;
    synced?;
    tokio_uring::fs::rename(&temporary, path).await?;
    let directory = File::open(path.parent().unwrap_or(Path::new("."))).await?;
    let synced = directory.sync_all().await;
    directory.close().await?;
    synced
}

/// As [`replace`], before there is a ring. Blocks.
pub(super) fn replace_now(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = fs::File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}
