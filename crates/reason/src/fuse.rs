//! Fusion: many paths of one question to one answer with a probability.
//!
//! A [`Ballot`] says which answer class each path ended in, what verifiers said of it and what was
//! measured while it was written. Every method turns it into a [`Fused`]: candidates, best first, each
//! with the terms its score is the sum of, so that a person can audit the probability.
//!
//! [`vote`] counts, [`independent`] weighs paths as independent witnesses, [`posterior`] knows that
//! paths of one model err together, [`pattern`] looks up who agreed with whom. [`ratio`] and
//! [`confidence`] say what verdicts and measurements are worth, [`fit`] estimates the numbers of all of
//! them, [`calibration`] keeps them in a file, [`conformal`] turns a probability into a decision and
//! [`score`] says how good all that was.
//!
//! All sums are f64 and run in order of paths and of first appearance. Ties go to the candidate with
//! the higher score, then to the one whose first path is earlier. A path without an answer is a wrong
//! path of a class of its own: it counts in every denominator and can never be the answer.

pub mod calibrate;
pub mod calibration;
pub mod confidence;
pub mod conformal;
pub mod fit;
pub mod folds;
pub mod independent;
pub mod isotonic;
pub mod logistic;
pub mod pattern;
pub mod posterior;
pub mod ratio;
pub mod score;
pub mod special;
pub mod vote;

use crate::verify::Verdict;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What fusion sees of the paths of one question. All lists have one entry a path, in order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Ballot {
    /// Answer class of each path, numbered from 0; none for a path without an answer.
    pub classes: Vec<Option<usize>>,
    /// Verdicts on each path, by verifier.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub verdicts: BTreeMap<String, Vec<Verdict>>,
    /// Measurements on each path (mean log-probability, P(True), length), by name; none where missing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub features: BTreeMap<String, Vec<Option<f64>>>,
    /// How many answers the question offers (5 for A to E); none when it is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<usize>,
}

impl Ballot {
    /// A ballot of answers alone.
    pub fn of(classes: &[Option<usize>]) -> Self {
        Self { classes: classes.to_vec(), ..Self::default() }
    }

    /// The first `n` paths.
    pub fn first(&self, n: usize) -> Self {
        let n = n.min(self.classes.len());
        Self {
            classes: self.classes[..n].to_vec(),
            verdicts: self.verdicts.iter().map(|(k, v)| (k.clone(), v.iter().take(n).copied().collect())).collect(),
            features: self.features.iter().map(|(k, v)| (k.clone(), v.iter().take(n).copied().collect())).collect(),
            options: self.options,
        }
    }

    /// The paths in another order: path `order[i]` comes as the `i`-th.
    pub fn reordered(&self, order: &[usize]) -> Self {
        fn pick<T: Copy>(list: &[T], order: &[usize]) -> Vec<T> {
            order.iter().filter_map(|&i| list.get(i).copied()).collect()
        }
        Self {
            classes: pick(&self.classes, order),
            verdicts: self.verdicts.iter().map(|(k, v)| (k.clone(), pick(v, order))).collect(),
            features: self.features.iter().map(|(k, v)| (k.clone(), pick(v, order))).collect(),
            options: self.options,
        }
    }
}

/// The groups of equal answers of one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Groups {
    /// Each class with its paths, in order of first appearance.
    pub classes: Vec<(usize, Vec<usize>)>,
    /// Paths without an answer.
    pub unanswered: Vec<usize>,
    /// All paths.
    pub paths: usize,
}

impl Groups {
    /// Groups paths by class.
    pub fn of(classes: &[Option<usize>]) -> Self {
        let mut groups = Self { classes: Vec::new(), unanswered: Vec::new(), paths: classes.len() };
        let mut place = BTreeMap::new();
        for (path, class) in classes.iter().enumerate() {
            match class {
                None => groups.unanswered.push(path),
                Some(class) => {
                    let at = *place.entry(*class).or_insert_with(|| {
                        groups.classes.push((*class, Vec::new()));
                        groups.classes.len() - 1
                    });
                    groups.classes[at].1.push(path);
                }
            }
        }
        groups
    }

    /// Size of each class, in order of first appearance.
    pub fn counts(&self) -> Vec<usize> {
        self.classes.iter().map(|(_, paths)| paths.len()).collect()
    }
}

/// How paths are fused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// One path, one vote; the share of votes is no probability.
    Vote,
    /// Votes weighted by a softmax of path confidence within the question.
    Weighted,
    /// The answer of the most confident path.
    Best,
    /// Bayes with independent errors.
    Independent,
    /// Bayes with errors that go together within a question.
    #[default]
    Posterior,
    /// Frequencies of the agreement pattern of a few different experts.
    Pattern,
}

/// One summand of a candidate's log score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Term {
    /// Where it comes from: `agreement`, `alternatives`, `confidence`, `verifier arithmetic`, …
    pub name: String,
    /// Its value, natural logarithm.
    pub value: f64,
}

impl Term {
    /// A named summand.
    pub fn new(name: impl Into<String>, value: f64) -> Self {
        Self { name: name.into(), value }
    }
}

/// An answer class with its probability.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The class of the ballot.
    pub class: usize,
    /// The paths that gave it.
    pub paths: Vec<usize>,
    /// Its probability; for votes its share.
    pub p: f64,
    /// Sum of the terms.
    pub score: f64,
    /// What the score is made of.
    pub terms: Vec<Term>,
}

/// The outcome of fusion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fused {
    /// How it was fused.
    pub method: Method,
    /// Candidates, best first.
    pub candidates: Vec<Candidate>,
    /// Probability that none of the candidates is right; for votes the share of paths without an answer.
    pub p_none: f64,
    /// What the score of "none of these" is made of; empty when it cannot be true.
    pub none_terms: Vec<Term>,
    /// Paths without an answer.
    pub unanswered: Vec<usize>,
    /// Paths in all.
    pub paths: usize,
}

impl Fused {
    /// The best candidate; none when no path has an answer.
    pub fn top(&self) -> Option<&Candidate> {
        self.candidates.first()
    }

    /// Probability of the best candidate, 0 without one.
    pub fn p(&self) -> f64 {
        self.top().map_or(0.0, |c| c.p)
    }

    /// Probability of a class, 0 when no path gave it.
    pub fn p_of(&self, class: usize) -> f64 {
        self.candidates.iter().find(|c| c.class == class).map_or(0.0, |c| c.p)
    }

    /// Normalises log scores: `terms` holds those of each class in the order of `groups`, `none` those
    /// of "none of these", left out when it is impossible.
    pub(crate) fn normalise(method: Method, groups: Groups, terms: Vec<Vec<Term>>, none: Option<Vec<Term>>) -> Self {
        let total = |terms: &[Term]| terms.iter().map(|t| t.value).sum::<f64>();
        let scores: Vec<f64> = terms.iter().map(|t| total(t)).collect();
        let none_score = match &none {
            Some(terms) => total(terms),
            None if groups.classes.is_empty() => 0.0,
            None => f64::NEG_INFINITY,
        };
        let z = special::log_sum_exp(scores.iter().copied().chain([none_score]));
        let mut candidates: Vec<Candidate> = (groups.classes.into_iter().zip(terms).zip(scores))
            .map(|(((class, paths), terms), score)| Candidate { class, paths, p: (score - z).exp(), score, terms })
            .collect();
        rank(&mut candidates);
        Self {
            method,
            candidates,
            p_none: (none_score - z).exp(),
            none_terms: none.unwrap_or_default(),
            unanswered: groups.unanswered,
            paths: groups.paths,
        }
    }
}

/// Best first: higher probability, then higher score, then the earlier first path.
pub(crate) fn rank(candidates: &mut [Candidate]) {
    candidates.sort_by(|a, b| b.p.total_cmp(&a.p).then(b.score.total_cmp(&a.score)).then(a.paths.cmp(&b.paths)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_keep_the_order_of_paths_and_count_the_unanswered() {
        let groups = Groups::of(&[Some(4), None, Some(1), Some(4)]);
        assert_eq!(groups.classes, [(4, vec![0, 3]), (1, vec![2])]);
        assert_eq!((groups.unanswered, groups.paths), (vec![1], 4));
    }

    #[test]
    fn a_question_without_any_answer_is_none_of_these() {
        let fused = Fused::normalise(Method::Posterior, Groups::of(&[None, None]), vec![], None);
        assert_eq!((fused.p_none, fused.p(), fused.top()), (1.0, 0.0, None));
    }

    #[test]
    fn a_cut_ballot_is_cut_everywhere() {
        let mut ballot = Ballot::of(&[Some(0), Some(1), None]);
        ballot.verdicts.insert("a".into(), vec![Verdict::Pass, Verdict::Fail, Verdict::Unsure]);
        ballot.features.insert("f".into(), vec![Some(1.0), None, Some(3.0)]);
        let two = ballot.first(2);
        assert_eq!((two.classes.len(), two.verdicts["a"].len(), two.features["f"].len()), (2, 2, 2));
        let turned = ballot.reordered(&[2, 0, 1]);
        assert_eq!(turned.classes, [None, Some(0), Some(1)]);
        assert_eq!(turned.features["f"], [Some(3.0), Some(1.0), None]);
        assert_eq!(turned.verdicts["a"], [Verdict::Unsure, Verdict::Pass, Verdict::Fail]);
    }
}
