//! Whether a prediction is the gold answer.

use serde::{Deserialize, Serialize};

use super::{Answer, Value, fold, json, math};

/// What a percent sign is worth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Percent {
    /// 50 % is 0.5 and 1/2; a gold answer without the sign also takes "50 %" for 50, because data sets
    /// drop the sign as they drop units.
    #[default]
    Gold,
    /// 50 % is 0.5 and 1/2, and nothing else.
    Fraction,
    /// The sign is dropped: 50 % is 50.
    Dropped,
}

/// What a unit is worth that only one side has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Units {
    /// Nothing: 5 km is 5. Units on both sides must agree after conversion.
    #[default]
    Lenient,
    /// Both sides or neither.
    Strict,
}

/// How exact "equal" is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EqualOptions {
    /// Decimal places to which numbers are rounded before comparison when one of them was written as
    /// a decimal; exact numbers are compared exactly.
    pub places: u32,
    /// Percent signs.
    pub percent: Percent,
    /// Units on one side only.
    pub units: Units,
    /// An inequality counts for the interval it describes also when the gold answer is the interval.
    /// Off, because a model that copies the inequality of the question has not solved it.
    pub relation_for_set: bool,
}

impl Default for EqualOptions {
    fn default() -> Self {
        Self { places: 6, percent: Percent::default(), units: Units::default(), relation_for_set: false }
    }
}

/// Whether `pred` is the answer `gold`.
///
/// Reflexive, and symmetric but for two policies: [`Percent::Gold`], and inequalities, which count
/// for the interval they describe only where the gold answer is the inequality.
pub fn equal(gold: &Answer, pred: &Answer, options: &EqualOptions) -> bool {
    let plain = || fold::plain(&gold.written) == fold::plain(&pred.written);
    match (&gold.value, &pred.value) {
        (a, b) if a == b => true,
        (Value::Math(a), Value::Math(b)) => math::same(a, b, options),
        (Value::Choice(a), Value::Choice(b)) => {
            a.letters == b.letters || (a.text.is_some() && a.text == b.text && a.letters.len() == 1)
        }
        (Value::Choice(c), Value::Text(t)) | (Value::Text(t), Value::Choice(c)) => {
            c.text.as_ref() == Some(t) || plain()
        }
        (Value::Truth(_), Value::Truth(_)) => false,
        // one word, written in pieces by one side: "yya o" is "yyao"
        (Value::Text(a), Value::Text(b)) if one_word(a) != one_word(b) => joined(a) == joined(b) || plain(),
        (Value::Date(a), Value::Date(b)) => {
            (a.month, a.day) == (b.month, b.day) && (a.year.is_none() || b.year.is_none())
        }
        (Value::Json(a), Value::Json(b)) => json::same(a, b),
        _ => plain(),
    }
}

fn one_word(text: &str) -> bool {
    !text.contains([' ', '-', '_', '\''])
}

fn joined(text: &str) -> String {
    text.chars().filter(|c| c.is_alphanumeric()).collect()
}
