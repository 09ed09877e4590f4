//! `[origins.NAME]`: the servers of each origin, and how they are asked.
#![forbid(unsafe_code)]

use super::build::{duration, readable_file};
use super::read::{Item, Section};
use super::{Files, Origin, value};
use crate::limits;
use crate::proto::forwarded::Style;
use std::net::SocketAddr;

/// `[origins]`: what is right of it, and all names, for routes.
pub(super) fn section<'a>(
    item: &Item<'a>,
    names: &mut Vec<&'a str>,
    files: &dyn Files,
) -> Option<Vec<Origin>> {
    let section = item.any_section()?;
    let mut all_good = true;
    let mut list = Vec::new();
    for (name, span, item) in section.entries() {
        names.push(name);
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_' || b == b'.';
        if name.is_empty() || name.len() > 64 || !name.bytes().all(word) {
            item.at(span).report("this is no origin name; use up to 64 letters, digits, '-', '_' and '.'");
            all_good = false;
            continue;
        }
        match origin(name, &item, files) {
            Some(origin) => list.push(origin),
            None => all_good = false,
        }
    }
    if names.is_empty() {
        item.report("no origin is named; write [origins.main] with servers = [\"http://127.0.0.1:8000\"]");
        return None;
    }
    if names.len() > limits::ORIGINS_MAX {
        item.report(&format!("{} origins are too many; write at most {}", names.len(), limits::ORIGINS_MAX));
    }
    all_good.then_some(list)
}

fn origin(name: &str, item: &Item<'_>, files: &dyn Files) -> Option<Origin> {
    let known =
        ["servers", "concurrency_max", "connect_timeout", "first_byte_timeout", "ca_file", "forwarded"];
    let section = item.section(&known)?;
    let servers = section
        .require("servers", "servers = [\"http://127.0.0.1:8000\"]")
        .and_then(|item| item.values(SERVERS_RIGHT, limits::ORIGIN_SERVERS_MAX, value::server_url));
    let concurrency_max = match section.get("concurrency_max") {
        Some(item) => item.number(1..=limits::FETCHES_RUNNING_MAX as u64).map(|n| n as usize),
        None => Some(limits::FETCHES_RUNNING_MAX),
    };
    let connect_timeout_ms = duration(&section, "connect_timeout", limits::CONNECT_TIMEOUT_MS);
    let first_byte_timeout_ms = duration(&section, "first_byte_timeout", limits::FIRST_BYTE_TIMEOUT_MS);
    let ca_file = match section.get("ca_file") {
        None => Some(None),
        Some(item) => {
            let https = |servers: &Vec<String>| servers.iter().any(|s| s.starts_with("https:"));
            if servers.as_ref().is_some_and(|s| !https(s)) {
                item.report(
                    "no server of this origin speaks https; remove ca_file, or write https:// servers",
                );
            }
            readable_file(&item, files).map(Some)
        }
    };
    let forwarded = match section.get("forwarded") {
        Some(item) => item.choice(&[
            ("x-forwarded-for", Style::XForwarded),
            ("forwarded", Style::Forwarded),
            ("off", Style::Off),
        ]),
        None => Some(Style::default()),
    };
    Some(Origin {
        name: name.into(),
        servers: servers?,
        concurrency_max: concurrency_max?,
        connect_timeout_ms: connect_timeout_ms?,
        first_byte_timeout_ms: first_byte_timeout_ms?,
        ca_file: ca_file?,
        forwarded: forwarded?,
    })
}

const SERVERS_RIGHT: &str = "write a list of servers, such as [\"http://127.0.0.1:8000\"]";

/// Every server of the file that is named by its IP address and parses.
pub(super) fn server_addresses<'a>(top: &Section<'a>) -> Vec<(Item<'a>, SocketAddr)> {
    let Some(origins) = top.get("origins").filter(Item::is_table).and_then(|i| i.any_section()) else {
        return Vec::new();
    };
    let tables = origins.entries().filter(|(_, _, item)| item.is_table());
    let servers = tables.filter_map(|(_, _, item)| item.any_section()?.get("servers"));
    let elements = servers.filter(Item::is_list).filter_map(|item| item.list(SERVERS_RIGHT)).flatten();
    let address = |item: Item<'a>| {
        let url = value::server_url(item.is_text().then(|| item.text(SERVERS_RIGHT))??).ok()?;
        Some((item, url.split_once("://")?.1.parse().ok()?))
    };
    elements.filter_map(address).collect()
}
