//! The practical limit: an io_uring responder that answers every request head with the same canned
//! bytes. It parses nothing, looks nothing up and checks nothing, so what it costs is what the kernel's
//! TCP and io_uring cost. Nothing of a cache ever lives here, and no option that a cache could not use.
//!
//! One pinned thread, one ring (single issuer, deferred task work, entered by its registered number), multishot
//! accept into direct descriptors, multishot receive from a provided-buffer ring, one send a response,
//! one system call a turn.

use anyhow::{Context, Result};
use clap::Parser;
use io_uring::types::{BufRingEntry, Fixed};
use io_uring::{CompletionQueue, IoUring, SubmissionQueue, Submitter, cqueue, opcode, squeue};
use nix::sys::socket::{self, sockopt};
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering};

/// Connections at once; further ones are refused by the kernel's file table.
const CONNECTIONS_MAX: u32 = 16 * 1024;
/// Bytes a receive may fill: a benchmark's request head fits many times.
const BUFFER_BYTES: usize = 2048;
/// Receive buffers; a power of two, as the kernel asks.
const BUFFERS: u16 = 1024;
/// Submission entries: a full queue is submitted early, which costs one more system call.
const ENTRIES: u32 = 4096;
const GROUP: u16 = 0;

/// Answers every request with the same bytes.
#[derive(Parser)]
#[command(name = "null", about = "A bare io_uring responder: the practical limit of a cache hit")]
struct Options {
    /// Port on 127.0.0.1.
    #[arg(long)]
    port: u16,
    /// CPU to run on.
    #[arg(long)]
    cpu: usize,
    /// Bytes of the body.
    #[arg(long)]
    bytes: usize,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let mut cpus = nix::sched::CpuSet::new();
    cpus.set(options.cpu)?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &cpus)
        .with_context(|| format!("pin to CPU {}: choose one of `taskset -p $$`", options.cpu))?;
    let listener = listen(options.port)?;
    let mut ring = ring()?;
    // Never freed: what is in flight may use its memory until the process ends.
    let server = Box::leak(Box::new(Server::new(&mut ring, response(options.bytes))?));
    eprintln!("null: {} bytes on 127.0.0.1:{}, CPU {}", options.bytes, options.port, options.cpu);
    server.run(listener)
}

fn response(bytes: usize) -> Vec<u8> {
    let mut out = format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n").into_bytes();
    out.resize(out.len() + bytes, b'x');
    out
}

fn listen(port: u16) -> Result<OwnedFd> {
    let fd = socket::socket(
        socket::AddressFamily::Inet,
        socket::SockType::Stream,
        socket::SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    socket::setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    // Accepted sockets inherit it.
    socket::setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
    let address = SocketAddrV4::new([127, 0, 0, 1].into(), port);
    socket::bind(fd.as_raw_fd(), &socket::SockaddrIn::from(address))
        .with_context(|| format!("bind {}: choose a free --port", SocketAddr::from(address)))?;
    socket::listen(&fd, socket::Backlog::new(4096)?)?;
    Ok(fd)
}

/// What a completion belongs to; with the slot it makes the token.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Accept,
    Receive,
    Send,
    Close,
}

impl Kind {
    fn token(self, slot: u32) -> u64 {
        (self as u64) << 32 | u64::from(slot)
    }

    fn of(token: u64) -> (Kind, u32) {
        let kind = match token >> 32 {
            0 => Kind::Accept,
            1 => Kind::Receive,
            2 => Kind::Send,
            _ => Kind::Close,
        };
        (kind, token as u32)
    }
}

/// One direct descriptor. Its slot is closed only when neither a receive nor a send is in flight, so the
/// kernel cannot hand the number out again under a completion.
#[derive(Clone, Copy, Default)]
struct Connection {
    /// Responses owed after the one in flight: pipelined requests are answered in order.
    owed: u32,
    /// Bytes of `\r\n\r\n` seen at the end of what was received.
    matched: u8,
    sending: bool,
    receiving: bool,
    broken: bool,
}

/// A ring as edge's workers have it.
fn ring() -> Result<IoUring> {
    let build = |no_sqarray: bool| {
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun().setup_submit_all().setup_cqsize(ENTRIES * 4);
        if no_sqarray {
            builder.setup_no_sqarray();
        }
        builder.build(ENTRIES)
    };
    // Linux 6.6 can do without the array.
    let ring = build(true).or_else(|_| build(false));
    ring.context("io_uring_setup: Linux 6.1 or newer is needed, and io_uring allowed")
}

/// The parts of the ring are kept apart, for it is the submitter that remembers the ring's registered number.
struct Server<'r> {
    submitter: Submitter<'r>,
    submissions: SubmissionQueue<'r>,
    completions: CompletionQueue<'r>,
    buffers: Buffers,
    connections: Vec<Connection>,
    response: Vec<u8>,
    listener: i32,
}

impl<'r> Server<'r> {
    fn new(ring: &'r mut IoUring, response: Vec<u8>) -> Result<Self> {
        let (mut submitter, submissions, completions) = ring.split();
        submitter.register_ring_fd()?;
        submitter.register_files_sparse(CONNECTIONS_MAX)?;
        let buffers = Buffers::register(&submitter)?;
        let connections = vec![Connection::default(); CONNECTIONS_MAX as usize];
        Ok(Server { submitter, submissions, completions, buffers, connections, response, listener: -1 })
    }

    fn run(&mut self, listener: OwnedFd) -> Result<()> {
        self.listener = listener.as_raw_fd();
        self.accept()?;
        let mut completions = Vec::with_capacity(ENTRIES as usize * 4);
        loop {
            self.submissions.sync();
            self.submitter.submit_and_wait(1)?;
            self.submissions.sync();
            self.completions.sync();
            completions.extend(&mut self.completions);
            self.completions.sync();
            for completion in completions.drain(..) {
                self.complete(completion)?;
            }
            self.buffers.publish();
        }
    }

    fn complete(&mut self, completion: cqueue::Entry) -> Result<()> {
        let (kind, slot) = Kind::of(completion.user_data());
        let more = cqueue::more(completion.flags());
        let result = completion.result();
        match kind {
            Kind::Accept => {
                if !more {
                    self.accept()?;
                }
                if result >= 0 {
                    self.connections[result as usize] = Connection::default();
                    self.receive(result as u32)?;
                }
            }
            Kind::Receive => {
                if let Some(buffer) = cqueue::buffer_select(completion.flags()) {
                    let bytes = self.buffers.bytes(buffer, result.max(0) as usize);
                    let connection = &mut self.connections[slot as usize];
                    connection.owed += heads(&mut connection.matched, bytes);
                    self.buffers.give_back(buffer);
                    self.send(slot)?;
                }
                if !more {
                    self.connections[slot as usize].receiving = false;
                    // Out of buffers is not the end: they are back after this turn.
                    if result > 0 || result == -libc::ENOBUFS {
                        self.receive(slot)?;
                    } else {
                        self.connections[slot as usize].broken = true;
                        self.close(slot)?;
                    }
                }
            }
            Kind::Send => {
                let connection = &mut self.connections[slot as usize];
                connection.sending = false;
                // With MSG_WAITALL a short send means that the peer is gone.
                if result != self.response.len() as i32 {
                    connection.broken = true;
                    connection.owed = 0;
                }
                self.send(slot)?;
                self.close(slot)?;
            }
            Kind::Close => {}
        }
        Ok(())
    }

    fn accept(&mut self) -> Result<()> {
        let entry = opcode::AcceptMulti::new(io_uring::types::Fd(self.listener)).allocate_file_index(true);
        self.push(entry.build().user_data(Kind::Accept.token(0)))
    }

    fn receive(&mut self, slot: u32) -> Result<()> {
        self.connections[slot as usize].receiving = true;
        let entry = opcode::RecvMulti::new(Fixed(slot), GROUP);
        self.push(entry.build().user_data(Kind::Receive.token(slot)))
    }

    /// Starts the next response that is owed, unless one is in flight.
    fn send(&mut self, slot: u32) -> Result<()> {
        let connection = &mut self.connections[slot as usize];
        if connection.sending || connection.owed == 0 {
            return Ok(());
        }
        connection.sending = true;
        connection.owed -= 1;
        let entry = opcode::Send::new(Fixed(slot), self.response.as_ptr(), self.response.len() as u32)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL);
        self.push(entry.build().user_data(Kind::Send.token(slot)))
    }

    /// Closes a broken connection once nothing of it is in flight.
    fn close(&mut self, slot: u32) -> Result<()> {
        let connection = &mut self.connections[slot as usize];
        if !connection.broken || connection.sending {
            return Ok(());
        }
        if connection.receiving {
            // A failed send: let the receive end by itself, the peer has gone.
            return Ok(());
        }
        let entry = opcode::Close::new(Fixed(slot));
        self.push(entry.build().user_data(Kind::Close.token(slot)))
    }

    fn push(&mut self, entry: squeue::Entry) -> Result<()> {
        loop {
            // SAFETY: every pointer in an entry goes to the response or to the receive buffers, which
            // live until the process ends (see `main`) and are never reallocated.
            if unsafe { self.submissions.push(&entry) }.is_ok() {
                return Ok(());
            }
            self.submissions.sync();
            self.submitter.submit()?;
            self.submissions.sync();
        }
    }
}

/// Counts the request heads that end in `bytes`; `matched` carries a split `\r\n\r\n` over.
fn heads(matched: &mut u8, bytes: &[u8]) -> u32 {
    // Nearly always one whole head.
    if *matched == 0 && bytes.ends_with(b"\r\n\r\n") {
        let inner = &bytes[..bytes.len() - 4];
        if !inner.windows(4).any(|window| window == b"\r\n\r\n") {
            return 1;
        }
    }
    let mut count = 0;
    for &byte in bytes {
        *matched = match (byte, *matched) {
            (b'\r', 2) => 3,
            (b'\r', _) => 1,
            (b'\n', 1) => 2,
            (b'\n', 3) => {
                count += 1;
                0
            }
            _ => 0,
        };
    }
    count
}

/// The provided receive buffers and the ring through which the kernel takes them.
struct Buffers {
    entries: *mut BufRingEntry,
    data: Vec<u8>,
    tail: u16,
}

impl Buffers {
    fn register(submitter: &Submitter<'_>) -> Result<Self> {
        let bytes = BUFFERS as usize * size_of::<BufRingEntry>();
        // SAFETY: a fresh anonymous mapping, page-aligned as the kernel asks; it is never unmapped.
        let memory = unsafe {
            nix::sys::mman::mmap_anonymous(
                None,
                bytes.try_into()?,
                nix::sys::mman::ProtFlags::PROT_READ | nix::sys::mman::ProtFlags::PROT_WRITE,
                nix::sys::mman::MapFlags::MAP_PRIVATE | nix::sys::mman::MapFlags::MAP_POPULATE,
            )?
        };
        let entries = memory.as_ptr().cast::<BufRingEntry>();
        // SAFETY: `entries` holds BUFFERS entries and outlives the ring.
        unsafe { submitter.register_buf_ring_with_flags(entries as u64, BUFFERS, GROUP, 0)? };
        let mut buffers = Buffers { entries, data: vec![0; BUFFERS as usize * BUFFER_BYTES], tail: 0 };
        for buffer in 0..BUFFERS {
            buffers.give_back(buffer);
        }
        buffers.publish();
        Ok(buffers)
    }

    fn bytes(&self, buffer: u16, len: usize) -> &[u8] {
        &self.data[buffer as usize * BUFFER_BYTES..][..len]
    }

    /// Puts a buffer back; the kernel sees it with the next [`Buffers::publish`].
    fn give_back(&mut self, buffer: u16) {
        let index = (self.tail & (BUFFERS - 1)) as usize;
        // SAFETY: the index is masked to the ring, and an entry past the tail is ours to write.
        let entry = unsafe { &mut *self.entries.add(index) };
        entry.set_addr(self.data[buffer as usize * BUFFER_BYTES..].as_ptr() as u64);
        entry.set_len(BUFFER_BYTES as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&mut self) {
        // SAFETY: the tail lives in the first entry, is aligned, and only the kernel reads it.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(pieces: &[&str]) -> u32 {
        let mut matched = 0;
        pieces.iter().map(|piece| heads(&mut matched, piece.as_bytes())).sum()
    }

    #[test]
    fn heads_are_counted_over_pipelines_and_splits() {
        for (pieces, expected) in [
            (&["GET / HTTP/1.1\r\n\r\n"][..], 1),
            (&["GET / HTTP/1.1\r\nA: b\r\n\r\nGET / HTTP/1.1\r\n\r\n"], 2),
            (&["GET / HTTP/1.1\r\n", "\r\n"], 1),
            (&["GET / HTTP/1.1\r", "\n\r", "\nGET / HTTP/1.1\r\n\r\n"], 2),
            (&["GET / HTTP/1.1\r\n"], 0),
            (&["\r\r\n\r\n"], 1),
        ] {
            assert_eq!(count(pieces), expected, "{pieces:?}");
        }
    }

    #[test]
    fn the_canned_response_states_its_length() {
        let response = response(1024);
        let text = String::from_utf8(response).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert_eq!(head, "HTTP/1.1 200 OK\r\nContent-Length: 1024");
        assert_eq!(body.len(), 1024);
    }
}
