//! Heads of stored responses in the form that the `h2` crate takes, kept by a worker: names looked up and hashed,
//! values checked. A hit then copies one instead of making it again from its lines.
#![forbid(unsafe_code)]

use crate::limits;
use crate::proto::stored;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Fields that every answer from the store says anew.
static ANEW: [HeaderName; 2] = [header::AGE, header::CACHE_STATUS];

/// The heads, each in the one place that its key has.
#[derive(Debug, Default)]
pub struct Heads {
    /// Empty until the first is wanted: not every worker speaks HTTP/2.
    kept: Vec<Option<Kept>>,
}

#[derive(Debug)]
struct Kept {
    lines: Bytes,
    fields: HeaderMap,
}

impl Heads {
    /// The fields of a stored head, and empty ones for what is said anew, so that these find room. `None`: one of them
    /// is among its own, it is too long to be kept, or it is none. `hash`: of the key of its request.
    pub(super) fn fields(&mut self, hash: u64, lines: &[u8]) -> Option<HeaderMap> {
        if lines.is_empty() || lines.len() > limits::HTTP2_HEAD_KEPT_BYTES_MAX {
            return None;
        }
        if self.kept.is_empty() {
            self.kept.resize_with(limits::HTTP2_HEADS_KEPT, || None);
        }
        let kept = &mut self.kept[hash as usize % limits::HTTP2_HEADS_KEPT];
        // What is in a shard changes; only the bytes say that it is the same head.
        if let Some(kept) = kept
            && kept.lines == lines
        {
            return Some(kept.fields.clone());
        }
        let lines = Bytes::copy_from_slice(lines);
        let mut fields = with_room(&lines, ANEW.len());
        say(&mut fields, &lines, false)?;
        for name in &ANEW {
            if fields.insert(name.clone(), HeaderValue::from_static("")).is_some() {
                return None;
            }
        }
        Some(kept.insert(Kept { lines, fields }).fields.clone())
    }
}

/// Adds the fields of these lines, which the values are shares of, some in the places of those in [`Heads::fields`].
/// `None`: it is no head.
pub(super) fn say(fields: &mut HeaderMap, lines: &Bytes, anew: bool) -> Option<()> {
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
        let fields = heads.fields(hash, lines.as_bytes())?;
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
                    pair("age", ""),
                    pair("cache-status", ""),
                ];
                assert_eq!(fields(&mut heads, hash, lines).as_deref(), Some(&wanted[..]), "{hash}");
            }
        }
    }

    #[test]
    fn what_is_said_anew_has_its_place_and_the_rest_is_added() {
        let mut heads = Heads::default();
        let mut fields = heads.fields(1, b"etag: x\r\n").unwrap();
        let own = Bytes::from_static(
            b"age: 5\r\ncache-status: edge; hit\r\ncontent-range: bytes 0-0/1\r\netag: y\r\n",
        );
        say(&mut fields, &own, true).unwrap();
        assert_eq!(fields.len(), 5);
        assert!(fields["age"] == "5" && fields["cache-status"] == "edge; hit");
        assert_eq!(fields.get_all("etag").iter().count(), 2);
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
