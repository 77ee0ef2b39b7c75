//! Parity of a hidden subset (Wen et al., ICLR 2025, arXiv 2410.05459).
//!
//! A question is `bits` bits; the answer is the parity of some of them, always the same ones, which are
//! never named. No smaller set of bits says anything about the answer, so a model that must write it
//! at once has no slope to follow. The chain reads the secret bits in order, a step is the bit and the
//! parity so far: each of the two depends on two places at most.

use loar_eval::rng::Draw;

use super::{Sample, Task};

/// The parity of bits at secret places.
#[derive(Clone, Debug)]
pub struct Parity {
    bits: usize,
    secret: Vec<usize>,
}

impl Parity {
    /// `secret` places among `bits`, drawn by `seed`.
    pub fn new(bits: usize, secret: usize, seed: u64) -> Parity {
        let mut places: Vec<usize> = (0..bits).collect();
        Draw::new(seed, 0x5EC2).shuffle(&mut places);
        places.truncate(secret);
        places.sort_unstable();
        Parity { bits, secret: places }
    }
}

impl Task for Parity {
    fn name(&self) -> &'static str {
        "parity"
    }

    fn about(&self) -> String {
        format!("parity of {} hidden bits of {}", self.secret.len(), self.bits)
    }

    fn sample(&self, draw: &mut Draw) -> Sample {
        let bits: Vec<usize> = (0..self.bits).map(|_| draw.below(2)).collect();
        let mut parity = 0;
        let mut steps = Vec::with_capacity(self.secret.len());
        for place in &self.secret {
            parity ^= bits[*place];
            steps.push(format!("{}{parity}", bits[*place]));
        }
        Sample { question: bits.iter().map(ToString::to_string).collect(), steps, answer: parity.to_string() }
    }

    fn chance(&self) -> f64 {
        0.5
    }

    fn holds(&self, steps: &[&str], i: usize) -> Option<bool> {
        let read = |step: &str| match step.as_bytes() {
            &[bit @ (b'0' | b'1'), parity @ (b'0' | b'1')] => Some((bit - b'0', parity - b'0')),
            _ => None,
        };
        let (bit, parity) = read(steps.get(i)?)?;
        let before = match i {
            0 => 0,
            _ => read(steps[i - 1])?.1,
        };
        Some(parity == before ^ bit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_ends_in_the_parity_of_the_same_places() {
        let task = Parity::new(12, 5, 3);
        let mut draw = Draw::new(1, 1);
        for _ in 0..200 {
            let s = task.sample(&mut draw);
            let steps: Vec<&str> = s.steps.iter().map(String::as_str).collect();
            let parity = task.secret.iter().filter(|p| &s.question[**p..**p + 1] == "1").count() % 2;
            assert_eq!(s.answer, parity.to_string());
            assert!(s.steps[4].ends_with(&s.answer));
            assert!((0..5).all(|i| task.holds(&steps, i) == Some(true)), "{steps:?}");
        }
    }

    #[test]
    fn a_wrong_or_disconnected_step_fails_and_another_form_says_nothing() {
        let task = Parity::new(8, 3, 1);
        assert_eq!(task.holds(&["11"], 0), Some(true));
        assert_eq!(task.holds(&["10"], 0), Some(false));
        assert_eq!(task.holds(&["11", "11"], 1), Some(false), "the parity so far is 1");
        assert_eq!(task.holds(&["11", "01"], 1), Some(true));
        assert_eq!(task.holds(&["1"], 0), None);
        assert_eq!(task.holds(&["x", "11"], 1), None);
        assert_eq!(task.holds(&[], 0), None);
    }
}
