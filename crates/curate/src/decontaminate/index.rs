//! The evaluation side: token sequences, n-gram postings, and the scan of one row against them.

use std::collections::BTreeMap;
use std::ops::Range;

use loar_text::Body;

use super::tokens::{Tokens, ngrams};
use super::{Mode, Options, Side};
use crate::batch::{BatchBuilder, Row};
use crate::operator::{Field, Place, excerpt, shortened};
use crate::terms::HashKeyed as Map;

/// Share of CJK characters from which a text is compared by characters.
const CJK_FROM: f64 = 0.3;
/// Texts from which on `template_share` takes effect.
const TEMPLATE_FROM: usize = 20;

/// One compared text of an evaluation item.
struct Unit {
    item: u32,
    text: String,
    words: Tokens,
    /// Empty where the text is not Chinese, Japanese or Korean.
    characters: Tokens,
    /// Weight of each of `characters`; see [`Grams::weights`].
    weights: Vec<f32>,
}

/// All n-grams of one length and kind.
struct Grams {
    n: usize,
    characters: bool,
    /// One bit for each of the first hash bits: most probes of foreign text end here.
    filter: Vec<u64>,
    mask: u64,
    /// Hash → range of `postings`.
    ranges: Map<(u32, u32)>,
    /// (unit, first token).
    postings: Vec<(u32, u32)>,
}

impl Grams {
    fn new(n: usize, characters: bool, units: &[Unit], template_share: f64) -> Grams {
        let mut all: Vec<(u64, u32, u32)> = Vec::new();
        let mut with_grams = 0;
        for (at, unit) in units.iter().enumerate() {
            let before = all.len();
            ngrams(&tokens(unit, characters).hashes, n, |start, h| all.push((h, at as u32, start as u32)));
            with_grams += usize::from(all.len() > before);
        }
        all.sort_unstable();
        let most = if with_grams >= TEMPLATE_FROM { template_share * with_grams as f64 } else { f64::INFINITY };
        let bits = (all.len() * 16).next_power_of_two().max(64);
        let mut grams = Grams {
            n,
            characters,
            filter: vec![0; bits / 64],
            mask: bits as u64 - 1,
            ranges: Map::default(),
            postings: Vec::with_capacity(all.len()),
        };
        for run in all.chunk_by(|a, b| a.0 == b.0) {
            let units = run.chunk_by(|a, b| a.1 == b.1).count();
            if units as f64 > most {
                continue;
            }
            let hash = run[0].0;
            let start = grams.postings.len() as u32;
            grams.postings.extend(run.iter().map(|(_, unit, at)| (*unit, *at)));
            grams.ranges.insert(hash, (start, grams.postings.len() as u32));
            let bit = hash & grams.mask;
            grams.filter[(bit / 64) as usize] |= 1 << (bit % 64);
        }
        grams
    }

    fn at(&self, hash: u64) -> &[(u32, u32)] {
        let bit = hash & self.mask;
        if self.filter[(bit / 64) as usize] >> (bit % 64) & 1 == 0 {
            return &[];
        }
        self.ranges.get(&hash).map_or(&[], |(start, end)| &self.postings[*start as usize..*end as usize])
    }

    /// Weight of every token of a unit: the mean of ln(1 + N / df) over the n-grams that hold it.
    /// Phrases that many texts share weigh little, those of the template nothing.
    fn weights(&self, units: &[Unit]) -> Vec<Vec<f32>> {
        let total = units.iter().filter(|u| tokens(u, self.characters).len() >= self.n).count() as f32;
        let weights = |unit: &Unit| {
            let sequence = tokens(unit, self.characters);
            let mut sums = vec![(0.0f32, 0.0f32); sequence.len()];
            ngrams(&sequence.hashes, self.n, |start, hash| {
                let df = self.at(hash).chunk_by(|a, b| a.0 == b.0).count();
                let weight = if df == 0 { 0.0 } else { (1.0 + total / df as f32).ln() };
                for (sum, held) in &mut sums[start..start + self.n] {
                    *sum += weight;
                    *held += 1.0;
                }
            });
            sums.into_iter().map(|(sum, held)| if held > 0.0 { sum / held } else { 0.0 }).collect()
        };
        units.iter().map(weights).collect()
    }
}

fn tokens(unit: &Unit, characters: bool) -> &Tokens {
    if characters { &unit.characters } else { &unit.words }
}

/// One hit with both of its sides.
#[derive(Clone, Debug, PartialEq)]
pub struct Match {
    /// The mode that found it.
    pub mode: Mode,
    /// Id of the evaluation item, `file:line`.
    pub eval: String,
    /// Number of the item among all evaluation items.
    pub item: usize,
    /// The longest common run, as the evaluation file has it.
    pub text: String,
    /// The evaluation text around it, of bounded length.
    pub eval_text: String,
    /// The same run in the training row.
    pub train: Place,
    /// Tokens of the run, or the covered share for `tulu3` and `characters`.
    pub value: f64,
    /// The bound that it reaches.
    pub bound: f64,
}

/// A common run: training tokens, evaluation unit and tokens.
#[derive(Clone, Copy)]
struct Run {
    text: usize,
    start: usize,
    unit: u32,
    at: usize,
    len: usize,
}

/// Texts of one training row, tokenised.
struct Texts<'a> {
    texts: Vec<(usize, Field, &'a str)>,
    words: Vec<Tokens>,
    characters: Vec<Tokens>,
}

/// Evaluation texts with their n-grams.
pub struct Index {
    options: Options,
    items: Vec<String>,
    units: Vec<Unit>,
    /// Hash of all letters and digits → units.
    exact: Map<Vec<u32>>,
    /// Hash of all words of texts of 3 to 9 words → units.
    short: Map<Vec<u32>>,
    words: BTreeMap<usize, Grams>,
    characters: Grams,
}

fn texts<'a>(row: &Row<'a>, side: Side) -> Vec<(usize, Field, &'a str)> {
    let chosen = |turn: &crate::batch::Turn<'_>, field: Field| match side {
        Side::All => true,
        Side::Requests => field == Field::Content && (turn.is_request() || turn.role == crate::batch::TEXT),
        Side::Responses => field == Field::Content && turn.is_response(),
    };
    let turns = row.turns().enumerate();
    turns
        .flat_map(|(at, turn)| {
            turn.texts().filter(move |(field, _)| chosen(&turn, *field)).map(move |(field, text)| (at, field, text))
        })
        .collect()
}

impl Index {
    /// Indexes evaluation items given as (id, body).
    pub fn new<'a>(options: Options, items: impl Iterator<Item = (&'a str, &'a Body)>) -> Index {
        let mut builder = BatchBuilder::new();
        let mut names = Vec::new();
        for (id, body) in items {
            builder.push(names.len() as u64, 0, 0, body, &serde_json::Map::new());
            names.push(id.to_owned());
        }
        let batch = builder.finish();
        let mut units = Vec::new();
        let (mut exact, mut short) = (Map::<Vec<u32>>::default(), Map::<Vec<u32>>::default());
        for row in batch.rows() {
            for (_, _, text) in texts(&row, options.eval) {
                let (mut words, mut characters) = (Tokens::default(), Tokens::default());
                words.words(text);
                let share = characters.characters(text);
                if characters.len() == 0 {
                    continue;
                }
                let at = units.len() as u32;
                exact.entry(characters.whole()).or_default().push(at);
                if (3..10).contains(&words.len()) {
                    short.entry(words.whole()).or_default().push(at);
                }
                if share < CJK_FROM {
                    characters.clear();
                }
                let item = row.index() as u32;
                units.push(Unit { item, text: text.to_owned(), words, characters, weights: Vec::new() });
            }
        }
        let words = [8, 10, 13].map(|n| (n, Grams::new(n, false, &units, options.template_share)));
        let characters = Grams::new(options.characters, true, &units, options.template_share);
        let weights = characters.weights(&units);
        units.iter_mut().zip(weights).for_each(|(unit, weights)| unit.weights = weights);
        Index { options, items: names, units, exact, short, words: words.into(), characters }
    }

    /// Its options.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Number of evaluation items.
    pub fn items(&self) -> usize {
        self.items.len()
    }

    /// Every evaluation item that the row leaks under one of the modes, best evidence first within
    /// a mode.
    pub fn scan(&self, row: &Row<'_>, modes: &[Mode]) -> Vec<Match> {
        let chosen = texts(row, self.options.train);
        let by_words = modes.iter().any(|m| !matches!(m, Mode::Exact | Mode::Characters));
        let by_characters = modes.iter().any(|m| matches!(m, Mode::Exact | Mode::Characters));
        let tokenise = |wanted: bool, f: fn(&mut Tokens, &str)| -> Vec<Tokens> {
            let one = |text: &str| {
                let mut tokens = Tokens::default();
                f(&mut tokens, text);
                tokens
            };
            if wanted { chosen.iter().map(|(_, _, text)| one(text)).collect() } else { Vec::new() }
        };
        let words = tokenise(by_words, |tokens, text| tokens.words(text));
        let characters = tokenise(by_characters, |tokens, text| {
            tokens.characters(text);
        });
        let texts = Texts { texts: chosen, words, characters };
        let mut found = Vec::new();
        for mode in modes {
            match mode {
                Mode::Exact => self.whole(&texts, true, &mut found),
                Mode::Gpt3 => self.any(&texts, Mode::Gpt3, 13, &mut found),
                Mode::Words8 => self.any(&texts, Mode::Words8, 8, &mut found),
                Mode::DeepSeek => {
                    self.any(&texts, Mode::DeepSeek, 10, &mut found);
                    self.whole(&texts, false, &mut found);
                }
                Mode::Tulu3 => self.covered(&texts, Mode::Tulu3, &self.words[&8], &mut found),
                Mode::Characters => self.covered(&texts, Mode::Characters, &self.characters, &mut found),
            }
        }
        found
    }

    /// Number of words of every compared text, with its item.
    pub(super) fn lengths(&self) -> Vec<(usize, usize)> {
        self.units.iter().map(|unit| (unit.item as usize, unit.words.len())).collect()
    }

    /// Calls `each` with (text, words from, to) of every common run of at least n words.
    pub(super) fn shared(&self, row: &Row<'_>, n: usize, mut each: impl FnMut(usize, Range<usize>)) {
        let chosen = texts(row, self.options.train);
        let mut words = vec![Tokens::default(); chosen.len()];
        words.iter_mut().zip(&chosen).for_each(|(tokens, (_, _, text))| tokens.words(text));
        let texts = Texts { texts: chosen, words, characters: Vec::new() };
        self.runs(&texts, &self.words[&n], |run| each(run.unit as usize, run.at..run.at + run.len));
    }

    /// Turns that equal an evaluation text: in letters and digits, or in 3 to 9 words.
    fn whole(&self, texts: &Texts<'_>, exact: bool, found: &mut Vec<Match>) {
        let (sequences, map) = if exact { (&texts.characters, &self.exact) } else { (&texts.words, &self.short) };
        for (at, sequence) in sequences.iter().enumerate().filter(|(_, s)| s.len() > 0) {
            let mut seen = Vec::new();
            for unit in map.get(&sequence.whole()).into_iter().flatten() {
                let item = self.units[*unit as usize].item;
                if seen.contains(&item) {
                    continue;
                }
                seen.push(item);
                let (turn, field, _) = texts.texts[at];
                let bytes = sequence.bytes(0..sequence.len());
                found.push(Match {
                    mode: if exact { Mode::Exact } else { Mode::DeepSeek },
                    eval: self.items[item as usize].clone(),
                    item: item as usize,
                    text: self.units[*unit as usize].text.clone(),
                    eval_text: shortened(&self.units[*unit as usize].text).into_owned(),
                    train: Place { turn, field, start: bytes.start, end: bytes.end },
                    value: sequence.len() as f64,
                    bound: sequence.len() as f64,
                });
            }
        }
    }

    /// Calls `each` with every common run of at least n tokens, as long as it goes.
    fn runs(&self, texts: &Texts<'_>, grams: &Grams, mut each: impl FnMut(Run)) {
        let sequences = if grams.characters { &texts.characters } else { &texts.words };
        for (text, sequence) in sequences.iter().enumerate() {
            ngrams(&sequence.hashes, grams.n, |start, hash| {
                for (unit, at) in grams.at(hash) {
                    let eval = &tokens(&self.units[*unit as usize], grams.characters).hashes;
                    let at = *at as usize;
                    // a run that has begun earlier was given then
                    if start > 0
                        && at > 0
                        && sequence.hashes[start - 1] == eval[at - 1]
                        && self.counted(grams, *unit, at - 1)
                    {
                        continue;
                    }
                    let common = sequence.hashes[start..].iter().zip(&eval[at..]).take_while(|(a, b)| a == b).count();
                    if common >= grams.n {
                        each(Run { text, start, unit: *unit, at, len: common });
                    }
                }
            });
        }
    }

    /// Whether the n-gram at `at` of a unit is in the index: not one of the template.
    fn counted(&self, grams: &Grams, unit: u32, at: usize) -> bool {
        let eval = &tokens(&self.units[unit as usize], grams.characters).hashes;
        let mut counted = false;
        ngrams(&eval[at..at + grams.n], grams.n, |_, hash| counted = !grams.at(hash).is_empty());
        counted
    }

    fn given(&self, texts: &Texts<'_>, grams: &Grams, mode: Mode, run: Run, value: f64, bound: f64) -> Match {
        let unit = &self.units[run.unit as usize];
        let eval: Range<usize> = tokens(unit, grams.characters).bytes(run.at..run.at + run.len);
        let sequences = if grams.characters { &texts.characters } else { &texts.words };
        let train = sequences[run.text].bytes(run.start..run.start + run.len);
        let (turn, field, _) = texts.texts[run.text];
        Match {
            mode,
            eval: self.items[unit.item as usize].clone(),
            item: unit.item as usize,
            text: unit.text[eval.clone()].to_owned(),
            eval_text: excerpt(&unit.text, eval),
            train: Place { turn, field, start: train.start, end: train.end },
            value,
            bound,
        }
    }

    /// Items that share at least one run: the longest run of each.
    fn any(&self, texts: &Texts<'_>, mode: Mode, n: usize, found: &mut Vec<Match>) {
        let grams = &self.words[&n];
        let mut longest: BTreeMap<u32, Run> = BTreeMap::new();
        self.runs(texts, grams, |run| {
            let best = longest.entry(self.units[run.unit as usize].item).or_insert(run);
            if run.len > best.len {
                *best = run;
            }
        });
        let mut hits: Vec<Run> = longest.into_values().collect();
        hits.sort_by_key(|run| std::cmp::Reverse(run.len));
        found.extend(hits.into_iter().map(|run| self.given(texts, grams, mode, run, run.len as f64, n as f64)));
    }

    /// Items whose text is covered by shared n-grams beyond the bound; all words weigh the same,
    /// characters as [`Grams::weights`] says.
    fn covered(&self, texts: &Texts<'_>, mode: Mode, grams: &Grams, found: &mut Vec<Match>) {
        let mut by_item: BTreeMap<u32, Vec<Run>> = BTreeMap::new();
        self.runs(texts, grams, |run| by_item.entry(self.units[run.unit as usize].item).or_default().push(run));
        let mut hits = Vec::new();
        for (item, runs) in by_item {
            let first = runs.iter().map(|run| run.unit).min().unwrap_or(0);
            // units of an item stand side by side
            let start = (0..=first as usize).rev().take_while(|u| self.units[*u].item == item).last();
            let units = start.unwrap_or(0)..self.units.len();
            let (mut all, mut hit) = (0.0, 0.0);
            for unit in units.take_while(|u| self.units[*u].item == item) {
                let mine = runs.iter().filter(|run| run.unit as usize == unit);
                let (total, part) = if grams.characters {
                    inside(self.units[unit].weights.iter().copied(), mine)
                } else {
                    inside(self.units[unit].words.hashes.iter().map(|_| 1.0), mine)
                };
                all += total;
                hit += part;
            }
            let share = if all > 0.0 { hit / all } else { 0.0 };
            let (bound, leaks) = match mode {
                Mode::Tulu3 => (self.options.tulu3_coverage, share > self.options.tulu3_coverage),
                _ => (self.options.coverage, share >= self.options.coverage),
            };
            if leaks && let Some(best) = runs.into_iter().reduce(|a, b| if b.len > a.len { b } else { a }) {
                hits.push((share, bound, best));
            }
        }
        hits.sort_by(|a, b| b.0.total_cmp(&a.0));
        found.extend(hits.into_iter().map(|(share, bound, run)| self.given(texts, grams, mode, run, share, bound)));
    }
}

/// (weight of all tokens, weight of those inside a run).
fn inside<'a>(weights: impl ExactSizeIterator<Item = f32>, runs: impl Iterator<Item = &'a Run>) -> (f64, f64) {
    let mut inside = vec![false; weights.len()];
    for run in runs {
        inside[run.at..run.at + run.len].fill(true);
    }
    let (mut all, mut part) = (0.0, 0.0);
    for (weight, inside) in weights.zip(inside) {
        all += f64::from(weight);
        part += if inside { f64::from(weight) } else { 0.0 };
    }
    (all, part)
}
