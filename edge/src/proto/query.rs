//! Which arguments of a URL's query count for the cache key. By default all do, as they were sent. An operator's rule
//! may leave some out, or count them in whatever order they come: then requests that differ in nothing else share one
//! stored response. The rule is about the key alone; the origin is asked for the URL that the client sent.
//!
//! * Arguments stand between `&`; an argument's name is what is before its first `=`. Names are compared byte by byte,
//!   as they were sent: another case or another percent-encoding is another name. So a rule joins too little rather than
//!   too much.
//! * A key under a rule ends with the rule's mark, `#` and a number. No URL that a request carries has a `#`. So what
//!   was stored under a rule is never found under another one, or under none, whatever is under way when the rule changes.
//! * Which rule is in force is a question of the route, so of the fields of the request too, where routes name one.
//!   Whoever has a URL alone, as a purge, means it under each of the rules that it may come to.
#![forbid(unsafe_code)]

use super::key;
use super::request::RequestHead;
use super::route::{Pattern, Ruled};
use crate::limits;
use std::sync::Arc;

/// Bytes of a rule's mark: `#` and a 64-bit number in base 16.
pub(super) const MARK_BYTES: usize = 17;

/// Names of arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arguments {
    /// All of them.
    All,
    /// All but those with one of these names.
    Ignoring(Vec<Name>),
    /// Those with one of these names.
    Only(Vec<Name>),
}

/// A name of arguments, or with a `*` at its end the beginning of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    text: String,
    prefix: bool,
}

impl Name {
    /// `None`: no argument has such a name. A `*` anywhere but at the end is no pattern either.
    pub fn parse(text: &str) -> Option<Name> {
        let (start, prefix) = text.strip_suffix('*').map_or((text, false), |start| (start, true));
        let valid = start.bytes().all(|byte| byte.is_ascii_graphic() && !b"&=#*".contains(&byte));
        let fits = valid && !text.is_empty() && text.len() <= limits::QUERY_NAME_BYTES_MAX;
        fits.then(|| Name { text: start.to_owned(), prefix })
    }

    fn matches(&self, name: &[u8]) -> bool {
        if self.prefix { name.starts_with(self.text.as_bytes()) } else { name == self.text.as_bytes() }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.text, if self.prefix { "*" } else { "" })
    }
}

/// One route's rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    counted: Arguments,
    sort: bool,
    mark: [u8; MARK_BYTES],
}

impl Rule {
    /// A rule by which these arguments count; with `sort` in the order of their names, those of one name as they came.
    pub fn new(counted: Arguments, sort: bool) -> Rule {
        let number = key::hash(format!("{counted:?} {sort}").as_bytes());
        let mut mark = [b'#'; MARK_BYTES];
        mark[1..].copy_from_slice(format!("{number:016x}").as_bytes());
        Rule { counted, sort, mark }
    }

    /// Which arguments count.
    pub fn counted(&self) -> &Arguments {
        &self.counted
    }

    /// Whether their order does not.
    pub fn sorts(&self) -> bool {
        self.sort
    }

    fn counts(&self, argument: &[u8]) -> bool {
        let name = name_of(argument);
        match &self.counted {
            Arguments::All => true,
            Arguments::Ignoring(names) => !names.iter().any(|one| one.matches(name)),
            Arguments::Only(names) => names.iter().any(|one| one.matches(name)),
        }
    }

    /// Adds path and query as they count to a key that has scheme and host. Where nothing of a query counts, it is as
    /// if there were none.
    fn push(&self, key: &mut Vec<u8>, target: &[u8]) {
        let path_bytes = target.iter().position(|&byte| byte == b'?').unwrap_or(target.len());
        let (path, query) = target.split_at(path_bytes);
        key.extend_from_slice(path);
        if let Some(query) = query.strip_prefix(b"?") {
            let counted = query.split(|&byte| byte == b'&').filter(|argument| self.counts(argument));
            let count = if self.sort { counted.clone().count() } else { 0 };
            // More than there is room for stay as they came: that only joins less.
            if (2..=limits::QUERY_SORTED_MAX).contains(&count) {
                push_sorted(key, counted, count);
            } else {
                push_all(key, counted);
            }
        }
        key.extend_from_slice(&self.mark);
    }
}

fn push_sorted<'a>(key: &mut Vec<u8>, arguments: impl Iterator<Item = &'a [u8]>, count: usize) {
    let mut places: [&[u8]; limits::QUERY_SORTED_MAX] = [&[]; limits::QUERY_SORTED_MAX];
    let sorted = &mut places[..count];
    sorted.iter_mut().zip(arguments).for_each(|(place, argument)| *place = argument);
    // All lie in one query: where an argument starts tells which of one name came first.
    sorted.sort_unstable_by_key(|argument| (name_of(argument), argument.as_ptr().addr()));
    push_all(key, sorted.iter().copied());
}

fn push_all<'a>(key: &mut Vec<u8>, arguments: impl Iterator<Item = &'a [u8]>) {
    for (number, argument) in arguments.enumerate() {
        key.push(if number == 0 { b'?' } else { b'&' });
        key.extend_from_slice(argument);
    }
}

fn name_of(argument: &[u8]) -> &[u8] {
    argument.split(|&byte| byte == b'=').next().unwrap_or_default()
}

/// The rules of all routes, in their order. Empty where no route has one: then keys are as requests make them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    routes: Ruled<Arc<Rule>>,
}

impl Rules {
    /// Of these routes, the first that matches a request counts.
    pub fn new(routes: impl IntoIterator<Item = (Pattern, Option<Arc<Rule>>)>) -> Self {
        Rules { routes: Ruled::new(routes) }
    }

    /// Whether no route has one.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Makes the key of a request that was just read the one that its route's rule asks for. Allocates nothing once
    /// keys of this length have been seen.
    #[inline]
    pub fn apply(&self, request: &mut RequestHead) {
        if !self.routes.is_empty() {
            self.look(request);
        }
    }

    fn look(&self, request: &mut RequestHead) {
        if let Some(rule) = self.routes.of(request) {
            request.set_key(|key, target| rule.push(key, target));
        }
    }

    /// The keys that a request for the URL of this key may have, as its fields may take it to one route or another; at
    /// least one, that of a request without fields last.
    pub fn keys(&self, url_key: &[u8]) -> Vec<Vec<u8>> {
        let origin_bytes = key::origin_of(url_key).len();
        let (origin, target) = url_key.split_at(origin_bytes);
        let path = str::from_utf8(target).unwrap_or_default();
        let mut keys: Vec<Vec<u8>> = Vec::new();
        let mut add = |rule: Option<&Rule>| {
            let key = key_under(rule, origin, target);
            keys.retain(|earlier| *earlier != key);
            keys.push(key);
        };
        for (pattern, rule) in self.routes.of_path(url_key, path) {
            add(rule.as_deref());
            if pattern.header.is_none() {
                return keys;
            }
        }
        add(None);
        keys
    }
}

fn key_under(rule: Option<&Rule>, origin: &[u8], target: &[u8]) -> Vec<u8> {
    let mut key = origin.to_vec();
    match rule {
        Some(rule) => rule.push(&mut key, target),
        None => key.extend_from_slice(target),
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &str) -> Vec<Name> {
        list.split(' ').map(|name| Name::parse(name).unwrap()).collect()
    }

    fn under(rule: &Rule, target: &str) -> String {
        let mut key = Vec::new();
        rule.push(&mut key, target.as_bytes());
        let end = key.len() - MARK_BYTES;
        assert_eq!(key.split_off(end), rule.mark, "{target}");
        String::from_utf8(key).unwrap()
    }

    #[test]
    fn what_counts_of_a_query() {
        let ignoring = |list| Rule::new(Arguments::Ignoring(names(list)), false);
        let only = |list| Rule::new(Arguments::Only(names(list)), false);
        for (rule, target, want) in [
            (ignoring("utm_* fbclid"), "/p", "/p"),
            (ignoring("utm_* fbclid"), "/p?", "/p?"),
            (ignoring("utm_* fbclid"), "/p?utm_source=x", "/p"),
            (ignoring("utm_* fbclid"), "/p?a=1&utm_source=x&b=2&fbclid", "/p?a=1&b=2"),
            (ignoring("utm_* fbclid"), "/p?fbclid=1&fbclid=2&a", "/p?a"),
            (ignoring("utm_* fbclid"), "/p?utm_", "/p"),
            (ignoring("utm_* fbclid"), "/p?utm=1&fbclidx=1&FBCLID=1", "/p?utm=1&fbclidx=1&FBCLID=1"),
            (ignoring("utm_* fbclid"), "/p?%66bclid=1", "/p?%66bclid=1"),
            (ignoring("utm_* fbclid"), "/p?x=fbclid=1", "/p?x=fbclid=1"),
            (ignoring("utm_* fbclid"), "/p?a&&b&", "/p?a&&b&"),
            (ignoring("utm_* fbclid"), "/p?q?fbclid=1&utm_?=2", "/p?q?fbclid=1"),
            (ignoring("*"), "/p?a=1&b", "/p"),
            (ignoring("*"), "/p?", "/p"),
            (only("id page"), "/p?x=1&page=2&id=7&", "/p?page=2&id=7"),
            (only("id page"), "/p?ID=1", "/p"),
            (only("id page"), "*", "*"),
        ] {
            assert_eq!(under(&rule, target), want, "{rule:?} {target}");
            assert_eq!(under(&rule, want), want, "{rule:?}: once more changes nothing");
        }
    }

    #[test]
    fn sorting_is_by_name_and_keeps_the_order_of_one_name() {
        let sorted = Rule::new(Arguments::All, true);
        let many: Vec<String> = (0..limits::QUERY_SORTED_MAX).rev().map(|n| format!("n{n:03}")).collect();
        let mut in_order = many.clone();
        in_order.sort();
        let too_many = format!("/?z&{}", many.join("&"));
        for (target, want) in [
            ("/p?b=1&a=2", "/p?a=2&b=1"),
            ("/p?a=2&b&a=1&a", "/p?a=2&a=1&a&b"),
            ("/p?ab&a=z", "/p?a=z&ab"),
            ("/p?b&&a", "/p?&a&b"),
            ("/p?", "/p?"),
            (&format!("/?{}", many.join("&")), &format!("/?{}", in_order.join("&"))),
            (&too_many, &too_many),
        ] {
            assert_eq!(under(&sorted, target), want);
        }
        let both = Rule::new(Arguments::Ignoring(names("s")), true);
        assert_eq!(under(&both, "/p?b&s=1&a"), "/p?a&b");
    }

    #[test]
    fn names_of_arguments() {
        for (text, shown) in [
            ("utm_*", Some("utm_*")),
            ("*", Some("*")),
            ("a%5B%5D", Some("a%5B%5D")),
            ("", None),
            ("a=b", None),
            ("a&b", None),
            ("a b", None),
            ("#", None),
            ("*a", None),
            ("a**", None),
            ("\u{e9}", None),
            (&"a".repeat(limits::QUERY_NAME_BYTES_MAX + 1), None),
        ] {
            assert_eq!(Name::parse(text).map(|name| name.to_string()).as_deref(), shown, "{text}");
        }
    }

    fn rules() -> (Rules, [Arc<Rule>; 2]) {
        let all = Arc::new(Rule::new(Arguments::Ignoring(names("*")), false));
        let tracking = Arc::new(Rule::new(Arguments::Ignoring(names("utm_*")), false));
        let pattern = |host: Option<&str>, path: Option<&str>, header: Option<&str>| Pattern {
            host: host.map(str::to_owned),
            path: path.map(str::to_owned),
            header: header.map(|value| ("x-s".to_owned(), value.to_owned())),
        };
        let rules = Rules::new([
            (pattern(None, Some("/api/"), None), None),
            (pattern(Some("a"), None, Some("1")), Some(all.clone())),
            (pattern(Some("a"), None, Some("2")), None),
            (pattern(Some("a"), None, None), Some(tracking.clone())),
            (pattern(None, None, None), None),
        ]);
        (rules, [all, tracking])
    }

    #[test]
    fn the_first_route_rules_and_a_url_has_every_key_it_may_come_to() {
        let (rules, [all, tracking]) = rules();
        assert_eq!(rules.routes.routes.len(), 4, "nothing is ruled behind the last rule");
        let mark = |rule: &Rule| String::from_utf8(rule.mark.to_vec()).unwrap();
        let (all, tracking) = (mark(&all), mark(&tracking));
        for (url, field, want) in [
            ("http://a/p?x&utm_a=1", "", format!("http://a/p?x{tracking}")),
            ("http://a:8080/p?x", "", format!("http://a:8080/p?x{tracking}")),
            ("http://a/p", "", format!("http://a/p{tracking}")),
            ("http://a/p?x&utm_a=1", "X-S: 1\r\n", format!("http://a/p{all}")),
            ("http://a/p?x&utm_a=1", "X-S: 2\r\n", "http://a/p?x&utm_a=1".into()),
            ("http://a/api/?x&utm_a=1", "X-S: 1\r\n", "http://a/api/?x&utm_a=1".into()),
            ("http://b/p?x&utm_a=1", "X-S: 1\r\n", "http://b/p?x&utm_a=1".into()),
        ] {
            let (host, target) = url["http://".len()..].split_at(url["http://".len()..].find('/').unwrap());
            let mut request = RequestHead::default();
            let head = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{field}\r\n");
            request.parse(head.as_bytes()).unwrap().unwrap();
            rules.apply(&mut request);
            assert_eq!(str::from_utf8(&request.key).unwrap(), want, "{url} {field}");
            assert_eq!(request.key_hash, key::hash(&request.key));
            assert_eq!(request.path(), target, "the origin is asked for what was sent");
            assert_eq!(request.url_key(), url.as_bytes());
            assert!(rules.keys(url.as_bytes()).contains(&request.key), "{url} {field}");
        }
        let texts = |url: &str| -> Vec<String> {
            rules.keys(url.as_bytes()).into_iter().map(|key| String::from_utf8(key).unwrap()).collect()
        };
        assert_eq!(
            texts("http://a/p?x&utm_a=1"),
            [format!("http://a/p{all}"), "http://a/p?x&utm_a=1".into(), format!("http://a/p?x{tracking}")]
        );
        assert_eq!(texts("http://a/api/?utm_a"), ["http://a/api/?utm_a"]);
        assert_eq!(texts("http://b/?utm_a"), ["http://b/?utm_a"]);
        assert_eq!(Rules::default().keys(b"http://a/"), [b"http://a/".to_vec()]);
    }

    #[test]
    fn without_rules_nothing_is_kept() {
        assert!(Rules::new([(Pattern::default(), None), (Pattern::default(), None)]).is_empty());
    }
}
