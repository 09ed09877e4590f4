//! Tests of the suite that a node fails on purpose, each with its reason. The README tells the same.
#![forbid(unsafe_code)]

const NO_VALIDATOR: &str = "nothing shows that a response without Last-Modified has not changed";
const CONTRADICTS_ITSELF: &str = "its 206 does not bring the bytes its Content-Range names";
const AGE: &str = "RFC 9111 section 5.1 has the first member of Age used and what is invalid ignored";
const NO_ANSWER: &str = "it wants the answer of an origin that closes the connection without one";
const MD5: &str = "RFC 9111 section 3.2 has Content-MD5 of a 304 taken over";
const OTHER_TAG: &str = "a 304 with another ETag is not about what is stored (RFC 9111 section 4.3.4)";

/// Test and reason.
const KNOWN: &[(&str, &str)] = &[
    ("conditional-lm-fresh-no-lm", NO_VALIDATOR),
    ("partial-store-partial-reuse-partial", CONTRADICTS_ITSELF),
    ("partial-store-partial-reuse-partial-byterange", CONTRADICTS_ITSELF),
    ("partial-store-partial-reuse-partial-absent", CONTRADICTS_ITSELF),
    ("partial-store-partial-reuse-partial-suffix", CONTRADICTS_ITSELF),
    ("partial-store-partial-complete", CONTRADICTS_ITSELF),
    ("age-parse-nonnumeric", AGE),
    ("age-parse-negative", AGE),
    ("age-parse-float", AGE),
    ("age-parse-prefix-twoline", AGE),
    ("age-parse-dup-0", AGE),
    ("age-parse-dup-0-twoline", AGE),
    ("age-parse-dup-old", AGE),
    ("stale-close-must-revalidate", NO_ANSWER),
    ("stale-close-proxy-revalidate", NO_ANSWER),
    ("stale-close-no-cache", NO_ANSWER),
    ("stale-close-s-maxage=2", NO_ANSWER),
    ("304-etag-update-response-Content-MD5", MD5),
    ("304-etag-update-response-ETag", OTHER_TAG),
];

/// Why this test is failed on purpose.
pub fn reason(id: &str) -> Option<&'static str> {
    KNOWN.iter().find(|(known, _)| *known == id).map(|(_, reason)| *reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_names_each_with_its_reason() {
        let readme = std::fs::read_to_string(crate::build::root().join("README.md")).unwrap();
        for (id, _) in KNOWN {
            assert!(readme.contains(&format!("`{id}`")), "README.md does not name {id}");
        }
    }
}
