//! The path of a row, as a type that cannot be skipped: draft → rules → (a model's second opinion)
//! → three blind checks by three annotators → gate on agreement and posterior → accepted, or a
//! fourth person decides → accepted or rejected; accepted rows may be drawn and checked again.
//!
//! An [`Item`] changes only through [`Item::apply`], which takes an event or refuses it, so every
//! item's stage is what its events prove. Events are plain data with who, when, what, how long and
//! under which guideline.

use std::collections::BTreeMap;
use std::fmt;

use loar_artifact::ContentId;
use serde::{Deserialize, Serialize};

use crate::judge::Verdict;
use crate::task::{Role, Task};

/// Chosen labels of each rubric.
pub type Labels = BTreeMap<String, Vec<String>>;

/// Checks a row needs.
pub const CHECKS: usize = 3;
/// α from which a batch is reliable (Krippendorff's cut-off).
pub const RELIABLE: f64 = 0.800;
/// α below which its guideline must be rewritten; between the two it is tentative.
pub const TENTATIVE: f64 = 0.667;
/// Posterior from which the experts' common label is taken.
pub const POSTERIOR: f64 = 0.95;
/// Who acts when no person does.
pub const SYSTEM: &str = "loar";

/// What one person says about a row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// A label for each rubric.
    pub labels: Labels,
    /// The answer as it should read, when it was changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correction: Option<String>,
    /// A remark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// Where the gate sends a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The experts' common answer stands.
    Pass,
    /// A fourth person decides.
    Adjudicate,
    /// The guideline is rewritten and the batch checked again.
    Stop,
}

/// What the gate saw and decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    /// α of each rubric over the batch; undefined where only one value occurs.
    pub alpha: BTreeMap<String, Option<f64>>,
    /// Dawid–Skene posterior of the experts' likeliest labels, the product over rubrics.
    pub posterior: f64,
    /// Where the row goes.
    pub outcome: Outcome,
}

impl Gate {
    /// The decision: an α below .667 stops; a tentative or undefined α, a disagreement or a low
    /// posterior adjudicates; the rest passes.
    pub fn decide(task: &Task, alpha: &BTreeMap<String, Option<f64>>, unanimous: bool, posterior: f64) -> Outcome {
        let of = |name: &String| alpha.get(name).copied().flatten();
        if task.rubrics.iter().any(|r| of(&r.name).is_some_and(|a| a < TENTATIVE)) {
            return Outcome::Stop;
        }
        let reliable = task.rubrics.iter().all(|r| of(&r.name).map_or(r.constant_ok, |a| a >= RELIABLE));
        if reliable && unanimous && posterior >= POSTERIOR { Outcome::Pass } else { Outcome::Adjudicate }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub enum Action {
    /// The store was made for rubrics with this id.
    Opened {
        /// [`Task::rubrics_id`].
        rubrics: String,
    },
    /// A guideline came into force; the event's `guideline` is its version.
    Guideline {
        /// Its text.
        text: String,
    },
    /// A row came in.
    Imported {
        /// File and line.
        source: String,
        /// Hash of the stored row.
        content: ContentId,
        /// Its batch; gold has none.
        batch: Option<u32>,
        /// Its known labels.
        gold: Option<Labels>,
    },
    /// The rules were applied.
    Screened {
        /// Rules with versions.
        rules: Vec<String>,
        /// Those it broke.
        failed: Vec<String>,
    },
    /// A model gave its opinion.
    Judged(Verdict),
    /// An annotator checked it, blind.
    Checked(Answer),
    /// The gate decided.
    Gated(Gate),
    /// Checks begin anew under a new guideline.
    Reopened,
    /// The fourth person decided.
    Adjudicated {
        /// Their answer.
        #[serde(flatten)]
        answer: Answer,
        /// False: not to be trained on, whatever its labels.
        keep: bool,
    },
    /// Drawn for a second look.
    Drawn,
    /// Looked at again, blind.
    Audited(Answer),
}

impl Action {
    /// Its name in events.
    pub fn name(&self) -> &'static str {
        match self {
            Action::Opened { .. } => "opened",
            Action::Guideline { .. } => "guideline",
            Action::Imported { .. } => "imported",
            Action::Screened { .. } => "screened",
            Action::Judged(_) => "judged",
            Action::Checked(_) => "checked",
            Action::Gated(_) => "gated",
            Action::Reopened => "reopened",
            Action::Adjudicated { .. } => "adjudicated",
            Action::Drawn => "drawn",
            Action::Audited(_) => "audited",
        }
    }
}

/// Who did what, when, for how long, under which guideline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// Position in the log, from 1.
    pub seq: u64,
    /// RFC 3339, UTC.
    pub at: String,
    /// A person, [`SYSTEM`] or `judge`.
    pub who: String,
    /// The row, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<u64>,
    /// Seconds a person spent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u32>,
    /// Version of the guideline that was shown.
    pub guideline: String,
    /// What.
    pub action: Action,
}

/// Where a row stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Read, not looked at.
    Draft,
    /// Broke a rule.
    Refused,
    /// Known labels: measures annotators, is never trained on.
    Gold,
    /// Waits for checks.
    Open,
    /// Has its three checks, waits for its batch.
    Checked,
    /// Agreement too low: waits for a new guideline.
    Stopped,
    /// Waits for the fourth person.
    Adjudication,
    /// Accepted, waits for its second look.
    Audit,
    /// Accepted.
    Accepted,
    /// Not to be trained on.
    Rejected,
}

/// One check of the present round.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// Who.
    pub who: String,
    /// What.
    pub answer: Answer,
    /// How long.
    pub seconds: u32,
    /// Position of its event: the order of an annotator's work.
    pub seq: u64,
}

/// What became of a row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decision {
    /// Labels and correction that stand.
    pub answer: Answer,
    /// Whether it may be trained on.
    pub keep: bool,
    /// The adjudicator, if one decided.
    pub by: Option<String>,
}

/// A row on its path.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    stage: Stage,
    source: String,
    content: ContentId,
    batch: Option<u32>,
    gold: Option<Labels>,
    round: u32,
    checks: Vec<Check>,
    /// Everybody who checked it in an earlier round.
    earlier: Vec<String>,
    stopped_under: String,
    gate: Option<Gate>,
    decision: Option<Decision>,
    audit: Option<(String, Answer, bool)>,
    verdict: Option<Verdict>,
}

/// Why an event is not possible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The stage does not lead there.
    #[error("a row that is {stage:?} cannot be {action}")]
    Stage {
        /// Where it stands.
        stage: Stage,
        /// What was asked.
        action: &'static str,
    },
    /// Somebody else's part.
    #[error("`{who}` may not do that: {why}")]
    Person {
        /// Who.
        who: String,
        /// Why not.
        why: &'static str,
    },
    /// Labels that the rubrics do not know.
    #[error("{}", .0.join("; "))]
    Labels(Vec<String>),
    /// A gate that decided otherwise than its numbers say.
    #[error("the gate says {said:?}, its numbers say {numbers:?}")]
    Gate {
        /// Of the event.
        said: Outcome,
        /// Of [`Gate::decide`].
        numbers: Outcome,
    },
    /// Checks begin anew only under another guideline.
    #[error("the guideline {0} is the one under which agreement was too low; rewrite it")]
    SameGuideline(String),
}

impl Item {
    /// The item that an [`Action::Imported`] begins.
    ///
    /// # Errors
    /// Any other action.
    pub fn begin(event: &Event, task: &Task) -> Result<Item, Refusal> {
        let Action::Imported { source, content, batch, gold } = &event.action else {
            return Err(Refusal::Stage { stage: Stage::Draft, action: event.action.name() });
        };
        by_system(event)?;
        if let Some(labels) = gold {
            known(task, labels)?;
        }
        Ok(Item {
            stage: Stage::Draft,
            source: source.clone(),
            content: *content,
            batch: *batch,
            gold: gold.clone(),
            round: 1,
            checks: Vec::new(),
            earlier: Vec::new(),
            stopped_under: String::new(),
            gate: None,
            decision: None,
            audit: None,
            verdict: None,
        })
    }

    /// Takes an event or refuses it; a refused event changes nothing.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn apply(&mut self, event: &Event, task: &Task) -> Result<(), Refusal> {
        match (self.stage, &event.action) {
            (Stage::Draft, Action::Screened { failed, .. }) => {
                by_system(event)?;
                self.stage = match (failed.is_empty(), &self.gold) {
                    (false, _) => Stage::Refused,
                    (true, Some(_)) => Stage::Gold,
                    (true, None) => Stage::Open,
                };
            }
            (Stage::Open | Stage::Gold, Action::Checked(answer)) => {
                has_role(event, task, Role::Annotator)?;
                known(task, &answer.labels)?;
                if self.checks.iter().any(|c| c.who == event.who) {
                    return Err(person(event, "they checked this row already"));
                }
                let seconds = event.seconds.unwrap_or(0);
                self.checks.push(Check { who: event.who.clone(), answer: answer.clone(), seconds, seq: event.seq });
                if self.stage == Stage::Open && self.checks.len() == CHECKS {
                    self.stage = Stage::Checked;
                }
            }
            (Stage::Checked, Action::Gated(gate)) => {
                by_system(event)?;
                let consensus = self.consensus();
                let numbers = Gate::decide(task, &gate.alpha, consensus.is_some(), gate.posterior);
                if numbers != gate.outcome {
                    return Err(Refusal::Gate { said: gate.outcome, numbers });
                }
                self.gate = Some(gate.clone());
                match (gate.outcome, consensus) {
                    (Outcome::Pass, Some(answer)) => self.decide(answer, None, true, task),
                    (Outcome::Stop, _) => {
                        self.stage = Stage::Stopped;
                        self.stopped_under.clone_from(&event.guideline);
                    }
                    _ => self.stage = Stage::Adjudication,
                }
            }
            (Stage::Stopped, Action::Reopened) => {
                by_system(event)?;
                if event.guideline == self.stopped_under {
                    return Err(Refusal::SameGuideline(event.guideline.clone()));
                }
                self.earlier.extend(self.checks.drain(..).map(|c| c.who));
                self.gate = None;
                self.round += 1;
                self.stage = Stage::Open;
            }
            (Stage::Adjudication, Action::Adjudicated { answer, keep }) => {
                self.fourth(event, task)?;
                known(task, &answer.labels)?;
                self.decide(answer.clone(), Some(event.who.clone()), *keep, task);
            }
            (Stage::Accepted, Action::Drawn) if self.audit.is_none() => {
                by_system(event)?;
                self.stage = Stage::Audit;
            }
            (Stage::Audit, Action::Audited(answer)) => {
                self.fourth(event, task)?;
                known(task, &answer.labels)?;
                let by = self.decision.as_ref().and_then(|d| d.by.as_ref());
                if by == Some(&event.who) {
                    return Err(person(event, "they decided this row themselves"));
                }
                let agrees = self.decision.as_ref().is_some_and(|d| d.answer.labels == answer.labels);
                self.stage = if agrees { Stage::Accepted } else { Stage::Rejected };
                self.audit = Some((event.who.clone(), answer.clone(), agrees));
            }
            (stage, Action::Judged(verdict)) if !matches!(stage, Stage::Draft | Stage::Refused) => {
                if event.who != "judge" {
                    return Err(person(event, "only the judge gives verdicts"));
                }
                self.verdict = Some(verdict.clone());
            }
            (stage, action) => return Err(Refusal::Stage { stage, action: action.name() }),
        }
        Ok(())
    }

    fn decide(&mut self, answer: Answer, by: Option<String>, keep: bool, task: &Task) {
        let keep = keep && task.keeps(&answer.labels);
        self.stage = if keep { Stage::Accepted } else { Stage::Rejected };
        self.decision = Some(Decision { answer, keep, by });
    }

    /// An adjudicator who gave no check of this row in any round.
    fn fourth(&self, event: &Event, task: &Task) -> Result<(), Refusal> {
        has_role(event, task, Role::Adjudicator)?;
        if self.checkers().any(|who| who == event.who) {
            return Err(person(event, "they are one of those who checked this row"));
        }
        Ok(())
    }

    /// The common answer of all three, if labels and corrections are the same.
    pub fn consensus(&self) -> Option<Answer> {
        let first = &self.checks.first()?.answer;
        let same = |c: &Check| c.answer.labels == first.labels && c.answer.correction == first.correction;
        (self.checks.len() >= CHECKS && self.checks.iter().all(same)).then(|| Answer { note: None, ..first.clone() })
    }

    /// Everybody who checked it, in any round.
    pub fn checkers(&self) -> impl Iterator<Item = &str> {
        self.earlier.iter().map(String::as_str).chain(self.checks.iter().map(|c| c.who.as_str()))
    }

    /// Where it stands.
    pub fn stage(&self) -> Stage {
        self.stage
    }
    /// File and line it came from.
    pub fn source(&self) -> &str {
        &self.source
    }
    /// Hash of the stored row.
    pub fn content(&self) -> ContentId {
        self.content
    }
    /// Its batch; gold has none.
    pub fn batch(&self) -> Option<u32> {
        self.batch
    }
    /// Its known labels.
    pub fn gold(&self) -> Option<&Labels> {
        self.gold.as_ref()
    }
    /// Round of checks, from 1.
    pub fn round(&self) -> u32 {
        self.round
    }
    /// Checks of this round.
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }
    /// What the gate saw.
    pub fn gate(&self) -> Option<&Gate> {
        self.gate.as_ref()
    }
    /// What became of it.
    pub fn decision(&self) -> Option<&Decision> {
        self.decision.as_ref()
    }
    /// The second look: who, their answer, whether it agreed.
    pub fn audit(&self) -> Option<&(String, Answer, bool)> {
        self.audit.as_ref()
    }
    /// The newest verdict of the judge.
    pub fn verdict(&self) -> Option<&Verdict> {
        self.verdict.as_ref()
    }
}

fn person(event: &Event, why: &'static str) -> Refusal {
    Refusal::Person { who: event.who.clone(), why }
}

fn by_system(event: &Event) -> Result<(), Refusal> {
    if event.who == SYSTEM { Ok(()) } else { Err(person(event, "only the program does that")) }
}

fn has_role(event: &Event, task: &Task, role: Role) -> Result<(), Refusal> {
    match task.role(&event.who) {
        Some(found) if found == role => Ok(()),
        Some(_) => Err(person(event, "it is not their role")),
        None => Err(person(event, "the task file does not name them")),
    }
}

fn known(task: &Task, labels: &Labels) -> Result<(), Refusal> {
    let faults = task.label_faults(labels);
    if faults.is_empty() { Ok(()) } else { Err(Refusal::Labels(faults)) }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Draft => "draft",
            Stage::Refused => "refused",
            Stage::Gold => "gold",
            Stage::Open => "open",
            Stage::Checked => "checked",
            Stage::Stopped => "stopped",
            Stage::Adjudication => "adjudication",
            Stage::Audit => "audit",
            Stage::Accepted => "accepted",
            Stage::Rejected => "rejected",
        })
    }
}
