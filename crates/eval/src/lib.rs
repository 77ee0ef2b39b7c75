//! Evaluation: tasks, scorers, figures with intervals, paired comparison.
//!
//! Takes a task file and a model behind `loar_decode`, gives scored outputs case by case and figures with their n and
//! 95 % interval. Never sees training code, never prints a figure without its uncertainty, and never drops a case.
#![forbid(unsafe_code)]

pub mod credit;
pub mod error;
pub mod metric;
pub mod paired;
pub mod rng;
pub mod run;
pub mod scorer;
pub mod task;

pub use error::EvalError;
pub use metric::{Confusion, Estimate, Share};
pub use paired::Paired;
pub use run::{Comparison, EvalOptions, Evaluation, Figures, Record, compare, evaluate};
pub use scorer::{Score, Scorer};
pub use task::{Case, TASKS, Task};
