//! Special tokens: strings with an id of their own that no text merges into.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::vocab::{Vocab, MAX_TOKENS};

/// What to do about special tokens that occur in a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// They are ordinary text. A text from outside can then never forge one.
    #[default]
    Text,
    /// They are an error.
    Refuse,
    /// They become their id. Of several that start at one place the longest counts.
    Parse,
}

impl std::str::FromStr for Policy {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "text" => Ok(Self::Text),
            "raise" => Ok(Self::Refuse),
            "parse" => Ok(Self::Parse),
            _ => Err(Error::invalid(format!(
                "special must be \"text\", \"raise\" or \"parse\", not {name:?}"
            ))),
        }
    }
}

/// Special tokens by name and by id.
#[derive(Clone, Debug, Default)]
pub(crate) struct Specials {
    by_name: BTreeMap<String, u32>,
    by_id: BTreeMap<u32, String>,
}

impl Specials {
    /// # Errors
    /// [`Error::Invalid`] if a name is empty or comes twice, or if an id is too large or taken.
    pub(crate) fn new(
        vocab: &Vocab,
        specials: impl IntoIterator<Item = (String, u32)>,
    ) -> Result<Self> {
        let mut all = Self::default();
        for (name, id) in specials {
            if name.is_empty() {
                return Err(Error::invalid(format!("the special token with id {id} is empty")));
            }
            if id as usize >= MAX_TOKENS {
                return Err(Error::invalid(format!(
                    "id {id} of special token {name:?} is too large; ids must be below {MAX_TOKENS}"
                )));
            }
            if vocab.get(id).is_some() || all.by_id.contains_key(&id) {
                return Err(Error::invalid(format!(
                    "the id {id} of special token {name:?} is taken by another token"
                )));
            }
            if all.by_name.insert(name.clone(), id).is_some() {
                return Err(Error::invalid(format!("the special token {name:?} comes twice")));
            }
            all.by_id.insert(id, name);
        }
        Ok(all)
    }

    pub(crate) fn id_of(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    pub(crate) fn name_of(&self, id: u32) -> Option<&str> {
        self.by_id.get(&id).map(String::as_str)
    }

    /// Names with ids, by id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, u32)> {
        self.by_id.iter().map(|(id, name)| (name.as_str(), *id))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// One more than the largest id; 0 if there are none.
    pub(crate) fn id_bound(&self) -> usize {
        self.by_id.keys().next_back().map_or(0, |id| *id as usize + 1)
    }
}

/// Finds special tokens in texts: the leftmost first, and of several there the longest.
pub(crate) struct Finder {
    /// All of them, longest first, as one regular expression.
    regex: Option<fancy_regex::Regex>,
}

impl Finder {
    pub(crate) fn new(specials: &Specials) -> Result<Self> {
        if specials.is_empty() {
            return Ok(Self { regex: None });
        }
        let mut names: Vec<&str> = specials.iter().map(|(name, _)| name).collect();
        names.sort_by_key(|name| std::cmp::Reverse(name.len()));
        let names: Vec<_> = names.into_iter().map(regex_syntax::escape).collect();
        let regex = fancy_regex::Regex::new(&names.join("|"))
            .map_err(|reason| Error::invalid(format!("special tokens: {reason}")))?;
        Ok(Self { regex: Some(regex) })
    }

    /// The first special token in `text`: its start and end.
    pub(crate) fn find(&self, text: &str) -> Option<(usize, usize)> {
        let found = self.regex.as_ref()?.find(text).ok()??;
        Some((found.start(), found.end()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specials(all: &[(&str, u32)]) -> Result<Specials> {
        Specials::new(&Vocab::of_bytes(), all.iter().map(|(name, id)| ((*name).to_owned(), *id)))
    }

    #[test]
    fn the_longest_of_the_leftmost_is_found() {
        let specials = specials(&[("<a", 300), ("<a>", 301), (".*", 302), ("a>", 303)]).unwrap();
        let finder = Finder::new(&specials).unwrap();
        assert_eq!(finder.find("x<a>"), Some((1, 4)));
        assert_eq!(finder.find("x<a|>"), Some((1, 3)));
        assert_eq!(finder.find("axyz"), None);
        assert_eq!(specials.id_bound(), 304);
    }

    #[test]
    fn bad_ones_are_refused() {
        assert!(specials(&[("", 300)]).is_err());
        assert!(specials(&[("a", 255)]).is_err());
        assert!(specials(&[("a", 300), ("b", 300)]).is_err());
        assert!(specials(&[("a", 300), ("a", 301)]).is_err());
        assert!(specials(&[("a", MAX_TOKENS as u32)]).is_err());
        assert!("drop".parse::<Policy>().is_err());
    }
}
