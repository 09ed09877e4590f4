//! `cargo xtask bench lookup`: lookups of the store's readers among millions of small objects, on one CPU. The work is
//! done by the program `lookup` in `benches`, on a store in memory that is removed afterwards.
#![forbid(unsafe_code)]

use crate::build;
use crate::process::{self, Scratch};
use anyhow::Result;
use clap::Args;
use std::process::Command;

/// Options of the measure.
#[derive(Args, Debug)]
pub struct Options {
    /// Objects in the store; each takes about 200 bytes of memory.
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u32).range(10_000..=100_000_000))]
    objects: u32,
    /// Lookups of each measure.
    #[arg(long, default_value_t = 20_000_000, value_parser = clap::value_parser!(u32).range(100_000..=1_000_000_000))]
    lookups: u32,
}

/// The measure.
pub fn run(options: &Options) -> Result<()> {
    let (cpu, _) = super::server_and_client_cpu()?;
    let scratch = Scratch::create("lookup")?;
    let mut command = Command::new(build::release_binary("lookup")?);
    for (name, value) in
        [("--objects", options.objects), ("--lookups", options.lookups), ("--cpu", cpu as u32)]
    {
        command.arg(name).arg(value.to_string());
    }
    command.arg("--store").arg(scratch.directory("store")?);
    process::run(&mut command)
}
