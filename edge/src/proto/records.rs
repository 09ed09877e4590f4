//! TLS record protection once a handshake has agreed on keys (RFC 8446 section 5, RFC 5246 section 6.2,
//! RFC 5288, RFC 7905): one record sealed or opened in place, nothing allocated. Handshakes and what
//! records mean are in `tls`.
#![forbid(unsafe_code)]

use super::tls::Cipher;
use ring::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey,
};
use rustls::ConnectionTrafficSecrets;

/// Bytes of a record's header: kind, version, length.
pub const HEADER_BYTES: usize = 5;
/// Plaintext of one record at most (RFC 8446 section 5.1).
pub const PLAINTEXT_BYTES_MAX: usize = 16 * 1024;
/// What a record adds to its plaintext at most: header, the explicit nonce of TLS 1.2, tag. (TLS 1.3 has one byte for
/// the kind instead of the nonce.)
pub const OVERHEAD_BYTES_MAX: usize = HEADER_BYTES + EXPLICIT_NONCE_BYTES + TAG_BYTES;
/// A whole record from a peer at most: TLS 1.3 lets it pad by 256 bytes, the ciphers of TLS 1.2 add 24.
pub const RECORD_BYTES_MAX: usize = HEADER_BYTES + PLAINTEXT_BYTES_MAX + 256;

const EXPLICIT_NONCE_BYTES: usize = 8;
const TAG_BYTES: usize = 16;
/// Records under one AES-GCM key (RFC 8446 section 5.5): 2^24 of full size.
const AES_RECORDS_MAX: u64 = 1 << 24;

/// What a record carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// change_cipher_spec(20)
    ChangeCipherSpec = 20,
    /// alert(21)
    Alert = 21,
    /// handshake(22)
    Handshake = 22,
    /// application_data(23)
    ApplicationData = 23,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        [Kind::ChangeCipherSpec, Kind::Alert, Kind::Handshake, Kind::ApplicationData]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// Why a record is refused; the alert to send (RFC 8446 section 6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Refused {
    /// unexpected_message(10)
    Unexpected = 10,
    /// bad_record_mac(20)
    Mac = 20,
    /// record_overflow(22)
    Overflow = 22,
    /// decode_error(50)
    Decode = 50,
}

/// How nonces and additional data are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Tls13,
    /// AES-GCM: a part of the nonce travels with the record.
    Tls12Explicit,
    /// ChaCha20-Poly1305.
    Tls12Implicit,
}

/// Keys of one direction.
pub struct Keys {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    sequence: u64,
    records_max: u64,
    scheme: Scheme,
}

impl Keys {
    /// Keys as the handshake left them, the next record having this number. `None`: a cipher that is none of ours.
    pub fn new(sequence: u64, secrets: &ConnectionTrafficSecrets, tls13: bool) -> Option<Self> {
        let (cipher, key, iv) = parts(secrets)?;
        Keys::of(cipher, key, iv, sequence, tls13)
    }

    /// As [`Keys::new`], of a key as long as the cipher's and a nonce for record number 0.
    pub fn of(cipher: Cipher, key: &[u8], iv: [u8; NONCE_LEN], sequence: u64, tls13: bool) -> Option<Self> {
        let (algorithm, records_max) = match cipher {
            Cipher::Aes128 => (&AES_128_GCM, AES_RECORDS_MAX),
            Cipher::Aes256 => (&AES_256_GCM, AES_RECORDS_MAX),
            Cipher::Chacha20 => (&CHACHA20_POLY1305, u64::MAX),
        };
        let scheme = match (tls13, records_max) {
            (true, _) => Scheme::Tls13,
            (false, AES_RECORDS_MAX) => Scheme::Tls12Explicit,
            (false, _) => Scheme::Tls12Implicit,
        };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key).ok()?);
        Some(Keys { key, iv, sequence, records_max, scheme })
    }

    /// Whether no further record but a last one may be sealed: a KeyUpdate, or an alert.
    pub fn worn_out(&self) -> bool {
        self.sequence >= self.records_max - 1
    }

    /// Whether not even that one may.
    pub fn used_up(&self) -> bool {
        self.sequence >= self.records_max
    }

    /// Whether it is time to think of the end: half of the records these keys may seal are sealed.
    pub fn half_worn(&self) -> bool {
        self.sequence >= self.records_max / 2
    }

    /// The number of the next record.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// So many records were sealed with these keys elsewhere.
    pub fn skip(&mut self, records: u64) {
        self.sequence = self.sequence.saturating_add(records);
    }

    #[cfg(test)]
    pub(super) fn wear_out(&mut self) {
        self.records_max = self.sequence + 1;
    }

    /// Where the plaintext of a record to be sealed has to stand, from the record's start.
    pub fn plaintext_at(&self) -> usize {
        match self.scheme {
            Scheme::Tls12Explicit => HEADER_BYTES + EXPLICIT_NONCE_BYTES,
            Scheme::Tls13 | Scheme::Tls12Implicit => HEADER_BYTES,
        }
    }

    /// Seals the record whose plaintext, `bytes` long, stands at [`Keys::plaintext_at`] in `room`, and says how
    /// long it is now. `room` has [`OVERHEAD_BYTES_MAX`] beside the plaintext.
    ///
    /// # Panics
    /// When `room` is too small, the plaintext longer than [`PLAINTEXT_BYTES_MAX`], or the keys are used up: the
    /// caller has checked that.
    pub fn seal(&mut self, kind: Kind, room: &mut [u8], bytes: usize) -> usize {
        assert!(bytes <= PLAINTEXT_BYTES_MAX && self.sequence < self.records_max, "checked by the caller");
        let start = self.plaintext_at();
        let nonce = self.nonce();
        let mut end = start + bytes;
        let mut shown = kind;
        if self.scheme == Scheme::Tls13 {
            room[end] = kind as u8;
            end += 1;
            shown = Kind::ApplicationData;
        }
        let length = (end + TAG_BYTES - HEADER_BYTES) as u16;
        room[..HEADER_BYTES].copy_from_slice(&header(shown, length));
        if self.scheme == Scheme::Tls12Explicit {
            room[HEADER_BYTES..start].copy_from_slice(&nonce[NONCE_LEN - EXPLICIT_NONCE_BYTES..]);
        }
        let (additional, used) = self.additional(kind, length, bytes);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(&additional[..used]), &mut room[start..end])
            .expect("a record is far shorter than what an AEAD can take");
        room[end..end + TAG_BYTES].copy_from_slice(tag.as_ref());
        self.sequence += 1;
        end + TAG_BYTES
    }

    /// Opens a whole record in place.
    pub fn open<'a>(&mut self, record: &'a mut [u8]) -> Result<(Kind, &'a [u8]), Refused> {
        let (head, body) = record.split_at_mut_checked(HEADER_BYTES).ok_or(Refused::Decode)?;
        let outer = Kind::of(head[0]).ok_or(Refused::Unexpected)?;
        let mut nonce = self.nonce();
        let from = self.plaintext_at() - HEADER_BYTES;
        let bytes = body.len().checked_sub(from + TAG_BYTES).ok_or(Refused::Mac)?;
        if self.scheme == Scheme::Tls12Explicit {
            nonce[..NONCE_LEN - EXPLICIT_NONCE_BYTES]
                .copy_from_slice(&self.iv[..NONCE_LEN - EXPLICIT_NONCE_BYTES]);
            nonce[NONCE_LEN - EXPLICIT_NONCE_BYTES..].copy_from_slice(&body[..from]);
        }
        if self.scheme == Scheme::Tls13 && outer != Kind::ApplicationData {
            return Err(Refused::Unexpected);
        }
        let (additional, used) = self.additional(outer, body.len() as u16, bytes);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let plaintext = self
            .key
            .open_within(nonce, Aad::from(&additional[..used]), body, from..)
            .map_err(|_| Refused::Mac)?;
        self.sequence += 1;
        if self.scheme != Scheme::Tls13 {
            return if plaintext.len() > PLAINTEXT_BYTES_MAX {
                Err(Refused::Overflow)
            } else {
                Ok((outer, plaintext))
            };
        }
        // The kind is the last byte that is not zero (RFC 8446 section 5.4).
        let at = plaintext.iter().rposition(|&byte| byte != 0).ok_or(Refused::Unexpected)?;
        if at > PLAINTEXT_BYTES_MAX {
            return Err(Refused::Overflow);
        }
        let kind = Kind::of(plaintext[at]).ok_or(Refused::Unexpected)?;
        Ok((kind, &plaintext[..at]))
    }

    fn nonce(&self) -> [u8; NONCE_LEN] {
        let mut nonce = self.iv;
        for (byte, number) in nonce[NONCE_LEN - 8..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        nonce
    }

    /// RFC 8446 section 5.2, RFC 5246 section 6.2.3.3.
    fn additional(&self, kind: Kind, length: u16, plaintext: usize) -> ([u8; 13], usize) {
        let mut additional = [0; 13];
        match self.scheme {
            Scheme::Tls13 => {
                // Every protected record looks like application data.
                additional[..HEADER_BYTES].copy_from_slice(&header(Kind::ApplicationData, length));
                (additional, HEADER_BYTES)
            }
            Scheme::Tls12Explicit | Scheme::Tls12Implicit => {
                additional[..8].copy_from_slice(&self.sequence.to_be_bytes());
                additional[8..].copy_from_slice(&header(kind, plaintext as u16));
                (additional, 13)
            }
        }
    }
}

/// Cipher, key and nonce of a handshake's secrets; `None`: a cipher that is none of ours.
pub(super) fn parts(secrets: &ConnectionTrafficSecrets) -> Option<(Cipher, &[u8], [u8; NONCE_LEN])> {
    let (cipher, key, iv) = match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Cipher::Aes128, key, iv),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Cipher::Aes256, key, iv),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (Cipher::Chacha20, key, iv),
        _ => return None,
    };
    Some((cipher, key.as_ref(), iv.as_ref().try_into().ok()?))
}

fn header(kind: Kind, length: u16) -> [u8; HEADER_BYTES] {
    let [high, low] = length.to_be_bytes();
    [kind as u8, 3, 3, high, low]
}

/// Bytes of the record that `input` starts with, once its header is there and all of it has arrived.
pub fn whole_record(input: &[u8]) -> Result<Option<usize>, Refused> {
    let Some(&[kind, major, _, high, low]) = input.first_chunk() else {
        return Ok(None);
    };
    if Kind::of(kind).is_none() || major != 3 {
        return Err(Refused::Unexpected);
    }
    let bytes = HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if bytes > RECORD_BYTES_MAX {
        return Err(Refused::Overflow);
    }
    Ok((input.len() >= bytes).then_some(bytes))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use rustls::crypto::cipher::{AeadKey, Iv};

    fn pair(cipher: u8, tls13: bool) -> (Keys, Keys) {
        let secrets = || {
            let (key, iv) = (AeadKey::from([7; 32]), Iv::new([9; 12]));
            match cipher {
                0 => ConnectionTrafficSecrets::Aes256Gcm { key, iv },
                _ => ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv },
            }
        };
        let keys = || Keys::new(3, &secrets(), tls13).expect("a cipher of ours");
        (keys(), keys())
    }

    pub(in crate::proto) fn sealed(keys: &mut Keys, kind: Kind, plaintext: &[u8]) -> Vec<u8> {
        let mut room = vec![0; plaintext.len() + OVERHEAD_BYTES_MAX];
        let at = keys.plaintext_at();
        room[at..at + plaintext.len()].copy_from_slice(plaintext);
        let bytes = keys.seal(kind, &mut room, plaintext.len());
        room.truncate(bytes);
        room
    }

    #[test]
    fn records_come_back_under_every_scheme_and_none_twice() {
        for (cipher, tls13) in [(0, true), (1, true), (0, false), (1, false)] {
            let (mut seal, mut open) = pair(cipher, tls13);
            for bytes in [0, 1, 100, PLAINTEXT_BYTES_MAX] {
                for kind in [Kind::ApplicationData, Kind::Alert, Kind::Handshake] {
                    let plaintext: Vec<u8> = (0..bytes).map(|i| i as u8).collect();
                    let mut record = sealed(&mut seal, kind, &plaintext);
                    assert_eq!(whole_record(&record), Ok(Some(record.len())));
                    assert_eq!(whole_record(&record[..record.len() - 1]), Ok(None));
                    let mut again = record.clone();
                    assert_eq!(open.open(&mut record), Ok((kind, &plaintext[..])));
                    assert_eq!(open.open(&mut again), Err(Refused::Mac), "a record replayed");
                }
            }
        }
    }

    #[test]
    fn a_single_bit_changed_anywhere_is_refused() {
        for (cipher, tls13) in [(0, true), (0, false), (1, false)] {
            let (mut seal, _) = pair(cipher, tls13);
            let record = sealed(&mut seal, Kind::ApplicationData, b"some plaintext");
            for bit in 0..record.len() * 8 {
                let mut changed = record.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                let (_, mut open) = pair(cipher, tls13);
                // The version is ignored (RFC 8446 section 5.1), and the length was used to cut the record out.
                if (8..40).contains(&bit) {
                    continue;
                }
                assert!(open.open(&mut changed).is_err(), "bit {bit} of {cipher} {tls13}");
            }
        }
    }

    #[test]
    fn lengths_and_kinds_are_judged_by_the_header() {
        assert_eq!(whole_record(&[23, 3, 3, 0]), Ok(None));
        assert_eq!(whole_record(&[23, 3, 3, 0x40, 0xff]), Ok(None));
        assert_eq!(whole_record(&[23, 3, 3, 0x41, 1]), Err(Refused::Overflow));
        assert_eq!(whole_record(&[24, 3, 3, 0, 0]), Err(Refused::Unexpected));
        assert_eq!(whole_record(b"GET / HTTP/1.1"), Err(Refused::Unexpected));
    }

    #[test]
    fn plaintext_of_nothing_but_padding_and_too_long_ones_are_refused() {
        let (mut seal, mut open) = pair(0, true);
        let mut room = vec![0; 100];
        // The kind itself is zero.
        let mut padded = {
            let bytes = seal.seal(Kind::ApplicationData, &mut room, 10);
            room.truncate(bytes);
            room
        };
        assert_eq!(open.open(&mut padded), Ok((Kind::ApplicationData, &[0; 10][..])));
        assert_eq!(open.open(&mut [23, 3, 3, 0, 4, 1, 2, 3, 4]), Err(Refused::Mac));
    }
}
