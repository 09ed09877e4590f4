//! edge: a cache node. Modules in the order a packet meets them.
//!
//! `worker` serves hits from `shard` and reaches `control` only through `control::mailbox`;
//! `proto` is pure: no socket, clock, file or thread.
//!
//! The tests of the feature `interleave` are the store's alone, so it is built without what does not belong to that.
#![cfg_attr(feature = "interleave", allow(dead_code, unused_imports, reason = "whose users are left out"))]

#[cfg(not(feature = "interleave"))]
pub mod cli;
pub mod clock;
#[cfg(not(feature = "interleave"))]
pub mod config;
#[cfg(not(feature = "interleave"))]
pub mod control;
pub mod limits;
#[cfg(not(feature = "interleave"))]
pub mod notify;
#[cfg(not(feature = "interleave"))]
pub mod preflight;
pub mod proto;
pub mod shard;
#[cfg(not(feature = "interleave"))]
pub mod stats;
pub mod sys;
#[cfg(not(feature = "interleave"))]
pub mod worker;
#[cfg(not(feature = "interleave"))]
pub mod worst_case;
#[cfg(not(feature = "interleave"))]
pub mod xdp;

#[cfg(all(test, not(feature = "interleave")))]
#[path = "../tests/e2e/support/ports.rs"]
mod ports;
