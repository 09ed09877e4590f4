//! The atomics by which the writer of a store and its readers agree on who may touch what. The standard ones; with
//! the feature `interleave`, which only a test turns on, those of a scheduler that tries interleavings.
//! Nothing else goes through here.
#![forbid(unsafe_code)]

#[cfg(feature = "interleave")]
pub use shuttle::sync::atomic::{AtomicU32, AtomicU64};
#[cfg(not(feature = "interleave"))]
pub use std::sync::atomic::{AtomicU32, AtomicU64};
