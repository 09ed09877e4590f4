//! RFC 9113 section by section: frames that are wrong or unusual, and what must become of the stream or the
//! connection. All in memory: the machine on one side, frames written by hand on the other.

#[path = "../src/proto/http2/frame.rs"]
mod frame;
mod proto_client;

use bytes::Bytes;
use edge::limits;
use edge::proto::http2::{Http2, PREFACE, Piece, Record, Segment, Upload, Width};
use edge::proto::session::{Action, Found, Input, Out, Timeouts};
use frame::frame;
use proto_client::{START, record};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const PRIORITY_UPDATE: u8 = 16;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITISED: u8 = 0x20;

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const ENHANCE_YOUR_CALM: u32 = 11;

#[derive(Clone)]
struct Nothing;

impl Record for Nothing {
    fn body(&self) -> &[u8] {
        b""
    }
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

struct Peer {
    http2: Http2<Nothing>,
    out: Out,
    frames: Vec<Frame>,
    unparsed: Vec<u8>,
    uploads: Vec<(u32, Vec<u8>)>,
}

impl Peer {
    fn new() -> Peer {
        let out = Out::new(Timeouts::default(), Default::default(), Default::default());
        let http2 = Http2::new(START, &Timeouts::default(), Width::Wide);
        Peer { http2, out, frames: Vec::new(), unparsed: Vec::new(), uploads: Vec::new() }
    }

    /// `/hit` is stored; everything else is answered 404 once its body has come.
    fn send(&mut self, bytes: &[u8]) {
        self.http2.receive(bytes, START);
        self.http2.set_room(1000);
        while let Some(id) = self.http2.poll(START, &mut self.out) {
            self.act(id);
        }
        for (id, received) in std::mem::take(&mut self.uploads) {
            self.upload(id, received);
        }
        assert_eq!(self.http2.next_body(), None);
        let unparsed = &mut self.unparsed;
        self.http2.take(|segment| match segment {
            Segment::Copied(bytes) => unparsed.extend_from_slice(bytes),
            Segment::Shared(Piece::Bytes(bytes)) => unparsed.extend_from_slice(&bytes),
            Segment::Shared(Piece::Stored(..)) => panic!("nothing is stored so"),
        });
        while let Some(head) = self.unparsed.first_chunk::<9>() {
            let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let (kind, flags) = (head[3], head[4]);
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let payload = self.unparsed[9..9 + len].to_vec();
            self.unparsed.drain(..9 + len);
            self.frames.push(Frame { kind, flags, stream, payload });
        }
        while self.http2.gone().is_some() {}
    }

    fn act(&mut self, id: u32) {
        loop {
            let actions = std::mem::take(&mut self.out.actions);
            let mut asked = None;
            for action in actions {
                match action {
                    Action::Lookup if self.out.request.path() == "/hit" => asked = Some(true),
                    Action::Lookup => asked = Some(false),
                    Action::Fetch(_) => self.uploads.push((id, Vec::new())),
                    Action::StoredBody(range) => {
                        let body = vec![b'b'; range.end as usize];
                        self.http2.piece(id, Piece::Bytes(Bytes::from(body)));
                    }
                    Action::Done => {}
                    other => panic!("{other:?}"),
                }
            }
            self.out.clear();
            let hit = record(
                "GET /hit HTTP/1.1\r\nHost: a\r\n\r\n",
                200,
                "Cache-Control: max-age=9",
                "12345",
                START.unix_s,
            );
            let found = Found { meta: &hit.meta, head: &hit.head, chunks: None, purged: false };
            match asked {
                None => return,
                Some(is_hit) => {
                    let input = Input::Found(is_hit.then_some(found));
                    self.http2.on(id, input, START, &mut self.out);
                }
            }
        }
    }

    fn upload(&mut self, id: u32, mut received: Vec<u8>) {
        loop {
            match self.http2.upload(id, false) {
                Upload::Data(bytes) => received.extend_from_slice(&bytes),
                Upload::Nothing if self.out.request.method_name() != "GET" => {
                    return self.uploads.push((id, received));
                }
                Upload::Broken => return self.http2.break_off(id),
                Upload::End(_) | Upload::Nothing => {
                    self.out.clear();
                    self.http2.on(id, Input::Refused(404, b""), START, &mut self.out);
                    return;
                }
            }
        }
    }

    fn goaway(&self) -> Option<u32> {
        let frame = self.frames.iter().find(|frame| frame.kind == GOAWAY)?;
        Some(u32::from_be_bytes(frame.payload[4..8].try_into().unwrap()))
    }

    fn reset(&self, stream: u32) -> Option<u32> {
        let frame = self.frames.iter().find(|frame| frame.kind == RST_STREAM && frame.stream == stream)?;
        Some(u32::from_be_bytes(frame.payload[..].try_into().unwrap()))
    }

    /// The first byte of the response's field section, which is the status if that has an index.
    fn answer(&self, stream: u32) -> Option<u8> {
        let frame = self.frames.iter().find(|frame| frame.kind == HEADERS && frame.stream == stream)?;
        Some(frame.payload[0])
    }

    fn has(&self, kind: u8, flags: u8, payload: &[u8]) -> bool {
        let mut frames = self.frames.iter();
        frames.any(|frame| frame.kind == kind && frame.flags == flags && frame.payload == payload)
    }
}

/// Fields as literals that enter no table.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        for text in [name, value] {
            block.extend(if text == name { &[0][..] } else { &[] });
            let len = text.len();
            if len < 127 {
                block.push(len as u8);
            } else {
                block.extend([127, ((len - 127) & 0x7f) as u8 | 0x80, ((len - 127) >> 7) as u8]);
            }
            block.extend(text.as_bytes());
        }
    }
    block
}

const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/hit")];
const POST: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/up")];

/// GET with more fields.
fn get(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(&[&GET, more].concat()))
}

/// A whole request of just these fields.
fn only(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(fields))
}

fn post(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &block(&[&POST, more].concat()))
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

fn window(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

/// What must come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    /// 200 on stream 1, and the connection lives.
    Hit,
    /// Some answer other than 200 on stream 1, and the connection lives.
    Refused,
    /// 404 on stream 1: it went to control, whole; and the connection lives.
    Passed,
    /// Nothing; the connection lives.
    Ignored,
    /// RST_STREAM of stream 1 with this code; the connection lives.
    Reset(u32),
    /// The stream's error may be taken for the connection's (section 5.4.2), and is.
    Goaway(u32),
}

fn check(section: &str, name: &str, bytes: &[u8], want: Want) -> Result<(), String> {
    let start = [&PREFACE[..], &frame(SETTINGS, 0, 0, b"")].concat();
    // However the bytes are cut.
    for cut in [usize::MAX, 7] {
        let mut peer = Peer::new();
        peer.send(&start);
        bytes.chunks(cut.min(bytes.len().max(1))).for_each(|part| peer.send(part));
        let (goaway, reset, answer) = (peer.goaway(), peer.reset(1), peer.answer(1));
        let seen =
            format!("{section} {name}: {want:?} wanted; GOAWAY {goaway:?} RST {reset:?} HEADERS {answer:x?}");
        let good = match want {
            Want::Hit => answer == Some(0x88) && reset.is_none(),
            Want::Refused => answer.is_some_and(|status| status != 0x88),
            Want::Passed => answer == Some(0x8d),
            Want::Ignored => answer.is_none() && reset.is_none(),
            Want::Reset(code) => reset == Some(code) && answer.is_none(),
            Want::Goaway(code) => goaway == Some(code),
        };
        let ends = matches!(want, Want::Goaway(_));
        if !good || peer.http2.is_over() != ends || goaway.is_some() != matches!(want, Want::Goaway(_)) {
            return Err(seen);
        }
        if !ends {
            peer.send(&get(4001, &[]));
            if peer.answer(4001) != Some(0x88) {
                return Err(format!("{seen}; and then no answer to another request"));
            }
        }
    }
    Ok(())
}

type Case = (&'static str, &'static str, Vec<u8>, Want);

#[rustfmt::skip]
fn frames() -> Vec<Case> {
    use Want::*;
    // The `h2` crate says PROTOCOL_ERROR where the RFC has a code of its own. The connection ends all the same.
    let coarse = Goaway(PROTOCOL_ERROR);
    let long = vec![0; 16_385];
    let windows = 1 + limits::HTTP2_WINDOW_UPDATES_PER_SECOND_MAX as usize;
    let half = block(&GET).len() / 2;
    let (first, second) = (block(&GET)[..half].to_vec(), block(&GET)[half..].to_vec());
    let open = || frame(HEADERS, END_STREAM, 1, &first);
    vec![
        ("4.1", "unknown type", [frame(0xbe, 0xff, 9, b"what"), get(1, &[])].concat(), Hit),
        ("4.1", "unknown flags", frame(HEADERS, END_STREAM | END_HEADERS | 0xc2, 1, &block(&GET)), Hit),
        ("4.1", "reserved bit of the stream", { let mut f = get(1, &[]); f[5] |= 0x80; f }, Hit),
        ("4.2", "DATA beyond the size", [post(1, &[]), frame(DATA, 0, 1, &long)].concat(), Goaway(FRAME_SIZE_ERROR)),
        ("4.2", "HEADERS beyond the size", frame(HEADERS, 5, 1, &long), Goaway(FRAME_SIZE_ERROR)),
        ("4.3", "HPACK: index 0", frame(HEADERS, 5, 1, &[0x80]), coarse),
        ("4.3", "HPACK: index not there", frame(HEADERS, 5, 1, &[0xff, 0x50]), coarse),
        ("4.3", "HPACK: cut short", frame(HEADERS, 5, 1, &[0x00, 5, b'a']), coarse),
        ("4.3", "HPACK: table too large", frame(HEADERS, 5, 1, &[0x3f, 0xe1, 0xff, 0x7f]), coarse),
        ("4.3", "another frame within a section", [open(), frame(PING, 0, 0, &[0; 8])].concat(), Goaway(PROTOCOL_ERROR)),
        ("4.3", "another stream within a section", [open(), frame(CONTINUATION, 4, 3, &second)].concat(), Goaway(PROTOCOL_ERROR)),
        ("5.1", "DATA on an idle stream", frame(DATA, 1, 1, b"x"), Goaway(PROTOCOL_ERROR)),
        ("5.1", "RST_STREAM on an idle stream", frame(RST_STREAM, 0, 1, &[0; 4]), Goaway(PROTOCOL_ERROR)),
        ("5.1", "WINDOW_UPDATE on an idle stream", window(1, 1), Goaway(PROTOCOL_ERROR)),
        ("5.1", "CONTINUATION on an idle stream", frame(CONTINUATION, 4, 1, &second), Goaway(PROTOCOL_ERROR)),
        ("5.1", "PRIORITY on an idle stream", [frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 9]), get(1, &[])].concat(), Hit),
        ("5.1", "DATA after END_STREAM", [get(1, &[]), frame(DATA, 1, 1, b"x")].concat(), Goaway(STREAM_CLOSED)),
        ("5.1", "HEADERS after END_STREAM", [get(1, &[]), get(1, &[])].concat(), Goaway(STREAM_CLOSED)),
        ("5.1", "HEADERS of a lower stream", [get(5, &[]), get(1, &[])].concat(), Goaway(PROTOCOL_ERROR)),
        ("5.1", "WINDOW_UPDATE on a closed stream", [get(1, &[]), window(1, 1)].concat(), Hit),
        ("5.1", "RST_STREAM on a closed stream", [post(1, &[]), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]).repeat(2)].concat(), Ignored),
        ("5.1", "PRIORITY on a closed stream", [get(1, &[]), frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 9])].concat(), Hit),
        ("5.1.1", "even stream", frame(HEADERS, 5, 2, &block(&GET)), Goaway(PROTOCOL_ERROR)),
        ("5.1.1", "stream 0", frame(HEADERS, 5, 0, &block(&GET)), Goaway(PROTOCOL_ERROR)),
        // Taken for a stream that was reset a moment ago.
        ("5.1.1", "DATA on a stream that was skipped", [get(1, &[]), get(9, &[]), frame(DATA, 1, 5, b"x")].concat(), Hit),
        ("6.1", "DATA on stream 0", frame(DATA, 1, 0, b"x"), Goaway(PROTOCOL_ERROR)),
        ("6.1", "padding", [post(1, &[]), frame(DATA, END_STREAM | PADDED, 1, &[3, b'x', 0, 0, 0])].concat(), Passed),
        ("6.1", "padding as long as the frame", [post(1, &[]), frame(DATA, PADDED, 1, &[5, 0, 0, 0, 0])].concat(), Goaway(PROTOCOL_ERROR)),
        ("6.2", "padding", frame(HEADERS, 5 | PADDED, 1, &[&[2][..], &block(&GET), &[0, 0]].concat()), Hit),
        ("6.2", "padding too long", frame(HEADERS, 5 | PADDED, 1, &[200, 0x82]), Goaway(PROTOCOL_ERROR)),
        ("6.2", "no room for padding", frame(HEADERS, 5 | PADDED, 1, &[]), Goaway(FRAME_SIZE_ERROR)),
        ("6.2", "no room for a priority", frame(HEADERS, 5 | PRIORITISED, 1, &[0; 4]), Goaway(FRAME_SIZE_ERROR)),
        ("6.2", "priority", frame(HEADERS, 5 | PRIORITISED, 1, &[&[0, 0, 0, 0, 9][..], &block(&GET)].concat()), Hit),
        ("6.2", "END_STREAM and CONTINUATION", [open(), frame(CONTINUATION, 4, 1, &second)].concat(), Hit),
        ("6.3", "PRIORITY on stream 0", frame(PRIORITY, 0, 0, &[0, 0, 0, 1, 9]), Goaway(PROTOCOL_ERROR)),
        ("6.3", "PRIORITY of 4 bytes", frame(PRIORITY, 0, 1, &[0; 4]), Goaway(FRAME_SIZE_ERROR)),
        ("6.4", "RST_STREAM on stream 0", frame(RST_STREAM, 0, 0, &[0; 4]), Goaway(PROTOCOL_ERROR)),
        ("6.4", "RST_STREAM of 3 bytes", [post(1, &[]), frame(RST_STREAM, 0, 1, &[0; 3])].concat(), Goaway(FRAME_SIZE_ERROR)),
        ("6.4", "RST_STREAM ends a request", [post(1, &[]), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])].concat(), Ignored),
        ("6.5", "SETTINGS on a stream", frame(SETTINGS, 0, 1, b""), Goaway(PROTOCOL_ERROR)),
        ("6.5", "SETTINGS of 5 bytes", frame(SETTINGS, 0, 0, &[0; 5]), Goaway(FRAME_SIZE_ERROR)),
        ("6.5", "an acknowledgement with a payload", frame(SETTINGS, ACK, 0, &[0; 6]), Goaway(FRAME_SIZE_ERROR)),
        ("6.5.2", "ENABLE_PUSH of 2", setting(2, 2), Goaway(PROTOCOL_ERROR)),
        ("6.5.2", "ENABLE_PUSH of 0", [setting(2, 0), get(1, &[])].concat(), Hit),
        ("6.5.2", "INITIAL_WINDOW_SIZE of 2^31", setting(4, 1 << 31), Goaway(FLOW_CONTROL_ERROR)),
        ("6.5.2", "INITIAL_WINDOW_SIZE of 2^31-1", [setting(4, (1 << 31) - 1), get(1, &[])].concat(), Hit),
        ("6.5.2", "MAX_FRAME_SIZE of 16383", setting(5, 16_383), Goaway(PROTOCOL_ERROR)),
        ("6.5.2", "MAX_FRAME_SIZE of 2^24", setting(5, 1 << 24), Goaway(PROTOCOL_ERROR)),
        ("6.5.2", "unknown", [setting(0xfefe, 7), get(1, &[])].concat(), Hit),
        ("6.6", "PUSH_PROMISE from a client", frame(PUSH_PROMISE, 4, 1, &[0, 0, 0, 2, 0x82]), Goaway(PROTOCOL_ERROR)),
        ("6.7", "PING on a stream", frame(PING, 0, 1, &[0; 8]), Goaway(PROTOCOL_ERROR)),
        ("6.7", "PING of 7 bytes", frame(PING, 0, 0, &[0; 7]), Goaway(FRAME_SIZE_ERROR)),
        ("6.7", "an acknowledgement nobody waits for", [frame(PING, ACK, 0, &[7; 8]), get(1, &[])].concat(), Hit),
        ("6.8", "GOAWAY on a stream", frame(GOAWAY, 0, 1, &[0; 8]), Goaway(PROTOCOL_ERROR)),
        ("6.8", "GOAWAY of 7 bytes", frame(GOAWAY, 0, 0, &[0; 7]), Goaway(FRAME_SIZE_ERROR)),
        ("6.9", "WINDOW_UPDATE of 0 on a stream", [post(1, &[]), window(1, 0)].concat(), Goaway(PROTOCOL_ERROR)),
        ("6.9", "WINDOW_UPDATE of 0", window(0, 0), Goaway(PROTOCOL_ERROR)),
        ("6.9", "WINDOW_UPDATE of 3 bytes", frame(WINDOW_UPDATE, 0, 0, &[0; 3]), Goaway(FRAME_SIZE_ERROR)),
        ("6.9.1", "the connection's window beyond 2^31-1", window(0, 0x7fff_ffff), Goaway(FLOW_CONTROL_ERROR)),
        ("6.9.1", "a stream's window beyond 2^31-1", [post(1, &[]), window(1, 0x7fff_ffff)].concat(), Reset(FLOW_CONTROL_ERROR)),
        ("10.5", "WINDOW_UPDATE as often as allowed", [get(1, &[]), window(0, 1).repeat(windows)].concat(), Hit),
        ("10.5", "WINDOW_UPDATE more often", [get(1, &[]), window(0, 1).repeat(windows + 1)].concat(), Goaway(ENHANCE_YOUR_CALM)),
        ("6.10", "CONTINUATION after the end", [get(1, &[]), frame(CONTINUATION, 4, 1, &second)].concat(), Goaway(PROTOCOL_ERROR)),
        ("6.10", "CONTINUATION on stream 0", [open(), frame(CONTINUATION, 4, 0, &second)].concat(), Goaway(PROTOCOL_ERROR)),
        ("6.10", "many CONTINUATIONs", [open(), frame(CONTINUATION, 0, 1, b"").repeat(9)].concat(), Goaway(ENHANCE_YOUR_CALM)),
        ("9218 2.1", "NO_RFC7540_PRIORITIES of 1", [setting(9, 1), get(1, &[])].concat(), Hit),
        ("9218 2.1", "NO_RFC7540_PRIORITIES of 2", setting(9, 2), Goaway(PROTOCOL_ERROR)),
        ("9218 7.1", "PRIORITY_UPDATE on a stream", [get(1, &[]), frame(PRIORITY_UPDATE, 0, 1, b"\0\0\0\x01u=0")].concat(), Goaway(PROTOCOL_ERROR)),
        ("9218 7.1", "PRIORITY_UPDATE of stream 0", frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0\0u=0"), Goaway(PROTOCOL_ERROR)),
        ("9218 7.1", "PRIORITY_UPDATE of a push", frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0\x02u=0"), Goaway(PROTOCOL_ERROR)),
        ("9218 7.1", "PRIORITY_UPDATE of 3 bytes", frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0"), Goaway(FRAME_SIZE_ERROR)),
        ("9218", "PRIORITY_UPDATE before the request", [frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0\x01u=0"), get(1, &[])].concat(), Hit),
    ]
}

#[rustfmt::skip]
fn messages() -> Vec<Case> {
    use Want::*;
    let trailers = |fields: &[(&str, &str)], flags| [post(1, &[]), frame(DATA, 0, 1, b"x"), frame(HEADERS, flags, 1, &block(fields))].concat();
    let body = |length, bytes: &[u8]| [post(1, &[("content-length", length)]), frame(DATA, 1, 1, bytes)].concat();
    let malformed = Reset(PROTOCOL_ERROR);
    // As above; and what HPACK's decoder refuses is an error of the connection (section 5.4.2 leaves that choice).
    let coarse = Goaway(PROTOCOL_ERROR);
    let long: &'static str = Box::leak(format!("/{}", "x".repeat(limits::REQUEST_TARGET_BYTES_MAX)).into_boxed_str());
    let large: &'static str = Box::leak("y".repeat(limits::REQUEST_HEAD_BYTES_MAX - 300).into_boxed_str());
    let many: Vec<(&str, &str)> = vec![("x-a", "1"); limits::REQUEST_FIELDS_MAX];
    vec![
        ("8.1", "HEADERS again without END_STREAM", trailers(&[("x-a", "1")], END_HEADERS), malformed),
        ("8.1", "trailers", trailers(&[("x-a", "1")], END_HEADERS | END_STREAM), Passed),
        // Trailers are dropped, and whatever is wrong with them.
        ("8.1", "pseudo-header field in trailers", trailers(&[(":method", "GET")], END_HEADERS | END_STREAM), Passed),
        ("8.1.1", "content-length of less", body("1", b"ab"), malformed),
        ("8.1.1", "content-length of more", body("3", b"ab"), malformed),
        ("8.1.1", "content-length that agrees", body("2", b"ab"), Passed),
        ("8.1.1", "content-length without a body", get(1, &[("content-length", "3")]), malformed),
        ("8.1.1", "content-length twice", [post(1, &[("content-length", "2"), ("content-length", "2")]), frame(DATA, 1, 1, b"ab")].concat(), malformed),
        ("8.1.1", "content-length that is no number", body("2x", b"ab"), malformed),
        ("8.1.1", "content-length with a sign", body("+2", b"ab"), malformed),
        ("8.2.1", "upper case in a name", get(1, &[("X-A", "1")]), coarse),
        ("8.2.1", "space in a name", get(1, &[("x a", "1")]), coarse),
        ("8.2.1", "colon in a name", get(1, &[("x:a", "1")]), coarse),
        ("8.2.1", "CR in a name", get(1, &[("x\ra", "1")]), coarse),
        ("8.2.1", "NUL in a value", get(1, &[("x-a", "1\x00b")]), coarse),
        ("8.2.1", "CR in a value", get(1, &[("x-a", "1\r2")]), coarse),
        ("8.2.1", "LF in a value", get(1, &[("x-a", "1\nx-b: 2")]), coarse),
        ("8.2.1", "a space before a value", get(1, &[("x-a", " 1")]), malformed),
        ("8.2.1", "a tab after a value", get(1, &[("x-a", "1\t")]), malformed),
        ("8.2.1", "an empty value", get(1, &[("x-a", "")]), Hit),
        ("8.2.2", "connection", get(1, &[("connection", "close")]), malformed),
        ("8.2.2", "keep-alive", get(1, &[("keep-alive", "5")]), malformed),
        ("8.2.2", "proxy-connection", get(1, &[("proxy-connection", "x")]), malformed),
        ("8.2.2", "transfer-encoding", get(1, &[("transfer-encoding", "chunked")]), malformed),
        ("8.2.2", "upgrade", get(1, &[("upgrade", "h2c")]), malformed),
        ("8.2.2", "te: gzip", get(1, &[("te", "gzip")]), malformed),
        ("8.2.2", "te: trailers", get(1, &[("te", "trailers")]), Hit),
        ("8.2.3", "cookies in pieces", get(1, &[("cookie", "a=1"), ("cookie", "b=2")]), Hit),
        ("8.3", "pseudo-header field after another", only(&[GET[0], GET[1], ("x-a", "1"), GET[2], GET[3]]), malformed),
        ("8.3", "unknown pseudo-header field", get(1, &[(":what", "1")]), coarse),
        ("8.3", ":status in a request", only(&[GET[0], GET[1], GET[2], GET[3], (":status", "200")]), malformed),
        ("8.3.1", "no :method", only(&GET[1..]), malformed),
        ("8.3.1", "no :scheme", only(&[GET[0], GET[2], GET[3]]), malformed),
        ("8.3.1", "no :path", only(&GET[..3]), malformed),
        ("8.3.1", "empty :path", only(&[GET[0], GET[1], GET[2], (":path", "")]), malformed),
        ("8.3.1", ":path that does not begin with a slash", only(&[GET[0], GET[1], GET[2], (":path", "hit")]), malformed),
        ("8.3.1", ":path * of GET", only(&[GET[0], GET[1], GET[2], (":path", "*")]), malformed),
        ("8.3.1", ":path with a space", only(&[GET[0], GET[1], GET[2], (":path", "/a b")]), malformed),
        ("8.3.1", ":path with CRLF", only(&[GET[0], GET[1], GET[2], (":path", "/ HTTP/1.1\r\nx: y")]), malformed),
        ("8.3.1", ":method twice", only(&[GET[0], GET[0], GET[1], GET[2], GET[3]]), malformed),
        ("8.3.1", ":path twice", only(&[GET[0], GET[1], GET[2], GET[3], GET[3]]), malformed),
        ("8.3.1", ":scheme twice", only(&[GET[0], GET[1], GET[1], GET[2], GET[3]]), malformed),
        ("8.3.1", ":authority twice", only(&[GET[0], GET[1], GET[2], GET[2], GET[3]]), malformed),
        ("8.3.1", "neither :authority nor host", only(&[GET[0], GET[1], GET[3]]), malformed),
        ("8.3.1", "host alone", only(&[GET[0], GET[1], GET[3], ("host", "a")]), Hit),
        ("8.3.1", "host that agrees", get(1, &[("host", "a")]), Hit),
        ("8.3.1", "host that differs", get(1, &[("host", "b")]), malformed),
        ("8.3.1", "host twice", get(1, &[("host", "a"), ("host", "a")]), malformed),
        ("8.3.1", "user information in :authority", only(&[GET[0], GET[1], (":authority", "u@a"), GET[3]]), malformed),
        ("8.3.1", "another scheme", only(&[GET[0], (":scheme", "https"), GET[2], GET[3]]), Refused),
        ("8.5", "CONNECT", only(&[(":method", "CONNECT"), (":authority", "a:443")]), Refused),
        ("8.5", "CONNECT with :path", only(&[(":method", "CONNECT"), GET[1], GET[2], GET[3]]), malformed),
        ("10.5.1", "a target too long", only(&[GET[0], GET[1], GET[2], (":path", long)]), Refused),
        ("10.5.1", "too many fields", get(1, &many), Refused),
        ("10.5.1", "a section too large", get(1, &[("x-a", large), ("x-b", "z"), ("x-c", &large[..9000])]), Goaway(FRAME_SIZE_ERROR)),
        ("9110 10.1.1", "an expectation that is not known", post(1, &[("expect", "a-pony")]), Refused),
    ]
}

#[test]
fn rfc_9113_section_by_section() {
    let cases = [frames(), messages()].concat();
    assert!(cases.len() >= 80, "{}", cases.len());
    let wrong: Vec<String> = cases
        .into_iter()
        .filter_map(|(section, name, bytes, want)| check(section, name, &bytes, want).err())
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// A stop that meets what a client says first: it is answered, and told to go elsewhere with what comes later.
#[test]
fn a_request_that_came_with_the_preface_is_answered_by_a_node_that_stops() {
    let mut peer = Peer::new();
    let settings = frame(SETTINGS, 0, 0, b"");
    peer.http2.set_room(1000);
    peer.http2.receive(&[PREFACE, &settings[..], &get(1, &[])].concat(), START);
    peer.http2.drain();
    peer.send(b"");
    assert_eq!((peer.answer(1).is_some(), peer.goaway()), (true, Some(0)));
    // Nothing came: nothing is owed.
    let mut peer = Peer::new();
    peer.http2.drain();
    peer.send(b"");
    assert!(peer.http2.is_over());
}

#[test]
fn the_preface_is_settings_and_pings_are_answered() {
    let mut peer = Peer::new();
    peer.send(&PREFACE[..10]);
    peer.send(&[&PREFACE[10..], &frame(SETTINGS, 0, 0, b""), &frame(PING, 0, 0, b"12345678")].concat());
    assert_eq!(peer.frames[0].kind, SETTINGS, "section 3.4: the first frame");
    assert!(peer.has(SETTINGS, ACK, b"") && peer.has(PING, ACK, b"12345678"));
    let ping_first = [&PREFACE[..], &frame(PING, 0, 0, b"12345678"), &frame(SETTINGS, 0, 0, b"")].concat();
    let starts =
        [&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r", &ping_first];
    for start in starts {
        let mut peer = Peer::new();
        peer.send(start);
        assert!(peer.http2.is_over(), "section 3.4: {}", start.escape_ascii());
    }
}
