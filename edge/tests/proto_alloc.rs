//! The hit path allocates nothing once its buffers have grown: parse, key, lookup answer, actions.

#[path = "../src/proto/http2/frame.rs"]
mod frame;
mod proto_client;
mod tls_pair;

use edge::proto::http2::{Http2, PREFACE, Piece, Segment, Width};
use edge::proto::query::{Arguments, Name, Rule, Rules};
use edge::proto::route::Pattern;
use edge::proto::session::{Action, Found, Input, Out, Session, Timeouts};
use edge::proto::stored;
use edge::proto::tls::SEALED_BYTES_MAX;
use frame::frame;
use proto_client::{DATE, Record, START, record};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write;
use std::sync::Arc;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system allocator unchanged; counting touches a constant-initialised
// thread-local without a destructor, which never allocates.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps to the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `alloc` above, that is from the system allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}

/// One request, answered from `record`; says how many body bytes it queued.
fn answer(session: &mut Session, out: &mut Out, input: &[u8], record: &Record) -> u64 {
    out.clear();
    session.on(Input::Received(input), START, out);
    assert_eq!(out.consumed, input.len());
    assert_eq!(out.actions, [Action::Lookup]);
    assert_eq!(edge::proto::key::hash(&out.request.key), out.request.key_hash);
    if out.queries.is_empty() {
        assert_eq!(out.request.key, record.key);
    } else {
        assert!(out.request.key.starts_with(b"http://www.example.com/some/path?and=query#"));
    }
    assert!(stored::matches(&record.meta, &out.request));
    out.clear();
    session.on(
        Input::Found(Some(Found { meta: &record.meta, head: &record.head, chunks: None, purged: false })),
        START,
        out,
    );
    assert_eq!(out.actions.last(), Some(&Action::Done));
    let body = out.actions.iter().find_map(|action| match action {
        Action::StoredBody(range) => Some(range.end - range.start),
        _ => None,
    });
    out.clear();
    session.on(Input::Sent { drained: true, bytes: 1 }, START, out);
    body.unwrap_or(0)
}

#[test]
fn a_hit_allocates_nothing() {
    let plain = "GET /some/path?and=query HTTP/1.1\r\nHost: www.example.com\r\n";
    let browser = "User-Agent: Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/141.0\r\nAccept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nCookie: a=b; c=d\r\nConnection: keep-alive\r\n";
    let lines = format!("Date: {DATE}\nCache-Control: max-age=60\nETag: \"v1\"\nVary: Accept-Encoding");
    let stored = record(&format!("{plain}{browser}\r\n"), 200, &lines, "0123456789", START.unix_s);
    let requests = [
        (format!("{plain}{browser}\r\n"), 10),
        (format!("{plain}{browser}Range: bytes=1-3\r\n\r\n"), 3),
        (format!("{plain}{browser}If-None-Match: \"x\", \"v1\"\r\n\r\n"), 0),
        (format!("{plain}{browser}Cache-Control: max-age=5\r\n\r\n"), 10),
        (format!("{}{browser}\r\n", plain.replace("GET", "HEAD")), 0),
    ];
    assert!(allocations(|| drop(std::hint::black_box(vec![1u8; 10]))) > 0, "the counter counts");
    let names = Name::parse("utm_*").map(|name| vec![name]).expect("a name");
    let rule = Arc::new(Rule::new(Arguments::Ignoring(names), true));
    for queries in [Rules::default(), Rules::new([(Pattern::default(), Some(rule))])] {
        let mut out = Out::new(Timeouts::default(), Arc::new(queries), Arc::default());
        let mut session = Session::new(START, &Timeouts::default());
        for (input, body) in &requests {
            assert_eq!(answer(&mut session, &mut out, input.as_bytes(), &stored), *body);
        }
        let counted = allocations(|| {
            for _ in 0..100 {
                for (input, body) in &requests {
                    assert_eq!(answer(&mut session, &mut out, input.as_bytes(), &stored), *body);
                }
            }
        });
        assert_eq!(counted, 0, "allocations in {} hits", 100 * requests.len());
    }
}

#[test]
fn records_of_tls_allocate_nothing_once_the_handshake_is_done() {
    let site = tls_pair::Site::new(&["a.test"]);
    let mut client = tls_pair::Client::new(tls_pair::client_config(&site, None), "a.test");
    let mut server = tls_pair::server(&site);
    assert!(tls_pair::pump(&mut client, &mut server, usize::MAX).unwrap().is_some());
    let requests: Vec<Vec<u8>> = (0..50)
        .map(|_| {
            client.session.writer().write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            client.take()
        })
        .collect();
    let mut room = vec![0; 4 * SEALED_BYTES_MAX];
    let mut read = 0;
    let counted = allocations(|| {
        for mut request in requests {
            server.tls.receive(&mut request, |plaintext| read += plaintext.len()).unwrap();
            let fill = |place: &mut [u8]| {
                place[..1000].fill(7);
                1000
            };
            assert!(server.tls.seal(&mut room, fill).unwrap() > 1000);
        }
    });
    assert_eq!((read, counted), (50 * 18, 0));
}

#[derive(Clone)]
struct Body(Arc<Vec<u8>>);

impl edge::proto::http2::Record for Body {
    fn body(&self) -> &[u8] {
        &self.0
    }
}

/// The fields of a response are two allocations, of the `http` crate; a request without fields costs none. What a turn
/// needs once is shared by its ten requests.
#[test]
fn a_hit_over_http2_allocates_what_the_crates_do_and_once_a_turn_what_we_do() {
    const TURNS: u32 = 50;
    let asked = "GET /hit HTTP/1.1\r\nHost: a\r\n\r\n";
    let lines =
        format!("Date: {DATE}\nServer: x\nCache-Control: max-age=60\nContent-Type: text/css\nETag: \"v1\"");
    let body = "x".repeat(1024);
    let stored = record(asked, 200, &lines, &body, START.unix_s);
    let body = Body(Arc::new(body.into_bytes()));
    let mut out = Out::new(Timeouts::default(), Arc::default(), Arc::default());
    let mut http2 = Http2::new(START, &Timeouts::default(), Width::Wide);
    http2.receive(&[&PREFACE[..], &frame(4, 0, 0, &[0, 4, 0, 1, 0, 0])].concat(), START);
    http2.receive(&frame(8, 0, 0, &[0x3f, 0, 0, 0]), START);
    let (mut stream, mut sent) = (1, 0);
    let mut turn = || {
        let requests: Vec<u8> = (0..10)
            .flat_map(|number| frame(1, 5, stream + 2 * number, b"\x82\x86\x04\x04/hit\x01\x01a"))
            .collect();
        stream += 20;
        allocations(|| {
            http2.set_room(32);
            http2.receive(&requests, START);
            while let Some(id) = http2.poll(START, &mut out) {
                out.clear();
                let found = Found { meta: &stored.meta, head: &stored.head, chunks: None, purged: false };
                http2.on(id, Input::Found(Some(found)), START, &mut out);
                assert!(out.actions.contains(&Action::StoredBody(0..1024)));
                http2.piece(id, Piece::Stored(body.clone(), 0..1024));
            }
            assert_eq!(http2.next_body(), None);
            http2.take(|segment| {
                if let Segment::Copied(bytes) = segment {
                    sent += bytes.len();
                }
            });
            while http2.gone().is_some() {}
        })
    };
    let first = turn();
    let counted: u64 = (0..TURNS).map(|_| turn()).sum();
    assert!(first > 40 && sent > 10 * 1024 * TURNS as usize, "{first} {sent}");
    let each = counted as f64 / f64::from(10 * TURNS);
    assert!(each <= 2.5, "{each} allocations a request");
}
