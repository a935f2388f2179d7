//! Text to ids: splits, remembers pieces, merges the new ones, and writes where the caller wants.

use std::borrow::Cow;
use std::sync::atomic::AtomicBool;
use std::sync::Mutex;

use crate::cache::{Cache, Tokens, INLINE, LONGEST};
use crate::error::{Error, Result};
use crate::hash::{short_key, SHORT};
use crate::merge::Merges;
use crate::parallel::{self, Interrupt, Watch};
use crate::special::{Finder, Policy, Specials};
use crate::split::Splitter;
use crate::vocab::Vocab;

/// Bytes of text between two looks at the watch.
const SEGMENT: usize = 1 << 20;

/// Bytes of text in one job of a batch: enough that handing it out costs nothing.
const JOB: usize = 1 << 16;

/// Pieces of a regex engine between two looks at the watch: few, as one may take milliseconds.
const PIECES_PER_CHECK: usize = 16;

/// An integer type that holds ids.
pub trait TokenId: Copy + Send + Sync + Default + 'static {
    /// The largest id that fits.
    const MAX: u32;
    /// The id as this type, cut off if it does not fit.
    fn from_id(id: u32) -> Self;
}

impl TokenId for u16 {
    const MAX: u32 = u16::MAX as u32;
    #[inline(always)]
    fn from_id(id: u32) -> Self {
        id as u16
    }
}

impl TokenId for u32 {
    const MAX: u32 = u32::MAX;
    #[inline(always)]
    fn from_id(id: u32) -> Self {
        id
    }
}

/// Takes the ids of a text.
pub(crate) trait Sink {
    fn put(&mut self, ids: &[u32]);
    /// As [`Self::put`] for the tokens of a slot, all of which are in it.
    fn put_inline(&mut self, tokens: &Tokens);
}

impl<T: TokenId> Sink for Vec<T> {
    #[inline]
    fn put(&mut self, ids: &[u32]) {
        self.extend(ids.iter().map(|&id| T::from_id(id)));
    }

    #[inline(always)]
    fn put_inline(&mut self, tokens: &Tokens) {
        if self.capacity() - self.len() < INLINE {
            self.reserve(INLINE);
        }
        // Writing all of the slot, however many count, needs no branch on their number.
        // SAFETY: there is room for INLINE more, just made sure of; all that become part of the
        // vector, at most INLINE, have been written.
        unsafe {
            let end = self.as_mut_ptr().add(self.len());
            for (place, &id) in tokens.ids.iter().enumerate() {
                end.add(place).write(T::from_id(id));
            }
            self.set_len(self.len() + (tokens.len as usize).min(INLINE));
        }
    }
}

/// Counts ids and drops them.
#[derive(Default)]
pub(crate) struct Counter(pub(crate) usize);

impl Sink for Counter {
    fn put(&mut self, ids: &[u32]) {
        self.0 += ids.len();
    }

    #[inline(always)]
    fn put_inline(&mut self, tokens: &Tokens) {
        self.0 += tokens.len as usize;
    }
}

/// The ids of many texts, one after the other.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Batch<T> {
    /// The ids in parts of some size; their borders mean nothing.
    pub parts: Vec<Vec<T>>,
    /// How many ids each text has.
    pub lengths: Vec<usize>,
}

impl<T: TokenId> Batch<T> {
    /// The ids of each text, in the order of the texts.
    pub fn texts(&self) -> impl Iterator<Item = Cow<'_, [T]>> {
        let mut parts = self.parts.iter();
        let mut part: &[T] = &[];
        self.lengths.iter().map(move |&length| {
            if part.is_empty() {
                part = parts.next().map_or(&[], Vec::as_slice);
            }
            if let Some(ids) = part.get(..length) {
                part = &part[length..];
                return Cow::Borrowed(ids);
            }
            // A long text, the ids of which lie in several parts.
            let mut ids = Vec::with_capacity(length);
            while ids.len() < length {
                if part.is_empty() {
                    part = parts.next().expect("the parts have as many ids as the texts");
                }
                let (here, after) = part.split_at(part.len().min(length - ids.len()));
                ids.extend_from_slice(here);
                part = after;
            }
            Cow::Owned(ids)
        })
    }
}

/// Everything that encoding needs.
pub(crate) struct Encoder {
    splitter: Splitter,
    merges: Merges,
    finder: Finder,
    /// Caches between uses: as many as threads have encoded at once.
    caches: Mutex<Vec<Cache>>,
}

/// What of a text one job encodes.
struct Unit<'t> {
    text: &'t str,
    starts: bool,
    ends: bool,
}

impl Encoder {
    pub(crate) fn new(splitter: Splitter, merges: Merges, specials: &Specials) -> Result<Self> {
        let finder = Finder::new(specials)?;
        Ok(Self { splitter, merges, finder, caches: Mutex::new(Vec::new()) })
    }

    pub(crate) fn splitter(&self) -> &Splitter {
        &self.splitter
    }

    pub(crate) fn merges(&self) -> &Merges {
        &self.merges
    }

    fn take_cache(&self) -> Cache {
        let mut caches = self.caches.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        caches.pop().unwrap_or_else(Cache::new)
    }

    fn give_back(&self, cache: Cache) {
        let mut caches = self.caches.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        caches.push(cache);
    }

    /// Encodes one text on the calling thread.
    pub(crate) fn encode(
        &self,
        tokens: (&Vocab, &Specials),
        text: &str,
        policy: Policy,
        interrupt: Interrupt<'_>,
        sink: &mut impl Sink,
    ) -> Result<()> {
        let stopped = AtomicBool::new(false);
        let mut cache = self.take_cache();
        let watch = Watch::alone(&stopped, interrupt);
        let result = self.encode_with(&mut cache, tokens, text, policy, &watch, sink);
        self.give_back(cache);
        result
    }

    /// Encodes many texts on some threads. `around` goes before and after each.
    pub(crate) fn encode_batch<T: TokenId>(
        &self,
        tokens: (&Vocab, &Specials),
        texts: &[&str],
        around: (Option<u32>, Option<u32>),
        policy: Policy,
        threads: Option<usize>,
        interrupt: Interrupt<'_>,
    ) -> Result<Batch<T>> {
        let (units, jobs) = self.plan(texts, policy);
        let threads = parallel::thread_count(threads, jobs.len())?;
        let mut workers: Vec<_> = (0..threads).map(|_| (self.take_cache(), Vec::new())).collect();
        let result =
            parallel::for_each(&mut workers, jobs.len(), interrupt, |worker, job, watch| {
                let (cache, done) = worker;
                let units = &units[jobs[job].clone()];
                let bytes: usize = units.iter().map(|unit| unit.text.len()).sum();
                let mut ids: Vec<T> = Vec::with_capacity(bytes / 3 + 16);
                let mut lengths = Vec::with_capacity(units.len());
                for unit in units {
                    let before = ids.len();
                    ids.extend(around.0.filter(|_| unit.starts).map(T::from_id));
                    self.encode_with(cache, tokens, unit.text, policy, watch, &mut ids)?;
                    ids.extend(around.1.filter(|_| unit.ends).map(T::from_id));
                    lengths.push(ids.len() - before);
                }
                done.push((job, ids, lengths));
                Ok(())
            });
        let mut done = Vec::with_capacity(jobs.len());
        for (cache, part) in workers {
            self.give_back(cache);
            done.extend(part);
        }
        result?;
        done.sort_unstable_by_key(|(job, ..)| *job);
        let mut batch = Batch {
            parts: Vec::with_capacity(done.len()),
            lengths: Vec::with_capacity(texts.len()),
        };
        let mut units = units.iter();
        for (_, ids, lengths) in done {
            batch.parts.push(ids);
            for (length, unit) in lengths.into_iter().zip(&mut units) {
                match batch.lengths.last_mut() {
                    Some(last) if !unit.starts => *last += length,
                    _ => batch.lengths.push(length),
                }
            }
        }
        Ok(batch)
    }

    /// Cuts texts into units, and groups those into jobs. A text with special tokens to look for
    /// stays whole, since a cut could go through one.
    fn plan<'t>(
        &self,
        texts: &[&'t str],
        policy: Policy,
    ) -> (Vec<Unit<'t>>, Vec<std::ops::Range<usize>>) {
        let mut units = Vec::with_capacity(texts.len());
        let (mut jobs, mut first, mut bytes) = (Vec::new(), 0, 0);
        for text in texts {
            let mut rest = *text;
            let mut starts = true;
            loop {
                let cut = match policy {
                    Policy::Text => self.splitter.safe_cut(rest, JOB),
                    _ => rest.len(),
                };
                let (unit, after) = rest.split_at(cut);
                units.push(Unit { text: unit, starts, ends: after.is_empty() });
                (rest, starts) = (after, false);
                bytes += unit.len();
                if bytes >= JOB {
                    jobs.push(first..units.len());
                    (first, bytes) = (units.len(), 0);
                }
                if rest.is_empty() {
                    break;
                }
            }
        }
        if first < units.len() {
            jobs.push(first..units.len());
        }
        (units, jobs)
    }

    fn encode_with(
        &self,
        cache: &mut Cache,
        (vocab, specials): (&Vocab, &Specials),
        text: &str,
        policy: Policy,
        watch: &Watch<'_>,
        sink: &mut impl Sink,
    ) -> Result<()> {
        let mut start = 0;
        if policy != Policy::Text {
            while let Some((from, to)) = self.finder.find(&text[start..]) {
                let token = &text[start + from..start + to];
                if policy == Policy::Refuse {
                    let token = token.to_owned();
                    return Err(Error::SpecialInText { token, offset: start + from });
                }
                self.encode_text(cache, vocab, &text[start..start + from], start, watch, sink)?;
                sink.put(&[specials.id_of(token).expect("the finder finds special tokens")]);
                start += to;
            }
        }
        self.encode_text(cache, vocab, &text[start..], start, watch, sink)
    }

    /// Encodes ordinary text, which starts at `offset` of what the caller gave.
    fn encode_text(
        &self,
        cache: &mut Cache,
        vocab: &Vocab,
        mut text: &str,
        mut offset: usize,
        watch: &Watch<'_>,
        sink: &mut impl Sink,
    ) -> Result<()> {
        while !text.is_empty() {
            let (segment, rest) = text.split_at(self.splitter.safe_cut(text, SEGMENT));
            self.encode_segment(cache, vocab, segment, watch, sink).map_err(
                |error| match error {
                    Error::PatternGaveUp { offset: at, reason } => {
                        Error::PatternGaveUp { offset: offset + at, reason }
                    }
                    other => other,
                },
            )?;
            offset += segment.len();
            text = rest;
            if !text.is_empty() {
                watch.check()?;
            }
        }
        Ok(())
    }

    fn encode_segment(
        &self,
        cache: &mut Cache,
        vocab: &Vocab,
        text: &str,
        watch: &Watch<'_>,
        sink: &mut impl Sink,
    ) -> Result<()> {
        let bytes = text.as_bytes();
        let pieces_per_check =
            if self.splitter.is_by_hand() { usize::MAX } else { PIECES_PER_CHECK };
        let mut pieces = 0;
        self.splitter.for_each(text, |start, end| {
            pieces += 1;
            if pieces == pieces_per_check {
                pieces = 0;
                watch.check()?;
            }
            if end - start > SHORT {
                return self.encode_long(cache, vocab, &bytes[start..end], watch, sink);
            }
            let key = short_key(bytes, start, end);
            match cache.get(key) {
                Some(tokens) if tokens.len as usize <= INLINE => sink.put_inline(tokens),
                Some(tokens) => sink.put(cache.spilled(tokens)),
                None => {
                    let mut ids = Vec::with_capacity(SHORT);
                    self.merges.encode(vocab, &bytes[start..end], &mut ids, watch)?;
                    cache.insert(key, &ids);
                    sink.put(&ids);
                }
            }
            Ok(())
        })
    }

    #[inline(never)]
    fn encode_long(
        &self,
        cache: &mut Cache,
        vocab: &Vocab,
        piece: &[u8],
        watch: &Watch<'_>,
        sink: &mut impl Sink,
    ) -> Result<()> {
        if piece.len() <= LONGEST {
            match cache.get_long(piece) {
                Some(tokens) if tokens.len as usize <= INLINE => sink.put_inline(tokens),
                Some(tokens) => sink.put(cache.spilled(tokens)),
                None => {
                    let mut ids = Vec::with_capacity(piece.len());
                    self.merges.encode(vocab, piece, &mut ids, watch)?;
                    cache.insert_long(piece, &ids);
                    sink.put(&ids);
                }
            }
            return Ok(());
        }
        watch.check()?;
        let mut ids = Vec::new();
        self.merges.encode(vocab, piece, &mut ids, watch)?;
        sink.put(&ids);
        Ok(())
    }
}
