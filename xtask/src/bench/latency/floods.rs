//! Attackers that speak HTTP/2 without TLS: each connects, sends one kind of frames that move no request, as many as
//! the node takes, is cut off, and comes again. The frames are those of RFC 9113 section 10.5 and of the attacks that
//! have names. Streams that are reset are of objects that are not stored, each another one.
#![forbid(unsafe_code)]

use super::super::frame::frame;
use super::Tally;
use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, SockaddrIn, bind, connect, socket};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Bytes of frames offered on one connection; far more than any bound lets pass.
const BYTES: usize = 100_000;
/// Long enough for what was sent to be looked at before the rest comes.
const PAUSE: Duration = Duration::from_millis(2);
/// How long a flood may go on before the node must have ended it.
const PATIENCE: Duration = Duration::from_secs(15);
/// The first address that attackers come from, so that what counts by the client's address tells them from others.
pub const FROM: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 2), 0);

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// Streams opened before they are all reset, where the two do not come together.
const STREAMS: u32 = 100;
/// Indexed fields (RFC 7541 appendix A): GET or POST, http; then the path as a literal.
const GET: &[u8] = b"\x82\x86\x04\x06/flood\x01\x09edge.test";
const POST: &[u8] = b"\x83\x86\x04\x06/flood\x01\x09edge.test";

/// A kind of flood: its name, and the bytes after the preface and the first SETTINGS.
pub struct Flood {
    /// As in the table.
    pub name: &'static str,
    /// What is sent one after the other, with [`PAUSE`] between.
    parts: Vec<Vec<u8>>,
    /// Connections so far.
    connections: AtomicU32,
}

/// All kinds.
pub fn all() -> Vec<Flood> {
    let repeated = |one: Vec<u8>| one.repeat(BYTES / one.len() + 1);
    let streams =
        |each: &dyn Fn(u32) -> Vec<u8>| (0..3000).flat_map(|n| each(2 * n + 1)).collect::<Vec<u8>>();
    let ask = |id: u32| {
        let mut request = b"\x82\x86\x04\x0c/flood/".to_vec();
        request.extend(format!("{id:05}").bytes());
        request.extend(b"\x01\x09edge.test");
        frame(HEADERS, END_HEADERS | END_STREAM, id, &request)
    };
    let reset = |id| frame(RST_STREAM, 0, id, &[0, 0, 0, 8]);
    let pages = (0..20).flat_map(|page| {
        let ids = move || (0..STREAMS).map(move |n| 2 * (page * STREAMS + n) + 1);
        [ids().flat_map(ask).collect(), ids().flat_map(reset).collect::<Vec<u8>>()]
    });
    // A long field in the dynamic table (RFC 7541 section 6.2.1), named again and again: 12 KiB become 32 MiB.
    let mut bomb = [GET, b"\x40\x01x\x7f\xa1\x1e", &[b'a'; 4000]].concat();
    bomb.extend([0xbe; 8000]);
    let in_parts = |name, parts| Flood { name, parts, connections: AtomicU32::new(0) };
    let flood = |name, bytes| in_parts(name, vec![bytes]);
    vec![
        flood("rapid reset", streams(&|id| [ask(id), reset(id)].concat())),
        in_parts("rapid reset, late", pages.collect()),
        flood(
            "CONTINUATION",
            [frame(HEADERS, 0, 1, GET), repeated(frame(CONTINUATION, 0, 1, &[0x82; 64]))].concat(),
        ),
        flood("SETTINGS", repeated(frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9]))),
        flood("PING", repeated(frame(PING, 0, 0, &[7; 8]))),
        flood(
            "empty frames",
            [frame(HEADERS, END_HEADERS, 1, POST), repeated(frame(DATA, 0, 1, b""))].concat(),
        ),
        flood("HPACK bomb", frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb)),
    ]
}

impl Flood {
    /// Lets attackers come, from so many addresses by turns and each anew after this pause, until `stop`.
    pub fn run(
        &self,
        to: SocketAddr,
        (attackers, addresses): (usize, u32),
        pause: Duration,
        stop: &AtomicBool,
    ) -> Result<Tally> {
        let attack = || -> Result<Tally> {
            let mut tally = Tally::default();
            while !stop.load(Ordering::Relaxed) {
                let address =
                    FROM.ip().to_bits() + self.connections.fetch_add(1, Ordering::Relaxed) % addresses;
                let from = SocketAddrV4::new(Ipv4Addr::from_bits(address), 0);
                tally.add(self.once(from, to).with_context(|| format!("{} flood", self.name))?);
                std::thread::sleep(pause);
            }
            Ok(tally)
        };
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..attackers).map(|_| scope.spawn(attack)).collect();
            let mut sum = Tally::default();
            for one in all {
                sum.add(one.join().map_err(|_| anyhow::anyhow!("an attacker panicked"))??);
            }
            Ok(sum)
        })
    }

    /// One connection, to its end.
    fn once(&self, from: SocketAddrV4, to: SocketAddr) -> Result<Tally> {
        let mut stream = connect_from(from, to)?;
        let began = Instant::now();
        let first = [PREFACE, &frame(SETTINGS, 0, 0, b"")].concat();
        // Either may find that the node has ended the connection: that is what is waited for.
        let _ = stream.write_all(&first).and_then(|()| {
            self.parts.iter().try_for_each(|part| {
                stream.write_all(part)?;
                std::thread::sleep(if self.parts.len() > 1 { PAUSE } else { Duration::ZERO });
                Ok(())
            })
        });
        let mut answer = Vec::new();
        let mut room = [0; 4096];
        loop {
            match stream.read(&mut room) {
                Ok(0) => break,
                Ok(bytes) => answer.extend_from_slice(&room[..bytes]),
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                    break;
                }
                Err(error) => bail!("not cut off within {:?}: {error}", began.elapsed()),
            }
            ensure!(began.elapsed() < PATIENCE, "not cut off within {PATIENCE:?}");
        }
        Ok(Tally { events: 1, told: u64::from(says_goodbye(&answer)) })
    }
}

/// Whether these frames hold a GOAWAY.
fn says_goodbye(mut frames: &[u8]) -> bool {
    while let Some((head, rest)) = frames.split_first_chunk::<9>() {
        if head[3] == GOAWAY {
            return true;
        }
        let bytes = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        frames = rest.get(bytes..).unwrap_or_default();
    }
    false
}

/// A connection from an address of ours.
pub fn connect_from(from: SocketAddrV4, to: SocketAddr) -> Result<TcpStream> {
    let SocketAddr::V4(to) = to else { bail!("{to} is no IPv4 address") };
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, SockProtocol::Tcp)?;
    bind(fd.as_raw_fd(), &SockaddrIn::from(from)).with_context(|| format!("bind {from}"))?;
    connect(fd.as_raw_fd(), &SockaddrIn::from(to)).with_context(|| format!("connect to {to} from {from}"))?;
    let stream = TcpStream::from(fd);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goodbye_is_found_among_frames() {
        let settings = frame(SETTINGS, 0, 0, &[0; 12]);
        let goodbye = frame(GOAWAY, 0, 0, &[0; 8]);
        assert!(says_goodbye(&[&settings[..], &goodbye].concat()));
        assert!(!says_goodbye(&settings) && !says_goodbye(b"") && !says_goodbye(&goodbye[..5]));
    }

    #[test]
    fn every_flood_is_far_beyond_any_bound() {
        for flood in all() {
            assert!(flood.parts.concat().len() > 12_000, "{}", flood.name);
        }
    }
}
