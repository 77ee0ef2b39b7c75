//! A task: cases with a prompt and a gold answer, and the scorer that judges outputs.
//!
//! Takes a JSONL file of conversations (the last assistant message is the gold answer) or of ESFT's evaluation rows;
//! gives cases. Refuses a file with any row that is not a case, naming the rows: a test set never shrinks silently.
use crate::EvalError;
use crate::scorer::{Scorer, intent};
use loar_text::{Conversation, Message};
use serde_json::Value;
use std::path::Path;

/// One case.
#[derive(Clone, Debug)]
pub struct Case {
    /// Id, unique within the task.
    pub id: String,
    /// Messages up to the turn that is asked for.
    pub prompt: Conversation,
    /// Gold answer.
    pub gold: String,
}

/// Cases with their scorer.
#[derive(Clone, Debug)]
pub struct Task {
    /// Judge.
    pub scorer: Scorer,
    /// Cases in file order.
    pub cases: Vec<Case>,
}

/// Names of the tasks.
pub const TASKS: [&str; 4] = ["credit", "credit-direct", "intent", "exact"];

impl Task {
    /// Reads cases, at most `limit` of them.
    ///
    /// # Errors
    /// An unreadable file, or the rows that are not cases of this task.
    pub fn read(path: &Path, scorer: Scorer, limit: Option<usize>) -> Result<Task, EvalError> {
        let text = std::fs::read_to_string(path).map_err(|source| EvalError::Read { path: path.into(), source })?;
        let mut cases = Vec::new();
        let (mut rows, mut faults) = (0, Vec::new());
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            rows += 1;
            match case(line, number + 1, &scorer) {
                Ok(case) => cases.push(case),
                Err(fault) => faults.push(format!("line {}: {fault}", number + 1)),
            }
        }
        if !faults.is_empty() || cases.is_empty() {
            let total = faults.len();
            faults.truncate(20);
            if total == 0 {
                faults.push("the file holds no row".into());
            }
            return Err(EvalError::Cases { path: path.into(), task: scorer.name().into(), rows, total, faults });
        }
        cases.truncate(limit.unwrap_or(usize::MAX));
        Ok(Task { scorer, cases })
    }
}

fn asked(question: String) -> Conversation {
    Conversation { messages: vec![Message::user(question)], ..Conversation::default() }
}

fn case(line: &str, number: usize, scorer: &Scorer) -> Result<Case, String> {
    let row: Value = serde_json::from_str(line).map_err(|error| format!("not JSON: {error}"))?;
    let id = row.get("id").and_then(Value::as_str).map_or_else(|| format!("line-{number}"), str::to_string);
    if let Some(prompt) = row.get("prompt").and_then(Value::as_str) {
        let gold = row.pointer("/raw_answers/0").and_then(Value::as_str).ok_or("`raw_answers` holds no text")?;
        let question = intent::question(prompt).ok_or("`prompt` ends in no question of ESFT's form")?;
        scorer.check_gold(gold)?;
        let id = row.get("idx").map_or(id, |idx| format!("idx-{idx}"));
        return Ok(Case { id, prompt: asked(question), gold: gold.to_string() });
    }
    let mut prompt: Conversation = serde_json::from_value(row).map_err(|error| error.to_string())?;
    if let Some(fault) = prompt.faults().first() {
        return Err(fault.to_string());
    }
    let gold = prompt.messages.pop().filter(Message::is_assistant).ok_or("the last message is not the assistant's")?;
    if prompt.messages.last().is_none_or(|turn| turn.role != "user") {
        return Err("no user message stands before the gold answer".into());
    }
    scorer.check_gold(&gold.content)?;
    Ok(Case { id, prompt, gold: gold.content })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credit::{Generator, Language, Policy};

    fn policy() -> Policy {
        Policy::from_toml(include_str!("../../../demo/policy.toml")).unwrap()
    }

    #[test]
    fn generated_cases_come_back_as_written() {
        let policy = policy();
        let cases = Generator::new(&policy, 1).cases(20, &[Language::En, Language::Zh]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("held_out.jsonl");
        std::fs::write(&path, cases.iter().map(|c| c.to_row() + "\n").collect::<String>()).unwrap();
        let task = Task::read(&path, Scorer::Credit(policy), None).unwrap();
        assert_eq!(task.cases.len(), 20);
        for (case, read) in cases.iter().zip(&task.cases) {
            assert_eq!((&read.gold, &read.prompt.messages[0].content), (&case.answer, &case.prompt));
            assert_eq!(read.prompt.messages.len(), 1);
        }
        assert_eq!(task.cases[1].id, "line-2");
    }

    #[test]
    fn every_bad_row_is_named_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bad.jsonl");
        let rows = [
            r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]}"#,
            r#"{"messages":[{"role":"user","content":"q"}]}"#,
            r#"{"messages":"q"}"#,
            "not json",
            r#"{"messages":[{"role":"assistant","content":"a"}]}"#,
        ];
        std::fs::write(&path, rows.join("\n")).unwrap();
        let error = Task::read(&path, Scorer::Exact, None).unwrap_err();
        let EvalError::Cases { rows, total, faults, .. } = error else { panic!("{error}") };
        assert_eq!((rows, total), (5, 4));
        assert!(faults.iter().zip([2, 3, 4, 5]).all(|(f, n)| f.starts_with(&format!("line {n}:"))), "{faults:?}");
        let error = Task::read(&path, Scorer::Credit(policy()), None).unwrap_err();
        assert!(matches!(error, EvalError::Cases { total: 5, .. }), "a gold answer that is no form: {error}");
    }

    #[test]
    fn esft_rows_are_cases() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/esft/eval/intent.jsonl");
        if !Path::new(path).exists() {
            println!("skipped: ../shared/data/esft/eval/intent.jsonl is absent");
            return;
        }
        let task = Task::read(Path::new(path), Scorer::Intent, Some(50)).unwrap();
        assert_eq!(task.cases.len(), 50);
        assert_eq!(task.cases[0].id, "idx-0");
        assert!(task.cases[0].prompt.messages[0].content.contains("追剧的闹钟"));
        let train = Path::new(path).parent().unwrap().parent().unwrap().join("train/intent.jsonl");
        assert_eq!(Task::read(&train, Scorer::Intent, None).unwrap().cases.len(), 7_280);
    }
}
