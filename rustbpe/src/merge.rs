//! Merges the bytes of one piece into tokens.
//!
//! The rule is tiktoken's: of all adjacent tokens whose bytes together are a token, the pair with
//! the lowest id merges, the leftmost of equals first, until none is left; and a piece that is a
//! token as a whole is that token.
//!
//! If every token comes about in this way from its own bytes, as it does after training, then it
//! is always the same pair that makes it: take any text where the rule has joined bytes into the
//! two halves of a token. Up to then nothing reached across the ends of the token, so the same
//! steps happen in the same order when the token stands alone, and there the rule is
//! deterministic. One pair for each token is then enough, no two tokens have the same bytes, and
//! the merges of a training run and the ranks of tiktoken give the same ids for every text. Where
//! some token does not come about, all pairs that make a token are looked up.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::error::{Error, Result};
use crate::pairs::PairTable;
use crate::parallel::Watch;
use crate::vocab::{Vocab, NO_TOKEN};

/// Up to this many bytes the lowest pair is found by looking at all of them.
const SCAN: usize = 64;

/// How many steps of the work on a long piece happen between two looks at the watch.
const STEPS_PER_CHECK: usize = 1 << 16;

/// What pairs of tokens merge into.
pub(crate) struct Merges {
    byte_ids: [u32; 256],
    /// The token of two bytes, by left byte × 256 + right byte.
    byte_pairs: Vec<u32>,
    pairs: PairTable,
    /// The pair that makes each token, by id of the token, if one is enough for all.
    of_tokens: Option<Vec<(u32, u32)>>,
}

impl Merges {
    /// For a vocabulary whose tokens beyond the single bytes were made from `pairs`, in order.
    pub(crate) fn from_training(vocab: &Vocab, pairs: Vec<(u32, u32)>) -> Self {
        let mut merges = Self::none(vocab, pairs.len());
        for (&(left, right), id) in pairs.iter().zip(256..) {
            merges.insert(vocab, left, right, id);
        }
        merges.of_tokens = Some(pairs);
        merges
    }

    /// For any vocabulary: finds out which pair makes each token.
    pub(crate) fn recover(vocab: &Vocab) -> Self {
        let mut merges = Self::none(vocab, vocab.len());
        let mut pairs = Vec::with_capacity(vocab.len());
        let mut parts = Vec::new();
        for (token, id) in vocab.iter().filter(|(token, _)| token.len() > 1) {
            parts.clear();
            merges.join(token, &mut parts);
            let &[left, right] = parts.as_slice() else {
                return Self::all_pairs(vocab);
            };
            merges.insert(vocab, left, right, id);
            pairs.push((left, right));
        }
        merges.of_tokens = Some(pairs);
        merges
    }

    /// With every pair of tokens that makes a token.
    fn all_pairs(vocab: &Vocab) -> Self {
        let mut merges = Self::none(vocab, vocab.len() * 4);
        for (token, id) in vocab.iter() {
            for middle in 1..token.len() {
                let (left, right) = token.split_at(middle);
                if let (Some(left), Some(right)) = (vocab.id_of(left), vocab.id_of(right)) {
                    merges.insert(vocab, left, right, id);
                }
            }
        }
        merges
    }

    fn none(vocab: &Vocab, capacity: usize) -> Self {
        let mut byte_ids = [0; 256];
        for byte in 0..=u8::MAX {
            byte_ids[byte as usize] =
                vocab.id_of(&[byte]).expect("a vocabulary has all single bytes");
        }
        Self {
            byte_ids,
            byte_pairs: vec![NO_TOKEN; 1 << 16],
            pairs: PairTable::with_capacity(capacity),
            of_tokens: None,
        }
    }

    fn insert(&mut self, vocab: &Vocab, left: u32, right: u32, id: u32) {
        self.pairs.insert(left, right, id);
        if let Some(&[first, second]) = vocab.get(id) {
            self.byte_pairs[first as usize * 256 + second as usize] = id;
        }
    }

    /// The pair that makes each token of more than one byte, in the order of their ids; none if
    /// one pair for each is not enough.
    pub(crate) fn of_tokens(&self) -> Option<&[(u32, u32)]> {
        self.of_tokens.as_deref()
    }

    /// Adds the tokens of `piece` to `out`.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the watch says so during a long piece, and [`Error::Invalid`] if
    /// the piece has 4 GiB.
    pub(crate) fn encode(
        &self,
        vocab: &Vocab,
        piece: &[u8],
        out: &mut Vec<u32>,
        watch: &Watch<'_>,
    ) -> Result<()> {
        let whole = (piece.len() <= vocab.longest()).then(|| vocab.id_of(piece)).flatten();
        if let Some(id) = whole {
            out.push(id);
            Ok(())
        } else if piece.len() <= SCAN {
            self.join(piece, out);
            Ok(())
        } else {
            self.join_long(piece, out, || watch.check())
        }
    }

    fn join(&self, piece: &[u8], out: &mut Vec<u32>) {
        if piece.len() <= SCAN {
            self.join_short(piece, out);
        } else {
            self.join_long(piece, out, || Ok(())).expect("tokens have less than 4 GiB");
        }
    }

    #[inline]
    fn rank(&self, left: u32, right: u32) -> u32 {
        self.pairs.get(left, right)
    }

    fn join_short(&self, piece: &[u8], out: &mut Vec<u32>) {
        let mut ids = [0; SCAN];
        // What each token and its right neighbour merge into.
        let mut ranks = [NO_TOKEN; SCAN];
        let mut len = piece.len();
        for (id, &byte) in ids.iter_mut().zip(piece) {
            *id = self.byte_ids[byte as usize];
        }
        for (rank, bytes) in ranks.iter_mut().zip(piece.windows(2)) {
            *rank = self.byte_pairs[bytes[0] as usize * 256 + bytes[1] as usize];
        }
        while len > 1 {
            let (mut lowest, mut at) = (NO_TOKEN, 0);
            for (place, &rank) in ranks[..len - 1].iter().enumerate() {
                if rank < lowest {
                    (lowest, at) = (rank, place);
                }
            }
            if lowest == NO_TOKEN {
                break;
            }
            ids[at] = lowest;
            ids.copy_within(at + 2..len, at + 1);
            ranks.copy_within(at + 1..len - 1, at);
            len -= 1;
            if at + 1 < len {
                ranks[at] = self.rank(lowest, ids[at + 1]);
            }
            if at > 0 {
                ranks[at - 1] = self.rank(ids[at - 1], lowest);
            }
        }
        out.extend_from_slice(&ids[..len]);
    }

    /// As [`Self::join_short`] in O(n log n): a heap of candidate pairs over a linked list.
    fn join_long(
        &self,
        piece: &[u8],
        out: &mut Vec<u32>,
        check: impl Fn() -> Result<()>,
    ) -> Result<()> {
        let len = u32::try_from(piece.len())
            .map_err(|_| Error::invalid("a piece of the text has 4 GiB or more"))?;
        let mut parts = Vec::with_capacity(piece.len());
        let mut heap = BinaryHeap::with_capacity(piece.len());
        for (at, &byte) in (0..len).zip(piece) {
            if at as usize % STEPS_PER_CHECK == 0 {
                check()?;
            }
            let id = self.byte_ids[byte as usize];
            let rank = match piece.get(at as usize + 1) {
                Some(&next) => self.byte_pairs[byte as usize * 256 + next as usize],
                None => NO_TOKEN,
            };
            parts.push(Part { id, rank, previous: at.wrapping_sub(1), next: at + 1 });
            if rank != NO_TOKEN {
                heap.push(candidate(rank, at));
            }
        }
        let mut rounds = 0;
        while let Some(Reverse(lowest)) = heap.pop() {
            rounds += 1;
            if rounds % STEPS_PER_CHECK == 0 {
                check()?;
            }
            let (rank, at) = ((lowest >> 32) as u32, lowest as u32);
            let part = parts[at as usize];
            if part.rank != rank {
                continue; // The pair is gone: one of its tokens has merged with another.
            }
            let right = parts[part.next as usize];
            parts[part.next as usize].rank = NO_TOKEN;
            let mut set_rank = |parts: &mut [Part], at: u32, rank: u32| {
                parts[at as usize].rank = rank;
                if rank != NO_TOKEN {
                    heap.push(candidate(rank, at));
                }
            };
            parts[at as usize].id = rank;
            parts[at as usize].next = right.next;
            let mut with_next = NO_TOKEN;
            if right.next < len {
                parts[right.next as usize].previous = at;
                with_next = self.rank(rank, parts[right.next as usize].id);
            }
            set_rank(&mut parts, at, with_next);
            if at > 0 {
                let with_previous = self.rank(parts[part.previous as usize].id, rank);
                set_rank(&mut parts, part.previous, with_previous);
            }
        }
        let mut at = 0;
        while at < len {
            out.push(parts[at as usize].id);
            at = parts[at as usize].next;
        }
        Ok(())
    }
}

/// A token of a long piece, kept where its first byte was.
#[derive(Clone, Copy)]
struct Part {
    id: u32,
    /// What it and the next one merge into.
    rank: u32,
    previous: u32,
    next: u32,
}

/// Orders by rank, then by place: the lowest rank merges first, the leftmost of equals.
fn candidate(rank: u32, at: u32) -> Reverse<u64> {
    Reverse(u64::from(rank) << 32 | u64::from(at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::{hash_bytes, hash_u64};
    use proptest::prelude::*;

    fn vocab_of(tokens: &[&[u8]]) -> Vocab {
        let mut vocab = Vocab::of_bytes();
        for token in tokens {
            vocab.push(token);
        }
        vocab
    }

    /// The rule, word for word.
    fn by_the_rule(vocab: &Vocab, piece: &[u8]) -> Vec<u32> {
        if let Some(id) = vocab.id_of(piece) {
            return vec![id];
        }
        let mut parts: Vec<&[u8]> = piece.chunks(1).collect();
        loop {
            let joined = |at: usize| &piece[offset(&parts, at)..offset(&parts, at + 2)];
            let lowest = (0..parts.len().saturating_sub(1))
                .filter_map(|at| Some((vocab.id_of(joined(at))?, at)))
                .min();
            let Some((_, at)) = lowest else { break };
            parts[at] = joined(at);
            parts.remove(at + 1);
        }
        parts.iter().map(|part| vocab.id_of(part).unwrap()).collect()
    }

    fn offset(parts: &[&[u8]], at: usize) -> usize {
        parts[..at].iter().map(|part| part.len()).sum()
    }

    fn short_and_long(merges: &Merges, piece: &[u8]) -> [Vec<u32>; 2] {
        let (mut short, mut long) = (Vec::new(), Vec::new());
        merges.join_short(piece, &mut short);
        merges.join_long(piece, &mut long, || Ok(())).unwrap();
        [short, long]
    }

    #[test]
    fn tokens_that_do_not_come_about_need_all_pairs() {
        let regular = Merges::recover(&vocab_of(&[b"ab", b"abc"]));
        assert_eq!(regular.of_tokens(), Some(&[(97, 98), (256, 99)][..]));
        let irregular = Merges::recover(&vocab_of(&[b"abcd", b"ab", b"cd"]));
        assert_eq!(irregular.of_tokens(), None);
        assert_eq!(short_and_long(&irregular, b"xabcd"), [[120, 256], [120, 256]]);
    }

    #[test]
    fn a_long_piece_can_be_interrupted() {
        let merges = Merges::recover(&vocab_of(&[b"aa"]));
        let piece = vec![b'a'; 4 * STEPS_PER_CHECK];
        let result = merges.join_long(&piece, &mut Vec::new(), || Err(Error::Interrupted));
        assert!(matches!(result, Err(Error::Interrupted)));
    }

    proptest! {
        #[test]
        fn all_ways_follow_the_rule(
            tokens in prop::collection::btree_set("[a-c]{2,6}", 0..40),
            shuffle in any::<u64>(),
            piece in "[a-c]{1,60}",
        ) {
            // A vocabulary in any order: regular or not.
            let mut tokens: Vec<String> = tokens.into_iter().collect();
            tokens.sort_by_key(|token| hash_u64(shuffle ^ hash_bytes(token.as_bytes())));
            let tokens: Vec<&[u8]> = tokens.iter().map(|token| token.as_bytes()).collect();
            let vocab = vocab_of(&tokens);
            let merges = Merges::recover(&vocab);
            let wanted = by_the_rule(&vocab, piece.as_bytes());
            let stopped = std::sync::atomic::AtomicBool::new(false);
            let mut found = Vec::new();
            merges
                .encode(&vocab, piece.as_bytes(), &mut found, &Watch::alone(&stopped, &|| false))
                .unwrap();
            prop_assert_eq!(&found, &wanted);
            if vocab.id_of(piece.as_bytes()).is_none() {
                prop_assert_eq!(short_and_long(&merges, piece.as_bytes()), [wanted.clone(), wanted]);
            }
        }
    }
}
