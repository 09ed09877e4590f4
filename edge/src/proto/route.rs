//! Which requests a route is for: by host, by the beginning of the path, by one field. What it rules for them is settled
//! elsewhere.
#![forbid(unsafe_code)]

use super::request::RequestHead;

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
    /// Whether host (without port, any case) and path match. The field is looked at by [`Pattern::field_matches`].
    #[inline]
    pub fn place_matches(&self, host: &str, path: &str) -> bool {
        self.host.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(host))
            && self.path.as_ref().is_none_or(|prefix| path.starts_with(prefix.as_str()))
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
            let place = pattern.place_matches(without_port(request.host()), request.path());
            assert_eq!(place && pattern.field_matches(&request), matches, "{pattern:?}");
        }
    }
}
