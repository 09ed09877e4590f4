//! Network namespaces that belong to a thread and vanish with it, joined by a veth pair.

use std::process::Command;
use std::sync::mpsc;
use std::thread::JoinHandle;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Names of the two ends, each alone in its namespace.
pub const EDGE: &str = "edge0";
pub const CLIENT: &str = "client0";
/// Addresses of the two ends.
pub const EDGE_4: &str = "198.51.100.1";
pub const EDGE_6: &str = "2001:db8::1";

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own, which runs what it is sent.
pub struct Namespace {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    tid: i32,
}

impl Namespace {
    pub fn new() -> Namespace {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, started) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            // CLONE_NEWNS: /sys shows the interfaces of the namespace it was mounted in.
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
                .unwrap();
            mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>).unwrap();
            ready.send(nix::unistd::gettid().as_raw()).unwrap();
            queue.into_iter().for_each(|job| job());
        });
        let tid = started.recv().unwrap();
        Namespace { jobs: Some(jobs), thread: Some(thread), tid }
    }

    /// Runs `job` inside and returns its result; panics pass through.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, result) = mpsc::channel();
        let job = move || {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            let _ = sender.send(outcome);
        };
        self.jobs.as_ref().unwrap().send(Box::new(job)).unwrap();
        match result.recv().unwrap() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The namespaces of edge and client, joined.
pub fn pair() -> (Namespace, Namespace) {
    let (edge, client) = (Namespace::new(), Namespace::new());
    let tid = client.tid;
    edge.run(move || {
        shell(&format!("ip link add {EDGE} type veth peer name {CLIENT} netns {tid}"));
        shell("ip link set lo up");
        shell(&format!("ip addr add {EDGE_4}/24 dev {EDGE}"));
        shell(&format!("ip addr add {EDGE_6}/64 dev {EDGE} nodad"));
        shell(&format!("ip link set {EDGE} up"));
    });
    client.run(|| {
        shell(&format!("ip addr add 198.51.100.2/24 dev {CLIENT}"));
        shell(&format!("ip addr add 2001:db8::2/64 dev {CLIENT} nodad"));
        // A redirected frame loses the mark that its checksum was left to the hardware.
        shell(&format!("ethtool -K {CLIENT} tx off"));
        shell(&format!("ip link set {CLIENT} up"));
    });
    (edge, client)
}

/// Runs a command of words in the namespace of the calling thread and returns its output.
pub fn shell(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}
