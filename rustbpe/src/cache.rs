//! Remembers the tokens of the pieces seen last, so that a common word is merged once.
//!
//! Two slots for each hash, the newer one first. Nothing is ever searched further, so that no text
//! can make it slow, and its size is fixed: 2 MiB for short pieces and as much for long ones.

use crate::hash::{hash_bytes, hash_key, ShortKey};

/// Ids in a slot. Most pieces have fewer tokens; of the others the slot says where to find them.
pub(crate) const INLINE: usize = 3;

/// The longest piece that is remembered, in bytes.
pub(crate) const LONGEST: usize = 256;

const BUCKETS: usize = 1 << 15;
const LONG_BUCKETS: usize = 1 << 12;

/// When as many ids, or bytes of long pieces, are kept outside of slots, everything is forgotten:
/// the slots that refer to them may have been overwritten long ago.
const SPILL: usize = 1 << 18;

/// The tokens of a piece.
#[derive(Clone, Copy)]
pub(crate) struct Tokens {
    pub(crate) ids: [u32; INLINE],
    pub(crate) len: u32,
}

#[derive(Clone, Copy)]
#[repr(C, align(32))]
struct Slot {
    key: ShortKey,
    tokens: Tokens,
}

#[derive(Clone, Copy)]
#[repr(C, align(32))]
struct LongSlot {
    hash: u64,
    start: u32,
    len: u32,
    tokens: Tokens,
}

const NO_TOKENS: Tokens = Tokens { ids: [0; INLINE], len: 0 };

pub(crate) struct Cache {
    short: Vec<[Slot; 2]>,
    long: Vec<[LongSlot; 2]>,
    /// Ids of pieces with more than [`INLINE`] tokens.
    ids: Vec<u32>,
    /// The long pieces themselves.
    bytes: Vec<u8>,
}

impl Cache {
    pub(crate) fn new() -> Self {
        // All-zero slots are empty ones; fresh zero pages cost nothing until they are touched.
        let slot = Slot { key: 0, tokens: NO_TOKENS };
        let long = LongSlot { hash: 0, start: 0, len: 0, tokens: NO_TOKENS };
        Self {
            short: vec![[slot; 2]; BUCKETS],
            long: vec![[long; 2]; LONG_BUCKETS],
            ids: Vec::new(),
            bytes: Vec::new(),
        }
    }

    /// The tokens of a short piece, if it is remembered.
    #[inline(always)]
    pub(crate) fn get(&self, key: ShortKey) -> Option<&Tokens> {
        let [first, second] = &self.short[hash_key(key) as usize % BUCKETS];
        if first.key == key {
            Some(&first.tokens)
        } else if second.key == key {
            Some(&second.tokens)
        } else {
            None
        }
    }

    /// The tokens of a long piece, if it is remembered.
    #[inline]
    pub(crate) fn get_long(&self, piece: &[u8]) -> Option<&Tokens> {
        let hash = hash_bytes(piece);
        let bucket = &self.long[hash as usize % LONG_BUCKETS];
        let slot = bucket.iter().find(|slot| {
            slot.hash == hash && &self.bytes[slot.start as usize..][..slot.len as usize] == piece
        })?;
        Some(&slot.tokens)
    }

    /// The ids of tokens that do not fit a slot.
    pub(crate) fn spilled(&self, tokens: &Tokens) -> &[u32] {
        &self.ids[tokens.ids[0] as usize..][..tokens.len as usize]
    }

    pub(crate) fn insert(&mut self, key: ShortKey, ids: &[u32]) {
        let tokens = self.keep(ids);
        let bucket = &mut self.short[hash_key(key) as usize % BUCKETS];
        bucket[1] = bucket[0];
        bucket[0] = Slot { key, tokens };
    }

    pub(crate) fn insert_long(&mut self, piece: &[u8], ids: &[u32]) {
        let tokens = self.keep(ids);
        let hash = hash_bytes(piece);
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(piece);
        let bucket = &mut self.long[hash as usize % LONG_BUCKETS];
        bucket[1] = bucket[0];
        bucket[0] = LongSlot { hash, start, len: piece.len() as u32, tokens };
    }

    fn keep(&mut self, ids: &[u32]) -> Tokens {
        if self.ids.len() + self.bytes.len() > SPILL {
            *self = Self::new();
        }
        let mut tokens = Tokens { ids: [0; INLINE], len: ids.len() as u32 };
        if ids.len() <= INLINE {
            tokens.ids[..ids.len()].copy_from_slice(ids);
        } else {
            tokens.ids[0] = self.ids.len() as u32;
            self.ids.extend_from_slice(ids);
        }
        tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::short_key;

    fn tokens_of<'c>(cache: &'c Cache, tokens: &'c Tokens) -> &'c [u32] {
        match tokens.len as usize {
            len @ 0..=INLINE => &tokens.ids[..len],
            _ => cache.spilled(tokens),
        }
    }

    #[test]
    fn what_is_remembered_is_right() {
        let mut cache = Cache::new();
        let mut found = 0;
        for round in 0..2 {
            for number in 0..8_000_u32 {
                let text = number.to_string().repeat(1 + number as usize % 5);
                let ids: Vec<u32> = (0..=number % 7).map(|step| number + step).collect();
                let piece = text.as_bytes();
                let known = if piece.len() <= crate::hash::SHORT {
                    cache.get(short_key(piece, 0, piece.len()))
                } else {
                    cache.get_long(piece)
                };
                if let Some(tokens) = known {
                    assert_eq!(tokens_of(&cache, tokens), ids, "round {round}");
                    found += 1;
                } else if piece.len() <= crate::hash::SHORT {
                    cache.insert(short_key(piece, 0, piece.len()), &ids);
                } else {
                    cache.insert_long(piece, &ids);
                }
            }
        }
        assert!(found > 4000, "found {found}");
    }
}
