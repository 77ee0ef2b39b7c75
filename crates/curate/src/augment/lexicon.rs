//! Synonyms and slips as data, and the draws that decide which is taken.

use std::collections::BTreeMap;

use loar_kernels::rng::Stream;
use serde::Deserialize;
use toml::Spanned;

use crate::options::OptionFault;
use crate::terms::{hash, mix};

const BUILTIN: &str = include_str!("lexicon.toml");
/// Names the use of randomness.
const PURPOSE: u32 = 0xA0_61;

/// Random numbers of one row and transform.
#[derive(Clone, Copy)]
pub(super) struct Draw(Stream);

impl Draw {
    pub fn new(seed: u64, row: u64, transform: &str) -> Self {
        Draw(Stream::new(mix(mix(seed, row), hash(transform.as_bytes())), PURPOSE, 0))
    }

    /// In [0, 1).
    pub fn uniform(&self, index: u64) -> f32 {
        self.0.uniform(index)
    }

    /// Below `bound`; 0 for 0.
    pub fn below(&self, index: u64, bound: usize) -> usize {
        if bound == 0 { 0 } else { self.0.below(index, bound as u64) as usize }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    synonym: Vec<Entry>,
    slips: Option<Slips>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    words: Spanned<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Slips {
    keyboard: Vec<String>,
    homophones: Vec<String>,
    shapes: Vec<String>,
}

/// What may stand for what.
#[derive(Clone, Debug, Default)]
pub struct Lexicon {
    synonyms: BTreeMap<String, Vec<String>>,
    keyboard: BTreeMap<char, Vec<char>>,
    homophones: BTreeMap<char, Vec<char>>,
    shapes: BTreeMap<char, Vec<char>>,
}

fn groups(lines: &[String]) -> BTreeMap<char, Vec<char>> {
    let mut map: BTreeMap<char, Vec<char>> = BTreeMap::new();
    for line in lines {
        for c in line.chars() {
            map.entry(c).or_default().extend(line.chars().filter(|o| *o != c));
        }
    }
    map
}

impl Lexicon {
    /// As shipped.
    ///
    /// # Panics
    /// Never with the shipped file; a test reads it.
    pub fn builtin() -> Self {
        let file: File = toml::from_str(BUILTIN).expect("the shipped lexicon is valid");
        let mut lexicon = Lexicon::default();
        file.synonym.into_iter().for_each(|entry| lexicon.add(&entry.words.into_inner()));
        if let Some(slips) = file.slips {
            let keys = slips.keyboard.iter().filter_map(|line| {
                let (key, near) = line.split_once(':')?;
                Some((key.chars().next()?, near.chars().collect()))
            });
            lexicon.keyboard = keys.collect();
            lexicon.homophones = groups(&slips.homophones);
            lexicon.shapes = groups(&slips.shapes);
        }
        lexicon
    }

    fn add(&mut self, words: &[String]) {
        for word in words {
            let others = words.iter().filter(|o| *o != word).cloned();
            self.synonyms.entry(word.clone()).or_default().extend(others);
        }
    }

    /// Adds the synonyms of a user's file; gives all of its faults.
    pub fn extend(&mut self, name: &str, text: &str) -> Vec<OptionFault> {
        let line = |at: usize| Some(text[..at].matches('\n').count() + 1);
        let key = format!("lexicon: {name}");
        let file: File = match toml::from_str(text) {
            Ok(file) => file,
            Err(error) => {
                let mend = "an entry is `[[synonym]]` with `words`, a list of two or more";
                let fault = OptionFault::new(key, error.message(), mend);
                return vec![OptionFault { line: error.span().and_then(|s| line(s.start)), ..fault }];
            }
        };
        let mut faults = Vec::new();
        for entry in file.synonym {
            let at = entry.words.span().start;
            let words = entry.words.into_inner();
            if words.len() < 2 || words.iter().any(|w| w.trim().is_empty()) {
                let fault =
                    OptionFault::new(key.clone(), format!("{words:?}"), "give two or more words that mean the same");
                faults.push(OptionFault { line: line(at), ..fault });
            } else {
                self.add(&words);
            }
        }
        faults
    }

    /// Words that mean the same, by word, in order of words.
    pub(super) fn synonyms(&self) -> &BTreeMap<String, Vec<String>> {
        &self.synonyms
    }

    /// Slips of a transform.
    pub(super) fn slips(&self, transform: &str) -> &BTreeMap<char, Vec<char>> {
        match transform {
            "typo-keyboard" => &self.keyboard,
            "typo-homophone" => &self.homophones,
            _ => &self.shapes,
        }
    }
}
