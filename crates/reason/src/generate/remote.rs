//! Paths from an OpenAI-compatible endpoint.
//!
//! Every path is a request and a thread of its own, whatever the server makes of `n`; a path that is cut
//! closes its connection. Threads that a server keeps waiting end by the client's patience; nobody waits
//! for them. A second stage and a repair are further turns of the conversation: a server shows no cache.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Instant;

use loar_endpoint::{Cancel, Chat, Client, EndpointError, Piece, Reply, Turn};

use super::{End, Event, Generated, Generator, Launch, Prompt, Slot, Source, Start, Token, Usage};

/// Best tokens that are asked for where confidence is wanted: what the interface allows at most.
const TOP: usize = 20;

/// What the thread of a path tells.
enum Told {
    Piece(Piece),
    Done(Result<Reply, EndpointError>),
}

/// A path's request.
struct Asked {
    prompt: Prompt,
    given: String,
    text: String,
    logprobs: Vec<f32>,
    confidences: Vec<f32>,
    pieces: usize,
    /// The thought comes in a field of its own and is still open.
    thinking: bool,
    cancel: Cancel,
    running: bool,
}

/// An endpoint as a generator.
pub struct Remote {
    client: Client,
    source: Source,
    asked: BTreeMap<Slot, Asked>,
    tell: Sender<(Slot, Told)>,
    told: Receiver<(Slot, Told)>,
    /// Ends that need no thread.
    ready: Vec<(Slot, Generated)>,
    usage: Usage,
    start: Option<Instant>,
}

impl Remote {
    /// Over a client.
    pub fn new(client: Client) -> Self {
        let (tell, told) = channel();
        let source = Source {
            kind: "endpoint".into(),
            place: client.url().to_owned(),
            model: client.model().to_owned(),
            ..Source::default()
        };
        Self {
            client,
            source,
            asked: BTreeMap::new(),
            tell,
            told,
            ready: Vec::new(),
            usage: Usage::default(),
            start: None,
        }
    }

    /// The conversation of a launch, and the text its reply continues.
    fn conversation(&self, launch: &Launch) -> Result<(Vec<Turn>, String), String> {
        let turns = |prompt: &Prompt| match prompt {
            Prompt::Chat { turns, .. } => turns.clone(),
            Prompt::Text { text } => vec![Turn::new("user", text.as_str())],
        };
        let mut all = turns(&launch.prompt);
        let before = |slot: &Slot| self.asked.get(slot).ok_or("the path to go on from is not held");
        let go_on = |all: &mut Vec<Turn>, kept: &str| {
            let mut mark = "=====".to_owned();
            while kept.contains(&mark) {
                mark.push('=');
            }
            if let Some(last) = all.last_mut() {
                last.content.push_str(&format!(
                    "\n\nA solution begins as between the two marks. Go on exactly where it stops; repeat nothing of it.\n{mark}\n{kept}\n{mark}"
                ));
            }
        };
        let given = match &launch.start {
            Start::Prompt => String::new(),
            Start::Behind { slot, text } => {
                let done = before(slot)?;
                let visible = loar_text::StreamParser::parse(&format!("{}{}", done.given, done.text), false);
                let said = if visible.answer.trim().is_empty() {
                    visible.reasoning.unwrap_or_default()
                } else {
                    visible.answer
                };
                all = turns(&done.prompt);
                all.push(Turn::new("assistant", said));
                // Tags mean something to templates, not to a server's user turn.
                all.push(Turn::new("user", text.replace("</think>", "").trim()));
                format!("{}{}{text}", done.given, done.text)
            }
            Start::Within { slot, bytes } => {
                let done = before(slot)?;
                let whole = format!("{}{}", done.given, done.text);
                let mut cut = (*bytes).min(whole.len());
                while !whole.is_char_boundary(cut) {
                    cut -= 1;
                }
                go_on(&mut all, &whole[..cut]);
                whole[..cut].to_owned()
            }
            Start::Given { text, own } => {
                let kept = format!("{text}{}", own.replace("</think>", ""));
                go_on(&mut all, &kept);
                format!("{text}{own}")
            }
        };
        Ok((all, given))
    }

    /// The generation as it is now.
    fn generated(asked: &Asked, end: End, tokens: Option<u64>) -> Generated {
        Generated {
            given: asked.given.clone(),
            in_thought: false,
            text: asked.text.clone(),
            ids: Vec::new(),
            logprobs: asked.logprobs.clone(),
            confidences: asked.confidences.clone(),
            tokens: tokens.map_or(asked.pieces, |n| n as usize),
            end,
        }
    }

    fn piece(&mut self, slot: Slot, piece: &Piece) -> Option<Event> {
        let asked = self.asked.get_mut(&slot).filter(|a| a.running)?;
        if !piece.reasoning.is_empty() {
            if asked.text.is_empty() {
                asked.text.push_str("<think>\n");
                asked.thinking = true;
            }
            asked.text.push_str(&piece.reasoning);
        }
        if !piece.content.is_empty() {
            if std::mem::take(&mut asked.thinking) {
                asked.text.push_str("\n</think>\n\n");
            }
            asked.text.push_str(&piece.content);
        }
        let new = piece.logprobs.len().max(1);
        asked.pieces += new;
        self.usage.decode += new;
        asked.logprobs.extend(piece.logprobs.iter().map(|t| t.logprob as f32));
        let mut confidence = None;
        for token in &piece.logprobs {
            if let Some(c) = crate::stop::confidence::token(&token.top) {
                asked.confidences.push(c as f32);
                confidence = Some(c);
            }
        }
        let text = format!("{}{}", piece.reasoning, piece.content);
        // FNV-1a
        let id = text.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
        Some(Event::Token(Token { slot, id, confidence }))
    }

    fn done(&mut self, slot: Slot, result: Result<Reply, EndpointError>) -> Option<Event> {
        let asked = self.asked.get_mut(&slot).filter(|a| a.running)?;
        asked.running = false;
        let generated = match result {
            Ok(reply) => {
                let end = match reply.finish_reason.as_deref() {
                    Some("length") => End::Length,
                    _ => End::Stop,
                };
                let counted = reply.completion_tokens.unwrap_or(asked.pieces as u64);
                self.usage.decode = self.usage.decode + counted as usize - asked.pieces.min(self.usage.decode);
                self.usage.prefill += reply.prompt_tokens.unwrap_or(0) as usize;
                Self::generated(asked, end, Some(counted))
            }
            Err(e) => Self::generated(asked, End::Failed { error: e.to_string() }, None),
        };
        Some(Event::End(slot, generated))
    }
}

impl Generator for Remote {
    fn source(&self) -> &Source {
        &self.source
    }

    fn opens_thought(&mut self, _: &Prompt) -> Result<bool, String> {
        // The server renders; what it keeps apart comes in a field of its own.
        Ok(false)
    }

    fn launch(&mut self, launch: Launch) {
        self.start.get_or_insert_with(Instant::now);
        let slot = launch.slot;
        if launch.forcing.is_some() {
            let error = "bounds on thinking need the model's own tokens; an endpoint gives none";
            self.ready.push((slot, Generated::failed(error)));
            return;
        }
        let (messages, given) = match self.conversation(&launch) {
            Ok(conversation) => conversation,
            Err(error) => {
                self.ready.push((slot, Generated::failed(error)));
                return;
            }
        };
        let s = &launch.sampling;
        let chat = Chat {
            messages,
            temperature: Some(s.temperature),
            top_p: (s.top_p < 1.0).then_some(s.top_p),
            max_tokens: Some(s.max_new_tokens),
            // Servers key draws by the seed alone: each path has its own.
            seed: Some(s.seed.wrapping_add(u64::from(launch.key))),
            stop: s.stop.clone(),
            top_logprobs: if launch.confidence { TOP } else { 0 },
        };
        let cancel = Cancel::new();
        let (client, tell, flag) = (self.client.clone(), self.tell.clone(), cancel.clone());
        std::thread::spawn(move || {
            let (result, _) = client.stream(&chat, &flag, |piece| {
                let gone = flag.raised() || tell.send((slot, Told::Piece(piece.clone()))).is_err();
                if gone { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            // Nobody listening is no reason to fail.
            let _ = tell.send((slot, Told::Done(result)));
        });
        let asked = Asked {
            prompt: (*launch.prompt).clone(),
            given,
            text: String::new(),
            logprobs: Vec::new(),
            confidences: Vec::new(),
            pieces: 0,
            thinking: false,
            cancel,
            running: true,
        };
        self.asked.insert(slot, asked);
    }

    fn next(&mut self, until: Option<Instant>) -> Event {
        loop {
            if !self.ready.is_empty() {
                let (slot, generated) = self.ready.remove(0);
                return Event::End(slot, generated);
            }
            if !self.asked.values().any(|a| a.running) {
                return Event::Nothing;
            }
            let told = match until {
                Some(until) => self.told.recv_timeout(until.saturating_duration_since(Instant::now())),
                None => self.told.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let event = match told {
                Ok((slot, Told::Piece(piece))) => self.piece(slot, &piece),
                Ok((slot, Told::Done(result))) => self.done(slot, result),
                Err(_) => return Event::Quiet,
            };
            if let Some(event) = event {
                return event;
            }
        }
    }

    fn cancel(&mut self, slot: Slot) -> Option<Generated> {
        let asked = self.asked.get_mut(&slot).filter(|a| a.running)?;
        asked.running = false;
        asked.cancel.raise();
        Some(Self::generated(asked, End::NotNeeded, None))
    }

    fn score(&mut self, _: Slot, _: &str, _: &[&str]) -> Result<Vec<f64>, String> {
        Err("P(True) is read from the model's own cache; an endpoint shows none".into())
    }

    fn choose(&mut self, prompt: &Prompt, choices: &[&str]) -> Result<Vec<f64>, String> {
        let messages = match prompt {
            Prompt::Chat { turns, .. } => turns.clone(),
            Prompt::Text { text } => vec![Turn::new("user", text.as_str())],
        };
        let chat = Chat { messages, temperature: Some(0.0), max_tokens: Some(512), ..Chat::default() };
        let reply = self.client.ask(&chat, &Cancel::new()).map_err(|e| e.to_string())?;
        self.usage.verify += (reply.prompt_tokens.unwrap_or(0) + reply.completion_tokens.unwrap_or(0)) as usize;
        let said = loar_text::StreamParser::parse(&reply.content, false).answer;
        let words: Vec<String> =
            said.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_lowercase).collect();
        let named: Vec<f64> = choices.iter().map(|c| f64::from(u8::from(words.iter().any(|w| w == c)))).collect();
        if named.iter().sum::<f64>() == 1.0 {
            Ok(named)
        } else {
            let shown: String = said.chars().take(80).collect();
            Err(format!("`{shown}` is not one of {choices:?}"))
        }
    }

    fn usage(&self) -> Usage {
        self.usage
    }

    fn seconds(&self) -> f64 {
        self.start.map_or(0.0, |s| s.elapsed().as_secs_f64())
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        for asked in self.asked.values() {
            asked.cancel.raise();
        }
    }
}
