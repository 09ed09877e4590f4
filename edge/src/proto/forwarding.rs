//! What a message gains and loses by being passed on (RFC 9110 section 7.6): Via in both directions, Max-Forwards of
//! TRACE and OPTIONS, and where a message that has gone round too often ends. Hop-by-hop fields are known to
//! `framing`, and left out where heads are rewritten.
#![forbid(unsafe_code)]

use super::request::RequestHead;
use crate::limits;
use http::Version;
use http::header::{HeaderMap, HeaderName, HeaderValue, VIA};

/// The name by which nodes call themselves in Via: one that says nothing of the machine. In requests a number follows.
const PSEUDONYM: &str = "edge";
const NUMBER_DIGITS: usize = 16;
const MAX_FORWARDS: HeaderName = HeaderName::from_static("max-forwards");
/// Fields that a TRACE must not show (RFC 9110 section 9.3.8).
const SECRET: [&str; 3] = ["authorization", "cookie", "proxy-authorization"];

/// What this node calls itself in the Via of requests, so that it knows those again that come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pseudonym(String);

impl Pseudonym {
    /// From a number that no other node is likely to have.
    pub fn new(number: u64) -> Self {
        Pseudonym(format!("{PSEUDONYM}-{number:016x}"))
    }

    /// Whether a request goes round: it has passed this node, or so many nodes that it must be doing so. Nodes that ask
    /// one another on purpose, as tiers do, are fewer.
    pub fn goes_round(&self, request: &RequestHead) -> bool {
        let entries = request.field_all("via").flat_map(|value| value.split(|&byte| byte == b','));
        let names = entries.filter_map(|entry| {
            let mut words = entry.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
            words.nth(1)
        });
        let mut nodes = 0;
        for name in names.filter(|name| is_node(name)) {
            nodes += 1;
            if name == self.0.as_bytes() || nodes >= limits::VIA_NODES_MAX {
                return true;
            }
        }
        false
    }
}

/// Whether a name in Via is that of a node like this one.
fn is_node(name: &[u8]) -> bool {
    let number = name.strip_prefix(PSEUDONYM.as_bytes()).map(|rest| rest.strip_prefix(b"-").unwrap_or(rest));
    number.is_some_and(|number| {
        number.is_empty() || (number.len() == NUMBER_DIGITS && number.iter().all(u8::is_ascii_hexdigit))
    })
}

/// Adds this node to a response that was received in this version. Clients need not tell nodes apart.
pub fn add_via(fields: &mut HeaderMap, version: Version) {
    push_via(fields, version, PSEUDONYM);
}

fn push_via(fields: &mut HeaderMap, version: Version, name: &str) {
    // RFC 9110 section 7.6.3: the protocol's name is left out where it is HTTP.
    let version = match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "1.1",
    };
    if let Ok(value) = HeaderValue::from_str(&format!("{version} {name}")) {
        fields.append(VIA, value);
    }
}

/// How often a TRACE or OPTIONS may still be forwarded (RFC 9110 section 7.6.2). `None`: as often as it takes, or the
/// field is none of a number.
pub fn forwards_left(request: &RequestHead) -> Option<u64> {
    if !matches!(request.method_name(), "TRACE" | "OPTIONS") {
        return None;
    }
    super::framing::decimal(request.field("max-forwards")?)
}

/// Makes the fields of a request those of its next hop.
pub fn forward(fields: &mut HeaderMap, request: &RequestHead, node: &Pseudonym) {
    let version = match request.minor_version {
        _ if request.http2 => Version::HTTP_2,
        0 => Version::HTTP_10,
        _ => Version::HTTP_11,
    };
    push_via(fields, version, &node.0);
    if let Some(left) = forwards_left(request) {
        fields.insert(MAX_FORWARDS, HeaderValue::from(left.saturating_sub(1)));
    }
}

/// The answer to a request that may not be forwarded any more: status, field lines and body. A TRACE gets back what
/// came, an OPTIONS nothing.
pub fn last_answer(request: &RequestHead) -> Option<(u16, Vec<u8>, Vec<u8>)> {
    if forwards_left(request)? > 0 {
        return None;
    }
    if request.method_name() != "TRACE" {
        return Some((204, Vec::new(), Vec::new()));
    }
    let mut body = format!("TRACE {} HTTP/1.{}\r\n", request.path(), request.minor_version).into_bytes();
    for (name, value) in request.fields() {
        if !SECRET.iter().any(|secret| name.eq_ignore_ascii_case(secret)) {
            super::response::push_line(&mut body, name.as_bytes(), value);
        }
    }
    body.extend_from_slice(b"\r\n");
    Some((200, b"content-type: message/http\r\n".to_vec(), body))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> RequestHead {
        let mut head = RequestHead::default();
        head.parse(format!("{text}\r\nHost: a\r\n\r\n").as_bytes()).unwrap().unwrap();
        head
    }

    #[test]
    fn via_grows_by_one_entry_a_hop() {
        let node = Pseudonym::new(0xab);
        let mut fields = HeaderMap::new();
        fields.append(VIA, HeaderValue::from_static("1.0 fred, 1.1 p.example.net"));
        forward(&mut fields, &request("GET / HTTP/1.0"), &node);
        forward(&mut fields, &RequestHead { http2: true, ..request("GET / HTTP/1.1") }, &node);
        add_via(&mut fields, Version::HTTP_2);
        let values: Vec<_> = fields.get_all(VIA).iter().collect();
        let ours = ["1.0 edge-00000000000000ab", "2 edge-00000000000000ab", "2 edge"];
        assert_eq!(values[0], "1.0 fred, 1.1 p.example.net");
        assert_eq!(values[1..], ours);
    }

    #[test]
    fn who_goes_round_is_noticed() {
        let node = Pseudonym::new(7);
        let goes_round = |via: &str| node.goes_round(&request(&format!("GET / HTTP/1.1\r\nVia: {via}")));
        let (own, other) = ("1.1 edge-0000000000000007", "2 edge-0000000000000008");
        assert!(!goes_round(
            "1.1 edge.example, 1.1  cedge, edge, 1.1 edge-, 1.1 edge-7, edge-0000000000000007 x"
        ));
        assert!(goes_round(own) && goes_round(&format!("1.1 a, {other} (x) ,{own} (y)")));
        assert!(!goes_round(&[other; limits::VIA_NODES_MAX - 1].join(" , ")));
        assert!(goes_round(&[other; limits::VIA_NODES_MAX].join(",")));
        assert!(goes_round(&["1.1 edge (x)"; limits::VIA_NODES_MAX].join(" , ")));
        assert!(!node.goes_round(&request("GET / HTTP/1.1")));
    }

    #[test]
    fn max_forwards_counts_down_to_the_last() {
        for (text, left, last) in [
            ("TRACE / HTTP/1.1\r\nMax-Forwards: 3", Some(3), false),
            ("OPTIONS / HTTP/1.1\r\nMax-Forwards: 0", Some(0), true),
            ("TRACE / HTTP/1.1\r\nMax-Forwards: 0", Some(0), true),
            ("TRACE / HTTP/1.1\r\nMax-Forwards: x", None, false),
            ("TRACE / HTTP/1.1", None, false),
            ("GET / HTTP/1.1\r\nMax-Forwards: 0", None, false),
            ("POST / HTTP/1.1\r\nMax-Forwards: 0", None, false),
        ] {
            let request = request(text);
            assert_eq!(forwards_left(&request), left, "{text}");
            assert_eq!(last_answer(&request).is_some(), last, "{text}");
        }
        let mut fields = HeaderMap::new();
        fields.insert(MAX_FORWARDS, HeaderValue::from_static("3"));
        forward(&mut fields, &request("OPTIONS * HTTP/1.1\r\nMax-Forwards: 3"), &Pseudonym::new(1));
        assert_eq!(fields[MAX_FORWARDS], "2");
    }

    #[test]
    fn a_trace_shows_the_request_but_no_secrets() {
        let text = "TRACE /x?y HTTP/1.1\r\nCookie: a\r\nX-A: 1\r\nauthorization: b\r\nMax-Forwards: 0";
        let (status, lines, body) = last_answer(&request(text)).unwrap();
        assert_eq!((status, lines.as_slice()), (200, &b"content-type: message/http\r\n"[..]));
        assert_eq!(body, b"TRACE /x?y HTTP/1.1\r\nX-A: 1\r\nMax-Forwards: 0\r\nHost: a\r\n\r\n");
    }
}
