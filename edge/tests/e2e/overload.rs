//! Every queue that can be full: who finds it full is answered 503 with Retry-After and counted, hits go on, and those
//! who wait are served once there is room.

use crate::support::process::{self, Held};
use crate::support::{Answer, Client, Edge, Gate, Origin, Setup, alone, eventually, request};

const MIB: u64 = 1 << 20;

/// One worker, in front of an origin whose `/stored` is stored.
fn start(origin: &Origin) -> Edge {
    origin.cacheable("/stored", 100);
    let cpu = crate::kernel::one_cpu();
    let edge = Edge::start_with(origin.address(), Setup { cpus: Some(cpu), ..Default::default() });
    edge.get_hit("/stored");
    edge
}

/// Sends a request over so many connections; nobody reads yet.
fn many(edge: &Edge, count: usize, text: impl Fn(usize) -> String) -> Vec<Client> {
    let send = |number| {
        let mut client = edge.client();
        client.send(text(number).as_bytes());
        client
    };
    (0..count).map(send).collect()
}

/// Takes the answer of a client that was refused.
fn refused(client: &mut Client) {
    let answer = client.response("GET").expect("an answer");
    assert_eq!((answer.status(), answer.field("retry-after").is_some()), (503, true), "{:?}", answer.head);
}

#[test]
fn more_requests_than_the_queue_to_control_takes() {
    const MORE: usize = 200;
    if !process::is_root("more_requests_than_the_queue_to_control_takes") {
        return;
    }
    let _alone = alone();
    let origin = Origin::start();
    let edge = start(&origin);
    let held = Held::stop(process::threads_named(edge.pid(), "edge-control")[0]);
    let clients = edge::limits::TO_CONTROL_MESSAGES_MAX + MORE;
    let mut clients = many(&edge, clients, |number| request("GET", &format!("/miss/{number}"), &[]));
    refused(clients.last_mut().expect("one"));
    assert!(edge.client().get("/stored").head.is_hit(), "hits go on");
    drop(held);
    let (_, others) = clients.split_last_mut().expect("one");
    let statuses: Vec<u16> =
        others.iter_mut().map(|client| client.response("GET").expect("an answer").status()).collect();
    let full = 1 + statuses.iter().filter(|status| **status == 503).count();
    assert!(full <= MORE, "{full} refused");
    assert!(statuses.iter().all(|status| matches!(status, 404 | 503)));
    assert_eq!(edge.metric("edge_queue_overflows_total"), full as f64);
    assert_eq!(origin.count_all(), 1 + statuses.len() + 1 - full);
}

#[test]
fn more_readers_of_slices_than_may_be() {
    const MORE: usize = 100;
    let _alone = alone();
    let (origin, gate) = (Origin::start(), Gate::default());
    let held = gate.clone();
    origin.script("/large", move |exchange| {
        let range =
            exchange.request.field("range").and_then(|range| range.strip_prefix("bytes=")).expect("a range");
        let (from, to) = range.split_once('-').expect("two ends");
        let (from, to): (u64, u64) = (from.parse().expect("a number"), to.parse().expect("a number"));
        let answer = Answer::new(206)
            .field("Cache-Control", "max-age=600")
            .field("ETag", "\"v1\"")
            .field("Content-Range", &format!("bytes {from}-{to}/{}", 16 * MIB))
            .part("/large", from, to + 1);
        exchange.answer(&if from == 0 { answer } else { answer.hold(0, &held) })
    });
    let edge = start(&origin);
    let range = |from: u64| request("GET", "/large", &[("Range", &format!("bytes={from}-{}", from + 9))]);
    let mut first = edge.client();
    first.send(range(0).as_bytes());
    assert_eq!(first.response("GET").expect("a part").status(), 206);
    let count = edge::limits::SLICE_READERS_MAX + MORE;
    let mut clients = many(&edge, count, |_| range(12 * MIB));
    let overflows = || edge.metric("edge_queue_overflows_total");
    eventually("all have come", || overflows() >= MORE as f64);
    assert_eq!(overflows(), MORE as f64);
    assert!(edge.client().get("/stored").head.is_hit(), "hits go on");
    gate.open();
    let mut statuses = [0, 0];
    for client in &mut clients {
        let answer = client.response("GET").expect("an answer");
        match answer.status() {
            206 => statuses[0] += 1,
            503 if answer.field("retry-after").is_some() => statuses[1] += 1,
            _ => panic!("{:?}", answer.head),
        }
    }
    assert_eq!(statuses, [edge::limits::SLICE_READERS_MAX, MORE]);
    assert_eq!(origin.count("/large"), 2, "one request for all of them");
    eventually("there is room again", || {
        let mut client = edge.client();
        client.send(range(12 * MIB).as_bytes());
        client.response("GET").expect("an answer").status() == 206
    });
}

#[test]
fn who_waits_too_long_for_a_place() {
    let (origin, gate) = (Origin::start(), Gate::default());
    origin.cacheable("/stored", 100);
    for path in ["/first", "/second"] {
        origin.on(path, Answer::cacheable(path, 10).hold(0, &gate));
    }
    let setup = Setup { origin_lines: "concurrency_max = 1".into(), ..Default::default() };
    let edge = Edge::start_with(origin.address(), setup);
    edge.get_hit("/stored");
    let mut first = edge.client();
    first.send(request("GET", "/first", &[]).as_bytes());
    origin.await_count("/first", 1);
    let mut second = edge.client();
    second.send(request("GET", "/second", &[]).as_bytes());
    assert!(edge.get("/stored").head.is_hit(), "hits go on");
    refused(&mut second);
    assert_eq!(edge.metric("edge_queue_overflows_total"), 1.0);
    assert_eq!(origin.count("/second"), 0);
    gate.open();
    assert_eq!(first.response("GET").expect("an answer").status(), 200);
    assert_eq!(second.get("/second").status(), 200, "there is room again");
}
