//! Requests to completions: prefill, batched steps, stopping, streaming.
//!
//! Takes any number of requests, runs up to [`Generator::max_batch`] of them at a time and lets the
//! next one in as soon as one ends. A long prompt is fed in pieces of a fixed size. What a request
//! gets depends on its own prompt and settings only: rows of a step do not touch each other, pieces
//! are cut by position, and draws are keyed by (seed, request key, position).

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use loar_model::{KvCache, Model};
use loar_text::{StreamDecoder, Tokenizer};
use serde::{Deserialize, Serialize};

use crate::error::Faults;
use crate::{DecodeError, Sampler, Sampling, StopScanner};

/// Prompt tokens fed in one step: bounds the activations of a prefill.
const PREFILL_TOKENS: usize = 512;
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
}

/// Generates with one model.
pub struct Generator<'a> {
    model: &'a Model,
    tokenizer: &'a Tokenizer,
    end_ids: Vec<u32>,
    max_batch: usize,
    cancel: Option<&'a AtomicBool>,
}

/// A sequence in the batch.
struct Active<'a> {
    request: usize,
    prompt: &'a [u32],
    /// Prompt tokens fed so far.
    fed: usize,
    max_new_tokens: usize,
    sampler: Sampler,
    cache: KvCache,
    decoder: StreamDecoder<'a>,
    scanner: StopScanner,
    done: Completion,
    finished: bool,
}

impl<'a> Generator<'a> {
    /// `end_ids` end a sequence: the end tokens of the checkpoint and of its template.
    pub fn new(model: &'a Model, tokenizer: &'a Tokenizer, end_ids: impl Into<Vec<u32>>) -> Self {
        Self { model, tokenizer, end_ids: end_ids.into(), max_batch: MAX_BATCH, cancel: None }
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
    fn longest(&self) -> usize {
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
        let mut waiting: VecDeque<usize> = (0..requests.len()).collect();
        let mut active: Vec<Active<'_>> = Vec::new();
        let mut done: Vec<Option<Completion>> = vec![None; requests.len()];
        loop {
            if self.cancel.is_some_and(|c| c.load(Ordering::Relaxed)) {
                for a in &mut active {
                    a.end(FinishReason::Cancelled);
                }
                for request in waiting.drain(..) {
                    done[request] = Some(nothing(FinishReason::Cancelled));
                }
            }
            active.retain_mut(|a| {
                if a.finished {
                    done[a.request] = Some(std::mem::replace(&mut a.done, nothing(FinishReason::Stop)));
                }
                !a.finished
            });
            while active.len() < self.max_batch
                && let Some(request) = waiting.pop_front()
            {
                match self.admit(request, &requests[request]) {
                    Some(a) => active.push(a),
                    None => done[request] = Some(nothing(FinishReason::Length)),
                }
            }
            if active.is_empty() {
                break;
            }
            self.step(&mut active, &mut on_token)?;
        }
        Ok(done.into_iter().map(|c| c.unwrap_or_else(|| nothing(FinishReason::Cancelled))).collect())
    }

    /// One step of the whole batch: the next piece of its prompt for a sequence still being fed, the
    /// last chosen token for the others.
    fn step(&self, active: &mut [Active<'_>], on_token: &mut impl FnMut(&TokenEvent<'_>)) -> Result<(), DecodeError> {
        let pieces: Vec<Vec<u32>> = active.iter_mut().map(Active::next_piece).collect();
        let mut sequences: Vec<(&[u32], &mut KvCache)> =
            pieces.iter().zip(active.iter_mut()).map(|(piece, a)| (piece.as_slice(), &mut a.cache)).collect();
        let logits = self.model.step(&mut sequences);
        drop(sequences);
        for (row, a) in active.iter_mut().enumerate() {
            if a.fed == a.prompt.len() {
                a.choose(logits.row(row), self, on_token)?;
            }
        }
        Ok(())
    }

    /// The sequence of a request; `None` when it may not have a single token.
    fn admit<'r>(&self, index: usize, request: &'r Request) -> Option<Active<'r>>
    where
        'a: 'r,
    {
        let room = self.longest() - request.prompt_ids.len();
        let max_new_tokens = request.sampling.max_new_tokens.min(room);
        (max_new_tokens > 0).then(|| Active {
            request: index,
            prompt: &request.prompt_ids,
            fed: 0,
            max_new_tokens,
            sampler: Sampler::new(&request.sampling, request.key),
            cache: self.model.new_cache(),
            decoder: self.tokenizer.stream_decoder(false),
            scanner: StopScanner::new(&request.sampling.stop),
            done: nothing(FinishReason::Length),
            finished: false,
        })
    }

    /// Everything that is wrong with the requests.
    fn check(&self, requests: &[Request]) -> Result<(), DecodeError> {
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

/// A completion without a token.
fn nothing(finish_reason: FinishReason) -> Completion {
    Completion { ids: Vec::new(), text: String::new(), finish_reason, logprobs: Vec::new() }
}

impl Active<'_> {
    /// Tokens to feed now. Pieces begin at multiples of [`PREFILL_TOKENS`], whatever the batch.
    fn next_piece(&mut self) -> Vec<u32> {
        if self.fed == self.prompt.len() {
            return self.done.ids.last().map(|id| vec![*id]).unwrap_or_default();
        }
        let end = (self.fed + PREFILL_TOKENS).min(self.prompt.len());
        let piece = self.prompt[self.fed..end].to_vec();
        self.fed = end;
        piece
    }

    /// Chooses the next token and decides whether it was the last.
    fn choose(
        &mut self,
        logits: &[f32],
        generator: &Generator<'_>,
        on_token: &mut impl FnMut(&TokenEvent<'_>),
    ) -> Result<(), DecodeError> {
        let position = self.prompt.len() + self.done.ids.len();
        let choice = self.sampler.choose(logits, position).map_err(|token| DecodeError::NonFinite {
            request: self.request,
            position,
            token,
            value: logits[token],
        })?;
        self.done.ids.push(choice.id);
        self.done.logprobs.push(choice.logprob);
        let before = self.done.text.len();
        if generator.end_ids.contains(&choice.id) {
            self.end(FinishReason::Stop);
        } else {
            let piece = self.decoder.push(choice.id);
            if self.feed(&piece) && self.done.ids.len() == self.max_new_tokens {
                self.end(FinishReason::Length);
            }
        }
        on_token(&TokenEvent {
            request: self.request,
            id: choice.id,
            logprob: choice.logprob,
            text: &self.done.text[before..],
            finish_reason: self.finished.then_some(self.done.finish_reason),
        });
        Ok(())
    }

    /// Adds text that became whole; false when a stop text ended the sequence.
    fn feed(&mut self, piece: &str) -> bool {
        let scan = self.scanner.push(piece);
        self.done.text.push_str(&scan.text);
        if scan.stopped {
            self.finished = true;
            self.done.finish_reason = FinishReason::StopString;
        }
        !scan.stopped
    }

    /// Ends the sequence with the text that was still held back; a stop text within it wins.
    fn end(&mut self, reason: FinishReason) {
        let rest = self.decoder.finish();
        if self.feed(&rest) {
            let held = self.scanner.finish();
            self.done.text.push_str(&held);
            self.finished = true;
            self.done.finish_reason = reason;
        }
    }
}
