//! A worker in memory for the tests of sessions: carries actions out into a byte string that is what the
//! client would receive, and a log of what was asked for.
#![allow(dead_code)]

use edge::proto::Now;
use edge::proto::freshness::{Exchange, Policy, Storing, decide};
use edge::proto::request::RequestHead;
use edge::proto::response::OriginHead;
use edge::proto::session::{Action, Again, Chunks, FetchKind, Found, Input, Out, Session, Timeouts};
use edge::proto::stored;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::ops::Range;

pub const START: Now = Now { mono_ms: 1_000, unix_s: 1_700_000_000 };
pub const DATE: &str = "Tue, 14 Nov 2023 22:13:20 GMT";

/// A stored object as a shard would hold it.
#[derive(Clone, Debug)]
pub struct Record {
    pub key: Vec<u8>,
    pub meta: Vec<u8>,
    pub head: Vec<u8>,
    pub body: Vec<u8>,
    /// Of a partial object: what of the body is stored.
    pub there: Option<Range<u64>>,
}

pub fn headers(lines: &str) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for line in lines.lines().filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').expect("a field line");
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a field name");
        fields.append(name, HeaderValue::from_str(value.trim()).expect("a field value"));
    }
    fields
}

pub fn request(text: &str) -> RequestHead {
    let mut head = RequestHead::default();
    head.parse(text.as_bytes()).expect("acceptable").expect("complete");
    head
}

/// What storing this response to this request at `at_s` gives.
pub fn record(asked: &str, status: u16, lines: &str, body: &str, at_s: u64) -> Record {
    let asked = request(asked);
    let fields = headers(lines);
    let exchange = Exchange { request_s: at_s, response_s: at_s, purges: 0 };
    let (storing, facts) = decide(&asked, status, &fields, exchange, &Policy::default());
    assert_eq!(storing, Storing::Store, "{lines}");
    let origin = OriginHead::from_origin(status, &fields, storing, at_s).expect("a head");
    let head = stored::head(status, body.len() as u64, &origin.lines);
    let meta = stored::encode(&facts, &asked, &head, body.len() as u64);
    Record { key: asked.key.clone(), meta, head, body: body.into(), there: None }
}

pub struct Client {
    pub session: Session,
    pub out: Out,
    pub now: Now,
    pub records: Vec<Record>,
    /// What the client received.
    pub wire: Vec<u8>,
    /// What was asked of control, and how the connection ended.
    pub log: Vec<String>,
    /// Body bytes handed to control.
    pub forwarded: Vec<u8>,
    /// And what followed them.
    pub trailer: Vec<u8>,
    /// Received and not taken.
    pub unread: Vec<u8>,
    heads: u32,
    pub fetched: Option<(FetchKind, RequestHead)>,
}

impl Client {
    pub fn new(records: Vec<Record>) -> Self {
        Client {
            session: Session::new(START, &Timeouts::default()),
            out: Out::new(Timeouts::default(), Default::default(), Default::default()),
            now: START,
            records,
            wire: Vec::new(),
            log: Vec::new(),
            forwarded: Vec::new(),
            trailer: Vec::new(),
            unread: Vec::new(),
            heads: 0,
            fetched: None,
        }
    }

    /// Bytes arrive and are offered as long as any are taken.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.unread.extend_from_slice(bytes.as_ref());
        while self.session.wants_input() && !self.unread.is_empty() {
            let offered = std::mem::take(&mut self.unread);
            let input = self.parsed_ahead(&offered).map_or(Input::Received(&offered), Input::Head);
            let taken = self.feed(input, &offered);
            self.unread = offered[taken..].to_vec();
            if taken == 0 {
                break;
            }
        }
        self
    }

    /// Every second head that comes whole is parsed before the session sees it, as a worker does with those that come
    /// together: it makes no difference.
    fn parsed_ahead(&mut self, offered: &[u8]) -> Option<usize> {
        if !self.session.awaits_head() {
            return None;
        }
        self.heads += 1;
        let mut request = RequestHead::default();
        let parsed = request.parse(offered).ok().flatten().filter(|_| self.heads.is_multiple_of(2))?;
        self.out.request = request;
        Some(parsed)
    }

    pub fn give(&mut self, input: Input<'_>) -> &mut Self {
        self.feed(input, b"");
        self
    }

    pub fn origin(&mut self, status: u16, lines: &str, storing: Storing) -> &mut Self {
        let head =
            OriginHead::from_origin(status, &headers(lines), storing, self.now.unix_s).expect("a head");
        self.give(Input::OriginHead { head: &head, collapsed: false })
    }

    /// The origin goes over to WebSocket.
    pub fn switches(&mut self, lines: &str) -> &mut Self {
        let head = OriginHead::switching(&headers(lines), self.now.unix_s).expect("a head");
        self.give(Input::OriginHead { head: &head, collapsed: false })
    }

    pub fn piece(&mut self, bytes: &str) -> &mut Self {
        self.feed(Input::Piece(bytes.len()), bytes.as_bytes());
        self
    }

    /// Control gives the request back.
    pub fn again(&mut self, why: Again) -> &mut Self {
        self.out.request = self.fetched.clone().expect("a fetch").1;
        self.give(Input::Again(why))
    }

    pub fn drained(&mut self) -> &mut Self {
        self.give(Input::Sent { drained: true, bytes: 1 });
        self.send("")
    }

    pub fn pass_ms(&mut self, ms: u64) -> &mut Self {
        self.now.mono_ms += ms;
        self.now.unix_s += ms / 1000;
        self
    }

    /// Milliseconds until the deadline.
    pub fn due_ms(&self) -> u64 {
        match self.session.deadline_ms() {
            u64::MAX => u64::MAX,
            at => at - self.now.mono_ms,
        }
    }

    pub fn wire(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.wire)).expect("text")
    }

    pub fn log(&mut self) -> String {
        std::mem::take(&mut self.log).join(" ")
    }

    fn feed(&mut self, input: Input<'_>, given: &[u8]) -> usize {
        self.out.clear();
        self.session.on(input, self.now, &mut self.out);
        let consumed = self.out.consumed;
        assert!(consumed <= given.len());
        let mut found = None;
        while self.carry_out(given, found.take()) {
            found = self.lookup();
            let there = found.as_ref().and_then(|record: &Record| record.there.clone());
            let has = |part: Range<u64>| {
                there.as_ref().is_some_and(|there| there.start <= part.start && part.end <= there.end)
            };
            let input = found.as_ref().map(|record: &Record| Found {
                meta: &record.meta,
                head: &record.head,
                chunks: there.is_some().then_some(Chunks(&has)),
                purged: false,
            });
            self.out.clear();
            self.session.on(Input::Found(input), self.now, &mut self.out);
        }
        consumed
    }

    fn lookup(&self) -> Option<Record> {
        let request = &self.out.request;
        let matches = |record: &&Record| record.key == request.key && stored::matches(&record.meta, request);
        self.records.iter().find(matches).cloned()
    }

    /// Says whether a lookup has to be answered.
    fn carry_out(&mut self, given: &[u8], found: Option<Record>) -> bool {
        let mut lookup = false;
        for action in self.out.actions.clone() {
            assert!(!lookup, "a lookup is answered at once, nothing follows it");
            assert!(
                !matches!(self.log.last().map(String::as_str), Some("Close" | "Abort")),
                "{action:?} after the end"
            );
            match action {
                Action::Lookup => lookup = true,
                Action::Write(range) => self.wire.extend_from_slice(&self.out.bytes[range]),
                Action::StoredHead(range) => {
                    self.wire.extend_from_slice(&found.as_ref().expect("a record").head[range]);
                }
                Action::StoredBody(range) => {
                    assert!(is_there(found.as_ref(), &range), "{range:?} is not stored");
                    let range = range.start as usize..range.end as usize;
                    self.wire.extend_from_slice(&found.as_ref().expect("a record").body[range]);
                }
                Action::StoredPart { text, body } => {
                    assert!(is_there(found.as_ref(), &body), "{body:?} is not stored");
                    self.wire.extend_from_slice(&self.out.bytes[text]);
                    let body = body.start as usize..body.end as usize;
                    self.wire.extend_from_slice(&found.as_ref().expect("a record").body[body]);
                }
                Action::Piece => self.wire.extend_from_slice(given),
                Action::Fetch(kind) => {
                    self.fetched = Some((kind, self.out.request.clone()));
                    self.log.push(format!("{kind:?}"));
                }
                Action::Forward(range) => self.forwarded.extend_from_slice(&given[range]),
                Action::ForwardTrailer(range) => self.trailer.extend_from_slice(&given[range]),
                Action::ForwardEnd => self.log.push("ForwardEnd".into()),
                Action::Refresh => self.log.push("Refresh".into()),
                Action::Done => self.log.push("Done".into()),
                Action::Close => self.log.push("Close".into()),
                Action::Abort => self.log.push("Abort".into()),
            }
        }
        lookup
    }
}

fn is_there(record: Option<&Record>, part: &Range<u64>) -> bool {
    let there = record.and_then(|record| record.there.as_ref());
    part.is_empty() || there.is_none_or(|there| there.start <= part.start && part.end <= there.end)
}
