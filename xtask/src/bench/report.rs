//! Medians, spreads and ratios of a benchmark, as a table for people and as JSON for machines. Ratios are
//! made within a round, where both sides met the same machine, and only then is their median taken.
#![forbid(unsafe_code)]

use super::measure::Sample;
use super::peers::Kind;
use crate::machine;
use serde::Serialize;
use std::fmt::Write;

/// A median with its extremes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of at least one value, else `None`.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let half = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[half] } else { (values[half - 1] + values[half]) / 2.0 };
        Some(Spread { median, min, max })
    }
}

/// All rounds of one server and one size.
#[derive(Serialize)]
pub struct Row {
    /// The server's name.
    pub server: &'static str,
    /// Bytes of the body.
    pub bytes: usize,
    /// The windows, by round.
    pub rounds: Vec<Sample>,
    /// Requests a second.
    pub requests_per_second: Spread,
    /// User and system microseconds per request.
    pub cpu_us_per_request: Spread,
    /// Against others: what, and the median of the ratio within a round.
    pub ratios: Vec<Ratio>,
}

/// A server against another in the same rounds.
#[derive(Serialize)]
pub struct Ratio {
    /// The other server.
    pub against: &'static str,
    /// Requests a second divided by the other's: more is better.
    pub requests_per_second: Spread,
    /// CPU per request divided by the other's: less is better.
    pub cpu_us_per_request: Spread,
}

/// A whole run.
#[derive(Serialize)]
pub struct Report {
    /// The kernel's release.
    pub kernel: String,
    /// The processor's name.
    pub processor: String,
    /// The servers' CPU.
    pub server_cpu: usize,
    /// The CPU of wrk and of the origin.
    pub client_cpu: usize,
    /// Keep-alive connections.
    pub connections: u32,
    /// Seconds of each window.
    pub seconds: u32,
    /// The figures.
    pub rows: Vec<Row>,
}

impl Report {
    /// From the samples of each server and size; all must have the same number of rounds.
    pub fn new(
        cpus: (usize, usize),
        connections: u32,
        seconds: u32,
        runs: &[(Kind, usize, Vec<Sample>)],
    ) -> Self {
        let rows =
            runs.iter().filter_map(|(kind, bytes, samples)| row(*kind, *bytes, samples, runs)).collect();
        let (server_cpu, client_cpu) = cpus;
        let (kernel, processor) = (machine::kernel(), machine::processor());
        Report { kernel, processor, server_cpu, client_cpu, connections, seconds, rows }
    }

    /// The table, in Markdown.
    pub fn table(&self) -> String {
        let rounds = self.rows.first().map_or(0, |row| row.rounds.len());
        let mut out = format!(
            "{} keep-alive connections, {rounds} alternating rounds of {} s, server on CPU {}, wrk on CPU {}; \
             Linux {}, {}\n\n\
             | body | server | requests/s, median (min–max) | CPU µs/request (min–max) | requests/s × nginx | \
             CPU × nginx | CPU × null | p99 µs | enters/request |\n|---|---|---|---|---|---|---|---|---|\n",
            self.connections, self.seconds, self.server_cpu, self.client_cpu, self.kernel, self.processor
        );
        for row in &self.rows {
            let rate = row.requests_per_second;
            let cpu = row.cpu_us_per_request;
            let ratio = |against: Kind, value: fn(&Ratio) -> Spread| {
                let found = row.ratios.iter().find(|ratio| ratio.against == against.name());
                found.map_or("–".into(), |ratio| format!("{:.2}", value(ratio).median))
            };
            let p99 = Spread::of(row.rounds.iter().map(|sample| sample.latency_p99_us));
            let enters = Spread::of(row.rounds.iter().filter_map(|sample| sample.enters_per_request));
            // Writing to a String cannot fail.
            let _ = writeln!(
                out,
                "| {} | {} | {:.0} ({:.0}–{:.0}) | {:.1} ({:.1}–{:.1}) | {} | {} | {} | {:.0} | {} |",
                size(row.bytes),
                row.server,
                rate.median,
                rate.min,
                rate.max,
                cpu.median,
                cpu.min,
                cpu.max,
                ratio(Kind::Nginx, |ratio| ratio.requests_per_second),
                ratio(Kind::Nginx, |ratio| ratio.cpu_us_per_request),
                ratio(Kind::Null, |ratio| ratio.cpu_us_per_request),
                p99.map_or(0.0, |p99| p99.median),
                enters.map_or("–".into(), |enters| format!("{:.3}", enters.median)),
            );
        }
        out
    }
}

fn row(kind: Kind, bytes: usize, samples: &[Sample], runs: &[(Kind, usize, Vec<Sample>)]) -> Option<Row> {
    let ratios = [Kind::Nginx, Kind::Null].into_iter().filter_map(|against| {
        let (.., others) = runs.iter().find(|(other, size, _)| *other == against && *size == bytes)?;
        let pairs = || samples.iter().zip(others);
        let rates = pairs().map(|(ours, other)| ours.requests_per_second / other.requests_per_second);
        let costs = pairs().map(|(ours, other)| ours.cpu_us_per_request / other.cpu_us_per_request);
        Some(Ratio {
            against: against.name(),
            requests_per_second: Spread::of(rates)?,
            cpu_us_per_request: Spread::of(costs)?,
        })
    });
    Some(Row {
        server: kind.name(),
        bytes,
        rounds: samples.to_vec(),
        requests_per_second: Spread::of(samples.iter().map(|sample| sample.requests_per_second))?,
        cpu_us_per_request: Spread::of(samples.iter().map(|sample| sample.cpu_us_per_request))?,
        ratios: ratios.collect(),
    })
}

/// A size as people say it.
pub fn size(bytes: usize) -> String {
    match bytes {
        _ if bytes >= 1 << 20 && bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ if bytes >= 1 << 10 && bytes.is_multiple_of(1 << 10) => format!("{} KiB", bytes >> 10),
        _ => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(rate: f64, cpu: f64) -> Sample {
        Sample {
            requests: 1000,
            requests_per_second: rate,
            cpu_us_per_request: cpu,
            latency_p50_us: 1.0,
            latency_p99_us: 2.0,
            enters_per_request: None,
        }
    }

    #[test]
    fn spreads_are_of_odd_and_even_counts() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn ratios_are_made_within_a_round() {
        // The machine slows to half in the second round: the ratio of each round stays 2.
        let runs = [
            (Kind::Edge, 1024, vec![sample(200.0, 5.0), sample(100.0, 10.0)]),
            (Kind::Nginx, 1024, vec![sample(100.0, 10.0), sample(50.0, 20.0)]),
        ];
        let report = Report::new((1, 0), 64, 1, &runs);
        let ratio = &report.rows[0].ratios[0];
        assert_eq!(ratio.against, "nginx");
        assert_eq!(ratio.requests_per_second, Spread { median: 2.0, min: 2.0, max: 2.0 });
        assert_eq!(ratio.cpu_us_per_request, Spread { median: 0.5, min: 0.5, max: 0.5 });
        let line = "| 1 KiB | edge | 150 (100–200) | 7.5 (5.0–10.0) | 2.00 | 0.50 | – | 2 | – |";
        assert!(report.table().contains(line), "{}", report.table());
    }

    #[test]
    fn sizes_are_said_as_people_do() {
        let sizes = [1000, 1024, 16 << 10, 100 << 10, 1 << 20, 3 << 19].map(size);
        assert_eq!(sizes, ["1000 B", "1 KiB", "16 KiB", "100 KiB", "1 MiB", "1536 KiB"]);
    }
}
