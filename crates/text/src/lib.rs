//! Conversations to tokens and back: chat templates, tokenizer, loss mask, streaming parser.
//!
//! Takes conversations and a checkpoint's tokenizer and chat template, gives token rows with a
//! loss mask, prompts for generation, and messages parsed from generated text. Training rows and
//! serving prompts come from the same functions, so they never differ. Never touches the network,
//! never lets data text become a control token unless told to, never edits a template.
#![forbid(unsafe_code)]

mod bounds;
mod builtin;
pub mod conversation;
pub mod encode;
mod environment;
mod facts;
mod hide;
mod prepare;
mod python;
mod row;
mod shape;
pub mod stream;
pub mod template;
pub mod tokenizer;
mod turn;
mod visualize;
mod vocab;

pub use conversation::{Body, Conversation, ConversationError, Message};
pub use encode::{
    EmptyThink, EncodeOptions, Encoder, Prompt, RowError, RowFault, RowStats, Thinking, TokenRow,
    TurnSpan,
};
pub use facts::TokenizerFacts;
pub use stream::{Parsed, StreamEvent, StreamParser, ToolCall};
pub use template::{ChatTemplate, RenderRequest, TemplateError};
pub use tokenizer::{Special, StreamDecoder, Tokenizer, TokenizerError};
pub use visualize::visualize;
