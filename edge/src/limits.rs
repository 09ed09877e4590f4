//! Every bound of the node, with its reason; what they add up to is in `worst_case`. Nothing here reads configuration;
//! what an operator may change starts from these values.
#![forbid(unsafe_code)]

/// A request head, start line and fields, in bytes. Peers: nginx 8 KiB a line, 32 KiB in all.
pub const REQUEST_HEAD_BYTES_MAX: usize = 16 * 1024;
/// A request target in bytes; longer is answered 414.
pub const REQUEST_TARGET_BYTES_MAX: usize = 8 * 1024;
/// Fields in one request head; more is answered 431.
pub const REQUEST_FIELDS_MAX: usize = 100;
/// A response head from an origin, in bytes; a larger one is answered 502.
pub const RESPONSE_HEAD_BYTES_MAX: usize = 64 * 1024;
/// Key bytes: scheme, host, port and target.
pub const KEY_BYTES_MAX: usize = REQUEST_TARGET_BYTES_MAX + 300;

/// Body bytes of one record. Larger objects are a head record and a chain of chunks of this size.
pub const CHUNK_BYTES: usize = 1024 * 1024;
/// Milliseconds between two looks whether a shard has failed. Until then its keys are misses that are not stored.
pub const STORE_WATCH_MS: u64 = 200;
/// Shards of one store: disks of one machine.
pub const SHARDS_MAX: usize = 64;
/// Bytes of a segment at most: the unit of reclaim.
pub const SEGMENT_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of a segment at least: the next power of two that holds the largest record, a chunk with its key and head.
pub const SEGMENT_BYTES_MIN: usize = 2 * 1024 * 1024;
/// Segments a shard has at least, if they need not be smaller than `SEGMENT_BYTES_MIN` for that: two are being written
/// and one is kept free, and what the policy chooses among is the rest.
pub const SEGMENTS_WANTED: u64 = 16;

/// Ranges of one request; a Range field with more is ignored. Peers: nginx any number, Apache 200; readers of
/// documents ask for a few at once.
pub const RANGES_MAX: usize = 32;
/// Ranges this close together are sent as one part: the head of a part is as long.
pub const RANGES_GAP_BYTES: u64 = 128;

/// Bytes of a partial object on their way to one client, beside the slice that is sent.
pub const SLICES_WINDOW_BYTES: usize = 3 * CHUNK_BYTES;
/// A range that begins so many chunks beyond what a fill or a run of slices has brought waits for it; one further
/// away is fetched alone.
pub const SLICES_NEAR: u32 = 4;
/// Adjoining slices that one request to an origin asks for.
pub const SLICES_PER_RUN_MAX: u32 = 64;
/// Milliseconds a run of slices waits for its readers before its connection is closed.
pub const SLICES_PAUSE_MS: u64 = 2_000;
/// Chunks looked up to see whether a part of a partial object is all there; longer ones are read through control.
pub const SLICES_LOOKED_UP_MAX: usize = 64;
/// Times a slice is fetched for one client that lost it again to reclaim.
pub const SLICE_TRIES_MAX: usize = 3;
/// Clients that are answered from partial objects slice by slice. Full: 503.
pub const SLICE_READERS_MAX: usize = 4096;
/// Times the rest of one body is asked for after it broke off.
pub const RESUMES_MAX: u32 = 3;
/// Milliseconds before the second time, twice that before the third.
pub const RESUME_DELAY_MS: u64 = 250;

/// Packets that wait for one CPU between the XDP program and the network stack. Full: dropped, counted.
pub const CPUMAP_QUEUE_PACKETS: u32 = 2048;

/// Messages from one worker to control. Full: the request is answered 503.
pub const TO_CONTROL_MESSAGES_MAX: usize = 4096;
/// Messages from control to one worker. Full: control waits.
pub const TO_WORKER_MESSAGES_MAX: usize = 4096;
/// Origin requests running at once on the node; further ones wait in `FETCHES_WAITING_MAX`.
pub const FETCHES_RUNNING_MAX: usize = 512;
/// Fetches waiting for a place. Full: 503 with Retry-After.
pub const FETCHES_WAITING_MAX: usize = 4096;
/// Unacknowledged bytes of a passed response body on their way from control to a worker.
pub const PASS_WINDOW_BYTES: usize = 512 * 1024;
/// Unacknowledged bytes of a request body on their way from a worker to control.
pub const REQUEST_BODY_WINDOW_BYTES: usize = 256 * 1024;
/// Bytes of the names and values of a request's trailer fields. A line of one byte has three more around it.
pub const REQUEST_TRAILER_BYTES_MAX: u16 = 4096;
/// Connections of the node that have gone over to another protocol, unless configured; each has one to its origin, and
/// so takes a descriptor. Full: 503.
pub const TUNNELS: usize = 1024;
/// As many at most as one worker may have connections.
pub const TUNNELS_MAX: usize = CONNECTIONS_PER_WORKER_MAX;
/// Unacknowledged bytes on their way from an origin through a tunnel; the other way it is `REQUEST_BODY_WINDOW_BYTES`.
pub const TUNNEL_WINDOW_BYTES: usize = 128 * 1024;
/// Bytes that are read at once from an origin for a tunnel.
pub const TUNNEL_PIECE_BYTES: usize = 16 * 1024;

/// Milliseconds a client has to send a complete request head.
pub const HEAD_TIMEOUT_MS: u64 = 10_000;
/// Milliseconds a connection may idle between requests.
pub const IDLE_TIMEOUT_MS: u64 = 60_000;
/// Milliseconds without progress of a request body.
pub const BODY_TIMEOUT_MS: u64 = 30_000;
/// Milliseconds without progress of a response to the client.
pub const SEND_TIMEOUT_MS: u64 = 30_000;
/// Milliseconds that an origin has to answer a request which expects 100, before its client gets leave to send the body all
/// the same. As long as clients commonly wait themselves.
pub const CONTINUE_TIMEOUT_MS: u64 = 1_000;
/// Milliseconds without a byte through a tunnel, either way: longer than what is usual between two pings (20 to 60 s).
pub const TUNNEL_TIMEOUT_MS: u64 = 300_000;
/// Bytes of a request's body that a client sends in a second at least, once it has used up `BODY_TIMEOUT_MS`. Peers:
/// Apache's mod_reqtimeout 500; the slowest radio links in use bring twenty times as much.
pub const BODY_RATE_MIN: u32 = 500;
/// Bytes of responses that a client takes in a second at least, once it has used up `SEND_TIMEOUT_MS`. As above.
pub const SEND_RATE_MIN: u32 = 500;
/// The highest rate that can be asked for: links of common clients are not faster all the time.
pub const RATE_MIN_MAX: u32 = 1024 * 1024;
/// Milliseconds to connect to an origin.
pub const CONNECT_TIMEOUT_MS: u64 = 5_000;
/// Milliseconds from the request to the head of the origin's response.
pub const FIRST_BYTE_TIMEOUT_MS: u64 = 30_000;
/// Milliseconds without progress of an origin's body.
pub const ORIGIN_BODY_TIMEOUT_MS: u64 = 30_000;
/// Milliseconds between two warnings that requests to a server of an origin fail: it may fail thousands of times a second.
pub const ORIGIN_FAILURE_LOG_MS: u64 = 10_000;
/// Milliseconds an unused origin connection is kept; below the 5 s after which common origins close.
pub const ORIGIN_IDLE_TIMEOUT_MS: u64 = 4_000;

// The meta holds little but tags.
const _: () = assert!(
    CHUNK_BYTES + KEY_BYTES_MAX + 16 * TAGS_MAX + RESPONSE_HEAD_BYTES_MAX < SEGMENT_BYTES_MIN * 3 / 4,
    "beside it there are the words of the segment"
);
/// Messages for one worker kept in control while that worker's queue is full, before its streams wait too.
pub const OUTBOX_MESSAGES_MAX: usize = 1024;
/// Milliseconds a worker may leave its queue full before its streams are broken off.
pub const WORKER_STALL_MS: u64 = 10_000;
/// Milliseconds a fetch may wait for a place before it is answered 503.
pub const FETCH_WAIT_MS: u64 = 10_000;
/// Milliseconds of silence from the client of a passed response before it is broken off; a worker gives
/// up earlier (`SEND_TIMEOUT_MS`), so this only ends streams whose worker no longer answers.
pub const PASS_CREDIT_TIMEOUT_MS: u64 = 2 * SEND_TIMEOUT_MS;
/// Bytes of a stream that is shared but not stored that may be held by workers before the origin has to wait for the
/// slowest client.
pub const UNSEALED_WINDOW_BYTES: usize = 2 * CHUNK_BYTES;
/// Milliseconds it waits for a client that does not move at all; workers cut those off that lag
/// `STREAM_WINDOW_BYTES` behind.
pub const UNSEALED_STALL_MS: u64 = 50;
/// One object may take this part (1/N) of the store; larger ones are streamed and not stored.
pub const STORE_SHARE_PER_OBJECT: u64 = 4;
/// Seconds after the end of its freshness for which a response without a validator is kept: as long as common
/// stale-if-error and stale-while-revalidate rules ask for.
pub const STALE_KEPT_S: u32 = 24 * 3600;
/// Seconds of a lifetime that an operator can set: a year, as long as origins say at most in practice.
pub const LIFETIME_S_MAX: u32 = 365 * 86_400;
/// Seconds a response stays fresh by the estimate from Last-Modified at most (RFC 9111 section 4.2.2): a page that
/// was not touched for years may still change tomorrow.
pub const HEURISTIC_LIFETIME_S_MAX: u32 = 24 * 3600;
/// Seconds after its lifetime that a response may be served while the origin cannot be reached: long enough to mend
/// an origin, short enough that nobody relies on it.
pub const DISCONNECTED_STALE_S_MAX: u32 = 24 * 3600;
/// Interim responses (102, 103) forwarded for one request; further ones are dropped.
pub const INTERIM_RESPONSES_MAX: usize = 16;
/// Keys for which a worker remembers that it has asked for a refresh, so that not every hit of a stale object does.
pub const REFRESHES_REMEMBERED: usize = 64;
/// Milliseconds before it asks again.
pub const REFRESH_AGAIN_MS: u64 = 1_000;
/// Keys remembered as uncacheable, so that requests for them do not queue behind each other.
pub const UNCACHEABLE_KEYS_MAX: usize = 65_536;
/// Nodes like this one that a request may have passed; with more it goes round and is answered 508.
pub const VIA_NODES_MAX: usize = 8;
/// Tags of one stored response that are told apart, in 8 bytes each; with more it counts as having every tag.
pub const TAGS_MAX: usize = 64;
/// Buckets of the table of purges, of 64 bytes and 7 subjects each: 114,688 subjects before old ones lose precision.
pub const PURGE_BUCKETS: usize = 16_384;
/// Records that had to leave a shard, remembered by the hash of their keys for who asks why they are not there.
pub const LEFT_REMEMBERED: usize = 16_384;
/// Bytes of one of them at most.
pub const LEFT_BYTES: usize = 24;
/// Sampled objects in the largest miniature of the store that is played, if the store's index were full: enough for an
/// estimate to within some hundredths also where objects are ten times as large as the index allows for.
pub const SHADOW_OBJECTS_MAX: usize = 65_536;
/// Bytes of one of them at most: its places in a table that has just grown, in a segment, and among what left.
pub const SHADOW_OBJECT_BYTES: usize = 136;
/// Part of the keys that is sampled at most: what a sample costs a worker is then lost in what a hit costs.
pub const SHADOW_SHARE_MAX: f64 = 1.0 / 16.0;
/// Samples of one worker that wait to be played; further ones are lost.
pub const SHADOW_SAMPLES_QUEUED_MAX: usize = 2048;
/// Milliseconds between two times that they are.
pub const SHADOW_REPLAY_MS: u64 = 50;
/// Samples after which those before count half.
pub const SHADOW_WINDOW_SAMPLES: u64 = 1 << 18;
/// Keys stored, replaced or removed last, by their hashes: what a shard that fails may not have had on its disk when it was
/// flushed last. With more in that time, some seconds, it comes back empty.
pub const CHANGES_REMEMBERED: usize = 262_144;
/// Keys whose last response could not be stored, remembered likewise.
pub const REASONS_REMEMBERED: usize = 65_536;
/// Bytes of one of them at most.
pub const REASON_BYTES: usize = 40;
/// Purges that are remembered with what they named, for who asks why something is not there.
pub const PURGES_REMEMBERED: usize = 256;
/// Bytes of the purge log from which on it is written anew, without what is in force by other means.
pub const PURGE_LOG_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Milliseconds within which what requests with unsafe methods have invalidated is brought to the log together: one flush a
/// second at most, and what a loss of power can bring back.
pub const INVALIDATIONS_LOG_MS: u64 = 1_000;
/// Invalidations that wait for the log; with more the table takes them over, as if they were purges.
pub const INVALIDATIONS_WAITING_MAX: usize = 1024;
/// Lengths of purged prefixes that are told apart; each costs an old response a hash. Further ones purge the host.
pub const PURGE_PREFIX_LENGTHS_MAX: usize = 64;
/// Milliseconds such a key is remembered.
pub const UNCACHEABLE_MS: u64 = 10_000;
/// Messages taken from one worker's queue before the other tasks of control get their turn.
pub const MESSAGES_PER_TURN_MAX: usize = 256;
/// Fields in a response head from an origin; more is answered 502.
pub const RESPONSE_FIELDS_MAX: usize = 256;
/// Unused connections kept per origin server.
pub const ORIGIN_IDLE_CONNECTIONS_MAX: usize = 256;
/// Receive buffer of one origin connection in bytes; the largest piece of a body.
pub const ORIGIN_READ_BUFFER_BYTES: usize = 256 * 1024;
/// Milliseconds between two flushes of what was stored.
pub const FLUSH_INTERVAL_MS: u64 = 3_000;
/// Milliseconds running fetches get to end at a clean stop before they are broken off.
pub const STOP_GRACE_MS: u64 = 5_000;
/// Commands to the control thread, such as a reload, that wait at once.
pub const CONTROL_COMMANDS_MAX: usize = 16;
/// Tries to get an address that is in use at the start: a process that was just killed may have it for a moment.
pub const ADDRESS_TRIES: u32 = 20;
/// Milliseconds between them.
pub const ADDRESS_RETRY_MS: u64 = 100;
/// Connections to the admin endpoint at once.
pub const ADMIN_CONNECTIONS_MAX: usize = 64;
/// Bytes of an admin request's body.
pub const ADMIN_BODY_BYTES_MAX: usize = 64 * 1024;
/// Milliseconds one admin request may take, reading it included.
pub const ADMIN_TIMEOUT_MS: u64 = 10_000;
/// Milliseconds after which an admin connection takes no further request; those that do not read their answers end one
/// `ADMIN_TIMEOUT_MS` later, so that nobody can hold every place for good.
pub const ADMIN_CONNECTION_MS: u64 = 30_000;
/// Bytes of the admin endpoint's token: enough of them not to be guessed, and what a request's field carries.
pub const ADMIN_TOKEN_BYTES_MIN: usize = 16;
/// See [`ADMIN_TOKEN_BYTES_MIN`].
pub const ADMIN_TOKEN_BYTES_MAX: usize = 512;
/// Bytes of a Unix socket's path: `sun_path` of unix(7) without its last byte, a NUL.
pub const UNIX_PATH_BYTES_MAX: usize = 107;

const _: () = assert!(ORIGIN_READ_BUFFER_BYTES >= RESPONSE_HEAD_BYTES_MAX);
const _: () = assert!(UNSEALED_WINDOW_BYTES >= 2 * ORIGIN_READ_BUFFER_BYTES);
const _: () = assert!(REQUEST_TARGET_BYTES_MAX < REQUEST_HEAD_BYTES_MAX);

/// Bytes of a fill a worker holds that are not (yet) in the shard.
pub const STREAM_WINDOW_BYTES: usize = 8 * 1024 * 1024;
/// Bytes received from a client ahead of what its session takes; then reading stops.
pub const STASH_BYTES_MAX: usize = 2 * REQUEST_HEAD_BYTES_MAX;
/// Receive buffers of a worker, and bytes of each.
pub const RECEIVE_BUFFERS: u16 = 512;
/// Bytes of one receive buffer.
pub const RECEIVE_BUFFER_BYTES: usize = 4096;
/// Requests of one turn whose heads are parsed before the first is answered: as many waits for memory as a core has
/// under way at once.
pub const HEADS_AHEAD_MAX: usize = 16;
/// Outboxes a worker makes at its start. More connections than this that send at one moment make more, which may
/// take a system call for memory.
pub const OUTBOXES_READY: usize = 256;
/// Bytes of an outbox at most, beside what it sends.
pub const OUTBOX_BYTES: usize = 8 * 1024;
/// Bytes of a TLS connection that wait for a handshake message or a record to be whole: a record of full size, and
/// what one receive buffer brings beyond it.
pub const TLS_INCOMING_BYTES_MAX: usize = 20 * 1024 + RECEIVE_BUFFER_BYTES;
/// Records in a row of a TLS peer that carry no data: empty ones, warnings, key updates (as BoringSSL has it).
pub const TLS_FRUITLESS_RECORDS_MAX: u8 = 32;
/// Bytes of sealed records sent at once: four of full size.
pub const WIRE_BYTES: usize = 4 * (16 * 1024 + 32);
/// Bytes that the kernel is given to seal in one message, within a turn: a few wires, some hundred microseconds.
pub const SEALED_BY_KERNEL_BYTES_MAX: usize = 256 * 1024;
/// Bytes of what TLS keeps for a connection beside buffers: keys while it is open, rustls's state in a handshake.
pub const TLS_STATE_BYTES: usize = 8 * 1024;
/// Buffers of sealed records that a worker keeps for the next connection that has something to send.
pub const WIRES_KEPT_MAX: usize = 256;
/// Steps of TLS handshakes in one turn, up to half a millisecond of CPU each: hits must not wait for more. Further
/// ones wait for the next turn.
pub const HANDSHAKE_STEPS_PER_TURN_MAX: u32 = 4;
/// Bytes of a certificate chain with its stapled OCSP response; it is sent in one go.
pub const CERTIFICATE_BYTES_MAX: usize = 32 * 1024;
/// Bytes of the names of authorities that a client is told whose certificate is asked for; they are sent with it.
pub const CLIENT_CA_NAMES_BYTES_MAX: usize = 24 * 1024;
/// Bytes of a file of certificates, of a key, or of an OCSP response.
pub const CERTIFICATE_FILE_BYTES_MAX: usize = 256 * 1024;
/// Certificates of one node.
pub const CERTIFICATES_MAX: usize = 4096;
/// Milliseconds between two looks at the files of certificates.
pub const CERTIFICATE_WATCH_MS: u64 = 5_000;
/// Seconds before a certificate ends at which a warning is due: three weeks.
pub const CERTIFICATE_WARN_S: u64 = 21 * 86_400;
/// Seconds after which session tickets are sealed with a new key; those of the one before are still opened.
pub const TICKET_ROTATION_S: u64 = 6 * 3600;
/// Submission slots of a worker's ring; the completion queue has four times as many.
pub const RING_ENTRIES: u32 = 4096;
/// Reads of pages that are not in memory a worker has under way at once: what keeps a fast disk busy. Further ones wait,
/// at most one for each connection.
pub const POPULATES_MAX: usize = 64;
/// Times one request waits for pages, one run of them after the other (a record, another one of the same key, each once
/// more if it left memory meanwhile), before the worker goes on whatever it costs.
pub const POPULATES_PER_REQUEST_MAX: u8 = 8;
/// Milliseconds a request waits for the disk before it is treated as a miss.
pub const POPULATE_WAIT_MS: u64 = 5_000;
/// Pages whose presence in memory is asked for in one step of a sweep: some 50 µs, which a worker may have to wait where
/// the two share a CPU.
pub const SWEEP_LOOKS_PER_STEP: usize = 1024;
/// Pages a step of a sweep passes by at most: as long.
pub const SWEEP_PAGES_PER_STEP: usize = 64 * 1024;
/// Milliseconds between two steps of a sweep.
pub const SWEEP_STEP_MS: u64 = 1;
/// Steps between two looks at how much memory was reclaimed.
pub const SWEEP_STEPS_PER_LOOK: u64 = 20;
/// Looks between two times at which the kernel's threads that read pages are made to give way to workers: more than once a
/// second. They stay for five seconds without work.
pub const LOOKS_PER_GIVING_WAY: u64 = 32;
/// The same while there is no shard whose pages may leave memory.
pub const SWEEP_IDLE_MS: u64 = 1_000;
/// Messages from control handled in one turn, so that hits are not kept waiting.
pub const MAIL_PER_TURN_MAX: usize = 64;
/// Accepts of a listener that a worker has under way: as many connections are taken in one turn, so that a flood of
/// them does not keep hits waiting. Each has a place for the peer's address.
pub const ACCEPTS_PER_LISTENER: usize = 32;
/// Milliseconds to wait for the peer's close after ours.
pub const LINGER_MS: u64 = 2_000;
/// Bytes that are read and dropped meanwhile: as much as a sender has on its way before it hears of the end, and then
/// some. What is not read at the close makes the kernel send a reset, which may destroy our last words on their way.
pub const LINGER_BYTES: u32 = 1024 * 1024;
/// Milliseconds that answers under way get at a stop.
pub const DRAIN_MS: u64 = 10_000;
/// Of so many requests of a connection, the CPU of one is sampled.
pub const LOCALITY_SAMPLE_EVERY: u32 = 64;

const _: () = assert!(WIRE_BYTES >= CERTIFICATE_BYTES_MAX + CLIENT_CA_NAMES_BYTES_MAX + 8 * 1024);
const _: () = assert!(STREAM_WINDOW_BYTES > 2 * CHUNK_BYTES);
const _: () = assert!(STASH_BYTES_MAX >= REQUEST_HEAD_BYTES_MAX + RECEIVE_BUFFER_BYTES);
/// Streams of one HTTP/2 connection at once; what browsers and the RFC take for enough (RFC 9113 section 6.5.2: 100).
pub const HTTP2_STREAMS_MAX: u32 = 128;
/// HTTP/2 connections of one worker that have so many streams, and `HTTP2_CONNECTION_WINDOW_BYTES`. What each of them can take
/// is too much for as many as a worker has connections; further ones are narrow.
pub const HTTP2_WIDE_CONNECTIONS_MAX: usize = 2048;
/// Streams of a narrow connection at once: five times what browsers have at once over HTTP/1.1, so that it is better than that
/// still.
pub const HTTP2_NARROW_STREAMS_MAX: u32 = 32;
/// Bytes of all request bodies of a narrow connection ahead of what control has taken: what every connection begins with, and
/// nothing can make less (RFC 9113 section 6.9.2).
pub const HTTP2_NARROW_WINDOW_BYTES: u32 = 65_535;
/// Frames of HTTP/2 connections that a worker deals with in one turn, a tenth of a millisecond or so; connections that
/// have more, and those that come after them, go on in the next. A client can have `HTTP2_STREAMS_MAX` requests and what
/// resets them come at once on each of its connections: hits must not wait for all of that.
pub const HTTP2_FRAMES_PER_TURN_MAX: u32 = 128;
/// What the frame that opens a stream counts for beside itself, as the request has to be dealt with.
pub const HTTP2_FRAMES_PER_REQUEST: u32 = 8;
/// Requests of one connection that are begun in one turn, so that others have their share of it, less for the frames
/// that were read: answered with 1 KiB each, they fill a TLS record.
pub const HTTP2_REQUESTS_PER_TURN_MAX: u32 = 16;
/// Bytes of field sections that are read of one connection ahead of the requests that are begun: a page's, so that what is
/// reset at once is not begun. Each byte can name a field again (RFC 7541 section 6.1), which takes
/// `HTTP2_FIELD_BYTES`: a worker reads ahead for some connections only, and of others one request at a time.
pub const HTTP2_AHEAD_PER_CONNECTION_BYTES: usize = 8 * 1024;
/// The same of all connections of a worker.
pub const HTTP2_AHEAD_BYTES: usize = 64 * 1024;
/// What a field takes that was decoded, beside its text.
pub const HTTP2_FIELD_BYTES: usize = 160;
/// Bytes of a request's body on one stream ahead of what control has taken.
pub const HTTP2_STREAM_WINDOW_BYTES: u32 = 128 * 1024;
/// Bytes of all request bodies of a connection ahead of what control has taken.
pub const HTTP2_CONNECTION_WINDOW_BYTES: u32 = 256 * 1024;
/// Requests of an HTTP/2 connection that are answered before all of their body has come, and whose rest is waited for: the
/// oldest is reset for a further one. Uploads that are refused come few at a time.
pub const HTTP2_UNWANTED_MAX: usize = 8;
/// Bytes of the rest of such a body, which are thrown away; then it is reset.
pub const HTTP2_UNWANTED_BYTES_MAX: usize = HTTP2_STREAM_WINDOW_BYTES as usize;
/// Bytes of frames received ahead of what is read, because what answers them cannot be sent.
pub const HTTP2_UNREAD_BYTES_MAX: usize = 32 * 1024;
/// RST_STREAM frames of a client in a second, and malformed requests. A browser that leaves a page resets what it
/// had asked for, that is up to `HTTP2_STREAMS_MAX`.
pub const HTTP2_RESETS_PER_SECOND_MAX: u32 = 200;
/// SETTINGS frames in a second; clients send one or two in all, and acknowledge ours.
pub const HTTP2_SETTINGS_PER_SECOND_MAX: u32 = 20;
/// PING frames in a second; clients that measure bandwidth send some.
pub const HTTP2_PINGS_PER_SECOND_MAX: u32 = 50;
/// WINDOW_UPDATE frames in a second, beside one for each request and for each `HTTP2_BYTES_PER_WINDOW_UPDATE_MIN` of
/// bodies sent: some clients open each stream's window on its own, as many as `HTTP2_STREAMS_MAX` at once.
pub const HTTP2_WINDOW_UPDATES_PER_SECOND_MAX: u32 = 1000;
/// Bytes of bodies for which a client may answer with one WINDOW_UPDATE: those that do so for each packet they read do
/// it for the stream and for the connection.
pub const HTTP2_BYTES_PER_WINDOW_UPDATE_MIN: usize = 512;
/// Empty DATA frames that end nothing and empty parts of field sections, in a second.
pub const HTTP2_EMPTY_FRAMES_PER_SECOND_MAX: u32 = 50;
/// Priorities and frames of unknown types in a second; browsers send one with most requests.
pub const HTTP2_OTHER_FRAMES_PER_SECOND_MAX: u32 = 500;
/// Requests given up by a client of HTTP/2, by RST_STREAM after control was asked and before the answer was whole, that
/// may stand on one connection: all that a browser has open when it leaves a page. Of these `HTTP2_GIVEN_UP_PER_SECOND`
/// are forgiven in a second.
pub const HTTP2_GIVEN_UP_MAX: u32 = HTTP2_STREAMS_MAX;
/// A quarter of a page a second: nobody turns pages faster for long.
pub const HTTP2_GIVEN_UP_PER_SECOND: u32 = HTTP2_STREAMS_MAX / 4;
/// Requests of an HTTP/2 connection that control has at once while more are given up on the node than may stand, as long as
/// its client has not shown that it waits for answers: each that it has waited for adds one, up to `HTTP2_STREAMS_MAX`,
/// and each that it gives up takes one away. Further ones wait for these: a page of 100 takes six round trips to its
/// origin. Not one, which an answer that never ends would hold for good.
pub const HTTP2_FETCHES_UNPROVEN: u32 = 2;
/// Requests of a worker that wait so; more are answered 503. As many as wait for control otherwise.
pub const HTTP2_FETCHES_HELD_MAX: usize = TO_CONTROL_MESSAGES_MAX;
/// Milliseconds they wait before they are answered 503: as long as those at control wait for a place.
pub const HTTP2_FETCH_HELD_MS: u64 = FETCH_WAIT_MS;
/// Heads of stored responses that a worker keeps in the form that HTTP/2 wants: the hottest objects, mostly.
pub const HTTP2_HEADS_KEPT: usize = 256;
/// Bytes of the lines of one of them at most; longer ones are made each time.
pub const HTTP2_HEAD_KEPT_BYTES_MAX: usize = 1024;
/// Bytes of our own lines that are kept with one of them: an age and how it was found, which is far less.
pub const HTTP2_OWN_KEPT_BYTES_MAX: usize = 256;
/// Bytes of one of them at most: its lines, ours twice, and for each field, of which the shortest has 4 bytes, its name
/// and value.
pub const HTTP2_HEAD_KEPT_BYTES: usize =
    HTTP2_HEAD_KEPT_BYTES_MAX + 2 * HTTP2_OWN_KEPT_BYTES_MAX + (HTTP2_HEAD_KEPT_BYTES_MAX / 4 + 2) * 128;
/// CONTINUATION frames of one field section, which fits one frame of the usual size.
pub const HTTP2_CONTINUATIONS_MAX: u32 = 8;
/// Bytes of one HTTP/2 connection at most: the windows for bodies, unread frames, the crate's read and write buffers
/// and tables, one field section being read, and the state of each stream.
pub const HTTP2_CONNECTION_BYTES: usize =
    http2_connection_bytes(HTTP2_CONNECTION_WINDOW_BYTES, HTTP2_STREAMS_MAX);
/// The same of a narrow one.
pub const HTTP2_NARROW_CONNECTION_BYTES: usize =
    http2_connection_bytes(HTTP2_NARROW_WINDOW_BYTES, HTTP2_NARROW_STREAMS_MAX);

const fn http2_connection_bytes(window_bytes: u32, streams: u32) -> usize {
    window_bytes as usize
        + HTTP2_UNREAD_BYTES_MAX
        + 40 * 1024
        + 2 * REQUEST_HEAD_BYTES_MAX
        + streams as usize * 2048
}

const _: () = assert!(HTTP2_FRAMES_PER_TURN_MAX >= HTTP2_REQUESTS_PER_TURN_MAX * HTTP2_FRAMES_PER_REQUEST);
const _: () = assert!(HTTP2_RESETS_PER_SECOND_MAX >= HTTP2_STREAMS_MAX);
const _: () = assert!(GIVEN_UP_PER_CLIENT_MAX > HTTP2_GIVEN_UP_MAX);
const _: () = assert!(FETCHES_PER_CLIENT_MAX as usize * 4 <= FETCHES_RUNNING_MAX + FETCHES_WAITING_MAX);
const _: () = assert!(FETCHES_PER_CLIENT_MAX as usize * 4 <= TO_CONTROL_MESSAGES_MAX);
/// Bytes of a configuration file.
pub const CONFIG_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of the store: reclaim needs segments to choose from.
pub const STORE_BYTES_MIN: u64 = SEGMENTS_WANTED * SEGMENT_BYTES_MIN as u64;
/// Bytes of one shard: what an entry of its index can name.
pub const SHARD_BYTES_MAX: u64 = 64 << 40;
/// Bytes of a segment of a new shard of this size.
pub fn segment_bytes(shard_bytes: u64) -> usize {
    let most = usize::try_from(shard_bytes / SEGMENTS_WANTED).unwrap_or(usize::MAX);
    let power = 1 << most.max(1).ilog2();
    power.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES)
}
/// Bytes an object takes on average unless configured: 2 MiB of index for each GiB of store.
pub const OBJECT_BYTES: u64 = 4096;
/// The least that can be configured: the header of a record and a short key.
pub const OBJECT_BYTES_MIN: u64 = 128;
/// CPU numbers, and so workers; the size of the kernel's fixed CPU set.
pub const CPUS_MAX: usize = 1024;
/// Addresses the node listens on; each worker has a socket for each.
pub const LISTENERS_MAX: usize = 16;
/// Connections of one worker unless configured.
pub const CONNECTIONS_PER_WORKER: usize = 16 * 1024;
/// Connections of one worker at most.
pub const CONNECTIONS_PER_WORKER_MAX: usize = 1024 * 1024;
/// Connections of one client on all workers unless configured. Browsers have six to a host; behind one address of a
/// carrier there may be some hundred of them.
pub const CONNECTIONS_PER_CLIENT: u32 = 1024;
/// Connections of one client at most.
pub const CONNECTIONS_PER_CLIENT_MAX: u32 = 1024 * 1024 - 1;
/// Requests of one client that control has at once, on all its connections: as many as it can have over HTTP/1.1, and a
/// quarter of what can run and wait on the node, so that four such clients leave room for a fifth. More are answered
/// 503 with Retry-After.
pub const FETCHES_PER_CLIENT_MAX: u32 = CONNECTIONS_PER_CLIENT;
/// Requests that control was asked for and the client did not wait for, by reset or close, that may stand for one client:
/// several pages that several readers behind one address leave at once. Beyond that control is not asked, and the answer
/// is 503 with Retry-After; hits are not concerned.
pub const GIVEN_UP_PER_CLIENT_MAX: u32 = 1024;
/// Of these, as many are forgiven in a second: at some 0.2 ms each, what a client can make control do for nothing is
/// 2.5 % of a CPU.
pub const GIVEN_UP_PER_SECOND: u32 = 125;
/// The same that all clients together may let stand, before requests of HTTP/2 have to wait (see
/// `HTTP2_FETCHES_UNPROVEN`): as four clients may each, or what control does in a third of a second.
pub const GIVEN_UP_PER_NODE_MAX: u32 = 4 * GIVEN_UP_PER_CLIENT_MAX;
/// Of these, as many are forgiven in a second: at some 0.07 ms each where the origin is near, what all together can make
/// control do for nothing unhindered is 3.5 % of a CPU.
pub const GIVEN_UP_PER_NODE_PER_SECOND: u32 = 500;
/// HTTP/2 connections that were cut off for floods, by RFC 9113 section 10.5 or by requests given up, that may stand for one
/// client: no browser has even one. With as many it is met with HTTP/1.1 alone, which most clients speak as well.
pub const HTTP2_CUT_OFF_PER_CLIENT_MAX: u32 = 8;
/// Seconds after which one of them is forgiven: what one such connection costs, some 30 ms of CPU at most, is then 0.3 % of
/// one.
pub const HTTP2_CUT_OFF_FORGIVEN_S: u64 = 10;
/// Networks whose clients may have more; each is compared with each new connection.
pub const UNLIMITED_CLIENTS_MAX: usize = 64;
/// Networks of proxies in front of the node; each is compared with the peer of each request that goes to an origin.
pub const TRUSTED_PROXIES_MAX: usize = 64;
/// Origins of one node.
pub const ORIGINS_MAX: usize = 1024;
/// Servers of one origin.
pub const ORIGIN_SERVERS_MAX: usize = 64;
/// Routes of one node. Those that name the host of a request, and those that name none, are compared one after the other,
/// on a miss; on a hit too where one of them rules which arguments of a query count.
pub const ROUTES_MAX: usize = 1024;
/// Names of arguments that one route's rule for queries may have; each is compared with each argument of a request.
pub const QUERY_NAMES_MAX: usize = 64;
/// Bytes of one of them.
pub const QUERY_NAME_BYTES_MAX: usize = 128;
/// Arguments of a query that are sorted, on the stack; more count in the order they came in.
pub const QUERY_SORTED_MAX: usize = 64;
/// The shortest timeout that can be configured, in milliseconds.
pub const TIMEOUT_MS_MIN: u64 = 100;
/// The longest timeout that can be configured, in milliseconds.
pub const TIMEOUT_MS_MAX: u64 = 3_600_000;
