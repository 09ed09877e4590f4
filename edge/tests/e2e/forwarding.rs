//! What origins are told of clients and of the way of a request, and requests that go round.

use crate::support::{Answer, Edge, Origin, Seen, Setup, eventually, request};
use nix::sys::signal::Signal;
use std::process::Command;

fn start(origin: &Origin, listen_lines: &str, origin_lines: &str) -> Edge {
    let (listen_lines, origin_lines) = (listen_lines.into(), origin_lines.into());
    Edge::start_with(origin.address(), Setup { listen_lines, origin_lines, ..Default::default() })
}

const CLAIMS: &[(&str, &str)] = &[
    ("X-Forwarded-For", "10.0.0.1"),
    ("X-Forwarded-For", "10.0.0.2"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Host", "other.example"),
    ("Forwarded", "for=10.0.0.3"),
];

/// What the origin was told, the lines of a field one after the other; empty: nothing.
fn told(seen: &Seen) -> [String; 4] {
    let names = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded"];
    names.map(|name| seen.all(name).join(", "))
}

#[test]
fn origins_are_told_of_the_client_and_nobody_else_is_believed() {
    let origin = Origin::start();
    origin.on("/pass", Answer::new(200).field("Cache-Control", "no-store").body("x"));
    origin.cacheable("/fill", 10);
    let trusting = "trusted_proxies = [\"127.0.0.0/8\"]";
    let stranger = ["127.0.0.1", "http", "", ""];
    let rfc7239 = ["", "", "", "for=127.0.0.1;proto=http"];
    let all = ["10.0.0.1, 10.0.0.2", "https", "other.example", "for=10.0.0.3"];
    let appended = ["10.0.0.1, 10.0.0.2, 127.0.0.1", all[1], all[2], all[3]];
    let element = [all[0], all[1], all[2], "for=10.0.0.3, for=127.0.0.1;proto=http"];
    for (listen, lines, want) in [
        ("", "", stranger),
        ("trusted_proxies = [\"10.0.0.0/8\"]", "", stranger),
        ("", "forwarded = \"forwarded\"", rfc7239),
        ("", "forwarded = \"off\"", [""; 4]),
        (trusting, "", appended),
        (trusting, "forwarded = \"forwarded\"", element),
        (trusting, "forwarded = \"off\"", all),
    ] {
        let edge = start(&origin, listen, lines);
        for (method, path) in [("GET", "/pass"), ("POST", "/pass"), ("GET", "/fill")] {
            assert_eq!(edge.client().request(method, path, CLAIMS).status(), 200);
            let seen = origin.seen(path);
            assert_eq!(told(&seen[seen.len() - 1]), want, "{method} {path} {listen} {lines}");
        }
    }
}

#[test]
fn what_varies_on_it_is_not_stored() {
    let origin = Origin::start();
    for (path, vary) in [("/for", "X-Forwarded-For"), ("/list", "accept, forwarded")] {
        origin.on(path, Answer::cacheable(path, 10).field("Vary", vary));
        let edge = start(&origin, "", "");
        for _ in 0..3 {
            let response = edge.get(path);
            let status = response.field("cache-status").unwrap_or_default();
            assert!(status.contains("detail=vary-forwarded"), "{path}: {status}");
        }
        assert_eq!(origin.count(path), 3, "{path}");
        let why = edge.admin_get(&format!("/why?url=http%3A%2F%2Fedge.test{}", path.replace('/', "%2F")));
        assert!(String::from_utf8_lossy(&why.body).contains("X-Forwarded-For"), "{path}");
    }
}

#[test]
fn the_scheme_of_the_key_is_the_clients_as_a_trusted_proxy_tells_it() {
    let origin = Origin::start();
    origin.script("/proto", |exchange| {
        let proto = exchange.request.field("x-forwarded-proto").unwrap_or_default().to_owned();
        let vary = "Accept-Encoding, X-Forwarded-Proto";
        let answer = Answer::new(200).field("Cache-Control", "max-age=100").field("Vary", vary).body(proto);
        exchange.answer(&answer)
    });
    let edge = start(&origin, "", "");
    let get = |proto: &str| edge.client().request("GET", "/proto", &[("X-Forwarded-Proto", proto)]);
    // Nobody is trusted: what clients claim is in no key, and the origin does not hear of it.
    assert_eq!((get("https").body, origin.count("/proto")), (b"http".to_vec(), 1));
    let mut kept = edge.client();
    assert_eq!(kept.request("GET", "/proto", &[("X-Forwarded-Proto", "https")]).body, b"http");
    edge.write_config(&edge.config().replace("[listen]", "[listen]\ntrusted_proxies = [\"127.0.0.0/8\"]"));
    edge.signal(Signal::SIGHUP);
    eventually("the proxy is trusted", || get("https").body == b"https");
    let again = kept.request("GET", "/proto", &[("X-Forwarded-Proto", "https")]);
    assert_eq!(again.body, b"https", "on a connection that it had before");
    assert_eq!(get("http").body, b"http", "what was stored for http before");
    let asked = origin.count("/proto");
    for proto in ["https", "http", "https", "HTTPS", "http, https"] {
        let response = get(proto);
        assert_eq!(
            response.body,
            proto.rsplit(' ').next().unwrap_or_default().to_ascii_lowercase().as_bytes()
        );
    }
    assert!(origin.count("/proto") <= asked + 2, "{}", origin.count("/proto"));
    assert_eq!(edge.purge(r#"{"url": "https://edge.test/proto"}"#).status(), 200);
    let hits = |proto| get(proto).field("cache-status").is_some_and(|status| status.contains("hit"));
    assert!(hits("http") && !hits("https"), "the purge named one of them");
}

#[test]
fn via_tells_the_version_and_the_node() {
    let origin = Origin::start();
    origin
        .on("/via", Answer::new(200).field("Cache-Control", "no-store").field("Via", "1.0 behind").body("x"));
    let edge = start(&origin, "http2_cleartext = true", "");
    let response = edge.client().request("GET", "/via", &[("Via", "1.1 before")]);
    let all: Vec<_> = response.head.fields.iter().filter(|(name, _)| name == "via").collect();
    assert_eq!(all.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>(), ["1.0 behind", "1.1 edge"]);
    let mut old = edge.client();
    old.send(b"GET /via HTTP/1.0\r\nHost: edge.test\r\n\r\n");
    assert_eq!(old.response("GET").expect("a response").status(), 200);
    let url = format!("http://{}/via", edge.http());
    let curl = Command::new("curl").args(["-sS", "--http2-prior-knowledge", &url]).output().expect("curl");
    assert_eq!(curl.stdout, b"x", "{}", String::from_utf8_lossy(&curl.stderr));
    let via: Vec<Vec<String>> = origin.seen("/via").iter().map(|seen| seen.all("via")).collect();
    let node = via[0][1].strip_prefix("1.1 ").expect("over HTTP/1.1").to_owned();
    assert!(node.starts_with("edge-") && node.len() == 21, "{node}");
    assert_eq!(via[0][0], "1.1 before");
    assert_eq!(via[1..], [[format!("1.0 {node}")], [format!("2 {node}")]]);
}

/// An origin that leads back to the node, under the same key: the request would wait for itself.
#[test]
fn a_request_that_goes_round_ends() {
    let origin = Origin::start();
    let edge = start(&origin, "", "");
    let (own, back) = (origin.address().to_string(), format!("localhost:{}", edge.http().port()));
    edge.write_config(&edge.config().replace(&own, &back));
    edge.signal(Signal::SIGHUP);
    let mut client = edge.client();
    // Until the reload the origin answers 404.
    eventually("the node asks itself", || client.get("/").status() == 508);
    for method in ["GET", "POST", "DELETE"] {
        client.send(request(method, "/round", &[("Content-Length", "0")]).as_bytes());
        let response = client.response(method).expect("an answer");
        assert_eq!(response.status(), 508, "{method}");
    }
    assert!(edge.metric("edge_request_loops_total") >= 4.0);
}
