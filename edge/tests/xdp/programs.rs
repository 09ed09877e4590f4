//! The programs one by one: the verifier accepts them, and packet fixtures run through `edge` by
//! BPF_PROG_TEST_RUN get the expected verdict and counters.

use std::collections::HashMap as Names;

use aya::Ebpf;
use aya::maps::{Array, CpuMap, HashMap, MapData, PerCpuArray};
use aya::programs::{Program, RawTracePoint, RawTracePointRunOptions, TestRun, TestRunOptions, Xdp};
use edge::xdp::{Globals, cpu_count, load, service};
use edge_ebpf::{BUCKETS, Cells, Counter, STEERING_COUNT, STEERING_CPUMAP, Service, counters::TABLE, packet};

use crate::packets::{Packet, random_address};

const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;
/// Served in every fixture.
const SERVICES: [&str; 3] = ["198.51.100.1:80", "[2001:db8::1]:80", "0.0.0.0:8080"];
const CLIENT: &str = "192.0.2.7:40000";
const CLIENT_6: &str = "[2001:db8::7]:40000";

/// The object with `edge` loaded and its maps filled.
struct Bench {
    bpf: Ebpf,
    seed: u64,
    buckets: Vec<u32>,
}

impl Bench {
    fn new(steering: u32, seed: u64, buckets: Vec<u32>, queues: &[u32]) -> Bench {
        let mut bpf = load(Globals { steering, seed }, cpu_count()).unwrap();
        let mut services =
            HashMap::<&mut MapData, Service, u32>::try_from(bpf.map_mut("SERVICES").unwrap()).unwrap();
        for address in SERVICES {
            services.insert(service(address.parse().unwrap()), 1, 0).unwrap();
        }
        let mut table = Array::<&mut MapData, u32>::try_from(bpf.map_mut("BUCKETS").unwrap()).unwrap();
        for (bucket, cpu) in (0..).zip(&buckets) {
            table.set(bucket, cpu, 0).unwrap();
        }
        let mut cpus = CpuMap::<&mut MapData>::try_from(bpf.map_mut("CPUS").unwrap()).unwrap();
        for cpu in queues {
            cpus.set(*cpu, 64, None, 0).unwrap();
        }
        let program: &mut Xdp = bpf.program_mut("edge").unwrap().try_into().unwrap();
        program.load().unwrap();
        Bench { bpf, seed, buckets }
    }

    fn run(&self, bytes: &[u8], repeat: u32) -> (u32, std::time::Duration) {
        let program: &Xdp = self.bpf.program("edge").unwrap().try_into().unwrap();
        let options = TestRunOptions { data_in: Some(bytes), repeat, ..TestRunOptions::new() };
        let result = program.test_run(options).unwrap();
        (result.return_value, result.duration)
    }

    fn cells(&self) -> Cells {
        let map = PerCpuArray::<&MapData, Cells>::try_from(self.bpf.map("COUNTERS").unwrap()).unwrap();
        let mut sum = Cells::ZERO;
        for row in map.get(&0, 0).unwrap().iter() {
            sum.0.iter_mut().zip(row.0).for_each(|(total, n)| *total += n);
        }
        sum
    }

    fn steered(&self) -> Vec<u64> {
        let map = PerCpuArray::<&MapData, u64>::try_from(self.bpf.map("STEERED").unwrap()).unwrap();
        (0..cpu_count()).map(|cpu| map.get(&cpu, 0).unwrap().iter().sum()).collect()
    }

    /// Runs one packet; it must be counted once, under `counter`, and nowhere else.
    fn check(&self, name: &str, bytes: &[u8], verdict: u32, counter: Counter) {
        let before = self.cells();
        let (got, _) = self.run(bytes, 1);
        let after = self.cells();
        let changed: Names<&str, u64> = TABLE
            .iter()
            .map(|(counter, name, _)| (*name, after.get(*counter) - before.get(*counter)))
            .filter(|(_, n)| *n != 0)
            .collect();
        let expected = Names::from([("packets", 1), (TABLE[counter as usize].1, 1)]);
        assert_eq!((got, changed), (verdict, expected), "{name}: {bytes:02x?}");
    }
}

/// Where a program that steers by cpumap on CPU 0 must put each fixture.
fn fixtures() -> Vec<(&'static str, Packet, Counter)> {
    use Counter::*;
    let four = Packet::new(CLIENT, SERVICES[0]);
    let six = Packet::new(CLIENT_6, SERVICES[1]);
    let to = |destination: &str| Packet { destination: destination.parse().unwrap(), ..four.clone() };
    let to_6 = |destination: &str| Packet { destination: destination.parse().unwrap(), ..six.clone() };
    let extended = |extensions: &[(u8, u8)]| Packet { extensions: extensions.to_vec(), ..six.clone() };
    vec![
        ("IPv4", four.clone(), Steered),
        ("IPv4 with payload", Packet { payload: 1400, ..four.clone() }, Steered),
        ("IPv6", six.clone(), Steered),
        ("802.1Q", Packet { tags: vec![0x8100], ..four.clone() }, Steered),
        ("802.1ad and 802.1Q", Packet { tags: vec![0x88a8, 0x8100], ..four.clone() }, Steered),
        ("two tags over IPv6", Packet { tags: vec![0x88a8, 0x8100], ..six.clone() }, Steered),
        ("three tags", Packet { tags: vec![0x88a8, 0x8100, 0x8100], ..four.clone() }, NotIp),
        ("IPv4 options", Packet { options: 1, ..four.clone() }, Steered),
        ("most IPv4 options", Packet { options: 10, ..four.clone() }, Steered),
        ("don't fragment clear", Packet { fragment: 0, ..four.clone() }, Steered),
        ("first fragment", Packet { fragment: 0x2000, ..four.clone() }, Fragment),
        ("later fragment", Packet { fragment: 0x00b9, ..four.clone() }, Fragment),
        ("last fragment, high offset", Packet { fragment: 0x1f00, ..four.clone() }, Fragment),
        ("UDP", Packet { protocol: 17, ..four.clone() }, NotTcp),
        ("ICMP", Packet { protocol: 1, ..four.clone() }, NotTcp),
        ("other port", to("198.51.100.1:81"), NotServed),
        ("other address", to("198.51.100.2:80"), NotServed),
        ("wildcard address", to("198.51.100.77:8080"), Steered),
        ("source port is served, destination is not", Packet::new("198.51.100.1:80", CLIENT), NotServed),
        ("IPv4 wildcard is not IPv6's", to_6("[2001:db8::1]:8080"), NotServed),
        ("IPv6 other port", to_6("[2001:db8::1]:81"), NotServed),
        ("ICMPv6", Packet { protocol: 58, ..six.clone() }, NotTcp),
        ("hop-by-hop", extended(&[(0, 0)]), Steered),
        ("as many extension headers as are walked", extended(&[(0, 0), (60, 2), (43, 1), (60, 0)]), Steered),
        ("longest extension header", extended(&[(0, 255)]), Steered),
        (
            "one extension header too many",
            extended(&[(0, 0), (60, 0), (43, 0), (60, 0), (60, 0)]),
            Extensions,
        ),
        ("IPv6 fragment", extended(&[(44, 0)]), Fragment),
        ("IPv6 fragment behind hop-by-hop", extended(&[(0, 0), (44, 0)]), Fragment),
        ("authentication header", extended(&[(51, 0)]), NotTcp),
    ]
}

#[test]
fn fixtures_get_their_verdict() {
    if !crate::has_kernel("fixtures_get_their_verdict") {
        return;
    }
    let steering = Bench::new(STEERING_CPUMAP, 7, vec![0; BUCKETS as usize], &[0]);
    let counting = Bench::new(STEERING_COUNT, 7, vec![0; BUCKETS as usize], &[]);
    let unready = Bench::new(STEERING_CPUMAP, 7, vec![0; BUCKETS as usize], &[]);
    for (name, packet, counter) in fixtures() {
        let bytes = packet.bytes();
        let is_steered = counter == Counter::Steered;
        steering.check(name, &bytes, if is_steered { XDP_REDIRECT } else { XDP_PASS }, counter);
        counting.check(name, &bytes, XDP_PASS, if is_steered { Counter::Counted } else { counter });
        unready.check(name, &bytes, XDP_PASS, if is_steered { Counter::Unsteered } else { counter });
    }
}

#[test]
fn broken_headers_pass() {
    if !crate::has_kernel("broken_headers_pass") {
        return;
    }
    let bench = Bench::new(STEERING_CPUMAP, 7, vec![0; BUCKETS as usize], &[0]);
    let patched = |packet: Packet, at: usize, value: u8| {
        let mut bytes = packet.bytes();
        bytes[at] = value;
        bytes
    };
    let four = || Packet::new(CLIENT, SERVICES[0]);
    let six = || Packet::new(CLIENT_6, SERVICES[1]);
    for (name, bytes, counter) in [
        ("ARP", patched(four(), 13, 0x06), Counter::NotIp),
        ("IPv4 with version 6", patched(four(), 14, 0x65), Counter::Malformed),
        ("IPv4 header length 4", patched(four(), 14, 0x44), Counter::Malformed),
        ("IPv4 header length 15, beyond the end", patched(four(), 14, 0x4f), Counter::Malformed),
        ("TCP header length 4", patched(four(), 14 + 20 + 12, 0x40), Counter::Malformed),
        ("IPv6 with version 4", patched(six(), 14, 0x45), Counter::Malformed),
        (
            "extension header beyond the end",
            patched(Packet { extensions: vec![(0, 0)], ..six() }, 14 + 40 + 1, 255),
            Counter::Malformed,
        ),
    ] {
        bench.check(name, &bytes, XDP_PASS, counter);
    }
}

/// Cut anywhere before the end of the TCP header a packet is passed, and counted as the parser in
/// user space says; cut behind it, it is steered.
#[test]
fn packets_cut_at_every_byte() {
    if !crate::has_kernel("packets_cut_at_every_byte") {
        return;
    }
    let bench = Bench::new(STEERING_CPUMAP, 7, vec![0; BUCKETS as usize], &[0]);
    for (name, packet, counter) in fixtures() {
        let bytes = packet.bytes();
        // The kernel refuses to test-run less than an Ethernet header.
        for cut in 14..bytes.len().min(200) {
            let piece = &bytes[..cut];
            let expected = match packet::parse(piece) {
                Ok(_) => counter,
                Err(packet::Pass::NotIp) => Counter::NotIp,
                Err(packet::Pass::Malformed) => Counter::Malformed,
                Err(packet::Pass::Fragment) => Counter::Fragment,
                Err(packet::Pass::NotTcp) => Counter::NotTcp,
                Err(packet::Pass::Extensions) => Counter::Extensions,
            };
            if counter == Counter::Steered {
                let whole = cut >= packet.headers_bytes();
                assert_eq!(
                    expected,
                    if whole { Counter::Steered } else { Counter::Malformed },
                    "{name} at {cut}"
                );
            }
            let verdict = if expected == Counter::Steered { XDP_REDIRECT } else { XDP_PASS };
            bench.check(&format!("{name} cut at {cut}"), piece, verdict, expected);
        }
    }
}

/// The kernel's choice of CPU equals what the shared hash foretells in user space.
#[test]
fn the_kernel_chooses_the_cpu_of_the_shared_hash() {
    if !crate::has_kernel("the_kernel_chooses_the_cpu_of_the_shared_hash") {
        return;
    }
    const FLOWS: usize = 4000;
    let mut random = crate::Random::new("shared hash");
    let cpus = edge::xdp::cpu_count();
    let buckets: Vec<u32> = (0..BUCKETS).map(|_| (random.word() % u64::from(cpus)) as u32).collect();
    let queues: Vec<u32> = (0..cpus).collect();
    let bench = Bench::new(STEERING_CPUMAP, random.word(), buckets, &queues);
    let mut expected = vec![0; cpus as usize];
    for flow in 0..FLOWS {
        let is_ipv4 = random.word().is_multiple_of(2);
        let mut destination = random_address(&mut random, is_ipv4);
        if is_ipv4 {
            destination.set_port(8080);
        } else {
            destination = SERVICES[1].parse().unwrap();
        }
        let source = random_address(&mut random, is_ipv4);
        let packet = Packet { source, destination, ..Packet::new(CLIENT, CLIENT) };
        expected[bench.buckets[packet.flow().bucket(bench.seed) as usize] as usize] += 1;
        assert_eq!(bench.run(&packet.bytes(), 1).0, XDP_REDIRECT, "flow {flow}: {packet:?}");
        // One flow at a time, so that two errors cannot cancel out.
        assert_eq!(bench.steered(), expected, "flow {flow}: {packet:?}");
    }
    println!("{FLOWS} flows steered to {expected:?}");
}

#[test]
fn the_verifier_accepts_every_program() {
    if !crate::has_kernel("the_verifier_accepts_every_program") {
        return;
    }
    let fresh = || load(Globals::new(STEERING_CPUMAP), cpu_count()).unwrap();
    let names: Vec<String> = fresh().programs().map(|(name, _)| name.to_owned()).collect();
    assert_eq!(names.len(), 6, "{names:?}");
    for name in names {
        // Each on its own: programs with and without fragments cannot share a cpumap.
        let mut bpf = fresh();
        match bpf.program_mut(&name).unwrap() {
            Program::Xdp(program) => program.load(),
            Program::SkReuseport(program) => program.load(),
            Program::RawTracePoint(program) => program.load(),
            other => panic!("{name} is of an unexpected type: {other:?}"),
        }
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn tracepoints_count_only_the_watched_map() {
    if !crate::has_kernel("tracepoints_count_only_the_watched_map") {
        return;
    }
    let mut bench = Bench::new(STEERING_COUNT, 1, vec![], &[]);
    let mut watched = Array::<&mut MapData, u32>::try_from(bench.bpf.map_mut("WATCHED").unwrap()).unwrap();
    watched.set(0, 42, 0).unwrap();
    for (name, arguments, expected) in [
        ("cpumap_enqueue", [42, 8, 3, 1, 0, 0], [(Counter::Enqueued, 8), (Counter::QueueFull, 3)].as_slice()),
        ("cpumap_enqueue", [41, 8, 3, 1, 0, 0], &[]),
        ("cpumap_kthread", [42, 8, 2, 0, 0, 0], &[(Counter::Undelivered, 2)]),
        ("cpumap_kthread", [41, 8, 2, 0, 0, 0], &[]),
        ("redirect_failed", [0, 0, 0, 0, 0, 42], &[(Counter::RedirectFailed, 1)]),
        ("redirect_failed", [0, 0, 0, 0, 0, 41], &[]),
    ] {
        let before = bench.cells();
        let program: &mut RawTracePoint = bench.bpf.program_mut(name).unwrap().try_into().unwrap();
        if program.fd().is_err() {
            program.load().unwrap();
        }
        let mut options = RawTracePointRunOptions::new();
        options.args[..6].copy_from_slice(&arguments);
        program.test_run(options).unwrap();
        let after = bench.cells();
        let mut wanted = before;
        expected.iter().for_each(|(counter, n)| wanted.add(*counter, *n));
        assert_eq!(after, wanted, "{name} {arguments:?}");
    }
}

/// Prints what a packet costs; asserts nothing about speed.
#[test]
fn cost_of_a_packet() {
    if !crate::has_kernel("cost_of_a_packet") {
        return;
    }
    let bench = Bench::new(STEERING_CPUMAP, 7, vec![0; BUCKETS as usize], &[0]);
    for (name, packet, _) in fixtures().into_iter().take(5) {
        let (_, duration) = bench.run(&packet.bytes(), 200_000);
        println!("{name}: {} ns a packet", duration.as_nanos());
    }
}
