//! HTTP/2: frames of any kind, order and content, cut anywhere, while exchanges are answered in every way. No panic;
//! streams begin in order, once, and end once; what is sent are whole frames of streams that are open, within the
//! window that the peer gave the connection.
#![no_main]

#[path = "../../src/proto/http2/frame.rs"]
mod frame;

use bytes::Bytes;
use edge::proto::Now;
use edge::proto::freshness::{Exchange, Policy, Storing, decide};
use edge::proto::http2::{Http2, PREFACE, Piece, Record, Segment, Upload, Width};
use edge::proto::request::RequestHead;
use edge::proto::response::OriginHead;
use edge::proto::session::{Action, Again, Found, Input, Interim, Out, Timeouts};
use edge::proto::stored;
use frame::frame;
use http::{HeaderMap, HeaderValue, header::CACHE_CONTROL};
use libfuzzer_sys::fuzz_target;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::OnceLock;

const START: Now = Now { mono_ms: 1, unix_s: 1_700_000_000 };
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;
/// `:method: GET`, `:scheme: http`, `:path: /`, `:authority: a`.
const GET: &[u8] = b"\x82\x86\x84\x01\x01a";
/// The same with POST.
const POST: &[u8] = b"\x83\x86\x84\x01\x01a";

#[derive(Clone)]
struct Stored;

impl Record for Stored {
    fn body(&self) -> &[u8] {
        static BODY: [u8; 50_000] = [b'b'; 50_000];
        &BODY
    }
}

/// Meta and head of a fresh response.
fn record() -> &'static (Vec<u8>, Vec<u8>) {
    static RECORD: OnceLock<(Vec<u8>, Vec<u8>)> = OnceLock::new();
    RECORD.get_or_init(|| {
        let mut asked = RequestHead::default();
        assert!(matches!(asked.parse(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), Ok(Some(_))));
        let mut fields = HeaderMap::new();
        fields.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=86400"));
        let exchange = Exchange { request_s: START.unix_s, response_s: START.unix_s, purges: 0 };
        let (_, facts) = decide(&asked, 200, &fields, exchange, &Policy::default());
        let bytes = Stored.body().len() as u64;
        let head = stored::head(200, bytes, b"Cache-Control: max-age=86400\r\nETag: \"a\"\r\n");
        (stored::encode(&facts, &asked, &head, bytes), head)
    })
}

/// Where the rest of a response comes from.
enum Rest {
    /// Control has not answered.
    Waiting,
    /// So many bytes from the origin.
    Origin(u64),
    /// These, from the store.
    Pieces(VecDeque<Piece<Stored>>),
}

struct Side {
    http2: Http2<Stored>,
    out: Out,
    now: Now,
    streams: BTreeMap<u32, Rest>,
    begun: BTreeSet<u32>,
    gone: BTreeSet<u32>,
    sent: Vec<u8>,
    /// Room that the peer gave the connection (RFC 9113 section 6.9.2), at most.
    window: u64,
}

impl Side {
    fn new() -> Self {
        let timeouts = Timeouts { head_ms: 1000, idle_ms: 2000, body_ms: 3000, send_ms: 4000, tunnel_ms: 5000, body_rate_min: 9, send_rate_min: 9 };
        let out = Out::new(timeouts, Default::default(), Default::default());
        Side {
            http2: Http2::new(START, &timeouts, Width::Wide),
            out,
            now: START,
            streams: BTreeMap::new(),
            begun: BTreeSet::new(),
            gone: BTreeSet::new(),
            sent: Vec::new(),
            window: 65_535,
        }
    }

    fn receive(&mut self, bytes: &[u8], cut: usize) {
        let (first, second) = bytes.split_at(cut.min(bytes.len()));
        for mut part in [first, second] {
            // With little room, and with much.
            let room = cut % 2 * 1000;
            loop {
                let taken = self.http2.takes(part, room);
                self.http2.receive(&part[..taken], self.now);
                part = &part[taken..];
                self.turn();
                if taken == 0 || part.is_empty() {
                    break;
                }
            }
        }
    }

    /// What a worker does whenever something has happened.
    fn turn(&mut self) {
        self.http2.set_room(8);
        while let Some(id) = self.http2.poll(self.now, &mut self.out) {
            assert!(id % 2 == 1 && self.begun.last().is_none_or(|last| *last < id), "stream {id}");
            assert!(!self.http2.is_over());
            self.begun.insert(id);
            self.act(id, None);
        }
        self.drop_gone();
        for id in self.streams.keys().copied().collect::<Vec<_>>() {
            while let Upload::Data(_) | Upload::Broken = self.upload(id) {}
        }
        while let Some(id) = self.http2.next_body() {
            self.bring(id);
        }
        let sent = &mut self.sent;
        let before = sent.len();
        self.http2.take(|segment| match segment {
            Segment::Copied(bytes) => sent.extend_from_slice(bytes),
            Segment::Shared(Piece::Bytes(bytes)) => sent.extend_from_slice(&bytes),
            Segment::Shared(Piece::Stored(record, range)) => sent.extend_from_slice(&record.body()[range]),
        });
        let bytes = sent.len() - before;
        self.http2.sent(bytes, self.now);
        self.drop_gone();
    }

    fn upload(&mut self, id: u32) -> Upload {
        let upload = self.http2.upload(id, id % 5 == 0);
        if upload == Upload::Broken {
            self.http2.break_off(id);
        }
        upload
    }

    fn drop_gone(&mut self) {
        while let Some(id) = self.http2.gone() {
            assert!(self.begun.contains(&id) && self.gone.insert(id), "stream {id} ends once");
            self.streams.remove(&id);
        }
    }

    fn act(&mut self, id: u32, mut given: Option<Piece<Stored>>) {
        let (meta, head) = record();
        loop {
            let mut found = false;
            let mut pieces = VecDeque::new();
            for action in std::mem::take(&mut self.out.actions) {
                match action {
                    Action::Lookup => found = true,
                    Action::Fetch(_) => drop(self.streams.insert(id, Rest::Waiting)),
                    Action::StoredBody(range) => {
                        let range = range.start as usize..range.end as usize;
                        self.http2.piece(id, Piece::Stored(Stored, range));
                    }
                    Action::StoredPart { text, body } => {
                        pieces.push_back(Piece::Bytes(Bytes::copy_from_slice(&self.out.bytes[text])));
                        pieces.push_back(Piece::Stored(Stored, body.start as usize..body.end as usize));
                    }
                    Action::Piece => self.http2.piece(id, given.take().expect("a piece was brought")),
                    Action::Done | Action::Abort | Action::Refresh => {}
                    other => panic!("{other:?} is of HTTP/1.1 alone"),
                }
            }
            if !pieces.is_empty() {
                self.streams.insert(id, Rest::Pieces(pieces));
            }
            if !found {
                return;
            }
            let found = Found { meta, head, chunks: None, purged: false };
            self.out.clear();
            // Two of three requests are hits.
            self.http2.on(id, Input::Found((id % 3 != 0).then_some(found)), self.now, &mut self.out);
        }
    }

    fn tell(&mut self, id: u32, input: Input<'_>, given: Option<Piece<Stored>>) {
        self.out.clear();
        self.http2.on(id, input, self.now, &mut self.out);
        self.act(id, given);
    }

    fn bring(&mut self, id: u32) {
        match self.streams.get_mut(&id) {
            Some(Rest::Origin(0)) => self.tell(id, Input::End, None),
            Some(Rest::Origin(left)) => {
                let bytes = (*left).min(20_000) as usize;
                *left -= bytes as u64;
                let piece = Piece::Bytes(Bytes::from(vec![b'o'; bytes]));
                self.tell(id, Input::Piece(bytes), Some(piece));
            }
            Some(Rest::Pieces(pieces)) => match pieces.pop_front() {
                Some(piece) => self.http2.piece(id, piece),
                None => self.http2.break_off(id),
            },
            Some(Rest::Waiting) => panic!("nothing was answered on stream {id}"),
            None => self.http2.break_off(id),
        }
    }

    /// Control answers the oldest request that waits.
    fn answer(&mut self, how: u8, number: u16) {
        let waiting = self.streams.iter().find(|(_, rest)| matches!(rest, Rest::Waiting));
        let Some(id) = waiting.map(|(id, _)| *id) else {
            return;
        };
        let bytes = u64::from(number);
        let head = OriginHead {
            status: 200 + number % 400,
            lines: Vec::new(),
            body_bytes: (how & 0x80 == 0).then_some(bytes),
            age_s: None,
            storing: Storing::Store,
        };
        match how % 8 {
            0..=2 => {
                self.streams.insert(id, Rest::Origin(bytes));
                self.tell(id, Input::OriginHead { head: &head, collapsed: how & 0x40 != 0 }, None);
            }
            // More, or less, than it said.
            3 => {
                self.streams.insert(id, Rest::Origin(bytes / 2 + 1));
                self.tell(id, Input::OriginHead { head: &head, collapsed: false }, None);
            }
            4 => self.tell(id, Input::Refused(number, b""), None),
            5 => self.tell(id, Input::Again(Again::Stored), None),
            6 => self.tell(id, Input::Interim(&Interim { status: 103, lines: Vec::new() }), None),
            _ => self.tell(id, Input::Broken, None),
        }
    }

    /// What was sent, frame by frame.
    fn check(&self) {
        let mut rest = &self.sent[..];
        let (mut ended, mut data_bytes) = (BTreeSet::new(), 0);
        while !rest.is_empty() {
            let (head, after) = rest.split_first_chunk::<9>().expect("a whole head");
            let [high, middle, low, kind, flags, ..] = *head;
            let bytes = u32::from_be_bytes([0, high, middle, low]) as usize;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            assert!(after.len() >= bytes, "a whole frame");
            if matches!(kind, DATA | HEADERS) {
                assert!(self.begun.contains(&stream) && !ended.contains(&stream), "stream {stream}");
            }
            if kind == DATA {
                data_bytes += bytes as u64;
            }
            if matches!(kind, DATA | HEADERS) && flags & 1 != 0 || kind == RST_STREAM {
                ended.insert(stream);
            }
            rest = &after[bytes..];
        }
        assert!(data_bytes <= self.window, "{data_bytes} bytes of DATA in a window of {}", self.window);
    }
}

fuzz_target!(|script: Vec<(u8, u8, u16, &[u8])>| {
    let mut side = Side::new();
    side.receive(&[&PREFACE[..], &frame(4, 0, 0, &[])].concat(), 30);
    let mut next = 1;
    for (kind, flags, number, payload) in script {
        let stream = u32::from(number % 64);
        match kind % 20 {
            kind @ 0..=10 => {
                if kind == WINDOW_UPDATE
                    && let Some(by) = payload.first_chunk::<4>()
                {
                    side.window += u64::from(u32::from_be_bytes(*by) & 0x7fff_ffff);
                }
                side.receive(&frame(kind, flags, stream, payload), usize::from(number >> 6));
            }
            // RFC 9218 section 7.1.
            11 => side.receive(&frame(16, flags, 0, payload), usize::MAX),
            // A request whose field section begins well.
            kind @ 12..=14 => {
                let begin = if kind == 14 { POST } else { GET };
                let block = [begin, payload].concat();
                side.receive(&frame(HEADERS, flags | 4, next, &block), usize::from(number));
                next += 2;
            }
            15 | 16 => side.answer(flags, number),
            17 => side.now.mono_ms += u64::from(number),
            18 if side.http2.deadline_ms() != u64::MAX => {
                side.now.mono_ms = side.now.mono_ms.max(side.http2.deadline_ms());
                side.out.clear();
                if !side.http2.deadline(side.now, &mut side.out) {
                    break;
                }
            }
            18 => {}
            _ if flags % 2 == 0 => side.http2.drain(),
            _ => side.http2.peer_closed(),
        }
        side.turn();
    }
    side.check();
});
