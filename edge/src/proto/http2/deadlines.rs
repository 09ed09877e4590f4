//! When a peer is late, with what, and what becomes of the connection then.
#![forbid(unsafe_code)]

use super::meter::Cut;
use super::pipe::Record;
use super::{Http2, Link, NEVER};
use crate::proto::Now;
use crate::proto::io::{Late, Out};
use ::h2::Reason;

/// Which time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// For the preface, or the end of a field section.
    Head,
    /// For a request.
    Idle,
    /// For the next bytes of this stream's request.
    Upload(u32),
    /// For the peer to take what is sent.
    Send,
}

impl<R: Record> Http2<R> {
    /// Monotonic milliseconds at which [`Http2::deadline`] is due; `u64::MAX`: never.
    pub fn deadline_ms(&self) -> u64 {
        self.due().0
    }

    /// What the deadline is for.
    pub fn late(&self) -> Late {
        match self.due().1 {
            Due::Head => Late::Head,
            Due::Idle => Late::Request,
            Due::Upload(_) => Late::Body,
            Due::Send => Late::Reader,
        }
    }

    /// A deadline passed. `false`: the connection must be aborted.
    pub fn deadline(&mut self, now: Now, out: &mut Out) -> bool {
        self.now_ms = now.mono_ms;
        match self.due() {
            (at_ms, _) if at_ms > now.mono_ms => {}
            (_, Due::Head | Due::Idle) => self.cut_off(Cut::Error(Reason::NO_ERROR)),
            (_, Due::Upload(id)) => self.give_up(id, now, out),
            (_, Due::Send) => return false,
        }
        true
    }

    fn due(&self) -> (u64, Due) {
        if self.cut.is_some() || self.is_over() {
            // It is told so as long as it takes what it is sent.
            return (self.send_due_ms, Due::Send);
        }
        let after = |since_ms: u64, ms: u64| since_ms.saturating_add(ms);
        if let Some(began_ms) = self.meter.section_began_ms() {
            return (after(began_ms, self.timeouts.head_ms), Due::Head);
        }
        match self.link {
            Link::Shaking(_) => return (after(self.idle_since_ms, self.timeouts.head_ms), Due::Head),
            // What is held up may be the rest of a response whose stream has ended: the end of idleness would drop it.
            Link::Open(_) if self.streams.is_empty() && self.send_due_ms == NEVER => {
                return (after(self.idle_since_ms, self.timeouts.idle_ms), Due::Idle);
            }
            Link::Open(_) | Link::Over => {}
        }
        let uploads = self.streams.iter().map(|stream| (stream.upload_due_ms(), Due::Upload(stream.id)));
        uploads.fold((self.send_due_ms, Due::Send), |first, next| if next.0 < first.0 { next } else { first })
    }
}
