//! The tokenizer: what the modules below make together.

use crate::encode::{Batch, Counter, Encoder, TokenId};
use crate::error::{Error, Result};
use crate::merge::Merges;
use crate::parallel::Interrupt;
use crate::special::{Policy, Specials};
use crate::split::Splitter;
use crate::vocab::Vocab;

/// Turns text into ids and back. Immutable: many threads may use one at once.
pub struct Tokenizer {
    vocab: Vocab,
    specials: Specials,
    encoder: Encoder,
}

/// How to encode a batch of texts.
#[derive(Clone, Copy, Debug, Default)]
pub struct BatchOptions {
    /// How many threads to use: by default as many as the machine runs at once.
    pub threads: Option<usize>,
    /// An id to put before each text.
    pub prepend: Option<u32>,
    /// An id to put after each text.
    pub append: Option<u32>,
    /// What to do about special tokens in the texts.
    pub policy: Policy,
}

impl Tokenizer {
    /// The tokenizer before any training: the 256 single bytes, and a pattern that matches nothing.
    pub fn untrained() -> Self {
        let vocab = Vocab::of_bytes();
        let merges = Merges::from_training(&vocab, Vec::new());
        let splitter = Splitter::new("").expect("the empty pattern is valid");
        Self::assemble(splitter, vocab, merges, Specials::default())
            .expect("no special tokens are valid special tokens")
    }

    /// From tokens with their ids, as tiktoken has them: pairs merge in the order of the ids.
    ///
    /// # Errors
    /// [`Error::Pattern`] if the pattern does not compile; [`Error::Invalid`] if a token is empty,
    /// a token or an id comes twice, an id is 2,097,152 or more, or a single byte is missing.
    pub fn from_ranks<'a>(
        ranks: impl IntoIterator<Item = (&'a [u8], u32)>,
        pattern: &str,
        specials: impl IntoIterator<Item = (String, u32)>,
    ) -> Result<Self> {
        let vocab = Vocab::from_ranks(ranks)?;
        let specials = Specials::new(&vocab, specials)?;
        let merges = Merges::recover(&vocab);
        Self::assemble(Splitter::new(pattern)?, vocab, merges, specials)
    }

    pub(crate) fn assemble(
        splitter: Splitter,
        vocab: Vocab,
        merges: Merges,
        specials: Specials,
    ) -> Result<Self> {
        let encoder = Encoder::new(splitter, merges, &specials)?;
        Ok(Self { vocab, specials, encoder })
    }

    /// The split pattern.
    pub fn pattern(&self) -> &str {
        self.encoder.splitter().pattern()
    }

    /// One more than the largest id: the size that a model's embedding needs.
    pub fn vocab_size(&self) -> usize {
        self.vocab.id_bound().max(self.specials.id_bound())
    }

    /// The tokens without the special ones, with their ids, by id.
    pub fn ranks(&self) -> impl Iterator<Item = (&[u8], u32)> {
        self.vocab.iter()
    }

    /// How many tokens there are without the special ones.
    pub fn rank_count(&self) -> usize {
        self.vocab.len()
    }

    /// The special tokens with their ids, by id.
    pub fn special_tokens(&self) -> impl Iterator<Item = (&str, u32)> {
        self.specials.iter()
    }

    /// The id of a special token.
    pub fn special_id(&self, name: &str) -> Option<u32> {
        self.specials.id_of(name)
    }

    /// The pair of ids that makes each token of more than one byte, by id of the token; none if
    /// the ranks are such that there is more than one pair for some token.
    pub fn merges(&self) -> Option<&[(u32, u32)]> {
        self.encoder.merges().of_tokens()
    }

    /// The bytes of a token; those of its name for a special one.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.vocab.get(id).or_else(|| Some(self.specials.name_of(id)?.as_bytes()))
    }

    /// How many bytes of text each id stands for: 0 for special tokens and for ids without a token.
    pub fn byte_lengths(&self) -> Vec<u32> {
        let ids = 0..self.vocab_size() as u32;
        ids.map(|id| self.vocab.get(id).map_or(0, |token| token.len() as u32)).collect()
    }

    /// The same tokenizer with other special tokens.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a name is empty or comes twice, or if an id is too large or taken.
    pub fn with_special_tokens(
        &self,
        specials: impl IntoIterator<Item = (String, u32)>,
    ) -> Result<Self> {
        Self::from_ranks(self.ranks(), self.pattern(), specials)
    }

    /// The ids of a text. In time linear in its length, or nearly so in that of its longest piece.
    ///
    /// # Errors
    /// [`Error::SpecialInText`] if the policy refuses special tokens, [`Error::PatternGaveUp`] from
    /// a regex engine, [`Error::Invalid`] if `T` is too small for the ids.
    pub fn encode<T: TokenId>(&self, text: &str, policy: Policy) -> Result<Vec<T>> {
        self.encode_with(text, policy, &|| false)
    }

    /// As [`Self::encode`], but stops when `interrupt` says so.
    ///
    /// # Errors
    /// As [`Self::encode`], and [`Error::Interrupted`].
    pub fn encode_with<T: TokenId>(
        &self,
        text: &str,
        policy: Policy,
        interrupt: Interrupt<'_>,
    ) -> Result<Vec<T>> {
        self.check_fit::<T>()?;
        let mut ids = Vec::with_capacity(text.len() / 3 + 4);
        self.encoder.encode((&self.vocab, &self.specials), text, policy, interrupt, &mut ids)?;
        Ok(ids)
    }

    /// How many ids a text has.
    ///
    /// # Errors
    /// As [`Self::encode_with`].
    pub fn count(&self, text: &str, policy: Policy, interrupt: Interrupt<'_>) -> Result<usize> {
        let mut count = Counter::default();
        self.encoder.encode((&self.vocab, &self.specials), text, policy, interrupt, &mut count)?;
        Ok(count.0)
    }

    /// The ids of many texts, on many threads.
    ///
    /// # Errors
    /// As [`Self::encode_with`]; also [`Error::UnknownId`] if an id to prepend or append has no
    /// token.
    pub fn encode_batch<T: TokenId>(
        &self,
        texts: &[&str],
        options: BatchOptions,
        interrupt: Interrupt<'_>,
    ) -> Result<Batch<T>> {
        self.check_fit::<T>()?;
        let around = (options.prepend, options.append);
        for id in [around.0, around.1].into_iter().flatten() {
            self.token_bytes(id).ok_or(Error::UnknownId { id: id.into(), index: 0 })?;
        }
        self.encoder.encode_batch(
            (&self.vocab, &self.specials),
            texts,
            around,
            options.policy,
            options.threads,
            interrupt,
        )
    }

    /// The bytes that ids stand for.
    ///
    /// # Errors
    /// [`Error::UnknownId`] if an id has no token.
    pub fn decode_bytes(&self, ids: impl IntoIterator<Item = u32>) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for (index, id) in ids.into_iter().enumerate() {
            let token = self.token_bytes(id).ok_or(Error::UnknownId { id: id.into(), index })?;
            bytes.extend_from_slice(token);
        }
        Ok(bytes)
    }

    /// The text that ids stand for.
    ///
    /// # Errors
    /// [`Error::UnknownId`] if an id has no token, [`Error::NotUtf8`] if the bytes are not text: a
    /// list of ids may begin or end in the middle of a character.
    pub fn decode(&self, ids: impl IntoIterator<Item = u32>) -> Result<String> {
        String::from_utf8(self.decode_bytes(ids)?).map_err(|error| error.utf8_error().into())
    }

    fn check_fit<T: TokenId>(&self) -> Result<()> {
        if self.vocab_size() > T::MAX as usize + 1 {
            return Err(Error::invalid(format!(
                "ids up to {} do not fit the wanted type",
                self.vocab_size() - 1
            )));
        }
        Ok(())
    }
}
