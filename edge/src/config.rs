//! The configuration file, parsed once into values the rest of the node can rely on.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::path::PathBuf;

/// The whole configuration of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// CPUs for workers; `None`: all that `sched_getaffinity` allows.
    pub cpus: Option<Vec<usize>>,
    /// Addresses that speak plain HTTP.
    pub http: Vec<SocketAddr>,
    /// Where the admin endpoint listens; `None`: nowhere.
    pub admin: Option<SocketAddr>,
    /// Connections per worker.
    pub connections_max: usize,
    /// The store.
    pub store: Store,
    /// Origins in the order of their names.
    pub origins: Vec<Origin>,
    /// Routes in the order of the file; the first that matches is taken.
    pub routes: Vec<Route>,
    /// XDP, where the operator asked for it.
    pub xdp: Option<Xdp>,
}

/// `[store]`
#[derive(Clone, Debug, PartialEq)]
pub struct Store {
    /// Directory of the shard files.
    pub path: PathBuf,
    /// Bytes of all shards together.
    pub size_bytes: u64,
}

/// `[origins.NAME]`
#[derive(Clone, Debug, PartialEq)]
pub struct Origin {
    /// The NAME.
    pub name: String,
    /// `http://host:port` or `https://host:port`, tried in turn.
    pub servers: Vec<String>,
    /// Requests running at once to this origin.
    pub concurrency_max: usize,
    /// Milliseconds to connect.
    pub connect_timeout_ms: u64,
    /// Milliseconds to the head of the response.
    pub first_byte_timeout_ms: u64,
    /// PEM file of the only certificate authorities trusted for `https` servers; `None`: the public ones.
    pub ca_file: Option<PathBuf>,
}

/// `[[routes]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Host to match, lower case, without port; `None`: any.
    pub host: Option<String>,
    /// Path prefix to match; `None`: any.
    pub path: Option<String>,
    /// Header name (lower case) and exact value to match; `None`: any.
    pub header: Option<(String, String)>,
    /// Index into [`Config::origins`].
    pub origin: usize,
}

/// `[xdp]`
#[derive(Clone, Debug, PartialEq)]
pub struct Xdp {
    /// Interface name.
    pub interface: String,
    /// How to attach.
    pub mode: XdpMode,
    /// How to steer.
    pub steering: Steering,
}

/// How the XDP program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// Native, else none (with the reason in the status).
    Auto,
    /// Native or an error in the status.
    Native,
    /// Generic: slow, for tests.
    Generic,
    /// Not attached.
    Off,
}

/// How packets reach the worker's CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steering {
    /// RSS where NIC queues match the workers, cpumap else.
    Auto,
    /// The NIC's receive queues.
    Rss,
    /// Redirect to the CPU of the flow's bucket.
    Cpumap,
    /// Receive packet steering of the kernel.
    Rps,
    /// None.
    Off,
}
