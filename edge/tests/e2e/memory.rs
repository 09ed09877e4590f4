//! A store larger than the memory it may use: hits whose pages have left memory are whole, are counted as from the
//! disk, and are not waited for by a worker. The limit is that of a control group; without one the test says so.

use crate::support::{Edge, Origin, Setup, alone, content, edge::directory, process};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

const MEMORY_BYTES: u64 = 80 << 20;
const OBJECTS: u64 = 1400;
const OBJECT_BYTES: u64 = 100_000;
const LARGE: u64 = 3;
const LARGE_BYTES: u64 = (7 << 20) + 12_345;

/// A control group with a limit on memory, removed when its processes are gone.
struct Group(PathBuf);

impl Group {
    /// `None`: this machine has no memory controller that can be used here; says so loudly.
    fn limited(test: &str, bytes: u64) -> Option<Group> {
        let name = format!("edge-memory-{}-{}", std::process::id(), test);
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        for line in mounts.lines() {
            let mut words = line.split(' ').skip(1);
            let (Some(at), Some(kind), Some(options)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            let limit = match kind {
                "cgroup" if options.split(',').any(|option| option == "memory") => "memory.limit_in_bytes",
                "cgroup2" => "memory.max",
                _ => continue,
            };
            let group = Group(Path::new(at).join(&name));
            if std::fs::create_dir(&group.0).is_ok()
                && std::fs::write(group.0.join(limit), bytes.to_string()).is_ok()
            {
                return Some(group);
            }
        }
        eprintln!("SKIPPED {test}: no memory control group could be made; run as root where one is mounted");
        None
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Empty only some moments after its last process was waited for.
        for _ in 0..100 {
            if !self.0.exists() || std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        eprintln!("{} could not be removed", self.0.display());
    }
}

/// Major faults of the workers so far, by the kernel's own count.
fn major_faults(pid: Pid) -> u64 {
    let faults = |tid: Pid| {
        let stat =
            std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).expect("the thread is there");
        let (_, rest) = stat.rsplit_once(") ").expect("a stat line");
        rest.split(' ').nth(9).and_then(|field| field.parse::<u64>().ok()).expect("a number")
    };
    process::threads_named(pid, "edge-worker-").into_iter().map(faults).sum()
}

fn path(number: u64) -> String {
    format!("/memory/{number}")
}

/// Asks for every object once, in an order that no read-ahead can guess, and checks every byte.
fn read_all(edge: &Edge, step: u64) {
    let mut client = edge.client();
    for i in 0..OBJECTS {
        let path = path((i * step) % OBJECTS);
        let response = client.get(&path);
        assert!(response.head.is_hit(), "{path}: {:?}", response.head);
        assert!(
            response.body == content::part(content::seed(&path), 0, OBJECT_BYTES),
            "{path} has other bytes"
        );
    }
    for i in 0..LARGE {
        let path = format!("/large/{i}");
        let response = client.get(&path);
        assert!(response.head.is_hit(), "{path}: {:?}", response.head);
        assert_eq!(
            response.hash(),
            content::hash(content::seed(&path), LARGE_BYTES),
            "{path} has other bytes"
        );
    }
}

#[test]
fn hits_that_have_left_memory_are_whole_and_no_worker_waits_for_the_disk() {
    let test = "hits_that_have_left_memory";
    let Some(group) = Group::limited(test, MEMORY_BYTES) else { return };
    let _alone = alone();
    let origin = Origin::start();
    (0..OBJECTS).for_each(|i| origin.cacheable(&path(i), OBJECT_BYTES));
    (0..LARGE).for_each(|i| origin.cacheable(&format!("/large/{i}"), LARGE_BYTES));
    let setup = Setup {
        store_size: "256MiB".into(),
        limit_lines: "connections_max = 64".into(),
        listen_lines: "http2_cleartext = true".into(),
        cgroup: Some(group.0.clone()),
        ..Default::default()
    };
    let edge = Edge::start_with(origin.address(), setup);
    let mut client = edge.client();
    (0..OBJECTS).for_each(|i| drop(client.get(&path(i))));
    (0..LARGE).for_each(|i| drop(client.get(&format!("/large/{i}"))));
    (0..LARGE).for_each(|i| drop(edge.get_hit(&format!("/large/{i}"))));
    edge.get_hit(&path(OBJECTS - 1));
    let asked = origin.count_all();

    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut client, hot) = (edge.client(), path(7));
            let wanted = content::part(content::seed(&hot), 0, OBJECT_BYTES);
            while !stop.load(Ordering::Relaxed) {
                let response = client.get(&hot);
                assert!(response.head.is_hit() && response.body == wanted, "{:?}", response.head);
            }
        });
        scope.spawn(|| read_all(&edge, 601));
        read_all(&edge, 911);
        read_all(&edge, 1);
        stop.store(true, Ordering::Relaxed);
    });

    assert_eq!(origin.count_all(), asked, "all were hits");
    let metrics = edge.metrics();
    let metric = |name: &str| metrics.get(name).copied().unwrap_or_else(|| panic!("no metric {name}"));
    let (hits, from_disk) = (metric("edge_hits_total"), metric("edge_hits_from_disk_total"));
    let faults = major_faults(edge.pid());
    println!(
        "{hits} hits, {from_disk} from the disk, {} looked after, {} populates of {} MiB, {faults} major faults of workers",
        metric("edge_hits_looked_after_total"),
        metric("edge_populates_total"),
        metric("edge_populated_bytes_total") as u64 >> 20,
    );
    // Less than half of the objects fit the memory, and three times every one was asked for.
    assert!(from_disk >= OBJECTS as f64 && from_disk < hits, "{from_disk} of {hits}");
    // One for a record, however long; a chunk of a large object has one of its own; some leave memory again meanwhile.
    let (waited, chunks) = (from_disk + metric("edge_hits_looked_after_total"), (3 * LARGE * 8) as f64);
    let populates = metric("edge_populates_total");
    assert!(populates <= 1.1 * (waited + chunks), "{populates} for {waited}");
    assert_eq!(metric("edge_populate_errors_total"), 0.0);
    assert_eq!(metric("edge_populate_timeouts_total"), 0.0);
    assert_eq!(metric("edge_populates_running"), 0.0);
    assert_eq!(metric("edge_worker_major_faults_total"), faults as f64, "the counter is the kernel's");
    assert!(faults as f64 * 1000.0 <= from_disk, "{faults} turns waited for the disk");
    let status = String::from_utf8(edge.admin_get("/status").body).expect("UTF-8");
    assert!(status.contains("\"hits_from_disk_share\": 0."), "{status}");

    // The same over HTTP/2, which h2load counts; a client of its own for each of some objects compares.
    let url = |i: u64| format!("http://{}{}", edge.http(), path(i));
    let directory = directory();
    let urls = directory.join("urls");
    std::fs::write(&urls, (0..OBJECTS).map(|i| url(i) + "\n").collect::<String>()).expect("a list");
    let (number, list) = (OBJECTS.to_string(), urls.display().to_string());
    let load = ["-n", &number, "-c", "1", "-m", "8", "-T", "60", "-H", ":authority: edge.test", "-i", &list];
    let output = Command::new("h2load").args(load).output().expect("h2load");
    std::fs::remove_dir_all(directory).expect("removed");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains(&format!("{OBJECTS} succeeded, 0 failed, 0 errored, 0 timeout")), "{text}");
    assert!(text.contains(&format!("({}) data", OBJECTS * OBJECT_BYTES)), "{text}");
    let more = edge.metric("edge_hits_total") - hits;
    let more_from_disk = edge.metric("edge_hits_from_disk_total") - from_disk;
    assert_eq!((more, origin.count_all()), (OBJECTS as f64, asked));
    assert!(more_from_disk >= OBJECTS as f64 / 4.0, "{more_from_disk} of {more}");
    for i in (0..OBJECTS).step_by(50) {
        let arguments =
            ["-sS", "--max-time", "60", "--http2-prior-knowledge", "-H", "Host: edge.test", &url(i)];
        let output = Command::new("curl").args(arguments).output().expect("curl");
        let wanted = content::part(content::seed(&path(i)), 0, OBJECT_BYTES);
        assert!(output.status.success() && output.stdout == wanted, "{} over HTTP/2", path(i));
    }
}
