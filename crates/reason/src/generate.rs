//! Generators: whatever writes paths, a token at a time.
//!
//! A caller launches generations, takes events one by one, and cancels what it no longer wants. There are
//! three: [`local::Local`] runs the engine of this program (all paths in one batch, the prompt's keys and
//! values held once, cancelled between two tokens), [`remote::Remote`] streams from an OpenAI-compatible
//! endpoint, and [`crate::replay::Replay`] plays a record back. Nothing here fails as a whole: what goes
//! wrong with a path is how that path ended.

pub mod local;
pub mod metered;
pub mod remote;

use std::sync::Arc;
use std::time::Instant;

use loar_decode::Sampling;
use loar_endpoint::Turn;
use loar_text::{Parsed, StreamParser};
use serde::{Deserialize, Serialize};

/// Which generation of which path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Slot {
    /// The path.
    pub path: usize,
    /// Its part.
    pub stage: Stage,
}

/// Part of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The chain.
    Chain,
    /// The answer asked for behind a chain that states none.
    Answer,
}

/// A prompt, as any generator takes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "form", rename_all = "snake_case")]
pub enum Prompt {
    /// Turns for a chat template.
    Chat {
        /// The turns, the last one the user's.
        turns: Vec<Turn>,
        /// Whether the template opens the chain of thought.
        thinking: loar_text::Thinking,
    },
    /// A text to continue.
    Text {
        /// The text.
        text: String,
    },
}

/// Where a generation begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum Start {
    /// At the prompt.
    Prompt,
    /// Behind an ended generation and this text, which is the program's own.
    Behind {
        /// The ended generation.
        slot: Slot,
        /// The text.
        text: String,
    },
    /// Behind the first bytes of an ended generation's text: what follows is sampled anew.
    Within {
        /// The ended generation.
        slot: Slot,
        /// Bytes kept; cut back to a whole token.
        bytes: usize,
    },
    /// Behind the prompt and this beginning of the reply, which is data, and then the program's own text.
    Given {
        /// The beginning.
        text: String,
        /// What follows it, with control tokens.
        own: String,
    },
}

/// Bounds on thinking (s1, Muennighoff et al. 2025): end it at a cap, or draw it out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Forcing {
    /// Thinking tokens after which `close` is put in; none: no cap.
    pub at_most: Option<usize>,
    /// The text that ends thinking and begins the answer.
    pub close: String,
    /// Ends of thinking that are not let pass, from the first one on.
    pub waits: usize,
    /// The text that stands in the place of such an end.
    pub wait: String,
}

/// A generation to start.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    /// Whose it is.
    pub slot: Slot,
    /// The prompt.
    pub prompt: Arc<Prompt>,
    /// Where it begins.
    pub start: Start,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Tells the draws of paths apart.
    pub key: u32,
    /// Bounds on thinking.
    pub forcing: Option<Forcing>,
    /// Whether token confidences are wanted.
    pub confidence: bool,
}

/// Why a generation ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum End {
    /// The model ended it.
    Stop,
    /// Its own bound on tokens.
    Length,
    /// A stop text.
    StopString,
    /// It ran in circles and was cut.
    Loop {
        /// Tokens of one turn.
        period: usize,
        /// Tokens that repeat.
        length: usize,
    },
    /// Its confidence fell below that of the first paths and it was cut.
    Unsure {
        /// Mean confidence of the window that fell below.
        window: f64,
        /// The bar.
        bar: f64,
    },
    /// Other paths were enough and it was cut.
    NotNeeded,
    /// A budget was used up and it was cut.
    Budget,
    /// It could not be generated.
    Failed {
        /// What went wrong.
        error: String,
    },
}

impl End {
    /// Whether the caller ended it.
    pub fn cut(&self) -> bool {
        matches!(self, End::Loop { .. } | End::Unsure { .. } | End::NotNeeded | End::Budget)
    }
}

/// What a generation gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Generated {
    /// Text of the reply that stood before the first token: kept steps, a text put in.
    pub given: String,
    /// Whether the reply begins inside the chain of thought.
    pub in_thought: bool,
    /// The text generated, tokens put in included.
    pub text: String,
    /// Its tokens; empty from endpoints.
    pub ids: Vec<u32>,
    /// Log-probability of each token under the model's own distribution, where known.
    pub logprobs: Vec<f32>,
    /// Confidence at each token, where asked for.
    pub confidences: Vec<f32>,
    /// Tokens generated.
    pub tokens: usize,
    /// Why it ended.
    pub end: End,
}

impl Generated {
    /// One that gave nothing.
    pub fn failed(error: impl Into<String>) -> Self {
        Self {
            given: String::new(),
            in_thought: false,
            text: String::new(),
            ids: Vec::new(),
            logprobs: Vec::new(),
            confidences: Vec::new(),
            tokens: 0,
            end: End::Failed { error: error.into() },
        }
    }

    /// The whole reply.
    pub fn reply(&self) -> String {
        format!("{}{}", self.given, self.text)
    }

    /// The reply, thought and answer apart.
    pub fn parsed(&self) -> Parsed {
        StreamParser::parse(&self.reply(), self.in_thought)
    }

    /// Mean log-probability of its tokens.
    pub fn mean_logprob(&self) -> Option<f64> {
        let sum: f64 = self.logprobs.iter().map(|l| f64::from(*l)).sum();
        (!self.logprobs.is_empty()).then(|| sum / self.logprobs.len() as f64)
    }
}

/// A token as it is chosen, or a piece of a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Whose it is.
    pub slot: Slot,
    /// Its id; of a piece of text a hash, so that repetition shows.
    pub id: u32,
    /// Confidence at it.
    pub confidence: Option<f64>,
}

/// What happens next.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A token was chosen.
    Token(Token),
    /// A generation ended by itself.
    End(Slot, Generated),
    /// A budget is used up.
    Exhausted(Budget),
    /// Nothing happened until the moment asked for.
    Quiet,
    /// Nothing runs.
    Nothing,
}

/// What can be used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// Tokens.
    Tokens,
    /// Time.
    Seconds,
}

/// Where paths come from: what a record needs to be judged and generated again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// `local` or `endpoint`.
    pub kind: String,
    /// The folder or the address.
    pub place: String,
    /// The model's name, or its content id.
    pub model: String,
    /// Content id of the adapter, if there is one.
    pub adapter: Option<String>,
    /// Content id of the chat template, if there is one.
    pub template: Option<String>,
    /// Precision and form of the weights, which change bytes.
    pub precision: Option<String>,
}

/// Tokens by what they were for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Read, parts shared by paths once.
    pub prefill: usize,
    /// Written.
    pub decode: usize,
    /// Read and written to judge steps and answers.
    pub verify: usize,
    /// Of those written, in generations that were cut.
    pub cancelled: usize,
}

/// Whatever writes paths.
pub trait Generator {
    /// Where its paths come from.
    fn source(&self) -> &Source;
    /// Whether a reply to the prompt begins inside the chain of thought.
    ///
    /// # Errors
    /// A prompt that cannot be rendered, with the reason.
    fn opens_thought(&mut self, prompt: &Prompt) -> Result<bool, String>;
    /// Starts a generation. One that cannot start ends as failed.
    fn launch(&mut self, launch: Launch);
    /// The next event; waits for it, at most until the moment given.
    fn next(&mut self, until: Option<Instant>) -> Event;
    /// Ends a generation now; nothing when it has ended already. Why it ended is the caller's to say.
    fn cancel(&mut self, slot: Slot) -> Option<Generated>;
    /// Log-probabilities of `choices` behind an ended generation and a text of the program.
    ///
    /// # Errors
    /// Where the model's own distribution cannot be read.
    fn score(&mut self, slot: Slot, text: &str, choices: &[&str]) -> Result<Vec<f64>, String>;
    /// Probabilities of `choices` as the reply to a prompt; together one.
    ///
    /// # Errors
    /// A reply that is none of them, or no reply.
    fn choose(&mut self, prompt: &Prompt, choices: &[&str]) -> Result<Vec<f64>, String>;
    /// Tokens so far; `cancelled` is the caller's to count.
    fn usage(&self) -> Usage;
    /// Seconds since the first launch.
    fn seconds(&self) -> f64;
}
