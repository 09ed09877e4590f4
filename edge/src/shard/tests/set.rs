//! Several shards behind one writer: where keys go, what happens to them when a shard comes or goes.

use super::*;
use crate::shard::set;

pub(super) const OBJECTS: u32 = 300;

pub(super) fn shards(scratch: &Scratch, segments: &[usize]) -> Vec<Options> {
    let one = |(number, &segments): (usize, &usize)| Options {
        path: scratch.path().join(format!("disk-{number}")),
        ..options(scratch, segments)
    };
    segments.iter().enumerate().map(one).collect()
}

pub(super) fn open(shards: &[Options]) -> (set::Writer, Vec<set::Reader>, Opened) {
    set::open(shards, |_| SEGMENT).unwrap()
}

pub(super) fn put(writer: &mut set::Writer, number: u32, version: u64) -> Result<(), PutError> {
    let object = Object { body_bytes: 200, ..Object::small(number, version) };
    let (meta, head, body) = (object.meta(), object.head(), Bytes::from(object.body()));
    writer.put(&Label::new(hash(number), &key(number), &meta, &head), Body::Whole(&[body]), |old| {
        meta_variant(old) == 0
    })
}

pub(super) fn put_chunked(writer: &mut set::Writer, number: u32, version: u64) -> Result<(), PutError> {
    let object = Object { body_bytes: 5000, chunk_bytes: 2000, ..Object::small(number, version) };
    let (meta, head, body) = (object.meta(), object.head(), object.body());
    let chunks = writer.new_object(hash(number));
    for (chunk, bytes) in body.chunks(object.chunk_bytes).enumerate() {
        writer.put_chunk(chunks, chunk as u32, &[Bytes::copy_from_slice(bytes)])?;
    }
    writer.put(
        &Label::new(hash(number), &key(number), &meta, &head),
        Body::Chunks { object: chunks, bytes: body.len() as u64 },
        |_| true,
    )
}

/// What is found under a key, all its bytes checked.
pub(super) fn version(reader: &set::Reader, number: u32) -> Option<u64> {
    let record = reader.lookup(hash(number), &key(number), |_| true)?;
    let object = Object::of(number, record.meta());
    let body = match record.chunked() {
        None => record.body().to_vec(),
        Some(chunks) => (0..object.body_bytes.div_ceil(object.chunk_bytes))
            .flat_map(|chunk| reader.chunk(chunks, chunk as u32).expect("a chunk").body().to_vec())
            .collect(),
    };
    assert!(body == object.body() && record.head() == object.head(), "{object:?}");
    Some(object.version)
}

fn stop(mut writer: set::Writer) {
    for (path, bytes) in writer.checkpoints() {
        std::fs::write(path, bytes).unwrap();
    }
}

pub(super) fn objects(writer: &set::Writer) -> Vec<u64> {
    writer.shards().map(|shard| shard.state.map_or(0, |usage| usage.objects)).collect()
}

#[test]
fn keys_spread_by_size_and_large_objects_stay_together() {
    let scratch = Scratch::new("set-spread");
    let shards = shards(&scratch, &[16, 48, 32]);
    let (mut writer, readers, _) = open(&shards);
    (0..OBJECTS).for_each(|number| put(&mut writer, number, 1).unwrap());
    let shares = objects(&writer);
    for (share, wanted) in shares.iter().zip([OBJECTS / 6, OBJECTS / 2, OBJECTS / 3]) {
        assert!((*share as i64 - i64::from(wanted)).unsigned_abs() < 40, "{shares:?}");
    }
    (OBJECTS..OBJECTS + 20).for_each(|number| put_chunked(&mut writer, number, 1).unwrap());
    for number in 0..OBJECTS + 20 {
        assert_eq!(version(&readers[1], number), Some(1));
        assert!(writer.lookup(hash(number), &key(number), |_| true).is_some());
    }
    assert_eq!(writer.usage().objects, writer.shards().map(|s| s.state.unwrap().objects).sum::<u64>());
    assert_eq!(writer.smallest_shard_bytes(), 16 * SEGMENT as u64);
    assert_eq!((writer.remove(hash(OBJECTS), &key(OBJECTS)), version(&readers[0], OBJECTS)), (1, None));

    // Found again, whatever the order in which they are named.
    stop(writer);
    drop(readers);
    let turned: Vec<_> = shards.into_iter().rev().collect();
    let (_writer, readers, opened) = open(&turned);
    assert!(opened.clean);
    assert_eq!(opened.objects, u64::from(OBJECTS) + 19);
    assert!((0..OBJECTS + 20).filter(|n| *n != OBJECTS).all(|n| version(&readers[0], n) == Some(1)));
}

#[test]
fn a_new_shard_takes_its_share_and_old_versions_elsewhere_do_not_come_back() {
    let scratch = Scratch::new("set-grow");
    let all = shards(&scratch, &[32, 32, 32]);
    let (mut writer, readers, _) = open(&all[..2]);
    (0..OBJECTS).for_each(|number| put(&mut writer, number, 1).unwrap());
    stop(writer);
    drop(readers);

    let (mut writer, readers, _) = open(&all);
    let stayed: Vec<u32> = (0..OBJECTS).filter(|&n| version(&readers[0], n) == Some(1)).collect();
    assert!(stayed.len().abs_diff(OBJECTS as usize * 2 / 3) < 40, "{} of {OBJECTS} stayed", stayed.len());
    // Half of what moved is stored anew, the rest is removed: neither leaves an old version anywhere.
    for number in (0..OBJECTS).filter(|n| !stayed.contains(n)) {
        match number % 2 {
            0 => put(&mut writer, number, 2).unwrap(),
            _ => assert_eq!(writer.remove(hash(number), &key(number)), 1),
        }
    }
    stop(writer);
    drop(readers);

    let (_writer, readers, _) = open(&all[..2]);
    for number in 0..OBJECTS {
        let expected = stayed.contains(&number).then_some(1);
        assert_eq!(version(&readers[0], number), expected, "{number}");
    }
}

#[test]
fn a_shard_whose_disk_fails_at_the_start_is_left_out_and_one_that_is_foreign_refused() {
    let scratch = Scratch::new("set-left-out");
    let all = shards(&scratch, &[8, 8]);
    // Not a directory: as good as a disk that is gone.
    std::fs::write(&all[1].path, b"").unwrap();
    let (mut writer, readers, _) = open(&all);
    (0..60).for_each(|number| put(&mut writer, number, 1).unwrap());
    assert!((0..60).all(|number| version(&readers[0], number) == Some(1)));
    let states: Vec<_> = writer.shards().collect();
    assert!(states[0].state.is_ok());
    let why = states[1].to_string();
    assert!(why.contains("out of use") && why.contains("disk-1") && why.contains("give the user"), "{why}");
    drop((writer, readers));

    std::fs::remove_file(&all[1].path).unwrap();
    std::fs::create_dir(&all[1].path).unwrap();
    std::fs::write(all[1].path.join("shard-0"), [7; 4096]).unwrap();
    let error = set::open(&all, |_| SEGMENT).err().unwrap().to_string();
    assert!(error.contains("is not a shard file of edge"), "{error}");
    // And with no shard at all the node does not start.
    let gone = Options { path: all[1].path.join("shard-0"), ..all[1].clone() };
    assert!(set::open(&[gone], |_| SEGMENT).is_err());
}

#[test]
fn without_its_shard_a_large_object_is_stored_nowhere() {
    let scratch = Scratch::new("set-nowhere");
    let (mut writer, readers, _) = open(&shards(&scratch, &[32, 32]));
    // Nobody has noticed yet.
    writer.shards[1].writer.as_ref().unwrap().map.fail();
    let lost: Vec<u32> =
        (0..OBJECTS).filter(|&number| put(&mut writer, number, 1) == Err(PutError::NoShard)).collect();
    let [one, other] = [0, 1].map(|at| writer.new_object(hash(lost[at])));
    for round in 0..2 {
        for (number, bytes) in [(one, b"one"), (other, b"two")] {
            let put = writer.put_chunk(number, 0, &[Bytes::from_static(bytes)]);
            assert_eq!(put, Err(PutError::NoShard), "{number:x}");
            let found = readers[0].chunk(number, 0).map(|chunk| chunk.body().to_vec());
            assert_eq!(found, None, "of whatever object it is");
            let key = key(lost[0]);
            let label = Label::new(hash(lost[0]), &key, &[0; 32], b"");
            let put = writer.put(&label, Body::Chunks { object: number, bytes: 3 }, |_| true);
            assert_eq!(put, Err(PutError::NoShard));
        }
        // Now all keys are the other shard's; those objects stay nobody's.
        assert_eq!(writer.watch(), 1 - round);
    }
}

#[test]
fn a_shard_that_was_away_while_another_set_began_is_not_believed() {
    let scratch = Scratch::new("set-new-era");
    let all = shards(&scratch, &[32, 32]);
    let away = scratch.path().join("away");
    for live in [true, false] {
        let (mut writer, readers, _) = open(&all);
        (0..OBJECTS).for_each(|number| put(&mut writer, number, 1).unwrap());
        drop((writer, readers));
        // One disk was replaced, and the other cannot be reached at the start.
        std::fs::remove_dir_all(&all[0].path).unwrap();
        std::fs::rename(&all[1].path, &away).unwrap();
        std::fs::write(&all[1].path, b"no directory").unwrap();
        let (mut writer, mut readers, opened) = open(&all);
        assert_eq!(opened.objects, 0);
        (0..OBJECTS).for_each(|number| put(&mut writer, number, 2).unwrap());
        (0..OBJECTS).for_each(|number| assert_eq!(writer.remove(hash(number), &key(number)), 1));
        put(&mut writer, 1, 3).unwrap();
        // It comes back, at once or at the next start.
        std::fs::remove_file(&all[1].path).unwrap();
        std::fs::rename(&away, &all[1].path).unwrap();
        if live {
            let shards = writer.reopen(1).unwrap();
            readers.iter_mut().zip(shards).for_each(|(reader, shard)| reader.take(shard));
        } else {
            drop((writer, readers));
            (writer, readers, _) = open(&all);
        }
        let back: Vec<u32> = (0..OBJECTS).filter(|&number| version(&readers[0], number) == Some(1)).collect();
        assert_eq!(back, [0; 0], "removed while it was away; live: {live}");
        drop((writer, readers));
        all.iter().for_each(|options| std::fs::remove_dir_all(&options.path).unwrap());
    }
}
