//! What operators rule for their routes: that each rule does what it says, to that route alone, and that `/why` names it.

use crate::support::{Answer, Edge, HOST, Origin, Setup, eventually};
use crate::support::{process, tls::Site};
use nix::sys::signal::Signal;

/// Starts an edge whose first route is for `/plain/` and rules nothing, the next for `/ruled/` with these lines.
fn ruled(origin: &Origin, lines: &str) -> Edge {
    let second = format!("path = \"/plain/\"\n[[routes]]\norigin = \"main\"\npath = \"/ruled/\"\n{lines}");
    Edge::start_with(origin.address(), Setup { route_lines: second, ..Default::default() })
}

fn why(edge: &Edge, path: &str) -> serde_json::Value {
    let encoded = format!("http://{HOST}{path}").replace('&', "%26").replace('?', "%3F");
    let answer = edge.admin_get(&format!("/why?url={encoded}"));
    assert_eq!(answer.status(), 200);
    serde_json::from_slice(&answer.body).expect("JSON")
}

/// Answers a path with the whole target it was asked for.
fn echo(origin: &Origin, path: &str) {
    origin.script(path, |exchange| {
        let target = exchange.request.target.clone();
        exchange.answer(&Answer::new(200).field("Cache-Control", "max-age=3600").body(target))
    });
}

/// How often the origin was asked for exactly this.
fn asked(origin: &Origin, target: &str) -> usize {
    let path = target.split('?').next().expect("a path");
    origin.seen(path).iter().filter(|seen| seen.target == target).count()
}

fn text(body: Vec<u8>) -> String {
    String::from_utf8(body).expect("text")
}

#[test]
fn arguments_that_do_not_count() {
    let origin = Origin::start();
    echo(&origin, "/ruled/a");
    echo(&origin, "/plain/a");
    let edge = ruled(&origin, "query_ignore = [\"utm_*\", \"fbclid\"]");
    let first = edge.get("/ruled/a?utm_x=1&id=1");
    assert_eq!(text(first.body), "/ruled/a?utm_x=1&id=1", "the origin is asked for what the client sent");
    edge.wait_stored(1.0);
    for target in
        ["/ruled/a?id=1", "/ruled/a?id=1&fbclid=x", "/ruled/a?utm_x=2&id=1&utm_y", "/ruled/a?fbclid&id=1"]
    {
        let hit = edge.get(target);
        assert!(hit.head.is_hit(), "{target}: {:?}", hit.head);
        assert_eq!(text(hit.body), "/ruled/a?utm_x=1&id=1");
    }
    for (target, others) in [("/ruled/a?id=2", "/ruled/a?id=2&fbclid"), ("/ruled/a", "/ruled/a?utm_x")] {
        assert_eq!(text(edge.get_hit(target).body), target);
        assert_eq!(text(edge.get_hit(others).body), target);
    }
    for target in ["/plain/a?utm_x=1", "/plain/a?utm_x=2"] {
        assert_eq!(text(edge.get_hit(target).body), target, "another route");
    }
    let shown = why(&edge, "/ruled/a?id=1&utm_z=9");
    assert_eq!(shown["state"], "fresh");
    assert_eq!(shown["route"]["rules"]["query_ignore"], serde_json::json!(["utm_*", "fbclid"]));
    let key = shown["key"].as_str().expect("a key");
    assert!(key.starts_with(&format!("http://{HOST}/ruled/a?id=1#")), "{key}");
    assert_eq!(why(&edge, "/plain/a?utm_x=1")["key"], format!("http://{HOST}/plain/a?utm_x=1"));

    // The requests of one turn, parsed ahead of one another.
    let mut pipelined = edge.client();
    let head = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    pipelined.send((head("/ruled/a?id=1&utm_a") + &head("/ruled/a?id=2&utm_a")).as_bytes());
    for wanted in ["/ruled/a?utm_x=1&id=1", "/ruled/a?id=2"] {
        let response = pipelined.response("GET").expect("a response");
        assert!(response.head.is_hit());
        assert_eq!(text(response.body), wanted);
    }
}

#[test]
fn a_purge_by_url_reaches_what_its_arguments_lead_to() {
    let origin = Origin::start();
    echo(&origin, "/ruled/a");
    let mut edge = ruled(&origin, "query_ignore = [\"utm_*\"]");
    for soft in [false, true] {
        edge.get_hit("/ruled/a?id=1");
        edge.get_hit("/ruled/a?id=2");
        let (one, two) = (asked(&origin, "/ruled/a?id=1"), asked(&origin, "/ruled/a?id=2"));
        let url = format!("http://{HOST}/ruled/a?utm_source=mail&id=1");
        let answer = edge.purge(&format!(r#"{{"url": "{url}", "soft": {soft}}}"#));
        assert_eq!(answer.status(), 200);
        let said: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!(said["purged"], if soft { serde_json::Value::Null } else { 1.into() });
        let shown = why(&edge, "/ruled/a?id=1");
        assert_eq!(shown["purges"][0]["value"], format!("http://{HOST}/ruled/a?id=1"));
        if !soft {
            assert_eq!(shown["state"], "purged");
            // A crash brings nothing back.
            edge.kill();
            edge.run();
        }
        assert!(!edge.get("/ruled/a?id=1").head.is_hit(), "soft: {soft}");
        assert!(edge.get("/ruled/a?id=2&utm_b").head.is_hit());
        assert_eq!((asked(&origin, "/ruled/a?id=1"), asked(&origin, "/ruled/a?id=2")), (one + 1, two));
    }
    let prefix = format!(r#"{{"prefix": "http://{HOST}/ruled/a?id="}}"#);
    assert_eq!(edge.purge(&prefix).status(), 200);
    assert!(!edge.get("/ruled/a?id=2").head.is_hit());
}

#[test]
fn routes_by_field_rule_their_own_keys_and_a_purge_reaches_all() {
    let origin = Origin::start();
    echo(&origin, "/a");
    let lines = "header = \"X-Service: all\"\nquery_ignore = [\"*\"]\n\
                 [[routes]]\norigin = \"main\"\nquery_only = [\"x\"]";
    let edge = Edge::start_with(origin.address(), Setup { route_lines: lines.into(), ..Default::default() });
    let ask = |path: &str| edge.client().request("GET", path, &[("X-Service", "all")]);
    assert_eq!(text(ask("/a?x=1&y=1").body), "/a?x=1&y=1");
    edge.wait_stored(1.0);
    assert_eq!(text(edge.get("/a?x=1&y=2").body), "/a?x=1&y=2", "another route, another key");
    edge.wait_stored(2.0);
    assert!(ask("/a?x=2").head.is_hit() && edge.get("/a?x=1").head.is_hit());
    assert_eq!(origin.count_all(), 2);
    let shown = why(&edge, "/a?x=1");
    assert_eq!(shown["variants"].as_array().expect("variants").len(), 2, "{shown:#}");
    assert_eq!(shown["keys_by_field"].as_array().expect("keys").len(), 1);
    let purged = edge.purge(&format!(r#"{{"url": "http://{HOST}/a?x=1&y=3"}}"#));
    assert!(text(purged.body).contains("\"purged\":2"));
    assert!(!ask("/a?x=1&y=1").head.is_hit() && !edge.get("/a?x=1&y=2").head.is_hit());
}

#[test]
fn a_rule_that_changes_serves_nothing_of_the_one_before() {
    let origin = Origin::start();
    echo(&origin, "/ruled/a");
    let edge = ruled(&origin, "query_ignore = [\"*\"]");
    edge.get_hit("/ruled/a?page=1");
    assert_eq!(text(edge.get("/ruled/a").body), "/ruled/a?page=1", "as the operator said");
    edge.write_config(
        &edge.config().replace("query_ignore = [\"*\"]", "query_only = [\"page\"]\nquery_sort = true"),
    );
    edge.signal(Signal::SIGHUP);
    eventually("the new rule is in force", || text(edge.get("/ruled/a").body) == "/ruled/a");
    for target in ["/ruled/a?page=1", "/ruled/a?page=2"] {
        assert_eq!(text(edge.get_hit(target).body), target);
    }
    assert_eq!(text(edge.get("/ruled/a?x&page=2").body), "/ruled/a?page=2");
    edge.write_config(&edge.config().replace("query_ignore = [\"*\"]", ""));
    edge.signal(Signal::SIGHUP);
    eventually("no rule is in force", || text(edge.get("/ruled/a?x&page=2").body) == "/ruled/a?x&page=2");
    assert_eq!(why(&edge, "/ruled/a")["key"], format!("http://{HOST}/ruled/a"));
}

#[test]
fn an_unsafe_request_invalidates_what_its_arguments_lead_to() {
    let origin = Origin::start();
    for path in ["/ruled/a", "/ruled/b"] {
        origin.script(path, |exchange| match exchange.request.method.as_str() {
            "POST" => exchange.answer(&Answer::new(204).field("Content-Location", "/ruled/b?utm_c&id=1")),
            _ => exchange.answer(&Answer::new(200).field("Cache-Control", "max-age=3600").body("b")),
        });
    }
    let edge = ruled(&origin, "query_ignore = [\"utm_*\"]");
    edge.get_hit("/ruled/a?id=1");
    edge.get_hit("/ruled/b?id=1");
    assert_eq!(edge.client().request("POST", "/ruled/a?utm_b&id=1", &[]).status(), 204);
    assert!(!edge.get("/ruled/a?id=1").head.is_hit());
    assert!(!edge.get("/ruled/b?id=1").head.is_hit());
}

#[test]
fn over_tls_and_http2_the_same_rule_is_in_force() {
    if !process::has_program("over_tls_and_http2_the_same_rule_is_in_force", "curl") {
        return;
    }
    let site = Site::new(&["edge.test"]);
    let origin = Origin::start();
    echo(&origin, "/a");
    let setup = Setup {
        listen_lines: site.section(),
        route_lines: "query_only = [\"id\"]".into(),
        ..Default::default()
    };
    let edge = Edge::start_with(origin.address(), setup);
    for (target, version) in [("/a?id=1", "--http1.1"), ("/a?x&id=1", "--http2"), ("/a?id=1&y", "--http2")] {
        let output = site.curl("edge.test", target, &[version]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "/a?id=1", "{target} {output:?}");
        edge.wait_stored(1.0);
    }
    assert_eq!(origin.count_all(), 1);
}

#[test]
fn lifetimes_and_cookies() {
    for (lines, fields, asked, hit, basis) in [
        ("ttl = \"5m\"", &[("X-A", "1")][..], &[][..], true, "ttl"),
        ("ttl = \"5m\"", &[("Cache-Control", "max-age=0")], &[], false, ""),
        ("ttl_override = \"5m\"", &[("Cache-Control", "max-age=0")], &[], true, "ttl_override"),
        ("ttl_override = \"5m\"", &[("Cache-Control", "no-store")], &[], false, ""),
        (
            "strip_set_cookie = true",
            &[("Set-Cookie", "a=1"), ("Cache-Control", "max-age=9")],
            &[],
            true,
            "max-age",
        ),
        ("strip_cookie = true", &[("Cache-Control", "max-age=9")], &[("Cookie", "a=1")], true, "max-age"),
        ("stale_max = \"0s\"", &[("Cache-Control", "max-age=0, stale-while-revalidate=60")], &[], false, ""),
    ] {
        let origin = Origin::start();
        for path in ["/ruled/a", "/plain/a"] {
            let answer = Answer::new(200).body("b");
            origin.on(path, fields.iter().fold(answer, |answer, (name, value)| answer.field(name, value)));
        }
        let edge = ruled(&origin, lines);
        let ask = |path: &str| edge.client().request("GET", path, asked);
        ask("/ruled/a");
        if hit {
            edge.wait_stored(1.0);
        }
        let second = ask("/ruled/a");
        assert_eq!(second.head.is_hit(), hit, "{lines}: {:?}", second.head);
        let shown = why(&edge, "/ruled/a");
        let name = lines.split(' ').next().expect("a key");
        assert!(!shown["route"]["rules"][name].is_null(), "{lines}: {shown:#}");
        assert_eq!(why(&edge, "/plain/a")["route"]["rules"], serde_json::json!({}));
        if hit {
            assert_eq!(shown["variants"][0]["lifetime_from"], basis, "{lines}");
        }
        match name {
            "strip_cookie" => {
                assert_eq!(origin.seen("/ruled/a")[0].field("cookie"), None);
                ask("/plain/a");
                assert_eq!(origin.seen("/plain/a")[0].field("cookie"), Some("a=1"));
            }
            "strip_set_cookie" => {
                assert_eq!(second.field("set-cookie"), None);
                assert_eq!(edge.get("/plain/a").field("set-cookie"), Some("a=1"));
            }
            _ => {}
        }
    }
}
