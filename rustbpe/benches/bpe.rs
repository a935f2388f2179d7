//! Training, splitting and encoding, without Python.
//!
//! The text is that of the file that `RUSTBPE_BENCH_TEXT` names, or else this crate's own sources,
//! repeated.

use criterion::{criterion_group, criterion_main, Criterion, Throughput};
use rustbpe::{BatchOptions, Policy, Splitter, Tokenizer, Trainer, NANOCHAT_PATTERN};

const SOURCES: &[&str] = &[
    include_str!("../src/encode.rs"),
    include_str!("../src/merge.rs"),
    include_str!("../src/split.rs"),
    include_str!("../src/train.rs"),
    include_str!("../README.md"),
];

fn text() -> String {
    match std::env::var_os("RUSTBPE_BENCH_TEXT") {
        Some(path) => std::fs::read_to_string(path).expect("RUSTBPE_BENCH_TEXT is a UTF-8 file"),
        None => SOURCES.concat().repeat(20),
    }
}

fn train(text: &str, threads: usize) -> Tokenizer {
    let mut trainer = Trainer::new(NANOCHAT_PATTERN, Some(threads)).unwrap();
    trainer.feed(&[text], &|| false).unwrap();
    trainer.finish(8192, &[], &|| false, &mut |_, _| {}).unwrap()
}

fn all(criterion: &mut Criterion) {
    let text = text();
    let tokenizer = train(&text, 2);
    let mut group = criterion.benchmark_group("bpe");
    group.sample_size(10).throughput(Throughput::Bytes(text.len() as u64));
    for threads in [1, 2] {
        group.bench_function(format!("train/{threads}"), |b| b.iter(|| train(&text, threads)));
    }
    let by_hand = Splitter::new(NANOCHAT_PATTERN).unwrap();
    let regex = Splitter::with_regex(NANOCHAT_PATTERN).unwrap();
    group.bench_function("split/by_hand", |b| b.iter(|| by_hand.pieces(&text).unwrap().len()));
    group.bench_function("split/regex", |b| b.iter(|| regex.pieces(&text).unwrap().len()));
    group.bench_function("encode", |b| {
        b.iter(|| tokenizer.encode::<u16>(&text, Policy::Text).unwrap());
    });
    group.bench_function("count", |b| {
        b.iter(|| tokenizer.count(&text, Policy::Text, &|| false).unwrap());
    });
    let docs: Vec<&str> = text.split("\n\n").collect();
    for threads in [1, 2] {
        let options = BatchOptions { threads: Some(threads), ..Default::default() };
        group.bench_function(format!("encode_batch/{threads}"), |b| {
            b.iter(|| tokenizer.encode_batch::<u16>(&docs, options, &|| false).unwrap());
        });
    }
    group.finish();
}

criterion_group!(benches, all);
criterion_main!(benches);
