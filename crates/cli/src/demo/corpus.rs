//! The generated text that the embedded base model learns from.
//!
//! Takes a seed, gives conversations without end in English and Chinese: reading records, following rules that the
//! prompt states, running sums, comparing, sorting, JSON, words. Row `i` of a seed is always the same. Never holds the
//! credit policy or its JSON form: the base has to learn the task from the demo's own training rows.
mod field;
mod number;
mod record;
mod words;

use loar_eval::credit::{Language, Policy};
use loar_eval::rng::Draw;
use loar_text::{Conversation, Message};

use field::Field;
use record::Ease;

/// A question with its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The user's turn.
    pub user: String,
    /// The assistant's turn.
    pub assistant: String,
}

impl Row {
    fn new(user: impl Into<String>, assistant: impl Into<String>) -> Row {
        Row { user: user.into(), assistant: assistant.into() }
    }

    /// As a conversation.
    pub fn conversation(&self) -> Conversation {
        let messages = vec![Message::user(self.user.as_str()), Message::assistant(self.assistant.as_str())];
        Conversation { messages, ..Conversation::default() }
    }
}

/// The first rows are easy ones: records that name their fields as they are asked for, and sums, short at first. Copying
/// from the prompt is learned from them in a few hundred steps, and everything else stands on it; from hard rows alone it
/// is not learned in thousands. Training must keep the order of rows.
/// Each stage goes up to a row and has records of at most so many fields.
const STAGES: [(u64, usize); 5] = [(6_000, 1), (16_000, 2), (26_000, 3), (36_000, 5), (46_000, 7)];

/// Kinds of the easy rows with their share in per cent.
const EASY: [(usize, Kind); 2] = [(80, Kind::Pairs), (20, Kind::RunningSum)];

/// Kinds of the other rows with their share in per cent. Reading records and applying stated rules are what a small
/// model finds hardest, so they come most often.
const KINDS: [(usize, Kind); 12] = [
    (44, Kind::Pairs),
    (3, Kind::OneField),
    (8, Kind::BinRule),
    (3, Kind::WordRule),
    (20, Kind::RunningSum),
    (6, Kind::Grades),
    (7, Kind::Pick),
    (2, Kind::Compare),
    (1, Kind::Sort),
    (2, Kind::WordList),
    (2, Kind::Translate),
    (3, Kind::Talk),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Pairs,
    OneField,
    BinRule,
    WordRule,
    RunningSum,
    Grades,
    Pick,
    Compare,
    Sort,
    WordList,
    Translate,
    Talk,
}

/// Rows of a seed.
pub struct Corpus {
    seed: u64,
    fields: Vec<Field>,
}

impl Corpus {
    /// A corpus whose records hold, among many others, the fields that the policy's applications have; of the policy
    /// only their names and words are taken.
    pub fn new(policy: &Policy, seed: u64) -> Corpus {
        Corpus { seed, fields: field::all(policy) }
    }

    /// Row `index`.
    pub fn row(&self, index: u64) -> Row {
        let mut draw = Draw::new(self.seed, index);
        let language = if draw.percent(50) { Language::En } else { Language::Zh };
        let stage = STAGES.iter().find(|(until, _)| index < *until);
        let (easy, ease) = match stage {
            Some(&(_, most)) => (true, Ease { plain: 100, most }),
            None => (false, record::USUAL),
        };
        let kinds: &[(usize, Kind)] = if easy { &EASY } else { &KINDS };
        let mut at = draw.below(kinds.iter().map(|(share, _)| share).sum());
        let mut kind = Kind::Talk;
        for &(share, of) in kinds {
            kind = of;
            if at < share {
                break;
            }
            at -= share;
        }
        match kind {
            Kind::Pairs => record::pairs(&self.fields, language, ease, &mut draw),
            Kind::OneField => record::one_field(&self.fields, language, &mut draw),
            Kind::BinRule => number::bin_rule(language, &mut draw),
            Kind::WordRule => record::word_rule(&self.fields, language, &mut draw),
            Kind::RunningSum => number::running_sum(&self.fields, language, ease.most, &mut draw),
            Kind::Grades => number::grades(language, &mut draw),
            Kind::Pick => number::pick_small(&self.fields, language, &mut draw),
            Kind::Compare => number::compare(language, &mut draw),
            Kind::Sort => number::sort(language, &mut draw),
            Kind::WordList => words::word_list(language, &mut draw),
            Kind::Translate => words::translate(&self.fields, language, &mut draw),
            Kind::Talk => words::talk(language, &mut draw),
        }
    }
}

/// One of `texts`.
fn one<'t>(texts: &[&'t str], draw: &mut Draw) -> &'t str {
    draw.pick(texts).copied().unwrap_or_default()
}

/// The text of the language.
fn by<'t>(language: Language, en: &'t str, zh: &'t str) -> &'t str {
    match language {
        Language::En => en,
        Language::Zh => zh,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn policy() -> Policy {
        Policy::from_toml(crate::demo::POLICY).unwrap()
    }

    #[test]
    fn a_row_depends_on_seed_and_number_only() {
        let policy = policy();
        let (corpus, again) = (Corpus::new(&policy, 3), Corpus::new(&policy, 3));
        let rows: Vec<Row> = (0..200).map(|i| corpus.row(i)).collect();
        assert!((0..200).rev().all(|i| again.row(i) == rows[i as usize]));
        let other = Corpus::new(&policy, 4);
        assert!((0..200).filter(|&i| other.row(i) == rows[i as usize]).count() < 10);
    }

    #[test]
    fn the_corpus_holds_neither_the_policy_nor_its_form() {
        let policy = policy();
        let corpus = Corpus::new(&policy, 1);
        for i in 0..30_000 {
            let row = corpus.row(i);
            for text in [&row.user, &row.assistant] {
                for form in ["\"steps\":", "\"decision\":", "\"reasons\":", "missing_", "\"total\":"] {
                    assert!(!text.contains(form), "row {i}: {text}");
                }
            }
            // A step of the form has four columns; no answer here has rows of four.
            if let Ok(serde_json::Value::Array(list)) = serde_json::from_str(&row.assistant) {
                assert!(
                    list.iter().all(|item| item.as_array().is_none_or(|i| i.len() < 4)),
                    "row {i}: {}",
                    row.assistant
                );
            }
            assert!(loar_eval::credit::Answer::parse(&row.assistant).is_err(), "row {i}");
        }
    }

    #[test]
    fn rows_are_short_varied_and_of_every_kind() {
        let policy = policy();
        let corpus = Corpus::new(&policy, 1);
        let rows: Vec<Row> = ((1 << 30)..(1 << 30) + 20_000).map(|i| corpus.row(i)).collect();
        assert!(rows.iter().all(|r| !r.user.is_empty() && !r.assistant.is_empty()));
        let longest = rows.iter().map(|r| r.user.chars().count() + r.assistant.chars().count()).max().unwrap();
        assert!(longest < 700, "{longest}");
        let distinct: HashSet<&str> = rows.iter().map(|r| r.user.as_str()).collect();
        assert!(distinct.len() > 18_000, "{} distinct prompts", distinct.len());
    }
}
