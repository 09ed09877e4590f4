//! Which origin a request goes to: the first route that matches.
#![forbid(unsafe_code)]

use crate::config::{Caching, Config, Route};
use crate::proto::request::RequestHead;
use crate::proto::route::ByHost;

/// The routes of a configuration.
pub(super) struct Routes {
    list: Vec<Route>,
    by_host: ByHost,
}

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

impl Routes {
    /// Those of this one.
    pub(super) fn of(config: &Config) -> Self {
        let by_host = ByHost::new(config.routes.iter().map(|route| &route.pattern));
        Routes { list: config.routes.clone(), by_host }
    }

    /// The first route whose host (without port, any case), path prefix and header all match; `None`: 404.
    pub(super) fn find(&self, request: &RequestHead) -> Option<Routed<'_>> {
        let mut fields = Vec::new();
        let routes = self.by_host.of_key(&request.key).map(|number| &self.list[number]);
        for route in routes.filter(|route| route.pattern.path_matches(request.path())) {
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
}
