//! What can be wrong with a row or a file: the kind, where it is, what was found, how to mend it.
//! Gives the texts that users read. Never decides whether a row is kept.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident, $name:literal, $file:literal, $problem:literal, $mend:literal;)*) => {
        /// Reason why a row or a file cannot be used.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum FaultKind { $($(#[$doc])* $kind,)* }

        impl FaultKind {
            /// All kinds, in report order.
            pub const ALL: &'static [FaultKind] = &[$(FaultKind::$kind,)*];

            /// Stable name for counts and reports.
            pub fn name(self) -> &'static str {
                match self { $(FaultKind::$kind => $name,)* }
            }

            /// True when the rest of the file is lost with it, so that no count of rows can be
            /// given and `on_bad_row = "drop"` does not apply.
            pub fn ends_file(self) -> bool {
                match self { $(FaultKind::$kind => $file,)* }
            }

            /// What is wrong, in a few words.
            pub fn problem(self) -> &'static str {
                match self { $(FaultKind::$kind => $problem,)* }
            }

            /// What the user can do about it.
            pub fn mend(self) -> &'static str {
                match self { $(FaultKind::$kind => $mend,)* }
            }
        }
    };
}

kinds! {
    /// Bytes that are not UTF-8.
    InvalidUtf8, "invalid-utf8", false, "not UTF-8", "convert the file to UTF-8 (`iconv -t UTF-8`)";
    /// Text that is not JSON.
    InvalidJson, "invalid-json", false, "not valid JSON", "mend the JSON of this row";
    /// JSON that ends too early.
    TruncatedJson, "truncated-json", false, "the JSON ends too early", "write each object on one line and check that the file was copied whole";
    /// A key that occurs twice in one object.
    DuplicateKey, "duplicate-key", false, "a key occurs twice in one object", "keep one of the two values";
    /// A row beyond `max_row_bytes`.
    RowTooLong, "row-too-long", false, "the row is too long", "split the row or raise `max_row_bytes`";
    /// A row that is not an object.
    NotAnObject, "not-an-object", false, "the row is not an object", "write each row as an object with named fields";
    /// A CSV record of the wrong width.
    ColumnCount, "column-count", false, "the record has another number of columns than the header", "quote fields that hold the separator or a line break";
    /// A CSV quote that never closes.
    UnclosedQuote, "unclosed-quote", false, "a quoted field is not closed", "close the quote, and double the quotes inside quoted fields";
    /// Fields of no known schema.
    UnknownSchema, "unknown-schema", false, "the fields fit no known schema", "name the schema with `format` and the fields with `fields`";
    /// A field that the schema needs.
    MissingField, "missing-field", false, "the field is missing", "add the field or map its name with `fields`";
    /// A value of another type.
    WrongType, "wrong-type", false, "wrong type", "change the value to the expected type";
    /// Text that must not be empty.
    EmptyField, "empty-field", false, "the text is empty", "fill in the text or remove the row";
    /// A conversation without turns.
    EmptyConversation, "empty-conversation", false, "the conversation has no messages", "remove the row";
    /// A message without a role.
    MissingRole, "missing-role", false, "the message has no role", "add `role`: system, user, assistant or tool";
    /// A role that no template knows.
    UnknownRole, "unknown-role", false, "unknown role", "use system, user, assistant or tool, or map the name with `roles`";
    /// A user turn without text.
    EmptyUserTurn, "empty-user-turn", false, "the user turn is empty", "fill in the text or remove the row";
    /// An assistant turn without answer and calls.
    EmptyAssistantTurn, "empty-assistant-turn", false, "the assistant turn has neither an answer nor tool calls", "fill in the answer or remove the turn";
    /// Nothing to learn from.
    NoTrainableTurn, "no-trainable-turn", false, "no assistant turn is left to train on", "add an assistant turn, or give one of them `weight` 1";
    /// A system message after the first turn.
    SystemNotFirst, "system-not-first", false, "a system message stands after the first turn", "move it to the start: templates print every system message there";
    /// A conversation that the assistant opens.
    FirstTurnNotUser, "first-turn-not-user", false, "the first turn is not the user's", "start with a user turn or remove the leading turn";
    /// Two assistant turns in a row.
    AssistantAfterAssistant, "assistant-after-assistant", false, "two assistant turns follow each other", "join them or put the user's turn between";
    /// Images, audio, files.
    UnsupportedPart, "unsupported-part", false, "a content part that is not text", "remove the part: text is all that these models read";
    /// A weight other than 0 and 1.
    BadWeight, "bad-weight", false, "a message is trained or not: the weight must be 0, 1, true or false", "use 0 or 1";
    /// A malformed tool call.
    BadToolCall, "bad-tool-call", false, "malformed tool call", "write {\"type\": \"function\", \"function\": {\"name\": …, \"arguments\": …}}";
    /// Calls on a turn that is not the assistant's.
    ToolCallOutsideAssistant, "tool-call-outside-assistant", false, "only an assistant turn can call tools", "move the calls to the assistant's turn";
    /// A tool result that nobody asked for.
    ToolWithoutCall, "tool-without-call", false, "a tool turn without a tool call before it", "add `tool_calls` to the assistant turn before it";
    /// A tool result with an id that was not called.
    UnknownToolCallId, "unknown-tool-call-id", false, "no call has this id", "use an id from the `tool_calls` before it";
    /// Malformed tool declarations.
    BadTools, "bad-tools", false, "malformed tool declarations", "write `tools` as a list of objects";
    /// Reasoning on a turn that is not the assistant's.
    ReasoningOutsideAssistant, "reasoning-outside-assistant", false, "only an assistant turn can hold reasoning", "move the reasoning to the assistant's turn";
    /// `<think>` without `</think>`.
    ThinkNotClosed, "think-not-closed", false, "`<think>` is never closed", "add `</think>`, drop the cut-off row, or set `think = \"keep\"`";
    /// `</think>` without `<think>`.
    ThinkNotOpened, "think-not-opened", false, "`</think>` without `<think>` before it", "put `<think>` in front, or set `think = \"split-prefilled\"` if the template wrote it into the prompt";
    /// More than one pair.
    ThinkRepeated, "think-repeated", false, "more than one think tag of a kind", "keep one pair at the start, or set `think = \"keep\"`";
    /// A pair that does not lead.
    ThinkNotAtStart, "think-not-at-start", false, "text stands before `<think>`", "move the thinking to the start, or set `think = \"keep\"`";
    /// Inline tags beside `reasoning_content`.
    ThinkAndField, "think-and-field", false, "both `reasoning_content` and inline think tags", "keep one of the two";
    /// Preference data.
    PreferenceData, "preference-data", false, "preference data is not for supervised fine-tuning", "map the good answer: `fields = {completion = \"chosen\"}`";

    /// A file that cannot be read.
    Unreadable, "unreadable", true, "cannot be read", "check the path and its rights";
    /// Nothing in it.
    EmptyFile, "empty-file", true, "holds no rows", "remove the file from the list";
    /// Bytes of no known container.
    UnknownContainer, "unknown-container", true, "of no known container", "name it with `container`, or use .json, .jsonl, .csv, .parquet or .txt";
    /// A container that is known but not read.
    UnsupportedContainer, "unsupported-container", true, "a container that is not read", "convert it to JSONL or Parquet";
    /// A damaged compressed stream.
    DamagedArchive, "damaged-archive", true, "the compressed stream is damaged", "copy or compress the file again";
    /// Too many bytes after unpacking.
    TooLarge, "too-large", true, "unpacks to too much", "check where the file comes from, or raise `max_unpacked_bytes` or `max_unpack_ratio`";
    /// A JSON document broken between its rows.
    BrokenJson, "broken-json", true, "the document breaks off or is not JSON between its rows", "mend the document or write one object a line (JSONL), where a broken row leaves the others whole";
    /// A damaged Parquet file.
    BrokenParquet, "broken-parquet", true, "damaged or not Parquet", "write the file again, with snappy, zstd, gzip or no compression";
    /// CSV without header.
    BadHeader, "bad-header", true, "the header line is not usable", "give every column one name of its own in the first line";
    /// A record that never ends.
    EndlessRecord, "endless-record", true, "a record passes `max_row_bytes`", "look for a quote that is not closed, or raise `max_row_bytes`";
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A fault before its place is known: what the schema readers produce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RowFault {
    pub field: String,
    pub kind: FaultKind,
    pub found: String,
    pub mend: Option<String>,
}

impl RowFault {
    pub fn new(field: impl Into<String>, kind: FaultKind, found: impl Into<String>) -> Self {
        RowFault { field: field.into(), kind, found: found.into(), mend: None }
    }

    pub fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(mend.into());
        self
    }

    pub fn at(self, file: PathBuf, line: Option<usize>) -> Fault {
        Fault { file, line, field: self.field, kind: self.kind, found: self.found, mend: self.mend }
    }
}

/// One fault at its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The file as the caller named it.
    pub file: PathBuf,
    /// Line of the row (JSON: line of its first byte; CSV: line of the record; Parquet: row
    /// number), from 1; absent when the whole file is meant.
    pub line: Option<usize>,
    /// Path of the field inside the row, like `messages[1].role`; empty for the row itself.
    pub field: String,
    /// The reason.
    pub kind: FaultKind,
    /// What stands there, shortened.
    pub found: String,
    /// What to do; the kind's own text when absent.
    pub mend: Option<String>,
}

impl Fault {
    /// The reason with what was found, without place and mend.
    pub fn reason(&self) -> String {
        let mut text = String::new();
        if !self.field.is_empty() {
            text.push_str(&format!("`{}`: ", self.field));
        }
        text.push_str(self.kind.problem());
        if !self.found.is_empty() {
            text.push_str(&format!(", found {}", self.found));
        }
        text
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}; {}", self.reason(), self.mend.as_deref().unwrap_or(self.kind.mend()))
    }
}

/// Longest piece of a user's value shown in a fault, in characters.
const SHOWN: usize = 60;

/// A text in backticks, shortened to [`SHOWN`] characters, line breaks and backticks escaped.
pub(crate) fn quote(text: &str) -> String {
    if text.is_empty() {
        return "an empty text".into();
    }
    let mut out = String::from("`");
    let mut left = text.chars();
    for c in left.by_ref().take(SHOWN) {
        if c == '`' {
            out.push('\'');
        } else {
            out.extend(c.escape_debug().filter(|_| c.is_control()));
            if !c.is_control() {
                out.push(c);
            }
        }
    }
    if left.next().is_some() {
        out.push('…');
    }
    out.push('`');
    out
}

/// A JSON value with its type, shortened.
pub(crate) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(b) => format!("the boolean `{b}`"),
        Value::Number(n) => format!("the number `{n}`"),
        Value::String(s) if s.is_empty() => "an empty text".into(),
        Value::String(s) => format!("the text {}", quote(s)),
        Value::Array(a) => format!("a list of {}", a.len()),
        Value::Object(o) => {
            let keys: Vec<&str> = o.keys().take(8).map(String::as_str).collect();
            if keys.is_empty() {
                "an empty object".into()
            } else {
                format!("an object with {}", quote(&keys.join(", ")))
            }
        }
    }
}
