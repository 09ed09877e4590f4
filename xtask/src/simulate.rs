//! `cargo xtask simulate`: miss ratios of the node's eviction policy on a trace, beside LRU, FIFO, SIEVE and Belady's.
//! The work is done by the program `simulate` in `benches`; here it is built and called.
#![forbid(unsafe_code)]

use crate::{build, process, setup};
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

const EXAMPLES: &str = "Examples:
  cargo xtask simulate --trace web.keys.gz --format keys --objects 1024
  cargo xtask simulate --trace disk.csv --format csv --size 100000000 --json";

/// Options of the task.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// The trace, plain or gzipped.
    #[arg(long, value_name = "FILE")]
    trace: PathBuf,
    /// keys: one key a line, every object counts 1. csv: a header line, then time,key,bytes.
    #[arg(long)]
    format: Format,
    /// Capacity in bytes.
    #[arg(long, value_name = "BYTES", required_unless_present = "objects", conflicts_with = "objects")]
    size: Option<u64>,
    /// Capacity in objects: every object counts 1.
    #[arg(long, value_name = "N")]
    objects: Option<u64>,
    /// Print one JSON object and nothing else.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Keys,
    Csv,
}

/// The task.
pub fn run(options: &Options) -> Result<()> {
    setup::ensure(&setup::Need::Build)?;
    let trace = std::path::absolute(&options.trace).context("the trace's path")?;
    let mut command =
        build::cargo(&["run", "--quiet", "--locked", "--package", "benches", "--bin", "simulate", "--"]);
    command.arg("--trace").arg(trace).arg("--format").arg(match options.format {
        Format::Keys => "keys",
        Format::Csv => "csv",
    });
    for (name, value) in [("--size", options.size), ("--objects", options.objects)] {
        if let Some(value) = value {
            command.arg(name).arg(value.to_string());
        }
    }
    if options.json {
        command.arg("--json");
    }
    process::run(&mut command)
}
