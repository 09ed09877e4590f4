//! `cargo xtask demo`: a newcomer's first look. A client, a node and a real origin in namespaces of their
//! own; misses and hits of real files; wrk for a few seconds; where the packets went; then the same without
//! XDP. Everything is removed at the end, however it ends.
#![forbid(unsafe_code)]

mod net;
mod show;

use crate::node::Node;
use crate::process::{self, Scratch, Server, step};
use crate::{build, http, machine, setup};
use anyhow::{Context, Result, bail};
use clap::Args;
use net::{Net, Place};
use serde_json::Value;
use show::Load;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

const START: Duration = Duration::from_secs(20);
/// Share of connections and of requests that native XDP must bring to the CPU of their worker.
const LOCAL_SHARE_MIN: f64 = 0.99;
/// Objects of the origin: name and bytes. wrk asks for all but the last two, which would only fill the link.
const OBJECTS: [(&str, usize); 6] = [
    ("style.css", 1 << 10),
    ("script.js", 16 << 10),
    ("page.html", 40 << 10),
    ("photo.jpg", 100 << 10),
    ("clip.mp4", 1 << 20),
    ("image.iso", 8 << 20),
];
const OBJECTS_UNDER_LOAD: usize = 4;

const EXAMPLES: &str = "Examples:
  cargo xtask demo                   until Ctrl-C, with addresses to try
  cargo xtask demo --once            the same, then the end
  cargo xtask demo --seconds 10      longer under load";

/// Options of the task.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// End after the show instead of waiting for Ctrl-C.
    #[arg(long)]
    once: bool,
    /// Seconds under load.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
}

/// The task.
pub fn run(options: &Options) -> Result<()> {
    step("What this machine has");
    setup::ensure(&setup::Need::Demo)?;
    step("Building edge (release); the first time takes a few minutes");
    build::release(&["edge", "benches"])?;
    machine::raise_open_files()?;

    step("Network");
    let net = network()?;
    let scratch = Scratch::create("demo")?;
    step("Origin: nginx with real files");
    let origin = Site::origin(&net, &scratch)?;
    let site = Site { net: &net, scratch: &scratch, origin: origin.1, ports: ports(&net)? };

    let with_xdp = site.show(Mode::Native, options.seconds)?;
    drop(with_xdp.server);
    let without = match net.interface() {
        Some(_) => Some(site.load_only(Mode::Off, options.seconds.min(3))?),
        None => None,
    };
    show::comparison(&with_xdp.load, without.as_ref());
    if with_xdp.is_native && with_xdp.load.local_share_min() < LOCAL_SHARE_MIN {
        bail!("with native XDP less than {LOCAL_SHARE_MIN} of the traffic was served on its own CPU");
    }
    if !options.once {
        site.stay()?;
    }
    drop(origin.0);
    step("Done; everything is removed");
    Ok(())
}

fn network() -> Result<Net> {
    let refused = if machine::is_root() {
        match Net::namespaces() {
            Ok(net) => {
                println!("three namespaces: client — edge — origin, joined by veth pairs");
                return Ok(net);
            }
            Err(error) => error,
        }
    } else {
        anyhow::anyhow!(
            "not root: namespaces and XDP need CAP_NET_ADMIN, CAP_SYS_ADMIN and CAP_BPF; use sudo"
        )
    };
    process::proceed()?;
    println!("{refused:#}\nServing on loopback instead, without namespaces and without XDP.");
    Ok(Net::loopback())
}

/// Ports of the node: HTTP and admin.
fn ports(net: &Net) -> Result<(u16, u16)> {
    match net.interface() {
        Some(_) => Ok((80, 9180)),
        None => Ok((http::free_port()?, http::free_port()?)),
    }
}

/// Whether XDP is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Native,
    Off,
}

/// All that stays while nodes come and go.
struct Site<'a> {
    net: &'a Net,
    scratch: &'a Scratch,
    origin: SocketAddr,
    ports: (u16, u16),
}

/// A node that has been shown and still runs.
struct Shown {
    server: Server,
    load: Load,
    is_native: bool,
}

impl Site<'_> {
    fn origin(net: &Net, scratch: &Scratch) -> Result<(Server, SocketAddr)> {
        let port = if net.interface().is_some() { 80 } else { http::free_port()? };
        let address = net.address(Place::Origin, port);
        let files = scratch.directory("files")?;
        for (name, bytes) in OBJECTS {
            std::fs::write(files.join(name), content(bytes))?;
        }
        let directory = scratch.directory("nginx")?.display().to_string();
        let user = if machine::is_root() { "user root;" } else { "" };
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("    {kind}_temp_path {directory}/{kind};\n"))
            .concat();
        let text = format!(
            "{user}\nworker_processes 1;\npid {directory}/pid;\nerror_log {directory}/error.log warn;\n\
             events {{}}\nhttp {{\n{temporary}    access_log {directory}/access.log;\n    sendfile on;\n    \
             server {{\n        listen {address};\n        root {};\n        \
             add_header Cache-Control \"public, max-age=3600\";\n    }}\n}}\n",
            files.display()
        );
        let file = scratch.write("nginx.conf", text)?;
        let program =
            machine::program("nginx").context("nginx is missing: `cargo xtask setup` installs it")?;
        let mut command = net.command(Place::Origin, &program.display().to_string());
        command.args(["-p", &directory, "-g", "daemon off;", "-c"]).arg(file);
        let server = Server::start("nginx", &command, &scratch.path("nginx.log"))?;
        let probe =
            || process::output(&mut fetch(net, Place::Edge, &format!("http://{address}/style.css"))).is_ok();
        server.wait_ready(START, probe)?;
        println!("nginx serves {} files on {address}", OBJECTS.len());
        Ok((server, address))
    }

    fn http(&self) -> SocketAddr {
        self.net.address(Place::Edge, self.ports.0)
    }

    /// Asks the admin listener, which is on the loopback of the node's namespace.
    fn admin(&self, path: &str) -> Result<String> {
        let url = format!("http://127.0.0.1:{}{path}", self.ports.1);
        process::output(&mut fetch(self.net, Place::Edge, &url))
    }

    fn status(&self) -> Result<Value> {
        serde_json::from_str(&self.admin("/status")?).context("reading /status")
    }

    fn start(&self, mode: Mode) -> Result<Server> {
        let xdp = self.net.interface().map(|interface| match mode {
            Mode::Native => (interface, "native"),
            Mode::Off => (interface, "off"),
        });
        let node = Node {
            cpus: String::new(),
            http: self.http().to_string(),
            admin: format!("127.0.0.1:{}", self.ports.1),
            origin: self.origin.to_string(),
            xdp,
            store_size: "256MiB",
        };
        let edge = node.command(self.scratch, "edge")?;
        let mut command = self.net.command(Place::Edge, &edge.get_program().to_string_lossy());
        command.args(edge.get_args());
        let server = Server::start("edge", &command, &self.scratch.path("edge.log"))?;
        server.wait_ready(START, || self.admin("/readyz").is_ok())?;
        println!("edge serves on {}", self.http());
        Ok(server)
    }

    /// Misses, hits, load, steering.
    fn show(&self, mode: Mode, seconds: u32) -> Result<Shown> {
        step("Node: edge");
        let server = self.start(mode)?;
        let is_native = show::steering(&self.status()?);
        step("Misses, then hits; every body compared with the origin's file");
        for (name, _) in OBJECTS {
            self.ask_twice(name)?;
        }
        step(&format!("wrk, {seconds} s, 64 connections, {OBJECTS_UNDER_LOAD} objects"));
        let load = self.load(&server, seconds)?;
        load.print();
        Ok(Shown { server, load, is_native })
    }

    fn load_only(&self, mode: Mode, seconds: u32) -> Result<Load> {
        step(&format!("The same node with XDP off, wrk for {seconds} s"));
        let server = self.start(mode)?;
        let load = self.load(&server, seconds)?;
        load.print();
        Ok(load)
    }

    fn ask_twice(&self, name: &str) -> Result<()> {
        let expected = show::sha256(&self.scratch.path("files").join(name))?;
        for (round, wanted) in ["miss", "hit"].into_iter().enumerate() {
            let (body, head) = (self.scratch.path("body"), self.scratch.path("head"));
            let mut curl = fetch(self.net, Place::Client, &format!("http://{}/{name}", self.http()));
            process::output(curl.arg("--output").arg(&body).arg("--dump-header").arg(&head))?;
            let status = show::field(&std::fs::read_to_string(&head)?, "cache-status");
            let got = show::sha256(&body)?;
            println!("{wanted:>4}  {name:<10} sha256 {}…  Cache-Status: {status}", &got[..16]);
            if got != expected {
                bail!("{name}: request {round} got other bytes than the origin's file");
            }
            let is_hit = status.split(';').any(|part| part.trim() == "hit");
            if is_hit != (wanted == "hit") {
                bail!(
                    "{name}: request {round} should have been a {wanted}, but Cache-Status says {status:?}"
                );
            }
        }
        Ok(())
    }

    fn load(&self, server: &Server, seconds: u32) -> Result<Load> {
        let script = self.scratch.write("paths.lua", include_str!("paths.lua"))?;
        let mut wrk = self.net.command(Place::Client, "wrk");
        wrk.args([
            "--threads",
            "1",
            "--connections",
            "64",
            "--latency",
            "--duration",
            &format!("{seconds}s"),
        ]);
        wrk.arg("--script").arg(script).arg(format!("http://{}/", self.http())).arg("--");
        wrk.args(OBJECTS[..OBJECTS_UNDER_LOAD].iter().map(|(name, _)| format!("/{name}")));
        let before = self.status()?;
        let report = process::output(&mut wrk)?;
        let after = self.status()?;
        Load::new(&report, &before, &after, &show::pinned(server.pid())?)
    }

    /// Leaves the node running until the user has seen enough.
    fn stay(&self) -> Result<()> {
        step("Node: edge, as at first; what it stored is still there");
        let server = self.start(Mode::Native)?;
        let (client, edge) = (self.net.prefix(Place::Client), self.net.prefix(Place::Edge));
        println!("\nTry, in another terminal:");
        for (name, _) in OBJECTS {
            println!("  {client}curl -sv -o /dev/null http://{}/{name}", self.http());
        }
        println!("  {client}wrk -t1 -c64 -d5s http://{}/{}", self.http(), OBJECTS[0].0);
        println!("  {edge}curl -s http://127.0.0.1:{}/status", self.ports.1);
        println!("  {edge}curl -s http://127.0.0.1:{}/metrics", self.ports.1);
        println!("\nCtrl-C ends it.");
        while process::sleep(Duration::from_secs(1)).is_ok() {
            server.alive()?;
        }
        Ok(())
    }
}

/// A quiet GET that fails unless it is answered with a success.
fn fetch(net: &Net, place: Place, url: &str) -> Command {
    let mut command = net.command(place, "curl");
    command.args(["--silent", "--show-error", "--fail", "--max-time", "20", url]);
    command
}

/// The bytes of a file: the same in every run.
fn content(bytes: usize) -> Vec<u8> {
    let line =
        |number: usize| format!("line {number:08} of a file that edge serves from memory\n").into_bytes();
    let mut out: Vec<u8> = (0..=bytes / 32).flat_map(line).collect();
    out.truncate(bytes);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_the_length_they_say() {
        for (name, bytes) in OBJECTS {
            assert_eq!(content(bytes).len(), bytes, "{name}");
        }
    }
}
