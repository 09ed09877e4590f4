//! What an origin is told of the client behind a request: X-Forwarded-For and X-Forwarded-Proto, or Forwarded
//! (RFC 7239). Who may be believed is the operator's to say, and decided elsewhere.
//!
//! *Appended, not invented.* A proxy that the operator trusts says who came before it, and its peer is appended to
//! that. From anybody else such a field is a claim about himself, and goes: the origin is told the address of the
//! connection alone. All fields of the kind go, also those we set none of (X-Forwarded-Host and the like): what they say
//! is in no cache key, so that an origin which believes them would let one client choose what others get.
//!
//! *A shared response must not depend on it.* A fill is sent with the address of the client that asked first, as other
//! caches do it. A response that names such a field in Vary is not stored ([`varies`]): what its origin was told is not
//! what clients send, by which variants are told apart. But for X-Forwarded-Proto where no proxy is trusted: then it is
//! the scheme, which is in every key.
#![forbid(unsafe_code)]

use super::request::{RequestHead, Scheme};
use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue, VARY};
use std::net::IpAddr;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// How an origin is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// `X-Forwarded-For` and `X-Forwarded-Proto`.
    #[default]
    XForwarded,
    /// `Forwarded`, with `for` and `proto`.
    Forwarded,
    /// Not at all.
    Off,
}

/// Tells the origin of this request's client. `trusted`: its peer is a proxy whose fields are kept.
pub fn tell(fields: &mut HeaderMap, request: &RequestHead, style: Style, trusted: bool) {
    if !trusted {
        let claims: Vec<HeaderName> = fields.keys().filter(|name| is_told(name.as_str())).cloned().collect();
        claims.iter().for_each(|name| drop(fields.remove(name)));
    }
    let scheme = match request.scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    match style {
        Style::XForwarded => {
            if let Some(peer) = request.peer {
                append(fields, X_FORWARDED_FOR, &peer.to_string());
            }
            // What a trusted proxy says is how the client came to it, and not how it came to us.
            if !fields.contains_key(&X_FORWARDED_PROTO) {
                fields.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
            }
        }
        Style::Forwarded => {
            append(fields, FORWARDED, &format!("for={};proto={scheme}", node(request.peer)));
        }
        Style::Off => {}
    }
}

/// Whether a response says that it depends on what origins are told. `scheme_is_claimed`: there are proxies which may tell
/// another scheme than the connection's, the one that keys hold.
pub fn varies(fields: &HeaderMap, scheme_is_claimed: bool) -> bool {
    let names = fields.get_all(VARY).iter().flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    names.filter_map(|name| Some(str::from_utf8(name).ok()?.trim())).any(|name| {
        is_told(name) && (scheme_is_claimed || !name.eq_ignore_ascii_case(X_FORWARDED_PROTO.as_str()))
    })
}

/// Whether a field is one by which proxies tell of clients; in any case.
fn is_told(name: &str) -> bool {
    const PREFIX: &str = "x-forwarded-";
    let begins = name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX));
    begins || ["forwarded", "x-real-ip"].iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// Adds an element to a list that may stand on several lines, and makes it one line: readers often look at one alone.
fn append(fields: &mut HeaderMap, name: HeaderName, element: &str) {
    let mut list = Vec::new();
    for value in fields.get_all(&name) {
        list.extend_from_slice(value.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(element.as_bytes());
    if let Ok(list) = HeaderValue::from_bytes(&list) {
        fields.insert(name, list);
    }
}

/// RFC 7239 section 6: IPv6 addresses have brackets, and so must be quoted.
fn node(peer: Option<IpAddr>) -> String {
    match peer {
        Some(IpAddr::V4(address)) => address.to_string(),
        Some(IpAddr::V6(address)) => format!("\"[{address}]\""),
        None => "unknown".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fields an origin gets, as lines in alphabetical order.
    fn told(fields: &str, peer: Option<&str>, style: Style, trusted: bool, scheme: Scheme) -> String {
        let mut request = RequestHead { scheme, ..RequestHead::default() };
        request.parse(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes()).unwrap().unwrap();
        request.peer = peer.map(|peer| peer.parse().unwrap());
        let mut map = HeaderMap::new();
        for (name, value) in request.fields().filter(|(name, _)| *name != "Host") {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_bytes(value).unwrap(),
            );
        }
        tell(&mut map, &request, style, trusted);
        let mut lines: Vec<_> =
            map.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        lines.join("\n")
    }

    const CLAIMS: &str = "X-Forwarded-For: 10.0.0.1\r\nx-forwarded-for: 10.0.0.2, 10.0.0.3\r\n\
                          X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nX-Real-IP: 10.0.0.9\r\n\
                          Forwarded: for=10.0.0.1\r\nX-Forwarded: 1\r\n";

    #[test]
    fn what_strangers_claim_is_replaced() {
        let check = |style, want: &str| {
            assert_eq!(told(CLAIMS, Some("192.0.2.7"), style, false, Scheme::Http), want, "{style:?}");
        };
        check(Style::XForwarded, "x-forwarded-for: 192.0.2.7\nx-forwarded-proto: http\nx-forwarded: 1");
        check(Style::Forwarded, "forwarded: for=192.0.2.7;proto=http\nx-forwarded: 1");
        check(Style::Off, "x-forwarded: 1");
    }

    #[test]
    fn what_trusted_proxies_say_is_kept_and_appended_to() {
        let x = "X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-For: 10.0.0.2\r\nX-Forwarded-Proto: https\r\n";
        let check = |fields: &str, style, want: &str| {
            assert_eq!(told(fields, Some("2001:db8::1"), style, true, Scheme::Http), want, "{style:?}");
        };
        let for_all = "x-forwarded-for: 10.0.0.1, 10.0.0.2, 2001:db8::1\nx-forwarded-proto: https";
        check(x, Style::XForwarded, for_all);
        check("X-Real-IP: 1.2.3.4\r\n", Style::Off, "x-real-ip: 1.2.3.4");
        let quoted = "forwarded: for=\"[2001:db8:cafe::17]:4711\";by=_a, for=\"[2001:db8::1]\";proto=http";
        check("Forwarded: for=\"[2001:db8:cafe::17]:4711\";by=_a\r\n", Style::Forwarded, quoted);
    }

    #[test]
    fn the_scheme_is_that_of_the_connection_and_nobody_is_invented() {
        let check = |peer, style, want: &str| {
            assert_eq!(told("", peer, style, false, Scheme::Https), want, "{style:?}");
        };
        check(Some("::1"), Style::XForwarded, "x-forwarded-for: ::1\nx-forwarded-proto: https");
        check(None, Style::XForwarded, "x-forwarded-proto: https");
        check(None, Style::Forwarded, "forwarded: for=unknown;proto=https");
    }

    #[test]
    fn responses_that_depend_on_it_are_known() {
        for (vary, scheme_is_claimed, want) in [
            ("X-Forwarded-For", false, true),
            ("accept, x-forwarded-proto", true, true),
            ("accept, X-Forwarded-Proto", false, false),
            ("x-forwarded-proto, x-forwarded-host", false, true),
            ("Accept,FORWARDED ", false, true),
            ("X-Real-Ip", false, true),
            ("Accept-Encoding, X-Forwarded", true, false),
            ("*", true, false),
        ] {
            let mut fields = HeaderMap::new();
            fields.append(VARY, HeaderValue::from_static("cookie"));
            fields.append(VARY, HeaderValue::from_static(vary));
            assert_eq!(varies(&fields, scheme_is_claimed), want, "{vary}");
        }
    }
}
