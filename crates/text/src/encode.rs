//! Conversations to token rows (signatures; body follows).
use crate::conversation::{Body, Conversation};
use crate::template::ChatTemplate;
use crate::tokenizer::Tokenizer;
use std::ops::Range;

/// What to do with a datum without reasoning on a template that opens `<think>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EmptyThink {
    /// The closed empty think block stands in the prompt, without loss.
    #[default]
    Mask,
    /// The model learns to close the block at once.
    Train,
    /// The row is an error.
    Refuse,
}

/// Whether the generation prompt opens the chain of thought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Thinking {
    /// As the template does by itself (or as `template_kwargs` say).
    #[default]
    Default,
    /// Open.
    On,
    /// Closed.
    Off,
}

/// Options of an [`Encoder`].
#[derive(Clone, Debug, Default)]
pub struct EncodeOptions {
    /// Policy for data without reasoning.
    pub empty_think: EmptyThink,
    /// Control-token strings inside data become control tokens.
    pub allow_control_tokens: bool,
}

/// Renders and tokenizes for training and serving alike.
#[derive(Clone, Debug)]
pub struct Encoder {
    tokenizer: Tokenizer,
    #[allow(dead_code)]
    template: Option<ChatTemplate>,
}

/// A row that cannot be encoded.
#[derive(Debug, thiserror::Error)]
#[error("row `{row}`: {reason}")]
pub struct RowError {
    /// Id of the row, set with [`RowError::in_row`].
    pub row: String,
    /// Message index.
    pub turn: Option<usize>,
    /// What is wrong.
    pub reason: String,
}

impl RowError {
    /// Names the row.
    pub fn in_row(mut self, row: impl Into<String>) -> Self {
        self.row = row.into();
        self
    }
}

/// What generation feeds.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// Rendered text.
    pub text: String,
    /// Its ids, BOS included.
    pub ids: Vec<u32>,
    /// The model continues inside the chain of thought.
    pub starts_in_reasoning: bool,
}

/// One trained turn within a row.
#[derive(Clone, Debug, PartialEq)]
pub struct TurnSpan {
    /// Message index.
    pub turn: usize,
    /// Trained tokens of the turn, end-of-turn token included.
    pub tokens: Range<usize>,
}

/// Token counts of a row, by reason; they add up to the row's length.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowStats {
    /// Tokens with loss.
    pub trained: usize,
    /// Tokens without loss: prompt of the (first) trained turn, less the history.
    pub masked_prompt: usize,
    /// Tokens without loss: turns before.
    pub masked_history: usize,
    /// Boundaries where tokenizing prompt and response jointly would give other ids.
    pub joint_differs: usize,
}

/// One training row. Index 0 is never a target.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenRow {
    /// Token ids.
    pub ids: Vec<u32>,
    /// `train[i]`: token i is a target.
    pub train: Vec<bool>,
    /// Tokens that generation feeds before the first trained turn.
    pub prompt_len: usize,
    /// Message index of the first trained turn (0 without messages).
    pub turn: usize,
    /// Trained turns.
    pub spans: Vec<TurnSpan>,
    /// Counts for the ledger.
    pub stats: RowStats,
}

impl Encoder {
    /// `template` may be absent for completion and text data.
    pub fn new(
        tokenizer: Tokenizer,
        template: Option<ChatTemplate>,
        _options: EncodeOptions,
    ) -> Self {
        Encoder {
            tokenizer,
            template,
        }
    }
    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }
    /// Token rows of one example; one row per assistant turn where the template rewrites history.
    pub fn rows(&self, _body: &Body) -> Result<Vec<TokenRow>, RowError> {
        Err(RowError {
            row: String::new(),
            turn: None,
            reason: "not built yet".into(),
        })
    }
    /// What generation feeds for a conversation that ends before an assistant turn.
    pub fn prompt(&self, conversation: &Conversation) -> Result<Prompt, RowError> {
        self.prompt_with(conversation, Thinking::Default)
    }
    /// As [`Encoder::prompt`] with thinking forced on or off.
    pub fn prompt_with(
        &self,
        _conversation: &Conversation,
        _thinking: Thinking,
    ) -> Result<Prompt, RowError> {
        Err(RowError {
            row: String::new(),
            turn: None,
            reason: "not built yet".into(),
        })
    }
    /// Ids that end an assistant turn: the template's and the tokenizer's; stop generation there.
    pub fn stop_ids(&self) -> Vec<u32> {
        Vec::new()
    }
}
