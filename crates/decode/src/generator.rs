//! Requests to completions: prefill, batched steps, stopping, streaming.
//!
//! Takes any number of requests, runs up to [`Generator::max_batch`] of them at a time and lets the
//! next one in as soon as one ends. What a request gets depends on its own prompt and settings only:
//! rows of a step do not touch each other, pieces are cut by position, and draws are keyed by (seed,
//! request key, position). Whoever wants to add, cancel or continue sequences while others run opens
//! a [`Session`].

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use loar_model::{CacheDtype, KvCache, Model};
use loar_text::Tokenizer;
use serde::{Deserialize, Serialize};

use crate::error::Faults;
use crate::session::Session;
use crate::{DecodeError, Sampling};

/// Sequences stepped together when the caller does not say.
const MAX_BATCH: usize = 32;

/// One sequence to generate.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Request {
    /// What the model is fed first; at least one token.
    pub prompt_ids: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Tells apart requests that share a seed, such as several answers to one prompt; part of the
    /// key of every draw.
    pub key: u32,
    /// Best tokens over which [`TokenEvent::confidence`] is taken; 0: none is computed.
    pub confidence_over: usize,
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model chose an end token.
    Stop,
    /// `max_new_tokens` or the model's longest sequence was reached.
    Length,
    /// A stop text appeared.
    StopString,
    /// The caller's stop flag was raised.
    Cancelled,
}

impl fmt::Display for FinishReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::StopString => "stop_string",
            Self::Cancelled => "cancelled",
        })
    }
}

/// A chosen token, as it is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenEvent<'a> {
    /// Index of the request.
    pub request: usize,
    /// Token id.
    pub id: u32,
    /// Its log-probability under the model's own distribution.
    pub logprob: f32,
    /// Minus the mean log-probability of the best tokens, under the model's own distribution: the
    /// more peaked, the higher. None unless [`Request::confidence_over`] asks for it.
    pub confidence: Option<f32>,
    /// Text that became certain: whole characters, never a part of a stop text.
    pub text: &'a str,
    /// Set with the last token of the request.
    pub finish_reason: Option<FinishReason>,
}

/// A finished sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// Every chosen token, the end token included.
    pub ids: Vec<u32>,
    /// Text of the tokens before the end token or the stop text; control tokens as their strings.
    pub text: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Natural log-probability of each token of `ids` under the model's own distribution.
    pub logprobs: Vec<f32>,
    /// Confidence at each token of `ids`; empty unless asked for.
    pub confidences: Vec<f32>,
}

impl Completion {
    /// A completion without a token.
    pub(crate) fn empty(finish_reason: FinishReason) -> Self {
        Self { ids: Vec::new(), text: String::new(), finish_reason, logprobs: Vec::new(), confidences: Vec::new() }
    }
}

/// Generates with one model.
pub struct Generator<'a> {
    pub(crate) model: &'a Model,
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) end_ids: Vec<u32>,
    pub(crate) max_batch: usize,
    cancel: Option<&'a AtomicBool>,
    /// What every sequence starts from; its clones share what decoding prepares once.
    pub(crate) empty: KvCache,
}

impl<'a> Generator<'a> {
    /// `end_ids` end a sequence: the end tokens of the checkpoint and of its template.
    pub fn new(model: &'a Model, tokenizer: &'a Tokenizer, end_ids: impl Into<Vec<u32>>) -> Self {
        let empty = model.new_cache();
        Self { model, tokenizer, end_ids: end_ids.into(), max_batch: MAX_BATCH, cancel: None, empty }
    }

    /// Holds keys and values in this type; part of what decides the result.
    ///
    /// # Panics
    /// When the model multiplies in f32: its caches are f32.
    #[must_use]
    pub fn with_cache_dtype(mut self, dtype: CacheDtype) -> Self {
        self.empty = self.model.new_paged_cache(dtype);
        self
    }

    /// Sequences stepped together; changes time and memory, never the result.
    #[must_use]
    pub fn with_max_batch(mut self, sequences: usize) -> Self {
        self.max_batch = sequences.max(1);
        self
    }

    /// Ends everything with [`FinishReason::Cancelled`] once the flag is raised.
    #[must_use]
    pub fn with_cancel(mut self, flag: &'a AtomicBool) -> Self {
        self.cancel = Some(flag);
        self
    }

    /// Longest sequence the model was made for, in tokens; 0 in a config means no bound.
    pub(crate) fn longest(&self) -> usize {
        match self.model.config.max_position_embeddings {
            0 => usize::MAX,
            n => n,
        }
    }

    /// Runs all requests and gives one completion for each, in their order. `on_token` sees every
    /// token when it is chosen; tokens of different requests interleave.
    ///
    /// # Errors
    /// All faults of all requests at once, before anything runs; or a logit that is not a number.
    pub fn generate(
        &self,
        requests: &[Request],
        mut on_token: impl FnMut(&TokenEvent<'_>),
    ) -> Result<Vec<Completion>, DecodeError> {
        self.check(requests)?;
        let mut session = Session::new(self);
        for request in requests {
            session.join(request.clone());
        }
        let mut done: Vec<Option<Completion>> = vec![None; requests.len()];
        loop {
            if self.cancel.is_some_and(|c| c.load(Ordering::Relaxed)) {
                session.cancel_all();
            }
            let running = session.step(&mut on_token)?;
            for (sequence, completion) in session.take_ended() {
                done[sequence] = Some(completion);
            }
            if !running {
                break;
            }
        }
        Ok(done.into_iter().map(|c| c.unwrap_or_else(|| Completion::empty(FinishReason::Cancelled))).collect())
    }

    /// A batch that sequences join, leave and continue from while others run.
    pub fn session(&self) -> Session<'_, 'a> {
        Session::new(self)
    }

    /// Everything that is wrong with the requests.
    pub(crate) fn check(&self, requests: &[Request]) -> Result<(), DecodeError> {
        let mut faults = Vec::new();
        let (vocab, longest) = (self.model.config.vocab_size, self.longest());
        for (i, r) in requests.iter().enumerate() {
            if r.prompt_ids.is_empty() {
                faults.push(format!("request {i} has an empty prompt; give at least one token"));
            }
            if r.prompt_ids.len() > longest {
                faults.push(format!(
                    "request {i} has {} prompt tokens; the model was made for {longest}",
                    r.prompt_ids.len()
                ));
            }
            if let Some(id) = r.prompt_ids.iter().find(|id| **id as usize >= vocab) {
                faults.push(format!(
                    "request {i} has token id `{id}`; the vocabulary has {vocab} entries, so the tokenizer does not belong to this model"
                ));
            }
            faults.extend(r.sampling.faults().into_iter().map(|f| format!("request {i}: {f}")));
        }
        if faults.is_empty() { Ok(()) } else { Err(DecodeError::Requests(Faults(faults))) }
    }
}
