//! Which listening socket accepts: the one of the CPU that processes the packet. By the `pick` program,
//! else by a classic BPF filter, else by the kernel's hash. XDP is no concern of this file.

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use aya::Ebpf;
use aya::maps::{MapData, ReusePortSockArray};
use aya::programs::SkReuseport;
use edge_ebpf::{Cells, STEERING_COUNT};

use super::object::{self, Globals, reason};
use super::report::Steps;
use crate::sys;

/// The listening sockets of one address. The kernel keeps the attached program as long as one of them
/// listens, so dropping this ends only the counting.
pub struct Listener {
    pub(super) address: SocketAddr,
    /// `pick`, `classic` or `hash`.
    pub(super) choice: &'static str,
    /// Why nothing better was to be had.
    pub(super) reason: String,
    pub(super) cpus: Vec<usize>,
    bpf: Option<Ebpf>,
}

impl Listener {
    /// Attaches the best that is to be had to the group of `sockets`.
    pub(super) fn join(
        address: SocketAddr,
        sockets: &[(usize, BorrowedFd<'_>)],
        steps: &mut Steps,
    ) -> Listener {
        let cpus: Vec<usize> = sockets.iter().map(|(cpu, _)| *cpu).collect();
        let listener = |choice, reason, bpf| Listener { address, choice, reason, cpus: cpus.clone(), bpf };
        let refused = match attach(sockets) {
            Ok(bpf) => {
                steps.taken("pick", format!("{address}: the socket of the processing CPU accepts"));
                return listener("pick", String::new(), Some(bpf));
            }
            Err(reason) => reason,
        };
        steps.refused("pick", format!("{address}: {refused}"));
        match sys::steering::attach_cpu_filter(sockets[0].1, &cpus) {
            Ok(()) => {
                steps.taken("classic", format!("{address}: a classic filter chooses the socket of the CPU"));
                listener("classic", refused, None)
            }
            Err(error) => {
                steps.refused("classic", format!("{address}: {error}; the kernel's hash chooses the socket"));
                listener("hash", format!("{refused}; classic filter: {error}"), None)
            }
        }
    }

    /// The counters, one row per CPU; none without the program.
    pub(super) fn counters(&self) -> Vec<Cells> {
        self.bpf.as_ref().map(object::counters).unwrap_or_default()
    }
}

/// Fills a fresh socket array and attaches a fresh copy of the program. Each address needs its own:
/// a program can only choose among the sockets of the group it runs for.
fn attach(sockets: &[(usize, BorrowedFd<'_>)]) -> Result<Ebpf, String> {
    let mut bpf = object::load(Globals::new(STEERING_COUNT), object::cpu_count())?;
    let map = bpf.map_mut("SOCKETS").ok_or("the object has no map SOCKETS")?;
    let mut array = ReusePortSockArray::<&mut MapData>::try_from(map).map_err(|error| reason(&error))?;
    for (cpu, socket) in sockets {
        array
            .set(*cpu as u32, socket, 0)
            .map_err(|error| format!("socket of CPU {cpu}: {}", reason(&error)))?;
    }
    let program = bpf.program_mut("pick").ok_or("the object has no program pick")?;
    let program: &mut SkReuseport = program.try_into().map_err(|error| reason(&error))?;
    program.load().map_err(|error| reason(&error))?;
    program.attach(sockets[0].1).map_err(|error| reason(&error))?;
    Ok(bpf)
}
