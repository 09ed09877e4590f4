//! HTTP-date (RFC 9110 section 5.6.7), all three forms, to seconds since the Unix epoch. Strict as the RFC is in
//! everything but case, and but whether the day of the week fits the date: no recipient gains from refusing these.
#![forbid(unsafe_code)]

const WEEKDAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
/// Two digits below this are of this century; RFC 9110 sets the change 50 years ahead of now.
const CENTURY_CHANGE: u64 = 70;

/// Seconds since the Unix epoch; `None`: not an HTTP-date, or before 1970.
pub(crate) fn parse(value: &[u8]) -> Option<u64> {
    let text = str::from_utf8(value).ok()?;
    imf_fixdate(text).or_else(|| rfc850(text)).or_else(|| asctime(text))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`
fn imf_fixdate(text: &str) -> Option<u64> {
    let rest = weekday(text, 3)?.strip_prefix(", ")?;
    let (day, rest) = digits(rest, 2)?;
    let (month, rest) = month(rest.strip_prefix(' ')?)?;
    let (year, rest) = digits(rest.strip_prefix(' ')?, 4)?;
    let (time_s, rest) = time(rest.strip_prefix(' ')?)?;
    rest.eq_ignore_ascii_case(" GMT").then(|| seconds(year, month, day, time_s))?
}

/// `Sunday, 06-Nov-94 08:49:37 GMT`
fn rfc850(text: &str) -> Option<u64> {
    let rest = weekday(text, usize::MAX)?.strip_prefix(", ")?;
    let (day, rest) = digits(rest, 2)?;
    let (month, rest) = month(rest.strip_prefix('-')?)?;
    let (year, rest) = digits(rest.strip_prefix('-')?, 2)?;
    let (time_s, rest) = time(rest.strip_prefix(' ')?)?;
    let year = if year < CENTURY_CHANGE { 2000 + year } else { 1900 + year };
    rest.eq_ignore_ascii_case(" GMT").then(|| seconds(year, month, day, time_s))?
}

/// `Sun Nov  6 08:49:37 1994`
fn asctime(text: &str) -> Option<u64> {
    let (month, rest) = month(weekday(text, 3)?.strip_prefix(' ')?)?;
    let rest = rest.strip_prefix(' ')?;
    let (day, rest) = match rest.strip_prefix(' ') {
        Some(rest) => digits(rest, 1)?,
        None => digits(rest, 2)?,
    };
    let (time_s, rest) = time(rest.strip_prefix(' ')?)?;
    let (year, rest) = digits(rest.strip_prefix(' ')?, 4)?;
    rest.is_empty().then(|| seconds(year, month, day, time_s))?
}

/// What follows the name of a weekday, of which the first `bytes` are written.
fn weekday(text: &str, bytes: usize) -> Option<&str> {
    WEEKDAYS.iter().find_map(|name| {
        let name = &name[..name.len().min(bytes)];
        let (day, rest) = text.split_at_checked(name.len())?;
        day.eq_ignore_ascii_case(name).then_some(rest)
    })
}

/// The number of a month from 0, and what follows it.
fn month(text: &str) -> Option<(u64, &str)> {
    let (month, rest) = text.split_at_checked(3)?;
    let at = MONTHS.iter().position(|name| month.eq_ignore_ascii_case(name))?;
    Some((at as u64, rest))
}

/// `08:49:37` in seconds, and what follows it. A leap second counts as the one before.
fn time(text: &str) -> Option<(u64, &str)> {
    let (hour, rest) = digits(text, 2)?;
    let (minute, rest) = digits(rest.strip_prefix(':')?, 2)?;
    let (second, rest) = digits(rest.strip_prefix(':')?, 2)?;
    let is_time = hour < 24 && minute < 60 && second <= 60;
    is_time.then_some((hour * 3600 + minute * 60 + second.min(59), rest))
}

/// A number of exactly so many digits, and what follows it.
fn digits(text: &str, count: usize) -> Option<(u64, &str)> {
    let (digits, rest) = text.split_at_checked(count)?;
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    Some((digits.parse().ok().filter(|_| is_number)?, rest))
}

/// `None`: no such day, or before 1970. `month` counts from 0.
fn seconds(year: u64, month: u64, day: u64, time_s: u64) -> Option<u64> {
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let february = if is_leap { 29 } else { 28 };
    let days_of = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    if year < 1970 || day == 0 || day > *days_of.get(month as usize)? {
        return None;
    }
    let before = year - 1;
    let leap_days = before / 4 - before / 100 + before / 400 - (1969 / 4 - 1969 / 100 + 1969 / 400);
    let days = (year - 1970) * 365 + leap_days + days_of[..month as usize].iter().sum::<u64>() + day - 1;
    Some(days * 86_400 + time_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_forms_in_any_case_and_nothing_else() {
        for (text, want) in [
            ("Tue, 14 Nov 2023 22:13:20 GMT", Some(1_700_000_000)),
            ("TUE, 14 NOV 2023 22:13:20 gMt", Some(1_700_000_000)),
            ("tue, 14 nov 2023 22:13:20 gmt", Some(1_700_000_000)),
            ("Tuesday, 14-Nov-23 22:13:20 GMT", Some(1_700_000_000)),
            ("TUESDAY, 14-NOV-23 22:13:20 GMT", Some(1_700_000_000)),
            ("Tue Nov 14 22:13:20 2023", Some(1_700_000_000)),
            ("Thu Aug  8 02:01:18 2050", Some(2_543_536_878)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(784_111_777)),
            ("Sun Nov  6 08:49:37 1994", Some(784_111_777)),
            ("Sat, 29 Feb 2020 00:00:00 GMT", Some(1_582_934_400)),
            ("Mon, 29 Feb 2021 00:00:00 GMT", None),
            ("Mon, 00 Mar 2021 00:00:00 GMT", None),
            ("Sat, 31 Dec 2016 23:59:60 GMT", Some(1_483_228_799)),
            ("Mon, 01 Mar 2021 24:00:00 GMT", None),
            ("Mon, 01 Mar 2021 00:60:00 GMT", None),
            ("Wed, 31 Dec 1969 23:59:59 GMT", None),
            ("Xyz, 01 Mar 2021 00:00:00 GMT", None),
            ("Mon, +1 Mar 2021 00:00:00 GMT", None),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(253_402_300_799)),
            ("Tue, 14 Nov 2023 22:13:20 UTC", None),
            ("Tue, 14 Nov 2023 22:13:20 AEST", None),
            ("Tue, 14 Nov 2023 22:13:20", None),
            ("Tue 14 Nov 2023 22:13:20 GMT", None),
            ("Tue, 14 Nov 23 22:13:20 GMT", None),
            ("Tue, 14  Nov  2023 22:13:20 GMT", None),
            ("Tue, 14-Nov-2023 22:13:20 GMT", None),
            ("Tue, 14 Nov 2023 22.13.20 GMT", None),
            ("Tue, 14 Nov 2023 2:13:20 GMT", None),
            ("Tue, 14 Nov 2023 22:13:20 GMT, Tue, 14 Nov 2023 22:13:20 GMT", None),
            ("0", None),
            ("-1", None),
            ("", None),
            ("\u{e9}", None),
        ] {
            assert_eq!(parse(text.as_bytes()), want, "{text}");
        }
    }

    #[test]
    fn every_day_of_four_centuries_is_what_httpdate_says() {
        for day in 0..(400 * 366) {
            let wanted_s = day * 86_400 + day % 86_400;
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(wanted_s);
            assert_eq!(parse(httpdate::fmt_http_date(time).as_bytes()), Some(wanted_s));
        }
    }
}
