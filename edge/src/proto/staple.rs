//! OCSP responses as a file holds them, to be stapled to handshakes (RFC 6960, RFC 6066 section 8): which certificate
//! one is about and until when. Its signature is for clients to check, who know the authority.
//!
//! A response that is out of date, or about a certificate that was renewed since, makes clients refuse the handshake,
//! whereas nearly all take one without: so it is left out, and what is right with the certificate goes on.
#![forbid(unsafe_code)]

use super::der::{EXPLICIT_0, IDENTIFIER, INTEGER, OCTETS, SEQUENCE, element, time};

const ENUMERATED: u8 = 0x0a;
const PRODUCED_AT: u8 = 0x18;
const RESPONDER_NAME: u8 = 0xa1;
const RESPONDER_KEY: u8 = 0xa2;
/// `id-pkix-ocsp-basic`, the only type there is.
const BASIC: [u8; 9] = [0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];

/// What there is to staple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Staple {
    /// No file was named.
    None,
    /// The response says nothing of the certificate.
    OfAnother,
    /// It is good until then, Unix seconds.
    Until(u64),
}

impl Staple {
    /// Whether it may be sent at that time.
    pub fn is_good(self, now_s: u64) -> bool {
        matches!(self, Staple::Until(until_s) if now_s < until_s)
    }

    /// Why it is not stapled at that time; in words that follow the file's name.
    pub fn left_out(self, now_s: u64) -> Option<&'static str> {
        match self {
            Staple::None => None,
            Staple::OfAnother => {
                Some("is about another certificate and is not stapled; ask the authority about this one")
            }
            Staple::Until(_) if self.is_good(now_s) => None,
            Staple::Until(_) => Some("has expired and is not stapled; ask the authority for a new one"),
        }
    }
}

/// What the DER of a response says of the certificate with this serial number.
///
/// # Errors
/// It is no such response; in words that follow the file's name.
pub fn of(response: &[u8], serial: &[u8]) -> Result<Staple, &'static str> {
    let wrong = "is no OCSP response; write what `openssl ocsp -respout FILE` gets, which is DER";
    let (fields, _) = element(response, SEQUENCE).ok_or(wrong)?;
    let (status, fields) = element(fields, ENUMERATED).ok_or(wrong)?;
    if status != [0] {
        return Err("is an OCSP response with nothing but an error; ask the authority again");
    }
    singles(fields).and_then(|responses| about(responses, serial)).ok_or(wrong)
}

/// The sequence of single responses (RFC 6960 section 4.2.1).
fn singles(fields: &[u8]) -> Option<&[u8]> {
    let (bytes, _) = element(fields, EXPLICIT_0)?;
    let (bytes, _) = element(bytes, SEQUENCE)?;
    let (_, bytes) = element(bytes, IDENTIFIER).filter(|(kind, _)| *kind == BASIC)?;
    let (basic, _) = element(bytes, OCTETS)?;
    let (basic, _) = element(basic, SEQUENCE)?;
    let (mut data, _) = element(basic, SEQUENCE)?;
    if let Some((_version, rest)) = element(data, EXPLICIT_0) {
        data = rest;
    }
    let (_, data) = element(data, RESPONDER_NAME).or_else(|| element(data, RESPONDER_KEY))?;
    let (_, data) = element(data, PRODUCED_AT)?;
    Some(element(data, SEQUENCE)?.0)
}

/// The first of them with this serial number counts.
fn about(mut responses: &[u8], serial: &[u8]) -> Option<Staple> {
    while !responses.is_empty() {
        let (single, rest) = element(responses, SEQUENCE)?;
        responses = rest;
        let (mut id, single) = element(single, SEQUENCE)?;
        // Hash algorithm, hashes of the issuer's name and key.
        for tag in [SEQUENCE, OCTETS, OCTETS] {
            id = element(id, tag)?.1;
        }
        if element(id, INTEGER)?.0 != serial {
            continue;
        }
        // Good, revoked or unknown: clients are told, whichever it is.
        let (_, single) = element(single, *single.first()?)?;
        let (_this_update, single) = time(single)?;
        // Without it newer information is there at any time, and this one is never out of date (section 4.2.2.1).
        let until_s = match element(single, EXPLICIT_0) {
            Some((next_update, _)) => time(next_update)?.0,
            None => u64::MAX,
        };
        return Some(Staple::Until(until_s));
    }
    Some(Staple::OfAnother)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let bytes = parts.concat();
        let mut der = vec![tag, 0x82];
        der.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
        der.extend_from_slice(&bytes);
        der
    }

    fn single(serial: &[u8], next_update: Option<&str>) -> Vec<u8> {
        let hash = der(OCTETS, &[&[7; 20]]);
        let id = der(SEQUENCE, &[&der(SEQUENCE, &[]), &hash, &hash, &der(INTEGER, &[serial])]);
        let next = next_update
            .map_or_else(Vec::new, |text| der(EXPLICIT_0, &[&der(PRODUCED_AT, &[text.as_bytes()])]));
        der(SEQUENCE, &[&id, &[0x80, 0], &der(PRODUCED_AT, &[b"20200101000000Z"]), &next])
    }

    fn made(singles: &[&[u8]]) -> Vec<u8> {
        let responder = der(RESPONDER_KEY, &[&der(OCTETS, &[&[9; 20]])]);
        let at = der(PRODUCED_AT, &[b"20200101000000Z"]);
        let data = der(SEQUENCE, &[&responder, &at, &der(SEQUENCE, singles)]);
        let basic = der(SEQUENCE, &[&data, &der(SEQUENCE, &[])]);
        let bytes = der(SEQUENCE, &[&der(IDENTIFIER, &[&BASIC]), &der(OCTETS, &[&basic])]);
        der(SEQUENCE, &[&[ENUMERATED, 1, 0], &der(EXPLICIT_0, &[&bytes])])
    }

    /// A response about the certificate with this serial number, good until then (GeneralizedTime).
    pub(crate) fn response(serial: &[u8], next_update: &str) -> Vec<u8> {
        made(&[&single(serial, Some(next_update))])
    }

    #[test]
    fn a_response_is_about_its_certificate_until_its_next_update() {
        let (ours, other) =
            (single(&[1, 2], Some("20500101000000Z")), single(&[1, 3], Some("20210101000000Z")));
        // date -u -d 2050-01-01 +%s
        assert_eq!(of(&made(&[&ours]), &[1, 2]), Ok(Staple::Until(2_524_608_000)));
        assert_eq!(of(&made(&[&other, &ours]), &[1, 2]), Ok(Staple::Until(2_524_608_000)));
        assert_eq!(of(&made(&[&other]), &[1, 2]), Ok(Staple::OfAnother));
        assert_eq!(of(&made(&[]), &[1, 2]), Ok(Staple::OfAnother));
        assert_eq!(of(&made(&[&single(&[1, 2], None)]), &[1, 2]), Ok(Staple::Until(u64::MAX)));
        let until = Staple::Until(100);
        assert!(until.is_good(99) && !until.is_good(100) && !Staple::OfAnother.is_good(0));
        assert!(
            until.left_out(99).is_none() && until.left_out(100).is_some_and(|why| why.contains("expired"))
        );
        assert!(Staple::OfAnother.left_out(0).is_some() && Staple::None.left_out(0).is_none());
    }

    #[test]
    fn what_is_no_response_is_told() {
        let whole = response(&[1, 2], "20500101000000Z");
        for bytes in 0..whole.len() {
            assert!(of(&whole[..bytes], &[1, 2]).is_err(), "{bytes}");
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x81;
            // Whatever it says, it is read to an end.
            let _ = of(&changed, &[1, 2]);
        }
        assert!(of(b"-----BEGIN OCSP RESPONSE-----", &[1]).is_err_and(|why| why.contains("is DER")));
        // tryLater
        let error = der(SEQUENCE, &[&[ENUMERATED, 1, 3]]);
        assert!(of(&error, &[1]).is_err_and(|why| why.contains("but an error")));
    }
}
