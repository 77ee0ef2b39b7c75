//! Stack traces of bracket words (Dyck languages), as in BIG-Bench-Mistake.
//!
//! Method: a stack machine walks beside the chain. `[ ; stack: { [` must read the question's next symbol and
//! leave the stack it says; the final stack, the symbols to pop and the closing brackets must follow from it.
//! After a wrong step the machine goes on from what the step claimed, so each step is judged for itself.

use std::sync::LazyLock;

use regex::Regex;

use super::{Claim, Findings, Verification, Verifier};

/// Checks bracket stacks; see the module.
#[derive(Debug, Clone, Copy, Default)]
pub struct BracketVerifier;

static READS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^\s*([\[\](){}<>])\s*;\s*stack:\s*(empty|[\[\](){}<>\s]*)(.*)$").expect("a valid pattern")
});

const ANSWER: &str = "answer is";

impl Verifier for BracketVerifier {
    fn name(&self) -> &str {
        "brackets"
    }

    fn version(&self) -> u32 {
        1
    }

    fn verify(&self, claim: &Claim) -> Verification {
        let mut findings = Findings::new(claim.steps.len());
        if claim.steps.iter().any(|step| READS.is_match(step)) {
            Machine { word: word(claim.question), ..Machine::default() }.run(claim.steps, &mut findings);
        }
        findings.verification(self)
    }
}

#[derive(Default)]
struct Machine {
    /// The question's symbols; empty when there is none.
    word: Vec<char>,
    read: usize,
    stack: Vec<char>,
}

impl Machine {
    fn run(mut self, steps: &[String], findings: &mut Findings) {
        for (step, text) in steps.iter().enumerate() {
            if let Some(found) = READS.captures(text) {
                let symbol = found[1].chars().next().expect("one symbol");
                self.symbol(step, symbol, &symbols(&found[2]), findings);
                self.answer(step, &found[3], findings);
                continue;
            }
            let lower = text.to_lowercase();
            let statement = lower.find(ANSWER).map_or(text.as_str(), |at| text.get(..at).unwrap_or(text));
            let claimed = symbols(statement);
            if lower.contains("final stack") {
                let all = self.word.is_empty() || self.read == self.word.len();
                findings.add(step, all, format!("{} of {} symbols were read", self.read, self.word.len()));
                findings.add(
                    step,
                    claimed == self.stack,
                    format!("final stack `{}`, written `{}`", line(&self.stack), line(&claimed)),
                );
                self.stack = claimed;
            } else if lower.contains("stack:") && self.read == 0 && claimed.is_empty() {
                findings.add(step, true, "the stack is empty at the start".to_owned());
            } else if lower.contains("pop out") && !claimed.is_empty() {
                let order: Vec<char> = self.stack.iter().rev().copied().collect();
                findings.add(
                    step,
                    claimed == order,
                    format!("to pop `{}`, written `{}`", line(&order), line(&claimed)),
                );
            } else if lower.contains("we need") && !claimed.is_empty() {
                let closing = self.closing();
                findings.add(
                    step,
                    claimed == closing,
                    format!("needed `{}`, written `{}`", line(&closing), line(&claimed)),
                );
            }
            self.answer(step, text, findings);
        }
    }

    fn symbol(&mut self, step: usize, symbol: char, claimed: &[char], findings: &mut Findings) {
        if !self.word.is_empty() {
            let expected = self.word.get(self.read);
            let shown = expected.map_or("the end".to_owned(), |c| format!("`{c}`"));
            findings.add(
                step,
                expected == Some(&symbol),
                format!("symbol {} is {shown}, written `{symbol}`", self.read + 1),
            );
        }
        self.read += 1;
        let mut stack = std::mem::take(&mut self.stack);
        match partner(symbol) {
            None => stack.push(symbol),
            Some(open) if stack.last() == Some(&open) => drop(stack.pop()),
            Some(open) => findings.add(step, false, format!("`{symbol}` needs `{open}` on top of `{}`", line(&stack))),
        }
        findings.add(step, stack == claimed, format!("stack `{}`, written `{}`", line(&stack), line(claimed)));
        self.stack = claimed.to_vec();
    }

    fn answer(&self, step: usize, text: &str, findings: &mut Findings) {
        let lower = text.to_lowercase();
        let Some(tail) = lower.rfind(ANSWER).and_then(|at| text.get(at + ANSWER.len()..)) else { return };
        let (closing, claimed) = (self.closing(), symbols(tail));
        findings.add(step, closing == claimed, format!("answer `{}`, written `{}`", line(&closing), line(&claimed)));
    }

    fn closing(&self) -> Vec<char> {
        self.stack.iter().rev().map(|open| closer(*open)).collect()
    }
}

/// The opening bracket of a closing one.
fn partner(symbol: char) -> Option<char> {
    Some(match symbol {
        ')' => '(',
        ']' => '[',
        '}' => '{',
        '>' => '<',
        _ => return None,
    })
}

fn closer(open: char) -> char {
    match open {
        '(' => ')',
        '[' => ']',
        '{' => '}',
        _ => '>',
    }
}

fn symbols(text: &str) -> Vec<char> {
    text.chars().filter(|c| "[](){}<>".contains(*c)).collect()
}

fn line(symbols: &[char]) -> String {
    if symbols.is_empty() {
        return "empty".to_owned();
    }
    symbols.iter().map(char::to_string).collect::<Vec<_>>().join(" ")
}

/// The longest run of brackets and white space in a question.
fn word(question: &str) -> Vec<char> {
    let runs = question.split(|c: char| !(c.is_whitespace() || "[](){}<>".contains(c)));
    runs.map(symbols).max_by_key(Vec::len).unwrap_or_default()
}
