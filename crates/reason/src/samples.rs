//! Recorded samples: a file of questions with the paths that were drawn for them.
//!
//! One JSON object a line: `{"id", "question"?, "gold", "type"?, "paths": [{"text", "answer"?, "logprob"?,
//! "features"?: {name: number}}]}`. Read generously: gold and answers may be strings, numbers or booleans, a
//! path may be its bare text, ids may be numbers or missing (then the line), `choices` lists the options of
//! a question. An answer that is missing is extracted from the text; `"answer": null` says that the path has
//! none. All faults of a file are reported at once.

use crate::answer::{Answer, EqualOptions, ExtractOptions, Kind, classes, equal, extract};
use crate::fuse::Ballot;
use crate::fuse::calibrate::Labelled;
use crate::verify::{Claim, Verdict, Verifier, split_steps};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A recorded path.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplePath {
    /// What the model wrote.
    pub text: String,
    /// Its answer as given or extracted.
    pub answer: Option<Answer>,
    /// Measurements, `logprob` among them.
    pub features: BTreeMap<String, f64>,
}

/// A recorded question.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Its name.
    pub id: String,
    /// Line in the file, from 1.
    pub line: usize,
    /// The question, empty when the row has none.
    pub question: String,
    /// The right answer.
    pub gold: Answer,
    /// Options of a multiple-choice question.
    pub choices: Vec<String>,
    /// The paths, in order.
    pub paths: Vec<SamplePath>,
}

/// Why samples cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// The file cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Rows that are not samples.
    #[error("`{}`: {} of {rows} rows are not samples", path.display(), faults.len())]
    Rows {
        /// The file.
        path: PathBuf,
        /// Rows in it.
        rows: usize,
        /// All faults, one a row, as `file:line: what`.
        faults: Vec<String>,
    },
}

/// Reads a file.
pub fn read(path: &Path) -> Result<Vec<Sample>, SampleError> {
    let bytes = std::fs::read(path).map_err(|source| SampleError::Read { path: path.to_owned(), source })?;
    let (mut samples, mut faults, mut rows) = (Vec::new(), Vec::new(), 0);
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for (at, line) in bytes.split(|&b| b == b'\n').enumerate() {
        let line = if at == 0 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) } else { line };
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        rows += 1;
        match row(line, at + 1) {
            Ok(sample) => match seen.insert(sample.id.clone(), at + 1) {
                Some(before) => faults.push(format!(
                    "{}:{}: id `{}` was used on line {before}; ids name questions once",
                    path.display(),
                    at + 1,
                    sample.id
                )),
                None => samples.push(sample),
            },
            Err(wrong) => faults.push(format!("{}:{}: {}", path.display(), at + 1, wrong.join("; "))),
        }
    }
    if rows == 0 {
        faults.push(format!(
            "{}:1: the file has no rows; a row is {{\"id\", \"gold\", \"paths\": [{{\"text\"}}]}}",
            path.display()
        ));
    }
    if faults.is_empty() { Ok(samples) } else { Err(SampleError::Rows { path: path.to_owned(), rows, faults }) }
}

fn row(line: &[u8], number: usize) -> Result<Sample, Vec<String>> {
    let text = std::str::from_utf8(line).map_err(|e| vec![format!("not UTF-8 at byte {}", e.valid_up_to())])?;
    let value: Value = serde_json::from_str(text).map_err(|e| vec![format!("not JSON: {e}")])?;
    let Value::Object(object) = value else { return Err(vec!["a row is an object".into()]) };
    let mut faults = Vec::new();
    let id = match object.get("id") {
        None | Some(Value::Null) => number.to_string(),
        Some(id) => plain(id).unwrap_or_else(|| {
            faults.push("`id` is a string or a number".into());
            String::new()
        }),
    };
    let question = match object.get("question") {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(question)) => question.clone(),
        Some(_) => {
            faults.push("`question` is a string".into());
            String::new()
        }
    };
    let choices: Vec<String> = match object.get("choices") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(list)) => list.iter().filter_map(plain).collect(),
        Some(_) => {
            faults.push("`choices` is a list".into());
            Vec::new()
        }
    };
    let declared = match object.get("type") {
        None | Some(Value::Null) => Some(Kind::Auto),
        Some(Value::String(name)) => kind(name),
        Some(_) => None,
    };
    let declared = declared.unwrap_or_else(|| {
        faults.push("`type` is one of auto, number, math, choice, yes_no, date, json, text".into());
        Kind::Auto
    });
    let mut options = ExtractOptions { kind: declared, choices: choices.clone(), ..ExtractOptions::default() };
    let gold = match object.get("gold").map(|gold| (gold, plain(gold))) {
        Some((_, Some(gold))) if !gold.trim().is_empty() => Some(Answer::read(&gold, &options)),
        Some((Value::Array(_) | Value::Object(_), _)) if declared == Kind::Json => {
            object.get("gold").map(|gold| Answer::read(&gold.to_string(), &options))
        }
        Some(_) => None,
        None => None,
    };
    if gold.is_none() {
        faults.push("`gold` is the right answer, a string, number or boolean".into());
    }
    // What the question asks for tells an extractor where to look; the gold answer shows it.
    if let (Kind::Auto, Some(gold)) = (declared, &gold)
        && matches!(gold.kind, Kind::Number | Kind::Choice | Kind::YesNo)
    {
        options.kind = gold.kind;
    }
    let mut paths = Vec::new();
    match object.get("paths") {
        Some(Value::Array(list)) if !list.is_empty() => {
            for (i, path) in list.iter().enumerate() {
                match sample_path(path, &options) {
                    Ok(path) => paths.push(path),
                    Err(wrong) => faults.push(format!("path {i}: {wrong}")),
                }
            }
        }
        _ => faults.push("`paths` is a list of at least one path".into()),
    }
    match gold {
        Some(gold) if faults.is_empty() => Ok(Sample { id, line: number, question, gold, choices, paths }),
        _ => Err(faults),
    }
}

/// A string, number or boolean as text.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(if *yes { "yes" } else { "no" }.to_owned()),
        _ => None,
    }
}

fn kind(name: &str) -> Option<Kind> {
    Some(match name.trim().to_lowercase().replace([' ', '-'], "_").as_str() {
        "" | "auto" | "any" => Kind::Auto,
        "number" | "numeric" | "num" | "int" | "integer" | "float" | "decimal" => Kind::Number,
        "math" | "maths" | "latex" | "expression" | "formula" | "set" | "interval" | "tuple" => Kind::Math,
        "choice" | "choices" | "mcq" | "multiple_choice" | "option" | "letter" => Kind::Choice,
        "yes_no" | "yesno" | "bool" | "boolean" | "truth" => Kind::YesNo,
        "date" | "day" => Kind::Date,
        "json" => Kind::Json,
        "text" | "string" | "str" | "word" | "words" | "free" => Kind::Text,
        _ => return None,
    })
}

fn sample_path(value: &Value, options: &ExtractOptions) -> Result<SamplePath, String> {
    if let Value::String(text) = value {
        return Ok(SamplePath { text: text.clone(), answer: extract(text, options), features: BTreeMap::new() });
    }
    let Value::Object(object) = value else { return Err("is an object with `text`, or a string".into()) };
    let text = match object.get("text") {
        Some(Value::String(text)) => text.clone(),
        None if object.contains_key("answer") => String::new(),
        _ => return Err("`text` is a string".into()),
    };
    let answer = match object.get("answer") {
        None => extract(&text, options),
        Some(Value::Null) => None,
        Some(value @ (Value::Array(_) | Value::Object(_))) => Some(Answer::read(&value.to_string(), options)),
        Some(value) => plain(value).filter(|a| !a.trim().is_empty()).map(|a| Answer::read(&a, options)),
    };
    let mut features = BTreeMap::new();
    number(object, "logprob", &mut features)?;
    match object.get("features") {
        None | Some(Value::Null) => {}
        Some(Value::Object(each)) => {
            for name in each.keys() {
                number(each, name, &mut features)?;
            }
        }
        Some(_) => return Err("`features` is an object of numbers".into()),
    }
    Ok(SamplePath { text, answer, features })
}

fn number(object: &Map<String, Value>, name: &str, into: &mut BTreeMap<String, f64>) -> Result<(), String> {
    let value = match object.get(name) {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Bool(yes)) => Some(f64::from(u8::from(*yes))),
        Some(value) => value.as_f64(),
    };
    into.insert(name.to_owned(), value.ok_or(format!("`{name}` is a number"))?);
    Ok(())
}

impl Sample {
    /// Classes, verdicts and features of the paths, and the class that is the gold answer.
    pub fn label(&self, verifiers: &[&dyn Verifier]) -> Labelled {
        let equality = EqualOptions::default();
        let answers: Vec<Option<Answer>> = self.paths.iter().map(|p| p.answer.clone()).collect();
        let classes: Vec<Option<usize>> =
            classes(&answers, &equality).into_iter().zip(&answers).map(|(c, a)| a.as_ref().map(|_| c)).collect();
        let is_gold = |answer: &Option<Answer>| answer.as_ref().is_some_and(|a| equal(&self.gold, a, &equality));
        let truth = answers.iter().position(is_gold).and_then(|i| classes[i]);
        let steps: Vec<Vec<String>> = match verifiers {
            [] => Vec::new(),
            _ => self.paths.iter().map(|p| split_steps(&p.text)).collect(),
        };
        let verdicts = verifiers.iter().map(|verifier| {
            let on = |(steps, answer): (&Vec<String>, &Option<Answer>)| {
                let claim = Claim { question: &self.question, steps, answer: answer.as_ref(), context: &[] };
                verifier.verify(&claim).outcome()
            };
            let each: Vec<Verdict> = steps.iter().zip(&answers).map(on).collect();
            (verifier.name().to_owned(), each)
        });
        let names: BTreeSet<&String> = self.paths.iter().flat_map(|p| p.features.keys()).collect();
        let features = names.into_iter().map(|name| {
            let values: Vec<Option<f64>> = self.paths.iter().map(|p| p.features.get(name).copied()).collect();
            (name.clone(), values)
        });
        let ballot = Ballot {
            classes,
            verdicts: verdicts.collect(),
            features: features.collect(),
            options: (!self.choices.is_empty()).then_some(self.choices.len()),
        };
        let group =
            if self.question.trim().is_empty() { format!("id {}", self.id) } else { self.question.trim().to_owned() };
        Labelled { ballot, truth, group }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<Vec<Sample>, SampleError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("paths.jsonl");
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn rows_are_read_generously() {
        let samples = file(concat!(
            "\u{feff}{\"id\": 7, \"gold\": 18, \"paths\": [{\"text\": \"16-3=13\\nThe answer is 18.\", \"logprob\": -0.5},",
            "{\"text\": \"no idea\", \"answer\": null}, {\"answer\": 18.0, \"features\": {\"p_true\": true}}, \"#### 17\"]}\r\n\n",
            "{\"gold\": \"yajo\", \"type\": null, \"paths\": [{\"text\": \"The answer is yajo.\"}, {\"text\": \"\"}]}\n"
        ))
        .unwrap();
        assert_eq!((samples.len(), samples[0].id.as_str(), samples[1].id.as_str()), (2, "7", "3"));
        let label = samples[0].label(&[]);
        assert_eq!(
            label.ballot.classes,
            [Some(0), None, Some(0), Some(2)].map(|c| c.map(|c| if c == 2 {
                label.ballot.classes[3].unwrap()
            } else {
                c
            }))
        );
        assert_eq!(label.truth, label.ballot.classes[0]);
        assert_ne!(label.ballot.classes[3], label.ballot.classes[0]);
        assert_eq!(label.ballot.features["logprob"], [Some(-0.5), None, None, None]);
        assert_eq!(label.ballot.features["p_true"][2], Some(1.0));
        let words = samples[1].label(&[]);
        assert_eq!(words.ballot.classes[1], None);
        assert_eq!(words.truth, words.ballot.classes[0]);
    }

    #[test]
    fn all_faults_come_at_once_with_their_lines() {
        let error = file(concat!(
            "{\"gold\": 1, \"paths\": [{\"text\": \"1\"}]}\n",
            "nonsense\n",
            "{\"id\": \"a\", \"paths\": []}\n",
            "{\"id\": \"b\", \"gold\": 2, \"type\": \"colour\", \"paths\": [{\"text\": 3}, {\"text\": \"\", \"logprob\": \"x\"}]}\n",
            "{\"id\": 1, \"gold\": 1, \"paths\": [\"1\"]}\n"
        ))
        .unwrap_err();
        let SampleError::Rows { faults, rows, .. } = error else { panic!("{error}") };
        assert_eq!((rows, faults.len()), (5, 4), "{faults:#?}");
        assert!(faults[0].contains(":2: not JSON") && faults[1].contains("`gold`") && faults[1].contains("`paths`"));
        assert!(
            faults[2].contains("`type`") && faults[2].contains("path 0") && faults[2].contains("path 1: `logprob`")
        );
        assert!(faults[3].contains(":5: id `1` was used on line 1"));
        assert!(file("\n").is_err());
    }
}
