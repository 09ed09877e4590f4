//! Session tickets that any worker opens, whichever sealed them (RFC 5077, RFC 8446 section 4.6.1).
//!
//! A new secret every [`limits::TICKET_ROTATION_S`]; tickets of the one before are still taken. From each secret a key
//! is derived for each policy: a ticket resumes a session only where the same rules would have admitted it, so that
//! a session begun without a client certificate opens no door that asks for one.
#![forbid(unsafe_code)]

use crate::limits;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Prk, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::server::ProducesTickets;

const NAME_BYTES: usize = 16;
const TAG_BYTES: usize = 16;
/// A session's state with a client's certificates in it; what is longer was never sealed here.
const TICKET_BYTES_MAX: usize = 16 * 1024;

/// The secrets of the node: the current one, and the one before.
#[derive(Clone)]
pub struct Secrets {
    current: Prk,
    previous: Option<Prk>,
}

impl Secrets {
    /// A fresh secret. `None`: the system gives no randomness.
    pub fn new() -> Option<Self> {
        Some(Secrets { current: secret()?, previous: None })
    }

    /// A fresh secret; the current one becomes the previous.
    pub fn rotate(&mut self) -> Option<()> {
        let fresh = secret()?;
        self.previous = Some(std::mem::replace(&mut self.current, fresh));
        Some(())
    }

    /// The keys for sessions admitted under `policy`, any bytes that name it.
    pub fn tickets(&self, policy: &[u8]) -> Option<Tickets> {
        let previous = match &self.previous {
            Some(previous) => Some(Key::derive(previous, policy)?),
            None => None,
        };
        Some(Tickets { current: Key::derive(&self.current, policy)?, previous, random: SystemRandom::new() })
    }
}

fn secret() -> Option<Prk> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(Salt::new(HKDF_SHA256, b"edge session tickets").extract(&bytes))
}

struct Key {
    /// Travels with the ticket, to find the key by.
    name: [u8; NAME_BYTES],
    key: LessSafeKey,
}

impl Key {
    fn derive(secret: &Prk, policy: &[u8]) -> Option<Self> {
        let mut name = [0; NAME_BYTES];
        let mut key = [0; 32];
        // The name has the length of no key type: it is the front half of an output of its own.
        let mut long_name = [0; 32];
        secret.expand(&[b"name", policy], HKDF_SHA256).ok()?.fill(&mut long_name).ok()?;
        secret.expand(&[b"key", policy], HKDF_SHA256).ok()?.fill(&mut key).ok()?;
        name.copy_from_slice(&long_name[..NAME_BYTES]);
        Some(Key { name, key: LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).ok()?) })
    }
}

/// Seals and opens the tickets of one policy.
pub struct Tickets {
    current: Key,
    previous: Option<Key>,
    random: SystemRandom,
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tickets")
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    /// Seconds for which a ticket sealed now is opened at least.
    fn lifetime(&self) -> u32 {
        limits::TICKET_ROTATION_S as u32
    }

    /// Name, nonce, sealed state, tag. A random nonce: 2^32 tickets under one key are far out of reach.
    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        let mut ticket = Vec::with_capacity(NAME_BYTES + NONCE_LEN + plain.len() + TAG_BYTES);
        ticket.extend_from_slice(&self.current.name);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(plain);
        let (name, rest) = ticket.split_at_mut(NAME_BYTES);
        let tag = self
            .current
            .key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(&*name),
                &mut rest[NONCE_LEN..],
            )
            .ok()?;
        ticket.extend_from_slice(tag.as_ref());
        (ticket.len() <= TICKET_BYTES_MAX).then_some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > TICKET_BYTES_MAX {
            return None;
        }
        let (name, rest) = ticket.split_first_chunk::<NAME_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let key = [Some(&self.current), self.previous.as_ref()]
            .into_iter()
            .flatten()
            // The name is no secret: it stands in every ticket.
            .find(|key| key.name == *name)?;
        let mut plain = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let bytes = key.key.open_in_place(nonce, Aad::from(name), &mut plain).ok()?.len();
        plain.truncate(bytes);
        Some(plain)
    }
}

const _: () = assert!(limits::TICKET_ROTATION_S <= u32::MAX as u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_opened_for_two_rotations_under_its_own_policy_alone() {
        let mut secrets = Secrets::new().unwrap();
        let first = secrets.tickets(b"a").unwrap();
        let ticket = first.encrypt(b"state").unwrap();
        assert_eq!(first.decrypt(&ticket).as_deref(), Some(&b"state"[..]));
        assert_ne!(first.encrypt(b"state").unwrap(), ticket, "the nonce is fresh");
        assert_eq!(secrets.tickets(b"b").unwrap().decrypt(&ticket), None, "another policy");
        secrets.rotate().unwrap();
        let second = secrets.tickets(b"a").unwrap();
        assert_eq!(second.decrypt(&ticket).as_deref(), Some(&b"state"[..]));
        secrets.rotate().unwrap();
        assert_eq!(secrets.tickets(b"a").unwrap().decrypt(&ticket), None);
    }

    #[test]
    fn a_changed_or_cut_ticket_is_none() {
        let tickets = Secrets::new().unwrap().tickets(b"a").unwrap();
        let ticket = tickets.encrypt(b"state").unwrap();
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(tickets.decrypt(&changed), None, "byte {at}");
            assert_eq!(tickets.decrypt(&ticket[..at]), None, "cut at {at}");
        }
        assert_eq!(tickets.encrypt(&vec![0; TICKET_BYTES_MAX]), None);
        assert_eq!(tickets.decrypt(&vec![0; TICKET_BYTES_MAX + 1]), None);
    }
}
