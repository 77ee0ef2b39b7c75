//! Records played back: the same recipe over recorded paths.
//!
//! With an engine every path is generated again, up to where it was cut, and must give the same tokens and
//! the same text; without one (records of endpoints) the recorded texts stand for generation. Everything
//! behind generation is done again: answers, verdicts, fusion, stopping, the decision. The new record must be
//! the old one byte for byte; else the first differences are named.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use serde_json::Value;

use crate::generate::{Event, Generated, Generator, Launch, Prompt, Slot, Source, Stage, Token, Usage};
use crate::record::{Happened, Record, differences};
use crate::run::{Task, answer};
use crate::verify::Verifier;

/// Differences that are named.
const NAMED: usize = 20;

/// A record as a generator.
pub struct Replay<'r> {
    record: &'r Record,
    engine: Option<&'r mut dyn Generator>,
    happened: VecDeque<Happened>,
    queue: VecDeque<Event>,
    /// What the engine has given and nobody has taken.
    given: BTreeMap<Slot, Generated>,
    /// What was launched and has not ended.
    live: Vec<Slot>,
    consulted: usize,
    differs: Vec<String>,
}

impl<'r> Replay<'r> {
    /// Over a record, with the engine that generates it again, if there is one.
    pub fn new(record: &'r Record, engine: Option<&'r mut dyn Generator>) -> Self {
        Self {
            happened: record.happened.iter().copied().collect(),
            record,
            engine,
            queue: VecDeque::new(),
            given: BTreeMap::new(),
            live: Vec::new(),
            consulted: 0,
            differs: Vec::new(),
        }
    }

    fn recorded(&self, slot: Slot) -> Option<&'r Generated> {
        let path = self.record.paths.get(slot.path)?;
        match slot.stage {
            Stage::Chain => path.chain.as_ref(),
            Stage::Answer => path.asked.as_ref(),
        }
    }

    /// A generation as it is now: from the engine, or from the record.
    fn generate(&mut self, slot: Slot) -> Generated {
        let Some(recorded) = self.recorded(slot) else {
            self.differs.push(format!("path {} {:?}: the record has no such generation", slot.path, slot.stage));
            return Generated::failed("not in the record");
        };
        let Some(engine) = self.engine.as_mut() else {
            return recorded.clone();
        };
        while !self.given.contains_key(&slot) {
            match engine.next(None) {
                Event::End(ended, generated) => drop(self.given.insert(ended, generated)),
                Event::Token(_) | Event::Quiet => {}
                Event::Exhausted(_) | Event::Nothing => break,
            }
        }
        let mut now = self.given.remove(&slot).unwrap_or_else(|| Generated::failed("the engine gave nothing"));
        if recorded.end.cut() {
            now.end = recorded.end.clone();
        }
        let head = format!("path {} {:?}", slot.path, slot.stage).to_lowercase();
        if let Some(at) = (0..recorded.ids.len().max(now.ids.len())).find(|i| recorded.ids.get(*i) != now.ids.get(*i)) {
            let show = |ids: &[u32]| ids.get(at).map_or("none".to_owned(), u32::to_string);
            self.differs.push(format!("{head}: token {at} was {}, is {}", show(&recorded.ids), show(&now.ids)));
        } else if recorded.text != now.text {
            self.differs.push(format!("{head}: the same tokens give another text"));
        }
        now
    }

    /// Tokens of a generation, as they would have come.
    fn tokens(slot: Slot, generated: &Generated) -> Vec<Event> {
        let confidence = |i: usize| generated.confidences.get(i).map(|c| f64::from(*c));
        let token = |(i, id): (usize, &u32)| Event::Token(Token { slot, id: *id, confidence: confidence(i) });
        generated.ids.iter().enumerate().map(token).collect()
    }

    fn consult(&mut self, now: Option<Result<Vec<f64>, String>>) -> Result<Vec<f64>, String> {
        self.consulted += 1;
        match now {
            Some(said) => said,
            None => {
                let recorded =
                    self.record.consulted.get(self.consulted - 1).ok_or("the record has no such question")?;
                let error = recorded.error.clone().unwrap_or_default();
                recorded.said.clone().ok_or(error)
            }
        }
    }
}

impl Generator for Replay<'_> {
    fn source(&self) -> &Source {
        match &self.engine {
            Some(engine) => engine.source(),
            None => &self.record.source,
        }
    }

    fn opens_thought(&mut self, _: &Prompt) -> Result<bool, String> {
        Ok(self.record.setup.nature == crate::policy::Nature::Reasoning)
    }

    fn launch(&mut self, mut launch: Launch) {
        let slot = launch.slot;
        self.live.push(slot);
        let recorded = self.recorded(slot);
        let Some(engine) = self.engine.as_mut() else { return };
        match recorded {
            Some(r) if r.end.cut() && r.tokens == 0 => {
                // Cut before its first token: nothing to generate.
                self.given.insert(slot, r.clone());
            }
            Some(r) => {
                if r.end.cut() {
                    launch.sampling.max_new_tokens = r.tokens;
                }
                engine.launch(launch);
            }
            None => {}
        }
    }

    fn next(&mut self, _: Option<Instant>) -> Event {
        if let Some(event) = self.queue.pop_front() {
            return event;
        }
        match self.happened.pop_front() {
            None => Event::Nothing,
            Some(Happened::Exhausted(budget)) => Event::Exhausted(budget),
            Some(Happened::Ended(slot)) => {
                let generated = self.generate(slot);
                self.live.retain(|s| *s != slot);
                if self.engine.is_some() {
                    self.queue.extend(Self::tokens(slot, &generated));
                    // What is cut by a look at its tokens is cut again; `cancel` hands it out.
                    self.given.insert(slot, generated.clone());
                }
                self.queue.push_back(Event::End(slot, generated));
                self.next(None)
            }
        }
    }

    fn cancel(&mut self, slot: Slot) -> Option<Generated> {
        let queued = self.queue.iter().position(|e| matches!(e, Event::End(s, _) if *s == slot));
        if let Some(at) = queued {
            // The recipe looks at a token and cuts: its end is now.
            let Some(Event::End(_, mut generated)) = self.queue.remove(at) else { return None };
            let left = self.queue.iter().filter(|e| matches!(e, Event::Token(t) if t.slot == slot)).count();
            if left > 0 {
                self.differs.push(format!("path {}: it is cut {left} tokens earlier than recorded", slot.path));
                generated.ids.truncate(generated.ids.len() - left);
            }
            self.queue.retain(|e| !matches!(e, Event::Token(t) if t.slot == slot));
            return Some(generated);
        }
        let at = self.live.iter().position(|s| *s == slot)?;
        self.live.remove(at);
        Some(self.generate(slot))
    }

    fn score(&mut self, slot: Slot, text: &str, choices: &[&str]) -> Result<Vec<f64>, String> {
        let now = self.engine.as_mut().map(|e| e.score(slot, text, choices));
        self.consult(now)
    }

    fn choose(&mut self, prompt: &Prompt, choices: &[&str]) -> Result<Vec<f64>, String> {
        let now = self.engine.as_mut().map(|e| e.choose(prompt, choices));
        self.consult(now)
    }

    fn usage(&self) -> Usage {
        self.record.cost.tokens
    }

    fn seconds(&self) -> f64 {
        self.record.cost.seconds
    }
}

/// Plays a record back; the differences, none when it gives the same bytes.
pub fn replay<'r>(
    record: &'r Record,
    bytes: &[u8],
    verifiers: &[Box<dyn Verifier>],
    engine: Option<&'r mut (dyn Generator + 'r)>,
) -> Vec<String> {
    let task = Task { question: &record.question, setup: &record.setup, examples: &record.examples, verifiers };
    let mut generator = Replay::new(record, engine);
    let now = answer(&task, &mut generator);
    let mut differs = std::mem::take(&mut generator.differs);
    if now.bytes() != bytes {
        let value = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap_or(Value::Null);
        let mut recorded = value(bytes);
        let mut played = value(&now.bytes());
        for v in [&mut recorded, &mut played] {
            if let Some(object) = v.as_object_mut() {
                object.shift_remove("id");
            }
        }
        let left = NAMED.saturating_sub(differs.len());
        differs.extend(differences(&recorded, &played, left));
        if differs.is_empty() {
            differs.push("the values are the same and their spelling is not".into());
        }
    }
    differs
}
