//! STORAGE: mapped segment logs with an index that workers read without waiting.
//!
//! One writer (control) appends records and publishes them into the index; workers look keys up and pin
//! the segment until their last send from it completes. HTTP is not known here: a record is a key, meta
//! bytes, head bytes and body bytes.

use bytes::Bytes;
use std::path::PathBuf;

/// How to open a store.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of the shard file; made if missing.
    pub path: PathBuf,
    /// Bytes of the shard file; rounded down to whole segments, at least four of them.
    pub size_bytes: u64,
    /// How many readers there will be.
    pub readers: usize,
}

/// Why a store did not open.
#[derive(Debug, thiserror::Error)]
#[error("store {path}: {what}: {remedy}")]
pub struct OpenError {
    /// The path concerned.
    pub path: String,
    /// What happened.
    pub what: String,
    /// What the operator can do.
    pub remedy: String,
}

/// What opening found.
#[derive(Clone, Debug, Default)]
pub struct Opened {
    /// Objects served again.
    pub objects: u64,
    /// Records dropped because a checksum did not match.
    pub dropped: u64,
    /// Whether a checkpoint made a scan needless.
    pub clean: bool,
    /// Bytes scanned.
    pub scanned_bytes: u64,
    /// Milliseconds it took.
    pub took_ms: u64,
}

/// Why an object could not be stored; it is served all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PutError {
    /// Every segment that could be reclaimed is pinned by a reader.
    #[error("all segments are pinned")]
    Pinned,
    /// Key, meta, head and body do not fit one segment.
    #[error("record larger than a segment")]
    TooLarge,
    /// The shard is fenced after a fault.
    #[error("shard is fenced")]
    Fenced,
}

/// Usage for status and metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Bytes of the shard file.
    pub size_bytes: u64,
    /// Bytes in segments that hold records.
    pub used_bytes: u64,
    /// Entries in the index.
    pub objects: u64,
    /// Entries the index can hold.
    pub index_entries_max: u64,
    /// Bytes of the index.
    pub index_bytes: u64,
    /// Objects dropped by reclaim since start.
    pub evicted: u64,
    /// Segments reclaimed since start.
    pub reclaimed_segments: u64,
}

/// The writing side; one, owned by control.
pub struct Writer {}

/// The reading side of one worker. `Send`, but neither `Sync` nor `Clone`: its pin counters have one writer.
pub struct Reader {}

/// A record held in place: its bytes do not change until this is dropped. Not `Send`.
pub struct Pinned {}

/// Opens (or creates) the store. The first [`Options::readers`] readers are returned in order.
pub fn open(options: &Options) -> Result<(Writer, Vec<Reader>, Opened), OpenError> {
    let _ = options;
    todo!()
}

impl Reader {
    /// Finds the newest record with this key whose meta `accept` takes. Bumps its frequency.
    pub fn lookup(&self, hash: u64, key: &[u8], accept: impl FnMut(&[u8]) -> bool) -> Option<Pinned> {
        let _ = (hash, key, accept);
        todo!()
    }

    /// Finds chunk number `chunk` of a large object.
    pub fn chunk(&self, object: u64, chunk: u32) -> Option<Pinned> {
        let _ = (object, chunk);
        todo!()
    }
}

impl Pinned {
    /// Meta bytes.
    pub fn meta(&self) -> &[u8] {
        todo!()
    }
    /// Head bytes.
    pub fn head(&self) -> &[u8] {
        todo!()
    }
    /// Body bytes of this record: the whole object, or empty in the head record of a chunked one. They
    /// follow the head bytes immediately in memory, so that both go out as one extent.
    pub fn body(&self) -> &[u8] {
        todo!()
    }
    /// Bytes of the whole object's body.
    pub fn object_bytes(&self) -> u64 {
        todo!()
    }
    /// The chunks' object number, if the body is chunked.
    pub fn chunked(&self) -> Option<u64> {
        todo!()
    }
}

impl Writer {
    /// A number for the chunks of a new large object, never used before, also across restarts.
    pub fn new_object(&mut self) -> u64 {
        todo!()
    }

    /// Stores a whole object (`pieces` are its body) and publishes it, replacing a record of the same key for
    /// which `replaces(old meta)` holds.
    pub fn put(
        &mut self,
        hash: u64,
        key: &[u8],
        meta: &[u8],
        head: &[u8],
        pieces: &[Bytes],
        replaces: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), PutError> {
        let _ = (hash, key, meta, head, pieces, replaces);
        todo!()
    }

    /// Stores one chunk of a large object; it can be read at once by [`Reader::chunk`].
    pub fn put_chunk(&mut self, object: u64, chunk: u32, pieces: &[Bytes]) -> Result<(), PutError> {
        let _ = (object, chunk, pieces);
        todo!()
    }

    /// Publishes the head record of a large object whose chunks are all stored.
    #[allow(clippy::too_many_arguments)]
    pub fn put_chunked(
        &mut self,
        hash: u64,
        key: &[u8],
        meta: &[u8],
        head: &[u8],
        object: u64,
        object_bytes: u64,
        replaces: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), PutError> {
        let _ = (hash, key, meta, head, object, object_bytes, replaces);
        todo!()
    }

    /// Reads a record as a worker would (for validation and refresh). The result must be dropped before the
    /// next call that stores.
    pub fn lookup(&self, hash: u64, key: &[u8], accept: impl FnMut(&[u8]) -> bool) -> Option<Pinned> {
        let _ = (hash, key, accept);
        todo!()
    }

    /// Removes all records of a key; says how many.
    pub fn remove(&mut self, hash: u64, key: &[u8]) -> u64 {
        let _ = (hash, key);
        todo!()
    }

    /// Usage now.
    pub fn usage(&self) -> Usage {
        todo!()
    }

    /// The shard file, for flushing it, and the range of bytes written since the last call.
    pub fn dirty(&mut self) -> Option<(PathBuf, std::ops::Range<u64>)> {
        todo!()
    }

    /// The checkpoint of a clean stop: where to write it and its bytes. Nothing may be stored afterwards.
    /// The caller writes it to `path` with a temporary name and a rename.
    pub fn checkpoint(&mut self) -> (PathBuf, Vec<u8>) {
        todo!()
    }
}
