//! Sessions whose connections go over to WebSocket: when they do, when they must not, and how a tunnel ends.

mod proto_client;

use edge::proto::freshness::Storing;
use edge::proto::session::{Input, Late};
use proto_client::Client;

const ASKED: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: h2c, WebSocket\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const ACCEPT: &str =
    "Connection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Accept: x\nKeep-Alive: 5\nDate: now";

/// A client whose connection has gone over; its 101 is read.
fn tunnel() -> Client {
    let mut client = Client::new(vec![]);
    client.send(ASKED).switches(ACCEPT).drained();
    let wire = client.wire();
    assert!(wire.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{wire}");
    assert!(wire.ends_with("Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"), "{wire}");
    assert!(wire.contains("sec-websocket-accept: x\r\n") && !wire.contains("keep-alive"), "{wire}");
    assert!(!wire.contains("close") && !wire.contains("ransfer-") && !wire.contains("ength"), "{wire}");
    assert_eq!(client.log(), "Upgrade");
    client
}

#[test]
fn bytes_flow_both_ways_unchanged() {
    let mut client = tunnel();
    client.send("GET / HTTP/1.1\r\n\r\n").piece("\0HTTP/1.1 500\r\n").send("\r\n0\r\n\r\n").piece("x");
    assert_eq!(client.forwarded, b"GET / HTTP/1.1\r\n\r\n\r\n0\r\n\r\n");
    assert_eq!(client.wire(), "\0HTTP/1.1 500\r\nx");
    assert_eq!(client.log(), "");
    client.give(Input::End);
    assert_eq!(client.log(), "Done Close");
    client.send("more");
    assert!(client.forwarded.ends_with(b"0\r\n\r\n"), "nobody is there for it");
}

#[test]
fn only_who_asks_in_order_is_asked_about() {
    for (from, to, log) in [
        ("GET", "POST", "Pass"),
        ("HTTP/1.1", "HTTP/1.0", "Fill"),
        ("keep-alive, Upgrade", "keep-alive", "Fill"),
        ("WebSocket", "tls/1.0", "Fill"),
        ("Upgrade: h2c, WebSocket\r\n", "", "Fill"),
        ("Upgrade: h2c, WebSocket\r\n", "Upgrade: h2c\r\nUpgrade: websocket\r\n", "Upgrade"),
        ("Sec-", "Content-Length: 3\r\nSec-", "Pass"),
    ] {
        let mut client = Client::new(vec![]);
        client.send(ASKED.replacen(from, to, 1));
        assert_eq!(client.log(), log, "{from} → {to}");
    }
}

#[test]
fn another_answer_is_an_ordinary_response() {
    let mut client = Client::new(vec![]);
    client.send(ASKED).origin(426, "Content-Length: 2\nUpgrade: websocket", Storing::No("pass"));
    client.piece("no").give(Input::End).drained();
    let wire = client.wire();
    assert!(wire.starts_with("HTTP/1.1 426 ") && wire.ends_with("\r\n\r\nno"), "{wire}");
    assert!(!wire.to_ascii_lowercase().contains("\nupgrade"), "{wire}");
    assert_eq!(client.log(), "Upgrade Done");
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.log(), "Fill", "the connection carries another request");
}

/// What follows the head could be meant as another request, or as bytes of a tunnel.
#[test]
fn bytes_before_the_answer_are_refused() {
    let more = "GET /other HTTP/1.1\r\nHost: a\r\n\r\n";
    for (first, then) in [(format!("{ASKED}{more}"), ""), (format!("{ASKED}x"), ""), (ASKED.into(), more)] {
        let mut client = Client::new(vec![]);
        client.send(first).send(then);
        assert!(client.wire().starts_with("HTTP/1.1 400 "));
        assert_eq!(client.log(), "Upgrade Close");
        assert_eq!(client.forwarded, b"");
        client.switches(ACCEPT).piece("HTTP/1.1 200 OK\r\n\r\n");
        assert_eq!(
            (client.wire(), client.log()),
            (String::new(), String::new()),
            "the answer comes too late"
        );
    }
}

#[test]
fn who_has_sent_his_last_still_gets_all() {
    let mut client = tunnel();
    client.send("bye").give(Input::PeerClosed);
    assert_eq!((client.log(), &client.forwarded[..]), ("ForwardEnd".into(), &b"bye"[..]));
    client.piece("and good-bye").give(Input::End);
    assert_eq!((client.wire(), client.log()), ("and good-bye".into(), "Done Close".into()));
    // He may have done so before the answer.
    let mut client = Client::new(vec![]);
    client.send(ASKED).give(Input::PeerClosed).switches(ACCEPT).piece("x").give(Input::End);
    assert_eq!(client.log(), "Upgrade ForwardEnd Done Close");
    assert!(client.wire().ends_with("\r\n\r\nx"));
    // An origin that breaks off.
    let mut client = tunnel();
    client.piece("x").give(Input::Broken);
    assert_eq!(client.log(), "Abort");
}

#[test]
fn a_tunnel_ends_when_nothing_goes_through_it() {
    let limit = edge::limits::TUNNEL_TIMEOUT_MS;
    let mut client = tunnel();
    assert_eq!((client.due_ms(), client.session.late()), (limit, Late::Tunnel));
    // Either way counts, a byte as much as many, and what control has no room for is no reason to wait for ever.
    client.pass_ms(limit - 1).send("x");
    assert_eq!(client.due_ms(), limit);
    client.session.hold();
    assert_eq!(client.due_ms(), limit);
    client.pass_ms(limit - 1).piece("y");
    assert_eq!((client.due_ms(), client.session.late()), (edge::limits::SEND_TIMEOUT_MS, Late::Reader));
    client.pass_ms(1000).send("z");
    assert_eq!(client.due_ms(), edge::limits::SEND_TIMEOUT_MS - 1000, "he sends, and does not read");
    client.drained();
    assert_eq!(client.due_ms(), limit);
    client.give(Input::PeerClosed);
    assert_eq!((client.due_ms(), client.log()), (limit, "ForwardEnd".into()));
    client.pass_ms(limit).give(Input::Deadline);
    assert_eq!(client.log(), "Close");
}
