//! From a TOML document to a [`Config`]: every key of the file, its default, and the checks between keys.
#![forbid(unsafe_code)]

use super::problem::{Sink, nearest};
use super::read::{Item, Section};
use super::{
    Admin, Config, Files, Https, Network, Route, Shard, Steering, Xdp, XdpMode, admin, caching, clients,
    https, origins, value,
};
use crate::limits;
use crate::proto::route::Pattern;
use crate::shard::Hold;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use toml::de::DeTable;

const SMALLEST_LISTEN: &str = "[listen] with http = [\"0.0.0.0:8080\"]";

/// Builds what can be built and reports everything that is wrong; `None` when something needed is missing.
pub(super) fn build<'a>(
    table: &'a DeTable<'a>,
    sink: &'a RefCell<Sink>,
    files: &dyn Files,
) -> Option<Config> {
    let known = ["node", "listen", "store", "origins", "routes", "xdp", "limits", "tls"];
    let top = Section::top(table, sink, &known);
    let cpus = top.get("node").and_then(|i| i.section(&["cpus"])).and_then(|node| node_cpus(&node));
    let listen = top.require("listen", SMALLEST_LISTEN).and_then(|i| listen(&i, files));
    let store =
        top.require("store", "[store] with path = \"/var/cache/edge\" and size = \"1GiB\"").and_then(|i| {
            store(&i.section(&["path", "size", "state", "object_size", "prefault", "lock", "shards"])?)
        });
    let mut names = Vec::new();
    let origins_item = top.require("origins", "[origins.main] with servers = [\"http://127.0.0.1:8000\"]");
    let origins = origins_item.and_then(|i| origins::section(&i, &mut names, files));
    let routes = top.require("routes", "[[routes]] with origin = \"main\"").and_then(|i| routes(&i, &names));
    let xdp = top.get("xdp").map(|i| xdp(&i));
    let clients = clients::section(top.get("limits"));

    let tls = https::tls(top.get("tls"));

    let Listen { http, http2_cleartext, https, trusted_proxies, admin } = listen?;
    for (item, server) in origins::server_addresses(&top) {
        let own = http.iter().copied().chain(https.iter().map(|entry| entry.address));
        if own.into_iter().any(|listener| reaches(listener, server)) {
            item.report("this is an address the node itself listens on, it would ask itself; write the origin's address");
        }
    }
    let (store, origins, routes) = (store?, origins?, routes?);
    if routes.iter().any(|route| route.transport.client_certificate)
        && !https.iter().any(|entry| entry.client_ca.is_some())
        && let Some(item) = top.get("routes")
    {
        item.report("client_certificate refuses everybody, for no address asks for one; give a [[listen.https]] its client_ca");
    }
    Some(Config {
        cpus,
        http,
        http2_cleartext,
        https,
        tls: tls?,
        warnings: Vec::new(),
        trusted_proxies,
        admin,
        clients: clients?,
        store,
        origins,
        routes,
        xdp: xdp.flatten(),
    })
}

fn node_cpus(node: &Section<'_>) -> Option<Vec<usize>> {
    node.get("cpus")?.parse("write CPU numbers and ranges, such as \"0-3,6\"", value::cpus)
}

struct Listen {
    http: Vec<SocketAddr>,
    http2_cleartext: bool,
    https: Vec<Https>,
    trusted_proxies: Vec<Network>,
    admin: Option<Admin>,
}

fn listen(item: &Item<'_>, files: &dyn Files) -> Option<Listen> {
    const RIGHT: &str = "write a list of addresses, such as [\"0.0.0.0:8080\"]";
    let section =
        item.section(&["http", "http2_cleartext", "https", "trusted_proxies", "admin", "admin_token_file"])?;
    let https_item = section.get("https");
    let https = https_item.as_ref().map_or(Some(Vec::new()), |item| https::entries(item, files));
    let http = match section.get("http") {
        Some(http) => http.values(RIGHT, limits::LISTENERS_MAX, value::listen_address),
        None if https_item.is_some() => Some(Vec::new()),
        None => section.require("http", "http = [\"0.0.0.0:8080\"]").map(|_| Vec::new()),
    };
    let mut taken = http.clone().unwrap_or_default();
    for entry in https.iter().flatten() {
        if taken.contains(&entry.address) && http.iter().flatten().any(|plain| *plain == entry.address) {
            https_item.as_ref()?.report(&format!(
                "listen.http takes {} already; write another address for TLS",
                entry.address
            ));
        }
        if !taken.contains(&entry.address) {
            taken.push(entry.address);
        }
    }
    if let Some(item) = https_item.filter(|_| taken.len() > limits::LISTENERS_MAX) {
        let max = limits::LISTENERS_MAX;
        item.report(&format!("{} addresses are too many; write at most {max}", taken.len()));
    }
    let admin = admin::read(&section, files, |address| taken.iter().any(|own| meet(*own, address)))?;
    let http2_cleartext = section.flag("http2_cleartext")?;
    let trusted_proxies = match section.get("trusted_proxies") {
        Some(item) => clients::networks(&item, limits::TRUSTED_PROXIES_MAX)?,
        None => Vec::new(),
    };
    Some(Listen { http: http?, http2_cleartext, https: https?, trusted_proxies, admin })
}

/// Whether two sockets could not both be bound.
fn meet(one: SocketAddr, other: SocketAddr) -> bool {
    let ip = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    ip && one.port() == other.port()
}

/// Whether a connection to `target` would arrive at a socket bound to `listener`.
fn reaches(listener: SocketAddr, target: SocketAddr) -> bool {
    let ip = listener.ip() == target.ip() || (listener.ip().is_unspecified() && target.ip().is_loopback());
    ip && listener.port() == target.port()
}

pub(super) fn readable_file(item: &Item<'_>, files: &dyn Files) -> Option<PathBuf> {
    let path = PathBuf::from(item.text("write the path of a PEM file")?);
    match files.readable(&path) {
        Ok(()) => Some(path),
        Err(why) => {
            item.report(&format!("{} cannot be read: {why}; write the path of a PEM file", path.display()));
            None
        }
    }
}

/// One directory, or a list of shards with a directory and a size each.
fn store(section: &Section<'_>) -> Option<Vec<Shard>> {
    let object_bytes = match section.get("object_size") {
        None => Some(limits::OBJECT_BYTES),
        Some(item) => object_size(&item),
    };
    let hold = hold(section);
    let Some(list) = section.get("shards") else {
        return shard(section, object_bytes, hold).map(|shard| vec![shard]);
    };
    for key in ["path", "size", "state"] {
        if let Some(item) = section.get(key) {
            item.report("every shard has its own; move it into a [[store.shards]], or leave shards out");
        }
    }
    let items = list.list("write [[store.shards]] sections, each with path and size")?;
    if items.is_empty() || items.len() > limits::SHARDS_MAX {
        let max = limits::SHARDS_MAX;
        list.report(&format!("{} shards; write 1 to {max} [[store.shards]]", items.len()));
        return None;
    }
    let mut shards: Vec<Shard> = Vec::new();
    let mut all_good = true;
    for item in &items {
        let Some(shard) =
            item.section(&["path", "size", "state"]).and_then(|section| shard(&section, object_bytes, hold))
        else {
            all_good = false;
            continue;
        };
        // By components, so that a trailing or doubled slash makes no difference.
        let own = [Some(&shard.path), shard.state.as_ref()];
        let taken = |other: &Shard| {
            [Some(&other.path), other.state.as_ref()]
                .into_iter()
                .flatten()
                .any(|path| own.contains(&Some(path)))
        };
        if shards.iter().any(|other| other.path != shard.path && taken(other)) {
            let path = shard.path.display();
            item.report(&format!(
                "{path} shares a directory with another shard; give each its own path and state"
            ));
            all_good = false;
        } else if shards.iter().any(|other| other.path == shard.path) {
            let path = shard.path.display();
            item.report(&format!("{path} is the path of another shard; give each a directory of its own"));
            all_good = false;
        }
        shards.push(shard);
    }
    all_good.then_some(shards)
}

/// Bytes an object takes on average.
fn object_size(item: &Item<'_>) -> Option<u64> {
    let bytes = bytes(item, "4KiB")?;
    let min = limits::OBJECT_BYTES_MIN;
    if bytes < min {
        item.report(&format!(
            "no object with its key and header takes {bytes} bytes; write at least \"{min}B\""
        ));
        return None;
    }
    Some(bytes)
}

/// A size with its unit, or a number.
pub(super) fn bytes(item: &Item<'_>, example: &str) -> Option<u64> {
    match item.is_number() {
        true => item.number(0..=i64::MAX as u64),
        false => {
            let right = format!("write a size such as \"{example}\", or bytes as a whole number");
            item.parse(&right, value::size)
        }
    }
}

/// What becomes of the pages at the start.
fn hold(section: &Section<'_>) -> Option<Hold> {
    match (section.flag("prefault")?, section.flag("lock")?) {
        (_, true) => Some(Hold::Lock),
        (true, false) => Some(Hold::Prefault),
        (false, false) => Some(Hold::AsUsed),
    }
}

/// A directory by its absolute path.
fn directory(item: &Item<'_>) -> Option<PathBuf> {
    let path = PathBuf::from(item.text("write a directory, such as \"/var/cache/edge\"")?);
    if !path.is_absolute() {
        item.report(&format!("{path:?} depends on where edge is started; write an absolute path"));
        return None;
    }
    Some(path)
}

/// `object_bytes` and `hold`: `None` if what was written for it is wrong.
fn shard(section: &Section<'_>, object_bytes: Option<u64>, hold: Option<Hold>) -> Option<Shard> {
    let path = section.require("path", "path = \"/var/cache/edge\"").and_then(|item| directory(&item));
    let state = section.get("state").map_or(Some(None), |item| directory(&item).map(Some));
    let size = section.require("size", "size = \"1GiB\"").and_then(|item| {
        let bytes = bytes(&item, "1GiB")?;
        if bytes < limits::STORE_BYTES_MIN {
            let min = limits::STORE_BYTES_MIN >> 20;
            item.report(&format!(
                "{bytes} bytes hold too few segments to reclaim one; write at least \"{min}MiB\""
            ));
            return None;
        }
        if bytes > limits::SHARD_BYTES_MAX {
            let max = limits::SHARD_BYTES_MAX >> 40;
            item.report(&format!(
                "{bytes} bytes are more than one index can name; write at most \"{max}TiB\", and several [[store.shards]]"
            ));
            return None;
        }
        Some(bytes)
    });
    Some(Shard { path: path?, size_bytes: size?, object_bytes: object_bytes?, state: state?, hold: hold? })
}

pub(super) fn duration(section: &Section<'_>, key: &str, default_ms: u64) -> Option<u64> {
    match section.get(key) {
        Some(item) => item.parse("write a duration such as \"10s\"", value::duration_ms),
        None => Some(default_ms),
    }
}

fn routes(item: &Item<'_>, names: &[&str]) -> Option<Vec<Route>> {
    let elements = item.list("write [[routes]], with two brackets")?;
    let count = elements.len();
    if count == 0 {
        item.report(
            "no route is named, every request would be answered 404; write [[routes]] with origin = \"main\"",
        );
    }
    if count > limits::ROUTES_MAX {
        item.report(&format!("{count} routes are too many; write at most {}", limits::ROUTES_MAX));
        return None;
    }
    let mut good: Vec<(Range<usize>, Route)> = Vec::new();
    for element in elements {
        let Some(route) = route(&element, names) else { continue };
        if let Some((span, _)) = good.iter().find(|(_, earlier)| earlier.pattern.covers(&route.pattern)) {
            let line = element.line(span.start);
            element.report(&format!(
                "never taken, the route at line {line} matches all that this one does; put this one first or remove it"
            ));
        }
        good.push((element.span.clone(), route));
    }
    (count > 0 && good.len() == count).then(|| good.into_iter().map(|(_, route)| route).collect())
}

fn route(item: &Item<'_>, names: &[&str]) -> Option<Route> {
    let section = item.section(&[
        "host",
        "path",
        "header",
        "origin",
        "hsts",
        "https_redirect",
        "client_certificate",
        "upgrade",
        "ttl",
        "ttl_override",
        "stale_max",
        "strip_cookie",
        "strip_set_cookie",
        "query_ignore",
        "query_only",
        "query_sort",
    ])?;
    let optional = |key: &str, right: &str, parse: fn(&str) -> value::Parsed<String>| match section.get(key) {
        Some(item) => item.parse(right, parse).map(Some),
        None => Some(None),
    };
    let host = optional("host", "write a host name such as \"www.example.com\"", value::route_host);
    let path = optional("path", "write the beginning of a path, such as \"/images/\"", value::route_path);
    let header = match section.get("header") {
        Some(item) => route_header(&item).map(Some),
        None => Some(None),
    };
    let origin = section.require("origin", "origin = \"main\"").and_then(|item| {
        let name = item.text("write the name of an origin")?;
        let index = names.iter().position(|n| *n == name);
        if index.is_none() {
            let right = match nearest(name, names.iter().copied()) {
                Some(near) => format!("did you mean {near:?}?"),
                None if names.is_empty() => format!("write [origins.{name}] with servers"),
                None => format!("named are: {}", names.join(", ")),
            };
            item.report(&format!("no origin is called {name:?}; {right}"));
        }
        index
    });
    let transport = https::transport(&section);
    let caching = caching::rules(&section);
    Some(Route {
        pattern: Pattern { host: host?, path: path?, header: header? },
        origin: origin?,
        transport: transport?,
        caching: caching?,
    })
}

/// `{ name = "X-Service-Name", value = "a" }`, or the same as one string: `"X-Service-Name: a"`.
fn route_header(item: &Item<'_>) -> Option<(String, String)> {
    const RIGHT: &str = "write { name = \"X-Service-Name\", value = \"a\" }";
    if item.is_text() {
        return item.parse(RIGHT, |text| {
            let (name, value) =
                text.split_once(':').ok_or_else(|| format!("{text:?} has no colon; {RIGHT}"))?;
            Ok((value::field_name(name)?, value::field_value(value.trim())?))
        });
    }
    let section = item.section(&["name", "value"])?;
    let name =
        section.require("name", "name = \"X-Service-Name\"").and_then(|i| i.parse(RIGHT, value::field_name));
    let value = section.require("value", "value = \"a\"").and_then(|i| i.parse(RIGHT, value::field_value));
    Some((name?, value?))
}

fn xdp(item: &Item<'_>) -> Option<Xdp> {
    let section = item.section(&["interface", "mode", "steering"])?;
    let interface = section
        .require("interface", "interface = \"eth0\"")
        .and_then(|i| i.parse("write an interface name such as \"eth0\"", value::interface));
    let mode = match section.get("mode") {
        Some(item) => item.choice(&[
            ("auto", XdpMode::Auto),
            ("native", XdpMode::Native),
            ("generic", XdpMode::Generic),
            ("off", XdpMode::Off),
        ]),
        None => Some(XdpMode::Auto),
    };
    let steering_item = section.get("steering");
    let steering = match &steering_item {
        Some(item) => item.choice(&[
            ("auto", Steering::Auto),
            ("rss", Steering::Rss),
            ("cpumap", Steering::Cpumap),
            ("rps", Steering::Rps),
            ("off", Steering::Off),
        ]),
        None => Some(Steering::Auto),
    };
    if let (Some(item), Some(XdpMode::Off), Some(Steering::Cpumap)) = (&steering_item, mode, steering) {
        item.report(
            "cpumap steers from XDP, and xdp.mode is \"off\"; write steering = \"auto\", or mode = \"auto\"",
        );
    }
    Some(Xdp { interface: interface?, mode: mode?, steering: steering? })
}
