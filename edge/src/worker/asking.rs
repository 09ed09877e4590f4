//! What a worker asks of control: fetches, refreshes, the bodies of requests. What comes back is in `mail`.
#![forbid(unsafe_code)]

use super::actions::Node;
use super::clients::Place;
use super::connection::{Connection, Fetch};
use super::waiting::Lookup;
use crate::control::mailbox::{StreamId, Ticket, ToControl};
use crate::limits;
use crate::proto::session::FetchKind;
use crate::stats::Counter;
use bytes::Bytes;

impl Node {
    pub(super) fn fetch(&mut self, connection: &mut Connection, slot: u32, kind: FetchKind) -> bool {
        connection.fetch = self.ask(slot, connection.place, kind);
        connection.fetch.is_some()
    }

    /// Hands the request at hand, of a client counted at this place, to control. `None`: there is no room, or none for
    /// this client.
    pub(super) fn ask(&mut self, slot: u32, place: Place, kind: FetchKind) -> Option<Fetch> {
        self.fetched = Some(kind);
        if !self.unsent.is_empty() {
            return None;
        }
        if self.clients.ask(place, self.now.mono_ms).is_err() {
            self.cells.add(Counter::ClientsHeldBack, 1);
            return None;
        }
        self.serial += 1;
        let ticket = Ticket { worker: self.worker, slot, serial: self.serial };
        let request = Box::new(self.out.request.clone());
        match self.mailbox.to_control.push(ToControl::Fetch { ticket, kind, request }) {
            Ok(wake) => self.wake_control |= wake,
            Err(_) => {
                self.clients.asked(place, false, self.now.mono_ms);
                return None;
            }
        }
        Some(Fetch { serial: self.serial, body_unacked: 0 })
    }

    /// Control has answered the request of a connection without a response.
    pub(super) fn let_go_of_fetch(&self, connection: &mut Connection) {
        if connection.fetch.take().is_some() {
            self.asked(connection.place, false);
        }
    }

    /// Control has done what a request of this client asked for, or will do it for nobody: the client has given it up.
    pub(super) fn asked(&self, place: Place, given_up: bool) {
        self.clients.asked(place, given_up, self.now.mono_ms);
        self.cells.add(Counter::GivenUp, u64::from(given_up));
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

    /// Counts what became of new bytes, by the actions they led to.
    pub(super) fn count(&mut self, connection: &mut Connection, lookup: Lookup) {
        if !lookup.done && self.fetched.is_none() {
            if !self.out.bytes.is_empty() {
                self.cells.add(Counter::Refused, 1);
            }
            return;
        }
        connection.requests = connection.requests.wrapping_add(1);
        self.cells.add(Counter::Requests, 1);
        self.count_answer(lookup);
    }

    /// Counts what a request that came with new bytes led to, whatever carries it.
    pub(super) fn count_answer(&self, lookup: Lookup) {
        let fetched = self.fetched.map(counter);
        self.cells.add(fetched.unwrap_or(Counter::Hits), 1);
        if lookup.waits > 0 && fetched.is_none() {
            let from = if lookup.from_disk { Counter::HitsFromDisk } else { Counter::HitsLookedAfter };
            self.cells.add(from, 1);
        }
    }

    /// Hands bytes of a request's body to control.
    pub(super) fn forward(&mut self, fetch: &mut Fetch, slot: u32, bytes: Bytes, last: bool) {
        fetch.body_unacked += bytes.len();
        let ticket = Ticket { worker: self.worker, slot, serial: fetch.serial };
        self.post(ToControl::Body { ticket, bytes, last });
    }

    /// Hands on some of what follows a request's body. Bounded by `REQUEST_TRAILER_BYTES_MAX`, they need no credit.
    pub(super) fn forward_trailer(&mut self, fetch: &Fetch, slot: u32, bytes: Bytes) {
        if !bytes.is_empty() {
            let ticket = Ticket { worker: self.worker, slot, serial: fetch.serial };
            self.post(ToControl::Trailer { ticket, bytes });
        }
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

/// What becomes of a request that control is asked for in this way.
fn counter(kind: FetchKind) -> Counter {
    match kind {
        FetchKind::Fill | FetchKind::Part => Counter::Misses,
        FetchKind::Revalidate => Counter::Revalidations,
        FetchKind::Pass | FetchKind::Upgrade => Counter::Passes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::control::mailbox::{Mailbox, ToWorker};
    use crate::proto::Now;
    use crate::proto::freshness::Storing;
    use crate::proto::http2::{PREFACE, frame};
    use crate::proto::response::OriginHead;
    use crate::proto::session::{Interim, Timeouts};
    use crate::stats::Counter;
    use crate::worker::simulated::Simulated;
    use std::collections::{BTreeMap, HashSet};
    use std::net::IpAddr;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::runtime::{Builder, EnterGuard, Runtime};

    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    const ENHANCE_YOUR_CALM: u8 = 11;
    const HTTP_1_1_REQUIRED: u8 = 13;

    fn get(stream: u32) -> Vec<u8> {
        let mut block = b"\x82\x87\x04\x08".to_vec();
        block.extend(format!("/{stream:07}").bytes());
        block.extend(b"\x01\x09edge.test");
        frame(HEADERS, 0x5, stream, &block)
    }

    fn reset(stream: u32) -> Vec<u8> {
        frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])
    }

    /// The numbers of so many streams.
    fn streams(count: u32) -> impl Iterator<Item = u32> + Clone {
        (0..count).map(|number| 2 * number + 1)
    }

    /// A worker without a store's content, and what control gets of it. No time passes by itself.
    struct Bench {
        worker: Simulated,
        mailbox: Arc<Mailbox>,
        still: &'static Runtime,
        _clock: clock::simulated::Simulated,
        _stands: EnterGuard<'static>,
    }

    impl Bench {
        fn new() -> Bench {
            let still = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            let still: &Runtime = Box::leak(Box::new(still));
            let stands = still.enter();
            let clock = clock::simulated::begin(Now { mono_ms: 1_000_000, unix_s: 1_800_000_000 });
            let mailbox = Mailbox::new().unwrap();
            let (_, mut readers) = crate::shard::simulated(32 * 1024, 8, 1);
            let view = (readers.remove(0), Arc::default());
            let worker = Simulated::new(0, view, mailbox.clone(), Timeouts::default());
            Bench { worker, mailbox, still, _clock: clock, _stands: stands }
        }

        fn connect(&mut self, address: u8) -> u32 {
            let slot = self.worker.connect_http2(IpAddr::from([10, 0, 0, address]));
            self.worker.receive(slot, &[PREFACE, &frame(SETTINGS, 0, 0, b"")[..]].concat());
            slot
        }

        /// Requests that control has got and nobody took back before it looked, and those that were taken back.
        fn asked(&mut self) -> (usize, usize) {
            let (mut asked, mut gone) = (HashSet::new(), 0);
            while let Some(message) = self.mailbox.to_control.pop() {
                match message {
                    ToControl::Fetch { ticket, .. } => assert!(asked.insert(ticket)),
                    ToControl::Gone { ticket } => {
                        asked.remove(&ticket);
                        gone += 1;
                    }
                    other => panic!("{other:?}"),
                }
            }
            (asked.len(), gone)
        }

        /// The requests that control has got, oldest first.
        fn tickets(&mut self) -> Vec<Ticket> {
            let mut tickets = Vec::new();
            while let Some(message) = self.mailbox.to_control.pop() {
                if let ToControl::Fetch { ticket, .. } = message {
                    tickets.push(ticket);
                }
            }
            tickets
        }

        /// Control answers a request, with one byte.
        fn answer(&mut self, ticket: Ticket) {
            let storing = Storing::No("test");
            let head = OriginHead { status: 200, lines: vec![], body_bytes: None, age_s: None, storing };
            let (stream, pieces) = (ticket.serial, vec![Bytes::from_static(b"x")]);
            let head = Arc::new(head);
            let open = ToWorker::Open { stream, head, sealed_bytes: 0, object: 0, pass: false, pieces };
            let join = ToWorker::Join { ticket, stream, part: None, collapsed: false };
            for message in [open, join, ToWorker::End { stream, trailers: Bytes::new() }] {
                assert!(self.mailbox.to_worker.push(message).is_ok());
            }
            assert_eq!(self.worker.turn(9), 3);
            assert_eq!(self.goaway(ticket.slot), None);
        }

        /// A client asks for so many objects on these streams, and control answers as they come to it. How many came at
        /// once.
        fn page(&mut self, slot: u32, ids: impl Iterator<Item = u32>) -> Vec<usize> {
            self.worker.receive(slot, &ids.flat_map(get).collect::<Vec<_>>());
            let mut came = Vec::new();
            loop {
                let tickets = self.tickets();
                if tickets.is_empty() {
                    return came;
                }
                came.push(tickets.len());
                tickets.into_iter().for_each(|ticket| self.answer(ticket));
            }
        }

        /// How many requests control has got of each slot.
        fn asked_by(&mut self) -> Vec<(u32, usize)> {
            let mut asked = BTreeMap::new();
            while let Some(message) = self.mailbox.to_control.pop() {
                let ToControl::Fetch { ticket, .. } = message else { panic!("{message:?}") };
                *asked.entry(ticket.slot).or_default() += 1;
            }
            asked.into_iter().collect()
        }

        /// The error code of the GOAWAY that this client got last.
        fn goaway(&mut self, slot: u32) -> Option<u8> {
            let mut room = [0; 64 * 1024];
            let taken = self.worker.take(slot, &mut room);
            let (mut frames, mut code) = (&room[..taken], None);
            while let Some((head, rest)) = frames.split_first_chunk::<9>() {
                let bytes = usize::from(head[1]) << 8 | usize::from(head[2]);
                code = if head[3] == GOAWAY { Some(rest[7]) } else { code };
                frames = &rest[bytes..];
            }
            code
        }
    }

    #[test]
    fn a_page_of_a_hundred_objects_that_are_not_stored_is_asked_for_at_once() {
        let mut bench = Bench::new();
        let slot = bench.connect(1);
        bench.worker.receive(slot, &streams(100).flat_map(get).collect::<Vec<_>>());
        assert_eq!(bench.asked(), (100, 0));
        assert_eq!(bench.goaway(slot), None);
        // It is left for another one.
        bench.worker.receive(slot, &streams(100).flat_map(reset).collect::<Vec<_>>());
        assert_eq!(bench.asked(), (0, 100));
        let next = streams(128).skip(100);
        bench.worker.receive(slot, &next.flat_map(get).collect::<Vec<_>>());
        assert_eq!(bench.asked(), (28, 0));
        assert_eq!(bench.goaway(slot), None);
    }

    /// The disk did not answer in time, and the origin was asked: what the disk says then concerns nobody.
    #[test]
    fn a_disk_that_fails_late_breaks_off_no_stream() {
        let mut bench = Bench::new();
        let slot = bench.connect(1);
        bench.worker.receive(slot, &get(1));
        for came in [true, false] {
            bench.worker.populated(slot, 1, came);
        }
        assert_eq!(bench.asked(), (1, 0), "control is still asked");
        assert_eq!(bench.worker.count(Counter::Broken), 0);
    }

    /// Else many clients behind one address would be held back for what their origin does.
    #[test]
    fn a_response_that_breaks_off_is_not_the_clients_to_answer_for() {
        let mut bench = Bench::new();
        let two = bench.connect(1);
        bench.worker.receive(two, &get(1));
        let one = bench.worker.connect();
        bench.worker.receive(one, b"GET /a HTTP/1.1\r\nHost: edge.test\r\n\r\n");
        let head = Arc::new(OriginHead {
            status: 200,
            lines: Vec::new(),
            body_bytes: Some(9),
            age_s: None,
            storing: Storing::No("x"),
        });
        for stream in [1, 2] {
            let Some(ToControl::Fetch { ticket, .. }) = bench.mailbox.to_control.pop() else { panic!() };
            let pieces = vec![Bytes::from_static(b"some")];
            let (sealed_bytes, object, pass) = (0, 0, false);
            let open = ToWorker::Open { stream, head: head.clone(), sealed_bytes, object, pass, pieces };
            let join = ToWorker::Join { ticket, stream, part: None, collapsed: false };
            for message in [open, join, ToWorker::Broken { stream }] {
                let _ = bench.mailbox.to_worker.push(message);
            }
        }
        assert_eq!(bench.worker.turn(9), 6);
        let mut room = [0; 4096];
        while bench.worker.take(one, &mut room) + bench.worker.take(two, &mut room) > 0 {}
        let counts = [Counter::Broken, Counter::GivenUp];
        assert_eq!(counts.map(|counter| bench.worker.count(counter)), [2, 0]);
        assert_eq!(bench.worker.streams(), 0);
        assert_eq!(bench.asked(), (0, 0));
    }

    #[test]
    fn streams_that_are_reset_with_what_opens_them_ask_nothing() {
        let mut bench = Bench::new();
        let slot = bench.connect(1);
        let bytes: Vec<u8> = streams(100).flat_map(|id| [get(id), reset(id)].concat()).collect();
        bench.worker.receive(slot, &bytes);
        assert_eq!(bench.asked(), (0, 0));
        bench.worker.receive(slot, &get(301));
        assert_eq!(bench.asked(), (1, 0), "the connection goes on");
    }

    #[test]
    fn who_resets_what_was_asked_for_is_cut_off() {
        let mut bench = Bench::new();
        let slot = bench.connect(1);
        let mut sum = 0;
        for id in streams(1000) {
            bench.worker.receive(slot, &get(id));
            bench.worker.receive(slot, &reset(id));
            let (left, gone) = bench.asked();
            assert_eq!(left, 0, "what control has of a stream that is gone is taken back");
            sum += gone;
        }
        let most = limits::HTTP2_GIVEN_UP_MAX as usize;
        assert!((most..most + 10).contains(&sum), "{sum}");
        assert_eq!(bench.goaway(slot), Some(ENHANCE_YOUR_CALM));
    }

    #[test]
    fn a_reset_takes_its_request_back_however_it_is_cut() {
        let mut bench = Bench::new();
        let slot = bench.connect(1);
        for (id, cut) in streams(12).zip(1..) {
            bench.worker.receive(slot, &get(id));
            assert_eq!(bench.asked(), (1, 0));
            let reset = reset(id);
            bench.worker.receive(slot, &reset[..cut]);
            bench.worker.receive(slot, &reset[cut..]);
            assert_eq!(bench.asked(), (0, 1), "cut at {cut}");
        }
    }

    /// Has the node meet resets from as many addresses as connections, of misses that control was asked for.
    fn flood(bench: &mut Bench, connections: u32) -> usize {
        let mut asked = 0;
        for number in 0..connections {
            let [.., a, b] = number.to_be_bytes();
            let slot = bench.worker.connect_http2(IpAddr::from([10, 1, a, b]));
            bench.worker.receive(slot, &[PREFACE, &frame(SETTINGS, 0, 0, b"")[..]].concat());
            for page in 0..2 {
                let ids = || streams(200).skip(100 * page).take(100);
                bench.worker.receive(slot, &ids().flat_map(get).collect::<Vec<_>>());
                asked += bench.tickets().len();
                bench.worker.receive(slot, &ids().flat_map(reset).collect::<Vec<_>>());
            }
            assert_eq!(bench.goaway(slot), Some(ENHANCE_YOUR_CALM), "{number}");
        }
        asked
    }

    #[test]
    fn resets_from_as_many_addresses_as_connections_make_control_do_little() {
        let mut bench = Bench::new();
        let few = limits::GIVEN_UP_PER_NODE_MAX / 100;
        flood(&mut bench, few);
        let more = 100 * limits::HTTP2_FETCHES_UNPROVEN as usize;
        let asked = flood(&mut bench, 100);
        assert!((more / 2..=2 * more).contains(&asked), "{asked}");
        assert!(bench.worker.count(Counter::Held) > 0);
        // What they had wait has gone with them.
        let slot = bench.connect(1);
        bench.worker.receive(slot, &get(1));
        assert_eq!(bench.asked(), (1, 0));
    }

    /// Whoever waits for answers gets all of them meanwhile; whoever has waited for some before is not concerned at all.
    #[test]
    fn while_resets_abound_who_waits_gets_ever_more_at_once() {
        let mut bench = Bench::new();
        let known = bench.connect(1);
        assert_eq!(bench.page(known, streams(64)), [64]);
        assert_eq!(bench.page(known, streams(128).skip(64)), [64]);
        flood(&mut bench, limits::GIVEN_UP_PER_NODE_MAX / 100 + 1);
        let held = bench.worker.count(Counter::Held);
        assert_eq!(bench.page(known, streams(228).skip(128)), [100]);
        assert_eq!(bench.worker.count(Counter::Held), held);
        let slot = bench.connect(2);
        assert_eq!(bench.page(slot, streams(100)), [2, 4, 8, 16, 32, 38]);
        assert_eq!(bench.worker.count(Counter::Held), held + 98);
        assert_eq!(bench.page(slot, streams(200).skip(100)), [100]);
        // A page that it leaves then is within what it has shown.
        bench.worker.receive(slot, &streams(250).skip(200).flat_map(get).collect::<Vec<_>>());
        bench.worker.receive(slot, &streams(250).skip(200).flat_map(reset).collect::<Vec<_>>());
        assert_eq!((bench.goaway(slot), bench.asked()), (None, (0, 50)));
        // Of another one it is not; and once they are forgiven nobody waits.
        let slot = bench.connect(3);
        bench.worker.receive(slot, &streams(9).flat_map(get).collect::<Vec<_>>());
        bench.worker.receive(slot, &streams(9).flat_map(reset).collect::<Vec<_>>());
        assert_eq!(bench.goaway(slot), Some(ENHANCE_YOUR_CALM));
        bench.asked();
        bench.still.block_on(tokio::time::advance(Duration::from_secs(20)));
        let slot = bench.connect(4);
        assert_eq!(bench.page(slot, streams(100)), [100]);
    }

    #[test]
    fn what_waits_too_long_for_its_turn_is_refused() {
        let mut bench = Bench::new();
        flood(&mut bench, 2 * limits::GIVEN_UP_PER_NODE_MAX / 100);
        let slot = bench.connect(1);
        bench.worker.receive(slot, &streams(20).flat_map(get).collect::<Vec<_>>());
        let most = limits::HTTP2_FETCHES_UNPROVEN as usize;
        assert_eq!(bench.asked(), (most, 0));
        let refused = bench.worker.count(Counter::Overflows);
        bench.still.block_on(tokio::time::advance(Duration::from_millis(limits::HTTP2_FETCH_HELD_MS - 1)));
        bench.worker.turn(9);
        assert_eq!(bench.worker.count(Counter::Overflows), refused);
        bench.still.block_on(tokio::time::advance(Duration::from_millis(1)));
        bench.worker.turn(9);
        assert_eq!(bench.worker.count(Counter::Overflows), refused + 20 - most as u64);
        assert_eq!((bench.goaway(slot), bench.asked()), (None, (0, 0)));
    }

    /// One client comes again and again, and leaves what it has asked for; another one has its share.
    #[test]
    fn connections_that_ask_and_leave_are_held_back_and_others_are_not() {
        const PAGE: u32 = 100;
        let mut bench = Bench::new();
        let ask_and_leave = |bench: &mut Bench, slot| {
            bench.worker.receive(slot, &streams(PAGE).flat_map(get).collect::<Vec<_>>());
            bench.worker.reset(slot);
            let (left, gone) = bench.asked();
            assert_eq!(left, 0);
            gone
        };
        // One after the other: HTTP/2 is spoken as long as what one connection may give up has room.
        let mut sum = 0;
        for _ in 0..100 {
            let slot = bench.connect(1);
            sum += ask_and_leave(&mut bench, slot);
        }
        let most = limits::GIVEN_UP_PER_CLIENT_MAX as usize;
        let held = most - limits::HTTP2_GIVEN_UP_MAX as usize;
        assert!((held..=held + PAGE as usize).contains(&sum), "{sum}");
        let slot = bench.connect(1);
        assert_eq!(bench.goaway(slot), Some(HTTP_1_1_REQUIRED));
        // All of them there before the first leaves.
        let slots: Vec<u32> = (0..100).map(|_| bench.connect(3)).collect();
        let sum: usize = slots.into_iter().map(|slot| ask_and_leave(&mut bench, slot)).sum();
        assert!((most..most + 2 * PAGE as usize).contains(&sum), "{sum}");
        let slot = bench.connect(2);
        bench.worker.receive(slot, &streams(100).flat_map(get).collect::<Vec<_>>());
        assert_eq!(bench.asked(), (100, 0));
    }

    /// Leave to send a body comes from control, once, and to nobody who has begun to send.
    #[test]
    fn a_client_that_waits_for_leave_gets_controls() {
        const DATA: u8 = 0;
        let put = |stream: u32| {
            let block = b"\x42\x03PUT\x87\x04\x02/a\x01\x09edge.test\x00\x06expect\x0c100-continue";
            frame(HEADERS, 0x4, stream, block)
        };
        let mut bench = Bench::new();
        let slot = bench.connect(1);
        let mut room = [0; 4096];
        bench.worker.take(slot, &mut room);
        bench.worker.receive(slot, &[put(1), put(3), frame(DATA, 0, 3, b"x")].concat());
        assert_eq!(bench.worker.take(slot, &mut room), 0, "it is not the worker's to give");
        let mut asked = Vec::new();
        while let Some(message) = bench.mailbox.to_control.pop() {
            if let ToControl::Fetch { ticket, request, .. } = message {
                assert!(request.expect_continue);
                asked.push(ticket);
            }
        }
        for ticket in [asked[0], asked[0], asked[1]] {
            let interim = Box::new(Interim::go_on());
            let _ = bench.mailbox.to_worker.push(ToWorker::Interim { ticket, interim });
        }
        assert_eq!(bench.worker.turn(9), 3);
        let taken = bench.worker.take(slot, &mut room);
        // A literal for the name at 8, `:status`; `100` in Huffman's code (RFC 7541 section 6.2.1).
        let go_on = frame(HEADERS, 0x4, 1, b"\x48\x82\x08\x01");
        assert_eq!(room[..taken], go_on, "one 100, to the one that waits");
    }

    /// Eight connections open all the streams they may, in one turn. It and those that follow begin so many requests
    /// each and no more; every connection has its share of them; and who asks over HTTP/1.1 meanwhile is heard at once.
    #[test]
    fn a_turn_begins_its_share_of_requests_and_the_next_turns_the_others() {
        const CONNECTIONS: u32 = 8;
        let mut bench = Bench::new();
        let slots: Vec<u32> = (0..CONNECTIONS).map(|number| bench.connect(number as u8 + 1)).collect();
        let other = bench.worker.connect();
        for slot in &slots {
            bench.worker.arrive(*slot, &streams(limits::HTTP2_STREAMS_MAX).flat_map(get).collect::<Vec<_>>());
        }
        let turn_most = u64::from(limits::HTTP2_FRAMES_PER_TURN_MAX / limits::HTTP2_FRAMES_PER_REQUEST);
        let share = limits::HTTP2_REQUESTS_PER_TURN_MAX as usize;
        let mut begun = vec![0; slots.len()];
        let (mut turns, mut more) = (0, true);
        while more {
            let before = bench.worker.count(Counter::Requests);
            bench.worker.arrive(other, b"GET /turn HTTP/1.1\r\nHost: edge.test\r\n\r\n");
            if turns == 0 {
                assert_eq!(bench.asked_by(), [(other, 1)], "those over HTTP/2 wait for the end of the turn");
            }
            more = bench.worker.end_turn();
            let requests = bench.worker.count(Counter::Requests) - before;
            assert!(requests <= turn_most + share as u64, "{requests} in turn {turns}");
            for (slot, asked) in bench.asked_by() {
                assert!(asked <= share, "{asked} of connection {slot} in turn {turns}");
                begun[slot as usize] += asked;
            }
            assert!(begun.iter().max().unwrap() - begun.iter().min().unwrap() <= share, "{begun:?}");
            turns += 1;
        }
        assert!(begun.iter().all(|count| *count == limits::HTTP2_STREAMS_MAX as usize), "{begun:?}");
        assert!(turns >= 1024 / turn_most, "{turns}");
    }

    #[test]
    fn one_connection_goes_on_in_the_next_turn_and_then_no_turn_is_left() {
        let mut bench = Bench::new();
        let slot = bench.connect(1);
        bench.worker.arrive(slot, &streams(40).flat_map(get).collect::<Vec<_>>());
        let most = limits::HTTP2_REQUESTS_PER_TURN_MAX as usize;
        let first = most - 40 / limits::HTTP2_FRAMES_PER_REQUEST as usize;
        for (begun, more) in [(first, true), (most, true), (40 - first - most, false)] {
            assert_eq!(bench.worker.end_turn(), more);
            assert_eq!(bench.asked(), (begun, 0));
        }
    }

    /// What comes on a connection that waits for its turn is read with what came before: a stream that is reset
    /// meanwhile is not begun.
    #[test]
    fn what_is_reset_before_its_turn_comes_asks_nothing() {
        let mut bench = Bench::new();
        let slot = bench.connect(1);
        bench.worker.arrive(slot, &streams(100).flat_map(get).collect::<Vec<_>>());
        assert!(bench.worker.end_turn());
        let most = (limits::HTTP2_REQUESTS_PER_TURN_MAX - 100 / limits::HTTP2_FRAMES_PER_REQUEST) as usize;
        assert_eq!(bench.asked(), (most, 0));
        bench.worker.receive(slot, &streams(100).flat_map(reset).collect::<Vec<_>>());
        assert_eq!(bench.asked(), (0, most));
    }

    /// What it has asked for and what it has sent that was not begun: nothing can be told to it any more.
    #[test]
    fn a_client_whose_records_are_refused_asks_for_nothing_more() {
        let mut bench = Bench::new();
        let slot = bench.connect(1);
        bench.worker.arrive(slot, &streams(100).flat_map(get).collect::<Vec<_>>());
        assert!(bench.worker.end_turn(), "some are left for the next turn");
        bench.worker.fail_secure(slot);
        let (left, gone) = bench.asked();
        assert!(gone > 0 && gone <= limits::HTTP2_REQUESTS_PER_TURN_MAX as usize, "{gone}");
        assert_eq!(left, 0);
    }

    /// Over HTTP/1.1 the outbox bounds what pipelined requests make of one turn.
    #[test]
    fn pipelined_requests_are_answered_as_far_as_there_is_room_to_send() {
        const REQUEST: &[u8] = b"GET /a HTTP/1.1\r\nHost: edge.test\r\nCache-Control: only-if-cached\r\n\r\n";
        let mut bench = Bench::new();
        let slot = bench.worker.connect();
        bench.worker.arrive(slot, &REQUEST.repeat(400));
        let (mut room, mut before) = (vec![0; 64 * 1024], 0);
        loop {
            let requests = bench.worker.count(Counter::Requests);
            assert!((1..=32).contains(&(requests - before)), "{requests} after {before}");
            before = requests;
            if requests == 400 {
                break;
            }
            assert!(bench.worker.take(slot, &mut room) > 0);
        }
    }

    #[test]
    fn one_client_does_not_fill_the_way_to_control() {
        let mut bench = Bench::new();
        for _ in 0..20 {
            let slot = bench.connect(1);
            bench.worker.receive(slot, &streams(100).flat_map(get).collect::<Vec<_>>());
        }
        let slot = bench.connect(2);
        bench.worker.receive(slot, &streams(100).flat_map(get).collect::<Vec<_>>());
        assert_eq!(bench.asked(), (limits::FETCHES_PER_CLIENT_MAX as usize + 100, 0));
    }
}
