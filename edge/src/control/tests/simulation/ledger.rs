//! What the origin has, what it has sent, and whether an answer that a client received is one of those it may have
//! received.

use super::Dice;
use super::client::{Answer, Asked};
use crate::clock;
use std::collections::HashMap;

/// How the origin delimits its bodies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framed {
    Length,
    Chunks,
    End,
}

/// What one path serves. Its content changes every `lives_s`.
#[derive(Debug)]
pub(super) struct Resource {
    pub(super) path: usize,
    pub(super) bytes: usize,
    pub(super) lives_s: u64,
    pub(super) max_age_s: Option<u64>,
    /// Further directives of Cache-Control.
    pub(super) directive: &'static str,
    pub(super) has_etag: bool,
    pub(super) framed: Framed,
    pub(super) varies: bool,
    pub(super) takes_ranges: bool,
}

const DIRECTIVES: &[&str] = &[
    "",
    "",
    "",
    "no-store",
    "private",
    "no-cache",
    "must-revalidate",
    "stale-while-revalidate=20",
    "stale-if-error=60",
    "stale-while-revalidate=5, stale-if-error=5",
];

impl Resource {
    pub(super) fn random(dice: &Dice, path: usize, large: bool) -> Self {
        let bytes = match dice.below(10) {
            0 => dice.below(3),
            1..8 => dice.below(400),
            _ => dice.below(20_000),
        };
        Resource {
            path,
            bytes: if large && dice.one_in(2) { 700_000 + dice.below(3_000_000) } else { bytes } as usize,
            lives_s: 1 + dice.below(40),
            max_age_s: dice.pick(&[None, Some(0), Some(2), Some(10), Some(60), Some(60)]),
            directive: dice.pick(DIRECTIVES),
            has_etag: !dice.one_in(3),
            framed: dice.pick(&[Framed::Length, Framed::Length, Framed::Chunks, Framed::End]),
            varies: dice.one_in(4),
            takes_ranges: dice.one_in(2),
        }
    }

    /// Whether a response to this is for whoever asked alone.
    pub(super) fn is_owned(&self, authorized: bool) -> bool {
        let shared = self.directive.contains("must-revalidate");
        self.is_never_stored() || (authorized && !shared)
    }

    fn is_never_stored(&self) -> bool {
        matches!(self.directive, "no-store" | "private")
    }

    pub(super) fn version(&self) -> u64 {
        clock::now().unix_s / self.lives_s
    }
}

/// One representation, by what it is made for: everything about it follows from this.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct What {
    pub(super) path: usize,
    pub(super) version: u64,
    /// The request it belongs to, or `-`.
    pub(super) owner: String,
    /// What was selected by Vary, or `-`.
    pub(super) lang: String,
    pub(super) bytes: usize,
}

impl What {
    pub(super) fn render(&self) -> String {
        format!("{}.{}.{}.{}.{}", self.path, self.version, self.owner, self.lang, self.bytes)
    }

    fn parse(text: &str) -> Option<What> {
        let mut parts = text.split('.');
        let mut next = || parts.next();
        Some(What {
            path: next()?.parse().ok()?,
            version: next()?.parse().ok()?,
            owner: next()?.to_owned(),
            lang: next()?.to_owned(),
            bytes: next()?.parse().ok()?,
        })
    }

    pub(super) fn etag(&self) -> String {
        format!("\"{}.{}.{}\"", self.version, self.owner, self.lang)
    }

    /// Bytes that tell each offset of each representation from all others.
    pub(super) fn body(&self) -> Vec<u8> {
        super::super::pattern(self.bytes, super::super::hash(self.render().as_bytes()))
    }
}

/// What the origin has said of a representation.
#[derive(Debug, Default)]
struct Said {
    /// The step at which the last request began that it was the answer to.
    begun: u64,
    /// When it was last sent, or confirmed, Unix seconds.
    confirmed_s: u64,
    /// Lengths that were claimed for it, other than its own.
    lengths: Vec<usize>,
    /// It was sent with chunks that are none: what of it was cut out before that was noticed can be wrong.
    garbled: bool,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    step: u64,
    said: HashMap<What, Said>,
    /// The step of the last hard purge of each path.
    purged: HashMap<usize, u64>,
    /// What the origin saw that must not be.
    pub(super) wrong: Option<String>,
}

impl Ledger {
    /// A moment later than all before.
    pub(super) fn step(&mut self) -> u64 {
        self.step += 1;
        self.step
    }

    /// A path, or all of them, have been purged.
    pub(super) fn purged(&mut self, path: Option<usize>, paths: usize) {
        let step = self.step();
        let named = path.map_or(0..paths, |path| path..path + 1);
        self.purged.extend(named.map(|path| (path, step)));
    }

    /// The origin answers with this. `length`: what it says its length is.
    pub(super) fn said(&mut self, what: &What, begun: u64, length: usize) {
        let said = self.said.entry(what.clone()).or_default();
        said.begun = said.begun.max(begun);
        said.confirmed_s = clock::now().unix_s;
        if length != what.bytes {
            said.lengths.push(length);
        }
    }

    /// The origin sends this with chunks that are none.
    pub(super) fn garbled(&mut self, what: &What) {
        self.said.entry(what.clone()).or_default().garbled = true;
    }

    /// The origin answers HEAD for what has no validator: that may count for whatever is stored of its path.
    pub(super) fn confirmed(&mut self, path: usize) {
        let of_path = self.said.iter_mut().filter(|(what, _)| what.path == path);
        of_path.for_each(|(_, said)| said.confirmed_s = clock::now().unix_s);
    }

    /// Panics if a client must not have received this.
    pub(super) fn judge(&self, resource: &Resource, asked: &Asked, answer: &Answer) {
        let told = || format!("{resource:?}\n{asked:?}\n{answer:?}");
        let Some(name) = answer.field("x-what") else {
            let known = matches!(answer.status, 304 | 400 | 408 | 416 | 500..=504);
            let bodiless = asked.method == "HEAD" || answer.status == 304;
            assert!(known || bodiless, "an answer of nobody: {}", told());
            assert!(!bodiless || answer.body.is_empty(), "a body: {}", told());
            return;
        };
        let what = What::parse(name).unwrap_or_else(|| panic!("not of this origin: {}", told()));
        let said = self.said.get(&what).unwrap_or_else(|| panic!("never sent: {}", told()));
        let lang = if resource.varies { asked.lang } else { "-" };
        assert_eq!(what.path, asked.path, "of another path: {}", told());
        assert!(what.owner == "-" || what.owner == asked.id, "of another client: {}", told());
        assert!(what.lang == lang || asked.is_upload(), "another variant: {}", told());
        if let Some(&purged) = self.purged.get(&asked.path).filter(|&&purged| purged < asked.step) {
            assert!(said.begun > purged, "purged before it was asked for: {}", told());
        }
        let case = Case { resource, asked, answer, what: &what, said };
        case.judge_age();
        case.judge_body();
    }
}

/// An answer with what it is to be compared with.
#[derive(Debug)]
struct Case<'a> {
    resource: &'a Resource,
    asked: &'a Asked,
    answer: &'a Answer,
    what: &'a What,
    said: &'a Said,
}

impl Case<'_> {
    fn judge_age(&self) {
        let status = self.answer.field("cache-status").unwrap_or_default();
        let Some(ttl) = status.strip_prefix("edge; hit; ttl=") else { return };
        assert!(self.what.owner == "-" && !self.resource.is_never_stored(), "stored: {self:#?}");
        let ttl: i64 = ttl.split(';').next().and_then(|text| text.parse().ok()).expect("a number");
        let age_s: u64 = self.answer.field("age").expect("of what is stored").parse().expect("a number");
        // As fresh it may answer within its lifetime only; else for want of anything better.
        let fresh = self.resource.max_age_s.filter(|_| self.resource.directive != "no-cache");
        assert!(ttl <= 0 || fresh.is_some_and(|max_age_s| age_s < max_age_s), "not fresh: {self:#?}");
        // It may have been on its way for long, but not since before it was asked for.
        let oldest_s = self.asked.at_s.saturating_sub(self.said.confirmed_s);
        assert!(age_s + 1 >= oldest_s, "older than it says: {self:#?}");
    }

    fn judge_body(&self) {
        let Case { asked, answer, said, .. } = self;
        if asked.method == "HEAD" {
            return assert!(answer.body.is_empty(), "a body: {self:#?}");
        }
        let whole = self.what.body();
        if answer.status == 206 {
            let range = answer.field("content-range").unwrap_or_default();
            let (first, last, bytes) = content_range(range).unwrap_or_else(|| panic!("no range: {self:#?}"));
            let known = bytes == whole.len() || said.lengths.contains(&bytes);
            assert!(known && asked.range.is_some(), "not what was asked for: {self:#?}");
            let part = whole.get(first..=last).unwrap_or_default();
            // What is passed on may contradict itself.
            let complete = answer.body.len() == part.len() || said.lengths.contains(&answer.body.len());
            return assert!(
                complete && (part.starts_with(&answer.body) || said.garbled),
                "other bytes: {self:#?}"
            );
        }
        let complete = answer.body.len() == whole.len() || said.lengths.contains(&answer.body.len());
        assert!(complete, "of {} bytes, looks whole: {self:#?}", whole.len());
        let same = whole.iter().zip(&answer.body).take_while(|(ours, theirs)| ours == theirs).count();
        assert!(same == answer.body.len(), "other bytes from {same} on: {self:#?}");
    }
}

/// First and last byte, and the complete length.
fn content_range(text: &str) -> Option<(usize, usize, usize)> {
    let (part, bytes) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = part.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?, bytes.parse().ok()?))
}
