//! Certificates and ticket keys as they are handed to workers.

use super::{Scratch, config};
use crate::clock;
use crate::config::{Config, Https};
use crate::control::certificates::Certificates;
use crate::limits;
use crate::proto::hello::Offer;
use crate::proto::staple;
use rustls::server::ProducesTickets;
use std::sync::Arc;

/// A certificate for this name in files of this directory, and a configuration that names them.
fn site(directory: &Scratch, name: &str) -> Config {
    let (certificate, key) = (directory.path().join("site.crt"), directory.path().join("site.key"));
    let pair = rcgen::KeyPair::generate().unwrap();
    let made = rcgen::CertificateParams::new([name.to_owned()]).unwrap().self_signed(&pair).unwrap();
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
    let config = site(&directory, "a.test");
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

/// The file of a response may be renewed late, or never.
#[test]
fn an_ocsp_response_is_stapled_until_it_expires() {
    let directory = Scratch::new();
    let mut config = site(&directory, "a.test");
    let pair = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(["a.test".to_owned()]).unwrap();
    params.serial_number = Some(rcgen::SerialNumber::from(vec![1, 2, 3]));
    std::fs::write(&config.https[0].certificate, params.self_signed(&pair).unwrap().pem()).unwrap();
    std::fs::write(&config.https[0].key, pair.serialize_pem()).unwrap();
    let path = directory.path().join("site.ocsp");
    // date -u -d 2050-01-01 +%s
    let (next_update, until_s) = ("20500101000000Z", 2_524_608_000);
    std::fs::write(&path, staple::tests::response(&[1, 2, 3], next_update)).unwrap();
    config.https[0].ocsp = Some(path);
    let mut certificates = Certificates::load(&config).unwrap();
    let said = |certificates: &Certificates, now_s| certificates.status(now_s)[0]["ocsp"].clone();
    assert_eq!(said(&certificates, until_s - 1), "stapled");
    let before = certificates.policies();
    assert!(certificates.lapse(until_s - 1).is_empty());
    assert!(Arc::ptr_eq(&before, &certificates.policies()));
    let lines = certificates.lapse(until_s);
    assert!(lines.len() == 1 && lines[0].contains("site.ocsp has expired"), "{lines:?}");
    assert!(!Arc::ptr_eq(&before, &certificates.policies()), "workers get others");
    assert_eq!(said(&certificates, until_s), "expired");
    assert!(certificates.lapse(until_s + 5).is_empty(), "once is enough");
}

#[test]
fn a_broken_file_keeps_no_other_certificate_from_being_renewed() {
    let (broken, renewed) = (Scratch::new(), Scratch::new());
    let mut config = site(&broken, "a.test");
    config.https.extend(site(&renewed, "b.test").https);
    let mut certificates = Certificates::load(&config).unwrap();
    let names = |certificates: &Certificates| {
        let status = certificates.status(0);
        [0, 1].map(|at| status[at]["names"][0].as_str().unwrap().to_owned())
    };
    std::fs::write(&config.https[0].key, "no key").unwrap();
    site(&renewed, "c.test");
    assert!(certificates.changed());
    certificates.reload(&config, true).unwrap();
    assert_eq!(names(&certificates), ["a.test", "c.test"]);
    let told = certificates.told(0);
    assert!(told.len() == 1 && told[0].contains("served as it was") && told[0].contains("no private key"));
    assert!(!certificates.changed(), "both were looked at");
    // A whole configuration is right or changes nothing.
    site(&renewed, "d.test");
    assert!(certificates.reload(&config, false).is_err_and(|why| why.contains("no private key")));
    assert_eq!(names(&certificates), ["a.test", "c.test"]);
    site(&broken, "e.test");
    assert!(certificates.changed());
    certificates.reload(&config, true).unwrap();
    assert_eq!(names(&certificates), ["e.test", "d.test"]);
    assert!(certificates.told(0).is_empty());
}
