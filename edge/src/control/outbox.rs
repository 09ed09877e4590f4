//! Messages to one worker, in order, however full its queue is. Never blocks the thread and never
//! drops a message; streams wait for room before they send more.
#![forbid(unsafe_code)]

use super::mailbox::{Mailbox, ToWorker};
use crate::limits;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long to wait before a full queue is tried again.
const RETRY: Duration = Duration::from_millis(1);

/// The way to one worker.
pub(super) struct Outbox {
    mailbox: Arc<Mailbox>,
    waiting: RefCell<VecDeque<ToWorker>>,
    refill: Notify,
}

impl Outbox {
    pub(super) fn new(mailbox: Arc<Mailbox>) -> Self {
        Outbox { mailbox, waiting: RefCell::default(), refill: Notify::new() }
    }

    /// The queues this outbox feeds.
    pub(super) fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }

    /// Sends a message behind all earlier ones. What does not fit the queue waits here. Besides pieces, which wait
    /// in [`Outbox::room`], that is a bounded number of messages for each request the worker has open.
    pub(super) fn post(&self, message: ToWorker) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.is_empty() {
            let Err(message) = self.push(message) else { return };
            waiting.push_back(message);
        } else {
            waiting.push_back(message);
        }
        self.refill.notify_one();
    }

    /// Waits until there is room for a piece. `false`: the worker took nothing for too long.
    pub(super) async fn room(&self) -> bool {
        let deadline = Instant::now() + Duration::from_millis(limits::WORKER_STALL_MS);
        while self.waiting.borrow().len() >= limits::OUTBOX_MESSAGES_MAX {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(RETRY).await;
        }
        true
    }

    /// Messages that wait for room in the queue.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.borrow().len()
    }

    /// Moves what waits into the queue as the worker makes room; runs as long as the thread.
    pub(super) async fn pump(&self) {
        loop {
            let full = loop {
                let Some(message) = self.waiting.borrow_mut().pop_front() else { break false };
                if let Err(message) = self.push(message) {
                    self.waiting.borrow_mut().push_front(message);
                    break true;
                }
            };
            if full {
                tokio::time::sleep(RETRY).await;
            } else {
                self.refill.notified().await;
            }
        }
    }

    fn push(&self, message: ToWorker) -> Result<(), ToWorker> {
        if self.mailbox.to_worker.push(message)? {
            ring(&self.mailbox.to_worker);
        }
        Ok(())
    }
}

/// Wakes the consumer of a queue. The counter of an eventfd cannot overflow here: it is read before the next sleep.
pub(super) fn ring<T>(queue: &super::mailbox::Queue<T>) {
    let _ = nix::unistd::write(queue.event(), &1u64.to_ne_bytes());
}
