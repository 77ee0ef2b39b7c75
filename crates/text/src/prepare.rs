//! A conversation made ready for rendering: control strings hidden, calls in the form the
//! template prints, reasoning told apart from answers.
//!
//! Takes a conversation and the template's habits, gives message values that training and serving
//! both render. Never renders.

use crate::conversation::{Conversation, Message};
use crate::hide::{CLOSE, Hidden, OPEN, strings_of};
use crate::python::{JsonStyle, json as python_json};
use crate::shape::Shape;
use crate::template::{ChatTemplate, message_value};
use crate::tokenizer::{Tokenizer, TokenizerError};
use serde_json::{Map, Value, json};

/// An assistant turn, taken apart. Texts are hidden.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    /// Chain of thought without tags and outer newlines; `None` when there is none.
    pub reasoning: Option<String>,
    /// What follows it.
    pub content: String,
    /// `content` as the data has it, when the reasoning stands inline in it.
    pub inline: Option<String>,
    /// Names and arguments of the calls, which must be found in the rendering: per call a name and
    /// the spellings of its arguments that count.
    pub calls: Vec<(String, Vec<String>)>,
}

/// A conversation ready for rendering.
pub(crate) struct Prepared<'a> {
    pub hidden: Hidden<'a>,
    /// One for each message of the conversation.
    pub messages: Vec<Value>,
    /// `Some` for assistant turns.
    pub answers: Vec<Option<Answer>>,
    pub tools: Option<Value>,
    pub kwargs: Map<String, Value>,
    /// Stands for an answer, to find where the template puts it.
    pub marker: char,
    /// Stands for reasoning.
    pub reasoning_marker: char,
}

impl<'a> Prepared<'a> {
    pub fn new(
        conversation: &Conversation,
        tokenizer: &'a Tokenizer,
        template: &ChatTemplate,
        shape: &Shape,
        allow_control_tokens: bool,
    ) -> Result<Self, TokenizerError> {
        let raw: Vec<Value> = conversation.messages.iter().map(message_value).collect();
        let kwargs = Value::Object(conversation.template_kwargs.clone());
        let mut data = vec![template.source()];
        raw.iter().chain(&conversation.tools).chain([&kwargs]).for_each(|v| strings_of(v, &mut data));
        let mut hidden = Hidden::new(tokenizer, allow_control_tokens, data.into_iter());
        let (Some(marker), Some(reasoning_marker)) = (hidden.fresh(), hidden.fresh()) else {
            return Err(TokenizerError::Encode {
                reason: "the text uses every private-use character of Unicode; none is left to mark its parts".into(),
            });
        };
        let mut messages = Vec::new();
        let mut answers = Vec::new();
        for message in &conversation.messages {
            let (value, answer) = prepare_message(message, shape, &mut hidden)?;
            messages.push(value);
            answers.push(answer);
        }
        let tools = conversation.tools.as_ref().map(|t| hidden.hide_value(t)).transpose()?;
        let kwargs = match hidden.hide_value(&kwargs)? {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        Ok(Prepared { hidden, messages, answers, tools, kwargs, marker, reasoning_marker })
    }
}

fn prepare_message(
    message: &Message,
    shape: &Shape,
    hidden: &mut Hidden,
) -> Result<(Value, Option<Answer>), TokenizerError> {
    let mut value = message_value(message);
    let Some(map) = value.as_object_mut() else {
        return Ok((value, None));
    };
    if !message.is_assistant() {
        let value = hidden.hide_value(&value)?;
        return Ok((value, None));
    }
    let answer = take_apart(message, shape, hidden)?;
    let content = answer.inline.clone().unwrap_or_else(|| answer.content.clone());
    let silent = content.is_empty() && !message.tool_calls.is_empty() && shape.null_content;
    map.remove("content");
    map.remove("reasoning_content");
    map.remove("tool_calls");
    let calls: Vec<Value> = message.tool_calls.iter().map(|c| call_value(c, shape)).collect();
    let Value::Object(mut map) = hidden.hide_value(&value)? else {
        return Ok((value, None));
    };
    map.insert("content".into(), if silent { Value::Null } else { json!(content) });
    if let Some(reasoning) = &message.reasoning_content {
        map.insert("reasoning_content".into(), json!(hidden.hide(reasoning)?));
    }
    if !calls.is_empty() {
        map.insert("tool_calls".into(), hidden.hide_value(&Value::Array(calls))?);
    }
    Ok((Value::Object(map), Some(answer)))
}

/// Tells reasoning from answer. The first `</think>` counts where the content starts with
/// `<think>`; without an opening tag only on templates that put that tag into the prompt or cut
/// old reasoning, since their models write exactly this.
fn take_apart(message: &Message, shape: &Shape, hidden: &mut Hidden) -> Result<Answer, TokenizerError> {
    let calls = message.tool_calls.iter().map(call_spellings).collect::<Vec<_>>();
    let calls = calls
        .into_iter()
        .map(|(name, spellings)| {
            let spellings = spellings.iter().map(|s| hidden.hide(s)).collect::<Result<_, _>>()?;
            Ok((hidden.hide(&name)?, spellings))
        })
        .collect::<Result<Vec<_>, TokenizerError>>()?;
    let plain = |hidden: &mut Hidden, reasoning: Option<&str>| {
        Ok::<_, TokenizerError>(Answer {
            reasoning: reasoning.map(trim).filter(|r| !r.is_empty()).map(|r| hidden.hide(r)).transpose()?,
            content: hidden.hide(&message.content)?,
            inline: None,
            calls: calls.clone(),
        })
    };
    if let Some(reasoning) = &message.reasoning_content {
        return plain(hidden, Some(reasoning));
    }
    let content = message.content.as_str();
    let Some((head, tail)) = content.split_once(CLOSE) else {
        return plain(hidden, None);
    };
    let (tag, inner) = match head.trim_start().strip_prefix(OPEN) {
        Some(inner) => (OPEN, inner),
        None if shape.cuts_inline && !head.contains(OPEN) => ("", head),
        None => return plain(hidden, None),
    };
    let reasoning = trim(inner);
    Ok(Answer {
        reasoning: if reasoning.is_empty() { None } else { Some(hidden.hide(reasoning)?) },
        content: hidden.hide(tail.trim_start_matches('\n'))?,
        inline: Some(format!("{tag}{}{CLOSE}{}", hidden.hide(inner)?, hidden.hide(tail)?)),
        calls,
    })
}

fn trim(reasoning: &str) -> &str {
    reasoning.trim_matches('\n')
}

fn function_of(call: &Value) -> &Value {
    call.get("function").unwrap_or(call)
}

fn spelled(arguments: &Value) -> Option<String> {
    python_json(&minijinja::Value::from_serialize(arguments), &JsonStyle::default()).ok()
}

/// The call with its arguments as object or as JSON text, whichever the template prints properly.
fn call_value(call: &Value, shape: &Shape) -> Value {
    let arguments = function_of(call).get("arguments").cloned().unwrap_or_else(|| json!({}));
    let wanted = match &arguments {
        // Arguments that are no JSON stay text: the template shows them as the model wrote them.
        Value::String(text) if shape.object_arguments => serde_json::from_str(text).unwrap_or(arguments),
        Value::String(_) => arguments,
        other if !shape.object_arguments => spelled(other).map_or(arguments, Value::String),
        _ => arguments,
    };
    let mut function = function_of(call).as_object().cloned().unwrap_or_default();
    function.insert("arguments".into(), wanted);
    let mut outer = match call.get("function") {
        Some(_) => call.as_object().cloned().unwrap_or_default(),
        None => Map::new(),
    };
    // The DeepSeek templates print the type.
    outer.entry("type").or_insert_with(|| json!("function"));
    outer.insert("function".into(), Value::Object(function));
    Value::Object(outer)
}

/// Name of a call, and the spellings of its arguments that a rendering may have.
fn call_spellings(call: &Value) -> (String, Vec<String>) {
    let function = function_of(call);
    let name = function.get("name").and_then(Value::as_str).unwrap_or_default().to_string();
    let arguments = function.get("arguments").cloned().unwrap_or_else(|| json!({}));
    let mut spellings = Vec::new();
    let parsed = match &arguments {
        Value::String(text) => {
            spellings.push(text.clone());
            serde_json::from_str(text).unwrap_or(Value::Null)
        }
        other => other.clone(),
    };
    spellings.extend(spelled(&parsed));
    spellings.push(parsed.to_string());
    (name, spellings)
}
