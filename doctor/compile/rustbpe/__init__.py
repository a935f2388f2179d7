"""The tokenizer's crate, and the Rust that builds it."""
