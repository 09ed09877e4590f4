//! Malformed requests and attempts at request smuggling over real sockets. Each is followed by a request
//! that must never be answered: after a refusal nothing on the connection is believed any more.

use crate::support::{Answer, Client, Edge, Fault, Origin, PATIENCE, Setup, content, request};
use std::time::{Duration, Instant};

/// What is allowed to come back.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Expect {
    /// One response with this status; then the connection is closed.
    Refused(u16),
    /// Closed, with or without a 400 or 408, because the head never ended and the peer has closed.
    Gone,
}
use Expect::{Gone, Refused};

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: edge.test\r\n\r\n";

struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    expect: Expect,
}

fn case(name: &'static str, bytes: impl AsRef<[u8]>, expect: Expect) -> Case {
    Case { name, bytes: bytes.as_ref().to_vec(), expect }
}

/// A POST with these field lines and this body.
fn post(name: &'static str, lines: &str, body: &str, expect: Expect) -> Case {
    case(name, format!("POST /target HTTP/1.1\r\nHost: edge.test\r\n{lines}\r\n{body}"), expect)
}

/// A GET with these field lines.
fn get(name: &'static str, lines: &str, expect: Expect) -> Case {
    case(name, format!("GET /target HTTP/1.1\r\nHost: edge.test\r\n{lines}\r\n"), expect)
}

/// Two framings at once, or one that is not certain (RFC 9112 section 6).
fn framing() -> Vec<Case> {
    let te = "Transfer-Encoding: chunked\r\n";
    vec![
        post("CL and TE", &format!("Content-Length: 4\r\n{te}"), "0\r\n\r\n", Refused(400)),
        post("TE and CL", &format!("{te}Content-Length: 5\r\n"), "0\r\n\r\n", Refused(400)),
        post("CL 0 and TE", &format!("Content-Length: 0\r\n{te}"), "0\r\n\r\n", Refused(400)),
        get("CL and TE on GET", &format!("Content-Length: 4\r\n{te}"), Refused(400)),
        post("equal CLs", "Content-Length: 4\r\nContent-Length: 4\r\n", "abcd", Refused(400)),
        post("unequal CLs", "Content-Length: 4\r\nContent-Length: 5\r\n", "abcde", Refused(400)),
        post("unequal CLs in a list", "Content-Length: 4, 5\r\n", "abcde", Refused(400)),
        post("CL with sign +", "Content-Length: +4\r\n", "abcd", Refused(400)),
        post("CL with sign -", "Content-Length: -4\r\n", "abcd", Refused(400)),
        post("CL in hex", "Content-Length: 0x4\r\n", "abcd", Refused(400)),
        post("CL with a fraction", "Content-Length: 4.0\r\n", "abcd", Refused(400)),
        post("CL empty", "Content-Length:\r\n", "", Refused(400)),
        post("CL of letters", "Content-Length: four\r\n", "abcd", Refused(400)),
        post("CL with inner space", "Content-Length: 1 0\r\n", "abcd", Refused(400)),
        post("CL ending in a comma", "Content-Length: 4,\r\n", "abcd", Refused(400)),
        post("CL of 2^64", "Content-Length: 18446744073709551616\r\n", "abcd", Refused(400)),
        post("CL of 2^64 + 4", "Content-Length: 18446744073709551620\r\n", "abcd", Refused(400)),
        post(
            "CL of 40 digits",
            "Content-Length: 9999999999999999999999999999999999999999\r\n",
            "",
            Refused(400),
        ),
        post("CL with NUL", "Content-Length: 4\0\r\n", "abcd", Refused(400)),
        post("TE unknown", "Transfer-Encoding: bogus\r\n", "0\r\n\r\n", Refused(501)),
        post("TE gzip first", "Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n", Refused(501)),
        post("TE chunked not last", "Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n", Refused(501)),
        post("TE chunked twice", "Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n", Refused(400)),
        post("TE twice", &format!("{te}{te}"), "0\r\n\r\n", Refused(400)),
        post(
            "TE chunked then identity",
            &format!("{te}Transfer-Encoding: identity\r\n"),
            "0\r\n\r\n",
            Refused(501),
        ),
        post("TE identity", "Transfer-Encoding: identity\r\n", "0\r\n\r\n", Refused(501)),
        post("TE xchunked", "Transfer-Encoding: xchunked\r\n", "0\r\n\r\n", Refused(501)),
        post("TE quoted", "Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n", Refused(400)),
        post("TE with vertical tab", "Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n", Refused(400)),
        post("TE empty", "Transfer-Encoding:\r\n", "0\r\n\r\n", Refused(400)),
        post("TE folded", "Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n", Refused(400)),
        post("TE with space before colon", "Transfer-Encoding : chunked\r\n", "0\r\n\r\n", Refused(400)),
        post("TE after a space", "X: y\r\n Transfer-Encoding: chunked\r\n", "0\r\n\r\n", Refused(400)),
        post("TE after a bare LF", "X: y\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n", Refused(400)),
        post("TE after a bare CR", "X: y\rTransfer-Encoding: chunked\r\n", "0\r\n\r\n", Refused(400)),
        case(
            "TE in HTTP/1.0",
            format!("POST /target HTTP/1.0\r\nHost: edge.test\r\n{te}\r\n0\r\n\r\n"),
            Refused(400),
        ),
    ]
}

/// Field lines no sender may produce (RFC 9112 section 5).
fn fields() -> Vec<Case> {
    let many: String = (0..101).map(|i| format!("X-{i}: y\r\n")).collect();
    vec![
        get("space before colon", "X : y\r\n", Refused(400)),
        get("tab before colon", "X\t: y\r\n", Refused(400)),
        get("obs-fold", "X: y\r\n z\r\n", Refused(400)),
        get("obs-fold with tab", "X: y\r\n\tz\r\n", Refused(400)),
        get("first field folded", " X: y\r\n", Refused(400)),
        get("no colon", "X\r\n", Refused(400)),
        get("no name", ": y\r\n", Refused(400)),
        get("name with space", "X Y: z\r\n", Refused(400)),
        get("name in brackets", "X(Y): z\r\n", Refused(400)),
        get("name beyond ASCII", "X\u{e9}: z\r\n", Refused(400)),
        get("NUL in name", "X\0Y: z\r\n", Refused(400)),
        get("NUL in value", "X: y\0z\r\n", Refused(400)),
        get("control character in value", "X: y\x01z\r\n", Refused(400)),
        get("DEL in value", "X: y\x7fz\r\n", Refused(400)),
        get("bare CR in value", "X: y\rz\r\n", Refused(400)),
        get("bare LF ends a field", "X: y\nZ: a\r\n", Refused(400)),
        get("head ends in bare LFs", "X: y\n\n", Refused(400)),
        get("one field too many", &many, Refused(431)),
        get("one field too long", &format!("X: {}\r\n", "y".repeat(17_000)), Refused(431)),
        get("fields too long together", &format!("X: {}\r\n", "y".repeat(400)).repeat(50), Refused(431)),
        case(
            "a megabyte of head",
            [b"GET / HTTP/1.1\r\nX: ".as_slice(), &[b'y'; 1 << 20]].concat(),
            Refused(431),
        ),
        get("Expect unknown", "Expect: something\r\n", Refused(417)),
    ]
}

/// Request lines and targets (RFC 9112 section 3).
fn lines() -> Vec<Case> {
    let line =
        |name, line: &str, status| case(name, format!("{line}\r\nHost: edge.test\r\n\r\n"), Refused(status));
    let long = format!("GET /{} HTTP/1.1", "a".repeat(9000));
    vec![
        case("HTTP/0.9", "GET /target\r\n\r\n", Refused(400)),
        case("HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Refused(505)),
        case("TLS hello", b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n", Refused(400)),
        line("version 2.0", "GET /target HTTP/2.0", 505),
        line("version 1.2", "GET /target HTTP/1.2", 400),
        line("version 0.9", "GET /target HTTP/0.9", 505),
        line("version 1", "GET /target HTTP/1", 400),
        line("version 1.10", "GET /target HTTP/1.10", 400),
        line("version of letters", "GET /target HTTP/x.y", 400),
        line("lower case http", "GET /target http/1.1", 400),
        line("two spaces before the target", "GET  /target HTTP/1.1", 400),
        line("two spaces before the version", "GET /target  HTTP/1.1", 400),
        line("space in the target", "GET /tar get HTTP/1.1", 400),
        line("tab as separator", "GET\t/target\tHTTP/1.1", 400),
        line("space after the version", "GET /target HTTP/1.1 ", 400),
        line("space before the method", " GET /target HTTP/1.1", 400),
        line("no target", "GET HTTP/1.1", 400),
        line("method with slash", "G/T /target HTTP/1.1", 400),
        line("NUL in the method", "G\0T /target HTTP/1.1", 400),
        line("NUL in the target", "GET /tar\0get HTTP/1.1", 400),
        line("control character in the target", "GET /tar\x07get HTTP/1.1", 400),
        line("DEL in the target", "GET /tar\x7fget HTTP/1.1", 400),
        line("bare CR in the line", "GET /target\r HTTP/1.1", 400),
        line("target without slash", "GET target HTTP/1.1", 400),
        line("fragment in the target", "GET /target#part HTTP/1.1", 400),
        line("asterisk with GET", "GET * HTTP/1.1", 400),
        line("target too long", &long, 414),
        line("tunnel", "CONNECT edge.test:443 HTTP/1.1", 501),
        line("method too long", &format!("{} /target HTTP/1.1", "M".repeat(40)), 501),
        case("bare LF after the line", "GET /target HTTP/1.1\nHost: edge.test\r\n\r\n", Refused(400)),
        case("only bare LFs", "GET /target HTTP/1.1\nHost: edge.test\n\n", Refused(400)),
    ]
}

/// Who is asked (RFC 9112 section 3.2).
fn hosts() -> Vec<Case> {
    let host = |name, lines: &str| case(name, format!("GET /target HTTP/1.1\r\n{lines}\r\n"), Refused(400));
    vec![
        host("no Host", ""),
        host("two Hosts", "Host: edge.test\r\nHost: other.test\r\n"),
        host("the same Host twice", "Host: edge.test\r\nHost: edge.test\r\n"),
        host("empty Host", "Host:\r\n"),
        host("Host with space", "Host: edge.test other.test\r\n"),
        host("Host as list", "Host: edge.test, other.test\r\n"),
        host("Host with path", "Host: edge.test/other\r\n"),
        host("Host with user", "Host: user@edge.test\r\n"),
        host("Host with a port too large", "Host: edge.test:65536\r\n"),
        host("Host with a port of letters", "Host: edge.test:http\r\n"),
        host("Host with a broken IPv6 address", "Host: [::1\r\n"),
        host("Host with NUL", "Host: edge\0.test\r\n"),
        case(
            "absolute form with another Host",
            "GET http://other.test/target HTTP/1.1\r\nHost: edge.test\r\n\r\n",
            Refused(400),
        ),
        case("absolute form without Host", "GET http://edge.test/target HTTP/1.1\r\n\r\n", Refused(400)),
        case(
            "absolute form of another scheme",
            "GET ftp://edge.test/ HTTP/1.1\r\nHost: edge.test\r\n\r\n",
            Refused(400),
        ),
        case(
            "absolute form with user",
            "GET http://u@edge.test/ HTTP/1.1\r\nHost: edge.test\r\n\r\n",
            Refused(400),
        ),
    ]
}

/// Heads that end before their end; the peer then closes.
fn truncated() -> Vec<Case> {
    ["G", "GET", "GET /target", "GET /target HTTP/1.1", "GET /target HTTP/1.1\r", "GET /target HTTP/1.1\r\n"]
        .into_iter()
        .chain([
            "GET /target HTTP/1.1\r\nHost: edge.test",
            "GET /target HTTP/1.1\r\nHost: edge.test\r\n",
            "GET /target HTTP/1.1\r\nHost: edge.test\r\n\r",
        ])
        .map(|bytes| case("truncated", bytes, Gone))
        .collect()
}

fn check(edge: &Edge, case: &Case) {
    let mut client = edge.client();
    client.send(&case.bytes);
    let fail = |what: String| panic!("{}: {what}", case.name);
    match case.expect {
        Refused(status) => {
            client.send(SMUGGLED.as_bytes());
            let response = match client.response("GET") {
                Ok(response) => response,
                Err(fault) => return fail(format!("no answer but {fault:?}")),
            };
            if response.status() != status {
                fail(format!("answered {} instead of {status}", response.status()));
            }
            if response.field("connection") != Some("close") {
                fail("does not say that the connection closes".into());
            }
        }
        Gone => client.send_no_more(),
    }
    let (end, rest) = client.rest();
    if end == Err(Fault::Silent) {
        fail("the connection stays open".into());
    }
    let one_answer = rest.windows(8).filter(|w| w == b"HTTP/1.1").count() == 1
        && (rest.starts_with(b"HTTP/1.1 400 ") || rest.starts_with(b"HTTP/1.1 408 "));
    let allowed = rest.is_empty() || case.expect == Gone && one_answer;
    if !allowed {
        fail(format!("more came: {:?}", String::from_utf8_lossy(&rest)));
    }
}

#[test]
fn malformed_and_smuggling_requests() {
    let origin = Origin::start();
    for path in ["/target", "/smuggled"] {
        origin.cacheable(path, 100);
    }
    let edge = Edge::start(origin.address());
    edge.get("/target");
    edge.get_hit("/target");
    let cases: Vec<_> = [framing(), fields(), lines(), hosts(), truncated()].into_iter().flatten().collect();
    assert!(cases.len() >= 100);
    let mut failures = Vec::new();
    for case in &cases {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&edge, case)));
        if let Err(panic) = result {
            failures.push(panic.downcast_ref::<String>().cloned().unwrap_or_else(|| case.name.into()));
        }
        assert!(edge.get("/target").head.is_hit(), "after {}: edge serves on", case.name);
    }
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), cases.len(), failures.join("\n"));
    assert_eq!(origin.count("/smuggled"), 0, "a smuggled request reached the origin");
    assert_eq!(origin.count_all(), 1, "refused requests reached the origin");
    assert!(edge.metric("edge_requests_refused_total") >= 100.0);
}

/// Bad chunks: the head was good, so the request may have begun; it never ends well, and what follows is
/// not a request.
#[test]
fn malformed_chunked_bodies() {
    let origin = Origin::start();
    origin.script("/target", |exchange| {
        let body = exchange.body()?;
        exchange.answer(&Answer::new(200).body(body))
    });
    origin.cacheable("/smuggled", 100);
    let edge = Edge::start(origin.address());
    let bodies = [
        ("letters for a size", "xyz\r\nabc\r\n0\r\n\r\n"),
        ("signed size", "+3\r\nabc\r\n0\r\n\r\n"),
        ("negative size", "-3\r\nabc\r\n0\r\n\r\n"),
        ("size with 0x", "0x3\r\nabc\r\n0\r\n\r\n"),
        ("size of 2^64", "10000000000000000\r\nabc\r\n0\r\n\r\n"),
        ("size of 2^64 + 3", "10000000000000003\r\nabc\r\n0\r\n\r\n"),
        ("empty size", "\r\nabc\r\n0\r\n\r\n"),
        ("space before the size", " 3\r\nabc\r\n0\r\n\r\n"),
        ("space after the size", "3 \r\nabc\r\n0\r\n\r\n"),
        ("size ended by a bare LF", "3\nabc\r\n0\r\n\r\n"),
        ("size ended by a bare CR", "3\rabc\r\n0\r\n\r\n"),
        ("bare LF in an extension", "3;a=b\nc\r\nabc\r\n0\r\n\r\n"),
        ("data ended by a bare LF", "3\r\nabc\n0\r\n\r\n"),
        ("data longer than its size", "3\r\nabcd\r\n0\r\n\r\n"),
        ("data shorter than its size", "5\r\nabc\r\n0\r\n\r\n"),
        ("no end of the data", "3\r\nabc0\r\n\r\n"),
        ("end by bare LFs", "3\r\nabc\r\n0\n\n"),
        ("NUL in the size", "3\0\r\nabc\r\n0\r\n\r\n"),
        ("trailer with a space before the colon", "0\r\nX : y\r\n\r\n"),
        ("trailer folded", "0\r\nX: y\r\n z\r\n\r\n"),
        ("trailer without colon", "0\r\nX\r\n\r\n"),
    ];
    for (name, body) in bodies {
        let mut client = edge.client();
        let head = request("POST", "/target", &[("Transfer-Encoding", "chunked")]);
        client.send(format!("{head}{body}{SMUGGLED}").as_bytes());
        client.send_no_more();
        let (end, rest) = client.rest();
        let text = String::from_utf8_lossy(&rest);
        assert_ne!(end, Err(Fault::Silent), "{name}: the connection stays open");
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 400 "), "{name}: {text:?}");
        assert_eq!(text.matches("HTTP/1.1 ").count(), text.len().min(1), "{name}: {text:?}");
        assert_eq!(edge.get("/smuggled").status(), 200, "after {name}: edge serves on");
    }
    assert_eq!(origin.count("/smuggled"), 1, "only ours");
}

/// What looks odd and is allowed.
#[test]
fn odd_but_good_requests() {
    let origin = Origin::start();
    origin.cacheable("/target", 100);
    let edge = Edge::start(origin.address());
    edge.get("/target");
    edge.get_hit("/target");
    let wanted = content::part(content::seed("/target"), 0, 100);
    let fields: String = (0..99).map(|i| format!("X-{i}: y\r\n")).collect();
    for (name, bytes) in [
        ("empty lines before", "\r\n\r\nGET /target HTTP/1.1\r\nHost: edge.test\r\n\r\n".to_string()),
        ("absolute form", "GET http://edge.test/target HTTP/1.1\r\nHost: edge.test\r\n\r\n".into()),
        (
            "absolute form, other case",
            "GET HTTP://EDGE.test/target HTTP/1.1\r\nHost: edge.TEST\r\n\r\n".into(),
        ),
        ("port 80 spelt out", "GET /target HTTP/1.1\r\nHost: edge.test:80\r\n\r\n".into()),
        ("no space after the colon", "GET /target HTTP/1.1\r\nHost:edge.test\r\n\r\n".into()),
        ("spaces around a value", "GET /target HTTP/1.1\r\nHost: \t edge.test \t\r\n\r\n".into()),
        ("an empty value", "GET /target HTTP/1.1\r\nHost: edge.test\r\nX:\r\n\r\n".into()),
        (
            "bytes beyond ASCII in a value",
            "GET /target HTTP/1.1\r\nHost: edge.test\r\nX: \u{e9}\r\n\r\n".into(),
        ),
        ("as many fields as allowed", format!("GET /target HTTP/1.1\r\nHost: edge.test\r\n{fields}\r\n")),
        ("a long field", request("GET", "/target", &[("X", &"y".repeat(15_000))])),
    ] {
        let mut client = edge.client();
        client.send(bytes.as_bytes());
        let response = client.response("GET").unwrap_or_else(|fault| panic!("{name}: {fault:?}"));
        assert_eq!((response.status(), &response.body), (200, &wanted), "{name}");
        assert!(response.head.is_hit(), "{name}: another key");
        assert_eq!(client.get("/target").body, wanted, "{name}: the connection stays");
    }
    assert_eq!(origin.count_all(), 1);
}

/// A head that comes byte by byte is given up when its time is over, measured from its first byte.
#[test]
fn slow_heads() {
    let origin = Origin::start();
    let setup = Setup { limit_lines: "head_timeout = \"1s\"".into(), ..Default::default() };
    let edge = Edge::start_with(origin.address(), setup);
    let begun = Instant::now();
    let mut client = edge.client();
    let sender = client.stream().try_clone().expect("a second handle");
    let sending = std::thread::spawn(move || {
        use std::io::Write;
        let endless = request("GET", "/slow", &[("X", &"y".repeat(500))]).into_bytes();
        for byte in endless {
            std::thread::sleep(Duration::from_millis(100));
            if (&sender).write_all(&[byte]).is_err() {
                return true;
            }
        }
        false
    });
    let (end, rest) = client.rest();
    assert_ne!(end, Err(Fault::Silent), "the connection stays open");
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_millis(900) && took < Duration::from_millis(edge::limits::HEAD_TIMEOUT_MS),
        "closed after {took:?}"
    );
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408 "), "{:?}", String::from_utf8_lossy(&rest));
    assert!(sending.join().expect("a sender"), "the connection was closed");
    assert_eq!(origin.count_all(), 0);
    assert!(edge.metric("edge_timeouts_total") >= 1.0);
}

/// Idle connections are closed without a word.
#[test]
fn idle_connections() {
    let origin = Origin::start();
    origin.cacheable("/a", 10);
    let setup = Setup { limit_lines: "idle_timeout = \"1s\"".into(), ..Default::default() };
    let edge = Edge::start_with(origin.address(), setup);
    let mut used = edge.client();
    let mut unused = edge.client();
    assert_eq!(used.get("/a").status(), 200);
    assert_eq!(used.rest(), (Ok(()), Vec::new()));
    if unused.stream().set_read_timeout(Some(PATIENCE)).is_ok() {
        assert_eq!(
            unused.rest(),
            (Ok(()), Vec::new()),
            "closed at the latest when its time for a head is over"
        );
    }
}

/// Bytes without order, from a seed: nothing but closing or a refusal may come of them.
#[test]
fn noise() {
    let origin = Origin::start();
    origin.cacheable("/a", 10);
    let edge = Edge::start(origin.address());
    let whole = request("GET", "/a", &[("X-Field", "value"), ("Connection", "close")]).into_bytes();
    for round in 0..200u64 {
        let mut bytes = whole.clone();
        let mut noise = [0; 8];
        content::fill(round, 0, &mut noise);
        let at = noise[0] as usize % bytes.len();
        bytes[at] = noise[1];
        if noise[2].is_multiple_of(4) {
            bytes.truncate(noise[3] as usize % bytes.len());
        }
        let mut client: Client = edge.client();
        client.send(&bytes);
        client.send_no_more();
        let (end, _) = client.rest();
        assert_ne!(end, Err(Fault::Silent), "round {round}: {:?}", String::from_utf8_lossy(&bytes));
    }
    assert_eq!(edge.get("/a").status(), 200);
}
