//! Where the demo's programs run: three network namespaces joined by veth pairs, or, without the rights for
//! that, the loopback of this machine. Names carry our process id; what a killed demo left is removed.
#![forbid(unsafe_code)]

use crate::process;
use anyhow::{Context, Result};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;

const PREFIX: &str = "edge-demo-";
/// 198.18.0.0/15 is set aside for benchmarks (RFC 2544): no route of this machine is in its way.
const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 2);
const EDGE_TO_CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 1);
const EDGE_TO_ORIGIN: Ipv4Addr = Ipv4Addr::new(198, 18, 2, 1);
const ORIGIN: Ipv4Addr = Ipv4Addr::new(198, 18, 2, 2);
/// Edge's end of the pair towards the client: where XDP is attached.
const EDGE_INTERFACE: &str = "client0";

/// One of the three machines of the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Where wrk and curl run.
    Client,
    /// Where the node runs.
    Edge,
    /// Where nginx serves the files.
    Origin,
}

impl Place {
    const ALL: [Place; 3] = [Place::Client, Place::Edge, Place::Origin];

    fn name(self) -> &'static str {
        match self {
            Place::Client => "client",
            Place::Edge => "edge",
            Place::Origin => "origin",
        }
    }

    fn namespace(self) -> String {
        format!("{PREFIX}{}-{}", std::process::id(), self.name())
    }
}

/// The network of a demo; namespaces are removed with it.
pub struct Net {
    is_namespaces: bool,
}

impl Net {
    /// Three namespaces: client — edge — origin.
    pub fn namespaces() -> Result<Self> {
        sweep();
        // From here on a failure removes what was made.
        let net = Net { is_namespaces: true };
        for place in Place::ALL {
            ip(&["netns", "add", &place.namespace()])?;
            ip(&["-n", &place.namespace(), "link", "set", "lo", "up"])?;
        }
        net.join(Place::Client, EDGE_INTERFACE, CLIENT, EDGE_TO_CLIENT)?;
        net.join(Place::Origin, "origin0", ORIGIN, EDGE_TO_ORIGIN)?;
        // A veth hands packets over without TCP checksums; XDP's redirect to another CPU would lose the mark
        // that says so, and the kernel would drop them. So the client's end computes them.
        let mut ethtool = net.command(Place::Client, "ethtool");
        process::output(ethtool.args(["-K", "edge0", "tx", "off"]))?;
        Ok(net)
    }

    /// No namespaces: everything on 127.0.0.1.
    pub fn loopback() -> Self {
        Net { is_namespaces: false }
    }

    /// A veth pair between a place, whose end is `edge0`, and the edge.
    fn join(&self, place: Place, interface: &str, far: Ipv4Addr, near: Ipv4Addr) -> Result<()> {
        let (there, here) = (place.namespace(), Place::Edge.namespace());
        ip(&[
            "-n", &there, "link", "add", "edge0", "type", "veth", "peer", "name", interface, "netns", &here,
        ])?;
        for (namespace, name, address) in [(&there, "edge0", far), (&here, interface, near)] {
            ip(&["-n", namespace, "address", "add", &format!("{address}/24"), "dev", name])?;
            ip(&["-n", namespace, "link", "set", name, "up"])?;
        }
        Ok(())
    }

    /// A command that runs there. Only the network changes: `ip netns exec` would hide the BPF file system.
    pub fn command(&self, place: Place, program: &str) -> Command {
        if !self.is_namespaces {
            return Command::new(program);
        }
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", place.namespace())).arg(program);
        command
    }

    /// What a user types in front of a command to run it there.
    pub fn prefix(&self, place: Place) -> String {
        if self.is_namespaces { format!("sudo ip netns exec {} ", place.namespace()) } else { String::new() }
    }

    /// Where a place is reached: the edge by the client, the origin by the edge.
    pub fn address(&self, place: Place, port: u16) -> SocketAddr {
        let address = match place {
            _ if !self.is_namespaces => Ipv4Addr::LOCALHOST,
            Place::Client => CLIENT,
            Place::Edge => EDGE_TO_CLIENT,
            Place::Origin => ORIGIN,
        };
        SocketAddr::from((IpAddr::from(address), port))
    }

    /// The interface of the edge towards the client, where there is one of our own.
    pub fn interface(&self) -> Option<&'static str> {
        self.is_namespaces.then_some(EDGE_INTERFACE)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        if self.is_namespaces {
            for place in Place::ALL {
                remove(&place.namespace());
            }
        }
    }
}

fn ip(arguments: &[&str]) -> Result<String> {
    process::output(Command::new("ip").args(arguments)).context("setting up the demo's network")
}

/// Deletes a namespace and, with it, its ends of veth pairs. Also while the user waits for us to stop, so
/// nothing here asks whether to proceed.
fn remove(namespace: &str) {
    // It may not exist: a set-up that failed half-way removes all three.
    let _ =
        Command::new("ip").args(["netns", "delete", namespace]).stderr(std::process::Stdio::null()).status();
}

/// Removes namespaces of demos that were killed, and ends what still runs in them.
fn sweep() {
    let names = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    for name in names.filter(|name| owner(name).is_some_and(|pid| !process::is_running(pid))) {
        eprintln!("removing {name}, left by a demo that was killed");
        for pid in processes_in(&name) {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        remove(&name);
    }
}

/// The process that made a namespace of that name, if a demo did.
fn owner(name: &str) -> Option<u32> {
    let (pid, place) = name.strip_prefix(PREFIX)?.split_once('-')?;
    Place::ALL.iter().any(|known| known.name() == place).then(|| pid.parse().ok())?
}

fn processes_in(namespace: &str) -> Vec<nix::unistd::Pid> {
    let listed = Command::new("ip").args(["netns", "pids", namespace]).output();
    let text = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().filter_map(|line| line.trim().parse().ok()).map(nix::unistd::Pid::from_raw).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_namespaces_of_demos_have_an_owner() {
        assert_eq!(owner("edge-demo-123-client"), Some(123));
        for other in
            ["edge-demo-123", "edge-demo-x-client", "edge-demo-1-other", "demo-1-client", "edge-demo--edge"]
        {
            assert_eq!(owner(other), None, "{other}");
        }
    }

    #[test]
    fn loopback_needs_no_namespace() {
        let net = Net::loopback();
        assert_eq!(net.address(Place::Edge, 80).to_string(), "127.0.0.1:80");
        assert_eq!(net.prefix(Place::Client), "");
        assert_eq!(net.command(Place::Origin, "true").get_program(), "true");
    }
}
