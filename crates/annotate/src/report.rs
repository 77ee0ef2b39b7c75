//! What the events say: how far raters agree on each rubric, how good each annotator is, what the
//! gates decided, what the second look found, and how reliable the model's opinion is.
//!
//! Takes a store, gives numbers that each carry their n; nothing here decides, gates do.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::agreement::{Interval, Metric, Ratings, Values};
use crate::dawid_skene::{self, Estimate, Options, Vote};
use crate::judge::{self, JudgeReport};
use crate::kappa::{Weights, cohen, fleiss, gwet_ac1, mean_pair_agreement};
use crate::log::{Head, State};
use crate::proportion::{acceptance_number, wilson};
use crate::store::Store;
use crate::task::{Role, Rubric, Scale, Task};
use crate::workflow::{Item, Labels, RELIABLE, Stage, TENTATIVE};

/// Resamples behind every interval.
pub const RESAMPLES: usize = 1000;
/// Gold answers behind a rolling accuracy.
pub const ROLLING: usize = 50;

/// The whole report.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Name of the task.
    pub task: String,
    /// End of the log it rests on.
    pub head: Head,
    /// Version of the guideline in force.
    pub guideline: String,
    /// Rows by stage.
    pub stages: BTreeMap<String, usize>,
    /// Agreement on each rubric.
    pub rubrics: Vec<RubricReport>,
    /// Work of each annotator.
    pub annotators: Vec<AnnotatorReport>,
    /// Gates, newest round of each batch.
    pub batches: Vec<BatchReport>,
    /// The second look.
    pub audit: AuditReport,
    /// The model, if it gave verdicts.
    pub judge: Option<JudgeReport>,
}

/// Agreement on one rubric over all rows with two checks.
#[derive(Clone, Debug, Serialize)]
pub struct RubricReport {
    /// Name.
    pub name: String,
    /// Scale.
    pub scale: Scale,
    /// Rows with two checks or more.
    pub units: usize,
    /// Krippendorff's α on the rubric's scale.
    pub alpha: Option<f64>,
    /// Its bootstrap interval over rows.
    pub interval: Option<Interval>,
    /// `reliable`, `tentative`, `unreliable` or `undefined`, by Krippendorff's cut-offs.
    pub verdict: &'static str,
    /// α without each annotator.
    pub alpha_without: BTreeMap<String, Option<f64>>,
    /// Mean share of equal pairs.
    pub pair_agreement: Option<f64>,
    /// Fleiss' κ, where every row has as many checks.
    pub fleiss: Option<f64>,
    /// Gwet's AC1.
    pub gwet_ac1: Option<f64>,
    /// Cohen's κ of each pair of annotators.
    pub pairs: Vec<PairReport>,
    /// Latent truth and annotators' errors; not for `multi`.
    pub dawid_skene: Option<TruthReport>,
}

/// Two annotators.
#[derive(Clone, Debug, Serialize)]
pub struct PairReport {
    /// One.
    pub a: String,
    /// The other.
    pub b: String,
    /// Rows both checked.
    pub units: usize,
    /// Cohen's κ.
    pub kappa: Option<f64>,
    /// With quadratic weights, on an ordered scale.
    pub weighted: Option<f64>,
}

/// Dawid and Skene's estimate.
#[derive(Clone, Debug, Serialize)]
pub struct TruthReport {
    /// Share of each label.
    pub priors: BTreeMap<String, f64>,
    /// Estimate of each annotator.
    pub raters: BTreeMap<String, dawid_skene::Rater>,
    /// Log-likelihood.
    pub log_likelihood: f64,
    /// EM rounds.
    pub iterations: usize,
    /// Whether it settled.
    pub converged: bool,
}

/// One annotator.
#[derive(Clone, Debug, Serialize)]
pub struct AnnotatorReport {
    /// Name.
    pub name: String,
    /// Checks of the present rounds, gold apart.
    pub checks: usize,
    /// Gold rows answered, the last [`ROLLING`] at most.
    pub gold: usize,
    /// Of these, all labels right.
    pub gold_right: usize,
    /// Wilson's 95 % interval of that share.
    pub gold_interval: (f64, f64),
    /// Median seconds a check.
    pub median_seconds: Option<u32>,
}

/// A gated batch.
#[derive(Clone, Debug, Serialize)]
pub struct BatchReport {
    /// Number.
    pub batch: u32,
    /// Round of checks.
    pub round: u32,
    /// Rows the gate looked at.
    pub items: usize,
    /// α of each rubric.
    pub alpha: BTreeMap<String, Option<f64>>,
    /// Rows by outcome.
    pub outcomes: BTreeMap<String, usize>,
}

/// The second look at accepted rows, as acceptance sampling.
#[derive(Clone, Debug, Serialize)]
pub struct AuditReport {
    /// Drawn and waiting.
    pub waiting: usize,
    /// Looked at.
    pub done: usize,
    /// Of these, differing.
    pub wrong: usize,
    /// How many may differ at the acceptable quality level.
    pub allowed: usize,
    /// The acceptable quality level.
    pub quality: f64,
    /// Wilson's 95 % interval of the share that differs.
    pub interval: (f64, f64),
    /// Whether the lot passes; nothing is said before a row was looked at.
    pub passes: Option<bool>,
}

fn annotators(task: &Task) -> Vec<&str> {
    task.people.iter().filter(|p| p.role == Role::Annotator).map(|p| p.name.as_str()).collect()
}

/// A set of labels as bits.
fn bits(rubric: &Rubric, labels: &Labels) -> u64 {
    let chosen = labels.get(&rubric.name).into_iter().flatten();
    chosen.filter_map(|name| rubric.index(name)).fold(0, |bits, i| bits | 1 << i)
}

/// The single label of a rubric.
pub(crate) fn class(rubric: &Rubric, labels: &Labels) -> Option<usize> {
    labels.get(&rubric.name)?.first().and_then(|name| rubric.index(name))
}

/// Ratings of a rubric by the annotators of the task, in its order.
pub fn ratings<'a>(task: &Task, rubric: &Rubric, items: impl Iterator<Item = &'a Item>) -> Ratings {
    let people = annotators(task);
    let mut sets: Vec<u64> = Vec::new();
    let mut units = Vec::new();
    for item in items.filter(|item| item.gold().is_none()) {
        let mut unit = Vec::new();
        for check in item.checks() {
            let Some(rater) = people.iter().position(|name| *name == check.who) else { continue };
            let value = match rubric.scale {
                Scale::Multi => {
                    let set = bits(rubric, &check.answer.labels);
                    let known = sets.iter().position(|s| *s == set);
                    Some(known.unwrap_or_else(|| {
                        sets.push(set);
                        sets.len() - 1
                    }))
                }
                _ => class(rubric, &check.answer.labels),
            };
            unit.extend(value.map(|value| (rater, value)));
        }
        units.push(unit);
    }
    let values = match rubric.scale {
        Scale::Multi => Values::Sets(sets),
        Scale::Interval | Scale::Ratio => Values::Numbers(rubric.labels.iter().filter_map(|l| l.value).collect()),
        Scale::Nominal | Scale::Ordinal => Values::Categories(rubric.labels.len()),
    };
    let mut ratings = Ratings::new(values, people.len());
    for unit in units {
        // raters and values were looked up above, so none is out of range
        let pushed = ratings.push(unit);
        debug_assert!(pushed.is_ok());
    }
    ratings
}

/// α of every rubric over items.
pub fn alphas<'a>(task: &Task, items: impl Iterator<Item = &'a Item> + Clone) -> BTreeMap<String, Option<f64>> {
    let of = |rubric: &Rubric| ratings(task, rubric, items.clone()).alpha(rubric.scale.metric());
    task.rubrics.iter().map(|rubric| (rubric.name.clone(), of(rubric))).collect()
}

/// Votes of all checks on classes that `class` finds in labels, with gold.
fn votes(task: &Task, items: &[Item], class: impl Fn(&Labels) -> Option<usize>) -> (Vec<Vote>, Vec<Option<usize>>) {
    let people = annotators(task);
    let mut votes = Vec::new();
    for (item, entry) in items.iter().enumerate() {
        for check in entry.checks() {
            let rater = people.iter().position(|name| *name == check.who);
            if let (Some(rater), Some(class)) = (rater, class(&check.answer.labels)) {
                votes.push(Vote { item, rater, class });
            }
        }
    }
    let gold = items.iter().map(|item| item.gold().and_then(&class)).collect();
    (votes, gold)
}

fn truth(task: &Task, items: &[Item], classes: usize, class: impl Fn(&Labels) -> Option<usize>) -> Option<Estimate> {
    let (votes, gold) = votes(task, items, class);
    dawid_skene::estimate(&votes, classes, &gold, &Options::default()).ok()
}

/// Posterior of each checked row's labels, the product over rubrics: of the common labels where all
/// three agree, else of the likeliest.
pub fn posteriors(task: &Task, items: &[Item]) -> BTreeMap<u64, f64> {
    let mut found: BTreeMap<u64, f64> =
        (1..).zip(items).filter(|(_, item)| item.stage() == Stage::Checked).map(|(id, _)| (id, 1.0)).collect();
    let mut multiply = |classes: usize, class: &dyn Fn(&Labels) -> Option<usize>| {
        let Some(estimate) = truth(task, items, classes, class) else { return };
        for (id, posterior) in &mut found {
            let index = *id as usize - 1;
            let common = items[index].consensus().and_then(|answer| class(&answer.labels));
            *posterior *= match common {
                Some(class) => estimate.posteriors[index][class],
                None => estimate.best(index).1,
            };
        }
    };
    for rubric in &task.rubrics {
        if rubric.scale == Scale::Multi {
            for label in 0..rubric.labels.len() {
                multiply(2, &|labels| Some(usize::from(bits(rubric, labels) >> label & 1 == 1)));
            }
        } else {
            multiply(rubric.labels.len(), &|labels| class(rubric, labels));
        }
    }
    found
}

fn rubric_report(task: &Task, rubric: &Rubric, items: &[Item]) -> RubricReport {
    let people = annotators(task);
    let ratings = ratings(task, rubric, items.iter());
    let metric = rubric.scale.metric();
    let alpha = ratings.alpha(metric);
    let counts: Vec<Vec<u32>> = ratings.counts().into_iter().filter(|row| row.iter().sum::<u32>() > 1).collect();
    let mut pairs = Vec::new();
    for (a, first) in people.iter().enumerate() {
        for (b, second) in people.iter().enumerate().skip(a + 1) {
            let table = ratings.confusion(a, b);
            let units = table.iter().flatten().sum::<f64>() as usize;
            if units > 0 {
                let weighted = rubric.scale.ordered().then(|| cohen(&table, Weights::Quadratic)).flatten();
                let kappa = cohen(&table, Weights::Equal);
                pairs.push(PairReport { a: (*first).into(), b: (*second).into(), units, kappa, weighted });
            }
        }
    }
    let estimate = (rubric.scale != Scale::Multi)
        .then(|| truth(task, items, rubric.labels.len(), |labels| class(rubric, labels)))
        .flatten();
    RubricReport {
        name: rubric.name.clone(),
        scale: rubric.scale,
        units: ratings.pairable(),
        alpha,
        interval: ratings.alpha_interval(metric, RESAMPLES, task.seed),
        verdict: match alpha {
            None => "undefined",
            Some(a) if a >= RELIABLE => "reliable",
            Some(a) if a >= TENTATIVE => "tentative",
            Some(_) => "unreliable",
        },
        alpha_without: people.iter().map(|p| (*p).to_owned()).zip(ratings.alpha_without_each(metric)).collect(),
        pair_agreement: mean_pair_agreement(&counts),
        fleiss: if metric == Metric::Masi { None } else { fleiss(&counts) },
        gwet_ac1: if metric == Metric::Masi { None } else { gwet_ac1(&counts) },
        pairs,
        dawid_skene: estimate.map(|e| TruthReport {
            priors: rubric.labels.iter().map(|l| l.name.clone()).zip(e.priors).collect(),
            raters: people.iter().map(|p| (*p).to_owned()).zip(e.raters).filter(|(_, r)| r.items > 0).collect(),
            log_likelihood: e.log_likelihood,
            iterations: e.iterations,
            converged: e.converged,
        }),
    }
}

fn annotator_report(name: &str, items: &[Item]) -> AnnotatorReport {
    let own = items.iter().flat_map(|item| item.checks().iter().map(move |check| (item, check)));
    let own: Vec<_> = own.filter(|(_, check)| check.who == name).collect();
    let mut gold: Vec<(u64, bool)> =
        own.iter().filter_map(|(item, c)| item.gold().map(|labels| (c.seq, *labels == c.answer.labels))).collect();
    gold.sort_unstable_by_key(|(seq, _)| std::cmp::Reverse(*seq));
    gold.truncate(ROLLING);
    let right = gold.iter().filter(|(_, right)| *right).count();
    let mut seconds: Vec<u32> = own.iter().map(|(_, check)| check.seconds).collect();
    seconds.sort_unstable();
    AnnotatorReport {
        name: name.to_owned(),
        checks: own.iter().filter(|(item, _)| item.gold().is_none()).count(),
        gold: gold.len(),
        gold_right: right,
        gold_interval: wilson(right, gold.len()),
        median_seconds: seconds.get(seconds.len() / 2).copied(),
    }
}

fn batch_reports(items: &[Item]) -> Vec<BatchReport> {
    let mut batches: BTreeMap<u32, BatchReport> = BTreeMap::new();
    for item in items {
        let (Some(batch), Some(gate)) = (item.batch(), item.gate()) else { continue };
        let report = batches.entry(batch).or_insert_with(|| BatchReport {
            batch,
            round: item.round(),
            items: 0,
            alpha: gate.alpha.clone(),
            outcomes: BTreeMap::new(),
        });
        report.items += 1;
        *report.outcomes.entry(format!("{:?}", gate.outcome).to_lowercase()).or_default() += 1;
    }
    batches.into_values().collect()
}

impl Report {
    /// What the store's events say now.
    pub fn of(store: &Store) -> Report {
        Report::new(store.task(), store.state(), store.head())
    }

    /// What a state of the log says.
    pub fn new(task: &Task, state: &State, head: &Head) -> Report {
        let items = &state.items;
        let mut stages = BTreeMap::new();
        for item in items {
            *stages.entry(item.stage().to_string()).or_insert(0) += 1;
        }
        let audited: Vec<bool> = items.iter().filter_map(|item| item.audit().map(|(_, _, agrees)| *agrees)).collect();
        let wrong = audited.iter().filter(|agrees| !**agrees).count();
        let allowed = acceptance_number(audited.len(), task.quality);
        Report {
            task: task.name.clone(),
            head: head.clone(),
            guideline: state.guideline.clone(),
            rubrics: task.rubrics.iter().map(|rubric| rubric_report(task, rubric, items)).collect(),
            annotators: annotators(task).into_iter().map(|name| annotator_report(name, items)).collect(),
            batches: batch_reports(items),
            audit: AuditReport {
                waiting: stages.get("audit").copied().unwrap_or(0),
                done: audited.len(),
                wrong,
                allowed,
                quality: task.quality,
                interval: wilson(wrong, audited.len()),
                passes: (!audited.is_empty()).then_some(wrong <= allowed),
            },
            judge: judge::report(task, items),
            stages,
        }
    }
}
