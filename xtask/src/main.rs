//! `cargo xtask <task>`: all automation of the project, one file a task. Only the choice of the task lives
//! here.
#![forbid(unsafe_code)]
#![expect(
    clippy::disallowed_methods,
    reason = "the ban on reading time is for the node, which must run under virtual time; tasks wait for real processes"
)]

mod bench;
mod bpf;
mod build;
mod check;
mod conformance;
mod demo;
mod fuzz;
mod http;
mod machine;
mod node;
mod process;
mod setup;
mod simulate;
mod test;
mod vm;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

const EXAMPLES: &str = "Examples:
  cargo xtask demo --once            a node in namespaces, shown and ended
  cargo xtask test                   every test, also those against the kernel
  cargo xtask bench --quick          edge against nginx, Varnish, H2O and the practical limit
  cargo xtask simulate --trace web.keys.gz --format keys --objects 1024
                                     miss ratios of the eviction policy and of others";

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "All automation of the project", after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find what is missing on this machine and install it.
    Setup,
    /// Build the release binaries.
    Build,
    /// Show a node at work: namespaces, a real origin, XDP, wrk.
    Demo(demo::Options),
    /// Format, lints and the rules of the tree.
    Check,
    /// Run every test.
    Test(test::Options),
    /// Boot other kernels and run there what this one cannot: TLS in the kernel.
    Vm(vm::Options),
    /// Run the fuzz targets for a bounded time.
    Fuzz(fuzz::Options),
    /// Measure what a cache hit costs, against peers and the practical limit.
    Bench(bench::Options),
    /// Replay a trace through the eviction policy and others: miss ratios.
    Simulate(simulate::Options),
    /// Run the public tests of HTTP caches against a node, and score them.
    Conformance(conformance::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments.task) {
        Ok(()) => ExitCode::SUCCESS,
        // The shell's code for a program that Ctrl-C ended.
        Err(_) if process::interrupted() => {
            eprintln!("interrupted; everything that was started is ended");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    process::watch_signals()?;
    match task {
        Task::Setup => setup::run(),
        Task::Build => build::run(),
        Task::Demo(options) => demo::run(&options),
        Task::Check => check::run(),
        Task::Test(options) => test::run(&options),
        Task::Vm(options) => vm::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Bench(options) => bench::run(options),
        Task::Simulate(options) => simulate::run(&options),
        Task::Conformance(options) => conformance::run(&options),
    }
}
