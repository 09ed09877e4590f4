//! What a purge can name, what of a stored response it is compared with, and the tags an origin gave it. All
//! is compared by 64-bit hashes: what two subjects share by chance is purged too much, never too little.
//!
//! Tags come from the response's `Surrogate-Key` (separated by blanks) and `Cache-Tag` (by commas). Their case
//! does not matter, as little as that of hosts: of the two habits, the one that purges more. A response with more than
//! [`TAGS_MAX`](crate::limits::TAGS_MAX) of them belongs to every tag.
#![forbid(unsafe_code)]

use super::key;
use crate::limits;
use http::HeaderMap;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What kind of thing a purge names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Class {
    /// One key, in all its variants.
    Url = 0,
    /// Every key that begins so.
    Prefix = 1,
    /// Every key of a host, whatever its scheme and port.
    Host = 2,
    /// Every response its origin marked so.
    Tag = 3,
}

impl Class {
    /// All of them, in the order of their numbers.
    pub const ALL: [Class; 4] = [Class::Url, Class::Prefix, Class::Host, Class::Tag];

    /// The class with this number.
    pub fn from_number(number: u8) -> Option<Class> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// Its name, as a purge is asked for.
    pub fn name(self) -> &'static str {
        ["url", "prefix", "host", "tag"][self as usize]
    }
}

/// What a purge names, in the form that is compared: a key, the beginning of one, a host or a tag in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Its kind.
    pub class: Class,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Subject {
    /// What an operator wrote. The error says what would be right.
    pub fn parse(class: Class, text: &str) -> Result<Self, &'static str> {
        let bytes = match class {
            Class::Url => key::from_url(text)
                .ok_or("url is not an absolute http or https URL that a request could carry")?,
            Class::Prefix => key::from_url(text)
                .ok_or("prefix is not the beginning of an absolute http or https URL: http://host/path/")?,
            Class::Host => key::host_name(text).ok_or(
                "host is not a host name or an address, IPv6 in brackets; with a port it is a prefix: http://host:port/",
            )?,
            Class::Tag => tag(text.as_bytes()).ok_or("tag is empty: name one that the origin sends")?,
        };
        if bytes.len() > limits::KEY_BYTES_MAX {
            return Err("longer than any key");
        }
        Ok(Subject { class, bytes })
    }

    /// Its hash.
    pub fn hash(&self) -> u64 {
        hash(self.class, &self.bytes)
    }
}

/// The hash of a subject with these bytes.
#[inline]
pub fn hash(class: Class, bytes: &[u8]) -> u64 {
    // A seed of its own for each class, and none that the hash of keys in the index has.
    xxh3_64_with_seed(bytes, 0x7075_7267_6500 + class as u64)
}

fn tag(bytes: &[u8]) -> Option<Vec<u8>> {
    let bytes = bytes.trim_ascii();
    (!bytes.is_empty()).then(|| bytes.to_ascii_lowercase())
}

/// The tags of a response that is to be stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TagSet {
    hashes: Vec<u64>,
    beyond: bool,
}

impl TagSet {
    /// Those a response came with.
    pub fn of(fields: &HeaderMap) -> Self {
        let mut tags = TagSet::default();
        for value in fields.get_all("surrogate-key") {
            tags.add(value.as_bytes().split(u8::is_ascii_whitespace));
        }
        for value in fields.get_all("cache-tag") {
            tags.add(value.as_bytes().split(|&byte| byte == b','));
        }
        tags
    }

    fn add<'a>(&mut self, values: impl Iterator<Item = &'a [u8]>) {
        for hash in values.filter_map(tag).map(|tag| hash(Class::Tag, &tag)) {
            if self.beyond || self.hashes.contains(&hash) {
                continue;
            }
            if self.hashes.len() == limits::TAGS_MAX {
                *self = TagSet { hashes: Vec::new(), beyond: true };
                return;
            }
            self.hashes.push(hash);
        }
    }

    /// As the number and the bytes that are stored.
    pub(super) fn encode(&self) -> (u16, impl Iterator<Item = u8>) {
        let count = if self.beyond { BEYOND } else { self.hashes.len() as u16 };
        (count, self.hashes.iter().flat_map(|hash| hash.to_le_bytes()))
    }
}

/// Stands for the number of tags where there were too many to be kept.
const BEYOND: u16 = u16::MAX;

const _: () = assert!(limits::TAGS_MAX < BEYOND as usize);

/// The tags of a stored response, read in place.
#[derive(Clone, Copy, Debug)]
pub struct Tags<'a> {
    bytes: &'a [u8],
    beyond: bool,
}

impl<'a> Tags<'a> {
    /// Of a response whose head has not come: it may have any.
    pub const UNKNOWN: Tags<'static> = Tags { bytes: &[], beyond: true };

    /// Reads the tags in front of `rest`, and takes them off. `None`: there are not so many.
    pub(super) fn take(count: u16, rest: &mut &'a [u8]) -> Option<Self> {
        match count {
            BEYOND => Some(Self::UNKNOWN),
            _ => Some(Tags { bytes: rest.split_off(..usize::from(count) * 8)?, beyond: false }),
        }
    }

    /// Whether every tag counts as one of them.
    pub fn is_every(&self) -> bool {
        self.beyond
    }

    /// Their hashes.
    #[inline]
    pub fn hashes(&self) -> impl Iterator<Item = u64> + use<'a> {
        self.bytes.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes))
    }

    /// Whether this tag is, or counts as, one of them.
    pub fn has(&self, tag: u64) -> bool {
        self.beyond || self.hashes().any(|hash| hash == tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn fields(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in lines {
            fields.append(*name, HeaderValue::from_str(value).unwrap());
        }
        fields
    }

    fn stored(set: &TagSet) -> (u16, Vec<u8>) {
        let (count, bytes) = set.encode();
        (count, bytes.collect())
    }

    #[test]
    fn tags_come_from_both_fields_each_with_its_own_separator() {
        let set = TagSet::of(&fields(&[
            ("surrogate-key", "a  B\tc,d"),
            ("surrogate-key", "a"),
            ("cache-tag", " News , new york,,b"),
        ]));
        let (count, bytes) = stored(&set);
        let mut rest = bytes.as_slice();
        let tags = Tags::take(count, &mut rest).unwrap();
        assert!(rest.is_empty() && !tags.is_every());
        assert_eq!(tags.hashes().count(), 5);
        for (tag, has) in [
            ("a", true),
            ("b", true),
            ("c,d", true),
            ("NEWS", true),
            ("new york", true),
            ("c", false),
            ("new", false),
        ] {
            assert_eq!(tags.has(Subject::parse(Class::Tag, tag).unwrap().hash()), has, "{tag}");
        }
    }

    #[test]
    fn with_too_many_tags_a_response_has_every_tag() {
        let most: Vec<String> = (0..limits::TAGS_MAX).map(|n| format!("t{n}")).collect();
        let set = TagSet::of(&fields(&[("surrogate-key", &most.join(" "))]));
        assert_eq!(usize::from(stored(&set).0), limits::TAGS_MAX);
        let set = TagSet::of(&fields(&[("surrogate-key", &most.join(" ")), ("cache-tag", "more, t1")]));
        let (count, bytes) = stored(&set);
        assert!(bytes.is_empty());
        let tags = Tags::take(count, &mut bytes.as_slice()).unwrap();
        assert!(tags.is_every() && tags.has(5));
        assert!(Tags::take(1, &mut &[0; 7][..]).is_none());
    }

    #[test]
    fn subjects_as_operators_write_them() {
        use Class::{Host, Prefix, Tag, Url};
        for (class, text, want) in [
            (Url, "HTTP://A:80", Some("http://a/")),
            (Url, "/x", None),
            (Prefix, "http://A/im", Some("http://a/im")),
            (Prefix, "https://a:443", Some("https://a/")),
            (Prefix, "a/", None),
            (Host, "WWW.a.B", Some("www.a.b")),
            (Host, "[::1]", Some("[::1]")),
            (Host, "a:80", None),
            (Host, "http://a", None),
            (Host, "", None),
            (Tag, " News ", Some("news")),
            (Tag, " ", None),
        ] {
            let got = Subject::parse(class, text).ok();
            assert_eq!(got.map(|subject| subject.bytes), want.map(|want| want.as_bytes().to_vec()), "{text}");
        }
        for class in Class::ALL {
            assert_eq!(Class::from_number(class as u8), Some(class));
            assert!(Class::ALL.iter().all(|&other| other == class || hash(class, b"x") != hash(other, b"x")));
        }
        assert_eq!(Class::from_number(4), None);
    }
}
