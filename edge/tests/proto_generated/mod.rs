//! Generated request heads, what a parser makes of them, and how two parsers differ: for tests that compare ours with others.
//! The recognisers of differences read the bytes by themselves, line by line, and know nothing of any parser.

use edge::limits;
use edge::proto::request::{BodyLength, RequestHead};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::collections::BTreeMap;

/// What a parser makes of the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Taken(Box<Taken>),
    /// More bytes are needed.
    Incomplete,
    Refused,
}

/// A request as understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    pub method: String,
    pub path: String,
    pub minor_version: u8,
    pub fields: Vec<(String, Vec<u8>)>,
    pub body: BodyLength,
    /// Whether another request may follow; only compared where there is no body.
    pub keep_alive: Option<bool>,
}

pub fn ours(bytes: &[u8]) -> Verdict {
    let mut head = RequestHead::default();
    match head.parse(bytes) {
        Err(_) => Verdict::Refused,
        Ok(None) => Verdict::Incomplete,
        Ok(Some(_)) => Verdict::Taken(Box::new(Taken {
            method: head.method_name().into(),
            path: head.path().into(),
            minor_version: head.minor_version,
            fields: head.fields().map(|(name, value)| (name.to_ascii_lowercase(), value.to_vec())).collect(),
            body: head.body,
            keep_alive: (head.body == BodyLength::None).then_some(head.keep_alive),
        })),
    }
}

/// Fields in one order: a map keeps that of names, not that among them.
pub fn sorted(mut verdict: Verdict) -> Verdict {
    if let Verdict::Taken(taken) = &mut verdict {
        taken.fields.sort_by(|a, b| a.0.cmp(&b.0));
    }
    verdict
}

/// A head in pieces, most of them as they should be.
pub fn heads() -> impl Strategy<Value = Vec<u8>> {
    let start = prop_oneof![
        30 => Just(""),
        1 => select(vec!["\r\n", "\r\n\r\n", "\r\n\r\n\r\n\r\n\r\n", "\n", "\r", " ", "\0"]),
    ];
    let method = prop_oneof![
        20 => select(vec!["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "get", "M-SEARCH", "x!#$%&'*+.^_`|~"]),
        1 => select(vec!["CONNECT", "", "G ET", "G(T", "GE\tT", "G\u{e9}T", "A-METHOD-WITH-A-NAME-OF-MORE-BYTES"]),
    ];
    let target = prop_oneof![
        20 => select(vec!["/", "/a/b?c=d&e", "/%41%zz", "/a//../b", "/?", "/;a=b", "/{a}|[b]^\\", "*"]),
        6 => select(vec!["http://a.example/x", "http://a.example", "http://a.example?x", "HTTP://A.EXAMPLE:80/x"]),
        3 => select(vec!["https://a.example/", "ftp://a.example/", "http://b.example/", "http://u@a.example/",
            "http:///x", "http://a.example:x/", "http://[::1]:8/", "a.example:443", "a.example", "a/b", "?x", ""]),
        3 => select(vec!["/a#b", "/\"a\"", "/<a>", "/`a", "/a\u{e9}", "/a\tb", "/a\0b", "/a b", "/\u{7f}"]),
    ];
    let version = prop_oneof![
        20 => Just(" HTTP/1.1"),
        4 => Just(" HTTP/1.0"),
        1 => select(vec![" HTTP/1.2", " HTTP/2.0", " HTTP/0.9", " http/1.1", " HTTP/1.1 ", "  HTTP/1.1", "", " ", " HTTP/1.", " HTTP/11"]),
    ];
    let host = prop_oneof![
        20 => Just("Host: a.example"),
        2 => select(vec!["Host: a.example:80", "HOST:A.EXAMPLE", "Host: [::1]:8", "host: \t a.example \t"]),
        3 => select(vec!["", "Host:", "Host: a.example, b.example", "Host: a b", "Host: a%2eb", "Host: a+b", "Host: a/b", "Host: a:99999", "Host: u@a",
            "Host: a.example\r\nHost: a.example", "Host : a.example", "Host: [::1"]),
    ];
    let field = prop_oneof![
        12 => select(vec!["Accept: */*", "X-A: b", "x-a:", "X-A: \t b c \t", "X-B: \u{e9}", "Cookie: a=1", "User-Agent: x (y) \"z\""]),
        3 => select(vec!["Content-Length: 0", "Content-Length: 5", "content-length:007", "Content-Length: 18446744073709551615",
            "Content-Length: 18446744073709551616", "Content-Length: +5", "Content-Length: 5, 5", "Content-Length: 5 5", "Content-Length:", "Content-Length: 0x5"]),
        3 => select(vec!["Transfer-Encoding: chunked", "transfer-encoding: Chunked", "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked, chunked", "Transfer-Encoding: chunked, gzip", "Transfer-Encoding: identity",
            "Transfer-Encoding: \"chunked\"", "Transfer-Encoding: ,chunked", "Transfer-Encoding: chunked;a=b", "Transfer-Encoding:"]),
        3 => select(vec!["Connection: close", "Connection: keep-alive", "Connection: close, x-a", "connection: Keep-Alive, Close", "Connection: x-a"]),
        1 => select(vec!["Expect: 100-continue", "Expect: 100-Continue", "Expect: a-pony", "Upgrade: h2c"]),
        2 => select(vec![" X: y", "X : y", "X\t: y", "X", ": y", "X y: z", "X(: z", "X\u{e9}: z", "X: a\rb", "X: a\0b", "X: a\u{7f}b",
            "X: a\r\n folded", "X: a\r\n\tfolded", "X\0: a"]),
    ];
    let end = prop_oneof![40 => Just("\r\n"), 1 => select(vec!["\n", "\r", "\r\r\n", "\n\r", ""])];
    let lines = proptest::collection::vec((field, end.clone()), 0..5);
    let changed = prop_oneof![6 => Just(None), 1 => (any::<u16>(), any::<u8>(), 0..3u8).prop_map(Some)];
    let more = prop_oneof![60 => Just((0, 0)), 1 => select(vec![(95, 0), (101, 0), (1, 8_000), (1, 20_000)])];
    (start, method, (target, version, end.clone()), (host, end.clone()), lines, (end, changed, more))
        .prop_map(
            |(
                start,
                method,
                (target, version, line_end),
                (host, host_end),
                lines,
                (end, changed, (count, bytes)),
            )| {
                let mut text = format!("{start}{method} {target}{version}{line_end}");
                if !host.is_empty() {
                    text += &format!("{host}{host_end}");
                }
                lines.iter().for_each(|(field, end)| text += &format!("{field}{end}"));
                (0..count).for_each(|_| text += &format!("X-More: {}\r\n", "y".repeat(bytes)));
                text += end;
                let mut bytes = text.into_bytes();
                match changed {
                    Some((at, byte, 0)) => {
                        let at = usize::from(at) % bytes.len();
                        bytes[at] = byte;
                    }
                    Some((at, byte, 1)) => bytes.insert(usize::from(at) % bytes.len(), byte),
                    Some((at, ..)) => bytes.truncate(usize::from(at) % bytes.len()),
                    None => {}
                }
                bytes
            },
        )
}

/// The bytes in lines, as anybody would read them.
pub struct Lines<'a> {
    pub bytes: &'a [u8],
    pub method: &'a [u8],
    pub target: &'a [u8],
    pub version: &'a [u8],
    /// Name in lower case, and value without blanks around it.
    pub fields: Vec<(Vec<u8>, &'a [u8])>,
}

impl<'a> Lines<'a> {
    pub fn read(bytes: &'a [u8]) -> Self {
        let start = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
        let mut lines =
            bytes[start..].split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let mut words = lines.next().unwrap_or_default().split(|byte| *byte == b' ');
        let mut word = || words.next().unwrap_or_default();
        let (method, target, version) = (word(), word(), word());
        let field = |line: &'a [u8]| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            Some((line[..colon].to_ascii_lowercase(), line[colon + 1..].trim_ascii()))
        };
        let fields = lines.take_while(|line| !line.is_empty()).filter_map(field).collect();
        Lines { bytes, method, target, version, fields }
    }

    pub fn all(&self, name: &str) -> Vec<&'a [u8]> {
        self.fields.iter().filter(|(own, _)| own == name.as_bytes()).map(|(_, value)| *value).collect()
    }

    pub fn has_bare(&self) -> bool {
        let at = |at: usize| self.bytes.get(at).copied();
        (0..self.bytes.len()).any(|i| at(i) == Some(b'\n') && (i == 0 || at(i - 1) != Some(b'\r')))
    }

    /// What follows it in the target.
    pub fn after_authority(&self) -> &'a [u8] {
        self.authority().map_or(b"", |authority| &self.target[7 + authority.len()..])
    }

    pub fn authority(&self) -> Option<&'a [u8]> {
        let rest = self
            .target
            .get(..7)
            .filter(|start| start.eq_ignore_ascii_case(b"http://"))
            .map(|_| &self.target[7..])?;
        Some(&rest[..rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len())])
    }
}

/// Host and port as RFC 9110 section 7.2 has them.
pub fn is_host(value: &[u8]) -> bool {
    let text = std::str::from_utf8(value).unwrap_or("\0");
    let (name, port) = match text.rfind(':').filter(|at| !text[*at..].contains(']')) {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, ""),
    };
    let inner = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let named = inner.map_or_else(
        || {
            !name.is_empty()
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&byte))
        },
        |inner| inner.parse::<std::net::Ipv6Addr>().is_ok(),
    );
    named && (port.is_empty() || port.parse::<u16>().is_ok())
}

/// How the two differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// We refuse what the other takes.
    Stricter,
    /// We take, or wait for more of, what the other refuses.
    Laxer,
    /// Both take it, for different requests.
    Otherwise,
}

/// How, why with the section, and whether the bytes are of this kind.
pub type Class = (How, &'static str, fn(&Lines<'_>) -> bool);

pub fn how(ours: &Verdict, theirs: &Verdict) -> How {
    match (ours, theirs) {
        (Verdict::Refused, Verdict::Taken(_)) => How::Stricter,
        (_, Verdict::Refused | Verdict::Incomplete) | (Verdict::Incomplete, _) => How::Laxer,
        (Verdict::Taken(_), Verdict::Taken(_)) => How::Otherwise,
    }
}

/// What we are as strict about beside any other parser here.
#[rustfmt::skip]
pub const COMMON: &[Class] = &[
    (How::Stricter, "a line that ends in LF alone (RFC 9112 section 2.2: MAY be taken)", |l| l.has_bare()),
    (How::Stricter, "more than four empty lines before the request (section 2.2: at least one SHOULD be ignored)", |l| l.bytes.starts_with(b"\r\n\r\n\r\n\r\n\r\n")),
    (How::Stricter, "a Host that is none (section 3.2: MUST be 400)", |l| l.all("host").iter().any(|host| !is_host(host))),
    (How::Stricter, "a Host that no name in the DNS is (RFC 3986 section 3.2.2: names SHOULD conform to the DNS)", |l| {
        l.all("host").iter().any(|host| host.iter().any(|byte| b"%!$&'()*+,;=".contains(byte)))
    }),
    (How::Stricter, "Host differs from the target's (section 3.2.2: MUST be ignored; refused, for those behind us may not)", |l| {
        l.authority().is_some_and(|own| l.all("host").iter().any(|host| !host.eq_ignore_ascii_case(own)))
    }),
    (How::Stricter, "a target of another scheme, or of none (section 3.2.2, 3.2.3; RFC 9110 section 7.4)", |l| !l.target.starts_with(b"/") && l.target != b"*" && l.authority().is_none()),
    (How::Stricter, "a method longer than any that is implemented (section 3: SHOULD be 501)", |l| l.method.len() > 32),
    (How::Stricter, "a target with bytes that no URI has (section 3.2, RFC 3986 appendix A)", |l| l.target.iter().any(|byte| b"#\"<>`".contains(byte) || !byte.is_ascii())),
    (How::Stricter, "an expectation that is not known (RFC 9110 section 10.1.1: MAY be 417)", |l| l.all("expect").iter().any(|value| !value.eq_ignore_ascii_case(b"100-continue"))),
    (How::Stricter, "a head larger than we take (section 3, RFC 6585 section 5)", |l| l.bytes.len() > limits::REQUEST_HEAD_BYTES_MAX),
    (How::Otherwise, "an absolute form without a path asks for /, before the query too (section 3.2.1, RFC 9110 section 4.2.3)", |l| l.after_authority().starts_with(b"?")),
    (How::Otherwise, "OPTIONS of a whole server, in absolute form (section 3.2.4)", |l| l.method == b"OPTIONS" && l.authority().is_some()),
];

/// Compares our parser with another on so many heads: whatever they differ in must be of a class, and each class be needed.
pub fn compare(
    count: usize,
    own_classes: &[Class],
    ours: impl Fn(&[u8]) -> Verdict,
    theirs: impl Fn(&[u8]) -> Verdict,
) {
    let mut runner =
        TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &[9; 32]));
    let strategy = heads();
    let classes = || own_classes.iter().chain(COMMON);
    let mut seen: BTreeMap<&str, usize> = classes().map(|(_, why, _)| (*why, 0)).collect();
    let (mut same, mut taken, mut unexplained) = (0, 0, Vec::new());
    for _ in 0..count {
        let mut bytes = strategy.new_tree(&mut runner).expect("a head").current();
        let (mut own, mut other) = (sorted(ours(&bytes)), sorted(theirs(&bytes)));
        if [&own, &other].contains(&&Verdict::Refused) && [&own, &other].contains(&&Verdict::Incomplete) {
            // A fault may show sooner to one of them; nothing that follows mends it.
            bytes.extend_from_slice(b"\r\n\r\n");
            (own, other) = (sorted(ours(&bytes)), sorted(theirs(&bytes)));
        }
        if own == other {
            same += 1;
            taken += usize::from(matches!(own, Verdict::Taken(_)));
            continue;
        }
        let (lines, how) = (Lines::read(&bytes), how(&own, &other));
        match classes().find(|(of, _, applies)| *of == how && applies(&lines)) {
            Some((_, why, _)) => *seen.entry(why).or_default() += 1,
            None => unexplained
                .push(format!("{how:?}: \"{}\"\n  ours   {own:?}\n  theirs {other:?}", bytes.escape_ascii())),
        }
    }
    let shown = &unexplained[..unexplained.len().min(12)];
    assert!(unexplained.is_empty(), "{} of {count}:\n{}\n{seen:#?}", unexplained.len(), shown.join("\n"));
    let idle: Vec<_> = seen.iter().filter(|(_, count)| **count == 0).collect();
    assert!(idle.is_empty(), "nothing needs these: {idle:?}");
    assert!(same > count / 3 && taken > count / 10, "{same} the same, {taken} of them taken");
}
