//! The task file: what is judged, by whom, on which scales, under which guideline.
//!
//! Takes TOML, gives a [`Task`] or every fault with its place. Paths in it are relative to it. The
//! guideline's version is the hash of its text, so nobody can forget to raise it.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use loar_artifact::ContentId;
use serde::Serialize;

use crate::agreement::Metric;
use crate::task_file;
use crate::workflow::Labels;

/// The example that `loar annotate init` writes.
pub const EXAMPLE: &str = include_str!("example/task.toml");
/// Its guideline.
pub const EXAMPLE_GUIDELINE: &str = include_str!("example/guideline.md");
/// Its rows.
pub const EXAMPLE_ROWS: &str = include_str!("example/rows.jsonl");
/// Its rows with known labels.
pub const EXAMPLE_GOLD: &str = include_str!("example/gold.jsonl");

/// A text in both languages of the page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Text {
    /// English.
    pub en: String,
    /// Chinese; the English where the file has none.
    pub zh: String,
}

/// The scale of a rubric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scale {
    /// Categories without order.
    Nominal,
    /// Categories in ascending order.
    Ordinal,
    /// Labels with a number each.
    Interval,
    /// Labels with a number each, and a true zero.
    Ratio,
    /// Any number of labels at once.
    Multi,
}

impl Scale {
    /// Names in the file.
    pub const NAMES: [(&str, Scale); 5] = [
        ("nominal", Scale::Nominal),
        ("ordinal", Scale::Ordinal),
        ("interval", Scale::Interval),
        ("ratio", Scale::Ratio),
        ("multi", Scale::Multi),
    ];

    /// The metric of α.
    pub fn metric(self) -> Metric {
        match self {
            Scale::Nominal => Metric::Nominal,
            Scale::Ordinal => Metric::Ordinal,
            Scale::Interval => Metric::Interval,
            Scale::Ratio => Metric::Ratio,
            Scale::Multi => Metric::Masi,
        }
    }

    /// Whether labels stand in an order.
    pub fn ordered(self) -> bool {
        matches!(self, Scale::Ordinal | Scale::Interval | Scale::Ratio)
    }
}

/// One label of a rubric, chosen by its number key.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Label {
    /// Name in events and exports.
    pub name: String,
    /// Shown on the page.
    pub title: Text,
    /// Its number, on an interval or ratio scale.
    pub value: Option<f64>,
    /// A row that gets it is not trained on.
    pub drop: bool,
}

/// One question about a row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rubric {
    /// Name in events and exports.
    pub name: String,
    /// Shown on the page.
    pub title: Text,
    /// Its scale.
    pub scale: Scale,
    /// At most nine, in the order of their keys.
    pub labels: Vec<Label>,
    /// A batch in which only one label occurs passes: α says nothing there.
    pub constant_ok: bool,
}

impl Rubric {
    /// Position of a label.
    pub fn index(&self, label: &str) -> Option<usize> {
        self.labels.iter().position(|l| l.name == label)
    }
}

/// What a person may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Gives one of the three blind checks.
    Annotator,
    /// Decides where checks differ, audits, sees agreement.
    Adjudicator,
    /// Sees agreement and progress.
    Admin,
}

impl Role {
    /// Names in the file.
    pub const NAMES: [(&str, Role); 3] =
        [("annotator", Role::Annotator), ("adjudicator", Role::Adjudicator), ("admin", Role::Admin)];
}

/// Somebody with a token of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Person {
    /// Name in events.
    pub name: String,
    /// What they may do.
    pub role: Role,
}

/// A model that gives a second opinion.
#[derive(Clone, Debug, PartialEq)]
pub struct JudgeConfig {
    /// Base address of an OpenAI-compatible server, as `http://127.0.0.1:8000/v1`.
    pub url: String,
    /// Name of the model.
    pub model: String,
    /// Environment variable that holds the key.
    pub key_env: Option<String>,
    /// Price of a million prompt tokens, in any currency.
    pub price_in: f64,
    /// Price of a million completion tokens.
    pub price_out: f64,
}

/// A whole task file.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Name in reports.
    pub name: String,
    /// Shown on the page.
    pub title: Text,
    /// Text of the guideline, Markdown.
    pub guideline: String,
    /// Data files.
    pub data: Vec<PathBuf>,
    /// Rows with known `labels`, mixed in unseen.
    pub gold: Option<PathBuf>,
    /// One row in so many is gold.
    pub gold_every: usize,
    /// The database.
    pub store: PathBuf,
    /// Rows a gate looks at together.
    pub batch: usize,
    /// Share of accepted rows that is checked again.
    pub audit: f64,
    /// Acceptable quality level of the audit: share of wrong rows.
    pub quality: f64,
    /// Seed of the audit's draw and of bootstraps.
    pub seed: u64,
    /// Questions.
    pub rubrics: Vec<Rubric>,
    /// Everybody.
    pub people: Vec<Person>,
    /// The model, if any.
    pub judge: Option<JudgeConfig>,
}

/// One fault of a task file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskFault {
    /// Bytes of the text; absent where something is missing from the whole.
    pub span: Option<Range<usize>>,
    /// What is wrong and what to do.
    pub message: String,
}

/// Everything wrong with a task file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskError {
    /// The file.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
    /// All faults, in the order of the text.
    pub faults: Vec<TaskFault>,
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.faults.len();
        write!(f, "{n} fault{} in the task file", if n == 1 { "" } else { "s" })?;
        for fault in &self.faults {
            write!(f, "\n  {}", self.path.display())?;
            if let Some(span) = &fault.span {
                let before = self.text.get(..span.start).unwrap_or(&self.text);
                let line_start = before.rfind('\n').map_or(0, |at| at + 1);
                let column = before.get(line_start..).map_or(0, |l| l.chars().count()) + 1;
                write!(f, ":{}:{column}", before.matches('\n').count() + 1)?;
            }
            write!(f, ": {}", fault.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for TaskError {}

/// Why there is no task.
#[derive(Debug, thiserror::Error)]
pub enum TaskReadError {
    /// A file that cannot be read.
    #[error("`{}` cannot be read: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its faults.
    #[error(transparent)]
    Faults(Box<TaskError>),
}

impl Task {
    /// Reads a task file and its guideline.
    ///
    /// # Errors
    /// [`TaskReadError`] with all faults.
    pub fn read(path: &Path) -> Result<Task, TaskReadError> {
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|source| TaskReadError::File { path: path.to_owned(), source })
        };
        let text = read(path)?;
        let mut task = Task::from_text(&text, path).map_err(|e| TaskReadError::Faults(Box::new(e)))?;
        task.guideline = read(Path::new(&task.guideline))?;
        Ok(task)
    }

    /// Reads the text of a task file; `guideline` then holds its path.
    ///
    /// # Errors
    /// All faults.
    pub fn from_text(text: &str, path: &Path) -> Result<Task, TaskError> {
        task_file::parse(text, path)
    }

    /// Version of the guideline: the first 12 digits of its hash.
    pub fn guideline_version(&self) -> String {
        ContentId::of_bytes(self.guideline.as_bytes()).hex()[..12].to_owned()
    }

    /// Id of the rubrics: events made under one set of rubrics are not read under another.
    pub fn rubrics_id(&self) -> String {
        // rubrics hold texts, numbers and booleans: they always have a JSON form
        ContentId::of_bytes(serde_json::to_string(&self.rubrics).unwrap_or_default().as_bytes()).hex()
    }

    /// The role of a person.
    pub fn role(&self, name: &str) -> Option<Role> {
        self.people.iter().find(|p| p.name == name).map(|p| p.role)
    }

    /// Everything wrong with a set of labels: rubrics without an answer, unknown names, too many.
    pub fn label_faults(&self, labels: &Labels) -> Vec<String> {
        let mut faults = Vec::new();
        for rubric in &self.rubrics {
            let Some(chosen) = labels.get(&rubric.name) else {
                faults.push(format!("rubric `{}` has no label", rubric.name));
                continue;
            };
            if rubric.scale != Scale::Multi && chosen.len() != 1 {
                faults.push(format!("rubric `{}` takes one label, found {}", rubric.name, chosen.len()));
            }
            let places: Vec<usize> = chosen.iter().filter_map(|name| rubric.index(name)).collect();
            if places.windows(2).any(|pair| pair[0] >= pair[1]) {
                faults.push(format!("rubric `{}` has a label twice or out of order", rubric.name));
            }
            let unknown = chosen.iter().filter(|name| rubric.index(name).is_none());
            faults.extend(unknown.map(|name| format!("rubric `{}` has no label `{name}`", rubric.name)));
        }
        let known = |name: &String| self.rubrics.iter().any(|r| r.name == *name);
        faults.extend(labels.keys().filter(|name| !known(name)).map(|name| format!("there is no rubric `{name}`")));
        faults
    }

    /// Whether labels leave the row in the training set.
    pub fn keeps(&self, labels: &Labels) -> bool {
        self.rubrics.iter().all(|rubric| {
            let chosen = labels.get(&rubric.name).map_or(&[][..], Vec::as_slice);
            !rubric.labels.iter().any(|label| label.drop && chosen.contains(&label.name))
        })
    }
}
