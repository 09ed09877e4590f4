//! The origin: what it serves follows from the ledger, and how it serves it from the dice. Each connection is a task on
//! one end of a pipe in memory.

use super::World;
use super::client::{trailers, upload};
use super::ledger::{Framed, Resource, What};
use crate::control::pool::InMemory;
use crate::proto::body::{Decoder, Step};
use crate::proto::request::BodyLength;
use std::rc::{Rc, Weak};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::sleep;

/// Bytes of a pipe: a body of more waits for its reader.
const PIPE_BYTES: usize = 20_000;

/// A connection is asked for.
pub(super) fn open(world: &Weak<World>) -> InMemory {
    let world = world.upgrade();
    Box::pin(async move {
        let world = world.ok_or("the world has ended")?;
        let dice = &world.dice;
        sleep(Duration::from_millis(dice.below(20))).await;
        match dice.below(6 * world.trouble) {
            0 => return Err("refused".into()),
            1 => sleep(Duration::from_secs(60)).await,
            _ => {}
        }
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        tokio::task::spawn_local(async move {
            let mut line = Line { world, io: theirs, unread: Vec::new() };
            while line.exchange().await.is_some() {}
        });
        Ok(ours)
    })
}

/// A request as the origin reads it.
#[derive(Debug)]
struct Request {
    method: String,
    path: usize,
    fields: Vec<(String, String)>,
    /// The step at which it began to be answered.
    step: u64,
}

impl Request {
    fn field(&self, name: &str) -> Option<&str> {
        let mut found = self.fields.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.as_str())
    }

    fn id(&self) -> &str {
        self.field("x-request").unwrap_or("?")
    }
}

/// What goes wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    /// Nothing is ever said.
    Silence,
    /// The connection ends before the head, or within it.
    HeadCut,
    /// It is no HTTP.
    Garbage,
    /// The body ends early, and the connection with it.
    Cut,
    /// The body stops and nothing more comes.
    Stall,
    /// Content-Length says more than there is, and the connection ends.
    More,
    /// Content-Length says less than there is.
    Less,
    /// Content-Length is there twice, with different values.
    TwoLengths,
    /// It is there twice, the same.
    SameLengths,
    /// Content-Length and Transfer-Encoding.
    LengthAndChunks,
    /// A second Cache-Control forbids what the first allows.
    TwoDirectives,
    /// A chunk says it is longer than it is.
    ChunkLies,
    /// What nobody asked for follows.
    Splitting,
    /// An error of the origin.
    Error,
}

const TROUBLES: &[Trouble] = &[
    Trouble::Silence,
    Trouble::HeadCut,
    Trouble::Garbage,
    Trouble::Cut,
    Trouble::Cut,
    Trouble::Cut,
    Trouble::Stall,
    Trouble::More,
    Trouble::Less,
    Trouble::TwoLengths,
    Trouble::SameLengths,
    Trouble::LengthAndChunks,
    Trouble::TwoDirectives,
    Trouble::ChunkLies,
    Trouble::Splitting,
    Trouble::Error,
    Trouble::Error,
];

/// One connection.
struct Line {
    world: Rc<World>,
    io: DuplexStream,
    unread: Vec<u8>,
}

/// An answer before it is put into bytes.
struct Reply {
    status: &'static str,
    what: Option<What>,
    lines: String,
    body: Vec<u8>,
    framed: Framed,
    /// The lines after the body, if it comes in chunks.
    trailers: Option<String>,
}

impl Line {
    /// Reads a request and answers it. `None`: the connection is over.
    async fn exchange(&mut self) -> Option<()> {
        let request = self.read_head().await?;
        let trouble = match self.world.dice.one_in(self.world.trouble) {
            true => self.world.dice.pick(TROUBLES),
            false => Trouble::None,
        };
        // Some do not wait for the end of a body.
        let expects = request.field("expect").is_some();
        let early = self.world.dice.one_in(if expects { 4 } else { 20 });
        if !early {
            if expects && self.world.dice.one_in(2) {
                self.pause(3_000).await;
                self.io.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.ok()?;
            }
            self.read_body(&request).await?;
        }
        self.pause(400).await;
        let mut reply = self.reply(&request, trouble);
        tracing::debug!(?request, ?trouble, reply.status, reply.lines, "origin");
        if self.world.dice.one_in(30) {
            self.io.write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n").await.ok()?;
            self.pause(50).await;
        }
        let keeps = self.send(&mut reply, trouble, request.method == "HEAD").await?;
        (keeps && !early && !self.world.dice.one_in(10)).then_some(())
    }

    async fn pause(&self, most_ms: u64) {
        if self.world.dice.one_in(2) {
            sleep(Duration::from_millis(self.world.dice.below(most_ms))).await;
        }
    }

    async fn fill(&mut self) -> Option<()> {
        let mut buffer = [0; 4096];
        let bytes = self.io.read(&mut buffer).await.ok().filter(|&bytes| bytes > 0)?;
        self.unread.extend_from_slice(&buffer[..bytes]);
        Some(())
    }

    async fn read_head(&mut self) -> Option<Request> {
        loop {
            let mut fields = [httparse::EMPTY_HEADER; 64];
            let mut head = httparse::Request::new(&mut fields);
            match head.parse(&self.unread).expect("well-formed") {
                httparse::Status::Complete(bytes) => {
                    let text = |field: &httparse::Header<'_>| {
                        (field.name.to_owned(), String::from_utf8_lossy(field.value).into_owned())
                    };
                    let request = Request {
                        method: head.method.expect("a method").to_owned(),
                        path: head.path.expect("a target")[1..].parse().expect("a path"),
                        fields: head.headers.iter().map(text).collect(),
                        step: self.world.ledger.borrow_mut().step(),
                    };
                    self.unread.drain(..bytes);
                    assert!(request.field("x-secret").is_none(), "what Connection lists was forwarded");
                    return Some(request);
                }
                httparse::Status::Partial => self.fill().await?,
            }
        }
    }

    /// Reads the body and sees that one that looks whole is. `None`: it breaks off.
    async fn read_body(&mut self, request: &Request) -> Option<()> {
        let length = match request.field("content-length").map(|value| value.parse().expect("a length")) {
            Some(0) => BodyLength::None,
            Some(bytes) => BodyLength::Bytes(bytes),
            None if request.field("transfer-encoding").is_some() => BodyLength::Chunked,
            None => BodyLength::None,
        };
        let (mut decoder, mut body, mut section) = (Decoder::new(length), Vec::new(), Vec::new());
        loop {
            let mut at = 0;
            let ended = loop {
                match decoder.step(&self.unread, at).expect("well-formed") {
                    Step::Data(range) => {
                        at = range.end;
                        body.extend_from_slice(&self.unread[range]);
                    }
                    Step::Trailer(range) => {
                        at = range.end;
                        section.extend_from_slice(&self.unread[range]);
                    }
                    Step::More => break None,
                    Step::End(end) => break Some(end),
                }
            };
            self.unread.drain(..ended.unwrap_or(self.unread.len()));
            if ended.is_some() {
                break;
            }
            self.fill().await?;
        }
        let said = request.field("x-upload").map_or(0, |text| text.parse().expect("a length"));
        if body != upload(request.id(), said) {
            let wrong = format!("{}: a body of {said} bytes came as {}", request.id(), body.len());
            self.world.ledger.borrow_mut().wrong = Some(wrong);
        }
        let announced =
            request.field("trailer").map_or(String::new(), |_| format!("x-sum: {}\r\n", request.id()));
        if !section.eq_ignore_ascii_case(announced.as_bytes()) {
            let wrong = format!("{}: followed by {}, not {announced}", request.id(), section.escape_ascii());
            self.world.ledger.borrow_mut().wrong = Some(wrong);
        }
        Some(())
    }

    fn reply(&self, request: &Request, trouble: Trouble) -> Reply {
        let resource = &self.world.resources[request.path];
        let mut lines = String::new();
        let safe = matches!(request.method.as_str(), "GET" | "HEAD");
        let twice = trouble == Trouble::TwoDirectives;
        let owned = !safe
            || twice
            || trouble == Trouble::Error
            || resource.is_owned(request.field("authorization").is_some());
        let what = What {
            path: request.path,
            version: resource.version(),
            owner: if owned { request.id().to_owned() } else { "-".to_owned() },
            lang: match request.field("x-lang").filter(|_| resource.varies) {
                Some(lang) if safe => lang.to_owned(),
                _ => "-".to_owned(),
            },
            bytes: if safe { resource.bytes + resource.version() as usize % 7 } else { 20 },
        };
        if !safe {
            let got = request.field("x-upload").unwrap_or("0");
            lines.push_str(&format!("X-Got: {got}\r\nConnection: keep-alive, connection-secret\r\n"));
        } else {
            push_policy(resource, &what, twice, &mut lines);
        }
        self.pick(request, resource, what, lines, trouble)
    }

    /// Which of 200, 206, 304 and an error it is.
    fn pick(
        &self,
        request: &Request,
        resource: &Resource,
        what: What,
        mut lines: String,
        trouble: Trouble,
    ) -> Reply {
        let framed = resource.framed;
        let trailers = request.field("te").map(|_| trailers(request.id()));
        let safe = matches!(request.method.as_str(), "GET" | "HEAD");
        let say = |length: usize| self.world.ledger.borrow_mut().said(&what, request.step, length);
        if trouble == Trouble::Error {
            say(what.bytes);
            lines.insert_str(0, "Cache-Control: no-store\r\n");
            let status = self.world.dice.pick(&["500 No", "503 Later", "404 Not here"]);
            return Reply { status, body: what.body(), what: Some(what), lines, framed, trailers };
        }
        if request.method == "HEAD" && !resource.has_etag {
            self.world.ledger.borrow_mut().confirmed(request.path);
        }
        let named = request.field("if-none-match").is_some_and(|tags| tags.contains(&what.etag()));
        if safe && resource.has_etag && named && what.owner == "-" {
            say(what.bytes);
            return Reply {
                status: "304 Same",
                what: None,
                lines,
                body: Vec::new(),
                framed: Framed::Length,
                trailers,
            };
        }
        let whole = what.body();
        let same = request.field("if-range").is_none_or(|tag| tag == what.etag());
        let range = request.field("range").filter(|_| resource.takes_ranges && same && safe);
        if let Some((first, last)) = range.and_then(|text| range_of(text, whole.len())) {
            say(whole.len());
            lines.push_str(&format!("Content-Range: bytes {first}-{last}/{}\r\n", whole.len()));
            let body = whole[first..=last].to_vec();
            return Reply { status: "206 Part", what: Some(what), lines, body, framed, trailers };
        }
        say(whole.len());
        Reply { status: "200 OK", what: Some(what), lines, body: whole, framed, trailers }
    }

    /// `None`: the connection is over. Else whether it may go on.
    async fn send(&mut self, reply: &mut Reply, trouble: Trouble, head_only: bool) -> Option<bool> {
        let bytes = reply.body.len();
        let bodiless = head_only || reply.status.starts_with("304");
        let mut head = format!("HTTP/1.1 {}\r\n{}", reply.status, reply.lines);
        if let (Some(what), false) = (&reply.what, head_only) {
            head.push_str(&format!("X-What: {}\r\n", what.render()));
        }
        let mut framed = reply.framed;
        let mut said = bytes;
        match trouble {
            Trouble::Silence => {
                sleep(Duration::from_secs(60)).await;
                return None;
            }
            Trouble::HeadCut => {
                let end = self.world.dice.below(head.len() as u64) as usize;
                self.io.write_all(&head.as_bytes()[..end]).await.ok()?;
                return None;
            }
            Trouble::Garbage => {
                self.io.write_all(b"\x16\x03\x01 what is this?\r\n\r\n").await.ok()?;
                return None;
            }
            Trouble::More
            | Trouble::Less
            | Trouble::TwoLengths
            | Trouble::SameLengths
            | Trouble::LengthAndChunks => {
                framed = Framed::Length;
                match trouble {
                    Trouble::More => said += 1 + self.world.dice.below(300) as usize,
                    Trouble::Less => said -= self.world.dice.below(bytes as u64 + 1) as usize,
                    Trouble::TwoLengths => head.push_str(&format!("Content-Length: {}\r\n", bytes + 1)),
                    Trouble::SameLengths => head.push_str(&format!("Content-Length: {bytes}\r\n")),
                    _ => {
                        head.push_str(&format!("Content-Length: {}\r\n", bytes / 2));
                        framed = Framed::Chunks;
                    }
                }
            }
            Trouble::ChunkLies => framed = Framed::Chunks,
            // The end of the connection would be taken for that of the body, by anybody.
            Trouble::Cut | Trouble::Stall | Trouble::Splitting if framed == Framed::End => {
                framed = Framed::Chunks
            }
            _ => {}
        }
        if trouble == Trouble::ChunkLies
            && let Some(what) = &reply.what
        {
            self.world.ledger.borrow_mut().garbled(what);
        }
        if said != bytes
            && let Some(what) = &reply.what
        {
            self.world.ledger.borrow_mut().said(what, 0, said);
        }
        match framed {
            Framed::Length => head.push_str(&format!("Content-Length: {said}\r\n\r\n")),
            Framed::Chunks => {
                head.push_str(reply.trailers.as_ref().map_or("", |_| "Trailer: X-Sum\r\n"));
                head.push_str("Transfer-Encoding: chunked\r\n\r\n");
            }
            Framed::End => head.push_str("\r\n"),
        }
        let mut wire = head.into_bytes();
        if bodiless {
            self.write(&wire).await?;
            return Some(framed != Framed::End && matches!(trouble, Trouble::None | Trouble::Error));
        }
        let head_bytes = wire.len();
        push_body(&mut wire, reply, framed, trouble);
        match trouble {
            Trouble::Cut | Trouble::Stall => {
                let most = (wire.len() - head_bytes).saturating_sub(1);
                wire.truncate(head_bytes + self.world.dice.below(most as u64 + 1) as usize);
                // Of a body without bytes and with a length nothing can be cut.
                let whole = bytes == 0 && framed == Framed::Length;
                self.write(&wire).await?;
                if trouble == Trouble::Stall && !whole {
                    sleep(Duration::from_secs(100)).await;
                }
                return None;
            }
            Trouble::Splitting => {
                wire.extend_from_slice(
                    b"HTTP/1.1 200 OK\r\nX-What: 99.0.-.-.4\r\nContent-Length: 4\r\n\r\nevil",
                );
                self.write(&wire).await?;
            }
            _ => self.write(&wire).await?,
        }
        Some(framed != Framed::End && !matches!(trouble, Trouble::More | Trouble::Less | Trouble::ChunkLies))
    }

    /// Writes in pieces, with pauses.
    async fn write(&mut self, mut wire: &[u8]) -> Option<()> {
        let most = self.world.dice.pick(&[50, 3_000, 200_000]);
        while !wire.is_empty() {
            let bytes = (1 + self.world.dice.below(most) as usize).min(wire.len());
            let (now, later) = wire.split_at(bytes);
            self.io.write_all(now).await.ok()?;
            wire = later;
            if self.world.dice.one_in(8) {
                self.pause(100).await;
            }
        }
        Some(())
    }
}

fn push_policy(resource: &Resource, what: &What, twice: bool, lines: &mut String) {
    if let Some(max_age_s) = resource.max_age_s {
        lines.push_str(&format!("Cache-Control: max-age={max_age_s}\r\n"));
    }
    if twice {
        lines.push_str("Cache-Control: no-store\r\n");
    }
    if !resource.directive.is_empty() {
        lines.push_str(&format!("Cache-Control: {}\r\n", resource.directive));
    }
    if resource.has_etag {
        lines.push_str(&format!("ETag: {}\r\n", what.etag()));
    }
    if resource.varies {
        lines.push_str("Vary: X-Lang\r\n");
    }
    lines.push_str(&format!("Cache-Tag: t{}\r\n", resource.path));
}

fn push_body(wire: &mut Vec<u8>, reply: &Reply, framed: Framed, trouble: Trouble) {
    let body = &reply.body[..];
    if framed != Framed::Chunks {
        return wire.extend_from_slice(body);
    }
    for chunk in body.chunks(1 + body.len() / 2) {
        let lie = if trouble == Trouble::ChunkLies { 3 } else { 0 };
        wire.extend_from_slice(format!("{:x}\r\n", chunk.len() + lie).as_bytes());
        wire.extend_from_slice(chunk);
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b"0\r\n");
    wire.extend_from_slice(reply.trailers.as_deref().unwrap_or_default().as_bytes());
    wire.extend_from_slice(b"\r\n");
}

/// The one range of a request, first and last byte.
fn range_of(text: &str, bytes: usize) -> Option<(usize, usize)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let first: usize = first.parse().ok()?;
    let last = last.parse().map_or(bytes.saturating_sub(1), |last: usize| last.min(bytes.saturating_sub(1)));
    (first <= last && first < bytes).then_some((first, last))
}
