//! One io_uring per worker: typed operations in, completions out, one system call a turn.
//!
//! What an operation points at must outlive it. Memory that the kernel keeps beyond the submission is
//! owned here ([`Ring`]'s event and option cells), by [`super::buffers`] (receives), or by an
//! [`Outbox`] or [`Wire`] that refuses to be freed while a send is in flight.

use super::mapping::Extent;
use super::outbox::Outbox;
use super::wire::Wire;
use io_uring::types::{CancelBuilder, Fd, Fixed, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use std::io;
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
    tick: Box<Timespec>,
}

impl Ring {
    /// A ring with `entries` submission slots, `files` direct descriptors, deferred task work, and at most `threads`
    /// of the kernel for what may wait for a disk.
    pub fn new(entries: u32, files: u32, threads: u32) -> io::Result<Self> {
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

    fn push(&mut self, entry: squeue::Entry, token: u64) {
        let entry = entry.user_data(token);
        loop {
            // SAFETY: every entry is built in this file from memory that outlives the operation, as the
            // file's head comment says.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return;
            }
            // More operations than slots in one turn: hand them over early. Rare, for the queue is sized
            // for a turn; an error here shows again at the end of the turn.
            let started = self.ring.submission().len();
            let _ = self.enter.enter(started, 0);
        }
    }

    /// Accepts until cancelled, each connection into a free direct descriptor.
    pub fn accept_multi(&mut self, listener: BorrowedFd<'_>, token: u64) {
        let entry = opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).allocate_file_index(true).build();
        self.push(entry, token);
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

    /// Shuts down one direction or both (`libc::SHUT_*`).
    pub fn shutdown(&mut self, file: u32, how: i32, token: u64) {
        self.push(opcode::Shutdown::new(Fixed(file), how).build(), token);
    }

    /// Closes a direct descriptor.
    pub fn close(&mut self, file: u32, token: u64) {
        self.push(opcode::Close::new(Fixed(file)).build(), token);
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
