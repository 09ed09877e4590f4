//! What the kernel says of the running binary: its threads and their memory; and holding one of its
//! threads still. Needs nothing of edge but its thread names.

use nix::sys::ptrace;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use std::sync::mpsc;
use std::thread::JoinHandle;

/// The threads of a process as (id, name).
pub fn threads(pid: Pid) -> Vec<(Pid, String)> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process is there");
    tasks
        .filter_map(|task| {
            let task = task.ok()?;
            let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
            let tid = task.file_name().to_str()?.parse().ok()?;
            Some((Pid::from_raw(tid), name.trim().to_string()))
        })
        .collect()
}

/// The threads whose name begins so.
pub fn threads_named(pid: Pid, name: &str) -> Vec<Pid> {
    threads(pid).into_iter().filter(|(_, n)| n.starts_with(name)).map(|(tid, _)| tid).collect()
}

/// Anonymous memory in use, in bytes: what the process costs beside its mapped files.
pub fn anonymous_bytes(pid: Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("RssAnon");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    kib * 1024
}

/// The state letter of a thread; `t` is held by a tracer.
pub fn state(pid: Pid, tid: Pid) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).expect("the thread is there");
    let (_, rest) = stat.rsplit_once(')').expect("a stat line");
    rest.trim().chars().next().expect("a state")
}

/// A thread held still until this is dropped. The tracer is a thread of its own, for only the thread
/// that attached may let go.
pub struct Held {
    release: Option<mpsc::Sender<()>>,
    tracer: Option<JoinHandle<()>>,
}

impl Held {
    /// Stops one thread; the others of its process go on.
    pub fn stop(tid: Pid) -> Self {
        let (stopped, is_stopped) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let tracer = std::thread::spawn(move || {
            ptrace::seize(tid, ptrace::Options::empty()).expect("seized");
            ptrace::interrupt(tid).expect("interrupted");
            waitpid(tid, Some(nix::sys::wait::WaitPidFlag::__WALL)).expect("stopped");
            stopped.send(()).expect("the test waits");
            let _ = released.recv();
            let _ = ptrace::detach(tid, None);
        });
        is_stopped.recv().expect("the thread is held");
        Held { release: Some(release), tracer: Some(tracer) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.release.take());
        if let Some(tracer) = self.tracer.take() {
            let _ = tracer.join();
        }
    }
}

/// Whether tests that trace or change limits can run; says so loudly when not.
pub fn is_root(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED {test}: needs root; run the tests as root");
    }
    root
}

/// Whether a program is installed; says so loudly when not.
pub fn has_program(test: &str, program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|directory| directory.join(program).is_file());
    if !found {
        eprintln!("SKIPPED part of {test}: needs {program}; install it");
    }
    found
}
