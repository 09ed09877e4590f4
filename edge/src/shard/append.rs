//! Writing one record at the end of a log: its bytes, its checksums, and the mark that says it is complete. What is
//! written is not found by anybody yet; what it replaces is not known here.
#![forbid(unsafe_code)]

use super::PutError;
use super::evict::Log;
use super::layout::{self, HEADER_BYTES, Header, Kind, PayloadChecksum};
use super::reclaim;
use super::store::Writer;
use crate::limits;
use bytes::Bytes;

/// A record to be written.
pub(super) struct Draft<'a> {
    pub(super) kind: Kind,
    pub(super) hash: u64,
    pub(super) object: u64,
    pub(super) position: u64,
    pub(super) key: &'a [u8],
    pub(super) meta: &'a [u8],
    pub(super) head: &'a [u8],
    pub(super) pieces: &'a [Bytes],
}

impl Writer {
    /// Notes that an object without a head is being stored. More than [`limits::FETCHES_RUNNING_MAX`] do not run at once,
    /// so what is forgotten was given up.
    pub(super) fn note_fill(&mut self, object: u64) {
        if self.heads.contains_key(&object) || self.fills.contains(&object) {
            return;
        }
        if self.fills.len() == limits::FETCHES_RUNNING_MAX {
            self.fills.pop_front();
        }
        self.fills.push_back(object);
    }

    /// The log for a record of this key: that of what it replaces, else what the policy says.
    pub(super) fn log_for(&mut self, hash: u64, key: &[u8]) -> Log {
        let there =
            self.entries(hash, |header, record| header.kind != Kind::Chunk && &record[header.key()] == key);
        let sequence = there.first().and_then(|(_, entry)| self.record(entry.location()));
        match sequence {
            Some((header, _)) => reclaim::log_of(header.sequence, self.geometry.segments),
            None => self.policy.admit(hash, &self.occupancy()),
        }
    }

    /// Writes a record that no entry leads to yet; says where it is.
    pub(super) fn append(&mut self, draft: &Draft<'_>, log: Log) -> Result<u64, PutError> {
        let body_bytes: usize = draft.pieces.iter().map(Bytes::len).sum();
        let payload = draft.key.len() + draft.meta.len() + draft.head.len() + body_bytes;
        let records_max = self.geometry.records_bytes() - HEADER_BYTES;
        if payload > records_max || draft.key.len() > usize::from(u16::MAX) {
            return Err(PutError::TooLarge);
        }
        self.changing();
        let mut header = Header {
            kind: draft.kind,
            sequence: 0,
            hash: draft.hash,
            object: draft.object,
            position: draft.position,
            key_bytes: draft.key.len() as u16,
            meta_bytes: draft.meta.len() as u32,
            head_bytes: draft.head.len() as u32,
            body_bytes: body_bytes as u32,
        };
        let (segment, start) = self.room(log, header.record_bytes())?;
        // Without a number only where the file has just been lost: what is written there is lost too.
        header.sequence = self.sequence(segment).ok_or(PutError::NoShard)?;
        let seed = layout::seed(self.id, header.sequence);
        let mut checksum = PayloadChecksum::new(seed);
        let mut at = start + HEADER_BYTES;
        let body = draft.pieces.iter().map(|piece| &**piece);
        for part in [draft.key, draft.meta, draft.head].into_iter().chain(body) {
            checksum.add(part);
            self.map.write(segment, at, part);
            at += part.len();
        }
        self.map.write(segment, start, &header.encode(checksum.value(), seed));
        Ok(self.written(segment, start, header.record_bytes()))
    }

    /// Notes that a record stands complete at the end of a segment being written; says its location.
    pub(super) fn written(&mut self, segment: usize, start: usize, record_bytes: usize) -> u64 {
        let end = start + record_bytes;
        self.map.fill(segment, end);
        let active = self.segments.active.iter_mut().flatten().find(|(active, _)| *active == segment);
        active.expect("only a segment being written is written").1 = end;
        self.wrote(segment, start..end);
        self.counts.written_bytes += record_bytes as u64;
        self.geometry.location(segment, start)
    }
}
