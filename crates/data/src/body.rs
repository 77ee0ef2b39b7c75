//! One row of a known schema → the body of an example, or all of its faults: turn lists and plain
//! text here, pairs and Alpaca in [`crate::pairs`].

use loar_text::{Body, Conversation, Message};
use serde_json::{Map, Value};

use crate::fault::{FaultKind, RowFault, describe, quote};
use crate::options::Format;
use crate::order;
use crate::pairs::{alpaca, pair};
use crate::schema::{Fields, no_schema, text_of};
use crate::strict;
use crate::turns::{Reading, list_of, turns};

/// Reads one row. `None` when `reading.faults` has grown.
pub(crate) fn body(mut row: Map<String, Value>, format: Format, reading: &mut Reading<'_>) -> Option<Body> {
    let before = reading.faults.len();
    let body = match format {
        Format::Messages | Format::ShareGpt => chat(&mut row, format, reading),
        Format::Alpaca => alpaca(&mut row, reading),
        Format::PromptCompletion => pair(&mut row, reading),
        Format::Text => text(&mut row, reading),
    };
    for (name, value) in &row {
        if !value.is_null() && !reading.options.keep.contains(name) {
            reading.ignore(name);
        }
    }
    body.filter(|_| reading.faults.len() == before)
}

/// The fault when a field of `format` is not there.
pub(crate) fn missing(row: &Map<String, Value>, name: &str, format: Format, reading: &mut Reading<'_>) {
    let fault = no_schema(row);
    if fault.kind == FaultKind::PreferenceData {
        return reading.faults.push(fault);
    }
    let mend = format!("schema `{}` needs it: add it or map its name with `fields`", format.name());
    reading.faults.push(RowFault { field: name.into(), kind: FaultKind::MissingField, ..fault }.mend(mend));
}

/// `tools` and `chat_template_kwargs` of the row.
pub(crate) fn extras(row: &mut Map<String, Value>, into: &mut Conversation, reading: &mut Reading<'_>) {
    let fields = Fields(reading.options);
    let path = fields.name("tools");
    match fields.take(row, "tools") {
        None => {}
        // Often an empty text or list where a row has no tools.
        Some(Value::String(text)) if text.trim().is_empty() => {}
        Some(value) => match list_of(value, path) {
            Ok(list) if list.is_empty() => {}
            Ok(list) if list.iter().all(Value::is_object) => into.tools = Some(Value::Array(list)),
            Ok(list) => {
                let odd = list.iter().find(|v| !v.is_object()).map(describe).unwrap_or_default();
                reading.fault(path, FaultKind::BadTools, odd);
            }
            Err(fault) => reading.fault(path, FaultKind::BadTools, fault.found),
        },
    }
    let path = fields.name("chat_template_kwargs");
    let value = match fields.take(row, "chat_template_kwargs") {
        Some(Value::String(text)) => strict::value(text.as_bytes()).unwrap_or(Value::String(text)),
        Some(value) => value,
        None => return,
    };
    match value {
        Value::Object(mut map) => {
            map.retain(|_, value| !value.is_null());
            into.template_kwargs = map;
        }
        other => {
            let fault = RowFault::new(path, FaultKind::WrongType, describe(&other));
            reading.faults.push(fault.mend("an object is expected here"));
        }
    }
}

pub(crate) fn optional_text(
    row: &mut Map<String, Value>,
    name: &'static str,
    reading: &mut Reading<'_>,
) -> Option<String> {
    let fields = Fields(reading.options);
    let value = fields.take(row, name)?;
    match text_of(value, Fields(reading.options).name(name)) {
        Ok(text) => Some(text).filter(|text| !text.is_empty()),
        Err(fault) => {
            reading.faults.push(fault);
            None
        }
    }
}

fn chat(row: &mut Map<String, Value>, format: Format, reading: &mut Reading<'_>) -> Option<Body> {
    let fields = Fields(reading.options);
    let Some(name) = fields.turns(row, format) else {
        let name = if format == Format::ShareGpt { "conversations" } else { "messages" };
        missing(row, fields.name(name), format, reading);
        return None;
    };
    let base = fields.name(name);
    let list = match list_of(fields.take(row, name)?, base) {
        Ok(list) => list,
        Err(fault) => {
            reading.faults.push(fault);
            return None;
        }
    };
    let messages = turns(list, base, reading);
    order::check(&messages, base, reading);
    let mut messages: Vec<Message> = messages.into_iter().flatten().collect();
    if let Some(system) = optional_text(row, "system", reading) {
        if messages.first().is_some_and(|m| m.role == "system") {
            let fault = RowFault::new(fields.name("system"), FaultKind::SystemNotFirst, quote(&system));
            reading.faults.push(fault.mend("the conversation has its own system message: keep one"));
        }
        messages.insert(0, Message::system(system));
    }
    let mut conversation = Conversation { messages, ..Conversation::default() };
    extras(row, &mut conversation, reading);
    Some(Body::Chat(conversation))
}

fn text(row: &mut Map<String, Value>, reading: &mut Reading<'_>) -> Option<Body> {
    let fields = Fields(reading.options);
    let Some(name) = fields.text(row) else {
        missing(row, fields.name("text"), Format::Text, reading);
        return None;
    };
    let path = fields.name(name);
    match text_of(fields.take(row, name)?, path) {
        Ok(text) if text.trim().is_empty() => {
            reading.fault(path, FaultKind::EmptyField, quote(&text));
            None
        }
        Ok(text) => Some(Body::Text(text)),
        Err(fault) => {
            reading.faults.push(fault);
            None
        }
    }
}
