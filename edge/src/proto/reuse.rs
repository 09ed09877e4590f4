//! RFC 9111 section 4: may a stored response answer this request, now, and whom to ask if it may not. The reasoning
//! stands in `freshness`, which decides what is stored. Runs on every hit: nothing here allocates.
#![forbid(unsafe_code)]

use super::cache_control::{RequestControl, SECONDS_MAX};
use super::io::FetchKind;
use super::range::Spec;
use super::request::{Marks, Method, RequestHead};
use super::stored::{Flags, Meta};

/// What a request says of caching: Cache-Control, or Pragma where there is none (RFC 9111 section 5.4).
pub(super) fn request_control(request: &RequestHead) -> RequestControl {
    if request.marks.has(Marks::CACHE_CONTROL) {
        return RequestControl::read(request.field_all("cache-control"));
    }
    let pragma = request.marks.has(Marks::PRAGMA)
        && request.field_all("pragma").any(|value| super::framing::list_has(value, "no-cache"));
    RequestControl { no_cache: pragma, ..RequestControl::default() }
}

/// Whether a stored response may answer a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// It may, with this age in seconds.
    Fresh {
        /// Current age (RFC 9111 section 4.2.3).
        age_s: u32,
    },
    /// It may though it is not fresh.
    Allowed {
        /// Current age.
        age_s: u32,
        /// What allows it.
        by: Allowance,
    },
    /// It is not fresh, or wants validation every time.
    Stale,
    /// It is fresh, but the request does not take it (its Cache-Control, or Authorization).
    Request,
}

impl Reuse {
    /// The same, unless a soft purge has ended the response's time.
    pub(super) fn unless(self, purged: bool) -> Reuse {
        match self {
            Reuse::Fresh { .. } | Reuse::Allowed { .. } if purged => Reuse::Stale,
            other => other,
        }
    }
}

/// What allows a stale answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance {
    /// The response's stale-while-revalidate: the origin is asked meanwhile.
    WhileRevalidate,
    /// The request's max-stale.
    MaxStale,
}

impl Allowance {
    /// For the `detail` of Cache-Status: a token.
    pub(super) fn word(self) -> &'static [u8] {
        match self {
            Allowance::WhileRevalidate => b"stale-while-revalidate",
            Allowance::MaxStale => b"max-stale",
        }
    }
}

/// Current age of a stored response in seconds (RFC 9111 section 4.2.3).
pub fn current_age(meta: &Meta<'_>, now_s: u64) -> u32 {
    let resident_s = now_s.saturating_sub(meta.response_s());
    let age_s = resident_s.saturating_add(u64::from(meta.initial_age_s()));
    u32::try_from(age_s).unwrap_or(SECONDS_MAX).min(SECONDS_MAX)
}

/// Judges a stored response for a request (RFC 9111 section 4).
pub fn reuse(meta: &Meta<'_>, request: &RequestHead, now_s: u64) -> Reuse {
    let age_s = current_age(meta, now_s);
    if meta.flags().has(Flags::NO_CACHE) || age_s >= meta.lifetime_s() {
        return reuse_stale(meta, request, age_s);
    }
    if request.marks.has(Marks::AUTHORIZATION) && !meta.flags().has(Flags::SHARED) {
        return Reuse::Request;
    }
    if request.marks.has(Marks::CACHE_CONTROL.and(Marks::PRAGMA)) {
        let control = request_control(request);
        let left_s = meta.lifetime_s() - age_s;
        if control.no_cache
            || control.max_age.is_some_and(|most_s| age_s > most_s)
            || control.min_fresh.is_some_and(|least_s| left_s < least_s)
        {
            return Reuse::Request;
        }
    }
    Reuse::Fresh { age_s }
}

/// Whether a response that is not fresh may answer without the origin being asked first.
#[cold]
fn reuse_stale(meta: &Meta<'_>, request: &RequestHead, age_s: u32) -> Reuse {
    let Some(over_s) = staleness(meta, request, age_s) else { return Reuse::Stale };
    if request_control(request).max_stale.is_some_and(|most_s| over_s <= most_s) {
        return Reuse::Allowed { age_s, by: Allowance::MaxStale };
    }
    if over_s < meta.stale().while_revalidate_s {
        return Reuse::Allowed { age_s, by: Allowance::WhileRevalidate };
    }
    Reuse::Stale
}

/// Seconds since the end of its lifetime; `None`: nothing may allow that it is served stale to this request.
fn staleness(meta: &Meta<'_>, request: &RequestHead, age_s: u32) -> Option<u32> {
    let flags = meta.flags();
    let control = request_control(request);
    let response_forbids = flags.has(Flags::NO_CACHE) || flags.has(Flags::MUST_REVALIDATE);
    let request_forbids = control.no_cache
        || control.min_fresh.is_some()
        || control.max_age.is_some_and(|most_s| age_s > most_s && control.max_stale.is_none())
        || (request.marks.has(Marks::AUTHORIZATION) && !flags.has(Flags::SHARED));
    (!response_forbids && !request_forbids).then(|| age_s.saturating_sub(meta.lifetime_s()))
}

/// Why no good response came from the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It answered with an error (RFC 5861 section 4: 500, 502, 503 or 504), or we had no room to ask it.
    Error,
    /// It could not be reached, or closed the connection without an answer, or gave none in time.
    Disconnected,
}

impl Failure {
    /// Whether a status counts as failure of the origin.
    pub fn of_status(status: u16) -> Option<Failure> {
        matches!(status, 500 | 502 | 503 | 504).then_some(Failure::Error)
    }
}

/// Whether a stored response may answer this request although it is not fresh, now that the origin has failed.
pub fn may_replace(meta: &Meta<'_>, request: &RequestHead, now_s: u64, failure: Failure) -> bool {
    let age_s = current_age(meta, now_s);
    let Some(over_s) = staleness(meta, request, age_s) else { return false };
    let windows = meta.stale();
    let asked_s = request_control(request).stale_if_error.unwrap_or(0);
    over_s < windows.if_error_s.max(asked_s)
        || (failure == Failure::Disconnected && over_s < windows.disconnected_s)
}

/// Until when a stored response may answer, Unix seconds; also stale while it is revalidated.
pub fn answers_until(meta: &Meta<'_>) -> u32 {
    if meta.flags().has(Flags::NO_CACHE) {
        return 0;
    }
    let is_strict = meta.flags().has(Flags::MUST_REVALIDATE);
    let stale_s = if is_strict { 0 } else { meta.stale().while_revalidate_s };
    let good_s = u64::from(meta.lifetime_s()) + u64::from(stale_s);
    let until_s = meta.response_s().saturating_add(good_s).saturating_sub(meta.initial_age_s().into());
    u32::try_from(until_s).unwrap_or(u32::MAX)
}

/// Whether the answer to a conditional request for what is stored would be of use to this request. What was stored
/// without Authorization is not validated with it.
pub(super) fn may_validate(meta: &Meta<'_>, request: &RequestHead) -> bool {
    meta.has_validator() && (!request.marks.has(Marks::AUTHORIZATION) || meta.flags().has(Flags::SHARED))
}

/// Whom to ask when nothing stored can answer: whether the answer may be shared with others and stored.
/// `validator`: something stored can be validated. `None`: the request wants no answer but from the store.
pub(super) fn fetch_kind(request: &RequestHead, validator: bool) -> Option<FetchKind> {
    const CONDITIONS: Marks = Marks::IF_NONE_MATCH.and(Marks::IF_MODIFIED_SINCE);
    let control = request_control(request);
    if control.only_if_cached {
        return None;
    }
    Some(if request.method != Method::Get || control.no_store {
        FetchKind::Pass
    } else if request.marks.has(Marks::RANGE.and(Marks::IF_RANGE)) {
        let plain = !request.marks.has(CONDITIONS.and(Marks::IF_RANGE)) && is_shareable(request);
        let mut values = request.field_all("range").map(super::range::single);
        match (values.next().flatten(), values.next()) {
            (Some(Spec::Closed(..) | Spec::Open(_)), None) if plain => FetchKind::Part,
            _ => FetchKind::Pass,
        }
    } else if validator {
        // The client's own conditions are judged here, against what is fetched.
        FetchKind::Revalidate
    } else {
        FetchKind::Fill
    })
}

/// As [`fetch_kind`], for a request that a stored partial object could answer if all of it were there.
pub(super) fn missing_kind(request: &RequestHead) -> Option<FetchKind> {
    let control = request_control(request);
    match control.only_if_cached {
        true => None,
        false if control.no_store || !is_shareable(request) => Some(FetchKind::Pass),
        false => Some(FetchKind::Part),
    }
}

/// Whether others may wait for the answer to this request before its head is there: not where the origin may
/// answer to this client alone (RFC 9111 section 3.5).
pub fn is_shareable(request: &RequestHead) -> bool {
    !request.marks.has(Marks::AUTHORIZATION)
}

/// Whether a response with these flags may be given to this request while it is being stored.
pub fn may_join(flags: Flags, request: &RequestHead) -> bool {
    is_shareable(request) || flags.has(Flags::SHARED)
}

#[cfg(test)]
mod tests {
    use super::super::freshness::{Facts, StaleWindows};
    use super::super::stored;
    use super::*;

    const NOW_S: u64 = 1_700_000_000;

    fn request(fields: &str) -> RequestHead {
        let mut head = RequestHead::default();
        head.parse(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes()).unwrap().unwrap();
        head
    }

    /// Fresh for 60 seconds, then stale-while-revalidate for 10, stale-if-error for 20, disconnected for 40.
    fn stored(flags: Flags) -> Vec<u8> {
        let facts = Facts {
            status: 200,
            flags,
            response_s: NOW_S,
            lifetime_s: 60,
            stale: StaleWindows { while_revalidate_s: 10, if_error_s: 20, disconnected_s: 40 },
            ..Facts::default()
        };
        stored::encode(&facts, &request(""), b"content-length: 0\r\n\r\n", 0)
    }

    #[test]
    fn what_may_answer_at_once() {
        let none = Flags::default();
        let shared = none.with(Flags::SHARED, true);
        let fresh = |age_s| Reuse::Fresh { age_s };
        let allowed = |age_s, by| Reuse::Allowed { age_s, by };
        let (swr, max_stale) = (Allowance::WhileRevalidate, Allowance::MaxStale);
        let table = [
            (none, "", 0, fresh(0)),
            (none, "", 59, fresh(59)),
            (none, "", 60, allowed(60, swr)),
            (none, "", 69, allowed(69, swr)),
            (none, "", 70, Reuse::Stale),
            (none.with(Flags::NO_CACHE, true), "", 0, Reuse::Stale),
            (none.with(Flags::MUST_REVALIDATE, true), "", 59, fresh(59)),
            (none.with(Flags::MUST_REVALIDATE, true), "", 60, Reuse::Stale),
            (none.with(Flags::MUST_REVALIDATE, true), "Cache-Control: max-stale\r\n", 60, Reuse::Stale),
            (none, "Cache-Control: max-stale\r\n", 5000, allowed(5000, max_stale)),
            (none, "Cache-Control: max-stale=20\r\n", 80, allowed(80, max_stale)),
            (none, "Cache-Control: max-stale=20\r\n", 81, Reuse::Stale),
            (none, "Cache-Control: max-stale=x\r\n", 61, allowed(61, swr)),
            (none, "Cache-Control: max-age=30\r\n", 30, fresh(30)),
            (none, "Cache-Control: max-age=30\r\n", 31, Reuse::Request),
            (none, "Cache-Control: max-age=30\r\n", 61, Reuse::Stale),
            (none, "Cache-Control: max-age=30, max-stale=50\r\n", 61, allowed(61, max_stale)),
            (none, "Cache-Control: max-age=0\r\n", 0, fresh(0)),
            (none, "Cache-Control: max-age=0\r\n", 1, Reuse::Request),
            (none, "Cache-Control: min-fresh=10\r\n", 50, fresh(50)),
            (none, "Cache-Control: min-fresh=10\r\n", 51, Reuse::Request),
            (none, "Cache-Control: min-fresh=0\r\n", 61, Reuse::Stale),
            (none, "Cache-Control: no-cache\r\n", 0, Reuse::Request),
            (none, "Cache-Control: no-cache\r\n", 61, Reuse::Stale),
            (none, "Pragma: no-cache\r\n", 0, Reuse::Request),
            (none, "Pragma: no-cache\r\nCache-Control: x\r\n", 0, fresh(0)),
            (none, "Pragma: x\r\n", 0, fresh(0)),
            (none, "Authorization: x\r\n", 0, Reuse::Request),
            (none, "Authorization: x\r\n", 61, Reuse::Stale),
            (shared, "Authorization: x\r\n", 0, fresh(0)),
            (shared, "Authorization: x\r\n", 61, allowed(61, swr)),
        ];
        for (flags, fields, age_s, want) in table {
            let bytes = stored(flags);
            let meta = Meta::read(&bytes).unwrap();
            let got = reuse(&meta, &request(fields), NOW_S + age_s);
            assert_eq!(got, want, "{flags:?} {fields:?} {age_s}");
        }
    }

    #[test]
    fn what_may_answer_when_the_origin_fails() {
        use Failure::{Disconnected, Error};
        let none = Flags::default();
        for (flags, fields, age_s, failure, want) in [
            (none, "", 79, Error, true),
            (none, "", 80, Error, false),
            (none, "", 80, Disconnected, true),
            (none, "", 99, Disconnected, true),
            (none, "", 100, Disconnected, false),
            (none, "Cache-Control: stale-if-error=30\r\n", 89, Error, true),
            (none, "Cache-Control: stale-if-error=30\r\n", 90, Error, false),
            (none, "Cache-Control: no-cache\r\n", 79, Disconnected, false),
            (none, "Cache-Control: max-age=70\r\n", 79, Disconnected, false),
            (none, "Authorization: x\r\n", 79, Disconnected, false),
            (none.with(Flags::NO_CACHE, true), "", 61, Disconnected, false),
            (none.with(Flags::MUST_REVALIDATE, true), "", 61, Disconnected, false),
        ] {
            let bytes = stored(flags);
            let meta = Meta::read(&bytes).unwrap();
            let got = may_replace(&meta, &request(fields), NOW_S + age_s, failure);
            assert_eq!(got, want, "{flags:?} {fields:?} {age_s} {failure:?}");
        }
        assert_eq!(Failure::of_status(503), Some(Error));
        assert_eq!(Failure::of_status(404), None);
    }

    #[test]
    fn whom_to_ask() {
        use FetchKind::{Fill, Part, Pass, Revalidate};
        for (fields, validator, want) in [
            ("", false, Some(Fill)),
            ("", true, Some(Revalidate)),
            ("If-None-Match: \"x\"\r\n", false, Some(Fill)),
            ("If-Modified-Since: Tue, 14 Nov 2023 22:13:20 GMT\r\n", true, Some(Revalidate)),
            ("Authorization: x\r\n", false, Some(Fill)),
            ("Cache-Control: no-cache\r\n", false, Some(Fill)),
            ("Cache-Control: no-store\r\n", true, Some(Pass)),
            ("Range: bytes=0-1\r\n", false, Some(Part)),
            ("Range: bytes=0-1\r\nAuthorization: x\r\n", false, Some(Pass)),
            ("Range: bytes=0-1\r\nIf-None-Match: \"x\"\r\n", false, Some(Pass)),
            ("Range: bytes=-1\r\n", false, Some(Pass)),
            ("Cache-Control: only-if-cached\r\n", true, None),
        ] {
            assert_eq!(fetch_kind(&request(fields), validator), want, "{fields:?} {validator}");
        }
    }
}
