//! Which requests a route is for: by host, by the beginning of the path, by one field. What it rules for them is settled
//! elsewhere.
//!
//! The first of a list that matches counts. A node may have hundreds of hosts, and with rules for queries every hit asks:
//! so those that name another host are not looked at ([`ByHost`]).
#![forbid(unsafe_code)]

use super::key;
use super::request::RequestHead;
use crate::limits;
use std::collections::HashMap;

const _: () = assert!(limits::ROUTES_MAX <= u16::MAX as usize, "numbers of routes are of 16 bits");

/// What requests a route is for; the default is for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pattern {
    /// Host to match, lower case, without port; `None`: any.
    pub host: Option<String>,
    /// Path prefix to match; `None`: any.
    pub path: Option<String>,
    /// Field name (lower case) and exact value to match; `None`: any.
    pub header: Option<(String, String)>,
}

impl Pattern {
    /// Whether the path matches. The host is what [`ByHost`] looks at, and the field [`Pattern::field_matches`].
    #[inline]
    pub fn path_matches(&self, path: &str) -> bool {
        self.path.as_ref().is_none_or(|prefix| path.starts_with(prefix.as_str()))
    }

    /// Whether the request has the field, if one is wanted.
    #[inline]
    pub fn field_matches(&self, request: &RequestHead) -> bool {
        let has = |(name, value): &(String, String)| request.field(name) == Some(value.as_bytes());
        self.header.as_ref().is_none_or(has)
    }

    /// Whether every request that `later` matches is matched by this one.
    pub fn covers(&self, later: &Pattern) -> bool {
        let host = self.host.is_none() || self.host == later.host;
        let header = self.header.is_none() || self.header == later.header;
        let path = match (&self.path, &later.path) {
            (None, _) => true,
            (Some(prefix), Some(path)) => path.starts_with(prefix.as_str()),
            (Some(_), None) => false,
        };
        host && header && path
    }
}

/// The patterns of a list by the host they name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ByHost {
    /// Their numbers, ascending.
    named: HashMap<Box<[u8]>, Vec<u16>>,
    /// Those that name none.
    any: Vec<u16>,
}

impl ByHost {
    /// Of these, in their order.
    pub fn new<'a>(patterns: impl IntoIterator<Item = &'a Pattern>) -> Self {
        let mut list = ByHost::default();
        for (number, pattern) in patterns.into_iter().enumerate() {
            let numbers = match &pattern.host {
                Some(host) => list.named.entry(host.as_bytes().into()).or_default(),
                None => &mut list.any,
            };
            numbers.push(number as u16);
        }
        list
    }

    /// Numbers of those that match the host in this key, in their order.
    #[inline]
    pub fn of_key(&self, key: &[u8]) -> impl Iterator<Item = usize> + use<'_> {
        let named = self.named.get(key::host_of(key)).map_or(&[][..], Vec::as_slice);
        let (mut named, mut any) = (named.iter().peekable(), self.any.iter().peekable());
        let next = move || match (named.peek(), any.peek()) {
            (Some(first), Some(other)) if first < other => named.next(),
            (Some(_), None) => named.next(),
            _ => any.next(),
        };
        std::iter::from_fn(next).map(|&number| usize::from(number))
    }
}

/// What the routes of a list rule in one matter, in their order. Empty where none does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruled<T> {
    pub(super) routes: Box<[(Pattern, Option<T>)]>,
    by_host: ByHost,
}

impl<T> Default for Ruled<T> {
    fn default() -> Self {
        Ruled { routes: Box::default(), by_host: ByHost::default() }
    }
}

impl<T> Ruled<T> {
    /// Of these routes, the first that matches a request counts.
    pub fn new(routes: impl IntoIterator<Item = (Pattern, Option<T>)>) -> Self {
        let mut routes: Vec<_> = routes.into_iter().collect();
        let end = routes.iter().rposition(|(_, rule)| rule.is_some()).map_or(0, |last| last + 1);
        routes.truncate(end);
        let by_host = ByHost::new(routes.iter().map(|(pattern, _)| pattern));
        Ruled { routes: routes.into(), by_host }
    }

    /// Whether no route rules anything.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// What its route rules for this request.
    pub fn of(&self, request: &RequestHead) -> Option<&T> {
        let mut routes = self.of_path(&request.key, request.path());
        routes.find(|(pattern, _)| pattern.field_matches(request))?.1.as_ref()
    }

    /// The routes for requests with this key and path, as their fields may take them to one or another.
    pub fn of_path(&self, key: &[u8], path: &str) -> impl Iterator<Item = &(Pattern, Option<T>)> {
        let routes = self.by_host.of_key(key).map(|number| &self.routes[number]);
        routes.filter(move |(pattern, _)| pattern.path_matches(path))
    }
}

/// A host without the port it may carry.
pub fn without_port(host: &str) -> &str {
    match host.rfind(':') {
        // An IPv6 address keeps the colons inside its brackets.
        Some(colon) if !host[colon..].contains(']') => &host[..colon],
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_lose_their_ports() {
        for (host, want) in
            [("a", "a"), ("a:80", "a"), ("a:", "a"), ("[::1]", "[::1]"), ("[::1]:80", "[::1]"), ("", "")]
        {
            assert_eq!(without_port(host), want, "{host}");
        }
    }

    #[test]
    fn a_pattern_matches_by_all_it_names() {
        let mut request = RequestHead::default();
        request.parse(b"GET /im/x HTTP/1.1\r\nHost: A:81\r\nX-S: one\r\n\r\n").unwrap().unwrap();
        for (host, path, header, matches) in [
            (None, None, None, true),
            (Some("a"), None, None, true),
            (Some("b"), None, None, false),
            (None, Some("/im"), None, true),
            (None, Some("/im/x/"), None, false),
            (None, None, Some(("x-s", "one")), true),
            (None, None, Some(("x-s", "One")), false),
            (Some("a"), Some("/"), Some(("x-t", "one")), false),
        ] {
            let pattern = Pattern {
                host: host.map(str::to_owned),
                path: path.map(str::to_owned),
                header: header.map(|(name, value)| (name.to_owned(), value.to_owned())),
            };
            let host = ByHost::new([&pattern]).of_key(&request.key).next() == Some(0);
            let found = host && pattern.path_matches(request.path()) && pattern.field_matches(&request);
            assert_eq!(found, matches, "{pattern:?}");
        }
    }

    #[test]
    fn of_a_list_those_of_the_host_and_of_all_are_looked_at_in_their_order() {
        let hosts = [None, Some("a"), Some("b"), None, Some("[::1]"), Some("b"), Some("a"), None];
        let patterns = hosts.map(|host| Pattern { host: host.map(str::to_owned), ..Pattern::default() });
        let by_host = ByHost::new(&patterns);
        for (key, want) in [
            ("http://a/x", &[0, 1, 3, 6, 7][..]),
            ("https://b:81/", &[0, 2, 3, 5, 7]),
            ("http://[::1]:81/a", &[0, 3, 4, 7]),
            ("http://c/", &[0, 3, 7]),
            ("http:///", &[0, 3, 7]),
        ] {
            assert_eq!(by_host.of_key(key.as_bytes()).collect::<Vec<_>>(), want, "{key}");
        }
        assert_eq!(ByHost::new(&patterns[1..3]).of_key(b"http://c/").next(), None);
    }
}
