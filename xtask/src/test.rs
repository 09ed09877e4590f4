//! `cargo xtask test`: set-up, then every test of the workspace, in memory and against the kernel, then those that
//! try interleavings of the store's threads, which need a build of their own. What could not run is listed at the
//! end, so that a green result never hides it; after it what failed, and how: often only the end of a log is seen.
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
    if summary.failed > 0 {
        let names: Vec<&str> = summary.failures.iter().map(|failure| failure.name.as_str()).collect();
        bail!("{} failed: {}", summary.failed, names.join(", "));
    }
    if !passed {
        bail!("a test program did not build or did not come to its end; cargo's `error:` above names it");
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
    failures: Vec<Failure>,
    part: Part,
}

/// Where in the output of a test binary a line stands.
#[derive(Clone, Copy, Default, PartialEq)]
enum Part {
    #[default]
    Progress,
    OutputOfPassed,
    OutputOfFailed,
}

/// A test that failed, and what it wrote.
struct Failure {
    name: String,
    output: Vec<String>,
}

impl Summary {
    /// Takes in a line; whether it is worth showing.
    fn read(&mut self, line: &str) -> bool {
        if line.starts_with(SKIPPED) {
            self.skipped.push(line.to_owned());
            return true;
        }
        if let Some(result) = line.strip_prefix("test result:") {
            self.part = Part::Progress;
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
            "successes:" => self.part = Part::OutputOfPassed,
            // The first such line begins what they wrote, the second one their names.
            "failures:" if self.part == Part::OutputOfFailed => self.part = Part::Progress,
            "failures:" => self.part = Part::OutputOfFailed,
            _ if self.part == Part::OutputOfFailed => self.read_failure(line),
            _ => {}
        }
        self.part != Part::OutputOfPassed
    }

    fn read_failure(&mut self, line: &str) {
        let name = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----"));
        if let Some(name) = name {
            self.failures.push(Failure { name: name.to_owned(), output: Vec::new() });
        } else if let Some(failure) = self.failures.last_mut() {
            failure.output.push(line.to_owned());
        }
    }

    fn print(&self) {
        if !self.skipped.is_empty() {
            println!("\n=== {} tests or parts of tests DID NOT RUN ===", self.skipped.len());
            for line in &self.skipped {
                println!("{line}");
            }
        }
        for failure in &self.failures {
            println!("\n=== FAILED {} ===", failure.name);
            for line in failure.digest() {
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

/// How many lines of each panic, of how many panics, and of the end of the output a digest shows; how much of a line.
const PANIC_LINES: usize = 6;
const PANICS: usize = 3;
const LAST_LINES: usize = 4;
const LINE_CHARACTERS: usize = 400;

impl Failure {
    /// The panics and the last words, without backtraces: those stand above, where the output is shown whole.
    fn digest(&self) -> Vec<String> {
        let lines: Vec<&str> = without_backtraces(&self.output);
        let mut chosen = vec![false; lines.len()];
        let is_panic = |line: &str| line.starts_with("thread '") && line.contains(" panicked at ");
        let panics = (0..lines.len()).filter(|&at| is_panic(lines[at]));
        for at in panics.take(PANICS) {
            let message = lines[at + 1..].iter().take(PANIC_LINES - 1);
            let length = 1 + message.take_while(|line| !line.is_empty() && !line.starts_with("---")).count();
            chosen[at..at + length].fill(true);
        }
        chosen.iter_mut().rev().take(LAST_LINES).for_each(|chosen| *chosen = true);
        let mut digest: Vec<String> = Vec::new();
        let mut previous = None;
        for at in (0..lines.len()).filter(|&at| chosen[at]) {
            if at > previous.map_or(0, |previous| previous + 1) {
                digest.push("[…]".to_owned());
            }
            digest.push(lines[at].chars().take(LINE_CHARACTERS).collect());
            previous = Some(at);
        }
        digest
    }
}

/// The lines that say something: none of a backtrace, no advice about one, no empty ones but between panics.
fn without_backtraces(lines: &[String]) -> Vec<&str> {
    let mut is_backtrace = false;
    let mut kept: Vec<&str> = Vec::new();
    for line in lines {
        let text = line.trim_start();
        let is_frame = text.starts_with("at ") && text.len() < line.len()
            || text.split_once(": ").is_some_and(|(number, _)| number.parse::<u32>().is_ok());
        is_backtrace = line == "stack backtrace:" || is_backtrace && is_frame;
        let is_advice = text.starts_with("note: ") && text.contains("backtrace");
        let is_repeated = line.is_empty() && kept.last().is_none_or(|last| last.is_empty());
        if !is_backtrace && !is_advice && !is_repeated {
            kept.push(line);
        }
    }
    while kept.last().is_some_and(|last| last.is_empty()) {
        kept.pop();
    }
    kept
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
        assert!(summary.failures.is_empty(), "no output of any");
    }

    #[test]
    fn of_failed_tests_the_panics_and_the_last_words_are_repeated() {
        let noise = "noise\n".repeat(50);
        let output = format!(
            "running 2 tests\ntest a::b ... FAILED\n\nfailures:\n\n---- a::b stdout ----\n{noise}\n\
             thread 'a::b' (7) panicked at edge/tests/a.rs:3:5:\nassertion failed\n  left: 1\n right: 2\n\
             stack backtrace:\n   0: begin\n             at /rustc/panicking.rs:1:2\n   1: a::b\n\
             note: Some details are omitted, run with `RUST_BACKTRACE=full` for a verbose backtrace.\n\
             --- edge wrote:\n{noise}last words\n--- (end)\n\n---- c stdout ----\n\n\
             thread 'c' (8) panicked at edge/tests/c.rs:9:9:\nwhy\n\
             note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n\n\n\
             failures:\n    a::b\n    c\n\n\
             test result: FAILED. 0 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s"
        );
        let mut summary = Summary::default();
        for line in output.lines() {
            assert!(summary.read(line), "{line}");
        }
        let found: Vec<_> =
            summary.failures.iter().map(|failure| (failure.name.as_str(), failure.digest())).collect();
        let first = [
            "[…]",
            "thread 'a::b' (7) panicked at edge/tests/a.rs:3:5:",
            "assertion failed",
            "  left: 1",
            " right: 2",
            "[…]",
            "noise",
            "noise",
            "last words",
            "--- (end)",
        ];
        let second = ["thread 'c' (8) panicked at edge/tests/c.rs:9:9:", "why"];
        let expected =
            [("a::b", first.map(str::to_owned).to_vec()), ("c", second.map(str::to_owned).to_vec())];
        assert_eq!(found, expected);
        assert_eq!(summary.failed, 2);
    }
}
