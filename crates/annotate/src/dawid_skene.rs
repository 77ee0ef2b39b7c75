//! The latent truth behind several fallible raters: EM of Dawid and Skene (1979, "Maximum Likelihood
//! Estimation of Observer Error-Rates Using the EM Algorithm").
//!
//! T_ij is the posterior that item i has class j, π^r_jl the chance that rater r says l of a j, p_j
//! the share of j. Start: T by shares of votes. M: p_j = mean_i T_ij, π^r_jl = (Σ_i T_ij n^r_il + λ)
//! / (Σ_l … + Kλ). E: log T_ij = log p_j + Σ n^r_il log π^r_jl + const. λ = 0 is the paper's
//! estimate. A rater with few items gets one number instead of K(K − 1): their accuracy, errors
//! spread evenly ("one coin"), because a full table of so few votes is noise.

use serde::Serialize;

/// One vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    /// Item, from 0.
    pub item: usize,
    /// Rater, from 0.
    pub rater: usize,
    /// Class, from 0.
    pub class: usize,
}

/// How to estimate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// λ added to every cell of every confusion; 0 reproduces 1979.
    pub smoothing: f64,
    /// Stop when the log-likelihood gains less.
    pub tolerance: f64,
    /// Stop anyway.
    pub max_iterations: usize,
    /// A rater with fewer items gets one accuracy instead of a confusion table.
    pub full_from: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { smoothing: 0.01, tolerance: 1e-5, max_iterations: 1000, full_from: 50 }
    }
}

/// What was estimated of a rater.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rater {
    /// `[true class][said class]`, rows sum to 1 (a class that the rater never met: all 0 at λ = 0).
    pub confusion: Vec<Vec<f64>>,
    /// Σ_j p_j π_jj: the chance of a right vote.
    pub accuracy: f64,
    /// Items voted on.
    pub items: usize,
    /// True when only one accuracy was estimated.
    pub one_coin: bool,
}

/// The estimate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// Share of each class.
    pub priors: Vec<f64>,
    /// One entry a rater.
    pub raters: Vec<Rater>,
    /// Posterior of each class, one row an item.
    pub posteriors: Vec<Vec<f64>>,
    /// Log-likelihood of the votes at the estimate.
    pub log_likelihood: f64,
    /// EM rounds.
    pub iterations: usize,
    /// False when `max_iterations` ended it.
    pub converged: bool,
}

impl Estimate {
    /// The likeliest class of an item and its posterior; the first among equals.
    pub fn best(&self, item: usize) -> (usize, f64) {
        let row = &self.posteriors[item];
        let mut best = (0, row[0]);
        for (class, p) in row.iter().enumerate() {
            if *p > best.1 {
                best = (class, *p);
            }
        }
        best
    }
}

/// Why there is no estimate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing to estimate from.
    #[error("no votes")]
    NoVotes,
    /// A class is unknown.
    #[error("a vote on item {item} has class {class}; there are {classes}")]
    Class {
        /// Of the vote.
        item: usize,
        /// Of the vote.
        class: usize,
        /// Known ones.
        classes: usize,
    },
}

/// Estimates truth and raters. `gold[i]` clamps the truth of item i; shorter than the items is fine.
/// An item without votes keeps the prior as its posterior.
///
/// # Errors
/// [`Error`].
pub fn estimate(votes: &[Vote], classes: usize, gold: &[Option<usize>], options: &Options) -> Result<Estimate, Error> {
    if votes.is_empty() || classes == 0 {
        return Err(Error::NoVotes);
    }
    let unknown = votes.iter().find(|v| v.class >= classes).map(|v| (v.item, v.class));
    let unknown =
        unknown.or_else(|| gold.iter().enumerate().find_map(|(i, g)| g.filter(|g| *g >= classes).map(|g| (i, g))));
    if let Some((item, class)) = unknown {
        return Err(Error::Class { item, class, classes });
    }
    let items = votes.iter().map(|v| v.item + 1).max().unwrap_or(0).max(gold.len());
    let raters = votes.iter().map(|v| v.rater + 1).max().unwrap_or(0);
    let mut em = Em {
        votes,
        classes,
        gold,
        options,
        posteriors: start(votes, items, classes),
        raters: Vec::new(),
        priors: Vec::new(),
    };
    let seen = items_of_raters(votes, raters);
    em.clamp();
    let (mut last, mut iterations, mut converged) = (f64::NEG_INFINITY, 0, false);
    while iterations < options.max_iterations.max(1) && !converged {
        em.maximise(&seen);
        let now = em.expect();
        iterations += 1;
        converged = (now - last).abs() < options.tolerance;
        last = now;
    }
    let Em { posteriors, raters, priors, .. } = em;
    Ok(Estimate { priors, raters, posteriors, log_likelihood: last, iterations, converged })
}

struct Em<'a> {
    votes: &'a [Vote],
    classes: usize,
    gold: &'a [Option<usize>],
    options: &'a Options,
    posteriors: Vec<Vec<f64>>,
    raters: Vec<Rater>,
    priors: Vec<f64>,
}

/// Shares of votes; even where there are none.
fn start(votes: &[Vote], items: usize, classes: usize) -> Vec<Vec<f64>> {
    let mut shares = vec![vec![0.0; classes]; items];
    votes.iter().for_each(|v| shares[v.item][v.class] += 1.0);
    for row in &mut shares {
        let sum: f64 = row.iter().sum();
        row.iter_mut().for_each(|p| *p = if sum > 0.0 { *p / sum } else { 1.0 / classes as f64 });
    }
    shares
}

fn items_of_raters(votes: &[Vote], raters: usize) -> Vec<usize> {
    let mut pairs: Vec<(usize, usize)> = votes.iter().map(|v| (v.rater, v.item)).collect();
    pairs.sort_unstable();
    pairs.dedup();
    let mut seen = vec![0; raters];
    pairs.iter().for_each(|(rater, _)| seen[*rater] += 1);
    seen
}

impl Em<'_> {
    fn clamp(&mut self) {
        for (row, gold) in self.posteriors.iter_mut().zip(self.gold) {
            if let Some(truth) = gold {
                row.fill(0.0);
                row[*truth] = 1.0;
            }
        }
    }

    fn maximise(&mut self, seen: &[usize]) {
        let (k, items) = (self.classes, self.posteriors.len() as f64);
        self.priors = (0..k).map(|j| self.posteriors.iter().map(|row| row[j]).sum::<f64>() / items).collect();
        let mut sums = vec![vec![vec![0.0; k]; k]; seen.len()];
        for v in self.votes {
            for (row, p) in sums[v.rater].iter_mut().zip(&self.posteriors[v.item]) {
                row[v.class] += p;
            }
        }
        let of = |(mut table, seen): (Vec<Vec<f64>>, &usize)| {
            let one_coin = *seen < self.options.full_from;
            if one_coin {
                spread_evenly(&mut table);
            }
            for row in &mut table {
                let total = row.iter().sum::<f64>() + k as f64 * self.options.smoothing;
                let share = |n: f64| if total > 0.0 { (n + self.options.smoothing) / total } else { 0.0 };
                row.iter_mut().for_each(|n| *n = share(*n));
            }
            let accuracy = (0..k).map(|j| self.priors[j] * table[j][j]).sum();
            Rater { confusion: table, accuracy, items: *seen, one_coin }
        };
        self.raters = sums.into_iter().zip(seen).map(of).collect();
    }

    /// Posteriors from the parameters; gives the log-likelihood.
    fn expect(&mut self) -> f64 {
        let start: Vec<f64> = self.priors.iter().map(|p| p.ln()).collect();
        let mut logs = vec![start; self.posteriors.len()];
        for v in self.votes {
            let table = &self.raters[v.rater].confusion;
            for (log, row) in logs[v.item].iter_mut().zip(table) {
                *log += row[v.class].ln();
            }
        }
        let mut total = 0.0;
        for (i, (row, logs)) in self.posteriors.iter_mut().zip(&logs).enumerate() {
            if let Some(truth) = self.gold.get(i).copied().flatten() {
                total += logs[truth];
                continue;
            }
            let top = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = logs.iter().map(|log| (log - top).exp()).sum();
            total += top + sum.ln();
            row.iter_mut().zip(logs).for_each(|(p, log)| *p = (log - top).exp() / sum);
        }
        total
    }
}

/// One accuracy for the whole table: hits on the diagonal, errors even beside it, every row alike.
fn spread_evenly(table: &mut [Vec<f64>]) {
    let k = table.len();
    let total: f64 = table.iter().flatten().sum();
    let hits: f64 = (0..k).map(|j| table[j][j]).sum();
    for (j, row) in table.iter_mut().enumerate() {
        let miss = (total - hits) / (k.max(2) - 1) as f64;
        for (l, cell) in row.iter_mut().enumerate() {
            *cell = if l == j { hits } else { miss };
        }
    }
}
