//! Heads of several requests that came in one turn, parsed before the first of them is answered, so that their lookups
//! wait for memory together and not one after the other. What a request means is up to its session, in its turn.
#![forbid(unsafe_code)]

use super::Worker;
use super::connection::{Connection, Phase};
use super::token::{Op, Token};
use crate::limits;
use crate::proto::request::RequestHead;
use crate::sys::ring::Completion;

/// A head, and the receive buffer that begins with it.
#[derive(Default)]
struct Parsed {
    buffer: u16,
    bytes: usize,
    request: RequestHead,
}

/// What was parsed ahead. The requests stay, for their buffers have grown.
pub struct Lookahead {
    parsed: Box<[Parsed]>,
    /// Of these, the ones of now.
    used: usize,
}

impl Default for Lookahead {
    fn default() -> Self {
        Lookahead { parsed: (0..limits::HEADS_AHEAD_MAX).map(|_| Parsed::default()).collect(), used: 0 }
    }
}

impl Lookahead {
    /// The head that this buffer begins with, if it was parsed: puts it into `request` and says how long it is.
    #[inline]
    pub fn take(&mut self, buffer: u16, request: &mut RequestHead) -> Option<usize> {
        let parsed = self.parsed[..self.used].iter_mut().find(|parsed| parsed.buffer == buffer)?;
        std::mem::swap(&mut parsed.request, request);
        Some(parsed.bytes)
    }
}

/// Whether bytes that come now are the beginning of a request, as far as can be said before they are dealt with.
fn begins_request(connection: &Connection) -> bool {
    connection.phase == Phase::Open
        && connection.secure.is_none()
        && connection.multiplex.is_none()
        && !connection.undecided
        && connection.stash.is_empty()
        && connection.session.awaits_head()
}

impl Worker {
    /// Looks at the completions that are next, says at how many, and has the CPU ask for what their lookups will read.
    #[inline]
    pub(super) fn look_ahead(&mut self, completions: &[Completion]) -> usize {
        let Worker { lookahead, table, buffers, node, .. } = self;
        lookahead.used = 0;
        // Nothing to overlap with.
        if completions.len() == 1 {
            return 1;
        }
        let mut seen = 0;
        for completion in completions {
            if lookahead.used == lookahead.parsed.len() {
                break;
            }
            seen += 1;
            let token = Token::unpack(completion.token);
            let (Op::Receive, Some(buffer), Ok(len @ 1..)) =
                (token.op, completion.buffer, usize::try_from(completion.result))
            else {
                continue;
            };
            let connection = &table[token.slot as usize];
            if !begins_request(connection) {
                continue;
            }
            let next = &mut lookahead.parsed[lookahead.used];
            connection.introduce(&mut next.request);
            if let Ok(Some(bytes)) = next.request.parse(buffers.bytes(buffer, len)) {
                (next.buffer, next.bytes) = (buffer, bytes);
                node.out.queries.apply(&mut next.request);
                node.reader.prefetch_entries(next.request.key_hash);
                lookahead.used += 1;
            }
        }
        for parsed in &lookahead.parsed[..lookahead.used] {
            node.reader.prefetch_records(parsed.request.key_hash);
        }
        seen
    }
}
