//! A response on an HTTP/1.1 connection (RFC 9112): status line, what becomes of the connection, how the
//! body is delimited. What is answered was decided elsewhere.
#![forbid(unsafe_code)]

use super::answer::{Answer, Body, Length};
use super::io::{Action, Interim, Out};
use super::multipart::Multipart;
use super::response;

/// What becomes of the connection after a response, as its head has to say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Persistence {
    pub(super) keep_alive: bool,
    pub(super) minor_version: u8,
}

/// How the pieces of a body are delimited (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// By Content-Length, or there are none.
    Counted,
    /// Chunked transfer coding.
    Chunked,
    /// By the end of the connection, where HTTP/1.0 knows nothing else.
    Close,
    /// It is no body: the connection has gone over to WebSocket.
    Tunnel,
}

impl Framing {
    pub(super) fn of(length: Length, minor_version: u8) -> Framing {
        match length {
            Length::Open if minor_version == 0 => Framing::Close,
            Length::Open => Framing::Chunked,
            Length::Tunnel => Framing::Tunnel,
            Length::None | Length::Stored | Length::Bytes(_) => Framing::Counted,
        }
    }
}

/// Queues the head of an answer, and its body unless that is streamed.
#[inline]
pub(super) fn push_answer(answer: &Answer<'_>, framing: Framing, persistence: Persistence, out: &mut Out) {
    let start = out.bytes.len();
    let bytes = &mut out.bytes;
    push_status(bytes, answer.status);
    answer.push_fields(bytes);
    if answer.of_route {
        out.transport.push(&out.request, bytes);
    }
    match framing {
        Framing::Tunnel => bytes.extend_from_slice(b"Connection: upgrade\r\nUpgrade: websocket\r\n"),
        _ => push_persistence(bytes, persistence),
    }
    match (framing, answer.length) {
        (Framing::Chunked, _) => bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        (_, Length::Bytes(length)) => {
            bytes.extend_from_slice(b"Content-Length: ");
            response::push_number(bytes, length);
            bytes.extend_from_slice(b"\r\n");
        }
        (_, Length::None | Length::Stored | Length::Open | Length::Tunnel) => {}
    }
    if answer.stored.is_empty() {
        bytes.extend_from_slice(b"\r\n");
    }
    if answer.body == Body::Text {
        answer.push_text(bytes);
    }
    out.actions.push(Action::Write(start..out.bytes.len()));
    if !answer.stored.is_empty() {
        out.actions.push(Action::StoredHead(answer.stored.clone()));
    }
    match &answer.body {
        Body::Stored(range) => out.actions.push(Action::StoredBody(range.clone())),
        Body::Parts(parts) => push_parts(parts, out),
        Body::None | Body::Text | Body::Streamed => {}
    }
}

/// Queues the parts of a body of several.
pub(super) fn push_parts(parts: &Multipart, out: &mut Out) {
    for (text, body) in parts.parts() {
        let start = out.bytes.len();
        out.bytes.extend_from_slice(text);
        out.actions.push(Action::StoredPart { text: start..out.bytes.len(), body });
    }
}

/// Queues an interim response; HTTP/1.0 knows none (RFC 9110 section 15.2).
pub(super) fn push_interim(interim: &Interim, out: &mut Out) {
    let start = out.bytes.len();
    push_status(&mut out.bytes, interim.status);
    out.bytes.extend_from_slice(&interim.lines);
    out.bytes.extend_from_slice(b"\r\n");
    out.actions.push(Action::Write(start..out.bytes.len()));
}

/// Queues the next piece of a body.
pub(super) fn push_piece(framing: Framing, piece_bytes: usize, out: &mut Out) {
    if framing != Framing::Chunked {
        return out.actions.push(Action::Piece);
    }
    let start = out.bytes.len();
    push_chunk_size(&mut out.bytes, piece_bytes);
    let end = out.bytes.len();
    out.bytes.extend_from_slice(b"\r\n");
    out.actions.push(Action::Write(start..end));
    out.actions.push(Action::Piece);
    out.actions.push(Action::Write(end..end + 2));
}

/// Queues what ends a body, and the field lines that follow it where there is a place for them. Says whether anything does.
pub(super) fn push_end(framing: Framing, trailers: &[u8], out: &mut Out) -> bool {
    if framing != Framing::Chunked {
        return false;
    }
    let start = out.bytes.len();
    out.bytes.extend_from_slice(b"0\r\n");
    out.bytes.extend_from_slice(trailers);
    out.bytes.extend_from_slice(b"\r\n");
    out.actions.push(Action::Write(start..out.bytes.len()));
    true
}

/// HTTP/1.1 connections persist unless told otherwise, HTTP/1.0 ones the other way round (RFC 9112 section 9.3).
fn push_persistence(out: &mut Vec<u8>, persistence: Persistence) {
    match persistence {
        Persistence { keep_alive: false, .. } => out.extend_from_slice(b"Connection: close\r\n"),
        Persistence { minor_version: 0, .. } => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        _ => {}
    }
}

fn push_status(out: &mut Vec<u8>, status: u16) {
    if status == 200 {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    response::push_number(out, u64::from(status));
    out.push(b' ');
    out.extend_from_slice(response::reason(status).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// A chunk's size line (RFC 9112 section 7.1).
fn push_chunk_size(out: &mut Vec<u8>, bytes: usize) {
    let digits = (usize::BITS - bytes.leading_zeros()).div_ceil(4).max(1);
    for shift in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(bytes >> (4 * shift)) & 0xf]);
    }
    out.extend_from_slice(b"\r\n");
}
