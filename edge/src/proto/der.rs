//! The little of DER (X.690) that is read of certificates and OCSP responses: elements of one-byte tags, and times.
//! What the elements mean is said where they are read.
#![forbid(unsafe_code)]

pub(super) const INTEGER: u8 = 0x02;
pub(super) const OCTETS: u8 = 0x04;
pub(super) const IDENTIFIER: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;
/// `[0]` with an element within, as versions and optional times are written.
pub(super) const EXPLICIT_0: u8 = 0xa0;

/// The content of the DER element that `der` starts with, and what follows it.
pub(super) fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = der.split_first()?;
    let (&length, mut rest) = rest.split_first()?;
    if first != tag {
        return None;
    }
    let mut bytes = usize::from(length);
    if length >= 0x80 {
        let count = usize::from(length & 0x7f);
        if !(1..=4).contains(&count) {
            return None;
        }
        let (digits, after) = rest.split_at_checked(count)?;
        bytes = digits.iter().fold(0, |sum, &digit| sum << 8 | usize::from(digit));
        rest = after;
    }
    rest.split_at_checked(bytes)
}

/// A UTCTime or GeneralizedTime as RFC 5280 section 4.1.2.5 writes them, with seconds and in UTC.
pub(super) fn time(der: &[u8]) -> Option<(u64, &[u8])> {
    let (text, rest, year_digits) = match element(der, 0x17) {
        Some((text, rest)) => (text, rest, 2),
        None => element(der, 0x18).map(|(text, rest)| (text, rest, 4))?,
    };
    let digits = text.strip_suffix(b"Z")?;
    if digits.len() != year_digits + 10 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |from: usize, count: usize| {
        digits[from..from + count].iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'))
    };
    let year = match (year_digits, number(0, year_digits)) {
        (2, year @ 50..) => 1900 + year,
        (2, year) => 2000 + year,
        (_, year) => year,
    };
    let [month, day, hour, minute, second] = [0, 2, 4, 6, 8].map(|at| number(year_digits + at, 2));
    // Days since 1970 (Howard Hinnant, chrono-compatible low-level date algorithms): years begin in March.
    let shifted_year = year - i64::from(month <= 2);
    let (era, of_era) = (shifted_year.div_euclid(400), shifted_year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    // Before 1970: as good as 1970.
    Some((u64::try_from(seconds).unwrap_or(0), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_both_forms() {
        let at = |tag: u8, text: &str| {
            let mut der = vec![tag, text.len() as u8];
            der.extend_from_slice(text.as_bytes());
            time(&der).map(|(seconds, _)| seconds)
        };
        assert_eq!(at(0x17, "700101000000Z"), Some(0));
        assert_eq!(at(0x17, "491231235959Z"), Some(2_524_607_999));
        assert_eq!(at(0x17, "500101000000Z"), Some(0), "1950");
        assert_eq!(at(0x18, "20000229120000Z"), Some(951_825_600));
        assert_eq!(at(0x18, "99991231235959Z"), Some(253_402_300_799));
        for wrong in ["", "Z", "7001010000Z", "700101000000", "70010100000aZ"] {
            assert_eq!(at(0x17, wrong), None, "{wrong}");
        }
        assert_eq!(element(&[0x30, 0x85, 1, 1, 1, 1, 1], 0x30), None);
        assert_eq!(element(&[0x30, 0x82, 1], 0x30), None);
    }
}
