//! Units that are added and quantities with a range.
//!
//! Method: a sum whose terms carry units of different dimensions (`3 kg + 4 m`) fails. A range is a pattern
//! whose first group is a number, with a smallest and a largest value; the built-in ones hold probabilities
//! and ages, and a file in TOML adds others:
//!
//! ```toml
//! [[range]]
//! name = "dose"
//! pattern = 'dose (?:is|of) (-?[\d.]+) mg'
//! min = 0
//! max = 500
//! ```

use std::path::Path;

use regex::Regex;
use serde::Deserialize;
use toml::Spanned;

use super::expression::token::Operator;
use super::expression::{Code, parse};
use super::fault::{Fault, Faults, line_of};
use super::units::dimensions;
use super::{Claim, Findings, Verification, Verifier};

/// Checks units and ranges; see the module.
#[derive(Debug, Clone)]
pub struct RangeVerifier {
    ranges: Vec<Range>,
}

#[derive(Debug, Clone)]
struct Range {
    name: String,
    pattern: Regex,
    min: f64,
    max: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    range: Vec<Spanned<Entry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    pattern: String,
    min: Option<f64>,
    max: Option<f64>,
}

const BUILT_IN: &str = r"
[[range]]
name = 'probability'
pattern = '(?i)(?:probability|概率)[^.=。]{0,40}?(?:is|=|为|是)\s*(-?\d+(?:\.\d+)?)(?:[.,;，。]?\s|[.,;，。]?$)'
min = 0
max = 1

[[range]]
name = 'probability in percent'
pattern = '(?i)(?:probability|概率)[^.=。]{0,40}?(?:is|=|为|是)\s*(-?\d+(?:\.\d+)?)\s*\\?%'
min = 0
max = 100

[[range]]
name = 'age'
pattern = '(?i)(?:\bis|\bare|=)\s*(-?\d+(?:\.\d+)?) years old'
min = 0
max = 150
";

impl Default for RangeVerifier {
    fn default() -> Self {
        Self { ranges: ranges("built-in", BUILT_IN).expect("the built-in ranges are right") }
    }
}

impl RangeVerifier {
    /// The built-in ranges and those of a file.
    ///
    /// # Errors
    /// All faults of the file, with their lines.
    pub fn with_file(path: &Path) -> Result<Self, Faults> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|e| Faults(vec![Fault { file: file.clone(), line: 1, text: format!("cannot be read: {e}") }]))?;
        let mut all = Self::default();
        all.ranges.extend(ranges(&file, &text)?);
        Ok(all)
    }
}

fn ranges(file: &str, text: &str) -> Result<Vec<Range>, Faults> {
    let fault = |at: usize, what: String| Fault { file: file.to_owned(), line: line_of(text, at), text: what };
    let parsed: File = toml::from_str(text)
        .map_err(|e| Faults(vec![fault(e.span().map_or(0, |s| s.start), e.message().to_owned())]))?;
    let (mut ranges, mut faults) = (Vec::new(), Vec::new());
    for entry in parsed.range {
        let at = entry.span().start;
        let Entry { name, pattern, min, max } = entry.into_inner();
        let (min, max) = (min.unwrap_or(f64::NEG_INFINITY), max.unwrap_or(f64::INFINITY));
        if min > max {
            faults.push(fault(at, format!("range `{name}`: min {min} is above max {max}")));
        }
        match Regex::new(&pattern) {
            Ok(pattern) if pattern.captures_len() < 2 => {
                faults.push(fault(at, format!("range `{name}`: the pattern has no group around the number")));
            }
            Ok(pattern) => ranges.push(Range { name, pattern, min, max }),
            Err(e) => faults.push(fault(at, format!("range `{name}`: the pattern is wrong: {e}"))),
        }
    }
    if faults.is_empty() { Ok(ranges) } else { Err(Faults(faults)) }
}

impl Verifier for RangeVerifier {
    fn name(&self) -> &str {
        "range"
    }

    fn version(&self) -> u32 {
        1
    }

    fn verify(&self, claim: &Claim) -> Verification {
        let mut findings = Findings::new(claim.steps.len());
        for (step, text) in claim.steps.iter().enumerate() {
            for range in &self.ranges {
                for found in range.pattern.captures_iter(text) {
                    let Some(number) = found.get(1).and_then(|m| m.as_str().replace(',', "").parse::<f64>().ok())
                    else {
                        continue;
                    };
                    let holds = (range.min..=range.max).contains(&number);
                    findings.add(step, holds, format!("{} {number} in {} to {}", range.name, range.min, range.max));
                }
            }
            let parsed = parse(text);
            let sides = parsed.chains.iter().flat_map(|c| c.sides.iter().flatten()).chain(&parsed.loose);
            for side in sides {
                let sums = side
                    .code
                    .iter()
                    .all(|c| !matches!(c, Code::Binary(Operator::Multiply | Operator::Divide | Operator::Power)));
                let kinds = dimensions(&side.units);
                if sums && side.computes() && side.units.len() > 1 && kinds.len() > 1 {
                    findings.add(step, false, format!("`{}` adds different dimensions", &text[side.start..side.end]));
                }
            }
        }
        findings.verification(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(step: &str) -> bool {
        let steps = [step.to_owned()];
        RangeVerifier::default()
            .verify(&Claim { question: "", steps: &steps, answer: None, context: &[] })
            .first_wrong()
            .is_some()
    }

    #[test]
    fn probabilities_ages_and_dimensions() {
        assert!(
            wrong("The probability of rain is 1.2 today.")
                && wrong("概率是 1.5。")
                && wrong("The probability is 120%.")
        );
        assert!(!wrong("The probability of rain is 0.2.") && !wrong("The probability is 20%."));
        assert!(wrong("He is -3 years old") && !wrong("She is 30 years old"));
        assert!(wrong("3 kg + 4 feet = 7") && !wrong("3 kg + 400 grams = 3.4 kg"));
    }

    #[test]
    fn every_fault_of_a_file_has_its_line() {
        let text = "[[range]]\nname = 'a'\npattern = '('\n\n[[range]]\nname = 'b'\npattern = 'x'\nmin = 2\nmax = 1\n";
        let Faults(faults) = ranges("r.toml", text).unwrap_err();
        assert_eq!(faults.iter().map(|f| f.line).collect::<Vec<_>>(), [1, 5, 5]);
    }
}
