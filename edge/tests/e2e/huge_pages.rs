//! A node whose store lies on hugetlbfs, in a mount namespace of its own: it serves, purges, and comes back as from a disk.

use crate::support::{Edge, HOST, Origin, Setup, alone, content};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::path::Path;

/// Pages of 2 MiB for a store of 32 MiB.
const PAGES: i64 = 16;
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";
const OBJECTS: u64 = 20;

/// Huge pages added to the machine's, taken away again at the end.
struct Reserved;

impl Reserved {
    fn change(by: i64) -> std::io::Result<i64> {
        let pool = format!("{POOL}/nr_hugepages");
        // One after the other, also with tests of another process.
        let locked = std::fs::File::open(&pool)?;
        locked.lock()?;
        let now: i64 = std::fs::read_to_string(&pool)?.trim().parse().map_err(std::io::Error::other)?;
        std::fs::write(&pool, (now + by).to_string())?;
        std::fs::read_to_string(&pool)?.trim().parse().map_err(std::io::Error::other)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Err(error) = Reserved::change(-PAGES) {
            eprintln!("{PAGES} huge pages could not be given back: {error}");
        }
    }
}

fn bytes_of(number: u64) -> u64 {
    if number.is_multiple_of(5) { (2 << 20) + number } else { 700 + number * 321 }
}

fn check_hits(edge: &Edge, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let path = format!("/{number}");
        let response = edge.get(&path);
        assert!(response.head.is_hit(), "{path}: {:?}", response.head);
        assert_eq!(response.hash(), content::hash(content::seed(&path), bytes_of(number)), "{path}");
    }
}

fn serve_from(mounted: &Path) {
    let origin = Origin::start();
    (0..OBJECTS).for_each(|number| origin.cacheable(&format!("/{number}"), bytes_of(number)));
    let state = mounted.with_extension("state");
    let setup = Setup {
        store_path: Some(mounted.join("edge")),
        store_size: "32MiB".into(),
        store_lines: format!("state = \"{}\"\nprefault = true", state.display()),
        ..Setup::default()
    };
    let mut edge = Edge::start_with(origin.address(), setup);
    let status = String::from_utf8(edge.admin_get("/status").body).unwrap();
    assert!(status.contains("\"huge pages of 2 MiB\"") && status.contains("\"prefaulted\""), "{status}");
    assert!(edge.log().contains("prefault 100 % of 0.03 GiB"), "{}", edge.log());
    for number in 0..OBJECTS {
        edge.get(&format!("/{number}"));
        edge.get_hit(&format!("/{number}"));
    }
    check_hits(&edge, 0..OBJECTS);
    assert_eq!(edge.purge(&format!(r#"{{"url": "http://{HOST}/0"}}"#)).status(), 200);
    edge.kill();
    edge.run();
    check_hits(&edge, 1..OBJECTS);
    assert!(!edge.get("/0").head.is_hit(), "purged before the kill");
    edge.get_hit("/0");
    assert!(edge.stop().success());
    assert!(state.join("checkpoint").exists() && state.join("purges").exists());
    edge.run();
    assert!(edge.log().contains("opened from its checkpoint"), "{}", edge.log());
    check_hits(&edge, 0..OBJECTS);
    assert_eq!(edge.metric("edge_worker_major_faults_total"), 0.0);
    assert!(edge.stop().success());
    let _ = std::fs::remove_dir_all(&state);
}

#[test]
fn a_store_in_huge_pages_serves_and_comes_back_after_a_kill() {
    let _alone = alone();
    let grown = Reserved::change(PAGES).map(|_| Reserved);
    let free = || std::fs::read_to_string(format!("{POOL}/free_hugepages")).ok()?.trim().parse::<i64>().ok();
    if grown.is_err() || free().is_none_or(|free| free < PAGES) {
        eprintln!("SKIPPED a_store_in_huge_pages: {PAGES} huge pages of 2 MiB cannot be reserved");
        return;
    }
    let mounted = std::env::temp_dir().join(format!("edge-huge-{}", std::process::id()));
    std::fs::create_dir_all(&mounted).unwrap();
    let at = mounted.clone();
    // What is mounted here goes with the thread and the processes it starts.
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).expect("tests run as root");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("none"), &at, Some("hugetlbfs"), MsFlags::empty(), Some("pagesize=2M")).unwrap();
        serve_from(&at);
    });
    let ended = thread.join();
    let _ = std::fs::remove_dir(&mounted);
    ended.expect("the test passes");
}
