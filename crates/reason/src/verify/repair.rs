//! What of a chain is kept when a step is wrong: everything before it.
//!
//! Pure: generation resamples behind the kept text. The kept text ends where the wrong step begins, byte for
//! byte as it was generated, so the keys and values computed for it stay valid.

use std::ops::Range;

/// Where to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repair<'a> {
    /// Index of the step to sample anew.
    pub step: usize,
    /// The text before it, as generated.
    pub kept: &'a str,
    /// The step that was dropped: the new one should not repeat it.
    pub dropped: &'a str,
}

/// The repair of a text whose step `wrong` (of the ranges [`super::split_ranges`] gave) is wrong; none when
/// there is no such step.
pub fn repair<'a>(text: &'a str, steps: &[Range<usize>], wrong: usize) -> Option<Repair<'a>> {
    let range = steps.get(wrong)?.clone();
    Some(Repair { step: wrong, kept: text.get(..range.start)?, dropped: text.get(range)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::{ArithmeticVerifier, Claim, Verifier as _, split_ranges, split_steps};

    #[test]
    fn what_is_before_the_first_wrong_step_is_kept() {
        let text = "3 + 4 = 7\n7 * 2 = 15\n15 - 1 = 14";
        let steps = split_steps(text);
        let claim = Claim { question: "", steps: &steps, answer: None, context: &[] };
        let wrong = ArithmeticVerifier.verify(&claim).first_wrong().unwrap();
        let plan = repair(text, &split_ranges(text), wrong).unwrap();
        assert_eq!((plan.step, plan.kept, plan.dropped), (1, "3 + 4 = 7\n", "7 * 2 = 15"));
        assert_eq!(repair(text, &split_ranges(text), 3), None);
    }
}
