//! Runs the real binary: writes its configuration, starts it, waits until it is ready, reads its admin
//! endpoint, and makes sure it is gone when the test is.

use super::client::{Client, Response};
use super::{PATIENCE, eventually, ports};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The Host of requests.
pub const HOST: &str = "edge.test";

/// What a test wants different from the smallest configuration.
#[derive(Clone, Debug)]
pub struct Setup {
    /// `cpus` of `[node]`.
    pub cpus: Option<String>,
    /// `size` of `[store]`.
    pub store_size: String,
    /// Lines for `[origins.main]`.
    pub origin_lines: String,
    /// Lines after those of `[listen]`, such as `[[listen.https]]` sections.
    pub listen_lines: String,
    /// Lines for `[limits]`.
    pub limit_lines: String,
    /// Lines for `[store]`.
    pub store_lines: String,
    /// `path` of `[store]`, if it is not to be in the directory of the test.
    pub store_path: Option<PathBuf>,
    /// A control group that the process starts in.
    pub cgroup: Option<PathBuf>,
    /// Lines for the route, `host = "…"` and the like.
    pub route_lines: String,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            cpus: None,
            store_size: "128MiB".into(),
            origin_lines: String::new(),
            listen_lines: String::new(),
            limit_lines: String::new(),
            store_lines: String::new(),
            store_path: None,
            cgroup: None,
            route_lines: String::new(),
        }
    }
}

/// A running edge and its directory.
pub struct Edge {
    directory: PathBuf,
    setup: Setup,
    origin: SocketAddr,
    http: SocketAddr,
    admin: SocketAddr,
    child: Option<Child>,
}

impl Edge {
    /// Starts one in front of an origin.
    pub fn start(origin: SocketAddr) -> Self {
        Self::start_with(origin, Setup::default())
    }

    /// Starts one with a different set-up.
    pub fn start_with(origin: SocketAddr, setup: Setup) -> Self {
        let http = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut edge = Edge { directory: directory(), setup, origin, http, admin, child: None };
        edge.write_config(&edge.config());
        edge.run();
        edge
    }

    /// Where clients connect.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Where the admin endpoint listens.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The process.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.as_ref().expect("edge runs").id() as i32)
    }

    /// A new connection.
    pub fn client(&self) -> Client {
        Client::connect(self.http)
    }

    /// A GET on a connection of its own.
    pub fn get(&self, path: &str) -> Response {
        self.client().get(path)
    }

    /// Asks for a path until it is a hit. A miss answers its client before the object is published, so
    /// the next request may still join the fill; the origin must not be asked for that.
    pub fn get_hit(&self, path: &str) -> Response {
        let until = Instant::now() + PATIENCE;
        loop {
            let response = self.get(path);
            if response.head.is_hit() {
                return response;
            }
            assert!(Instant::now() < until, "{path} never became a hit: {:?}", response.head);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Asks the admin endpoint.
    pub fn admin_get(&self, path: &str) -> Response {
        Client::connect(self.admin).get(path)
    }

    /// Purges; returns the response.
    pub fn purge(&self, json: &str) -> Response {
        let mut client = Client::connect(self.admin);
        client.send(
            format!(
                "POST /purge HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{json}",
                self.admin,
                json.len()
            )
            .as_bytes(),
        );
        client.response("POST").expect("an answer to the purge")
    }

    /// Every sample of `/metrics`, summed over labels.
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let response = self.admin_get("/metrics");
        assert_eq!(response.status(), 200);
        let text = String::from_utf8(response.body).expect("metrics are UTF-8");
        let mut sums = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("metric line {line:?}"));
            let name = name.split('{').next().unwrap_or(name).to_string();
            *sums.entry(name).or_insert(0.0) +=
                value.parse::<f64>().unwrap_or_else(|_| panic!("metric line {line:?}"));
        }
        sums
    }

    /// One metric, by its full name.
    pub fn metric(&self, name: &str) -> f64 {
        *self.metrics().get(name).unwrap_or_else(|| panic!("no metric {name}"))
    }

    /// Waits until so many fills were published: the last byte reaches a client a moment earlier.
    pub fn wait_stored(&self, fills: f64) {
        eventually("stored", || self.metric("edge_fills_stored_total") >= fills);
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("signalled");
    }

    /// Stops it with TERM and waits for its end.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    /// Waits until every connection that was made has ended for it, too, and its place is free.
    pub fn wait_closed(&self) {
        eventually("all connections have ended", || {
            let metrics = self.metrics();
            metrics["edge_connections_accepted_total"] == metrics["edge_connections_closed_total"]
        });
    }

    /// Kills it without warning.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Waits for the end of a process that was told to stop.
    pub fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("edge runs");
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().expect("waited") {
                return status;
            }
            if Instant::now() > until {
                let _ = child.kill();
                let _ = child.wait();
                panic!("edge did not stop within {PATIENCE:?}\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Starts it again on the same store and ports.
    pub fn run(&mut self) {
        self.spawn();
        self.await_ready();
    }

    /// The same, and does not wait until it is ready.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "edge runs already");
        let log = std::fs::File::options().create(true).append(true).open(self.log_path()).expect("a log");
        let mut command = match &self.setup.cgroup {
            None => Command::new(program()),
            Some(cgroup) => {
                let mut command = Command::new("sh");
                command
                    .args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""])
                    .arg(cgroup)
                    .arg(program());
                command
            }
        };
        let child = command
            .arg("run")
            .arg("--config")
            .arg(self.config_path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        self.child = Some(child);
    }

    /// What it has written to its outputs.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The configuration the set-up stands for.
    pub fn config(&self) -> String {
        let Edge { setup, http, admin, origin, directory, .. } = self;
        let node =
            setup.cpus.as_ref().map(|cpus| format!("[node]\ncpus = \"{cpus}\"\n\n")).unwrap_or_default();
        format!(
            "{node}[listen]\nhttp = [\"{http}\"]\nadmin = \"{admin}\"\n{}\n\
             [limits]\n{}\n\n\
             [store]\npath = \"{}\"\nsize = \"{}\"\n{}\n\n\
             [origins.main]\nservers = [\"http://{origin}\"]\n{}\n\n\
             [[routes]]\norigin = \"main\"\n{}\n",
            setup.listen_lines,
            setup.limit_lines,
            setup.store_path.clone().unwrap_or_else(|| directory.join("store")).display(),
            setup.store_size,
            setup.store_lines,
            setup.origin_lines,
            setup.route_lines,
        )
    }

    /// Replaces the configuration file.
    pub fn write_config(&self, text: &str) {
        std::fs::write(self.config_path(), text).expect("the configuration is written");
    }

    /// The configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.directory.join("edge.toml")
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("edge.log")
    }

    fn await_ready(&mut self) {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().expect("waited")) {
                self.child = None;
                panic!("edge ended at start with {status}\n{}", self.log());
            }
            if std::net::TcpStream::connect(self.admin).is_ok() && self.admin_get("/readyz").status() == 200 {
                return;
            }
            assert!(Instant::now() < until, "edge was not ready within {PATIENCE:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- edge wrote:\n{}--- (end)", self.log());
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// The binary under test: the one cargo built for these tests, or another build named by `EDGE_BIN`.
pub fn program() -> PathBuf {
    std::env::var_os("EDGE_BIN")
        .map_or_else(|| Path::new(env!("CARGO_BIN_EXE_edge")).to_path_buf(), PathBuf::from)
}

/// A port of this process alone that nobody listens on.
pub fn free_port() -> u16 {
    ports::free().expect("a free port")
}

/// A new empty directory.
pub fn directory() -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = format!("edge-e2e-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&path).expect("a temporary directory");
    path
}
