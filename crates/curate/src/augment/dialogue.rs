//! Single-turn rows linked to dialogues by what they speak of.
//!
//! Rows that share rare terms stand next to one another in an inverted index; a chain grows by the
//! row that shares most. The strength of a link is measured: with a scorer, how much the earlier
//! turns lower the loss of the answer, s(A | x) − s(A | x₁…x) in nats a token; without, the cosine
//! of idf-weighted terms of the turn and of all earlier ones. A chain whose share of linked turns is
//! below the bound is rejected.

use std::collections::BTreeMap;

use loar_text::{Body, Conversation, Message};
use serde::{Deserialize, Serialize};

use super::lexicon::Draw;
use super::{Class, Made};
use crate::batch::Row;
use crate::models::Scorer;
use crate::options::OptionFault;
use crate::terms::{HashKeyed, terms};

/// Name of the transform in counts and provenance.
pub const DIALOGUE: &str = "dialogue";

/// Options of `augment.dialogues`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DialogueOptions {
    /// Most requests of a dialogue, 2 or more. Default 3.
    pub turns: usize,
    /// Least strength of a link: nats a token with a scorer, cosine without. Default 0.1.
    pub least: f64,
    /// Least share of linked turns after the first. Default 0.6.
    pub linked: f64,
    /// Rows that are held in memory to be linked; of more, a sample by seed and row. Default 20 000.
    pub rows: usize,
}

impl Default for DialogueOptions {
    fn default() -> Self {
        DialogueOptions { turns: 3, least: 0.1, linked: 0.6, rows: 20_000 }
    }
}

impl DialogueOptions {
    /// Every value out of its range.
    pub fn faults(&self) -> Vec<OptionFault> {
        let mut faults = Vec::new();
        let mut fault = |key: &str, found: String, mend: &str| faults.push(OptionFault::new(key, found, mend));
        if !(2..=64).contains(&self.turns) {
            fault("dialogues.turns", self.turns.to_string(), "give 2 to 64");
        }
        if !self.least.is_finite() {
            fault("dialogues.least", self.least.to_string(), "give a number");
        }
        if !(0.0..=1.0).contains(&self.linked) {
            fault("dialogues.linked", self.linked.to_string(), "give 0 to 1");
        }
        if self.rows < 2 {
            fault("dialogues.rows", self.rows.to_string(), "give at least 2");
        }
        faults
    }
}

/// A dialogue with its measured links.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Chain {
    /// Rows in order.
    pub rows: Vec<u64>,
    /// Strength of the link of every row but the first.
    pub links: Vec<f64>,
    /// Share of links at or above the bound.
    pub linked: f64,
}

struct Single {
    row: u64,
    question: String,
    answer: String,
    terms: Vec<u64>,
}

/// Gathers single-turn rows and links them.
pub struct Dialogues {
    options: DialogueOptions,
    seed: u64,
    /// By draw and row: of more rows than may be held, those of the smallest draws stay, whatever
    /// order they come in.
    singles: BTreeMap<(u32, u64), Single>,
    taken: u64,
}

/// What [`Dialogues::link`] made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Linked {
    /// Dialogues with what was measured of each.
    pub made: Vec<(Made, Chain)>,
    /// Chains with too few linked turns.
    pub rejected: Vec<Chain>,
    /// Rows taken in, those left out for want of room among them.
    pub rows: u64,
}

/// What a link's strength is.
pub fn measure(scorer: bool) -> &'static str {
    if scorer { "loss difference, nats a token" } else { "lexical: idf cosine" }
}

impl Dialogues {
    /// Without rows yet.
    pub fn new(options: DialogueOptions, seed: u64) -> Self {
        Dialogues { options, seed, singles: BTreeMap::new(), taken: 0 }
    }

    /// Takes a row in when it is one request with one answer.
    pub fn add(&mut self, row: &Row<'_>) {
        let turns: Vec<_> = row.turns().filter(|t| t.role != "system").collect();
        let [asked, answered] = turns.as_slice() else { return };
        if !asked.is_request() || !answered.is_response() || answered.reasoning.is_some() {
            return;
        }
        let mut all = Vec::new();
        for text in [asked.content, answered.content] {
            terms(text, 4000, |term| all.push(term));
        }
        all.sort_unstable();
        all.dedup();
        self.taken += 1;
        let draw = Draw::new(self.seed, row.number(), DIALOGUE).uniform(0).to_bits();
        let single = Single {
            row: row.number(),
            question: asked.content.to_owned(),
            answer: answered.content.to_owned(),
            terms: all,
        };
        self.singles.insert((draw, row.number()), single);
        if self.singles.len() > self.options.rows {
            self.singles.pop_last();
        }
    }

    /// Chains of the rows taken in, each row in one at most, with the rejected ones apart.
    pub fn link(self, scorer: Option<&dyn Scorer>) -> Linked {
        let mut singles: Vec<Single> = self.singles.into_values().collect();
        singles.sort_by_key(|s| s.row);
        let options = self.options;
        let total = singles.len() as f64;
        let mut postings: HashKeyed<Vec<u32>> = HashKeyed::default();
        for (at, single) in singles.iter().enumerate() {
            single.terms.iter().for_each(|t| postings.entry(*t).or_default().push(at as u32));
        }
        let idf = |term: &u64| (total / postings[term].len() as f64).ln();
        let mut used = vec![false; singles.len()];
        let mut out = Linked { rows: self.taken, ..Linked::default() };
        for start in 0..singles.len() {
            if used[start] {
                continue;
            }
            let mut chain = vec![start];
            let mut known: BTreeMap<u64, f64> = singles[start].terms.iter().map(|t| (*t, idf(t))).collect();
            let mut links = Vec::new();
            while chain.len() < options.turns {
                // what shares most; terms of half of the rows and of long lists say nothing
                let mut shared: BTreeMap<u32, f64> = BTreeMap::new();
                for (term, weight) in known.iter().filter(|(t, w)| **w > 0.7 && postings[*t].len() <= 200) {
                    for other in &postings[term] {
                        if !used[*other as usize] && !chain.contains(&(*other as usize)) {
                            *shared.entry(*other).or_default() += weight;
                        }
                    }
                }
                let best = shared.into_iter().reduce(|a, b| if b.1 > a.1 { b } else { a });
                let Some((next, _)) = best else { break };
                let next = next as usize;
                let strength = match scorer {
                    Some(scorer) => loss_difference(scorer, &singles, &chain, next),
                    None => cosine(&known, &singles[next].terms, idf),
                };
                links.push(strength);
                chain.push(next);
                known.extend(singles[next].terms.iter().map(|t| (*t, idf(t))));
            }
            if chain.len() < 2 {
                continue;
            }
            let linked = links.iter().filter(|s| **s >= options.least).count() as f64 / links.len() as f64;
            let rows: Vec<u64> = chain.iter().map(|at| singles[*at].row).collect();
            if linked < options.linked {
                out.rejected.push(Chain { rows, links, linked });
                continue;
            }
            chain.iter().for_each(|at| used[*at] = true);
            let turns = chain.iter().map(|at| &singles[*at]);
            let messages: Vec<Message> = turns
                .flat_map(|s| [Message::user(s.question.as_str()), Message::assistant(s.answer.as_str())])
                .collect();
            let measure = measure(scorer.is_some());
            let shown: Vec<String> = links.iter().map(|s| format!("{s:.3}")).collect();
            let row = Made {
                parents: rows.clone(),
                transform: DIALOGUE,
                class: Class::Dialogue,
                violates: None,
                evidence: format!("{measure}: {}; linked {linked:.2} of the turns", shown.join(", ")),
                body: Body::Chat(Conversation { messages, ..Conversation::default() }),
            };
            out.made.push((row, Chain { rows, links, linked }));
        }
        out
    }
}

/// How much the turns of a chain lower the loss of the next answer, in nats a token; 0 where the
/// model gives no loss.
fn loss_difference(scorer: &dyn Scorer, singles: &[Single], chain: &[usize], next: usize) -> f64 {
    let before = chain.iter().map(|at| &singles[*at]).map(|s| format!("{}\n{}\n", s.question, s.answer));
    let single = &singles[next];
    let after = before.collect::<String>() + &single.question;
    match scorer.losses(&[(&single.question, &single.answer), (&after, &single.answer)])[..] {
        [Some(alone), Some(after)] => alone - after,
        _ => 0.0,
    }
}

/// Cosine of idf-weighted sets of terms.
fn cosine(known: &BTreeMap<u64, f64>, other: &[u64], idf: impl Fn(&u64) -> f64) -> f64 {
    let weights: Vec<(u64, f64)> = other.iter().map(|t| (*t, idf(t))).collect();
    let product: f64 = weights.iter().filter_map(|(t, w)| known.get(t).map(|k| k * w)).sum();
    let norm = |sum: f64| sum.sqrt();
    let norms = norm(known.values().map(|w| w * w).sum()) * norm(weights.iter().map(|(_, w)| w * w).sum());
    if norms > 0.0 { product / norms } else { 0.0 }
}
