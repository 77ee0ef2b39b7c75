//! Streaming parser (signatures; body follows).

/// A tool call as the model wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    /// Function name.
    pub name: String,
    /// Arguments as JSON text.
    pub arguments: String,
}

/// A piece of output.
#[derive(Clone, Debug, PartialEq)]
pub enum StreamEvent {
    /// More of the chain of thought.
    Reasoning(String),
    /// More of the answer.
    Answer(String),
    /// A complete tool call.
    ToolCall(ToolCall),
}

/// Everything parsed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    /// Chain of thought, if there was one.
    pub reasoning: Option<String>,
    /// Answer.
    pub answer: String,
    /// Tool calls in order.
    pub tool_calls: Vec<ToolCall>,
    /// The text ended inside the chain of thought.
    pub reasoning_truncated: bool,
}

/// Splits generated text (control tokens kept as text, end-of-turn token removed).
#[derive(Clone, Debug)]
pub struct StreamParser;

impl StreamParser {
    /// `starts_in_reasoning` as in [`crate::Prompt`].
    pub fn new(_starts_in_reasoning: bool) -> Self {
        StreamParser
    }
    /// Feeds text.
    pub fn push(&mut self, _text: &str) -> Vec<StreamEvent> {
        Vec::new()
    }
    /// Ends the text; gives what was held back.
    pub fn finish(&mut self) -> Vec<StreamEvent> {
        Vec::new()
    }
    /// Parses a whole text.
    pub fn parse(_text: &str, _starts_in_reasoning: bool) -> Parsed {
        Parsed::default()
    }
}
