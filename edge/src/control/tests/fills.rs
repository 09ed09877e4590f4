//! Fills: shared, streamed, stored, broken, validated.

use super::origin::{Origin, field};
use super::worker::{Outcome, Worker, request};
use super::*;
use crate::control::mailbox::{Ticket, ToControl};
use crate::proto::freshness::Storing;
use crate::proto::session::{Again, FetchKind};
use crate::proto::stored::Meta;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;
use std::sync::{Mutex, mpsc::Sender};

const FRESH: &str = "Cache-Control: max-age=3600\r\n";

#[test]
fn five_hundred_ask_and_the_origin_is_asked_once() {
    let body = pattern(8 << 20, 1);
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let sent = body.clone();
    let origin = Origin::start(move |exchange| {
        let head = format!("HTTP/1.1 200 OK\r\n{FRESH}Content-Length: {}\r\n\r\n", sent.len());
        exchange.send(head.as_bytes());
        let (most, last) = sent.split_at(sent.len() - 1000);
        for piece in most.chunks(100_000) {
            exchange.send(piece);
        }
        // The last bytes leave only when clients have got the first ones.
        gate.lock().unwrap().recv().unwrap();
        exchange.send(last);
    });
    let (node, mut workers) = start(2, &[origin.url()]);
    let mut tickets = Vec::new();
    for i in 0..500 {
        tickets.push(workers[i % 2].fill("http://a/big"));
    }
    for worker in &mut workers {
        let first = tickets.iter().find(|t| usize::from(t.worker) == worker_number(worker)).unwrap();
        worker.run_until(|worker| worker.body(*first).len() > 3 << 20);
    }
    // One more, in the middle: what is sealed comes from the shard, the rest as pieces.
    tickets.push(workers[0].fill("http://a/big"));
    let late = *tickets.last().unwrap();
    workers[0].run_until(|worker| worker.outcome(late).is_some());
    go.send(()).unwrap();
    for worker in &mut workers {
        let mine: Vec<Ticket> =
            tickets.iter().copied().filter(|t| usize::from(t.worker) == worker_number(worker)).collect();
        worker.run_until(|worker| mine.iter().all(|ticket| worker.whole(*ticket)));
        for ticket in &mine {
            assert!(worker.body(*ticket) == body);
            assert_eq!(worker.head(*ticket).storing, Storing::Store);
            assert_eq!(worker.held_bytes(*ticket), 0, "all was sealed");
        }
        assert_eq!(worker.streams(), 1, "one stream a worker");
        assert_eq!(hash(&worker.stored("http://a/big", "").expect("stored")), hash(&body));
    }
    assert_eq!(origin.requests().len(), 1);
    node.await_count(Counter::FillsStored, 1);
    assert_eq!(node.count(Counter::FillsJoined), 500);
    assert_eq!(node.count(Counter::OriginRequests), 1);
    assert_eq!(node.count(Counter::OriginBytes), body.len() as u64);
    node.handle.stop().unwrap();
}

fn worker_number(worker: &Worker) -> usize {
    usize::from(worker.number())
}

#[test]
fn bodies_of_every_size_and_framing_are_stored_as_they_came() {
    let chunk = limits::CHUNK_BYTES;
    let sizes = [0, 1, 1000, chunk - 1, chunk, chunk + 1, 2 * chunk, 2 * chunk + 7];
    let origin = Origin::start(move |exchange| {
        let (bytes, framing) = exchange.path()[1..].split_once('/').unwrap();
        let body = pattern(bytes.parse().unwrap(), 2);
        match framing {
            "length" => exchange.respond("200 OK", FRESH, &body),
            "chunked" => {
                exchange
                    .send(format!("HTTP/1.1 200 OK\r\n{FRESH}Transfer-Encoding: chunked\r\n\r\n").as_bytes());
                for piece in body.chunks(70_001) {
                    exchange.send(&[format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat());
                }
                exchange.send(b"0\r\n\r\n");
            }
            _ => {
                exchange.send(&[format!("HTTP/1.1 200 OK\r\n{FRESH}\r\n").as_bytes(), &body].concat());
                exchange.close();
            }
        }
    });
    let (node, mut workers) = start(1, &[origin.url()]);
    let worker = &mut workers[0];
    for size in sizes {
        for framing in ["length", "chunked", "close"] {
            let url = format!("http://a/{size}/{framing}");
            let ticket = worker.fill(&url);
            worker.run_until(|worker| worker.whole(ticket));
            let wanted = pattern(size, 2);
            assert!(worker.body(ticket) == wanted, "{url}");
            assert!(worker.stored(&url, "").expect("stored") == wanted, "{url}");
            let asked = request("GET", &url, "");
            let record = worker.reader.lookup(asked.key_hash, &asked.key, |_| true).unwrap();
            assert_eq!(record.chunked().is_some(), size > chunk, "{url}");
            assert!(record.head().starts_with(format!("content-length: {size}\r\n").as_bytes()), "{url}");
        }
    }
    node.handle.stop().unwrap();
}

#[test]
fn what_ends_short_or_breaks_is_never_published() {
    let big = 3 * limits::CHUNK_BYTES;
    let origin = Origin::start(move |exchange| {
        let body = pattern(big, 3);
        let send = |exchange: &mut super::origin::Exchange, head: &str, body: &[u8]| {
            exchange.send(&[format!("HTTP/1.1 200 OK\r\n{FRESH}{head}\r\n").as_bytes(), body].concat());
            exchange.close();
        };
        match exchange.path() {
            "/short" => send(exchange, "Content-Length: 1000\r\n", &body[..999]),
            "/big" => send(exchange, &format!("Content-Length: {big}\r\n"), &body[..big - 1]),
            "/chunked" => send(exchange, "Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n"),
            "/half-chunk" => send(exchange, "Transfer-Encoding: chunked\r\n", b"5\r\nhel"),
            _ => send(exchange, "Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\nzz\r\n"),
        }
    });
    let (node, mut workers) = start(1, &[origin.url()]);
    let worker = &mut workers[0];
    let paths = ["/short", "/big", "/chunked", "/half-chunk", "/bad-chunk"];
    for path in paths {
        let url = format!("http://a{path}");
        let tickets = [worker.fill(&url), worker.fill(&url)];
        worker.run_until(|worker| tickets.iter().all(|ticket| worker.broken(*ticket)));
        assert_eq!(worker.stored(&url, ""), None, "{path}");
        let asked = request("GET", &url, "");
        assert!(worker.reader.lookup(asked.key_hash, &asked.key, |_| true).is_none(), "{path}");
    }
    assert_eq!(origin.requests().len(), paths.len());
    node.await_count(Counter::FillsBroken, paths.len() as u64);
    assert_eq!(node.count(Counter::FillsStored), 0);
    node.handle.stop().unwrap();
}

#[test]
fn a_request_that_missed_the_publication_is_told_to_look_again() {
    let origin = Origin::start(|exchange| exchange.respond("200 OK", FRESH, b"x"));
    let (node, mut workers) = start(1, &[origin.url()]);
    let worker = &mut workers[0];
    let first = worker.fill("http://a/");
    worker.run_until(|worker| worker.whole(first));
    let second = worker.fill("http://a/");
    worker.run_until(|worker| worker.outcome(second).is_some());
    assert_eq!(worker.outcome(second), Some(Outcome::Again(Again::Stored)));
    assert_eq!(origin.requests().len(), 1);
    node.handle.stop().unwrap();
}

#[test]
fn a_fill_goes_on_when_all_clients_have_left() {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let origin = Origin::start(move |exchange| {
        gate.lock().unwrap().recv().unwrap();
        exchange.respond("200 OK", FRESH, b"kept");
    });
    let (node, mut workers) = start(1, &[origin.url()]);
    let worker = &mut workers[0];
    let ticket = worker.fill("http://a/");
    worker.run_until(|_| origin.requests().len() == 1);
    worker.tell(ToControl::Gone { ticket });
    go.send(()).unwrap();
    node.await_count(Counter::FillsStored, 1);
    worker.run_for(Duration::from_millis(50));
    assert_eq!(worker.outcome(ticket), None, "who left is not answered");
    assert_eq!(worker.stored("http://a/", "").as_deref(), Some(&b"kept"[..]));
    node.handle.stop().unwrap();
}

/// Nothing is done for who left before the origin was asked, whether the fill waited for a place or had not begun.
#[test]
fn a_fill_that_nobody_waits_for_is_not_sent() {
    let (go, origin) = gated(|exchange| exchange.respond("200 OK", FRESH, b"wanted"));
    let directory = Arc::new(Scratch::new());
    let mut config = config(directory.path(), &[origin.url()]);
    config.origins[0].concurrency_max = 1;
    let (node, mut workers) = start_in(1, config, directory);
    let worker = &mut workers[0];
    let first = worker.fill("http://a/first");
    worker.run_until(|_| origin.requests().len() == 1);
    let shared = worker.fill("http://a/shared");
    for number in 0..200 {
        let ticket = worker.fill(&format!("http://a/{number}"));
        worker.tell(ToControl::Gone { ticket });
    }
    let other = worker.fill("http://a/shared");
    worker.tell(ToControl::Gone { ticket: shared });
    drop(go);
    worker.run_until(|worker| worker.whole(first) && worker.whole(other));
    let last = worker.fill("http://a/last");
    worker.run_until(|worker| worker.whole(last));
    let asked = origin.requests();
    let paths: Vec<_> = asked.iter().filter_map(|head| head.split(' ').nth(1)).collect();
    assert_eq!(paths, ["/first", "/shared", "/last"]);
    node.handle.stop().unwrap();
}

/// An origin that holds its first answers back until told to go on.
fn gated(answer: impl Fn(&mut super::origin::Exchange) + Send + Sync + 'static) -> (Sender<()>, Origin) {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let origin = Origin::start(move |exchange| {
        // Once the sender is dropped nobody waits any more.
        let _ = gate.lock().unwrap().recv();
        answer(exchange);
    });
    (go, origin)
}

#[test]
fn what_may_not_be_stored_reaches_each_client_alone_and_does_not_serialise() {
    let served = Arc::new(AtomicUsize::new(0));
    let count = served.clone();
    let (go, origin) = gated(move |exchange| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        exchange.respond("200 OK", "Cache-Control: no-store\r\n", format!("for one: {number}").as_bytes());
    });
    let (node, mut workers) = start(2, &[origin.url()]);
    let mut tickets = Vec::new();
    for i in 0..6 {
        tickets.push(workers[i % 2].fill("http://a/"));
    }
    origin.await_requests(1);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(origin.requests().len(), 1, "until the head is there, all wait for one");
    drop(go);
    let mut bodies = Vec::new();
    for worker in &mut workers {
        let number = worker.number();
        let mine: Vec<Ticket> = tickets.iter().copied().filter(|t| t.worker == number).collect();
        worker.run_until(|worker| mine.iter().all(|ticket| worker.whole(*ticket)));
        assert!(mine.iter().all(|ticket| worker.passed(*ticket)));
        bodies.extend(mine.iter().map(|ticket| worker.body(*ticket).to_vec()));
    }
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), 6, "nobody got another one's response");
    assert_eq!(origin.requests().len(), 6);
    assert_eq!(workers[0].stored("http://a/", ""), None);
    node.handle.stop().unwrap();
}

#[test]
fn a_key_remembered_as_uncacheable_is_fetched_at_once_and_forgotten_when_it_can_be_stored() {
    let (arrive, arrived) = mpsc::channel();
    let (go, gate) = mpsc::channel::<()>();
    let (gate, arrive) = (Mutex::new(gate), Mutex::new(arrive));
    let phase = Arc::new(AtomicUsize::new(0));
    let now = phase.clone();
    let origin = Origin::start(move |exchange| {
        if now.load(Ordering::Relaxed) == 0 {
            return exchange.respond("200 OK", "Cache-Control: private\r\n", b"private");
        }
        arrive.lock().unwrap().send(()).unwrap();
        let _ = gate.lock().unwrap().recv();
        exchange.respond("200 OK", FRESH, b"shared");
    });
    let (node, mut workers) = start(1, &[origin.url()]);
    let worker = &mut workers[0];
    let first = worker.fill("http://a/");
    worker.run_until(|worker| worker.whole(first));
    phase.store(1, Ordering::Relaxed);
    let both = [worker.fill("http://a/"), worker.fill("http://a/")];
    // Both are at the origin at once.
    for _ in 0..2 {
        arrived.recv_timeout(PATIENCE).unwrap();
    }
    drop(go);
    worker.run_until(|worker| both.iter().all(|ticket| worker.whole(*ticket)));
    assert_eq!(worker.stored("http://a/", "").as_deref(), Some(&b"shared"[..]));
    node.handle.stop().unwrap();
}

#[test]
fn variants_are_shared_among_those_who_select_the_same() {
    let (go, origin) = gated(|exchange| {
        let language = exchange.field("accept-language").unwrap_or("none").to_owned();
        exchange.respond("200 OK", &format!("{FRESH}Vary: Accept-Language\r\n"), language.as_bytes());
    });
    let (node, mut workers) = start(2, &[origin.url()]);
    let languages = ["de", "en", "de", "fr", "en", "de", "fr", "fr"];
    let tickets: Vec<(Ticket, &str)> = languages
        .iter()
        .enumerate()
        .map(|(i, language)| {
            let fields = format!("Accept-Language: {language}\r\n");
            (workers[i % 2].fill_with("http://a/", &fields), *language)
        })
        .collect();
    origin.await_requests(1);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(origin.requests().len(), 1);
    drop(go);
    for worker in &mut workers {
        let number = worker.number();
        for (ticket, language) in tickets.iter().filter(|(ticket, _)| ticket.worker == number) {
            worker.run_until(|worker| worker.whole(*ticket));
            assert_eq!(worker.body(*ticket), language.as_bytes());
        }
        for language in ["de", "en", "fr"] {
            let fields = format!("Accept-Language: {language}\r\n");
            assert_eq!(worker.stored("http://a/", &fields).as_deref(), Some(language.as_bytes()));
        }
    }
    assert_eq!(origin.requests().len(), 3, "once for each variant");
    node.handle.stop().unwrap();
}

#[test]
fn routes_by_header_do_not_mix_what_they_store() {
    let first = Origin::start(|exchange| exchange.respond("200 OK", FRESH, b"stable"));
    let second = Origin::start(|exchange| exchange.respond("200 OK", FRESH, b"canary"));
    let directory = Arc::new(Scratch::new());
    let mut config = config(directory.path(), &[first.url()]);
    config.origins.push(crate::config::Origin { servers: vec![second.url()], ..config.origins[0].clone() });
    let header = Some(("x-service-name".to_owned(), "canary".to_owned()));
    config.routes.insert(
        0,
        Route {
            pattern: Pattern { host: None, path: Some("/api".into()), header },
            origin: 1,
            transport: Default::default(),
            caching: Default::default(),
        },
    );
    let (node, mut workers) = start_in(1, config, directory);
    let worker = &mut workers[0];
    let canary = "X-Service-Name: canary\r\n";
    let both = [worker.fill_with("http://a/api", ""), worker.fill_with("http://a/api", canary)];
    worker.run_until(|worker| both.iter().all(|ticket| worker.whole(*ticket)));
    assert_eq!((worker.body(both[0]), worker.body(both[1])), (&b"stable"[..], &b"canary"[..]));
    assert_eq!(worker.stored("http://a/api", "").as_deref(), Some(&b"stable"[..]));
    assert_eq!(worker.stored("http://a/api", canary).as_deref(), Some(&b"canary"[..]));
    node.handle.stop().unwrap();
}

#[test]
fn a_validation_answered_304_renews_what_is_stored() {
    let big = pattern(limits::CHUNK_BYTES + 5, 4);
    let served = big.clone();
    // The validation is answered once both that ask for it wait for it.
    let (both_wait, waited_for) = mpsc::channel::<()>();
    let waited_for = Mutex::new(waited_for);
    let origin = Origin::start(move |exchange| {
        let body: &[u8] = if exchange.path() == "/big" { &served } else { b"body" };
        let stale = "Cache-Control: max-age=0\r\nETag: \"1\"\r\nX-Version: one\r\n";
        match exchange.field("if-none-match") {
            Some("\"1\"") => {
                waited_for.lock().unwrap().recv_timeout(Duration::from_secs(10)).unwrap();
                let renewed =
                    "HTTP/1.1 304 Not Modified\r\nCache-Control: max-age=3600\r\nX-Version: two\r\n\r\n";
                exchange.send(renewed.as_bytes());
            }
            _ => exchange.respond("200 OK", stale, body),
        }
    });
    let (node, mut workers) = start(1, &[origin.url()]);
    let worker = &mut workers[0];
    for (joined, path, body) in [(1, "/small", &b"body"[..]), (2, "/big", &big[..])] {
        let url = format!("http://a{path}");
        let first = worker.fill(&url);
        worker.run_until(|worker| worker.whole(first));
        let again = [worker.revalidate(&url, "If-None-Match: \"other\"\r\n"), worker.revalidate(&url, "")];
        node.await_count(Counter::FillsJoined, joined);
        both_wait.send(()).unwrap();
        worker.run_until(|worker| again.iter().all(|ticket| worker.outcome(*ticket).is_some()));
        for (place, ticket) in again.into_iter().enumerate() {
            let why = Again::Revalidated { collapsed: place > 0 };
            assert_eq!(worker.outcome(ticket), Some(Outcome::Again(why)));
        }
        assert!(worker.stored(&url, "").unwrap() == body);
        let asked = request("GET", &url, "");
        let record = worker.reader.lookup(asked.key_hash, &asked.key, |_| true).unwrap();
        assert_eq!(Meta::read(record.meta()).unwrap().lifetime_s(), 3600);
        let head = String::from_utf8(record.head().to_vec()).unwrap();
        assert!(head.starts_with(&format!("content-length: {}\r\n", body.len())), "{head}");
        assert_eq!(field(&head, "x-version"), Some("two"));
        assert_eq!(field(&head, "etag"), Some("\"1\""));
    }
    assert_eq!(origin.requests().len(), 4);
    node.await_count(Counter::Revalidated, 2);
    node.handle.stop().unwrap();
}

#[test]
fn a_validation_answered_otherwise_replaces_or_passes_on() {
    let turn = Arc::new(AtomicUsize::new(0));
    let now = turn.clone();
    let origin = Origin::start(move |exchange| {
        let etag = format!("Cache-Control: max-age=0\r\nETag: \"{}\"\r\n", now.load(Ordering::Relaxed));
        match now.fetch_add(1, Ordering::Relaxed) {
            0 => exchange.respond("200 OK", &etag, b"old"),
            1 => exchange.respond("200 OK", &etag, b"new"),
            2 => exchange.respond("503 Service Unavailable", "", b"sorry"),
            // A 304 about something else cannot be used: the whole response is asked for.
            3 => {
                exchange.send(b"HTTP/1.1 304 Not Modified\r\nETag: \"other\"\r\n\r\n");
            }
            4 => exchange.respond("200 OK", &etag, b"newest"),
            _ => exchange.close(),
        }
    });
    let (node, mut workers) = start(1, &[origin.url()]);
    let worker = &mut workers[0];
    let url = "http://a/";
    let first = worker.fill(url);
    worker.run_until(|worker| worker.whole(first));
    for (status, body, stored) in
        [(200, &b"new"[..], &b"new"[..]), (503, b"sorry", b"new"), (200, b"newest", b"newest")]
    {
        let ticket = worker.revalidate(url, "");
        worker.run_until(|worker| worker.whole(ticket));
        assert_eq!(worker.head(ticket).status, status);
        assert_eq!(worker.body(ticket), body);
        assert_eq!(worker.stored(url, "").as_deref(), Some(stored));
    }
    let failed = worker.revalidate(url, "");
    worker.run_until(|worker| worker.refused(failed) == Some(502));
    assert_eq!(worker.stored(url, "").as_deref(), Some(&b"newest"[..]));
    let conditions: Vec<_> =
        origin.requests().iter().map(|head| field(head, "if-none-match").unwrap_or("").to_owned()).collect();
    assert_eq!(conditions, ["", "\"0\"", "\"1\"", "\"1\"", "", "\"4\""]);
    node.handle.stop().unwrap();
}

#[test]
fn what_is_invalidated_while_it_is_on_its_way_is_not_stored() {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let origin = Origin::start(move |exchange| match exchange.path() {
        "/" if exchange.field("content-length").is_some() => {
            exchange.body();
            exchange.respond("204 No Content", "", b"");
        }
        _ => {
            exchange.send(format!("HTTP/1.1 200 OK\r\n{FRESH}Content-Length: 6\r\n\r\nold").as_bytes());
            gate.lock().unwrap().recv().unwrap();
            exchange.send(b"old");
        }
    });
    let (node, mut workers) = start(1, &[origin.url()]);
    let worker = &mut workers[0];
    let old = worker.fill("http://a/");
    worker.run_until(|worker| worker.body(old) == b"old");
    let post = worker.pass("POST", "http://a/", "Content-Length: 1\r\n");
    worker.tell(ToControl::Body { ticket: post, bytes: "x".into(), last: true });
    worker.run_until(|worker| worker.whole(post));
    go.send(()).unwrap();
    worker.run_until(|worker| worker.whole(old));
    assert_eq!(worker.body(old), b"oldold", "who waits still gets it");
    node.await_count(Counter::FillsNotStored, 1);
    assert_eq!(worker.stored("http://a/", ""), None);
    node.handle.stop().unwrap();
}

#[test]
fn an_object_too_large_for_the_store_is_streamed_and_not_stored() {
    let directory = Arc::new(Scratch::new());
    let bytes = 24 << 20;
    let body = pattern(bytes, 5);
    let sent = body.clone();
    let origin = Origin::start(move |exchange| {
        if exchange.path() == "/known" {
            return exchange.respond("200 OK", FRESH, &sent);
        }
        exchange.send(&[format!("HTTP/1.1 200 OK\r\n{FRESH}\r\n").as_bytes(), &sent].concat());
        exchange.close();
    });
    let mut config = config(directory.path(), &[origin.url()]);
    config.store[0].size_bytes = 64 << 20;
    let (node, mut workers) = start_in(1, config, directory);
    let worker = &mut workers[0];
    let known = worker.fill("http://a/known");
    worker.run_until(|worker| worker.whole(known));
    assert!(worker.passed(known), "a length that says so beforehand is passed with credit");
    assert!(worker.body(known) == body);
    let unknown = worker.fill("http://a/unknown");
    // A client that takes nothing for long: what is more than the window comes slowly, until it goes on.
    worker.run_until(|worker| {
        if worker.body(unknown).len() > 2 * limits::UNSEALED_WINDOW_BYTES {
            worker.let_go(unknown);
        }
        worker.whole(unknown)
    });
    assert!(worker.body(unknown) == body);
    for url in ["http://a/known", "http://a/unknown"] {
        assert_eq!(worker.stored(url, ""), None);
    }
    node.handle.stop().unwrap();
}

#[test]
fn no_route_is_404_and_routes_match_host_path_and_header() {
    let origin = Origin::start(|exchange| exchange.respond("200 OK", FRESH, b"x"));
    let directory = Arc::new(Scratch::new());
    let mut config = config(directory.path(), &[origin.url()]);
    config.routes = vec![Route {
        pattern: Pattern { host: Some("a".into()), path: Some("/p".into()), header: None },
        origin: 0,
        transport: Default::default(),
        caching: Default::default(),
    }];
    let (node, mut workers) = start_in(1, config.clone(), directory);
    let worker = &mut workers[0];
    for (url, served) in [
        ("http://a/p", true),
        ("http://a:80/p", true),
        ("http://a:8080/p/q", true),
        ("http://b/p", false),
        ("http://a/", false),
        ("http://aa/p", false),
    ] {
        let ticket = worker.fetch(FetchKind::Fill, request("GET", url, ""));
        worker.run_until(|worker| worker.outcome(ticket).is_some());
        assert_eq!(worker.refused(ticket), (!served).then_some(404), "{url}");
    }
    // A reload takes effect for what comes later; a bad one changes nothing.
    let mut bad = config.clone();
    bad.origins[0].servers = vec!["127.0.0.1".into()];
    assert!(node.handle.reload(Arc::new(bad)).unwrap_err().contains("http://host:port"));
    let ticket = worker.fill("http://b/p");
    worker.run_until(|worker| worker.refused(ticket) == Some(404));
    config.routes[0].pattern.host = None;
    node.handle.reload(Arc::new(config)).unwrap();
    let ticket = worker.fill("http://b/p");
    worker.run_until(|worker| worker.whole(ticket));
    node.handle.stop().unwrap();
}
