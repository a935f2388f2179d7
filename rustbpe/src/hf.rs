//! Hugging Face's `tokenizer.json`, as far as it describes the same kind of tokenizer: byte-level
//! BPE behind one split pattern, with no normalizer.

use std::collections::{HashMap, HashSet};

use serde_json::{json, Map, Value};

use crate::error::{Error, Result};
use crate::split::{patterns_by_hand, GPT2_PATTERN};
use crate::tokenizer::Tokenizer;

impl Tokenizer {
    /// A `tokenizer.json` for this tokenizer. There special tokens in a text always become their
    /// ids, as with [`Policy::Parse`](crate::Policy::Parse).
    ///
    /// # Errors
    /// [`Error::Invalid`] if the ranks are such that a list of merges cannot say the same, or if a
    /// special token is written like an ordinary one, which there would be the same token.
    pub fn to_hf_json(&self) -> Result<String> {
        let pairs = self.merges().ok_or_else(|| {
            Error::invalid(
                "some token does not come about by merging its own bytes in the order of the ids, \
                 which tokenizer.json cannot express",
            )
        })?;
        let alphabet = Alphabet::new();
        let name = |token: &[u8]| alphabet.write(token);
        let vocab: Map<String, Value> =
            self.ranks().map(|(token, id)| (name(token), id.into())).collect();
        if let Some((special, _)) =
            self.special_tokens().find(|(name, _)| vocab.contains_key(*name))
        {
            return Err(Error::invalid(format!(
                "the special token {special:?} is written like an ordinary token, which \
                 tokenizer.json cannot tell from it",
            )));
        }
        let merges: Vec<[String; 2]> = pairs
            .iter()
            .map(|&(left, right)| {
                [left, right].map(|id| name(self.token_bytes(id).unwrap_or_default()))
            })
            .collect();
        let added: Vec<Value> = self
            .special_tokens()
            .map(|(content, id)| {
                json!({
                    "id": id, "content": content, "special": true, "normalized": false,
                    "single_word": false, "lstrip": false, "rstrip": false,
                })
            })
            .collect();
        // What a pattern does not match is dropped here. The known patterns match everything, and
        // for them the usual way of writing is "Isolated".
        let known = patterns_by_hand().any(|known| known == self.pattern());
        let behavior = if known { "Isolated" } else { "Removed" };
        let byte_level = |use_regex: bool| {
            json!({
                "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                "use_regex": use_regex,
            })
        };
        let all = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": null,
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {
                        "type": "Split", "pattern": { "Regex": self.pattern() },
                        "behavior": behavior, "invert": !known,
                    },
                    byte_level(false),
                ],
            },
            "post_processor": null,
            "decoder": byte_level(true),
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null,
                "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                "vocab": vocab, "merges": merges,
            },
        });
        Ok(all.to_string())
    }

    /// From a `tokenizer.json`. Post-processors are ignored: they add tokens around a text, which
    /// here the caller does. Text that the split pattern does not match is dropped here, as in
    /// tiktoken; patterns of models match all text.
    ///
    /// # Errors
    /// [`Error::Format`] if it is not JSON or lacks a part; [`Error::Invalid`] if it describes a
    /// tokenizer of another kind, and what it is that makes it so.
    pub fn from_hf_json(text: &str) -> Result<Self> {
        let all: Value = serde_json::from_str(text)
            .map_err(|reason| Error::format(format!("not JSON: {reason}")))?;
        refuse_unless_null(&all, "normalizer")?;
        let pattern = pattern(&all["pre_tokenizer"])?;
        let specials = added_tokens(&all["added_tokens"])?;
        let model = &all["model"];
        if model["type"] != "BPE" {
            return Err(other_kind(format!("its model is {}, not BPE", model["type"])));
        }
        for name in ["dropout", "continuing_subword_prefix", "end_of_word_suffix"] {
            if model[name] != "" && model[name] != 0.0 {
                refuse_unless_null(model, name)?;
            }
        }
        if model["byte_fallback"] == true {
            return Err(other_kind("its model has byte_fallback"));
        }

        let alphabet = Alphabet::new();
        let added: HashMap<&str, u32> =
            specials.iter().map(|(name, id)| (name.as_str(), *id)).collect();
        let mut ranks = Vec::new();
        let mut ids = HashMap::new();
        for (name, id) in model["vocab"].as_object().ok_or_else(|| missing("model.vocab"))? {
            let id = as_id(id, name)?;
            match added.get(name.as_str()) {
                Some(same) if *same == id => continue,
                Some(other) => {
                    return Err(other_kind(format!(
                        "its token {name:?} has two ids, {id}, {other}"
                    )))
                }
                None => {}
            }
            let token = alphabet.read(name).ok_or_else(|| {
                other_kind(format!("its token {name:?} is not written in the byte-level alphabet"))
            })?;
            ids.insert(token.clone(), id);
            ranks.push((token, id));
        }
        let merges = read_merges(&model["merges"], &alphabet, &ids)?;
        let ranks = ranks.iter().map(|(token, id)| (token.as_slice(), *id));
        let tokenizer = Self::from_ranks(ranks, &pattern, specials)?;

        // The order of the ids must mean what the order of the merges means. It does if each token
        // has its merge, and the tokens that the merges make come in the order of their ids.
        let made: Vec<u32> = merges.iter().map(|merge| merge.2).collect();
        let given: HashSet<(u32, u32)> = merges.iter().map(|merge| (merge.0, merge.1)).collect();
        let needed = tokenizer.merges().unwrap_or_default();
        let complete =
            tokenizer.merges().is_some() && needed.iter().all(|pair| given.contains(pair));
        if !complete || made.windows(2).any(|ids| ids[0] > ids[1]) {
            return Err(other_kind("its merges do not follow the order of its ids"));
        }
        Ok(tokenizer)
    }
}

/// Merges as left id, right id and the id of the two together.
fn read_merges(
    merges: &Value,
    alphabet: &Alphabet,
    ids: &HashMap<Vec<u8>, u32>,
) -> Result<Vec<(u32, u32, u32)>> {
    let merges = merges.as_array().ok_or_else(|| missing("model.merges"))?;
    let read = |merge: &Value| {
        let (left, right) = match merge {
            Value::String(pair) => pair.split_once(' ')?,
            pair => (pair[0].as_str()?, pair[1].as_str()?),
        };
        let (left, right) = (alphabet.read(left)?, alphabet.read(right)?);
        let joined = [left.as_slice(), right.as_slice()].concat();
        Some((*ids.get(&left)?, *ids.get(&right)?, *ids.get(&joined)?))
    };
    let wrong =
        |merge| Error::format(format!("tokenizer.json: the merge {merge} is not of tokens"));
    merges.iter().map(|merge| read(merge).ok_or_else(|| wrong(merge))).collect()
}

fn added_tokens(added: &Value) -> Result<Vec<(String, u32)>> {
    let mut specials = Vec::new();
    for token in added.as_array().into_iter().flatten() {
        let name = token["content"].as_str().ok_or_else(|| missing("added_tokens[].content"))?;
        for flag in ["single_word", "lstrip", "rstrip"] {
            if token[flag] == true {
                return Err(other_kind(format!("its added token {name:?} has {flag}")));
            }
        }
        specials.push((name.to_owned(), as_id(&token["id"], name)?));
    }
    Ok(specials)
}

/// The one split pattern that the pre-tokenizer comes to.
fn pattern(pre_tokenizer: &Value) -> Result<String> {
    let steps = match pre_tokenizer["type"].as_str() {
        Some("Sequence") => {
            pre_tokenizer["pretokenizers"].as_array().map_or(&[][..], Vec::as_slice)
        }
        _ => std::slice::from_ref(pre_tokenizer),
    };
    let (split, byte_level) = match steps {
        [split, byte_level] if split["type"] == "Split" => (Some(split), byte_level),
        [byte_level] => (None, byte_level),
        _ => return Err(other_kind("its pre_tokenizer is not one Split and ByteLevel")),
    };
    if byte_level["type"] != "ByteLevel" {
        return Err(other_kind("its pre_tokenizer does not end in ByteLevel"));
    }
    if byte_level["add_prefix_space"] != false {
        return Err(other_kind("its pre_tokenizer adds a space before the text"));
    }
    // Hugging Face splits by GPT-2's pattern unless told not to.
    let splits_itself = byte_level["use_regex"] != false;
    match split {
        None if splits_itself => Ok(GPT2_PATTERN.to_owned()),
        Some(split) if !splits_itself => {
            let keeps_pieces = match split["behavior"].as_str() {
                Some("Isolated") => split["invert"] != true,
                Some("Removed") => split["invert"] == true,
                _ => false,
            };
            match split["pattern"]["Regex"].as_str() {
                Some(regex) if keeps_pieces => Ok(regex.to_owned()),
                Some(_) => Err(other_kind("its Split does not keep the matches apart")),
                None => Err(other_kind("its Split has no Regex")),
            }
        }
        _ => Err(other_kind("its pre_tokenizer splits twice, or not at all")),
    }
}

fn as_id(id: &Value, name: &str) -> Result<u32> {
    let number = id.as_u64().and_then(|id| u32::try_from(id).ok());
    number.ok_or_else(|| {
        Error::format(format!("tokenizer.json: the id of the token {name:?} is {id}"))
    })
}

fn refuse_unless_null(parent: &Value, name: &str) -> Result<()> {
    match &parent[name] {
        Value::Null => Ok(()),
        other => Err(other_kind(format!("it has a {name}: {other}"))),
    }
}

fn other_kind(reason: impl std::fmt::Display) -> Error {
    Error::invalid(format!("this tokenizer.json is of a kind that is not supported: {reason}"))
}

fn missing(name: &str) -> Error {
    Error::format(format!("not a tokenizer.json: {name} is missing"))
}

/// GPT-2's way to write bytes as characters that can be seen.
struct Alphabet {
    chars: [char; 256],
    bytes: HashMap<char, u8>,
}

impl Alphabet {
    fn new() -> Self {
        let mut chars = ['\0'; 256];
        let mut next = 0x100;
        for byte in 0..=u8::MAX {
            // Visible Latin-1 characters stand for themselves, the others come after Latin-1.
            chars[byte as usize] = match byte {
                b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => byte as char,
                _ => {
                    next += 1;
                    char::from_u32(next - 1).unwrap_or_default()
                }
            };
        }
        let bytes = (0..=u8::MAX).map(|byte| (chars[byte as usize], byte)).collect();
        Self { chars, bytes }
    }

    fn write(&self, token: &[u8]) -> String {
        token.iter().map(|&byte| self.chars[byte as usize]).collect()
    }

    fn read(&self, name: &str) -> Option<Vec<u8>> {
        name.chars().map(|c| self.bytes.get(&c).copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Policy, Trainer, NANOCHAT_PATTERN};

    fn sample(pattern: &str) -> Tokenizer {
        let mut trainer = Trainer::new(pattern, Some(1)).unwrap();
        trainer.feed(&["the cat, the hat, the éclair in the theatre"], &|| false).unwrap();
        trainer.finish(280, &["<|bos|>".to_owned()], &|| false, &mut |_, _| {}).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        for pattern in [NANOCHAT_PATTERN, GPT2_PATTERN, r"\w+"] {
            let tokenizer = sample(pattern);
            let copy = Tokenizer::from_hf_json(&tokenizer.to_hf_json().unwrap()).unwrap();
            assert_eq!(copy.to_bytes(), tokenizer.to_bytes());
        }
    }

    #[test]
    fn other_kinds_are_refused_with_the_reason() {
        let written = sample(NANOCHAT_PATTERN).to_hf_json().unwrap();
        let message = |path: &str, value: Value| {
            let mut all: Value = serde_json::from_str(&written).unwrap();
            *all.pointer_mut(path).unwrap() = value;
            match Tokenizer::from_hf_json(&all.to_string()) {
                Err(error) => error.to_string(),
                Ok(_) => panic!("{path} accepted"),
            }
        };
        assert!(message("/normalizer", json!({"type": "NFC"})).contains("normalizer"));
        assert!(message("/model/type", json!("WordPiece")).contains("not BPE"));
        assert!(message("/model/vocab", Value::Null).contains("model.vocab is missing"));
        assert!(message("/model/vocab/a", json!(-1)).contains("the id of the token \"a\" is -1"));
        assert!(message("/model/merges/0", json!("a")).contains("is not of tokens"));
        assert!(message("/model/merges", json!([])).contains("order of its ids"));
        assert!(message("/added_tokens/0/lstrip", json!(true)).contains("has lstrip"));
        assert!(message("/pre_tokenizer", Value::Null).contains("ByteLevel"));
        let split = "/pre_tokenizer/pretokenizers/0/behavior";
        assert!(message(split, json!("MergedWithNext")).contains("does not keep"));
        assert!(Tokenizer::from_hf_json("[").is_err());
        assert!(Tokenizer::from_hf_json("7").is_err());
    }

    #[test]
    fn a_special_token_like_an_ordinary_one_is_not_written() {
        let tokenizer = sample(NANOCHAT_PATTERN).with_special_tokens([("the".to_owned(), 500)]);
        assert!(tokenizer.unwrap().to_hf_json().is_err());
    }

    #[test]
    fn ranks_that_no_merges_express_are_not_written() {
        let bytes: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
        let mut ranks: Vec<_> = bytes.iter().map(Vec::as_slice).zip(0..).collect();
        ranks.push((b"abcd", 256));
        let tokenizer = Tokenizer::from_ranks(ranks, GPT2_PATTERN, []).unwrap();
        assert_eq!(tokenizer.encode::<u16>("abcd", Policy::Text).unwrap(), [256]);
        assert!(tokenizer.to_hf_json().is_err());
    }
}
