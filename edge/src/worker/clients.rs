//! How many connections each client has, and how much it makes control do, on all workers together: a table of fixed
//! size that they share without a lock.
//!
//! A client is an IPv4 address, or the /64 of an IPv6 one, which is the least that a subscriber is given
//! (RFC 6177). It is counted in one of a few neighbouring places: the hash of its address under a secret of this run,
//! and the number of its connections. Where two workers meet in the first connection of a client, one of them takes
//! another place, and the client may have twice as many until one of the two is empty; where all its places are taken
//! by others, it is not counted. Neither can be brought about by choice, for the hash is secret.
//!
//! What is asked of control costs far more than a hit, and most where nobody waits for the answer: a client that asks and
//! leaves, by a reset of the stream or of the connection, can ask as fast as it can send. So each has at most so many
//! requests at control at once, and one that gives up more than it is allowed to has to wait before it may ask again.
//! That outlasts its connections, until another client takes its place in the table.
//!
//! Nor does a bound for each client help where every one of them comes from another address. So what all together give up
//! has a bound as well, beyond which nobody is refused, but HTTP/2 connections have to show that they wait for answers
//! before they get many at once; see `patience`.
//!
//! HTTP/2 makes such floods cheap for who sends them, and each connection that is cut off for one has cost something before.
//! A client that comes again and again is met with HTTP/1.1 alone for a while: others behind its address are served on.
#![forbid(unsafe_code)]

use crate::config::Network;
use crate::limits;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Bits of the number of connections.
const COUNT_BITS: u32 = 20;
const COUNT: u64 = (1 << COUNT_BITS) - 1;
/// Neighbouring places a client may be counted in: two cache lines.
const PROBES: usize = 16;
/// Places for each connection the node can have; half of them stay empty even if all are of different clients.
const PLACES_PER_CONNECTION: usize = 2;

/// Milliseconds after which one request that was given up is forgiven, and those that may stand at once.
const GIVEN_UP_MS: u64 = 1000 / limits::GIVEN_UP_PER_SECOND as u64;
const GIVEN_UP_MAX_MS: u64 = limits::GIVEN_UP_PER_CLIENT_MAX as u64 * GIVEN_UP_MS;
/// The same that may stand while HTTP/2 is spoken: then there is room for what one connection may give up.
const GIVEN_UP_HTTP2_MS: u64 = GIVEN_UP_MAX_MS - limits::HTTP2_GIVEN_UP_MAX as u64 * GIVEN_UP_MS;
/// The same of all clients together.
const GIVEN_UP_BY_ALL_MS: u64 = 1000 / limits::GIVEN_UP_PER_NODE_PER_SECOND as u64;
const GIVEN_UP_BY_ALL_MAX_MS: u64 = limits::GIVEN_UP_PER_NODE_MAX as u64 * GIVEN_UP_BY_ALL_MS;
/// Milliseconds after which one connection that was cut off is forgiven, and those at which HTTP/2 is spoken no more.
const CUT_OFF_MS: u64 = 1000 * limits::HTTP2_CUT_OFF_FORGIVEN_S;
const CUT_OFF_MAX_MS: u64 = (limits::HTTP2_CUT_OFF_PER_CLIENT_MAX as u64 - 1) * CUT_OFF_MS;

const _: () = assert!(limits::CONNECTIONS_PER_CLIENT_MAX <= COUNT as u32);

/// The table.
pub struct Clients {
    places: Box<[AtomicU64]>,
    /// By the same numbers.
    work: Box<[Work]>,
    most: u32,
    unlimited: Vec<Network>,
    secret: RandomState,
    /// Monotonic milliseconds at which all that all clients gave up is forgiven.
    forgiven_ms: AtomicU64,
}

/// What control does for one client.
#[derive(Default)]
struct Work {
    /// Monotonic milliseconds at which all that the client gave up is forgiven.
    forgiven_ms: AtomicU64,
    /// The same of its connections that were cut off.
    calm_ms: AtomicU64,
    /// Its requests at control.
    under_way: AtomicU32,
}

/// Where a connection is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u32);

impl Place {
    /// Nowhere.
    pub const NONE: Place = Place(u32::MAX);
}

/// The client has as many connections, or asks of control as much, as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl Clients {
    /// For a node that can have so many `connections`: at most `most` for each client, but for those in `unlimited`.
    pub fn new(connections: usize, most: u32, unlimited: Vec<Network>) -> Self {
        let places = 0..Self::places(connections);
        Clients {
            work: places.clone().map(|_| Work::default()).collect(),
            places: places.map(|_| AtomicU64::new(0)).collect(),
            most,
            unlimited,
            secret: RandomState::new(),
            forgiven_ms: AtomicU64::new(0),
        }
    }

    /// Bytes of the table.
    pub fn bytes(connections: usize) -> usize {
        Self::places(connections) * (size_of::<AtomicU64>() + size_of::<Work>())
    }

    fn places(connections: usize) -> usize {
        connections.saturating_mul(PLACES_PER_CONNECTION).clamp(PROBES, u32::MAX as usize - 1)
    }

    /// Counts a connection of the client at this address.
    ///
    /// # Errors
    /// [`Full`]: it is not counted, and must be closed.
    pub fn enter(&self, address: IpAddr) -> Result<Place, Full> {
        if self.unlimited.iter().any(|network| network.contains(address)) {
            return Ok(Place::NONE);
        }
        let hash = self.secret.hash_one(client(address));
        // Each round lost is one that another worker has won.
        loop {
            if let Some(result) = self.try_enter(hash) {
                return result;
            }
        }
    }

    /// `None`: another worker was faster.
    fn try_enter(&self, hash: u64) -> Option<Result<Place, Full>> {
        let own = hash & !COUNT;
        let mut empty = None;
        for at in self.probes(hash) {
            let seen = self.places[at].load(Relaxed);
            if seen & !COUNT == own {
                if seen & COUNT >= u64::from(self.most) {
                    return Some(Err(Full));
                }
                return self.replace(at, seen, seen + 1);
            } else if seen & COUNT == 0 {
                empty = empty.or(Some((at, seen)));
            }
        }
        let Some((at, seen)) = empty else {
            return Some(Ok(Place::NONE));
        };
        let entered = self.replace(at, seen, own | 1)?;
        // Another client's, whose connections have all ended, and so its requests.
        self.work[at].forgiven_ms.store(0, Relaxed);
        self.work[at].calm_ms.store(0, Relaxed);
        Some(entered)
    }

    /// The places of a client; the bits that choose them are not those that tell clients apart in them.
    fn probes(&self, hash: u64) -> impl Iterator<Item = usize> {
        let (mixed, len) = (hash.wrapping_mul(0x9e37_79b9_7f4a_7c15), self.places.len());
        let first = ((u128::from(mixed) * len as u128) >> 64) as usize;
        (first..first + PROBES).map(move |at| at % len)
    }

    fn replace(&self, at: usize, seen: u64, new: u64) -> Option<Result<Place, Full>> {
        // Numbers alone: nothing else is handed over with them.
        let done = self.places[at].compare_exchange(seen, new, Relaxed, Relaxed);
        done.ok().map(|_| Ok(Place(at as u32)))
    }

    /// A connection that was counted here is closed.
    pub fn leave(&self, place: Place) {
        if place != Place::NONE {
            let before = self.places[place.0 as usize].fetch_sub(1, Relaxed);
            debug_assert!(before & COUNT > 0, "each connection leaves once");
        }
    }

    /// Counts a request that control is asked for.
    ///
    /// # Errors
    /// [`Full`]: it is not counted, and control must not be asked.
    pub fn ask(&self, place: Place, now_ms: u64) -> Result<(), Full> {
        let Some(work) = self.work.get(place.0 as usize) else {
            return Ok(());
        };
        if work.forgiven_ms.load(Relaxed) > now_ms + GIVEN_UP_MAX_MS {
            return Err(Full);
        }
        let more = |count| (count < limits::FETCHES_PER_CLIENT_MAX).then_some(count + 1);
        work.under_way.fetch_update(Relaxed, Relaxed, more).map(|_| ()).map_err(|_| Full)
    }

    /// A request that was counted is over. `given_up`: the client did not wait for its end.
    pub fn asked(&self, place: Place, given_up: bool, now_ms: u64) {
        let Some(work) = self.work.get(place.0 as usize) else {
            return;
        };
        let before = work.under_way.fetch_sub(1, Relaxed);
        debug_assert!(before > 0, "each request is over once");
        if given_up {
            self.give_up(place, now_ms);
        }
    }

    /// A request that control was to be asked for was given up, whether it has been or not.
    pub fn give_up(&self, place: Place, now_ms: u64) {
        let Some(work) = self.work.get(place.0 as usize) else {
            return;
        };
        add(&work.forgiven_ms, GIVEN_UP_MS, now_ms);
        // No more than twice what may stand, so that it is over soon after it ends.
        let most_ms = now_ms + 2 * GIVEN_UP_BY_ALL_MAX_MS;
        let later = |until_ms: u64| Some((until_ms.max(now_ms) + GIVEN_UP_BY_ALL_MS).min(most_ms));
        // It always has a value.
        let _ = self.forgiven_ms.fetch_update(Relaxed, Relaxed, later);
    }

    /// Whether all clients together give up more than they may, which concerns the one counted here.
    pub fn give_up_too_much(&self, place: Place, now_ms: u64) -> bool {
        place != Place::NONE && self.forgiven_ms.load(Relaxed) > now_ms + GIVEN_UP_BY_ALL_MAX_MS
    }

    /// A connection of this client was cut off for a flood.
    pub fn cut_off(&self, place: Place, now_ms: u64) {
        if let Some(work) = self.work.get(place.0 as usize) {
            add(&work.calm_ms, CUT_OFF_MS, now_ms);
        }
    }

    /// Whether HTTP/2 may be spoken on another connection of this client.
    pub fn may_multiplex(&self, place: Place, now_ms: u64) -> bool {
        self.work.get(place.0 as usize).is_none_or(|work| {
            work.calm_ms.load(Relaxed) <= now_ms + CUT_OFF_MAX_MS
                && work.forgiven_ms.load(Relaxed) <= now_ms + GIVEN_UP_HTTP2_MS
        })
    }
}

/// One more that is to be forgiven, after those that stand.
fn add(until_ms: &AtomicU64, forgiven_after_ms: u64, now_ms: u64) {
    let later = |until_ms: u64| Some(until_ms.max(now_ms) + forgiven_after_ms);
    // It always has a value.
    let _ = until_ms.fetch_update(Relaxed, Relaxed, later);
}

/// What connections of one client have in common.
fn client(address: IpAddr) -> u64 {
    match address.to_canonical() {
        // No /64 of the Internet begins with zeroes (RFC 4291 section 2.4), so the two do not meet.
        IpAddr::V4(address) => u64::from(address.to_bits()),
        IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::ops::Range;

    fn v4(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(0x0a00_0000 | number).into()
    }

    fn taken(clients: &Clients) -> u64 {
        clients.places.iter().map(|place| place.load(Relaxed) & COUNT).sum()
    }

    #[test]
    fn a_client_is_an_address_or_a_slash_64() {
        let clients = Clients::new(100, 2, Vec::new());
        let v6 = |text: &str| text.parse::<Ipv6Addr>().map(IpAddr::from).unwrap();
        for address in [v4(1), v4(2), v6("2001:db8::1")] {
            let first = clients.enter(address).unwrap();
            assert_eq!(clients.enter(address), Ok(first));
            assert_eq!(clients.enter(address), Err(Full));
        }
        assert_eq!(clients.enter(v6("2001:db8::ffff:0:0:2")), Err(Full), "the same /64");
        assert!(clients.enter(v6("2001:db8:0:1::1")).is_ok(), "another /64");
        assert_eq!(clients.enter(v6("::ffff:10.0.0.1")), Err(Full), "the IPv4 address");
    }

    #[test]
    fn who_leaves_makes_room_and_an_empty_place_is_used_again() {
        let clients = Clients::new(100, 1, Vec::new());
        for _ in 0..3 {
            let places: Vec<Place> = (0..100).map(|number| clients.enter(v4(number)).unwrap()).collect();
            assert!((0..100).all(|number| clients.enter(v4(number)) == Err(Full)));
            assert_eq!(taken(&clients), 100);
            places.into_iter().for_each(|place| clients.leave(place));
            assert_eq!(taken(&clients), 0);
        }
    }

    #[test]
    fn a_full_table_refuses_nobody() {
        let clients = Clients::new(1, 5, Vec::new());
        let places: Vec<Place> = (0..20).map(|number| clients.enter(v4(number)).unwrap()).collect();
        assert_eq!(places.iter().filter(|place| **place == Place::NONE).count(), 20 - PROBES);
        places.into_iter().for_each(|place| clients.leave(place));
        assert_eq!(taken(&clients), 0);
    }

    #[test]
    fn some_networks_are_not_counted() {
        let clients = Clients::new(100, 1, vec![Network::new(v4(0), 24).unwrap()]);
        assert!((0..50).all(|number| clients.enter(v4(number % 3)) == Ok(Place::NONE)));
        assert!(clients.enter(v4(256)).is_ok_and(|place| place != Place::NONE));
        assert_eq!(clients.enter(v4(256)), Err(Full));
    }

    #[test]
    fn a_client_has_so_many_requests_at_control_and_no_more() {
        let clients = Clients::new(100, 9, Vec::new());
        let one = clients.enter(v4(1)).unwrap();
        let other = clients.enter(v4(2)).unwrap();
        assert!((0..limits::FETCHES_PER_CLIENT_MAX).all(|_| clients.ask(one, 5).is_ok()));
        assert_eq!(clients.ask(one, 5), Err(Full));
        assert_eq!(clients.ask(clients.enter(v4(1)).unwrap(), 5), Err(Full), "another connection of it");
        assert_eq!((clients.ask(other, 5), clients.ask(Place::NONE, 5)), (Ok(()), Ok(())));
        clients.asked(one, false, 6);
        assert_eq!((clients.ask(one, 6), clients.ask(one, 6)), (Ok(()), Err(Full)));
    }

    /// Who asks and leaves is held back when it has done so too often, whatever connection it comes with, and only
    /// until that is forgiven; who waits for its answers never is.
    #[test]
    fn who_gives_up_too_much_has_to_wait() {
        let clients = Clients::new(100, 9, Vec::new());
        let mut now_ms = 1_000_000;
        let patient = clients.enter(v4(2)).unwrap();
        for _ in 0..10 * limits::GIVEN_UP_PER_CLIENT_MAX {
            clients.ask(patient, now_ms).unwrap();
            clients.asked(patient, false, now_ms);
        }
        let mut asked = 0;
        for _ in 0..10 * limits::GIVEN_UP_PER_CLIENT_MAX {
            let place = clients.enter(v4(1)).unwrap();
            if clients.ask(place, now_ms).is_ok() {
                asked += 1;
                clients.asked(place, true, now_ms);
            }
            clients.leave(place);
        }
        assert_eq!(asked, limits::GIVEN_UP_PER_CLIENT_MAX + 1);
        let place = clients.enter(v4(1)).unwrap();
        for _ in 0..10 * limits::GIVEN_UP_PER_SECOND {
            now_ms += 1000 / u64::from(limits::GIVEN_UP_PER_SECOND) / 2;
            if clients.ask(place, now_ms).is_ok() {
                asked += 1;
                clients.asked(place, true, now_ms);
            }
        }
        assert_eq!(asked, limits::GIVEN_UP_PER_CLIENT_MAX + 1 + 5 * limits::GIVEN_UP_PER_SECOND);
    }

    /// From as many addresses as requests: no client has passed its own bound.
    #[test]
    fn what_all_give_up_together_is_known_and_soon_forgiven() {
        let clients = Clients::new(100_000, 9, vec![Network::new(v4(0x1_0000), 16).unwrap()]);
        let (unlimited, now_ms) = (v4(0x1_0001), 1_000_000);
        let other = clients.enter(v4(0xffff)).unwrap();
        let give_up = |numbers: Range<u32>, now_ms: u64| {
            for number in numbers {
                let place = clients.enter(v4(number)).unwrap();
                clients.ask(place, now_ms).unwrap();
                clients.asked(place, true, now_ms);
                clients.leave(place);
            }
            clients.give_up_too_much(other, now_ms)
        };
        let none = 0..0;
        assert!(!give_up(0..limits::GIVEN_UP_PER_NODE_MAX, now_ms));
        assert!(give_up(0..1, now_ms));
        assert!(!clients.give_up_too_much(clients.enter(unlimited).unwrap(), now_ms));
        assert!(!give_up(none.clone(), now_ms + GIVEN_UP_BY_ALL_MS));
        // However many there were.
        assert!(give_up(0..5 * limits::GIVEN_UP_PER_NODE_MAX, now_ms));
        assert!(give_up(none.clone(), now_ms + GIVEN_UP_BY_ALL_MAX_MS - 1));
        assert!(!give_up(none, now_ms + GIVEN_UP_BY_ALL_MAX_MS));
        // As many as are forgiven change nothing.
        let mut now_ms = now_ms + 2 * GIVEN_UP_BY_ALL_MAX_MS;
        for number in 0..3 * limits::GIVEN_UP_PER_NODE_MAX {
            now_ms += GIVEN_UP_BY_ALL_MS;
            assert!(!give_up(number..number + 1, now_ms));
        }
    }

    #[test]
    fn who_is_cut_off_again_and_again_speaks_http1() {
        let clients = Clients::new(100, 9, Vec::new());
        let (mut now_ms, mut cut_off) = (1_000_000, 0);
        let place = clients.enter(v4(1)).unwrap();
        // In steps of half of what one is forgiven in: of as many as it likes, and of as many as it may.
        for step in 0..100 {
            while clients.may_multiplex(clients.enter(v4(1)).unwrap(), now_ms) {
                clients.cut_off(place, now_ms);
                cut_off += 1;
                clients.leave(place);
            }
            clients.leave(place);
            assert_eq!(cut_off, limits::HTTP2_CUT_OFF_PER_CLIENT_MAX + step / 2, "{step}");
            now_ms += CUT_OFF_MS / 2;
        }
        let other = clients.enter(v4(2)).unwrap();
        assert!(clients.may_multiplex(other, now_ms) && clients.may_multiplex(Place::NONE, now_ms));
    }

    /// As a connection that is left before it is cut off counts for nothing else.
    #[test]
    fn who_gives_up_too_much_speaks_http1_until_a_page_is_forgiven() {
        let clients = Clients::new(100, 9, Vec::new());
        let mut now_ms = 1_000_000;
        let place = clients.enter(v4(1)).unwrap();
        let give_up = |count: u32, now_ms| {
            for _ in 0..count {
                clients.ask(place, now_ms).unwrap();
                clients.asked(place, true, now_ms);
            }
            clients.may_multiplex(place, now_ms)
        };
        let most = limits::GIVEN_UP_PER_CLIENT_MAX - limits::HTTP2_GIVEN_UP_MAX;
        assert!(give_up(most, now_ms));
        assert!(!give_up(limits::HTTP2_GIVEN_UP_MAX, now_ms));
        now_ms += u64::from(limits::HTTP2_GIVEN_UP_MAX - 1) * GIVEN_UP_MS;
        assert!(!give_up(0, now_ms) && give_up(0, now_ms + GIVEN_UP_MS));
    }

    /// Nobody has more than its share (twice that, where workers met), and all that enter leave.
    #[test]
    fn workers_share_the_table() {
        const MOST: u32 = 40;
        let clients = Clients::new(1000, MOST, Vec::new());
        std::thread::scope(|scope| {
            for worker in 0..4_u32 {
                let clients = &clients;
                scope.spawn(move || {
                    let mut held = Vec::new();
                    for turn in 0..20_000_u32 {
                        let number = turn.wrapping_mul(2_654_435_761).wrapping_add(worker) >> 28;
                        if let Ok(place) = clients.enter(v4(number)) {
                            held.push(place);
                        }
                        if turn % 3 == 0 && !held.is_empty() {
                            clients.leave(held.swap_remove(turn as usize % held.len()));
                        }
                    }
                    let most = clients.places.iter().map(|place| place.load(Relaxed) & COUNT).max();
                    assert!(most.is_some_and(|most| (1..=u64::from(MOST)).contains(&most)), "{most:?}");
                    held.into_iter().for_each(|place| clients.leave(place));
                });
            }
        });
        assert_eq!(taken(&clients), 0);
    }
}
