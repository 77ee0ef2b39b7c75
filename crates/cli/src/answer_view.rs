//! An answer as it grows: reasoning apart from what it led to.
//!
//! Takes pieces of generated text, writes the part that is wanted. On a terminal reasoning is dim;
//! in a pipe it stands between `<think>` and `</think>` lines, so that both can be told apart.

use loar_text::{Parsed, StreamEvent, StreamParser, ToolCall};
use serde_json::{Value, json};

use crate::console::{Console, Style};

/// Which part is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Show {
    /// Only the chain of thought
    Reasoning,
    /// Only what follows it
    Answer,
    /// Both, told apart
    #[default]
    Both,
}

/// Prints one answer piece by piece.
pub struct AnswerView {
    parser: StreamParser,
    show: Show,
    /// Escape sequences are welcome.
    colour: bool,
    within_reasoning: bool,
    wrote_anything: bool,
    last: Option<char>,
}

impl AnswerView {
    /// `starts_in_reasoning` as the prompt says.
    pub fn new(console: &Console, show: Show, starts_in_reasoning: bool) -> Self {
        Self {
            parser: StreamParser::new(starts_in_reasoning),
            show,
            colour: console.colour,
            within_reasoning: false,
            wrote_anything: false,
            last: None,
        }
    }

    /// What to write for the next piece.
    pub fn push(&mut self, text: &str) -> String {
        let events = self.parser.push(text);
        self.draw(events)
    }

    /// What to write at the end; the answer then ends with a line break.
    pub fn finish(&mut self) -> String {
        let events = self.parser.finish();
        let mut out = self.draw(events);
        self.leave_reasoning(&mut out);
        if self.wrote_anything && self.last != Some('\n') {
            out.push('\n');
        }
        out
    }

    fn draw(&mut self, events: Vec<StreamEvent>) -> String {
        let mut out = String::new();
        for event in events {
            match event {
                StreamEvent::Reasoning(text) if self.show != Show::Answer => {
                    if !self.within_reasoning {
                        self.within_reasoning = true;
                        out.push_str(match (self.show, self.colour) {
                            (Show::Reasoning, _) => "",
                            (_, true) => "\x1b[2m",
                            (_, false) => "<think>\n",
                        });
                    }
                    self.write(&mut out, &text);
                }
                StreamEvent::Answer(text) if self.show != Show::Reasoning => {
                    self.leave_reasoning(&mut out);
                    self.write(&mut out, &text);
                }
                StreamEvent::ToolCall(call) if self.show != Show::Reasoning => {
                    self.leave_reasoning(&mut out);
                    if self.last.is_some_and(|c| c != '\n') {
                        self.write(&mut out, "\n");
                    }
                    let line = format!("{}\n", tool_call(&call));
                    self.write(&mut out, &line);
                }
                _ => {}
            }
        }
        out
    }

    fn write(&mut self, out: &mut String, text: &str) {
        if let Some(last) = text.chars().last() {
            self.last = Some(last);
            self.wrote_anything = true;
        }
        out.push_str(text);
    }

    fn leave_reasoning(&mut self, out: &mut String) {
        if !self.within_reasoning {
            return;
        }
        self.within_reasoning = false;
        if self.show == Show::Reasoning {
            return;
        }
        if self.last.is_some_and(|c| c != '\n') {
            out.push('\n');
        }
        out.push_str(if self.colour { "\x1b[0m\n" } else { "</think>\n" });
        self.last = Some('\n');
    }
}

/// A call as one line of JSON.
fn tool_call(call: &ToolCall) -> Value {
    let arguments: Value = serde_json::from_str(&call.arguments).unwrap_or_else(|_| call.arguments.clone().into());
    json!({"name": call.name, "arguments": arguments})
}

/// A parsed answer for `--json`.
pub fn parsed_json(parsed: &Parsed) -> Value {
    json!({
        "reasoning": parsed.reasoning,
        "answer": parsed.answer,
        "tool_calls": parsed.tool_calls.iter().map(tool_call).collect::<Vec<_>>(),
        "reasoning_truncated": parsed.reasoning_truncated,
    })
}

/// What a person should know about how the answer ended; nothing when it ended by itself.
pub fn ending(console: &Console, reason: loar_decode::FinishReason, tokens: usize) -> Option<String> {
    use loar_decode::FinishReason as R;
    let text = match reason {
        R::Stop | R::StopString => return None,
        R::Length => match console.lang {
            crate::console::Lang::En => {
                format!("cut after {tokens} tokens; --max-new-tokens raises the bound")
            }
            crate::console::Lang::Zh => {
                format!("在 {tokens} 个词元后截断；可用 --max-new-tokens 提高上限")
            }
        },
        R::Cancelled => console.pick("interrupted", "已中断").to_owned(),
    };
    Some(console.paint_err(Style::Dim, format!("[{text}]")))
}
