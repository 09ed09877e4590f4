//! Where the admin endpoint is reached: its socket, how many may ask at once and for how long, and the token they have
//! to carry. Knows nothing of what is asked.
#![forbid(unsafe_code)]

use super::Node;
use super::admin::{self, Answer};
use super::metrics::Metrics;
use crate::config::{Admin, AdminAddress, Config};
use crate::limits;
use http::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

const TIMEOUT: Duration = Duration::from_millis(limits::ADMIN_TIMEOUT_MS);
const CONNECTION: Duration = Duration::from_millis(limits::ADMIN_CONNECTION_MS);

/// A bound socket, not served yet.
pub(super) enum Socket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener, SocketFile),
}

impl Socket {
    /// Its address, with the port the kernel chose; none for a Unix socket.
    pub(super) fn address(&self) -> io::Result<Option<SocketAddr>> {
        match self {
            Socket::Tcp(listener) => listener.local_addr().map(Some),
            Socket::Unix(..) => Ok(None),
        }
    }
}

/// Removes the file of a Unix socket with the last who listens there.
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Gone already, or stale: the next start removes it.
        let _ = fs::remove_file(&self.0);
    }
}

/// Binds the address. Refuses one that others can reach without a token: whoever reaches the endpoint can empty the
/// cache.
pub(super) fn listen(admin: &Admin) -> io::Result<Socket> {
    let address = &admin.address;
    if !address.is_local() && admin.token.is_none() {
        let why =
            format!("admin {address} can be reached from outside: set admin_token_file, or use 127.0.0.1");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let told = |e: io::Error| {
        let remedy = remedy(address, e.kind());
        io::Error::new(e.kind(), format!("admin {address}: {e}: {remedy}"))
    };
    match address {
        AdminAddress::Tcp(address) => {
            let listener = std::net::TcpListener::bind(address).map_err(told)?;
            listener.set_nonblocking(true)?;
            Ok(Socket::Tcp(listener))
        }
        AdminAddress::Unix(path) => {
            let listener = bind_unix(path).map_err(told)?;
            let file = SocketFile(path.clone());
            listener.set_nonblocking(true)?;
            // The node's account and its group; who connects must be able to write.
            fs::set_permissions(path, Permissions::from_mode(0o660)).map_err(told)?;
            Ok(Socket::Unix(listener, file))
        }
    }
}

fn remedy(address: &AdminAddress, error: io::ErrorKind) -> &'static str {
    match (address, error) {
        (AdminAddress::Tcp(_), io::ErrorKind::AddrNotAvailable) => "this machine has no such address",
        (AdminAddress::Unix(_), io::ErrorKind::NotFound) => {
            "make its directory first, or RuntimeDirectory= in the unit"
        }
        (AdminAddress::Unix(_), io::ErrorKind::PermissionDenied) => {
            "let the node's account write into its directory"
        }
        (AdminAddress::Unix(_), io::ErrorKind::AddrInUse) => {
            "another process answers there, or it is no socket"
        }
        _ => "choose another [listen] admin",
    }
}

/// A socket that a process left behind when it was killed is replaced.
fn bind_unix(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    let bind = || std::os::unix::net::UnixListener::bind(path);
    let in_use = match bind() {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => error,
        bound => return bound,
    };
    let is_socket = fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    let nobody = || UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused);
    if !is_socket || !nobody() {
        return Err(in_use);
    }
    fs::remove_file(path)?;
    bind()
}

/// A socket that is served.
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, #[expect(dead_code, reason = "removed with the listener")] SocketFile),
}

/// What a connection can do, whatever its kind.
pub(super) trait Connection: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Connection for T {}

impl Listener {
    async fn accept(&self) -> io::Result<Box<dyn Connection>> {
        Ok(match self {
            Listener::Tcp(listener) => Box::new(listener.accept().await?.0),
            Listener::Unix(listener, _) => Box::new(listener.accept().await?.0),
        })
    }
}

/// Serves until the thread ends.
pub(super) fn serve(node: &Rc<Node>, socket: Socket, metrics: Metrics) -> io::Result<()> {
    let listener = match socket {
        Socket::Tcp(listener) => Listener::Tcp(TcpListener::from_std(listener)?),
        Socket::Unix(listener, file) => Listener::Unix(UnixListener::from_std(listener)?, file),
    };
    let (node, metrics) = (node.clone(), Rc::new(metrics));
    tokio_uring::spawn(async move {
        let places = Arc::new(Semaphore::new(limits::ADMIN_CONNECTIONS_MAX));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok(connection) => {
                    let (node, metrics) = (node.clone(), metrics.clone());
                    tokio_uring::spawn(async move {
                        converse(&node, &metrics, connection).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "admin connection not accepted");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
    Ok(())
}

/// Answers one connection, for a bounded time.
pub(super) async fn converse(node: &Rc<Node>, metrics: &Metrics, connection: Box<dyn Connection>) {
    let service = service_fn(async |request| Ok::<_, Infallible>(admit(node, metrics, request).await));
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(TIMEOUT).max_buf_size(limits::ADMIN_BODY_BYTES_MAX);
    let mut served = pin!(server.serve_connection(TokioIo::new(connection), service));
    let ended = match timeout(CONNECTION, served.as_mut()).await {
        Ok(ended) => ended,
        Err(_) => {
            served.as_mut().graceful_shutdown();
            match timeout(TIMEOUT, served).await {
                Ok(ended) => ended,
                Err(_) => return tracing::debug!("admin connection does not read its answers, closed"),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "admin connection ended");
    }
}

async fn admit(node: &Rc<Node>, metrics: &Metrics, request: Request<Incoming>) -> Answer {
    let mut given = request.headers().get_all(AUTHORIZATION).iter();
    let admitted = match (&*node.admin_token.borrow(), given.next(), given.next()) {
        (None, ..) => true,
        (Some(token), Some(given), None) => token.admits(given.as_bytes()),
        _ => false,
    };
    if admitted {
        return admin::answer(node, metrics, request).await;
    }
    let mut refused = admin::refuse(
        StatusCode::UNAUTHORIZED,
        "send the token of admin_token_file as Authorization: Bearer TOKEN; commands take it with --token-file",
    );
    refused.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"edge\""));
    refused
}

/// The token that a configuration gives the running endpoint: none that would open what the start had closed.
pub(super) fn take_token(node: &Node, config: &Config) {
    let mut running = node.admin_token.borrow_mut();
    let new = config.admin.as_ref().and_then(|admin| admin.token.clone());
    if running.is_some() && new.is_some() {
        *running = new;
    }
}
