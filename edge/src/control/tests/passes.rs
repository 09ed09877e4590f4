//! Passes: request bodies, back-pressure both ways, errors and timeouts of origins.

use super::origin::{Origin, field};
use super::*;
use crate::control::mailbox::{Ticket, ToControl};
use crate::proto::session::FetchKind;
use bytes::Bytes;
use std::net::TcpListener;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;
use std::sync::{Mutex, mpsc::TryRecvError};

const POST: &str = "Content-Type: text/plain\r\n";

/// Sends a body as a worker does: never more than the window without credit.
fn upload(worker: &mut Worker, ticket: Ticket, body: &[u8]) {
    let mut sent = 0;
    for piece in body.chunks(50_000) {
        worker.run_until(|w| sent + piece.len() - w.body_credit(ticket) <= limits::REQUEST_BODY_WINDOW_BYTES);
        sent += piece.len();
        let last = sent == body.len();
        worker.tell(ToControl::Body { ticket, bytes: Bytes::copy_from_slice(piece), last });
    }
}

#[test]
fn a_request_body_streams_through_in_both_framings() {
    let origin = Origin::start(|exchange| {
        let body = exchange.body().expect("whole");
        let framing = exchange.field("transfer-encoding").unwrap_or("length").to_owned();
        exchange.respond("200 OK", "", format!("{} {framing}", hash(&body)).as_bytes());
    });
    let (node, mut workers) = start(1, &[origin.url()]);
    let worker = &mut workers[0];
    let body = pattern(3 << 20, 6);
    for framing in ["length", "chunked"] {
        let fields = match framing {
            "length" => format!("{POST}Content-Length: {}\r\n", body.len()),
            _ => format!("{POST}Transfer-Encoding: chunked\r\n"),
        };
        let ticket = worker.pass("POST", "http://a/", &fields);
        upload(worker, ticket, &body);
        worker.run_until(|worker| worker.whole(ticket));
        assert_eq!(String::from_utf8_lossy(worker.body(ticket)), format!("{} {framing}", hash(&body)));
        assert_eq!(worker.body_credit(ticket), body.len());
    }
    node.handle.stop().unwrap();
}

#[test]
fn an_origin_that_does_not_read_gets_no_more_than_the_window() {
    let origin = Origin::start(|exchange| exchange.hang());
    let (node, mut workers) = start(1, &[origin.url()]);
    let worker = &mut workers[0];
    let ticket = worker.pass("PUT", "http://a/", "Content-Length: 1000000000\r\n");
    let mut sent = 0;
    let start = Instant::now();
    // Feeds whatever there is credit for, until none comes: then the sockets are full.
    let mut last = Instant::now();
    while last.elapsed() < Duration::from_millis(300) {
        worker.run_for(Duration::from_millis(5));
        while sent + 50_000 - worker.body_credit(ticket) <= limits::REQUEST_BODY_WINDOW_BYTES {
            sent += 50_000;
            last = Instant::now();
            worker.tell(ToControl::Body { ticket, bytes: Bytes::from_static(&[7; 50_000]), last: false });
        }
        assert!(start.elapsed() < PATIENCE && sent < 100 << 20, "{sent} bytes and no end");
    }
    assert!(sent - worker.body_credit(ticket) > limits::REQUEST_BODY_WINDOW_BYTES - 50_000);
    worker.tell(ToControl::Gone { ticket });
    node.handle.stop().unwrap();
}

#[test]
fn a_client_that_leaves_in_its_body_leaves_no_complete_request() {
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let origin = Origin::start(move |exchange| {
        let body = exchange.body();
        tell.lock().unwrap().send(body.is_some()).unwrap();
        exchange.close();
    });
    let (node, mut workers) = start(1, &[origin.url()]);
    let worker = &mut workers[0];
    for fields in ["Content-Length: 1000\r\n", "Transfer-Encoding: chunked\r\n"] {
        let ticket = worker.pass("POST", "http://a/", fields);
        worker.tell(ToControl::Body { ticket, bytes: Bytes::from_static(b"part"), last: false });
        worker.run_until(|worker| worker.body_credit(ticket) == 4);
        worker.tell(ToControl::Gone { ticket });
        assert!(!told.recv_timeout(PATIENCE).unwrap(), "{fields}");
        assert_eq!(worker.outcome(ticket), None);
    }
    node.handle.stop().unwrap();
}

#[test]
fn an_answer_before_the_body_was_read_is_passed_on_and_the_rest_is_taken() {
    let origin = Origin::start(|exchange| {
        exchange.respond("413 Content Too Large", "Connection: close\r\n", b"no");
        exchange.stall();
    });
    let (node, mut workers) = start(1, &[origin.url()]);
    let worker = &mut workers[0];
    let ticket = worker.pass("POST", "http://a/", "Content-Length: 1000000\r\n");
    worker.tell(ToControl::Body { ticket, bytes: Bytes::from_static(&[1; 1000]), last: false });
    worker.run_until(|worker| worker.whole(ticket));
    assert_eq!(worker.head(ticket).status, 413);
    let credit = worker.body_credit(ticket);
    worker.tell(ToControl::Body { ticket, bytes: Bytes::from_static(&[1; 999_000]), last: true });
    worker.run_until(|worker| worker.body_credit(ticket) == credit + 999_000);
    node.handle.stop().unwrap();
}

#[test]
fn a_client_that_reads_nothing_stops_the_origin_at_the_window() {
    let body = pattern(30 << 20, 7);
    let (done, finished) = mpsc::channel();
    let (sent, done) = (body.clone(), Mutex::new(done));
    let origin = Origin::start(move |exchange| {
        exchange.respond("200 OK", "", &sent);
        let _ = done.lock().unwrap().send(());
    });
    let (node, mut workers) = start(1, &[origin.url()]);
    let worker = &mut workers[0];
    worker.acknowledges = false;
    let ticket = worker.pass("GET", "http://a/", "Range: bytes=0-\r\n");
    worker.run_until(|worker| !worker.body(ticket).is_empty());
    worker.run_for(Duration::from_millis(300));
    let held = worker.held_bytes(ticket);
    assert!(held <= limits::PASS_WINDOW_BYTES, "{held}");
    assert!(held > limits::PASS_WINDOW_BYTES / 2, "{held}");
    assert_eq!(finished.try_recv(), Err(TryRecvError::Empty), "the origin waits");
    worker.acknowledges = true;
    let stream = worker.stream(ticket);
    worker.tell(ToControl::Credit { stream, bytes: held });
    worker.run_until(|worker| worker.whole(ticket));
    assert_eq!(hash(worker.body(ticket)), hash(&body));
    node.handle.stop().unwrap();
}

#[test]
fn a_client_that_leaves_ends_its_pass() {
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let origin = Origin::start(move |exchange| {
        exchange.respond_and_stall("200 OK", "Content-Length: 10\r\n", b"half");
        tell.lock().unwrap().send(()).unwrap();
    });
    let (node, mut workers) = start(1, &[origin.url()]);
    let worker = &mut workers[0];
    let ticket = worker.pass("GET", "http://a/", "");
    worker.run_until(|worker| worker.body(ticket) == b"half");
    worker.tell(ToControl::Gone { ticket });
    told.recv_timeout(PATIENCE).expect("the connection to the origin was closed");
    node.handle.stop().unwrap();
}

#[test]
fn end_to_end_fields_pass_unchanged_and_hop_by_hop_fields_do_not() {
    let origin = Origin::start(|exchange| {
        let fields = "ETag: \"x\"\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nX-End: 2\r\nProxy-Authenticate: Basic\r\nUpgrade: h2c\r\n";
        exchange.respond("206 Partial Content", &format!("{fields}Content-Range: bytes 1-2/4\r\n"), b"bc");
    });
    let (node, mut workers) = start(1, &[origin.url()]);
    let worker = &mut workers[0];
    let fields = "Range: bytes=1-2\r\nAuthorization: Basic eA==\r\nIf-None-Match: \"y\"\r\nX-Odd: a\tb\r\n\
                  Connection: keep-alive, X-Private\r\nX-Private: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\n\
                  Upgrade: h2c\r\nProxy-Connection: close\r\nProxy-Authorization: Basic eA==\r\nExpect: 100-continue\r\nCookie: a=1\r\nCookie: b=2\r\n";
    let ticket = worker.pass("GET", "http://Host.Example:8080/a%20b?q=%7e//x", fields);
    worker.run_until(|worker| worker.whole(ticket));
    let asked = &origin.requests()[0];
    assert!(asked.starts_with("GET /a%20b?q=%7e//x HTTP/1.1\r\n"), "{asked}");
    for (name, value) in [
        ("host", Some("Host.Example:8080")),
        ("range", Some("bytes=1-2")),
        ("authorization", Some("Basic eA==")),
        ("if-none-match", Some("\"y\"")),
        ("x-odd", Some("a\tb")),
        ("cookie", Some("a=1")),
        ("x-private", None),
        ("keep-alive", None),
        // Not the client's own: it says what this node takes.
        ("te", Some("trailers")),
        ("connection", Some("te")),
        ("upgrade", None),
        ("proxy-connection", None),
        ("proxy-authorization", None),
        // There is no body that could wait.
        ("expect", None),
    ] {
        assert_eq!(field(asked, name), value, "{name}: {asked}");
    }
    assert!(asked.to_ascii_lowercase().contains("cookie: b=2\r\n"));
    let head = worker.head(ticket);
    let lines = String::from_utf8(head.lines.clone()).unwrap();
    assert_eq!((head.status, head.body_bytes), (206, Some(2)));
    assert_eq!(field(&lines, "content-range"), Some("bytes 1-2/4"));
    assert_eq!((field(&lines, "proxy-authenticate"), field(&lines, "upgrade")), (None, None));
    assert_eq!(
        (field(&lines, "x-end"), field(&lines, "x-hop"), field(&lines, "keep-alive")),
        (Some("2"), None, None)
    );
    node.handle.stop().unwrap();
}

#[test]
fn responses_without_a_body_end_at_once_and_the_connection_is_used_again() {
    let origin = Origin::start(|exchange| match exchange.path() {
        "/head" => drop(exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n")),
        "/304" => drop(exchange.send(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 12345\r\n\r\n")),
        _ => drop(exchange.send(b"HTTP/1.1 204 No Content\r\n\r\n")),
    });
    let (node, mut workers) = start(1, &[origin.url()]);
    let worker = &mut workers[0];
    for (method, path, status, length) in
        [("HEAD", "/head", 200, Some(12345)), ("GET", "/304", 304, Some(12345)), ("DELETE", "/x", 204, None)]
    {
        let ticket = worker.pass(method, &format!("http://a{path}"), "");
        worker.run_until(|worker| worker.whole(ticket));
        assert_eq!((worker.head(ticket).status, worker.head(ticket).body_bytes), (status, length));
        assert_eq!(worker.body(ticket), b"");
        worker.run_for(Duration::from_millis(200));
    }
    assert_eq!(origin.connections(), 1);
    node.handle.stop().unwrap();
}

#[test]
fn a_method_that_changes_things_removes_what_is_stored_unless_it_fails() {
    let origin = Origin::start(|exchange| match exchange.field("x-fail") {
        Some(status) => {
            let status = status.to_owned();
            exchange.respond(&status, "", b"");
        }
        None => exchange.respond("200 OK", "Cache-Control: max-age=60\r\n", b"x"),
    });
    let (node, mut workers) = start(1, &[origin.url()]);
    let worker = &mut workers[0];
    for (method, fields, stays) in [
        ("POST", "", false),
        ("DELETE", "", false),
        ("M-SEARCH", "", false),
        ("PUT", "X-Fail: 303 See Other\r\n", false),
        ("PUT", "X-Fail: 500 Oops\r\n", true),
        ("PUT", "X-Fail: 409 Conflict\r\n", true),
        ("OPTIONS", "", true),
        ("HEAD", "", true),
    ] {
        let url = format!("http://a/{method}{}", fields.len());
        let first = worker.fill(&url);
        worker.run_until(|worker| worker.whole(first));
        assert!(worker.stored(&url, "").is_some());
        let ticket = worker.pass(method, &url, fields);
        worker.run_until(|worker| worker.outcome(ticket).is_some());
        assert_eq!(worker.stored(&url, "").is_some(), stays, "{method} {fields}");
    }
    node.handle.stop().unwrap();
}

#[test]
fn failures_of_origins_have_their_status() {
    let origin = Origin::start(|exchange| match exchange.path() {
        "/silent" => exchange.stall(),
        "/closes" => exchange.close(),
        "/garbage" => drop(exchange.send(b"garbage\r\n\r\n")),
        "/half-head" => {
            exchange.send(b"HTTP/1.1 200 OK\r\nX: ");
            exchange.close();
        }
        "/huge-head" => {
            let line = format!("X-Large: {}\r\n", "x".repeat(limits::RESPONSE_HEAD_BYTES_MAX));
            exchange.respond("200 OK", &line, b"");
        }
        "/many-fields" => {
            exchange.respond("200 OK", &"a: b\r\n".repeat(limits::RESPONSE_FIELDS_MAX + 1), b"")
        }
        "/two-lengths" => {
            exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab");
        }
        _ => exchange.respond("200 OK", "", b"fine"),
    });
    // The kernel accepts for this one, and nobody ever answers.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let directory = Arc::new(Scratch::new());
    let mut config = config(directory.path(), &[origin.url()]);
    config.origins[0].first_byte_timeout_ms = 300;
    config.origins[0].connect_timeout_ms = 300;
    let of = |server: String| crate::config::Origin { servers: vec![server], ..config.origins[0].clone() };
    let extra = [
        of("http://127.0.0.1:1".into()),
        of(format!("https://127.0.0.1:{}", mute.local_addr().unwrap().port())),
        of("http://no-such-name.invalid".into()),
    ];
    config.origins.extend(extra);
    for (host, origin) in [("refused", 1), ("mute", 2), ("nameless", 3)] {
        let route = Route {
            pattern: Pattern { host: Some(host.into()), path: None, header: None },
            origin,
            transport: Default::default(),
            caching: Default::default(),
        };
        config.routes.insert(0, route);
    }
    let (node, mut workers) = start_in(1, config, directory);
    let worker = &mut workers[0];
    for (url, status) in [
        ("http://a/silent", 504),
        ("http://a/closes", 502),
        ("http://a/garbage", 502),
        ("http://a/half-head", 502),
        ("http://a/huge-head", 502),
        ("http://a/many-fields", 502),
        ("http://a/two-lengths", 502),
        ("http://refused/", 502),
        ("http://mute/", 504),
        ("http://nameless/", 502),
    ] {
        let tickets = [worker.fill(url), worker.pass("GET", url, "")];
        for ticket in tickets {
            worker.run_until(|worker| worker.outcome(ticket).is_some());
            assert_eq!(worker.refused(ticket), Some(status), "{url}");
        }
    }
    let fine = worker.pass("GET", "http://a/", "");
    worker.run_until(|worker| worker.whole(fine));
    node.handle.stop().unwrap();
}

#[test]
fn servers_are_asked_in_turn_and_one_that_is_down_is_passed_over() {
    let origins = [0, 1].map(|i| Origin::start(move |e| e.respond("200 OK", "", format!("{i}").as_bytes())));
    let servers = [origins[0].url(), "http://127.0.0.1:1".into(), origins[1].url()];
    let (node, mut workers) = start(1, &servers);
    let worker = &mut workers[0];
    let mut bodies = Vec::new();
    for i in 0..6 {
        let ticket = worker.pass("GET", &format!("http://a/{i}"), "");
        worker.run_until(|worker| worker.whole(ticket));
        bodies.push(worker.body(ticket).to_vec());
    }
    assert_eq!(bodies.concat(), b"011011");
    assert_eq!(node.count(Counter::OriginRequests), 6);
    node.handle.stop().unwrap();
}

#[test]
fn a_request_that_was_sent_is_never_sent_again() {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = count.clone();
    let origin = Origin::start(move |exchange| match seen.fetch_add(1, Ordering::Relaxed) {
        0 => exchange.respond("200 OK", "", b"first"),
        _ => exchange.close(),
    });
    let (node, mut workers) = start(1, &[origin.url(), origin.url()]);
    let worker = &mut workers[0];
    let first = worker.pass("GET", "http://a/", "");
    worker.run_until(|worker| worker.whole(first));
    worker.run_for(Duration::from_millis(50));
    let second = worker.pass("GET", "http://a/", "");
    worker.run_until(|worker| worker.refused(second) == Some(502));
    assert_eq!(count.load(Ordering::Relaxed), 2);
    node.handle.stop().unwrap();
}

#[test]
fn an_idle_connection_the_origin_closes_does_no_harm() {
    let closed = Arc::new(AtomicUsize::new(0));
    let count = closed.clone();
    let origin = Origin::start(move |exchange| {
        exchange.respond("200 OK", "", b"x");
        exchange.close();
        count.fetch_add(1, Ordering::Relaxed);
    });
    let (node, mut workers) = start(1, &[origin.url()]);
    let worker = &mut workers[0];
    for i in 0..20 {
        let ticket = worker.pass("GET", &format!("http://a/{i}"), "");
        worker.run_until(|worker| worker.whole(ticket) && closed.load(Ordering::Relaxed) > i);
        // Time for the close to arrive: what is sent into a closing connection is lost, and not sent again.
        worker.run_for(Duration::from_millis(50));
    }
    assert_eq!(origin.requests().len(), 20);
    node.handle.stop().unwrap();
}

#[test]
fn more_fetches_than_may_wait_are_refused() {
    // Where the first in the line have to leave it before the last has come, there is room for that one.
    assert!((0..10).any(|_| the_line_was_full_in_time()), "{} ms were never enough", limits::FETCH_WAIT_MS);
}

/// Whether all came before the first had waited too long; if so, the bound held.
fn the_line_was_full_in_time() -> bool {
    let (tell, told) = mpsc::channel();
    let (go, gate) = mpsc::channel::<()>();
    let (tell, gate) = (Mutex::new(tell), Mutex::new(gate));
    let origin = Origin::start(move |exchange| {
        tell.lock().unwrap().send(()).unwrap();
        let _ = gate.lock().unwrap().recv();
        exchange.respond("200 OK", "", b"x");
    });
    let directory = Arc::new(Scratch::new());
    let mut config = config(directory.path(), &[origin.url()]);
    config.origins[0].concurrency_max = 2;
    let (node, mut workers) = start_in(1, config, directory);
    let worker = &mut workers[0];
    let running: Vec<_> = (0..2).map(|_| worker.pass("GET", "http://a/", "")).collect();
    for _ in 0..2 {
        told.recv_timeout(PATIENCE).unwrap();
    }
    let (begun, more) = (Instant::now(), 10);
    let waiting: Vec<_> =
        (0..limits::FETCHES_WAITING_MAX + more).map(|_| worker.pass("GET", "http://a/", "")).collect();
    let refused = |worker: &mut Worker| waiting.iter().filter(|t| worker.refused(**t) == Some(503)).count();
    worker.run_until(|worker| refused(worker) >= more);
    if begun.elapsed() >= Duration::from_millis(limits::FETCH_WAIT_MS) {
        drop(go);
        node.handle.stop().unwrap();
        return false;
    }
    assert_eq!((refused(worker), node.count(Counter::Overflows)), (more, more as u64));
    assert_eq!(origin.connections(), 2, "the origin's bound holds");
    // Those in the line are served once there is room, or leave it.
    for ticket in &waiting {
        worker.tell(ToControl::Gone { ticket: *ticket });
    }
    drop(go);
    worker.run_until(|worker| running.iter().all(|ticket| worker.whole(*ticket)));
    let after = worker.pass("GET", "http://a/", "");
    worker.run_until(|worker| worker.whole(after));
    node.handle.stop().unwrap();
    true
}

#[test]
fn a_long_upload_is_not_taken_for_a_slow_answer() {
    let origin = Origin::start(|exchange| {
        exchange.body().expect("whole");
        exchange.respond("200 OK", "", b"done");
    });
    let directory = Arc::new(Scratch::new());
    let mut config = config(directory.path(), &[origin.url()]);
    config.origins[0].first_byte_timeout_ms = 2_000;
    let (node, mut workers) = start_in(1, config, directory);
    let worker = &mut workers[0];
    let ticket = worker.pass("POST", "http://a/", "Content-Length: 5\r\n");
    for i in 0..5 {
        worker.run_for(Duration::from_millis(500));
        worker.tell(ToControl::Body { ticket, bytes: Bytes::from_static(b"x"), last: i == 4 });
    }
    worker.run_until(|worker| worker.outcome(ticket).is_some());
    worker.run_until(|worker| worker.whole(ticket));
    assert_eq!(worker.body(ticket), b"done");
    node.handle.stop().unwrap();
}

#[test]
fn via_is_added_in_both_directions_and_a_request_that_goes_round_ends() {
    let origin = Origin::start(|exchange| {
        let via = exchange.field("via").unwrap_or_default().to_owned();
        exchange.respond("200 OK", "Via: 1.1 behind\r\n", via.as_bytes());
    });
    let (node, mut workers) = start(1, &[origin.url()]);
    let worker = &mut workers[0];
    let ticket = worker.pass("GET", "http://a/", "Via: 1.1 before\r\n");
    worker.run_until(|worker| worker.whole(ticket));
    assert_eq!(worker.body(ticket), b"1.1 before", "the first line");
    let asked = origin.requests()[0].to_ascii_lowercase();
    let own = asked.lines().find_map(|line| line.strip_prefix("via: ").filter(|via| via.contains("edge-")));
    let own = own.unwrap_or_else(|| panic!("{asked}")).to_owned();
    assert!(own.starts_with("1.1 edge-") && own.len() == "1.1 edge-".len() + 16, "{own}");
    let lines = String::from_utf8_lossy(&worker.head(ticket).lines).to_ascii_lowercase();
    assert!(lines.contains("via: 1.1 behind\r\nvia: 1.1 edge\r\n"), "{lines}");
    let round = format!("Via: {}\r\n", ["1.1 edge"; limits::VIA_NODES_MAX].join(", "));
    // Its own name again, and too many of others; nobody waits for a fill that waits for him.
    for (count, fields) in [format!("Via: 1.0 other, {own} (comment)\r\n"), round].iter().enumerate() {
        for kind in [FetchKind::Fill, FetchKind::Pass] {
            let ticket = worker.fetch(kind, worker::request("GET", "http://a/", fields));
            worker.run_until(|worker| worker.outcome(ticket).is_some());
            assert_eq!(worker.refused(ticket), Some(508), "{fields}");
        }
        node.await_count(Counter::Loops, 2 * (count as u64 + 1));
    }
    assert_eq!(origin.requests().len(), 1);
    node.handle.stop().unwrap();
}

#[test]
fn trailers_pass_both_ways_where_they_are_announced_and_welcome() {
    let origin = Origin::start(|exchange| {
        let (body, trailers) = exchange.body_and_trailers().expect("whole");
        assert_eq!(body, b"some");
        let te = exchange.field("te").unwrap_or("none").to_owned();
        exchange.send(
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Out\r\nX-Te: {te}\r\nX-In: {}\r\n\r\n\
                 2\r\nok\r\n0\r\nX-Out: 1\r\nSet-Cookie: a=b\r\n\r\n",
                trailers.join("|"),
            )
            .as_bytes(),
        );
    });
    let (node, mut workers) = start(1, &[origin.url()]);
    let worker = &mut workers[0];
    let section = "X-In: 1\r\nContent-Length: 9\r\nX-Other: 2\r\nX-IN: 3\r\n";
    for (fields, arrived, welcome) in [
        ("", "", false),
        ("Trailer: x-in, content-length\r\n", "x-in: 1|x-in: 3", false),
        ("Trailer: x-absent\r\n", "", false),
        ("Trailer: content-length\r\nTE: trailers\r\n", "", true),
        ("TE: trailers\r\nTrailer: x-other\r\nTrailer: x-in\r\n", "x-in: 1|x-in: 3|x-other: 2", true),
    ] {
        for method in ["POST", "GET"] {
            let fields = format!("Transfer-Encoding: chunked\r\n{fields}");
            let ticket = worker.pass(method, "http://a/", &fields);
            worker.tell(ToControl::Body { ticket, bytes: Bytes::from_static(b"some"), last: false });
            for piece in section.as_bytes().chunks(7) {
                worker.tell(ToControl::Trailer { ticket, bytes: Bytes::copy_from_slice(piece) });
            }
            worker.tell(ToControl::Body { ticket, bytes: Bytes::new(), last: true });
            worker.run_until(|worker| worker.whole(ticket));
            assert_eq!(worker.body(ticket), b"ok");
            let head = String::from_utf8(worker.head(ticket).lines.clone()).unwrap();
            assert_eq!(field(&head, "x-in"), Some(arrived), "{method} {fields}");
            assert_eq!(field(&head, "x-te"), Some(if welcome { "trailers" } else { "none" }), "{fields}");
            assert_eq!(field(&head, "trailer").is_some(), welcome, "{fields}");
            let trailers: &[u8] = if welcome { b"x-out: 1\r\n" } else { b"" };
            assert_eq!(worker.trailers(ticket), trailers, "{fields}");
        }
    }
    node.handle.stop().unwrap();
}

#[test]
fn max_forwards_of_trace_and_options_ends_here_or_counts_down() {
    let origin = Origin::start(|exchange| {
        let left = exchange.field("max-forwards").unwrap_or("none").to_owned();
        exchange.respond("200 OK", "", left.as_bytes());
    });
    let (node, mut workers) = start(1, &[origin.url()]);
    let worker = &mut workers[0];
    for (method, fields, status, body) in [
        ("OPTIONS", "Max-Forwards: 2\r\n", 200, "1"),
        ("OPTIONS", "", 200, "none"),
        ("OPTIONS", "Max-Forwards: 0\r\n", 204, ""),
        ("GET", "Max-Forwards: 0\r\n", 200, "0"),
        ("TRACE", "Max-Forwards: 0\r\n", 200, "TRACE / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n"),
    ] {
        let ticket = worker.pass(method, "http://a/", fields);
        worker.run_until(|worker| worker.whole(ticket));
        assert_eq!(worker.head(ticket).status, status, "{method} {fields}");
        assert_eq!(String::from_utf8_lossy(worker.body(ticket)), body, "{method} {fields}");
    }
    assert_eq!(origin.requests().len(), 3);
    node.handle.stop().unwrap();
}
