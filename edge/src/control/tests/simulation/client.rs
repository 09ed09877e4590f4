//! Clients: they ask, split and pipeline what they ask, take answers as fast or slow as they like, and leave. What they
//! receive they read as any client does.

use super::{PATIENCE, Tally, World};
use crate::clock;
use crate::proto::body::{Decoder, Step};
use crate::proto::request::BodyLength;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// A request.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// Told in a field, so that the origin can say whom it answers.
    pub(super) id: String,
    pub(super) method: &'static str,
    pub(super) path: usize,
    pub(super) lang: &'static str,
    /// First and last byte.
    pub(super) range: Option<(usize, usize)>,
    pub(super) authorized: bool,
    /// Further fields.
    fields: &'static str,
    /// Whether it is chunked, and how long it is.
    upload: Option<(bool, usize)>,
    /// What the upload does beside: fields follow it, and some only after leave to send it.
    trails: bool,
    expects: bool,
    /// Trailers of the answer are welcome.
    welcomes: bool,
    /// When it was sent, in steps of the ledger.
    pub(super) step: u64,
    /// The same, in Unix seconds.
    pub(super) at_s: u64,
}

const FIELDS: &[&str] = &[
    "",
    "",
    "",
    "Cache-Control: no-cache\r\n",
    "Cache-Control: no-store\r\n",
    "Cache-Control: max-stale=10\r\n",
    "Cache-Control: only-if-cached\r\n",
    "Cache-Control: max-age=1\r\n",
    "If-None-Match: \"1.2.3\", W/\"x\"\r\n",
    "Accept-Encoding: br\r\nConnection: x-secret\r\nX-Secret: 1\r\n",
];

impl Asked {
    fn random(world: &World, client: usize, number: u64) -> Asked {
        let dice = &world.dice;
        let path = dice.below(world.resources.len() as u64) as usize;
        let mut asked = Asked {
            id: format!("c{client}-{number}"),
            method: "GET",
            path,
            lang: dice.pick(&["-", "a", "b"]),
            range: None,
            authorized: dice.one_in(10),
            fields: if dice.one_in(3) { dice.pick(FIELDS) } else { "" },
            upload: None,
            trails: false,
            expects: false,
            welcomes: dice.one_in(3),
            step: 0,
            at_s: 0,
        };
        match dice.below(12) {
            0 => asked.method = "HEAD",
            1 | 2 => {
                let first = dice.below(world.resources[path].bytes as u64 + 2) as usize;
                asked.range = Some((first, first + dice.below(3_000) as usize));
            }
            3 => {
                asked.method = dice.pick(&["POST", "PUT"]);
                let bytes = if dice.one_in(20) { 400_000 } else { 600 };
                let chunked = dice.one_in(2);
                asked.upload = Some((chunked, dice.below(bytes) as usize));
                asked.trails = chunked && dice.one_in(2);
                asked.expects = dice.one_in(3);
            }
            _ => {}
        }
        asked
    }

    pub(super) fn is_upload(&self) -> bool {
        self.upload.is_some()
    }

    /// The head, and the body.
    fn render(&self) -> (Vec<u8>, Vec<u8>) {
        let mut text =
            format!("{} /{} HTTP/1.1\r\nHost: a\r\nX-Request: {}\r\n", self.method, self.path, self.id);
        if self.lang != "-" {
            text.push_str(&format!("X-Lang: {}\r\n", self.lang));
        }
        if self.authorized {
            text.push_str("Authorization: Basic abc\r\n");
        }
        if let Some((first, last)) = self.range {
            text.push_str(&format!("Range: bytes={first}-{last}\r\n"));
        }
        text.push_str(self.fields);
        if self.welcomes {
            text.push_str("TE: trailers\r\nConnection: te\r\n");
        }
        let Some((chunked, bytes)) = self.upload else { return ((text + "\r\n").into_bytes(), Vec::new()) };
        let body = upload(&self.id, bytes);
        text.push_str(&format!("X-Upload: {bytes}\r\n"));
        if self.expects {
            text.push_str("Expect: 100-continue\r\n");
        }
        if !chunked {
            return (format!("{text}Content-Length: {bytes}\r\n\r\n").into_bytes(), body);
        }
        if self.trails {
            text.push_str("Trailer: X-Sum, Content-Length\r\n");
        }
        let head = format!("{text}Transfer-Encoding: chunked\r\n\r\n").into_bytes();
        let mut out = Vec::new();
        for chunk in body.chunks(1 + bytes / 3) {
            out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            out.extend_from_slice(chunk);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"0\r\n");
        if self.trails {
            out.extend_from_slice(trailers(&self.id).as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        (head, out)
    }
}

/// What follows a body in chunks: a line that is announced, one that nobody may pass on, and one that is not announced: a
/// request's goes, a response's stays.
pub(super) fn trailers(id: &str) -> String {
    format!("X-Sum: {id}\r\nContent-Length: 3\r\nX-Unannounced: {id}\r\n")
}

/// The body of a request.
pub(super) fn upload(id: &str, bytes: usize) -> Vec<u8> {
    super::super::pattern(bytes, super::super::hash(id.as_bytes()))
}

/// A response, read to its end.
pub(super) struct Answer {
    pub(super) status: u16,
    fields: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// The lines that followed it.
    trailers: Vec<u8>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} {:?} {} bytes", self.status, self.fields, self.body.len())
    }
}

impl Answer {
    /// A field that is there once at most; `name` in lower case.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} twice: {self:?}");
        value
    }
}

/// An answer that is being read.
#[derive(Default)]
struct Reading {
    wire: Vec<u8>,
    head: Option<(Answer, Decoder)>,
    /// Leave came to send a body.
    leave: bool,
}

impl Reading {
    /// The next answer, if it is there to its end.
    fn next(&mut self, head_only: bool) -> Option<Answer> {
        while self.head.is_none() {
            let (answer, length, bytes) = read_head(&self.wire, head_only)?;
            self.wire.drain(..bytes);
            match answer.status {
                100..200 => self.leave |= answer.status == 100,
                _ => self.head = Some((answer, Decoder::new(length))),
            }
        }
        let (answer, decoder) = self.head.as_mut()?;
        let mut at = 0;
        let ended = loop {
            match decoder.step(&self.wire, at).expect("well-formed") {
                Step::Data(range) => {
                    at = range.end;
                    answer.body.extend_from_slice(&self.wire[range]);
                }
                Step::Trailer(range) => {
                    at = range.end;
                    answer.trailers.extend_from_slice(&self.wire[range]);
                }
                Step::More => break None,
                Step::End(end) => break Some(end),
            }
        };
        let taken = ended.unwrap_or(self.wire.len());
        self.wire.drain(..taken);
        ended?;
        self.head.take().map(|(answer, _)| answer)
    }
}

/// The head of a response, how its body is delimited, and its own length.
fn read_head(wire: &[u8], head_only: bool) -> Option<(Answer, BodyLength, usize)> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut fields);
    let parsed =
        head.parse(wire).unwrap_or_else(|error| panic!("{error}: {:?}", wire.escape_ascii().to_string()));
    let httparse::Status::Complete(bytes) = parsed else { return None };
    let text = |field: &httparse::Header<'_>| {
        (field.name.to_owned(), String::from_utf8_lossy(field.value).into_owned())
    };
    let answer = Answer {
        status: head.code.expect("a status"),
        fields: head.headers.iter().map(text).collect(),
        body: Vec::new(),
        trailers: Vec::new(),
    };
    let length = answer.field("content-length").map(|value| value.parse().expect("a length"));
    let chunked = answer.field("transfer-encoding").is_some();
    assert!(!(chunked && length.is_some()), "two lengths: {answer:?}");
    let hidden = ["x-secret", "connection-secret", "keep-alive"];
    assert!(hidden.iter().all(|name| answer.field(name).is_none()), "hop by hop: {answer:?}");
    let length = match length {
        _ if head_only || matches!(answer.status, 100..200 | 204 | 304) => BodyLength::None,
        Some(0) => BodyLength::None,
        Some(bytes) => BodyLength::Bytes(bytes),
        None if chunked => BodyLength::Chunked,
        None => panic!("the end is not told: {answer:?}"),
    };
    Some((answer, length, bytes))
}

/// How a client behaves.
struct Manners {
    /// Requests sent before the first of them is answered.
    pipelined: usize,
    /// Milliseconds between two things it does, at most.
    pause_ms: u64,
    /// Bytes it takes at once.
    takes: usize,
    /// It leaves with each step by a chance of one in so many.
    leaves: u64,
}

impl Manners {
    fn random(world: &World) -> Self {
        let dice = &world.dice;
        // Nobody takes a year.
        let most = world.resources.iter().map(|resource| resource.bytes).max().unwrap_or(0);
        Manners {
            pipelined: dice.pick(&[1, 1, 1, 4]),
            pause_ms: dice.pick(&[2, 20, 300]),
            takes: dice.pick(&[40, 5_000, 300_000]).max(most / 200),
            leaves: dice.pick(&[60, 100_000, 100_000]),
        }
    }
}

/// A client on its connection, and on further ones as it loses them.
pub(super) async fn run(world: Rc<World>, number: usize) -> Tally {
    let mut left: Vec<Asked> =
        (0..1 + world.dice.below(10)).rev().map(|n| Asked::random(&world, number, n)).collect();
    let manners = Manners::random(&world);
    let mut tally = Tally::default();
    while !left.is_empty() {
        sleep(Duration::from_millis(world.dice.below(2_000))).await;
        Client::connect(&world, &manners).talk(&mut left, &mut tally).await;
    }
    tally
}

struct Client<'a> {
    world: &'a World,
    manners: &'a Manners,
    worker: usize,
    slot: u32,
    /// Sent and not answered, the oldest first.
    owed: Vec<Asked>,
    unsent: Vec<u8>,
    /// The body of the youngest request, until there is leave to send it.
    withheld: Option<Vec<u8>>,
    reading: Reading,
    closed: bool,
}

impl<'a> Client<'a> {
    fn connect(world: &'a World, manners: &'a Manners) -> Self {
        let worker = world.dice.below(world.workers.len() as u64) as usize;
        let slot = world.workers[worker].borrow_mut().connect();
        let (owed, unsent, withheld, reading) = Default::default();
        Client { world, manners, worker, slot, owed, unsent, withheld, reading, closed: false }
    }

    /// Asks until all is answered, or the connection ends.
    async fn talk(mut self, left: &mut Vec<Asked>, tally: &mut Tally) {
        let mut moved = Instant::now();
        let mut wait_ms = 1;
        loop {
            self.ask(left);
            let progress = self.send() | self.take(tally);
            let over = self.world.workers[self.worker].borrow().is_closed(self.slot);
            if over || (self.owed.is_empty() && left.is_empty()) {
                break;
            }
            if self.world.dice.one_in(self.manners.leaves) {
                let mut worker = self.world.workers[self.worker].borrow_mut();
                // Half a request followed by nothing is answered without its method being known.
                if self.world.dice.one_in(2) || !self.unsent.is_empty() || self.withheld.is_some() {
                    worker.reset(self.slot);
                    break;
                }
                if !self.closed {
                    self.closed = true;
                    worker.peer_closed(self.slot);
                }
            }
            if progress {
                (moved, wait_ms) = (Instant::now(), 1);
            }
            assert!(moved.elapsed() < PATIENCE, "hangs: {:?} {} unsent", self.owed, self.unsent.len());
            wait_ms = if progress {
                1 + self.world.dice.below(self.manners.pause_ms)
            } else {
                (wait_ms * 2).min(200)
            };
            sleep(Duration::from_millis(wait_ms)).await;
        }
        tally.broken += u64::from(self.reading.head.is_some());
        let mut worker = self.world.workers[self.worker].borrow_mut();
        if !worker.is_closed(self.slot) {
            worker.reset(self.slot);
        }
    }

    fn ask(&mut self, left: &mut Vec<Asked>) {
        while self.owed.len() < self.manners.pipelined
            && !self.closed
            && self.withheld.is_none()
            && let Some(mut asked) = left.pop()
        {
            asked.step = self.world.ledger.borrow_mut().step();
            asked.at_s = clock::now().unix_s;
            let (head, body) = asked.render();
            self.unsent.extend(head);
            // Some do not wait.
            if asked.expects && !body.is_empty() && !self.world.dice.one_in(3) {
                (self.withheld, self.reading.leave) = (Some(body), false);
            } else {
                self.unsent.extend(body);
            }
            self.owed.push(asked);
        }
    }

    fn send(&mut self) -> bool {
        let mut worker = self.world.workers[self.worker].borrow_mut();
        if self.unsent.is_empty() || self.closed || !worker.listens(self.slot) {
            return false;
        }
        let most = self.world.dice.pick(&[7, 100, 4096]);
        let bytes = (1 + self.world.dice.below(most) as usize).min(self.unsent.len());
        let part: Vec<u8> = self.unsent.drain(..bytes).collect();
        worker.receive(self.slot, &part);
        true
    }

    fn take(&mut self, tally: &mut Tally) -> bool {
        let mut room = vec![0; 1 + self.world.dice.below(self.manners.takes as u64) as usize];
        let bytes = self.world.workers[self.worker].borrow_mut().take(self.slot, &mut room);
        self.reading.wire.extend_from_slice(&room[..bytes]);
        tally.hash = tally.hash.rotate_left(1) ^ super::super::hash(&room[..bytes]);
        while let Some(asked) = self.owed.first()
            && let Some(answer) = self.reading.next(asked.method == "HEAD")
        {
            count(&answer, tally);
            // Refused without leave: the connection ends with this, for the body will not come.
            self.closed |= self.owed.len() == 1 && self.withheld.is_some() && !self.reading.leave;
            judge_trailers(asked, &answer);
            self.world.ledger.borrow().judge(&self.world.resources[asked.path], asked, &answer);
            let asked = self.owed.remove(0);
            if let (Some(got), Some((_, bytes))) = (answer.field("x-got"), asked.upload) {
                assert_eq!(got, bytes.to_string(), "{asked:?} {answer:?}");
            }
        }
        if self.reading.leave
            && let Some(body) = self.withheld.take()
        {
            tally.leaves += 1;
            self.unsent.extend(body);
        }
        bytes > 0
    }
}

/// What follows a body is of the answer it follows, and what was announced does.
fn judge_trailers(asked: &Asked, answer: &Answer) {
    let lines = String::from_utf8_lossy(&answer.trailers).to_ascii_lowercase();
    let bodiless = asked.method == "HEAD" || answer.status == 304;
    let id = &asked.id;
    let want = match answer.field("trailer").is_some() && asked.welcomes && !bodiless {
        true => format!("x-sum: {id}\r\nx-unannounced: {id}\r\n"),
        false => String::new(),
    };
    assert!(lines == want, "{lines} {asked:?} {answer:?}");
}

fn count(answer: &Answer, tally: &mut Tally) {
    let status = answer.field("cache-status").unwrap_or_default();
    tally.answered += 1;
    tally.trailed += u64::from(!answer.trailers.is_empty());
    tally.hits += u64::from(status.starts_with("edge; hit; ttl="));
    tally.stale += u64::from(status.contains("ttl=-"));
    tally.revalidated += u64::from(status.contains("fwd-status=304"));
    tally.partial += u64::from(answer.status == 206);
    tally.refused += u64::from(matches!(answer.status, 502..=504));
}
