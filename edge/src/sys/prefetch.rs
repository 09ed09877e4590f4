//! Hints to the CPU that memory is about to be read, so that several waits for it overlap. Nothing is read here, and
//! nothing is known about what lies there.

/// Bytes that come into the caches at once.
const LINE_BYTES: usize = 64;

/// Brings the lines of these bytes towards the CPU. Whatever the address is, nothing happens but that.
#[inline]
pub(super) fn bytes(start: *const u8, bytes: usize) {
    let first = start.addr() & (LINE_BYTES - 1);
    for at in (0..first + bytes).step_by(LINE_BYTES) {
        line(start.wrapping_sub(first).wrapping_add(at));
    }
}

#[inline]
fn line(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing and cannot fault, whatever the address; every x86-64 CPU has it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    // Stable Rust has no such hint for other machines: there lookups wait one after the other.
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
