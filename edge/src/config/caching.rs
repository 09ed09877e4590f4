//! What a route rules for the caching of its responses: the keys of `[[routes]]` that are about it.
#![forbid(unsafe_code)]

use super::read::Section;
use super::{Caching, value};

/// Reads them. `None`: one is wrong, and was reported.
pub(super) fn rules(section: &Section<'_>) -> Option<Caching> {
    const LIFETIME: &str = "write a lifetime such as \"5m\"";
    let seconds = |key: &str| match section.get(key) {
        Some(item) => item.parse(LIFETIME, value::lifetime_s).map(Some),
        None => Some(None),
    };
    let flag = |key: &str| match section.get(key) {
        Some(item) => item.flag(),
        None => Some(false),
    };
    let (ttl_s, ttl_override_s, stale_max_s) =
        (seconds("ttl"), seconds("ttl_override"), seconds("stale_max"));
    let (strip_cookie, strip_set_cookie) = (flag("strip_cookie"), flag("strip_set_cookie"));
    if let (Some(Some(_)), Some(Some(_)), Some(item)) = (ttl_s, ttl_override_s, section.get("ttl")) {
        item.report("has no effect beside ttl_override; remove one of them");
    }
    Some(Caching {
        ttl_s: ttl_s?,
        ttl_override_s: ttl_override_s?,
        stale_max_s: stale_max_s?,
        strip_cookie: strip_cookie?,
        strip_set_cookie: strip_set_cookie?,
    })
}
