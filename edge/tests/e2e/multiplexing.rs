//! HTTP/2 with bodies of many mebibytes and clients that read fast, slowly, or not at all: what a worker does for
//! them, and that every stream gets its bytes.

use crate::support::{Edge, Origin, Setup, alone, content, eventually};
use crate::support::{edge::HOST, tls::Site, tls::TlsClient};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
const LARGE: u64 = 20 * MIB;
/// Turns of both workers in a second with nothing to do, for their deadlines.
const IDLE_TURNS_PER_SECOND: f64 = 2.0 * 8.0;

fn turns(edge: &Edge) -> f64 {
    edge.metric("edge_ring_enters_total")
}

/// Waits until a node rests: what was under way may take its time, but then two seconds pass with hardly a turn.
fn rests(edge: &Edge, with: &str) {
    eventually(with, || {
        let (before, begun) = (turns(edge), Instant::now());
        std::thread::sleep(Duration::from_secs(2));
        let made = turns(edge) - before;
        made < 1.5 * IDLE_TURNS_PER_SECOND * begun.elapsed().as_secs_f64()
    });
}

fn start(origin: &Origin, site: &Site) -> Edge {
    Edge::start_with(origin.address(), Setup { listen_lines: site.section(), ..Default::default() })
}

fn curl(site: &Site, path: &str, rate: Option<&str>) -> Command {
    let mut command = Command::new("curl");
    let resolve = format!("{HOST}:{}:{}", site.address.port(), site.address.ip());
    command.args(["-sS", "--max-time", "60", "--http2", "--resolve", &resolve, "--cacert"]);
    command.arg(site.certificate()).args(rate.map(|rate| ["--limit-rate", rate]).iter().flatten());
    command.arg(format!("https://{HOST}:{}{path}", site.address.port()));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A worker turns for what is sent and what comes, and else rests, however its clients read.
#[test]
fn turns_follow_the_bytes_and_nothing_else() {
    let _alone = alone();
    let origin = Origin::start();
    let site = Site::new(&[HOST]);
    let edge = start(&origin, &site);
    origin.cacheable("/large", LARGE);
    let whole = content::part(content::seed("/large"), 0, LARGE);
    // Filled while it is sent, then sent from the store, then to a client that takes a quarter of a second for a MiB.
    for rate in [None, None, Some("8M")] {
        let (before, begun) = (turns(&edge), Instant::now());
        let output = curl(&site, "/large", rate).output().expect("curl");
        assert!(output.status.success() && output.stdout == whole, "{rate:?}: {output:?}");
        let idle = (begun.elapsed().as_secs_f64() + 1.0) * IDLE_TURNS_PER_SECOND;
        let made = turns(&edge) - before - idle;
        assert!(made < (LARGE / 4096) as f64, "{rate:?}: {made} turns for {LARGE} bytes");
    }
    edge.wait_stored(1.0);
    assert_eq!(origin.count("/large"), 1);

    // A client that does not read: its buffers fill up.
    let mut child = curl(&site, "/large", None).spawn().expect("curl");
    let mut first = [0; 4096];
    child.stdout.as_mut().expect("its output").read_exact(&mut first).expect("the beginning");
    let pid = Pid::from_raw(child.id() as i32);
    kill(pid, Signal::SIGSTOP).expect("stopped");
    rests(&edge, "rest beside a client that does not read");
    kill(pid, Signal::SIGCONT).expect("continued");
    let rest = child.wait_with_output().expect("curl ends").stdout;
    assert!([&first[..], &rest].concat() == whole, "{} bytes", rest.len());

    // A client that reads and never makes its windows larger, with forty streams.
    let mut config = (*site.client()).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut client = TlsClient::connect(&Arc::new(config), site.address, HOST).expect("connected");
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for stream in 0..40_u8 {
        let block = [&b"\x82\x87\x04\x06/large\x01\x09"[..], HOST.as_bytes()].concat();
        bytes.extend([0, 0, block.len() as u8, 1, 5, 0, 0, 0, 2 * stream + 1]);
        bytes.extend(block);
    }
    client.0.write_all(&bytes).expect("sent");
    let mut taken = vec![0; 65_535];
    client.0.read_exact(&mut taken).expect("what the windows allow");
    rests(&edge, "rest beside a client with full windows");
    assert!(!edge.log().contains("do not advance"), "{}", edge.log());
}

/// So many clients, with so many streams each, of a body of so many bytes. Whom a full queue to control refuses (more
/// miss at once than it takes, where control gets no CPU) asks again; returns how often that was.
fn many(edge: &Edge, origin: &Origin, clients: usize, streams: usize, bytes: u64) -> usize {
    let paths: Vec<String> = (0..10).map(|number| format!("/many/{bytes}/{number}")).collect();
    paths.iter().for_each(|path| origin.cacheable(path, bytes));
    let bodies: Vec<Arc<Vec<u8>>> =
        paths.iter().map(|path| Arc::new(content::part(content::seed(path), 0, bytes))).collect();
    let (paths, bodies, address, refused) = (&paths, &bodies, edge.http(), Arc::new(AtomicUsize::new(0)));
    let client = async || {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        let driver = tokio::spawn(connection);
        let mut running = Vec::new();
        for number in 0..streams {
            let path = paths[number % 10].clone();
            let expected = bodies[number % 10].clone();
            let refused = refused.clone();
            let mut client = client.clone().ready().await.unwrap();
            running.push(tokio::spawn(async move {
                let body = loop {
                    let request = http::Request::get(format!("http://{HOST}{path}")).body(()).unwrap();
                    let (response, _) = client.send_request(request, true).unwrap();
                    let response = response.await.unwrap();
                    if response.status() == 200 {
                        break response.into_body();
                    }
                    assert_eq!(response.status(), 503, "{path}: {:?}", response.headers());
                    assert_eq!(response.headers()["retry-after"], "1", "{path}");
                    refused.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    client = client.ready().await.unwrap();
                };
                let (mut body, mut at) = (body, 0);
                while let Some(bytes) = body.data().await {
                    let bytes = bytes.unwrap();
                    let end = at + bytes.len();
                    assert!(expected.get(at..end) == Some(&bytes[..]), "{path} from {at}");
                    body.flow_control().release_capacity(bytes.len()).unwrap();
                    at = end;
                }
                assert_eq!(at, expected.len(), "{path}");
            }));
        }
        for stream in running {
            stream.await.unwrap();
        }
        drop(client);
        driver.await.unwrap().unwrap();
    };
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.unwrap().block_on(client());
            });
        }
    });
    for path in paths {
        assert_eq!(origin.count(path), 1, "{path}");
    }
    refused.load(Ordering::Relaxed)
}

/// Many streams on each of many connections; scaled so that it ends in seconds on two loaded CPUs (`cargo xtask bench
/// streams` has the whole). curl 7.88 can not do this (it fails against nginx, too), so the client is the `h2` crate's.
#[test]
fn many_streams_of_many_clients_get_the_right_bytes() {
    let origin = Origin::start();
    let setup = Setup { listen_lines: "http2_cleartext = true".into(), ..Default::default() };
    let edge = Edge::start_with(origin.address(), setup);
    assert_eq!(many(&edge, &origin, 3, 100, MIB), 0, "300 fit into the queue");
    let refused = many(&edge, &origin, 100, 100, 64 << 10);
    assert_eq!(edge.metric("edge_queue_overflows_total"), refused as f64);
}

/// Many requests of few connections follow one fill: each piece of it moves every connection on once.
#[test]
fn many_streams_follow_one_fill() {
    let origin = Origin::start();
    let setup = Setup { listen_lines: "http2_cleartext = true".into(), ..Default::default() };
    let edge = Edge::start_with(origin.address(), setup);
    origin.cacheable("/one", 4 * MIB);
    let url = format!("http://{}/one", edge.http());
    let load = ["-n", "160", "-c", "4", "-m", "40", "-T", "60", "-H", ":authority: edge.test", &url];
    let output = Command::new("h2load").args(load).output().expect("h2load");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("160 succeeded, 0 failed, 0 errored, 0 timeout"), "{text}");
    assert!(text.contains(&format!("({}) data", 160 * 4 * MIB)), "{text}");
    assert_eq!(origin.count("/one"), 1);
    assert!(!edge.log().contains("do not advance"), "{}", edge.log());
}
