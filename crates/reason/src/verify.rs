//! Verifiers: what can be said about the steps of a chain without knowing the true answer.
//!
//! A verifier never drops a path. It gives a verdict a step with its evidence; what the verdict is
//! worth is measured on held-out questions and enters the posterior as a likelihood ratio.

mod algebra;
mod arithmetic;
mod auto;
mod brackets;
mod citation;
pub mod expression;
mod fault;
mod letters;
mod linear;
mod parity;
mod policy;
mod range;
mod repair;
mod rows;
mod schema;
mod sorting;
mod steps;
mod swaps;
mod units;

pub use algebra::{AlgebraVerifier, ModularVerifier};
pub use arithmetic::ArithmeticVerifier;
pub use auto::{AutoVerifier, merged};
pub use brackets::BracketVerifier;
pub use citation::CitationVerifier;
pub use fault::{Fault, Faults};
pub use letters::LetterVerifier;
pub use parity::ParityVerifier;
pub use policy::PolicyVerifier;
pub use range::RangeVerifier;
pub use repair::{Repair, repair};
pub use rows::{Agreement, Report, Row, RowReport, read_rows, report};
pub use schema::SchemaVerifier;
pub use sorting::SortingVerifier;
pub use steps::{split_ranges, split_steps};
pub use swaps::SwapVerifier;

use crate::answer::Answer;
use serde::{Deserialize, Serialize};

/// What a verifier looks at: one path of one question.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// The question; empty when it is not known.
    pub question: &'a str,
    /// The chain, one entry a step, in order, as written.
    pub steps: &'a [String],
    /// The answer the chain ends with; none when it has none.
    pub answer: Option<&'a Answer>,
    /// Passages that were given with the question and may be cited, by their names.
    pub context: &'a [Passage],
}

/// A passage of context a chain may cite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passage {
    /// The name citations use.
    pub id: String,
    /// Its text.
    pub text: String,
}

/// What a verifier says of a step or of a whole path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Something was checked and holds.
    Pass,
    /// Something was checked and does not hold.
    Fail,
    /// Nothing in it could be checked.
    Unsure,
}

/// The verdict on one step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepVerdict {
    /// Index of the step, from 0.
    pub step: usize,
    /// What was found.
    pub verdict: Verdict,
    /// What was checked: the claim, the computed value.
    pub evidence: String,
}

/// All verdicts of one verifier on one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// The verifier's name.
    pub verifier: String,
    /// Its version: it changes when a verdict can.
    pub version: u32,
    /// A verdict for each step, in order.
    pub steps: Vec<StepVerdict>,
}

impl Verification {
    /// Index of the first step that failed.
    pub fn first_wrong(&self) -> Option<usize> {
        self.steps.iter().find(|s| s.verdict == Verdict::Fail).map(|s| s.step)
    }

    /// The verdict on the path: `Fail` when a step failed, `Pass` when at least one step was checked
    /// and all checked ones hold, else `Unsure`.
    pub fn outcome(&self) -> Verdict {
        if self.first_wrong().is_some() {
            Verdict::Fail
        } else if self.steps.iter().any(|s| s.verdict == Verdict::Pass) {
            Verdict::Pass
        } else {
            Verdict::Unsure
        }
    }
}

/// A check of chains. Pure: the same claim gives the same verification.
pub trait Verifier: Send + Sync {
    /// Its name in records, tables and calibration files.
    fn name(&self) -> &str;
    /// Its version: it changes when a verdict can.
    fn version(&self) -> u32;
    /// Looks at each step.
    fn verify(&self, claim: &Claim) -> Verification;
}

/// Names of the verifiers that need no file.
pub const NAMES: [&str; 11] = [
    "auto",
    "arithmetic",
    "algebra",
    "modular",
    "parity",
    "range",
    "citation",
    "letters",
    "brackets",
    "sorting",
    "swaps",
];

/// A verifier that needs no file, by its name; none for a name not in [`NAMES`].
pub fn by_name(name: &str) -> Option<Box<dyn Verifier>> {
    Some(match name {
        "auto" => Box::new(AutoVerifier::default()),
        "arithmetic" => Box::new(ArithmeticVerifier),
        "algebra" => Box::new(AlgebraVerifier),
        "modular" => Box::new(ModularVerifier::default()),
        "parity" => Box::new(ParityVerifier),
        "range" => Box::new(RangeVerifier::default()),
        "citation" => Box::new(CitationVerifier),
        "letters" => Box::new(LetterVerifier),
        "brackets" => Box::new(BracketVerifier),
        "sorting" => Box::new(SortingVerifier),
        "swaps" => Box::new(SwapVerifier),
        _ => return None,
    })
}

/// What a verifier gathers while it reads: any number of checks a step.
#[derive(Debug, Clone)]
pub struct Findings {
    checks: Vec<Vec<(bool, String)>>,
}

impl Findings {
    /// No check yet, for so many steps.
    pub fn new(steps: usize) -> Self {
        Self { checks: vec![Vec::new(); steps] }
    }

    /// Adds a check of a step: whether it holds, and what was compared.
    pub fn add(&mut self, step: usize, holds: bool, evidence: String) {
        self.checks[step].push((holds, evidence));
    }

    /// Whether any check was made.
    pub fn any(&self) -> bool {
        self.checks.iter().any(|checks| !checks.is_empty())
    }

    /// The verdicts: a step fails when one of its checks does, and then shows those that did.
    pub fn verification(self, by: &dyn Verifier) -> Verification {
        let steps = self
            .checks
            .into_iter()
            .enumerate()
            .map(|(step, checks)| {
                let failed = checks.iter().any(|(holds, _)| !holds);
                let verdict = match (checks.is_empty(), failed) {
                    (true, _) => Verdict::Unsure,
                    (_, true) => Verdict::Fail,
                    (_, false) => Verdict::Pass,
                };
                let shown = checks.into_iter().filter(|(holds, _)| !failed || !holds).map(|(_, evidence)| evidence);
                StepVerdict { step, verdict, evidence: shown.take(8).collect::<Vec<_>>().join("; ") }
            })
            .collect();
        Verification { verifier: by.name().to_owned(), version: by.version(), steps }
    }
}
