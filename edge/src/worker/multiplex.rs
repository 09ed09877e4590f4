//! HTTP/2 connections of a worker: what H1 has once a connection, here each stream has. Feeds the machine of
//! `proto::http2` and carries its actions out; its bodies are brought in `bodies`. Knows no ring and no descriptor.
#![forbid(unsafe_code)]

use super::actions::{Answer, Node, outbox};
use super::clients::Place;
use super::connection::{Connection, Fetch, Parked, Phase, Source};
use super::parts::Parts;
use super::patience::{Held, Patience};
use super::populate::Waiter;
use super::versions::Admission;
use super::waiting::Lookup;
use crate::control::mailbox::StreamId;
use crate::limits;
use crate::proto::http2::{Http2, Piece, Segment};
use crate::proto::request::{BodyLength, RequestHead};
use crate::proto::session::{Action, Again, Input};
use crate::shard::{Cold, Pinned};
use crate::stats::Counter;
use crate::sys::{fault, outbox::Outbox};

/// What a connection that speaks HTTP/2 has beside its slot.
pub struct Multiplex {
    pub(super) http2: Http2<Pinned>,
    /// Which life of the slot it is.
    generation: u32,
    /// Where its client is counted.
    pub(super) place: Place,
    pub(super) patience: Patience,
    /// Is to be moved on at the end of the turn.
    pub(super) listed: bool,
    /// It may have more requests than it could begin in its turn.
    pub(super) has_more: bool,
    /// By stream number.
    pub(super) supplies: Vec<Supply>,
    /// Its place among those that speak HTTP/2.
    admission: Admission,
}

/// Where the response of one stream comes from.
pub(super) struct Supply {
    pub(super) id: u32,
    pub(super) source: Source,
    pub(super) fetch: Option<Fetch>,
    /// What [`Source::Parts`] stands for.
    pub(super) parts: Option<Box<Parts>>,
    /// The request, while its lookup waits for pages of the shard.
    pub(super) parked: Option<Box<Parked>>,
    /// Its body waits for pages of the shard.
    pub(super) populating: bool,
    /// The request, while others of its connection are asked for first.
    pub(super) held: Option<Box<Held>>,
    /// The request has a body that has not come to its end.
    pub(super) uploading: bool,
}

impl Multiplex {
    /// Of this life of a slot, and of a client counted there.
    pub(super) fn new(http2: Http2<Pinned>, generation: u32, place: Place, admission: Admission) -> Self {
        Multiplex {
            http2,
            generation,
            place,
            patience: Patience::new(),
            listed: false,
            has_more: false,
            supplies: Vec::new(),
            admission,
        }
    }

    /// When the connection has to be looked at next, monotonic milliseconds.
    pub fn deadline_ms(&self) -> u64 {
        let waits = |supply: &Supply| match (&supply.parked, &supply.held) {
            (Some(parked), _) => Some(parked.until_ms),
            (None, held) => held.as_ref().map(|held| held.until_ms),
        };
        self.supplies.iter().filter_map(waits).fold(self.http2.deadline_ms(), u64::min)
    }

    /// Who waits for pages of the shard on behalf of a stream.
    pub(super) fn waiter(&self, slot: u32, id: u32) -> Waiter {
        Waiter { slot, generation: self.generation, stream: id }
    }

    /// Whether the stream whose request control has under this number still waits.
    pub fn waits(&self, serial: u64) -> bool {
        self.supplies.iter().any(|supply| supply.fetch.is_some_and(|fetch| fetch.serial == serial))
    }

    /// Whether some response here follows this stream of control's.
    pub fn follows(&self, stream: StreamId) -> bool {
        self.offsets(stream).next().is_some()
    }

    /// How far each response has followed this stream of control's.
    pub fn offsets(&self, stream: StreamId) -> impl Iterator<Item = u64> {
        self.supplies.iter().filter_map(move |supply| match supply.source {
            Source::Stream { id, offset, .. } if id == stream => Some(offset),
            _ => None,
        })
    }

    /// There may be more of this stream of control's.
    pub fn resume(&mut self, stream: StreamId) {
        for supply in &self.supplies {
            if matches!(supply.source, Source::Stream { id, .. } if id == stream) {
                self.http2.resume(supply.id);
            }
        }
    }

    /// Control has taken so many bytes of a request's body.
    pub fn credit(&mut self, serial: u64, bytes: usize) {
        if let Some(fetch) = self.supply_of(serial).and_then(|supply| supply.fetch.as_mut()) {
            fetch.body_unacked = fetch.body_unacked.saturating_sub(bytes);
        }
    }

    fn supply_of(&mut self, serial: u64) -> Option<&mut Supply> {
        self.supplies.iter_mut().find(|supply| supply.fetch.is_some_and(|fetch| fetch.serial == serial))
    }

    /// How many of these bytes, which wait, may be read now.
    fn takes(&self, stash: &[u8]) -> usize {
        if stash.is_empty() { 0 } else { self.http2.takes(stash, self.admission.room()) }
    }

    pub(super) fn find(&self, id: u32) -> Option<usize> {
        self.supplies.binary_search_by_key(&id, |supply| supply.id).ok()
    }
}

impl Node {
    /// Has a connection moved on at the end of the turn.
    pub(super) fn list(&mut self, mux: &mut Multiplex, slot: u32) {
        if !std::mem::replace(&mut mux.listed, true) {
            self.multiplexed.push_back(slot);
        }
    }

    /// Moves everything of a connection on: what came, what was asked for as far as its share of the turn goes, what
    /// can be sent.
    pub(super) fn drive(&mut self, connection: &mut Connection, slot: u32) {
        let Some(mut multiplex) = connection.multiplex.take() else {
            return;
        };
        let mux = &mut *multiplex;
        let faults = fault::count();
        connection.introduce(&mut self.out.request);
        let ends = self.draining || connection.secure.as_ref().is_some_and(|secure| secure.is_worn());
        let mut begun = 0;
        loop {
            mux.http2.set_room(connection.outbox.as_ref().map_or(Outbox::SEGMENTS, Outbox::segments_free));
            let taken = mux.takes(&connection.stash);
            if taken > 0 {
                let rest = connection.stash.split_off(taken);
                mux.http2.receive(&std::mem::replace(&mut connection.stash, rest), self.now);
            }
            if ends {
                mux.http2.drain();
            }
            if connection.peer_closed && connection.stash.is_empty() && !connection.peer_closed_told {
                connection.peer_closed_told = true;
                mux.http2.peer_closed();
            }
            // What was read counts as much as what is begun, but one request is begun in any turn.
            let read = mux.http2.frames() / limits::HTTP2_FRAMES_PER_REQUEST;
            let share = limits::HTTP2_REQUESTS_PER_TURN_MAX.saturating_sub(read).max(1);
            while begun < share
                && let Some(id) = mux.http2.poll(self.now, &mut self.out)
            {
                begun += 1;
                self.begin_exchange(mux, slot, id);
            }
            mux.has_more = begun >= share;
            mux.admission.reads_ahead(mux.http2.ahead_bytes());
            self.drop_gone(mux, slot);
            self.ask_held(mux, slot);
            self.bring_uploads(mux, slot);
            self.bring_bodies(mux, slot);
            let was_full = mux.http2.is_full();
            mux.http2.take(|segment| match segment {
                Segment::Copied(bytes) => outbox(&mut self.outboxes, connection).push_copy(bytes),
                Segment::Shared(Piece::Bytes(bytes)) => {
                    outbox(&mut self.outboxes, connection).push_bytes(bytes);
                }
                Segment::Shared(Piece::Stored(pinned, range)) => {
                    outbox(&mut self.outboxes, connection).push_record(pinned, 0..0, range);
                }
            });
            self.drop_gone(mux, slot);
            let has_room = connection.outbox.as_ref().is_none_or(Outbox::has_room);
            if !(was_full && has_room) && (mux.has_more || mux.takes(&connection.stash) == 0) {
                break;
            }
        }
        mux.has_more |= self.may_ask_held(mux);
        let frames = mux.http2.take_frames() + begun * limits::HTTP2_FRAMES_PER_REQUEST;
        self.frames_left = self.frames_left.saturating_sub(frames);
        if let Some(flood) = mux.http2.take_flood() {
            self.cells.add(Counter::Http2Floods, 1);
            self.clients.cut_off(mux.place, self.now.mono_ms);
            tracing::debug!("HTTP/2 client cut off: too many {flood}");
        }
        self.check_faults(connection, faults);
        if mux.http2.is_over() && connection.phase == Phase::Open {
            connection.phase = Phase::Finishing;
            connection.stash = Vec::new();
        }
        connection.multiplex = Some(multiplex);
    }

    /// What the connection is told beside bytes.
    pub(super) fn tell_multiplex(&mut self, connection: &mut Connection, slot: u32, input: &Input<'_>) {
        let Some(mut multiplex) = connection.multiplex.take() else {
            return;
        };
        let mux = &mut *multiplex;
        match input {
            Input::Sent { bytes, .. } => mux.http2.sent(*bytes, self.now),
            Input::Deadline if !mux.http2.deadline(self.now, &mut self.out) => {
                connection.phase = Phase::Aborted;
            }
            Input::Deadline => {
                self.wait_no_longer_for_streams(mux, slot);
                self.hold_no_longer(mux, slot);
            }
            _ => {}
        }
        connection.multiplex = Some(multiplex);
    }

    /// Pages that a stream waits for are in memory, or cannot be had.
    pub(super) fn stream_populated(&mut self, connection: &mut Connection, slot: u32, id: u32, came: bool) {
        let Some(mut multiplex) = connection.multiplex.take() else {
            return;
        };
        let faults = fault::count();
        let mux = &mut *multiplex;
        if let Some(at) = mux.find(id) {
            let supply = &mut mux.supplies[at];
            if supply.parked.is_some() {
                self.unpark_stream(mux, slot, id, came);
            } else if std::mem::take(&mut supply.populating) {
                match came {
                    true => mux.http2.resume(id),
                    false => self.break_stream(mux, slot, id),
                }
            }
            // Else it has waited for long enough, and goes on without them.
        }
        self.check_faults(connection, faults);
        connection.multiplex = Some(multiplex);
    }

    /// Goes on with the lookup of a stream's request. `came`: its pages are in memory; else there is nothing to find.
    pub(super) fn unpark_stream(&mut self, mux: &mut Multiplex, slot: u32, id: u32, came: bool) {
        let parked = mux.find(id).and_then(|at| mux.supplies[at].parked.take());
        let Some(parked) = parked else {
            return;
        };
        let Parked { request, fresh, from_disk, waits, .. } = *parked;
        self.out.request = request;
        self.fetched = None;
        let lookup = Lookup { fresh, done: false, from_disk, waits, given_up: !came };
        self.carry_out(mux, slot, id, None, Answer::Lookup, lookup);
    }

    /// What control says about the request it has under this number.
    pub(super) fn answered(
        &mut self,
        connection: &mut Connection,
        slot: u32,
        serial: u64,
        joined: Option<Source>,
        input: Input<'_>,
    ) {
        let Some(mut multiplex) = connection.multiplex.take() else {
            return;
        };
        let faults = fault::count();
        if let Some(supply) = multiplex.supply_of(serial) {
            match joined {
                Some(source) => supply.source = source,
                None => {
                    supply.fetch = None;
                    self.asked(connection.place, false);
                }
            }
            let id = supply.id;
            self.tell_exchange(&mut multiplex, slot, id, input, None);
        }
        self.check_faults(connection, faults);
        connection.multiplex = Some(multiplex);
    }

    /// As [`Node::answered`], of an interim response: control goes on with the request.
    pub(super) fn interim(&mut self, connection: &mut Connection, slot: u32, serial: u64, input: Input<'_>) {
        let Some(mut multiplex) = connection.multiplex.take() else {
            return;
        };
        if let Some(id) = multiplex.supply_of(serial).map(|supply| supply.id) {
            self.tell_exchange(&mut multiplex, slot, id, input, None);
        }
        connection.multiplex = Some(multiplex);
    }

    /// As [`Node::answered`], with the request that comes back.
    pub(super) fn answered_again(
        &mut self,
        connection: &mut Connection,
        slot: u32,
        serial: u64,
        request: RequestHead,
        why: Again,
    ) {
        self.out.request = request;
        self.answered(connection, slot, serial, None, Input::Again(why));
    }

    /// The connection ends: whatever its streams still wait for is given up.
    pub(super) fn end_multiplex(&mut self, connection: &mut Connection, slot: u32) {
        if let Some(mut multiplex) = connection.multiplex.take() {
            for supply in std::mem::take(&mut multiplex.supplies) {
                self.let_go_of_stream(&mut multiplex, slot, supply);
            }
        }
    }

    /// What was read of a record since this count may have been zeroes in the place of a page that is gone.
    fn check_faults(&self, connection: &mut Connection, count: u64) {
        if fault::count() != count {
            self.cells.add(Counter::Broken, 1);
            connection.phase = Phase::Aborted;
        }
    }

    fn begin_exchange(&mut self, mux: &mut Multiplex, slot: u32, id: u32) {
        self.cells.add(Counter::Requests, 1);
        self.cells.add(Counter::Http2Requests, 1);
        self.fetched = None;
        let asked = self.out.actions.iter().any(|action| matches!(action, Action::Lookup | Action::Fetch(_)));
        if !asked {
            // Answered with an error, whole.
            return self.cells.add(Counter::Refused, 1);
        }
        let uploading = self.out.request.body != BodyLength::None;
        mux.supplies.push(Supply {
            id,
            source: Source::None,
            fetch: None,
            parts: None,
            parked: None,
            populating: false,
            held: None,
            uploading,
        });
        let lookup = Lookup { fresh: true, ..Lookup::default() };
        let answer = self.act_on(mux, slot, id, &mut None, None);
        self.carry_out(mux, slot, id, None, answer, lookup);
    }

    pub(super) fn tell_exchange(
        &mut self,
        mux: &mut Multiplex,
        slot: u32,
        id: u32,
        input: Input<'_>,
        given: Option<Piece<Pinned>>,
    ) {
        self.out.clear();
        mux.http2.on(id, input, self.now, &mut self.out);
        let mut given = given;
        let answer = self.act_on(mux, slot, id, &mut given, None);
        self.carry_out(mux, slot, id, given, answer, Lookup::default());
    }

    /// Tells the machine what it must hear until it asks for nothing more, or has to wait for the disk.
    pub(super) fn carry_out(
        &mut self,
        mux: &mut Multiplex,
        slot: u32,
        id: u32,
        mut given: Option<Piece<Pinned>>,
        mut answer: Answer,
        mut lookup: Lookup,
    ) {
        while answer != Answer::None {
            let http2 = &mut mux.http2;
            match self.tell_answer(answer, &mut lookup, |input, now, out| http2.on(id, input, now, out)) {
                Ok(found) => answer = self.act_on(mux, slot, id, &mut given, found),
                Err(cold) => return self.park_stream(mux, slot, id, cold, lookup),
            }
        }
        if lookup.fresh {
            self.count_answer(lookup);
        }
    }

    /// Puts a stream's request aside until its pages are in memory.
    #[cold]
    fn park_stream(&mut self, mux: &mut Multiplex, slot: u32, id: u32, cold: Cold, lookup: Lookup) {
        let waiter = mux.waiter(slot, id);
        if let Some(at) = mux.find(id) {
            mux.supplies[at].parked = Some(Box::new(Parked {
                request: self.out.request.clone(),
                fresh: lookup.fresh,
                from_disk: lookup.from_disk || cold.is_absent(),
                waits: lookup.waits + 1,
                until_ms: self.now.mono_ms + limits::POPULATE_WAIT_MS,
            }));
            self.populates.wait(cold, waiter);
        }
    }

    fn act_on(
        &mut self,
        mux: &mut Multiplex,
        slot: u32,
        id: u32,
        given: &mut Option<Piece<Pinned>>,
        mut found: Option<Pinned>,
    ) -> Answer {
        let Some(at) = mux.find(id) else {
            return Answer::None;
        };
        let mut answer = Answer::None;
        let actions = std::mem::take(&mut self.out.actions);
        for action in &actions {
            let Supply { source, fetch, parts, .. } = &mut mux.supplies[at];
            match action {
                Action::Lookup => answer = Answer::Lookup,
                Action::Refresh => self.refresh(),
                Action::Fetch(kind) => {
                    if !self.ask_in_turn(mux, slot, at, *kind) {
                        answer = Answer::Refused(503);
                    }
                }
                Action::StoredBody(range) => {
                    if let Some(pinned) = found.take() {
                        pinned.sending();
                        if let Some(object) = pinned.chunked() {
                            *source = Source::Chunks { object, offset: range.start, end: range.end };
                        } else {
                            let range = range.start as usize..range.end as usize;
                            mux.http2.piece(id, Piece::Stored(pinned, range));
                        }
                    }
                }
                Action::StoredPart { text, body } => {
                    if let Some(pinned) = found.take() {
                        *parts = Some(Box::new(Parts::new(pinned)));
                        *source = Source::Parts;
                    }
                    if let Some(parts) = parts {
                        parts.add(&self.out.bytes[text.clone()], body.clone());
                    }
                }
                Action::Piece => {
                    if let Some(piece) = given.take() {
                        mux.http2.piece(id, piece);
                    }
                }
                Action::Done => {
                    if fetch.is_some() {
                        mux.patience.shown();
                    }
                    self.release(source, fetch, (slot, mux.place), true);
                }
                Action::Abort => {
                    self.cells.add(Counter::Broken, 1);
                    self.release(source, fetch, (slot, mux.place), false);
                }
                Action::Write(_)
                | Action::StoredHead(_)
                | Action::Forward(_)
                | Action::ForwardTrailer(_)
                | Action::ForwardEnd
                | Action::Close => debug_assert!(false, "of HTTP/1.1 alone"),
            }
        }
        self.out.actions = actions;
        answer
    }

    /// Streams that ended: most have nothing left to let go of.
    fn drop_gone(&mut self, mux: &mut Multiplex, slot: u32) {
        while let Some(id) = mux.http2.gone() {
            self.drop_stream(mux, slot, id);
        }
    }

    pub(super) fn drop_stream(&mut self, mux: &mut Multiplex, slot: u32, id: u32) {
        if let Some(at) = mux.find(id) {
            let supply = mux.supplies.remove(at);
            self.let_go_of_stream(mux, slot, supply);
        }
    }
}
