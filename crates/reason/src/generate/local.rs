//! Paths from the engine of this program.
//!
//! All paths of a question run in one session: a prompt is fed once and its pages shared; a second stage, a
//! question about an answer and its score go on from the pages of the path. A path is cut between two
//! tokens and its pages are free at once. Bounds on thinking are kept here, where tokens are drawn.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use loar_decode::{Completion, FinishReason, Request, Session, TokenEvent, Watch};
use loar_text::tokenizer::Special;
use loar_text::{Conversation, Encoder, Message, StreamParser, Tokenizer};

use super::{End, Event, Forcing, Generated, Generator, Launch, Prompt, Slot, Source, Start, Token, Usage};

/// Best tokens that confidence is taken over (DeepConf).
const CONFIDENCE_OVER: usize = 20;

/// A generation that was started.
struct Running {
    sequence: usize,
    given: String,
    in_thought: bool,
    ids_before: Vec<u32>,
}

/// Bounds on the thinking of one generation, at work.
struct Bound {
    forcing: Forcing,
    close: Vec<u32>,
    wait: Vec<u32>,
    /// Tokens that end thinking.
    ends: Vec<u32>,
    parser: StreamParser,
    /// The reply has a thought of its own; otherwise all of it is thinking.
    apart: bool,
    tokens: usize,
    done: bool,
}

/// What looks at tokens: it passes them on and keeps the bounds.
#[derive(Default)]
struct Seen {
    slots: BTreeMap<usize, Slot>,
    bounds: BTreeMap<usize, Bound>,
    events: VecDeque<Event>,
    capped: Vec<(usize, Vec<u32>)>,
    decoded: usize,
}

impl Watch for Seen {
    fn instead(&mut self, sequence: usize, drawn: u32) -> Option<Vec<u32>> {
        let bound = self.bounds.get_mut(&sequence)?;
        let holds = bound.ends.contains(&drawn) && !bound.done && bound.forcing.waits > 0;
        holds.then(|| {
            bound.forcing.waits -= 1;
            bound.wait.clone()
        })
    }

    fn token(&mut self, event: &TokenEvent<'_>) {
        self.decoded += 1;
        if let Some(bound) = self.bounds.get_mut(&event.request) {
            bound.tokens += 1;
            bound.parser.push(event.text);
            bound.done |= bound.apart && !bound.parser.in_reasoning();
            if !bound.done && event.finish_reason.is_none() && bound.forcing.at_most.is_some_and(|n| bound.tokens >= n)
            {
                bound.done = true;
                self.capped.push((event.request, bound.close.clone()));
            }
        }
        if let Some(slot) = self.slots.get(&event.request) {
            let confidence = event.confidence.map(f64::from);
            self.events.push_back(Event::Token(Token { slot: *slot, id: event.id, confidence }));
        }
    }
}

/// The engine as a generator.
pub struct Local<'a> {
    session: Session<'a, 'a>,
    encoder: &'a Encoder,
    end_ids: Vec<u32>,
    source: Source,
    running: BTreeMap<Slot, Running>,
    seen: Seen,
    verified: usize,
    /// Prefill that was for judging.
    judged: usize,
    start: Option<Instant>,
}

impl<'a> Local<'a> {
    /// Over a decoding generator; `end_ids` are those it ends at.
    pub fn new(
        generator: &'a loar_decode::Generator<'a>,
        encoder: &'a Encoder,
        end_ids: &[u32],
        source: Source,
    ) -> Self {
        Self {
            session: generator.session().keeping_prompts(),
            encoder,
            end_ids: end_ids.to_vec(),
            source,
            running: BTreeMap::new(),
            seen: Seen::default(),
            verified: 0,
            judged: 0,
            start: None,
        }
    }

    /// Bytes of keys and values held now.
    pub fn cache_bytes(&self) -> usize {
        self.session.cache_bytes()
    }

    fn tokenizer(&self) -> &'a Tokenizer {
        self.encoder.tokenizer()
    }

    /// Text of the program as tokens: control tokens in it are meant.
    fn own(&self, text: &str) -> Result<Vec<u32>, String> {
        self.tokenizer().encode(text, Special::Parse).map_err(|e| e.to_string())
    }

    fn render(&self, prompt: &Prompt) -> Result<loar_text::Prompt, String> {
        let rendered = match prompt {
            Prompt::Text { text } => self.encoder.completion_prompt(text),
            Prompt::Chat { turns, thinking } => {
                let messages = turns.iter().map(|t| Message::new(t.role.as_str(), t.content.as_str())).collect();
                self.encoder.prompt_with(&Conversation { messages, ..Conversation::default() }, *thinking)
            }
        };
        rendered.map_err(|e| e.to_string())
    }

    fn bound(&self, forcing: Forcing, in_thought: bool) -> Result<Bound, String> {
        let tag = self.tokenizer().id("</think>");
        let apart = in_thought;
        let ends = if apart { tag.into_iter().collect() } else { self.end_ids.clone() };
        if forcing.waits > 0 && ends.is_empty() {
            return Err("the tokenizer has no token `</think>`, so the end of thinking cannot be held back".into());
        }
        let (close, wait) = (self.own(&forcing.close)?, self.own(&forcing.wait)?);
        let parser = StreamParser::new(in_thought);
        Ok(Bound { forcing, close, wait, ends, parser, apart, tokens: 0, done: false })
    }

    /// Puts the generation into the session.
    fn start(&mut self, launch: &Launch) -> Result<(), String> {
        let rendered = self.render(&launch.prompt)?;
        let request = |prompt_ids: Vec<u32>| Request {
            prompt_ids,
            sampling: launch.sampling.clone(),
            key: launch.key,
            confidence_over: if launch.confidence { CONFIDENCE_OVER } else { 0 },
        };
        let fault = |e: loar_decode::DecodeError| e.to_string();
        let (given, ids_before, sequence) = match &launch.start {
            Start::Prompt => (String::new(), Vec::new(), self.session.add(request(rendered.ids)).map_err(fault)?),
            Start::Behind { slot, text } => {
                let before = self.running.get(slot).ok_or("the path to go on from is not held")?;
                let suffix = self.own(text)?;
                let sampling = launch.sampling.clone();
                let continued = self.session.continue_from(before.sequence, &suffix, sampling, launch.key);
                let done = self.session.completion(before.sequence);
                let given = format!("{}{}{text}", before.given, done.map_or("", |c| c.text.as_str()));
                let sequence = continued.map_err(fault)?;
                (given, Vec::new(), sequence)
            }
            Start::Within { slot, bytes } => {
                let before = self.running.get(slot).ok_or("the path to go on from is not held")?;
                let done = self.session.completion(before.sequence).ok_or("the path to go on from was cut")?;
                let all = [before.ids_before.as_slice(), done.ids.as_slice()].concat();
                let (kept, given) = whole_tokens(self.tokenizer(), &all, *bytes);
                let ids = [rendered.ids, kept.to_vec()].concat();
                (given, kept.to_vec(), self.session.add(request(ids)).map_err(fault)?)
            }
            Start::Given { text, own } => {
                let data = self.tokenizer().encode(text, Special::AsText).map_err(|e| e.to_string())?;
                let kept = [data, self.own(own)?].concat();
                let ids = [rendered.ids, kept.clone()].concat();
                (format!("{text}{own}"), kept, self.session.add(request(ids)).map_err(fault)?)
            }
        };
        let in_thought = rendered.starts_in_reasoning;
        if let Some(forcing) = &launch.forcing {
            let bound = self.bound(forcing.clone(), in_thought)?;
            self.seen.bounds.insert(sequence, bound);
        }
        self.seen.slots.insert(sequence, launch.slot);
        self.running.insert(launch.slot, Running { sequence, given, in_thought, ids_before });
        Ok(())
    }

    fn generated(&self, slot: Slot, done: &Completion) -> Generated {
        let running = &self.running[&slot];
        Generated {
            given: running.given.clone(),
            in_thought: running.in_thought,
            text: done.text.clone(),
            ids: done.ids.clone(),
            logprobs: done.logprobs.clone(),
            confidences: done.confidences.clone(),
            tokens: done.ids.len(),
            end: match done.finish_reason {
                FinishReason::Stop => End::Stop,
                FinishReason::StopString => End::StopString,
                FinishReason::Length => End::Length,
                FinishReason::Cancelled => End::NotNeeded,
            },
        }
    }

    /// First tokens of the choices; they must differ.
    fn firsts(&self, choices: &[&str]) -> Result<Vec<u32>, String> {
        let mut ids = Vec::new();
        for choice in choices {
            let id = *self.own(choice)?.first().ok_or("an empty choice has no token")?;
            if ids.contains(&id) {
                return Err(format!("the choices {choices:?} do not differ in their first token"));
            }
            ids.push(id);
        }
        Ok(ids)
    }

    /// One step of the batch; what ended is told behind its last token.
    fn step(&mut self) {
        if let Err(e) = self.session.step(&mut self.seen) {
            // The model itself is broken: every path fails with the same words.
            let slots: Vec<Slot> = self.seen.slots.values().copied().collect();
            for slot in slots {
                if let Some(cut) = self.cancel(slot) {
                    let end = End::Failed { error: e.to_string() };
                    self.seen.events.push_back(Event::End(slot, Generated { end, ..cut }));
                }
            }
            return;
        }
        for (sequence, close) in std::mem::take(&mut self.seen.capped) {
            self.session.force(sequence, &close);
        }
        let ended: Vec<(usize, Slot)> = self.seen.slots.iter().map(|(n, s)| (*n, *s)).collect();
        for (sequence, slot) in ended {
            if let Some(done) = self.session.completion(sequence) {
                let generated = self.generated(slot, done);
                self.seen.events.push_back(Event::End(slot, generated));
                self.seen.slots.remove(&sequence);
                self.seen.bounds.remove(&sequence);
            }
        }
    }
}

/// The longest run of whole tokens whose text has at most so many bytes, and that text.
fn whole_tokens<'t>(tokenizer: &Tokenizer, ids: &'t [u32], bytes: usize) -> (&'t [u32], String) {
    let mut decoder = tokenizer.stream_decoder(false);
    let (mut text, mut best, mut length, mut read) = (String::new(), 0, 0, 0);
    for (n, id) in ids.iter().enumerate() {
        text.push_str(&decoder.push(*id));
        read += tokenizer.token_bytes(*id).len();
        if text.len() > bytes {
            break;
        }
        // Only where no character is half read.
        if read == text.len() {
            (best, length) = (n + 1, text.len());
        }
    }
    text.truncate(length);
    (&ids[..best], text)
}

impl Generator for Local<'_> {
    fn source(&self) -> &Source {
        &self.source
    }

    fn opens_thought(&mut self, prompt: &Prompt) -> Result<bool, String> {
        self.render(prompt).map(|p| p.starts_in_reasoning)
    }

    fn launch(&mut self, launch: Launch) {
        self.start.get_or_insert_with(Instant::now);
        if let Err(error) = self.start(&launch) {
            self.seen.events.push_back(Event::End(launch.slot, Generated::failed(error)));
        }
    }

    fn next(&mut self, until: Option<Instant>) -> Event {
        loop {
            if let Some(event) = self.seen.events.pop_front() {
                return event;
            }
            if self.session.running() == 0 {
                return Event::Nothing;
            }
            if until.is_some_and(|u| Instant::now() >= u) {
                return Event::Quiet;
            }
            self.step();
        }
    }

    fn cancel(&mut self, slot: Slot) -> Option<Generated> {
        let sequence = self.running.get(&slot)?.sequence;
        let done = self.session.cancel(sequence)?;
        self.seen.slots.remove(&sequence);
        self.seen.bounds.remove(&sequence);
        self.seen.events.retain(|e| !matches!(e, Event::Token(t) if t.slot == slot));
        Some(self.generated(slot, &done))
    }

    fn score(&mut self, slot: Slot, text: &str, choices: &[&str]) -> Result<Vec<f64>, String> {
        let (suffix, firsts) = (self.own(text)?, self.firsts(choices)?);
        let sequence = self.running.get(&slot).ok_or("the path is not held")?.sequence;
        let before = self.session.prefilled();
        let scores = self.session.score(sequence, &suffix, &firsts).map_err(|e| e.to_string())?;
        self.judged += self.session.prefilled() - before;
        self.verified += self.session.prefilled() - before + 1;
        Ok(scores.into_iter().map(f64::from).collect())
    }

    fn choose(&mut self, prompt: &Prompt, choices: &[&str]) -> Result<Vec<f64>, String> {
        let mut rendered = self.render(prompt)?;
        if rendered.starts_in_reasoning {
            // A verdict is one token: the thought is closed before it begins.
            rendered.ids.extend(self.own("\n</think>\n\n")?);
        }
        let firsts = self.firsts(choices)?;
        let before = self.session.prefilled();
        let logs = self.session.score_prompt(&rendered.ids, &firsts).map_err(|e| e.to_string())?;
        self.judged += self.session.prefilled() - before;
        self.verified += self.session.prefilled() - before + 1;
        let most = logs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weights: Vec<f64> = logs.iter().map(|l| f64::from(l - most).exp()).collect();
        let all: f64 = weights.iter().sum();
        Ok(weights.into_iter().map(|w| w / all).collect())
    }

    fn usage(&self) -> Usage {
        Usage {
            prefill: self.session.prefilled() - self.judged,
            decode: self.seen.decoded,
            verify: self.verified,
            cancelled: 0,
        }
    }

    fn seconds(&self) -> f64 {
        self.start.map_or(0.0, |s| s.elapsed().as_secs_f64())
    }
}
