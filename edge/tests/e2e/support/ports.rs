//! Ports for servers that tests and tasks start: free now, and of no one else who asks here, in whatever process, until
//! this process ends. Nothing else lives here: others include this file.

use std::net::TcpStream;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::{Mutex, PoisonError};

/// Below the range the kernel gives to outgoing connections, which would take a port before its server does.
const FIRST: u16 = 12_000;
/// Ports that are claimed at once, and how many such blocks there are.
const BLOCK: u16 = 100;
const BLOCKS: u16 = 200;
const _: () = assert!(FIRST + BLOCK * BLOCKS <= 32_768);

/// What this process has: sockets whose names claim blocks, and what is left of the last one.
struct Claims {
    sockets: Vec<UnixListener>,
    next: u16,
    end: u16,
}

static CLAIMS: Mutex<Claims> = Mutex::new(Claims { sockets: Vec::new(), next: 0, end: 0 });

/// A port nobody listens on; `None` if all are taken.
pub fn free() -> Option<u16> {
    let mut claims = CLAIMS.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        while claims.next < claims.end {
            let port = claims.next;
            claims.next += 1;
            // Not by a socket that listens there for a moment: a child that another thread starts then has it, too, until it
            // runs its own program, and the port would be taken.
            if TcpStream::connect(("127.0.0.1", port)).is_err() {
                return Some(port);
            }
        }
        let first = std::process::id() as u16 % BLOCKS;
        let (block, socket) = (first..first + BLOCKS).find_map(|block| claim(block % BLOCKS))?;
        claims.next = FIRST + block * BLOCK;
        claims.end = claims.next + BLOCK;
        claims.sockets.push(socket);
    }
}

/// A name in the network namespace, as ports are; it goes with the process.
fn claim(block: u16) -> Option<(u16, UnixListener)> {
    let name = SocketAddr::from_abstract_name(format!("edge-test-ports-{block}")).ok()?;
    Some((block, UnixListener::bind_addr(&name).ok()?))
}
