//! One measured window: wrk on its CPU, the server's CPU time before and after. What is compared with
//! what lives elsewhere.
#![forbid(unsafe_code)]

use super::peers::{self, Peer};
use crate::{machine, process};
use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use std::net::SocketAddr;
use std::process::Command;

/// What one window gave.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sample {
    /// Requests answered.
    pub requests: u64,
    /// Requests a second.
    pub requests_per_second: f64,
    /// User and system time of the server's processes, per request, in microseconds.
    pub cpu_us_per_request: f64,
    /// Half of the requests took at most so long, in microseconds.
    pub latency_p50_us: f64,
    /// 99 of 100 requests took at most so long, in microseconds.
    pub latency_p99_us: f64,
    /// Calls of io_uring_enter per request, where the server counts them.
    pub enters_per_request: Option<f64>,
}

/// How to load a server.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// The CPU of wrk.
    pub cpu: usize,
    /// Keep-alive connections.
    pub connections: u32,
    /// Seconds of a window.
    pub seconds: u32,
}

/// What wrk printed.
#[derive(Debug, PartialEq)]
pub struct Wrk {
    /// Requests answered.
    pub requests: u64,
    /// Requests a second.
    pub requests_per_second: f64,
    /// Half of the requests took at most so long, in microseconds.
    pub p50_us: f64,
    /// 99 of 100 requests took at most so long, in microseconds.
    pub p99_us: f64,
}

/// Loads one object of a server for one window.
pub fn window(peer: &Peer, bytes: usize, load: Load) -> Result<Sample> {
    let endpoint = peer.endpoint(bytes)?;
    let pid = endpoint.server.pid();
    let metrics = || peer.admin.map(peers::metrics).transpose();
    let metrics_before = metrics()?;
    let before = machine::cpu_us(pid)?;
    let wrk = wrk(load, endpoint.address, &endpoint.path)?;
    let cpu_us = machine::cpu_us(pid)? - before;
    let metrics_after = metrics()?;
    endpoint.server.alive()?;
    let enters = metrics_before.zip(metrics_after).map(|(before, after)| {
        let requests = after.growth(&before, "edge_requests_total").max(1.0);
        after.growth(&before, "edge_ring_enters_total") / requests
    });
    Ok(Sample {
        requests: wrk.requests,
        requests_per_second: wrk.requests_per_second,
        cpu_us_per_request: cpu_us as f64 / wrk.requests as f64,
        latency_p50_us: wrk.p50_us,
        latency_p99_us: wrk.p99_us,
        enters_per_request: enters,
    })
}

/// Runs wrk once; any answer but a success, and any socket error, is an error.
pub fn wrk(load: Load, to: SocketAddr, path: &str) -> Result<Wrk> {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &load.cpu.to_string(), "wrk", "--threads", "1", "--latency"]);
    command.args([
        "--connections",
        &load.connections.to_string(),
        "--duration",
        &format!("{}s", load.seconds),
    ]);
    command.arg(format!("http://{to}{path}"));
    parse_wrk(&process::output(&mut command)?)
}

/// Reads wrk's report.
pub fn parse_wrk(text: &str) -> Result<Wrk> {
    for line in text.lines().map(str::trim) {
        if line.starts_with("Socket errors:") || line.starts_with("Non-2xx or 3xx responses:") {
            bail!("wrk saw failures: {line}\n{text}");
        }
    }
    let value = |find: &dyn Fn(&str) -> Option<f64>, what: &str| {
        let found = text.lines().find_map(|line| find(line.trim()));
        found.with_context(|| format!("no {what} in wrk's report:\n{text}"))
    };
    let requests = value(&|line| line.split_once(" requests in ")?.0.parse().ok(), "number of requests")?;
    ensure!(requests > 0.0, "not one request was answered:\n{text}");
    Ok(Wrk {
        requests: requests as u64,
        requests_per_second: value(&|line| line.strip_prefix("Requests/sec:")?.trim().parse().ok(), "rate")?,
        p50_us: value(&|line| time_us(line.strip_prefix("50%")?), "median latency")?,
        p99_us: value(&|line| time_us(line.strip_prefix("99%")?), "p99 latency")?,
    })
}

fn time_us(text: &str) -> Option<f64> {
    let text = text.trim();
    let start = text.find(|letter: char| letter.is_ascii_alphabetic())?;
    let factor = match &text[start..] {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "m" => 60e6,
        _ => return None,
    };
    Some(text[..start].parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "Running 2s test @ http://127.0.0.1:1/\n  1 threads and 64 connections\n  Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency     1.10ms    3.64ms  44.32ms   94.41%\n    Req/Sec   105.28k    42.87k  170.17k    65.00%\n  Latency Distribution\n     50%  231.00us\n     75%  336.00us\n     90%    1.19ms\n     99%   21.18ms\n  210239 requests in 2.02s, 213.53MB read\nRequests/sec: 104021.86\nTransfer/sec:    105.65MB\n";

    #[test]
    fn a_report_is_read() {
        let expected =
            Wrk { requests: 210_239, requests_per_second: 104_021.86, p50_us: 231.0, p99_us: 21_180.0 };
        assert_eq!(parse_wrk(REPORT).unwrap(), expected);
    }

    #[test]
    fn failures_are_not_figures() {
        for bad in [
            format!("{REPORT}  Non-2xx or 3xx responses: 5\n"),
            format!("{REPORT}  Socket errors: connect 0, read 3, write 0, timeout 0\n"),
            REPORT.replace("210239", "0"),
            REPORT.replace("99%", "98%"),
        ] {
            assert!(parse_wrk(&bad).is_err(), "{bad}");
        }
    }
}
