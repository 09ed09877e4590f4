//! Whether the kernel can seal records for us: tried on connections to ourselves, cipher by cipher, and what it sealed
//! is opened and compared. To be done while modules of the kernel may still be loaded (CAP_NET_ADMIN).
#![forbid(unsafe_code)]

use crate::proto::kernel_tls::{Ciphers, CryptoInfo};
use crate::proto::records::{HEADER_BYTES, Kind, OVERHEAD_BYTES_MAX};
use crate::proto::tls::Cipher;
use crate::sys::kernel_tls::try_hand_over;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

const CIPHERS: [(Cipher, &str); 3] = [
    (Cipher::Aes128, "AES-128-GCM"),
    (Cipher::Aes256, "AES-256-GCM"),
    (Cipher::Chacha20, "ChaCha20-Poly1305"),
];
/// More than the kernel needs to seal a few bytes and bring them over the loopback.
const PATIENCE: Duration = Duration::from_secs(2);

/// What came of it.
#[derive(Clone, Debug)]
pub struct KernelTls {
    /// `on`: connections with much to send are handed to the kernel.
    pub state: &'static str,
    /// What the kernel seals with.
    pub ciphers: Vec<&'static str>,
    /// Why not with more, or not at all, and what would help.
    pub reason: String,
    /// As workers need it.
    pub usable: Ciphers,
}

impl KernelTls {
    /// It is not used.
    pub fn off(reason: &str) -> Self {
        KernelTls { state: "off", ciphers: Vec::new(), reason: reason.into(), usable: Ciphers::default() }
    }

    /// Tries every cipher.
    pub fn probe() -> Self {
        Self::of(attempt)
    }

    fn of(mut attempt: impl FnMut(Cipher) -> io::Result<()>) -> Self {
        let mut found = Self::off("");
        let mut reasons = Vec::new();
        for (cipher, name) in CIPHERS {
            match attempt(cipher) {
                Ok(()) => {
                    found.usable.insert(cipher);
                    found.ciphers.push(name);
                }
                Err(error) => reasons.push(format!("{name}: {}", reason(&error))),
            }
        }
        if found.usable.is_empty() {
            // All of them fail for the same reason, or the first one says enough.
            reasons.truncate(1);
            found.reason =
                reasons.pop().and_then(|text| Some(text.split_once(": ")?.1.to_owned())).unwrap_or_default();
        } else {
            found.state = "on";
            found.reason = reasons.join("; ");
        }
        found
    }
}

fn reason(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => {
            "this kernel sets no options of sockets through a ring; Linux 6.7 does".into()
        }
        Some(libc::ENOENT) => {
            "this kernel has no TLS: load its module tls (modprobe tls), or boot one with CONFIG_TLS".into()
        }
        _ => error.to_string(),
    }
}

/// A record and an alert's worth of it, there and back.
fn attempt(cipher: Cipher) -> io::Result<()> {
    const TEXT: &[u8] = b"sealed by the kernel";
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut ours = TcpStream::connect_timeout(&listener.local_addr()?, PATIENCE)?;
    let (mut theirs, _) = listener.accept()?;
    theirs.set_read_timeout(Some(PATIENCE))?;
    let (info, mut open) = CryptoInfo::trial(cipher);
    try_hand_over(ours.as_fd(), info)?;
    for _ in 0..2 {
        ours.write_all(TEXT)?;
        // Header, text, kind and tag (RFC 8446 section 5.2).
        let mut record = vec![0; OVERHEAD_BYTES_MAX + TEXT.len()];
        theirs.read_exact(&mut record[..HEADER_BYTES])?;
        let bytes = HEADER_BYTES + usize::from(u16::from_be_bytes([record[3], record[4]]));
        let record = record.get_mut(..bytes).ok_or_else(differs)?;
        theirs.read_exact(&mut record[HEADER_BYTES..])?;
        if open.open(record) != Ok((Kind::ApplicationData, TEXT)) {
            return Err(differs());
        }
    }
    Ok(())
}

fn differs() -> io::Error {
    io::Error::other("what the kernel sealed cannot be opened")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_reason_is_told_for_all_and_the_missing_ones_are_named() {
        let missing = |_| Err(io::Error::from_raw_os_error(libc::ENOENT));
        let none = KernelTls::of(missing);
        assert_eq!((none.state, none.usable.is_empty()), ("off", true));
        assert!(none.reason.starts_with("this kernel has no TLS: load its module"), "{}", none.reason);
        let some = KernelTls::of(|cipher| if cipher == Cipher::Chacha20 { missing(cipher) } else { Ok(()) });
        assert_eq!((some.state, &some.ciphers[..]), ("on", &["AES-128-GCM", "AES-256-GCM"][..]));
        assert!(some.usable.has(Cipher::Aes256) && !some.usable.has(Cipher::Chacha20));
        assert!(some.reason.starts_with("ChaCha20-Poly1305: this kernel has no TLS"), "{}", some.reason);
        let old = KernelTls::of(|_| Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)));
        assert!(old.reason.contains("6.7"), "{}", old.reason);
    }

    #[test]
    fn the_kernel_of_this_machine_is_judged_without_an_error_of_ours() {
        let found = KernelTls::probe();
        assert_eq!(found.state == "on", !found.usable.is_empty());
        assert!(found.state == "on" || found.reason.contains("kernel"), "{}", found.reason);
        assert!(!found.reason.contains("cannot be opened"), "{}", found.reason);
    }
}
