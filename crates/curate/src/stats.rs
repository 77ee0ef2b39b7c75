//! What the rows of a set are like: lengths, turns, languages, task types. Counts only, so that
//! shards are counted apart and added.

use std::collections::BTreeMap;

use arrow_array::{Array, StringArray, UInt16Array};
use serde::{Deserialize, Serialize};

use crate::batch::Batch;
use crate::split::Part;

/// A histogram over powers of two: bin i counts values from 2^(i−1) to 2^i − 1, bin 0 zeros.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Histogram(pub Vec<u64>);

impl Histogram {
    /// Counts a value.
    pub fn count(&mut self, value: u64, times: u64) {
        let bin = (u64::BITS - value.leading_zeros()) as usize;
        if self.0.len() <= bin {
            self.0.resize(bin + 1, 0);
        }
        self.0[bin] += times;
    }

    /// Adds another histogram.
    pub fn add(&mut self, other: &Histogram) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        self.0.iter_mut().zip(&other.0).for_each(|(have, more)| *have += more);
    }
}

/// Of one part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartStats {
    /// Rows, repetitions by weight included.
    pub rows: u64,
    /// Characters of requests.
    pub request_chars: Histogram,
    /// Characters of responses.
    pub response_chars: Histogram,
    /// Characters of chains of thought, of rows that have one.
    pub reasoning_chars: Histogram,
    /// Turns, the system's left out.
    pub turns: Histogram,
    /// Rows by language.
    pub languages: BTreeMap<String, u64>,
    /// Rows by number of the task type; 0 for unknown.
    pub task_types: BTreeMap<u16, u64>,
}

/// Of all parts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stats(pub BTreeMap<Part, PartStats>);

impl Stats {
    /// Counts rows of a batch: part and repetitions of each; rows with none are left out.
    pub fn count(&mut self, batch: &Batch, written: &[(Part, u64)]) {
        let text = |name: &str| batch.added(name).and_then(|c| c.as_any().downcast_ref::<StringArray>().cloned());
        let number = |name: &str| batch.added(name).and_then(|c| c.as_any().downcast_ref::<UInt16Array>().cloned());
        let (languages, types) = (text("language"), number("task_type"));
        for (row, &(part, times)) in batch.rows().zip(written) {
            if times == 0 {
                continue;
            }
            let stats = self.0.entry(part).or_default();
            let (mut request, mut response, mut reasoning, mut turns) = (0, 0, 0, 0);
            for turn in row.turns() {
                let chars = |text: &str| text.chars().count() as u64;
                request += if turn.is_request() { chars(turn.content) } else { 0 };
                response += if turn.is_response() { chars(turn.content) } else { 0 };
                reasoning += turn.reasoning.map_or(0, chars);
                turns += u64::from(turn.role != "system");
            }
            stats.rows += times;
            stats.request_chars.count(request, times);
            stats.response_chars.count(response, times);
            if reasoning > 0 {
                stats.reasoning_chars.count(reasoning, times);
            }
            stats.turns.count(turns, times);
            if let Some(languages) = &languages {
                let language = languages.value(row.index());
                match stats.languages.get_mut(language) {
                    Some(count) => *count += times,
                    None => drop(stats.languages.insert(language.to_owned(), times)),
                }
            }
            if let Some(types) = &types {
                let kind = if types.is_valid(row.index()) { types.value(row.index()) } else { 0 };
                *stats.task_types.entry(kind).or_default() += times;
            }
        }
    }

    /// Adds the counts of other rows.
    pub fn add(&mut self, other: &Stats) {
        for (part, more) in &other.0 {
            let have = self.0.entry(*part).or_default();
            have.rows += more.rows;
            have.request_chars.add(&more.request_chars);
            have.response_chars.add(&more.response_chars);
            have.reasoning_chars.add(&more.reasoning_chars);
            have.turns.add(&more.turns);
            more.languages.iter().for_each(|(name, n)| *have.languages.entry(name.clone()).or_default() += n);
            more.task_types.iter().for_each(|(kind, n)| *have.task_types.entry(*kind).or_default() += n);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_are_powers_of_two_and_add_up() {
        let mut one = Histogram::default();
        [0, 1, 2, 3, 4, 1023, 1024].into_iter().for_each(|value| one.count(value, 1));
        assert_eq!(one.0, [1, 1, 2, 1, 0, 0, 0, 0, 0, 0, 1, 1]);
        let mut other = Histogram::default();
        other.count(1 << 12, 5);
        other.add(&one);
        assert_eq!((other.0.len(), other.0[13], other.0.iter().sum::<u64>()), (14, 5, 12));
    }
}
