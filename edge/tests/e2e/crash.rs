//! What a restart keeps: after a clean stop, and after a kill in the middle of everything.

use crate::support::{Client, Edge, Fault, Origin, alone, content, eventually, request};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const OBJECTS: u64 = 40;

fn bytes_of(i: u64) -> u64 {
    // Small ones, and every tenth larger than a chunk.
    if i.is_multiple_of(10) { (1 << 20) + 70_000 * i + 1 } else { 500 + i * 321 }
}

/// An edge with [`OBJECTS`] stored objects.
fn filled() -> (Origin, Edge) {
    let origin = Origin::start();
    for i in 0..OBJECTS {
        origin.cacheable(&format!("/{i}"), bytes_of(i));
    }
    let edge = Edge::start(origin.address());
    for i in 0..OBJECTS {
        edge.get(&format!("/{i}"));
    }
    for i in 0..OBJECTS {
        edge.get_hit(&format!("/{i}"));
    }
    (origin, edge)
}

fn check_hits(edge: &Edge) {
    let mut client = edge.client();
    for i in 0..OBJECTS {
        let path = format!("/{i}");
        let response = client.get(&path);
        assert!(response.head.is_hit(), "{path} was lost: {:?}", response.head);
        assert_eq!(
            response.hash(),
            content::hash(content::seed(&path), bytes_of(i)),
            "{path} has other bytes"
        );
    }
}

/// Asks for stored and new objects until told to stop, checking every byte that is called whole.
fn load(address: SocketAddr, turn: u64, stop: &AtomicBool, whole: &AtomicUsize) {
    let mut at = turn;
    while !stop.load(Ordering::Relaxed) {
        let Some(mut client) = Client::try_connect(address) else { return };
        loop {
            at += 1;
            let new = at.is_multiple_of(3);
            let (path, bytes) = if new {
                (format!("/new/{at}"), 10_000)
            } else {
                (format!("/{}", at % OBJECTS), bytes_of(at % OBJECTS))
            };
            client.send(request("GET", &path, &[]).as_bytes());
            match client.response_hash("GET") {
                Ok((head, n, hash)) if head.status == 200 => {
                    assert_eq!((n, hash), (bytes, content::hash(content::seed(&path), bytes)), "{path}");
                    whole.fetch_add(1, Ordering::Relaxed);
                }
                Ok((head, ..)) => panic!("{path}: status {}", head.status),
                Err(Fault::Malformed(what)) => panic!("{path}: {what}"),
                Err(_) => break,
            }
            if stop.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

#[test]
fn killed_under_load_then_restarted() {
    let _alone = alone();
    let (origin, mut edge) = filled();
    for at in 0..20_000 {
        origin.cacheable(&format!("/new/{at}"), 10_000);
    }
    let (stop, whole) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let address = edge.http();
    let loads: Vec<_> = (0..4)
        .map(|turn| {
            let (stop, whole) = (stop.clone(), whole.clone());
            std::thread::spawn(move || load(address, turn * 5000, &stop, &whole))
        })
        .collect();
    std::thread::sleep(Duration::from_millis(700));
    eventually("there is load", || whole.load(Ordering::Relaxed) > 20);
    edge.kill();
    stop.store(true, Ordering::Relaxed);
    for load in loads {
        load.join().expect("no wrong byte was called whole");
    }
    edge.run();
    check_hits(&edge);
    for i in 0..OBJECTS {
        assert_eq!(origin.count(&format!("/{i}")), 1, "/{i}: a hit asks nobody");
    }
    // What was being stored at the kill is either there whole or fetched again.
    let mut client = edge.client();
    let new: Vec<_> =
        (0..20_000).map(|at| format!("/new/{at}")).filter(|path| origin.count(path) > 0).collect();
    assert!(!new.is_empty());
    for path in new.iter().rev().take(50) {
        let response = client.get(path);
        assert_eq!(response.hash(), content::hash(content::seed(path), 10_000), "{path}");
    }
}

#[test]
fn killed_again_and_again() {
    let (origin, mut edge) = filled();
    for _ in 0..3 {
        edge.kill();
        edge.run();
        check_hits(&edge);
    }
    assert_eq!(origin.count_all() as u64, OBJECTS);
}

#[test]
fn stopped_in_order_then_served_without_origin() {
    let (origin, mut edge) = filled();
    let status = edge.stop();
    assert!(status.success(), "{status}\n{}", edge.log());
    origin.stop();
    edge.run();
    check_hits(&edge);
    assert_eq!(edge.get("/never-seen").status(), 502);
    edge.kill();
    edge.run();
    check_hits(&edge);
    assert_eq!(origin.count_all() as u64, OBJECTS);
}

/// A damaged record is fetched anew, never served.
#[test]
fn damaged_records_are_not_served() {
    let (origin, mut edge) = filled();
    edge.kill();
    let store = edge.config_path().with_file_name("store");
    let mut damaged = 0;
    for entry in walk(&store) {
        let mut data = std::fs::read(&entry).expect("a store file");
        // The first bytes of each object's body, wherever they lie.
        for i in [3, 5, 20] {
            let needle = content::part(content::seed(&format!("/{i}")), 16, 80);
            damaged += damage(&mut data, &needle);
        }
        std::fs::write(&entry, data).expect("a store file");
    }
    assert!(damaged >= 3, "the store holds the bodies as they are");
    edge.run();
    for i in 0..OBJECTS {
        let path = format!("/{i}");
        let response = edge.get(&path);
        assert_eq!(
            response.hash(),
            content::hash(content::seed(&path), bytes_of(i)),
            "{path} has other bytes"
        );
    }
    for i in 0..OBJECTS {
        let asked = origin.count(&format!("/{i}"));
        assert_eq!(asked, if [3, 5, 20].contains(&i) { 2 } else { 1 }, "/{i}");
    }
}

/// Changes a bit of each place that holds these bytes; how many there were. Most of a store is empty, which is passed over
/// by pages.
fn damage(data: &mut [u8], needle: &[u8]) -> usize {
    const PAGE: usize = 4096;
    let mut damaged = 0;
    for page in (0..data.len()).step_by(PAGE) {
        let end = data.len().min(page + PAGE);
        if data[page..end] == [0; PAGE][..end - page] {
            continue;
        }
        let places = page..end.min(data.len() + 1 - needle.len());
        for at in
            places.filter(|&at| data[at] == needle[0] && data[at..].starts_with(needle)).collect::<Vec<_>>()
        {
            data[at] ^= 0x40;
            damaged += 1;
        }
    }
    damaged
}

fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).expect("the store");
    entries.filter_map(|e| Some(e.ok()?.path())).filter(|path| path.is_file()).collect()
}
