//! Probability to decision: answer, try harder, or abstain.
//!
//! Conformal risk control on calibration questions that were scored by a model not fitted on them: the
//! threshold for a stated risk r is the smallest probability τ with (errors + 1)/(answered + 1) ≤ r among
//! questions whose best answer has p ≥ τ. The one added error is the question to come, taken at its worst.
//! It holds as far as that question is exchangeable with the calibration questions; the share of wrong
//! answers is not monotone in τ, so it is a controlled estimate rather than a bound. Below
//! [`LEAST_QUESTIONS`] calibration questions no threshold is claimed.

use super::score::Outcome;
use serde::{Deserialize, Serialize};

/// Calibration questions that a threshold needs.
pub const LEAST_QUESTIONS: usize = 200;

/// A threshold at a stated risk.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Threshold {
    /// Answer when p is at least this.
    At {
        /// The smallest probability to answer at.
        p: f64,
    },
    /// No threshold keeps the risk: always abstain.
    Never,
    /// Too few calibration questions to claim any.
    TooFew {
        /// Questions there are.
        have: usize,
        /// Questions it takes.
        need: usize,
    },
}

impl Threshold {
    /// The threshold for `risk` from calibration questions.
    pub fn at_risk(calibration: &[Outcome], risk: f64) -> Self {
        Self::at_risk_with(calibration, risk, LEAST_QUESTIONS)
    }

    /// The same with another least number of questions.
    pub fn at_risk_with(calibration: &[Outcome], risk: f64, need: usize) -> Self {
        if calibration.len() < need {
            return Threshold::TooFew { have: calibration.len(), need };
        }
        let mut sorted: Vec<&Outcome> = calibration.iter().collect();
        sorted.sort_by(|a, b| b.p.total_cmp(&a.p));
        let (mut answered, mut wrong) = (0_usize, 0_usize);
        let mut found = Threshold::Never;
        for group in sorted.chunk_by(|a, b| a.p == b.p) {
            answered += group.len();
            wrong += group.iter().filter(|o| !o.right).count();
            if (wrong + 1) as f64 <= risk * (answered + 1) as f64 {
                found = Threshold::At { p: group[0].p };
            }
        }
        found
    }

    /// Whether an answer of this probability is given.
    pub fn answers(self, p: f64) -> bool {
        matches!(self, Threshold::At { p: least } if p >= least)
    }
}

/// Something that may still help, cheapest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// More paths.
    MorePaths,
    /// A verifier that did not run yet.
    Verifier,
    /// A larger model.
    LargerModel,
    /// A person.
    Human,
}

/// What is done with a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "decision", rename_all = "snake_case")]
pub enum Decision {
    /// The best answer is given.
    Answer,
    /// The next rung is tried.
    Escalate {
        /// Which.
        to: Rung,
    },
    /// No answer is given.
    Abstain,
}

/// Answers when the threshold lets it, else takes the first rung of the ladder that is left, else
/// abstains. `left` names the rungs that were not used up, in any order. Without a threshold (too few
/// calibration questions) nothing is answered by right of its probability.
pub fn decide(p: f64, threshold: Threshold, left: &[Rung]) -> Decision {
    if threshold.answers(p) {
        return Decision::Answer;
    }
    left.iter().min().map_or(Decision::Abstain, |&to| Decision::Escalate { to })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuse::folds::Draw;

    fn outcome(p: f64, right: bool) -> Outcome {
        Outcome { p, right, p_truth: p, paths: 1 }
    }

    #[test]
    fn the_smallest_threshold_that_keeps_the_risk() {
        let list: Vec<Outcome> = (0..20).map(|i| outcome(1.0 - f64::from(i) / 20.0, i < 10)).collect();
        // The ten surest are right: at τ = p of the 10th, 1/11 ≤ .1; at risk .2, (1+1)/(11+1) ≤ .2 one further.
        assert_eq!(Threshold::at_risk_with(&list, 0.1, 1), Threshold::At { p: 1.0 - 9.0 / 20.0 });
        assert_eq!(Threshold::at_risk_with(&list, 0.2, 1), Threshold::At { p: 1.0 - 10.0 / 20.0 });
        assert_eq!(Threshold::at_risk_with(&list, 0.01, 1), Threshold::Never);
        assert_eq!(Threshold::at_risk(&list, 0.1), Threshold::TooFew { have: 20, need: 200 });
    }

    #[test]
    fn the_stated_risk_holds_on_fresh_questions() {
        // p is honest: right with probability p. Mean risk over 200 draws of calibration and fresh sets.
        for risk in [0.05, 0.1] {
            let (mut wrong, mut answered) = (0.0, 0.0);
            for seed in 0..200 {
                let mut draw = Draw::new(seed, 1);
                let mut set = |n: usize| -> Vec<Outcome> {
                    (0..n)
                        .map(|_| draw.unit())
                        .collect::<Vec<_>>()
                        .into_iter()
                        .map(|p| (p, draw.unit()))
                        .map(|(p, u)| outcome(p, u < p))
                        .collect()
                };
                let (calibration, fresh) = (set(400), set(400));
                let threshold = Threshold::at_risk(&calibration, risk);
                for o in fresh.iter().filter(|o| threshold.answers(o.p)) {
                    answered += 1.0;
                    wrong += f64::from(u8::from(!o.right));
                }
            }
            assert!(answered > 0.0 && wrong / answered <= risk * 1.15, "risk {risk}: {}", wrong / answered);
        }
    }

    #[test]
    fn the_ladder_is_climbed_in_order_and_ends_in_abstention() {
        let at = Threshold::At { p: 0.9 };
        assert_eq!(decide(0.95, at, &[]), Decision::Answer);
        assert_eq!(decide(0.5, at, &[Rung::Human, Rung::Verifier]), Decision::Escalate { to: Rung::Verifier });
        assert_eq!(decide(0.5, at, &[]), Decision::Abstain);
        assert_eq!(decide(1.0, Threshold::TooFew { have: 3, need: 200 }, &[]), Decision::Abstain);
    }
}
