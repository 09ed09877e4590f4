//! Boot, in one visible order: configuration → preflight → memory → steering → threads → signals. After that the
//! main thread only waits for signals and watches that every worker advances.
#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use edge::config::{self, Config};
use edge::control::certificates::Certificates;
use edge::control::mailbox::{Mailbox, ToControl, ToWorker};
use edge::preflight::kernel_tls::KernelTls;
use edge::stats::{Cells, Counter};
use edge::sys::signals::{Request, Signals};
use edge::worker::Setup;
use edge::worker::clients::Clients;
use edge::{cli, clock, control, notify, preflight, shard, sys, worker, worst_case, xdp};
use serde_json::json;
use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tracing::{info, warn};

fn main() -> ExitCode {
    cli::execute(cli::parse(), |path, config| match serve(path, config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let remedy = remedy(&error).map_or(String::new(), |remedy| format!("; {remedy}"));
            eprintln!("edge: {error:#}{remedy}");
            ExitCode::FAILURE
        }
    })
}

/// What helps where the kernel ran out of something, whoever asked for it.
fn remedy(error: &anyhow::Error) -> Option<&'static str> {
    let number =
        |cause: &(dyn std::error::Error + 'static)| cause.downcast_ref::<std::io::Error>()?.raw_os_error();
    match error.chain().find_map(number)? {
        nix::libc::EMFILE => Some("raise LimitNOFILE= of the unit"),
        nix::libc::ENOMEM => Some("raise LimitMEMLOCK= or MemoryMax= of the unit, or free memory"),
        _ => None,
    }
}

fn serve(path: &Path, config: Config) -> Result<()> {
    let log = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let is_terminal = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(log)
        .with_writer(std::io::stderr)
        .with_ansi(is_terminal)
        .with_target(false)
        .init();
    config.warnings.iter().for_each(|warning| warn!("{warning}"));
    let signals = Signals::block().context("block signals")?;
    let config = Arc::new(config);
    let cpus = worker_cpus(&config)?;
    let connections_max = look_over(&config, &cpus)?;
    let certificates = Certificates::load(&config).map_err(anyhow::Error::msg).context("certificates")?;

    let shard = |shard: &config::Shard| shard::Options {
        path: shard.path.clone(),
        size_bytes: shard.size_bytes,
        object_bytes: shard.object_bytes,
        readers: cpus.len(),
        state: shard.state.clone(),
        hold: shard.hold,
        cpus: cpus.clone(),
        progress: notify::starting,
    };
    let shards: Vec<_> = config.store.iter().map(shard).collect();
    let (mut writer, readers, opened) = shard::open(&shards)?;
    writer.shards().for_each(|shard| info!("{}: {shard}", shard.path.display()));
    let purges = control::purge::open(&mut writer)?;
    announce_memory(&config, cpus.len(), &writer.usage());
    writer.sweep().context("start the thread that watches memory")?;

    let plain = config.http.iter().map(|&address| (address, None));
    let tls = certificates.addresses().iter().enumerate().map(|(number, &address)| (address, Some(number)));
    let addresses: Vec<(SocketAddr, Option<usize>)> = plain.chain(tls).collect();
    let served: Vec<SocketAddr> = addresses.iter().map(|(address, _)| *address).collect();
    let mut steering = xdp::start(config.xdp.as_ref(), &served, &cpus);
    let mut listeners: Vec<Listeners> = cpus.iter().map(|_| Vec::new()).collect();
    for &(address, policy) in &addresses {
        listen(address, policy, &cpus, &mut steering, &mut listeners)?;
    }
    let kernel_tls = kernel_tls(&config);
    // What follows needs no privilege: descriptors are open, programs attached, memory mapped.
    sys::privilege::drop_all().context("drop capabilities")?;

    let cells: Vec<Arc<Cells>> = cpus.iter().map(|_| Arc::default()).collect();
    let mailboxes = cpus.iter().map(|_| Mailbox::new()).collect::<std::io::Result<Vec<_>>>()?;
    let drain = Arc::new(AtomicBool::new(false));
    let unlimited = config.clients.unlimited_clients.clone();
    let per_client = config.clients.connections_per_client;
    let clients = Arc::new(Clients::new(cpus.len() * connections_max, per_client, unlimited));
    let mut workers = Vec::new();
    for (((number, &cpu), reader), listeners) in cpus.iter().enumerate().zip(readers).zip(listeners) {
        let setup = Setup {
            number: number as u16,
            cpu,
            listeners,
            policies: certificates.policies(),
            kernel_tls: kernel_tls.usable,
            connections_max,
            http2_connections_max: config.clients.http2_connections_max,
            clients: clients.clone(),
            http2_cleartext: config.http2_cleartext,
            timeouts: config.clients.timeouts,
            queries: config.queries(),
            transport: config.transport(),
            trusted: config.trusted_proxies.as_slice().into(),
            reader,
            purges: purges.table(),
            mailbox: mailboxes[number].clone(),
            cells: cells[number].clone(),
            drain: drain.clone(),
        };
        workers.push(worker::spawn(setup).with_context(|| format!("start worker {number} on CPU {cpu}"))?);
    }
    let (threads, rings): (Vec<_>, Vec<_>) = workers.into_iter().unzip();

    let ring = rings.first().copied();
    let steering = Mutex::new(steering);
    let shown_cells = cells.clone();
    let shown_cpus = cpus.clone();
    let control = control::spawn(control::Start {
        config: config.clone(),
        certificates,
        writer,
        opened,
        purges,
        mailboxes,
        worker_cells: cells.clone(),
        cells: Arc::default(),
        drain: drain.clone(),
        status: Box::new(move || {
            json!({
                "workers": workers_status(&shown_cpus, &shown_cells),
                "ring": ring,
                "kernel_tls": kernel_tls_status(&kernel_tls, &shown_cells),
                "steering": steering.lock().unwrap_or_else(PoisonError::into_inner).report(),
            })
        }),
    })
    .context("start the control thread")?;

    notify::ready(&format!("{} workers", cpus.len()));
    info!("serving on {served:?} with workers on CPUs {cpus:?}");
    wait(&signals, path, &config, &control, &cells)?;

    notify::stopping();
    info!("draining");
    drain.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().map_err(|_| anyhow::anyhow!("a worker panicked"))?;
    }
    control.stop().context("stop the control thread")?;
    info!("stopped");
    Ok(())
}

/// Whether the kernel seals records; loads its modules where that is allowed.
fn kernel_tls(config: &Config) -> KernelTls {
    let found = match (config.https.is_empty(), config.tls.kernel) {
        (true, _) => return KernelTls::off("no address speaks TLS"),
        (_, false) => return KernelTls::off("[tls] kernel is not \"auto\""),
        _ => KernelTls::probe(),
    };
    info!("TLS in the kernel: {} {} {}", found.state, found.ciphers.join(", "), found.reason);
    found
}

/// One worker for each CPU: those configured, else all the process may use.
fn worker_cpus(config: &Config) -> Result<Vec<usize>> {
    let allowed = sys::cpu::allowed().context("read the CPUs this process may use")?;
    let Some(wanted) = &config.cpus else { return Ok(allowed) };
    if let Some(cpu) = wanted.iter().find(|cpu| !allowed.contains(cpu)) {
        anyhow::bail!(
            "[node] cpus names CPU {cpu}, but this process may only use {allowed:?}: change cpus, or AllowedCPUs= of the unit"
        );
    }
    Ok(wanted.clone())
}

/// Says what the machine lacks, raises what may be raised, and returns how many connections a worker can have.
fn look_over(config: &Config, cpus: &[usize]) -> Result<usize> {
    let nofile = preflight::nofile_needed(cpus.len(), &config.clients);
    let nofile = preflight::raise_nofile(nofile).context("raise the limit of descriptors")?;
    preflight::raise_memlock();
    // Several certificates may share an address.
    let addresses: BTreeSet<_> =
        config.http.iter().copied().chain(config.https.iter().map(|entry| entry.address)).collect();
    let shards = config.store.iter().map(|shard| shard.path.as_path());
    let machine = preflight::probe(shards, addresses.into_iter());
    for finding in preflight::judge(&machine, config) {
        if finding.severity == preflight::Severity::Fatal {
            anyhow::bail!("{finding}");
        }
        warn!("{finding}");
    }
    Ok(config.clients.connections_max.min(nofile as usize))
}

fn announce_memory(config: &Config, workers: usize, usage: &shard::Usage) {
    let shape = worst_case::Shape {
        workers,
        connections_max: config.clients.connections_max,
        tunnels_max: config.clients.tunnels_max,
        http2_connections_max: match config.http2_cleartext || !config.https.is_empty() {
            true => config.clients.http2_connections_max,
            false => 0,
        },
        connection_bytes: worker::CONNECTION_BYTES,
        clients_bytes: Clients::bytes(workers * config.clients.connections_max),
        tls: !config.https.is_empty(),
        to_control_message_bytes: size_of::<ToControl>(),
        to_worker_message_bytes: size_of::<ToWorker>(),
        index_bytes: usage.index_bytes,
        policy_bytes: usage.policy_bytes,
        residency_bytes: usage.residency_bytes,
        parked_bytes: worker::PARKED_BYTES,
        sample_bytes: shard::SAMPLE_BYTES,
        shards: config.store.len(),
    };
    info!("memory at worst:\n{}", worst_case::announce(&worst_case::worst_case(&shape)));
}

/// Listening sockets of a worker, and which policy of TLS each follows.
type Listeners = Vec<(OwnedFd, Option<usize>)>;

/// One socket for each worker, in the workers' order: a classic steering filter counts them so.
fn listen(
    address: SocketAddr,
    policy: Option<usize>,
    cpus: &[usize],
    steering: &mut xdp::Steering,
    listeners: &mut [Listeners],
) -> Result<()> {
    let socket = || sys::socket::listener(address).with_context(|| format!("listen on {address}"));
    let sockets = cpus.iter().map(|_| socket()).collect::<Result<Vec<_>>>()?;
    let joined: Vec<_> = cpus.iter().copied().zip(sockets.iter().map(AsFd::as_fd)).collect();
    steering.join(address, &joined);
    for (own, socket) in listeners.iter_mut().zip(sockets) {
        own.push((socket, policy));
    }
    Ok(())
}

fn workers_status(cpus: &[usize], cells: &[Arc<Cells>]) -> serde_json::Value {
    let worker = |(number, (cpu, cells)): (usize, (&usize, &Arc<Cells>))| {
        json!({
            "worker": number,
            "cpu": cpu,
            "connections": cells.get(Counter::Accepted) - cells.get(Counter::Closed).min(cells.get(Counter::Accepted)),
            "accepted": cells.get(Counter::Accepted),
            "requests": cells.get(Counter::Requests),
            "hits": cells.get(Counter::Hits),
            "ring_enters": cells.get(Counter::Enters),
            "connections_sampled": cells.get(Counter::ConnectionsSampled),
            "connections_on_own_cpu": cells.get(Counter::ConnectionsLocal),
            "requests_sampled": cells.get(Counter::LocalitySampled),
            "requests_on_own_cpu": cells.get(Counter::LocalityLocal),
        })
    };
    cpus.iter().zip(cells).enumerate().map(worker).collect()
}

fn kernel_tls_status(found: &KernelTls, cells: &[Arc<Cells>]) -> serde_json::Value {
    let sum = |counter| cells.iter().map(|cells| cells.get(counter)).sum::<u64>();
    json!({
        "state": found.state,
        "reason": found.reason,
        "ciphers": found.ciphers,
        "connections": sum(Counter::TlsKernel),
        "connections_refused": sum(Counter::TlsKernelRefused),
        "connections_ended": sum(Counter::TlsKernelEnded),
        "sent_bytes": sum(Counter::TlsKernelBytes),
    })
}

/// Serves signals until one asks to stop, and feeds the watchdog while every worker advances.
fn wait(
    signals: &Signals,
    path: &Path,
    config: &Config,
    control: &control::Handle,
    cells: &[Arc<Cells>],
) -> Result<()> {
    let period = notify::watchdog_period().unwrap_or(Duration::from_secs(1)).min(Duration::from_secs(1));
    let mut watch = notify::Watch::new(cells.len(), clock::now());
    let mut stuck = false;
    loop {
        match signals.next(period)? {
            Some(Request::Stop) => return Ok(()),
            Some(Request::Reload) => reload(path, config, control),
            None => {}
        }
        let verdict = watch.look(cells.iter().map(|cells| cells.get(Counter::Enters)), clock::now());
        if let notify::Verdict::Stuck(workers) = &verdict
            && !std::mem::replace(&mut stuck, true)
        {
            warn!("workers {workers:?} do not advance; the watchdog is not fed any more");
        }
        stuck &= verdict != notify::Verdict::Advancing;
        notify::feed(&verdict);
    }
}

/// A file that is wrong changes nothing and is reported.
fn reload(path: &Path, running: &Config, control: &control::Handle) {
    let new = match config::load(path) {
        Ok(new) => new,
        Err(problems) => return warn!("reload: nothing was changed:\n{problems}"),
    };
    new.warnings.iter().for_each(|warning| warn!("{warning}"));
    for what in running.needs_restart(&new) {
        warn!("reload: {what} changed and takes effect at a restart");
    }
    match control.reload(Arc::new(new)) {
        Ok(()) => info!("reload: origins, routes and certificates are in force"),
        Err(error) => warn!("reload: nothing was changed: {error}"),
    }
}
