//! HTTP/2 as real clients speak it, and as attackers do: curl and h2load, and frames written by hand.

use crate::support::{
    Answer, Client, Edge, Gate, Origin, PREFACE, Setup, alone, content, eventually, frame, in_time,
};
use crate::support::{edge::directory, process, request, tls::Site, tls::TlsClient};
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

const MIB: u64 = 1 << 20;

fn start(origin: &Origin) -> Edge {
    let setup = Setup { listen_lines: "http2_cleartext = true".into(), ..Default::default() };
    Edge::start_with(origin.address(), setup)
}

/// The same, where clients on loopback are counted as any others are. `more`: lines of the section `listen`.
fn start_counting(origin: &Origin, more: &str) -> Edge {
    let setup = Setup {
        listen_lines: format!("http2_cleartext = true\n{more}"),
        limit_lines: "unlimited_clients = []".into(),
        ..Default::default()
    };
    Edge::start_with(origin.address(), setup)
}

fn curl(edge: &Edge, arguments: &[&str]) -> Command {
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "30", "--http2-prior-knowledge", "-H", "Host: edge.test"]);
    let base = format!("http://{}", edge.http());
    command.args(arguments.iter().map(|argument| argument.replace("EDGE", &base)));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(edge: &Edge, arguments: &[&str]) -> Output {
    let output = curl(edge, arguments).output().expect("curl");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn finish(child: Child) -> Output {
    child.wait_with_output().expect("curl ends")
}

#[test]
fn curl_gets_hits_ranges_heads_and_large_objects_and_sends_bodies() {
    let origin = Origin::start();
    let edge = start(&origin);
    for (path, bytes) in [("/small", 1024), ("/middle", 100_000), ("/large", 5 * MIB + 17)] {
        origin.cacheable(path, bytes);
        let whole = content::part(content::seed(path), 0, bytes);
        for _ in 0..3 {
            assert!(run(&edge, &[&format!("EDGE{path}")]).stdout == whole, "{path}");
        }
        let part = run(&edge, &["-r", "100-299", &format!("EDGE{path}")]).stdout;
        assert!(part == whole[100..300], "a part of {path}");
        assert!(edge.get_hit(path).body == whole, "{path} over HTTP/1.1");
        let head = String::from_utf8(run(&edge, &["-I", &format!("EDGE{path}")]).stdout).unwrap();
        assert!(head.starts_with("HTTP/2 200") && head.contains("cache-status: edge; hit"), "{head}");
        assert!(head.contains(&format!("content-length: {bytes}")), "{head}");
        assert_eq!(origin.count(path), 1, "{path}");
    }
    origin.script("/echo", |exchange| {
        let body = exchange.body()?;
        let length = exchange.request.field("content-length").map(str::to_owned);
        assert_eq!(length, Some(body.len().to_string()));
        assert_eq!(exchange.request.field("cookie"), Some("a=1; b=2"));
        exchange.answer(&Answer::new(200).body(body))
    });
    let sent = directory();
    let file = sent.join("body");
    let body = content::part(9, 0, 3 * MIB);
    std::fs::write(&file, &body).unwrap();
    let data = format!("@{}", file.display());
    let cookies = ["-H", "Cookie: a=1", "-H", "Cookie: b=2"];
    let echoed = run(&edge, &[&["--data-binary", &data, "EDGE/echo"], &cookies[..]].concat()).stdout;
    assert!(echoed == body, "{} bytes came back", echoed.len());
    std::fs::remove_dir_all(sent).unwrap();
    assert!(edge.metric("edge_http2_requests_total") >= 15.0);
    assert_eq!(edge.metric("edge_http2_floods_total"), 0.0);
}

#[test]
fn one_fill_for_clients_of_both_versions() {
    let origin = Origin::start();
    let edge = start(&origin);
    let gate = Gate::default();
    origin.on("/shared", Answer::cacheable("/shared", MIB).hold(MIB / 2, &gate));
    let two = curl(&edge, &["EDGE/shared"]).spawn().expect("curl");
    origin.await_count("/shared", 1);
    let mut one = edge.client();
    one.send(request("GET", "/shared", &[]).as_bytes());
    let third = curl(&edge, &["EDGE/shared"]).spawn().expect("curl");
    eventually("both join", || edge.metric("edge_fills_joined_total") >= 2.0);
    gate.open();
    let whole = content::part(content::seed("/shared"), 0, MIB);
    for child in [two, third] {
        assert!(finish(child).stdout == whole);
    }
    assert!(one.response("GET").expect("a response").body == whole);
    assert_eq!(origin.count("/shared"), 1);
}

#[test]
fn a_broken_origin_is_never_a_whole_response() {
    let origin = Origin::start();
    let edge = start(&origin);
    origin.on("/cut", Answer::cacheable("/cut", MIB).cut(MIB / 2, crate::support::Cut::Reset));
    let output = curl(&edge, &["EDGE/cut"]).output().expect("curl");
    assert!(!output.status.success(), "the stream must be reset");
    assert!((output.stdout.len() as u64) < MIB);
    origin.on("/after", Answer::cacheable("/after", 10));
    run(&edge, &["EDGE/after"]);
}

#[test]
fn h2load_and_nghttp_find_no_fault() {
    let origin = Origin::start();
    let edge = start(&origin);
    origin.cacheable("/load", 4096);
    let url = format!("http://{}/load", edge.http());
    run(&edge, &["EDGE/load"]);
    let load = ["-n", "3000", "-c", "20", "-m", "50", "-T", "20", "-H", ":authority: edge.test", &url];
    let output = Command::new("h2load").args(load).output().expect("h2load");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("3000 succeeded, 0 failed, 0 errored, 0 timeout"), "{text}");
    let output = Command::new("nghttp").args(["-nv", "-t", "10", &url]).output().expect("nghttp");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains(":status: 200") && text.contains("GOAWAY"), "{text}");
    assert!(!text.contains("error_code=PROTOCOL_ERROR"), "{text}");
}

#[test]
fn over_tls_alpn_says_which_version_is_spoken() {
    let origin = Origin::start();
    let site = Site::new(&["edge.test"]);
    let setup = Setup { listen_lines: site.section(), ..Default::default() };
    let edge = Edge::start_with(origin.address(), setup);
    origin.cacheable("/tls", 20 * MIB + 5);
    origin.script("/echo", |exchange| {
        let body = exchange.body()?;
        exchange.answer(&Answer::new(200).body(body))
    });
    let whole = content::part(content::seed("/tls"), 0, 20 * MIB + 5);
    for (version, shown) in [("--http2", "2"), ("--http1.1", "1.1"), ("--http2", "2")] {
        let output = site.curl("edge.test", "/tls", &[version, "-w", "%{stderr}%{http_version}"]);
        assert!(output.status.success() && output.stdout == whole, "{version}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), shown);
    }
    assert_eq!(origin.count("/tls"), 1);
    let (upload, body) = (site.file("upload"), content::part(7, 0, 3 * MIB));
    std::fs::write(&upload, &body).unwrap();
    let argument = format!("@{}", upload.display());
    assert!(site.curl("edge.test", "/echo", &["--http2", "--data-binary", &argument]).stdout == body);
    let url = format!("https://{}/tls", site.address);
    let load = ["-n", "16", "-c", "4", "-m", "4", "-T", "30", "-H", ":authority: edge.test", &url];
    let output = Command::new("h2load").args(load).output().expect("h2load");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("16 succeeded, 0 failed, 0 errored, 0 timeout"), "{text}");
    assert!(edge.metric("edge_tls_connections_alpn_h2_total") >= 6.0);
    assert!(edge.metric("edge_http2_connections_total") >= 6.0);
}

/// Clients that send their first bytes together with the end of the handshake: what was agreed on is spoken, whatever
/// these bytes are.
#[test]
fn over_tls_first_bytes_do_not_overrule_alpn() {
    let origin = Origin::start();
    origin.cacheable("/first", 100);
    let site = Site::new(&["edge.test"]);
    let setup = Setup { listen_lines: site.section(), ..Default::default() };
    let edge = Edge::start_with(origin.address(), setup);
    let http1 = request("GET", "/first", &[("Connection", "close")]).into_bytes();
    let http2 = [PREFACE, &frame(SETTINGS, 0, 0, b""), &frame(HEADERS, 5, 1, &get())].concat();
    for (alpn, first, wanted) in [
        (&b"http/1.1"[..], &http1, Some(&b"HTTP/1.1 200"[..])),
        (b"http/1.1", &http2, Some(b"HTTP/1.1 505")),
        (b"", &http2, Some(b"HTTP/1.1 505")),
        (b"h2", &http1, None),
        (b"h2", &http2, None),
    ] {
        let mut config = (*site.client()).clone();
        config.alpn_protocols = Vec::from_iter((!alpn.is_empty()).then(|| alpn.to_vec()));
        let mut client = TlsClient::connect(&config.into(), site.address, "edge.test").expect("connected").0;
        // Kept by rustls until they may be sent, and then sent at once with what ends the handshake.
        client.conn.writer().write_all(first).expect("kept");
        let mut flight = Vec::new();
        while client.conn.is_handshaking() || client.conn.wants_write() {
            if client.conn.wants_write() {
                client.conn.write_tls(&mut flight).expect("written");
                continue;
            }
            client.sock.write_all(&std::mem::take(&mut flight)).expect("sent");
            client.conn.read_tls(&mut client.sock).expect("an answer");
            client.conn.process_new_packets().expect("a handshake");
        }
        client.sock.write_all(&flight).expect("sent");
        let mut answer = vec![0; 12];
        client.read_exact(&mut answer).expect("an answer");
        let is_http1 = answer.starts_with(b"HTTP/1.1");
        assert_eq!(is_http1.then_some(&answer[..]), wanted, "{alpn:?} {}", first.escape_ascii());
    }
    assert_eq!(edge.metric("edge_http2_connections_total"), 2.0);
}

/// A client that waits for leave to send its body hears the origin's word, as over HTTP/1.1.
#[test]
fn leave_to_send_a_body_is_the_origins() {
    let origin = Origin::start();
    let gate = Gate::default();
    let theirs = gate.clone();
    origin.script("/thinks", move |exchange| {
        theirs.wait();
        let body = exchange.body()?;
        exchange.answer(&Answer::new(201).body(body))
    });
    origin.script("/refuses", |exchange| {
        exchange.raw(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
    });
    let edge = start(&origin);
    let directory = directory();
    let file = directory.join("body");
    std::fs::write(&file, "hello").expect("written");
    let ask = |path: &str| {
        let mut command = Command::new("nghttp");
        command.args(["-v", "-t", "20", "--expect-continue", "-H", ":method: PUT", "-d"]).arg(&file);
        command.arg(format!("http://{}{path}", edge.http()));
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("nghttp runs")
    };
    let said = |child: Child| String::from_utf8_lossy(&finish(child).stdout).into_owned();
    let refused = said(ask("/refuses"));
    assert!(refused.contains(":status: 417") && !refused.contains(":status: 100"), "{refused}");
    assert!(!refused.contains("send DATA frame <length=5"), "{refused}");
    let thinking = ask("/thinks");
    eventually("it was asked", || origin.count("/thinks") == 1);
    assert_eq!(origin.seen("/thinks")[0].field("expect"), Some("100-continue"));
    gate.open();
    let said = said(thinking);
    let at = |what: &str| said.find(what).unwrap_or_else(|| panic!("no {what}: {said}"));
    assert!(at(":status: 100") < at("send DATA frame <length=5") && at("hello") > 0, "{said}");
    assert!(at("send DATA frame <length=5") < at(":status: 201"), "{said}");
    std::fs::remove_dir_all(directory).expect("removed");
}

#[test]
fn a_stop_lets_streams_end_and_says_goodbye() {
    let origin = Origin::start();
    let mut edge = start(&origin);
    let gate = Gate::default();
    origin.on("/slow", Answer::new(200).pattern("/slow", MIB).hold(MIB / 2, &gate));
    let child = curl(&edge, &["EDGE/slow"]).spawn().expect("curl");
    origin.await_count("/slow", 1);
    let mut idle = Raw::connect(&edge);
    assert_eq!(idle.frame().0, SETTINGS);
    edge.signal(Signal::SIGTERM);
    assert!(idle.until(GOAWAY).is_some_and(|payload| payload[4..8] == [0; 4]), "GOAWAY, no error");
    std::thread::sleep(Duration::from_millis(200));
    gate.open();
    assert!(finish(child).stdout == content::part(content::seed("/slow"), 0, MIB));
    drop(idle);
    assert!(edge.wait().success());
}

#[test]
fn http1_is_spoken_beside_it_and_alone_without_the_option() {
    let origin = Origin::start();
    let edge = start(&origin);
    origin.cacheable("/both", 100);
    assert_eq!(edge.get("/both").status(), 200);
    let mut slow = TcpStream::connect(edge.http()).unwrap();
    for byte in b"PRI /both HTTP/1.1\r\nHost: edge.test\r\nConnection: close\r\n\r\n" {
        slow.write_all(&[*byte]).unwrap();
    }
    let mut bytes = Vec::new();
    slow.read_to_end(&mut bytes).unwrap();
    assert!(bytes.starts_with(b"HTTP/1.1 200"), "a method is no preface: {}", bytes.escape_ascii());
    let plain = Edge::start(origin.address());
    let mut client = Client::connect(plain.http());
    client.send(PREFACE);
    assert_eq!(client.response("GET").expect("a response").status(), 505);
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const ENHANCE_YOUR_CALM: u32 = 11;
const HTTP_1_1_REQUIRED: u32 = 13;

/// A client that writes frames by hand.
struct Raw<S = TcpStream>(S);

impl Raw {
    fn connect(edge: &Edge) -> Raw {
        Raw::connect_from(Ipv4Addr::LOCALHOST, edge)
    }

    fn connect_from(source: Ipv4Addr, edge: &Edge) -> Raw {
        let client = Client::connect_from(source, edge.http()).expect("connected");
        let mut stream = client.stream().try_clone().expect("a descriptor");
        stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, b"")].concat()).expect("sent");
        Raw(stream)
    }
}

impl<S: Read> Raw<S> {
    fn frame(&mut self) -> (u8, Vec<u8>) {
        self.try_frame().expect("a frame")
    }

    fn try_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.0.read_exact(&mut payload).ok()?;
        Some((head[3], payload))
    }

    /// The payload of the next frame of this kind; `None`: the connection ended before.
    fn until(&mut self, kind: u8) -> Option<Vec<u8>> {
        loop {
            let (its, payload) = self.try_frame()?;
            if its == kind {
                return Some(payload);
            }
        }
    }

    /// The code of the next GOAWAY.
    fn goodbye(&mut self) -> Option<u32> {
        self.until(GOAWAY).map(|payload| u32::from_be_bytes(payload[4..8].try_into().unwrap()))
    }
}

/// `GET /flood` of `edge.test`, literal fields.
fn get() -> Vec<u8> {
    [&b"\x82\x86\x04\x06/flood\x01\x09edge.test"[..]].concat()
}

/// Every flood ends with GOAWAY or a closed connection, without the node's memory growing, while others are served.
#[test]
fn floods_are_cut_off() {
    let _alone = alone();
    let origin = Origin::start();
    let edge = start(&origin);
    origin.cacheable("/flood", 1000);
    run(&edge, &["EDGE/flood"]);
    let bomb: Vec<u8> = {
        // One large field in the dynamic table, named again and again.
        let mut block = get();
        block.extend([0x40, 1, b'x', 0x7f, 0xa1, 0x1e]);
        block.extend([b'a'; 4000]);
        block.extend(vec![0xbe; 8000]);
        frame(HEADERS, 0x5, 1, &block)
    };
    let streams =
        |each: &dyn Fn(u32) -> Vec<u8>| (0..3000).flat_map(|n| each(2 * n + 1)).collect::<Vec<u8>>();
    let repeated = |one: Vec<u8>| one.repeat(100_000 / one.len() + 1);
    let floods: Vec<(&str, Vec<u8>)> = vec![
        ("settings", repeated(frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9]))),
        ("pings", repeated(frame(PING, 0, 0, &[7; 8]))),
        (
            "rapid reset",
            streams(&|id| {
                [frame(HEADERS, 0x5, id, &get()), frame(RST_STREAM, 0, id, &[0, 0, 0, 8])].concat()
            }),
        ),
        ("continuations", [frame(HEADERS, 0, 1, &get()), repeated(frame(CONTINUATION, 0, 1, b""))].concat()),
        (
            "long continuations",
            [frame(HEADERS, 0, 1, &get()), frame(CONTINUATION, 0, 1, &[0x82; 16_000]).repeat(50)].concat(),
        ),
        (
            "empty data",
            [frame(HEADERS, 0x4, 1, b"\x83\x86\x04\x06/flood\x01\x09edge.test"), {
                repeated(frame(DATA, 0, 1, b""))
            }]
            .concat(),
        ),
        ("windows", repeated(frame(8, 0, 0, &[0, 0, 0, 1]))),
        ("priorities", repeated(frame(2, 0, 1, &[0, 0, 0, 0, 1]))),
        ("malformed requests", streams(&|id| frame(HEADERS, 0x5, id, b"\x82\x86"))),
        ("HPACK bomb", bomb),
    ];
    let large = ["long continuations", "HPACK bomb"];
    let before = process::anonymous_bytes(edge.pid());
    for (name, bytes) in floods {
        let mut raw = Raw::connect(&edge);
        // The node may close before all is written.
        let _ = raw.0.write_all(&bytes);
        let code = raw.goodbye();
        // What is too large is a fault of its own.
        assert!(large.contains(&name) || code == Some(ENHANCE_YOUR_CALM), "{name}: {code:?}");
        assert!(code.is_some(), "{name}: it is told why");
        assert_ne!(code, Some(0), "{name}");
        assert!(raw.try_frame().is_none(), "{name}: closed");
        run(&edge, &["EDGE/flood"]);
    }
    assert!(edge.metric("edge_http2_floods_total") >= 8.0, "{}", edge.metric("edge_http2_floods_total"));
    let grown = process::anonymous_bytes(edge.pid()).saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes more");
}

/// A field that is named again takes a byte to send and a hundred to keep: what waits for its turn is not decoded before.
#[test]
fn many_requests_of_many_fields_are_not_held_all_at_once() {
    const CLIENTS: usize = 100;
    const REQUESTS: u32 = 60;
    let _alone = alone();
    let origin = Origin::start();
    let edge = start(&origin);
    let asked = |id: u32| {
        let named = [get(), vec![0xbe; 450]].concat();
        frame(HEADERS, 0x5, id, if id == 1 { b"\x82\x86\x84\x01\x09edge.test\x40\x01a\x01b" } else { &named })
    };
    let page: Vec<u8> = (0..REQUESTS).flat_map(|number| asked(2 * number + 1)).collect();
    let mut clients: Vec<Raw> = (0..CLIENTS).map(|_| Raw::connect(&edge)).collect();
    let before = process::anonymous_bytes(edge.pid());
    clients.iter_mut().for_each(|client| client.0.write_all(&page).expect("sent"));
    // More fields than a request may have: 431.
    let refused = CLIENTS * (REQUESTS as usize - 1);
    eventually("all are answered", || edge.metric("edge_requests_refused_total") >= refused as f64);
    // It would be 3 MiB for each.
    let grown = process::anonymous_bytes(edge.pid()).saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more");
}

/// A client that asks for what is not stored and leaves, by reset or by closing, gets the origin asked so often and no
/// more; another one is answered meanwhile.
#[test]
fn an_origin_is_not_asked_for_a_client_that_never_waits() {
    const PAGE: u32 = 100;
    let _alone = alone();
    let origin = Origin::start();
    let edge = start_counting(&origin, "");
    origin.cacheable("/other", 1000);
    let gate = Gate::default();
    let ids = || (0..PAGE).map(|number| 2 * number + 1);
    let get = |page: u32, id: u32| {
        let path = format!("/{page:03}/{id:04}");
        origin.on(&path, Answer::cacheable(&path, 10).hold(1, &gate));
        frame(HEADERS, 0x5, id, &[b"\x82\x86\x04\x09", path.as_bytes(), b"\x01\x09edge.test"].concat())
    };
    let began = std::time::Instant::now();
    let from = Ipv4Addr::new(127, 0, 0, 77);
    // All are there before the first gives something up: who comes later is held to HTTP/1.1.
    let mut clients: Vec<Raw> = (0..60).map(|_| Raw::connect_from(from, &edge)).collect();
    clients.iter_mut().for_each(|client| assert!(client.until(SETTINGS).is_some()));
    for (page, mut client) in clients.into_iter().enumerate() {
        let asked = ids().flat_map(|id| get(page as u32, id));
        client.0.write_all(&asked.collect::<Vec<u8>>()).expect("sent");
        std::thread::sleep(Duration::from_millis(10));
        if page % 2 == 0 {
            let resets = ids().flat_map(|id| frame(RST_STREAM, 0, id, &[0, 0, 0, 8]));
            client.0.write_all(&resets.collect::<Vec<u8>>()).expect("sent");
        }
    }
    let given_up = || edge.metric("edge_requests_given_up_total");
    eventually("all that it may is given up", || given_up() >= 1024.0);
    assert_eq!(edge.metric(HELD_TO_HTTP1), 0.0);
    assert_eq!(Raw::connect_from(from, &edge).goodbye(), Some(HTTP_1_1_REQUIRED));
    assert!(edge.metric("edge_requests_refused_per_client_total") > 0.0);
    gate.open();
    run(&edge, &["EDGE/other"]);
    assert_eq!(origin.count("/other"), 1);
    edge.wait_closed();
    let forgiven = 125 * (began.elapsed().as_secs() as u32 + 1);
    let most = 1024 + PAGE + forgiven;
    assert!(given_up() <= f64::from(most), "{} of {} given up, at most {most}", given_up(), 60 * PAGE);
    assert!(origin.count_all() <= most as usize + 1, "{} asked, at most {most}", origin.count_all());
}

/// As many addresses as connections ask for a page that is not stored and reset it, all at one moment, none of them more than
/// it may for itself: together they are too many and are cut off. Who waits for the same page gets it.
#[test]
fn many_clients_that_never_wait_are_cut_off_together() {
    const PAGE: u32 = 100;
    const MANY: u8 = 90;
    let _alone = alone();
    let origin = Origin::start();
    let edge = start_counting(&origin, "");
    let gate = Gate::default();
    let ids = || (0..PAGE).map(|number| 2 * number + 1);
    let get = |stream: u32, path: &str| {
        frame(HEADERS, 0x5, stream, &[b"\x82\x86\x04\x08", path.as_bytes(), b"\x01\x09edge.test"].concat())
    };
    let path = |id: u32| format!("/{id:07}");
    ids().for_each(|id| origin.on(&path(id), Answer::cacheable(&path(id), 10).hold(1, &gate)));
    let page: Vec<u8> = ids().flat_map(|id| get(id, &path(id))).collect();
    let resets: Vec<u8> = ids().flat_map(|id| frame(RST_STREAM, 0, id, &[0, 0, 0, 8])).collect();
    let mut clients = Vec::new();
    for number in 1..=MANY {
        let mut client = Raw::connect_from(Ipv4Addr::new(127, 0, 1, number), &edge);
        client.0.write_all(&page).expect("sent");
        clients.push(client);
        let asked = f64::from(number) * f64::from(PAGE);
        eventually("control is asked", || edge.metric("edge_misses_total") >= asked);
    }
    let mut patient = Raw::connect_from(Ipv4Addr::new(127, 0, 2, 1), &edge);
    assert_eq!(edge.metric("edge_http2_floods_total"), 0.0);
    clients.iter_mut().for_each(|client| client.0.write_all(&resets).expect("sent"));
    // In whatever order their resets are read, the last ones are too many.
    eventually("some are cut off", || edge.metric("edge_http2_floods_total") > 1.0);
    // Messages of so many at once are more than the queue takes of a control thread that gets no CPU.
    origin.cacheable("/another", 10);
    let mut stream = 2 * PAGE + 1;
    eventually("control has read them", || {
        stream += 2;
        patient.0.write_all(&get(stream, "/another")).expect("sent");
        patient.until(HEADERS).is_some_and(|fields| fields[0] == 0x88)
    });
    let overflows = edge.metric("edge_queue_overflows_total");
    let page: Vec<u8> = ids().flat_map(|id| get(stream + 1 + id, &path(id))).collect();
    patient.0.write_all(&page).expect("sent");
    gate.open();
    for _ in ids() {
        assert!(patient.until(HEADERS).is_some_and(|fields| fields[0] == 0x88), "200");
    }
    assert_eq!(edge.metric("edge_queue_overflows_total"), overflows);
    assert_eq!(origin.count_all(), PAGE as usize + 1);
}

const HELD_TO_HTTP1: &str = "edge_http2_connections_refused_per_client_total";

/// Who comes again and again with floods is met with HTTP/1.1 alone, over which it is served; others are not concerned.
#[test]
fn a_client_that_was_cut_off_too_often_speaks_http1() {
    const MOST: usize = 8;
    let origin = Origin::start();
    origin.cacheable("/flood", 1000);
    let site = Site::new(&["edge.test"]);
    let edge = start_counting(&origin, &site.section());
    edge.get_hit("/flood");
    let (flooder, other) = (Ipv4Addr::new(127, 0, 0, 66), "127.0.0.67");
    let version_over_tls = |from: &str| {
        let format = ["--http2", "--interface", from, "-w", "%{stderr}%{http_version}"];
        let output = site.curl("edge.test", "/flood", &format);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for number in 0..MOST {
        assert_eq!(version_over_tls(&flooder.to_string()), "2", "cut off {number} times");
        let mut raw = Raw::connect_from(flooder, &edge);
        let _ = raw.0.write_all(&frame(PING, 0, 0, &[7; 8]).repeat(5000));
        assert_eq!(raw.goodbye(), Some(ENHANCE_YOUR_CALM), "{number}");
    }
    assert_eq!(edge.metric(HELD_TO_HTTP1), 0.0);
    let mut raw = Raw::connect_from(flooder, &edge);
    let _ = raw.0.write_all(&frame(HEADERS, 0x5, 1, &get()));
    assert_eq!(raw.frame(), (SETTINGS, vec![]), "what a server says first");
    assert_eq!(raw.goodbye(), Some(HTTP_1_1_REQUIRED));
    assert!(raw.try_frame().is_none(), "closed");
    assert_eq!(edge.metric(HELD_TO_HTTP1), 1.0);
    assert_eq!(version_over_tls(&flooder.to_string()), "1.1");
    assert_eq!(edge.metric(HELD_TO_HTTP1), 2.0);
    assert!(site.curl("edge.test", "/flood", &["--interface", "127.0.0.66"]).status.success());
    assert_eq!(edge.metric(HELD_TO_HTTP1), 2.0, "it did not offer HTTP/2");
    let mut client = Client::connect_from(flooder, edge.http()).expect("connected");
    assert!(client.get("/flood").head.is_hit(), "over HTTP/1.1 without TLS");
    assert_eq!(version_over_tls(other), "2");
    run(&edge, &["--interface", other, "EDGE/flood"]);
    assert_eq!((edge.metric(HELD_TO_HTTP1), edge.metric("edge_http2_floods_total")), (2.0, MOST as f64));
}

/// Over TLS, too, a client that still sends learns why the connection ends, however much of it is under way.
#[test]
fn the_reason_for_the_end_arrives_over_tls() {
    let origin = Origin::start();
    origin.cacheable("/flood", 1000);
    let site = Site::new(&["edge.test"]);
    let setup = Setup { listen_lines: site.section(), ..Default::default() };
    let edge = Edge::start_with(origin.address(), setup);
    let mut config = (*site.client()).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let config = std::sync::Arc::new(config);
    let pings = frame(PING, 0, 0, &[7; 8]).repeat(20_000);
    // What it is told waits for it, but not for ever.
    in_time(Duration::from_millis(300), || {
        for times in [0, 5, 9] {
            let mut client = TlsClient::connect(&config, site.address, "edge.test").expect("connected").0;
            // It may be told off before all is written.
            let _ = client.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, b"")].concat());
            for _ in 0..times {
                let _ = client.write_all(&acknowledgement()).and_then(|()| client.flush());
            }
            let _ = client.write_all(&pings);
            assert_eq!(Raw(client).goodbye(), Some(ENHANCE_YOUR_CALM), "after {times}");
        }
    });
    assert!(edge.metric("edge_http2_floods_total") >= 3.0);
}

/// An acknowledgement of settings: moves nothing, and is allowed some times.
fn acknowledgement() -> Vec<u8> {
    frame(SETTINGS, 1, 0, b"")
}
