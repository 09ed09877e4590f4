//! The bounded line of fetches that wait for a place at an origin or on the node.
#![forbid(unsafe_code)]

use super::origin::{Bounds, FetchError};
use crate::limits;
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Waits in the bounded line for a place.
pub(super) async fn wait_for(
    places: &Arc<Semaphore>,
    bounds: &Bounds,
) -> Result<OwnedSemaphorePermit, FetchError> {
    if let Ok(place) = places.clone().try_acquire_owned() {
        return Ok(place);
    }
    if bounds.waiting.get() >= limits::FETCHES_WAITING_MAX {
        return Err(FetchError::new(503, "too many fetches wait"));
    }
    let _waiting = Waiting::new(&bounds.waiting);
    match timeout(Duration::from_millis(limits::FETCH_WAIT_MS), places.clone().acquire_owned()).await {
        Ok(Ok(place)) => Ok(place),
        _ => Err(FetchError::new(503, "waited too long for a place")),
    }
}

/// Counts one who waits, also when its task is dropped meanwhile.
struct Waiting<'a>(&'a Cell<usize>);

impl<'a> Waiting<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
