//! What a disk can do to a store while it runs, and how it goes on: each fault costs its shard and nothing else.

use super::set::{OBJECTS, objects, open, put, put_chunked, shards, version};
use super::*;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;

pub(super) fn cut(options: &Options, bytes: u64) {
    File::options().write(true).open(options.path.join("shard-0")).unwrap().set_len(bytes).unwrap();
}

#[test]
fn a_file_cut_short_costs_its_shard_which_comes_back_empty_without_a_restart() {
    let scratch = Scratch::new("fault-cut");
    let all = shards(&scratch, &[32, 32]);
    let (mut writer, mut readers, _) = open(&all);
    (0..OBJECTS).for_each(|number| put(&mut writer, number, 1).unwrap());
    (OBJECTS..OBJECTS + 9).for_each(|number| put_chunked(&mut writer, number, 1).unwrap());
    let before = objects(&writer);
    cut(&all[0], 0);
    // Whatever is read first, nobody gets a byte that was not stored.
    let left = (0..OBJECTS + 9).filter(|&number| version(&readers[0], number) == Some(1)).count() as u64;
    assert!(left > 0 && left < before.iter().sum());
    // Until it is noticed, what belongs there is not stored; what belongs elsewhere is.
    let refused =
        (0..OBJECTS).filter(|&number| put(&mut writer, number, 2) == Err(PutError::NoShard)).count();
    assert!(refused > OBJECTS as usize / 3 && refused < OBJECTS as usize * 2 / 3, "{refused}");
    assert_eq!((writer.watch(), writer.watch()), (1, 0));
    let states: Vec<_> = writer.shards().collect();
    assert!(states[0].to_string().starts_with("out of use: its file was cut short"), "{}", states[0]);
    assert!(states[1].state.is_ok());
    // From now on the other shard has all keys.
    for number in 0..OBJECTS {
        put(&mut writer, number, 3).unwrap();
        assert_eq!(version(&readers[0], number), Some(3));
    }
    // The one just stored: of the others some may have left the index, which is smaller than all keys together.
    let last = OBJECTS - 1;
    assert_eq!(writer.remove(hash(last), &key(last)), 1);

    reopen(&mut writer, &mut readers, 0);
    assert_eq!(writer.reopen(0).unwrap_err(), "shard 0 is in use");
    assert_eq!(writer.reopen(2).unwrap_err(), "the shards are 0 to 1");
    assert_eq!(version(&readers[1], last), None, "what was removed while it was away stays removed");
    let found = (0..OBJECTS).filter(|&number| version(&readers[1], number) == Some(3)).count();
    assert!(found > OBJECTS as usize / 3 && found < OBJECTS as usize * 2 / 3, "{found}");
    (0..OBJECTS).for_each(|number| put(&mut writer, number, 4).unwrap());
    assert!((0..OBJECTS).all(|number| version(&readers[1], number) == Some(4)));
    assert_eq!(objects(&writer).iter().sum::<u64>(), writer.usage().objects);
    assert!(objects(&writer)[0] > 0);
}

/// Takes a shard into use again, for all readers.
pub(super) fn reopen(
    writer: &mut crate::shard::set::Writer,
    readers: &mut [crate::shard::set::Reader],
    number: usize,
) {
    let shards = writer.reopen(number).unwrap();
    readers.iter_mut().zip(shards).for_each(|(reader, shard)| reader.take(shard));
}

#[test]
fn a_shard_that_was_made_anew_gives_no_number_of_an_object_again() {
    let scratch = Scratch::new("fault-numbers");
    let all = shards(&scratch, &[16]);
    let (mut writer, mut readers, _) = open(&all);
    // A fill that goes on, whatever becomes of its shard.
    let before = writer.new_object(hash(1));
    cut(&all[0], 0);
    assert!(writer.fail(0, "its file was cut short".into()));
    reopen(&mut writer, &mut readers, 0);
    let after: Vec<u64> = (0..10).map(|number| writer.new_object(hash(number))).collect();
    assert!(!after.contains(&before), "{before:x} in {after:x?}");
    writer.put_chunk(after[0], 7, &[Bytes::from_static(b"new")]).unwrap();
    assert!(readers[0].chunk(before, 7).is_none());
}

#[test]
fn a_file_of_another_version_is_not_removed_when_its_shard_is_taken_in_again() {
    let scratch = Scratch::new("fault-version");
    let all = shards(&scratch, &[16, 16]);
    let (mut writer, _readers, _) = open(&all);
    assert!(writer.fail(0, "its disk was changed".into()));
    let path = all[0].path.join("shard-0");
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(&(layout::VERSION + 1).to_ne_bytes(), 8).unwrap();
    let before = std::fs::metadata(&path).unwrap();
    let error = writer.reopen(0).unwrap_err();
    assert!(error.contains("format version") && error.contains("run the edge that made it"), "{error}");
    let after = std::fs::metadata(&path).unwrap();
    assert_eq!((after.ino(), after.len()), (before.ino(), before.len()), "left alone");
    assert!(writer.shards().next().unwrap().state.is_err());
}

/// Brings all to the disk, as control does.
fn flush(writer: &mut crate::shard::set::Writer) {
    for shard in writer.dirty() {
        shard.file.sync_data().unwrap();
        writer.flushed(shard.number);
    }
}

#[test]
fn a_shard_that_failed_comes_back_with_what_it_holds_but_for_what_has_changed_since() {
    let scratch = Scratch::new("fault-whole");
    // An index as large as objects of this size want it: what is lost by chance depends on its room.
    let roomy = |options| Options { object_bytes: 256, ..options };
    let all: Vec<_> = shards(&scratch, &[32, 32]).into_iter().map(roomy).collect();
    let (mut writer, mut readers, _) = open(&all);
    (0..OBJECTS).for_each(|number| put(&mut writer, number, 1).unwrap());
    (OBJECTS..OBJECTS + 9).for_each(|number| put_chunked(&mut writer, number, 1).unwrap());
    flush(&mut writer);
    assert!(writer.fail(0, "could not be read".into()));
    let own: Vec<u32> = (0..OBJECTS + 9).filter(|&number| version(&readers[0], number).is_none()).collect();
    assert!(own.len() > OBJECTS as usize / 3);
    // Of what it held a part is removed while it is away, and a part is stored elsewhere.
    for &number in &own {
        match number % 8 {
            0 => drop(writer.remove(hash(number), &key(number))),
            1 => put(&mut writer, number, 2).unwrap(),
            _ => {}
        }
    }
    let begun = writer.begin_reopening(0).unwrap();
    assert!(writer.begin_reopening(0).err().unwrap().contains("being opened already"));
    assert!(writer.shards().next().unwrap().to_string().contains("being scanned"));
    let reopened = std::thread::spawn(move || begun.run()).join().unwrap();
    // And a part while its file was scanned.
    for &number in own.iter().filter(|&number| number % 8 == 2) {
        writer.remove(hash(number), &key(number));
    }
    for (reader, shard) in readers.iter_mut().zip(writer.end_reopening(reopened).unwrap()) {
        reader.take(shard);
    }
    let (mut kept, mut lost) = (0, 0);
    for &number in &own {
        match (number % 8 < 3, version(&readers[0], number)) {
            (false, Some(1)) => kept += 1,
            (false, None) => lost += 1,
            (true, None) => {}
            (_, found) => panic!("{number}: {found:?}"),
        }
    }
    assert!(kept > 8 * lost && kept > OBJECTS / 6, "{kept} are there again, {lost} are lost");
    (0..OBJECTS).for_each(|number| put(&mut writer, number, 3).unwrap());
    assert!((0..OBJECTS).all(|number| version(&readers[1], number) == Some(3)));
    // A second time, and over a restart.
    flush(&mut writer);
    assert!(writer.fail(0, "again".into()));
    reopen(&mut writer, &mut readers, 0);
    let before: Vec<_> = (0..OBJECTS).map(|number| version(&readers[0], number)).collect();
    assert!(before.iter().all(|found| *found == Some(3)), "nothing had changed");
    drop((writer, readers));
    let (_writer, readers, opened) = open(&all);
    assert!(opened.objects > OBJECTS.into());
    assert!((0..OBJECTS).all(|number| version(&readers[0], number) == Some(3)));
}

#[test]
fn what_changed_after_the_last_flush_does_not_come_back_although_the_disk_never_heard_of_it() {
    let scratch = Scratch::new("fault-unflushed");
    let all = shards(&scratch, &[16]);
    let (mut writer, mut readers, _) = open(&all);
    (0..50).for_each(|number| put(&mut writer, number, 1).unwrap());
    flush(&mut writer);
    let path = all[0].path.join("shard-0");
    let on_disk = std::fs::read(&path).unwrap();
    assert_eq!(writer.remove(hash(3), &key(3)), 1);
    put(&mut writer, 4, 2).unwrap();
    // The flush that was begun fails, and the kernel forgets what it could not write: the disk has what it had.
    assert_eq!(writer.dirty().len(), 1);
    assert!(writer.fail(0, "could not be flushed".into()));
    std::fs::write(&path, on_disk).unwrap();
    reopen(&mut writer, &mut readers, 0);
    assert_eq!((version(&readers[0], 3), version(&readers[0], 4)), (None, None));
    let kept = (5..50).filter(|&number| version(&readers[0], number) == Some(1)).count();
    assert!(kept >= 43, "{kept} of 45");
}

#[test]
fn who_still_holds_what_has_failed_reads_nothing_of_what_is_written_next() {
    let scratch = Scratch::new("fault-held");
    let all = shards(&scratch, &[16]);
    let (mut writer, mut readers, _) = open(&all);
    (0..50).for_each(|number| put(&mut writer, number, 1).unwrap());
    flush(&mut writer);
    let held = readers[1].lookup(hash(7), &key(7), |_| true).unwrap();
    let faults = crate::sys::fault::count();
    assert!(writer.fail(0, "could not be flushed".into()));
    assert!(crate::sys::fault::count() > faults, "who has read asks for this");
    reopen(&mut writer, &mut readers, 0);
    let kept = (0..50).filter(|&number| version(&readers[0], number) == Some(1)).count();
    assert!(kept >= 48, "{kept} of 50");
    assert!(held.body().iter().all(|&byte| byte == 0));
    (50..3_000).for_each(|number| put(&mut writer, number, 2).unwrap());
    assert!(held.body().iter().all(|&byte| byte == 0));
    drop(held);
}

#[test]
fn with_more_changes_than_are_remembered_a_shard_comes_back_empty() {
    let scratch = Scratch::new("fault-many");
    let all = shards(&scratch, &[16]);
    let (mut writer, mut readers, _) = open(&all);
    (0..50).for_each(|number| put(&mut writer, number, 1).unwrap());
    for number in 0..=crate::limits::CHANGES_REMEMBERED as u64 {
        writer.remove(number, b"anything");
    }
    assert!(writer.fail(0, "could not be flushed".into()));
    reopen(&mut writer, &mut readers, 0);
    assert!((0..50).all(|number| version(&readers[0], number).is_none()), "nobody knows what is gone");
    put(&mut writer, 1, 2).unwrap();
    assert_eq!(version(&readers[0], 1), Some(2));
}

#[test]
fn a_shard_that_was_away_comes_back_empty_at_a_restart() {
    let scratch = Scratch::new("fault-away");
    let all = shards(&scratch, &[32, 32]);
    let (mut writer, readers, _) = open(&all);
    (0..OBJECTS).for_each(|number| put(&mut writer, number, 1).unwrap());
    assert!(writer.fail(1, "could not be flushed".into()) && !writer.fail(1, "again".into()));
    (0..OBJECTS).for_each(|number| assert!(writer.remove(hash(number), &key(number)) <= 1));
    drop((writer, readers));
    let (writer, readers, opened) = open(&all);
    assert_eq!(opened.objects, 0);
    assert!((0..OBJECTS).all(|number| version(&readers[0], number).is_none()));
    assert!(writer.shards().all(|shard| shard.state.is_ok()));
}

#[test]
fn with_its_only_shard_gone_a_store_serves_nothing_and_lives() {
    let scratch = Scratch::new("fault-only");
    let all = shards(&scratch, &[8]);
    let (mut writer, mut readers, _) = open(&all);
    (0..50).for_each(|number| put(&mut writer, number, 1).unwrap());
    // In the middle: what lies before the cut could still be read, but is not.
    cut(&all[0], 3 * SEGMENT as u64 / 2);
    let writes = (0..500).map(|number| put(&mut writer, number, 2)).filter(Result::is_err).count();
    assert!(writes > 0, "the cut was written over");
    assert_eq!(writer.watch(), 1);
    assert!((0..50).all(|number| version(&readers[0], number).is_none()));
    assert_eq!(put(&mut writer, 1, 3), Err(PutError::NoShard));
    assert_eq!((put_chunked(&mut writer, 1, 3), writer.usage().objects), (Err(PutError::NoShard), 0));
    assert!(writer.checkpoints().is_empty() && writer.dirty().is_empty());
    // What lies before the cut could not be believed: nothing of it had been flushed.
    reopen(&mut writer, &mut readers, 0);
    assert!((0..50).all(|number| version(&readers[0], number).is_none()));
    put(&mut writer, 1, 4).unwrap();
    assert_eq!(version(&readers[0], 1), Some(4));
}

/// Runs a program; what it says in the panic if it fails.
pub(super) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A mounted file system, unmounted when dropped.
pub(super) struct Mount(pub(super) std::path::PathBuf);

impl Mount {
    pub(super) fn new(path: std::path::PathBuf, arguments: &[&str]) -> Self {
        std::fs::create_dir_all(&path).unwrap();
        run("mount", &[arguments, &[path.to_str().unwrap()]].concat());
        Mount(path)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_refused_at_the_start_and_cannot_come_later() {
    let scratch = Scratch::new("fault-full");
    let disk = Mount::new(scratch.path().join("disk"), &["-t", "tmpfs", "-o", "size=1m", "none"]);
    let full = Options { path: disk.0.clone(), ..options(&scratch, 32) };
    let text = refusal(&full);
    assert!(text.contains("No space left") && text.contains("lower [store] size, or free space"), "{text}");
    // Beside a shard that has its space it is left out, and taken into use when there is some.
    let all = [shards(&scratch, &[8]).remove(0), full.clone()];
    let (mut writer, mut readers, _) = open(&all);
    let state = writer.shards().nth(1).unwrap().to_string();
    assert!(state.contains("out of use") && state.contains("No space left"), "{state}");
    assert!(writer.reopen(1).unwrap_err().contains("No space left"));
    run("mount", &["-o", "remount,size=8m", disk.0.to_str().unwrap()]);
    reopen(&mut writer, &mut readers, 1);
    assert!(writer.shards().all(|shard| shard.state.is_ok()));
    // All its blocks are there from the start: writing through the mapping needs no more.
    let file = std::fs::metadata(full.path.join("shard-0")).unwrap();
    assert!(file.blocks() * 512 >= full.size_bytes);
}

#[test]
fn a_directory_that_cannot_be_written_is_refused_with_the_remedy() {
    let scratch = Scratch::new("fault-read-only");
    let disk = Mount::new(scratch.path().join("disk"), &["-t", "tmpfs", "-o", "ro", "none"]);
    let text = refusal(&Options { path: disk.0.clone(), ..options(&scratch, 8) });
    assert!(
        text.contains("Read-only file system") && text.contains("give the user that runs edge"),
        "{text}"
    );
    let text = refusal(&Options { path: disk.0.join("missing"), ..options(&scratch, 8) });
    assert!(text.contains("Read-only file system"), "{text}");
}

#[test]
fn what_the_disk_cannot_read_costs_its_shard() {
    let scratch = Scratch::new("fault-io");
    // A disk whose sectors can be taken away: a loop device over a file.
    let image = scratch.path().join("image");
    File::create(&image).unwrap().set_len(16 << 20).unwrap();
    let image = image.to_str().unwrap();
    run("mkfs.ext4", &["-q", "-F", "-O", "^has_journal", image]);
    let disk = Mount::new(scratch.path().join("disk"), &["-o", "loop", image]);
    let failing = Options { path: disk.0.clone(), ..options(&scratch, 16) };
    let all = [shards(&scratch, &[16]).remove(0), failing];
    let (mut writer, readers, _) = open(&all);
    (0..OBJECTS).for_each(|number| put(&mut writer, number, 1).unwrap());
    let file = File::open(disk.0.join("shard-0")).unwrap();
    file.sync_all().unwrap();
    let on_disk = objects(&writer)[1];
    // The sectors go, and so do the copies in memory that nobody has mapped.
    drop((writer, readers));
    File::options().write(true).open(image).unwrap().set_len(0).unwrap();
    nix::fcntl::posix_fadvise(&file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
    drop(file);
    let (writer, readers, _) = open(&all);
    let state = writer.shards().nth(1).unwrap();
    assert!(state.state.is_err(), "{on_disk} objects lay on sectors that are gone: {state}");
    assert!((0..OBJECTS).any(|number| version(&readers[0], number) == Some(1)), "the other shard serves");
    drop((writer, readers));
}

#[test]
fn what_the_disk_cannot_read_any_more_is_given_up_and_the_rest_comes_back() {
    let scratch = Scratch::new("fault-sectors");
    let image = scratch.path().join("image");
    File::create(&image).unwrap().set_len(16 << 20).unwrap();
    let image = image.to_str().unwrap();
    run("mkfs.ext4", &["-q", "-F", "-O", "^has_journal", image]);
    let disk = Mount::new(scratch.path().join("disk"), &["-t", "ext4", "-o", "loop", image]);
    let all = [Options { path: disk.0.clone(), ..options(&scratch, 64) }];
    let (mut writer, mut readers, _) = open(&all);
    let body = Bytes::from(vec![5; 9_000]);
    let put = |writer: &mut crate::shard::set::Writer, number: u32| {
        let key = key(number);
        let label = Label::new(hash(number), &key, &[0; 32], b"\r\n");
        writer.put(&label, Body::Whole(std::slice::from_ref(&body)), |_| true)
    };
    (0..200).for_each(|number| put(&mut writer, number).unwrap());
    flush(&mut writer);
    let there = |readers: &[crate::shard::set::Reader]| {
        let found = |number: &u32| {
            let record = readers[0].lookup(hash(*number), &key(*number), |_| true);
            record.is_some_and(|record| record.body() == body)
        };
        (0..200).filter(found).count()
    };
    assert_eq!(there(&readers), 200);
    assert!(writer.fail(0, "a sector could not be read".into()));
    // From somewhere in the middle of the shard on, the disk's sectors are gone.
    let path = disk.0.join("shard-0");
    let blocks = run("filefrag", &["-v", path.to_str().unwrap()]);
    let extents = blocks.lines().filter_map(|line| line.split(':').nth(2)?.split("..").next());
    let first: u64 = extents.map(str::trim).find_map(|block| block.parse().ok()).expect("an extent");
    let blocksize: u64 = run("stat", &["-f", "-c", "%S", path.to_str().unwrap()]).parse().unwrap();
    let cut = first * blocksize + 47 * SEGMENT as u64;
    File::options().write(true).open(image).unwrap().set_len(cut).unwrap();
    reopen(&mut writer, &mut readers, 0);
    let kept = there(&readers);
    assert!((50..150).contains(&kept), "{kept} of 200, about six for each segment");
    assert_eq!(writer.usage().size_bytes, 64 * SEGMENT as u64);
    // What was given up is written and read again.
    (0..200).for_each(|number| put(&mut writer, number).unwrap());
    assert_eq!(there(&readers), 200);
    drop((writer, readers));
}
