//! Question → chain → verified answer with a calibrated probability.
//!
//! [`answer`] reads an answer out of a text, gives it a canonical form and says when two are equal.
//! [`verify`] looks at the steps of a chain and says which one is wrong first. [`fuse`] makes one answer
//! with a probability of many paths, and [`stop`] says when there are enough of them. [`generate`] writes
//! paths, [`run`] is the recipe that joins all this, [`record`] keeps what happened and [`replay`] plays it
//! back. [`samples`] reads recorded paths and [`trial`] measures fusion and stopping on them. Nothing here hides
//! a failed path: a path without an answer is a class of its own.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod answer;
pub mod fuse;
pub mod generate;
pub mod measure;
pub mod policy;
pub mod probe;
pub mod prompt;
pub mod record;
pub mod replay;
pub mod run;
pub mod samples;
pub mod setup;
mod state;
pub mod stop;
pub mod trial;
pub mod verify;
pub mod view;
