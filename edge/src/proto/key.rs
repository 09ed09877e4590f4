//! The cache key: scheme, host, port, path and query as text, and its hash. The path and query are as the client sent
//! them, unless an operator's rule says that parts of the query do not count: then see `query`.
#![forbid(unsafe_code)]

use crate::limits;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// How a client came, as its URL says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Scheme {
    /// Without TLS.
    #[default]
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// What a URL of it begins with.
    pub fn prefix(self) -> &'static str {
        match self {
            Scheme::Http => "http://",
            Scheme::Https => "https://",
        }
    }

    /// The port that is meant when none is named.
    pub fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

/// xxh3-64 of a key.
pub fn hash(key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key)
}

/// The key of an absolute URL as an operator writes it in a purge: `http://Host:80/path` and
/// `http://host/path` give the same key. `None`: not an absolute http or https URL, longer than any
/// request may be, or with user information or a fragment, which no request can carry.
pub fn from_url(url: &str) -> Option<Vec<u8>> {
    let (scheme, rest) = [Scheme::Http, Scheme::Https]
        .into_iter()
        .find_map(|scheme| Some((scheme, strip_scheme(url, scheme.prefix())?)))?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let authority = Authority::parse(authority.as_bytes())?;
    if path.len() > limits::REQUEST_TARGET_BYTES_MAX || !super::framing::is_target(path.as_bytes()) {
        return None;
    }
    let mut key = Vec::with_capacity(url.len() + 1);
    authority.push_key(&mut key, scheme);
    if !path.starts_with('/') {
        key.push(b'/');
    }
    key.extend_from_slice(path.as_bytes());
    Some(key)
}

/// A host as an operator writes it, without a port, in the form keys have it. `None`: it is none.
pub fn host_name(text: &str) -> Option<Vec<u8>> {
    let authority = Authority::parse(text.as_bytes())?;
    (authority.host.len() == text.len()).then(|| text.to_ascii_lowercase().into_bytes())
}

/// Scheme, host and port of a key: what is before its path.
pub fn origin_of(key: &[u8]) -> &[u8] {
    let start = key.iter().position(|&byte| byte == b':').map_or(key.len(), |colon| colon + 3);
    let authority = key.get(start..).unwrap_or_default();
    let end = authority.iter().position(|&byte| byte == b'/' || byte == b'*').unwrap_or(authority.len());
    &key[..key.len().min(start) + end]
}

/// The host in a key, or in the beginning of one; without its port.
pub fn host_of(key: &[u8]) -> &[u8] {
    let origin = origin_of(key);
    let start = origin.iter().position(|&byte| byte == b':').map_or(origin.len(), |colon| colon + 3);
    let authority = origin.get(start..).unwrap_or_default();
    let end = match authority.iter().position(|&byte| byte == b']') {
        Some(bracket) => bracket + 1,
        None => authority.iter().position(|&byte| byte == b':').unwrap_or(authority.len()),
    };
    &authority[..end]
}

fn strip_scheme<'a>(url: &'a str, scheme: &str) -> Option<&'a str> {
    let head = url.get(..scheme.len())?;
    head.eq_ignore_ascii_case(scheme).then(|| &url[scheme.len()..])
}

/// A host and its port (RFC 3986 section 3.2), checked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Authority<'a> {
    host: &'a [u8],
    port: Option<u16>,
}

impl<'a> Authority<'a> {
    /// Takes a name of letters, digits and `-_~` between dots, an IPv4 address, or an IPv6 address in brackets (RFC 3986
    /// section 3.2.2); then perhaps a colon and a port up to 65535, which may be empty. Stricter than the RFC, which
    /// admits more in a name than DNS can resolve, such as nothing between two dots, user information, and addresses of
    /// later versions: such bytes serve attacks on routing only. A name may end with one dot, as in DNS; it is another
    /// name then, with keys of its own, for the origin is sent it as it is and may answer otherwise.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let end = match bytes.first()? {
            b'[' => {
                let close = bytes.iter().position(|&b| b == b']')?;
                Ipv6Addr::from_str(str::from_utf8(&bytes[1..close]).ok()?).ok()?;
                close + 1
            }
            _ => {
                let end = bytes.iter().position(|&b| b == b':').unwrap_or(bytes.len());
                let name = &bytes[..end];
                let mut before = b'.';
                let valid = |&byte: &u8| {
                    let follows_dot = std::mem::replace(&mut before, byte) == b'.';
                    NAME_BYTES[byte as usize] && (byte != b'.' || !follows_dot)
                };
                if name.is_empty() || name.len() > HOST_BYTES_MAX || !name.iter().all(valid) {
                    return None;
                }
                end
            }
        };
        let port = match &bytes[end..] {
            [] | [b':'] => None,
            [b':', digits @ ..] => Some(port(digits)?),
            _ => return None,
        };
        Some(Authority { host: &bytes[..end], port })
    }

    /// Whether both name the same host and port under a scheme.
    pub fn same(&self, other: &Authority<'_>, scheme: Scheme) -> bool {
        let port = |authority: &Authority<'_>| authority.port.unwrap_or(scheme.default_port());
        self.host.eq_ignore_ascii_case(other.host) && port(self) == port(other)
    }

    /// Appends `scheme://host[:port]`, the host in lower case, the port unless it is the default.
    pub fn push_key(&self, key: &mut Vec<u8>, scheme: Scheme) {
        key.extend_from_slice(scheme.prefix().as_bytes());
        let host = key.len();
        key.extend_from_slice(self.host);
        key[host..].make_ascii_lowercase();
        if let Some(port) = self.port.filter(|&port| port != scheme.default_port()) {
            key.push(b':');
            super::response::push_number(key, u64::from(port));
        }
    }
}

/// Bytes that may stand in a name.
const NAME_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 0x80 {
        table[byte] = (byte as u8).is_ascii_alphanumeric() || matches!(byte as u8, b'-' | b'_' | b'~' | b'.');
        byte += 1;
    }
    table
};

/// Bytes of a DNS name in text (RFC 1035), with a final dot.
const HOST_BYTES_MAX: usize = 254;

const _: () = assert!(
    "https://".len()
        + HOST_BYTES_MAX
        + ":65535".len()
        + 1
        + limits::REQUEST_TARGET_BYTES_MAX
        + super::query::MARK_BYTES
        <= limits::KEY_BYTES_MAX
);

fn port(digits: &[u8]) -> Option<u16> {
    if digits.len() > 5 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_to_key() {
        for (url, want) in [
            ("http://Example.COM/a", Some("http://example.com/a")),
            ("HTTP://example.com:80/a?B=c", Some("http://example.com/a?B=c")),
            ("http://example.com:080/a", Some("http://example.com/a")),
            ("http://example.com:8080/A", Some("http://example.com:8080/A")),
            ("http://example.com:/", Some("http://example.com/")),
            ("http://example.com", Some("http://example.com/")),
            ("http://example.com?q", Some("http://example.com/?q")),
            ("https://example.com:443/", Some("https://example.com/")),
            ("https://example.com:80/", Some("https://example.com:80/")),
            ("http://[::1]:8080/%2e%2E", Some("http://[::1]:8080/%2e%2E")),
            ("http://[::1/", None),
            ("http://[1]/", None),
            ("http://[:::]/", None),
            ("http://[1::2::3]/", None),
            ("http://[::12345]/", None),
            ("http://[::1.2.3]/", None),
            ("http://[fe80::1%25eth0]/", None),
            ("http://[v1.a]/", None),
            ("http://[]/", None),
            ("http://[::1]x/", None),
            ("http://[::ffff:192.0.2.1]:80/", Some("http://[::ffff:192.0.2.1]/")),
            ("http://[2001:DB8::A]/", Some("http://[2001:db8::a]/")),
            ("http://a./", Some("http://a./")),
            ("http://a../", None),
            ("http://a..b/", None),
            ("http://.a/", None),
            ("http://./", None),
            ("http://a:0/", Some("http://a:0/")),
            ("http://a:65535/", Some("http://a:65535/")),
            ("http://a:000080/", None),
            ("http://a:80:80/", None),
            ("http://:80/", None),
            ("http://a@/", None),
            ("http://@a/", None),
            ("http://1.2.3.4:/", Some("http://1.2.3.4/")),
            ("http://user@example.com/", None),
            ("http://example.com/#f", None),
            ("http://example.com:65536/", None),
            ("http://example.com:+1/", None),
            ("http:///a", None),
            ("ftp://example.com/", None),
            ("/a", None),
            ("", None),
            ("http://exa mple/", None),
            ("http://example.com/a b", None),
            ("http://\u{e9}.com/", None),
        ] {
            let got = from_url(url);
            assert_eq!(got.as_deref(), want.map(str::as_bytes), "{url}");
        }
    }

    #[test]
    fn the_host_of_a_key() {
        for (key, host) in [
            ("http://a.b/x:y", "a.b"),
            ("https://a.b:8443/", "a.b"),
            ("http://[::1]/", "[::1]"),
            ("http://[::1]:81/]", "[::1]"),
            ("http://a", "a"),
            ("", ""),
            ("http:", ""),
            ("http:/", ""),
        ] {
            assert_eq!(host_of(key.as_bytes()), host.as_bytes(), "{key}");
        }
        assert_eq!(host_name("A.b").as_deref(), Some(&b"a.b"[..]));
        assert_eq!(host_name("a:"), None);
    }

    #[test]
    fn hash_is_xxh3() {
        // The reference value of the xxHash specification for an empty input with seed 0.
        assert_eq!(hash(b""), 0x2d06_8005_38d3_94c2);
    }
}
