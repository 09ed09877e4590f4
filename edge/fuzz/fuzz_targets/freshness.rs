//! Fields of responses and requests that decide what is stored and reused: never a panic, nothing private or
//! forbidden is stored, and what was stored reads back as it was judged.
#![no_main]

use edge::proto::freshness::{Exchange, Policy, Storing, decide};
use edge::proto::request::RequestHead;
use edge::proto::reuse::{current_age, reuse};
use edge::proto::stored::{self, Meta};
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&[u8], &[u8], u16, u32, u32)| {
    let (asked, answered, status, took_s, later_s) = input;
    let mut request = RequestHead::default();
    let head = [b"GET / HTTP/1.1\r\nHost: a\r\n", asked, b"\r\n\r\n"].concat();
    if !matches!(request.parse(&head), Ok(Some(_))) {
        return;
    }
    let mut fields = HeaderMap::new();
    for line in answered.split(|&byte| byte == b'\n').take(64) {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            fields.append(name, value);
        }
    }
    let status = 200 + status % 400;
    let request_s = 1_700_000_000;
    let exchange = Exchange { request_s, response_s: request_s + u64::from(took_s), purges: 0 };
    let (storing, facts) = decide(&request, status, &fields, exchange, &Policy::default());
    if storing != Storing::Store {
        return;
    }
    let head = stored::head(status, 5, b"a: b\r\n");
    let bytes = stored::encode(&facts, &request, &head, 5);
    let meta = Meta::of_record(&bytes, &head).expect("what was written is read");
    assert_eq!(meta.lifetime_s(), facts.lifetime_s);
    let now_s = exchange.response_s + u64::from(later_s);
    assert!(current_age(&meta, now_s) >= meta.initial_age_s());
    reuse(&meta, &request, now_s);
});
