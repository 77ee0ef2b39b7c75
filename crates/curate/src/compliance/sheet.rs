//! The sheet for checking by hand: one JSON file with the drawn rows and an empty verdict for each,
//! which people fill in and [`Sheet::rates`] reads back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::lexicon::CATEGORIES;
use super::sampling::Plan;
use crate::batch::Row;

/// What a person says about a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing is wrong with it.
    Sound,
    /// It must not be in the set.
    Bad,
}

/// One row to be checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Number of the row over all input.
    pub row: u64,
    /// Its file.
    pub source: String,
    /// Its line there.
    pub line: u64,
    /// Its turns as (role, text).
    pub turns: Vec<(String, String)>,
    /// To be filled in: `sound` or `bad`.
    pub verdict: Option<Verdict>,
    /// To be filled in for a bad row: one of the sheet's categories.
    pub category: Option<String>,
    /// To be filled in: who.
    pub checked_by: Option<String>,
    /// Anything else.
    pub remark: Option<String>,
}

/// The sheet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sheet {
    /// What was asked for.
    pub plan: Plan,
    /// Rows of the whole set.
    pub rows: u64,
    /// Categories that a bad row may be given, with what they mean.
    pub categories: BTreeMap<String, String>,
    /// The rows drawn.
    pub items: Vec<Item>,
}

impl Item {
    /// A row without a verdict.
    pub fn new(row: &Row<'_>, source: &str) -> Item {
        let mut turns = Vec::new();
        for turn in row.turns() {
            if let Some(reasoning) = turn.reasoning.filter(|text| !text.is_empty()) {
                turns.push((format!("{} (reasoning)", turn.role), reasoning.to_owned()));
            }
            turns.push((turn.role.to_owned(), turn.content.to_owned()));
        }
        Item {
            row: row.number(),
            source: source.to_owned(),
            line: row.line(),
            turns,
            verdict: None,
            category: None,
            checked_by: None,
            remark: None,
        }
    }
}

/// What a filled sheet says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Sound and checked.
    pub all: (u64, u64),
    /// The same by source.
    pub sources: BTreeMap<String, (u64, u64)>,
    /// Rows of items that are not filled in, or not as the sheet asks, with what is wrong.
    pub faults: Vec<(u64, String)>,
}

impl Sheet {
    /// A sheet for rows drawn from `rows`.
    pub fn new(plan: Plan, rows: u64, items: Vec<Item>) -> Sheet {
        let categories = CATEGORIES.iter().map(|(name, about)| ((*name).to_owned(), (*about).to_owned())).collect();
        Sheet { plan, rows, categories, items }
    }

    /// Counts of a filled sheet. An item without a verdict is not checked, and is named.
    pub fn rates(&self) -> Rates {
        let mut rates = Rates { all: (0, 0), sources: BTreeMap::new(), faults: Vec::new() };
        for item in &self.items {
            let unknown = item.category.as_ref().filter(|category| !self.categories.contains_key(*category));
            let fault = match (item.verdict, &item.category, unknown) {
                (None, ..) => Some("no verdict".to_owned()),
                (_, _, Some(category)) => Some(format!("no category `{category}`")),
                (Some(Verdict::Bad), None, _) => Some("bad, without a category".to_owned()),
                (Some(Verdict::Sound), Some(_), _) => Some("sound, with a category".to_owned()),
                _ if item.checked_by.as_ref().is_none_or(|who| who.trim().is_empty()) => {
                    Some("nobody checked it".to_owned())
                }
                _ => None,
            };
            if let Some(fault) = fault {
                rates.faults.push((item.row, fault));
                continue;
            }
            let sound = u64::from(item.verdict == Some(Verdict::Sound));
            let source = rates.sources.entry(item.source.clone()).or_default();
            *source = (source.0 + sound, source.1 + 1);
            rates.all = (rates.all.0 + sound, rates.all.1 + 1);
        }
        rates
    }
}
