//! An answer: the part of a path that is compared with others and with the truth.
//!
//! [`extract`] finds the answer in what a model wrote, in a fixed order (its module says which);
//! [`Answer::read`] gives a bare answer a kind and a canonical value; [`equal`] says whether a
//! prediction is the gold answer, and [`classes`] divides the answers of many paths into the groups
//! that fusion counts. What cannot be read as anything else is text; nothing is an error. A path
//! without an answer is `None` and a class of its own.
//!
//! A change of any result raises [`VERSION`]; records and calibration files carry it.

mod boxed;
mod chinese;
mod choice;
mod class;
mod date;
mod equal;
mod extract;
mod fold;
mod json;
mod latex;
mod marker;
mod math;
mod number;
mod quantity;
mod thought;
mod truth;
mod unit;

pub use class::classes;
pub use equal::{EqualOptions, Percent, Units, equal};
pub use extract::extract;

use choice::Choice;
use date::Date;
use math::{Expr, Math, Scalar};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Version of extraction, canonical forms and equality together. It goes into every record: two
/// records with the same version and the same text have the same answer.
pub const VERSION: u32 = 1;

/// Longest answer that is read as anything but text, in bytes.
const MAX_LENGTH: usize = 4000;

/// What sort of answer a question asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Read from the answer itself.
    #[default]
    Auto,
    /// One number, with a unit or without.
    Number,
    /// A formula, set, interval, tuple, inequality or matrix; numbers too.
    Math,
    /// One letter of a list of options, or several.
    Choice,
    /// Yes or no, true or false, 是 or 否.
    YesNo,
    /// A day.
    Date,
    /// A JSON value.
    Json,
    /// A word, name or phrase.
    Text,
}

/// How an answer is looked for and read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExtractOptions {
    /// What the question asks for.
    pub kind: Kind,
    /// The texts of the options of a multiple-choice question, A first: an answer that repeats an
    /// option's text then counts as its letter.
    pub choices: Vec<String>,
    /// "1,5" is one and a half, and "1.000" a thousand.
    pub decimal_comma: bool,
    /// For [`Kind::Json`]: the field that holds the answer, when the answer is one field of an object.
    pub field: Option<String>,
}

impl ExtractOptions {
    /// Options for one kind, the rest as by default.
    pub fn of(kind: Kind) -> Self {
        Self { kind, ..Self::default() }
    }
}

/// An answer as it was written and in its canonical form.
///
/// Two answers are `==` when they were written alike; [`equal`] compares what they mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What the path wrote, without markup around it.
    pub written: String,
    /// What it was read as: never [`Kind::Auto`].
    pub kind: Kind,
    pub(crate) value: Value,
}

/// The canonical value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Math(Math),
    Choice(Choice),
    Truth(bool),
    Date(Date),
    Json(serde_json::Value),
    Text(String),
}

impl Answer {
    /// Reads a bare answer. With [`Kind::Auto`], or when it cannot be read as the kind asked for, the
    /// answer decides; what is nothing else is text.
    pub fn read(written: &str, options: &ExtractOptions) -> Self {
        let written = written.trim();
        let (kind, value) = Self::value_of(written, options);
        Self { written: written.to_string(), kind, value }
    }

    fn value_of(written: &str, options: &ExtractOptions) -> (Kind, Value) {
        let known = |kind| options.kind == kind;
        if written.len() > MAX_LENGTH && !known(Kind::Json) {
            return (Kind::Text, Value::Text(fold::words(written)));
        }
        let may = |kind| known(kind) || known(Kind::Auto);
        if may(Kind::Json)
            && let Some(value) = json::read(written, known(Kind::Json))
        {
            return (Kind::Json, Value::Json(value));
        }
        if may(Kind::Choice)
            && let Some(choice) = choice::read(written, &options.choices, known(Kind::Choice))
        {
            return (Kind::Choice, Value::Choice(choice));
        }
        if may(Kind::YesNo)
            && let Some(truth) = truth::read(written, known(Kind::YesNo))
        {
            return (Kind::YesNo, Value::Truth(truth));
        }
        if may(Kind::Date)
            && let Some(date) = date::read(written)
        {
            return (Kind::Date, Value::Date(date));
        }
        let bare = fold::bare(written);
        // "dog" is a word, no product that "god" equals, unless a formula is asked for
        if !known(Kind::Text) && (known(Kind::Math) || !fold::only_words(&bare)) {
            let math =
                quantity::read(&bare, options.decimal_comma).or_else(|| math::read(&bare, options.decimal_comma));
            if let Some(math) = math.filter(|m| !matches!(m, Math::Word(_))) {
                let number = matches!(&math, Math::Scalar(s) if math::eval::exact(&s.value).is_some());
                return (if number { Kind::Number } else { Kind::Math }, Value::Math(math));
            }
        }
        (Kind::Text, Value::Text(fold::words(written)))
    }

    /// The canonical form. Of numbers it is the exact value with percent sign and unit; of other
    /// formulas the notation without markup, since equal formulas have no one form. Read again as its
    /// own kind it gives itself.
    pub fn canonical(&self) -> String {
        match &self.value {
            Value::Math(Math::Scalar(Scalar { value, percent, unit })) if math::eval::exact(value).is_some() => {
                let number = math::eval::exact(value).unwrap_or_default();
                let percent = if *percent { "%" } else { "" };
                match unit {
                    Some(unit) => format!("{number}{percent} {}", unit.name),
                    None => format!("{number}{percent}"),
                }
            }
            Value::Math(_) => fold::bare(&self.written),
            Value::Choice(choice) => choice.letters.iter().collect(),
            Value::Truth(true) => "yes".to_string(),
            Value::Truth(false) => "no".to_string(),
            Value::Date(date) => date.to_string(),
            Value::Json(value) => json::canonical(value),
            Value::Text(text) => text.clone(),
        }
    }

    /// The answer a number found in running text is.
    pub(crate) fn of_number(written: &str, number: number::Number) -> Self {
        let value = Value::Math(Math::scalar(Expr::Number(number)));
        Self { written: written.to_string(), kind: Kind::Number, value }
    }
}

/// On disk an answer is what was written, its kind and, for readers, its canonical form.
impl Serialize for Answer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut fields = serializer.serialize_struct("Answer", 3)?;
        fields.serialize_field("written", &self.written)?;
        fields.serialize_field("kind", &self.kind)?;
        fields.serialize_field("canonical", &self.canonical())?;
        fields.end()
    }
}

/// The value is read again from what was written: a record cannot claim another one.
impl<'de> Deserialize<'de> for Answer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Stored {
            written: String,
            kind: Kind,
        }
        let stored = Stored::deserialize(deserializer)?;
        Ok(Self::read(&stored.written, &ExtractOptions::of(stored.kind)))
    }
}
