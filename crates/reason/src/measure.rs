//! Which policy a model does best with: measured on questions with known answers, not assumed.
//!
//! Every candidate answers every question with the same seed; the one with most right answers wins, of equals
//! the one that writes fewer tokens, of these the earlier.

use serde::Serialize;

use crate::answer::{Answer, EqualOptions, equal};
use crate::generate::Generator;
use crate::run::{Task, answer};
use crate::setup::{Examples, Question, Setup};

/// How a candidate did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// Its name.
    pub name: String,
    /// Right answers.
    pub right: usize,
    /// Questions.
    pub questions: usize,
    /// Tokens written.
    pub tokens: usize,
}

/// Measures candidates on (question, true answer); gives all, and the place of the best.
///
/// # Errors
/// Examples that cannot be had.
pub fn measure(
    labelled: &[(Question, String)],
    candidates: &[(String, Setup)],
    examples: &dyn Examples,
    generator: &mut dyn Generator,
) -> Result<(Vec<Measured>, usize), String> {
    let mut all = Vec::new();
    for (name, setup) in candidates {
        let mut m = Measured { name: name.clone(), right: 0, questions: labelled.len(), tokens: 0 };
        for (question, gold) in labelled {
            let k = if setup.takes_examples() { setup.examples } else { 0 };
            let shown = examples.examples(question, k, setup.sampling.seed)?;
            let before = generator.usage().decode;
            let record = answer(&Task { question, setup, examples: &shown, verifiers: &[] }, generator);
            m.tokens += generator.usage().decode - before;
            let gold = Answer::read(gold, &question.answer);
            let said = record.decision.path.and_then(|p| record.paths[p].answer.as_ref());
            m.right += usize::from(said.is_some_and(|a| equal(&gold, a, &EqualOptions::default())));
        }
        all.push(m);
    }
    let best = (0..all.len()).min_by_key(|i| (std::cmp::Reverse(all[*i].right), all[*i].tokens, *i)).unwrap_or(0);
    Ok((all, best))
}
