//! A shard's file is cut short under a running node, while it is read from and sent from.

use crate::support::{Client, Edge, HOST, Origin, alone, content, eventually, request};
use serde_json::Value;
use std::os::unix::fs::FileExt;
use std::time::Duration;

const SMALL: u64 = 60;
const LARGE_BYTES: u64 = 24 << 20;

/// An edge with two shards, and the directory they are in.
fn two_shards(origin: &Origin) -> (Edge, std::path::PathBuf) {
    let mut edge = Edge::start(origin.address());
    let directory = edge.config_path().parent().expect("it is in one").to_path_buf();
    let one = format!("path = \"{}\"\nsize = \"128MiB\"\n", directory.join("store").display());
    let shard =
        |n| format!("[[store.shards]]\npath = \"{}/disk-{n}\"\nsize = \"256MiB\"\n", directory.display());
    let text = edge.config().replace(&one, &(shard(0) + &shard(1)));
    assert!(text.contains("disk-1"), "{text}");
    edge.stop();
    edge.write_config(&text);
    edge.run();
    (edge, directory)
}

fn shard(edge: &Edge, number: usize) -> Value {
    let status: Value = serde_json::from_slice(&edge.admin_get("/status").body).expect("JSON");
    status["store"]["shards"][number].clone()
}

fn check_small(client: &mut Client) {
    check(client, 0..SMALL);
}

fn check(client: &mut Client, numbers: std::ops::Range<u64>) {
    for i in numbers {
        let path = format!("/{i}");
        // A response that needs what is gone is broken off; asked again, it comes from the origin.
        let whole = (0..3).find_map(|_| {
            client.send(request("GET", &path, &[]).as_bytes());
            let response = client.response("GET").ok();
            if response.is_none() {
                *client = Client::connect(client.stream().peer_addr().expect("connected"));
            }
            response
        });
        let response = whole.unwrap_or_else(|| panic!("{path} is not answered"));
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(
            response.hash(),
            content::hash(content::seed(&path), 30_000 + i),
            "{path} has other bytes"
        );
    }
}

#[test]
fn a_file_cut_short_under_load_costs_its_shard_until_it_is_opened_again() {
    let _alone = alone();
    let origin = Origin::start();
    (0..SMALL).for_each(|i| origin.cacheable(&format!("/{i}"), 30_000 + i));
    let (edge, directory) = two_shards(&origin);
    // Large objects until one is in the first shard; each client takes the beginning and waits.
    let mut stalled = Vec::new();
    for number in 0..12 {
        let path = format!("/large/{number}");
        origin.cacheable(&path, LARGE_BYTES);
        edge.get(&path);
        edge.get_hit(&path);
        let mut client = edge.client();
        client.send(request("GET", &path, &[]).as_bytes());
        let head = client.head().expect("a head");
        assert!(head.is_hit());
        stalled.push((path, client, head));
        if shard(&edge, 0)["used_bytes"].as_u64() >= Some(LARGE_BYTES) && number > 2 {
            break;
        }
    }
    check_small(&mut edge.client());
    check_small(&mut edge.client());

    let file =
        std::fs::File::options().write(true).open(directory.join("disk-0/shard-0")).expect("it is there");
    file.set_len(0).expect("it can be cut");
    check_small(&mut edge.client());
    eventually("the shard is out of use", || shard(&edge, 0)["state"] == "out of use");
    assert!(shard(&edge, 0)["reason"].as_str().is_some_and(|why| why.contains("cut short")));
    assert_eq!(shard(&edge, 1)["state"], "in use");
    assert_eq!(edge.metric("edge_store_shards_failed_total"), 1.0);
    assert!(edge.log().contains("shard out of use"), "{}", edge.log());
    let mut broken = 0;
    for (path, mut client, head) in stalled {
        let mut body = Vec::new();
        match client.body("GET", &head, &mut |piece| body.extend_from_slice(piece)) {
            Ok(()) => assert_eq!(
                xxhash_rust::xxh3::xxh3_64(&body),
                content::hash(content::seed(&path), LARGE_BYTES),
                "{path} has other bytes"
            ),
            Err(_) => {
                assert!(
                    body == content::part(content::seed(&path), 0, body.len() as u64),
                    "{path}: other bytes"
                );
                broken += 1;
            }
        }
    }
    assert!(broken > 0, "nothing large was in the shard");
    check_small(&mut edge.client());

    let answer =
        Client::connect(edge.admin()).request("POST", "/store/shards/0/open", &[("Content-Length", "0")]);
    assert_eq!(answer.status(), 200, "{:?}", String::from_utf8_lossy(&answer.body));
    assert_eq!(shard(&edge, 0)["state"], "in use");
    let again =
        Client::connect(edge.admin()).request("POST", "/store/shards/0/open", &[("Content-Length", "0")]);
    assert_eq!(again.status(), 409);
    check_small(&mut edge.client());
    std::thread::sleep(Duration::from_millis(50));
    (0..SMALL).for_each(|i| drop(edge.get_hit(&format!("/{i}"))));
    assert!(shard(&edge, 0)["objects"].as_u64() > Some(0), "it stores again");
}

#[test]
fn a_shard_whose_disk_was_away_serves_what_it_held_but_not_what_was_purged_meanwhile() {
    let _alone = alone();
    let origin = Origin::start();
    (0..SMALL).for_each(|i| origin.cacheable(&format!("/{i}"), 30_000 + i));
    let (edge, directory) = two_shards(&origin);
    check_small(&mut edge.client());
    check_small(&mut edge.client());
    let objects = shard(&edge, 0)["objects"].as_u64().expect("a number");
    assert!(objects > SMALL / 4, "{objects}");
    // What is not on the disk is not believed; a flush comes every three seconds.
    let flushes = || edge.metric("edge_store_flushes_total");
    let before = flushes();
    eventually("one flush has begun and ended", || flushes() >= before + 2.0);

    // All that was stored is in the first segment.
    let path = directory.join("disk-0/shard-0");
    let file = std::fs::File::options().read(true).write(true).open(&path).expect("it is there");
    let mut segment = vec![0; 8 << 20];
    file.read_exact_at(&mut segment, 0).expect("a segment");
    file.set_len(0).expect("it can be cut");
    // Some of the last ten are in it; they may be stored elsewhere then.
    check(&mut edge.client(), SMALL - 10..SMALL);
    eventually("the shard is out of use", || shard(&edge, 0)["state"] == "out of use");
    let purged: Vec<String> = (0..10).map(|i| format!("/{i}")).collect();
    for path in &purged {
        let purged = edge.purge(&format!("{{\"url\": \"http://{HOST}{path}\"}}"));
        assert_eq!(purged.status(), 200);
    }
    let before: Vec<usize> = (0..SMALL).map(|i| origin.count(&format!("/{i}"))).collect();
    // The disk is there again.
    file.write_all_at(&segment, 0).expect("it can be written");
    let answer =
        Client::connect(edge.admin()).request("POST", "/store/shards/0/open", &[("Content-Length", "0")]);
    assert_eq!(answer.status(), 200, "{:?}", String::from_utf8_lossy(&answer.body));
    let back = shard(&edge, 0)["objects"].as_u64().expect("a number");
    assert!(back > objects / 4 && back <= objects, "{back} of {objects}");
    check_small(&mut edge.client());
    let asked = (0..SMALL).filter(|&i| origin.count(&format!("/{i}")) > before[i as usize]).count() as u64;
    assert!((10..SMALL / 2).contains(&asked), "of {SMALL} twenty were touched, {back} came back: {asked}");
    (0..10).for_each(|i| assert!(origin.count(&format!("/{i}")) > before[i], "/{i} was purged"));
}
