//! Clients that send one byte a second: half of them of a head that never ends, half of them of a request's body. Cut
//! off, they come again.
#![forbid(unsafe_code)]

use super::{Tally, floods};
use anyhow::Result;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Between two bytes of one client.
const PAUSE: Duration = Duration::from_secs(1);

/// One of them. `None`: it has to connect again.
struct Client {
    stream: Option<TcpStream>,
    sends_body: bool,
}

impl Client {
    fn connect(&mut self, to: SocketAddr) -> Result<()> {
        let mut stream = floods::connect_from(floods::FROM, to)?;
        if self.sends_body {
            write!(stream, "POST /trickle HTTP/1.1\r\nHost: edge.test\r\nContent-Length: 1000000\r\n\r\n")?;
        } else {
            write!(stream, "GET /trickle HTTP/1.1\r\nHost: edge.test\r\nX-Slow: ")?;
        }
        stream.set_nonblocking(true)?;
        self.stream = Some(stream);
        Ok(())
    }

    /// Sends a byte; says whether it could.
    fn send(&mut self) -> bool {
        let open =
            self.stream.as_mut().is_some_and(|stream| stream.write_all(b"x").is_ok() && !is_over(stream));
        if !open {
            self.stream = None;
        }
        open
    }
}

fn is_over(stream: &TcpStream) -> bool {
    // An answer before the request is whole is a refusal, and the end comes with it.
    !matches!(stream.peek(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

/// All clients, their bytes spread evenly over the second.
pub struct Trickle {
    to: SocketAddr,
    clients: Vec<Client>,
    next: usize,
}

impl Trickle {
    /// So many, connected.
    pub fn connect(to: SocketAddr, clients: usize) -> Result<Self> {
        let mut clients: Vec<Client> =
            (0..clients).map(|number| Client { stream: None, sends_body: number % 2 == 1 }).collect();
        clients.iter_mut().try_for_each(|client| client.connect(to))?;
        Ok(Trickle { to, clients, next: 0 })
    }

    /// Sends on until `stop`.
    pub fn run(&mut self, stop: &AtomicBool) -> Result<Tally> {
        let each = PAUSE / self.clients.len() as u32;
        let (began, mut due, mut tally) = (Instant::now(), Duration::ZERO, Tally::default());
        while !stop.load(Ordering::Relaxed) {
            let next = (self.next + 1) % self.clients.len();
            let client = &mut self.clients[std::mem::replace(&mut self.next, next)];
            if client.send() {
                tally.events += 1;
            } else {
                tally.told += 1;
                client.connect(self.to)?;
            }
            due += each;
            std::thread::sleep(due.saturating_sub(began.elapsed()));
        }
        Ok(tally)
    }
}
