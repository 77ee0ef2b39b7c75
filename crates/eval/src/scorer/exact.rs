//! Exact match: the output is the gold text, but for white space around it.
use super::Score;

/// Names of the measures.
pub const MEASURES: [&str; 1] = ["exact"];

/// Scores an output.
pub fn score(gold: &str, output: &str) -> Score {
    let hit = gold.trim() == output.trim();
    Score { hits: vec![hit], class: None, notes: if hit { vec![] } else { vec!["differs from the gold text".into()] } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_outer_white_space_is_free() {
        assert!(score("a b\n", " a b").hits[0]);
        assert!(!score("a b", "a  b").hits[0]);
        assert!(!score("a", "").hits[0]);
    }
}
