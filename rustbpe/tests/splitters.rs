//! The splitters written by hand against the regular expressions that they stand for.

use std::sync::OnceLock;

use proptest::prelude::*;
use rustbpe::{patterns_by_hand, Splitter, GPT2_PATTERN, GPT4_PATTERN, NANOCHAT_PATTERN};

/// Both splitters of each pattern.
fn pairs() -> &'static [(Splitter, Splitter)] {
    static MADE: OnceLock<Vec<(Splitter, Splitter)>> = OnceLock::new();
    MADE.get_or_init(|| {
        patterns_by_hand()
            .map(|pattern| {
                (Splitter::new(pattern).unwrap(), Splitter::with_regex(pattern).unwrap())
            })
            .collect()
    })
}

fn assert_equal(by_hand: &Splitter, regex: &Splitter, text: &str) {
    let (found, wanted) = (by_hand.pieces(text).unwrap(), regex.pieces(text).unwrap());
    assert_eq!(found, wanted, "{text:?} by {}", regex.pattern());
    assert_eq!(found.concat(), text, "{} drops text", regex.pattern());
}

/// Places where a character can stand: every class before and after it, every class run that it
/// could continue or end, contractions, both ends of the text.
const PLACES: &[(&str, &str)] = &[
    ("", ""),
    ("", "a"),
    ("", "1"),
    ("", " "),
    ("", "."),
    ("", "\n"),
    ("a", ""),
    ("ab", "cd"),
    ("1", ""),
    ("1", "23"),
    ("12", "3"),
    ("123", "45"),
    (" ", ""),
    (" ", "a"),
    (" ", "1"),
    (" ", "."),
    (" ", " "),
    ("  ", "a"),
    (" ", " a"),
    ("\t", "a"),
    ("\t", "\n"),
    ("\n", ""),
    ("\n", "\n"),
    ("\n", "a"),
    (" \n ", " \n a"),
    (".", ""),
    (".", "."),
    (".", "a"),
    (".", "\n\n "),
    (" .", "\r\n"),
    ("'", ""),
    ("'", "l"),
    ("'l", ""),
    ("'v", ""),
    ("'", "e"),
    ("'R", " "),
    ("a'", "x"),
    (" '", "s"),
    ("é", "é"),
    ("\u{3000}", "\u{3000}a"),
    ("٣", "٣٣"),
    ("👩\u{200d}", "\u{fe0f}"),
];

/// Characters that stand for all: the first scripts wholly, both sides of each border between kinds,
/// and a sample of the rest. That no other one is of another class than the regular expressions say
/// is what the library's own test of its table of classes shows, for every character there is.
fn characters() -> Vec<char> {
    let kind = |c: char| (c.is_alphabetic(), c.is_numeric(), c.is_whitespace(), c.len_utf8());
    let all: Vec<char> = ('\0'..=char::MAX).collect();
    let border = |i: usize| {
        all[i.saturating_sub(1)..=(i + 1).min(all.len() - 1)]
            .iter()
            .any(|&c| kind(c) != kind(all[i]))
    };
    (0..all.len()).filter(|&i| i < 0x530 || i % 199 == 0 || border(i)).map(|i| all[i]).collect()
}

fn in_every_place(pattern: &str, characters: &[char]) {
    let by_hand = Splitter::new(pattern).unwrap();
    let regex = Splitter::with_regex(pattern).unwrap();
    // Many characters to a text, which is much faster than as many texts.
    for (before, after) in PLACES {
        let mut text = String::new();
        for &c in characters {
            text.push_str(before);
            text.push(c);
            text.push_str(after);
            text.push_str(if text.len() % 2 == 0 { "x " } else { "." });
            if text.len() > 1 << 16 {
                assert_equal(&by_hand, &regex, &text);
                text.clear();
            }
        }
        assert_equal(&by_hand, &regex, &text);
    }
}

fn at_the_end_of_a_text(characters: &[char]) {
    for (by_hand, regex) in pairs() {
        for before in ["", " ", "\n", "'", "a", ".", "1"] {
            let mut text = String::new();
            for &c in characters {
                text.clear();
                text.push_str(before);
                text.push(c);
                assert_equal(by_hand, regex, &text);
            }
        }
    }
}

#[test]
fn in_every_place_by_nanochat() {
    in_every_place(NANOCHAT_PATTERN, &characters());
}

#[test]
fn in_every_place_by_gpt4() {
    in_every_place(GPT4_PATTERN, &characters());
}

#[test]
fn in_every_place_by_gpt2() {
    in_every_place(GPT2_PATTERN, &characters());
}

#[test]
fn at_the_end() {
    at_the_end_of_a_text(&characters());
}

#[test]
#[ignore = "takes minutes; for who changes the splitters: cargo test --test splitters -- --ignored"]
fn every_character_there_is() {
    let all: Vec<char> = ('\0'..=char::MAX).collect();
    for pattern in [NANOCHAT_PATTERN, GPT4_PATTERN, GPT2_PATTERN] {
        in_every_place(pattern, &all);
    }
    at_the_end_of_a_text(&all);
}

/// One or two characters of each class and each special role.
const ATOMS: &[&str] =
    &["a", "S", "\u{17f}", "l", "1", "²", " ", "\t", "\u{3000}", "\r", "\n", ".", "'", "\u{301}"];

#[test]
fn every_short_combination_of_classes() {
    for (by_hand, regex) in pairs() {
        for length in 0..=4 {
            for number in 0..ATOMS.len().pow(length) {
                let mut rest = number;
                let mut text = String::new();
                for _ in 0..length {
                    text.push_str(ATOMS[rest % ATOMS.len()]);
                    rest /= ATOMS.len();
                }
                assert_equal(by_hand, regex, &text);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn random_text(text in r"[a-cA-C '’\t\r\n.,;!0-9٠-٣²ſsStTlLvVrReEmMdDéßαж中あ한\u{a0}\u{85}\u{2028}\u{3000}\u{200d}\u{fe0f}\u{301}👩🏽💻]{0,60}") {
        for (by_hand, regex) in pairs() {
            assert_equal(by_hand, regex, &text);
        }
    }

    #[test]
    fn any_text(text in any::<String>()) {
        for (by_hand, regex) in pairs() {
            assert_equal(by_hand, regex, &text);
        }
    }
}
