//! What a route rules for the caching of its responses: the keys of `[[routes]]` that are about it.
#![forbid(unsafe_code)]

use super::read::Section;
use super::{Caching, value};
use crate::limits;
use crate::proto::query::{Arguments, Name, Rule};
use std::sync::Arc;

/// Reads them. `None`: one is wrong, and was reported.
pub(super) fn rules(section: &Section<'_>) -> Option<Caching> {
    const LIFETIME: &str = "write a lifetime such as \"5m\"";
    let seconds = |key: &str| match section.get(key) {
        Some(item) => item.parse(LIFETIME, value::lifetime_s).map(Some),
        None => Some(None),
    };
    let (ttl_s, ttl_override_s, stale_max_s) =
        (seconds("ttl"), seconds("ttl_override"), seconds("stale_max"));
    let (strip_cookie, strip_set_cookie) = (section.flag("strip_cookie"), section.flag("strip_set_cookie"));
    let query = query(section);
    if let (Some(Some(_)), Some(Some(_)), Some(item)) = (ttl_s, ttl_override_s, section.get("ttl")) {
        item.report("has no effect beside ttl_override; remove one of them");
    }
    Some(Caching {
        ttl_s: ttl_s?,
        ttl_override_s: ttl_override_s?,
        stale_max_s: stale_max_s?,
        strip_cookie: strip_cookie?,
        strip_set_cookie: strip_set_cookie?,
        query: query?,
    })
}

/// Which arguments of a query count for keys.
fn query(section: &Section<'_>) -> Option<Option<Arc<Rule>>> {
    const RIGHT: &str = "write a list of arguments' names such as [\"utm_*\", \"fbclid\"]";
    let list = |key: &str| section.get(key).map(|item| item.values(RIGHT, limits::QUERY_NAMES_MAX, argument));
    let sort = section.flag("query_sort");
    let counted = match (list("query_ignore"), list("query_only")) {
        (None, None) => Some(Arguments::All),
        (Some(names), None) => names.map(Arguments::Ignoring),
        (None, Some(names)) => names.map(Arguments::Only),
        (Some(_), Some(_)) => {
            if let Some(item) = section.get("query_ignore") {
                item.report("query_only says already what counts; remove one of them");
            }
            None
        }
    };
    let (sort, counted) = (sort?, counted?);
    let rules = sort || counted != Arguments::All;
    Some(rules.then(|| Arc::new(Rule::new(counted, sort))))
}

fn argument(text: &str) -> value::Parsed<Name> {
    Name::parse(text).ok_or_else(|| {
        format!(
            "{text:?} is not the name of an argument; write it as URLs have it, at most {} bytes, perhaps with a * at its end",
            limits::QUERY_NAME_BYTES_MAX
        )
    })
}
