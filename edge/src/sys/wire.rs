//! A buffer of sealed records on its way to the socket. While a send is in flight the kernel reads it, so a
//! [`Wire`] in flight cannot be freed: dropping one ends the process.

use crate::limits;

/// Bytes to send, in one piece. Boxed: its address does not change.
pub struct Wire(Box<Inner>);

struct Inner {
    bytes: [u8; limits::WIRE_BYTES],
    start: usize,
    end: usize,
    in_flight: bool,
}

impl Default for Wire {
    fn default() -> Self {
        // Not by way of the stack, and pages are touched when they are used: a small answer costs one of them.
        let layout = std::alloc::Layout::new::<Inner>();
        // SAFETY: `Inner` has a size, all zeroes are a valid one, and memory of its layout from the global allocator
        // is what `Box` frees.
        let inner = unsafe {
            let memory = std::alloc::alloc_zeroed(layout).cast::<Inner>();
            if memory.is_null() {
                std::alloc::handle_alloc_error(layout);
            }
            Box::from_raw(memory)
        };
        Wire(inner)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.0.in_flight {
            // The kernel may still read the memory; an invariant of the worker is broken.
            std::process::abort();
        }
    }
}

impl Wire {
    /// Whether nothing is left to send.
    pub fn is_empty(&self) -> bool {
        self.0.start == self.0.end
    }

    /// Whether a send is in flight.
    pub fn in_flight(&self) -> bool {
        self.0.in_flight
    }

    /// Where more may be written. Nothing while a send is in flight: its length is with the kernel.
    pub fn room(&mut self) -> &mut [u8] {
        let end = if self.0.in_flight { limits::WIRE_BYTES } else { self.0.end };
        &mut self.0.bytes[end..]
    }

    /// So many bytes of the room were written.
    pub fn written(&mut self, bytes: usize) {
        assert!(!self.0.in_flight && bytes <= limits::WIRE_BYTES - self.0.end, "written into the room");
        self.0.end += bytes;
    }

    /// The bytes to send. From now until [`Wire::sent`] they are the kernel's to read.
    pub(super) fn start(&mut self) -> (*const u8, u32) {
        assert!(!self.0.in_flight && !self.is_empty(), "one send at a time, and of something");
        self.0.in_flight = true;
        let bytes = &self.0.bytes[self.0.start..self.0.end];
        (bytes.as_ptr(), bytes.len() as u32)
    }

    /// The send in flight ended: `bytes` were taken.
    pub fn sent(&mut self, bytes: usize) {
        assert!(self.0.in_flight && bytes <= self.0.end - self.0.start, "a completion belongs to a send");
        self.0.in_flight = false;
        self.0.start += bytes;
        if self.is_empty() {
            self.clear();
        }
    }

    /// Forgets what was to be sent.
    pub fn clear(&mut self) {
        assert!(!self.0.in_flight, "the kernel reads it");
        (self.0.start, self.0.end) = (0, 0);
    }
}

const _: () = assert!(limits::WIRE_BYTES <= u32::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_taken_is_sent_next() {
        let mut wire = Wire::default();
        assert!(wire.is_empty());
        wire.room()[..4].copy_from_slice(b"abcd");
        wire.written(4);
        let (first, bytes) = wire.start();
        assert_eq!(bytes, 4);
        assert!(wire.room().is_empty() && wire.in_flight());
        wire.sent(3);
        let (second, bytes) = wire.start();
        assert_eq!((second as usize - first as usize, bytes), (3, 1));
        wire.sent(1);
        assert!(wire.is_empty());
        assert_eq!(wire.room().len(), limits::WIRE_BYTES, "all of it is room again");
    }
}
