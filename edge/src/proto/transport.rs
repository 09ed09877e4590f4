//! What routes rule for the way clients come, as far as workers see to it: who has to have shown a certificate, of every
//! request; and Strict-Transport-Security (RFC 6797 section 7.1) of what a worker answers of its own to a request that it
//! could read. Control adds that to all that goes through control. A head that was refused names no route.
#![forbid(unsafe_code)]

use super::request::{RequestHead, Scheme};
use super::route::{Pattern, Ruled};

/// What one route rules.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// The value of Strict-Transport-Security.
    pub hsts: Option<String>,
    /// Only clients that have shown a certificate are served.
    pub client_certificate: bool,
}

/// The policies of all routes.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    hsts: Ruled<String>,
    client_certificate: Ruled<()>,
}

impl Policies {
    /// Of these routes, the first that matches a request counts.
    pub fn new(routes: impl IntoIterator<Item = (Pattern, Policy)> + Clone) -> Self {
        let hsts = routes.clone().into_iter().map(|(pattern, policy)| (pattern, policy.hsts));
        let certificate = |(pattern, policy): (_, Policy)| (pattern, policy.client_certificate.then_some(()));
        Policies {
            hsts: Ruled::new(hsts),
            client_certificate: Ruled::new(routes.into_iter().map(certificate)),
        }
    }

    /// Whether its route is for clients with a certificate and this one has shown none.
    #[inline]
    pub fn refuses(&self, request: &RequestHead) -> bool {
        !self.client_certificate.is_empty()
            && !request.certified
            && self.client_certificate.of(request).is_some()
    }

    /// Writes the field line that an answer to this request has, if its client came by TLS.
    pub fn push(&self, request: &RequestHead, out: &mut Vec<u8>) {
        if request.url_scheme() != Scheme::Https {
            return;
        }
        if let Some(value) = self.hsts.of(request) {
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
            (pattern, Policy { hsts: value.map(Into::into), client_certificate: path == Some("/none") })
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
            let refused = host == "a.test" && path == "/none";
            assert_eq!(policies.refuses(&head), refused, "{host}{path}");
            head.certified = true;
            assert!(!policies.refuses(&head), "{host}{path}");
            let wanted = value.map(|value| format!("strict-transport-security: {value}\r\n"));
            assert_eq!(String::from_utf8(out).unwrap(), wanted.unwrap_or_default(), "{host}{path}");
        }
    }
}
