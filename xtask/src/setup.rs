//! `cargo xtask setup`: finds what the tasks need from the system and installs what is missing, on Debian
//! with apt-get and cargo. Elsewhere, or without root, it says exactly what is needed. With everything in
//! place it changes nothing and takes no time, so every task begins with it.
#![forbid(unsafe_code)]

use crate::{bpf, machine, process};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// Which task asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// `cargo xtask build`
    Build,
    /// `cargo xtask bench`
    Bench,
    /// `cargo xtask conformance`
    Conformance,
    /// `cargo xtask demo`
    Demo,
    /// `cargo xtask fuzz`
    Fuzz,
    /// `cargo xtask test`
    Test,
    /// `cargo xtask vm`
    Vm,
}

/// A program with the Debian package that brings it, why it is needed, and for which tasks.
struct Program(&'static str, &'static str, &'static str, &'static [Need]);

use Need::{Bench, Build, Conformance, Demo, Fuzz, Test, Vm};
const PROGRAMS: &[Program] = &[
    Program(
        "cc",
        "gcc libc6-dev",
        "links programs, compiles the C in crates",
        &[Build, Bench, Conformance, Demo, Fuzz, Test, Vm],
    ),
    Program("c++", "g++", "compiles libFuzzer", &[Fuzz]),
    Program("ip", "iproute2", "makes network namespaces and links between them", &[Bench, Demo, Test]),
    Program("ethtool", "ethtool", "turns off checksum offload where XDP redirects", &[Demo, Test]),
    Program("setpriv", "util-linux", "ends servers together with the task", &[Bench, Conformance, Demo]),
    Program("chrt", "util-linux", "lets the client that measures run first", &[Bench]),
    Program("taskset", "util-linux", "pins servers and load to CPUs", &[Bench, Demo]),
    Program("nsenter", "util-linux", "runs programs in namespaces", &[Demo]),
    Program("curl", "curl", "an HTTP client that is not ours", &[Demo, Test, Vm]),
    Program("openssl", "openssl", "a TLS client that is not ours", &[Test, Vm]),
    Program("h2load", "nghttp2-client", "makes load over HTTP/2, and asks by frames", &[Bench, Test, Vm]),
    Program("qemu-system-x86_64", "qemu-system-x86", "boots other kernels", &[Vm]),
    Program("busybox", "busybox-static", "is the system around the tests there", &[Vm]),
    Program("cpio", "cpio", "packs that system", &[Vm]),
    Program("xz", "xz-utils", "unpacks modules of kernels", &[Vm]),
    Program("strip", "binutils", "makes the tests small", &[Vm]),
    Program("wrk", "wrk", "makes load", &[Bench, Demo, Test]),
    Program("python3", "python3", "reads multipart bodies with a parser that is not ours", &[Test]),
    Program(
        "/usr/lib/python3/dist-packages/h2/__init__.py",
        "python3-h2",
        "an HTTP/2 client that is not ours",
        &[Test],
    ),
    Program("chromium", "chromium", "a browser, which loads a page over HTTP/2", &[Test]),
    Program("mkfs.ext4", "e2fsprogs", "makes a disk that can fail", &[Test]),
    Program("losetup", "mount", "makes a disk of a file", &[Test]),
    Program("strace", "strace", "counts system calls", &[Bench, Test]),
    Program("nginx", "nginx", "the origin of the demo, a peer in the benchmark", &[Bench, Demo, Test]),
    Program("varnishd", "varnish", "a peer in the benchmark", &[Bench]),
    Program("h2o", "h2o", "a peer in the benchmark", &[Bench]),
    Program("prometheus", "prometheus", "scrapes the metrics", &[Test]),
    Program("node", "nodejs", "runs the public tests of HTTP caches", &[Conformance]),
    Program("npm", "npm", "installs the public tests of HTTP caches", &[Conformance]),
    Program("systemd-analyze", "systemd", "checks the unit file", &[Test]),
];

/// Packages with a compiler for BPF.
const BPF_PACKAGES: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];
/// What the BPF tool chain is where Debian's packages are not to be had.
const BPF_ELSEWHERE: &str =
    "rustup toolchain install nightly --component rust-src && cargo install bpf-linker";
/// Versions of LLVM the linker can be built for.
const LLVM_MAJORS: std::ops::RangeInclusive<u32> = 21..=23;
/// The version of cargo-deny that is installed.
const DENY_VERSION: &str = "0.20.2";
/// Package lists older than this are fetched again before something is installed.
const PACKAGE_LISTS_AGE: Duration = Duration::from_secs(24 * 3600);

/// Everything, for every task but `conformance`: Debian's npm brings hundreds of packages, so only that task asks
/// for it.
pub fn run() -> Result<()> {
    let started = Instant::now();
    prepare("every task", &[Build, Bench, Demo, Test])?;
    deny()?;
    match bpf::find() {
        Ok(bpf::Toolchain { rustc, linker, is_core_built }) => {
            let core = if is_core_built { "core built from source" } else { "a prebuilt core" };
            println!("XDP is built by {} with {core} and {}", rustc.display(), linker.display());
        }
        Err(missing) => bail!("no BPF tool chain: {missing}; elsewhere than on Debian 12: {BPF_ELSEWHERE}"),
    }
    println!("everything is there ({:.1} s)", started.elapsed().as_secs_f64());
    Ok(())
}

/// What one task needs. Only a missing program is an error: without the BPF tool chain everything builds
/// and serves, without XDP.
pub fn ensure(need: &Need) -> Result<()> {
    prepare(&format!("{need:?}").to_lowercase(), &[*need])
}

fn prepare(task: &str, needs: &[Need]) -> Result<()> {
    let missing = missing(needs);
    let has_bpf = bpf::find().is_ok();
    if missing.is_empty() && has_bpf {
        return Ok(());
    }
    process::step(&format!("set-up for {task}"));
    let mut packages: Vec<&str> = missing.iter().flat_map(|program| program.1.split(' ')).collect();
    for Program(file, package, why, _) in &missing {
        eprintln!("missing: {file} (package {package}): {why}");
    }
    if !has_bpf {
        eprintln!(
            "missing: the tool chain that builds the XDP programs ({}, bpf-linker)",
            BPF_PACKAGES.join(" ")
        );
        if !has_bpf_core() {
            packages.extend(BPF_PACKAGES);
        }
    }
    packages.sort_unstable();
    packages.dedup();
    let installed = if packages.is_empty() { Ok(()) } else { install(&packages) };
    if !has_bpf && let Err(error) = install_linker() {
        eprintln!(
            "XDP will be left out of what is built: {error:#}; elsewhere than on Debian 12: {BPF_ELSEWHERE}"
        );
    }
    let missing = self::missing(needs);
    if missing.is_empty() {
        return installed.or_else(|error| {
            eprintln!("{error:#}");
            Ok(())
        });
    }
    installed?;
    let names: Vec<&str> = missing.iter().map(|program| program.0).collect();
    bail!("installed, but still not found: {}", names.join(", "))
}

/// The programs that tasks need and the system lacks.
fn missing(needs: &[Need]) -> Vec<&'static Program> {
    let is_needed = |program: &&Program| program.3.iter().any(|need| needs.contains(need));
    PROGRAMS.iter().filter(is_needed).filter(|program| machine::program(program.0).is_none()).collect()
}

fn has_bpf_core() -> bool {
    process::output(Command::new(bpf::SYSTEM_RUSTC).args(["--print", "sysroot"]))
        .is_ok_and(|sysroot| Path::new(sysroot.trim()).join("lib/rustlib").join(bpf::TARGET).is_dir())
}

/// Installs Debian packages, all at once; one by one should that fail, so that one that is not to be had
/// does not keep the others away.
fn install(packages: &[&str]) -> Result<()> {
    let command = format!("apt-get install -y --no-install-recommends {}", packages.join(" "));
    if machine::program("apt-get").is_none() {
        bail!("this is no Debian; install what corresponds to: {}", packages.join(" "));
    }
    if !machine::is_root() {
        bail!("installing needs root: sudo {command}");
    }
    let _policy = ServicePolicy::deny(Path::new("/usr/sbin/policy-rc.d"))?;
    if are_package_lists_old(Path::new("/var/lib/apt/lists")) {
        apt_get(&["update"])?;
    }
    if apt_get_install(packages).is_ok() {
        return Ok(());
    }
    apt_get(&["update"])?;
    let failed: Vec<&str> =
        packages.iter().copied().filter(|package| apt_get_install(&[package]).is_err()).collect();
    if failed.is_empty() {
        return Ok(());
    }
    bail!("apt-get cannot install {}", failed.join(" "))
}

fn apt_get_install(packages: &[&str]) -> Result<()> {
    let mut arguments = vec!["install", "-y", "--no-install-recommends"];
    arguments.extend(packages);
    apt_get(&arguments)
}

/// Runs apt-get and shows a line for every package it sets up.
fn apt_get(arguments: &[&str]) -> Result<()> {
    process::proceed()?;
    let mut command = Command::new("apt-get");
    command.args(["-q", "-o", "DPkg::Lock::Timeout=300"]).args(arguments);
    command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
    eprintln!("$ {}", process::shown(&command));
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("starting apt-get")?;
    let output = child.stdout.take().context("apt-get without output")?;
    let mut progress = Progress::default();
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        if let Some(text) = progress.read(&line) {
            eprintln!("  {text}");
        }
    }
    let status = child.wait().context("waiting for apt-get")?;
    if !status.success() {
        bail!("apt-get {} failed ({status})", arguments.join(" "));
    }
    Ok(())
}

/// Picks from apt-get's output what tells how far it is.
#[derive(Default)]
struct Progress {
    expected: usize,
    done: usize,
}

impl Progress {
    fn read(&mut self, line: &str) -> Option<String> {
        if let Some((upgraded, rest)) = line.split_once(" upgraded, ") {
            let installed = rest.split(' ').next()?.parse::<usize>().ok()?;
            self.expected = upgraded.parse::<usize>().ok()? + installed;
            return None;
        }
        if line.starts_with("Need to get ") || line.starts_with("Fetched ") {
            return Some(line.to_owned());
        }
        let name = line.strip_prefix("Setting up ")?.split(' ').next()?;
        self.done += 1;
        Some(format!("[{}/{}] {name}", self.done, self.expected))
    }
}

fn are_package_lists_old(lists: &Path) -> bool {
    let files = fs::read_dir(lists).into_iter().flatten().flatten();
    let newest = files
        .filter(|entry| entry.file_name().to_string_lossy().ends_with("Release"))
        .filter_map(|entry| entry.metadata().ok()?.modified().ok())
        .max();
    newest.is_none_or(|time| SystemTime::now().duration_since(time).is_ok_and(|age| age > PACKAGE_LISTS_AGE))
}

/// Keeps packages from starting the servers they bring. Removes its file when dropped; one that is not
/// ours stays as it is.
struct ServicePolicy(Option<PathBuf>);

impl ServicePolicy {
    const CONTENT: &'static str =
        "#!/bin/sh\n# Put here by cargo xtask setup while it installs packages.\nexit 101\n";

    fn deny(path: &Path) -> Result<Self> {
        if let Ok(found) = fs::read(path) {
            // Ours from a run that was killed is ours to remove.
            let is_ours = found == Self::CONTENT.as_bytes();
            return Ok(ServicePolicy(is_ours.then(|| path.into())));
        }
        fs::write(path, Self::CONTENT).with_context(|| format!("writing {}", path.display()))?;
        let policy = ServicePolicy(Some(path.into()));
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).context("making it executable")?;
        Ok(policy)
    }
}

impl Drop for ServicePolicy {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && let Err(error) = fs::remove_file(path)
        {
            eprintln!("{} stays behind and keeps services from starting: {error}", path.display());
        }
    }
}

/// Builds bpf-linker for the LLVM of the system's compiler, against LLVM's shared library alone.
fn install_linker() -> Result<()> {
    let llvm = bpf::llvm_major(Path::new(bpf::SYSTEM_RUSTC))
        .with_context(|| format!("{} does not say which LLVM it uses", bpf::SYSTEM_RUSTC))?;
    if !LLVM_MAJORS.contains(&llvm) {
        bail!("bpf-linker {} does not know LLVM {llvm}", bpf::LINKER_VERSION);
    }
    let root = bpf::directory(llvm).map_err(anyhow::Error::msg)?;
    let libraries = root.join("llvm/lib");
    fs::create_dir_all(&libraries).with_context(|| format!("creating {}", libraries.display()))?;
    // Two tasks may start together on a fresh machine; the second one finds the work done.
    let lock = File::create(root.join("lock"))?;
    lock.lock()?;
    if bpf::find().is_ok() {
        return Ok(());
    }
    let library = find_llvm(Path::new("/usr/lib"), llvm)
        .with_context(|| format!("no libLLVM.so.{llvm} under /usr/lib; libllvm{llvm} brings it"))?;
    for name in [format!("libLLVM-{llvm}.so"), "libLLVM.so".to_owned()] {
        let link = libraries.join(name);
        let _ = fs::remove_file(&link);
        symlink(&library, &link).with_context(|| format!("linking {}", link.display()))?;
    }
    let mut command = cargo_install("bpf-linker", bpf::LINKER_VERSION, &root);
    command.args(["--no-default-features", "--features", &format!("llvm-{llvm}")]);
    process::run(command.env("LLVM_PREFIX", root.join("llvm")))
}

/// Installs a program from its sources, with the versions of libraries it was released with.
fn cargo_install(package: &str, version: &str, root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["install", package, "--version", version, "--locked", "--debug", "--root"]).arg(root);
    // Not from the workspace, whose settings are for its own packages. Nobody debugs them, and without what that takes
    // they are built in less time.
    command.current_dir("/").env("CARGO_PROFILE_DEV_DEBUG", "0");
    for variable in ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
        command.env_remove(variable);
    }
    command
}

/// The program that checks licences and sources of dependencies; built where it is missing, which takes minutes.
pub fn deny() -> Result<PathBuf> {
    let root = bpf::cache().map_err(anyhow::Error::msg)?.join(format!("cargo-deny-{DENY_VERSION}"));
    let program = root.join("bin/cargo-deny");
    fs::create_dir_all(&root).with_context(|| format!("creating {}", root.display()))?;
    let lock = File::create(root.join("lock"))?;
    lock.lock()?;
    if !program.is_file() {
        process::step("cargo-deny, once");
        process::run(&mut cargo_install("cargo-deny", DENY_VERSION, &root))?;
    }
    Ok(program)
}

/// LLVM's shared library, in the directory of an architecture or of an LLVM version.
fn find_llvm(lib: &Path, major: u32) -> Option<PathBuf> {
    let names = [format!("libLLVM.so.{major}"), format!("libLLVM-{major}.so")];
    let is_library = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        names.iter().any(|prefix| name == *prefix || name.starts_with(&format!("{prefix}.")))
    };
    let directories =
        [PathBuf::from(format!("llvm-{major}/lib")), format!("{}-linux-gnu", std::env::consts::ARCH).into()];
    directories.iter().find_map(|directory| {
        let entries = fs::read_dir(lib.join(directory)).ok()?;
        entries.flatten().map(|entry| entry.path()).filter(|path| path.exists()).find(is_library)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_counts_packages() {
        let mut progress = Progress::default();
        let lines = [
            ("Reading package lists...", None),
            ("0 upgraded, 3 newly installed, 0 to remove and 1 not upgraded.", None),
            ("Need to get 117 MB of archives.", Some("Need to get 117 MB of archives.")),
            ("Unpacking wrk (4.1.0-3) ...", None),
            ("Setting up wrk (4.1.0-3) ...", Some("[1/3] wrk")),
            ("Setting up libllvm22:amd64 (1:22.1.8) ...", Some("[2/3] libllvm22:amd64")),
        ];
        for (line, expected) in lines {
            assert_eq!(progress.read(line).as_deref(), expected, "{line}");
        }
    }

    #[test]
    fn the_policy_of_others_stays() {
        let scratch = process::Scratch::create("setup-policy").unwrap();
        let path = scratch.path("policy-rc.d");
        drop(ServicePolicy::deny(&path).unwrap());
        assert!(!path.exists(), "ours is removed");
        fs::write(&path, ServicePolicy::CONTENT).unwrap();
        drop(ServicePolicy::deny(&path).unwrap());
        assert!(!path.exists(), "ours from a killed run is removed");
        fs::write(&path, "#!/bin/sh\nexit 0\n").unwrap();
        drop(ServicePolicy::deny(&path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "#!/bin/sh\nexit 0\n");
    }

    #[test]
    fn the_policy_can_be_run() {
        let scratch = process::Scratch::create("setup-policy-run").unwrap();
        let path = scratch.path("policy-rc.d");
        let _policy = ServicePolicy::deny(&path).unwrap();
        assert_eq!(Command::new("sh").arg(&path).status().unwrap().code(), Some(101));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o111, 0o111);
    }

    #[test]
    fn llvm_is_found_by_its_major_version() {
        let scratch = process::Scratch::create("setup-llvm").unwrap();
        let triplet = format!("lib/{}-linux-gnu", std::env::consts::ARCH);
        scratch.directory(&triplet).unwrap();
        for name in ["libLLVM-14.so.1", "libLLVM.so.22.1", "libLLVM.so.221"] {
            scratch.write(&format!("{triplet}/{name}"), "").unwrap();
        }
        let lib = scratch.path("lib");
        assert_eq!(
            find_llvm(&lib, 22),
            Some(lib.join(format!("{}-linux-gnu/libLLVM.so.22.1", std::env::consts::ARCH)))
        );
        assert!(find_llvm(&lib, 14).is_some());
        assert_eq!(find_llvm(&lib, 23), None);
    }

    #[test]
    fn every_task_has_its_programs_once() {
        let mut names: Vec<&str> = PROGRAMS.iter().map(|program| program.0).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), PROGRAMS.len());
        for need in [Build, Bench, Conformance, Demo, Fuzz, Test, Vm] {
            assert!(PROGRAMS.iter().any(|program| program.3.contains(&need)), "{need:?}");
        }
    }
}
