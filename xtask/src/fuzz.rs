//! `cargo xtask fuzz`: the fuzz targets of `edge/fuzz` for a bounded time each, as many at once as there are
//! CPUs. Coverage comes from LLVM passes that stable Rust hands through, so neither nightly nor cargo-fuzz is
//! needed.
#![forbid(unsafe_code)]

use crate::{build, machine, process, setup};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const EXAMPLES: &str = "Examples:
  cargo xtask fuzz                            every target, a minute each
  cargo xtask fuzz body --seconds 3600        one target for an hour
  cargo xtask fuzz body --replay FILE         what a run has found, again";

/// What makes LLVM count edges and comparisons where libFuzzer looks for them.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg=fuzzing";
/// Longest input in bytes: a few heads.
const INPUT_BYTES_MAX: usize = 40_000;
/// Memory of one target in MiB, and seconds for one input; more is a finding.
const MEMORY_MIB_MAX: usize = 1024;
const INPUT_SECONDS_MAX: u64 = 10;

/// Options of the task.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// Only this target.
    target: Option<String>,
    /// Seconds for each target.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Run one input from this file instead of making new ones.
    #[arg(long, value_name = "FILE", requires = "target")]
    replay: Option<PathBuf>,
}

/// The task.
pub fn run(options: &Options) -> Result<()> {
    setup::ensure(&setup::Need::Fuzz)?;
    let all = targets(&build::root().join("edge/fuzz/fuzz_targets"))?;
    let chosen: Vec<&String> =
        all.iter().filter(|name| options.target.as_ref().is_none_or(|target| target == *name)).collect();
    if chosen.is_empty() {
        bail!("there is no such target; there are: {}", all.join(", "));
    }
    let folder = folder();
    process::step("fuzz targets, with coverage");
    let programs = compile(&folder)?;
    if let (Some(file), [name]) = (&options.replay, chosen.as_slice()) {
        return process::run(Command::new(programs.join(name)).arg(file));
    }
    let mut failed = Vec::new();
    for group in groups(&chosen, machine::cpus()?.len()) {
        process::step(&format!("{} for {} s", join(group), options.seconds));
        let runs = group
            .iter()
            .map(|name| Run::start(name, &programs, &folder, options.seconds))
            .collect::<Result<Vec<_>>>()?;
        for run in runs {
            failed.extend(run.finish()?);
        }
    }
    if !failed.is_empty() {
        bail!("found by: {}", failed.join(", "));
    }
    println!("fuzz: {} targets, {} s each, nothing found", chosen.len(), options.seconds);
    Ok(())
}

/// As many at once as there are CPUs; those that would be left over, of which some CPUs would have none, run beside others.
fn groups<T>(all: &[T], cpus: usize) -> impl Iterator<Item = &[T]> {
    let count = (all.len() / cpus.max(1)).max(1);
    (0..count).map(move |group| &all[all.len() * group / count..all.len() * (group + 1) / count])
}

fn join(names: &[&String]) -> String {
    names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
}

/// Where builds, inputs that reached something new, and findings are kept.
fn folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    build::root().join(target).join("fuzz")
}

/// The names of the targets: one file each.
fn targets(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

/// Builds all targets; says where they are. The host is named as the target, which keeps the flags away from
/// build scripts and macros.
fn compile(folder: &Path) -> Result<PathBuf> {
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut command = build::cargo(&["build", "--release", "--locked", "--target", &host]);
    command.current_dir(build::root().join("edge/fuzz"));
    command.env("CARGO_TARGET_DIR", folder).env("RUSTFLAGS", FLAGS);
    process::run(&mut command)?;
    Ok(folder.join(host).join("release"))
}

/// One target at work.
struct Run {
    name: String,
    child: process::Running,
    log: PathBuf,
    findings: PathBuf,
}

impl Run {
    fn start(name: &str, programs: &Path, folder: &Path, seconds: u64) -> Result<Self> {
        let corpus = folder.join("corpus").join(name);
        let findings = folder.join("findings").join(name);
        for made in [&corpus, &findings] {
            fs::create_dir_all(made).with_context(|| format!("create {}", made.display()))?;
        }
        let log = folder.join(format!("{name}.log"));
        let mut command = Command::new(programs.join(name));
        command.arg(format!("-max_total_time={seconds}"));
        command.arg(format!("-max_len={INPUT_BYTES_MAX}"));
        command.arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"));
        command.arg(format!("-timeout={INPUT_SECONDS_MAX}"));
        command.arg(format!("-artifact_prefix={}/", findings.display()));
        command.arg(format!("-dict={}", build::root().join("edge/fuzz/http.dict").display()));
        command.arg("-print_final_stats=1").arg(&corpus);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
        Ok(Run { name: name.into(), child: process::Running::start(&mut command)?, log, findings })
    }

    /// Waits for the end and prints what came of it; the name, if something was found.
    fn finish(mut self) -> Result<Option<String>> {
        let success = self.child.wait()?.success();
        let log = fs::read_to_string(&self.log).with_context(|| format!("read {}", self.log.display()))?;
        let stats = statistics(&log);
        let number = |name: &str| stats.get(name).copied().unwrap_or(0);
        println!(
            "{:<12} {:>12} inputs, {:>7} edges, {:>6} kept: {}",
            self.name,
            number("number_of_executed_units"),
            number("edges"),
            number("new_units_added"),
            if success { "nothing found" } else { "FOUND" }
        );
        if !success {
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            tail.into_iter().rev().for_each(|line| eprintln!("  {line}"));
            for file in fs::read_dir(&self.findings)?.flatten() {
                eprintln!("again with: cargo xtask fuzz {} --replay {}", self.name, file.path().display());
            }
        }
        Ok((!success).then_some(self.name))
    }
}

/// The numbers libFuzzer prints at its end, and the edges of the last progress line.
fn statistics(log: &str) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for line in log.lines() {
        if let Some((name, value)) = line.strip_prefix("stat::").and_then(|rest| rest.split_once(':'))
            && let Ok(value) = value.trim().parse()
        {
            found.insert(name.to_owned(), value);
        }
        if let Some((_, rest)) = line.split_once(" cov: ")
            && let Some(Ok(value)) = rest.split(' ').next().map(str::parse)
        {
            found.insert("edges".to_owned(), value);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_read() {
        let log = "#2\tINITED cov: 10 ft: 12 corp: 1/1b\n#99\tNEW    cov: 31 ft: 40 corp: 3/9b\n\
                   stat::number_of_executed_units: 1234\nstat::new_units_added:         7\nstat::x: y\n";
        let found = statistics(log);
        assert_eq!(found.get("edges"), Some(&31));
        assert_eq!(found.get("number_of_executed_units"), Some(&1234));
        assert_eq!(found.get("new_units_added"), Some(&7));
        assert_eq!(found.get("x"), None);
    }

    #[test]
    fn every_target_has_its_turn_and_no_cpu_is_idle() {
        let sizes = |all: usize, cpus: usize| {
            let all: Vec<usize> = (0..all).collect();
            assert_eq!(groups(&all, cpus).flatten().copied().collect::<Vec<_>>(), all);
            groups(&all, cpus).map(<[usize]>::len).collect::<Vec<_>>()
        };
        assert_eq!(sizes(9, 2), [2, 2, 2, 3]);
        assert_eq!(sizes(8, 2), [2, 2, 2, 2]);
        assert_eq!(sizes(9, 8), [9]);
        assert_eq!(sizes(1, 2), [1]);
        assert_eq!(sizes(3, 1), [1, 1, 1]);
    }

    #[test]
    fn every_target_is_declared() {
        let folder = build::root().join("edge/fuzz");
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        let targets = targets(&folder.join("fuzz_targets")).unwrap();
        assert!(!targets.is_empty());
        for name in targets {
            assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
        }
    }
}
