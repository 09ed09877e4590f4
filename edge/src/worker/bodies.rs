//! Bodies of HTTP/2 exchanges, both ways: what clients send goes to control, and what the machine wants to send next
//! comes from the shard or from control. Never says which stream is next.
#![forbid(unsafe_code)]

use super::actions::Node;
use super::connection::Source;
use super::multiplex::{Multiplex, Supply};
use super::parts::Part;
use super::streams::{Next, ended};
use super::waiting::Waits;
use crate::control::mailbox::StreamId;
use crate::limits;
use crate::proto::http2::{Piece, Record, Upload};
use crate::proto::session::Input;
use crate::shard::Pinned;
use crate::stats::Counter;
use bytes::Bytes;
use std::ops::Range;

impl Record for Pinned {
    fn body(&self) -> &[u8] {
        Pinned::body(self)
    }
}

impl Node {
    /// Hands on what came of requests' bodies, as far as control has room.
    pub(super) fn bring_uploads(&mut self, mux: &mut Multiplex, slot: u32) {
        let mut at = 0;
        while at < mux.supplies.len() {
            let Supply { id, fetch, uploading, .. } = &mut mux.supplies[at];
            at += 1;
            let (true, Some(asked), id) = (*uploading, fetch.as_mut(), *id) else {
                continue;
            };
            loop {
                let hold = asked.body_unacked >= limits::REQUEST_BODY_WINDOW_BYTES;
                match mux.http2.upload(id, hold) {
                    Upload::Nothing => break,
                    Upload::Data(bytes) => self.forward(asked, slot, bytes, false),
                    Upload::End(trailers) => {
                        *uploading = false;
                        self.forward_trailer(asked, slot, trailers);
                        self.forward(asked, slot, Bytes::new(), true);
                        break;
                    }
                    Upload::Broken => {
                        mux.http2.break_off(id);
                        self.drop_stream(mux, slot, id);
                        at -= 1;
                        break;
                    }
                }
            }
        }
    }

    /// Brings what the machine wants to send next, as long as it can send.
    pub(super) fn bring_bodies(&mut self, mux: &mut Multiplex, slot: u32) {
        while let Some(id) = mux.http2.next_body() {
            let Some(at) = mux.find(id) else {
                mux.http2.break_off(id);
                continue;
            };
            match mux.supplies[at].source {
                Source::Chunks { object, offset, end } => {
                    match self.bring_chunk(mux, slot, id, object, offset, end) {
                        Some(offset) => mux.supplies[at].source = Source::Chunks { object, offset, end },
                        None => continue,
                    }
                }
                Source::Parts => self.bring_part(mux, slot, id, at),
                Source::Stream { offset, end, .. } if offset >= end => {
                    self.tell_exchange(mux, slot, id, Input::End, None);
                }
                Source::Stream { id: stream, offset, end } => {
                    self.bring_streamed(mux, slot, id, stream, offset..end);
                }
                Source::None => self.break_stream(mux, slot, id),
            }
        }
    }

    /// Brings more of a stored large object; says where it goes on.
    fn bring_chunk(
        &mut self,
        mux: &mut Multiplex,
        slot: u32,
        id: u32,
        object: u64,
        offset: u64,
        end: u64,
    ) -> Option<u64> {
        let chunk_bytes = limits::CHUNK_BYTES as u64;
        let from = (offset % chunk_bytes) as usize;
        let wanted = (end - offset).min(chunk_bytes - from as u64) as usize;
        let pinned = self.stored_chunk(mux, slot, id, object, (offset / chunk_bytes) as u32).ok()?;
        let Some(pinned) = pinned.filter(|pinned| wanted > 0 && pinned.body().len() >= from + wanted) else {
            // The chunk was reclaimed under a slow client: its response must not look whole.
            self.break_stream(mux, slot, id);
            return None;
        };
        mux.http2.piece(id, Piece::Stored(pinned, from..from + wanted));
        let offset = offset + wanted as u64;
        if offset < end
            && let Some(cold) = self.reader.chunk_ahead(object, (offset / chunk_bytes) as u32)
        {
            self.populates.ahead(cold);
        }
        Some(offset)
    }

    /// The chunk that a stream goes on with; `None`: it is gone.
    fn stored_chunk(
        &mut self,
        mux: &mut Multiplex,
        slot: u32,
        id: u32,
        object: u64,
        chunk: u32,
    ) -> Result<Option<Pinned>, Waits> {
        match self.reader.try_chunk(object, chunk) {
            Ok(found) => {
                if let Some(pinned) = &found {
                    pinned.sending();
                }
                Ok(found)
            }
            Err(cold) => {
                let waiter = mux.waiter(slot, id);
                self.populates.wait(cold, waiter);
                if let Some(at) = mux.find(id) {
                    mux.supplies[at].populating = true;
                }
                mux.http2.stall(id);
                Err(Waits)
            }
        }
    }

    fn bring_part(&mut self, mux: &mut Multiplex, slot: u32, id: u32, at: usize) {
        match mux.supplies[at].parts.as_mut().map_or(Part::End, |parts| parts.next()) {
            Part::Text(bytes) => mux.http2.piece(id, Piece::Bytes(bytes)),
            Part::Body(pinned, range) => {
                pinned.sending();
                mux.http2.piece(id, Piece::Stored(pinned, range));
            }
            Part::Chunk { object, offset, end } => {
                if let Some(offset) = self.bring_chunk(mux, slot, id, object, offset, end)
                    && let Some(parts) = &mut mux.supplies[at].parts
                {
                    parts.pushed(offset);
                }
            }
            Part::End => self.break_stream(mux, slot, id),
        }
    }

    fn bring_streamed(
        &mut self,
        mux: &mut Multiplex,
        slot: u32,
        id: u32,
        stream: StreamId,
        rest: Range<u64>,
    ) {
        let Range { start: offset, end } = rest;
        let most = usize::try_from(end - offset).unwrap_or(usize::MAX);
        let piece = match self.streams.next(stream, offset) {
            Next::Wait => return mux.http2.stall(id),
            Next::End(trailers) => {
                self.progressed.push(stream);
                return self.tell_exchange(mux, slot, id, ended(&trailers), None);
            }
            Next::Piece(mut bytes) => {
                bytes.truncate(most);
                Piece::Bytes(bytes)
            }
            Next::Chunk { object, chunk, from } => match self.stored_chunk(mux, slot, id, object, chunk) {
                Err(Waits) => return,
                Ok(Some(pinned)) if from < pinned.body().len() => {
                    let range = from..from + most.min(pinned.body().len() - from);
                    Piece::Stored(pinned, range)
                }
                _ => return self.break_stream(mux, slot, id),
            },
            Next::Broken => {
                if let Some(at) = mux.find(id)
                    && self.streams.is_broken(stream)
                    && mux.supplies[at].fetch.take().is_some()
                {
                    // It is not the client who gives up.
                    self.asked(mux.place, false);
                }
                return self.tell_exchange(mux, slot, id, Input::Broken, None);
            }
        };
        let len = piece.len();
        if let Some(at) = mux.find(id) {
            mux.supplies[at].source = Source::Stream { id: stream, offset: offset + len as u64, end };
        }
        self.progressed.push(stream);
        self.tell_exchange(mux, slot, id, Input::Piece(len), Some(piece));
        if self.streams.get_mut(stream).is_some_and(|stream| stream.pass) {
            self.credit(stream, len);
        }
    }

    pub(super) fn break_stream(&mut self, mux: &mut Multiplex, slot: u32, id: u32) {
        self.cells.add(Counter::Broken, 1);
        mux.http2.break_off(id);
        self.drop_stream(mux, slot, id);
    }
}
