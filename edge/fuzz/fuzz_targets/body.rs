//! Chunked bodies: no bytes panic, and neither the data nor the verdict depends on how they were split.
#![no_main]

use edge::proto::body::{Decoder, Step};
use edge::proto::request::BodyLength;
use libfuzzer_sys::fuzz_target;

/// The data, and where the body ended; `None`: not ended. `Err`: refused.
fn read(parts: &[&[u8]], length: BodyLength) -> Result<(Vec<u8>, Option<usize>), ()> {
    let mut decoder = Decoder::new(length);
    let (mut data, mut before) = (Vec::new(), 0);
    for part in parts {
        let mut at = 0;
        loop {
            match decoder.step(part, at).map_err(drop)? {
                Step::Data(range) => {
                    assert!(at <= range.start && range.start < range.end && range.end <= part.len());
                    data.extend_from_slice(&part[range.clone()]);
                    at = range.end;
                }
                Step::More => break,
                Step::End(end) => return Ok((data, Some(before + end))),
            }
        }
        before += part.len();
    }
    Ok((data, None))
}

fuzz_target!(|input: (u16, Option<u16>, &[u8])| {
    let (cut, counted, bytes) = input;
    let length = counted.map_or(BodyLength::Chunked, |bytes| BodyLength::Bytes(bytes.into()));
    let (first, second) = bytes.split_at(usize::from(cut).min(bytes.len()));
    let whole = read(&[bytes], length);
    assert_eq!(whole, read(&[first, second], length));
    if let (Ok((data, Some(_))), Some(bytes)) = (&whole, counted) {
        assert_eq!(data.len(), usize::from(bytes));
    }
});
