//! `cargo xtask test`: set-up, then every test of the workspace, in memory and against the kernel, then those that
//! try interleavings of the store's threads, which need a build of their own. What could not run is listed at the
//! end, so that a green result never hides it.
#![forbid(unsafe_code)]

use crate::{build, machine, process, setup};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// How a test says on a line of its output that it, or a part of it, could not run.
const SKIPPED: &str = "SKIPPED";

/// All tests.
const EVERYTHING: &[&str] = &["test", "--workspace", "--locked", "--no-fail-fast", "--", "--show-output"];
/// The store under a scheduler that switches threads at every atomic operation.
const INTERLEAVINGS: &[&str] = &[
    "test",
    "--package=edge",
    "--features=interleave",
    "--lib",
    "--locked",
    "--",
    "--show-output",
    "tests::interleave::",
];

const EXAMPLES: &str = "Examples:
  cargo xtask test                   everything
  cargo xtask test shard::           the tests whose name contains it";

/// Options of the task.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// Only tests whose name contains this.
    filter: Option<String>,
}

/// The task.
pub fn run(options: &Options) -> Result<()> {
    setup::ensure(&setup::Need::Test)?;
    if !machine::is_root() {
        eprintln!(
            "not root: tests that need namespaces, XDP or tracing skip themselves; run as root for all"
        );
    }
    machine::raise_open_files()?;
    process::run(&mut build::cargo(&["test", "--workspace", "--locked", "--no-run"]))?;
    let mut summary = Summary::default();
    let mut show = |line: &str| {
        if summary.read(line) {
            println!("{line}");
        }
    };
    let mut passed = stream(EVERYTHING, options.filter.as_deref(), &mut show)?;
    if options.filter.as_ref().is_none_or(|filter| "shard::tests::interleave::".contains(filter.as_str())) {
        passed &= stream(INTERLEAVINGS, None, &mut show)?;
    }
    summary.print();
    if !passed || summary.failed > 0 {
        bail!("{} tests failed", summary.failed);
    }
    Ok(())
}

/// Runs tests, hands over every line, and says whether cargo was content. The output of tests that pass is where skips
/// are told.
fn stream(arguments: &[&str], filter: Option<&str>, mut each: impl FnMut(&str)) -> Result<bool> {
    let mut command = build::cargo(arguments);
    command.args(filter).stdout(Stdio::piped());
    eprintln!("$ {}", process::shown(&command));
    let mut tests = process::Running::start(&mut command)?;
    let output = tests.output()?;
    let (lines, received) = channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    loop {
        match received.recv_timeout(Duration::from_millis(50)) {
            Ok(line) => each(&line),
            Err(RecvTimeoutError::Timeout) => process::proceed()?,
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    reader.join().ok().context("reading the tests' output")?;
    Ok(tests.wait()?.success())
}

/// What the lines of all test binaries add up to.
#[derive(Default)]
struct Summary {
    passed: u64,
    failed: u64,
    ignored: u64,
    skipped: Vec<String>,
    is_output_of_passed: bool,
}

impl Summary {
    /// Takes in a line; whether it is worth showing.
    fn read(&mut self, line: &str) -> bool {
        if line.starts_with(SKIPPED) {
            self.skipped.push(line.to_owned());
            return true;
        }
        if let Some(result) = line.strip_prefix("test result:") {
            self.is_output_of_passed = false;
            for part in result.split(['.', ';']) {
                let mut words = part.split_whitespace();
                let count = words.next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
                match words.next() {
                    Some("passed") => self.passed += count,
                    Some("failed") => self.failed += count,
                    Some("ignored") => self.ignored += count,
                    _ => {}
                }
            }
            return true;
        }
        match line {
            "successes:" => self.is_output_of_passed = true,
            "failures:" => self.is_output_of_passed = false,
            _ => {}
        }
        !self.is_output_of_passed
    }

    fn print(&self) {
        if !self.skipped.is_empty() {
            println!("\n=== {} tests or parts of tests DID NOT RUN ===", self.skipped.len());
            for line in &self.skipped {
                println!("{line}");
            }
        }
        let word = if self.failed == 0 { "ok" } else { "FAILED" };
        println!(
            "\ntest result: {word}. {} passed; {} failed; {} ignored; {} skipped for want of something",
            self.passed,
            self.failed,
            self.ignored,
            self.skipped.len()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_added_and_output_of_passed_tests_is_hidden_but_for_skips() {
        let lines = [
            ("running 2 tests", true),
            ("test a ... ok", true),
            ("successes:", false),
            ("---- a stdout ----", false),
            ("noise", false),
            ("SKIPPED a: needs root; run the tests as root", true),
            ("successes:", false),
            ("    a", false),
            ("failures:", true),
            ("reason", true),
            (
                "test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s",
                true,
            ),
            (
                "test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
                true,
            ),
        ];
        let mut summary = Summary::default();
        for (line, shown) in lines {
            assert_eq!(summary.read(line), shown, "{line}");
        }
        assert_eq!((summary.passed, summary.failed, summary.ignored, summary.skipped.len()), (7, 1, 2, 1));
    }
}
