//! `cargo xtask vm`: boots kernels of Debian in qemu and runs in them the end-to-end tests that the kernel of this machine
//! has to leave out: those of TLS in the kernel. By emulation, for KVM may be there and fail where a machine is itself a
//! virtual one. One CPU and an initramfs of busybox, the kernel's own modules, the test binary, edge, and the programs
//! they call.
#![forbid(unsafe_code)]

use crate::process::{Running, Scratch};
use crate::{bpf, build, process, setup};
use anyhow::{Context, Result, bail};
use clap::Args;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A kernel, and what is known of it.
struct Kernel {
    version: &'static str,
    /// The names of its package begin and end so.
    package: (&'static str, &'static str),
    /// Options of sockets can be set through a ring, so that TLS is handed over; else the node must say why not.
    seals: bool,
}

const KERNELS: [Kernel; 2] = [
    Kernel { version: "6.1", package: ("linux-image-6.1.0-", "-cloud-amd64"), seals: false },
    Kernel { version: "6.12", package: ("linux-image-6.12.", "+deb12-cloud-amd64"), seals: true },
];
/// Tests that are run where the kernel seals, and where it does not: there each says why it is left out, and one shows
/// that TLS works all the same.
const SEALED: &[&str] = &["kernel_tls::"];
const UNSEALED: &[&str] = &["kernel_tls::", "tls::curl_is_served"];
/// What a node on a kernel that cannot do it has to say.
const REASON: &str = "Linux 6.7";
/// What the tests call.
const PROGRAMS: [&str; 4] = ["curl", "openssl", "timeout", "h2load"];
/// Modules that TLS and its ciphers need.
const MODULES: [&str; 4] = ["kernel/crypto", "kernel/arch/x86/crypto", "kernel/lib", "kernel/net/tls"];
/// Everything, on a machine that emulates and has other things to do.
const PATIENCE: Duration = Duration::from_secs(30 * 60);
/// The line the machine ends with.
const RESULT: &str = "vm: tests ended with ";
const APPLETS: [&str; 7] = ["sh", "mount", "ip", "uname", "cat", "poweroff", "mkdir"];

const EXAMPLES: &str = "Examples:
  cargo xtask vm                        every kernel
  cargo xtask vm --kernel 6.12 resumed  one kernel, the tests whose name contains it";

/// Options of the task.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Options {
    /// Only this kernel: 6.1 or 6.12.
    #[arg(long)]
    kernel: Option<String>,
    /// Only tests whose name contains this.
    filter: Option<String>,
}

/// The task.
pub fn run(options: &Options) -> Result<()> {
    setup::ensure(&setup::Need::Vm)?;
    let chosen = |kernel: &&Kernel| options.kernel.as_ref().is_none_or(|wanted| wanted == kernel.version);
    let kernels: Vec<&Kernel> = KERNELS.iter().filter(chosen).collect();
    if kernels.is_empty() {
        bail!("no such kernel; known are {}", KERNELS.map(|kernel| kernel.version).join(" and "));
    }
    process::run(&mut build::cargo(&["build", "--locked", "--package", "edge"]))?;
    let tests = test_binary()?;
    let mut skipped = 0;
    for kernel in kernels {
        process::step(&format!("Linux {}", kernel.version));
        let Some(files) = installed(kernel)? else {
            println!(
                "SKIPPED Linux {}: apt has no package {}…{}",
                kernel.version, kernel.package.0, kernel.package.1
            );
            skipped += 1;
            continue;
        };
        let begun = Instant::now();
        boot(kernel, &files, &tests, options.filter.as_deref())?;
        println!("Linux {}: ok in {:.0} s", kernel.version, begun.elapsed().as_secs_f64());
    }
    if skipped > 0 {
        bail!("{skipped} kernels were left out");
    }
    Ok(())
}

/// The end-to-end tests, built as `cargo test` does.
fn test_binary() -> Result<PathBuf> {
    let arguments = ["test", "--locked", "--package=edge", "--test=e2e", "--no-run", "--message-format=json"];
    let messages = process::output(&mut build::cargo(&arguments))?;
    let executable = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_test = message["target"]["name"] == "e2e";
        message["executable"].as_str().filter(|_| is_test).map(PathBuf::from)
    };
    messages.lines().find_map(executable).context("cargo built no e2e tests")
}

/// The files of the newest package of a kernel, unpacked in the cache; `None`: apt knows none.
fn installed(kernel: &Kernel) -> Result<Option<PathBuf>> {
    let (prefix, suffix) = kernel.package;
    let names = process::output(Command::new("apt-cache").args(["pkgnames", prefix]))?;
    let Some(package) = newest(names.lines(), prefix, suffix) else { return Ok(None) };
    let kept = bpf::cache().map_err(anyhow::Error::msg)?.join("kernels").join(package);
    if !kept.join("boot").is_dir() {
        let scratch = Scratch::create("vm-package")?;
        let directory = scratch.directory("deb")?;
        process::run(Command::new("apt-get").args(["-q", "download", package]).current_dir(&directory))?;
        let archive =
            fs::read_dir(&directory)?.flatten().next().context("apt-get downloaded nothing")?.path();
        fs::create_dir_all(kept.parent().unwrap_or(&kept))?;
        // Whole or not at all.
        let partial = kept.with_extension("partial");
        process::run(Command::new("dpkg").arg("-x").arg(&archive).arg(&partial))?;
        fs::rename(&partial, &kept).with_context(|| format!("keeping {}", kept.display()))?;
    }
    Ok(Some(kept))
}

/// The package whose number between prefix and suffix is the highest.
fn newest<'a>(names: impl Iterator<Item = &'a str>, prefix: &str, suffix: &str) -> Option<&'a str> {
    let number = |name: &str| name.strip_prefix(prefix)?.strip_suffix(suffix)?.parse::<u32>().ok();
    names.filter_map(|name| Some((number(name)?, name))).max().map(|(_, name)| name)
}

fn boot(kernel: &Kernel, files: &Path, tests: &Path, filter: Option<&str>) -> Result<()> {
    let scratch = Scratch::create("vm")?;
    let root = scratch.directory("root")?;
    modules(files, &root)?;
    for applet in APPLETS {
        link("/bin/busybox", &root.join("bin").join(applet))?;
    }
    // The kernel loads ciphers by it.
    link("/bin/busybox", &root.join("sbin/modprobe"))?;
    copy(&find("busybox")?, &root, Path::new("/bin/busybox"))?;
    copy(tests, &root, Path::new("/opt/e2e"))?;
    copy(&build::debug_binary("edge")?, &root, Path::new("/opt/edge"))?;
    for program in PROGRAMS {
        copy(&find(program)?, &root, &Path::new("/usr/bin").join(program))?;
    }
    fs::write(root.join("init"), init(kernel, filter))?;
    fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755))?;
    let initramfs = scratch.path("initramfs");
    let pack = "find . | cpio --quiet -o -H newc > \"$0\"";
    process::run(Command::new("sh").args(["-c", pack]).arg(&initramfs).current_dir(&root))?;
    fs::remove_dir_all(&root)?;
    let image = entry(&files.join("boot"), "vmlinuz-")?;
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", "1536", "-nodefaults"])
        .args([
            "-no-reboot",
            "-display",
            "none",
            "-serial",
            "stdio",
            "-append",
            "console=ttyS0 quiet panic=-1",
        ])
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(&initramfs)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    eprintln!("$ {}", process::shown(&qemu));
    watch(kernel, Running::start(&mut qemu)?)
}

/// Shows what the machine says, until it ends.
fn watch(kernel: &Kernel, mut machine: Running) -> Result<()> {
    let lines = BufReader::new(machine.output()?);
    let (send, received) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in lines.lines().map_while(std::result::Result::ok) {
            if send.send(line).is_err() {
                return;
            }
        }
    });
    let end = Instant::now() + PATIENCE;
    let (mut verdict, mut left_out) = (None, Vec::new());
    loop {
        process::proceed()?;
        match received.recv_timeout(Duration::from_millis(100)) {
            Ok(line) => {
                let line = line.trim_end();
                println!("{line}");
                verdict = line.strip_prefix(RESULT).map(str::to_owned).or(verdict);
                if line.starts_with("SKIPPED") {
                    left_out.push(line.to_owned());
                }
            }
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
            Err(_) if Instant::now() > end => bail!("not done within {} s", PATIENCE.as_secs()),
            Err(_) => {}
        }
    }
    match verdict.as_deref() {
        Some("0") => {}
        Some(status) => bail!("tests failed on Linux {} (status {status})", kernel.version),
        None => bail!("the machine ended before its tests did"),
    }
    if kernel.seals && !left_out.is_empty() {
        bail!("tests were left out on a kernel that can run them:\n{}", left_out.join("\n"));
    }
    if !kernel.seals && (left_out.is_empty() || !left_out.iter().all(|line| line.contains(REASON))) {
        bail!("the node does not say that {REASON} is needed:\n{}", left_out.join("\n"));
    }
    Ok(())
}

/// The first process of the machine.
fn init(kernel: &Kernel, filter: Option<&str>) -> String {
    let on = if kernel.seals { "export EDGE_KERNEL_TLS=on" } else { "" };
    let tests = match filter {
        Some(filter) => filter.to_owned(),
        None => (if kernel.seals { SEALED } else { UNSEALED }).join(" "),
    };
    format!(
        "#!/bin/sh\n\
         mkdir -p /proc /sys /dev /tmp\n\
         mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp\n\
         ip link set lo up\n\
         uname -r\n\
         export EDGE_BIN=/opt/edge PATH=/bin:/sbin:/usr/bin\n{on}\n\
         /opt/e2e --test-threads=1 --show-output {tests}\n\
         echo \"{RESULT}$?\"\n\
         cat /proc/net/tls_stat\n\
         poweroff -f\n"
    )
}

/// Copies the kernel's modules, unpacked, with what `modprobe` looks them up in.
fn modules(files: &Path, root: &Path) -> Result<()> {
    let from = entry(&files.join("lib/modules"), "")?;
    let release = from.file_name().context("a release")?;
    let to = root.join("lib/modules").join(release);
    for name in MODULES {
        if from.join(name).is_dir() {
            let parent = to.join(name);
            fs::create_dir_all(&parent)?;
            process::run(Command::new("cp").arg("-r").arg(from.join(name).join(".")).arg(&parent))?;
        }
    }
    for list in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
        fs::copy(from.join(list), to.join(list)).with_context(|| format!("copying {list}"))?;
    }
    process::run(Command::new("find").arg(&to).args(["-name", "*.ko.xz", "-exec", "xz", "-d", "{}", "+"]))?;
    process::run(Command::new("busybox").args(["depmod", "-b"]).arg(root).arg(release))
}

/// Copies a program, without what only debuggers read, and the libraries it is linked with.
fn copy(program: &Path, root: &Path, to: &Path) -> Result<()> {
    let inside = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    let target = inside(to);
    fs::create_dir_all(target.parent().unwrap_or(root))?;
    process::run(Command::new("strip").arg("-o").arg(&target).arg(program))?;
    fs::set_permissions(&target, fs::Permissions::from_mode(0o755))?;
    // It fails for a program that is linked with none.
    let libraries = process::output(Command::new("ldd").arg(program)).unwrap_or_default();
    let paths = libraries.split_whitespace().filter(|word| word.starts_with('/'));
    for library in paths.map(Path::new) {
        let target = inside(library);
        fs::create_dir_all(target.parent().unwrap_or(root))?;
        fs::copy(library, &target).with_context(|| format!("copying {}", library.display()))?;
    }
    Ok(())
}

fn link(to: &str, at: &Path) -> Result<()> {
    fs::create_dir_all(at.parent().unwrap_or(at))?;
    symlink(to, at).with_context(|| format!("linking {}", at.display()))
}

/// Where a program lies.
fn find(program: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).map(|directory| directory.join(program)).find(|path| path.is_file());
    found.with_context(|| format!("{program} is not in PATH"))
}

/// The entry of a directory whose name begins so.
fn entry(directory: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    let mut paths = entries.flatten().map(|entry| entry.path());
    let found =
        paths.find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)));
    found.with_context(|| format!("no {prefix}… in {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_package_is_the_one_with_the_highest_number() {
        let names = [
            "linux-image-6.12.9+deb12-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-6.12.120+deb12-amd64",
            "linux-image-6.12.130+deb12-cloud-amd64-dbg",
            "linux-image-6.1.0-50-cloud-amd64",
        ];
        let [old, new] = KERNELS;
        let find = |kernel: Kernel| newest(names.into_iter(), kernel.package.0, kernel.package.1);
        assert_eq!(find(new), Some(names[1]));
        assert_eq!(find(old), Some(names[4]));
        assert_eq!(newest([].into_iter(), "a", "b"), None);
    }

    #[test]
    fn where_the_kernel_cannot_seal_the_tests_may_say_so() {
        let [old, new] = KERNELS;
        assert!(
            init(&new, None).contains("EDGE_KERNEL_TLS=on") && !init(&old, None).contains("EDGE_KERNEL_TLS")
        );
        assert!(init(&old, None).contains("--show-output kernel_tls:: tls::curl_is_served\n"));
        assert!(init(&new, Some("resumed")).contains("--show-output resumed\n"));
    }
}
