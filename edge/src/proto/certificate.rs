//! Certificates as their files hold them: read, compared with their key, and chosen by the name a client asks for
//! (RFC 6066 section 3). No file is opened here.
//!
//! A client that names no host gets the first certificate of its address. A client that names a host for which
//! there is none is refused: the first certificate would not prove that host, and what is behind it may not be
//! meant for it. `*.example.com` stands for one label (RFC 6125 section 6.4.3).
#![forbid(unsafe_code)]

use super::der::{EXPLICIT_0, INTEGER, SEQUENCE, element, time};
use super::staple::{self, Staple};
use crate::limits;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SigningKey};
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
    /// What there is to staple.
    pub staple: Staple,
}

/// What of a certificate's files is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The certificate file; in words.
    Certificate(String),
    /// The key file; in words.
    Key(String),
    /// The file with the OCSP response; in words.
    Ocsp(String),
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
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>().map_err(|error| {
                Wrong::Certificate(format!("is not PEM: {}; write the chain as PEM", words(error)))
            })?;
        let own = chain.first().ok_or_else(|| {
            certificate("holds no certificate in PEM; write the server's own first, then its chain")
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
        let (serial, from_s, until_s) = fields(own)
            .ok_or_else(|| certificate("begins with a certificate whose validity cannot be read"))?;
        let entity = webpki::EndEntityCert::try_from(own).map_err(|error| {
            Wrong::Certificate(format!("begins with a certificate that cannot be used: {error}"))
        })?;
        let names = entity.valid_dns_names().map(str::to_ascii_lowercase).collect();
        let staple = match &ocsp {
            Some(response) => staple::of(response, serial).map_err(|why| Wrong::Ocsp(why.into()))?,
            None => Staple::None,
        };
        let key = private_key(key, provider)?;
        let mut certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => return Err(mismatch(certified)),
            Err(Error::InconsistentKeys(_)) | Ok(()) => {}
            Err(error) => return Err(Wrong::Certificate(format!("cannot be used: {error}"))),
        }
        certified.ocsp = ocsp;
        Ok(Certificate { certified: Arc::new(certified), names, from_s, until_s, staple })
    }

    /// As it is served at that time: without an OCSP response for which clients would refuse it.
    fn served(&self, now_s: u64) -> Arc<CertifiedKey> {
        if self.staple.is_good(now_s) || self.certified.ocsp.is_none() {
            return self.certified.clone();
        }
        Arc::new(CertifiedKey { ocsp: None, ..CertifiedKey::clone(&self.certified) })
    }

    /// The DER of the certificate itself.
    pub fn der(&self) -> &[u8] {
        self.certified.cert.first().map_or(&[], |certificate| certificate)
    }
}

fn private_key(pem: &[u8], provider: &CryptoProvider) -> Result<Arc<dyn SigningKey>, Wrong> {
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|error| {
        // PKCS#8 says so in its label, the older forms in a line below it.
        let encrypted = pem.windows(9).any(|text| text == b"ENCRYPTED");
        Wrong::Key(if encrypted {
            "is encrypted, and a node that starts by itself knows no passphrase; write what `openssl pkey -in FILE` \
             makes of it, where the node's account alone may read it"
                .into()
        } else {
            format!("holds no private key ({}); write it as PEM, PKCS#8, PKCS#1 or SEC1", words(error))
        })
    })?;
    provider.key_provider.load_private_key(key).map_err(|_| {
        Wrong::Key(
            "holds a key that is neither ECDSA (P-256, P-384), Ed25519 nor RSA of 2048 to 8192 bits".into(),
        )
    })
}

/// The key is not that of the first certificate; perhaps it is of another one in the file.
fn mismatch(mut certified: CertifiedKey) -> Wrong {
    for at in 1..certified.cert.len() {
        certified.cert.swap(0, at);
        if certified.keys_match().is_ok() {
            return Wrong::Certificate(format!(
                "has the certificate of the key as number {}; write the server's own first, then its chain",
                at + 1
            ));
        }
    }
    Wrong::Key("is not the key of the certificate; name the key it was issued for".into())
}

fn words(error: pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no end, the file may be cut short".into(),
        pem::Error::IllegalSectionStart { .. } => "a line that should begin a section is not whole".into(),
        error => error.to_string(),
    }
}

/// The certificates of one address, found by name.
#[derive(Debug)]
pub struct Names {
    /// The first one, and those with other keys that share a name with it.
    default: Vec<Arc<CertifiedKey>>,
    /// By name; for a wildcard, by what follows `*`. More than one where key types differ.
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    wildcard: HashMap<String, Vec<Arc<CertifiedKey>>>,
}

impl Names {
    /// Of at least one certificate, the first being for clients that name none, as they are served at that time.
    pub fn new(certificates: &[Certificate], now_s: u64) -> Option<Self> {
        let first = certificates.first()?;
        let mut names = Names { default: Vec::new(), exact: HashMap::new(), wildcard: HashMap::new() };
        for (number, certificate) in certificates.iter().enumerate() {
            let served = certificate.served(now_s);
            if number == 0 || certificate.names.iter().any(|name| first.names.contains(name)) {
                names.default.push(served.clone());
            }
            for name in &certificate.names {
                let (map, name) = match name.strip_prefix('*') {
                    Some(rest) => (&mut names.wildcard, rest),
                    None => (&mut names.exact, name.as_str()),
                };
                map.entry(name.to_owned()).or_default().push(served.clone());
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
        let candidates = match hello.server_name() {
            Some(name) => self.of(name)?,
            None => &self.default,
        };
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

/// The serial number of a certificate, and when it begins and ends to be valid, in Unix seconds (RFC 5280 section 4.1).
fn fields(der: &[u8]) -> Option<(&[u8], u64, u64)> {
    let (certificate, _) = element(der, SEQUENCE)?;
    let (mut fields, _) = element(certificate, SEQUENCE)?;
    if let Some((_version, rest)) = element(fields, EXPLICIT_0) {
        fields = rest;
    }
    let (serial, mut fields) = element(fields, INTEGER)?;
    // Signature algorithm, issuer.
    for tag in [SEQUENCE, SEQUENCE] {
        fields = element(fields, tag)?.1;
    }
    let (times, _) = element(fields, SEQUENCE)?;
    let (from_s, times) = time(times)?;
    let (until_s, _) = time(times)?;
    Some((serial, from_s, until_s))
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
        let names = Names::new(&certificates, 0).unwrap();
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
        assert!(Names::new(&[], 0).is_none());
    }

    #[test]
    fn files_that_are_nearly_right_are_told_apart() {
        let (chain, key) = made(&["a.test"], &rcgen::PKCS_ECDSA_P256_SHA256);
        let (authority, _) = made(&["b.test"], &rcgen::PKCS_ECDSA_P256_SHA256);
        let why = |chain: &str, key: &str| match parse(chain, key).unwrap_err() {
            Wrong::Certificate(why) | Wrong::Key(why) | Wrong::Ocsp(why) => why,
        };
        assert!(why(&(authority + &chain), &key).contains("certificate of the key as number 2"));
        assert!(why(&chain[..chain.len() / 2], &key).contains("may be cut short"));
        assert!(why(&chain, &key.replace("PRIVATE", "ENCRYPTED PRIVATE")).contains("is encrypted"));
        let older =
            "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END EC PRIVATE KEY-----\n";
        assert!(why(&chain, older).contains("is encrypted"));
    }

    #[test]
    fn a_response_is_stapled_while_clients_take_it() {
        let (chain, key) = made(&["a.test"], &rcgen::PKCS_ECDSA_P256_SHA256);
        let serial = fields(parse(&chain, &key).unwrap().der()).unwrap().0.to_vec();
        let with = |response: Vec<u8>| {
            let provider = rustls::crypto::ring::default_provider();
            Certificate::parse(chain.as_bytes(), key.as_bytes(), Some(response), &provider)
        };
        let good = with(staple::tests::response(&serial, "20500101000000Z")).unwrap();
        assert!(good.served(2_524_607_999).ocsp.is_some() && good.served(2_524_608_000).ocsp.is_none());
        let renewed = with(staple::tests::response(&[serial, vec![1]].concat(), "20500101000000Z")).unwrap();
        assert!(renewed.served(0).ocsp.is_none());
        assert!(matches!(with(Vec::new()), Err(Wrong::Ocsp(why)) if why.contains("no OCSP response")));
    }

    #[test]
    fn clients_that_name_no_host_have_each_key_of_the_first_name() {
        let certificates: Vec<Certificate> = [
            (&["a.test"][..], &rcgen::PKCS_ED25519),
            (&["b.test"], &rcgen::PKCS_ECDSA_P256_SHA256),
            (&["a.test", "c.test"], &rcgen::PKCS_ECDSA_P256_SHA256),
        ]
        .into_iter()
        .map(|(names, algorithm)| {
            let (chain, key) = made(names, algorithm);
            parse(&chain, &key).unwrap()
        })
        .collect();
        let names = Names::new(&certificates, 0).unwrap();
        let expected = [&certificates[0].certified, &certificates[2].certified];
        assert!(names.default.iter().zip(expected).all(|(served, expected)| Arc::ptr_eq(served, expected)));
        assert_eq!(names.default.len(), 2);
    }
}
