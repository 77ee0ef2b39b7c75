//! What every rule would leave out, before it does: counts, shares and examples.

use serde::Serialize;

use super::Op;
use crate::batch::Batch;
use crate::operator::Action;

/// A row that a rule speaks against.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Example {
    /// Number of the row over all input.
    pub row: u64,
    /// Number of its file.
    pub source: u32,
    /// Its line there.
    pub line: u64,
    /// What was measured.
    pub value: f64,
    /// The beginning of the text, at most 160 characters.
    pub text: String,
}

/// One rule over all rows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Killed {
    /// `set/id`.
    pub rule: String,
    /// What the rule does.
    pub action: Action,
    /// Least and greatest value that pass.
    pub min: Option<f64>,
    /// See `min`.
    pub max: Option<f64>,
    /// Rows with a text that the rule looked at.
    pub looked_at: u64,
    /// Rows it speaks against.
    pub rows: u64,
    /// Those over all rows.
    pub share: f64,
    /// Rows that no other dropping rule speaks against.
    pub alone: u64,
    /// The first of them.
    pub examples: Vec<Example>,
}

/// Counts for every rule; batches may come in any order and counts be merged.
pub struct Preview<'o> {
    op: &'o Op,
    examples: usize,
    rows: u64,
    dropped: u64,
    killed: Vec<Killed>,
}

impl<'o> Preview<'o> {
    /// With at most `examples` for each rule.
    pub fn new(op: &'o Op, examples: usize) -> Self {
        let killed = op.rules().iter().map(|rule| Killed {
            rule: rule.name.clone(),
            action: rule.action,
            min: rule.min,
            max: rule.max,
            looked_at: 0,
            rows: 0,
            share: 0.0,
            alone: 0,
            examples: Vec::new(),
        });
        Preview { op, examples, rows: 0, dropped: 0, killed: killed.collect() }
    }

    /// Looks at every row with every rule.
    pub fn add(&mut self, batch: &Batch) {
        for row in batch.rows() {
            self.rows += 1;
            let mut broken: Vec<(usize, f64, Option<crate::operator::Place>)> = Vec::new();
            let mut looked = vec![false; self.killed.len()];
            self.op.judge(batch, &row, |rule, place, value, bound| {
                looked[rule] = true;
                if bound.is_some() && !broken.iter().any(|(known, ..)| *known == rule) {
                    broken.push((rule, value, place));
                }
            });
            for (killed, looked) in self.killed.iter_mut().zip(looked) {
                killed.looked_at += u64::from(looked);
            }
            let drops = broken.iter().filter(|(rule, ..)| self.killed[*rule].action == Action::Drop).count();
            self.dropped += u64::from(drops > 0);
            for (rule, value, place) in broken {
                let killed = &mut self.killed[rule];
                killed.rows += 1;
                killed.alone += u64::from(drops == 1 && killed.action == Action::Drop);
                let turn = place.map_or(row.turns().len().saturating_sub(1), |place| place.turn);
                let text = row.turns().nth(turn).map(|turn| match place {
                    Some(place) if place.field == crate::operator::Field::Reasoning => {
                        turn.reasoning.unwrap_or_default()
                    }
                    _ => turn.content,
                });
                killed.examples.push(Example {
                    row: row.number(),
                    source: row.source(),
                    line: row.line(),
                    value,
                    text: text.unwrap_or_default().chars().take(160).collect(),
                });
                self.trim(rule);
            }
        }
    }

    /// The rows with the least numbers stay, whatever the order of batches.
    fn trim(&mut self, rule: usize) {
        let examples = &mut self.killed[rule].examples;
        if examples.len() > self.examples {
            examples.sort_by_key(|example| example.row);
            examples.truncate(self.examples);
        }
    }

    /// Takes in what another preview of the same rules counted.
    pub fn merge(&mut self, other: Preview<'o>) {
        self.rows += other.rows;
        self.dropped += other.dropped;
        for (rule, more) in other.killed.into_iter().enumerate() {
            let killed = &mut self.killed[rule];
            killed.looked_at += more.looked_at;
            killed.rows += more.rows;
            killed.alone += more.alone;
            killed.examples.extend(more.examples);
            self.trim(rule);
        }
    }

    /// Rows looked at, and rows that at least one rule drops.
    pub fn rows(&self) -> (u64, u64) {
        (self.rows, self.dropped)
    }

    /// The rules in order of their files.
    pub fn finish(mut self) -> Vec<Killed> {
        for killed in &mut self.killed {
            killed.share = if self.rows == 0 { 0.0 } else { killed.rows as f64 / self.rows as f64 };
            killed.examples.sort_by_key(|example| example.row);
        }
        self.killed
    }
}
