//! `/metrics`: the tables of `stats` as prometheus-client renders them. Holds no value of its own but the
//! histogram of origin latencies.
#![forbid(unsafe_code)]

use super::Node;
use crate::shard::{Ages, Estimates};
use crate::stats::{Cells, Counter, GAUGES, Gauge, Gauges, TABLE};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use std::sync::{Arc, Mutex, PoisonError};

/// Upper bounds in seconds: from a neighbour's memory to the first-byte timeout.
const LATENCY_SECONDS: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Everything `/metrics` shows.
pub(super) struct Metrics {
    registry: Registry,
    gauges: Arc<Gauges>,
    store: Arc<Mutex<Option<Store>>>,
}

/// What the store says when it is asked, beside numbers that have a place in the tables.
struct Store {
    ages: Ages,
    estimates: Estimates,
}

/// The histogram of seconds from an origin request to the head of its response.
pub(super) fn latency() -> Histogram {
    Histogram::new(LATENCY_SECONDS)
}

impl Metrics {
    /// Registers the tables of this node.
    pub(super) fn new(node: &Node, latency: Histogram) -> Self {
        let gauges = Arc::new(Gauges::default());
        let store = Arc::default();
        let mut registry = Registry::with_prefix("edge");
        let mut cells = node.worker_cells.clone();
        cells.push(node.cells.clone());
        registry.register_collector(Box::new(Tables {
            cells,
            gauges: gauges.clone(),
            store: Arc::clone(&store),
        }));
        let help = "Time from an origin request to the head of its response";
        registry.register_with_unit("origin_fetch", help, Unit::Seconds, latency);
        registry.register(
            "build",
            "What is running",
            Info::new([("version", env!("CARGO_PKG_VERSION"))].to_vec()),
        );
        Metrics { registry, gauges, store }
    }

    /// The text, in OpenMetrics 1.0.
    pub(super) fn render(&self, node: &Node) -> Result<String, std::fmt::Error> {
        refresh(&self.gauges, node);
        let store = Store { ages: node.writer().usage().evicted_ages, estimates: node.writer().estimates() };
        *self.store.lock().unwrap_or_else(PoisonError::into_inner) = Some(store);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// Sums of all threads' counters in the order of the table, by metric name.
pub(super) fn totals(node: &Node) -> impl Iterator<Item = (&'static str, u64)> {
    TABLE.iter().map(|&(counter, name, _)| {
        let workers: u64 = node.worker_cells.iter().map(|cells| cells.get(counter)).sum();
        (name, workers + node.cells.get(counter))
    })
}

fn refresh(gauges: &Gauges, node: &Node) {
    let usage = node.writer().usage();
    count_store(&node.cells, &usage);
    count_samples(&node.cells, &node.writer().estimates());
    count_faults(node);
    for &(gauge, _, _) in GAUGES {
        gauges.set(gauge, value(gauge, node, &usage));
    }
}

/// The kernel counts faults itself, for each thread.
pub(super) fn count_faults(node: &Node) {
    let counted = node.cells.get(Counter::WorkerMajorFaults);
    let faults = crate::sys::cpu::major_faults("edge-worker-").unwrap_or(counted);
    node.cells.add(Counter::WorkerMajorFaults, faults.saturating_sub(counted));
}

/// The store counts what becomes of objects itself, since its start.
fn count_store(cells: &Cells, usage: &crate::shard::Usage) {
    for (counter, now) in [
        (Counter::Evicted, usage.evicted),
        (Counter::EvictedBytes, usage.evicted_bytes),
        (Counter::ReclaimedSegments, usage.reclaimed_segments),
        (Counter::Survivors, usage.survivors),
        (Counter::SurvivorBytes, usage.survivor_bytes),
        (Counter::StoreWrittenBytes, usage.written_bytes),
        (Counter::GhostHits, usage.ghost_hits),
    ] {
        cells.add(counter, now.saturating_sub(cells.get(counter)));
    }
}

fn count_samples(cells: &Cells, estimates: &Estimates) {
    for (counter, now) in
        [(Counter::ShadowSamples, estimates.samples_all), (Counter::ShadowSamplesLost, estimates.lost)]
    {
        cells.add(counter, now.saturating_sub(cells.get(counter)));
    }
}

fn value(gauge: Gauge, node: &Node, usage: &crate::shard::Usage) -> u64 {
    let sum = |counter| node.worker_cells.iter().map(|cells| cells.get(counter)).sum::<u64>();
    match gauge {
        Gauge::Up => 1,
        Gauge::Workers => node.workers() as u64,
        Gauge::Connections => sum(Counter::Accepted).saturating_sub(sum(Counter::Closed)),
        Gauge::StoreObjects => usage.objects,
        Gauge::StoreObjectsMax => usage.index_entries_max,
        Gauge::StoreObjectBytes => usage.object_bytes,
        Gauge::StoreSmallLogBytes => usage.small_log_bytes,
        Gauge::StoreSmallTargetBytes => usage.small_target_bytes,
        Gauge::StoreUsedBytes => usage.used_bytes,
        Gauge::StoreSizeBytes => usage.size_bytes,
        Gauge::StoreShards => node.writer().shards().count() as u64,
        Gauge::StoreShardsInUse => node.writer().shards().filter(|shard| shard.state.is_ok()).count() as u64,
        Gauge::StoreIndexBytes => usage.index_bytes,
        Gauge::StoreMemoryBytes => usage.memory_bytes,
        Gauge::StoreResidencyBytes => usage.residency_bytes,
        Gauge::PopulatesRunning => sum(Counter::Populates).saturating_sub(sum(Counter::PopulatesEnded)),
        Gauge::FillsRunning => node.fills.running() as u64,
        Gauge::FillsWaiting => node.fills.waiting() as u64,
        Gauge::PassesRunning => node.passes.len() as u64,
        Gauge::TunnelsOpen => node.tunnels.get() as u64,
        Gauge::FetchesRunning => node.bounds.running() as u64,
        Gauge::FetchesWaiting => node.bounds.waiting() as u64,
        Gauge::UncacheableKeys => node.fills.uncacheable() as u64,
        Gauge::OutboxMessages => node.outboxes.iter().map(|outbox| outbox.waiting() as u64).sum(),
        Gauge::QueueToControl => node.outboxes.iter().map(|o| o.mailbox().to_control.len() as u64).sum(),
        Gauge::QueueToWorkers => node.outboxes.iter().map(|o| o.mailbox().to_worker.len() as u64).sum(),
        Gauge::CertificateEnds => node.certificates.borrow().ends_s(),
        Gauge::UptimeSeconds => node.uptime_s(),
    }
}

/// The counters of all threads and the gauges.
struct Tables {
    cells: Vec<Arc<Cells>>,
    gauges: Arc<Gauges>,
    store: Arc<Mutex<Option<Store>>>,
}

impl std::fmt::Debug for Tables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tables").field("threads", &self.cells.len()).finish()
    }
}

impl Collector for Tables {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for &(counter, name, help) in TABLE {
            let sum: u64 = self.cells.iter().map(|cells| cells.get(counter)).sum();
            let metric = ConstCounter::new(sum);
            metric.encode(encoder.encode_descriptor(name, sentence(help), None, metric.metric_type())?)?;
        }
        for &(gauge, name, help) in GAUGES {
            let metric = ConstGauge::new(self.gauges.get(gauge));
            metric.encode(encoder.encode_descriptor(name, sentence(help), None, metric.metric_type())?)?;
        }
        match &*self.store.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(store) => store.encode(&mut encoder),
            None => Ok(()),
        }
    }
}

impl Store {
    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let help = "Time since evicted objects came from their origin or were last validated";
        let name = "store_evicted_age";
        let mut ages = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        let classes: Vec<_> = self.ages.classes().collect();
        let sum_s = self.ages.sum_s() as f64;
        ages.encode_histogram::<NoLabelSet>(sum_s, self.ages.count(), &classes, None)?;
        let help = "Hit ratio that a store of this multiple of the present size would have; see edge status for how much stands behind it";
        let mut family =
            encoder.encode_descriptor("store_estimated_hit_ratio", help, None, MetricType::Gauge)?;
        for size in self.estimates.sizes {
            if let Some(ratio) = size.hit_ratio {
                let labels = [("size", size.factor.to_string())];
                family.encode_family(&labels)?.encode_gauge(&ratio)?;
            }
        }
        Ok(())
    }
}

/// prometheus-client adds the full stop itself in some places and not in others: help goes in bare.
fn sentence(help: &str) -> &str {
    help.trim().trim_end_matches('.')
}
