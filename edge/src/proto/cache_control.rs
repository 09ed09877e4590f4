//! Cache-Control (RFC 9111 section 5.2) read from field lines, of a response or a request. What follows
//! from a directive is decided in `freshness`.
//!
//! Directives are read so that no error makes a response live longer: an argument that is not a number of
//! seconds counts as 0, and so do two occurrences that differ (RFC 9111 section 4.2.1 allows the first or
//! "stale"). A quote that is never closed is a byte like any other, so that it hides no directive after it.
#![forbid(unsafe_code)]

use http::HeaderName;

/// Seconds, at most 2^31 (RFC 9111 section 1.2.2).
pub const SECONDS_MAX: u32 = 1 << 31;

/// What a response's Cache-Control says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResponseControl {
    /// no-store
    pub no_store: bool,
    /// no-cache of the whole response.
    pub no_cache: bool,
    /// private of the whole response.
    pub private: bool,
    /// The fields that `private="…"` and `no-cache="…"` are about: those alone.
    pub fields: Vec<HeaderName>,
    /// public
    pub public: bool,
    /// must-revalidate
    pub must_revalidate: bool,
    /// proxy-revalidate
    pub proxy_revalidate: bool,
    /// max-age in seconds.
    pub max_age: Option<u32>,
    /// s-maxage in seconds.
    pub s_maxage: Option<u32>,
    /// must-understand
    pub must_understand: bool,
    /// stale-while-revalidate in seconds (RFC 5861 section 3).
    pub stale_while_revalidate: Option<u32>,
    /// stale-if-error in seconds (RFC 5861 section 4).
    pub stale_if_error: Option<u32>,
}

/// What a request's Cache-Control says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestControl {
    /// no-store
    pub no_store: bool,
    /// no-cache
    pub no_cache: bool,
    /// only-if-cached
    pub only_if_cached: bool,
    /// max-age in seconds.
    pub max_age: Option<u32>,
    /// min-fresh in seconds.
    pub min_fresh: Option<u32>,
    /// max-stale in seconds; without an argument any staleness is taken.
    pub max_stale: Option<u32>,
    /// stale-if-error in seconds (RFC 5861 section 4).
    pub stale_if_error: Option<u32>,
}

impl ResponseControl {
    /// Reads all Cache-Control lines of a response.
    pub fn read<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut control = ResponseControl::default();
        for (name, argument) in lines.flat_map(directives) {
            let about = |whole: &mut bool, fields: &mut Vec<HeaderName>| match named_fields(argument) {
                Some(named) => fields.extend(named),
                None => *whole = true,
            };
            let argument = argument.map(unquoted);
            match name {
                _ if name.eq_ignore_ascii_case(b"no-store") => control.no_store = true,
                _ if name.eq_ignore_ascii_case(b"no-cache") => {
                    about(&mut control.no_cache, &mut control.fields);
                }
                _ if name.eq_ignore_ascii_case(b"private") => {
                    about(&mut control.private, &mut control.fields);
                }
                _ if name.eq_ignore_ascii_case(b"public") => control.public = true,
                _ if name.eq_ignore_ascii_case(b"must-revalidate") => control.must_revalidate = true,
                _ if name.eq_ignore_ascii_case(b"proxy-revalidate") => control.proxy_revalidate = true,
                _ if name.eq_ignore_ascii_case(b"max-age") => take(&mut control.max_age, argument),
                _ if name.eq_ignore_ascii_case(b"s-maxage") => take(&mut control.s_maxage, argument),
                _ if name.eq_ignore_ascii_case(b"must-understand") => control.must_understand = true,
                _ if name.eq_ignore_ascii_case(b"stale-while-revalidate") => {
                    take(&mut control.stale_while_revalidate, argument);
                }
                _ if name.eq_ignore_ascii_case(b"stale-if-error") => {
                    take(&mut control.stale_if_error, argument);
                }
                _ => {}
            }
        }
        control
    }
}

impl RequestControl {
    /// Reads all Cache-Control lines of a request.
    pub fn read<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut control = RequestControl::default();
        for (name, argument) in lines.flat_map(directives) {
            let argument = argument.map(unquoted);
            match name {
                _ if name.eq_ignore_ascii_case(b"no-store") => control.no_store = true,
                _ if name.eq_ignore_ascii_case(b"no-cache") => control.no_cache = true,
                _ if name.eq_ignore_ascii_case(b"only-if-cached") => control.only_if_cached = true,
                _ if name.eq_ignore_ascii_case(b"max-age") => take(&mut control.max_age, argument),
                // A freshness that cannot be read cannot be promised: ask for the most.
                _ if name.eq_ignore_ascii_case(b"min-fresh") => {
                    let asked = argument.and_then(seconds).unwrap_or(SECONDS_MAX);
                    control.min_fresh = Some(control.min_fresh.map_or(asked, |other| other.max(asked)));
                }
                _ if name.eq_ignore_ascii_case(b"max-stale") && argument.is_none() => {
                    control.max_stale = Some(control.max_stale.unwrap_or(SECONDS_MAX));
                }
                _ if name.eq_ignore_ascii_case(b"max-stale") => take(&mut control.max_stale, argument),
                _ if name.eq_ignore_ascii_case(b"stale-if-error") => {
                    take(&mut control.stale_if_error, argument);
                }
                _ => {}
            }
        }
        control
    }
}

fn take(directive: &mut Option<u32>, argument: Option<&[u8]>) {
    let read = argument.and_then(seconds).unwrap_or(0);
    *directive = match *directive {
        Some(other) if other != read => Some(0),
        _ => Some(read),
    };
}

/// delta-seconds (RFC 9111 section 1.2.2): digits; more than 2^31 is 2^31.
pub fn seconds(text: &[u8]) -> Option<u32> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = text
        .iter()
        .fold(0u64, |number, &digit| (number * 10 + u64::from(digit - b'0')).min(u64::from(SECONDS_MAX)));
    u32::try_from(number).ok()
}

/// Fields without which the rest of a response would mean something else, or would be kept otherwise than its origin
/// said; beside all that begin with `content-`.
const NEEDED: [&str; 11] = [
    "age",
    "cache-control",
    "cdn-cache-control",
    "connection",
    "date",
    "etag",
    "expires",
    "last-modified",
    "location",
    "surrogate-control",
    "vary",
];

/// Names that one directive may have; with more it is about the whole response.
const FIELDS_NAMED_MAX: usize = 32;

/// The fields that `private` or `no-cache` is about (RFC 9111 sections 5.2.2.4 and 5.2.2.7), by the argument as it
/// stands. `None`: the whole response, as without an argument. That is so too where the argument is not in quotes,
/// as the RFC has it written, or one of the names is none or that of a field which a response cannot be without.
fn named_fields(argument: Option<&[u8]>) -> Option<Vec<HeaderName>> {
    let [b'"', list @ .., b'"'] = argument? else { return None };
    let names = list.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|name| !name.is_empty());
    let names: Vec<HeaderName> =
        names.map(HeaderName::from_bytes).take(FIELDS_NAMED_MAX + 1).collect::<Result<_, _>>().ok()?;
    let needed = |name: &HeaderName| NEEDED.contains(&name.as_str()) || name.as_str().starts_with("content-");
    let good = (1..=FIELDS_NAMED_MAX).contains(&names.len()) && !names.iter().any(needed);
    good.then_some(names)
}

/// An argument without its quotes.
fn unquoted(argument: &[u8]) -> &[u8] {
    match argument {
        [b'"', inner @ .., b'"'] => inner,
        other => other,
    }
}

/// Name and argument, as it stands, of each directive of one line.
fn directives(line: &[u8]) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
    let mut rest = line;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let (item, after) = split_item(rest);
            rest = after;
            let item = item.trim_ascii();
            if !item.is_empty() {
                return Some(directive(item));
            }
        }
        None
    })
}

/// Up to the next comma outside a quoted string, and what follows it.
fn split_item(text: &[u8]) -> (&[u8], &[u8]) {
    let (mut quoted, mut escaped) = (false, false);
    for (at, &byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => return (&text[..at], &text[at + 1..]),
            _ => {}
        }
    }
    match text.iter().position(|&byte| byte == b',') {
        Some(at) if quoted => (&text[..at], &text[at + 1..]),
        _ => (text, &[]),
    }
}

fn directive(item: &[u8]) -> (&[u8], Option<&[u8]>) {
    let Some(equals) = item.iter().position(|&byte| byte == b'=') else {
        return (item, None);
    };
    let argument = &item[equals + 1..];
    // "max-age =1" is malformed; the name is still known, so that the mistake can count against it.
    match item[..equals].trim_ascii_end() {
        name if name.len() == equals => (name, Some(argument)),
        name => (name, Some(&[])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(lines: &[&str]) -> ResponseControl {
        ResponseControl::read(lines.iter().map(|line| line.as_bytes()))
    }

    #[test]
    fn max_age() {
        for (lines, want) in [
            (&["max-age=60"][..], Some(60)),
            (&["MAX-AGE=60"], Some(60)),
            (&["max-age=\"60\""], Some(60)),
            (&["max-age=0060"], Some(60)),
            (&["public,max-age=60,,"], Some(60)),
            (&[" public ,\tmax-age=60 , x"], Some(60)),
            (&["public", "max-age=60"], Some(60)),
            (&["max-age=60, max-age=60"], Some(60)),
            (&["max-age=60", "max-age=61"], Some(0)),
            (&["max-age=4294967296"], Some(1 << 31)),
            (&["max-age=99999999999999999999999999"], Some(1 << 31)),
            (&["max-age=-1"], Some(0)),
            (&["max-age=+1"], Some(0)),
            (&["max-age=1.5"], Some(0)),
            (&["max-age=1s"], Some(0)),
            (&["max-age='60'"], Some(0)),
            (&["max-age="], Some(0)),
            (&["max-age"], Some(0)),
            (&["max-age =60"], Some(0)),
            (&["max-age= 60"], Some(0)),
            (&["max-age=\"60"], Some(0)),
            (&["x-max-age=60"], None),
            (&["x=\"a, max-age=60\""], None),
            (&["x=\"a\\\", max-age=60\""], None),
            (&["x=\"a\\\\\", max-age=60"], Some(60)),
            (&["x=\"unterminated, max-age=60"], Some(60)),
            (&["max-age=60, x=\"unterminated"], Some(60)),
            (&[""], None),
            (&[], None),
        ] {
            assert_eq!(response(lines).max_age, want, "{lines:?}");
        }
    }

    #[test]
    fn flags() {
        assert!(response(&["No-Store"]).no_store);
        assert!(response(&["no-store=1"]).no_store);
        assert!(!response(&["no-stored"]).no_store);
        assert!(!response(&["x=\", no-store\""]).no_store);
        assert!(response(&["x=\"a\\\", no-store"]).no_store);
        let control = response(&["public, must-revalidate", "proxy-revalidate, s-maxage=5"]);
        assert!(control.public && control.must_revalidate && control.proxy_revalidate);
        assert_eq!(control.s_maxage, Some(5));
        let control = response(&["must-understand, stale-while-revalidate=3, Stale-If-Error=x"]);
        assert!(control.must_understand);
        assert_eq!((control.stale_while_revalidate, control.stale_if_error), (Some(3), Some(0)));
    }

    #[test]
    fn fields_that_directives_are_about() {
        let many = format!("private=\"{}\"", ["x"; FIELDS_NAMED_MAX + 1].join(","));
        for (lines, private, no_cache, fields) in [
            (&["private=\"X\""][..], false, false, &["x"][..]),
            (&["no-cache=\"set-cookie, ,X-Y\""], false, false, &["set-cookie", "x-y"]),
            (&["private=\"a\", no-cache=\"b\"", "PRIVATE=\"c\""], false, false, &["a", "b", "c"]),
            (&["private, private=\"a\""], true, false, &["a"]),
            (&["private=\"a\"", "no-cache"], false, true, &["a"]),
            (&["private=a"], true, false, &[]),
            (&["private=1"], true, false, &[]),
            (&["private='a'"], true, false, &[]),
            (&["private=\"\""], true, false, &[]),
            (&["private=\" , \""], true, false, &[]),
            (&["private=\"a b\""], true, false, &[]),
            (&["private=\"a\\\"b\""], true, false, &[]),
            (&["private=\"a"], true, false, &[]),
            (&["private =\"a\""], true, false, &[]),
            (&["no-cache=\"a, Content-Type\""], false, true, &[]),
            (&["private=\"ETag\""], true, false, &[]),
            (&["private=\"Vary\", no-cache=\"a\""], true, false, &["a"]),
            (&[&many], true, false, &[]),
        ] {
            let control = response(lines);
            assert_eq!((control.private, control.no_cache), (private, no_cache), "{lines:?}");
            assert_eq!(control.fields, fields, "{lines:?}");
        }
    }

    #[test]
    fn request() {
        let read = |line: &'static str| RequestControl::read([line.as_bytes()].into_iter());
        assert_eq!(read("max-age=x").max_age, Some(0));
        assert_eq!(read("min-fresh=5, min-fresh=9").min_fresh, Some(9));
        assert_eq!(read("min-fresh=x").min_fresh, Some(SECONDS_MAX));
        assert_eq!(read("max-stale").max_stale, Some(SECONDS_MAX));
        assert_eq!(read("max-stale=7").max_stale, Some(7));
        assert_eq!(read("max-stale=x").max_stale, Some(0));
        assert_eq!(read("stale-if-error=9").stale_if_error, Some(9));
        assert!(
            read("no-cache").no_cache && read("no-store").no_store && read("only-if-cached").only_if_cached
        );
    }
}
