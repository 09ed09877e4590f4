//! What one client may take of a node: connections, and time for bodies and for reading. Those who take too much are
//! ended, and everybody else is served meanwhile.

use crate::support::{Answer, Client, Edge, Fault, Gate, Origin, Setup, eventually, frame, in_time, request};
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
/// Whoever is not ended until then stays.
const PATIENCE: Duration = Duration::from_secs(20);

fn start(origin: &Origin, limit_lines: &str) -> Edge {
    let listen_lines = "http2_cleartext = true".into();
    Edge::start_with(
        origin.address(),
        Setup { limit_lines: limit_lines.into(), listen_lines, ..Default::default() },
    )
}

#[test]
fn a_client_has_so_many_connections_and_no_more() {
    const MOST: usize = 8;
    const REFUSED: &str = "edge_connections_refused_per_client_total";
    let origin = Origin::start();
    origin.cacheable("/a", 10);
    let edge =
        start(&origin, &format!("connections_per_client = {MOST}\nunlimited_clients = [\"127.0.0.1\"]"));
    edge.get_hit("/a");
    let greedy = Ipv4Addr::new(127, 0, 0, 2);
    // Whether it was taken is only known once it is answered; what is closed may be reset under the request.
    let connect = |source| -> Option<Client> {
        let mut client = Client::connect_from(source, edge.http()).ok()?;
        client.stream().write_all(request("GET", "/a", &[]).as_bytes()).ok()?;
        client.response("GET").ok().map(|_| client)
    };
    let mut held: Vec<Client> = (0..MOST).map(|_| connect(greedy).expect("within its share")).collect();
    for _ in 0..5 {
        assert!(connect(greedy).is_none(), "{MOST} on all workers together");
    }
    assert_eq!(edge.metric(REFUSED), 5.0);
    let others: Vec<_> = (3..20).map(|last| connect(Ipv4Addr::new(127, 0, 0, last))).collect();
    assert!(others.iter().all(Option::is_some), "others have shares of their own");
    assert!(held.iter_mut().all(|client| client.get("/a").head.is_hit()), "those it has stay");
    drop(held.split_off(MOST / 2));
    let mut again = Vec::new();
    eventually("closed connections make room", || {
        again.extend(connect(greedy));
        again.len() == MOST - MOST / 2
    });
    assert!(connect(greedy).is_none());
    let unlimited: Vec<_> = (0..3 * MOST).map(|_| connect(Ipv4Addr::LOCALHOST)).collect();
    assert!(unlimited.iter().all(Option::is_some), "a network that is excepted");
}

/// Sends pieces at intervals until the peer closes; how long that took. `None`: it did not within [`PATIENCE`].
fn trickle(client: &Client, piece: &[u8], pause: Duration) -> Option<Duration> {
    let begun = Instant::now();
    let mut stream = client.stream();
    stream.set_nonblocking(true).expect("a mode");
    let mut seen = [0; 1024];
    while begun.elapsed() < PATIENCE {
        let _ = stream.write(piece);
        match stream.read(&mut seen) {
            Ok(0) => return Some(begun.elapsed()),
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => return Some(begun.elapsed()),
            _ => std::thread::sleep(pause),
        }
    }
    None
}

#[test]
fn a_body_that_trickles_is_ended_and_one_that_flows_is_not() {
    in_time(Duration::from_millis(300), || {
        let origin = Origin::start();
        origin.cacheable("/a", 10);
        origin.script("/up", |exchange| {
            let bytes = exchange.body()?.len();
            exchange.answer(&Answer::new(200).body(bytes.to_string()))
        });
        let edge = start(&origin, "body_timeout = \"1s\"\nbody_rate_min = \"1KiB\"");
        let post =
            |bytes: usize| format!("POST /up HTTP/1.1\r\nHost: edge.test\r\nContent-Length: {bytes}\r\n\r\n");
        let mut slow = edge.client();
        slow.send(post(1_000_000).as_bytes());
        // A byte ten times a second is progress, but not for long.
        let ended = trickle(&slow, b"x", Duration::from_millis(100)).expect("ended");
        assert!(ended >= Duration::from_millis(900), "{ended:?}");
        let mut flowing = edge.client();
        flowing.send(post(60 * 500).as_bytes());
        for _ in 0..60 {
            flowing.send(&[b'x'; 500]);
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(flowing.response("POST").expect("an answer").body, b"30000");
        assert!(edge.metric("edge_timeouts_of_bodies_total") >= 1.0);
        assert!(edge.get_hit("/a").head.is_hit());
    });
}

#[test]
fn a_body_that_trickles_over_http2_ends_its_stream_alone() {
    let origin = Origin::start();
    origin.cacheable("/a", 10);
    origin.script("/up", |exchange| exchange.body().map(drop));
    let edge = start(&origin, "body_timeout = \"1s\"\nbody_rate_min = \"1KiB\"");
    edge.get_hit("/a");
    let client = edge.client();
    let mut stream = client.stream();
    let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(4, 0, 0, b"")[..]].concat();
    let post = frame(1, 4, 1, b"\x83\x86\x04\x03/up\x01\x09edge.test");
    stream.write_all(&[preface, post].concat()).expect("sent");
    stream.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
    let (begun, mut seen) = (Instant::now(), Vec::new());
    // 408 has no index: its digits by the code of RFC 7541 appendix B.
    let late = |seen: &[u8]| seen.windows(3).any(|bytes| bytes == [0x68, 0x0f, 0x7f]);
    while begun.elapsed() < PATIENCE && !late(&seen) {
        stream.write_all(&frame(0, 0, 1, b"x")).expect("the connection stays");
        let mut bytes = [0; 1024];
        seen.extend(stream.read(&mut bytes).map_or(&[][..], |read| &bytes[..read]));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(late(&seen), "{}", seen.escape_ascii());
    stream.write_all(&frame(1, 5, 3, b"\x82\x86\x04\x02/a\x01\x09edge.test")).expect("sent");
    seen.clear();
    eventually("another stream is answered", || {
        let mut bytes = [0; 1024];
        seen.extend(stream.read(&mut bytes).map_or(&[][..], |read| &bytes[..read]));
        seen.windows(9).any(|head| head == [0, 0, 10, 0, 1, 0, 0, 0, 3])
    });
}

#[test]
fn a_reader_that_trickles_is_ended() {
    const BYTES: u64 = 32 * MIB;
    let origin = Origin::start();
    origin.cacheable("/large", BYTES);
    origin.cacheable("/a", 10);
    let edge = start(&origin, "send_timeout = \"1s\"\nsend_rate_min = \"1MiB\"");
    edge.get("/large");
    edge.wait_stored(1.0);
    let mut slow = edge.client();
    slow.send(request("GET", "/large", &[]).as_bytes());
    let begun = Instant::now();
    let mut taken = 0;
    // A quarter of the least rate.
    let end = slow.response_to("GET", &mut |piece| {
        let due = Duration::from_millis((taken + piece.len() as u64) / 256);
        taken += piece.len() as u64;
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
    });
    assert!(end.is_err_and(|fault| fault == Fault::Broken), "{taken} bytes");
    assert!(taken < BYTES / 2, "{taken} bytes");
    assert!(edge.metric("edge_timeouts_of_readers_total") >= 1.0);
    assert!(edge.get_hit("/a").head.is_hit());
}

#[test]
fn a_node_that_stops_tells_who_is_still_served() {
    let origin = Origin::start();
    let gate = Gate::default();
    origin.script("/late", {
        let gate = gate.clone();
        move |exchange| {
            gate.wait();
            exchange.answer(&Answer::cacheable("/late", 100))
        }
    });
    let mut edge = start(&origin, "");
    let mut client = edge.client();
    client.send(request("GET", "/late", &[]).as_bytes());
    origin.await_count("/late", 1);
    edge.signal(nix::sys::signal::Signal::SIGTERM);
    eventually("nobody is taken in", || Client::try_connect(edge.http()).is_none());
    gate.open();
    let response = client.response("GET").expect("a whole response");
    assert_eq!((response.status(), response.body.len()), (200, 100));
    assert_eq!(response.field("connection"), Some("close"));
    assert!(edge.wait().success());
}
