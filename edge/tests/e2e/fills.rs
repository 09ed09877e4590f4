//! Fills: one for all who ask, streamed while it runs, and never whole-looking when it broke.

use crate::support::{
    Answer, Client, Cut, Edge, Fault, Framing, Gate, Origin, alone, content, eventually, request,
};
use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// Clients on small threads, each asking for the same path; every one reports its first body byte, then
/// its end.
struct Crowd {
    first_bytes: mpsc::Receiver<()>,
    ends: mpsc::Receiver<Result<(u64, u64), Fault>>,
    size: usize,
}

impl Crowd {
    fn ask(size: usize, address: SocketAddr, path: &str) -> Self {
        let (first_byte, first_bytes) = mpsc::channel();
        let (end, ends) = mpsc::channel();
        for _ in 0..size {
            let (first_byte, end, path) = (first_byte.clone(), end.clone(), path.to_string());
            let run = move || {
                let mut client = Client::connect(address);
                client.send(request("GET", &path, &[]).as_bytes());
                let _ = end.send(one(&mut client, &first_byte));
            };
            std::thread::Builder::new().stack_size(256 * 1024).spawn(run).expect("a thread");
        }
        Crowd { first_bytes, ends, size }
    }

    /// Waits until every client has a byte of the body.
    fn await_first_bytes(&self) {
        for n in 0..self.size {
            let got = self.first_bytes.recv_timeout(Duration::from_secs(20));
            assert!(got.is_ok(), "only {n} of {} clients had a byte before the origin's last", self.size);
        }
    }

    fn await_ends(&self) -> Vec<Result<(u64, u64), Fault>> {
        (0..self.size).map(|_| self.ends.recv_timeout(Duration::from_secs(60)).expect("an end")).collect()
    }
}

fn one(client: &mut Client, first_byte: &mpsc::Sender<()>) -> Result<(u64, u64), Fault> {
    let head = client.head()?;
    assert_eq!(head.status, 200);
    client.await_byte()?;
    let _ = first_byte.send(());
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    let mut bytes = 0;
    client.body("GET", &head, &mut |piece| {
        hasher.update(piece);
        bytes += piece.len() as u64;
    })?;
    Ok((bytes, hasher.digest()))
}

#[test]
fn five_hundred_clients_one_fill() {
    const BYTES: u64 = 8 * MIB;
    const CLIENTS: usize = 500;
    let _alone = alone();
    let origin = Origin::start();
    let gate = Gate::default();
    origin.on("/big", Answer::cacheable("/big", BYTES).hold(BYTES / 2, &gate));
    let edge = Edge::start(origin.address());
    let crowd = Crowd::ask(CLIENTS, edge.http(), "/big");
    crowd.await_first_bytes();
    assert_eq!(origin.body_bytes_sent(), BYTES / 2, "the origin has not sent the rest yet");
    gate.open();
    let wanted = (BYTES, content::hash(content::seed("/big"), BYTES));
    for end in crowd.await_ends() {
        assert_eq!(end, Ok(wanted));
    }
    assert_eq!(origin.count("/big"), 1, "one request to the origin");
    let mut client = edge.client();
    client.send(request("GET", "/big", &[]).as_bytes());
    let (_, bytes, hash) = client.response_hash("GET").expect("a response");
    assert_eq!((bytes, hash), wanted);
    edge.get_hit("/big");
    assert_eq!(origin.count("/big"), 1);
    assert!(edge.metric("edge_fills_joined_total") >= 1.0);
}

#[test]
fn late_followers_get_the_start_too() {
    const BYTES: u64 = 4 * MIB + 5;
    let origin = Origin::start();
    let gate = Gate::default();
    for framing in [Framing::Length, Framing::Chunked, Framing::Close] {
        origin.on(
            &format!("/{framing:?}"),
            Answer::cacheable("late", BYTES).framing(framing).hold(3 * MIB + 1, &gate),
        );
    }
    let edge = Edge::start(origin.address());
    let wanted = (BYTES, content::hash(content::seed("late"), BYTES));
    let mut crowds = Vec::new();
    for framing in [Framing::Length, Framing::Chunked, Framing::Close] {
        let path = format!("/{framing:?}");
        let first = Crowd::ask(1, edge.http(), &path);
        first.await_first_bytes();
        // All there is so far has reached edge when these ask, so they begin in what is sealed already.
        std::thread::sleep(Duration::from_millis(200));
        let late = Crowd::ask(10, edge.http(), &path);
        late.await_first_bytes();
        crowds.extend([(path.clone(), first), (path, late)]);
    }
    gate.open();
    for (path, crowd) in crowds {
        assert!(crowd.await_ends().into_iter().all(|end| end == Ok(wanted)), "{path}");
        assert_eq!(origin.count(&path), 1, "{path}");
    }
}

/// The bytes follow the reader, not the other way round: a client that stops reading neither stops the
/// fill nor the others.
#[test]
fn slow_followers_do_not_hold_the_fill() {
    const BYTES: u64 = 24 * MIB;
    let _alone = alone();
    let origin = Origin::start();
    origin.cacheable("/big", BYTES);
    let edge = Edge::start(origin.address());
    let mut slow = edge.client();
    slow.send(request("GET", "/big", &[]).as_bytes());
    let head = slow.head().expect("a head");
    let wanted = content::hash(content::seed("/big"), BYTES);
    for _ in 0..3 {
        let mut client = edge.client();
        client.send(request("GET", "/big", &[]).as_bytes());
        assert_eq!(client.response_hash("GET").expect("a response").2, wanted);
    }
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    slow.body("GET", &head, &mut |piece| hasher.update(piece)).expect("a whole body");
    assert_eq!(hasher.digest(), wanted);
    assert_eq!(origin.count("/big"), 1);
}

#[test]
fn a_fill_goes_on_when_its_client_leaves() {
    const BYTES: u64 = 4 * MIB;
    let origin = Origin::start();
    let gate = Gate::default();
    origin.on("/big", Answer::cacheable("/big", BYTES).hold(MIB, &gate));
    let edge = Edge::start(origin.address());
    let mut client = edge.client();
    client.send(request("GET", "/big", &[]).as_bytes());
    client.head().expect("a head");
    drop(client);
    std::thread::sleep(Duration::from_millis(100));
    gate.open();
    let hit = edge.get_hit("/big");
    assert_eq!(hit.hash(), content::hash(content::seed("/big"), BYTES));
    assert_eq!(origin.count("/big"), 1);
}

/// One path per way to break; the first request breaks, later ones are whole.
fn breaking(origin: &Origin, path: &str, bytes: u64, framing: Framing, cut: Cut, gate: &Gate) {
    let broken = Answer::cacheable(path, bytes).framing(framing).hold(bytes / 2, gate).cut(bytes / 2, cut);
    let whole = Answer::cacheable(path, bytes).framing(framing);
    origin
        .script(path, move |exchange| exchange.answer(if exchange.earlier == 0 { &broken } else { &whole }));
}

#[test]
fn broken_fills_never_look_whole() {
    const CLIENTS: usize = 8;
    let origin = Origin::start();
    let edge = Edge::start(origin.address());
    for bytes in [2000, 3 * MIB] {
        for (framing, cut) in [
            (Framing::Length, Cut::Close),
            (Framing::Length, Cut::Reset),
            (Framing::Chunked, Cut::Close),
            (Framing::Chunked, Cut::Reset),
            (Framing::Close, Cut::Reset),
        ] {
            let path = format!("/{framing:?}/{cut:?}/{bytes}");
            let gate = Gate::default();
            breaking(&origin, &path, bytes, framing, cut, &gate);
            let crowd = Crowd::ask(CLIENTS, edge.http(), &path);
            crowd.await_first_bytes();
            gate.open();
            for end in crowd.await_ends() {
                assert_eq!(end, Err(Fault::Broken), "{path}");
            }
            assert_eq!(origin.count(&path), 1, "{path}: nothing is tried twice behind the client's back");
            let again = edge.get(&path);
            assert_eq!(again.hash(), content::hash(content::seed(&path), bytes), "{path}");
            assert_eq!(origin.count(&path), 2, "{path}: the next request asks the origin again");
            edge.get_hit(&path);
        }
    }
    assert!(edge.metric("edge_fills_broken_total") >= 10.0);
}

#[test]
fn broken_passes_never_look_whole() {
    let origin = Origin::start();
    let edge = Edge::start(origin.address());
    for (framing, cut) in [
        (Framing::Length, Cut::Close),
        (Framing::Length, Cut::Reset),
        (Framing::Chunked, Cut::Close),
        (Framing::Chunked, Cut::Reset),
    ] {
        let path = format!("/{framing:?}/{cut:?}");
        let answer = Answer::new(200).field("Cache-Control", "no-store").pattern(&path, 200_000);
        origin.on(&path, answer.framing(framing).cut(100_000, cut));
        let mut client = edge.client();
        client.send(request("GET", &path, &[]).as_bytes());
        assert_eq!(client.response("GET").err(), Some(Fault::Broken), "{path}");
    }
}

#[test]
fn uncacheable_responses_do_not_queue_behind_each_other() {
    const CLIENTS: usize = 20;
    let origin = Origin::start();
    let gate = Gate::default();
    let held = Answer::new(200).field("Cache-Control", "no-store").pattern("/a", 1000).hold(1, &gate);
    let first = Answer::new(200).field("Cache-Control", "no-store").pattern("/a", 1000);
    origin.script("/a", move |exchange| exchange.answer(if exchange.earlier == 0 { &first } else { &held }));
    let edge = Edge::start(origin.address());
    edge.get("/a");
    let crowd = Crowd::ask(CLIENTS, edge.http(), "/a");
    origin.await_count("/a", 1 + CLIENTS);
    gate.open();
    let wanted = content::hash(content::seed("/a"), 1000);
    assert!(crowd.await_ends().into_iter().all(|end| end == Ok((1000, wanted))));
}

/// Followers of a fill that turns out not to be storable get answers of their own, each once.
#[test]
fn followers_of_an_uncacheable_response_ask_for_themselves() {
    const CLIENTS: usize = 10;
    let origin = Origin::start();
    origin.script("/a", |exchange| {
        let answer = Answer::new(200).field("Cache-Control", "private").body(exchange.earlier.to_string());
        exchange.answer(&answer.delay(Duration::from_millis(if exchange.earlier == 0 { 300 } else { 0 })))
    });
    let edge = Edge::start(origin.address());
    let address = edge.http();
    let asking: Vec<_> =
        (0..CLIENTS).map(|_| std::thread::spawn(move || Client::connect(address).get("/a").body)).collect();
    let mut bodies: Vec<_> = asking.into_iter().map(|thread| thread.join().expect("a body")).collect();
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), CLIENTS, "a private response was shared");
    assert_eq!(origin.count("/a"), CLIENTS);
}

#[test]
fn the_store_turns_over() {
    let origin = Origin::start();
    for i in 0..120 {
        origin.cacheable(&format!("/{i}"), MIB);
    }
    let setup = crate::support::Setup { store_size: "32MiB".into(), ..Default::default() };
    let edge = Edge::start_with(origin.address(), setup);
    for i in 0..120 {
        let path = format!("/{i}");
        assert_eq!(edge.get(&path).hash(), content::hash(content::seed(&path), MIB), "{path}");
    }
    assert_eq!(origin.count_all(), 120);
    eventually("the newest object is a hit", || edge.get("/119").head.is_hit());
    let oldest = edge.get("/0");
    assert!(!oldest.head.is_hit(), "120 MiB cannot be in a store of 32");
    assert_eq!(oldest.hash(), content::hash(content::seed("/0"), MIB));
    assert!(edge.metric("edge_evicted_objects_total") > 0.0);
}
