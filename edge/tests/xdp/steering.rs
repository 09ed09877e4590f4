//! Steering as a whole: real connections between namespaces, and what happens when a step is refused.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use aya::programs::{Xdp as XdpProgram, XdpMode as AyaMode};
use edge::config::{Steering, Xdp, XdpMode};
use edge::xdp::{Globals, Kind, Outcome, Report, cpu_count, load, start};
use edge_ebpf::STEERING_COUNT;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket, sockopt,
};
use nix::unistd::Pid;

use crate::namespace::{CLIENT, EDGE, EDGE_4, EDGE_6, pair, shell};

const CONNECTIONS: usize = 200;
const REQUESTS: usize = 3;
const PORT: u16 = 8080;
/// Nothing here may hang.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Named by the environment of the child that is killed.
const HOLD: &str = "EDGE_TEST_HOLD_INTERFACE";

fn config(mode: XdpMode, steering: Steering) -> Xdp {
    Xdp { interface: EDGE.into(), mode, steering }
}

fn cpus() -> Vec<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap()).collect()
}

fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).unwrap();
    sched_setaffinity(Pid::from_raw(0), &set).unwrap();
}

fn reuseport_listener(address: SocketAddr) -> TcpListener {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd: OwnedFd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    setsockopt(&fd, sockopt::ReusePort, &true).unwrap();
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address)).unwrap();
    listen(&fd, Backlog::new(128).unwrap()).unwrap();
    fd.into()
}

/// Waits until a program is attached, or none is. A child that another test is just starting may hold
/// a copy of the link's descriptor for a moment.
fn wait_for_attached(state: bool) {
    let deadline = Instant::now() + TIMEOUT;
    while shell(&format!("ip link show {EDGE}")).contains("xdp") != state {
        assert!(Instant::now() < deadline, "never came to attached = {state}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The CPU that processed the last packet of a connection.
fn incoming_cpu(stream: &TcpStream) -> usize {
    let mut cpu: libc::c_int = -1;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option writes one c_int into `cpu`, as `length` says.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_INCOMING_CPU,
            (&raw mut cpu).cast(),
            &raw mut length,
        )
    };
    assert_eq!(result, 0);
    cpu as usize
}

#[derive(Default)]
struct Tally {
    connections: AtomicU64,
    connections_local: AtomicU64,
    requests: AtomicU64,
    requests_local: AtomicU64,
}

/// Answers each byte, and tallies whether its packet was processed on this thread's CPU.
fn serve(listener: &TcpListener, cpu: usize, tally: &Tally, stop: &AtomicBool) {
    pin(cpu);
    listener.set_nonblocking(true).unwrap();
    while !stop.load(Relaxed) {
        let Ok((mut stream, _)) = listener.accept() else {
            std::thread::sleep(Duration::from_micros(200));
            continue;
        };
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.set_nodelay(true).unwrap();
        tally.connections.fetch_add(1, Relaxed);
        let is_local = |stream: &TcpStream| u64::from(incoming_cpu(stream) == cpu);
        tally.connections_local.fetch_add(is_local(&stream), Relaxed);
        let mut byte = [0];
        while stream.read(&mut byte).unwrap() == 1 {
            tally.requests.fetch_add(1, Relaxed);
            tally.requests_local.fetch_add(is_local(&stream), Relaxed);
            stream.write_all(&byte).unwrap();
        }
    }
}

/// Connects, sends requests one after the other and reads each answer.
fn visit(address: SocketAddr, connections: usize) {
    for _ in 0..connections {
        let mut stream = TcpStream::connect_timeout(&address, TIMEOUT).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.set_nodelay(true).unwrap();
        for request in 0..REQUESTS as u8 {
            stream.write_all(&[request]).unwrap();
            let mut answer = [0xff];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(answer, [request]);
        }
    }
}

/// What came of a run: connections per CPU, shares that were local, the report at the end.
#[derive(Debug)]
struct Run {
    per_cpu: Vec<u64>,
    connections_local: f64,
    requests_local: f64,
    report: Report,
}

/// Serves on both addresses in one namespace and visits from clients on every CPU of the other.
fn run(config: Option<Xdp>) -> Run {
    let (edge, client) = pair();
    let cpus = cpus();
    let addresses: [SocketAddr; 2] =
        [format!("{EDGE_4}:{PORT}").parse().unwrap(), format!("[{EDGE_6}]:{PORT}").parse().unwrap()];
    let stop = Arc::new(AtomicBool::new(false));
    let server = {
        let (stop, cpus) = (stop.clone(), cpus.clone());
        move || {
            let mut steering = start(config.as_ref(), &addresses, &cpus);
            let tallies: Vec<Arc<Tally>> = cpus.iter().map(|_| Arc::default()).collect();
            let mut threads = Vec::new();
            for address in addresses {
                let listeners: Vec<TcpListener> = cpus.iter().map(|_| reuseport_listener(address)).collect();
                let sockets: Vec<_> = cpus.iter().copied().zip(listeners.iter().map(AsFd::as_fd)).collect();
                steering.join(address, &sockets);
                for ((listener, cpu), tally) in listeners.into_iter().zip(&cpus).zip(&tallies) {
                    let (stop, tally, cpu) = (stop.clone(), tally.clone(), *cpu);
                    threads.push(std::thread::spawn(move || serve(&listener, cpu, &tally, &stop)));
                }
            }
            (steering, tallies, threads)
        }
    };
    let (steering, tallies, threads) = edge.run(server);
    let failed = client.run(move || {
        let visitors: Vec<_> = cpus
            .iter()
            .copied()
            .flat_map(|cpu| addresses.map(|address| (cpu, address)))
            .map(|(cpu, address)| {
                std::thread::spawn(move || {
                    pin(cpu);
                    visit(address, CONNECTIONS / 4);
                })
            })
            .collect();
        visitors.into_iter().map(|visitor| visitor.join()).filter(Result::is_err).count()
    });
    stop.store(true, Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let report = edge.run(move || {
        let report = steering.report();
        drop(steering);
        wait_for_attached(false);
        report
    });
    let per_cpu: Vec<u64> = tallies.iter().map(|tally| tally.connections.load(Relaxed)).collect();
    let share = |part: fn(&Tally) -> &AtomicU64, whole: fn(&Tally) -> &AtomicU64| {
        let sum = |cell: fn(&Tally) -> &AtomicU64| {
            tallies.iter().map(|tally| cell(tally).load(Relaxed)).sum::<u64>()
        };
        sum(part) as f64 / sum(whole) as f64
    };
    let run = Run {
        connections_local: share(|tally| &tally.connections_local, |tally| &tally.connections),
        requests_local: share(|tally| &tally.requests_local, |tally| &tally.requests),
        per_cpu,
        report,
    };
    println!("{run:#?}");
    assert_eq!(failed, 0, "clients failed");
    run
}

fn outcome(report: &Report, step: &str) -> Option<Outcome> {
    report.steps.iter().find(|found| found.step == step).map(|found| found.outcome)
}

fn check_steered(run: &Run, xdp: &str) {
    let connections = (cpus().len() * 2 * (CONNECTIONS / 4)) as u64;
    assert_eq!((run.report.xdp, run.report.steering), (xdp, Kind::Cpumap));
    assert_eq!(run.per_cpu.iter().sum::<u64>(), connections);
    assert!(run.connections_local >= 0.99, "{} of connections are local", run.connections_local);
    assert!(run.requests_local >= 0.99, "{} of requests are local", run.requests_local);
    let fair = connections as f64 / run.per_cpu.len() as f64;
    for n in &run.per_cpu {
        assert!((*n as f64) > fair * 0.5 && (*n as f64) < fair * 1.5, "{:?}", run.per_cpu);
    }
    let counters = &run.report.counters;
    // SYN, ACK, three requests, FIN at the least.
    assert!(counters["served_steered"] >= 6 * connections, "{counters:?}");
    assert_eq!(
        counters["served_steered"],
        run.report.per_cpu.iter().map(|cpu| cpu.steered_here).sum::<u64>()
    );
    assert_eq!(counters["picked"], connections);
    for lost in ["served_unsteered", "cpumap_queue_full", "cpumap_undelivered", "redirect_failed", "unpicked"]
    {
        assert_eq!(counters[lost], 0, "{lost}");
    }
    assert_eq!(run.report.buckets.values().sum::<u32>(), edge_ebpf::BUCKETS);
}

#[test]
fn native_cpumap_keeps_connections_on_their_cpu() {
    if !crate::has_kernel("native_cpumap_keeps_connections_on_their_cpu") {
        return;
    }
    let run = run(Some(config(XdpMode::Auto, Steering::Auto)));
    check_steered(&run, "native");
    assert_eq!(run.report.counters["cpumap_enqueued"], run.report.counters["served_steered"]);
    assert_eq!(outcome(&run.report, "queue priority"), None, "the threads' priority was raised");
}

#[test]
fn generic_cpumap_keeps_connections_on_their_cpu() {
    if !crate::has_kernel("generic_cpumap_keeps_connections_on_their_cpu") {
        return;
    }
    check_steered(&run(Some(config(XdpMode::Generic, Steering::Cpumap))), "generic");
}

#[test]
fn without_xdp_pick_still_serves_on_the_processing_cpu() {
    if !crate::has_kernel("without_xdp_pick_still_serves_on_the_processing_cpu") {
        return;
    }
    let run = run(None);
    assert_eq!((run.report.xdp, run.report.steering), ("none", Kind::None));
    assert!(run.report.listeners.iter().all(|listener| listener.choice == "pick"));
    assert_eq!(run.report.counters["picked"], run.per_cpu.iter().sum::<u64>());
    assert_eq!(run.report.counters["unpicked"], 0);
}

#[test]
fn steering_off_counts_and_passes() {
    if !crate::has_kernel("steering_off_counts_and_passes") {
        return;
    }
    let run = run(Some(config(XdpMode::Native, Steering::Off)));
    assert_eq!((run.report.xdp, run.report.steering), ("native", Kind::None));
    let counters = &run.report.counters;
    assert!(counters["served_passed"] >= 6 * counters["picked"], "{counters:?}");
    assert_eq!((counters["served_steered"], counters["cpumap_enqueued"]), (0, 0));
}

#[test]
fn rps_spreads_over_the_workers_and_is_restored() {
    if !crate::has_kernel("rps_spreads_over_the_workers_and_is_restored") {
        return;
    }
    let (edge, _client) = pair();
    let cpus = cpus();
    edge.run(move || {
        let file = format!("/sys/class/net/{EDGE}/queues/rx-0/rps_cpus");
        let mask = || u32::from_str_radix(std::fs::read_to_string(&file).unwrap().trim(), 16).unwrap();
        let before = mask();
        let steering = start(Some(&config(XdpMode::Off, Steering::Rps)), &[], &cpus);
        assert_eq!(steering.report().steering, Kind::Rps);
        assert_eq!(mask(), cpus.iter().fold(0, |mask, cpu| mask | 1 << cpu));
        drop(steering);
        assert_eq!(mask(), before);
    });
}

#[test]
fn a_foreign_program_is_reported_and_left_in_place() {
    if !crate::has_kernel("a_foreign_program_is_reported_and_left_in_place") {
        return;
    }
    let (edge, _client) = pair();
    edge.run(|| {
        let mut foreign = load(Globals::new(STEERING_COUNT), cpu_count()).unwrap();
        let program: &mut XdpProgram = foreign.program_mut("edge").unwrap().try_into().unwrap();
        program.load().unwrap();
        let id = program.info().unwrap().id();
        for (theirs, ours) in [
            (AyaMode::Driver, XdpMode::Auto),
            (AyaMode::Driver, XdpMode::Generic),
            (AyaMode::Skb, XdpMode::Native),
            (AyaMode::Skb, XdpMode::Generic),
        ] {
            let link = program.attach(EDGE, theirs).unwrap();
            let steering = start(Some(&config(ours, Steering::Cpumap)), &[], &cpus());
            let report = steering.report();
            assert_eq!(report.xdp, "none", "{theirs:?} {ours:?}");
            let step = if ours == XdpMode::Generic { "generic" } else { "native" };
            let reason = &report.steps.iter().find(|found| found.step == step).unwrap().reason;
            assert!(reason.contains("left in place"), "{theirs:?} {ours:?}: {reason}");
            assert_eq!(report.steering, Kind::Rps, "the next step is taken");
            drop(steering);
            let shown = shell(&format!("ip -d link show {EDGE}"));
            assert!(shown.contains(&format!("prog/xdp id {id} ")), "displaced: {shown}");
            program.detach(link).unwrap();
            wait_for_attached(false);
        }
    });
}

#[test]
fn a_killed_process_leaves_the_interface_clean() {
    if !crate::has_kernel("a_killed_process_leaves_the_interface_clean") {
        return;
    }
    let (edge, _client) = pair();
    edge.run(|| {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "steering::hold_the_interface", "--nocapture"])
            .env(HOLD, EDGE)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for_attached(true);
        child.kill().unwrap();
        child.wait().unwrap();
        wait_for_attached(false);
    });
}

/// Run by the test above as a child of its own, and killed by it.
#[test]
fn hold_the_interface() {
    if std::env::var_os(HOLD).is_some() {
        let _steering = start(Some(&config(XdpMode::Native, Steering::Cpumap)), &[], &[0]);
        std::thread::sleep(TIMEOUT * 2);
    }
}

/// Without capabilities the classic filter chooses, and the reason names what is missing.
#[test]
fn without_capabilities_the_classic_filter_chooses() {
    if !crate::has_kernel("without_capabilities_the_classic_filter_chooses") {
        return;
    }
    let (edge, client) = pair();
    let cpus = cpus();
    let address: SocketAddr = format!("{EDGE_4}:{PORT}").parse().unwrap();
    let listeners = edge.run(move || {
        let listeners: Vec<TcpListener> = cpus.iter().map(|_| reuseport_listener(address)).collect();
        let sockets: Vec<_> = cpus.iter().copied().zip(listeners.iter().map(AsFd::as_fd)).collect();
        // Capabilities belong to threads; this one ends with the namespace.
        drop_capabilities();
        let mut steering = start(Some(&config(XdpMode::Auto, Steering::Cpumap)), &[address], &cpus);
        steering.join(address, &sockets);
        let report = steering.report();
        println!("{report:#?}");
        assert_eq!((report.xdp, report.steering), ("none", Kind::None));
        assert_eq!(report.listeners[0].choice, "classic");
        let native = report.steps.iter().find(|step| step.step == "native").unwrap();
        for reason in [&native.reason, &report.listeners[0].reason] {
            assert!(reason.contains("CAP_BPF") && reason.contains("AmbientCapabilities"), "{reason}");
        }
        listeners
    });
    for (index, cpu) in self::cpus().into_iter().enumerate() {
        client.run(move || {
            pin(cpu);
            TcpStream::connect_timeout(&address, TIMEOUT).unwrap()
        });
        // veth processes packets where they were sent, so the socket of that CPU has it.
        listeners[index].set_nonblocking(true).unwrap();
        listeners[index].accept().unwrap_or_else(|error| panic!("CPU {cpu}: {error}"));
    }
}

/// A node gives its privileges up once everything is attached. What it counted must still be read, and
/// its program detached.
#[test]
fn the_report_needs_no_capability() {
    if !crate::has_kernel("the_report_needs_no_capability") {
        return;
    }
    let (edge, client) = pair();
    let steering = edge.run(|| {
        let steering = start(Some(&config(XdpMode::Auto, Steering::Cpumap)), &[], &cpus());
        drop_capabilities();
        steering
    });
    client.run(|| shell(&format!("ip neigh replace {EDGE_4} lladdr 02:00:00:00:00:01 dev {CLIENT}")));
    client.run(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        (0..10).for_each(|_| assert_eq!(socket.send_to(b"x", (EDGE_4, 9)).unwrap(), 1));
    });
    edge.run(move || {
        let report = steering.report();
        assert_eq!(report.counters["passed_not_tcp"], 10, "{report:#?}");
        assert_eq!(
            report.counters["passed_not_tcp"],
            report.per_cpu.iter().map(|cpu| cpu.counters["passed_not_tcp"]).sum::<u64>()
        );
        drop(steering);
        wait_for_attached(false);
    });
}

/// Empties the calling thread's capability sets.
fn drop_capabilities() {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let none = [0_u32; 6];
    // SAFETY: capset reads a header of two and data of six 32-bit words, as version 3 lays down.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) };
    assert_eq!(result, 0);
}
