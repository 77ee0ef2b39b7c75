//! Scorers: what an output is worth against the gold answer of its case.
//!
//! Takes gold and output, gives named yes/no measures and, where the task decides between classes, the class pair.
//! A scorer never fails on an output: what cannot be read is a miss with its reason.
pub mod credit;
pub mod exact;
pub mod intent;

use crate::credit::Policy;
use crate::metric::ClassPair;

/// Score of one output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Score {
    /// Holds or not, in the order of [`Scorer::measures`].
    pub hits: Vec<bool>,
    /// True and predicted class, for tasks with [`Scorer::classes`].
    pub class: Option<ClassPair>,
    /// Why a measure does not hold.
    pub notes: Vec<String>,
}

/// The scorers there are.
#[derive(Clone, Debug)]
pub enum Scorer {
    /// The credit policy of the demo.
    Credit(Policy),
    /// The same policy, answered without steps: [`Conclusion`](crate::credit::Conclusion). Gold answers have theirs.
    CreditDirect(Policy),
    /// ESFT's intent recognition.
    Intent,
    /// The output is the gold text, but for white space around it.
    Exact,
}

impl Scorer {
    /// Task name.
    pub fn name(&self) -> &'static str {
        match self {
            Scorer::Credit(_) => "credit",
            Scorer::CreditDirect(_) => "credit-direct",
            Scorer::Intent => "intent",
            Scorer::Exact => "exact",
        }
    }

    /// Names of the measures; the last one is the strictest.
    pub fn measures(&self) -> &'static [&'static str] {
        match self {
            Scorer::Credit(_) | Scorer::CreditDirect(_) => &credit::MEASURES,
            Scorer::Intent => &intent::MEASURES,
            Scorer::Exact => &exact::MEASURES,
        }
    }

    /// Class names of tasks that decide between classes, else empty.
    pub fn classes(&self) -> &'static [&'static str] {
        match self {
            Scorer::Credit(_) | Scorer::CreditDirect(_) => &credit::CLASSES,
            Scorer::Intent | Scorer::Exact => &[],
        }
    }

    /// Says why `gold` cannot be the gold answer of a case, if so.
    ///
    /// # Errors
    /// The reason, one sentence.
    pub fn check_gold(&self, gold: &str) -> Result<(), String> {
        match self {
            Scorer::Credit(policy) | Scorer::CreditDirect(policy) => credit::application(policy, gold).map(|_| ()),
            Scorer::Intent => intent::parse_gold(gold).map(|_| ()),
            Scorer::Exact => Ok(()),
        }
    }

    /// Scores an output.
    pub fn score(&self, gold: &str, output: &str) -> Score {
        match self {
            Scorer::Credit(policy) => credit::score(policy, gold, output),
            Scorer::CreditDirect(policy) => credit::score_direct(policy, gold, output),
            Scorer::Intent => intent::score(gold, output),
            Scorer::Exact => exact::score(gold, output),
        }
    }
}
