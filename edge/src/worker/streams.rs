//! Responses on their way from control to this worker's clients.
//!
//! Pieces arrive once per worker, whatever the number of its clients; each client has its own offset.
//! Pieces that were sealed into the shard are dropped here, and clients that lag behind read them there.
#![forbid(unsafe_code)]

use crate::control::mailbox::StreamId;
use crate::limits;
use crate::proto::response::OriginHead;
use crate::proto::session::Input;
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// How a stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// More is coming.
    Running,
    /// It ended whole.
    Whole,
    /// It broke off.
    Broken,
}

/// One response.
pub struct Stream {
    /// Its head.
    pub head: Arc<OriginHead>,
    /// Whether the one client's progress is told to control.
    pub pass: bool,
    /// Slots of clients, some perhaps gone: whoever walks the list checks. One for each request that joined.
    pub members: Vec<u32>,
    /// Nothing more is sealed and nobody joins any more.
    pub unstored: bool,
    object: u64,
    sealed_bytes: u64,
    /// Offset and bytes of what is held, adjoining.
    pieces: VecDeque<(u64, Bytes)>,
    end_offset: u64,
    state: State,
    /// Field lines that follow the body, once it has ended.
    trailers: Bytes,
    live: u32,
    /// More of it came this turn, and its clients are still to be moved on.
    moved: bool,
}

/// What a client at some offset gets next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// These bytes.
    Piece(Bytes),
    /// The rest of this chunk, from the shard.
    Chunk {
        /// The object's number.
        object: u64,
        /// The chunk's number.
        chunk: u32,
        /// The first byte wanted, within the chunk.
        from: usize,
    },
    /// Nothing yet.
    Wait,
    /// That was all, but for these lines of a trailer section.
    End(Bytes),
    /// The stream broke, or the client lagged behind what is held.
    Broken,
}

/// What is told of a stream that ended so.
pub fn ended(trailers: &[u8]) -> Input<'_> {
    match trailers.is_empty() {
        true => Input::End,
        false => Input::Trailers(trailers),
    }
}

/// All streams of a worker.
#[derive(Default)]
pub struct Streams {
    map: HashMap<StreamId, Stream>,
    /// Those of which more came this turn, each once.
    moved: Vec<StreamId>,
}

impl Streams {
    /// A response begins.
    pub fn open(
        &mut self,
        id: StreamId,
        head: Arc<OriginHead>,
        sealed_bytes: u64,
        object: u64,
        pass: bool,
        pieces: Vec<Bytes>,
    ) {
        let mut stream = Stream {
            head,
            pass,
            members: Vec::new(),
            unstored: false,
            object,
            sealed_bytes,
            pieces: VecDeque::new(),
            end_offset: sealed_bytes,
            state: State::Running,
            trailers: Bytes::new(),
            live: 0,
            moved: false,
        };
        for piece in pieces {
            stream.push(piece);
        }
        self.map.insert(id, stream);
    }

    /// How many there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// The stream, if it is known.
    pub fn get_mut(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.map.get_mut(&id)
    }

    /// More of it came: its clients are moved on once all of this turn's messages are read, and not for each of them.
    pub fn moved(&mut self, id: StreamId) {
        if let Some(stream) = self.map.get_mut(&id).filter(|stream| !stream.moved) {
            stream.moved = true;
            self.moved.push(id);
        }
    }

    /// One of which more came, if its clients are still to be moved on.
    pub fn take_moved(&mut self) -> Option<StreamId> {
        let id = self.moved.pop()?;
        if let Some(stream) = self.map.get_mut(&id) {
            stream.moved = false;
        }
        Some(id)
    }

    /// A client joins.
    pub fn join(&mut self, id: StreamId, slot: u32) -> Option<&Stream> {
        let stream = self.map.get_mut(&id)?;
        stream.members.push(slot);
        stream.live += 1;
        Some(stream)
    }

    /// A client leaves or is done. The last one of an ended stream takes it along.
    pub fn leave(&mut self, id: StreamId) {
        if let Some(stream) = self.map.get_mut(&id) {
            stream.live -= 1;
            if stream.live == 0 && stream.state != State::Running {
                self.map.remove(&id);
            }
        }
    }

    /// The stream ended; without clients it is forgotten.
    pub fn end(&mut self, id: StreamId, state: State) {
        if let Some(stream) = self.map.get_mut(&id) {
            stream.state = state;
            if stream.live == 0 {
                self.map.remove(&id);
            }
        }
    }

    /// Whether the stream broke off where it comes from.
    pub fn is_broken(&self, id: StreamId) -> bool {
        self.map.get(&id).is_some_and(|stream| stream.state == State::Broken)
    }

    /// What a client at `offset` gets next. A passed stream hands its pieces over and forgets them.
    pub fn next(&mut self, id: StreamId, offset: u64) -> Next {
        let Some(stream) = self.map.get_mut(&id) else {
            return Next::Broken;
        };
        if stream.state == State::Broken {
            return Next::Broken;
        }
        // A client of a part may be ahead of what has come.
        if offset >= stream.end_offset {
            return match stream.state {
                State::Whole if offset == stream.end_offset => Next::End(stream.trailers.clone()),
                State::Running => Next::Wait,
                _ => Next::Broken,
            };
        }
        if stream.pass
            && let Some((_, bytes)) = stream.pieces.pop_front()
        {
            return Next::Piece(bytes);
        }
        let held_from = stream.pieces.front().map_or(stream.end_offset, |piece| piece.0);
        if offset >= held_from {
            let at = stream.pieces.partition_point(|piece| piece.0 <= offset) - 1;
            let (start, bytes) = &stream.pieces[at];
            return Next::Piece(bytes.slice((offset - start) as usize..));
        }
        if offset < stream.sealed_bytes {
            let chunk = (offset / limits::CHUNK_BYTES as u64) as u32;
            let from = (offset % limits::CHUNK_BYTES as u64) as usize;
            return Next::Chunk { object: stream.object, chunk, from };
        }
        Next::Broken
    }
}

impl Stream {
    /// Takes the list of members out, each once, however many requests of a connection follow the stream.
    pub fn take_members(&mut self) -> Vec<u32> {
        let mut members = std::mem::take(&mut self.members);
        members.sort_unstable();
        members.dedup();
        members
    }

    /// The next bytes. Beyond the window the oldest are dropped: a client that lags so far behind an object
    /// that could not be stored is cut off.
    pub fn push(&mut self, bytes: Bytes) {
        let start = self.end_offset;
        self.end_offset += bytes.len() as u64;
        self.pieces.push_back((start, bytes));
        while self.pieces.front().is_some_and(|p| self.end_offset - p.0 > limits::STREAM_WINDOW_BYTES as u64)
        {
            self.pieces.pop_front();
        }
    }

    /// These lines follow its body.
    pub fn trail(&mut self, trailers: Bytes) {
        self.trailers = trailers;
    }

    /// Chunks below `sealed_bytes` are in the shard now. Says whether they came no other way before.
    pub fn seal(&mut self, sealed_bytes: u64) -> bool {
        self.sealed_bytes = sealed_bytes;
        self.drop_below(sealed_bytes);
        let moved = self.end_offset < sealed_bytes;
        self.end_offset = self.end_offset.max(sealed_bytes);
        moved
    }

    /// Whether no client is left.
    pub fn is_deserted(&self) -> bool {
        self.live == 0
    }

    /// Drops the pieces that lie wholly below this offset.
    pub fn drop_below(&mut self, offset: u64) {
        while self.pieces.front().is_some_and(|(start, bytes)| start + bytes.len() as u64 <= offset) {
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::freshness::Storing;

    fn streams_head() -> Arc<OriginHead> {
        let storing = Storing::No("x");
        Arc::new(OriginHead { status: 200, lines: vec![], body_bytes: None, age_s: None, storing })
    }

    fn streams(pass: bool) -> Streams {
        let mut streams = Streams::default();
        streams.open(
            1,
            streams_head(),
            0,
            9,
            pass,
            vec![Bytes::from_static(b"hello "), Bytes::from_static(b"world")],
        );
        streams
    }

    #[test]
    fn clients_follow_at_their_own_offset() {
        let mut streams = streams(false);
        streams.join(1, 3);
        assert_eq!(streams.next(1, 0), Next::Piece(Bytes::from_static(b"hello ")));
        assert_eq!(streams.next(1, 2), Next::Piece(Bytes::from_static(b"llo ")));
        assert_eq!(streams.next(1, 6), Next::Piece(Bytes::from_static(b"world")));
        assert_eq!(streams.next(1, 11), Next::Wait);
        streams.end(1, State::Whole);
        assert_eq!(streams.next(1, 11), Next::End(Bytes::new()));
        assert_eq!(streams.next(1, 3), Next::Piece(Bytes::from_static(b"lo ")));
        streams.leave(1);
        assert_eq!(streams.next(1, 0), Next::Broken, "the last client of an ended stream took it along");
    }

    #[test]
    fn clients_are_moved_on_once_a_turn_and_a_connection_once_for_all_its_requests() {
        let mut streams = streams(false);
        for slot in [7, 3, 7, 7, 3] {
            streams.join(1, slot);
        }
        for _ in 0..100 {
            streams.get_mut(1).unwrap().push(Bytes::from_static(b"more"));
            streams.moved(1);
        }
        streams.moved(2);
        assert_eq!((streams.take_moved(), streams.take_moved()), (Some(1), None));
        assert_eq!(streams.get_mut(1).unwrap().take_members(), [3, 7]);
        streams.moved(1);
        assert_eq!(streams.take_moved(), Some(1));
    }

    #[test]
    fn sealed_pieces_are_read_from_the_shard() {
        let mut streams = streams(false);
        streams.join(1, 3);
        let stream = streams.get_mut(1).unwrap();
        stream.push(Bytes::from(vec![1; limits::CHUNK_BYTES]));
        stream.seal(limits::CHUNK_BYTES as u64);
        assert_eq!(streams.next(1, 5), Next::Chunk { object: 9, chunk: 0, from: 5 });
        // The piece that straddles the seal stays until it is wholly sealed.
        let Next::Piece(rest) = streams.next(1, limits::CHUNK_BYTES as u64) else { panic!() };
        assert_eq!(rest.len(), 11);
    }

    #[test]
    fn slices_are_announced_and_read_from_the_shard() {
        const CHUNK: u64 = limits::CHUNK_BYTES as u64;
        let mut streams = Streams::default();
        let head = streams_head();
        streams.open(2, head, 0, 9, true, vec![]);
        streams.join(2, 3);
        let from = 5 * CHUNK + 7;
        assert_eq!(streams.next(2, from), Next::Wait, "its first slice is not there");
        assert!(streams.get_mut(2).unwrap().seal(6 * CHUNK));
        assert_eq!(streams.next(2, from), Next::Chunk { object: 9, chunk: 5, from: 7 });
        assert_eq!(streams.next(2, 6 * CHUNK), Next::Wait);
        streams.end(2, State::Broken);
        assert_eq!(streams.next(2, from), Next::Broken);
    }

    #[test]
    fn a_client_of_a_part_waits_until_it_has_come() {
        let mut streams = streams(false);
        streams.join(1, 3);
        assert_eq!(streams.next(1, 15), Next::Wait);
        streams.get_mut(1).unwrap().push(Bytes::from_static(b" and all"));
        assert_eq!(streams.next(1, 15), Next::Piece(Bytes::from_static(b" all")));
        streams.end(1, State::Whole);
        assert_eq!(streams.next(1, 40), Next::Broken, "the stream ended before");
    }

    #[test]
    fn what_was_let_go_of_is_gone_and_the_rest_stays() {
        let mut streams = streams(false);
        streams.join(1, 3);
        streams.get_mut(1).unwrap().drop_below(8);
        assert_eq!(streams.next(1, 6), Next::Piece(Bytes::from_static(b"world")));
        assert_eq!(streams.next(1, 0), Next::Broken);
        streams.get_mut(1).unwrap().drop_below(11);
        assert_eq!(streams.next(1, 11), Next::Wait);
    }

    #[test]
    fn a_broken_stream_never_looks_whole() {
        let mut streams = streams(false);
        streams.join(1, 3);
        streams.end(1, State::Broken);
        assert_eq!(streams.next(1, 0), Next::Broken);
        assert_eq!(streams.next(1, 11), Next::Broken);
    }

    #[test]
    fn passed_pieces_are_handed_over_once() {
        let mut streams = streams(true);
        streams.join(1, 3);
        assert_eq!(streams.next(1, 0), Next::Piece(Bytes::from_static(b"hello ")));
        assert_eq!(streams.next(1, 6), Next::Piece(Bytes::from_static(b"world")));
        assert_eq!(streams.next(1, 11), Next::Wait);
    }

    #[test]
    fn memory_of_an_unstored_stream_is_bounded() {
        let mut streams = streams(false);
        streams.join(1, 3);
        let stream = streams.get_mut(1).unwrap();
        for _ in 0..200 {
            stream.push(Bytes::from(vec![0; 1 << 20]));
        }
        assert!(stream.pieces.len() * (1 << 20) <= limits::STREAM_WINDOW_BYTES + (1 << 20));
        assert_eq!(streams.next(1, 0), Next::Broken);
    }
}
