//! Body bytes as a pure function of a seed and an offset, so that every side can check any part of a
//! body without keeping it. No socket and no file is touched here.

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// The seed of a name, by convention the request's path.
pub fn seed(name: &str) -> u64 {
    xxh3_64(name.as_bytes())
}

/// Writes the bytes from `offset` on into `out`.
pub fn fill(seed: u64, offset: u64, out: &mut [u8]) {
    let mut at = 0;
    while at < out.len() {
        let position = offset + at as u64;
        let word = word(seed, position / 8).to_le_bytes();
        let from = (position % 8) as usize;
        let n = (8 - from).min(out.len() - at);
        out[at..at + n].copy_from_slice(&word[from..from + n]);
        at += n;
    }
}

/// The bytes `from..to`.
pub fn part(seed: u64, from: u64, to: u64) -> Vec<u8> {
    let mut out = vec![0; (to - from) as usize];
    fill(seed, from, &mut out);
    out
}

/// The hash of the first `bytes` bytes.
pub fn hash(seed: u64, bytes: u64) -> u64 {
    let mut hasher = Xxh3::new();
    let mut piece = vec![0; 64 * 1024];
    let mut at = 0;
    while at < bytes {
        let n = (bytes - at).min(piece.len() as u64) as usize;
        fill(seed, at, &mut piece[..n]);
        hasher.update(&piece[..n]);
        at += n as u64;
    }
    hasher.digest()
}

fn word(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn parts_agree_with_the_whole() {
    let whole = part(7, 0, 1000);
    for (from, to) in [(0, 1), (1, 17), (8, 16), (993, 1000), (5, 5)] {
        assert_eq!(part(7, from, to), whole[from as usize..to as usize]);
    }
    assert_eq!(hash(7, 1000), xxh3_64(&whole));
    assert_ne!(hash(7, 1000), hash(8, 1000));
}
