//! Files of a real nginx: what its `expires`, validators, ranges and ready-made variants come to here, by its own log.

use crate::support::nginx::{Logged, Nginx};
use crate::support::process::has_program;
use crate::support::{Edge, content, eventually, in_time, second_begins};
use std::time::{Duration, SystemTime};

const MIB: u64 = 1 << 20;
const SERVER: &str = "gzip_static on; gzip_vary on; gzip_proxied any;\n\
    location /minute { expires 60s; } location /second { expires 1s; } location /epoch { expires epoch; }\n\
    location /past { expires -1; }";

/// Writes files as `path` and what is in them, all last modified twenty days ago.
fn start(files: &[(&str, &[u8])]) -> Option<(Nginx, Edge)> {
    if !has_program("the files of nginx", "nginx") {
        return None;
    }
    let nginx = Nginx::start(SERVER, |www| {
        for (name, bytes) in files {
            let path = www.join(name);
            std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
            std::fs::write(&path, bytes).expect("written");
            age(&path, 20);
        }
    });
    let edge = Edge::start(nginx.address);
    Some((nginx, edge))
}

fn age(path: &std::path::Path, days: u64) {
    let file = std::fs::File::options().write(true).open(path).expect("there");
    file.set_modified(SystemTime::now() - Duration::from_secs(days * 86_400)).expect("set");
}

/// So many requests are in the log of nginx; the last of them.
fn last(nginx: &Nginx, count: usize) -> Logged {
    eventually("nginx has written its log", || nginx.log().len() >= count);
    let log = nginx.log();
    assert_eq!(log.len(), count, "{log:?}");
    log.into_iter().next_back().expect("one")
}

#[test]
fn what_expires_says_holds() {
    let files = ["minute/a", "epoch/a", "past/a", "plain", "new"].map(|name| (name, name.as_bytes()));
    let Some((nginx, edge)) = start(&files) else { return };
    age(&nginx.file("new"), 0);
    let mut asked = 0;
    for (path, fresh_s) in [
        ("/minute/a", Some(60)),
        ("/epoch/a", None),
        ("/past/a", None),
        // A tenth of twenty days is more than the day that is the most.
        ("/plain", Some(86_400)),
        ("/new", None),
    ] {
        let body = &path.as_bytes()[1..];
        let stored = edge.metric("edge_fills_stored_total");
        let first = edge.get(path);
        assert_eq!((first.status(), first.body.as_slice()), (200, body), "{path}");
        asked += 1;
        assert_eq!(last(&nginx, asked).status, 200, "{path}");
        edge.wait_stored(stored + 1.0);
        let second = edge.get(path);
        assert_eq!((second.status(), second.body.as_slice()), (200, body), "{path}");
        let said = second.head.cache_status().to_owned();
        match fresh_s {
            Some(fresh_s) => {
                let ttl =
                    said.split("ttl=").nth(1).and_then(|ttl| ttl.split(';').next()?.parse::<i64>().ok());
                assert!(second.head.is_hit(), "{path}: {said}");
                assert!(ttl.is_some_and(|ttl| ttl <= fresh_s && ttl > fresh_s - 30), "{path}: {said}");
            }
            None => {
                asked += 1;
                let validated = last(&nginx, asked);
                assert_eq!(
                    (validated.status, validated.conditional, validated.body_bytes),
                    (304, true, 0),
                    "{path}"
                );
                assert!(said.contains("fwd-status=304"), "{path}: {said}");
            }
        }
    }
}

#[test]
fn what_has_run_out_is_validated_and_what_has_changed_is_fetched() {
    in_time(Duration::from_millis(300), || {
        let Some((nginx, edge)) = start(&[("second/a", b"first version"), ("minute/a", b"longer")]) else {
            return;
        };
        second_begins();
        assert_eq!(edge.get_hit("/second/a").body, b"first version");
        std::thread::sleep(Duration::from_millis(2_100));
        second_begins();
        let asked = nginx.log().len();
        let validated = edge.get("/second/a");
        assert_eq!((validated.status(), validated.body.as_slice()), (200, &b"first version"[..]));
        assert!(validated.age() <= 1, "its age is that of the validation");
        let logged = last(&nginx, asked + 1);
        assert_eq!((logged.status, logged.body_bytes), (304, 0));
        assert!(edge.get("/second/a").head.is_hit());
        std::fs::write(nginx.file("second/a"), b"second version").expect("written");
        std::thread::sleep(Duration::from_millis(2_100));
        assert_eq!(edge.get("/second/a").body, b"second version");
        assert_eq!(last(&nginx, asked + 2).status, 200);
        // Clients' own conditions are answered here.
        let hit = edge.get_hit("/minute/a");
        let asked = nginx.log().len();
        for (name, of) in [("If-None-Match", "etag"), ("If-Modified-Since", "last-modified")] {
            let value = hit.field(of).expect("nginx sends it").to_owned();
            let answer = edge.client().request("GET", "/minute/a", &[(name, &value)]);
            assert_eq!((answer.status(), answer.body.len()), (304, 0), "{name}");
            assert_eq!(answer.field("etag"), hit.field("etag"));
        }
        let other = edge.client().request("GET", "/minute/a", &[("If-None-Match", "\"other\"")]);
        assert_eq!((other.status(), other.body.as_slice()), (200, &b"longer"[..]));
        assert_eq!(nginx.log().len(), asked);
    });
}

#[test]
fn ranges_come_from_what_is_stored_and_else_as_slices() {
    let large = content::part(content::seed("large"), 0, 5 * MIB + 17);
    let Some((nginx, edge)) = start(&[("minute/small", &large[..100_000]), ("minute/large", &large)]) else {
        return;
    };
    edge.get_hit("/minute/small");
    let range = |path: &str, range: &str| edge.client().request("GET", path, &[("Range", range)]);
    let part = range("/minute/small", "bytes=500-1499");
    assert_eq!((part.status(), part.field("content-range")), (206, Some("bytes 500-1499/100000")));
    assert!(part.head.is_hit() && part.body == large[500..1500]);
    assert_eq!(range("/minute/small", "bytes=100000-").status(), 416);
    assert_eq!(nginx.log().len(), 1);
    let part = range("/minute/large", "bytes=2097000-2097999");
    assert!(part.status() == 206 && part.body == large[2_097_000..2_098_000]);
    let sent: u64 = nginx.log().iter().skip(1).map(|logged| logged.body_bytes).sum();
    assert!(sent <= 2 * MIB, "{sent} bytes for a part of two slices");
    let whole = edge.get("/minute/large");
    assert!(whole.status() == 200 && whole.body == large);
    eventually("nginx has logged all", || {
        nginx.log().iter().skip(1).map(|logged| logged.body_bytes).sum::<u64>() >= large.len() as u64
    });
    let sent: u64 = nginx.log().iter().skip(1).map(|logged| logged.body_bytes).sum();
    assert_eq!(sent, large.len() as u64, "no slice twice");
}

#[test]
fn ready_made_variants_are_kept_apart_and_found_again() {
    // What is in it does not matter: nobody unpacks it on the way.
    let files: [(&str, &[u8]); 4] = [
        ("minute/t", b"plain text"),
        ("minute/t.gz", b"packed"),
        ("second/t", b"plain text"),
        ("second/t.gz", b"packed"),
    ];
    let Some((nginx, edge)) = start(&files) else { return };
    for path in ["/minute/t", "/second/t"] {
        let ask = |encodings: &str| edge.client().request("GET", path, &[("Accept-Encoding", encodings)]);
        let stored = edge.metric("edge_fills_stored_total");
        assert_eq!(ask("identity").body, b"plain text", "{path}");
        edge.wait_stored(stored + 1.0);
        let packed = ask("gzip");
        assert_eq!(
            (packed.body.as_slice(), packed.field("content-encoding")),
            (&b"packed"[..], Some("gzip"))
        );
        assert_eq!(packed.field("vary"), Some("Accept-Encoding"), "{path}");
        edge.wait_stored(stored + 2.0);
        if path == "/second/t" {
            std::thread::sleep(Duration::from_millis(2_100));
        }
        let asked = nginx.log().len();
        for (encodings, body) in [("gzip", &b"packed"[..]), ("identity", b"plain text")] {
            let answer = ask(encodings);
            assert_eq!(answer.body, body, "{path} {encodings}");
            assert_eq!(answer.head.is_hit(), path == "/minute/t", "{path} {encodings}: {:?}", answer.head);
            assert_eq!(answer.field("content-encoding"), (encodings == "gzip").then_some("gzip"));
        }
        match path {
            "/minute/t" => assert_eq!(nginx.log().len(), asked),
            _ => {
                last(&nginx, asked + 2);
                let log = nginx.log();
                assert!(
                    log[asked..].iter().all(|logged| logged.status == 304 && logged.conditional),
                    "{log:?}"
                );
            }
        }
    }
}
