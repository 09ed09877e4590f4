//! Builds the BPF object from `edge-ebpf` and hands it to the library as `OUT_DIR/bpf.rs`. Without the
//! tool chain the library is told why instead, and the node serves without XDP.

#[path = "../xtask/src/bpf.rs"]
mod bpf;

use std::path::{Path, PathBuf};
use std::process::Command;

/// What the nested build may see. All else, such as the outer build's flags and wrappers, would change
/// or break it.
const ENVIRONMENT: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "TMPDIR",
    "LANG",
    "CARGO_HOME",
    "RUSTUP_HOME",
    "LD_LIBRARY_PATH",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];
/// Settings of cargo for registries and the network.
const ENVIRONMENT_PREFIXES: &[&str] = &["CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_"];

fn main() {
    let manifest = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let workspace = manifest.parent().expect("edge lies in the workspace").to_owned();
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    for input in ["edge/build.rs", "edge-ebpf/src", "edge-ebpf/Cargo.toml", "Cargo.lock", "xtask/src/bpf.rs"]
    {
        println!("cargo:rerun-if-changed={}", workspace.join(input).display());
    }
    for variable in [bpf::TOOLCHAIN_VARIABLE, "XDG_CACHE_HOME", "HOME", "PATH"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let object = match bpf::find() {
        Ok(toolchain) => {
            // The linker disappearing or being replaced counts as a change.
            println!("cargo:rerun-if-changed={}", toolchain.linker.display());
            println!("cargo:rerun-if-changed={}", toolchain.rustc.display());
            let object = build(&toolchain, &workspace, &out);
            format!("Ok(aya::include_bytes_aligned!({object:?}))")
        }
        Err(missing) => {
            // A file that never exists makes cargo run this again, so a later set-up is noticed.
            println!("cargo:rerun-if-changed={}", out.join("no-bpf-tool-chain").display());
            let reason =
                format!("built without the BPF tool chain: {missing}; `cargo xtask setup` installs it");
            println!("cargo:warning=XDP is left out: {reason}");
            format!("Err({reason:?})")
        }
    };
    let code = format!(
        "/// The BPF object, or why this binary has none.\npub const OBJECT: Result<&[u8], &str> = {object};\n"
    );
    let generated = out.join("bpf.rs");
    if std::fs::read_to_string(&generated).ok().as_deref() != Some(code.as_str()) {
        std::fs::write(&generated, code).expect("OUT_DIR can be written");
    }
}

/// Runs the nested build and returns the path of the object, a copy in `out`.
fn build(toolchain: &bpf::Toolchain, workspace: &Path, out: &Path) -> PathBuf {
    // One nested directory for all profiles, beside them in the target directory, which cargo marks
    // with a tag. It cannot be the target directory itself: the outer build holds its lock.
    let target = out.ancestors().find(|directory| directory.join("CACHEDIR.TAG").is_file());
    let target = target.unwrap_or(out).join("bpf");
    let flags = [
        "-Cdebuginfo=2".to_owned(),
        // Jumps and moves of 32 bits: without them the verifier loses track of ranges.
        "-Ctarget-cpu=v3".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        format!("-Clinker={}", toolchain.linker.display()),
    ];
    // Building `core` takes the cargo that belongs to the compiler.
    let cargo = match toolchain.is_core_built {
        true => toolchain.rustc.with_file_name("cargo").into(),
        false => std::env::var_os("CARGO").expect("cargo sets it"),
    };
    let mut command = Command::new(cargo);
    command.env_clear();
    for (name, value) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ENVIRONMENT.contains(&&*text) || ENVIRONMENT_PREFIXES.iter().any(|prefix| text.starts_with(prefix))
        {
            command.env(&name, value);
        }
    }
    command
        .current_dir(workspace)
        .env("RUSTC", &toolchain.rustc)
        // The BPF helpers' crates use unstable features of the compiler.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .args(["build", "--package", "edge-ebpf", "--bin", "edge-ebpf", "--features", "programs"])
        .args(["--profile", "bpf", "--locked", "--target", bpf::TARGET])
        .arg("--target-dir")
        .arg(&target);
    if toolchain.is_core_built {
        command.args(["-Z", "build-std=core"]);
    }
    let output = command.output().expect("cargo can be started");
    assert!(
        output.status.success(),
        "the BPF object does not build with {}:\n{}",
        toolchain.rustc.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    let object = out.join("edge-ebpf");
    let built = std::fs::read(target.join(bpf::TARGET).join("bpf/edge-ebpf")).expect("cargo built it");
    if std::fs::read(&object).ok().as_ref() != Some(&built) {
        std::fs::write(&object, built).expect("OUT_DIR can be written");
    }
    object
}
