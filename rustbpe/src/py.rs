//! The Python module: converts arguments, releases the GIL, maps errors. Nothing else.

mod convert;

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString};

use self::convert::{
    detached, ids_of, numpy_array, read_buffer, size, special_id, token_id, utf8, IdOrName,
    Numbers, Numpy, Signals, Texts, PATIENCE,
};
use crate::encode::TokenId;
use crate::special::Policy;
use crate::split::GPT4_PATTERN;
use crate::tokenizer::{BatchOptions, Tokenizer as Core};
use crate::train::{merges_wanted, Trainer};

/// Byte-pair encoding: trained on text, then turns text into token ids and back.
#[pyclass(module = "rustbpe", frozen)]
struct Tokenizer {
    /// Replaced as a whole by training, so that other threads never see half of it.
    core: RwLock<Arc<Core>>,
}

impl From<Core> for Tokenizer {
    fn from(core: Core) -> Self {
        Self { core: RwLock::new(Arc::new(core)) }
    }
}

impl Tokenizer {
    fn core(&self) -> Arc<Core> {
        self.core.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace(&self, core: Core) {
        *self.core.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(core);
    }
}

fn numpy_batch<'py, T: TokenId + Numpy>(
    py: Python<'py>,
    core: &Core,
    texts: &[&str],
    options: BatchOptions,
) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    let batch = detached(py, |interrupt| core.encode_batch::<T>(texts, options, interrupt))?;
    let mut offsets = Vec::with_capacity(texts.len() + 1);
    let mut end = 0_i64;
    offsets.push(end);
    for length in batch.lengths {
        end += length as i64;
        offsets.push(end);
    }
    Ok((numpy_array(py, &batch.parts)?, numpy_array(py, &[offsets])?))
}

fn encode_as<T: TokenId>(
    core: &Core,
    text: &Bound<'_, PyString>,
    special: &str,
) -> PyResult<Vec<T>> {
    let policy: Policy = special.parse()?;
    let utf8 = utf8(text, || "text".to_owned())?;
    detached(text.py(), |interrupt| core.encode_with(utf8, policy, interrupt))
}

#[pymethods]
impl Tokenizer {
    #[new]
    fn new() -> Self {
        Core::untrained().into()
    }

    /// Trains on the strings that `iterator` yields, and replaces what this tokenizer was.
    ///
    /// `vocab_size` counts the 256 bytes, the merges and `special_tokens`, which get the last ids;
    /// there are fewer merges if the text has no pair left. `buffer_size` is the number of strings
    /// read before they are counted together; it changes nothing in the result. `pattern` is
    /// GPT-4's by default. `progress(phase, done, total)` is called now and then: with "count", the
    /// number of strings read and None; then with "merge" and numbers of merges.
    ///
    /// If anything is raised, also by the iterator or `progress`, the tokenizer stays as it was.
    #[pyo3(signature = (iterator, vocab_size, buffer_size=8192, pattern=None, *,
                        special_tokens=None, threads=None, progress=None))]
    #[allow(clippy::too_many_arguments)]
    fn train_from_iterator(
        &self,
        py: Python<'_>,
        iterator: &Bound<'_, PyAny>,
        vocab_size: i64,
        buffer_size: i64,
        pattern: Option<&str>,
        special_tokens: Option<Vec<String>>,
        threads: Option<i64>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let specials = special_tokens.unwrap_or_default();
        let vocab_size = size("vocab_size", vocab_size)?;
        // Before any text is read.
        merges_wanted(vocab_size, specials.len())?;
        let buffer_size = size("buffer_size", buffer_size)?;
        if buffer_size == 0 {
            return Err(PyValueError::new_err("buffer_size must be at least 1"));
        }
        let mut trainer =
            Trainer::new(pattern.unwrap_or(GPT4_PATTERN), convert::threads(threads)?)?;

        let mut texts = iterator.try_iter()?;
        let mut read = 0;
        while let Some(buffer) = read_buffer(&mut texts, read, buffer_size)? {
            let first = read;
            read += buffer.len();
            let place = |index| format!("item {} of the iterator", first + index);
            let slices: Vec<&str> = buffer
                .iter()
                .enumerate()
                .map(|(index, text)| utf8(text, || place(index)))
                .collect::<PyResult<_>>()?;
            detached(py, |interrupt| trainer.feed(&slices, interrupt))?;
            py.check_signals()?;
            if let Some(progress) = &progress {
                progress.call1(py, ("count", read, py.None()))?;
            }
        }

        let core = py.detach(|| {
            let signals = Signals::new();
            let mut told = Instant::now();
            let mut report = |done: usize, total: usize| {
                let Some(progress) = &progress else { return };
                if told.elapsed() >= PATIENCE || done == 0 || done == total {
                    told = Instant::now();
                    signals.keep(Python::attach(|py| {
                        progress.call1(py, ("merge", done, total)).map(|_| ())
                    }));
                }
            };
            let result =
                trainer.finish(vocab_size, &specials, &|| signals.should_stop(), &mut report);
            signals.or_raise(result)
        })?;
        self.replace(core);
        Ok(())
    }

    /// The split pattern; empty before training.
    fn get_pattern(&self) -> String {
        self.core().pattern().to_owned()
    }

    /// All tokens but the special ones, as (bytes, id), by id.
    fn get_mergeable_ranks<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<Vec<(Bound<'py, PyBytes>, u32)>> {
        Ok(self.core().ranks().map(|(token, id)| (PyBytes::new(py, token), id)).collect())
    }

    /// One more than the largest id, special tokens included.
    #[getter]
    fn vocab_size(&self) -> usize {
        self.core().vocab_size()
    }

    /// The special tokens with their ids.
    #[getter]
    fn special_tokens<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let all = PyDict::new(py);
        for (name, id) in self.core().special_tokens() {
            all.set_item(name, id)?;
        }
        Ok(all)
    }

    /// Adds special tokens, with the ids from `vocab_size` on.
    fn add_special_tokens(&self, names: Vec<String>) -> PyResult<()> {
        let core = self.core();
        let known = core.special_tokens().map(|(name, id)| (name.to_owned(), id));
        let new = names.into_iter().zip(core.vocab_size() as u32..);
        self.replace(core.with_special_tokens(known.chain(new))?);
        Ok(())
    }

    /// The id of a special token.
    fn encode_special(&self, name: &str) -> PyResult<u32> {
        special_id(&self.core(), name)
    }

    /// The ids of a text. `special` says what to do about special tokens in it: "text" takes them
    /// as ordinary text, "raise" raises ValueError, "parse" gives their ids.
    #[pyo3(signature = (text, *, special="text"))]
    fn encode(&self, text: &Bound<'_, PyString>, special: &str) -> PyResult<Vec<u32>> {
        encode_as(&self.core(), text, special)
    }

    /// The ids of a text as a numpy array: uint16 if `vocab_size` allows, or else uint32.
    #[pyo3(signature = (text, *, special="text"))]
    fn encode_to_numpy<'py>(
        &self,
        py: Python<'py>,
        text: &Bound<'_, PyString>,
        special: &str,
    ) -> PyResult<Bound<'py, PyAny>> {
        let core = self.core();
        if core.vocab_size() <= 1 << 16 {
            numpy_array(py, &[encode_as::<u16>(&core, text, special)?])
        } else {
            numpy_array(py, &[encode_as::<u32>(&core, text, special)?])
        }
    }

    /// The ids of each text, found on all cores or on `threads` threads.
    #[pyo3(signature = (texts, threads=None, *, special="text"))]
    fn batch_encode<'py>(
        &self,
        py: Python<'py>,
        texts: &Bound<'py, PyAny>,
        threads: Option<i64>,
        special: &str,
    ) -> PyResult<Bound<'py, PyList>> {
        let core = self.core();
        let texts = Texts::of(texts)?;
        let texts = texts.utf8()?;
        let options = BatchOptions {
            threads: convert::threads(threads)?,
            policy: special.parse()?,
            ..Default::default()
        };
        let batch = detached(py, |interrupt| core.encode_batch::<u32>(&texts, options, interrupt))?;
        let lists = PyList::empty(py);
        let mut numbers = Numbers::new(py, core.vocab_size());
        for ids in batch.texts() {
            lists.append(numbers.list(&ids)?)?;
        }
        Ok(lists)
    }

    /// The ids of all texts in one numpy array, and where each text's ids start: text i has
    /// ids[offsets[i]:offsets[i + 1]]. `prepend` and `append` go around each text: an id or the
    /// name of a special token. The ids are uint16 if `vocab_size` allows, or else uint32; the
    /// offsets are int64.
    #[pyo3(signature = (texts, threads=None, prepend=None, append=None, *, special="text"))]
    #[allow(clippy::too_many_arguments)]
    fn batch_encode_to_numpy<'py>(
        &self,
        py: Python<'py>,
        texts: &Bound<'py, PyAny>,
        threads: Option<i64>,
        prepend: Option<IdOrName>,
        append: Option<IdOrName>,
        special: &str,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let core = self.core();
        let texts = Texts::of(texts)?;
        let texts = texts.utf8()?;
        let id = |token| match token {
            None => Ok(None),
            Some(IdOrName::Id(id)) => Ok(Some(id)),
            Some(IdOrName::Name(name)) => special_id(&core, &name).map(Some),
        };
        let options = BatchOptions {
            threads: convert::threads(threads)?,
            prepend: id(prepend)?,
            append: id(append)?,
            policy: special.parse()?,
        };
        if core.vocab_size() <= 1 << 16 {
            numpy_batch::<u16>(py, &core, &texts, options)
        } else {
            numpy_batch::<u32>(py, &core, &texts, options)
        }
    }

    /// How many ids a text has, without making them.
    #[pyo3(signature = (text, *, special="text"))]
    fn count(&self, py: Python<'_>, text: &Bound<'_, PyString>, special: &str) -> PyResult<usize> {
        let core = self.core();
        let text = utf8(text, || "text".to_owned())?;
        let policy: Policy = special.parse()?;
        detached(py, |interrupt| core.count(text, policy, interrupt))
    }

    /// The text that ids stand for. `errors` is as for bytes.decode: ids may end within a character.
    #[pyo3(signature = (ids, *, errors="strict"))]
    fn decode<'py>(
        &self,
        py: Python<'py>,
        ids: &Bound<'py, PyAny>,
        errors: &str,
    ) -> PyResult<Bound<'py, PyAny>> {
        let bytes = self.decode_bytes(py, ids)?;
        if errors == "strict" {
            if let Ok(text) = std::str::from_utf8(bytes.as_bytes()) {
                return Ok(PyString::new(py, text).into_any());
            }
        }
        bytes.call_method1("decode", ("utf-8", errors))
    }

    /// The bytes that ids stand for.
    fn decode_bytes<'py>(
        &self,
        py: Python<'py>,
        ids: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let core = self.core();
        let ids = ids_of(&core, ids)?;
        Ok(PyBytes::new(py, &core.decode_bytes(ids)?))
    }

    /// How many bytes of text each id stands for, as a numpy array of int32: 0 for special tokens,
    /// as bits per byte counts them.
    fn token_byte_lengths<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let array = numpy_array(py, &[self.core().byte_lengths()])?;
        array.call_method1("astype", ("int32",))
    }

    /// Writes this tokenizer to a file, which holds all of it, can be read by a person and has a
    /// checksum.
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        let core = self.core();
        Ok(py.detach(|| core.save(path))?)
    }

    /// Reads a file that `save` wrote.
    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        Ok(py.detach(|| Core::load(path))?.into())
    }

    /// What `save` writes, as bytes.
    fn to_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.core().to_bytes())
    }

    /// A tokenizer from what `to_bytes` gave.
    #[staticmethod]
    fn from_bytes(contents: &[u8]) -> PyResult<Self> {
        Ok(Core::from_bytes(contents)?.into())
    }

    /// A tokenizer from tiktoken's ranks: bytes to id.
    #[staticmethod]
    #[pyo3(signature = (mergeable_ranks, pattern, special_tokens=None))]
    fn from_tiktoken(
        mergeable_ranks: &Bound<'_, PyDict>,
        pattern: &str,
        special_tokens: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        let mut ranks = Vec::with_capacity(mergeable_ranks.len());
        for (token, id) in mergeable_ranks {
            let id = token_id(&token, &id)?;
            ranks.push((token.cast_into::<PyBytes>()?, id));
        }
        let mut specials = Vec::new();
        for (name, id) in special_tokens.into_iter().flatten() {
            specials.push((name.extract::<String>()?, token_id(&name, &id)?));
        }
        let ranks = ranks.iter().map(|(token, id)| (token.as_bytes(), *id));
        Ok(Core::from_ranks(ranks, pattern, specials)?.into())
    }

    /// The keyword arguments, but for the name, of a tiktoken.Encoding that is equal to this one.
    fn to_tiktoken<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let core = self.core();
        let ranks = PyDict::new(py);
        for (token, id) in core.ranks() {
            ranks.set_item(PyBytes::new(py, token), id)?;
        }
        let all = PyDict::new(py);
        all.set_item("pat_str", core.pattern())?;
        all.set_item("mergeable_ranks", ranks)?;
        all.set_item("special_tokens", self.special_tokens(py)?)?;
        Ok(all)
    }

    /// A tokenizer from the text of a Hugging Face tokenizer.json.
    #[staticmethod]
    fn from_hf_json(py: Python<'_>, text: &str) -> PyResult<Self> {
        Ok(py.detach(|| Core::from_hf_json(text))?.into())
    }

    /// The text of a Hugging Face tokenizer.json. There special tokens in a text always become ids.
    fn to_hf_json(&self) -> PyResult<String> {
        Ok(self.core().to_hf_json()?)
    }

    fn __reduce__<'py>(
        slf: &Bound<'py, Self>,
    ) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyBytes>,))> {
        let contents = slf.get().to_bytes(slf.py());
        Ok((slf.get_type().getattr("from_bytes")?, (contents,)))
    }

    fn __repr__(&self) -> String {
        let core = self.core();
        format!(
            "Tokenizer(vocab_size={}, special_tokens={}, pattern={:?})",
            core.vocab_size(),
            core.special_tokens().count(),
            core.pattern()
        )
    }
}

#[pymodule]
fn rustbpe(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Tokenizer>()?;
    module.add("GPT2_PATTERN", crate::GPT2_PATTERN)?;
    module.add("GPT4_PATTERN", crate::GPT4_PATTERN)?;
    module.add("NANOCHAT_PATTERN", crate::NANOCHAT_PATTERN)?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))
}
