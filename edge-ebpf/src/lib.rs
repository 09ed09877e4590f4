//! What the BPF programs and user space share: map values, the packet parser and the flow hash.
//! Everything here is pure and builds for both sides; programs, maps and helpers of the kernel never
//! belong here.
#![no_std]

pub mod counters;
pub mod flow;
pub mod packet;

pub use counters::{Cells, Counter};
pub use flow::Flow;
pub use packet::{Head, Pass};

/// Entries of the indirection table: flow hash → bucket → CPU, as receive-side scaling does it.
pub const BUCKETS: u32 = 256;
/// Served addresses and ports of one node.
pub const SERVICES_MAX: u32 = 256;
/// CPUs the maps are declared for; user space sets the real number when it loads the object.
pub const CPUS_MAX: u32 = 4096;
/// Value of the global `STEERING`: count packets and pass them.
pub const STEERING_COUNT: u32 = 0;
/// Value of the global `STEERING`: redirect packets of served flows through the cpumap.
pub const STEERING_CPUMAP: u32 = 1;

const _: () = assert!(BUCKETS.is_power_of_two());

/// An address and port this node serves. IPv4 addresses are IPv4-mapped (RFC 4291 section 2.5.5.2),
/// so the IPv4 wildcard is `::ffff:0.0.0.0` and differs from the IPv6 wildcard `::`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Service {
    /// The address in network byte order.
    pub address: [u32; 4],
    /// The TCP port in host byte order.
    pub port: u16,
    /// Always zero: names the bytes that would be padding.
    pub zero: u16,
}

const _: () = assert!(size_of::<Service>() == 20 && align_of::<Service>() == 4);

impl Service {
    /// The service a flow is addressed to.
    #[inline(always)]
    pub const fn of(flow: &Flow) -> Service {
        Service { address: flow.destination, port: flow.destination_port, zero: 0 }
    }

    /// The same port on the wildcard address of the same family.
    #[inline(always)]
    pub const fn wildcard(&self) -> Service {
        let third = if flow::is_ipv4(&self.address) { flow::IPV4_MAPPED } else { 0 };
        Service { address: [0, 0, third, 0], port: self.port, zero: 0 }
    }
}

// SAFETY: `Service` is repr(C), holds only integers and, as the assertion on its size shows, no padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Service {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_keep_the_family() {
        let four = Service { address: [0, 0, flow::IPV4_MAPPED, 7], port: 80, zero: 0 };
        assert_eq!(four.wildcard(), Service { address: [0, 0, flow::IPV4_MAPPED, 0], port: 80, zero: 0 });
        let six = Service { address: [1, 2, 3, 4], port: 443, zero: 0 };
        assert_eq!(six.wildcard(), Service { address: [0; 4], port: 443, zero: 0 });
        assert_ne!(four.wildcard().address, six.wildcard().address);
    }
}
