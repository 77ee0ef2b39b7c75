//! The strict JSON form of an answer.
//!
//! Takes text, gives a typed [`Answer`] or the reason why the text is not one. Nothing may stand before or after the
//! object, no key may be absent, unknown or double, and every field has its type.
use serde::{Deserialize, Serialize};

/// Value column of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum StepValue {
    /// A number of the record.
    Number(u64),
    /// Code of an option.
    Code(String),
    /// `null`: the record does not say.
    Missing,
}

/// `[factor, value, points, running sum]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step(pub String, pub StepValue, pub u64, pub u64);

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// One step per factor, in policy order.
    pub steps: Vec<Step>,
    /// Sum of the points.
    pub total: u64,
    /// `approve`, `review` or `decline`.
    pub decision: String,
    /// Codes, in policy order.
    pub reasons: Vec<String>,
}

impl Answer {
    /// Parses the form.
    ///
    /// # Errors
    /// What is wrong with the text, with its column.
    pub fn parse(text: &str) -> Result<Answer, String> {
        // A derived reader would also take the fields as an array: the form is an object.
        if !text.trim_start().starts_with('{') {
            return Err("the answer does not start with `{`".to_string());
        }
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// The one text of the form, without spaces, that training data holds.
    pub fn to_json(&self) -> String {
        // Strings, integers and nulls always serialise.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// An answer without its steps: what is asked, and nothing that leads to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conclusion {
    /// `approve`, `review` or `decline`.
    pub decision: String,
    /// Codes, in policy order.
    pub reasons: Vec<String>,
}

impl Conclusion {
    /// Parses the form, as strictly as [`Answer::parse`].
    ///
    /// # Errors
    /// What is wrong with the text, with its column.
    pub fn parse(text: &str) -> Result<Conclusion, String> {
        if !text.trim_start().starts_with('{') {
            return Err("the answer does not start with `{`".to_string());
        }
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// The one text of the form, without spaces, that training data holds.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl From<Answer> for Conclusion {
    fn from(answer: Answer) -> Conclusion {
        Conclusion { decision: answer.decision, reasons: answer.reasons }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        r#"{"steps":[["a",3,5,5],["b","x",0,5],["c",null,0,5]],"total":5,"decision":"decline","reasons":["b"]}"#;

    #[test]
    fn the_form_round_trips() {
        let answer = Answer::parse(GOOD).unwrap();
        assert_eq!(answer.steps[2].1, StepValue::Missing);
        assert_eq!(answer.to_json(), GOOD);
    }

    #[test]
    fn every_other_form_is_refused() {
        for bad in [
            &GOOD[..GOOD.len() - 1],
            &format!("{GOOD} ok"),
            &format!("Answer: {GOOD}"),
            &format!("[{GOOD}]"),
            &GOOD.replace("\"total\":5,", ""),
            &GOOD.replace("\"total\":5,", "\"total\":5,\"total\":5,"),
            &GOOD.replace("\"total\":5,", "\"total\":5,\"note\":1,"),
            &GOOD.replace("\"total\":5", "\"total\":\"5\""),
            &GOOD.replace("\"total\":5", "\"total\":5.5"),
            &GOOD.replace("\"total\":5", "\"total\":-5"),
            &GOOD.replace("[\"a\",3,5,5]", "[\"a\",3,5]"),
            &GOOD.replace("[\"a\",3,5,5]", "[\"a\",3,5,5,5]"),
            &GOOD.replace("[\"a\",3,5,5]", "[\"a\",true,5,5]"),
            &GOOD.replace("[\"b\"]", "\"b\""),
            r#"[[["a",3,5,5]],5,"decline",["b"]]"#,
        ] {
            assert!(Answer::parse(bad).is_err(), "accepted: {bad}");
        }
    }
}
