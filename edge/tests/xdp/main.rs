//! Steering against the running kernel: the verifier, packet fixtures, and connections between
//! network namespaces. Properties of the code both sides share need no kernel and are here as well.
//!
//! Tests that need root say on standard error that they were skipped. With `EDGE_TEST_NO_SKIP` set
//! they fail instead.

#![expect(clippy::disallowed_methods, reason = "tests against the kernel wait in real time")]

mod namespace;
mod packets;
mod programs;
mod properties;
mod steering;

use std::io::Write;

/// Whether the kernel can be used; says loudly why not.
pub fn has_kernel(test: &str) -> bool {
    let missing = match edge::xdp::OBJECT {
        Err(reason) => reason,
        Ok(_) if !nix::unistd::geteuid().is_root() => "it needs root; run the tests as root",
        Ok(_) => return true,
    };
    assert!(std::env::var_os("EDGE_TEST_NO_SKIP").is_none(), "{test} cannot run: {missing}");
    let message = format!("SKIPPED {test}: {missing}\n");
    print!("{message}");
    // Once more past the test harness, which shows what passing tests print to nobody.
    let _ = std::io::stderr().write_all(message.as_bytes());
    false
}

/// Numbers from a printed seed (SplitMix64), so that a failure can be repeated with `EDGE_TEST_SEED`.
pub struct Random(u64);

impl Random {
    /// Seeded from the environment or the time.
    pub fn new(test: &str) -> Random {
        let clock =
            || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
        let given = std::env::var("EDGE_TEST_SEED").ok();
        let seed = given.map_or_else(clock, |text| text.parse().expect("EDGE_TEST_SEED is a number"));
        println!("{test}: EDGE_TEST_SEED={seed}");
        Random(seed)
    }

    /// The next 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
