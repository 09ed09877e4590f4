//! A response of the scripted origin as data: what it says, how it is delimited, where it waits and
//! where it breaks off. Sending it is `origin`'s.

use super::content;
use super::origin::Gate;
use std::time::{Duration, SystemTime};

/// How a body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Content-Length.
    Length,
    /// Chunked.
    Chunked,
    /// The end of the connection.
    Close,
}

/// How a response breaks off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The connection ends in order.
    Close,
    /// The connection is reset.
    Reset,
}

#[derive(Clone)]
enum Content {
    Bytes(Vec<u8>),
    Pattern { seed: u64, from: u64, bytes: u64 },
}

/// A response to send.
#[derive(Clone)]
pub struct Answer {
    status: u16,
    fields: Vec<(String, String)>,
    content: Content,
    pub(super) framing: Framing,
    pub(super) delay: Duration,
    pub(super) hold: Option<(u64, Gate)>,
    pub(super) cut: Option<(u64, Cut)>,
}

impl Answer {
    /// A response without fields and body.
    pub fn new(status: u16) -> Self {
        Answer {
            status,
            fields: Vec::new(),
            content: Content::Bytes(Vec::new()),
            framing: Framing::Length,
            delay: Duration::ZERO,
            hold: None,
            cut: None,
        }
    }

    /// 200 that may be reused for longer than any test takes, with the bytes of [`content`] for `name`.
    pub fn cacheable(name: &str, bytes: u64) -> Self {
        Answer::new(200).field("cache-control", "max-age=3600").pattern(name, bytes)
    }

    /// Adds a field.
    pub fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.into(), value.into()));
        self
    }

    /// Sends these bytes as the body.
    pub fn body(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.content = Content::Bytes(bytes.into());
        self
    }

    /// Sends the bytes of [`content`] as the body.
    pub fn pattern(self, name: &str, bytes: u64) -> Self {
        self.part(name, 0, bytes)
    }

    /// Sends a part of the bytes of [`content`] as the body.
    pub fn part(mut self, name: &str, from: u64, to: u64) -> Self {
        self.content = Content::Pattern { seed: content::seed(name), from, bytes: to - from };
        self
    }

    /// Delimits the body so.
    pub fn framing(mut self, framing: Framing) -> Self {
        self.framing = framing;
        self
    }

    /// Waits before the head.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Waits at the gate after so many body bytes.
    pub fn hold(mut self, after_bytes: u64, gate: &Gate) -> Self {
        self.hold = Some((after_bytes, gate.clone()));
        self
    }

    /// Breaks off after so many body bytes.
    pub fn cut(mut self, after_bytes: u64, cut: Cut) -> Self {
        self.cut = Some((after_bytes, cut));
        self
    }

    pub(super) fn bytes(&self) -> u64 {
        match &self.content {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Pattern { bytes, .. } => *bytes,
        }
    }

    pub(super) fn read(&self, offset: u64, out: &mut [u8]) {
        match &self.content {
            Content::Bytes(bytes) => out.copy_from_slice(&bytes[offset as usize..][..out.len()]),
            Content::Pattern { seed, from, .. } => content::fill(*seed, from + offset, out),
        }
    }

    pub(super) fn has_body(&self) -> bool {
        self.status >= 200 && self.status != 204 && self.status != 304
    }

    pub(super) fn head(&self) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} Scripted\r\n", self.status);
        if !self.fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("date")) {
            head += &format!("Date: {}\r\n", httpdate::fmt_http_date(SystemTime::now()));
        }
        for (name, value) in &self.fields {
            head += &format!("{name}: {value}\r\n");
        }
        match self.framing {
            _ if !self.has_body() => {}
            Framing::Length => head += &format!("Content-Length: {}\r\n", self.bytes()),
            Framing::Chunked => head += "Transfer-Encoding: chunked\r\n",
            Framing::Close => head += "Connection: close\r\n",
        }
        (head + "\r\n").into_bytes()
    }
}
