//! Agreement of raters beyond chance on the same units: Cohen's κ of two, plain and weighted, Fleiss'
//! κ of many, and Gwet's AC1, which stays sensible where one category dominates (κ then falls
//! towards 0 however much raters agree).
//!
//! Takes tables of counts, gives numbers, `None` where chance alone already explains everything.

/// What a disagreement of Cohen's κ costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// Any disagreement alike.
    Equal,
    /// |i − j|.
    Linear,
    /// (i − j)².
    Quadratic,
}

/// Cohen's κ of a square table `[first rater's value][second's]`: 1 − Σ w·o / Σ w·e.
pub fn cohen(table: &[Vec<f64>], weights: Weights) -> Option<f64> {
    let total: f64 = table.iter().flatten().sum();
    let rows: Vec<f64> = table.iter().map(|row| row.iter().sum()).collect();
    let columns: Vec<f64> = (0..table.len()).map(|j| table.iter().map(|row| row[j]).sum()).collect();
    let (mut observed, mut expected) = (0.0, 0.0);
    for (i, row) in table.iter().enumerate() {
        for (j, cell) in row.iter().enumerate() {
            let apart = i.abs_diff(j) as f64;
            let weight = match weights {
                Weights::Equal => f64::from(u8::from(i != j)),
                Weights::Linear => apart,
                Weights::Quadratic => apart * apart,
            };
            observed += weight * cell;
            expected += weight * rows[i] * columns[j];
        }
    }
    (expected > 0.0).then(|| 1.0 - total * observed / expected)
}

/// Fleiss' κ of a units × categories table; every unit must have the same number of ratings, two or
/// more, else `None`.
pub fn fleiss(counts: &[Vec<u32>]) -> Option<f64> {
    let ratings = counts.first()?.iter().sum::<u32>();
    if ratings < 2 || counts.iter().any(|row| row.iter().sum::<u32>() != ratings) {
        return None;
    }
    let observed = mean_pair_agreement(counts)?;
    let expected: f64 = shares(counts).iter().map(|p| p * p).sum();
    (expected < 1.0).then(|| (observed - expected) / (1.0 - expected))
}

/// Gwet's AC1 (2008) of a units × categories table, any number of ratings a unit. `None` with fewer
/// than two categories or no unit with two ratings.
pub fn gwet_ac1(counts: &[Vec<u32>]) -> Option<f64> {
    let categories = counts.first()?.len();
    if categories < 2 {
        return None;
    }
    let observed = mean_pair_agreement(counts)?;
    let spread: f64 = shares(counts).iter().map(|p| p * (1.0 - p)).sum();
    let expected = spread / (categories - 1) as f64;
    Some((observed - expected) / (1.0 - expected))
}

/// Mean over units of the share of equal pairs; `None` without a unit of two ratings.
pub fn mean_pair_agreement(counts: &[Vec<u32>]) -> Option<f64> {
    let shares: Vec<f64> = counts
        .iter()
        .filter_map(|row| {
            let m: u32 = row.iter().sum();
            let equal: u32 = row.iter().map(|n| n * n.saturating_sub(1)).sum();
            (m > 1).then(|| f64::from(equal) / f64::from(m * (m - 1)))
        })
        .collect();
    (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64)
}

/// Mean share of each category over the units that have a rating.
fn shares(counts: &[Vec<u32>]) -> Vec<f64> {
    let rated: Vec<&Vec<u32>> = counts.iter().filter(|row| row.iter().sum::<u32>() > 0).collect();
    let categories = counts.first().map_or(0, Vec::len);
    let share = |row: &[u32], j: usize| f64::from(row[j]) / f64::from(row.iter().sum::<u32>());
    (0..categories).map(|j| rated.iter().map(|row| share(row, j)).sum::<f64>() / rated.len() as f64).collect()
}
