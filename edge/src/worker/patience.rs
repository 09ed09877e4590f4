//! What an HTTP/2 connection may have at control at once, while more requests are given up on the node than it bears.
//!
//! A flood of requests that are reset once control was asked costs most, and from as many addresses as connections no
//! bound by address ends it. Nothing tells such a connection from a browser's before it resets. So while they abound a
//! connection begins with few requests at control, and the others wait here until one of these has its answer; each
//! answer that the client has waited for is one more that it may have at once, and each that it gives up one less. Who
//! has none left to give up is cut off. Hits are not concerned, nor connections that have had as many answers as they
//! have streams, nor anybody as long as few requests are given up.
#![forbid(unsafe_code)]

use super::actions::{Answer, Node};
use super::connection::Parked;
use super::multiplex::{Multiplex, Supply};
use super::waiting::Lookup;
use crate::limits;
use crate::proto::request::RequestHead;
use crate::proto::session::FetchKind;
use crate::stats::Counter;

/// A request that waits until its connection may ask for it.
pub(super) struct Held {
    kind: FetchKind,
    request: RequestHead,
    /// When it is answered 503, monotonic milliseconds.
    pub(super) until_ms: u64,
}

const _: () = assert!(size_of::<Held>() <= size_of::<Parked>(), "as `worst_case` has it");

/// What a client has shown of patience.
pub(super) struct Patience {
    /// Requests that it may have at control at once.
    fetches: u32,
    /// Requests that wait.
    pub(super) held: u32,
}

impl Patience {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Patience { fetches: limits::HTTP2_FETCHES_UNPROVEN, held: 0 }
    }

    /// It has waited for an answer.
    pub(super) fn shown(&mut self) {
        self.fetches = (self.fetches + 1).min(limits::HTTP2_STREAMS_MAX);
    }

    /// It has not. `false`: it has given up all that it may.
    fn lost(&mut self) -> bool {
        let left = self.fetches.checked_sub(1);
        self.fetches = left.unwrap_or(0);
        left.is_some()
    }
}

impl Multiplex {
    /// Requests that control has.
    fn asking(&self) -> usize {
        self.supplies.iter().filter(|supply| supply.fetch.is_some()).count()
    }
}

impl Node {
    /// Asks control for the request at hand, or has it wait for others of its connection. `false`: there is no room.
    pub(super) fn ask_in_turn(&mut self, mux: &mut Multiplex, slot: u32, at: usize, kind: FetchKind) -> bool {
        if !self.must_wait(mux, mux.patience.held > 0) {
            mux.supplies[at].fetch = self.ask(slot, mux.place, kind);
            return mux.supplies[at].fetch.is_some();
        }
        self.fetched = Some(kind);
        if self.held >= limits::HTTP2_FETCHES_HELD_MAX {
            return false;
        }
        self.cells.add(Counter::Held, 1);
        self.held += 1;
        mux.patience.held += 1;
        let until_ms = self.now.mono_ms + limits::HTTP2_FETCH_HELD_MS;
        mux.supplies[at].held = Some(Box::new(Held { kind, request: self.out.request.clone(), until_ms }));
        true
    }

    /// Whether a connection may ask control for nothing more now. `behind`: others wait already.
    fn must_wait(&self, mux: &Multiplex, behind: bool) -> bool {
        self.clients.give_up_too_much(mux.place, self.now.mono_ms)
            && (behind || mux.asking() >= mux.patience.fetches.max(1) as usize)
    }

    /// Whether a request that waits may be asked for now.
    pub(super) fn may_ask_held(&self, mux: &Multiplex) -> bool {
        mux.patience.held > 0 && !self.must_wait(mux, false)
    }

    /// Asks for those that wait, the oldest first, as far as that may be.
    pub(super) fn ask_held(&mut self, mux: &mut Multiplex, slot: u32) {
        while self.may_ask_held(mux)
            && let Some((at, held)) = self.take_held(mux, |_| true)
        {
            self.out.request = held.request;
            mux.supplies[at].fetch = self.ask(slot, mux.place, held.kind);
            if mux.supplies[at].fetch.is_none() {
                self.refuse_held(mux, slot, at);
            }
        }
    }

    /// Some have waited too long.
    pub(super) fn hold_no_longer(&mut self, mux: &mut Multiplex, slot: u32) {
        let now_ms = self.now.mono_ms;
        while let Some((at, held)) = self.take_held(mux, |held| held.until_ms <= now_ms) {
            self.out.request = held.request;
            self.refuse_held(mux, slot, at);
        }
    }

    fn refuse_held(&mut self, mux: &mut Multiplex, slot: u32, at: usize) {
        let id = mux.supplies[at].id;
        self.carry_out(mux, slot, id, None, Answer::Refused(503), Lookup::default());
    }

    fn take_held(
        &mut self,
        mux: &mut Multiplex,
        which: impl Fn(&Held) -> bool,
    ) -> Option<(usize, Box<Held>)> {
        if mux.patience.held == 0 {
            return None;
        }
        let at = mux.supplies.iter().position(|supply| supply.held.as_deref().is_some_and(&which))?;
        self.held -= 1;
        mux.patience.held -= 1;
        Some((at, mux.supplies[at].held.take()?))
    }

    /// A stream of this connection is over: what it still holds on to is let go of. One that control was to be asked for
    /// was given up.
    pub(super) fn let_go_of_stream(&mut self, mux: &mut Multiplex, slot: u32, mut supply: Supply) {
        let given_up = supply.fetch.is_some() || supply.held.is_some();
        if supply.held.take().is_some() {
            self.held -= 1;
            mux.patience.held -= 1;
            self.clients.give_up(mux.place, self.now.mono_ms);
        }
        self.release(&mut supply.source, &mut supply.fetch, (slot, mux.place), false);
        if given_up && self.clients.give_up_too_much(mux.place, self.now.mono_ms) && !mux.patience.lost() {
            mux.http2.tell_off();
        }
    }
}
