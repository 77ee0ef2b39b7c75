//! `loar chat`: a conversation in the terminal.

use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use loar_decode::{FinishReason, Generator, Request};
use loar_text::{Conversation, Message, StreamParser};

use crate::answer_view::{AnswerView, Show, ending};
use crate::console::{Console, Style};
use crate::diagnose::Failure;
use crate::model_dir::{ModelArgs, ModelDir};
use crate::sampling_args::{SamplingArgs, Thinking};

/// Talk to a model
///
/// /reset forgets the conversation, /system TEXT sets the system message, /think on|off|default
/// opens or closes the chain of thought, /quit ends. Ctrl-C interrupts an answer.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// System message
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Whether the prompt opens the chain of thought
    #[arg(long, value_enum, default_value_t)]
    thinking: Thinking,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Part of the answer to print
    #[arg(long, value_enum, default_value_t)]
    show: Show,
}

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Say(&'a str),
    Reset,
    System(&'a str),
    Think(Thinking),
    Help,
    Quit,
    Unknown(&'a str),
    Nothing,
}

impl<'a> Line<'a> {
    fn of(line: &'a str) -> Self {
        let line = line.trim();
        let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match (command, rest.trim()) {
            ("", _) => Self::Nothing,
            ("/reset", "") => Self::Reset,
            ("/system", text) => Self::System(text),
            ("/think", "on") => Self::Think(Thinking::On),
            ("/think", "off") => Self::Think(Thinking::Off),
            ("/think", "default") => Self::Think(Thinking::Default),
            ("/help", _) => Self::Help,
            ("/quit" | "/exit", "") => Self::Quit,
            (c, _) if c.starts_with('/') => Self::Unknown(c),
            _ => Self::Say(line),
        }
    }
}

/// The conversation so far.
struct Session<'a> {
    dir: &'a ModelDir,
    args: Args,
    history: Vec<Message>,
    turn: u32,
    cancel: Arc<AtomicBool>,
    answering: Arc<AtomicBool>,
}

/// Runs the command.
pub fn run(args: Args, console: &mut Console) -> Result<ExitCode, Failure> {
    let dir = ModelDir::open(&args.model)?;
    dir.require_template()?;
    let (cancel, answering) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    {
        let (cancel, answering) = (cancel.clone(), answering.clone());
        ctrlc::set_handler(move || {
            if answering.load(Ordering::Relaxed) {
                cancel.store(true, Ordering::Relaxed);
            } else {
                // waiting for a line: there is nothing to save
                std::process::exit(0);
            }
        })
        .map_err(|e| Failure::environment(format!("Ctrl-C cannot be caught: {e}")))?;
    }
    let mut session = Session { history: system(args.system.as_deref()), dir: &dir, args, turn: 0, cancel, answering };
    if console.out_is_tty {
        console.remark(console.paint_err(Style::Dim, help(console)));
    }
    let stdin = std::io::stdin();
    loop {
        if console.in_is_tty && console.out_is_tty {
            console.write(console.paint(Style::Green, "» "))?;
        }
        let mut line = String::new();
        if stdin.lock().read_line(&mut line)? == 0 {
            return Ok(ExitCode::SUCCESS);
        }
        match Line::of(&line) {
            Line::Nothing => {}
            Line::Quit => return Ok(ExitCode::SUCCESS),
            Line::Help => console.remark(help(console)),
            Line::Unknown(c) => {
                console.warn(format_args!("{} `{c}`; {}", console.pick("unknown command", "未知命令"), help(console)))
            }
            Line::Reset => session.history.retain(|m| m.role == "system"),
            Line::System(text) => session.history = system(Some(text).filter(|t| !t.is_empty())),
            Line::Think(thinking) => session.args.thinking = thinking,
            Line::Say(text) => session.answer(text, console)?,
        }
    }
}

fn system(text: Option<&str>) -> Vec<Message> {
    text.map(Message::system).into_iter().collect()
}

fn help(console: &Console) -> &'static str {
    match console.lang {
        crate::console::Lang::En => "/reset  /system TEXT  /think on|off|default  /quit; Ctrl-C interrupts",
        crate::console::Lang::Zh => "/reset 重新开始  /system 文本  /think on|off|default  /quit 退出；Ctrl-C 中断回答",
    }
}

impl Session<'_> {
    /// One turn. A turn that cannot be rendered or run is told and forgotten; the talk goes on.
    fn answer(&mut self, text: &str, console: &Console) -> Result<(), Failure> {
        self.history.push(Message::user(text));
        let conversation = Conversation { messages: self.history.clone(), ..Conversation::default() };
        let prompt = match self.dir.encoder.prompt_with(&conversation, self.args.thinking.of_text()) {
            Ok(prompt) => prompt,
            Err(e) => {
                self.history.pop();
                console.warn(e);
                return Ok(());
            }
        };
        let request = Request {
            prompt_ids: prompt.ids.clone(),
            sampling: self.args.sampling.over(self.dir.sampling()),
            key: self.turn,
            ..Request::default()
        };
        self.turn = self.turn.wrapping_add(1);
        self.cancel.store(false, Ordering::Relaxed);
        self.answering.store(true, Ordering::Relaxed);
        let mut view = AnswerView::new(console, self.args.show, prompt.starts_in_reasoning);
        let mut written = Ok(());
        let done = Generator::new(&self.dir.model, self.dir.encoder.tokenizer(), self.dir.end_ids.clone())
            .with_cancel(&self.cancel)
            .generate(std::slice::from_ref(&request), |event| {
                let text = view.push(event.text);
                if written.is_ok() {
                    written = console.write(text);
                }
            });
        self.answering.store(false, Ordering::Relaxed);
        written?;
        console.write(view.finish())?;
        std::io::stdout().flush()?;
        let completion = match done {
            Ok(mut done) => done.remove(0),
            Err(e) => {
                self.history.pop();
                console.warn(e);
                return Ok(());
            }
        };
        if let Some(note) = ending(console, completion.finish_reason, completion.ids.len()) {
            console.remark(note);
        }
        if completion.finish_reason == FinishReason::Cancelled && completion.ids.is_empty() {
            self.history.pop();
            return Ok(());
        }
        // The template drops the reasoning of earlier turns where the model was trained so.
        let parsed = StreamParser::parse(&completion.text, prompt.starts_in_reasoning);
        let mut reply = Message::assistant(parsed.answer);
        reply.reasoning_content = parsed.reasoning.filter(|r| !r.is_empty());
        reply.tool_calls = parsed
            .tool_calls
            .iter()
            .enumerate()
            .map(|(i, c)| {
                serde_json::json!({"id": format!("call_{}_{i}", self.turn), "type": "function",
                    "function": {"name": c.name, "arguments": c.arguments}})
            })
            .collect();
        self.history.push(reply);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_commands_or_speech() {
        assert_eq!(Line::of("  "), Line::Nothing);
        assert_eq!(Line::of("hello /reset"), Line::Say("hello /reset"));
        assert_eq!(Line::of("/reset\n"), Line::Reset);
        assert_eq!(Line::of("/system be short"), Line::System("be short"));
        assert_eq!(Line::of("/think off"), Line::Think(Thinking::Off));
        assert_eq!(Line::of("/quit"), Line::Quit);
        assert_eq!(Line::of("/frobnicate x"), Line::Unknown("/frobnicate"));
    }
}
