//! How clients of TLS are met: versions, ciphers, certificates, tickets, and whether clients have to show a
//! certificate. Ciphers are AEAD with ephemeral keys alone; rustls offers no others.
#![forbid(unsafe_code)]

use super::certificate::{Certificate, Names};
use super::hello::Offer;
use super::tickets::Secrets;
use crate::limits;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{CipherSuite, RootCertStore, ServerConfig, version};
use std::sync::Arc;

/// Ciphers by the names the IANA gives them, as we prefer them.
pub const CIPHERS: &[(&str, CipherSuite)] = &[
    ("TLS_AES_128_GCM_SHA256", CipherSuite::TLS13_AES_128_GCM_SHA256),
    ("TLS_AES_256_GCM_SHA384", CipherSuite::TLS13_AES_256_GCM_SHA384),
    ("TLS_CHACHA20_POLY1305_SHA256", CipherSuite::TLS13_CHACHA20_POLY1305_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];
const TLS13_CIPHERS: usize = 3;

/// Whether a cipher belongs to a version that is spoken.
pub fn is_usable(cipher: CipherSuite, tls13_only: bool) -> bool {
    !tls13_only || CIPHERS[..TLS13_CIPHERS].iter().any(|(_, tls13)| *tls13 == cipher)
}

/// The one provider of cryptography.
pub fn provider() -> CryptoProvider {
    rustls::crypto::ring::default_provider()
}

/// Certificates of the authorities that clients' certificates are checked against.
///
/// # Errors
/// What is wrong, in words that follow the file's name.
pub fn client_authorities(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| format!("is not PEM: {error}"))?;
        roots
            .add(certificate)
            .map_err(|error| format!("holds a certificate that cannot be used: {error}"))?;
    }
    if roots.is_empty() { Err("holds no certificate".into()) } else { Ok(roots) }
}

/// Checks clients' certificates against these authorities, whose names clients are told, to choose by them. Where they
/// are too many for one flight of a handshake they are not: then clients try what they have (RFC 8446 section 4.2.4).
fn verifier(
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let names: usize = roots.subjects().iter().map(|name| name.as_ref().len() + 2).sum();
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    if names > limits::CLIENT_CA_NAMES_BYTES_MAX {
        builder = builder.clear_root_hint_subjects();
    }
    builder.build().map_err(|error| error.to_string())
}

/// HTTP/2 by ALPN (RFC 7301), which we prefer.
pub const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// How clients of one address are met.
#[derive(Debug)]
pub struct Policy {
    /// By whether HTTP/2 may be spoken, and whether ChaCha20 is preferred. What else is agreed on, sessions included, is
    /// the same.
    configs: [[Arc<ServerConfig>; 2]; 2],
    /// No handshake ends without a client's certificate.
    pub client_certificate: bool,
}

impl Policy {
    /// By these rules.
    ///
    /// # Errors
    /// See [`Rules::build`].
    pub fn new(rules: &Rules<'_>, secrets: &Secrets) -> Result<Policy, String> {
        Ok(Policy::from_config(&rules.build(secrets)?, rules.client_ca.is_some()))
    }

    /// With this configuration, but for what depends on the client.
    pub(crate) fn from_config(config: &ServerConfig, client_certificate: bool) -> Policy {
        let variant = |http2: bool, chacha20: bool| {
            let mut config = config.clone();
            config.alpn_protocols.retain(|protocol| http2 || protocol != HTTP2);
            // It is of use to clients alone: they say so by the order of theirs.
            config.ignore_client_order = !chacha20;
            Arc::new(config)
        };
        let configs = [false, true].map(|http2| [false, true].map(|chacha20| variant(http2, chacha20)));
        Policy { configs, client_certificate }
    }

    /// How a client with this offer is met, which may speak HTTP/2 or not.
    pub fn config(&self, offer: Offer, http2: bool) -> &Arc<ServerConfig> {
        &self.configs[usize::from(http2)][usize::from(offer.chacha20)]
    }
}

/// What one address is served with.
pub struct Rules<'a> {
    /// At least one; the first is for clients that name no host.
    pub certificates: &'a [Certificate],
    /// TLS 1.2 is refused.
    pub tls13_only: bool,
    /// The ciphers, the preferred ones first; empty: [`CIPHERS`].
    pub ciphers: &'a [CipherSuite],
    /// PEM of the authorities whose clients alone may connect; `None`: all may.
    pub client_ca: Option<&'a [u8]>,
    /// What tells this policy from others, for tickets: a ticket of another one resumes nothing here.
    pub name: &'a str,
    /// Unix seconds; what is out of date then is not stapled.
    pub now_s: u64,
    /// The clock of tickets and of clients' certificates.
    pub clock: Arc<dyn TimeProvider>,
}

impl Rules<'_> {
    /// The policy as rustls takes it.
    ///
    /// # Errors
    /// What cannot be, in words.
    pub fn build(&self, secrets: &Secrets) -> Result<ServerConfig, String> {
        let provider = Arc::new(self.provider());
        let versions: &[_] =
            if self.tls13_only { &[&version::TLS13] } else { &[&version::TLS13, &version::TLS12] };
        let builder = ServerConfig::builder_with_details(provider.clone(), self.clock.clone())
            .with_protocol_versions(versions)
            .map_err(|error| error.to_string())?;
        let builder = match self.client_ca {
            None => builder.with_no_client_auth(),
            Some(pem) => builder.with_client_cert_verifier(verifier(client_authorities(pem)?, provider)?),
        };
        let names = Names::new(self.certificates, self.now_s).ok_or("no certificate")?;
        let mut config = builder.with_cert_resolver(Arc::new(names));
        config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
        // A store of sessions would be behind a lock that all workers share; tickets need none.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let policy = [self.name.as_bytes(), self.client_ca.unwrap_or_default()].join(&0);
        config.ticketer = Arc::new(secrets.tickets(&policy).ok_or("no key for tickets")?);
        // Records are sealed by `records`, under keys that the handshake hands over.
        config.enable_secret_extraction = true;
        config.max_early_data_size = 0;
        Ok(config)
    }

    fn provider(&self) -> CryptoProvider {
        let mut provider = provider();
        let all: Vec<CipherSuite> = CIPHERS.iter().map(|(_, cipher)| *cipher).collect();
        let wanted = if self.ciphers.is_empty() { &all } else { self.ciphers };
        let provided =
            |cipher: &CipherSuite| provider.cipher_suites.iter().find(|suite| suite.suite() == *cipher);
        provider.cipher_suites = wanted.iter().filter_map(provided).copied().collect();
        provider
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cipher_that_rustls_has_can_be_named() {
        let provided = provider().cipher_suites;
        assert_eq!(provided.len(), CIPHERS.len());
        for suite in provided {
            assert!(CIPHERS.iter().any(|(_, cipher)| *cipher == suite.suite()), "{suite:?}");
        }
        assert!(
            is_usable(CIPHERS[2].1, true) && !is_usable(CIPHERS[3].1, true) && is_usable(CIPHERS[3].1, false)
        );
    }

    /// A flight that is longer than the buffer of records would never be sent.
    #[test]
    fn names_of_authorities_are_told_as_long_as_they_fit_a_flight() {
        let key = rcgen::KeyPair::generate().unwrap();
        let authority = |number: usize| {
            let mut params = rcgen::CertificateParams::default();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params.distinguished_name.push(rcgen::DnType::CommonName, format!("{number:0>1000}"));
            params.self_signed(&key).unwrap().pem()
        };
        for (count, told) in [(1, 1), (10, 10), (80, 0)] {
            let pem: String = (0..count).map(authority).collect();
            let roots = client_authorities(pem.as_bytes()).unwrap();
            let verifier = verifier(roots, Arc::new(provider())).unwrap();
            assert_eq!(verifier.root_hint_subjects().len(), told, "{count}");
            let bytes: usize = verifier.root_hint_subjects().iter().map(|name| name.as_ref().len()).sum();
            assert!(bytes + limits::CERTIFICATE_BYTES_MAX + 8 * 1024 <= limits::WIRE_BYTES, "{bytes}");
        }
    }

    #[test]
    fn authorities_that_are_none_are_refused() {
        assert!(client_authorities(b"").is_err_and(|why| why.contains("holds no certificate")));
        let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(client_authorities(broken).is_err_and(|why| why.contains("cannot be used")));
    }
}
