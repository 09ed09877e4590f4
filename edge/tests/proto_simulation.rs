//! Client, session, store and origin together in memory, under virtual time, by seed. Whatever the splits,
//! pauses, validations and breaks: answers come in order, whole bodies are right, cached ones are not older
//! than their freshness allows, and a broken one never looks whole.
//!
//! `EDGE_SIMULATION_SEEDS=500000 cargo test -p edge --test proto_simulation` runs more seeds.

mod proto_client;

use edge::proto::freshness::{Exchange, Policy, Storing, decide};
use edge::proto::invalidation::invalidates;
use edge::proto::range::Selected;
use edge::proto::request::{BodyLength, RequestHead};
use edge::proto::response::OriginHead;
use edge::proto::session::{Again, FetchKind, Input};
use edge::proto::{conditional, stored, validation};
use http::HeaderMap;
use proto_client::{Client, Record, START, headers};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What one path serves. Its content changes every `lives_s`.
struct Resource {
    max_age_s: Option<u64>,
    lives_s: u64,
    has_etag: bool,
    says_length: bool,
    no_store: bool,
}

const RESOURCES: &[Resource] = &[
    Resource { max_age_s: Some(20), lives_s: 7, has_etag: true, says_length: true, no_store: false },
    Resource { max_age_s: Some(5), lives_s: 1000, has_etag: true, says_length: false, no_store: false },
    Resource { max_age_s: None, lives_s: 9, has_etag: true, says_length: true, no_store: false },
    Resource { max_age_s: Some(30), lives_s: 11, has_etag: false, says_length: true, no_store: false },
    Resource { max_age_s: Some(30), lives_s: 3, has_etag: true, says_length: false, no_store: true },
];

impl Resource {
    fn version(&self, at_s: u64) -> u64 {
        at_s / self.lives_s
    }
}

fn body(path: usize, version: u64) -> String {
    let len = (path as u64 * 31 + version * 17) % 200;
    let text = format!("<{path}:{version}>");
    text.chars().cycle().take(text.len() + len as usize).collect()
}

#[derive(Clone, Debug)]
struct Asked {
    method: &'static str,
    path: usize,
    /// First and last byte.
    range: Option<(usize, usize)>,
    etag_version: Option<u64>,
    upload: Option<(bool, usize)>,
}

impl Asked {
    fn random(random: &mut Random) -> Asked {
        let path = random.below(RESOURCES.len() as u64) as usize;
        let mut asked = Asked { method: "GET", path, range: None, etag_version: None, upload: None };
        match random.below(10) {
            0 => asked.method = "HEAD",
            1 => asked.range = Some((random.below(9) as usize, 9 + random.below(300) as usize)),
            2 => asked.etag_version = Some(RESOURCES[path].version(START.unix_s + random.below(60))),
            3 => {
                asked.method = "POST";
                asked.upload = Some((random.one_in(2), random.below(90) as usize));
            }
            _ => {}
        }
        asked
    }

    fn render(&self, out: &mut Vec<u8>) {
        let mut text = format!("{} /{} HTTP/1.1\r\nHost: a\r\n", self.method, self.path);
        if let Some((first, last)) = self.range {
            text.push_str(&format!("Range: bytes={first}-{last}\r\n"));
        }
        if let Some(version) = self.etag_version {
            text.push_str(&format!("If-None-Match: \"{version}\"\r\n"));
        }
        match self.upload {
            Some((true, bytes)) => {
                text.push_str("Transfer-Encoding: chunked\r\n\r\n");
                for _ in 0..bytes / 7 {
                    text.push_str("7\r\nupload!\r\n");
                }
                text.push_str("0\r\n\r\n");
            }
            Some((false, bytes)) => {
                text.push_str(&format!("Content-Length: {bytes}\r\n\r\n{}", "u".repeat(bytes)));
            }
            None => text.push_str("\r\n"),
        }
        out.extend_from_slice(text.as_bytes());
    }

    fn upload_bytes(&self) -> usize {
        self.upload.map_or(0, |(chunked, bytes)| if chunked { bytes / 7 * 7 } else { bytes })
    }
}

/// A response on its way from the origin.
struct Coming {
    head: OriginHead,
    body: Vec<u8>,
    sent: usize,
    begun: bool,
    breaks: bool,
    store: Option<Record>,
}

struct World {
    random: Random,
    client: Client,
    asked: Vec<Asked>,
    input: Vec<u8>,
    given: usize,
    coming: Option<Coming>,
    broke: bool,
    /// Bytes of bodies that former answers acknowledged.
    uploaded: usize,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Random(seed);
        let asked: Vec<Asked> = (0..1 + random.below(25)).map(|_| Asked::random(&mut random)).collect();
        let mut input = Vec::new();
        asked.iter().for_each(|asked| asked.render(&mut input));
        let client = Client::new(Vec::new());
        World { random, client, asked, input, given: 0, coming: None, broke: false, uploaded: 0 }
    }

    /// Runs to the end: all answered, or the connection broken.
    fn run(&mut self) {
        for _ in 0..20_000 {
            if self.client.log.iter().any(|entry| entry == "Abort" || entry == "Close") {
                return;
            }
            let done = self.client.log.iter().filter(|entry| *entry == "Done").count();
            if done == self.asked.len() {
                assert_eq!(self.given, self.input.len());
                assert!(self.client.unread.is_empty());
                return;
            }
            match self.random.below(5) {
                0 if self.given < self.input.len() => {
                    let bytes = 1 + self.random.below(120) as usize;
                    let end = (self.given + bytes).min(self.input.len());
                    let part = self.input[self.given..end].to_vec();
                    self.given = end;
                    self.client.send(part);
                }
                1 => {
                    let drained = self.random.one_in(2);
                    self.client.give(Input::Sent { drained, bytes: 1000 }).send("");
                }
                2 => {
                    let ms = self.random.below(1500);
                    // A deadline must never pass while the client and the origin do their part.
                    if ms < self.client.due_ms() {
                        self.client.pass_ms(ms);
                    }
                }
                _ => self.origin(),
            }
        }
        panic!("no end: {:?}", self.client.log);
    }

    /// The origin (and control) take one step.
    fn origin(&mut self) {
        if let Some(mut coming) = self.coming.take() {
            if !coming.begun {
                coming.begun = true;
                self.client.give(Input::OriginHead { head: &coming.head, collapsed: false });
                self.coming = Some(coming);
            } else if coming.breaks && coming.sent < coming.body.len() && self.random.one_in(3) {
                self.broke = true;
                // An origin that lied about its length ends early, as far as the session can see.
                let lied = coming.head.body_bytes.is_some() && self.random.one_in(2);
                self.client.give(if lied { Input::End } else { Input::Broken });
            } else if coming.sent < coming.body.len() {
                let bytes = (1 + self.random.below(80) as usize).min(coming.body.len() - coming.sent);
                let piece =
                    String::from_utf8(coming.body[coming.sent..coming.sent + bytes].to_vec()).unwrap();
                coming.sent += bytes;
                self.client.piece(&piece);
                self.coming = Some(coming);
            } else {
                self.store(coming.store);
                self.client.give(Input::End).send("");
            }
            return;
        }
        let Some((kind, request)) = self.client.fetched.clone() else { return };
        let owes_body = request.body != BodyLength::None
            && self.client.log.last().map(String::as_str) != Some("ForwardEnd");
        if owes_body {
            return;
        }
        self.client.fetched = None;
        self.answer(kind, &request);
    }

    /// What is missing of a partial object is fetched, and the client gets its part of it.
    fn answer_part(&mut self, request: &RequestHead) -> bool {
        let partial = |record: &&mut Record| record.key == request.key && record.there.is_some();
        let Some(record) = self.client.records.iter_mut().find(partial) else { return false };
        let meta = stored::Meta::read(&record.meta).expect("meta");
        let complete_bytes = meta.body_bytes();
        let (status, part) = match conditional::selected(request, &meta, &record.head) {
            Selected::Whole => (200, 0..complete_bytes),
            Selected::Part(part) => (206, part),
            Selected::Parts(_) | Selected::Unsatisfiable => return false,
        };
        let mut lines = format!("Content-Length: {}\n", part.end - part.start);
        if status == 206 {
            lines += &format!("Content-Range: bytes {}-{}/{complete_bytes}\n", part.start, part.end - 1);
        }
        let at_s = self.client.now.unix_s;
        let head = OriginHead::from_origin(status, &headers(&lines), Storing::Store, at_s).expect("a head");
        let body = record.body[part.start as usize..part.end as usize].to_vec();
        record.there = Some(0..complete_bytes);
        let breaks = self.random.one_in(20);
        self.coming = Some(Coming { head, body, sent: 0, begun: false, breaks, store: None });
        true
    }

    fn answer(&mut self, kind: FetchKind, request: &RequestHead) {
        if kind == FetchKind::Part && self.random.one_in(2) && self.answer_part(request) {
            return;
        }
        let (status, fields, body) = self.respond(kind, request);
        let at_s = self.client.now.unix_s;
        let exchange = Exchange { request_s: at_s, response_s: at_s, purges: 0 };
        if invalidates(request, status) {
            self.client.records.retain(|record| record.key != request.key);
        }
        if self.random.one_in(25) {
            self.client.give(Input::Refused(503, b"")).send("");
            return;
        }
        if status == 304 && kind == FetchKind::Revalidate {
            let record =
                self.client.records.iter_mut().find(|record| record.key == request.key).expect("stored");
            let new = validation::freshen(
                &record.meta,
                &record.head,
                request,
                &fields,
                exchange,
                &Policy::default(),
            )
            .expect("same tag");
            (record.meta, record.head) = (new.meta, new.head);
            self.client.out.request = request.clone();
            self.client.give(Input::Again(Again::Revalidated { collapsed: false })).send("");
            return;
        }
        let (storing, facts) = match kind {
            FetchKind::Pass => (Storing::No("pass"), None),
            _ => {
                let (storing, facts) = decide(request, status, &fields, exchange, &Policy::default());
                (storing, Some(facts))
            }
        };
        let head = OriginHead::from_origin(status, &fields, storing, at_s).expect("a head");
        let store = facts.filter(|_| storing == Storing::Store).map(|facts| {
            let lines = stored::head(status, body.len() as u64, &head.lines);
            let meta = stored::encode(&facts, request, &lines, body.len() as u64);
            // Of some objects only a part is stored.
            let bytes = body.len() as u64;
            let from = self.random.below(bytes + 1);
            let to = from + self.random.below(bytes - from + 1);
            let there = (status == 200 && self.random.one_in(3)).then_some(from..to);
            Record { key: request.key.clone(), meta, head: lines, body: body.clone(), there }
        });
        if store.is_some() && self.random.one_in(3) {
            // Small objects are whole before anybody joins: the client looks again.
            self.store(store);
            self.client.out.request = request.clone();
            self.client.give(Input::Again(Again::Stored)).send("");
            return;
        }
        let breaks = self.random.one_in(20);
        self.coming = Some(Coming { head, body, sent: 0, begun: false, breaks, store });
    }

    fn respond(&mut self, kind: FetchKind, request: &RequestHead) -> (u16, HeaderMap, Vec<u8>) {
        let at_s = self.client.now.unix_s;
        let path: usize = request.path()[1..].parse().unwrap();
        let resource = &RESOURCES[path];
        let mut lines = String::new();
        if request.method_name() == "POST" {
            let bytes = self.client.forwarded.len() - self.uploaded;
            self.uploaded = self.client.forwarded.len();
            let body = format!("got {bytes}");
            return (201, headers(&format!("Content-Length: {}", body.len())), body.into());
        }
        let version = resource.version(at_s);
        let mut conditional = HeaderMap::new();
        if kind == FetchKind::Revalidate {
            let record = self.client.records.iter().find(|record| record.key == request.key).expect("stored");
            assert!(validation::condition(&record.meta, &record.head, &mut conditional));
        } else if let Some(tag) = request.field("if-none-match") {
            conditional.insert("if-none-match", tag.try_into().unwrap());
        }
        if let Some(max_age_s) = resource.max_age_s {
            lines.push_str(&format!("Cache-Control: max-age={max_age_s}\n"));
        }
        if resource.no_store {
            lines.push_str("Cache-Control: no-store\n");
        }
        let tag = format!("\"{version}\"");
        if resource.has_etag {
            lines.push_str(&format!("ETag: {tag}\n"));
            if conditional.get("if-none-match").is_some_and(|asked| asked == tag.as_str()) {
                return (304, headers(&lines), Vec::new());
            }
        }
        let body = body(path, version).into_bytes();
        if resource.says_length {
            lines.push_str(&format!("Content-Length: {}\n", body.len()));
        }
        let sent = if request.method_name() == "HEAD" { Vec::new() } else { body };
        (200, headers(&lines), sent)
    }

    fn store(&mut self, record: Option<Record>) {
        if let Some(record) = record {
            self.client.records.retain(|old| old.key != record.key);
            self.client.records.push(record);
        }
    }

    /// Reads what the client received as a client does, and judges it.
    fn judge(&self) {
        let mut wire = self.client.wire.as_slice();
        let whole = self.client.log.iter().filter(|entry| *entry == "Done").count();
        let aborted = self.client.log.iter().any(|entry| entry == "Abort");
        assert!(aborted || whole == self.asked.len(), "{whole} answers: {:?}", self.client.log);
        assert_eq!(aborted, self.broke, "broken off if and only if the origin broke: {:?}", self.client.log);
        for asked in &self.asked[..whole] {
            let answer =
                read_answer(&mut wire, asked).unwrap_or_else(|| panic!("{asked:?} is not answered whole"));
            self.judge_one(asked, &answer);
        }
        if let (true, Some(asked)) = (aborted, self.asked.get(whole)) {
            assert!(read_answer(&mut wire, asked).is_none(), "{asked:?} looks whole, but the origin broke");
        } else {
            assert!(wire.is_empty(), "{} bytes more than the answers", wire.len());
        }
    }

    fn judge_one(&self, asked: &Asked, answer: &Answer) {
        let resource = &RESOURCES[asked.path];
        if answer.status == 503 {
            return;
        }
        if asked.upload.is_some() {
            assert_eq!(answer.body, format!("got {}", asked.upload_bytes()).as_bytes(), "{asked:?}");
            assert!(answer.cache_status.starts_with("edge; fwd=method"), "{answer:?}");
            return;
        }
        let hit = answer.cache_status.starts_with("edge; hit; ttl=");
        assert!(!(hit && (resource.no_store || resource.max_age_s.is_none())), "{asked:?} {answer:?}");
        if let (true, Some(age_s), Some(max_age_s)) = (hit, answer.age_s, resource.max_age_s) {
            assert!(age_s < max_age_s, "{asked:?} {answer:?}");
        }
        match answer.status {
            200 if asked.method == "GET" => {
                assert!(self.is_some_version(asked.path, &answer.body, 0..usize::MAX), "{answer:?}")
            }
            200 => assert!(answer.body.is_empty()),
            206 => {
                let (first, last) = asked.range.expect("a range was asked for");
                assert!(
                    self.is_some_version(asked.path, &answer.body, first..last + 1),
                    "{asked:?} {answer:?}"
                );
            }
            304 => assert!(asked.etag_version.is_some() && answer.body.is_empty(), "{asked:?} {answer:?}"),
            416 => assert!(asked.range.is_some()),
            status => panic!("{status} to {asked:?}"),
        }
    }

    fn is_some_version(&self, path: usize, got: &[u8], range: std::ops::Range<usize>) -> bool {
        let resource = &RESOURCES[path];
        (resource.version(START.unix_s)..=resource.version(self.client.now.unix_s)).any(|version| {
            let whole = body(path, version);
            got == &whole.as_bytes()[range.start.min(whole.len())..range.end.min(whole.len())]
        })
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    cache_status: String,
    age_s: Option<u64>,
    body: Vec<u8>,
}

/// Takes one response off the wire; `None` if it is not there to its end.
fn read_answer(wire: &mut &[u8], asked: &Asked) -> Option<Answer> {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(bytes) = head.parse(wire).expect("well-formed") else { return None };
    let field = |name: &str| {
        let mut values = head.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
        let value = values.next().map(|field| String::from_utf8_lossy(field.value).into_owned());
        assert!(values.next().is_none(), "{name} twice");
        value
    };
    let status = head.code.expect("a status");
    let length = field("content-length").map(|value| value.parse::<usize>().expect("a length"));
    let chunked = field("transfer-encoding").is_some();
    assert!(!(chunked && length.is_some()));
    let rest = &wire[bytes..];
    let (body, taken) = if asked.method == "HEAD" || matches!(status, 204 | 304) {
        (Vec::new(), 0)
    } else if chunked {
        let mut decoder = edge::proto::body::Decoder::new(BodyLength::Chunked);
        let (mut body, mut at) = (Vec::new(), 0);
        loop {
            match decoder.step(rest, at).expect("well-formed chunks") {
                edge::proto::body::Step::Data(range) => {
                    at = range.end;
                    body.extend_from_slice(&rest[range]);
                }
                edge::proto::body::Step::Trailer(range) => at = range.end,
                edge::proto::body::Step::More => return None,
                edge::proto::body::Step::End(end) => break (body, end),
            }
        }
    } else {
        let length = length.expect("a length");
        (rest.get(..length)?.to_vec(), length)
    };
    let cache_status = field("cache-status").unwrap_or_default();
    let age_s = field("age").map(|value| value.parse().expect("an age"));
    *wire = &wire[bytes + taken..];
    Some(Answer { status, cache_status, age_s, body })
}

#[test]
fn by_seed() {
    let seeds = std::env::var("EDGE_SIMULATION_SEEDS")
        .map_or(10_000, |text| text.parse().expect("a number of seeds"));
    let (mut hits, mut validated, mut broken, mut combined) = (0, 0, 0, 0);
    for seed in 0..seeds {
        let run = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            world.run();
            world.judge();
            let wire = String::from_utf8_lossy(&world.client.wire).into_owned();
            (
                wire.matches("edge; hit").count(),
                wire.matches("fwd-status=304").count(),
                usize::from(world.broke),
                wire.matches("fwd=partial").count(),
            )
        });
        let counts = run.unwrap_or_else(|panic| {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic)
        });
        hits += counts.0;
        validated += counts.1;
        broken += counts.2;
        combined += counts.3;
    }
    // The mix must reach the ways it is made for.
    assert!(combined as u64 > seeds / 10, "{combined} answers used parts that were stored");
    assert!(hits > 0 && validated > 0 && broken > 0, "{hits} hits, {validated} validated, {broken} broken");
}
