//! Gives up the capabilities that only start-up needs: attaching programs, binding low ports, priorities.
//!
//! Capabilities belong to threads. [`drop_all`] is called once, after attaching and before the first thread
//! is spawned, so that every later thread is born without them.

use nix::libc;
use std::io;

/// Highest capability number that is tried; the kernel says EINVAL past its own last one.
const CAPABILITIES_MAX: libc::c_ulong = 64;

/// Layout version 3 of `capset(2)`: two words for each of the three sets.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Clears the ambient, effective, permitted, inheritable and (where allowed) bounding sets of the calling
/// thread and sets `no_new_privs`, so that nothing executed later regains them.
///
/// # Errors
/// What the kernel said; capabilities may then be partly gone, so the caller must not go on.
pub fn drop_all() -> io::Result<()> {
    nix::sys::prctl::set_no_new_privs()?;
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong)?;
    for capability in 0..CAPABILITIES_MAX {
        match prctl(libc::PR_CAPBSET_DROP, capability) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            // Without CAP_SETPCAP the bounding set stays; with no_new_privs it grants nothing.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => break,
            Err(error) => return Err(error),
        }
    }
    let header = CapHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let data = [CapData::default(); 2];
    // SAFETY: both pointers are to live values laid out as version 3 of capset(2) asks; pid 0 is this thread.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn prctl(option: libc::c_int, argument: libc::c_ulong) -> io::Result<()> {
    let zero: libc::c_ulong = 0;
    // SAFETY: the options used here read integers only; no memory is passed.
    let done = unsafe { libc::prctl(option, argument, zero, zero, zero) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status_of_this_thread(field: &str) -> u64 {
        let text = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = text.lines().find_map(|l| l.strip_prefix(field)).unwrap();
        u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap()
    }

    #[test]
    fn nothing_is_left_and_children_inherit_nothing() {
        // A thread of its own: capabilities are per thread, and other tests need theirs.
        let (own, child) = std::thread::spawn(|| {
            drop_all().unwrap();
            let sets = ["CapEff", "CapPrm", "CapInh", "CapAmb"].map(status_of_this_thread);
            let child = std::thread::spawn(|| {
                let bind = std::net::TcpListener::bind("127.0.0.1:1").err().map(|e| e.kind());
                (status_of_this_thread("CapEff"), status_of_this_thread("NoNewPrivs"), bind)
            });
            (sets, child.join().unwrap())
        })
        .join()
        .unwrap();
        assert_eq!(own, [0; 4]);
        assert_eq!((child.0, child.1), (0, 1));
        let low_ports_open = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
            .is_ok_and(|start| start.trim().parse::<u16>().is_ok_and(|start| start <= 1));
        if !low_ports_open {
            assert_eq!(child.2, Some(io::ErrorKind::PermissionDenied), "port 1 needs CAP_NET_BIND_SERVICE");
        }
    }

    #[test]
    fn dropping_twice_is_harmless() {
        std::thread::spawn(|| drop_all().and_then(|()| drop_all())).join().unwrap().unwrap();
    }
}
