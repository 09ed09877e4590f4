//! Looking at what is stored, and at what was, for an operator who asks. Changes nothing, not even frequencies.
#![forbid(unsafe_code)]

use super::layout::Kind;
use super::left::Left;
use super::store::Writer;

/// One record of a key.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// Its meta bytes.
    pub meta: Vec<u8>,
    /// Its head bytes.
    pub head: Vec<u8>,
    /// Bytes of the object's body.
    pub object_bytes: u64,
    /// Whether the body is in chunks.
    pub chunked: bool,
    /// The number of the shard it is in, in the order of the configuration.
    pub shard: usize,
    /// The segment it is in.
    pub segment: usize,
    /// How often it was read lately, 0 to 3.
    pub frequency: u64,
}

impl Writer {
    /// All records of a key.
    pub(super) fn inspect(&self, hash: u64, key: &[u8]) -> Vec<Inspected> {
        let candidates = self.find.index.candidates(hash);
        let of_key = candidates.filter_map(|(_, entry)| {
            let (header, record) = self.record(entry.location())?;
            (header.kind != Kind::Chunk && &record[header.key()] == key).then(|| Inspected {
                meta: record[header.meta()].to_vec(),
                head: record[header.head()].to_vec(),
                object_bytes: header.object_bytes(),
                chunked: header.kind == Kind::Head,
                shard: 0,
                segment: self.geometry.place(entry.location()).0,
                frequency: entry.frequency(),
            })
        });
        of_key.collect()
    }

    /// When and why a record of this hash left, if that is remembered.
    pub(super) fn left(&self, hash: u64) -> Option<Left> {
        self.left.get(hash)
    }
}
