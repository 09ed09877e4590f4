//! Files of the store that are not its mapping: flushing what was stored, and the checkpoint of a clean stop. All
//! through the ring of the control thread, which goes on meanwhile.
#![forbid(unsafe_code)]

use super::Node;
use crate::limits;
use crate::stats::Counter;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_uring::fs::File;

/// Flushes every `FLUSH_INTERVAL_MS` what was stored since, so that a power loss costs little.
pub(super) async fn flush_forever(node: &Node) {
    loop {
        tokio::time::sleep(Duration::from_millis(limits::FLUSH_INTERVAL_MS)).await;
        if let Err(error) = flush(node).await {
            node.cells.add(Counter::FlushErrors, 1);
            tracing::error!(%error, "the store could not be flushed: see whether its device has failed or is full");
        }
    }
}

async fn flush(node: &Node) -> io::Result<()> {
    let dirty = node.writer.borrow_mut().dirty();
    for (path, _) in dirty {
        let file = File::open(&path).await?;
        let synced = file.sync_data().await;
        file.close().await?;
        synced?;
        node.cells.add(Counter::Flushes, 1);
    }
    Ok(())
}

/// Flushes, then writes the checkpoints. Nothing may be stored afterwards.
pub(super) async fn close(node: &Node) -> io::Result<()> {
    flush(node).await?;
    let checkpoints = node.writer.borrow_mut().checkpoints();
    for (path, bytes) in checkpoints {
        replace(&path, bytes).await?;
    }
    Ok(())
}

/// Writes a file so that after a crash either the old or the new one is there, whole.
async fn replace(path: &Path, bytes: Vec<u8>) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let file = File::create(&temporary).await?;
    let (written, _) = file.write_all_at(bytes, 0).await;
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
