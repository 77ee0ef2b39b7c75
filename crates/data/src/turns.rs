//! A list of turns → messages: OpenAI (`role`, `content`) and ShareGPT (`from`, `value`) spellings,
//! told turn by turn. Every fault of the list is collected. Never judges the order of the turns.

use std::collections::BTreeMap;

use loar_text::Message;
use serde_json::{Map, Value, json};

use crate::fault::{FaultKind, RowFault, describe, quote};
use crate::options::ReadOptions;
use crate::schema::{Fields, text_of};
use crate::strict;
use crate::think;

/// What the schema readers share while they read one row.
pub(crate) struct Reading<'a> {
    pub options: &'a ReadOptions,
    pub faults: Vec<RowFault>,
    /// Fields nobody asked for, with the number of rows (or turns) that have them.
    pub ignored: &'a mut BTreeMap<String, usize>,
}

impl Reading<'_> {
    pub fn fault(&mut self, path: &str, kind: FaultKind, found: impl Into<String>) {
        self.faults.push(RowFault::new(path, kind, found));
    }

    pub fn ignore(&mut self, name: &str) {
        if let Some(count) = self.ignored.get_mut(name) {
            *count += 1;
        } else if self.ignored.len() < 256 {
            // Bounded, for rows whose keys are data.
            self.ignored.insert(name.to_owned(), 1);
        }
    }
}

/// ShareGPT and other names of the four roles.
const ALIASES: [(&str, &str); 16] = [
    ("system", "system"),
    ("developer", "developer"),
    ("user", "user"),
    ("human", "user"),
    ("assistant", "assistant"),
    ("gpt", "assistant"),
    ("chatgpt", "assistant"),
    ("bot", "assistant"),
    ("model", "assistant"),
    ("bing", "assistant"),
    ("function_call", "assistant"),
    ("tool_call", "assistant"),
    ("tool", "tool"),
    ("observation", "tool"),
    ("function", "tool"),
    ("function_response", "tool"),
];

/// A list, given as such or as JSON text.
pub(crate) fn list_of(value: Value, path: &str) -> Result<Vec<Value>, RowFault> {
    let value = match value {
        Value::String(text) if text.trim_start().starts_with('[') => {
            strict::value(text.as_bytes()).map_err(|fault| {
                let found = format!("JSON text that cannot be read: {} {}", fault.kind, fault.found);
                RowFault::new(path, FaultKind::WrongType, found)
            })?
        }
        other => other,
    };
    match value {
        Value::Array(list) => Ok(list),
        other => Err(RowFault::new(path, FaultKind::WrongType, describe(&other)).mend("a list is expected here")),
    }
}

/// Reads the turns of `list`; `base` is the path of the list. A turn with a fault of its own is
/// `None`, so that the others keep their places.
pub(crate) fn turns(list: Vec<Value>, base: &str, reading: &mut Reading<'_>) -> Vec<Option<Message>> {
    if list.is_empty() {
        reading.fault(base, FaultKind::EmptyConversation, "an empty list");
    }
    let mut messages = Vec::with_capacity(list.len());
    for (index, value) in list.into_iter().enumerate() {
        let path = format!("{base}[{index}]");
        messages.push(match value {
            Value::Object(turn) => message(turn, &path, base, reading),
            other => {
                let fault = RowFault::new(path, FaultKind::WrongType, describe(&other));
                reading.faults.push(fault.mend("a turn is an object with a role and a content"));
                None
            }
        });
    }
    messages
}

fn message(mut turn: Map<String, Value>, path: &str, base: &str, reading: &mut Reading<'_>) -> Option<Message> {
    let options = reading.options;
    let fields = Fields(options);
    let before = reading.faults.len();
    let key = ["role", "from"].into_iter().find(|k| fields.get(&turn, k).is_some());
    let (role, called_by_role) = match key.and_then(|k| Some((k, fields.take(&mut turn, k)?))) {
        None => {
            let keys: Vec<&str> = turn.keys().take(8).map(String::as_str).collect();
            let found = format!("the fields {}", quote(&keys.join(", ")));
            reading.fault(path, FaultKind::MissingRole, found);
            (None, false)
        }
        Some((key, value)) => {
            let path = format!("{path}.{}", fields.name(key));
            match text_of(value, &path) {
                Err(fault) => {
                    reading.faults.push(fault);
                    (None, false)
                }
                Ok(name) => {
                    let mapped = options.roles.get(&name).map(String::as_str);
                    let known = ALIASES.iter().find(|(from, _)| *from == name).map(|(_, to)| *to);
                    let role = mapped.or(known);
                    if role.is_none() {
                        let mend = format!(
                            "use system, user, assistant or tool, or map it with `roles = {{{name:?} = \"user\"}}`"
                        );
                        let fault = RowFault::new(path, FaultKind::UnknownRole, quote(&name));
                        reading.faults.push(if name.len() > 32 { fault } else { fault.mend(mend) });
                    }
                    let called = matches!(name.as_str(), "function_call" | "tool_call");
                    (role, called)
                }
            }
        }
    };
    let key = ["content", "value"].into_iter().find(|k| turn.contains_key(fields.name(k)));
    let content_path = format!("{path}.{}", fields.name(key.unwrap_or("content")));
    let content = key.and_then(|k| fields.take(&mut turn, k));
    let mut calls = Vec::new();
    if let Some(value) = fields.take(&mut turn, "tool_calls") {
        let path = format!("{path}.{}", fields.name("tool_calls"));
        match list_of(value, &path) {
            Ok(list) => calls = tool_calls(list, &path, reading),
            Err(fault) => reading.faults.push(fault),
        }
    }
    if let Some(value) = turn.swap_remove("function_call").filter(|v| !v.is_null()) {
        calls.extend(tool_calls(vec![value], &format!("{path}.function_call"), reading));
    }
    let mut text = String::new();
    match content {
        Some(value) if called_by_role => {
            let list = match value {
                Value::String(text) => strict::value(text.as_bytes()).map(|value| match value {
                    Value::Array(list) => list,
                    other => vec![other],
                }),
                Value::Array(list) => Ok(list),
                other => Ok(vec![other]),
            };
            match list {
                Ok(list) => calls.extend(tool_calls(list, &content_path, reading)),
                Err(fault) => reading.fault(&content_path, FaultKind::BadToolCall, fault.found),
            }
        }
        Some(value) => match content_text(value, &content_path) {
            Ok(found) => text = found,
            Err(faults) => reading.faults.extend(faults),
        },
        None if role == Some("assistant") => {}
        None => {
            let found = if key.is_some() { "null" } else { "" };
            reading.fault(&content_path, FaultKind::MissingField, found);
        }
    }
    let mut reasoning = None;
    for name in ["reasoning_content", "reasoning", "thinking"] {
        if let Some(value) = fields.take(&mut turn, name) {
            match text_of(value, &format!("{path}.{}", fields.name(name))) {
                Ok(found) if reasoning.is_none() => reasoning = Some(found),
                Ok(found) if reasoning.as_ref() == Some(&found) => {}
                Ok(found) => {
                    let fault = RowFault::new(format!("{path}.{name}"), FaultKind::DuplicateKey, quote(&found));
                    reading.faults.push(fault.mend("keep one of the reasoning fields"));
                }
                Err(fault) => reading.faults.push(fault),
            }
        }
    }
    let optional = |turn: &mut Map<String, Value>, name, reading: &mut Reading<'_>| {
        let value = fields.take(turn, name)?;
        text_of(value, &format!("{path}.{}", fields.name(name))).map_err(|f| reading.faults.push(f)).ok()
    };
    let tool_call_id = optional(&mut turn, "tool_call_id", reading);
    let name = optional(&mut turn, "name", reading);
    let mut train = role == Some("assistant");
    for key in ["weight", "train", "loss"] {
        if let Some(value) = fields.take(&mut turn, key) {
            match flag(&value) {
                Some(on) => train &= on,
                None => {
                    let path = format!("{path}.{}", fields.name(key));
                    reading.fault(&path, FaultKind::BadWeight, describe(&value));
                }
            }
        }
    }
    for (key, value) in &turn {
        if !value.is_null() {
            reading.ignore(&format!("{base}[].{key}"));
        }
    }
    let role = role.filter(|_| reading.faults.len() == before)?;
    let mut message = Message::new(role, text);
    message.train = train;
    message.tool_calls = calls;
    message.tool_call_id = tool_call_id;
    message.name = name;
    message.reasoning_content = reasoning;
    if role == "assistant" {
        apart(&mut message, &content_path, reading)?;
    }
    Some(message)
}

/// Moves inline thinking into its field.
pub(crate) fn apart(message: &mut Message, path: &str, reading: &mut Reading<'_>) -> Option<()> {
    match think::split(std::mem::take(&mut message.content), reading.options.think) {
        Ok((None, content)) => message.content = content,
        Ok((Some(_), _)) if message.reasoning_content.is_some() => {
            reading.fault(path, FaultKind::ThinkAndField, "`<think>` in the content");
            return None;
        }
        Ok((inline, content)) => {
            message.content = content;
            message.reasoning_content = inline;
        }
        Err((kind, found)) => {
            reading.fault(path, kind, found);
            return None;
        }
    }
    Some(())
}

fn flag(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(on) => Some(*on),
        Value::Number(n) if n.as_f64() == Some(0.0) => Some(false),
        Value::Number(n) if n.as_f64() == Some(1.0) => Some(true),
        _ => None,
    }
}

/// Text, or a list of text parts joined as they stand.
fn content_text(value: Value, path: &str) -> Result<String, Vec<RowFault>> {
    let parts = match value {
        Value::String(text) => return Ok(text),
        Value::Array(parts) => parts,
        other => return text_of(other, path).map_err(|fault| vec![fault]),
    };
    let (mut text, mut faults) = (String::new(), Vec::new());
    for (index, part) in parts.into_iter().enumerate() {
        let path = format!("{path}[{index}]");
        match part {
            Value::String(piece) => text.push_str(&piece),
            Value::Object(mut part) => {
                let kind = part.get("type").and_then(Value::as_str).unwrap_or("text").to_owned();
                match part.swap_remove("text") {
                    Some(Value::String(piece)) if kind == "text" => text.push_str(&piece),
                    Some(other) if kind == "text" && !other.is_null() => {
                        faults.extend(text_of(other, &format!("{path}.text")).err());
                    }
                    _ if kind == "text" => {
                        faults.push(RowFault::new(format!("{path}.text"), FaultKind::MissingField, ""));
                    }
                    _ => faults.push(RowFault::new(path, FaultKind::UnsupportedPart, quote(&kind))),
                }
            }
            other => faults.extend(text_of(other, &path).err()),
        }
    }
    if faults.is_empty() { Ok(text) } else { Err(faults) }
}

/// Calls in OpenAI's form; the flat `{name, arguments}` is wrapped.
fn tool_calls(list: Vec<Value>, base: &str, reading: &mut Reading<'_>) -> Vec<Value> {
    let mut calls = Vec::with_capacity(list.len());
    for (index, value) in list.into_iter().enumerate() {
        let path = format!("{base}[{index}]");
        let Value::Object(mut call) = value else {
            reading.fault(&path, FaultKind::BadToolCall, describe(&value));
            continue;
        };
        if !call.contains_key("function") {
            let function: Map<String, Value> = ["name", "arguments"]
                .iter()
                .filter_map(|key| Some(((*key).to_owned(), call.swap_remove(*key)?)))
                .collect();
            call.insert("function".into(), Value::Object(function));
        }
        // Parquet fills absent keys with null, which a template would print.
        call.retain(|_, value| !value.is_null());
        call.entry("type").or_insert_with(|| json!("function"));
        let function = call.get("function");
        let name = function.and_then(|f| f.get("name"));
        if !matches!(name, Some(Value::String(name)) if !name.is_empty()) {
            let found = describe(name.unwrap_or(&Value::Null));
            reading.fault(&format!("{path}.function.name"), FaultKind::BadToolCall, found);
            continue;
        }
        let path = format!("{path}.function.arguments");
        match function.and_then(|f| f.get("arguments")) {
            Some(Value::Object(_)) => {}
            Some(Value::String(text)) => {
                // A model trained on arguments that do not parse will write such arguments.
                if !matches!(strict::value(text.as_bytes()), Ok(Value::Object(_))) {
                    let fault = RowFault::new(path, FaultKind::BadToolCall, quote(text));
                    reading.faults.push(fault.mend("write the arguments as a JSON object"));
                    continue;
                }
            }
            other => {
                let found = describe(other.unwrap_or(&Value::Null));
                let fault = RowFault::new(path, FaultKind::BadToolCall, found);
                reading.faults.push(fault.mend("write the arguments as a JSON object"));
                continue;
            }
        }
        calls.push(Value::Object(call));
    }
    calls
}
