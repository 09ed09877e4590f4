//! Strict-Transport-Security as routes rule it (RFC 6797 section 7.1), for what a worker answers of its own to a request that
//! it could read: control adds it to all that goes through control. A head that was refused names no route.
#![forbid(unsafe_code)]

use super::request::{RequestHead, Scheme};
use super::route::{Pattern, Ruled};

/// The policies of all routes.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    routes: Ruled<String>,
}

impl Policies {
    /// Of these routes, the first that matches a request counts; the field's value.
    pub fn new(routes: impl IntoIterator<Item = (Pattern, Option<String>)>) -> Self {
        Policies { routes: Ruled::new(routes) }
    }

    /// Writes the field line that an answer to this request has, if its client came by TLS.
    pub fn push(&self, request: &RequestHead, out: &mut Vec<u8>) {
        if request.url_scheme() != Scheme::Https {
            return;
        }
        if let Some(value) = self.routes.of(request) {
            out.extend_from_slice(b"strict-transport-security: ");
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_route_that_matches_counts() {
        let route = |host: Option<&str>, path: Option<&str>, value: Option<&str>| {
            let pattern = Pattern { host: host.map(Into::into), path: path.map(Into::into), header: None };
            (pattern, value.map(Into::into))
        };
        let policies = Policies::new([
            route(Some("a.test"), Some("/none"), None),
            route(Some("a.test"), None, Some("max-age=1")),
            route(None, None, Some("max-age=2")),
        ]);
        for (scheme, host, path, value) in [
            (Scheme::Https, "a.test", "/", Some("max-age=1")),
            (Scheme::Https, "a.test", "/none", None),
            (Scheme::Https, "b.test", "/none", Some("max-age=2")),
            (Scheme::Http, "a.test", "/", None),
        ] {
            let mut head = RequestHead { scheme, ..RequestHead::default() };
            let text = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
            assert!(head.parse(text.as_bytes()).unwrap().is_some());
            let mut out = Vec::new();
            policies.push(&head, &mut out);
            let wanted = value.map(|value| format!("strict-transport-security: {value}\r\n"));
            assert_eq!(String::from_utf8(out).unwrap(), wanted.unwrap_or_default(), "{host}{path}");
        }
    }
}
