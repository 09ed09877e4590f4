//! What a client gets from the store: whole responses, parts, heads, validations, in order.

use crate::support::{Answer, Client, Edge, Origin, content, request};
use std::process::Command;

const ETAG: &str = "\"v1\"";
const MODIFIED: &str = "Tue, 03 Nov 2026 10:00:00 GMT";
const BYTES: u64 = 10_000;

/// An edge with one stored object at `/object`.
fn stored() -> (Origin, Edge) {
    let origin = Origin::start();
    let answer = Answer::cacheable("/object", BYTES)
        .field("ETag", ETAG)
        .field("Last-Modified", MODIFIED)
        .field("Content-Type", "application/x-test")
        .field("X-Custom", "kept as it is");
    origin.on("/object", answer);
    let edge = Edge::start(origin.address());
    let first = edge.get("/object");
    assert!(!first.head.is_hit());
    assert_eq!(first.hash(), content::hash(content::seed("/object"), BYTES));
    edge.get_hit("/object");
    (origin, edge)
}

fn body() -> Vec<u8> {
    content::part(content::seed("/object"), 0, BYTES)
}

#[test]
fn miss_then_hit() {
    let origin = Origin::start();
    origin.on("/a", Answer::cacheable("/a", 5000).field("ETag", ETAG).field("X-Custom", "kept as it is"));
    let edge = Edge::start(origin.address());
    let miss = edge.get("/a");
    assert_eq!(miss.status(), 200);
    assert!(miss.head.cache_status().contains("fwd=uri-miss"), "{}", miss.head.cache_status());
    let hit = edge.get_hit("/a");
    assert!(!hit.head.cache_status().contains("fwd"), "{}", hit.head.cache_status());
    assert!(hit.age() <= 5);
    for response in [&miss, &hit] {
        assert_eq!(response.body, content::part(content::seed("/a"), 0, 5000));
        assert_eq!(response.field("etag"), Some(ETAG));
        assert_eq!(response.field("x-custom"), Some("kept as it is"));
        assert_eq!(response.field("content-length"), Some("5000"));
    }
    assert_eq!(miss.field("date"), hit.field("date"), "Date is the origin's");
    assert_eq!(origin.count("/a"), 1);
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let later = edge.get("/a");
    assert!(later.age() >= hit.age() + 2, "Age grows: {} then {}", hit.age(), later.age());
    assert_eq!(later.field("date"), hit.field("date"));
    assert_eq!(origin.count("/a"), 1);
}

#[test]
fn hop_by_hop_fields_end_here() {
    let origin = Origin::start();
    let answer = Answer::cacheable("/a", 10)
        .field("Connection", "X-Hop")
        .field("X-Hop", "1")
        .field("Keep-Alive", "timeout=5")
        .field("Proxy-Connection", "keep-alive")
        .field("X-End", "1");
    origin.on("/a", answer);
    let edge = Edge::start(origin.address());
    let fields = [("Connection", "X-Mine"), ("X-Mine", "1"), ("X-Theirs", "1"), ("TE", "trailers")];
    let miss = edge.client().request("GET", "/a", &fields);
    let hit = edge.get_hit("/a");
    for response in [miss, hit] {
        for gone in ["x-hop", "keep-alive", "proxy-connection", "transfer-encoding"] {
            assert_eq!(response.field(gone), None, "{gone} in {:?}", response.head);
        }
        assert_eq!(response.field("x-end"), Some("1"));
    }
    let seen = &origin.seen("/a")[0];
    assert_eq!(seen.field("x-mine"), None, "{seen:?}");
    assert_eq!(seen.field("x-theirs"), Some("1"));
    assert_eq!(seen.field("host"), Some(crate::support::HOST));
}

#[test]
fn keys_differ_by_host_and_query() {
    let origin = Origin::start();
    origin.script("/a", |exchange| {
        let body = format!("{} {}", exchange.request.field("host").unwrap_or(""), exchange.request.target);
        exchange.answer(&Answer::new(200).field("Cache-Control", "max-age=3600").body(body))
    });
    let edge = Edge::start(origin.address());
    let ask = |host: &str, target: &str| {
        let mut client = edge.client();
        client.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
        String::from_utf8(client.response("GET").expect("a response").body).expect("text")
    };
    for _ in 0..2 {
        assert_eq!(ask("one.test", "/a"), "one.test /a");
        assert_eq!(ask("two.test", "/a"), "two.test /a");
        assert_eq!(ask("one.test", "/a?x=1"), "one.test /a?x=1");
        assert_eq!(ask("one.test", "/a?x=2"), "one.test /a?x=2");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(origin.count("/a"), 4);
}

#[test]
fn large_objects_are_hits_too() {
    let origin = Origin::start();
    let sizes = [0, 1, 1 << 20, (1 << 20) + 1, 3 << 20, 5_000_001];
    for bytes in sizes {
        origin.cacheable(&format!("/{bytes}"), bytes);
    }
    let edge = Edge::start(origin.address());
    for bytes in sizes {
        let path = format!("/{bytes}");
        let wanted = content::hash(content::seed(&path), bytes);
        assert_eq!(edge.get(&path).hash(), wanted, "miss of {path}");
        assert_eq!(edge.get_hit(&path).hash(), wanted, "hit of {path}");
        assert_eq!(origin.count(&path), 1);
    }
}

#[test]
fn head_is_answered_from_the_stored_get() {
    let (origin, edge) = stored();
    let mut client = edge.client();
    let head = client.request("HEAD", "/object", &[]);
    assert!(head.head.is_hit());
    assert_eq!((head.status(), head.body.len()), (200, 0));
    assert_eq!(head.field("content-length"), Some("10000"));
    assert_eq!(head.field("etag"), Some(ETAG));
    assert_eq!(client.get("/object").body, body(), "the connection is still in step");
    assert_eq!(origin.count("/object"), 1);
}

#[test]
fn conditions_are_answered_from_the_store() {
    let (origin, edge) = stored();
    let mut client = edge.client();
    let after = "Tue, 03 Nov 2026 10:00:01 GMT";
    let before = "Tue, 03 Nov 2026 09:59:59 GMT";
    let cases: &[(&[(&str, &str)], u16)] = &[
        (&[("If-None-Match", ETAG)], 304),
        (&[("If-None-Match", "W/\"v1\"")], 304),
        (&[("If-None-Match", "\"v0\", \"v1\"")], 304),
        (&[("If-None-Match", "*")], 304),
        (&[("If-None-Match", "\"v2\"")], 200),
        (&[("If-Modified-Since", MODIFIED)], 304),
        (&[("If-Modified-Since", after)], 304),
        (&[("If-Modified-Since", before)], 200),
        (&[("If-Modified-Since", "no date")], 200),
        // If-None-Match takes precedence (RFC 9110 section 13.1.3).
        (&[("If-None-Match", "\"v2\""), ("If-Modified-Since", MODIFIED)], 200),
        (&[("If-None-Match", ETAG), ("If-Modified-Since", before)], 304),
    ];
    for (fields, status) in cases {
        let response = client.request("GET", "/object", fields);
        assert_eq!(response.status(), *status, "{fields:?}");
        assert!(response.head.is_hit(), "{fields:?}: {:?}", response.head);
        if *status == 304 {
            assert_eq!(response.field("etag"), Some(ETAG), "{fields:?}");
            assert!(response.field("date").is_some() && response.field("cache-control").is_some());
        } else {
            assert_eq!(response.body, body(), "{fields:?}");
        }
    }
    assert_eq!(origin.count("/object"), 1);
}

#[test]
fn single_ranges() {
    let (origin, edge) = stored();
    let mut client = edge.client();
    let cases: &[(&str, Option<(u64, u64)>)] = &[
        ("bytes=0-0", Some((0, 1))),
        ("bytes=0-99", Some((0, 100))),
        ("bytes=5000-5099", Some((5000, 5100))),
        ("bytes=9999-", Some((9999, 10_000))),
        ("bytes=100-", Some((100, 10_000))),
        ("bytes=-1", Some((9999, 10_000))),
        ("bytes=-500", Some((9500, 10_000))),
        ("bytes=-20000", Some((0, 10_000))),
        ("bytes=9000-20000", Some((9000, 10_000))),
        ("bytes=10000-", None),
        ("bytes=20000-30000", None),
        ("bytes=-0", None),
    ];
    for (range, part) in cases {
        let response = client.request("GET", "/object", &[("Range", range)]);
        match part {
            Some((from, to)) => {
                assert_eq!(response.status(), 206, "{range}");
                let wanted = format!("bytes {from}-{}/10000", to - 1);
                assert_eq!(response.field("content-range"), Some(wanted.as_str()), "{range}");
                assert_eq!(response.body, body()[*from as usize..*to as usize], "{range}");
                assert_eq!(response.field("etag"), Some(ETAG));
            }
            None => {
                assert_eq!(response.status(), 416, "{range}");
                assert_eq!(response.field("content-range"), Some("bytes */10000"), "{range}");
            }
        }
    }
    // A Range that is no range of bytes is ignored (RFC 9110 section 14.2).
    for range in ["bytes=9-5", "lines=1-2", "bytes=a-b", "bytes="] {
        let response = client.request("GET", "/object", &[("Range", range)]);
        assert_eq!((response.status(), response.body), (200, body()), "{range}");
    }
    assert_eq!(origin.count("/object"), 1);
}

#[test]
fn ranges_with_a_condition() {
    let (origin, edge) = stored();
    let mut client = edge.client();
    let cases = [
        (ETAG, 206),
        ("\"v2\"", 200),
        ("W/\"v1\"", 200),
        (MODIFIED, 206),
        ("Tue, 03 Nov 2026 10:00:01 GMT", 200),
    ];
    for (condition, status) in cases {
        let response = client.request("GET", "/object", &[("Range", "bytes=10-19"), ("If-Range", condition)]);
        assert_eq!(response.status(), status, "{condition}");
        let wanted = if status == 206 { body()[10..20].to_vec() } else { body() };
        assert_eq!(response.body, wanted, "{condition}");
    }
    assert_eq!(origin.count("/object"), 1);
}

#[test]
fn ranges_of_a_large_object_cross_its_chunks() {
    const LARGE: u64 = (3 << 20) + 17;
    let origin = Origin::start();
    origin.cacheable("/large", LARGE);
    let edge = Edge::start(origin.address());
    edge.get("/large");
    edge.wait_stored(1.0);
    edge.get_hit("/large");
    let mut client = edge.client();
    let seed = content::seed("/large");
    for (from, to) in
        [(0, 1), ((1 << 20) - 1, (1 << 20) + 1), (1 << 20, 2 << 20), (100, LARGE), (LARGE - 17, LARGE)]
    {
        let range = format!("bytes={from}-{}", to - 1);
        let response = client.request("GET", "/large", &[("Range", &range)]);
        assert_eq!(response.status(), 206, "{range}");
        assert!(response.body == content::part(seed, from, to), "{range}: wrong bytes");
    }
    assert_eq!(origin.count("/large"), 1);
}

/// What asks for less than the whole is the origin's to answer while nothing is stored.
#[test]
fn misses_with_a_range_or_condition() {
    let origin = Origin::start();
    origin.script("/a", |exchange| {
        let answer = |status| Answer::new(status).field("Cache-Control", "max-age=3600").field("ETag", ETAG);
        if exchange.request.field("if-none-match") == Some(ETAG) {
            return exchange.answer(&answer(304));
        }
        if exchange.request.field("range") == Some("bytes=10-19") {
            return exchange
                .answer(&answer(206).field("Content-Range", "bytes 10-19/100").body(vec![b'r'; 10]));
        }
        exchange.answer(&answer(200).body(vec![b'w'; 100]))
    });
    let edge = Edge::start(origin.address());
    let mut client = edge.client();
    let part = client.request("GET", "/a", &[("Range", "bytes=10-19")]);
    assert!(matches!((part.status(), part.body.len()), (206, 10) | (200, 100)), "{:?}", part.head);
    let unchanged = client.request("GET", "/a", &[("If-None-Match", ETAG)]);
    assert_eq!((unchanged.status(), unchanged.body.len()), (304, 0));
    let head = client.request("HEAD", "/a", &[]);
    assert_eq!((head.status(), head.field("content-length")), (200, Some("100")));
    assert_eq!(client.get("/a").body, vec![b'w'; 100], "none of these was stored as the whole");
    assert_eq!(edge.get_hit("/a").body, vec![b'w'; 100]);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::start();
    for i in 0..50 {
        // Every fifth is not cacheable and slow, so that those behind it would overtake it.
        let path = format!("/{i}");
        let bytes = 100 + i * 37;
        let answer = Answer::cacheable(&path, bytes);
        let slow = Answer::new(200).field("Cache-Control", "no-store").pattern(&path, bytes);
        origin.on(&path, if i % 5 == 0 { slow.delay(std::time::Duration::from_millis(20)) } else { answer });
    }
    let edge = Edge::start(origin.address());
    for round in 0..3 {
        let mut client = edge.client();
        let all: String = (0..50).map(|i| request("GET", &format!("/{i}"), &[])).collect();
        client.send(all.as_bytes());
        for i in 0..50 {
            let response =
                client.response("GET").unwrap_or_else(|fault| panic!("round {round}, {i}: {fault:?}"));
            let seed = content::seed(&format!("/{i}"));
            assert!(
                response.body == content::part(seed, 0, 100 + i * 37),
                "round {round}: answer {i} is another's"
            );
        }
    }
    for i in (0..50).filter(|i| i % 5 != 0) {
        assert_eq!(origin.count(&format!("/{i}")), 1);
    }
}

#[test]
fn requests_in_single_bytes() {
    let (origin, edge) = stored();
    let mut client = edge.client();
    for byte in request("GET", "/object", &[]).repeat(2).into_bytes() {
        client.send(&[byte]);
    }
    for _ in 0..2 {
        assert_eq!(client.response("GET").expect("a response").body, body());
    }
    assert_eq!(origin.count("/object"), 1);
}

#[test]
fn keep_alive_and_close() {
    let (origin, edge) = stored();
    let mut client = edge.client();
    for _ in 0..20 {
        assert_eq!(client.get("/object").body, body());
    }
    let last = client.request("GET", "/object", &[("Connection", "close")]);
    assert_eq!(last.field("connection"), Some("close"));
    assert_eq!(client.rest(), (Ok(()), Vec::new()));

    let mut old = edge.client();
    old.send(format!("GET /object HTTP/1.0\r\nHost: {}\r\n\r\n", crate::support::HOST).as_bytes());
    assert_eq!(old.response("GET").expect("a response").body, body());
    assert_eq!(old.rest(), (Ok(()), Vec::new()), "HTTP/1.0 closes unless asked not to");
    assert_eq!(origin.count("/object"), 1);
}

#[test]
fn half_closed_clients_are_answered() {
    let (origin, edge) = stored();
    origin.cacheable("/other", 3000);
    for path in ["/object", "/other"] {
        let mut client = edge.client();
        client.send(request("GET", path, &[]).as_bytes());
        client.send_no_more();
        assert_eq!(client.response("GET").expect("a response").status(), 200, "{path}");
        assert_eq!(client.rest(), (Ok(()), Vec::new()), "{path}");
    }
}

#[test]
fn curl_agrees() {
    if !crate::support::process::has_program("curl_agrees", "curl") {
        return;
    }
    let (_origin, edge) = stored();
    let url = format!("http://{}/object", edge.http());
    let host = format!("Host: {}", crate::support::HOST);
    let output =
        Command::new("curl").args(["-sS", "--max-time", "10", "-H", &host, &url]).output().expect("curl");
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout == body());
    let resumed = ["-sS", "--max-time", "10", "-H", &host, "-r", "100-199", "-w", "%{http_code}", &url];
    let output = Command::new("curl").args(resumed).output().expect("curl");
    assert_eq!(output.stdout, [&body()[100..200], b"206"].concat());
}

#[test]
fn many_connections_many_objects() {
    let origin = Origin::start();
    for i in 0..40 {
        origin.cacheable(&format!("/{i}"), 1000 + i * 101);
    }
    let edge = Edge::start(origin.address());
    let address = edge.http();
    std::thread::scope(|scope| {
        for thread in 0..16 {
            scope.spawn(move || {
                let mut client = Client::connect(address);
                for turn in 0..100 {
                    let i = (thread * 7 + turn * 3) % 40;
                    let path = format!("/{i}");
                    let wanted = content::part(content::seed(&path), 0, 1000 + i * 101);
                    assert!(client.get(&path).body == wanted, "{path} is another's");
                }
            });
        }
    });
    assert_eq!(origin.count_all(), 40);
}

/// The parts of a multipart/byteranges answer: (first, bytes).
fn parts(response: &crate::support::Response, complete_bytes: u64) -> Vec<(u64, Vec<u8>)> {
    assert_eq!(response.status(), 206);
    let kind = response.field("content-type").expect("a type");
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").expect("a boundary");
    let mut rest = response.body.as_slice();
    let mut parts = Vec::new();
    loop {
        let delimiter = format!("{}--{boundary}", if parts.is_empty() { "" } else { "\r\n" });
        rest = rest.strip_prefix(delimiter.as_bytes()).expect("a delimiter");
        if rest == b"--\r\n" {
            return parts;
        }
        let end = rest.windows(4).position(|four| four == b"\r\n\r\n").expect("the head of a part");
        let head = std::str::from_utf8(&rest[..end]).expect("text");
        let range = head.split_once("\r\nContent-Range: bytes ").expect("a range").1;
        let (range, complete) = range.split_once('/').expect("a length");
        assert_eq!(complete, complete_bytes.to_string());
        let (first, last) = range.split_once('-').expect("two ends");
        let (first, last): (u64, u64) = (first.parse().unwrap(), last.parse().unwrap());
        let body = &rest[end + 4..];
        let (bytes, after) = body.split_at((last + 1 - first) as usize);
        parts.push((first, bytes.to_vec()));
        rest = after;
    }
}

/// Of objects of one record and of several chunks, with parts that cross them.
#[test]
fn several_ranges_come_as_parts() {
    const LARGE: u64 = (3 << 20) + 17;
    let origin = Origin::start();
    origin.on("/small", Answer::cacheable("/small", BYTES).field("Content-Type", "text/plain"));
    origin.on("/large", Answer::cacheable("/large", LARGE));
    let edge = Edge::start(origin.address());
    let mib = 1 << 20;
    type Case<'a> = (&'a str, u64, &'a [(u64, u64)]);
    let cases: &[Case<'_>] = &[
        ("/small", BYTES, &[(0, 1), (5000, 5100), (BYTES - 1, BYTES)]),
        ("/small", BYTES, &[(9000, 9010), (0, 100)]),
        ("/large", LARGE, &[(mib - 5, mib + 5), (0, 1), (LARGE - 3, LARGE)]),
        ("/large", LARGE, &[(2 * mib + 1, LARGE), (10, 2 * mib - 1000)]),
    ];
    for path in ["/small", "/large"] {
        edge.get(path);
        edge.get_hit(path);
    }
    let mut client = edge.client();
    for (path, complete_bytes, wanted) in cases {
        let specs: Vec<_> = wanted.iter().map(|(from, to)| format!("{from}-{}", to - 1)).collect();
        let range = format!("bytes={}", specs.join(","));
        let response = client.request("GET", path, &[("Range", &range)]);
        assert!(response.head.is_hit());
        let got = parts(&response, *complete_bytes);
        assert_eq!(got.len(), wanted.len(), "{range}");
        for ((first, bytes), (from, to)) in got.iter().zip(*wanted) {
            assert_eq!(first, from, "{range}");
            assert!(*bytes == content::part(content::seed(path), *from, *to), "{path} {range}: wrong bytes");
        }
    }
    assert_eq!(origin.count_all(), 2);
}

/// Another's reader of multipart bodies finds the same parts.
#[test]
fn python_reads_the_parts() {
    if !crate::support::process::has_program("python_reads_the_parts", "python3") {
        return;
    }
    let (_origin, edge) = stored();
    let program = r#"
import email.parser, email.policy, hashlib, http.client, sys
client = http.client.HTTPConnection(sys.argv[1], timeout=10)
client.request("GET", "/object", headers={"Host": sys.argv[2], "Range": "bytes=0-99,5000-5999,-7"})
answer = client.getresponse()
body = answer.read()
head = "Content-Type: %s\r\n\r\n" % answer.getheader("Content-Type")
message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head.encode() + body)
print(answer.status, answer.getheader("Content-Length") == str(len(body)), message.defects)
for part in message.iter_parts():
    data = part.get_payload(decode=True)
    print(part["Content-Type"], part["Content-Range"], hashlib.sha256(data).hexdigest(), part.defects)
"#;
    let output = Command::new("python3")
        .args(["-c", program, &edge.http().to_string(), crate::support::HOST])
        .output()
        .expect("python3");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("206 True []"), "{output:?}");
    let kinds: Vec<_> =
        lines.by_ref().map(|line| line.split(' ').take(3).collect::<Vec<_>>().join(" ")).collect();
    let wanted = ["0-99", "5000-5999", "9993-9999"];
    assert_eq!(kinds, wanted.map(|range| format!("application/x-test bytes {range}/10000")), "{text}");
    for (line, (from, to)) in text.lines().skip(1).zip([(0, 100), (5000, 6000), (9993, 10_000)]) {
        let data = body()[from..to].to_vec();
        let mut hash = Command::new("sha256sum")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("sha256sum");
        std::io::Write::write_all(&mut hash.stdin.take().expect("piped"), &data).expect("taken");
        let sum = hash.wait_with_output().expect("a sum").stdout;
        let sum = String::from_utf8_lossy(&sum[..64]).into_owned();
        assert!(line.contains(&sum) && line.ends_with(" []"), "{line}");
    }
}
