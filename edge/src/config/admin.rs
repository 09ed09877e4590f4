//! Where the admin endpoint listens, and who may ask it: an address of its own kind, and a token. The command line
//! reads both as the file does.
#![forbid(unsafe_code)]

use super::read::{Item, Section};
use super::{Files, value};
use crate::limits;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// `[listen] admin` and `admin_token_file`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where it listens.
    pub address: AdminAddress,
    /// What every request has to carry; `None`: nothing, for only this machine reaches it.
    pub token: Option<Token>,
}

/// Where an admin endpoint listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A Unix socket, by its absolute path; whoever may write it may ask.
    Unix(PathBuf),
}

/// What begins the name of a Unix socket.
const UNIX: &str = "unix:";

impl AdminAddress {
    /// The address, unless it is a Unix socket.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            AdminAddress::Tcp(address) => Some(*address),
            AdminAddress::Unix(_) => None,
        }
    }

    /// Whether only this machine reaches it.
    pub fn is_local(&self) -> bool {
        self.tcp().is_none_or(|address| address.ip().is_loopback())
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdminAddress::Tcp(address) => address.fmt(f),
            AdminAddress::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl FromStr for AdminAddress {
    type Err = String;

    /// The error says what is wrong and what would be right.
    fn from_str(text: &str) -> Result<Self, String> {
        let Some(path) = text.strip_prefix(UNIX) else {
            return value::listen_address(text).map(AdminAddress::Tcp).map_err(|wrong| {
                // What was meant for a path has its own way to be written.
                if text.contains('/') { format!("{text:?} is a path; write \"{UNIX}{text}\"") } else { wrong }
            });
        };
        if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
            return Err(format!(
                "{text:?} is not the absolute path of a socket; write one such as \"unix:/run/edge/admin.sock\""
            ));
        }
        if path.len() > limits::UNIX_PATH_BYTES_MAX {
            let max = limits::UNIX_PATH_BYTES_MAX;
            return Err(format!(
                "the path of a socket has at most {max} bytes; write a shorter one than {path:?}"
            ));
        }
        Ok(AdminAddress::Unix(path.into()))
    }
}

/// What requests to the admin endpoint have to carry. Not shown in any message.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Box<[u8]>);

impl Token {
    /// From the contents of its file; blanks and line ends around it do not count.
    ///
    /// # Errors
    /// What is wrong with it and what would be right, in words that follow the file's name.
    pub fn parse(contents: &[u8]) -> Result<Self, String> {
        const RIGHT: &str = "make one with `openssl rand -hex 32`";
        let token = contents.trim_ascii();
        let (min, max) = (limits::ADMIN_TOKEN_BYTES_MIN, limits::ADMIN_TOKEN_BYTES_MAX);
        if !(min..=max).contains(&token.len()) {
            return Err(format!("holds a token of {} bytes, not {min} to {max}; {RIGHT}", token.len()));
        }
        if !token.iter().all(u8::is_ascii_graphic) {
            return Err(format!("holds what a request's field cannot carry; {RIGHT}"));
        }
        Ok(Token(token.into()))
    }

    /// Whether a field value is `Bearer` with this token (RFC 6750 section 2.1). Takes as long for every wrong token of
    /// its length.
    pub fn admits(&self, authorization: &[u8]) -> bool {
        let Some((scheme, given)) = authorization.split_at_checked(b"Bearer ".len()) else { return false };
        let given = given.trim_ascii();
        scheme.eq_ignore_ascii_case(b"Bearer ")
            && given.len() == self.0.len()
            && given.iter().zip(&self.0).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
    }

    /// The field value that carries it.
    pub fn authorization(&self) -> String {
        format!("Bearer {}", String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// Reads both keys of `[listen]`. `Some(None)`: there is to be no endpoint; `None`: something is wrong.
pub(super) fn read(
    section: &Section<'_>,
    files: &dyn Files,
    reached: impl Fn(SocketAddr) -> bool,
) -> Option<Option<Admin>> {
    let token_item = section.get("admin_token_file");
    let Some(item) = section.get("admin") else {
        if let Some(item) = &token_item {
            item.report("there is no admin endpoint that would ask for it; write admin, or remove this");
        }
        return Some(None);
    };
    let token = token_item.map_or(Some(None), |item| token(&item, files).map(Some));
    let right = "write an address such as \"127.0.0.1:9180\", or \"unix:/run/edge/admin.sock\"";
    let address: AdminAddress = item.parse(right, str::parse)?;
    let token = token?;
    if let (Some(outside), None) = (address.tcp().filter(|_| !address.is_local()), &token) {
        item.report(&format!(
            "{outside} can be reached from outside, and whoever asks may purge; write \"127.0.0.1:{}\", or also \
             admin_token_file = \"/etc/edge/admin.token\"",
            outside.port()
        ));
    }
    if address.tcp().is_some_and(reached) {
        item.report(
            "the node serves on this address already; write another port, such as \"127.0.0.1:9180\"",
        );
    }
    Some(Some(Admin { address, token }))
}

fn token(item: &Item<'_>, files: &dyn Files) -> Option<Token> {
    let path = PathBuf::from(item.text("write the path of a file that holds the token")?);
    let read = files
        .read(&path)
        .map_err(|why| format!("cannot be read: {why}; write the path of a file with the token"));
    match read.and_then(|contents| Token::parse(&contents)) {
        Ok(token) => Some(token),
        Err(wrong) => {
            item.report(&format!("{} {wrong}", path.display()));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_kinds_read_as_they_are_written() {
        for text in ["127.0.0.1:9180", "[::1]:80", "unix:/run/edge/admin.sock"] {
            assert_eq!(text.parse::<AdminAddress>().unwrap().to_string(), text);
        }
        let wrong = |text: &str| text.parse::<AdminAddress>().unwrap_err();
        assert!(wrong("/run/a.sock").contains("write \"unix:/run/a.sock\""), "{}", wrong("/run/a.sock"));
        for text in ["unix:", "unix:a.sock", "unix:/run/", "unix:/a\0"] {
            assert!(wrong(text).contains("unix:/run/edge/admin.sock"), "{text:?}: {}", wrong(text));
        }
        assert!(wrong(&format!("unix:/{}", "a".repeat(107))).contains("at most 107 bytes"));
        assert!(wrong("localhost").contains("is not an IP address"));
        let local = |text: &str| text.parse::<AdminAddress>().unwrap().is_local();
        assert!(local("127.9.9.9:1") && local("[::1]:1") && local("unix:/a"));
        assert!(!local("0.0.0.0:1") && !local("[::]:1") && !local("192.0.2.1:1"));
    }

    #[test]
    fn a_token_admits_only_itself() {
        let token = Token::parse(b"0123456789abcdef\r\n").unwrap();
        for good in ["Bearer 0123456789abcdef", "bearer  0123456789abcdef ", &token.authorization()] {
            assert!(token.admits(good.as_bytes()), "{good:?}");
        }
        for bad in [
            "",
            "Bearer",
            "Bearer ",
            "0123456789abcdef",
            "Basic 0123456789abcdef",
            "Bearer 0123456789abcdeF",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdef0",
            "Bearer0123456789abcdef",
        ] {
            assert!(!token.admits(bad.as_bytes()), "{bad:?}");
        }
        assert_eq!(format!("{token:?}"), "Token", "no message shows it");
    }

    #[test]
    fn what_is_no_token_is_refused_with_the_remedy() {
        let long = vec![b'a'; limits::ADMIN_TOKEN_BYTES_MAX + 1];
        for contents in
            [&b""[..], b"\n", b"short", b"0123456789 abcdef", b"0123456789\xff\xff\xff\xff\xff\xff", &long]
        {
            let wrong = Token::parse(contents).unwrap_err();
            assert!(wrong.contains("openssl rand -hex 32"), "{wrong}");
        }
    }
}
