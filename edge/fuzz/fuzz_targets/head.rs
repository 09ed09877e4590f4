//! Request heads: no bytes panic, the verdict does not depend on how they were split, and the URL of a request leads to
//! its key.
#![no_main]

use edge::limits;
use edge::proto::key;
use edge::proto::query::{Arguments, Name, Rule, Rules};
use edge::proto::request::RequestHead;
use edge::proto::route::Pattern;
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;

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
        keys_agree(&mut head);
    }
});

/// What is stored for a request is what its URL names in a purge, under every rule about its query.
fn keys_agree(head: &mut RequestHead) {
    let url_key = head.url_key();
    assert_eq!(url_key, head.key);
    if !head.host().is_empty() && head.path().starts_with('/') {
        let url = str::from_utf8(&url_key).expect("text");
        assert_eq!(key::from_url(url).as_deref(), Some(&*url_key), "{url}");
    }
    let names = |list: [&str; 2]| list.map(|name| Name::parse(name).expect("a name")).to_vec();
    for (counted, sort) in [
        (Arguments::Ignoring(names(["a*", "b"])), false),
        (Arguments::Only(names(["a*", "b"])), true),
        (Arguments::All, true),
    ] {
        let rules = Rules::new([(Pattern::default(), Some(Arc::new(Rule::new(counted, sort))))]);
        rules.apply(head);
        assert_eq!(rules.keys(&url_key), [head.key.clone()]);
        assert_eq!((head.url_key(), head.key_hash), (url_key.clone(), key::hash(&head.key)));
        assert!(head.key.len() <= limits::KEY_BYTES_MAX);
    }
}
