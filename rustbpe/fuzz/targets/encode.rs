//! Any text, by any of several tokenizers: the ids are those of the rule applied word for word to
//! the pieces that the regex finds; they decode to the text; and every way to encode agrees.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use rustbpe::{patterns_by_hand, BatchOptions, Policy, Splitter, Tokenizer, Trainer};

const TRAINING: &str = "the theatre, then they're THE'S 1234 12 a1b2 \n\n  \t  x = [[0]];\r\n \
    aaaaaaaaaaaaaaaa abababab    café naïve ſtraße 中文中文字 한국어 ٣٤٥ 👩🏽‍💻👩🏽‍💻 \u{3000}\u{a0}...!!";

struct Subject {
    tokenizer: Tokenizer,
    regex: Splitter,
}

fn subjects() -> &'static [Subject] {
    static ALL: OnceLock<Vec<Subject>> = OnceLock::new();
    ALL.get_or_init(|| {
        let special = ["<|bos|>".to_owned(), "<|b".to_owned(), "\n\n".to_owned()];
        let trained = patterns_by_hand().map(|pattern| {
            let mut trainer = Trainer::new(pattern, Some(1)).unwrap();
            trainer.feed(&[TRAINING], &|| false).unwrap();
            trainer.finish(420, &special, &|| false, &mut |_, _| {}).unwrap()
        });
        // Tokens that do not come about from their own bytes, in an order that makes no sense.
        let irregular = ["abcd", "the", "aaa", "he", "aa", "  ", "\n\n\n", "中文", "cd", "aaaaaaa"];
        let bytes: Vec<[u8; 1]> = (0..=255).rev().map(|byte| [byte]).collect();
        let tokens = bytes.iter().map(|byte| &byte[..]).chain(irregular.iter().map(|t| t.as_bytes()));
        let irregular = Tokenizer::from_ranks(
            tokens.zip((0..).step_by(3)),
            rustbpe::GPT2_PATTERN,
            [("<|bos|>".to_owned(), 1)],
        );
        trained
            .chain([irregular.unwrap()])
            .map(|tokenizer| {
                let regex = Splitter::with_regex(tokenizer.pattern()).unwrap();
                Subject { tokenizer, regex }
            })
            .collect()
    })
}

fn by_the_rule(tokenizer: &Tokenizer, piece: &[u8]) -> Vec<u32> {
    let rank = |bytes: &[u8]| tokenizer.ranks().find(|(token, _)| *token == bytes).map(|r| r.1);
    if let Some(id) = rank(piece) {
        return vec![id];
    }
    let mut ends: Vec<usize> = (0..=piece.len()).collect();
    loop {
        let pairs = ends.windows(3).enumerate();
        let Some((_, at)) = pairs.filter_map(|(at, e)| Some((rank(&piece[e[0]..e[2]])?, at))).min()
        else {
            break;
        };
        ends.remove(at + 1);
    }
    ends.windows(2).map(|e| rank(&piece[e[0]..e[1]]).unwrap()).collect()
}

fuzz_target!(|input: (u8, u8, String)| {
    let (which, repeat, text) = input;
    // Repetition makes long pieces, which take other ways through the code.
    let text = text.repeat(1 + usize::from(repeat) % 8);
    let Subject { tokenizer, regex } = &subjects()[usize::from(which) % subjects().len()];
    let ids: Vec<u32> = tokenizer.encode(&text, Policy::Text).unwrap();
    if text.len() < 200 {
        let pieces = regex.pieces(&text).unwrap();
        let wanted: Vec<u32> =
            pieces.iter().flat_map(|piece| by_the_rule(tokenizer, piece.as_bytes())).collect();
        assert_eq!(ids, wanted);
    }
    assert_eq!(tokenizer.decode(ids.iter().copied()).unwrap(), text);
    assert_eq!(tokenizer.count(&text, Policy::Text, &|| false).unwrap(), ids.len());
    let short: Vec<u16> = tokenizer.encode(&text, Policy::Text).unwrap();
    assert!(short.iter().map(|&id| u32::from(id)).eq(ids.iter().copied()));

    let parsed: Vec<u32> = tokenizer.encode(&text, Policy::Parse).unwrap();
    assert_eq!(tokenizer.decode(parsed.iter().copied()).unwrap(), text);
    let refused = tokenizer.encode::<u32>(&text, Policy::Refuse).is_err();
    assert_eq!(refused, parsed.iter().any(|&id| tokenizer.special_tokens().any(|s| s.1 == id)));

    let options = BatchOptions { threads: Some(1), ..Default::default() };
    let batch = tokenizer.encode_batch::<u32>(&[&text, "", &text], options, &|| false).unwrap();
    let texts: Vec<_> = batch.texts().collect();
    assert_eq!(texts, [ids.as_slice(), &[], ids.as_slice()]);
});
