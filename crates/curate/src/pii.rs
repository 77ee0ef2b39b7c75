//! Personal data: identifiers of China with their check digits, phones, cards, plates, papers,
//! accounts and names by context, addresses of mail and machines, IBAN and US numbers. Each kind
//! has a policy: taken out, replaced by a consistent fake, noted, or the row dropped.
//!
//! Evidence never holds the value: findings carry its masked form. Full width digits are read as
//! digits. What only a check digit can tell (15 digits in a row) is checked; what nothing can tell
//! (a bare eight-digit permit) is found only where the text names it.

mod checks;
mod context;
mod kind;
mod scan;
mod surrogate;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::batch::Batch;
use crate::language;
use crate::normalize::{COMPATIBLE, fold, origin};
use crate::operator::{Action, Edit, Finding, Operator, Outcome};
use crate::options::OptionFault;
pub use context::Context;
pub use kind::Kind;
pub use scan::{Found, Wanted, scan};
pub use surrogate::surrogate;

/// What becomes of a kind of personal data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// A label in its place: `[手机号]` in a Chinese text, `[MOBILE]` in any other.
    #[default]
    Redact,
    /// A fake in its place, the same for the same value in the whole set.
    Surrogate,
    /// The row is left out.
    Drop,
    /// A note; the text stays.
    Note,
    /// Not looked at.
    Off,
}

/// Options of the stage `pii`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// What becomes of kinds that `kinds` does not name: `redact`, `surrogate`, `drop`, `note` or
    /// `off`. Default `redact`.
    pub policy: Policy,
    /// Policies by kind, such as `{ email = "surrogate" }`. Default `{ credit-code = "note",
    /// name = "note" }`: codes of companies are public, and names found by context need an eye.
    pub kinds: BTreeMap<Kind, Policy>,
    /// File with the key of surrogates: any bytes, at least 16. Whoever has it can test guesses.
    /// The key itself is in no manifest. Needed for `surrogate`. Default none.
    pub key_file: Option<PathBuf>,
    /// Surrogates pass their check digits. Default false: they can never be a real number.
    pub valid_surrogates: bool,
    /// Private, loopback and documentation addresses count too. Default false.
    pub private_ips: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            policy: Policy::default(),
            kinds: BTreeMap::from([(Kind::CreditCode, Policy::Note), (Kind::Name, Policy::Note)]),
            key_file: None,
            valid_surrogates: false,
            private_ips: false,
        }
    }
}

/// The stage `pii`.
pub struct Op {
    options: Options,
    context: Context,
    key: String,
}

impl Op {
    /// # Errors
    /// All faults of the options.
    pub fn new(options: Options) -> Result<Op, Vec<OptionFault>> {
        let mut faults = Vec::new();
        let mut key = String::new();
        let fakes = Kind::ALL.iter().any(|kind| policy(&options, *kind) == Policy::Surrogate);
        match &options.key_file {
            Some(path) => match std::fs::read(path) {
                Ok(bytes) if bytes.len() >= 16 => key = bytes.iter().map(|b| format!("{b:02x}")).collect(),
                Ok(bytes) => {
                    let found = format!("{}: {} bytes", path.display(), bytes.len());
                    faults.push(OptionFault::new("key_file", found, "write at least 16 random bytes into it"));
                }
                Err(error) => {
                    let found = format!("{}: {error}", path.display());
                    faults.push(OptionFault::new("key_file", found, "name a file that can be read"));
                }
            },
            None if fakes => {
                let mend = "name a file with at least 16 random bytes: without a key anyone can test guesses";
                faults.push(OptionFault::new("key_file", "none, and a policy is `surrogate`", mend));
            }
            None => {}
        }
        if faults.is_empty() { Ok(Op { options, context: Context::new(), key }) } else { Err(faults) }
    }

    /// What is found in a text, by its own bytes, for kinds that are not off.
    pub fn find(&self, text: &str) -> Vec<Found> {
        let wanted = Wanted { private_ips: self.options.private_ips };
        // ０ to ９ are EF BC 90 to EF BC 99.
        let wide = memchr::memmem::find_iter(text.as_bytes(), b"\xEF\xBC")
            .any(|at| text.as_bytes().get(at + 2).is_some_and(|b| (0x90..=0x99).contains(b)));
        let mut found = if wide {
            let view = fold(text, COMPATIBLE);
            let there = scan(&view, &self.context, wanted);
            there.into_iter().map(|f| Found { at: origin(text, COMPATIBLE, f.at), ..f }).collect()
        } else {
            scan(text, &self.context, wanted)
        };
        found.retain(|f| policy(&self.options, f.kind) != Policy::Off);
        found
    }

    fn replacement(&self, kind: Kind, value: &str, chinese: bool) -> Option<String> {
        match policy(&self.options, kind) {
            Policy::Redact => Some(kind.label(chinese).to_owned()),
            Policy::Surrogate => {
                let plain = fold(value, COMPATIBLE);
                Some(surrogate(kind, &plain, &self.key, self.options.valid_surrogates))
            }
            Policy::Drop | Policy::Note | Policy::Off => None,
        }
    }
}

fn policy(options: &Options, kind: Kind) -> Policy {
    options.kinds.get(&kind).copied().unwrap_or(options.policy)
}

/// The shape of a value: every letter and digit a `*`, but the first and the last of eight or more.
pub fn masked(value: &str) -> String {
    let count = value.chars().count();
    let shown = |at: usize| count >= 8 && (at == 0 || at + 1 == count);
    value.chars().enumerate().map(|(at, c)| if c.is_alphanumeric() && !shown(at) { '*' } else { c }).collect()
}

/// Text with parts replaced, in order of their places.
fn replaced(text: &str, parts: &[(Range<usize>, String)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    for (at, new) in parts {
        out.push_str(&text[from..at.start]);
        out.push_str(new);
        from = at.end;
    }
    out + &text[from..]
}

impl Operator for Op {
    fn name(&self) -> &'static str {
        "pii"
    }

    fn version(&self) -> u32 {
        1
    }

    fn apply(&self, batch: &Batch) -> Outcome {
        let mut outcome = Outcome::default();
        for row in batch.rows() {
            for (turn, field, text) in row.texts() {
                let found = self.find(text);
                if found.is_empty() {
                    continue;
                }
                let chinese = language::scripts(text).han_share() > 0.2;
                let mut parts = Vec::new();
                for Found { kind, at } in found {
                    let value = &text[at.clone()];
                    let action = match policy(&self.options, kind) {
                        Policy::Redact | Policy::Surrogate => Action::Edit,
                        Policy::Drop => Action::Drop,
                        Policy::Note | Policy::Off => Action::Note,
                    };
                    let finding = Finding::new(row.index(), kind.rule(), action).at(turn, field, at.clone());
                    outcome.findings.push(finding.note(masked(value)));
                    if let Some(new) = self.replacement(kind, value, chinese) {
                        parts.push((at, new));
                    }
                }
                if !parts.is_empty() {
                    outcome.edits.push(Edit { row: row.index(), turn, field, text: replaced(text, &parts) });
                }
            }
        }
        outcome
    }
}
