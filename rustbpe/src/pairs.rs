//! Pairs of tokens as numbers, and a table from pairs to what they merge into.

use crate::hash::hash_u64;
use crate::vocab::{MAX_TOKENS, NO_TOKEN};

/// Bits of an id in a slot of [`PairTable`]: two of the pair and one of the token.
const ID_BITS: u32 = MAX_TOKENS.trailing_zeros();

/// A pair of tokens as one number.
#[inline(always)]
pub(crate) fn pair_key(left: u32, right: u32) -> u64 {
    u64::from(left) << ID_BITS | u64::from(right)
}

/// The pair of a key.
pub(crate) fn key_pair(key: u64) -> (u32, u32) {
    ((key >> ID_BITS) as u32, (key & ((1 << ID_BITS) - 1)) as u32)
}

/// Open addressing from pairs of ids to an id, eight bytes a slot and at most half full.
pub(crate) struct PairTable {
    /// The key of the pair, then the id; or [`EMPTY`].
    slots: Vec<u64>,
    len: usize,
}

const EMPTY: u64 = u64::MAX;

impl PairTable {
    /// Room for `pairs` pairs.
    pub(crate) fn with_capacity(pairs: usize) -> Self {
        Self { slots: vec![EMPTY; (pairs * 2).next_power_of_two().max(16)], len: 0 }
    }

    #[inline(always)]
    fn first_slot(&self, key: u64) -> usize {
        hash_u64(key) as usize & (self.slots.len() - 1)
    }

    /// What a pair merges into; [`NO_TOKEN`] if it does not.
    #[inline]
    pub(crate) fn get(&self, left: u32, right: u32) -> u32 {
        let key = pair_key(left, right);
        let mut slot = self.first_slot(key);
        loop {
            let found = self.slots[slot];
            if found >> ID_BITS == key {
                return found as u32 & ((1 << ID_BITS) - 1);
            }
            if found == EMPTY {
                return NO_TOKEN;
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
    }

    /// Enters a pair that is not in the table.
    pub(crate) fn insert(&mut self, left: u32, right: u32, id: u32) {
        if (self.len + 1) * 2 > self.slots.len() {
            let larger = vec![EMPTY; self.slots.len() * 2];
            for slot in std::mem::replace(&mut self.slots, larger) {
                if slot != EMPTY {
                    self.enter(slot);
                }
            }
        }
        self.len += 1;
        self.enter(pair_key(left, right) << ID_BITS | u64::from(id));
    }

    fn enter(&mut self, entry: u64) {
        let mut slot = self.first_slot(entry >> ID_BITS);
        while self.slots[slot] != EMPTY {
            slot = (slot + 1) & (self.slots.len() - 1);
        }
        self.slots[slot] = entry;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_inserted_is_found() {
        let mut table = PairTable::with_capacity(1);
        let pair = |id: u32| (id * 7 % 1000, MAX_TOKENS as u32 - 1 - id);
        for id in 0..5000 {
            table.insert(pair(id).0, pair(id).1, id);
        }
        for id in 0..5000 {
            let (left, right) = pair(id);
            assert_eq!(table.get(left, right), id);
            assert_eq!(table.get(right, left), NO_TOKEN);
            assert_eq!(key_pair(pair_key(left, right)), (left, right));
        }
    }
}
