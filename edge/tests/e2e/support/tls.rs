//! Certificates made at run time, a client of rustls, and the command lines of curl and openssl.

use super::edge::{directory, free_port};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, StreamOwned};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

/// Certificate files in a directory of their own, and the address they are for.
pub struct Site {
    directory: PathBuf,
    /// Where edge is to listen.
    pub address: SocketAddr,
}

impl Site {
    /// With a certificate for these names.
    pub fn new(names: &[&str]) -> Self {
        let site = Site { directory: directory(), address: SocketAddr::from(([127, 0, 0, 1], free_port())) };
        site.renew(names);
        site
    }

    /// Another certificate and key in the same files, each replaced in one step.
    pub fn renew(&self, names: &[&str]) {
        let key = rcgen::KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate =
            rcgen::CertificateParams::new(names).expect("names").self_signed(&key).expect("signed");
        self.replace(&self.key(), &key.serialize_pem());
        self.replace(&self.certificate(), &certificate.pem());
    }

    /// Replaces a file in one step.
    pub fn replace(&self, path: &Path, text: &str) {
        let new = self.directory.join("new");
        std::fs::write(&new, text).expect("written");
        std::fs::rename(new, path).expect("renamed");
    }

    /// The certificate's file.
    pub fn certificate(&self) -> PathBuf {
        self.directory.join("site.crt")
    }

    /// The key's file.
    pub fn key(&self) -> PathBuf {
        self.directory.join("site.key")
    }

    /// A file beside them.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The section of the configuration.
    pub fn section(&self) -> String {
        let (certificate, key) = (self.certificate(), self.key());
        format!(
            "[[listen.https]]\naddress = \"{}\"\ncertificate = \"{}\"\nkey = \"{}\"\n",
            self.address,
            certificate.display(),
            key.display()
        )
    }

    /// A client configuration that trusts the certificate as it is now.
    pub fn client(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.certificate()).expect("PEM")).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    }

    /// curl for a path of a name, with further arguments.
    pub fn curl(&self, name: &str, path: &str, arguments: &[&str]) -> Output {
        let resolve = format!("{name}:{}:{}", self.address.port(), self.address.ip());
        Command::new("curl")
            .args(["-sS", "--max-time", "60", "--http1.1", "--resolve", &resolve, "--cacert"])
            .arg(self.certificate())
            .args(arguments)
            .arg(format!("https://{name}:{}{path}", self.address.port()))
            .output()
            .expect("curl runs")
    }

    /// `openssl s_client` fed with `input`, until the connection ends; everything it printed.
    pub fn s_client(&self, arguments: &[&str], input: &str) -> String {
        self.s_client_until(arguments, input, || false)
    }

    /// The same, but it leaves once `over` says so.
    pub fn s_client_until(&self, arguments: &[&str], input: &str, mut over: impl FnMut() -> bool) -> String {
        let mut child = Command::new("timeout")
            .args(["60", "openssl", "s_client", "-connect", &self.address.to_string(), "-CAfile"])
            .arg(self.certificate())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("openssl runs");
        let mut stdin = child.stdin.take().expect("its input");
        stdin.write_all(input.as_bytes()).expect("written");
        let reading = std::thread::spawn(move || child.wait_with_output());
        while !reading.is_finished() && !over() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        // Where its input ends it leaves; an answer under way would be missed.
        drop(stdin);
        let output = reading.join().expect("a reader").expect("its output");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A client that takes any certificate, if only its key signed the handshake.
pub fn any_certificate() -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Any(provider.signature_verification_algorithms)))
        .with_no_client_auth();
    Arc::new(config)
}

#[derive(Debug)]
struct Any(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// A connection over TLS.
pub struct TlsClient(pub StreamOwned<ClientConnection, TcpStream>);

impl TlsClient {
    /// Connects; the handshake is made with the first bytes.
    pub fn connect(config: &Arc<ClientConfig>, address: SocketAddr, name: &str) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(super::client::PATIENCE))?;
        let name = ServerName::try_from(name.to_owned()).map_err(std::io::Error::other)?;
        let session = ClientConnection::new(config.clone(), name).map_err(std::io::Error::other)?;
        Ok(TlsClient(StreamOwned::new(session, stream)))
    }

    /// Asks for a path and reads the whole response: status and body.
    pub fn get(&mut self, host: &str, path: &str) -> std::io::Result<(u16, Vec<u8>)> {
        self.0.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())?;
        self.response()
    }

    /// Reads a response with Content-Length.
    pub fn response(&mut self) -> std::io::Result<(u16, Vec<u8>)> {
        let bad = || std::io::Error::other("no response with a length");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let length = head.split_once("content-length: ").and_then(|(_, rest)| rest.split("\r\n").next());
        let mut body = vec![0; length.and_then(|text| text.parse().ok()).ok_or_else(bad)?];
        self.0.read_exact(&mut body)?;
        let status = head.get(9..12).and_then(|text| text.parse().ok()).ok_or_else(bad)?;
        Ok((status, body))
    }
}
