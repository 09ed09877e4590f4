//! Heads of stored responses in the form that the `h2` crate takes, kept by a worker: names looked up and hashed,
//! values checked. A hit then copies one instead of making it again from its lines.
#![forbid(unsafe_code)]

use crate::limits;
use crate::proto::stored;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Fields that every answer from the store says anew.
static ANEW: [HeaderName; 2] = [header::AGE, header::CACHE_STATUS];

/// Fields whose values differ from one object to the next.
static VARIED: [HeaderName; 4] = [header::DATE, header::EXPIRES, header::LAST_MODIFIED, header::CACHE_STATUS];

/// The heads, each in the one place that its key has.
#[derive(Debug, Default)]
pub struct Heads {
    /// Empty until the first is wanted: not every worker speaks HTTP/2.
    kept: Vec<Option<Kept>>,
}

#[derive(Debug)]
struct Kept {
    lines: Bytes,
    /// What was said beside them last.
    own: Vec<u8>,
    /// The fields of both.
    fields: HeaderMap,
}

impl Heads {
    /// The fields of a stored head, and of our own lines beside it. `None`: what is said anew is among its fields, it is
    /// too long to be kept, or it is none. `hash`: of the key of its request. `plain`: our own say nothing but what every
    /// answer from the store says, which is the same for all hits of one second.
    pub(super) fn fields(&mut self, hash: u64, lines: &[u8], own: &[u8], plain: bool) -> Option<HeaderMap> {
        if lines.is_empty() || lines.len() > limits::HTTP2_HEAD_KEPT_BYTES_MAX {
            return None;
        }
        let kept = self.kept(hash, lines)?;
        if !plain || own.len() > limits::HTTP2_OWN_KEPT_BYTES_MAX {
            let mut fields = kept.fields.clone();
            say(&mut fields, &Bytes::copy_from_slice(own), true)?;
            return Some(fields);
        }
        if kept.own != own {
            say(&mut kept.fields, &Bytes::copy_from_slice(own), true)?;
            kept.own.clear();
            kept.own.extend_from_slice(own);
        }
        Some(kept.fields.clone())
    }

    fn kept(&mut self, hash: u64, lines: &[u8]) -> Option<&mut Kept> {
        if self.kept.is_empty() {
            self.kept.resize_with(limits::HTTP2_HEADS_KEPT, || None);
        }
        let kept = &mut self.kept[hash as usize % limits::HTTP2_HEADS_KEPT];
        // What is in a shard changes; only the bytes say that it is the same head.
        if kept.as_ref().is_some_and(|kept| kept.lines == lines) {
            return kept.as_mut();
        }
        let lines = Bytes::copy_from_slice(lines);
        let mut fields = with_room(&lines, ANEW.len());
        say(&mut fields, &lines, false)?;
        for name in &ANEW {
            if fields.insert(name.clone(), HeaderValue::from_static("")).is_some() {
                return None;
            }
        }
        Some(kept.insert(Kept { lines, own: Vec::new(), fields }))
    }
}

/// Adds the fields of these lines, which the values are shares of, [`ANEW`] in the places of those that are there.
/// `None`: it is no head.
fn say(fields: &mut HeaderMap, lines: &Bytes, anew: bool) -> Option<()> {
    for (name, value) in stored::fields(lines) {
        let name = HeaderName::from_bytes(name).ok()?;
        let value = HeaderValue::from_maybe_shared(lines.slice_ref(value)).ok()?;
        if anew && ANEW.contains(&name) {
            fields.insert(name, value);
        } else {
            fields.append(name, value);
        }
    }
    Some(())
}

/// Keeps the values that are this object's alone out of HPACK's table (RFC 7541 section 6.2.3), where each would push
/// another out that comes again, and be looked through for every one that follows.
pub(super) fn keep_out(fields: &mut HeaderMap) {
    for name in &VARIED {
        if let Some(value) = fields.get_mut(name) {
            value.set_sensitive(true);
        }
    }
}

/// The fields of these lines. `None`: it is no head.
pub(super) fn read(lines: &[u8]) -> Option<HeaderMap> {
    // One allocation for all values, which are shares of it.
    let lines = Bytes::copy_from_slice(lines);
    let mut fields = with_room(&lines, 0);
    say(&mut fields, &lines, false)?;
    Some(fields)
}

/// Fields that find room for so many more than these lines have.
fn with_room(lines: &[u8], more: usize) -> HeaderMap {
    let mut fields = HeaderMap::new();
    fields.reserve(lines.iter().filter(|byte| **byte == b'\n').count() + more);
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(heads: &mut Heads, hash: u64, lines: &str) -> Option<Vec<(String, String)>> {
        let fields = heads.fields(hash, lines.as_bytes(), b"age: 5\r\ncache-status: edge; hit\r\n", true)?;
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        Some(fields.iter().map(|(name, value)| (name.to_string(), text(value))).collect())
    }

    #[test]
    fn a_kept_head_is_that_of_its_bytes_and_of_nothing_else() {
        let mut heads = Heads::default();
        let one = "etag: \"1\"\r\nvary: a\r\nvary: b\r\n";
        let other = "etag: \"2\"\r\nvary: a\r\nvary: b\r\n";
        let places = limits::HTTP2_HEADS_KEPT as u64;
        for hash in [7, 7, 8, 7 + places, 7] {
            for (lines, tag) in [(one, "\"1\""), (one, "\"1\""), (other, "\"2\"")] {
                let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
                let wanted = [
                    pair("etag", tag),
                    pair("vary", "a"),
                    pair("vary", "b"),
                    pair("age", "5"),
                    pair("cache-status", "edge; hit"),
                ];
                assert_eq!(fields(&mut heads, hash, lines).as_deref(), Some(&wanted[..]), "{hash}");
            }
        }
    }

    #[test]
    fn what_is_said_anew_has_its_place_and_the_rest_is_added() {
        let mut heads = Heads::default();
        let mut age = |own: &str, plain: bool| {
            let fields = heads.fields(1, b"etag: x\r\n", own.as_bytes(), plain).unwrap();
            let values = |name: &str| fields.get_all(name).iter().count();
            assert_eq!((values("age"), values("cache-status")), (1, 1));
            (fields["age"].to_str().unwrap().to_owned(), fields.len(), values("etag"))
        };
        let plain = "age: 5\r\ncache-status: edge; hit\r\n";
        for _ in 0..2 {
            assert_eq!(age(plain, true), ("5".to_owned(), 3, 1));
            let part = format!("{plain}content-range: bytes 0-0/1\r\netag: y\r\n");
            assert_eq!(age(&part.replace('5', "6"), false), ("6".to_owned(), 5, 2));
            assert_eq!(age(&plain.replace('5', "7"), true), ("7".to_owned(), 3, 1));
            let long = plain.replace('5', &"8".repeat(limits::HTTP2_OWN_KEPT_BYTES_MAX));
            assert_eq!(age(&long, true).1, 3);
        }
    }

    #[test]
    fn values_of_one_object_alone_are_kept_out_of_the_table() {
        let mut fields = read(b"server: x\r\ndate: y\r\netag: z\r\nexpires: -1\r\n").unwrap();
        keep_out(&mut fields);
        let out: Vec<_> = fields.iter().filter(|field| field.1.is_sensitive()).map(|field| field.0).collect();
        assert_eq!(out, ["date", "expires"]);
    }

    #[test]
    fn some_heads_are_not_kept() {
        let mut heads = Heads::default();
        let long = format!("x: {}\r\n", "y".repeat(limits::HTTP2_HEAD_KEPT_BYTES_MAX));
        for lines in ["", "cache-status: other; hit\r\n", "age: 5\r\n", "bad name: x\r\n", &long] {
            assert_eq!(fields(&mut heads, 1, lines), None, "{lines}");
        }
    }
}
