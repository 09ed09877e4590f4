//! A connection's life on the ring: accepted, read from, sent to, lingering, closed, its slot free again.
//!
//! A slot is released only when no operation in flight names it, so the kernel never hands a number out
//! again under a late completion.
#![forbid(unsafe_code)]

use super::actions::Node;
use super::clients::Place;
use super::connection::{Connection, Phase, Source};
use super::mail::Desk;
use super::secure::{self, Secure};
use super::token::{self, Op, Token};
use super::{BUFFER_GROUP, Worker};
use crate::control::mailbox::StreamId;
use crate::limits;
use crate::proto::request::Scheme;
use crate::proto::session::{Input, Late, Session};
use crate::stats::Counter;
use crate::sys::fault;
use crate::sys::ring::Completion;
use std::os::fd::AsFd;

impl Node {
    /// Moves a connection as far as it goes without a ring: body into the outbox, kept bytes into the session. Says
    /// which stream it went on with.
    pub(super) fn carry_on(&mut self, connection: &mut Connection, slot: u32) -> Option<StreamId> {
        if connection.multiplex.is_some() {
            self.drive(connection, slot);
        }
        let before = connection.source;
        while matches!(connection.phase, Phase::Open | Phase::Finishing)
            && (self.refill(connection, slot) || self.feed_stash(connection, slot))
        {}
        let left_behind = match before {
            Source::Stream { id, .. } if connection.source != before => Some(id),
            _ => None,
        };
        if connection.peer_closed
            && !connection.peer_closed_told
            && connection.phase == Phase::Open
            && (connection.stash.is_empty() || connection.takes_input())
        {
            connection.peer_closed_told = true;
            self.tell(connection, slot, Input::PeerClosed);
        }
        left_behind
    }
}

impl Worker {
    /// Starts the accept of this number, of the listener it belongs to; none once the node drains.
    pub(super) fn accept(&mut self, number: u32) {
        if self.end_ms.is_none() {
            let listener = &self.listeners[number as usize / limits::ACCEPTS_PER_LISTENER];
            let token = Token::pack(Op::Accept, 0, number);
            self.ring.accept(listener.socket.as_fd(), number as usize, token);
        }
    }

    pub(super) fn accepted(&mut self, number: u32, completion: Completion) {
        let Ok(file) = u32::try_from(completion.result) else {
            // Out of slots or descriptors: accepted again at the next tick. Or the node drains.
            self.node.cells.add(Counter::AcceptRefused, u64::from(self.end_ms.is_none()));
            self.accepts_idle.push(number);
            return;
        };
        let peer = self.ring.accepted_peer(number as usize);
        self.accept(number);
        let Some(connection) = self.table.get_mut(file as usize).filter(|c| c.phase == Phase::Free) else {
            self.node.cells.add(Counter::AcceptRefused, 1);
            self.ring.close(file, Token::pack(Op::Unwatched, 0, 0));
            return;
        };
        let Ok(place) = peer.map_or(Ok(Place::NONE), |address| self.node.clients.enter(address)) else {
            self.node.cells.add(Counter::ClientsRefused, 1);
            self.ring.close(file, Token::pack(Op::Unwatched, 0, 0));
            return;
        };
        let generation = connection.generation.wrapping_add(1) & token::GENERATION_MASK;
        *connection = Connection::free(Session::new(self.node.now, &self.node.timeouts()));
        connection.generation = generation;
        connection.phase = Phase::Open;
        connection.peer = peer;
        connection.judge(&self.node.trusted);
        connection.place = place;
        connection.undecided = self.http2_cleartext;
        if let Some(policy) = self.listeners[number as usize / limits::ACCEPTS_PER_LISTENER]
            .policy
            .and_then(|at| self.secure.policies.addresses.get(at))
        {
            let deadline_ms = connection.session.deadline_ms();
            let kernel = !self.secure.kernel.is_empty();
            connection.secure = Some(Box::new(Secure::new(policy.clone(), deadline_ms, kernel)));
            connection.sealed_here = true;
            connection.scheme = Scheme::Https;
            connection.certified = policy.client_certificate;
            // Until ALPN says which version it is.
            connection.undecided = true;
        }
        self.open += 1;
        self.node.cells.add(Counter::Accepted, 1);
        self.wheel.set(file, connection.deadline_ms());
        self.receive(file);
        self.ring.sample_cpu(file, |sample| Token::pack(Op::SampleConnection, 0, u32::from(sample)));
    }

    pub(super) fn receive(&mut self, slot: u32) {
        let connection = &mut self.table[slot as usize];
        connection.receiving = true;
        connection.operations += 1;
        self.ring.receive_multi(slot, BUFFER_GROUP, Token::pack(Op::Receive, connection.generation, slot));
    }

    pub(super) fn received(&mut self, token: Token, completion: Completion) {
        let slot = token.slot;
        let connection = &mut self.table[slot as usize];
        debug_assert_eq!(
            connection.generation, token.generation,
            "a slot is free only when its operations ended"
        );
        if !completion.more {
            connection.receiving = false;
            connection.pausing = false;
            connection.operations -= 1;
        }
        if let (Some(id), Ok(len)) = (completion.buffer, usize::try_from(completion.result)) {
            if connection.phase == Phase::Open {
                self.node.cells.add(Counter::ReceivedBytes, len as u64);
                if connection.secure.is_some() {
                    self.received_sealed(slot, id, len);
                } else {
                    let head = self.lookahead.take(id, &mut self.node.out.request);
                    self.node.receive(connection, slot, self.buffers.bytes(id, len), head);
                }
            } else if let Phase::Lingering { bytes_left, .. } = &mut connection.phase {
                *bytes_left = bytes_left.saturating_sub(len as u32);
            }
            self.buffers.give_back(id);
        }
        let connection = &mut self.table[slot as usize];
        match completion.result {
            1.. => {}
            0 => connection.peer_closed = true,
            error if error == -libc::ENOBUFS => self.node.cells.add(Counter::BuffersExhausted, 1),
            error if error == -libc::ECANCELED => {}
            _ => {
                connection.phase =
                    if connection.phase == Phase::Closing { Phase::Closing } else { Phase::Aborted }
            }
        }
        if connection.requests % limits::LOCALITY_SAMPLE_EVERY == 1 && completion.result > 0 {
            self.ring.sample_cpu(slot, |sample| Token::pack(Op::SampleRequest, 0, u32::from(sample)));
        }
        self.advance(slot);
    }

    pub(super) fn sent(&mut self, slot: u32, result: i32) {
        let connection = &mut self.table[slot as usize];
        connection.operations -= 1;
        let bytes = usize::try_from(result).unwrap_or(0);
        if !secure::sent(connection, &self.node.cells, bytes) {
            let outbox = connection.outbox.as_mut().expect("a send has an outbox");
            outbox.sent(bytes);
            if result == -libc::EFAULT {
                // The kernel met a page that the file of a shard does not have.
                outbox.fail();
                self.node.cells.add(Counter::Broken, 1);
            }
        }
        self.node.cells.add(Counter::SentBytes, bytes as u64);
        match connection.phase {
            Phase::Closing => {}
            _ if result <= 0 => connection.phase = Phase::Aborted,
            _ if connection.secure.as_ref().is_some_and(|secure| secure.deadline_ms != u64::MAX) => {}
            Phase::Open | Phase::Finishing => {
                let drained = connection.caught_up();
                self.node.tell(connection, slot, Input::Sent { drained, bytes });
            }
            _ => {}
        }
        self.advance(slot);
    }

    /// Moves a connection as far as it goes now, its outbox into the ring, and the connection to its end.
    pub(super) fn move_on(&mut self, slot: u32) {
        let Worker { node, table, .. } = self;
        let connection = &mut table[slot as usize];
        let left_behind = node.carry_on(connection, slot);
        if connection.secure.is_some() {
            self.send_sealed(slot);
        } else if let Some(outbox) = &mut connection.outbox
            && !outbox.in_flight()
            && matches!(connection.phase, Phase::Open | Phase::Finishing)
        {
            if outbox.is_empty() {
                node.recycle(connection);
            } else if fault::count() != 0 && outbox.is_torn() {
                node.cells.add(Counter::Broken, 1);
                connection.phase = Phase::Aborted;
            } else {
                connection.operations += 1;
                self.ring.send(slot, outbox, Token::pack(Op::Send, connection.generation, slot));
            }
        }
        let connection = &self.table[slot as usize];
        match connection.phase {
            Phase::Open => self.listen(slot),
            Phase::Finishing if connection.drained() => self.linger(slot),
            Phase::Lingering { bytes_left, .. } if connection.peer_closed || bytes_left == 0 => {
                self.close(slot);
            }
            Phase::Lingering { .. } if !connection.receiving => self.receive(slot),
            Phase::Aborted => self.close(slot),
            Phase::Closing if connection.operations == 0 => self.release(slot),
            _ => {}
        }
        let connection = &self.table[slot as usize];
        if connection.deadline_ms() != u64::MAX {
            self.wheel.set(slot, connection.deadline_ms());
        }
        if let Some(stream) = left_behind {
            self.let_go(stream);
        }
        while let Some(stream) = self.node.progressed.pop() {
            self.let_go(stream);
        }
    }

    /// Keeps the receive armed while there is room for what it brings, and cancelled while there is not.
    pub(super) fn listen(&mut self, slot: u32) {
        let connection = &mut self.table[slot as usize];
        let worn = connection.secure.as_ref().is_some_and(|secure| secure.is_worn());
        if (self.end_ms.is_some() || worn)
            && connection.multiplex.is_none()
            && connection.drained()
            && connection.fetch.is_none()
            && connection.stash.is_empty()
        {
            self.node.cells.add(Counter::TlsKernelEnded, u64::from(worn));
            return self.linger(slot);
        }
        let full = connection.stash.len() >= limits::STASH_BYTES_MAX
            || connection.secure.as_ref().is_some_and(|secure| secure.is_full());
        if connection.receiving && full && !connection.pausing {
            connection.pausing = true;
            let target = Token::pack(Op::Receive, connection.generation, slot);
            self.ring.cancel(target, Token::pack(Op::Unwatched, 0, 0));
        } else if !connection.receiving && !full && !connection.peer_closed {
            self.receive(slot);
        }
    }

    /// Everything was sent: shuts our side and waits a little for the peer's.
    pub(super) fn linger(&mut self, slot: u32) {
        if self.send_close(slot) {
            return;
        }
        let connection = &mut self.table[slot as usize];
        if connection.peer_closed {
            return self.close(slot);
        }
        let until_ms = self.node.now.mono_ms + limits::LINGER_MS;
        connection.phase = Phase::Lingering { until_ms, bytes_left: limits::LINGER_BYTES };
        connection.stash = Vec::new();
        self.shutdown(slot, libc::SHUT_WR);
        if !self.table[slot as usize].receiving {
            self.receive(slot);
        }
    }

    /// Ends both directions, so that operations in flight end too; the slot is released with the last.
    pub(super) fn close(&mut self, slot: u32) {
        let connection = &mut self.table[slot as usize];
        self.node.detach(connection, slot, false);
        self.node.end_multiplex(connection, slot);
        connection.source = Source::None;
        connection.parked = None;
        connection.phase = Phase::Closing;
        if connection.operations == 0 {
            return self.release(slot);
        }
        self.shutdown(slot, libc::SHUT_RDWR);
    }

    fn shutdown(&mut self, slot: u32, how: i32) {
        let connection = &mut self.table[slot as usize];
        connection.operations += 1;
        self.ring.shutdown(slot, how, Token::pack(Op::Shutdown, connection.generation, slot));
    }

    pub(super) fn release(&mut self, slot: u32) {
        let connection = &mut self.table[slot as usize];
        self.node.recycle(connection);
        self.secure.recycle(connection);
        connection.secure = None;
        connection.stash = Vec::new();
        connection.phase = Phase::Free;
        self.node.clients.leave(std::mem::replace(&mut connection.place, Place::NONE));
        self.wheel.remove(slot);
        self.ring.close(slot, Token::pack(Op::Unwatched, 0, 0));
        self.open -= 1;
        self.node.cells.add(Counter::Closed, 1);
    }

    pub(super) fn due(&mut self, slot: u32) {
        let connection = &mut self.table[slot as usize];
        let deadline_ms = connection.deadline_ms();
        if deadline_ms > self.node.now.mono_ms {
            if deadline_ms != u64::MAX {
                self.wheel.set(slot, deadline_ms);
            }
            return;
        }
        match connection.phase {
            Phase::Open if connection.secure.as_ref().is_some_and(|secure| secure.is_handshaking()) => {
                self.node.cells.add(Counter::TlsTimedOut, 1);
                self.close(slot);
            }
            Phase::Open if connection.parked.is_some() => self.wait_no_longer(slot),
            Phase::Open => {
                if connection.is_late(self.node.now.mono_ms) {
                    self.node.cells.add(Counter::Timeouts, 1);
                    match connection.late() {
                        Late::Head => self.node.cells.add(Counter::LateHeads, 1),
                        Late::Body => self.node.cells.add(Counter::LateBodies, 1),
                        Late::Reader => self.node.cells.add(Counter::LateReaders, 1),
                        Late::Request | Late::Tunnel => {}
                    }
                }
                self.node.tell(connection, slot, Input::Deadline);
                self.advance(slot);
            }
            // The peer does not take the last answer, or does not close.
            Phase::Finishing | Phase::Lingering { .. } => self.close(slot),
            Phase::Free | Phase::Aborted | Phase::Closing => {}
        }
    }
}
