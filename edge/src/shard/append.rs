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

/// What an object is found and answered by: everything of it but its body.
pub struct Label<'a> {
    /// Hash of the key.
    pub hash: u64,
    /// Compared whole at every lookup.
    pub key: &'a [u8],
    /// Tells variants of one key apart, and what may be answered; begins with the discriminator.
    pub meta: &'a [u8],
    /// The head of the response.
    pub head: &'a [u8],
}

impl<'a> Label<'a> {
    /// The label of a key with this hash.
    pub const fn new(hash: u64, key: &'a [u8], meta: &'a [u8], head: &'a [u8]) -> Self {
        Label { hash, key, meta, head }
    }
}

/// The body of an object to be stored.
#[derive(Clone, Copy)]
pub enum Body<'a> {
    /// All of it, to be stored in one record.
    Whole(&'a [Bytes]),
    /// Of a large object: its chunks are all stored, numbered from 0.
    Chunks {
        /// The number the chunks were stored under.
        object: u64,
        /// Length of the whole.
        bytes: u64,
    },
    /// Of a large object: chunks may be missing, now and later, and whoever reads it asks for each. Every chunk that
    /// does not end the object must be of one size, which the caller knows.
    Partial {
        /// The number the chunks are stored under.
        object: u64,
        /// Length of the whole.
        bytes: u64,
    },
}

/// A record to be written.
pub(super) struct Draft<'a> {
    pub(super) kind: Kind,
    pub(super) object: u64,
    pub(super) position: u64,
    pub(super) label: &'a Label<'a>,
    pub(super) pieces: &'a [Bytes],
}

impl Writer {
    /// Notes that an object without a head is being stored. More than [`limits::FETCHES_RUNNING_MAX`] do not run at once.
    pub(super) fn note_fill(&mut self, object: u64) {
        if self.heads.contains_key(&object) || self.fills.contains(&object) {
            return;
        }
        if self.fills.len() == limits::FETCHES_RUNNING_MAX {
            self.fills.pop_front();
        }
        self.fills.push_back(object);
    }

    /// An object whose chunks were being stored gets no head: from now on they are nothing worth keeping. Of one that has
    /// a head nothing changes.
    pub fn give_up(&mut self, object: u64) {
        self.fills.retain(|&fill| fill != object);
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
        let payload = draft.label.key.len() + draft.label.meta.len() + draft.label.head.len() + body_bytes;
        let records_max = self.geometry.records_bytes() - HEADER_BYTES;
        if payload > records_max || draft.label.key.len() > usize::from(u16::MAX) {
            return Err(PutError::TooLarge);
        }
        self.changing();
        let mut header = Header {
            kind: draft.kind,
            sequence: 0,
            hash: draft.label.hash,
            object: draft.object,
            position: draft.position,
            key_bytes: draft.label.key.len() as u16,
            meta_bytes: draft.label.meta.len() as u32,
            head_bytes: draft.label.head.len() as u32,
            body_bytes: body_bytes as u32,
        };
        let (segment, start) = self.room(log, header.record_bytes())?;
        // Without a number only where the file has just been lost: what is written there is lost too.
        header.sequence = self.sequence(segment).ok_or(PutError::NoShard)?;
        let seed = layout::seed(self.id, header.sequence);
        let mut checksum = PayloadChecksum::new(seed);
        let mut at = start + HEADER_BYTES;
        let body = draft.pieces.iter().map(|piece| &**piece);
        for part in [draft.label.key, draft.label.meta, draft.label.head].into_iter().chain(body) {
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
