//! A row as `loar train` reads it. Rows of different forms never share a file: the reader tells a
//! file's schema from its first rows.

use loar_text::Body;
use serde_json::{Map, Value, json};

use crate::batch::Row;

/// What kind of row it is; the end of its file's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Form {
    /// A conversation: `messages`.
    Chat,
    /// A raw `prompt` and `completion`.
    Pair,
    /// A `text`.
    Text,
}

impl Form {
    /// All forms.
    pub const ALL: [Form; 3] = [Form::Chat, Form::Pair, Form::Text];

    /// The name in file names.
    pub fn name(self) -> &'static str {
        match self {
            Form::Chat => "chat",
            Form::Pair => "pair",
            Form::Text => "text",
        }
    }

    /// Of a row's body.
    pub fn of(body: &Body) -> Self {
        match body {
            Body::Chat(_) => Form::Chat,
            Body::Completion { .. } => Form::Pair,
            Body::Text(_) => Form::Text,
        }
    }
}

/// The fields of a row that training reads, and the fields that were kept.
pub fn object(row: &Row<'_>) -> (Form, Map<String, Value>) {
    let body = row.body();
    let form = Form::of(&body);
    let mut out = Map::new();
    match body {
        Body::Text(text) => {
            out.insert("text".into(), text.into());
        }
        Body::Completion { prompt, completion } => {
            out.insert("prompt".into(), prompt.into());
            out.insert("completion".into(), completion.into());
        }
        Body::Chat(chat) => {
            let messages = chat.messages.into_iter().map(|message| {
                let mut out = Map::new();
                let untrained = message.is_assistant() && !message.train;
                out.insert("role".into(), message.role.into());
                if let Some(reasoning) = message.reasoning_content {
                    out.insert("reasoning_content".into(), reasoning.into());
                }
                out.insert("content".into(), message.content.into());
                if !message.tool_calls.is_empty() {
                    out.insert("tool_calls".into(), message.tool_calls.into());
                }
                for (key, value) in [("tool_call_id", message.tool_call_id), ("name", message.name)] {
                    if let Some(value) = value {
                        out.insert(key.into(), value.into());
                    }
                }
                if untrained {
                    out.insert("weight".into(), json!(0));
                }
                Value::Object(out)
            });
            out.insert("messages".into(), messages.collect());
            if let Some(tools) = chat.tools {
                out.insert("tools".into(), tools);
            }
            if !chat.template_kwargs.is_empty() {
                out.insert("chat_template_kwargs".into(), chat.template_kwargs.into());
            }
        }
    }
    for (key, value) in row.kept() {
        out.entry(key).or_insert(value);
    }
    (form, out)
}

/// [`object`] as a value.
pub fn value(row: &Row<'_>) -> Value {
    Value::Object(object(row).1)
}
