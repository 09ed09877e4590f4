//! One request to a node's admin endpoint over a blocking socket. HTTP/1.0, so that the answer simply ends
//! with the connection.
#![forbid(unsafe_code)]

use crate::config::{AdminAddress, Token};
use anyhow::{Context, Result, bail};
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How long the node may take to accept, and between two pieces of its answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of an answer; a status is far smaller.
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What the node answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The status code.
    pub(super) status: u16,
    /// The body, whatever its type.
    pub(super) body: String,
}

impl Answer {
    /// Why the node refused: its own sentence where it sent one.
    pub(super) fn reason(&self) -> String {
        let value: Option<serde_json::Value> = serde_json::from_str(&self.body).ok();
        let sentence = value.as_ref().and_then(|value| value.get("error")?.as_str());
        sentence.unwrap_or(self.body.trim()).chars().filter(|c| !c.is_control()).collect()
    }
}

/// Sends one request and reads the whole answer.
pub(super) fn exchange(
    address: &AdminAddress,
    token: Option<&Token>,
    method: &str,
    path: &str,
    body: Option<&str>,
) -> Result<Answer> {
    let mut stream = connect(address).map_err(|error| unreachable(address, &error))?;
    let body = body.unwrap_or_default();
    // A Unix socket has no name that a Host could be.
    let host = address.tcp().map_or("localhost".to_owned(), |address| address.to_string());
    let token = token.map_or(String::new(), |token| format!("Authorization: {}\r\n", token.authorization()));
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: {host}\r\n{token}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut answer = Vec::new();
    let read = stream.write_all(request.as_bytes()).and_then(|()| {
        // One byte more, to notice an answer that is too long.
        stream.take(ANSWER_BYTES_MAX + 1).read_to_end(&mut answer)
    });
    match read {
        Ok(bytes) if bytes as u64 > ANSWER_BYTES_MAX => {
            bail!("the answer from {address} does not end; is it an edge node?")
        }
        Ok(_) => parse(&answer)
            .with_context(|| format!("what answers at {address} does not speak HTTP; check --admin")),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            bail!(
                "the node at {address} did not answer within {} s; its control thread may be stuck, see its log",
                TIMEOUT.as_secs()
            )
        }
        Err(error) => Err(error).with_context(|| format!("the node at {address} broke off")),
    }
}

/// A connection of either kind.
trait Connection: Read + Write {}

impl<T: Read + Write> Connection for T {}

fn connect(address: &AdminAddress) -> io::Result<Box<dyn Connection>> {
    match address {
        AdminAddress::Tcp(address) => {
            let stream = TcpStream::connect_timeout(address, TIMEOUT)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            Ok(Box::new(stream))
        }
        AdminAddress::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            Ok(Box::new(stream))
        }
    }
}

/// Text as the value of a query's parameter (RFC 3986 section 2.1).
pub(super) fn percent_encoded(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte.into());
        } else {
            // Writing into a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

fn unreachable(address: &AdminAddress, error: &io::Error) -> anyhow::Error {
    let why = match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::NotFound => "nothing listens there".to_owned(),
        ErrorKind::PermissionDenied => "only the node's account and its group may ask it".to_owned(),
        ErrorKind::TimedOut => "no answer".to_owned(),
        _ => error.to_string(),
    };
    anyhow::anyhow!(
        "no node at {address}: {why}; start one with `edge run`, or give its [listen] admin address with --admin"
    )
}

fn parse(bytes: &[u8]) -> Result<Answer> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").context("no end of the head")?;
    let head = std::str::from_utf8(&bytes[..end]).context("the head is not text")?;
    let status_line = head.lines().next().unwrap_or_default();
    let mut words = status_line.split(' ');
    let status = match (words.next(), words.next().map(str::parse)) {
        (Some(version), Some(Ok(status))) if version.starts_with("HTTP/1.") => status,
        _ => bail!("status line {status_line:?}"),
    };
    Ok(Answer { status, body: String::from_utf8_lossy(&bytes[end + 4..]).into_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{SocketAddr, TcpListener};

    /// Serves one connection with these bytes and returns what was asked.
    fn answering(answer: &'static [u8]) -> (AdminAddress, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = AdminAddress::Tcp(listener.local_addr().unwrap());
        let asked = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = vec![0; 4096];
            let bytes = stream.read(&mut request).unwrap();
            stream.write_all(answer).unwrap();
            String::from_utf8_lossy(&request[..bytes]).into_owned()
        });
        (address, asked)
    }

    #[test]
    fn request_and_answer() {
        let (address, asked) = answering(b"HTTP/1.1 202 Accepted\r\nServer: x\r\n\r\n{\"a\":1}");
        let token = Token::parse(b"0123456789abcdef").unwrap();
        let answer = exchange(&address, Some(&token), "POST", "/purge", Some("{}")).unwrap();
        assert_eq!(answer, Answer { status: 202, body: "{\"a\":1}".into() });
        let asked = asked.join().unwrap();
        assert!(asked.starts_with("POST /purge HTTP/1.0\r\n") && asked.ends_with("\r\n\r\n{}"), "{asked}");
        assert!(asked.contains("Content-Length: 2\r\n"));
        assert!(asked.contains("Authorization: Bearer 0123456789abcdef\r\n"), "{asked}");
    }

    #[test]
    fn a_refusal_is_shown_as_its_sentence() {
        let reason = |body: &str| Answer { status: 400, body: body.into() }.reason();
        assert_eq!(reason("{\"error\": \"send a url\\u001b\"}\n"), "send a url");
        assert_eq!(reason("plain\n"), "plain");
        assert_eq!(reason("{\"other\": 1}"), "{\"other\": 1}");
    }

    #[test]
    fn what_is_no_node_is_said_to_be_none() {
        for answer in
            [&b"SSH-2.0-x\r\n"[..], b"", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1\r\n\r\n", b"\xff\r\n\r\n"]
        {
            let (address, asked) = answering(answer);
            let error = exchange(&address, None, "GET", "/status", None).unwrap_err();
            asked.join().unwrap();
            assert!(format!("{error:#}").contains("check --admin"), "{error:#}");
        }
    }

    #[test]
    fn a_url_in_a_query() {
        assert_eq!(
            percent_encoded("http://a/~b?x=1&y=\u{e9}%"),
            "http%3A%2F%2Fa%2F~b%3Fx%3D1%26y%3D%C3%A9%25"
        );
    }

    #[test]
    fn where_nothing_listens_the_remedy_is_named() {
        let closed = AdminAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], crate::ports::free().unwrap())));
        for address in [closed, AdminAddress::Unix("/nowhere/admin.sock".into())] {
            let error = exchange(&address, None, "GET", "/status", None).unwrap_err().to_string();
            assert!(error.contains("nothing listens there") && error.contains("--admin"), "{error}");
        }
    }
}
