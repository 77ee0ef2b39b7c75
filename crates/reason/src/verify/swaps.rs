//! Who holds what after a number of swaps, as in BIG-Bench-Mistake's tracking of shuffled objects.
//!
//! Method: the question gives who holds what (`Alice gets Ulysses`, `Bob is dancing with Karl`) and the
//! swaps in order. A step that names a swap must name the next one; what it says of a person (`Alice: Ulysses`
//! or `A: Ulysses`, `Alice has the red ball`) is compared with the true holder after it. Objects agree when the
//! words of the written one are words of the true one and of no other (`Gatsby` for `The Great Gatsby`). A
//! person left out is no mistake. The option of the answer must be what the question asks for.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::Regex;

use super::{Claim, Findings, Verification, Verifier};

/// Checks swapped objects; see the module.
#[derive(Debug, Clone, Copy, Default)]
pub struct SwapVerifier;

const HOLDS: &str = r"(?:gets|has the|has an|has a|has|is holding an?|is playing|is dancing with)";

static HOLDING: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(&format!(r"\b([A-Z]\w*) {HOLDS} ([^,.:;\n]+)")).expect("a valid pattern"));
static SWAP: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\b([A-Z]\w*) and ([A-Z]\w*) (?:then )?(?:swap|switch|trade|exchange)").expect("a valid pattern")
});
static STATED: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(&format!(r"\b([A-Z]\w*)(?::| {HOLDS}) ([^,.:;\n]+)")).expect("a valid pattern"));
static OPTION: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\(([A-Z])\)\s*([^\n(]+)").expect("a valid pattern"));
static ANSWER: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"answer is \(([A-Z])\)").expect("a valid pattern"));

impl Verifier for SwapVerifier {
    fn name(&self) -> &str {
        "swaps"
    }

    fn version(&self) -> u32 {
        1
    }

    fn verify(&self, claim: &Claim) -> Verification {
        let mut findings = Findings::new(claim.steps.len());
        if let Some(puzzle) = Puzzle::read(claim.question) {
            puzzle.run(claim.steps, &mut findings);
        }
        findings.verification(self)
    }
}

struct Puzzle {
    people: Vec<String>,
    /// Object of each person at the start.
    objects: Vec<String>,
    /// Indices of the people who swap, in order.
    swaps: Vec<(usize, usize)>,
    options: HashMap<char, String>,
    /// Whose object is asked for.
    asked: Option<usize>,
}

impl Puzzle {
    fn read(question: &str) -> Option<Self> {
        let (story, options) = question.split_once("Options").unwrap_or((question, ""));
        let first = SWAP.find(story)?.start();
        let mut people: Vec<String> = Vec::new();
        let mut objects = Vec::new();
        for found in HOLDING.captures_iter(&story[..first]) {
            if !people.contains(&found[1].to_owned()) {
                people.push(found[1].to_owned());
                objects.push(found[2].trim().to_owned());
            }
        }
        let index = |name: &str| people.iter().position(|p| p == name);
        let swaps: Option<Vec<_>> = SWAP.captures_iter(story).map(|c| Some((index(&c[1])?, index(&c[2])?))).collect();
        let asked = story
            .trim_end()
            .rsplit(['.', '\n'])
            .next()
            .and_then(|last| people.iter().position(|p| last.contains(p.as_str())));
        let options = OPTION
            .captures_iter(options)
            .map(|c| (c[1].chars().next().expect("one letter"), c[2].trim().trim_end_matches('.').to_owned()))
            .collect();
        (people.len() >= 2).then_some(Self { swaps: swaps?, people, objects, options, asked })
    }

    /// What each holds after a number of swaps.
    fn after(&self, count: usize) -> Vec<&str> {
        let mut held: Vec<&str> = self.objects.iter().map(String::as_str).collect();
        for (a, b) in &self.swaps[..count] {
            held.swap(*a, *b);
        }
        held
    }

    /// A person by name or by an initial that only one has.
    fn person(&self, name: &str) -> Option<usize> {
        let whole = self.people.iter().position(|p| p == name);
        let initial = || {
            let mut hits = self.people.iter().enumerate().filter(|(_, p)| name.len() == 1 && p.starts_with(name));
            hits.next().filter(|_| hits.next().is_none()).map(|(n, _)| n)
        };
        whole.or_else(initial)
    }

    /// Which object a text means: all its words are words of that one only.
    fn object(&self, written: &str) -> Option<usize> {
        let has = |object: &str| {
            let of: Vec<String> = words(object);
            let mut mine = words(written).into_iter().peekable();
            mine.peek().is_some() && mine.all(|w| of.contains(&w))
        };
        let mut hits = (0..self.objects.len()).filter(|n| has(&self.objects[*n]));
        hits.next().filter(|_| hits.next().is_none())
    }

    fn run(&self, steps: &[String], findings: &mut Findings) {
        let mut done = 0;
        let mut started = false;
        for (step, text) in steps.iter().enumerate() {
            let lower = text.to_lowercase();
            let ends = lower.contains("at the end") || lower.contains("final");
            let (statement, answer) = match ANSWER.find(text) {
                Some(found) => (&text[..found.start()], ANSWER.captures(text)),
                None => (text.as_str(), None),
            };
            let named = SWAP.captures(statement).and_then(|c| Some((self.person(&c[1])?, self.person(&c[2])?)));
            let states = STATED.captures_iter(statement).any(|c| self.person(&c[1]).is_some());
            if let Some((a, b)) = named {
                match self.swaps.get(done) {
                    Some(&(c, d)) => {
                        let right = (a, b) == (c, d) || (b, a) == (c, d);
                        findings.add(
                            step,
                            right,
                            format!("swap {} is {} and {}", done + 1, self.people[c], self.people[d]),
                        );
                        done += 1;
                    }
                    None => findings.add(step, false, "the question has no further swap".to_owned()),
                }
            } else if states && started && !ends && done < self.swaps.len() {
                done += 1;
            }
            if states || named.is_some() {
                started = true;
            }
            if ends {
                findings.add(step, done == self.swaps.len(), format!("{done} of {} swaps were made", self.swaps.len()));
            }
            let held = self.after(done);
            for found in STATED.captures_iter(statement) {
                let (Some(person), written) = (self.person(&found[1]), found[2].trim()) else { continue };
                let right = self.object(written).is_some_and(|n| self.objects[n] == held[person]);
                findings.add(step, right, format!("{} has {}, written {written}", self.people[person], held[person]));
            }
            if let (Some(answer), Some(asked)) = (answer, self.asked) {
                let letter = answer[1].chars().next().expect("one letter");
                if let Some(option) = self.options.get(&letter) {
                    let right =
                        self.object(option).is_some_and(|n| self.objects[n] == self.after(self.swaps.len())[asked]);
                    findings.add(
                        step,
                        right,
                        format!(
                            "{} ends with {}, option ({letter}) is {option}",
                            self.people[asked],
                            self.after(self.swaps.len())[asked]
                        ),
                    );
                }
            }
        }
    }
}

fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|w| !w.is_empty())
        .map(str::to_lowercase)
        .filter(|w| !["a", "an", "the", "ball", "present", "book"].contains(&w.as_str()))
        .collect()
}
