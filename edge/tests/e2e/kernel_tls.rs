//! TLS whose records the kernel seals: every cipher, many sizes, both directions, and all the ways a connection ends.
//! Where the kernel cannot do it, these tests say so; `cargo xtask vm` runs them on kernels that can, and sets
//! `EDGE_KERNEL_TLS=on` so that none of them is left out there.

use crate::support::tls::{Site, TlsClient};
use crate::support::{Answer, Edge, Origin, Setup, content, eventually};
use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};
use rustls::{CipherSuite, ClientConfig};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// What is worth handing over.
const MUCH: u64 = 512 * KIB;

const SUITES: [CipherSuite; 6] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS13_AES_256_GCM_SHA384,
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
];

struct Node {
    origin: Origin,
    site: Site,
    edge: Edge,
}

/// A node that hands keys over; `None`: the kernel does not take them, and that is not what the test was started for.
fn start(test: &str) -> Option<Node> {
    let origin = Origin::start();
    let site = Site::new(&["edge.test"]);
    let setup = Setup {
        listen_lines: site.section() + "\n[tls]\nkernel = \"auto\"\n",
        store_size: "48MiB".into(),
        ..Default::default()
    };
    let edge = Edge::start_with(origin.address(), setup);
    let status = status(&edge);
    let kernel = &status["kernel_tls"];
    if kernel["state"] == "on" {
        return Some(Node { origin, site, edge });
    }
    let reason = kernel["reason"].as_str().expect("a reason");
    assert!(!reason.is_empty());
    assert!(std::env::var_os("EDGE_KERNEL_TLS").is_none(), "it was said that this kernel can: {reason}");
    println!("SKIPPED kernel_tls::{test}: {reason}; `cargo xtask vm` boots kernels that can");
    None
}

fn status(edge: &Edge) -> serde_json::Value {
    serde_json::from_slice(&edge.admin_get("/status").body).expect("JSON")
}

impl Node {
    fn cacheable(&self, path: &str, bytes: u64) -> u64 {
        self.origin.cacheable(path, bytes);
        content::hash(content::seed(path), bytes)
    }

    fn connect(&self, config: &Arc<ClientConfig>) -> TlsClient {
        TlsClient::connect(config, self.site.address, "edge.test").expect("connected")
    }

    fn client(&self) -> TlsClient {
        self.connect(&self.site.client())
    }

    fn handed_over(&self) -> f64 {
        self.edge.metric("edge_tls_kernel_connections_total")
    }
}

fn with_suite(site: &Site, suite: CipherSuite) -> Arc<ClientConfig> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.retain(|supported| supported.suite() == suite);
    let tls13 = provider.cipher_suites[0].tls13().is_some();
    let versions = [if tls13 { &rustls::version::TLS13 } else { &rustls::version::TLS12 }];
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(rustls::pki_types::pem::PemObject::from_pem_file(site.certificate()).expect("PEM"))
        .expect("a root");
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&versions)
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

fn hashed(response: std::io::Result<(u16, Vec<u8>)>) -> (u16, usize, u64) {
    let (status, body) = response.expect("a response");
    (status, body.len(), xxh3_64(&body))
}

#[test]
fn bodies_of_every_size_arrive_whole_under_every_cipher() {
    let Some(node) = start("bodies_of_every_size_arrive_whole_under_every_cipher") else { return };
    let sizes = [0, 1, 100, 16_383, 16_384, 16_385, 65_600, 66_000, 100_000, MIB - 1, 3 * MIB + 7];
    let paths: Vec<(String, u64, u64)> = sizes
        .iter()
        .map(|&bytes| {
            let path = format!("/{bytes}");
            let hash = node.cacheable(&path, bytes);
            (path, bytes, hash)
        })
        .collect();
    node.origin.script("/echo", |exchange| {
        let body = exchange.body()?;
        exchange.answer(&Answer::new(200).body(body))
    });
    let upload = content::part(7, 0, MIB + 11);
    for (number, suite) in SUITES.into_iter().enumerate() {
        let mut client = node.connect(&with_suite(&node.site, suite));
        let before = node.edge.metric("edge_tls_kernel_sent_bytes_total");
        // Before it is handed over, at that, and long after; small ones behind large ones and between them.
        for at in (0..paths.len()).chain((0..paths.len()).rev()) {
            let (path, bytes, hash) = &paths[at];
            let got = hashed(client.get("edge.test", path));
            assert_eq!(got, (200, *bytes as usize, *hash), "{suite:?} {path}");
        }
        let head =
            format!("POST /echo HTTP/1.1\r\nHost: edge.test\r\nContent-Length: {}\r\n\r\n", upload.len());
        client.0.write_all(head.as_bytes()).expect("sent");
        client.0.write_all(&upload).expect("sent");
        let echoed = client.response().expect("a response");
        assert_eq!((echoed.0, echoed.1 == upload), (200, true), "{suite:?}: an upload and its echo");
        // Pipelined: many small answers in one message.
        let pipelined = "GET /100 HTTP/1.1\r\nHost: edge.test\r\n\r\n".repeat(40);
        client.0.write_all(pipelined.as_bytes()).expect("sent");
        for _ in 0..40 {
            assert_eq!(hashed(client.response()).2, paths[2].2, "{suite:?}");
        }
        assert_eq!(node.handed_over(), number as f64 + 1.0, "{suite:?}");
        let sealed = node.edge.metric("edge_tls_kernel_sent_bytes_total") - before;
        assert!(sealed > (6 * MIB) as f64, "{suite:?}: {sealed} bytes");
    }
    assert_eq!(node.edge.metric("edge_tls_kernel_connections_refused_total"), 0.0);
    println!("{}", status(&node.edge)["kernel_tls"]);
}

#[test]
fn curl_downloads_by_both_versions_of_http() {
    let Some(node) = start("curl_downloads_by_both_versions_of_http") else { return };
    let hash = node.cacheable("/big", 6 * MIB);
    for version in ["--http1.1", "--http2"] {
        for _ in 0..3 {
            let output = node.site.curl("edge.test", "/big", &[version]);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert_eq!((output.stdout.len() as u64, xxh3_64(&output.stdout)), (6 * MIB, hash), "{version}");
        }
        let range = node.site.curl("edge.test", "/big", &[version, "-r", "1000000-5000000"]);
        let wanted = content::part(content::seed("/big"), 1_000_000, 5_000_001);
        assert!(range.stdout == wanted, "{version}: {} bytes", range.stdout.len());
    }
    assert_eq!(node.handed_over(), 8.0);
    assert!(node.edge.metric("edge_tls_connections_alpn_h2_total") >= 4.0);
}

#[test]
fn many_streams_share_a_connection_that_the_kernel_seals() {
    let Some(node) = start("many_streams_share_a_connection_that_the_kernel_seals") else { return };
    node.cacheable("/a", 300 * KIB);
    let url = format!("https://{}/a", node.site.address);
    let load = ["-n", "300", "-c", "3", "-m", "20", "-w", "24", "-W", "26", &url];
    let output = Command::new("h2load").args(load).output().expect("h2load");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("300 succeeded, 0 failed, 0 errored, 0 timeout"), "{text}");
    assert!(text.contains(&format!("({}) data", 300 * 300 * KIB)), "{text}");
    assert!(node.handed_over() >= 3.0);
}

#[test]
fn a_passed_body_of_unknown_length_is_sealed_by_the_kernel_too() {
    let Some(node) = start("a_passed_body_of_unknown_length_is_sealed_by_the_kernel_too") else { return };
    node.origin.script("/pass", |exchange| {
        let answer = Answer::new(200).field("Cache-Control", "no-store").pattern("/pass", 12 * MIB);
        exchange.answer(&answer.framing(crate::support::Framing::Chunked))
    });
    let output = node.site.curl("edge.test", "/pass", &[]);
    let hash = content::hash(content::seed("/pass"), 12 * MIB);
    assert_eq!((output.stdout.len() as u64, xxh3_64(&output.stdout)), (12 * MIB, hash));
}

#[test]
fn sessions_are_resumed_and_handed_over_again() {
    let Some(node) = start("sessions_are_resumed_and_handed_over_again") else { return };
    let hash = node.cacheable("/much", MUCH);
    for suite in [SUITES[0], SUITES[3]] {
        let config = with_suite(&node.site, suite);
        for _ in 0..4 {
            let mut client = node.connect(&config);
            assert_eq!(hashed(client.get("edge.test", "/much")), (200, MUCH as usize, hash));
            assert_eq!(hashed(client.get("edge.test", "/much")), (200, MUCH as usize, hash));
        }
    }
    assert!(node.edge.metric("edge_tls_handshakes_resumed_total") >= 6.0);
    assert_eq!(node.handed_over(), 8.0);
}

#[test]
fn a_peer_that_asks_for_new_keys_is_answered_before_and_told_to_leave_after() {
    let Some(node) = start("a_peer_that_asks_for_new_keys_is_answered_before_and_told_to_leave_after") else {
        return;
    };
    let (small, hash) = (node.cacheable("/small", 100), node.cacheable("/much", MUCH));
    let mut client = node.client();
    // Ours are the keys: they are renewed, and it is the renewed ones that the kernel is given.
    for _ in 0..3 {
        assert_eq!(hashed(client.get("edge.test", "/small")).2, small);
        client.0.conn.refresh_traffic_keys().expect("TLS 1.3");
    }
    assert_eq!(hashed(client.get("edge.test", "/much")).2, hash);
    assert_eq!(hashed(client.get("edge.test", "/much")).2, hash);
    assert_eq!(node.handed_over(), 1.0);
    // Now they are the kernel's.
    client.0.conn.refresh_traffic_keys().expect("TLS 1.3");
    client.0.flush().expect("sent");
    assert_eq!(client.0.read(&mut [0]).expect("close_notify, no alert"), 0);
    eventually("it is counted", || node.edge.metric("edge_tls_kernel_connections_ended_total") == 1.0);
    assert_eq!(node.edge.metric("edge_tls_connections_broken_total"), 0.0);
    assert_eq!(hashed(node.client().get("edge.test", "/much")).2, hash, "a new connection serves");
}

#[test]
fn a_peer_renews_its_own_keys_as_often_as_it_likes() {
    let Some(node) = start("a_peer_renews_its_own_keys_as_often_as_it_likes") else { return };
    node.cacheable("/much", MUCH);
    // openssl takes a line of one letter as a command: k renews its keys and asks for nothing in return.
    let mut child = Command::new("timeout")
        .args(["30", "openssl", "s_client", "-tls1_3", "-servername", "edge.test", "-connect"])
        .arg(node.site.address.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl runs");
    let mut stdin = child.stdin.take().expect("its input");
    let request = "GET /much HTTP/1.1\r\nHost: edge.test\r\n\r\n";
    let last = "GET /much HTTP/1.1\r\nHost: edge.test\r\nConnection: close\r\n\r\n";
    let reader = std::thread::spawn(move || child.wait_with_output().expect("its output"));
    for line in [request, "k\n", request, "k\n", "k\n", last] {
        stdin.write_all(line.as_bytes()).expect("written");
        std::thread::sleep(Duration::from_millis(1500));
    }
    let output = reader.join().expect("read");
    let wanted = content::part(content::seed("/much"), 0, MUCH);
    let whole = output.stdout.windows(wanted.len()).filter(|part| *part == wanted).count();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((whole, said.matches("KEYUPDATE").count()), (3, 3), "{said}");
    assert_eq!(node.handed_over(), 1.0);
    assert_eq!(node.edge.metric("edge_tls_kernel_connections_ended_total"), 0.0);
}

#[test]
fn a_slow_reader_gets_all_of_the_last_answer_and_close_notify() {
    let Some(node) = start("a_slow_reader_gets_all_of_the_last_answer_and_close_notify") else { return };
    let cases =
        [(200 * KIB, 2 * KIB), (700 * KIB + 1, 16 * KIB), (2 * MIB, 64 * KIB), (6 * MIB + 3, 200 * KIB)];
    for (bytes, receive_bytes) in cases {
        let path = format!("/last-{bytes}");
        let hash = node.cacheable(&path, bytes);
        for round in 0..3 {
            let mut client = node.client();
            setsockopt(&client.0.sock, sockopt::RcvBuf, &(receive_bytes as usize)).expect("set");
            let request = format!("GET {path} HTTP/1.1\r\nHost: edge.test\r\nConnection: close\r\n\r\n");
            client.0.write_all(request.as_bytes()).expect("sent");
            // All of it is queued in the kernels long before it is read.
            std::thread::sleep(Duration::from_millis(300));
            assert_eq!(hashed(client.response()), (200, bytes as usize, hash), "{round} {bytes}");
            assert_eq!(client.0.read(&mut [0]).expect("close_notify"), 0, "{round} {bytes}");
        }
    }
    // All but fills that came in pieces too small to be worth it.
    assert!(node.handed_over() >= 8.0);
}

#[test]
fn a_peer_that_shut_its_side_is_served_without_the_kernel() {
    let Some(node) = start("a_peer_that_shut_its_side_is_served_without_the_kernel") else { return };
    let hash = node.cacheable("/much", MUCH);
    assert_eq!(hashed(node.client().get("edge.test", "/much")).2, hash);
    for _ in 0..5 {
        let mut client = node.client();
        while client.0.conn.is_handshaking() {
            client.0.conn.complete_io(&mut client.0.sock).expect("a handshake");
        }
        client.0.write_all(b"GET /much HTTP/1.1\r\nHost: edge.test\r\n\r\n").expect("sent");
        client.0.conn.send_close_notify();
        client.0.flush().expect("sent");
        client.0.sock.shutdown(Shutdown::Write).expect("shut");
        assert_eq!(hashed(client.response()), (200, MUCH as usize, hash));
        assert_eq!(client.0.read(&mut [0]).expect("close_notify"), 0);
    }
    let refused = node.edge.metric("edge_tls_kernel_connections_refused_total");
    assert_eq!(node.handed_over() + refused, 6.0, "{refused} refused");
}

#[test]
fn bad_records_and_cuts_end_a_connection_and_leave_nothing_behind() {
    let Some(node) = start("bad_records_and_cuts_end_a_connection_and_leave_nothing_behind") else { return };
    let (hash, bytes) = (node.cacheable("/big", 8 * MIB), 8 * MIB as usize);
    assert_eq!(hashed(node.client().get("edge.test", "/big")), (200, bytes, hash));
    for round in 0..12_usize {
        let mut client = node.client();
        client.0.write_all(b"GET /big HTTP/1.1\r\nHost: edge.test\r\n\r\n").expect("sent");
        let mut some = vec![0; 1 + round * 300_000];
        client.0.read_exact(&mut some).expect("a part");
        if round % 3 == 0 {
            // In the middle of a body: what is in flight ends, then comes an alert.
            client.0.sock.write_all(&[23, 3, 3, 0, 20]).expect("sent");
            client.0.sock.write_all(&[0; 20]).expect("sent");
            let error = client.0.read_to_end(&mut Vec::new()).expect_err("an alert");
            assert!(error.to_string().contains("BadRecordMac"), "{error}");
        } else if round % 3 == 1 {
            client.0.conn.send_close_notify();
            client.0.flush().expect("sent");
        }
    }
    assert_eq!(node.edge.metric("edge_tls_connections_broken_total"), 4.0);
    eventually("no connection is left", || status(&node.edge)["workers"][0]["connections"] == 0);
    assert_eq!(hashed(node.client().get("edge.test", "/big")), (200, bytes, hash));
}

#[test]
fn a_stop_lets_a_body_end_and_closes_in_order() {
    let Some(mut node) = start("a_stop_lets_a_body_end_and_closes_in_order") else { return };
    let hash = node.cacheable("/big", 8 * MIB);
    assert_eq!(hashed(node.client().get("edge.test", "/big")).2, hash);
    let (mut busy, mut idle) = (node.client(), node.client());
    assert_eq!(hashed(idle.get("edge.test", "/big")).2, hash);
    busy.0.write_all(b"GET /big HTTP/1.1\r\nHost: edge.test\r\n\r\n").expect("sent");
    let mut first = [0; 15];
    busy.0.read_exact(&mut first).expect("a part");
    node.edge.signal(Signal::SIGTERM);
    assert_eq!(idle.0.read(&mut [0]).expect("close_notify, not a cut"), 0);
    let mut rest = Vec::new();
    busy.0.read_to_end(&mut rest).expect("all of it, and close_notify");
    let body = &rest[rest.len() - 8 * MIB as usize..];
    assert_eq!((xxh3_64(body), &first), (hash, b"HTTP/1.1 200 OK"));
    drop((busy, idle));
    assert!(node.edge.wait().success());
}
