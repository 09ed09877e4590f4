//! A worker's side of the mailbox, played by the test: it asks, collects streams, and returns credit when told.

use super::super::mailbox::{Mailbox, StreamId, Ticket, ToControl, ToWorker};
use super::super::outbox::ring;
use super::PATIENCE;
use crate::limits;
use crate::proto::generations::{Table, Verdict};
use crate::proto::request::RequestHead;
use crate::proto::response::OriginHead;
use crate::proto::session::{Again, FetchKind, Interim};
use crate::shard::Reader;
use bytes::Bytes;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) struct Worker {
    number: u16,
    mailbox: Arc<Mailbox>,
    pub(super) reader: Reader,
    purges: Arc<Table>,
    serial: u64,
    outcomes: HashMap<Ticket, Outcome>,
    order: Vec<Ticket>,
    streams: HashMap<StreamId, Received>,
    body_credit: HashMap<Ticket, usize>,
    pub(super) interims: HashMap<Ticket, Vec<Interim>>,
    /// Whether passed streams are acknowledged as they come.
    pub(super) acknowledges: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Stream(StreamId),
    Again(Again),
    Refused(u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    Whole,
    Broken,
}

struct Received {
    head: Arc<OriginHead>,
    pass: bool,
    object: u64,
    body: Vec<u8>,
    sealed_bytes: u64,
    state: State,
    pieces: Vec<Bytes>,
    trailers: Bytes,
}

/// Waits until the event fires, and resets it.
pub(super) fn wait_for(event: BorrowedFd<'_>, limit: Duration) -> Option<()> {
    let mut fds = [PollFd::new(event, PollFlags::POLLIN)];
    let limit = PollTimeout::try_from(limit).unwrap();
    let fired = poll(&mut fds, limit).unwrap() > 0;
    fired.then(|| {
        let mut count = [0; 8];
        nix::unistd::read(event, &mut count).unwrap();
    })
}

/// A request head as a worker would have parsed it.
pub(super) fn request(method: &str, url: &str, fields: &str) -> Box<RequestHead> {
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_at(rest.find('/').unwrap());
    let text = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n");
    let mut head = RequestHead::default();
    assert_eq!(head.parse(text.as_bytes()).unwrap(), Some(text.len()));
    Box::new(head)
}

impl Worker {
    pub(super) fn new(number: u16, mailbox: Arc<Mailbox>, reader: Reader, purges: Arc<Table>) -> Self {
        Worker {
            number,
            mailbox,
            reader,
            purges,
            serial: 0,
            outcomes: HashMap::new(),
            order: Vec::new(),
            streams: HashMap::new(),
            body_credit: HashMap::new(),
            interims: HashMap::new(),
            acknowledges: true,
        }
    }

    pub(super) fn tell(&self, mut message: ToControl) {
        let start = Instant::now();
        loop {
            match self.mailbox.to_control.push(message) {
                Ok(true) => return ring(&self.mailbox.to_control),
                Ok(false) => return,
                Err(back) => message = back,
            }
            assert!(start.elapsed() < PATIENCE, "control takes nothing");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(super) fn fetch(&mut self, kind: FetchKind, request: Box<RequestHead>) -> Ticket {
        self.serial += 1;
        let ticket = Ticket { worker: self.number, slot: self.serial as u32, serial: self.serial };
        self.tell(ToControl::Fetch { ticket, kind, request });
        ticket
    }

    pub(super) fn fill(&mut self, url: &str) -> Ticket {
        self.fetch(FetchKind::Fill, request("GET", url, ""))
    }

    pub(super) fn fill_with(&mut self, url: &str, fields: &str) -> Ticket {
        self.fetch(FetchKind::Fill, request("GET", url, fields))
    }

    pub(super) fn revalidate(&mut self, url: &str, fields: &str) -> Ticket {
        self.fetch(FetchKind::Revalidate, request("GET", url, fields))
    }

    pub(super) fn pass(&mut self, method: &str, url: &str, fields: &str) -> Ticket {
        self.fetch(FetchKind::Pass, request(method, url, fields))
    }

    pub(super) fn number(&self) -> u16 {
        self.number
    }

    /// Messages in the queue that were not taken.
    pub(super) fn queued(&self) -> usize {
        self.mailbox.to_worker.len()
    }

    /// Tickets in the order of their outcomes.
    pub(super) fn order(&self) -> Vec<Ticket> {
        self.order.clone()
    }

    /// Takes messages until the condition holds.
    pub(super) fn run_until(&mut self, mut done: impl FnMut(&mut Worker) -> bool) {
        let start = Instant::now();
        loop {
            while let Some(message) = self.mailbox.to_worker.pop() {
                self.take(message);
            }
            if done(self) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "not in time; outcomes {:?}", self.outcomes);
            if self.mailbox.to_worker.sleep() {
                // Bounded, for some conditions are not about messages.
                wait_for(self.mailbox.to_worker.event(), Duration::from_millis(20));
            }
        }
    }

    /// Takes messages for a while.
    pub(super) fn run_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        self.run_until(|_| Instant::now() >= end);
    }

    fn settle(&mut self, ticket: Ticket, outcome: Outcome) {
        assert_eq!(ticket.worker, self.number);
        assert!(self.outcomes.insert(ticket, outcome).is_none(), "{ticket:?} was answered twice");
        self.order.push(ticket);
    }

    fn take(&mut self, message: ToWorker) {
        match message {
            ToWorker::Shard(shard) => self.reader.take(*shard),
            ToWorker::Open { stream, head, sealed_bytes, object, pass, pieces } => {
                let mut body = Vec::new();
                for chunk in 0..sealed_bytes.div_ceil(limits::CHUNK_BYTES as u64) {
                    body.extend_from_slice(self.reader.chunk(object, chunk as u32).expect("sealed").body());
                }
                assert_eq!(body.len() as u64, sealed_bytes);
                body.extend(pieces.concat());
                let state = State::Running;
                let trailers = Bytes::new();
                let received = Received { head, pass, object, body, sealed_bytes, state, pieces, trailers };
                assert!(self.streams.insert(stream, received).is_none());
            }
            ToWorker::Join { ticket, stream, part, .. } => {
                let received = self.streams.get_mut(&stream).expect("joined before it was open");
                if let (true, Some((part, _))) = (received.pass, part) {
                    received.sealed_bytes = part.start;
                }
                self.settle(ticket, Outcome::Stream(stream));
            }
            ToWorker::Piece { stream, bytes } => {
                assert!(!bytes.is_empty());
                let received = self.streams.get_mut(&stream).expect("open");
                assert_eq!(received.state, State::Running);
                received.body.extend_from_slice(&bytes);
                if received.pass && self.acknowledges {
                    let bytes = bytes.len();
                    self.tell(ToControl::Credit { stream, bytes });
                } else {
                    received.pieces.push(bytes);
                }
            }
            ToWorker::Sealed { stream, sealed_bytes } => {
                let received = self.streams.get_mut(&stream).expect("open");
                let chunk = ((sealed_bytes - 1) / limits::CHUNK_BYTES as u64) as u32;
                let from = received.sealed_bytes as usize;
                let record = self.reader.chunk(received.object, chunk).expect("can be read at once");
                if received.pass {
                    // Slices: they come no other way.
                    let bytes = sealed_bytes as usize - from;
                    let start = from % limits::CHUNK_BYTES;
                    received.body.extend_from_slice(&record.body()[start..start + bytes]);
                    received.sealed_bytes = sealed_bytes;
                    return self.tell(ToControl::Credit { stream, bytes });
                }
                assert!(record.body() == &received.body[from..sealed_bytes as usize]);
                received.sealed_bytes = sealed_bytes;
                received.pieces.clear();
            }
            ToWorker::Unstored { stream } => assert!(self.streams.contains_key(&stream)),
            ToWorker::End { stream, trailers } => {
                let stream = self.streams.get_mut(&stream).expect("open");
                (stream.state, stream.trailers) = (State::Whole, trailers);
            }
            ToWorker::Broken { stream } => self.streams.get_mut(&stream).expect("open").state = State::Broken,
            ToWorker::Again { ticket, why, .. } => self.settle(ticket, Outcome::Again(why)),
            ToWorker::Interim { ticket, interim } => {
                self.interims.entry(ticket).or_default().push(*interim);
            }
            ToWorker::Refused { ticket, status, .. } => self.settle(ticket, Outcome::Refused(status)),
            ToWorker::Policies(_) | ToWorker::Queries(_) | ToWorker::Transport(_) | ToWorker::Trusted(_) => {}
            ToWorker::BodyCredit { ticket, bytes } => *self.body_credit.entry(ticket).or_default() += bytes,
        }
    }

    pub(super) fn outcome(&self, ticket: Ticket) -> Option<Outcome> {
        self.outcomes.get(&ticket).copied()
    }

    pub(super) fn refused(&self, ticket: Ticket) -> Option<u16> {
        match self.outcome(ticket) {
            Some(Outcome::Refused(status)) => Some(status),
            _ => None,
        }
    }

    /// The number of streams this worker was sent.
    pub(super) fn streams(&self) -> usize {
        self.streams.len()
    }

    fn received(&self, ticket: Ticket) -> Option<&Received> {
        match self.outcome(ticket) {
            Some(Outcome::Stream(stream)) => self.streams.get(&stream),
            _ => None,
        }
    }

    pub(super) fn stream(&self, ticket: Ticket) -> StreamId {
        match self.outcome(ticket) {
            Some(Outcome::Stream(stream)) => stream,
            other => panic!("{ticket:?}: {other:?}"),
        }
    }

    /// The bytes that came, empty before a stream was joined.
    pub(super) fn body(&self, ticket: Ticket) -> &[u8] {
        self.received(ticket).map_or(&[], |received| &received.body)
    }

    pub(super) fn head(&self, ticket: Ticket) -> &OriginHead {
        &self.received(ticket).expect("a stream").head
    }

    /// The lines that followed its body.
    pub(super) fn trailers(&self, ticket: Ticket) -> &[u8] {
        &self.received(ticket).expect("a stream").trailers
    }

    pub(super) fn passed(&self, ticket: Ticket) -> bool {
        self.received(ticket).expect("a stream").pass
    }

    pub(super) fn whole(&self, ticket: Ticket) -> bool {
        self.received(ticket).is_some_and(|received| received.state == State::Whole)
    }

    pub(super) fn broken(&self, ticket: Ticket) -> bool {
        self.received(ticket).is_some_and(|received| received.state == State::Broken)
    }

    /// Bytes of pieces that could not be dropped.
    pub(super) fn held_bytes(&self, ticket: Ticket) -> usize {
        self.received(ticket).map_or(0, |received| received.pieces.iter().map(Bytes::len).sum())
    }

    /// Drops what is held of a stream.
    pub(super) fn let_go(&mut self, ticket: Ticket) {
        let stream = self.stream(ticket);
        self.streams.get_mut(&stream).expect("open").pieces.clear();
    }

    /// Bytes of its body that control has taken.
    pub(super) fn body_credit(&self, ticket: Ticket) -> usize {
        self.body_credit.get(&ticket).copied().unwrap_or(0)
    }

    /// Whether what is stored was purged softly.
    pub(super) fn is_stale(&self, url: &str) -> bool {
        let asked = request("GET", url, "");
        let record = self.reader.lookup(asked.key_hash, &asked.key, |_| true).expect("stored");
        self.purges.judge_record(&asked.key, record.meta()) == Verdict::Stale
    }

    /// The stored body under a URL, whether whole or in chunks.
    pub(super) fn stored(&self, url: &str, fields: &str) -> Option<Vec<u8>> {
        let asked = request("GET", url, fields);
        let accept = |meta: &[u8]| {
            let verdict = self.purges.judge_record(&asked.key, meta);
            crate::proto::stored::matches(meta, &asked) && verdict != Verdict::Gone
        };
        let record = self.reader.lookup(asked.key_hash, &asked.key, accept)?;
        let Some(object) = record.chunked() else { return Some(record.body().to_vec()) };
        let mut body = Vec::new();
        for chunk in 0..record.object_bytes().div_ceil(limits::CHUNK_BYTES as u64) {
            body.extend_from_slice(self.reader.chunk(object, chunk as u32)?.body());
        }
        assert_eq!(body.len() as u64, record.object_bytes());
        Some(body)
    }
}
