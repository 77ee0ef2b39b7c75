//! Token rows: what training sees of one example, and what can be wrong with it.
//!
//! Data only: built by [`crate::Encoder`], read by packing, the ledger and the debugging view.

use std::ops::Range;

/// One trained turn within a row.
#[derive(Clone, Debug, PartialEq)]
pub struct TurnSpan {
    /// Message index.
    pub turn: usize,
    /// Trained tokens of the turn, end-of-turn token included.
    pub tokens: Range<usize>,
}

/// Token counts of a row, by reason: `trained + masked_prompt + masked_history` is its length.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowStats {
    /// Tokens with loss.
    pub trained: usize,
    /// Tokens without loss that set the stage of a trained turn of this row: system and user text,
    /// headers, prefill, empty think block, BOS.
    pub masked_prompt: usize,
    /// Tokens without loss of turns before the last assistant turn that precedes the row's first
    /// trained turn.
    pub masked_history: usize,
    /// Trained turns of which the tokens would be others if prompt and response were tokenized in
    /// one go (they never are: generation also starts with the prompt's own tokens).
    pub joint_differs: usize,
}

/// One training row. Index 0 is never a target: nothing stands before it to predict it.
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

impl TokenRow {
    pub(crate) fn finish(mut self) -> Self {
        if let Some(first) = self.train.first_mut() {
            *first = false;
        }
        self.stats.trained = self.train.iter().filter(|t| **t).count();
        self.stats.masked_prompt = self.ids.len().saturating_sub(self.stats.trained + self.stats.masked_history);
        self
    }
}

/// A row under construction: its text with hidden strings, and its ids.
pub(crate) struct RowBuilder {
    pub text: String,
    pub row: TokenRow,
}

impl RowBuilder {
    /// Everything from `prompt_len` on is trained.
    pub fn new(text: String, ids: Vec<u32>, prompt_len: usize, turn: usize) -> Self {
        let train = (0..ids.len()).map(|i| i >= prompt_len).collect();
        let spans = match ids.len() > prompt_len {
            true => vec![TurnSpan { turn, tokens: prompt_len..ids.len() }],
            false => Vec::new(),
        };
        RowBuilder { text, row: TokenRow { ids, train, prompt_len, turn, spans, stats: RowStats::default() } }
    }

    /// Goes on to the prompt of a later turn, if that prompt continues this row both as text and
    /// as tokens; gives the row back as it is if not.
    pub fn grown(mut self, prompt: &crate::turn::MarkedPrompt, ids: &[u32]) -> Result<Self, Box<Self>> {
        if !prompt.text.starts_with(self.text.as_str()) || !ids.starts_with(&self.row.ids) {
            return Err(Box::new(self));
        }
        self.row.train.resize(ids.len(), false);
        self.row.ids = ids.to_vec();
        self.text = prompt.text.clone();
        Ok(self)
    }

    pub fn train(&mut self, turn: usize, response: &str, ids: &[u32]) {
        let from = self.row.ids.len();
        self.text.push_str(response);
        self.row.ids.extend_from_slice(ids);
        self.row.train.resize(self.row.ids.len(), true);
        self.row.spans.push(TurnSpan { turn, tokens: from..self.row.ids.len() });
    }
}
