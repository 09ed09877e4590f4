//! What an idle connection over TLS takes of a server's memory, for `cargo xtask bench tls`: with HTTP/1.1 and with
//! HTTP/2, each on a server that was just started, and after some answers, as connections of real clients have had.
#![forbid(unsafe_code)]

use super::frame::frame;
use super::origin::path;
use super::peers::{Kind, Stage};
use super::tls::{self, NAME, Peer, Site, Stream};
use crate::{machine, process};
use anyhow::{Context, Result, bail, ensure};
use std::io::{Read, Write};
use std::time::Duration;

/// Answers that each connection has had.
const ANSWERS: u32 = 5;
/// Bytes of each.
const BYTES: usize = 1 << 10;
/// How long memory may settle before it is read.
const SETTLE: Duration = Duration::from_millis(500);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Prints what each of so many connections adds to these servers.
pub(super) fn table(servers: &[Kind], stage: &Stage, site: &Site, count: u32) -> Result<()> {
    let limit = machine::raise_open_files()?;
    ensure!(limit > u64::from(count) + 200, "the hard limit of open files is {limit}: hold fewer --idle");
    println!(
        "\n{count} idle TLS connections, {ANSWERS} answers each: anonymous memory that each of them adds\n"
    );
    println!("| server | HTTP/1.1 | HTTP/2 |\n|---|---|---|");
    for kind in servers {
        let mut row = format!("| {} |", kind.name());
        for http2 in [false, true] {
            // One at a time: the file table and the ports of this machine are shared.
            let peer = tls::start(*kind, stage, site)?;
            tls::verify(&peer, site, BYTES)?;
            let bytes = hold(&peer, site, count, http2)
                .with_context(|| format!("{}, HTTP/2: {http2}", kind.name()))?;
            row += &format!(" {bytes:.0} bytes |");
        }
        println!("{row}");
    }
    Ok(())
}

fn hold(peer: &Peer, site: &Site, count: u32, http2: bool) -> Result<f64> {
    let config = tls::client(site, false, if http2 { "h2" } else { "http/1.1" })?;
    process::sleep(SETTLE)?;
    let before = machine::anonymous_bytes(peer.server.pid())?;
    let mut held: Vec<Stream> = Vec::with_capacity(count as usize);
    for _ in 0..count {
        process::proceed()?;
        let mut stream = tls::connect(&config, peer.address)?;
        if http2 {
            ask_http2(&mut stream)?;
        } else {
            (0..ANSWERS).try_for_each(|_| tls::ask(&mut stream, BYTES))?;
        }
        held.push(stream);
    }
    process::sleep(SETTLE)?;
    let after = machine::anonymous_bytes(peer.server.pid())?;
    for stream in &held {
        stream.sock.set_nonblocking(true)?;
        ensure!(stream.sock.peek(&mut [0]).is_err(), "a connection was closed while idle");
    }
    Ok(after.saturating_sub(before) as f64 / f64::from(count))
}

/// Asks one request after the other, each on a stream of its own (RFC 9113).
fn ask_http2(stream: &mut Stream) -> Result<()> {
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, b"")].concat())?;
    for number in 0..ANSWERS {
        let id = 2 * number + 1;
        let path = path(BYTES);
        // RFC 7541 appendix A: GET, https; then path, authority, and what browsers say of themselves as fields for the
        // dynamic table.
        let mut fields = b"\x82\x87\x04".to_vec();
        for text in [path.as_str(), NAME] {
            fields.push(u8::try_from(text.len())?);
            fields.extend(text.bytes());
            fields.extend((text == path).then_some(1));
        }
        fields.extend(b"\x7a\x0bMozilla/5.0\x53\x03*/*");
        stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, id, &fields))?;
        stream.flush()?;
        let mut bytes = 0;
        loop {
            let (kind, flags, its, payload) = read_frame(stream)?;
            match kind {
                SETTINGS if flags == 0 => stream.write_all(&frame(SETTINGS, 1, 0, b""))?,
                // GOAWAY, RST_STREAM
                7 | 3 => bail!("the server said {kind}: {payload:?}"),
                DATA if its == id => bytes += payload.len(),
                _ => {}
            }
            if matches!(kind, DATA | HEADERS) && its == id && flags & END_STREAM != 0 {
                break;
            }
        }
        ensure!(bytes == BYTES, "{bytes} bytes came");
    }
    Ok(())
}

fn read_frame(stream: &mut Stream) -> Result<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head)?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    stream.read_exact(&mut payload)?;
    Ok((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
}
