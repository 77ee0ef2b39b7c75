//! Conversations to tokens and back: chat templates, tokenizer, loss mask, streaming parser.
//!
//! Takes conversations and a checkpoint's tokenizer and chat template, gives token rows with a
//! loss mask, prompts for generation, and messages parsed from generated text. Training rows and
//! serving prompts come from the same functions, so they never differ. Never touches the network,
//! never lets data text become a control token unless told to, never edits a template.
#![forbid(unsafe_code)]

mod bounds;
mod builtin;
mod calls;
pub mod conversation;
mod decoder;
pub mod encode;
mod environment;
mod facts;
mod hide;
mod kind;
mod options;
mod prepare;
mod python;
mod row;
mod row_error;
mod shape;
pub mod stream;
pub mod template;
pub mod tokenizer;
mod turn;
mod visualize;
mod vocab;

pub use calls::ToolCall;
pub use conversation::{Body, Conversation, ConversationError, Message};
pub use decoder::StreamDecoder;
pub use encode::Encoder;
pub use facts::TokenizerFacts;
pub use options::{EmptyThink, EncodeOptions, Prompt, Thinking};
pub use row::{RowStats, TokenRow, TurnSpan};
pub use row_error::{RowError, RowFault};
pub use stream::{Parsed, StreamEvent, StreamParser};
pub use template::{ChatTemplate, RenderRequest, TemplateError};
pub use tokenizer::{Special, Tokenizer, TokenizerError};
pub use visualize::visualize;
