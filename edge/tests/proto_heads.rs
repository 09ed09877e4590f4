//! Request heads, good and bad, each with its documented answer: whole, byte by byte, and split at every
//! position the outcome is the same.

use edge::limits;
use edge::proto::request::{BodyLength, Method, RequestHead};
use proptest::prelude::*;

/// What becomes of some input: how many bytes are the head, or the status it is refused with; `Ok(None)`
/// while it is incomplete.
type Outcome = Result<Option<usize>, u16>;

fn parse(input: &[u8]) -> Outcome {
    RequestHead::default().parse(input).map_err(|refusal| refusal.status)
}

/// Offers ever longer prefixes, as a session does, until there is a verdict.
fn parse_growing(input: &[u8], ends: impl Iterator<Item = usize>) -> Outcome {
    let mut head = RequestHead::default();
    for end in ends.chain([input.len()]) {
        match head.parse(&input[..end]) {
            Ok(None) => {}
            verdict => return verdict.map_err(|refusal| refusal.status),
        }
    }
    Ok(None)
}

fn check(input: &[u8], want: Outcome) {
    let name = input[..input.len().min(200)].escape_ascii();
    assert_eq!(parse(input), want, "{name}");
    if input.len() > 2000 {
        assert_eq!(parse_growing(input, (0..input.len()).step_by(101)), want, "in pieces: {name}");
        return;
    }
    assert_eq!(parse_growing(input, 0..input.len()), want, "by bytes: {name}");
    for cut in 0..input.len() {
        assert_eq!(parse_growing(input, [cut].into_iter()), want, "cut at {cut}: {name}");
    }
    // What follows a head is not looked at.
    if want != Ok(None) {
        let followed = [input, b"\x00\r\r\n\xff"].concat();
        assert_eq!(parse(&followed), want, "followed: {name}");
    }
}

#[test]
fn refused_heads() {
    let host = "Host: a\r\n";
    let in_head = |line: &str| format!("GET / HTTP/1.1\r\n{host}{line}\r\n\r\n");
    let post = |lines: &str| format!("POST / HTTP/1.1\r\n{host}{lines}\r\n\r\n");
    let line = |line: &str| format!("{line}\r\n{host}\r\n");
    let table: Vec<(String, u16)> = vec![
        // Request line.
        (line("GET /"), 400),
        (line("GET"), 400),
        // The empty line is tolerated, what follows it is no request line.
        (line(""), 400),
        (line("GET / "), 400),
        (line("GET  / HTTP/1.1"), 400),
        (line("GET /  HTTP/1.1"), 400),
        (line("GET / HTTP/1.1 "), 400),
        (line("GET\t/\tHTTP/1.1"), 400),
        (line(" GET / HTTP/1.1"), 400),
        (line("G(T / HTTP/1.1"), 400),
        (line("G\x00T / HTTP/1.1"), 400),
        (line("GET / a HTTP/1.1"), 400),
        (line("GET /a\rb HTTP/1.1"), 400),
        (line("GET /a\x00b HTTP/1.1"), 400),
        (line("GET /a\x7fb HTTP/1.1"), 400),
        (line("GET /a\tb HTTP/1.1"), 400),
        (line("GET /\u{e9} HTTP/1.1"), 400),
        (line("GET /a#b HTTP/1.1"), 400),
        (line("GET /a<b HTTP/1.1"), 400),
        (line("GET a HTTP/1.1"), 400),
        (line("GET ?a HTTP/1.1"), 400),
        (line("GET * HTTP/1.1"), 400),
        (line("POST * HTTP/1.1"), 400),
        (line("GET a:80 HTTP/1.1"), 400),
        (line("CONNECT a:80 HTTP/1.1"), 501),
        (line("CONNECT / HTTP/1.1"), 501),
        (line(&format!("{} / HTTP/1.1", "M".repeat(33))), 501),
        (line("GET / http/1.1"), 400),
        (line("GET / HTTP/1.2"), 400),
        (line("GET / HTTP/1.10"), 400),
        (line("GET / HTTP/1"), 400),
        (line("GET / HTTP/01.1"), 400),
        (line("GET / HTTP/1,1"), 400),
        (line("GET / HTTP/a.b"), 400),
        (line("GET / HTTP/2.0"), 505),
        (line("GET / HTTP/0.9"), 505),
        (line("GET / HTTP/3.0"), 505),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), 505),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\x7c".into(), 400),
        ("GET / HTTP/1.1\nHost: a\n\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: a\n\n".into(), 400),
        ("GET / HTTP/1.1\r\r\nHost: a\r\n\r\n".into(), 400),
        ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
        ("\rGET / HTTP/1.1\r\nHost: a\r\n\r\n".into(), 400),
        (format!("{}{}", "\r\n".repeat(5), line("GET / HTTP/1.1")), 400),
        (line(&format!("GET /{} HTTP/1.1", "a".repeat(limits::REQUEST_TARGET_BYTES_MAX))), 414),
        (format!("GET /{}", "a".repeat(2 * limits::REQUEST_TARGET_BYTES_MAX)), 414),
        // Field lines.
        ("GET / HTTP/1.1\r\n Host: a\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\n\tHost: a\r\n\r\n".into(), 400),
        (in_head("A : b"), 400),
        (in_head("A\t: b"), 400),
        (in_head("A: b\r\n c"), 400),
        (in_head("A: b\r\n\tc"), 400),
        (in_head("A: b\r\n "), 400),
        (in_head(": b"), 400),
        (in_head("A"), 400),
        (in_head("A b: c"), 400),
        (in_head("A(: c"), 400),
        (in_head("A\u{e9}: c"), 400),
        (in_head("A: \x00"), 400),
        (in_head("A: b\x00c"), 400),
        (in_head("A: b\x01c"), 400),
        (in_head("A: b\x0bc"), 400),
        (in_head("A: b\x7fc"), 400),
        (in_head("A: b\rc"), 400),
        (in_head("A: b\nB: c"), 400),
        (in_head("A: b\r\r\nB: c"), 400),
        (in_head("A: b\r"), 400),
        (in_head("A\r\n: b"), 400),
        (in_head(&vec!["A: b"; limits::REQUEST_FIELDS_MAX].join("\r\n")), 431),
        (in_head(&format!("A: {}", "b".repeat(limits::REQUEST_HEAD_BYTES_MAX))), 431),
        (in_head(&format!("{}: b", "a".repeat(limits::REQUEST_HEAD_BYTES_MAX))), 431),
        // Host.
        ("GET / HTTP/1.1\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nA: b\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nhOST: b\r\n\r\n".into(), 400),
        ("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: a%00\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: \u{e9}\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: :80\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: [:::]\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: a..b\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: .\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: [x]\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: ::1\r\n\r\n".into(), 400),
        (format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", "a".repeat(255)), 400),
        // Absolute form.
        (line("GET http://b/ HTTP/1.1"), 400),
        (line("GET http://a:81/ HTTP/1.1"), 400),
        (line("GET http://u@a/ HTTP/1.1"), 400),
        (line("GET http:///x HTTP/1.1"), 400),
        (line("GET http://a#b HTTP/1.1"), 400),
        (line("GET https://a/ HTTP/1.1"), 400),
        (line("GET ftp://a/ HTTP/1.1"), 400),
        ("GET http://a/ HTTP/1.1\r\n\r\n".into(), 400),
        // Content-Length.
        (post("Content-Length: 5\r\nContent-Length: 6"), 400),
        (post("Content-Length: 5\r\nContent-Length: 5"), 400),
        (post("Content-Length: 5, 5"), 400),
        (post("Content-Length: 5,6"), 400),
        (post("Content-Length:"), 400),
        (post("Content-Length: +5"), 400),
        (post("Content-Length: -5"), 400),
        (post("Content-Length: 0x5"), 400),
        (post("Content-Length: 5 5"), 400),
        (post("Content-Length: 5a"), 400),
        (post("Content-Length: 5.0"), 400),
        (post("Content-Length: \"5\""), 400),
        (post("Content-Length: 18446744073709551616"), 400),
        (post("Content-Length: 99999999999999999999999999"), 400),
        // Transfer-Encoding.
        (post("Content-Length: 5\r\nTransfer-Encoding: chunked"), 400),
        (post("Transfer-Encoding: chunked\r\nContent-Length: 5"), 400),
        (post("Transfer-Encoding: chunked\r\nContent-Length: 0"), 400),
        (post("Transfer-Encoding: gzip\r\nContent-Length: 5"), 400),
        (post("Transfer-Encoding: chunked, chunked"), 400),
        (post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), 400),
        (post("Transfer-Encoding:"), 400),
        (post("Transfer-Encoding: chunked,"), 400),
        (post("Transfer-Encoding: \"chunked\""), 400),
        (post("Transfer-Encoding: chunked;q=1"), 400),
        (post("Transfer-Encoding: chunked\x0b"), 400),
        (post("Transfer-Encoding: x chunked"), 400),
        (post("Transfer-Encoding : chunked"), 400),
        (post("Transfer-Encoding\r\n: chunked"), 400),
        (post("Transfer-Encoding: gzip, chunked"), 501),
        (post("Transfer-Encoding: chunked, identity"), 501),
        (post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"), 501),
        (post("Transfer-Encoding: identity"), 501),
        (post("Transfer-Encoding: xchunked"), 501),
        (post("Transfer-Encoding: cow"), 501),
        ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".into(), 400),
        // Expect.
        (post("Content-Length: 1\r\nExpect: 200-ok"), 417),
        (post("Expect:"), 417),
    ];
    assert!(table.len() >= 60);
    for (input, status) in &table {
        check(input.as_bytes(), Err(*status));
    }
}

#[test]
fn incomplete_heads() {
    for input in [
        "",
        "\r",
        "\r\n",
        "\r\n\r",
        "G",
        "GET",
        "GET /",
        "GET / HTTP/1.1",
        "GET / HTTP/1.1\r",
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\nHost",
        "GET / HTTP/1.1\r\nHost: a",
        "GET / HTTP/1.1\r\nHost: a\r",
        "GET / HTTP/1.1\r\nHost: a\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\r",
    ] {
        check(input.as_bytes(), Ok(None));
    }
}

struct Want {
    method: Method,
    key: &'static str,
    path: &'static str,
    host: &'static str,
    body: BodyLength,
    keep_alive: bool,
}

fn accept(input: &str) -> RequestHead {
    check(input.as_bytes(), Ok(Some(input.len())));
    let mut head = RequestHead::default();
    head.parse(input.as_bytes()).unwrap();
    head
}

#[test]
fn accepted_heads() {
    let want = |key, path, host| Want {
        method: Method::Get,
        key,
        path,
        host,
        body: BodyLength::None,
        keep_alive: true,
    };
    let a = want("http://a/", "/", "a");
    let table = [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", want("http://a/", "/", "a")),
        ("\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", want("http://a/", "/", "a")),
        ("GET / HTTP/1.1\r\nhost:\t A.Example:80 \r\n\r\n", want("http://a.example/", "/", "A.Example:80")),
        ("GET / HTTP/1.1\r\nHost: a:\r\n\r\n", want("http://a/", "/", "a:")),
        ("GET / HTTP/1.1\r\nHost: a:0080\r\n\r\n", want("http://a/", "/", "a:0080")),
        ("GET / HTTP/1.1\r\nHost: [FE80::1]:8\r\n\r\n", want("http://[fe80::1]:8/", "/", "[FE80::1]:8")),
        (
            "GET /A/../b//%2e?C=%zz|{} HTTP/1.1\r\nHost: a\r\n\r\n",
            want("http://a/A/../b//%2e?C=%zz|{}", "/A/../b//%2e?C=%zz|{}", "a"),
        ),
        ("GET //b/c HTTP/1.1\r\nHost: a\r\n\r\n", want("http://a//b/c", "//b/c", "a")),
        ("GET http://A/x?y HTTP/1.1\r\nHost: a:80\r\n\r\n", want("http://a/x?y", "/x?y", "A")),
        ("GET http://a HTTP/1.1\r\nHost: a\r\n\r\n", a),
        ("GET HTTP://a?q HTTP/1.1\r\nHost: a\r\n\r\n", want("http://a/?q", "/?q", "a")),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n",
            Want { keep_alive: false, ..want("http://a/", "/", "a") },
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: x\r\nConnection: y , close\r\n\r\n",
            Want { keep_alive: false, ..want("http://a/", "/", "a") },
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, close\r\n\r\n",
            Want { keep_alive: false, ..want("http://a/", "/", "a") },
        ),
        ("GET / HTTP/1.1\r\nHost: a\r\nConnection: closed\r\n\r\n", want("http://a/", "/", "a")),
        ("GET / HTTP/1.0\r\n\r\n", Want { keep_alive: false, ..want("http:///", "/", "") }),
        ("GET / HTTP/1.0\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\n", want("http://a/", "/", "a")),
        ("GET http://a/x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", want("http://a/x", "/x", "a")),
        ("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", Want { method: Method::Head, ..want("http://a/", "/", "a") }),
        ("get / HTTP/1.1\r\nHost: a\r\n\r\n", Want { method: Method::Other, ..want("http://a/", "/", "a") }),
        (
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
            Want { method: Method::Other, ..want("http://a*", "*", "a") },
        ),
        (
            "OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n",
            Want { method: Method::Other, ..want("http://a*", "*", "a") },
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
            Want { method: Method::Other, body: BodyLength::Bytes(5), ..want("http://a/", "/", "a") },
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 005 \r\n\r\n",
            Want { method: Method::Other, body: BodyLength::Bytes(5), ..want("http://a/", "/", "a") },
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551615\r\n\r\n",
            Want { method: Method::Other, body: BodyLength::Bytes(u64::MAX), ..want("http://a/", "/", "a") },
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
            Want { method: Method::Other, ..want("http://a/", "/", "a") },
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n",
            Want { method: Method::Other, body: BodyLength::Chunked, ..want("http://a/", "/", "a") },
        ),
        ("GET / HTTP/1.1\r\nHost: a\r\nA:\r\nB: \r\nC: x\ty\u{e9}\r\n\r\n", want("http://a/", "/", "a")),
    ];
    for (input, want) in table {
        let head = accept(input);
        assert_eq!(head.key.escape_ascii().to_string(), want.key, "{input:?}");
        assert_eq!((head.path(), head.host()), (want.path, want.host), "{input:?}");
        assert_eq!((head.method, head.body), (want.method, want.body), "{input:?}");
        assert_eq!(head.keep_alive, want.keep_alive, "{input:?}");
        assert_eq!(head.key_hash, edge::proto::key::hash(&head.key));
    }
}

#[test]
fn limits_are_reached_exactly() {
    let target = format!("/{}", "a".repeat(limits::REQUEST_TARGET_BYTES_MAX - 1));
    assert_eq!(accept(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).path(), target);
    let fields = "A: b\r\n".repeat(limits::REQUEST_FIELDS_MAX - 1);
    accept(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    let filled = |bytes: usize| {
        let rest = "GET / HTTP/1.1\r\nHost: a\r\nA: \r\n\r\n".len();
        format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}\r\n\r\n", "b".repeat(bytes - rest))
    };
    accept(&filled(limits::REQUEST_HEAD_BYTES_MAX));
    check(filled(limits::REQUEST_HEAD_BYTES_MAX + 1).as_bytes(), Err(431));
}

#[test]
fn fields_and_hop_by_hop() {
    let head = accept(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: X-One, close\r\nConnection: host\r\nX-One: 1\r\nx-two:  2 \r\nX-Two: 3\r\nTE: gzip\r\n\r\n",
    );
    assert_eq!(head.field("x-two"), Some(&b"2"[..]));
    assert_eq!(head.field_all("x-two").collect::<Vec<_>>(), [b"2", b"3"]);
    assert_eq!(head.field("x-three"), None);
    assert!(
        head.connection_lists("x-one") && head.connection_lists("X-ONE") && !head.connection_lists("x-two")
    );
    let kept: Vec<_> = head.fields().filter(|(name, _)| !head.hop_by_hop(name)).collect();
    assert_eq!(kept, [("Host", &b"a"[..]), ("x-two", &b"2"[..]), ("X-Two", &b"3"[..])]);
    assert_eq!(head.method_name(), "GET");
}

#[test]
fn expect_continue() {
    let expects = |text: &str| accept(text).expect_continue;
    assert!(expects("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-Continue\r\n\r\n"));
    assert!(!expects("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n"));
    assert!(!expects("PUT / HTTP/1.0\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n"));
}

/// A head is reused from request to request: nothing of the former one may remain.
#[test]
fn nothing_remains_of_the_former_request() {
    let mut head = RequestHead::default();
    let first = b"POST http://b/long/path?q HTTP/1.0\r\nHost: b\r\nAuthorization: x\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\n";
    let second = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    head.parse(first).unwrap();
    head.parse(second).unwrap();
    let mut fresh = RequestHead::default();
    fresh.parse(second).unwrap();
    assert_eq!(format!("{head:?}"), format!("{fresh:?}"));
}

/// Heads made of pieces that matter to the rules.
fn fragments() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        &b"GET"[..],
        b"POST",
        b" ",
        b" ",
        b"/",
        b"/a?b",
        b"*",
        b"http://a",
        b"HTTP/1.1",
        b"HTTP/1.0",
        b"HTTP/2.0",
        b"\r\n",
        b"\r\n",
        b"\r\n",
        b"\r",
        b"\n",
        b"Host: a",
        b"Host:",
        b"Content-Length: 5",
        b"Content-Length",
        b"Transfer-Encoding: chunked",
        b": ",
        b"chunked",
        b",",
        b"\x00",
        b"\xff",
        b"x",
        b"5",
        b"\t",
        b"GET / HTTP/1.1\r\nHost: a\r\n",
    ]);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_fragments_split_anywhere(input in fragments(), cuts in prop::collection::vec(0usize..200, 0..4)) {
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(input.len())).collect();
        cuts.sort_unstable();
        prop_assert_eq!(parse(&input), parse_growing(&input, cuts.into_iter()));
        prop_assert_eq!(parse(&input), parse_growing(&input, 0..input.len()));
    }

    #[test]
    fn any_bytes(input in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(parse(&input), parse_growing(&input, 0..input.len()));
    }

    #[test]
    fn rendered_comes_back(
        method in "[A-Z]{1,12}",
        path in "/[!$-;=?-_a-z|~]{0,60}",
        host in "[a-z0-9][a-z0-9-]{0,10}([.][a-z0-9-]{1,8}){0,3}[.]?",
        port in prop::option::of(1u16..),
        fields in prop::collection::vec(("X-[A-Za-z0-9-]{1,12}", "([!-~]([ -~]{0,20}[!-~])?)?"), 0..20),
        length in prop::option::of(1u64..),
    ) {
        prop_assume!(method != "CONNECT");
        let authority = port.map_or(host.clone(), |port| format!("{host}:{port}"));
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {authority}\r\n");
        for (name, value) in &fields {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(length) = length {
            text.push_str(&format!("Content-Length: {length}\r\n"));
        }
        text.push_str("\r\n");
        let mut head = RequestHead::default();
        prop_assert_eq!(head.parse(text.as_bytes()), Ok(Some(text.len())));
        prop_assert_eq!(head.method_name(), method);
        prop_assert_eq!(head.path(), path.as_str());
        prop_assert_eq!(head.host(), authority.as_str());
        let default = port == Some(80);
        let shown = if default { host } else { authority };
        prop_assert_eq!(String::from_utf8_lossy(&head.key), format!("http://{shown}{path}"));
        prop_assert_eq!(head.body, length.map_or(BodyLength::None, BodyLength::Bytes));
        let got: Vec<(String, Vec<u8>)> = head.fields().map(|(name, value)| (name.into(), value.into())).collect();
        let want: Vec<(String, Vec<u8>)> = fields.into_iter().map(|(name, value)| (name, value.into_bytes())).collect();
        prop_assert_eq!(&got[1..1 + want.len()], &want[..]);
        // Whatever we accept, the libraries on the way to the origin take too.
        prop_assert!(http::uri::PathAndQuery::try_from(path.as_str()).is_ok());
    }
}
