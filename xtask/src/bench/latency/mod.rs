//! `cargo xtask bench latency`: how long hot hits of 1 KiB take alone, and beside what could slow them: hits from the
//! disk, clients that trickle, floods over HTTP/2. Windows alone and beside follow each other within one run, and ratios
//! are made between neighbours. The node has one CPU for all its threads; client and loads have another. Answers that met
//! a CPU while the host had taken it are left out, and so are pairs of windows in which too many did.
#![forbid(unsafe_code)]

mod cold;
mod floods;
mod hot;
mod stalls;
mod trickle;
mod worker;

use super::origin::{self, Origin};
use super::report::Spread;
use crate::http::{self, Connection};
use crate::node::Node;
use crate::process::{self, Scratch, Server};
use crate::{build, machine};
use anyhow::{Context, Result, ensure};
use clap::Args;
use cold::{Group, Objects};
use hot::{Hot, Latency};
use stalls::{Seen, Watch};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use trickle::Trickle;
use worker::{Counts, Work};

const START: Duration = Duration::from_secs(20);
/// How long a load runs before a window begins, and how long it is quiet before the next.
const SETTLE: Duration = Duration::from_millis(200);
/// Attackers come from [`floods::FROM`], which is counted as a client of the Internet is.
const LIMITS: &str = "\n[limits]\nconnections_max = 4096\nunlimited_clients = [\"127.0.0.1\"]\n";
/// Body of the hot object.
const BYTES: usize = 1024;
/// Share of a window's requests that may have met a CPU that the host had taken.
const DISTURBED_MAX: f64 = 0.25;
/// Pairs of windows tried for each that is asked for.
const ATTEMPTS: usize = 4;
/// How much longer 99 of 100 hot hits may take beside cold hits, and beside clients that mean ill.
const COLD_MAX: f64 = 2.0;
const OTHERS_MAX: f64 = 1.5;

/// Options of the measure.
#[derive(Args, Debug)]
pub struct Options {
    /// Pairs of windows, alone and beside, for each load.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of each window.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Hot hits asked for in a second.
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    rate: u32,
    /// Connections that ask for them by turns.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1000))]
    connections: u32,
    /// Only loads whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Clients that trickle.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    clients: u32,
    /// Attackers of a flood.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100))]
    attackers: u32,
    /// Addresses that they come from, by turns: what a node bounds by address does nothing where each is another one.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    addresses: u32,
    /// Milliseconds after which an attacker that was cut off comes again.
    #[arg(long, default_value_t = 100)]
    again_ms: u64,
    /// Cold hits asked for in a second.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    cold_rate: u32,
    /// Memory of the control group that serves cold hits, in MiB.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u64).range(64..=1 << 20))]
    memory_mib: u64,
    /// Bytes stored there, in MiB.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u64).range(64..=1 << 20))]
    stored_mib: u64,
    /// A directory on a disk for that store; by default the one for temporary files.
    #[arg(long, value_name = "DIRECTORY")]
    store: Option<PathBuf>,
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.contains(only.as_str()))
    }
}

/// What a load has done.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// Its events.
    events: u64,
    /// How often the node has told it off.
    told: u64,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.events += other.events;
        self.told += other.told;
    }
}

/// Runs until it is told to stop.
type Run<'a> = Box<dyn FnMut(&AtomicBool) -> Result<Tally> + Send + 'a>;

/// What can run beside the hot hits.
struct Load<'a> {
    name: &'static str,
    /// What its events are, and what being told off is.
    counted: (&'static str, &'static str),
    bound: f64,
    run: Run<'a>,
}

/// A window.
struct Window {
    latency: Latency,
    seen: Seen,
    /// Share of its CPU that the node used.
    cpu: f64,
    /// The node's anonymous memory, in bytes.
    memory: u64,
    work: Work,
    tally: Tally,
}

/// A node under test.
struct Target {
    server: Server,
    http: SocketAddr,
    admin: SocketAddr,
    _group: Option<Group>,
}

/// The measure.
pub fn run(options: &Options) -> Result<()> {
    let (cpu, client) = super::server_and_client_cpu()?;
    machine::stay_on(&[client])?;
    let scratch = Scratch::create("latency")?;
    let origin = Origin::start()?;
    let mut rows = Vec::new();

    let name = "cold hits";
    if options.wants(name) {
        let parent = options.store.clone().unwrap_or_else(std::env::temp_dir);
        let disk = Scratch::within(&parent, "latency-cold")?;
        let target = start(&disk, &origin, cpu, Some(options))?;
        let objects = Objects::store(target.http, options.stored_mib << 20)?;
        let asked = origin.requests();
        let mut seed = 0;
        let load = Load {
            name,
            counted: ("hits", "–"),
            bound: COLD_MAX,
            run: Box::new(move |stop| {
                seed += 1;
                objects.run(options.cold_rate, seed, stop)
            }),
        };
        rows.push(measure(options, &target, (cpu, client), load)?);
        ensure!(origin.requests() == asked, "cold objects were asked for at the origin: these were no hits");
    }
    let target = start(&scratch, &origin, cpu, None)?;
    for load in others(options, target.http)? {
        rows.push(measure(options, &target, (cpu, client), load)?);
    }
    report(options, (cpu, client), &rows)
}

/// The loads that need no node of their own.
fn others(options: &Options, to: SocketAddr) -> Result<Vec<Load<'_>>> {
    let mut loads = Vec::new();
    let name = "trickling clients";
    if options.wants(name) {
        let mut trickle = Trickle::connect(to, options.clients as usize)?;
        loads.push(Load {
            name,
            counted: ("bytes", "connections ended"),
            bound: OTHERS_MAX,
            run: Box::new(move |stop| trickle.run(stop)),
        });
    }
    let pause = Duration::from_millis(options.again_ms);
    for flood in floods::all().into_iter().filter(|flood| options.wants(flood.name)) {
        loads.push(Load {
            name: flood.name,
            counted: ("connections cut off", "with GOAWAY"),
            bound: OTHERS_MAX,
            run: Box::new(move |stop| {
                flood.run(to, (options.attackers as usize, options.addresses), pause, stop)
            }),
        });
    }
    Ok(loads)
}

/// Starts a node and has it store the hot object. `limited`: in a control group, with little memory.
fn start(scratch: &Scratch, origin: &Origin, cpu: usize, limited: Option<&Options>) -> Result<Target> {
    let group = limited.map(|options| Group::limited(options.memory_mib << 20)).transpose()?;
    let address = || http::free_port().map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let (http, admin) = (address()?, address()?);
    let size = limited.map_or(256, |options| options.stored_mib * 3 / 2);
    let node = Node {
        cpus: cpu.to_string(),
        http: http.to_string(),
        admin: admin.to_string(),
        origin: origin.address().to_string(),
        xdp: None,
        store_size: &format!("{size}MiB"),
    };
    let store = scratch.directory("store")?.display().to_string();
    let text = node.text(&store).replacen("[listen]\n", "[listen]\nhttp2_cleartext = true\n", 1);
    let file = scratch.write("edge.toml", text + LIMITS)?;
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &cpu.to_string()]).arg(build::release_binary("edge")?);
    command.args(["run", "--config"]).arg(file);
    if let Some(group) = &group {
        command = group.inside(&command);
    }
    let server = Server::start("edge", &command, &scratch.path("edge.log"))?;
    server.wait_ready(START, || http::listens(http))?;
    let mut connection = Connection::open(http)?;
    let mut is_hit = || Ok(connection.get(&origin::path(BYTES))?.field("cache-status").contains("hit"));
    ensure!(process::wait_until(START, &mut is_hit)?, "the hot object is not stored");
    Ok(Target { server, http, admin, _group: group })
}

/// Windows alone and beside a load, by turns, until enough were left undisturbed.
fn measure(
    options: &Options,
    target: &Target,
    (cpu, client): (usize, usize),
    mut load: Load<'_>,
) -> Result<Row> {
    process::step(&format!("{} pairs of windows of {} s: {}", options.rounds, options.seconds, load.name));
    let mut hot = Hot::open(target.http, &origin::path(BYTES), BYTES, options.connections as usize)?;
    let watch = Watch::begin(&[cpu, client])?;
    let mut row = Row {
        name: load.name,
        counted: load.counted,
        bound: load.bound,
        pairs: Vec::new(),
        disturbed: Vec::new(),
    };
    let rounds = options.rounds as usize;
    while row.pairs.len() < rounds && row.pairs.len() + row.disturbed.len() < rounds * ATTEMPTS {
        let alone = window(options, target, &watch, &mut hot, None)?;
        let beside = window(options, target, &watch, &mut hot, Some(&mut load))?;
        let is_disturbed = [&alone, &beside].iter().any(|window| window.latency.disturbed > DISTURBED_MAX);
        let pairs = if is_disturbed { &mut row.disturbed } else { &mut row.pairs };
        pairs.push((alone, beside));
        process::sleep(SETTLE)?;
    }
    watch.end()?;
    Ok(row)
}

fn window(
    options: &Options,
    target: &Target,
    watch: &Watch,
    hot: &mut Hot,
    load: Option<&mut Load<'_>>,
) -> Result<Window> {
    let stop = AtomicBool::new(false);
    let pid = target.server.pid();
    std::thread::scope(|scope| {
        let beside = load.map(|load| scope.spawn(|| (load.run)(&stop)));
        let time = Duration::from_secs(u64::from(options.seconds));
        let client = scope.spawn(move || {
            hot::run_first()?;
            process::sleep(SETTLE)?;
            let counts = Counts::now(pid, target.admin)?;
            let before = machine::cpu_us(pid)?;
            let mark = watch.mark()?;
            let answers = hot.window(options.rate, time)?;
            let seen = watch.since(&mark)?;
            let cpu = (machine::cpu_us(pid)? - before) as f64 / time.as_micros() as f64;
            let work = counts.until(&Counts::now(pid, target.admin)?);
            Ok((hot::summary(&answers, &seen), seen, cpu, machine::anonymous_bytes(pid)?, work))
        });
        let measured: Result<_> = client.join().map_err(|_| anyhow::anyhow!("the hot client panicked"))?;
        stop.store(true, Ordering::Relaxed);
        let tally = match beside {
            Some(beside) => beside.join().map_err(|_| anyhow::anyhow!("the load panicked"))??,
            None => Tally::default(),
        };
        target.server.alive()?;
        let (latency, seen, cpu, memory, work) = measured?;
        Ok(Window { latency, seen, cpu, memory, work, tally })
    })
}

/// All windows of one load.
struct Row {
    name: &'static str,
    counted: (&'static str, &'static str),
    bound: f64,
    /// Alone, and beside.
    pairs: Vec<(Window, Window)>,
    /// Those that cannot be judged.
    disturbed: Vec<(Window, Window)>,
}

impl Row {
    fn of(&self, value: impl Fn(&(Window, Window)) -> f64) -> Result<Spread> {
        Spread::of(self.pairs.iter().map(value)).with_context(|| {
            format!("{}: in each pair of windows the host took the CPUs, so none can be judged; try again, or on another machine", self.name)
        })
    }

    fn ratio(&self) -> Result<Spread> {
        self.of(|(alone, beside)| beside.latency.p99 / alone.latency.p99)
    }

    fn line(&self, seconds: f64) -> Result<String> {
        let range = |spread: Spread| format!("{:.0} ({:.0}–{:.0})", spread.median, spread.min, spread.max);
        let alone = |value: fn(&Window) -> f64| self.of(move |(alone, _)| value(alone)).map(range);
        let beside = |value: fn(&Window) -> f64| self.of(move |(_, beside)| value(beside)).map(range);
        let cpu = |which: fn(&(Window, Window)) -> f64| self.of(which).map(|spread| 100.0 * spread.median);
        let memory = |which: fn(&(Window, Window)) -> u64| {
            self.pairs.iter().map(which).max().unwrap_or(0) as f64 / f64::from(1 << 20)
        };
        let ratio = self.ratio()?;
        let mut tally = Tally::default();
        self.pairs.iter().for_each(|(_, beside)| tally.add(beside.tally));
        let each = |count: u64| count as f64 / seconds / self.pairs.len() as f64;
        let (events, told) = self.counted;
        Ok(format!(
            "| {} | {} | {} | {} | {} | {:.2} ({:.2}–{:.2}) | {:.1} | {:.0} %, {:.0} % | {:.1}, {:.1} | {:.0} {events}, {:.0} {told} |",
            self.name,
            alone(|window| window.latency.p50)?,
            beside(|window| window.latency.p50)?,
            alone(|window| window.latency.p99)?,
            beside(|window| window.latency.p99)?,
            ratio.median,
            ratio.min,
            ratio.max,
            self.bound,
            cpu(|(alone, _)| alone.cpu)?,
            cpu(|(_, beside)| beside.cpu)?,
            memory(|(alone, _)| alone.memory),
            memory(|(_, beside)| beside.memory),
            each(tally.events),
            each(tally.told),
        ))
    }
}

impl Row {
    /// What the worker did, which needs no steady machine to be counted.
    fn worker_line(&self) -> Result<String> {
        let both = |what: fn(&Work) -> f64, digits: usize| -> Result<String> {
            let alone = self.of(|(alone, _)| what(&alone.work))?.median;
            let beside = self.of(|(_, beside)| what(&beside.work))?.median;
            Ok(format!("{alone:.digits$}, {beside:.digits$}"))
        };
        let ratio = self.of(|(alone, beside)| beside.work.turn_us / alone.work.turn_us)?;
        let sum =
            |what: fn(&Work) -> u64| self.pairs.iter().map(|(_, beside)| what(&beside.work)).sum::<u64>();
        Ok(format!(
            "| {} | {} | {} | {} | {} | {:.2} ({:.2}–{:.2}) | {} | {} | {} |",
            self.name,
            both(|work| work.turns_per_s, 0)?,
            both(|work| work.hits_per_turn, 2)?,
            both(|work| work.populates_per_turn, 3)?,
            both(|work| work.turn_us, 1)?,
            ratio.median,
            ratio.min,
            ratio.max,
            both(|work| 100.0 * work.waited, 1)?,
            sum(|work| work.from_disk),
            sum(|work| work.major_faults),
        ))
    }
}

impl Row {
    /// What the CPUs did, of all pairs, judged or not.
    fn machine_line(&self) -> Result<String> {
        let both = |of: &[(Window, Window)], what: fn(&Window) -> f64| {
            let percent = |values: Vec<f64>| -> String {
                Spread::of(values).map_or("–".into(), |spread| format!("{:.1}", 100.0 * spread.median))
            };
            let alone = of.iter().map(|(alone, _)| what(alone)).collect();
            let beside = of.iter().map(|(_, beside)| what(beside)).collect();
            format!("{}, {}", percent(alone), percent(beside))
        };
        let count = |what: fn(&Window) -> usize| {
            let sum = self
                .pairs
                .iter()
                .fold((0, 0), |sum, (alone, beside)| (sum.0 + what(alone), sum.1 + what(beside)));
            format!("{}, {}", sum.0, sum.1)
        };
        let p99 =
            |what: fn(&(Window, Window)) -> f64| self.of(what).map(|spread| format!("{:.0}", spread.median));
        Ok(format!(
            "| {} | {}, {} | {} | {} | {} | {} | {} | {} | {} | {} | {}, {} | {:.2} |",
            self.name,
            self.pairs.len(),
            self.disturbed.len(),
            both(&self.pairs, |window| window.latency.disturbed),
            both(&self.disturbed, |window| window.latency.disturbed),
            count(|window| window.seen.stolen_stalls.len()),
            count(|window| window.seen.own_stalls.len()),
            both(&self.pairs, |window| window.seen.stalled[0]),
            both(&self.pairs, |window| window.seen.stolen[0]),
            both(&self.pairs, |window| window.seen.stalled[1]),
            both(&self.pairs, |window| window.seen.stolen[1]),
            p99(|(alone, _)| alone.latency.p99_of_all)?,
            p99(|(_, beside)| beside.latency.p99_of_all)?,
            self.of(|(alone, beside)| beside.latency.p99_unstalled / alone.latency.p99_unstalled)?.median,
        ))
    }
}

fn report(options: &Options, (cpu, client): (usize, usize), rows: &[Row]) -> Result<()> {
    ensure!(!rows.is_empty(), "no load has such a name");
    println!(
        "\n{} hot hits of 1 KiB a second over {} connections; medians (extremes) of up to {} pairs of windows of {} s; node on CPU {cpu}, client and loads on CPU {client}; Linux {}, {}\n",
        options.rate,
        options.connections,
        options.rounds,
        options.seconds,
        machine::kernel(),
        machine::processor(),
    );
    println!(
        "| beside | p50 µs alone | beside | p99 µs alone | beside | p99 × alone | bound | node's CPU alone, beside | its anonymous memory, MiB | a second |\n|---|---|---|---|---|---|---|---|---|---|"
    );
    // A load begins before its window does.
    let seconds = f64::from(options.seconds) + SETTLE.as_secs_f64();
    for row in rows {
        println!("{}", row.line(seconds)?);
    }
    println!(
        "\nThe worker in the same windows (medians, alone and beside). What a hot hit may find before it in the worker is a turn; what it waits for beyond that is the CPU, which others share here.\n"
    );
    println!(
        "| beside | turns a second | hits in a turn | reads from the disk begun in a turn | µs on its CPU a turn | × alone | % of the time ready and without a CPU | hits from the disk | major faults |\n|---|---|---|---|---|---|---|---|---|"
    );
    for row in rows {
        println!("{}", row.worker_line()?);
    }
    println!(
        "\nThe machine (medians of %, alone and beside). Requests that met a CPU while the host had taken it are left out above, and pairs with more than {:.0} % of them: of the times a CPU stood still the longest, as many as /proc/stat counts as stolen from it in the window. Where it stood still for longer than that, our own kernel held it, and requests that met that count.\n",
        100.0 * DISTURBED_MAX
    );
    println!(
        "| beside | pairs judged, left out | requests left out | in pairs left out | stalls of the host | our own | node's CPU stood still | was stolen | client's CPU stood still | was stolen | p99 µs with all requests | p99 × without any that met a stall |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
    );
    for row in rows {
        println!("{}", row.machine_line()?);
    }
    println!();
    let mut missed = Vec::new();
    for row in rows {
        if row.ratio()?.median > row.bound {
            missed.push(row.name);
        }
    }
    ensure!(missed.is_empty(), "p99 beside these is more than its bound: {}", missed.join(", "));
    process::proceed()
}
