//! Which segment is written next, and how one is emptied for it: whole segments, the oldest first, those that
//! a reader holds left for later. No bytes of records are written here, and no reader is waited for.
#![forbid(unsafe_code)]

use super::PutError;
use super::index::{Entry, Slot};
use super::layout::{self, Header, Kind};
use super::store::Writer;
use std::collections::VecDeque;
use std::sync::atomic::Ordering::Release;

/// Which segment is what. Each one is in exactly one place.
#[derive(Default)]
pub(super) struct Segments {
    /// The one being written, and where its next record goes.
    pub(super) active: Option<(usize, usize)>,
    /// Full ones, the oldest first.
    pub(super) sealed: VecDeque<usize>,
    /// Emptied of index entries, but still held by a reader.
    pub(super) shut: Vec<usize>,
    /// Holding nothing.
    pub(super) free: Vec<usize>,
    /// Sequence number given out last.
    pub(super) sequence: u64,
}

impl Writer {
    /// Where the next record of this length goes.
    pub(super) fn room(&mut self, record_bytes: usize) -> Result<(usize, usize), PutError> {
        if let Some((segment, at)) = self.segments.active
            && at + record_bytes <= self.geometry.segment_bytes()
        {
            return Ok((segment, at));
        }
        let segment = self.empty_segment().ok_or(PutError::Pinned)?;
        if let Some((full, _)) = self.segments.active.take() {
            self.segments.sealed.push_back(full);
        }
        self.begin(segment);
        let start = self.geometry.words_bytes();
        self.segments.active = Some((segment, start));
        Ok((segment, start))
    }

    /// A segment that can be written from its start. The oldest whose readers have left goes.
    fn empty_segment(&mut self) -> Option<usize> {
        for list in [&mut self.segments.shut, &mut self.segments.free] {
            if let Some(i) = list.iter().position(|&segment| self.map.reset(segment)) {
                return Some(list.swap_remove(i));
            }
        }
        let mut i = 0;
        while let Some(&segment) = self.segments.sealed.get(i) {
            if self.map.pinned(segment) {
                i += 1;
                continue;
            }
            self.drain(segment);
            self.segments.sealed.remove(i);
            self.counts.reclaimed_segments += 1;
            if self.map.reset(segment) {
                return Some(segment);
            }
            self.segments.shut.push(segment);
        }
        None
    }

    /// Takes all that a segment holds out of the index, and its header off the disk.
    pub(super) fn drain(&mut self, segment: usize) {
        for word in &self.map.words(segment)[layout::SEGMENT_WORDS] {
            word.store(0, Release);
        }
        self.wrote(segment, 0..self.geometry.words_bytes());
        let mut at = self.geometry.words_bytes();
        let end = self.map.filled(segment);
        while at < end {
            let location = self.geometry.location(segment, at);
            let Some((header, _)) = self.record(location) else { break };
            if let Some(slot) = self.find.index.locate(header.hash, location) {
                self.evict(slot, location, &header);
            }
            at += header.record_bytes();
        }
        if at < end {
            // Something other than us has written here. Costs a walk over the whole index, once.
            let here = |entry: &Entry| self.geometry.place(entry.location()).0 == segment;
            let lost: Vec<_> = self.find.index.entries().filter(|(_, entry)| here(entry)).collect();
            lost.iter().for_each(|&(slot, _)| self.find.index.clear(slot));
            self.heads.retain(|_, head| self.geometry.place(head.location).0 != segment);
            self.settle();
        }
    }

    fn evict(&mut self, slot: Slot, location: u64, header: &Header) {
        self.find.index.clear(slot);
        self.discount(location);
        match header.kind {
            Kind::Chunk => self.lost_chunk(header.object),
            Kind::Whole | Kind::Head | Kind::Partial => {
                self.counts.evicted += 1;
                self.left.note(header.hash, super::left::Why::Reclaimed);
            }
        }
    }

    /// Starts a new life of an emptied segment.
    fn begin(&mut self, segment: usize) {
        self.segments.sequence += 1;
        let words = self.map.words(segment);
        layout::clear_dead(words, layout::seed(self.id, self.segments.sequence));
        let values = layout::segment_words(self.id, segment, self.segments.sequence);
        for (word, value) in words[layout::SEGMENT_WORDS].iter().zip(values) {
            word.store(value, Release);
        }
        self.wrote(segment, 0..self.geometry.words_bytes());
    }
}
