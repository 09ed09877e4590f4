//! The TLS side of one connection as a layer without a socket: bytes of the peer in, plaintext and records out.
//!
//! Handshakes are rustls's. Then its secrets are taken over, rustls's buffers are dropped, and records are sealed
//! and opened in place by `records`: a body is copied once, from where it lies into the buffer that is sent, and
//! an idle connection keeps two keys and the secrets the next ones are made from.
//!
//! | state     | input                | then                                                             |
//! |-----------|----------------------|------------------------------------------------------------------|
//! | Fresh     | bytes                | kept for the handshake                                           |
//! | Fresh     | `meet`, for an offer | Met                                                              |
//! | Met       | bytes, `shake`       | Handshake                                                        |
//! | Handshake | bytes, then `shake`  | flights into `outgoing`; done: Traffic; failed: an alert, Ended  |
//! | Traffic   | application data     | plaintext to the caller                                          |
//! | Traffic   | KeyUpdate (1.3)      | keys renewed, answered when asked for; kernel seals: close_notify|
//! | Traffic   | ClientHello (1.2)    | refused by a warning once, then fatally: no renegotiation        |
//! | Traffic   | close_notify         | the peer sends no more; we still may                             |
//! | Traffic   | anything else        | an alert, Ended                                                  |
//! | Ended     | bytes                | dropped                                                          |
//!
//! What the caller has to keep to: all of [`Tls::take_outgoing`] is sent before anything sealed later, and sealed
//! records leave in the order they were sealed in. Early data is never accepted.
#![forbid(unsafe_code)]

use super::hello::{self, Offer};
use super::kernel_tls::CryptoInfo;
use super::policy::{HTTP2, Policy};
use super::records::{
    Keys, Kind, OVERHEAD_BYTES_MAX, PLAINTEXT_BYTES_MAX, RECORD_BYTES_MAX, Refused, whole_record,
};
use super::traffic::{CLOSE_NOTIFY, FATAL, Traffic, WARNING};
use crate::limits;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{CipherSuite, HandshakeKind, ProtocolVersion, ServerConfig};
use std::fmt;
use std::sync::Arc;

/// The longest record that can be made from a full fragment.
pub const SEALED_BYTES_MAX: usize = PLAINTEXT_BYTES_MAX + OVERHEAD_BYTES_MAX;
const _: () = assert!(limits::TLS_INCOMING_BYTES_MAX >= RECORD_BYTES_MAX);

const INTERNAL_ERROR: u8 = 80;
const ACCESS_DENIED: u8 = 49;
const UNRECOGNIZED_NAME: u8 = 112;

/// How clients are met.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    /// One for each address, in the order their listeners are numbered.
    pub addresses: Vec<Arc<Policy>>,
    /// Handshakes that a worker begins within a second at most; `None`: all that come.
    pub handshakes_per_second: Option<u32>,
}

/// What was agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// TLS 1.3; else 1.2.
    pub tls13: bool,
    /// A session was resumed.
    pub resumed: bool,
    /// The protocol above.
    pub alpn: Alpn,
    /// The cipher.
    pub cipher: Cipher,
}

/// The protocol a client chose by ALPN (RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    /// None was named: HTTP/1.1.
    None,
    /// `http/1.1`
    Http1,
    /// `h2`
    Http2,
}

/// The bulk cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    /// AES-128-GCM
    Aes128,
    /// AES-256-GCM
    Aes256,
    /// ChaCha20-Poly1305
    Chacha20,
}

/// Why a connection cannot go on. The alert, if one is due, is in `outgoing`.
#[derive(Clone, Debug, PartialEq)]
pub enum Failed {
    /// No certificate for the name the client asked for.
    Name,
    /// The handshake, in rustls's words.
    Handshake(rustls::Error),
    /// A record or a message in it.
    Record(Refused),
    /// The peer gave up with this alert.
    Alert(u8),
    /// The peer sent too much of what does nothing.
    Flood,
    /// The peer asked for new keys, and those in use are the kernel's, which cannot renew them.
    Renewal,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failed::Name => f.write_str("no certificate for the name asked for"),
            Failed::Handshake(error) => write!(f, "handshake: {error}"),
            Failed::Record(refused) => write!(f, "record refused: {refused:?}"),
            Failed::Alert(description) => write!(f, "the peer sent alert {description}"),
            Failed::Flood => f.write_str("too many empty records, warnings or key updates"),
            Failed::Renewal => f.write_str("the peer asked for new keys, which the kernel cannot take"),
        }
    }
}

/// The keys are used up and cannot be renewed (TLS 1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WornOut;

enum Layer {
    Fresh,
    Met(Arc<ServerConfig>),
    Handshake(Box<UnbufferedServerConnection>),
    Traffic(Box<Traffic>),
    Ended,
}

/// The layer of one connection.
pub struct Tls {
    layer: Layer,
    /// Ciphertext of what is not complete yet. Empty in an idle connection.
    incoming: Vec<u8>,
    /// Whole records to send before anything that is sealed later.
    outgoing: Vec<u8>,
    peer_closed: bool,
    close_sent: bool,
    /// The kernel may be offered keys.
    keeps_secrets: bool,
}

impl Tls {
    /// A connection that was just accepted. Costs nothing until bytes come. `keeps_secrets`: a kernel may be given the
    /// keys later.
    pub fn new(keeps_secrets: bool) -> Self {
        Tls {
            layer: Layer::Fresh,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            peer_closed: false,
            close_sent: false,
            keeps_secrets,
        }
    }

    /// Whether nothing has been worked out for it yet.
    pub fn is_fresh(&self) -> bool {
        matches!(self.layer, Layer::Fresh)
    }

    /// What the client of a fresh connection offers. `None`: the rest of its ClientHello has to come first.
    pub fn offer(&self) -> Option<Offer> {
        hello::read(&self.incoming).or(self.is_full().then(Offer::default))
    }

    /// A fresh connection is met in this way.
    pub fn meet(&mut self, config: Arc<ServerConfig>) {
        if self.is_fresh() {
            self.layer = Layer::Met(config);
        }
    }

    /// Whether application data cannot flow yet.
    pub fn is_handshaking(&self) -> bool {
        matches!(self.layer, Layer::Fresh | Layer::Met(_) | Layer::Handshake(_))
    }

    /// Whether the peer said that it sends no more.
    pub fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Whether no more bytes should be read from the peer before [`Tls::shake`] was called.
    pub fn is_full(&self) -> bool {
        self.incoming.len() >= limits::TLS_INCOMING_BYTES_MAX
    }

    /// Bytes from the peer; plaintext goes to `sink`, in order, decrypted where it lies. During the handshake they
    /// are only kept: [`Tls::shake`] then does the work, when the caller can afford it.
    pub fn receive(&mut self, bytes: &mut [u8], mut sink: impl FnMut(&[u8])) -> Result<(), Failed> {
        match &mut self.layer {
            Layer::Ended => Ok(()),
            Layer::Fresh | Layer::Met(_) | Layer::Handshake(_) => {
                self.incoming.extend_from_slice(bytes);
                Ok(())
            }
            Layer::Traffic(_) if self.incoming.is_empty() => {
                let used = self.records(bytes, &mut sink)?;
                self.incoming.extend_from_slice(&bytes[used..]);
                Ok(())
            }
            Layer::Traffic(_) => {
                self.incoming.extend_from_slice(bytes);
                self.kept_records(&mut sink)
            }
        }
    }

    /// Goes on with the handshake as far as the bytes kept allow. `Some`: it is done, and plaintext that came with
    /// its end went to `sink`. A step costs up to a millisecond of CPU.
    pub fn shake(&mut self, mut sink: impl FnMut(&[u8])) -> Result<Option<Agreed>, Failed> {
        if let Layer::Met(config) = &self.layer {
            match UnbufferedServerConnection::new(config.clone()) {
                Ok(connection) => self.layer = Layer::Handshake(Box::new(connection)),
                Err(error) => return self.fail(Failed::Handshake(error)),
            }
        }
        loop {
            let Layer::Handshake(connection) = &mut self.layer else {
                return Ok(None);
            };
            let (step, discard) = step(connection, &mut self.incoming, &mut self.outgoing, &mut sink);
            self.incoming.drain(..discard);
            match step {
                Step::More => {}
                Step::Closed => self.peer_closed = true,
                Step::Failed(error) => return self.refused(error),
                Step::Blocked if connection.is_handshaking() => {
                    // With so much kept, a message that is still not whole is none that a client has to send.
                    return if self.is_full() {
                        self.fail(Failed::Record(Refused::Overflow))
                    } else {
                        Ok(None)
                    };
                }
                Step::Blocked => {}
            }
            if !connection.is_handshaking() && !connection.wants_write() {
                let agreed = self.take_over()?;
                self.kept_records(&mut sink)?;
                return Ok(Some(agreed));
            }
        }
    }

    /// Records that are ready to be sent, if there are any.
    pub fn take_outgoing(&mut self) -> Option<Vec<u8>> {
        if let Layer::Traffic(traffic) = &mut self.layer {
            traffic.flushed();
        }
        (!self.outgoing.is_empty()).then(|| std::mem::take(&mut self.outgoing))
    }

    /// Bytes that wait in [`Tls::take_outgoing`].
    pub fn outgoing_bytes(&self) -> usize {
        self.outgoing.len()
    }

    /// Seals one record at the start of `room`, which has [`OVERHEAD_BYTES_MAX`] and a byte at least: `copy` is given
    /// the place for plaintext and says how much of it it filled. Returns the bytes of the record; it may be a
    /// KeyUpdate for which nothing was copied. 0: no application data can be sent now.
    pub fn seal(&mut self, room: &mut [u8], copy: impl FnOnce(&mut [u8]) -> usize) -> Result<usize, WornOut> {
        let Layer::Traffic(traffic) = &mut self.layer else {
            return Ok(0);
        };
        if traffic.seal.worn_out() {
            return traffic.update_seal(room);
        }
        let at = traffic.seal.plaintext_at();
        let most = PLAINTEXT_BYTES_MAX.min(room.len() - OVERHEAD_BYTES_MAX);
        let bytes = copy(&mut room[at..at + most]);
        Ok(if bytes == 0 { 0 } else { traffic.seal.seal(Kind::ApplicationData, room, bytes) })
    }

    /// The keys our records are sealed with, for the kernel to go on with. From now on nothing is sealed here, and what
    /// waits in [`Tls::take_outgoing`] is an alert as it is. `None`: they are not to be had, now or ever.
    pub fn offer_keys(&mut self) -> Option<CryptoInfo> {
        match &mut self.layer {
            Layer::Traffic(traffic) if self.outgoing.is_empty() => traffic.give_keys(),
            _ => None,
        }
    }

    /// The kernel has answered the offer.
    pub fn keys_offered(&mut self, taken: bool) {
        match &mut self.layer {
            Layer::Traffic(traffic) if taken => traffic.keys_taken(),
            Layer::Traffic(traffic) => {
                traffic.keep_keys();
                if let [level, description] = *std::mem::take(&mut self.outgoing) {
                    traffic.alert(&mut self.outgoing, level, description);
                }
            }
            _ if taken => {}
            // An alert that nobody can seal any more.
            _ => self.outgoing = Vec::new(),
        }
    }

    /// The kernel took so many bytes to seal, in one message.
    pub fn sealed_elsewhere(&mut self, bytes: usize) -> Result<(), WornOut> {
        match &mut self.layer {
            Layer::Traffic(traffic) => traffic.sealed_elsewhere(bytes),
            _ => Ok(()),
        }
    }

    /// Whether the connection should end when it can: its keys have half of their life behind them, and it is the kernel
    /// that has them.
    pub fn is_worn(&self) -> bool {
        matches!(&self.layer, Layer::Traffic(traffic) if traffic.is_worn())
    }

    /// Queues close_notify. Says whether it did: once, and only where the handshake is done and nothing failed.
    pub fn close(&mut self) -> bool {
        let Layer::Traffic(traffic) = &mut self.layer else {
            return false;
        };
        if std::mem::replace(&mut self.close_sent, true) {
            return false;
        }
        traffic.alert(&mut self.outgoing, WARNING, CLOSE_NOTIFY);
        true
    }

    /// rustls refused; the alert it made is fetched.
    fn refused<T>(&mut self, error: rustls::Error) -> Result<T, Failed> {
        if let Layer::Handshake(connection) = &mut self.layer {
            // It gives what is queued before it says the error again.
            while connection.wants_write() {
                let _ = step(connection, &mut [], &mut self.outgoing, &mut |_| {});
            }
        }
        self.layer = Layer::Ended;
        self.incoming = Vec::new();
        if matches!(&error, rustls::Error::General(why) if why.contains("no server certificate")) {
            // rustls says access_denied; RFC 6066 section 3 has a word of its own for this.
            if let Some(last) = self.outgoing.last_mut().filter(|last| **last == ACCESS_DENIED) {
                *last = UNRECOGNIZED_NAME;
            }
            return Err(Failed::Name);
        }
        Err(match error {
            rustls::Error::AlertReceived(alert) => Failed::Alert(alert.into()),
            error => Failed::Handshake(error),
        })
    }

    /// Ends the layer, with an alert where the peer is to be told.
    fn fail<T>(&mut self, failed: Failed) -> Result<T, Failed> {
        if let Layer::Traffic(traffic) = &mut self.layer {
            match &failed {
                Failed::Record(refused) => traffic.alert(&mut self.outgoing, FATAL, *refused as u8),
                Failed::Flood => traffic.alert(&mut self.outgoing, FATAL, Refused::Unexpected as u8),
                Failed::Handshake(_) => traffic.alert(&mut self.outgoing, FATAL, INTERNAL_ERROR),
                // No more may be sealed with the keys in use; this is no failure of anybody's.
                Failed::Renewal => traffic.alert(&mut self.outgoing, WARNING, CLOSE_NOTIFY),
                Failed::Name | Failed::Alert(_) => {}
            }
        }
        self.layer = Layer::Ended;
        self.incoming = Vec::new();
        Err(failed)
    }

    /// The handshake is done: its secrets become our keys, and the rest of it is dropped.
    fn take_over(&mut self) -> Result<Agreed, Failed> {
        let Layer::Handshake(connection) = std::mem::replace(&mut self.layer, Layer::Ended) else {
            return Err(Failed::Handshake(rustls::Error::HandshakeNotComplete));
        };
        let tls13 = connection.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        let alpn = match connection.alpn_protocol() {
            Some(HTTP2) => Alpn::Http2,
            Some(_) => Alpn::Http1,
            None => Alpn::None,
        };
        let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        let (secrets, kernel) = match connection.dangerous_into_kernel_connection() {
            Ok(taken) => taken,
            Err(error) => return self.fail(Failed::Handshake(error)),
        };
        let cipher = match kernel.negotiated_cipher_suite().suite() {
            CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => Cipher::Aes128,
            CipherSuite::TLS13_AES_256_GCM_SHA384
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => Cipher::Aes256,
            _ => Cipher::Chacha20,
        };
        let keys = |(sequence, secrets): &(u64, _)| Keys::new(*sequence, secrets, tls13);
        let (Some(seal), Some(open)) = (keys(&secrets.tx), keys(&secrets.rx)) else {
            return self.fail(Failed::Handshake(rustls::Error::General("a cipher that is not ours".into())));
        };
        let kept = self.keeps_secrets.then(|| Box::new(secrets.tx.1));
        self.layer = Layer::Traffic(Box::new(Traffic::new(seal, kept, open, kernel, tls13)));
        Ok(Agreed { tls13, resumed, alpn, cipher })
    }

    /// Opens what is kept.
    fn kept_records(&mut self, sink: &mut impl FnMut(&[u8])) -> Result<(), Failed> {
        let mut kept = std::mem::take(&mut self.incoming);
        let used = self.records(&mut kept, sink)?;
        if used < kept.len() {
            kept.drain(..used);
            self.incoming = kept;
        }
        Ok(())
    }

    /// Opens every whole record of `bytes` and says how far they reach.
    fn records(&mut self, bytes: &mut [u8], sink: &mut impl FnMut(&[u8])) -> Result<usize, Failed> {
        let mut at = 0;
        while let Layer::Traffic(traffic) = &mut self.layer {
            if self.peer_closed {
                // Nothing after it counts (RFC 8446 section 6.1).
                return Ok(bytes.len());
            }
            let record = match whole_record(&bytes[at..]) {
                Ok(Some(length)) => &mut bytes[at..at + length],
                Ok(None) => break,
                Err(refused) => return self.fail(Failed::Record(refused)),
            };
            at += record.len();
            match traffic.record(record, &mut self.outgoing, sink) {
                Ok(closed) => self.peer_closed |= closed,
                Err(failed) => return self.fail(failed),
            }
        }
        Ok(at)
    }
}

/// What one call of rustls came to.
enum Step {
    /// Call again.
    More,
    /// Nothing more can be done with what has come.
    Blocked,
    /// The peer sends no more.
    Closed,
    Failed(rustls::Error),
}

/// One call of rustls. Also says how many bytes of `incoming` are done with.
fn step(
    connection: &mut UnbufferedServerConnection,
    incoming: &mut [u8],
    outgoing: &mut Vec<u8>,
    sink: &mut impl FnMut(&[u8]),
) -> (Step, usize) {
    let UnbufferedStatus { mut discard, state } = connection.process_tls_records(incoming);
    let step = match state {
        Ok(ConnectionState::EncodeTlsData(data)) => {
            encode(data, outgoing);
            Step::More
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            data.done();
            Step::More
        }
        Ok(ConnectionState::ReadTraffic(mut data)) => {
            while let Some(Ok(record)) = data.next_record() {
                discard += record.discard;
                sink(record.payload);
            }
            Step::More
        }
        Ok(ConnectionState::PeerClosed) => Step::Closed,
        Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => Step::Blocked,
        Ok(_) => Step::Failed(rustls::Error::General("a state that no server without early data has".into())),
        Err(error) => Step::Failed(error),
    };
    (step, discard)
}

fn encode(mut data: EncodeTlsData<'_, ServerConnectionData>, outgoing: &mut Vec<u8>) {
    let start = outgoing.len();
    // It says how much room it wants.
    if let Err(EncodeError::InsufficientSize(wanted)) = data.encode(&mut []) {
        outgoing.resize(start + wanted.required_size, 0);
        let written = data.encode(&mut outgoing[start..]).unwrap_or(0);
        outgoing.truncate(start + written);
    }
}

#[cfg(test)]
mod tests {
    use super::super::certificate::Certificate;
    use super::super::policy::{self, Rules};
    use super::super::records::tests::sealed;
    use super::super::tickets::Secrets;
    use super::*;
    use rustls::pki_types::{ServerName, UnixTime};
    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    use std::io::{Read, Write};

    #[derive(Debug)]
    struct Midday;

    impl rustls::time_provider::TimeProvider for Midday {
        fn current_time(&self) -> Option<UnixTime> {
            Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_763_812_800)))
        }
    }

    /// A client and a layer with one cipher, their handshake done.
    fn pair(cipher: CipherSuite) -> (ClientConnection, Tls) {
        let key = rcgen::KeyPair::generate().unwrap();
        let made = rcgen::CertificateParams::new(["a.test".to_owned()]).unwrap().self_signed(&key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.der().clone()).unwrap();
        let provider = Arc::new(policy::provider());
        let config = ClientConfig::builder_with_details(provider.clone(), Arc::new(Midday))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("a.test").unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let secret = key.serialize_pem();
        let certificate =
            Certificate::parse(made.pem().as_bytes(), secret.as_bytes(), None, &provider).unwrap();
        let rules = Rules {
            certificates: &[certificate],
            tls13_only: false,
            ciphers: &[cipher],
            client_ca: None,
            name: "one",
            now_s: 0,
            clock: Arc::new(Midday),
        };
        let mut tls = Tls::new(true);
        tls.meet(Arc::new(rules.build(&Secrets::new().unwrap()).unwrap()));
        for _ in 0..4 {
            let mut up = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut up).unwrap();
            }
            tls.receive(&mut up, |_| panic!("nothing was sent")).unwrap();
            if tls.is_handshaking() {
                tls.shake(|_| panic!("nothing was sent")).unwrap();
            }
            read(&mut client, &tls.take_outgoing().unwrap_or_default());
        }
        assert!(!client.is_handshaking() && !tls.is_handshaking());
        (client, tls)
    }

    fn read(client: &mut ClientConnection, mut bytes: &[u8]) -> Vec<u8> {
        let mut plaintext = Vec::new();
        while !bytes.is_empty() {
            client.read_tls(&mut bytes).unwrap();
            let waiting = client.process_new_packets().unwrap().plaintext_bytes_to_read();
            let start = plaintext.len();
            plaintext.resize(start + waiting, 0);
            client.reader().read_exact(&mut plaintext[start..]).unwrap();
        }
        plaintext
    }

    fn wear_out(tls: &mut Tls) {
        let Layer::Traffic(traffic) = &mut tls.layer else { panic!("the handshake is done") };
        traffic.seal.wear_out();
    }

    #[test]
    fn worn_out_keys_are_renewed_by_a_key_update_before_the_next_record() {
        let (mut client, mut tls) = pair(CipherSuite::TLS13_AES_128_GCM_SHA256);
        for byte in 0..5 {
            wear_out(&mut tls);
            let mut room = [0; 100];
            let update = tls.seal(&mut room, |_| panic!("the keys come first")).unwrap();
            assert!(read(&mut client, &room[..update]).is_empty());
            assert_eq!(read(&mut client, &seal_here(&mut tls, &[byte])), [byte]);
        }
    }

    #[test]
    fn without_key_updates_worn_out_keys_end_the_connection_in_order() {
        let (mut client, mut tls) = pair(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256);
        wear_out(&mut tls);
        assert_eq!(tls.seal(&mut [0; 100], |_| 1), Err(WornOut));
        assert!(tls.close());
        read(&mut client, &tls.take_outgoing().unwrap());
        // Not even an alert is sealed with what is used up.
        assert!(tls.receive(&mut [23, 3, 3, 0, 0], |_| {}).is_err());
        assert_eq!(tls.take_outgoing(), None);
    }

    /// Plays the kernel: keys as it reads them from the structure. It makes explicit nonces in another way, which no
    /// peer can tell.
    fn kernel(info: &CryptoInfo) -> Keys {
        let (head, rest) = info.as_bytes().split_at(4);
        let (cipher, key, salt) = match head[2] {
            51 => (Cipher::Aes128, 16, 4),
            52 => (Cipher::Aes256, 32, 4),
            _ => (Cipher::Chacha20, 32, 0),
        };
        let (iv, rest) = rest.split_at(12 - salt);
        let (key, rest) = rest.split_at(key);
        let (salt, number) = rest.split_at(salt);
        let nonce = [salt, iv].concat().try_into().unwrap();
        let number = u64::from_be_bytes(number.try_into().unwrap());
        Keys::of(cipher, key, nonce, number, head == [4, 3, head[2], 0]).unwrap()
    }

    fn seal_here(tls: &mut Tls, plaintext: &[u8]) -> Vec<u8> {
        let mut room = vec![0; plaintext.len() + OVERHEAD_BYTES_MAX];
        let copy = |place: &mut [u8]| {
            place[..plaintext.len()].copy_from_slice(plaintext);
            plaintext.len()
        };
        let bytes = tls.seal(&mut room, copy).unwrap();
        room.truncate(bytes);
        room
    }

    #[test]
    fn whoever_is_given_the_keys_goes_on_where_we_were() {
        for cipher in [
            CipherSuite::TLS13_AES_128_GCM_SHA256,
            CipherSuite::TLS13_AES_256_GCM_SHA384,
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        ] {
            let (mut client, mut tls) = pair(cipher);
            for byte in 0..3 {
                assert_eq!(read(&mut client, &seal_here(&mut tls, &[byte])), [byte]);
            }
            let mut kernel = kernel(&tls.offer_keys().expect("they are kept"));
            assert!(tls.offer_keys().is_none(), "they are given once");
            tls.keys_offered(true);
            for byte in 3..9 {
                let record = sealed(&mut kernel, Kind::ApplicationData, &[byte; 100]);
                assert_eq!(read(&mut client, &record), [byte; 100], "{cipher:?}");
                assert_eq!(tls.sealed_elsewhere(100), Ok(()));
            }
            // The way in is ours as before.
            client.writer().write_all(b"more").unwrap();
            let mut up = Vec::new();
            client.write_tls(&mut up).unwrap();
            tls.receive(&mut up, |bytes| assert_eq!(bytes, b"more")).unwrap();
            assert!(tls.close());
            assert_eq!(tls.take_outgoing().unwrap(), [WARNING, CLOSE_NOTIFY], "for the kernel to seal");
            client.read_tls(&mut &sealed(&mut kernel, Kind::Alert, &[WARNING, CLOSE_NOTIFY])[..]).unwrap();
            assert!(client.process_new_packets().unwrap().peer_has_closed(), "{cipher:?}");
        }
    }

    #[test]
    fn keys_that_were_not_taken_seal_on_and_what_waited_meanwhile() {
        let (mut client, mut tls) = pair(CipherSuite::TLS13_AES_128_GCM_SHA256);
        assert!(tls.offer_keys().is_some());
        assert!(tls.close());
        tls.keys_offered(false);
        assert!(tls.offer_keys().is_none(), "not a second time");
        client.read_tls(&mut &tls.take_outgoing().unwrap()[..]).unwrap();
        assert!(client.process_new_packets().unwrap().peer_has_closed());
        let (mut client, mut tls) = pair(CipherSuite::TLS13_AES_128_GCM_SHA256);
        assert!(tls.offer_keys().is_some());
        tls.keys_offered(false);
        assert_eq!(read(&mut client, &seal_here(&mut tls, b"x")), b"x");
        assert!(tls.offer_keys().is_none() && tls.close());
        client.read_tls(&mut &tls.take_outgoing().unwrap()[..]).unwrap();
        assert!(client.process_new_packets().unwrap().peer_has_closed());
    }

    #[test]
    fn keys_that_were_given_away_are_not_renewed_and_nobody_is_to_blame() {
        let (mut client, mut tls) = pair(CipherSuite::TLS13_AES_256_GCM_SHA384);
        tls.offer_keys().unwrap();
        tls.keys_offered(true);
        client.refresh_traffic_keys().unwrap();
        let mut up = Vec::new();
        client.write_tls(&mut up).unwrap();
        assert_eq!(tls.receive(&mut up, |_| {}), Err(Failed::Renewal));
        assert_eq!(tls.take_outgoing().unwrap(), [WARNING, CLOSE_NOTIFY]);
        assert!(!tls.close(), "it is said once");
    }

    #[test]
    fn keys_that_were_given_away_wear_out_by_the_most_records_there_can_be() {
        let (_, mut tls) = pair(CipherSuite::TLS13_AES_128_GCM_SHA256);
        tls.offer_keys().unwrap();
        tls.keys_offered(true);
        // RFC 8446 section 5.5: 2^24 records; here each of a quarter's size.
        let message = 256 * 1024;
        let most = (1_u64 << 24) / (message as u64 / (PLAINTEXT_BYTES_MAX as u64 / 4) + 1);
        for sent in 0..most - 2 {
            assert_eq!(tls.is_worn(), sent > most / 2, "{sent}");
            assert_eq!(tls.sealed_elsewhere(message), Ok(()));
        }
        while tls.sealed_elsewhere(message).is_ok() {}
        assert!(tls.is_worn());
        let (_, mut tls) = pair(CipherSuite::TLS13_AES_128_GCM_SHA256);
        wear_out(&mut tls);
        assert!(tls.offer_keys().is_none(), "not worth a kernel's while");
    }

    #[test]
    fn renegotiation_is_refused_by_a_warning_once() {
        let (_, mut tls) = pair(CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256);
        let Layer::Traffic(traffic) = &mut tls.layer else { panic!("the handshake is done") };
        let mut hello = [1, 0, 0, 0];
        let mut outgoing = Vec::new();
        let refused = |traffic: &mut Traffic, outgoing: &mut Vec<u8>, hello: &mut [u8]| {
            traffic.message(Kind::Handshake, hello, outgoing)
        };
        assert_eq!(refused(traffic, &mut outgoing, &mut hello), Ok(false));
        assert!(!outgoing.is_empty(), "a warning");
        let once = outgoing.len();
        assert_eq!(refused(traffic, &mut outgoing, &mut hello), Err(Failed::Record(Refused::Unexpected)));
        assert_eq!(outgoing.len(), once);
    }
}
