//! Whether a prediction is the gold answer.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{Signed, ToPrimitive};
use serde::{Deserialize, Serialize};

use super::number::Number;
use super::{Answer, Value, fold};

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
pub fn equal(gold: &Answer, pred: &Answer, options: &EqualOptions) -> bool {
    let words = || fold::words(&gold.written) == fold::words(&pred.written);
    match (&gold.value, &pred.value) {
        (Value::Number(a), Value::Number(b)) => numbers(a, b, options.places),
        (Value::Choice(a), Value::Choice(b)) => {
            a.letters == b.letters || (a.text.is_some() && a.text == b.text && a.letters.len() == 1)
        }
        (Value::Choice(c), Value::Text(t)) | (Value::Text(t), Value::Choice(c)) => {
            c.text.as_ref() == Some(t) || words()
        }
        (Value::Truth(a), Value::Truth(b)) => a == b,
        (Value::Text(a), Value::Text(b)) => a == b,
        _ => words(),
    }
}

/// Equal exactly, or to `places` decimals when one of them may have been rounded.
fn numbers(a: &Number, b: &Number, places: u32) -> bool {
    if a.value == b.value {
        return true;
    }
    if !a.decimal && !b.decimal {
        return false;
    }
    let difference = (&a.value - &b.value).abs();
    difference < BigRational::new(BigInt::from(1), BigInt::from(10).pow(places.min(100)))
        && difference.to_f64().is_some_and(f64::is_finite)
}
