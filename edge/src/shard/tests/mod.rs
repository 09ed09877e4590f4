//! Tests of the store as a whole, on small segments. Here: contents that can be checked byte by byte, and what
//! a caller sees step by step. The long ones are beside: against a model, killed, on a torn disk, with threads.

mod accounts;
mod basics;
mod crashes;
mod eviction;
mod faults;
#[cfg(feature = "interleave")]
mod interleave;
mod killed;
mod media;
mod million;
mod model;
mod set;
mod shadow;
mod threads;
mod torn;

use super::read::Reader;
use super::scratch::Scratch;
use super::store::Writer;
use super::{Body, Label, Opened, Options, Pinned, PutError, layout, recover};
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

/// Bytes of a segment in tests; holds 59 KiB of records.
const SEGMENT: usize = 64 << 10;

const INDEX_ENTRIES: usize = 1024;

fn options(scratch: &Scratch, segments: usize) -> Options {
    Options {
        path: scratch.path().to_path_buf(),
        size_bytes: (segments * SEGMENT) as u64,
        readers: 2,
        ..Options::default()
    }
}

fn open(options: &Options) -> (Writer, Vec<Reader>, Opened) {
    recover::open(options, SEGMENT, INDEX_ENTRIES).unwrap()
}

fn refusal(options: &Options) -> String {
    recover::open(options, SEGMENT, INDEX_ENTRIES).err().expect("refused").to_string()
}

/// A small generator of numbers that look random; the same seed gives the same ones.
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Dice(xxh3_64(&seed.to_le_bytes()) | 1)
    }

    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % sides
    }
}

/// An object of a test: all its bytes follow from these numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Object {
    key: u32,
    variant: u64,
    version: u64,
    body_bytes: usize,
    /// 0: in one record.
    chunk_bytes: usize,
}

fn key(key: u32) -> Vec<u8> {
    format!("http://example.test:80/{key}").into_bytes()
}

fn hash(number: u32) -> u64 {
    xxh3_64(&key(number))
}

fn meta_variant(meta: &[u8]) -> u64 {
    u64::from_le_bytes(meta[..8].try_into().unwrap())
}

impl Object {
    fn small(key: u32, version: u64) -> Self {
        Object { key, variant: 0, version, body_bytes: 1000, chunk_bytes: 0 }
    }

    fn meta(&self) -> Vec<u8> {
        let numbers = [self.variant, self.version, self.body_bytes as u64, self.chunk_bytes as u64];
        numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
    }

    /// The object whose record has this meta.
    fn of(key: u32, meta: &[u8]) -> Self {
        let numbers: Vec<u64> =
            meta.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
        let [variant, version, body_bytes, chunk_bytes] = numbers[..] else { panic!("torn meta {meta:?}") };
        Object { key, variant, version, body_bytes: body_bytes as usize, chunk_bytes: chunk_bytes as usize }
    }

    fn head(&self) -> Vec<u8> {
        format!("content-length: {}\r\nx-version: {}\r\n\r\n", self.body_bytes, self.version).into_bytes()
    }

    fn body(&self) -> Vec<u8> {
        let mut dice = Dice::new(self.version << 32 | u64::from(self.key));
        let mut body = Vec::with_capacity(self.body_bytes + 8);
        while body.len() < self.body_bytes {
            dice.roll(1);
            body.extend_from_slice(&dice.0.to_le_bytes());
        }
        body.truncate(self.body_bytes);
        body
    }

    /// Stores it, in place of its older versions.
    fn put(&self, writer: &mut Writer) -> Result<(), PutError> {
        let (key, meta, head, body) = (key(self.key), self.meta(), self.head(), Bytes::from(self.body()));
        let same = |old: &[u8]| meta_variant(old) == self.variant;
        if self.chunk_bytes == 0 {
            let middle = body.len() / 3;
            let pieces = [body.slice(..middle), body.slice(middle..)];
            return writer.put(&Label::new(hash(self.key), &key, &meta, &head), Body::Whole(&pieces), same);
        }
        let object = writer.new_object();
        for (chunk, bytes) in body.chunks(self.chunk_bytes).enumerate() {
            writer.put_chunk(object, chunk as u32, &[Bytes::copy_from_slice(bytes)])?;
        }
        writer.put(
            &Label::new(hash(self.key), &key, &meta, &head),
            Body::Chunks { object, bytes: body.len() as u64 },
            same,
        )
    }

    /// Stores it with some of its chunks alone: those with a bit in `which`.
    fn put_part(&self, writer: &mut Writer, which: u64) -> Result<(), PutError> {
        let (key, meta, head, body) = (key(self.key), self.meta(), self.head(), self.body());
        let same = |old: &[u8]| meta_variant(old) == self.variant;
        let object = writer.new_object();
        writer.put(
            &Label::new(hash(self.key), &key, &meta, &head),
            Body::Partial { object, bytes: body.len() as u64 },
            same,
        )?;
        for (chunk, bytes) in body.chunks(self.chunk_bytes).enumerate() {
            if which >> (chunk % 64) & 1 == 1 {
                // A chunk that has no room is one that is missing.
                let _ = writer.put_chunk(object, chunk as u32, &[Bytes::copy_from_slice(bytes)]);
            }
        }
        Ok(())
    }

    /// Checks all bytes of a record of this object, and its chunks as far as they are there.
    fn check(&self, record: &Pinned, reader: &Reader) {
        assert_eq!(record.meta(), self.meta(), "{self:?}");
        assert_eq!(record.head(), self.head(), "{self:?}");
        assert_eq!(record.object_bytes(), self.body_bytes as u64, "{self:?}");
        let body = self.body();
        let Some(object) = record.chunked() else {
            assert!(record.body() == body, "body of {self:?}");
            let behind = record.head().as_ptr_range().end;
            assert_eq!(behind, record.body().as_ptr(), "head and body are one extent");
            return;
        };
        assert!(record.body().is_empty());
        for (chunk, bytes) in body.chunks(self.chunk_bytes).enumerate() {
            if let Some(record) = reader.chunk(object, chunk as u32) {
                assert!(record.body() == bytes, "chunk {chunk} of {self:?}");
            }
        }
    }
}

/// What is served under a key and variant, all of it checked.
fn served(reader: &Reader, number: u32, variant: u64) -> Option<Object> {
    let record = reader.lookup(hash(number), &key(number), |meta| meta_variant(meta) == variant)?;
    let object = Object::of(number, record.meta());
    object.check(&record, reader);
    if let Some(chunks) = record.chunked().filter(|_| !record.partial()) {
        for chunk in 0..object.body_bytes.div_ceil(object.chunk_bytes) {
            assert!(reader.chunk(chunks, chunk as u32).is_some(), "chunk {chunk} of {object:?} is missing");
        }
    }
    Some(object)
}

/// Which chunks of large objects are there.
fn chunks_there(reader: &Reader, keys: u32, variants: u64) -> Vec<(u32, u64, Vec<bool>)> {
    let both = (0..keys).flat_map(|key| (0..variants).map(move |variant| (key, variant)));
    let there = |(number, variant)| {
        let record = reader.lookup(hash(number), &key(number), |meta| meta_variant(meta) == variant)?;
        let object = record.chunked()?;
        let Object { body_bytes, chunk_bytes, .. } = Object::of(number, record.meta());
        let chunks = body_bytes.div_ceil(chunk_bytes) as u32;
        Some((number, variant, (0..chunks).map(|chunk| reader.chunk(object, chunk).is_some()).collect()))
    };
    both.filter_map(there).collect()
}

/// Everything that is served under these keys and variants.
fn all_served(reader: &Reader, keys: u32, variants: u64) -> Vec<Object> {
    let both = (0..keys).flat_map(|key| (0..variants).map(move |variant| (key, variant)));
    both.filter_map(|(key, variant)| served(reader, key, variant)).collect()
}
