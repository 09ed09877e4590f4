//! RFC 9111: may a response be stored, for how long is it fresh, may it answer this request.
//!
//! The reasoning, in the order the questions are asked:
//!
//! *Whose word counts?* CDN-Cache-Control, if it is there and valid, for it speaks to us alone, and then neither
//! Cache-Control nor Expires (RFC 9213). Else Surrogate-Control, then those. What the operator has ruled for a route ([`Policy`]) comes
//! before both where it says "override", and after both where it fills a gap; it never undoes a prohibition.
//!
//! *May it be stored?* Only what answers a GET, whole: not 206 (a part) and not 304 (an update); or what answers
//! a POST that names its own address in Content-Location and says how long it is fresh (RFC 9110 section 9.3.3).
//! Never against `no-store` or `private`, never with `Vary: *`, and to a request with Authorization only if the
//! origin said that the answer may be shared (`public`, `s-maxage`, `must-revalidate`). `must-understand` takes
//! the place of `no-store` for statuses whose meaning we know, and forbids storing the others. Where `private` or
//! `no-cache` name fields, those alone are not stored: the client whose request it was gets them, and nobody else. That
//! is all that `private` asks for; of `no-cache` it leaves out that they might be sent again after a validation.
//! It must be of use: fresh for some time, or with a validator so that it can be checked at the origin instead of
//! sent again. Set-Cookie does not matter by itself: origins that set cookies on shared answers say `private`, or
//! err; an operator who knows better strips the field.
//!
//! *For how long is it fresh?* As long as the origin said: s-maxage, else max-age, else Expires − Date. Where it
//! said nothing, a tenth of the time since Last-Modified, up to a day, for statuses that RFC 9110 section 15.1
//! lists or that are `public`, and never with Set-Cookie: an estimate, but the origin's own date is its ground.
//! Without that date there is no lifetime: no default exists. What cannot be read (a bad number, a bad date, two
//! values that differ) counts as stale, for the mistake costs one question to the origin, and the other mistake
//! serves wrong content.
//!
//! *How old is it?* The larger of what its Date implies and what its Age says plus the time the exchange took,
//! when it came; then the time it stayed here. The client gets that as Age.
//!
//! *May it answer this request?* If it is fresh and neither side asked for validation. A stale one only where
//! somebody allows it and nobody forbids it: never with no-cache, must-revalidate, proxy-revalidate or s-maxage,
//! nor to a request that asks for less; but within stale-while-revalidate, while we ask the origin again; within
//! the request's max-stale; within stale-if-error when the origin fails; and for a while when no answer at all
//! can be had from it (RFC 9111 section 4.2.4: disconnected). The operator's `stale_max` cuts all of these.
#![forbid(unsafe_code)]

use super::cache_control::{ResponseControl, SECONDS_MAX, seconds};
use super::purge::TagSet;
use super::request::{Marks, Method, RequestHead};
use super::reuse::request_control;
use super::stored::Flags;
use super::{invalidation, targeted};
use crate::limits;
use http::header;
use http::{HeaderMap, HeaderName};

/// The decision on storing a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storing {
    /// May be stored and reused.
    Store,
    /// May not; the word names the field or rule.
    No(&'static str),
}

/// What the operator has ruled for the responses of a route. The default rules nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Lifetime in seconds where the origin gives none, in place of the estimate from Last-Modified.
    pub ttl_s: Option<u32>,
    /// Lifetime in seconds whatever the origin gives; no-store, private and no-cache stay in force.
    pub ttl_override_s: Option<u32>,
    /// The most seconds after its lifetime that a response may be served, whatever allows it.
    pub stale_max_s: Option<u32>,
}

/// What a lifetime was reckoned from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Basis {
    /// Nothing: it is never fresh.
    #[default]
    None,
    /// Cache-Control: s-maxage.
    SMaxage,
    /// Cache-Control: max-age.
    MaxAge,
    /// Expires.
    Expires,
    /// A targeted field (RFC 9213).
    Targeted,
    /// Last-Modified (RFC 9111 section 4.2.2).
    Heuristic,
    /// The route's `ttl`.
    Ttl,
    /// The route's `ttl_override`.
    TtlOverride,
}

impl Basis {
    const ALL: [Basis; 8] = [
        Basis::None,
        Basis::SMaxage,
        Basis::MaxAge,
        Basis::Expires,
        Basis::Targeted,
        Basis::Heuristic,
        Basis::Ttl,
        Basis::TtlOverride,
    ];

    /// From its number in stored meta bytes; an unknown number is none.
    pub fn of(number: u8) -> Basis {
        Basis::ALL.get(usize::from(number)).copied().unwrap_or_default()
    }

    /// As operators know it.
    pub fn word(self) -> &'static str {
        match self {
            Basis::None => "none",
            Basis::SMaxage => "s-maxage",
            Basis::MaxAge => "max-age",
            Basis::Expires => "expires",
            Basis::Targeted => "cdn-cache-control",
            Basis::Heuristic => "last-modified",
            Basis::Ttl => "ttl",
            Basis::TtlOverride => "ttl_override",
        }
    }
}

/// What is known of a response that is being stored; becomes meta bytes by `stored::encode`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    /// What the lifetime was reckoned from.
    pub basis: Basis,
    /// How long after its lifetime it may be served, in seconds.
    pub stale: StaleWindows,
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
    /// Content-Language, lower case, if it is one language.
    pub language: Option<String>,
    /// Fields that are not stored with it, for they are one client's, or could not be used again as they are.
    pub unstored: Vec<HeaderName>,
}

/// For how many seconds after its lifetime a response may be served, by what allows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StaleWindows {
    /// While it is revalidated (RFC 5861 section 3).
    pub while_revalidate_s: u32,
    /// When the origin answers with an error, or not at all (RFC 5861 section 4).
    pub if_error_s: u32,
    /// When the origin cannot be reached (RFC 9111 section 4.2.4).
    pub disconnected_s: u32,
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
    policy: &Policy,
) -> (Storing, Facts) {
    let may_answer_get = request.method == Method::Get
        || (request.method_name() == "POST" && invalidation::names_target(request, fields));
    let (storing, facts) = decide_update(request, status, fields, exchange, policy);
    match storing {
        _ if !may_answer_get => (Storing::No("method"), facts),
        // The estimate is not for answers to POST.
        Storing::Store if request.method != Method::Get && !facts.basis.is_explicit() => {
            (Storing::No("method"), facts)
        }
        _ => (storing, facts),
    }
}

/// As [`decide`], for fields that update what is stored already, whatever the method of the request.
pub(super) fn decide_update(
    request: &RequestHead,
    status: u16,
    fields: &HeaderMap,
    exchange: Exchange,
    policy: &Policy,
) -> (Storing, Facts) {
    let (control, is_targeted) = control(fields);
    let (vary, vary_star) = vary_names(fields);
    let date_s = single_date(fields, header::DATE);
    let source = Source { fields, control: &control, is_targeted, status, policy };
    let (lifetime_s, basis) = source.lifetime(date_s, exchange);
    let must_revalidate = control.must_revalidate || control.proxy_revalidate || control.s_maxage.is_some();
    let facts = Facts {
        status,
        flags: Flags::default()
            .with(Flags::NO_CACHE, control.no_cache)
            .with(Flags::MUST_REVALIDATE, must_revalidate)
            .with(Flags::SHARED, control.public || control.must_revalidate || control.s_maxage.is_some()),
        response_s: exchange.response_s,
        initial_age_s: initial_age(fields, date_s, exchange),
        lifetime_s,
        basis,
        stale: source.stale(lifetime_s),
        last_modified_s: single_date(fields, header::LAST_MODIFIED),
        date_s,
        vary,
        purges: exchange.purges,
        tags: TagSet::of(fields),
        language: language(fields),
        unstored: control.fields.clone(),
    };
    let storing = match forbidden(request, &control, &facts, vary_star) {
        Some(rule) => Storing::No(rule),
        None => worth(fields, &control, &facts),
    };
    (storing, facts)
}

/// What counts for us, and whether it is in a field that is for caches like this one alone.
fn control(fields: &HeaderMap) -> (ResponseControl, bool) {
    match targeted::read(fields) {
        Some(control) => (control, true),
        None => (ResponseControl::read(values(fields, header::CACHE_CONTROL)), false),
    }
}

/// The fields that a response with these is stored without.
pub fn unstored(fields: &HeaderMap) -> Vec<HeaderName> {
    control(fields).0.fields
}

/// The rule that forbids storing.
fn forbidden(
    request: &RequestHead,
    control: &ResponseControl,
    facts: &Facts,
    vary_star: bool,
) -> Option<&'static str> {
    let asked = request_control(request);
    let understood = is_understood(facts.status);
    if !(200..=999).contains(&facts.status) || matches!(facts.status, 206 | 304) {
        Some("status")
    } else if control.must_understand && !understood {
        Some("must-understand")
    } else if control.no_store && !control.must_understand {
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

/// Whether we know what a status means for a cache (RFC 9111 section 5.2.2.3): those RFC 9110 defines, but for parts
/// and updates.
fn is_understood(status: u16) -> bool {
    let known = http::StatusCode::from_u16(status).is_ok_and(|status| status.canonical_reason().is_some());
    known && !matches!(status, 206 | 304)
}

/// Statuses whose freshness may be estimated (RFC 9110 section 15.1).
fn is_heuristic(status: u16) -> bool {
    matches!(status, 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

/// Whether storing could ever serve a request.
fn worth(fields: &HeaderMap, control: &ResponseControl, facts: &Facts) -> Storing {
    let validator = fields.contains_key(header::ETAG) || facts.last_modified_s.is_some();
    let explicit = control.public || facts.basis.is_explicit();
    let useful_s = u64::from(facts.lifetime_s) + u64::from(facts.stale.while_revalidate_s);
    if useful_s > u64::from(facts.initial_age_s) && (validator || !control.no_cache) {
        Storing::Store
    } else if !validator {
        Storing::No("no-freshness")
    } else if explicit || is_heuristic(facts.status) {
        Storing::Store
    } else {
        Storing::No("status")
    }
}

impl Basis {
    /// Whether the origin or the operator gave the lifetime, be it 0.
    fn is_explicit(self) -> bool {
        !matches!(self, Basis::None | Basis::Heuristic)
    }
}

/// Where lifetimes come from.
struct Source<'a> {
    fields: &'a HeaderMap,
    control: &'a ResponseControl,
    is_targeted: bool,
    status: u16,
    policy: &'a Policy,
}

impl Source<'_> {
    /// RFC 9111 section 4.2.1.
    fn lifetime(&self, date_s: Option<u64>, exchange: Exchange) -> (u32, Basis) {
        let named = |basis| if self.is_targeted { Basis::Targeted } else { basis };
        if let Some(ttl_s) = self.policy.ttl_override_s {
            return (ttl_s, Basis::TtlOverride);
        }
        if let Some(seconds) = self.control.s_maxage {
            return (seconds, named(Basis::SMaxage));
        }
        if let Some(seconds) = self.control.max_age {
            return (seconds, named(Basis::MaxAge));
        }
        let date_s = date_s.unwrap_or(exchange.response_s);
        if self.fields.contains_key(header::EXPIRES) && !self.is_targeted {
            let expires_s = single_date(self.fields, header::EXPIRES).unwrap_or(0);
            return (clamp(expires_s.saturating_sub(date_s)), Basis::Expires);
        }
        if !is_heuristic(self.status) && !self.control.public {
            return (0, Basis::None);
        }
        if let Some(ttl_s) = self.policy.ttl_s {
            return (ttl_s, Basis::Ttl);
        }
        match single_date(self.fields, header::LAST_MODIFIED) {
            Some(modified_s) if !self.fields.contains_key(header::SET_COOKIE) => {
                let tenth_s = date_s.saturating_sub(modified_s) / 10;
                (clamp(tenth_s).min(limits::HEURISTIC_LIFETIME_S_MAX), Basis::Heuristic)
            }
            _ => (0, Basis::None),
        }
    }

    /// What the response itself allows, within what the operator does.
    fn stale(&self, lifetime_s: u32) -> StaleWindows {
        let most_s = self.policy.stale_max_s.unwrap_or(SECONDS_MAX);
        let window_s = |said: Option<u32>| said.unwrap_or(0).min(most_s);
        let disconnected_s = if lifetime_s > 0 { limits::DISCONNECTED_STALE_S_MAX } else { 0 };
        StaleWindows {
            while_revalidate_s: window_s(self.control.stale_while_revalidate),
            if_error_s: window_s(self.control.stale_if_error),
            disconnected_s: window_s(Some(disconnected_s)),
        }
    }
}

/// RFC 9111 section 4.2.3.
fn initial_age(fields: &HeaderMap, date_s: Option<u64>, exchange: Exchange) -> u32 {
    let apparent_s = exchange.response_s.saturating_sub(date_s.unwrap_or(exchange.response_s));
    let delay_s = exchange.response_s.saturating_sub(exchange.request_s);
    let age_s = age(fields).unwrap_or(0);
    clamp(apparent_s.max(age_s + delay_s))
}

/// The Age field, seconds; of a list the first member counts (RFC 9111 section 5.1), and what is not a
/// number is ignored. Parameters, which Age does not have, are left out: they do not make a response younger.
pub fn age(fields: &HeaderMap) -> Option<u64> {
    let value = fields.get(header::AGE)?.as_bytes();
    let first = value.split(|&byte| byte == b',' || byte == b';').next().unwrap_or(value);
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

/// Content-Language, if it is one.
fn language(fields: &HeaderMap) -> Option<String> {
    let mut values = values(fields, header::CONTENT_LANGUAGE);
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let text = str::from_utf8(value).ok()?.trim();
    let is_tag = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (!text.is_empty() && text.bytes().all(is_tag)).then(|| text.to_ascii_lowercase())
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
        let exchange = Exchange { request_s: NOW_S, response_s: NOW_S, purges: 0 };
        decide(&head, status, &headers(lines), exchange, &Policy::default())
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
            ("GET", 200, &[NOW, "Cache-Control: max-age=60, private=\"x\""], Store),
            ("GET", 200, &[NOW, "Cache-Control: max-age=60, no-cache=\"x\""], Store),
            ("GET", 200, &[NOW, "Cache-Control: max-age=60, private=x"], No("private")),
            ("GET", 200, &[NOW, "Cache-Control: max-age=60, private=\"Content-Type\""], No("private")),
            ("GET", 200, &[NOW, "CDN-Cache-Control: max-age=60, private=\"x\""], No("private")),
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
            // A status nobody calls cacheable, with Last-Modified: public allows the estimate, nothing else does.
            ("GET", 599, &[NOW, modified], No("status")),
            ("GET", 599, &[NOW, modified, "Cache-Control: public"], Store),
            ("GET", 201, &[NOW, modified], No("status")),
            ("GET", 200, &[NOW, "Cache-Control: no-store, must-understand, max-age=60"], Store),
            (
                "GET",
                599,
                &[NOW, "Cache-Control: no-store, must-understand, max-age=60"],
                No("must-understand"),
            ),
            ("GET", 599, &[NOW, "Cache-Control: must-understand, max-age=60"], No("must-understand")),
            ("GET", 200, &[NOW, "Cache-Control: max-age=0, stale-while-revalidate=9"], Store),
            // CDN-Cache-Control takes the place of Cache-Control and Expires, if it is valid.
            ("GET", 200, &[NOW, "Cache-Control: no-store", "CDN-Cache-Control: max-age=60"], Store),
            ("GET", 200, &[NOW, fresh, "CDN-Cache-Control: no-store"], No("no-store")),
            ("GET", 200, &[NOW, fresh, "CDN-Cache-Control: private"], No("private")),
            ("GET", 200, &[NOW, fresh, "CDN-Cache-Control: no-cache"], No("no-freshness")),
            ("GET", 200, &[NOW, fresh, "CDN-Cache-Control: max-age=0"], No("no-freshness")),
            ("GET", 200, &[NOW, fresh, "CDN-Cache-Control: max-age=0, &&"], Store),
            ("GET", 200, &[NOW, "Cache-Control: no-store", "CDN-Cache-Control: &&"], No("no-store")),
            (
                "GET",
                200,
                &[NOW, "Expires: Tue, 14 Nov 2023 22:14:20 GMT", "CDN-Cache-Control: x"],
                No("no-freshness"),
            ),
            ("HEAD", 200, &[NOW, fresh], No("method")),
            ("POST", 200, &[NOW, fresh], No("method")),
            ("POST", 200, &[NOW, fresh, "Content-Location: /"], Store),
            ("POST", 200, &[NOW, fresh, "Content-Location: /other"], No("method")),
            ("POST", 200, &[NOW, modified, "Content-Location: /"], No("method")),
            ("PUT", 200, &[NOW, fresh, "Content-Location: /"], No("method")),
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
            (&[NOW, "Age: 7200.0"], 0, 0),
            (&[NOW, "Age: 7200;foo=bar"], 0, 7200),
            (&[NOW, "Age: 60 ; a=1, 70"], 0, 60),
            (&[NOW, "Age: ;7200"], 0, 0),
            (&[NOW, "Age: 7200", "Age: 0"], 0, 7200),
            // A tenth of the time since Last-Modified, where nothing explicit is said; at most a day.
            (&[NOW, "Last-Modified: Tue, 14 Nov 2023 22:11:40 GMT"], 10, 0),
            (&[NOW, "Last-Modified: Mon, 14 Nov 2011 22:11:40 GMT"], 86_400, 0),
            (&[NOW, "Last-Modified: Tue, 14 Nov 2023 23:11:40 GMT"], 0, 0),
            (&[NOW, "Last-Modified: Tue, 14 Nov 2023 22:11:40 GMT", "Set-Cookie: a=b"], 0, 0),
            (&[NOW, "Last-Modified: Tue, 14 Nov 2023 22:11:40 GMT", "Expires: 0"], 0, 0),
            (&[NOW, "Last-Modified: Tue, 14 Nov 2023 22:11:40 GMT", "Cache-Control: max-age=x"], 0, 0),
            (&[NOW, "Cache-Control: max-age=5, s-maxage=6", "CDN-Cache-Control: max-age=7"], 7, 0),
            (&[NOW, "Cache-Control: max-age=5", "CDN-Cache-Control: max-age=\"7\""], 0, 0),
            // Expires counts from Date, even where Date is wrong.
            (&["Date: Tue, 14 Nov 2023 22:20:00 GMT", "Expires: Tue, 14 Nov 2023 22:18:20 GMT"], 0, 0),
            (
                &["Date: Tue, 14 Nov 2023 22:13:30 GMT", "Expires: Tue, 14 Nov 2023 22:13:40 GMT", "Age: 15"],
                10,
                15,
            ),
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
        let facts = decide(&head, 200, &headers(&[NOW, "Age: 30"]), exchange, &Policy::default()).1;
        assert_eq!(facts.initial_age_s, 34);
    }

    #[test]
    fn vary_names_are_sorted_once() {
        let facts = judge("GET", 200, &[NOW, "Vary: Cookie, accept-encoding", "Vary: ,COOKIE"]).1;
        assert_eq!(facts.vary, ["accept-encoding", "cookie"]);
    }

    #[test]
    fn what_the_operator_rules() {
        let policy = Policy { ttl_s: Some(50), ttl_override_s: None, stale_max_s: Some(5) };
        let forced = Policy { ttl_override_s: Some(70), ..policy };
        let swr = "Cache-Control: max-age=60, stale-while-revalidate=9, stale-if-error=3";
        let modified = "Last-Modified: Tue, 14 Nov 2023 20:00:00 GMT";
        type Case<'a> = (&'a Policy, u16, &'a [&'a str], (u32, Basis), Storing);
        let table: &[Case<'_>] = &[
            (&policy, 200, &[NOW], (50, Basis::Ttl), Storing::Store),
            (&policy, 200, &[NOW, modified], (50, Basis::Ttl), Storing::Store),
            (&policy, 404, &[NOW], (50, Basis::Ttl), Storing::Store),
            (&policy, 503, &[NOW], (0, Basis::None), Storing::No("no-freshness")),
            (&policy, 200, &[NOW, swr], (60, Basis::MaxAge), Storing::Store),
            (
                &policy,
                200,
                &[NOW, "Cache-Control: max-age=0"],
                (0, Basis::MaxAge),
                Storing::No("no-freshness"),
            ),
            (&forced, 200, &[NOW, swr], (70, Basis::TtlOverride), Storing::Store),
            (&forced, 503, &[NOW], (70, Basis::TtlOverride), Storing::Store),
            (&forced, 200, &[NOW, "Cache-Control: max-age=0"], (70, Basis::TtlOverride), Storing::Store),
            (
                &forced,
                200,
                &[NOW, "Cache-Control: no-store"],
                (70, Basis::TtlOverride),
                Storing::No("no-store"),
            ),
            (
                &forced,
                200,
                &[NOW, "Cache-Control: private"],
                (70, Basis::TtlOverride),
                Storing::No("private"),
            ),
            (
                &forced,
                200,
                &[NOW, "Cache-Control: no-cache"],
                (70, Basis::TtlOverride),
                Storing::No("no-freshness"),
            ),
        ];
        let mut head = RequestHead::default();
        head.parse(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let exchange = Exchange { request_s: NOW_S, response_s: NOW_S, purges: 0 };
        for (policy, status, lines, lifetime, storing) in table {
            let (got, facts) = decide(&head, *status, &headers(lines), exchange, policy);
            assert_eq!(((facts.lifetime_s, facts.basis), got), (*lifetime, *storing), "{policy:?} {lines:?}");
        }
        let (_, facts) = decide(&head, 200, &headers(&[NOW, swr]), exchange, &policy);
        let windows = StaleWindows { while_revalidate_s: 5, if_error_s: 3, disconnected_s: 5 };
        assert_eq!(facts.stale, windows, "within stale_max");
    }

    #[test]
    fn a_basis_survives_its_number() {
        for (number, basis) in Basis::ALL.into_iter().enumerate() {
            assert_eq!((Basis::of(number as u8), basis as usize), (basis, number));
        }
        assert_eq!(Basis::of(99), Basis::None);
    }
}
