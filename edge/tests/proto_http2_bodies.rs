//! Long bodies over HTTP/2: what the machine does for each frame it sends, and whose turn it is. The worker's part, a
//! queue of extents that is sent bit by bit, is played here.

#[path = "../src/proto/http2/frame.rs"]
mod frame;
mod proto_client;

use bytes::Bytes;
use edge::proto::freshness::Storing;
use edge::proto::http2::{Flood, Http2, PREFACE, Piece, Record, Segment, Upload, Width};
use edge::proto::response::OriginHead;
use edge::proto::session::{Action, FetchKind, Found, Input, Late, Out, Timeouts};
use frame::frame;
use proto_client::{START, record};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

const MIB: usize = 1 << 20;
/// As many segments as a worker's outbox takes.
const SEGMENTS: usize = 32;
/// What is sealed and sent at once.
const SENT_BYTES: usize = 64 << 10;

/// A chunk of a stored body that counts how often it is looked at.
#[derive(Clone)]
struct Chunk {
    body: Rc<Vec<u8>>,
    looks: Rc<Cell<u64>>,
}

impl Record for Chunk {
    fn body(&self) -> &[u8] {
        self.looks.set(self.looks.get() + 1);
        &self.body
    }
}

/// A connection on which every request is for the same stored body.
struct Connection {
    http2: Http2<Chunk>,
    out: Out,
    chunk: Chunk,
    body_bytes: usize,
    /// Bytes each stream was brought.
    brought: BTreeMap<u32, usize>,
    /// What waits to be sent, by segment.
    queued: Vec<Vec<u8>>,
    sent: Vec<u8>,
    /// Passes of the worker's loop.
    passes: u64,
    /// Times the machine asked for a body's next bytes.
    asked: u64,
}

impl Connection {
    /// With windows of so many bytes.
    fn new(body_bytes: usize, window: u32) -> Self {
        let out = Out::new(Timeouts::default(), Default::default(), Default::default());
        let body = (0..MIB).map(|at| (at / 7) as u8).collect();
        let mut connection = Connection {
            http2: Http2::new(START, &Timeouts::default(), Width::Wide),
            out,
            chunk: Chunk { body: Rc::new(body), looks: Rc::default() },
            body_bytes,
            brought: BTreeMap::new(),
            queued: Vec::new(),
            sent: Vec::new(),
            passes: 0,
            asked: 0,
        };
        let settings = [&[0, 4][..], &window.to_be_bytes()].concat();
        connection.receive(&[&PREFACE[..], &frame(4, 0, 0, &settings)].concat());
        if window > 65_535 {
            connection.receive(&frame(8, 0, 0, &(window - 65_535).to_be_bytes()));
        }
        connection
    }

    /// Asks on these streams, each with its Priority field.
    fn ask(&mut self, streams: &[(u32, &str)]) {
        for (stream, priority) in streams {
            let mut block = b"\x82\x86\x04\x04/hit\x01\x01a\0\x08priority".to_vec();
            block.push(priority.len() as u8);
            block.extend(priority.as_bytes());
            self.receive(&frame(1, 5, *stream, &block));
        }
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.http2.receive(bytes, START);
        self.http2.set_room(SEGMENTS);
        while let Some(id) = self.http2.poll(START, &mut self.out) {
            assert!(self.out.actions.contains(&Action::Lookup));
            self.out.clear();
            let body = "x".repeat(self.body_bytes);
            let asked = "GET /hit HTTP/1.1\r\nHost: a\r\n\r\n";
            let hit = record(asked, 200, "Cache-Control: max-age=9", &body, START.unix_s);
            let found = Found { meta: &hit.meta, head: &hit.head, chunks: None, purged: false };
            self.http2.on(id, Input::Found(Some(found)), START, &mut self.out);
            assert!(self.out.actions.contains(&Action::StoredBody(0..self.body_bytes as u64)));
            self.brought.insert(id, 0);
        }
    }

    /// One turn: everything that finds room is queued, then some of it is sent.
    fn turn(&mut self) {
        loop {
            self.passes += 1;
            self.http2.set_room(SEGMENTS - self.queued.len());
            assert_eq!(self.http2.poll(START, &mut self.out), None);
            while let Some(id) = self.http2.next_body() {
                self.asked += 1;
                let brought = self.brought.get_mut(&id).expect("a stream that was answered");
                let bytes = (self.body_bytes - *brought).min(MIB);
                assert!(bytes > 0, "its body is complete");
                *brought += bytes;
                self.http2.piece(id, Piece::Stored(self.chunk.clone(), 0..bytes));
            }
            let was_full = self.http2.is_full();
            let queued = &mut self.queued;
            self.http2.take(|segment| {
                queued.push(match segment {
                    Segment::Copied(bytes) => bytes.to_vec(),
                    Segment::Shared(Piece::Bytes(bytes)) => bytes.to_vec(),
                    Segment::Shared(Piece::Stored(chunk, range)) => chunk.body[range].to_vec(),
                });
            });
            assert!(self.queued.len() <= SEGMENTS, "no more than there is room for");
            if !(was_full && self.queued.len() + 4 <= SEGMENTS) {
                break;
            }
        }
        let mut room = SENT_BYTES;
        while room > 0 && !self.queued.is_empty() {
            let first = &mut self.queued[0];
            let bytes = first.len().min(room);
            self.sent.extend(first.drain(..bytes));
            room -= bytes;
            if first.is_empty() {
                self.queued.remove(0);
            }
        }
        self.http2.sent(SENT_BYTES - room, START);
    }

    /// DATA frames that were sent whole, by stream, in order; the rest stays.
    fn data(&mut self) -> Vec<(u32, Vec<u8>)> {
        let mut frames = Vec::new();
        while let Some(head) = self.sent.first_chunk::<9>() {
            let end = 9 + u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let (kind, stream) = (head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]));
            if self.sent.len() < end {
                break;
            }
            if kind == 0 {
                frames.push((stream, self.sent[9..end].to_vec()));
            }
            self.sent.drain(..end);
        }
        frames
    }
}

#[test]
fn work_follows_the_frames_whatever_the_windows() {
    const BODY: usize = 20 * MIB;
    for (window, streams) in [(0x7fff_ffff_u32, 1_u32), (0x7fff_ffff, 10), (65_535, 1), (65_535, 10)] {
        let body = BODY / streams as usize;
        let mut connection = Connection::new(body, window);
        let asked: Vec<u32> = (0..streams).map(|number| 2 * number + 1).collect();
        connection.ask(&asked.iter().map(|id| (*id, "i")).collect::<Vec<_>>());
        let (mut turns, mut received, mut frames) = (0_u64, BTreeMap::new(), 0_u64);
        while received.values().sum::<usize>() < BODY {
            turns += 1;
            connection.turn();
            for (stream, data) in connection.data() {
                let at = received.entry(stream).or_insert(0_usize);
                let from = *at % MIB;
                assert!(connection.chunk.body[from..].starts_with(&data), "{stream} at {at}");
                *at += data.len();
                frames += 1;
                if window == 65_535 {
                    let more = (data.len() as u32).to_be_bytes();
                    connection.receive(&[frame(8, 0, stream, &more), frame(8, 0, 0, &more)].concat());
                }
            }
            assert!(turns < 10_000, "{window} {streams}: {received:?}");
        }
        // Frames of 16 KiB, or of what the windows allow at the seams of chunks.
        assert!(frames < 2 * (BODY / (16 << 10)) as u64, "{window} {streams}: {frames} frames");
        assert!(turns < frames, "{window} {streams}: {turns} turns for {frames} frames");
        assert!(connection.passes <= 3 * turns, "{window} {streams}: {} passes", connection.passes);
        assert_eq!(connection.asked, 20, "{window} {streams}: once for each MiB");
        let looks = connection.chunk.looks.get();
        assert!(looks < 20 * frames, "{window} {streams}: {looks} looks for {frames} frames");
        // Nothing is left to do, and nothing is done.
        let before = connection.chunk.looks.get();
        connection.turn();
        assert_eq!(connection.chunk.looks.get(), before);
    }
}

#[test]
fn while_both_bodies_are_on_their_way_bytes_of_either_keep_the_client_in_time() {
    const TIMEOUT_MS: u64 = edge::limits::SEND_TIMEOUT_MS;
    let mut connection = Connection::new(0, 60);
    // POST, its body to follow.
    let (http2, out) = (&mut connection.http2, &mut connection.out);
    let mut now = START;
    http2.receive(&frame(1, 4, 1, b"\x83\x86\x04\x01/\x01\x01a"), now);
    let id = http2.poll(now, out).expect("a request");
    assert!(out.actions.contains(&Action::Fetch(FetchKind::Pass)));
    assert!(matches!(http2.upload(id, false), Upload::Nothing));
    let head = OriginHead {
        status: 200,
        lines: Vec::new(),
        body_bytes: None,
        age_s: None,
        storing: Storing::No("method"),
    };
    http2.on(id, Input::OriginHead { head: &head, collapsed: false }, now, out);
    // Always a byte more than the window.
    let mut answer = |http2: &mut Http2<Chunk>, bytes, now| {
        assert_eq!(http2.poll(now, out), None);
        assert_eq!(http2.next_body(), Some(id));
        http2.piece(id, Piece::Bytes(Bytes::from_static(&[0; 61]).slice(..bytes)));
        assert_eq!(http2.next_body(), None, "the window is full");
        http2.take(|_| {});
        http2.sent(100_000, now);
    };
    // The client sends nothing for a while, and takes what comes.
    answer(http2, 61, now);
    now.mono_ms += TIMEOUT_MS - 1;
    http2.receive(&frame(8, 0, 1, &60_u32.to_be_bytes()), now);
    answer(http2, 60, now);
    assert_eq!(http2.deadline_ms(), now.mono_ms + TIMEOUT_MS);
    // From here on it takes nothing before it has sent all.
    let mut sent = 0;
    for _ in 0..3 {
        now.mono_ms += TIMEOUT_MS - 1;
        http2.receive(&frame(0, 0, 1, &[7; 16_000]), now);
        assert_eq!(http2.poll(now, &mut connection.out), None);
        while let Upload::Data(bytes) = http2.upload(id, false) {
            sent += bytes.len();
        }
        assert_eq!(http2.next_body(), None);
        http2.take(|_| {});
        assert_eq!((http2.deadline_ms(), http2.late()), (now.mono_ms + TIMEOUT_MS, Late::Reader));
    }
    assert_eq!(sent, 48_000);
    now.mono_ms += TIMEOUT_MS;
    assert_eq!(http2.deadline_ms(), now.mono_ms);
}

/// What was begun on this stream is to be fetched: the answer is of this head.
fn answered_by_an_origin(connection: &mut Connection, body_bytes: Option<u64>) -> u32 {
    let (http2, out) = (&mut connection.http2, &mut connection.out);
    http2.receive(&frame(1, 5, 1, b"\x82\x86\x04\x01/\x01\x01a"), START);
    http2.set_room(SEGMENTS);
    let id = http2.poll(START, out).expect("a request");
    http2.on(id, Input::Found(None), START, out);
    assert!(out.actions.contains(&Action::Fetch(FetchKind::Fill)));
    let storing = Storing::No("method");
    let head = OriginHead { status: 200, lines: Vec::new(), body_bytes, age_s: None, storing };
    http2.on(id, Input::OriginHead { head: &head, collapsed: false }, START, out);
    id
}

/// What is sent now, each frame by kind, flags and payload.
fn frames(http2: &mut Http2<Chunk>) -> Vec<(u8, u8, usize)> {
    let mut bytes = Vec::new();
    http2.take(|segment| match segment {
        Segment::Copied(copied) => bytes.extend_from_slice(copied),
        Segment::Shared(Piece::Bytes(shared)) => bytes.extend_from_slice(&shared),
        Segment::Shared(Piece::Stored(chunk, range)) => bytes.extend_from_slice(&chunk.body[range]),
    });
    let (mut rest, mut frames) = (&bytes[..], Vec::new());
    while let Some((head, more)) = rest.split_first_chunk::<9>() {
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        frames.push((head[3], head[4], len));
        rest = &more[len..];
    }
    frames
}

/// RFC 9113 section 6.9: a frame of no bytes needs no window, and a client whose window was as long as the body owes
/// none.
#[test]
fn the_end_of_a_body_that_filled_the_window_is_sent() {
    const TRAILERS: &[u8] = b"a: b\r\n";
    for (body_bytes, trailers) in [(Some(60), false), (None, false), (None, true)] {
        let mut connection = Connection::new(0, 60);
        let id = answered_by_an_origin(&mut connection, body_bytes);
        let (http2, out) = (&mut connection.http2, &mut connection.out);
        assert_eq!(http2.next_body(), Some(id));
        out.clear();
        http2.on(id, Input::Piece(60), START, out);
        assert_eq!(out.actions, [Action::Piece]);
        http2.piece(id, Piece::Bytes(Bytes::from_static(&[0; 60])));
        assert_eq!(http2.next_body(), Some(id), "what follows may need no window");
        http2.stall(id);
        assert_eq!(http2.next_body(), None);
        assert_eq!(frames(http2).last(), Some(&(0, 0, 60)));
        assert_eq!(http2.deadline_ms(), u64::MAX, "it is the origin that is awaited");
        http2.resume(id);
        assert_eq!(http2.next_body(), Some(id));
        let end = if trailers { Input::Trailers(TRAILERS) } else { Input::End };
        http2.on(id, end, START, out);
        assert_eq!(http2.next_body(), None);
        let (kind, flags, _) = frames(http2)[0];
        assert_eq!((kind, flags & 1), (u8::from(trailers), 1), "{body_bytes:?}");
    }
}

/// Its last bytes are with the crate below, its stream has ended; the client takes them bit by bit.
#[test]
fn a_response_that_is_on_its_way_is_not_cut_off_for_idleness() {
    const BODY: usize = 100 << 10;
    let mut connection = Connection::new(BODY, 0x7fff_ffff);
    connection.ask(&[(1, "")]);
    let http2 = &mut connection.http2;
    let (mut now, mut received, mut ended) = (START, 0, false);
    while !ended {
        // For one frame.
        http2.set_room(3);
        assert_eq!(http2.poll(now, &mut connection.out), None);
        while let Some(id) = http2.next_body() {
            http2.piece(id, Piece::Stored(connection.chunk.clone(), 0..BODY));
        }
        let sent = frames(http2);
        assert!(!sent.is_empty(), "{received} of {BODY} bytes came");
        for (kind, flags, bytes) in sent {
            received += if kind == 0 { bytes } else { 0 };
            ended |= kind == 0 && flags & 1 == 1;
        }
        // Slow, but not too slow.
        now.mono_ms += edge::limits::SEND_TIMEOUT_MS - 1;
        http2.sent(16 << 10, now);
        if http2.deadline_ms() <= now.mono_ms {
            assert!(http2.deadline(now, &mut connection.out));
        }
    }
    assert_eq!(received, BODY);
    assert!(now.mono_ms > START.mono_ms + edge::limits::IDLE_TIMEOUT_MS, "else it shows nothing");
    http2.set_room(SEGMENTS);
    assert_eq!(frames(http2), []);
    assert_eq!(
        (http2.deadline_ms(), http2.late()),
        (now.mono_ms + edge::limits::IDLE_TIMEOUT_MS, Late::Request),
        "from its end on there is time for another request"
    );
}

/// Bodies of requests that come to no end, whoever gives them up and whenever: the connection's window stays as it was.
#[test]
fn streams_that_end_early_give_their_window_back() {
    const BYTES: u32 = 16_000;
    let mut connection = Connection::new(0, 65_535);
    let (http2, out) = (&mut connection.http2, &mut connection.out);
    let (mut sent, mut given_back) = (0, 0);
    for number in 0..100 {
        let id = 2 * number + 1;
        let data = frame(0, 0, id, &[7; BYTES as usize]);
        http2.set_room(SEGMENTS);
        http2.receive(&frame(1, 4, id, b"\x83\x86\x04\x01/\x01\x01a"), START);
        assert_eq!(http2.poll(START, out), Some(id), "{number}");
        let come = |http2: &mut Http2<Chunk>, out: &mut Out, bytes: &[u8]| {
            http2.receive(bytes, START);
            assert_eq!(http2.poll(START, out), None);
        };
        let reset = frame(3, 0, id, &[0, 0, 0, 8]);
        let refuse = |http2: &mut Http2<Chunk>, out: &mut Out| {
            out.clear();
            http2.on(id, Input::Refused(503, b""), START, out);
            assert_eq!(http2.next_body(), None);
        };
        match number % 6 {
            0 => {
                refuse(http2, out);
                come(http2, out, &data);
            }
            1 => {
                come(http2, out, &data);
                refuse(http2, out);
            }
            2 => {
                come(http2, out, &data);
                assert!(matches!(http2.upload(id, false), Upload::Data(_)));
                come(http2, out, &reset);
            }
            3 => {
                come(http2, out, &data);
                come(http2, out, &reset);
            }
            4 => come(http2, out, &[&data[..], &reset].concat()),
            _ => {
                come(http2, out, &data);
                assert_eq!(http2.upload(id, true), Upload::Nothing);
                http2.break_off(id);
            }
        }
        sent += BYTES;
        let mut bytes = Vec::new();
        http2.take(|segment| match segment {
            Segment::Copied(copied) => bytes.extend_from_slice(copied),
            Segment::Shared(_) => panic!("nothing long is sent"),
        });
        let mut rest = &bytes[..];
        while let Some((head, more)) = rest.split_first_chunk::<9>() {
            let (payload, more) = more.split_at(usize::from(head[1]) << 8 | usize::from(head[2]));
            assert_ne!(head[3], 7, "GOAWAY after {number}: {payload:?}");
            if head[3] == 8 && head[5..] == [0; 4] {
                given_back += u32::from_be_bytes(payload.try_into().unwrap());
            }
            rest = more;
        }
        assert!(sent < given_back + edge::limits::HTTP2_CONNECTION_WINDOW_BYTES / 2 + BYTES, "{number}");
        while http2.gone().is_some() {}
    }
}

/// Who is answered before all was sent may send the rest, if that is little; a reset (allowed by RFC 9113 section 8.1) would
/// have some clients throw the answer away.
#[test]
fn the_rest_of_a_request_that_is_answered_is_taken_up_to_a_bound() {
    const RESET: u8 = 3;
    const BYTES: usize = 16_000;
    let mut connection = Connection::new(0, 65_535);
    let (http2, out) = (&mut connection.http2, &mut connection.out);
    let resets = |http2: &mut Http2<Chunk>| frames(http2).iter().filter(|(kind, ..)| *kind == RESET).count();
    let come = |http2: &mut Http2<Chunk>, out: &mut Out, bytes: &[u8]| {
        http2.receive(bytes, START);
        http2.set_room(SEGMENTS);
        assert_eq!(http2.poll(START, out), None);
        resets(http2)
    };
    let answered = |http2: &mut Http2<Chunk>, out: &mut Out, id: u32| {
        http2.receive(&frame(1, 4, id, b"\x83\x86\x04\x01/\x01\x01a"), START);
        http2.set_room(SEGMENTS);
        assert_eq!(http2.poll(START, out), Some(id));
        out.clear();
        http2.on(id, Input::Refused(403, b""), START, out);
        assert_eq!(http2.next_body(), None);
        assert_eq!(http2.gone(), Some(id), "nothing else is held for it");
        resets(http2)
    };
    assert_eq!(answered(http2, out, 1), 0);
    assert_eq!(come(http2, out, &frame(0, 0, 1, &[7; BYTES])), 0);
    assert_eq!(come(http2, out, &frame(0, 1, 1, &[7; BYTES])), 0, "it has ended by itself");

    assert_eq!(answered(http2, out, 3), 0);
    let most = edge::limits::HTTP2_UNWANTED_BYTES_MAX.div_ceil(BYTES);
    for number in 1..=most {
        assert_eq!(come(http2, out, &frame(0, 0, 3, &[7; BYTES])), usize::from(number == most), "{number}");
    }

    let ids = (0..edge::limits::HTTP2_UNWANTED_MAX as u32 + 1).map(|number| 2 * number + 5);
    let sum: usize = ids.map(|id| answered(http2, out, id)).sum();
    assert_eq!(sum, 1, "the oldest has made room");
    http2.drain();
    assert_eq!(come(http2, out, b""), edge::limits::HTTP2_UNWANTED_MAX, "none is waited for at the end");
}

/// What was to be sent on a stream that is reset: others may use the window that it would have taken.
#[test]
fn a_reset_gives_the_room_of_what_was_not_sent_to_others() {
    let mut connection = Connection::new(MIB, 65_535);
    connection.ask(&[(1, "")]);
    let mut bytes = [0; 2];
    for (at, id) in [1, 3].into_iter().enumerate() {
        let http2 = &mut connection.http2;
        // For one frame of the first.
        http2.set_room(if at == 0 { 3 } else { SEGMENTS });
        assert_eq!(http2.next_body(), Some(id));
        http2.piece(id, Piece::Stored(connection.chunk.clone(), 0..MIB));
        assert_eq!(http2.next_body(), None);
        let data = frames(http2).into_iter().filter(|(kind, ..)| *kind == 0);
        bytes[at] = data.map(|(_, _, bytes)| bytes).sum();
        if at == 0 {
            connection.receive(&frame(3, 0, id, &[0, 0, 0, 8]));
            connection.ask(&[(3, "")]);
        }
    }
    assert!(bytes[0] > 0 && bytes[0] < 65_535, "{bytes:?}");
    assert_eq!(bytes[0] + bytes[1], 65_535, "{bytes:?}");
}

/// A client that has asked for more than it takes, so that nothing can be told to it.
fn that_takes_nothing() -> Connection {
    let mut connection = Connection::new(MIB, 0x7fff_ffff);
    connection.ask(&[(1, "")]);
    let http2 = &mut connection.http2;
    http2.set_room(3);
    assert_eq!(http2.next_body(), Some(1));
    http2.piece(1, Piece::Stored(connection.chunk.clone(), 0..MIB));
    assert_eq!(http2.next_body(), None);
    http2.take(|_| {});
    http2.set_room(0);
    connection
}

#[test]
fn who_neither_takes_what_is_sent_nor_ends_what_it_began_is_let_go_of() {
    let mut connection = that_takes_nothing();
    let (http2, out) = (&mut connection.http2, &mut connection.out);
    // A field section without its end.
    http2.receive(&frame(1, 1, 3, b"\x82"), START);
    let mut now = START;
    for _ in 0..5 {
        assert_eq!(http2.poll(now, out), None);
        http2.take(|_| panic!("there is no room"));
        now.mono_ms = http2.deadline_ms();
        assert!(now.mono_ms <= START.mono_ms + 2 * edge::limits::SEND_TIMEOUT_MS, "{now:?}");
        if !http2.deadline(now, out) {
            return;
        }
    }
    panic!("it stays for ever");
}

/// A bound counts as passed when it is, not when the client has taken the news.
#[test]
fn who_floods_and_takes_nothing_is_known_at_once() {
    let mut connection = that_takes_nothing();
    let http2 = &mut connection.http2;
    let pings = edge::limits::HTTP2_PINGS_PER_SECOND_MAX as usize + 1;
    http2.receive(&frame(6, 0, 0, &[7; 8]).repeat(pings), START);
    assert_eq!(http2.poll(START, &mut connection.out), None);
    assert_eq!((http2.take_flood(), http2.take_flood()), (Some(Flood::Pings), None));
    assert!(!http2.is_over(), "the reason is still to be told");
    http2.set_room(SEGMENTS);
    let last = frames(http2).pop().expect("the reason");
    assert_eq!((last.0, http2.is_over(), http2.take_flood()), (7, true, None));
}

#[test]
fn nothing_is_done_for_a_reader_that_takes_nothing() {
    let mut connection = Connection::new(20 * MIB, 65_535);
    connection.ask(&[(1, "i"), (3, "u=0"), (5, "")]);
    for _ in 0..5 {
        connection.turn();
    }
    let (passes, looks) = (connection.passes, connection.chunk.looks.get());
    for _ in 0..100 {
        connection.turn();
    }
    assert_eq!(connection.passes - passes, 100, "one pass a turn");
    assert!(connection.chunk.looks.get() - looks <= 100 * 6, "a look at each stream that might send");
    assert_eq!(connection.data().iter().map(|(_, data)| data.len()).sum::<usize>(), 65_535);
}

/// The order in which the bytes of equal bodies end, and how much of the others was sent before each end.
#[test]
fn urgent_responses_go_first_and_incremental_ones_share() {
    const BODY: usize = 2 * MIB;
    let ends = |streams: &[(u32, &str)]| {
        let mut connection = Connection::new(BODY, 0x7fff_ffff);
        connection.ask(streams);
        let (mut received, mut ends) = (BTreeMap::<u32, usize>::new(), Vec::new());
        while ends.len() < streams.len() {
            connection.turn();
            assert!(connection.passes < 10_000, "{received:?}");
            for (stream, data) in connection.data() {
                let at = received.entry(stream).or_default();
                *at += data.len();
                if *at == BODY {
                    ends.push((stream, received.values().sum::<usize>()));
                }
            }
        }
        ends
    };
    // By urgency, not by order of asking; the shared turns cost the urgent one a little.
    let order = ends(&[(1, "u=5"), (3, "u=3"), (5, "u=0")]);
    assert_eq!(order.iter().map(|end| end.0).collect::<Vec<_>>(), [5, 3, 1]);
    assert!(order[0].1 < BODY + BODY / 6, "{order:?}");
    // Of use only whole: one after the other, as asked for.
    let order = ends(&[(1, ""), (3, ""), (5, "")]);
    assert_eq!(order.iter().map(|end| end.0).collect::<Vec<_>>(), [1, 3, 5]);
    assert!(order[0].1 < BODY + BODY / 6 && order[1].1 < 2 * BODY + BODY / 4, "{order:?}");
    // Of use in parts: all grow together, so the first ends when nearly all is sent.
    let order = ends(&[(1, "i"), (3, "i"), (5, "i"), (7, "i")]);
    assert!(order[0].1 > 4 * BODY - BODY / 4, "{order:?}");
    // An incremental one beside one that is not: they take turns.
    let order = ends(&[(1, "i"), (3, "")]);
    assert!(order[0].1 > 2 * BODY - BODY / 4, "{order:?}");
}

/// A hundred responses of equal priority, none incremental, in small windows: the last ends at most three times as
/// late as the one in the middle, counted in bytes sent.
#[test]
fn no_response_of_a_hundred_starves() {
    const BODY: usize = 256 << 10;
    for priority in ["", "i"] {
        let mut connection = Connection::new(BODY, 0x7fff_ffff);
        let streams: Vec<(u32, &str)> = (0..100).map(|number| (2 * number + 1, priority)).collect();
        connection.ask(&streams);
        let (mut received, mut ends, mut sent) = (BTreeMap::<u32, usize>::new(), Vec::new(), 0);
        while ends.len() < streams.len() {
            connection.turn();
            assert!(connection.passes < 10_000, "{received:?}");
            for (stream, data) in connection.data() {
                let at = received.entry(stream).or_default();
                *at += data.len();
                sent += data.len();
                if *at == BODY {
                    ends.push(sent);
                }
            }
        }
        assert!(ends[99] <= 3 * ends[50], "{priority:?}: {ends:?}");
    }
}

/// An answer that has no room to be sent keeps the `h2` crate from reading: a reset that came meanwhile counts once it is read.
#[test]
fn a_reset_that_is_read_later_ends_its_stream() {
    let mut connection = Connection::new(MIB, 0x7fff_ffff);
    connection.ask(&[(1, "u=0"), (3, "u=7")]);
    // Nothing of what is queued is sent.
    let http2 = &mut connection.http2;
    http2.set_room(6);
    assert_eq!(http2.next_body(), Some(1));
    http2.piece(1, Piece::Stored(connection.chunk.clone(), 0..MIB));
    http2.next_body();
    http2.take(|_| {});
    http2.set_room(0);
    http2.receive(&[frame(6, 0, 0, &[7; 8]), frame(3, 0, 3, &[0, 0, 0, 8])].concat(), START);
    assert_eq!(http2.poll(START, &mut connection.out), None);
    http2.take(|_| panic!("there is no room"));
    assert_eq!(http2.gone(), None, "it was not read");
    http2.set_room(SEGMENTS);
    http2.take(|_| {});
    assert_eq!((http2.gone(), http2.gone()), (Some(3), None));
}
