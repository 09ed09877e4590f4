//! End to end: the real binary between real sockets, a scripted origin behind it. Every test counts
//! requests or compares bytes; none measures speed. `EDGE_BIN` names another build to run against.
//!
//! Modules in the order of what they put to the proof; `support` is the harness.
#![allow(clippy::disallowed_methods, reason = "tests measure and wait in real time")]

mod support;

mod hit;

mod freshness;

mod rules;

mod files;

mod passing;

mod forwarding;

mod tunnels;

mod trailers;

mod fills;

mod ranges;

mod crash;

mod disk;

mod failures;

mod hostile;

mod clients;

mod admin;

mod purge;

mod config_file;

mod kernel;

mod memory;

mod huge_pages;

mod overload;

mod stress;

mod agents;

mod http2;

mod multiplexing;

mod versions;

mod operator;

mod tls;

mod kernel_tls;
