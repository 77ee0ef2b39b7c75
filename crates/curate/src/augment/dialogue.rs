//! Single-turn rows linked to dialogues by what they speak of.
//!
//! Rows that share rare terms stand next to one another in an inverted index; a chain grows by the
//! row that shares most. The strength of a link is measured: with a scorer, how much the earlier
//! turns lower the loss of the answer, s(A | x) − s(A | x₁…x) in nats a token; without, the cosine
//! of idf-weighted terms of the turn and of all earlier ones. A chain whose share of linked turns is
//! below the bound is rejected.

use std::collections::BTreeMap;

use loar_text::{Body, Conversation, Message};
use serde::Serialize;

use super::{Class, Made};
use crate::batch::Row;
use crate::models::Scorer;
use crate::terms::{HashKeyed, terms};

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
    singles: Vec<Single>,
    /// Turns of a chain, 2 or more.
    pub turns: usize,
    /// Least strength of a link: nats with a scorer, cosine without.
    pub least: f64,
    /// Least share of linked turns.
    pub linked: f64,
}

impl Default for Dialogues {
    /// Three turns.
    fn default() -> Self {
        Self::new(3)
    }
}

impl Dialogues {
    /// Chains of up to so many turns; a link is 0.1 or more, 0.6 of a chain's are linked.
    pub fn new(turns: usize) -> Self {
        Dialogues { singles: Vec::new(), turns, least: 0.1, linked: 0.6 }
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
        self.singles.push(Single {
            row: row.number(),
            question: asked.content.to_owned(),
            answer: answered.content.to_owned(),
            terms: all,
        });
    }

    /// Chains of the rows taken in, each row in one at most, with the rejected ones apart.
    pub fn link(mut self, scorer: Option<&dyn Scorer>) -> (Vec<Made>, Vec<Chain>) {
        self.singles.sort_by_key(|s| s.row);
        let total = self.singles.len() as f64;
        let mut postings: HashKeyed<Vec<u32>> = HashKeyed::default();
        for (at, single) in self.singles.iter().enumerate() {
            single.terms.iter().for_each(|t| postings.entry(*t).or_default().push(at as u32));
        }
        let idf = |term: &u64| (total / postings[term].len() as f64).ln();
        let mut used = vec![false; self.singles.len()];
        let (mut made, mut rejected) = (Vec::new(), Vec::new());
        for start in 0..self.singles.len() {
            if used[start] {
                continue;
            }
            let mut chain = vec![start];
            let mut known: BTreeMap<u64, f64> = self.singles[start].terms.iter().map(|t| (*t, idf(t))).collect();
            let mut links = Vec::new();
            while chain.len() < self.turns {
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
                    Some(scorer) => self.loss_difference(scorer, &chain, next),
                    None => cosine(&known, &self.singles[next].terms, idf),
                };
                links.push(strength);
                chain.push(next);
                known.extend(self.singles[next].terms.iter().map(|t| (*t, idf(t))));
            }
            if chain.len() < 2 {
                continue;
            }
            let linked = links.iter().filter(|s| **s >= self.least).count() as f64 / links.len() as f64;
            let rows: Vec<u64> = chain.iter().map(|at| self.singles[*at].row).collect();
            if linked < self.linked {
                rejected.push(Chain { rows, links, linked });
                continue;
            }
            chain.iter().for_each(|at| used[*at] = true);
            let turns = chain.iter().map(|at| &self.singles[*at]);
            let messages: Vec<Message> = turns
                .flat_map(|s| [Message::user(s.question.as_str()), Message::assistant(s.answer.as_str())])
                .collect();
            let measure = if scorer.is_some() { "loss difference, nats a token" } else { "lexical: idf cosine" };
            let shown: Vec<String> = links.iter().map(|s| format!("{s:.3}")).collect();
            made.push(Made {
                parents: rows,
                transform: "dialogue",
                class: Class::Dialogue,
                violates: None,
                evidence: format!("{measure}: {}; linked {linked:.2} of the turns", shown.join(", ")),
                body: Body::Chat(Conversation { messages, ..Conversation::default() }),
            });
        }
        (made, rejected)
    }

    fn loss_difference(&self, scorer: &dyn Scorer, chain: &[usize], next: usize) -> f64 {
        let mut before = String::new();
        for at in chain {
            let single = &self.singles[*at];
            before.push_str(&format!("{}\n{}\n", single.question, single.answer));
        }
        let single = &self.singles[next];
        let alone = scorer.loss(&single.question, &single.answer);
        alone - scorer.loss(&format!("{before}{}", single.question), &single.answer)
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
