//! The tensors a checkpoint of a given configuration must hold, in release names.
//!
//! Takes a [`ModelConfig`](crate::config::ModelConfig). Gives name, shape and component of every
//! tensor, parameter counts, and the list of everything in a checkpoint that disagrees.

mod compare;
mod table;

pub use compare::compare;
pub use table::{Component, component_of, expected_tensors, is_linear_weight, is_mtp, parameters};
