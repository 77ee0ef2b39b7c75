//! Rows of chains to check, and what was found: `loar verify-steps`.
//!
//! A row is a JSON object a line: `steps` (an array, taken as it is) or `text` (split here), and optionally
//! `question` (or `input`), `context` (texts, or objects with `id` and `text`), `answer`, and a label: `mistake_index` or
//! `label`, the index of the first wrong step, null for none. With labels the report counts exact locations
//! and whether a chain is wrong at all.

use serde::Serialize;
use serde_json::{Map, Value};

use super::fault::{Fault, Faults};
use super::{Claim, Passage, Verdict, Verification, Verifier, merged, split_steps};
use crate::answer::{Answer, ExtractOptions};

/// One chain to check.
#[derive(Debug, Clone)]
pub struct Row {
    question: String,
    steps: Vec<String>,
    context: Vec<Passage>,
    answer: Option<Answer>,
    label: Option<Option<usize>>,
}

/// What was found in a row.
#[derive(Debug, Clone, Serialize)]
pub struct RowReport {
    /// Line of the row, from 1.
    pub line: usize,
    /// Index of the first wrong step, from 0.
    pub first_wrong: Option<usize>,
    /// Fail, pass, or unsure when nothing could be checked.
    pub verdict: Verdict,
    /// What the first wrong step fails on.
    pub evidence: Option<String>,
    /// The label, when the row has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<Option<usize>>,
}

/// Counts against labels.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Agreement {
    /// Rows with a label.
    pub labelled: usize,
    /// Rows whose first wrong step is the label's, null included.
    pub exact: usize,
    /// Wrong chains found wrong, at whatever step.
    pub true_alarms: usize,
    /// Right chains found wrong.
    pub false_alarms: usize,
    /// Wrong chains not found wrong.
    pub missed: usize,
    /// Right chains not found wrong.
    pub true_silences: usize,
    /// Wrong chains whose step was found.
    pub located: usize,
    /// Rows in which nothing could be checked.
    pub unsure: usize,
}

/// All that was found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Rows read.
    pub rows: usize,
    /// Names of the verifiers.
    pub verifiers: Vec<String>,
    /// Rows with a wrong step.
    pub failed: usize,
    /// Rows in which something was checked and all held.
    pub passed: usize,
    /// Rows in which nothing could be checked.
    pub unsure: usize,
    /// Counts against labels, when there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agreement: Option<Agreement>,
    /// A report a row.
    pub results: Vec<RowReport>,
}

/// Reads rows; empty lines are passed over.
///
/// # Errors
/// Every row that cannot be read, with its line.
pub fn read_rows(file: &str, text: &str) -> Result<Vec<(usize, Row)>, Faults> {
    let (mut rows, mut faults) = (Vec::new(), Vec::new());
    for (n, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match row(line) {
            Ok(row) => rows.push((n + 1, row)),
            Err(all) => faults.extend(all.into_iter().map(|text| Fault { file: file.to_owned(), line: n + 1, text })),
        }
    }
    if faults.is_empty() { Ok(rows) } else { Err(Faults(faults)) }
}

fn row(line: &str) -> Result<Row, Vec<String>> {
    let value: Value = serde_json::from_str(line).map_err(|e| vec![format!("no JSON: {e}")])?;
    let object = value.as_object().ok_or_else(|| vec![format!("expected an object, found {}", kind(&value))])?;
    let mut faults = Vec::new();
    let text = |key: &str, faults: &mut Vec<String>| match object.get(key) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(other) => {
            faults.push(format!("`{key}` is {}, expected a text", kind(other)));
            None
        }
    };
    let question = text("question", &mut faults).or_else(|| text("input", &mut faults)).unwrap_or_default();
    let steps = match (object.get("steps"), text("text", &mut faults)) {
        (Some(Value::Array(all)), _) => {
            let steps: Option<Vec<String>> = all.iter().map(|s| s.as_str().map(str::to_owned)).collect();
            steps.unwrap_or_else(|| {
                faults.push("`steps` holds something that is no text".to_owned());
                Vec::new()
            })
        }
        (Some(other), _) => {
            faults.push(format!("`steps` is {}, expected an array of texts", kind(other)));
            Vec::new()
        }
        (None, Some(text)) => split_steps(&text),
        (None, None) => {
            faults.push("no `steps` (an array of texts) and no `text`".to_owned());
            Vec::new()
        }
    };
    let context = context(object, &mut faults);
    let answer = object.get("answer").filter(|a| !a.is_null()).map(|a| match a {
        Value::String(text) => Answer::read(text, &ExtractOptions::default()),
        other => Answer::read(&other.to_string(), &ExtractOptions::default()),
    });
    let label = match object.get("mistake_index").or_else(|| object.get("label")) {
        None => None,
        Some(Value::Null) => Some(None),
        Some(n) if n.as_i64() == Some(-1) => Some(None),
        Some(n) if n.as_u64().is_some_and(|n| (n as usize) < steps.len()) => Some(n.as_u64().map(|n| n as usize)),
        Some(other) => {
            faults.push(format!(
                "the label is {other}, expected the index of a step (0 to {}) or null",
                steps.len().saturating_sub(1)
            ));
            None
        }
    };
    if faults.is_empty() { Ok(Row { question, steps, context, answer, label }) } else { Err(faults) }
}

fn context(object: &Map<String, Value>, faults: &mut Vec<String>) -> Vec<Passage> {
    let passages: Vec<&Value> = match object.get("context") {
        None | Some(Value::Null) => return Vec::new(),
        Some(Value::Array(all)) => all.iter().collect(),
        Some(one) => vec![one],
    };
    let mut read = Vec::new();
    for (n, passage) in passages.into_iter().enumerate() {
        let field = |key: &str| passage.get(key).and_then(Value::as_str).map(str::to_owned);
        match (passage, field("id"), field("text")) {
            (Value::String(text), ..) => read.push(Passage { id: (n + 1).to_string(), text: text.clone() }),
            (_, Some(id), Some(text)) => read.push(Passage { id, text }),
            _ => faults.push(format!("`context` entry {n} is no text and no object with `id` and `text`")),
        }
    }
    read
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Checks rows with verifiers; a step fails when one of them fails it.
pub fn report(rows: &[(usize, Row)], verifiers: &[Box<dyn Verifier>]) -> Report {
    let mut report = Report {
        rows: rows.len(),
        verifiers: verifiers.iter().map(|v| v.name().to_owned()).collect(),
        failed: 0,
        passed: 0,
        unsure: 0,
        agreement: None,
        results: Vec::with_capacity(rows.len()),
    };
    for (line, row) in rows {
        let claim =
            Claim { question: &row.question, steps: &row.steps, answer: row.answer.as_ref(), context: &row.context };
        let parts: Vec<Verification> = verifiers.iter().map(|v| v.verify(&claim)).collect();
        let found = match &parts[..] {
            [one] => one.clone(),
            _ => verifiers.first().map(|v| merged(v.as_ref(), row.steps.len(), &parts)).unwrap_or(Verification {
                verifier: String::new(),
                version: 0,
                steps: Vec::new(),
            }),
        };
        let (first_wrong, verdict) = (found.first_wrong(), found.outcome());
        match verdict {
            Verdict::Fail => report.failed += 1,
            Verdict::Pass => report.passed += 1,
            Verdict::Unsure => report.unsure += 1,
        }
        if let Some(label) = row.label {
            let counts = report.agreement.get_or_insert_default();
            counts.labelled += 1;
            counts.exact += usize::from(label == first_wrong);
            counts.located += usize::from(label.is_some() && label == first_wrong);
            counts.unsure += usize::from(verdict == Verdict::Unsure);
            *match (label.is_some(), first_wrong.is_some()) {
                (true, true) => &mut counts.true_alarms,
                (true, false) => &mut counts.missed,
                (false, true) => &mut counts.false_alarms,
                (false, false) => &mut counts.true_silences,
            } += 1;
        }
        let evidence = first_wrong.map(|n| found.steps[n].evidence.clone());
        report.results.push(RowReport { line: *line, first_wrong, verdict, evidence, label: row.label });
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::AutoVerifier;

    #[test]
    fn rows_are_read_checked_and_counted() {
        let text = "{\"steps\": [\"3 + 4 = 7\", \"7 * 2 = 15\"], \"mistake_index\": 1}\n\n{\"steps\": [\"hello\"], \"label\": null}\n";
        let rows = read_rows("f", text).unwrap();
        let report = report(&rows, &[Box::new(AutoVerifier::default())]);
        assert_eq!((report.failed, report.passed, report.unsure), (1, 0, 1));
        let agreement = report.agreement.unwrap();
        assert_eq!((agreement.exact, agreement.located, agreement.true_silences), (2, 1, 1));
        assert_eq!(report.results[1].line, 3);
    }

    #[test]
    fn all_bad_rows_are_named() {
        let text = "{\"steps\": [1]}\n[]\n{\"steps\": [\"a\"], \"label\": 4}\n{}";
        let Faults(faults) = read_rows("f.jsonl", text).unwrap_err();
        assert_eq!(faults.iter().map(|f| f.line).collect::<Vec<_>>(), [1, 2, 3, 4]);
    }
}
