//! A scripted HTTP/1.1 origin: a thread per connection, a script per path, and a record of every
//! request it was asked. It knows nothing of edge.

use super::PATIENCE;
use super::answer::{Answer, Cut, Framing};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::{Duration, Instant};

/// The longest any gate stays shut, so that a failed test ends.
const GATE_LIMIT: Duration = Duration::from_secs(60);

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The method.
    pub method: String,
    /// The whole request target.
    pub target: String,
    /// Fields in order, names in lower case.
    pub fields: Vec<(String, String)>,
}

impl Seen {
    /// The first value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// Every value of a field.
    pub fn all(&self, name: &str) -> Vec<String> {
        self.fields.iter().filter(|(n, _)| n == name).map(|(_, value)| value.clone()).collect()
    }

    /// The target without its query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or("")
    }
}

/// Something a script waits at until the test lets it pass.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// Lets everybody pass from now on.
    pub fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        *self.0.0.lock().unwrap()
    }

    /// Waits until it is open, at most [`GATE_LIMIT`].
    pub fn wait(&self) {
        let open = self.0.0.lock().unwrap();
        let _ = self.0.1.wait_timeout_while(open, GATE_LIMIT, |open| !*open).unwrap();
    }
}

/// One request being answered.
pub struct Exchange<'a> {
    /// The request.
    pub request: Seen,
    /// How many requests for this path came before it.
    pub earlier: usize,
    /// The lines that followed its body, once that is read.
    pub trailers: Vec<String>,
    connection: &'a mut Connection,
    body_read: bool,
    keep: bool,
}

impl Exchange<'_> {
    /// Reads the request's body whole.
    pub fn body(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        self.body_to(&mut |piece| body.extend_from_slice(piece))?;
        Ok(body)
    }

    /// Reads the request's body piece by piece; a sink that waits holds the sender back.
    pub fn body_to(&mut self, sink: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        if std::mem::replace(&mut self.body_read, true) {
            return Ok(());
        }
        if self.request.field("expect").is_some() {
            self.connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let chunked = self.request.field("transfer-encoding").is_some_and(|v| v.contains("chunked"));
        let bytes = self.request.field("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
        match chunked {
            true => self.trailers = self.connection.chunked_body(sink)?,
            false => self.connection.take(bytes, sink)?,
        }
        Ok(())
    }

    /// Reads what is left of the request and sends the response.
    pub fn answer(&mut self, answer: &Answer) -> io::Result<()> {
        self.body_to(&mut |_| {})?;
        std::thread::sleep(answer.delay);
        self.connection.send(&answer.head())?;
        self.keep = answer.framing != Framing::Close;
        if self.request.method == "HEAD" || !answer.has_body() {
            return Ok(());
        }
        let (bytes, mut at) = (answer.bytes(), 0);
        let mut piece = vec![0; 64 * 1024];
        loop {
            if let Some((_, gate)) = answer.hold.as_ref().filter(|(after, _)| *after == at) {
                gate.wait();
            }
            if let Some((_, cut)) = answer.cut.filter(|(after, _)| *after == at) {
                return self.break_off(cut);
            }
            if at == bytes {
                break;
            }
            let stops = [answer.hold.as_ref().map(|h| h.0), answer.cut.map(|c| c.0), Some(bytes)];
            let stop = stops.into_iter().flatten().filter(|stop| *stop > at).min().unwrap_or(bytes);
            let n = (stop - at).min(piece.len() as u64) as usize;
            answer.read(at, &mut piece[..n]);
            self.write_piece(answer.framing, &piece[..n])?;
            at += n as u64;
        }
        if answer.framing == Framing::Chunked {
            self.connection.send(b"0\r\n\r\n")?;
        }
        Ok(())
    }

    /// Sends these very bytes.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.connection.send(bytes)
    }

    /// The connection itself, now that it speaks another protocol; nothing may have come of that.
    pub fn tunnel(&mut self) -> TcpStream {
        self.keep = false;
        assert!(self.connection.unread.is_empty(), "bytes before the answer");
        self.connection.stream.try_clone().expect("a second handle")
    }

    /// Ends the connection.
    pub fn break_off(&mut self, cut: Cut) -> io::Result<()> {
        self.keep = false;
        if cut == Cut::Reset {
            // What was sent must have left first, else the reset overtakes it and nothing is seen of it.
            std::thread::sleep(Duration::from_millis(50));
            let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
            nix::sys::socket::setsockopt(
                &*self.connection.stream,
                nix::sys::socket::sockopt::Linger,
                &linger,
            )?;
        }
        Ok(())
    }

    fn write_piece(&mut self, framing: Framing, piece: &[u8]) -> io::Result<()> {
        if framing != Framing::Chunked {
            return self.connection.send_body(piece);
        }
        self.connection.send(format!("{:x}\r\n", piece.len()).as_bytes())?;
        self.connection.send_body(piece)?;
        self.connection.send(b"\r\n")
    }
}

type Script = dyn Fn(&mut Exchange<'_>) -> io::Result<()> + Send + Sync;

#[derive(Default)]
struct Shared {
    scripts: Mutex<HashMap<String, Arc<Script>>>,
    seen: Mutex<Vec<Seen>>,
    arrived: Condvar,
    body_bytes_sent: AtomicU64,
    accepted: AtomicU64,
    connections: Mutex<Vec<Weak<TcpStream>>>,
    stopping: AtomicBool,
}

/// The origin.
pub struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Origin {
    /// Starts one that answers 404 to everything.
    pub fn start() -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], super::edge::free_port()));
        Self::start_at(address)
    }

    /// Starts one at an address, such as that of one that was stopped.
    pub fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("the origin's port is free");
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if theirs.stopping.load(Ordering::Acquire) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                theirs.accepted.fetch_add(1, Ordering::Relaxed);
                let stream = Arc::new(stream);
                let mut connections = theirs.connections.lock().unwrap();
                connections.retain(|c| c.strong_count() > 0);
                connections.push(Arc::downgrade(&stream));
                drop(connections);
                let shared = theirs.clone();
                std::thread::spawn(move || Connection::new(stream, shared).run());
            }
        });
        Origin { address, shared }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What requests for a path get, from now on.
    pub fn script(
        &self,
        path: &str,
        script: impl Fn(&mut Exchange<'_>) -> io::Result<()> + Send + Sync + 'static,
    ) {
        self.shared.scripts.lock().unwrap().insert(path.into(), Arc::new(script));
    }

    /// Answers every request for a path so.
    pub fn on(&self, path: &str, answer: Answer) {
        self.script(path, move |exchange| exchange.answer(&answer));
    }

    /// Answers a path with its own cacheable content.
    pub fn cacheable(&self, path: &str, bytes: u64) {
        self.on(path, Answer::cacheable(path, bytes));
    }

    /// The requests for a path, oldest first.
    pub fn seen(&self, path: &str) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().iter().filter(|seen| seen.path() == path).cloned().collect()
    }

    /// How many requests came for a path.
    pub fn count(&self, path: &str) -> usize {
        self.seen(path).len()
    }

    /// How many requests came.
    pub fn count_all(&self) -> usize {
        self.shared.seen.lock().unwrap().len()
    }

    /// How many connections were made.
    pub fn connections(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Body bytes handed to the kernel so far.
    pub fn body_bytes_sent(&self) -> u64 {
        self.shared.body_bytes_sent.load(Ordering::Relaxed)
    }

    /// Waits until a path was asked for `count` times.
    pub fn await_count(&self, path: &str, count: usize) {
        let until = Instant::now() + PATIENCE;
        let mut seen = self.shared.seen.lock().unwrap();
        while seen.iter().filter(|seen| seen.path() == path).count() < count {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the origin was not asked {count} times for {path}");
            seen = self.shared.arrived.wait_timeout(seen, left).unwrap().0;
        }
    }

    /// Goes down: refuses connections and breaks those it has.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.address);
        for stream in self.shared.connections.lock().unwrap().drain(..).filter_map(|c| c.upgrade()) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Connection {
    stream: Arc<TcpStream>,
    unread: Vec<u8>,
    shared: Arc<Shared>,
}

impl Connection {
    fn new(stream: Arc<TcpStream>, shared: Arc<Shared>) -> Self {
        let _ = stream.set_nodelay(true);
        Connection { stream, unread: Vec::new(), shared }
    }

    /// Answers until the peer leaves or a response ends the connection. Faults of the peer end it, too:
    /// what the peer then makes of it is the test's matter.
    fn run(mut self) {
        while let Ok(Some(request)) = self.head() {
            let (script, earlier) = {
                let mut seen = self.shared.seen.lock().unwrap();
                let earlier = seen.iter().filter(|s| s.path() == request.path()).count();
                seen.push(request.clone());
                self.shared.arrived.notify_all();
                (self.shared.scripts.lock().unwrap().get(request.path()).cloned(), earlier)
            };
            let mut exchange = Exchange {
                request,
                earlier,
                trailers: Vec::new(),
                connection: &mut self,
                body_read: false,
                keep: true,
            };
            let result = match script {
                Some(script) => script(&mut exchange),
                None => exchange.answer(&Answer::new(404).field("cache-control", "no-store")),
            };
            if result.is_err() || !exchange.keep {
                break;
            }
        }
    }

    fn head(&mut self) -> io::Result<Option<Seen>> {
        let end = loop {
            if let Some(at) = self.unread.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            if self.receive()? == 0 {
                return Ok(None);
            }
        };
        let head = String::from_utf8_lossy(&self.unread[..end]).into_owned();
        self.unread.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let mut first = lines.next().unwrap_or("").split(' ');
        let method = first.next().unwrap_or("").to_string();
        let target = first.next().unwrap_or("").to_string();
        let fields = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_string()))
            .collect();
        Ok(Some(Seen { method, target, fields }))
    }

    fn receive(&mut self) -> io::Result<usize> {
        let mut piece = [0; 16 * 1024];
        let n = (&*self.stream).read(&mut piece)?;
        self.unread.extend_from_slice(&piece[..n]);
        Ok(n)
    }

    fn take(&mut self, mut bytes: u64, sink: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        while bytes > 0 {
            if self.unread.is_empty() && self.receive()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let n = bytes.min(self.unread.len() as u64) as usize;
            sink(&self.unread[..n]);
            self.unread.drain(..n);
            bytes -= n as u64;
        }
        Ok(())
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = self.unread.windows(2).position(|w| w == b"\r\n") {
                let line = String::from_utf8_lossy(&self.unread[..at]).into_owned();
                self.unread.drain(..at + 2);
                return Ok(line);
            }
            if self.receive()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Returns the lines of the trailer section.
    fn chunked_body(&mut self, sink: &mut dyn FnMut(&[u8])) -> io::Result<Vec<String>> {
        loop {
            let line = self.line()?;
            let bytes = u64::from_str_radix(line.split(';').next().unwrap_or("").trim(), 16)
                .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            if bytes == 0 {
                let mut lines = Vec::new();
                loop {
                    match self.line()? {
                        line if line.is_empty() => return Ok(lines),
                        line => lines.push(line),
                    }
                }
            }
            self.take(bytes, sink)?;
            self.line()?;
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        (&*self.stream).write_all(bytes)
    }

    fn send_body(&mut self, bytes: &[u8]) -> io::Result<()> {
        (&*self.stream).write_all(bytes)?;
        self.shared.body_bytes_sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}
