//! What a caller sees, one thing at a time.

use super::*;
use crate::limits;
use crate::shard::checkpoint;
use crate::shard::evict::{Candidate, Log};
use crate::shard::layout::FileHeader;
use std::fs::File;
use std::os::unix::fs::FileExt;

#[test]
fn what_is_put_is_found_with_all_its_bytes() {
    let scratch = Scratch::new("put");
    let (mut writer, readers, opened) = open(&options(&scratch, 4));
    assert_eq!((opened.objects, opened.clean), (0, false));
    for (number, body_bytes) in [0, 1, 15, 16, 17, 4096, 50_000].into_iter().enumerate() {
        let object = Object { body_bytes, ..Object::small(number as u32, 1) };
        object.put(&mut writer).unwrap();
        for reader in &readers {
            assert_eq!(served(reader, object.key, 0), Some(object));
        }
    }
    assert_eq!(writer.usage().objects, 7);
    assert!(readers[0].lookup(hash(0), b"another key with the same hash", |_| true).is_none());
    assert!(readers[0].lookup(hash(1), &key(1), |_| false).is_none());
    assert!(writer.lookup(hash(1), &key(1), |_| true).is_some());
}

#[test]
fn a_newer_version_takes_the_older_ones_place_and_variants_stand_side_by_side() {
    let scratch = Scratch::new("variants");
    let (mut writer, readers, _) = open(&options(&scratch, 4));
    for (version, variant) in [(1, 0), (2, 1), (3, 0), (4, 2), (5, 1)] {
        Object { variant, ..Object::small(9, version) }.put(&mut writer).unwrap();
    }
    let versions: Vec<u64> = all_served(&readers[0], 10, 3).iter().map(|object| object.version).collect();
    assert_eq!(versions, [3, 5, 4]);
    let newest = readers[0].lookup(hash(9), &key(9), |_| true).unwrap();
    assert_eq!(Object::of(9, newest.meta()).version, 5, "the newest of those that fit");
    drop(newest);
    assert_eq!(writer.usage().objects, 3);
    // One that replaces all of them, whatever their discriminator.
    let last = Object { variant: 7, ..Object::small(9, 6) };
    writer
        .put(
            &Label::new(hash(9), &key(9), &last.meta(), &last.head()),
            Body::Whole(&[last.body().into()]),
            |_| true,
        )
        .unwrap();
    assert_eq!(all_served(&readers[0], 10, 8), [last]);
    assert_eq!(writer.usage().objects, 1);
    // The discriminator alone suffices.
    let after = Object { version: 8, ..last };
    writer
        .put(
            &Label::new(hash(9), &key(9), &after.meta(), &after.head()),
            Body::Whole(&[after.body().into()]),
            |_| false,
        )
        .unwrap();
    assert_eq!(all_served(&readers[0], 10, 8), [after]);
}

#[test]
fn what_is_removed_is_gone_now_and_after_a_restart() {
    let scratch = Scratch::new("remove");
    let options = options(&scratch, 4);
    let (mut writer, readers, _) = open(&options);
    for variant in 0..3 {
        Object { variant, ..Object::small(1, variant) }.put(&mut writer).unwrap();
    }
    let chunked = Object { body_bytes: 25_000, chunk_bytes: 10_000, ..Object::small(3, 1) };
    chunked.put(&mut writer).unwrap();
    Object::small(2, 1).put(&mut writer).unwrap();
    assert_eq!(writer.remove(hash(1), &key(1)), 3);
    assert_eq!(writer.remove(hash(3), &key(3)), 1);
    assert_eq!(writer.remove(hash(3), &key(3)), 0);
    assert_eq!(all_served(&readers[0], 4, 3), [Object::small(2, 1)]);
    drop((writer, readers));
    let (writer, readers, opened) = open(&options);
    assert_eq!(all_served(&readers[0], 4, 3), [Object::small(2, 1)]);
    assert_eq!((opened.objects, opened.dropped, opened.clean), (1, 0, false));
    assert_eq!(writer.usage().objects, 1, "chunks without a head are not kept");
}

#[test]
fn large_objects_are_found_chunk_by_chunk() {
    let scratch = Scratch::new("chunks");
    let options = options(&scratch, 8);
    let (mut writer, readers, _) = open(&options);
    let object = Object { body_bytes: 100_001, chunk_bytes: 20_000, ..Object::small(4, 1) };
    object.put(&mut writer).unwrap();
    assert_eq!(served(&readers[0], 4, 0), Some(object));
    drop((writer, readers));
    let (mut writer, readers, opened) = open(&options);
    assert_eq!(opened.objects, 1);
    assert_eq!(served(&readers[0], 4, 0), Some(object));
    // A chunk can be read before the head is there; the head is refused while chunks are missing.
    let number = writer.new_object();
    writer.put_chunk(number, 1, &[Bytes::from_static(b"world")]).unwrap();
    assert_eq!(readers[0].chunk(number, 1).unwrap().body(), b"world");
    let short = writer.put(
        &Label::new(hash(5), &key(5), b"", b""),
        Body::Chunks { object: number, bytes: 10 },
        |_| false,
    );
    assert_eq!(short, Err(PutError::TooLarge));
    writer.put_chunk(number, 0, &[Bytes::from_static(b"hello")]).unwrap();
    let longer = writer.put(
        &Label::new(hash(5), &key(5), b"", b""),
        Body::Chunks { object: number, bytes: 9 },
        |_| false,
    );
    assert_eq!(longer, Err(PutError::TooLarge));
    writer
        .put(&Label::new(hash(5), &key(5), b"", b""), Body::Chunks { object: number, bytes: 10 }, |_| false)
        .unwrap();
    assert_eq!(readers[0].lookup(hash(5), &key(5), |_| true).unwrap().chunked(), Some(number));
}

#[test]
fn an_object_that_lost_a_chunk_is_not_served_at_all() {
    let scratch = Scratch::new("lost-chunk");
    let (mut writer, readers, _) = open(&options(&scratch, 4));
    let object = Object { body_bytes: 100_000, chunk_bytes: 20_000, ..Object::small(1, 1) };
    object.put(&mut writer).unwrap();
    let mut seen_whole = 0;
    for version in 2..500 {
        Object::small(2, version).put(&mut writer).unwrap();
        // `served` insists on all chunks.
        seen_whole += u32::from(served(&readers[0], 1, 0).is_some());
        if writer.usage().reclaimed_segments == 1 {
            break;
        }
    }
    assert!(seen_whole > 50);
    assert_eq!(served(&readers[0], 1, 0), None, "its first chunk was in the oldest segment");
    assert_eq!(writer.usage().evicted, 1);
    // One that does not fit the store at all never appears.
    let huge = Object { body_bytes: 400_000, chunk_bytes: 20_000, ..Object::small(3, 1) };
    assert_eq!(huge.put(&mut writer), Err(PutError::TooLarge));
    assert_eq!(served(&readers[0], 3, 0), None);
}

/// A partial object of three chunks: its number.
fn put_partial(writer: &mut Writer, object: Object) -> u64 {
    let number = writer.new_object();
    let same = |old: &[u8]| meta_variant(old) == object.variant;
    let (key, bytes) = (key(object.key), object.body_bytes as u64);
    let (meta, head) = (object.meta(), object.head());
    writer
        .put(&Label::new(hash(object.key), &key, &meta, &head), Body::Partial { object: number, bytes }, same)
        .unwrap();
    number
}

fn put_chunk(writer: &mut Writer, object: Object, number: u64, chunk: u32) {
    let body = object.body();
    let bytes = body.chunks(object.chunk_bytes).nth(chunk as usize).unwrap();
    writer.put_chunk(number, chunk, &[Bytes::copy_from_slice(bytes)]).unwrap();
}

#[test]
fn a_partial_object_is_found_with_the_chunks_that_are_there_also_after_a_restart() {
    for clean in [false, true] {
        let scratch = Scratch::new("partial");
        let (mut writer, readers, _) = open(&options(&scratch, 4));
        let object = Object { key: 1, variant: 0, version: 1, body_bytes: 25_000, chunk_bytes: 10_000 };
        let number = put_partial(&mut writer, object);
        put_chunk(&mut writer, object, number, 2);
        let there = |reader: &Reader| {
            let record = reader.lookup(hash(1), &key(1), |_| true).expect("the head stays");
            assert_eq!((record.chunked(), record.partial()), (Some(number), true));
            object.check(&record, reader);
            [0, 1, 2].map(|chunk| reader.chunk(number, chunk).is_some())
        };
        assert_eq!(there(&readers[0]), [false, false, true]);
        put_chunk(&mut writer, object, number, 0);
        assert_eq!(there(&readers[0]), [true, false, true]);
        if clean {
            let (path, bytes) = writer.checkpoint();
            std::fs::write(path, bytes).unwrap();
        }
        drop((writer, readers));
        let (mut writer, readers, opened) = open(&options(&scratch, 4));
        assert_eq!((opened.clean, opened.objects, opened.dropped), (clean, 1, 0));
        assert_eq!(there(&readers[0]), [true, false, true]);
        assert!(writer.has_chunk(number, 0) && !writer.has_chunk(number, 1));
        // Once all are there it can be published as whole, under the same number.
        assert!(!writer.complete(number, 25_000));
        put_chunk(&mut writer, object, number, 1);
        assert!(writer.complete(number, 25_000));
        let (meta, head) = (object.meta(), object.head());
        writer
            .put(
                &Label::new(hash(1), &key(1), &meta, &head),
                Body::Chunks { object: number, bytes: 25_000 },
                |_| true,
            )
            .unwrap();
        assert_eq!(served(&readers[0], 1, 0), Some(object));
        assert!(!readers[0].lookup(hash(1), &key(1), |_| true).unwrap().partial());
        assert_eq!(writer.remove(hash(1), &key(1)), 1);
        assert!(readers[0].lookup(hash(1), &key(1), |_| true).is_none());
    }
}

#[test]
fn the_head_of_a_partial_object_outlives_its_chunks() {
    let scratch = Scratch::new("partial-evicted");
    let (mut writer, readers, _) = open(&options(&scratch, 4));
    let object = Object { key: 1, variant: 0, version: 1, body_bytes: 25_000, chunk_bytes: 10_000 };
    // The chunk first, so that it lies in an older segment than the head.
    let number = put_partial(&mut writer, object);
    put_chunk(&mut writer, object, number, 1);
    let mut version = 2;
    while readers[0].chunk(number, 1).is_some() {
        if version % 20 == 0 {
            // Put again, as a validation does.
            let (meta, head) = (object.meta(), object.head());
            writer
                .put(
                    &Label::new(hash(1), &key(1), &meta, &head),
                    Body::Partial { object: number, bytes: 25_000 },
                    |_| true,
                )
                .unwrap();
        }
        Object { key: 2 + version as u32, ..Object::small(0, version) }.put(&mut writer).unwrap();
        version += 1;
    }
    let record = readers[0].lookup(hash(1), &key(1), |_| true).expect("the head is still there");
    assert_eq!(record.chunked(), Some(number));
    assert!(!writer.has_chunk(number, 1));
    // And with the head gone no chunk comes back.
    put_chunk(&mut writer, object, number, 0);
    assert_eq!(writer.remove(hash(1), &key(1)), 1);
    drop((record, writer, readers));
    let (writer, readers, _) = open(&options(&scratch, 4));
    assert!(readers[0].lookup(hash(1), &key(1), |_| true).is_none());
    assert!(!writer.has_chunk(number, 0));
}

#[test]
fn records_larger_than_a_segment_are_refused() {
    let scratch = Scratch::new("too-large");
    let (mut writer, readers, _) = open(&options(&scratch, 4));
    let longest = layout::Geometry::new(SEGMENT, 4).records_bytes() - 64 - key(1).len() - 32;
    let fits = |body_bytes: usize| {
        let object = Object { body_bytes, ..Object::small(1, 1) };
        Object { body_bytes: body_bytes - object.head().len(), ..object }
    };
    assert_eq!(fits(longest + 1).put(&mut writer), Err(PutError::TooLarge));
    assert_eq!(writer.usage().used_bytes, 0);
    for _ in 0..9 {
        fits(longest).put(&mut writer).unwrap();
    }
    assert_eq!(served(&readers[0], 1, 0), Some(fits(longest)));
    let long_key = vec![b'k'; 70_000];
    let refused = writer.put(&Label::new(1, &long_key, b"", b""), Body::Whole(&[]), |_| true);
    assert_eq!(refused, Err(PutError::TooLarge));
}

#[test]
fn a_held_record_stays_while_everything_else_goes() {
    let scratch = Scratch::new("held");
    let (mut writer, readers, _) = open(&options(&scratch, 4));
    Object::small(0, 1).put(&mut writer).unwrap();
    let held = readers[1].lookup(hash(0), &key(0), |_| true).unwrap();
    for version in 0..2000 {
        Object::small(1 + version as u32 % 7, version).put(&mut writer).unwrap();
    }
    Object::small(0, 1).check(&held, &readers[1]);
    assert_eq!(served(&readers[0], 0, 0), Some(Object::small(0, 1)), "its segment was never emptied");
    drop(held);
    for version in 0..300 {
        Object::small(1 + version as u32 % 7, version).put(&mut writer).unwrap();
    }
    assert_eq!(served(&readers[0], 0, 0), None, "let go, it was the oldest");
}

#[test]
fn with_every_segment_held_storing_is_refused_and_serving_goes_on() {
    let scratch = Scratch::new("all-held");
    let (mut writer, readers, _) = open(&options(&scratch, 4));
    let mut held = Vec::new();
    let mut number = 0;
    let refused = loop {
        let object = Object::small(number, 1);
        if let Err(error) = object.put(&mut writer) {
            break error;
        }
        held.push((
            object,
            readers[number as usize % 2].lookup(hash(number), &key(number), |_| true).unwrap(),
        ));
        number += 1;
    };
    assert_eq!(refused, PutError::Pinned);
    assert!(number > 150);
    for (object, record) in &held {
        object.check(record, &readers[0]);
        assert_eq!(served(&readers[1], object.key, 0), Some(*object));
    }
    held.clear();
    Object::small(number, 1).put(&mut writer).unwrap();
    assert_eq!(served(&readers[0], number, 0), Some(Object::small(number, 1)));
}

#[test]
fn a_clean_stop_opens_from_its_checkpoint_once() {
    let scratch = Scratch::new("checkpoint");
    let options = options(&scratch, 8);
    let (mut writer, readers, _) = open(&options);
    for number in 0..100 {
        Object::small(number, 1).put(&mut writer).unwrap();
    }
    Object { body_bytes: 30_000, chunk_bytes: 10_000, ..Object::small(100, 1) }.put(&mut writer).unwrap();
    let before = all_served(&readers[0], 200, 1);
    let usage = writer.usage();
    let (path, bytes) = writer.checkpoint();
    std::fs::write(&path, &bytes).unwrap();
    drop((writer, readers));

    let (mut writer, readers, opened) = open(&options);
    assert_eq!((opened.clean, opened.objects, opened.scanned_bytes), (true, 101, 0));
    assert!(!path.exists());
    assert_eq!(all_served(&readers[0], 200, 1), before);
    assert_eq!((writer.usage().objects, writer.usage().used_bytes), (usage.objects, usage.used_bytes));
    // It goes on where it stopped, and a head still goes with its chunks.
    writer.remove(hash(5), &key(5));
    for version in 2..700 {
        Object::small(7, version).put(&mut writer).unwrap();
    }
    assert_eq!(served(&readers[0], 100, 0), None);
    let before = all_served(&readers[0], 200, 1);
    drop((writer, readers));

    // The checkpoint of another run is not believed, were it to come back.
    std::fs::write(&path, &bytes).unwrap();
    let (_, readers, opened) = open(&options);
    assert!(!opened.clean);
    assert_eq!(all_served(&readers[0], 200, 1), before);
}

#[test]
fn a_checkpoint_that_is_damaged_or_outdated_is_not_believed() {
    let scratch = Scratch::new("bad-checkpoint");
    let options = options(&scratch, 4);
    let (mut writer, readers, _) = open(&options);
    Object::small(1, 1).put(&mut writer).unwrap();
    Object::small(2, 1).put(&mut writer).unwrap();
    let (path, bytes) = writer.checkpoint();
    writer.remove(hash(1), &key(1));
    drop((writer, readers));
    std::fs::write(&path, &bytes).unwrap();
    let (mut writer, readers, opened) = open(&options);
    assert_eq!((opened.clean, all_served(&readers[0], 3, 1)), (false, vec![Object::small(2, 1)]));

    let (_, bytes) = writer.checkpoint();
    let file = FileHeader {
        id: writer.id,
        segment_bytes: SEGMENT as u64,
        segments: 4,
        run: writer.run,
        era: 0,
        members: 0,
        log: 0,
    };
    let believed = |bytes: &[u8], file: &FileHeader| {
        checkpoint::decode(bytes.to_vec(), file, &writer.find.index).is_some()
    };
    assert!(believed(&bytes, &file));
    assert!(!believed(&bytes, &FileHeader { id: file.id + 1, ..file }));
    assert!(!believed(&bytes, &FileHeader { run: file.run + 1, ..file }));
    assert!(!believed(&bytes, &FileHeader { segments: 5, ..file }));
    for at in (0..bytes.len()).step_by(97) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        assert!(!believed(&damaged, &file), "byte {at}");
    }
    drop((writer, readers));
    std::fs::write(&path, &bytes[..bytes.len() - 8]).unwrap();
    let (_, readers, opened) = open(&options);
    assert_eq!((opened.clean, opened.objects), (false, 1));
    assert_eq!(all_served(&readers[0], 3, 1), [Object::small(2, 1)]);
}

#[test]
fn object_numbers_are_never_given_twice() {
    let scratch = Scratch::new("numbers");
    let options = options(&scratch, 4);
    let mut seen = std::collections::HashSet::new();
    for round in 0..6 {
        let (mut writer, readers, _) = open(&options);
        for _ in 0..10 {
            assert!(seen.insert(writer.new_object()));
        }
        if round % 2 == 0 {
            let (path, bytes) = writer.checkpoint();
            std::fs::write(path, bytes).unwrap();
            assert!(seen.insert(writer.new_object()));
        }
        drop((writer, readers));
    }
}

#[test]
fn a_store_grows_and_shrinks_with_what_it_can_keep() {
    let scratch = Scratch::new("resize");
    let (mut writer, readers, _) = open(&options(&scratch, 4));
    for number in 0..120 {
        Object::small(number, 1).put(&mut writer).unwrap();
    }
    let before = all_served(&readers[0], 200, 1);
    assert_eq!(before.len(), 120);
    drop((writer, readers));

    let (mut writer, readers, opened) = open(&options(&scratch, 8));
    assert_eq!((opened.objects, writer.usage().size_bytes), (120, (8 * SEGMENT) as u64));
    assert_eq!(all_served(&readers[0], 200, 1), before);
    for number in 120..300 {
        Object::small(number, 1).put(&mut writer).unwrap();
    }
    assert_eq!(all_served(&readers[0], 300, 1).len(), 300);
    let large = Object { body_bytes: 50_000, chunk_bytes: 10_000, ..Object::small(300, 1) };
    large.put(&mut writer).unwrap();
    drop((writer, readers));

    let (mut writer, readers, opened) = open(&options(&scratch, 5));
    let after = all_served(&readers[0], 400, 1);
    assert_eq!((opened.objects, opened.dropped), (after.len() as u64, 0));
    assert!(after.len() > 150 && after.len() < 301);
    assert_eq!(std::fs::metadata(scratch.path().join("shard-0")).unwrap().len(), (5 * SEGMENT) as u64);
    for number in 0..1000 {
        Object::small(number, 2).put(&mut writer).unwrap();
    }
}

#[test]
fn refusals_name_the_path_and_the_remedy() {
    let check = |options: &Options, words: &[&str]| {
        let text = refusal(options);
        for word in words {
            assert!(text.contains(word), "{text:?} lacks {word:?}");
        }
    };
    let scratch = Scratch::new("refuse");
    let fine = options(&scratch, 4);
    check(&options(&scratch, 3), &["too small", "set [store] size to \"1MiB\" or more"]);
    let parts = open(&fine);
    check(&fine, &["another process", "stop that edge"]);
    drop(parts);
    let path = scratch.path().join("shard-0");
    let whole = std::fs::read(&path).unwrap();

    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(&(layout::VERSION + 1).to_ne_bytes(), 8).unwrap();
    let other = format!("format version {}", layout::VERSION + 1);
    check(&fine, &["shard-0", &other, "run the edge that made it"]);
    file.write_all_at(b"PNG", 0).unwrap();
    check(&fine, &["not a shard file", "move the file away"]);
    assert!(std::fs::read(&path).unwrap().starts_with(b"PNG"), "left alone");
    std::fs::write(&path, b"short").unwrap();
    check(&fine, &["not a shard file"]);
    std::fs::write(&path, &whole).unwrap();
    let text = recover::open(&fine, SEGMENT / 2, INDEX_ENTRIES).err().unwrap().to_string();
    assert!(text.contains("segments of 65536 bytes, this edge uses 32768"), "{text}");
    open(&fine);

    let below_a_file = Options { path: path.join("x"), ..fine.clone() };
    check(&below_a_file, &["shard-0/x", "read and write access"]);
}

#[test]
fn segments_suit_the_size_of_a_new_shard_and_an_older_one_keeps_its_own() {
    for (mib, segment_mib) in [(32, 2), (63, 2), (64, 4), (127, 4), (128, 8), (1 << 20, 8)] {
        assert_eq!(limits::segment_bytes(mib << 20), segment_mib << 20, "{mib} MiB");
    }
    let scratch = Scratch::new("cut");
    let sized = |mib: u64| Options { size_bytes: mib << 20, ..options(&scratch, 4) };
    let at = |mib: u64, expected: (usize, usize)| {
        let shard = sized(mib);
        let (mut writer, readers, opened) =
            recover::open(&shard, limits::segment_bytes(shard.size_bytes), INDEX_ENTRIES).unwrap();
        let cut = (writer.geometry.segments, writer.geometry.segment_bytes() >> 20);
        assert_eq!(cut, expected, "{mib} MiB");
        let before = opened.objects;
        let object = Object::small(before as u32, 1);
        object.put(&mut writer).unwrap();
        assert_eq!(all_served(&readers[0], 9, 1).len() as u64, before + 1, "{mib} MiB");
    };
    at(32, (16, 2));
    // Grown and shrunk again, it is the same store.
    at(200, (100, 2));
    at(32, (16, 2));
    std::fs::remove_file(scratch.path().join("shard-0")).unwrap();
    at(200, (25, 8));
    at(40, (5, 8));
    let what = recover::open(&sized(24), 2 << 20, INDEX_ENTRIES).err().unwrap().to_string();
    assert!(what.contains("too small") && what.contains("\"32MiB\" or more"), "{what}");
}

#[test]
fn a_full_file_system_is_refused_and_nothing_is_left_behind() {
    // tmpfs knows at once that so much cannot be had.
    let directory = std::path::Path::new("/dev/shm").join(format!("edge-full-{}", std::process::id()));
    let options = Options { path: directory.clone(), size_bytes: 1 << 45, readers: 1, ..Options::default() };
    let text = refusal(&options);
    let left = std::fs::metadata(directory.join("shard-0")).unwrap().len();
    std::fs::remove_dir_all(&directory).unwrap();
    assert!(text.contains("cannot allocate") && text.contains("lower [store] size"), "{text}");
    assert_eq!(left, 0);
}

#[test]
fn dirty_covers_what_was_written() {
    let scratch = Scratch::new("dirty");
    let (mut writer, _readers, _) = open(&options(&scratch, 4));
    writer.dirty();
    assert_eq!(writer.dirty(), None);
    let path = scratch.path().join("shard-0");
    let before = std::fs::read(&path).unwrap();
    for (number, change) in [(1u32, true), (2, true), (1, false)] {
        let before = std::fs::read(&path).unwrap();
        if change {
            Object::small(number, 1).put(&mut writer).unwrap();
        } else {
            writer.remove(hash(number), &key(number));
        }
        let after = std::fs::read(&path).unwrap();
        let range = writer.dirty().unwrap();
        let differ = |at: &usize| before[*at] != after[*at];
        let (first, last) = ((0..after.len()).find(differ).unwrap(), (0..after.len()).rfind(differ).unwrap());
        assert!(range.start <= first as u64 && range.end > last as u64, "{range:?} {first} {last}");
    }
    assert_ne!(before, std::fs::read(&path).unwrap());
}

#[test]
fn a_full_index_drops_the_least_read_and_it_stays_away() {
    // One log, in which a scan finds records in the order in which they were stored, and two, in which it does not.
    for segments in [7, 24] {
        check_full_index(segments);
    }
}

fn check_full_index(segments: usize) {
    let scratch = Scratch::new("full-index");
    let options = options(&scratch, segments);
    let (mut writer, readers, _) = open(&options);
    let room = writer.usage().index_entries_max as u32;
    let tiny = |number: u32| Object { body_bytes: 0, ..Object::small(number, 1) };
    for number in 0..room * 2 {
        // Some are known from before: they go to the other log.
        if number % 3 == 0 {
            let (hash, bytes, frequency) = (hash(number), 1, 0);
            writer.policy.left(&Candidate { hash, bytes, frequency, log: Log::Small });
        }
        tiny(number).put(&mut writer).unwrap();
    }
    let usage = writer.usage();
    assert_eq!((usage.reclaimed_segments, usage.ghost_hits > 0), (0, true));
    assert!(usage.objects <= u64::from(room) && usage.objects > u64::from(room) * 9 / 10, "{usage:?}");
    let full = usage.objects as f64 / f64::from(room);
    println!("{segments} segments: index {:.1} % full", 100.0 * full);
    assert_eq!(usage.objects + usage.evicted, u64::from(room) * 2);
    let before = all_served(&readers[0], room * 2, 1);
    assert_eq!(before.len() as u64, usage.objects);
    drop((writer, readers));
    let (_, readers, opened) = open(&options);
    assert_eq!(opened.objects, usage.objects);
    assert_eq!(all_served(&readers[0], room * 2, 1), before);
}

#[test]
fn a_segment_that_was_emptied_but_not_yet_reused_stays_empty_after_a_crash() {
    let scratch = Scratch::new("emptied");
    let options = options(&scratch, 4);
    let (mut writer, readers, _) = open(&options);
    let chunked = Object { body_bytes: 90_000, chunk_bytes: 9_000, ..Object::small(1, 1) };
    chunked.put(&mut writer).unwrap();
    Object::small(2, 1).put(&mut writer).unwrap();
    // What happens before a segment is shut, which may then last for as long as a reader holds it.
    let oldest = writer.segments.sealed[Log::Main as usize][0];
    writer.drain(oldest);
    assert_eq!(all_served(&readers[0], 3, 1), [Object::small(2, 1)]);
    assert_eq!(writer.remove(hash(1), &key(1)), 0);
    drop((writer, readers));
    let (_, readers, opened) = open(&options);
    assert_eq!((opened.objects, opened.dropped), (1, 0));
    assert_eq!(all_served(&readers[0], 3, 1), [Object::small(2, 1)]);
}

#[test]
fn a_segment_damaged_under_our_feet_is_emptied_all_the_same() {
    let scratch = Scratch::new("damaged");
    let (mut writer, readers, _) = open(&options(&scratch, 4));
    let chunked = Object { body_bytes: 40_000, chunk_bytes: 9_000, ..Object::small(0, 1) };
    chunked.put(&mut writer).unwrap();
    for number in 1..100 {
        Object::small(number, 1).put(&mut writer).unwrap();
    }
    let oldest = writer.segments.sealed[Log::Main as usize][0];
    let first_record = oldest * SEGMENT + writer.geometry.words_bytes();
    let file = File::options().write(true).open(scratch.path().join("shard-0")).unwrap();
    file.write_all_at(&[0; 64], first_record as u64).unwrap();
    writer.drain(oldest);
    let left = all_served(&readers[0], 100, 1);
    assert!(left.len() > 50 && left.len() < 99 && left.iter().all(|object| object.chunk_bytes == 0));
    let entries = writer.find.index.entries();
    assert!(entries.into_iter().all(|(_, entry)| writer.geometry.place(entry.location()).0 != oldest));
    assert_eq!(writer.usage().objects, left.len() as u64);
}
