//! Our parser of request heads beside hyper's, on generated heads: what one takes the other takes too, and for the same
//! request, or the difference is in the table with the section of the RFC that it rests on. An unexplained difference
//! fails, and so does an explanation that nothing needs.

#[path = "proto_generated/mod.rs"]
mod generated;

use edge::proto::request::BodyLength;
use generated::{Class, How, Taken, Verdict, is_host};
use hyper::body::{Body as _, Incoming};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

const HEADS: usize = 20_000;

/// Bytes in, bytes out; after the last of them nothing comes and nothing ends.
struct Memory<'a> {
    unread: &'a [u8],
    written: Rc<RefCell<Vec<u8>>>,
}

impl Read for Memory<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.unread.is_empty() {
            return Poll::Pending;
        }
        let (now, later) = this.unread.split_at(this.unread.len().min(into.remaining()));
        into.put_slice(now);
        this.unread = later;
        Poll::Ready(Ok(()))
    }
}

impl Write for Memory<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written.borrow_mut().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn hypers(bytes: &[u8]) -> Verdict {
    let seen = Rc::new(RefCell::new(None));
    let written = Rc::new(RefCell::new(Vec::new()));
    let service = service_fn(|request: Request<Incoming>| {
        seen.borrow_mut().get_or_insert_with(|| taken(&request));
        std::future::ready(Ok::<_, Infallible>(Response::new(String::new())))
    });
    let io = Memory { unread: bytes, written: written.clone() };
    let mut connection = std::pin::pin!(http1::Builder::new().serve_connection(io, service));
    let polled = connection.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    let Some(mut taken) = seen.borrow_mut().take() else {
        return if polled.is_ready() { Verdict::Refused } else { Verdict::Incomplete };
    };
    if taken.body == BodyLength::None {
        let answer = String::from_utf8_lossy(&written.borrow()).to_ascii_lowercase();
        let first = answer.split("\r\n\r\n").next().unwrap_or_default();
        taken.keep_alive = Some(match taken.minor_version {
            1 => !first.contains("connection: close"),
            _ => first.contains("connection: keep-alive"),
        });
    }
    Verdict::Taken(Box::new(taken))
}

fn taken(request: &Request<Incoming>) -> Taken {
    let fields = request.headers().iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
    Taken {
        method: request.method().to_string(),
        path: request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        minor_version: u8::from(request.version() == hyper::Version::HTTP_11),
        fields: fields.collect(),
        body: match request.body().size_hint().exact() {
            Some(0) => BodyLength::None,
            Some(bytes) => BodyLength::Bytes(bytes),
            None => BodyLength::Chunked,
        },
        keep_alive: None,
    }
}

#[rustfmt::skip]
const CLASSES: &[Class] = &[
    (How::Stricter, "two Host fields (section 3.2: MUST be 400)", |l| l.all("host").len() > 1),
    (How::Stricter, "Content-Length and Transfer-Encoding (section 6.1: MAY be refused)", |l| !l.all("content-length").is_empty() && !l.all("transfer-encoding").is_empty()),
    (How::Stricter, "Content-Length twice, though equal (RFC 9110 section 8.6: MAY be refused)", |l| l.all("content-length").len() > 1),
    (How::Stricter, "a transfer coding beside chunked (section 6.1: unknown ones SHOULD be 501; chunked MUST NOT be twice)", |l| {
        let all = l.all("transfer-encoding");
        all.len() > 1 || all.iter().any(|value| !value.eq_ignore_ascii_case(b"chunked"))
    }),
    (How::Stricter, "* with another method than OPTIONS (section 3.2.4)", |l| l.target == b"*" && l.method != b"OPTIONS"),
    (How::Stricter, "CONNECT, which is not implemented (RFC 9110 section 9.3.6)", |l| l.method == b"CONNECT"),
    (How::Stricter, "HTTP/1.1 without Host (section 3.2: MUST be 400)", |l| l.version == b"HTTP/1.1" && l.all("host").is_empty()),
    (How::Stricter, "an authority that is none (section 3.2.2; userinfo: RFC 9110 section 4.2.4)", |l| l.authority().is_some_and(|own| !is_host(own))),
    (How::Laxer, "a Content-Length that hyper uses for something else, 2^64-2 or -1 (RFC 9110 section 8.6: any number)", |l| {
        l.all("content-length").iter().any(|value| value.starts_with(b"1844674407370955161"))
    }),
    (How::Otherwise, "the other members of a Connection list with one that is not ASCII (section 9.6, RFC 9110 section 7.6.1)", |l| l.all("connection").iter().any(|value| !value.is_ascii())),
];

#[test]
fn every_difference_from_hyper_is_explained() {
    generated::compare(HEADS, CLASSES, generated::ours, hypers);
}
