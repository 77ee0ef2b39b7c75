//! `loar extract`: the answers in recorded texts, and how many are right.

use std::path::PathBuf;
use std::process::ExitCode;

use loar_reason::answer::{Answer, EqualOptions, ExtractOptions, VERSION, classes, equal, extract};
use serde_json::json;

use crate::answer_rows::{self, Row};
use crate::console::Console;
use crate::diagnose::Failure;

const GOLD: [&str; 4] = ["gold", "target", "ground_truth", "answer"];

/// Read the answers out of recorded texts
///
/// A row is {"text", "type"?, "gold"?} or {"id", "gold"?, "type"?, "paths": [{"text"}]}. A row
/// without a type is read as what its gold answer is. Prints a line per row with the answer of each text,
/// and the accuracy where gold answers are given.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// JSON Lines
    file: PathBuf,
    /// Type of rows that name none: auto, number, math, choice, yes_no, date, json, text
    #[arg(long, value_name = "TYPE", default_value = "auto")]
    r#type: String,
    /// A comma is the decimal mark
    #[arg(long)]
    decimal_comma: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

struct Read {
    id: serde_json::Value,
    golds: Vec<Answer>,
    answers: Vec<Option<Answer>>,
}

impl Read {
    fn of(row: &Row, preset: &ExtractOptions) -> Result<Self, String> {
        let texts = row.texts()?;
        let golds = row.golds(&GOLD);
        let options = row.options(preset, golds.first().map(String::as_str))?;
        let answers = texts.iter().map(|t| t.as_ref().and_then(|t| extract(t, &options))).collect();
        Ok(Self { id: row.id(), golds: golds.iter().map(|g| answer_rows::gold(g, &options)).collect(), answers })
    }

    fn right(&self, answer: &Answer) -> bool {
        self.golds.iter().any(|gold| equal(gold, answer, &EqualOptions::default()))
    }

    /// The answer most texts give; the earlier one of two.
    fn vote(&self) -> Option<&Answer> {
        let class = classes(&self.answers, &EqualOptions::default());
        let votes = |i: usize| class.iter().filter(|c| **c == class[i]).count();
        let best = (0..class.len()).max_by_key(|&i| (votes(i), std::cmp::Reverse(i)))?;
        self.answers[best].as_ref()
    }
}

/// Runs the command.
pub fn run(args: Args, console: &mut Console) -> Result<ExitCode, Failure> {
    let kind =
        answer_rows::kind(&args.r#type).ok_or_else(|| Failure::usage(format!("type `{}` is unknown", args.r#type)))?;
    let preset = ExtractOptions { kind, decimal_comma: args.decimal_comma, ..ExtractOptions::default() };
    let rows = answer_rows::read(&args.file, |row| Read::of(row, &preset))?;
    let texts: usize = rows.iter().map(|r| r.answers.len()).sum();
    let none = rows.iter().flat_map(|r| &r.answers).filter(|a| a.is_none()).count();
    let judged: Vec<&Read> = rows.iter().filter(|r| !r.golds.is_empty()).collect();
    let of: usize = judged.iter().map(|r| r.answers.len()).sum();
    let right: usize = judged.iter().map(|r| r.answers.iter().flatten().filter(|a| r.right(a)).count()).sum();
    let voted = judged.iter().filter(|r| r.vote().is_some_and(|a| r.right(a))).count();
    let share = |n: usize, of: usize| (of > 0).then(|| n as f64 / of as f64);
    if args.json {
        let row = |r: &Read| {
            let correct: Vec<bool> = r.answers.iter().map(|a| a.as_ref().is_some_and(|a| r.right(a))).collect();
            json!({"id": r.id, "gold": r.golds.first(), "answers": r.answers,
                "correct": (!r.golds.is_empty()).then_some(correct), "vote": r.vote()})
        };
        let rows_json: Vec<_> = rows.iter().map(row).collect();
        console.line(
            json!({"extractor_version": VERSION, "rows": rows.len(), "texts": texts, "without_answer": none,
            "judged": of, "correct": right, "accuracy": share(right, of),
            "vote_accuracy": share(voted, judged.len()), "results": rows_json}),
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    for r in &rows {
        let shown = |a: &Option<Answer>| {
            let mark = match a {
                _ if r.golds.is_empty() => "",
                Some(a) if r.right(a) => " ✓",
                _ => " ✗",
            };
            format!("{}{mark}", a.as_ref().map_or("–".to_string(), Answer::canonical))
        };
        let id = r.id.as_str().map_or_else(|| r.id.to_string(), str::to_string);
        console.line(format!("{id}\t{}", r.answers.iter().map(shown).collect::<Vec<_>>().join("\t")))?;
    }
    let mut summary = format!("{} rows, {texts} texts, {none} without an answer", rows.len());
    if let Some(accuracy) = share(right, of) {
        summary += &format!("; {right} of {of} right ({:.3} %)", 100.0 * accuracy);
    }
    if texts > rows.len()
        && let Some(accuracy) = share(voted, judged.len())
    {
        summary += &format!("; by vote {voted} of {} ({:.3} %)", judged.len(), 100.0 * accuracy);
    }
    console.remark(format!("{summary}; extractor version {VERSION}"));
    Ok(ExitCode::SUCCESS)
}
