//! Connections to one origin server: opened within a time limit, kept while idle, shared when the server
//! speaks HTTP/2. Knows nothing of caching.
#![forbid(unsafe_code)]

use super::standing::Standing;
use super::upload::UploadBody;
use crate::limits;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::{Connection, HttpConnector};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tower_service::Service;

const IDLE: Duration = Duration::from_millis(limits::ORIGIN_IDLE_TIMEOUT_MS);

/// Opens connections to the servers of an origin.
#[derive(Clone)]
pub(super) enum Connector {
    /// Over TCP, and TLS where the server's URL says so.
    Network {
        /// HTTP/1.1 or HTTP/2, as the server chooses.
        any: HttpsConnector<HttpConnector>,
        /// HTTP/1.1.
        http1: HttpsConnector<HttpConnector>,
    },
    /// In memory, in simulations.
    #[cfg(test)]
    Memory(Rc<dyn Fn(&Uri) -> InMemory>),
}

/// A connection in memory that is being opened.
#[cfg(test)]
pub(super) type InMemory = std::pin::Pin<Box<dyn Future<Output = Result<tokio::io::DuplexStream, String>>>>;

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum ConnectError {
    /// Not within the time limit.
    Timeout,
    /// Refused, unreachable, no such name, or a failed handshake.
    Failed(String),
}

/// One server of an origin and its connections.
pub(super) struct Server {
    /// Scheme and authority; what is dialled.
    uri: Uri,
    idle: RefCell<VecDeque<(Instant, http1::SendRequest<UploadBody>)>>,
    shared: RefCell<Option<http2::SendRequest<UploadBody>>>,
    shared_used: Cell<Instant>,
    /// Held while the first HTTP/2 connection is opened, so that a burst opens one.
    opening: tokio::sync::Mutex<()>,
    speaks_http2: Cell<bool>,
    /// What became of the requests to it.
    standing: Standing,
}

/// A connection that is ready for one request.
pub(super) enum Sender {
    /// HTTP/1.1: ours alone until its response has ended.
    Http1(http1::SendRequest<UploadBody>),
    /// HTTP/2: shared.
    Http2(http2::SendRequest<UploadBody>),
}

impl Sender {
    /// Whether requests must be in HTTP/2 form.
    pub(super) fn http2(&self) -> bool {
        matches!(self, Sender::Http2(_))
    }

    /// Sends one request. The error holds the request if not a byte of it was written.
    pub(super) async fn send(
        &mut self,
        request: Request<UploadBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<UploadBody>>> {
        match self {
            Sender::Http1(sender) => sender.try_send_request(request).await,
            Sender::Http2(sender) => sender.try_send_request(request).await,
        }
    }
}

impl Server {
    /// A server without connections. `uri` is scheme and authority.
    pub(super) fn new(uri: Uri) -> Self {
        Server {
            uri,
            idle: RefCell::default(),
            shared: RefCell::new(None),
            shared_used: Cell::new(Instant::now()),
            opening: tokio::sync::Mutex::new(()),
            speaks_http2: Cell::new(false),
            standing: Standing::default(),
        }
    }

    /// What is dialled.
    pub(super) fn uri(&self) -> &Uri {
        &self.uri
    }

    /// See [`Standing::answered`].
    pub(super) fn answered(&self) {
        self.standing.answered(&self.uri);
    }

    /// See [`Standing::failed`].
    pub(super) fn failed(&self, reason: &str) {
        self.standing.failed(&self.uri, reason);
    }

    /// For the status: where it is, how it stands, and its connections.
    pub(super) fn status(&self) -> serde_json::Value {
        let mut status = self.standing.status();
        status["address"] = self.uri.to_string().trim_end_matches('/').into();
        status["protocol"] = if self.speaks_http2.get() { "HTTP/2" } else { "HTTP/1.1" }.into();
        status["idle_connections"] = self.idle.borrow().len().into();
        status
    }

    /// A connection that is open already.
    pub(super) fn reuse(&self) -> Option<Sender> {
        let shared = self.shared.borrow().as_ref().filter(|sender| sender.is_ready()).cloned();
        if let Some(sender) = shared {
            self.shared_used.set(Instant::now());
            return Some(Sender::Http2(sender));
        }
        let mut idle = self.idle.borrow_mut();
        // The newest first: the others age out when the load falls.
        while let Some((since, sender)) = idle.pop_back() {
            if since.elapsed() < IDLE && sender.is_ready() {
                return Some(Sender::Http1(sender));
            }
        }
        None
    }

    /// Opens a connection, or waits for another request to do so where one is enough: within this limit in all.
    pub(super) async fn open(&self, connector: &Connector, limit: Duration) -> Result<Sender, ConnectError> {
        within(limit, async {
            let turn = match self.speaks_http2.get() {
                true => Some(self.opening.lock().await),
                false => None,
            };
            match turn.as_ref().and_then(|_| self.reuse()) {
                Some(sender) => Ok(sender),
                None => self.connect(connector, false).await,
            }
        })
        .await
    }

    /// Opens a connection that speaks HTTP/1.1, whatever the server would choose.
    pub(super) async fn open_http1(
        &self,
        connector: &Connector,
        limit: Duration,
    ) -> Result<Sender, ConnectError> {
        within(limit, self.connect(connector, true)).await
    }

    async fn connect(&self, connector: &Connector, only_http1: bool) -> Result<Sender, String> {
        match connector {
            Connector::Network { any, http1 } => {
                let mut connector = if only_http1 { http1.clone() } else { any.clone() };
                std::future::poll_fn(|cx| connector.poll_ready(cx)).await.map_err(explain)?;
                let io = connector.call(self.uri.clone()).await.map_err(explain)?;
                let http2 = io.connected().is_negotiated_h2();
                self.begin(io, http2).await
            }
            #[cfg(test)]
            Connector::Memory(open) => {
                let io = open(&self.uri).await?;
                self.begin(hyper_util::rt::TokioIo::new(io), false).await
            }
        }
    }

    /// Begins to speak HTTP over a connection.
    async fn begin<Io>(&self, io: Io, http2: bool) -> Result<Sender, String>
    where
        Io: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        if http2 {
            let (sender, connection) = http2::Builder::new(LocalExecutor)
                .max_header_list_size(limits::RESPONSE_HEAD_BYTES_MAX as u32)
                .handshake(io)
                .await
                .map_err(|e| explain(e.into()))?;
            tokio::task::spawn_local(connection);
            self.speaks_http2.set(true);
            self.shared_used.set(Instant::now());
            *self.shared.borrow_mut() = Some(sender.clone());
            return Ok(Sender::Http2(sender));
        }
        let (sender, connection) = http1::Builder::new()
            .max_headers(limits::RESPONSE_FIELDS_MAX)
            .max_header_size(limits::RESPONSE_HEAD_BYTES_MAX)
            .max_buf_size(limits::ORIGIN_READ_BUFFER_BYTES)
            .handshake(io)
            .await
            .map_err(|e| explain(e.into()))?;
        tokio::task::spawn_local(connection.with_upgrades());
        Ok(Sender::Http1(sender))
    }

    /// Keeps a connection whose response has ended, once it is ready for another request.
    pub(super) fn keep(self: &Rc<Self>, sender: Sender) {
        let Sender::Http1(mut sender) = sender else { return };
        let server = self.clone();
        tokio::task::spawn_local(async move {
            if let Ok(Ok(())) = timeout(IDLE, sender.ready()).await {
                let mut idle = server.idle.borrow_mut();
                if idle.len() < limits::ORIGIN_IDLE_CONNECTIONS_MAX {
                    idle.push_back((Instant::now(), sender));
                }
            }
        });
    }

    /// Closes what has been unused for `ORIGIN_IDLE_TIMEOUT_MS`. A shared connection closes when its last stream has ended.
    pub(super) fn reap(&self) {
        self.idle.borrow_mut().retain(|(since, sender)| since.elapsed() < IDLE && !sender.is_closed());
        let mut shared = self.shared.borrow_mut();
        if shared.as_ref().is_some_and(|s| s.is_closed() || self.shared_used.get().elapsed() >= IDLE) {
            *shared = None;
        }
    }
}

async fn within(
    limit: Duration,
    connecting: impl Future<Output = Result<Sender, String>>,
) -> Result<Sender, ConnectError> {
    match timeout(limit, connecting).await {
        Ok(connected) => connected.map_err(ConnectError::Failed),
        Err(_) => Err(ConnectError::Timeout),
    }
}

/// A connector for HTTP/1.1 and HTTP/2 (by ALPN), trusting the public authorities or only those of `ca_file`.
pub(super) fn connector(ca_file: Option<&Path>) -> Result<Connector, String> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    let tls = client_tls(ca_file)?;
    let builder = HttpsConnectorBuilder::new().with_tls_config(tls.clone()).https_or_http();
    let any = builder.enable_all_versions().wrap_connector(http.clone());
    let builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    Ok(Connector::Network { any, http1: builder.enable_http1().wrap_connector(http) })
}

fn client_tls(ca_file: Option<&Path>) -> Result<rustls::ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| format!("TLS to origins: {e}"))?;
    let Some(path) = ca_file else {
        return Ok(builder.with_webpki_roots().with_no_client_auth());
    };
    let read = |e| format!("{}: {e}: give a PEM file of certificates", path.display());
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(read)? {
        roots
            .add(certificate.map_err(read)?)
            .map_err(|e| format!("{}: {e}: not a certificate of an authority", path.display()))?;
    }
    if roots.is_empty() {
        return Err(format!("{}: no certificate in it: give a PEM file of certificates", path.display()));
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// The whole chain of causes: hyper's own words end before the interesting part.
pub(super) fn explain(error: Box<dyn std::error::Error + Send + Sync>) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Runs hyper's HTTP/2 tasks on this thread, whose bodies never leave it.
#[derive(Clone)]
struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    /// Who waits while another opens the one connection waits no longer than for one of its own.
    #[test]
    fn a_dead_server_is_waited_for_once_however_many_wait() {
        const LIMIT: Duration = Duration::from_secs(5);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let server = Rc::new(Server::new(Uri::from_static("https://origin.test")));
        server.speaks_http2.set(true);
        let ask = |server: &Rc<Server>| {
            let (server, dead) = (server.clone(), Rc::new(|_: &Uri| -> InMemory { Box::pin(pending()) }));
            tokio::task::spawn_local(async move { server.open(&Connector::Memory(dead), LIMIT).await })
        };
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let began = Instant::now();
            let waiting: Vec<_> = (0..10).map(|_| ask(&server)).collect();
            for ended in waiting {
                assert!(matches!(ended.await.unwrap(), Err(ConnectError::Timeout)));
            }
            assert!(began.elapsed() < LIMIT + LIMIT / 10, "{:?}", began.elapsed());
        });
    }
}
