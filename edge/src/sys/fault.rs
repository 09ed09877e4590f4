//! SIGBUS: a mapped file has no page to give where one was read or written. Somebody cut the file short, its disk
//! failed, or there was no room for a page. Here the access is made to succeed, and the mapping is marked as failed;
//! whoever uses it finds out by asking. What the mapping holds is not known here.
//!
//! The handler puts a page of zeroes in the place of the missing one, so that the instruction goes on. From then on
//! nothing read there means anything. Two rules keep such bytes from being taken for the file's:
//!
//! - The kernel never reads them for us. Sends read through a second mapping of the file, in which no page is ever
//!   replaced: there a missing page makes the send fail with EFAULT, or end short of it.
//! - Whoever reads in user space asks afterwards whether the mapping has failed ([`Watched::failed`], or
//!   [`count`] for all of them), and throws away what was made of it. The mark is set before the page is replaced,
//!   so who has read a zero of ours sees it.
//!
//! A fault anywhere else ends the process as it would without a handler.

use std::io;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

/// Mappings that can be watched at once: each shard, and as many again that were replaced but are still read from.
const REGIONS_MAX: usize = 2 * crate::limits::SHARDS_MAX;
/// Extra places for tests, which run many stores in one process.
const REGIONS: usize = if cfg!(test) { 64 * REGIONS_MAX } else { REGIONS_MAX };

/// One watched mapping; free while `end` is 0.
struct Region {
    start: AtomicUsize,
    end: AtomicUsize,
    page_bytes: AtomicUsize,
    /// Faults so far; the first one marks it as failed.
    faults: AtomicU64,
}

static TABLE: [Region; REGIONS] = [const {
    Region {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        page_bytes: AtomicUsize::new(0),
        faults: AtomicU64::new(0),
    }
}; REGIONS];

static FAULTS: AtomicU64 = AtomicU64::new(0);

/// Faults of all mappings since the start. Who finds the same number before and after reading has read the files.
#[inline]
pub fn count() -> u64 {
    // Orders the loads of mapped bytes before the load of the number.
    fence(Ordering::Acquire);
    FAULTS.load(Ordering::Acquire)
}

/// A mapping whose faults do not end the process. Must be dropped before the mapping is.
#[derive(Debug)]
pub struct Watched {
    region: usize,
}

impl Watched {
    /// Watches `bytes` from `start` on. Installs the handler with the first.
    ///
    /// # Errors
    /// The handler could not be installed, or too many mappings are watched.
    pub(super) fn new(start: *const u8, bytes: usize, page_bytes: usize) -> io::Result<Self> {
        install()?;
        for (number, region) in TABLE.iter().enumerate() {
            let free = region.start.compare_exchange(0, start as usize, Ordering::AcqRel, Ordering::Relaxed);
            if free.is_ok() {
                region.faults.store(0, Ordering::Relaxed);
                region.page_bytes.store(page_bytes, Ordering::Relaxed);
                region.end.store(start as usize + bytes, Ordering::Release);
                return Ok(Watched { region: number });
            }
        }
        Err(io::Error::other("too many files are mapped"))
    }

    /// Whether a page was missing, or [`Watched::fail`] was called.
    #[inline]
    pub fn failed(&self) -> bool {
        TABLE[self.region].faults.load(Ordering::Acquire) != 0
    }

    /// Marks it as failed.
    pub fn fail(&self) {
        mark(&TABLE[self.region]);
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let region = &TABLE[self.region];
        region.end.store(0, Ordering::Release);
        region.start.store(0, Ordering::Release);
    }
}

fn mark(region: &Region) {
    region.faults.fetch_add(1, Ordering::SeqCst);
    FAULTS.fetch_add(1, Ordering::SeqCst);
}

fn install() -> io::Result<()> {
    static ONCE: Once = Once::new();
    static DONE: AtomicUsize = AtomicUsize::new(0);
    ONCE.call_once(|| {
        // SAFETY: all zeroes is a valid `sigaction`; the handler below only does what is safe in a signal handler:
        // atomics and system calls. SA_NODEFER is not set, so it is not entered twice in one thread.
        let done = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_fault as extern "C" fn(_, _, _) as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut())
        };
        DONE.store(usize::from(done == 0), Ordering::Release);
    });
    if DONE.load(Ordering::Acquire) == 1 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

extern "C" fn on_fault(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo, and for SIGBUS it holds an address.
    let address = unsafe { (*info).si_addr() } as usize;
    let ours = TABLE.iter().find(|region| {
        let end = region.end.load(Ordering::Acquire);
        (region.start.load(Ordering::Acquire)..end).contains(&address)
    });
    if let Some(region) = ours {
        mark(region);
        if replace_page(address, region.page_bytes.load(Ordering::Relaxed)) {
            return;
        }
    }
    // Not ours, or nothing to replace it with: the instruction is run again, without a handler, and ends the process.
    // SAFETY: all zeroes with SIG_DFL is a valid `sigaction`.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = libc::SIG_DFL;
        libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
    }
}

/// Puts a page of zeroes at this address. Keeps `errno`, which the interrupted code may be about to read.
fn replace_page(address: usize, page_bytes: usize) -> bool {
    // SAFETY: the page lies in a mapping that is watched, so it is ours and mapped for as long as the instruction that
    // faulted runs. Its bytes are only read as plain bytes or atomics, for which zeroes are valid, and marked as
    // failed before; `errno` is this thread's own.
    unsafe {
        let errno = *libc::__errno_location();
        let page = (address & !(page_bytes - 1)) as *mut libc::c_void;
        let how = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        let got = libc::mmap(page, page_bytes, libc::PROT_READ | libc::PROT_WRITE, how, -1, 0);
        *libc::__errno_location() = errno;
        got != libc::MAP_FAILED
    }
}
