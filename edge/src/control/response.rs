//! The response of an origin: its head as it came, and its body piece by piece, which never looks whole when it is not.
#![forbid(unsafe_code)]

use super::origin::{Bounds, FetchError, Place};
use super::outgoing::Outgoing;
use super::pool::{self, Sender, Server};
use super::upload::Upload;
use crate::clock;
use crate::limits;
use crate::proto::forwarding;
use crate::proto::freshness::Exchange;
use crate::proto::partial;
use crate::proto::trailers;
use crate::stats::{Cells, Counter};
use bytes::{Buf, Bytes};
use http::StatusCode;
use http::header::{self, HeaderMap};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// A response whose head has arrived.
pub(super) struct Response {
    /// Final status.
    pub(super) status: StatusCode,
    /// As the origin sent them, and this node in Via.
    pub(super) fields: HeaderMap,
    /// When it was asked for and came.
    pub(super) exchange: Exchange,
    /// The connection behind a 101.
    pub(super) upgrade: Option<OnUpgrade>,
    /// What follows.
    pub(super) body: ResponseBody,
}

/// The body of a response. Dropped before its end, its connection is closed.
pub(super) struct ResponseBody {
    incoming: Incoming,
    sender: Option<Sender>,
    server: Rc<Server>,
    /// What the origin said it would send, less what came.
    left_bytes: Option<u64>,
    /// Of what comes, so many bytes are left out, and so many given out then.
    skip_bytes: u64,
    take_bytes: Option<u64>,
    /// The lines of its trailers; `None`: they are dropped.
    trailers: Option<Bytes>,
    cells: Arc<Cells>,
    place: Option<Place>,
    /// The body of the request, as long as that may be on its way.
    upload: Option<Rc<Upload>>,
}

impl Response {
    /// What came for this request. `asked`: when, and after which purge.
    pub(super) fn new(
        mut response: http::Response<Incoming>,
        sender: Sender,
        server: &Rc<Server>,
        place: Place,
        outgoing: &Outgoing,
        bounds: &Bounds,
        asked: Exchange,
    ) -> Self {
        let upgrade = (response.status() == 101).then(|| hyper::upgrade::on(&mut response));
        let (mut parts, incoming) = response.into_parts();
        forwarding::add_via(&mut parts.headers, parts.version);
        let bodiless = outgoing.head_only() || [204, 304].contains(&parts.status.as_u16());
        let length = parts.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
        // A part in chunks has a length, too.
        let part = (parts.status == 206).then(|| partial::content_range(&parts.headers)).flatten();
        let length = length.or(part.map(|range| range.part.end - range.part.start));
        let body = ResponseBody {
            incoming,
            sender: Some(sender),
            server: server.clone(),
            left_bytes: length.filter(|_| !bodiless),
            skip_bytes: 0,
            take_bytes: None,
            trailers: None,
            cells: bounds.cells().clone(),
            place: Some(place),
            upload: None,
        };
        let exchange = Exchange { response_s: clock::now().unix_s, ..asked };
        Response { status: parts.status, fields: parts.headers, exchange, upgrade, body }
    }
}

impl ResponseBody {
    /// So many bytes are to come, whatever Content-Length says: Content-Range says so, and is believed.
    pub(super) fn must_be(&mut self, bytes: u64) {
        self.left_bytes = Some(bytes);
    }

    /// Leaves out the first bytes, and ends after so many more.
    pub(super) fn cut(&mut self, skip_bytes: u64, take_bytes: u64) {
        (self.skip_bytes, self.take_bytes) = (skip_bytes, Some(take_bytes));
    }

    /// The request's body may still be on its way: while that moves, this is not late.
    pub(super) fn comes_beside(&mut self, upload: Rc<Upload>) {
        self.upload = Some(upload);
    }

    /// Its trailers are wanted.
    pub(super) fn keep_trailers(&mut self) {
        self.trailers = Some(Bytes::new());
    }

    /// The lines of its trailers, once it is whole, as far as they are wanted and may be passed on.
    pub(super) fn trailers(&self) -> Bytes {
        self.trailers.clone().unwrap_or_default()
    }

    /// What is given out of the bytes that came.
    fn taken(&mut self, mut bytes: Bytes) -> Bytes {
        let skipped = self.skip_bytes.min(bytes.len() as u64);
        self.skip_bytes -= skipped;
        bytes.advance(skipped as usize);
        if let Some(left) = &mut self.take_bytes {
            bytes.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= bytes.len() as u64;
        }
        bytes
    }

    /// The next piece, never empty; `None` when the body is whole. After an error nothing more comes.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        let limit = Duration::from_millis(limits::ORIGIN_BODY_TIMEOUT_MS);
        loop {
            if self.take_bytes == Some(0) {
                self.sender = None;
                self.place = None;
                return Ok(None);
            }
            let upload = self.upload.as_deref();
            let frame = match Upload::wait_beside(upload, limit, self.incoming.frame()).await {
                None => return Err(self.broken(504, "the body stopped")),
                Some(Some(Err(error))) => {
                    let malformed = is_malformed(&error);
                    return Err(FetchError { malformed, ..self.broken(502, pool::explain(error.into())) });
                }
                Some(None) => break,
                Some(Some(Ok(frame))) => frame,
            };
            let bytes = match frame.into_data() {
                Ok(bytes) => bytes,
                Err(frame) => {
                    if let (Ok(fields), Some(kept)) = (frame.into_trailers(), &mut self.trailers) {
                        *kept = trailers::lines(&fields).into();
                    }
                    continue;
                }
            };
            if bytes.is_empty() {
                continue;
            }
            self.cells.add(Counter::OriginBytes, bytes.len() as u64);
            if let Some(left) = &mut self.left_bytes {
                match left.checked_sub(bytes.len() as u64) {
                    Some(less) => *left = less,
                    None => {
                        let error = self.broken(502, "the body is longer than its length");
                        return Err(FetchError { malformed: true, ..error });
                    }
                }
            }
            let bytes = self.taken(bytes);
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
        }
        if self.left_bytes.or(self.take_bytes).is_some_and(|left| left > 0) {
            return Err(self.broken(502, "the body ended short"));
        }
        self.place = None;
        if let Some(sender) = self.sender.take() {
            self.server.keep(sender);
        }
        Ok(None)
    }

    fn broken(&mut self, status: u16, reason: impl Into<String>) -> FetchError {
        self.sender = None;
        self.place = None;
        self.cells.add(Counter::OriginErrors, 1);
        let error = FetchError::new(status, reason);
        self.server.failed(&error.reason);
        error
    }
}

/// Whether a body broke off because its framing is wrong, and not because its connection ended.
fn is_malformed(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            return matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData);
        }
        if let Some(error) = cause.downcast_ref::<h2::Error>() {
            return !error.is_remote() && !error.is_io();
        }
        source = cause.source();
    }
    false
}
