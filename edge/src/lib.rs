//! edge: a cache node. Modules in the order a packet meets them.
//!
//! `worker` serves hits from `shard` and reaches `control` only through `control::mailbox`;
//! `proto` is pure: no socket, clock, file or thread.

pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod limits;
pub mod notify;
pub mod preflight;
pub mod proto;
pub mod shard;
pub mod stats;
pub mod sys;
pub mod worker;
pub mod worst_case;
pub mod xdp;
