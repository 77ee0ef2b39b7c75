//! Counts as shares with honest ends: the Wilson score interval (1927) of k of n, and the acceptance
//! number of a sampling plan in the manner of ISO 2859-1.

/// Two-sided 95 %.
const Z: f64 = 1.959_963_984_540_054;

/// Wilson's 95 % interval of `k` successes of `n`; 0 to 1 when nothing was tried.
pub fn wilson(k: usize, n: usize) -> (f64, f64) {
    if n == 0 {
        return (0.0, 1.0);
    }
    let (p, n) = (k as f64 / n as f64, n as f64);
    let centre = p + Z * Z / (2.0 * n);
    let reach = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    (((centre - reach) / scale).max(0.0), ((centre + reach) / scale).min(1.0))
}

/// How many defects a sample of `n` may hold before its lot is refused: the least c with
/// P(X ≤ c) ≥ 0.95 for X binomial(n, `quality`), so that a lot as good as the acceptable quality
/// level is refused at most once in twenty.
pub fn acceptance_number(n: usize, quality: f64) -> usize {
    if quality <= 0.0 {
        return 0;
    }
    if quality >= 1.0 {
        return n;
    }
    let mut term = (1.0 - quality).powi(n as i32);
    let mut below = term;
    let mut c = 0;
    while below < 0.95 && c < n {
        term *= (n - c) as f64 / (c + 1) as f64 * quality / (1.0 - quality);
        below += term;
        c += 1;
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_at_known_points() {
        // 8 of 10: .4902 to .9433 (Wilson 1927, as in Brown, Cai and DasGupta 2001)
        let (low, high) = wilson(8, 10);
        assert!((low - 0.4902).abs() < 5e-5 && (high - 0.9433).abs() < 5e-5, "{low} {high}");
        assert_eq!(wilson(0, 0), (0.0, 1.0));
        assert_eq!(wilson(0, 5).0, 0.0);
        assert_eq!(wilson(5, 5).1, 1.0);
    }

    #[test]
    fn acceptance_numbers_hold_the_producers_risk() {
        // by hand: .99^50 = .6050, + 50·.01·.99^49 = .9106, + the third term = .9862
        assert_eq!(acceptance_number(50, 0.01), 2);
        // .975^50 = .2820, .6435, .8706, .9638
        assert_eq!(acceptance_number(50, 0.025), 3);
        assert_eq!(acceptance_number(0, 0.01), 0);
        assert_eq!(acceptance_number(5, 0.0), 0);
        assert_eq!(acceptance_number(5, 1.0), 5);
    }
}
