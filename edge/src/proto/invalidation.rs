//! What a request that changes something makes of what is stored (RFC 9111 section 4.4): its own address and those
//! its response names are not to be trusted any more. Who removes them is decided elsewhere.
#![forbid(unsafe_code)]

use super::key;
use super::request::RequestHead;
use http::header::{self, HeaderMap, HeaderName};

/// Whether this response to this request makes what is stored under its key invalid: a method that is not known to
/// be safe, answered without error.
pub fn invalidates(request: &RequestHead, status: u16) -> bool {
    let safe = ["GET", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "REPORT", "SEARCH", "QUERY", "PRI"];
    (200..400).contains(&status) && !safe.contains(&request.method_name())
}

/// Keys of the addresses that Location and Content-Location name, as far as they are of the request's own scheme,
/// host and port: others could be used to empty a stranger's cache.
pub fn named_keys(request: &RequestHead, fields: &HeaderMap) -> Vec<Vec<u8>> {
    let references = [header::LOCATION, header::CONTENT_LOCATION];
    references.into_iter().filter_map(|name| named_key(request, fields, name)).collect()
}

/// Whether Content-Location says that the response is what a GET of the same address would give
/// (RFC 9110 section 8.7).
pub(super) fn names_target(request: &RequestHead, fields: &HeaderMap) -> bool {
    named_key(request, fields, header::CONTENT_LOCATION).is_some_and(|key| key == request.url_key())
}

fn named_key(request: &RequestHead, fields: &HeaderMap, name: HeaderName) -> Option<Vec<u8>> {
    let mut values = fields.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let base = request.url_key();
    resolve(str::from_utf8(&base).ok()?, str::from_utf8(value.as_bytes()).ok()?.trim())
}

/// The key of a URI reference (RFC 3986 section 5.2) in a resource with this key; `None`: it is of another origin,
/// or is no address.
fn resolve(base: &str, reference: &str) -> Option<Vec<u8>> {
    let reference = reference.split('#').next().unwrap_or(reference);
    let path_start = base.find("://")? + 3;
    let path_start = path_start + base[path_start..].find('/')?;
    let (origin, path) = base.split_at(path_start);
    let scheme = origin.split(':').next()?;
    let path = path.split('?').next().unwrap_or(path);
    let url = if has_scheme(reference) {
        reference.to_owned()
    } else if reference.starts_with("//") {
        format!("{scheme}:{reference}")
    } else if reference.is_empty() {
        base.to_owned()
    } else if reference.starts_with('?') {
        format!("{origin}{path}{reference}")
    } else {
        let folder = if reference.starts_with('/') { "" } else { &path[..=path.rfind('/')?] };
        let (path, query) = reference.split_at(reference.find('?').unwrap_or(reference.len()));
        format!("{origin}{}{query}", without_dots(&format!("{folder}{path}")))
    };
    let key = key::from_url(&url)?;
    (key.strip_prefix(origin.as_bytes())?.first() == Some(&b'/')).then_some(key)
}

/// Whether a reference begins with a scheme (RFC 3986 section 3.1).
fn has_scheme(reference: &str) -> bool {
    let end = reference.find([':', '/', '?']).unwrap_or(reference.len());
    reference[end..].starts_with(':') && reference.starts_with(|first: char| first.is_ascii_alphabetic())
}

/// RFC 3986 section 5.2.4, of a path that begins with a slash.
fn without_dots(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    let mut parts = path.split('/').skip(1).peekable();
    while let Some(part) = parts.next() {
        let is_last = parts.peek().is_none();
        match part {
            "." | ".." => {
                if part == ".." {
                    segments.pop();
                }
                if is_last {
                    segments.push("");
                }
            }
            part => segments.push(part),
        }
    }
    format!("/{}", segments.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, target: &str) -> RequestHead {
        let mut head = RequestHead::default();
        head.parse(format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).unwrap().unwrap();
        head
    }

    #[test]
    fn unsafe_and_unknown_methods_invalidate() {
        for (method, status, want) in [
            ("POST", 200, true),
            ("PUT", 201, true),
            ("DELETE", 204, true),
            ("M-SEARCH", 302, true),
            ("POST", 404, false),
            ("POST", 500, false),
            ("GET", 200, false),
            ("OPTIONS", 200, false),
        ] {
            assert_eq!(invalidates(&request(method, "/"), status), want, "{method} {status}");
        }
    }

    #[test]
    fn references_within_the_origin() {
        for (reference, want) in [
            ("/x", Some("http://a/x")),
            ("/x?y#z", Some("http://a/x?y")),
            ("x", Some("http://a/b/x")),
            ("./x/", Some("http://a/b/x/")),
            ("../x", Some("http://a/x")),
            ("../../../x/..", Some("http://a/")),
            ("..", Some("http://a/")),
            (".", Some("http://a/b/")),
            ("?q=1:2", Some("http://a/b/c?q=1:2")),
            ("x?a/../b", Some("http://a/b/x?a/../b")),
            ("", Some("http://a/b/c?d")),
            ("#f", Some("http://a/b/c?d")),
            ("//a/x", Some("http://a/x")),
            ("//A:80/x", Some("http://a/x")),
            ("http://a:80/x", Some("http://a/x")),
            ("HTTP://A", Some("http://a/")),
            ("http://a:81/x", None),
            ("http://ab/x", None),
            ("https://a/x", None),
            ("//b/x", None),
            ("mailto:a", None),
            ("x y", None),
        ] {
            let got = resolve("http://a/b/c?d", reference);
            assert_eq!(got.as_deref(), want.map(str::as_bytes), "{reference:?}");
        }
    }

    #[test]
    fn both_locations_count_and_a_doubled_one_does_not() {
        let request = request("POST", "/b/c");
        let mut fields = HeaderMap::new();
        fields.append(header::LOCATION, "/x".parse().unwrap());
        fields.append(header::CONTENT_LOCATION, "/b/c".parse().unwrap());
        assert_eq!(named_keys(&request, &fields), [b"http://a/x".to_vec(), b"http://a/b/c".to_vec()]);
        assert!(names_target(&request, &fields));
        fields.append(header::CONTENT_LOCATION, "/b/d".parse().unwrap());
        assert_eq!(named_keys(&request, &fields), [b"http://a/x".to_vec()]);
        assert!(!names_target(&request, &fields));
    }
}
