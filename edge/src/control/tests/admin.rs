//! The admin endpoint over a real socket, and a real Prometheus that scrapes it.

use super::super::admin_listener::{converse, listen};
use super::super::metrics;
use super::origin::Origin;
use super::*;
use crate::config::Token;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

pub(super) struct Reply {
    pub(super) status: u16,
    head: String,
    pub(super) body: String,
}

pub(super) fn ask(address: SocketAddr, method: &str, path: &str, body: &str) -> Reply {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    exchange(socket, &request)
}

fn exchange(mut socket: impl Read + Write, request: &str) -> Reply {
    socket.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    Reply { status: head[9..12].parse().unwrap(), head: head.to_owned(), body: body.to_owned() }
}

#[test]
fn every_path_answers_and_everything_else_is_refused_with_a_reason() {
    let origin = Origin::start(|e| e.respond("200 OK", "Cache-Control: max-age=60\r\n", b"x"));
    let (node, mut workers) = start(2, &[origin.url()]);
    let address = node.handle.admin().unwrap();
    let ticket = workers[0].fill("http://a/stored?q");
    workers[0].run_until(|worker| worker.whole(ticket));
    node.await_count(Counter::FillsStored, 1);

    let large = format!("{{\"url\": \"{}\"}}", "x".repeat(limits::ADMIN_BODY_BYTES_MAX));
    let url = r#"{"url": "http://a/stored?q"}"#;
    for (method, path, body, status, says) in [
        ("GET", "/healthz", "", 200, "ok"),
        ("HEAD", "/healthz", "", 200, ""),
        ("GET", "/readyz", "", 200, "ready"),
        ("GET", "/status", "", 200, "\"objects\": 1"),
        ("GET", "/metrics", "", 200, "edge_fills_stored_total 1"),
        ("GET", "/", "", 404, "/metrics"),
        ("POST", "/status", "", 405, "GET"),
        ("GET", "/purge", "", 405, "POST"),
        ("POST", "/purge", "", 400, "send"),
        ("POST", "/purge", "{", 400, "send"),
        ("POST", "/purge", "[]", 400, "no JSON object"),
        ("POST", "/purge", r#"["http://a/stored?q", null, null, null, false]"#, 400, "no JSON object"),
        ("POST", "/purge", "{}", 400, "exactly one"),
        ("POST", "/purge", r#"{"url": "http://a/", "tag": "t"}"#, 400, "exactly one"),
        ("POST", "/purge", r#"{"uri": "http://a/"}"#, 400, "unknown field"),
        ("POST", "/purge", r#"{"url": 5}"#, 400, "invalid type"),
        ("POST", "/purge", r#"{"url": "/stored"}"#, 400, "absolute"),
        ("POST", "/purge", r#"{"tag": ""}"#, 400, "empty"),
        ("POST", "/purge", r#"{"prefix": "/a/"}"#, 400, "http://host/path/"),
        ("POST", "/purge", r#"{"host": "a:80"}"#, 400, "http://host:port/"),
        ("POST", "/purge", r#"{"tag": "t", "soft": true}"#, 200, "\"purged\":null"),
        ("POST", "/purge", r#"{"prefix": "http://a/other/"}"#, 200, "\"soft\":false"),
        ("POST", "/purge", r#"{"host": "b"}"#, 200, "\"host\":\"b\""),
        ("POST", "/purge", r#"{"url": "http://a/other", "soft": true}"#, 200, "sequence"),
        ("POST", "/purge", &large, 413, "larger"),
        ("POST", "/purge", r#"{"url": "http://a/other"}"#, 200, "\"purged\":0"),
        ("POST", "/purge", url, 200, "\"purged\":1"),
        ("POST", "/purge", url, 200, "\"purged\":0"),
    ] {
        let reply = ask(address, method, path, body);
        assert_eq!(reply.status, status, "{method} {path} {body}: {}", reply.body);
        assert!(reply.body.contains(says), "{method} {path} {body}: {}", reply.body);
    }
    assert_eq!(workers[0].stored("http://a/stored?q", ""), None);
    assert!(ask(address, "GET", "/metrics", "").head.contains("application/openmetrics-text; version=1.0.0"));
    let status: Value = serde_json::from_str(&ask(address, "GET", "/status", "").body).unwrap();
    assert_eq!(status["steering"]["mode"], json!("off"), "what boot adds is merged in");
    assert_eq!(status["counters"]["purged_objects"], json!(1));
    assert_eq!(status["store"]["objects"], json!(0));
    node.handle.stop().unwrap();
    assert!(TcpStream::connect(address).is_err(), "closed with the thread");
}

#[test]
fn an_address_others_could_reach_is_refused_without_a_token() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:9180"] {
        let wrong = listen(&admin_on(address.parse().unwrap())).err().unwrap().to_string();
        assert!(wrong.contains("admin_token_file"), "{wrong}");
    }
    let open = Admin { token: Some(token("one")), ..admin_on("0.0.0.0:0".parse().unwrap()) };
    assert!(listen(&open).unwrap().address().unwrap().is_some());
}

/// One that its text tells from others.
fn token(text: &str) -> Token {
    Token::parse(format!("{text}-0123456789abcdef").as_bytes()).unwrap()
}

#[test]
fn a_token_is_asked_for_and_follows_a_reload() {
    let directory = Arc::new(Scratch::new());
    let mut config = config(directory.path(), &["http://127.0.0.1:1".into()]);
    let with = |config: &Config, token: Option<Token>| {
        let admin = config.admin.clone().map(|admin| Admin { token, ..admin });
        Config { admin, ..config.clone() }
    };
    config = with(&config, Some(token("one")));
    let (node, _workers) = start_in(1, config.clone(), directory);
    let address = node.handle.admin().unwrap();
    let ask = |path: &str, fields: &str| {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        exchange(socket, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{fields}\r\n"))
    };
    let field = |token: Token| format!("Authorization: {}\r\n", token.authorization());
    for path in ["/metrics", "/healthz", "/readyz", "/status", "/why", "/purge", "/other"] {
        let refused = ask(path, "");
        assert_eq!(refused.status, 401, "{path}");
        assert!(refused.head.to_lowercase().contains("www-authenticate: bearer"), "{}", refused.head);
        assert!(refused.body.contains("--token-file"), "{}", refused.body);
    }
    let twice = field(token("one")) + &field(token("one"));
    for wrong in [&field(token("two")), &twice, "Authorization: Basic eDp5\r\n"] {
        assert_eq!(ask("/healthz", wrong).status, 401, "{wrong}");
    }
    assert_eq!(ask("/status", &field(token("one"))).status, 200);

    node.handle.reload(Arc::new(with(&config, Some(token("two"))))).unwrap();
    assert_eq!(ask("/status", &field(token("one"))).status, 401, "the old one is good no more");
    assert_eq!(ask("/status", &field(token("two"))).status, 200);
    node.handle.reload(Arc::new(with(&config, None))).unwrap();
    assert_eq!(ask("/status", "").status, 401, "no reload opens what the start had closed");
    node.handle.stop().unwrap();
}

#[test]
fn a_unix_socket_is_for_its_account_and_leaves_nothing_behind() {
    let directory = Arc::new(Scratch::new());
    let path = directory.path().join("admin.sock");
    let admin = Admin { address: AdminAddress::Unix(path.clone()), token: None };
    // As a process leaves it that is killed.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let mut config = config(directory.path(), &["http://127.0.0.1:1".into()]);
    config.admin = Some(admin.clone());
    let (node, _workers) = start_in(1, config, directory);
    assert_eq!(node.handle.admin(), None);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let reply = exchange(
        UnixStream::connect(&path).unwrap(),
        "GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    );
    assert!(reply.status == 200 && reply.body.contains("uptime_s"), "{}", reply.body);
    let taken = listen(&admin).err().unwrap().to_string();
    assert!(taken.contains("another process answers there"), "{taken}");
    node.handle.stop().unwrap();
    assert!(!path.exists(), "removed at the end");

    std::fs::write(&path, "a file of somebody's").unwrap();
    assert!(listen(&admin).is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "a file of somebody's");
    let nowhere = Admin { address: AdminAddress::Unix("/nowhere/admin.sock".into()), token: None };
    let wrong = listen(&nowhere).err().unwrap().to_string();
    assert!(wrong.contains("RuntimeDirectory"), "{wrong}");
}

/// Else 64 such clients would keep everybody out for good.
#[test]
fn a_client_that_reads_no_answer_is_let_go_of() {
    let directory = Scratch::new();
    let (start, _) = prepare(1, &config(directory.path(), &["http://127.0.0.1:1".into()]));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let node = super::super::Node::begin(start, metrics::latency()).unwrap();
    let metrics = metrics::Metrics::new(&node, metrics::latency());
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(4096);
        let begin = tokio::time::Instant::now();
        let asking = async {
            for _ in 0..100 {
                let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
                // It ends with an error once the other side is gone.
                if tokio::io::AsyncWriteExt::write_all(&mut client, request).await.is_err() {
                    break;
                }
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = converse(&node, &metrics, Box::new(server)) => {}
            () = asking => unreachable!("the client waits for ever"),
        }
        let most = limits::ADMIN_CONNECTION_MS + limits::ADMIN_TIMEOUT_MS;
        assert_eq!(begin.elapsed(), Duration::from_millis(most));
    });
}

/// A child that is killed at the end whatever happens.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_real_prometheus_scrapes_every_metric() {
    let Ok(found) = Command::new("prometheus").arg("--version").output() else {
        panic!("prometheus is missing: apt-get install prometheus (cargo xtask setup does it)");
    };
    assert!(found.status.success());
    let origin = Origin::start(|e| e.respond("200 OK", "Cache-Control: max-age=60\r\n", b"x"));
    let (node, mut workers) = start(2, &[origin.url()]);
    let ticket = workers[0].fill("http://a/");
    workers[0].run_until(|worker| worker.whole(ticket));
    node.await_count(Counter::FillsStored, 1);

    let scratch = Scratch::new();
    let rules = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
         scrape_configs: [{{job_name: edge, static_configs: [{{targets: ['{}']}}]}}]\n",
        node.handle.admin().unwrap()
    );
    std::fs::write(scratch.path().join("prometheus.yml"), rules).unwrap();
    let port = crate::ports::free().unwrap();
    let prometheus = Command::new("prometheus")
        .arg(format!("--config.file={}", scratch.path().join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", scratch.path().join("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _prometheus = Killed(prometheus);
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let query = |name: &str| -> Option<f64> {
        TcpStream::connect(address).ok()?;
        let reply = ask(address, "GET", &format!("/api/v1/query?query={name}"), "");
        // The body may come chunked: the document is between the first and the last brace.
        let json = &reply.body[reply.body.find('{')?..=reply.body.rfind('}')?];
        let value: Value = serde_json::from_str(json).ok()?;
        value["data"]["result"][0]["value"][1].as_str()?.parse().ok()
    };
    // A scrape that had no CPU in time takes all of them away until the next one.
    let knows = |name: &str, wanted: Option<f64>| {
        let start = Instant::now();
        loop {
            match query(name) {
                Some(found) if wanted.is_none_or(|wanted| found == wanted) => return,
                found => assert!(start.elapsed() < PATIENCE, "{name} is {found:?}, up is {:?}", query("up")),
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    for name in ["edge_fills_stored_total", "up", "edge_up", "edge_store_objects", "edge_build_info"] {
        knows(name, Some(1.0));
    }
    knows("edge_workers", Some(2.0));
    knows("edge_origin_fetch_seconds_count", Some(1.0));
    for (_, name, _) in crate::stats::TABLE {
        knows(&format!("edge_{name}_total"), None);
    }
    for (_, name, _) in crate::stats::GAUGES {
        knows(&format!("edge_{name}"), None);
    }
    node.handle.stop().unwrap();
}
