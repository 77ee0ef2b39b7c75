//! The value of an expression: exact over the rationals, or modulo a prime.
//!
//! Sizes are bounded: beyond them the answer is [`EvalError::TooLarge`], never a rounded number.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{One, Signed, ToPrimitive, Zero};

use super::token::Operator;
use super::{Code, Expression};

/// Bits of a numerator or denominator, at most.
const MAX_BITS: u64 = 1024;
/// Largest exponent.
const MAX_EXPONENT: i64 = 512;
/// Largest argument of a factorial.
const MAX_FACTORIAL: i64 = 120;

/// Why an expression has no value here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EvalError {
    /// A variable without a value.
    Unbound,
    /// A division by zero.
    DivisionByZero,
    /// A root or a power that is no rational number.
    Inexact,
    /// Beyond the bounds on size.
    TooLarge,
}

impl Expression {
    /// Its exact value, variables looked up in `values`.
    ///
    /// # Errors
    /// Where it has none; see [`EvalError`].
    pub fn evaluate(&self, values: &dyn Fn(&str) -> Option<BigRational>) -> Result<BigRational, EvalError> {
        let mut stack: Vec<BigRational> = Vec::new();
        for code in &self.code {
            let value = match code {
                Code::Number(value) => value.clone(),
                Code::Variable(name) => values(name).ok_or(EvalError::Unbound)?,
                Code::Negate => -pop(&mut stack),
                Code::Root => root(&pop(&mut stack))?,
                Code::Factorial => factorial(&pop(&mut stack))?,
                Code::Binary(operator) => {
                    let (right, left) = (pop(&mut stack), pop(&mut stack));
                    match operator {
                        Operator::Add => left + right,
                        Operator::Subtract => left - right,
                        Operator::Multiply => left * right,
                        Operator::Divide if right.is_zero() => return Err(EvalError::DivisionByZero),
                        Operator::Divide => left / right,
                        Operator::Power => power(left, &right)?,
                    }
                }
            };
            if value.numer().bits().max(value.denom().bits()) > MAX_BITS {
                return Err(EvalError::TooLarge);
            }
            stack.push(value);
        }
        Ok(pop(&mut stack))
    }

    /// Its value modulo a prime; a division multiplies by the inverse.
    ///
    /// # Errors
    /// Where it has none: also when a divisor is 0 modulo the prime.
    pub fn evaluate_mod(&self, prime: u64, values: &dyn Fn(&str) -> Option<u64>) -> Result<u64, EvalError> {
        let mut stack: Vec<u64> = Vec::new();
        let take = |stack: &mut Vec<u64>| stack.pop().expect("postfix code is balanced");
        for (at, code) in self.code.iter().enumerate() {
            let value = match code {
                Code::Number(value) => {
                    let big = BigInt::from(prime);
                    let part = |n: &BigInt| (((n % &big) + &big) % &big).to_u64().expect("below the prime");
                    times(part(value.numer()), inverse(part(value.denom()), prime)?, prime)
                }
                Code::Variable(name) => values(name).ok_or(EvalError::Unbound)? % prime,
                Code::Negate => (prime - take(&mut stack)) % prime,
                Code::Root | Code::Factorial => return Err(EvalError::Inexact),
                Code::Binary(operator) => {
                    let (right, left) = (take(&mut stack), take(&mut stack));
                    match operator {
                        Operator::Add => plus(left, right, prime),
                        Operator::Subtract => plus(left, prime - right, prime),
                        Operator::Multiply => times(left, right, prime),
                        Operator::Divide => times(left, inverse(right, prime)?, prime),
                        Operator::Power => {
                            // an exponent is no residue: only a constant one has a meaning here
                            let exponent = match &self.code[at - 1] {
                                Code::Number(n) if n.is_integer() && !n.is_negative() => n.to_integer().to_u64(),
                                _ => None,
                            };
                            raise(left, exponent.ok_or(EvalError::Inexact)?, prime)
                        }
                    }
                }
            };
            stack.push(value);
        }
        Ok(take(&mut stack))
    }
}

fn pop(stack: &mut Vec<BigRational>) -> BigRational {
    stack.pop().expect("postfix code is balanced")
}

fn power(base: BigRational, exponent: &BigRational) -> Result<BigRational, EvalError> {
    if !exponent.is_integer() {
        return Err(EvalError::Inexact);
    }
    let n = exponent.to_integer().to_i64().filter(|n| n.abs() <= MAX_EXPONENT).ok_or(EvalError::TooLarge)?;
    let bits = base.numer().bits().max(base.denom().bits());
    if bits.saturating_mul(n.unsigned_abs()) > MAX_BITS {
        return Err(EvalError::TooLarge);
    }
    if n < 0 && base.is_zero() {
        return Err(EvalError::DivisionByZero);
    }
    Ok(num_traits::Pow::pow(base, n as i32))
}

fn root(value: &BigRational) -> Result<BigRational, EvalError> {
    if value.is_negative() {
        return Err(EvalError::Inexact);
    }
    let found = BigRational::new(value.numer().sqrt(), value.denom().sqrt());
    if &found * &found == *value { Ok(found) } else { Err(EvalError::Inexact) }
}

fn factorial(value: &BigRational) -> Result<BigRational, EvalError> {
    let n = Some(value).filter(|v| v.is_integer()).and_then(|v| v.to_integer().to_i64()).ok_or(EvalError::Inexact)?;
    if !(0..=MAX_FACTORIAL).contains(&n) {
        return Err(EvalError::TooLarge);
    }
    Ok(BigRational::from_integer((1..=n).fold(BigInt::one(), |product, k| product * k)))
}

/// a + b modulo p, both at most p.
pub fn plus(a: u64, b: u64, p: u64) -> u64 {
    ((u128::from(a) + u128::from(b)) % u128::from(p)) as u64
}

/// a · b modulo p.
pub fn times(a: u64, b: u64, p: u64) -> u64 {
    ((u128::from(a) * u128::from(b)) % u128::from(p)) as u64
}

/// a ^ n modulo p.
fn raise(mut a: u64, mut n: u64, p: u64) -> u64 {
    let mut product = 1 % p;
    while n > 0 {
        if n & 1 == 1 {
            product = times(product, a, p);
        }
        a = times(a, a, p);
        n >>= 1;
    }
    product
}

/// The inverse of a modulo p by the extended Euclidean algorithm; p need not be prime.
///
/// # Errors
/// When there is none.
pub fn inverse(a: u64, p: u64) -> Result<u64, EvalError> {
    let (mut r, mut next_r) = (i128::from(p), i128::from(a % p));
    let (mut t, mut next_t) = (0_i128, 1_i128);
    while next_r != 0 {
        let q = r / next_r;
        (r, next_r) = (next_r, r - q * next_r);
        (t, next_t) = (next_t, t - q * next_t);
    }
    if r != 1 {
        return Err(EvalError::DivisionByZero);
    }
    Ok(t.rem_euclid(i128::from(p)) as u64)
}
