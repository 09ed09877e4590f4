//! All of user space's `unsafe`, behind APIs that are safe to call.

pub mod atomics;
pub mod buffers;
pub mod cpu;
pub mod fault;
pub mod kernel_tls;
pub mod mapping;
pub mod outbox;
mod prefetch;
pub mod privilege;
pub mod readiness;
pub mod ring;
pub mod signals;
pub mod socket;
pub mod steering;
pub mod table;
pub mod wire;
