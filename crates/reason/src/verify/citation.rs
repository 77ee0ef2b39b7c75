//! Citations against the passages that were given.
//!
//! Method: `[id]` must name a passage (marks that are no id of the context and look like mathematics are left
//! alone: only letters, digits, `-`, `_`, `.` and a first letter or a number up to the count of passages);
//! quoted text of at least three words must stand in a cited passage, or in any when none is cited, after
//! NFKC, lower case and single spaces; numbers of a sentence that cites must stand in a cited passage.

use std::sync::LazyLock;

use regex::Regex;
use unicode_normalization::UnicodeNormalization as _;

use super::{Claim, Findings, Passage, Verification, Verifier};

/// Checks citations; see the module.
#[derive(Debug, Clone, Copy, Default)]
pub struct CitationVerifier;

static ID: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\[([A-Za-z0-9][\w.\-]{0,40})\]").expect("a valid pattern"));
static QUOTE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new("\"([^\"\n]{6,600})\"|“([^”\n]{4,600})”|「([^」\n]{4,600})」").expect("a valid pattern")
});
static NUMBER: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\d+(?:,\d{3})*(?:\.\d+)?").expect("a valid pattern"));

impl Verifier for CitationVerifier {
    fn name(&self) -> &str {
        "citation"
    }

    fn version(&self) -> u32 {
        1
    }

    fn verify(&self, claim: &Claim) -> Verification {
        let mut findings = Findings::new(claim.steps.len());
        if claim.context.is_empty() {
            return findings.verification(self);
        }
        let texts: Vec<String> = claim.context.iter().map(|p| folded(&p.text)).collect();
        for (step, text) in claim.steps.iter().enumerate() {
            let mut cited: Vec<usize> = Vec::new();
            for found in ID.captures_iter(text) {
                match claim.context.iter().position(|p| p.id == found[1]) {
                    Some(n) => {
                        cited.push(n);
                        findings.add(step, true, format!("[{}] is a passage", &found[1]));
                    }
                    None if alike(&found[1], claim.context) => {
                        findings.add(step, false, format!("[{}] is no passage of the context", &found[1]))
                    }
                    None => (),
                }
            }
            let search = |what: &str| {
                let all = cited.is_empty();
                texts.iter().enumerate().any(|(n, t)| (all || cited.contains(&n)) && t.contains(what))
            };
            for found in QUOTE.captures_iter(text) {
                let quote = found.iter().skip(1).flatten().next().map_or("", |m| m.as_str());
                let folded = folded(quote);
                let long = folded.split(' ').count() >= 3 || folded.chars().filter(|c| *c > '\u{2e80}').count() >= 4;
                if long {
                    let folded = folded.trim_end_matches(['.', ',', '。', '，']);
                    findings.add(step, search(folded), format!("quotation \"{}\" in the passages", short(quote)));
                }
            }
            if !cited.is_empty() {
                let plain = ID.replace_all(text, " ");
                for number in NUMBER.find_iter(&plain).map(|m| m.as_str().replace(',', "")) {
                    let stands = cited
                        .iter()
                        .any(|n| NUMBER.find_iter(&texts[*n]).any(|m| m.as_str().replace(',', "") == number));
                    findings.add(step, stands, format!("{number} stands in a cited passage"));
                }
            }
        }
        findings.verification(self)
    }
}

/// Whether a mark is written like the ids of the context.
fn alike(mark: &str, context: &[Passage]) -> bool {
    let shape =
        |id: &str| id.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect::<String>().replace("00", "0");
    context.iter().any(|p| shape(&p.id) == shape(mark))
}

fn folded(text: &str) -> String {
    let plain: String = text
        .nfkc()
        .map(|c| {
            if "“”„\"".contains(c) {
                '"'
            } else if "‘’".contains(c) {
                '\''
            } else {
                c
            }
        })
        .collect();
    plain.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn short(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_ids_and_numbers() {
        let context = [
            Passage { id: "d1".into(), text: "The rate was 4.5 percent\nin March 2020.".into() },
            Passage { id: "d2".into(), text: "利率为百分之四，期限为三年。".into() },
        ];
        let wrong = |step: &str| {
            let steps = [step.to_owned()];
            CitationVerifier
                .verify(&Claim { question: "", steps: &steps, answer: None, context: &context })
                .first_wrong()
                .is_some()
        };
        assert!(!wrong("It says \"the rate was 4.5 percent in March 2020\" [d1]."));
        assert!(!wrong("原文「期限为三年」[d2]"));
        assert!(
            wrong("It says \"the rate was 4.6 percent\" [d1].")
                && wrong("See [d3].")
                && wrong("The rate was 5 percent [d1].")
        );
        assert!(wrong("It says \"the rate was 4.5 percent\" [d2]."));
        assert!(!wrong("x[i] + y[j] is a sum"));
    }
}
