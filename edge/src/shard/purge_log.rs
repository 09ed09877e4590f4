//! The format of the purge log: a header, then frames that are each wholly there or not, by their checksums. Pure:
//! bytes in, bytes and purges out. When it is written and to which file is settled in `control::purge`.
//!
//! ```text
//! header  magic (8) | version (8) | id (8) | shard (8) | log before (8) | checksum (8)
//! frame   magic (4) | bytes of the items (4) | checksum (8) | items
//! item    kind (1) | class (1) | soft (1) | cause (1) | length (4) | …, all numbers little-endian
//!         purge, remembered   sequence (8) | Unix seconds (8) | subject (length)
//!         sequence            the last number given out (8)
//!         table               place (4) | word (8), length times
//! ```
//!
//! A log goes with what one shard holds, and lies beside it. It names the shard by its random id, and the shard's header
//! names the log, from when it is on disk; until then it names the one before, which the log names as well. So neither a
//! log of another store counts, nor one that was left where the shard's logs lay at some earlier time.
//!
//! A frame's checksum is keyed with the file's id and the frame's offset. A frame is written only once the one before
//! it is on disk, and the first one before the file has its name; so a crash can break the last one alone. What
//! follows a broken frame and is whole means that the disk has lost something that was acknowledged.
#![forbid(unsafe_code)]

use crate::limits;
use crate::proto::generations::{SEQUENCE_MAX, Table, Words};
use crate::proto::purge::{Class, Subject};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

const MAGIC: u64 = u64::from_le_bytes(*b"edgeprgs");
const VERSION: u64 = 2;
const FRAME_MAGIC: [u8; 4] = *b"EPRG";
/// A bit in the name that a shard's header has for its log: that log lacks purges, and so does not count. No id has it.
pub const LACKS: u64 = 1 << 63;
/// Bytes of the header.
pub const HEADER_BYTES: usize = 48;
const FRAME_BYTES: usize = 16;

/// What made something unusable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cause {
    /// Whoever runs the node.
    Operator = 0,
    /// A request with an unsafe method that succeeded (RFC 9111 section 4.4).
    UnsafeRequest = 1,
}

/// One purge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purge {
    /// Its number; responses asked for since have this one or a higher one.
    pub sequence: u64,
    /// When, Unix seconds.
    pub unix_s: u64,
    /// What.
    pub subject: Subject,
    /// Whether what it names is stale rather than gone.
    pub soft: bool,
    /// What made it.
    pub cause: Cause,
}

/// What stands in a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A purge to put in force.
    Purge(Purge),
    /// One that is in force by what else the log says; kept for who asks what was purged.
    Remembered(Purge),
    /// The last number given out.
    Sequence(u64),
    /// The words of the table.
    Table(Words),
}

/// The shard beside which a log lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// The random id of its file.
    pub shard: u64,
    /// The id of the log that its header names; 0: none yet.
    pub log: u64,
}

/// More purges than there are between two starts, if each waits for the one before. A 256th of all numbers there are.
const PURGES_OF_A_RUN: u64 = 1 << 34;

/// The highest id among the names that shards have for their logs; what cannot be one is damage.
pub fn last_id(names: impl Iterator<Item = u64>) -> u64 {
    names.map(|name| name & !LACKS).filter(|&id| id <= SEQUENCE_MAX - SEQUENCE_MAX / 4).max().unwrap_or(0)
}

/// The first number of a log that begins now, at this time in Unix milliseconds: the time, which is higher than any number of
/// a log before, for nobody purges a thousand times a second for years. Where the clock was set back, it is higher than
/// the id of the last log by more than was purged since; and no log's id is below the number it begins with.
pub fn first_sequence(now_ms: u64, last_id: u64) -> u64 {
    if now_ms > last_id { now_ms } else { last_id + PURGES_OF_A_RUN }
}

/// The header of a log with this id, for this shard as it is before the log is there.
pub fn header(id: u64, owner: Owner) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    for (i, word) in [MAGIC, VERSION, id, owner.shard, owner.log].into_iter().enumerate() {
        bytes[i * 8..][..8].copy_from_slice(&word.to_le_bytes());
    }
    let checksum = xxh3_64(&bytes[..40]);
    bytes[40..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// A frame with these items, to be written at `offset` of the log with this id.
pub fn frame<'a>(id: u64, offset: u64, items: impl IntoIterator<Item = &'a Item>) -> Vec<u8> {
    let mut bytes = vec![0; FRAME_BYTES];
    items.into_iter().for_each(|item| push(&mut bytes, item));
    let length = (bytes.len() - FRAME_BYTES) as u32;
    bytes[..4].copy_from_slice(&FRAME_MAGIC);
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    let checksum = xxh3_64_with_seed(&bytes[FRAME_BYTES..], seed(id, offset));
    bytes[8..16].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

fn seed(id: u64, offset: u64) -> u64 {
    id ^ offset.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn push(bytes: &mut Vec<u8>, item: &Item) {
    let of_purge = |purge: &Purge| {
        ([purge.subject.class as u8, purge.soft.into(), purge.cause as u8], purge.subject.bytes.len())
    };
    let (kind, (marks, length)) = match item {
        Item::Purge(purge) => (1, of_purge(purge)),
        Item::Remembered(purge) => (2, of_purge(purge)),
        Item::Sequence(_) => (3, ([0; 3], 0)),
        Item::Table(words) => (4, ([0; 3], words.len())),
    };
    bytes.push(kind);
    bytes.extend_from_slice(&marks);
    bytes.extend_from_slice(&(length as u32).to_le_bytes());
    match item {
        Item::Purge(purge) | Item::Remembered(purge) => {
            bytes.extend_from_slice(&purge.sequence.to_le_bytes());
            bytes.extend_from_slice(&purge.unix_s.to_le_bytes());
            bytes.extend_from_slice(&purge.subject.bytes);
        }
        Item::Sequence(sequence) => bytes.extend_from_slice(&sequence.to_le_bytes()),
        Item::Table(words) => words.iter().for_each(|(place, word)| {
            bytes.extend_from_slice(&place.to_le_bytes());
            bytes.extend_from_slice(&word.to_le_bytes());
        }),
    }
}

/// What a log says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// The items of its whole frames, in order.
    pub items: Vec<Item>,
    /// Bytes behind the last whole frame: one that was never acknowledged.
    pub torn_bytes: usize,
}

/// Why a log cannot be trusted: what was purged is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Not a log of this version.
    #[error("it is not a purge log of this version")]
    Foreign,
    /// Of another shard file.
    #[error("it is of another store, or of one that was here before")]
    OtherStore,
    /// Of this one, which has had another log since.
    #[error("it is of an earlier time: the store has had its log elsewhere since")]
    Outdated,
    /// Something in the middle is not what was written.
    #[error("it is damaged in the middle")]
    Damaged,
}

/// Reads the log that lies beside a shard.
pub fn read(bytes: &[u8], owner: Owner) -> Result<Contents, Unreadable> {
    let head = bytes.first_chunk::<HEADER_BYTES>().ok_or(Unreadable::Foreign)?;
    let word = |word: usize| u64::from_le_bytes(std::array::from_fn(|i| head[word * 8 + i]));
    let (id, of) = (word(2), Owner { shard: word(3), log: word(4) });
    if *head != header(id, of) {
        return Err(Unreadable::Foreign);
    }
    if of.shard != owner.shard {
        return Err(Unreadable::OtherStore);
    }
    if ![id, of.log].contains(&owner.log) {
        return Err(Unreadable::Outdated);
    }
    let mut contents = Contents::default();
    let mut at = HEADER_BYTES;
    while let Some((mut items, end)) = frame_at(bytes, id, at) {
        while !items.is_empty() {
            contents.items.push(take_item(&mut items).ok_or(Unreadable::Damaged)?);
        }
        at = end;
    }
    let whole_later = |from: usize| {
        let places = bytes[from..].windows(4).enumerate().filter(|(_, window)| *window == FRAME_MAGIC);
        places.map(|(i, _)| from + i).any(|place| frame_at(bytes, id, place).is_some())
    };
    // The first frame is there before the file has its name.
    if at == HEADER_BYTES || at < bytes.len() && whole_later(at + 1) {
        return Err(Unreadable::Damaged);
    }
    contents.torn_bytes = bytes.len() - at;
    Ok(contents)
}

/// The items of a whole frame, and where it ends.
fn frame_at(bytes: &[u8], id: u64, at: usize) -> Option<(&[u8], usize)> {
    let head = bytes.get(at..)?.first_chunk::<FRAME_BYTES>()?;
    if head[..4] != FRAME_MAGIC {
        return None;
    }
    let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
    let checksum = u64::from_le_bytes(std::array::from_fn(|i| head[8 + i]));
    let end = (at + FRAME_BYTES).checked_add(length)?;
    let items = bytes.get(at + FRAME_BYTES..end)?;
    (checksum == xxh3_64_with_seed(items, seed(id, at as u64))).then_some((items, end))
}

fn take_item(rest: &mut &[u8]) -> Option<Item> {
    let [kind, class, soft, cause, length @ ..] = *take::<8>(rest)?;
    let length = u32::from_le_bytes(length) as usize;
    Some(match kind {
        1 | 2 => {
            let (sequence, unix_s) = (number(rest).filter(|&number| number <= SEQUENCE_MAX)?, number(rest)?);
            let bytes = rest.split_off(..length)?.to_vec();
            if bytes.len() > limits::KEY_BYTES_MAX {
                return None;
            }
            let subject = Subject { class: Class::from_number(class)?, bytes };
            let cause = if cause == 0 { Cause::Operator } else { Cause::UnsafeRequest };
            let purge = Purge { sequence, unix_s, subject, soft: soft != 0, cause };
            if kind == 1 { Item::Purge(purge) } else { Item::Remembered(purge) }
        }
        3 => Item::Sequence(number(rest).filter(|&number| number <= SEQUENCE_MAX)?),
        4 => {
            let words = rest.split_off(..length.checked_mul(12)?)?.as_chunks::<12>().0;
            Item::Table(words.iter().map(place_and_word).collect())
        }
        _ => return None,
    })
}

fn place_and_word(bytes: &[u8; 12]) -> (u32, u64) {
    let place = u32::from_le_bytes(std::array::from_fn(|i| bytes[i]));
    (place, u64::from_le_bytes(std::array::from_fn(|i| bytes[4 + i])))
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    take::<8>(rest).map(|bytes| u64::from_le_bytes(*bytes))
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (first, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(first)
}

/// What purges have to be put in force by hand after this: hard ones of one URL are in the records themselves, which
/// a crash may have undone.
#[derive(Debug, Default)]
pub struct Replayed {
    /// The last number given out.
    pub sequence: u64,
    /// Hard purges of one URL: records of the key that are older must go.
    pub removals: Vec<Purge>,
    /// All purges of operators that are remembered, the oldest first.
    pub history: Vec<Purge>,
}

/// Puts what a log says in force in an empty table. `None`: it is of a table of another size.
pub fn replay(items: Vec<Item>, table: &Table) -> Option<Replayed> {
    let mut replayed = Replayed::default();
    for item in items {
        match item {
            Item::Sequence(sequence) => replayed.sequence = replayed.sequence.max(sequence),
            Item::Table(words) => table.restore(&words)?,
            Item::Remembered(purge) => replayed.history.push(purge),
            Item::Purge(purge) => {
                replayed.sequence = replayed.sequence.max(purge.sequence);
                if purge.cause == Cause::Operator {
                    replayed.history.push(purge.clone());
                }
                if purge.subject.class == Class::Url && !purge.soft {
                    replayed.removals.push(purge);
                } else {
                    table.apply(purge.sequence, &purge.subject, purge.soft);
                }
            }
        }
    }
    Some(replayed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::generations::Verdict;
    use crate::proto::purge::Tags;
    use proptest::prelude::*;

    const ID: u64 = 0x1234_5678_9abc;
    const OWNER: Owner = Owner { shard: 77, log: ID - 1 };

    fn purge(sequence: u64, class: Class, text: &str, soft: bool) -> Purge {
        let subject = Subject::parse(class, text).unwrap();
        Purge { sequence, unix_s: 1_700_000_000 + sequence, subject, soft, cause: Cause::Operator }
    }

    fn invalidation(sequence: u64, url: &str) -> Purge {
        Purge { cause: Cause::UnsafeRequest, ..purge(sequence, Class::Url, url, false) }
    }

    /// A log of one frame for each list of items, and where its frames end.
    fn log(frames: &[Vec<Item>]) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = header(ID, OWNER).to_vec();
        let mut ends = vec![bytes.len()];
        for items in frames {
            bytes.extend(frame(ID, bytes.len() as u64, items));
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    fn three() -> Vec<Vec<Item>> {
        vec![
            vec![Item::Sequence(5), Item::Table(vec![(1, 2), (7, u64::MAX)])],
            vec![
                Item::Purge(purge(6, Class::Tag, "news", false)),
                Item::Remembered(purge(4, Class::Host, "a", true)),
            ],
            vec![Item::Purge(invalidation(7, "http://a/x"))],
        ]
    }

    #[test]
    fn what_was_written_is_read_and_a_torn_tail_is_dropped_wherever_it_tears() {
        let (bytes, ends) = log(&three());
        let all: Vec<Item> = three().concat();
        assert_eq!(read(&bytes, OWNER), Ok(Contents { items: all.clone(), torn_bytes: 0 }));
        let counts = [0, 2, 4, 5];
        for cut in HEADER_BYTES..ends[1] {
            assert_eq!(read(&bytes[..cut], OWNER), Err(Unreadable::Damaged), "{cut}");
        }
        for cut in ends[1]..bytes.len() {
            let whole = ends.iter().rposition(|&end| end <= cut).unwrap();
            let wanted = Contents { items: all[..counts[whole]].to_vec(), torn_bytes: cut - ends[whole] };
            assert_eq!(read(&bytes[..cut], OWNER), Ok(wanted), "{cut}");
            // Pages that came back as zeroes, or as something else.
            for filler in [0, 0xa5] {
                let mut torn = bytes[..cut].to_vec();
                torn.resize(bytes.len() + 4096, filler);
                let read = read(&torn, OWNER).unwrap();
                assert!(read.items.len() >= counts[whole] && read.items.len() <= counts[whole] + 2, "{cut}");
            }
        }
        for cut in 0..HEADER_BYTES {
            assert_eq!(read(&bytes[..cut], OWNER), Err(Unreadable::Foreign));
        }
    }

    #[test]
    fn a_log_counts_for_its_shard_alone_and_from_when_it_is_there_until_another_is() {
        let (bytes, _) = log(&three());
        let with = |owner: Owner| read(&bytes, owner).map(|contents| contents.items.len());
        assert_eq!(with(Owner { log: ID, ..OWNER }), Ok(5));
        assert_eq!(with(OWNER), Ok(5), "the shard's header was not told yet");
        assert_eq!(with(Owner { log: ID + 1, ..OWNER }), Err(Unreadable::Outdated));
        assert_eq!(with(Owner { log: 0, ..OWNER }), Err(Unreadable::Outdated));
        assert_eq!(with(Owner { shard: 78, ..OWNER }), Err(Unreadable::OtherStore));
    }

    #[test]
    fn damage_before_what_was_acknowledged_is_not_taken_for_a_torn_tail() {
        let (bytes, ends) = log(&three());
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x40;
            match read(&bad, OWNER) {
                Err(Unreadable::Foreign) => assert!(at < HEADER_BYTES, "{at}"),
                Err(Unreadable::OtherStore | Unreadable::Outdated) => {
                    panic!("{at}: the header has a checksum")
                }
                Err(Unreadable::Damaged) => assert!((HEADER_BYTES..ends[2]).contains(&at), "{at}"),
                Ok(contents) => {
                    assert!(at >= ends[2], "{at}");
                    assert_eq!(contents.items.len(), 4);
                }
            }
        }
        let mut moved = bytes.clone();
        moved.splice(ends[1]..ends[2], []);
        assert_eq!(read(&moved, OWNER).unwrap().items.len(), 2, "a frame counts at its place only");
    }

    #[test]
    fn a_replay_puts_all_in_force_and_says_what_must_be_removed() {
        let table = Table::default();
        let items = vec![
            Item::Sequence(9),
            Item::Purge(purge(10, Class::Tag, "news", false)),
            Item::Purge(purge(11, Class::Host, "a", true)),
            Item::Purge(purge(12, Class::Url, "http://a/x", false)),
            Item::Purge(invalidation(13, "http://a/y")),
            Item::Remembered(purge(3, Class::Host, "b", false)),
        ];
        let replayed = replay(items, &table).unwrap();
        assert_eq!(replayed.sequence, 13);
        let removals = [purge(12, Class::Url, "http://a/x", false), invalidation(13, "http://a/y")];
        assert_eq!(replayed.removals, removals);
        assert_eq!(replayed.history.len(), 4, "of operators alone");
        assert_eq!(table.judge(9, b"http://a/x", Tags::UNKNOWN), Verdict::Gone);
        assert_eq!(table.judge(10, b"http://a/x", Tags::UNKNOWN), Verdict::Stale);
        assert_eq!(table.judge(2, b"http://b/x", Tags::UNKNOWN), Verdict::Gone, "the tag, not the host");
        let again = Table::default();
        assert!(replay(vec![Item::Table(table.words())], &again).is_some());
        assert_eq!(again.judge(10, b"http://a/x", Tags::UNKNOWN), Verdict::Stale);
        assert!(replay(vec![Item::Table(vec![(u32::MAX, 1)])], &again).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..400),
            framed in any::<bool>(),
        ) {
            if framed {
                // With checksums that match, so that the items are looked at.
                let mut whole = header(ID, OWNER).to_vec();
                let mut frame = frame(ID, HEADER_BYTES as u64, &[]);
                frame.append(&mut bytes);
                let length = (frame.len() - FRAME_BYTES) as u32;
                frame[4..8].copy_from_slice(&length.to_le_bytes());
                let checksum = xxh3_64_with_seed(&frame[FRAME_BYTES..], seed(ID, HEADER_BYTES as u64));
                frame[8..16].copy_from_slice(&checksum.to_le_bytes());
                whole.append(&mut frame);
                bytes = whole;
            }
            if let Ok(contents) = read(&bytes, OWNER) {
                replay(contents.items, &Table::default());
            }
        }
    }
}
