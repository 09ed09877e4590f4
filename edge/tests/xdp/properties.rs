//! Properties of the parser and the flow hash, in user space.

use edge_ebpf::{BUCKETS, Flow, packet};
use proptest::prelude::*;

use crate::packets::{Packet, random_address};

const DAY_OF_PORTS: u16 = 28_000;

proptest! {
    #[test]
    fn any_bytes_are_parsed_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = packet::parse(bytes.as_slice());
    }

    /// A packet once understood stays the same flow whatever follows its headers.
    #[test]
    fn only_headers_count(seed: u64, is_ipv4: bool, tags in 0..3_usize, options in 0..11_u8, extensions in 0..5_usize, tail in 0..100_usize) {
        let mut random = crate::Random(seed);
        let packet = Packet {
            source: random_address(&mut random, is_ipv4),
            destination: random_address(&mut random, is_ipv4),
            tags: (0..tags).map(|tag| [0x8100, 0x88a8][(random.word() as usize + tag) % 2]).collect(),
            options,
            extensions: (0..extensions).map(|_| ([0, 43, 60][random.word() as usize % 3], (random.word() % 8) as u8)).collect(),
            payload: tail,
            ..Packet::new("0.0.0.0:0", "0.0.0.0:0")
        };
        let bytes = packet.bytes();
        prop_assert_eq!(packet::parse(bytes.as_slice()), Ok(packet.flow()));
        let headers = packet.headers_bytes();
        prop_assert_eq!(packet::parse(&bytes[..headers]), Ok(packet.flow()));
        for cut in 0..headers {
            prop_assert!(packet::parse(&bytes[..cut]).is_err(), "cut at {} of {}", cut, headers);
        }
    }

    #[test]
    fn the_seed_decides(seed: u64, other: u64) {
        prop_assume!(seed != other);
        let flows = one_client();
        let moved = flows.iter().filter(|flow| flow.bucket(seed) != flow.bucket(other)).count();
        // 255 of 256 flows change their bucket on average.
        prop_assert!(moved > flows.len() * 9 / 10, "{} of {}", moved, flows.len());
    }

    /// Successive ports of one client, the least random traffic there is, spread over all buckets.
    #[test]
    fn ports_of_one_client_spread(seed: u64) {
        let flows = one_client();
        let mut counts = [0_u32; BUCKETS as usize];
        for flow in &flows {
            counts[flow.bucket(seed) as usize] += 1;
        }
        let mean = flows.len() as f64 / f64::from(BUCKETS);
        let chi2: f64 = counts.iter().map(|n| (f64::from(*n) - mean).powi(2) / mean).sum();
        // 255 degrees of freedom: mean 255, deviation 22.6; this is more than 8 deviations away.
        prop_assert!(chi2 < 450.0, "chi-square {} over {} buckets", chi2, BUCKETS);
        for cpus in [2_u32, 3, 8] {
            let mut shares = vec![0_u32; cpus as usize];
            flows.iter().for_each(|flow| shares[(flow.bucket(seed) % cpus) as usize] += 1);
            let fair = flows.len() as f64 / f64::from(cpus);
            for share in &shares {
                prop_assert!((f64::from(*share) / fair - 1.0).abs() < 0.15, "{:?} on {} CPUs", shares, cpus);
            }
        }
    }
}

fn one_client() -> Vec<Flow> {
    let flow = Packet::new("192.0.2.7:1", "198.51.100.1:443").flow();
    (0..DAY_OF_PORTS).map(|port| Flow { source_port: 32_768 + port, ..flow }).collect()
}

/// The flow hash is part of what running nodes agree on with their maps: its values stay.
#[test]
fn known_hashes() {
    let four = Packet::new("192.0.2.7:40000", "198.51.100.1:443").flow();
    let six = Packet::new("[2001:db8::7]:40000", "[2001:db8::1]:443").flow();
    let back = Packet::new("198.51.100.1:443", "192.0.2.7:40000").flow();
    assert_eq!([four.hash(1), six.hash(1), back.hash(1), four.hash(2)], KNOWN);
    assert_eq!(four.bucket(1), four.hash(1) & 0xff);
}

const KNOWN: [u32; 4] = [3307020674, 2123844978, 2441565751, 1628788823];
