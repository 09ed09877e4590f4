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
    eventually("prometheus knows the hits", || sample(address, "edge_hits_total").as_ref() == Some(&wanted));
    assert_eq!(sample(address, "up").as_deref(), Some("1"), "the whole of it was taken");
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
