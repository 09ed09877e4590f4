//! What a single value means: sizes, durations, CPU lists, addresses, server URLs, hosts, paths. Pure
//! functions from text; an error says what is wrong and what would be right. Positions are not known here.
#![forbid(unsafe_code)]

use crate::limits;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// A value, or what is wrong with it and what would be right.
pub(super) type Parsed<T> = Result<T, String>;

/// A whole number and its unit, without the space that may stand between them.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim_start_matches(' ')))
}

/// `"1GiB"`: bytes.
pub(super) fn size(text: &str) -> Parsed<u64> {
    const RIGHT: &str = r#"write a whole number with B, KiB, MiB, GiB or TiB, such as "1GiB""#;
    let Some((number, unit)) = number_and_unit(text) else {
        return Err(format!("{text:?} is not a size; {RIGHT}"));
    };
    let shift = match unit {
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        "" => return Err(format!("{text:?} has no unit; {RIGHT}")),
        "KB" | "kB" | "MB" | "GB" | "TB" => {
            let binary = format!("{}iB", unit[..1].to_uppercase());
            return Err(format!(
                "unit {unit:?} is not used here; write \"{number}{binary}\" (powers of 1024)"
            ));
        }
        _ if unit.starts_with(['.', ',']) => return Err(format!("{text:?} is not a whole number; {RIGHT}")),
        _ => return Err(format!("unit {unit:?} is not known; {RIGHT}")),
    };
    let bytes = number.checked_mul(1u64 << shift).filter(|b| *b <= i64::MAX as u64);
    bytes.ok_or_else(|| format!("{text:?} is more than any disk; {RIGHT}"))
}

/// `"10s"`: milliseconds within the bounds of `limits`.
pub(super) fn duration_ms(text: &str) -> Parsed<u64> {
    const RIGHT: &str = r#"write a whole number with ms, s, m or h, such as "10s""#;
    let Some((number, unit)) = number_and_unit(text) else {
        return Err(format!("{text:?} is not a duration; {RIGHT}"));
    };
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" => return Err(format!("{text:?} has no unit; {RIGHT}")),
        _ => return Err(format!("unit {unit:?} is not known; {RIGHT}")),
    };
    let ms = number.saturating_mul(unit_ms);
    if ms < limits::TIMEOUT_MS_MIN {
        return Err(format!(
            "{text:?} is shorter than any exchange; write at least \"{}ms\"",
            limits::TIMEOUT_MS_MIN
        ));
    }
    if ms > limits::TIMEOUT_MS_MAX {
        return Err(format!(
            "{text:?} holds resources too long; write at most \"{}h\"",
            limits::TIMEOUT_MS_MAX / 3_600_000
        ));
    }
    Ok(ms)
}

/// `"5m"`: seconds of a lifetime, at most a year; `"0s"` is one too.
pub(super) fn lifetime_s(text: &str) -> Parsed<u32> {
    const RIGHT: &str = r#"write a whole number with s, m, h or d, such as "5m""#;
    let Some((number, unit)) = number_and_unit(text) else {
        return Err(format!("{text:?} is not a lifetime; {RIGHT}"));
    };
    let unit_s: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "" => return Err(format!("{text:?} has no unit; {RIGHT}")),
        _ => return Err(format!("unit {unit:?} is not known; {RIGHT}")),
    };
    match u32::try_from(number.saturating_mul(unit_s)) {
        Ok(seconds) if seconds <= limits::LIFETIME_S_MAX => Ok(seconds),
        _ => Err(format!("{text:?} is longer than a year; write at most \"365d\"")),
    }
}

/// `"0-3,6"`: CPU numbers in ascending order.
pub(super) fn cpus(text: &str) -> Parsed<Vec<usize>> {
    const RIGHT: &str = r#"write CPU numbers and ranges, such as "0-3,6""#;
    let mut list = Vec::new();
    for part in text.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (cpu_number(first), cpu_number(last)) else {
            return Err(format!("{part:?} is not a CPU number or range; {RIGHT}"));
        };
        if first > last {
            return Err(format!("range {part:?} runs backwards; write \"{last}-{first}\""));
        }
        if last >= limits::CPUS_MAX {
            return Err(format!("CPU {last} is out of range; write numbers below {}", limits::CPUS_MAX));
        }
        list.extend(first..=last);
    }
    list.sort_unstable();
    match list.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("CPU {} is named twice; name every CPU once", pair[0])),
        None => Ok(list),
    }
}

fn cpu_number(text: &str) -> Result<usize, ()> {
    // `parse` alone would also take "+3".
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(());
    }
    text.parse().map_err(drop)
}

/// `"127.0.0.1:8080"` or `"[::1]:8080"`.
pub(super) fn listen_address(text: &str) -> Parsed<SocketAddr> {
    if let Ok(address) = SocketAddr::from_str(text) {
        return match address.port() {
            0 => Err(format!("port 0 of {text:?} is no fixed port; write a port from 1 to 65535")),
            _ => Ok(address),
        };
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    match IpAddr::from_str(bare) {
        Ok(ip) => Err(format!("{text:?} has no port; write \"{}\"", SocketAddr::new(ip, 8080))),
        Err(_) if text.starts_with(':') => {
            Err(format!("{text:?} has no IP address; write \"0.0.0.0{text}\" for every IPv4 address"))
        }
        Err(_) => Err(format!(
            "{text:?} is not an IP address with a port; write one such as \"0.0.0.0:8080\" or \"[::1]:8080\""
        )),
    }
}

/// `http://host:port` or `https://host:port`; a missing port is filled in.
pub(super) fn server_url(text: &str) -> Parsed<String> {
    const RIGHT: &str = r#"write "http://host:port" or "https://host:port""#;
    let (scheme, rest, port_default) = if let Some(rest) = text.strip_prefix("http://") {
        ("http", rest, 80)
    } else if let Some(rest) = text.strip_prefix("https://") {
        ("https", rest, 443)
    } else if let Some((scheme, _)) = text.split_once("://") {
        return Err(format!("scheme {scheme:?} is not spoken to origins; {RIGHT}"));
    } else {
        return Err(format!("{text:?} has no scheme; {RIGHT}"));
    };
    if rest.contains('@') {
        return Err(format!("user names and passwords are not sent to origins; {RIGHT}"));
    }
    if let Some(at) = rest.find(['/', '?', '#']) {
        return Err(format!(
            "{:?} follows the host; write \"{scheme}://{}\", the request's own path is used",
            &rest[at..],
            &rest[..at]
        ));
    }
    let (host, port) = split_port(rest);
    let port = match port {
        None => port_default,
        Some(port) => match u16::from_str(port) {
            Ok(port) if port > 0 => port,
            _ => return Err(format!("{port:?} is not a port; write a number from 1 to 65535")),
        },
    };
    let ip6 = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let valid = ip6.map_or_else(|| host_name(host), |ip| std::net::Ipv6Addr::from_str(ip).is_ok());
    if !valid {
        return Err(format!("{host:?} is not a host name or IP address; {RIGHT}"));
    }
    Ok(format!("{scheme}://{}:{port}", host.to_ascii_lowercase()))
}

/// Splits `host:port`; a colon inside `[...]` is not the port's.
fn split_port(text: &str) -> (&str, Option<&str>) {
    let after_brackets = text.rfind(']').map_or(0, |i| i + 1);
    match text[after_brackets..].rfind(':') {
        Some(i) => (&text[..after_brackets + i], Some(&text[after_brackets + i + 1..])),
        None => (text, None),
    }
}

/// RFC 1123 letters, digits and hyphens in labels of 1 to 63; `_` as well, as it is common inside networks.
fn host_name(text: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// A route's host: lower case, without port.
pub(super) fn route_host(text: &str) -> Parsed<String> {
    const RIGHT: &str = r#"write a host name such as "www.example.com""#;
    if text.contains('*') {
        return Err(format!(
            "{text:?} holds a wildcard, hosts are compared whole; add a route for each host, or leave host out"
        ));
    }
    if text.contains("://") || text.contains('/') {
        return Err(format!("{text:?} is a URL; {RIGHT}"));
    }
    if let (host, Some(port)) = split_port(text)
        && port.bytes().all(|b| b.is_ascii_digit())
    {
        return Err(format!("port {port:?} takes no part in matching; write {host:?}"));
    }
    let ip6 = text.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    if !ip6.map_or_else(|| host_name(text), |ip| std::net::Ipv6Addr::from_str(ip).is_ok()) {
        return Err(format!("{text:?} is not a host name; {RIGHT}"));
    }
    Ok(text.to_ascii_lowercase())
}

/// A route's path prefix.
pub(super) fn route_path(text: &str) -> Parsed<String> {
    if !text.starts_with('/') {
        return Err(format!("path {text:?} does not begin with a slash; write \"/{text}\""));
    }
    if let Some(bad) = text.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '?' | '#' | '*')) {
        return Err(format!(
            "{bad:?} cannot stand in a path prefix; write the beginning of the path as it is sent, such as \"/images/\""
        ));
    }
    if text.len() > limits::REQUEST_TARGET_BYTES_MAX {
        return Err(format!(
            "path is longer than any request's; write at most {} bytes",
            limits::REQUEST_TARGET_BYTES_MAX
        ));
    }
    Ok(text.into())
}

/// A field name (RFC 9110, section 5.1) in lower case.
pub(super) fn field_name(text: &str) -> Parsed<String> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if text.is_empty() || !text.bytes().all(token) {
        return Err(format!("{text:?} is not a field name; write one such as \"X-Service-Name\""));
    }
    Ok(text.to_ascii_lowercase())
}

/// A field value (RFC 9110, section 5.5) as it is compared: visible, without space around it.
pub(super) fn field_value(text: &str) -> Parsed<String> {
    if text.is_empty() || text.trim() != text || text.chars().any(char::is_control) {
        return Err(format!(
            "{text:?} cannot be a field's value; write visible text without space around it"
        ));
    }
    Ok(text.into())
}

/// A network interface's name as the kernel allows it.
pub(super) fn interface(text: &str) -> Parsed<String> {
    let valid = (1..=15).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':')
        && text != "."
        && text != "..";
    match valid {
        true => Ok(text.into()),
        false => Err(format!(
            "{text:?} is not an interface name; write one that `ip link` lists, such as \"eth0\""
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("1GiB"), Ok(1 << 30));
        assert_eq!(size("512 MiB"), Ok(512 << 20));
        assert_eq!(size("0B"), Ok(0));
        assert!(size("5").unwrap_err().contains("no unit"));
        assert!(size("5GB").unwrap_err().contains("\"5GiB\""));
        assert!(size("5kB").unwrap_err().contains("\"5KiB\""));
        assert!(size("9999999999TiB").unwrap_err().contains("more than any disk"));
        assert!(size("-1GiB").is_err() && size("1.5GiB").is_err() && size("").is_err() && size("é").is_err());
    }

    #[test]
    fn durations() {
        assert_eq!(duration_ms("10s"), Ok(10_000));
        assert_eq!(duration_ms("250ms"), Ok(250));
        assert_eq!(duration_ms("1h"), Ok(3_600_000));
        assert!(duration_ms("10").is_err() && duration_ms("1ms").is_err() && duration_ms("2h").is_err());
        assert!(duration_ms("18446744073709551615h").is_err());
    }

    #[test]
    fn cpu_lists() {
        assert_eq!(cpus("0-3,6"), Ok(vec![0, 1, 2, 3, 6]));
        assert_eq!(cpus(" 2 , 1"), Ok(vec![1, 2]));
        assert!(cpus("3-0").unwrap_err().contains("\"0-3\""));
        assert!(cpus("0-2,1").unwrap_err().contains("CPU 1 is named twice"));
        assert!(
            cpus("").is_err() && cpus("+1").is_err() && cpus("0-9999999").is_err() && cpus("1-").is_err()
        );
    }

    #[test]
    fn addresses() {
        assert_eq!(listen_address("[::1]:80").unwrap().port(), 80);
        assert!(listen_address("::1").unwrap_err().contains("\"[::1]:8080\""));
        assert!(listen_address("10.0.0.1").unwrap_err().contains("\"10.0.0.1:8080\""));
        assert!(listen_address(":80").unwrap_err().contains("\"0.0.0.0:80\""));
        assert!(listen_address("localhost:80").is_err() && listen_address("1.2.3.4:0").is_err());
    }

    #[test]
    fn server_urls() {
        assert_eq!(server_url("http://Host").unwrap(), "http://host:80");
        assert_eq!(server_url("https://[2001:db8::1]:8443").unwrap(), "https://[2001:db8::1]:8443");
        for bad in [
            "host:80",
            "ftp://h",
            "http://",
            "http://u:p@h",
            "http://h:0",
            "http://h:x",
            "http://[::1",
            "http://a b",
        ] {
            assert!(server_url(bad).is_err(), "{bad}");
        }
        assert!(server_url("http://h:80/").unwrap_err().contains("\"http://h:80\""));
    }

    #[test]
    fn route_parts() {
        assert_eq!(route_host("WWW.Example.com").unwrap(), "www.example.com");
        assert!(route_host("a.b:80").unwrap_err().ends_with("write \"a.b\""));
        assert!(route_host("*.a").is_err() && route_host("http://a").is_err() && route_host("").is_err());
        assert!(route_path("img").unwrap_err().ends_with("\"/img\""));
        assert!(route_path("/a?b").is_err() && route_path("/a b").is_err() && route_path("/é").is_err());
        assert_eq!(field_name("X-Service-Name").unwrap(), "x-service-name");
        assert!(field_name("a b").is_err() && field_name("").is_err() && field_value(" a").is_err());
        assert!(
            interface("eth0.100").is_ok()
                && interface("a/b").is_err()
                && interface("sixteen-letters-x").is_err()
        );
    }
}
