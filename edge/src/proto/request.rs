//! A request head: parsed by httparse under our framing rules, kept in buffers that are reused. What the
//! head means for the cache is decided elsewhere.
#![forbid(unsafe_code)]

use super::forwarded;
use super::framing::{self, Refused};
use super::key;
use crate::limits;
use std::cell::Cell;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::ops::Range;

pub use super::key::Scheme;

/// The one protocol that connections may go over to, as Upgrade names it.
pub const WEBSOCKET: &str = "websocket";

/// The methods the cache treats specially; all else is passed through under its own name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Method {
    /// GET
    #[default]
    Get,
    /// HEAD
    Head,
    /// Any other; its name is in the head.
    Other,
}

/// How the request's body is delimited (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum BodyLength {
    /// No body; `Content-Length: 0` is this too.
    #[default]
    None,
    /// Exactly so many bytes, at least one.
    Bytes(u64),
    /// Chunked transfer coding.
    Chunked,
}

/// Why a head was refused: the status to answer, and a word for the log. The connection closes after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// 400, 414, 417, 431, 501 or 505.
    pub status: u16,
    /// What was wrong, in a few words.
    pub reason: &'static str,
}

/// Fields whose presence decides the way of a request, found while parsing so that a hit need not
/// search for each of them. A set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks(u16);

impl Marks {
    pub(super) const CACHE_CONTROL: Marks = Marks(1);
    pub(super) const PRAGMA: Marks = Marks(1 << 1);
    pub(super) const AUTHORIZATION: Marks = Marks(1 << 2);
    pub(super) const RANGE: Marks = Marks(1 << 3);
    pub(super) const IF_RANGE: Marks = Marks(1 << 4);
    pub(super) const IF_NONE_MATCH: Marks = Marks(1 << 5);
    pub(super) const IF_MODIFIED_SINCE: Marks = Marks(1 << 6);
    /// If-Match or If-Unmodified-Since: conditions only the origin can judge (RFC 9111 section 4.3.2).
    pub(super) const IF_MATCH: Marks = Marks(1 << 7);
    pub(super) const UPGRADE: Marks = Marks(1 << 8);

    /// Whether any of `other` is in the set.
    #[inline]
    pub(super) fn has(self, other: Marks) -> bool {
        self.0 & other.0 != 0
    }

    /// Both sets together.
    pub(super) const fn and(self, other: Marks) -> Marks {
        Marks(self.0 | other.0)
    }

    pub(super) fn of(name: &[u8]) -> Marks {
        // By length first: most fields of most requests are none of these.
        let candidates: &[(&[u8], Marks)] = match name.len() {
            5 => &[(b"range", Marks::RANGE)],
            6 => &[(b"pragma", Marks::PRAGMA)],
            7 => &[(b"upgrade", Marks::UPGRADE)],
            8 => &[(b"if-range", Marks::IF_RANGE), (b"if-match", Marks::IF_MATCH)],
            13 => &[
                (b"cache-control", Marks::CACHE_CONTROL),
                (b"authorization", Marks::AUTHORIZATION),
                (b"if-none-match", Marks::IF_NONE_MATCH),
            ],
            17 => &[(b"if-modified-since", Marks::IF_MODIFIED_SINCE)],
            19 => &[(b"if-unmodified-since", Marks::IF_MATCH)],
            _ => &[],
        };
        let known = candidates.iter().find(|(known, _)| name.eq_ignore_ascii_case(known));
        known.map_or(Marks(0), |(_, mark)| *mark)
    }
}

/// One request head. Cleared and refilled for each request, so that parsing allocates nothing after
/// the first few; cloned (boxed) when the request has to travel to control.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    /// The head's bytes as received. For an absolute-form target without a path, the path the origin is
    /// asked for follows them.
    pub(super) bytes: Vec<u8>,
    /// Name and value of each field as ranges of `bytes`, in order.
    pub(super) fields: Vec<(Range<u32>, Range<u32>)>,
    pub(super) method_name: Range<u32>,
    pub(super) target: Range<u32>,
    /// Origin-form of the target: path and query (what the origin is asked).
    pub(super) path: Range<u32>,
    pub(super) host: Range<u32>,
    pub(super) marks: Marks,
    /// Set by `stored::matches` when a record of this key was passed over because of its Vary.
    pub(super) vary_missed: Cell<bool>,
    /// The status with which the origin failed to serve it, if any came; set by control.
    pub failed_status: Option<u16>,
    /// The method's class.
    pub method: Method,
    /// 0 or 1: the minor version of HTTP/1.
    pub minor_version: u8,
    /// Whether it came over HTTP/2; it is kept as HTTP/1.1 would have told it.
    pub http2: bool,
    /// How the body is delimited.
    pub body: BodyLength,
    /// Whether the connection may carry another request after this one.
    pub keep_alive: bool,
    /// `Expect: 100-continue` was sent, in HTTP/1.1, with a body to follow.
    pub expect_continue: bool,
    /// How the connection came; set by whoever calls [`RequestHead::parse`], and kept by it.
    pub scheme: Scheme,
    /// The connection's other end is a proxy whose word on its clients counts; set and kept as `scheme` is.
    pub trusted: bool,
    /// Its client has shown a certificate of the authorities that its address asks for; set and kept as `scheme` is.
    pub certified: bool,
    /// The address of the connection's other end, an IPv4 one never mapped into IPv6; set and kept as `scheme` is.
    /// `None` in tests without a network.
    pub peer: Option<IpAddr>,
    /// The cache key: `scheme://host[:port]/path?query`, the query as far as it counts.
    pub key: Vec<u8>,
    /// xxh3-64 of `key`.
    pub key_hash: u64,
}

impl RequestHead {
    /// Parses a head from the start of `input`. `Ok(None)`: more bytes are needed (none were kept).
    /// `Ok(Some(n))`: the head is the first `n` bytes of `input`, and `self` describes it.
    ///
    /// The result depends on the bytes alone, never on how they were split: a refusal is raised by the
    /// shortest prefix that shows the fault, and what follows the head is not looked at.
    pub fn parse(&mut self, input: &[u8]) -> Result<Option<usize>, Refusal> {
        let start = framing::empty_lines(input);
        let end = input.len().min(start + limits::REQUEST_HEAD_BYTES_MAX);
        let head = &input[start..end];
        let Some(line) = framing::RequestLine::parse(head)? else {
            return Ok(None);
        };
        let mut slots = [const { MaybeUninit::uninit() }; limits::REQUEST_FIELDS_MAX];
        let mut parsed = httparse::Request::new(&mut []);
        match parsed.parse_with_uninit_headers(head, &mut slots) {
            Ok(httparse::Status::Complete(bytes)) => {
                self.refill(&head[..bytes], line, parsed.headers)?;
                Ok(Some(start + bytes))
            }
            Ok(httparse::Status::Partial) if head.len() == limits::REQUEST_HEAD_BYTES_MAX => {
                Err(Refused::HEAD_TOO_LARGE)
            }
            Ok(httparse::Status::Partial) => Ok(None),
            Err(httparse::Error::TooManyHeaders) => Err(Refused::TOO_MANY_FIELDS),
            Err(_) => Err(Refused::FIELD_SYNTAX),
        }
    }

    fn refill(
        &mut self,
        head: &[u8],
        line: framing::RequestLine,
        fields: &[httparse::Header<'_>],
    ) -> Result<(), Refusal> {
        self.begin();
        self.bytes.extend_from_slice(head);
        self.method_name = 0..line.method_end;
        self.target = line.target;
        self.minor_version = line.minor_version;
        self.method = match self.slice(&self.method_name) {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            _ => Method::Other,
        };

        let mut rules = framing::Rules::default();
        let mut at = line.bytes as usize;
        for field in fields {
            let (name, value, next) = framing::field_line(head, at, field.name.len(), field.value.len())?;
            rules.field(&head[name.clone()], &head[value.clone()])?;
            self.marks = self.marks.and(Marks::of(&head[name.clone()]));
            if rules.host.is_none() && framing::is_host(&head[name.clone()]) {
                rules.host = Some(value.start as u32..value.end as u32);
            }
            self.fields.push((name.start as u32..name.end as u32, value.start as u32..value.end as u32));
            at = next;
        }
        if head.get(at..) != Some(b"\r\n") {
            return Err(Refused::LINE_END);
        }

        self.body = rules.body(self.minor_version)?;
        self.keep_alive = rules.keep_alive(self.minor_version);
        self.expect_continue =
            rules.expect_continue && self.minor_version == 1 && self.body != BodyLength::None;
        self.resolve(rules.host)
    }

    /// Forgets the last request.
    pub(super) fn begin(&mut self) {
        self.bytes.clear();
        self.fields.clear();
        self.key.clear();
        self.marks = Marks::default();
        self.vary_missed.set(false);
        self.failed_status = None;
        self.minor_version = 1;
        self.http2 = false;
        self.keep_alive = true;
        self.expect_continue = false;
    }

    /// Adds bytes of a head that did not come as text, and says where they are.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Range<u32> {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len() as u32
    }

    /// Target and Host to host, path and key.
    pub(super) fn resolve(&mut self, host: Option<Range<u32>>) -> Result<(), Refusal> {
        let mut key = std::mem::take(&mut self.key);
        let scheme = forwarded::claimed_scheme(self).unwrap_or(self.scheme);
        let target = self.slice(&self.target);
        let mut authority = match &host {
            Some(range) => key::Authority::parse(self.slice(range)).ok_or(Refused::HOST)?,
            None if self.minor_version == 0 => key::Authority::default(),
            None => return Err(Refused::HOST_MISSING),
        };
        let mut host = host.unwrap_or_default();
        let mut path = self.target.clone();
        let mut add_slash = false;
        if !matches!(target, [b'/', ..] | b"*") {
            let (start, end) = framing::absolute_form(target, scheme)?;
            let asked = key::Authority::parse(&target[start..end]).ok_or(Refused::HOST)?;
            if !host.is_empty() && !asked.same(&authority, scheme) {
                return Err(Refused::HOST_DIFFERS);
            }
            authority = asked;
            host = self.target.start + start as u32..self.target.start + end as u32;
            path.start = self.target.start + end as u32;
            add_slash = target.get(end) != Some(&b'/');
        }
        // A target of no path asks for "/"; OPTIONS of a whole server asks for "*" (RFC 9112 section 3.2.4).
        let whole_server = add_slash && path.is_empty() && self.slice(&self.method_name) == b"OPTIONS";
        authority.push_key(&mut key, scheme);
        self.key = key;
        if add_slash {
            let start = self.bytes.len() as u32;
            self.bytes.push(if whole_server { b'*' } else { b'/' });
            self.bytes.extend_from_within(path.start as usize..path.end as usize);
            path = start..self.bytes.len() as u32;
        }
        self.key.extend_from_slice(&self.bytes[path.start as usize..path.end as usize]);
        self.key_hash = key::hash(&self.key);
        self.path = path;
        self.host = host;
        Ok(())
    }

    /// Makes the key anew from path and query: `push` adds them to scheme, host and port.
    pub(super) fn set_key(&mut self, push: impl FnOnce(&mut Vec<u8>, &[u8])) {
        let mut key = std::mem::take(&mut self.key);
        key.truncate(key::origin_of(&key).len());
        push(&mut key, self.slice(&self.path));
        self.key_hash = key::hash(&key);
        self.key = key;
    }

    /// The key that the URL has where no rule leaves anything out: the URL as it was asked for.
    pub fn url_key(&self) -> Vec<u8> {
        [key::origin_of(&self.key), self.slice(&self.path)].concat()
    }

    /// How the client came, as its key has it: as the connection, or as a trusted proxy says.
    pub fn url_scheme(&self) -> Scheme {
        if self.key.starts_with(Scheme::Https.prefix().as_bytes()) { Scheme::Https } else { Scheme::Http }
    }

    /// The method as sent.
    pub fn method_name(&self) -> &str {
        self.text(&self.method_name)
    }

    /// Path and query as asked, origin-form; `*` for `OPTIONS *`.
    pub fn path(&self) -> &str {
        self.text(&self.path)
    }

    /// Whether there is a Range field.
    pub fn has_range(&self) -> bool {
        self.marks.has(Marks::RANGE)
    }

    /// Whether there is an If-Range field: a part is wanted only of the version it names.
    pub fn has_if_range(&self) -> bool {
        self.marks.has(Marks::IF_RANGE)
    }

    /// Whether the connection is to go over to the WebSocket protocol (RFC 9110 section 7.8, RFC 6455 section 4.1). Never
    /// over HTTP/2, which knows no Upgrade.
    pub(super) fn asks_for_websocket(&self) -> bool {
        self.marks.has(Marks::UPGRADE)
            && self.method == Method::Get
            && self.minor_version == 1
            && !self.http2
            && self.body == BodyLength::None
            && self.connection_lists("upgrade")
            && self.field_all("upgrade").any(|value| framing::list_has(value, WEBSOCKET))
    }

    /// Host as asked, with its port if one was given. Empty only in HTTP/1.0 without a Host.
    pub fn host(&self) -> &str {
        self.text(&self.host)
    }

    /// The first value of a field; `name` in lower case.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.field_all(name).next()
    }

    /// Every value of a field, in order; `name` in lower case.
    pub fn field_all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.fields
            .iter()
            .filter(move |(range, _)| self.slice(range).eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| self.slice(value))
    }

    /// All fields in order, names as sent.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.iter().map(|(name, value)| (self.text(name), self.slice(value)))
    }

    /// Whether a Connection field names `name`, so that it must not be forwarded (RFC 9110 section 7.6.1).
    pub fn connection_lists(&self, name: &str) -> bool {
        self.field_all("connection").any(|value| framing::list_has(value, name))
    }

    /// Whether a field says something about this connection alone and is never forwarded: the hop-by-hop
    /// fields, and what Connection lists. Host and Content-Length stay whatever Connection says.
    pub fn hop_by_hop(&self, name: &str) -> bool {
        framing::is_hop_by_hop(name.as_bytes())
            || (self.connection_lists(name) && !framing::never_hop_by_hop(name.as_bytes()))
    }

    fn slice(&self, range: &Range<u32>) -> &[u8] {
        self.bytes.get(range.start as usize..range.end as usize).unwrap_or(&[])
    }

    /// Only for ranges that were checked to be ASCII.
    fn text(&self, range: &Range<u32>) -> &str {
        str::from_utf8(self.slice(range)).unwrap_or("")
    }
}
