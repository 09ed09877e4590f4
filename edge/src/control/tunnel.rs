//! Connections that go over to another protocol (RFC 9110 section 7.8): WebSocket, where the route allows it. Bytes then
//! flow both ways, unread, as fast as the other side takes them. What a client sends before its origin has agreed never
//! gets here, and what an origin answers but 101 is a response like any other.
//!
//! The ways of a tunnel are those of a pass: the client's bytes come as the body of its request, the origin's go as the
//! body of the response. A client that has sent its last byte is told to the origin, and may still get all there is; an
//! origin that has ends the tunnel once that is delivered.
#![forbid(unsafe_code)]

use super::Node;
use super::mailbox::Ticket;
use super::origin::{FetchError, Told};
use super::outgoing::Outgoing;
use super::pass::{self, Pass};
use super::response::Response;
use super::stream::Stream;
use super::upload::UploadBody;
use super::{rules, transport};
use crate::limits;
use crate::proto::request::{BodyLength, RequestHead};
use crate::proto::response::{self, OriginHead};
use crate::stats::Counter;
use bytes::BytesMut;
use http_body_util::BodyExt;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use std::cell::RefCell;
use std::rc::Rc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Counts a tunnel, or an attempt at one, for as long as it is there.
struct Place(Rc<Node>);

impl Place {
    /// `None`: there are as many as may be.
    fn take(node: &Rc<Node>) -> Option<Self> {
        let tunnels = node.tunnels.get();
        (tunnels < node.tunnels_max).then(|| {
            node.tunnels.set(tunnels + 1);
            Place(node.clone())
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.tunnels.set(self.0.tunnels.get() - 1);
    }
}

/// A client asks to go over. Where the route does not allow it, its request is passed on as if it had not asked.
pub(super) fn start(node: &Rc<Node>, ticket: Ticket, request: Box<RequestHead>) {
    if !node.upgrades(&request) {
        return pass::start(node, ticket, request);
    }
    let Some(place) = Place::take(node) else { return node.refuse(ticket, &request, 503) };
    let pass = Pass::begin_with_body(node, ticket);
    let task_node = node.clone();
    node.spawn(async move {
        let node = task_node;
        let work = async {
            if let Err(error) = run(&node, &pass, &request).await {
                tracing::debug!(reason = error.reason, "no tunnel");
                node.refuse(ticket, &request, error.status);
            }
        };
        pass::until_gone(&node, &pass, work).await;
        drop(place);
    });
}

/// The error is what the client is told; there is none once a head has reached it.
async fn run(node: &Rc<Node>, pass: &Rc<Pass>, request: &RequestHead) -> Result<(), FetchError> {
    let (origin, _) = node.route(request)?;
    let mut outgoing = Outgoing::new(node, &origin, request)?;
    outgoing.ask_for_websocket();
    let interim = |interim| node.interim(Some(pass.ticket()), interim);
    let told = Told { upload: None, sending: &|| {}, interim: &interim };
    let mut response = origin.fetch(&node.bounds, &outgoing, UploadBody::empty(), told).await?;
    transport::harden(node, request, &mut response.fields);
    if response.upgrade.is_none() {
        pass::stream(node, pass, rules::passed(&response)?, response.body, None).await;
        return Ok(());
    }
    let (head, upgraded) = switch(response).await?;
    node.cells.add(Counter::Tunnels, 1);
    let stream = RefCell::new(pass::open(node, pass, head.into()));
    match carry(node, pass, &stream, TokioIo::new(upgraded)).await {
        Ok(()) => stream.borrow_mut().end(node),
        Err(reason) => {
            tracing::debug!(reason, "tunnel broken off");
            stream.borrow_mut().broken(node);
        }
    }
    Ok(())
}

/// The origin has answered 101: the head for the client, and the connection.
async fn switch(response: Response) -> Result<(OriginHead, Upgraded), FetchError> {
    let Response { fields, exchange, upgrade, body, .. } = response;
    if !response::switches_to_websocket(&fields) {
        return Err(FetchError::new(502, "101 without Upgrade: websocket"));
    }
    let head = OriginHead::switching(&fields, exchange.response_s)?;
    let upgrade = upgrade.ok_or_else(|| FetchError::new(502, "no connection behind a 101"))?;
    let upgraded = upgrade.await.map_err(|error| FetchError::new(502, error.to_string()))?;
    // Its place among the origin's requests is free again: a tunnel may last for days.
    drop(body);
    Ok((head, upgraded))
}

/// Carries bytes both ways until the origin has sent its last, and it is delivered.
async fn carry(
    node: &Node,
    pass: &Pass,
    stream: &RefCell<Stream>,
    io: impl AsyncRead + AsyncWrite,
) -> Result<(), String> {
    let (from_origin, to_origin) = tokio::io::split(io);
    let mut down = std::pin::pin!(down(node, pass, stream, from_origin));
    let mut up = std::pin::pin!(up(pass, to_origin));
    let mut sending = true;
    loop {
        tokio::select! {
            biased;
            ended = &mut down => return ended,
            ended = &mut up, if sending => {
                ended?;
                sending = false;
            }
        }
    }
}

/// From the origin to the client.
async fn down(
    node: &Node,
    pass: &Pass,
    stream: &RefCell<Stream>,
    mut from: impl AsyncRead + Unpin,
) -> Result<(), String> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(limits::TUNNEL_PIECE_BYTES);
        let bytes = from.read_buf(&mut buffer).await.map_err(|error| error.to_string())?;
        if bytes == 0 {
            return Ok(());
        }
        pass::push(node, pass, stream, buffer.split().freeze(), limits::TUNNEL_WINDOW_BYTES).await?;
    }
}

/// From the client to the origin; ends when the client has sent its last byte.
async fn up(pass: &Pass, mut to: impl AsyncWrite + Unpin) -> Result<(), String> {
    let Some(upload) = pass.upload() else { return Ok(()) };
    let mut body = UploadBody::streamed(upload, BodyLength::Chunked, Vec::new());
    while let Some(frame) = body.frame().await {
        let bytes = frame.map_err(|error| error.to_string())?.into_data().unwrap_or_default();
        to.write_all(&bytes).await.map_err(|error| error.to_string())?;
        to.flush().await.map_err(|error| error.to_string())?;
    }
    to.shutdown().await.map_err(|error| error.to_string())
}
