//! Certificates and ticket keys as they are handed to workers.

use super::{Scratch, config};
use crate::clock;
use crate::config::{Config, Https};
use crate::control::certificates::Certificates;
use crate::limits;
use crate::proto::hello::Offer;
use rustls::server::ProducesTickets;
use std::sync::Arc;

/// A certificate in files of this directory, and a configuration that names them.
fn site(directory: &Scratch) -> Config {
    let (certificate, key) = (directory.path().join("site.crt"), directory.path().join("site.key"));
    let pair = rcgen::KeyPair::generate().unwrap();
    let made = rcgen::CertificateParams::new(["a.test".to_owned()]).unwrap().self_signed(&pair).unwrap();
    std::fs::write(&certificate, made.pem()).unwrap();
    std::fs::write(&key, pair.serialize_pem()).unwrap();
    let entry =
        Https { address: "127.0.0.1:443".parse().unwrap(), certificate, key, ocsp: None, client_ca: None };
    Config { https: vec![entry], ..config(directory.path(), &[]) }
}

fn tickets(certificates: &Certificates) -> Arc<dyn ProducesTickets> {
    certificates.policies().addresses[0].config(Offer::default(), true).ticketer.clone()
}

/// Files may be gone, or no longer be readable by the account that the node runs as.
#[test]
fn keys_of_tickets_change_whatever_has_become_of_the_files() {
    let directory = Scratch::new();
    let config = site(&directory);
    let mut certificates = Certificates::load(&config).unwrap();
    std::fs::remove_file(&config.https[0].certificate).unwrap();
    let now_ms = clock::now().mono_ms;
    assert!(!certificates.rotate(now_ms), "it has its time");
    let first = tickets(&certificates);
    let mut now_ms = now_ms;
    for _ in 0..2 {
        now_ms += limits::TICKET_ROTATION_S * 1000;
        assert!(certificates.rotate(now_ms));
    }
    let ticket = first.encrypt(b"state").unwrap();
    assert_eq!(first.decrypt(&ticket).as_deref(), Some(&b"state"[..]));
    assert_eq!(tickets(&certificates).decrypt(&ticket), None, "two keys later it resumes nothing");
    let http1 = certificates.policies().addresses[0].config(Offer::default(), false).ticketer.clone();
    assert!(Arc::ptr_eq(&tickets(&certificates), &http1));
}
