//! Connection steering: the packets of a connection are processed on the CPU of the worker that owns
//! it. Loads and attaches the BPF programs, fills their maps, and says which mode runs and why not a
//! better one. No packet passes through here, and no failure here keeps the node from serving.
//!
//! The ladder, best first; a step that is refused is logged and shown with its reason:
//!
//! | step        | needs                              | effect                                          |
//! |-------------|------------------------------------|-------------------------------------------------|
//! | `native`    | a driver with XDP                  | the XDP program runs in the driver              |
//! | `generic`   | `mode = "generic"`                 | it runs in the network stack: slow, for tests   |
//! | `rss`       | queues and interrupts match CPUs   | the NIC chooses the CPU                         |
//! | `cpumap`    | an attached XDP program            | packets are redirected to their bucket's CPU    |
//! | `rps`       | an interface                       | the kernel moves packets to a worker's CPU      |
//! | `pick`      | CAP_BPF and CAP_NET_ADMIN          | the socket of the processing CPU accepts        |
//! | `classic`   | nothing                            | the same by a classic BPF filter                |
//! | `hash`      | nothing                            | the kernel's hash chooses the socket            |
//!
//! `pick` and the rows below it are per listening address and always on; the rows above need `[xdp]`.
#![forbid(unsafe_code)]

mod attach;
mod object;
mod pick;
mod report;
mod system;

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::path::Path;

use crate::config;
use attach::Attached;
pub use object::{Globals, OBJECT, cpu_count, load, service};
pub use report::{Counters, CpuCounters, ListenerReport, Outcome, Report, Step, Steps};

/// The steering of one node. Dropping it detaches what it attached and restores what it changed;
/// after a kill the kernel detaches the XDP program by itself, as nothing is pinned.
pub struct Steering {
    cpus: Vec<usize>,
    interface: Option<String>,
    /// Whether the operator's settings, or hardware that needs none, decide instead of a program.
    kind: Kind,
    attached: Option<Attached>,
    rps: Option<system::Rps>,
    listeners: Vec<pick::Listener>,
    steps: Steps,
}

/// What moves packets to CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The NIC's receive queues.
    Rss,
    /// The XDP program.
    Cpumap,
    /// The kernel's receive packet steering.
    Rps,
    /// Nothing: packets are processed where they arrive.
    None,
}

/// Starts steering on the configured interface for workers on `cpus`, each CPU once. Without a
/// configuration, or when everything is refused, the sockets joined later are still picked by CPU.
pub fn start(config: Option<&config::Xdp>, services: &[SocketAddr], cpus: &[usize]) -> Steering {
    let mut steering = Steering {
        cpus: cpus.to_vec(),
        interface: config.map(|xdp| xdp.interface.clone()),
        kind: Kind::None,
        attached: None,
        rps: None,
        listeners: Vec::new(),
        steps: Steps::default(),
    };
    match config {
        Some(config) => steering.climb(config, services),
        None => {
            steering.steps.skipped("xdp", "the configuration has no [xdp] section; it names the interface")
        }
    }
    steering
}

impl Steering {
    /// Tries the steps that belong to the interface.
    fn climb(&mut self, config: &config::Xdp, services: &[SocketAddr]) {
        if nix::net::if_::if_nametoindex(config.interface.as_str()).is_err() {
            let reason = format!(
                "there is no interface {}; `ip link` lists those of this network namespace",
                config.interface
            );
            return self.steps.refused("xdp", reason);
        }
        let wanted = self.wanted(config);
        self.attached = match config.mode {
            config::XdpMode::Off => {
                self.steps.skipped("native", "[xdp] mode is \"off\"");
                None
            }
            config::XdpMode::Generic => {
                self.steps.skipped("native", "[xdp] mode is \"generic\"");
                self.attach("generic", config, wanted)
            }
            config::XdpMode::Auto | config::XdpMode::Native => {
                let attached = self.attach("native", config, wanted);
                if attached.is_none() {
                    self.steps.skipped("generic", "slow; [xdp] mode = \"generic\" asks for it");
                }
                attached
            }
        };
        let is_redirecting = self.attached.as_ref().is_some_and(Attached::is_redirecting);
        self.kind = match wanted {
            Kind::Cpumap if is_redirecting => Kind::Cpumap,
            // An operator who turned XDP off wants the interface left alone unless RPS is named.
            Kind::Cpumap
                if config.mode == config::XdpMode::Off && config.steering == config::Steering::Auto =>
            {
                Kind::None
            }
            Kind::Cpumap | Kind::Rps => self.start_rps(&config.interface),
            Kind::Rss | Kind::None => wanted,
        };
        for service in services.iter().filter(|service| service.port() != 0) {
            self.serve(*service);
        }
    }

    /// Resolves `auto`.
    fn wanted(&mut self, config: &config::Xdp) -> Kind {
        let fit = || system::rss_fits(Path::new("/sys"), Path::new("/proc"), &config.interface, &self.cpus);
        match config.steering {
            config::Steering::Off => {
                self.steps.skipped("cpumap", "[xdp] steering is \"off\"");
                Kind::None
            }
            config::Steering::Cpumap => Kind::Cpumap,
            config::Steering::Rps => Kind::Rps,
            config::Steering::Rss => {
                match fit() {
                    Ok(()) => self.steps.taken("rss", "receive queues and interrupts match the workers"),
                    Err(reason) => self.steps.taken("rss", format!("as configured, although {reason}")),
                }
                Kind::Rss
            }
            config::Steering::Auto => match fit() {
                Ok(()) => {
                    self.steps.taken("rss", "receive queues and interrupts match the workers");
                    Kind::Rss
                }
                Err(reason) => {
                    self.steps.refused("rss", reason);
                    Kind::Cpumap
                }
            },
        }
    }

    /// Attaches the XDP program and records the steps this took.
    fn attach(&mut self, step: &'static str, config: &config::Xdp, wanted: Kind) -> Option<Attached> {
        match Attached::new(step, &config.interface, wanted == Kind::Cpumap, &self.cpus, &mut self.steps) {
            Ok(attached) => {
                self.steps.taken(step, format!("the XDP program runs on {}", config.interface));
                Some(attached)
            }
            Err(reason) => {
                self.steps.refused(step, reason);
                None
            }
        }
    }

    fn start_rps(&mut self, interface: &str) -> Kind {
        match system::Rps::start(Path::new("/sys"), interface, &self.cpus) {
            Ok(rps) => {
                self.rps = Some(rps);
                self.steps.taken("rps", format!("receive packet steering of {interface} covers the workers"));
                Kind::Rps
            }
            Err(reason) => {
                self.steps.refused("rps", reason);
                Kind::None
            }
        }
    }

    /// Lets the XDP program touch packets to this address.
    fn serve(&mut self, address: SocketAddr) {
        let Some(attached) = &mut self.attached else {
            return;
        };
        if let Err(reason) = attached.serve(address) {
            self.steps.refused("service", format!("{address} is not steered: {reason}"));
        }
    }

    /// Joins the listening sockets of one address, each with the CPU of its worker, in the order in
    /// which they began to listen: the classic filter knows sockets by that order. Call it once per
    /// address, when all its sockets listen.
    pub fn join(&mut self, address: SocketAddr, sockets: &[(usize, BorrowedFd<'_>)]) {
        let Some((_, first)) = sockets.first() else {
            return;
        };
        self.serve(address);
        if address.is_ipv6() && address.ip().is_unspecified() && !crate::sys::steering::is_ipv6_only(*first) {
            self.serve(SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), address.port()));
        }
        let listener = pick::Listener::join(address, sockets, &mut self.steps);
        self.listeners.push(listener);
    }

    /// What runs, why not better, and what the programs counted.
    pub fn report(&self) -> Report {
        let mut per_cpu: Vec<edge_ebpf::Cells> = Vec::new();
        let rows = self.attached.iter().map(Attached::counters);
        for row in rows.chain(self.listeners.iter().map(pick::Listener::counters)) {
            per_cpu.resize(per_cpu.len().max(row.len()), edge_ebpf::Cells::ZERO);
            for (sum, cells) in per_cpu.iter_mut().zip(row) {
                for (total, n) in sum.0.iter_mut().zip(cells.0) {
                    *total += n;
                }
            }
        }
        Report::new(self, &per_cpu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The admin endpoint reads the report from another thread than the one that started it.
    #[test]
    fn steering_crosses_threads() {
        fn check<T: Send + Sync>() {}
        check::<Steering>();
    }

    #[test]
    fn without_configuration_the_reason_is_given() {
        let steering = start(None, &[], &[0]);
        let report = steering.report();
        assert_eq!((report.xdp, report.steering), ("none", Kind::None));
        assert!(report.steps[0].reason.contains("[xdp]"), "{report:?}");
    }

    #[test]
    fn an_unknown_interface_does_not_fail_the_boot() {
        let config = config::Xdp {
            interface: "nosuchif0".into(),
            mode: config::XdpMode::Auto,
            steering: config::Steering::Auto,
        };
        let report = start(Some(&config), &["127.0.0.1:80".parse().unwrap()], &[0]).report();
        assert_eq!(report.xdp, "none");
        assert!(report.steps[0].reason.contains("no interface nosuchif0"), "{report:?}");
    }
}
