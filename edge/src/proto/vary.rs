//! Variants of one URL (RFC 9111 section 4.1): the part of the meta bytes that says which requests a stored response
//! was selected for, and whether another request selects it too. Runs on every hit of a response with Vary:
//! nothing here allocates but [`encode`].
//!
//! Two requests select the same response if the fields Vary names have the same values. Section 4.1 allows to put
//! values in a form "known to have identical semantics" first, and that is done in three steps, the cheapest first:
//! - as they are, without the blanks around commas and with the lines of one field as one list;
//! - Accept-Encoding and Accept-Language as what they are, sets of weighted names: without regard to case, order or
//!   the spelling of weights. A list with anything else in it is compared as it is;
//! - Accept-Language by its result: where the stored response is in the one language that a request likes best,
//!   the origin, which has that language, would choose it again.
//!
//! Each entry is: length of the name (2), name, length of the value as it was (4; all ones: absent), value, length
//! of its canonical form (2; 0: none), canonical form, length of the language (1), language. Little-endian.
#![forbid(unsafe_code)]

use super::freshness::Facts;
use super::request::RequestHead;

const ABSENT: u32 = u32::MAX;
/// Members of a list that is put in canonical order; a longer one is compared as it is.
const MEMBERS_MAX: usize = 16;
/// The weight of a member without one, in thousandths (RFC 9110 section 12.4.2).
const WHOLE: u16 = 1000;

/// Entries for what this request said in the fields the response varies on, and the discriminator of the variant:
/// 0 without Vary.
pub(super) fn encode(facts: &Facts, request: &RequestHead) -> (u64, Vec<u8>) {
    let mut entries = Vec::new();
    let mut selecting = Vec::new();
    for name in &facts.vary {
        let start = entries.len();
        entries.extend_from_slice(&(name.len() as u16).to_le_bytes());
        entries.extend_from_slice(name.as_bytes());
        let at = entries.len();
        entries.extend_from_slice(&ABSENT.to_le_bytes());
        if present(request, name) {
            entries.extend(joined(request, name));
            let bytes = (entries.len() - at - 4) as u32;
            entries[at..at + 4].copy_from_slice(&bytes.to_le_bytes());
        }
        let canonical = Members::of(request, name).map(|members| members.canonical()).unwrap_or_default();
        // Variants of one meaning replace each other.
        match canonical.is_empty() {
            true => selecting.extend_from_slice(&entries[start..]),
            false => selecting.extend(name.bytes().chain(canonical.iter().copied())),
        }
        let fits = u16::try_from(canonical.len()).unwrap_or(0);
        entries.extend_from_slice(&fits.to_le_bytes());
        entries.extend_from_slice(&canonical[..usize::from(fits)]);
        let language = facts.language.as_deref().filter(|_| name == "accept-language").unwrap_or("");
        let fits = u8::try_from(language.len()).unwrap_or(0);
        entries.push(fits);
        entries.extend_from_slice(&language.as_bytes()[..usize::from(fits)]);
    }
    let variant = if facts.vary.is_empty() { 0 } else { super::key::hash(&selecting).max(1) };
    (variant, entries)
}

/// Whether a request says the same as the one these entries were made for. What cannot be read is no match.
pub(super) fn selects(mut entries: &[u8], count: u16, request: &RequestHead) -> bool {
    (0..count).all(|_| Entry::take(&mut entries).is_some_and(|entry| entry.selects(request)))
}

/// Name and value of each entry; `None` where it cannot be read.
pub(super) fn entries(mut entries: &[u8], count: u16) -> impl Iterator<Item = Option<(&str, Option<&[u8]>)>> {
    (0..count).map(move |_| Entry::take(&mut entries).map(|entry| (entry.name, entry.value)))
}

struct Entry<'a> {
    name: &'a str,
    /// `None`: the request had no such field.
    value: Option<&'a [u8]>,
    canonical: &'a [u8],
    language: &'a [u8],
}

impl<'a> Entry<'a> {
    fn take(rest: &mut &'a [u8]) -> Option<Self> {
        let bytes = usize::from(u16::from_le_bytes(take::<2>(rest)?));
        let name = str::from_utf8(rest.split_off(..bytes)?).ok()?;
        let value = match u32::from_le_bytes(take::<4>(rest)?) {
            ABSENT => None,
            bytes => Some(rest.split_off(..bytes as usize)?),
        };
        let bytes = usize::from(u16::from_le_bytes(take::<2>(rest)?));
        let canonical = rest.split_off(..bytes)?;
        let bytes = usize::from(take::<1>(rest)?[0]);
        let language = rest.split_off(..bytes)?;
        Some(Entry { name, value, canonical, language })
    }

    fn selects(&self, request: &RequestHead) -> bool {
        match self.value {
            None => !present(request, self.name),
            Some(_) if !present(request, self.name) => false,
            Some(value) => {
                value.iter().copied().eq(joined(request, self.name)) || self.means_the_same(request)
            }
        }
    }

    #[inline(never)]
    fn means_the_same(&self, request: &RequestHead) -> bool {
        if self.canonical.is_empty() {
            return false;
        }
        let Some(members) = Members::of(request, self.name) else { return false };
        let is_language = |best: &[u8]| best.eq_ignore_ascii_case(self.language);
        members.is(self.canonical) || (!self.language.is_empty() && members.best().is_some_and(is_language))
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*first)
}

fn present(request: &RequestHead, name: &str) -> bool {
    request.field_all(name).next().is_some()
}

/// The combined value of a field without the blanks around its commas; as it is if it has quoted strings, in which
/// blanks count.
fn joined(request: &RequestHead, name: &str) -> impl Iterator<Item = u8> {
    let quoted = request.field_all(name).any(|value| value.contains(&b'"'));
    request.field_all(name).enumerate().flat_map(move |(line, value)| {
        let whole = quoted.then_some(value);
        let items = (!quoted).then(|| value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii));
        let items = items.into_iter().flatten().chain(whole);
        items.enumerate().flat_map(move |(item, bytes)| {
            let comma = (line + item > 0).then_some(b',');
            comma.into_iter().chain(bytes.iter().copied())
        })
    })
}

/// A set of weighted names, the best first, those of one weight in alphabetical order.
struct Members<'a> {
    members: [(&'a [u8], u16); MEMBERS_MAX],
    count: usize,
}

impl<'a> Members<'a> {
    /// `None`: the field is of another kind, or is not such a list, or has too many members.
    fn of(request: &'a RequestHead, name: &str) -> Option<Self> {
        if !matches!(name, "accept-encoding" | "accept-language") {
            return None;
        }
        let mut set = Members { members: [(&[], 0); MEMBERS_MAX], count: 0 };
        for item in request.field_all(name).flat_map(|value| value.split(|&byte| byte == b',')) {
            let item = item.trim_ascii();
            if !item.is_empty() {
                set.insert(weighted(item)?)?;
            }
        }
        Some(set)
    }

    fn insert(&mut self, member: (&'a [u8], u16)) -> Option<()> {
        let at = self.members[..self.count].partition_point(|other| before(other, &member));
        *self.members.get_mut(self.count)? = member;
        self.members[at..=self.count].rotate_right(1);
        self.count += 1;
        Some(())
    }

    fn canonical(&self) -> Vec<u8> {
        self.bytes().collect()
    }

    fn is(&self, canonical: &[u8]) -> bool {
        canonical.iter().copied().eq(self.bytes())
    }

    /// Each name in lower case, `;`, its weight.
    fn bytes(&self) -> impl Iterator<Item = u8> {
        self.members[..self.count].iter().flat_map(|(name, weight)| {
            let weight = weight.to_be_bytes();
            name.iter().map(u8::to_ascii_lowercase).chain([b';', weight[0], weight[1]])
        })
    }

    /// The one name that is better than all others.
    fn best(&self) -> Option<&'a [u8]> {
        match &self.members[..self.count] {
            [(name, weight)] if *weight > 0 => Some(name),
            [(name, weight), (_, next), ..] if weight > next => Some(name),
            _ => None,
        }
    }
}

fn before(one: &(&[u8], u16), other: &(&[u8], u16)) -> bool {
    let names = || one.0.iter().map(u8::to_ascii_lowercase).lt(other.0.iter().map(u8::to_ascii_lowercase));
    one.1 > other.1 || (one.1 == other.1 && names())
}

/// A member and its weight in thousandths; `None`: it has other parameters, or a weight that is none.
fn weighted(item: &[u8]) -> Option<(&[u8], u16)> {
    let Some(semicolon) = item.iter().position(|&byte| byte == b';') else { return Some((item, WHOLE)) };
    let name = item[..semicolon].trim_ascii_end();
    let parameter = item[semicolon + 1..].trim_ascii_start();
    let [b'q' | b'Q', b'=', weight @ ..] = parameter else { return None };
    let (whole, rest) = weight.split_first()?;
    let digits = match rest {
        [] => rest,
        [b'.', digits @ ..] if digits.len() <= 3 => digits,
        _ => return None,
    };
    let mut thousandths = u16::from(whole.checked_sub(b'0').filter(|&digit| digit <= 1)?);
    for at in 0..3 {
        let digit =
            digits.get(at).map_or(Some(0), |digit| digit.checked_sub(b'0').filter(|&digit| digit <= 9))?;
        thousandths = thousandths * 10 + u16::from(digit);
    }
    (thousandths <= WHOLE && !name.is_empty()).then_some((name, thousandths))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fields: &str) -> RequestHead {
        let mut head = RequestHead::default();
        head.parse(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes()).unwrap().unwrap();
        head
    }

    fn facts(vary: &[&str], language: Option<&str>) -> Facts {
        let vary = vary.iter().map(|name| name.to_string()).collect();
        Facts { vary, language: language.map(str::to_owned), ..Facts::default() }
    }

    /// Stored for the first value of the field, asked for with the second.
    fn check(field: &str, language: Option<&str>, stored: &str, asked: &str, want: bool) {
        let name = field.to_ascii_lowercase();
        let facts = facts(&[&name], language);
        let (_, entries) = encode(&facts, &request(&format!("{field}: {stored}\r\n")));
        let asking = request(&format!("{field}: {asked}\r\n"));
        assert_eq!(selects(&entries, 1, &asking), want, "{field} {language:?}: {stored:?} {asked:?}");
    }

    #[test]
    fn lists_of_preferences() {
        for field in ["Accept-Language", "Accept-Encoding"] {
            for (stored, asked, want) in [
                ("en, de", "de, en", true),
                ("en, de", "eN,De", true),
                ("en, de", " en ,   de ,,", true),
                ("en, de", "en;q=1.0, de;Q=1", true),
                ("en, de;q=0.5", "de;q=0.500, en", true),
                ("en, de;q=0.5", "de, en;q=0.5", false),
                ("en, de;q=0.5", "en, de;q=0.51", false),
                ("en, de", "en", false),
                ("en, de", "en, de, fr", false),
                ("en, de;q=0", "en", false),
                ("en;level=1, de", "de, en;level=1", false),
                ("en;q=2, de", "de, en;q=2", false),
                ("en;q=0.1234, de", "de, en;q=0.1234", false),
                ("en;q=, de", "de, en;q=", false),
                ("a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p", "p,o,n,m,l,k,j,i,h,g,f,e,d,c,b,a", true),
                ("a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q", "q,p,o,n,m,l,k,j,i,h,g,f,e,d,c,b,a", false),
            ] {
                check(field, None, stored, asked, want);
            }
        }
        check("X", None, "en, de", "de, en", false);
    }

    #[test]
    fn the_language_that_was_chosen() {
        for (language, asked, want) in [
            (Some("de"), "fr;q=0.5, de;q=1.0", true),
            (Some("de"), "DE", true),
            (Some("de"), "fr, de", false),
            (Some("de"), "fr, de;q=0.9", false),
            (Some("de"), "de;q=0", false),
            (Some("de"), "de-AT", false),
            (None, "fr;q=0.5, de;q=1.0", false),
        ] {
            check("Accept-Language", language, "en, de", asked, want);
        }
        check("Accept-Encoding", Some("de"), "en, de", "de", false);
    }

    #[test]
    fn variants_of_one_meaning_have_one_discriminator() {
        let facts = facts(&["accept-encoding"], None);
        let variant = |value: &str| encode(&facts, &request(&format!("Accept-Encoding: {value}\r\n"))).0;
        assert_eq!(variant("gzip, br"), variant("BR,gzip"));
        assert_ne!(variant("gzip, br"), variant("gzip"));
        assert_ne!(variant("gzip;x=1"), variant("gzip"));
        assert_eq!(encode(&Facts::default(), &request("")).0, 0);
    }
}
