//! A running batch: sequences join it, are cancelled, steered and continued while others run.
//!
//! A long prompt is fed in pieces of a fixed size; pieces that several sequences begin with are fed
//! once and their pages shared, and a prompt is kept while waiting sequences repeat it (or as long as
//! the session lives, on request). The cache of a sequence that ended stays until it is taken or
//! released, so that a continuation costs its own tokens only. Cancelling frees a sequence's pages
//! at once, between two steps: no token more is computed for it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use loar_model::KvCache;
use loar_text::StreamDecoder;

use crate::generator::{Completion, FinishReason, Generator, Request, TokenEvent};
use crate::sampler::{confidence, log_softmax_at};
use crate::{DecodeError, Sampler, Sampling, StopScanner};

/// Prompt tokens fed in one step: bounds the activations of a prefill.
const PREFILL_TOKENS: usize = 512;

/// Whoever looks at the tokens of a session while they are chosen. Every closure that takes a
/// [`TokenEvent`] is one.
pub trait Watch {
    /// Tokens that stand in the place of the one that was drawn for `sequence`; `None` lets it stand.
    /// They are not drawn, but their log-probabilities are the model's.
    fn instead(&mut self, sequence: usize, drawn: u32) -> Option<Vec<u32>> {
        let _ = (sequence, drawn);
        None
    }
    /// A token that was chosen.
    fn token(&mut self, event: &TokenEvent<'_>);
}

impl<F: FnMut(&TokenEvent<'_>)> Watch for F {
    fn token(&mut self, event: &TokenEvent<'_>) {
        self(event);
    }
}

/// A prompt that others may repeat: its cache and the logits after it.
struct Kept {
    prompt: Arc<[u32]>,
    cache: KvCache,
    logits: Vec<f32>,
}

/// A sequence that waits for its place in the batch.
struct Waiting {
    sequence: usize,
    prompt: Arc<[u32]>,
    request: Request,
    /// The sequence it continues, and that one's cache.
    parent: Option<(usize, KvCache)>,
}

/// A sequence in the batch.
struct Active<'a> {
    sequence: usize,
    prompt: Arc<[u32]>,
    /// The sequence it continues.
    parent: Option<usize>,
    /// Prompt tokens fed so far.
    fed: usize,
    max_new_tokens: usize,
    sampler: Sampler,
    confidence_over: usize,
    /// Tokens to take before anything is drawn again.
    forced: VecDeque<u32>,
    cache: KvCache,
    decoder: StreamDecoder<'a>,
    scanner: StopScanner,
    done: Completion,
    finished: bool,
}

/// A sequence that ended, with what a continuation needs.
struct Ended {
    prompt: Arc<[u32]>,
    cache: KvCache,
    completion: Completion,
}

/// A running batch over one [`Generator`].
pub struct Session<'g, 'a> {
    generator: &'g Generator<'a>,
    next: usize,
    waiting: VecDeque<Waiting>,
    active: Vec<Active<'a>>,
    kept: Vec<Kept>,
    keep_prompts: bool,
    ended: BTreeMap<usize, Ended>,
    prefilled: usize,
}

impl<'g, 'a> Session<'g, 'a> {
    pub(crate) fn new(generator: &'g Generator<'a>) -> Self {
        Session {
            generator,
            next: 0,
            waiting: VecDeque::new(),
            active: Vec::new(),
            kept: Vec::new(),
            keep_prompts: false,
            ended: BTreeMap::new(),
            prefilled: 0,
        }
    }

    /// Keeps every prompt until the session ends: sequences that repeat one later never feed it again.
    #[must_use]
    pub fn keeping_prompts(mut self) -> Self {
        self.keep_prompts = true;
        self
    }

    /// Adds a sequence; it takes part from the next step on. Gives its number.
    ///
    /// # Errors
    /// All faults of the request at once.
    pub fn add(&mut self, request: Request) -> Result<usize, DecodeError> {
        self.generator.check(std::slice::from_ref(&request))?;
        Ok(self.join(request))
    }

    /// As [`Session::add`], of a request that was checked.
    pub(crate) fn join(&mut self, mut request: Request) -> usize {
        let prompt = std::mem::take(&mut request.prompt_ids).into();
        self.queue(prompt, request, None)
    }

    /// A new sequence that goes on where `sequence` ended, after `suffix`: only the suffix is fed. An
    /// end token of the old one is left out. Its request is the old prompt, the old tokens and the suffix.
    ///
    /// # Errors
    /// [`DecodeError::Gone`] when the sequence has not ended or is no longer held; faults of the request.
    pub fn continue_from(
        &mut self,
        sequence: usize,
        suffix: &[u32],
        sampling: Sampling,
        key: u32,
    ) -> Result<usize, DecodeError> {
        let ended = self.ended.get(&sequence).ok_or(DecodeError::Gone { sequence })?;
        let prompt: Arc<[u32]> = ended.tokens(&self.generator.end_ids, suffix).into();
        // Without a token to feed there are no logits to choose from: then all is fed anew.
        let parent = (ended.cache.len() < prompt.len()).then(|| (sequence, ended.cache.clone()));
        let request = Request { prompt_ids: prompt.to_vec(), sampling, key, confidence_over: 0 };
        self.generator.check(std::slice::from_ref(&request))?;
        Ok(self.queue(prompt, request, parent))
    }

    /// Log-probabilities of `choices` as the token after `suffix`, where `sequence` ended. Nothing is
    /// drawn and the sequence stays as it is.
    ///
    /// # Errors
    /// As [`Session::continue_from`]; a logit that is not a number.
    pub fn score(&mut self, sequence: usize, suffix: &[u32], choices: &[u32]) -> Result<Vec<f32>, DecodeError> {
        let ended = self.ended.get(&sequence).ok_or(DecodeError::Gone { sequence })?;
        let tokens = ended.tokens(&self.generator.end_ids, suffix);
        // With nothing new to feed there are no logits to read: then all is fed anew.
        let cache = if ended.cache.len() < tokens.len() { ended.cache.clone() } else { self.generator.empty.clone() };
        self.read(sequence, tokens, cache, choices)
    }

    /// Log-probabilities of `choices` as the token after `prompt`. Nothing is drawn and nothing is kept.
    ///
    /// # Errors
    /// Faults of the prompt; a logit that is not a number.
    pub fn score_prompt(&mut self, prompt: &[u32], choices: &[u32]) -> Result<Vec<f32>, DecodeError> {
        self.read(self.next, prompt.to_vec(), self.generator.empty.clone(), choices)
    }

    fn read(
        &mut self,
        sequence: usize,
        tokens: Vec<u32>,
        mut cache: KvCache,
        choices: &[u32],
    ) -> Result<Vec<f32>, DecodeError> {
        let request = Request { prompt_ids: tokens, ..Request::default() };
        self.generator.check(std::slice::from_ref(&request))?;
        let fed = cache.len();
        let mut row = Vec::new();
        for piece in request.prompt_ids[fed..].chunks(PREFILL_TOKENS) {
            row = self.generator.model.step(&mut [(piece, &mut cache)]).row(0).to_vec();
        }
        self.prefilled += request.prompt_ids.len() - fed;
        let position = request.prompt_ids.len();
        let broken = |token: usize| DecodeError::NonFinite { request: sequence, position, token, value: row[token] };
        choices.iter().map(|id| log_softmax_at(&row, *id).map_err(broken)).collect()
    }

    /// Takes these tokens next, before anything is drawn again for a running sequence; false when it is
    /// not running.
    pub fn force(&mut self, sequence: usize, ids: &[u32]) -> bool {
        let found = self.active.iter_mut().find(|a| a.sequence == sequence && !a.finished);
        found.map(|a| a.forced.extend(ids)).is_some()
    }

    /// Ends a sequence now and frees its pages; `None` when it has ended already. What it has chosen so
    /// far is given.
    pub fn cancel(&mut self, sequence: usize) -> Option<Completion> {
        if let Some(at) = self.waiting.iter().position(|w| w.sequence == sequence) {
            self.waiting.remove(at);
            return Some(Completion::empty(FinishReason::Cancelled));
        }
        let at = self.active.iter().position(|a| a.sequence == sequence && !a.finished)?;
        let mut a = self.active.remove(at);
        a.end(FinishReason::Cancelled);
        Some(a.done)
    }

    pub(crate) fn cancel_all(&mut self) {
        let all: Vec<usize> = self
            .active
            .iter()
            .filter(|a| !a.finished)
            .map(|a| a.sequence)
            .chain(self.waiting.iter().map(|w| w.sequence))
            .collect();
        for sequence in all {
            if let Some(completion) = self.cancel(sequence) {
                let cache = self.generator.empty.clone();
                self.ended.insert(sequence, Ended { prompt: Arc::new([]), cache, completion });
            }
        }
    }

    /// What a sequence that ended has given; its cache stays until [`Session::release`].
    pub fn completion(&self, sequence: usize) -> Option<&Completion> {
        self.ended.get(&sequence).map(|e| &e.completion)
    }

    /// Drops what is held of a sequence that ended.
    pub fn release(&mut self, sequence: usize) -> Option<Completion> {
        self.ended.remove(&sequence).map(|e| e.completion)
    }

    pub(crate) fn take_ended(&mut self) -> Vec<(usize, Completion)> {
        std::mem::take(&mut self.ended).into_iter().map(|(s, e)| (s, e.completion)).collect()
    }

    /// Sequences that have not ended, waiting ones included.
    pub fn running(&self) -> usize {
        self.active.iter().filter(|a| !a.finished).count() + self.waiting.len()
    }

    /// Prompt tokens fed so far: shared pieces count once.
    pub fn prefilled(&self) -> usize {
        self.prefilled
    }

    /// Bytes of the caches that are held, shared pages counted once.
    pub fn cache_bytes(&self) -> usize {
        let active = self.active.iter().map(|a| &a.cache);
        KvCache::bytes_together(
            active.chain(self.kept.iter().map(|k| &k.cache)).chain(self.ended.values().map(|e| &e.cache)),
        )
    }

    /// One step of the whole batch; false when nothing is left to do.
    ///
    /// # Errors
    /// A logit that is not a number.
    pub fn step(&mut self, watch: &mut impl Watch) -> Result<bool, DecodeError> {
        self.admit(watch)?;
        // A sequence may have ended with the token it got on admission.
        if self.active.iter().all(|a| !a.finished) && !self.active.is_empty() {
            self.advance(watch)?;
        }
        let (ended, active) = std::mem::take(&mut self.active).into_iter().partition(|a| a.finished);
        self.active = active;
        for a in ended {
            let Active { sequence, prompt, cache, done, .. } = a;
            self.ended.insert(sequence, Ended { prompt, cache, completion: done });
        }
        Ok(self.running() > 0)
    }

    fn queue(&mut self, prompt: Arc<[u32]>, request: Request, parent: Option<(usize, KvCache)>) -> usize {
        let sequence = self.next;
        self.next += 1;
        self.waiting.push_back(Waiting { sequence, prompt, request, parent });
        sequence
    }

    /// Lets waiting sequences in while there is room.
    fn admit(&mut self, watch: &mut impl Watch) -> Result<(), DecodeError> {
        while self.active.len() < self.generator.max_batch
            && let Some(w) = self.waiting.pop_front()
        {
            let sequence = w.sequence;
            let prompt = w.prompt.clone();
            let Some(mut a) = self.activate(w) else {
                let cache = self.generator.empty.clone();
                let completion = Completion::empty(FinishReason::Length);
                self.ended.insert(sequence, Ended { prompt, cache, completion });
                continue;
            };
            if a.parent.is_none()
                && let Some(k) = self.kept.iter().find(|k| k.prompt == a.prompt)
            {
                a.cache = k.cache.clone();
                a.fed = a.prompt.len();
                a.choose(&k.logits, self.generator, watch)?;
            }
            self.active.push(a);
        }
        if !self.keep_prompts {
            self.kept.retain(|k| self.waiting.iter().any(|w| w.prompt == k.prompt));
        }
        Ok(())
    }

    /// The sequence of a request; `None` when it may not have a single token.
    fn activate(&self, w: Waiting) -> Option<Active<'a>> {
        let room = self.generator.longest() - w.prompt.len();
        let sampling = &w.request.sampling;
        let max_new_tokens = sampling.max_new_tokens.min(room);
        let (parent, cache) = w.parent.map_or_else(|| (None, self.generator.empty.clone()), |(p, c)| (Some(p), c));
        (max_new_tokens > 0).then(|| Active {
            sequence: w.sequence,
            fed: cache.len(),
            prompt: w.prompt,
            parent,
            max_new_tokens,
            sampler: Sampler::new(sampling, w.request.key),
            confidence_over: w.request.confidence_over,
            forced: VecDeque::new(),
            cache,
            decoder: self.generator.tokenizer.stream_decoder(false),
            scanner: StopScanner::new(&sampling.stop),
            done: Completion::empty(FinishReason::Length),
            finished: false,
        })
    }

    /// The next piece of its prompt for a sequence still being fed, the last chosen token for the
    /// others. Of sequences that are fed the same, one is, and the others take its cache.
    fn advance(&mut self, watch: &mut impl Watch) -> Result<(), DecodeError> {
        let active = &mut self.active;
        let prompts: Vec<Arc<[u32]>> = active.iter().map(|a| a.prompt.clone()).collect();
        let feeding: Vec<Option<Feeding<'_>>> = active.iter().zip(&prompts).map(|(a, p)| a.feeding(p)).collect();
        let leaders = leaders(&feeding);
        let pieces: Vec<Vec<u32>> = active.iter_mut().map(Active::next_piece).collect();
        let mut rows = vec![0; active.len()];
        let mut sequences: Vec<(&[u32], &mut KvCache)> = Vec::with_capacity(active.len());
        for (i, (piece, a)) in pieces.iter().zip(active.iter_mut()).enumerate() {
            if leaders[i] == i {
                rows[i] = sequences.len();
                sequences.push((piece, &mut a.cache));
                self.prefilled += if feeding[i].is_some() { piece.len() } else { 0 };
            }
        }
        let logits = self.generator.model.step(&mut sequences);
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
            if leaders[i] == i && feeding[i].is_some() && a.parent.is_none() {
                self.kept.push(Kept { prompt: a.prompt.clone(), cache: a.cache.clone(), logits: row.to_vec() });
            }
            a.choose(row, self.generator, watch)?;
        }
        Ok(())
    }
}

/// What a sequence is fed next: where it comes from, where the piece begins, the prompt up to its end.
type Feeding<'p> = (Option<usize>, usize, &'p [u32]);

/// For each sequence the first one that is fed the same now and was before; nothing is fed to
/// sequences past their prompt.
fn leaders(feeding: &[Option<Feeding<'_>>]) -> Vec<usize> {
    (0..feeding.len())
        .map(|i| (0..i).find(|j| feeding[i].is_some() && feeding[*j] == feeding[i]).unwrap_or(i))
        .collect()
}

impl Ended {
    /// All tokens of the sequence but an end token, and a suffix.
    fn tokens(&self, end_ids: &[u32], suffix: &[u32]) -> Vec<u32> {
        let mut ids = self.completion.ids.as_slice();
        if let [before @ .., last] = ids
            && end_ids.contains(last)
        {
            ids = before;
        }
        [&*self.prompt, ids, suffix].concat()
    }
}

impl Active<'_> {
    fn feeding<'p>(&self, prompt: &'p [u32]) -> Option<Feeding<'p>> {
        let end = (self.fed + PREFILL_TOKENS).min(prompt.len());
        (self.fed < prompt.len()).then(|| (self.parent, self.fed, &prompt[..end]))
    }

    /// Tokens to feed now. Pieces of a fresh prompt begin at multiples of [`PREFILL_TOKENS`], whatever
    /// the batch.
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
    fn choose(&mut self, logits: &[f32], generator: &Generator<'_>, watch: &mut impl Watch) -> Result<(), DecodeError> {
        let position = self.prompt.len() + self.done.ids.len();
        let broken =
            |token: usize| DecodeError::NonFinite { request: self.sequence, position, token, value: logits[token] };
        let mut choice = self.sampler.choose(logits, position).map_err(broken)?;
        if self.forced.is_empty()
            && let Some(ids) = watch.instead(self.sequence, choice.id)
        {
            self.forced.extend(ids);
        }
        if let Some(id) = self.forced.pop_front() {
            choice = crate::Choice { id, logprob: log_softmax_at(logits, id).map_err(broken)? };
        }
        let confidence = (self.confidence_over > 0).then(|| confidence(logits, self.confidence_over));
        self.done.ids.push(choice.id);
        self.done.logprobs.push(choice.logprob);
        self.done.confidences.extend(confidence);
        let before = self.done.text.len();
        if generator.end_ids.contains(&choice.id) {
            self.end(FinishReason::Stop);
        } else {
            let piece = self.decoder.push(choice.id);
            if self.feed(&piece) && self.done.ids.len() == self.max_new_tokens {
                self.end(FinishReason::Length);
            }
        }
        watch.token(&TokenEvent {
            request: self.sequence,
            id: choice.id,
            logprob: choice.logprob,
            confidence,
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
            Some((None, 0, &a[..2])),
            Some((None, 0, &b[..2])),
            Some((None, 0, &a[..3])),
            None,
            Some((None, 2, &a[..3])),
            Some((None, 2, &b[..3])),
            Some((None, 0, &a[..3])),
            Some((Some(1), 2, &a[..3])),
            Some((Some(1), 2, &a[..3])),
        ];
        assert_eq!(leaders(&feeding), [0, 1, 1, 3, 4, 5, 6, 3, 8, 8]);
    }
}
