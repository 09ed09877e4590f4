//! WebSocket (RFC 6455) as both ends speak it: handshake, frames, an echo.

use std::io::{self, Read, Write};

/// What RFC 6455 section 1.3 joins to the client's key.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The key of the RFC's example.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A text or binary frame, and one that closes.
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;

/// The answer to a key.
pub fn accept(key: &str) -> String {
    let digest =
        ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{GUID}").as_bytes());
    base64(digest.as_ref())
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let number =
            group.iter().chain([0, 0].iter()).take(3).fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        for place in 0..4 {
            let letter = LETTERS[number >> (18 - 6 * place) & 63] as char;
            text.push(if place <= group.len() { letter } else { '=' });
        }
    }
    text
}

/// A request for a tunnel, with further field lines.
pub fn request(path: &str, lines: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{lines}\r\n",
        super::HOST
    )
}

/// What an origin answers.
pub fn switching(key: &str) -> String {
    let accept = accept(key);
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    )
}

/// Asks for a tunnel and reads the answer; the connection speaks frames from then on.
pub fn open(stream: &mut (impl Read + Write), path: &str) -> io::Result<()> {
    stream.write_all(request(path, "").as_bytes())?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head);
    let lower = head.to_ascii_lowercase();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(
        lower.contains("\r\nconnection: upgrade\r\n") && lower.contains("\r\nupgrade: websocket\r\n"),
        "{head}"
    );
    assert!(head.contains(&format!("ccept: {}\r\n", accept(KEY))), "{head}");
    Ok(())
}

/// Sends one frame; those of clients are masked.
pub fn send(stream: &mut impl Write, masked: bool, opcode: u8, payload: &[u8]) -> io::Result<()> {
    let mut frame = vec![0x80 | opcode];
    let mask = if masked { 0x80 } else { 0 };
    match payload.len() {
        0..126 => frame.push(mask | payload.len() as u8),
        126..65536 => {
            frame.push(mask | 126);
            frame.extend((payload.len() as u16).to_be_bytes());
        }
        _ => {
            frame.push(mask | 127);
            frame.extend((payload.len() as u64).to_be_bytes());
        }
    }
    let start = frame.len() + if masked { MASK.len() } else { 0 };
    frame.extend(if masked { &MASK[..] } else { &[] });
    frame.extend(payload);
    if masked {
        frame[start..].iter_mut().zip(MASK.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    }
    stream.write_all(&frame)
}

/// Reads one frame: its opcode and payload.
pub fn receive(stream: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut two = [0; 2];
    stream.read_exact(&mut two)?;
    assert_eq!(two[0] & 0xf0, 0x80, "one frame a message");
    let bytes = match two[1] & 0x7f {
        126 => {
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            u64::from(u16::from_be_bytes(length))
        }
        127 => {
            let mut length = [0; 8];
            stream.read_exact(&mut length)?;
            u64::from_be_bytes(length)
        }
        short => u64::from(short),
    };
    let mut mask = [0; 4];
    if two[1] & 0x80 != 0 {
        stream.read_exact(&mut mask)?;
    }
    let mut payload = vec![0; bytes as usize];
    stream.read_exact(&mut payload)?;
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    Ok((two[0] & 0xf, payload))
}

/// Sends every message back until the peer closes.
pub fn echo(stream: &mut (impl Read + Write)) -> io::Result<()> {
    loop {
        let (opcode, payload) = receive(stream)?;
        send(stream, false, opcode, &payload)?;
        if opcode == CLOSE {
            return Ok(());
        }
    }
}
