//! All of user space's `unsafe`, behind APIs that are safe to call.

pub mod privilege;
pub mod socket;
