//! Between Python's values and the core's: strings, ids, arrays, errors and signals.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use pyo3::exceptions::{
    PyOSError, PyRuntimeError, PyTypeError, PyUnicodeEncodeError, PyValueError,
};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyInt, PyIterator, PyList, PyString};

use crate::error::Error;
use crate::tokenizer::Tokenizer as Core;
use crate::vocab::MAX_TOKENS;

/// Training reads at most so many bytes of text before it counts them.
pub(super) const BUFFER_BYTES: usize = 1 << 25;

/// How often Python is asked whether Ctrl-C was pressed, and told about progress.
pub(super) const PATIENCE: Duration = Duration::from_millis(50);

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        match error {
            Error::Io(reason) => match reason.raw_os_error() {
                // With the number Python picks the fitting subclass, such as FileNotFoundError.
                Some(code) => PyOSError::new_err((code, reason.to_string())),
                None => reason.into(),
            },
            Error::Interrupted => PyRuntimeError::new_err("interrupted"),
            other => PyValueError::new_err(other.to_string()),
        }
    }
}

/// Asks Python about signals now and then, and keeps the exception that asks us to stop.
pub(super) struct Signals {
    asked: Cell<Instant>,
    raised: RefCell<Option<PyErr>>,
}

impl Signals {
    pub(super) fn new() -> Self {
        Self { asked: Cell::new(Instant::now()), raised: RefCell::new(None) }
    }

    pub(super) fn should_stop(&self) -> bool {
        if self.raised.borrow().is_some() {
            return true;
        }
        if self.asked.get().elapsed() < PATIENCE {
            return false;
        }
        self.asked.set(Instant::now());
        self.keep(Python::attach(|py| py.check_signals()));
        self.raised.borrow().is_some()
    }

    pub(super) fn keep(&self, result: PyResult<()>) {
        if let Err(error) = result {
            self.raised.borrow_mut().get_or_insert(error);
        }
    }

    /// The result, or the exception that ended the work.
    pub(super) fn or_raise<T>(self, result: crate::Result<T>) -> PyResult<T> {
        match self.raised.into_inner() {
            Some(error) => Err(error),
            None => Ok(result?),
        }
    }
}

/// Does long work without the GIL, which Ctrl-C can interrupt.
pub(super) fn detached<T: Send>(
    py: Python<'_>,
    work: impl Send + FnOnce(&dyn Fn() -> bool) -> crate::Result<T>,
) -> PyResult<T> {
    py.detach(|| {
        let signals = Signals::new();
        let result = work(&|| signals.should_stop());
        signals.or_raise(result)
    })
}

/// The UTF-8 form of a Python string, which lives as long as the string.
pub(super) fn utf8<'s>(
    text: &'s Bound<'_, PyString>,
    place: impl FnOnce() -> String,
) -> PyResult<&'s str> {
    text.to_str().map_err(|error| {
        let py = text.py();
        if error.is_instance_of::<PyUnicodeEncodeError>(py) {
            // Say which text it was, next to Python's own words about the character.
            let reason = format!("surrogates not allowed, in {}", place());
            let _ = error.value(py).setattr("reason", reason);
        }
        error
    })
}

pub(super) fn expect_str<'py>(
    object: Bound<'py, PyAny>,
    place: impl FnOnce() -> String,
) -> PyResult<Bound<'py, PyString>> {
    object.cast_into::<PyString>().map_err(|error| {
        let object = error.into_inner();
        let found =
            object.get_type().name().map_or_else(|_| "?".to_owned(), |name| name.to_string());
        PyTypeError::new_err(format!("{} must be str, not {found}", place()))
    })
}

/// Many Python strings, kept alive while their UTF-8 forms are read.
pub(super) struct Texts<'py>(Vec<Bound<'py, PyString>>);

impl<'py> Texts<'py> {
    pub(super) fn of(texts: &Bound<'py, PyAny>) -> PyResult<Self> {
        if texts.is_instance_of::<PyString>() {
            return Err(PyTypeError::new_err("texts must be a sequence of str, not one str"));
        }
        let mut all = Vec::with_capacity(texts.len().unwrap_or(0));
        for (index, text) in texts.try_iter()?.enumerate() {
            all.push(expect_str(text?, || format!("texts[{index}]"))?);
        }
        Ok(Self(all))
    }

    pub(super) fn utf8(&self) -> PyResult<Vec<&str>> {
        let texts = self.0.iter().enumerate();
        texts.map(|(index, text)| utf8(text, || format!("texts[{index}]"))).collect()
    }
}

/// A whole number of Python's as a size.
pub(super) fn size(name: &str, number: i64) -> PyResult<usize> {
    usize::try_from(number)
        .map_err(|_| PyValueError::new_err(format!("{name} must not be negative, but is {number}")))
}

pub(super) fn threads(number: Option<i64>) -> PyResult<Option<usize>> {
    number.map(|number| size("threads", number)).transpose()
}

/// An id, or the name of a special token.
#[derive(FromPyObject)]
pub(super) enum IdOrName {
    Id(u32),
    Name(String),
}

/// The id that someone gives to a token.
pub(super) fn token_id(token: &Bound<'_, PyAny>, id: &Bound<'_, PyAny>) -> PyResult<u32> {
    id.extract().map_err(|error| match id.is_instance_of::<PyInt>() {
        true => PyValueError::new_err(format!(
            "the id of {token:?} is {id}; ids are from 0 to {}",
            MAX_TOKENS - 1
        )),
        false => error,
    })
}

pub(super) fn special_id(core: &Core, name: &str) -> PyResult<u32> {
    core.special_id(name)
        .ok_or_else(|| PyValueError::new_err(format!("there is no special token {name:?}")))
}

/// Ids from any iterable of whole numbers.
pub(super) fn ids_of(core: &Core, ids: &Bound<'_, PyAny>) -> PyResult<Vec<u32>> {
    // A numpy array yields numpy's numbers one by one, which is slow.
    let list = match ids.getattr("tolist") {
        Ok(tolist) => tolist.call0()?,
        Err(_) => ids.clone(),
    };
    let mut all = Vec::with_capacity(list.len().unwrap_or(0));
    for (index, id) in list.try_iter()?.enumerate() {
        let id = id?;
        match id.extract::<u32>() {
            Ok(id) => all.push(id),
            Err(_) if id.is_instance_of::<PyInt>() => {
                let bound = core.vocab_size();
                return Err(PyValueError::new_err(format!(
                    "unknown token id {id} at index {index}; ids are from 0 to {}",
                    bound - 1
                )));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// Python's numbers for ids, each made once: what a list of many ids costs is mostly the memory
/// of its numbers.
pub(super) struct Numbers<'py> {
    py: Python<'py>,
    by_id: Vec<Option<Bound<'py, PyInt>>>,
}

impl<'py> Numbers<'py> {
    pub(super) fn new(py: Python<'py>, vocab_size: usize) -> Self {
        Self { py, by_id: vec![None; vocab_size] }
    }

    pub(super) fn list(&mut self, ids: &[u32]) -> PyResult<Bound<'py, PyList>> {
        for &id in ids {
            self.by_id[id as usize].get_or_insert_with(|| PyInt::new(self.py, id));
        }
        PyList::new(self.py, ids.iter().map(|&id| self.by_id[id as usize].as_ref()))
    }
}

/// Numbers that numpy has too.
pub(super) trait Numpy: Copy {
    const DTYPE: &'static str;
}

impl Numpy for u16 {
    const DTYPE: &'static str = "uint16";
}

impl Numpy for u32 {
    const DTYPE: &'static str = "uint32";
}

impl Numpy for i64 {
    const DTYPE: &'static str = "int64";
}

fn bytes_of<T: Numpy>(numbers: &[T]) -> &[u8] {
    // SAFETY: integers have no padding and every alignment suits bytes; the length is theirs.
    unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), std::mem::size_of_val(numbers)) }
}

/// One numpy array of all parts. Going through a byte array needs neither numpy's headers nor its
/// C interface, which changes from version to version.
pub(super) fn numpy_array<'py, T: Numpy>(
    py: Python<'py>,
    parts: &[Vec<T>],
) -> PyResult<Bound<'py, PyAny>> {
    let numpy = py.import("numpy")?;
    let len: usize = parts.iter().map(|part| std::mem::size_of_val(part.as_slice())).sum();
    if len == 0 {
        return numpy.call_method1("empty", (0, T::DTYPE));
    }
    let buffer = PyByteArray::new_with(py, len, |mut buffer| {
        for part in parts {
            let (here, rest) = buffer.split_at_mut(std::mem::size_of_val(part.as_slice()));
            here.copy_from_slice(bytes_of(part));
            buffer = rest;
        }
        Ok(())
    })?;
    numpy.call_method1("frombuffer", (buffer, T::DTYPE))
}

/// Up to `buffer_size` strings, or as many as have [`BUFFER_BYTES`]; none when there are no more.
pub(super) fn read_buffer<'py>(
    texts: &mut Bound<'py, PyIterator>,
    read: usize,
    buffer_size: usize,
) -> PyResult<Option<Vec<Bound<'py, PyString>>>> {
    let mut buffer = Vec::new();
    let mut bytes = 0;
    while buffer.len() < buffer_size && bytes < BUFFER_BYTES {
        let Some(text) = texts.next() else { break };
        let place = || format!("item {} of the iterator", read + buffer.len());
        let text = expect_str(text?, place)?;
        bytes += text.len()?;
        buffer.push(text);
    }
    Ok((!buffer.is_empty()).then_some(buffer))
}
