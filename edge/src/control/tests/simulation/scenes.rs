//! Single scenes under virtual time: what takes longer than a test may.

use super::{START, Simulated, run, world};
use crate::clock;
use crate::control::Origin;
use crate::control::pool::{Connector, InMemory};
use crate::limits;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::spawn_local;
use tokio::time::sleep;

const TIMEOUT: Duration = Duration::from_millis(limits::ORIGIN_BODY_TIMEOUT_MS);

/// A client that sends this request, in pieces with pauses between them, on a node with this origin; what it has received
/// when the connection is over or nothing is expected any more.
async fn play<F: Future<Output = ()> + 'static>(
    pieces: Vec<Vec<u8>>,
    pause: Duration,
    takes: impl Fn(usize) -> bool,
    origin: impl Fn(DuplexStream) -> F + 'static,
) -> Vec<u8> {
    let _clock = clock::simulated::begin(START);
    let (world, mailboxes) = world(1);
    let configured = super::super::config(std::path::Path::new("/nonexistent"), &["http://origin".into()]);
    let connector = Connector::Memory(Rc::new(move |_| -> InMemory {
        let (ours, theirs) = tokio::io::duplex(20_000);
        spawn_local(origin(theirs));
        Box::pin(async move { Ok(ours) })
    }));
    *world.node.origins.borrow_mut() =
        vec![Rc::new(Origin::through(&configured.origins[0], connector).expect("a server"))];
    for (number, mailbox) in mailboxes.into_iter().enumerate() {
        spawn_local(super::work(world.clone(), number, mailbox));
        let node = world.node.clone();
        spawn_local(async move { node.outboxes[number].pump().await });
    }
    let worker = || world.workers[0].borrow_mut();
    let slot = worker().connect();
    let mut received = Vec::new();
    let take = |worker: &mut Simulated, received: &mut Vec<u8>| {
        let mut room = [0; 4096];
        while let bytes @ 1.. = worker.take(slot, &mut room) {
            received.extend_from_slice(&room[..bytes]);
        }
    };
    let count = pieces.len();
    for (number, piece) in pieces.into_iter().enumerate() {
        worker().receive(slot, &piece);
        for _ in 0..10 {
            sleep(pause / 10).await;
            if takes(number) {
                take(&mut worker(), &mut received);
            }
        }
        assert!(number + 1 == count || !worker().is_closed(slot), "closed after piece {number}");
    }
    for _ in 0..20 {
        sleep(Duration::from_secs(1)).await;
        take(&mut worker(), &mut received);
    }
    received
}

const HEAD: &str = "POST /0 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

/// A request of so many chunks of 10,000 bytes.
fn chunks(count: usize) -> Vec<Vec<u8>> {
    let chunk = format!("2710\r\n{}\r\n", "x".repeat(10_000));
    let mut pieces = vec![HEAD.as_bytes().to_vec()];
    pieces.extend((0..count).map(|_| chunk.clone().into_bytes()));
    pieces.push(b"0\r\n\r\n".to_vec());
    pieces
}

async fn read_until(io: &mut DuplexStream, end: &[u8]) -> usize {
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    while !all.ends_with(end) {
        let bytes = io.read(&mut buffer).await.expect("readable");
        assert!(bytes > 0, "broken off after {} bytes", all.len());
        all.extend_from_slice(&buffer[..bytes]);
    }
    all.len()
}

#[test]
fn an_answer_that_pauses_while_its_request_is_on_its_way_is_not_broken_off() {
    let received = run(play(
        chunks(6),
        TIMEOUT * 2 / 3,
        |_| true,
        |mut io| async move {
            read_until(&mut io, b"\r\n\r\n").await;
            io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nearly").await.expect("sent");
            let bytes = read_until(&mut io, b"\r\n0\r\n\r\n").await;
            assert!(bytes > 60_000, "{bytes}");
            io.write_all(b"late").await.expect("sent");
            sleep(TIMEOUT).await;
        },
    ));
    assert!(received.ends_with(b"\r\n\r\nearlylate"), "{}", received.escape_ascii());
}

#[test]
fn an_answer_that_pauses_when_nothing_moves_is_broken_off() {
    let received = run(play(
        chunks(1),
        Duration::from_secs(1),
        |_| true,
        |mut io| async move {
            read_until(&mut io, b"\r\n0\r\n\r\n").await;
            io.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nearly").await.expect("sent");
            sleep(TIMEOUT + Duration::from_secs(1)).await;
            // Nobody listens any more.
            assert!(
                io.write_all(b"late").await.is_err()
                    || io.read(&mut [0; 1]).await.is_ok_and(|bytes| bytes == 0)
            );
        },
    ));
    assert!(received.ends_with(b"\r\n\r\nearly"), "{}", received.escape_ascii());
}

#[test]
fn who_reads_nothing_before_all_is_sent_gets_the_whole_answer() {
    const ANSWER_BYTES: usize = 4 * limits::PASS_WINDOW_BYTES;
    let pause = Duration::from_millis(limits::SEND_TIMEOUT_MS * 2 / 3);
    // As long as control waits for credit at least.
    let count = 2 * limits::PASS_CREDIT_TIMEOUT_MS as usize / pause.as_millis() as usize;
    let received = run(play(
        chunks(count),
        pause,
        move |number| number > count,
        |mut io| async move {
            read_until(&mut io, b"\r\n\r\n").await;
            let (mut from, mut to) = tokio::io::split(io);
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {ANSWER_BYTES}\r\n\r\n");
            let answer = spawn_local(async move {
                to.write_all(head.as_bytes()).await.expect("sent");
                to.write_all(&vec![b'y'; ANSWER_BYTES]).await.expect("taken in the end");
                sleep(TIMEOUT).await;
            });
            let mut buffer = [0; 4096];
            while from.read(&mut buffer).await.expect("readable") > 0 {}
            answer.await.expect("sent");
        },
    ));
    let body = received.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    assert_eq!(received.len() - body, ANSWER_BYTES);
}
