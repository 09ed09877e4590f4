//! Trailers through the node, from HTTP/1.1 and HTTP/2 clients; and what is stored has none.

use crate::support::{Edge, Origin, Setup, request};
use std::io::Read;
use std::process::Command;

/// An origin that tells in its trailers which ones the request had.
fn start() -> (Origin, Edge) {
    let origin = Origin::start();
    origin.script("/sum", |exchange| {
        let body = exchange.body()?;
        let came = exchange.trailers.join("|");
        exchange.raw(
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-came\r\nCache-Control: max-age=3600\r\n\r\n\
                 {:x}\r\n{}\r\n0\r\nX-Came: {came}\r\nAge: 7\r\n\r\n",
                body.len(),
                String::from_utf8_lossy(&body),
            )
            .as_bytes(),
        )
    });
    let setup = Setup { listen_lines: "http2_cleartext = true".into(), ..Default::default() };
    let edge = Edge::start_with(origin.address(), setup);
    (origin, edge)
}

/// All that an HTTP/1.1 client gets; its last request says that it is the last.
fn talk(edge: &Edge, requests: &str) -> String {
    let mut client = edge.client();
    client.send(requests.as_bytes());
    let mut all = String::new();
    client.stream().read_to_string(&mut all).expect("text, and the end");
    all
}

#[test]
fn http1() {
    let (origin, edge) = start();
    let chunked = |fields: &[(&str, &str)]| {
        let fields = [&[("Transfer-Encoding", "chunked"), ("Trailer", "X-Sum")], fields].concat();
        format!("{}3\r\nabc\r\n0\r\nX-Sum: 5\r\nHost: b\r\n\r\n", request("POST", "/sum", &fields))
    };
    let all = talk(&edge, &chunked(&[("TE", "trailers"), ("Connection", "close, TE")]));
    assert!(all.ends_with("\r\n\r\n3\r\nabc\r\n0\r\nx-came: x-sum: 5\r\n\r\n"), "{all}");
    assert!(all.to_ascii_lowercase().contains("\r\ntrailer: x-came\r\n"), "{all}");
    // Who does not ask for them gets none.
    let all = talk(&edge, &chunked(&[("Connection", "close")]));
    assert!(all.ends_with("\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), "{all}");
    assert!(!all.to_ascii_lowercase().contains("\r\ntrailer:"), "{all}");
    // The next request on the connection is one.
    let all = talk(&edge, &format!("{}{}", chunked(&[]), chunked(&[("Connection", "close")])));
    assert_eq!(all.matches("HTTP/1.1 200 OK").count(), 2, "{all}");
    assert_eq!(origin.seen("/sum")[0].field("te"), Some("trailers"));
    assert_eq!(origin.seen("/sum")[1].field("te"), None);
}

#[test]
fn what_is_stored_has_none() {
    let (origin, edge) = start();
    let get = request("GET", "/sum", &[("TE", "trailers"), ("Connection", "close, TE")]);
    for _ in 0..2 {
        let all = talk(&edge, &get);
        assert!(!all.to_ascii_lowercase().contains("x-came"), "{all}");
    }
    assert!(edge.get_hit("/sum").body.is_empty());
    assert_eq!((origin.count("/sum"), origin.seen("/sum")[0].field("te")), (1, None));
}

#[test]
fn http2() {
    let (_origin, edge) = start();
    let body = std::env::temp_dir().join(format!("edge-trailers-{}", std::process::id()));
    std::fs::write(&body, "abc").expect("a file");
    let url = format!("http://{}/sum", edge.http());
    let run = |arguments: &[&str]| {
        let output = Command::new("nghttp")
            .args(["-v", "-t", "10", "-d", body.to_str().expect("UTF-8"), "--no-content-length"])
            .args(["--trailer", "x-sum: 5", "-H", "trailer: x-sum"])
            .args(arguments)
            .arg(&url)
            .output()
            .expect("nghttp");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let all = run(&["-H", "te: trailers"]);
    assert!(all.contains("x-came: x-sum: 5"), "{all}");
    assert!(!run(&[]).contains("x-came: "));
    std::fs::remove_file(&body).expect("removed");
}
