//! Where the tool chain for the BPF object is. Shared by `xtask setup`, which puts it there, and the
//! build script of `edge`, which uses it. Installs and builds nothing itself.
//!
//! Two tool chains can build the object: a distribution's rustc with a prebuilt `core` for BPF
//! (Debian's rustc-web), or a nightly of rustup with its `rust-src` component. Either needs bpf-linker.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::Command;

/// The BPF target: little-endian, as are the machines edge runs on.
pub const TARGET: &str = "bpfel-unknown-none";
/// The version of bpf-linker that is installed.
pub const LINKER_VERSION: &str = "0.13.0";
/// The distribution's compiler, by its full path: rustup's proxies come first in PATH.
pub const SYSTEM_RUSTC: &str = "/usr/bin/rustc";
/// Names a directory with `bin/bpf-linker` in place of the default one.
pub const TOOLCHAIN_VARIABLE: &str = "EDGE_BPF_TOOLCHAIN";

/// A compiler and linker that can build the object.
#[derive(Debug)]
pub struct Toolchain {
    /// The compiler.
    pub rustc: PathBuf,
    /// bpf-linker.
    pub linker: PathBuf,
    /// Whether `core` has to be built from source.
    pub is_core_built: bool,
}

/// Finds a tool chain, or says what is missing.
pub fn find() -> Result<Toolchain, String> {
    let system = system();
    if system.is_ok() {
        return system;
    }
    nightly().or(system)
}

/// The distribution's compiler with the linker made for its LLVM.
fn system() -> Result<Toolchain, String> {
    let sysroot = output(Command::new(SYSTEM_RUSTC).args(["--print", "sysroot"]))
        .ok_or_else(|| format!("{SYSTEM_RUSTC} is not installed"))?;
    if !Path::new(&sysroot).join("lib/rustlib").join(TARGET).is_dir() {
        return Err(format!("{SYSTEM_RUSTC} has no core library for {TARGET}"));
    }
    let llvm = llvm_major(Path::new(SYSTEM_RUSTC))
        .ok_or_else(|| format!("{SYSTEM_RUSTC} does not say which LLVM it uses"))?;
    let linker = directory(llvm)?.join("bin/bpf-linker");
    if !linker.is_file() {
        return Err(format!("bpf-linker is not installed ({})", linker.display()));
    }
    Ok(Toolchain { rustc: SYSTEM_RUSTC.into(), linker, is_core_built: false })
}

/// rustup's nightly with rust-src, and a bpf-linker found in PATH.
fn nightly() -> Result<Toolchain, String> {
    let sysroot = output(Command::new("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]))
        .ok_or("rustup has no nightly")?;
    let sysroot = PathBuf::from(sysroot);
    if !sysroot.join("lib/rustlib/src/rust/library/core").is_dir() {
        return Err("the nightly of rustup has no rust-src".into());
    }
    let linker = search_path("bpf-linker").ok_or("bpf-linker is not in PATH")?;
    Ok(Toolchain { rustc: sysroot.join("bin/rustc"), linker, is_core_built: true })
}

/// Where the linker for this major version of LLVM is installed: outside any target directory, so
/// that clean builds and other checkouts need not make it again.
pub fn directory(llvm_major: u32) -> Result<PathBuf, String> {
    if let Some(chosen) = std::env::var_os(TOOLCHAIN_VARIABLE).filter(|value| !value.is_empty()) {
        return Ok(chosen.into());
    }
    Ok(cache()?.join(format!("bpf-linker-{LINKER_VERSION}-llvm{llvm_major}")))
}

/// Where tools that the tasks build for themselves are kept.
pub fn cache() -> Result<PathBuf, String> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
    Ok(cache.ok_or("neither XDG_CACHE_HOME nor HOME is set")?.join("edge"))
}

/// The major version of the LLVM a compiler was built with.
pub fn llvm_major(rustc: &Path) -> Option<u32> {
    let version = output(Command::new(rustc).arg("-vV"))?;
    let line = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    line.split('.').next()?.parse().ok()
}

/// A program in PATH.
pub fn search_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|file| file.is_file())
}

/// What a command printed, if it succeeded.
fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
