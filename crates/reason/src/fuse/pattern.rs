//! A few different experts: frequencies of who agrees with whom.
//!
//! When path i always comes from the same expert i (another model, prompt or adapter), neither votes nor
//! exchangeable paths describe them. The pattern of a question is the partition of its experts into equal
//! answers; the probability of a block is how often it was right among calibration questions with the same
//! pattern, drawn by five pseudo-questions towards how often exactly these experts were right together,
//! which in turn is drawn by five towards the independent form.

use super::independent::{Alternatives, independent};
use super::special::logit;
use super::{Groups, Term};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Pseudo-questions of each prior.
const PRIOR: f64 = 5.0;
/// Most experts a table is kept for.
pub const MOST_EXPERTS: usize = 8;

/// Fitted frequencies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pattern {
    /// Probability that each expert is right.
    pub experts: Vec<f64>,
    /// One over the probability that two wrong experts agree.
    pub k: f64,
    /// By partition ("0.1.0": experts 0 and 2 agree): questions, and hits of each block.
    pub partitions: BTreeMap<String, (usize, Vec<usize>)>,
    /// By block ("+-+": experts 0 and 2 agree and nobody else with them): questions and hits.
    pub blocks: BTreeMap<String, (usize, usize)>,
}

/// Probability of each expert (path position) and K of the independent form: accuracies drawn by 20
/// pseudo-paths to the overall share, K from pairs of wrong answers that agree.
pub fn witnesses(questions: &[(&[Option<usize>], Option<usize>)]) -> (Vec<f64>, f64) {
    let most = questions.iter().map(|(c, _)| c.len()).max().unwrap_or(0);
    let (mut hits, mut seen) = (vec![0.0; most], vec![0.0; most]);
    let (mut agree, mut pairs) = (0.0, 0.0);
    for (classes, truth) in questions {
        for (i, class) in classes.iter().enumerate() {
            seen[i] += 1.0;
            hits[i] += f64::from(u8::from(class.is_some() && class == truth));
        }
        let wrong: Vec<usize> =
            Groups::of(classes).classes.iter().filter(|(c, _)| Some(*c) != *truth).map(|(_, p)| p.len()).collect();
        let n: usize = wrong.iter().sum();
        pairs += (n * n.saturating_sub(1)) as f64 / 2.0;
        agree += wrong.iter().map(|c| (c * (c - 1)) as f64 / 2.0).sum::<f64>();
    }
    let share = (hits.iter().sum::<f64>() + 1.0) / (seen.iter().sum::<f64>() + 2.0);
    let p = hits.iter().zip(&seen).map(|(h, n)| (h + 20.0 * share) / (n + 20.0)).collect();
    (p, ((pairs + 1.0) / (agree + 1.0)).max(1.0))
}

fn partition(classes: &[Option<usize>], groups: &Groups) -> String {
    let place = |class: &Option<usize>| match class {
        None => "-".to_owned(),
        Some(c) => groups.classes.iter().position(|(g, _)| g == c).unwrap_or(0).to_string(),
    };
    classes.iter().map(place).collect::<Vec<_>>().join(".")
}

fn block(paths: &[usize], n: usize) -> String {
    (0..n).map(|i| if paths.contains(&i) { '+' } else { '-' }).collect()
}

impl Pattern {
    /// Fits on classes with the class that is right. None unless all questions have the same number of
    /// paths, 2 to [`MOST_EXPERTS`].
    pub fn fit(questions: &[(&[Option<usize>], Option<usize>)]) -> Option<Self> {
        let n = questions.first()?.0.len();
        if !(2..=MOST_EXPERTS).contains(&n) || questions.iter().any(|(c, _)| c.len() != n) {
            return None;
        }
        let (experts, k) = witnesses(questions);
        let mut pattern = Self { experts, k, partitions: BTreeMap::new(), blocks: BTreeMap::new() };
        for (classes, truth) in questions {
            let groups = Groups::of(classes);
            let (count, hits) = pattern
                .partitions
                .entry(partition(classes, &groups))
                .or_insert_with(|| (0, vec![0; groups.classes.len()]));
            *count += 1;
            for (at, (class, paths)) in groups.classes.iter().enumerate() {
                let right = usize::from(Some(*class) == *truth);
                hits[at] += right;
                let seen = pattern.blocks.entry(block(paths, n)).or_default();
                *seen = (seen.0 + 1, seen.1 + right);
            }
        }
        Some(pattern)
    }

    /// ln probability of each class, in the order of `groups`, and of "none of these". With another number
    /// of paths than it was fitted on the independent form answers.
    pub(crate) fn terms(
        &self,
        classes: &[Option<usize>],
        groups: &Groups,
        options: Option<usize>,
    ) -> (Vec<Vec<Term>>, Option<Vec<Term>>) {
        let n = classes.len();
        let p: Vec<f64> = (0..n).map(|i| self.experts.get(i).copied().unwrap_or(0.5)).collect();
        let alternatives = options.map_or(Alternatives::Open(self.k), Alternatives::Closed);
        if n != self.experts.len() {
            return super::independent::terms(groups, &p, alternatives);
        }
        let prior = independent(classes, &p, alternatives);
        let (count, hits) = self.partitions.get(&partition(classes, groups)).cloned().unwrap_or_default();
        let mut each: Vec<f64> = (groups.classes.iter().enumerate())
            .map(|(at, (class, paths))| {
                let (seen, right) = self.blocks.get(&block(paths, n)).copied().unwrap_or_default();
                let together = (right as f64 + PRIOR * prior.p_of(*class)) / (seen as f64 + PRIOR);
                (hits.get(at).copied().unwrap_or(0) as f64 + PRIOR * together) / (count as f64 + PRIOR)
            })
            .collect();
        let sum: f64 = each.iter().sum();
        let room = if prior.p_none > 0.0 { 1e-3 } else { 0.0 };
        if sum > 1.0 - room || room == 0.0 {
            each.iter_mut().for_each(|p| *p *= (1.0 - room) / sum);
        }
        let none = 1.0 - each.iter().sum::<f64>();
        let named = |p: f64| vec![Term::new("pattern", p.max(1e-12).ln())];
        (each.into_iter().map(named).collect(), (room > 0.0).then(|| named(none)))
    }

    /// Log-odds of each path being right by its expert alone.
    pub fn log_odds(&self, paths: usize) -> Vec<f64> {
        (0..paths).map(|i| logit(self.experts.get(i).copied().unwrap_or(0.5))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuse::{Fused, Method};

    #[test]
    fn one_good_expert_beats_two_poor_ones_that_agree() {
        // Expert 2 is right 8 of 10 times; 0 and 1 agree with each other and are right otherwise.
        let classes: Vec<Option<usize>> = vec![Some(0), Some(0), Some(1)];
        let questions: Vec<(&[Option<usize>], Option<usize>)> =
            (0..100).map(|i| (&classes[..], Some(usize::from(i % 10 < 8)))).collect();
        let pattern = Pattern::fit(&questions).unwrap();
        let groups = Groups::of(&classes);
        let (each, none) = pattern.terms(&classes, &groups, None);
        let fused = Fused::normalise(Method::Pattern, groups, each, none);
        assert_eq!(fused.top().unwrap().class, 1);
        assert!((fused.p() - 0.8).abs() < 0.03, "{}", fused.p());
        assert!((fused.candidates.iter().map(|c| c.p).sum::<f64>() + fused.p_none - 1.0).abs() < 1e-9);
    }

    #[test]
    fn unequal_numbers_of_paths_have_no_pattern() {
        let (a, b) = ([Some(0), Some(1)], [Some(0)]);
        assert!(Pattern::fit(&[(&a, Some(0)), (&b, Some(0))]).is_none());
        assert!(Pattern::fit(&[(&b, Some(0))]).is_none() && Pattern::fit(&[]).is_none());
    }

    #[test]
    fn wrong_pairs_that_agree_give_k() {
        // Two wrong paths agree in one question of four.
        let (same, apart) = ([Some(1), Some(1)], [Some(1), Some(2)]);
        let mut questions: Vec<(&[Option<usize>], Option<usize>)> = vec![(&apart, Some(0)); 300];
        questions.extend(vec![(&same[..], Some(0)); 100]);
        assert!((witnesses(&questions).1 - 4.0).abs() < 0.05);
    }
}
