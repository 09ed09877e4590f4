//! Deadlines of many connections: a wheel that is moved lazily.
//!
//! A connection's deadline mostly moves later, with every request. So an entry stays where it is when its
//! deadline moves later, and is looked at when its old time comes; only an earlier deadline moves it.
//! (Varghese and Lauck, "Hashed and hierarchical timing wheels", 1987, scheme 6.)
#![forbid(unsafe_code)]

/// Milliseconds of one slot: how late a deadline may be noticed.
pub const TICK_MS: u64 = 128;
const SLOTS: usize = 512;
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Link {
    next: u32,
    previous: u32,
    /// The tick at which this entry is looked at; `u64::MAX`: not in the wheel.
    tick: u64,
}

/// The wheel. Entries are slot numbers.
pub struct Wheel {
    heads: Box<[u32; SLOTS]>,
    links: Vec<Link>,
    done_tick: u64,
}

impl Wheel {
    /// For entries `0..capacity`, starting now.
    pub fn new(capacity: usize, now_ms: u64) -> Self {
        Wheel {
            heads: Box::new([NONE; SLOTS]),
            links: vec![Link { next: NONE, previous: NONE, tick: u64::MAX }; capacity],
            done_tick: now_ms / TICK_MS,
        }
    }

    /// Makes sure `entry` is looked at by `deadline_ms` (or at the wheel's horizon, if that is nearer).
    pub fn set(&mut self, entry: u32, deadline_ms: u64) {
        let horizon = self.done_tick + SLOTS as u64 - 1;
        let tick = deadline_ms.div_ceil(TICK_MS).clamp(self.done_tick + 1, horizon);
        if tick >= self.links[entry as usize].tick {
            return;
        }
        self.remove(entry);
        let head = &mut self.heads[tick as usize % SLOTS];
        let next = std::mem::replace(head, entry);
        if next != NONE {
            self.links[next as usize].previous = entry;
        }
        self.links[entry as usize] = Link { next, previous: NONE, tick };
    }

    /// Forgets `entry`.
    pub fn remove(&mut self, entry: u32) {
        let Link { next, previous, tick } = self.links[entry as usize];
        if tick == u64::MAX {
            return;
        }
        match previous {
            NONE => self.heads[tick as usize % SLOTS] = next,
            _ => self.links[previous as usize].next = next,
        }
        if next != NONE {
            self.links[next as usize].previous = previous;
        }
        self.links[entry as usize].tick = u64::MAX;
    }

    /// Takes out all entries whose time has come. The caller looks at each one's real deadline and sets it
    /// again if that lies ahead.
    pub fn expire(&mut self, now_ms: u64, into: &mut Vec<u32>) {
        let now_tick = now_ms / TICK_MS;
        // After a long stall every slot is due once; more rounds would find them empty.
        let first = (self.done_tick + 1).max(now_tick.saturating_sub(SLOTS as u64 - 1));
        for tick in first..=now_tick {
            while self.heads[tick as usize % SLOTS] != NONE {
                let entry = self.heads[tick as usize % SLOTS];
                self.remove(entry);
                into.push(entry);
            }
        }
        self.done_tick = self.done_tick.max(now_tick);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn later_deadlines_do_not_move_an_entry_and_earlier_ones_do() {
        let mut wheel = Wheel::new(4, 0);
        let mut due = Vec::new();
        wheel.set(1, 1_000);
        wheel.set(1, 9_000);
        wheel.expire(1_100, &mut due);
        assert_eq!(due, [1], "looked at when the first deadline came");
        due.clear();
        wheel.set(1, 9_000);
        wheel.set(1, 2_000);
        wheel.expire(2_100, &mut due);
        assert_eq!(due, [1]);
    }

    proptest! {
        /// No entry is looked at later than one tick after its earliest deadline, whatever the order of calls.
        #[test]
        fn nothing_is_late(steps in prop::collection::vec((0u32..16, 1u64..100_000, 0u64..5_000), 1..200)) {
            let mut wheel = Wheel::new(16, 0);
            let mut deadlines = [u64::MAX; 16];
            let (mut now, mut due) = (0, Vec::new());
            for (entry, ahead, pass) in steps {
                wheel.set(entry, now + ahead);
                deadlines[entry as usize] = deadlines[entry as usize].min(now + ahead);
                now += pass;
                due.clear();
                wheel.expire(now, &mut due);
                for &entry in &due {
                    let deadline = std::mem::replace(&mut deadlines[entry as usize], u64::MAX);
                    if deadline > now {
                        // Looked at early (the horizon): set again, as the worker does.
                        wheel.set(entry, deadline);
                        deadlines[entry as usize] = deadline;
                    }
                }
                for deadline in deadlines {
                    prop_assert!(deadline == u64::MAX || deadline + 2 * TICK_MS > now, "{deadline} at {now}");
                }
            }
        }
    }
}
