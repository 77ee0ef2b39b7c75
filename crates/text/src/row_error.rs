//! What can be wrong with a row, and where.
//!
//! Data only: every fault says what to do about it.

/// A row that cannot be encoded, with its id and turn.
#[derive(Debug, PartialEq)]
pub struct RowError {
    /// Id of the row (`file:line`), set with [`RowError::in_row`]; empty until then.
    pub row: String,
    /// Message index, where one is at fault.
    pub turn: Option<usize>,
    /// What is wrong.
    pub fault: RowFault,
}

impl std::fmt::Display for RowError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.row.is_empty() {
            write!(f, "row `{}`: ", self.row)?;
        }
        if let Some(turn) = self.turn {
            write!(f, "message {turn}: ")?;
        }
        write!(f, "{}", self.fault)
    }
}

impl std::error::Error for RowError {}

impl RowError {
    /// Names the row.
    #[must_use]
    pub fn in_row(mut self, row: impl Into<String>) -> Self {
        self.row = row.into();
        self
    }
}

impl From<RowFault> for RowError {
    fn from(fault: RowFault) -> Self {
        RowError { row: String::new(), turn: None, fault }
    }
}

/// What can be wrong with a row.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RowFault {
    /// Roles or fields of the conversation; all of them.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Conversation(Vec<crate::ConversationError>),
    /// A conversation needs a template.
    #[error("a conversation needs a chat template; the checkpoint has none, name a built-in one")]
    NoTemplate,
    /// Generation cannot continue an assistant turn.
    #[error("the conversation ends in an assistant turn; a prompt ends before one")]
    EndsInAssistant,
    /// No turn carries loss.
    #[error("nothing to train: no assistant turn has train = true")]
    NothingToTrain,
    /// A turn of another role.
    #[error("not an assistant turn")]
    NotAssistant,
    /// The template itself fails.
    #[error("{reason}")]
    Template {
        /// Its words.
        reason: String,
    },
    /// Data text that is not in the label span.
    #[error("the template loses the {what}: {text:?} is not in what would be trained")]
    LostText {
        /// `content`, `reasoning`, `tool call`.
        what: &'static str,
        /// The lost text.
        text: String,
    },
    /// The rendering with the answer does not continue the generation prompt.
    #[error(
        "the template renders other text before the answer than it feeds for generation, from byte {at}: {prompt:?} fed, {rendering:?} trained"
    )]
    Diverges {
        /// First byte that differs.
        at: usize,
        /// Prompt around it.
        prompt: String,
        /// Rendering around it.
        rendering: String,
    },
    /// Text after the token that ends generation.
    #[error("the turn would go on after its end token `{end}`: {after:?} could never be generated")]
    EndsEarly {
        /// The token.
        end: String,
        /// What follows.
        after: String,
    },
    /// No token ends a turn.
    #[error(
        "neither the template nor the tokenizer has a token that ends a turn; set eos_token in tokenizer_config.json"
    )]
    NoEnd,
    /// Reasoning in the data, but the template always closes thinking.
    #[error(
        "the turn has reasoning, but the template closes thinking even with thinking = true; drop the reasoning or use another template"
    )]
    CannotThink,
    /// Reasoning in the data, but the row turns thinking off.
    #[error("the turn has reasoning, but template_kwargs say {key} = false; drop one of them")]
    ThinkingForbidden {
        /// `thinking` or `enable_thinking`.
        key: &'static str,
    },
    /// Policy `refuse`.
    #[error(
        "the turn has no reasoning and the template thinks; add reasoning or choose empty_think = \"mask\" or \"train\""
    )]
    NoReasoning,
    /// More than one BOS, or one inside.
    #[error(
        "{count} beginning-of-sequence tokens in the row, the last at index {last}; exactly one belongs at index 0"
    )]
    Bos {
        /// How many.
        count: usize,
        /// Index of the last.
        last: usize,
    },
    /// Ids that do not read back as the text.
    #[error("the tokenizer does not give the text back: {text:?} becomes {decoded:?}")]
    RoundTrip {
        /// Text around the first difference.
        text: String,
        /// Decoded text there.
        decoded: String,
    },
    /// The tokenizer fails.
    #[error("{reason}")]
    Tokenizer {
        /// Its words.
        reason: String,
    },
    /// No tokens at all.
    #[error("the row has no text")]
    NoText,
}

impl From<crate::TokenizerError> for RowFault {
    fn from(e: crate::TokenizerError) -> Self {
        RowFault::Tokenizer { reason: e.to_string() }
    }
}
