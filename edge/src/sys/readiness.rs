//! Waiting for an eventfd on a tokio runtime. Knows nothing of what the event means.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// An eventfd whose firing can be awaited.
pub struct Event(AsyncFd<OwnedFd>);

impl Event {
    /// Registers a duplicate of the descriptor with the runtime of this thread.
    pub fn new(event: BorrowedFd<'_>) -> io::Result<Self> {
        let owned = event.try_clone_to_owned()?;
        // SAFETY: the duplicate is open, owned by the `AsyncFd` alone, and neither replaced nor closed before it drops.
        let registered = unsafe { AsyncFd::register_with_interest(owned, Interest::READABLE) };
        Ok(Event(registered?))
    }

    /// Waits until the event may have fired, and takes its count. May return without cause; never misses a cause.
    /// An error means that the runtime is shutting down.
    pub async fn fired(&self) -> io::Result<()> {
        let mut ready = self.0.readable().await?;
        // A read that would block clears the readiness; one that does not leaves it, which costs one more turn.
        let _ = ready.try_io(|event| {
            let mut count = [0; 8];
            Ok(nix::unistd::read(event.get_ref(), &mut count)?)
        });
        Ok(())
    }
}
