//! Parts of objects whose origin contradicts itself, or has another version than the one a client has a part of: what
//! a client puts together is of one version, and nothing short counts as whole.

use super::origin::{Exchange, Origin, field};
use super::worker::{Worker, request};
use super::*;
use crate::control::mailbox::Ticket;
use crate::proto::session::FetchKind;

const MIB: usize = 1 << 20;
const BYTES: usize = MIB + MIB / 4;

fn part(worker: &mut Worker, path: &str, fields: &str) -> Ticket {
    worker.fetch(FetchKind::Part, request("GET", &format!("http://a{path}"), fields))
}

/// First and last byte of a request for one range; `None`: it asks for the whole.
fn range(exchange: &Exchange) -> Option<(usize, usize)> {
    let (first, last) = exchange.field("range")?.strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().unwrap(), last.parse().unwrap_or(usize::MAX)))
}

/// Answers with that range of the object, which has this tag and for which Content-Range states this length.
fn respond(exchange: &mut Exchange, body: &[u8], tag: &str, complete: &str) {
    respond_with(exchange, "", body, tag, complete);
}

fn respond_with(exchange: &mut Exchange, fields: &str, body: &[u8], tag: &str, complete: &str) {
    let fields = format!("{fields}Cache-Control: max-age=60\r\nETag: {tag}\r\n");
    let is_current = exchange.field("if-range").is_none_or(|wanted| wanted == tag);
    match range(exchange).filter(|_| is_current) {
        None => exchange.respond("200 OK", &fields, body),
        Some((first, _)) if first >= body.len() => {
            let fields = format!("{fields}Content-Range: bytes */{}\r\n", body.len());
            exchange.respond("416 Range Not Satisfiable", &fields, b"");
        }
        Some((first, last)) => {
            let last = last.min(body.len() - 1);
            let fields = format!("{fields}Content-Range: bytes {first}-{last}/{complete}\r\n");
            exchange.respond("206 Partial Content", &fields, &body[first..=last]);
        }
    }
}

#[test]
fn who_has_a_part_of_another_version_gets_the_whole() {
    // Such a request comes here where a partial object was found and has gone since.
    let origin = Origin::start(|exchange| {
        respond(exchange, &pattern(BYTES, 1), "W/\"new\"", &BYTES.to_string());
    });
    let (node, mut workers) = start(1, &[origin.url()]);
    let worker = &mut workers[0];
    let ticket = part(worker, "/x", "Range: bytes=100-199\r\nIf-Range: \"old\"\r\n");
    worker.run_until(|worker| worker.whole(ticket));
    assert_eq!((worker.head(ticket).status, worker.body(ticket).len()), (200, BYTES));
    node.handle.stop().unwrap();
}

#[test]
fn nobody_gets_bytes_that_were_not_asked_for() {
    let body = pattern(BYTES, 2);
    let sent = body.clone();
    let origin = Origin::start(move |exchange| match exchange.path() {
        "/length-not-known" => respond(exchange, &sent, "\"v1\"", "*"),
        _ => respond(exchange, &sent, "W/\"v1\"", &BYTES.to_string()),
    });
    let (node, mut workers) = start(1, &[origin.url()]);
    let worker = &mut workers[0];
    let ticket = part(worker, "/length-not-known", "Range: bytes=100-199\r\n");
    worker.run_until(|worker| worker.whole(ticket));
    assert_eq!(worker.head(ticket).status, 206);
    assert!(worker.body(ticket) == &body[100..200], "{} bytes", worker.body(ticket).len());
    // In the last slice, and beyond the end.
    let ticket = part(worker, "/beyond", &format!("Range: bytes={}-{}\r\n", BYTES + 1, BYTES + 9));
    worker.run_until(|worker| worker.whole(ticket));
    assert_eq!((worker.head(ticket).status, worker.body(ticket).len()), (416, 0));
    node.handle.stop().unwrap();
}

#[test]
fn a_part_that_is_shorter_or_longer_than_it_says_is_not_stored_as_the_whole() {
    let origin = Origin::start(|exchange| {
        let bytes = if exchange.path() == "/short" { 50 } else { 150 };
        let fields = "Cache-Control: max-age=60\r\nETag: \"v1\"\r\nContent-Range: bytes 0-99/100\r\n";
        exchange.respond("206 Partial Content", fields, &pattern(bytes, 3));
    });
    let (node, mut workers) = start(1, &[origin.url()]);
    let worker = &mut workers[0];
    for path in ["/short", "/long"] {
        let ticket = part(worker, path, "Range: bytes=0-99\r\n");
        worker.run_until(|worker| worker.whole(ticket) || worker.broken(ticket));
        assert!(worker.broken(ticket), "{path}");
        assert_eq!(worker.stored(&format!("http://a{path}"), ""), None, "{path}");
    }
    node.handle.stop().unwrap();
}

#[test]
fn slices_that_find_no_room_reach_their_client_all_the_same() {
    let body = pattern(4 * MIB, 5);
    let sent = body.clone();
    let origin = Origin::start(move |exchange| match exchange.path() {
        "/large" => respond(exchange, &sent, "\"v1\"", &sent.len().to_string()),
        _ => exchange.respond("200 OK", "Cache-Control: max-age=60\r\n", &pattern(MIB - MIB / 8, 6)),
    });
    let directory = Arc::new(Scratch::new());
    let mut config = config(directory.path(), &[origin.url()]);
    config.store[0].size_bytes = limits::STORE_BYTES_MIN;
    let (node, mut workers) = start_in(1, config, directory);
    let worker = &mut workers[0];
    let ticket = part(worker, "/large", "Range: bytes=0-9\r\n");
    worker.run_until(|worker| worker.outcome(ticket).is_some());
    // Readers hold what there is, until nothing has room any more.
    let mut held = Vec::new();
    for number in 0.. {
        let url = format!("http://a/{number}");
        let ticket = worker.fill(&url);
        worker.run_until(|worker| worker.whole(ticket));
        let asked = request("GET", &url, "");
        match worker.reader.lookup(asked.key_hash, &asked.key, |_| true) {
            Some(record) => held.push(record),
            None => break,
        }
        assert!(number < 100, "the store has an end");
    }
    let ticket = part(worker, "/large", "Range: bytes=3145728-3145737\r\n");
    worker.run_until(|worker| worker.outcome(ticket).is_some());
    assert_eq!(worker.refused(ticket), None);
    worker.run_until(|worker| worker.whole(ticket));
    assert_eq!(worker.head(ticket).status, 206);
    assert!(worker.body(ticket) == &body[3_145_728..3_145_738]);
    drop(held);
    node.handle.stop().unwrap();
}

#[test]
fn a_new_version_of_one_variant_costs_no_other_its_slices() {
    let versions = Arc::new(AtomicU32::new(1));
    let version = versions.clone();
    let origin = Origin::start(move |exchange| {
        let body = pattern(4 * MIB, 7);
        let tag = match exchange.field("x").unwrap() {
            "a" => format!("\"a{}\"", version.load(Ordering::SeqCst)),
            other => format!("\"{other}\""),
        };
        respond_with(exchange, "Vary: X\r\n", &body, &tag, &body.len().to_string());
    });
    let (node, mut workers) = start(1, &[origin.url()]);
    let worker = &mut workers[0];
    let mut ask = |variant: &str, range: &str| {
        let ticket = part(worker, "/x", &format!("X: {variant}\r\nRange: bytes={range}\r\n"));
        worker.run_until(|worker| worker.outcome(ticket).is_some());
        ["a", "b"].map(|variant| {
            let asked = request("GET", "http://a/x", &format!("X: {variant}\r\n"));
            let accept = |meta: &[u8]| crate::proto::stored::matches(meta, &asked);
            worker.reader.lookup(asked.key_hash, &asked.key, accept).is_some()
        })
    };
    ask("a", "0-9");
    assert_eq!(ask("b", "0-9"), [true, true]);
    versions.store(2, Ordering::SeqCst);
    assert_eq!(ask("a", "3145728-3145737"), [false, true]);
    node.handle.stop().unwrap();
}

#[test]
fn cookies_that_are_not_sent_on_are_sent_with_no_slice() {
    let origin = Origin::start(|exchange| {
        let body = pattern(4 * MIB, 4);
        respond(exchange, &body, "\"v1\"", &body.len().to_string());
    });
    let directory = Arc::new(Scratch::new());
    let mut config = config(directory.path(), &[origin.url()]);
    config.routes[0].caching.strip_cookie = true;
    let (node, mut workers) = start_in(1, config, directory);
    let worker = &mut workers[0];
    // The first begins the object, the second has a slice fetched for it, the last is passed on.
    for range in ["0-9", "3145728-3145737"] {
        let ticket = part(worker, "/x", &format!("Cookie: a=b\r\nRange: bytes={range}\r\n"));
        worker.run_until(|worker| worker.outcome(ticket).is_some());
    }
    let ticket = worker.pass("GET", "http://a/passed", "Cookie: a=b\r\n");
    worker.run_until(|worker| worker.whole(ticket));
    let requests = origin.requests();
    assert_eq!(requests.len(), 3, "{requests:?}");
    for head in requests {
        assert_eq!(field(&head, "cookie"), None, "{head}");
    }
    node.handle.stop().unwrap();
}
