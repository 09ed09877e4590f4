//! Trailers on HTTP/1.1 connections: those of requests are handed on as they come, those of responses where there is a
//! place for them.

mod proto_client;

use edge::proto::freshness::Storing;
use edge::proto::session::Input;
use proto_client::Client;

const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
const NEXT: &str = "DELETE / HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn those_of_requests_are_handed_on_whole_however_they_come() {
    let section = "X-A: 1\r\nx-b:\r\n";
    let all = format!("{POST}2\r\nhe\r\n0\r\n{section}\r\n{NEXT}");
    let check = |pieces: &[&str]| {
        let mut client = Client::new(vec![]);
        for piece in pieces {
            client.send(piece);
        }
        assert_eq!(client.log(), "Pass ForwardEnd");
        assert_eq!(
            (&client.forwarded[..], &client.trailer[..]),
            (&b"he"[..], section.as_bytes()),
            "{pieces:?}"
        );
        client.origin(204, "", Storing::No("method")).give(Input::End).send("");
        assert_eq!(client.log(), "Done Pass", "the next request is not taken for a trailer");
    };
    for cut in 0..all.len() {
        check(&[&all[..cut], &all[cut..]]);
    }
    check(&all.split_inclusive(|_: char| true).collect::<Vec<_>>());
    let mut client = Client::new(vec![]);
    client.send(format!("{POST}0\r\nX-A: 1\r\n")).send("X A: 1\r\n\r\n");
    assert!(client.wire().starts_with("HTTP/1.1 400 "));
    assert_eq!(client.log(), "Pass Close");
}

#[test]
fn those_of_responses_follow_chunks_and_nothing_else() {
    let answer = |version: &str, lines: &str| {
        let mut client = Client::new(vec![]);
        client.send(NEXT.replace("1.1", version));
        client.origin(200, lines, Storing::No("method")).piece("ok").give(Input::Trailers(b"x-sum: 7\r\n"));
        (client.wire().split_once("\r\n\r\n").expect("a head").1.to_owned(), client.log())
    };
    let done = |rest: &str, log: &str| (rest.to_owned(), log.to_owned());
    assert_eq!(answer("1.1", ""), done("2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n", "Pass Done"));
    assert_eq!(answer("1.1", "Content-Length: 2"), done("ok", "Pass Done"));
    assert_eq!(answer("1.0", ""), done("ok", "Pass Done Close"));
    assert_eq!(answer("1.1", "Content-Length: 3").1, "Pass Abort", "a short body is no whole one");
}
