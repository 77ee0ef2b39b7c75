//! Words sorted letter by letter, as in BIG-Bench-Mistake's word sorting.
//!
//! Method: `"oven": "o" (15)` states a letter of a word and its place in the alphabet; `(3) ["costume" ?
//! "cord"] < (15) "oven"` states groups by that place; `"a" < ["b" ? "c"] < "d"` states an order, with words
//! in brackets not yet ordered among themselves. Letters are compared with the words, places with the
//! alphabet, groups and orders with the alphabet's order; each list must hold its words once: those of the
//! first list, or those of the part that is being sorted. Parts are sorted from the left: the next one is the
//! first that is still open, a sorted one is written in order, and nothing may be open at the end. Words
//! copied wrongly from the question are found at the end, where the answer is compared with the question.

use std::sync::LazyLock;

use regex::Regex;

use super::{Claim, Findings, Verification, Verifier};

/// Checks sorting by letters; see the module.
#[derive(Debug, Clone, Copy, Default)]
pub struct SortingVerifier;

static LETTER: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r#""([^"]{1,60})":\s*"(.)"\s*\((\d{1,2})\)"#).expect("a valid pattern"));
static ORDINAL: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(?i)the (\w+) letter").expect("a valid pattern"));
static ITEM: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r#"\((\d{1,2})\)|"([^"]{1,60})"|([\[\]<=?])"#).expect("a valid pattern"));

const ORDINALS: [&str; 12] = [
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh",
    "twelfth",
];

impl Verifier for SortingVerifier {
    fn name(&self) -> &str {
        "sorting"
    }

    fn version(&self) -> u32 {
        1
    }

    fn verify(&self, claim: &Claim) -> Verification {
        let mut findings = Findings::new(claim.steps.len());
        if claim.steps.iter().any(|step| LETTER.is_match(step)) {
            let mut state = State { asked: words(claim.question), ..State::default() };
            for (step, text) in claim.steps.iter().enumerate() {
                state.step(step, text, &mut findings);
            }
        }
        findings.verification(self)
    }
}

#[derive(Default)]
struct State {
    /// The question's words, sorted.
    asked: Vec<String>,
    /// The words of the first list, sorted.
    words: Vec<String>,
    /// Parts that are still open, from the left, each sorted; none before the first grouping.
    open: Option<Vec<Vec<String>>>,
    /// The words being sorted, sorted.
    part: Vec<String>,
    /// Index of the letter that is looked at.
    place: usize,
}

/// Words that stand in one place of an order, and the number before them.
type Group = (Option<usize>, Vec<String>);

impl State {
    fn step(&mut self, step: usize, text: &str, findings: &mut Findings) {
        if let Some(at) = text.find("subpart [") {
            let end = text[at..].find(']').map_or(text.len(), |n| at + n + 1);
            let mut part: Vec<String> = groups(&text[at..end]).into_iter().flat_map(|(_, words)| words).collect();
            part.sort();
            if let Some(open) = &mut self.open {
                let next = if open.is_empty() { None } else { Some(open.remove(0)) };
                let shown = next.as_ref().map_or("none".to_owned(), |words| words.join(" "));
                findings.add(step, next.as_ref() == Some(&part), format!("the part to sort next: {shown}"));
            }
            self.part = part;
        }
        if LETTER.is_match(text) {
            self.letters(step, text, findings);
        }
        let (have, hence) = (text.find("now have"), text.find("Hence"));
        if let Some(at) = have {
            let end = hence.filter(|h| *h > at).unwrap_or(text.len());
            let groups = groups(&text[at..end]);
            self.order(step, &groups, &self.part, true, findings);
            let mut open = unsorted(&groups);
            open.extend(self.open.take().unwrap_or_default());
            self.open = Some(open);
        }
        if let Some(at) = hence {
            let groups = groups(&text[at..]);
            self.order(step, &groups, &self.words, false, findings);
            if let Some(open) = &self.open {
                let left: Vec<String> = open.iter().map(|words| words.join(" ")).collect();
                findings.add(step, unsorted(&groups) == *open, format!("still to sort: {}", left.join(", ")));
            }
        }
        if let Some(at) = text.find("answer is") {
            let written = ordered(&text[at + "answer is".len()..]);
            let open = self.open.as_ref().is_some_and(|open| !open.is_empty());
            findings.add(step, !open, "every part is sorted".to_owned());
            if !self.asked.is_empty() {
                let mut answer = written.clone();
                answer.sort();
                let sorted = written.is_sorted() && answer == self.asked;
                findings.add(step, sorted, format!("sorted: {}", self.asked.join(" ")));
            }
        }
    }

    fn letters(&mut self, step: usize, text: &str, findings: &mut Findings) {
        let ordinal = ORDINAL.captures_iter(text).last().map(|c| c[1].to_lowercase());
        if let Some(place) = ordinal.and_then(|o| ORDINALS.iter().position(|have| *have == o)) {
            self.place = place;
        }
        let mut seen = Vec::new();
        for found in LETTER.captures_iter(text) {
            let (word, letter) = (found[1].to_lowercase(), found[2].to_lowercase());
            let truth = word.chars().nth(self.place).map(String::from).unwrap_or_default();
            findings.add(
                step,
                truth == letter,
                format!("letter {} of `{word}` is `{truth}`, written `{letter}`", self.place + 1),
            );
            let index = letter.bytes().next().map_or(0, |b| usize::from(b.saturating_sub(b'a')) + 1);
            findings.add(
                step,
                found[3].parse() == Ok(index),
                format!("`{letter}` is letter {index}, written {}", &found[3]),
            );
            seen.push(word);
        }
        seen.sort();
        if self.words.is_empty() {
            self.words.clone_from(&seen);
            self.part = seen;
        } else {
            findings.add(step, seen == self.part, format!("the words are {}", self.part.join(" ")));
        }
    }

    fn order(&self, step: usize, groups: &[Group], expected: &[String], numbered: bool, findings: &mut Findings) {
        if groups.is_empty() {
            return;
        }
        let mut listed: Vec<String> = groups.iter().flat_map(|(_, words)| words.iter().cloned()).collect();
        for pair in groups.windows(2) {
            if let (Some(last), Some(first)) = (pair[0].1.iter().max(), pair[1].1.iter().min()) {
                findings.add(step, last <= first, format!("`{last}` < `{first}`"));
            }
        }
        for (number, words) in groups {
            let Some(number) = number.filter(|_| numbered) else { continue };
            for word in words {
                let index = word.as_bytes().get(self.place).map_or(0, |b| usize::from(b.saturating_sub(b'a')) + 1);
                findings.add(
                    step,
                    index == number,
                    format!("letter {} of `{word}` is number {index}, written {number}", self.place + 1),
                );
            }
        }
        listed.sort();
        if !expected.is_empty() {
            findings.add(step, listed == expected, format!("the words are {}", expected.join(" ")));
        }
    }
}

/// Groups of several words, each sorted.
fn unsorted(groups: &[Group]) -> Vec<Vec<String>> {
    let mut open: Vec<Vec<String>> =
        groups.iter().filter(|(_, words)| words.len() > 1).map(|(_, words)| words.clone()).collect();
    open.iter_mut().for_each(|words| words.sort());
    open
}

/// Groups of a written order.
fn groups(text: &str) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let (mut number, mut inside) = (None, false);
    for found in ITEM.captures_iter(text) {
        if let Some(n) = found.get(1) {
            number = n.as_str().parse().ok();
        } else if let Some(word) = found.get(2) {
            let word = word.as_str().to_lowercase();
            match groups.last_mut() {
                Some((_, words)) if inside => words.push(word),
                _ => groups.push((number.take(), vec![word])),
            }
        } else {
            match &found[3] {
                "[" => {
                    groups.push((number.take(), Vec::new()));
                    inside = true;
                }
                "?" if !groups.is_empty() => inside = true,
                "]" | "<" => inside = false,
                _ => (),
            }
        }
    }
    groups.retain(|(_, words)| !words.is_empty());
    groups
}

/// Words of a question or an answer, as written.
fn ordered(text: &str) -> Vec<String> {
    let text = text.rsplit_once("List:").map_or(text, |(_, tail)| tail);
    text.split(|c: char| c.is_whitespace() || c == ',')
        .map(|w| w.trim_matches(['.', '"', '\'', ':']).to_lowercase())
        .filter(|w| !w.is_empty())
        .collect()
}

fn words(text: &str) -> Vec<String> {
    let mut words = ordered(text);
    words.sort();
    words
}
