#![forbid(unsafe_code)]
#![warn(missing_docs)]
//! Question → chain → verified answer with a calibrated probability.
//!
//! [`answer`] reads an answer out of a text, gives it a canonical form and says when two are equal.
//! [`verify`] looks at the steps of a chain and says which one is wrong first. [`fuse`] makes one answer
//! with a probability of many paths, and [`stop`] says when there are enough of them. Nothing here hides a
//! failed path: a path without an answer is a class of its own.

pub mod answer;
pub mod fuse;
pub mod stop;
pub mod verify;
