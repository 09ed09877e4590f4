//! A scripted origin on loopback: a thread for each connection, which does what the test says, byte by byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(super) struct Origin {
    port: u16,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<String>>,
    connections: AtomicUsize,
    stopped: AtomicBool,
}

/// One request and the way to answer it.
pub(super) struct Exchange {
    /// Request line and fields.
    head: String,
    reader: BufReader<TcpStream>,
    /// Whether the connection goes on afterwards.
    keep: bool,
    seen: Arc<Seen>,
}

impl Origin {
    pub(super) fn start(script: impl Fn(&mut Exchange) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Seen::default());
        let (script, accepted) = (Arc::new(script), seen.clone());
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let Ok(socket) = socket else { return };
                if accepted.stopped.load(Ordering::Relaxed) {
                    return;
                }
                accepted.connections.fetch_add(1, Ordering::Relaxed);
                let (script, seen) = (script.clone(), accepted.clone());
                std::thread::spawn(move || serve(socket, &*script, seen));
            }
        });
        Origin { port, seen }
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Heads of the requests that came, in order.
    pub(super) fn requests(&self) -> Vec<String> {
        self.seen.requests.lock().unwrap().clone()
    }

    /// Waits until so many came.
    pub(super) fn await_requests(&self, wanted: usize) {
        let start = std::time::Instant::now();
        while self.seen.requests.lock().unwrap().len() < wanted {
            assert!(start.elapsed() < super::PATIENCE, "the origin was not asked {wanted} times");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(super) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.seen.stopped.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn serve(socket: TcpStream, script: &(impl Fn(&mut Exchange) + ?Sized), seen: Arc<Seen>) {
    socket.set_nodelay(true).unwrap();
    let mut exchange = Exchange { head: String::new(), reader: BufReader::new(socket), keep: true, seen };
    while exchange.keep && exchange.read_head() {
        exchange.seen.requests.lock().unwrap().push(exchange.head.clone());
        script(&mut exchange);
    }
}

impl Exchange {
    fn read_head(&mut self) -> bool {
        self.head.clear();
        while !self.head.ends_with("\r\n\r\n") {
            if self.reader.read_line(&mut self.head).unwrap_or(0) == 0 {
                return false;
            }
        }
        true
    }

    pub(super) fn method(&self) -> &str {
        self.head.split(' ').next().unwrap()
    }

    pub(super) fn path(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }

    pub(super) fn field(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }

    /// The request's body, by Content-Length or chunked; `None` if it broke off.
    pub(super) fn body(&mut self) -> Option<Vec<u8>> {
        self.body_and_trailers().map(|(body, _)| body)
    }

    /// The same with the lines of its trailer section, sorted.
    pub(super) fn body_and_trailers(&mut self) -> Option<(Vec<u8>, Vec<String>)> {
        if self.field("transfer-encoding").is_some() {
            let (mut body, mut trailers) = (Vec::new(), Vec::new());
            loop {
                let mut line = String::new();
                self.reader.read_line(&mut line).ok()?;
                let bytes = usize::from_str_radix(line.trim(), 16).ok()?;
                if bytes == 0 {
                    break;
                }
                let mut chunk = vec![0; bytes + 2];
                self.reader.read_exact(&mut chunk).ok()?;
                body.extend_from_slice(&chunk[..bytes]);
            }
            loop {
                let mut line = String::new();
                self.reader.read_line(&mut line).ok()?;
                match line.trim() {
                    "" => break,
                    line => trailers.push(line.to_owned()),
                }
            }
            trailers.sort();
            return Some((body, trailers));
        }
        let mut body = vec![0; self.field("content-length")?.parse().unwrap()];
        self.reader.read_exact(&mut body).ok()?;
        Some((body, Vec::new()))
    }

    /// Sends bytes as they are. `false`: the other side is gone.
    pub(super) fn send(&mut self, bytes: &[u8]) -> bool {
        self.reader.get_mut().write_all(bytes).is_ok()
    }

    pub(super) fn close(&mut self) {
        self.keep = false;
        let _ = self.reader.get_mut().shutdown(Shutdown::Both);
    }

    pub(super) fn respond(&mut self, status: &str, fields: &str, body: &[u8]) {
        let head = format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\n\r\n", body.len());
        self.keep = self.send(&[head.as_bytes(), body].concat());
    }

    /// Sends this and then nothing, until the other side closes.
    pub(super) fn respond_and_stall(&mut self, status: &str, fields: &str, body: &[u8]) {
        self.send(&[format!("HTTP/1.1 {status}\r\n{fields}\r\n").as_bytes(), body].concat());
        self.stall();
    }

    /// Reads nothing until the test is over.
    pub(super) fn hang(&mut self) {
        while !self.seen.stopped.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.close();
    }

    /// Answers nothing until the other side closes.
    pub(super) fn stall(&mut self) {
        self.reader.get_mut().set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let _ = self.reader.read(&mut [0; 1]);
        self.close();
    }
}

/// A field of a head; `name` in lower case.
pub(super) fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (field, value) = line.split_once(':')?;
        field.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
