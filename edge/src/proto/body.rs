//! Where a request's body ends: a counter for Content-Length, a strict decoder for the chunked coding
//! (RFC 9112 section 7.1). Incremental: the same result however the bytes were split. Never a response's.
#![forbid(unsafe_code)]

use super::framing::is_token_byte;
use super::request::BodyLength;
use crate::limits;
use std::ops::Range;

/// Hexadecimal digits of a chunk size, leading zeros included: 64 bits.
const SIZE_DIGITS_MAX: u16 = 16;
/// Bytes of one chunk's extensions. Nobody uses them; large ones are an attack on the reader.
const EXTENSION_BYTES_MAX: u16 = 256;

/// What a decoder found next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// All of the input was taken, and there was no data in the rest of it.
    More,
    /// These bytes of the input are body bytes; never empty. Continue after them.
    Data(Range<usize>),
    /// These bytes are of the trailer section: a run of its lines, which may begin and end anywhere; never empty. Continue
    /// after them.
    Trailer(Range<usize>),
    /// The body ended before this offset of the input.
    End(usize),
}

/// The coding is broken: nothing after this can be trusted to be a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Reads one request's body.
#[derive(Clone, Copy, Debug)]
pub struct Decoder {
    /// Body bytes to come, of the chunk or of the whole.
    left: u64,
    /// Bytes seen of what `phase` bounds.
    seen: u16,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Content-Length: `left` bytes.
    Counted,
    /// The digits of a chunk size.
    Size,
    /// After `;` in a size line.
    Extension,
    /// After the CR of a size line.
    SizeEnd,
    /// `left` bytes of chunk data.
    Data,
    /// The CR after chunk data.
    DataCr,
    /// The LF after chunk data.
    DataLf,
    /// The first byte of a trailer line, or the CR of the empty line.
    TrailerStart,
    /// A trailer field's name.
    TrailerName,
    /// A trailer field's value.
    TrailerValue,
    /// After the CR of a trailer line.
    TrailerLf,
    /// After the CR of the empty line.
    LastLf,
    /// All was read.
    Ended,
}

impl Phase {
    /// Whether it is within a trailer line.
    fn is_trailer(self) -> bool {
        matches!(self, Phase::TrailerName | Phase::TrailerValue | Phase::TrailerLf)
    }
}

impl Decoder {
    /// For a body of this kind.
    pub fn new(length: BodyLength) -> Self {
        match length {
            BodyLength::None => Decoder { left: 0, seen: 0, phase: Phase::Ended },
            BodyLength::Bytes(left) => Decoder { left, seen: 0, phase: Phase::Counted },
            BodyLength::Chunked => Decoder { left: 0, seen: 0, phase: Phase::Size },
        }
    }

    /// For what a client sends through a tunnel: all that comes.
    pub fn endless() -> Self {
        Decoder { left: u64::MAX, seen: 0, phase: Phase::Counted }
    }

    /// Whether the body was read to its end.
    pub fn ended(&self) -> bool {
        self.phase == Phase::Ended
    }

    /// Reads on at offset `at` of `input`, up to the next run of data or of trailers, or the end.
    pub fn step(&mut self, input: &[u8], mut at: usize) -> Result<Step, Malformed> {
        let mut trailer = at..at;
        loop {
            match self.phase {
                Phase::Ended => return Ok(Step::End(at)),
                Phase::Counted | Phase::Data if self.left == 0 => {
                    self.phase = if self.phase == Phase::Data { Phase::DataCr } else { Phase::Ended };
                }
                Phase::Counted | Phase::Data => {
                    let here = input.len().saturating_sub(at);
                    let take = usize::try_from(self.left).unwrap_or(usize::MAX).min(here);
                    if take == 0 {
                        return Ok(Step::More);
                    }
                    self.left -= take as u64;
                    return Ok(Step::Data(at..at + take));
                }
                _ => {
                    let byte = match input.get(at) {
                        Some(&byte)
                            if self.phase != Phase::TrailerStart || byte != b'\r' || trailer.is_empty() =>
                        {
                            byte
                        }
                        _ if !trailer.is_empty() => return Ok(Step::Trailer(trailer)),
                        _ => return Ok(Step::More),
                    };
                    let before = self.phase;
                    self.line_byte(byte)?;
                    at += 1;
                    if self.phase.is_trailer() || before == Phase::TrailerLf {
                        let start = if trailer.is_empty() { at - 1 } else { trailer.start };
                        trailer = start..at;
                    }
                }
            }
        }
    }

    fn line_byte(&mut self, byte: u8) -> Result<(), Malformed> {
        self.phase = match (self.phase, byte) {
            (Phase::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                self.count(SIZE_DIGITS_MAX)?;
                let digit = (byte as char).to_digit(16).ok_or(Malformed)?;
                self.left = (self.left << 4) | u64::from(digit);
                Phase::Size
            }
            (Phase::Size, b'\r') if self.seen > 0 => Phase::SizeEnd,
            (Phase::Size, b';') if self.seen > 0 => {
                self.seen = 0;
                Phase::Extension
            }
            (Phase::Extension, b'\r') => Phase::SizeEnd,
            (Phase::Extension, b'\t' | b' '..=b'~') => {
                self.count(EXTENSION_BYTES_MAX)?;
                Phase::Extension
            }
            (Phase::SizeEnd, b'\n') => {
                self.seen = 0;
                if self.left > 0 { Phase::Data } else { Phase::TrailerStart }
            }
            (Phase::DataCr, b'\r') => Phase::DataLf,
            (Phase::DataLf, b'\n') => Phase::Size,
            (Phase::TrailerStart, b'\r') => Phase::LastLf,
            (Phase::TrailerStart | Phase::TrailerName, _) if is_token_byte(byte) => {
                self.count(limits::REQUEST_TRAILER_BYTES_MAX)?;
                Phase::TrailerName
            }
            (Phase::TrailerName, b':') => Phase::TrailerValue,
            (Phase::TrailerValue, b'\r') => Phase::TrailerLf,
            (Phase::TrailerValue, b'\t' | b' '..=b'~' | 0x80..) => {
                self.count(limits::REQUEST_TRAILER_BYTES_MAX)?;
                Phase::TrailerValue
            }
            (Phase::TrailerLf, b'\n') => Phase::TrailerStart,
            (Phase::LastLf, b'\n') => Phase::Ended,
            _ => return Err(Malformed),
        };
        Ok(())
    }

    fn count(&mut self, max: u16) -> Result<(), Malformed> {
        self.seen += 1;
        if self.seen > max { Err(Malformed) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The data and how many bytes were taken; `None`: not ended; `Err`: malformed.
    fn decode(length: BodyLength, parts: &[&[u8]]) -> Result<Option<(Vec<u8>, usize)>, Malformed> {
        Ok(read(length, parts)?.map(|(data, _, taken)| (data, taken)))
    }

    /// Data, trailer section and how many bytes were taken.
    type Read = (Vec<u8>, Vec<u8>, usize);

    /// The same with the trailer section.
    fn read(length: BodyLength, parts: &[&[u8]]) -> Result<Option<Read>, Malformed> {
        let mut decoder = Decoder::new(length);
        let (mut data, mut trailer, mut taken) = (Vec::new(), Vec::new(), 0);
        for part in parts {
            let mut at = 0;
            loop {
                match decoder.step(part, at)? {
                    Step::More => break,
                    Step::Data(range) => {
                        assert!(!range.is_empty());
                        at = range.end;
                        data.extend_from_slice(&part[range]);
                    }
                    Step::Trailer(range) => {
                        assert!(range.start >= at && !range.is_empty());
                        at = range.end;
                        trailer.extend_from_slice(&part[range]);
                    }
                    Step::End(end) => return Ok(Some((data, trailer, taken + end))),
                }
            }
            taken += part.len();
        }
        Ok(decoder.ended().then_some((data, trailer, taken)))
    }

    fn check(input: &[u8], want: Result<Option<(&[u8], usize)>, Malformed>) {
        let want = want.map(|ended| ended.map(|(data, taken)| (data.to_vec(), taken)));
        assert_eq!(decode(BodyLength::Chunked, &[input]), want, "{}", input.escape_ascii());
        let bytes: Vec<&[u8]> = input.chunks(1).collect();
        assert_eq!(decode(BodyLength::Chunked, &bytes), want, "by bytes: {}", input.escape_ascii());
        for cut in 0..=input.len() {
            let parts = [&input[..cut], &input[cut..]];
            assert_eq!(decode(BodyLength::Chunked, &parts), want, "cut at {cut}: {}", input.escape_ascii());
        }
    }

    #[test]
    fn trailers_come_as_they_were_sent() {
        for section in ["", "A: b\r\n", "A: b\r\nC:\r\n", "a:\tb \r\nA: \r\r\n"] {
            let input = format!("1;x\r\ny\r\n0\r\n{section}\r\nGET");
            let want = Ok(Some((b"y".to_vec(), section.as_bytes().to_vec(), input.len() - 3)));
            if section.contains("\r\r") {
                assert_eq!(read(BodyLength::Chunked, &[input.as_bytes()]), Err(Malformed));
                continue;
            }
            assert_eq!(read(BodyLength::Chunked, &[input.as_bytes()]), want, "{section:?}");
            for cut in 0..=input.len() {
                let (first, second) = input.as_bytes().split_at(cut);
                assert_eq!(read(BodyLength::Chunked, &[first, second]), want, "{section:?} cut at {cut}");
            }
            let bytes: Vec<&[u8]> = input.as_bytes().chunks(1).collect();
            assert_eq!(read(BodyLength::Chunked, &bytes), want, "{section:?} by bytes");
        }
    }

    #[test]
    fn chunked() {
        let whole: &[(&[u8], &[u8], usize)] = &[
            (b"0\r\n\r\n", b"", 5),
            (b"0\r\n\r\nGET", b"", 5),
            (b"5\r\nhello\r\n0\r\n\r\n", b"hello", 15),
            (b"05\r\nhello\r\n000\r\n\r\n", b"hello", 18),
            (b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", b"01234567890123456789", 35),
            (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n", 12),
            (b"1;a=b;c=\"d e\"\r\nx\r\n0;z\r\n\r\n", b"x", 25),
            (b"1;\r\nx\r\n0\r\n\r\n", b"x", 12),
            (b"1\r\nx\r\n0\r\nA: b\r\nC:\r\n\r\n", b"x", 21),
            (b"1\r\nx\r\n0\r\nA: \xff\tb\r\n\r\n", b"x", 19),
        ];
        for &(input, data, taken) in whole {
            check(input, Ok(Some((data, taken))));
            for short in 0..taken {
                check(&input[..short], Ok(None));
            }
        }
        let malformed: &[&[u8]] = &[
            b"\r\n",
            b"\n",
            b";a\r\n",
            b" 1\r\nx",
            b"1 \r\nx",
            b"1 ;a\r\nx",
            b"+1\r\nx",
            b"-1\r\nx",
            b"0x1\r\nx",
            b"g\r\n",
            b"1\nx",
            b"1\rx",
            b"1\r\r\n",
            b"1;a\nx",
            b"1;\x00\r\nx",
            b"1;\x7f\r\nx",
            b"1;\xff\r\nx",
            b"1;a\rb\r\nx",
            b"1\r\nxy",
            b"1\r\nx\n0\r\n\r\n",
            b"1\r\nx\rY",
            b"1\r\nx0\r\n\r\n",
            b"0\r\n\n",
            b"0\r\n\rx",
            b"0\r\n a: b\r\n\r\n",
            b"0\r\n: b\r\n\r\n",
            b"0\r\nab\r\n\r\n",
            b"0\r\na : b\r\n\r\n",
            b"0\r\na: b\n\r\n",
            b"0\r\na: b\r\r\n",
            b"0\r\na: \x00\r\n\r\n",
            b"0\r\na: b\r\n folded\r\n\r\n",
            b"00000000000000001\r\nx",
            b"10000000000000000\r\n",
        ];
        for input in malformed {
            check(input, Err(Malformed));
        }
    }

    #[test]
    fn chunk_bounds() {
        check(b"ffffffffffffffff\r\nx", Ok(None));
        let extension = |n: usize| [b"1;", &vec![b'e'; n][..], b"\r\nx\r\n0\r\n\r\n"].concat();
        check(&extension(256), Ok(Some((b"x", 256 + 12))));
        check(&extension(257), Err(Malformed));
        let trailer = |n: usize| [b"0\r\na:", &vec![b'v'; n][..], b"\r\n\r\n"].concat();
        let decoded = decode(BodyLength::Chunked, &[&trailer(4095)]);
        assert_eq!(decoded, Ok(Some((Vec::new(), 4095 + 9))));
        assert_eq!(decode(BodyLength::Chunked, &[&trailer(4096)]), Err(Malformed));
    }

    #[test]
    fn counted() {
        assert_eq!(decode(BodyLength::None, &[b"abc"]), Ok(Some((vec![], 0))));
        assert_eq!(decode(BodyLength::Bytes(2), &[b"a", b"bc"]), Ok(Some((b"ab".to_vec(), 2))));
        assert_eq!(decode(BodyLength::Bytes(3), &[b"ab"]), Ok(None));
        assert_eq!(decode(BodyLength::Bytes(u64::MAX), &[b"ab"]), Ok(None));
    }

    proptest! {
        #[test]
        fn any_bytes_split_anywhere(input in prop::collection::vec(prop::sample::select(b"01aF;\r\n:x \xff\x00".to_vec()), 0..64), cut in 0usize..64) {
            let cut = cut.min(input.len());
            prop_assert_eq!(
                decode(BodyLength::Chunked, &[&input]),
                decode(BodyLength::Chunked, &[&input[..cut], &input[cut..]])
            );
        }

        #[test]
        fn encoded_comes_back(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..8)) {
            let mut input = Vec::new();
            for chunk in &chunks {
                input.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                input.extend_from_slice(chunk);
                input.extend_from_slice(b"\r\n");
            }
            input.extend_from_slice(b"0\r\n\r\n");
            let taken = input.len();
            input.extend_from_slice(b"GET / HTTP/1.1\r\n");
            prop_assert_eq!(decode(BodyLength::Chunked, &[&input]), Ok(Some((chunks.concat(), taken))));
        }
    }
}
