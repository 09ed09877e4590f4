//! Socket and scheduler calls that steering needs and no crate wraps. What they are used for is
//! decided in `xdp`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::sys::socket::{getsockopt, sockopt::Ipv6V6Only};

/// Offset of the number of the processing CPU for classic BPF: `SKF_AD_OFF + SKF_AD_CPU`.
const PROCESSING_CPU: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_CPU) as u32;
/// A socket index no group has, so the kernel falls back to its hash.
const NO_SOCKET: u32 = u32::MAX;

/// Makes the reuseport group of `socket` choose the `i`-th of its sockets, in the order they began to
/// listen, for packets processed on `cpus[i]`. Packets of other CPUs are left to the kernel's hash.
/// Needs no privilege; Linux 4.5 and later.
///
/// # Errors
/// `EINVAL` without `SO_REUSEPORT`, or with more CPUs than a classic program can hold (2047).
pub fn attach_cpu_filter(socket: BorrowedFd<'_>, cpus: &[usize]) -> io::Result<()> {
    let program = cpu_filter(cpus);
    let Ok(length) = u16::try_from(program.len()) else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    // The kernel copies the instructions and does not write to them.
    let filter = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: the option takes a sock_fprog, whose pointer and length describe `program`, alive here.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Load the CPU; for each known one return its index.
fn cpu_filter(cpus: &[usize]) -> Vec<libc::sock_filter> {
    let instruction = |code: u32, skip_if_false: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: skip_if_false,
        k,
    };
    let mut program = vec![instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, PROCESSING_CPU)];
    for (index, cpu) in cpus.iter().enumerate() {
        program.push(instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, *cpu as u32));
        program.push(instruction(libc::BPF_RET | libc::BPF_K, 0, index as u32));
    }
    program.push(instruction(libc::BPF_RET | libc::BPF_K, 0, NO_SOCKET));
    program
}

/// Whether an IPv6 socket takes no IPv4 connections.
pub fn is_ipv6_only(socket: impl AsFd) -> bool {
    getsockopt(&socket, Ipv6V6Only).unwrap_or(false)
}

/// Sets the niceness of a process or kernel thread.
///
/// # Errors
/// `EPERM` or `EACCES` without CAP_SYS_NICE; `ESRCH` when it is gone.
pub fn set_nice(pid: u32, nice: i32) -> io::Result<()> {
    // SAFETY: takes three integers and touches no memory of ours.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, pid, nice) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the filter as the kernel would.
    fn run(program: &[libc::sock_filter], cpu: u32) -> u32 {
        let mut at = 1;
        loop {
            let step = &program[at];
            match u32::from(step.code) & 0x07 {
                libc::BPF_RET => return step.k,
                _ if step.k == cpu => at += 1,
                _ => at += 1 + usize::from(step.jf),
            }
        }
    }

    #[test]
    fn the_filter_maps_cpus_to_sockets() {
        let program = cpu_filter(&[4, 2, 9]);
        assert_eq!(program[0].k, (-0x1000 + 36_i32) as u32);
        let chosen: Vec<u32> = [4, 2, 9, 0].iter().map(|cpu| run(&program, *cpu)).collect();
        assert_eq!(chosen, [0, 1, 2, NO_SOCKET]);
    }

    #[test]
    fn a_socket_without_reuseport_is_refused() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(attach_cpu_filter(socket.as_fd(), &[0]).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}
