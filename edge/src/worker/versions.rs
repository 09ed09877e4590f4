//! Which version of HTTP a connection speaks: by its first bytes or by ALPN, and by what its client has done before.
#![forbid(unsafe_code)]

use super::actions::{Node, outbox};
use super::clients::Place;
use super::connection::{Connection, Phase};
use super::multiplex::Multiplex;
use crate::limits;
use crate::proto::http2::{HTTP1_REQUIRED, Http2, PREFACE};
use crate::stats::Counter;

impl Node {
    /// The first bytes of a connection that may speak either: HTTP/2 if they are its preface
    /// (RFC 9113 section 3.3).
    pub(super) fn decide(&mut self, connection: &mut Connection, slot: u32, data: &[u8]) {
        connection.stash.extend_from_slice(data);
        let seen = connection.stash.len().min(PREFACE.len());
        if connection.stash[..seen] != PREFACE[..seen] {
            connection.undecided = false;
            self.feed_stash(connection, slot);
        } else if seen == PREFACE.len() {
            connection.undecided = false;
            self.begin_multiplex(connection);
        }
    }

    /// Whether HTTP/2 may be spoken on another connection of the client that is counted at this place.
    pub(super) fn may_multiplex(&self, place: Place) -> bool {
        let may = self.clients.may_multiplex(place, self.now.mono_ms);
        self.cells.add(Counter::Http2HeldBack, u64::from(!may));
        may
    }

    /// The connection speaks HTTP/2 from its first byte on.
    pub(super) fn begin_multiplex(&mut self, connection: &mut Connection) {
        if self.multiplexes >= limits::HTTP2_CONNECTIONS_MAX {
            self.cells.add(Counter::Http2Refused, 1);
            connection.phase = Phase::Aborted;
            return;
        }
        if !self.may_multiplex(connection.place) {
            outbox(&mut self.outboxes, connection).push_copy(HTTP1_REQUIRED);
            connection.phase = Phase::Finishing;
            connection.stash = Vec::new();
            return;
        }
        self.multiplexes += 1;
        self.cells.add(Counter::Http2Connections, 1);
        let http2 = Http2::new(self.now, &self.timeouts());
        let Connection { generation, place, .. } = *connection;
        connection.multiplex = Some(Box::new(Multiplex::new(http2, generation, place)));
    }
}
