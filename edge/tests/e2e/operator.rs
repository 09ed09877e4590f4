//! The commands an operator types and the programs around the node: `edge status`, `edge purge`, and a
//! real Prometheus that scrapes it.

use crate::support::edge::{directory, free_port, program};
use crate::support::{Client, Edge, HOST, Origin, eventually, process};
use serde_json::Value;
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};

fn edge(arguments: &[&str]) -> Output {
    Command::new(program()).args(arguments).output().expect("the binary starts")
}

#[test]
fn status_command() {
    let origin = Origin::start();
    let node = Edge::start(origin.address());
    let admin = node.admin().to_string();
    let shown = edge(&["status", "--admin", &admin]);
    assert!(shown.status.success(), "{shown:?}");
    let text = String::from_utf8_lossy(&shown.stdout);
    for said in ["steering", "worker", "store"] {
        assert!(text.to_lowercase().contains(said), "nothing of {said} in {text}");
    }
    let json = edge(&["status", "--admin", &admin, "--json"]);
    let _: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    let nobody = SocketAddr::from(([127, 0, 0, 1], free_port())).to_string();
    let unanswered = edge(&["status", "--admin", &nobody]);
    assert!(!unanswered.status.success());
    assert!(String::from_utf8_lossy(&unanswered.stderr).contains(&nobody), "{unanswered:?}");
}

#[test]
fn a_server_that_fails_is_named_with_its_reason() {
    let nobody = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let node = Edge::start(nobody);
    assert_eq!(node.get("/a").status(), 502);
    let status: Value = serde_json::from_slice(&node.admin_get("/status").body).expect("JSON");
    let server = &status["origins"][0];
    assert_eq!((&server["state"], &server["failed"]), (&"fails".into(), &1.into()), "{server}");
    assert_eq!(server["address"], format!("http://{nobody}"), "{server}");
    assert!(server["last_failure"].as_str().is_some_and(|reason| reason.contains("refused")), "{server}");
    assert!(node.log().contains("a request to the origin's server failed"), "{}", node.log());
}

#[test]
fn purge_command() {
    let origin = Origin::start();
    origin.cacheable("/a", 10);
    let node = Edge::start(origin.address());
    node.get("/a");
    node.get_hit("/a");
    let admin = node.admin().to_string();
    let done = edge(&["purge", "--url", &format!("http://{HOST}/a"), "--admin", &admin]);
    assert!(done.status.success(), "{done:?}");
    assert!(!node.get("/a").head.is_hit());
    let senseless = edge(&["purge", "--url", "no url", "--admin", &admin]);
    assert!(!senseless.status.success() && !senseless.stderr.is_empty(), "{senseless:?}");
    assert!(!edge(&["purge", "--admin", &admin]).status.success(), "says nothing of what to purge");
}

/// Over a Unix socket, and over the network with a token, with the commands and with what operators have at hand.
#[test]
fn commands_reach_a_node_whose_admin_endpoint_is_elsewhere() {
    let origin = Origin::start();
    let files = directory();
    let token = files.join("token");
    std::fs::write(&token, "0123456789abcdef0123456789abcdef\n").expect("written");
    let mut node = Edge::start(origin.address());
    let usual = node.admin().to_string();
    let kept = format!("0.0.0.0:{}\"\nadmin_token_file = \"{}", node.admin().port(), token.display());
    let socket = format!("unix:{}", files.join("admin.sock").display());
    let good = node.config();
    for (written, at, more) in [
        (&kept, usual.as_str(), vec!["--token-file", token.to_str().expect("text")]),
        (&socket, socket.as_str(), vec![]),
    ] {
        node.write_config(&good.replace(&usual, written));
        node.kill();
        node.spawn();
        let asked = |command: &[&str]| edge(&[command, &["--admin", at], &more].concat());
        eventually("it answers", || asked(&["status"]).status.success());
        assert!(asked(&["purge", "--host", HOST]).status.success());
        let url = format!("http://{HOST}/a");
        let why = asked(&["why", &url]);
        assert!(why.status.success() && String::from_utf8_lossy(&why.stdout).contains(&url), "{why:?}");
        if !more.is_empty() {
            let refused = edge(&["status", "--admin", at]);
            let said = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert!(
                !refused.status.success() && said.contains("401") && said.contains("--token-file"),
                "{said}"
            );
        }
    }
    assert!(node.stop().success());
    assert!(!files.join("admin.sock").exists(), "removed at the stop");
    let _ = std::fs::remove_dir_all(files);
}

/// Two would share its connections, and each answer some.
#[test]
fn an_address_that_another_node_serves_is_refused() {
    let origin = Origin::start();
    let first = Edge::start(origin.address());
    let files = directory();
    let text = first.config().replace(&first.admin().to_string(), &format!("127.0.0.1:{}", free_port()));
    let store = format!("path = \"{}\"", files.join("store").display());
    let old = text.lines().find(|line| line.starts_with("path = ")).expect("a path").to_owned();
    let file = files.join("edge.toml");
    std::fs::write(&file, text.replace(&old, &store)).expect("written");
    let refused = edge(&["run", "--config", file.to_str().expect("text")]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("another process listens on"), "{said}");
    assert_eq!(first.get("/nothing").status(), 404);
    let _ = std::fs::remove_dir_all(files);
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn prometheus_scrapes() {
    const HITS: usize = 7;
    if !process::has_program("prometheus_scrapes", "prometheus") {
        return;
    }
    let origin = Origin::start();
    origin.cacheable("/a", 10);
    let node = Edge::start(origin.address());
    node.get("/a");
    node.get_hit("/a");
    let before = node.metric("edge_hits_total");
    let mut client = node.client();
    for _ in 0..HITS {
        client.get("/a");
    }
    let directory = directory();
    let config = format!(
        "global: {{ scrape_interval: 1s, scrape_timeout: 1s }}\n\
         scrape_configs: [ {{ job_name: edge, static_configs: [ {{ targets: ['{}'] }} ] }} ]\n",
        node.admin()
    );
    let file = directory.join("prometheus.yml");
    std::fs::write(&file, config).expect("written");
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let child = Command::new("prometheus")
        .arg(format!("--config.file={}", file.display()))
        .arg(format!("--storage.tsdb.path={}", directory.join("data").display()))
        .arg(format!("--web.listen-address={address}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("prometheus starts");
    let running = Running(child);
    let wanted = (before + HITS as f64).to_string();
    eventually("prometheus knows the hits, and the whole of it was taken", || {
        sample(address, "edge_hits_total").as_ref() == Some(&wanted)
            && sample(address, "up").as_deref() == Some("1")
    });
    drop(running);
    let _ = std::fs::remove_dir_all(directory);
}

/// The sum of a metric as Prometheus has it.
fn sample(address: SocketAddr, metric: &str) -> Option<String> {
    let mut client = Client::try_connect(address)?;
    let path = format!("/api/v1/query?query=sum({metric})");
    client.send(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes());
    let answer: Value = serde_json::from_slice(&client.response("GET").ok()?.body).ok()?;
    answer["data"]["result"][0]["value"][1].as_str().map(String::from)
}
