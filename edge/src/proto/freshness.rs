//! RFC 9111: may a response be stored, for how long is it fresh, may it answer this request.
//!
//! The reasoning, in the order the questions are asked:
//!
//! *May it be stored?* Only what answers a GET, whole: not 206 (a part) and not 304 (an update). Never
//! against `no-store` or `private`, never with `Vary: *`, and to a request with Authorization only if the
//! origin said that the answer may be shared (`public`, `s-maxage`, `must-revalidate`). It must be of use:
//! fresh for some time, or with a validator so that it can be checked at the origin instead of sent again.
//! Set-Cookie does not matter by itself: origins that set cookies on shared answers say `private`, or err.
//!
//! *For how long is it fresh?* As long as the origin said: s-maxage, else max-age, else Expires − Date.
//! There is no default and no guess from Last-Modified: what the origin did not call fresh is validated
//! each time. What cannot be read (a bad number, a bad date, two values that differ) counts as stale,
//! for the mistake costs one question to the origin, and the other mistake serves wrong content.
//!
//! *How old is it?* The larger of what its Date implies and what its Age says plus the time the exchange
//! took, when it came; then the time it stayed here. The client gets that as Age.
//!
//! *May it answer this request?* If it is fresh and neither side asked for validation. A stale one never
//! does; stale-while-revalidate, stale-if-error, targeted fields (CDN-Cache-Control), must-understand and
//! heuristics belong into [`decide`] and [`reuse`], which are the only places that judge.
#![forbid(unsafe_code)]

use super::cache_control::{RequestControl, ResponseControl, SECONDS_MAX, seconds};
use super::io::FetchKind;
use super::purge::TagSet;
use super::range::Spec;
use super::request::{Marks, Method, RequestHead};
use super::stored::{Flags, Meta};
use http::HeaderMap;
use http::header;

/// The decision on storing a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storing {
    /// May be stored and reused.
    Store,
    /// May not; the word names the field or rule.
    No(&'static str),
}

/// What is known of a response that is being stored; becomes meta bytes by `stored::encode`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Status code.
    pub status: u16,
    /// Rules of reuse.
    pub flags: Flags,
    /// When the response came, Unix seconds.
    pub response_s: u64,
    /// Corrected initial age then, seconds.
    pub initial_age_s: u32,
    /// Freshness lifetime, seconds.
    pub lifetime_s: u32,
    /// Last-Modified, Unix seconds.
    pub last_modified_s: Option<u64>,
    /// Date, Unix seconds.
    pub date_s: Option<u64>,
    /// Names of Vary, lower case, sorted, each once.
    pub vary: Vec<String>,
    /// The last purge before it was asked for.
    pub purges: u64,
    /// What its origin tagged it with, for purges.
    pub tags: TagSet,
}

/// When an exchange with the origin began and when its head came, Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// The request was sent.
    pub request_s: u64,
    /// The response's head came.
    pub response_s: u64,
    /// The sequence number of the last purge when the request was sent; later ones concern the response.
    pub purges: u64,
}

/// Names in Vary; with more the response is not stored.
const VARY_NAMES_MAX: usize = 32;

/// Whether the response to this request may be stored (RFC 9111 section 3), and the facts for it. The
/// facts hold whatever the decision.
pub fn decide(
    request: &RequestHead,
    status: u16,
    fields: &HeaderMap,
    exchange: Exchange,
) -> (Storing, Facts) {
    let control = ResponseControl::read(values(fields, header::CACHE_CONTROL));
    let (vary, vary_star) = vary_names(fields);
    let date_s = single_date(fields, header::DATE);
    let facts = Facts {
        status,
        flags: Flags::default()
            .with(Flags::NO_CACHE, control.no_cache)
            .with(
                Flags::MUST_REVALIDATE,
                control.must_revalidate || control.proxy_revalidate || control.s_maxage.is_some(),
            )
            .with(Flags::SHARED, control.public || control.must_revalidate || control.s_maxage.is_some()),
        response_s: exchange.response_s,
        initial_age_s: initial_age(fields, date_s, exchange),
        lifetime_s: lifetime(fields, &control, date_s, exchange).unwrap_or(0),
        last_modified_s: single_date(fields, header::LAST_MODIFIED),
        date_s,
        vary,
        purges: exchange.purges,
        tags: TagSet::of(fields),
    };
    let storing = match forbidden(request, status, &control, &facts, vary_star) {
        Some(rule) => Storing::No(rule),
        None => worth(fields, &control, &facts),
    };
    (storing, facts)
}

/// The rule that forbids storing.
fn forbidden(
    request: &RequestHead,
    status: u16,
    control: &ResponseControl,
    facts: &Facts,
    vary_star: bool,
) -> Option<&'static str> {
    let asked = request_control(request);
    if request.method != Method::Get {
        Some("method")
    } else if !(200..=999).contains(&status) || matches!(status, 206 | 304) {
        Some("status")
    } else if control.no_store {
        Some("no-store")
    } else if control.private {
        Some("private")
    } else if asked.no_store {
        Some("request-no-store")
    } else if request.marks.has(Marks::AUTHORIZATION) && !facts.flags.has(Flags::SHARED) {
        Some("authorization")
    } else if vary_star {
        Some("vary-star")
    } else if facts.vary.len() > VARY_NAMES_MAX {
        Some("vary-too-long")
    } else {
        None
    }
}

/// Whether storing could ever serve a request.
fn worth(fields: &HeaderMap, control: &ResponseControl, facts: &Facts) -> Storing {
    let validator = fields.contains_key(header::ETAG) || facts.last_modified_s.is_some();
    let explicit = control.public
        || control.max_age.is_some()
        || control.s_maxage.is_some()
        || fields.contains_key(header::EXPIRES);
    // Without explicit freshness only these may be stored (RFC 9111 section 3; RFC 9110 section 15.1).
    let by_status = matches!(facts.status, 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501);
    if facts.lifetime_s > facts.initial_age_s && (validator || !control.no_cache) {
        Storing::Store
    } else if !validator {
        Storing::No("no-freshness")
    } else if explicit || by_status {
        Storing::Store
    } else {
        Storing::No("status")
    }
}

/// RFC 9111 section 4.2.1; `None`: the origin did not say.
fn lifetime(
    fields: &HeaderMap,
    control: &ResponseControl,
    date_s: Option<u64>,
    exchange: Exchange,
) -> Option<u32> {
    if let Some(seconds) = control.s_maxage.or(control.max_age) {
        return Some(seconds);
    }
    fields.contains_key(header::EXPIRES).then(|| {
        let expires_s = single_date(fields, header::EXPIRES).unwrap_or(0);
        clamp(expires_s.saturating_sub(date_s.unwrap_or(exchange.response_s)))
    })
}

/// RFC 9111 section 4.2.3.
fn initial_age(fields: &HeaderMap, date_s: Option<u64>, exchange: Exchange) -> u32 {
    let apparent_s = exchange.response_s.saturating_sub(date_s.unwrap_or(exchange.response_s));
    let delay_s = exchange.response_s.saturating_sub(exchange.request_s);
    let age_s = age(fields).unwrap_or(0);
    clamp(apparent_s.max(age_s + delay_s))
}

/// The Age field, seconds; of a list the first member counts (RFC 9111 section 5.1), and what is not a
/// number is ignored.
pub fn age(fields: &HeaderMap) -> Option<u64> {
    let value = fields.get(header::AGE)?.as_bytes();
    let first = value.split(|&byte| byte == b',').next().unwrap_or(value);
    seconds(first.trim_ascii()).map(u64::from)
}

fn clamp(seconds: u64) -> u32 {
    u32::try_from(seconds).unwrap_or(SECONDS_MAX).min(SECONDS_MAX)
}

fn values(fields: &HeaderMap, name: header::HeaderName) -> impl Iterator<Item = &[u8]> {
    fields.get_all(name).into_iter().map(|value| value.as_bytes())
}

/// A date field; `None` if absent, malformed, or twice with different values.
fn single_date(fields: &HeaderMap, name: header::HeaderName) -> Option<u64> {
    let mut dates = values(fields, name).map(super::parse_date);
    let first = dates.next()??;
    dates.all(|other| other == Some(first)).then_some(first)
}

/// Names of Vary in order without repetition, and whether `*` was among them.
fn vary_names(fields: &HeaderMap) -> (Vec<String>, bool) {
    let mut names: Vec<String> = values(fields, header::VARY)
        .flat_map(|value| value.split(|&byte| byte == b','))
        .map(|name| String::from_utf8_lossy(name.trim_ascii()).to_ascii_lowercase())
        .filter(|name| !name.is_empty())
        .collect();
    names.sort_unstable();
    names.dedup();
    let star = names.iter().any(|name| name == "*");
    (names, star)
}

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
    /// It is not fresh, or wants validation every time.
    Stale,
    /// It is fresh, but the request does not take it (its Cache-Control, or Authorization).
    Request,
}

impl Reuse {
    /// The same, unless a soft purge has ended the response's time.
    pub(super) fn unless(self, purged: bool) -> Reuse {
        match self {
            Reuse::Fresh { .. } if purged => Reuse::Stale,
            other => other,
        }
    }
}

/// Current age of a stored response in seconds (RFC 9111 section 4.2.3).
pub fn current_age(meta: &Meta<'_>, now_s: u64) -> u32 {
    let resident_s = now_s.saturating_sub(meta.response_s());
    clamp(resident_s.saturating_add(u64::from(meta.initial_age_s())))
}

/// Judges a stored response for a request (RFC 9111 section 4).
pub fn reuse(meta: &Meta<'_>, request: &RequestHead, now_s: u64) -> Reuse {
    let age_s = current_age(meta, now_s);
    if meta.flags().has(Flags::NO_CACHE) || age_s >= meta.lifetime_s() {
        return Reuse::Stale;
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

/// Whom to ask when nothing stored can answer: whether the answer may be shared with others and stored.
/// `validator`: something stored can be validated. `None`: the request wants no answer but from the store.
pub(super) fn fetch_kind(request: &RequestHead, validator: bool) -> Option<FetchKind> {
    const CONDITIONS: Marks = Marks::IF_NONE_MATCH.and(Marks::IF_MODIFIED_SINCE);
    let control = request_control(request);
    if control.only_if_cached {
        return None;
    }
    let alone = request.method != Method::Get || control.no_store || request.marks.has(Marks::AUTHORIZATION);
    Some(if alone {
        FetchKind::Pass
    } else if request.marks.has(Marks::RANGE.and(Marks::IF_RANGE)) {
        let plain = !request.marks.has(CONDITIONS.and(Marks::IF_RANGE));
        let mut values = request.field_all("range").map(super::range::single);
        match (values.next().flatten(), values.next()) {
            (Some(Spec::Closed(..) | Spec::Open(_)), None) if plain => FetchKind::Part,
            _ => FetchKind::Pass,
        }
    } else if validator {
        // The client's own conditions are judged against the record once it is validated.
        FetchKind::Revalidate
    } else if request.marks.has(CONDITIONS) {
        FetchKind::Pass
    } else {
        FetchKind::Fill
    })
}

/// As [`fetch_kind`], for a request that a stored partial object could answer if all of it were there.
pub(super) fn missing_kind(request: &RequestHead) -> Option<FetchKind> {
    let control = request_control(request);
    let alone = control.no_store || request.marks.has(Marks::AUTHORIZATION);
    match control.only_if_cached {
        true => None,
        false if alone => Some(FetchKind::Pass),
        false => Some(FetchKind::Part),
    }
}

/// Whether this response to this request makes what is stored under its key invalid (RFC 9111 section 4.4):
/// a method that is not known to be safe, answered without error.
pub fn invalidates(request: &RequestHead, status: u16) -> bool {
    let safe = ["GET", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "REPORT", "SEARCH", "QUERY", "PRI"];
    (200..400).contains(&status) && !safe.contains(&request.method_name())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: u64 = 1_700_000_000;
    const NOW: &str = "Date: Tue, 14 Nov 2023 22:13:20 GMT";

    fn headers(lines: &[&str]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap();
            fields.append(header::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        fields
    }

    fn judge(request: &str, status: u16, lines: &[&str]) -> (Storing, Facts) {
        let mut head = RequestHead::default();
        let (method, fields) = request.split_once(' ').unwrap_or((request, ""));
        head.parse(format!("{method} / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes()).unwrap().unwrap();
        decide(&head, status, &headers(lines), Exchange { request_s: NOW_S, response_s: NOW_S, purges: 0 })
    }

    #[test]
    fn storing() {
        use Storing::{No, Store};
        let modified = "Last-Modified: Tue, 14 Nov 2023 20:00:00 GMT";
        let fresh = "Cache-Control: max-age=60";
        let table: &[(&str, u16, &[&str], Storing)] = &[
            ("GET", 200, &[NOW, fresh], Store),
            ("GET", 200, &[fresh], Store),
            ("GET", 200, &[NOW, "Cache-Control: s-maxage=60"], Store),
            ("GET", 200, &[NOW, "Expires: Tue, 14 Nov 2023 22:13:21 GMT"], Store),
            ("GET", 200, &[NOW, "Expires: Tue, 14 Nov 2023 22:13:20 GMT"], No("no-freshness")),
            ("GET", 200, &[NOW, "Expires: 0"], No("no-freshness")),
            ("GET", 200, &[NOW, "Expires: 0", "ETag: \"x\""], Store),
            ("GET", 200, &[NOW], No("no-freshness")),
            ("GET", 200, &[NOW, "ETag: \"x\""], Store),
            ("GET", 200, &[NOW, modified], Store),
            ("GET", 200, &[NOW, "Last-Modified: yesterday"], No("no-freshness")),
            ("GET", 200, &[NOW, "Cache-Control: max-age=0"], No("no-freshness")),
            ("GET", 200, &[NOW, "Cache-Control: max-age=x"], No("no-freshness")),
            ("GET", 200, &[NOW, "Cache-Control: max-age=0", modified], Store),
            ("GET", 200, &[NOW, "Cache-Control: public"], No("no-freshness")),
            ("GET", 200, &[NOW, fresh, "Age: 60"], No("no-freshness")),
            ("GET", 200, &[NOW, fresh, "Age: 59"], Store),
            ("GET", 200, &[NOW, "Cache-Control: max-age=60, no-store"], No("no-store")),
            ("GET", 200, &[NOW, fresh, "Cache-Control: No-Store"], No("no-store")),
            ("GET", 200, &[NOW, "Cache-Control: max-age=60, private"], No("private")),
            ("GET", 200, &[NOW, "Cache-Control: max-age=60, private=\"x\""], No("private")),
            ("GET", 200, &[NOW, "Cache-Control: max-age=60, no-cache"], No("no-freshness")),
            ("GET", 200, &[NOW, "Cache-Control: max-age=60, no-cache", "ETag: \"x\""], Store),
            ("GET", 200, &[NOW, fresh, "Vary: *"], No("vary-star")),
            ("GET", 200, &[NOW, fresh, "Vary: A", "Vary: b, *"], No("vary-star")),
            ("GET", 200, &[NOW, fresh, "Vary: A, b"], Store),
            ("GET", 200, &[NOW, fresh, "Set-Cookie: a=b"], Store),
            ("GET", 206, &[NOW, fresh], No("status")),
            ("GET", 304, &[NOW, fresh], No("status")),
            ("GET", 103, &[NOW, fresh], No("status")),
            ("GET", 204, &[NOW, fresh], Store),
            ("GET", 302, &[NOW, fresh], Store),
            ("GET", 404, &[NOW, fresh], Store),
            ("GET", 499, &[NOW, fresh], Store),
            ("GET", 503, &[NOW, fresh], Store),
            ("GET", 404, &[NOW, "ETag: \"x\""], Store),
            ("GET", 302, &[NOW, "ETag: \"x\""], No("status")),
            ("GET", 503, &[NOW, modified], No("status")),
            ("GET", 503, &[NOW, modified, "Cache-Control: max-age=0"], Store),
            ("HEAD", 200, &[NOW, fresh], No("method")),
            ("POST", 200, &[NOW, fresh], No("method")),
            ("GET Cache-Control: no-store\r\n", 200, &[NOW, fresh], No("request-no-store")),
            ("GET Authorization: x\r\n", 200, &[NOW, fresh], No("authorization")),
            ("GET Authorization: x\r\n", 200, &[NOW, "Cache-Control: max-age=60, public"], Store),
            ("GET Authorization: x\r\n", 200, &[NOW, "Cache-Control: s-maxage=60"], Store),
            ("GET Authorization: x\r\n", 200, &[NOW, "Cache-Control: max-age=60, must-revalidate"], Store),
            (
                "GET Authorization: x\r\n",
                200,
                &[NOW, "Cache-Control: max-age=60, proxy-revalidate"],
                No("authorization"),
            ),
        ];
        for (request, status, lines, want) in table {
            assert_eq!(judge(request, *status, lines).0, *want, "{request:?} {status} {lines:?}");
        }
    }

    #[test]
    fn lifetimes_and_ages() {
        let table: &[(&[&str], u32, u32)] = &[
            (&[NOW, "Cache-Control: max-age=60"], 60, 0),
            (&[NOW, "Cache-Control: max-age=60, s-maxage=5"], 5, 0),
            (&[NOW, "Cache-Control: max-age=60, s-maxage=x"], 0, 0),
            (&[NOW, "Cache-Control: max-age=60", "Expires: Tue, 14 Nov 2023 22:13:21 GMT"], 60, 0),
            (&[NOW, "Cache-Control: max-age=x", "Expires: Wed, 14 Nov 2029 22:13:21 GMT"], 0, 0),
            (&[NOW, "Cache-Control: max-age=60, max-age=61"], 0, 0),
            (&[NOW, "Expires: Tue, 14 Nov 2023 22:14:20 GMT"], 60, 0),
            (&[NOW, "Expires: Tuesday, 14-Nov-23 22:14:20 GMT"], 60, 0),
            (&[NOW, "Expires: Tue Nov 14 22:14:20 2023"], 60, 0),
            (&[NOW, "Expires: Tue, 14 Nov 2023 22:12:20 GMT"], 0, 0),
            (&[NOW, "Expires: Tue, 14 Nov 2023 22:14:20 UTC"], 0, 0),
            (
                &[NOW, "Expires: Tue, 14 Nov 2023 22:14:20 GMT", "Expires: Tue, 14 Nov 2023 22:14:21 GMT"],
                0,
                0,
            ),
            // Without Date the time of arrival counts.
            (&["Expires: Tue, 14 Nov 2023 22:14:20 GMT"], 60, 0),
            // A Date that lies back is apparent age; one that lies ahead is none.
            (&["Date: Tue, 14 Nov 2023 22:13:10 GMT", "Cache-Control: max-age=60"], 60, 10),
            (&["Date: Tue, 14 Nov 2023 22:13:30 GMT", "Cache-Control: max-age=60"], 60, 0),
            (&["Date: Tue, 14 Nov 2023 22:13:10 GMT", "Expires: Tue, 14 Nov 2023 22:13:40 GMT"], 30, 10),
            (&[NOW, "Age: 30"], 0, 30),
            (&["Date: Tue, 14 Nov 2023 22:13:10 GMT", "Age: 5"], 0, 10),
            (&[NOW, "Age: 30, 40"], 0, 30),
            (&[NOW, "Age: x"], 0, 0),
            (&[NOW, "Age: -1"], 0, 0),
            (&[NOW, "Age: 99999999999999999999"], 0, 1 << 31),
            (&[NOW, "Cache-Control: max-age=99999999999999999999"], 1 << 31, 0),
        ];
        for (lines, lifetime_s, age_s) in table {
            let facts = judge("GET", 200, lines).1;
            assert_eq!((facts.lifetime_s, facts.initial_age_s), (*lifetime_s, *age_s), "{lines:?}");
        }
        // The time of the exchange counts for Age (RFC 9111 section 4.2.3).
        let mut head = RequestHead::default();
        head.parse(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let exchange = Exchange { request_s: NOW_S - 4, response_s: NOW_S, purges: 0 };
        assert_eq!(decide(&head, 200, &headers(&[NOW, "Age: 30"]), exchange).1.initial_age_s, 34);
    }

    #[test]
    fn vary_names_are_sorted_once() {
        let facts = judge("GET", 200, &[NOW, "Vary: Cookie, accept-encoding", "Vary: ,COOKIE"]).1;
        assert_eq!(facts.vary, ["accept-encoding", "cookie"]);
    }

    #[test]
    fn unsafe_methods_invalidate() {
        let mut head = RequestHead::default();
        for (method, status, want) in [
            ("POST", 200, true),
            ("PUT", 201, true),
            ("DELETE", 204, true),
            ("M-SEARCH", 302, true),
            ("POST", 404, false),
            ("POST", 500, false),
            ("GET", 200, false),
            ("OPTIONS", 200, false),
        ] {
            head.parse(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).unwrap();
            assert_eq!(invalidates(&head, status), want, "{method} {status}");
        }
    }
}
