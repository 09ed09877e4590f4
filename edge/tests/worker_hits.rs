//! What a hit costs a worker's thread in user space, counted with a real worker: its ring, a real socket, a store of
//! the same layout as any. Once it is warm it allocates nothing, and it does not read the bodies that it sends.

mod proto_client;

use bytes::Bytes;
use edge::control::mailbox::Mailbox;
use edge::proto::session::Timeouts;
use edge::shard::{self, Body, Label, Options, Writer};
use edge::stats::{Cells, Counter};
use edge::worker::clients::Clients;
use edge::worker::{self, Setup};
use edge::{clock, control, sys};
use proto_client::{Record, record};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

/// Threads that are told apart; the harness and one worker are a handful.
const THREADS: usize = 256;

/// Thread ids by the order in which threads first allocated, and what each has asked the allocator for since.
static IDS: [AtomicU64; THREADS] = [const { AtomicU64::new(0) }; THREADS];
static REQUESTS: [AtomicU64; THREADS] = [const { AtomicU64::new(0) }; THREADS];
static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static PLACE: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// The system's allocator, counting on each thread: what is taken, resized and given back.
struct Counting;

fn count() {
    PLACE.with(|place| {
        if place.get() == usize::MAX {
            place.set(NEXT.fetch_add(1, SeqCst));
            IDS[place.get()].store(nix::unistd::gettid().as_raw() as u64, SeqCst);
        }
        REQUESTS[place.get()].fetch_add(1, SeqCst);
    });
}

// SAFETY: every call goes to the system allocator unchanged; counting touches statics and a constant-initialised
// thread-local without a destructor, which never allocates.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps to the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(pointer, layout, bytes) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count();
        // SAFETY: `pointer` came from `alloc` above, that is from the system allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What the thread of that id has asked the allocator for.
fn requests(thread: u64) -> u64 {
    let place = IDS.iter().position(|id| id.load(SeqCst) == thread).expect("it has allocated");
    REQUESTS[place].load(SeqCst)
}

/// A worker that serves one store, without control: whatever is asked for here is a hit.
struct Served {
    address: SocketAddr,
    cells: Arc<Cells>,
    /// The worker's thread, by its id.
    thread: u64,
    drain: Arc<AtomicBool>,
    join: Option<JoinHandle<()>>,
    path: PathBuf,
    _writer: Writer,
}

impl Served {
    fn start(number: u16, records: &[Record]) -> Served {
        let path = std::env::temp_dir().join(format!("edge-worker-hits-{}-{number}", std::process::id()));
        let options = Options { path: path.clone(), size_bytes: 64 << 20, readers: 1, ..Options::default() };
        let (mut writer, mut readers, _) = shard::open(&[options]).expect("a store");
        // First: what is stored without a log of purges is distrusted.
        let purges = control::purge::open(&mut writer).expect("a log of purges").table();
        for record in records {
            let hash = xxhash_rust::xxh3::xxh3_64(&record.key);
            let label = Label::new(hash, &record.key, &record.meta, &record.head);
            let body = [Bytes::from(record.body.clone())];
            writer.put(&label, Body::Whole(&body), |_| false).expect("stored");
        }
        let listener = sys::socket::listener(([127, 0, 0, 1], 0).into()).expect("a socket");
        let bound: nix::sys::socket::SockaddrIn =
            nix::sys::socket::getsockname(listener.as_raw_fd()).expect("bound");
        let cells: Arc<Cells> = Arc::default();
        let drain = Arc::new(AtomicBool::new(false));
        let setup = Setup {
            number,
            cpu: *sys::cpu::allowed().expect("CPUs").last().expect("a CPU"),
            listeners: vec![(listener, None)],
            policies: Arc::default(),
            connections_max: 64,
            http2_connections_max: 64,
            clients: Arc::new(Clients::new(64, 64, Vec::new())),
            kernel_tls: Default::default(),
            http2_cleartext: false,
            timeouts: Timeouts::default(),
            trusted: Default::default(),
            queries: Default::default(),
            transport: Default::default(),
            reader: readers.remove(0),
            purges,
            mailbox: Mailbox::new().expect("a mailbox"),
            cells: cells.clone(),
            drain: drain.clone(),
        };
        let (join, _) = worker::spawn(setup).expect("a worker");
        let address = (bound.ip(), bound.port()).into();
        let thread = thread_named(&format!("edge-worker-{number}"));
        Served { address, cells, thread, drain, join: Some(join), path, _writer: writer }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("connected");
        stream.set_nodelay(true).expect("set");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        stream
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.drain.store(true, SeqCst);
        let ended = self.join.take().is_some_and(|join| join.join().is_ok());
        let _ = std::fs::remove_dir_all(&self.path);
        assert!(ended || std::thread::panicking(), "the worker panicked");
    }
}

fn thread_named(name: &str) -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").expect("/proc").flatten();
    let named = |entry: &std::fs::DirEntry| {
        std::fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
    };
    let mut found = tasks.filter(named).filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    found.next().expect("the worker's thread")
}

/// `body` under `/path`, as control would have stored it now.
fn stored(path: &str, body: &str) -> Record {
    let lines = "Cache-Control: max-age=86400\nETag: \"v1\"\nContent-Type: text/plain\nVary: Accept-Encoding";
    record(&head(path, ""), 200, lines, body, clock::now().unix_s)
}

fn head(path: &str, fields: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: edge.test\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nAccept: */*\r\nAccept-Encoding: gzip\r\nCookie: a=b\r\n{fields}\r\n"
    )
}

/// Bytes that repeat nowhere near.
fn text(bytes: usize) -> String {
    let numbers = (0_u64..).map(|number| format!("{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    let mut text: String = numbers.take(bytes / 16 + 1).collect();
    text.truncate(bytes);
    text
}

/// Reads one response into `room`; its status and body.
fn response<'a>(stream: &mut TcpStream, room: &'a mut [u8]) -> (u16, &'a [u8]) {
    let mut filled = 0;
    loop {
        let taken = match stream.read(&mut room[filled..]) {
            // A socket with a time limit says so when the process was stopped and goes on.
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            taken => taken.expect("a response"),
        };
        assert_ne!(taken, 0, "the connection ended within a response");
        filled += taken;
        let Some(end) = room[..filled].windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = std::str::from_utf8(&room[..end]).expect("text").to_ascii_lowercase();
        let status: u16 = head[9..12].parse().expect("a status");
        let mut lines = head.lines();
        let length = lines.find_map(|line| line.strip_prefix("content-length: "));
        let length: usize =
            if status == 304 { 0 } else { length.expect("a length").parse().expect("a number") };
        assert!(head.contains("cache-status: edge; hit"), "{head}");
        if filled >= end + 4 + length {
            assert_eq!(filled, end + 4 + length, "no more than was asked for");
            return (status, &room[end + 4..filled]);
        }
    }
}

const SMALL: usize = 1024;
const LARGE: usize = 300_000;

#[test]
fn a_warm_worker_allocates_nothing_for_hits() {
    const CONNECTIONS: usize = 8;
    const ROUNDS: usize = 150;
    let (small, large) = (text(SMALL), text(LARGE));
    let served = Served::start(1, &[stored("/small", &small), stored("/large", &large)]);
    let asked: [(String, u16, &[u8]); 5] = [
        (head("/small", ""), 200, small.as_bytes()),
        (head("/large", ""), 200, large.as_bytes()),
        (head("/small", "Range: bytes=10-19\r\n"), 206, &small.as_bytes()[10..20]),
        (head("/small", "If-None-Match: \"v1\"\r\n"), 304, b""),
        (head("/large", "Range: bytes=-5000\r\n"), 206, &large.as_bytes()[LARGE - 5000..]),
    ];
    let mut streams: Vec<TcpStream> = (0..CONNECTIONS).map(|_| served.connect()).collect();
    let mut room = vec![0; LARGE + 4096];
    let mut ask = |rounds: usize| {
        for _ in 0..rounds {
            for (head, status, body) in &asked {
                // All at once, so that a turn has several to answer.
                streams.iter_mut().for_each(|stream| stream.write_all(head.as_bytes()).expect("sent"));
                for stream in &mut streams {
                    let answer = response(stream, &mut room);
                    assert!(answer == (*status, *body), "{} with {} bytes", answer.0, answer.1.len());
                }
            }
        }
    };
    ask(20);
    // Warm is who has been as busy as it gets: what is made for a turn is kept, so a turn with more connections than any
    // before, where the worker waited for its CPU, makes some for each of them, once.
    let mut most = 4 * CONNECTIONS as u64;
    loop {
        let (hits, before) = (served.cells.get(Counter::Hits), requests(served.thread));
        assert!(before > 64, "the worker's start was counted: {before}");
        ask(ROUNDS);
        let allocations = requests(served.thread) - before;
        let hits = served.cells.get(Counter::Hits) - hits;
        assert_eq!(hits, (ROUNDS * CONNECTIONS * asked.len()) as u64);
        if allocations == 0 {
            break;
        }
        assert!(
            allocations < most,
            "{allocations} for {hits} hits, beyond what more connections in a turn need"
        );
        most -= allocations;
    }
    assert_eq!(served.cells.get(Counter::Requests), served.cells.get(Counter::Hits));
}

/// One response off a stream that has more behind it: its body.
fn next_body(stream: &mut BufReader<TcpStream>) -> Vec<u8> {
    let (mut length, mut line) = (0, String::new());
    while line != "\r\n" {
        line.clear();
        assert_ne!(stream.read_line(&mut line).expect("a line"), 0, "the connection ended");
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
            length = value.trim().parse().expect("a number");
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).expect("a body");
    body
}

#[test]
fn heads_that_come_together_whole_split_and_pipelined_are_each_answered_with_their_own_object() {
    const OBJECTS: usize = 5;
    let bodies: Vec<String> = (0..OBJECTS).map(|number| format!("{number}:{}", text(700 + number))).collect();
    let records: Vec<Record> =
        bodies.iter().enumerate().map(|(number, body)| stored(&format!("/{number}"), body)).collect();
    let served = Served::start(3, &records);
    let mut streams: Vec<_> = (0..12).map(|_| BufReader::new(served.connect())).collect();
    for round in 0..400_usize {
        // Two or three requests of each connection, cut once at a place that moves through all of them.
        let asked = |client: usize| (0..2 + client % 2).map(move |next| (client + round + next) % OBJECTS);
        let bytes = |client: usize| -> Vec<u8> {
            let field = format!("X-Padding: {}\r\n", "p".repeat(client * 3));
            asked(client).flat_map(|number| head(&format!("/{number}"), &field).into_bytes()).collect()
        };
        let cut = |client: usize| (round * 7 + client * 31) % bytes(client).len();
        for (client, stream) in streams.iter_mut().enumerate() {
            stream.get_mut().write_all(&bytes(client)[..cut(client)]).expect("sent");
        }
        for (client, stream) in streams.iter_mut().enumerate() {
            stream.get_mut().write_all(&bytes(client)[cut(client)..]).expect("sent");
        }
        for (client, stream) in streams.iter_mut().enumerate() {
            for number in asked(client) {
                assert!(next_body(stream) == bodies[number].as_bytes(), "round {round}, client {client}");
            }
        }
    }
    assert_eq!(served.cells.get(Counter::Hits), 400 * (6 * 2 + 6 * 3));
}

/// The pages of a stored body, in the mapping that user space reads. The kernel sends from another one.
fn body_pages(served: &Served, body: &[u8]) -> (usize, usize) {
    let file = served.path.join("shard-0");
    let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc");
    let line = |line: &&str| line.ends_with(&*file.to_string_lossy()) && line.contains(" rw-s ");
    let line = maps.lines().find(line).expect("the shard is mapped");
    let (start, rest) = line.split_once('-').expect("a range");
    let end = rest.split(' ').next().expect("its end");
    let [start, end] = [start, end].map(|text| usize::from_str_radix(text, 16).expect("an address"));
    // SAFETY: a mapping of this process that the store keeps; its first segment is written no more.
    let mapped = unsafe { std::slice::from_raw_parts(start as *const u8, (end - start).min(8 << 20)) };
    let at = mapped.windows(64).position(|bytes| bytes == &body[..64]).expect("stored");
    assert!(mapped[at..].starts_with(body));
    let page = sys::mapping::memory_page_bytes();
    let (first, last) = ((start + at).next_multiple_of(page), (start + at + body.len()) / page * page);
    (first, last - first)
}

#[test]
fn bodies_of_plaintext_hits_are_not_read_in_user_space() {
    const HITS: usize = 1000;
    let body = text(LARGE);
    let served = Served::start(2, &[stored("/body", &body)]);
    let (mut stream, mut room) = (served.connect(), vec![0; LARGE + 4096]);
    let (start, bytes) = body_pages(&served, body.as_bytes());
    assert!(bytes > LARGE - 2 * sys::mapping::memory_page_bytes());
    // From here on whoever of this process touches one of these pages is ended by the kernel.
    // SAFETY: whole pages of a mapping that lives as long as `served`; they are only forbidden, nothing is moved.
    let forbidden = unsafe { libc::mprotect(start as *mut libc::c_void, bytes, libc::PROT_NONE) };
    assert_eq!(forbidden, 0);
    for _ in 0..HITS {
        stream.write_all(head("/body", "").as_bytes()).expect("sent");
        assert!(response(&mut stream, &mut room) == (200, body.as_bytes()));
        stream.write_all(head("/body", "Range: bytes=100000-200000\r\n").as_bytes()).expect("sent");
        assert!(response(&mut stream, &mut room) == (206, &body.as_bytes()[100_000..=200_000]));
    }
    assert_eq!(served.cells.get(Counter::Hits), 2 * HITS as u64);
    assert!(served.cells.get(Counter::SentBytes) > (HITS * (LARGE + 100_000)) as u64);
}
