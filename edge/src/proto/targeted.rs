//! Cache control that is for caches like this one alone and takes the place of Cache-Control and Expires.
//!
//! CDN-Cache-Control (RFC 9213) is a Dictionary Structured Field (RFC 9651); one that is empty or does not parse is as
//! good as absent, as section 2.1 says, so that a typing error falls back to what all caches get.
//!
//! Surrogate-Control (the Edge Architecture Specification, a W3C note of 2001) is its older kin, which origins still
//! send; it counts where there is no valid CDN-Cache-Control and it says anything of caching. A directive may name
//! whom it is for after a semicolon: the name we go by in Surrogate-Capability ([`CAPABILITY`]).
#![forbid(unsafe_code)]

use super::cache_control::{ResponseControl, SECONDS_MAX};
use http::HeaderMap;
use sfv::{BareItem, Dictionary, Item, ListEntry, Parser};

/// The fields that are for us, the first valid one counts (RFC 9213 section 2.2).
pub const TARGETS: [&str; 1] = ["cdn-cache-control"];

/// What tells origins that Surrogate-Control is understood, and under which name.
pub const CAPABILITY: (&str, &str) = ("surrogate-capability", "edge=\"Surrogate/1.0\"");
const NAME: &[u8] = b"edge";

/// What the first valid targeted field says; `None`: there is none.
pub fn read(fields: &HeaderMap) -> Option<ResponseControl> {
    TARGETS.iter().find_map(|name| read_field(fields, name)).or_else(|| read_surrogate(fields))
}

fn read_surrogate(fields: &HeaderMap) -> Option<ResponseControl> {
    let lines = fields.get_all("surrogate-control").iter();
    let items = lines.flat_map(|line| line.as_bytes().split(|&byte| byte == b','));
    let ours = items.filter_map(|item| match item.iter().position(|&byte| byte == b';') {
        Some(at) => item[at + 1..].trim_ascii().eq_ignore_ascii_case(NAME).then_some(&item[..at]),
        None => Some(item),
    });
    let control = ResponseControl::read(ours);
    (control.max_age.is_some() || control.no_store).then_some(control)
}

fn read_field(fields: &HeaderMap, name: &str) -> Option<ResponseControl> {
    // Lines of one field are one list (RFC 9651 section 4.2).
    let lines: Vec<&[u8]> = fields.get_all(name).iter().map(|value| value.as_bytes()).collect();
    let members: Dictionary = Parser::new(&lines.join(&b", "[..])).parse().ok()?;
    if members.is_empty() {
        return None;
    }
    let mut control = ResponseControl::default();
    for (name, value) in &members {
        let flag = || !matches!(value, ListEntry::Item(Item { bare_item: BareItem::Boolean(false), .. }));
        match name.as_str() {
            // A value of the wrong type forbids as much as the right one would.
            "no-store" => control.no_store = flag(),
            "no-cache" => control.no_cache = flag(),
            "private" => control.private = flag(),
            "public" => control.public = is_true(value),
            "must-revalidate" => control.must_revalidate = flag(),
            "proxy-revalidate" => control.proxy_revalidate = flag(),
            "must-understand" => control.must_understand = is_true(value),
            "max-age" => control.max_age = Some(seconds(value)),
            "s-maxage" => control.s_maxage = Some(seconds(value)),
            "stale-while-revalidate" => control.stale_while_revalidate = Some(seconds(value)),
            "stale-if-error" => control.stale_if_error = Some(seconds(value)),
            _ => {}
        }
    }
    Some(control)
}

fn is_true(value: &ListEntry) -> bool {
    matches!(value, ListEntry::Item(Item { bare_item: BareItem::Boolean(true), .. }))
}

/// Seconds; what is no integer must not be used (RFC 9213 section 2.1) and counts as none at all.
fn seconds(value: &ListEntry) -> u32 {
    let ListEntry::Item(item) = value else { return 0 };
    let number = item.bare_item.as_integer().map_or(0, i64::from);
    u32::try_from(number.clamp(0, i64::from(SECONDS_MAX))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[&str]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for line in lines {
            fields.append("cdn-cache-control", line.parse().unwrap());
        }
        fields
    }

    #[test]
    fn lifetimes() {
        for (lines, want) in [
            (&["max-age=60"][..], Some(Some(60))),
            (&["foobar, max-age=60"], Some(Some(60))),
            (&["public", "max-age=60"], Some(Some(60))),
            (&["max-age=60;parameter=1"], Some(Some(60))),
            (&["max-age=1, max-age=60"], Some(Some(60))),
            (&["max-age=2147483648"], Some(Some(1 << 31))),
            (&["max-age=99999999999"], Some(Some(1 << 31))),
            (&["max-age=-1"], Some(Some(0))),
            (&["max-age=\"60\""], Some(Some(0))),
            (&["max-age=60.0"], Some(Some(0))),
            (&["max-age"], Some(Some(0))),
            (&["max-age=(1 2)"], Some(Some(0))),
            (&["foo"], Some(None)),
            (&["max-age=60, &&&&&"], None),
            (&["MaX-aGe=60"], None),
            (&["max-age =60"], None),
            (&["max-age= 60"], None),
            (&["max-age=60,"], None),
            (&["max-age=9999999999999999"], None),
            (&[""], None),
            (&[], None),
        ] {
            assert_eq!(read(&fields(lines)).map(|control| control.max_age), want, "{lines:?}");
        }
    }

    #[test]
    fn surrogate_control() {
        for (lines, want) in [
            (&["Surrogate-Control: max-age=60"][..], Some((Some(60), false))),
            (&["Surrogate-Control: content=\"ESI/1.0\", MAX-AGE=60"], Some((Some(60), false))),
            (&["Surrogate-Control: max-age=60;edge"], Some((Some(60), false))),
            (&["Surrogate-Control: max-age=60 ; Edge, no-store;other"], Some((Some(60), false))),
            (&["Surrogate-Control: max-age=60;other"], None),
            (&["Surrogate-Control: max-age=60", "Surrogate-Control: no-store"], Some((Some(60), true))),
            (&["Surrogate-Control: max-age=x"], Some((Some(0), false))),
            (&["Surrogate-Control: content=\"ESI/1.0\""], None),
            (&["Surrogate-Control: max-age=60", "CDN-Cache-Control: max-age=5"], Some((Some(5), false))),
            (&["Surrogate-Control: max-age=60", "CDN-Cache-Control: &&"], Some((Some(60), false))),
        ] {
            let mut fields = HeaderMap::new();
            for line in lines {
                let (name, value) = line.split_once(": ").unwrap();
                fields.append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
            }
            let got = read(&fields).map(|control| (control.max_age, control.no_store));
            assert_eq!(got, want, "{lines:?}");
        }
        assert!(CAPABILITY.1.as_bytes().starts_with(&[NAME, b"="].concat()));
    }

    #[test]
    fn flags() {
        let all = read(&fields(&["no-store, no-cache=(\"a\"), private, must-revalidate, must-understand"]));
        let control = all.unwrap();
        assert!(control.no_store && control.no_cache && control.private && control.must_understand);
        assert!(control.must_revalidate && !control.public && !control.proxy_revalidate);
        assert!(read(&fields(&["no-store=\"yes\""])).unwrap().no_store);
        assert!(!read(&fields(&["no-store=?0"])).unwrap().no_store);
        assert!(!read(&fields(&["public=1"])).unwrap().public);
        let windows = read(&fields(&["stale-while-revalidate=5, stale-if-error=6"])).unwrap();
        assert_eq!((windows.stale_while_revalidate, windows.stale_if_error), (Some(5), Some(6)));
    }
}
