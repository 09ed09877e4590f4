//! Sessions by script: what arrives, what the client gets, what is asked of control.

mod proto_client;

use edge::proto::freshness::Storing;
use edge::proto::response::OriginHead;
use edge::proto::session::{Again, Input, Interim};
use proptest::prelude::*;
use proto_client::{Client, DATE, Record, START, record};

const REVALIDATED: Again = Again::Revalidated { collapsed: false };
const GET: &str = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n";

fn fresh() -> Record {
    let lines = format!(
        "Date: {DATE}\nCache-Control: max-age=60\nETag: \"v1\"\nLast-Modified: Tue, 14 Nov 2023 20:00:00 GMT\nX-A: b"
    );
    record(GET, 200, &lines, "0123456789", START.unix_s)
}

fn get(fields: &str) -> String {
    format!("GET /a HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

const STORED_LINES: &str = "date: Tue, 14 Nov 2023 22:13:20 GMT\r\ncache-control: max-age=60\r\netag: \"v1\"\r\nlast-modified: Tue, 14 Nov 2023 20:00:00 GMT\r\nx-a: b\r\n";

#[test]
fn hit() {
    let mut client = Client::new(vec![fresh()]);
    client.pass_ms(7_000).send(GET);
    assert_eq!(
        client.wire(),
        format!(
            "HTTP/1.1 200 OK\r\nAge: 7\r\nCache-Status: edge; hit; ttl=53\r\ncontent-length: 10\r\n{STORED_LINES}\r\n0123456789"
        )
    );
    assert_eq!(client.log(), "Done");
    assert!(client.session.wants_input());
}

#[test]
fn hits_of_a_pipeline_come_in_order() {
    let mut other = fresh();
    other.key = b"http://a/b".to_vec();
    other.body = b"abcdefghij".to_vec();
    let mut client = Client::new(vec![fresh(), other]);
    let all = [GET, &GET.replace("/a", "/b"), GET, &GET.replace("GET", "HEAD")].concat();
    for cut in 0..all.len() {
        let mut client = Client::new(client.records.clone());
        client.send(&all[..cut]).send(&all[cut..]);
        assert_eq!(client.log(), "Done Done Done Done", "cut at {cut}");
        let wire = client.wire();
        let bodies: Vec<_> = wire.split("\r\n\r\n").skip(1).map(|part| &part[..10.min(part.len())]).collect();
        assert_eq!(bodies, ["0123456789", "abcdefghij", "0123456789", ""], "cut at {cut}");
    }
    // A client that only asks and never reads is not read from for ever.
    client.send(GET.repeat(40));
    assert_eq!(client.log().split(' ').count(), 16);
    assert!(!client.session.wants_input());
    client.drained();
    assert_eq!(client.log().split(' ').count(), 16);
    client.drained();
    assert_eq!(client.log().split(' ').count(), 8);
}

#[test]
fn head_is_answered_from_a_stored_get() {
    let mut client = Client::new(vec![fresh()]);
    client.send(GET.replace("GET", "HEAD"));
    let wire = client.wire();
    assert!(wire.contains("content-length: 10\r\n") && wire.ends_with("\r\n\r\n"), "{wire}");
    let mut client = Client::new(vec![]);
    client.send(GET.replace("GET", "HEAD"));
    assert_eq!(client.log(), "Pass");
    client.origin(200, "Content-Length: 10", Storing::No("method")).give(Input::End);
    let wire = client.wire();
    assert!(wire.contains("Content-Length: 10\r\n") && wire.ends_with("\r\n\r\n"), "{wire}");
    assert_eq!(client.log(), "Done");
}

/// One request against the fresh record, a second after it was stored.
fn answer(fields: &str) -> (String, String) {
    let mut client = Client::new(vec![fresh()]);
    client.send(get(fields));
    (client.wire(), client.log())
}

#[test]
fn conditions() {
    let same = "Tue, 14 Nov 2023 20:00:00 GMT";
    for (fields, status) in [
        ("If-None-Match: \"v1\"\r\n".to_string(), 304),
        ("If-None-Match: W/\"v1\"\r\n".into(), 304),
        ("If-None-Match: \"x\", \"v1\"\r\n".into(), 304),
        ("If-None-Match: \"x\"\r\nIf-None-Match: \"v1\"\r\n".into(), 304),
        ("If-None-Match: *\r\n".into(), 304),
        ("If-None-Match: \"v2\"\r\n".into(), 200),
        ("If-None-Match: v1\r\n".into(), 200),
        ("If-None-Match:\r\n".into(), 200),
        (format!("If-Modified-Since: {same}\r\n"), 304),
        ("If-Modified-Since: Tue, 14 Nov 2023 20:00:01 GMT\r\n".into(), 304),
        ("If-Modified-Since: Tuesday, 14-Nov-23 20:00:01 GMT\r\n".into(), 304),
        ("If-Modified-Since: Tue Nov 14 20:00:01 2023\r\n".into(), 304),
        ("If-Modified-Since: Tue, 14 Nov 2023 19:59:59 GMT\r\n".into(), 200),
        ("If-Modified-Since: yesterday\r\n".into(), 200),
        (format!("If-Modified-Since: {same}\r\nIf-Modified-Since: {same}\r\n"), 200),
        (format!("If-None-Match: \"v2\"\r\nIf-Modified-Since: {same}\r\n"), 200),
        ("If-None-Match: \"v1\"\r\nIf-Modified-Since: Tue, 14 Nov 2023 19:00:00 GMT\r\n".into(), 304),
        ("If-None-Match: \"v1\"\r\nRange: bytes=0-1\r\n".into(), 304),
    ] {
        let (wire, log) = answer(&fields);
        assert!(wire.starts_with(&format!("HTTP/1.1 {status} ")), "{fields}: {wire}");
        assert_eq!(log, "Done", "{fields}");
        if status == 304 {
            // RFC 9110 section 15.4.5: these fields and no others of the 200.
            let want = format!(
                "HTTP/1.1 304 Not Modified\r\nAge: 0\r\nCache-Status: edge; hit; ttl=60\r\ndate: {DATE}\r\ncache-control: max-age=60\r\netag: \"v1\"\r\n\r\n"
            );
            assert_eq!(wire, want, "{fields}");
        }
    }
    // Only the origin can judge these.
    for fields in ["If-Match: \"v1\"\r\n", "If-Unmodified-Since: Tue, 14 Nov 2023 20:00:00 GMT\r\n"] {
        assert_eq!(answer(fields), (String::new(), "Pass".into()), "{fields}");
    }
}

#[test]
fn ranges() {
    let (wire, _) = answer("Range: bytes=2-4\r\n");
    assert_eq!(
        wire,
        format!(
            "HTTP/1.1 206 Partial Content\r\nAge: 0\r\nCache-Status: edge; hit; ttl=60\r\nContent-Range: bytes 2-4/10\r\nContent-Length: 3\r\n{STORED_LINES}\r\n234"
        )
    );
    // Close together: one part.
    let (wire, _) = answer("Range: bytes=-1,2-4\r\n");
    assert!(wire.contains("Content-Range: bytes 2-9/10\r\nContent-Length: 8\r\n"), "{wire}");
    assert!(wire.ends_with("\r\n\r\n23456789"), "{wire}");
    let (wire, _) = answer("Range: bytes=10-\r\n");
    assert_eq!(
        wire,
        format!(
            "HTTP/1.1 416 Range Not Satisfiable\r\nAge: 0\r\nCache-Status: edge; hit; ttl=60\r\nDate: {DATE}\r\nContent-Range: bytes */10\r\nContent-Length: 0\r\n\r\n"
        )
    );
    for (fields, status, body) in [
        ("Range: bytes=-3\r\n", 206, "789"),
        ("Range: bytes=0-0,2-3\r\n", 206, "0123"),
        ("Range: bytes=0-1\r\nRange: bytes=2-3\r\n", 200, "0123456789"),
        ("Range: bytes=1-2\r\nIf-Range: \"v1\"\r\n", 206, "12"),
        ("Range: bytes=1-2\r\nIf-Range: W/\"v1\"\r\n", 200, "0123456789"),
        ("Range: bytes=1-2\r\nIf-Range: \"v2\"\r\n", 200, "0123456789"),
        ("Range: bytes=99-\r\nIf-Range: \"v2\"\r\n", 200, "0123456789"),
        ("Range: bytes=1-2\r\nIf-Range: Tue, 14 Nov 2023 20:00:00 GMT\r\n", 206, "12"),
        ("Range: bytes=1-2\r\nIf-Range: Tue, 14 Nov 2023 20:00:01 GMT\r\n", 200, "0123456789"),
        ("Range: bytes=1-2\r\nIf-Range: soon\r\n", 200, "0123456789"),
        ("If-Range: \"v1\"\r\n", 200, "0123456789"),
        ("Range: bytes=1-2\r\nIf-None-Match: \"v2\"\r\n", 206, "12"),
    ] {
        let (wire, log) = answer(fields);
        assert!(wire.starts_with(&format!("HTTP/1.1 {status} ")), "{fields}: {wire}");
        assert!(wire.ends_with(&format!("\r\n\r\n{body}")), "{fields}: {wire}");
        assert!(wire.contains(&format!(
            "ontent-{}ength: {}\r\n",
            if status == 206 { "L" } else { "l" },
            body.len()
        )));
        assert_eq!(log, "Done");
    }
    let mut client = Client::new(vec![fresh()]);
    client.send(get("Range: bytes=1-2\r\n").replace("GET", "HEAD"));
    assert!(client.wire().starts_with("HTTP/1.1 200 "));
}

/// A miss: the kind of fetch and the Cache-Status of what the origin answers.
fn forwarded(records: Vec<Record>, later_ms: u64, asked: &str) -> (String, String) {
    let mut client = Client::new(records);
    client.pass_ms(later_ms).send(asked);
    let kind = client.log();
    client.origin(200, "Content-Length: 0", Storing::No("no-freshness")).give(Input::End);
    let wire = client.wire();
    let status =
        wire.split("Cache-Status: edge; ").nth(1).unwrap_or("none").split("\r\n").next().unwrap_or_default();
    (kind, status.to_string())
}

#[test]
fn what_is_fetched_and_why() {
    let varied = || {
        let lines = format!("Date: {DATE}\nCache-Control: max-age=60\nVary: X-V");
        record(&get("X-V: 1\r\n"), 200, &lines, "v", START.unix_s)
    };
    let shared = || {
        let lines = format!("Date: {DATE}\nCache-Control: public, max-age=60");
        record(GET, 200, &lines, "v", START.unix_s)
    };
    let unvalidated =
        || record(GET, 200, &format!("Date: {DATE}\nCache-Control: max-age=60"), "v", START.unix_s);
    let no_cache = || {
        record(
            GET,
            200,
            &format!("Date: {DATE}\nCache-Control: max-age=60, no-cache\nETag: \"v\""),
            "v",
            START.unix_s,
        )
    };
    for (name, records, later_ms, asked, kind, status) in [
        (
            "nothing stored",
            vec![],
            0,
            GET.to_string(),
            "Fill",
            "fwd=uri-miss; fwd-status=200; detail=no-freshness",
        ),
        (
            "another variant",
            vec![varied()],
            0,
            GET.into(),
            "Fill",
            "fwd=vary-miss; fwd-status=200; detail=no-freshness",
        ),
        ("this variant", vec![varied()], 0, get("X-V:  1\r\n"), "Done", "hit; ttl=60"),
        ("last fresh second", vec![fresh()], 59_000, GET.into(), "Done", "hit; ttl=1"),
        (
            "first stale second",
            vec![fresh()],
            60_000,
            GET.into(),
            "Revalidate",
            "fwd=stale; fwd-status=200; detail=no-freshness",
        ),
        (
            "stale without validator",
            vec![unvalidated()],
            60_000,
            GET.into(),
            "Fill",
            "fwd=stale; fwd-status=200; detail=no-freshness",
        ),
        (
            "no-cache stored",
            vec![no_cache()],
            0,
            GET.into(),
            "Revalidate",
            "fwd=stale; fwd-status=200; detail=no-freshness",
        ),
        (
            "request no-cache",
            vec![fresh()],
            0,
            get("Cache-Control: no-cache\r\n"),
            "Revalidate",
            "fwd=request; fwd-status=200; detail=no-freshness",
        ),
        (
            "request pragma",
            vec![fresh()],
            0,
            get("Pragma: no-cache\r\n"),
            "Revalidate",
            "fwd=request; fwd-status=200; detail=no-freshness",
        ),
        (
            "pragma beside cache-control",
            vec![fresh()],
            0,
            get("Pragma: no-cache\r\nCache-Control: x\r\n"),
            "Done",
            "hit; ttl=60",
        ),
        (
            "request max-age",
            vec![fresh()],
            9_000,
            get("Cache-Control: max-age=8\r\n"),
            "Revalidate",
            "fwd=request; fwd-status=200; detail=no-freshness",
        ),
        (
            "request max-age kept",
            vec![fresh()],
            9_000,
            get("Cache-Control: max-age=9\r\n"),
            "Done",
            "hit; ttl=51",
        ),
        (
            "request min-fresh",
            vec![fresh()],
            9_000,
            get("Cache-Control: min-fresh=52\r\n"),
            "Revalidate",
            "fwd=request; fwd-status=200; detail=no-freshness",
        ),
        (
            "request min-fresh kept",
            vec![fresh()],
            9_000,
            get("Cache-Control: min-fresh=51\r\n"),
            "Done",
            "hit; ttl=51",
        ),
        (
            "request no-store",
            vec![],
            0,
            get("Cache-Control: no-store\r\n"),
            "Pass",
            "fwd=uri-miss; fwd-status=200",
        ),
        (
            "request no-store, fresh",
            vec![fresh()],
            0,
            get("Cache-Control: no-store\r\n"),
            "Done",
            "hit; ttl=60",
        ),
        (
            "authorization",
            vec![fresh()],
            0,
            get("Authorization: x\r\n"),
            "Fill",
            "fwd=request; fwd-status=200; detail=no-freshness",
        ),
        ("authorization, public", vec![shared()], 0, get("Authorization: x\r\n"), "Done", "hit; ttl=60"),
        (
            "range, nothing stored",
            vec![],
            0,
            get("Range: bytes=0-1\r\n"),
            "Part",
            "fwd=uri-miss; fwd-status=200; detail=no-freshness",
        ),
        (
            "range, stale",
            vec![fresh()],
            60_000,
            get("Range: bytes=0-1\r\n"),
            "Part",
            "fwd=stale; fwd-status=200; detail=no-freshness",
        ),
        (
            "condition, nothing stored",
            vec![],
            0,
            get("If-None-Match: \"x\"\r\n"),
            "Fill",
            "fwd=uri-miss; fwd-status=200; detail=no-freshness",
        ),
        (
            "condition, stale",
            vec![fresh()],
            60_000,
            get("If-None-Match: \"x\"\r\n"),
            "Revalidate",
            "fwd=stale; fwd-status=200; detail=no-freshness",
        ),
        (
            "body of a GET",
            vec![fresh()],
            0,
            get("Content-Length: 1\r\n") + "x",
            "Pass ForwardEnd",
            "fwd=bypass; fwd-status=200",
        ),
        ("method", vec![fresh()], 0, GET.replace("GET", "DELETE"), "Pass", "fwd=method; fwd-status=200"),
        ("only-if-cached", vec![], 0, get("Cache-Control: only-if-cached\r\n"), "Done", "none"),
        (
            "only-if-cached, fresh",
            vec![fresh()],
            0,
            get("Cache-Control: only-if-cached\r\n"),
            "Done",
            "hit; ttl=60",
        ),
    ] {
        let got = forwarded(records, later_ms, &asked);
        assert_eq!(got, (kind.to_string(), status.to_string()), "{name}");
    }
    let mut client = Client::new(vec![]);
    client.send(get("Cache-Control: only-if-cached\r\n"));
    assert!(client.wire().starts_with("HTTP/1.1 504 "));
}

#[test]
fn a_fill_is_streamed() {
    let mut client = Client::new(vec![]);
    client.send(GET);
    assert_eq!(client.log(), "Fill");
    assert_eq!(client.due_ms(), u64::MAX, "control has its own timeouts");
    client.send(GET);
    assert_eq!(client.unread, GET.as_bytes(), "the next request waits");
    client.origin(
        200,
        &format!("Date: {DATE}\nContent-Length: 5\nConnection: X-B\nX-B: 1\nX-C: 2\nAge: 3"),
        Storing::Store,
    );
    client.piece("ab").piece("cde");
    assert_eq!(client.log(), "");
    client.give(Input::End).send("");
    assert_eq!(
        client.wire(),
        format!(
            "HTTP/1.1 200 OK\r\ndate: {DATE}\r\nx-c: 2\r\nAge: 3\r\nCache-Status: edge; fwd=uri-miss; fwd-status=200; stored\r\nContent-Length: 5\r\n\r\nabcde"
        )
    );
    assert_eq!(client.log(), "Done Fill");
}

#[test]
fn a_body_of_unknown_length_is_chunked() {
    let mut client = Client::new(vec![]);
    client.send(GET).origin(200, &format!("Date: {DATE}"), Storing::No("no-store"));
    client.wire();
    client.piece("0123456789abcdef!").piece("").piece("x").give(Input::End);
    assert_eq!(client.wire(), "11\r\n0123456789abcdef!\r\n1\r\nx\r\n0\r\n\r\n");
    assert_eq!(client.log(), "Fill Done");

    let mut client = Client::new(vec![]);
    client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").origin(
        200,
        &format!("Date: {DATE}"),
        Storing::No("no-store"),
    );
    client.piece("abc").give(Input::End);
    assert_eq!(
        client.wire(),
        format!(
            "HTTP/1.1 200 OK\r\ndate: {DATE}\r\nCache-Status: edge; fwd=uri-miss; fwd-status=200; detail=no-store\r\nConnection: close\r\n\r\nabc"
        )
    );
    assert_eq!(client.log(), "Fill Done Close");
}

#[test]
fn responses_without_body() {
    for (status, lines) in [(204, "Content-Length: 5"), (304, "Content-Length: 5\nETag: \"x\"")] {
        let mut client = Client::new(vec![]);
        client.send(GET).origin(status, lines, Storing::No("status")).give(Input::End);
        let wire = client.wire();
        assert!(wire.ends_with("\r\n\r\n") && !wire.to_lowercase().contains("content-length"), "{wire}");
        assert_eq!(client.log(), "Fill Done");
    }
    let mut client = Client::new(vec![record(GET, 204, "Cache-Control: max-age=60", "", START.unix_s)]);
    client.send(GET);
    let wire = client.wire();
    assert!(wire.starts_with("HTTP/1.1 204 No Content\r\n") && !wire.contains("content-length"), "{wire}");
}

#[test]
fn a_broken_response_never_looks_whole() {
    type Step = fn(&mut Client);
    let steps: [(&str, Step); 5] = [
        ("broken", |c| {
            c.origin(200, "Content-Length: 5", Storing::Store).piece("ab").give(Input::Broken);
        }),
        ("short", |c| {
            c.origin(200, "Content-Length: 5", Storing::Store).piece("ab").give(Input::End);
        }),
        ("long", |c| {
            c.origin(200, "Content-Length: 5", Storing::Store).piece("abcdef");
        }),
        ("chunked", |c| {
            c.origin(200, "", Storing::Store).piece("ab").give(Input::Broken);
        }),
        ("empty", |c| {
            c.origin(200, "", Storing::Store).give(Input::Broken);
        }),
    ];
    for (name, step) in steps {
        let mut client = Client::new(vec![]);
        client.send(GET);
        step(&mut client);
        assert_eq!(client.log(), "Fill Abort", "{name}");
        assert!(!client.wire().ends_with("0\r\n\r\n"), "{name}");
        client.piece("x").give(Input::End).give(Input::PeerClosed).send(GET);
        assert_eq!(
            (client.log(), client.wire()),
            (String::new(), String::new()),
            "{name}: nothing after the end"
        );
    }
}

#[test]
fn validated_and_filled_records_answer_once() {
    // The stale record was validated: control stored it anew.
    let mut client = Client::new(vec![fresh()]);
    client.pass_ms(100_000).send(GET);
    assert_eq!(client.log(), "Revalidate");
    client.records =
        vec![record(GET, 200, "Cache-Control: no-cache\nETag: \"v1\"", "0123456789", client.now.unix_s)];
    client.again(REVALIDATED);
    assert_eq!(client.log(), "Done");
    let wire = client.wire();
    assert!(
        wire.contains("Cache-Status: edge; fwd=stale; fwd-status=304; ttl=0\r\n")
            && wire.ends_with("0123456789"),
        "{wire}"
    );
    client.send(GET);
    assert_eq!(client.log(), "Revalidate", "no-cache is validated each time");

    // A condition of the client is judged against the validated record.
    client = Client::new(vec![fresh()]);
    client.pass_ms(100_000).send(get("If-None-Match: \"v1\"\r\n")).again(REVALIDATED);
    assert!(client.wire().starts_with("HTTP/1.1 304 "));

    // The fill ended before this request could join it.
    client = Client::new(vec![]);
    client.send(GET).pass_ms(2_000);
    client.records = vec![record(GET, 200, "ETag: \"v1\"", "0123456789", client.now.unix_s)];
    client.again(Again::Stored);
    assert!(client.wire().contains("Cache-Status: edge; fwd=uri-miss; stored; ttl=0\r\n"));
    assert_eq!(client.log(), "Fill Done");
}

#[test]
fn stale_answers_say_what_allows_them() {
    let lines = format!("Date: {DATE}\nCache-Control: max-age=60, stale-while-revalidate=30\nETag: \"v1\"");
    let stale = || record(GET, 200, &lines, "0123456789", START.unix_s);
    let mut client = Client::new(vec![stale()]);
    client.pass_ms(70_000).send(GET);
    assert_eq!(client.log(), "Refresh Done");
    let wire = client.wire();
    let status = "Age: 70\r\nCache-Status: edge; hit; ttl=-10; detail=stale-while-revalidate\r\n";
    assert!(wire.contains(status) && wire.ends_with("0123456789"), "{wire}");
    client.send(GET.replace("GET", "HEAD"));
    assert_eq!(client.log(), "Done", "a HEAD asks for no refresh");
    client.wire();
    client.pass_ms(20_000).send(GET);
    assert_eq!(client.log(), "Revalidate", "after the window");

    let mut client = Client::new(vec![fresh()]);
    client.pass_ms(70_000).send(get("Cache-Control: max-stale=10\r\n"));
    assert_eq!(client.log(), "Done");
    assert!(client.wire().contains("Cache-Status: edge; hit; ttl=-10; detail=max-stale\r\n"));

    let mut client = Client::new(vec![fresh()]);
    client.pass_ms(70_000).send(GET).again(Again::OriginFailed);
    assert_eq!(client.log(), "Revalidate Done");
    let wire = client.wire();
    assert!(wire.contains("Cache-Status: edge; fwd=stale; ttl=-10; detail=stale-if-error\r\n"), "{wire}");
    client.send(GET);
    client.fetched.as_mut().expect("a fetch").1.failed_status = Some(503);
    client.again(Again::OriginFailed);
    let wire = client.wire();
    let said = "Cache-Status: edge; fwd=stale; fwd-status=503; ttl=-10; detail=stale-if-error\r\n";
    assert!(wire.contains(said), "{wire}");

    let mut client = Client::new(vec![]);
    client.send(GET).again(Again::OriginFailed);
    assert!(client.wire().starts_with("HTTP/1.1 502 "), "it is gone, and so is the origin");
}

#[test]
fn interim_responses_come_first_and_only_to_those_who_know_them() {
    let interim = Interim { status: 103, lines: b"link: </a.css>\r\n".to_vec() };
    let mut client = Client::new(vec![]);
    client.send(GET).give(Input::Interim(&interim)).give(Input::Interim(&interim));
    client.origin(204, &format!("Date: {DATE}"), Storing::Store);
    client.give(Input::Interim(&interim)).give(Input::End);
    let wire = client.wire();
    let early = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n";
    assert!(wire.starts_with(&format!("{early}{early}HTTP/1.1 204 No Content\r\n")), "{wire}");
    assert_eq!(wire.matches("103").count(), 2, "none after the final response: {wire}");

    let mut client = Client::new(vec![]);
    client.send("GET /a HTTP/1.0\r\nHost: a\r\n\r\n").give(Input::Interim(&interim));
    assert_eq!(client.wire(), "");
}

#[test]
fn a_request_that_joined_says_so() {
    let fields = proto_client::headers("Content-Length: 0");
    let head = OriginHead::from_origin(200, &fields, Storing::Store, START.unix_s).unwrap();
    let mut client = Client::new(vec![]);
    client.send(GET).give(Input::OriginHead { head: &head, collapsed: true }).give(Input::End);
    assert!(
        client.wire().contains("Cache-Status: edge; fwd=uri-miss; fwd-status=200; stored; collapsed\r\n")
    );
    let mut client = Client::new(vec![fresh()]);
    client.pass_ms(70_000).send(GET).again(Again::Revalidated { collapsed: true });
    assert!(client.wire().contains("Cache-Status: edge; fwd=stale; fwd-status=304; collapsed; ttl=-10\r\n"));
}

#[test]
fn looking_again_never_goes_in_circles() {
    let mut client = Client::new(vec![]);
    client.send(GET).again(Again::Stored);
    assert_eq!(client.log(), "Fill Pass", "gone again: this client alone");
    client.again(Again::Stored);
    assert!(client.wire().starts_with("HTTP/1.1 502 "));
    assert_eq!(client.log(), "Done");
    // A record older than the request, and stale, is not what was fetched for it.
    let mut client = Client::new(vec![fresh()]);
    client.pass_ms(100_000).send(GET).again(Again::Stored);
    assert_eq!(client.log(), "Revalidate Pass");
}

#[test]
fn refusals_of_control() {
    for (status, want, more) in [
        (404, 404, "\r\nContent-Type"),
        (502, 502, "\r\nCache-Status: edge; fwd=uri-miss\r\n"),
        (503, 503, "\r\nRetry-After: 1\r\n"),
        (504, 504, "\r\nCache-Status: edge; fwd=uri-miss\r\n"),
        (200, 502, "\r\nCache-Status: edge; fwd=uri-miss\r\n"),
        (0, 502, "\r\nCache-Status: edge; fwd=uri-miss\r\n"),
    ] {
        let mut client = Client::new(vec![]);
        client.send(GET).give(Input::Refused(status, b""));
        let wire = client.wire();
        assert!(wire.starts_with(&format!("HTTP/1.1 {want} ")) && wire.contains(more), "{wire}");
        assert!(wire.contains(&format!("\r\nDate: {DATE}\r\n")), "{wire}");
        let (head, body) = wire.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("\r\nContent-Length: {}", body.len())), "{wire}");
        assert_eq!(client.log(), "Fill Done", "the connection stays");
        client.send(GET);
        assert_eq!(client.log(), "Fill");
    }
    let mut client = Client::new(vec![]);
    client.send(GET.replace("GET", "HEAD")).give(Input::Refused(503, b""));
    assert!(client.wire().ends_with("\r\n\r\n"), "no body for HEAD");
}

#[test]
fn bad_heads_close() {
    for (input, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "400 Bad Request"),
        ("GET / HTTP/2.0\r\n\r\n", "505 HTTP Version Not Supported"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", "501 Not Implemented"),
        ("GET / HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n", "417 Expectation Failed"),
    ] {
        for parts in [vec![input], input.split_inclusive("").collect()] {
            let mut client = Client::new(vec![fresh()]);
            for part in parts {
                client.send(part);
            }
            client.send(GET);
            assert_eq!(
                client.wire(),
                format!(
                    "HTTP/1.1 {status}\r\nDate: {DATE}\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{status}\n",
                    status.len() + 1
                )
            );
            assert_eq!(client.log(), "Done Close");
            assert!(!client.session.wants_input());
        }
    }
    let mut client = Client::new(vec![fresh()]);
    client.send([GET, "bad\r\n", GET].concat());
    assert_eq!(client.log(), "Done Done Close", "the good one before it is answered");
}

#[test]
fn request_bodies_are_handed_over() {
    let post = "POST /a HTTP/1.1\r\nHost: a\r\n";
    let counted = format!("{post}Content-Length: 5\r\n\r\nhello");
    let chunked =
        format!("{post}Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x\r\nllo\r\n0\r\nT: v\r\n\r\n");
    for input in [counted, chunked] {
        let all = [input.as_str(), GET].concat();
        for cut in 0..all.len() {
            let mut client = Client::new(vec![fresh()]);
            client.send(&all[..cut]).send(&all[cut..]);
            assert_eq!(client.log(), "Pass ForwardEnd", "cut at {cut}");
            assert_eq!(client.forwarded, b"hello");
            client
                .origin(201, "Content-Length: 2", Storing::No("method"))
                .piece("ok")
                .give(Input::End)
                .send("");
            let wire = client.wire();
            assert!(
                wire.contains("HTTP/1.1 201 Created") && wire.contains("fwd=method; fwd-status=201\r\n"),
                "{wire}"
            );
            assert!(wire.contains("okHTTP/1.1 200 OK"), "{wire}");
            assert_eq!(client.log(), "Done Done");
        }
    }
    // Many small chunks are taken in turns.
    let mut client = Client::new(vec![]);
    client.send(format!("{post}Transfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n", "1\r\nx\r\n".repeat(1000)));
    assert_eq!(client.forwarded, vec![b'x'; 1000]);
    assert_eq!(client.log(), "Pass ForwardEnd");
}

#[test]
fn broken_request_bodies() {
    let start = "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut client = Client::new(vec![]);
    client.send(start).send("2\r\nab\r\nx");
    assert!(client.wire().starts_with("HTTP/1.1 400 "));
    assert_eq!(client.log(), "Pass Close", "control has to be told");
    // The response has begun: it must not look whole, nor be followed by another.
    let mut client = Client::new(vec![]);
    client.send(start).origin(200, "Content-Length: 5", Storing::No("method")).send("x");
    assert_eq!(client.log(), "Pass Abort");
    // A response that ends before the request does: the rest cannot be told from a next request.
    let mut client = Client::new(vec![]);
    client.send(start).origin(413, "Content-Length: 0", Storing::No("method")).give(Input::End);
    assert_eq!(client.log(), "Pass Done Close");
    let mut client = Client::new(vec![]);
    client.send(start).give(Input::Refused(503, b""));
    assert!(client.wire().contains("Connection: close\r\n"));
    assert_eq!(client.log(), "Pass Done Close");
}

#[test]
fn expect_continue() {
    let leave = Interim::go_on();
    let asked = "PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    let mut client = Client::new(vec![]);
    client.send(asked);
    assert_eq!(
        (client.wire(), client.due_ms()),
        (String::new(), u64::MAX),
        "it is the origin that is awaited"
    );
    client.give(Input::Interim(&leave));
    assert_eq!(client.wire(), "HTTP/1.1 100 Continue\r\n\r\n");
    client.give(Input::Interim(&leave)).drained();
    assert_eq!((client.wire(), client.due_ms()), (String::new(), edge::limits::BODY_TIMEOUT_MS), "once");
    client.send("ok");
    assert_eq!(client.forwarded, b"ok");
    client.origin(200, "Content-Length: 0", Storing::No("method")).give(Input::End);
    assert_eq!(client.log(), "Pass ForwardEnd Done");
    // Who does not wait needs no leave.
    let mut client = Client::new(vec![]);
    client.send(format!("{asked}o")).give(Input::Interim(&leave));
    assert_eq!((client.wire(), client.due_ms() <= edge::limits::BODY_TIMEOUT_MS), (String::new(), true));
    // An answer without it: the body is not awaited any more.
    let mut client = Client::new(vec![]);
    client.send(asked).origin(417, "Content-Length: 2", Storing::No("method")).piece("no").give(Input::End);
    assert!(client.wire().starts_with("HTTP/1.1 417 "));
    assert_eq!(client.log(), "Pass Done Close");
    // Nobody else gets one.
    let mut client = Client::new(vec![]);
    client.send(GET).give(Input::Interim(&leave));
    assert_eq!((client.wire(), client.log()), (String::new(), "Fill".into()));
}

#[test]
fn a_client_that_is_held_back_is_not_late_whatever_is_sent_to_it() {
    let mut client = Client::new(vec![]);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\nab");
    client.origin(200, "", Storing::No("method")).piece("early");
    client.session.hold();
    assert_eq!(client.due_ms(), edge::limits::SEND_TIMEOUT_MS, "a reader it is all the same");
    client.drained();
    assert_eq!(client.due_ms(), u64::MAX);
    client.piece("more").drained();
    assert_eq!(client.due_ms(), u64::MAX);
    // Once there is room it is, bytes or no bytes.
    client.session.resume(client.now, &client.out);
    assert_eq!(client.due_ms(), edge::limits::BODY_TIMEOUT_MS);
    client.session.hold();
    client.pass_ms(100_000).send("c");
    assert_eq!(client.due_ms(), edge::limits::BODY_TIMEOUT_MS);
    client.session.resume(client.now, &client.out);
    client.pass_ms(edge::limits::BODY_TIMEOUT_MS).give(Input::Deadline);
    assert_eq!(client.log(), "Pass Abort");
}

#[test]
fn while_both_bodies_are_on_their_way_bytes_of_either_keep_the_client_in_time() {
    const TIMEOUT_MS: u64 = edge::limits::SEND_TIMEOUT_MS;
    let mut client = Client::new(vec![]);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 999999\r\n\r\nab");
    client.origin(200, "", Storing::No("method")).piece("early");
    // It takes nothing before it has sent all.
    for _ in 0..10 {
        client.pass_ms(TIMEOUT_MS - 1).send("x".repeat(20_000));
        assert_eq!(client.due_ms(), TIMEOUT_MS);
    }
    // A byte now and then is worth no more than it is of a request alone.
    client.pass_ms(TIMEOUT_MS - 1).send("x");
    assert_eq!(client.due_ms(), 1 + 2);
    // And the other way round: it sends nothing, and takes what comes.
    client.drained();
    for _ in 0..10 {
        client.pass_ms(edge::limits::BODY_TIMEOUT_MS - 1).piece("more").drained();
        assert_eq!(client.due_ms(), edge::limits::BODY_TIMEOUT_MS);
    }
    client.pass_ms(edge::limits::BODY_TIMEOUT_MS).give(Input::Deadline);
    assert_eq!(client.log(), "Pass Abort");
}

#[test]
fn persistence() {
    for (asked, field, end) in [
        ("GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", "Connection: close\r\n", "Done Close"),
        ("GET /a HTTP/1.0\r\nHost: a\r\n\r\n", "Connection: close\r\n", "Done Close"),
        (
            "GET /a HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
            "Connection: keep-alive\r\n",
            "Done",
        ),
    ] {
        let mut client = Client::new(vec![fresh()]);
        client.send(asked);
        assert!(client.wire().contains(field), "{asked}");
        assert_eq!(client.log(), end, "{asked}");
    }
}

#[test]
fn deadlines() {
    let edge_ms = |seconds: u64| seconds * 1000;
    // Nothing ever came.
    let mut client = Client::new(vec![fresh()]);
    assert_eq!(client.due_ms(), edge_ms(10));
    client.pass_ms(10_000).give(Input::Deadline);
    assert_eq!((client.log(), client.wire()), ("Close".into(), String::new()));
    // A head that trickles in: the time runs from its first byte.
    let mut client = Client::new(vec![fresh()]);
    client.pass_ms(9_000).send("GET / HT");
    assert_eq!(client.due_ms(), edge_ms(10));
    client.pass_ms(9_000).send("TP/1.1\r\n");
    assert_eq!(client.due_ms(), edge_ms(1));
    client.pass_ms(1_000).give(Input::Deadline);
    assert!(client.wire().starts_with("HTTP/1.1 408 "));
    assert_eq!(client.log(), "Done Close");
    assert_eq!(client.due_ms(), edge_ms(30), "for sending");
    client.pass_ms(30_000).give(Input::Deadline);
    assert_eq!(client.log(), "Abort");
    // Sending makes no progress.
    let mut client = Client::new(vec![fresh()]);
    client.send(GET);
    assert_eq!(client.due_ms(), edge_ms(30));
    client.pass_ms(29_000).give(Input::Sent { drained: false, bytes: 100_000 });
    assert_eq!(client.due_ms(), edge_ms(30));
    // A byte is worth two milliseconds, for a reader that takes one now and then.
    client.pass_ms(29_000).give(Input::Sent { drained: false, bytes: 1 });
    assert_eq!(client.due_ms(), edge_ms(1) + 2);
    client.give(Input::Sent { drained: false, bytes: 14_499 });
    assert_eq!(client.due_ms(), edge_ms(30));
    client.pass_ms(30_000).give(Input::Deadline);
    assert_eq!(client.log(), "Done Abort");
    // Idle.
    let mut client = Client::new(vec![fresh()]);
    client.send(GET).drained();
    assert_eq!(client.due_ms(), edge_ms(60));
    client.pass_ms(60_000).give(Input::Deadline);
    assert_eq!(client.log(), "Done Close");
    // A body that stops.
    let mut client = Client::new(vec![]);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n").pass_ms(29_000).send("a");
    assert_eq!(client.due_ms(), edge_ms(1) + 2);
    client.session.hold();
    assert_eq!(client.due_ms(), u64::MAX);
    client.pass_ms(100_000).send("b").pass_ms(30_000).give(Input::Deadline);
    assert!(client.wire().starts_with("HTTP/1.1 408 "));
    assert_eq!(client.log(), "Pass Close");
}

#[test]
fn bodies_have_a_least_rate() {
    // 500 bytes a second for a minute, and then a byte each second.
    let mut client = Client::new(vec![]);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999\r\n\r\n");
    for _ in 0..60 {
        client.pass_ms(1_000).send("x".repeat(edge::limits::BODY_RATE_MIN as usize));
        assert_eq!(client.due_ms(), edge::limits::BODY_TIMEOUT_MS);
    }
    let mut seconds = 0;
    while client.due_ms() > 1_000 {
        client.pass_ms(1_000).send("x");
        seconds += 1;
    }
    assert_eq!(seconds, 30, "all that a timeout holds");
    client.pass_ms(1_000).give(Input::Deadline);
    assert!(client.wire().starts_with("HTTP/1.1 408 "));
}

#[test]
fn a_node_that_stops_says_so_in_its_responses() {
    let mut client = Client::new(vec![fresh()]);
    client.send(GET).drained();
    assert!(!client.wire().to_ascii_lowercase().contains("connection: close"));
    client.out.draining = true;
    client.send(GET);
    assert!(client.wire().to_ascii_lowercase().contains("connection: close"));
    assert_eq!(client.log(), "Done Done Close");
}

#[test]
fn the_peer_closes() {
    let mut client = Client::new(vec![fresh()]);
    client.give(Input::PeerClosed);
    assert_eq!(client.log(), "Close");
    let mut client = Client::new(vec![fresh()]);
    client.send(&GET[..20]).give(Input::PeerClosed);
    assert!(client.wire().starts_with("HTTP/1.1 400 "), "a truncated head");
    assert_eq!(client.log(), "Done Close");
    // Half-closed: the answer is still owed.
    let mut client = Client::new(vec![]);
    client.send(GET).give(Input::PeerClosed);
    assert_eq!(client.log(), "Fill");
    client.origin(200, "Content-Length: 2", Storing::Store).piece("ok").give(Input::End);
    assert!(client.wire().contains("Connection: close\r\n"));
    assert_eq!(client.log(), "Done Close");
    // A truncated body.
    let mut client = Client::new(vec![]);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab").give(Input::PeerClosed);
    assert!(client.wire().starts_with("HTTP/1.1 400 "));
    assert_eq!(client.log(), "Pass Close");
}

#[test]
fn corrupt_records_are_not_there() {
    let whole = fresh();
    for len in 0..whole.meta.len() {
        let mut client = Client::new(vec![Record { meta: whole.meta[..len].to_vec(), ..whole.clone() }]);
        client.send(GET);
        assert_eq!(client.log(), "Fill", "{len} bytes");
    }
}

/// One input of any kind, for a session that did not ask for it.
fn any_input() -> impl Strategy<Value = (u8, u16, Vec<u8>)> {
    let bytes = prop::sample::select(vec![
        GET.as_bytes(),
        &GET.as_bytes()[..17],
        b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n",
        b"3\r\nabc\r\n",
        b"0\r\n\r\n",
        b"\xff\x00",
        b"",
    ]);
    (any::<u8>(), 0u16..700, bytes.prop_map(<[u8]>::to_vec))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Inputs in any order: no panic, nothing after the end (the client of these tests sees to it), and
    /// a connection that was told to end takes nothing more.
    #[test]
    fn inputs_in_any_order(script in prop::collection::vec(any_input(), 0..30), flip in any::<usize>()) {
        let mut corrupt = fresh();
        let at = flip % corrupt.meta.len();
        corrupt.meta[at] ^= 1 << (flip % 8);
        for records in [vec![], vec![fresh()], vec![corrupt]] {
            let mut client = Client::new(records);
            for (kind, number, bytes) in &script {
                let flag = kind & 0x80 == 0;
                match kind % 10 {
                    0..=2 => client.send(bytes),
                    3 => client.give(Input::PeerClosed),
                    4 => client.origin(200 + number % 400, if flag { "Content-Length: 3" } else { "" }, Storing::Store),
                    5 => client.piece(if flag { "abc" } else { "" }),
                    6 => client.give(if flag { Input::End } else { Input::Broken }),
                    7 if client.fetched.is_some() => client.again(if flag { REVALIDATED } else { Again::Stored }),
                    8 => client.give(Input::Refused(*number, b"")),
                    _ => client.give(Input::Sent { drained: flag, bytes: usize::from(*number) }),
                };
                client.pass_ms(u64::from(*number));
                if client.log.iter().any(|entry| entry == "Close" || entry == "Abort") {
                    break;
                }
            }
            let ended = client.log.iter().any(|entry| entry == "Close" || entry == "Abort");
            prop_assert!(!ended || !client.session.wants_input());
            prop_assert!(client.session.deadline_ms() > 0);
        }
    }
}

/// The parts of a multipart/byteranges response, read as RFC 2046 section 5.1.1 says: (first, last, bytes).
fn parts(wire: &str, complete_bytes: usize) -> Vec<(usize, usize, String)> {
    let (head, body) = wire.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 206 "), "{head}");
    let field = |name: &str| {
        let mut lines = head.lines().filter(|line| line.to_ascii_lowercase().starts_with(name));
        let line = lines.next().unwrap_or_else(|| panic!("{name} in {head}"));
        assert!(lines.next().is_none(), "{name} twice: {head}");
        line.split_once(": ").unwrap().1.to_owned()
    };
    assert_eq!(field("content-length"), body.len().to_string());
    let kind = field("content-type");
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").expect("a boundary");
    assert!(!head.contains("Content-Range"), "it stands in the parts alone: {head}");
    let inner = body.strip_prefix(&format!("--{boundary}\r\n")).expect("the first delimiter");
    let inner = inner.strip_suffix(&format!("\r\n--{boundary}--\r\n")).expect("the last delimiter");
    let delimiter = format!("\r\n--{boundary}\r\n");
    let read = |part: &str| {
        let (head, bytes) = part.split_once("\r\n\r\n").expect("a part's head");
        assert!(head.starts_with("Content-Type: text/x-test\r\nContent-Range: bytes "), "{head}");
        let range = head.split_once("Content-Range: bytes ").unwrap().1;
        let (range, complete) = range.split_once('/').unwrap();
        let (first, last) = range.split_once('-').unwrap();
        assert_eq!(complete, complete_bytes.to_string());
        (first.parse().unwrap(), last.parse().unwrap(), bytes.to_owned())
    };
    inner.split(delimiter.as_str()).map(read).collect()
}

fn typed(body: &str) -> Record {
    let lines = format!("Date: {DATE}\nCache-Control: max-age=60\nContent-Type: text/x-test\nX-A: b");
    record(GET, 200, &lines, body, START.unix_s)
}

#[test]
fn several_ranges_come_as_parts() {
    let body: String = (0..1000).map(|i| char::from(b'a' + (i % 26) as u8)).collect();
    let mut client = Client::new(vec![typed(&body)]);
    client.send(get("Range: bytes=-5, 0-0,500-502\r\n") + GET);
    let wire = client.wire();
    let (several, whole) = wire.split_at(wire.rfind("HTTP/1.1 200").expect("the next response"));
    let slice = |from: usize, to: usize| (from, to - 1, body[from..to].to_owned());
    assert_eq!(parts(several, 1000), [slice(995, 1000), slice(0, 1), slice(500, 503)]);
    assert!(several.contains("x-a: b\r\n") && several.contains("Cache-Status: edge; hit; ttl="));
    assert!(whole.ends_with(&body));
    assert_eq!(client.log(), "Done Done");
    // Conditions come first, and another representation is sent whole.
    client.send(get("Range: bytes=0-0,500-502\r\nIf-Range: \"v9\"\r\n"));
    assert!(client.wire().starts_with("HTTP/1.1 200 "));
}

proptest! {
    #[test]
    fn parts_are_slices_of_the_body(
        asked in prop::collection::vec((0usize..3000, 0usize..300), 1..10),
        bytes in 1usize..3000,
    ) {
        let body: String = (0..bytes).map(|i| char::from(b'!' + (i * 31 % 90) as u8)).collect();
        let specs: Vec<String> = asked.iter().map(|(at, more)| format!("{at}-{}", at + more)).collect();
        let mut client = Client::new(vec![typed(&body)]);
        client.send(get(&format!("Range: bytes={}\r\n", specs.join(","))));
        let wire = client.wire();
        let parts = match &wire[9..12] {
            "416" => { prop_assert!(asked.iter().all(|(at, _)| *at >= bytes)); return Ok(()) }
            _ if wire.contains("multipart/byteranges") => parts(&wire, bytes),
            _ => {
                let range = wire.split_once("Content-Range: bytes ").unwrap().1.split_once('/').unwrap().0;
                let (first, last) = range.split_once('-').unwrap();
                let part = wire.split_once("\r\n\r\n").unwrap().1.to_owned();
                vec![(first.parse().unwrap(), last.parse().unwrap(), part)]
            }
        };
        for (first, last, part) in &parts {
            prop_assert_eq!(part, &body[*first..=*last]);
        }
        for (at, more) in asked.into_iter().filter(|(at, _)| *at < bytes) {
            let last = (at + more).min(bytes - 1);
            prop_assert!(parts.iter().any(|part| part.0 <= at && last <= part.1), "{}-{}", at, last);
        }
    }
}

/// Of a partial object what is there is a hit, and only what is not is asked for.
#[test]
fn partial_objects() {
    let body: String = (0..1000).map(|i| char::from(b'a' + (i % 26) as u8)).collect();
    let partial = Record { there: Some(100..400), ..typed(&body) };
    for (fields, log, status) in [
        ("Range: bytes=100-399\r\n", "Done", "206"),
        ("Range: bytes=99-150\r\n", "Part", ""),
        ("Range: bytes=300-400\r\n", "Part", ""),
        ("Range: bytes=-10\r\n", "Part", ""),
        ("Range: bytes=100-101,390-399\r\n", "Done", "206"),
        ("Range: bytes=100-101,390-400\r\n", "Pass", ""),
        ("Range: bytes=1000-\r\n", "Done", "416"),
        ("", "Part", ""),
        ("Range: bytes=9-5\r\n", "Part", ""),
        ("Range: bytes=100-200\r\nIf-Range: \"v9\"\r\n", "Part", ""),
        ("Range: bytes=0-1\r\nCache-Control: no-store\r\n", "Pass", ""),
        ("Range: bytes=0-1\r\nCache-Control: only-if-cached\r\n", "Done", "504"),
    ] {
        let mut client = Client::new(vec![partial.clone()]);
        client.send(get(fields));
        assert_eq!(client.log(), log, "{fields}");
        let wire = client.wire();
        assert_eq!(wire.get(9..12).unwrap_or(""), status, "{fields}: {wire}");
        if log != "Done" {
            client.origin(200, "Content-Length: 0", Storing::Store).give(Input::End);
            assert!(client.wire().contains("Cache-Status: edge; fwd=partial; fwd-status=200"), "{fields}");
        }
    }
    let mut client = Client::new(vec![partial.clone()]);
    client.send(GET.replace("GET", "HEAD"));
    assert!(client.wire().contains("content-length: 1000\r\n"));
    // Looked up again after a fetch: what is there then is sent, and what is not is asked for alone.
    let mut client = Client::new(vec![partial]);
    client.send(get("Range: bytes=500-509\r\n"));
    client.records[0].there = Some(0..600);
    client.out.request = proto_client::request(&get("Range: bytes=500-509\r\n"));
    client.give(Input::Again(Again::Stored));
    let wire = client.wire();
    assert!(wire.contains("fwd=partial; stored; ttl=") && wire.ends_with(&body[500..510]), "{wire}");
    client.send(get("Range: bytes=700-709\r\n"));
    client.out.request = proto_client::request(&get("Range: bytes=700-709\r\n"));
    client.give(Input::Again(Again::Stored));
    assert_eq!(client.log(), "Part Done Part Pass");
}
