//! The harness: the real binary, a scripted origin, a strict client, and what the kernel tells of them.
//! No test lives here but those of the harness itself.

pub mod answer;
pub mod client;
pub mod content;
pub mod edge;
#[path = "../../../src/proto/http2/frame.rs"]
mod frame;
pub mod nginx;
pub mod origin;
pub mod process;
pub mod tls;
pub mod websocket;

pub use answer::{Answer, Cut, Framing};
pub use client::{Client, Fault, Response, request};
pub use edge::{Edge, HOST, Setup};
pub use frame::frame;
pub use origin::{Exchange, Gate, Origin, Seen};

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Held by tests that load the whole machine, so that they do not disturb one another.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until a condition holds, at most ten seconds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < until, "not within ten seconds: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
