//! A million objects: how long it takes to open their store after a clean stop, and after none.

use super::*;
use crate::limits;
use nix::time::{ClockId, clock_gettime};

const OBJECTS: u32 = 1_000_000;

fn cpu_ms() -> i64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
    time.tv_sec() * 1000 + time.tv_nsec() / 1_000_000
}

#[test]
fn a_million_objects_are_there_within_a_second_of_a_clean_stop() {
    let scratch = Scratch::new("million");
    let options = Options { size_bytes: 320 << 20, readers: 1, ..options(&scratch, 0) };
    let open = || recover::open(&options, limits::SEGMENT_BYTES, 2 << 20).unwrap();
    let (mut writer, readers, _) = open();
    let body = Bytes::from_static(&[b'x'; 100]);
    let key = |number: u32| u64::from(number).to_le_bytes();
    for number in 0..OBJECTS {
        let body = std::slice::from_ref(&body);
        writer
            .put(
                &Label::new(xxh3_64(&key(number)), &key(number), &[0; 16], b"head"),
                Body::Whole(body),
                |_| true,
            )
            .unwrap();
    }
    // As a stop does it: flushed first.
    std::fs::File::open(scratch.path().join("shard-0")).unwrap().sync_all().unwrap();
    let (path, bytes) = writer.checkpoint();
    std::fs::write(path, bytes).unwrap();
    drop((writer, readers));

    // The time of this thread, so that what else runs on the machine does not count.
    let before = cpu_ms();
    let (writer, readers, opened) = open();
    let (cpu_ms, took_ms) = (cpu_ms() - before, opened.took_ms);
    println!("{} objects after a clean stop in {took_ms} ms, {cpu_ms} ms of them worked", opened.objects);
    assert_eq!((opened.clean, opened.objects), (true, OBJECTS.into()));
    assert!(cpu_ms <= 1000, "{cpu_ms} ms");
    drop((writer, readers));

    let (_writer, readers, opened) = open();
    let rate = opened.scanned_bytes as f64 / (1 << 30) as f64 / (opened.took_ms.max(1) as f64 / 1000.0);
    let mib = opened.scanned_bytes >> 20;
    println!("{} objects after a kill in {} ms: {mib} MiB, {rate:.2} GiB/s", opened.objects, opened.took_ms);
    assert_eq!((opened.clean, opened.objects, opened.dropped), (false, OBJECTS.into(), 0));
    for number in (0..OBJECTS).step_by(997) {
        assert!(readers[0].lookup(xxh3_64(&key(number)), &key(number), |_| true).is_some(), "{number}");
    }
}
