//! Systems of linear equations modulo a prime: does an equation follow from those before it?
//!
//! Method: an equation is read as a row by evaluating left − right at zero and at the unit vectors, and
//! refused when fixed pseudo-random points show that it is not linear. Rows are kept in echelon form. A new
//! row that reduces to zero follows; one that reduces to 0 = c with c ≠ 0 contradicts; any other is new.

use std::collections::HashMap;

use super::expression::Expression;
use super::expression::evaluate::{inverse, plus, times};

/// Variables of one system, at most.
const MAX_VARIABLES: usize = 24;

/// How an equation stands to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It follows from them.
    Follows,
    /// It cannot hold together with them.
    Contradicts,
    /// Neither; it was added.
    New,
}

/// Equations modulo a prime.
#[derive(Debug, Clone)]
pub struct System {
    prime: u64,
    names: Vec<String>,
    /// Echelon rows: (pivot, coefficients then constant).
    rows: Vec<(usize, Vec<u64>)>,
}

impl System {
    /// No equation; the modulus must be a prime.
    pub fn new(prime: u64) -> Self {
        Self { prime, names: Vec::new(), rows: Vec::new() }
    }

    /// Whether it has a variable of this name.
    pub fn knows(&self, name: &str) -> bool {
        self.names.iter().any(|have| have == name)
    }

    /// Compares left = right with the system and adds it unless it contradicts; none when it is not linear.
    pub fn state(&mut self, left: &Expression, right: &Expression) -> Option<Standing> {
        for name in left.variables().into_iter().chain(right.variables()) {
            if !self.knows(name) {
                self.names.push(name.to_owned());
            }
        }
        if self.names.len() > MAX_VARIABLES {
            return None;
        }
        let width = self.names.len();
        for (_, row) in &mut self.rows {
            let constant = row.pop().expect("a row has a constant");
            row.resize(width, 0);
            row.push(constant);
        }
        let mut row = self.row(left, right)?;
        let p = self.prime;
        for (pivot, have) in &self.rows {
            let factor = row[*pivot];
            if factor != 0 {
                row.iter_mut().zip(have).for_each(|(a, b)| *a = plus(*a, p - times(factor, *b, p), p));
            }
        }
        let Some(pivot) = row[..width].iter().position(|c| *c != 0) else {
            return Some(if row[width] == 0 { Standing::Follows } else { Standing::Contradicts });
        };
        let scale = inverse(row[pivot], p).ok()?;
        row.iter_mut().for_each(|c| *c = times(*c, scale, p));
        for (_, have) in &mut self.rows {
            let factor = have[pivot];
            have.iter_mut().zip(&row).for_each(|(a, b)| *a = plus(*a, p - times(factor, *b, p), p));
        }
        self.rows.push((pivot, row));
        Some(Standing::New)
    }

    /// left − right as coefficients and constant.
    fn row(&self, left: &Expression, right: &Expression) -> Option<Vec<u64>> {
        let p = self.prime;
        let at = |point: &HashMap<&str, u64>| {
            let value = |name: &str| Some(point.get(name).copied().unwrap_or(0));
            Some(plus(left.evaluate_mod(p, &value).ok()?, p - right.evaluate_mod(p, &value).ok()?, p))
        };
        let constant = at(&HashMap::new())?;
        let mut row = Vec::with_capacity(self.names.len() + 1);
        for name in &self.names {
            row.push(plus(at(&HashMap::from([(name.as_str(), 1)]))?, p - constant, p));
        }
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..4 {
            let mut point = HashMap::new();
            let mut expected = constant;
            for (name, coefficient) in self.names.iter().zip(&row) {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let value = (seed >> 16) % p;
                point.insert(name.as_str(), value);
                expected = plus(expected, times(*coefficient, value, p), p);
            }
            if at(&point)? != expected {
                return None;
            }
        }
        row.push(constant);
        Some(row)
    }
}
