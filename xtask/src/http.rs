//! A small blocking HTTP/1.1 client, for checking what a server answers before it is measured. Never used
//! to measure anything.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

#[path = "../../edge/tests/e2e/support/ports.rs"]
mod ports;

const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a body; a longer one is an error, not a full memory.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// An answer, read whole.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lower case, with values.
    pub fields: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// The first field of that name, or an empty string.
    pub fn field(&self, name: &str) -> &str {
        self.fields.iter().find(|(field, _)| field == name).map_or("", |(_, value)| value)
    }
}

/// One keep-alive connection.
pub struct Connection(BufReader<TcpStream>);

impl Connection {
    /// Connects from any address.
    pub fn open(to: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&to, TIMEOUT).with_context(|| format!("connect to {to}"))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        Ok(Connection(BufReader::with_capacity(4096, stream)))
    }

    /// One GET and its whole answer.
    pub fn get(&mut self, path: &str) -> Result<Response> {
        let host = self.0.get_ref().peer_addr()?;
        self.get_with(path, &format!("Host: {host}\r\n"))
    }

    /// One GET with these field lines, Host among them, and its whole answer.
    pub fn get_with(&mut self, path: &str, fields: &str) -> Result<Response> {
        let head = format!("GET {path} HTTP/1.1\r\n{fields}\r\n");
        self.0.get_mut().write_all(head.as_bytes())?;
        read_response(&mut self.0)
    }

    /// The bare stream, without the reader's buffer: for connections that are only held.
    pub fn into_stream(self) -> TcpStream {
        self.0.into_inner()
    }
}

/// One GET over a connection of its own.
pub fn get(to: SocketAddr, path: &str) -> Result<Response> {
    Connection::open(to)?.get(path)
}

/// One POST of a JSON document over a connection of its own.
pub fn post(to: SocketAddr, path: &str, body: &str) -> Result<Response> {
    let mut connection = Connection::open(to)?;
    let fields =
        format!("Host: {to}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    connection.0.get_mut().write_all(format!("POST {path} HTTP/1.1\r\n{fields}\r\n{body}").as_bytes())?;
    read_response(&mut connection.0)
}

/// Whether something accepts connections there.
pub fn listens(to: SocketAddr) -> bool {
    TcpStream::connect_timeout(&to, Duration::from_millis(200)).is_ok()
}

/// A loopback port that is free now, and no one else's who asks here.
pub fn free_port() -> Result<u16> {
    ports::free().context("no port is free")
}

/// Reads one answer.
pub fn read_response(from: &mut impl BufRead) -> Result<Response> {
    let line = read_line(from)?;
    let status = line.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.with_context(|| format!("not a status line: {line:?}"))?;
    let mut fields = Vec::new();
    loop {
        let line = read_line(from)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').with_context(|| format!("not a field: {line:?}"))?;
        fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut response = Response { status, fields, body: Vec::new() };
    if response.field("transfer-encoding").eq_ignore_ascii_case("chunked") {
        read_chunks(from, &mut response.body)?;
    } else {
        let length = response.field("content-length").parse().context("neither length nor chunks")?;
        read_exact(from, length, &mut response.body)?;
    }
    Ok(response)
}

fn read_line(from: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    from.take(64 * 1024).read_line(&mut line).context("read")?;
    match line.strip_suffix("\r\n") {
        Some(line) => Ok(line.into()),
        None => bail!("the connection ended within a line: {line:?}"),
    }
}

fn read_exact(from: &mut impl Read, length: usize, body: &mut Vec<u8>) -> Result<()> {
    let start = body.len();
    if length > BODY_BYTES_MAX - start {
        bail!("a body of more than {BODY_BYTES_MAX} bytes");
    }
    body.resize(start + length, 0);
    from.read_exact(&mut body[start..]).context("the body ended early")
}

fn read_chunks(from: &mut impl BufRead, body: &mut Vec<u8>) -> Result<()> {
    loop {
        let line = read_line(from)?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let length = usize::from_str_radix(digits, 16).with_context(|| format!("chunk size {line:?}"))?;
        read_exact(from, length, body)?;
        if !read_line(from)?.is_empty() {
            bail!("a chunk without its end");
        }
        if length == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Response> {
        read_response(&mut text.as_bytes())
    }

    #[test]
    fn answers_are_read_whole_or_refused() {
        let plain = parse("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nAge:  7\r\n\r\nabc").unwrap();
        assert_eq!((plain.status, plain.field("age"), &plain.body[..]), (200, "7", &b"abc"[..]));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
        assert_eq!(parse(chunked).unwrap().body, b"abc");
        for bad in [
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
