//! What an HTTP/2 connection takes when its client does all that it may: as much as is reckoned with, and no more.

#[path = "../src/proto/http2/frame.rs"]
mod frame;

use edge::limits;
use edge::proto::Now;
use edge::proto::http2::{Http2, PREFACE, Record, Segment, Upload, Width};
use edge::proto::io::{Input, Out, Timeouts};
use frame::frame;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system allocator unchanged; counting touches a constant-initialised
// thread-local without a destructor, which never allocates.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.with(|held| held.set(held.get().wrapping_add(layout.size())));
        // SAFETY: the caller keeps to the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.with(|held| held.set(held.get().wrapping_sub(layout.size())));
        // SAFETY: `pointer` came from `alloc` above, that is from the system allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const NOW: Now = Now { mono_ms: 10_000, unix_s: 1_763_812_800 };

#[derive(Clone)]
struct Nothing;

impl Record for Nothing {
    fn body(&self) -> &[u8] {
        b""
    }
}

/// Bytes that this thread holds beside those at the start of the test.
struct Held(usize);

impl Held {
    fn bytes(&self) -> usize {
        HELD.with(Cell::get).wrapping_sub(self.0)
    }
}

struct Peer {
    http2: Http2<Nothing>,
    out: Out,
    sent: Vec<u8>,
}

impl Peer {
    fn new(width: Width) -> Peer {
        let out = Out::new(Timeouts::default(), Default::default(), Default::default());
        let http2 = Http2::new(NOW, &Timeouts::default(), width);
        let mut peer = Peer { http2, out, sent: Vec::new() };
        peer.send(&[&PREFACE[..], &frame(4, 0, 0, b""), &frame(4, 1, 0, b"")].concat());
        peer
    }

    /// Says which requests began.
    fn send(&mut self, bytes: &[u8]) -> Vec<u32> {
        let mut begun = Vec::new();
        // As much at once as a worker has of a connection's.
        for bytes in bytes.chunks(16 * 1024) {
            self.http2.receive(bytes, NOW);
            self.http2.set_room(32);
            while let Some(id) = self.http2.poll(NOW, &mut self.out) {
                begun.push(id);
            }
            self.write();
        }
        begun
    }

    fn write(&mut self) {
        self.http2.set_room(32);
        assert_eq!(self.http2.next_body(), None);
        let sent = &mut self.sent;
        sent.clear();
        self.http2.take(|segment| match segment {
            Segment::Copied(bytes) => sent.extend_from_slice(bytes),
            Segment::Shared(_) => panic!("nothing long is sent"),
        });
        while self.http2.gone().is_some() {}
    }

    fn answer(&mut self, id: u32) {
        self.out.clear();
        self.http2.on(id, Input::Found(None), NOW, &mut self.out);
        self.http2.on(id, Input::Refused(503, b""), NOW, &mut self.out);
    }
}

fn request(id: u32, ends: bool) -> Vec<u8> {
    let method: &[u8] = if ends { b"\x82" } else { b"\x83" };
    let fields = b"\x86\x04\x04/hit\x01\x01a\x7a\x0bMozilla/5.0\x53\x03*/*\x40\x06cookie\x08";
    let cookie = format!("{id:08}");
    frame(1, if ends { 5 } else { 4 }, id, &[method, fields, cookie.as_bytes()].concat())
}

/// Whether this frame is among what was sent last.
fn has(sent: &[u8], kind: u8, stream: u32, payload: &[u8]) -> bool {
    let whole = frame(kind, 0, stream, payload);
    sent.windows(whole.len()).any(|window| window == whole)
}

#[test]
fn a_connection_takes_no_more_than_is_reckoned_with() {
    for (width, streams, window, most) in [
        (
            Width::Wide,
            limits::HTTP2_STREAMS_MAX,
            limits::HTTP2_CONNECTION_WINDOW_BYTES,
            limits::HTTP2_CONNECTION_BYTES,
        ),
        (
            Width::Narrow,
            limits::HTTP2_NARROW_STREAMS_MAX,
            limits::HTTP2_NARROW_WINDOW_BYTES,
            limits::HTTP2_NARROW_CONNECTION_BYTES,
        ),
    ] {
        let held = Held(HELD.with(Cell::get));
        let mut peer = Peer::new(width);
        let ids = |round: u32| (0..streams).map(move |number| 2 * (round * streams + number) + 1);
        // Pages that are answered first: tables have grown.
        for round in 0..3 {
            let asked: Vec<u8> = ids(round).flat_map(|id| request(id, true)).collect();
            assert_eq!(peer.send(&asked), Vec::from_iter(ids(round)));
            ids(round).for_each(|id| peer.answer(id));
            peer.write();
        }
        println!("{width:?}: {} bytes idle", held.bytes());
        // As many uploads as streams, and all that the window lets pass, which nobody takes.
        let asked: Vec<u8> = ids(3).flat_map(|id| request(id, false)).collect();
        assert_eq!(peer.send(&asked), Vec::from_iter(ids(3)));
        assert!(peer.send(&request(2 * 4 * streams + 1, true)).is_empty(), "one more");
        assert!(has(&peer.sent, 3, 2 * 4 * streams + 1, &[0, 0, 0, 7]), "REFUSED_STREAM: {:?}", peer.sent);
        let each = window / streams;
        ids(3).for_each(|id| drop(peer.send(&frame(0, 0, id, &vec![7; each as usize]))));
        println!("{width:?}: {} bytes of {most}, with {streams} uploads", held.bytes());
        assert!(held.bytes() > (each * streams) as usize, "they are held");
        assert!(held.bytes() < most, "{} of {most}", held.bytes());
        for id in ids(3) {
            peer.out.clear();
            peer.http2.on(id, Input::Found(None), NOW, &mut peer.out);
            assert_eq!(peer.http2.upload(id, true), Upload::Nothing);
        }
        // And a part of a frame beyond it.
        peer.send(&[&frame(1, 0, 99_999, &[b'a'; 16_000])[..12_000]].concat());
        assert!(held.bytes() < most, "{} of {most}", held.bytes());
        assert!(!peer.http2.is_over());
        let mut other = Peer::new(width);
        // No stream more than its own window.
        let ids = [1, 3, 5];
        ids.iter().for_each(|id| drop(other.send(&request(*id, false))));
        for number in 0..window as usize / 16_384 + 1 {
            assert!(!other.http2.is_over(), "{number}");
            other.send(&frame(0, 0, ids[number % 3], &[7; 16_384]));
        }
        assert!(other.http2.is_over(), "more than the window lets pass");
    }
}
