//! The configuration file, parsed once into values the rest of the node can rely on.
//!
//! `problem` says what is wrong and where, `value` what one value means, `read` walks the document, and
//! `build` knows the keys. Nothing here opens a socket or changes the machine.
#![forbid(unsafe_code)]

mod admin;
mod build;
mod caching;
mod clients;
mod https;
mod origins;
mod problem;
mod read;
mod value;

use crate::limits;
use crate::proto::forwarded::Style;
use crate::proto::query;
use crate::proto::route::Pattern;
use crate::proto::transport;
use crate::shard::Hold;
pub use admin::{Admin, AdminAddress, Token};
pub use clients::{Clients, Network};
pub use problem::{PROBLEMS_MAX, Problem, Problems};
use problem::{Sink, position};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What the checks ask of the file system; tests answer for it.
pub trait Files {
    /// Whether this is a file that can be read; else why not.
    fn readable(&self, path: &Path) -> Result<(), String>;

    /// What is in it; else why it cannot be had.
    fn read(&self, path: &Path) -> Result<Vec<u8>, String>;

    /// The time, Unix seconds: certificates end.
    fn unix_s(&self) -> u64;
}

/// The real file system.
struct Disk;

impl Files for Disk {
    fn readable(&self, path: &Path) -> Result<(), String> {
        match std::fs::File::open(path).and_then(|file| file.metadata()) {
            Ok(meta) if meta.is_dir() => Err("it is a directory".into()),
            Ok(_) => Ok(()),
            Err(error) => Err(plain(&error)),
        }
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>, String> {
        contents(path)
    }

    fn unix_s(&self) -> u64 {
        crate::clock::now().unix_s
    }
}

/// A file of at most [`limits::CERTIFICATE_FILE_BYTES_MAX`].
///
/// # Errors
/// Why it cannot be had, in words that follow "cannot be read:".
pub fn contents(path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let limit = limits::CERTIFICATE_FILE_BYTES_MAX as u64 + 1;
    let file = std::fs::File::open(path).map_err(|error| plain(&error))?;
    file.take(limit).read_to_end(&mut bytes).map_err(|error| plain(&error))?;
    if bytes.len() > limits::CERTIFICATE_FILE_BYTES_MAX {
        return Err(format!("it is larger than {} bytes", limits::CERTIFICATE_FILE_BYTES_MAX));
    }
    Ok(bytes)
}

/// Reads and checks a file, and that the files it names can be read.
///
/// # Errors
/// Everything that is wrong, as `file:line:col: what; what would be right`, one a line.
pub fn load(path: &Path) -> Result<Config, Problems> {
    let file = path.display().to_string();
    let failed = |error: std::io::Error| {
        let why = plain(&error);
        Problems::one(
            &file,
            (1, 1),
            format!("the file cannot be read: {why}; name a file that this account may read"),
        )
    };
    let mut bytes = Vec::new();
    let limit = limits::CONFIG_BYTES_MAX as u64 + 1;
    std::fs::File::open(path).map_err(failed)?.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    parse(&file, &bytes, &Disk)
}

/// Parses and checks the bytes of a file that is called `file` in messages.
///
/// # Errors
/// As [`load`].
pub fn parse(file: &str, bytes: &[u8], files: &dyn Files) -> Result<Config, Problems> {
    if bytes.len() > limits::CONFIG_BYTES_MAX {
        let max = limits::CONFIG_BYTES_MAX;
        let message = format!("the file is larger than {max} bytes; remove what is not configuration");
        return Err(Problems::one(file, (1, 1), message));
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let good = std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default();
            let place = position(good, good.len());
            return Err(Problems::one(file, place, "this is not UTF-8; save the file as UTF-8".into()));
        }
    };
    let sink = RefCell::new(Sink::new(text));
    let (document, errors) = toml::de::DeTable::parse_recoverable(text);
    for error in &errors {
        let span = error.span().unwrap_or(0..0);
        sink.borrow_mut().report(&span, format!("not TOML: {}", syntax(error.message())));
    }
    // A document with holes would only produce problems that are not there.
    let config = if errors.is_empty() { build::build(document.get_ref(), &sink, files) } else { None };
    let clean = sink.borrow().is_empty();
    match config {
        Some(config) if clean => Ok(Config { warnings: sink.into_inner().warnings(file), ..config }),
        _ => Err(sink.into_inner().into_problems(file)),
    }
}

/// The parser's own words, with what would be right where it does not say.
fn syntax(message: &str) -> String {
    let right = match message {
        "duplicate key" => "; it stands earlier in the file, keep one of them",
        "string values must be quoted, expected literal string" => "; put the value between double quotes",
        "unexpected key or value, expected newline, `#`" => "; give every key a line of its own",
        _ => "",
    };
    format!("{message}{right}")
}

/// An error of the operating system without its number.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    let end = text.find(" (os error").unwrap_or(text.len());
    text[..end].to_lowercase()
}

/// The whole configuration of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// CPUs for workers; `None`: all that `sched_getaffinity` allows.
    pub cpus: Option<Vec<usize>>,
    /// Addresses that speak plain HTTP.
    pub http: Vec<SocketAddr>,
    /// Whether clients may speak HTTP/2 there, if they know beforehand that it is spoken.
    pub http2_cleartext: bool,
    /// Certificates, and the addresses that speak TLS with them, in the order of the file.
    pub https: Vec<Https>,
    /// What clients of TLS may agree on.
    pub tls: Tls,
    /// What is right and should be known all the same, as `file:line:col: what; what would be right`.
    pub warnings: Vec<String>,
    /// Proxies in front of the node, whose word on the clients behind them is passed on.
    pub trusted_proxies: Vec<Network>,
    /// Where the admin endpoint listens, and who may ask; `None`: nowhere.
    pub admin: Option<Admin>,
    /// What clients may take of the node.
    pub clients: Clients,
    /// The shards of the store, at least one.
    pub store: Vec<Shard>,
    /// Origins in the order of their names.
    pub origins: Vec<Origin>,
    /// Routes in the order of the file; the first that matches is taken.
    pub routes: Vec<Route>,
    /// XDP, where the operator asked for it.
    pub xdp: Option<Xdp>,
}

impl Config {
    /// Bytes of all shards together.
    pub fn store_bytes(&self) -> u64 {
        self.store.iter().map(|shard| shard.size_bytes).sum()
    }

    /// The routes' rules for keys.
    pub fn queries(&self) -> Arc<query::Rules> {
        let rule = |route: &Route| (route.pattern.clone(), route.caching.query.clone());
        Arc::new(query::Rules::new(self.routes.iter().map(rule)))
    }

    /// What the routes rule for the way clients come.
    pub fn transport(&self) -> Arc<transport::Policies> {
        let policy = |route: &Route| {
            let Transport { hsts, client_certificate, .. } = route.transport.clone();
            (route.pattern.clone(), transport::Policy { hsts, client_certificate })
        };
        Arc::new(transport::Policies::new(self.routes.iter().map(policy)))
    }

    /// The sections that differ and only take effect with a restart; the rest follows a reload.
    pub fn needs_restart(&self, new: &Config) -> Vec<&'static str> {
        let https = |config: &Config| config.https.iter().map(|entry| entry.address).collect::<BTreeSet<_>>();
        // A token follows a reload where there was one at the start, or is none still.
        let admin = |config: &Config| {
            config.admin.as_ref().map(|admin| (admin.address.clone(), admin.token.is_some()))
        };
        let differs = [
            ("node", self.cpus != new.cpus),
            (
                "listen",
                self.http != new.http
                    || self.http2_cleartext != new.http2_cleartext
                    || admin(self) != admin(new)
                    || https(self) != https(new),
            ),
            ("store", self.store != new.store),
            ("xdp", self.xdp != new.xdp),
            ("limits", self.clients != new.clients),
            ("tls.kernel", self.tls.kernel != new.tls.kernel),
        ];
        differs.into_iter().filter(|(_, differs)| *differs).map(|(section, _)| section).collect()
    }
}

/// One of `[[listen.https]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Https {
    /// Where to listen; several entries may share it, each for the names of its certificate.
    pub address: SocketAddr,
    /// PEM file: the server's certificate, then its chain.
    pub certificate: PathBuf,
    /// PEM file of its private key.
    pub key: PathBuf,
    /// DER file of an OCSP response to staple.
    pub ocsp: Option<PathBuf>,
    /// PEM file of the authorities whose clients alone may connect; the same for all entries of an address.
    pub client_ca: Option<PathBuf>,
}

/// `[tls]`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tls {
    /// TLS 1.2 is refused.
    pub tls13_only: bool,
    /// Ciphers to offer; empty: all that are safe.
    pub ciphers: Vec<rustls::CipherSuite>,
    /// Handshakes that a worker begins within a second at most; `None`: all that come.
    pub handshakes_per_second: Option<u32>,
    /// The kernel may seal records where it can.
    pub kernel: bool,
}

/// `[store]`, or one `[[store.shards]]`
#[derive(Clone, Debug, PartialEq)]
pub struct Shard {
    /// Directory of the shard's files.
    pub path: PathBuf,
    /// Bytes of the shard.
    pub size_bytes: u64,
    /// Bytes an object takes on average: what the index is sized for. One figure for all shards.
    pub object_bytes: u64,
    /// Directory of the files that are written, not mapped; `None`: see [`crate::shard::Options`].
    pub state: Option<PathBuf>,
    /// Whether its pages are brought in at the start, and stay. The same for all shards.
    pub hold: Hold,
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
    /// PEM file of the authorities that https servers are checked against; `None`: those built in.
    pub ca_file: Option<PathBuf>,
    /// How it is told of clients.
    pub forwarded: Style,
}

/// `[[routes]]`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Route {
    /// What requests it is for.
    pub pattern: Pattern,
    /// Index into [`Config::origins`].
    pub origin: usize,
    /// What it rules for the way clients come.
    pub transport: Transport,
    /// What the operator rules for caching.
    pub caching: Caching,
}

/// What a route rules for the way clients come.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transport {
    /// `hsts`: Strict-Transport-Security of responses over TLS.
    pub hsts: Option<String>,
    /// `https_redirect`: requests without TLS are sent to the https URL.
    pub https_redirect: bool,
    /// `client_certificate`: only clients that have shown a certificate are served.
    pub client_certificate: bool,
    /// `upgrade`: connections may go over to WebSocket.
    pub websocket: bool,
}

/// What a route rules for the caching of its responses. The default rules nothing: then the origin alone does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caching {
    /// `ttl`: lifetime in seconds where the origin gives none.
    pub ttl_s: Option<u32>,
    /// `ttl_override`: lifetime in seconds whatever the origin gives.
    pub ttl_override_s: Option<u32>,
    /// `stale_max`: seconds after its lifetime that a response may be served at most.
    pub stale_max_s: Option<u32>,
    /// `strip_cookie`: GETs are sent to the origin without Cookie.
    pub strip_cookie: bool,
    /// `strip_set_cookie`: Set-Cookie is taken out of responses to GET before they are judged.
    pub strip_set_cookie: bool,
    /// `query_ignore`, `query_only`, `query_sort`: which arguments of a query count for keys; `None`: all, as they are.
    pub query: Option<Arc<query::Rule>>,
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
