//! One assistant turn: what generation feeds before it, and what the model should then write.
//!
//! Takes a prepared conversation and a message index, gives prompt and response as texts whose
//! control strings stand apart from data. Works by rendering and comparing renderings, with the
//! template as released. Never tokenizes.

use crate::hide::{CLOSE, OPEN};
use crate::options::{EmptyThink, Thinking};
use crate::prepare::{Answer, Prepared};
use crate::row_error::RowFault;
use crate::shape::{Prefill, Shape, set_thinking, without_empty_block};
use crate::template::{ChatTemplate, RenderRequest};
use serde_json::{Value, json};

/// A generation prompt, data hidden.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MarkedPrompt {
    pub text: String,
    pub prefill: Prefill,
}

/// Renders turns of one conversation.
pub(crate) struct Turns<'p, 'a> {
    pub prepared: &'p Prepared<'a>,
    pub template: &'p ChatTemplate,
    pub shape: &'p Shape,
    pub now_unix: Option<u64>,
}

/// Closes an open block without reasoning, in the spacing of the opening.
fn closing(prompt: &str) -> &'static str {
    if prompt.ends_with('\n') { "\n</think>\n\n" } else { CLOSE }
}

impl Turns<'_, '_> {
    fn render(&self, messages: Vec<Value>, generate: bool, thinking: Thinking) -> Result<String, RowFault> {
        let mut request = RenderRequest {
            messages,
            tools: self.prepared.tools.clone(),
            add_generation_prompt: generate,
            kwargs: self.prepared.kwargs.clone(),
            now_unix: self.now_unix,
        };
        match thinking {
            Thinking::Default => {}
            Thinking::On => set_thinking(&mut request.kwargs, true),
            Thinking::Off => set_thinking(&mut request.kwargs, false),
        }
        self.template.render(&request).map_err(|e| RowFault::Template { reason: e.to_string() })
    }

    fn head(&self, end: usize) -> Vec<Value> {
        self.prepared.messages.get(..end).unwrap_or_default().to_vec()
    }

    /// What generation feeds before message `end`.
    pub fn prompt(&self, end: usize, thinking: Thinking) -> Result<MarkedPrompt, RowFault> {
        let mut text = self.render(self.head(end), true, thinking)?;
        let mut prefill = Prefill::of(&text);
        match (thinking, prefill) {
            (Thinking::Off, Prefill::Open(at)) => {
                // The template has no way to close the block itself.
                text.push_str(closing(&text));
                prefill = Prefill::Closed(at);
            }
            (Thinking::On, Prefill::Closed(_)) => return Err(RowFault::CannotThink),
            _ => {}
        }
        Ok(MarkedPrompt { text, prefill })
    }

    /// Rendering of the messages up to and including `last`, as history of a later turn begins.
    pub fn history(&self, last: usize, thinking: Thinking) -> Result<String, RowFault> {
        self.render(self.head(last + 1), false, thinking)
    }

    /// Prompt and response of the assistant turn at `index`.
    pub fn turn(&self, index: usize, policy: EmptyThink) -> Result<(MarkedPrompt, String), RowFault> {
        let Some(Some(answer)) = self.prepared.answers.get(index) else {
            return Err(RowFault::NotAssistant);
        };
        let Some(reasoning) = answer.reasoning.as_deref() else {
            return self.without_reasoning(index, answer, policy);
        };
        let kwargs = &self.prepared.kwargs;
        let off = ["thinking", "enable_thinking"].iter().find(|k| kwargs.get(**k) == Some(&Value::Bool(false)));
        if let Some(key) = off {
            return Err(RowFault::ThinkingForbidden { key });
        }
        let prompt = self.prompt(index, Thinking::On)?;
        let (lead, rest) = self.answer(index, answer, &prompt, Thinking::On)?;
        let response = if let Prefill::Open(_) = prompt.prefill {
            let close = if prompt.text.ends_with('\n') { "\n</think>\n\n" } else { CLOSE };
            format!("{reasoning}{close}{lead}{rest}")
        } else if let Some(block) = self.own_block(index, answer, &prompt)? {
            format!("{}{lead}{rest}", block.replace(self.prepared.reasoning_marker, reasoning))
        } else if let Some(block) = answer.inline.as_deref().and_then(|i| i.strip_suffix(answer.content.as_str())) {
            // A plain template: the data's own spelling, as its history will show it.
            format!("{lead}{block}{rest}")
        } else if self.shape.lines {
            format!("{lead}{OPEN}\n{reasoning}\n{CLOSE}\n\n{rest}")
        } else {
            format!("{lead}{OPEN}{reasoning}{CLOSE}{rest}")
        };
        if !response.contains(reasoning) {
            return Err(RowFault::LostText { what: "reasoning", text: self.prepared.hidden.restore(reasoning) });
        }
        self.ended(prompt, response)
    }

    fn without_reasoning(
        &self,
        index: usize,
        answer: &Answer,
        policy: EmptyThink,
    ) -> Result<(MarkedPrompt, String), RowFault> {
        if !self.shape.thinks {
            let prompt = self.prompt(index, Thinking::Default)?;
            let (lead, rest) = self.answer(index, answer, &prompt, Thinking::Default)?;
            return self.ended(prompt, format!("{lead}{rest}"));
        }
        match policy {
            EmptyThink::Refuse => Err(RowFault::NoReasoning),
            EmptyThink::Mask => {
                let prompt = self.prompt(index, Thinking::Off)?;
                let (lead, rest) = self.answer(index, answer, &prompt, Thinking::Off)?;
                self.ended(prompt, format!("{lead}{rest}"))
            }
            EmptyThink::Train => {
                let prompt = self.prompt(index, Thinking::On)?;
                let (lead, rest) = self.answer(index, answer, &prompt, Thinking::On)?;
                let block = match prompt.prefill {
                    Prefill::Open(_) => closing(&prompt.text).to_string(),
                    _ => self
                        .own_block(index, answer, &prompt)?
                        .map_or(String::new(), |block| block.replace(self.prepared.reasoning_marker, "")),
                };
                self.ended(prompt, format!("{block}{lead}{rest}"))
            }
        }
    }

    /// Where the template writes reasoning itself after this prompt: its block, with the marker in
    /// the place of the reasoning.
    fn own_block(&self, index: usize, answer: &Answer, prompt: &MarkedPrompt) -> Result<Option<String>, RowFault> {
        if prompt.prefill != Prefill::None {
            return Ok(None);
        }
        let mark = self.prepared.reasoning_marker;
        let mut message = self.bare_message(index, answer.content.clone());
        if let Some(map) = message.as_object_mut() {
            map.insert("reasoning_content".into(), json!(mark.to_string()));
        }
        let mut messages = self.head(index);
        messages.push(message);
        let full = self.render(messages, false, Thinking::On)?;
        let Some(rest) = full.strip_prefix(prompt.text.as_str()) else {
            return Ok(None);
        };
        if rest.matches(mark).count() != 1 {
            return Ok(None);
        }
        let Some((before, after)) = rest.split_once(mark) else {
            return Ok(None);
        };
        let Some(at) = after.find(CLOSE) else {
            return Ok(None);
        };
        let tail = after.get(at + CLOSE.len()..).unwrap_or_default();
        let newlines = tail.len() - tail.trim_start_matches('\n').len();
        let block = after.get(..at + CLOSE.len() + newlines).unwrap_or_default();
        Ok(Some(format!("{before}{mark}{block}")))
    }

    /// The message at `index` without reasoning and with this content.
    fn bare_message(&self, index: usize, content: String) -> Value {
        let mut message = self.prepared.messages.get(index).cloned().unwrap_or(Value::Null);
        if let Some(map) = message.as_object_mut() {
            map.remove("reasoning_content");
            if !content.is_empty() || !map.get("content").is_some_and(Value::is_null) {
                map.insert("content".into(), json!(content));
            }
        }
        message
    }

    /// What follows the prompt for this answer: text that the template puts before it (such as the
    /// space after `Assistant:`), and the rest: answer, calls, end of turn.
    fn answer(
        &self,
        index: usize,
        answer: &Answer,
        prompt: &MarkedPrompt,
        thinking: Thinking,
    ) -> Result<(String, String), RowFault> {
        let base = prompt.text.get(..prompt.prefill.start(&prompt.text)).unwrap_or_default();
        let after = |content: String| -> Result<String, RowFault> {
            let mut messages = self.head(index);
            messages.push(self.bare_message(index, content));
            let full = self.render(messages, false, thinking)?;
            match full.strip_prefix(base) {
                Some(rest) => Ok(rest.to_string()),
                None => {
                    let same = full.bytes().zip(base.bytes()).take_while(|(a, b)| a == b).count();
                    Err(RowFault::Diverges { at: same, prompt: around(base, same), rendering: around(&full, same) })
                }
            }
        };
        let full = after(answer.content.clone())?;
        let (lead, rest) = if answer.content.is_empty() {
            (String::new(), without_empty_block(&full).to_string())
        } else {
            let mark = self.prepared.marker;
            let marked = after(mark.to_string())?;
            let (Some((before, tail)), 1) = (marked.split_once(mark), marked.matches(mark).count()) else {
                return Err(self.lost("content", &answer.content));
            };
            let middle = full.strip_prefix(before).and_then(|rest| rest.strip_suffix(tail));
            let Some(middle) = middle.filter(|m| m.trim() == answer.content.trim()) else {
                return Err(self.lost("content", &answer.content));
            };
            (without_empty_block(before).to_string(), format!("{middle}{tail}"))
        };
        for (name, spellings) in &answer.calls {
            if ![&lead, &rest].iter().any(|part| part.contains(name.as_str())) {
                return Err(self.lost("tool call", name));
            }
            if !spellings.iter().any(|s| lead.contains(s.as_str()) || rest.contains(s.as_str())) {
                return Err(self.lost("arguments of a tool call", spellings.first().map_or("", String::as_str)));
            }
        }
        Ok((lead, rest))
    }

    fn lost(&self, what: &'static str, text: &str) -> RowFault {
        RowFault::LostText { what, text: self.prepared.hidden.restore(text) }
    }

    /// Cuts the response after its end-of-turn token; what the template writes after that (a
    /// newline in ChatML) is no part of generation.
    fn ended(&self, prompt: MarkedPrompt, mut response: String) -> Result<(MarkedPrompt, String), RowFault> {
        let Some((end, _)) = &self.shape.end else {
            return Err(RowFault::NoEnd);
        };
        match response.find(end.as_str()) {
            Some(at) => {
                let after = response.split_off(at + end.len());
                if !after.trim().is_empty() {
                    let after = self.prepared.hidden.restore(&after);
                    return Err(RowFault::EndsEarly { end: end.clone(), after });
                }
            }
            // Some released templates forget it after a single tool call.
            None => response.push_str(end),
        }
        Ok((prompt, response))
    }
}

/// Forty bytes around a place, for messages.
fn around(text: &str, at: usize) -> String {
    let start = (at.saturating_sub(20)..=at).find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    let end = (at + 20..=at + 24).find(|i| text.is_char_boundary(*i)).unwrap_or(text.len());
    text.get(start..end.min(text.len())).unwrap_or_default().to_string()
}
