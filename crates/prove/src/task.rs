//! Tasks whose truth is computed: a question, the only right chain, the answer.

mod equations;
mod parity;

pub use equations::Equations;
pub use parity::Parity;

use loar_eval::rng::Draw;

/// A question with its chain and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sample {
    /// What is given.
    pub question: String,
    /// One entry a step.
    pub steps: Vec<String>,
    /// What is asked.
    pub answer: String,
}

/// Makes questions, and checks a step by what stands in the chain alone.
pub trait Task: Send + Sync {
    /// Name in tables and files.
    fn name(&self) -> &'static str;
    /// What the task is, with its sizes, in a line.
    fn about(&self) -> String;
    /// A fresh sample.
    fn sample(&self, draw: &mut Draw) -> Sample;
    /// Share of questions that a guess gets right.
    fn chance(&self) -> f64;
    /// Whether step `i` of `steps` holds; `None` when it is not written as a step of this task. Sees
    /// neither the question nor the answer, so a rightly computed step on a wrongly copied number passes.
    fn holds(&self, steps: &[&str], i: usize) -> Option<bool>;
}
