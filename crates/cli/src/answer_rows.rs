//! Rows of samples for `loar extract` and `loar equal`: JSON Lines with a gold answer and texts.
//!
//! Generous in what it reads: answers may be strings, numbers, truth values or null; fields have the
//! names that published sample files use. Faults of a file are collected, each with its line.

use std::path::Path;

use loar_reason::answer::{Answer, ExtractOptions, Kind, extract};
use serde_json::{Map, Value};

use crate::diagnose::Failure;

/// One object of a file.
pub struct Row {
    /// Line in the file, from 1.
    pub line: usize,
    fields: Map<String, Value>,
}

const TYPES: &str = "auto, number, math, choice, yes_no, date, json or text";

/// Reads a file and looks at each row with `read`, whose errors are faults of the row.
pub fn read<T>(path: &Path, read: impl Fn(&Row) -> Result<T, String>) -> Result<Vec<T>, Failure> {
    let text = std::fs::read_to_string(path).map_err(|e| Failure::file(path, "read", &e))?;
    let (mut rows, mut faults) = (Vec::new(), Vec::new());
    for (at, line) in text.trim_start_matches('\u{feff}').lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let row = match serde_json::from_str(line) {
            Ok(Value::Object(fields)) => read(&Row { line: at + 1, fields }),
            Ok(other) => Err(format!("an object was expected, found {}", kind_of(&other))),
            Err(e) => Err(format!("no JSON: {e}")),
        };
        match row {
            Ok(row) => rows.push(row),
            Err(fault) => faults.push(format!("{}:{}: {fault}", path.display(), at + 1)),
        }
    }
    if !faults.is_empty() {
        return Err(Failure::usage(format!("`{}` has rows that cannot be read", path.display())).with_faults(faults));
    }
    if rows.is_empty() {
        return Err(Failure::usage(format!("`{}` has no rows", path.display())));
    }
    Ok(rows)
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The text of a value; none for null.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

impl Row {
    /// The first of these fields that the row has.
    pub fn field(&self, names: &[&str]) -> Option<&Value> {
        names.iter().find_map(|name| self.fields.get(*name))
    }

    /// Its id, or its line.
    pub fn id(&self) -> Value {
        self.field(&["id", "question_id", "idx"]).cloned().unwrap_or_else(|| self.line.into())
    }

    /// Gold answers: one, or several of which each is right. Empty when the row has none.
    pub fn golds(&self, names: &[&str]) -> Vec<String> {
        match self.field(names) {
            Some(Value::Array(all)) if all.iter().all(|v| matches!(v, Value::String(_) | Value::Number(_))) => {
                all.iter().filter_map(text).collect()
            }
            Some(value) => text(value).into_iter().collect(),
            None => Vec::new(),
        }
    }

    /// A field that must be there and may be null.
    pub fn text(&self, names: &[&str]) -> Result<Option<String>, String> {
        self.field(names).map(text).ok_or_else(|| format!("no field `{}`", names[0]))
    }

    /// The texts of `paths` (objects with `text` or `answer`, or texts), or of the row itself.
    pub fn texts(&self) -> Result<Vec<Option<String>>, String> {
        const TEXT: [&str; 6] = ["text", "response", "completion", "output", "prediction", "answer"];
        let Some(paths) = self.field(&["paths", "generated_answer", "samples", "completions"]) else {
            return self.text(&TEXT[..5]).map(|t| vec![t]);
        };
        let paths = paths.as_array().ok_or_else(|| format!("`paths` must be a list, found {}", kind_of(paths)))?;
        let path = |(at, path): (usize, &Value)| match path {
            Value::Object(fields) => TEXT
                .iter()
                .find_map(|name| fields.get(*name).filter(|v| !v.is_null()))
                .or_else(|| TEXT.iter().find_map(|name| fields.get(*name)))
                .map(text)
                .ok_or_else(|| format!("path {at} has neither `text` nor `answer`")),
            other => Ok(text(other)),
        };
        paths.iter().enumerate().map(path).collect()
    }

    /// How the row's answers are read: its `type`, else what its gold answer is, else `preset`.
    pub fn options(&self, preset: &ExtractOptions, gold: Option<&str>) -> Result<ExtractOptions, String> {
        let mut options = preset.clone();
        if let Some(choices) = self.field(&["choices", "options"]) {
            options.choices = match choices {
                Value::Array(all) => all.iter().filter_map(text).collect(),
                Value::Object(all) => all.values().filter_map(text).collect(),
                other => return Err(format!("`choices` must be a list, found {}", kind_of(other))),
            };
        }
        if let Some(name) = self.field(&["type", "kind", "answer_type"]).filter(|v| !v.is_null()) {
            let name = name.as_str().ok_or_else(|| format!("`type` must be a text, found {}", kind_of(name)))?;
            options.kind = kind(name).ok_or_else(|| format!("type `{name}` is none of {TYPES}"))?;
        } else if options.kind == Kind::Auto
            && let Some(gold) = gold
        {
            options.kind = match Answer::read(gold, &options).kind {
                // a formula may be answered by anything that equals it
                Kind::Math => Kind::Auto,
                known => known,
            };
        }
        Ok(options)
    }
}

/// A kind by the names in use for it.
pub fn kind(name: &str) -> Option<Kind> {
    Some(match name.to_lowercase().replace(['-', ' '], "_").as_str() {
        "" | "auto" | "any" => Kind::Auto,
        "number" | "numeric" | "numerical" | "int" | "integer" | "float" => Kind::Number,
        "math" | "latex" | "expr" | "expression" | "formula" | "set" | "interval" | "tuple" => Kind::Math,
        "choice" | "multiple_choice" | "mcq" | "letter" | "option" => Kind::Choice,
        "yes_no" | "yesno" | "bool" | "boolean" | "truth" => Kind::YesNo,
        "date" => Kind::Date,
        "json" => Kind::Json,
        "text" | "string" | "str" | "word" | "last_letters" | "letters" => Kind::Text,
        _ => return None,
    })
}

/// Reads a gold answer: an answer as it stands, or a solution that ends in one.
pub fn gold(text: &str, options: &ExtractOptions) -> Answer {
    extract(text, options).unwrap_or_else(|| Answer::read(text, options))
}
