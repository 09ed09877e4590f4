//! Which version of HTTP a client gets where as many connections speak HTTP/2 as may.

use crate::support::{Answer, Edge, Origin, PREFACE, Setup, content, edge::directory, eventually, frame};
use crate::support::{tls::Site, tls::TlsClient};
use rustls::{AlertDescription, ClientConfig, Error};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;

const REFUSED: &str = "edge_http2_connections_refused_total";
const HELD_BACK: &str = "edge_http2_connections_refused_per_client_total";
const OPENED: &str = "edge_http2_connections_total";

/// One worker with so many places for HTTP/2.
fn start(origin: &Origin, site: &Site, most: usize) -> Edge {
    let setup = Setup {
        cpus: Some(crate::kernel::one_cpu()),
        listen_lines: format!("http2_cleartext = true\n{}", site.section()),
        limit_lines: format!("http2_connections_max = {most}"),
        ..Default::default()
    };
    Edge::start_with(origin.address(), setup)
}

fn offering(site: &Site, protocols: &[&str]) -> Arc<ClientConfig> {
    let mut config = (*site.client()).clone();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    config.into()
}

/// A connection whose handshake is done.
fn connected(site: &Site, protocols: &[&str]) -> std::io::Result<TlsClient> {
    let mut client = TlsClient::connect(&offering(site, protocols), site.address, "edge.test")?;
    while client.0.conn.is_handshaking() {
        client.0.conn.complete_io(&mut client.0.sock)?;
    }
    Ok(client)
}

/// One that has sent its ClientHello, which offers both versions.
fn begun(site: &Site) -> TlsClient {
    let config = offering(site, &["h2", "http/1.1"]);
    let mut client = TlsClient::connect(&config, site.address, "edge.test").expect("connected");
    client.0.conn.write_tls(&mut client.0.sock).expect("sent");
    // The answer is there: what it offers was read.
    client.0.sock.peek(&mut [0]).expect("an answer");
    client
}

/// The version that a client gets which speaks both.
fn version(site: &Site) -> String {
    let output = site.curl("edge.test", "/a", &["--http2", "-w", "%{stderr}%{http_version}"]);
    assert!(output.status.success() && output.stdout.len() == 100, "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn beyond_the_bound_clients_are_served_over_http1_and_only_who_knows_nothing_else_is_refused() {
    let origin = Origin::start();
    origin.cacheable("/a", 100);
    let site = Site::new(&["edge.test"]);
    let edge = start(&origin, &site, 2);
    edge.get_hit("/a");
    let mut held: Vec<TlsClient> = (0..2).map(|_| connected(&site, &["h2"]).expect("admitted")).collect();
    eventually("both are admitted", || edge.metric(OPENED) == 2.0);
    assert_eq!(version(&site), "1.1");
    assert_eq!(edge.metric(REFUSED), 1.0);
    let error = connected(&site, &["h2"]).err().expect("refused");
    let alert = error.get_ref().and_then(|error| error.downcast_ref::<Error>());
    let expected = Error::AlertReceived(AlertDescription::NoApplicationProtocol);
    assert_eq!(alert, Some(&expected), "{error}");
    assert_eq!(edge.metric(REFUSED), 2.0);
    for protocols in [&[][..], &["http/1.1"]] {
        let mut client = connected(&site, protocols).expect("served");
        assert_eq!(client.get("edge.test", "/a").expect("an answer").0, 200);
    }
    assert_eq!(edge.metric(REFUSED), 2.0, "who does not offer HTTP/2 is not refused it");
    let mut raw = TcpStream::connect(edge.http()).expect("connected");
    raw.write_all(&[PREFACE, &frame(4, 0, 0, b"")[..]].concat()).expect("sent");
    let mut told = Vec::new();
    raw.read_to_end(&mut told).expect("closed in order");
    // SETTINGS; GOAWAY with HTTP_1_1_REQUIRED, before any stream.
    assert_eq!(told, [frame(4, 0, 0, b""), frame(7, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 13])].concat());
    assert_eq!((edge.metric(REFUSED), edge.metric(OPENED)), (3.0, 2.0));
    held.pop();
    eventually("there is room again", || version(&site) == "2");
    assert_eq!(edge.metric(HELD_BACK), 0.0);
}

/// On a worker with many connections further ones have fewer streams and a smaller window, which clients heed, and are served
/// like the first, while the others hold what they may.
#[test]
fn connections_beyond_the_wide_ones_have_less_and_are_served_all_the_same() {
    const WIDE: usize = edge::limits::HTTP2_WIDE_CONNECTIONS_MAX;
    const UPLOAD: u64 = 3 << 20;
    let origin = Origin::start();
    origin.cacheable("/a", 100);
    origin.script("/up", |exchange| {
        let body = exchange.body()?;
        exchange.answer(&Answer::new(200).body(body))
    });
    let site = Site::new(&["edge.test"]);
    let edge = start(&origin, &site, WIDE + 10);
    edge.get_hit("/a");
    let mut held: Vec<TcpStream> = Vec::new();
    for number in 0..WIDE + 2 {
        let mut raw = TcpStream::connect(edge.http()).expect("connected");
        raw.write_all(&[PREFACE, &frame(4, 0, 0, b"")[..]].concat()).expect("sent");
        let mut head = [0; 9];
        raw.read_exact(&mut head).expect("SETTINGS");
        let mut settings = vec![0; usize::from(head[2])];
        raw.read_exact(&mut settings).expect("all of it");
        let streams = settings.chunks(6).find(|setting| setting[..2] == [0, 3]).expect("a number of streams");
        let expected = if number < WIDE { 128 } else { 32 };
        assert_eq!(streams[2..], u32::to_be_bytes(expected), "{number}");
        held.push(raw);
    }
    assert_eq!(version(&site), "2");
    let load = Command::new("h2load")
        .args(["-n", "2000", "-c", "4", "-m", "32", "-H", ":authority: edge.test"])
        .arg(format!("http://{}/a", edge.http()))
        .output()
        .expect("h2load");
    let text = String::from_utf8_lossy(&load.stdout);
    assert!(text.contains("2000 succeeded, 0 failed, 0 errored"), "{text}");
    let body = content::part(9, 0, UPLOAD);
    let file = directory();
    let sent = file.join("body");
    std::fs::write(&sent, &body).expect("written");
    let data = format!("@{}", sent.display());
    let output = site.curl("edge.test", "/up", &["--http2", "--data-binary", &data]);
    assert!(output.stdout == body, "{} bytes came back", output.stdout.len());
    std::fs::remove_dir_all(file).expect("removed");
    assert_eq!((edge.metric(REFUSED), edge.metric("edge_http2_floods_total")), (0.0, 0.0));
}

/// The place of a connection is kept from its ClientHello on, and given back once: too few would be left, or too many.
#[test]
fn a_place_is_given_back_once_however_the_handshake_ends() {
    let origin = Origin::start();
    origin.cacheable("/a", 100);
    let site = Site::new(&["edge.test"]);
    let edge = start(&origin, &site, 1);
    edge.get_hit("/a");
    let ends: [fn(TlsClient, &Site); 4] = [
        |client, _| drop(client),
        |mut client, _| {
            client.0.sock.write_all(&[23, 3, 3, 0, 1, 7]).expect("sent");
            let _ = client.0.sock.read_to_end(&mut Vec::new());
        },
        |mut client, _| {
            client.0.conn.complete_io(&mut client.0.sock).expect("done");
        },
        |client, site| {
            // Meanwhile another one is served, and takes no place.
            assert_eq!(version(site), "1.1");
            drop(client);
        },
    ];
    for round in 0..3 {
        for end in ends {
            eventually("the place is free", || version(&site) == "2");
            eventually("it is free again", || {
                let client = begun(&site);
                let is_kept = version(&site) == "1.1";
                if is_kept {
                    end(client, &site);
                }
                is_kept
            });
        }
        eventually("it is free in the end", || version(&site) == "2");
        let held = eventually_some(|| {
            let client = connected(&site, &["h2", "http/1.1"]).expect("a handshake");
            (client.0.conn.alpn_protocol() == Some(b"h2")).then_some(client)
        });
        assert_eq!(version(&site), "1.1", "there is one place, after round {round}");
        drop(held);
    }
}

fn eventually_some<T>(mut get: impl FnMut() -> Option<T>) -> T {
    let mut got = None;
    eventually("it is there", || {
        got = get();
        got.is_some()
    });
    got.expect("it is there")
}
