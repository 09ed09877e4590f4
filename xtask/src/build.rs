//! `cargo xtask build`: the release binaries, and where the workspace and its results lie.
#![forbid(unsafe_code)]

use crate::{process, setup};
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The workspace's directory.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// The cargo that runs us, called in the workspace's directory.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    // What `cargo run` set for us would look like a change to build scripts that watch it, and rebuild half
    // of the dependencies at each turn between a call from here and one from a shell.
    for (name, _) in std::env::vars_os() {
        let inherited = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
        if inherited.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    command
}

/// A binary of the release profile; an error when it has not been built.
pub fn release_binary(name: &str) -> Result<PathBuf> {
    let path = target().join("release").join(name);
    if !path.is_file() {
        bail!("{} is missing: `cargo xtask build` makes it", path.display());
    }
    Ok(path)
}

/// A binary with every check on; an error when it has not been built.
pub fn debug_binary(name: &str) -> Result<PathBuf> {
    let path = target().join("debug").join(name);
    if !path.is_file() {
        bail!("{} is missing: `cargo build` makes it", path.display());
    }
    Ok(path)
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    root().join(target)
}

/// Builds the named packages in the release profile, without set-up.
pub fn release(packages: &[&str]) -> Result<()> {
    let mut command = cargo(&["build", "--release", "--locked"]);
    for package in packages {
        command.args(["--package", package]);
    }
    process::run(&mut command)
}

/// The task.
pub fn run() -> Result<()> {
    setup::ensure(&setup::Need::Build)?;
    release(&["edge", "benches"])?;
    println!("{}", release_binary("edge")?.display());
    println!("{}", release_binary("null")?.display());
    Ok(())
}
