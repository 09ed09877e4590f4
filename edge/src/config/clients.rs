//! `[limits]`: what a client may take of the node, in connections and in time.
#![forbid(unsafe_code)]

use super::build::{self, duration};
use super::read::{Item, Section};
use super::value::Parsed;
use crate::limits;
use crate::proto::session::Timeouts;
use std::net::IpAddr;

/// `[limits]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clients {
    /// Connections of one worker.
    pub connections_max: usize,
    /// Of these, as many as may speak HTTP/2.
    pub http2_connections_max: usize,
    /// Connections of one client, on all workers together.
    pub connections_per_client: u32,
    /// Clients that may have as many as there are.
    pub unlimited_clients: Vec<Network>,
    /// Tunnels of the node.
    pub tunnels_max: usize,
    /// What a client may take of time.
    pub timeouts: Timeouts,
}

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Default for Clients {
    fn default() -> Self {
        let loopback = ["127.0.0.0/8", "::1/128"].map(network);
        Clients {
            connections_max: limits::CONNECTIONS_PER_WORKER,
            http2_connections_max: limits::CONNECTIONS_PER_WORKER,
            connections_per_client: limits::CONNECTIONS_PER_CLIENT,
            unlimited_clients: loopback.into_iter().flatten().collect(),
            tunnels_max: limits::TUNNELS,
            timeouts: Timeouts::default(),
        }
    }
}

impl Network {
    /// The addresses that begin as this one with so many bits; `None`: it has no so many, or further ones are set.
    pub fn new(address: IpAddr, bits: u8) -> Option<Self> {
        let network = Network { address, bits };
        let most = if address.is_ipv4() { 32 } else { 128 };
        (bits <= most && number(address) & !network.mask() == 0).then_some(network)
    }

    /// The leading bits, of a number of 32 or 128.
    fn mask(&self) -> u128 {
        let rest = if self.address.is_ipv4() { 32 } else { 128 } - u32::from(self.bits);
        u128::MAX.checked_shl(rest).unwrap_or(0)
    }

    /// Whether the address is one of them.
    pub fn contains(&self, address: IpAddr) -> bool {
        let differs = (number(self.address) ^ number(address)) & self.mask();
        self.address.is_ipv4() == address.is_ipv4() && differs == 0
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// `"192.0.2.0/24"`, or one address.
fn network(text: &str) -> Parsed<Network> {
    const RIGHT: &str = r#"write an address and the number of its leading bits, such as "192.0.2.0/24""#;
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let Ok(address) = address.parse::<IpAddr>() else {
        return Err(format!("{text:?} is no network; {RIGHT}"));
    };
    let all = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.map_or(Some(all), |bits| bits.parse().ok());
    bits.and_then(|bits| Network::new(address, bits))
        .ok_or_else(|| format!("{text:?} has bits set after those it counts, or too many; {RIGHT}"))
}

/// The section, or its defaults.
pub(super) fn section(item: Option<Item<'_>>) -> Option<Clients> {
    let default = Clients::default();
    let Some(item) = item else {
        return Some(default);
    };
    let section = item.section(&[
        "connections_max",
        "http2_connections_max",
        "connections_per_client",
        "unlimited_clients",
        "tunnels_max",
        "head_timeout",
        "idle_timeout",
        "body_timeout",
        "send_timeout",
        "tunnel_timeout",
        "body_rate_min",
        "send_rate_min",
    ])?;
    let count = |key: &str, max: usize, default: usize| match section.get(key) {
        Some(item) => item.number(1..=max as u64).map(|n| n as usize),
        None => Some(default),
    };
    let connections_max =
        count("connections_max", limits::CONNECTIONS_PER_WORKER_MAX, default.connections_max);
    let http2_connections_max = count(
        "http2_connections_max",
        limits::CONNECTIONS_PER_WORKER_MAX,
        connections_max.unwrap_or_default(),
    );
    let tunnels_max = count("tunnels_max", limits::TUNNELS_MAX, default.tunnels_max);
    let connections_per_client = match section.get("connections_per_client") {
        Some(item) => item.number(1..=limits::CONNECTIONS_PER_CLIENT_MAX.into()).map(|n| n as u32),
        None => Some(default.connections_per_client),
    };
    let unlimited_clients = match section.get("unlimited_clients") {
        Some(item) => networks(&item, limits::UNLIMITED_CLIENTS_MAX),
        None => Some(default.unlimited_clients),
    };
    let timeouts = timeouts(&section, default.timeouts);
    Some(Clients {
        connections_max: connections_max?,
        http2_connections_max: http2_connections_max?,
        connections_per_client: connections_per_client?,
        unlimited_clients: unlimited_clients?,
        tunnels_max: tunnels_max?,
        timeouts: timeouts?,
    })
}

/// A list that may be empty: then nobody is meant.
pub(super) fn networks(item: &Item<'_>, max: usize) -> Option<Vec<Network>> {
    const RIGHT: &str = "write a list of networks, such as [\"192.0.2.0/24\"]";
    match item.list(RIGHT)?.is_empty() {
        true => Some(Vec::new()),
        false => item.values(RIGHT, max, network),
    }
}

/// Bytes in a second.
fn rate(section: &Section<'_>, key: &str, default: u32) -> Option<u32> {
    let Some(item) = section.get(key) else {
        return Some(default);
    };
    let bytes = build::bytes(&item, "500B")?;
    let most = limits::RATE_MIN_MAX;
    if !(1..=u64::from(most)).contains(&bytes) {
        item.report(&format!("{bytes} bytes in a second; write \"1B\" to \"{}MiB\"", most >> 20));
        return None;
    }
    Some(bytes as u32)
}

fn timeouts(section: &Section<'_>, default: Timeouts) -> Option<Timeouts> {
    let head_ms = duration(section, "head_timeout", default.head_ms);
    let idle_ms = duration(section, "idle_timeout", default.idle_ms);
    let body_ms = duration(section, "body_timeout", default.body_ms);
    let send_ms = duration(section, "send_timeout", default.send_ms);
    let tunnel_ms = duration(section, "tunnel_timeout", default.tunnel_ms);
    let body_rate_min = rate(section, "body_rate_min", default.body_rate_min);
    let send_rate_min = rate(section, "send_rate_min", default.send_rate_min);
    Some(Timeouts {
        head_ms: head_ms?,
        idle_ms: idle_ms?,
        body_ms: body_ms?,
        send_ms: send_ms?,
        tunnel_ms: tunnel_ms?,
        body_rate_min: body_rate_min?,
        send_rate_min: send_rate_min?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_told_by_their_leading_bits() {
        let has = |text: &str, address: &str| network(text).unwrap().contains(address.parse().unwrap());
        assert!(has("192.0.2.0/24", "192.0.2.255") && !has("192.0.2.0/24", "192.0.3.0"));
        assert!(has("192.0.2.7", "192.0.2.7") && !has("192.0.2.7", "192.0.2.6"));
        assert!(has("0.0.0.0/0", "255.1.2.3") && !has("0.0.0.0/0", "::1"));
        assert!(has("2001:db8::/32", "2001:db8:1::1") && !has("2001:db8::/32", "2001:db9::"));
        assert!(has("::/0", "ffff::1") && !has("::/0", "0.0.0.0"));
        for wrong in
            ["", "a/8", "10.0.0.0/33", "10.0.0.1/24", "10.0.0.0/", "::/129", "::1/127", "10.0.0.0/-1"]
        {
            assert!(network(wrong).is_err(), "{wrong:?}");
        }
    }
}
