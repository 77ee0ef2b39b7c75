//! Whether a perturbed request still asks the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::protect::facts;
use crate::models::Embedder;
use crate::terms::{cjk_share, dot, normalise};

/// Why a made row was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A protected span is gone, new or changed.
    Facts,
    /// Less than half or more than twice as long.
    Length,
    /// Another mix of scripts.
    Script,
    /// Too far by cosine.
    Meaning,
    /// The planted fault could not be verified.
    Unverified,
}

impl Refusal {
    /// In reports.
    pub fn name(self) -> &'static str {
        match self {
            Refusal::Facts => "protected spans differ",
            Refusal::Length => "length",
            Refusal::Script => "script",
            Refusal::Meaning => "cosine",
            Refusal::Unverified => "not verified",
        }
    }
}

/// The gate with its bounds.
pub struct Gate {
    lexical: f64,
    embedding: f64,
    embedder: Option<Arc<dyn Embedder>>,
}

/// Cosine of counts of neighbouring characters in lower case, spaces left out.
fn pairs_cosine(a: &str, b: &str) -> f64 {
    let count = |text: &str| {
        let chars: Vec<char> = text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
        let mut pairs: BTreeMap<(char, char), f64> = BTreeMap::new();
        chars.windows(2).for_each(|w| *pairs.entry((w[0], w[1])).or_default() += 1.0);
        pairs
    };
    let (a, b) = (count(a), count(b));
    let product: f64 = a.iter().map(|(pair, n)| n * b.get(pair).copied().unwrap_or(0.0)).sum();
    let norm = |c: &BTreeMap<(char, char), f64>| c.values().map(|n| n * n).sum::<f64>().sqrt();
    let norms = norm(&a) * norm(&b);
    if norms > 0.0 { product / norms } else { 0.0 }
}

impl Gate {
    pub(super) fn new(lexical: f64, embedding: f64, embedder: Option<Arc<dyn Embedder>>) -> Self {
        Gate { lexical, embedding, embedder }
    }

    /// What it measures, in words.
    pub fn name(&self) -> String {
        let common = "protected spans equal, length 0.5 to 2 times, same scripts";
        match &self.embedder {
            Some(_) => format!("embedding gate: cosine at least {}, {common}", self.embedding),
            None => format!(
                "lexical constraint gate, no measure of meaning: character-pair cosine at least {}, {common}",
                self.lexical
            ),
        }
    }

    /// The cosine of a request and its perturbation.
    ///
    /// # Errors
    /// The first reason to refuse it. `free` are kinds of protected spans that the transform adds
    /// or takes away by design.
    pub fn check(&self, before: &str, after: &str, free: &[&str]) -> Result<f64, Refusal> {
        if facts(before, free) != facts(after, free) {
            return Err(Refusal::Facts);
        }
        let ratio = after.chars().count() as f64 / before.chars().count().max(1) as f64;
        // a few words of politeness may double a request of three words
        if !(0.5..=2.0).contains(&ratio) && before.chars().count().abs_diff(after.chars().count()) > 12 {
            return Err(Refusal::Length);
        }
        if (cjk_share(before) - cjk_share(after)).abs() > 0.1 {
            return Err(Refusal::Script);
        }
        let (cosine, least) = match &self.embedder {
            Some(embedder) => {
                let mut vectors = embedder.embed(&[before, after]);
                vectors.iter_mut().for_each(|v| normalise(v));
                (vectors.first().zip(vectors.get(1)).map_or(0.0, |(a, b)| f64::from(dot(a, b))), self.embedding)
            }
            None => (pairs_cosine(before, after), self.lexical),
        };
        if cosine < least { Err(Refusal::Meaning) } else { Ok(cosine) }
    }
}
