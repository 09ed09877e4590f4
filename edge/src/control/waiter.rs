//! A request that waits for a response, and what it is told where there is no stream to join. Knows no fill.
#![forbid(unsafe_code)]

use super::Node;
use super::mailbox::{Ticket, ToWorker};
use super::origin::FetchError;
use super::rules;
use crate::proto::request::RequestHead;
use crate::proto::session::{Again, FetchKind, Interim};
use crate::stats::Counter;

/// A request that waits for a response.
pub(super) struct Waiter {
    pub(super) ticket: Ticket,
    pub(super) kind: FetchKind,
    pub(super) request: Box<RequestHead>,
}

/// Whose request is sent.
pub(super) struct Leader {
    /// `None`: nobody waits, what is stored is refreshed.
    pub(super) ticket: Option<Ticket>,
    pub(super) kind: FetchKind,
    pub(super) request: Box<RequestHead>,
}

impl Node {
    /// Gives a request back to its worker, to look up again.
    pub(super) fn again(&self, waiter: Waiter, why: Again) {
        let Waiter { ticket, request, .. } = waiter;
        self.outbox(ticket.worker).post(ToWorker::Again { ticket, request, why });
    }

    /// Has a request answered with what is stored, because the origin has failed.
    /// `status`: what it answered, if it did.
    pub(super) fn replace(&self, mut waiter: Waiter, status: Option<u16>) {
        self.cells.add(Counter::StaleOnFailure, 1);
        waiter.request.failed_status = status;
        self.again(waiter, Again::OriginFailed);
    }

    /// No response can be had: what is stored answers if it may, else an error.
    pub(super) fn fail(&self, waiter: Waiter, error: &FetchError) {
        match error.failure() {
            Some(failure) if rules::may_replace(self, &waiter.request, failure) => self.replace(waiter, None),
            _ => self.refuse(waiter.ticket, &waiter.request, error.status),
        }
    }

    /// Forwards an interim response to the client whose request was sent, if there is one.
    pub(super) fn interim(&self, ticket: Option<Ticket>, interim: Interim) {
        if let Some(ticket) = ticket {
            self.outbox(ticket.worker).post(ToWorker::Interim { ticket, interim: Box::new(interim) });
        }
    }
}
