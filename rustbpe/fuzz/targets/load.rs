//! Any file: it loads or is refused, and what loads is written as it was read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rustbpe::{Policy, Tokenizer};

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc: u32, _| {
            crc >> 1 ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    })
}

fn check(tokenizer: &Tokenizer) {
    let copy = Tokenizer::from_bytes(&tokenizer.to_bytes()).unwrap();
    assert_eq!(copy.to_bytes(), tokenizer.to_bytes());
    if let Ok(ids) = tokenizer.encode::<u32>("the theatre 12345", Policy::Parse) {
        tokenizer.decode(ids).unwrap();
    }
    if let Ok(json) = tokenizer.to_hf_json() {
        assert_eq!(Tokenizer::from_hf_json(&json).unwrap().to_bytes(), tokenizer.to_bytes());
    }
}

fuzz_target!(|input: &[u8]| {
    let _ = Tokenizer::from_bytes(input);
    let Ok(text) = std::str::from_utf8(input) else { return };
    // A body with its right checksum, and all single bytes, gets past the first hurdles.
    let (pattern, rest) = text.split_once('\n').unwrap_or((text, ""));
    let (tokens, specials) = rest.split_once("\n\n").unwrap_or((rest, ""));
    let mut body = format!("rustbpe tokenizer 1\npattern {pattern}\n");
    body += &format!("tokens {}\n", 256 + tokens.lines().count());
    for byte in 0..256 {
        body += &format!("{byte:02x} {byte}\n");
    }
    tokens.lines().for_each(|line| body += &format!("{line}\n"));
    body += &format!("special_tokens {}\n", specials.lines().count());
    specials.lines().for_each(|line| body += &format!("{line}\n"));
    body += &format!("crc32 {:08x}\n", crc32(body.as_bytes()));
    if let Ok(tokenizer) = Tokenizer::from_bytes(body.as_bytes()) {
        check(&tokenizer);
    }
    if let Ok(tokenizer) = Tokenizer::from_hf_json(text) {
        check(&tokenizer);
    }
});
