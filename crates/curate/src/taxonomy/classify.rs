//! From a row to scores of all types.

use std::collections::HashMap;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, AhoCorasickBuilder, AhoCorasickKind, MatchKind};

use super::{Options, Taxonomy};
use crate::batch::{Batch, Row};
use crate::embedding;
use crate::models::Embedder;
use crate::terms::{HashKeyed, dot, is_cjk, normalise, terms};

/// The best two types of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Verdict {
    /// Number of the best type, 0 for unknown.
    pub first: u16,
    /// Number of the next, 0 for none.
    pub second: u16,
    /// 0 to 1: how much of what was said speaks for the first. Not a probability.
    pub confidence: f32,
}

/// A phrase of the automaton.
struct Phrase {
    /// (cue, part of it).
    uses: Vec<(u32, u8)>,
    /// Its ends must not lie inside a word.
    word_start: bool,
    word_end: bool,
}

/// A cue of a type.
struct Cue {
    kind: u16,
    parts: u8,
    weight: f32,
}

const SCORES: usize = Taxonomy::TYPES + 1;
/// Cues in the first bytes of a request are the instruction itself.
const OPENING: usize = 90;
/// Weight of the BM25 voice against that of cues.
const BM25_WEIGHT: f32 = 0.11;
/// Terms of a request that BM25 takes.
const QUERY_TERMS: usize = 48;
/// Weight of the cosine with an embedding model.
const EMBEDDING_WEIGHT: f32 = 3.0;

/// Questions for a quantity; they speak for no type by themselves.
const QUANTITY: [&str; 9] =
    ["多少", "几", "how many", "how much", "how long", "how far", "how old", "what percent", "what is the total"];

/// A model with the vectors of all descriptions.
type Embedded = (Arc<dyn Embedder>, Vec<Vec<f32>>);

/// Rows to task types.
pub struct Classifier {
    taxonomy: Taxonomy,
    options: Options,
    automaton: AhoCorasick,
    phrases: Vec<Phrase>,
    cues: Vec<Cue>,
    /// First letter of each type's contract.
    contracts: [u8; SCORES],
    /// Term → (type, BM25 weight).
    documents: HashKeyed<Vec<(u16, f32)>>,
    embedder: Option<Embedded>,
}

/// Longer phrases say more: ln(1 + characters), Latin letters counting a third.
fn weight(cue: &str) -> f32 {
    let units: f32 = cue.chars().map(|c| if is_cjk(c) { 1.0 } else { 1.0 / 3.0 }).sum();
    (1.0 + units).ln()
}

impl Classifier {
    /// Builds the automaton and the BM25 table.
    ///
    /// # Panics
    /// When the cues do not fit an automaton: more than 2^31 of them.
    pub fn new(taxonomy: Taxonomy, options: Options, embedder: Option<Arc<dyn Embedder>>) -> Self {
        let mut of: HashMap<String, usize> = HashMap::new();
        let (mut patterns, mut phrases, mut cues) = (Vec::<String>::new(), Vec::<Phrase>::new(), Vec::new());
        let quantity = QUANTITY.iter().map(|cue| (0, *cue));
        let of_types = taxonomy.types().iter().flat_map(|t| t.cues.iter().map(|cue| (t.number, cue.as_str())));
        for (kind, cue) in quantity.chain(of_types) {
            {
                let (plain, factor) = cue.strip_prefix('~').map_or((cue, 1.0), |weak| (weak, 0.3));
                let parts: Vec<&str> = plain.split('+').filter(|p| !p.is_empty()).collect();
                // a plus sign may belong to the phrase, as in `c++`
                let parts = if plain.ends_with('+') { vec![plain] } else { parts };
                let at = cues.len() as u32;
                cues.push(Cue { kind, parts: parts.len() as u8, weight: factor * weight(plain) });
                for (part, text) in parts.iter().enumerate() {
                    let index = *of.entry((*text).to_owned()).or_insert_with(|| {
                        let word = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
                        patterns.push((*text).to_owned());
                        let (word_start, word_end) = (word(text.chars().next()), word(text.chars().next_back()));
                        phrases.push(Phrase { uses: Vec::new(), word_start, word_end });
                        patterns.len() - 1
                    });
                    phrases[index].uses.push((at, part as u8));
                }
            }
        }
        let automaton = AhoCorasickBuilder::new()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::Standard)
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(&patterns)
            .expect("a few thousand short phrases");
        let documents = bm25(&taxonomy);
        let mut contracts = [b'T'; SCORES];
        taxonomy.types().iter().for_each(|t| contracts[usize::from(t.number)] = t.contract.as_bytes()[0]);
        let embedder = embedder.map(|embedder| {
            let texts: Vec<String> =
                taxonomy.types().iter().map(|t| format!("{} {}. {}", t.en, t.zh, t.about)).collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let mut vectors = embedder.embed(&texts);
            vectors.iter_mut().for_each(|v| normalise(v));
            (embedder, vectors)
        });
        Classifier { taxonomy, options, automaton, phrases, cues, contracts, documents, embedder }
    }

    /// The table it goes by.
    pub fn taxonomy(&self) -> &Taxonomy {
        &self.taxonomy
    }

    /// The options it goes by.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// All rows of a batch.
    pub fn batch(&self, batch: &Batch) -> Vec<Verdict> {
        let mut scores: Vec<[f32; SCORES]> = batch.rows().map(|row| self.scores(&row)).collect();
        if let Some((embedder, types)) = &self.embedder {
            // The stage of the model ran before: its vectors stand in a column.
            let vectors: Vec<Vec<f32>> = embedding::column(batch).map_or_else(
                || {
                    let heads: Vec<String> = batch.rows().map(|row| self.read(&row)).collect();
                    let texts: Vec<&str> = heads.iter().map(String::as_str).collect();
                    embedder.embed(&texts)
                },
                |(values, dimensions)| values.chunks_exact(dimensions).map(<[f32]>::to_vec).collect(),
            );
            for (scores, mut vector) in scores.iter_mut().zip(vectors) {
                normalise(&mut vector);
                let cosines: Vec<f32> = types.iter().map(|t| dot(t, &vector)).collect();
                let mean = cosines.iter().sum::<f32>() / cosines.len() as f32;
                for (score, cosine) in scores[1..].iter_mut().zip(cosines) {
                    *score += EMBEDDING_WEIGHT * (cosine - mean).max(0.0);
                }
            }
        }
        scores.iter().map(|scores| self.verdict(scores)).collect()
    }

    /// What is read of a request: its beginning and its end.
    fn read(&self, row: &Row<'_>) -> String {
        let Some(request) = row.requests().next().or_else(|| row.responses().next()) else { return String::new() };
        let (head, tail) = ends(request, self.options.head, self.options.tail);
        format!("{head}\n{tail}")
    }

    fn verdict(&self, scores: &[f32; SCORES]) -> Verdict {
        let (mut first, mut second) = (0usize, 0usize);
        for kind in 1..SCORES {
            if first == 0 || scores[kind] > scores[first] {
                second = first;
                first = kind;
            } else if second == 0 || scores[kind] > scores[second] {
                second = kind;
            }
        }
        let (best, next) = (scores[first], scores[second].max(0.0));
        if f64::from(best) < self.options.least {
            return Verdict::default();
        }
        let confidence = best / (best + next + 0.5);
        Verdict { first: first as u16, second: if next > 0.0 { second as u16 } else { 0 }, confidence }
    }

    /// Cues, BM25 and form of one row.
    fn scores(&self, row: &Row<'_>) -> [f32; SCORES] {
        let mut scores = [0.0f32; SCORES];
        let mut requests = row.requests();
        // a plain text is looked at as its own request
        let request = requests.next().or_else(|| row.responses().next()).unwrap_or_default();
        let turns = 1 + requests.count();
        let (head, tail) = ends(request, self.options.head, self.options.tail);
        let mut parts: Vec<(u32, u8)> = Vec::new();
        let mut said: Vec<u32> = Vec::new();
        for (text, opening) in [(head, OPENING), (tail, 0)] {
            parts.clear();
            for found in self.automaton.find_overlapping_iter(text) {
                let phrase = &self.phrases[found.pattern().as_usize()];
                let bytes = text.as_bytes();
                let inside = |at: Option<&u8>| at.is_some_and(u8::is_ascii_alphanumeric);
                if phrase.word_start && found.start() > 0 && inside(bytes.get(found.start() - 1)) {
                    continue;
                }
                if phrase.word_end && inside(bytes.get(found.end())) {
                    // an ending of the word is the same word
                    let rest = &bytes[found.end()..];
                    let ends = [&b"s"[..], b"es", b"d", b"ed", b"ing"];
                    if !ends.iter().any(|e| rest.starts_with(e) && !inside(rest.get(e.len()))) {
                        continue;
                    }
                }
                for (cue, part) in &phrase.uses {
                    let Cue { kind, parts: count, weight } = self.cues[*cue as usize];
                    if said.contains(cue) {
                        continue;
                    }
                    if count > 1 {
                        if *part + 1 < count {
                            parts.push((*cue, *part));
                            continue;
                        }
                        if (0..count - 1).any(|p| !parts.contains(&(*cue, p))) {
                            continue;
                        }
                    }
                    said.push(*cue);
                    scores[usize::from(kind)] += if found.start() < opening { 1.5 * weight } else { 0.6 * weight };
                }
            }
        }
        let mut left = QUERY_TERMS;
        let mut last = 0;
        terms(head, head.len(), |term| {
            if left > 0 && term != last {
                left -= 1;
                for (kind, weight) in self.documents.get(&term).map_or(&[][..], Vec::as_slice) {
                    scores[usize::from(*kind)] += BM25_WEIGHT * weight;
                }
            }
            last = term;
        });
        self.form(row, head, tail, turns, &mut scores);
        scores
    }

    /// What the form of request and answer says.
    fn form(&self, row: &Row<'_>, head: &str, tail: &str, turns: usize, scores: &mut [f32; SCORES]) {
        let response = row.responses().last().unwrap_or_default().trim();
        let (begin, end) = ends(response, 1500, 60);
        let code = holds(begin, b"```");
        let structured = begin.starts_with(['{', '['])
            && (end.len() < 8 || response.trim_end_matches(['。', '\n', ' ']).ends_with(['}', ']']));
        let ending = if end.is_empty() { begin } else { end };
        let number = ending.bytes().rev().take(24).any(|b| b.is_ascii_digit());
        let label = response.len() <= 60;
        for (score, contract) in scores.iter_mut().zip(self.contracts) {
            let agrees = match contract {
                b'C' => code,
                b'J' => structured,
                b'N' => number,
                b'L' | b'S' => label || structured,
                _ => !structured && !code,
            };
            *score *= if agrees { 1.15 } else { 0.85 };
        }
        if code && !holds(head, b"```") {
            scores[71] += 0.8;
        }
        if holds(head, b"```") || holds(tail, b"```") {
            for kind in [72, 86, 87, 88] {
                scores[kind] *= 1.4;
            }
        }
        if holds(head, b"|---") || holds(head, b"| ---") || holds(tail, b"|---") {
            scores[93] += 0.5;
            scores[97] += 0.9;
        }
        if row.turns().any(|turn| turn.role == "tool") {
            scores[if turns > 1 { 92 } else { 91 }] += 4.0;
        }
        if turns > 1 {
            scores[101] += 1.0 + 0.15 * turns.min(6) as f32;
        }
        let request = row.requests().next().unwrap_or_default();
        if request.len() > 6000 {
            scores[95] += 0.8;
        }
        // a sum in words: numbers that are not a list, and a question for a quantity
        let starts = |text: &str| {
            let mut before = b' ';
            let mut count = 0;
            for byte in text.bytes() {
                count += usize::from(byte.is_ascii_digit() && !before.is_ascii_digit());
                before = byte;
            }
            count
        };
        let numbers: usize = starts(head) + starts(tail);
        let words = head.len() + tail.len() > 50;
        // an answer that works something out: equations, and a number at its end
        let digits = begin.bytes().filter(u8::is_ascii_digit).count();
        let worked = digits >= 4 && number && begin.contains('=') && !code;
        if words && (worked || numbers >= 2 && scores[0] > 0.0) {
            scores[76] += match (worked, scores[0] > 0.0) {
                (true, true) => 5.0,
                (true, false) => 3.5,
                (false, _) => 2.4,
            };
            scores[69] += if worked { 3.0 } else { 1.6 };
        } else if numbers >= 1
            && head.len() < 120
            && (head.contains('=') || head.contains('+') || head.contains('×') || head.contains('^'))
        {
            scores[69] += 1.2;
        }
    }
}

/// Whether the bytes of a mark stand in the text.
fn holds(text: &str, mark: &[u8]) -> bool {
    memchr::memmem::find(text.as_bytes(), mark).is_some()
}

/// The first and the last bytes of a text, at character boundaries; the end is empty when the
/// beginning holds all.
fn ends(text: &str, head: usize, tail: usize) -> (&str, &str) {
    if text.len() <= head + tail {
        return (text, "");
    }
    let head = (0..=head).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let tail = (text.len() - tail..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    (&text[..head], &text[tail..])
}

/// BM25 weights (k1 = 1.2, b = 0.75) of every term of every description. Cues count as part of it.
fn bm25(taxonomy: &Taxonomy) -> HashKeyed<Vec<(u16, f32)>> {
    let mut counts: Vec<HashMap<u64, f32>> = Vec::new();
    for kind in taxonomy.types() {
        let mut count: HashMap<u64, f32> = HashMap::new();
        let cues = kind.cues.join(" , ");
        for text in [&kind.en, &kind.zh, &kind.about, &cues] {
            terms(text, text.len(), |term| *count.entry(term).or_default() += 1.0);
        }
        counts.push(count);
    }
    let total = counts.len() as f32;
    let mean = counts.iter().map(|c| c.values().sum::<f32>()).sum::<f32>() / total;
    let mut df: HashMap<u64, f32> = HashMap::new();
    counts.iter().flat_map(|c| c.keys()).for_each(|term| *df.entry(*term).or_default() += 1.0);
    let mut documents: HashKeyed<Vec<(u16, f32)>> = HashKeyed::default();
    for (count, kind) in counts.iter().zip(taxonomy.types()) {
        let length = count.values().sum::<f32>();
        for (term, n) in count {
            // function words say nothing about a type
            if df[term] > total / 8.0 {
                continue;
            }
            let idf = (1.0 + (total - df[term] + 0.5) / (df[term] + 0.5)).ln();
            let tf = n * 2.2 / (n + 1.2 * (0.25 + 0.75 * length / mean));
            documents.entry(*term).or_default().push((kind.number, idf * tf));
        }
    }
    documents.values_mut().for_each(|list| list.sort_by_key(|(kind, _)| *kind));
    documents
}
