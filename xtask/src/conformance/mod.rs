//! `cargo xtask conformance`: the public tests of HTTP caches (npm package `http-cache-tests`) against a node
//! with nothing configured but its origin, and the score. Where the package cannot be had the task fails and
//! says so: no result never looks like a good one.
#![forbid(unsafe_code)]

mod known;
mod score;

use crate::process::{Scratch, Server};
use crate::{build, http, machine, node, process, setup};
use anyhow::{Context, Result, bail};
use clap::Args;
use score::{Kind, Run, Score};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The packages, and the versions whose tests the list of known failures is about.
const PACKAGES: [&str; 2] = ["http-cache-tests@0.4.5", "node-fetch@2.7.0"];
const DRIVER: &str = include_str!("driver.mjs");
const READY: Duration = Duration::from_secs(20);

const EXAMPLES: &str = "Examples:
  cargo xtask conformance                              all tests of the npm package
  cargo xtask conformance --test vary-star             one of them, with every message
  cargo xtask conformance --suite ~/cache-tests        another edition: a checkout after `npm install`
  cargo xtask conformance --json conformance.json      also for machines";

/// Options of the task.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// Only these tests, by id; every message is shown.
    #[arg(long = "test", value_name = "ID")]
    tests: Vec<String>,
    /// A checkout of github.com/http-tests/cache-tests instead of the npm package.
    #[arg(long, value_name = "DIRECTORY")]
    suite: Option<PathBuf>,
    /// Tests at once.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=500))]
    at_once: u16,
    /// Write score and failures there as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The task.
pub fn run(options: &Options) -> Result<()> {
    setup::ensure(&setup::Need::Conformance)?;
    let suite = match &options.suite {
        Some(directory) => directory.canonicalize().with_context(|| directory.display().to_string())?,
        None => installed()?,
    };
    process::run(&mut build::cargo(&["build", "--locked", "--package", "edge"]))?;
    let scratch = Scratch::create("conformance")?;
    let origin_port = http::free_port()?;
    let origin = origin(&suite, &scratch, origin_port)?;
    let (edge, address) = edge(&scratch, origin_port)?;
    process::step(&format!("the tests of {} against {address}", suite.display()));
    let results = scratch.path("results.json");
    let mut driver = Command::new("node");
    driver.arg("--no-warnings").arg(scratch.write("driver.mjs", DRIVER)?).arg(&suite);
    driver.arg(format!("http://{address}")).arg(options.at_once.to_string()).arg(&results);
    process::run(driver.args(&options.tests))?;
    origin.alive()?;
    edge.alive()?;
    if !options.tests.is_empty() {
        println!("{}", origin.log());
    }
    let text = std::fs::read_to_string(&results).context("the driver wrote no results")?;
    let run: Run = serde_json::from_str(&text).context("the results are not what the driver writes")?;
    report(&Score::of(&run, &options.tests), options)
}

/// The package in a directory of its own under `target`, installed at the first call.
fn installed() -> Result<PathBuf> {
    let home = build::target().join("conformance");
    let suite = home.join("node_modules/http-cache-tests");
    if !(suite.join("tests/index.mjs").is_file() && home.join("node_modules/node-fetch").is_dir()) {
        process::step(&format!("{} into {}", PACKAGES.join(" and "), home.display()));
        std::fs::create_dir_all(&home)?;
        std::fs::write(home.join("package.json"), "{\"private\": true}\n")?;
        let mut npm = Command::new("npm");
        npm.args(["install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"]);
        process::run(npm.args(PACKAGES).current_dir(&home)).with_context(|| {
            "NOT TESTED: the caching tests cannot be installed from the npm registry; \
             give a checkout of github.com/http-tests/cache-tests with --suite"
        })?;
    }
    Ok(suite)
}

/// The suite's own origin server.
fn origin(suite: &Path, scratch: &Scratch, port: u16) -> Result<Server> {
    let newer = suite.join("test-engine/server/server.mjs");
    let server = if newer.is_file() { newer } else { suite.join("server/server.mjs") };
    let mut command = Command::new("env");
    command.args(["-C"]).arg(suite).arg("npm_config_protocol=http").arg(format!("npm_config_port={port}"));
    command.arg(format!("npm_config_pidfile={}", scratch.path("origin.pid").display()));
    command.args(["node", "--no-warnings"]).arg(server);
    let origin = Server::start("the suite's origin", &command, &scratch.path("origin.log"))?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    origin.wait_ready(READY, || http::listens(address))?;
    Ok(origin)
}

/// A node as its smallest configuration makes it.
fn edge(scratch: &Scratch, origin_port: u16) -> Result<(Server, SocketAddr)> {
    let address = SocketAddr::from(([127, 0, 0, 1], http::free_port()?));
    let configured = node::Node {
        cpus: String::new(),
        http: address.to_string(),
        admin: format!("127.0.0.1:{}", http::free_port()?),
        origin: format!("127.0.0.1:{origin_port}"),
        xdp: None,
        store_size: "64MiB",
    };
    let command = configured.command_of(&build::debug_binary("edge")?, scratch, "edge")?;
    let edge = Server::start("edge", &command, &scratch.path("edge.log"))?;
    edge.wait_ready(READY, || http::listens(address))?;
    Ok((edge, address))
}

/// Prints the score. An error if a test fails that is not known to, or one known to fail passes.
fn report(score: &Score, options: &Options) -> Result<()> {
    let mut surprises = Vec::new();
    for failure in &score.failures {
        let known = known::reason(&failure.id);
        println!("{:<10} {}: {}", format!("{:?}", failure.kind).to_lowercase(), failure.id, failure.name);
        println!("           {}", failure.reason);
        match known {
            Some(reason) => println!("           known: {reason}"),
            None if failure.kind != Kind::Behaviour => surprises.push(failure.id.clone()),
            None => {}
        }
    }
    println!("\n{}node {}, kernel {}", score.table(), node_version()?, machine::kernel());
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_string_pretty(score)? + "\n")
            .with_context(|| format!("write {}", file.display()))?;
    }
    if !surprises.is_empty() {
        bail!("{} tests fail that should pass: {}", surprises.len(), surprises.join(", "));
    }
    process::proceed()
}

fn node_version() -> Result<String> {
    Ok(process::output(Command::new("node").arg("--version"))?.trim().to_owned())
}
