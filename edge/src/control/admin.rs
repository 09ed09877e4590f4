//! What the admin endpoint answers: `/metrics`, `/healthz`, `/readyz`, `/status`, `/why`, `/purge`, and shards that are
//! taken into use again. Who may ask is the listener's matter. Shows no object's content.
#![forbid(unsafe_code)]

use super::metrics::{self, Metrics};
use super::{Node, disk, purge, why};
use crate::limits;
use crate::proto::purge::{Class, Subject};
use crate::shard::{self, Estimates, ShardStatus, Usage};
use crate::stats::Counter;
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};
use std::rc::Rc;
use std::time::Duration;
use tokio::time::timeout;

const TIMEOUT: Duration = Duration::from_millis(limits::ADMIN_TIMEOUT_MS);
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

pub(super) type Answer = Response<Full<Bytes>>;

/// Does what is asked for and says what came of it.
pub(super) async fn answer(node: &Rc<Node>, metrics: &Metrics, request: Request<Incoming>) -> Answer {
    let get = request.method() == Method::GET || request.method() == Method::HEAD;
    match request.uri().path() {
        "/metrics" if get => match metrics.render(node) {
            Ok(text) => reply(StatusCode::OK, OPENMETRICS, text),
            Err(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be rendered"),
        },
        "/healthz" if get => reply(StatusCode::OK, TEXT, "ok\n"),
        "/readyz" if get && node.is_draining() => reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, "draining\n"),
        "/readyz" if get => reply(StatusCode::OK, TEXT, "ready\n"),
        "/status" if get => reply(StatusCode::OK, JSON, format!("{:#}\n", status(node))),
        "/purge" if request.method() == Method::POST => match timeout(TIMEOUT, read(request)).await {
            Ok(Ok(body)) => purge_by(node, &body).await,
            Ok(Err(answer)) => answer,
            Err(_) => refuse(StatusCode::REQUEST_TIMEOUT, "the request's body did not arrive in time"),
        },
        "/why" if get => explain(node, request.uri().query().unwrap_or_default()),
        path if let Some(number) = shard_number(path) => match request.method() {
            &Method::POST => open_shard(node, number).await,
            _ => allow("POST"),
        },
        "/purge" => allow("POST"),
        "/metrics" | "/healthz" | "/readyz" | "/status" | "/why" => allow("GET, HEAD"),
        _ => refuse(
            StatusCode::NOT_FOUND,
            "there is /metrics, /healthz, /readyz, /status, /why, /purge and /store/shards/N/open",
        ),
    }
}

async fn read(request: Request<Incoming>) -> Result<Bytes, Answer> {
    match Limited::new(request.into_body(), limits::ADMIN_BODY_BYTES_MAX).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, "the request's body is larger than 64 KiB"))
        }
        Err(_) => Err(refuse(StatusCode::BAD_REQUEST, "the request's body broke off")),
    }
}

/// What to purge: exactly one of the first four.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Purge {
    url: Option<String>,
    prefix: Option<String>,
    host: Option<String>,
    tag: Option<String>,
    #[serde(default)]
    soft: bool,
}

const PURGE_FORM: &str =
    r#"send {"url": "http://host/path"}, or prefix, host or tag instead of url, and perhaps "soft": true"#;

async fn purge_by(node: &Node, body: &[u8]) -> Answer {
    // A list of values in the fields' order would be taken, too.
    if !body.trim_ascii_start().starts_with(b"{") {
        return refuse(StatusCode::BAD_REQUEST, &format!("this is no JSON object: {PURGE_FORM}"));
    }
    let wanted: Purge = match serde_json::from_slice(body) {
        Ok(wanted) => wanted,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &format!("{error}: {PURGE_FORM}")),
    };
    let Purge { url, prefix, host, tag, soft } = wanted;
    let classes = [(Class::Url, url), (Class::Prefix, prefix), (Class::Host, host), (Class::Tag, tag)];
    let mut named = classes.into_iter().filter_map(|(class, text)| Some((class, text?)));
    let (Some((class, text)), None) = (named.next(), named.next()) else {
        return refuse(
            StatusCode::BAD_REQUEST,
            &format!("exactly one of url, prefix, host, tag: {PURGE_FORM}"),
        );
    };
    let subject = match Subject::parse(class, &text) {
        Ok(subject) => subject,
        Err(wrong) => return refuse(StatusCode::BAD_REQUEST, wrong),
    };
    let mut answer = json!({ "soft": soft });
    answer[class.name()] = text.as_str().into();
    let (mut removed, mut logged) = (None, Vec::new());
    for subject in subjects(node, subject) {
        let applied = purge::apply(node, subject, soft);
        removed = applied.removed.map(|records| removed.unwrap_or(0) + records);
        answer["sequence"] = applied.sequence.into();
        if let Some(widened) = applied.widened {
            let host = String::from_utf8_lossy(&widened.bytes).into_owned();
            answer["widened_to"] = json!({ widened.class.name(): host });
        }
        logged.push(applied.logged);
    }
    answer["purged"] = json!(removed);
    tracing::info!(class = class.name(), text, soft, removed, "purge");
    for outcome in logged {
        match outcome.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                return refuse(StatusCode::INTERNAL_SERVER_ERROR, &format!("{NOT_LOGGED}: {error}"));
            }
            Err(_) => return refuse(StatusCode::INTERNAL_SERVER_ERROR, NOT_LOGGED),
        }
    }
    reply(StatusCode::OK, JSON, format!("{answer}\n"))
}

/// What an operator names, as what is stored is named: a URL has a key for each rule about its query that may apply.
fn subjects(node: &Node, named: Subject) -> Vec<Subject> {
    match named.class {
        Class::Url => {
            node.keys(&named.bytes).into_iter().map(|bytes| Subject { class: Class::Url, bytes }).collect()
        }
        _ => vec![named],
    }
}

const NOT_LOGGED: &str = "the purge is in force, but could not be logged and would not outlast a restart; \
                          purge again once the store's device has room and works";

fn explain(node: &Node, query: &str) -> Answer {
    match why::asked_url(query).and_then(|url| why::explain(node, &url)) {
        Some(answer) => reply(StatusCode::OK, JSON, format!("{answer:#}\n")),
        None => refuse(
            StatusCode::BAD_REQUEST,
            "ask for /why?url=URL, an absolute http or https URL that a request could carry, percent-encoded",
        ),
    }
}

fn status(node: &Node) -> Value {
    let usage = node.writer().usage();
    metrics::count_faults(node);
    let counters: serde_json::Map<String, Value> =
        metrics::totals(node).map(|(name, value)| (name.to_owned(), value.into())).collect();
    let mut status = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": node.uptime_s(),
        "draining": node.is_draining(),
        "store": {
            "size_bytes": usage.size_bytes,
            "used_bytes": usage.used_bytes,
            "objects": usage.objects,
            "index_entries_max": usage.index_entries_max,
            "index_bytes": usage.index_bytes,
            "eviction": eviction(&usage),
            "shadow": shadow(&node.writer().estimates(), usage.size_bytes),
            "shards": node.writer().shards().map(|shard| shard_status(&shard)).collect::<Vec<_>>(),
            "memory": memory(node, &usage),
            "opened": {
                "objects": node.opened.objects,
                "dropped": node.opened.dropped,
                "lost_segments": node.opened.lost_segments,
                "clean": node.opened.clean,
                "scanned_bytes": node.opened.scanned_bytes,
                "took_ms": node.opened.took_ms,
            },
        },
        "fetches": {
            "running": node.bounds.running(),
            "waiting": node.bounds.waiting(),
            "fills": node.fills.running(),
            "passes": node.passes.len(),
        },
        "origins": node.origins.borrow().iter().flat_map(|origin| origin.status()).collect::<Vec<_>>(),
        "tls": super::certificates::status(node),
        "counters": counters,
    });
    if let (Value::Object(own), Value::Object(more)) = (&mut status, (node.status)()) {
        own.extend(more);
    }
    status
}

/// What the store holds, keeps and lets go.
fn eviction(usage: &Usage) -> Value {
    let first_written = usage.written_bytes.saturating_sub(usage.survivor_bytes);
    json!({
        "object_bytes": usage.object_bytes,
        "dead_bytes": usage.used_bytes.saturating_sub(usage.object_bytes),
        "free_bytes": usage.size_bytes - usage.used_bytes,
        "small_log_bytes": usage.small_log_bytes,
        "main_log_bytes": usage.used_bytes - usage.small_log_bytes,
        "small_log_target_bytes": usage.small_target_bytes,
        "evicted_objects": usage.evicted,
        "evicted_bytes": usage.evicted_bytes,
        "survivor_objects": usage.survivors,
        "survivor_bytes": usage.survivor_bytes,
        "evicted_age_p10_s": usage.evicted_ages.quantile_s(0.1),
        "evicted_age_median_s": usage.evicted_ages.quantile_s(0.5),
        "evicted_age_p90_s": usage.evicted_ages.quantile_s(0.9),
        "reclaimed_segments": usage.reclaimed_segments,
        "ghost_hits": usage.ghost_hits,
        "write_amplification": (first_written > 0)
            .then(|| (usage.written_bytes as f64 / first_written as f64 * 100.0).round() / 100.0),
    })
}

/// What stores of other sizes would do.
fn shadow(estimates: &Estimates, size_bytes: u64) -> Value {
    let size = |size: &shard::Estimate| {
        json!({
            "size_bytes": (size.factor * size_bytes as f64) as u64,
            "estimated_hit_ratio": size.hit_ratio,
            "used_share": size.used_share,
        })
    };
    json!({
        "sampled_keys_share": estimates.sampled_share,
        "samples": estimates.samples,
        "samples_lost": estimates.lost,
        "sizes": estimates.sizes.iter().map(size).collect::<Vec<_>>(),
    })
}

/// The N of `/store/shards/N/open`.
fn shard_number(path: &str) -> Option<usize> {
    path.strip_prefix("/store/shards/")?.strip_suffix("/open")?.parse().ok()
}

/// Takes a shard into use again that had failed.
async fn open_shard(node: &Rc<Node>, number: usize) -> Answer {
    let code = match timeout(TIMEOUT, disk::reopen(node, number)).await {
        Ok(Ok(())) => StatusCode::OK,
        Ok(Err(error)) => return refuse(StatusCode::CONFLICT, &error),
        // It goes on, and the status says how it ended.
        Err(_) => StatusCode::ACCEPTED,
    };
    let status = node.writer().shards().nth(number).map(|shard| shard_status(&shard));
    reply(code, JSON, format!("{:#}\n", json!(status)))
}

fn shard_status(shard: &ShardStatus) -> Value {
    let mut shown =
        json!({ "path": shard.path, "size_bytes": shard.size_bytes, "reason": shard.to_string() });
    match &shard.state {
        Ok(usage) => {
            shown["state"] = "in use".into();
            shown["pages"] = shard.placed.pages.clone().into();
            shown["held"] = shard.placed.held.clone().into();
            shown["numa"] = shard.placed.nodes.clone().into();
            shown["used_bytes"] = usage.used_bytes.into();
            shown["objects"] = usage.objects.into();
        }
        Err(_) => shown["state"] = "out of use".into(),
    }
    shown
}

/// How much of the store is in memory, and what that means for hits.
fn memory(node: &Node, usage: &crate::shard::Usage) -> Value {
    let sum = |counter| node.worker_cells.iter().map(|cells| cells.get(counter)).sum::<u64>();
    let hits = sum(Counter::Hits);
    let from_disk = sum(Counter::HitsFromDisk);
    let share = |part: u64| if hits == 0 { Value::Null } else { (part as f64 / hits as f64).into() };
    json!({
        "in_memory_bytes": usage.memory_bytes,
        "always": usage.residency_bytes == 0,
        "hits_from_memory_share": share(hits.saturating_sub(from_disk)),
        "hits_from_disk_share": share(from_disk),
        "populates_running": sum(Counter::Populates).saturating_sub(sum(Counter::PopulatesEnded)),
        "worker_major_faults": node.cells.get(Counter::WorkerMajorFaults),
    })
}

fn reply(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// A refusal with its reason, as JSON.
pub(super) fn refuse(status: StatusCode, error: &str) -> Answer {
    reply(status, JSON, format!("{}\n", json!({ "error": error })))
}

fn allow(methods: &'static str) -> Answer {
    let mut answer = refuse(StatusCode::METHOD_NOT_ALLOWED, &format!("use {methods}"));
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    answer
}
