//! How good answers and their probabilities are.
//!
//! For each question: the probability p of the best answer, whether it is right, and the probability of
//! the truth (that of "none of these" when no path has it).
//! * accuracy: share of right answers; a question without an answer is wrong;
//! * ECE: ten bins of equal width, Σ |mean p − share right| · share of questions;
//! * Brier: mean (p − right)²; NLL: mean −ln of the probability given to what happened (right or not),
//!   NLL of the truth: mean −ln P(truth); both clip at 1e−6;
//! * AURC: mean over k of the share of wrong ones among the k surest; ties count as their mean;
//! * coverage at risk r: the largest share of questions, surest first, of which at most r are wrong.

use serde::{Deserialize, Serialize};

/// One question.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Probability of the best answer.
    pub p: f64,
    /// Whether it is right.
    pub right: bool,
    /// Probability of the truth.
    pub p_truth: f64,
    /// Paths used.
    pub paths: usize,
}

/// Figures over questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Questions.
    pub questions: usize,
    /// Share right.
    pub accuracy: f64,
    /// Mean probability of the best answer.
    pub confidence: f64,
    /// Expected calibration error.
    pub ece: f64,
    /// Brier score of the best answer.
    pub brier: f64,
    /// Log loss of the best answer being right.
    pub nll: f64,
    /// Log loss of the truth.
    pub nll_truth: f64,
    /// Area under the risk-coverage curve.
    pub aurc: f64,
    /// Mean paths used.
    pub mean_paths: f64,
    /// (risk, coverage) at each risk that was asked for.
    pub coverage: Vec<(f64, f64)>,
}

/// Bins of [`Score::ece`].
pub const BINS: usize = 10;

impl Score {
    /// Scores questions; all figures are 0 without any.
    pub fn of(outcomes: &[Outcome], risks: &[f64]) -> Self {
        let n = outcomes.len();
        let mean = |f: &dyn Fn(&Outcome) -> f64| outcomes.iter().map(f).sum::<f64>() / n.max(1) as f64;
        let hit = |o: &Outcome| f64::from(u8::from(o.right));
        let loss = |p: f64| -p.clamp(1e-6, 1.0 - 1e-6).ln();
        let curve = risk_curve(outcomes);
        Self {
            questions: n,
            accuracy: mean(&hit),
            confidence: mean(&|o| o.p),
            ece: calibration_error(outcomes),
            brier: mean(&|o| (o.p - hit(o)).powi(2)),
            nll: mean(&|o| loss(if o.right { o.p } else { 1.0 - o.p })),
            nll_truth: mean(&|o| loss(o.p_truth)),
            aurc: curve.iter().map(|level| level.risks).sum::<f64>() / n.max(1) as f64,
            mean_paths: mean(&|o| o.paths as f64),
            coverage: risks.iter().map(|&r| (r, coverage(&curve, r, n))).collect(),
        }
    }
}

fn calibration_error(outcomes: &[Outcome]) -> f64 {
    let mut bins = [(0.0, 0.0); BINS];
    for o in outcomes {
        let bin = &mut bins[((o.p * BINS as f64) as usize).min(BINS - 1)];
        *bin = (bin.0 + o.p, bin.1 + f64::from(u8::from(o.right)));
    }
    bins.iter().map(|(p, right)| (p - right).abs()).sum::<f64>() / outcomes.len().max(1) as f64
}

/// The answered questions down to some probability, surest first; those of equal probability come at once.
struct Level {
    answered: f64,
    wrong: f64,
    /// Sum over k of the share of wrong ones among the k surest, for the ks of this level.
    risks: f64,
}

fn risk_curve(outcomes: &[Outcome]) -> Vec<Level> {
    let mut sorted: Vec<&Outcome> = outcomes.iter().collect();
    sorted.sort_by(|a, b| b.p.total_cmp(&a.p));
    let (mut answered, mut wrong) = (0.0, 0.0);
    (sorted.chunk_by(|a, b| a.p == b.p))
        .map(|group| {
            let size = group.len() as f64;
            let errors = group.iter().filter(|o| !o.right).count() as f64;
            let risk = |i: usize| (wrong + errors * i as f64 / size) / (answered + i as f64);
            let risks = (1..=group.len()).map(risk).sum();
            answered += size;
            wrong += errors;
            Level { answered, wrong, risks }
        })
        .collect()
}

fn coverage(curve: &[Level], risk: f64, n: usize) -> f64 {
    let within = curve.iter().rev().find(|level| level.wrong / level.answered <= risk);
    within.map_or(0.0, |level| level.answered / n as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(list: &[(f64, bool)]) -> Vec<Outcome> {
        list.iter().map(|&(p, right)| Outcome { p, right, p_truth: if right { p } else { 0.1 }, paths: 4 }).collect()
    }

    #[test]
    fn figures_by_hand() {
        let score = Score::of(&outcomes(&[(0.95, true), (0.85, true), (0.75, false), (0.65, true)]), &[0.0, 0.25, 0.3]);
        assert_eq!((score.accuracy, score.mean_paths), (0.75, 4.0));
        assert!((score.ece - (0.05 + 0.15 + 0.75 + 0.35) / 4.0).abs() < 1e-12);
        assert!((score.brier - (0.0025 + 0.0225 + 0.5625 + 0.1225) / 4.0).abs() < 1e-12);
        assert!((score.aurc - (0.0 + 0.0 + 1.0 / 3.0 + 0.25) / 4.0).abs() < 1e-12);
        assert_eq!(score.coverage, [(0.0, 0.5), (0.25, 1.0), (0.3, 1.0)]);
        let nll = -(0.95_f64.ln() + 0.85_f64.ln() + 0.25_f64.ln() + 0.65_f64.ln()) / 4.0;
        assert!((score.nll - nll).abs() < 1e-12);
    }

    #[test]
    fn ties_are_taken_together() {
        // Both orders of a tie give the same figures: one right, one wrong at .8.
        let a = Score::of(&outcomes(&[(0.9, true), (0.8, true), (0.8, false)]), &[0.1, 0.34]);
        let b = Score::of(&outcomes(&[(0.8, false), (0.9, true), (0.8, true)]), &[0.1, 0.34]);
        assert_eq!(a.aurc, b.aurc);
        assert_eq!(a.coverage, [(0.1, 1.0 / 3.0), (0.34, 1.0)]);
        assert!((a.aurc - (0.0 + 0.25 + 1.0 / 3.0) / 3.0).abs() < 1e-12);
    }

    #[test]
    fn a_perfect_probability_has_no_calibration_error() {
        let list: Vec<(f64, bool)> = (0..100).map(|i| (0.75, i % 4 != 0)).collect();
        let score = Score::of(&outcomes(&list), &[]);
        assert!(score.ece < 1e-12);
        assert_eq!(Score::of(&[], &[0.1]).coverage, [(0.1, 0.0)]);
    }
}
