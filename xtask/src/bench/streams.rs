//! `cargo xtask bench streams`: many HTTP/2 clients over TLS with many streams each, all begun at once. Every byte is
//! compared; the times show whether any stream starves while others are served.
#![forbid(unsafe_code)]

use super::origin::{self, Origin};
use super::peers::{Kind, Stage};
use super::tls::{self, Peer, Site};
use crate::machine;
use crate::process::Scratch;
use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// What browsers grant one stream and one connection.
const STREAM_WINDOW_BYTES: u32 = 6 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 15 << 20;

/// Options of the measure.
#[derive(Args, Debug)]
pub struct Options {
    /// Clients, a connection each.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    clients: u32,
    /// Streams of each client, at once.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100))]
    streams: u32,
    /// Bytes of each response.
    #[arg(long, default_value_t = 1 << 20)]
    bytes: usize,
    /// The value of the requests' Priority field; empty: none is sent.
    #[arg(long, default_value = "")]
    priority: String,
    /// Which servers.
    #[arg(long, value_delimiter = ',', default_values = ["edge", "nginx", "h2o"])]
    servers: Vec<Kind>,
}

/// The measure.
pub fn run(options: &Options) -> Result<()> {
    let (cpu, client_cpu) = super::server_and_client_cpu()?;
    let scratch = Scratch::create("streams")?;
    let origin = Origin::start()?;
    let sizes = [options.bytes];
    let stage = Stage { scratch: &scratch, origin: &origin, cpu, sizes: &sizes };
    let site = tls::site(&scratch)?;
    let mut set = CpuSet::new();
    set.set(client_cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("pin the clients")?;
    println!(
        "{} clients × {} streams × {} bytes over TLS, all begun at once; times from the first request of all",
        options.clients, options.streams, options.bytes
    );
    println!(
        "\n| server | wrong bytes | first ends s | median s | slowest s | slowest ÷ median | server's CPU µs a MiB |"
    );
    println!("|---|---|---|---|---|---|---|");
    for kind in &options.servers {
        let peer = tls::start(*kind, &stage, &site)?;
        tls::verify(&peer, &site, options.bytes)?;
        println!("{}", measure(&peer, &site, options).with_context(|| kind.name())?);
    }
    Ok(())
}

fn measure(peer: &Peer, site: &Site, options: &Options) -> Result<String> {
    let mut config = tls::trusting(site)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let config = Arc::new(config);
    let expected = Arc::new(origin::body(options.bytes));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let before = machine::cpu_us(peer.server.pid())?;
    let mut ends = runtime.block_on(all(peer.address, &config, &expected, options))?;
    let cpu_us = machine::cpu_us(peer.server.pid())? - before;
    peer.server.alive()?;
    ends.sort_unstable();
    let seconds = |at: usize| ends.get(at).map_or(0.0, Duration::as_secs_f64);
    let (median, slowest) = (seconds(ends.len() / 2), seconds(ends.len() - 1));
    let mebibytes = (ends.len() * options.bytes) as f64 / (1 << 20) as f64;
    Ok(format!(
        "| {} | 0 of {} | {:.2} | {median:.2} | {slowest:.2} | {:.2} | {:.0} |",
        peer.kind.name(),
        ends.len() * options.bytes,
        seconds(0),
        slowest / median,
        cpu_us as f64 / mebibytes,
    ))
}

/// When each stream ended. Fails with the first wrong byte.
async fn all(
    to: SocketAddr,
    config: &Arc<ClientConfig>,
    expected: &Arc<Vec<u8>>,
    options: &Options,
) -> Result<Vec<Duration>> {
    let mut clients = Vec::new();
    for _ in 0..options.clients {
        let stream = TcpStream::connect(to).await?;
        let name = ServerName::try_from(tls::NAME)?;
        let stream = TlsConnector::from(config.clone()).connect(name, stream).await?;
        let (client, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .handshake::<_, &[u8]>(stream)
            .await?;
        tokio::spawn(connection);
        clients.push(client.ready().await?);
    }
    let begun = Instant::now();
    let mut streams = Vec::new();
    for client in clients {
        for _ in 0..options.streams {
            let mut request =
                http::Request::get(format!("https://{}{}", tls::NAME, origin::path(options.bytes)));
            if !options.priority.is_empty() {
                request = request.header("priority", &options.priority);
            }
            let mut client = client.clone().ready().await?;
            let (response, _) = client.send_request(request.body(())?, true)?;
            streams.push(tokio::spawn(one(response, expected.clone(), begun)));
        }
    }
    let mut ends = Vec::new();
    for stream in streams {
        ends.push(stream.await??);
    }
    Ok(ends)
}

async fn one(
    response: h2::client::ResponseFuture,
    expected: Arc<Vec<u8>>,
    begun: Instant,
) -> Result<Duration> {
    let response = response.await?;
    ensure!(response.status() == 200, "answered {}", response.status());
    let mut body = response.into_body();
    let mut at = 0;
    while let Some(bytes) = body.data().await {
        let bytes = bytes?;
        let end = at + bytes.len();
        ensure!(expected.get(at..end) == Some(&bytes[..]), "wrong bytes from {at}");
        body.flow_control().release_capacity(bytes.len())?;
        at = end;
    }
    ensure!(at == expected.len(), "{at} bytes of {}", expected.len());
    Ok(begun.elapsed())
}
