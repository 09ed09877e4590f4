//! Which version of HTTP a connection speaks: by its first bytes or by ALPN, by how many speak HTTP/2, and by what its
//! client has done before.
#![forbid(unsafe_code)]

use super::actions::{Node, outbox};
use super::clients::Place;
use super::connection::{Connection, Phase};
use super::multiplex::Multiplex;
use crate::limits;
use crate::proto::http2::{HTTP1_REQUIRED, Http2, PREFACE, Width};
use crate::stats::Counter;
use std::cell::Cell;
use std::rc::Rc;

/// HTTP/2 connections of a worker, and those that are to become one once their handshake is done.
#[derive(Debug)]
pub struct Admissions {
    wide: Places,
    narrow: Places,
    ahead_bytes: Rc<Cell<usize>>,
}

#[derive(Debug)]
struct Places {
    most: usize,
    taken: Rc<Cell<usize>>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub struct Admission {
    width: Width,
    taken: Rc<Cell<usize>>,
    /// Bytes of field sections that all connections have read ahead, and this one.
    all_ahead_bytes: Rc<Cell<usize>>,
    ahead_bytes: usize,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.taken.set(self.taken.get() - 1);
        self.reads_ahead(0);
    }
}

impl Admission {
    /// How many bytes of field sections the connection may read ahead of the requests that are begun.
    pub(super) fn room(&self) -> usize {
        let others = self.all_ahead_bytes.get() - self.ahead_bytes;
        limits::HTTP2_AHEAD_BYTES.saturating_sub(others).min(limits::HTTP2_AHEAD_PER_CONNECTION_BYTES)
    }

    /// It has read so many ahead.
    pub(super) fn reads_ahead(&mut self, bytes: usize) {
        let others = self.all_ahead_bytes.get() - std::mem::replace(&mut self.ahead_bytes, bytes);
        self.all_ahead_bytes.set(others + bytes);
    }
}

impl Admissions {
    /// So many at once, of which as many as fit are wide.
    pub fn new(most: usize) -> Self {
        let wide = most.min(limits::HTTP2_WIDE_CONNECTIONS_MAX);
        let places = |most| Places { most, taken: Rc::default() };
        Admissions { wide: places(wide), narrow: places(most - wide), ahead_bytes: Rc::default() }
    }

    /// `None`: there are as many as there may be.
    fn admit(&self) -> Option<Admission> {
        let places = [(Width::Wide, &self.wide), (Width::Narrow, &self.narrow)];
        let (width, Places { taken, .. }) =
            places.into_iter().find(|(_, places)| places.taken.get() < places.most)?;
        taken.set(taken.get() + 1);
        let (taken, all_ahead_bytes) = (taken.clone(), self.ahead_bytes.clone());
        Some(Admission { width, taken, all_ahead_bytes, ahead_bytes: 0 })
    }
}

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
            self.begin_or_refuse(connection);
        }
    }

    /// The connection would speak HTTP/2, which it was not asked about.
    pub(super) fn begin_or_refuse(&mut self, connection: &mut Connection) {
        if let Some(admission) = self.admit(connection.place) {
            return self.begin_multiplex(connection, admission);
        }
        outbox(&mut self.outboxes, connection).push_copy(HTTP1_REQUIRED);
        connection.phase = Phase::Finishing;
        connection.stash = Vec::new();
    }

    /// Whether HTTP/2 may be spoken on another connection, of the client that is counted at this place; else it is
    /// counted as refused.
    pub(super) fn admit(&self, place: Place) -> Option<Admission> {
        if !self.clients.may_multiplex(place, self.now.mono_ms) {
            self.cells.add(Counter::Http2HeldBack, 1);
            return None;
        }
        let admission = self.admissions.admit();
        self.cells.add(Counter::Http2Refused, u64::from(admission.is_none()));
        admission
    }

    /// The connection speaks HTTP/2 from its first byte on.
    pub(super) fn begin_multiplex(&mut self, connection: &mut Connection, admission: Admission) {
        self.cells.add(Counter::Http2Connections, 1);
        let http2 = Http2::new(self.now, &self.timeouts(), admission.width);
        let Connection { generation, place, .. } = *connection;
        connection.multiplex = Some(Box::new(Multiplex::new(http2, generation, place, admission)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_admitted_as_there_may_be_and_each_makes_room_once() {
        let admissions = Admissions::new(3);
        for _ in 0..3 {
            let mut held: Vec<Admission> = (0..3).map(|_| admissions.admit().unwrap()).collect();
            assert!(admissions.admit().is_none());
            held.pop();
            held.extend(admissions.admit());
            assert!(held.len() == 3 && admissions.admit().is_none());
        }
        assert_eq!((admissions.wide.taken.get(), admissions.narrow.taken.get()), (0, 0));
    }

    #[test]
    fn the_first_are_wide_and_who_leaves_makes_room_of_its_kind() {
        const WIDE: usize = limits::HTTP2_WIDE_CONNECTIONS_MAX;
        let admissions = Admissions::new(WIDE + 2);
        let mut held: Vec<Admission> = (0..WIDE + 2).map(|_| admissions.admit().unwrap()).collect();
        assert!(held[..WIDE].iter().all(|admission| admission.width == Width::Wide));
        assert!(held[WIDE..].iter().all(|admission| admission.width == Width::Narrow));
        assert!(admissions.admit().is_none());
        held[0].reads_ahead(5000);
        held[1].reads_ahead(limits::HTTP2_AHEAD_BYTES - 6000);
        assert_eq!([&held[0], &held[1], &held[2]].map(Admission::room), [6000, 8192, 1000]);
        for at in [0, WIDE, WIDE] {
            let width = held.remove(at).width;
            held.push(admissions.admit().unwrap());
            assert_eq!(held.last().unwrap().width, width);
            assert!(admissions.admit().is_none());
        }
    }
}
