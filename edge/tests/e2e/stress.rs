//! More than fits: objects larger than the store takes, more fetches than may wait, more connections than
//! there are places, a store that turns over under slow readers, and everything at once.

use crate::support::{
    Answer, Client, Cut, Edge, Fault, Framing, Gate, Origin, Setup, alone, content, in_time, request,
};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

#[test]
fn objects_the_store_does_not_take_are_served_all_the_same() {
    const BYTES: u64 = 40 * MIB;
    let _alone = alone();
    let origin = Origin::start();
    let setup = Setup { store_size: "64MiB".into(), ..Default::default() };
    let edge = Edge::start_with(origin.address(), setup);
    for framing in [Framing::Length, Framing::Chunked] {
        let path = format!("/{framing:?}");
        origin.on(&path, Answer::cacheable(&path, BYTES).framing(framing));
        let wanted = content::hash(content::seed(&path), BYTES);
        for round in 1..=2 {
            let address = edge.http();
            let asking: Vec<_> = (0..3)
                .map(|_| {
                    let path = path.clone();
                    std::thread::spawn(move || {
                        let mut client = Client::connect(address);
                        client.send(request("GET", &path, &[]).as_bytes());
                        client.response_hash("GET")
                    })
                })
                .collect();
            for thread in asking {
                let (head, bytes, hash) = thread.join().expect("a client").expect("a whole response");
                assert!(!head.is_hit());
                assert_eq!((bytes, hash), (BYTES, wanted), "{path}, round {round}");
            }
        }
    }
}

/// The send timeout is for readers that stand still, not for slow ones.
#[test]
fn a_slow_reader_that_goes_on_is_not_cut_off() {
    in_time(Duration::from_millis(300), || {
        const BYTES: u64 = 32 * MIB;
        let _alone = alone();
        let origin = Origin::start();
        origin.cacheable("/large", BYTES);
        let setup = Setup { limit_lines: "send_timeout = \"1s\"".into(), ..Default::default() };
        let edge = Edge::start_with(origin.address(), setup);
        edge.get("/large");
        edge.wait_stored(1.0);
        let mut client = edge.client();
        client.send(request("GET", "/large", &[]).as_bytes());
        let (mut taken, mut paused) = (0, 0);
        let head = client.response_to("GET", &mut |piece| {
            taken += piece.len() as u64;
            if taken / (MIB / 2) > paused {
                paused = taken / (MIB / 2);
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        assert!(head.expect("a whole response").is_hit());
        assert_eq!(taken, BYTES);
    });
}

/// While an origin pauses, a client that has taken everything so far is not late.
#[test]
fn an_origin_that_pauses_is_not_the_clients_delay() {
    const BYTES: u64 = 5_000;
    let origin = Origin::start();
    let gate = Gate::default();
    origin.on("/stored", Answer::cacheable("/stored", BYTES).hold(1_000, &gate));
    let passed = Answer::new(200).field("Cache-Control", "no-store").pattern("/passed", BYTES);
    origin.on("/passed", passed.hold(1_000, &gate));
    let setup = Setup { limit_lines: "send_timeout = \"1s\"".into(), ..Default::default() };
    let edge = Edge::start_with(origin.address(), setup);
    let mut clients = ["/stored", "/passed"].map(|path| {
        let mut client = edge.client();
        client.send(request("GET", path, &[]).as_bytes());
        (path, client)
    });
    std::thread::sleep(Duration::from_millis(2_500));
    gate.open();
    for (path, client) in &mut clients {
        let (_, bytes, hash) = client.response_hash("GET").expect("a whole response");
        assert_eq!((bytes, hash), (BYTES, content::hash(content::seed(path), BYTES)), "{path}");
    }
}

/// What a hit sends is held until it is sent, or the response breaks: it never turns into other bytes.
#[test]
fn the_store_turns_over_under_a_slow_reader() {
    const BYTES: u64 = 12 * MIB;
    let _alone = alone();
    let origin = Origin::start();
    origin.cacheable("/slow", BYTES);
    for i in 0..100 {
        origin.cacheable(&format!("/{i}"), MIB);
    }
    let setup = Setup { store_size: "64MiB".into(), ..Default::default() };
    let edge = Edge::start_with(origin.address(), setup);
    edge.get("/slow");
    edge.get_hit("/slow");
    let mut readers: Vec<_> = (0..4)
        .map(|_| {
            let mut client = edge.client();
            client.send(request("GET", "/slow", &[]).as_bytes());
            let head = client.head().expect("a head");
            assert!(head.is_hit());
            (client, head)
        })
        .collect();
    for i in 0..100 {
        let path = format!("/{i}");
        assert_eq!(edge.get(&path).hash(), content::hash(content::seed(&path), MIB), "{path}");
    }
    let seed = content::seed("/slow");
    for (client, head) in &mut readers {
        let mut at = 0;
        let end = client.body("GET", head, &mut |piece| {
            assert!(piece == content::part(seed, at, at + piece.len() as u64), "other bytes at {at}");
            at += piece.len() as u64;
        });
        match end {
            Ok(()) => assert_eq!(at, BYTES),
            Err(fault) => assert_eq!(fault, Fault::Broken, "after {at} bytes"),
        }
    }
}

/// Past what may wait, fetches are refused at once and told when to come again; hits go on.
#[test]
fn more_fetches_than_may_wait() {
    const CLIENTS: usize = 4500;
    let _alone = alone();
    let origin = Origin::start();
    let gate = Gate::default();
    origin.cacheable("/stored", 100);
    let setup = Setup { origin_lines: "concurrency_max = 1".into(), ..Default::default() };
    let edge = Edge::start_with(origin.address(), setup);
    edge.get("/stored");
    edge.get_hit("/stored");
    let (held, path) = (gate.clone(), |i| format!("/held/{i}"));
    for i in 0..CLIENTS {
        origin.on(&path(i), Answer::cacheable("/held", 10).hold(5, &held));
    }
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|i| {
            let mut client = edge.client();
            client.send(request("GET", &path(i), &[]).as_bytes());
            client
        })
        .collect();
    assert!(edge.get("/stored").head.is_hit(), "hits go on");
    // The last ones find the line full and are answered while the first is still at the origin.
    let refused = clients.last_mut().expect("a client").response("GET").expect("an answer");
    assert_eq!((refused.status(), refused.field("retry-after").is_some()), (503, true), "{:?}", refused.head);
    assert_eq!(origin.count_all(), 2, "one stored, one held");
    gate.open();
    let (mut served, mut refused) = (0, 1);
    for client in &mut clients[..CLIENTS - 1] {
        match client.response("GET").expect("an answer").status() {
            200 => served += 1,
            503 => refused += 1,
            status => panic!("status {status}"),
        }
    }
    assert!(served >= 4000 && refused >= 100, "{served} served, {refused} refused");
    assert_eq!(edge.metric("edge_queue_overflows_total"), f64::from(refused));
}

#[test]
fn more_connections_than_places() {
    const PLACES: usize = 64;
    let origin = Origin::start();
    origin.cacheable("/a", 10);
    let cpu = crate::kernel::one_cpu();
    let setup =
        Setup { cpus: Some(cpu), limit_lines: format!("connections_max = {PLACES}"), ..Default::default() };
    let edge = Edge::start_with(origin.address(), setup);
    edge.get("/a");
    edge.get_hit("/a");
    edge.wait_closed();
    let mut held: Vec<_> = (0..PLACES).map(|_| edge.client()).collect();
    for client in &mut held {
        assert!(client.get("/a").head.is_hit());
    }
    let mut late = edge.client();
    late.send(request("GET", "/a", &[]).as_bytes());
    late.stream().set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
    assert!(late.response("GET").is_err(), "there was no place");
    for client in &mut held {
        assert!(client.get("/a").head.is_hit(), "those who have one keep it");
    }
    drop((held, late));
    crate::support::eventually("places are free again", || {
        let mut client = edge.client();
        client.stream().set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
        client.send(request("GET", "/a", &[]).as_bytes());
        client.response("GET").is_ok()
    });
}

/// A sequence of numbers from a seed.
struct Dice(u64, u64);

impl Dice {
    fn throw(&mut self, below: u64) -> u64 {
        self.1 += 8;
        let mut bytes = [0; 8];
        content::fill(self.0, self.1, &mut bytes);
        u64::from_le_bytes(bytes) % below
    }
}

const PATHS: u64 = 60;

fn bytes_of(i: u64) -> u64 {
    match i % 6 {
        0 => MIB + i * 50_001,
        1 => 0,
        _ => i * 997,
    }
}

/// Paths of every kind: stored for long or a second, never stored, chunked, broken now and then.
fn zoo(origin: &Origin) {
    for i in 0..PATHS {
        let path = format!("/{i}");
        let framing = [Framing::Length, Framing::Chunked, Framing::Close][(i / 6 % 3) as usize];
        let control = ["max-age=3600", "max-age=1", "no-store", "private", "no-cache"][(i / 2 % 5) as usize];
        let etag = format!("\"{i}\"");
        let whole = Answer::new(200)
            .field("Cache-Control", control)
            .field("ETag", &etag)
            .pattern(&path, bytes_of(i))
            .framing(framing);
        let unchanged = Answer::new(304).field("Cache-Control", control).field("ETag", &etag);
        // A body that ends with its connection cannot be seen to be cut by a mere close.
        let cut = if framing == Framing::Close { Cut::Reset } else { Cut::Close };
        let broken = whole.clone().cut(bytes_of(i) / 2, cut);
        origin.script(&path, move |exchange| {
            if exchange.request.field("if-none-match") == Some(&etag) {
                return exchange.answer(&unchanged);
            }
            let breaks = exchange.earlier % 7 == 3 && bytes_of(i) > 1;
            exchange.answer(if breaks { &broken } else { &whole })
        });
    }
    origin.script("/echo", |exchange| {
        let body = exchange.body()?;
        exchange.answer(&Answer::new(200).body(body))
    });
}

/// One client's doings until the time is over and enough answers were checked; returns how many.
fn wander(address: SocketAddr, seed: u64, until: Instant, enough: usize) -> usize {
    let mut dice = Dice(seed, 0);
    let mut checked = 0;
    while Instant::now() < until || checked < enough {
        let mut client = Client::connect(address);
        for _ in 0..dice.throw(20) {
            let i = dice.throw(PATHS);
            let step = match dice.throw(10) {
                0 => posted(&mut client, dice.throw(300_000)),
                1 => part(&mut client, i, dice.throw(bytes_of(i) + 10)),
                2 => {
                    // Leaves in the middle.
                    client.send(request("GET", &format!("/{i}"), &[]).as_bytes());
                    break;
                }
                3 => pipelined(&mut client, i, dice.throw(PATHS)),
                _ => {
                    client.send(request("GET", &format!("/{i}"), &[]).as_bytes());
                    whole(&mut client, i)
                }
            };
            match step {
                Ok(()) => checked += 1,
                Err(Fault::Broken | Fault::Closed) => break,
                Err(fault) => panic!("/{i}: {fault:?}"),
            }
        }
    }
    checked
}

fn whole(client: &mut Client, i: u64) -> Result<(), Fault> {
    let seed = content::seed(&format!("/{i}"));
    let (head, bytes, hash) = client.response_hash("GET")?;
    // An origin that broke before anything could be told is a 502.
    if head.status == 502 {
        return Ok(());
    }
    assert_eq!((head.status, bytes, hash), (200, bytes_of(i), content::hash(seed, bytes_of(i))), "/{i}");
    Ok(())
}

fn part(client: &mut Client, i: u64, from: u64) -> Result<(), Fault> {
    let path = format!("/{i}");
    client.send(request("GET", &path, &[("Range", &format!("bytes={from}-"))]).as_bytes());
    let response = client.response("GET")?;
    let bytes = bytes_of(i);
    match response.status() {
        206 => {
            assert!(response.body == content::part(content::seed(&path), from, bytes), "{path} from {from}")
        }
        416 => assert!(from >= bytes, "{path} from {from}"),
        // The scripted origin knows no ranges.
        200 => assert_eq!(response.hash(), content::hash(content::seed(&path), bytes), "{path}"),
        status => assert_eq!(status, 502, "{path} from {from}"),
    }
    Ok(())
}

fn posted(client: &mut Client, bytes: u64) -> Result<(), Fault> {
    let body = content::part(bytes, 0, bytes);
    client.send(request("POST", "/echo", &[("Content-Length", &bytes.to_string())]).as_bytes());
    client.send(&body);
    let response = client.response("POST")?;
    assert!(response.status() == 200 && response.body == body, "{bytes} bytes were not echoed");
    Ok(())
}

fn pipelined(client: &mut Client, first: u64, second: u64) -> Result<(), Fault> {
    let ask = |i| request("GET", &format!("/{i}"), &[]);
    client.send((ask(first) + &ask(second)).as_bytes());
    whole(client, first)?;
    whole(client, second)
}

#[test]
fn everything_at_once() {
    const CLIENTS: u64 = 24;
    let _alone = alone();
    let origin = Origin::start();
    zoo(&origin);
    let setup = Setup { store_size: "32MiB".into(), ..Default::default() };
    let edge = Edge::start_with(origin.address(), setup);
    let (address, until) = (edge.http(), Instant::now() + Duration::from_secs(6));
    let clients: Vec<_> =
        (0..CLIENTS).map(|seed| std::thread::spawn(move || wander(address, seed, until, 25))).collect();
    let checked: usize = clients.into_iter().map(|client| client.join().expect("right bytes only")).sum();
    assert!(checked > 500, "only {checked} answers");
    edge.wait_closed();
    eprintln!("{checked} answers checked; {} asked of the origin", origin.count_all());
}
