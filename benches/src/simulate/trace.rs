//! Reading traces: plain or gzipped, line by line. A request takes 4 bytes of memory, and 8 more if it has a size; a
//! key takes 8 however long it is, since only its hash is kept. Two keys with one hash (about one pair in 4,000 million
//! keys) would be taken for one.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use edge::shard::miniature::Given;
use flate2::read::MultiGzDecoder;
use std::collections::HashMap;
use std::fs::File;
use std::hash::BuildHasherDefault;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use xxhash_rust::xxh3::xxh3_64;

/// Bytes of a line at most: longer ones are not of a trace.
const LINE_BYTES_MAX: u64 = 64 * 1024;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// What some programs begin text with: no part of the first key.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
/// The fields of [`Format::Csv`]. Other names are taken for the same, in the same order.
const FIELDS: [&[u8]; 3] = [b"time", b"key", b"bytes"];

/// What the lines are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One key a line; every object has one byte.
    Keys,
    /// A header line, then `time,key,bytes`.
    Csv,
}

/// A trace in memory. Keys are numbered in the order in which they first come up.
#[derive(Default)]
pub struct Trace {
    keys: Vec<u32>,
    /// Of each request; empty if all have one byte.
    bytes: Vec<u64>,
    hashes: Vec<u64>,
    numbers: HashMap<u64, u32, BuildHasherDefault<Given>>,
}

impl Trace {
    /// Reads a file. Errors name the line.
    pub fn read(path: &Path, format: Format) -> Result<Trace> {
        let shown = path.display();
        let file = File::open(path).with_context(|| format!("cannot open {shown}"))?;
        let mut file = BufReader::with_capacity(1 << 16, file);
        let magic = file.fill_buf().with_context(|| format!("cannot read {shown}"))?;
        if magic.starts_with(&GZIP_MAGIC) {
            Self::parse(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(file)), format)
        } else {
            Self::parse(file, format)
        }
        .with_context(|| format!("{shown}"))
    }

    /// Reads lines.
    pub fn parse(mut input: impl BufRead, format: Format) -> Result<Trace> {
        let mut trace = Trace::default();
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let read = (&mut input).take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
            if read.with_context(|| format!("line {number}: cannot be read"))? == 0 {
                break;
            }
            if line.len() as u64 == LINE_BYTES_MAX {
                bail!("line {number}: longer than {LINE_BYTES_MAX} bytes: not a trace");
            }
            let text = if number == 1 { line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&line) } else { &line };
            trace.line(text.trim_ascii_end(), format, number).with_context(|| format!("line {number}"))?;
        }
        if trace.keys.is_empty() {
            bail!("no requests in it");
        }
        // Only needed to number the keys.
        trace.numbers = HashMap::default();
        Ok(trace)
    }

    fn line(&mut self, line: &[u8], format: Format, number: u64) -> Result<()> {
        match (format, number) {
            (Format::Keys, _) => self.add(line, None),
            (Format::Csv, 1) => {
                let fields: Vec<&[u8]> = line.split(|&byte| byte == b',').collect();
                if fields.len() != 3 || fields[2].iter().all(u8::is_ascii_digit) {
                    bail!("expected the header line time,key,bytes");
                }
                let is_elsewhere = |(at, field): (usize, &&[u8])| {
                    FIELDS.iter().position(|name| name == field).is_some_and(|place| place != at)
                };
                if fields.iter().enumerate().any(is_elsewhere) {
                    bail!("expected the fields in the order time,key,bytes: {}", line.escape_ascii());
                }
                Ok(())
            }
            (Format::Csv, _) => {
                let mut fields = line.split(|&byte| byte == b',');
                let (Some(time), Some(key), Some(bytes), None) =
                    (fields.next(), fields.next(), fields.next(), fields.next())
                else {
                    bail!("expected three fields, time,key,bytes: {}", line.escape_ascii());
                };
                let text = |field| std::str::from_utf8(field).map(str::trim).ok();
                if text(time).and_then(|time| time.parse::<f64>().ok()).is_none() {
                    bail!("the time is not a number: {}", time.escape_ascii());
                }
                let Some(bytes) = text(bytes).and_then(|bytes| bytes.parse().ok()) else {
                    bail!("the bytes are not a whole number: {}", bytes.escape_ascii());
                };
                self.add(key, Some(bytes))
            }
        }
    }

    fn add(&mut self, key: &[u8], bytes: Option<u64>) -> Result<()> {
        if key.is_empty() {
            bail!("the key is empty");
        }
        let hash = xxh3_64(key);
        let next = self.hashes.len();
        let number = *self.numbers.entry(hash).or_insert(next as u32);
        if number as usize == next {
            self.hashes.push(hash);
        }
        // The last number is no key's and no request's: it stands for 'never' elsewhere.
        if self.keys.len() as u64 >= u64::from(u32::MAX) - 1 {
            bail!("more than 4,294,967,294 requests: cut the trace");
        }
        self.keys.push(number);
        self.bytes.extend(bytes);
        Ok(())
    }

    /// Requests.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Different keys.
    pub fn keys(&self) -> usize {
        self.hashes.len()
    }

    /// The hash of a key.
    pub fn hash(&self, key: u32) -> u64 {
        self.hashes[key as usize]
    }

    /// Mean bytes of a request, at least 1.
    pub fn mean_bytes(&self) -> u64 {
        let sum: u128 = self.bytes.iter().map(|&bytes| u128::from(bytes)).sum();
        ((sum / self.bytes.len().max(1) as u128) as u64).max(1)
    }

    /// Key and bytes of each request.
    pub fn requests(&self) -> impl DoubleEndedIterator<Item = (u32, u64)> + ExactSizeIterator {
        let bytes = |i: usize| self.bytes.get(i).copied().unwrap_or(1);
        self.keys.iter().enumerate().map(move |(i, &key)| (key, bytes(i)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn error(format: Format, text: &str) -> String {
        format!("{:#}", Trace::parse(text.as_bytes(), format).err().expect("refused"))
    }

    #[test]
    fn both_formats_are_read_plain_and_gzipped() {
        let keys = Trace::parse(&b"a\nb\r\na\nlast"[..], Format::Keys).unwrap();
        assert_eq!(keys.requests().collect::<Vec<_>>(), [(0, 1), (1, 1), (0, 1), (2, 1)]);
        assert_eq!((keys.len(), keys.keys(), keys.mean_bytes()), (4, 3, 1));
        let marked = Trace::parse("\u{feff}a\na\n".as_bytes(), Format::Keys).unwrap();
        assert_eq!(marked.keys(), 1);
        let text = "time,key,bytes\n1,x,10\n2.5,y,20\n3,x,30\n";
        let path = std::env::temp_dir().join(format!("edge-trace-{}.gz", std::process::id()));
        let mut gzip =
            flate2::write::GzEncoder::new(File::create(&path).unwrap(), flate2::Compression::fast());
        gzip.write_all(text.as_bytes()).unwrap();
        gzip.finish().unwrap();
        let csv = Trace::read(&path, Format::Csv);
        let cut = std::fs::read(&path).unwrap();
        std::fs::write(&path, &cut[..cut.len() - 12]).unwrap();
        let short = Trace::read(&path, Format::Csv);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(csv.unwrap().requests().collect::<Vec<_>>(), [(0, 10), (1, 20), (0, 30)]);
        assert!(format!("{:#}", short.err().expect("refused")).contains("cannot be read"));
    }

    #[test]
    fn what_is_malformed_is_refused_with_its_line() {
        assert_eq!(error(Format::Keys, "a\n\nb\n"), "line 2: the key is empty");
        assert_eq!(error(Format::Keys, ""), "no requests in it");
        assert_eq!(error(Format::Csv, "1,a,3\n"), "line 1: expected the header line time,key,bytes");
        let header = "time,key,bytes\n";
        assert_eq!(error(Format::Csv, header), "no requests in it");
        assert_eq!(
            error(Format::Csv, "key,time,bytes\n1,1,1\n"),
            "line 1: expected the fields in the order time,key,bytes: key,time,bytes"
        );
        let csv = |line: &str| error(Format::Csv, &format!("{header}1,a,1\n{line}\n"));
        assert_eq!(csv("1,a"), "line 3: expected three fields, time,key,bytes: 1,a");
        assert_eq!(csv("1,a,2,3"), "line 3: expected three fields, time,key,bytes: 1,a,2,3");
        assert_eq!(csv("1,a,-2"), "line 3: the bytes are not a whole number: -2");
        assert_eq!(csv("x,a,2"), "line 3: the time is not a number: x");
        assert_eq!(csv("1,,2"), "line 3: the key is empty");
        assert!(error(Format::Keys, &"x".repeat(70_000)).starts_with("line 1: longer than"));
    }
}
