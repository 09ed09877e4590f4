//! The body of a fetched response on its way to the client: framed as its head announced, and never made
//! to look whole when it is not. Heads are written elsewhere.
#![forbid(unsafe_code)]

use super::io::{Action, Out};
use super::response::{self, Delimited};

/// How the body is delimited, and what is still owed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delivery {
    owed_bytes: u64,
    framing: Framing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    NoBody,
    Counted,
    Chunked,
    Close,
}

/// The body is not what its head announced; the connection must break off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken;

impl Delivery {
    /// After a head that announced this. `head_only`: the request was HEAD, whatever the head says.
    pub(super) fn new(delimited: Delimited, head_only: bool) -> Self {
        let (framing, owed_bytes) = match delimited {
            _ if head_only => (Framing::NoBody, 0),
            Delimited::None => (Framing::NoBody, 0),
            Delimited::Bytes(bytes) => (Framing::Counted, bytes),
            Delimited::Chunked => (Framing::Chunked, 0),
            Delimited::Close => (Framing::Close, 0),
        };
        Delivery { owed_bytes, framing }
    }

    /// Queues the next piece of the body. `Ok(false)`: nothing was queued.
    pub(super) fn piece(&mut self, bytes: usize, out: &mut Out) -> Result<bool, Broken> {
        match self.framing {
            _ if bytes == 0 => return Ok(false),
            Framing::NoBody => return Ok(false),
            Framing::Counted => {
                // Longer than announced: what followed would be read as the next response.
                self.owed_bytes = self.owed_bytes.checked_sub(bytes as u64).ok_or(Broken)?;
                out.actions.push(Action::Piece);
            }
            Framing::Chunked => {
                let start = out.bytes.len();
                response::push_chunk_size(&mut out.bytes, bytes);
                let end = out.bytes.len();
                out.bytes.extend_from_slice(b"\r\n");
                out.actions.push(Action::Write(start..end));
                out.actions.push(Action::Piece);
                out.actions.push(Action::Write(end..end + 2));
            }
            Framing::Close => out.actions.push(Action::Piece),
        }
        Ok(true)
    }

    /// Queues what ends the body. `Ok(false)`: nothing does.
    pub(super) fn end(&self, out: &mut Out) -> Result<bool, Broken> {
        match self.framing {
            Framing::Counted if self.owed_bytes > 0 => Err(Broken),
            Framing::NoBody | Framing::Counted | Framing::Close => Ok(false),
            Framing::Chunked => {
                let start = out.bytes.len();
                out.bytes.extend_from_slice(b"0\r\n\r\n");
                out.actions.push(Action::Write(start..out.bytes.len()));
                Ok(true)
            }
        }
    }
}
