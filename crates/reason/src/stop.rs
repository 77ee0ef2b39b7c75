//! When to stop: enough paths, a path not worth finishing, a thought that runs in circles.
//!
//! Pure state machines. The same ones decide while tokens arrive and when recorded paths are replayed;
//! none of them knows about time, threads or models.

pub mod confidence;
pub mod consistency;
pub mod esc;
pub mod repeat;

use crate::fuse::posterior::{Correlated, expected_gain};
use serde::{Deserialize, Serialize};

/// When a question has enough paths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "snake_case")]
pub enum Rule {
    /// All paths are used.
    #[default]
    Never,
    /// Adaptive consistency: the leading answer is ahead for good with this probability.
    Consistency {
        /// Probability, 0.95 in the paper.
        threshold: f64,
    },
    /// Early-stopping self-consistency: a whole window agrees.
    Esc {
        /// Paths in a window, 5 in the paper.
        window: usize,
    },
    /// The best answer has this probability, or the next path promises less than it costs.
    Posterior {
        /// Probability to reach.
        target: f64,
        /// Least expected gain in probability by one more path; 0 switches this half off.
        gain: f64,
    },
}

/// Why no more paths are needed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum Enough {
    /// The lead is stable with this probability.
    Stable {
        /// The probability.
        p: f64,
    },
    /// A window of paths agreed.
    Unanimous {
        /// Its size.
        window: usize,
    },
    /// The best answer reached its target.
    Sure {
        /// Its probability.
        p: f64,
    },
    /// One more path is expected to add only this much.
    NoGain {
        /// Expected gain in probability.
        gain: f64,
    },
}

/// The stop rule of one question at work: tell it the answer of each finished path.
#[derive(Debug, Clone)]
pub struct Stop {
    rule: Rule,
    model: Correlated,
    options: Option<usize>,
    seen: Vec<Option<usize>>,
    lead: consistency::Lead,
    window: esc::Window,
}

impl Stop {
    /// A fresh state. `model` and `options` (answers that the question offers) serve the expected gain.
    pub fn new(rule: Rule, model: Correlated, options: Option<usize>) -> Self {
        let window = match rule {
            Rule::Esc { window } => window,
            _ => 1,
        };
        Self {
            rule,
            model,
            options,
            seen: Vec::new(),
            lead: consistency::Lead::default(),
            window: esc::Window::new(window),
        }
    }

    /// Paths that finished.
    pub fn paths(&self) -> usize {
        self.seen.len()
    }

    /// A path finished in `class` (none: without an answer). `p` gives the probability of the best answer
    /// of all paths up to now; it is called only when the rule asks for it.
    pub fn observe(&mut self, class: Option<usize>, p: impl FnOnce() -> f64) -> Option<Enough> {
        self.seen.push(class);
        match self.rule {
            Rule::Never => None,
            Rule::Consistency { threshold } => {
                self.lead.observe(class);
                let p = self.lead.stability();
                (p >= threshold).then_some(Enough::Stable { p })
            }
            Rule::Esc { window } => self.window.observe(class).then_some(Enough::Unanimous { window }),
            Rule::Posterior { target, gain } => {
                let p = p();
                if p >= target {
                    return Some(Enough::Sure { p });
                }
                if gain <= 0.0 {
                    return None;
                }
                let expected = expected_gain(&self.seen, &self.model, self.options);
                (expected < gain).then_some(Enough::NoGain { gain: expected })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuse::posterior::correlated;

    fn used(rule: Rule, classes: &[Option<usize>]) -> usize {
        let mut stop = Stop::new(rule, Correlated::UNCALIBRATED, None);
        for (i, &class) in classes.iter().enumerate() {
            if stop.observe(class, || correlated(&classes[..=i], &Correlated::UNCALIBRATED, None).p()).is_some() {
                break;
            }
        }
        stop.paths()
    }

    #[test]
    fn each_rule_stops_where_it_should() {
        let agree = [Some(0); 10];
        let split: Vec<_> = (0..10).map(|i| Some(i % 2)).collect();
        assert_eq!(used(Rule::Never, &agree), 10);
        assert_eq!(used(Rule::Consistency { threshold: 0.95 }, &agree), 4);
        assert_eq!(used(Rule::Esc { window: 5 }, &agree), 5);
        assert_eq!(used(Rule::Esc { window: 5 }, &split), 10);
        assert_eq!(used(Rule::Consistency { threshold: 0.95 }, &split), 10);
        let first = (1..=10).find(|&n| correlated(&agree[..n], &Correlated::UNCALIBRATED, None).p() >= 0.8).unwrap();
        assert_eq!(used(Rule::Posterior { target: 0.8, gain: 0.0 }, &agree), first);
        assert!(
            used(Rule::Posterior { target: 0.9999, gain: 0.01 }, &agree) < 10,
            "nothing to gain from more of the same"
        );
    }

    #[test]
    fn silent_paths_are_a_class_of_their_own() {
        assert_eq!(used(Rule::Consistency { threshold: 0.95 }, &[None; 10]), 4);
        assert_eq!(used(Rule::Esc { window: 3 }, &[None, None, None, Some(1)]), 3);
    }
}
