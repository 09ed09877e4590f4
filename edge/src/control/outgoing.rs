//! A request on its way to an origin: what of the client's it keeps, loses and gains. Knows no connection.
#![forbid(unsafe_code)]

use super::Node;
use super::origin::{FetchError, Origin};
use super::upload::UploadBody;
use crate::config::Caching;
use crate::proto::forwarded;
use crate::proto::forwarding;
use crate::proto::request::{BodyLength, RequestHead, WEBSOCKET};
use crate::proto::targeted;
use crate::proto::validation;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Method, Request};

/// A request as the origin gets it, without its body: hop-by-hop fields removed, all else as the client sent it.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    method: Method,
    path: PathAndQuery,
    fields: HeaderMap,
    upgrades: bool,
}

impl Outgoing {
    /// Builds it from the client's request. `Err`: it cannot be sent on (400, or 501 for CONNECT).
    pub(super) fn new(node: &Node, origin: &Origin, request: &RequestHead) -> Result<Self, FetchError> {
        let bad = |what: &str| FetchError::new(400, format!("{what} cannot be sent on"));
        let method: Method = request.method_name().parse().map_err(|_| bad("method"))?;
        if method == Method::CONNECT {
            return Err(FetchError::new(501, "CONNECT is not supported"));
        }
        let path = PathAndQuery::try_from(request.path().as_bytes()).map_err(|_| bad("target"))?;
        let mut fields = HeaderMap::new();
        for (name, value) in request.fields().filter(|(name, _)| !request.hop_by_hop(name)) {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad("field name"))?;
            fields.append(name, HeaderValue::from_bytes(value).map_err(|_| bad("field value"))?);
        }
        // Without a body nobody needs leave to send it.
        if !request.expect_continue {
            fields.remove(header::EXPECT);
        }
        forwarding::forward(&mut fields, request, &node.pseudonym);
        forwarded::tell(&mut fields, request, origin.forwarded());
        fields.insert(header::HOST, HeaderValue::from_str(request.host()).map_err(|_| bad("host"))?);
        Ok(Outgoing { method, path, fields, upgrades: false })
    }

    /// Asks for the whole, current representation: the client's own conditions and range are left out.
    pub(super) fn unconditional(&mut self) {
        validation::unconditional(&mut self.fields);
    }

    /// Says that what is for caches like this one is understood.
    pub(super) fn name_capability(&mut self) {
        let (name, value) = targeted::CAPABILITY;
        self.fields.append(name, HeaderValue::from_static(value));
    }

    /// Leaves out what the route does not let through.
    pub(super) fn obey(&mut self, caching: &Caching) {
        if caching.strip_cookie && self.method == Method::GET {
            self.fields.remove(header::COOKIE);
        }
    }

    /// Asks the origin to go over to WebSocket, if it answers 101.
    pub(super) fn ask_for_websocket(&mut self) {
        self.fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        self.fields.insert(header::UPGRADE, HeaderValue::from_static(WEBSOCKET));
        self.upgrades = true;
    }

    /// Whether it does: it needs an HTTP/1.1 connection of its own.
    pub(super) fn upgrades(&self) -> bool {
        self.upgrades
    }

    /// What follows its body, and whether the response's trailers are welcome. A body in chunks is announced as such, for
    /// whoever would not expect one of this method.
    pub(super) fn trails(&mut self, body: BodyLength, announced: &[HeaderName], welcome: bool) {
        if body == BodyLength::Chunked {
            self.fields.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        for name in announced {
            self.fields.append(header::TRAILER, HeaderValue::from(name.clone()));
        }
        if welcome {
            self.fields.insert(header::TE, HeaderValue::from_static("trailers"));
            self.fields.insert(header::CONNECTION, HeaderValue::from_static("te"));
        }
    }

    /// Its fields, to add conditions.
    pub(super) fn fields_mut(&mut self) -> &mut HeaderMap {
        &mut self.fields
    }

    /// Whether a response to this has no body whatever its fields say.
    pub(super) fn head_only(&self) -> bool {
        self.method == Method::HEAD
    }

    /// The request itself. The error gives the body back.
    pub(super) fn request(
        &self,
        http2: bool,
        scheme: Option<&Scheme>,
        body: UploadBody,
    ) -> Result<Request<UploadBody>, (FetchError, UploadBody)> {
        let mut parts = http::uri::Parts::default();
        parts.path_and_query = Some(self.path.clone());
        let mut fields = self.fields.clone();
        if http2 {
            // In HTTP/2 the host travels as `:authority` (RFC 9113 section 8.3.1).
            let host = fields.remove(header::HOST);
            // It has no fields about connections (section 8.2.2).
            fields.remove(header::CONNECTION);
            fields.remove(header::TRANSFER_ENCODING);
            parts.scheme = scheme.cloned();
            parts.authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
        }
        let Ok(uri) = Uri::from_parts(parts) else {
            return Err((FetchError::new(400, "host or target cannot be sent on"), body));
        };
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = fields;
        Ok(request)
    }
}
