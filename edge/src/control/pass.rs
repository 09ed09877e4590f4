//! Requests passed through for one client alone: its body goes to the origin, the response comes back, both
//! only as fast as the other side takes them. A successful unsafe method removes what was stored; nothing is stored
//! but the answer to a POST that says it is what a GET would get.
#![forbid(unsafe_code)]

use super::Node;
use super::fill::Waiter;
use super::mailbox::{StreamId, Ticket, ToWorker};
use super::origin::{FetchError, Told};
use super::outgoing::Outgoing;
use super::purge;
use super::response::ResponseBody;
use super::rules::{self, Judged};
use super::stream::Stream;
use super::transport;
use super::upload::{Upload, UploadBody};
use crate::limits;
use crate::proto::forwarding;
use crate::proto::freshness::Storing;
use crate::proto::invalidation;
use crate::proto::request::{BodyLength, Method, RequestHead};
use crate::proto::response::OriginHead;
use crate::proto::session::{FetchKind, Interim};
use crate::proto::trailers;
use bytes::{Bytes, BytesMut};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// All passes, by what messages name them with.
#[derive(Default)]
pub(super) struct Passes {
    by_ticket: RefCell<HashMap<Ticket, Rc<Pass>>>,
    by_stream: RefCell<HashMap<StreamId, Rc<Pass>>>,
}

/// One pass.
pub(super) struct Pass {
    ticket: Ticket,
    upload: Option<Rc<Upload>>,
    stream: Cell<Option<StreamId>>,
    /// Bytes on their way to the client.
    unacknowledged_bytes: Cell<usize>,
    credited: Notify,
    gone: Notify,
}

impl Passes {
    /// The pass of this request.
    pub(super) fn get(&self, ticket: Ticket) -> Option<Rc<Pass>> {
        self.by_ticket.borrow().get(&ticket).cloned()
    }

    /// A client has been sent bytes of its stream.
    pub(super) fn credit(&self, stream: StreamId, bytes: usize) {
        if let Some(pass) = self.by_stream.borrow().get(&stream) {
            pass.unacknowledged_bytes.set(pass.unacknowledged_bytes.get().saturating_sub(bytes));
            pass.credited.notify_one();
        }
    }

    /// Passes that run.
    pub(super) fn len(&self) -> usize {
        self.by_ticket.borrow().len()
    }

    fn add(&self, pass: &Rc<Pass>) {
        self.by_ticket.borrow_mut().insert(pass.ticket, pass.clone());
    }

    fn remove(&self, pass: &Pass) {
        self.by_ticket.borrow_mut().remove(&pass.ticket);
        if let Some(stream) = pass.stream.get() {
            self.by_stream.borrow_mut().remove(&stream);
        }
    }
}

impl Pass {
    fn new(ticket: Ticket, upload: Option<Rc<Upload>>) -> Rc<Self> {
        Rc::new(Pass {
            ticket,
            upload,
            stream: Cell::new(None),
            unacknowledged_bytes: Cell::new(0),
            credited: Notify::new(),
            gone: Notify::new(),
        })
    }

    /// A request that begins to be answered alone, without a body of its own.
    pub(super) fn begin(node: &Node, ticket: Ticket) -> Rc<Self> {
        let pass = Pass::new(ticket, None);
        node.passes.add(&pass);
        pass
    }

    /// As [`Pass::begin`], for a request whose body follows.
    pub(super) fn begin_with_body(node: &Rc<Node>, ticket: Ticket) -> Rc<Self> {
        let own = Rc::downgrade(node);
        let upload = Upload::new(move |bytes| {
            if let Some(node) = own.upgrade() {
                node.outbox(ticket.worker).post(ToWorker::BodyCredit { ticket, bytes });
            }
        });
        let pass = Pass::new(ticket, Some(upload));
        node.passes.add(&pass);
        pass
    }

    /// The body that follows.
    pub(super) fn upload(&self) -> Option<Rc<Upload>> {
        self.upload.clone()
    }

    /// Whose it is.
    pub(super) fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Its response is that stream.
    pub(super) fn streams(self: &Rc<Self>, node: &Node, id: StreamId) {
        self.stream.set(Some(id));
        node.passes.by_stream.borrow_mut().insert(id, self.clone());
    }

    /// So many more bytes are on their way to the client; waits until no more than `window_bytes` are.
    pub(super) async fn sent(&self, bytes: usize, window_bytes: usize) -> Result<(), String> {
        let limit = Duration::from_millis(limits::PASS_CREDIT_TIMEOUT_MS);
        self.unacknowledged_bytes.set(self.unacknowledged_bytes.get() + bytes);
        while self.unacknowledged_bytes.get() > window_bytes {
            // Some read nothing before they have sent all.
            let upload = self.upload.as_deref();
            let credited = Upload::wait_beside(upload, limit, self.credited.notified()).await;
            credited.ok_or_else(|| "the client took nothing".to_owned())?;
        }
        Ok(())
    }

    /// The client left.
    pub(super) fn gone(&self) {
        if let Some(upload) = &self.upload {
            upload.abort();
        }
        self.gone.notify_one();
    }

    /// More of the request's body.
    pub(super) fn body(&self, bytes: Bytes, last: bool) {
        if let Some(upload) = &self.upload {
            upload.push(bytes, last);
        }
    }

    /// Some of what follows its body.
    pub(super) fn trailer(&self, bytes: &[u8]) {
        if let Some(upload) = &self.upload {
            upload.trail(bytes);
        }
    }
}

/// Starts passing a request through.
pub(super) fn start(node: &Rc<Node>, ticket: Ticket, request: Box<RequestHead>) {
    let pass = match request.body {
        BodyLength::None => Pass::begin(node, ticket),
        BodyLength::Bytes(_) | BodyLength::Chunked => Pass::begin_with_body(node, ticket),
    };
    let task_node = node.clone();
    node.spawn(async move {
        let node = task_node;
        let work = async {
            if let Some((status, mut lines, body)) = forwarding::last_answer(&request) {
                lines.extend(transport::lines(&node, &request));
                return answer_here(&node, &pass, status, lines, body);
            }
            match fetch(&node, &pass, &request).await {
                Ok((judged, body)) => {
                    let store = judged.facts.is_some().then_some((&*request, &judged));
                    stream(&node, &pass, judged.own.clone(), body, store).await;
                }
                Err(error) if request.method == Method::Other => node.refuse(ticket, &request, error.status),
                Err(error) => {
                    let kind = FetchKind::Pass;
                    node.fail(Waiter { ticket, kind, request }, &error);
                }
            }
        };
        until_gone(&node, &pass, work).await;
    });
}

/// Streams a response that a fill may not store to the client that asked first.
pub(super) fn take_over(node: &Rc<Node>, ticket: Ticket, head: Arc<OriginHead>, body: ResponseBody) {
    let pass = Pass::begin(node, ticket);
    let task_node = node.clone();
    node.spawn(async move {
        let node = task_node;
        until_gone(&node, &pass, stream(&node, &pass, head, body, None)).await;
    });
}

/// Does this until the client leaves or the node stops.
pub(super) async fn until_gone(node: &Node, pass: &Pass, work: impl Future<Output = ()>) {
    let stopped = tokio::select! {
        biased;
        () = work => None,
        () = pass.gone.notified() => Some(false),
        () = node.broken_off() => Some(true),
    };
    node.passes.remove(pass);
    if let Some(upload) = &pass.upload {
        upload.abort();
    }
    let message = match (stopped, pass.stream.get()) {
        // Also where the client has left: its worker keeps what it holds of a stream until it hears of its end.
        (Some(_), Some(stream)) => ToWorker::Broken { stream },
        (Some(true), None) => ToWorker::Refused { ticket: pass.ticket, status: 503, lines: Vec::new() },
        (Some(false), None) | (None, _) => return,
    };
    node.outbox(pass.ticket.worker).post(message);
}

/// Answers a request that goes no further.
fn answer_here(node: &Node, pass: &Rc<Pass>, status: u16, lines: Vec<u8>, body: Vec<u8>) {
    let body_bytes = Some(body.len() as u64);
    let head = OriginHead { status, lines, body_bytes, age_s: None, storing: Storing::No("pass") };
    let mut stream = open(node, pass, Arc::new(head));
    if !body.is_empty() {
        stream.piece(node, body.into());
    }
    stream.end(node);
}

/// The stream of a pass, joined by its client.
pub(super) fn open(node: &Node, pass: &Rc<Pass>, head: Arc<OriginHead>) -> Stream {
    let id = node.new_stream();
    pass.streams(node, id);
    let mut stream = Stream::new(id, head, 0, true, node.workers());
    stream.join(node, pass.ticket, None, false);
    stream
}

async fn fetch(
    node: &Rc<Node>,
    pass: &Pass,
    request: &RequestHead,
) -> Result<(Judged, ResponseBody), FetchError> {
    let (origin, routed) = node.route(request)?;
    let mut outgoing = Outgoing::new(node, &origin, request)?;
    outgoing.obey(&routed.caching);
    let announced = trailers::announced(request);
    let welcome = trailers::are_welcome(request);
    outgoing.trails(request.body, &announced, welcome);
    let body = match &pass.upload {
        Some(upload) => UploadBody::streamed(upload.clone(), request.body, announced),
        None => UploadBody::empty(),
    };
    let interim = |interim| node.interim(Some(pass.ticket), interim);
    let sent = Notify::new();
    let sending = || sent.notify_one();
    let told = Told { upload: pass.upload.as_deref(), sending: &sending, interim: &interim };
    let mut response = tokio::select! {
        biased;
        response = origin.fetch(&node.bounds, &outgoing, body, told) => response?,
        never = go_on(node, pass, request, &sent) => match never {},
    };
    if let Some(upload) = &pass.upload {
        response.body.comes_beside(upload.clone());
    }
    super::transport::harden(node, request, &mut response.fields);
    let status = response.status.as_u16();
    if invalidation::invalidates(request, status) {
        let named = invalidation::named_keys(request, &response.fields);
        let keys = [request.url_key()].into_iter().chain(named);
        purge::invalidate(node, keys.flat_map(|key| node.keys(&key)));
    }
    if request.method == Method::Head && status == 200 {
        rules::freshen_by_head(node, request, &mut response, &routed);
    }
    // The answer to a POST may be what a GET would get (RFC 9110 section 9.3.3); larger ones are not kept.
    let fits = |head: &OriginHead| head.body_bytes.is_some_and(|bytes| bytes <= limits::CHUNK_BYTES as u64);
    let judged = match request.method_name() == "POST" {
        true => rules::judge(request, &mut response, &routed)?,
        false => Judged::unstored(rules::passed(&response)?),
    };
    let judged = match judged.facts.is_some() && fits(&judged.head) {
        true => judged,
        false => Judged::unstored(rules::unstored(&judged.own, "pass")),
    };
    if !welcome || judged.facts.is_some() {
        return Ok((judged, response.body));
    }
    response.body.keep_trailers();
    let mut head = (*judged.head).clone();
    trailers::announce(&mut head.lines, &response.fields);
    Ok((Judged::unstored(head.into()), response.body))
}

/// Lets a client send its body that waits for leave, if its origin has said nothing some time after it was asked: not all
/// know of 100 (RFC 9110 section 10.1.1). Never ends.
async fn go_on(node: &Node, pass: &Pass, request: &RequestHead, sent: &Notify) -> Infallible {
    if request.expect_continue {
        sent.notified().await;
        tokio::time::sleep(Duration::from_millis(limits::CONTINUE_TIMEOUT_MS)).await;
        node.interim(Some(pass.ticket), Interim::go_on());
    }
    std::future::pending().await
}

/// Streams a response to its client. `store`: it is stored, too, once it is whole.
pub(super) async fn stream(
    node: &Rc<Node>,
    pass: &Rc<Pass>,
    head: Arc<OriginHead>,
    mut body: ResponseBody,
    store: Option<(&RequestHead, &Judged)>,
) {
    let stream = RefCell::new(open(node, pass, head));
    let mut kept = store.map(|_| BytesMut::new());
    let result = pump(node, pass, &stream, &mut body, kept.as_mut()).await;
    let mut stream = stream.borrow_mut();
    match result {
        Ok(()) => {
            if let (Some((request, judged)), Some(kept)) = (store, kept) {
                rules::store(node, request, judged, kept.freeze());
            }
            stream.end_with(node, body.trailers());
        }
        Err(reason) => {
            tracing::debug!(reason, "passed response broken off");
            stream.broken(node);
        }
    }
}

async fn pump(
    node: &Node,
    pass: &Pass,
    stream: &RefCell<Stream>,
    body: &mut ResponseBody,
    mut kept: Option<&mut BytesMut>,
) -> Result<(), String> {
    while let Some(bytes) = body.next().await.map_err(|error| error.reason)? {
        if let Some(kept) = &mut kept {
            kept.extend_from_slice(&bytes);
        }
        push(node, pass, stream, bytes, limits::PASS_WINDOW_BYTES).await?;
    }
    Ok(())
}

/// Sends bytes to the one client of a pass, never more than a window ahead of it.
pub(super) async fn push(
    node: &Node,
    pass: &Pass,
    stream: &RefCell<Stream>,
    mut bytes: Bytes,
    window_bytes: usize,
) -> Result<(), String> {
    while !bytes.is_empty() {
        // So that a window holds several.
        let piece = bytes.split_to(bytes.len().min(window_bytes / 4));
        pass.sent(0, window_bytes - piece.len()).await?;
        let workers = stream.borrow().workers();
        super::stream::room(node, workers, |worker| stream.borrow_mut().lose(node, worker)).await;
        if stream.borrow().workers().is_empty() {
            return Err("the worker took nothing".to_owned());
        }
        pass.unacknowledged_bytes.set(pass.unacknowledged_bytes.get() + piece.len());
        stream.borrow_mut().piece(node, piece);
    }
    Ok(())
}
