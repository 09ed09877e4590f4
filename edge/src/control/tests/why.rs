//! `/why`: each of the answers an operator can get.

use super::admin::ask;
use super::origin::Origin;
use super::purges::{fill, purge};
use super::worker::Worker;
use super::*;
use serde_json::{Value, json};

fn why(node: &Node, url: &str) -> Value {
    let reply = ask(node.handle.admin().unwrap(), "GET", &format!("/why?url={url}"), "");
    assert_eq!(reply.status, 200, "{url}: {}", reply.body);
    serde_json::from_str(&reply.body).unwrap()
}

pub(super) fn check(node: &Node, url: &str, state: &str, because: &str) -> Value {
    let answer = why(node, url);
    let said = answer["because"].as_str().unwrap();
    assert!(answer["state"] == state && said.contains(because), "{url}: {} {said}", answer["state"]);
    answer
}

fn answered(node: &Node, worker: &mut Worker, url: &str) {
    let ticket = worker.fill(url);
    worker.run_until(|worker| worker.outcome(ticket).is_some());
    if worker.refused(ticket).is_none() {
        worker.run_until(|worker| worker.whole(ticket) || worker.broken(ticket));
    }
    // What is remembered is written just after the last message.
    let _ = ask(node.handle.admin().unwrap(), "GET", "/healthz", "");
}

#[test]
fn what_is_stored_is_shown_with_all_that_matters() {
    let origin = Origin::start(|exchange| {
        let fields = "Cache-Control: max-age=60, s-maxage=600\r\nVary: X-A\r\nSurrogate-Key: News a\r\nETag: \"1\"\r\n";
        exchange.respond("200 OK", fields, b"12345");
    });
    let (node, mut workers) = start(1, &[origin.url()]);
    for value in ["one", "two"] {
        let before = node.count(Counter::FillsStored);
        let ticket = workers[0].fill_with("http://a/x?q=%25", &format!("X-A: {value}\r\n"));
        workers[0].run_until(|worker| worker.whole(ticket));
        node.await_count(Counter::FillsStored, before + 1);
    }
    let answer = check(&node, "http%3A%2F%2FA%3A80%2Fx%3Fq%3D%2525", "fresh", "from the store");
    assert_eq!(answer["key"], json!("http://a/x?q=%25"));
    assert_eq!(answer["route"]["origin"], json!("main"));
    let variants = answer["variants"].as_array().unwrap();
    let vary: Vec<_> = variants.iter().map(|variant| variant["vary"][0].as_str().unwrap()).collect();
    assert!(vary.contains(&"x-a: one") && vary.contains(&"x-a: two"), "{vary:?}");
    let variant = &variants[0];
    assert_eq!(
        [&variant["status"], &variant["lifetime_s"], &variant["object_bytes"], &variant["tags"]],
        [&json!(200), &json!(600), &json!(5), &json!(["News", "a"])]
    );
    assert_eq!((&variant["lifetime_from"], &variant["shard"]), (&json!("s-maxage"), &json!(0)));
    assert!(variant["fresh_until"].as_str().unwrap().ends_with("GMT"));
    purge(&node, json!({ "tag": "news", "soft": true }));
    let answer = check(&node, "http://a/x?q=%2525", "stale by a soft purge", "by tag news");
    assert_eq!(answer["purges"][0]["name"], json!("tag"));
    purge(&node, json!({ "prefix": "http://a/" }));
    check(&node, "http://a/x?q=%2525", "purged", "by prefix http://a/");
    node.handle.stop().unwrap();
}

#[test]
fn what_is_not_stored_has_its_reason() {
    let origin = Origin::start(|exchange| match exchange.path() {
        "/no-store" => exchange.respond("200 OK", "Cache-Control: no-store\r\n", b"x"),
        "/vary" => exchange.respond("200 OK", "Cache-Control: max-age=9\r\nVary: *\r\n", b"x"),
        "/bare" => exchange.respond("200 OK", "", b"x"),
        "/short" => {
            exchange.send(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=9\r\nContent-Length: 9\r\n\r\nx");
            exchange.close();
        }
        "/dead" => exchange.close(),
        _ => exchange.respond("200 OK", "Cache-Control: max-age=60\r\n", b"x"),
    });
    let (node, mut workers) = start(1, &[origin.url()]);
    let worker = &mut workers[0];
    check(&node, "http://a/", "never seen", "no request");
    for (path, state, because) in [
        ("no-store", "uncacheable", "Cache-Control of the response forbids storing: no-store"),
        ("vary", "uncacheable", "Vary"),
        ("bare", "uncacheable", "neither a lifetime"),
        ("short", "not stored", "broke off"),
        ("dead", "not stored", "answered 502"),
    ] {
        let url = format!("http://a/{path}");
        answered(&node, worker, &url);
        check(&node, &url, state, because);
    }
    fill(&node, worker, &["http://a/1", "http://a/2"]);
    check(&node, "http://a/1", "fresh", "from the store");
    purge(&node, json!({ "url": "http://a/1" }));
    let answer = check(&node, "http://a/1", "purged", "by url http://a/1");
    assert_eq!(answer["purges"][0]["soft"], json!(false));
    let post = worker.pass("POST", "http://a/2", "");
    worker.run_until(|worker| worker.whole(post));
    check(&node, "http://a/2", "invalidated", "unsafe method");
    fill(&node, worker, &["http://a/1"]);
    check(&node, "http://a/1", "fresh", "from the store");
    for url in ["", "/x", "ftp://a/", "http://a/%zz"] {
        let reply = ask(node.handle.admin().unwrap(), "GET", &format!("/why?url={url}"), "");
        assert_eq!(reply.status, 400, "{url}: {}", reply.body);
    }
    node.handle.stop().unwrap();
}

#[test]
fn what_had_to_leave_says_when_and_why() {
    let origin = Origin::start(|exchange| {
        let body = vec![7; 900_000];
        exchange.respond("200 OK", "Cache-Control: max-age=3600\r\n", &body);
    });
    let directory = Arc::new(Scratch::new());
    let mut config = config(directory.path(), &[origin.url()]);
    config.store[0].size_bytes = 32 << 20;
    let (node, mut workers) = start_in(1, config, directory);
    for number in 0..60 {
        let before = node.count(Counter::FillsStored);
        let ticket = workers[0].fill(&format!("http://a/{number}"));
        workers[0].run_until(|worker| worker.whole(ticket));
        node.await_count(Counter::FillsStored, before + 1);
    }
    let states: Vec<Value> =
        (0..60).map(|number| why(&node, &format!("http://a/{number}"))["state"].clone()).collect();
    let count = |state: &str| states.iter().filter(|found| *found == state).count();
    assert!(count("evicted") >= 20 && count("fresh") >= 10, "{states:?}");
    assert_eq!(count("evicted") + count("fresh"), 60, "{states:?}");
    node.handle.stop().unwrap();
}
