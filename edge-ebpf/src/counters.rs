//! One table of counters makes the cells of the programs, the names in the status, and their help.
//! Reading and summing cells is user space's work and never done here.

/// Makes an enum of names and a table of each with its text and its help, which is the comment before it.
#[macro_export]
macro_rules! table {
    ($(#[$attribute:meta])* $kind:ident $(#[$constant:meta])* $table:ident
     $($(#[doc = $help:literal])+ $name:ident $text:literal;)+) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        #[allow(missing_docs)]
        pub enum $kind { $($name),+ }

        $(#[$constant])*
        pub const $table: &[($kind, &str, &str)] = &[$(($kind::$name, $text, concat!($($help),+))),+];
    };
}

table! {
    /// A counter of the table. Each is written by one program only, so that no two contexts of one CPU race for a
    /// cell.
    Counter
    /// Every counter with its name and help.
    TABLE

    /// Packets the XDP program saw.
    Packets "packets";
    /// Packets passed: neither IPv4 nor IPv6 behind at most two VLAN tags.
    NotIp "passed_not_ip";
    /// Packets passed: cut short, or with an impossible header length.
    Malformed "passed_malformed";
    /// Packets passed: an IP fragment, which carries no whole TCP header to rely on.
    Fragment "passed_fragment";
    /// Packets passed: not TCP.
    NotTcp "passed_not_tcp";
    /// Packets passed: more IPv6 extension headers than the walk allows.
    Extensions "passed_extension_headers";
    /// Packets passed: TCP, but not to a served address and port.
    NotServed "passed_not_served";
    /// Packets of served flows passed on the CPU they came in on, as the steering mode says.
    Counted "served_passed";
    /// Packets of served flows redirected to the CPU of their bucket.
    Steered "served_steered";
    /// Packets of served flows passed because their bucket's CPU has no cpumap entry.
    Unsteered "served_unsteered";
    /// Packets that entered a cpumap queue.
    Enqueued "cpumap_enqueued";
    /// Packets dropped because the cpumap queue of their CPU was full.
    QueueFull "cpumap_queue_full";
    /// Packets dropped on the target CPU because no socket buffer could be allocated.
    Undelivered "cpumap_undelivered";
    /// Redirects the kernel refused after the program asked for them.
    RedirectFailed "redirect_failed";
    /// Connections given to the listening socket of the CPU that processed their packet.
    Picked "picked";
    /// Connections left to the kernel's hash because that CPU has no listening socket.
    Unpicked "unpicked";
    /// Connections moved to another listening socket when theirs was closed.
    Migrated "migrated";
}

/// The cells of one CPU.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cells(pub [u64; TABLE.len()]);

const _: () = assert!(size_of::<Cells>() == 8 * TABLE.len());

impl Cells {
    /// All cells zero.
    pub const ZERO: Cells = Cells([0; TABLE.len()]);

    /// Adds `n` to a counter.
    #[inline(always)]
    pub fn add(&mut self, counter: Counter, n: u64) {
        self.0[counter as usize] = self.0[counter as usize].wrapping_add(n);
    }

    /// The value of a counter.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }
}

// SAFETY: `Cells` is a transparent array of integers.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Cells {}
