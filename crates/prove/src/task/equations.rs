//! Two linear equations modulo a prime (Feng et al., NeurIPS 2023, arXiv 2305.15408, reduced).
//!
//! `ax+by=c,dx+ey=f` with one solution and a ≠ 0. The chain is Gaussian elimination, one operation a
//! step: `b/a`, `c/a`, `d·b'`, `e−t`, `d·c'`, `f−t`, `f'/e'` (that is y), `b'·y`, `c'−t` (that is x).
//! Whoever knows arithmetic modulo the prime can check a step.

use loar_eval::rng::Draw;

use super::{Sample, Task};

/// Arithmetic modulo a prime below 10, so that a number is one digit.
#[derive(Clone, Debug)]
pub struct Equations {
    prime: usize,
}

impl Equations {
    /// Modulo `prime`: 3, 5 or 7.
    ///
    /// # Panics
    /// For another number.
    pub fn new(prime: usize) -> Equations {
        assert!([3, 5, 7].contains(&prime), "the prime must be 3, 5 or 7");
        Equations { prime }
    }

    /// `u op v`; `None` for a division by zero or another sign.
    fn compute(&self, u: usize, op: char, v: usize) -> Option<usize> {
        let p = self.prime;
        match op {
            '*' => Some(u * v % p),
            '-' => Some((u + p - v) % p),
            '/' => (1..p).find(|inverse| v * inverse % p == 1).map(|inverse| u * inverse % p),
            _ => None,
        }
    }
}

impl Task for Equations {
    fn name(&self) -> &'static str {
        "equations"
    }

    fn about(&self) -> String {
        format!("two linear equations modulo {}", self.prime)
    }

    fn sample(&self, draw: &mut Draw) -> Sample {
        let p = self.prime;
        let [a, b, c, d, e, f] = loop {
            let q: [usize; 6] = std::array::from_fn(|_| draw.below(p));
            if q[0] != 0 && q[0] * q[4] % p != q[1] * q[3] % p {
                break q;
            }
        };
        let mut steps = Vec::with_capacity(9);
        let mut step = |u: usize, op: char, v: usize| {
            // The only divisors are a and e − d·b/a = determinant / a, neither of which is zero.
            let w = self.compute(u, op, v).unwrap_or_default();
            steps.push(format!("{u}{op}{v}={w}"));
            w
        };
        let (b1, c1) = (step(b, '/', a), step(c, '/', a));
        let t = step(d, '*', b1);
        let e1 = step(e, '-', t);
        let t = step(d, '*', c1);
        let f1 = step(f, '-', t);
        let y = step(f1, '/', e1);
        let t = step(b1, '*', y);
        let x = step(c1, '-', t);
        Sample { question: format!("{a}x+{b}y={c},{d}x+{e}y={f}"), steps, answer: format!("x={x},y={y}") }
    }

    fn chance(&self) -> f64 {
        1.0 / (self.prime * self.prime) as f64
    }

    fn holds(&self, steps: &[&str], i: usize) -> Option<bool> {
        let chars: Vec<char> = steps.get(i)?.chars().collect();
        let &[u, op, v, '=', w] = chars.as_slice() else { return None };
        let digit = |c: char| c.to_digit(10).map(|d| d as usize).filter(|d| *d < self.prime);
        let (u, v, w) = (digit(u)?, digit(v)?, digit(w)?);
        "*-/".contains(op).then(|| self.compute(u, op, v) == Some(w))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_solves_both_equations_and_every_step_holds() {
        let task = Equations::new(7);
        let mut draw = Draw::new(5, 1);
        for _ in 0..500 {
            let s = task.sample(&mut draw);
            let n = |text: &str, i: usize| text.as_bytes()[i] as usize - '0' as usize;
            let (q, x, y) = (s.question.as_str(), n(&s.answer, 2), n(&s.answer, 6));
            for at in [0, 8] {
                assert_eq!((n(q, at) * x + n(q, at + 3) * y) % 7, n(q, at + 6), "{s:?}");
            }
            let steps: Vec<&str> = s.steps.iter().map(String::as_str).collect();
            assert!((0..9).all(|i| task.holds(&steps, i) == Some(true)), "{s:?}");
        }
    }

    #[test]
    fn a_step_is_checked_by_itself() {
        let task = Equations::new(7);
        assert_eq!(task.holds(&["3/5=2"], 0), Some(true)); // 5 * 2 = 10 = 3
        assert_eq!(task.holds(&["3/5=4"], 0), Some(false));
        assert_eq!(task.holds(&["3/0=4"], 0), Some(false));
        assert_eq!(task.holds(&["9*1=2"], 0), None);
        assert_eq!(task.holds(&["3+5=1"], 0), None);
    }
}
