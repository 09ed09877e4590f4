//! Chunked bodies: no bytes panic, and neither the data nor the trailers nor the verdict depend on how they were split.
#![no_main]

use edge::proto::body::{Decoder, Step};
use edge::proto::request::BodyLength;
use libfuzzer_sys::fuzz_target;

/// The data, the trailer section, and where the body ended; `None`: not ended. `Err`: refused.
type Read = Result<(Vec<u8>, Vec<u8>, Option<usize>), ()>;

fn read(parts: &[&[u8]], length: BodyLength) -> Read {
    let mut decoder = Decoder::new(length);
    let (mut data, mut trailer, mut before) = (Vec::new(), Vec::new(), 0);
    for part in parts {
        let mut at = 0;
        loop {
            match decoder.step(part, at).map_err(drop)? {
                Step::Data(range) => {
                    assert!(at <= range.start && range.start < range.end && range.end <= part.len());
                    data.extend_from_slice(&part[range.clone()]);
                    at = range.end;
                }
                Step::Trailer(range) => {
                    assert!(at <= range.start && range.start < range.end && range.end <= part.len());
                    trailer.extend_from_slice(&part[range.clone()]);
                    at = range.end;
                }
                Step::More => break,
                Step::End(end) => return Ok((data, trailer, Some(before + end))),
            }
        }
        before += part.len();
    }
    Ok((data, trailer, None))
}

fuzz_target!(|input: (u16, Option<u16>, &[u8])| {
    let (cut, counted, bytes) = input;
    let length = counted.map_or(BodyLength::Chunked, |bytes| BodyLength::Bytes(bytes.into()));
    let (first, second) = bytes.split_at(usize::from(cut).min(bytes.len()));
    let whole = read(&[bytes], length);
    assert_eq!(whole, read(&[first, second], length));
    if let (Ok((data, _, Some(_))), Some(bytes)) = (&whole, counted) {
        assert_eq!(data.len(), usize::from(bytes));
    }
    if let Ok((_, trailer, Some(_))) = &whole {
        assert!(trailer.is_empty() || trailer.ends_with(b"\r\n"));
        assert!(trailer.len() <= 4 * usize::from(edge::limits::REQUEST_TRAILER_BYTES_MAX));
    }
});
