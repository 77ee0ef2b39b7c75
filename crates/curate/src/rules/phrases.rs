//! Phrases of all rules, found in one pass over the filter view: any case, width and spacing.
//! A phrase that begins or ends with an ASCII letter or digit must stand as a word there.

use std::ops::Range;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};

use super::measure::Measure;
use super::read::Rule;
use crate::normalize::{self, FILTER, filter_view};

/// The automaton and what its patterns belong to.
pub(super) struct Phrases {
    automaton: Option<AhoCorasick>,
    /// For each pattern the rules that have it, with how far from the start it may begin.
    owners: Vec<Vec<(usize, usize)>>,
}

/// The phrases of one rule in a text.
#[derive(Clone, Debug)]
pub(super) struct Hit {
    pub rule: usize,
    pub count: usize,
    /// The first, in the filter view.
    view: Range<usize>,
}

/// Where the first phrase of a hit stands in the text.
pub(super) fn origin(text: &str, hit: &Hit) -> Range<usize> {
    normalize::origin(text, FILTER, hit.view.clone())
}

/// Whether a match of the view is whole words where its ends are ASCII letters or digits.
pub(crate) fn is_whole(view: &str, range: &Range<usize>) -> bool {
    let bytes = view.as_bytes();
    let word = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_alphanumeric);
    let left = range.start == 0 || !(word(range.start) && word(range.start - 1));
    left && !(word(range.end - 1) && word(range.end))
}

impl Phrases {
    pub fn new(rules: &[Rule]) -> Phrases {
        let mut patterns: Vec<String> = Vec::new();
        let mut owners: Vec<Vec<(usize, usize)>> = Vec::new();
        for (at, rule) in rules.iter().enumerate().filter(|(_, rule)| rule.measure == Measure::Phrases) {
            for word in &rule.words {
                let pattern = filter_view(word).trim().to_owned();
                let index = patterns.iter().position(|known| *known == pattern).unwrap_or_else(|| {
                    patterns.push(pattern);
                    owners.push(Vec::new());
                    patterns.len() - 1
                });
                owners[index].push((at, rule.within));
            }
        }
        let patterns: Vec<&String> = patterns.iter().collect();
        let automaton = (!patterns.is_empty()).then(|| {
            // Of a few hundred phrases; lists of thousands would leave the cache.
            let kind = (patterns.len() <= 1000).then_some(AhoCorasickKind::DFA);
            let mut builder = AhoCorasick::builder();
            builder.match_kind(MatchKind::Standard).kind(kind);
            builder.build(&patterns).expect("fewer patterns than an automaton can hold")
        });
        Phrases { automaton, owners }
    }

    pub fn find(&self, text: &str) -> Vec<Hit> {
        let Some(automaton) = &self.automaton else { return Vec::new() };
        let view = filter_view(text);
        let mut hits: Vec<Hit> = Vec::new();
        for found in automaton.find_overlapping_iter(view.as_ref()) {
            if !is_whole(&view, &found.range()) {
                continue;
            }
            for (rule, within) in &self.owners[found.pattern().as_usize()] {
                if *within > 0 && super::repeat::char_count(&view[..found.start()]) >= *within {
                    continue;
                }
                match hits.iter_mut().find(|hit| hit.rule == *rule) {
                    Some(hit) => hit.count += 1,
                    None => hits.push(Hit { rule: *rule, count: 1, view: found.range() }),
                }
            }
        }
        hits
    }
}
