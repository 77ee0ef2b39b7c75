//! Texts to vectors by a sentence encoder: a folder as sentence-transformers writes it (BERT, RoBERTa or XLM-RoBERTa
//! with pooling) → [`Encoder`], which gives one vector a text, by default of length 1, so that a dot product is the
//! cosine. Knows no decoder and trains nothing.
//!
//! A text's vector depends on the text, the folder and the options alone: not on the texts beside it and not on the
//! number of threads, bit for bit (on one instruction set; others may differ in the last bits).
#![forbid(unsafe_code)]

mod config;
mod encoder;
mod error;
mod forward;
mod pooling;
mod tokens;
mod weights;

pub use encoder::{Encoder, Options};
pub use error::EncoderError;
pub use loar_kernels::Precision;
pub use pooling::Mode;
