//! One io_uring per worker: typed operations in, completions out, one system call a turn.
//!
//! What an operation points at must outlive it. Memory that the kernel keeps beyond the submission is
//! owned here ([`Ring`]'s event, option and peer cells), by [`super::buffers`] (receives), or by an
//! [`Outbox`], [`Wire`], [`Offer`] or [`Alert`] that refuses to be freed while it is in flight.

use super::kernel_tls::{Alert, Offer, hand_over};
use super::mapping::Extent;
use super::outbox::Outbox;
use super::wire::Wire;
use io_uring::types::{CancelBuilder, DestinationSlot, Fd, Fixed, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

/// A finished (or, for multishot operations, a further) step of an operation.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    /// The token the operation was started with.
    pub token: u64,
    /// Bytes, a direct descriptor, or a negated errno.
    pub result: i32,
    /// The provided buffer the bytes are in.
    pub buffer: Option<u16>,
    /// More completions of the same operation follow.
    pub more: bool,
}

/// What the kernel turned out to support, for the status.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Features {
    /// Task work only runs when the worker asks for it (6.1).
    pub defer_taskrun: bool,
    /// No indirection array in the submission queue (6.6).
    pub no_sqarray: bool,
    /// The ring's own descriptor is registered (5.18).
    pub registered_ring: bool,
}

/// How many `SO_INCOMING_CPU` answers may be under way at once.
const SAMPLES: usize = 64;

/// Messages up to this size complete when they are wholly sent; larger ones whenever some of it was.
const WHOLE_SEND_BYTES_MAX: usize = 256 * 1024;

/// A ring. Must be created and used on one thread.
pub struct Ring {
    ring: IoUring,
    enter: Enter,
    features: Features,
    /// The kernel writes eventfd counters (0), reads the one to add (1).
    event_cells: Box<[u64; 2]>,
    /// The kernel writes socket options here; index = sample number.
    samples: Box<[i32; SAMPLES]>,
    samples_free: Vec<u16>,
    /// The kernel writes the addresses of accepted peers here; index = number of the accept.
    peers: Box<[Peer]>,
    tick: Box<Timespec>,
}

/// Room for the address of a peer: `struct sockaddr_in` or `sockaddr_in6`, and its length.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Peer {
    address: [u8; size_of::<libc::sockaddr_in6>()],
    len: libc::socklen_t,
}

const PEER_LEN: usize = std::mem::offset_of!(Peer, len);

impl Peer {
    const EMPTY: Peer = Peer { address: [0; _], len: size_of::<libc::sockaddr_in6>() as libc::socklen_t };

    /// `sin_addr` lies at byte 4, `sin6_addr` at byte 8 (include/uapi/linux/in.h, in6.h).
    fn ip(&self) -> Option<IpAddr> {
        let family = u16::from_ne_bytes([self.address[0], self.address[1]]);
        match i32::from(family) {
            libc::AF_INET => Some(Ipv4Addr::from(*self.address[4..].first_chunk()?).into()),
            libc::AF_INET6 => Some(Ipv6Addr::from(*self.address[8..].first_chunk()?).to_canonical()),
            _ => None,
        }
    }
}

impl Ring {
    /// A ring with `entries` submission slots, `files` direct descriptors, `accepts` accepts at once, deferred task
    /// work, and at most `threads` of the kernel for what may wait for a disk.
    pub fn new(entries: u32, files: u32, accepts: usize, threads: u32) -> io::Result<Self> {
        let mut features = Features { defer_taskrun: true, no_sqarray: true, registered_ring: true };
        let build = |no_sqarray: bool| {
            let mut builder = IoUring::builder();
            builder.setup_single_issuer().setup_defer_taskrun().setup_submit_all().setup_clamp();
            builder.setup_cqsize(entries * 4);
            if no_sqarray {
                builder.setup_no_sqarray();
            }
            builder.build(entries)
        };
        let ring = build(true).or_else(|_| {
            features.no_sqarray = false;
            build(false)
        })?;
        let enter = Enter::register(ring.as_raw_fd());
        features.registered_ring = enter.registered;
        ring.submitter().register_files_sparse(files)?;
        // The second number is for operations that may never end; 0 leaves it as it is.
        ring.submitter().register_iowq_max_workers(&mut [threads, 0])?;
        Ok(Ring {
            ring,
            enter,
            features,
            event_cells: Box::new([0, 1]),
            samples: Box::new([-1; SAMPLES]),
            samples_free: (0..SAMPLES as u16).collect(),
            peers: vec![Peer::EMPTY; accepts].into(),
            tick: Box::new(Timespec::new()),
        })
    }

    /// What the kernel supports.
    pub fn features(&self) -> Features {
        self.features
    }

    pub(super) fn inner(&self) -> &IoUring {
        &self.ring
    }

    /// Submits what was started, waits for at least `want` completions, and appends all that are there
    /// to `into`. One system call.
    pub fn turn(&mut self, want: usize, into: &mut Vec<Completion>) -> io::Result<()> {
        let started = self.ring.submission().len();
        match self.enter.enter(started, want) {
            Ok(()) => {}
            // A signal, or the completion queue has to be emptied first: the caller comes again.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)) => {}
            Err(error) => return Err(error),
        }
        for entry in self.ring.completion() {
            into.push(Completion {
                token: entry.user_data(),
                result: entry.result(),
                buffer: cqueue::buffer_select(entry.flags()),
                more: cqueue::more(entry.flags()),
            });
        }
        Ok(())
    }

    /// Submits what was started in the midst of a turn; no system call where that is nothing. An error here shows again
    /// at the end of the turn.
    pub fn submit(&mut self) {
        let started = self.ring.submission().len();
        if started > 0 {
            let _ = self.enter.enter(started, 0);
        }
    }

    fn push(&mut self, entry: squeue::Entry, token: u64) {
        let entry = entry.user_data(token);
        loop {
            // SAFETY: every entry is built in this file from memory that outlives the operation, as the
            // file's head comment says.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            // More operations than slots in one turn: hand them over early. Rare, for the queue is sized
            // for a turn.
            self.submit();
        }
    }

    /// Accepts one connection into a free direct descriptor. `number` is one that no other accept under way has:
    /// the peer's address is kept under it. (A multishot accept has one place for the addresses of all its
    /// connections, so it cannot say whose is whose.)
    pub fn accept(&mut self, listener: BorrowedFd<'_>, number: usize, token: u64) {
        self.peers[number] = Peer::EMPTY;
        let peer = &raw mut self.peers[number];
        // Inside the cell; nothing is read here.
        let (address, len) = (peer.cast::<libc::sockaddr>(), peer.wrapping_byte_add(PEER_LEN).cast());
        let slot = Some(DestinationSlot::auto_target());
        let entry = opcode::Accept::new(Fd(listener.as_raw_fd()), address, len).file_index(slot).build();
        self.push(entry, token);
    }

    /// The address of whom the accept of this number brought, an IPv4 one never mapped into IPv6.
    pub fn accepted_peer(&self, number: usize) -> Option<IpAddr> {
        self.peers[number].ip()
    }

    /// Receives until cancelled or out of buffers, into buffers of `group`.
    pub fn receive_multi(&mut self, file: u32, group: u16, token: u64) {
        self.push(opcode::RecvMulti::new(Fixed(file), group).build(), token);
    }

    /// Sends what `outbox` holds, as much as one message carries.
    pub fn send(&mut self, file: u32, outbox: &mut Outbox, token: u64) {
        let (message, bytes) = outbox.start();
        // Waiting in the kernel for the whole message spares completions, but hides progress: a large one to a
        // slow reader would look stuck.
        let wait = if bytes <= WHOLE_SEND_BYTES_MAX { libc::MSG_WAITALL } else { 0 };
        let flags = (libc::MSG_NOSIGNAL | wait) as u32;
        self.push(opcode::SendMsg::new(Fixed(file), message).flags(flags).build(), token);
    }

    /// Sends what `wire` holds; completes when all of it is sent.
    pub fn send_wire(&mut self, file: u32, wire: &mut Wire, token: u64) {
        let (bytes, len) = wire.start();
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        self.push(opcode::Send::new(Fixed(file), bytes, len).flags(flags).build(), token);
    }

    /// Hands the kernel the keys it is to seal with what is sent from now on (through the ring from 6.7 on). Completes
    /// once, with 0 or a negated errno; what comes of the first step, which names the protocol, goes to `unwatched`.
    pub fn offer_keys(&mut self, file: u32, offer: &mut Offer, unwatched: u64, token: u64) {
        let [first, second] = hand_over(file, offer.start());
        // A first step that skips its completion and fails would take that of the second with it.
        self.push(first, unwatched);
        self.push(second, token);
    }

    /// As [`Ring::send`], to a kernel that seals, which knows no MSG_WAITALL: at most `most` bytes of it, for it seals
    /// within this thread's turn.
    pub fn send_to_be_sealed(&mut self, file: u32, outbox: &mut Outbox, most: usize, token: u64) {
        let message = outbox.start_some(most);
        let flags = libc::MSG_NOSIGNAL as u32;
        self.push(opcode::SendMsg::new(Fixed(file), message).flags(flags).build(), token);
    }

    /// Sends an alert for the kernel to seal, once the socket has room. What comes of the wait for that goes to
    /// `unwatched`.
    pub fn send_alert(&mut self, file: u32, alert: &mut Alert, unwatched: u64, token: u64) {
        // Records the socket had no room for wait in the kernel's TLS, and a shutdown would lose them. With this
        // much room the alert takes with it whatever waits.
        let wait = opcode::PollAdd::new(Fixed(file), libc::POLLOUT as u32).build();
        self.push(wait.flags(squeue::Flags::IO_LINK), unwatched);
        let send = opcode::SendMsg::new(Fixed(file), alert.start()).flags(libc::MSG_NOSIGNAL as u32);
        self.push(send.build(), token);
    }

    /// Shuts down one direction or both (`libc::SHUT_*`).
    pub fn shutdown(&mut self, file: u32, how: i32, token: u64) {
        self.push(opcode::Shutdown::new(Fixed(file), how).build(), token);
    }

    /// Closes a direct descriptor.
    pub fn close(&mut self, file: u32, token: u64) {
        self.push(opcode::Close::new(Fixed(file)).build(), token);
    }

    /// Cancels every operation on a descriptor of the process.
    pub fn cancel_all(&mut self, of: BorrowedFd<'_>, token: u64) {
        let which = CancelBuilder::fd(Fd(of.as_raw_fd())).all();
        self.push(opcode::AsyncCancel2::new(which).build(), token);
    }

    /// Cancels the operation started with `target`.
    pub fn cancel(&mut self, target: u64, token: u64) {
        self.push(opcode::AsyncCancel2::new(CancelBuilder::user_data(target)).build(), token);
    }

    /// Completes once after `ms` milliseconds.
    pub fn tick(&mut self, ms: u64, token: u64) {
        *self.tick = Timespec::new().sec(ms / 1000).nsec((ms % 1000) as u32 * 1_000_000);
        let entry = opcode::Timeout::new(&*self.tick).build();
        self.push(entry, token);
    }

    /// Completes when the eventfd was written. One at a time.
    pub fn read_event(&mut self, event: BorrowedFd<'_>, token: u64) {
        let cell = self.event_cells.as_mut_ptr();
        self.push(opcode::Read::new(Fd(event.as_raw_fd()), cell.cast(), 8).build(), token);
    }

    /// Adds one to an eventfd.
    pub fn write_event(&mut self, event: BorrowedFd<'_>, token: u64) {
        let cell: *const u64 = &self.event_cells[1];
        self.push(opcode::Write::new(Fd(event.as_raw_fd()), cell.cast(), 8).build(), token);
    }

    /// Brings pages into memory, on a thread of the kernel: reads exactly these, and then maps them for this process.
    /// Completes once, with 0 or a negated errno. An error of the first step, which may do without, goes to
    /// `unwatched`.
    pub fn populate(&mut self, extent: Extent, unwatched: u64, token: u64) {
        // An address and a length that nothing is read from or written to: whatever lies there when the kernel comes to
        // it, it can only become resident.
        let advise = |advice| {
            let (start, bytes) = (extent.start as *const libc::c_void, extent.bytes as libc::off_t);
            opcode::Madvise::new(start, bytes, advice).build()
        };
        // A fault alone would read the neighbours as well, which nobody asked for.
        let first = squeue::Flags::ASYNC | squeue::Flags::IO_HARDLINK | squeue::Flags::SKIP_SUCCESS;
        self.push(advise(libc::MADV_WILLNEED).flags(first), unwatched);
        self.push(advise(libc::MADV_POPULATE_READ).flags(squeue::Flags::ASYNC), token);
    }

    /// Asks which CPU processed the connection's last packets (`SO_INCOMING_CPU` through the ring, 6.7).
    /// `token` is made from the sample's number; `None`: too many under way, not asked.
    pub fn sample_cpu(&mut self, file: u32, token: impl FnOnce(u16) -> u64) -> bool {
        const GETSOCKOPT: u32 = 2;
        let Some(sample) = self.samples_free.pop() else {
            return false;
        };
        let cell: *mut i32 = &mut self.samples[sample as usize];
        let mut entry = opcode::SetSockOpt::new(
            Fixed(file),
            libc::SOL_SOCKET as u32,
            libc::SO_INCOMING_CPU as u32,
            cell.cast(),
            4,
        )
        .build();
        // SAFETY: `Entry` is a transparent 64-byte submission entry; `cmd_op` is the u32 at offset 8
        // (struct io_uring_sqe, include/uapi/linux/io_uring.h). The crate only builds the set form.
        unsafe { (&raw mut entry).cast::<u8>().add(8).cast::<u32>().write(GETSOCKOPT) };
        self.push(entry, token(sample));
        true
    }

    /// The CPU of a finished sample, which may then be used again.
    pub fn sampled_cpu(&mut self, sample: u16) -> i32 {
        self.samples_free.push(sample);
        self.samples[sample as usize]
    }
}

/// How the ring is entered: by its index among the thread's registered rings, which spares the look-up of
/// a descriptor in each system call. (The crate keeps such an index in a value that borrows the ring, so a
/// structure cannot hold both.)
struct Enter {
    fd: RawFd,
    registered: bool,
}

impl Enter {
    fn register(ring: RawFd) -> Self {
        /// `struct io_uring_rsrc_update` of include/uapi/linux/io_uring.h.
        #[repr(C)]
        struct Update {
            offset: u32,
            reserved: u32,
            data: u64,
        }
        const REGISTER_RING_FDS: libc::c_uint = 20;
        let mut update = Update { offset: u32::MAX, reserved: 0, data: ring as u64 };
        // SAFETY: the kernel reads and writes one `Update`, which lives through the call.
        let done = unsafe {
            libc::syscall(libc::SYS_io_uring_register, ring, REGISTER_RING_FDS, &raw mut update, 1)
        };
        match done {
            1 => Enter { fd: update.offset as RawFd, registered: true },
            _ => Enter { fd: ring, registered: false },
        }
    }

    fn enter(&self, submit: usize, want: usize) -> io::Result<()> {
        const GETEVENTS: libc::c_uint = 1;
        const REGISTERED_RING: libc::c_uint = 1 << 4;
        let flags = GETEVENTS | if self.registered { REGISTERED_RING } else { 0 };
        // SAFETY: no argument is a pointer; what submitted entries point at is the callers' part of this file.
        let done = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.fd,
                submit as u32,
                want as u32,
                flags,
                0_usize,
                0_usize,
            )
        };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::socket;
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, connect, getsockname,
    };
    use std::collections::BTreeSet;
    use std::net::SocketAddr;
    use std::os::fd::{AsFd, OwnedFd};

    fn client(from: Ipv4Addr, to: &SockaddrIn) -> OwnedFd {
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = nix::sys::socket::socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
        bind(fd.as_raw_fd(), &SockaddrIn::from(std::net::SocketAddrV4::new(from, 0))).unwrap();
        connect(fd.as_raw_fd(), to).unwrap();
        fd
    }

    #[test]
    fn each_accept_tells_the_address_of_its_own_peer() {
        const ACCEPTS: usize = 3;
        let mut ring = Ring::new(32, 16, ACCEPTS + 1, 1).unwrap();
        let v4 = socket::listener(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let v6 = socket::listener(SocketAddr::from((Ipv6Addr::LOCALHOST, 0))).unwrap();
        for number in 0..ACCEPTS {
            ring.accept(v4.as_fd(), number, number as u64);
        }
        ring.accept(v6.as_fd(), ACCEPTS, ACCEPTS as u64);
        let mut completions = Vec::new();
        ring.turn(0, &mut completions).unwrap();
        assert!(completions.is_empty(), "nobody has connected");

        let to: SockaddrIn = getsockname(v4.as_raw_fd()).unwrap();
        let expected: BTreeSet<IpAddr> = (2..12).map(|last| Ipv4Addr::new(127, 0, 0, last).into()).collect();
        let clients: Vec<OwnedFd> = (2..12).map(|last| client(Ipv4Addr::new(127, 0, 0, last), &to)).collect();
        let mut seen = BTreeSet::new();
        while seen.len() < clients.len() {
            ring.turn(1, &mut completions).unwrap();
            for completion in completions.drain(..) {
                assert!(completion.result >= 0, "{completion:?}");
                let number = completion.token as usize;
                assert!(seen.insert(ring.accepted_peer(number).unwrap()), "an address came twice");
                ring.accept(v4.as_fd(), number, number as u64);
            }
        }
        assert_eq!(seen, expected);

        let to: SockaddrIn6 = getsockname(v6.as_raw_fd()).unwrap();
        let _client = std::net::TcpStream::connect(SocketAddr::from((to.ip(), to.port()))).unwrap();
        ring.turn(1, &mut completions).unwrap();
        assert_eq!(completions.pop().map(|completion| completion.token), Some(ACCEPTS as u64));
        assert_eq!(ring.accepted_peer(ACCEPTS), Some(Ipv6Addr::LOCALHOST.into()));
    }

    #[test]
    fn an_accept_is_cancelled_with_all_of_its_listener() {
        let mut ring = Ring::new(32, 16, 2, 1).unwrap();
        let listener = socket::listener(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        ring.accept(listener.as_fd(), 0, 10);
        ring.accept(listener.as_fd(), 1, 11);
        let mut completions = Vec::new();
        ring.turn(0, &mut completions).unwrap();
        ring.cancel_all(listener.as_fd(), 12);
        while completions.len() < 3 {
            ring.turn(1, &mut completions).unwrap();
        }
        let result = |token| completions.iter().find(|c| c.token == token).map(|c| c.result);
        assert_eq!((result(10), result(11)), (Some(-libc::ECANCELED), Some(-libc::ECANCELED)));
        assert_eq!(result(12), Some(2), "how many were cancelled");
    }

    #[test]
    fn an_ipv4_address_mapped_into_ipv6_is_an_ipv4_address() {
        let mut peer = Peer::EMPTY;
        assert_eq!(peer.ip(), None, "nothing was written");
        peer.address[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
        peer.address[8..24].copy_from_slice(&Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped().octets());
        assert_eq!(peer.ip(), Some(Ipv4Addr::new(192, 0, 2, 1).into()));
    }
}
