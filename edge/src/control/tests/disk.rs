//! Flushes and checkpoints: nothing is taken for being on the disk that is not.

use super::*;
use crate::control::{self, disk, metrics, purge};
use crate::proto::generations::Verdict;
use crate::proto::purge::Tags;
use crate::shard::{Body, Label};
use bytes::Bytes;
use nix::sys::resource::{Resource, setrlimit};
use std::future::Future;
use std::pin::pin;
use std::process::Command;
use std::rc::Rc;
use std::task::Poll;

/// Runs this with the state of a control thread, on this thread.
fn with_node<F: Future<Output = ()>>(config: &Config, act: impl FnOnce(Rc<control::Node>) -> F) {
    let (start, workers) = prepare(1, config);
    tokio_uring::start(async {
        let node = control::Node::begin(start, metrics::latency()).unwrap();
        act(node).await;
    });
    drop(workers);
}

fn put(node: &control::Node, key: &[u8]) {
    let label = Label::new(hash(key), key, &[0; 8], b"head");
    node.writer.borrow_mut().put(&label, Body::Whole(&[Bytes::from(vec![7; 10_000])]), |_| true).unwrap();
}

fn small(directory: &Path) -> Config {
    let mut config = config(directory, &["http://127.0.0.1:1".into()]);
    config.store[0].size_bytes = limits::STORE_BYTES_MIN;
    config
}

#[test]
fn who_finds_nothing_to_flush_waits_for_the_flush_that_runs() {
    let directory = Scratch::new();
    with_node(&small(directory.path()), |node| async move {
        put(&node, b"k");
        let (mut first, mut second) = (pin!(disk::flush(&node)), pin!(disk::flush(&node)));
        let both = std::future::poll_fn(|context| {
            let first = first.as_mut().poll(context).is_ready();
            Poll::Ready((first, second.as_mut().poll(context).is_ready()))
        });
        // A checkpoint that was written now would promise what is not on the disk.
        assert_eq!(both.await, (false, false));
        first.await;
        second.await;
    });
}

/// A disk that takes no more: one over a file on a file system that is full.
struct Full(PathBuf);

impl Full {
    fn run(program: &str, arguments: &[&str]) {
        let output = Command::new(program).args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {said}");
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// There is room still.
    fn new(directory: &Path) -> Self {
        let disk = Full(directory.into());
        ["below", "disk"].iter().for_each(|name| std::fs::create_dir(disk.path(name)).unwrap());
        Self::run("mount", &["-t", "tmpfs", "-o", "size=24m", "none", &disk.path("below")]);
        let image = disk.path("below/image");
        std::fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        Self::run("mkfs.ext4", &["-q", "-F", "-O", "^has_journal", &image]);
        Self::run("mount", &["-t", "ext4", "-o", "loop", &image, &disk.path("disk")]);
        disk
    }

    /// From now on there is none.
    fn fill(&self) {
        use std::io::Write;
        let mut file = std::fs::File::create(self.path("below/filler")).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        for name in ["disk", "below"] {
            let _ = Command::new("umount").args(["--lazy", &self.path(name)]).status();
        }
    }
}

#[test]
fn a_failure_to_write_costs_the_shard_whoever_was_told_of_it_first() {
    for told_first in ["nobody", "another process", "who shortens the log of purges", "who stops the node"] {
        let directory = Scratch::new();
        let full = Full::new(directory.path());
        with_node(&small(&directory.path().join("disk")), |node| async move {
            disk::flush(&node).await;
            full.fill();
            (0..500).for_each(|number: u32| put(&node, &number.to_le_bytes()));
            match told_first {
                "nobody" => {}
                "who stops the node" => assert!(disk::close(&node).await.is_err()),
                "another process" => {
                    let file = std::fs::File::open(full.0.join("disk/shard-0")).unwrap();
                    let told = (0..1_000).position(|_| file.sync_data().is_ok());
                    assert!(told.is_some_and(|times| times > 0), "the disk is full; then all has been told");
                }
                _ => assert!(disk::settle(&node).await.is_err()),
            }
            disk::flush(&node).await;
            assert_eq!(node.cells.get(Counter::ShardsFailed), 1, "{told_first}");
            assert!(node.writer.borrow_mut().checkpoints().is_empty());
        });
    }
}

/// Takes all descriptors that this process may still have, and some more are not to be had either.
fn use_up_descriptors() -> Vec<std::fs::File> {
    let mut taken = vec![std::fs::File::open("/dev/null").unwrap()];
    setrlimit(Resource::RLIMIT_NOFILE, 256, 256).unwrap();
    while let Ok(one) = taken[0].try_clone() {
        taken.push(one);
    }
    taken
}

#[test]
fn a_flush_that_finds_no_descriptor_is_put_off_and_costs_no_shard() {
    const CHILD: &str = "EDGE_TEST_WITHOUT_DESCRIPTORS";
    if std::env::var_os(CHILD).is_none() {
        // The limit is the process's: this is done in one of its own.
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "control::tests::disk::a_flush_that_finds_no_descriptor_is_put_off_and_costs_no_shard",
            ])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        return assert!(output.status.success() && said.contains("1 passed"), "{said}");
    }
    let directory = Scratch::new();
    with_node(&small(directory.path()), |node| async move {
        disk::flush(&node).await;
        put(&node, b"k");
        let taken = use_up_descriptors();
        disk::flush(&node).await;
        assert!(disk::settle(&node).await.is_err(), "not all is on the disk");
        let checkpoint = node.writer.borrow_mut().checkpoints();
        let failed = node.cells.get(Counter::ShardsFailed);
        drop(taken);
        assert_eq!((failed, checkpoint.len()), (0, 0), "it would promise what is not on the disk");
        assert_eq!(node.writer.borrow().shards().filter(|shard| shard.state.is_ok()).count(), 1);
        let before = node.cells.get(Counter::Flushes);
        disk::flush(&node).await;
        assert_eq!(node.cells.get(Counter::Flushes), before + 1, "taken up again");
        assert_eq!(node.writer.borrow_mut().checkpoints().len(), 1);
    });
}

#[test]
fn a_file_of_several_pieces_is_written_whole() {
    let directory = Scratch::new();
    let path = directory.path().join("file");
    let bytes = pattern(2 * disk::WRITE_BYTES + 5, 3);
    let written = bytes.clone();
    tokio_uring::start(async { disk::replace(&path, written).await.unwrap() });
    assert!(std::fs::read(&path).unwrap() == bytes);
}

#[test]
fn without_its_log_nothing_is_served_and_purges_count_also_where_the_clock_was_set_back() {
    let directory = Scratch::new();
    let config = small(directory.path());
    let (mut writer, _readers, _) = shard::open(&shards(&config, 1)).unwrap();
    let (_, owner) = writer.states().remove(0);
    // When it was last started the clock was a year ahead, and so were the numbers of purges.
    let ahead = crate::clock::unix_ms() + 365 * 86_400_000;
    writer.set_log(owner.shard, ahead).unwrap();
    let label = Label::new(1, b"k", &[0; 8], b"head");
    writer.put(&label, Body::Whole(&[]), |_| true).unwrap();
    let opened = purge::open(&mut writer).unwrap();
    let asked_for = ahead + 1_000_000;
    assert_eq!(opened.table().judge(asked_for, b"http://a/x", Tags::UNKNOWN), Verdict::Gone);
    let before = writer.states().remove(0).1.log;
    assert!(before > ahead, "the next start knows");
    // And again, with a word on the disk that cannot be.
    for log in [before, u64::MAX] {
        writer.set_log(owner.shard, log).unwrap();
        std::fs::remove_file(directory.path().join(purge::FILE_NAME)).unwrap();
        purge::open(&mut writer).unwrap();
    }
}
