//! What a worker asks of control: fetches, refreshes, the bodies of requests. What comes back is in `mail`.
#![forbid(unsafe_code)]

use super::actions::Node;
use super::connection::{Connection, Fetch};
use crate::control::mailbox::{StreamId, Ticket, ToControl};
use crate::limits;
use crate::proto::session::FetchKind;
use crate::stats::Counter;
use bytes::Bytes;

impl Node {
    pub(super) fn fetch(&mut self, connection: &mut Connection, slot: u32, kind: FetchKind) -> bool {
        connection.fetch = self.ask(slot, kind);
        connection.fetch.is_some()
    }

    /// Hands the request at hand to control. `None`: there is no room.
    pub(super) fn ask(&mut self, slot: u32, kind: FetchKind) -> Option<Fetch> {
        self.fetched = Some(kind);
        if !self.unsent.is_empty() {
            return None;
        }
        self.serial += 1;
        let ticket = Ticket { worker: self.worker, slot, serial: self.serial };
        let request = Box::new(self.out.request.clone());
        match self.mailbox.to_control.push(ToControl::Fetch { ticket, kind, request }) {
            Ok(wake) => self.wake_control |= wake,
            Err(_) => return None,
        }
        Some(Fetch { serial: self.serial, body_unacked: 0 })
    }

    /// Asks for a refresh of what was just served stale. Where the queue has no room, the next hit asks.
    pub(super) fn refresh(&mut self) {
        self.cells.add(Counter::StaleHits, 1);
        let hash = self.out.request.key_hash;
        if !self.unsent.is_empty() || !self.refreshes.is_due(hash, self.now) {
            return;
        }
        let request = Box::new(self.out.request.clone());
        if let Ok(wake) = self.mailbox.to_control.push(ToControl::Refresh { request }) {
            self.refreshes.asked(hash, self.now);
            self.wake_control |= wake;
        }
    }

    pub(super) fn forward_some(&mut self, connection: &mut Connection, slot: u32, bytes: Bytes, last: bool) {
        if let Some(fetch) = &mut connection.fetch {
            self.forward(fetch, slot, bytes, last);
            if fetch.body_unacked >= limits::REQUEST_BODY_WINDOW_BYTES {
                // It is the origin that is slow; the client must not be blamed for it.
                connection.session.hold();
            }
        }
    }

    /// Hands bytes of a request's body to control.
    pub(super) fn forward(&mut self, fetch: &mut Fetch, slot: u32, bytes: Bytes, last: bool) {
        fetch.body_unacked += bytes.len();
        let ticket = Ticket { worker: self.worker, slot, serial: fetch.serial };
        self.post(ToControl::Body { ticket, bytes, last });
    }

    /// Says that a client of a passed stream has taken so many bytes.
    pub(super) fn credit(&mut self, stream: StreamId, bytes: usize) {
        self.post(ToControl::Credit { stream, bytes });
    }

    pub(super) fn post(&mut self, message: ToControl) {
        self.unsent.push_back(message);
        self.post_unsent();
    }

    /// Hands over what did not fit the queue before, oldest first.
    pub fn post_unsent(&mut self) {
        while let Some(message) = self.unsent.pop_front() {
            match self.mailbox.to_control.push(message) {
                Ok(wake) => self.wake_control |= wake,
                Err(message) => return self.unsent.push_front(message),
            }
        }
    }
}
