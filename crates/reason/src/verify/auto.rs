//! The verifiers that choose themselves: those that find something to check.
//!
//! Method: a trace of brackets, of sorting or of swaps is judged by its own checker alone, equations modulo a
//! number by the modular one alone; else letters, parity, arithmetic and the built-in ranges look together, and
//! algebra when the question states an equation (word problems use one letter for several things). A step fails when one of them fails it, and is unsure when none finds anything.

use super::{
    AlgebraVerifier, ArithmeticVerifier, BracketVerifier, Claim, LetterVerifier, ModularVerifier, ParityVerifier,
    RangeVerifier, SortingVerifier, StepVerdict, SwapVerifier, Verdict, Verification, Verifier,
    algebra::states_equation,
};

/// All deterministic verifiers that need no file; see the module.
#[derive(Debug, Clone, Default)]
pub struct AutoVerifier {
    ranges: RangeVerifier,
}

impl Verifier for AutoVerifier {
    fn name(&self) -> &str {
        "auto"
    }

    fn version(&self) -> u32 {
        1
    }

    fn verify(&self, claim: &Claim) -> Verification {
        let alone: [&dyn Verifier; 4] =
            [&BracketVerifier, &SortingVerifier, &SwapVerifier, &ModularVerifier { modulus: None }];
        for verifier in alone {
            let found = verifier.verify(claim);
            if found.outcome() != Verdict::Unsure {
                return merged(self, claim.steps.len(), &[found]);
            }
        }
        let mut together: Vec<&dyn Verifier> =
            vec![&LetterVerifier, &ParityVerifier, &ArithmeticVerifier, &self.ranges];
        if states_equation(claim.question) {
            together.push(&AlgebraVerifier);
        }
        let found: Vec<Verification> = together.iter().map(|verifier| verifier.verify(claim)).collect();
        merged(self, claim.steps.len(), &found)
    }
}

/// One verification of many: a step fails when one fails it.
pub fn merged(by: &dyn Verifier, steps: usize, parts: &[Verification]) -> Verification {
    let steps = (0..steps)
        .map(|step| {
            let verdicts = || parts.iter().map(|part| (part, &part.steps[step]));
            let has = |verdict| verdicts().any(|(_, s)| s.verdict == verdict);
            let verdict = if has(Verdict::Fail) {
                Verdict::Fail
            } else if has(Verdict::Pass) {
                Verdict::Pass
            } else {
                Verdict::Unsure
            };
            let shown = verdicts().filter(|(_, s)| s.verdict == verdict && !s.evidence.is_empty());
            let evidence =
                shown.map(|(part, s)| format!("{}: {}", part.verifier, s.evidence)).collect::<Vec<_>>().join("; ");
            StepVerdict { step, verdict, evidence }
        })
        .collect();
    Verification { verifier: by.name().to_owned(), version: by.version(), steps }
}
