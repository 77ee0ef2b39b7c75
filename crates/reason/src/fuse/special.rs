//! The few special functions that fusion needs, in logarithms.

/// ln Γ(x) for x > 0.
pub fn ln_gamma(x: f64) -> f64 {
    libm::lgamma(x)
}

/// ln B(a, b) for a, b > 0.
pub fn ln_beta(a: f64, b: f64) -> f64 {
    ln_gamma(a) + ln_gamma(b) - ln_gamma(a + b)
}

/// ln n!.
pub fn ln_factorial(n: usize) -> f64 {
    ln_gamma(n as f64 + 1.0)
}

/// Log-probability that a beta-binomial sequence (order fixed) has `right` hits and `wrong` misses:
/// ln B(α + right, β + wrong) − ln B(α, β).
pub fn ln_beta_binomial(alpha: f64, beta: f64, right: usize, wrong: usize) -> f64 {
    ln_beta(alpha + right as f64, beta + wrong as f64) - ln_beta(alpha, beta)
}

/// Log-probability of a sequence with these counts under a symmetric Dirichlet-multinomial of `k`
/// classes and concentration `g` each: ln Γ(kg) − ln Γ(N + kg) + Σ ln Γ(n + g) − ln Γ(g).
pub fn ln_dirichlet_multinomial(counts: impl Iterator<Item = usize>, g: f64, k: f64) -> f64 {
    let (mut total, mut sum) = (0, 0.0);
    for n in counts.filter(|&n| n > 0) {
        total += n;
        sum += ln_gamma(n as f64 + g) - ln_gamma(g);
    }
    if total == 0 {
        return 0.0;
    }
    sum + ln_gamma(k * g) - ln_gamma(total as f64 + k * g)
}

/// The same with a concentration for each class; `counts` and `concentrations` go together.
pub fn ln_dirichlet_multinomial_of(counts: &[usize], concentrations: &[f64]) -> f64 {
    let all: f64 = concentrations.iter().sum();
    let total: usize = counts.iter().sum();
    let each: f64 = (counts.iter().zip(concentrations))
        .filter(|(n, _)| **n > 0)
        .map(|(&n, &a)| ln_gamma(n as f64 + a) - ln_gamma(a))
        .sum();
    if total == 0 { 0.0 } else { each + ln_gamma(all) - ln_gamma(total as f64 + all) }
}

/// ln Σ e^x, −∞ for nothing.
pub fn log_sum_exp(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let top = values.clone().fold(f64::NEG_INFINITY, f64::max);
    if top == f64::NEG_INFINITY { top } else { top + values.map(|v| (v - top).exp()).sum::<f64>().ln() }
}

/// ln(p / (1 − p)), p held within [1e−9, 1 − 1e−9].
pub fn logit(p: f64) -> f64 {
    let p = p.clamp(1e-9, 1.0 - 1e-9);
    (p / (1.0 - p)).ln()
}

/// 1 / (1 + e^−x).
pub fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / (1.0 + x.exp()) }
}

/// Compass search: the point within `low..=high` of each coordinate that no step of `1e-3` improves,
/// from `start`. Deterministic; finds a local maximum.
pub fn maximise(start: &[f64], low: f64, high: f64, f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut at: Vec<f64> = start.iter().map(|x| x.clamp(low, high)).collect();
    let (mut best, mut step) = (f(&at), 1.0);
    while step > 1e-3 {
        let mut moved = false;
        for i in 0..at.len() {
            for delta in [step, -step] {
                let old = at[i];
                at[i] = (old + delta).clamp(low, high);
                let value = f(&at);
                if value > best {
                    best = value;
                    moved = true;
                    break;
                }
                at[i] = old;
            }
        }
        if !moved {
            step /= 2.0;
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gamma_and_beta_have_their_known_values() {
        assert!((ln_gamma(0.5) - std::f64::consts::PI.sqrt().ln()).abs() < 1e-14);
        assert!((ln_factorial(10) - 3_628_800_f64.ln()).abs() < 1e-12);
        assert!((ln_beta(2.0, 3.0) - (1.0_f64 / 12.0).ln()).abs() < 1e-14);
    }

    #[test]
    fn counts_of_two_sum_to_one() {
        // Two draws from three classes: the same class (3 ways) or two different ones (6 ways).
        let (g, k) = (0.3, 3.0);
        let same = ln_dirichlet_multinomial([2].into_iter(), g, k).exp();
        let apart = ln_dirichlet_multinomial([1, 1].into_iter(), g, k).exp();
        assert!((3.0 * same + 6.0 * apart - 1.0).abs() < 1e-12);
        let skewed = [0.2, 0.5, 1.1];
        let all: f64 = (0..3)
            .flat_map(|i| (0..3).map(move |j| (i, j)))
            .map(|(i, j)| {
                let mut counts = [0; 3];
                counts[i] += 1;
                counts[j] += 1;
                ln_dirichlet_multinomial_of(&counts, &skewed).exp()
            })
            .sum();
        assert!((all - 1.0).abs() < 1e-12);
        let binomial: f64 = [(2, 0, 1.0), (1, 1, 2.0), (0, 2, 1.0)]
            .iter()
            .map(|&(r, w, c)| c * ln_beta_binomial(0.7, 0.2, r, w).exp())
            .sum();
        assert!((binomial - 1.0).abs() < 1e-12);
    }

    #[test]
    fn sums_of_exponentials_survive_large_values() {
        assert!((log_sum_exp([1000.0, 1000.0].into_iter()) - 1000.0 - 2_f64.ln()).abs() < 1e-12);
        assert_eq!(log_sum_exp(std::iter::empty()), f64::NEG_INFINITY);
        assert!((sigmoid(logit(0.3)) - 0.3).abs() < 1e-15 && sigmoid(-800.0) == 0.0 && sigmoid(800.0) == 1.0);
    }

    #[test]
    fn the_search_finds_the_top_of_a_hill_and_stays_in_its_box() {
        let at = maximise(&[0.0, 0.0], -5.0, 5.0, |x| -(x[0] - 2.3).powi(2) - (x[1] + 1.1).powi(2) - 0.5 * x[0] * x[1]);
        let exact = maximise(&at, -5.0, 5.0, |x| -(x[0] - 2.3).powi(2) - (x[1] + 1.1).powi(2) - 0.5 * x[0] * x[1]);
        assert_eq!(at, exact);
        assert!((2.0 * (at[0] - 2.3) + 0.5 * at[1]).abs() < 0.01 && (2.0 * (at[1] + 1.1) + 0.5 * at[0]).abs() < 0.01);
        assert_eq!(maximise(&[0.0], -1.0, 1.0, |x| x[0]), [1.0]);
    }
}
