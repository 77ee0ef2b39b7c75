//! Letters of words and their concatenation.
//!
//! Method: statements `the last letter of "Amy" is "y"` (first, second, …, last; `“Amy”的最后一个字母是“y”`)
//! are compared with the word; the words must be the question's, in its order; the concatenation and the
//! answer must be the letters stated so far.

use std::sync::LazyLock;

use regex::Regex;

use super::{Claim, Findings, Verification, Verifier};

/// Checks letters; see the module.
#[derive(Debug, Clone, Copy, Default)]
pub struct LetterVerifier;

const QUOTE: &str = "[\"'“”‘’「」`]";

static LETTER: LazyLock<Regex> = LazyLock::new(|| {
    let q = QUOTE;
    Regex::new(&format!(
        "(?i)(first|second|third|fourth|last)\\s+letter\\s+(?:of|in)\\s+(?:the\\s+word\\s+)?{q}?([\\p{{L}}\\-]+){q}?\\s+is\\s+{q}?(\\p{{L}}){q}?(?:[^\\p{{L}}]|$)\
         |{q}(\\p{{L}}+){q}的(最后|第一|第二|第三)个?字母是{q}?(\\p{{L}}){q}?|{q}(\\p{{L}}+){q}的(最后)一个字母是{q}?(\\p{{L}}){q}?"
    ))
    .expect("a valid pattern")
});
static JOINED: LazyLock<Regex> = LazyLock::new(|| {
    let q = QUOTE;
    Regex::new(&format!(
        "(?i)(?:concatenat\\w*|put(?:ting)?\\s+(?:them|these|the letters)\\s+together|join\\w*)[^.:\"“'`]*?(?:is|are|gives(?:\\s+us)?|get|makes|results\\s+in|:)\\s*:?\\s*{q}(\\p{{L}}+){q}\
         |(?:answer\\s+is)\\s*:?\\s*{q}?(\\p{{L}}+){q}?|(?:连接|拼接|连起来)[^“\"。]*{q}(\\p{{L}}+){q}|答案(?:是|为)[:：]?\\s*{q}?([A-Za-z]+){q}?"
    ))
    .expect("a valid pattern")
});
static QUESTION: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new("(?i)(?:letters?|字母).*?[\"“]([^\"”]+)[\"”]|[\"“]([^\"”]+)[\"”].*?(?:letters?|字母)")
        .expect("a valid pattern")
});

impl Verifier for LetterVerifier {
    fn name(&self) -> &str {
        "letters"
    }

    fn version(&self) -> u32 {
        1
    }

    fn verify(&self, claim: &Claim) -> Verification {
        let mut findings = Findings::new(claim.steps.len());
        if !claim.steps.iter().any(|step| LETTER.is_match(step)) {
            return findings.verification(self);
        }
        let words: Vec<String> = QUESTION
            .captures(claim.question)
            .and_then(|c| c.get(1).or(c.get(2)))
            .map(|m| m.as_str().split_whitespace().map(str::to_lowercase).collect())
            .unwrap_or_default();
        let mut letters = String::new();
        let mut place = 0;
        for (step, text) in claim.steps.iter().enumerate() {
            for found in LETTER.captures_iter(text) {
                let part = |n: usize| found.get(n).map(|m| m.as_str().to_lowercase());
                let (ordinal, word, letter) = match (part(1), part(5), part(8)) {
                    (Some(ordinal), ..) => (ordinal, part(2), part(3)),
                    (_, Some(ordinal), _) => (ordinal, part(4), part(6)),
                    (.., ordinal) => (ordinal.unwrap_or_default(), part(7), part(9)),
                };
                let (Some(word), Some(letter)) = (word, letter) else { continue };
                let truth = nth(&word, &ordinal).map(String::from).unwrap_or_default();
                findings.add(
                    step,
                    truth == letter,
                    format!("the {ordinal} letter of `{word}` is `{truth}`, written `{letter}`"),
                );
                if let Some(expected) = words.get(place) {
                    findings.add(
                        step,
                        *expected == word,
                        format!("word {} is `{expected}`, written `{word}`", place + 1),
                    );
                }
                place += 1;
                letters.push_str(&letter);
            }
            for found in JOINED.captures_iter(text) {
                let written =
                    found.iter().skip(1).flatten().next().map(|m| m.as_str().to_lowercase()).unwrap_or_default();
                let all = words.is_empty() || words.len() == place;
                findings.add(step, all, format!("{place} of {} words were read", words.len()));
                findings.add(step, written == letters, format!("the letters are `{letters}`, written `{written}`"));
            }
        }
        findings.verification(self)
    }
}

fn nth(word: &str, ordinal: &str) -> Option<char> {
    match ordinal {
        "last" | "最后" => word.chars().next_back(),
        "first" | "第一" => word.chars().next(),
        "second" | "第二" => word.chars().nth(1),
        "third" | "第三" => word.chars().nth(2),
        _ => word.chars().nth(3),
    }
}
