//! What a shard may lie on: huge pages, tmpfs and a disk, each also held in memory. Mounts are made in a namespace of
//! their own, and disappear with its last thread.

use super::faults::{Mount, run};
use super::*;
use crate::shard::{Hold, Placed};
use nix::sched::{CloneFlags, unshare};
use std::path::PathBuf;

const HUGE: u64 = 2 << 20;
/// Segments of the shards here: two huge pages.
const SEGMENTS: usize = 2 * HUGE as usize / SEGMENT;

/// Runs a test in a mount namespace of its own.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNS).expect("tests run as root");
        run("mount", &["--make-rprivate", "/"]);
        test();
    });
    thread.join().expect("the test passes");
}

/// Huge pages reserved for a test, given back when it is over.
struct Reserved(u64);

const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

fn change_pool(by: i64) -> std::io::Result<()> {
    // One after the other, also with tests of another process.
    let pool = std::fs::File::open(POOL)?;
    pool.lock()?;
    let now: i64 = std::fs::read_to_string(POOL)?.trim().parse().map_err(std::io::Error::other)?;
    std::fs::write(POOL, (now + by).to_string())
}

impl Reserved {
    /// `None`: this machine has none to give; says so loudly.
    fn new(test: &str, pages: u64) -> Option<Self> {
        let reserved = change_pool(pages as i64).map(|()| Reserved(pages));
        let free = crate::shard::medium::free_huge_pages(HUGE).unwrap_or(0);
        if reserved.is_err() || free < pages {
            eprintln!("SKIPPED {test}: {pages} huge pages of 2 MiB cannot be reserved");
            return None;
        }
        reserved.ok()
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Err(error) = change_pool(-(self.0 as i64)) {
            eprintln!("{} huge pages could not be given back: {error}", self.0);
        }
    }
}

/// A shard on hugetlbfs whose written files are in `state`.
fn huge(scratch: &Scratch, mount: &Mount) -> Options {
    let state = Some(scratch.path().join("state"));
    Options { path: mount.0.join("edge"), state, ..options(scratch, SEGMENTS) }
}

fn mount(scratch: &Scratch, options: &str) -> Mount {
    Mount::new(scratch.path().join("huge"), &["-t", "hugetlbfs", "-o", options, "none"])
}

fn fill(writer: &mut Writer) {
    (0..100).for_each(|number| Object::small(number, 1).put(writer).unwrap());
    Object { body_bytes: 40_000, chunk_bytes: 6_000, ..Object::small(100, 1) }.put(writer).unwrap();
}

fn check(reader: &Reader) {
    for number in 0..=100 {
        assert!(served(reader, number, 0).is_some(), "{number}");
    }
}

fn placed(writer: &Writer) -> &Placed {
    &writer.placed
}

#[test]
fn a_shard_lies_in_huge_pages_and_what_is_written_beside() {
    in_namespace(|| {
        let scratch = Scratch::new("media-huge");
        let Some(_reserved) = Reserved::new("a_shard_lies_in_huge_pages", 2) else { return };
        let disk = mount(&scratch, "pagesize=2M");
        // Not a multiple of a huge page: the rest is left.
        let options = Options { size_bytes: 2 * HUGE + 3 * SEGMENT as u64, ..huge(&scratch, &disk) };
        let state = options.state.clone().unwrap();
        let (mut writer, readers, _) = open(&options);
        assert_eq!(placed(&writer).pages, "huge pages of 2 MiB");
        let usage = writer.usage();
        assert_eq!((usage.size_bytes, usage.residency_bytes), (2 * HUGE, 0), "they never leave memory");
        fill(&mut writer);
        check(&readers[0]);
        // More than fits: segments are emptied and written again there as anywhere.
        let large = |number| Object { body_bytes: 20_000, ..Object::small(number, 1) };
        (200..500).for_each(|number| large(number).put(&mut writer).unwrap());
        assert!(writer.usage().reclaimed_segments > 0);
        fill(&mut writer);
        drop((writer, readers));
        let (mut writer, readers, opened) = open(&options);
        assert!(!opened.clean && opened.dropped == 0);
        check(&readers[0]);
        let (path, bytes) = writer.checkpoint();
        assert_eq!(path.parent(), Some(&*state));
        std::fs::write(path, bytes).unwrap();
        drop((writer, readers));
        let (_writer, readers, opened) = open(&Options { hold: Hold::Lock, ..options.clone() });
        assert!(opened.clean);
        check(&readers[0]);
        assert_eq!(placed(&_writer).held, "locked");
        // Another process is kept from both directories.
        let other = Options { path: state, state: None, ..options };
        assert!(refusal(&other).contains("another process uses it"));
    });
}

#[test]
fn without_enough_huge_pages_there_are_ordinary_ones_and_nothing_old_comes_back() {
    in_namespace(|| {
        let scratch = Scratch::new("media-fallback");
        let Some(_reserved) = Reserved::new("without_enough_huge_pages", 3) else { return };
        // The mount gives one page of the two that are wanted.
        let disk = mount(&scratch, "pagesize=2M,size=2M");
        let options = huge(&scratch, &disk);
        let state = options.state.clone().unwrap();
        let (mut writer, readers, _) = open(&options);
        let pages = placed(&writer).pages.clone();
        assert!(pages.starts_with("disk; 2 huge pages of 2 MiB are wanted, "), "{pages}");
        assert!(pages.contains("vm.nr_hugepages"), "{pages}");
        assert!(state.join("shard-0").exists() && !options.path.join("shard-0").exists());
        fill(&mut writer);
        drop((writer, readers));
        let (writer, readers, opened) = open(&options);
        assert_eq!(opened.objects, 101, "it is kept like any other");
        check(&readers[0]);
        drop((writer, readers));
        // Once there are enough the shard moves there, empty: what the other one holds may be purged from now on.
        drop(disk);
        let _disk = mount(&scratch, "pagesize=2M,size=4M");
        let (writer, readers, opened) = open(&options);
        assert_eq!((placed(&writer).pages.as_str(), opened.objects), ("huge pages of 2 MiB", 0));
        assert!(!state.join("shard-0").exists());
        drop((writer, readers));
        // Less than a page, or more than there are now: the same the other way round.
        let small = Options { size_bytes: HUGE - SEGMENT as u64, ..options.clone() };
        let (writer, _, _) = open(&small);
        assert!(
            placed(&writer).pages.contains("is too small for huge pages of 2 MiB"),
            "{:?}",
            placed(&writer)
        );
        assert!(!options.path.join("shard-0").exists(), "its pages are free again");
    });
}

#[test]
fn written_files_are_not_to_lie_on_hugetlbfs() {
    in_namespace(|| {
        let scratch = Scratch::new("media-state");
        let disk = mount(&scratch, "pagesize=2M");
        let text = refusal(&Options { state: Some(disk.0.join("state")), ..options(&scratch, 8) });
        assert!(text.contains("cannot be written") && text.contains("set [store] state"), "{text}");
    });
}

/// Kilobytes of the mappings of a file that are locked, and in memory, by the kernel's own account.
fn accounted(path: &std::path::Path) -> (u64, u64) {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut is_ours, mut locked, mut present) = (false, 0, 0);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        let kib = || line.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        match first {
            "Locked:" if is_ours => locked += kib(),
            "Rss:" if is_ours => present += kib(),
            _ if !first.ends_with(':') => is_ours = line.ends_with(path.to_str().unwrap()),
            _ => {}
        }
    }
    (locked, present)
}

fn held(path: PathBuf, hold: Hold) -> Options {
    Options { path, hold, size_bytes: 16 << 20, readers: 1, ..Options::default() }
}

#[test]
fn a_shard_on_tmpfs_or_a_disk_is_brought_in_and_kept_as_asked() {
    in_namespace(|| {
        let scratch = Scratch::new("media-held");
        let tmpfs = Mount::new(scratch.path().join("tmpfs"), &["-t", "tmpfs", "none"]);
        for place in [tmpfs.0.join("edge"), scratch.path().join("disk")] {
            let file = place.join("shard-0");
            let (mut writer, readers, _) = open(&held(place.clone(), Hold::AsUsed));
            assert_eq!(accounted(&file).0, 0);
            fill(&mut writer);
            drop((writer, readers));
            let (writer, readers, _) = open(&held(place.clone(), Hold::Prefault));
            let (locked, present) = accounted(&file);
            assert_eq!((placed(&writer).held.as_str(), locked), ("prefaulted", 0));
            assert!(present >= 2 * (16 << 10), "both mappings: {present} KiB");
            check(&readers[0]);
            drop((writer, readers));
            let (writer, readers, _) = open(&held(place.clone(), Hold::Lock));
            let (locked, _) = accounted(&file);
            assert_eq!(placed(&writer).held, "locked");
            // Of a page that is mapped twice each mapping counts half.
            assert!(locked >= 8 << 10, "{locked} KiB");
            assert_eq!(writer.usage().residency_bytes, 0, "nothing to watch");
            let found = readers[0].try_lookup(hash(1), &key(1), |_| true).expect("nothing to wait for");
            assert!(found.is_some());
        }
    });
}

#[test]
fn what_may_not_be_locked_is_served_all_the_same_and_the_remedy_is_named() {
    in_namespace(|| {
        let scratch = Scratch::new("media-limit");
        // For this thread alone. The limit that is left, of the whole process, is 8 MiB on common machines.
        crate::sys::privilege::drop_all().unwrap();
        let (limit, _) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_MEMLOCK).unwrap();
        if limit > 16 << 20 {
            eprintln!("SKIPPED what_may_not_be_locked: {limit} bytes may be locked by anybody here");
            return;
        }
        let (mut writer, readers, _) = open(&held(scratch.path().into(), Hold::Lock));
        let held = placed(&writer).held.clone();
        assert!(
            held.starts_with("prefaulted, not locked: ") && held.contains("LimitMEMLOCK=infinity"),
            "{held}"
        );
        assert!(writer.usage().residency_bytes > 0, "its pages are watched");
        fill(&mut writer);
        check(&readers[0]);
    });
}
