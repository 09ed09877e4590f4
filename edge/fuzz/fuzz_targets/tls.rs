//! The TLS layer: no bytes panic, in the handshake or after it, and nothing reaches the session that was not sealed
//! by the client.
#![no_main]

#[path = "../../tests/tls_pair/mod.rs"]
mod tls_pair;

use libfuzzer_sys::fuzz_target;
use tls_pair::{Client, Site, client_config, pump, server};

fuzz_target!(|input: (bool, Vec<Vec<u8>>)| {
    let (established, parts) = input;
    let site = Site::shared();
    let mut server = server(site);
    let _ = edge::proto::hello::read(&parts.concat());
    if established {
        let mut client = Client::new(client_config(site, None), "a.test");
        assert!(pump(&mut client, &mut server, usize::MAX).expect("a handshake").is_some());
    }
    for mut part in parts {
        let _ = server.give(&mut part);
        let _ = server.take();
    }
    server.tls.close();
    let _ = server.take();
    assert!(server.received.is_empty());
});
