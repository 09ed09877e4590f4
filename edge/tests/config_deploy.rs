//! What `deploy/` ships: the commented configuration, the unit and the account it runs under.

use edge::config::{self, Clients, Config, Steering, XdpMode};
use edge::limits;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file)
}

fn text(file: &str) -> String {
    std::fs::read_to_string(deploy(file)).unwrap()
}

#[test]
fn the_commented_configuration_is_right() {
    config::load(&deploy("edge.toml")).unwrap();
}

/// Takes `# key = value` lines and `# [section]` lines out of their comments.
fn uncommented() -> String {
    let example = |line: &str| {
        let Some(rest) = line.strip_prefix("# ") else { return line.to_owned() };
        let key = rest.split(" = ").next().unwrap_or_default();
        let is_key = rest.contains(" = ") && key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        if is_key || rest.starts_with('[') { rest.to_owned() } else { line.to_owned() }
    };
    text("edge.toml").lines().map(|line| example(line) + "\n").collect()
}

struct AnyFile;

impl config::Files for AnyFile {
    fn readable(&self, _: &Path) -> Result<(), String> {
        Ok(())
    }

    /// A certificate, its key, an OCSP response, or a token; which, the name tells.
    fn read(&self, path: &Path) -> Result<Vec<u8>, String> {
        static MADE: OnceLock<(String, String)> = OnceLock::new();
        let (certificate, key) = MADE.get_or_init(|| {
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new(["www.example.com".to_owned()]).unwrap();
            (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
        });
        if path.extension().is_some_and(|extension| extension == "token") {
            return Ok(b"0123456789abcdef".to_vec());
        }
        if path.extension().is_some_and(|extension| extension == "ocsp") {
            // One that says nothing of any certificate (RFC 6960 section 4.2.1).
            let outer = *b"\x30\x1e\x0a\x01\x00\xa0\x19\x30\x17\x06\x09\x2b\x06\x01\x05\x05\x07\x30\x01\x01";
            let inner = *b"\x04\x0a\x30\x08\x30\x06\xa2\x00\x18\x00\x30\x00";
            return Ok([&outer[..], &inner[..]].concat());
        }
        let is_key = path.extension().is_some_and(|extension| extension == "key");
        Ok((if is_key { key } else { certificate }).clone().into_bytes())
    }

    fn unix_s(&self) -> u64 {
        1_751_328_000
    }
}

#[test]
fn every_example_in_its_comments_is_right_and_every_default_true() {
    let all: Config = config::parse("edge.toml", uncommented().as_bytes(), &AnyFile).unwrap();
    assert_eq!(all.clients, Clients::default());
    assert_eq!(all.cpus, Some(vec![0, 1, 2, 3, 6]));
    let main = all.origins.iter().find(|origin| origin.name == "main").unwrap();
    assert_eq!(main.concurrency_max, limits::FETCHES_RUNNING_MAX);
    assert_eq!(main.connect_timeout_ms, limits::CONNECT_TIMEOUT_MS);
    assert_eq!(main.first_byte_timeout_ms, limits::FIRST_BYTE_TIMEOUT_MS);
    assert!(all.origins.iter().any(|origin| origin.ca_file.is_some()));
    assert!(all.https[0].ocsp.is_some() && all.https[0].client_ca.is_some());
    assert!(!all.tls.tls13_only);
    let xdp = all.xdp.unwrap();
    assert_eq!((xdp.mode, xdp.steering), (XdpMode::Auto, Steering::Auto));
    let full = &all.routes[0].pattern;
    assert!(
        full.host.is_some() && full.path.is_some() && full.header.is_some(),
        "every route key has an example"
    );
    assert!(all.routes.iter().any(|route| route.transport.client_certificate));
    let rules = &all.routes[0].caching;
    assert!(
        rules.ttl_s.is_some()
            && rules.stale_max_s.is_some()
            && rules.strip_cookie
            && rules.strip_set_cookie
            && rules.query.is_some(),
        "every rule for caching has an example"
    );
    let other = &all.routes[1].caching;
    assert!(other.ttl_override_s.is_some() && other.query.as_ref().is_some_and(|query| query.sorts()));
    assert_eq!(all.routes.len(), 4);
}

#[test]
fn the_unit_gives_what_the_code_counts_on() {
    let unit = text("edge.service");
    let values = |key: &str| -> Vec<&str> {
        unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
    };
    assert_eq!(values("Type"), ["notify"], "notify-reload would need systemd 253");
    assert_eq!(values("AmbientCapabilities"), values("CapabilityBoundingSet"));
    assert!(values("PrivateUsers").is_empty() && values("ProtectKernelTunables").is_empty());
    assert!(values("SystemCallFilter").iter().any(|filter| filter.split(' ').any(|call| call == "bpf")));
    assert_eq!(values("CacheDirectory"), ["edge"]);
    let config = config::load(&deploy("edge.toml")).unwrap();
    assert_eq!(
        config.store[0].path,
        Path::new("/var/cache/edge"),
        "the only directory the unit lets edge write"
    );
    let stuck = std::time::Duration::from_millis(edge::notify::STUCK_AFTER_MS);
    let watchdog = std::time::Duration::from_secs(values("WatchdogSec")[0].parse().unwrap());
    assert!(watchdog > 2 * stuck, "a stuck worker must be named in the status before the watchdog strikes");
    let nofile: u64 = values("LimitNOFILE")[0].parse().unwrap();
    assert!(nofile >= edge::preflight::nofile_needed(32, &config.clients));
}

/// Runs a program of systemd's; `None` where it is not installed.
fn systemd(program: &str, arguments: &[&std::ffi::OsStr]) -> Option<std::process::Output> {
    match Command::new(program).args(arguments).output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("{program} is not installed: apt-get install systemd");
            None
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

#[test]
fn systemd_finds_nothing_in_the_unit() {
    let directory = std::env::temp_dir().join(format!("edge-unit-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let unit = directory.join("edge.service");
    // The program is not installed where it will be; that is all that may differ.
    let program = env!("CARGO_BIN_EXE_edge");
    let verify = |unit_text: String| {
        std::fs::write(&unit, unit_text).unwrap();
        systemd("systemd-analyze", &["verify".as_ref(), "--man=no".as_ref(), unit.as_os_str()])
    };
    let shipped = text("edge.service").replace("/usr/bin/edge", program);
    let good = verify(shipped.clone());
    let bad = verify(shipped.replace("ProtectHome=yes", "ProtectHoem=yes"));
    std::fs::remove_dir_all(&directory).unwrap();
    let (Some(good), Some(bad)) = (good, bad) else { return };
    // Other units of the machine, of no concern here, are named in their own lines.
    let about_ours = |output: &std::process::Output| -> Vec<String> {
        let said =
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        said.lines().filter(|line| line.contains("edge.service")).map(str::to_owned).collect()
    };
    assert_eq!(about_ours(&good), Vec::<String>::new());
    assert!(good.status.success(), "{good:?}");
    assert!(!about_ours(&bad).is_empty(), "a misspelt key must be seen: {bad:?}");
}

#[test]
fn the_account_can_be_made() {
    let root = std::env::temp_dir().join(format!("edge-sysusers-{}", std::process::id()));
    std::fs::create_dir_all(root.join("etc")).unwrap();
    let flag = format!("--root={}", root.display());
    let made = systemd(
        "systemd-sysusers",
        &[flag.as_ref(), deploy("edge.sysusers").canonicalize().unwrap().as_os_str()],
    );
    let passwd = std::fs::read_to_string(root.join("etc/passwd")).unwrap_or_default();
    std::fs::remove_dir_all(&root).unwrap();
    let Some(made) = made else { return };
    assert!(made.status.success(), "{made:?}");
    assert!(passwd.starts_with("edge:"), "{passwd:?}");
    assert!(passwd.trim_end().ends_with("/var/cache/edge:/usr/sbin/nologin"), "{passwd:?}");
}
