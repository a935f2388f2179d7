//! Training: counts the pieces of a text, then merges the most frequent pair again and again.
//!
//! A pair's count is the number of places where its two tokens are next to each other, weighted by
//! how often the piece occurs; in a run of equal tokens overlapping places count too. Of pairs with
//! equal counts the one with the smaller left id merges first, then that with the smaller right id.
//! Nothing else enters, so the result depends on neither threads nor the order of the texts.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use crate::count::PieceCounter;
use crate::error::{Error, Result};
use crate::hash::BuildPieceHasher;
use crate::merge::Merges;
use crate::pairs::{key_pair, pair_key};
use crate::parallel::{self, Interrupt};
use crate::special::Specials;
use crate::split::Splitter;
use crate::tokenizer::Tokenizer;
use crate::vocab::{Vocab, MAX_TOKENS};

/// Bytes of text in one counting job.
const JOB: usize = 1 << 17;

/// Merges between two reports of progress.
const MERGES_PER_REPORT: usize = 64;

/// Takes texts, then makes a tokenizer of them.
pub struct Trainer {
    splitter: Splitter,
    /// One for each thread.
    counters: Vec<PieceCounter>,
}

impl Trainer {
    /// A trainer for the split pattern `pattern`, which counts on `threads` threads: by default as
    /// many as the machine runs at once.
    ///
    /// # Errors
    /// [`Error::Pattern`] if the pattern does not compile, [`Error::Invalid`] for no threads.
    pub fn new(pattern: &str, threads: Option<usize>) -> Result<Self> {
        let threads = parallel::thread_count(threads, usize::MAX)?;
        let counters = (0..threads).map(|_| PieceCounter::new()).collect();
        Ok(Self { splitter: Splitter::new(pattern)?, counters })
    }

    /// Counts the pieces of some texts. How texts are grouped into calls does not matter.
    ///
    /// # Errors
    /// [`Error::PatternGaveUp`] from a regex engine, [`Error::Interrupted`] if asked to stop.
    pub fn feed(&mut self, texts: &[&str], interrupt: Interrupt<'_>) -> Result<()> {
        let mut jobs = Vec::new();
        for text in texts {
            let mut rest = *text;
            while !rest.is_empty() {
                let (job, after) = rest.split_at(self.splitter.safe_cut(rest, JOB));
                jobs.push(job);
                rest = after;
            }
        }
        let splitter = &self.splitter;
        // A thread is worth starting only for some text.
        let enough = texts.iter().map(|text| text.len()).sum::<usize>() / JOB + 1;
        let threads = self.counters.len().min(jobs.len()).min(enough);
        let counters = &mut self.counters[..threads];
        parallel::for_each(counters, jobs.len(), interrupt, |counter, job, _| {
            let text = jobs[job];
            splitter.for_each(text, |start, end| {
                counter.add(text.as_bytes(), start, end);
                Ok(())
            })
        })
    }

    /// Trains a tokenizer of at most `vocab_size` tokens: the 256 single bytes, then merges, then
    /// `specials` in their order. It has fewer if no pair is left to merge. `progress` is told now
    /// and then how many merges are done, and of how many.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `vocab_size` does not suffice for the bytes and specials or is too
    /// large, or if there was no text; [`Error::Interrupted`] if asked to stop.
    pub fn finish(
        self,
        vocab_size: usize,
        specials: &[String],
        interrupt: Interrupt<'_>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Tokenizer> {
        let most = merges_wanted(vocab_size, specials.len())?;
        let mut counters = self.counters.into_iter();
        let mut counter = counters.next().expect("there is a counter for each thread");
        counters.for_each(|other| counter.merge(other));
        let mut merger = Merger::new(&counter)?;
        drop(counter);
        while merger.merges.len() < most {
            if merger.merges.len() % MERGES_PER_REPORT == 0 {
                progress(merger.merges.len(), most);
                if interrupt() {
                    return Err(Error::Interrupted);
                }
            }
            if !merger.merge_next() {
                break;
            }
        }
        let pairs = merger.merges;
        progress(pairs.len(), most);
        let mut vocab = Vocab::of_bytes();
        for &(left, right) in &pairs {
            vocab.push_pair(left, right);
        }
        let ids = vocab.id_bound() as u32..;
        let specials = Specials::new(&vocab, specials.iter().cloned().zip(ids))?;
        let merges = Merges::from_training(&vocab, pairs);
        Tokenizer::assemble(self.splitter, vocab, merges, specials)
    }
}

/// The number of merges that make a vocabulary of `vocab_size` tokens.
///
/// # Errors
/// [`Error::Invalid`] if that is negative, or too many.
pub(crate) fn merges_wanted(vocab_size: usize, specials: usize) -> Result<usize> {
    if vocab_size > MAX_TOKENS {
        return Err(Error::invalid(format!(
            "vocab_size is {vocab_size}, but must be at most {MAX_TOKENS}"
        )));
    }
    vocab_size.checked_sub(256 + specials).ok_or_else(|| {
        Error::invalid(format!(
            "vocab_size is {vocab_size}, but must be at least {}: 256 bytes and {specials} \
             special tokens",
            256 + specials
        ))
    })
}

/// What [`Merger::symbols`] holds before, between and after pieces, and where a token that has
/// become the right half of another began.
const BORDER: u32 = u32::MAX;
const DEAD: u32 = u32::MAX - 1;

/// Where a pair is, or once was: the place of its left token, and the number of its piece.
#[derive(Clone, Copy)]
struct Place {
    at: u32,
    piece: u32,
}

struct Pair {
    count: u64,
    /// In ascending order. Some are out of date: there is something else now.
    places: Vec<Place>,
}

/// The distinct pieces, as tokens, and the pairs in them.
struct Merger {
    /// All pieces, a symbol for each byte and a border between. A token's id stands where its first
    /// byte was and where its last one was, so that both neighbours find it; what is between them
    /// means nothing.
    symbols: Vec<u32>,
    /// How often each piece occurs.
    weights: Vec<u64>,
    /// How many bytes each token has.
    lengths: Vec<u32>,
    pairs: Vec<Pair>,
    index: HashMap<u64, u32, BuildPieceHasher>,
    /// Counts as they once were, which is never less than they are now, and the keys of the pairs.
    queue: BinaryHeap<(u64, Reverse<u64>)>,
    left: Neighbours,
    right: Neighbours,
    merges: Vec<(u32, u32)>,
}

impl Merger {
    /// # Errors
    /// [`Error::Invalid`] if there is no piece, or if there are 4 GiB of them.
    fn new(counter: &PieceCounter) -> Result<Self> {
        let mut merger = Self {
            symbols: vec![BORDER],
            weights: Vec::new(),
            lengths: vec![1; 256],
            pairs: Vec::new(),
            index: HashMap::default(),
            queue: BinaryHeap::new(),
            left: Neighbours::default(),
            right: Neighbours::default(),
            merges: Vec::new(),
        };
        let mut empty = true;
        counter.for_each(|piece, count| {
            empty = false;
            if piece.len() > 1 {
                merger.symbols.extend(piece.iter().map(|&byte| u32::from(byte)));
                merger.symbols.push(BORDER);
                merger.weights.push(count);
            }
        });
        if empty {
            return Err(Error::invalid("there is no text to train on"));
        }
        if merger.symbols.len() >= DEAD as usize {
            return Err(Error::invalid("the distinct pieces of the text have 4 GiB or more"));
        }
        merger.count_byte_pairs();
        Ok(merger)
    }

    fn count_byte_pairs(&mut self) {
        let slot = |pair: &[u32]| (pair[0] as usize) << 8 | pair[1] as usize;
        let mut counts = vec![(0_u64, 0_usize); 1 << 16];
        self.for_each_byte_pair(|pair, _, weight| {
            let (count, places) = &mut counts[slot(pair)];
            *count += weight;
            *places += 1;
        });
        let mut places: Vec<Vec<Place>> =
            counts.iter().map(|(_, places)| Vec::with_capacity(*places)).collect();
        self.for_each_byte_pair(|pair, place, _| places[slot(pair)].push(place));
        for (slot, (places, (count, _))) in places.into_iter().zip(counts).enumerate() {
            if count > 0 {
                self.add_pair(slot as u32 >> 8, slot as u32 & 0xff, Pair { count, places });
            }
        }
    }

    fn for_each_byte_pair(&self, mut visit: impl FnMut(&[u32], Place, u64)) {
        let mut piece = 0;
        for (at, pair) in self.symbols.windows(2).enumerate().skip(1) {
            if pair[0] == BORDER {
                piece += 1;
            } else if pair[1] != BORDER {
                let place = Place { at: at as u32, piece: piece as u32 };
                visit(pair, place, self.weights[piece]);
            }
        }
    }

    fn add_pair(&mut self, left: u32, right: u32, pair: Pair) {
        let key = pair_key(left, right);
        self.queue.push((pair.count, Reverse(key)));
        self.index.insert(key, self.pairs.len() as u32);
        self.pairs.push(pair);
    }

    /// Merges the most frequent pair; false if there is none.
    fn merge_next(&mut self) -> bool {
        while let Some((count, Reverse(key))) = self.queue.pop() {
            let pair = &mut self.pairs[self.index[&key] as usize];
            if pair.count == count {
                pair.count = 0;
                let places = std::mem::take(&mut pair.places);
                let (left, right) = key_pair(key);
                self.merge(left, right, &places);
                return true;
            }
            if pair.count > 0 {
                self.queue.push((pair.count, Reverse(key)));
            }
        }
        false
    }

    fn merge(&mut self, left: u32, right: u32, places: &[Place]) {
        let new = self.lengths.len() as u32;
        let left_len = self.lengths[left as usize];
        let len = left_len + self.lengths[right as usize];
        self.lengths.push(len);
        self.merges.push((left, right));
        self.left.make_room(new);
        self.right.make_room(new);
        for &Place { at, piece } in places {
            let middle = at + left_len;
            if self.symbols[at as usize] != left || self.symbols[middle as usize] != right {
                continue;
            }
            self.symbols[middle as usize] = DEAD;
            self.symbols[at as usize] = new;
            self.symbols[(at + len - 1) as usize] = new;

            let weight = self.weights[piece as usize];
            let before = self.symbols[at as usize - 1];
            if before != BORDER {
                let place = Place { at: at - self.lengths[before as usize], piece };
                self.left.of(before).add(weight, place);
                if before == new {
                    // The pair just made before, of the new token and `left`, is gone again.
                    self.right.of(left).new -= weight;
                }
            }
            let after = self.symbols[(at + len) as usize];
            if after != BORDER {
                self.right.of(after).add(weight, Place { at, piece });
            }
        }
        for neighbour in self.left.take() {
            if neighbour.token != new {
                self.lower(neighbour.token, left, neighbour.old);
            }
            self.add_pair(neighbour.token, new, neighbour.into_pair());
        }
        for neighbour in self.right.take() {
            self.lower(right, neighbour.token, neighbour.old);
            if neighbour.new > 0 {
                self.add_pair(new, neighbour.token, neighbour.into_pair());
            }
        }
    }

    /// Lowers the count of a pair, some places of which are gone.
    fn lower(&mut self, left: u32, right: u32, by: u64) {
        let pair = &mut self.pairs[self.index[&pair_key(left, right)] as usize];
        // The pair that is being merged has no count any more.
        pair.count = pair.count.saturating_sub(by);
        if pair.count == 0 {
            pair.places = Vec::new();
        }
    }
}

/// A token on one side of the new token, and the pair that they form.
struct Neighbour {
    token: u32,
    /// By how much its pair with a half of the new token has become rarer.
    old: u64,
    /// How often its pair with the new token occurs.
    new: u64,
    places: Vec<Place>,
}

impl Neighbour {
    #[inline]
    fn add(&mut self, weight: u64, place: Place) {
        self.old += weight;
        self.new += weight;
        self.places.push(place);
    }

    fn into_pair(self) -> Pair {
        Pair { count: self.new, places: self.places }
    }
}

/// The tokens on one side of the new token.
#[derive(Default)]
struct Neighbours {
    found: Vec<Neighbour>,
    /// For each token its index in `found`, plus one; or 0.
    index: Vec<u32>,
}

impl Neighbours {
    fn make_room(&mut self, new: u32) {
        self.index.resize(new as usize + 1, 0);
    }

    #[inline]
    fn of(&mut self, token: u32) -> &mut Neighbour {
        let index = &mut self.index[token as usize];
        if *index == 0 {
            self.found.push(Neighbour { token, old: 0, new: 0, places: Vec::new() });
            *index = self.found.len() as u32;
        }
        &mut self.found[*index as usize - 1]
    }

    fn take(&mut self) -> Vec<Neighbour> {
        for neighbour in &self.found {
            self.index[neighbour.token as usize] = 0;
        }
        std::mem::take(&mut self.found)
    }
}
