//! Lookups of the store from outside: they allocate nothing, and how long one takes.

use bytes::Bytes;
use edge::shard::{Body, Label, Options, Reader, open};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting on each thread.
struct Counting;

// SAFETY: hands everything on to the system's allocator; counting touches a constant-initialised cell only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn key(number: u32) -> Vec<u8> {
    format!("http://www.example.test:80/static/assets/{number}.js").into_bytes()
}

fn lookup(reader: &Reader, hash: u64, key: &[u8]) -> usize {
    // What a worker calls: pages that were just written are believed to be in memory.
    let found = reader.try_lookup(hash, key, |meta| meta.len() == 64).expect("in memory");
    found.map_or(0, |record| record.head().len() + record.body().len())
}

#[test]
#[expect(clippy::disallowed_methods, reason = "measures real time, in nanoseconds")]
fn lookups_allocate_nothing() {
    const OBJECTS: u32 = 4000;
    const ROUNDS: u32 = 20;
    let path = std::env::temp_dir().join(format!("edge-lookup-{}", std::process::id()));
    let (mut writer, readers, _) =
        open(&[Options { path: path.clone(), size_bytes: 64 << 20, readers: 1, ..Options::default() }])
            .unwrap();
    let keys: Vec<(u64, Vec<u8>)> = (0..OBJECTS).map(|n| (xxh3_64(&key(n)), key(n))).collect();
    let body = Bytes::from(vec![b'x'; 1024]);
    for (hash, key) in &keys {
        writer
            .put(
                &Label::new(*hash, key, &[0; 64], &[b'h'; 200]),
                Body::Whole(std::slice::from_ref(&body)),
                |_| true,
            )
            .unwrap();
    }
    let object = writer.new_object(keys[0].0);
    writer.put_chunk(object, 0, &[body]).unwrap();
    let absent = key(OBJECTS);

    let before = ALLOCATIONS.get();
    let mut nanoseconds = u128::MAX;
    let mut found = 0;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        for (hash, key) in &keys {
            found += usize::from(lookup(black_box(&readers[0]), *hash, key) == 1224);
        }
        // The best round: the others had to share the CPU.
        nanoseconds = nanoseconds.min(started.elapsed().as_nanos() / u128::from(OBJECTS));
    }
    assert_eq!(lookup(&readers[0], xxh3_64(&absent), &absent), 0);
    assert!(readers[0].chunk(object, 0).is_some() && readers[0].chunk(object, 1).is_none());
    let allocations = ALLOCATIONS.get() - before;
    println!("{nanoseconds} ns a lookup among {OBJECTS} objects");
    drop((writer, readers));
    std::fs::remove_dir_all(&path).unwrap();
    assert_eq!((found as u32, allocations), (OBJECTS * ROUNDS, 0));
    assert!(before > u64::from(OBJECTS), "the counter counts");
}
