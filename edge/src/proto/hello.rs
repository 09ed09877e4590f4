//! What a client of TLS offers, read from its ClientHello before anything is worked out for it (RFC 8446 sections 4.1.2
//! and 5.1, RFC 7301 section 3.1). Refuses nothing: what is wrong with it the handshake finds out.
#![forbid(unsafe_code)]

use std::borrow::Cow;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const ALPN: [u8; 2] = [0, 16];
/// Bytes of the fragment of a record (RFC 8446 section 5.1).
const FRAGMENT_BYTES_MAX: usize = 1 << 14;

/// Whether the ClientHello that these records begin with offers this protocol by ALPN. `None`: more of it has to come.
pub fn offers(records: &[u8], protocol: &[u8]) -> Option<bool> {
    let mut message: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    let mut rest = records;
    loop {
        if let [kind, length @ ..] = &message[..] {
            if *kind != CLIENT_HELLO {
                return Some(false);
            }
            if let Some(hello) = vector(&mut { length }, 3) {
                return Some(names(hello, protocol).unwrap_or(false));
            }
        }
        let fragment = match rest {
            [HANDSHAKE, _, _, high, low, after @ ..] => {
                let bytes = usize::from(u16::from_be_bytes([*high, *low]));
                if bytes == 0 || bytes > FRAGMENT_BYTES_MAX {
                    return Some(false);
                }
                let (fragment, next) = after.split_at_checked(bytes)?;
                rest = next;
                fragment
            }
            [] | [HANDSHAKE, ..] => return None,
            _ => return Some(false),
        };
        if message.is_empty() {
            message = Cow::Borrowed(fragment);
        } else {
            message.to_mut().extend_from_slice(fragment);
        }
    }
}

/// Whether the protocol is among those named; `None`: that cannot be read.
fn names(hello: &[u8], protocol: &[u8]) -> Option<bool> {
    // The version and the random number; then the session, ciphers, compression.
    let mut rest = hello.get(2 + 32..)?;
    for width in [1, 2, 1] {
        vector(&mut rest, width)?;
    }
    let mut extensions = vector(&mut rest, 2)?;
    while let Some((kind, after)) = extensions.split_first_chunk() {
        extensions = after;
        let mut body = vector(&mut extensions, 2)?;
        if *kind == ALPN {
            let mut list = vector(&mut body, 2)?;
            while !list.is_empty() {
                if vector(&mut list, 1)? == protocol {
                    return Some(true);
                }
            }
        }
    }
    Some(false)
}

/// Takes the vector that comes next, whose length stands before it in so many bytes (RFC 8446 section 3.4).
fn vector<'a>(rest: &mut &'a [u8], width: usize) -> Option<&'a [u8]> {
    let (length, after) = rest.split_at_checked(width)?;
    let bytes = length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    let (vector, after) = after.split_at_checked(bytes)?;
    *rest = after;
    Some(vector)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::ServerName;
    use rustls::server::Acceptor;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    use std::sync::Arc;

    /// The first flight of rustls's client that offers these.
    fn hello(protocols: &[&[u8]]) -> Vec<u8> {
        let provider = Arc::new(crate::proto::policy::provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        let name = ServerName::try_from("a.test").unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut records = Vec::new();
        client.write_tls(&mut records).unwrap();
        records
    }

    /// The same message in records of so many bytes.
    fn in_records(hello: &[u8], bytes: usize) -> Vec<u8> {
        let record = |part: &[u8]| [&[22, 3, 1], &(part.len() as u16).to_be_bytes()[..], part].concat();
        hello[5..].chunks(bytes).flat_map(record).collect()
    }

    #[test]
    fn what_is_offered_is_found_however_it_is_split_and_not_before_all_has_come() {
        let cases: [(&[&[u8]], bool); 6] = [
            (&[], false),
            (&[b"http/1.1"], false),
            (&[b"h2"], true),
            (&[b"h2", b"http/1.1"], true),
            (&[b"http/1.1", b"h3", b"h2"], true),
            (&[b"h2c", b"h"], false),
        ];
        for (protocols, expected) in cases {
            let whole = hello(protocols);
            for records in [whole.clone(), in_records(&whole, 50), in_records(&whole, 1)] {
                assert_eq!(offers(&records, b"h2"), Some(expected), "{protocols:?}");
                assert_eq!(offers(&[&records, &b"more"[..]].concat(), b"h2"), Some(expected));
                assert!((0..records.len()).all(|end| offers(&records[..end], b"h2").is_none()));
            }
        }
    }

    #[test]
    fn what_is_no_client_hello_is_left_to_the_handshake_at_once() {
        for bytes in [
            &b"GET / HTTP/1.1"[..],
            b"\x16\x03\x01\x00\x00",
            b"\x16\x03\x01\x40\x01",
            b"\x16\x03\x01\x00\x01\x02",
            b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
            b"\x15\x03\x01\x00\x02\x02\x28",
        ] {
            assert_eq!(offers(bytes, b"h2"), Some(false), "{bytes:?}");
        }
    }

    /// Whatever byte is another one: where rustls reads a ClientHello, it reads there what is found here.
    #[test]
    fn rustls_reads_the_same() {
        let whole = hello(&[b"x", b"h2"]);
        let mut read = 0;
        for at in 0..whole.len() {
            for change in [1, 0x80, 0xff] {
                let mut changed = whole.clone();
                changed[at] ^= change;
                let mut acceptor = Acceptor::default();
                acceptor.read_tls(&mut &changed[..]).unwrap();
                if let Ok(Some(accepted)) = acceptor.accept() {
                    read += 1;
                    let alpn = accepted.client_hello().alpn();
                    let theirs = alpn.is_some_and(|mut names| names.any(|name| name == b"h2"));
                    assert_eq!(offers(&changed, b"h2"), Some(theirs), "{at} ^ {change}");
                }
            }
        }
        assert!(read > whole.len(), "{read}");
    }
}
