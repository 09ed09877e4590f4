//! Both directions of a TLS connection once its handshake is done: what records mean, alerts, and the renewal of keys.
//! How a record is sealed is in `records`, what led here in `tls`.
#![forbid(unsafe_code)]

use super::kernel_tls::{CryptoInfo, records_at_most};
use super::records::{Keys, Kind, OVERHEAD_BYTES_MAX, Refused};
use super::tls::{Failed, WornOut};
use crate::limits;
use rustls::ConnectionTrafficSecrets;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;

pub(super) const CLOSE_NOTIFY: u8 = 0;
pub(super) const WARNING: u8 = 1;
pub(super) const FATAL: u8 = 2;
const USER_CANCELED: u8 = 90;
const NO_RENEGOTIATION: u8 = 100;
const CLIENT_HELLO: u8 = 1;
/// A key_update(24) message up to its one byte of content.
const KEY_UPDATE: [u8; 4] = [24, 0, 0, 1];

/// Both directions after the handshake.
pub(super) struct Traffic {
    pub(super) seal: Keys,
    /// What `seal` was made of, as long as the kernel may be given it.
    secrets: Option<Box<ConnectionTrafficSecrets>>,
    /// The kernel has the keys, or is being given them: `seal` only counts.
    elsewhere: bool,
    open: Keys,
    kernel: KernelConnection<ServerConnectionData>,
    tls13: bool,
    /// An answer to a KeyUpdate waits in `outgoing`; until it is sent, further ones need none.
    update_queued: bool,
    renegotiation_refused: bool,
    /// Records since the last application data that carried none.
    fruitless: u8,
}

impl Traffic {
    /// Under the keys of a handshake that is done; with the secrets of those that seal, if the kernel may be given
    /// them.
    pub(super) fn new(
        seal: Keys,
        secrets: Option<Box<ConnectionTrafficSecrets>>,
        open: Keys,
        kernel: KernelConnection<ServerConnectionData>,
        tls13: bool,
    ) -> Self {
        Traffic {
            seal,
            secrets,
            elsewhere: false,
            open,
            kernel,
            tls13,
            update_queued: false,
            renegotiation_refused: false,
            fruitless: 0,
        }
    }

    /// Gives the keys that seal away: from now on `seal` counts what is sealed with them.
    pub(super) fn give_keys(&mut self) -> Option<CryptoInfo> {
        if self.elsewhere || self.seal.half_worn() {
            return None;
        }
        let info = CryptoInfo::new(self.tls13, self.secrets.as_deref()?, self.seal.sequence())?;
        self.elsewhere = true;
        Some(info)
    }

    /// They were not taken, and will not be offered again.
    pub(super) fn keep_keys(&mut self) {
        self.elsewhere = false;
        self.secrets = None;
    }

    /// They were taken.
    pub(super) fn keys_taken(&mut self) {
        self.secrets = None;
    }

    /// So many bytes were sealed with them as one message.
    pub(super) fn sealed_elsewhere(&mut self, bytes: usize) -> Result<(), WornOut> {
        self.seal.skip(records_at_most(bytes));
        if self.seal.worn_out() { Err(WornOut) } else { Ok(()) }
    }

    /// Whether the kernel should not be given much more to seal with them.
    pub(super) fn is_worn(&self) -> bool {
        self.elsewhere && self.seal.half_worn()
    }

    /// What was queued is on its way.
    pub(super) fn flushed(&mut self) {
        self.update_queued = false;
    }

    /// One record. Says whether it was the peer's close_notify.
    pub(super) fn record(
        &mut self,
        record: &mut [u8],
        outgoing: &mut Vec<u8>,
        sink: &mut impl FnMut(&[u8]),
    ) -> Result<bool, Failed> {
        let (kind, plaintext) = self.open.open(record).map_err(Failed::Record)?;
        if kind == Kind::ApplicationData && !plaintext.is_empty() {
            self.fruitless = 0;
            sink(plaintext);
            return Ok(false);
        }
        self.fruitless += 1;
        if self.fruitless > limits::TLS_FRUITLESS_RECORDS_MAX {
            return Err(Failed::Flood);
        }
        let message: [u8; 8] = std::array::from_fn(|at| plaintext.get(at).copied().unwrap_or(0));
        let bytes = plaintext.len().min(message.len());
        self.message(kind, &message[..bytes], outgoing)
    }

    /// A record that carries no application data. Says whether it was close_notify.
    pub(super) fn message(
        &mut self,
        kind: Kind,
        message: &[u8],
        outgoing: &mut Vec<u8>,
    ) -> Result<bool, Failed> {
        match (kind, message) {
            (Kind::ApplicationData, _) => Ok(false),
            (Kind::Alert, &[_, CLOSE_NOTIFY]) => Ok(true),
            (Kind::Alert, &[_, USER_CANCELED]) => Ok(false),
            (Kind::Alert, &[WARNING, _]) if !self.tls13 => Ok(false),
            (Kind::Alert, &[_, description]) => Err(Failed::Alert(description)),
            (Kind::Alert, _) => Err(Failed::Record(Refused::Decode)),
            (Kind::Handshake, message) if self.tls13 => {
                // Nothing may follow in the record, for it would be under the old keys (RFC 8446 section 5.1).
                let asked = match message.split_last() {
                    Some((asked @ (0 | 1), head)) if head == KEY_UPDATE => *asked == 1,
                    _ => return Err(Failed::Record(Refused::Unexpected)),
                };
                self.peer_updated(asked, outgoing)?;
                Ok(false)
            }
            (Kind::Handshake, &[CLIENT_HELLO, ..]) if !self.renegotiation_refused && !self.elsewhere => {
                self.renegotiation_refused = true;
                self.alert(outgoing, WARNING, NO_RENEGOTIATION);
                Ok(false)
            }
            (Kind::Handshake | Kind::ChangeCipherSpec, _) => Err(Failed::Record(Refused::Unexpected)),
        }
    }

    /// The peer renewed its keys (RFC 8446 section 4.6.3), and may have asked us to renew ours.
    fn peer_updated(&mut self, asked: bool, outgoing: &mut Vec<u8>) -> Result<(), Failed> {
        let secrets = self.kernel.update_rx_secret().map_err(Failed::Handshake)?;
        self.open = Keys::new(secrets.0, &secrets.1, true).ok_or(Failed::Record(Refused::Unexpected))?;
        if asked && self.elsewhere {
            return Err(Failed::Renewal);
        }
        if asked && !std::mem::replace(&mut self.update_queued, true) {
            let start = outgoing.len();
            outgoing.resize(start + KEY_UPDATE.len() + 1 + OVERHEAD_BYTES_MAX, 0);
            let bytes = self.update_seal(&mut outgoing[start..]).unwrap_or(0);
            outgoing.truncate(start + bytes);
        }
        Ok(())
    }

    /// Seals a KeyUpdate that asks for none in return, and renews our keys.
    pub(super) fn update_seal(&mut self, room: &mut [u8]) -> Result<usize, WornOut> {
        if !self.tls13 {
            return Err(WornOut);
        }
        let (sequence, secrets) = self.kernel.update_tx_secret().map_err(|_| WornOut)?;
        let next = Keys::new(sequence, &secrets, true).ok_or(WornOut)?;
        if let Some(kept) = &mut self.secrets {
            **kept = secrets;
        }
        let at = self.seal.plaintext_at();
        room[at..at + KEY_UPDATE.len()].copy_from_slice(&KEY_UPDATE);
        room[at + KEY_UPDATE.len()] = 0;
        let bytes = self.seal.seal(Kind::Handshake, room, KEY_UPDATE.len() + 1);
        self.seal = next;
        Ok(bytes)
    }

    /// Queues an alert, if the keys may seal another record: as it is where the kernel will seal it.
    pub(super) fn alert(&mut self, outgoing: &mut Vec<u8>, level: u8, description: u8) {
        if self.seal.used_up() {
            return;
        }
        if self.elsewhere {
            // The last word counts.
            *outgoing = vec![level, description];
            return;
        }
        let start = outgoing.len();
        outgoing.resize(start + 2 + OVERHEAD_BYTES_MAX, 0);
        let room = &mut outgoing[start..];
        let at = self.seal.plaintext_at();
        room[at..at + 2].copy_from_slice(&[level, description]);
        let bytes = self.seal.seal(Kind::Alert, room, 2);
        outgoing.truncate(start + bytes);
    }
}
