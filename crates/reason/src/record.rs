//! The record of an answer: everything that led to it, in one JSON file with its own content hash.
//!
//! A record is written whole or not at all, named by its id, and read back only when the id fits. What is in
//! it is enough to generate the paths again on the same model ([`crate::replay`]) and to draw the page that
//! shows why ([`crate::view`]). Failed and cut paths are in it like all others.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use loar_artifact::{ContentId, write_atomic};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::answer::Answer;
use crate::fuse::Fused;
use crate::generate::{Budget, Generated, Prompt, Slot, Source, Start, Usage};
use crate::setup::{Example, Question, Setup};
use crate::stop::Enough;
use crate::verify::Verification;

/// Version of the form.
pub const FORMAT: u32 = 1;

/// Content ids of what decides the paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests {
    /// The model.
    pub model: String,
    /// The adapter.
    pub adapter: Option<String>,
    /// The chat template.
    pub template: Option<String>,
    /// Sampling settings, without the seed.
    pub sampler: ContentId,
    /// The prompt.
    pub prompt: ContentId,
}

/// A path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PathRecord {
    /// Its number, from 0.
    pub path: usize,
    /// Seed of its draws.
    pub seed: u64,
    /// Key that tells its draws from those of others.
    pub key: u32,
    /// Where its chain began.
    pub start: Start,
    /// The path whose wrong step it samples anew.
    pub repairs: Option<usize>,
    /// The path that took its place in the vote.
    pub replaced_by: Option<usize>,
    /// The chain; nothing while it runs.
    pub chain: Option<Generated>,
    /// The answer asked for behind it.
    pub asked: Option<Generated>,
    /// The answer.
    pub answer: Option<Answer>,
    /// Class of equal answers, among the paths that count.
    pub class: Option<usize>,
    /// Steps of the chain.
    pub steps: Vec<String>,
    /// What verifiers said.
    pub verifications: Vec<Verification>,
    /// What was measured.
    pub features: BTreeMap<String, f64>,
    /// Whether it counts: it ended, was not replaced, and was neither cut for others nor failed.
    pub counts: bool,
    /// Its share of the vote.
    pub weight: f64,
}

impl PathRecord {
    /// A path that begins.
    pub fn new(path: usize, seed: u64, key: u32, start: Start) -> Self {
        Self {
            path,
            seed,
            key,
            start,
            repairs: None,
            replaced_by: None,
            chain: None,
            asked: None,
            answer: None,
            class: None,
            steps: Vec::new(),
            verifications: Vec::new(),
            features: BTreeMap::new(),
            counts: false,
            weight: 0.0,
        }
    }

    /// Index of the first step that a verifier calls wrong.
    pub fn first_wrong(&self) -> Option<usize> {
        self.verifications.iter().filter_map(Verification::first_wrong).min()
    }
}

/// What happened, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Happened {
    /// A generation ended, by itself or by a look at its own tokens.
    Ended(Slot),
    /// A budget was used up.
    Exhausted(Budget),
}

/// Where things stood after a path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// The path.
    pub path: usize,
    /// Paths that counted.
    pub counted: usize,
    /// The best answer then.
    pub answer: Option<String>,
    /// Its probability, or share.
    pub p: f64,
}

/// A question to the model about steps or answers, and what it said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Consulted {
    /// `judge` or `p_true`.
    pub what: String,
    /// The path.
    pub path: usize,
    /// The step.
    pub step: Option<usize>,
    /// Numbers in the order of the choices.
    pub said: Option<Vec<f64>>,
    /// Why there are none.
    pub error: Option<String>,
}

/// Why no more paths were started.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stopped {
    /// All paths were used.
    AllPaths,
    /// They were enough.
    Enough(Enough),
    /// A budget was used up.
    Budget(Budget),
}

/// What to do with the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Give it.
    Answer,
    /// It is not sure enough: ask a larger model or a person.
    Escalate,
    /// There is none.
    Abstain,
}

/// The end of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// What to do.
    pub action: Action,
    /// The best answer, as its first path wrote it.
    pub answer: Option<String>,
    /// Its canonical form.
    pub canonical: Option<String>,
    /// Its probability, or share of votes.
    pub p: f64,
    /// Probability that none of the answers is right.
    pub p_none: f64,
    /// Whether `p` was calibrated for this model, adapter, template and sampler.
    pub calibrated: bool,
    /// The best path of the answer.
    pub path: Option<usize>,
    /// Why no more paths were started.
    pub stopped: Stopped,
    /// Why this action.
    pub why: String,
}

/// What it cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Tokens by what they were for.
    pub tokens: Usage,
    /// Paths started.
    pub paths: usize,
    /// Of these, cut.
    pub cut: usize,
    /// Of these, failed.
    pub failed: usize,
    /// Seconds, to the millisecond; measured, so a replay takes them over.
    pub seconds: f64,
    /// What the last path that counted changed.
    pub last_path: String,
}

impl Cost {
    /// One line for people.
    pub fn line(&self) -> String {
        let t = &self.tokens;
        format!(
            "{} paths ({} cut, {} failed) · tokens: {} prefill, {} decode ({} of them cut), {} verify · {:.2} s · {}",
            self.paths, self.cut, self.failed, t.prefill, t.decode, t.cancelled, t.verify, self.seconds, self.last_path
        )
    }
}

/// The record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Version of the form.
    pub format: u32,
    /// Hash of everything else.
    pub id: Option<ContentId>,
    /// Program that wrote it.
    pub tool: String,
    /// Version of extraction and equality.
    pub answers: u32,
    /// The question.
    pub question: Question,
    /// How it was asked.
    pub setup: Setup,
    /// Where paths came from.
    pub source: Source,
    /// Content ids.
    pub digests: Digests,
    /// The prompt.
    pub prompt: Prompt,
    /// Examples in it.
    pub examples: Vec<Example>,
    /// All paths.
    pub paths: Vec<PathRecord>,
    /// What happened, in order.
    pub happened: Vec<Happened>,
    /// What the model was asked about its paths.
    pub consulted: Vec<Consulted>,
    /// Where things stood after each path that counted.
    pub standings: Vec<Standing>,
    /// Candidates with all terms of their scores.
    pub fused: Fused,
    /// The decision.
    pub decision: Decision,
    /// The cost.
    pub cost: Cost,
}

/// A record that is none, or one that something happened to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The file.
    #[error("`{}` cannot be read: {source}", path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Its content.
    #[error("`{}` is no record of this version: {message}", path.display())]
    Form {
        /// Its path.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// Its hash.
    #[error("`{}` was changed after it was written: it says {said}, its content is {is}", path.display())]
    Changed {
        /// Its path.
        path: PathBuf,
        /// The id in it.
        said: String,
        /// The id of its content.
        is: ContentId,
    },
    /// It could not be written.
    #[error(transparent)]
    Write(#[from] loar_artifact::ArtifactError),
}

impl Record {
    /// The bytes on disk, with the id in them.
    pub fn bytes(&self) -> Vec<u8> {
        let mut record = self.clone();
        record.id = None;
        record.id = Some(ContentId::of_bytes(&record.text()));
        record.text()
    }

    fn text(&self) -> Vec<u8> {
        // Numbers that are none would become null and never read back.
        let mut text = serde_json::to_vec_pretty(self).unwrap_or_default();
        text.push(b'\n');
        text
    }

    /// Writes it into a folder, under its id; gives the file.
    ///
    /// # Errors
    /// The folder or the disk.
    pub fn write(&self, dir: &Path) -> Result<PathBuf, RecordError> {
        let bytes = self.bytes();
        let mut record = self.clone();
        record.id = None;
        let id = ContentId::of_bytes(&record.text()).hex();
        let path = dir.join(format!("{}.json", &id[..16]));
        write_atomic(&path, &bytes)?;
        Ok(path)
    }

    /// Reads a record, and checks that it is as it was written.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn read(path: &Path) -> Result<(Self, Vec<u8>), RecordError> {
        let bytes = std::fs::read(path).map_err(|source| RecordError::Read { path: path.to_owned(), source })?;
        let form = |message: String| RecordError::Form { path: path.to_owned(), message };
        let text = std::str::from_utf8(&bytes).map_err(|e| form(e.to_string()))?;
        let record: Record = serde_json::from_str(text).map_err(|e| form(e.to_string()))?;
        if record.format != FORMAT {
            return Err(form(format!("format {}, this program reads {FORMAT}", record.format)));
        }
        let said = record.id.map(|id| id.to_string()).unwrap_or_default();
        let is = ContentId::of_bytes(text.replacen(&format!("\"{said}\""), "null", 1).as_bytes());
        if is.to_string() != said {
            return Err(RecordError::Changed { path: path.to_owned(), said, is });
        }
        Ok((record, bytes))
    }
}

/// Places where two values differ, with both; at most `most`.
pub fn differences(recorded: &Value, now: &Value, most: usize) -> Vec<String> {
    fn walk(at: &str, a: &Value, b: &Value, most: usize, out: &mut Vec<String>) {
        if out.len() >= most || a == b {
            return;
        }
        let short = |v: &Value| {
            let text = v.to_string();
            if text.chars().count() > 80 { format!("{}…", text.chars().take(80).collect::<String>()) } else { text }
        };
        match (a, b) {
            (Value::Object(x), Value::Object(y)) => {
                for key in x.keys().chain(y.keys().filter(|k| !x.contains_key(*k))) {
                    let null = &Value::Null;
                    walk(&format!("{at}/{key}"), x.get(key).unwrap_or(null), y.get(key).unwrap_or(null), most, out);
                }
            }
            (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
                for (i, (x, y)) in x.iter().zip(y).enumerate() {
                    walk(&format!("{at}/{i}"), x, y, most, out);
                }
            }
            (Value::Array(x), Value::Array(y)) => {
                out.push(format!("{at}: {} entries recorded, {} now", x.len(), y.len()));
            }
            _ => out.push(format!("{at}: recorded {}, now {}", short(a), short(b))),
        }
    }
    let mut out = Vec::new();
    walk("", recorded, now, most, &mut out);
    out
}
