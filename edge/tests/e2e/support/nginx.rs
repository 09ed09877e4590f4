//! A real nginx that serves files: an origin that nobody here has written.

use super::PATIENCE;
use super::edge::{directory, free_port};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// One request as nginx logged it.
#[derive(Clone, Debug)]
pub struct Logged {
    /// The status it answered.
    pub status: u16,
    /// Whether it was asked conditionally.
    pub conditional: bool,
    /// Bytes of the body it sent.
    pub body_bytes: u64,
}

/// The running server and its directory.
pub struct Nginx {
    /// Where it listens.
    pub address: SocketAddr,
    directory: PathBuf,
    child: Child,
}

impl Nginx {
    /// Starts one that serves the files which `write` puts into a directory, with these lines for the server.
    pub fn start(lines: &str, write: impl FnOnce(&std::path::Path)) -> Self {
        let directory = directory();
        let www = directory.join("www");
        std::fs::create_dir(&www).expect("a directory");
        write(&www);
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let here = directory.display();
        let config = format!(
            "daemon off; master_process off; pid {here}/pid; error_log {here}/error.log;\nevents {{}}\n\
             http {{ log_format all '$uri $status \"$http_if_none_match$http_if_modified_since\" $body_bytes_sent';\n\
             access_log {here}/access.log all; default_type text/plain;\n\
             client_body_temp_path {here}/b; proxy_temp_path {here}/p; fastcgi_temp_path {here}/f;\n\
             uwsgi_temp_path {here}/u; scgi_temp_path {here}/s;\n\
             server {{ listen {address}; root {here}/www; {lines} }} }}\n"
        );
        let path = directory.join("nginx.conf");
        std::fs::write(&path, config).expect("written");
        let mut command = Command::new("nginx");
        command.arg("-c").arg(&path).arg("-e").arg(directory.join("error.log"));
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("nginx starts");
        let nginx = Nginx { address, directory, child };
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < until, "nginx does not listen: {}", nginx.read("error.log"));
            std::thread::sleep(Duration::from_millis(20));
        }
        nginx
    }

    /// One of the files it serves.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join("www").join(name)
    }

    /// The requests it has answered and logged.
    pub fn log(&self) -> Vec<Logged> {
        let request = |line: &str| {
            let (start, body_bytes) = line.rsplit_once(' ')?;
            let (start, condition) = start.split_once(" \"")?;
            let (_, status) = start.split_once(' ')?;
            Some(Logged {
                status: status.parse().ok()?,
                conditional: !condition.trim_end_matches('"').is_empty(),
                body_bytes: body_bytes.parse().ok()?,
            })
        };
        self.read("access.log").lines().filter_map(request).collect()
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.join(name)).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
