//! The pure modules of the node under its own name, so that the fuzz targets and what they instrument need not be
//! built with the rest of it: `proto`, which takes every byte of a peer, and the format of the purge log. The files
//! are the node's; nothing lives here.

#[path = "../../src/clock.rs"]
pub mod clock;
#[path = "../../src/limits.rs"]
pub mod limits;
#[path = "../../src/proto/mod.rs"]
pub mod proto;

/// What is read from disks.
#[path = "../../src/shard"]
pub mod shard {
    #[path = "purge_log.rs"]
    pub mod purge_log;
}
