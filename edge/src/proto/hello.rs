//! What a client of TLS offers, read from its ClientHello before anything is worked out for it. Refuses nothing: what is
//! wrong with it the handshake finds out.
#![forbid(unsafe_code)]

use super::policy::{self, HTTP2};
use rustls::CipherSuite;
use rustls::server::Acceptor;

/// What is chosen by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// HTTP/2, by ALPN (RFC 7301).
    pub http2: bool,
    /// Of the ciphers that we have, ChaCha20 first: it has no hardware for AES.
    pub chacha20: bool,
}

/// The offer of the ClientHello that these records begin with, nothing if it is none. `None`: more of it has to come.
pub fn read(mut records: &[u8]) -> Option<Offer> {
    let mut acceptor = Acceptor::default();
    while !records.is_empty() {
        let read = acceptor.read_tls(&mut records);
        if !matches!(read, Ok(1..)) {
            return Some(Offer::default());
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let hello = accepted.client_hello();
                return Some(Offer {
                    http2: hello.alpn().is_some_and(|mut names| names.any(|name| name == HTTP2)),
                    chacha20: prefers_chacha20(hello.cipher_suites()),
                });
            }
            Err(_) => return Some(Offer::default()),
        }
    }
    None
}

fn prefers_chacha20(offered: &[CipherSuite]) -> bool {
    let known = |offered: &CipherSuite| policy::CIPHERS.iter().find(|(_, cipher)| cipher == offered);
    offered.iter().find_map(known).is_some_and(|(name, _)| name.contains("CHACHA20"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    use std::sync::Arc;

    /// The first flight of rustls's client that offers these protocols, and the cipher of this number first.
    fn hello(protocols: &[&[u8]], first: usize) -> Vec<u8> {
        let mut provider = policy::provider();
        let at = |suite| provider.cipher_suites.iter().position(|known| known.suite() == suite);
        let at = at(policy::CIPHERS[first].1).unwrap();
        provider.cipher_suites.swap(0, at);
        let mut config = ClientConfig::builder_with_provider(provider.into())
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
        for (protocols, http2) in cases {
            for (first, (name, _)) in policy::CIPHERS.iter().enumerate() {
                let offer = Some(Offer { http2, chacha20: name.contains("CHACHA20") });
                let whole = hello(protocols, first);
                for records in [whole.clone(), in_records(&whole, 50), in_records(&whole, 1)] {
                    assert_eq!(read(&records), offer, "{protocols:?} {name}");
                    assert_eq!(read(&[&records, &b"more"[..]].concat()), offer);
                    assert!((0..records.len()).step_by(7).all(|end| read(&records[..end]).is_none()));
                }
            }
        }
    }

    /// Browsers offer a cipher first that nobody has (RFC 8701).
    #[test]
    fn unknown_ciphers_are_not_preferred() {
        let ours = |at: usize| policy::CIPHERS[at].1;
        assert!(prefers_chacha20(&[CipherSuite::Unknown(0x0a0a), ours(2), ours(0)]));
        assert!(!prefers_chacha20(&[CipherSuite::Unknown(0x0a0a), ours(1), ours(2)]));
        assert!(!prefers_chacha20(&[CipherSuite::Unknown(0x0a0a)]));
    }

    #[test]
    fn what_is_no_client_hello_is_left_to_the_handshake_at_once() {
        for bytes in [
            &b"GET / HTTP/1.1"[..],
            b"\x16\x03\x01\x00\x00",
            b"\x16\x03\x01\x48\x01",
            b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
            b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
            b"\x15\x03\x01\x00\x02\x02\x28",
        ] {
            assert_eq!(read(bytes), Some(Offer::default()), "{bytes:?}");
        }
    }
}
