//! A raw HTTP/1.1 client: sends the bytes it is given and reads responses strictly. Whatever a server may
//! not do under RFC 9112 is a [`Fault`] here, never mended.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Why a response could not be read.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection ended in order where a response could have begun.
    Closed,
    /// The connection ended, or was reset, inside a response or with bytes of ours unread.
    Broken,
    /// Nothing came for [`PATIENCE`].
    Silent,
    /// It was no HTTP/1.1 response.
    Malformed(String),
}

/// How long a client waits for the next bytes.
pub const PATIENCE: Duration = Duration::from_secs(20);

const HEAD_BYTES_MAX: usize = 128 * 1024;

/// A response head.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// The status code.
    pub status: u16,
    /// Fields in order, names in lower case.
    pub fields: Vec<(String, String)>,
}

impl Head {
    /// The one value of a field that must not come twice.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str());
        let first = values.next();
        assert!(values.next().is_none(), "{name} came twice: {:?}", self.fields);
        first
    }

    /// Whether the response was served from the store, as its Cache-Status says.
    pub fn is_hit(&self) -> bool {
        self.cache_status().split(';').any(|word| word.trim() == "hit")
    }

    /// Cache-Status, which must be there and speak of this cache.
    pub fn cache_status(&self) -> &str {
        let value = self.field("cache-status").unwrap_or_else(|| panic!("no Cache-Status: {self:?}"));
        assert!(value.starts_with("edge;") || value == "edge", "Cache-Status is {value}");
        value
    }

    fn parse(head: &str) -> Result<Self, Fault> {
        let bad = |what: &str| Fault::Malformed(format!("{what}: {head:?}"));
        let mut lines = head.split("\r\n");
        let first = lines.next().unwrap_or("");
        let rest = first.strip_prefix("HTTP/1.1 ").ok_or_else(|| bad("version"))?;
        let status = rest.get(..3).and_then(|s| s.parse().ok()).ok_or_else(|| bad("status"))?;
        if !rest[3..].starts_with(' ') {
            return Err(bad("no space after the status"));
        }
        let mut fields = Vec::new();
        for line in lines {
            let (name, value) = line.split_once(':').ok_or_else(|| bad("field"))?;
            if name.is_empty() || name.contains([' ', '\t', '\n', '\r']) || value.contains(['\n', '\r', '\0'])
            {
                return Err(bad("field"));
            }
            fields.push((name.to_ascii_lowercase(), value.trim().to_string()));
        }
        Ok(Head { status, fields })
    }

    fn length(&self) -> Result<Length, Fault> {
        let bad = || Fault::Malformed(format!("framing: {self:?}"));
        let mut lengths = self.fields.iter().filter(|(n, _)| n == "content-length");
        let codings: Vec<_> = self.fields.iter().filter(|(n, _)| n == "transfer-encoding").collect();
        match (lengths.next(), codings.as_slice()) {
            _ if lengths.next().is_some() => Err(bad()),
            (Some((_, value)), []) if value.bytes().all(|b| b.is_ascii_digit()) => {
                value.parse().map(Length::Bytes).map_err(|_| bad())
            }
            (None, []) => Ok(Length::Close),
            (None, [(_, value)]) if value == "chunked" => Ok(Length::Chunked),
            _ => Err(bad()),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Length {
    Bytes(u64),
    Chunked,
    Close,
}

/// A whole response.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// Its head.
    pub head: Head,
    /// Its body.
    pub body: Vec<u8>,
}

impl Response {
    /// The status code.
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// The one value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.field(name)
    }

    /// Age in seconds.
    pub fn age(&self) -> u64 {
        let age = self.field("age").unwrap_or_else(|| panic!("no Age: {:?}", self.head));
        age.parse().expect("Age is a number")
    }

    /// The hash of the body.
    pub fn hash(&self) -> u64 {
        xxh3_64(&self.body)
    }
}

/// A connection.
pub struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
    taken: usize,
}

impl Client {
    /// Connects.
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("connected");
        Self::over(stream)
    }

    /// Connects, if somebody listens.
    pub fn try_connect(address: SocketAddr) -> Option<Self> {
        TcpStream::connect_timeout(&address, PATIENCE).ok().map(Self::over)
    }

    /// Connects from a loopback source address.
    pub fn connect_from(source: Ipv4Addr, address: SocketAddr) -> std::io::Result<Self> {
        use nix::sys::socket::{
            AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt,
        };
        let SocketAddr::V4(address) = address else { panic!("an IPv4 address is wanted") };
        let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&fd, sockopt::IpBindAddressNoPort, &true)?;
        bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(source, 0)))?;
        connect(fd.as_raw_fd(), &SockaddrIn::from(address))?;
        Ok(Self::over(TcpStream::from(fd)))
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a write timeout");
        stream.set_nodelay(true).expect("nodelay");
        Client { stream, unread: Vec::new(), taken: 0 }
    }

    /// The socket, for sending and for its options.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends bytes; a peer that closed meanwhile is found out by reading.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Ends the sending direction.
    pub fn send_no_more(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Sends a request without a body and reads its response.
    pub fn request(&mut self, method: &str, path: &str, fields: &[(&str, &str)]) -> Response {
        self.send(request(method, path, fields).as_bytes());
        self.response(method).unwrap_or_else(|fault| panic!("{method} {path}: {fault:?}"))
    }

    /// A GET.
    pub fn get(&mut self, path: &str) -> Response {
        self.request("GET", path, &[])
    }

    /// Reads the final response to a request of this method.
    pub fn response(&mut self, method: &str) -> Result<Response, Fault> {
        let mut body = Vec::new();
        let head = self.response_to(method, &mut |piece| body.extend_from_slice(piece))?;
        Ok(Response { head, body })
    }

    /// Reads a response, keeping of its body only length and hash.
    pub fn response_hash(&mut self, method: &str) -> Result<(Head, u64, u64), Fault> {
        let (mut hasher, mut bytes) = (Xxh3::new(), 0);
        let head = self.response_to(method, &mut |piece| {
            hasher.update(piece);
            bytes += piece.len() as u64;
        })?;
        Ok((head, bytes, hasher.digest()))
    }

    /// Reads a response, handing its body on as it comes.
    pub fn response_to(&mut self, method: &str, sink: &mut dyn FnMut(&[u8])) -> Result<Head, Fault> {
        let head = loop {
            let head = self.head()?;
            if head.status >= 200 {
                break head;
            }
        };
        self.body(method, &head, sink)?;
        Ok(head)
    }

    /// Reads one response head, interim ones included.
    pub fn head(&mut self) -> Result<Head, Fault> {
        let mut from = 0;
        let end = loop {
            let waiting = &self.unread[self.taken..];
            if let Some(at) = waiting[from..].windows(4).position(|w| w == b"\r\n\r\n") {
                break from + at;
            }
            from = waiting.len().saturating_sub(3);
            if waiting.len() > HEAD_BYTES_MAX {
                return Err(Fault::Malformed("an endless head".into()));
            }
            let nothing_yet = waiting.is_empty();
            match self.receive() {
                Ok(0) if nothing_yet => return Err(Fault::Closed),
                Ok(0) => return Err(Fault::Broken),
                Ok(_) => {}
                Err(fault) => return Err(fault),
            }
        };
        let head = String::from_utf8_lossy(&self.unread[self.taken..self.taken + end]).into_owned();
        self.taken += end + 4;
        Head::parse(&head)
    }

    /// Reads the body that belongs to a head.
    pub fn body(&mut self, method: &str, head: &Head, sink: &mut dyn FnMut(&[u8])) -> Result<(), Fault> {
        let length = head.length()?;
        if method == "HEAD" || head.status == 204 || head.status == 304 {
            return Ok(());
        }
        match length {
            Length::Bytes(bytes) => self.take(bytes, sink),
            Length::Chunked => self.chunks(sink),
            Length::Close => loop {
                let n = self.unread.len() - self.taken;
                self.take(n as u64, sink)?;
                if self.receive()? == 0 {
                    return Ok(());
                }
            },
        }
    }

    /// Reads until the peer closes: whether it did so in order, and the bytes that came.
    pub fn rest(&mut self) -> (Result<(), Fault>, Vec<u8>) {
        let end = loop {
            match self.receive() {
                Ok(0) => break Ok(()),
                Ok(_) => {}
                Err(fault) => break Err(fault),
            }
        };
        (end, self.unread.split_off(self.taken))
    }

    /// Waits for at least one byte that was not taken yet.
    pub fn await_byte(&mut self) -> Result<(), Fault> {
        while self.taken == self.unread.len() {
            if self.receive()? == 0 {
                return Err(Fault::Closed);
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<usize, Fault> {
        use std::io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
        if self.taken == self.unread.len() {
            self.unread.clear();
            self.taken = 0;
        }
        let mut piece = [0; 64 * 1024];
        loop {
            match self.stream.read(&mut piece) {
                Ok(n) => {
                    self.unread.extend_from_slice(&piece[..n]);
                    return Ok(n);
                }
                Err(error) if error.kind() == Interrupted => {}
                Err(error) if matches!(error.kind(), TimedOut | WouldBlock) => return Err(Fault::Silent),
                Err(_) => return Err(Fault::Broken),
            }
        }
    }

    fn take(&mut self, mut bytes: u64, sink: &mut dyn FnMut(&[u8])) -> Result<(), Fault> {
        while bytes > 0 {
            if self.taken == self.unread.len() && self.receive()? == 0 {
                return Err(Fault::Broken);
            }
            let n = bytes.min((self.unread.len() - self.taken) as u64) as usize;
            sink(&self.unread[self.taken..self.taken + n]);
            self.taken += n;
            bytes -= n as u64;
        }
        Ok(())
    }

    fn line(&mut self) -> Result<String, Fault> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            self.take(1, &mut |byte| line.extend_from_slice(byte))?;
        }
        String::from_utf8(line).map_err(|e| Fault::Malformed(e.to_string()))
    }

    fn chunks(&mut self, sink: &mut dyn FnMut(&[u8])) -> Result<(), Fault> {
        loop {
            let line = self.line()?;
            let bytes = u64::from_str_radix(line.trim_end(), 16).map_err(|_| Fault::Malformed(line))?;
            if bytes == 0 {
                while self.line()? != "\r\n" {}
                return Ok(());
            }
            self.take(bytes, sink)?;
            let end = self.line()?;
            if end != "\r\n" {
                return Err(Fault::Malformed(format!("chunk end {end:?}")));
            }
        }
    }
}

/// The head of a request to [`super::edge::HOST`].
pub fn request(method: &str, path: &str, fields: &[(&str, &str)]) -> String {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", super::edge::HOST);
    for (name, value) in fields {
        head += &format!("{name}: {value}\r\n");
    }
    head + "\r\n"
}
