//! `user_data` of the ring ⇄ what it was for. A recycled slot is told from its predecessor by generation.
#![forbid(unsafe_code)]

/// The kind of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    /// Accept of one connection; the slot is the number of the accept.
    Accept,
    /// Multishot receive.
    Receive,
    /// A message of an outbox.
    Send,
    /// Read of the mailbox's eventfd.
    Mail,
    /// The worker's clock tick.
    Tick,
    /// The CPU of a new connection; the slot is the sample's number.
    SampleConnection,
    /// The CPU of a request; the slot is the sample's number.
    SampleRequest,
    /// Pages are in memory; the slot is the populate's number.
    Populate,
    /// A connection's shutdown, which the kernel hands to a thread of its own: its slot must not have a new
    /// connection when it gets there.
    Shutdown,
    /// The kernel was offered a connection's keys.
    KernelTls,
    /// Nobody waits for it: close, cancel, eventfd write.
    Unwatched,
}

const OPS: [Op; 11] = [
    Op::Accept,
    Op::Receive,
    Op::Send,
    Op::Mail,
    Op::Tick,
    Op::SampleConnection,
    Op::SampleRequest,
    Op::Populate,
    Op::Shutdown,
    Op::KernelTls,
    Op::Unwatched,
];

/// An operation of a slot in one of its lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// What.
    pub op: Op,
    /// Which life of the slot, modulo 2^24.
    pub generation: u32,
    /// Which slot.
    pub slot: u32,
}

/// Generations wrap here.
pub const GENERATION_MASK: u32 = 0x00ff_ffff;

impl Token {
    /// Packs: 8 bits of operation, 24 of generation, 32 of slot.
    pub fn pack(op: Op, generation: u32, slot: u32) -> u64 {
        (op as u64) << 56 | u64::from(generation & GENERATION_MASK) << 32 | u64::from(slot)
    }

    /// Unpacks. Only tokens made by [`Token::pack`] come back from the ring.
    pub fn unpack(token: u64) -> Self {
        Token {
            op: OPS[(token >> 56) as usize % OPS.len()],
            generation: (token >> 32) as u32 & GENERATION_MASK,
            slot: token as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back() {
        for op in OPS {
            for (generation, slot) in [(0, 0), (1, u32::MAX), (GENERATION_MASK, 7)] {
                assert_eq!(Token::unpack(Token::pack(op, generation, slot)), Token { op, generation, slot });
            }
        }
    }
}
