//! x
include!(concat!(env!("OUT_DIR"), "/bpf.rs"));
