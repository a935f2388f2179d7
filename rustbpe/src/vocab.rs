//! The tokens: bytes by id, and ids by bytes.

use crate::error::{Error, Result};
use crate::hash::hash_bytes;

/// Ids lie below this, so that two of them and a third fit 64 bits.
pub const MAX_TOKENS: usize = 1 << 21;

/// Marks an empty slot of the index, and in tables elsewhere a pair that does not merge.
pub(crate) const NO_TOKEN: u32 = u32::MAX;

/// Tokens and their ids. All 256 single bytes are among them; ids may have gaps.
#[derive(Clone, Debug)]
pub(crate) struct Vocab {
    bytes: Vec<u8>,
    /// Start and end of each id's bytes; both equal where no token has the id.
    spans: Vec<(u32, u32)>,
    count: usize,
    longest: usize,
    /// Open addressing over `hash_bytes`, at most half full.
    index: Vec<u32>,
}

impl Vocab {
    /// The 256 single bytes, each with its own value as id.
    pub(crate) fn of_bytes() -> Self {
        let mut vocab = Self::with_capacity(256);
        for byte in 0..=u8::MAX {
            vocab.push(&[byte]);
        }
        vocab
    }

    /// Room for `tokens` tokens.
    pub(crate) fn with_capacity(tokens: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(tokens * 8),
            spans: Vec::with_capacity(tokens),
            count: 0,
            longest: 0,
            index: vec![NO_TOKEN; (tokens * 2).next_power_of_two().max(16)],
        }
    }

    /// From tokens with their ids, in any order.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a token is empty, a token or an id comes twice, an id is too large or
    /// one of the single bytes is missing.
    pub(crate) fn from_ranks<'a>(ranks: impl IntoIterator<Item = (&'a [u8], u32)>) -> Result<Self> {
        let mut ranks: Vec<(&[u8], u32)> = ranks.into_iter().collect();
        ranks.sort_unstable_by_key(|&(_, id)| id);
        let mut vocab = Self::with_capacity(ranks.len());
        for (bytes, id) in ranks {
            let name = || bytes.escape_ascii();
            if id as usize >= MAX_TOKENS {
                return Err(Error::invalid(format!(
                    "id {id} of token '{}' is too large; ids must be below {MAX_TOKENS}",
                    name()
                )));
            }
            if bytes.is_empty() {
                return Err(Error::invalid(format!("the token with id {id} is empty")));
            }
            if vocab.spans.len() > id as usize {
                return Err(Error::invalid(format!(
                    "two tokens have the id {id}; the second is '{}'",
                    name()
                )));
            }
            if let Some(other) = vocab.id_of(bytes) {
                return Err(Error::invalid(format!(
                    "the token '{}' has two ids, {other} and {id}",
                    name()
                )));
            }
            let end = vocab.bytes.len() as u32;
            vocab.spans.resize(id as usize, (end, end));
            vocab.push(bytes);
        }
        for byte in 0..=u8::MAX {
            if vocab.id_of(&[byte]).is_none() {
                return Err(Error::invalid(format!(
                    "the single byte {byte:#04x} is not among the tokens; \
                     a byte-level vocabulary needs all 256"
                )));
            }
        }
        Ok(vocab)
    }

    /// Adds a token, not yet present, under the next id.
    pub(crate) fn push(&mut self, token: &[u8]) -> u32 {
        let id = self.spans.len() as u32;
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(token);
        self.spans.push((start, self.bytes.len() as u32));
        self.count += 1;
        self.longest = self.longest.max(token.len());
        if self.count * 2 > self.index.len() {
            self.index = vec![NO_TOKEN; self.index.len() * 2];
            for id in 0..self.spans.len() as u32 {
                self.enter(id);
            }
        } else {
            self.enter(id);
        }
        id
    }

    /// Adds the token that joins two others.
    pub(crate) fn push_pair(&mut self, left: u32, right: u32) -> u32 {
        let joined = [self.token(left), self.token(right)].concat();
        self.push(&joined)
    }

    fn enter(&mut self, id: u32) {
        let token = self.token(id);
        if !token.is_empty() {
            let slot = self.slot_of(token);
            self.index[slot] = id;
        }
    }

    /// The slot that holds `token`, or the empty one where it belongs.
    #[inline]
    fn slot_of(&self, token: &[u8]) -> usize {
        let mask = self.index.len() - 1;
        let mut slot = hash_bytes(token) as usize & mask;
        while self.index[slot] != NO_TOKEN && self.token(self.index[slot]) != token {
            slot = (slot + 1) & mask;
        }
        slot
    }

    /// The bytes of an id below [`Self::id_bound`]; none if no token has it.
    #[inline]
    fn token(&self, id: u32) -> &[u8] {
        let (start, end) = self.spans[id as usize];
        &self.bytes[start as usize..end as usize]
    }

    /// The bytes of a token.
    #[inline]
    pub(crate) fn get(&self, id: u32) -> Option<&[u8]> {
        let (start, end) = *self.spans.get(id as usize)?;
        (start < end).then(|| &self.bytes[start as usize..end as usize])
    }

    /// The id of a token.
    #[inline]
    pub(crate) fn id_of(&self, token: &[u8]) -> Option<u32> {
        let id = self.index[self.slot_of(token)];
        (id != NO_TOKEN).then_some(id)
    }

    /// The tokens with their ids, by id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], u32)> {
        (0..self.spans.len() as u32).filter_map(|id| Some((self.get(id)?, id)))
    }

    /// How many tokens there are.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// How many bytes the longest token has.
    pub(crate) fn longest(&self) -> usize {
        self.longest
    }

    /// One more than the largest id.
    pub(crate) fn id_bound(&self) -> usize {
        self.spans.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes() -> Vec<(Vec<u8>, u32)> {
        (0..=255u8).map(|byte| (vec![byte], u32::from(byte))).collect()
    }

    fn build(ranks: &[(Vec<u8>, u32)]) -> Result<Vocab> {
        Vocab::from_ranks(ranks.iter().map(|(token, id)| (token.as_slice(), *id)))
    }

    #[test]
    fn ids_may_have_gaps_and_any_order() {
        let mut ranks = bytes();
        ranks.insert(0, (b"ab".to_vec(), 1000));
        let vocab = build(&ranks).unwrap();
        assert_eq!((vocab.len(), vocab.id_bound()), (257, 1001));
        assert_eq!(vocab.id_of(b"ab"), Some(1000));
        assert_eq!(vocab.id_of(b"ba"), None);
        assert_eq!(vocab.get(1000), Some(&b"ab"[..]));
        assert_eq!(vocab.get(999), None);
        assert_eq!(vocab.get(1001), None);
        assert_eq!(vocab.iter().last(), Some((&b"ab"[..], 1000)));
    }

    #[test]
    fn bad_ranks_are_refused() {
        let with = |token: &[u8], id| {
            let mut ranks = bytes();
            ranks.push((token.to_vec(), id));
            build(&ranks).unwrap_err().to_string()
        };
        assert!(with(b"ab", 7).contains("two tokens have the id 7"));
        assert!(with(b"a", 256).contains("has two ids"));
        assert!(with(b"", 256).contains("empty"));
        assert!(with(b"ab", MAX_TOKENS as u32).contains("too large"));
        assert!(build(&bytes()[1..]).unwrap_err().to_string().contains("0x00"));
    }
}
