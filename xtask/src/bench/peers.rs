//! The servers of a benchmark, each set up as a careful operator would for this load: one worker on one
//! CPU, no access log, storage in memory, keep-alive without end. And the proof, before anything is
//! measured, that each answers right and from its cache.
#![forbid(unsafe_code)]

use super::origin::{self, Origin};
use crate::http::{self, Connection, Response};
use crate::node::{Metrics, Node};
use crate::process::{self, Scratch, Server};
use crate::{build, machine};
use anyhow::{Context, Result, ensure};
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

const START: Duration = Duration::from_secs(20);
/// How long an answer may take to be stored.
const STORE: Duration = Duration::from_secs(2);
/// Connections each server is set up for: more than any measure opens.
const CONNECTIONS_MAX: u64 = 19_000;

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Ours.
    Edge,
    /// nginx as a caching proxy.
    Nginx,
    /// Varnish with its memory store.
    Varnish,
    /// H2O serving files.
    H2o,
    /// The bare io_uring responder.
    Null,
}

impl Kind {
    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Edge => "edge",
            Kind::Nginx => "nginx",
            Kind::Varnish => "varnish",
            Kind::H2o => "h2o (files)",
            Kind::Null => "null",
        }
    }
}

/// A server under test. Null has one process for each size, the others one for all.
pub struct Peer {
    /// Which.
    pub kind: Kind,
    /// Where edge's counters are.
    pub admin: Option<SocketAddr>,
    endpoints: Vec<(usize, Server, SocketAddr)>,
}

/// Where and how to ask for one object.
pub struct Target<'a> {
    /// The process that answers.
    pub server: &'a Server,
    /// Where it listens.
    pub address: SocketAddr,
    /// The object's path.
    pub path: String,
}

/// What all servers of a run share.
pub struct Stage<'a> {
    /// Their files.
    pub scratch: &'a Scratch,
    /// Where they fetch from.
    pub origin: &'a Origin,
    /// Their CPU.
    pub cpu: usize,
    /// The sizes that will be asked for.
    pub sizes: &'a [usize],
}

impl Peer {
    /// How to ask for the object of that size.
    pub fn endpoint(&self, bytes: usize) -> Result<Target<'_>> {
        let found = self.endpoints.iter().find(|(size, ..)| *size == 0 || *size == bytes);
        let (_, server, address) = found.with_context(|| format!("no server for {bytes} bytes"))?;
        Ok(Target { server, address: *address, path: origin::path(bytes) })
    }

    /// Asks until it is a hit and then once more, which must be a hit that did not reach the origin. Every
    /// byte of every answer is compared.
    pub fn verify(&self, bytes: usize, origin: &Origin) -> Result<()> {
        let target = self.endpoint(bytes)?;
        let name = self.kind.name();
        let mut connection = Connection::open(target.address)?;
        let mut ask = || {
            let response = connection.get(&target.path)?;
            ensure!(response.status == 200, "{name}: status {}", response.status);
            let is_right = self.kind == Kind::Null || response.body == origin::body(bytes);
            let got = response.body.len();
            ensure!(is_right && got == bytes, "{name}: a wrong body of {got} bytes for {bytes}");
            Ok(response)
        };
        let is_stored = process::wait_until(STORE, || Ok(self.is_hit(&ask()?)))?;
        ensure!(is_stored, "{name}: still no hit after {STORE:?}");
        let asked = origin.requests();
        let last = ask()?;
        ensure!(self.is_hit(&last), "{name}: no hit after a hit: {:?}", last.fields);
        ensure!(origin.requests() == asked, "{name}: a hit reached the origin");
        Ok(())
    }

    fn is_hit(&self, response: &Response) -> bool {
        match self.kind {
            Kind::Edge => response.field("cache-status").split(';').any(|part| part.trim() == "hit"),
            Kind::Nginx => response.field("x-cache-status") == "HIT",
            // Two transaction numbers: this one and the one that stored the object.
            Kind::Varnish => response.field("x-varnish").split_whitespace().count() == 2,
            Kind::H2o | Kind::Null => true,
        }
    }
}

/// Starts one server and waits until it accepts.
pub fn start(kind: Kind, stage: &Stage) -> Result<Peer> {
    match kind {
        Kind::Edge => start_edge(stage),
        Kind::Nginx => {
            let port = http::free_port()?;
            let directory = stage.scratch.directory("nginx")?.display().to_string();
            let file = stage.scratch.write("nginx.conf", nginx(stage, &directory, port))?;
            let mut command = Command::new(tool("nginx")?);
            command.arg("-p").arg(&directory).arg("-c").arg(file).args(["-g", "daemon off;"]);
            one(kind, stage, command, port)
        }
        Kind::Varnish => start_varnish(stage),
        Kind::H2o => {
            let port = http::free_port()?;
            let directory = stage.scratch.directory("h2o/object")?;
            for bytes in stage.sizes {
                std::fs::write(directory.join(bytes.to_string()), origin::body(*bytes))?;
            }
            let file = stage.scratch.write("h2o.conf", h2o(stage, port))?;
            let mut command = Command::new(tool("h2o")?);
            command.arg("-c").arg(file);
            one(kind, stage, command, port)
        }
        Kind::Null => start_null(stage),
    }
}

/// Where a program of a peer is.
pub fn tool(name: &str) -> Result<std::path::PathBuf> {
    machine::program(name).with_context(|| format!("{name} is missing: `cargo xtask setup` installs it"))
}

/// Starts the command on the stage's CPU, with its log in the scratch directory.
pub fn launch(name: &str, stage: &Stage, command: &Command, port: u16) -> Result<(Server, SocketAddr)> {
    let mut pinned = Command::new("taskset");
    pinned.args(["--cpu-list", &stage.cpu.to_string()]).arg(command.get_program()).args(command.get_args());
    let server = Server::start(name, &pinned, &stage.scratch.path(&format!("{name}-{port}.log")))?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    server.wait_ready(START, || http::listens(address))?;
    Ok((server, address))
}

fn one(kind: Kind, stage: &Stage, command: Command, port: u16) -> Result<Peer> {
    let name = kind.name().split(' ').next().unwrap_or_default();
    let (server, address) = launch(name, stage, &command, port)?;
    Ok(Peer { kind, admin: None, endpoints: vec![(0, server, address)] })
}

fn start_edge(stage: &Stage) -> Result<Peer> {
    let (port, admin) = (http::free_port()?, http::free_port()?);
    let node = Node {
        cpus: stage.cpu.to_string(),
        http: format!("127.0.0.1:{port}"),
        admin: format!("127.0.0.1:{admin}"),
        origin: stage.origin.address().to_string(),
        xdp: None,
        store_size: "256MiB",
    };
    let command = node.command(stage.scratch, "edge")?;
    let mut peer = one(Kind::Edge, stage, command, port)?;
    peer.admin = Some(SocketAddr::from(([127, 0, 0, 1], admin)));
    Ok(peer)
}

/// Edge's counters.
pub fn metrics(admin: SocketAddr) -> Result<Metrics> {
    let response = http::get(admin, "/metrics")?;
    ensure!(response.status == 200, "/metrics answered {}", response.status);
    Ok(Metrics::parse(&String::from_utf8_lossy(&response.body)))
}

fn start_varnish(stage: &Stage) -> Result<Peer> {
    let port = http::free_port()?;
    let directory = stage.scratch.directory("varnish")?;
    let mut command = Command::new(tool("varnishd")?);
    command.arg("-F").arg("-n").arg(directory);
    // The jail would change users, which a run of a few seconds on loopback gains nothing from.
    command.args(["-j", "none", "-s", "malloc,256m"]);
    command.args(["-a", &format!("127.0.0.1:{port}"), "-b", &stage.origin.address().to_string()]);
    // One CPU: one pool, with a thread for every connection there will be.
    for parameter in ["thread_pools=1", "thread_pool_min=200", "thread_pool_max=1000"] {
        command.args(["-p", parameter]);
    }
    one(Kind::Varnish, stage, command, port)
}

fn start_null(stage: &Stage) -> Result<Peer> {
    let mut endpoints = Vec::new();
    for bytes in stage.sizes {
        let port = http::free_port()?;
        let mut command = Command::new(build::release_binary("null")?);
        command.args(["--port", &port.to_string(), "--cpu", &stage.cpu.to_string()]);
        command.args(["--bytes", &bytes.to_string()]);
        let (server, address) = launch("null", stage, &command, port)?;
        endpoints.push((*bytes, server, address));
    }
    Ok(Peer { kind: Kind::Null, admin: None, endpoints })
}

/// A line that keeps nginx and H2O from changing to a user that cannot read our files.
fn user(line: &str) -> &str {
    if machine::is_root() { line } else { "" }
}

/// nginx as a caching proxy.
pub fn nginx(stage: &Stage, directory: &str, port: u16) -> String {
    let origin = stage.origin.address();
    let user = user("user root;");
    format!(
        r#"{user}
worker_processes 1;
worker_rlimit_nofile {CONNECTIONS_MAX};
pid {directory}/pid;
error_log {directory}/error.log warn;
events {{ worker_connections {CONNECTIONS_MAX}; multi_accept on; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush off;
    tcp_nodelay on;
    server_tokens off;
    keepalive_timeout 600s;
    keepalive_requests 1000000000;
    open_file_cache max=1000 inactive=600s;
    open_file_cache_valid 600s;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    proxy_cache_path {directory}/cache levels=1:2 keys_zone=hits:16m max_size=256m inactive=1d use_temp_path=off;
    upstream origin {{ server {origin}; keepalive 16; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://origin;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_cache hits;
            proxy_cache_lock on;
            add_header X-Cache-Status $upstream_cache_status;
        }}
    }}
}}
"#
    )
}

/// H2O serving files.
pub fn h2o(stage: &Stage, port: u16) -> String {
    let root = stage.scratch.path("h2o");
    let user = user("user: root");
    format!(
        "{user}\nlisten:\n  host: 127.0.0.1\n  port: {port}\nnum-threads: 1\nmax-connections: {CONNECTIONS_MAX}\n\
         http1-request-timeout: 600\nhttp2-idle-timeout: 600\nfile.send-gzip: OFF\nhosts:\n  default:\n    paths:\n      /:\n        \
         file.dir: {}\n",
        root.display()
    )
}
