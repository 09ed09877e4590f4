//! `cargo xtask check`: format, lints, the rules of our own tree, and the licences and sources of
//! dependencies. Every rule names the file, the line and the remedy.
#![forbid(unsafe_code)]

mod code_map;
mod source;
mod tree;

use crate::{build, process, setup};
use anyhow::{Context, Result, bail};
use source::Source;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where our Rust files are.
const FOLDERS: &[&str] = &["edge", "edge-ebpf", "xtask", "benches"];

type Part = fn() -> Result<()>;

/// The task. Every part runs, whatever an earlier one found.
pub fn run() -> Result<()> {
    let parts: [(&str, Part); 4] =
        [("format", format), ("rules of the tree", own_rules), ("lints", lints), ("dependencies", deny)];
    let mut broken = Vec::new();
    for (name, part) in parts {
        process::step(name);
        if let Err(error) = part() {
            eprintln!("{error:#}");
            broken.push(name);
        }
        process::proceed()?;
    }
    if !broken.is_empty() {
        bail!("check failed: {}", broken.join(", "));
    }
    println!("check: all rules hold");
    Ok(())
}

fn format() -> Result<()> {
    process::run(&mut build::cargo(&["fmt", "--all", "--check"])).context("`cargo fmt --all` repairs it")
}

fn lints() -> Result<()> {
    let flags = ["--workspace", "--all-targets", "--locked", "--", "--deny", "warnings"];
    process::run(build::cargo(&["clippy"]).args(flags))
}

/// The rules that no tool but ours knows.
fn own_rules() -> Result<()> {
    let sources = sources()?;
    let mut problems: Vec<String> = sources.iter().flat_map(tree::problems).collect();
    let readme = build::root().join("README.md");
    match fs::read_to_string(&readme) {
        Ok(text) => problems.extend(code_map::problems(&text, &sources)),
        Err(error) => problems.push(format!("README.md: {error}; it must hold the code map")),
    }
    if !problems.is_empty() {
        bail!("{} rules are broken:\n{}", problems.len(), problems.join("\n"));
    }
    eprintln!("{} files keep the rules of the tree", sources.len());
    Ok(())
}

/// Every Rust file of ours, in the order of their paths.
fn sources() -> Result<Vec<Source>> {
    let mut files = Vec::new();
    for folder in FOLDERS {
        collect(&build::root().join(folder), &mut files)?;
    }
    files.sort();
    let read = files.iter().map(|file| {
        let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        let path = file.strip_prefix(build::root()).unwrap_or(file);
        Ok(Source::new(&path.to_string_lossy(), text))
    });
    read.collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            collect(&path, files)?;
        } else if name.ends_with(".rs") {
            files.push(path);
        }
    }
    Ok(())
}

/// Licences, bans and sources of dependencies; the advisory database is not asked, so that the answer does
/// not depend on a network.
fn deny() -> Result<()> {
    let mut command = Command::new(setup::deny()?);
    process::run(
        command
            .args(["--log-level", "error", "check", "licenses", "bans", "sources"])
            .current_dir(build::root()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_files_are_found() {
        let sources = sources().unwrap();
        let has = |path: &str| sources.iter().any(|source| source.path == path);
        assert!(has("xtask/src/check/mod.rs") && has("edge/src/lib.rs") && has("benches/src/null.rs"));
    }
}
