//! A client of OpenAI-compatible chat endpoints: whole replies and streams, with patience that ends.
//!
//! Takes messages and sampling settings, gives text, reasoning, log-probabilities and token counts, or
//! one error that says what the server did. Every wait is bounded and can be cut short by another
//! thread; a busy server (429, 5xx) is asked again a bounded number of times. Never logs a key.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod cancel;
mod client;
mod error;
mod reply;
mod stream;

pub use cancel::Cancel;
pub use client::{Chat, Client, Patience, Turn};
pub use error::{EndpointError, Trouble};
pub use reply::{Piece, Reply, TokenLogprob};
