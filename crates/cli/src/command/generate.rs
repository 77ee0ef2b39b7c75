//! `loar generate`: prompts in, answers out, streamed or as JSON lines.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use loar_decode::{Completion, Generator, Request, Sampling};
use loar_text::{Conversation, Message, Prompt, StreamParser};
use serde_json::{Value, json};

use crate::answer_view::{AnswerView, Show, ending, parsed_json};
use crate::console::{Console, Style};
use crate::diagnose::Failure;
use crate::model_dir::{ModelArgs, ModelDir};
use crate::sampling_args::{SamplingArgs, Thinking};

/// Generate answers
///
/// The prompt comes from `--prompt`, from a file of conversations, or from standard input as JSON
/// lines: {"messages": [...]}, {"prompt": "..."} or a string. The same seed gives the same bytes,
/// whatever else is generated beside it.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// One user message (with --raw: the text to continue)
    #[arg(long, value_name = "TEXT", conflicts_with = "messages")]
    prompt: Option<String>,
    /// System message before --prompt
    #[arg(long, value_name = "TEXT", requires = "prompt")]
    system: Option<String>,
    /// File with one conversation, or one a line
    #[arg(long, value_name = "FILE")]
    messages: Option<PathBuf>,
    /// Feed the text as it is, without the chat template
    #[arg(long)]
    raw: bool,
    /// Whether the prompt opens the chain of thought
    #[arg(long, value_enum, default_value_t)]
    thinking: Thinking,
    /// Answers to each prompt
    #[arg(short = 'n', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    samples: u32,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Part of the answer to print
    #[arg(long, value_enum, default_value_t)]
    show: Show,
    /// One JSON object a line for each answer, with ids, log-probabilities and finish reason
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args, console: &mut Console) -> Result<ExitCode, Failure> {
    let inputs = inputs(&args, console)?;
    let dir = ModelDir::open(&args.model)?;
    let prompts = prompts(&args, &dir, &inputs)?;
    let sampling = args.sampling.over(dir.sampling());
    if dir.generation.repetition_penalty.is_some_and(|p| p != 1.0) {
        console.warn(console.pick(
            "generation_config.json asks for a repetition penalty, which is not applied",
            "generation_config.json 要求重复惩罚，此处不予应用",
        ));
    }
    let requests: Vec<Request> =
        prompts.iter().flat_map(|p| (0..args.samples).map(|key| request(p, &sampling, key))).collect();
    let generator = Generator::new(&dir.model, dir.encoder.tokenizer(), dir.end_ids.clone());
    let prompt_of = |r: usize| &prompts[r / args.samples as usize];

    if args.json {
        let done = generator.generate(&requests, |_| {})?;
        for (r, c) in done.iter().enumerate() {
            console.line(answer_json(r, args.samples, prompt_of(r), c, args.raw))?;
        }
    } else if let [only] = requests.as_slice() {
        stream(&generator, only, prompt_of(0), &args, console)?;
    } else {
        let done = generator.generate(&requests, |_| {})?;
        for (r, c) in done.iter().enumerate() {
            let head = format!("── {}.{}", r / args.samples as usize + 1, r % args.samples as usize + 1);
            console.line(console.paint(Style::Cyan, head))?;
            console.write(whole(c, prompt_of(r), &args, console))?;
            if let Some(note) = ending(console, c.finish_reason, c.ids.len()) {
                console.remark(note);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn request(prompt: &Prompt, sampling: &Sampling, key: u32) -> Request {
    Request { prompt_ids: prompt.ids.clone(), sampling: sampling.clone(), key, ..Request::default() }
}

/// Prints one answer while it grows.
fn stream(
    generator: &Generator<'_>,
    request: &Request,
    prompt: &Prompt,
    args: &Args,
    console: &Console,
) -> Result<(), Failure> {
    let mut view = AnswerView::new(console, args.show, prompt.starts_in_reasoning);
    let mut broken = None;
    let done = generator.generate(std::slice::from_ref(request), |event| {
        let text = if args.raw { event.text.to_owned() } else { view.push(event.text) };
        if broken.is_none()
            && let Err(e) = console.write(text)
        {
            broken = Some(e);
        }
    })?;
    if let Some(e) = broken {
        return Err(e.into());
    }
    console.write(if args.raw { "\n".to_owned() } else { view.finish() })?;
    for c in &done {
        if let Some(note) = ending(console, c.finish_reason, c.ids.len()) {
            console.remark(note);
        }
    }
    Ok(())
}

fn whole(c: &Completion, prompt: &Prompt, args: &Args, console: &Console) -> String {
    if args.raw {
        return format!("{}\n", c.text);
    }
    let mut view = AnswerView::new(console, args.show, prompt.starts_in_reasoning);
    let text = view.push(&c.text);
    text + &view.finish()
}

fn answer_json(r: usize, samples: u32, prompt: &Prompt, c: &Completion, raw: bool) -> Value {
    let mut out = json!({
        "prompt": r / samples as usize,
        "sample": r % samples as usize,
        "prompt_tokens": prompt.ids.len(),
        "finish_reason": c.finish_reason,
        "text": c.text,
    });
    if !raw {
        let parsed = StreamParser::parse(&c.text, prompt.starts_in_reasoning);
        if let (Value::Object(map), Value::Object(more)) = (&mut out, parsed_json(&parsed)) {
            map.extend(more);
        }
    }
    out["ids"] = json!(c.ids);
    out["logprobs"] = json!(c.logprobs);
    out
}

/// What the user gave to answer.
enum Input {
    Text(String),
    Chat(Conversation),
}

fn inputs(args: &Args, console: &Console) -> Result<Vec<Input>, Failure> {
    if let Some(prompt) = &args.prompt {
        if args.raw {
            if args.system.is_some() {
                return Err(Failure::usage("`--system` needs a chat template; it does not go with `--raw`"));
            }
            return Ok(vec![Input::Text(prompt.clone())]);
        }
        let system = args.system.clone().map(Message::system);
        let messages = system.into_iter().chain([Message::user(prompt.as_str())]).collect();
        return Ok(vec![Input::Chat(Conversation { messages, ..Conversation::default() })]);
    }
    let (name, text) = match &args.messages {
        Some(path) => {
            (path.display().to_string(), std::fs::read_to_string(path).map_err(|e| Failure::file(path, "read", &e))?)
        }
        None if console.in_is_tty => {
            return Err(Failure::usage("there is no prompt").with_help(
                "give `--prompt TEXT`, `--messages FILE`, or JSON lines on standard input; `loar chat` talks",
            ));
        }
        None => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            ("standard input".to_owned(), text)
        }
    };
    parse_inputs(&name, &text)
}

/// One JSON value, or one a line.
fn parse_inputs(name: &str, text: &str) -> Result<Vec<Input>, Failure> {
    if let Ok(value) = serde_json::from_str::<Value>(text) {
        return Ok(vec![parse_input(&value).map_err(|e| Failure::usage(format!("{name}: {e}")))?]);
    }
    let mut inputs = Vec::new();
    let mut faults = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let parsed = serde_json::from_str::<Value>(line).map_err(|e| e.to_string());
        match parsed.and_then(|v| parse_input(&v)) {
            Ok(input) => inputs.push(input),
            Err(e) => faults.push(format!("{name}:{}: {e}", i + 1)),
        }
    }
    if inputs.is_empty() && faults.is_empty() {
        return Err(Failure::usage(format!("{name} holds no prompt")));
    }
    if faults.is_empty() {
        Ok(inputs)
    } else {
        Err(Failure::usage("some prompts cannot be read")
            .with_faults(faults)
            .with_help("a line is {\"messages\": [...]}, {\"prompt\": \"...\"} or a string"))
    }
}

fn parse_input(value: &Value) -> Result<Input, String> {
    match value {
        Value::String(text) => Ok(Input::Text(text.clone())),
        Value::Object(map) if !map.contains_key("messages") => match map.get("prompt") {
            Some(Value::String(text)) => Ok(Input::Text(text.clone())),
            Some(_) => Err("`prompt` is not a text".into()),
            None => Err("neither `messages` nor `prompt` is there".into()),
        },
        Value::Object(_) | Value::Array(_) => {
            Conversation::from_json(value.to_string().as_bytes()).map(Input::Chat).map_err(|e| e.to_string())
        }
        _ => Err("neither an object nor a text".into()),
    }
}

/// Renders every input; all that cannot be rendered are named at once.
fn prompts(args: &Args, dir: &ModelDir, inputs: &[Input]) -> Result<Vec<Prompt>, Failure> {
    if !args.raw {
        dir.require_template()?;
    }
    let mut prompts = Vec::new();
    let mut faults = Vec::new();
    for (i, input) in inputs.iter().enumerate() {
        let prompt = match (input, args.raw) {
            (Input::Text(text), true) => dir.encoder.completion_prompt(text),
            (Input::Text(text), false) => {
                let conversation =
                    Conversation { messages: vec![Message::user(text.as_str())], ..Conversation::default() };
                dir.encoder.prompt_with(&conversation, args.thinking.of_text())
            }
            (Input::Chat(c), false) => dir.encoder.prompt_with(c, args.thinking.of_text()),
            (Input::Chat(_), true) => {
                faults.push(format!("prompt {}: `--raw` takes texts, not messages", i + 1));
                continue;
            }
        };
        match prompt {
            Ok(prompt) => prompts.push(prompt),
            Err(e) => faults.push(e.in_row(format!("prompt {}", i + 1)).to_string()),
        }
    }
    if faults.is_empty() {
        Ok(prompts)
    } else {
        Err(Failure::usage("some prompts cannot be rendered").with_faults(faults))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_form_is_read_and_every_bad_line_named() {
        let good = "{\"prompt\":\"a\"}\n\n\"b\"\n{\"messages\":[{\"role\":\"user\",\"content\":\"c\"}]}\n";
        assert_eq!(parse_inputs("x", good).unwrap_or_default().len(), 3);
        let pretty = "[\n {\"role\":\"user\",\"content\":\"c\"}\n]";
        assert_eq!(parse_inputs("x", pretty).unwrap_or_default().len(), 1);
        let bad = "{\"prompt\":1}\n{}\nnot json\n\"fine\"\n";
        let drawn = parse_inputs("file", bad).err().expect("three bad lines").render(false, true);
        for part in ["file:1", "file:2", "file:3"] {
            assert!(drawn.contains(part), "{drawn}");
        }
        assert!(parse_inputs("x", "\n").is_err());
    }
}
