//! Keys and hashes of pieces, shared by everything that looks pieces up.

use std::hash::{BuildHasherDefault, Hasher};

/// The longest piece, in bytes, that fits a [`ShortKey`].
pub(crate) const SHORT: usize = 15;

/// A piece of at most [`SHORT`] bytes as a number: its bytes, and its length in the last byte. No
/// two pieces share one, and that of a piece is never 0.
pub(crate) type ShortKey = u128;

const MASKS: [u128; SHORT + 1] = {
    let mut masks = [0; SHORT + 1];
    let mut len = 0;
    while len <= SHORT {
        masks[len] = (1 << (8 * len)) - 1;
        len += 1;
    }
    masks
};

/// The key of `text[start..end]`, which has at most [`SHORT`] bytes.
#[inline(always)]
pub(crate) fn short_key(text: &[u8], start: usize, end: usize) -> ShortKey {
    let len = end - start;
    // One load of 16 bytes reaches past the piece, which only the end of the text forbids.
    let bytes = match text.get(start..start + 16) {
        Some(bytes) => bytes.try_into().expect("16 bytes"),
        None => {
            let mut bytes = [0; 16];
            bytes[..len].copy_from_slice(&text[start..end]);
            bytes
        }
    };
    (u128::from_le_bytes(bytes) & MASKS[len]) | (len as u128) << 120
}

/// A short key's hash.
#[inline(always)]
pub(crate) fn hash_key(key: ShortKey) -> u64 {
    fold(key as u64 ^ K0, (key >> 64) as u64 ^ K1)
}

/// The hash of bytes of any length.
#[inline]
pub(crate) fn hash_bytes(bytes: &[u8]) -> u64 {
    let mut hash = bytes.len() as u64 ^ K1;
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = fold(hash ^ u64::from_le_bytes(word), K0);
    }
    hash
}

/// The hash of a number.
#[inline(always)]
pub(crate) fn hash_u64(number: u64) -> u64 {
    fold(number ^ K1, K0)
}

// Digits of the golden ratio and of pi: odd numbers without a pattern.
const K0: u64 = 0x9e37_79b9_7f4a_7c15;
const K1: u64 = 0x2439_6a88_85a3_08d3;

#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// The hasher of this module, for the standard library's maps.
pub(crate) type BuildPieceHasher = BuildHasherDefault<PieceHasher>;

#[derive(Default)]
pub(crate) struct PieceHasher(u64);

impl Hasher for PieceHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = fold(self.0 ^ hash_bytes(bytes), K0);
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = fold(self.0 ^ hash_u64(number), K0);
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_keys_tell_pieces_apart() {
        let text = b"ab\0ab\0\0cdefghijklmnopqrstuvwxyz";
        let mut seen = std::collections::HashMap::new();
        for start in 0..text.len() {
            for end in start + 1..=text.len().min(start + SHORT) {
                let key = short_key(text, start, end);
                assert_ne!(key, 0);
                let piece = &text[start..end];
                assert_eq!(*seen.entry(key).or_insert(piece), piece);
                assert_eq!(short_key(piece, 0, piece.len()), key, "at the end of a text");
            }
        }
    }
}
