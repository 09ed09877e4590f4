//! Why the last response of a key is not stored, remembered for who asks: a table of fixed size by the hash of the
//! key; a later one takes the place of an earlier one. What had to leave the store is remembered there.
#![forbid(unsafe_code)]

use crate::limits::REASONS_REMEMBERED;

/// Why something is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The rule that forbids it, named as in `freshness`.
    Uncacheable(&'static str),
    /// It was whole and found no room.
    NoRoom,
    /// A purge or an unsafe request came while it was on its way.
    Overtaken,
    /// The body broke off.
    Broken,
    /// The origin could not be asked; with the status that was answered instead.
    Failed(u16),
    /// An unsafe request to the same URL succeeded.
    Invalidated,
}

#[derive(Clone, Copy)]
struct Entry {
    hash: u64,
    unix_s: u64,
    reason: Reason,
}

/// The table.
pub(super) struct Reasons(Box<[Option<Entry>]>);

impl Default for Reasons {
    fn default() -> Self {
        Reasons(vec![None; REASONS_REMEMBERED].into())
    }
}

impl Reasons {
    /// Remembers.
    pub(super) fn note(&mut self, hash: u64, reason: Reason, unix_s: u64) {
        self.0[hash as usize % REASONS_REMEMBERED] = Some(Entry { hash, unix_s, reason });
    }

    /// It was stored: earlier reasons do not matter any more.
    pub(super) fn forget(&mut self, hash: u64) {
        let entry = &mut self.0[hash as usize % REASONS_REMEMBERED];
        if entry.is_some_and(|entry| entry.hash == hash) {
            *entry = None;
        }
    }

    /// What is known of a key, and since when, in Unix seconds.
    pub(super) fn get(&self, hash: u64) -> Option<(Reason, u64)> {
        let entry = self.0[hash as usize % REASONS_REMEMBERED].filter(|entry| entry.hash == hash)?;
        Some((entry.reason, entry.unix_s))
    }
}

const _: () = assert!(size_of::<Option<Entry>>() <= crate::limits::REASON_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_reason_of_a_key_is_known_until_it_is_stored() {
        let mut reasons = Reasons::default();
        reasons.note(1, Reason::Uncacheable("private"), 10);
        reasons.note(2, Reason::Failed(502), 11);
        reasons.note(1, Reason::Broken, 12);
        assert_eq!(reasons.get(1), Some((Reason::Broken, 12)));
        reasons.forget(1);
        reasons.forget(2 + REASONS_REMEMBERED as u64);
        assert_eq!((reasons.get(1), reasons.get(2)), (None, Some((Reason::Failed(502), 11))));
        reasons.note(2 + REASONS_REMEMBERED as u64, Reason::NoRoom, 13);
        assert_eq!(reasons.get(2), None);
    }
}
