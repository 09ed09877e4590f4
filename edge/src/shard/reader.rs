//! The reading side of all shards: which one a key's records are in, and what a worker asks of it. Follows nothing
//! itself; see `read`.
#![forbid(unsafe_code)]

use super::read::{self, Cold, Pinned};
use super::set::{Homes, SHARD_SHIFT, ShardReader, untagged};
use super::shadow::{Sampler, Seen};
use std::sync::Arc;

/// The reading side of one worker. `Send`, but neither `Sync` nor `Clone`.
pub struct Reader {
    pub(super) shards: Box<[Option<read::Reader>]>,
    pub(super) homes: Arc<Homes>,
    pub(super) sampler: Sampler,
}

impl Reader {
    /// Uses a shard that was opened later instead of the one with its number.
    pub fn take(&mut self, shard: ShardReader) {
        self.shards[shard.number] = Some(shard.reader);
    }

    /// Finds the newest record with this key whose meta `accept` takes. Bumps its frequency. `hash` must be the
    /// one the record was stored under, from a function that stays the same across restarts.
    ///
    /// # Errors
    /// Some of what must be read, or of the record found, may not be in memory: populate it and look again.
    #[inline]
    pub fn try_lookup(
        &self,
        hash: u64,
        key: &[u8],
        accept: impl FnMut(&[u8]) -> bool,
    ) -> Result<Option<Pinned>, Cold> {
        let Some((number, shard)) = self.home(hash) else { return Ok(None) };
        Ok(shard.try_lookup(hash, key, accept)?.map(|found| found.of_shard(number << SHARD_SHIFT)))
    }

    /// The first of two hints that a lookup of this hash is coming: memory of the index is asked for. Lookups that are
    /// announced together wait together.
    #[inline]
    pub fn prefetch_entries(&self, hash: u64) {
        if let Some((_, shard)) = self.home(hash) {
            shard.prefetch_entries(hash);
        }
    }

    /// The second hint, some lookups later: what the entries lead to is asked for.
    #[inline]
    pub fn prefetch_records(&self, hash: u64) {
        if let Some((_, shard)) = self.home(hash) {
            shard.prefetch_records(hash);
        }
    }

    /// As [`Reader::try_lookup`], but what is not in memory is waited for.
    pub fn lookup(&self, hash: u64, key: &[u8], accept: impl FnMut(&[u8]) -> bool) -> Option<Pinned> {
        let (number, shard) = self.home(hash)?;
        Some(shard.lookup(hash, key, accept)?.of_shard(number << SHARD_SHIFT))
    }

    /// Whether what requests for this key find is to be told by [`Reader::sample`].
    #[inline]
    pub fn is_sampled(&self, hash: u64) -> bool {
        self.sampler.wants(hash)
    }

    /// Tells what a request for a sampled key has found.
    pub fn sample(&self, hash: u64, seen: Seen) {
        self.sampler.add(hash, seen);
    }

    /// Finds chunk number `chunk` of a large object.
    ///
    /// # Errors
    /// As [`Reader::try_lookup`].
    #[inline]
    pub fn try_chunk(&self, object: u64, chunk: u32) -> Result<Option<Pinned>, Cold> {
        let (number, object) = untagged(object);
        self.shards
            .get(number)
            .and_then(Option::as_ref)
            .map_or(Ok(None), |shard| shard.try_chunk(object, chunk))
    }

    /// As [`Reader::try_chunk`], but what is not in memory is waited for.
    pub fn chunk(&self, object: u64, chunk: u32) -> Option<Pinned> {
        let (number, object) = untagged(object);
        self.shards.get(number)?.as_ref()?.chunk(object, chunk)
    }

    /// What to bring in before that chunk can be read, if it is there and anything is missing. Counts as no read.
    pub fn chunk_ahead(&self, object: u64, chunk: u32) -> Option<Cold> {
        let (number, object) = untagged(object);
        self.shards.get(number)?.as_ref()?.chunk_ahead(object, chunk)
    }

    #[inline]
    fn home(&self, hash: u64) -> Option<(u64, &read::Reader)> {
        let number = match &*self.shards {
            [_] => 0,
            _ => self.homes.of(hash),
        };
        Some((number as u64, self.shards.get(number)?.as_ref()?))
    }
}
