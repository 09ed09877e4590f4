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
mod ports;
pub mod process;
pub mod tls;
pub mod websocket;

pub use answer::{Answer, Cut, Framing};
pub use client::{Client, Fault, Response, request};
pub use edge::{Edge, HOST, Setup};
pub use frame::frame;
pub use origin::{Exchange, Gate, Origin, Seen};

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// What a client of HTTP/2 begins with.
pub const PREFACE: &[u8] = ::edge::proto::http2::PREFACE;

/// How long a state is waited for: what is not there then, on however busy a machine, does not come.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Held by tests that load the whole machine, so that they do not disturb one another.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until a condition holds, at most [`PATIENCE`].
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits for the beginning of a second: ages are in whole ones, and what is fetched now and lives for one has all of it.
pub fn second_begins() {
    let since = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock that is set");
    eventually("the beginning of a second", || since().subsec_millis() < 50);
}

/// Runs a scene that only says something if its clients and servers are in time, once more where the machine gave this
/// process no CPU for longer than `gap`: who was not in time then was not put to the proof.
pub fn in_time(gap: Duration, scene: impl Fn()) {
    const TRIES: usize = 10;
    for tried in 1..=TRIES {
        let over = AtomicBool::new(false);
        let (end, longest) = std::thread::scope(|scope| {
            let pulse = scope.spawn(|| {
                let (mut longest, mut last) = (Duration::ZERO, Instant::now());
                while !over.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(5));
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                }
                longest
            });
            let end = catch_unwind(AssertUnwindSafe(&scene));
            over.store(true, Ordering::Relaxed);
            (end, pulse.join().expect("a pulse"))
        });
        match end {
            Ok(()) => return,
            Err(panic) if longest < gap || tried == TRIES => resume_unwind(panic),
            Err(_) => eprintln!("the machine stood still for {longest:?}: once more"),
        }
    }
}
