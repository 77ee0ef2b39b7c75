//! Finds rows that leak evaluation data, and shows both sides of every hit.
//!
//! Evaluation texts become token sequences: whitespace words in lower case without ASCII
//! punctuation for the published n-gram modes, letters and digits one by one for Chinese, where
//! whitespace words see nothing. The index keeps every n-gram as an exact 64-bit hash with its
//! postings (text, offset); a hit counts only where the token sequences are equal, and is extended
//! to the longest common run. For a training set the row is dropped, not cut. Modes:
//!
//! | mode | a row is dropped when it shares with an evaluation text |
//! |---|---|
//! | `exact` | all letters and digits of a turn |
//! | `gpt3` | 13 words in a row (Brown et al., 2020) |
//! | `deepseek` | 10 words in a row; texts of 3–9 words: a whole turn (Shao et al., 2024) |
//! | `words8` | 8 words in a row (s1, Open-R1) |
//! | `tulu3` | 8-grams that cover more than half of the evaluation text's words (Lambert et al., 2024) |
//! | `characters` | character n-grams that cover half of its weight, rare ones weighing more |

mod compare;
mod index;
mod tokens;

use std::path::PathBuf;

use loar_data::ReadOptions;
use serde::{Deserialize, Serialize};

pub use compare::{Comparison, ModeCount};
pub use index::{Index, Match};

use crate::batch::{Batch, Row};
use crate::operator::{Action, Finding, Operator, Outcome, Sides, excerpt, shortened};
use crate::options::OptionFault;

/// What counts as a leak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Equal letters and digits of a whole turn.
    Exact,
    /// Any 13 words in a row.
    Gpt3,
    /// Any 10 words in a row; texts of 3 to 9 words as a whole turn.
    DeepSeek,
    /// Any 8 words in a row.
    Words8,
    /// More than half of the evaluation text's words lie in shared 8-grams.
    Tulu3,
    /// Shared character n-grams cover enough of the evaluation text's weight (Chinese, Japanese,
    /// Korean texts only).
    Characters,
}

impl Mode {
    /// All of them, as they are compared.
    pub const ALL: [Mode; 6] = [Mode::Exact, Mode::Gpt3, Mode::DeepSeek, Mode::Words8, Mode::Tulu3, Mode::Characters];

    /// The name in run files and findings.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Exact => "exact",
            Mode::Gpt3 => "gpt3",
            Mode::DeepSeek => "deepseek",
            Mode::Words8 => "words8",
            Mode::Tulu3 => "tulu3",
            Mode::Characters => "characters",
        }
    }
}

/// Which texts of a row or an evaluation item are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// What is asked (a plain text counts as asked).
    #[default]
    Requests,
    /// What is answered.
    Responses,
    /// Both, thinking too.
    All,
}

/// Options of `decontaminate`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Evaluation files or folders, in any form that training data may have.
    pub against: Vec<PathBuf>,
    /// How they are read. A bad row stops the run: an evaluation item that cannot be read cannot be
    /// kept out.
    pub read: ReadOptions,
    /// A row is dropped when one of these finds it. Default `exact`, `deepseek`, `characters`.
    pub modes: Vec<Mode>,
    /// Texts of evaluation items. Default `requests`: answers such as `yes` leak nothing.
    pub eval: Side,
    /// Texts of training rows. Default `all`: a question that is quoted in an answer leaks too.
    pub train: Side,
    /// Length of character n-grams. Default 13; at 8 common phrases begin to match.
    pub characters: usize,
    /// Share of an evaluation text's weight that character n-grams must cover. Default 0.5.
    pub coverage: f64,
    /// Share of an evaluation text's words that `tulu3` must pass. Default 0.5.
    pub tulu3_coverage: f64,
    /// N-grams in more than this share of the evaluation texts are its prompt template and are not
    /// counted. Default 0.1; takes effect from 20 texts on.
    pub template_share: f64,
    /// Most findings a row. Default 3.
    pub shown: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            against: Vec::new(),
            read: ReadOptions::default(),
            modes: vec![Mode::Exact, Mode::DeepSeek, Mode::Characters],
            eval: Side::Requests,
            train: Side::All,
            characters: 13,
            coverage: 0.5,
            tulu3_coverage: 0.5,
            template_share: 0.1,
            shown: 3,
        }
    }
}

impl Options {
    fn faults(&self) -> Vec<OptionFault> {
        let mut faults = Vec::new();
        let mut fault = |key: &str, found: String, mend: &str| faults.push(OptionFault::new(key, found, mend));
        if self.against.is_empty() {
            fault("against", "no evaluation file is named".into(), "name one or leave the stage out");
        }
        if self.modes.is_empty() {
            fault("modes", "the list is empty".into(), "name at least one mode or leave the stage out");
        }
        if !(4..=64).contains(&self.characters) {
            fault("characters", self.characters.to_string(), "give 4 to 64");
        }
        for (key, value) in [
            ("coverage", self.coverage),
            ("tulu3_coverage", self.tulu3_coverage),
            ("template_share", self.template_share),
        ] {
            if !(value > 0.0 && value <= 1.0) {
                fault(key, value.to_string(), "give a share above 0 and up to 1");
            }
        }
        if self.shown == 0 {
            fault("shown", "0".into(), "give at least 1: a row is never dropped without evidence");
        }
        faults
    }
}

/// The stage.
pub struct Decontaminate {
    index: Index,
}

impl Decontaminate {
    /// Reads the evaluation files and indexes them.
    ///
    /// # Errors
    /// Every option out of its range; what the reader says of the files.
    pub fn new(options: Options) -> Result<Self, Vec<OptionFault>> {
        let mut faults = options.faults();
        if options.against.is_empty() {
            return Err(faults);
        }
        match loar_data::read(&options.against, &options.read) {
            Ok(data) if faults.is_empty() => {
                let texts = data.examples.iter().map(|example| (example.id.as_str(), &example.body));
                Ok(Decontaminate { index: Index::new(options, texts) })
            }
            Ok(_) => Err(faults),
            Err(error) => {
                faults.push(OptionFault::new(
                    "against",
                    error.to_string(),
                    "mend the evaluation file or its `read` options",
                ));
                Err(faults)
            }
        }
    }

    /// The index, for comparisons of all modes.
    pub fn index(&self) -> &Index {
        &self.index
    }
}

impl Operator for Decontaminate {
    fn name(&self) -> &'static str {
        "decontaminate"
    }

    fn version(&self) -> u32 {
        1
    }

    fn apply(&self, batch: &Batch) -> Outcome {
        let options = self.index.options();
        let mut outcome = Outcome::default();
        for row in batch.rows() {
            let found = self.index.scan(&row, &options.modes);
            outcome.findings.extend(found.into_iter().take(options.shown).map(|m| finding(&row, &m)));
        }
        outcome
    }
}

/// A match with both of its sides.
fn finding(row: &Row<'_>, m: &Match) -> Finding {
    let shared = shortened(&m.text).into_owned();
    Finding::new(row.index(), m.mode.name(), Action::Drop)
        .measured(m.value, m.bound)
        .at(m.train.turn, m.train.field, m.train.start..m.train.end)
        .note(format!("evaluation {}: {shared:?}", m.eval))
        .sides(sides(row, m, shared))
}

fn sides(row: &Row<'_>, m: &Match, shared: String) -> Sides {
    let mut texts = row.texts().filter(|(turn, field, _)| (*turn, *field) == (m.train.turn, m.train.field));
    let own_text = texts.next().map(|(_, _, text)| excerpt(text, m.train.start..m.train.end)).unwrap_or_default();
    Sides { other: m.eval.clone(), other_text: m.eval_text.clone(), own_text, shared }
}

impl Match {
    /// Both of its sides, for a table.
    pub fn sides(&self, row: &Row<'_>) -> Sides {
        sides(row, self, shortened(&self.text).into_owned())
    }
}

#[cfg(test)]
mod tests;
