//! A row as `loar train` reads it. Rows of different forms never share a file: the reader tells a
//! file's schema from its first rows.

use loar_text::Body;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::batch::{COMPLETION, PROMPT, Row, TEXT, Turn};

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

/// Where a row of the set came from.
#[derive(Clone, Debug, Serialize)]
pub struct Provenance<'a> {
    /// Number over all input.
    pub row: u64,
    /// `file:line`.
    pub at: &'a str,
    /// Name of the source.
    pub source: &'a str,
    /// Its licence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub licence: Option<&'a str>,
}

/// One line of a training file, its end included: [`object`] with `provenance` behind. Rows that
/// are turns and nothing else are written from the columns as they lie.
pub fn line(row: &Row<'_>, provenance: &Provenance<'_>) -> (Form, Vec<u8>) {
    let form = match row.turns().next().map(|turn| turn.role) {
        Some(TEXT) => Some(Form::Text),
        Some(PROMPT) => Some(Form::Pair),
        Some(_) => Some(Form::Chat),
        None => None,
    };
    let size = row.turns().map(|turn| turn.content.len() + turn.reasoning.map_or(0, str::len) + 64).sum::<usize>();
    let mut out = Vec::with_capacity(size + 256);
    let form = match form.filter(|_| row.is_plain()) {
        Some(form) => {
            // Writing to memory cannot fail, and the fields have text keys.
            let written = serde_json::to_writer(&mut out, &Plain { row, form, provenance });
            debug_assert!(written.is_ok());
            form
        }
        None => {
            let (form, mut fields) = object(row);
            fields.insert("provenance".into(), serde_json::to_value(provenance).unwrap_or_default());
            let written = serde_json::to_writer(&mut out, &fields);
            debug_assert!(written.is_ok());
            form
        }
    };
    out.push(b'\n');
    (form, out)
}

/// A row that is its turns and nothing else.
struct Plain<'a> {
    row: &'a Row<'a>,
    form: Form,
    provenance: &'a Provenance<'a>,
}

impl Serialize for Plain<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let content = |role: &str| self.row.turns().find(|turn| turn.role == role).map_or("", |turn| turn.content);
        let mut map = serializer.serialize_map(None)?;
        match self.form {
            Form::Text => map.serialize_entry("text", content(TEXT))?,
            Form::Pair => {
                map.serialize_entry("prompt", content(PROMPT))?;
                map.serialize_entry("completion", content(COMPLETION))?;
            }
            Form::Chat => map.serialize_entry("messages", &Messages(self.row))?,
        }
        map.serialize_entry("provenance", self.provenance)?;
        map.end()
    }
}

struct Messages<'a>(&'a Row<'a>);

impl Serialize for Messages<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Message<'a> {
            role: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            reasoning_content: Option<&'a str>,
            content: &'a str,
        }
        serializer.collect_seq(self.0.turns().map(|Turn { role, content, reasoning }| Message {
            role,
            reasoning_content: reasoning,
            content,
        }))
    }
}

/// [`object`] as a value.
pub fn value(row: &Row<'_>) -> Value {
    Value::Object(object(row).1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::BatchBuilder;
    use loar_text::{Conversation, Message};

    /// What is written from the columns is what the object would be written as.
    #[test]
    fn a_line_is_the_object_with_its_provenance() {
        let chat = |messages| Body::Chat(Conversation { messages, ..Conversation::default() });
        let mut unlearned = Message::assistant("no \"weight\"\n\u{1}");
        unlearned.train = false;
        let bodies = [
            chat(vec![Message::system("s"), Message::user("问\t?"), Message::assistant("答").with_reasoning("想")]),
            chat(vec![Message::user("q"), unlearned]),
            chat(Vec::new()),
            Body::Text("a text".into()),
            Body::Completion { prompt: "p".into(), completion: String::new() },
        ];
        let kept: Map<String, Value> =
            [("provenance".to_owned(), json!("theirs")), ("k".into(), json!(1))].into_iter().collect();
        for (at, body) in bodies.iter().enumerate() {
            for kept in [Map::new(), kept.clone()] {
                for licence in [None, Some("MIT")] {
                    let mut builder = BatchBuilder::new();
                    builder.push(at as u64, 0, 1, body, &kept);
                    let batch = builder.finish();
                    let provenance = Provenance { row: at as u64, at: "a.jsonl:1", source: "s", licence };
                    let (form, mut fields) = object(&batch.row(0));
                    fields.insert("provenance".into(), serde_json::to_value(&provenance).unwrap());
                    let expected = serde_json::to_string(&fields).unwrap() + "\n";
                    let (found, line) = line(&batch.row(0), &provenance);
                    assert_eq!((found, String::from_utf8(line).unwrap()), (form, expected));
                }
            }
        }
    }
}
