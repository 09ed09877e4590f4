//! What the demo prints: the steering that runs and why, what a load gave, and where its packets went.
//! Nothing here starts or ends anything.
#![forbid(unsafe_code)]

use crate::bench::measure::{self, parse_wrk};
use crate::{machine, process};
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// What wrk and the counters say of one run.
pub struct Load {
    requests_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    requests: u64,
    hits: u64,
    workers: Vec<Worker>,
}

/// One worker's part of a load.
struct Worker {
    number: u64,
    cpu: String,
    accepted: u64,
    connections: Share,
    requests: Share,
}

/// How many were looked at, and how many of them came on the worker's own CPU.
#[derive(Clone, Copy, Default)]
struct Share {
    sampled: u64,
    local: u64,
}

impl Share {
    fn sum(shares: impl Iterator<Item = Share>) -> Share {
        shares.fold(Share::default(), |sum, share| Share {
            sampled: sum.sampled + share.sampled,
            local: sum.local + share.local,
        })
    }

    fn share(self) -> f64 {
        self.local as f64 / self.sampled as f64
    }

    fn percent(self) -> String {
        if self.sampled > 0 { format!("{:.1} %", 100.0 * self.share()) } else { "not sampled".into() }
    }
}

impl Load {
    /// From wrk's report, the status before and after, and the CPUs of threads by name.
    pub fn new(report: &str, before: &Value, after: &Value, cpus: &BTreeMap<String, String>) -> Result<Self> {
        let wrk = parse_wrk(report)?;
        let all = after["workers"].as_array().context("no workers in the status")?;
        let (mut requests, mut hits, mut workers) = (0, 0, Vec::new());
        for (index, worker) in all.iter().enumerate() {
            let grown = |name: &str| {
                let value = |status: &Value| status[name].as_u64().unwrap_or(0);
                value(worker).saturating_sub(value(&before["workers"][index]))
            };
            requests += grown("requests");
            hits += grown("hits");
            let number = worker["worker"].as_u64().context("a worker without its number")?;
            let share = |sampled: &str, local: &str| Share { sampled: grown(sampled), local: grown(local) };
            workers.push(Worker {
                number,
                cpu: cpus.get(&format!("edge-worker-{number}")).cloned().unwrap_or_else(|| "any".into()),
                accepted: grown("accepted"),
                connections: share("connections_sampled", "connections_on_own_cpu"),
                requests: share("requests_sampled", "requests_on_own_cpu"),
            });
        }
        let measure::Wrk { requests_per_second, p50_us, p99_us, .. } = wrk;
        Ok(Load { requests_per_second, p50_us, p99_us, requests, hits, workers })
    }

    fn connections(&self) -> Share {
        Share::sum(self.workers.iter().map(|worker| worker.connections))
    }

    fn requests(&self) -> Share {
        Share::sum(self.workers.iter().map(|worker| worker.requests))
    }

    /// The smaller of the shares of connections and of requests; 0 where nothing was sampled.
    pub fn local_share_min(&self) -> f64 {
        let share = self.connections().share().min(self.requests().share());
        if share.is_nan() { 0.0 } else { share }
    }

    /// The part of all new connections that the worker with most of them took.
    fn busiest_part(&self) -> f64 {
        let all: u64 = self.workers.iter().map(|worker| worker.accepted).sum();
        let most = self.workers.iter().map(|worker| worker.accepted).max().unwrap_or(0);
        most as f64 / all.max(1) as f64
    }

    /// The table of one run.
    pub fn print(&self) {
        println!(
            "{:.0} requests/s, half within {:.0} µs, 99 of 100 within {:.0} µs; hit ratio {:.2} % of {} requests",
            self.requests_per_second,
            self.p50_us,
            self.p99_us,
            100.0 * self.hits as f64 / self.requests.max(1) as f64,
            self.requests
        );
        println!("worker  CPU  connections  on its CPU  requests sampled  on its CPU");
        for worker in &self.workers {
            let (connections, requests) = (worker.connections, worker.requests);
            println!(
                "{:>6}  {:>3}  {:>11}  {:>10}  {:>16}  {:>10}",
                worker.number,
                worker.cpu,
                worker.accepted,
                connections.percent(),
                requests.sampled,
                requests.percent()
            );
        }
    }
}

/// Both runs side by side.
pub fn comparison(with: &Load, without: Option<&Load>) {
    process::step("Share served on the CPU that processed the packets");
    println!("              connections     requests  busiest worker's part  requests/s");
    let line = |name: &str, load: &Load| {
        println!(
            "{name:<12}  {:>11}  {:>11}  {:>20.0} %  {:>10.0}",
            load.connections().percent(),
            load.requests().percent(),
            100.0 * load.busiest_part(),
            load.requests_per_second
        );
    };
    match without {
        Some(without) => {
            line("XDP native", with);
            line("XDP off", without);
        }
        None => line("without XDP", with),
    }
}

/// Prints the steps of the steering ladder; whether native XDP steers.
pub fn steering(status: &Value) -> bool {
    let Some(part) = find(status, "steps") else {
        println!("the status tells nothing of steering");
        return false;
    };
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or("?").to_owned();
    println!("XDP: {}, steering: {}", text(part, "xdp"), text(part, "steering"));
    for step in part["steps"].as_array().into_iter().flatten() {
        println!("  {:<9} {:<9} {}", text(step, "step"), text(step, "outcome"), text(step, "reason"));
    }
    part["xdp"] == "native"
}

/// The object, at any depth, that has this key.
fn find<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    match value {
        Value::Object(fields) if fields.contains_key(key) => Some(value),
        Value::Object(fields) => fields.values().find_map(|inner| find(inner, key)),
        Value::Array(items) => items.iter().find_map(|inner| find(inner, key)),
        _ => None,
    }
}

/// The threads of a process that are bound to one CPU: name and CPU, as the kernel tells.
pub fn pinned(pid: u32) -> Result<BTreeMap<String, String>> {
    let mut pinned = BTreeMap::new();
    for thread in machine::threads(pid)? {
        let path = format!("/proc/{pid}/task/{}/status", thread.id);
        let status = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let cpus = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        if let Some(cpu) = cpus.map(str::trim).filter(|cpus| cpus.bytes().all(|byte| byte.is_ascii_digit())) {
            pinned.insert(thread.name, cpu.to_owned());
        }
    }
    Ok(pinned)
}

/// The hexadecimal SHA-256 of a file.
pub fn sha256(file: &Path) -> Result<String> {
    let text = process::output(Command::new("sha256sum").arg("--").arg(file))?;
    let digest = text.split(' ').next().filter(|digest| digest.len() == 64);
    digest.map(String::from).context("sha256sum printed no digest")
}

/// A field of a response head, or an empty string.
pub fn field(head: &str, name: &str) -> String {
    let fields = head.lines().rev().filter_map(|line| line.split_once(':'));
    let mut found =
        fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim());
    found.next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "     50%  231.00us\n     99%   21.18ms\n  100 requests in 2.02s, 2MB read\n\
                          Requests/sec: 50.00\n";

    fn status(scale: u32) -> Value {
        serde_json::json!({"workers": [
            {"worker": 0, "requests": 10 * scale, "hits": 20 * scale, "accepted": 5 * scale,
             "connections_sampled": 10 * scale, "connections_on_own_cpu": 9 * scale},
            {"worker": 1, "requests": 30 * scale,
             "requests_sampled": 4 * scale, "requests_on_own_cpu": 2 * scale},
        ]})
    }

    #[test]
    fn a_load_is_the_growth_of_the_counters() {
        let cpus = BTreeMap::from([("edge-worker-0".to_owned(), "3".to_owned())]);
        let load = Load::new(REPORT, &status(1), &status(3), &cpus).unwrap();
        assert_eq!((load.requests, load.hits, load.requests_per_second), (80, 40, 50.0));
        assert_eq!((load.workers[0].cpu.as_str(), load.workers[1].cpu.as_str()), ("3", "any"));
        assert_eq!((load.workers[0].accepted, load.busiest_part()), (10, 1.0));
        assert_eq!((load.connections().share(), load.requests().share()), (0.9, 0.5));
        assert_eq!(load.local_share_min(), 0.5);
        let idle = Load::new(REPORT, &status(1), &status(1), &cpus).unwrap();
        assert_eq!(idle.local_share_min(), 0.0);
        assert!(Load::new(REPORT, &status(1), &serde_json::json!({}), &cpus).is_err());
    }

    #[test]
    fn the_steering_part_is_found_at_any_depth() {
        let status =
            serde_json::json!({"a": [{"steering": {"xdp": "native", "steering": "cpumap", "steps": []}}]});
        assert!(steering(&status));
        let status = serde_json::json!({"xdp": {"xdp": "none", "steering": "cpumap", "steps": [
            {"step": "native", "outcome": "refused", "reason": "why"}]}});
        assert!(!steering(&status));
        assert!(!steering(&serde_json::json!({})));
    }

    #[test]
    fn the_last_field_of_that_name_counts() {
        let head = "HTTP/1.1 100 Continue\r\nCache-Status: a\r\n\r\nHTTP/1.1 200 OK\r\ncache-status: edge; hit\r\n\r\n";
        assert_eq!(field(head, "Cache-Status"), "edge; hit");
        assert_eq!(field(head, "age"), "");
    }

    #[test]
    fn pinned_threads_are_told_by_the_kernel() {
        let cpu = machine::cpus().unwrap()[0];
        let mut command = Command::new("taskset");
        let mut child = command.args(["--cpu-list", &cpu.to_string(), "sleep", "30"]).spawn().unwrap();
        let found = (0..6000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            pinned(child.id()).unwrap().get("sleep") == Some(&cpu.to_string())
        });
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found);
    }
}
