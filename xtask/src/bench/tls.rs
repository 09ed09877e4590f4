//! `cargo xtask bench tls`: what TLS costs, edge against nginx and H2O with one ECDSA certificate and one cipher: hits
//! over HTTP/1.1 and HTTP/2 by h2load, handshakes full and resumed by a client of rustls, and the memory of idle
//! connections of both.
#![forbid(unsafe_code)]

use super::idle_tls;
use super::origin::{Origin, path};
use super::peers::{self, Kind, Stage};
use super::report::{Spread, size};
use crate::node::Node;
use crate::process::{self, Scratch, Server};
use crate::{build, http, machine};
use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SIZES: [usize; 2] = [1 << 10, 100 << 10];
/// The name that the certificate is for.
pub(super) const NAME: &str = "bench.test";
/// The cipher of all hits.
const CIPHER: &str = "TLS_AES_256_GCM_SHA384";
/// Streams of a connection under load, where it has more than one.
const STREAMS: u32 = 10;

/// Options of the measure.
#[derive(Args, Debug)]
pub struct Options {
    /// Rounds over all servers.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of each window.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// Keep-alive connections under load.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1000))]
    connections: u32,
    /// Idle connections whose memory is measured.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=15_000))]
    idle: u32,
    /// Which servers.
    #[arg(long, value_delimiter = ',', default_values = ["edge", "nginx", "h2o"])]
    servers: Vec<Kind>,
}

/// The certificate of all servers, and where its files are.
pub(super) struct Site {
    certificate: PathBuf,
    key: PathBuf,
    der: CertificateDer<'static>,
}

/// A server that speaks TLS.
pub(super) struct Peer {
    pub(super) kind: Kind,
    pub(super) server: Server,
    pub(super) address: SocketAddr,
}

/// What is measured, in the order of the tables.
#[derive(Clone, Copy, Debug)]
enum Measure {
    Hits { bytes: usize, http2: bool },
    Handshakes { resumed: bool },
}

impl Measure {
    fn name(self) -> String {
        match self {
            Measure::Hits { bytes, http2: false } => format!("{} hit over HTTP/1.1", size(bytes)),
            Measure::Hits { bytes, http2: true } => {
                format!("{} hit over HTTP/2, {STREAMS} streams", size(bytes))
            }
            Measure::Handshakes { resumed: false } => "full handshake and one 1 KiB hit".into(),
            Measure::Handshakes { resumed: true } => "resumed handshake and one 1 KiB hit".into(),
        }
    }
}

/// The measure.
pub fn run(options: &Options) -> Result<()> {
    let (cpu, client_cpu) = super::server_and_client_cpu()?;
    let scratch = Scratch::create("tls")?;
    let origin = Origin::start()?;
    let stage = Stage { scratch: &scratch, origin: &origin, cpu, sizes: &SIZES };
    let site = site(&scratch)?;
    pin(client_cpu)?;
    let peers: Vec<Peer> =
        options.servers.iter().map(|kind| start(*kind, &stage, &site)).collect::<Result<_>>()?;
    let mut agreed = Vec::new();
    for peer in &peers {
        for bytes in SIZES {
            agreed.push((peer.kind, verify(peer, &site, bytes)?));
        }
    }
    agreed.dedup();
    let measures = [
        Measure::Hits { bytes: SIZES[0], http2: false },
        Measure::Hits { bytes: SIZES[1], http2: false },
        Measure::Hits { bytes: SIZES[0], http2: true },
        Measure::Hits { bytes: SIZES[1], http2: true },
        Measure::Handshakes { resumed: false },
        Measure::Handshakes { resumed: true },
    ];
    println!(
        "\nTLS, ECDSA P-256, hits with {CIPHER}, {} connections, {} alternating rounds of {} s",
        options.connections, options.rounds, options.seconds
    );
    for (kind, agreed) in agreed {
        println!("- {}: {agreed}", kind.name());
    }
    println!(
        "\n| what | server | each second (min–max) | server's CPU µs each (min–max) |\n|---|---|---|---|"
    );
    for measure in measures {
        let mut samples: Vec<Vec<(f64, f64)>> = peers.iter().map(|_| Vec::new()).collect();
        for _ in 0..options.rounds {
            for (peer, samples) in peers.iter().zip(&mut samples) {
                process::proceed()?;
                let sample = window(peer, measure, &site, options, client_cpu);
                samples
                    .extend(sample.with_context(|| format!("{} of {}", measure.name(), peer.kind.name()))?);
            }
        }
        for (peer, samples) in peers.iter().zip(&samples) {
            if samples.is_empty() {
                println!("| {} | {} | not resumed | |", measure.name(), peer.kind.name());
                continue;
            }
            let rate = Spread::of(samples.iter().map(|sample| sample.0)).context("no rounds")?;
            let cpu = Spread::of(samples.iter().map(|sample| sample.1)).context("no rounds")?;
            println!(
                "| {} | {} | {:.0} ({:.0}–{:.0}) | {:.1} ({:.1}–{:.1}) |",
                measure.name(),
                peer.kind.name(),
                rate.median,
                rate.min,
                rate.max,
                cpu.median,
                cpu.min,
                cpu.max
            );
        }
    }
    drop(peers);
    idle_tls::table(&options.servers, &stage, &site, options.idle)
}

/// An ECDSA certificate of this run.
pub(super) fn site(scratch: &Scratch) -> Result<Site> {
    let key = rcgen::KeyPair::generate()?;
    let made = rcgen::CertificateParams::new([NAME.to_owned()])?.self_signed(&key)?;
    Ok(Site {
        certificate: scratch.write("site.crt", made.pem())?,
        key: scratch.write("site.key", key.serialize_pem())?,
        der: made.der().clone(),
    })
}

/// This thread makes the clients' part of the handshakes.
fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("pin the client")
}

/// Starts a server that speaks both versions of HTTP over TLS.
pub(super) fn start(kind: Kind, stage: &Stage, site: &Site) -> Result<Peer> {
    let port = http::free_port()?;
    let (certificate, key) = (site.certificate.display(), site.key.display());
    let command = match kind {
        Kind::Nginx => {
            let directory = stage.scratch.directory("nginx-tls")?.display().to_string();
            let listen = format!("listen 127.0.0.1:{port} backlog=4096;");
            let tls = format!(
                "listen 127.0.0.1:{port} ssl http2 backlog=4096;\n        ssl_certificate {certificate};\n        \
                 ssl_certificate_key {key};\n        ssl_protocols TLSv1.2 TLSv1.3;\n        \
                 ssl_session_tickets on;\n        ssl_buffer_size 16k;"
            );
            let text = peers::nginx(stage, &directory, port).replace(&listen, &tls);
            let file = stage.scratch.write("nginx-tls.conf", text)?;
            let mut command = Command::new(peers::tool("nginx")?);
            command.arg("-p").arg(&directory).arg("-c").arg(file).args(["-g", "daemon off;"]);
            command
        }
        Kind::H2o => {
            let directory = stage.scratch.directory("h2o/object")?;
            for bytes in stage.sizes {
                std::fs::write(directory.join(bytes.to_string()), super::origin::body(*bytes))?;
            }
            let listen = format!("  port: {port}\n");
            let tls = format!("{listen}  ssl:\n    certificate-file: {certificate}\n    key-file: {key}\n");
            let file = stage.scratch.write("h2o-tls.conf", peers::h2o(stage, port).replace(&listen, &tls))?;
            let mut command = Command::new(peers::tool("h2o")?);
            command.arg("-c").arg(file);
            command
        }
        Kind::Edge => {
            let plain = http::free_port()?;
            let node = Node {
                cpus: stage.cpu.to_string(),
                http: format!("127.0.0.1:{plain}"),
                admin: format!("127.0.0.1:{}", http::free_port()?),
                origin: stage.origin.address().to_string(),
                xdp: None,
                store_size: "256MiB",
            };
            let https = format!(
                "[[listen.https]]\naddress = \"127.0.0.1:{port}\"\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n\n"
            );
            let store = stage.scratch.directory("edge-tls-store")?.display().to_string();
            let text = node.text(&store).replacen("[store]", &(https + "[store]"), 1);
            let file = stage.scratch.write("edge-tls.toml", text)?;
            let mut command = Command::new(build::release_binary("edge")?);
            command.args(["run", "--config"]).arg(file);
            command
        }
        Kind::Varnish | Kind::Null => anyhow::bail!("{} does not speak TLS", kind.name()),
    };
    let (server, address) = peers::launch(
        &format!("{}-tls", kind.name().split(' ').next().unwrap_or_default()),
        stage,
        &command,
        port,
    )?;
    Ok(Peer { kind, server, address })
}

/// A client that offers this protocol.
pub(super) fn client(site: &Site, resumed: bool, protocol: &str) -> Result<Arc<ClientConfig>> {
    let mut config = trusting(site)?;
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    if !resumed {
        config.resumption = Resumption::disabled();
    }
    Ok(Arc::new(config))
}

/// A client that takes the certificate.
pub(super) fn trusting(site: &Site) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(site.der.clone())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

pub(super) type Stream = StreamOwned<ClientConnection, TcpStream>;

/// A connection; its handshake is made with the first bytes.
pub(super) fn connect(config: &Arc<ClientConfig>, to: SocketAddr) -> Result<Stream> {
    let stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(StreamOwned::new(ClientConnection::new(config.clone(), ServerName::try_from(NAME)?)?, stream))
}

/// A connection that has had one answer of that many bytes.
fn connect_and_ask(config: &Arc<ClientConfig>, to: SocketAddr, bytes: usize) -> Result<Stream> {
    let mut stream = connect(config, to)?;
    ask(&mut stream, bytes)?;
    Ok(stream)
}

/// One answer of that many bytes.
pub(super) fn ask(stream: &mut Stream, bytes: usize) -> Result<()> {
    write!(stream, "GET {} HTTP/1.1\r\nHost: {NAME}\r\n\r\n", path(bytes))?;
    let mut answer = Vec::new();
    let mut piece = vec![0; 32 << 10];
    loop {
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
        if end.is_some_and(|end| answer.len() >= end + bytes) {
            break;
        }
        let count = stream.read(&mut piece)?;
        ensure!(count > 0, "the server closed");
        answer.extend_from_slice(&piece[..count]);
    }
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "not answered 200");
    Ok(())
}

/// Asks until it is stored, and says what was agreed on.
pub(super) fn verify(peer: &Peer, site: &Site, bytes: usize) -> Result<String> {
    let config = client(site, false, "http/1.1")?;
    for _ in 0..3 {
        connect_and_ask(&config, peer.address, bytes)?;
        process::sleep(Duration::from_millis(50))?;
    }
    let stream = connect_and_ask(&config, peer.address, bytes)?;
    let suite = stream.conn.negotiated_cipher_suite().context("no cipher")?.suite();
    Ok(format!("{:?}, {suite:?} with this client", stream.conn.protocol_version().context("no version")?))
}

/// Each second, and CPU microseconds of the server for each. `None`: the server does not resume this client's sessions.
fn window(
    peer: &Peer,
    measure: Measure,
    site: &Site,
    options: &Options,
    client_cpu: usize,
) -> Result<Option<(f64, f64)>> {
    let config = client(site, matches!(measure, Measure::Handshakes { resumed: true }), "http/1.1")?;
    let before = machine::cpu_us(peer.server.pid())?;
    let begun = Instant::now();
    let count = match measure {
        Measure::Hits { bytes, http2 } => h2load(peer.address, (bytes, http2), options, client_cpu)?,
        Measure::Handshakes { resumed } => {
            let mut count = 0;
            while begun.elapsed() < Duration::from_secs(options.seconds.into()) {
                let stream = connect_and_ask(&config, peer.address, SIZES[0])?;
                let kind = stream.conn.handshake_kind();
                let is_resumed = kind == Some(HandshakeKind::Resumed);
                if count > 0 && is_resumed != resumed {
                    ensure!(resumed && peer.kind != Kind::Edge, "the handshake was {kind:?}");
                    return Ok(None);
                }
                count += 1;
            }
            count
        }
    };
    let seconds = begun.elapsed().as_secs_f64();
    let cpu_us = machine::cpu_us(peer.server.pid())? - before;
    peer.server.alive()?;
    Ok(Some((count as f64 / seconds, cpu_us as f64 / count as f64)))
}

fn h2load(
    to: SocketAddr,
    (bytes, http2): (usize, bool),
    options: &Options,
    client_cpu: usize,
) -> Result<u64> {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &client_cpu.to_string(), "h2load", "-t", "1"]);
    let (protocol, streams) = if http2 { ("h2", STREAMS) } else { ("http/1.1", 1) };
    command.args(["--npn-list", protocol, "-m", &streams.to_string(), "--tls13-ciphers", CIPHER]);
    command.args(["-c", &options.connections.to_string(), "-D", &options.seconds.to_string()]);
    command.arg(format!("https://{to}{}", path(bytes)));
    let text = process::output(&mut command)?;
    for agreed in [format!("Cipher: {CIPHER}"), format!("Application protocol: {protocol}")] {
        ensure!(text.lines().any(|line| line == agreed), "not {agreed}:\n{text}");
    }
    parse(&text).with_context(|| format!("h2load said:\n{text}"))
}

/// Requests that succeeded, if none failed.
fn parse(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("requests: "))?;
    let number = |word: &str| {
        let field = line.split(", ").find(|field| field.ends_with(word))?;
        field.split(' ').next()?.parse::<u64>().ok()
    };
    let (succeeded, failed, errored) = (number(" succeeded")?, number(" failed")?, number(" errored")?);
    (succeeded > 0 && failed == 0 && errored == 0).then_some(succeeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_and_failures_are_none() {
        let report =
            "requests: 1000 total, 1032 started, 1000 done, 990 succeeded, 0 failed, 0 errored, 0 timeout\n";
        assert_eq!(parse(report), Some(990));
        assert_eq!(parse(&report.replace("0 failed", "3 failed")), None);
        assert_eq!(parse("nothing"), None);
    }
}
