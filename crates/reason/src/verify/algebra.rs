//! Equations with variables: each must not contradict the question and the steps before it.
//!
//! Method: equations of the question and of earlier steps form a linear system ([`super::linear`]); an
//! equation of a step that follows from it passes, one that cannot hold with it fails, any other is a new
//! assumption (unsure) and joins it. [`AlgebraVerifier`] works over the rationals, by two large primes that
//! must agree; [`ModularVerifier`] modulo a number that is given or that the text names (`mod 7`,
//! `modulo 11`), constants included. An equation that is not linear passes when it is an identity (equal at
//! 20 points modulo a large prime), and is never failed.

use super::expression::token::Relation;
use super::expression::{Chain, Expression, parse};
use super::linear::{Standing, System};
use super::{Claim, Findings, Verification, Verifier};

/// Two primes below 2^61: an equation between rationals that holds modulo both holds, but for one in 10^15.
const PRIMES: [u64; 2] = [2_305_843_009_213_693_951, 2_147_483_647];

/// Checks linear equations over the rationals; see the module.
#[derive(Debug, Clone, Copy, Default)]
pub struct AlgebraVerifier;

impl Verifier for AlgebraVerifier {
    fn name(&self) -> &str {
        "algebra"
    }

    fn version(&self) -> u32 {
        1
    }

    fn verify(&self, claim: &Claim) -> Verification {
        let mut findings = Findings::new(claim.steps.len());
        let mut systems = PRIMES.map(System::new);
        for chain in parse(claim.question).chains.iter().filter(|c| c.modulus.is_none()) {
            for (left, right) in equations(chain) {
                for system in &mut systems {
                    let _ = system.state(left, right);
                }
            }
        }
        for (step, text) in claim.steps.iter().enumerate() {
            // `x = 2 or x = 3` states two cases, not two equations
            let cases = text
                .split(|c: char| !c.is_alphanumeric())
                .any(|w| ["or", "either", "case", "if", "suppose"].contains(&w))
                || text.contains('或');
            for chain in parse(text).chains.iter().filter(|c| c.modulus.is_none() && !cases) {
                for (left, right) in equations(chain) {
                    let written = text.get(left.start..right.end).unwrap_or_default().trim();
                    if identity(left, right) {
                        findings.add(step, true, format!("`{written}` holds for all values"));
                        continue;
                    }
                    let [first, second] = &mut systems;
                    match (first.state(left, right), second.state(left, right)) {
                        (Some(Standing::Follows), Some(Standing::Follows)) => {
                            findings.add(step, true, format!("`{written}` follows"))
                        }
                        (Some(Standing::Contradicts), Some(Standing::Contradicts)) => {
                            findings.add(step, false, format!("`{written}` contradicts the equations before it"));
                        }
                        _ => (),
                    }
                }
            }
        }
        findings.verification(self)
    }
}

/// Whether a text states an equation with a variable.
pub(super) fn states_equation(text: &str) -> bool {
    parse(text).chains.iter().any(|chain| !equations(chain).is_empty())
}

/// Equations of a chain that have a variable.
fn equations(chain: &Chain) -> Vec<(&Expression, &Expression)> {
    let pairs = chain.sides.windows(2).zip(&chain.relations);
    pairs
        .filter(|(_, relation)| **relation == Relation::Equal)
        .filter_map(|(sides, _)| Some((sides[0].as_ref()?, sides[1].as_ref()?)))
        .filter(|(left, right)| !left.variables().is_empty() || !right.variables().is_empty())
        .collect()
}

/// Whether both sides are equal at 20 points.
fn identity(left: &Expression, right: &Expression) -> bool {
    let mut seed = 7_u64;
    (0..20).all(|_| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let point = seed;
        let value = |name: &str| Some(name.bytes().fold(point, |h, b| h.wrapping_mul(1_099_511_628_211) ^ u64::from(b)) >> 3);
        matches!((left.evaluate_mod(PRIMES[0], &value), right.evaluate_mod(PRIMES[0], &value)), (Ok(a), Ok(b)) if a == b)
    })
}

/// Checks equations modulo a number; see the module.
#[derive(Debug, Clone, Copy, Default)]
pub struct ModularVerifier {
    /// The modulus; none takes the one the question or a step names.
    pub modulus: Option<u64>,
}

impl Verifier for ModularVerifier {
    fn name(&self) -> &str {
        "modular"
    }

    fn version(&self) -> u32 {
        1
    }

    fn verify(&self, claim: &Claim) -> Verification {
        let mut findings = Findings::new(claim.steps.len());
        let modulus =
            self.modulus.or_else(|| named(claim.question)).or_else(|| claim.steps.iter().find_map(|s| named(s)));
        let Some(p) = modulus.filter(|p| (2..1 << 31).contains(p)) else { return findings.verification(self) };
        let mut system = System::new(p);
        let prime = (2..).take_while(|d| d * d <= p).all(|d| p % d != 0);
        for chain in &parse(claim.question).chains {
            if prime {
                for (left, right) in equations_mod(chain) {
                    let _ = system.state(left, right);
                }
            }
        }
        for (step, text) in claim.steps.iter().enumerate() {
            for chain in &parse(text).chains {
                for (left, right) in equations_mod(chain) {
                    let written = text.get(left.start..right.end).unwrap_or_default().trim();
                    let values = (left.evaluate_mod(p, &|_| None), right.evaluate_mod(p, &|_| None));
                    if let (Ok(a), Ok(b)) = values {
                        findings.add(step, a == b, format!("`{written}` mod {p}: left is {a}, right is {b}"));
                        continue;
                    }
                    match system.state(left, right).filter(|_| prime) {
                        Some(Standing::Follows) => findings.add(step, true, format!("`{written}` follows mod {p}")),
                        Some(Standing::Contradicts) => {
                            findings.add(
                                step,
                                false,
                                format!("`{written}` contradicts the equations before it mod {p}"),
                            );
                        }
                        _ => (),
                    }
                }
            }
        }
        findings.verification(self)
    }
}

fn equations_mod(chain: &Chain) -> impl Iterator<Item = (&Expression, &Expression)> {
    chain
        .sides
        .windows(2)
        .zip(&chain.relations)
        .filter(|(_, r)| matches!(r, Relation::Equal | Relation::Congruent))
        .filter_map(|(sides, _)| Some((sides[0].as_ref()?, sides[1].as_ref()?)))
}

/// The modulus a text names.
fn named(text: &str) -> Option<u64> {
    let at = ["mod", "模"].iter().filter_map(|word| text.find(word).map(|at| at + word.len())).min()?;
    let tail = text[at..].trim_start_matches("ulo").trim_start_matches(['{', ' ', '(', ')']);
    let digits: String = tail.chars().take_while(char::is_ascii_digit).take(10).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(verifier: &dyn Verifier, question: &str, steps: &[&str]) -> Option<usize> {
        let steps: Vec<String> = steps.iter().map(|s| (*s).to_owned()).collect();
        verifier.verify(&Claim { question, steps: &steps, answer: None, context: &[] }).first_wrong()
    }

    #[test]
    fn rearrangements() {
        let question = "Solve 2x + 3 = 7 and x + y = 5.";
        assert_eq!(wrong(&AlgebraVerifier, question, &["2x = 4", "x = 2", "y = 3"]), None);
        assert_eq!(wrong(&AlgebraVerifier, question, &["2x = 4", "x = 3", "y = 2"]), Some(1));
        assert_eq!(wrong(&AlgebraVerifier, "", &["x = 3y", "x - 3y = 0", "x - 3y = 1"]), Some(2));
        assert_eq!(wrong(&AlgebraVerifier, "", &["(x+1)^2 = x^2 + 2x + 1", "x = 2 or x = 3"]), None);
    }

    #[test]
    fn modulo_a_prime() {
        let question = "Solve modulo 7: 3x + 2y = 5, x + y = 3";
        assert_eq!(wrong(&ModularVerifier::default(), question, &["x = 3 - y", "x = 6", "y = 4"]), None);
        assert_eq!(wrong(&ModularVerifier::default(), question, &["x = 3 - y", "x = 5", "y = 4"]), Some(1));
        assert_eq!(wrong(&ModularVerifier { modulus: Some(11) }, "", &["5 * 9 = 45 = 1", "2 * 6 = 2"]), Some(1));
    }
}
