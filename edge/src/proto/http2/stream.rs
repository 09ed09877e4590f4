//! One stream of an HTTP/2 connection: an exchange, the request's body coming in, the response going out.
#![forbid(unsafe_code)]

use super::message;
use super::pipe::{Body, Piece, Pipe, Record};
use super::priority::Priority;
use crate::limits;
use crate::proto::exchange::Exchange;
use crate::proto::io::{Interim, Timeouts};
use crate::proto::trailers;
use ::h2::server::SendResponse;
use ::h2::{Reason, RecvStream, SendStream};
use bytes::Bytes;
use http::{HeaderMap, Response};
use std::task::{Context, Poll};

/// Bytes of one turn: two frames of the usual size, so that a turn is worth its choice.
const TURN_BYTES: usize = 32 * 1024;

/// What comes next of a request's body.
#[derive(Debug, PartialEq, Eq)]
pub enum Upload {
    /// Nothing now.
    Nothing,
    /// These bytes; never empty.
    Data(Bytes),
    /// The body is complete, and these lines of a trailer section follow it.
    End(Bytes),
    /// It broke off, or was not as long as the request said.
    Broken,
}

/// The response's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outgoing {
    /// There is no response yet.
    Unanswered,
    /// So many bytes more.
    Owed(u64),
    /// As many as come.
    Open,
    /// The response is sent; what the exchange still gets is not.
    Silent,
}

/// What became of a turn.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Sent {
        bytes: usize,
        ended: bool,
    },
    /// The next bytes of the body have to be brought.
    Wants,
    /// By flow control.
    Blocked,
    /// The stream was reset.
    Gone,
}

pub(super) struct Stream<R: Record> {
    pub(super) id: u32,
    pub(super) exchange: Exchange,
    pub(super) priority: Priority,
    /// What was brought of the body and not sent.
    pub(super) piece: Piece<R>,
    /// More of the body is not here now.
    pub(super) stalled: bool,
    /// Found without room in the windows since the peer last spoke.
    pub(super) blocked: bool,
    respond: SendResponse<Body<R>>,
    send: Option<SendStream<Body<R>>>,
    outgoing: Outgoing,
    upload: Option<RecvStream>,
    /// When the peer is late with the request's body; `u64::MAX`: it is not the peer who is awaited.
    upload_due_ms: u64,
    /// The peer waits for leave to send it.
    expects: bool,
}

impl<R: Record> Stream<R> {
    pub(super) fn new(
        id: u32,
        exchange: Exchange,
        respond: SendResponse<Body<R>>,
        upload: Option<RecvStream>,
        upload_due_ms: u64,
    ) -> Self {
        Stream {
            id,
            exchange,
            priority: Priority::default(),
            piece: Piece::Bytes(Bytes::new()),
            stalled: false,
            blocked: false,
            respond,
            send: None,
            outgoing: Outgoing::Unanswered,
            upload,
            upload_due_ms,
            expects: false,
        }
    }

    /// The rest of its request's body, if that has not all come.
    pub(super) fn take_upload(&mut self) -> Option<RecvStream> {
        self.upload.take().filter(|upload| !upload.is_end_stream())
    }

    /// Whether a head of a response was sent.
    pub(super) fn is_answered(&self) -> bool {
        self.outgoing != Outgoing::Unanswered
    }

    /// Whether a turn would be of use.
    pub(super) fn is_ready(&self) -> bool {
        !self.blocked && self.is_answered() && (!self.piece.is_empty() || !self.stalled)
    }

    /// Whether it is the peer's windows that keep the response.
    pub(super) fn is_held_up(&self) -> bool {
        self.blocked && self.is_answered()
    }

    /// When the peer is late with its request; `u64::MAX`: no more of it is awaited.
    pub(super) fn upload_due_ms(&self) -> u64 {
        if self.upload.is_some() && !self.expects { self.upload_due_ms } else { u64::MAX }
    }

    /// Some of the response was sent: who takes it may take its time with what is left of the request.
    pub(super) fn moved(&mut self, due_ms: u64) {
        self.upload_due_ms = self.upload_due_ms.max(due_ms);
    }

    /// The request goes to control. `expects`: the client waits for leave to send its body, which comes from there.
    pub(super) fn fetched(&mut self, expects: bool) {
        self.expects = expects && self.upload.is_some() && !self.exchange.was_fetched();
    }

    /// Sends an interim response. Who has begun to send needs no leave any more.
    pub(super) fn interim(&mut self, interim: &Interim, now_ms: u64, timeouts: &Timeouts) {
        if interim.status == 100 {
            if !std::mem::take(&mut self.expects) {
                return;
            }
            self.upload_due_ms = timeouts.body_due_ms(u64::MAX, 0, now_ms);
        }
        if let Some(head) = message::interim(interim) {
            // If the stream is gone already, it is found out elsewhere.
            let _ = self.respond.send_informational(head);
        }
    }

    /// Sends the head of the response. `false`: the stream is gone.
    pub(super) fn answer(
        &mut self,
        head: Response<()>,
        outgoing: Outgoing,
        piece: Piece<R>,
        ended: bool,
    ) -> bool {
        let Ok(send) = self.respond.send_response(head, ended) else {
            return false;
        };
        self.outgoing = outgoing;
        self.piece = piece;
        self.stalled = false;
        self.send = (!ended).then_some(send);
        true
    }

    /// The body is complete.
    pub(super) fn end(&mut self) {
        if let Some(send) = &mut self.send {
            let body = Pipe::default().body(Piece::Bytes(Bytes::new()));
            // If the stream is gone already, nobody misses its end.
            let _ = send.send_data(body, true);
        }
    }

    /// The body is complete, and these fields follow it.
    pub(super) fn end_with(&mut self, trailers: HeaderMap) {
        if let Some(send) = &mut self.send {
            // As above.
            let _ = send.send_trailers(trailers);
        }
    }

    pub(super) fn reset(&mut self, reason: Reason) {
        self.respond.send_reset(reason);
    }

    pub(super) fn is_reset(&mut self, context: &mut Context<'_>) -> bool {
        match (&mut self.send, self.outgoing) {
            (Some(send), _) => send.poll_reset(context).is_ready(),
            (None, Outgoing::Unanswered) => self.respond.poll_reset(context).is_ready(),
            (None, _) => false,
        }
    }

    /// Sends some of the body, as the peer's windows and [`TURN_BYTES`] allow.
    pub(super) fn take_turn(&mut self, pipe: &Pipe<R>) -> Turn {
        let Some(send) = &mut self.send else {
            return Turn::Wants;
        };
        if self.piece.is_empty() && self.outgoing == Outgoing::Open {
            // Perhaps it is only the end that is missing, which needs no window.
            return Turn::Wants;
        }
        let wanted = self.piece.len().clamp(1, TURN_BYTES);
        send.reserve_capacity(wanted);
        let bytes = send.capacity().min(wanted);
        if bytes == 0 {
            // Room that comes later is for whoever is first then.
            send.reserve_capacity(0);
            return Turn::Blocked;
        }
        if self.piece.is_empty() {
            return Turn::Wants;
        }
        let ended = match &mut self.outgoing {
            Outgoing::Owed(left) => {
                *left = left.saturating_sub(bytes as u64);
                *left == 0
            }
            _ => false,
        };
        match send.send_data(pipe.body(self.piece.split_to(bytes)), ended) {
            Ok(()) => Turn::Sent { bytes, ended },
            Err(_) => Turn::Gone,
        }
    }

    pub(super) fn upload(
        &mut self,
        hold: bool,
        now_ms: u64,
        timeouts: &Timeouts,
        context: &mut Context<'_>,
    ) -> Upload {
        if hold {
            self.upload_due_ms = u64::MAX;
            return Upload::Nothing;
        }
        if self.upload_due_ms == u64::MAX {
            self.upload_due_ms = timeouts.body_due_ms(u64::MAX, 0, now_ms);
        }
        let Some(upload) = &mut self.upload else {
            return Upload::Nothing;
        };
        loop {
            match upload.poll_data(context) {
                Poll::Pending => return Upload::Nothing,
                Poll::Ready(Some(Ok(bytes))) => {
                    self.expects = false;
                    self.upload_due_ms = timeouts.body_due_ms(self.upload_due_ms, bytes.len(), now_ms);
                    // It leaves our hands: the peer may send as much again. Never more than was received.
                    let _ = upload.flow_control().release_capacity(bytes.len());
                    if !bytes.is_empty() {
                        return Upload::Data(bytes);
                    }
                }
                Poll::Ready(None) => {
                    let trailers = upload.poll_trailers(context);
                    self.upload = None;
                    let section = match &trailers {
                        Poll::Ready(Ok(Some(fields))) => trailers::lines(fields),
                        Poll::Ready(Ok(None)) => Vec::new(),
                        Poll::Ready(Err(_)) | Poll::Pending => return Upload::Broken,
                    };
                    return match section.len() <= usize::from(limits::REQUEST_TRAILER_BYTES_MAX) {
                        true => Upload::End(section.into()),
                        false => Upload::Broken,
                    };
                }
                Poll::Ready(Some(Err(_))) => {
                    self.upload = None;
                    return Upload::Broken;
                }
            }
        }
    }
}
