//! A frame of HTTP/2 as its bytes (RFC 9113 section 4.1), for those who speak as a peer: the tests, the fuzz target and the
//! benches, each of which includes this file. What the node sends is framed by the crate.
#![forbid(unsafe_code)]

/// One of this type, with these flags, on this stream.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}
