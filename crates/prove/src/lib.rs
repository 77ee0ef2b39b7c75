//! Does a chain of thought help? Measured on models that are trained here, from nothing, in minutes.
//!
//! The same small DeepSeek-V3 model is trained on the same questions to write the answer at once, to
//! write its chain first, and, as controls, to write filler or somebody else's chain first. Questions
//! are fresh at every step and none is a test question. What voting, a step checker and the posterior
//! add is measured on paths of an early checkpoint of the same run. Nothing here is stored: every
//! number comes from this machine.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod assess;
mod error;
pub mod evidence;
pub mod leg;
pub mod model;
pub mod paths;
pub mod proof;
mod report;

pub mod task;
mod training;

pub use error::ProveError;
