//! The coarse operations. Each file holds one: its formula with the source, forward, backward, and the proof.
mod add;
mod attention;
mod columns;
mod embed;
mod experts;
mod head_loss;
mod linear;
mod mla;
mod rms_norm;
mod rope;
mod route;
mod swiglu;
#[cfg(test)]
mod tests;

pub use attention::attend;
pub use experts::Assignment;
pub use head_loss::{HeadLoss, head_chunk};
pub use linear::Store;
pub use rope::{RopeLayout, RopeTable};
pub use route::{RouterRule, Scoring};
