//! Counts how often each piece occurs. Memory grows with the number of distinct pieces only.

use std::collections::HashMap;

use crate::hash::{hash_key, short_key, BuildPieceHasher, ShortKey, SHORT};

/// Pieces and how often each occurred.
pub(crate) struct PieceCounter {
    /// Open addressing over the short pieces, at most half full; 0 occurrences mark an empty slot.
    slots: Vec<Slot>,
    used: usize,
    long: HashMap<Box<[u8]>, u64, BuildPieceHasher>,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    /// The low and the high half of the piece's [`ShortKey`]: as one number they would align the
    /// slot to 32 bytes.
    key: [u64; 2],
    count: u64,
}

impl PieceCounter {
    pub(crate) fn new() -> Self {
        Self { slots: vec![Slot::default(); 1 << 12], used: 0, long: HashMap::default() }
    }

    /// Counts `text[start..end]` once more.
    #[inline(always)]
    pub(crate) fn add(&mut self, text: &[u8], start: usize, end: usize) {
        if end - start <= SHORT {
            self.add_short(short_key(text, start, end), 1);
        } else {
            self.add_long(&text[start..end], 1);
        }
    }

    /// Adds what another counter has counted.
    pub(crate) fn merge(&mut self, other: Self) {
        for slot in other.slots.iter().filter(|slot| slot.count > 0) {
            self.add_short(slot.key(), slot.count);
        }
        for (piece, count) in other.long {
            *self.long.entry(piece).or_default() += count;
        }
    }

    /// Calls `visit` with each piece and its count, in no particular order.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(&[u8], u64)) {
        for slot in self.slots.iter().filter(|slot| slot.count > 0) {
            let bytes = slot.key().to_le_bytes();
            visit(&bytes[..bytes[SHORT] as usize], slot.count);
        }
        for (piece, &count) in &self.long {
            visit(piece, count);
        }
    }

    #[inline(always)]
    fn add_short(&mut self, key: ShortKey, count: u64) {
        let halves = [key as u64, (key >> 64) as u64];
        let mask = self.slots.len() - 1;
        let mut at = hash_key(key) as usize & mask;
        loop {
            let slot = &mut self.slots[at];
            if slot.key == halves {
                slot.count += count;
                return;
            }
            if slot.count == 0 {
                *slot = Slot { key: halves, count };
                return self.grow_if_needed();
            }
            at = (at + 1) & mask;
        }
    }

    #[inline(never)]
    fn grow_if_needed(&mut self) {
        self.used += 1;
        if self.used * 2 <= self.slots.len() {
            return;
        }
        let larger = vec![Slot::default(); self.slots.len() * 4];
        let mask = larger.len() - 1;
        for slot in std::mem::replace(&mut self.slots, larger) {
            if slot.count > 0 {
                let mut at = hash_key(slot.key()) as usize & mask;
                while self.slots[at].count > 0 {
                    at = (at + 1) & mask;
                }
                self.slots[at] = slot;
            }
        }
    }

    #[inline(never)]
    fn add_long(&mut self, piece: &[u8], count: u64) {
        match self.long.get_mut(piece) {
            Some(known) => *known += count,
            None => {
                self.long.insert(piece.into(), count);
            }
        }
    }
}

impl Slot {
    fn key(&self) -> ShortKey {
        u128::from(self.key[0]) | u128::from(self.key[1]) << 64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up() {
        let (mut first, mut second) = (PieceCounter::new(), PieceCounter::new());
        for number in 0..20_000_usize {
            let text = (number % 5000).to_string().repeat(1 + number % 7);
            let counter = if number % 3 == 0 { &mut first } else { &mut second };
            counter.add(text.as_bytes(), 0, text.len());
        }
        first.merge(second);
        let (mut pieces, mut total) = (std::collections::HashSet::new(), 0);
        first.for_each(|piece, count| {
            assert!(pieces.insert(piece.to_vec()));
            total += count;
        });
        let wanted: std::collections::HashSet<_> = (0..20_000_usize)
            .map(|number| (number % 5000).to_string().repeat(1 + number % 7).into_bytes())
            .collect();
        assert_eq!(pieces, wanted);
        assert_eq!(total, 20_000);
    }
}
