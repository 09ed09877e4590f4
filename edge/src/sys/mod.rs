//! All of user space's `unsafe`, behind APIs that are safe to call.

pub mod socket;
pub mod steering;
