//! Rows of single texts → a conversation or a raw pair: Alpaca, and prompt/completion under all of
//! its names.

use loar_text::{Body, Conversation, Message};
use serde_json::{Map, Value};

use crate::body::{extras, missing, optional_text};
use crate::fault::{FaultKind, RowFault, quote};
use crate::options::Format;
use crate::order;
use crate::schema::{Fields, raw_pair, text_of};
use crate::turns::{Reading, apart, list_of, turns};

/// A conversation of plain texts: system, earlier turns, a question and its answer.
fn short_chat(
    row: &mut Map<String, Value>,
    (user, user_path): (String, &str),
    (answer, answer_path): (String, &str),
    reading: &mut Reading<'_>,
) -> Option<Body> {
    let mut conversation = Conversation::default();
    if let Some(system) = optional_text(row, "system", reading) {
        conversation.messages.push(Message::system(system));
    }
    history(row, &mut conversation.messages, reading);
    if user.trim().is_empty() {
        reading.fault(user_path, FaultKind::EmptyUserTurn, quote(&user));
    }
    conversation.messages.push(Message::user(user));
    let mut message = Message::assistant(answer);
    message.reasoning_content = optional_text(row, "reasoning_content", reading);
    apart(&mut message, answer_path, reading);
    if message.content.trim().is_empty() {
        reading.fault(answer_path, FaultKind::EmptyAssistantTurn, quote(&message.content));
    }
    conversation.messages.push(message);
    extras(row, &mut conversation, reading);
    Some(Body::Chat(conversation))
}

/// Alpaca's `history`: pairs of a user text and an assistant text.
fn history(row: &mut Map<String, Value>, messages: &mut Vec<Message>, reading: &mut Reading<'_>) {
    let fields = Fields(reading.options);
    let base = fields.name("history");
    let list = match fields.take(row, "history").map(|value| list_of(value, base)) {
        None => return,
        Some(Err(fault)) => return reading.faults.push(fault),
        Some(Ok(list)) => list,
    };
    for (index, pair) in list.into_iter().enumerate() {
        let path = format!("{base}[{index}]");
        let texts: Option<[String; 2]> = match pair {
            Value::Array(pair) => pair
                .into_iter()
                .map(|v| if let Value::String(text) = v { Some(text) } else { None })
                .collect::<Option<Vec<_>>>()
                .and_then(|texts| texts.try_into().ok()),
            _ => None,
        };
        let Some([user, answer]) = texts else {
            let fault = RowFault::new(path, FaultKind::WrongType, "something else than two texts");
            reading.faults.push(fault.mend("write each earlier exchange as [\"user\", \"assistant\"]"));
            continue;
        };
        if user.trim().is_empty() {
            reading.fault(&format!("{path}[0]"), FaultKind::EmptyUserTurn, quote(&user));
        }
        let mut message = Message::assistant(answer);
        apart(&mut message, &format!("{path}[1]"), reading);
        if message.content.trim().is_empty() {
            reading.fault(&format!("{path}[1]"), FaultKind::EmptyAssistantTurn, quote(&message.content));
        }
        messages.extend([Message::user(user), message]);
    }
}

pub(crate) fn alpaca(row: &mut Map<String, Value>, reading: &mut Reading<'_>) -> Option<Body> {
    let fields = Fields(reading.options);
    let before = reading.faults.len();
    let output = fields.output(row);
    if fields.get(row, "instruction").is_none() {
        missing(row, fields.name("instruction"), Format::Alpaca, reading);
    }
    let Some(output) = output else {
        missing(row, fields.name("output"), Format::Alpaca, reading);
        return None;
    };
    let instruction = optional_text(row, "instruction", reading).unwrap_or_default();
    let user = match optional_text(row, "input", reading) {
        Some(input) if !input.trim().is_empty() => format!("{instruction}\n{input}"),
        _ => instruction,
    };
    let answer_path = fields.name(output);
    let answer = text_of(fields.take(row, output)?, answer_path).map_err(|f| reading.faults.push(f)).ok()?;
    if before == reading.faults.len() {
        return short_chat(row, (user, fields.name("instruction")), (answer, answer_path), reading);
    }
    None
}

/// The text of an answer; a list of exactly one text (ESFT's `answers`) counts as that text.
fn answer_text(value: Value, path: &str) -> Result<String, RowFault> {
    match value {
        Value::Array(mut list) if list.len() == 1 => text_of(list.swap_remove(0), &format!("{path}[0]")),
        Value::Array(list) => {
            let found = format!("{} answers", list.len());
            Err(RowFault::new(path, FaultKind::WrongType, found).mend("keep one answer to train on"))
        }
        other => text_of(other, path),
    }
}

pub(crate) fn pair(row: &mut Map<String, Value>, reading: &mut Reading<'_>) -> Option<Body> {
    let fields = Fields(reading.options);
    let (prompt, completion) = fields.pair(row);
    if prompt.is_none() {
        missing(row, fields.name("prompt"), Format::PromptCompletion, reading);
    }
    if completion.is_none() {
        missing(row, fields.name("completion"), Format::PromptCompletion, reading);
    }
    let (prompt, completion) = (prompt?, completion?);
    let (prompt_path, completion_path) = (fields.name(prompt), fields.name(completion));
    let question = fields.take(row, prompt)?;
    let answer = fields.take(row, completion)?;
    if completion == "answers" && row.contains_key("raw_answers") {
        // ESFT's evaluation rows carry the same answers twice; the second is not a lost field.
        row.swap_remove("raw_answers");
    }
    let turn_list = |v: &Value| matches!(v, Value::Array(l) if l.first().is_some_and(Value::is_object));
    if turn_list(&question) || turn_list(&answer) {
        return turn_pair(row, (question, prompt_path), (answer, completion_path), reading);
    }
    let question = text_of(question, prompt_path).map_err(|f| reading.faults.push(f)).ok();
    let answer = answer_text(answer, completion_path).map_err(|f| reading.faults.push(f)).ok();
    let (question, answer) = (question?, answer?);
    let reasoned = fields.get(row, "reasoning_content").is_some();
    if !raw_pair(reading.options, prompt, completion) || reasoned {
        return short_chat(row, (question, prompt_path), (answer, completion_path), reading);
    }
    for (text, path) in [(&question, prompt_path), (&answer, completion_path)] {
        if text.trim().is_empty() {
            reading.fault(path, FaultKind::EmptyField, quote(text));
        }
    }
    Some(Body::Completion { prompt: question, completion: answer })
}

/// TRL's conversational pair: both sides are lists of turns, and only the completion is trained.
fn turn_pair(
    row: &mut Map<String, Value>,
    (prompt, prompt_path): (Value, &str),
    (completion, completion_path): (Value, &str),
    reading: &mut Reading<'_>,
) -> Option<Body> {
    let read = |value: Value, path: &str, role: &str, reading: &mut Reading<'_>| match value {
        Value::String(text) => vec![Some(Message::new(role, text))],
        other => match list_of(other, path) {
            Ok(list) => turns(list, path, reading),
            Err(fault) => {
                reading.faults.push(fault);
                Vec::new()
            }
        },
    };
    let mut messages = read(prompt, prompt_path, "user", reading);
    for message in messages.iter_mut().flatten() {
        message.train = false;
    }
    messages.extend(read(completion, completion_path, "assistant", reading));
    let base = format!("{prompt_path}+{completion_path}");
    order::check(&messages, &base, reading);
    let mut conversation =
        Conversation { messages: messages.into_iter().flatten().collect(), ..Conversation::default() };
    extras(row, &mut conversation, reading);
    Some(Body::Chat(conversation))
}
