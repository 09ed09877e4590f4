//! One request and its response, whatever connection carries them: look up, judge, fetch, validate, answer.
//! Knows no framing: HTTP/1.1 has one exchange at a time on a connection, HTTP/2 has many.
//!
//! | stage     | input      | then                                                                     |
//! |-----------|------------|--------------------------------------------------------------------------|
//! | (begin)   |            | its route wants a certificate: Answer of our own                         |
//! | (begin)   |            | GET/HEAD: Lookup; to WebSocket: Fetch(Upgrade); else Fetch(Pass)         |
//! | Lookup    | Found      | usable: Answer from the record; stale: Fetch(Revalidate); none: Fetch(Fill) |
//! | Waiting   | Interim    | handed on                                                                |
//! | Waiting   | OriginHead | Answer, its body to follow                                               |
//! | Waiting   | Again      | Lookup once more: the object is in the shard now, or must do             |
//! | Waiting   | Refused    | Answer of our own                                                        |
//! | Streaming | Piece, End, Trailers | handed on, as long as they agree with the head                           |
//! | Streaming | Broken     | Broken: a broken body must never look whole                              |
#![forbid(unsafe_code)]

use super::Now;
use super::answer::{Answer, Fetched, Missing, Source};
use super::io::{Again, FetchKind, Found, Input, Interim};
use super::request::{BodyLength, Marks, Method, RequestHead};
use super::response::{Forwarded, OriginHead};
use super::reuse::{self, Reuse};
use super::stored::Meta;
use super::transport::Policies;

/// The client wants what is stored or nothing, and nothing is (RFC 9111 section 5.2.1.7).
const UNSTORED: u16 = 504;

/// What the connection has to do next.
#[derive(Debug)]
pub(super) enum Next<'a> {
    /// Nothing: the input came out of turn, and carries nothing that is owed to anybody.
    Nothing,
    /// Look the request's key up, and say at once what was found.
    Lookup,
    /// Ask control.
    Fetch(FetchKind),
    /// Send this. It is the whole response, unless [`Exchange::is_streaming`] holds then.
    Answer(Answer<'a>),
    /// Send this before the response, if the client's protocol knows it.
    Interim(&'a Interim),
    /// Send the piece of the body that was announced: so many bytes, at least one.
    Piece(usize),
    /// The response is whole.
    End,
    /// The response is whole, and these field lines follow its body.
    Trailers(&'a [u8]),
    /// The response can not be whole any more; the client must see that.
    Broken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// A lookup is being answered.
    Lookup,
    /// A lookup after a fetch is being answered.
    LookupAgain,
    /// Control was asked.
    Waiting,
    /// A fetched response is being sent.
    Streaming,
    /// The response is whole, or broken.
    Over,
}

/// What the head of a fetched response announced of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Announced {
    /// None is sent.
    NoBody,
    /// `Exchange::owed_bytes` more.
    Counted,
    /// As much as comes.
    Open,
}

/// The machine of one exchange.
#[derive(Debug)]
pub(super) struct Exchange {
    /// When the request was read, Unix seconds.
    asked_s: u64,
    owed_bytes: u64,
    stage: Stage,
    announced: Announced,
    forwarded: Forwarded,
    kind: FetchKind,
    head_only: bool,
    /// Why it was looked up again, if it was.
    again: Option<Again>,
}

impl Exchange {
    /// Before the first request of a connection: takes no input.
    pub(super) fn none() -> Self {
        Exchange {
            asked_s: 0,
            owed_bytes: 0,
            stage: Stage::Over,
            announced: Announced::NoBody,
            forwarded: Forwarded::Bypass,
            kind: FetchKind::Pass,
            head_only: false,
            again: None,
        }
    }

    /// A request was read. The answer is [`Next::Lookup`], [`Next::Fetch`], or of our own where its route refuses the client.
    pub(super) fn begin(&mut self, request: &RequestHead, transport: &Policies, now: Now) -> Next<'static> {
        *self =
            Exchange { asked_s: now.unix_s, head_only: request.method == Method::Head, ..Exchange::none() };
        if transport.refuses(request) {
            self.unasked(403, now)
        } else if request.method == Method::Other {
            self.fetch(FetchKind::Pass, Forwarded::Method)
        } else if request.body != BodyLength::None || request.marks.has(Marks::IF_MATCH) {
            self.fetch(FetchKind::Pass, Forwarded::Bypass)
        } else if request.asks_for_websocket() {
            self.fetch(FetchKind::Upgrade, Forwarded::Bypass)
        } else {
            self.stage = Stage::Lookup;
            Next::Lookup
        }
    }

    /// Takes an input about this exchange. `request` counts for [`Input::Found`] alone.
    #[inline]
    pub(super) fn on<'a>(&mut self, input: Input<'a>, request: &RequestHead, now: Now) -> Next<'a> {
        match (input, self.stage) {
            (Input::Found(found), Stage::Lookup) => self.found(found, request, now),
            (Input::Found(found), Stage::LookupAgain) => self.found_again(found, request, now),
            (Input::OriginHead { head, collapsed }, Stage::Waiting) => {
                Next::Answer(self.origin_head(head, collapsed))
            }
            (Input::Interim(interim), Stage::Waiting) => Next::Interim(interim),
            (Input::Again(why), Stage::Waiting) => self.look_again(why, now),
            (Input::Refused(status, lines), Stage::Waiting) => self.refused(status, lines, now),
            (Input::End | Input::Trailers(_) | Input::Broken, Stage::Waiting) => self.refused(502, b"", now),
            (Input::Piece(bytes), Stage::Streaming) => self.piece(bytes),
            (Input::End, Stage::Streaming) => self.end(Next::End),
            (Input::Trailers(lines), Stage::Streaming) => self.end(Next::Trailers(lines)),
            (Input::Broken, Stage::Streaming) => self.broken(),
            _ => Next::Nothing,
        }
    }

    /// Whether control works on it, or its body is on its way: the request's body may go on.
    pub(super) fn is_fetching(&self) -> bool {
        matches!(self.stage, Stage::Waiting | Stage::Streaming)
    }

    /// Whether the origin was asked to go over to another protocol, and has not answered.
    pub(super) fn awaits_upgrade(&self) -> bool {
        self.stage == Stage::Waiting && self.kind == FetchKind::Upgrade
    }

    /// Whether the head of a response was sent and its end was not.
    pub(super) fn is_streaming(&self) -> bool {
        self.stage == Stage::Streaming
    }

    /// Whether this is HEAD: the response has no body, whatever its head says.
    pub(super) fn head_only(&self) -> bool {
        self.head_only
    }

    /// Whether the request is looked at a second time, after a fetch.
    pub(super) fn was_fetched(&self) -> bool {
        self.again.is_some()
    }

    // Answers from the store.

    #[inline]
    fn found<'a>(&mut self, found: Option<Found<'a>>, request: &RequestHead, now: Now) -> Next<'a> {
        let Some((found, meta)) =
            found.and_then(|found| Some((found, Meta::of_record(found.meta, found.head)?)))
        else {
            let vary = request.vary_missed.get();
            let forwarded = if vary { Forwarded::VaryMiss } else { Forwarded::UriMiss };
            return self.missed(request, forwarded, false, now);
        };
        let is_partial = Missing::of(request, &found, &meta) != Missing::None;
        match reuse::reuse(&meta, request, now.unix_s).unless(found.purged) {
            Reuse::Fresh { .. } if is_partial => {
                self.lacks(request, Missing::of(request, &found, &meta), now)
            }
            Reuse::Allowed { .. } if is_partial => {
                self.missed(request, Forwarded::Stale, reuse::may_validate(&meta, request), now)
            }
            Reuse::Fresh { age_s } => {
                self.stage = Stage::Over;
                Next::Answer(Answer::from_store(request, found, &meta, age_s, Source::Hit, now))
            }
            Reuse::Allowed { age_s, by } => {
                self.stage = Stage::Over;
                Next::Answer(Answer::from_store(request, found, &meta, age_s, Source::Stale(by), now))
            }
            Reuse::Stale => self.missed(request, Forwarded::Stale, reuse::may_validate(&meta, request), now),
            Reuse::Request => {
                self.missed(request, Forwarded::Request, reuse::may_validate(&meta, request), now)
            }
        }
    }

    /// Nothing stored can answer: whom to ask, and whether the answer may be shared.
    fn missed(
        &mut self,
        request: &RequestHead,
        forwarded: Forwarded,
        validator: bool,
        now: Now,
    ) -> Next<'static> {
        match reuse::fetch_kind(request, validator) {
            Some(kind) => self.fetch(kind, forwarded),
            None => self.unasked(UNSTORED, now),
        }
    }

    /// A partial object could answer, but not all that is asked for is there. Several ranges go to the origin as they
    /// are.
    fn lacks(&mut self, request: &RequestHead, missing: Missing, now: Now) -> Next<'static> {
        match reuse::missing_kind(request) {
            Some(_) if missing == Missing::Ranges => self.fetch(FetchKind::Pass, Forwarded::Partial),
            Some(kind) => self.fetch(kind, Forwarded::Partial),
            None => self.unasked(UNSTORED, now),
        }
    }

    fn look_again(&mut self, why: Again, now: Now) -> Next<'static> {
        if self.again.is_some() {
            return self.refused(502, b"", now);
        }
        self.again = Some(why);
        self.stage = Stage::LookupAgain;
        Next::Lookup
    }

    /// What was fetched for this request answers it even if it may not be reused without validation; and so does
    /// what control has found good enough now that the origin fails. If it is gone again, this client alone is
    /// served from the origin.
    fn found_again<'a>(&mut self, found: Option<Found<'a>>, request: &RequestHead, now: Now) -> Next<'a> {
        let forwarded = self.forwarded;
        let usable = found.and_then(|found| {
            let meta = Meta::of_record(found.meta, found.head)?;
            let is_fresh =
                matches!(reuse::reuse(&meta, request, now.unix_s).unless(found.purged), Reuse::Fresh { .. });
            let source = match self.again {
                // It came while this request was on its way: nothing was asked for it.
                Some(Again::Stored) if is_fresh && self.kind != FetchKind::Part => Source::Hit,
                Some(Again::Stored) => Source::Fetched { forwarded },
                Some(Again::Revalidated { collapsed }) => Source::Revalidated { forwarded, collapsed },
                Some(Again::OriginFailed) => Source::Failed { status: request.failed_status },
                None => return None,
            };
            let usable = match source {
                Source::Fetched { .. } => is_fresh || meta.response_s() >= self.asked_s,
                _ => true,
            };
            let is_there = Missing::of(request, &found, &meta) == Missing::None;
            (usable && is_there).then_some((found, meta, source))
        });
        let Some((found, meta, source)) = usable else {
            return match self.again {
                Some(Again::OriginFailed) => self.refused(502, b"", now),
                _ => self.fetch(FetchKind::Pass, forwarded),
            };
        };
        self.stage = Stage::Over;
        let age_s = reuse::current_age(&meta, now.unix_s);
        Next::Answer(Answer::from_store(request, found, &meta, age_s, source, now))
    }

    // Answers from the origin.

    fn fetch(&mut self, kind: FetchKind, forwarded: Forwarded) -> Next<'static> {
        self.kind = kind;
        self.forwarded = forwarded;
        self.stage = Stage::Waiting;
        Next::Fetch(kind)
    }

    fn origin_head<'a>(&mut self, head: &'a OriginHead, collapsed: bool) -> Answer<'a> {
        let fetched = Fetched { forwarded: self.forwarded, kind: self.kind, collapsed };
        let answer = Answer::from_origin(head, fetched, self.head_only);
        (self.announced, self.owed_bytes) = match head.body_bytes {
            _ if !answer.is_streamed() => (Announced::NoBody, 0),
            Some(bytes) => (Announced::Counted, bytes),
            None => (Announced::Open, 0),
        };
        self.stage = Stage::Streaming;
        answer
    }

    fn piece(&mut self, bytes: usize) -> Next<'static> {
        match self.announced {
            _ if bytes == 0 => return Next::Nothing,
            Announced::NoBody => return Next::Nothing,
            Announced::Counted => match self.owed_bytes.checked_sub(bytes as u64) {
                Some(owed_bytes) => self.owed_bytes = owed_bytes,
                // Longer than announced: what followed would be read as the next response.
                None => return self.broken(),
            },
            Announced::Open => {}
        }
        Next::Piece(bytes)
    }

    fn end<'a>(&mut self, whole: Next<'a>) -> Next<'a> {
        if self.announced == Announced::Counted && self.owed_bytes > 0 {
            return self.broken();
        }
        self.stage = Stage::Over;
        whole
    }

    fn broken(&mut self) -> Next<'static> {
        self.stage = Stage::Over;
        Next::Broken
    }

    fn refused<'a>(&mut self, status: u16, lines: &'a [u8], now: Now) -> Next<'a> {
        let status = if (400..=599).contains(&status) { status } else { 502 };
        // 404 (no route) and 503 (no room) were never forwarded.
        let forwarded = matches!(status, 502 | 504).then_some(self.forwarded);
        self.error(status, lines, forwarded, now)
    }

    /// An answer of our own, without control.
    fn unasked(&mut self, status: u16, now: Now) -> Next<'static> {
        self.stage = Stage::Over;
        Next::Answer(Answer::unasked(status, self.head_only, now))
    }

    fn error<'a>(
        &mut self,
        status: u16,
        lines: &'a [u8],
        forwarded: Option<Forwarded>,
        now: Now,
    ) -> Next<'a> {
        self.stage = Stage::Over;
        Next::Answer(Answer::error(status, lines, forwarded, self.head_only, now))
    }
}
