//! The origin that all caches of a benchmark fetch from: a thread serving bodies that can be computed
//! again, with a long freshness, and counting its requests so that a "hit" which asked the origin is found.
#![forbid(unsafe_code)]

use anyhow::Result;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Connections kept by a cache may idle this long; then they are closed.
const IDLE: Duration = Duration::from_secs(300);

/// The bytes of the object of that size: the same in every run, and no two positions alike for long.
pub fn body(bytes: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15 ^ bytes as u64;
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        // xorshift64: Marsaglia 2003.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(bytes);
    out
}

/// The path of the object of that size.
pub fn path(bytes: usize) -> String {
    format!("/object/{bytes}")
}

/// A running origin; its threads end with the process.
pub struct Origin {
    address: SocketAddr,
    requests: Arc<AtomicU64>,
}

impl Origin {
    /// Listens on a free loopback port.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let origin = Origin { address: listener.local_addr()?, requests: Arc::default() };
        let requests = origin.requests.clone();
        std::thread::Builder::new().name("origin".into()).spawn(move || {
            for stream in listener.incoming().flatten() {
                let requests = requests.clone();
                std::thread::spawn(move || {
                    // A cache may close its connection at any time: nothing to report.
                    let _ = serve(stream, &requests);
                });
            }
        })?;
        Ok(origin)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Requests answered so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }
}

fn serve(stream: TcpStream, requests: &AtomicU64) -> Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        requests.fetch_add(1, Ordering::SeqCst);
        let field = |name: &str| {
            let named = |line: &str| {
                let (field, value) = line.split_once(':')?;
                field.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            };
            head.lines().find_map(named)
        };
        // A body of known length is awaited; of another one the end would have to be looked for.
        let length = field("content-length").and_then(|length| length.parse::<u64>().ok()).unwrap_or(0);
        if std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())? < length {
            return Ok(());
        }
        let is_last = field("transfer-encoding").is_some();
        let target = head.split(' ').nth(1).unwrap_or_default();
        // Whatever the query is: that is how many objects of one size are told apart.
        let path = target.split('?').next().unwrap_or_default();
        let size = path.strip_prefix("/object/").and_then(|size| size.parse::<usize>().ok());
        let date = date(SystemTime::now());
        let mut answer = match size {
            Some(size) => format!(
                "HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Type: application/octet-stream\r\n\
                 Content-Length: {size}\r\nCache-Control: public, max-age=86400\r\nETag: \"{size}\"\r\n\r\n"
            ),
            None => format!("HTTP/1.1 404 Not Found\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n"),
        }
        .into_bytes();
        if !head.starts_with("HEAD ") {
            answer.extend(body(size.unwrap_or(0)));
        }
        stream.write_all(&answer)?;
        if is_last {
            return Ok(());
        }
    }
}

/// The time as RFC 9110 section 5.6.7 wants it.
fn date(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Civil date from days, after Howard Hinnant: eras of 400 years that begin in March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12;
    let year = era * 400 + year_of_era + u64::from(month < 2);
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][(days % 7) as usize];
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months[month as usize];
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{weekday}, {day:02} {month} {year} {hour:02}:{minute:02}:{second:02} GMT")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_repeatable_and_of_the_right_length() {
        for bytes in [0, 1, 7, 8, 1024, 100_000] {
            assert_eq!(body(bytes).len(), bytes);
            assert_eq!(body(bytes), body(bytes));
        }
        assert_ne!(body(1024)[..512], body(1024)[512..]);
    }

    #[test]
    fn dates_are_those_of_the_standard() {
        for (seconds, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_709_251_199, "Thu, 29 Feb 2024 23:59:59 GMT"),
            (1_767_225_599, "Wed, 31 Dec 2025 23:59:59 GMT"),
        ] {
            assert_eq!(date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn the_origin_serves_and_counts() {
        let origin = Origin::start().unwrap();
        let response = crate::http::get(origin.address(), &path(5000)).unwrap();
        assert_eq!((response.status, response.body), (200, body(5000)));
        assert_eq!(crate::http::get(origin.address(), "/other").unwrap().status, 404);
        assert_eq!(origin.requests(), 2);
    }
}
