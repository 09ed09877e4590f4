//! The kernel's TLS on a socket (Linux's `Documentation/networking/tls.rst`): memory of the operations that hand it
//! keys and records that carry no application data, and one trial of it. The operations themselves are in `ring`.
//!
//! While one of them is in flight the kernel reads its memory, so a value in flight cannot be freed: dropping one
//! ends the process.

use crate::proto::kernel_tls::CryptoInfo;
use io_uring::types::Fixed;
use io_uring::{IoUring, opcode, squeue};
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The name of the protocol on top of TCP, for `TCP_ULP`.
pub(super) const PROTOCOL: &[u8; 3] = b"tls";
/// An alert: level and description.
const ALERT_BYTES: usize = 2;
/// The kind of record an alert travels in (RFC 8446 section 5.1).
const ALERT: u8 = 21;

/// Keys on their way to the kernel. Boxed: their address does not change.
pub struct Offer(Box<(CryptoInfo, bool)>);

impl Offer {
    /// Of these keys.
    pub fn new(info: CryptoInfo) -> Self {
        Offer(Box::new((info, false)))
    }

    /// From now until [`Offer::answered`] the kernel reads it.
    pub(super) fn start(&mut self) -> &[u8] {
        self.0.1 = true;
        self.0.0.as_bytes()
    }

    /// The operation ended.
    pub fn answered(&mut self) {
        self.0.1 = false;
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        if self.0.1 {
            std::process::abort();
        }
    }
}

/// An alert that the kernel is to seal. Boxed: its address does not change.
pub struct Alert(Box<Inner>);

struct Inner {
    bytes: [u8; ALERT_BYTES],
    iov: libc::iovec,
    control: Control,
    message: libc::msghdr,
    in_flight: bool,
}

/// One control message whose data is the kind of the record.
#[repr(C)]
struct Control {
    header: libc::cmsghdr,
    kind: u8,
    padding: [u8; 7],
}

/// `CMSG_LEN(1)` and `CMSG_SPACE(1)` of `bits/socket.h`: the data follows the header at once, which is aligned.
const CONTROL_BYTES: usize = offset_of!(Control, kind) + 1;
const _: () = assert!(offset_of!(Control, kind) == size_of::<libc::cmsghdr>());
const _: () = assert!(size_of::<Control>() == size_of::<libc::cmsghdr>() + size_of::<usize>());

impl Alert {
    /// Of a level and a description.
    pub fn new(bytes: [u8; ALERT_BYTES]) -> Self {
        // SAFETY: iovec and msghdr are plain C structures for which all zeroes is a valid (empty) value.
        let (iov, message) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        let header = libc::cmsghdr {
            cmsg_len: CONTROL_BYTES as _,
            cmsg_level: libc::SOL_TLS,
            cmsg_type: libc::TLS_SET_RECORD_TYPE,
        };
        let control = Control { header, kind: ALERT, padding: [0; 7] };
        Alert(Box::new(Inner { bytes, iov, control, message, in_flight: false }))
    }

    /// Its message. From now until [`Alert::sent`] the memory is the kernel's to read.
    pub(super) fn start(&mut self) -> *const libc::msghdr {
        let inner = &mut *self.0;
        assert!(!inner.in_flight, "sent once");
        inner.iov = libc::iovec { iov_base: inner.bytes.as_mut_ptr().cast(), iov_len: ALERT_BYTES };
        inner.message.msg_iov = &raw mut inner.iov;
        inner.message.msg_iovlen = 1;
        inner.message.msg_control = (&raw mut inner.control).cast();
        inner.message.msg_controllen = size_of::<Control>() as _;
        inner.in_flight = true;
        &raw const inner.message
    }

    /// The send ended.
    pub fn sent(&mut self) {
        self.0.in_flight = false;
    }
}

impl Drop for Alert {
    fn drop(&mut self) {
        if self.0.in_flight {
            std::process::abort();
        }
    }
}

/// The two operations that give the keys of the sending direction to the kernel, in this order; the second is not
/// begun when the first fails. What they point at must outlive them.
pub(super) fn hand_over(file: u32, info: &[u8]) -> [squeue::Entry; 2] {
    let set = |level: i32, name: i32, value: &[u8]| {
        let (start, bytes) = (value.as_ptr().cast(), value.len() as u32);
        opcode::SetSockOpt::new(Fixed(file), level as u32, name as u32, start, bytes).build()
    };
    [
        set(libc::SOL_TCP, libc::TCP_ULP, PROTOCOL).flags(squeue::Flags::IO_LINK),
        set(libc::SOL_TLS, libc::TLS_TX, info),
    ]
}

/// Tries on a connected socket what workers do: through a ring, which takes Linux 6.7.
///
/// # Errors
/// What the kernel said to the first step that failed.
pub fn try_hand_over(socket: BorrowedFd<'_>, info: CryptoInfo) -> io::Result<()> {
    let mut ring = IoUring::new(4)?;
    ring.submitter().register_files(&[socket.as_raw_fd()])?;
    let entries = hand_over(0, info.as_bytes());
    // SAFETY: both operations end before this function does, and `info` lives to its end.
    unsafe { ring.submission().push_multiple(&entries) }.map_err(io::Error::other)?;
    ring.submit_and_wait(entries.len())?;
    for entry in ring.completion() {
        if entry.result() < 0 {
            return Err(io::Error::from_raw_os_error(-entry.result()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_is_a_message_with_the_kind_of_its_record() {
        let mut alert = Alert::new([1, 0]);
        let message = alert.start();
        // SAFETY: `start` returned a message that is alive until `sent`, whose control message the C library reads.
        unsafe {
            let iov = &*(*message).msg_iov;
            assert_eq!(std::slice::from_raw_parts(iov.iov_base.cast::<u8>(), iov.iov_len), [1, 0]);
            let header = libc::CMSG_FIRSTHDR(message);
            assert_eq!((*header).cmsg_len as usize, libc::CMSG_LEN(1) as usize);
            assert_eq!(
                ((*header).cmsg_level, (*header).cmsg_type),
                (libc::SOL_TLS, libc::TLS_SET_RECORD_TYPE)
            );
            assert_eq!(*libc::CMSG_DATA(header), ALERT);
            assert!(libc::CMSG_NXTHDR(message, header).is_null());
        }
        alert.sent();
    }
}
