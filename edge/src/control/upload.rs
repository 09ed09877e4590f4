//! A request's body on its way from a worker to an origin: a queue that hyper polls. What was taken goes
//! back to the worker as credit, so the queue never holds more than the window. Knows no socket.
#![forbid(unsafe_code)]

use crate::proto::request::BodyLength;
use crate::proto::trailers;
use bytes::Bytes;
use http::HeaderName;
use http_body::{Body, Frame, SizeHint};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// The side control feeds. Shared with the [`UploadBody`] that hyper owns.
pub(super) struct Upload {
    pieces: RefCell<VecDeque<Bytes>>,
    /// Lines of the trailer section.
    trailer: RefCell<Vec<u8>>,
    ended: Cell<Ended>,
    waker: Cell<Option<Waker>>,
    /// When bytes last moved, so that a long upload is not taken for a slow answer.
    progressed: Cell<Instant>,
    /// Whether hyper still reads; else what arrives is credited and dropped.
    read: Cell<bool>,
    credit: Box<dyn Fn(usize)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    No,
    Whole,
    Aborted,
}

impl Upload {
    /// `credit` is told of every byte that was taken or dropped.
    pub(super) fn new(credit: impl Fn(usize) + 'static) -> Rc<Self> {
        Rc::new(Upload {
            pieces: RefCell::default(),
            trailer: RefCell::default(),
            ended: Cell::new(Ended::No),
            waker: Cell::new(None),
            progressed: Cell::new(Instant::now()),
            read: Cell::new(true),
            credit: Box::new(credit),
        })
    }

    /// The next bytes from the client.
    pub(super) fn push(&self, bytes: Bytes, last: bool) {
        self.progressed.set(Instant::now());
        if !bytes.is_empty() {
            if self.read.get() {
                self.pieces.borrow_mut().push_back(bytes);
            } else {
                (self.credit)(bytes.len());
            }
        }
        if last && self.ended.get() == Ended::No {
            self.ended.set(Ended::Whole);
        }
        self.wake();
    }

    /// Some of what follows the body; it comes before the body is said to be complete.
    pub(super) fn trail(&self, bytes: &[u8]) {
        self.trailer.borrow_mut().extend_from_slice(bytes);
    }

    /// The client left before its body was whole: the origin must not take it for complete.
    pub(super) fn abort(&self) {
        if self.ended.get() == Ended::No {
            self.ended.set(Ended::Aborted);
            self.wake();
        }
    }

    /// Waits for something of the origin's, so long after it was last heard of or the body last moved. `None`: in vain.
    pub(super) async fn wait_beside<T>(
        upload: Option<&Upload>,
        limit: Duration,
        awaited: impl Future<Output = T>,
    ) -> Option<T> {
        let mut awaited = std::pin::pin!(awaited);
        let mut deadline = Instant::now() + limit;
        loop {
            if let Ok(came) = timeout_at(deadline, &mut awaited).await {
                return Some(came);
            }
            // Nobody can be expected to answer, or to take an answer, while the request is on its way.
            deadline =
                upload.map(|upload| upload.progressed.get() + limit).filter(|moved| *moved > deadline)?;
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The side hyper reads. Without an [`Upload`] it is an empty body.
pub(super) struct UploadBody {
    upload: Option<Rc<Upload>>,
    length: BodyLength,
    /// The trailers that may follow.
    announced: Vec<HeaderName>,
}

impl UploadBody {
    /// No body.
    pub(super) fn empty() -> Self {
        UploadBody { upload: None, length: BodyLength::None, announced: Vec::new() }
    }

    /// The body fed through `upload`. Of its trailers those are sent that were announced.
    pub(super) fn streamed(upload: Rc<Upload>, length: BodyLength, announced: Vec<HeaderName>) -> Self {
        UploadBody { upload: Some(upload), length, announced }
    }
}

impl Drop for UploadBody {
    fn drop(&mut self) {
        let Some(upload) = &self.upload else { return };
        upload.read.set(false);
        let dropped: usize = upload.pieces.take().iter().map(Bytes::len).sum();
        if dropped > 0 {
            (upload.credit)(dropped);
        }
    }
}

impl Body for UploadBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let Some(upload) = &self.upload else { return Poll::Ready(None) };
        let piece = upload.pieces.borrow_mut().pop_front();
        if let Some(bytes) = piece {
            upload.progressed.set(Instant::now());
            (upload.credit)(bytes.len());
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        match upload.ended.get() {
            Ended::Whole => {
                let fields = trailers::read(&upload.trailer.take(), &self.announced);
                Poll::Ready((!fields.is_empty()).then(|| Ok(Frame::trailers(fields))))
            }
            Ended::Aborted => Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into()))),
            Ended::No => {
                upload.waker.set(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.upload {
            None => true,
            Some(upload) => {
                let is_sent = upload.pieces.borrow().is_empty() && upload.trailer.borrow().is_empty();
                upload.ended.get() == Ended::Whole && is_sent
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        // Asked once by hyper, before anything is read.
        match self.length {
            BodyLength::None => SizeHint::with_exact(0),
            BodyLength::Bytes(n) => SizeHint::with_exact(n),
            BodyLength::Chunked => SizeHint::default(),
        }
    }
}
