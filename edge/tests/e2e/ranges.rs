//! Parts of large objects: only the slices that are wanted are fetched, by one request for all who want them, never of
//! two versions at once; a fill serves the parts that have come; what broke off is resumed.

use crate::support::nginx::Nginx;
use crate::support::{
    Answer, Client, Cut, Edge, Exchange, Fault, Gate, Origin, Setup, content, eventually, request,
};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// Answers as an origin that knows ranges does: with the content of `name`, and the tag it is of.
fn ranged(
    exchange: &mut Exchange<'_>,
    name: &str,
    bytes: u64,
    tag: &str,
    shape: impl Fn(Answer) -> Answer,
) -> io::Result<()> {
    let answer = |status| Answer::new(status).field("Cache-Control", "max-age=3600").field("ETag", tag);
    let range = exchange.request.field("range").and_then(|value| value.strip_prefix("bytes="));
    let range = range.filter(|_| exchange.request.field("if-range").is_none_or(|condition| condition == tag));
    let Some((first, last)) = range.and_then(|range| range.split_once('-')) else {
        return exchange.answer(&shape(answer(200).pattern(name, bytes)));
    };
    let (from, to) = match (first, last) {
        ("", suffix) => (bytes - suffix.parse::<u64>().unwrap(), bytes),
        (first, "") => (first.parse().unwrap(), bytes),
        (first, last) => (first.parse().unwrap(), bytes.min(last.parse::<u64>().unwrap() + 1)),
    };
    if from >= bytes {
        return exchange.answer(&answer(416).field("Content-Range", &format!("bytes */{bytes}")));
    }
    let field = format!("bytes {from}-{}/{bytes}", to - 1);
    exchange.answer(&shape(answer(206).field("Content-Range", &field).part(name, from, to)))
}

fn large(path: &'static str, bytes: u64) -> (Origin, Edge) {
    let origin = Origin::start();
    origin.script(path, move |exchange| ranged(exchange, path, bytes, "\"v1\"", |answer| answer));
    let edge = Edge::start(origin.address());
    (origin, edge)
}

/// Asks for these bytes and checks all that comes.
fn part(client: &mut Client, path: &str, from: u64, to: u64, complete: u64) -> crate::support::Response {
    let range = format!("bytes={from}-{}", to - 1);
    let response = client.request("GET", path, &[("Range", &range)]);
    assert_eq!(response.status(), 206, "{path} {range}: {:?}", response.head);
    let wanted = format!("bytes {from}-{}/{complete}", to - 1);
    assert_eq!(response.field("content-range"), Some(wanted.as_str()));
    assert!(response.body == content::part(content::seed(path), from, to), "{path} {range}: wrong bytes");
    response
}

fn asked(origin: &Origin, path: &str) -> Vec<String> {
    origin.seen(path).iter().map(|seen| seen.field("range").unwrap_or("whole").to_owned()).collect()
}

#[test]
fn a_range_of_a_cold_object_costs_its_slices() {
    const BYTES: u64 = 64 * MIB + 5;
    let (origin, edge) = large("/big", BYTES);
    let mut client = edge.client();
    let first = part(&mut client, "/big", 10 * MIB + 7, 10 * MIB + 1007, BYTES);
    assert!(first.head.cache_status().contains("fwd=uri-miss"), "{}", first.head.cache_status());
    assert_eq!(asked(&origin, "/big"), ["bytes=10485760-11534335"]);
    assert!(origin.body_bytes_sent() <= MIB);
    // What is there is a hit, and what touches it costs only the rest.
    let second = part(&mut client, "/big", 11 * MIB - 100, 11 * MIB, BYTES);
    assert!(second.head.is_hit(), "{}", second.head.cache_status());
    let third = part(&mut client, "/big", 11 * MIB - 100, 11 * MIB + 100, BYTES);
    assert!(third.head.cache_status().contains("fwd=partial"), "{}", third.head.cache_status());
    assert_eq!(asked(&origin, "/big")[1..], ["bytes=11534336-12582911"]);
    // The end, by a suffix: the length is known now. And beyond it.
    let last = client.request("GET", "/big", &[("Range", "bytes=-6")]);
    assert_eq!((last.status(), last.body.len()), (206, 6));
    assert!(last.body == content::part(content::seed("/big"), BYTES - 6, BYTES));
    let beyond = client.request("GET", "/big", &[("Range", &format!("bytes={BYTES}-"))]);
    assert_eq!((beyond.status(), beyond.field("content-range")), (416, Some("bytes */67108869")));
    let head = client.request("HEAD", "/big", &[]);
    assert_eq!((head.status(), head.field("content-length")), (200, Some("67108869")));
    let same = client.request("GET", "/big", &[("If-None-Match", "\"v1\"")]);
    assert_eq!(same.status(), 304);
    assert!(origin.body_bytes_sent() <= 4 * MIB, "{} bytes", origin.body_bytes_sent());
    assert!(edge.metric("edge_slices_stored_total") >= 3.0);
}

#[test]
fn clients_share_a_slice() {
    const BYTES: u64 = 32 * MIB;
    const CLIENTS: u64 = 16;
    let origin = Origin::start();
    let gate = Gate::default();
    let held = gate.clone();
    origin.script("/big", move |exchange| {
        ranged(exchange, "/big", BYTES, "\"v1\"", |answer| answer.hold(1000, &held))
    });
    let edge = Edge::start(origin.address());
    let address = edge.http();
    let asking: Vec<_> = (0..CLIENTS)
        .map(|i| {
            std::thread::spawn(move || {
                let from = 5 * MIB + i * 1000;
                part(&mut Client::connect(address), "/big", from, from + 5000, BYTES);
            })
        })
        .collect();
    origin.await_count("/big", 1);
    std::thread::sleep(Duration::from_millis(300));
    gate.open();
    asking.into_iter().for_each(|client| client.join().expect("the right bytes"));
    assert_eq!(origin.count("/big"), 1, "{:?}", asked(&origin, "/big"));
}

#[test]
fn a_plain_get_uses_the_slices_that_are_there() {
    const BYTES: u64 = 6 * MIB + 5;
    let (origin, edge) = large("/big", BYTES);
    let mut client = edge.client();
    part(&mut client, "/big", 2 * MIB, 2 * MIB + 1, BYTES);
    part(&mut client, "/big", BYTES - 1, BYTES, BYTES);
    client.send(request("GET", "/big", &[]).as_bytes());
    let (head, bytes, hash) = client.response_hash("GET").expect("a response");
    assert_eq!((head.status, bytes, hash), (200, BYTES, content::hash(content::seed("/big"), BYTES)));
    assert!(head.cache_status().contains("fwd=partial"), "{}", head.cache_status());
    assert_eq!(asked(&origin, "/big")[2..], ["bytes=0-2097151", "bytes=3145728-6291455"]);
    assert_eq!(origin.body_bytes_sent(), BYTES, "no byte was fetched twice");
    // All slices are there: it counts as whole.
    let hit = edge.get_hit("/big");
    assert_eq!(hit.hash(), content::hash(content::seed("/big"), BYTES));
    assert_eq!(origin.count("/big"), 4);
}

#[test]
fn a_partial_object_survives_a_restart() {
    const BYTES: u64 = 16 * MIB;
    let (origin, mut edge) = large("/big", BYTES);
    part(&mut edge.client(), "/big", 3 * MIB, 3 * MIB + 10, BYTES);
    edge.kill();
    edge.run();
    let hit = part(&mut edge.client(), "/big", 4 * MIB - 10, 4 * MIB, BYTES);
    assert!(hit.head.is_hit());
    part(&mut edge.client(), "/big", 4 * MIB - 10, 4 * MIB + 10, BYTES);
    assert_eq!(origin.count("/big"), 2);
}

#[test]
fn versions_are_never_mixed() {
    const BYTES: u64 = 8 * MIB;
    let origin = Origin::start();
    let version = Arc::new(AtomicU64::new(1));
    let current = version.clone();
    origin.script("/big", move |exchange| {
        let version = current.load(Ordering::SeqCst);
        ranged(exchange, &format!("/big{version}"), BYTES, &format!("\"v{version}\""), |answer| answer)
    });
    let edge = Edge::start(origin.address());
    let range = |from: u64, to: u64| {
        let mut client = edge.client();
        client.send(request("GET", "/big", &[("Range", &format!("bytes={from}-{}", to - 1))]).as_bytes());
        client.response("GET")
    };
    let of =
        |version: u64, from: u64, to: u64| content::part(content::seed(&format!("/big{version}")), from, to);
    assert!(range(0, 100).expect("a part").body == of(1, 0, 100));
    version.store(2, Ordering::SeqCst);
    // The head of the first version was sent when the change shows: the answer breaks.
    assert_eq!(range(MIB - 10, MIB + 10).err(), Some(Fault::Broken));
    // From then on there is only the second.
    assert!(range(0, 100).expect("a part").body == of(2, 0, 100));
    version.store(3, Ordering::SeqCst);
    // Nothing of this answer was sent when the change shows: it is of the new version as a whole.
    let fresh = range(5 * MIB, 5 * MIB + 100).expect("a part");
    assert!(fresh.body == of(3, 5 * MIB, 5 * MIB + 100));
    assert_eq!(fresh.field("etag"), Some("\"v3\""));
    assert!(range(0, 2 * MIB).expect("a part").body == of(3, 0, 2 * MIB));
}

/// An origin that pays no heed to If-Range, with every answer that gives another version away.
#[test]
fn versions_are_not_mixed_where_if_range_is_ignored() {
    const BYTES: u64 = 8 * MIB;
    const PATHS: [&str; 5] = ["/other", "/weak", "/without", "/longer", "/beside"];
    let origin = Origin::start();
    for path in PATHS {
        origin.script(path, move |exchange| {
            let range = exchange.request.field("range").and_then(|value| value.strip_prefix("bytes="));
            let (first, last) = range.and_then(|range| range.split_once('-')).expect("a range");
            let (mut from, mut to) = (first.parse().unwrap(), last.parse::<u64>().unwrap() + 1);
            let version = if exchange.earlier == 0 { 1 } else { 2 };
            let (tag, complete) = match (version, path) {
                (2, "/other") => (Some("\"v2\""), BYTES),
                (2, "/weak") => (Some("W/\"v1\""), BYTES),
                (2, "/without") => (None, BYTES),
                (2, "/longer") => (Some("\"v1\""), BYTES + 1),
                (2, "/beside") => {
                    (from, to) = (from + 1, to + 1);
                    (Some("\"v1\""), BYTES)
                }
                _ => (Some("\"v1\""), BYTES),
            };
            let field = format!("bytes {from}-{}/{complete}", to - 1);
            let answer =
                Answer::new(206).field("Cache-Control", "max-age=3600").field("Content-Range", &field);
            let answer = tag.iter().fold(answer, |answer, tag| answer.field("ETag", tag));
            exchange.answer(&answer.part(&format!("{path}{version}"), from, to))
        });
    }
    let edge = Edge::start(origin.address());
    for path in PATHS {
        let range = |from: u64, to: u64| {
            let mut client = edge.client();
            let field = format!("bytes={from}-{}", to - 1);
            client.send(request("GET", path, &[("Range", &field)]).as_bytes());
            client.response("GET")
        };
        let of = |version: u64, from: u64, to: u64| {
            content::part(content::seed(&format!("{path}{version}")), from, to)
        };
        assert!(range(0, 100).expect("a part").body == of(1, 0, 100), "{path}");
        assert_eq!(range(MIB - 10, MIB + 10).err(), Some(Fault::Broken), "{path}");
        // Nothing of the first version answers any more; an origin that sends other slices than it was asked for is asked for
        // the range itself, and what it says to that is passed on.
        let (from, to) = if path == "/beside" { (1, 101) } else { (0, 100) };
        assert!(range(0, 100).expect("a part").body == of(2, from, to), "{path}");
    }
}

#[test]
fn without_a_strong_validator_parts_are_not_kept() {
    const BYTES: u64 = 8 * MIB;
    let origin = Origin::start();
    origin.script("/weak", |exchange| ranged(exchange, "/weak", BYTES, "W/\"v1\"", |answer| answer));
    let edge = Edge::start(origin.address());
    let mut client = edge.client();
    for _ in 0..2 {
        let range = [("Range", "bytes=1048570-1048585")];
        let response = client.request("GET", "/weak", &range);
        assert_eq!(response.status(), 206);
        assert_eq!(response.field("content-range"), Some("bytes 1048570-1048585/8388608"));
        assert!(response.body == content::part(content::seed("/weak"), 1_048_570, 1_048_586));
    }
    assert_eq!(asked(&origin, "/weak"), ["bytes=0-2097151", "bytes=1048570-1048585"]);
    // Of which the length is not known, the client's own range is passed on.
    let suffix = client.request("GET", "/weak", &[("Range", "bytes=-5")]);
    assert_eq!((suffix.status(), suffix.body.len()), (206, 5));
    assert_eq!(asked(&origin, "/weak")[2..], ["bytes=-5"]);
}

#[test]
fn small_objects_and_origins_without_ranges_are_stored_whole() {
    let origin = Origin::start();
    origin.script("/small", |exchange| ranged(exchange, "/small", 5000, "W/\"v1\"", |answer| answer));
    origin.cacheable("/plain", 5000);
    let edge = Edge::start(origin.address());
    for path in ["/small", "/plain"] {
        let response = part(&mut edge.client(), path, 100, 200, 5000);
        assert!(response.head.cache_status().contains("fwd=uri-miss"));
        assert_eq!(edge.get_hit(path).hash(), content::hash(content::seed(path), 5000));
        assert_eq!(origin.count(path), 1);
    }
    let beyond = edge.client().request("GET", "/other", &[("Range", "bytes=0-1")]);
    assert_eq!(beyond.status(), 404);
}

#[test]
fn a_fill_serves_the_parts_that_have_come() {
    const BYTES: u64 = 24 * MIB;
    let origin = Origin::start();
    let gate = Gate::default();
    let held = gate.clone();
    origin.script("/big", move |exchange| {
        let whole = exchange.request.field("range").is_none();
        ranged(
            exchange,
            "/big",
            BYTES,
            "\"v1\"",
            |answer| if whole { answer.hold(3 * MIB, &held) } else { answer },
        )
    });
    let edge = Edge::start(origin.address());
    let mut whole = edge.client();
    whole.send(request("GET", "/big", &[]).as_bytes());
    let head = whole.head().expect("a head");
    eventually("three MiB have come", || edge.metric("edge_origin_received_bytes_total") >= (3 * MIB) as f64);
    for (from, to) in [(0, 10), (MIB - 5, MIB + 5), (2 * MIB + 7, 3 * MIB - 7)] {
        part(&mut edge.client(), "/big", from, to, BYTES);
    }
    assert_eq!(origin.count("/big"), 1, "they came from the fill");
    // Far ahead of it: fetched alone.
    part(&mut edge.client(), "/big", 20 * MIB, 20 * MIB + 10, BYTES);
    assert_eq!(asked(&origin, "/big"), ["whole", "bytes=20971520-22020095"]);
    // Just ahead of it: waited for.
    let address = edge.http();
    let ahead =
        std::thread::spawn(move || part(&mut Client::connect(address), "/big", 4 * MIB - 1, 5 * MIB, BYTES));
    std::thread::sleep(Duration::from_millis(100));
    gate.open();
    ahead.join().expect("the right bytes");
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    whole.body("GET", &head, &mut |piece| hasher.update(piece)).expect("a whole body");
    assert_eq!(hasher.digest(), content::hash(content::seed("/big"), BYTES));
    assert_eq!(origin.count("/big"), 2);
}

#[test]
fn a_fill_that_broke_off_is_resumed() {
    const BYTES: u64 = 5 * MIB + 3;
    let origin = Origin::start();
    origin.script("/once", |exchange| {
        let first = exchange.earlier == 0;
        ranged(exchange, "/once", BYTES, "\"v1\"", |a| if first { a.cut(3 * MIB + 1, Cut::Reset) } else { a })
    });
    origin.script("/always", |exchange| {
        ranged(exchange, "/always", BYTES, "\"v1\"", |answer| answer.cut(1000, Cut::Close))
    });
    origin.script("/changed", |exchange| {
        let (first, tag) = (exchange.earlier == 0, format!("\"v{}\"", exchange.earlier));
        ranged(exchange, "/changed", BYTES, &tag, |a| if first { a.cut(3 * MIB + 1, Cut::Close) } else { a })
    });
    let edge = Edge::start(origin.address());
    let get = |path: &str| {
        let mut client = edge.client();
        client.send(request("GET", path, &[]).as_bytes());
        client.response_hash("GET").map(|(_, bytes, hash)| (bytes, hash))
    };
    assert_eq!(get("/once"), Ok((BYTES, content::hash(content::seed("/once"), BYTES))));
    let seen = origin.seen("/once");
    let rest = seen[1].field("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
    assert!(
        rest.and_then(|rest| rest.parse::<u64>().ok()).is_some_and(|from| from <= 3 * MIB + 1 && from > 0)
    );
    assert_eq!((seen.len(), seen[1].field("if-range")), (2, Some("\"v1\"")));
    edge.get_hit("/once");
    assert_eq!(edge.metric("edge_fills_resumed_total"), 1.0);
    // Bounded, and never of two versions.
    assert_eq!(get("/always"), Err(Fault::Broken));
    assert_eq!(origin.count("/always"), 4);
    assert_eq!(get("/changed"), Err(Fault::Broken));
    assert_eq!(origin.count("/changed"), 2);
}

#[test]
fn slices_that_broke_off_are_resumed() {
    const BYTES: u64 = 9 * MIB;
    let origin = Origin::start();
    origin.script("/big", |exchange| {
        let cut = exchange.earlier % 2 == 0;
        ranged(exchange, "/big", BYTES, "\"v1\"", |a| if cut { a.cut(MIB + 77, Cut::Close) } else { a })
    });
    let edge = Edge::start(origin.address());
    part(&mut edge.client(), "/big", MIB + 5, 6 * MIB + 5, BYTES);
    let asked = asked(&origin, "/big");
    assert_eq!((asked.len(), asked[1].as_str()), (2, "bytes=2097229-7340031"), "{asked:?}");
}

/// A client that takes nothing holds the origin back, and one that leaves ends the transfer.
#[test]
fn slices_come_no_faster_than_they_are_taken() {
    const BYTES: u64 = 100 * MIB;
    let origin = Origin::start();
    origin.script("/big", |exchange| ranged(exchange, "/big", BYTES, "\"v1\"", |answer| answer));
    let setup = Setup { store_size: "512MiB".into(), ..Setup::default() };
    let edge = Edge::start_with(origin.address(), setup);
    let mut client = edge.client();
    client.send(request("GET", "/big", &[("Range", "bytes=0-")]).as_bytes());
    assert_eq!(client.head().expect("a head").status, 206);
    std::thread::sleep(Duration::from_millis(1500));
    let received = edge.metric("edge_origin_received_bytes_total");
    assert!(received < (48 * MIB) as f64, "{received} bytes were read for a client that takes none");
    drop(client);
    eventually("the request to the origin has ended", || edge.metric("edge_fetches_running") == 0.0);
}

#[test]
fn random_ranges_of_many_clients() {
    const BYTES: u64 = 24 * MIB + 1234;
    const CLIENTS: u64 = 64;
    let (origin, edge) = large("/big", BYTES);
    let address = edge.http();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            scope.spawn(move || {
                let mut dice = content::seed(&format!("dice {client}"));
                let mut roll = |sides: u64| {
                    dice = dice.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                    (dice >> 33) % sides
                };
                let mut connection = Client::connect(address);
                for _ in 0..6 {
                    let from = roll(BYTES);
                    let most = if roll(4) == 0 { 3 * MIB } else { 20_000 };
                    let to = (from + 1 + roll(most)).min(BYTES);
                    part(&mut connection, "/big", from, to, BYTES);
                }
            });
        }
    });
    let sent = origin.body_bytes_sent();
    assert!(sent <= BYTES + 4 * MIB, "{sent} bytes were fetched of {BYTES}");
}

#[test]
fn one_mebibyte_of_ten_gibibytes() {
    const BYTES: u64 = 10 << 30;
    if !crate::support::process::has_program("one_mebibyte_of_ten_gibibytes", "nginx") {
        return;
    }
    let from = 7 * (1 << 30) + 12_345;
    let nginx = Nginx::start("add_header Cache-Control max-age=600;", |www| {
        let file = std::fs::File::create(www.join("sparse")).unwrap();
        file.set_len(BYTES).unwrap();
        for mark in [from, from + MIB - 8] {
            std::os::unix::fs::FileExt::write_all_at(&file, &mark.to_be_bytes(), mark).unwrap();
        }
    });
    let sent_bytes = || nginx.log().iter().map(|logged| logged.body_bytes).sum::<u64>();
    let edge = Edge::start(nginx.address);
    for round in 0..2 {
        let range = format!("bytes={from}-{}", from + MIB - 1);
        let response = edge.client().request("GET", "/sparse", &[("Range", &range)]);
        assert_eq!(response.status(), 206, "{:?}", response.head);
        assert_eq!(response.head.is_hit(), round == 1, "{}", response.head.cache_status());
        assert_eq!(response.body.len() as u64, MIB);
        assert_eq!(response.body[..8], from.to_be_bytes());
        assert_eq!(response.body[(MIB - 8) as usize..], (from + MIB - 8).to_be_bytes());
    }
    let received = edge.metric("edge_origin_received_bytes_total");
    assert!(received <= (2 * MIB) as f64, "{received} bytes");
    eventually("nginx has written its log", || sent_bytes() > 0);
    assert!(sent_bytes() <= 2 * MIB, "{} bytes", sent_bytes());
}

#[test]
fn stale_slices_are_validated_and_not_fetched_again() {
    const BYTES: u64 = 4 * MIB;
    let origin = Origin::start();
    let version = Arc::new(AtomicU64::new(1));
    let current = version.clone();
    origin.script("/big", move |exchange| {
        let version = current.load(Ordering::SeqCst);
        let (name, tag) = (format!("/big{version}"), format!("\"v{version}\""));
        if exchange.request.field("if-none-match") == Some(&tag) {
            return exchange
                .answer(&Answer::new(304).field("Cache-Control", "max-age=1").field("ETag", &tag));
        }
        ranged(exchange, &name, BYTES, &tag, |answer| answer.field("Cache-Control", "s-maxage=1"))
    });
    let edge = Edge::start(origin.address());
    let stale = || std::thread::sleep(Duration::from_millis(2100));
    let range = |from: u64, to: u64| {
        edge.client().request("GET", "/big", &[("Range", &format!("bytes={from}-{}", to - 1))])
    };
    let of =
        |version: u64, from: u64, to: u64| content::part(content::seed(&format!("/big{version}")), from, to);
    assert!(range(10, 20).body == of(1, 10, 20));
    stale();
    // Of a part that is there the origin only has to say that it still is.
    let sent = origin.body_bytes_sent();
    let validated = range(30, 40);
    assert_eq!((validated.status(), &validated.body), (206, &of(1, 30, 40)));
    let seen = origin.seen("/big");
    assert_eq!(
        (seen[1].field("if-none-match"), seen[1].field("range")),
        (Some("\"v1\""), Some("bytes=0-1048575"))
    );
    assert_eq!((seen.len(), origin.body_bytes_sent()), (2, sent));
    stale();
    // So it is for the whole, of which the rest is fetched then.
    let mut client = edge.client();
    client.send(request("GET", "/big", &[]).as_bytes());
    let (_, bytes, hash) = client.response_hash("GET").expect("a response");
    assert_eq!((bytes, hash), (BYTES, content::hash(content::seed("/big1"), BYTES)));
    assert_eq!(origin.body_bytes_sent(), BYTES);
    // A new version takes the place of all of it.
    version.store(2, Ordering::SeqCst);
    stale();
    assert!(range(MIB, MIB + 10).body == of(2, MIB, MIB + 10));
    assert!(range(0, 10).body == of(2, 0, 10));
}

#[test]
fn purged_slices_stay_away() {
    const BYTES: u64 = 8 * MIB;
    let (origin, edge) = large("/big", BYTES);
    part(&mut edge.client(), "/big", 0, 10, BYTES);
    assert!(part(&mut edge.client(), "/big", 5, 10, BYTES).head.is_hit());
    let url = format!("http://{}/big", crate::support::HOST);
    assert_eq!(edge.purge(&format!("{{\"url\": \"{url}\"}}")).status(), 200);
    assert!(!part(&mut edge.client(), "/big", 5, 10, BYTES).head.is_hit());
    assert_eq!(origin.count("/big"), 2);
}

#[test]
fn each_variant_has_its_slices() {
    const BYTES: u64 = 4 * MIB;
    let origin = Origin::start();
    origin.script("/big", |exchange| {
        let language = exchange.request.field("accept-language").unwrap_or("none").to_owned();
        ranged(exchange, &format!("/big-{language}"), BYTES, &format!("\"{language}\""), |answer| {
            answer.field("Vary", "Accept-Language")
        })
    });
    let edge = Edge::start(origin.address());
    for round in 0..2 {
        for language in ["de", "en"] {
            let fields = [("Range", "bytes=2000000-2000099"), ("Accept-Language", language)];
            let response = edge.client().request("GET", "/big", &fields);
            assert_eq!((response.status(), response.head.is_hit()), (206, round == 1), "{language}");
            let name = format!("/big-{language}");
            assert!(response.body == content::part(content::seed(&name), 2_000_000, 2_000_100), "{language}");
        }
    }
    assert_eq!(origin.count("/big"), 2);
}

/// An answer of the store needs nobody else, nor does one of a part that is there.
#[test]
fn parts_that_are_there_need_no_origin() {
    const BYTES: u64 = 8 * MIB;
    let (origin, edge) = large("/big", BYTES);
    part(&mut edge.client(), "/big", MIB, 3 * MIB, BYTES);
    origin.stop();
    for (from, to) in [(MIB, 3 * MIB), (2 * MIB - 1, 2 * MIB + 1)] {
        assert!(part(&mut edge.client(), "/big", from, to, BYTES).head.is_hit());
    }
    let several = edge.client().request("GET", "/big", &[("Range", "bytes=1048576-1048585,3000000-3000009")]);
    assert_eq!(several.status(), 206);
    assert!(several.head.is_hit());
    let missing = edge.client().request("GET", "/big", &[("Range", "bytes=0-10")]);
    assert_eq!(missing.status(), 502);
}

/// Slices and parts leave a TLS connection as they do a plain one.
#[test]
fn ranges_over_tls() {
    const BYTES: u64 = 6 * MIB;
    let origin = Origin::start();
    origin.script("/big", |exchange| ranged(exchange, "/big", BYTES, "\"v1\"", |answer| answer));
    let site = crate::support::tls::Site::new(&["edge.test"]);
    let setup = Setup { listen_lines: site.section(), ..Setup::default() };
    let _edge = Edge::start_with(origin.address(), setup);
    let of = |from: u64, to: u64| content::part(content::seed("/big"), from, to);
    for _ in 0..2 {
        let output = site.curl("edge.test", "/big", &["-r", "1048570-3145735"]);
        assert!(output.status.success() && output.stdout == of(1_048_570, 3_145_736), "wrong bytes");
    }
    let several = site.curl("edge.test", "/big", &["-r", "1048576-1048675,3145720-3145735"]).stdout;
    let holds = |part: &[u8]| several.windows(part.len()).any(|window| window == part);
    assert!(several.starts_with(b"--") && several.ends_with(b"--\r\n"));
    assert!(holds(&of(1_048_576, 1_048_676)) && holds(&of(3_145_720, 3_145_736)));
    assert_eq!(origin.count("/big"), 1, "{:?}", asked(&origin, "/big"));
}
