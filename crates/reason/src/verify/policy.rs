//! Rules a person writes for chains, in TOML.
//!
//! ```toml
//! [[rule]]
//! id = "no-guarantee"
//! must_not = '(?i)guaranteed'           # or: must = '…'; or: if = '…' and then = '…'
//! message = "no promise of returns"
//! severity = "error"                    # or "warning": shown, never a failure
//!
//! [[rule]]
//! id = "amount"
//! field = "loan.amount"                 # of an answer that is JSON
//! min = 0                               # and: max, one_of = ["a", "b"]
//! message = "an amount is positive"
//! ```
//!
//! `must_not` fails the step that matches. `must` and `then` look at the whole chain; when nothing matches,
//! `must` fails the last step and `then` the step that `if` matched (the first one, when the question did).

use std::path::Path;

use regex::Regex;
use serde::Deserialize;
use serde_json::Value;
use toml::Spanned;

use super::fault::{Fault, Faults, line_of};
use super::{Claim, Findings, Verification, Verifier};

/// Checks rules; see the module.
#[derive(Debug, Clone)]
pub struct PolicyVerifier {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone)]
struct Rule {
    id: String,
    message: String,
    warning: bool,
    condition: Condition,
}

#[derive(Debug, Clone)]
enum Condition {
    Must(Regex),
    MustNot(Regex),
    IfThen(Regex, Regex),
    Field { path: String, min: Option<f64>, max: Option<f64>, one_of: Option<Vec<String>> },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    rule: Vec<Spanned<Entry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    id: String,
    message: String,
    severity: Option<Spanned<String>>,
    must: Option<Spanned<String>>,
    must_not: Option<Spanned<String>>,
    r#if: Option<Spanned<String>>,
    then: Option<Spanned<String>>,
    field: Option<String>,
    min: Option<f64>,
    max: Option<f64>,
    one_of: Option<Vec<String>>,
}

impl PolicyVerifier {
    /// Reads a file of rules.
    ///
    /// # Errors
    /// All faults of the file, with their lines.
    pub fn read(path: &Path) -> Result<Self, Faults> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|e| Faults(vec![Fault { file: file.clone(), line: 1, text: format!("cannot be read: {e}") }]))?;
        Self::parse(&file, &text)
    }

    /// Reads rules; `file` names them in faults.
    ///
    /// # Errors
    /// All faults of the text, with their lines.
    pub fn parse(file: &str, text: &str) -> Result<Self, Faults> {
        let fault = |at: usize, what: String| Fault { file: file.to_owned(), line: line_of(text, at), text: what };
        let parsed: File = toml::from_str(text)
            .map_err(|e| Faults(vec![fault(e.span().map_or(0, |s| s.start), e.message().to_owned())]))?;
        let (mut rules, mut faults) = (Vec::new(), Vec::new());
        for entry in parsed.rule {
            let at = entry.span().start;
            let entry = entry.into_inner();
            let before = faults.len();
            let mut pattern = |p: &Spanned<String>| {
                Regex::new(p.get_ref())
                    .map_err(|e| faults.push(fault(p.span().start, format!("rule `{}`: {e}", entry.id))))
                    .ok()
            };
            let condition = match (&entry.must, &entry.must_not, &entry.r#if, &entry.then, &entry.field) {
                (Some(p), None, None, None, None) => pattern(p).map(Condition::Must),
                (None, Some(p), None, None, None) => pattern(p).map(Condition::MustNot),
                (None, None, Some(a), Some(b), None) => {
                    let (a, b) = (pattern(a), pattern(b));
                    a.zip(b).map(|(a, b)| Condition::IfThen(a, b))
                }
                (None, None, None, None, Some(path))
                    if entry.min.is_some() || entry.max.is_some() || entry.one_of.is_some() =>
                {
                    Some(Condition::Field {
                        path: path.clone(),
                        min: entry.min,
                        max: entry.max,
                        one_of: entry.one_of.clone(),
                    })
                }
                _ => None,
            };
            let warning = match entry.severity.as_ref().map(|s| (s.get_ref().as_str(), s.span().start)) {
                None | Some(("error", _)) => false,
                Some(("warning", _)) => true,
                Some((other, at)) => {
                    faults.push(fault(
                        at,
                        format!("rule `{}`: severity is `{other}`; expected `error` or `warning`", entry.id),
                    ));
                    false
                }
            };
            match condition {
                Some(condition) => rules.push(Rule { id: entry.id, message: entry.message, warning, condition }),
                None if faults.len() == before => faults.push(fault(
                    at,
                    format!("rule `{}`: expected exactly one of `must`, `must_not`, `if` with `then`, `field` with `min`, `max` or `one_of`", entry.id),
                )),
                None => (),
            }
        }
        if faults.is_empty() { Ok(Self { rules }) } else { Err(Faults(faults)) }
    }
}

impl Verifier for PolicyVerifier {
    fn name(&self) -> &str {
        "policy"
    }

    fn version(&self) -> u32 {
        1
    }

    fn verify(&self, claim: &Claim) -> Verification {
        let mut findings = Findings::new(claim.steps.len());
        let Some(last) = claim.steps.len().checked_sub(1) else { return findings.verification(self) };
        let answer: Option<Value> = claim.answer.and_then(|a| serde_json::from_str(&a.written).ok());
        for rule in &self.rules {
            let mut say = |step: usize, holds: bool| {
                let severity = if rule.warning && !holds { "warning: " } else { "" };
                findings.add(step, holds || rule.warning, format!("{severity}{}: {}", rule.id, rule.message));
            };
            let matching = |pattern: &Regex| claim.steps.iter().position(|s| pattern.is_match(s));
            match &rule.condition {
                Condition::Must(pattern) => say(matching(pattern).unwrap_or(last), matching(pattern).is_some()),
                Condition::MustNot(pattern) => {
                    claim
                        .steps
                        .iter()
                        .enumerate()
                        .filter(|(_, s)| pattern.is_match(s))
                        .for_each(|(step, _)| say(step, false));
                }
                Condition::IfThen(when, then) => {
                    if let Some(step) = matching(when).or(when.is_match(claim.question).then_some(0)) {
                        say(step, matching(then).is_some());
                    }
                }
                Condition::Field { path, min, max, one_of } => {
                    let Some(answer) = &answer else { continue };
                    let value = path.split('.').try_fold(answer, |value, key| value.get(key));
                    let holds = value.is_some_and(|value| {
                        let number = value.as_f64();
                        let bounded = |bound: &Option<f64>, ok: fn(f64, f64) -> bool| {
                            bound.is_none_or(|b| number.is_some_and(|n| ok(n, b)))
                        };
                        let listed = one_of
                            .as_ref()
                            .is_none_or(|all| value.as_str().is_some_and(|v| all.iter().any(|o| o == v)));
                        bounded(min, |n, b| n >= b) && bounded(max, |n, b| n <= b) && listed
                    });
                    say(last, holds);
                }
            }
        }
        findings.verification(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_and_their_faults() {
        let rules = "[[rule]]\nid = 'a'\nmust_not = '(?i)guaranteed'\nmessage = 'no promises'\n\
                     [[rule]]\nid = 'b'\nif = 'loan'\nthen = 'risk'\nmessage = 'name the risk'\n";
        let policy = PolicyVerifier::parse("p.toml", rules).unwrap();
        let first = |steps: &[&str]| {
            let steps: Vec<String> = steps.iter().map(|s| (*s).to_owned()).collect();
            policy.verify(&Claim { question: "", steps: &steps, answer: None, context: &[] }).first_wrong()
        };
        assert_eq!(first(&["a loan", "its risk"]), None);
        assert_eq!(first(&["hello", "a loan"]), Some(1));
        assert_eq!(first(&["hello", "a Guaranteed gain"]), Some(1));
        let bad = "[[rule]]\nid = 'a'\nmust = '('\nmessage = ''\n\n[[rule]]\nid = 'b'\nmessage = ''\n";
        let Faults(faults) = PolicyVerifier::parse("p.toml", bad).unwrap_err();
        assert_eq!(faults.iter().map(|f| f.line).collect::<Vec<_>>(), [3, 6]);
    }
}
