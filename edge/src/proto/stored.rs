//! The meta bytes of a stored response: what the cache must know to reuse it. Encoded by control when
//! it stores, read in place by workers at each hit.
//!
//! All numbers are little-endian. Bytes that do not fit this layout are never reused and never a panic.
//!
//! | offset | bytes | content                                                                   |
//! |--------|-------|---------------------------------------------------------------------------|
//! | 0      | 8     | variant: 0 without Vary, else xxh3-64 of the names and the request's values |
//! | 8      | 1     | version of this layout                                                    |
//! | 9      | 1     | flags, see [`Flags`]                                                      |
//! | 10     | 2     | status code                                                               |
//! | 12     | 4     | offset of the lines after `content-length` in the stored head             |
//! | 16     | 8     | when the response came, Unix seconds                                      |
//! | 24     | 4     | its corrected initial age then, seconds                                   |
//! | 28     | 4     | its freshness lifetime, seconds                                           |
//! | 32     | 8     | bytes of the object's body                                                |
//! | 40     | 8     | Last-Modified, Unix seconds; all ones: none                               |
//! | 48     | 8     | Date, Unix seconds; all ones: none                                        |
//! | 56     | 4     | offset of the ETag in the stored head                                     |
//! | 60     | 2     | length of the ETag; 0: none                                               |
//! | 62     | 2     | number of fields named by Vary                                            |
//! | 64     | 8     | sequence number of the last purge before the response was asked for       |
//! | 72     | 2     | number of tags; all ones: too many to be kept                             |
//! | 74     | 1     | what the lifetime was reckoned from, see [`Basis`]                        |
//! | 75     | 1     | zero                                                                      |
//! | 76     | 4     | seconds after its lifetime it may be served while it is revalidated        |
//! | 80     | 4     | the same when the origin answers with an error                            |
//! | 84     | 4     | the same when the origin cannot be reached                                |
//! | 88     | …     | 8 for each tag: its hash                                                  |
//! |        | …     | for each field named by Vary an entry, see `vary`                         |
#![forbid(unsafe_code)]

use super::freshness::{Basis, Facts, StaleWindows};
use super::purge::Tags;
use super::request::RequestHead;
use super::vary;

/// Version of the layout; other versions are treated as not stored.
pub const VERSION: u8 = 3;
const FIXED_BYTES: usize = 88;
const NONE: u64 = u64::MAX;
const CONTENT_LENGTH: &[u8] = b"content-length: ";

/// Rules of reuse that came with the response. A set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u8);

impl Flags {
    /// Never reused without validation (no-cache).
    pub const NO_CACHE: Flags = Flags(1);
    /// Never served stale (must-revalidate, proxy-revalidate, s-maxage).
    pub const MUST_REVALIDATE: Flags = Flags(1 << 1);
    /// May answer requests with Authorization (public, must-revalidate, s-maxage).
    pub const SHARED: Flags = Flags(1 << 2);

    /// Adds `flag` if `on`.
    pub fn with(self, flag: Flags, on: bool) -> Flags {
        if on { Flags(self.0 | flag.0) } else { self }
    }

    /// Whether `flag` is set.
    pub fn has(self, flag: Flags) -> bool {
        self.0 & flag.0 != 0
    }
}

/// Meta bytes read in place.
#[derive(Clone, Copy, Debug)]
pub struct Meta<'a> {
    fixed: &'a [u8; FIXED_BYTES],
    tags: Tags<'a>,
    vary: &'a [u8],
}

impl<'a> Meta<'a> {
    /// `None`: not meta bytes of this version.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let (fixed, mut vary) = bytes.split_first_chunk::<FIXED_BYTES>()?;
        if fixed[8] != VERSION {
            return None;
        }
        let tags = Tags::take(u16::from_le_bytes([fixed[72], fixed[73]]), &mut vary)?;
        Some(Meta { fixed, tags, vary })
    }

    /// As [`Meta::read`], for meta bytes found together with this stored head: `None` too if their framing
    /// does not agree, for then the lengths a client would be told could be wrong.
    pub fn of_record(bytes: &'a [u8], head: &[u8]) -> Option<Self> {
        let meta = Self::read(bytes)?;
        let stated = head.strip_prefix(CONTENT_LENGTH).and_then(|rest| {
            let digits = rest.iter().position(|byte| !byte.is_ascii_digit())?;
            let bytes = super::framing::decimal(&rest[..digits])?;
            rest[digits..].starts_with(b"\r\n").then_some((bytes, CONTENT_LENGTH.len() + digits + 2))
        });
        let agrees = match stated {
            Some((bytes, lines)) => (bytes, lines) == (meta.body_bytes(), meta.lines_offset()),
            None => meta.lines_offset() == 0,
        };
        let sound = agrees && stated.is_some() == super::response::may_have_body(meta.status());
        (sound && head.ends_with(b"\r\n")).then_some(meta)
    }

    fn at<const AT: usize, const N: usize>(&self) -> [u8; N] {
        const { assert!(AT + N <= FIXED_BYTES) };
        std::array::from_fn(|i| self.fixed[AT + i])
    }

    /// The discriminator of variants of one key.
    pub fn variant(&self) -> u64 {
        u64::from_le_bytes(self.at::<0, 8>())
    }

    /// Rules of reuse.
    pub fn flags(&self) -> Flags {
        Flags(self.fixed[9])
    }

    /// Status code.
    pub fn status(&self) -> u16 {
        u16::from_le_bytes(self.at::<10, 2>())
    }

    /// Offset in the stored head of the lines after `content-length`; 0 if it has none.
    pub fn lines_offset(&self) -> usize {
        u32::from_le_bytes(self.at::<12, 4>()) as usize
    }

    /// When the response (or its last validation) came, Unix seconds.
    pub fn response_s(&self) -> u64 {
        u64::from_le_bytes(self.at::<16, 8>())
    }

    /// Corrected initial age, seconds (RFC 9111 section 4.2.3).
    pub fn initial_age_s(&self) -> u32 {
        u32::from_le_bytes(self.at::<24, 4>())
    }

    /// Freshness lifetime, seconds (RFC 9111 section 4.2.1).
    pub fn lifetime_s(&self) -> u32 {
        u32::from_le_bytes(self.at::<28, 4>())
    }

    /// Bytes of the object's body.
    pub fn body_bytes(&self) -> u64 {
        u64::from_le_bytes(self.at::<32, 8>())
    }

    /// Last-Modified, Unix seconds.
    pub fn last_modified_s(&self) -> Option<u64> {
        Some(u64::from_le_bytes(self.at::<40, 8>())).filter(|&at| at != NONE)
    }

    /// Date, Unix seconds.
    pub fn date_s(&self) -> Option<u64> {
        Some(u64::from_le_bytes(self.at::<48, 8>())).filter(|&at| at != NONE)
    }

    /// The ETag as it stands in the stored head this meta belongs to.
    pub fn etag<'h>(&self, head: &'h [u8]) -> Option<&'h [u8]> {
        let start = u32::from_le_bytes(self.at::<56, 4>()) as usize;
        let bytes = usize::from(u16::from_le_bytes(self.at::<60, 2>()));
        head.get(start..start.checked_add(bytes)?).filter(|etag| !etag.is_empty())
    }

    /// Whether a stale record can be validated at the origin.
    pub fn has_validator(&self) -> bool {
        self.last_modified_s().is_some() || u16::from_le_bytes(self.at::<60, 2>()) > 0
    }

    /// The sequence number of the last purge before the response was asked for.
    #[inline]
    pub fn purges(&self) -> u64 {
        u64::from_le_bytes(self.at::<64, 8>())
    }

    /// What its origin tagged it with.
    pub fn tags(&self) -> Tags<'a> {
        self.tags
    }

    /// Name and value of the fields Vary names, without blanks around commas; the inner `None`: the request had none.
    pub fn vary(&self) -> impl Iterator<Item = Option<(&'a str, Option<&'a [u8]>)>> {
        vary::entries(self.vary, u16::from_le_bytes(self.at::<62, 2>()))
    }

    /// How long after its lifetime it may be served.
    pub fn stale(&self) -> StaleWindows {
        StaleWindows {
            while_revalidate_s: u32::from_le_bytes(self.at::<76, 4>()),
            if_error_s: u32::from_le_bytes(self.at::<80, 4>()),
            disconnected_s: u32::from_le_bytes(self.at::<84, 4>()),
        }
    }

    /// What the lifetime was reckoned from.
    pub fn basis(&self) -> Basis {
        Basis::of(self.fixed[74])
    }

    /// Whether the stored response was selected by the same field values (RFC 9111 section 4.1).
    pub fn selects(&self, request: &RequestHead) -> bool {
        vary::selects(self.vary, u16::from_le_bytes(self.at::<62, 2>()), request)
    }
}

/// Whether a record may answer this request as far as Vary is concerned. Remembers in the request that a
/// record was passed over, for Cache-Status. Meta that cannot be read matches nothing.
pub fn matches(meta: &[u8], request: &RequestHead) -> bool {
    let Some(meta) = Meta::read(meta) else { return false };
    let selected = meta.selects(request);
    if !selected {
        request.vary_missed.set(true);
    }
    selected
}

/// The variant discriminator of meta bytes: records of one key with equal variants replace each other.
pub fn variant(meta: &[u8]) -> Option<u64> {
    Meta::read(meta).map(|meta| meta.variant())
}

/// The stored head: `content-length: N`, unless the status forbids a body, then `lines`, then the empty line.
pub fn head(status: u16, body_bytes: u64, lines: &[u8]) -> Vec<u8> {
    let mut head = Vec::with_capacity(CONTENT_LENGTH.len() + 24 + lines.len());
    if super::response::may_have_body(status) {
        head.extend_from_slice(CONTENT_LENGTH);
        super::response::push_number(&mut head, body_bytes);
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(lines);
    head.extend_from_slice(b"\r\n");
    head
}

/// Meta bytes for a response with these facts, got by `request`, whose stored head is `head` (from [`head`]).
pub fn encode(facts: &Facts, request: &RequestHead, head: &[u8], body_bytes: u64) -> Vec<u8> {
    let (variant, vary) = vary::encode(facts, request);
    let lines_offset = lines_offset(head);
    let etag = span(head, b"etag");
    let fits = u16::try_from(etag.1).unwrap_or(0);

    let (tags, hashes) = facts.tags.encode();

    let mut meta = Vec::with_capacity(FIXED_BYTES + vary.len());
    meta.extend_from_slice(&variant.to_le_bytes());
    meta.extend_from_slice(&[VERSION, facts.flags.0]);
    meta.extend_from_slice(&facts.status.to_le_bytes());
    meta.extend_from_slice(&(lines_offset as u32).to_le_bytes());
    meta.extend_from_slice(&facts.response_s.to_le_bytes());
    meta.extend_from_slice(&facts.initial_age_s.to_le_bytes());
    meta.extend_from_slice(&facts.lifetime_s.to_le_bytes());
    meta.extend_from_slice(&body_bytes.to_le_bytes());
    meta.extend_from_slice(&facts.last_modified_s.unwrap_or(NONE).to_le_bytes());
    meta.extend_from_slice(&facts.date_s.unwrap_or(NONE).to_le_bytes());
    meta.extend_from_slice(&(etag.0 as u32).to_le_bytes());
    meta.extend_from_slice(&fits.to_le_bytes());
    meta.extend_from_slice(&(facts.vary.len() as u16).to_le_bytes());
    meta.extend_from_slice(&facts.purges.to_le_bytes());
    meta.extend_from_slice(&tags.to_le_bytes());
    meta.extend_from_slice(&[facts.basis as u8, 0]);
    meta.extend_from_slice(&facts.stale.while_revalidate_s.to_le_bytes());
    meta.extend_from_slice(&facts.stale.if_error_s.to_le_bytes());
    meta.extend_from_slice(&facts.stale.disconnected_s.to_le_bytes());
    debug_assert_eq!(meta.len(), FIXED_BYTES);
    meta.extend(hashes);
    meta.extend_from_slice(&vary);
    meta
}

fn lines_offset(head: &[u8]) -> usize {
    if !head.starts_with(CONTENT_LENGTH) {
        return 0;
    }
    head.iter().position(|&byte| byte == b'\n').map_or(0, |newline| newline + 1)
}

/// Offset and length of the first value of a field, its name in lower case.
fn span(head: &[u8], name: &[u8]) -> (usize, usize) {
    fields(head)
        .find(|(field, _)| field.eq_ignore_ascii_case(name))
        .map_or((0, 0), |(_, value)| (value.as_ptr() as usize - head.as_ptr() as usize, value.len()))
}

/// Names and values of stored lines.
pub fn fields(lines: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    lines.split_inclusive(|&byte| byte == b'\n').filter_map(|line| {
        let colon = line.iter().position(|&byte| byte == b':')?;
        Some((&line[..colon], line[colon + 1..].trim_ascii()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(fields: &str) -> RequestHead {
        let mut head = RequestHead::default();
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        head.parse(text.as_bytes()).unwrap().unwrap();
        head
    }

    fn facts(vary: &[&str]) -> Facts {
        Facts {
            status: 200,
            flags: Flags::default().with(Flags::SHARED, true),
            response_s: 1_000_000,
            initial_age_s: 3,
            lifetime_s: 60,
            last_modified_s: Some(900_000),
            vary: vary.iter().map(|name| name.to_string()).collect(),
            purges: 77,
            basis: Basis::MaxAge,
            stale: StaleWindows { while_revalidate_s: 7, if_error_s: 8, disconnected_s: 9 },
            ..Facts::default()
        }
    }

    #[test]
    fn meta_comes_back() {
        let head = head(200, 12, b"Date: x\r\nETag:  \"v1\"\r\n");
        assert_eq!(head, b"content-length: 12\r\nDate: x\r\nETag:  \"v1\"\r\n\r\n");
        let bytes = encode(&facts(&[]), &request(""), &head, 12);
        let meta = Meta::read(&bytes).unwrap();
        assert_eq!(meta.variant(), 0);
        assert_eq!(meta.status(), 200);
        assert!(meta.flags().has(Flags::SHARED) && !meta.flags().has(Flags::NO_CACHE));
        assert_eq!(&head[meta.lines_offset()..][..5], b"Date:");
        assert_eq!((meta.response_s(), meta.initial_age_s(), meta.lifetime_s()), (1_000_000, 3, 60));
        assert_eq!(meta.body_bytes(), 12);
        assert_eq!((meta.last_modified_s(), meta.date_s()), (Some(900_000), None));
        assert_eq!(meta.etag(&head), Some(&b"\"v1\""[..]));
        assert_eq!(meta.etag(b""), None);
        assert!(meta.has_validator());
        assert_eq!((meta.purges(), meta.tags().hashes().count()), (77, 0));
        let windows = StaleWindows { while_revalidate_s: 7, if_error_s: 8, disconnected_s: 9 };
        assert_eq!((meta.basis(), meta.stale()), (Basis::MaxAge, windows));
    }

    #[test]
    fn tags_stand_before_what_vary_names() {
        let mut fields = http::HeaderMap::new();
        fields.insert("cache-tag", "a, b".parse().unwrap());
        let facts = Facts { tags: super::super::purge::TagSet::of(&fields), ..facts(&["x"]) };
        let bytes = encode(&facts, &request("X: 1\r\n"), b"\r\n", 0);
        assert_eq!(Meta::read(&bytes).unwrap().tags().hashes().count(), 2);
        assert!(matches(&bytes, &request("X: 1\r\n")) && !matches(&bytes, &request("X: 2\r\n")));
        assert!(Meta::read(&bytes[..103]).is_none(), "a tag is missing");
    }

    #[test]
    fn meta_and_head_must_agree() {
        let head = head(200, 12, b"Date: x\r\n");
        let good = encode(&facts(&[]), &request(""), &head, 12);
        assert!(Meta::of_record(&good, &head).is_some());
        let other_head = [b"content-length: 13\r\n", &head[20..]].concat();
        assert!(Meta::of_record(&good, &other_head).is_none());
        assert!(Meta::of_record(&good, &head[20..]).is_none(), "no length");
        assert!(Meta::of_record(&good, &head[..head.len() - 1]).is_none(), "no end");
        // Status, offset of the lines, length of the body.
        for (at, value) in [(10, 204), (12, 0), (12, 19), (32, 13), (39, 1)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert!(Meta::of_record(&bad, &head).is_none(), "byte {at}");
        }
    }

    #[test]
    fn no_content_length_without_body() {
        let head = head(204, 0, b"a: b\r\n");
        assert_eq!(head, b"a: b\r\n\r\n");
        let bytes = encode(&facts(&[]), &request(""), &head, 0);
        assert_eq!(Meta::read(&bytes).unwrap().lines_offset(), 0);
    }

    #[test]
    fn vary_matching() {
        let cases = [
            ("", "", true),
            ("", "A: 1\r\n", false),
            ("A: 1\r\n", "", false),
            ("A: 1\r\n", "A: 1\r\n", true),
            ("A: 1\r\n", "a:   1  \r\n", true),
            ("A: 1\r\n", "A: 2\r\n", false),
            ("A: 1\r\n", "A: 1\r\nC: 9\r\n", true),
            ("A: 1\r\n", "A: 1\r\nB: 9\r\n", false),
            ("A: 1, 2\r\n", "A: 1,2\r\n", true),
            ("A: 1, 2\r\n", "A: 1\r\nA: 2\r\n", true),
            ("A: 1, 2\r\n", "A: 2, 1\r\n", false),
            ("A: 1 2\r\n", "A: 12\r\n", false),
            ("A: \"1, 2\"\r\n", "A: \"1,2\"\r\n", false),
            ("A: \"1, 2\"\r\n", "A: \"1, 2\"\r\n", true),
            ("A:\r\n", "A:\r\n", true),
            ("A:\r\n", "", false),
            ("", "A:\r\n", false),
        ];
        for (stored, asked, want) in cases {
            let meta = encode(&facts(&["a", "b"]), &request(stored), b"\r\n", 0);
            let asking = request(asked);
            assert_eq!(matches(&meta, &asking), want, "{stored:?} {asked:?}");
            assert_eq!(asking.vary_missed.get(), !want);
            let other = encode(&facts(&["a", "b"]), &asking, b"\r\n", 0);
            assert_eq!(variant(&meta) == variant(&other), want, "{stored:?} {asked:?}");
            assert_ne!(variant(&meta), Some(0));
        }
    }

    proptest! {
        #[test]
        fn corrupt_meta_is_no_match(mut bytes in prop::collection::vec(any::<u8>(), 0..200), flip in any::<usize>(), bit in 0u32..8) {
            let asking = request("A: 1\r\n");
            matches(&bytes, &asking);
            if bytes.len() > 8 {
                bytes[8] = VERSION;
                matches(&bytes, &asking);
            }
            let head = head(200, 1, b"ETag: \"x\"\r\n");
            let mut meta = encode(&facts(&["a", "b"]), &asking, &head, 1);
            let at = flip % meta.len();
            meta[at] ^= 1 << bit;
            matches(&meta, &asking);
            if let Some(meta) = Meta::read(&meta) {
                meta.etag(&head);
                meta.etag(&head[..4]);
            }
            let cut = flip % meta.len();
            prop_assert!(!matches(&meta[..cut], &asking));
        }
    }
}
