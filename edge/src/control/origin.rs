//! One request to an origin: a place within the bounds, a server that answers, and the response's head within its
//! time limit. Decides nothing about caching.
#![forbid(unsafe_code)]

use super::outgoing::Outgoing;
use super::places;
use super::pool::{self, ConnectError, Connector, Sender, Server};
use super::response::Response;
use super::upload::{Upload, UploadBody};
use crate::clock;
use crate::config;
use crate::limits;
use crate::proto::forwarded::Style;
use crate::proto::freshness::Exchange;
use crate::proto::response::{self, HeadError};
use crate::proto::reuse::Failure;
use crate::proto::session::Interim;
use crate::stats::{Cells, Counter};
use http::uri::{Scheme, Uri};
use http::{Request, header};
use hyper::body::Incoming;
use prometheus_client::metrics::histogram::Histogram;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

/// Why there is no response, and what the client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FetchError {
    /// 400, 501, 502, 503, 504 or 508.
    pub(super) status: u16,
    /// For the log.
    pub(super) reason: String,
    /// What came breaks the rules of its framing: where the body ends is not known, nor what came before it broke.
    pub(super) malformed: bool,
}

impl FetchError {
    pub(super) fn new(status: u16, reason: impl Into<String>) -> Self {
        FetchError { status, reason: reason.into(), malformed: false }
    }
}

impl FetchError {
    /// What it means for a stale response; `None`: it is our own or the client's fault.
    pub(super) fn failure(&self) -> Option<Failure> {
        match self.status {
            502 | 504 => Some(Failure::Disconnected),
            503 => Some(Failure::Error),
            _ => None,
        }
    }
}

impl From<HeadError> for FetchError {
    fn from(error: HeadError) -> Self {
        FetchError::new(502, error.to_string())
    }
}

/// The node's bounds on fetches and what is counted about them.
#[derive(Clone)]
pub(super) struct Bounds {
    running: Arc<Semaphore>,
    pub(super) waiting: Rc<Cell<usize>>,
    cells: Arc<Cells>,
    latency: Histogram,
    /// The number of the last purge.
    purges: Rc<Cell<u64>>,
}

impl Bounds {
    /// Nothing runs yet. `latency` is told the seconds to the head of each response.
    /// `purges` always holds the number of the last purge.
    pub(super) fn new(cells: Arc<Cells>, latency: Histogram, purges: Rc<Cell<u64>>) -> Self {
        let running = Arc::new(Semaphore::new(limits::FETCHES_RUNNING_MAX));
        Bounds { running, waiting: Rc::default(), cells, latency, purges }
    }

    /// What is counted.
    pub(super) fn cells(&self) -> &Arc<Cells> {
        &self.cells
    }

    /// Fetches that wait for a place.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.get()
    }

    /// Fetches that have one.
    pub(super) fn running(&self) -> usize {
        limits::FETCHES_RUNNING_MAX - self.running.available_permits()
    }
}

/// What is heard of a request before its response.
#[derive(Clone, Copy)]
pub(super) struct Told<'a> {
    /// How its body gets on.
    pub(super) upload: Option<&'a Upload>,
    /// Told when it has its place and its connection, and is sent.
    pub(super) sending: &'a dyn Fn(),
    /// Told of each interim response that is to be forwarded.
    pub(super) interim: &'a dyn Fn(Interim),
}

/// A place: one for the origin, one for the node. Given back when dropped.
pub(super) struct Place {
    _origin: OwnedSemaphorePermit,
    _node: OwnedSemaphorePermit,
}

/// One configured origin.
pub(super) struct Origin {
    name: String,
    servers: Vec<Rc<Server>>,
    next: Cell<usize>,
    connector: Connector,
    places: Arc<Semaphore>,
    connect_timeout: Duration,
    first_byte_timeout: Duration,
    forwarded: Style,
}

impl Origin {
    /// Reads what the configuration says. The error names what is wrong with it.
    pub(super) fn new(origin: &config::Origin) -> Result<Self, String> {
        let connector =
            pool::connector(origin.ca_file.as_deref()).map_err(|e| format!("origin {}: {e}", origin.name))?;
        Origin::through(origin, connector)
    }

    /// As [`Origin::new`], its connections opened by this.
    pub(super) fn through(origin: &config::Origin, connector: Connector) -> Result<Self, String> {
        let mut servers = Vec::new();
        for server in &origin.servers {
            let uri: Uri = server.parse().map_err(|e| format!("origin {}: {server}: {e}", origin.name))?;
            let known = uri.scheme() == Some(&Scheme::HTTP) || uri.scheme() == Some(&Scheme::HTTPS);
            if !known || uri.authority().is_none() {
                return Err(format!(
                    "origin {}: {server}: write http://host:port or https://host:port",
                    origin.name
                ));
            }
            servers.push(Rc::new(Server::new(uri)));
        }
        if servers.is_empty() {
            return Err(format!("origin {}: no server: list at least one", origin.name));
        }
        Ok(Origin {
            name: origin.name.clone(),
            servers,
            next: Cell::new(0),
            connector,
            places: Arc::new(Semaphore::new(origin.concurrency_max)),
            connect_timeout: Duration::from_millis(origin.connect_timeout_ms),
            first_byte_timeout: Duration::from_millis(origin.first_byte_timeout_ms),
            forwarded: origin.forwarded,
        })
    }

    /// How it is told of clients.
    pub(super) fn forwarded(&self) -> Style {
        self.forwarded
    }

    /// For the status: its servers, a line each.
    pub(super) fn status(&self) -> impl Iterator<Item = serde_json::Value> {
        self.servers.iter().map(|server| {
            let mut status = server.status();
            status["origin"] = self.name.as_str().into();
            status
        })
    }

    /// Closes connections that have been unused for too long.
    pub(super) fn reap(&self) {
        self.servers.iter().for_each(|server| server.reap());
    }

    /// Sends one request, once, and waits for the head of its response. Another server is tried only as long as
    /// no byte of the request was sent.
    pub(super) async fn fetch(
        &self,
        bounds: &Bounds,
        outgoing: &Outgoing,
        body: UploadBody,
        told: Told<'_>,
    ) -> Result<Response, FetchError> {
        let place = self.place(bounds).await?;
        let started = Instant::now();
        let fetched = self.fetch_from_any(bounds, outgoing, body, told, place).await;
        match &fetched {
            Ok(_) => bounds.latency.observe(started.elapsed().as_secs_f64()),
            Err(error) => {
                bounds.cells.add(Counter::OriginErrors, 1);
                tracing::debug!(
                    origin = self.name,
                    status = error.status,
                    reason = error.reason,
                    "fetch failed"
                );
            }
        }
        fetched
    }

    async fn place(&self, bounds: &Bounds) -> Result<Place, FetchError> {
        // The origin's place first: one slow origin must not hold the node's places while it waits.
        let origin = places::wait_for(&self.places, bounds).await?;
        let node = places::wait_for(&bounds.running, bounds).await?;
        Ok(Place { _origin: origin, _node: node })
    }

    async fn fetch_from_any(
        &self,
        bounds: &Bounds,
        outgoing: &Outgoing,
        mut body: UploadBody,
        told: Told<'_>,
        place: Place,
    ) -> Result<Response, FetchError> {
        let first = self.next.get();
        self.next.set((first + 1) % self.servers.len());
        let mut failed = FetchError::new(502, "no server");
        for i in 0..self.servers.len() {
            let server = &self.servers[(first + i) % self.servers.len()];
            // A kept connection may just have been closed by the server; then a new one is opened.
            for fresh in [false, true] {
                let sender = if fresh {
                    let opened = match outgoing.upgrades() {
                        true => server.open_http1(&self.connector, self.connect_timeout).await,
                        false => server.open(&self.connector, self.connect_timeout).await,
                    };
                    match opened {
                        Ok(sender) => sender,
                        Err(error) => {
                            failed = connect_failed(error);
                            server.failed(&failed.reason);
                            break;
                        }
                    }
                } else {
                    let Some(sender) = server.reuse().filter(|_| !outgoing.upgrades()) else { continue };
                    sender
                };
                let asked =
                    Exchange { request_s: clock::now().unix_s, response_s: 0, purges: bounds.purges.get() };
                match self.send(bounds, server, sender, outgoing, body, told).await {
                    Ok((response, sender)) => {
                        server.answered();
                        return Ok(Response::new(response, sender, server, place, outgoing, bounds, asked));
                    }
                    Err((error, None)) => {
                        server.failed(&error.reason);
                        return Err(error);
                    }
                    Err((error, Some(unsent))) => {
                        // That a kept connection was closed meanwhile is no failure, nor is a request that cannot be sent.
                        if fresh && error.failure().is_some() {
                            server.failed(&error.reason);
                        }
                        (failed, body) = (error, unsent);
                    }
                }
            }
        }
        Err(failed)
    }

    /// The error holds the body if no byte of the request was sent.
    async fn send(
        &self,
        bounds: &Bounds,
        server: &Server,
        mut sender: Sender,
        outgoing: &Outgoing,
        body: UploadBody,
        Told { upload, sending, interim }: Told<'_>,
    ) -> Result<(http::Response<Incoming>, Sender), (FetchError, Option<UploadBody>)> {
        let mut request = match outgoing.request(sender.http2(), server.uri().scheme(), body) {
            Ok(request) => request,
            Err((error, body)) => return Err((error, Some(body))),
        };
        let (sender_of_interims, mut interims) = mpsc::channel(limits::INTERIM_RESPONSES_MAX);
        hyper::ext::on_informational(&mut request, move |response| {
            if let Some(interim) = response::interim(response.status().as_u16(), response.headers()) {
                // More than the bound are dropped, which the client cannot tell from their not being sent.
                let _ = sender_of_interims.try_send(interim);
            }
        });
        sending();
        let answered = Upload::wait_beside(upload, self.first_byte_timeout, async {
            let mut answer = std::pin::pin!(sender.send(request));
            loop {
                tokio::select! {
                    biased;
                    Some(response) = interims.recv() => interim(response),
                    answered = &mut answer => break answered,
                }
            }
        })
        .await;
        while let Ok(response) = interims.try_recv() {
            interim(response);
        }
        match answered {
            Some(Ok(response)) => {
                bounds.cells.add(Counter::OriginRequests, 1);
                let fields = response.headers();
                if fields.contains_key(header::TRANSFER_ENCODING)
                    && fields.contains_key(header::CONTENT_LENGTH)
                {
                    // Two ends of one body: an attempt to have it read in two ways (RFC 9112 section 6.3).
                    return Err((FetchError::new(502, "Content-Length beside Transfer-Encoding"), None));
                }
                Ok((response, sender))
            }
            Some(Err(mut error)) => {
                let unsent = error.take_message().map(Request::into_body);
                bounds.cells.add(Counter::OriginRequests, u64::from(unsent.is_none()));
                Err((FetchError::new(502, pool::explain(error.into_error().into())), unsent))
            }
            None => {
                bounds.cells.add(Counter::OriginRequests, 1);
                Err((FetchError::new(504, "no answer in time"), None))
            }
        }
    }
}

fn connect_failed(error: ConnectError) -> FetchError {
    match error {
        ConnectError::Timeout => FetchError::new(504, "no connection in time"),
        ConnectError::Failed(reason) => FetchError::new(502, reason),
    }
}
