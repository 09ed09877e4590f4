//! `[[listen.https]]` and `[tls]`: addresses that speak TLS, their certificates, and what clients may agree on.
//! Files are read here only to say early what is wrong with them; who serves them reads them again.
#![forbid(unsafe_code)]

use super::read::{Item, Section};
use super::{Files, Https, Tls, Transport, value};
use crate::limits;
use crate::proto::certificate::{Certificate, Wrong};
use crate::proto::policy;
use crate::proto::request::WEBSOCKET;
use std::path::PathBuf;

const RIGHT_FILE: &str = "write the path of a PEM file";
const RIGHT_RESPONSE: &str = "write the path of an OCSP response in DER, or remove the key";

/// Every entry of `[[listen.https]]`.
pub(super) fn entries(item: &Item<'_>, files: &dyn Files) -> Option<Vec<Https>> {
    let items = item.list("write [[listen.https]] with address, certificate and key")?;
    if items.len() > limits::CERTIFICATES_MAX {
        let max = limits::CERTIFICATES_MAX;
        item.report(&format!("{} certificates are too many; write at most {max}", items.len()));
        return None;
    }
    let mut good: Vec<Https> = Vec::new();
    for item in &items {
        let Some(entry) = entry(item, files) else { continue };
        let same_address = |other: &&Https| other.address == entry.address;
        if good.iter().find(same_address).is_some_and(|other| other.client_ca != entry.client_ca) {
            item.report(
                "another certificate of this address has another client_ca, and who may connect would depend on \
                 a name the client chooses; write the same for both, or another address",
            );
        }
        good.push(entry);
    }
    (good.len() == items.len()).then_some(good)
}

fn entry(item: &Item<'_>, files: &dyn Files) -> Option<Https> {
    let section = item.section(&["address", "certificate", "key", "ocsp", "client_ca"])?;
    let address = section
        .require("address", "address = \"0.0.0.0:443\"")
        .and_then(|item| item.parse("write an address such as \"0.0.0.0:443\"", value::listen_address));
    let certificate = section
        .require("certificate", "certificate = \"/etc/edge/site.crt\"")
        .and_then(|item| Some((file(&item, files, RIGHT_FILE)?, item)));
    let key = section
        .require("key", "key = \"/etc/edge/site.key\"")
        .and_then(|item| Some((file(&item, files, RIGHT_FILE)?, item)));
    let ocsp = optional_file(&section, "ocsp", files, RIGHT_RESPONSE);
    let client_ca = optional_file(&section, "client_ca", files, RIGHT_FILE);
    let ((certificate, chain), certificate_item) = certificate?;
    let ((key, secret), key_item) = key?;
    let ((ocsp, staple), client_ca) = (ocsp?.unzip(), client_ca?);
    match Certificate::parse(&chain, &secret, staple, &policy::provider()) {
        Ok(parsed) => {
            warn_of_validity(&certificate_item, &certificate, &parsed, files.unix_s());
            if let (Some(why), Some(item), Some(path)) =
                (parsed.staple.left_out(files.unix_s()), section.get("ocsp"), &ocsp)
            {
                item.warn(&format!("{} {why}", path.display()));
            }
        }
        Err(Wrong::Certificate(why)) => {
            certificate_item.report(&format!("{} {why}", certificate.display()));
            return None;
        }
        Err(Wrong::Key(why)) => {
            key_item.report(&format!("{} {why}", key.display()));
            return None;
        }
        Err(Wrong::Ocsp(why)) => {
            if let (Some(item), Some(path)) = (section.get("ocsp"), &ocsp) {
                item.report(&format!("{} {why}", path.display()));
            }
            return None;
        }
    }
    if let Some((path, pem)) = &client_ca
        && let Err(why) = policy::client_authorities(pem)
        && let Some(item) = section.get("client_ca")
    {
        item.report(&format!("{} {why}; {RIGHT_FILE} with the certificates of authorities", path.display()));
    }
    Some(Https { address: address?, certificate, key, ocsp, client_ca: client_ca.map(|(path, _)| path) })
}

/// A certificate that is not valid now is no mistake of the file: the node has to start all the same.
fn warn_of_validity(item: &Item<'_>, path: &std::path::Path, certificate: &Certificate, now_s: u64) {
    let path = path.display();
    if certificate.names.is_empty() {
        item.warn(&format!(
            "{path} names no host as subjectAltName, so it is for clients alone that name none; have it issued with \
             its names there"
        ));
    }
    if certificate.until_s < now_s {
        let days = (now_s - certificate.until_s) / 86_400;
        item.warn(&format!("{path} expired {days} days ago, clients will refuse it; renew it"));
    } else if certificate.from_s > now_s {
        let days = (certificate.from_s - now_s) / 86_400;
        item.warn(&format!("{path} is not valid for another {days} days; see whether the clock is right"));
    } else if certificate.until_s - now_s < limits::CERTIFICATE_WARN_S {
        let days = (certificate.until_s - now_s) / 86_400;
        item.warn(&format!("{path} expires in {days} days; renew it"));
    }
}

fn file(item: &Item<'_>, files: &dyn Files, right: &str) -> Option<(PathBuf, Vec<u8>)> {
    let path = PathBuf::from(item.text(right)?);
    match files.read(&path) {
        Ok(bytes) => Some((path, bytes)),
        Err(why) => {
            item.report(&format!("{} cannot be read: {why}; {right}", path.display()));
            None
        }
    }
}

type Read = (PathBuf, Vec<u8>);

/// The outer `None`: it is there and cannot be read.
fn optional_file(section: &Section<'_>, key: &str, files: &dyn Files, right: &str) -> Option<Option<Read>> {
    section.get(key).map_or(Some(None), |item| file(&item, files, right).map(Some))
}

/// `[tls]`
pub(super) fn tls(item: Option<Item<'_>>) -> Option<Tls> {
    let Some(item) = item else { return Some(Tls::default()) };
    let section = item.section(&["min_version", "ciphers", "handshakes_per_second", "kernel"])?;
    let tls13_only = match section.get("min_version") {
        Some(item) => item.choice(&[("1.2", false), ("1.3", true)]),
        None => Some(false),
    };
    let ciphers = match section.get("ciphers") {
        Some(item) => {
            let names: Vec<&str> = policy::CIPHERS.iter().map(|(name, _)| *name).collect();
            let right = format!("write names out of {}", names.join(", "));
            let cipher = |text: &str| match policy::CIPHERS.iter().find(|(name, _)| *name == text) {
                Some((_, cipher)) => Ok(*cipher),
                None => Err(format!("{text:?} is not known or not safe; {right}")),
            };
            let list = item.values(&right, policy::CIPHERS.len(), cipher);
            if let (Some(list), Some(tls13_only)) = (&list, tls13_only)
                && !list.is_empty()
                && !list.iter().any(|cipher| policy::is_usable(*cipher, tls13_only))
            {
                item.report("none of these can be used with min_version; add TLS_AES_128_GCM_SHA256");
            }
            list
        }
        None => Some(Vec::new()),
    };
    let handshakes_per_second = match section.get("handshakes_per_second") {
        Some(item) => item.number(1..=u64::from(u32::MAX)).map(|most| Some(most as u32)),
        None => Some(None),
    };
    let kernel = match section.get("kernel") {
        Some(item) => item.choice(&[("auto", true), ("off", false)]),
        None => Some(Tls::default().kernel),
    };
    Some(Tls {
        tls13_only: tls13_only?,
        ciphers: ciphers?,
        handshakes_per_second: handshakes_per_second?,
        kernel: kernel?,
    })
}

/// What a route rules for the way clients come.
pub(super) fn transport(section: &Section<'_>) -> Option<Transport> {
    let hsts = match section.get("hsts") {
        Some(item) => item.parse("write \"max-age=31536000; includeSubDomains\"", hsts).map(Some),
        None => Some(None),
    };
    let https_redirect = section.flag("https_redirect");
    let client_certificate = section.flag("client_certificate");
    if https_redirect == Some(true)
        && client_certificate == Some(true)
        && let Some(item) = section.get("client_certificate")
    {
        item.report(
            "whoever comes without TLS has shown no certificate and is refused, not redirected; remove https_redirect \
             or this key",
        );
        return None;
    }
    let websocket = match section.get("upgrade") {
        Some(item) => {
            item.values("write [\"websocket\"]", 1, websocket).map(|protocols| !protocols.is_empty())
        }
        None => Some(false),
    };
    Some(Transport {
        hsts: hsts?,
        https_redirect: https_redirect?,
        client_certificate: client_certificate?,
        websocket: websocket?,
    })
}

fn websocket(protocol: &str) -> value::Parsed<()> {
    match protocol {
        WEBSOCKET => Ok(()),
        _ => Err(format!(
            "connections cannot go over to {protocol:?} here; write [\"websocket\"], or remove the key"
        )),
    }
}

/// The value of Strict-Transport-Security (RFC 6797 section 6.1).
fn hsts(text: &str) -> value::Parsed<String> {
    let mut directives = text.split(';').map(str::trim);
    let age = directives.next().and_then(|first| first.strip_prefix("max-age="));
    let is_age =
        age.is_some_and(|age| (1..=10).contains(&age.len()) && age.bytes().all(|b| b.is_ascii_digit()));
    if !is_age || !directives.all(|directive| matches!(directive, "includeSubDomains" | "preload")) {
        return Err(format!(
            "{text:?} is no such policy; write max-age= with seconds, then perhaps includeSubDomains and preload, \
             such as \"max-age=31536000; includeSubDomains\""
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_of_strict_transport_security() {
        for right in
            ["max-age=0", "max-age=31536000; includeSubDomains", "max-age=1;includeSubDomains; preload"]
        {
            assert_eq!(hsts(right).as_deref(), Ok(right));
        }
        for wrong in [
            "",
            "max-age",
            "max-age=",
            "max-age=-1",
            "includeSubDomains",
            "max-age=1; foo",
            "max-age=1\r\nx: y",
        ] {
            assert!(hsts(wrong).is_err(), "{wrong}");
        }
    }
}
