//! One table of counters makes the cells, the names in `/metrics`, and their help.
//!
//! Each thread owns one [`Cells`] and is its only writer, so an increment is a relaxed load and store
//! without a locked instruction. Readers sum over all threads.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

edge_ebpf::table! {
    /// A counter of the table.
    Counter
    /// Every counter with its metric name (without the `edge_` prefix and `_total` suffix) and help.
    TABLE

    /// Connections accepted.
    Accepted "connections_accepted";
    /// Connections refused because the table was full.
    AcceptRefused "connections_refused";
    /// Connections closed at once because their client has as many as it may.
    ClientsRefused "connections_refused_per_client";
    /// Connections closed.
    Closed "connections_closed";
    /// Connections that speak HTTP/2.
    Http2Connections "http2_connections";
    /// Connections on which HTTP/2 was asked for and not agreed on, or refused, because as many speak it as may.
    Http2Refused "http2_connections_refused";
    /// HTTP/2 connections cut off because they sent too much of what moves no request.
    Http2Floods "http2_floods";
    /// Connections on which HTTP/2 was asked for and not agreed on, or refused, because their client was cut off too often.
    Http2HeldBack "http2_connections_refused_per_client";
    /// Requests of HTTP/2 connections.
    Http2Requests "http2_requests";
    /// Requests with a complete head.
    Requests "requests";
    /// Answers sent from a shard.
    Hits "hits";
    /// Answers sent from a shard after pages were read from its disk.
    HitsFromDisk "hits_from_disk";
    /// Answers sent from a shard from pages that were in memory but unused for long, after a second look.
    HitsLookedAfter "hits_looked_after";
    /// Runs of pages that were populated, for answers or ahead of them.
    Populates "populates";
    /// Such runs that ended.
    PopulatesEnded "populates_ended";
    /// Bytes of pages that were populated.
    PopulatedBytes "populated_bytes";
    /// Populates that failed: the disk could not be read.
    PopulateErrors "populate_errors";
    /// Requests that waited for the disk longer than they may and went to the origin.
    PopulateTimeouts "populate_timeouts";
    /// Major page faults of worker threads: pages read from the disk within a turn.
    WorkerMajorFaults "worker_major_faults";
    /// Requests sent on to control because nothing fresh was stored.
    Misses "misses";
    /// Requests passed through: method, no-store, Authorization and the like.
    Passes "passes";
    /// Stored answers that had to be validated first.
    Revalidations "revalidations";
    /// Requests refused with a 4xx of our own: heads that cannot be read, clients without the certificate a route wants.
    Refused "requests_refused";
    /// Requests answered 503 because a queue was full.
    Overflows "queue_overflows";
    /// Requests answered 503 because their client has as many at control as it may, or gave up too many.
    ClientsHeldBack "requests_refused_per_client";
    /// Requests that control was asked for and whose client left before the answer was whole.
    GivenUp "requests_given_up";
    /// Requests over HTTP/2 that had to wait for others of their connection, because too many were given up on the node.
    Held "http2_requests_held";
    /// Connections closed by a deadline.
    Timeouts "timeouts";
    /// Deadlines of request heads that did not come to their end.
    LateHeads "timeouts_of_heads";
    /// Deadlines of request bodies that stopped, or came too slowly.
    LateBodies "timeouts_of_bodies";
    /// Deadlines of responses that were not taken, or too slowly.
    LateReaders "timeouts_of_readers";
    /// Shards taken out of use because their disk or file failed.
    ShardsFailed "store_shards_failed";
    /// Responses cut short because the origin or a chunk was lost.
    Broken "responses_broken";
    /// Body and head bytes sent to clients.
    SentBytes "sent_bytes";
    /// Bytes received from clients.
    ReceivedBytes "received_bytes";
    /// Calls of io_uring_enter.
    Enters "ring_enters";
    /// Turns on which the provided receive buffers ran out.
    BuffersExhausted "receive_buffers_exhausted";
    /// Requests whose packets' CPU was sampled.
    LocalitySampled "locality_sampled_requests";
    /// Sampled requests processed by the CPU of their worker.
    LocalityLocal "locality_local_requests";
    /// Connections whose packets' CPU was read at accept.
    ConnectionsSampled "locality_sampled_connections";
    /// Connections accepted on the CPU that processed their packets.
    ConnectionsLocal "locality_local_connections";
    /// Full TLS handshakes done.
    TlsFull "tls_handshakes_full";
    /// TLS handshakes done that resumed a session.
    TlsResumed "tls_handshakes_resumed";
    /// TLS handshakes that failed.
    TlsFailed "tls_handshakes_failed";
    /// TLS handshakes refused because there is no certificate for the name asked for.
    TlsNameRefused "tls_names_refused";
    /// TLS handshakes that were not begun because a worker had begun as many as it may within a second.
    TlsRefused "tls_handshakes_refused";
    /// TLS handshakes not done in time.
    TlsTimedOut "tls_handshakes_timed_out";
    /// Steps of TLS handshakes that had to wait for a later turn.
    TlsDeferred "tls_handshake_steps_deferred";
    /// TLS connections broken off after their handshake: bad records, alerts.
    TlsBroken "tls_connections_broken";
    /// TLS handshakes done with TLS 1.2.
    Tls12 "tls_connections_1_2";
    /// TLS handshakes done with TLS 1.3.
    Tls13 "tls_connections_1_3";
    /// TLS handshakes done with AES-128-GCM.
    TlsAes128 "tls_connections_aes_128_gcm";
    /// TLS handshakes done with AES-256-GCM.
    TlsAes256 "tls_connections_aes_256_gcm";
    /// TLS handshakes done with ChaCha20-Poly1305.
    TlsChacha20 "tls_connections_chacha20_poly1305";
    /// TLS handshakes done in which h2 was chosen by ALPN.
    TlsAlpnHttp2 "tls_connections_alpn_h2";
    /// TLS handshakes done in which http/1.1 was chosen by ALPN.
    TlsAlpnHttp1 "tls_connections_alpn_http_1_1";
    /// TLS handshakes done without ALPN.
    TlsAlpnNone "tls_connections_alpn_none";
    /// TLS connections whose keys were handed to the kernel.
    TlsKernel "tls_kernel_connections";
    /// TLS connections whose keys the kernel did not take.
    TlsKernelRefused "tls_kernel_connections_refused";
    /// TLS connections ended because the kernel cannot renew their keys.
    TlsKernelEnded "tls_kernel_connections_ended";
    /// Bytes that the kernel sealed, without what sealing adds.
    TlsKernelBytes "tls_kernel_sent_bytes";
    /// Requests sent to origins.
    OriginRequests "origin_requests";
    /// Origin requests that failed.
    OriginErrors "origin_errors";
    /// Requests refused because they had passed this node, or too many nodes, before.
    Loops "request_loops";
    /// Connections that went over to another protocol.
    Tunnels "tunnels";
    /// Body bytes received from origins.
    OriginBytes "origin_received_bytes";
    /// Requests that joined a running fill.
    FillsJoined "fills_joined";
    /// Fills that ended whole and were published.
    FillsStored "fills_stored";
    /// Fills that ended whole and could not be stored, or were invalidated meanwhile.
    FillsNotStored "fills_not_stored";
    /// Fills that broke off.
    FillsBroken "fills_broken";
    /// Fills that broke off and were resumed.
    FillsResumed "fills_resumed";
    /// Slices of partial objects that were stored.
    SlicesStored "slices_stored";
    /// Validations answered 304.
    Revalidated "revalidated";
    /// Objects removed by purges of their URL.
    /// Hits of stale objects that are revalidated meanwhile.
    StaleHits "stale_hits";
    /// Stale objects asked for again without a client that waits.
    Refreshes "refreshes";
    /// Requests answered with a stale object because the origin failed.
    StaleOnFailure "stale_on_origin_failure";
    /// Objects purged.
    Purged "purged_objects";
    /// Purges put in force.
    Purges "purges";
    /// Purges that could not be logged.
    PurgesNotLogged "purges_not_logged";
    /// Objects dropped by reclaim of their segment.
    Evicted "evicted_objects";
    /// Bytes of objects dropped by reclaim of their segment.
    EvictedBytes "evicted_bytes";
    /// Segments emptied to be written again.
    ReclaimedSegments "reclaimed_segments";
    /// Objects kept when their segment was emptied, and so written again.
    Survivors "survivor_objects";
    /// Bytes written again for them.
    SurvivorBytes "survivor_bytes";
    /// Bytes of records written to the store, those written again included.
    StoreWrittenBytes "store_written_bytes";
    /// Objects stored again not long after they were evicted.
    GhostHits "ghost_hits";
    /// Requests for sampled keys that were played in stores of other sizes.
    ShadowSamples "shadow_samples";
    /// Requests for sampled keys that were not, because a queue was full.
    ShadowSamplesLost "shadow_samples_lost";
    /// Records dropped because their checksum did not match.
    RecordsDropped "records_dropped";
    /// Flushes of the store.
    Flushes "store_flushes";
    /// Flushes of the store that failed, or were put off.
    FlushErrors "store_flush_errors";
}

edge_ebpf::table! {
    /// A value of the whole node that goes up and down.
    Gauge
    /// Every gauge with its metric name (without the `edge_` prefix) and help.
    GAUGES

    /// 1 as long as the node runs.
    Up "up";
    /// Worker threads.
    Workers "workers";
    /// Client connections open.
    Connections "connections";
    /// Objects in the index of the store.
    StoreObjects "store_objects";
    /// Objects the index has room for.
    StoreObjectsMax "store_objects_max";
    /// Bytes of the objects in the store.
    StoreObjectBytes "store_object_bytes";
    /// Bytes of the store that hold new objects not yet read again.
    StoreSmallLogBytes "store_small_log_bytes";
    /// Bytes of the store that are meant to hold new objects; follows the traffic.
    StoreSmallTargetBytes "store_small_target_bytes";
    /// Bytes of the store in use.
    StoreUsedBytes "store_used_bytes";
    /// Bytes of the store.
    StoreSizeBytes "store_size_bytes";
    /// Shards configured.
    StoreShards "store_shards";
    /// Shards in use.
    StoreShardsInUse "store_shards_in_use";
    /// Bytes of the index.
    StoreIndexBytes "store_index_bytes";
    /// Bytes of the store that are in memory, as last seen.
    StoreMemoryBytes "store_memory_bytes";
    /// Bytes that note which pages of the store are in memory; 0: it is memory.
    StoreResidencyBytes "store_residency_bytes";
    /// Runs of pages being populated.
    PopulatesRunning "populates_running";
    /// Fills under way.
    FillsRunning "fills_running";
    /// Requests that wait for the head of a response.
    FillsWaiting "fill_requests_waiting";
    /// Requests being passed through.
    PassesRunning "passes_running";
    /// Connections that have gone over to another protocol, and attempts at it.
    TunnelsOpen "tunnels_open";
    /// Origin requests under way.
    FetchesRunning "fetches_running";
    /// Origin requests that wait for a place.
    FetchesWaiting "fetches_waiting";
    /// Keys remembered as uncacheable.
    UncacheableKeys "uncacheable_keys";
    /// Messages for workers that wait for room in their queues.
    OutboxMessages "worker_messages_waiting";
    /// Messages from workers that control has not taken.
    QueueToControl "control_messages_queued";
    /// Messages to workers that they have not taken.
    QueueToWorkers "worker_messages_queued";
    /// When the first certificate ends, Unix seconds; 0 without TLS.
    CertificateEnds "tls_certificate_ends_timestamp_seconds";
    /// Seconds since the start.
    UptimeSeconds "uptime_seconds";
}

/// The gauges of the node. Written by one thread when somebody asks for them.
pub struct Gauges([AtomicU64; GAUGES.len()]);

impl Default for Gauges {
    fn default() -> Self {
        Gauges([const { AtomicU64::new(0) }; GAUGES.len()])
    }
}

impl Gauges {
    /// Sets a value.
    pub fn set(&self, gauge: Gauge, value: u64) {
        self.0[gauge as usize].store(value, Relaxed);
    }

    /// Reads a value.
    pub fn get(&self, gauge: Gauge) -> u64 {
        self.0[gauge as usize].load(Relaxed)
    }
}

/// The counters of one thread, padded so that no two threads share a cache line.
#[repr(align(128))]
pub struct Cells([AtomicU64; TABLE.len()]);

impl Default for Cells {
    fn default() -> Self {
        Cells([const { AtomicU64::new(0) }; TABLE.len()])
    }
}

impl Cells {
    /// Adds `n`. Only the owning thread calls this.
    #[inline]
    pub fn add(&self, counter: Counter, n: u64) {
        let cell = &self.0[counter as usize];
        cell.store(cell.load(Relaxed) + n, Relaxed);
    }

    /// Reads one counter from any thread.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize].load(Relaxed)
    }
}
