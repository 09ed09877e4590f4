//! The rest of an answer of several parts: texts, and between them stretches of one stored object, handed out one
//! after the other as there is room for them.
#![forbid(unsafe_code)]

use crate::shard::Pinned;
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::ops::Range;

/// What comes next.
pub enum Part {
    /// These bytes.
    Text(Bytes),
    /// This part of the record's own body.
    Body(Pinned, Range<usize>),
    /// Some of the object's chunks; say by [`Parts::pushed`] how far that went.
    Chunk {
        /// Its number in the shard.
        object: u64,
        /// The next byte to queue.
        offset: u64,
        /// Where to stop.
        end: u64,
    },
    /// Nothing more.
    End,
}

/// See the head of this file. Bounded by `RANGES_MAX`.
pub struct Parts {
    record: Pinned,
    rest: VecDeque<(Bytes, Range<u64>)>,
    /// Of the part whose text has been handed out.
    body: Range<u64>,
}

impl Parts {
    /// Of the object of this record.
    pub fn new(record: Pinned) -> Self {
        Parts { record, rest: VecDeque::new(), body: 0..0 }
    }

    /// One more part: a text and what follows it.
    pub fn add(&mut self, text: &[u8], body: Range<u64>) {
        self.rest.push_back((BytesMut::from(text).freeze(), body));
    }

    /// Takes the next out.
    pub fn next(&mut self) -> Part {
        if self.body.is_empty() {
            let Some((text, body)) = self.rest.pop_front() else { return Part::End };
            self.body = body;
            return Part::Text(text);
        }
        match self.record.chunked() {
            Some(object) => Part::Chunk { object, offset: self.body.start, end: self.body.end },
            None => {
                let body = std::mem::replace(&mut self.body, 0..0);
                Part::Body(self.record.clone(), body.start as usize..body.end as usize)
            }
        }
    }

    /// The bytes of the present part below `offset` are queued.
    pub fn pushed(&mut self, offset: u64) {
        self.body.start = offset.min(self.body.end);
    }
}
