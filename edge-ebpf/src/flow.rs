//! A TCP flow and its hash. The same code runs in the XDP program and in user space, so tests can
//! foretell the CPU the kernel chooses. No packet is read here.

/// The third word of an IPv4-mapped address, in network byte order.
pub const IPV4_MAPPED: u32 = 0xffff_u32.to_be();

/// Whether an address is IPv4-mapped.
#[inline(always)]
pub const fn is_ipv4(address: &[u32; 4]) -> bool {
    address[0] == 0 && address[1] == 0 && address[2] == IPV4_MAPPED
}

/// Source and destination of a TCP segment.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Source address in network byte order; IPv4 is IPv4-mapped.
    pub source: [u32; 4],
    /// Destination address in network byte order; IPv4 is IPv4-mapped.
    pub destination: [u32; 4],
    /// Source port in host byte order.
    pub source_port: u16,
    /// Destination port in host byte order.
    pub destination_port: u16,
}

const _: () = assert!(size_of::<Flow>() == 36 && align_of::<Flow>() == 4);

impl Flow {
    /// The hash of the flow under a seed chosen at start, so that nobody outside can aim many flows at
    /// one CPU by choosing ports.
    ///
    /// Multiply and xor-shift per 64-bit word, then the finaliser of MurmurHash3: only what BPF has as
    /// single instructions.
    #[inline(always)]
    pub const fn hash(&self, seed: u64) -> u32 {
        let mut hash = seed;
        hash = absorb(hash, pair(self.source[0], self.source[1]));
        hash = absorb(hash, pair(self.source[2], self.source[3]));
        hash = absorb(hash, pair(self.destination[0], self.destination[1]));
        hash = absorb(hash, pair(self.destination[2], self.destination[3]));
        hash = absorb(hash, pair(self.source_port as u32, self.destination_port as u32));
        hash ^= hash >> 33;
        hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash ^= hash >> 33;
        hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        (hash >> 32) as u32
    }

    /// The bucket of the flow in the indirection table.
    #[inline(always)]
    pub const fn bucket(&self, seed: u64) -> u32 {
        self.hash(seed) % crate::BUCKETS
    }
}

#[inline(always)]
const fn pair(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

#[inline(always)]
const fn absorb(hash: u64, word: u64) -> u64 {
    let mixed = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}
