//! A purge log of any content: never a panic, and what is read of it can be put in force.
#![no_main]

use edge::proto::generations::Table;
use edge::shard::purge_log::{HEADER_BYTES, Owner, frame, header, read, replay};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u64, &[u8], bool)| {
    let (id, bytes, framed) = input;
    let owner = Owner { shard: 5, log: id };
    let mut log = header(id, owner).to_vec();
    if framed {
        // Behind a frame that is whole, so that what follows counts as torn or as damage.
        log.extend(frame(id, HEADER_BYTES as u64, &[]));
    }
    log.extend_from_slice(bytes);
    if let Ok(contents) = read(&log, owner) {
        replay(contents.items, &Table::default());
    }
});
