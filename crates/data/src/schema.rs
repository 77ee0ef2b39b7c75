//! Which schema the rows of a file have, told from the first rows, with the reason. Names in the
//! file may differ from ours; [`Fields`] knows both.

use serde_json::{Map, Value};

use crate::fault::{FaultKind, RowFault, describe, quote};
use crate::options::{Format, PairStyle, ReadOptions};

/// Rows looked at before the schema is settled.
pub(crate) const PROBE: usize = 16;

/// Names of the prompt and of the completion, by preference.
const PROMPTS: [&str; 5] = ["prompt", "question", "query", "problem", "input"];
const COMPLETIONS: [&str; 7] = ["completion", "response", "answer", "output", "solution", "answers", "raw_answers"];

/// Further names that belong to a row and never wrap a list of rows.
const ROW_FIELDS: [&str; 11] = [
    "messages",
    "conversations",
    "conversation",
    "tools",
    "history",
    "instruction",
    "system",
    "text",
    "content",
    "chosen",
    "rejected",
];

/// True for a key of a row, false for a key that may wrap rows (`data`, `rows`, `train`, …).
pub(crate) fn is_row_field(name: &str, options: &ReadOptions) -> bool {
    PROMPTS.contains(&name)
        || COMPLETIONS.contains(&name)
        || ROW_FIELDS.contains(&name)
        || options.fields.values().any(|mapped| mapped == name)
}

/// Looks values up by our names, through the user's map.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a>(pub &'a ReadOptions);

impl<'a> Fields<'a> {
    /// The name in the file.
    pub fn name(&self, ours: &'a str) -> &'a str {
        self.0.fields.get(ours).map_or(ours, String::as_str)
    }

    fn mapped(&self, ours: &str) -> bool {
        self.0.fields.contains_key(ours)
    }

    /// The value, if it is there and not null.
    pub fn get<'r>(&self, row: &'r Map<String, Value>, ours: &'a str) -> Option<&'r Value> {
        let name = self.name(ours);
        let found = match row.get(name) {
            None if self.mapped(ours) => {
                let mut parts = name.split('.');
                let first = row.get(parts.next()?)?;
                parts.try_fold(first, |value, part| value.get(part))
            }
            found => found,
        };
        found.filter(|value| !value.is_null())
    }

    /// Moves the value out.
    pub fn take(&self, row: &mut Map<String, Value>, ours: &'a str) -> Option<Value> {
        let name = self.name(ours);
        let found = match row.get_mut(name) {
            None if self.mapped(ours) => {
                let mut parts = name.split('.');
                let first = row.get_mut(parts.next()?)?;
                parts.try_fold(first, |value, part| value.get_mut(part)).map(Value::take)
            }
            None => None,
            Some(_) => row.swap_remove(name),
        };
        found.filter(|value| !value.is_null())
    }

    fn first(&self, row: &Map<String, Value>, ours: &'a str, names: &[&'a str]) -> Option<&'a str> {
        if self.mapped(ours) {
            return self.get(row, ours).map(|_| ours);
        }
        names.iter().copied().find(|name| self.get(row, name).is_some())
    }

    /// Our names of the prompt and the completion of a pair, if both are there.
    pub fn pair(&self, row: &Map<String, Value>) -> (Option<&'a str>, Option<&'a str>) {
        (self.first(row, "prompt", &PROMPTS), self.first(row, "completion", &COMPLETIONS))
    }

    /// The name of an Alpaca row's answer.
    pub fn output(&self, row: &Map<String, Value>) -> Option<&'a str> {
        self.first(row, "output", &["output", "response"])
    }

    /// The name of a plain text.
    pub fn text(&self, row: &Map<String, Value>) -> Option<&'a str> {
        self.first(row, "text", &["text", "content"])
    }

    /// The name of a list of turns.
    pub fn turns(&self, row: &Map<String, Value>, format: Format) -> Option<&'a str> {
        match format {
            Format::ShareGpt => self.first(row, "conversations", &["conversations", "conversation", "messages"]),
            _ => self.first(row, "messages", &["messages", "conversations"]),
        }
    }
}

/// True when a pair is raw text and not a conversation.
pub(crate) fn raw_pair(options: &ReadOptions, prompt: &str, completion: &str) -> bool {
    match options.pairs {
        PairStyle::Chat => false,
        PairStyle::Completion => true,
        PairStyle::Auto => prompt == "prompt" && matches!(completion, "completion" | "answers" | "raw_answers"),
    }
}

/// The schema one row fits, if any.
fn fits(row: &Map<String, Value>, fields: Fields<'_>) -> Option<(Format, String)> {
    let listed = |value: Option<&Value>| match value {
        Some(Value::Array(_)) => true,
        // CSV cells and many Parquet columns hold the list as JSON text.
        Some(Value::String(text)) => text.trim_start().starts_with('['),
        _ => false,
    };
    if listed(fields.get(row, "messages")) {
        return Some((Format::Messages, format!("`{}`", fields.name("messages"))));
    }
    for name in ["conversations", "conversation"] {
        if listed(fields.get(row, name)) {
            return Some((Format::ShareGpt, format!("`{}`", fields.name(name))));
        }
    }
    if fields.get(row, "instruction").is_some()
        && let Some(output) = fields.output(row)
    {
        let why = format!("`{}` and `{}`", fields.name("instruction"), fields.name(output));
        return Some((Format::Alpaca, why));
    }
    if let (Some(prompt), Some(completion)) = fields.pair(row)
        && prompt != completion
    {
        let why = format!("`{}` and `{}`", fields.name(prompt), fields.name(completion));
        return Some((Format::PromptCompletion, why));
    }
    let text = fields.text(row)?;
    Some((Format::Text, format!("`{}`", fields.name(text))))
}

/// The schema most of the first rows fit, and why; the first seen among equals. When no row has
/// all its values, the names alone decide: a table names its columns in every row.
pub(crate) fn detect<'r>(
    rows: impl Iterator<Item = &'r Map<String, Value>> + Clone,
    options: &ReadOptions,
) -> Option<(Format, String)> {
    vote(rows.clone().map(|row| fits(row, Fields(options)))).or_else(|| {
        let fill = |value: &Value| {
            if value.is_null() { Value::String("[".into()) } else { value.clone() }
        };
        vote(rows.map(|row| {
            let row = row.iter().map(|(name, value)| (name.clone(), fill(value))).collect();
            fits(&row, Fields(options))
        }))
    })
}

fn vote(fitted: impl Iterator<Item = Option<(Format, String)>>) -> Option<(Format, String)> {
    let mut votes: Vec<(Format, String, usize)> = Vec::new();
    let mut looked = 0;
    for fit in fitted.take(PROBE) {
        looked += 1;
        let Some((format, why)) = fit else { continue };
        match votes.iter_mut().find(|(seen, ..)| *seen == format) {
            Some((.., count)) => *count += 1,
            None => votes.push((format, why, 1)),
        }
    }
    let best = votes.iter().rev().max_by_key(|(.., count)| *count)?;
    let rows = if looked == 1 { "row".to_owned() } else { format!("{looked} rows") };
    Some((best.0, format!("{} in {} of the first {rows}", best.1, best.2)))
}

/// The fault for a row that fits nothing.
pub(crate) fn no_schema(row: &Map<String, Value>) -> RowFault {
    if row.contains_key("chosen") && row.contains_key("rejected") {
        return RowFault::new("", FaultKind::PreferenceData, "`chosen` and `rejected`");
    }
    let with_value = row.iter().filter(|(_, value)| !value.is_null());
    let keys: Vec<&str> = with_value.map(|(key, _)| key.as_str()).take(12).collect();
    let found = match keys.as_slice() {
        [] => "an object without values".into(),
        keys => format!("the fields {}", quote(&keys.join(", "))),
    };
    RowFault::new("", FaultKind::UnknownSchema, found)
}

/// Text, or a fault that says what stands there instead.
pub(crate) fn text_of(value: Value, path: &str) -> Result<String, RowFault> {
    match value {
        Value::String(text) => Ok(text),
        other => {
            let fault = RowFault::new(path, FaultKind::WrongType, describe(&other));
            Err(fault.mend("a text is expected here: write it in quotes"))
        }
    }
}
