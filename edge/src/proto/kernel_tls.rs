//! What the kernel must know to seal the records of a connection in our stead (Linux's `include/uapi/linux/tls.h`),
//! and how long it may. Who tells it is `sys::kernel_tls`; when, `worker::kernel_tls`.
//!
//! Only the way out is handed over. Records from the peer are opened here as before: through the kernel each receive
//! would need a control message to tell handshake records and alerts from data, requests are small, and a peer's
//! KeyUpdate would need a kernel that renews keys (6.14). The way out has none of this: bodies are sealed as they
//! are copied into the socket, in one pass instead of two, and what is no application data is one alert.
//!
//! What the kernel cannot do decides two rules. It cannot send a KeyUpdate and go on with new keys, so a peer that
//! asks for one (RFC 8446 section 4.6.3) is told close_notify instead, and keys that near their limit
//! (section 5.5) end the connection: after the response under way where there is time for it.
#![forbid(unsafe_code)]

use super::records::{Keys, PLAINTEXT_BYTES_MAX, parts};
use super::tls::Cipher;
use ring::aead::NONCE_LEN;
use rustls::ConnectionTrafficSecrets;

/// Bytes of the largest of the kernel's structures (AES-256-GCM, ChaCha20-Poly1305).
const INFO_BYTES_MAX: usize = 56;
const AES_128_GCM: u16 = 51;
const AES_256_GCM: u16 = 52;
const CHACHA20_POLY1305: u16 = 54;
const TLS_1_2: u16 = 0x0303;
const TLS_1_3: u16 = 0x0304;
/// Of AES-GCM's nonce: what every record has, before what each has of its own.
const SALT_BYTES: usize = 4;

/// `struct tls12_crypto_info_*`: cipher, keys, nonce, and the number of the next record. Erased when dropped.
pub struct CryptoInfo {
    bytes: [u8; INFO_BYTES_MAX],
    used: usize,
}

impl CryptoInfo {
    /// For records from number `sequence` on. `None`: a cipher that is none of ours.
    pub fn new(tls13: bool, secrets: &ConnectionTrafficSecrets, sequence: u64) -> Option<Self> {
        let (cipher, key, nonce) = parts(secrets)?;
        Some(Self::of(cipher, key, nonce, sequence, tls13))
    }

    fn of(cipher: Cipher, key: &[u8], mut nonce: [u8; NONCE_LEN], sequence: u64, tls13: bool) -> Self {
        let (number, salt) = match cipher {
            Cipher::Aes128 => (AES_128_GCM, SALT_BYTES),
            Cipher::Aes256 => (AES_256_GCM, SALT_BYTES),
            // It has none.
            Cipher::Chacha20 => (CHACHA20_POLY1305, 0),
        };
        if !tls13 && salt > 0 {
            // With TLS 1.2 the kernel counts the explicit part of the nonce up from what it is given, while we have
            // made ours by XOR with the record's number: from the other half of all nonces it meets none of them.
            nonce[SALT_BYTES] ^= 0x80;
        }
        let mut info = CryptoInfo { bytes: [0; INFO_BYTES_MAX], used: 0 };
        info.push(&if tls13 { TLS_1_3 } else { TLS_1_2 }.to_ne_bytes());
        info.push(&number.to_ne_bytes());
        info.push(&nonce[salt..]);
        info.push(key);
        info.push(&nonce[..salt]);
        info.push(&sequence.to_be_bytes());
        info
    }

    /// Keys of TLS 1.3 to try a kernel with, and those that open what it seals. They protect nothing.
    pub fn trial(cipher: Cipher) -> (Self, Keys) {
        let key = [7; 32];
        let key = if cipher == Cipher::Aes128 { &key[..16] } else { &key[..] };
        let (nonce, sequence) = ([9; NONCE_LEN], 5);
        let open = Keys::of(cipher, key, nonce, sequence, true).expect("the key is as long as the cipher's");
        (Self::of(cipher, key, nonce, sequence, true), open)
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.used..self.used + bytes.len()].copy_from_slice(bytes);
        self.used += bytes.len();
    }

    /// As the kernel reads it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.used]
    }
}

impl Drop for CryptoInfo {
    fn drop(&mut self) {
        self.bytes.fill(0);
        std::hint::black_box(&self.bytes);
    }
}

/// The ciphers that a kernel seals with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ciphers(u8);

impl Ciphers {
    /// One more.
    pub fn insert(&mut self, cipher: Cipher) {
        self.0 |= 1 << cipher as u8;
    }

    /// Whether this one is among them.
    pub fn has(self, cipher: Cipher) -> bool {
        self.0 & 1 << cipher as u8 != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// How many records the kernel makes at most of so many bytes in one message. It fills them, but for the last and where
/// it runs out of entries for the pages of one: a quarter of a full record is what that leaves at least.
pub fn records_at_most(bytes: usize) -> u64 {
    (bytes / (PLAINTEXT_BYTES_MAX / 4) + 1) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::crypto::cipher::{AeadKey, Iv};

    fn info(tls13: bool, sequence: u64) -> [Vec<u8>; 2] {
        let iv = || Iv::new(std::array::from_fn(|at| 0x10 + at as u8));
        let key = || AeadKey::from(std::array::from_fn::<u8, 32, _>(|at| 0x80 + at as u8));
        let aes = ConnectionTrafficSecrets::Aes256Gcm { key: key(), iv: iv() };
        let chacha = ConnectionTrafficSecrets::Chacha20Poly1305 { key: key(), iv: iv() };
        [aes, chacha].map(|secrets| CryptoInfo::new(tls13, &secrets, sequence).unwrap().as_bytes().to_vec())
    }

    #[test]
    fn structures_are_laid_out_as_the_kernel_reads_them() {
        let [aes, chacha] = info(true, 0x0102);
        assert_eq!(aes.len(), size_of::<libc::tls12_crypto_info_aes_gcm_256>());
        assert_eq!(chacha.len(), size_of::<libc::tls12_crypto_info_chacha20_poly1305>());
        let nonce: Vec<u8> = (0x10..0x1c).collect();
        let key: Vec<u8> = (0x80..0xa0).collect();
        let number = 0x0102_u64.to_be_bytes();
        assert_eq!(aes, [&[4, 3, 52, 0], &nonce[4..], &key, &nonce[..4], &number].concat());
        assert_eq!(chacha, [&[4, 3, 54, 0], &nonce[..], &key, &number].concat());
    }

    #[test]
    fn explicit_nonces_of_the_kernel_are_none_of_those_used_before() {
        let [aes, chacha] = info(false, 7);
        assert_eq!(aes[..4], [3, 3, 52, 0]);
        assert_eq!((aes[4], &aes[5..12]), (0x14 ^ 0x80, &[0x15, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x1b][..]));
        // With ChaCha20-Poly1305 both make the nonce by XOR with the number.
        assert_eq!(chacha[4..16], (0x10..0x1c).collect::<Vec<u8>>());
    }

    #[test]
    fn records_are_never_counted_too_few() {
        assert_eq!(records_at_most(0), 1);
        assert_eq!(records_at_most(PLAINTEXT_BYTES_MAX), 5);
    }
}
