//! Confidence while a path is written (DeepConf, Fu et al. 2025), with windows that short paths fill.
//!
//! The confidence of a token is C = −mean of ln p over the 20 likeliest tokens, from raw logits before
//! temperature and cut-offs: higher is more peaked. A path is judged by means over a sliding window of w
//! tokens. The paper's w = 2048 makes every shorter path one window; here w = min(2048, max(32, L/8)) with
//! L the length expected of a path (the mean of the warm-up paths), fixed for the question, so that the
//! live and the recorded statistic are the same number.
//!
//! Online: some warm-up paths run to their end; [`Bar::of`] takes the (100 − η) percentile of their lowest
//! windows; a later path whose window falls below the bar is cut.

/// Likeliest tokens that enter a token's confidence.
pub const TOP: usize = 20;

/// Tokens in a window for paths of about `expected` tokens.
pub fn window(expected: usize) -> usize {
    (expected / 8).clamp(32, 2048)
}

/// Confidence of a token from the log-probabilities of the likeliest tokens, highest first; those beyond
/// [`TOP`] are left out, so that a sampled token reported in addition does not change it. None without any.
pub fn token(top: &[f64]) -> Option<f64> {
    let top = &top[..top.len().min(TOP)];
    (!top.is_empty()).then(|| -top.iter().sum::<f64>() / top.len() as f64)
}

/// Confidence of one path, token by token.
#[derive(Debug, Clone)]
pub struct Trace {
    window: usize,
    /// The last `window` confidences, a ring.
    ring: Vec<f64>,
    /// Sum of the ring.
    sum: f64,
    total: f64,
    seen: usize,
    /// Means of all complete windows, in order.
    windows: Vec<f64>,
}

/// What a finished path is worth by its tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// Mean of all tokens.
    pub mean: f64,
    /// Mean of the last window.
    pub tail: f64,
    /// Mean of the lowest tenth of the windows (at least one).
    pub bottom: f64,
    /// Lowest window.
    pub lowest: f64,
}

impl Trace {
    /// A path judged by windows of `window` tokens (at least one).
    pub fn new(window: usize) -> Self {
        Self { window: window.max(1), ring: Vec::new(), sum: 0.0, total: 0.0, seen: 0, windows: Vec::new() }
    }

    /// The next token's confidence; the mean of the window that ends here, once one is full.
    pub fn push(&mut self, confidence: f64) -> Option<f64> {
        self.total += confidence;
        let at = self.seen % self.window;
        if self.ring.len() < self.window {
            self.ring.push(confidence);
            self.sum += confidence;
        } else {
            self.sum += confidence - self.ring[at];
            self.ring[at] = confidence;
        }
        self.seen += 1;
        if at + 1 == self.window {
            // The sum is taken afresh once a turn of the ring, so rounding does not pile up.
            self.sum = self.ring.iter().sum();
        }
        if self.ring.len() < self.window {
            return None;
        }
        let mean = self.sum / self.window as f64;
        self.windows.push(mean);
        Some(mean)
    }

    /// Tokens so far.
    pub fn tokens(&self) -> usize {
        self.seen
    }

    /// The path's summary; none without a token. A path shorter than the window is one window.
    pub fn summary(&self) -> Option<Summary> {
        if self.seen == 0 {
            return None;
        }
        let mean = self.total / self.seen as f64;
        let mut windows = if self.windows.is_empty() { vec![mean] } else { self.windows.clone() };
        let tail = windows[windows.len() - 1];
        windows.sort_by(f64::total_cmp);
        let tenth = windows.len().div_ceil(10);
        let bottom = windows[..tenth].iter().sum::<f64>() / tenth as f64;
        Some(Summary { mean, tail, bottom, lowest: windows[0] })
    }
}

/// The lowest window that a path may show before it is cut.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bar(pub f64);

impl Bar {
    /// The bar of which `keep` (0.1 or 0.9 in the paper) of the warm-up paths stay at or above, from their
    /// lowest windows: the (1 − keep) quantile, linear between paths. None without warm-up paths.
    pub fn of(lowest: &[f64], keep: f64) -> Option<Self> {
        let mut sorted: Vec<f64> = lowest.iter().copied().filter(|x| x.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let place = (1.0 - keep).clamp(0.0, 1.0) * (sorted.len().checked_sub(1)? as f64);
        let (below, part) = (place.floor() as usize, place.fract());
        let above = sorted[(below + 1).min(sorted.len() - 1)];
        Some(Self(sorted[below] + part * (above - sorted[below])))
    }

    /// Whether a path with this window is cut now.
    pub fn cuts(self, window: f64) -> bool {
        window < self.0
    }
}

/// Which of recorded paths stay when the most confident `keep` share (at least one path) is kept, in their
/// order. Paths without a confidence go first; ties keep the earlier path.
pub fn most_confident(confidence: &[Option<f64>], keep: f64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..confidence.len()).collect();
    let value = |i: usize| confidence[i].filter(|c| c.is_finite()).unwrap_or(f64::NEG_INFINITY);
    order.sort_by(|&a, &b| value(b).total_cmp(&value(a)).then(a.cmp(&b)));
    order.truncate(((confidence.len() as f64 * keep).ceil() as usize).max(1));
    order.sort_unstable();
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_twenty_likeliest_count() {
        let top: Vec<f64> = (0..25).map(|i| -1.0 - f64::from(i)).collect();
        assert_eq!(token(&top), Some(10.5));
        assert_eq!(token(&[-2.0, -4.0]), Some(3.0));
        assert_eq!(token(&[]), None);
    }

    #[test]
    fn windows_slide_and_match_a_plain_computation() {
        let values: Vec<f64> = (0..300).map(|i| f64::from(i * 7919 % 101) / 10.0).collect();
        let mut trace = Trace::new(37);
        for (t, &c) in values.iter().enumerate() {
            let plain = (t + 1 >= 37).then(|| values[t + 1 - 37..=t].iter().sum::<f64>() / 37.0);
            match (trace.push(c), plain) {
                (Some(a), Some(b)) => assert!((a - b).abs() < 1e-9, "token {t}"),
                (a, b) => assert_eq!(a, b, "token {t}"),
            }
        }
        let summary = trace.summary().unwrap();
        let mut windows: Vec<f64> = values.windows(37).map(|w| w.iter().sum::<f64>() / 37.0).collect();
        assert!((summary.tail - windows[windows.len() - 1]).abs() < 1e-9);
        windows.sort_by(f64::total_cmp);
        assert!((summary.lowest - windows[0]).abs() < 1e-9);
        assert!((summary.bottom - windows[..27].iter().sum::<f64>() / 27.0).abs() < 1e-9, "264 windows, 27 of them");
        assert!((summary.mean - values.iter().sum::<f64>() / 300.0).abs() < 1e-9);
    }

    #[test]
    fn a_dip_in_a_short_path_shows_and_the_papers_window_hides_it() {
        let path: Vec<f64> = (0..400).map(|i| if (200..250).contains(&i) { 1.0 } else { 10.0 }).collect();
        let lowest = |w: usize| {
            let mut trace = Trace::new(w);
            for &c in &path {
                trace.push(c);
            }
            trace.summary().unwrap().lowest
        };
        assert!((lowest(window(400)) - 1.0).abs() < 1e-9);
        assert!(lowest(2048) > 8.0);
        assert_eq!((window(10), window(800), window(1 << 20)), (32, 100, 2048));
    }

    #[test]
    fn the_bar_keeps_its_share_of_the_warm_up() {
        let lowest: Vec<f64> = (0..=10).map(f64::from).collect();
        for (keep, bar) in [(0.9, 1.0), (0.1, 9.0), (0.75, 2.5)] {
            assert!((Bar::of(&lowest, keep).unwrap().0 - bar).abs() < 1e-12);
        }
        assert_eq!(Bar::of(&[], 0.9), None);
        assert!(Bar(1.0).cuts(0.9) && !Bar(1.0).cuts(1.0));
    }

    #[test]
    fn the_confident_stay_in_their_order() {
        let confidence = [Some(1.0), None, Some(3.0), Some(2.0), Some(3.0)];
        assert_eq!(most_confident(&confidence, 0.5), [2, 3, 4]);
        assert_eq!(most_confident(&confidence, 0.0), [2]);
        assert_eq!(most_confident(&confidence, 1.0), [0, 1, 2, 3, 4]);
    }
}
