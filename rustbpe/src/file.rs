//! The tokenizer's own file: text that a person can read, with a checksum at the end.
//!
//! ```text
//! rustbpe tokenizer 1
//! pattern "…"                 as a JSON string
//! tokens 32759
//! 00 0                        bytes in hexadecimal, id
//! …
//! special_tokens 9
//! "<|bos|>" 32759             name as a JSON string, id
//! …
//! crc32 1a2b3c4d              of everything above this line
//! ```

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

const MAGIC: &str = "rustbpe tokenizer ";
const VERSION: &str = "1";

impl Tokenizer {
    /// The contents of a tokenizer file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = format!("{MAGIC}{VERSION}\npattern {}\n", json(self.pattern()));
        text += &format!("tokens {}\n", self.rank_count());
        for (token, id) in self.ranks() {
            for byte in token {
                let _ = write!(text, "{byte:02x}");
            }
            let _ = writeln!(text, " {id}");
        }
        text += &format!("special_tokens {}\n", self.special_tokens().count());
        for (name, id) in self.special_tokens() {
            let _ = writeln!(text, "{} {id}", json(name));
        }
        let checksum = crc32(text.as_bytes());
        let _ = writeln!(text, "crc32 {checksum:08x}");
        text.into_bytes()
    }

    /// From the contents of a tokenizer file.
    ///
    /// # Errors
    /// [`Error::Format`] if they are not those of a tokenizer file, are damaged, or are of a newer
    /// kind.
    pub fn from_bytes(contents: &[u8]) -> Result<Self> {
        if !contents.starts_with(MAGIC.as_bytes()) {
            return Err(Error::format("not a rustbpe tokenizer file: its first line is another"));
        }
        let damaged = |what: &str| Error::format(format!("damaged tokenizer file: {what}"));
        let text = std::str::from_utf8(contents).map_err(|_| damaged("it is not UTF-8"))?;
        let version = text[MAGIC.len()..].lines().next().unwrap_or_default();
        if version != VERSION {
            return Err(Error::format(format!(
                "tokenizer file of version {version:?}; this library reads version {VERSION}"
            )));
        }
        let (body, checksum) = text
            .strip_suffix('\n')
            .and_then(|text| text.rsplit_once('\n'))
            .and_then(|(_, last)| {
                let checksum = u32::from_str_radix(last.strip_prefix("crc32 ")?, 16).ok()?;
                Some((&text[..text.len() - last.len() - 1], checksum))
            })
            .ok_or_else(|| damaged("its end is missing"))?;
        if crc32(body.as_bytes()) != checksum {
            return Err(damaged("its checksum does not match"));
        }
        // From here on the contents are what someone wrote; they may still be wrong.
        let mut lines = body.lines().skip(1).enumerate();
        let mut next = |what: &str| {
            let (number, line) = lines.next().ok_or_else(|| damaged("a line is missing"))?;
            let wrong = damaged(&format!("line {} is not {what}", number + 2));
            Ok::<_, Error>((line, wrong))
        };
        let (line, wrong) = next("a pattern")?;
        let pattern = line.strip_prefix("pattern ").and_then(unjson).ok_or(wrong)?;
        let (line, wrong) = next("a number of tokens")?;
        let count = number_after(line, "tokens ").ok_or(wrong)?;
        let mut ranks = Vec::new();
        for _ in 0..count {
            let (line, wrong) = next("a token and its id")?;
            ranks.push(parse_entry(line, unhex).ok_or(wrong)?);
        }
        let (line, wrong) = next("a number of special tokens")?;
        let count = number_after(line, "special_tokens ").ok_or(wrong)?;
        let mut specials = Vec::new();
        for _ in 0..count {
            let (line, wrong) = next("a special token and its id")?;
            specials.push(parse_entry(line, unjson).ok_or(wrong)?);
        }
        if lines.next().is_some() {
            return Err(damaged("there are lines too many"));
        }
        let ranks = ranks.iter().map(|(token, id)| (token.as_slice(), *id));
        Self::from_ranks(ranks, &pattern, specials)
            .map_err(|error| Error::format(format!("unusable tokenizer file: {error}")))
    }

    /// Writes a tokenizer file. It appears under its name only when it is complete.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.tmp", std::process::id()));
        let unfinished = path.with_file_name(name);
        let written = write_to_disk(&unfinished, &self.to_bytes())
            .and_then(|()| fs::rename(&unfinished, path));
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        Ok(written?)
    }

    /// Reads a tokenizer file.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, otherwise as [`Self::from_bytes`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        Self::from_bytes(&fs::read(path)?)
    }
}

/// Returns once the contents are on the disk, so that a rename never names half a file.
fn write_to_disk(path: &Path, contents: &[u8]) -> std::io::Result<()> {
    let mut file = fs::File::create(path)?;
    file.write_all(contents)?;
    file.sync_all()
}

fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn unjson(text: &str) -> Option<String> {
    serde_json::from_str(text).ok()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| (*byte as char).to_digit(16);
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some((digit(pair.first()?)? << 4 | digit(pair.get(1)?)?) as u8)).collect()
}

fn number_after(line: &str, name: &str) -> Option<usize> {
    line.strip_prefix(name)?.parse().ok()
}

fn parse_entry<T>(line: &str, parse: impl Fn(&str) -> Option<T>) -> Option<(T, u32)> {
    let (left, id) = line.rsplit_once(' ')?;
    Some((parse(left)?, id.parse().ok()?))
}

/// The checksum of gzip and PNG.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let mut value = byte as u32;
            let mut bit = 0;
            while bit < 8 {
                value = value >> 1 ^ if value & 1 == 1 { 0xedb8_8320 } else { 0 };
                bit += 1;
            }
            table[byte] = value;
            byte += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc, &byte| crc >> 8 ^ TABLE[(crc as u8 ^ byte) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Policy, NANOCHAT_PATTERN};

    fn sample() -> Tokenizer {
        let mut ranks: Vec<(Vec<u8>, u32)> =
            (0..=255u8).rev().map(|byte| (vec![byte], 255 - u32::from(byte))).collect();
        ranks.push((b"ab".to_vec(), 300));
        ranks.push((b"abc".to_vec(), 301));
        let specials = [("<|a \"b\"\n|>".to_owned(), 256), ("é".to_owned(), 400)];
        let ranks = ranks.iter().map(|(token, id)| (token.as_slice(), *id));
        Tokenizer::from_ranks(ranks, NANOCHAT_PATTERN, specials).unwrap()
    }

    #[test]
    fn crc32_of_the_usual_example() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn what_is_written_is_read() {
        let contents = sample().to_bytes();
        let copy = Tokenizer::from_bytes(&contents).unwrap();
        assert_eq!(copy.to_bytes(), contents);
        assert_eq!(copy.pattern(), NANOCHAT_PATTERN);
        let text = "abcé <|a \"b\"\n|>";
        for policy in [Policy::Text, Policy::Parse] {
            let ids = copy.encode::<u32>(text, policy).unwrap();
            assert_eq!(ids, sample().encode::<u32>(text, policy).unwrap());
        }
    }

    #[test]
    fn any_damage_is_noticed() {
        let contents = sample().to_bytes();
        for at in (0..contents.len()).step_by(7).chain(contents.len() - 20..contents.len()) {
            for change in [1, 0x20, 0x80] {
                let mut damaged = contents.clone();
                damaged[at] ^= change;
                // The checksum may be written in capitals: that is no damage.
                if !damaged.eq_ignore_ascii_case(&contents) || at < contents.len() - 10 {
                    assert!(Tokenizer::from_bytes(&damaged).is_err(), "byte {at}");
                }
            }
            assert!(Tokenizer::from_bytes(&contents[..at]).is_err(), "cut at {at}");
        }
        let mut longer = contents.clone();
        longer.push(b'\n');
        assert!(Tokenizer::from_bytes(&longer).is_err());
    }

    #[test]
    fn errors_say_what_the_file_is() {
        let message = |contents: &[u8]| match Tokenizer::from_bytes(contents) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("accepted"),
        };
        assert!(message(b"{}").contains("not a rustbpe tokenizer file"));
        assert!(message(b"rustbpe tokenizer 7\n").contains("version \"7\""));
        assert!(message(b"rustbpe tokenizer 1\n").contains("its end is missing"));
        let mut text = "rustbpe tokenizer 1\npattern \"x\"\ntokens 1\nzz 0\n".to_owned();
        text += &format!("crc32 {:08x}\n", crc32(text.as_bytes()));
        assert!(message(text.as_bytes()).contains("line 4 is not a token"));
    }
}
