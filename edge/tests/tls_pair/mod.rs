//! A client of rustls and our layer, joined in memory.
#![allow(dead_code, reason = "every test that includes it uses a part")]

use edge::clock::Wall;
use edge::proto::certificate::Certificate;
use edge::proto::policy::{self, Rules};
use edge::proto::tickets::Secrets;
use edge::proto::tls::{Agreed, Failed, SEALED_BYTES_MAX, Tls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{CipherSuite, ClientConfig, ClientConnection, RootCertStore};
use std::io::Read;
use std::sync::{Arc, OnceLock};

/// A certificate and its key.
pub struct Site {
    pub chain: String,
    pub key: String,
}

impl Site {
    pub fn new(names: &[&str]) -> Self {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        Site { chain: certificate.pem(), key: key.serialize_pem() }
    }

    pub fn shared() -> &'static Self {
        static SITE: OnceLock<Site> = OnceLock::new();
        SITE.get_or_init(|| Site::new(&["a.test"]))
    }

    fn certificate(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.chain.as_bytes()).unwrap()
    }
}

/// An authority that signs clients' certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A client that shows a certificate of this authority.
    pub fn client(&self, site: &Site) -> Arc<ClientConfig> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["client".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let config = builder(site, None).with_client_auth_cert(vec![certificate.der().clone()], key).unwrap();
        Arc::new(config)
    }
}

fn builder(
    site: &Site,
    suite: Option<CipherSuite>,
) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let mut provider = policy::provider();
    provider.cipher_suites.retain(|known| suite.is_none_or(|suite| known.suite() == suite));
    let mut roots = RootCertStore::empty();
    roots.add(site.certificate()).unwrap();
    ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
}

/// A client that trusts the site, with one cipher alone if asked for.
pub fn client_config(site: &Site, suite: Option<CipherSuite>) -> Arc<ClientConfig> {
    let mut config = builder(site, suite).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

pub struct Client {
    pub session: ClientConnection,
    pub received: Vec<u8>,
    pub closed: bool,
}

impl Client {
    pub fn new(config: Arc<ClientConfig>, name: &str) -> Self {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let session = ClientConnection::new(config, name).unwrap();
        Client { session, received: Vec::new(), closed: false }
    }

    /// What it wants to send.
    pub fn take(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.session.wants_write() {
            self.session.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    pub fn saw_certificate(&self) -> bool {
        self.session.peer_certificates().is_some() || self.session.negotiated_cipher_suite().is_some()
    }

    fn give(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.session.read_tls(&mut bytes).is_err() {
                return;
            }
            let Ok(state) = self.session.process_new_packets() else { return };
            self.closed |= state.peer_has_closed();
            let mut plaintext = vec![0; state.plaintext_bytes_to_read()];
            self.session.reader().read_exact(&mut plaintext).unwrap();
            self.received.extend(plaintext);
        }
    }
}

pub struct Server {
    pub tls: Tls,
    pub received: Vec<u8>,
    /// Everything it ever sent.
    pub sent: Vec<u8>,
    sealed: Vec<u8>,
}

impl Server {
    /// Bytes from the peer, and the handshake if there is one to go on with.
    pub fn give(&mut self, bytes: &mut [u8]) -> Result<Option<Agreed>, Failed> {
        let received = &mut self.received;
        self.tls.receive(bytes, |plaintext| received.extend_from_slice(plaintext))?;
        if self.tls.is_handshaking() {
            return self.tls.shake(|plaintext| received.extend_from_slice(plaintext));
        }
        Ok(None)
    }

    /// Seals and queues.
    pub fn send(&mut self, mut plaintext: &[u8]) {
        self.sealed.extend(self.tls.take_outgoing().unwrap_or_default());
        while !plaintext.is_empty() {
            let mut room = vec![0; SEALED_BYTES_MAX];
            let sealed = self.tls.seal(&mut room, |place| {
                let bytes = place.len().min(plaintext.len());
                place[..bytes].copy_from_slice(&plaintext[..bytes]);
                plaintext = &plaintext[bytes..];
                bytes
            });
            let sealed = sealed.expect("keys that are not worn out");
            assert!(sealed > 0, "application data can be sent");
            self.sealed.extend_from_slice(&room[..sealed]);
        }
    }

    /// What it wants to send.
    pub fn take(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.sealed);
        bytes.extend(self.tls.take_outgoing().unwrap_or_default());
        self.sent.extend_from_slice(&bytes);
        bytes
    }
}

/// A server with the site's certificate.
pub fn server(site: &Site) -> Server {
    server_with(site, &Secrets::new().unwrap(), "one", None)
}

/// As [`server`], with secrets for its tickets, under a policy of this name.
pub fn server_with(site: &Site, secrets: &Secrets, name: &str, client_ca: Option<&[u8]>) -> Server {
    let provider = policy::provider();
    let certificate =
        Certificate::parse(site.chain.as_bytes(), site.key.as_bytes(), None, &provider).unwrap();
    let rules = Rules {
        certificates: &[certificate],
        tls13_only: false,
        ciphers: &[],
        client_ca,
        name,
        now_s: 0,
        clock: Arc::new(Wall),
    };
    let mut tls = Tls::new(false);
    tls.meet(Arc::new(rules.build(secrets).unwrap()));
    Server { tls, received: Vec::new(), sent: Vec::new(), sealed: Vec::new() }
}

/// Carries bytes both ways, `step` at a time, until both are silent.
pub fn pump(client: &mut Client, server: &mut Server, step: usize) -> Result<Option<Agreed>, Failed> {
    let mut agreed = None;
    let mut result = Ok(());
    loop {
        let mut up = client.take();
        let mut silent = up.is_empty();
        for part in up.chunks_mut(step) {
            match server.give(part) {
                Ok(done) => agreed = agreed.or(done),
                Err(failed) => result = Err(failed),
            }
        }
        let down = server.take();
        silent &= down.is_empty();
        down.chunks(step).for_each(|part| client.give(part));
        if silent || result.is_err() {
            return result.map(|()| agreed);
        }
    }
}
