//! Rows that repeat one another: exactly, or nearly by the Jaccard similarity of their shingles
//! (MinHash with banding finds the candidates, the exact similarity decides). Chinese is compared
//! by characters, languages with spaces by words; short rows are compared too.

pub mod banding;
pub mod cluster;
pub mod keys;
pub mod shingle;

#[cfg(test)]
mod tests;
