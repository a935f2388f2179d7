//! The character classes that the split patterns speak of: `\p{L}`, `\p{N}`, `\s` and the rest.
//!
//! The table is filled from the regex engine's own Unicode data when it is first needed, so the
//! hand-written splitters cannot disagree with the engine about a character, whatever version of
//! Unicode it follows.

use std::sync::OnceLock;

use regex_syntax::hir::{Class, HirKind};

/// A character's class. The patterns tell carriage return and line feed from other white space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum CharClass {
    Other,
    Letter,
    Number,
    Space,
    Newline,
}

impl CharClass {
    pub(crate) fn is_space(self) -> bool {
        matches!(self, Self::Space | Self::Newline)
    }
}

const BLOCK_BITS: u32 = 8;
const BLOCK: usize = 1 << BLOCK_BITS;

/// Character to class in two steps, as most blocks of 256 characters are alike.
pub(crate) struct Classes {
    /// The ASCII part again, flat.
    pub(crate) ascii: [CharClass; 128],
    block_of: Vec<u16>,
    blocks: Vec<[CharClass; BLOCK]>,
}

impl Classes {
    /// The one table of this process.
    pub(crate) fn get() -> &'static Self {
        static TABLE: OnceLock<Classes> = OnceLock::new();
        TABLE.get_or_init(Self::build)
    }

    #[inline]
    pub(crate) fn of(&self, c: u32) -> CharClass {
        let block = self.block_of[(c >> BLOCK_BITS) as usize];
        self.blocks[block as usize][c as usize % BLOCK]
    }

    fn build() -> Self {
        let mut flat = vec![CharClass::Other; char::MAX as usize + 1];
        for (pattern, class) in [
            (r"\p{L}", CharClass::Letter),
            (r"\p{N}", CharClass::Number),
            (r"\s", CharClass::Space),
            (r"[\r\n]", CharClass::Newline),
        ] {
            for (first, last) in ranges(pattern) {
                flat[first as usize..=last as usize].fill(class);
            }
        }
        let mut blocks: Vec<[CharClass; BLOCK]> = Vec::new();
        let mut block_of = Vec::with_capacity(flat.len() / BLOCK);
        for chunk in flat.chunks_exact(BLOCK) {
            let known = blocks.iter().rposition(|block| block == chunk);
            let index = known.unwrap_or_else(|| {
                let mut block = [CharClass::Other; BLOCK];
                block.copy_from_slice(chunk);
                blocks.push(block);
                blocks.len() - 1
            });
            block_of.push(index as u16);
        }
        let mut ascii = [CharClass::Other; 128];
        ascii.copy_from_slice(&flat[..128]);
        Self { ascii, block_of, blocks }
    }
}

/// The characters that a one-character pattern matches, as inclusive ranges.
fn ranges(pattern: &str) -> Vec<(char, char)> {
    let hir = regex_syntax::parse(pattern).expect("the patterns above are valid");
    let HirKind::Class(Class::Unicode(class)) = hir.kind() else {
        unreachable!("{pattern} is a class of characters")
    };
    class.iter().map(|range| (range.start(), range.end())).collect()
}

/// The character that starts at byte `at`, and how many bytes it has. `text` must be UTF-8.
#[inline]
pub(crate) fn decode(text: &[u8], at: usize) -> (u32, usize) {
    let byte = |offset: usize| u32::from(text[at + offset]);
    let tail = |offset: usize| byte(offset) & 0x3f;
    match byte(0) {
        lead @ 0..=0x7f => (lead, 1),
        lead @ 0x80..=0xdf => ((lead & 0x1f) << 6 | tail(1), 2),
        lead @ 0xe0..=0xef => ((lead & 0x0f) << 12 | tail(1) << 6 | tail(2), 3),
        lead => ((lead & 0x07) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3), 4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_has_the_class_that_the_regex_engine_gives_it() {
        let classes = Classes::get();
        for (pattern, wanted) in [
            (r"^\p{L}$", &[CharClass::Letter][..]),
            (r"^\p{N}$", &[CharClass::Number]),
            (r"^\s$", &[CharClass::Space, CharClass::Newline]),
            (r"^[^\s\p{L}\p{N}]$", &[CharClass::Other]),
        ] {
            let regex = fancy_regex::Regex::new(pattern).unwrap();
            for c in '\0'..=char::MAX {
                let class = classes.of(c as u32);
                let matched = regex.is_match(c.encode_utf8(&mut [0; 4])).unwrap();
                assert_eq!(matched, wanted.contains(&class), "{c:?} against {pattern}");
            }
        }
    }

    #[test]
    fn decode_reads_what_char_writes() {
        for c in '\0'..=char::MAX {
            let mut buffer = [0; 4];
            let bytes = c.encode_utf8(&mut buffer).as_bytes();
            assert_eq!(decode(bytes, 0), (c as u32, bytes.len()));
        }
    }
}
