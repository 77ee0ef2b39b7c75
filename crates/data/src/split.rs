//! Examples → a training part and an evaluation part, by a seeded hash of the content. Identical
//! rows never stand on both sides, the order of the files does not matter, and rows that are added
//! later move few others. Order inside each part is the order of the data set.

use std::collections::BTreeMap;

use loar_artifact::{ContentId, IdHasher};
use serde::Serialize;

use crate::dataset::{Dataset, Example};
use crate::error::DataError;

/// How much goes to the evaluation part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum EvalSize {
    /// A share of all rows, above 0 and below 1; rounded, at least one row.
    Fraction(f64),
    /// A number of rows.
    Rows(usize),
}

/// Indices into [`Dataset::examples`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Split {
    /// Rows to train on.
    pub train: Vec<usize>,
    /// Rows to evaluate on.
    pub eval: Vec<usize>,
    /// Rows that repeat an earlier one exactly.
    pub exact_duplicates: usize,
}

impl Split {
    /// Divides the examples.
    pub fn partition(&self, examples: Vec<Example>) -> (Vec<Example>, Vec<Example>) {
        let mut in_eval = vec![false; examples.len()];
        for &index in &self.eval {
            if let Some(flag) = in_eval.get_mut(index) {
                *flag = true;
            }
        }
        let (mut train, mut eval) = (Vec::new(), Vec::new());
        for (example, held_out) in examples.into_iter().zip(in_eval) {
            if held_out { eval.push(example) } else { train.push(example) }
        }
        (train, eval)
    }
}

fn key(seed: u64, content: &ContentId) -> ContentId {
    let mut hasher = IdHasher::new();
    hasher.update(b"loar eval split\0");
    hasher.update(&seed.to_le_bytes());
    hasher.update(content.to_string().as_bytes());
    hasher.finish()
}

/// Takes the groups of equal rows with the smallest keys until the wanted number is reached; a
/// group that would pass it is left to the training part, so the evaluation part may be smaller
/// than wanted when the data repeats itself.
///
/// # Errors
/// [`DataError::Split`] when the size is out of range or one part would be empty.
pub fn split(dataset: &Dataset, size: EvalSize, seed: u64) -> Result<Split, DataError> {
    let rows = dataset.examples.len();
    let wanted = match size {
        EvalSize::Fraction(share) if share > 0.0 && share < 1.0 => ((rows as f64 * share).round() as usize).max(1),
        EvalSize::Fraction(share) => {
            let text = format!("`eval_fraction` is {share}; give a number above 0 and below 1");
            return Err(DataError::Split(text));
        }
        EvalSize::Rows(0) => {
            let text = "`eval_rows` is 0; give at least 1, or leave the split out".to_owned();
            return Err(DataError::Split(text));
        }
        EvalSize::Rows(wanted) => wanted,
    };
    if wanted >= rows {
        let text = format!(
            "{wanted} evaluation rows of {rows} leave nothing to train on; ask for at most {}",
            rows.saturating_sub(1)
        );
        return Err(DataError::Split(text));
    }
    let mut groups: BTreeMap<ContentId, Vec<usize>> = BTreeMap::new();
    for (index, example) in dataset.examples.iter().enumerate() {
        groups.entry(key(seed, &example.content_id)).or_default().push(index);
    }
    let mut split = Split { exact_duplicates: rows - groups.len(), ..Split::default() };
    for group in groups.into_values() {
        if split.eval.len() + group.len() <= wanted {
            split.eval.extend(group);
        } else {
            split.train.extend(group);
        }
    }
    if split.eval.is_empty() {
        let text = format!(
            "no group of identical rows is small enough for {wanted} evaluation rows; remove duplicates or ask for more"
        );
        return Err(DataError::Split(text));
    }
    split.train.sort_unstable();
    split.eval.sort_unstable();
    Ok(split)
}
