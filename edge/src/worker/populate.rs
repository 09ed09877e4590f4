//! Pages being read from the disk for this worker's connections, so that no turn waits for them. Knows no ring: it says
//! what to start, and whom to wake when it ended. A bounded number is under way; others wait here in their order.
#![forbid(unsafe_code)]

use crate::limits;
use crate::shard::Cold;
use crate::sys::mapping::Extent;
use std::collections::VecDeque;

/// A connection in one of its lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiter {
    /// Its slot.
    pub slot: u32,
    /// Which life of the slot.
    pub generation: u32,
    /// Which of its HTTP/2 streams; 0: it has none.
    pub stream: u32,
}

/// How populating a run of pages ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The pages are in memory.
    Came,
    /// The kernel had no memory or no time for it: another time it may do.
    NotNow,
    /// The file does not give them.
    Lost,
}

impl Ended {
    /// From what `MADV_POPULATE_READ` (Linux 5.14) returned: a page whose touch would be a SIGBUS is `EFAULT`.
    pub fn of(result: i32) -> Self {
        match -result {
            ..=0 => Ended::Came,
            libc::EFAULT | libc::EIO | libc::EHWPOISON => Ended::Lost,
            _ => Ended::NotNow,
        }
    }
}

/// One run of pages, and who waits for it.
struct Populate {
    cold: Cold,
    extent: Extent,
    waiters: Vec<Waiter>,
}

/// All of a worker.
pub struct Populates {
    running: Box<[Option<Populate>]>,
    free: Vec<u32>,
    /// Running, but not handed to the ring yet.
    unstarted: Vec<u32>,
    queued: VecDeque<Populate>,
}

impl Default for Populates {
    fn default() -> Self {
        Populates {
            running: (0..limits::POPULATES_MAX).map(|_| None).collect(),
            free: (0..limits::POPULATES_MAX as u32).collect(),
            unstarted: Vec::with_capacity(limits::POPULATES_MAX),
            queued: VecDeque::new(),
        }
    }
}

impl Populates {
    /// Brings pages in for a connection that waits for them.
    pub fn wait(&mut self, cold: Cold, waiter: Waiter) {
        let extent = cold.extent();
        let same = self.running.iter_mut().flatten().chain(&mut self.queued).find(|p| p.extent == extent);
        match same {
            Some(populate) if populate.waiters.contains(&waiter) => {}
            Some(populate) => populate.waiters.push(waiter),
            None => self.add(Populate { cold, extent, waiters: vec![waiter] }),
        }
    }

    /// Brings pages in that will be wanted soon, if nobody has to wait longer for that.
    pub fn ahead(&mut self, cold: Cold) {
        let extent = cold.extent();
        if !self.free.is_empty() && self.running.iter().flatten().all(|populate| populate.extent != extent) {
            self.add(Populate { cold, extent, waiters: Vec::new() });
        }
    }

    fn add(&mut self, populate: Populate) {
        match self.free.pop() {
            Some(number) => {
                self.running[number as usize] = Some(populate);
                self.unstarted.push(number);
            }
            None => self.queued.push_back(populate),
        }
    }

    /// What has to be handed to the ring now: its number and its pages.
    #[inline]
    pub fn start(&mut self) -> Option<(u32, Extent)> {
        let number = self.unstarted.pop()?;
        Some((number, self.running[number as usize].as_ref()?.extent))
    }

    /// Number `number` has ended. Whom to wake.
    pub fn ended(&mut self, number: u32, ended: Ended) -> Vec<Waiter> {
        let Some(populate) = self.running[number as usize].take() else { return Vec::new() };
        match ended {
            Ended::Came => populate.cold.came(),
            Ended::NotNow => {}
            Ended::Lost => populate.cold.failed(),
        }
        self.free.push(number);
        if let Some(next) = self.queued.pop_front() {
            self.add(next);
        }
        populate.waiters
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::{Body, Label, Options, Reader, Writer, open};
    use crate::sys::mapping::memory_page_bytes;
    use bytes::Bytes;

    const OBJECTS: u64 = 100;

    fn hash(number: u64) -> u64 {
        xxhash_rust::xxh3::xxh3_64(&number.to_le_bytes())
    }

    /// A store whose records are apart, reopened, so that nothing is known to be in memory.
    fn cold_store(name: &str) -> (crate::shard::scratch::Scratch, Writer, Reader) {
        let scratch = crate::shard::scratch::Scratch::new(name);
        let options =
            Options { path: scratch.path().into(), size_bytes: 32 << 20, readers: 1, ..Options::default() };
        let (mut writer, _, _) = open(std::slice::from_ref(&options)).unwrap();
        let body = Bytes::from(vec![7; 4 * memory_page_bytes()]);
        for number in 1..=OBJECTS {
            writer
                .put(
                    &Label::new(hash(number), b"k", &[], &[]),
                    Body::Whole(std::slice::from_ref(&body)),
                    |_| false,
                )
                .unwrap();
        }
        drop(writer);
        let (writer, mut readers, _) = open(std::slice::from_ref(&options)).unwrap();
        (scratch, writer, readers.remove(0))
    }

    fn cold(reader: &Reader, number: u64) -> Cold {
        match reader.try_lookup(hash(number), b"k", |_| true) {
            Err(cold) => cold,
            Ok(found) => panic!("believed to be in memory, found: {}", found.is_some()),
        }
    }

    fn waiter(slot: u32) -> Waiter {
        Waiter { slot, generation: 1, stream: 0 }
    }

    #[test]
    fn a_lookup_is_made_again_once_its_pages_came_which_is_once_for_a_whole_record() {
        let (_scratch, _writer, reader) = cold_store("populate-once");
        let mut populates = Populates::default();
        for object in [5, 50] {
            let cold = cold(&reader, object);
            assert!(cold.is_absent());
            populates.wait(cold, waiter(3));
            let (number, extent) = populates.start().unwrap();
            assert!(extent.bytes() <= 8 * memory_page_bytes(), "{extent:?}: at most half of it too much");
            assert_eq!(populates.ended(number, Ended::Came), [waiter(3)]);
            let record = reader.try_lookup(hash(object), b"k", |_| true).expect("came").expect("found");
            assert_eq!(record.body(), vec![7; 4 * memory_page_bytes()]);
        }
    }

    #[test]
    fn those_who_want_the_same_pages_wait_for_one_read_and_a_lost_page_ends_the_use_of_its_shard() {
        let ends = [0, -libc::EIO, -libc::EHWPOISON, -libc::EINTR, -libc::EAGAIN].map(Ended::of);
        assert_eq!(ends, [Ended::Came, Ended::Lost, Ended::Lost, Ended::NotNow, Ended::NotNow]);
        let (_scratch, _writer, reader) = cold_store("populate-shared");
        let mut populates = Populates::default();
        populates.wait(cold(&reader, 9), waiter(1));
        populates.wait(cold(&reader, 9), waiter(2));
        populates.wait(cold(&reader, 9), waiter(1));
        populates.ahead(cold(&reader, 9));
        let (number, _) = populates.start().unwrap();
        assert!(populates.start().is_none());
        assert_eq!(populates.ended(number, Ended::of(-libc::ENOMEM)), [waiter(1), waiter(2)]);
        populates.wait(cold(&reader, 9), waiter(1));
        let (number, _) = populates.start().expect("still in use");
        assert_eq!(populates.ended(number, Ended::of(-libc::EFAULT)), [waiter(1)]);
        assert!(reader.try_lookup(hash(9), b"k", |_| true).is_ok_and(|found| found.is_none()), "out of use");
    }

    #[test]
    fn a_bounded_number_is_under_way_and_the_others_follow_in_order() {
        let (_scratch, _writer, reader) = cold_store("populate-bound");
        let mut populates = Populates::default();
        for number in 1..=OBJECTS {
            populates.wait(cold(&reader, number), waiter(number as u32));
        }
        populates.ahead(cold(&reader, 1));
        let mut started: Vec<u32> =
            std::iter::from_fn(|| populates.start().map(|(number, _)| number)).collect();
        assert_eq!(started.len(), limits::POPULATES_MAX);
        let mut woken: Vec<u32> = Vec::new();
        while let Some(number) = started.pop() {
            woken.extend(populates.ended(number, Ended::Came).iter().map(|waiter| waiter.slot));
            started.extend(populates.start().map(|(number, _)| number));
        }
        woken.sort_unstable();
        assert_eq!(woken, (1..=OBJECTS as u32).collect::<Vec<_>>());
    }
}
