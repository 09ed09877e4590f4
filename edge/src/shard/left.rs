//! What has left the store lately, and why: for who asks why an object is not there. A table of fixed size by the
//! hash of the key; a later one takes the place of an earlier one.
#![forbid(unsafe_code)]

use crate::clock;
use crate::limits::LEFT_REMEMBERED;

/// Why a record had to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its segment was the next to be written again.
    Reclaimed,
    /// There was no other place in the index for a newer one.
    IndexFull,
    /// A part of it went.
    ChunkLost,
}

/// One that has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    hash: u64,
    /// When, Unix seconds.
    pub unix_s: u64,
    /// Why.
    pub why: Why,
}

const _: () = assert!(size_of::<Option<Left>>() <= crate::limits::LEFT_BYTES);

/// The table; empty until the first one leaves.
#[derive(Default)]
pub(super) struct Table(Box<[Option<Left>]>);

impl Table {
    /// One leaves.
    pub(super) fn note(&mut self, hash: u64, why: Why) {
        if self.0.is_empty() {
            self.0 = vec![None; LEFT_REMEMBERED].into();
        }
        let unix_s = clock::now().unix_s;
        self.0[hash as usize % LEFT_REMEMBERED] = Some(Left { hash, unix_s, why });
    }

    /// What is known of this one.
    pub(super) fn get(&self, hash: u64) -> Option<Left> {
        let place = hash as usize % LEFT_REMEMBERED;
        self.0.get(place).copied().flatten().filter(|left| left.hash == hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_one_takes_the_place_of_an_earlier_one() {
        let mut table = Table::default();
        table.note(5, Why::Reclaimed);
        assert!(table.get(5).is_some_and(|left| left.why == Why::Reclaimed && left.unix_s > 1_700_000_000));
        assert_eq!(table.get(5 + LEFT_REMEMBERED as u64), None);
        table.note(5 + LEFT_REMEMBERED as u64, Why::IndexFull);
        assert_eq!(table.get(5), None);
        table.note(5, Why::ChunkLost);
        assert_eq!(table.get(5).map(|left| left.why), Some(Why::ChunkLost));
    }
}
