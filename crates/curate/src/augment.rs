//! New rows from given ones: perturbed requests whose meaning stays, negatives and adversarial rows
//! whose fault is known and checked, and dialogues linked from single turns.
//!
//! Every made row names its parents, its transform, its class and, where there is one, the rule it
//! breaks. What is drawn for a row depends on (seed, row, transform) alone, so batches, threads and
//! order do not matter. Numbers, units, dates, names, code, quotes, negations, quantifiers, modals
//! and citations are protected: a perturbation that touches one is not made, and the gate reads
//! them again from the result. Typos are a class of their own, never clean data.

mod adversarial;
mod dialogue;
mod gate;
mod lexicon;
mod perturb;
mod protect;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use loar_text::Body;
use serde::{Deserialize, Serialize};

pub use dialogue::{Chain, DIALOGUE, DialogueOptions, Dialogues, Linked, measure};
pub use gate::{Gate, Refusal};
pub use lexicon::Lexicon;
pub use protect::{Protected, protected};

use crate::batch::Batch;
use crate::models::Embedder;
use crate::options::OptionFault;

/// What a made row is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// As good as its parent.
    Clean,
    /// Holds typos or odd forms on purpose.
    Robustness,
    /// A wrong answer, for rejection or preference; never to be imitated.
    Negative,
    /// A trap in the request with the right answer to it.
    Adversarial,
    /// Several turns linked by context.
    Dialogue,
}

/// A made row.
#[derive(Clone, Debug, PartialEq)]
pub struct Made {
    /// Rows over all input that it was made from; none for a seed of ours.
    pub parents: Vec<u64>,
    /// Name of the transform.
    pub transform: &'static str,
    /// What it is good for.
    pub class: Class,
    /// The rule that its request or answer breaks, for negatives and adversarial rows.
    pub violates: Option<&'static str>,
    /// How it was verified, with the measured values.
    pub evidence: String,
    /// The row.
    pub body: Body,
}

/// Options of `augment`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Transforms to apply; all when empty. See [`TRANSFORMS`].
    pub transforms: Vec<String>,
    /// Chance that a transform is tried on a row. Default 0.1.
    pub share: f64,
    /// A TOML file with synonyms of your own: `[[synonym]]` with `words`. None by default.
    pub lexicon: Option<PathBuf>,
    /// Largest share of words that synonyms or typos replace. Default 0.1.
    pub replaced: f64,
    /// Least cosine of character pairs between a request and its perturbation, without an embedding
    /// model. Default 0.5.
    pub lexical: f64,
    /// Least cosine with an embedding model. Default 0.92.
    pub embedding: f64,
    /// Single rows linked to dialogues; on when the section is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dialogues: Option<DialogueOptions>,
    /// Seed of all draws. Default 0.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            transforms: Vec::new(),
            share: 0.1,
            lexicon: None,
            replaced: 0.1,
            lexical: 0.5,
            embedding: 0.92,
            dialogues: None,
            seed: 0,
        }
    }
}

/// Every transform with its class.
pub const TRANSFORMS: [(&str, Class); 21] = [
    ("synonym", Class::Clean),
    ("polite", Class::Clean),
    ("question", Class::Clean),
    ("imperative", Class::Clean),
    ("clause-order", Class::Clean),
    ("ba-jiang", Class::Clean),
    ("list-prose", Class::Clean),
    ("case", Class::Robustness),
    ("width", Class::Robustness),
    ("typo-keyboard", Class::Robustness),
    ("typo-homophone", Class::Robustness),
    ("typo-shape", Class::Robustness),
    ("operand", Class::Negative),
    ("sign", Class::Negative),
    ("unit", Class::Negative),
    ("format-break", Class::Negative),
    ("contradicted-condition", Class::Adversarial),
    ("missing-fact", Class::Adversarial),
    ("injected-instruction", Class::Adversarial),
    ("false-premise", Class::Adversarial),
    ("over-refusal", Class::Adversarial),
];

/// What one transform did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TransformCount {
    /// Rows that it was tried on.
    pub tried: u64,
    /// Rows whose form it fits.
    pub fitted: u64,
    /// Rows that passed the gate or the check.
    pub accepted: u64,
    /// Refused ones by reason.
    pub refused: BTreeMap<&'static str, u64>,
}

impl TransformCount {
    /// accepted / fitted; `None` where nothing fitted.
    pub fn acceptance(&self) -> Option<f64> {
        (self.fitted > 0).then(|| self.accepted as f64 / self.fitted as f64)
    }
}

/// Counts of all transforms and the gate they went through.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AugmentReport {
    /// What the semantic gate measures.
    pub gate: String,
    /// By transform.
    pub transforms: BTreeMap<&'static str, TransformCount>,
}

impl AugmentReport {
    /// Takes in the counts of other batches.
    pub fn merge(&mut self, other: AugmentReport) {
        self.gate = other.gate;
        for (name, theirs) in other.transforms {
            let mine = self.transforms.entry(name).or_default();
            mine.tried += theirs.tried;
            mine.fitted += theirs.fitted;
            mine.accepted += theirs.accepted;
            theirs.refused.into_iter().for_each(|(why, n)| *mine.refused.entry(why).or_default() += n);
        }
    }
}

/// Makes rows from rows.
pub struct Augmenter {
    options: Options,
    lexicon: Lexicon,
    gate: Gate,
    chosen: Vec<(&'static str, Class)>,
}

impl Augmenter {
    /// With an embedding model for the gate, when one is given.
    ///
    /// # Errors
    /// Every option out of its range, unknown transforms, every fault of the user's lexicon.
    pub fn new(options: Options, embedder: Option<Arc<dyn Embedder>>) -> Result<Self, Vec<OptionFault>> {
        let mut faults = Vec::new();
        for (key, value) in [
            ("share", options.share),
            ("replaced", options.replaced),
            ("lexical", options.lexical),
            ("embedding", options.embedding),
        ] {
            if !(0.0..=1.0).contains(&value) {
                faults.push(OptionFault::new(key, value.to_string(), "give 0 to 1"));
            }
        }
        faults.extend(options.dialogues.iter().flat_map(DialogueOptions::faults));
        let names = TRANSFORMS.map(|(name, _)| name);
        for name in options.transforms.iter().filter(|name| !names.contains(&name.as_str())) {
            faults.push(OptionFault::new(
                "transforms",
                format!("`{name}`"),
                format!("take some of {}", names.join(", ")),
            ));
        }
        let mut lexicon = Lexicon::builtin();
        if let Some(path) = &options.lexicon {
            match std::fs::read_to_string(path) {
                Ok(text) => faults.extend(lexicon.extend(&path.to_string_lossy(), &text)),
                Err(error) => {
                    let found = format!("{}: {error}", path.display());
                    faults.push(OptionFault::new("lexicon", found, "name a TOML file with `[[synonym]]` entries"));
                }
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let wanted = |name: &str| options.transforms.is_empty() || options.transforms.iter().any(|t| t == name);
        let chosen = TRANSFORMS.into_iter().filter(|(name, _)| wanted(name)).collect();
        let gate = Gate::new(options.lexical, options.embedding, embedder);
        Ok(Augmenter { options, lexicon, gate, chosen })
    }

    /// All rows made from a batch, in order of rows and transforms.
    pub fn batch(&self, batch: &Batch) -> (Vec<Made>, AugmentReport) {
        let mut report = AugmentReport { gate: self.gate.name(), ..AugmentReport::default() };
        let mut made = Vec::new();
        for row in batch.rows() {
            for (name, class) in &self.chosen {
                let draw = lexicon::Draw::new(self.options.seed, row.number(), name);
                if f64::from(draw.uniform(0)) >= self.options.share {
                    continue;
                }
                let count = report.transforms.entry(name).or_default();
                count.tried += 1;
                let found = match class {
                    Class::Clean | Class::Robustness => {
                        perturb::perturb(&row, name, *class, &self.lexicon, self.options.replaced, &draw, &self.gate)
                    }
                    _ => adversarial::make(&row, name, *class, &draw),
                };
                match found {
                    None => {}
                    Some(Ok(row)) => {
                        count.fitted += 1;
                        count.accepted += 1;
                        made.push(row);
                    }
                    Some(Err(refusal)) => {
                        count.fitted += 1;
                        *count.refused.entry(refusal.name()).or_default() += 1;
                    }
                }
            }
        }
        (made, report)
    }
}

#[cfg(test)]
mod tests;
