//! Request heads: no bytes panic, and the verdict does not depend on how they were split.
#![no_main]

use edge::proto::request::RequestHead;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, &[u8])| {
    let (cut, bytes) = input;
    let cut = usize::from(cut).min(bytes.len());
    let whole = RequestHead::default().parse(bytes);
    let mut head = RequestHead::default();
    let first = head.parse(&bytes[..cut]);
    let split = if first == Ok(None) { head.parse(bytes) } else { first };
    assert_eq!(whole.map_err(|refusal| refusal.status), split.map_err(|refusal| refusal.status));
    if whole == Ok(Some(bytes.len())) {
        assert!(head.key.starts_with(b"http://") && head.key.ends_with(head.path().as_bytes()));
    }
});
