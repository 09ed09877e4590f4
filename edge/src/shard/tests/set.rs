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
