//! Byte-pair encoding: trains and uses the tokenizers of the GPT family, exactly and fast.
//!
//! ```
//! use rustbpe::{Policy, Tokenizer, Trainer, NANOCHAT_PATTERN};
//!
//! let mut trainer = Trainer::new(NANOCHAT_PATTERN, None)?;
//! trainer.feed(&["low lower lowest", "new newer newest"], &|| false)?;
//! let specials = ["<|bos|>".to_owned()];
//! let tokenizer = trainer.finish(270, &specials, &|| false, &mut |_, _| {})?;
//!
//! let ids: Vec<u16> = tokenizer.encode("newest low", Policy::Text)?;
//! assert_eq!(tokenizer.decode(ids.into_iter().map(u32::from))?, "newest low");
//! # Ok::<(), rustbpe::Error>(())
//! ```

mod cache;
mod classes;
mod count;
mod encode;
mod error;
mod file;
mod hash;
mod hf;
mod merge;
mod pairs;
mod parallel;
#[cfg(feature = "python")]
mod py;
mod special;
mod split;
mod tokenizer;
mod train;
mod vocab;

pub use encode::{Batch, TokenId};
pub use error::{Error, Result};
pub use parallel::Interrupt;
pub use special::Policy;
pub use split::{patterns_by_hand, Splitter, GPT2_PATTERN, GPT4_PATTERN, NANOCHAT_PATTERN};
pub use tokenizer::{BatchOptions, Tokenizer};
pub use train::Trainer;
pub use vocab::MAX_TOKENS;
