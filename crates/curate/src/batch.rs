//! Rows as Arrow columns. A row is a list of turns, whatever it was written as: a conversation, a
//! prompt with its completion (roles `prompt`, `completion`) or a text (role `text`). What no
//! stage reads (tool declarations, calls, template arguments) travels as JSON beside it, so that
//! [`Batch::body`] gives back exactly what was read.

use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder, StructBuilder, UInt32Builder, UInt64Builder};
use arrow_array::{
    Array, ArrayRef, BooleanArray, ListArray, RecordBatch, StringArray, StructArray, UInt32Array, UInt64Array,
};
use arrow_schema::{DataType, Field as ArrowField, FieldRef, Fields, Schema};
use arrow_select::filter::filter_record_batch;
use loar_text::{Body, Conversation, Message};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::operator::{Edit, Field};

/// Role of the only turn of a plain text.
pub const TEXT: &str = "text";
/// Role of the untrained part of a raw pair.
pub const PROMPT: &str = "prompt";
/// Role of the trained part of a raw pair.
pub const COMPLETION: &str = "completion";

/// One turn of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn<'a> {
    /// `system`, `developer`, `user`, `assistant`, `tool`, or [`PROMPT`], [`COMPLETION`], [`TEXT`].
    pub role: &'a str,
    /// What is said.
    pub content: &'a str,
    /// Chain of thought before it.
    pub reasoning: Option<&'a str>,
}

impl<'a> Turn<'a> {
    /// What the model is to say: assistant turns, completions, texts.
    pub fn is_response(&self) -> bool {
        matches!(self.role, "assistant" | COMPLETION | TEXT)
    }

    /// What a person asks: user turns and prompts.
    pub fn is_request(&self) -> bool {
        matches!(self.role, "user" | PROMPT)
    }

    /// Its texts with their field, empty ones left out.
    pub fn texts(&self) -> impl Iterator<Item = (Field, &'a str)> + use<'a> {
        let both = [Some((Field::Content, self.content)), self.reasoning.map(|text| (Field::Reasoning, text))];
        both.into_iter().flatten().filter(|(_, text)| !text.is_empty())
    }
}

/// The parts of a message that no stage reads.
#[derive(Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct TurnRest {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Present when it is not what the role gives.
    #[serde(skip_serializing_if = "Option::is_none")]
    train: Option<bool>,
}

/// The parts of a row that no stage reads.
#[derive(Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct RowRest {
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<Value>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    template_kwargs: Map<String, Value>,
    /// Fields of the input row that the user asked to keep.
    #[serde(skip_serializing_if = "Map::is_empty")]
    kept: Map<String, Value>,
}

fn json<T: Default + PartialEq + Serialize>(rest: &T) -> Option<String> {
    // Maps with text keys always serialise.
    (*rest != T::default()).then(|| serde_json::to_string(rest).unwrap_or_default())
}

/// Rows with the columns `row`, `source`, `line`, `turns`, `rest`, and those that stages added.
#[derive(Clone, Debug)]
pub struct Batch {
    record: RecordBatch,
    row: UInt64Array,
    source: UInt32Array,
    line: UInt64Array,
    turns: ListArray,
    role: StringArray,
    content: StringArray,
    reasoning: StringArray,
    turn_rest: StringArray,
    rest: StringArray,
}

/// Fields of a turn.
fn turn_fields() -> Fields {
    let text = |name: &str, nullable| Arc::new(ArrowField::new(name, DataType::Utf8, nullable));
    Fields::from(vec![text("role", false), text("content", false), text("reasoning", true), text("rest", true)])
}

/// The columns every batch begins with.
pub fn schema() -> Schema {
    let item = Arc::new(ArrowField::new("item", DataType::Struct(turn_fields()), false));
    Schema::new(vec![
        ArrowField::new("row", DataType::UInt64, false),
        ArrowField::new("source", DataType::UInt32, false),
        ArrowField::new("line", DataType::UInt64, false),
        ArrowField::new("turns", DataType::List(item), false),
        ArrowField::new("rest", DataType::Utf8, true),
    ])
}

/// A record batch that is not one of ours.
#[derive(Debug, thiserror::Error)]
#[error("column `{column}` is {found}, expected {expected}")]
pub struct ColumnError {
    column: String,
    expected: String,
    found: String,
}

impl Batch {
    /// Takes a record batch with our first columns.
    ///
    /// # Errors
    /// [`ColumnError`] for the first column that is missing or of another type.
    pub fn new(record: RecordBatch) -> Result<Self, ColumnError> {
        for (index, field) in schema().fields().iter().enumerate() {
            let found = record.schema_ref().fields().get(index).cloned();
            let fits = found.as_ref().is_some_and(|f| f.name() == field.name() && f.data_type() == field.data_type());
            if !fits {
                return Err(ColumnError {
                    column: field.name().clone(),
                    expected: field.data_type().to_string(),
                    found: found.map_or("missing".into(), |f| format!("`{}` of {}", f.name(), f.data_type())),
                });
            }
        }
        // The types were checked above.
        let turns: ListArray = column(&record, 3);
        let turn: StructArray = turns.values().as_any().downcast_ref::<StructArray>().expect("checked").clone();
        let text = |index: usize| turn.column(index).as_any().downcast_ref::<StringArray>().expect("checked").clone();
        Ok(Batch {
            row: column(&record, 0),
            source: column(&record, 1),
            line: column(&record, 2),
            rest: column(&record, 4),
            role: text(0),
            content: text(1),
            reasoning: text(2),
            turn_rest: text(3),
            turns,
            record,
        })
    }

    /// The columns.
    pub fn record(&self) -> &RecordBatch {
        &self.record
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.record.num_rows()
    }

    /// True without rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One row.
    ///
    /// # Panics
    /// When `index` is not below [`Batch::len`].
    pub fn row(&self, index: usize) -> Row<'_> {
        assert!(index < self.len(), "row {index} of {}", self.len());
        Row { batch: self, index }
    }

    /// All rows.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = Row<'_>> {
        (0..self.len()).map(|index| Row { batch: self, index })
    }

    /// A column that a stage added.
    pub fn added(&self, name: &str) -> Option<&ArrayRef> {
        self.record.column_by_name(name)
    }

    /// The batch with further columns, each with one value a row.
    ///
    /// # Panics
    /// When a column has another length.
    pub fn with_columns(self, columns: Vec<(FieldRef, ArrayRef)>) -> Self {
        if columns.is_empty() {
            return self;
        }
        let mut fields: Vec<FieldRef> = self.record.schema_ref().fields().iter().cloned().collect();
        let mut arrays = self.record.columns().to_vec();
        for (field, array) in columns {
            assert_eq!(array.len(), self.len(), "column `{}`", field.name());
            fields.push(field);
            arrays.push(array);
        }
        let record = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).expect("lengths checked");
        Batch { record, ..self }
    }

    /// The batch without a column that a stage added, when it has it.
    pub fn without(&self, name: &str) -> Self {
        let kept = |(at, field): (usize, &FieldRef)| (field.name() != name).then_some(at);
        let kept: Vec<usize> = self.record.schema_ref().fields().iter().enumerate().filter_map(kept).collect();
        Batch { record: self.record.project(&kept).expect("columns of the record"), ..self.clone() }
    }

    /// The rows whose place in `keep` is true, with all their columns.
    ///
    /// # Panics
    /// When `keep` has another length.
    pub fn filter(&self, keep: &BooleanArray) -> Self {
        let record = filter_record_batch(&self.record, keep).expect("a mask of the batch's length");
        Batch::new(record).expect("same columns")
    }

    /// The batch with new texts. Columns that stages added stay.
    pub fn with_edits(&self, edits: &[Edit]) -> Self {
        if edits.is_empty() {
            return self.clone();
        }
        let (mut content, mut reasoning) = (vec![None; self.content.len()], vec![None; self.content.len()]);
        for edit in edits {
            let turn = self.turns.value_offsets()[edit.row] as usize + edit.turn;
            let texts = if edit.field == Field::Content { &mut content } else { &mut reasoning };
            texts[turn] = Some(edit.text.as_str());
        }
        let replaced = |old: &StringArray, new: Vec<Option<&str>>| -> ArrayRef {
            Arc::new(old.iter().zip(new).map(|(old, new)| new.or(old)).collect::<StringArray>())
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.role.clone()),
            replaced(&self.content, content),
            replaced(&self.reasoning, reasoning),
            Arc::new(self.turn_rest.clone()),
        ];
        let turn = StructArray::new(turn_fields(), columns, None);
        let DataType::List(item) = self.turns.data_type() else { unreachable!("checked in `new`") };
        let turns = ListArray::new(Arc::clone(item), self.turns.offsets().clone(), Arc::new(turn), None);
        let mut arrays = self.record.columns().to_vec();
        arrays[3] = Arc::new(turns);
        let record = RecordBatch::try_new(self.record.schema(), arrays).expect("same lengths and types");
        Batch::new(record).expect("same columns")
    }
}

fn column<T: Array + Clone + 'static>(record: &RecordBatch, index: usize) -> T {
    record.column(index).as_any().downcast_ref::<T>().expect("the type was checked").clone()
}

/// One row of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    batch: &'a Batch,
    index: usize,
}

impl<'a> Row<'a> {
    /// Index in the batch.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Number of the row over all input, from 0.
    pub fn number(&self) -> u64 {
        self.batch.row.value(self.index)
    }

    /// Number of its file.
    pub fn source(&self) -> u32 {
        self.batch.source.value(self.index)
    }

    /// Its line in the file, from 1.
    pub fn line(&self) -> u64 {
        self.batch.line.value(self.index)
    }

    /// Its turns in order.
    pub fn turns(&self) -> impl DoubleEndedIterator<Item = Turn<'a>> + ExactSizeIterator + Clone + use<'a> {
        let (batch, offsets) = (self.batch, self.batch.turns.value_offsets());
        (offsets[self.index] as usize..offsets[self.index + 1] as usize).map(move |turn| Turn {
            role: batch.role.value(turn),
            content: batch.content.value(turn),
            reasoning: batch.reasoning.is_valid(turn).then(|| batch.reasoning.value(turn)),
        })
    }

    /// Whether the row is its turns and nothing else: no fields kept, no tools, calls or weights.
    pub fn is_plain(&self) -> bool {
        let offsets = self.batch.turns.value_offsets();
        let mut turns = offsets[self.index] as usize..offsets[self.index + 1] as usize;
        self.batch.rest.is_null(self.index) && turns.all(|turn| self.batch.turn_rest.is_null(turn))
    }

    /// All that is asked, in order.
    pub fn requests(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.turns().filter(Turn::is_request).map(|turn| turn.content)
    }

    /// All that is answered, in order.
    pub fn responses(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.turns().filter(Turn::is_response).map(|turn| turn.content)
    }

    /// Every text of every turn with its place: (turn, field, text).
    pub fn texts(&self) -> impl Iterator<Item = (usize, Field, &'a str)> + use<'a> {
        self.turns().enumerate().flat_map(|(at, turn)| turn.texts().map(move |(field, text)| (at, field, text)))
    }

    /// What was read, with all edits.
    ///
    /// # Panics
    /// When the JSON columns were not written by [`BatchBuilder`].
    pub fn body(&self) -> Body {
        self.parts().0
    }

    /// Fields of the input row that the user asked to keep.
    ///
    /// # Panics
    /// As [`Row::body`].
    pub fn kept(&self) -> Map<String, Value> {
        self.parts().1
    }

    fn parts(&self) -> (Body, Map<String, Value>) {
        let rest: RowRest = parse(&self.batch.rest, self.index);
        let mut turns = self.turns();
        let first = turns.next();
        let body = match first.map_or(PROMPT, |turn| turn.role) {
            TEXT => Body::Text(first.map(|turn| turn.content.to_owned()).unwrap_or_default()),
            PROMPT => Body::Completion {
                prompt: first.map(|turn| turn.content.to_owned()).unwrap_or_default(),
                completion: turns.next().map(|turn| turn.content.to_owned()).unwrap_or_default(),
            },
            _ => {
                let start = self.batch.turns.value_offsets()[self.index] as usize;
                let messages = self.turns().enumerate().map(|(at, turn)| {
                    let rest: TurnRest = parse(&self.batch.turn_rest, start + at);
                    let mut message = Message::new(turn.role, turn.content);
                    message.reasoning_content = turn.reasoning.map(str::to_owned);
                    message.tool_calls = rest.tool_calls;
                    message.tool_call_id = rest.tool_call_id;
                    message.name = rest.name;
                    message.train = rest.train.unwrap_or(message.train);
                    message
                });
                let messages = messages.collect();
                Body::Chat(Conversation { messages, tools: rest.tools, template_kwargs: rest.template_kwargs })
            }
        };
        (body, rest.kept)
    }
}

fn parse<T: Default + for<'de> Deserialize<'de>>(column: &StringArray, index: usize) -> T {
    if column.is_null(index) {
        return T::default();
    }
    serde_json::from_str(column.value(index)).expect("written by BatchBuilder")
}

/// Gathers rows into a batch.
pub struct BatchBuilder {
    row: UInt64Builder,
    source: UInt32Builder,
    line: UInt64Builder,
    turns: ListBuilder<StructBuilder>,
    rest: StringBuilder,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl BatchBuilder {
    /// Without rows.
    pub fn new() -> Self {
        let turn = StructBuilder::new(
            turn_fields(),
            (0..4).map(|_| Box::new(StringBuilder::new()) as Box<dyn arrow_array::builder::ArrayBuilder>).collect(),
        );
        let item = ArrowField::new("item", DataType::Struct(turn_fields()), false);
        BatchBuilder {
            row: UInt64Builder::new(),
            source: UInt32Builder::new(),
            line: UInt64Builder::new(),
            turns: ListBuilder::new(turn).with_field(item),
            rest: StringBuilder::new(),
        }
    }

    /// Adds one row: its number over all input, the number of its file, its line there.
    pub fn push(&mut self, row: u64, source: u32, line: u64, body: &Body, kept: &Map<String, Value>) {
        self.row.append_value(row);
        self.source.append_value(source);
        self.line.append_value(line);
        let mut rest = RowRest { kept: kept.clone(), ..RowRest::default() };
        match body {
            Body::Text(text) => self.turn(TEXT, text, None, None),
            Body::Completion { prompt, completion } => {
                self.turn(PROMPT, prompt, None, None);
                self.turn(COMPLETION, completion, None, None);
            }
            Body::Chat(chat) => {
                rest.tools.clone_from(&chat.tools);
                rest.template_kwargs.clone_from(&chat.template_kwargs);
                for message in &chat.messages {
                    let rest = TurnRest {
                        tool_calls: message.tool_calls.clone(),
                        tool_call_id: message.tool_call_id.clone(),
                        name: message.name.clone(),
                        train: (message.train != message.is_assistant()).then_some(message.train),
                    };
                    let reasoning = message.reasoning_content.as_deref();
                    self.turn(&message.role, &message.content, reasoning, json(&rest));
                }
            }
        }
        self.turns.append(true);
        self.rest.append_option(json(&rest));
    }

    fn turn(&mut self, role: &str, content: &str, reasoning: Option<&str>, rest: Option<String>) {
        let turn = self.turns.values();
        let mut put = |index: usize, text: Option<&str>| {
            turn.field_builder::<StringBuilder>(index).expect("four text columns").append_option(text);
        };
        put(0, Some(role));
        put(1, Some(content));
        put(2, reasoning);
        put(3, rest.as_deref());
        turn.append(true);
    }

    /// The batch.
    pub fn finish(mut self) -> Batch {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.row.finish()),
            Arc::new(self.source.finish()),
            Arc::new(self.line.finish()),
            Arc::new(self.turns.finish()),
            Arc::new(self.rest.finish()),
        ];
        let record = RecordBatch::try_new(Arc::new(schema()), columns).expect("columns of one length");
        Batch::new(record).expect("our own schema")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rows() -> Vec<Body> {
        let mut tool = Message::new("tool", "42");
        tool.tool_call_id = Some("c1".into());
        let mut call = Message::assistant("").with_reasoning("look it up");
        call.tool_calls = vec![json!({"id": "c1", "function": {"name": "f", "arguments": {"b": 1, "a": 2}}})];
        let mut shown = Message::assistant("an example");
        shown.train = false;
        let mut kwargs = Map::new();
        kwargs.insert("thinking".into(), true.into());
        vec![
            Body::Text("一段文字".into()),
            Body::Completion { prompt: "p".into(), completion: String::new() },
            Body::Chat(Conversation {
                messages: vec![Message::system("s"), Message::user("u"), shown, Message::user("v"), call, tool],
                tools: Some(json!([{"type": "function"}])),
                template_kwargs: kwargs,
            }),
        ]
    }

    fn batch() -> Batch {
        let mut builder = BatchBuilder::new();
        let mut kept = Map::new();
        for (at, body) in rows().iter().enumerate() {
            builder.push(at as u64 + 7, 1, at as u64 + 1, body, &kept);
            kept.insert("licence".into(), "MIT".into());
        }
        builder.finish()
    }

    #[test]
    fn a_batch_gives_back_what_was_put_in() {
        let batch = batch();
        let bodies: Vec<Body> = batch.rows().map(|row| row.body()).collect();
        assert_eq!(bodies, rows());
        assert_eq!(batch.row(2).number(), 9);
        assert_eq!(batch.row(2).kept()["licence"], "MIT");
        assert!(batch.row(0).kept().is_empty());
        assert_eq!(batch.row(2).requests().collect::<Vec<_>>(), ["u", "v"]);
        assert_eq!(batch.row(1).turns().map(|t| t.role).collect::<Vec<_>>(), [PROMPT, COMPLETION]);
    }

    #[test]
    fn an_edit_changes_one_text_and_nothing_else() {
        let edit = Edit { row: 2, turn: 4, field: Field::Reasoning, text: "ask the tool".into() };
        let edited = batch().with_edits(&[edit]);
        let mut expected = rows();
        if let Body::Chat(chat) = &mut expected[2] {
            chat.messages[4].reasoning_content = Some("ask the tool".into());
        }
        assert_eq!(edited.rows().map(|row| row.body()).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_foreign_record_batch_is_refused_by_name() {
        let record = batch().record().project(&[0, 1, 3, 4]).unwrap();
        let error = Batch::new(record).unwrap_err().to_string();
        assert!(error.contains("`line`") && error.contains("UInt64"), "{error}");
    }
}
