//! Trailer sections (RFC 9110 section 6.5): the fields that follow a body. They are passed on with what is passed through,
//! and dropped of what is stored, as RFC 9112 section 7.1.2 allows: who gets it from the store could not be told in time.
//!
//! A trailer comes after everything was decided by the head, so it must not say what decides: where the body ends, who
//! is asked, who asks, what may be stored, what the content is (section 6.5.1). Such fields go, and the others stay.
//! A client gets those of a response if it has said `TE: trailers`, and then its origin is told that they are welcome
//! (section 10.1.4). Of a request's, those are sent on that its `Trailer` announces.
#![forbid(unsafe_code)]

use super::framing;
use super::request::{BodyLength, RequestHead};
use super::response;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Fields that have no meaning, or a dangerous one, after a body; beside those that `framing` and `forwarded` know, and
/// all that begin with `if-`, `proxy-` and `x-forwarded-`.
const FORBIDDEN: &[&str] = &[
    "age",
    "authentication-info",
    "authorization",
    "cache-control",
    "content-encoding",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "expect",
    "expires",
    "forwarded",
    "host",
    "location",
    "max-forwards",
    "pragma",
    "range",
    "retry-after",
    "set-cookie",
    "via",
    "vary",
    "warning",
    "www-authenticate",
];
const FORBIDDEN_PREFIXES: &[&str] = &["if-", "proxy-", "x-forwarded-"];

/// Whether a client takes trailers of a response.
pub fn are_welcome(request: &RequestHead) -> bool {
    let words = request.field_all("te").flat_map(|value| value.split(|&byte| byte == b','));
    words.map(<[u8]>::trim_ascii).any(|word| word.eq_ignore_ascii_case(b"trailers"))
}

/// The trailers that a request announces and that may be sent on.
pub fn announced(request: &RequestHead) -> Vec<HeaderName> {
    if request.body != BodyLength::Chunked {
        return Vec::new();
    }
    let names = request.field_all("trailer").flat_map(|value| value.split(|&byte| byte == b','));
    let names = names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok());
    names.filter(|name| may_trail(name.as_str())).collect()
}

/// Says of a response's head which trailers may follow, as its origin did.
pub fn announce(lines: &mut Vec<u8>, fields: &HeaderMap) {
    for value in fields.get_all(header::TRAILER) {
        response::push_line(lines, b"trailer", value.as_bytes());
    }
}

/// Those trailers of a request that were announced, from lines that were checked as they came.
pub fn read(section: &[u8], announced: &[HeaderName]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for line in section.split(|&byte| byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value)
            && announced.contains(&name)
        {
            fields.append(name, value);
        }
    }
    fields
}

/// The field lines of trailers that may be passed on, `name: value\r\n` each.
pub fn lines(fields: &HeaderMap) -> Vec<u8> {
    let mut lines = Vec::new();
    for (name, value) in fields.iter().filter(|(name, _)| may_trail(name.as_str())) {
        response::push_line(&mut lines, name.as_str().as_bytes(), value.as_bytes());
    }
    lines
}

/// `name` in lower case.
fn may_trail(name: &str) -> bool {
    !framing::is_hop_by_hop(name.as_bytes())
        && !FORBIDDEN.contains(&name)
        && !FORBIDDEN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fields: &str) -> RequestHead {
        let mut request = RequestHead::default();
        request.parse(format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes()).unwrap().unwrap();
        request
    }

    #[test]
    fn what_decides_does_not_trail() {
        let all = "x-sum, Content-Length,grpc-status,Transfer-Encoding, host,Set-Cookie,If-Match,X-Forwarded-For,Forwarded,\
                   Trailer,Authorization,Connection, ETag, Proxy-Thing,Cookie,, a b";
        let chunked = format!("Transfer-Encoding: chunked\r\nTrailer: {all}\r\nTrailer: x-more\r\n");
        let names = announced(&request(&chunked));
        assert_eq!(names, ["x-sum", "grpc-status", "etag", "x-more"]);
        assert!(
            announced(&request(&chunked.replace("Transfer-Encoding: chunked", "Content-Length: 3")))
                .is_empty()
        );
        let section =
            b"X-Sum: 1\r\nContent-Length: 5\r\nHOST: a\r\ngrpc-status: 0\r\nOther: x\r\nx-sum:\t2 \r\n";
        let fields = read(section, &names);
        let left: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(left, [("x-sum", &b"1"[..]), ("x-sum", b"2"), ("grpc-status", b"0")]);
    }

    #[test]
    fn a_responses_lines_are_those_that_may_trail() {
        let mut fields = HeaderMap::new();
        for (name, value) in
            [("x-sum", "1"), ("content-length", "3"), ("etag", "\"v\""), ("set-cookie", "a=b")]
        {
            fields.append(name, HeaderValue::from_static(value));
        }
        assert_eq!(lines(&fields), b"x-sum: 1\r\netag: \"v\"\r\n");
        let mut head = b"a: b\r\n".to_vec();
        announce(&mut head, &fields);
        assert_eq!(head, b"a: b\r\n");
        fields.append("trailer", HeaderValue::from_static("x-sum"));
        announce(&mut head, &fields);
        assert_eq!(head, b"a: b\r\ntrailer: x-sum\r\n");
    }

    #[test]
    fn what_is_no_field_is_left_out() {
        let names = [HeaderName::from_static("a")];
        for section in
            [&b""[..], b"\r\n", b"no colon\r\n", b": x\r\n", b"a b: c\r\n", b"a: \x01\r\n", b"b: a\r\n"]
        {
            assert!(read(section, &names).is_empty(), "{}", section.escape_ascii());
        }
    }

    #[test]
    fn who_takes_trailers_says_so() {
        for (te, want) in [
            ("TE: trailers", true),
            ("te: gzip;q=0.5, Trailers", true),
            ("TE: gzip\r\nTE: trailers", true),
            ("TE: gzip", false),
            ("TE: trailers;q=0", false),
            ("X: trailers", false),
        ] {
            let request = request(&format!("{te}\r\n"));
            assert_eq!(are_welcome(&request), want, "{te}");
        }
    }
}
