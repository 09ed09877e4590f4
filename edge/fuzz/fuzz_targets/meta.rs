//! Meta bytes of any content: never a panic, whatever is asked of them.
#![no_main]

use edge::proto::freshness::{Exchange, Policy};
use edge::proto::request::RequestHead;
use edge::proto::reuse::{Failure, may_replace, reuse};
use edge::proto::stored::{Meta, matches};
use edge::proto::validation;
use http::HeaderMap;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&[u8], &[u8], u64)| {
    let (meta, head, now_s) = input;
    let mut request = RequestHead::default();
    let asked = b"GET / HTTP/1.1\r\nHost: a\r\nCache-Control: max-age=5\r\nAccept-Encoding: gzip, br\r\n\r\n";
    assert_eq!(request.parse(asked), Ok(Some(asked.len())));
    matches(meta, &request);
    if let Some(meta) = Meta::read(meta) {
        reuse(&meta, &request, now_s);
        may_replace(&meta, &request, now_s, Failure::Disconnected);
        meta.etag(head);
    }
    let mut fields = HeaderMap::new();
    validation::condition(meta, head, &mut fields);
    let exchange = Exchange { request_s: now_s, response_s: now_s, purges: 0 };
    let _ = validation::freshen(meta, head, &request, &fields, exchange, &Policy::default());
});
