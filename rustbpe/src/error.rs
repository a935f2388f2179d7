//! What can go wrong, in one type. Each message says what is wrong and where.

use std::fmt;

/// The result of everything here that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of the tokenizer.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// An argument is outside what the function accepts.
    Invalid(String),
    /// The split pattern does not compile.
    Pattern(String),
    /// The split pattern gave up on a text, as backtracking engines do on pathological patterns.
    PatternGaveUp {
        /// Where in the text, in bytes, the match began.
        offset: usize,
        /// The engine's own words.
        reason: String,
    },
    /// The text contains a special token, and the policy is to refuse that.
    SpecialInText {
        /// The special token.
        token: String,
        /// Where it starts in the text, in bytes.
        offset: usize,
    },
    /// No token has this id.
    UnknownId {
        /// The id.
        id: u64,
        /// Its place in the list of ids.
        index: usize,
    },
    /// The bytes are not UTF-8.
    NotUtf8(std::str::Utf8Error),
    /// A file is damaged, or is not what it should be.
    Format(String),
    /// The operating system refused a file.
    Io(std::io::Error),
    /// The caller's interrupt function asked to stop.
    Interrupted,
}

impl Error {
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(message.into())
    }

    pub(crate) fn format(message: impl Into<String>) -> Self {
        Self::Format(message.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(message) | Self::Format(message) => f.write_str(message),
            Self::Pattern(reason) => write!(f, "invalid split pattern: {reason}"),
            Self::PatternGaveUp { offset, reason } => {
                write!(f, "the split pattern failed at byte {offset} of the text: {reason}")
            }
            Self::SpecialInText { token, offset } => write!(
                f,
                "the text contains the special token {token:?} at byte {offset}; \
                 encode it as ordinary text (\"text\") or as the token (\"parse\")"
            ),
            Self::UnknownId { id, index } => {
                write!(f, "unknown token id {id} at index {index}")
            }
            Self::NotUtf8(reason) => write!(f, "not valid UTF-8: {reason}"),
            Self::Io(reason) => reason.fmt(f),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotUtf8(reason) => Some(reason),
            Self::Io(reason) => Some(reason),
            _ => None,
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(reason: std::io::Error) -> Self {
        Self::Io(reason)
    }
}

impl From<std::str::Utf8Error> for Error {
    fn from(reason: std::str::Utf8Error) -> Self {
        Self::NotUtf8(reason)
    }
}
