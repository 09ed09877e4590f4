//! Lookups of objects and chunks, which may have to wait for pages of the shard, and how they go on when these are in
//! memory.
#![forbid(unsafe_code)]

use super::Worker;
use super::actions::{Answer, Given, Node, outbox};
use super::connection::{Ahead, Connection, Parked, Phase, Source};
use super::mail::Desk;
use super::multiplex::{Multiplex, Supply};
use super::parts::Part;
use super::populate::{Ended, Waiter};
use super::token::{Op, Token};
use crate::limits;
use crate::proto::generations::Verdict;
use crate::proto::reuse;
use crate::proto::stored::{self, Meta};
use crate::shard::{Cold, Pinned, Reader, Seen};
use crate::stats::Counter;
use crate::sys::ring::Completion;
use std::ops::Range;

/// How the lookup of a request stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lookup {
    /// The request came with new bytes: it is counted when it is answered.
    pub fresh: bool,
    /// It was made.
    pub done: bool,
    /// Some pages came from the disk.
    pub from_disk: bool,
    /// How often it has waited.
    pub waits: u8,
    /// Nothing can be read: the answer is that nothing was found.
    pub given_up: bool,
}

/// A chunk cannot be read yet.
pub struct Waits;

impl Node {
    /// The stored response that may answer the request at hand, and whether it was purged softly.
    #[inline]
    pub(super) fn look_up(&self, lookup: Lookup) -> Result<(Option<Pinned>, bool), Cold> {
        let request = &self.out.request;
        let (mut purged, mut gone) = (false, false);
        let accept = |meta: &[u8]| {
            if !stored::matches(meta, request) {
                return false;
            }
            let verdict = self.purges.judge_record(&request.key, meta);
            purged |= verdict == Verdict::Stale;
            gone |= verdict == Verdict::Gone;
            verdict != Verdict::Gone
        };
        let found = if lookup.given_up {
            None
        } else if lookup.waits >= limits::POPULATES_PER_REQUEST_MAX {
            // Pages leave as fast as they come. One turn that waits for the disk is better than no answer.
            self.reader.lookup(request.key_hash, &request.key, accept)
        } else {
            self.reader.try_lookup(request.key_hash, &request.key, accept)?
        };
        if lookup.fresh && self.reader.is_sampled(request.key_hash) {
            self.sample(lookup, found.as_ref(), purged, gone);
        }
        Ok((found, purged))
    }

    /// Tells what the request at hand has found, for estimates of what a store of another size would do.
    #[cold]
    fn sample(&self, lookup: Lookup, found: Option<&Pinned>, purged: bool, gone: bool) {
        let until = |meta| Meta::read(meta).map_or(0, |meta| reuse::answers_until(&meta));
        let seen = match found {
            // Of a partial object nobody knows how much of it another store would have.
            Some(found) if found.partial() => return,
            Some(found) if purged => Seen::Stored { bytes: found.stored_bytes(), until_s: 0 },
            Some(found) => Seen::Stored { bytes: found.stored_bytes(), until_s: until(found.meta()) },
            None if lookup.given_up => return,
            None if gone => Seen::Purged,
            None => Seen::Nothing,
        };
        self.reader.sample(self.out.request.key_hash, seen);
    }

    /// Puts the request at hand aside until its pages are in memory.
    #[cold]
    pub(super) fn park(&mut self, connection: &mut Connection, slot: u32, cold: Cold, lookup: Lookup) {
        connection.parked = Some(Box::new(Parked {
            request: self.out.request.clone(),
            fresh: lookup.fresh,
            from_disk: lookup.from_disk || cold.is_absent(),
            waits: lookup.waits + 1,
            until_ms: self.now.mono_ms + limits::POPULATE_WAIT_MS,
        }));
        self.populates.wait(cold, Waiter { slot, generation: connection.generation, stream: 0 });
    }

    /// Goes on with a request that was put aside. `came`: its pages are in memory; else there is nothing to find.
    fn unpark(&mut self, connection: &mut Connection, slot: u32, came: bool) {
        let Some(mut parked) = connection.parked.take() else { return };
        let Parked { fresh, from_disk, waits, .. } = *parked;
        // Changed places, so that the buffers that have grown stay in use.
        std::mem::swap(&mut self.out.request, &mut parked.request);
        self.fetched = None;
        let lookup = Lookup { fresh, done: false, from_disk, waits, given_up: !came };
        self.answer(connection, slot, &mut Given::Nothing, Answer::Lookup, lookup);
        std::mem::swap(&mut self.out.request, &mut parked.request);
    }

    /// The disk has not answered some streams in time: the origin is asked instead.
    pub(super) fn wait_no_longer_for_streams(&mut self, mux: &mut Multiplex, slot: u32) {
        let now_ms = self.now.mono_ms;
        let is_late = |supply: &&Supply| supply.parked.as_ref().is_some_and(|p| p.until_ms <= now_ms);
        while let Some(id) = mux.supplies.iter().find(is_late).map(|supply| supply.id) {
            self.cells.add(Counter::PopulateTimeouts, 1);
            self.unpark_stream(mux, slot, id, false);
        }
    }

    /// Says whether anything changed.
    pub(super) fn refill_part(&mut self, connection: &mut Connection, slot: u32) -> bool {
        let next = connection.parts.as_mut().map_or(Part::End, |parts| parts.next());
        match next {
            Part::Text(bytes) => outbox(&mut self.outboxes, connection).push_bytes(bytes),
            Part::Body(pinned, range) => {
                pinned.sending();
                outbox(&mut self.outboxes, connection).push_record(pinned, 0..0, range);
            }
            Part::Chunk { object, offset, end } => {
                let Ok(offset) = self.push_chunk(connection, slot, object, offset, end) else { return false };
                if let Some(parts) = &mut connection.parts {
                    parts.pushed(offset);
                }
            }
            Part::End => {
                connection.source = Source::None;
                connection.parts = None;
            }
        }
        true
    }

    /// Says whether anything changed.
    pub(super) fn refill_chunk(
        &mut self,
        connection: &mut Connection,
        slot: u32,
        object: u64,
        offset: u64,
        end: u64,
    ) -> bool {
        let Ok(offset) = self.push_chunk(connection, slot, object, offset, end) else { return false };
        connection.source = if offset == end { Source::None } else { Source::Chunks { object, offset, end } };
        true
    }

    /// Queues more of a stored large object; says where it goes on.
    pub(super) fn push_chunk(
        &mut self,
        connection: &mut Connection,
        slot: u32,
        object: u64,
        offset: u64,
        end: u64,
    ) -> Result<u64, Waits> {
        let chunk_bytes = limits::CHUNK_BYTES as u64;
        let from = (offset % chunk_bytes) as usize;
        let wanted = (end - offset).min(chunk_bytes - from as u64) as usize;
        let chunk = (offset / chunk_bytes) as u32;
        let pinned = self.chunk(connection, slot, object, chunk)?;
        let Some(pinned) = pinned.filter(|pinned| pinned.body().len() >= from + wanted) else {
            // The chunk was reclaimed under a slow client: its response must not look whole.
            self.cells.add(Counter::Broken, 1);
            connection.phase = Phase::Aborted;
            return Ok(end);
        };
        outbox(&mut self.outboxes, connection).push_record(pinned, 0..0, from..from + wanted);
        let offset = offset + wanted as u64;
        if offset < end
            && let Some(cold) = self.reader.chunk_ahead(object, (offset / chunk_bytes) as u32)
        {
            self.populates.ahead(cold);
        }
        Ok(offset)
    }

    /// The chunk that a connection goes on with; `None`: it is gone, or cannot be read.
    pub(super) fn chunk(
        &mut self,
        connection: &mut Connection,
        slot: u32,
        object: u64,
        chunk: u32,
    ) -> Result<Option<Pinned>, Waits> {
        if connection.ahead == Ahead::Failed {
            connection.ahead = Ahead::Ready;
            return Ok(None);
        }
        match self.reader.try_chunk(object, chunk) {
            Ok(found) => {
                if let Some(pinned) = &found {
                    pinned.sending();
                }
                Ok(found)
            }
            Err(cold) => {
                connection.ahead = Ahead::Populating;
                self.populates.wait(cold, Waiter { slot, generation: connection.generation, stream: 0 });
                Err(Waits)
            }
        }
    }
}

/// Whether all chunks of this part of an object's body are stored. Of a long part that is not asked. A chunk whose
/// record may not be in memory is taken to be there: its entry says so, wrongly in one of some thousand cases where it is
/// not; the response then breaks off, and the next one knows.
pub(super) fn is_there(reader: &Reader, object: u64, part: Range<u64>) -> bool {
    let chunk_bytes = limits::CHUNK_BYTES as u64;
    let chunks = part.start / chunk_bytes..part.end.div_ceil(chunk_bytes);
    chunks.end - chunks.start <= limits::SLICES_LOOKED_UP_MAX as u64
        && chunks.into_iter().all(|chunk| !matches!(reader.try_chunk(object, chunk as u32), Ok(None)))
}

impl Worker {
    /// Hands to the ring what this turn's lookups have to wait for.
    #[inline]
    pub(super) fn start_populates(&mut self) {
        while let Some((number, extent)) = self.node.populates.start() {
            let unwatched = Token::pack(Op::Unwatched, 0, 0);
            self.ring.populate(extent, unwatched, Token::pack(Op::Populate, 0, number));
            self.node.cells.add(Counter::Populates, 1);
            self.node.cells.add(Counter::PopulatedBytes, extent.bytes() as u64);
        }
    }

    pub(super) fn populated(&mut self, number: u32, completion: Completion) {
        let ended = Ended::of(completion.result);
        let came = ended == Ended::Came;
        self.node.cells.add(Counter::PopulatesEnded, 1);
        self.node.cells.add(Counter::PopulateErrors, u64::from(!came));
        for Waiter { slot, generation, stream } in self.node.populates.ended(number, ended) {
            let connection = &mut self.table[slot as usize];
            if connection.generation != generation
                || !matches!(connection.phase, Phase::Open | Phase::Finishing)
            {
                continue;
            }
            if connection.ahead == Ahead::Populating {
                connection.ahead = if came { Ahead::Ready } else { Ahead::Failed };
            }
            if stream == 0 {
                self.node.unpark(connection, slot, came);
            } else {
                self.node.stream_populated(connection, slot, stream, came);
            }
            self.advance(slot);
        }
    }

    /// The disk has not answered in time: the origin is asked instead.
    pub(super) fn wait_no_longer(&mut self, slot: u32) {
        self.node.cells.add(Counter::PopulateTimeouts, 1);
        self.node.unpark(&mut self.table[slot as usize], slot, false);
        self.advance(slot);
    }
}
