//! What routes rule for the way clients come: those without TLS are sent to the https URL, those with it are told to
//! stay with it (RFC 6797). What was stored before a route ruled so is answered as it was stored.
#![forbid(unsafe_code)]

use super::Node;
use super::mailbox::{Ticket, ToWorker};
use super::stream::Stream;
use crate::config::Config;
use crate::proto::freshness::Storing;
use crate::proto::request::{RequestHead, Scheme};
use crate::proto::response::OriginHead;
use crate::proto::route::without_port;
use http::header::{HeaderMap, HeaderValue, STRICT_TRANSPORT_SECURITY};
use std::sync::Arc;

const DEFAULT_PORT: u16 = 443;

/// Sends the client to the https URL, if the route of its request wants that. Says whether it did.
pub(super) fn redirect(node: &Node, ticket: Ticket, request: &RequestHead) -> bool {
    let config = node.config.borrow();
    let wanted = request.url_scheme() == Scheme::Http
        && node.routes.borrow().find(request).is_some_and(|routed| routed.https_redirect);
    if !wanted || request.host().is_empty() || !request.path().starts_with('/') {
        return false;
    }
    let head = OriginHead {
        // Permanent, and the method stays (RFC 9110 section 15.4.9).
        status: 308,
        lines: format!("location: {}\r\n", target(&config, request)).into_bytes(),
        body_bytes: Some(0),
        age_s: None,
        storing: Storing::No("https-redirect"),
    };
    let mut stream = Stream::new(node.new_stream(), Arc::new(head), 0, true, node.workers());
    stream.join(node, ticket, None, false);
    stream.end(node);
    true
}

/// The same URL with TLS: at the usual port if the node listens there or nowhere, else where it does.
fn target(config: &Config, request: &RequestHead) -> String {
    let ports: Vec<u16> = config.https.iter().map(|entry| entry.address.port()).collect();
    let host = without_port(request.host());
    match ports.first() {
        Some(port) if !ports.contains(&DEFAULT_PORT) => format!("https://{host}:{port}{}", request.path()),
        _ => format!("https://{host}{}", request.path()),
    }
}

/// Adds Strict-Transport-Security to a response of the origin, where the route rules one and the client came by TLS.
/// It takes the place of the origin's own: two would be none (RFC 6797 section 8.1).
pub(super) fn harden(node: &Node, request: &RequestHead, fields: &mut HeaderMap) {
    if let Some(Ok(hsts)) = policy(node, request, HeaderValue::from_str) {
        fields.insert(STRICT_TRANSPORT_SECURITY, hsts);
    }
}

/// The same for an answer of the node's own (RFC 6797 section 7.1), as field lines.
pub(super) fn lines(node: &Node, request: &RequestHead) -> Vec<u8> {
    let line = |hsts: &str| format!("{STRICT_TRANSPORT_SECURITY}: {hsts}\r\n").into_bytes();
    policy(node, request, line).unwrap_or_default()
}

/// Tells every worker what routes rule from now on.
pub(super) fn tell_workers(node: &Node, config: &Config) {
    let policies = config.transport();
    node.outboxes.iter().for_each(|outbox| outbox.post(ToWorker::Transport(policies.clone())));
}

fn policy<T>(node: &Node, request: &RequestHead, of: impl FnOnce(&str) -> T) -> Option<T> {
    let routes = node.routes.borrow();
    let is_secure = request.url_scheme() == Scheme::Https;
    is_secure.then(|| routes.find(request)).flatten().and_then(|routed| routed.hsts).map(of)
}
