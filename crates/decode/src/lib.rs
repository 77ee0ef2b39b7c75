//! Requests to tokens: sampling, batched stepping over a key-value cache, stopping, streaming.
//!
//! Takes prompts as token ids with their sampling settings, gives token ids, text, log-probabilities
//! and the reason why each sequence ended. A sequence never depends on its batch mates: the same
//! request with the same seed gives the same bytes alone, in any batch and in any order. Never
//! renders a conversation and never reads a file.
#![forbid(unsafe_code)]

mod error;
mod generator;
mod sampler;
mod session;
mod stop;

pub use error::DecodeError;
pub use generator::{Completion, FinishReason, Generator, Request, TokenEvent};
pub use sampler::{Choice, Sampler, Sampling};
pub use session::{Session, Watch};
pub use stop::{StopScan, StopScanner};
