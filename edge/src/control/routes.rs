//! Which origin a request goes to: the first route that matches.
#![forbid(unsafe_code)]

use crate::config::{Caching, Route};
use crate::proto::request::RequestHead;
use crate::proto::route::without_port;

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Routed<'a> {
    /// Index into [`crate::config::Config::origins`].
    pub(super) origin: usize,
    /// Names of the fields on which the choice depended. The key does not hold them, so what is stored has to vary on
    /// them.
    pub(super) fields: Vec<&'a str>,
    /// Strict-Transport-Security of its responses over TLS.
    pub(super) hsts: Option<&'a str>,
    /// Requests without TLS are sent to the https URL.
    pub(super) https_redirect: bool,
    /// Connections may go over to WebSocket.
    pub(super) websocket: bool,
    /// What the route rules.
    pub(super) caching: &'a Caching,
}

/// The first route whose host (without port, any case), path prefix and header all match; `None`: 404.
pub(super) fn find<'a>(routes: &'a [Route], request: &RequestHead) -> Option<Routed<'a>> {
    let host = without_port(request.host());
    let mut fields = Vec::new();
    for route in routes {
        if !route.pattern.place_matches(host, request.path()) {
            continue;
        }
        if let Some((name, _)) = &route.pattern.header {
            if !fields.contains(&name.as_str()) {
                fields.push(name.as_str());
            }
            if !route.pattern.field_matches(request) {
                continue;
            }
        }
        return Some(Routed {
            hsts: route.transport.hsts.as_deref(),
            https_redirect: route.transport.https_redirect,
            websocket: route.transport.websocket,
            origin: route.origin,
            fields,
            caching: &route.caching,
        });
    }
    None
}
