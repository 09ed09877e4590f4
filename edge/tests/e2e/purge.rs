//! Purges of a running node: what they reach, and that nothing comes back, whatever happens to the process.

use crate::support::edge::program;
use crate::support::{Answer, Edge, HOST, Origin};

/// Answers a path with content under a tag, which can be validated.
fn tag(origin: &Origin, path: &str, bytes: u64, tag: &str) {
    let whole = Answer::cacheable(path, bytes).field("etag", "\"1\"").field("surrogate-key", tag);
    let same = Answer::new(304).field("cache-control", "max-age=3600").field("etag", "\"1\"");
    origin.script(path, move |exchange| match exchange.request.field("if-none-match") {
        Some(_) => exchange.answer(&same),
        None => exchange.answer(&whole),
    });
}

/// Two objects under one tag and in one directory, and another.
fn tagged() -> (Origin, Edge) {
    let origin = Origin::start();
    for (path, tag) in [("/n/1", "news"), ("/n/2", "news"), ("/s/1", "sport")] {
        self::tag(&origin, path, 500, tag);
    }
    let edge = Edge::start(origin.address());
    for path in ["/n/1", "/n/2", "/s/1"] {
        edge.get_hit(path);
    }
    (origin, edge)
}

fn hits(edge: &Edge) -> Vec<&'static str> {
    let mut hits = Vec::new();
    for path in ["/n/1", "/n/2", "/s/1"] {
        // Asked so that nothing is fetched.
        let response = edge.client().request("GET", path, &[("Cache-Control", "only-if-cached")]);
        if response.status() == 200 {
            assert!(response.head.is_hit());
            hits.push(path);
        }
    }
    hits
}

#[test]
fn purge_by_tag_prefix_and_host_outlasts_a_kill() {
    for (purge, left) in [
        (r#"{"tag": "News"}"#.to_owned(), vec!["/s/1"]),
        (format!(r#"{{"prefix": "http://{HOST}/n/"}}"#), vec!["/s/1"]),
        (format!(r#"{{"prefix": "http://{HOST}/n/2"}}"#), vec!["/n/1", "/s/1"]),
        (format!(r#"{{"host": "{HOST}"}}"#), vec![]),
        (r#"{"host": "other.test"}"#.to_owned(), vec!["/n/1", "/n/2", "/s/1"]),
        (format!(r#"{{"host": "{HOST}", "soft": true}}"#), vec![]),
    ] {
        let (origin, mut edge) = tagged();
        let answer = edge.purge(&purge);
        assert_eq!(answer.status(), 200, "{purge}: {}", String::from_utf8_lossy(&answer.body));
        assert_eq!(hits(&edge), left, "{purge}");
        for _ in 0..2 {
            edge.kill();
            edge.run();
            assert_eq!(hits(&edge), left, "{purge}, after a kill");
        }
        let asked = origin.count_all();
        for path in ["/n/1", "/n/2", "/s/1"] {
            edge.get_hit(path);
        }
        assert_eq!(origin.count_all() - asked, 3 - left.len(), "{purge}");
    }
}

#[test]
fn a_soft_purge_asks_with_the_validator_and_keeps_the_object() {
    let (origin, edge) = tagged();
    assert_eq!(edge.purge(r#"{"tag": "news", "soft": true}"#).status(), 200);
    let response = edge.get("/n/1");
    let said = response.field("cache-status").expect("said").to_owned();
    assert!(said.contains("fwd=stale") && said.contains("fwd-status=304"), "{said}");
    assert!(edge.get("/n/1").head.is_hit() && edge.get("/s/1").head.is_hit());
    assert_eq!((origin.count("/n/1"), origin.count("/n/2"), origin.count("/s/1")), (2, 1, 1));
}

/// Acknowledged purges under load, the process killed at once: none comes back.
#[test]
fn what_was_acknowledged_before_a_kill_stays_purged() {
    let origin = Origin::start();
    for i in 0..60 {
        tag(&origin, &format!("/{i}"), 300, &format!("t{i}"));
    }
    let mut edge = Edge::start(origin.address());
    for i in 0..60 {
        edge.get_hit(&format!("/{i}"));
    }
    for round in 0..3 {
        let acknowledged: Vec<usize> = std::thread::scope(|scope| {
            let edge = &edge;
            let purge = |i: usize| {
                let what = match i % 2 {
                    0 => format!(r#"{{"tag": "t{i}"}}"#),
                    _ => format!(r#"{{"url": "http://{HOST}/{i}"}}"#),
                };
                (edge.purge(&what).status() == 200).then_some(i)
            };
            let threads: Vec<_> = (0..4)
                .map(|t| {
                    scope.spawn(move || {
                        (0..5).filter_map(|n| purge(round * 20 + t * 5 + n)).collect::<Vec<_>>()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("asked")).collect()
        });
        edge.kill();
        edge.run();
        assert_eq!(acknowledged.len(), 20);
        let mut client = edge.client();
        for i in acknowledged {
            let response = client.request("GET", &format!("/{i}"), &[("Cache-Control", "only-if-cached")]);
            assert_eq!(response.status(), 504, "/{i} came back");
        }
        let kept = client.request("GET", "/59", &[("Cache-Control", "only-if-cached")]);
        assert_eq!(kept.status(), if round == 2 { 504 } else { 200 });
    }
}

#[test]
fn why_tells_what_became_of_an_object() {
    let (_origin, edge) = tagged();
    let why = |path: &str, json: bool| {
        let mut command = std::process::Command::new(program());
        command.args(["why", "--admin", &edge.admin().to_string(), &format!("http://{HOST}{path}")]);
        let output = command.args(json.then_some("--json")).output().expect("edge runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let text = why("/n/1", false);
    assert!(text.contains("fresh") && text.contains("news") && text.contains("max-age"), "{text}");
    assert!(why("/never?a=b&c", false).contains("never seen"));
    assert_eq!(edge.purge(r#"{"tag": "news"}"#).status(), 200);
    let answer: serde_json::Value = serde_json::from_str(&why("/n/1", true)).expect("JSON");
    assert_eq!(answer["state"], "purged", "{answer}");
    assert_eq!(answer["purges"][0]["value"], "news", "{answer}");
    let wrong = std::process::Command::new(program())
        .args(["why", "--admin", &edge.admin().to_string(), "not-a-url"])
        .output()
        .expect("edge runs");
    assert!(!wrong.status.success() && String::from_utf8_lossy(&wrong.stderr).contains("absolute http"));
}
