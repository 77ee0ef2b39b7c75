//! Intent recognition by the rule of ESFT (`benchmarks.py`, Wang et al. 2024): exact match of intent and slots.
//!
//! The rule, as published: of the output, white space and full stops at both ends go; of a fenced JSON block the inside
//! is taken; of several lines the first that is not empty; full stops go again; the rest must be JSON. Intent and slots
//! must be equal, slots without order, list values without order, spaces within the output's slot values ignored. A gold
//! value that itself holds a space can therefore never be met (1 of the 500 rows): that is the rule, and it is kept so
//! that figures stay comparable with the published ones.
use super::Score;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Names of the measures: the output parses; the intent is right; the slots are right; both are.
pub const MEASURES: [&str; 4] = ["parsed", "intent", "slots", "exact"];

const STOPS: [char; 2] = ['.', '。'];

/// A slot with its value: text, or the sorted texts of a list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Slot {
    Text(String),
    List(Vec<String>),
}

type Slots = BTreeSet<(String, Slot)>;

/// Intent and slots of a gold answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gold {
    intent: Value,
    slots: Slots,
}

/// The JSON text within an output.
fn trimmed(output: &str) -> &str {
    let mut text = output.trim().trim_matches(STOPS);
    if let Some((_, inside)) = text.split_once("```json") {
        // An unclosed fence is no answer.
        text = inside.split_once("```").map_or("{}", |(block, _)| block);
    }
    if text.contains('\n') {
        text = text.split('\n').find(|line| !line.is_empty()).unwrap_or("");
    }
    text.trim_matches(STOPS)
}

/// A value as the rule's string form; `None` for what has none worth comparing.
fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(_) | Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// `spaces`: whether spaces within values count.
fn slots(object: &Map<String, Value>, spaces: bool) -> Result<Slots, String> {
    let text = |s: &str| {
        if spaces { s.to_string() } else { s.replace(' ', "") }
    };
    let Some(slots) = object.get("slots") else {
        return Ok(Slots::new());
    };
    let slots = slots.as_object().ok_or("`slots` is not an object")?;
    slots
        .iter()
        .map(|(key, value)| {
            let slot = match value {
                Value::String(s) => Slot::Text(text(s)),
                Value::Array(items) => {
                    let mut list: Vec<String> = items
                        .iter()
                        .map(|item| plain(item).map(|s| text(&s)))
                        .collect::<Option<_>>()
                        .ok_or_else(|| format!("slot `{key}` holds a list of other than texts"))?;
                    list.sort();
                    Slot::List(list)
                }
                other => {
                    return Err(format!("slot `{key}` holds `{other}`, not a text or a list"));
                }
            };
            Ok((key.clone(), slot))
        })
        .collect()
}

/// Reads a gold answer; a full stop and white space around it are free, as in the training rows.
///
/// # Errors
/// Why it is not one.
pub fn parse_gold(gold: &str) -> Result<Gold, String> {
    let json: Value = serde_json::from_str(trimmed(gold)).map_err(|e| format!("the gold answer is not JSON: {e}"))?;
    let object = json.as_object().ok_or("the gold answer is not a JSON object")?;
    Ok(Gold { intent: object.get("intent").cloned().unwrap_or_default(), slots: slots(object, true)? })
}

/// Scores an output.
pub fn score(gold: &str, output: &str) -> Score {
    let miss =
        |parsed: bool, note: String| Score { hits: vec![parsed, false, false, false], class: None, notes: vec![note] };
    let gold = match parse_gold(gold) {
        Ok(gold) => gold,
        Err(reason) => return miss(false, reason),
    };
    let json: Value = match serde_json::from_str(trimmed(output)) {
        Ok(json) => json,
        Err(error) => return miss(false, format!("not JSON: {error}")),
    };
    let Some(object) = json.as_object() else {
        return miss(false, "not a JSON object".into());
    };
    let predicted = match slots(object, false) {
        Ok(slots) => slots,
        // The rule gives such an output nothing, not even its intent.
        Err(reason) => return miss(true, reason),
    };
    let intent = object.get("intent").cloned().unwrap_or_default() == gold.intent;
    let same = predicted == gold.slots;
    let mut notes = Vec::new();
    if !intent {
        notes.push(format!("intent is {}, not {}", gold.intent, object.get("intent").unwrap_or(&Value::Null)));
    }
    if !same {
        let names = |set: &Slots, other: &Slots| {
            set.difference(other).map(|(key, _)| key.clone()).collect::<Vec<_>>().join(", ")
        };
        notes.push(format!(
            "slots missed: [{}], slots too many: [{}]",
            names(&gold.slots, &predicted),
            names(&predicted, &gold.slots)
        ));
    }
    Score { hits: vec![true, intent, same, intent && same], class: None, notes }
}

/// The last question of a few-shot evaluation prompt, worded as a training row.
///
/// ESFT's evaluation rows hold `User: <16 solved examples> <question> Assistant:`; a model fine-tuned on the training
/// rows is asked the question alone. `None` when the prompt has another form.
pub fn question(prompt: &str) -> Option<String> {
    const ASK: &str = "请分析下面这句话的意图，并转化为json格式：";
    let start = prompt.rfind(ASK)?;
    let tail = prompt.get(start..)?;
    Some(tail.split("\n\nAssistant:").next().unwrap_or(tail).trim_end().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLD: &str = r#"{"intent": "Alarm-Update", "slots": {"datetime_date": ["17号", "18号"], "notes": "追剧"}}"#;

    fn hits(output: &str) -> [bool; 4] {
        score(GOLD, output).hits.try_into().unwrap()
    }

    #[test]
    fn the_gold_answer_in_every_allowed_dress() {
        for output in [
            GOLD.to_string(),
            format!("{GOLD}。\n\n"),
            format!(" {GOLD}."),
            format!("{GOLD}。\n\n请分析下面"),
            format!("```json\n{GOLD}\n```"),
            format!("好的：\n```json{GOLD}``` 完"),
            GOLD.replace("追剧", "追 剧"),
            r#"{"slots":{"notes":"追剧","datetime_date":["18号","17号"]},"intent":"Alarm-Update","confidence":1}"#
                .to_string(),
        ] {
            assert_eq!(hits(&output), [true; 4], "{output}");
        }
    }

    #[test]
    fn malformed_and_wrong_outputs() {
        assert_eq!(hits(""), [false; 4]);
        assert_eq!(hits("null"), [false; 4]);
        assert_eq!(hits("[]"), [false; 4]);
        assert_eq!(hits(&GOLD[..GOLD.len() - 1]), [false; 4]);
        assert_eq!(hits(&format!("答案：{GOLD}")), [false; 4]);
        assert_eq!(
            hits(&format!("```json\n{GOLD}")),
            [true, false, false, false],
            "an unclosed fence is an empty answer"
        );
        assert_eq!(hits(&GOLD.replace("Alarm-Update", "Alarm-Delete")), [true, false, true, false]);
        assert_eq!(hits(&GOLD.replace("追剧", "追")), [true, true, false, false]);
        assert_eq!(hits(&GOLD.replace(r#", "notes": "追剧""#, "")), [true, true, false, false]);
        assert_eq!(hits(&GOLD.replace(r#""notes""#, r#""city": "北京", "notes""#)), [true, true, false, false]);
        assert_eq!(hits(&GOLD.replace(r#""追剧""#, r#"["追剧"]"#)), [true, true, false, false]);
        assert_eq!(hits(&GOLD.replace(r#""追剧""#, "5")), [true, false, false, false]);
        assert_eq!(hits(&GOLD.replace(r#""追剧""#, "{}")), [true, false, false, false]);
        assert_eq!(hits(r#"{"intent": "Alarm-Update", "slots": "none"}"#), [true, false, false, false]);
        assert_eq!(hits(r#"{"intent": "Alarm-Update"}"#), [true, true, false, false]);
    }

    #[test]
    fn the_rows_of_esft_score_full_against_themselves() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/esft/eval/intent.jsonl");
        let Ok(text) = std::fs::read_to_string(path) else {
            println!("skipped: ../shared/data/esft/eval/intent.jsonl is absent");
            return;
        };
        let (mut rows, mut exact) = (0, 0);
        for line in text.lines() {
            let row: Value = serde_json::from_str(line).unwrap();
            let gold = row["raw_answers"][0].as_str().unwrap();
            rows += 1;
            let score = score(gold, &format!("{gold}。\n\n请分析"));
            exact += usize::from(score.hits == [true; 4]);
            assert!(score.hits[1]);
            let question = question(row["prompt"].as_str().unwrap()).unwrap();
            assert!(question.starts_with("请分析") && question.ends_with("答案："), "{question}");
            assert_eq!(question.lines().count(), 2, "{question}");
        }
        // One gold value holds a space, which the published rule takes out of the output only.
        assert_eq!((rows, exact), (500, 499));
    }
}
