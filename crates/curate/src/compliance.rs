//! Compliance screen: word lists with categories of risk, and acceptance sampling of the set.
//!
//! The embedded lists are a seed: short, written for this project, meant to be replaced by those of
//! the domain. Lists only find words. What they find in a set about law or medicine is mostly
//! sound, so the seed notes; lists of your own may drop.

mod lexicon;
mod sampling;
mod sheet;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::batch::Batch;
use crate::operator::{Action, Finding, Operator, Outcome};
use crate::options::OptionFault;
pub use lexicon::{CATEGORIES, Hit, Lexicon, Word};
pub use sampling::{Acceptance, Plan, Rate, Sampler, SourceVerdict, accept};
pub use sheet::{Item, Rates, Sheet, Verdict};

/// The seed lists.
pub const SEED: &[(&str, &str)] =
    &[("zh", include_str!("../lexicon/zh.toml")), ("en", include_str!("../lexicon/en.toml"))];

/// Options of the stage `compliance`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Use the embedded lists. Default true.
    pub seed: bool,
    /// List files of your own: `.toml` with `[[list]]` tables, or plain text with a word a line
    /// (LDNOOBW's files, for instance), which are `abuse`. Default none.
    pub files: Vec<PathBuf>,
    /// Words that are never reported, beside those that lists allow. Default none.
    pub allow: Vec<String>,
    /// What plain text lists do: `drop` or `note`. Default `note`.
    pub plain: Action,
    /// Drop a row with at least so many different listed words, whatever their lists say; 0: never.
    /// Default 0.
    pub drop_from: usize,
    /// Acceptance sampling.
    pub plan: Plan,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            seed: true,
            files: Vec::new(),
            allow: Vec::new(),
            plain: Action::Note,
            drop_from: 0,
            plan: Plan::default(),
        }
    }
}

/// The stage `compliance`.
pub struct Op {
    lexicon: Lexicon,
    drop_from: usize,
}

impl Op {
    /// Reads the lists.
    ///
    /// # Errors
    /// All faults of options and lists.
    pub fn new(options: Options) -> Result<Op, Vec<OptionFault>> {
        let mut faults = options.plan.check().err().unwrap_or_default();
        let (mut words, mut allow) = (Vec::new(), Vec::new());
        let mut take = |file: &str, text: &str, faults: &mut Vec<OptionFault>| match lexicon::read(file, text) {
            Ok((more, allowed)) => {
                words.extend(more);
                allow.extend(allowed);
            }
            Err(more) => faults.extend(more),
        };
        let mut plain = Vec::new();
        for path in &options.files {
            let name = path.display().to_string();
            match std::fs::read_to_string(path) {
                Ok(text) if path.extension().is_some_and(|e| e == "toml") => take(&name, &text, &mut faults),
                Ok(text) => plain.extend(lexicon::plain(&text, "abuse", options.plain)),
                Err(error) => {
                    faults.push(OptionFault::new("files", format!("{name}: {error}"), "name a list that can be read"));
                }
            }
        }
        for (name, text) in SEED.iter().filter(|_| options.seed) {
            take(&format!("lexicon/{name}.toml"), text, &mut faults);
        }
        if options.plain == Action::Edit {
            faults.push(OptionFault::new("plain", "`edit`", "write `drop` or `note`"));
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        words.extend(plain);
        allow.extend(options.allow.iter().map(|word| crate::normalize::filter_view(word).trim().to_owned()));
        allow.retain(|word| !word.is_empty());
        Ok(Op { lexicon: Lexicon::new(words, &allow), drop_from: options.drop_from })
    }

    /// The words.
    pub fn lexicon(&self) -> &Lexicon {
        &self.lexicon
    }
}

impl Operator for Op {
    fn name(&self) -> &'static str {
        "compliance"
    }

    fn version(&self) -> u32 {
        1
    }

    fn apply(&self, batch: &Batch) -> Outcome {
        let mut outcome = Outcome::default();
        for row in batch.rows() {
            let mut different: Vec<&str> = Vec::new();
            for (turn, field, text) in row.texts() {
                for Hit { word, at } in self.lexicon.find(text) {
                    if !different.contains(&word.word.as_str()) {
                        different.push(&word.word);
                    }
                    let finding = Finding::new(row.index(), word.category.clone(), word.action).at(turn, field, at);
                    outcome.findings.push(finding.note(word.word.clone()));
                }
            }
            if self.drop_from > 0 && different.len() >= self.drop_from {
                let finding = Finding::new(row.index(), "many-words", Action::Drop);
                let finding = finding.measured(different.len() as f64, (self.drop_from - 1) as f64);
                outcome.findings.push(finding.note(different.join(", ")));
            }
        }
        outcome
    }
}
