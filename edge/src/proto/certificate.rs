//! Certificates as their files hold them: read, compared with their key, and chosen by the name a client asks for
//! (RFC 6066 section 3). No file is opened here.
//!
//! A client that names no host gets the first certificate of its address. A client that names a host for which
//! there is none is refused: the first certificate would not prove that host, and what is behind it may not be
//! meant for it. `*.example.com` stands for one label (RFC 6125 section 6.4.3).
#![forbid(unsafe_code)]

use crate::limits;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, Error, InconsistentKeys, SignatureAlgorithm};
use std::collections::HashMap;
use std::sync::Arc;

/// A certificate with its chain and key.
#[derive(Clone, Debug)]
pub struct Certificate {
    certified: Arc<CertifiedKey>,
    /// Names it proves, lower case; a wildcard begins with `*.`.
    pub names: Vec<String>,
    /// Valid from then, Unix seconds.
    pub from_s: u64,
    /// Valid until then, Unix seconds.
    pub until_s: u64,
}

/// What of a certificate's files is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The certificate file; in words.
    Certificate(String),
    /// The key file; in words.
    Key(String),
}

impl Certificate {
    /// Parses the contents of a PEM file of certificates, the server's own first, and of one with its private key;
    /// `ocsp` is the DER of an OCSP response to staple.
    ///
    /// # Errors
    /// What is wrong and what would be right, without the file's name.
    pub fn parse(
        chain: &[u8],
        key: &[u8],
        ocsp: Option<Vec<u8>>,
        provider: &CryptoProvider,
    ) -> Result<Self, Wrong> {
        let certificate = |why: &str| Wrong::Certificate(why.to_owned());
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|error| Wrong::Certificate(format!("is not PEM: {error}; write the chain as PEM")))?;
        let own = chain.first().ok_or_else(|| {
            certificate("holds no certificate; write the server's own first, then its chain")
        })?;
        let bytes = chain.iter().map(|certificate| certificate.len()).sum::<usize>()
            + ocsp.as_ref().map_or(0, Vec::len);
        if bytes > limits::CERTIFICATE_BYTES_MAX {
            return Err(Wrong::Certificate(format!(
                "holds a chain of {bytes} bytes with its OCSP response, at most {} are sent in a handshake; write \
                 the server's certificate and its intermediates alone",
                limits::CERTIFICATE_BYTES_MAX
            )));
        }
        let (from_s, until_s) = validity(own)
            .ok_or_else(|| certificate("begins with a certificate whose validity cannot be read"))?;
        let entity = webpki::EndEntityCert::try_from(own).map_err(|error| {
            Wrong::Certificate(format!("begins with a certificate that cannot be used: {error}"))
        })?;
        let names = entity.valid_dns_names().map(str::to_ascii_lowercase).collect();
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| {
            Wrong::Key(format!("holds no private key ({error}); write it as PEM, PKCS#8, PKCS#1 or SEC1"))
        })?;
        let key = provider.key_provider.load_private_key(key).map_err(|_| {
            Wrong::Key(
                "holds a key that is neither ECDSA (P-256, P-384), Ed25519 nor RSA of 2048 to 8192 bits"
                    .into(),
            )
        })?;
        let mut certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                return Err(Wrong::Key(
                    "is not the key of the certificate; name the key it was issued for".into(),
                ));
            }
            Err(Error::InconsistentKeys(_)) | Ok(()) => {}
            Err(error) => return Err(Wrong::Certificate(format!("cannot be used: {error}"))),
        }
        certified.ocsp = ocsp;
        Ok(Certificate { certified: Arc::new(certified), names, from_s, until_s })
    }

    /// The DER of the certificate itself.
    pub fn der(&self) -> &[u8] {
        self.certified.cert.first().map_or(&[], |certificate| certificate)
    }
}

/// The certificates of one address, found by name.
#[derive(Debug)]
pub struct Names {
    default: Arc<CertifiedKey>,
    /// By name; for a wildcard, by what follows `*`. More than one where key types differ.
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
}

impl Names {
    /// Of at least one certificate, the first being for clients that name none.
    pub fn new(certificates: &[Certificate]) -> Option<Self> {
        let mut names = Names {
            default: certificates.first()?.certified.clone(),
            exact: HashMap::new(),
            wildcard: HashMap::new(),
        };
        for certificate in certificates {
            for name in &certificate.names {
                let (map, name) = match name.strip_prefix('*') {
                    Some(rest) => (&mut names.wildcard, rest),
                    None => (&mut names.exact, name.as_str()),
                };
                map.entry(name.to_owned()).or_default().push(certificate.certified.clone());
            }
        }
        // A signature with RSA costs ten times as much: it is for clients that know nothing else.
        for of_name in names.exact.values_mut().chain(names.wildcard.values_mut()) {
            of_name.sort_by_key(|certified| certified.key.algorithm() == SignatureAlgorithm::RSA);
        }
        Some(names)
    }

    fn of(&self, name: &str) -> Option<&[Arc<CertifiedKey>]> {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let found = self.exact.get(&name).or_else(|| {
            let dot = name.find('.').filter(|&dot| dot > 0)?;
            self.wildcard.get(&name[dot..])
        });
        found.map(Vec::as_slice)
    }
}

impl ResolvesServerCert for Names {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let Some(name) = hello.server_name() else {
            return Some(self.default.clone());
        };
        let candidates = self.of(name)?;
        let fits = |certified: &&Arc<CertifiedKey>| {
            certified.key.choose_scheme(hello.signature_schemes()).is_some()
                && hello.cipher_suites().iter().any(|&suite| signs(suite, certified.key.algorithm()))
        };
        candidates.iter().find(fits).or(candidates.first()).cloned()
    }
}

/// Whether a handshake of this suite can be signed with such a key; in TLS 1.3 any can.
fn signs(suite: CipherSuite, algorithm: SignatureAlgorithm) -> bool {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256
        | CipherSuite::TLS13_AES_256_GCM_SHA384
        | CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => true,
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
        | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => algorithm == SignatureAlgorithm::RSA,
        _ => algorithm != SignatureAlgorithm::RSA,
    }
}

/// When a certificate begins and ends to be valid, in Unix seconds (RFC 5280 section 4.1).
fn validity(der: &[u8]) -> Option<(u64, u64)> {
    const SEQUENCE: u8 = 0x30;
    const VERSION: u8 = 0xa0;
    let (certificate, _) = element(der, SEQUENCE)?;
    let (mut fields, _) = element(certificate, SEQUENCE)?;
    if let Some((_, rest)) = element(fields, VERSION) {
        fields = rest;
    }
    // Serial number, signature algorithm, issuer.
    for tag in [2, SEQUENCE, SEQUENCE] {
        fields = element(fields, tag)?.1;
    }
    let (times, _) = element(fields, SEQUENCE)?;
    let (from_s, times) = time(times)?;
    let (until_s, _) = time(times)?;
    Some((from_s, until_s))
}

/// The content of the DER element that `der` starts with, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = der.split_first()?;
    let (&length, mut rest) = rest.split_first()?;
    if first != tag {
        return None;
    }
    let mut bytes = usize::from(length);
    if length >= 0x80 {
        let count = usize::from(length & 0x7f);
        if !(1..=4).contains(&count) {
            return None;
        }
        let (digits, after) = rest.split_at_checked(count)?;
        bytes = digits.iter().fold(0, |sum, &digit| sum << 8 | usize::from(digit));
        rest = after;
    }
    rest.split_at_checked(bytes)
}

/// A UTCTime or GeneralizedTime as RFC 5280 section 4.1.2.5 writes them, with seconds and in UTC.
fn time(der: &[u8]) -> Option<(u64, &[u8])> {
    let (text, rest, year_digits) = match element(der, 0x17) {
        Some((text, rest)) => (text, rest, 2),
        None => element(der, 0x18).map(|(text, rest)| (text, rest, 4))?,
    };
    let digits = text.strip_suffix(b"Z")?;
    if digits.len() != year_digits + 10 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |from: usize, count: usize| {
        digits[from..from + count].iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'))
    };
    let year = match (year_digits, number(0, year_digits)) {
        (2, year @ 50..) => 1900 + year,
        (2, year) => 2000 + year,
        (_, year) => year,
    };
    let [month, day, hour, minute, second] = [0, 2, 4, 6, 8].map(|at| number(year_digits + at, 2));
    // Days since 1970 (Howard Hinnant, chrono-compatible low-level date algorithms): years begin in March.
    let shifted_year = year - i64::from(month <= 2);
    let (era, of_era) = (shifted_year.div_euclid(400), shifted_year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    // Before 1970: as good as 1970.
    Some((u64::try_from(seconds).unwrap_or(0), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(names: &[&str], algorithm: &'static rcgen::SignatureAlgorithm) -> (String, String) {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 2, 29);
        params.not_after = rcgen::date_time_ymd(2050, 1, 1);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn parse(chain: &str, key: &str) -> Result<Certificate, Wrong> {
        Certificate::parse(chain.as_bytes(), key.as_bytes(), None, &rustls::crypto::ring::default_provider())
    }

    #[test]
    fn names_and_validity_are_read_and_the_key_is_compared() {
        let (chain, key) = made(&["A.test", "*.b.test"], &rcgen::PKCS_ECDSA_P256_SHA256);
        let certificate = parse(&chain, &key).unwrap();
        assert_eq!(certificate.names, ["a.test", "*.b.test"]);
        // date -u -d 2020-02-29 +%s; date -u -d 2050-01-01 +%s
        assert_eq!((certificate.from_s, certificate.until_s), (1_582_934_400, 2_524_608_000));
        let (_, other) = made(&["a.test"], &rcgen::PKCS_ECDSA_P256_SHA256);
        assert!(matches!(parse(&chain, &other), Err(Wrong::Key(why)) if why.contains("is not the key")));
        assert!(matches!(parse(&chain, "no key"), Err(Wrong::Key(_))));
        assert!(
            matches!(parse("nothing", &key), Err(Wrong::Certificate(why)) if why.contains("no certificate"))
        );
        let long = chain.repeat(limits::CERTIFICATE_BYTES_MAX / certificate.der().len() + 1);
        assert!(matches!(parse(&long, &key), Err(Wrong::Certificate(why)) if why.contains("at most 32768")));
        let cut = chain.replacen("MII", "MIA", 1);
        assert!(matches!(parse(&cut, &key), Err(Wrong::Certificate(_))));
    }

    #[test]
    fn a_name_finds_its_own_certificate_then_a_wildcard_of_one_label() {
        let certificates: Vec<Certificate> = [&["a.test", "*.b.test"][..], &["c.b.test", "d.test"]]
            .into_iter()
            .map(|names| {
                let (chain, key) = made(names, &rcgen::PKCS_ED25519);
                parse(&chain, &key).unwrap()
            })
            .collect();
        let names = Names::new(&certificates).unwrap();
        let of = |name: &str| {
            let found = names.of(name)?;
            certificates.iter().position(|certificate| Arc::ptr_eq(&certificate.certified, &found[0]))
        };
        for (name, expected) in [
            ("a.test", Some(0)),
            ("A.TEST.", Some(0)),
            ("x.b.test", Some(0)),
            ("c.b.test", Some(1)),
            ("d.test", Some(1)),
            ("b.test", None),
            (".b.test", None),
            ("x.y.b.test", None),
            ("x.a.test", None),
            ("", None),
            ("test", None),
        ] {
            assert_eq!(of(name), expected, "{name}");
        }
        assert!(Names::new(&[]).is_none());
    }

    #[test]
    fn times_of_both_forms() {
        let at = |tag: u8, text: &str| {
            let mut der = vec![tag, text.len() as u8];
            der.extend_from_slice(text.as_bytes());
            time(&der).map(|(seconds, _)| seconds)
        };
        assert_eq!(at(0x17, "700101000000Z"), Some(0));
        assert_eq!(at(0x17, "491231235959Z"), Some(2_524_607_999));
        assert_eq!(at(0x17, "500101000000Z"), Some(0), "1950");
        assert_eq!(at(0x18, "20000229120000Z"), Some(951_825_600));
        assert_eq!(at(0x18, "99991231235959Z"), Some(253_402_300_799));
        for wrong in ["", "Z", "7001010000Z", "700101000000", "70010100000aZ"] {
            assert_eq!(at(0x17, wrong), None, "{wrong}");
        }
        assert_eq!(element(&[0x30, 0x85, 1, 1, 1, 1, 1], 0x30), None);
        assert_eq!(element(&[0x30, 0x82, 1], 0x30), None);
    }
}
