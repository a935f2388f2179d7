//! Cuts text into the pieces within which byte pairs merge.
//!
//! The patterns of nanochat, GPT-4 and GPT-2 have splitters written by hand, which read the text
//! once and never go back further than one run of white space; the tests hold them against the
//! regex. Any other pattern goes through a backtracking regex engine, and text that no match
//! covers is dropped, as in tiktoken.

use fancy_regex::Regex;

use crate::classes::{decode, CharClass, Classes};
use crate::error::{Error, Result};

/// nanochat's pattern: GPT-4's, with numbers cut into at most two digits.
pub const NANOCHAT_PATTERN: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";

/// GPT-4's pattern, and the one used when none is given.
pub const GPT4_PATTERN: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";

/// GPT-2's pattern.
pub const GPT2_PATTERN: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Every spelling that has a splitter by hand. tiktoken and model files write the same patterns
/// differently; tiktoken's cl100k_base also takes white space at the end of the text in one piece.
#[rustfmt::skip]
const BY_HAND: &[(&str, Rules)] = &[
    (NANOCHAT_PATTERN, Rules::gpt4(2)),
    (GPT4_PATTERN, Rules::gpt4(3)),
    (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+", Rules::gpt4(3)),
    (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s", Rules::Gpt4 { digits: 3, end_in_one: true }),
    (GPT2_PATTERN, Rules::Gpt2),
    (r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s", Rules::Gpt2),
];

/// The patterns that have a splitter by hand, in all spellings.
pub fn patterns_by_hand() -> impl Iterator<Item = &'static str> {
    BY_HAND.iter().map(|(pattern, _)| *pattern)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rules {
    Gpt4 {
        /// The most digits in a piece.
        digits: u8,
        /// Whether white space at the end of the text is one piece, line ends and all.
        end_in_one: bool,
    },
    Gpt2,
}

impl Rules {
    const fn gpt4(digits: u8) -> Self {
        Self::Gpt4 { digits, end_in_one: false }
    }
}

/// Cuts text by one pattern.
pub struct Splitter {
    pattern: String,
    engine: Engine,
}

enum Engine {
    ByHand(Rules),
    Regex(Box<Regex>),
}

impl Splitter {
    /// The splitter of `pattern`: one written by hand if there is one, or else a regex engine's.
    ///
    /// # Errors
    /// [`Error::Pattern`] if the pattern does not compile.
    pub fn new(pattern: &str) -> Result<Self> {
        match BY_HAND.iter().find(|(known, _)| *known == pattern) {
            Some((_, rules)) => {
                Ok(Self { pattern: pattern.to_owned(), engine: Engine::ByHand(*rules) })
            }
            None => Self::with_regex(pattern),
        }
    }

    /// The splitter that asks the regex engine even where one by hand exists: the reference.
    ///
    /// # Errors
    /// [`Error::Pattern`] if the pattern does not compile.
    pub fn with_regex(pattern: &str) -> Result<Self> {
        let regex = Regex::new(pattern).map_err(|reason| Error::Pattern(reason.to_string()))?;
        Ok(Self { pattern: pattern.to_owned(), engine: Engine::Regex(Box::new(regex)) })
    }

    /// The pattern, as it was given.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// Whether the splitter is one written by hand, whose time is linear in the text.
    pub(crate) fn is_by_hand(&self) -> bool {
        matches!(self.engine, Engine::ByHand(_))
    }

    /// The pieces of `text`, in order.
    ///
    /// # Errors
    /// [`Error::PatternGaveUp`] from a regex engine; never from a splitter by hand.
    pub fn pieces<'t>(&self, text: &'t str) -> Result<Vec<&'t str>> {
        let mut pieces = Vec::new();
        self.for_each(text, |start, end| {
            pieces.push(&text[start..end]);
            Ok(())
        })?;
        Ok(pieces)
    }

    /// Calls `visit(start, end)` for each piece, until it fails.
    #[inline]
    pub(crate) fn for_each(
        &self,
        text: &str,
        mut visit: impl FnMut(usize, usize) -> Result<()>,
    ) -> Result<()> {
        let reader = Reader { text: text.as_bytes(), classes: Classes::get() };
        let mut at = 0;
        match &self.engine {
            &Engine::ByHand(Rules::Gpt4 { digits, end_in_one }) => {
                while at < text.len() {
                    let end = reader.gpt4_end(at, digits, end_in_one);
                    visit(at, end)?;
                    at = end;
                }
            }
            Engine::ByHand(Rules::Gpt2) => {
                while at < text.len() {
                    let end = reader.gpt2_end(at);
                    visit(at, end)?;
                    at = end;
                }
            }
            Engine::Regex(regex) => {
                for found in regex.find_iter(text) {
                    let found = found.map_err(|reason| Error::PatternGaveUp {
                        offset: at,
                        reason: reason.to_string(),
                    })?;
                    at = found.end();
                    if found.start() < at {
                        visit(found.start(), at)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Where `text` may be cut near `target` bytes so that both parts split as they would together;
    /// its length if there is no such place.
    ///
    /// The patterns known here never match across the border from a character that is not white
    /// space to a space, and look ahead only at the end of a run of white space. Of other patterns
    /// nothing is known.
    pub(crate) fn safe_cut(&self, text: &str, target: usize) -> usize {
        if let Engine::Regex(_) = self.engine {
            return text.len();
        }
        let bytes = text.as_bytes();
        let mut at = target.max(1);
        while at < bytes.len() {
            // The byte before must be ASCII, as a byte above could end a wide space.
            if bytes[at] == b' ' && bytes[at - 1].is_ascii_graphic() {
                return at;
            }
            at += 1;
        }
        bytes.len()
    }
}

/// Reads UTF-8 text by classes of characters.
struct Reader<'t> {
    text: &'t [u8],
    classes: &'static Classes,
}

impl Reader<'_> {
    /// The end of the piece at `at`, by the pattern of GPT-4, whose alternatives are, in order: a
    /// contraction; letters, with at most one character before them that is neither letter, number
    /// nor line end; a few digits; other characters, with at most one space before and line ends
    /// after; white space up to its last line end; white space but for the character that the next
    /// piece takes; white space.
    #[inline(always)]
    fn gpt4_end(&self, at: usize, digits: u8, end_in_one: bool) -> usize {
        let (class, next) = self.class_at(at);
        match class {
            CharClass::Letter => self.letters_end(next),
            CharClass::Space => match self.class_or_end(next) {
                Some(CharClass::Letter) => self.letters_end(next),
                Some(CharClass::Other) if self.text[at] == b' ' => self.others_and_lines_end(next),
                Some(CharClass::Other | CharClass::Number) | None => next,
                Some(_) => self.space_end(at, true, end_in_one),
            },
            CharClass::Other => {
                if self.text[at] == b'\'' {
                    if let Some(end) = self.contraction_end(next, true) {
                        return end;
                    }
                }
                match self.class_or_end(next) {
                    Some(CharClass::Letter) => self.letters_end(next),
                    _ => self.others_and_lines_end(next),
                }
            }
            CharClass::Number => self.numbers_end(next, digits - 1),
            CharClass::Newline => self.space_end(at, true, end_in_one),
        }
    }

    /// The end of the piece at `at`, by the pattern of GPT-2, whose alternatives are, in order: a
    /// contraction in lower case; letters, numbers or other characters, each with at most one space
    /// before; white space but for the character that the next piece takes; white space.
    #[inline(always)]
    fn gpt2_end(&self, at: usize) -> usize {
        let (mut class, mut next) = self.class_at(at);
        if self.text[at] == b'\'' {
            if let Some(end) = self.contraction_end(next, false) {
                return end;
            }
        }
        if class.is_space() {
            match self.class_or_end(next) {
                Some(following) if self.text[at] == b' ' && !following.is_space() => {
                    (class, next) = self.class_at(next);
                }
                _ => return self.space_end(at, false, false),
            }
        }
        match class {
            CharClass::Letter => self.letters_end(next),
            CharClass::Number => self.run_end(next, CharClass::Number),
            _ => self.run_end(next, CharClass::Other),
        }
    }

    /// The class of the character at `at`, and where the next one starts.
    #[inline(always)]
    fn class_at(&self, at: usize) -> (CharClass, usize) {
        let byte = self.text[at];
        if byte < 0x80 {
            (self.classes.ascii[byte as usize], at + 1)
        } else {
            let (c, len) = decode(self.text, at);
            (self.classes.of(c), at + len)
        }
    }

    #[inline(always)]
    fn class_or_end(&self, at: usize) -> Option<CharClass> {
        (at < self.text.len()).then(|| self.class_at(at).0)
    }

    /// The end of the run of letters at `at`, eight bytes at a time while they are ASCII.
    #[inline(always)]
    fn letters_end(&self, mut at: usize) -> usize {
        while let Some(word) = self.text.get(at..at + 8) {
            let word = u64::from_le_bytes(word.try_into().expect("eight bytes"));
            let others = not_ascii_letters(word);
            if others != 0 {
                at += others.trailing_zeros() as usize / 8;
                break;
            }
            at += 8;
        }
        self.run_end(at, CharClass::Letter)
    }

    /// The end of the run of `class` at `at`, one character at a time.
    #[inline(always)]
    fn run_end(&self, mut at: usize, class: CharClass) -> usize {
        while at < self.text.len() {
            let (found, next) = self.class_at(at);
            if found != class {
                break;
            }
            at = next;
        }
        at
    }

    /// The end of at most `most` numbers at `at`.
    #[inline(always)]
    fn numbers_end(&self, mut at: usize, most: u8) -> usize {
        for _ in 0..most {
            match self.class_or_end(at) {
                Some(CharClass::Number) => at = self.class_at(at).1,
                _ => break,
            }
        }
        at
    }

    #[inline(always)]
    fn others_and_lines_end(&self, at: usize) -> usize {
        let mut at = self.run_end(at, CharClass::Other);
        while matches!(self.text.get(at), Some(b'\r' | b'\n')) {
            at += 1;
        }
        at
    }

    /// The end of the white space at `at`: after its last line end if those count (`lines`), or
    /// else before its last character if something follows and another is left.
    #[inline(never)]
    fn space_end(&self, at: usize, lines: bool, end_in_one: bool) -> usize {
        let (mut end, mut last, mut line_end) = (at, at, None);
        while end < self.text.len() {
            let (class, next) = self.class_at(end);
            if !class.is_space() {
                break;
            }
            last = end;
            end = next;
            if class == CharClass::Newline {
                line_end = Some(end);
            }
        }
        let at_text_end = end == self.text.len();
        match line_end {
            _ if at_text_end && end_in_one => end,
            Some(line_end) if lines => line_end,
            _ if at_text_end || last == at => end,
            _ => last,
        }
    }

    /// The end of what follows an apostrophe, if together they are one of `'s 'd 'm 't 'll 've 're`.
    #[inline]
    fn contraction_end(&self, at: usize, any_case: bool) -> Option<usize> {
        let rest = &self.text[at..];
        let lower = |byte: u8| if any_case { byte.to_ascii_lowercase() } else { byte };
        match lower(*rest.first()?) {
            b's' | b'd' | b'm' | b't' => return Some(at + 1),
            // U+017F, the long s, is the one character beyond ASCII that is equal to one of these
            // letters when case is ignored.
            0xc5 if any_case && rest.get(1) == Some(&0xbf) => return Some(at + 2),
            _ => {}
        }
        match (lower(rest[0]), lower(*rest.get(1)?)) {
            (b'l', b'l') | (b'v', b'e') | (b'r', b'e') => Some(at + 2),
            _ => None,
        }
    }
}

/// The high bit of each of eight bytes that is not an ASCII letter.
#[inline(always)]
fn not_ascii_letters(word: u64) -> u64 {
    const fn each(byte: u8) -> u64 {
        u64::from_le_bytes([byte; 8])
    }
    let lower = word | each(0x20);
    let low_bits = lower & each(0x7f);
    let from_a = low_bits + each(0x80 - b'a');
    let beyond_z = low_bits + each(0x7f - b'z');
    !(from_a & !beyond_z & !lower) & each(0x80)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_letters_at_a_time() {
        for byte in 0..=u8::MAX {
            for place in 0..8 {
                let mut bytes = *b"azAZmMxX";
                bytes[place] = byte;
                let found = not_ascii_letters(u64::from_le_bytes(bytes));
                let wanted = if byte.is_ascii_alphabetic() { 0 } else { 0x80 << (8 * place) };
                assert_eq!(found, wanted, "byte {byte:#x} at {place}");
            }
        }
    }

    #[test]
    fn a_safe_cut_changes_nothing() {
        let text = "a b  c\n d'll 12 345\u{3000} x\r\n  y\u{a0} z ! \n\n ok";
        for pattern in patterns_by_hand() {
            let splitter = Splitter::new(pattern).unwrap();
            let whole = splitter.pieces(text).unwrap();
            for target in 0..text.len() {
                let cut = splitter.safe_cut(text, target);
                let mut parts = splitter.pieces(&text[..cut]).unwrap();
                parts.extend(splitter.pieces(&text[cut..]).unwrap());
                assert_eq!(parts, whole, "cut at {cut}");
            }
        }
    }

    #[test]
    fn text_that_no_match_covers_is_dropped() {
        let splitter = Splitter::new(r"\w+").unwrap();
        assert_eq!(splitter.pieces("a, b").unwrap(), ["a", "b"]);
        assert!(Splitter::new("").unwrap().pieces("abc").unwrap().is_empty());
    }

    #[test]
    fn bad_patterns_are_errors() {
        assert!(matches!(Splitter::new("("), Err(Error::Pattern(_))));
        let splitter = Splitter::new(r"(?:(?=a)a+)+(?=b)\1?b|(a|a)*(?!a)c")
            .unwrap_or_else(|_| Splitter::new(r"(?=(a+))(?:a|a)+(?!a)c").expect("a valid pattern"));
        let text = "a".repeat(200);
        assert!(matches!(splitter.pieces(&text), Err(Error::PatternGaveUp { .. })));
    }
}
