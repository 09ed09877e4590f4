//! MISS PATH: one thread with a tokio-uring runtime. Fetches from origins, is the only writer of the
//! shards, and answers the admin endpoint. Held still, it changes nothing about what hits return.
#![forbid(unsafe_code)]

pub mod mailbox;
