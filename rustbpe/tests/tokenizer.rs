//! Training and encoding through the public interface, against the rules word for word.

use std::cell::Cell;
use std::collections::HashMap;
use std::time::Instant;

use proptest::prelude::*;
use rustbpe::{
    BatchOptions, Error, Policy, Tokenizer, Trainer, GPT2_PATTERN, GPT4_PATTERN, NANOCHAT_PATTERN,
};

const TEXT: &str = "the theatre, then they're THE'S 1234 12 a1b2 \n\n  \t  x = [[0]];\r\n \
    aaaaaaaaaaaaaaaa abababab    café naïve ſtraße 中文中文字 한국어 ٣٤٥ 👩🏽‍💻👩🏽‍💻 \u{3000}\u{a0}...!!";

fn train(pattern: &str, texts: &[&str], vocab_size: usize, threads: usize) -> Tokenizer {
    let mut trainer = Trainer::new(pattern, Some(threads)).unwrap();
    for text in texts {
        trainer.feed(&[text], &|| false).unwrap();
    }
    trainer.finish(vocab_size, &["<|bos|>".to_owned()], &|| false, &mut |_, _| {}).unwrap()
}

/// The merges, found by counting all pairs anew each time.
fn slow_merges(words: &[Vec<u32>], most: usize) -> Vec<(u32, u32)> {
    let mut words = words.to_vec();
    let mut merges = Vec::new();
    for new in (256..).take(most) {
        let mut counts = HashMap::new();
        for pair in words.iter().flat_map(|word| word.windows(2)) {
            *counts.entry((pair[0], pair[1])).or_insert(0_u64) += 1;
        }
        let rarest_last = |(pair, count): (&(u32, u32), &u64)| (std::cmp::Reverse(*count), *pair);
        let Some((_, (left, right))) = counts.iter().map(rarest_last).min() else { break };
        merges.push((left, right));
        for word in &mut words {
            let mut at = 0;
            while at + 1 < word.len() {
                if (word[at], word[at + 1]) == (left, right) {
                    word.splice(at..at + 2, [new]);
                }
                at += 1;
            }
        }
    }
    merges
}

proptest! {
    #[test]
    fn training_follows_the_rule(texts in prop::collection::vec("[ab c]{1,60}", 1..5)) {
        let words: Vec<Vec<u32>> = texts
            .iter()
            .flat_map(|text| text.split(' '))
            .filter(|word| !word.is_empty())
            .map(|word| word.bytes().map(u32::from).collect())
            .collect();
        prop_assume!(!words.is_empty());
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let trained = train("[^ ]+", &texts, 256 + 30 + 1, 2);
        prop_assert_eq!(trained.merges().unwrap(), slow_merges(&words, 30));
    }

    #[test]
    fn any_text_comes_back(text in any::<String>(), repeat in 1..40_usize) {
        let trained = train(NANOCHAT_PATTERN, &[TEXT], 400, 1);
        for text in [text.repeat(repeat), format!("{TEXT}{text}{TEXT}")] {
            let ids: Vec<u32> = trained.encode(&text, Policy::Text).unwrap();
            prop_assert_eq!(trained.count(&text, Policy::Text, &|| false).unwrap(), ids.len());
            prop_assert_eq!(trained.decode(ids).unwrap(), text);
        }
    }
}

#[test]
fn threads_and_chunks_change_nothing() {
    let text = format!("{TEXT} ").repeat(5000);
    let wanted = train(GPT4_PATTERN, &[&text], 500, 1).to_bytes();
    assert_eq!(train(GPT4_PATTERN, &[&text], 500, 4).to_bytes(), wanted);
    let copies: Vec<String> = (0..5000).map(|_| format!("{TEXT} ")).collect();
    let copies: Vec<&str> = copies.iter().map(String::as_str).collect();
    let mut trainer = Trainer::new(GPT4_PATTERN, Some(3)).unwrap();
    copies.chunks(999).for_each(|some| trainer.feed(some, &|| false).unwrap());
    let specials = ["<|bos|>".to_owned()];
    let trained = trainer.finish(500, &specials, &|| false, &mut |_, _| {}).unwrap();
    assert_eq!(trained.merges().unwrap(), train(GPT4_PATTERN, &copies, 500, 1).merges().unwrap());
}

#[test]
fn batches_agree_with_single_texts() {
    let trained = train(NANOCHAT_PATTERN, &[TEXT], 400, 1);
    let long = TEXT.repeat(2000);
    let texts = ["", TEXT, &long, "", "<|bos|>", &long[..long.len() / 2 - 3], "", ""];
    let bos = trained.special_id("<|bos|>").unwrap();
    for policy in [Policy::Text, Policy::Parse] {
        for threads in [1, 2, 5] {
            let options = BatchOptions {
                threads: Some(threads),
                policy,
                prepend: Some(bos),
                append: Some(10),
            };
            let batch = trained.encode_batch::<u16>(&texts, options, &|| false).unwrap();
            assert_eq!(batch.texts().count(), texts.len());
            for (ids, text) in batch.texts().zip(texts) {
                let alone = trained.encode::<u16>(text, policy).unwrap();
                assert_eq!(*ids, [&[bos as u16], &alone[..], &[10]].concat());
            }
        }
    }
}

#[test]
fn special_tokens_are_text_or_refused_or_parsed() {
    let trained = train(GPT2_PATTERN, &[TEXT], 300, 1);
    let bos = trained.special_id("<|bos|>").unwrap();
    let plain: Vec<u32> = trained.encode("a<|bos|>", Policy::Text).unwrap();
    assert!(!plain.contains(&bos));
    assert_eq!(trained.encode::<u32>("a<|bos|>", Policy::Parse).unwrap(), [97, bos]);
    let refused = trained.encode::<u32>("a<|bos|>", Policy::Refuse).unwrap_err();
    assert!(matches!(refused, Error::SpecialInText { offset: 1, .. }));
    assert_eq!(trained.byte_lengths()[bos as usize], 0);
}

#[test]
fn bytes_that_are_not_text_are_an_error() {
    let trained = train(GPT2_PATTERN, &[TEXT], 300, 1);
    assert!(matches!(trained.decode([0xff]), Err(Error::NotUtf8(_))));
    assert_eq!(trained.decode_bytes([0xff]).unwrap(), [0xff]);
    assert!(matches!(trained.decode([97, 5000]), Err(Error::UnknownId { id: 5000, index: 1 })));
}

#[test]
fn everything_long_can_be_interrupted() {
    let asked = Cell::new(0);
    let interrupt = || {
        asked.set(asked.get() + 1);
        asked.get() > 2
    };
    let trained = train(NANOCHAT_PATTERN, &[TEXT], 400, 1);
    for text in ["a".repeat(10_000_000), TEXT.repeat(50_000)] {
        asked.set(0);
        let result = trained.encode_with::<u32>(&text, Policy::Text, &interrupt);
        assert!(matches!(result, Err(Error::Interrupted)));
        asked.set(0);
        let result =
            trained.encode_batch::<u32>(&[text.as_str(); 5], Default::default(), &interrupt);
        assert!(matches!(result, Err(Error::Interrupted)));
    }
    asked.set(2);
    let mut trainer = Trainer::new(NANOCHAT_PATTERN, None).unwrap();
    trainer.feed(&[TEXT], &|| false).unwrap();
    let result = trainer.finish(400, &[], &interrupt, &mut |_, _| {});
    assert!(matches!(result, Err(Error::Interrupted)));
}

#[test]
fn hostile_text_takes_time_near_its_length() {
    let trained = train(NANOCHAT_PATTERN, &[TEXT], 400, 1);
    for piece in ["a", " ", "\n", " \n", "ab", "=", "'", "1", "👩\u{200d}", "\u{3000}", "中"] {
        let text = piece.repeat(1_000_000 / piece.len());
        let start = Instant::now();
        let ids: Vec<u32> = trained.encode(&text, Policy::Text).unwrap();
        // A hundred times what it takes here would still be linear; quadratic is hours.
        assert!(start.elapsed().as_secs() < 20, "{piece:?} took {:?}", start.elapsed());
        assert_eq!(trained.decode(ids).unwrap(), text);
    }
}
