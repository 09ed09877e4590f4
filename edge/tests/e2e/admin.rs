//! What an operator can ask and tell a running node: metrics, health, status, purge, signals.

use crate::support::{Answer, Client, Edge, Fault, Gate, HOST, Origin, content, eventually, request};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::time::Duration;

fn start() -> (Origin, Edge) {
    let origin = Origin::start();
    origin.cacheable("/a", 1000);
    origin.cacheable("/b", 1000);
    let edge = Edge::start(origin.address());
    for path in ["/a", "/b"] {
        edge.get(path);
        edge.get_hit(path);
    }
    (origin, edge)
}

#[test]
fn health_and_status() {
    let (_origin, edge) = start();
    assert_eq!(edge.admin_get("/healthz").status(), 200);
    assert_eq!(edge.admin_get("/readyz").status(), 200);
    assert_eq!(edge.admin_get("/no-such-thing").status(), 404);
    let status = edge.admin_get("/status");
    assert_eq!(status.status(), 200);
    let status: Value = serde_json::from_slice(&status.body).expect("the status is JSON");
    let text = status.to_string();
    for said in ["workers", "steering", "store"] {
        assert!(text.contains(said), "the status says nothing of {said}: {text}");
    }
}

#[test]
fn metrics_count_what_happened() {
    let (origin, edge) = start();
    let before = edge.metrics();
    let mut client = edge.client();
    for _ in 0..10 {
        assert!(client.get("/a").head.is_hit());
    }
    client.get("/missing");
    client.request("POST", "/a", &[("Content-Length", "0")]);
    client.send(b"GET /a HTTP/1.1\r\n\r\n");
    assert_eq!(client.response("GET").expect("a refusal").status(), 400);
    let grown = |name: &str| {
        let now = edge.metrics();
        now.get(name).unwrap_or_else(|| panic!("no metric {name}")) - before.get(name).copied().unwrap_or(0.0)
    };
    eventually("the metrics have it", || grown("edge_connections_closed_total") >= 1.0);
    assert_eq!(grown("edge_hits_total"), 10.0);
    assert_eq!(grown("edge_misses_total"), 1.0);
    assert_eq!(grown("edge_passes_total"), 1.0);
    assert_eq!(grown("edge_requests_refused_total"), 1.0);
    assert_eq!(grown("edge_connections_accepted_total"), 1.0);
    assert_eq!(grown("edge_origin_requests_total"), 2.0);
    assert!(grown("edge_requests_total") >= 12.0);
    assert!(grown("edge_sent_bytes_total") >= 10_000.0);
    assert!(grown("edge_ring_enters_total") > 0.0);
    assert_eq!(origin.count_all(), 4);
    let text = edge.admin_get("/metrics");
    assert!(
        text.field("content-type").is_some_and(|t| t.starts_with("application/openmetrics-text")),
        "{:?}",
        text.head
    );
    assert!(text.body.ends_with(b"# EOF\n"));
}

#[test]
fn the_status_estimates_what_other_sizes_would_do() {
    let origin = Origin::start();
    let edge = Edge::start(origin.address());
    let mut client = edge.client();
    // One key of sixteen is sampled. All fit, at half the size too.
    for path in (0..300).map(|number| format!("/shadow/{number}")) {
        origin.cacheable(&path, 1000);
        client.get(&path);
    }
    for path in (0..300).map(|number| format!("/shadow/{number}")) {
        client.get(&path);
    }
    let shadow = || {
        let status = edge.admin_get("/status");
        serde_json::from_slice::<Value>(&status.body).expect("the status is JSON")["store"]["shadow"].clone()
    };
    let ratio = |size: usize| shadow()["sizes"][size]["estimated_hit_ratio"].as_f64().unwrap_or(-1.0);
    eventually("half of the requests were hits, and would be at any size", || {
        (0..3).all(|size| (ratio(size) - 0.5).abs() < 0.01)
    });
    assert!(shadow()["samples"].as_u64().is_some_and(|samples| samples >= 10), "{:#}", shadow());
    let text = String::from_utf8(edge.admin_get("/metrics").body).expect("text");
    for line in [
        "edge_store_estimated_hit_ratio{size=\"0.5\"} 0.",
        "edge_store_estimated_hit_ratio{size=\"2\"} 0.",
        "edge_store_evicted_age_seconds_bucket{le=\"3600.0\"} 0",
        "edge_store_evicted_age_seconds_bucket{le=\"+Inf\"} 0",
        "edge_shadow_samples_lost_total 0",
    ] {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
}

#[test]
fn purge_by_url() {
    let (origin, mut edge) = start();
    let purged = edge.purge(&format!(r#"{{"url": "http://{HOST}/a"}}"#));
    assert_eq!(purged.status(), 200, "{}", String::from_utf8_lossy(&purged.body));
    let again = edge.get("/a");
    assert!(!again.head.is_hit(), "served after its purge");
    assert_eq!(origin.count("/a"), 2);
    assert!(edge.get("/b").head.is_hit(), "others stay");
    edge.get_hit("/a");
    assert_eq!(edge.purge(&format!(r#"{{"url": "http://{HOST}/a"}}"#)).status(), 200);
    edge.kill();
    edge.run();
    assert!(!edge.get("/a").head.is_hit(), "what was purged came back after a crash");
    assert!(edge.get("/b").head.is_hit());
    assert_eq!((origin.count("/a"), origin.count("/b")), (3, 1));
}

#[test]
fn purges_that_make_no_sense() {
    let (_origin, edge) = start();
    for body in [
        "",
        "{",
        "[]",
        "{}",
        r#"{"url": 5}"#,
        r#"{"url": "/a"}"#,
        r#"{"url": "not a url"}"#,
        r#"{"link": "x"}"#,
    ] {
        let response = edge.purge(body);
        assert!((400..500).contains(&response.status()), "{body:?}: {}", response.status());
        assert!(!response.body.is_empty(), "{body:?}: says what would be right");
    }
    let wrong = edge.admin_get("/purge");
    assert_eq!(wrong.status(), 405);
    assert!(edge.get("/a").head.is_hit() && edge.get("/b").head.is_hit());
    assert_eq!(edge.purge(&format!(r#"{{"url": "http://{HOST}/never-seen"}}"#)).status(), 200);
}

/// A fill that began before a purge must not bring the old object back.
#[test]
fn purge_during_a_fill() {
    let origin = Origin::start();
    let gate = Gate::default();
    let old = Answer::new(200).field("Cache-Control", "max-age=3600").body("old old old").hold(4, &gate);
    let new = Answer::new(200).field("Cache-Control", "max-age=3600").body("new");
    origin.script("/a", move |exchange| exchange.answer(if exchange.earlier == 0 { &old } else { &new }));
    let edge = Edge::start(origin.address());
    let mut client = edge.client();
    client.send(request("GET", "/a", &[]).as_bytes());
    client.head().expect("a head");
    client.await_byte().expect("the start of the body");
    assert_eq!(edge.purge(&format!(r#"{{"url": "http://{HOST}/a"}}"#)).status(), 200);
    gate.open();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(edge.get("/a").body, b"new");
    assert_eq!(edge.get_hit("/a").body, b"new");
}

/// Stopping lets what is on its way arrive.
#[test]
fn term_drains() {
    const BYTES: u64 = 600_000;
    let origin = Origin::start();
    let gate = Gate::default();
    origin.on("/stored", Answer::cacheable("/stored", BYTES).hold(1000, &gate));
    origin.on(
        "/passed",
        Answer::new(200).field("Cache-Control", "no-store").pattern("/passed", BYTES).hold(1000, &gate),
    );
    origin.cacheable("/idle", 10);
    let mut edge = Edge::start(origin.address());
    let mut idle = edge.client();
    idle.get("/idle");
    let mut flying: Vec<(&str, Client)> = ["/stored", "/passed"].map(|path| (path, edge.client())).into();
    let mut heads = Vec::new();
    for (path, client) in &mut flying {
        client.send(request("GET", path, &[]).as_bytes());
        heads.push(client.head().expect("a head"));
    }
    assert_eq!(edge.admin_get("/readyz").status(), 200);
    edge.signal(Signal::SIGTERM);
    eventually("balancers are told", || edge.admin_get("/readyz").status() == 503);
    eventually("newcomers are turned away", || {
        let Some(mut late) = Client::try_connect(edge.http()) else { return true };
        late.send(request("GET", "/idle", &[]).as_bytes());
        matches!(late.response("GET"), Err(Fault::Closed | Fault::Broken))
    });
    gate.open();
    for ((path, client), head) in flying.iter_mut().zip(&heads) {
        let mut body = Vec::new();
        let end = client.body("GET", head, &mut |piece| body.extend_from_slice(piece));
        assert_eq!(end, Ok(()), "{path} was cut");
        assert!(body == content::part(content::seed(path), 0, BYTES), "{path}");
    }
    let status = edge.wait();
    assert!(status.success(), "{status}\n{}", edge.log());
    assert_eq!(idle.rest(), (Ok(()), Vec::new()), "an idle connection is closed in order");
}

#[test]
fn interrupt_stops_as_term_does() {
    let (_origin, mut edge) = start();
    edge.signal(Signal::SIGINT);
    assert!(edge.wait().success());
}

#[test]
fn reload() {
    let (first, edge) = start();
    let second = Origin::start();
    second.cacheable("/c", 300);
    assert_eq!(edge.get("/c").status(), 404);
    let good = edge.config();
    edge.write_config(&good.replace(&first.address().to_string(), &second.address().to_string()));
    edge.signal(Signal::SIGHUP);
    eventually("the new origin is asked", || edge.get("/c").status() == 200);
    assert!(edge.get("/a").head.is_hit(), "a reload keeps what is stored");
    assert_eq!(first.count_all(), 3 + first.count("/c") - 1);
}

#[test]
fn reload_of_a_bad_file_changes_nothing() {
    let (origin, edge) = start();
    edge.write_config(&edge.config().replace("[[routes]]", "[[roots]]"));
    let mut client = edge.client();
    assert!(client.get("/a").head.is_hit());
    edge.signal(Signal::SIGHUP);
    let place = format!("{}:", edge.config_path().display());
    eventually("the mistake is reported with its place", || edge.log().contains(&place));
    let line = edge.log().lines().find(|line| line.contains(&place)).map(str::to_string).expect("a line");
    let rest: Vec<_> = line.split(&place).nth(1).expect("a place").splitn(3, ':').collect();
    assert!(rest.len() == 3 && rest[..2].iter().all(|n| n.parse::<u32>().is_ok()), "{line}");
    assert!(client.get("/a").head.is_hit(), "the connection stays");
    origin.cacheable("/new", 10);
    assert_eq!(client.get("/new").status(), 200, "the old routes stay");
}
