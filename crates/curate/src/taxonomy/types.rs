//! The table of task types, as shipped and with the user's cues.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::options::OptionFault;

/// The table as shipped.
const BUILTIN: &str = include_str!("types.toml");

/// One task type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskType {
    /// From 1.
    pub number: u16,
    /// English name.
    pub en: String,
    /// Chinese name.
    pub zh: String,
    /// Group of types it belongs to.
    pub group: String,
    /// What an answer is: `L` label, `S` span, `T` text, `J` structured, `C` code, `N` number, `D`
    /// dialogue, `R` ordered list; `+` joins.
    pub contract: String,
    /// Description in both languages.
    pub about: String,
    /// Phrases that speak for it: `a+b` needs both in this order, `~` marks a weak one.
    pub cues: Vec<String>,
}

#[derive(Deserialize)]
struct File {
    #[serde(rename = "type")]
    types: Vec<TaskType>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnFile {
    #[serde(rename = "type")]
    types: Vec<Own>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Own {
    number: Spanned<u16>,
    cues: Spanned<Vec<String>>,
}

/// All task types.
#[derive(Clone, Debug)]
pub struct Taxonomy {
    types: Vec<TaskType>,
}

impl Taxonomy {
    /// Number of types.
    pub const TYPES: usize = 112;

    /// As shipped.
    ///
    /// # Panics
    /// Never with the shipped table; a test reads it.
    pub fn builtin() -> Self {
        let file: File = toml::from_str(BUILTIN).expect("the shipped table is valid");
        Taxonomy { types: file.types }
    }

    /// All types in order.
    pub fn types(&self) -> &[TaskType] {
        &self.types
    }

    /// A type by its number, from 1.
    pub fn get(&self, number: u16) -> Option<&TaskType> {
        self.types.get(usize::from(number).checked_sub(1)?)
    }

    /// Adds the cues of a user's file; gives all of its faults.
    pub fn extend(&mut self, name: &str, text: &str) -> Vec<OptionFault> {
        let line = |span: Option<Range<usize>>| span.map(|s| text[..s.start].matches('\n').count() + 1);
        let mend = "an entry is `[[type]]` with `number` (1 to 112) and `cues` (a list of phrases)";
        let own: OwnFile = match toml::from_str(text) {
            Ok(own) => own,
            Err(error) => {
                let fault = OptionFault::new(format!("cues: {name}"), error.message(), mend);
                return vec![OptionFault { line: line(error.span()), ..fault }];
            }
        };
        let mut faults = Vec::new();
        for entry in own.types {
            let number = *entry.number.get_ref();
            if !(1..=Self::TYPES).contains(&usize::from(number)) {
                let fault = OptionFault::new(format!("cues: {name}: number"), number.to_string(), "give 1 to 112");
                faults.push(OptionFault { line: line(Some(entry.number.span())), ..fault });
                continue;
            }
            let empty =
                entry.cues.get_ref().iter().any(|c| c.trim_start_matches('~').split('+').any(|p| p.trim().is_empty()));
            if empty || entry.cues.get_ref().is_empty() {
                let fault = OptionFault::new(
                    format!("cues: {name}: cues"),
                    "an empty phrase or list",
                    "write the phrase or leave it out",
                );
                faults.push(OptionFault { line: line(Some(entry.cues.span())), ..fault });
                continue;
            }
            let cues = entry.cues.into_inner().into_iter().map(|c| c.to_lowercase());
            self.types[usize::from(number) - 1].cues.extend(cues);
        }
        faults
    }
}
