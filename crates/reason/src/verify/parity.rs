//! Chains of exclusive or: `p2 = p1 ⊕ b2 = 1 ⊕ 0 = 1`.
//!
//! Method: names get the bits the question and earlier steps give them (`b2 = 0`); every side of a chain is
//! the exclusive or of its names and bits, and neighbours must agree. `xor`, `⊕`, `^` and `异或` mean the
//! same; the verifier looks at chains only when one of the first three words stands in a step.

use std::collections::HashMap;

use super::{Claim, Findings, Verification, Verifier};

/// Checks exclusive or; see the module.
#[derive(Debug, Clone, Copy, Default)]
pub struct ParityVerifier;

impl Verifier for ParityVerifier {
    fn name(&self) -> &str {
        "parity"
    }

    fn version(&self) -> u32 {
        1
    }

    fn verify(&self, claim: &Claim) -> Verification {
        let mut findings = Findings::new(claim.steps.len());
        if !claim.steps.iter().any(|s| s.contains('⊕') || s.contains("异或") || s.to_lowercase().contains("xor")) {
            return findings.verification(self);
        }
        let mut bits: HashMap<String, bool> = HashMap::new();
        for part in claim.question.split([',', ';', '\n', '，', '；', '.', '。', ' ']) {
            chain(part, &mut bits, &mut |_, _| ());
        }
        for (step, text) in claim.steps.iter().enumerate() {
            for part in text.split([',', ';', '\n', '，', '；', '.', '。']) {
                chain(part, &mut bits, &mut |holds, evidence| findings.add(step, holds, evidence));
            }
        }
        findings.verification(self)
    }
}

/// Reads one chain: compares its sides and gives the name it begins with its last bit.
fn chain(text: &str, bits: &mut HashMap<String, bool>, found: &mut dyn FnMut(bool, String)) {
    let sides: Vec<&str> = text.split('=').collect();
    if sides.len() < 2 {
        return;
    }
    let values: Vec<Option<bool>> = sides.iter().map(|side| value(side, bits)).collect();
    let name = sides[0]
        .split_whitespace()
        .last()
        .filter(|n| n.chars().all(char::is_alphanumeric) && n.parse::<u64>().is_err());
    for n in 1..sides.len() {
        if n == 1
            && name.is_some()
            && sides[0].split_whitespace().count() == 1
            && !bits.contains_key(name.unwrap_or_default())
        {
            continue;
        }
        if let (Some(a), Some(b)) = (values[n - 1], values[n]) {
            let written = format!("`{} = {}`", sides[n - 1].trim(), sides[n].trim());
            found(a == b, format!("{written}: left is {}, right is {}", u8::from(a), u8::from(b)));
        }
    }
    if let (Some(name), Some(bit)) = (name, values[1..].iter().rev().flatten().next()) {
        bits.insert(name.to_owned(), *bit);
    }
}

/// The bit of a side; none when a part of it is neither a bit nor a known name.
fn value(side: &str, bits: &HashMap<String, bool>) -> Option<bool> {
    let side = side.replace("异或", "⊕").replace("xor", "⊕").replace("XOR", "⊕").replace('^', "⊕");
    side.split('⊕').try_fold(false, |sum, part| {
        let bit = match part.split_whitespace().last()?.trim_matches(['(', ')', '$', '"']) {
            "0" => false,
            "1" => true,
            name => *bits.get(name)?,
        };
        Some(sum ^ bit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_parity() {
        let wrong = |steps: &[&str]| {
            let steps: Vec<String> = steps.iter().map(|s| (*s).to_owned()).collect();
            let question = "b1=1, b2=0, b3=1";
            ParityVerifier.verify(&Claim { question, steps: &steps, answer: None, context: &[] }).first_wrong()
        };
        assert_eq!(wrong(&["p1 = b1 = 1", "p2 = p1 ⊕ b2 = 1 ⊕ 0 = 1", "p3 = p2 xor b3 = 1 xor 1 = 0"]), None);
        assert_eq!(wrong(&["p1 = b1 = 1", "p2 = p1 ⊕ b2 = 1 ⊕ 0 = 0", "p3 = p2 xor b3 = 0"]), Some(1));
        assert_eq!(wrong(&["p1 = b1 = 1", "p2 = p1 ⊕ b2 = 1 ⊕ 1 = 0"]), Some(1));
    }
}
