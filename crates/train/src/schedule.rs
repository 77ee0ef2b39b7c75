//! The learning rate of each step: linear warm-up, then constant, linear or half a cosine.
//!
//! Takes step numbers from 0, gives the rate of that step; pure, so that a resumed run needs no
//! state of it.

use crate::config::ScheduleKind;

/// The course of the learning rate over a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Shape after warm-up.
    pub kind: ScheduleKind,
    /// Peak learning rate.
    pub peak: f64,
    /// Share of the peak at the end.
    pub min_ratio: f64,
    /// Steps of linear warm-up.
    pub warmup: usize,
    /// Steps of the run.
    pub steps: usize,
}

impl Schedule {
    /// Rate of step `step`, counted from 0. Warm-up gives `(step + 1) / (warmup + 1)` of the peak,
    /// so that the first step moves and the peak comes right after; the last step has
    /// `min_ratio` of the peak.
    pub fn rate(&self, step: usize) -> f64 {
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / (self.warmup + 1) as f64;
        }
        let span = self.steps.saturating_sub(self.warmup + 1).max(1);
        let done = ((step - self.warmup) as f64 / span as f64).min(1.0);
        let share = match self.kind {
            ScheduleKind::Constant => return self.peak,
            ScheduleKind::Linear => 1.0 - done,
            ScheduleKind::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
        };
        self.peak * (self.min_ratio + (1.0 - self.min_ratio) * share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(kind: ScheduleKind, min_ratio: f64, warmup: usize) -> Vec<f64> {
        let s = Schedule { kind, peak: 1.0, min_ratio, warmup, steps: 10 };
        (0..10).map(|i| (s.rate(i) * 1e4).round() / 1e4).collect()
    }

    #[test]
    fn golden_values() {
        assert_eq!(rates(ScheduleKind::Constant, 0.1, 3), [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(rates(ScheduleKind::Linear, 0.1, 0), [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]);
        assert_eq!(
            rates(ScheduleKind::Linear, 0.0, 5),
            [0.1667, 0.3333, 0.5, 0.6667, 0.8333, 1.0, 0.75, 0.5, 0.25, 0.0]
        );
        // (1 + cos(k·pi/9)) / 2, lifted to the floor of 0.1
        assert_eq!(
            rates(ScheduleKind::Cosine, 0.1, 0),
            [1.0, 0.9729, 0.8947, 0.775, 0.6281, 0.4719, 0.325, 0.2053, 0.1271, 0.1]
        );
    }

    #[test]
    fn one_step_and_steps_past_the_end() {
        let one = Schedule { kind: ScheduleKind::Cosine, peak: 2.0, min_ratio: 0.5, warmup: 0, steps: 1 };
        assert_eq!(one.rate(0), 2.0);
        assert_eq!(one.rate(5), 1.0);
    }
}
