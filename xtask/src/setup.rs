//! `cargo xtask setup`: what the other tasks need from the system, found or named.
#![forbid(unsafe_code)]

use crate::machine;
use anyhow::{Result, bail};

/// Which task asks.
pub enum Need {
    /// `cargo xtask build`
    Build,
    /// `cargo xtask bench`
    Bench,
    /// `cargo xtask demo`
    Demo,
    /// `cargo xtask test`
    Test,
}

/// Everything.
pub fn run() -> Result<()> {
    for need in [Need::Build, Need::Bench, Need::Demo, Need::Test] {
        ensure(&need)?;
    }
    Ok(())
}

/// What one task needs.
pub fn ensure(need: &Need) -> Result<()> {
    let programs: &[&str] = match need {
        Need::Build => &[],
        Need::Bench => &["nginx", "varnishd", "h2o", "wrk", "strace", "taskset", "setpriv"],
        Need::Demo => &["nginx", "wrk", "curl", "ip", "ethtool", "setpriv"],
        Need::Test => &["ip"],
    };
    let missing: Vec<_> = programs.iter().filter(|name| machine::program(name).is_none()).collect();
    if !missing.is_empty() {
        bail!("missing: {missing:?}");
    }
    Ok(())
}
