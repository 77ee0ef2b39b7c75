//! Krippendorff's α: 1 − observed / expected disagreement, for any number of raters, any scale and
//! missing ratings (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability").
//!
//! Every ordered pair of ratings of a unit with m ratings adds 1/(m − 1) to the coincidence matrix
//! o; with margins n_c and n = Σ n_c, α = 1 − (n − 1)·Σ o_ck δ_ck / Σ n_c n_k δ_ck. A unit with one
//! rating has no pair and does not count. Where only one value occurs, nothing could have been
//! confused with anything, and α is undefined: `None`, not 1.

use serde::Serialize;

use crate::random::Random;

/// How far apart two values are (δ of the formula).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Equal or not.
    Nominal,
    /// By the ratings that lie between the two, squared: needs ordered values.
    Ordinal,
    /// Squared difference.
    Interval,
    /// Squared difference over the sum: values with a true zero.
    Ratio,
    /// MASI distance of label sets (Passonneau 2006): 1 − Jaccard · monotonicity.
    Masi,
}

/// What the indices of ratings stand for.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// That many categories; for [`Metric::Ordinal`] in ascending order.
    Categories(usize),
    /// Numbers in ascending order.
    Numbers(Vec<f64>),
    /// Sets of labels, one bit a label.
    Sets(Vec<u64>),
}

impl Values {
    fn len(&self) -> usize {
        match self {
            Values::Categories(n) => *n,
            Values::Numbers(numbers) => numbers.len(),
            Values::Sets(sets) => sets.len(),
        }
    }
}

/// Ratings of units by raters; whoever did not rate a unit is missing from it.
#[derive(Clone, Debug, PartialEq)]
pub struct Ratings {
    values: Values,
    raters: usize,
    units: Vec<Vec<(usize, usize)>>,
}

/// A bootstrap interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Share of resamples it covers, as 0.95.
    pub level: f64,
    /// Resamples drawn.
    pub resamples: usize,
    /// Resamples in which the statistic was undefined; the ends rest on the others.
    pub undefined: usize,
}

impl Ratings {
    /// No units yet.
    pub fn new(values: Values, raters: usize) -> Self {
        Ratings { values, raters, units: Vec::new() }
    }

    /// From a raters × units matrix of numbers; the values are those that occur, ascending.
    pub fn from_matrix(matrix: &[Vec<Option<f64>>]) -> Self {
        let mut numbers: Vec<f64> = matrix.iter().flatten().copied().flatten().collect();
        numbers.sort_by(f64::total_cmp);
        numbers.dedup();
        let count = matrix.iter().map(Vec::len).max().unwrap_or(0);
        let mut units = vec![Vec::new(); count];
        for (rater, row) in matrix.iter().enumerate() {
            for (unit, value) in units.iter_mut().zip(row) {
                if let Some(value) = value
                    && let Ok(index) = numbers.binary_search_by(|n| n.total_cmp(value))
                {
                    unit.push((rater, index));
                }
            }
        }
        Ratings { values: Values::Numbers(numbers), raters: matrix.len(), units }
    }

    /// Adds a unit: (rater, index of the value) each. Ratings out of range are refused.
    ///
    /// # Errors
    /// The rating that names no rater or no value.
    pub fn push(&mut self, unit: Vec<(usize, usize)>) -> Result<(), (usize, usize)> {
        match unit.iter().find(|(rater, value)| *rater >= self.raters || *value >= self.values.len()) {
            Some(bad) => Err(*bad),
            None => {
                self.units.push(unit);
                Ok(())
            }
        }
    }

    /// Units with at least two ratings: the ones that count.
    pub fn pairable(&self) -> usize {
        self.units.iter().filter(|unit| unit.len() > 1).count()
    }

    /// Units × categories: how many raters gave each value.
    pub fn counts(&self) -> Vec<Vec<u32>> {
        let mut table = vec![vec![0; self.values.len()]; self.units.len()];
        for (row, unit) in table.iter_mut().zip(&self.units) {
            unit.iter().for_each(|(_, value)| row[*value] += 1);
        }
        table
    }

    /// Confusion of two raters over the units that both rated: `[a's value][b's value]`.
    pub fn confusion(&self, a: usize, b: usize) -> Vec<Vec<f64>> {
        let k = self.values.len();
        let mut table = vec![vec![0.0; k]; k];
        for unit in &self.units {
            let of = |rater| unit.iter().find(|(r, _)| *r == rater).map(|(_, value)| *value);
            if let (Some(x), Some(y)) = (of(a), of(b)) {
                table[x][y] += 1.0;
            }
        }
        table
    }

    /// Krippendorff's α; `None` where fewer than two values occur in units with two ratings.
    pub fn alpha(&self, metric: Metric) -> Option<f64> {
        self.alpha_of(metric, &self.coincidences(None))
    }

    /// α without each rater in turn: who pulls it down.
    pub fn alpha_without_each(&self, metric: Metric) -> Vec<Option<f64>> {
        (0..self.raters).map(|rater| self.alpha_of(metric, &self.coincidences(Some(rater)))).collect()
    }

    /// Percentile interval of α over resampled units; `None` where α is undefined in most resamples.
    pub fn alpha_interval(&self, metric: Metric, resamples: usize, seed: u64) -> Option<Interval> {
        let pairs: Vec<Vec<(usize, f64)>> =
            self.units.iter().map(|unit| self.pairs(unit, None)).filter(|pairs| !pairs.is_empty()).collect();
        let k = self.values.len();
        bootstrap(pairs.len(), resamples, seed, |draw| {
            let mut coincidences = vec![0.0; k * k];
            for unit in draw {
                pairs[*unit].iter().for_each(|(cell, weight)| coincidences[*cell] += weight);
            }
            self.alpha_of(metric, &coincidences)
        })
    }

    /// Cells of the coincidence matrix that a unit adds to.
    fn pairs(&self, unit: &[(usize, usize)], without: Option<usize>) -> Vec<(usize, f64)> {
        let unit: Vec<usize> = unit.iter().filter(|(rater, _)| Some(*rater) != without).map(|(_, v)| *v).collect();
        let weight = 1.0 / (unit.len().max(2) - 1) as f64;
        let mut pairs = Vec::new();
        for (i, a) in unit.iter().enumerate() {
            for (j, b) in unit.iter().enumerate() {
                if i != j {
                    pairs.push((a * self.values.len() + b, weight));
                }
            }
        }
        pairs
    }

    fn coincidences(&self, without: Option<usize>) -> Vec<f64> {
        let mut matrix = vec![0.0; self.values.len() * self.values.len()];
        for unit in &self.units {
            self.pairs(unit, without).into_iter().for_each(|(cell, weight)| matrix[cell] += weight);
        }
        matrix
    }

    fn alpha_of(&self, metric: Metric, coincidences: &[f64]) -> Option<f64> {
        let k = self.values.len();
        let margin: Vec<f64> = (0..k).map(|c| coincidences[c * k..(c + 1) * k].iter().sum()).collect();
        let n: f64 = margin.iter().sum();
        let (mut observed, mut expected) = (0.0, 0.0);
        for c in 0..k {
            for other in 0..k {
                if c != other && margin[c] > 0.0 && margin[other] > 0.0 {
                    let delta = self.delta(metric, c, other, &margin);
                    observed += coincidences[c * k + other] * delta;
                    expected += margin[c] * margin[other] * delta;
                }
            }
        }
        (expected > 0.0).then(|| 1.0 - (n - 1.0) * observed / expected)
    }

    fn delta(&self, metric: Metric, a: usize, b: usize, margin: &[f64]) -> f64 {
        let number = |i: usize| match &self.values {
            Values::Numbers(numbers) => numbers[i],
            _ => i as f64,
        };
        match metric {
            Metric::Nominal => 1.0,
            Metric::Ordinal => {
                let between: f64 = margin[a.min(b)..=a.max(b)].iter().sum();
                (between - (margin[a] + margin[b]) / 2.0).powi(2)
            }
            Metric::Interval => (number(a) - number(b)).powi(2),
            Metric::Ratio => {
                let sum = number(a) + number(b);
                if sum == 0.0 { 0.0 } else { ((number(a) - number(b)) / sum).powi(2) }
            }
            Metric::Masi => match &self.values {
                Values::Sets(sets) => masi(sets[a], sets[b]),
                _ => 1.0,
            },
        }
    }
}

/// MASI distance of two sets, one bit a member: 1 − J·M with J the Jaccard index and M = 1 for equal
/// sets, 2/3 for a subset, 1/3 for an overlap, 0 for disjoint ones.
pub fn masi(a: u64, b: u64) -> f64 {
    if a == b {
        return 0.0;
    }
    let (both, either) = ((a & b).count_ones(), (a | b).count_ones());
    let monotonicity = match both {
        0 => 0.0,
        _ if a & b == a || a & b == b => 2.0 / 3.0,
        _ => 1.0 / 3.0,
    };
    1.0 - f64::from(both) / f64::from(either) * monotonicity
}

/// 95 % percentile interval of a statistic over `units` drawn with replacement, the same for the same
/// seed. `None` with fewer than two units, or where the statistic is undefined in half the resamples.
pub fn bootstrap(
    units: usize,
    resamples: usize,
    seed: u64,
    statistic: impl Fn(&[usize]) -> Option<f64>,
) -> Option<Interval> {
    if units < 2 || resamples == 0 {
        return None;
    }
    let mut random = Random::new(seed);
    let mut draw = vec![0; units];
    let mut found = Vec::with_capacity(resamples);
    for _ in 0..resamples {
        draw.iter_mut().for_each(|unit| *unit = random.below(units));
        found.extend(statistic(&draw));
    }
    if found.len() * 2 < resamples {
        return None;
    }
    found.sort_by(f64::total_cmp);
    let quantile = |q: f64| {
        let at = q * (found.len() - 1) as f64;
        let (low, high) = (found[at.floor() as usize], found[at.ceil() as usize]);
        low + (high - low) * at.fract()
    };
    let undefined = resamples - found.len();
    Some(Interval { low: quantile(0.025), high: quantile(0.975), level: 0.95, resamples, undefined })
}
