//! The TLS layer against rustls's own client, in memory: whatever the split of the bytes, what one side writes the
//! other reads; whatever is changed, repeated or cut is refused.

mod tls_pair;

use edge::proto::records::Refused;
use edge::proto::tickets::Secrets;
use edge::proto::tls::{Alpn, Cipher, Failed, Tls};
use proptest::prelude::*;
use rustls::{CipherSuite, ProtocolVersion};
use std::io::{Read, Write};
use tls_pair::{Client, Site, client_config, pump, server};

#[test]
fn both_versions_and_every_cipher_carry_bytes_both_ways() {
    let site = Site::new(&["a.test"]);
    for (suite, cipher, tls13) in [
        (CipherSuite::TLS13_AES_128_GCM_SHA256, Cipher::Aes128, true),
        (CipherSuite::TLS13_AES_256_GCM_SHA384, Cipher::Aes256, true),
        (CipherSuite::TLS13_CHACHA20_POLY1305_SHA256, Cipher::Chacha20, true),
        (CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, Cipher::Aes128, false),
        (CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, Cipher::Aes256, false),
        (CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, Cipher::Chacha20, false),
    ] {
        let mut client = Client::new(client_config(&site, Some(suite)), "a.test");
        let mut server = server(&site);
        let agreed = pump(&mut client, &mut server, usize::MAX).unwrap().expect("a handshake");
        assert_eq!((agreed.cipher, agreed.tls13, agreed.resumed), (cipher, tls13, false), "{suite:?}");
        assert_eq!(agreed.alpn, Alpn::Http2);
        let body: Vec<u8> = (0..200_000_u32).map(|i| i as u8).collect();
        client.session.writer().write_all(b"request").unwrap();
        server.send(&body);
        pump(&mut client, &mut server, usize::MAX).unwrap();
        assert_eq!(server.received, b"request");
        assert_eq!(client.received, body);
        // Both close in order.
        assert!(server.tls.close() && !server.tls.close());
        client.session.send_close_notify();
        pump(&mut client, &mut server, usize::MAX).unwrap();
        assert!(server.tls.peer_closed() && client.closed);
    }
}

#[test]
fn a_session_is_resumed_by_a_ticket_of_another_worker_until_the_keys_are_gone() {
    let site = Site::new(&["a.test"]);
    for tls13 in [true, false] {
        let suite = if tls13 {
            CipherSuite::TLS13_AES_128_GCM_SHA256
        } else {
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        };
        let mut secrets = Secrets::new().unwrap();
        let config = client_config(&site, Some(suite));
        let resumed = |secrets: &Secrets, name: &str| {
            let mut client = Client::new(config.clone(), "a.test");
            let mut server = tls_pair::server_with(&site, secrets, name, None);
            pump(&mut client, &mut server, usize::MAX).unwrap().expect("a handshake").resumed
        };
        assert!(!resumed(&secrets, "one"));
        assert!(resumed(&secrets, "one"));
        assert!(!resumed(&secrets, "another policy"));
        assert!(!resumed(&secrets, "one"), "the ticket of the other policy opens nothing here");
        secrets.rotate().unwrap();
        assert!(resumed(&secrets, "one"), "the key before is still known");
        assert!(resumed(&secrets, "one"));
        secrets.rotate().unwrap();
        secrets.rotate().unwrap();
        assert!(!resumed(&secrets, "one"));
    }
}

#[test]
fn key_updates_of_either_side_change_nothing_for_the_reader() {
    let site = Site::new(&["a.test"]);
    let mut client = Client::new(client_config(&site, None), "a.test");
    let mut server = server(&site);
    pump(&mut client, &mut server, usize::MAX).unwrap();
    let mut expected = Vec::new();
    for round in 0..100_u8 {
        client.session.refresh_traffic_keys().unwrap();
        client.session.writer().write_all(&[round]).unwrap();
        server.send(&[round, round]);
        pump(&mut client, &mut server, usize::MAX).unwrap();
        expected.push(round);
    }
    assert_eq!(server.received, expected);
    assert_eq!(client.received.len(), 200);
}

#[test]
fn floods_of_key_updates_and_empty_records_are_ended() {
    let site = Site::new(&["a.test"]);
    let mut client = Client::new(client_config(&site, None), "a.test");
    let mut server = server(&site);
    pump(&mut client, &mut server, usize::MAX).unwrap();
    let mut result = Ok(None);
    for _ in 0..100 {
        client.session.refresh_traffic_keys().unwrap();
        result = pump(&mut client, &mut server, usize::MAX);
        if result.is_err() {
            break;
        }
    }
    assert_eq!(result, Err(Failed::Flood));
}

#[test]
fn names_choose_the_certificate_and_unknown_ones_are_refused_with_their_own_alert() {
    let site = Site::new(&["a.test", "*.b.test"]);
    for (name, known) in [("a.test", true), ("x.b.test", true), ("b.test", false), ("other.test", false)] {
        for tls12 in [false, true] {
            let suite = tls12.then_some(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256);
            let mut client = Client::new(client_config(&site, suite), name);
            let mut server = server(&site);
            let result = pump(&mut client, &mut server, usize::MAX);
            if known {
                assert!(result.unwrap().is_some(), "{name}");
            } else {
                assert_eq!(result, Err(Failed::Name), "{name}");
                assert_eq!(server.sent.last(), Some(&112), "unrecognized_name");
            }
        }
    }
    // A client that names no host is met by the first certificate.
    let mut client = Client::new(client_config(&site, None), "127.0.0.1");
    let mut server = server(&site);
    let _ = pump(&mut client, &mut server, usize::MAX);
    assert!(client.saw_certificate());
}

#[test]
fn early_data_and_versions_of_old_are_not_taken() {
    let site = Site::new(&["a.test"]);
    let mut config = (*client_config(&site, None)).clone();
    config.enable_early_data = true;
    let config = std::sync::Arc::new(config);
    let secrets = Secrets::new().unwrap();
    for expected in [None, None] {
        let mut client = Client::new(config.clone(), "a.test");
        let mut server = tls_pair::server_with(&site, &secrets, "one", None);
        assert_eq!(client.session.early_data().map(|_| ()), expected, "no ticket allows it");
        pump(&mut client, &mut server, usize::MAX).unwrap();
        assert_eq!(client.session.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    }
    // TLS 1.1: a ClientHello with legacy_version 3.2 and no supported_versions.
    let mut hello = vec![22, 3, 1, 0, 47, 1, 0, 0, 43, 3, 2];
    hello.extend_from_slice(&[7; 32]);
    hello.extend_from_slice(&[0, 0, 4, 0xc0, 0x2b, 0xc0, 0x2f, 1, 0]);
    assert_eq!(hello.len(), 52);
    let mut server = server(&site);
    assert!(matches!(server.give(&mut hello), Err(Failed::Handshake(_))));
    assert_eq!(server.take()[..5], [21, 3, 3, 0, 2], "an alert");
}

#[test]
fn a_client_certificate_is_asked_for_and_checked_where_configured() {
    let site = Site::new(&["a.test"]);
    let authority = tls_pair::Authority::new();
    let secrets = Secrets::new().unwrap();
    let attempt = |config: std::sync::Arc<rustls::ClientConfig>| {
        let mut client = Client::new(config, "a.test");
        let mut server = tls_pair::server_with(&site, &secrets, "one", Some(authority.pem().as_bytes()));
        pump(&mut client, &mut server, usize::MAX)
    };
    assert!(attempt(authority.client(&site)).unwrap().is_some());
    assert!(attempt(client_config(&site, None)).is_err(), "none was shown");
    assert!(attempt(tls_pair::Authority::new().client(&site)).is_err(), "of another authority");
}

#[test]
fn garbage_and_plain_http_end_in_an_alert() {
    let site = Site::new(&["a.test"]);
    for bytes in [&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], &[22, 3, 1, 0xff, 0xff, 0, 0, 0], &[0; 40]] {
        let mut server = server(&site);
        assert!(server.give(&mut bytes.to_vec()).is_err(), "{bytes:?}");
        assert!(server.give(&mut b"more".to_vec()).is_ok_and(|agreed| agreed.is_none()), "dropped");
    }
    let mut server = server(&site);
    let mut endless = vec![22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff];
    endless.resize(64 * 1024, 0);
    assert!(server.give(&mut endless).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..Default::default() })]

    #[test]
    fn the_split_of_the_bytes_is_no_matter(
        step in 1_usize..6000,
        tls12 in any::<bool>(),
        up in proptest::collection::vec(1_usize..40_000, 0..4),
        down in proptest::collection::vec(1_usize..40_000, 0..4),
    ) {
        let site = Site::shared();
        let suite = tls12.then_some(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256);
        let mut client = Client::new(client_config(site, suite), "a.test");
        let mut server = server(site);
        let (mut asked, mut answered) = (0, 0);
        for bytes in up {
            client.session.writer().write_all(&vec![1; bytes]).unwrap();
            pump(&mut client, &mut server, step).unwrap();
            asked += bytes;
        }
        pump(&mut client, &mut server, step).unwrap();
        for bytes in down {
            server.send(&vec![2; bytes]);
            pump(&mut client, &mut server, step).unwrap();
            answered += bytes;
        }
        prop_assert_eq!(server.received.len(), asked);
        prop_assert_eq!(client.received.len(), answered);
    }

    #[test]
    fn a_changed_byte_is_refused_and_nothing_of_its_record_passes(at in 0_usize..1000, bit in 0_u8..8) {
        let site = Site::shared();
        let mut client = Client::new(client_config(site, None), "a.test");
        let mut server = server(site);
        pump(&mut client, &mut server, usize::MAX).unwrap();
        client.session.writer().write_all(&[5; 900]).unwrap();
        let mut record = client.take();
        let at = at % record.len();
        record[at] ^= 1 << bit;
        let result = server.give(&mut record);
        // The version bytes mean nothing; a longer length waits for what will not come.
        if !(1..5).contains(&at) {
            prop_assert!(matches!(result, Err(Failed::Record(Refused::Mac | Refused::Unexpected))));
        }
        if at != 1 && at != 2 {
            prop_assert!(server.received.is_empty());
        }
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), established in any::<bool>()) {
        let site = Site::shared();
        let mut server = server(site);
        if established {
            let mut client = Client::new(client_config(site, None), "a.test");
            pump(&mut client, &mut server, usize::MAX).unwrap();
        }
        let _ = server.give(&mut bytes.clone());
        let _ = server.take();
        server.tls.close();
    }
}

/// The layer is small where it is many.
#[test]
fn a_fresh_layer_holds_no_buffers() {
    assert!(size_of::<Tls>() <= 96, "{}", size_of::<Tls>());
}

#[test]
fn what_is_read_is_read_to_the_end() {
    let site = Site::new(&["a.test"]);
    let mut client = Client::new(client_config(&site, None), "a.test");
    let mut server = server(&site);
    pump(&mut client, &mut server, 100).unwrap();
    server.send(b"x");
    pump(&mut client, &mut server, 1).unwrap();
    let mut rest = Vec::new();
    let _ = client.session.reader().read_to_end(&mut rest);
    assert_eq!((client.received.as_slice(), rest.len()), (&b"x"[..], 0));
}
