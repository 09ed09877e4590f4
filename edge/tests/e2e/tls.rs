//! TLS from outside: curl, openssl and rustls as clients, two workers, certificates that change.

use crate::support::tls::{Site, TlsClient, any_certificate};
use crate::support::{Answer, Edge, Origin, PATIENCE, Setup, content, eventually};
use edge::limits;
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::xxh3_64;

const MIB: u64 = 1 << 20;

fn start(origin: &Origin, site: &Site) -> Edge {
    start_with(origin, site.section(), "")
}

fn start_with(origin: &Origin, listen_lines: String, limit_lines: &str) -> Edge {
    let setup = Setup { listen_lines, limit_lines: limit_lines.into(), ..Default::default() };
    Edge::start_with(origin.address(), setup)
}

fn cacheable(origin: &Origin, path: &'static str, bytes: u64) {
    origin.script(path, move |exchange| {
        let body = content::part(content::seed(path), 0, bytes);
        exchange.answer(&Answer::new(200).field("Cache-Control", "max-age=600").body(body))
    });
}

#[test]
fn curl_is_served_over_both_versions_and_keys_carry_the_scheme() {
    let origin = Origin::start();
    cacheable(&origin, "/a", 5000);
    let (site, wanted) = (Site::new(&["edge.test"]), content::part(content::seed("/a"), 0, 5000));
    let edge = start(&origin, &site);
    for version in [&["--tlsv1.3"][..], &["--tls-max", "1.2"]] {
        let output = site.curl("edge.test", "/a", version);
        assert!(output.status.success() && output.stdout == wanted, "{output:?}");
    }
    eventually("a hit", || {
        let output = site.curl("edge.test", "/a", &["-D", "-", "-o", "/dev/null"]);
        String::from_utf8_lossy(&output.stdout).to_ascii_lowercase().contains("cache-status: edge; hit")
    });
    let asked = origin.seen("/a").len();
    assert_eq!(edge.get("/a").status(), 200);
    assert_eq!(origin.seen("/a").len(), asked + 1, "without TLS it is another object");
    let purged = edge.purge(&format!("{{\"url\": \"https://edge.test:{}/a\"}}", site.address.port()));
    let purged = String::from_utf8_lossy(&purged.body).into_owned();
    assert!(purged.contains("\"purged\":1"), "{purged}");
    assert!(edge.metric("edge_tls_connections_1_2_total") >= 1.0);
    assert!(edge.metric("edge_tls_connections_1_3_total") >= 2.0);
    assert!(edge.metric("edge_tls_certificate_ends_timestamp_seconds") > 1.0e9);
}

#[test]
fn large_bodies_arrive_whole_both_ways() {
    let origin = Origin::start();
    cacheable(&origin, "/big", 100 * MIB);
    origin.script("/echo", |exchange| {
        let body = exchange.body()?;
        exchange.answer(&Answer::new(200).body(body))
    });
    let site = Site::new(&["edge.test"]);
    let _edge = start(&origin, &site);
    let wanted = content::hash(content::seed("/big"), 100 * MIB);
    for version in ["1.2", "1.3", "1.3"] {
        let output = site.curl("edge.test", "/big", &["--tls-max", version]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!((output.stdout.len() as u64, xxh3_64(&output.stdout)), (100 * MIB, wanted), "{version}");
    }
    let (upload, body) = (site.file("upload"), content::part(7, 0, 10 * MIB));
    std::fs::write(&upload, &body).expect("written");
    for version in ["1.2", "1.3"] {
        let argument = format!("@{}", upload.display());
        let output = site.curl("edge.test", "/echo", &["--tls-max", version, "--data-binary", &argument]);
        assert!(output.stdout == body, "{version}: {} bytes came back", output.stdout.len());
    }
}

#[test]
fn one_connection_carries_many_requests_and_pipelined_ones() {
    let origin = Origin::start();
    cacheable(&origin, "/a", 20_000);
    let site = Site::new(&["edge.test"]);
    let _edge = start(&origin, &site);
    let wanted = content::part(content::seed("/a"), 0, 20_000);
    let mut client = TlsClient::connect(&site.client(), site.address, "edge.test").expect("connected");
    for _ in 0..200 {
        assert_eq!(client.get("edge.test", "/a").expect("a response"), (200, wanted.clone()));
    }
    let pipelined = "GET /a HTTP/1.1\r\nHost: edge.test\r\n\r\n".repeat(40);
    client.0.write_all(pipelined.as_bytes()).expect("sent");
    for _ in 0..40 {
        assert_eq!(client.response().expect("a response"), (200, wanted.clone()));
    }
    // close_notify without a close of the socket: what was asked for still comes, then theirs.
    client.0.write_all(b"GET /a HTTP/1.1\r\nHost: edge.test\r\nConnection: close\r\n\r\n").expect("sent");
    client.0.conn.send_close_notify();
    client.0.flush().expect("sent");
    assert_eq!(client.response().expect("a response"), (200, wanted));
    assert_eq!(client.0.read(&mut [0]).expect("an end in order"), 0);
}

#[test]
fn openssl_resumes_a_session_whichever_worker_takes_the_connection() {
    let origin = Origin::start();
    cacheable(&origin, "/a", 100);
    let site = Site::new(&["edge.test"]);
    let edge = start(&origin, &site);
    let request = "GET /a HTTP/1.1\r\nHost: edge.test\r\nConnection: close\r\n\r\n";
    for version in ["-tls1_2", "-tls1_3"] {
        let file = site.file("session");
        let file = file.to_str().expect("a path");
        let first = site.s_client(&["-servername", "edge.test", version, "-sess_out", file], request);
        assert!(first.contains("HTTP/1.1 200"), "{first}");
        assert!(first.contains("Verify return code: 0"), "{first}");
        for _ in 0..8 {
            let again = site.s_client(&["-servername", "edge.test", version, "-sess_in", file], request);
            assert!(again.contains("Reused, TLS") && again.contains("HTTP/1.1 200"), "{again}");
        }
    }
    assert_eq!(edge.metric("edge_tls_handshakes_resumed_total"), 16.0);
    assert_eq!(edge.metric("edge_tls_handshakes_full_total"), 2.0);
}

#[test]
fn names_find_their_certificates_and_unknown_ones_none() {
    let origin = Origin::start();
    cacheable(&origin, "/a", 100);
    let first = Site::new(&["edge.test"]);
    let mut second = Site::new(&["*.other.test"]);
    second.address = first.address;
    let edge = start_with(&origin, first.section() + &second.section(), "");
    assert!(first.curl("edge.test", "/a", &[]).status.success());
    assert!(second.curl("x.other.test", "/a", &[]).status.success());
    assert!(!first.curl("x.other.test", "/a", &[]).status.success(), "it is the other's certificate");
    let refused = first.s_client(&["-servername", "unknown.test"], "");
    assert!(refused.contains("unrecognized name"), "{refused}");
    assert_eq!(edge.metric("edge_tls_names_refused_total"), 1.0);
    let unnamed = first.s_client(&["-noservername"], "Q\n");
    assert!(
        unnamed.contains("CN = rcgen self signed cert") && unnamed.contains("Verify return code: 0"),
        "{unnamed}"
    );
}

/// Clients that know RSA alone get the certificate they can check, all others the cheaper one; and with it goes the OCSP
/// response of that certificate.
#[test]
fn one_name_has_two_kinds_of_certificates_and_a_stapled_response() {
    let origin = Origin::start();
    cacheable(&origin, "/a", 100);
    let site = Site::new(&["edge.test"]);
    let openssl = |arguments: &str| {
        let command = Command::new("openssl").args(arguments.split(' ')).current_dir(site.file("")).output();
        let output = command.expect("openssl runs");
        assert!(output.status.success(), "{arguments}: {output:?}");
        output
    };
    let self_signed = "-nodes -days 9 -subj /CN=edge.test -addext subjectAltName=DNS:edge.test";
    openssl(&format!("req -x509 -newkey rsa:2048 {self_signed} -keyout rsa.key -out rsa.crt"));
    openssl(&format!(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 {self_signed} -keyout site.key -out site.crt"
    ));
    // Authorities have an index of what they signed; this one has signed itself.
    let serial = openssl("x509 -in site.crt -noout -serial").stdout;
    let serial = String::from_utf8_lossy(&serial).trim().replace("serial=", "");
    std::fs::write(site.file("index"), format!("V\t991231235959Z\t\t{serial}\tunknown\t/CN=edge.test\n"))
        .expect("written");
    openssl(
        "ocsp -index index -CA site.crt -rsigner site.crt -rkey site.key -issuer site.crt -cert site.crt -ndays 9 \
         -respout site.ocsp",
    );
    let stapled = site.section() + &format!("ocsp = \"{}\"\n", site.file("site.ocsp").display());
    let rsa = site.section().replace("site.", "rsa.");
    let edge = start_with(&origin, rsa + &stapled, "");

    let versions = [
        ("-tls1_3 -sigalgs RSA-PSS+SHA256", "Peer signature type: RSA-PSS", "no response sent"),
        ("-tls1_2 -cipher ECDHE-RSA-AES128-GCM-SHA256", "Peer signature type: RSA-PSS", "no response sent"),
        ("-tls1_3", "Peer signature type: ECDSA", "OCSP Response Status: successful"),
        ("-tls1_2", "Peer signature type: ECDSA", "OCSP Response Status: successful"),
    ];
    for (arguments, signature, response) in versions {
        let arguments = format!("-servername edge.test -status {arguments}");
        let said = site.s_client(&arguments.split(' ').collect::<Vec<_>>(), "Q\n");
        assert!(said.contains(signature) && said.contains(response), "{arguments}: {said}");
        let status = said.contains("Cert Status: good");
        assert_eq!(status, response.contains("successful"), "{arguments}: {said}");
    }
    // Who names no host is met as those who name what the first certificate proves.
    let unnamed = |sigalgs: &str| site.s_client(&["-noservername", "-sigalgs", sigalgs], "Q\n");
    assert!(unnamed("RSA-PSS+SHA256").contains("Peer signature type: RSA-PSS"));
    assert!(unnamed("ECDSA+SHA256").contains("Peer signature type: ECDSA"));
    // A certificate that is renewed before its response is served without one, which clients would refuse it for.
    openssl(&format!("req -x509 -new -key site.key {self_signed} -out renewed.crt"));
    site.replace(&site.certificate(), &std::fs::read_to_string(site.file("renewed.crt")).expect("read"));
    edge.signal(Signal::SIGHUP);
    eventually("the new certificate is served alone", || {
        site.s_client(&["-servername", "edge.test", "-status"], "Q\n").contains("no response sent")
    });
    eventually("it is told", || edge.log().contains("site.ocsp is about another certificate"));
}

#[test]
fn versions_and_ciphers_that_are_not_safe_are_refused() {
    let origin = Origin::start();
    let site = Site::new(&["edge.test"]);
    let _edge = start(&origin, &site);
    for arguments in [
        &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"][..],
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA256"],
        &["-tls1_2", "-cipher", "AES128-GCM-SHA256"],
        &["-tls1_2", "-cipher", "DHE-RSA-AES128-GCM-SHA256"],
    ] {
        let said = site.s_client(arguments, "Q\n");
        assert!(said.contains("alert") && said.contains("Cipher is (NONE)"), "{arguments:?}: {said}");
    }
    // Renegotiation, which openssl asks for on a line of its own, is refused.
    let said = site.s_client(&["-tls1_2"], "R\n");
    assert!(said.contains("RENEGOTIATING") && said.contains("no renegotiation"), "{said}");
}

/// The order is ours, but for who has ChaCha20 first.
#[test]
fn the_cipher_is_the_one_that_costs_both_sides_least() {
    let origin = Origin::start();
    let site = Site::new(&["edge.test"]);
    let _edge = start(&origin, &site);
    for (offered, chosen) in [
        ("-ciphersuites TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"),
        ("-ciphersuites TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256", "TLS_AES_256_GCM_SHA384"),
        ("-ciphersuites TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"),
        (
            "-tls1_2 -cipher ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256",
            "ECDHE-ECDSA-AES128-GCM-SHA256",
        ),
        (
            "-tls1_2 -cipher ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-GCM-SHA256",
            "ECDHE-ECDSA-CHACHA20-POLY1305",
        ),
    ] {
        let said = site.s_client(&offered.split(' ').collect::<Vec<_>>(), "Q\n");
        assert!(said.contains(&format!("Cipher is {chosen}")), "{offered}: {said}");
    }
}

#[test]
fn slow_and_broken_handshakes_end_and_are_counted() {
    let origin = Origin::start();
    let site = Site::new(&["edge.test"]);
    let edge = start_with(&origin, site.section(), "head_timeout = \"1s\"");
    // A ClientHello that never ends, fed byte by byte; one that stops; none at all.
    let begun = Instant::now();
    let mut slow: Vec<TcpStream> =
        (0..3).map(|_| TcpStream::connect(site.address).expect("connected")).collect();
    slow[0].write_all(&[22, 3, 1, 2, 0, 1, 0]).expect("sent");
    slow[1].write_all(&[22]).expect("sent");
    for mut stream in slow {
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert_eq!(rest, b"");
    }
    assert!(begun.elapsed() < Duration::from_millis(limits::HEAD_TIMEOUT_MS), "the limit that was set");
    eventually("all counted", || edge.metric("edge_tls_handshakes_timed_out_total") == 3.0);
    // No TLS at all: an alert, then the end.
    let mut plain = TcpStream::connect(site.address).expect("connected");
    plain.write_all(b"GET / HTTP/1.1\r\nHost: edge.test\r\n\r\n").expect("sent");
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert_eq!((answer.len(), answer[0]), (7, 21), "{answer:?}");
    assert_eq!(edge.metric("edge_tls_handshakes_failed_total"), 1.0);
    // A record that was tampered with, after a good handshake.
    let mut client = TlsClient::connect(&site.client(), site.address, "edge.test").expect("connected");
    while client.0.conn.is_handshaking() {
        client.0.conn.complete_io(&mut client.0.sock).expect("a handshake");
    }
    client.0.sock.write_all(&[23, 3, 3, 0, 20]).expect("sent");
    client.0.sock.write_all(&[0; 20]).expect("sent");
    let error = client.0.read(&mut [0; 10]).expect_err("an alert");
    assert!(error.to_string().contains("BadRecordMac"), "{error}");
    assert_eq!(edge.metric("edge_tls_connections_broken_total"), 1.0);
}

#[test]
fn handshakes_beyond_what_a_second_may_have_are_closed_and_counted() {
    const MOST: f64 = 1.0;
    let origin = Origin::start();
    cacheable(&origin, "/a", 100);
    let site = Site::new(&["edge.test"]);
    let edge = start_with(&origin, site.section() + "[tls]\nhandshakes_per_second = 1\n", "");
    let config = site.client();
    let ask = || {
        let mut client = TlsClient::connect(&config, site.address, "edge.test")?;
        client.get("edge.test", "/a")
    };
    let begun = Instant::now();
    let served = (0..60).filter(|_| ask().is_ok()).count() as f64;
    let workers = edge.metric("edge_workers");
    let seconds = begun.elapsed().as_secs_f64().ceil() + 1.0;
    assert!(served >= 1.0 && served <= MOST * workers * seconds, "{served} within {seconds} s");
    assert_eq!(edge.metric("edge_tls_handshakes_refused_total"), 60.0 - served);
    assert!(served < 60.0, "all that came");
    eventually("a second has passed", || ask().is_ok());
    assert_eq!(edge.metric("edge_tls_handshakes_failed_total"), 0.0);
}

#[test]
fn certificates_change_under_load_and_no_request_fails() {
    let origin = Origin::start();
    cacheable(&origin, "/a", 2000);
    let site = Site::new(&["edge.test"]);
    let edge = start(&origin, &site);
    assert_eq!(edge.metric("edge_tls_handshakes_full_total"), 0.0);
    let (stop, served) = (AtomicBool::new(false), AtomicU64::new(0));
    let any = any_certificate();
    let mut old = TlsClient::connect(&site.client(), site.address, "edge.test").expect("connected");
    old.get("edge.test", "/a").expect("a response");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let mut client = TlsClient::connect(&any, site.address, "edge.test").expect("connected");
                    for _ in 0..5 {
                        let (status, body) = client.get("edge.test", "/a").expect("a response");
                        assert_eq!((status, body.len()), (200, 2000));
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        for round in 0..4 {
            let scratch = Site::new(&["edge.test"]);
            let (chain, secret) = (
                std::fs::read_to_string(scratch.certificate()).expect("read"),
                std::fs::read_to_string(scratch.key()).expect("read"),
            );
            site.replace(&site.key(), &secret);
            site.replace(&site.certificate(), &chain);
            if round % 2 == 0 {
                edge.signal(Signal::SIGHUP);
            }
            eventually("the new certificate is in force", || {
                TlsClient::connect(&scratch.client(), site.address, "edge.test")
                    .and_then(|mut client| client.get("edge.test", "/a"))
                    .is_ok()
            });
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(served.load(Ordering::Relaxed) > 100);
    assert_eq!(old.get("edge.test", "/a").expect("the connection of old lives on").0, 200);
}

#[test]
fn a_bad_file_changes_nothing_and_is_reported() {
    let origin = Origin::start();
    cacheable(&origin, "/a", 100);
    let site = Site::new(&["edge.test"]);
    let edge = start(&origin, &site);
    let config = site.client();
    let works = || {
        TlsClient::connect(&config, site.address, "edge.test")
            .and_then(|mut client| client.get("edge.test", "/a"))
            .is_ok()
    };
    assert!(works());
    let other = Site::new(&["edge.test"]);
    site.replace(&site.key(), &std::fs::read_to_string(other.key()).expect("read"));
    edge.signal(Signal::SIGHUP);
    eventually("it is reported", || edge.log().contains("is not the key of the certificate"));
    assert!(edge.log().contains("nothing was changed") && works());
    std::fs::remove_file(site.certificate()).expect("removed");
    eventually("it is reported", || edge.log().contains("certificates: one is served as it was"));
    assert!(works());
}

#[test]
fn clients_without_a_certificate_are_refused_where_one_is_asked_for() {
    let origin = Origin::start();
    cacheable(&origin, "/a", 100);
    let site = Site::new(&["edge.test"]);
    let client = Site::new(&["client.test"]);
    let section = site.section() + &format!("client_ca = \"{}\"\n", client.certificate().display());
    let edge = start_with(&origin, section, "");
    let (certificate, key) = (client.certificate(), client.key());
    let shown = ["--cert", certificate.to_str().expect("a path"), "--key", key.to_str().expect("a path")];
    for version in ["1.2", "1.3"] {
        let with = site.curl("edge.test", "/a", &[&["--tls-max", version][..], &shown].concat());
        assert!(with.status.success(), "{version}: {with:?}");
        let without = site.curl("edge.test", "/a", &["--tls-max", version]);
        assert!(!without.status.success(), "{version}: {without:?}");
    }
    assert!(edge.metric("edge_tls_handshakes_failed_total") >= 2.0);
}

/// A route for clients with a certificate, on a node with addresses for all: what it stores is for nobody else, by whatever
/// way and with whatever name they come.
#[test]
fn a_route_for_clients_with_a_certificate_serves_no_others() {
    let origin = Origin::start();
    for path in ["/private/a", "/public"] {
        cacheable(&origin, path, 100);
    }
    origin.script("/private/post", |exchange| exchange.answer(&Answer::new(200)));
    let (closed, open, client) =
        (Site::new(&["edge.test"]), Site::new(&["edge.test"]), Site::new(&["client.test"]));
    let authority = format!("client_ca = \"{}\"\n", client.certificate().display());
    let setup = Setup {
        listen_lines: closed.section() + &authority + &open.section(),
        route_lines: "path = \"/private/\"\nclient_certificate = true\nhsts = \"max-age=9\"\n[[routes]]\norigin = \"main\"".into(),
        ..Default::default()
    };
    let edge = Edge::start_with(origin.address(), setup);
    let (certificate, key) = (client.certificate(), client.key());
    let shown = ["--cert", certificate.to_str().expect("a path"), "--key", key.to_str().expect("a path")];
    let status = ["-o", "/dev/null", "-w", "%{http_code} %header{strict-transport-security}"];
    let ask = |site: &Site, path: &str, more: &[&str]| {
        let output = site.curl("edge.test", path, &[&status[..], more].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    eventually("a hit", || {
        let output =
            closed.curl("edge.test", "/private/a", &[&["-D", "-", "-o", "/dev/null"][..], &shown].concat());
        String::from_utf8_lossy(&output.stdout).to_ascii_lowercase().contains("cache-status: edge; hit")
    });
    assert_eq!(ask(&closed, "/private/post", &[&["-d", "x"][..], &shown].concat()), "200 max-age=9");
    let asked = origin.count_all();
    let stored = format!("Host: edge.test:{}", closed.address.port());
    for version in ["--http1.1", "--http2"] {
        for more in
            [&[][..], &["-H", &stored], &["-d", "body"], &["-I"], &["-H", "Cache-Control: no-cache"], &shown]
        {
            let answer = ask(&open, "/private/a", &[&[version][..], more].concat());
            assert_eq!(answer, "403 max-age=9", "{version} {more:?}");
        }
        assert_eq!(ask(&open, "/public", &[version]), "200 ");
    }
    let mut plain = edge.client();
    assert_eq!(plain.get("/private/a").status(), 403);
    assert_eq!(plain.get("/public").status(), 200, "the connection goes on");
    assert_eq!(origin.count("/public") + asked, origin.count_all(), "nobody was asked for what is refused");
    assert_eq!(edge.metric("edge_requests_refused_total"), 13.0);

    // A route that rules so later is for what is stored already, too.
    assert_eq!(plain.get("/public").status(), 200);
    edge.write_config(&edge.config().replace("path = \"/private/\"", "path = \"/pub\""));
    edge.signal(Signal::SIGHUP);
    eventually("it is refused", || edge.get("/public").status() == 403);
}

#[test]
fn a_route_sends_clients_to_tls_and_keeps_them_there() {
    let origin = Origin::start();
    cacheable(&origin, "/a", 100);
    let site = Site::new(&["edge.test"]);
    let hsts = "max-age=31536000; includeSubDomains";
    let setup = Setup {
        listen_lines: site.section(),
        route_lines: format!("hsts = \"{hsts}\"\nhttps_redirect = true"),
        ..Default::default()
    };
    let edge = Edge::start_with(origin.address(), setup);
    let port = site.address.port();
    let mut plain = edge.client();
    for path in ["/a?b=c", "/a?b=c", "/post"] {
        let response = if path == "/post" {
            plain.request("POST", path, &[("Content-Length", "0")])
        } else {
            plain.get(path)
        };
        assert_eq!(response.status(), 308);
        let location = format!("https://edge.test:{port}{path}");
        assert_eq!(response.field("location"), Some(location.as_str()));
        assert_eq!(response.field("strict-transport-security"), None);
    }
    assert_eq!(origin.count_all(), 0);
    let mut seen_hit = false;
    eventually("a hit", || {
        let output = site.curl("edge.test", "/a", &["-D", "-", "-o", "/dev/null"]);
        let head = String::from_utf8_lossy(&output.stdout).to_ascii_lowercase();
        assert!(
            head.contains(&format!("strict-transport-security: {}\r\n", hsts.to_ascii_lowercase())),
            "{head}"
        );
        seen_hit |= head.contains("cache-status: edge; hit");
        seen_hit
    });
    // The node's own answers in place of the origin's say it too, over both versions of HTTP.
    origin.script("/silent", |exchange| exchange.raw(b"this is not HTTP\r\n\r\n"));
    for version in ["--http1.1", "--http2"] {
        // One of control's, and one of a worker's.
        for (path, cache_control, status) in [("/silent", "x", " 502"), ("/none", "only-if-cached", " 504")] {
            let field = format!("Cache-Control: {cache_control}");
            let arguments = ["-D", "-", "-o", "/dev/null", "-H", &field, version];
            let output = site.curl("edge.test", path, &arguments);
            let head = String::from_utf8_lossy(&output.stdout).to_ascii_lowercase();
            let line = format!("strict-transport-security: {}\r\n", hsts.to_ascii_lowercase());
            assert!(head.contains(status) && head.matches(&line).count() == 1, "{version}: {head}");
        }
    }
}

#[test]
fn a_drain_closes_connections_in_order() {
    let origin = Origin::start();
    cacheable(&origin, "/a", 100);
    let site = Site::new(&["edge.test"]);
    let mut edge = start(&origin, &site);
    let mut client = TlsClient::connect(&site.client(), site.address, "edge.test").expect("connected");
    client.get("edge.test", "/a").expect("a response");
    edge.signal(Signal::SIGTERM);
    assert_eq!(client.0.read(&mut [0]).expect("close_notify, not a cut"), 0);
    drop(client);
    assert!(edge.wait().success());
}
