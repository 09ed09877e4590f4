//! What the bounds of `limits` add up to: the anonymous memory that a node of some shape takes at worst. Knows no bound of
//! its own.
#![forbid(unsafe_code)]

use crate::limits::*;

/// What the worst case depends on: numbers that are only known at start-up.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Workers.
    pub workers: usize,
    /// Connections of one worker.
    pub connections_max: usize,
    /// Tunnels of the node.
    pub tunnels_max: usize,
    /// Connections of one worker that may speak HTTP/2; 0: clients do not speak it.
    pub http2_connections_max: usize,
    /// Bytes of one connection slot.
    pub connection_bytes: usize,
    /// Bytes of the table of clients.
    pub clients_bytes: usize,
    /// Whether any address speaks TLS.
    pub tls: bool,
    /// Bytes of one message from a worker to control, without the request it points to.
    pub to_control_message_bytes: usize,
    /// Bytes of one message from control to a worker; bodies are counted with their fetch.
    pub to_worker_message_bytes: usize,
    /// Bytes of the store's index.
    pub index_bytes: u64,
    /// Bytes that note which pages of the store are in memory.
    pub residency_bytes: u64,
    /// Bytes of a request that waits for pages, without its head and key.
    pub parked_bytes: usize,
    /// Bytes of a sampled request that waits to be played.
    pub sample_bytes: usize,
    /// Bytes of what the eviction policy remembers.
    pub policy_bytes: u64,
    /// Shards of the store.
    pub shards: usize,
}

/// Bytes of a worker's ring: 64 a submission, and 16 a completion, of which there are four times as many.
pub const RING_BYTES: usize = RING_ENTRIES as usize * (64 + 4 * 16);

/// One line of the worst case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What takes the memory.
    pub what: &'static str,
    /// How many of them.
    pub count: u64,
    /// Bytes of each.
    pub bytes_each: u64,
}

impl Row {
    /// Bytes of the line.
    pub fn bytes(&self) -> u64 {
        self.count.saturating_mul(self.bytes_each)
    }
}

/// Anonymous memory of the node when every bound is reached at once. The mapped shards are not in it:
/// they are page cache, or the file system's memory.
pub fn worst_case(shape: &Shape) -> Vec<Row> {
    let row = |what, count: usize, bytes_each: usize| Row {
        what,
        count: count as u64,
        bytes_each: bytes_each as u64,
    };
    let request = REQUEST_HEAD_BYTES_MAX + KEY_BYTES_MAX;
    // A worker's pieces of a fill are shared with control and with other workers, so they count once. One
    // fetch is either a fill or a pass.
    let body = STREAM_WINDOW_BYTES.max(PASS_WINDOW_BYTES) + REQUEST_BODY_WINDOW_BYTES;
    // With the trailers of both.
    let fetch = request + 4 * usize::from(REQUEST_TRAILER_BYTES_MAX) + 2 * RESPONSE_HEAD_BYTES_MAX + body;
    let to_control = TO_CONTROL_MESSAGES_MAX * (shape.to_control_message_bytes + request);
    let to_worker = TO_WORKER_MESSAGES_MAX * shape.to_worker_message_bytes;
    let connections = shape.workers * shape.connections_max;
    let tls = usize::from(shape.tls);
    let http2 = shape.http2_connections_max > 0;
    let multiplexed = shape.http2_connections_max.min(shape.connections_max);
    let wide = multiplexed.min(HTTP2_WIDE_CONNECTIONS_MAX);
    let sealed = TLS_STATE_BYTES + TLS_INCOMING_BYTES_MAX + CERTIFICATE_BYTES_MAX + WIRE_BYTES;
    vec![
        row("connection slots", connections, shape.connection_bytes),
        row("table of clients", 1, shape.clients_bytes),
        row("unread input of a connection", connections, STASH_BYTES_MAX),
        row("outbox of a connection", connections.max(shape.workers * OUTBOXES_READY), OUTBOX_BYTES),
        row("TLS connection in a handshake or sending", tls * connections, sealed),
        row("sealed records, buffers kept by a worker", tls * shape.workers, WIRES_KEPT_MAX * WIRE_BYTES),
        row("HTTP/2 connection", shape.workers * wide, HTTP2_CONNECTION_BYTES),
        row(
            "HTTP/2 connection beside these, narrow",
            shape.workers * (multiplexed - wide),
            HTTP2_NARROW_CONNECTION_BYTES,
        ),
        row(
            "fields of HTTP/2 requests that a worker has read ahead",
            if http2 { shape.workers * (HTTP2_AHEAD_BYTES + REQUEST_HEAD_BYTES_MAX) } else { 0 },
            HTTP2_FIELD_BYTES,
        ),
        row(
            "heads of HTTP/2 responses, kept by a worker",
            if http2 { shape.workers * HTTP2_HEADS_KEPT } else { 0 },
            HTTP2_HEAD_KEPT_BYTES,
        ),
        row(
            "HTTP/2 request that waits for others of its connection",
            if http2 { shape.workers * HTTP2_FETCHES_HELD_MAX } else { 0 },
            shape.parked_bytes + request,
        ),
        row("receive buffers of a worker", shape.workers, RECEIVE_BUFFERS as usize * RECEIVE_BUFFER_BYTES),
        row("ring of a worker", shape.workers, RING_BYTES),
        row("request parsed ahead by a worker", shape.workers * HEADS_AHEAD_MAX, request),
        row("queue to control, full of requests", shape.workers, to_control),
        row("queue to a worker", shape.workers, to_worker),
        row("origin requests running", FETCHES_RUNNING_MAX, fetch),
        row(
            "tunnel",
            shape.tunnels_max,
            request + TUNNEL_WINDOW_BYTES + TUNNEL_PIECE_BYTES + REQUEST_BODY_WINDOW_BYTES,
        ),
        row("origin requests waiting", FETCHES_WAITING_MAX, request),
        row("clients read slice by slice", SLICE_READERS_MAX, request + RESPONSE_HEAD_BYTES_MAX),
        row("evicted records that a shard remembers", shape.shards * LEFT_REMEMBERED, LEFT_BYTES),
        // Half, present and double size.
        row("sampled objects of three miniatures", SHADOW_OBJECTS_MAX * 7 / 4, SHADOW_OBJECT_BYTES),
        row("samples of a worker", shape.workers, SHADOW_SAMPLES_QUEUED_MAX * shape.sample_bytes),
        row("responses not stored, remembered", REASONS_REMEMBERED, REASON_BYTES),
        // What is read of it, its body, and its answer as it is made and as it is sent.
        row("admin connection", ADMIN_CONNECTIONS_MAX, 4 * ADMIN_BODY_BYTES_MAX),
        row("purges remembered", PURGES_REMEMBERED, KEY_BYTES_MAX),
        row("invalidations that wait for the log", INVALIDATIONS_WAITING_MAX, 2 * KEY_BYTES_MAX),
        row("purges that are in the log alone", 2, PURGE_LOG_BYTES_MAX as usize),
        row("table of purges", 1, crate::proto::generations::Table::BYTES),
        row("request that waits for the disk", connections, shape.parked_bytes + request),
        Row { what: "store index", count: 1, bytes_each: shape.index_bytes },
        // Made or read as a whole.
        Row { what: "checkpoint, while the node starts or stops", count: 1, bytes_each: shape.index_bytes },
        row("changed keys, for shards that fail", CHANGES_REMEMBERED, size_of::<u64>()),
        // Four bits for each entry; once more while it is scanned.
        Row { what: "what shards out of use have missed", count: 2, bytes_each: shape.index_bytes / 16 },
        Row { what: "pages of the store in memory", count: 1, bytes_each: shape.residency_bytes },
        Row { what: "memory of what was evicted", count: 1, bytes_each: shape.policy_bytes },
    ]
}

/// The worst case as a table for the log, its sum last.
pub fn announce(rows: &[Row]) -> String {
    let mebibytes = |bytes: u64| bytes as f64 / (1 << 20) as f64;
    let line = |row: &Row| format!("{:>10.1} MiB  {} × {}\n", mebibytes(row.bytes()), row.count, row.what);
    let sum = rows.iter().fold(0, |sum: u64, row| sum.saturating_add(row.bytes()));
    // What this node does not do needs none.
    let lines: String = rows.iter().filter(|row| row.bytes() > 0).map(line).collect();
    format!("{lines}{:>10.1} MiB  at most, beside the mapped store", mebibytes(sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worst_case_grows_with_every_number_it_is_given_and_sums_up() {
        let shape = Shape {
            workers: 2,
            connections_max: 1000,
            tunnels_max: 10,
            http2_connections_max: 0,
            connection_bytes: 256,
            clients_bytes: 32_000,
            tls: false,
            to_control_message_bytes: 64,
            to_worker_message_bytes: 96,
            index_bytes: 1 << 24,
            residency_bytes: 1 << 20,
            parked_bytes: 300,
            sample_bytes: 40,
            policy_bytes: 1 << 24,
            shards: 1,
        };
        let sum = |shape: &Shape| worst_case(shape).iter().map(Row::bytes).sum::<u64>();
        let base = sum(&shape);
        assert_eq!(sum(&Shape { connection_bytes: 257, ..shape }) - base, 2000);
        assert_eq!(sum(&Shape { clients_bytes: 32_003, ..shape }) - base, 3);
        let tunnel = sum(&Shape { tunnels_max: 11, ..shape }) - base;
        assert!(tunnel > (TUNNEL_WINDOW_BYTES + REQUEST_BODY_WINDOW_BYTES) as u64, "{tunnel}");
        assert_eq!(sum(&Shape { index_bytes: (1 << 24) + 32, ..shape }) - base, 2 * 32 + 2 * 2);
        assert_eq!(sum(&Shape { policy_bytes: (1 << 24) + 7, ..shape }) - base, 7);
        let more = sum(&Shape { shards: 2, ..shape }) - base;
        assert_eq!(more, (LEFT_REMEMBERED * LEFT_BYTES) as u64);
        let more = sum(&Shape { to_worker_message_bytes: 97, ..shape }) - base;
        assert_eq!(more, 2 * TO_WORKER_MESSAGES_MAX as u64);
        assert_eq!(sum(&Shape { residency_bytes: (1 << 20) + 7, ..shape }) - base, 7);
        let more = sum(&Shape { sample_bytes: 41, ..shape }) - base;
        assert_eq!(more, 2 * SHADOW_SAMPLES_QUEUED_MAX as u64);
        assert_eq!(sum(&Shape { parked_bytes: 301, ..shape }) - base, 2000);
        let per_worker = RECEIVE_BUFFERS as u64 * RECEIVE_BUFFER_BYTES as u64 + 1000 * STASH_BYTES_MAX as u64;
        assert!(sum(&Shape { workers: 3, ..shape }) > base + per_worker);
        let with_tls = sum(&Shape { tls: true, ..shape });
        assert!(with_tls >= base + 2000 * (WIRE_BYTES + TLS_INCOMING_BYTES_MAX) as u64);
        let http2 = sum(&Shape { http2_connections_max: 30, ..shape }) - base;
        let heads = 2 * HTTP2_HEADS_KEPT * HTTP2_HEAD_KEPT_BYTES;
        let held = 2 * HTTP2_FETCHES_HELD_MAX * (300 + REQUEST_HEAD_BYTES_MAX + KEY_BYTES_MAX);
        let ahead = 2 * (HTTP2_AHEAD_BYTES + REQUEST_HEAD_BYTES_MAX) * HTTP2_FIELD_BYTES;
        assert_eq!(http2, (2 * 30 * HTTP2_CONNECTION_BYTES + ahead + heads + held) as u64);
        let all = Shape { http2_connections_max: 1001, ..shape };
        assert_eq!(sum(&all) - base - http2, (2 * 970 * HTTP2_CONNECTION_BYTES) as u64);
        let more = Shape { connections_max: 100_000, http2_connections_max: 2048, ..shape };
        let narrow = sum(&Shape { http2_connections_max: 2049, ..more }) - sum(&more);
        assert_eq!(narrow, 2 * HTTP2_NARROW_CONNECTION_BYTES as u64);
        let text = announce(&worst_case(&shape));
        let some = worst_case(&shape).iter().filter(|row| row.bytes() > 0).count();
        assert!(text.lines().count() == some + 1 && !text.contains(" 0 × "), "{text}");
        assert!(text.contains("2000 × connection slots"), "{text}");
        let expected = format!("{:.1} MiB  at most", base as f64 / (1 << 20) as f64);
        assert!(text.contains(&expected), "{text}");
    }

    #[test]
    fn a_sum_beyond_counting_saturates() {
        let row = Row { what: "x", count: u64::MAX, bytes_each: 2 };
        assert_eq!(row.bytes(), u64::MAX);
        assert!(announce(&[row.clone(), row]).contains("at most"));
    }
}
