//! The credit-assessment task of the demo: a written policy as data, applications generated from it, and its checker.
//!
//! Takes a policy file and a seed, gives applications in English and Chinese with the answer the policy demands, and
//! tells of any other answer which written rule it breaks. Never calls a model.
pub mod answer;
pub mod application;
pub mod check;
pub mod generate;
pub mod policy;

pub use answer::{Answer, Conclusion, Step, StepValue};
pub use application::{Application, Language, Value};
pub use check::{Verdict, Violation, check};
pub use generate::{CreditCase, Generator};
pub use policy::{Decision, Factor, Kind, Policy};
