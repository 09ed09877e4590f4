//! A node whose memory is a fraction of its store: a control group with a limit, objects that have mostly left memory,
//! and a client that asks for them at an even rate.
#![forbid(unsafe_code)]

use super::Tally;
use crate::bench::origin;
use crate::http::Connection;
use crate::process;
use anyhow::{Context, Result, ensure};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What was stored is flushed every 3 s; pages that are not on the disk yet cannot leave memory.
const FLUSH: Duration = Duration::from_secs(5);
/// Body of the objects.
const BYTES: usize = 64 << 10;

fn path(number: u64) -> String {
    format!("{}?{number}", origin::path(BYTES))
}

/// The objects of one node.
pub struct Objects {
    to: SocketAddr,
    count: u64,
    body: Vec<u8>,
}

impl Objects {
    /// Stores so many bytes of them.
    pub fn store(to: SocketAddr, bytes: u64) -> Result<Self> {
        let objects = Objects { to, count: bytes / BYTES as u64, body: origin::body(BYTES) };
        process::step(&format!("store {} objects of {} KiB", objects.count, BYTES >> 10));
        let mut connection = Connection::open(to)?;
        for number in 0..objects.count {
            process::proceed()?;
            objects.ask(&mut connection, number)?;
        }
        process::sleep(FLUSH)?;
        Ok(objects)
    }

    fn ask(&self, connection: &mut Connection, number: u64) -> Result<()> {
        let response = connection.get(&path(number))?;
        ensure!(response.status == 200 && response.body == self.body, "{}: a wrong answer", path(number));
        Ok(())
    }

    /// Asks for objects in random order, `rate` times a second, until `stop`.
    pub fn run(&self, rate: u32, seed: u64, stop: &AtomicBool) -> Result<Tally> {
        let mut connection = Connection::open(self.to)?;
        let (began, mut tally) = (Instant::now(), Tally::default());
        let mut state = 0x9E37_79B9_7F4A_7C15 ^ (seed + 1);
        while !stop.load(Ordering::Relaxed) {
            // xorshift64: Marsaglia 2003.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            self.ask(&mut connection, state % self.count)?;
            tally.events += 1;
            let due = Duration::from_secs_f64(tally.events as f64 / f64::from(rate));
            std::thread::sleep(due.saturating_sub(began.elapsed()));
        }
        Ok(tally)
    }
}

/// A memory control group, removed when its processes are gone.
pub struct Group(PathBuf);

impl Group {
    /// With this limit.
    pub fn limited(bytes: u64) -> Result<Self> {
        let name = format!("edge-latency-{}", std::process::id());
        let mounts = std::fs::read_to_string("/proc/mounts").context("read /proc/mounts")?;
        for line in mounts.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let limit = match fields.get(1..4) {
                Some([_, "cgroup", options]) if options.split(',').any(|option| option == "memory") => {
                    "memory.limit_in_bytes"
                }
                Some([_, "cgroup2", _]) => "memory.max",
                _ => continue,
            };
            let group = Group(Path::new(fields[1]).join(&name));
            if std::fs::create_dir(&group.0).is_ok()
                && std::fs::write(group.0.join(limit), bytes.to_string()).is_ok()
            {
                return Ok(group);
            }
        }
        anyhow::bail!("no memory control group can be made here: run as root where one is mounted")
    }

    /// The command, in the group.
    pub fn inside(&self, command: &Command) -> Command {
        let mut inside = Command::new("sh");
        inside.args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""]).arg(&self.0);
        inside.arg(command.get_program()).args(command.get_args());
        inside
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Empty only some moments after its last process has ended; what is left then is left to the operator.
        let gone = || Ok(!self.0.exists() || std::fs::remove_dir(&self.0).is_ok());
        if !process::wait_until(Duration::from_secs(2), gone).unwrap_or(false) {
            eprintln!("{} could not be removed", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::origin::Origin;

    #[test]
    fn objects_differ_by_their_query_alone() {
        let origin = Origin::start().unwrap();
        let objects = Objects { to: origin.address(), count: 9, body: origin::body(BYTES) };
        let mut connection = Connection::open(objects.to).unwrap();
        objects.ask(&mut connection, 7).unwrap();
        assert_ne!(path(7), path(8));
    }
}
