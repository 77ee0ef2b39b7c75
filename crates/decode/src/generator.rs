//! Requests to completions: prefill, batched steps, stopping, streaming.
//!
//! Takes any number of requests, runs up to [`Generator::max_batch`] of them at a time and lets the
//! next one in as soon as one ends. A long prompt is fed in pieces of a fixed size; pieces that several
//! requests begin with are fed once and their pages shared, and a prompt that later requests repeat is
//! kept until they have come. What a request gets depends on its own prompt and settings only: rows of
//! a step do not touch each other, pieces are cut by position, and draws are keyed by (seed, request
//! key, position).

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use loar_model::{CacheDtype, KvCache, Model};
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
    /// What every sequence starts from; its clones share what decoding prepares once.
    empty: KvCache,
}

/// A prompt that waiting requests repeat: its cache and the logits after it.
struct Kept<'a> {
    prompt: &'a [u32],
    cache: KvCache,
    logits: Vec<f32>,
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
        let mut kept: Vec<Kept<'_>> = Vec::new();
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
                let Some(mut a) = self.admit(request, &requests[request]) else {
                    done[request] = Some(nothing(FinishReason::Length));
                    continue;
                };
                if let Some(k) = kept.iter().find(|k| k.prompt == a.prompt) {
                    a.cache = k.cache.clone();
                    a.fed = a.prompt.len();
                    a.choose(&k.logits, self, &mut on_token)?;
                }
                active.push(a);
            }
            kept.retain(|k| waiting.iter().any(|w| requests[*w].prompt_ids == k.prompt));
            if active.is_empty() {
                break;
            }
            // A sequence may have ended with the token it got on admission.
            if active.iter().all(|a| !a.finished) {
                self.step(&mut active, &mut kept, &mut on_token)?;
            }
        }
        Ok(done.into_iter().map(|c| c.unwrap_or_else(|| nothing(FinishReason::Cancelled))).collect())
    }

    /// One step of the whole batch: the next piece of its prompt for a sequence still being fed, the
    /// last chosen token for the others. Of sequences that are fed the same, one is, and the others
    /// take its cache.
    fn step<'r>(
        &self,
        active: &mut [Active<'r>],
        kept: &mut Vec<Kept<'r>>,
        on_token: &mut impl FnMut(&TokenEvent<'_>),
    ) -> Result<(), DecodeError> {
        let feeding: Vec<Option<(usize, &[u32])>> = active.iter().map(Active::fed_after).collect();
        let leaders = leaders(&feeding);
        let pieces: Vec<Vec<u32>> = active.iter_mut().map(Active::next_piece).collect();
        let mut rows = vec![0; active.len()];
        let mut sequences: Vec<(&[u32], &mut KvCache)> = Vec::with_capacity(active.len());
        for (i, (piece, a)) in pieces.iter().zip(active.iter_mut()).enumerate() {
            if leaders[i] == i {
                rows[i] = sequences.len();
                sequences.push((piece, &mut a.cache));
            }
        }
        let logits = self.model.step(&mut sequences);
        for (i, leader) in leaders.iter().enumerate() {
            if *leader != i {
                active[i].cache = active[*leader].cache.clone();
                rows[i] = rows[*leader];
            }
        }
        for (i, a) in active.iter_mut().enumerate() {
            if a.fed < a.prompt.len() {
                continue;
            }
            let row = logits.row(rows[i]);
            if leaders[i] == i && feeding[i].is_some() {
                kept.push(Kept { prompt: a.prompt, cache: a.cache.clone(), logits: row.to_vec() });
            }
            a.choose(row, self, on_token)?;
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
            cache: self.empty.clone(),
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

/// For each sequence the first one that is fed the same now and was before: `feeding` holds where a
/// prompt's next piece begins and the prompt up to its end, nothing for sequences past their prompt.
fn leaders(feeding: &[Option<(usize, &[u32])>]) -> Vec<usize> {
    (0..feeding.len())
        .map(|i| (0..i).find(|j| feeding[i].is_some() && feeding[*j] == feeding[i]).unwrap_or(i))
        .collect()
}

/// A completion without a token.
fn nothing(finish_reason: FinishReason) -> Completion {
    Completion { ids: Vec::new(), text: String::new(), finish_reason, logprobs: Vec::new() }
}

impl<'r> Active<'r> {
    /// Where the next piece of the prompt begins, and the prompt up to its end; nothing once it is fed.
    fn fed_after(&self) -> Option<(usize, &'r [u32])> {
        let end = (self.fed + PREFILL_TOKENS).min(self.prompt.len());
        (self.fed < self.prompt.len()).then(|| (self.fed, &self.prompt[..end]))
    }

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

#[cfg(test)]
mod tests {
    use super::leaders;

    #[test]
    fn the_same_piece_after_the_same_beginning_is_fed_once() {
        let (a, b) = ([1, 2, 3], [1, 2, 4]);
        let feeding = [
            None,
            Some((0, &a[..2])),
            Some((0, &b[..2])),
            Some((0, &a[..3])),
            None,
            Some((2, &a[..3])),
            Some((2, &b[..3])),
            Some((0, &a[..3])),
        ];
        assert_eq!(leaders(&feeding), [0, 1, 1, 3, 4, 5, 6, 3]);
    }
}
