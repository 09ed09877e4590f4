//! RFC 9111: may a response be stored, for how long is it fresh, may it answer this request.
#![forbid(unsafe_code)]

/// The decision on storing a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storing {
    /// May be stored and reused.
    Store,
    /// May not; the word names the field or rule.
    No(&'static str),
}
