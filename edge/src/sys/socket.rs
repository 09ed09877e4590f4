//! File descriptors: eventfds and listening sockets.

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, listen,
    setsockopt, shutdown, socket, sockopt,
};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// An eventfd with the counter at 0.
pub fn eventfd(nonblocking: bool) -> io::Result<OwnedFd> {
    let flags = if nonblocking { EfdFlags::EFD_NONBLOCK } else { EfdFlags::empty() };
    Ok(EventFd::from_flags(flags | EfdFlags::EFD_CLOEXEC)?.into())
}

/// A TCP socket of one family that may be bound while connections of an earlier one linger.
fn tcp(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Stream, flags, SockProtocol::Tcp)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    Ok(fd)
}

/// A listening TCP socket of a reuseport group. An IPv6 socket takes IPv6 only, so that an address
/// means one family. Accepted sockets inherit TCP_NODELAY: responses leave whole, in one message.
pub fn listener(address: SocketAddr) -> io::Result<OwnedFd> {
    let fd = tcp(address)?;
    setsockopt(&fd, sockopt::ReusePort, &true)?;
    setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&fd, Backlog::MAXALLOWABLE)?;
    Ok(fd)
}

/// Whether an address could be listened on by us alone. Binds it for a moment.
pub fn takeable(address: SocketAddr) -> io::Result<()> {
    let fd = tcp(address)?;
    Ok(bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?)
}

/// Has the kernel refuse connections to a listening socket from now on, and reset those nobody accepted yet.
pub fn stop_listening(listener: BorrowedFd<'_>) {
    // It can only fail for a socket that listens no more.
    let _ = shutdown(listener.as_raw_fd(), Shutdown::Both);
}
