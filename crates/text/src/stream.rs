//! Generated text, split into reasoning, answer and tool calls while it streams.
//!
//! Takes text in pieces of any size (control tokens as their strings, the end-of-turn token left
//! out), gives events. The same text gives the same reasoning, answer and calls however it is cut:
//! what might be the start of a tag is held back. Never loses text: a call that cannot be read is
//! handed out as it stands.

use crate::calls::{ToolCall, deepseek_call, json_call};
use crate::hide::{CLOSE, OPEN};

const CALL_OPEN: &str = "<tool_call>";
/// ChatML puts calls on their own lines; the newline is no part of the answer.
const CALL_OPEN_LINE: &str = "\n<tool_call>";
const CALL_CLOSE: &str = "</tool_call>";
const CALLS_BEGIN: &str = "<｜tool▁calls▁begin｜>";
const CALLS_END: &str = "<｜tool▁calls▁end｜>";
const CALL_BEGIN: &str = "<｜tool▁call▁begin｜>";
const CALL_END: &str = "<｜tool▁call▁end｜>";

/// A piece of output.
#[derive(Clone, Debug, PartialEq)]
pub enum StreamEvent {
    /// More of the chain of thought.
    Reasoning(String),
    /// More of the answer.
    Answer(String),
    /// A complete tool call.
    ToolCall(ToolCall),
    /// A tool call that is cut off or not in the model's form, with its tags.
    BrokenToolCall(String),
}

/// Everything parsed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    /// Chain of thought without tags and outer newlines, if there was one.
    pub reasoning: Option<String>,
    /// Answer.
    pub answer: String,
    /// Tool calls in order.
    pub tool_calls: Vec<ToolCall>,
    /// Calls that could not be read.
    pub broken_calls: Vec<String>,
    /// The text ended inside the chain of thought: there is no answer.
    pub reasoning_truncated: bool,
}

impl Parsed {
    /// Takes events in order.
    pub fn absorb(&mut self, events: Vec<StreamEvent>) {
        for event in events {
            match event {
                StreamEvent::Reasoning(text) => self.reasoning.get_or_insert_default().push_str(&text),
                StreamEvent::Answer(text) => self.answer.push_str(&text),
                StreamEvent::ToolCall(call) => self.tool_calls.push(call),
                StreamEvent::BrokenToolCall(text) => self.broken_calls.push(text),
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    /// Nothing but whitespace so far; may open with `<think>`.
    Start,
    Reasoning,
    Answer,
    /// In `<tool_call>`.
    JsonCall,
    /// In `<｜tool▁calls▁begin｜>`, between calls.
    Calls,
    /// In `<｜tool▁call▁begin｜>`.
    Call,
}

/// Splits generated text.
#[derive(Clone, Debug)]
pub struct StreamParser {
    mode: Mode,
    starts_in_reasoning: bool,
    reasoning_open: bool,
    pending: String,
    /// Bytes of `pending` known to hold no tag.
    scanned: usize,
    /// Newlines of the reasoning that are kept only if more reasoning follows.
    newlines: String,
    said: bool,
    /// Newlines at the head of the answer are layout, not text.
    skip_newlines: bool,
    lead: String,
    tail: String,
}

impl StreamParser {
    /// `starts_in_reasoning` as in [`crate::Prompt`]. Templates with text around an answer
    /// (`Assistant: …`) need [`crate::Encoder::parser`], which knows it.
    pub fn new(starts_in_reasoning: bool) -> Self {
        StreamParser {
            mode: Mode::Start,
            starts_in_reasoning,
            reasoning_open: starts_in_reasoning,
            pending: String::new(),
            scanned: 0,
            newlines: String::new(),
            said: false,
            skip_newlines: false,
            lead: String::new(),
            tail: String::new(),
        }
    }

    /// Text that the template puts before and after every answer, to be taken off.
    pub(crate) fn with_margins(mut self, lead: &str, tail: &str) -> Self {
        self.lead = lead.to_string();
        self.tail = tail.to_string();
        self
    }

    /// True while the text is inside the chain of thought.
    pub fn in_reasoning(&self) -> bool {
        self.reasoning_open
    }

    /// Feeds text; gives what is certain.
    pub fn push(&mut self, text: &str) -> Vec<StreamEvent> {
        self.pending.push_str(text);
        let mut events = Vec::new();
        while self.step(false, &mut events) {}
        events
    }

    /// Ends the text; gives what was held back.
    pub fn finish(&mut self) -> Vec<StreamEvent> {
        let mut events = Vec::new();
        while self.step(true, &mut events) {}
        let rest = std::mem::take(&mut self.pending);
        match self.mode {
            Mode::JsonCall => events.push(StreamEvent::BrokenToolCall(format!("{CALL_OPEN}{rest}"))),
            Mode::Call => events.push(StreamEvent::BrokenToolCall(format!("{CALL_BEGIN}{rest}"))),
            Mode::Start | Mode::Reasoning | Mode::Answer | Mode::Calls => {}
        }
        events
    }

    /// Parses a whole text.
    pub fn parse(text: &str, starts_in_reasoning: bool) -> Parsed {
        StreamParser::new(starts_in_reasoning).parse_all(text)
    }

    /// Parses a whole text with this parser's settings.
    pub fn parse_all(mut self, text: &str) -> Parsed {
        let mut parsed = Parsed::default();
        parsed.absorb(self.push(text));
        parsed.absorb(self.finish());
        parsed.reasoning_truncated = self.reasoning_open;
        parsed
    }

    /// One step; false when more text is needed.
    fn step(&mut self, end: bool, events: &mut Vec<StreamEvent>) -> bool {
        match self.mode {
            Mode::Start => self.start(end),
            Mode::Reasoning => self.until(&[CLOSE], end, events),
            Mode::Answer => self.until(&[CALL_OPEN_LINE, CALL_OPEN, CALLS_BEGIN, CALL_BEGIN], end, events),
            Mode::JsonCall => self.call(CALL_CLOSE, events),
            Mode::Call => self.call(CALL_END, events),
            Mode::Calls => self.until(&[CALL_BEGIN, CALLS_END], end, events),
        }
    }

    fn start(&mut self, end: bool) -> bool {
        let text = self.pending.trim_start();
        if let Some(rest) = text.strip_prefix(OPEN) {
            // A model may repeat the tag that the prompt ends in.
            self.pending = rest.to_string();
            self.mode = Mode::Reasoning;
            self.reasoning_open = true;
            return true;
        }
        let undecided = OPEN.starts_with(text);
        if undecided && !end {
            return false;
        }
        self.mode = if self.starts_in_reasoning { Mode::Reasoning } else { Mode::Answer };
        true
    }

    /// Hands out text up to the first of the tags and enters its mode; without one, hands out what
    /// cannot be part of a tag.
    fn until(&mut self, tags: &[&str], end: bool, events: &mut Vec<StreamEvent>) -> bool {
        let found = tags
            .iter()
            .filter_map(|tag| Some((self.pending.get(self.scanned..)?.find(tag)? + self.scanned, *tag)))
            .min_by_key(|(at, tag)| (*at, std::cmp::Reverse(tag.len())));
        if let Some((at, tag)) = found {
            let after = self.pending.split_off(at + tag.len());
            let mut before = std::mem::replace(&mut self.pending, after);
            before.truncate(at);
            self.scanned = 0;
            self.text(&before, false, events);
            self.enter(tag, events);
            return true;
        }
        let held = if end { 0 } else { self.held_back(tags) };
        let cut = self.pending.len() - held;
        let rest = self.pending.split_off(cut);
        let ready = std::mem::replace(&mut self.pending, rest);
        self.text(&ready, end, events);
        false
    }

    /// Length of the longest end of `pending` that may become a tag (or the template's tail).
    fn held_back(&self, tags: &[&str]) -> usize {
        let tail = if self.mode == Mode::Answer { Some(self.tail.as_str()) } else { None };
        let lead = if self.mode == Mode::Answer && !self.said { Some(self.lead.as_str()) } else { None };
        let lead_open = lead.is_some_and(|l| l.len() > self.pending.len() && l.starts_with(self.pending.as_str()));
        if lead_open {
            return self.pending.len();
        }
        let longest = |tag: &str, whole: bool| {
            let most = if whole { tag.len() } else { tag.len().saturating_sub(1) };
            (1..=most.min(self.pending.len()))
                .rev()
                .find(|n| tag.is_char_boundary(*n) && self.pending.ends_with(&tag[..*n]))
                .unwrap_or(0)
        };
        let tag = tags.iter().map(|t| longest(t, false)).max().unwrap_or(0);
        tag.max(tail.map_or(0, |t| longest(t, true)))
    }

    /// Hands out text of the present mode; `last` when the text ends here.
    fn text(&mut self, text: &str, last: bool, events: &mut Vec<StreamEvent>) {
        match self.mode {
            Mode::Reasoning => {
                let text = if self.said { text } else { text.trim_start_matches('\n') };
                let body = text.trim_end_matches('\n');
                if !body.is_empty() {
                    self.said = true;
                    let whole = format!("{}{body}", std::mem::take(&mut self.newlines));
                    emit(events, &whole, StreamEvent::Reasoning);
                }
                if self.said {
                    self.newlines.push_str(text.get(body.len()..).unwrap_or_default());
                }
            }
            Mode::Answer => {
                let mut text = text;
                if !self.said && !text.is_empty() {
                    if self.skip_newlines {
                        text = text.trim_start_matches('\n');
                    }
                    if !self.lead.is_empty() {
                        text = text.strip_prefix(self.lead.as_str()).unwrap_or(text);
                        if !text.is_empty() || !self.skip_newlines {
                            self.lead.clear();
                        }
                    }
                }
                if last && !self.tail.is_empty() {
                    text = text.strip_suffix(self.tail.as_str()).unwrap_or(text);
                }
                self.said |= !text.is_empty();
                emit(events, text, StreamEvent::Answer);
            }
            // Between calls newlines are layout; anything else is answer.
            Mode::Calls => emit(events, &text.replace('\n', ""), StreamEvent::Answer),
            _ => {}
        }
    }

    fn enter(&mut self, tag: &str, events: &mut Vec<StreamEvent>) {
        self.mode = match tag {
            CLOSE => {
                self.newlines.clear();
                if !self.said {
                    // An empty chain is a chain: the model chose not to think.
                    events.push(StreamEvent::Reasoning(String::new()));
                }
                self.said = false;
                self.skip_newlines = true;
                self.reasoning_open = false;
                Mode::Answer
            }
            CALLS_BEGIN => Mode::Calls,
            CALL_BEGIN => Mode::Call,
            CALLS_END => {
                self.said = true;
                Mode::Answer
            }
            _ => Mode::JsonCall,
        };
    }

    /// Waits for the end of a call.
    fn call(&mut self, close: &str, events: &mut Vec<StreamEvent>) -> bool {
        let Some(at) = self.pending.get(self.scanned..).and_then(|t| t.find(close)).map(|at| at + self.scanned) else {
            let mut from = self.pending.len().saturating_sub(close.len());
            while !self.pending.is_char_boundary(from) {
                from -= 1;
            }
            self.scanned = from;
            return false;
        };
        let after = self.pending.split_off(at + close.len());
        let mut body = std::mem::replace(&mut self.pending, after);
        body.truncate(at);
        self.scanned = 0;
        let (open, parsed, next) = match self.mode {
            Mode::JsonCall => (CALL_OPEN, json_call(&body), Mode::Answer),
            _ => (CALL_BEGIN, deepseek_call(&body), Mode::Calls),
        };
        events.push(match parsed {
            Some(call) => StreamEvent::ToolCall(call),
            None => StreamEvent::BrokenToolCall(format!("{open}{body}{close}")),
        });
        self.said = true;
        self.mode = next;
        true
    }
}

fn emit(events: &mut Vec<StreamEvent>, text: &str, kind: fn(String) -> StreamEvent) {
    if !text.is_empty() {
        events.push(kind(text.to_string()));
    }
}

#[cfg(test)]
mod tests;
