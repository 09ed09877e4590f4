//! What may be reused and for how long, as seen from outside: counted at the origin.

use crate::support::{
    Answer, Edge, Gate, Origin, Response, content, eventually, in_time, request, second_begins,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

/// Makes a path say in its body which request it answers, with these fields.
fn numbered(origin: &Origin, path: &str, fields: &[(&str, &str)]) {
    let fields: Vec<_> = fields.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
    origin.script(path, move |exchange| {
        let answer = Answer::new(200).body(exchange.earlier.to_string());
        exchange.answer(&fields.iter().fold(answer, |answer, (name, value)| answer.field(name, value)))
    });
}

fn start() -> (Origin, Edge) {
    let origin = Origin::start();
    let edge = Edge::start(origin.address());
    (origin, edge)
}

fn number(response: &Response) -> usize {
    String::from_utf8_lossy(&response.body).parse().expect("a number")
}

fn http_date(offset_s: i64) -> String {
    let now = SystemTime::now();
    let by = Duration::from_secs(offset_s.unsigned_abs());
    httpdate::fmt_http_date(if offset_s < 0 { now - by } else { now + by })
}

#[test]
fn responses_that_must_not_be_reused() {
    let expired = http_date(-60);
    let cases: &[&[(&str, &str)]] = &[
        &[("Cache-Control", "no-store")],
        &[("Cache-Control", "no-store, max-age=3600")],
        &[("Cache-Control", "private, max-age=3600")],
        &[("Cache-Control", "no-cache, max-age=3600")],
        &[("Cache-Control", "max-age=0")],
        &[("Cache-Control", "s-maxage=0, max-age=3600")],
        &[("Expires", &expired)],
        &[("Expires", "0")],
        &[("Cache-Control", "max-age=60"), ("Age", "61")],
        &[("Cache-Control", "max-age=3600"), ("Vary", "*")],
        &[],
    ];
    let (origin, edge) = start();
    for (case, fields) in cases.iter().enumerate() {
        let path = format!("/{case}");
        numbered(&origin, &path, fields);
        for wanted in 0..3 {
            let response = edge.get(&path);
            assert_eq!(number(&response), wanted, "{fields:?}");
            assert!(!response.head.is_hit(), "{fields:?}: {:?}", response.head);
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(origin.count(&path), 3, "{fields:?}");
    }
}

#[test]
fn responses_that_are_reused() {
    let future = http_date(60);
    let cases: &[&[(&str, &str)]] = &[
        &[("Cache-Control", "max-age=3600")],
        &[("Cache-Control", "max-age=0, s-maxage=3600")],
        &[("Cache-Control", "MAX-AGE=60")],
        &[("Cache-Control", "public, max-age=3600")],
        &[("Expires", &future)],
        &[("Expires", "0"), ("Cache-Control", "max-age=3600")],
        &[("Cache-Control", "max-age=3600"), ("Age", "10")],
    ];
    let (origin, edge) = start();
    for (case, fields) in cases.iter().enumerate() {
        let path = format!("/{case}");
        numbered(&origin, &path, fields);
        edge.get(&path);
        let hit = edge.get_hit(&path);
        assert_eq!(number(&hit), 0, "{fields:?}");
        assert_eq!(origin.count(&path), 1, "{fields:?}");
        if fields.iter().any(|(name, _)| *name == "Age") {
            assert!((10..15).contains(&hit.age()), "Age is reckoned on: {}", hit.age());
        }
    }
}

#[test]
fn authorization_is_not_shared() {
    let (origin, edge) = start();
    numbered(&origin, "/a", &[("Cache-Control", "max-age=3600")]);
    for wanted in 0..2 {
        let response = edge.client().request("GET", "/a", &[("Authorization", "Basic Zm9vOmJhcg==")]);
        assert_eq!(number(&response), wanted);
    }
    assert_eq!(origin.seen("/a")[0].field("authorization"), Some("Basic Zm9vOmJhcg=="));
    assert_eq!(number(&edge.get("/a")), 2, "nothing was stored for others");
}

#[test]
fn no_cache_is_validated_every_time() {
    let origin = Origin::start();
    origin.script("/a", |exchange| {
        let fields = |answer: Answer| answer.field("ETag", "\"v1\"").field("Cache-Control", "no-cache");
        if exchange.request.field("if-none-match") == Some("\"v1\"") {
            return exchange.answer(&fields(Answer::new(304)));
        }
        exchange.answer(&fields(Answer::new(200).pattern("/a", 4000)))
    });
    let edge = Edge::start(origin.address());
    let wanted = content::part(content::seed("/a"), 0, 4000);
    assert_eq!(edge.get("/a").body, wanted);
    eventually("the object is stored and validated", || {
        assert_eq!(edge.get("/a").body, wanted);
        origin.seen("/a").last().is_some_and(|seen| seen.field("if-none-match").is_some())
    });
    let before = origin.count("/a");
    for _ in 0..3 {
        let response = edge.get("/a");
        assert_eq!((response.status(), response.body), (200, wanted.clone()));
    }
    let seen = origin.seen("/a");
    assert_eq!(seen.len(), before + 3);
    assert!(seen[before..].iter().all(|s| s.field("if-none-match") == Some("\"v1\"")), "{seen:?}");
}

/// Serves `/a` fresh for a second, version by version; 304 when the client has the current one.
fn versioned(origin: &Origin, version: &Arc<AtomicUsize>) {
    let version = version.clone();
    origin.script("/a", move |exchange| {
        let version = version.load(Ordering::SeqCst);
        let etag = format!("\"{version}\"");
        let unchanged = exchange.request.field("if-none-match") == Some(&etag);
        let asked = exchange.earlier.to_string();
        let answer = Answer::new(if unchanged { 304 } else { 200 })
            .field("ETag", &etag)
            .field("Cache-Control", "max-age=1")
            .field("X-Asked", &asked);
        exchange.answer(&answer.pattern(&format!("version {version}"), 3000))
    });
}

#[test]
fn expired_objects_are_validated_and_refreshed() {
    in_time(Duration::from_millis(300), || {
        let origin = Origin::start();
        let version = Arc::new(AtomicUsize::new(1));
        versioned(&origin, &version);
        let edge = Edge::start(origin.address());
        second_begins();
        let first = edge.get("/a");
        edge.get_hit("/a");
        assert_eq!(origin.count("/a"), 1);
        std::thread::sleep(Duration::from_millis(2100));
        second_begins();

        let validated = edge.get("/a");
        assert_eq!((validated.status(), &validated.body), (200, &first.body));
        assert_eq!(validated.field("x-asked"), Some("1"), "the fields of the 304 are taken over");
        let seen = origin.seen("/a");
        assert_eq!(seen.len(), 2, "{seen:?}");
        assert_eq!(seen[1].field("if-none-match"), Some("\"1\""));
        let again = edge.get_hit("/a");
        assert_eq!((again.field("x-asked"), &again.body), (Some("1"), &first.body));
        assert!(again.age() <= 1, "the validation made it new: {}", again.age());
        assert_eq!(origin.count("/a"), 2, "fresh once more");

        std::thread::sleep(Duration::from_millis(2100));
        second_begins();
        version.store(2, Ordering::SeqCst);
        let replaced = edge.get("/a");
        let wanted = content::part(content::seed("version 2"), 0, 3000);
        assert_eq!((&replaced.body, replaced.field("etag")), (&wanted, Some("\"2\"")));
        let hit = edge.get_hit("/a");
        assert_eq!((&hit.body, hit.field("etag")), (&wanted, Some("\"2\"")));
        let seen = origin.seen("/a");
        assert_eq!((seen.len(), seen[2].field("if-none-match")), (3, Some("\"1\"")));
    });
}

#[test]
fn expired_objects_without_validator_are_fetched_anew() {
    in_time(Duration::from_millis(300), || {
        let (origin, edge) = start();
        numbered(&origin, "/a", &[("Cache-Control", "max-age=1")]);
        second_begins();
        edge.get("/a");
        assert_eq!(number(&edge.get_hit("/a")), 0);
        std::thread::sleep(Duration::from_millis(2100));
        assert_eq!(number(&edge.get("/a")), 1);
        assert!(origin.seen("/a")[1].fields.iter().all(|(name, _)| !name.starts_with("if-")));
    });
}

#[test]
fn variants_are_kept_side_by_side() {
    let origin = Origin::start();
    origin.script("/a", |exchange| {
        let language = exchange.request.field("accept-language").unwrap_or("none").to_string();
        let answer = Answer::new(200).field("Cache-Control", "max-age=3600").field("Vary", "Accept-Language");
        exchange.answer(&answer.body(language))
    });
    let edge = Edge::start(origin.address());
    let ask = |language: &str| {
        let response = edge.client().request("GET", "/a", &[("Accept-Language", language)]);
        assert_eq!(String::from_utf8_lossy(&response.body), language);
        response.head.is_hit()
    };
    assert!(!ask("de"));
    assert!(!ask("en"));
    eventually("both variants are hits", || ask("de") && ask("en"));
    assert_eq!(origin.count("/a"), 2);
    assert_eq!(
        String::from_utf8_lossy(&edge.get("/a").body),
        "none",
        "a request without the field is a third"
    );
    assert_eq!(origin.count("/a"), 3);
    eventually("all three are hits", || ask("de") && ask("en") && edge.get("/a").head.is_hit());
    assert_eq!(origin.count("/a"), 3);
}

#[test]
fn unsafe_methods_invalidate() {
    let (origin, edge) = start();
    numbered(&origin, "/a", &[("Cache-Control", "max-age=3600")]);
    edge.get("/a");
    assert_eq!(number(&edge.get_hit("/a")), 0);
    let posted = edge.client().request("POST", "/a", &[("Content-Length", "0")]);
    assert_eq!(number(&posted), 1);
    eventually("the stored response is gone (RFC 9111 section 4.4)", || number(&edge.get("/a")) == 2);
    assert_eq!(origin.count("/a"), 3);
}

/// Answers `/a` with a field that is for one client, numbered, and one that is for all; validates.
fn with_private_field(origin: &Origin, control: &'static str, bytes: u64, gate: Option<Gate>) {
    origin.script("/a", move |exchange| {
        let number = exchange.earlier.to_string();
        let fields = |answer: Answer| {
            let answer = answer.field("Cache-Control", control).field("ETag", "\"v1\"");
            answer.field("X-One", &number).field("X-All", "all")
        };
        if exchange.request.field("if-none-match").is_some() {
            return exchange.answer(&fields(Answer::new(304)));
        }
        if let Some(range) = exchange.request.field("range") {
            let end: u64 = range.strip_prefix("bytes=0-").and_then(|end| end.parse().ok()).expect("from 0");
            let part = Answer::new(206).field("Content-Range", &format!("bytes 0-{end}/{bytes}"));
            return exchange.answer(&fields(part.part("/a", 0, end + 1)));
        }
        let answer = fields(Answer::new(200).pattern("/a", bytes));
        exchange.answer(&match &gate {
            Some(gate) => answer.hold(bytes / 2, gate),
            None => answer,
        })
    });
}

#[test]
fn fields_that_are_for_one_client_reach_that_client_alone() {
    for control in ["max-age=3600, private=\"X-One\"", "max-age=3600, no-cache=\"x-one, x-two\""] {
        for bytes in [1000, 3 << 20] {
            let origin = Origin::start();
            with_private_field(&origin, control, bytes, None);
            let edge = Edge::start(origin.address());
            let first = edge.get("/a");
            assert_eq!((first.field("x-one"), first.field("x-all")), (Some("0"), Some("all")));
            let wanted = content::hash(content::seed("/a"), bytes);
            assert_eq!(first.hash(), wanted);
            let hit = edge.get_hit("/a");
            assert_eq!((hit.field("x-one"), hit.field("x-all"), hit.hash()), (None, Some("all"), wanted));
            assert_eq!(origin.count("/a"), 1);
            let why = String::from_utf8(edge.admin_get("/why?url=http://edge.test/a").body).expect("text");
            assert!(why.contains("\"fields_left_out\"") && why.contains("\"x-one\""), "{why}");
            // A validation brings them to nobody.
            let validated = edge.client().request("GET", "/a", &[("Cache-Control", "no-cache")]);
            assert_eq!(origin.count("/a"), 2);
            assert_eq!((validated.field("x-one"), validated.hash()), (None, wanted));
            assert_eq!(edge.get_hit("/a").field("x-one"), None);
        }
    }
}

#[test]
fn who_shares_a_fill_does_not_get_the_fields_of_another() {
    let (origin, gate) = (Origin::start(), Gate::default());
    with_private_field(&origin, "max-age=3600, private=\"X-One\"", 2 << 20, Some(gate.clone()));
    let edge = Edge::start(origin.address());
    let mut first = edge.client();
    first.send(request("GET", "/a", &[]).as_bytes());
    let head = first.head().expect("a head");
    assert_eq!(head.field("x-one"), Some("0"));
    let mut second = edge.client();
    second.send(request("GET", "/a", &[]).as_bytes());
    let joined = second.head().expect("a head");
    assert_eq!((joined.field("x-one"), joined.field("x-all")), (None, Some("all")));
    assert!(joined.cache_status().contains("collapsed"), "{}", joined.cache_status());
    gate.open();
    for (client, head) in [(&mut first, head), (&mut second, joined)] {
        let mut bytes = 0;
        client.body("GET", &head, &mut |piece| bytes += piece.len()).expect("whole");
        assert_eq!(bytes, 2 << 20);
    }
    assert_eq!(origin.count("/a"), 1);
}

#[test]
fn a_part_with_fields_for_one_client_is_not_stored() {
    let origin = Origin::start();
    with_private_field(&origin, "max-age=3600, private=\"X-One\"", 4 << 20, None);
    let edge = Edge::start(origin.address());
    for wanted in ["0", "1"] {
        let asked = origin.count("/a");
        let part = edge.client().request("GET", "/a", &[("Range", "bytes=0-9")]);
        assert_eq!((part.status(), part.body.len()), (206, 10));
        assert!(origin.count("/a") > asked);
        assert!(part.field("x-one").is_some_and(|one| one >= wanted), "{:?}", part.head);
    }
}
