//! The account of rows and tokens: everything that came in was trained, held out, masked, cut or
//! dropped, each with its reason, and the sums must agree.
//!
//! Takes what reading and rendering report, gives `ledger.json` and a table. A run whose ledger
//! does not add up, or that loses more than allowed, does not start.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Counts by reason.
pub type Reasons = BTreeMap<String, u64>;

/// The account of one side: training or evaluation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// Rows of the files.
    pub examples_read: u64,
    /// Of these, rows that became token rows.
    pub examples_used: u64,
    /// Of these, rows that were left out, by reason.
    pub examples_dropped: Reasons,
    /// Token rows made from the used examples: one per assistant turn where a template rewrites
    /// history, else one per example.
    pub rows: u64,
    /// Token rows that are trained (evaluated) on.
    pub rows_used: u64,
    /// Token rows left out, by reason.
    pub rows_dropped: Reasons,
    /// Used rows that were cut at their end.
    pub rows_cut: u64,
    /// Used rows whose last token is labelled and ends the turn.
    pub rows_with_end: u64,
    /// Tokens of all token rows.
    pub tokens: u64,
    /// Tokens with loss in used rows.
    pub tokens_labelled: u64,
    /// Tokens without loss in used rows, by reason.
    pub tokens_masked: Reasons,
    /// Tokens cut from used rows.
    pub tokens_cut: u64,
    /// Of the cut tokens, those that would have carried loss.
    pub labels_cut: u64,
    /// Tokens of rows left out, by reason.
    pub tokens_dropped: Reasons,
    /// Assistant turns in the used examples.
    pub turns: u64,
    /// Of these, turns with reasoning.
    pub turns_with_reasoning: u64,
    /// Places where tokenising prompt and answer as one text would give other ids than serving
    /// sees.
    pub joints_differing: u64,
}

/// One line of the account; what does not apply is absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// `in`, `labelled`, `masked`, `cut` or `dropped`.
    pub account: &'static str,
    /// Why.
    pub reason: String,
    /// Rows of the files.
    pub examples: Option<u64>,
    /// Token rows.
    pub rows: Option<u64>,
    /// Tokens.
    pub tokens: Option<u64>,
}

/// Both sides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Rows to train on.
    pub train: Side,
    /// Rows to evaluate on.
    pub eval: Side,
}

fn sum(reasons: &Reasons) -> u64 {
    reasons.values().sum()
}

impl Side {
    /// Sums that do not agree, in words.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut equal = |what: &str, whole: u64, parts: u64| {
            if whole != parts {
                faults.push(format!("{what}: {whole} came in, {parts} are accounted for"));
            }
        };
        equal("examples", self.examples_read, self.examples_used + sum(&self.examples_dropped));
        equal("rows", self.rows, self.rows_used + sum(&self.rows_dropped));
        let tokens = self.tokens_labelled + sum(&self.tokens_masked) + self.tokens_cut + sum(&self.tokens_dropped);
        equal("tokens", self.tokens, tokens);
        if self.rows_cut > self.rows_used || self.rows_with_end > self.rows_used || self.labels_cut > self.tokens_cut {
            faults.push("a part is larger than its whole".into());
        }
        faults
    }

    /// Largest share that was lost: of examples, of rows, of tokens, of labels cut.
    pub fn lost_fraction(&self) -> f64 {
        let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        [
            share(sum(&self.examples_dropped), self.examples_read),
            share(sum(&self.rows_dropped), self.rows),
            share(self.tokens_cut + sum(&self.tokens_dropped), self.tokens),
            share(self.labels_cut, self.tokens_labelled + self.labels_cut),
        ]
        .into_iter()
        .fold(0.0, f64::max)
    }

    /// Share of used rows that teach the model to end its turn; 1 without rows.
    pub fn end_rate(&self) -> f64 {
        if self.rows_used == 0 { 1.0 } else { self.rows_with_end as f64 / self.rows_used as f64 }
    }

    /// Share of assistant turns with reasoning; 0 without turns.
    pub fn think_rate(&self) -> f64 {
        if self.turns == 0 { 0.0 } else { self.turns_with_reasoning as f64 / self.turns as f64 }
    }

    /// The account, line by line.
    pub fn lines(&self) -> Vec<Line> {
        let line = |account, reason: &str, examples, rows, tokens| Line {
            account,
            reason: reason.to_owned(),
            examples,
            rows,
            tokens,
        };
        let mut lines = vec![
            line("in", "", Some(self.examples_read), Some(self.rows), Some(self.tokens)),
            line("labelled", "", Some(self.examples_used), Some(self.rows_used), Some(self.tokens_labelled)),
        ];
        lines.extend(self.tokens_masked.iter().map(|(r, n)| line("masked", r, None, None, Some(*n))));
        if self.rows_cut > 0 {
            lines.push(line("cut", "too long", None, Some(self.rows_cut), Some(self.tokens_cut)));
        }
        lines.extend(self.examples_dropped.iter().map(|(r, n)| line("dropped", r, Some(*n), None, None)));
        lines.extend(
            self.rows_dropped
                .iter()
                .map(|(r, n)| line("dropped", r, None, Some(*n), self.tokens_dropped.get(r).copied())),
        );
        lines
    }
}

impl Ledger {
    /// Sums that do not agree.
    pub fn faults(&self) -> Vec<String> {
        let side = |name: &'static str, s: &Side| {
            s.faults().into_iter().map(move |f| format!("{name} {f}")).collect::<Vec<_>>()
        };
        [side("training", &self.train), side("evaluation", &self.eval)].concat()
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cell = |n: Option<u64>| n.map_or_else(String::new, |n| n.to_string());
        write!(f, "{:<12}{:<10}{:<28}{:>12}{:>12}{:>14}", "side", "account", "reason", "examples", "rows", "tokens")?;
        for (name, side) in [("training", &self.train), ("evaluation", &self.eval)] {
            if side.examples_read == 0 {
                continue;
            }
            for line in side.lines() {
                let reason: String = match line.reason.chars().count() {
                    0..=27 => line.reason,
                    _ => line.reason.chars().take(26).chain(['…']).collect(),
                };
                let (examples, rows, tokens) = (cell(line.examples), cell(line.rows), cell(line.tokens));
                write!(f, "\n{name:<12}{:<10}{reason:<28}{examples:>12}{rows:>12}{tokens:>14}", line.account)?;
            }
            write!(
                f,
                "\n{name:<12}{:<10}{:.2} %; turns that end: {:.1} %; turns with reasoning: {:.1} %",
                "lost",
                100.0 * side.lost_fraction(),
                100.0 * side.end_rate(),
                100.0 * side.think_rate()
            )?;
        }
        Ok(())
    }
}
