//! The pure part with invented machines, and the probe against this one.
#![forbid(unsafe_code)]

use super::*;
use crate::config::Files;
use std::path::Path;

struct NoFiles;

impl Files for NoFiles {
    fn readable(&self, _: &Path) -> Result<(), String> {
        Err("no files here".into())
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>, String> {
        self.readable(path).map(|()| Vec::new())
    }

    fn unix_s(&self) -> u64 {
        0
    }
}

fn config(extra: &str) -> Config {
    let text = format!(
        "[listen]\nhttp = [\"127.0.0.1:80\"]\n[store]\npath = \"/c\"\nsize = \"1GiB\"\n[origins.a]\n\
         servers = [\"http://127.0.0.1:8000\"]\n[[routes]]\norigin = \"a\"\n{extra}"
    );
    crate::config::parse("f", text.as_bytes(), &NoFiles).unwrap()
}

/// A machine that lacks nothing.
fn machine() -> Machine {
    Machine {
        kernel: Some((6, 12)),
        ring_error: None,
        io_uring_disabled: Some(0),
        nofile: Some((1024, 1 << 20)),
        memlock_bytes: Some(8 << 20),
        capabilities: Some(u64::MAX),
        cpus: vec![0, 1, 2, 3],
        somaxconn: Some(4096),
        unprivileged_port_start: Some(1024),
        interfaces: vec!["eth0".into(), "lo".into()],
        shards: vec![Some(StoreDisk {
            kind: "xfs".into(),
            free_bytes: 8 << 30,
            own_bytes: 0,
            writable: true,
            own: true,
        })],
        untakeable: vec![],
        memory_available_bytes: Some(4 << 30),
    }
}

const XDP: &str = "[xdp]\ninterface = \"eth0\"\n";

#[test]
fn a_machine_that_lacks_nothing_has_no_findings() {
    assert_eq!(judge(&machine(), &config("")), []);
    assert_eq!(judge(&machine(), &config(XDP)), []);
}

#[test]
fn what_cannot_be_read_is_not_held_against_the_machine() {
    assert_eq!(judge(&Machine::default(), &config(XDP)), []);
}

/// Breaks one thing and expects one finding with these words.
fn check(extra: &str, severity: Severity, words: &[&str], break_it: impl Fn(&mut Machine)) {
    let mut broken = machine();
    break_it(&mut broken);
    let findings = judge(&broken, &config(extra));
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].severity, severity, "{}", findings[0]);
    for word in words {
        assert!(findings[0].to_string().contains(word), "{word:?} not in {}", findings[0]);
    }
}

#[test]
fn each_lack_is_found_with_its_fix() {
    use Severity::{Fatal, Note, Warning};
    check("", Fatal, &["5.15", "6.1"], |m| m.kernel = Some((5, 15)));
    check("", Fatal, &["seccomp"], |m| m.ring_error = Some((nix::libc::EPERM, "not permitted".into())));
    check("", Fatal, &["kernel.io_uring_disabled=0"], |m| {
        m.ring_error = Some((nix::libc::EPERM, "not permitted".into()));
        m.io_uring_disabled = Some(2);
    });
    check("[node]\ncpus = \"2-5\"\n", Fatal, &["CPU 4, 5", "0-3"], |_| {});
    check("", Warning, &["LimitNOFILE="], |m| {
        m.nofile = Some((1024, 4096));
        m.capabilities = Some(!(1 << SYS_RESOURCE));
    });
    check("", Fatal, &["LimitMEMLOCK"], |m| m.ring_error = Some((nix::libc::ENOMEM, "no memory".into())));
    check("", Warning, &["only 64 KiB", "2560 KiB", "LimitMEMLOCK"], |m| {
        m.memlock_bytes = Some(64 << 10);
        m.capabilities = Some(!(1 << SYS_RESOURCE));
    });
    let address = || "192.0.2.7:80".parse().unwrap();
    check("", Fatal, &["another process", "192.0.2.7:80", "ss -ltnp"], |m| {
        m.untakeable = vec![(address(), nix::libc::EADDRINUSE, "in use".into())];
    });
    check("", Fatal, &["no address 192.0.2.7", "ip address"], |m| {
        m.untakeable = vec![(address(), nix::libc::EADDRNOTAVAIL, "not there".into())];
    });
    check("", Fatal, &["127.0.0.1:80", "CAP_NET_BIND_SERVICE", "1024"], |m| {
        m.capabilities = Some(!(1 << NET_BIND_SERVICE));
    });
    check("", Note, &["CAP_NET_ADMIN"], |m| m.capabilities = Some(!(1 << NET_ADMIN)));
    check(XDP, Warning, &["CAP_NET_ADMIN"], |m| m.capabilities = Some(!(1 << NET_ADMIN)));
    let no_bpf = !(1 << BPF | 1 << PERFMON | 1 << SYS_ADMIN);
    check(XDP, Warning, &["AmbientCapabilities=CAP_BPF CAP_PERFMON"], move |m| m.capabilities = Some(no_bpf));
    check(XDP, Note, &["CAP_SYS_NICE"], |m| m.capabilities = Some(!(1 << SYS_NICE)));
    check("", Note, &["somaxconn=4096"], |m| m.somaxconn = Some(128));
    check(&XDP.replace("eth0", "eth7"), Warning, &["\"eth7\"", "eth0, lo"], |_| {});
    let disk = |change: fn(&mut StoreDisk)| move |m: &mut Machine| change(m.shards[0].as_mut().unwrap());
    check("", Fatal, &["no directory that can be written"], disk(|d| d.writable = false));
    check("", Warning, &["another account", "chown"], disk(|d| d.own = false));
    check("", Fatal, &["500 MiB free", "1024 MiB more", "\"500MiB\""], disk(|d| d.free_bytes = 500 << 20));
    check("", Warning, &["nfs", "local file system"], disk(|d| d.kind = "nfs".into()));
    check("", Warning, &["tmpfs", "\"512MiB\""], |m| {
        m.shards[0].as_mut().unwrap().kind = "tmpfs".into();
        m.memory_available_bytes = Some(512 << 20);
    });
}

#[test]
fn a_store_that_is_to_be_held_in_memory_must_fit_it() {
    let mut m = machine();
    m.memory_available_bytes = Some(512 << 20);
    let mut config = config("");
    let found =
        |m: &Machine, config: &Config| judge(m, config).into_iter().map(|f| (f.severity, f.to_string()));
    assert_eq!(found(&m, &config).next(), None, "a disk may be larger than memory");
    config.store[0].hold = crate::shard::Hold::Lock;
    let (severity, text) = found(&m, &config).next().unwrap();
    assert!(
        severity == Severity::Fatal
            && text.contains("512 MiB are available")
            && text.contains("lock = false"),
        "{text}"
    );
    // Huge pages are not memory that is available, and without them there are others.
    m.shards[0].as_mut().unwrap().kind = "hugetlbfs".into();
    assert_eq!(found(&m, &config).next(), None);
    m.shards[0].as_mut().unwrap().free_bytes = 8 << 20;
    let (severity, text) = found(&m, &config).next().unwrap();
    assert!(
        severity == Severity::Warning
            && text.contains("8 MiB of huge pages free")
            && text.contains("vm.nr_hugepages")
    );
}

#[test]
fn lacks_that_something_else_makes_good_are_not_reported() {
    let mut m = machine();
    m.capabilities = Some(1 << SYS_ADMIN | 1 << NET_ADMIN | 1 << NET_BIND_SERVICE | 1 << SYS_NICE);
    assert_eq!(judge(&m, &config(XDP)), [], "CAP_SYS_ADMIN includes CAP_BPF and CAP_PERFMON");
    m.shards[0] = Some(StoreDisk { free_bytes: 0, own_bytes: 1 << 30, ..m.shards[0].clone().unwrap() });
    assert_eq!(judge(&m, &config(XDP)), [], "the store already has its space");
    m.capabilities = Some(0);
    m.unprivileged_port_start = Some(80);
    assert!(judge(&m, &config("")).iter().all(|f| f.severity < Severity::Fatal), "port 80 is free for all");
}

#[test]
fn the_worst_comes_first() {
    let mut m = machine();
    m.somaxconn = Some(1);
    m.interfaces = vec!["lo".into()];
    m.kernel = Some((4, 19));
    let order: Vec<Severity> = judge(&m, &config(XDP)).iter().map(|f| f.severity).collect();
    assert_eq!(order, [Severity::Fatal, Severity::Warning, Severity::Note]);
}

#[test]
fn kernel_versions_and_cpu_ranges() {
    assert_eq!(probe::kernel_version("6.1.0-18-amd64"), Some((6, 1)));
    assert_eq!(probe::kernel_version("6.18\n"), Some((6, 18)));
    assert_eq!(probe::kernel_version("linux"), None);
    assert_eq!(ranges(&[0, 1, 2, 3, 6, 8, 9]), "0-3,6,8-9");
    assert_eq!(ranges(&[]), "");
    assert_eq!(probe::memory_available_bytes("MemTotal: 9 kB\nMemAvailable:   12 kB\n"), Some(12 * 1024));
}

#[test]
fn this_machine_can_be_read() {
    let machine = probe([Path::new("/nowhere/cache")].into_iter(), std::iter::empty());
    assert!(machine.kernel.is_some_and(|version| version > (2, 6)));
    assert!(!machine.cpus.is_empty() && machine.interfaces.contains(&"lo".to_owned()));
    assert!(machine.nofile.is_some() && machine.capabilities.is_some() && machine.somaxconn.is_some());
    let disk = machine.shards[0].as_ref().expect("the root directory stands in for what does not exist");
    assert!(!disk.kind.is_empty() && disk.own_bytes == 0);
    let shm = probe([Path::new("/dev/shm")].into_iter(), std::iter::empty()).shards.remove(0);
    assert!(shm.is_none_or(|disk| disk.kind == "tmpfs"));
}

#[test]
fn the_soft_limit_of_descriptors_rises_to_what_is_needed() {
    let (_, hard) = probe(std::iter::empty(), std::iter::empty()).nofile.unwrap();
    let soft = raise_nofile(1).unwrap();
    assert!(soft >= 1, "a limit is never lowered");
    assert_eq!(raise_nofile(soft).unwrap(), soft);
    let most = raise_nofile(hard).unwrap();
    assert_eq!(most, hard);
}

#[test]
fn an_address_that_another_has_is_found_also_if_it_would_share() {
    let first = crate::sys::socket::listener("127.0.0.1:0".parse().unwrap()).unwrap();
    let taken: std::net::SocketAddr =
        std::net::TcpListener::from(first.try_clone().unwrap()).local_addr().unwrap();
    let found = || probe(std::iter::empty(), [taken].into_iter()).untakeable;
    assert!(
        matches!(found()[..], [(address, nix::libc::EADDRINUSE, _)] if address == taken),
        "{:?}",
        found()
    );
    drop(first);
    assert_eq!(found(), []);
    let foreign = "192.0.2.7:80".parse().unwrap();
    let missing = probe(std::iter::empty(), [foreign].into_iter()).untakeable;
    assert!(matches!(missing[..], [(_, nix::libc::EADDRNOTAVAIL, _)]), "{missing:?}");
}
