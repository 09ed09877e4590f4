//! Purges: what they reach, that they win over fills, and that nothing comes back, whatever is left of the files.

use super::admin::ask;
use super::origin::Origin;
use super::worker::Worker;
use super::*;
use serde_json::{Value, json};
use std::sync::Mutex;
use std::sync::mpsc;

const FRESH: &str = "Cache-Control: max-age=3600\r\nETag: \"1\"\r\n";

/// `/tag/…` is tagged with what follows.
fn origin() -> Origin {
    Origin::start(|exchange| match exchange.path().strip_prefix("/tag/") {
        Some(tag) => {
            let fields = format!("{FRESH}Surrogate-Key: all {tag}\r\n");
            exchange.respond("200 OK", &fields, b"tagged");
        }
        None => exchange.respond("200 OK", FRESH, b"plain"),
    })
}

pub(super) fn purge(node: &Node, what: Value) -> Value {
    let reply = ask(node.handle.admin().unwrap(), "POST", "/purge", &what.to_string());
    assert_eq!(reply.status, 200, "{what}: {}", reply.body);
    serde_json::from_str(&reply.body).unwrap()
}

pub(super) fn fill(node: &Node, worker: &mut Worker, urls: &[&str]) {
    for url in urls {
        let before = node.count(Counter::FillsStored);
        let ticket = worker.fill(url);
        worker.run_until(|worker| worker.whole(ticket));
        node.await_count(Counter::FillsStored, before + 1);
        assert!(worker.stored(url, "").is_some());
    }
}

fn check(worker: &Worker, there: &[&str], gone: &[&str]) {
    for url in there {
        assert!(worker.stored(url, "").is_some(), "{url} was lost");
    }
    for url in gone {
        assert!(worker.stored(url, "").is_none(), "{url} is there");
    }
}

const URLS: [&str; 6] = [
    "http://a/img/1",
    "http://a/img/2",
    "http://a/x",
    "http://a:8080/img/1",
    "http://b/img/1",
    "http://b/tag/news",
];

#[test]
fn a_purge_reaches_what_it_names_on_every_worker() {
    let origin = origin();
    let (node, mut workers) = start(2, &[origin.url()]);
    fill(&node, &mut workers[0], &URLS);
    let answer = purge(&node, json!({ "prefix": "http://A/img/" }));
    assert_eq!((&answer["purged"], &answer["prefix"]), (&Value::Null, &json!("http://A/img/")));
    workers.iter().for_each(|worker| check(worker, &URLS[2..], &URLS[..2]));
    purge(&node, json!({ "tag": "NEWS" }));
    workers.iter().for_each(|worker| check(worker, &URLS[2..5], &URLS[5..]));
    purge(&node, json!({ "host": "a" }));
    workers.iter().for_each(|worker| check(worker, &URLS[4..5], &URLS[2..4]));
    assert_eq!(purge(&node, json!({ "url": URLS[4] }))["purged"], json!(1));
    workers.iter().for_each(|worker| check(worker, &[], &URLS));
    fill(&node, &mut workers[1], &URLS);
    workers.iter().for_each(|worker| check(worker, &URLS, &[]));
    assert_eq!(node.count(Counter::Purges), 4);
    node.handle.stop().unwrap();
}

#[test]
fn a_soft_purge_has_the_response_validated_and_keeps_it() {
    let origin = Origin::start(|exchange| match exchange.field("if-none-match") {
        Some(_) => exchange.respond("304 Not Modified", FRESH, b""),
        None => exchange.respond("200 OK", FRESH, b"plain"),
    });
    let (node, mut workers) = start(1, &[origin.url()]);
    let worker = &mut workers[0];
    fill(&node, worker, &["http://a/x"]);
    purge(&node, json!({ "host": "a", "soft": true }));
    check(worker, &["http://a/x"], &[]);
    assert!(worker.is_stale("http://a/x"));
    let ticket = worker.revalidate("http://a/x", "");
    worker.run_until(|worker| worker.outcome(ticket).is_some());
    assert_eq!(node.count(Counter::Revalidated), 1);
    check(worker, &["http://a/x"], &[]);
    assert!(!worker.is_stale("http://a/x"), "validated since");
    node.handle.stop().unwrap();
}

/// Who asks after the purge is not served what was asked for before it, and that is not stored.
#[test]
fn a_purge_wins_over_a_fill_that_runs() {
    for (what, soft) in [
        (json!({ "url": "http://a/tag/slow" }), false),
        (json!({ "tag": "slow" }), false),
        (json!({ "prefix": "http://a/tag/" }), false),
        (json!({ "host": "a", "soft": true }), true),
    ] {
        for before_head in [true, false] {
            let (go, gate) = mpsc::channel::<()>();
            let gate = Mutex::new(gate);
            let asked = AtomicU32::new(0);
            let origin = Origin::start(move |exchange| {
                let waits = asked.fetch_add(1, Ordering::Relaxed) == 0;
                let wait = || gate.lock().unwrap().recv().unwrap();
                let body = if waits { "old" } else { "new" };
                if waits && before_head {
                    wait();
                }
                let fields = "Cache-Control: max-age=3600\r\nCache-Tag: slow\r\nContent-Length: 3\r\n";
                exchange.send(format!("HTTP/1.1 200 OK\r\n{fields}\r\n").as_bytes());
                if waits && !before_head {
                    wait();
                }
                exchange.send(body.as_bytes());
            });
            let (node, mut workers) = start(1, &[origin.url()]);
            let worker = &mut workers[0];
            let old = worker.fill("http://a/tag/slow");
            if before_head {
                worker.run_until(|_| origin.requests().len() == 1);
            } else {
                worker.run_until(|worker| worker.outcome(old).is_some());
            }
            purge(&node, what.clone());
            let new = worker.fill("http://a/tag/slow");
            worker.run_until(|worker| worker.whole(new));
            assert_eq!(worker.body(new), b"new", "{what}, before the head: {before_head}");
            go.send(()).unwrap();
            worker.run_until(|worker| worker.whole(old));
            assert_eq!(worker.body(old), b"old", "who asked before is served what was asked for");
            let ended = Instant::now();
            while node.count(Counter::FillsStored) + node.count(Counter::FillsNotStored) < 2 {
                assert!(ended.elapsed() < PATIENCE);
                std::thread::sleep(Duration::from_millis(2));
            }
            let stored = worker.stored("http://a/tag/slow", "");
            if soft {
                // The last one to end is stored; if it is the old one, it is stale.
                assert!(stored.as_deref() == Some(b"new") || worker.is_stale("http://a/tag/slow"));
            } else {
                assert_ne!(stored.as_deref(), Some(&b"old"[..]), "{what}, before the head: {before_head}");
            }
            node.handle.stop().unwrap();
        }
    }
}

/// A node that stored and purged, and is gone; what the store was before the purges lies in `before`.
fn purged() -> (Config, Arc<Scratch>, Scratch) {
    let origin = origin();
    let (node, mut workers) = start(1, &[origin.url()]);
    fill(&node, &mut workers[0], &URLS);
    let before = Scratch::new();
    std::fs::copy(node.directory.path().join("shard-0"), before.path().join("shard-0")).unwrap();
    purge(&node, json!({ "url": URLS[2] }));
    purge(&node, json!({ "tag": "news" }));
    purge(&node, json!({ "prefix": "http://a/img/" }));
    let (config, directory) = (node.config.clone(), node.directory.clone());
    node.handle.stop().unwrap();
    drop(workers);
    std::fs::remove_file(directory.path().join("checkpoint")).unwrap();
    // As after a loss of power before any flush.
    std::fs::copy(before.path().join("shard-0"), directory.path().join("shard-0")).unwrap();
    (config, directory, before)
}

const GONE: [&str; 4] = [URLS[0], URLS[1], URLS[2], URLS[5]];
const THERE: [&str; 2] = [URLS[3], URLS[4]];

#[test]
fn the_log_keeps_purged_objects_away_after_a_loss_of_power() {
    let (config, directory, before) = purged();
    for round in 0..3 {
        let (node, workers) = start_in(1, config.clone(), directory.clone());
        check(&workers[0], &THERE, &GONE);
        node.handle.stop().unwrap();
        drop(workers);
        let _ = std::fs::remove_file(directory.path().join("checkpoint"));
        std::fs::copy(before.path().join("shard-0"), directory.path().join("shard-0")).unwrap();
        // A write that was not finished.
        let log = directory.path().join(crate::control::purge::FILE_NAME);
        let mut bytes = std::fs::read(&log).unwrap();
        bytes.extend(b"EPRG\x40\0\0\0 torn".repeat(round));
        std::fs::write(&log, bytes).unwrap();
    }
}

#[test]
fn without_a_log_that_can_be_trusted_nothing_is_served() {
    for damage in [
        |log: &Path| std::fs::remove_file(log).unwrap(),
        |log: &Path| std::fs::write(log, b"something else").unwrap(),
        |log: &Path| {
            let mut bytes = std::fs::read(log).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(log, bytes).unwrap();
        },
    ] {
        let (config, directory, _before) = purged();
        damage(&directory.path().join(crate::control::purge::FILE_NAME));
        let (node, workers) = start_in(1, config, directory);
        check(&workers[0], &[], &URLS);
        node.handle.stop().unwrap();
    }
}

/// A store of two shards, and where they lie.
fn two_shards(directory: &Scratch, origin: &Origin) -> (Config, [PathBuf; 2]) {
    let mut config = config(directory.path(), &[origin.url()]);
    let paths = ["first", "second"].map(|name| directory.path().join(name));
    let shard = |path: &PathBuf| Shard {
        path: path.clone(),
        size_bytes: 64 << 20,
        object_bytes: limits::OBJECT_BYTES,
        state: None,
        hold: Default::default(),
    };
    config.store = paths.iter().map(shard).collect();
    (config, paths)
}

#[test]
fn a_shard_whose_log_lacks_a_purge_is_not_believed_without_one_that_has_it() {
    let origin = origin();
    let directory = Arc::new(Scratch::new());
    let (config, [first, second]) = two_shards(&directory, &origin);
    let (node, mut workers) = start_in(1, config.clone(), directory.clone());
    let urls: Vec<String> = (0..40).map(|number| format!("http://a/{number}")).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    fill(&node, &mut workers[0], &urls);
    // The second disk takes the log no more, until after the purge.
    let [log, new] = ["purges", "purges.new"].map(|name| second.join(name));
    let aside = second.join("aside");
    std::fs::rename(&log, &aside).unwrap();
    [&log, &new].iter().for_each(|path| std::fs::create_dir(path).unwrap());
    purge(&node, json!({ "host": "a" }));
    node.handle.stop().unwrap();
    drop(workers);
    [&log, &new].iter().for_each(|path| std::fs::remove_dir(path).unwrap());
    std::fs::rename(&aside, &log).unwrap();
    // The first one is replaced.
    std::fs::remove_dir_all(&first).unwrap();
    let (node, mut workers) = start_in(1, config, directory.clone());
    check(&workers[0], &[], &urls);
    fill(&node, &mut workers[0], &urls[..5]);
    node.handle.stop().unwrap();
}

#[test]
fn of_several_shards_each_has_the_log_and_one_is_enough() {
    let origin = origin();
    let directory = Arc::new(Scratch::new());
    let (config, paths) = two_shards(&directory, &origin);
    let (node, mut workers) = start_in(1, config.clone(), directory.clone());
    fill(&node, &mut workers[0], &URLS);
    purge(&node, json!({ "prefix": "http://a/" }));
    node.handle.stop().unwrap();
    drop(workers);
    for lost in &paths {
        let log = lost.join(crate::control::purge::FILE_NAME);
        std::fs::remove_file(&log).unwrap();
        let (node, workers) = start_in(1, config.clone(), directory.clone());
        check(&workers[0], &URLS[3..], &URLS[..3]);
        node.handle.stop().unwrap();
        assert!(log.exists(), "made again");
    }
}

/// Runs a node whose written files lie there, does something with it, and stops it.
fn run_with(
    (config, directory): (&Config, &Arc<Scratch>),
    state: &str,
    act: impl FnOnce(&Node, &mut Worker),
) {
    let mut config = config.clone();
    config.store[0].state = Some(directory.path().join(state));
    let (node, mut workers) = start_in(1, config, directory.clone());
    act(&node, &mut workers[0]);
    node.handle.stop().unwrap();
}

#[test]
fn a_log_counts_where_it_was_moved_with_the_store_and_not_where_it_was_left_behind() {
    let origin = origin();
    let directory = Arc::new(Scratch::new());
    let config = config(&directory.path().join("store"), &[origin.url()]);
    let store = (&config, &directory);
    run_with(store, "a", |node, worker| {
        fill(node, worker, &URLS);
        purge(node, json!({ "tag": "news" }));
    });
    let [a, b] = ["a", "b"].map(|name| directory.path().join(name));
    std::fs::rename(&a, &b).unwrap();
    run_with(store, "b", |_, worker| check(worker, &URLS[..5], &URLS[5..]));
    // Elsewhere nothing is known of what was purged.
    run_with(store, "c", |node, worker| {
        check(worker, &[], &URLS);
        fill(node, worker, &URLS);
        purge(node, json!({ "host": "a" }));
        check(worker, &URLS[4..], &URLS[..4]);
    });
    // The log that was left here has not heard of the last purge.
    run_with(store, "b", |node, worker| {
        check(worker, &[], &URLS);
        fill(node, worker, &URLS);
    });
    run_with(store, "b", |_, worker| check(worker, &URLS, &[]));
}

#[test]
fn a_log_of_another_store_or_of_one_that_was_replaced_does_not_count() {
    let origin = origin();
    let directory = Arc::new(Scratch::new());
    let [one, other] = ["one", "other"].map(|name| config(&directory.path().join(name), &[origin.url()]));
    run_with((&one, &directory), "a", |node, worker| fill(node, worker, &URLS));
    run_with((&other, &directory), "b", |node, worker| {
        fill(node, worker, &URLS);
        purge(node, json!({ "host": "a" }));
    });
    // What was purged of the one is not known beside the log of the other.
    run_with((&one, &directory), "b", |node, worker| {
        check(worker, &[], &URLS);
        fill(node, worker, &URLS);
    });
    run_with((&one, &directory), "b", |_, worker| check(worker, &URLS, &[]));
    std::fs::remove_file(directory.path().join("one/shard-0")).unwrap();
    run_with((&one, &directory), "b", |node, worker| {
        check(worker, &[], &URLS);
        fill(node, worker, &URLS);
        check(worker, &URLS, &[]);
    });
    run_with((&one, &directory), "b", |_, worker| check(worker, &URLS, &[]));
}

#[test]
fn a_purge_that_cannot_be_logged_is_not_acknowledged_and_in_force_all_the_same() {
    let origin = origin();
    let (node, mut workers) = start(1, &[origin.url()]);
    fill(&node, &mut workers[0], &URLS);
    let (here, away) = (node.directory.path().to_path_buf(), node.directory.path().with_extension("away"));
    std::fs::rename(&here, &away).unwrap();
    let reply = ask(node.handle.admin().unwrap(), "POST", "/purge", r#"{"host": "a"}"#);
    assert_eq!(reply.status, 500, "{}", reply.body);
    assert!(reply.body.contains("in force"), "{}", reply.body);
    std::fs::rename(&away, &here).unwrap();
    check(&workers[0], &URLS[4..], &URLS[..4]);
    assert_eq!(node.count(Counter::PurgesNotLogged), 1);
    // The next one writes all of them.
    purge(&node, json!({ "tag": "news" }));
    let (config, directory) = (node.config.clone(), node.directory.clone());
    node.handle.stop().unwrap();
    drop(workers);
    let (node, workers) = start_in(1, config, directory);
    check(&workers[0], &URLS[4..5], &[URLS[0], URLS[1], URLS[2], URLS[3], URLS[5]]);
    node.handle.stop().unwrap();
}

/// The log is written anew when it is long, and nothing is lost by that.
#[test]
fn a_long_log_is_shortened_and_still_says_all() {
    let origin = origin();
    let (node, mut workers) = start(1, &[origin.url()]);
    fill(&node, &mut workers[0], &URLS);
    purge(&node, json!({ "tag": "news" }));
    let log = node.directory.path().join(crate::control::purge::FILE_NAME);
    let long = "x".repeat(8000);
    let mut most = 0;
    for n in 0..700 {
        purge(&node, json!({ "url": format!("http://a/{long}{n}") }));
        most = most.max(std::fs::metadata(&log).unwrap().len());
    }
    let bytes = std::fs::metadata(&log).unwrap().len();
    assert!(most > limits::PURGE_LOG_BYTES_MAX && bytes < most, "{most}, then {bytes}");
    assert!(most < 2 * limits::PURGE_LOG_BYTES_MAX + 100_000);
    let (config, directory) = (node.config.clone(), node.directory.clone());
    node.handle.stop().unwrap();
    drop(workers);
    let (node, workers) = start_in(1, config, directory);
    check(&workers[0], &URLS[..5], &URLS[5..]);
    node.handle.stop().unwrap();
}

#[test]
fn what_unsafe_requests_invalidate_stays_away_after_a_loss_of_power() {
    let origin = Origin::start(|exchange| match exchange.method() {
        "POST" => exchange.respond("200 OK", "Location: /x\r\n", b"done"),
        _ => exchange.respond("200 OK", FRESH, b"plain"),
    });
    let (node, mut workers) = start(1, &[origin.url()]);
    let worker = &mut workers[0];
    fill(&node, worker, &URLS);
    let before = Scratch::new();
    std::fs::copy(node.directory.path().join("shard-0"), before.path().join("shard-0")).unwrap();
    let log = node.directory.path().join(crate::control::purge::FILE_NAME);
    let frames = |bytes: &[u8]| bytes.windows(4).filter(|window| window == b"EPRG").count();
    let frames_before = frames(&std::fs::read(&log).unwrap());
    for url in ["http://a/never", URLS[0], URLS[1], URLS[3], URLS[4]] {
        let post = worker.pass("POST", url, "");
        worker.run_until(|worker| worker.whole(post));
    }
    let has = |bytes: &[u8], key: &str| bytes.windows(key.len()).any(|window| window == key.as_bytes());
    worker.run_until(|_| has(&std::fs::read(&log).unwrap(), URLS[4]));
    let bytes = std::fs::read(&log).unwrap();
    assert!(!has(&bytes, "http://a/never"), "nothing was stored there");
    assert!(frames(&bytes) - frames_before < 5, "several share a flush");
    assert_eq!(node.count(Counter::Purges), 0);
    let gone = [URLS[0], URLS[1], URLS[2], URLS[3], URLS[4]];
    check(worker, &URLS[5..], &gone);
    let (config, directory) = (node.config.clone(), node.directory.clone());
    node.handle.stop().unwrap();
    drop(workers);
    std::fs::remove_file(directory.path().join("checkpoint")).unwrap();
    std::fs::copy(before.path().join("shard-0"), directory.path().join("shard-0")).unwrap();
    let (node, workers) = start_in(1, config, directory);
    // The third was named by Location alone.
    check(&workers[0], &URLS[5..], &gone);
    for url in [URLS[0], URLS[2], URLS[4]] {
        super::why::check(&node, url, "invalidated", "unsafe method");
    }
    node.handle.stop().unwrap();
}

#[test]
fn an_unsafe_request_waits_for_no_log() {
    let origin = origin();
    let (node, mut workers) = start(1, &[origin.url()]);
    fill(&node, &mut workers[0], &URLS);
    let (here, away) = (node.directory.path().to_path_buf(), node.directory.path().with_extension("away"));
    std::fs::rename(&here, &away).unwrap();
    let post = workers[0].pass("POST", URLS[2], "");
    workers[0].run_until(|worker| worker.whole(post));
    check(&workers[0], &URLS[..2], &URLS[2..3]);
    node.await_count(Counter::PurgesNotLogged, 1);
    std::fs::rename(&away, &here).unwrap();
    // The next one writes all of them.
    let log = here.join(crate::control::purge::FILE_NAME);
    purge(&node, json!({ "tag": "other" }));
    let bytes = std::fs::read(&log).unwrap();
    assert!(bytes.windows(URLS[2].len()).any(|window| window == URLS[2].as_bytes()));
    node.handle.stop().unwrap();
}
