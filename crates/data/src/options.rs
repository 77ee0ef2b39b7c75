//! What a caller may choose about reading: schema, container, field names, bad rows and bounds.
//! Every field has a default, so an empty table in a run file reads well-formed files of any
//! supported kind. Never touches a file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How the bytes of a file are divided into rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Container {
    /// An array of objects, an object that holds one such list, or objects one after another.
    Json,
    /// One object a line.
    Jsonl,
    /// Comma, semicolon or tab separated, with a header line.
    Csv,
    /// Apache Parquet, nested lists and structs included.
    Parquet,
    /// Plain UTF-8 text.
    Text,
}

impl Container {
    /// The name used in run files and reports.
    pub fn name(self) -> &'static str {
        match self {
            Container::Json => "json",
            Container::Jsonl => "jsonl",
            Container::Csv => "csv",
            Container::Parquet => "parquet",
            Container::Text => "text",
        }
    }
}

/// What the fields of a row mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Format {
    /// `messages`: a list of `role` and `content`.
    #[serde(rename = "messages", alias = "openai")]
    Messages,
    /// `conversations`: a list of `from` and `value`.
    #[serde(rename = "sharegpt")]
    ShareGpt,
    /// `instruction`, `input`, `output`, and optionally `system` and `history`.
    #[serde(rename = "alpaca")]
    Alpaca,
    /// A prompt and its answer, under any of the names listed in `docs`.
    #[serde(rename = "prompt-completion", alias = "pairs")]
    PromptCompletion,
    /// One `text` per row, trained whole.
    #[serde(rename = "text")]
    Text,
}

impl Format {
    /// The name used in run files and reports.
    pub fn name(self) -> &'static str {
        match self {
            Format::Messages => "messages",
            Format::ShareGpt => "sharegpt",
            Format::Alpaca => "alpaca",
            Format::PromptCompletion => "prompt-completion",
            Format::Text => "text",
        }
    }
}

/// What happens to a row that cannot be trained on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnBadRow {
    /// Every fault of every file is collected and reading fails.
    #[default]
    Stop,
    /// The row is left out and listed with its reason.
    Drop,
}

/// Whether a prompt/completion row becomes raw text or a two-turn conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PairStyle {
    /// `prompt` with `completion` (or with ESFT's `answers`) is raw text, as in TRL; every other
    /// pair of names (`question`/`answer`, `query`/`response`, …) is a user and an assistant turn.
    #[default]
    Auto,
    /// Always a user turn and an assistant turn, rendered by the chat template.
    Chat,
    /// Always raw text: the prompt is masked, the completion is trained.
    Completion,
}

/// What happens to `<think>…</think>` written inside an assistant's content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ThinkTags {
    /// A leading pair becomes `reasoning_content`; anything else with a tag is a fault.
    #[default]
    Split,
    /// As `split`, and text before a lone `</think>` counts as reasoning: what a server returns
    /// when the template has already written `<think>` into the prompt.
    SplitPrefilled,
    /// Content is left as it is and the tags are not looked at.
    Keep,
}

/// How a `.txt` file is divided into examples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextUnit {
    /// The whole file is one example.
    #[default]
    File,
    /// Each block between blank lines is one example.
    Block,
}

/// All choices for [`crate::read`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReadOptions {
    /// Row schema; looked up in the first rows of each file when absent.
    pub format: Option<Format>,
    /// Container; found by name and leading bytes when absent.
    pub container: Option<Container>,
    /// Field names: the name this tool uses → the name in the file (`prompt = "q"`). A dotted
    /// name (`data.q`) walks into nested objects.
    pub fields: BTreeMap<String, String>,
    /// Further role names: the name in the file → `system`, `user`, `assistant` or `tool`.
    pub roles: BTreeMap<String, String>,
    /// Row fields to keep beside the example in [`crate::Example::kept`].
    pub keep: Vec<String>,
    /// What a bad row does.
    pub on_bad_row: OnBadRow,
    /// How prompt/completion rows are taken.
    pub pairs: PairStyle,
    /// How inline thinking is taken.
    pub think: ThinkTags,
    /// How `.txt` files are divided.
    pub text_unit: TextUnit,
    /// Column separator of CSV files; `,` `;` or tab by looking at the header when absent.
    pub csv_delimiter: Option<char>,
    /// Longest accepted row in bytes (a line, a CSV record, a JSON element, a text file).
    pub max_row_bytes: usize,
    /// Most bytes one compressed file may unpack to.
    pub max_unpacked_bytes: u64,
    /// Most unpacked bytes per compressed byte, checked beyond the first 64 MiB. Text rarely
    /// passes 30; DEFLATE cannot pass 1032.
    pub max_unpack_ratio: u64,
}

impl Default for ReadOptions {
    fn default() -> Self {
        ReadOptions {
            format: None,
            container: None,
            fields: BTreeMap::new(),
            roles: BTreeMap::new(),
            keep: Vec::new(),
            on_bad_row: OnBadRow::Stop,
            pairs: PairStyle::Auto,
            think: ThinkTags::Split,
            text_unit: TextUnit::File,
            csv_delimiter: None,
            max_row_bytes: 16 << 20,
            max_unpacked_bytes: 64 << 30,
            max_unpack_ratio: 200,
        }
    }
}

/// The names on the left side of `fields`.
pub const FIELD_NAMES: [&str; 25] = [
    "messages",
    "conversations",
    "role",
    "content",
    "from",
    "value",
    "reasoning_content",
    "tool_calls",
    "tool_call_id",
    "name",
    "weight",
    "tools",
    "chat_template_kwargs",
    "system",
    "history",
    "instruction",
    "input",
    "output",
    "prompt",
    "completion",
    "text",
    "train",
    "question",
    "answer",
    "response",
];

/// The roles an example may hold.
pub const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];

impl ReadOptions {
    /// Checks names and bounds before any file is opened.
    ///
    /// # Errors
    /// One text per wrong choice, all of them.
    pub fn check(&self) -> Result<(), Vec<String>> {
        let mut wrong = Vec::new();
        for name in self.fields.keys() {
            if !FIELD_NAMES.contains(&name.as_str()) {
                wrong.push(format!(
                    "`fields` maps `{name}`, which no schema has; the left side is one of {}",
                    FIELD_NAMES.join(", ")
                ));
            }
        }
        for (from, to) in &self.roles {
            if !ROLES.contains(&to.as_str()) {
                wrong.push(format!("`roles` maps `{from}` to `{to}`; the right side is one of {}", ROLES.join(", ")));
            }
        }
        if let Some(delimiter) = self.csv_delimiter
            && (!delimiter.is_ascii() || matches!(delimiter, '"' | '\n' | '\r'))
        {
            wrong.push(format!(
                "`csv_delimiter` is {delimiter:?}; use one ASCII character other than a quote or a line end"
            ));
        }
        for (name, zero) in [
            ("max_row_bytes", self.max_row_bytes == 0),
            ("max_unpacked_bytes", self.max_unpacked_bytes == 0),
            ("max_unpack_ratio", self.max_unpack_ratio == 0),
        ] {
            if zero {
                wrong.push(format!("`{name}` is 0; give a positive number"));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }
}
