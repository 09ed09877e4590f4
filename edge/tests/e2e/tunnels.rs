//! Connections that go over to WebSocket: real handshakes and frames through the node, and who must not get through.

use crate::support::websocket::{self, BINARY, CLOSE};
use crate::support::{
    Answer, Edge, Gate, Origin, Setup, alone, content, eventually, in_time, process, tls::Site,
};
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::Xxh3;

const MIB: u64 = 1 << 20;
const UPGRADE: &str = "upgrade = [\"websocket\"]";

fn start(origin: &Origin, limit_lines: &str) -> Edge {
    let (route_lines, limit_lines) = (UPGRADE.into(), limit_lines.into());
    Edge::start_with(origin.address(), Setup { route_lines, limit_lines, ..Default::default() })
}

/// Agrees to a tunnel; then the script's own.
fn agrees(
    origin: &Origin,
    path: &str,
    then: impl Fn(&mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
) {
    origin.script(path, move |exchange| {
        let key = exchange.request.field("sec-websocket-key").unwrap_or_default().to_owned();
        exchange.raw(websocket::switching(&key).as_bytes())?;
        then(&mut exchange.tunnel())
    });
}

fn open(edge: &Edge, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(edge.http()).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit");
    websocket::open(&mut stream, path).expect("a tunnel");
    stream
}

#[test]
fn frames_of_all_sizes_are_echoed() {
    let origin = Origin::start();
    agrees(&origin, "/echo", websocket::echo);
    let edge = start(&origin, "");
    let mut stream = open(&edge, "/echo");
    let seen = &origin.seen("/echo")[0];
    assert_eq!((seen.field("connection"), seen.field("upgrade")), (Some("upgrade"), Some("websocket")));
    assert_eq!(
        (seen.field("sec-websocket-version"), seen.field("x-forwarded-for")),
        (Some("13"), Some("127.0.0.1"))
    );
    for bytes in [0, 1, 125, 126, 127, 65_535, 65_536, 1_000_000] {
        let payload = content::part(7, 0, bytes);
        let mut sender = stream.try_clone().expect("a second handle");
        let sent = payload.clone();
        let sending = std::thread::spawn(move || websocket::send(&mut sender, true, BINARY, &sent));
        assert!(websocket::receive(&mut stream).expect("an echo") == (BINARY, payload), "{bytes}");
        sending.join().expect("a sender").expect("sent");
    }
    assert_eq!((edge.metric("edge_tunnels_total"), edge.metric("edge_tunnels_open")), (1.0, 1.0));
    assert_eq!(
        edge.metric("edge_fetches_running"),
        0.0,
        "a tunnel is none of the fetches that misses wait for"
    );
    websocket::send(&mut stream, true, CLOSE, b"").expect("sent");
    assert_eq!(websocket::receive(&mut stream).expect("the close"), (CLOSE, vec![]));
    assert_eq!(stream.read(&mut [0]).expect("the end"), 0, "the origin has closed");
    eventually("the tunnel is gone", || edge.metric("edge_tunnels_open") == 0.0);
}

#[test]
fn sixteen_mebibytes_both_ways_at_once_and_over_tls() {
    const BYTES: u64 = 16 * MIB;
    let origin = Origin::start();
    agrees(&origin, "/both", |stream| {
        let mut sender = stream.try_clone()?;
        let sending = std::thread::spawn(move || {
            for at in (0..BYTES).step_by(1 << 16) {
                websocket::send(&mut sender, false, BINARY, &content::part(1, at, at + (1 << 16)))?;
            }
            std::io::Result::Ok(())
        });
        let mut hasher = Xxh3::new();
        for _ in 0..BYTES >> 16 {
            hasher.update(&websocket::receive(stream)?.1);
        }
        sending.join().expect("a sender")?;
        let digest = hasher.digest().to_be_bytes();
        websocket::send(stream, false, CLOSE, &digest)
    });
    let site = Site::new(&["edge.test"]);
    let setup = Setup { route_lines: UPGRADE.into(), listen_lines: site.section(), ..Default::default() };
    let edge = Edge::start_with(origin.address(), setup);
    let secure = || {
        let name = "edge.test".try_into().expect("a name");
        let connection = rustls::ClientConnection::new(site.client(), name).expect("a client");
        rustls::StreamOwned::new(connection, TcpStream::connect(site.address).expect("connected"))
    };
    let mut hash = Xxh3::new();
    (0..BYTES).step_by(1 << 16).for_each(|at| hash.update(&content::part(1, at, at + (1 << 16))));
    let check = |digest: u64, close: Vec<u8>| {
        assert_eq!((digest, close), (hash.digest(), content::hash(2, BYTES).to_be_bytes().to_vec()));
    };
    // Each piece of the client's is sent while whatever has come is read.
    let mut stream = open(&edge, "/both");
    let mut sender = stream.try_clone().expect("a second handle");
    let sending = std::thread::spawn(move || {
        for at in (0..BYTES).step_by(1 << 16) {
            websocket::send(&mut sender, true, BINARY, &content::part(2, at, at + (1 << 16))).expect("sent");
        }
    });
    let (digest, close) = read_all(&mut stream);
    sending.join().expect("a sender");
    check(digest, close);
    let mut stream = secure();
    websocket::open(&mut stream, "/both").expect("a tunnel over TLS");
    let (mut hasher, mut close) = (Xxh3::new(), Vec::new());
    for at in (0..BYTES).step_by(1 << 16) {
        websocket::send(&mut stream, true, BINARY, &content::part(2, at, at + (1 << 16))).expect("sent");
        hasher.update(&websocket::receive(&mut stream).expect("a frame").1);
    }
    if let (CLOSE, payload) = websocket::receive(&mut stream).expect("the close") {
        close = payload;
    }
    check(hasher.digest(), close);
}

/// The hash of all binary frames, and what the closing one says.
fn read_all(stream: &mut impl Read) -> (u64, Vec<u8>) {
    let mut hasher = Xxh3::new();
    loop {
        match websocket::receive(stream).expect("a frame") {
            (CLOSE, payload) => return (hasher.digest(), payload),
            (_, payload) => hasher.update(&payload),
        }
    }
}

/// Neither side is read faster than the other takes it.
#[test]
fn slow_readers_hold_their_peers_back() {
    const BYTES: u64 = 64 * MIB;
    let _alone = alone();
    let origin = Origin::start();
    let (gate, sent) = (Gate::default(), Gate::default());
    let (theirs, done) = (gate.clone(), sent.clone());
    agrees(&origin, "/down", move |stream| {
        let mut piece = vec![0; 1 << 16];
        for at in (0..BYTES).step_by(piece.len()) {
            content::fill(3, at, &mut piece);
            stream.write_all(&piece)?;
        }
        done.open();
        Ok(())
    });
    agrees(&origin, "/up", move |stream| {
        theirs.wait();
        let (mut hasher, mut piece) = (Xxh3::new(), vec![0; 1 << 16]);
        loop {
            match stream.read(&mut piece)? {
                0 => return stream.write_all(&hasher.digest().to_be_bytes()),
                bytes => hasher.update(&piece[..bytes]),
            }
        }
    });
    let edge = start(&origin, "");
    edge.get("/nothing");
    let before = process::anonymous_bytes(edge.pid());
    let mut reader = open(&edge, "/down");
    let mut writer = open(&edge, "/up");
    let mut sender = writer.try_clone().expect("a second handle");
    let sending = std::thread::spawn(move || {
        let mut piece = vec![0; 1 << 16];
        for at in (0..BYTES).step_by(piece.len()) {
            content::fill(4, at, &mut piece);
            sender.write_all(&piece).expect("sent");
        }
        sender.shutdown(Shutdown::Write).expect("half closed");
    });
    std::thread::sleep(Duration::from_millis(1500));
    assert!(!sent.is_open() && !sending.is_finished(), "{BYTES} bytes went to nobody");
    let grown = process::anonymous_bytes(edge.pid()).saturating_sub(before);
    assert!(grown <= 12 * MIB, "anonymous memory grew by {grown} bytes");
    let (mut hasher, mut piece) = (Xxh3::new(), vec![0; 1 << 16]);
    while let bytes @ 1.. = reader.read(&mut piece).expect("more") {
        hasher.update(&piece[..bytes]);
    }
    assert_eq!(hasher.digest(), content::hash(3, BYTES));
    gate.open();
    // The client has sent its last byte, which its origin is told of, and still gets the answer.
    let mut digest = [0; 8];
    writer.read_exact(&mut digest).expect("an answer");
    assert_eq!(u64::from_be_bytes(digest), content::hash(4, BYTES));
    sending.join().expect("a sender");
}

#[test]
fn what_is_not_agreed_to_is_no_tunnel() {
    let origin = Origin::start();
    origin.on("/refuses", Answer::new(403).body("not you"));
    origin.script("/other", |exchange| {
        exchange
            .raw(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\nsmuggled")
    });
    origin.script("/unasked", |exchange| exchange.raw(websocket::switching("x").as_bytes()));
    let edge = start(&origin, "");
    let mut client = edge.client();
    client.send(websocket::request("/refuses", "").as_bytes());
    let response = client.response("GET").expect("an ordinary response");
    assert_eq!((response.status(), response.body), (403, b"not you".to_vec()));
    assert_eq!(client.get("/refuses").status(), 403, "the connection goes on");
    client.send(websocket::request("/other", "").as_bytes());
    assert_eq!(client.response("GET").expect("an answer").status(), 502, "another protocol");
    for method in ["GET", "POST"] {
        assert_eq!(client.request(method, "/unasked", &[("Content-Length", "0")]).status(), 502, "{method}");
    }
    assert_eq!(edge.metric("edge_tunnels_total"), 0.0);
    // A second request in the place of the first bytes of a tunnel.
    let gate = Gate::default();
    let theirs = gate.clone();
    origin.script("/late", move |exchange| {
        theirs.wait();
        exchange.raw(websocket::switching("x").as_bytes())
    });
    for pause in [None, Some(Duration::from_millis(100))] {
        let mut client = edge.client();
        client.send(websocket::request("/late", "").as_bytes());
        pause.into_iter().for_each(std::thread::sleep);
        client.send(b"GET /secret HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.head().expect("an answer").status, 400);
    }
    assert_eq!(origin.count("/secret"), 0);
    gate.open();
}

#[test]
fn without_the_routes_leave_nobody_is_asked() {
    let origin = Origin::start();
    origin.on("/chat", Answer::new(426).field("Upgrade", "websocket").body("upgrade"));
    let edge = Edge::start(origin.address());
    let mut client = edge.client();
    client.send(websocket::request("/chat", "").as_bytes());
    let response = client.response("GET").expect("an ordinary response");
    assert_eq!((response.status(), response.field("upgrade")), (426, None));
    let seen = &origin.seen("/chat")[0];
    assert_eq!((seen.field("upgrade"), seen.field("sec-websocket-version")), (None, Some("13")));
}

#[test]
fn tunnels_end_when_idle_when_the_origin_breaks_and_when_the_client_leaves() {
    in_time(Duration::from_millis(300), || {
        let origin = Origin::start();
        let gone = Gate::default();
        let told = gone.clone();
        agrees(&origin, "/waits", move |stream| {
            while stream.read(&mut [0; 100]).is_ok_and(|bytes| bytes > 0) {}
            told.open();
            Ok(())
        });
        agrees(&origin, "/breaks", |stream| {
            stream.write_all(b"first")?;
            nix::sys::socket::setsockopt(
                stream,
                nix::sys::socket::sockopt::Linger,
                &nix::libc::linger { l_onoff: 1, l_linger: 0 },
            )?;
            std::thread::sleep(Duration::from_millis(50));
            stream.shutdown(Shutdown::Both)
        });
        let edge = start(&origin, "tunnel_timeout = \"1s\"");
        let mut stream = open(&edge, "/waits");
        for _ in 0..4 {
            std::thread::sleep(Duration::from_millis(400));
            stream.write_all(b"x").expect("the tunnel is there");
        }
        let before = Instant::now();
        assert_eq!(stream.read(&mut [0]).expect("the end"), 0);
        assert!(before.elapsed() > Duration::from_millis(500), "idle time begins anew with each byte");
        gone.wait();
        assert_eq!(edge.metric("edge_timeouts_total"), 1.0);
        let mut stream = open(&edge, "/breaks");
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        assert_eq!(all, b"first");
        drop(open(&edge, "/waits"));
        eventually("nothing is left", || edge.metric("edge_tunnels_open") == 0.0);
    });
}

#[test]
fn there_are_no_more_tunnels_than_may_be() {
    let origin = Origin::start();
    agrees(&origin, "/echo", websocket::echo);
    let edge = start(&origin, "tunnels_max = 1");
    let stream = open(&edge, "/echo");
    let mut refused = edge.client();
    refused.send(websocket::request("/echo", "").as_bytes());
    let response = refused.response("GET").expect("an answer");
    assert_eq!((response.status(), response.field("retry-after")), (503, Some("1")));
    assert_eq!(edge.metric("edge_tunnels_open"), 1.0);
    drop(stream);
    eventually("its place is free", || edge.metric("edge_tunnels_open") == 0.0);
    open(&edge, "/echo");
}

#[test]
fn a_stop_waits_for_tunnels_and_not_for_ever() {
    let origin = Origin::start();
    agrees(&origin, "/echo", websocket::echo);
    let mut edge = start(&origin, "");
    let mut stream = open(&edge, "/echo");
    edge.signal(Signal::SIGTERM);
    std::thread::sleep(Duration::from_millis(500));
    websocket::send(&mut stream, true, BINARY, b"still").expect("sent");
    assert_eq!(websocket::receive(&mut stream).expect("an echo"), (BINARY, b"still".to_vec()));
    assert!(edge.wait().success());
    assert!(!matches!(stream.read(&mut [0]), Ok(1..)));
}
