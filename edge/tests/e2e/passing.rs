//! Requests and responses that stream through without entering the store, and back-pressure both ways.

use crate::support::{Answer, Edge, Framing, Gate, Origin, alone, content, eventually, process, request};
use std::io::Write;
use std::sync::mpsc;
use std::time::Duration;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

const MIB: u64 = 1 << 20;
/// What edge may need to carry one stream, whatever its length: windows of both sides and buffers.
const STREAM_BYTES_MAX: u64 = 12 * MIB;

fn echo(origin: &Origin) {
    origin.script("/echo", |exchange| {
        let body = exchange.body()?;
        let method = exchange.request.method.clone();
        exchange.answer(&Answer::new(200).field("X-Method", &method).body(body))
    });
}

#[test]
fn bodies_are_echoed() {
    let origin = Origin::start();
    echo(&origin);
    let edge = Edge::start(origin.address());
    for (method, bytes) in [("POST", 0), ("POST", 1), ("PUT", 100_000), ("POST", 10 * MIB), ("PUT", 10 * MIB)]
    {
        let body = content::part(bytes, 0, bytes);
        let mut client = edge.client();
        let mut sender = client.stream().try_clone().expect("a second handle");
        let head = request(method, "/echo", &[("Content-Length", &bytes.to_string())]);
        let (head_and_body, wanted) = ([head.as_bytes(), &body].concat(), xxh3_64(&body));
        let sending = std::thread::spawn(move || sender.write_all(&head_and_body));
        let response = client.response(method).unwrap_or_else(|fault| panic!("{method} {bytes}: {fault:?}"));
        sending.join().expect("a sender").expect("all was sent");
        assert_eq!((response.status(), response.field("x-method")), (200, Some(method)));
        assert_eq!((response.body.len() as u64, response.hash()), (bytes, wanted), "{method} {bytes}");
        assert!(!response.head.is_hit());
        assert_eq!(
            client.request("POST", "/echo", &[("Content-Length", "0")]).status(),
            200,
            "still in step"
        );
    }
}

#[test]
fn chunked_request_bodies() {
    let origin = Origin::start();
    echo(&origin);
    let edge = Edge::start(origin.address());
    let body = content::part(3, 0, 300_000);
    for piece_bytes in [1_000, 4_096, 65_536, 299_999] {
        let mut wire = request("POST", "/echo", &[("Transfer-Encoding", "chunked")]).into_bytes();
        for piece in body.chunks(piece_bytes) {
            wire.extend_from_slice(format!("{:X};name=value\r\n", piece.len()).as_bytes());
            wire.extend_from_slice(piece);
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(b"0\r\nX-Trailer: 1\r\n\r\n");
        wire.extend_from_slice(request("POST", "/echo", &[("Content-Length", "2")]).as_bytes());
        wire.extend_from_slice(b"ok");
        let mut client = edge.client();
        let mut sender = client.stream().try_clone().expect("a second handle");
        let sending = std::thread::spawn(move || sender.write_all(&wire));
        let response = client.response("POST").expect("a response");
        assert!(response.body == body, "pieces of {piece_bytes}: {} bytes came back", response.body.len());
        assert_eq!(client.response("POST").expect("the next in line").body, b"ok");
        sending.join().expect("a sender").expect("all was sent");
    }
}

#[test]
fn expect_continue() {
    let origin = Origin::start();
    echo(&origin);
    let gate = Gate::default();
    let theirs = gate.clone();
    origin.script("/thinks", move |exchange| {
        theirs.wait();
        exchange.body()?;
        exchange.answer(&Answer::new(201))
    });
    origin.script("/refuses", |exchange| {
        exchange.raw(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
    });
    origin.script("/silent", |exchange| {
        exchange.request.fields.retain(|(name, _)| name != "expect");
        let body = exchange.body()?;
        exchange.answer(&Answer::new(200).body(body))
    });
    let edge = Edge::start(origin.address());
    let expects = |path: &str| {
        let mut client = edge.client();
        client.send(request("PUT", path, &[("Content-Length", "5"), ("Expect", "100-continue")]).as_bytes());
        client
    };
    let mut client = expects("/echo");
    assert_eq!(client.head().expect("an interim response").status, 100);
    client.send(b"hello");
    let response = client.response("PUT").expect("a response");
    assert_eq!((response.status(), response.body), (200, b"hello".to_vec()));
    assert_eq!(origin.seen("/echo")[0].field("expect"), Some("100-continue"));
    // A client may send its body without waiting.
    client.send(request("PUT", "/echo", &[("Content-Length", "5"), ("Expect", "100-continue")]).as_bytes());
    client.send(b"again");
    let first = client.head().expect("a head");
    let head = if first.status == 100 { client.head().expect("the final one") } else { first };
    let mut body = Vec::new();
    client.body("PUT", &head, &mut |piece| body.extend_from_slice(piece)).expect("a body");
    assert_eq!((head.status, body), (200, b"again".to_vec()));
    // The origin's own word: leave when it gives it, or none.
    let mut client = expects("/thinks");
    std::thread::sleep(Duration::from_millis(300));
    client.stream().set_nonblocking(true).expect("set");
    let early = std::io::Read::read(&mut client.stream(), &mut [0]);
    assert_eq!(early.expect_err("nothing yet").kind(), std::io::ErrorKind::WouldBlock);
    client.stream().set_nonblocking(false).expect("set");
    gate.open();
    assert_eq!(client.head().expect("an interim response").status, 100);
    client.send(b"hello");
    assert_eq!(client.response("PUT").expect("a response").status(), 201);
    let response = expects("/refuses").response("PUT").expect("a response");
    assert_eq!((response.status(), response.body), (417, b"no".to_vec()));
    // An origin that knows nothing of it.
    let mut client = expects("/silent");
    assert_eq!(client.head().expect("an interim response").status, 100);
    client.send(b"hello");
    assert_eq!(client.response("PUT").expect("a response").body, b"hello");
    // An expectation that nobody knows.
    let mut client = edge.client();
    client.send(request("PUT", "/echo", &[("Content-Length", "5"), ("Expect", "200-ok")]).as_bytes());
    assert_eq!(client.response("PUT").expect("an answer").status(), 417);
}

#[test]
fn a_body_in_chunks_reaches_the_origin_whatever_the_method() {
    let origin = Origin::start();
    echo(&origin);
    let edge = Edge::start(origin.address());
    let mut client = edge.client();
    for method in ["GET", "DELETE", "REPORT"] {
        client.send(request(method, "/echo", &[("Transfer-Encoding", "chunked")]).as_bytes());
        client.send(b"3\r\nabc\r\n0\r\n\r\n");
        let response = client.response(method).expect("a response");
        assert_eq!((response.status(), response.body), (200, b"abc".to_vec()), "{method}");
    }
}

#[test]
fn other_methods_reach_the_origin() {
    let origin = Origin::start();
    echo(&origin);
    let edge = Edge::start(origin.address());
    let mut client = edge.client();
    for method in ["DELETE", "OPTIONS", "PATCH", "PROPFIND", "M-SEARCH"] {
        let response = client.request(method, "/echo", &[("X-Mine", "1")]);
        assert_eq!((response.status(), response.field("x-method")), (200, Some(method)));
    }
    assert_eq!(origin.count("/echo"), 5);
    assert!(origin.seen("/echo").iter().all(|seen| seen.field("x-mine") == Some("1")));
}

#[test]
fn response_framings_pass() {
    let origin = Origin::start();
    for (path, framing) in
        [("/length", Framing::Length), ("/chunked", Framing::Chunked), ("/close", Framing::Close)]
    {
        origin.on(
            path,
            Answer::new(200).field("Cache-Control", "no-store").pattern(path, 300_000).framing(framing),
        );
        origin.on(&format!("{path}-stored"), Answer::cacheable(path, 300_000).framing(framing));
    }
    let edge = Edge::start(origin.address());
    for path in ["/length", "/chunked", "/close"] {
        let wanted = content::hash(content::seed(path), 300_000);
        let mut client = edge.client();
        for _ in 0..2 {
            assert_eq!(client.get(path).hash(), wanted, "{path}");
        }
        let stored = format!("{path}-stored");
        assert_eq!(client.get(&stored).hash(), wanted, "{stored}");
        let hit = edge.get_hit(&stored);
        assert_eq!((hit.hash(), hit.field("content-length")), (wanted, Some("300000")), "{stored}");
        assert_eq!(origin.count(&stored), 1);
        let mut old = edge.client();
        old.send(format!("GET {path} HTTP/1.0\r\nHost: edge.test\r\n\r\n").as_bytes());
        let response = old.response("GET").expect("a response");
        assert_eq!(response.field("transfer-encoding"), None, "HTTP/1.0 knows no chunks");
        assert_eq!(response.hash(), wanted);
    }
}

#[test]
fn responses_without_a_body_pass() {
    let origin = Origin::start();
    origin.on("/204", Answer::new(204).field("Cache-Control", "no-store"));
    origin.on("/304", Answer::new(304).field("ETag", "\"v\""));
    origin.on("/500", Answer::new(500).body("broken"));
    let edge = Edge::start(origin.address());
    let mut client = edge.client();
    for _ in 0..2 {
        assert_eq!(client.get("/204").status(), 204);
        let unchanged = client.request("GET", "/304", &[("If-None-Match", "\"v\"")]);
        assert_eq!(unchanged.status(), 304);
        let broken = client.get("/500");
        assert_eq!((broken.status(), broken.body), (500, b"broken".to_vec()));
        let head = client.request("HEAD", "/500", &[]);
        assert_eq!((head.status(), head.field("content-length")), (500, Some("6")));
    }
}

/// A client that sends faster than the origin reads is held back, not buffered.
#[test]
fn slow_origins_hold_uploads_back() {
    const BYTES: u64 = 64 * MIB;
    let _alone = alone();
    let origin = Origin::start();
    let gate = Gate::default();
    let (ours, hash) = (gate.clone(), mpsc::channel());
    origin.script("/slow", move |exchange| {
        ours.wait();
        let mut hasher = Xxh3::new();
        exchange.body_to(&mut |piece| hasher.update(piece))?;
        let _ = hash.0.send(hasher.digest());
        exchange.answer(&Answer::new(201))
    });
    let edge = Edge::start(origin.address());
    edge.get("/nothing");
    let before = process::anonymous_bytes(edge.pid());
    let mut client = edge.client();
    client.send(request("PUT", "/slow", &[("Content-Length", &BYTES.to_string())]).as_bytes());
    let mut sender = client.stream().try_clone().expect("a second handle");
    let (sent, all_sent) = mpsc::channel();
    let sending = std::thread::spawn(move || {
        let mut piece = vec![0; 256 * 1024];
        for at in (0..BYTES).step_by(piece.len()) {
            content::fill(9, at, &mut piece);
            sender.write_all(&piece).expect("sent");
        }
        let _ = sent.send(());
    });
    origin.await_count("/slow", 1);
    std::thread::sleep(Duration::from_millis(1500));
    assert!(all_sent.try_recv().is_err(), "the client could send {BYTES} bytes to an origin that reads none");
    let grown = process::anonymous_bytes(edge.pid()).saturating_sub(before);
    assert!(grown <= STREAM_BYTES_MAX, "anonymous memory grew by {grown} bytes");
    gate.open();
    assert_eq!(client.response("PUT").expect("a response").status(), 201);
    sending.join().expect("the sender finished");
    assert_eq!(hash.1.recv().expect("the origin has read all"), content::hash(9, BYTES));
}

/// An origin that sends faster than the client reads is held back, not buffered.
#[test]
fn slow_clients_hold_the_origin_back() {
    const BYTES: u64 = 64 * MIB;
    let _alone = alone();
    let origin = Origin::start();
    origin.on("/big", Answer::new(200).field("Cache-Control", "no-store").pattern("/big", BYTES));
    let edge = Edge::start(origin.address());
    edge.get("/nothing");
    let before = process::anonymous_bytes(edge.pid());
    let mut client = edge.client();
    client.send(request("GET", "/big", &[]).as_bytes());
    let head = client.head().expect("a head");
    assert_eq!(head.status, 200);
    std::thread::sleep(Duration::from_millis(1500));
    assert!(
        origin.body_bytes_sent() < BYTES,
        "the origin could send {BYTES} bytes to a client that reads none"
    );
    let grown = process::anonymous_bytes(edge.pid()).saturating_sub(before);
    assert!(grown <= STREAM_BYTES_MAX, "anonymous memory grew by {grown} bytes");
    let mut hasher = Xxh3::new();
    client.body("GET", &head, &mut |piece| hasher.update(piece)).expect("a whole body");
    assert_eq!(hasher.digest(), content::hash(content::seed("/big"), BYTES));
}

/// A client that leaves stops a passed response: the origin is not read to the end for nobody.
#[test]
fn nobody_left_stops_a_pass() {
    let origin = Origin::start();
    origin.on("/big", Answer::new(200).field("Cache-Control", "no-store").pattern("/big", 256 * MIB));
    let edge = Edge::start(origin.address());
    let mut client = edge.client();
    client.send(request("GET", "/big", &[]).as_bytes());
    client.head().expect("a head");
    drop(client);
    eventually("the origin sends no more", || {
        let sent = origin.body_bytes_sent();
        std::thread::sleep(Duration::from_millis(500));
        origin.body_bytes_sent() == sent
    });
    assert!(origin.body_bytes_sent() < 256 * MIB);
}
