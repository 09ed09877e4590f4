//! The meta bytes of a stored response: what the cache must know to reuse it. Encoded by control when
//! it stores, read in place by workers at each hit.
#![forbid(unsafe_code)]

pub fn matches(_meta: &[u8], _request: &super::request::RequestHead) -> bool {
    todo!()
}
