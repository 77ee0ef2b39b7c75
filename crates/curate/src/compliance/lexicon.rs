//! Word lists with categories. A list is TOML: `[[list]]` tables with a `category`, words, words
//! that allow (of which a listed word is a part), and an action. Words are looked up in the filter
//! view; English ones as whole words.

use std::ops::Range;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::normalize::{FILTER, filter_view, origin};
use crate::operator::Action;
use crate::options::{OptionFault, line_of, nearest};

/// Categories of risk, after the classes of TC260-003 (A.1 to A.4).
pub const CATEGORIES: &[(&str, &str)] = &[
    ("state", "A.1 subversion, secession, threats to national security"),
    ("terror", "A.1 terrorism and extremism"),
    ("violence", "A.1 violence, weapons, murder"),
    ("sexual", "A.1 obscene and sexual content"),
    ("rumour", "A.1 false and harmful information"),
    ("discrimination", "A.2 discrimination by ethnicity, belief, origin, region, sex, age, occupation, health"),
    ("gambling", "A.3 gambling, fraud, pyramid schemes"),
    ("drugs", "A.3 drugs and controlled substances"),
    ("crime", "A.3 trade in forged papers, stolen data, tools of crime"),
    ("self-harm", "A.4 harm to body and mind"),
    ("abuse", "A.4 insults and harassment"),
    ("privacy", "A.4 breach of privacy"),
    ("ethics", "further ethics of the domain, by lists of your own"),
];

/// One list as it stands in a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    category: Spanned<String>,
    #[serde(default)]
    words: Vec<Spanned<String>>,
    /// Phrases in which a listed word is harmless.
    #[serde(default)]
    allow: Vec<String>,
    #[serde(default)]
    action: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    list: Vec<List>,
}

/// A word and what it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Word {
    /// In the filter view.
    pub word: String,
    /// One of [`CATEGORIES`].
    pub category: String,
    /// Drop or note.
    pub action: Action,
}

/// Reads a list file.
///
/// # Errors
/// A fault with its line: the syntax, or every unknown category, action and empty word.
pub(super) fn read(file: &str, text: &str) -> Result<(Vec<Word>, Vec<String>), Vec<OptionFault>> {
    let lists = match toml::from_str::<File>(text) {
        Ok(file) => file.list,
        Err(error) => {
            let line = line_of(text, error.span().map_or(0, |span| span.start));
            let mend = "write `[[list]]` tables with `category`, `words`, `allow` and `action`";
            return Err(vec![OptionFault::new(file, error.message(), mend).line(line)]);
        }
    };
    let (mut words, mut allow, mut faults) = (Vec::new(), Vec::new(), Vec::new());
    let mut fault = |span: Range<usize>, found: String, mend: String| {
        faults.push(OptionFault::new(file, found, mend).line(line_of(text, span.start)));
    };
    for list in lists {
        let category = list.category.get_ref();
        if !CATEGORIES.iter().any(|(known, _)| known == category) {
            let known: Vec<&str> = CATEGORIES.iter().map(|(known, _)| *known).collect();
            let mend = match nearest(category, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("the categories are {}", known.join(", ")),
            };
            fault(list.category.span(), format!("no category `{category}`"), mend);
        }
        let action = match list.action.as_ref().map(|action| action.get_ref().as_str()) {
            None | Some("drop") => Action::Drop,
            Some("note") => Action::Note,
            Some(other) => {
                let span = list.action.as_ref().map_or(0..0, Spanned::span);
                fault(span, format!("`action` is `{other}`"), "write `drop` or `note`".into());
                Action::Drop
            }
        };
        for word in &list.words {
            let view = filter_view(word.get_ref()).trim().to_owned();
            if view.is_empty() {
                fault(word.span(), "an empty word".into(), "leave it out: it would match every text".into());
            }
            words.push(Word { word: view, category: category.clone(), action });
        }
        allow.extend(list.allow.iter().map(|word| filter_view(word).trim().to_owned()).filter(|word| !word.is_empty()));
    }
    if faults.is_empty() { Ok((words, allow)) } else { Err(faults) }
}

/// A plain list, a word a line, such as LDNOOBW's: all of one category.
pub(super) fn plain(text: &str, category: &str, action: Action) -> Vec<Word> {
    let lines = text.lines().map(|line| filter_view(line).trim().to_owned()).filter(|line| !line.is_empty());
    lines.map(|word| Word { word, category: category.to_owned(), action }).collect()
}

/// A listed word in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit<'l> {
    /// The word.
    pub word: &'l Word,
    /// Bytes of the text.
    pub at: Range<usize>,
}

/// All words as one automaton.
pub struct Lexicon {
    words: Vec<Word>,
    automaton: Option<AhoCorasick>,
    /// Patterns from this one on allow.
    allowed: usize,
}

impl Lexicon {
    /// A word that stands in two lists keeps its first category; words that are allowed are out.
    pub fn new(words: Vec<Word>, allow: &[String]) -> Lexicon {
        let mut kept: Vec<Word> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for word in words {
            if !allow.contains(&word.word) && seen.insert(word.word.clone()) {
                kept.push(word);
            }
        }
        let patterns: Vec<&str> =
            kept.iter().map(|word| word.word.as_str()).chain(allow.iter().map(String::as_str)).collect();
        let automaton = (!kept.is_empty()).then(|| {
            // With thousands of words of UTF-8 a contiguous NFA is faster than a DFA and takes a tenth
            // of its memory; a short list fits the cache as a DFA.
            let kind = if patterns.len() > 500 { AhoCorasickKind::ContiguousNFA } else { AhoCorasickKind::DFA };
            let mut builder = AhoCorasick::builder();
            builder.match_kind(MatchKind::LeftmostLongest).kind(Some(kind));
            builder.build(&patterns).expect("fewer words than an automaton can hold")
        });
        Lexicon { allowed: kept.len(), words: kept, automaton }
    }

    /// Number of words.
    pub fn len(&self) -> usize {
        self.words.len()
    }

    /// True without words.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Words of a text, leftmost and longest; an allowing phrase hides the words inside it.
    pub fn find(&self, text: &str) -> Vec<Hit<'_>> {
        let Some(automaton) = &self.automaton else { return Vec::new() };
        let view = filter_view(text);
        let mut hits = Vec::new();
        let mut from = 0;
        while let Some(found) = automaton.find(aho_corasick::Input::new(view.as_ref()).range(from..)) {
            if !crate::rules::is_whole(&view, &found.range()) {
                // A shorter word may begin right behind the first character.
                from = found.start() + view[found.start()..].chars().next().map_or(1, char::len_utf8);
                continue;
            }
            from = found.end();
            if let Some(word) =
                self.words.get(found.pattern().as_usize()).filter(|_| found.pattern().as_usize() < self.allowed)
            {
                hits.push(Hit { word, at: origin(text, FILTER, found.range()) });
            }
        }
        hits
    }
}
