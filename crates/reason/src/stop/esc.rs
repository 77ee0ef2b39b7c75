//! Early-stopping self-consistency (Li et al., ICLR 2024): paths come in windows of w, up to L; a window
//! that agrees ends the question. Batches well, because a window is drawn at once.

/// The current window.
#[derive(Debug, Clone)]
pub struct Window {
    size: usize,
    filled: usize,
    first: Option<usize>,
    agree: bool,
}

impl Window {
    /// An empty window of `size` paths (at least one).
    pub fn new(size: usize) -> Self {
        Self { size: size.max(1), filled: 0, first: None, agree: true }
    }

    /// A path ended in `class`; true when it completes a window that agrees.
    pub fn observe(&mut self, class: Option<usize>) -> bool {
        if self.filled == 0 {
            (self.first, self.agree) = (class, true);
        }
        self.agree &= class == self.first;
        self.filled += 1;
        if self.filled < self.size {
            return false;
        }
        self.filled = 0;
        self.agree
    }
}

/// Expected paths of one question whose answers have probabilities `p`, by windows of `window` up to
/// `most`: with q = Σ p_j^w, E\[n\] = w (Σ_{i < L/w − 1} q (1 − q)^i (i + 1) + (1 − q)^{L/w − 1} L/w). It prices a
/// window size before a run. `most` counts in whole windows.
///
/// # Panics
/// When `window` is 0.
pub fn expected_paths(p: &[f64], window: usize, most: usize) -> f64 {
    let w = window as f64;
    let windows = (most / window).max(1);
    let q: f64 = p.iter().map(|p| p.powi(window as i32)).sum();
    let early: f64 = (0..windows - 1).map(|i| q * (1.0 - q).powi(i as i32) * (i as f64 + 1.0)).sum();
    w * (early + (1.0 - q).powi(windows as i32 - 1) * windows as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_windows_count() {
        let mut window = Window::new(3);
        let seen: Vec<bool> = [1, 2, 2, 2, 2, 3, 4, 4, 4].map(|c| window.observe(Some(c))).into();
        assert_eq!(seen, [false, false, false, false, false, false, false, false, true]);
    }

    #[test]
    fn the_forecast_is_the_mean_of_all_sequences() {
        // Two answers at .7 and .3, windows of 2 up to 6: all 64 sequences by hand of the state machine.
        let p = [0.7, 0.3];
        let mut mean = 0.0;
        for bits in 0..64_u32 {
            let (mut window, mut used) = (Window::new(2), 6);
            for i in 0..6 {
                if window.observe(Some((bits >> i & 1) as usize)) {
                    used = i + 1;
                    break;
                }
            }
            let chance: f64 = (0..6).map(|i| p[(bits >> i & 1) as usize]).product();
            mean += chance * f64::from(used);
        }
        assert!((expected_paths(&p, 2, 6) - mean).abs() < 1e-12);
        assert_eq!(expected_paths(&[1.0], 5, 40), 5.0);
        assert_eq!(expected_paths(&[1e-9; 3], 5, 40).round(), 40.0);
    }
}
