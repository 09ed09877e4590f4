//! The BPF programs: `edge` (XDP: parse, then steer), `pick` (the listening socket of the CPU that
//! processes the packet) and three tracepoints that count what a cpumap lost. Logic that does not need
//! the kernel lives in the library of this package, where user space tests it.
//!
//! Counters are per CPU: read-modify-write atomics are not to be had on this target, and cells that
//! one CPU owns do not need them.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::{sk_action, xdp_action},
    helpers::bpf_get_smp_processor_id,
    macros::{map, raw_tracepoint, sk_reuseport, xdp},
    maps::{Array, CpuMap, HashMap, PerCpuArray, ReusePortSockArray},
    programs::{RawTracePointContext, SkReuseportContext, XdpContext},
};
use edge_ebpf::{
    BUCKETS, CPUS_MAX, Cells, Counter, Flow, Head, Pass, SERVICES_MAX, STEERING_COUNT, STEERING_CPUMAP,
    Service, packet,
};

/// What is done with packets of served flows; set once, before the program is loaded.
#[unsafe(no_mangle)]
static STEERING: u32 = STEERING_COUNT;
/// Seed of the flow hash; set once, before the program is loaded.
#[unsafe(no_mangle)]
static SEED: u64 = 0;

/// The addresses and ports this node serves.
#[map(name = "SERVICES")]
static SERVICES: HashMap<Service, u32> = HashMap::with_max_entries(SERVICES_MAX, 0);
/// Bucket of the flow hash → CPU.
#[map(name = "BUCKETS")]
static BUCKET_CPUS: Array<u32> = Array::with_max_entries(BUCKETS, 0);
/// The queues of the CPUs.
#[map(name = "CPUS")]
static CPUS: CpuMap = CpuMap::with_max_entries(CPUS_MAX, 0);
/// Packets redirected, by target CPU.
#[map(name = "STEERED")]
static STEERED: PerCpuArray<u64> = PerCpuArray::with_max_entries(CPUS_MAX, 0);
/// The one row of counters.
#[map(name = "COUNTERS")]
static COUNTERS: PerCpuArray<Cells> = PerCpuArray::with_max_entries(1, 0);
/// The kernel's id of `CPUS`, for tracepoints, which fire for every cpumap of the machine.
#[map(name = "WATCHED")]
static WATCHED: Array<u32> = Array::with_max_entries(1, 0);
/// The listening sockets of one address, by CPU. Each address has its own copy of `pick` and this map.
#[map(name = "SOCKETS")]
static SOCKETS: ReusePortSockArray = ReusePortSockArray::with_max_entries(CPUS_MAX, 0);

/// The bytes of a packet that can be read directly.
struct Frame {
    data: usize,
    end: usize,
}

impl Head for Frame {
    #[inline(always)]
    fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let start = self.data + offset;
        // The length is hidden from the optimiser: it merges neighbouring range checks into a form
        // that the verifier of Linux 6.1 cannot follow.
        if start + core::hint::black_box(N) > self.end {
            return None;
        }
        // SAFETY: the N bytes lie before `end`, as was just checked and the verifier checks again.
        Some(unsafe { (start as *const [u8; N]).read_unaligned() })
    }
}

/// The program for drivers. It takes packets in several buffers, as jumbo frames arrive.
#[xdp(frags)]
fn edge(ctx: XdpContext) -> u32 {
    decide(&ctx)
}

/// The program for generic mode. It does not take several buffers: for programs that do, the network
/// stack copies the packet and forgets the length of its link header, and what is then redirected to
/// another CPU arrives with its network header misplaced (seen with Linux 6.18).
#[xdp]
fn edge_generic(ctx: XdpContext) -> u32 {
    decide(&ctx)
}

/// Parses, then steers packets of served flows; passes all others. Never drops.
#[inline(always)]
fn decide(ctx: &XdpContext) -> u32 {
    let Some(cells) = COUNTERS.get_ptr_mut(0) else {
        return xdp_action::XDP_PASS;
    };
    // SAFETY: the map's cell of this CPU lives as long as the program, and no other code writes it
    // while XDP runs on this CPU.
    let cells = unsafe { &mut *cells };
    cells.add(Counter::Packets, 1);
    let frame = Frame { data: ctx.data(), end: ctx.data_end() };
    let (counter, action) = match packet::parse(&frame) {
        Err(Pass::NotIp) => (Counter::NotIp, xdp_action::XDP_PASS),
        Err(Pass::Malformed) => (Counter::Malformed, xdp_action::XDP_PASS),
        Err(Pass::Fragment) => (Counter::Fragment, xdp_action::XDP_PASS),
        Err(Pass::NotTcp) => (Counter::NotTcp, xdp_action::XDP_PASS),
        Err(Pass::Extensions) => (Counter::Extensions, xdp_action::XDP_PASS),
        Ok(flow) if is_served(&flow) => steer(&flow),
        Ok(_) => (Counter::NotServed, xdp_action::XDP_PASS),
    };
    cells.add(counter, 1);
    action
}

#[inline(always)]
fn is_served(flow: &Flow) -> bool {
    let service = Service::of(flow);
    SERVICES.get_ptr(service).is_some() || SERVICES.get_ptr(service.wildcard()).is_some()
}

#[inline(always)]
fn steer(flow: &Flow) -> (Counter, u32) {
    // SAFETY: a static of this object; volatile because user space sets its value at load time.
    if unsafe { (&raw const STEERING).read_volatile() } != STEERING_CPUMAP {
        return (Counter::Counted, xdp_action::XDP_PASS);
    }
    // SAFETY: as above.
    let seed = unsafe { (&raw const SEED).read_volatile() };
    let Some(cpu) = BUCKET_CPUS.get_ptr(flow.bucket(seed)) else {
        return (Counter::Unsteered, xdp_action::XDP_PASS);
    };
    // SAFETY: a map value; volatile because user space may rewrite the table at any time.
    let cpu = unsafe { cpu.read_volatile() };
    match CPUS.redirect(cpu, xdp_action::XDP_PASS as u64) {
        Ok(action) => {
            if let Some(steered) = STEERED.get_ptr_mut(cpu) {
                // SAFETY: the cell of this CPU, which only XDP writes.
                unsafe { *steered += 1 };
            }
            (Counter::Steered, action)
        }
        Err(action) => (Counter::Unsteered, action),
    }
}

/// Gives a new connection to the listening socket of the CPU that runs here, and a connection whose
/// listening socket closes to its successor. Without a socket for this CPU the kernel's hash decides.
#[sk_reuseport(migrate)]
fn pick(ctx: SkReuseportContext) -> u32 {
    // SAFETY: the helper takes no arguments and only reads the CPU's number.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    let is_migrating = ctx.migrating_sk().is_some();
    let counter = match SOCKETS.select_reuseport(&ctx, cpu) {
        Err(_) => Counter::Unpicked,
        Ok(()) if is_migrating => Counter::Migrated,
        Ok(()) => Counter::Picked,
    };
    count(counter, 1);
    sk_action::SK_PASS
}

/// `xdp_cpumap_enqueue(map_id, processed, drops, to_cpu)`: a batch enters a CPU's queue.
#[raw_tracepoint(tracepoint = "xdp_cpumap_enqueue")]
fn cpumap_enqueue(ctx: RawTracePointContext) -> i32 {
    if is_watched(ctx.arg::<u32>(0)) {
        count(Counter::Enqueued, ctx.arg::<u32>(1).into());
        count(Counter::QueueFull, ctx.arg::<u32>(2).into());
    }
    0
}

/// `xdp_cpumap_kthread(map_id, processed, drops, sched, stats)`: a batch left a CPU's queue.
#[raw_tracepoint(tracepoint = "xdp_cpumap_kthread")]
fn cpumap_kthread(ctx: RawTracePointContext) -> i32 {
    if is_watched(ctx.arg::<u32>(0)) {
        count(Counter::Undelivered, ctx.arg::<u32>(2).into());
    }
    0
}

/// `xdp_redirect_err(dev, program, target, error, map_type, map_id, index)`.
#[raw_tracepoint(tracepoint = "xdp_redirect_err")]
fn redirect_failed(ctx: RawTracePointContext) -> i32 {
    if is_watched(ctx.arg::<u32>(5)) {
        count(Counter::RedirectFailed, 1);
    }
    0
}

#[inline(always)]
fn is_watched(map: u32) -> bool {
    match WATCHED.get(0) {
        Some(watched) => *watched == map,
        None => false,
    }
}

#[inline(always)]
fn count(counter: Counter, n: u64) {
    if let Some(cells) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: the row of this CPU; the counter belongs to the running program alone.
        unsafe { (*cells).add(counter, n) };
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // The verifier refuses a program that could get here: nothing above panics.
    loop {}
}

/// Lets programs call helpers that the kernel keeps for programs under the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
