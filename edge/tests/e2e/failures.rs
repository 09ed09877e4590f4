//! What a client is told when the origin, the route or a place in a queue is missing.

use crate::support::{Answer, Cut, Edge, Gate, Origin, Setup, content, eventually, request};
use std::net::SocketAddr;
use std::time::Duration;

/// An address nobody listens at.
fn nobody() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], crate::support::edge::free_port()))
}

#[test]
fn origin_down() {
    let edge = Edge::start(nobody());
    let mut client = edge.client();
    for _ in 0..3 {
        let response = client.get("/a");
        assert_eq!(response.status(), 502);
        assert!(response.head.cache_status().contains("fwd="), "{}", response.head.cache_status());
        let posted = client.request("POST", "/a", &[("Content-Length", "0")]);
        assert_eq!(posted.status(), 502, "the connection is still in step");
        assert_eq!(client.request("HEAD", "/a", &[]).status(), 502);
    }
    assert!(edge.metric("edge_origin_errors_total") >= 9.0);
}

#[test]
fn origin_comes_back() {
    let address = nobody();
    let edge = Edge::start(address);
    assert_eq!(edge.get("/a").status(), 502);
    let origin = Origin::start_at(address);
    origin.cacheable("/a", 1000);
    assert_eq!(edge.get("/a").status(), 200, "an error is not remembered");
    edge.get_hit("/a");
    origin.stop();
    assert!(edge.get("/a").head.is_hit(), "hits need no origin");
    assert_eq!(edge.get("/b").status(), 502);
}

#[test]
fn origin_hangs() {
    let origin = Origin::start();
    let gate = Gate::default();
    let ours = gate.clone();
    origin.script("/hang", move |_| {
        ours.wait();
        Ok(())
    });
    let setup = Setup { origin_lines: "first_byte_timeout = \"500ms\"".into(), ..Default::default() };
    let edge = Edge::start_with(origin.address(), setup);
    let mut client = edge.client();
    assert_eq!(client.get("/hang").status(), 504);
    assert_eq!(client.request("POST", "/hang", &[("Content-Length", "0")]).status(), 504);
    gate.open();
    assert_eq!(origin.count("/hang"), 2, "nothing is tried twice");
}

#[test]
fn origins_that_speak_no_http() {
    let origin = Origin::start();
    let cases: &[(&str, &[u8])] = &[
        ("/garbage", b"SSH-2.0-OpenSSH\r\n\r\n"),
        ("/empty", b""),
        ("/half", b"HTTP/1.1 200 OK\r\nContent-Le"),
        ("/lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
        ("/space", b"HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello"),
        ("/nul", b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 5\r\n\r\nhello"),
        ("/switch", b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
    ];
    for (path, bytes) in cases {
        origin.script(path, move |exchange| {
            exchange.raw(bytes)?;
            exchange.break_off(Cut::Close)
        });
    }
    let edge = Edge::start(origin.address());
    let mut client = edge.client();
    for (path, _) in cases {
        let response = client.get(path);
        assert_eq!(response.status(), 502, "{path}: {:?}", response.head);
    }
}

#[test]
fn interim_responses_are_not_the_answer() {
    let origin = Origin::start();
    origin.script("/a", |exchange| {
        exchange.raw(b"HTTP/1.1 103 Early Hints\r\nLink: </s.css>\r\n\r\n")?;
        exchange.answer(&Answer::cacheable("/a", 100))
    });
    origin.script("/passed", |exchange| {
        exchange.raw(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </s.css>\r\n\r\n")?;
        exchange.answer(&Answer::new(200).body("x"))
    });
    let edge = Edge::start(origin.address());
    let mut client = edge.client();
    client.send(request("GET", "/a", &[]).as_bytes());
    let early = client.head().expect("an interim response");
    assert_eq!((early.status, early.field("link")), (103, Some("</s.css>")));
    let whole = content::part(content::seed("/a"), 0, 100);
    assert_eq!(client.response("GET").expect("the answer").body, whole);
    assert_eq!(edge.get_hit("/a").body, whole);
    client.send(request("POST", "/passed", &[("Content-Length", "0")]).as_bytes());
    assert_eq!(client.head().expect("an interim response").status, 102);
    assert_eq!(client.head().expect("another one").status, 103);
    assert_eq!(client.response("POST").expect("the answer").body, b"x");
    // HTTP/1.0 knows none.
    let mut client = edge.client();
    client.send(b"POST /passed HTTP/1.0\r\nHost: edge.test\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.head().expect("the answer").status, 200);
}

#[test]
fn no_route() {
    let origin = Origin::start();
    origin.cacheable("/in/a", 100);
    let setup = Setup { route_lines: "host = \"edge.test\"\npath = \"/in/\"".into(), ..Default::default() };
    let edge = Edge::start_with(origin.address(), setup);
    let mut client = edge.client();
    assert_eq!(client.get("/in/a").status(), 200);
    assert_eq!(client.get("/out/a").status(), 404);
    client.send(b"GET /in/a HTTP/1.1\r\nHost: other.test\r\n\r\n");
    assert_eq!(client.response("GET").expect("a response").status(), 404);
    assert_eq!(client.get("/in/a").status(), 200, "the connection is still in step");
    assert_eq!(origin.count_all(), 1);
}

/// More requests than the origin may have at once wait their turn.
#[test]
fn bounded_concurrency_towards_the_origin() {
    const CLIENTS: usize = 12;
    let origin = Origin::start();
    let gate = Gate::default();
    for i in 0..CLIENTS {
        origin.on(&format!("/{i}"), Answer::cacheable("/a", 10).hold(5, &gate));
    }
    let setup = Setup { origin_lines: "concurrency_max = 3".into(), ..Default::default() };
    let edge = Edge::start_with(origin.address(), setup);
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|i| {
            let mut client = edge.client();
            client.send(request("GET", &format!("/{i}"), &[]).as_bytes());
            client
        })
        .collect();
    eventually("three requests are at the origin", || origin.count_all() == 3);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(origin.count_all(), 3, "the bound holds");
    gate.open();
    for client in &mut clients {
        assert_eq!(client.response("GET").expect("a response").status(), 200);
    }
    assert_eq!(origin.count_all(), CLIENTS);
}

/// Connections to the origin are used again, not one for each request.
#[test]
fn origin_connections_are_reused() {
    let origin = Origin::start();
    for i in 0..30 {
        origin.cacheable(&format!("/{i}"), 1000);
    }
    let edge = Edge::start(origin.address());
    let mut client = edge.client();
    for i in 0..30 {
        assert_eq!(client.get(&format!("/{i}")).status(), 200);
    }
    assert!(origin.connections() <= 3, "{} connections for 30 requests in a row", origin.connections());
}

/// An origin that ends its connections without a word costs nobody an answer.
#[test]
fn origins_that_close_idle_connections() {
    let origin = Origin::start();
    for i in 0..20 {
        let path = format!("/{i}");
        origin.script(&path, move |exchange| {
            exchange.answer(&Answer::cacheable("/a", 1000))?;
            exchange.break_off(if i % 2 == 0 { Cut::Close } else { Cut::Reset })
        });
    }
    let edge = Edge::start(origin.address());
    let mut client = edge.client();
    for i in 0..20 {
        let response = client.get(&format!("/{i}"));
        assert_eq!(response.status(), 200, "/{i}");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(origin.count_all(), 20);
}

/// A client that stops in the middle of its body is given up, and so is its request to the origin.
#[test]
fn unfinished_request_bodies() {
    let origin = Origin::start();
    origin.script("/put", |exchange| {
        let body = exchange.body()?;
        exchange.answer(&Answer::new(200).body(body))
    });
    let setup = Setup { limit_lines: "body_timeout = \"500ms\"".into(), ..Default::default() };
    let edge = Edge::start_with(origin.address(), setup);
    let mut silent = edge.client();
    silent.send(request("PUT", "/put", &[("Content-Length", "1000")]).as_bytes());
    silent.send(b"only this");
    let (end, bytes) = silent.rest();
    assert_ne!(end, Err(crate::support::Fault::Silent), "the deadline for the body passed");
    assert!(bytes.is_empty() || bytes.starts_with(b"HTTP/1.1 408 "), "{:?}", String::from_utf8_lossy(&bytes));
    let mut gone = edge.client();
    gone.send(request("PUT", "/put", &[("Content-Length", "1000")]).as_bytes());
    gone.send_no_more();
    let (end, bytes) = gone.rest();
    assert_ne!(end, Err(crate::support::Fault::Silent));
    assert!(!bytes.starts_with(b"HTTP/1.1 200 "), "a cut request was answered as if it were whole");
    assert_eq!(edge.get("/put").status(), 200, "edge serves on");
}
