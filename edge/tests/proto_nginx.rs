//! Our parser of request heads beside that of a real nginx, which shares no line with ours: on generated heads, both take
//! the same request, or the difference is in the table with the section of the RFC that it rests on.
#![allow(clippy::disallowed_methods, reason = "tests wait in real time")]

#[path = "proto_generated/mod.rs"]
mod generated;
#[path = "e2e/support/ports.rs"]
mod ports;

use edge::limits;
use edge::proto::request::{BodyLength, RequestHead};
use generated::{Class, How, Taken, Verdict};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const HEADS: usize = 20_000;
const PATIENCE: Duration = Duration::from_secs(30);
/// Fields that nginx tells back, beside what the request line says; of each the first line counts.
const TOLD: [&str; 6] = ["host", "accept", "user-agent", "x-a", "x-b", "transfer-encoding"];

struct Nginx {
    child: Child,
    address: SocketAddr,
    directory: PathBuf,
}

impl Nginx {
    fn start() -> Self {
        let directory = std::env::temp_dir().join(format!("edge-heads-nginx-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let address = SocketAddr::from(([127, 0, 0, 1], ports::free().expect("a port")));
        let fields = TOLD.map(|name| format!("$http_{}", name.replace('-', "_")));
        let line =
            ["$request_method", "$request_uri", "$server_protocol", "$content_length"].map(str::to_owned);
        // In fields, for the answer to a HEAD has nothing else.
        let told: String = line
            .iter()
            .chain(&fields)
            .enumerate()
            .map(|(number, value)| format!("add_header T{number} \"{value}\"; "))
            .collect();
        let here = directory.display();
        let config = format!(
            "daemon off; master_process off; pid {here}/pid; error_log {here}/error.log crit;\n\
             events {{}}\nhttp {{ access_log off; client_body_temp_path {here}/b; proxy_temp_path {here}/p; \
             fastcgi_temp_path {here}/f; uwsgi_temp_path {here}/u; scgi_temp_path {here}/s;\n\
             client_header_buffer_size 64k; large_client_header_buffers 4 64k; default_type text/plain;\n\
             server {{ listen {address}; location / {{ \
             {told}return 200 \"\"; }} }} }}\n"
        );
        let path = directory.join("nginx.conf");
        std::fs::write(&path, config).expect("written");
        let mut command = Command::new("nginx");
        command.arg("-e").arg(directory.join("error.log")).arg("-c").arg(&path);
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("nginx starts");
        let nginx = Nginx { child, address, directory };
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < until, "nginx does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        nginx
    }

    /// All that it answers to these bytes, after which nothing comes.
    fn answer(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).expect("nginx accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        // It may close before it has read everything.
        let _ = stream.write_all(bytes).and_then(|()| stream.shutdown(Shutdown::Write));
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer
    }

    fn verdict(&self, bytes: &[u8]) -> Verdict {
        let answer = self.answer(bytes);
        let mut answer = String::from_utf8_lossy(&answer).into_owned();
        while let Some(rest) = answer.strip_prefix("HTTP/1.1 100 Continue\r\n\r\n") {
            answer = rest.to_owned();
        }
        let Some((head, _)) = answer.split_once("\r\n\r\n") else {
            // HTTP/0.9 is answered without a head, and a part of a request not at all.
            return if answer.is_empty() { Verdict::Incomplete } else { Verdict::Taken(simple()) };
        };
        if !head.starts_with("HTTP/1.1 200 ") {
            return Verdict::Refused;
        }
        let told = |number: usize| {
            let name = format!("T{number}: ");
            head.split("\r\n").find_map(|line| line.strip_prefix(&name)).unwrap_or_default().to_owned()
        };
        let fields: Vec<(String, Vec<u8>)> = TOLD
            .iter()
            .enumerate()
            .map(|(number, name)| ((*name).to_owned(), told(4 + number).into_bytes()))
            .filter(|(_, value)| !value.is_empty())
            .collect();
        let chunked = fields.iter().any(|(name, _)| name == "transfer-encoding");
        let body = match told(3).parse() {
            _ if chunked => BodyLength::Chunked,
            Ok(0) | Err(_) => BodyLength::None,
            Ok(bytes) => BodyLength::Bytes(bytes),
        };
        Verdict::Taken(Box::new(Taken {
            method: told(0),
            path: told(1),
            minor_version: u8::from(told(2) == "HTTP/1.1"),
            keep_alive: (body == BodyLength::None).then(|| head.contains("Connection: keep-alive")),
            body,
            fields,
        }))
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn simple() -> Box<Taken> {
    let (method, path) = ("GET".into(), "HTTP/0.9".into());
    let fields = Vec::new();
    Box::new(Taken { method, path, minor_version: 0, fields, body: BodyLength::None, keep_alive: None })
}

/// What of ours nginx can tell: those fields, the first of each name, without empty ones, as text.
fn told(bytes: &[u8]) -> Verdict {
    let mut verdict = generated::ours(bytes);
    if let Verdict::Taken(taken) = &mut verdict {
        let mut head = RequestHead::default();
        let _ = head.parse(bytes);
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned().into_bytes();
        let first = |name: &&str| Some(((*name).to_owned(), text(head.field(name)?)));
        taken.fields = TOLD.iter().filter_map(first).filter(|(_, value)| !value.is_empty()).collect();
        if taken.body == BodyLength::Bytes(0) {
            taken.body = BodyLength::None;
        }
    }
    verdict
}

#[rustfmt::skip]
const CLASSES: &[Class] = &[
    (How::Stricter, "a field whose name is no token, which nginx leaves out (RFC 9110 section 5.1)", |l| {
        l.fields.iter().any(|(name, _)| name.is_empty() || !name.iter().all(|&byte| is_token(byte)))
    }),
    (How::Stricter, "more fields than we take (RFC 6585 section 5)", |l| l.fields.len() > limits::REQUEST_FIELDS_MAX),
    (How::Laxer, "a percent sign that encodes nothing, which is passed on as it is (RFC 3986 section 2.1)", |l| {
        l.target.split(|&byte| byte == b'%').skip(1).any(|rest| rest.iter().take_while(|byte| byte.is_ascii_hexdigit()).count() < 2)
    }),
    (How::Laxer, "a method of other bytes than capitals, _ and - (RFC 9110 section 9.1: any token)", |l| {
        l.method.iter().any(|&byte| !byte.is_ascii_uppercase() && !b"_-".contains(&byte))
    }),
    (How::Laxer, "a Content-Length beyond 2^63 (RFC 9110 section 8.6: any number)", |l| {
        l.all("content-length").iter().any(|value| value.len() >= 19)
    }),
    (How::Stricter, "a CR that ends no line (section 2.2: MUST be invalid, or a blank)", |l| {
        l.bytes.windows(2).any(|two| two[0] == b'\r' && two[1] != b'\n')
    }),
    (How::Stricter, "a control byte in a value (RFC 9110 section 5.5: SHOULD be refused)", |l| {
        l.bytes.iter().any(|byte| byte.is_ascii_control() && !b"\t\r\n".contains(byte))
    }),
    (How::Stricter, "a later minor version (section 2.3; nobody sends one)", |l| l.version.starts_with(b"HTTP/1.") && !matches!(l.version, b"HTTP/1.0" | b"HTTP/1.1")),
    (How::Stricter, "a blank behind the version (section 3)", |l| l.bytes.windows(9).any(|nine| nine == b"HTTP/1.1 ")),
    (How::Laxer, "Expect twice, which says the same (RFC 9110 section 10.1.1)", |l| l.all("expect").len() > 1),
    (How::Stricter, "a line without a colon, which nginx leaves out (section 5)", |l| {
        let lines = l.bytes.split(|&byte| byte == b'\n').skip(1).map(<[u8]>::trim_ascii);
        lines.filter(|line| !line.is_empty()).any(|line| !line.contains(&b':'))
    }),
    (How::Stricter, "HTTP/0.9, and what it makes of a line without a version (section 2.3)", |l| l.version.is_empty()),
    (How::Laxer, "HTTP/0.9, the same where nginx answers nothing", |l| l.version.is_empty()),
    (How::Laxer, "OPTIONS of a whole server (section 3.2.4)", |l| l.method == b"OPTIONS" && l.target == b"*"),
    (How::Otherwise, "close among several options, of which nginx heeds the last line, and looks for letters only (section 9.6)", |l| {
        l.all("connection").concat().to_ascii_lowercase().windows(5).any(|five| five == b"close")
    }),
    (How::Laxer, "tabs around a Host, of which nginx leaves out spaces alone (RFC 9110 section 5.6.3)", |l| l.bytes.contains(&b'\t')),
    (How::Otherwise, "tabs around a value, of which nginx leaves out spaces alone (RFC 9110 section 5.6.3)", |l| l.bytes.contains(&b'\t')),
];

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[test]
fn every_difference_from_nginx_is_explained() {
    if Command::new("nginx").arg("-v").stderr(Stdio::null()).status().is_err() {
        eprintln!("NOT TESTED: nginx is not installed; cargo xtask setup brings it");
        return;
    }
    let nginx = Nginx::start();
    generated::compare(HEADS, CLASSES, told, |bytes| nginx.verdict(bytes));
}
