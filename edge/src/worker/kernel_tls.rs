//! TLS connections whose records the kernel seals: when it is given the keys, what is sent then, and how they end.
//! What the kernel is told, and why only one direction is its, is in `proto::kernel_tls`.
//!
//! Keys are handed over once, when a body waits that is worth it. Short answers gain nothing: they are sealed in one
//! pass either way, and the hand-over costs two options and the kernel's state of a cipher. From then on extents leave
//! as they do without TLS, and the buffer of records goes back to the pool.
//!
//! | sealing   | event                              | then                                                 |
//! |-----------|------------------------------------|------------------------------------------------------|
//! | Undecided | much to send, no record under way  | keys offered, nothing sent meanwhile: Offered        |
//! | Offered   | taken                              | queued extents are read by the kernel: Kernel        |
//! | Offered   | refused (the peer shut its side)   | counted: Here                                        |
//! | Kernel    | alert or close_notify              | alone, behind what is in flight, the rest is dropped |
//! | Kernel    | half of what the keys may seal     | ends after the response, as a node that drains does  |
//! | Kernel    | all of it                          | broken off                                           |
#![forbid(unsafe_code)]

use super::Worker;
use super::connection::{Connection, Phase};
use super::mail::Desk;
use super::token::{Op, Token};
use crate::limits;
use crate::stats::{Cells, Counter};
use crate::sys::fault;
use crate::sys::kernel_tls::{Alert, Offer};
use crate::sys::outbox::Outbox;

/// Who seals what a connection sends.
pub enum Sealing {
    /// We do.
    Here,
    /// We do, until there is much to send.
    Undecided,
    /// We do not know yet: the kernel has been offered the keys.
    Offered(Offer),
    /// The kernel does; with the alert in flight.
    Kernel(Option<Alert>),
}

impl Worker {
    /// Offers the kernel the keys of a connection that has much to send and no record under way. Says whether it did.
    pub(super) fn offer_keys(&mut self, slot: u32) -> bool {
        let connection = &mut self.table[slot as usize];
        let much = connection.outbox.as_ref().is_some_and(|outbox| outbox.bytes() >= limits::WIRE_BYTES);
        let Some(secure) = connection.secure.as_mut().filter(|secure| much && secure.is_flushed()) else {
            return false;
        };
        let Some(info) = secure.tls.offer_keys() else {
            return false;
        };
        let mut offer = Offer::new(info);
        connection.operations += 1;
        let token = Token::pack(Op::KernelTls, connection.generation, slot);
        self.ring.offer_keys(slot, &mut offer, Token::pack(Op::Unwatched, 0, 0), token);
        secure.sealing = Sealing::Offered(offer);
        true
    }

    /// The kernel's answer.
    pub(super) fn keys_offered(&mut self, slot: u32, result: i32) {
        let connection = &mut self.table[slot as usize];
        connection.operations -= 1;
        let taken = result >= 0;
        let secure = connection.secure.as_mut().expect("a connection keeps its layer as long as it lives");
        let next = if taken { Sealing::Kernel(None) } else { Sealing::Here };
        if let Sealing::Offered(mut offer) = std::mem::replace(&mut secure.sealing, next) {
            offer.answered();
        }
        secure.tls.keys_offered(taken);
        let counter = if taken { Counter::TlsKernel } else { Counter::TlsKernelRefused };
        self.node.cells.add(counter, 1);
        if taken {
            connection.sealed_here = false;
            if let Some(outbox) = &mut connection.outbox {
                outbox.send_uncopied();
            }
            self.secure.recycle(connection);
        }
        self.advance(slot);
    }

    /// Sends what the outbox holds, or the alert that ends the connection, unless something is in flight.
    pub(super) fn send_by_kernel(&mut self, slot: u32) {
        let connection = &mut self.table[slot as usize];
        let Some(secure) = &mut connection.secure else {
            return;
        };
        let Sealing::Kernel(None) = secure.sealing else {
            return;
        };
        if connection.outbox.as_ref().is_some_and(Outbox::in_flight) {
            return;
        }
        let token = Token::pack(Op::Send, connection.generation, slot);
        // Nothing that was queued may follow an alert, ours or the peer's.
        let is_over = secure.has_failed();
        if let Some([level, description]) = secure.tls.take_outgoing().as_deref() {
            let mut alert = Alert::new([*level, *description]);
            connection.operations += 1;
            self.ring.send_alert(slot, &mut alert, Token::pack(Op::Unwatched, 0, 0), token);
            secure.sealing = Sealing::Kernel(Some(alert));
            self.node.recycle(connection);
            return;
        }
        let Some(outbox) = connection.outbox.as_mut().filter(|outbox| !is_over && !outbox.is_empty()) else {
            return self.node.recycle(connection);
        };
        if fault::count() != 0 && outbox.is_torn() {
            self.node.cells.add(Counter::Broken, 1);
            connection.phase = Phase::Aborted;
            return;
        }
        connection.operations += 1;
        self.ring.send_to_be_sealed(slot, outbox, limits::SEALED_BY_KERNEL_BYTES_MAX, token);
    }
}

/// The completion of a send where the kernel seals. Says whether that was all: else the outbox is concerned.
pub(super) fn sent(connection: &mut Connection, cells: &Cells, bytes: usize) -> bool {
    let Some(secure) = &mut connection.secure else {
        return false;
    };
    let Sealing::Kernel(alert) = &mut secure.sealing else {
        return false;
    };
    if let Some(mut alert) = alert.take() {
        alert.sent();
        return true;
    }
    cells.add(Counter::TlsKernelBytes, bytes as u64);
    if secure.tls.sealed_elsewhere(bytes).is_err() && connection.phase != Phase::Closing {
        cells.add(Counter::TlsKernelEnded, 1);
        connection.phase = Phase::Aborted;
    }
    false
}
