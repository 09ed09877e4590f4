//! RFC 9218: which response goes first. A response of lower urgency value goes before others. Of equals, one that
//! is of use only as a whole goes before the next in the order of requests; those that are of use in parts take
//! turns. So that nothing starves, one turn in [`SHARED_TURN`] goes round all of them.
#![forbid(unsafe_code)]

/// Every so many turns urgency is left aside.
const SHARED_TURN: u32 = 16;
/// What the field's members mean if they are missing (section 4).
const DEFAULT: Priority = Priority { urgency: 3, incremental: false };

/// The priority of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Priority {
    /// 0 to 7, the most urgent first.
    pub urgency: u8,
    /// Parts are of use as they come.
    pub incremental: bool,
}

impl Default for Priority {
    fn default() -> Self {
        DEFAULT
    }
}

impl Priority {
    /// Reads the value of a Priority field or PRIORITY_UPDATE frame. Members of another type or out of range count as
    /// missing (section 4); `None`: it is not a dictionary, and nothing is known.
    pub(super) fn parse(field: &[u8]) -> Option<Priority> {
        let dictionary = sfv::Parser::new(field).parse::<sfv::Dictionary>().ok()?;
        let item = |key: &str| match dictionary.get(key) {
            Some(sfv::ListEntry::Item(item)) => Some(&item.bare_item),
            _ => None,
        };
        let urgency = item("u").and_then(|value| value.as_integer());
        let urgency = urgency.and_then(|value| u8::try_from(i64::from(value)).ok()).filter(|&u| u <= 7);
        let incremental = item("i").and_then(|value| value.as_boolean());
        Some(Priority {
            urgency: urgency.unwrap_or(DEFAULT.urgency),
            incremental: incremental.unwrap_or(DEFAULT.incremental),
        })
    }
}

/// Takes the turns.
#[derive(Default)]
pub(super) struct Turns {
    taken: u32,
    /// The stream that had the last one.
    last: u32,
    /// The stream that had the last one of those that go round.
    last_shared: u32,
}

impl Turns {
    /// Which of these streams may send now: its place in the list, which is in the order of their numbers.
    pub(super) fn next(&self, streams: impl Iterator<Item = (usize, u32, Priority)>) -> Option<usize> {
        let is_shared = self.is_shared();
        let last = if is_shared { self.last_shared } else { self.last };
        // The first after the one that had the last turn, else the first of all.
        let (mut first, mut after) = (None, None);
        let mut urgency = u8::MAX;
        let mut has_whole = false;
        for (at, id, priority) in streams {
            if !is_shared {
                if priority.urgency > urgency {
                    continue;
                }
                if priority.urgency < urgency {
                    (urgency, first, after, has_whole) = (priority.urgency, None, None, false);
                }
                // Of those that go before the next as a whole, the first.
                if !priority.incremental && std::mem::replace(&mut has_whole, true) {
                    continue;
                }
            }
            first = first.or(Some(at));
            if id > last {
                after = after.or(Some(at));
            }
        }
        after.or(first)
    }

    /// A stream had its turn.
    pub(super) fn took(&mut self, stream: u32) {
        if self.is_shared() {
            self.last_shared = stream;
        } else {
            self.last = stream;
        }
        self.taken = self.taken.wrapping_add(1);
    }

    fn is_shared(&self) -> bool {
        self.taken % SHARED_TURN == SHARED_TURN - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        for (field, urgency, incremental) in [
            ("", 3, false),
            ("u=0", 0, false),
            ("u=7, i", 7, true),
            ("i=?1", 3, true),
            ("i=?0, u=2", 2, false),
            ("u=8", 3, false),
            ("u=-1, i", 3, true),
            ("u=1.5", 3, false),
            ("u=(1 2)", 3, false),
            ("i=1", 3, false),
            ("u=1;x=3, y=4", 1, false),
        ] {
            assert_eq!(Priority::parse(field.as_bytes()), Some(Priority { urgency, incremental }), "{field}");
        }
        for field in ["u", "u=", "=", "\u{7f}", "U=1"] {
            let parsed = Priority::parse(field.as_bytes());
            assert!(parsed.is_none_or(|priority| priority == DEFAULT), "{field}");
        }
    }

    fn order(streams: &[(u32, u8, bool)], turns: usize) -> Vec<u32> {
        let mut state = Turns::default();
        let mut order = Vec::new();
        for _ in 0..turns {
            let all = streams.iter().enumerate();
            let all =
                all.map(|(at, &(id, urgency, incremental))| (at, id, Priority { urgency, incremental }));
            let next = streams[state.next(all).unwrap()].0;
            state.took(next);
            order.push(next);
        }
        order
    }

    #[test]
    fn urgent_ones_first_whole_ones_in_order_and_parts_by_turns() {
        assert_eq!(order(&[(1, 3, false), (3, 3, false)], 3), [1, 1, 1]);
        assert_eq!(order(&[(1, 3, false), (3, 1, false), (5, 1, false)], 3), [3, 3, 3]);
        assert_eq!(order(&[(1, 3, true), (3, 3, true), (5, 4, true)], 4), [1, 3, 1, 3]);
        assert_eq!(order(&[(1, 3, false), (3, 3, true), (5, 3, false)], 4), [1, 3, 1, 3]);
        assert_eq!(Turns::default().next([].into_iter()), None);
    }

    #[test]
    fn nothing_starves() {
        let streams = [(1, 0, false), (3, 0, true), (5, 7, false), (7, 7, true)];
        let order = order(&streams, 16 * 16);
        for (id, ..) in streams {
            let count = order.iter().filter(|&&other| other == id).count();
            assert!(count >= 4, "{id}: {count} turns of {}", order.len());
        }
    }
}
