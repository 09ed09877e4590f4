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
//! what clients send, by which variants are told apart. But for X-Forwarded-Proto: that is the scheme, which is in every key.
//!
//! *The scheme is the client's.* Where a trusted proxy ends TLS, the key has the scheme that this proxy names
//! ([`claimed_scheme`]), and the origin is told the same: origins answer `http` with a redirect to `https`, which must
//! not be what clients of `https` get. Of a list the last member counts, for it is what the proxy itself says.
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

/// How the client came to the trusted proxy that sent this request. `None`: it is not trusted, or does not say.
pub(super) fn claimed_scheme(request: &RequestHead) -> Option<Scheme> {
    if !request.trusted {
        return None;
    }
    let last = |name: &str| {
        let value = request.field_all(name).last()?;
        value.rsplit(|&byte| byte == b',').next().map(<[u8]>::trim_ascii)
    };
    let proto = || last(FORWARDED.as_str())?.split(|&byte| byte == b';').find_map(proto_of);
    let word = last(X_FORWARDED_PROTO.as_str()).or_else(proto)?;
    let is = |names: [&str; 2]| names.iter().any(|name| word.eq_ignore_ascii_case(name.as_bytes()));
    // Some proxies name the protocol that a connection is to go over to.
    match () {
        () if is(["https", "wss"]) => Some(Scheme::Https),
        () if is(["http", "ws"]) => Some(Scheme::Http),
        () => None,
    }
}

/// The value of a pair of Forwarded, if it is the protocol.
fn proto_of(pair: &[u8]) -> Option<&[u8]> {
    let equals = pair.iter().position(|&byte| byte == b'=')?;
    let (name, value) = (pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii());
    let bare = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
    name.eq_ignore_ascii_case(b"proto").then_some(bare)
}

/// Tells the origin of this request's client.
pub fn tell(fields: &mut HeaderMap, request: &RequestHead, style: Style) {
    if !request.trusted {
        let claims: Vec<HeaderName> = fields.keys().filter(|name| is_told(name.as_str())).cloned().collect();
        claims.iter().for_each(|name| drop(fields.remove(name)));
    }
    // What a trusted proxy says is how the client came to it, and not how it came to us.
    if style == Style::XForwarded || fields.contains_key(&X_FORWARDED_PROTO) {
        fields.insert(X_FORWARDED_PROTO, HeaderValue::from_static(word(request.url_scheme())));
    }
    match style {
        Style::XForwarded => {
            if let Some(peer) = request.peer {
                append(fields, X_FORWARDED_FOR, &peer.to_string());
            }
        }
        Style::Forwarded => {
            let scheme = word(request.scheme);
            append(fields, FORWARDED, &format!("for={};proto={scheme}", node(request.peer)));
        }
        Style::Off => {}
    }
}

fn word(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    }
}

/// Whether a response says that it depends on what origins are told, beside the scheme, which every key has.
pub fn varies(fields: &HeaderMap) -> bool {
    let names = fields.get_all(VARY).iter().flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    names
        .filter_map(|name| Some(str::from_utf8(name).ok()?.trim()))
        .any(|name| is_told(name) && !name.eq_ignore_ascii_case(X_FORWARDED_PROTO.as_str()))
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
        let mut request = RequestHead { scheme, trusted, ..RequestHead::default() };
        request.parse(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes()).unwrap().unwrap();
        request.peer = peer.map(|peer| peer.parse().unwrap());
        let mut map = HeaderMap::new();
        for (name, value) in request.fields().filter(|(name, _)| *name != "Host") {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_bytes(value).unwrap(),
            );
        }
        tell(&mut map, &request, style);
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
        let list = "X-Forwarded-Proto: http, wss\r\n";
        check(list, Style::Off, "x-forwarded-proto: https");
        let element = "forwarded: for=\"[2001:db8::1]\";proto=http\nx-forwarded-proto: https";
        check(list, Style::Forwarded, element);
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
        for (vary, want) in [
            ("X-Forwarded-For", true),
            ("accept, X-Forwarded-Proto", false),
            ("x-forwarded-proto, x-forwarded-host", true),
            ("Accept,FORWARDED ", true),
            ("X-Real-Ip", true),
            ("Accept-Encoding, X-Forwarded", false),
            ("*", false),
        ] {
            let mut fields = HeaderMap::new();
            fields.append(VARY, HeaderValue::from_static("cookie"));
            fields.append(VARY, HeaderValue::from_static(vary));
            assert_eq!(varies(&fields), want, "{vary}");
        }
    }

    #[test]
    fn the_key_has_the_scheme_that_a_trusted_proxy_names() {
        use Scheme::{Http, Https};
        for (host, fields, trusted, scheme, want) in [
            ("a", "X-Forwarded-Proto: https\r\n", true, Http, "https://a/x"),
            ("a", "X-Forwarded-Proto: https\r\n", false, Http, "http://a/x"),
            ("a", "X-Forwarded-Proto: http\r\n", true, Https, "http://a/x"),
            ("a:443", "x-forwarded-proto:  HTTPS\r\n", true, Http, "https://a/x"),
            ("a:80", "X-Forwarded-Proto: https\r\n", true, Http, "https://a:80/x"),
            ("a", "X-Forwarded-Proto: https, http\r\n", true, Http, "http://a/x"),
            ("a", "X-Forwarded-Proto: http\r\nX-Forwarded-Proto: https\r\n", true, Http, "https://a/x"),
            ("a", "X-Forwarded-Proto: gopher\r\nForwarded: proto=https\r\n", true, Http, "http://a/x"),
            ("a", "X-Forwarded-Proto: wss\r\n", true, Http, "https://a/x"),
            (
                "a",
                "Forwarded: for=b;proto=http, for=\"[::1]\"; PROTO=\"https\"\r\n",
                true,
                Http,
                "https://a/x",
            ),
            ("a", "Forwarded: proto=https, for=c\r\n", true, Http, "http://a/x"),
            ("a", "Forwarded: proto=https\r\n", false, Http, "http://a/x"),
            ("a", "", true, Https, "https://a/x"),
        ] {
            let mut request = RequestHead { scheme, trusted, ..RequestHead::default() };
            let head = format!("GET /x HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n");
            request.parse(head.as_bytes()).unwrap().unwrap();
            assert_eq!(String::from_utf8_lossy(&request.key), want, "{fields}");
            assert_eq!(request.url_scheme() == Https, want.starts_with("https"), "{fields}");
        }
    }
}
