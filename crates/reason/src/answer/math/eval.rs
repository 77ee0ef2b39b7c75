//! Values of expressions: exact rationals, residues modulo a prime, complex floating point.
//!
//! The first decides wherever it applies. Two rational functions of variables (π and e count as such:
//! no rational function with rational coefficients vanishes at π) are compared modulo a prime at random points; by
//! the Schwartz-Zippel lemma two different ones of degree d agree at one point with probability at
//! most d/p. Roots and functions are compared in floating point.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{One, Signed, ToPrimitive, Zero};

use super::Expr;

/// Largest size of an exact value in bits.
const MAX_BITS: u64 = 20_000;

/// Whether a function of this name has values here.
pub fn known(name: &str) -> bool {
    KNOWN.contains(&name)
}

const KNOWN: [&str; 29] = [
    "sin",
    "cos",
    "tan",
    "cot",
    "sec",
    "csc",
    "arcsin",
    "arccos",
    "arctan",
    "asin",
    "acos",
    "atan",
    "sinh",
    "cosh",
    "tanh",
    "ln",
    "log",
    "lg",
    "exp",
    "abs",
    "max",
    "min",
    "gcd",
    "lcm",
    "factorial",
    "binomial",
    "floor",
    "ceil",
    "sqrt",
];

fn bits(value: &BigRational) -> u64 {
    value.numer().bits() + value.denom().bits()
}

/// The exact value, when it is rational and of reasonable size.
pub fn exact(expr: &Expr) -> Option<BigRational> {
    let value = match expr {
        Expr::Number(n) => n.value.clone(),
        Expr::Symbol(_) => return None,
        Expr::Sum(parts) => {
            let mut total = BigRational::zero();
            for part in parts {
                total += exact(part)?;
            }
            total
        }
        Expr::Product(parts) => {
            let mut total = BigRational::one();
            for part in parts {
                total *= exact(part)?;
                if bits(&total) > MAX_BITS {
                    return None;
                }
            }
            total
        }
        Expr::Power(base, exponent) => power(&exact(base)?, &exact(exponent)?)?,
        Expr::Call(name, arguments) => {
            let arguments: Option<Vec<_>> = arguments.iter().map(exact).collect();
            call(name, &arguments?)?
        }
    };
    (bits(&value) <= MAX_BITS).then_some(value)
}

fn power(base: &BigRational, exponent: &BigRational) -> Option<BigRational> {
    if !exponent.is_integer() {
        // a root, exact only for perfect powers
        let root = exponent.denom().to_u32().filter(|r| *r <= 64)?;
        if base.is_negative() && root % 2 == 0 {
            return None;
        }
        let part = |n: &BigInt| {
            let candidate = n.nth_root(root);
            (candidate.pow(root) == *n).then_some(candidate)
        };
        let rooted = BigRational::new(part(base.numer())?, part(base.denom())?);
        return power(&rooted, &BigRational::from_integer(exponent.numer().clone()));
    }
    let e = exponent.to_integer().to_i32()?;
    if base.is_zero() {
        return (e >= 0).then(|| if e == 0 { BigRational::one() } else { BigRational::zero() });
    }
    if bits(base).saturating_mul(u64::from(e.unsigned_abs())) > MAX_BITS && !base.abs().is_one() {
        return None;
    }
    if base.abs().is_one() {
        return Some(if e % 2 == 0 { BigRational::one() } else { base.clone() });
    }
    Some(base.pow(e))
}

fn call(name: &str, arguments: &[BigRational]) -> Option<BigRational> {
    let whole = |at: usize| arguments.get(at).filter(|v| v.is_integer()).map(BigRational::to_integer);
    Some(match (name, arguments) {
        ("abs", [a]) => a.abs(),
        ("max", [..]) => arguments.iter().max()?.clone(),
        ("min", [..]) => arguments.iter().min()?.clone(),
        ("floor", [a]) => a.floor(),
        ("ceil", [a]) => a.ceil(),
        ("factorial", [_]) => {
            let n = whole(0)?.to_u32().filter(|n| *n <= 1000)?;
            BigRational::from_integer((1..=n).fold(BigInt::one(), |product, k| product * k))
        }
        ("binomial", [_, _]) => {
            let (n, k) = (whole(0)?.to_u32().filter(|n| *n <= 1000)?, whole(1)?.to_u32()?);
            if k > n {
                return Some(BigRational::zero());
            }
            BigRational::from_integer((0..k).fold(BigInt::one(), |product, i| product * (n - i) / (i + 1)))
        }
        _ => return None,
    })
}

/// A pseudo-random 64-bit value of a name at a point (FNV-1a, then SplitMix64's mixer).
pub fn hash(name: &str, point: u64) -> u64 {
    let mut h = name.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01B3));
    h = h.wrapping_add(point.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    h = (h ^ (h >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    h ^ (h >> 31)
}

/// Two primes below 2⁶²: 2⁶¹−1 and 2⁶¹−31.
pub const PRIMES: [u64; 2] = [(1 << 61) - 1, (1 << 61) - 31];

/// What evaluation at a point says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residue {
    Value(u64),
    /// Zero in a denominator: another point decides.
    Pole,
    /// No rational function.
    Beyond,
}

/// The value of a rational function modulo `p`, its variables drawn by `point`.
pub fn residue(expr: &Expr, p: u64, point: u64) -> Residue {
    let multiply = |a: u64, b: u64| (u128::from(a) * u128::from(b) % u128::from(p)) as u64;
    match expr {
        Expr::Number(n) => rational(&n.value, p),
        Expr::Symbol(name) if name == "i" || name == "\\infty" => Residue::Beyond,
        Expr::Symbol(name) => Residue::Value(hash(name, point) % p),
        Expr::Sum(parts) => {
            let mut total = 0;
            for part in parts {
                match residue(part, p, point) {
                    Residue::Value(v) => total = (total + v) % p,
                    other => return other,
                }
            }
            Residue::Value(total)
        }
        Expr::Product(parts) => {
            let mut total = 1;
            for part in parts {
                match residue(part, p, point) {
                    Residue::Value(v) => total = multiply(total, v),
                    other => return other,
                }
            }
            Residue::Value(total)
        }
        Expr::Power(base, exponent) => {
            // constants such as √4 first, then integer powers of anything
            if let Some(value) = exact(expr) {
                return rational(&value, p);
            }
            let Some(e) = exact(exponent).filter(BigRational::is_integer).and_then(|e| e.to_integer().to_i64()) else {
                return Residue::Beyond;
            };
            match residue(base, p, point) {
                Residue::Value(0) if e < 0 => Residue::Pole,
                Residue::Value(v) => {
                    let e = if e < 0 { (p - 1) - e.unsigned_abs() % (p - 1) } else { e as u64 };
                    Residue::Value(modular_power(v, e, p))
                }
                other => other,
            }
        }
        Expr::Call(name, arguments) => {
            if let Some(value) = exact(expr) {
                return rational(&value, p);
            }
            if known(name) {
                return Residue::Beyond;
            }
            // an opaque function: its value is drawn from its name and its arguments' values
            let mut drawn = hash(name, point);
            for argument in arguments {
                match residue(argument, p, point) {
                    Residue::Value(v) => drawn = hash(name, drawn ^ v),
                    other => return other,
                }
            }
            Residue::Value(drawn % p)
        }
    }
}

fn rational(value: &BigRational, p: u64) -> Residue {
    let modulus = BigInt::from(p);
    let part = |n: &BigInt| ((n % &modulus + &modulus) % &modulus).to_u64().unwrap_or(0);
    let below = part(value.denom());
    if below == 0 {
        return Residue::Pole;
    }
    let inverse = modular_power(below, p - 2, p);
    Residue::Value((u128::from(part(value.numer())) * u128::from(inverse) % u128::from(p)) as u64)
}

fn modular_power(base: u64, mut exponent: u64, p: u64) -> u64 {
    let (mut result, mut square) = (1_u128, u128::from(base));
    let p = u128::from(p);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = result * square % p;
        }
        square = square * square % p;
        exponent >>= 1;
    }
    result as u64
}

/// A complex number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Complex(pub f64, pub f64);

impl Complex {
    pub fn modulus(self) -> f64 {
        self.0.hypot(self.1)
    }

    fn times(self, o: Self) -> Self {
        Self(self.0 * o.0 - self.1 * o.1, self.0 * o.1 + self.1 * o.0)
    }

    fn log(self) -> Self {
        Self(self.modulus().ln(), self.1.atan2(self.0))
    }

    fn exp(self) -> Self {
        Self(self.0.exp() * self.1.cos(), self.0.exp() * self.1.sin())
    }

    fn finite(self) -> Option<Self> {
        (self.0.is_finite() && self.1.is_finite()).then_some(self)
    }
}

/// The value at a point, real variables in (-3, 3); none where it is not finite or unknown.
pub fn float(expr: &Expr, point: u64) -> Option<Complex> {
    use std::f64::consts::{E, PI};
    match expr {
        Expr::Number(n) => Complex(n.value.to_f64()?, 0.0),
        Expr::Symbol(name) => match name.as_str() {
            "\\pi" => Complex(PI, 0.0),
            "e" => Complex(E, 0.0),
            "i" => Complex(0.0, 1.0),
            "\\infty" => return None,
            name => Complex(6.0 * (hash(name, point) >> 11) as f64 / (1_u64 << 53) as f64 - 3.0, 0.0),
        },
        Expr::Sum(parts) => {
            let mut total = Complex(0.0, 0.0);
            for part in parts {
                let v = float(part, point)?;
                total = Complex(total.0 + v.0, total.1 + v.1);
            }
            total
        }
        Expr::Product(parts) => {
            let mut total = Complex(1.0, 0.0);
            for part in parts {
                total = total.times(float(part, point)?);
            }
            total
        }
        Expr::Power(base, exponent) => raise(float(base, point)?, float(exponent, point)?)?,
        Expr::Call(name, arguments) => {
            let values: Option<Vec<_>> = arguments.iter().map(|a| float(a, point)).collect();
            let values = values?;
            if known(name) {
                function(name, &values)?
            } else {
                // opaque: drawn from the name and the rounded arguments
                let drawn = values.iter().fold(hash(name, 0), |h, v| {
                    hash(
                        name,
                        h ^ ((v.0 * 1e9).round() as i64 as u64) ^ ((v.1 * 1e9).round() as i64 as u64).rotate_left(32),
                    )
                });
                Complex(6.0 * (drawn >> 11) as f64 / (1_u64 << 53) as f64 - 3.0, 0.0)
            }
        }
    }
    .finite()
}

fn raise(base: Complex, exponent: Complex) -> Option<Complex> {
    if base.modulus() == 0.0 {
        return (exponent.0 > 0.0).then_some(Complex(0.0, 0.0));
    }
    if exponent.1 == 0.0 && base.1 == 0.0 {
        let e = exponent.0;
        if base.0 > 0.0 || e.fract() == 0.0 {
            return Complex(base.0.powf(e), 0.0).finite();
        }
        // an odd root of a negative number is the real one, as schools have it
        for root in [3.0, 5.0, 7.0, 9.0] {
            let power = e * root;
            if (power - power.round()).abs() < 1e-9 {
                let sign = if power.round() % 2.0 == 0.0 { 1.0 } else { -1.0 };
                return Complex(sign * (-base.0).powf(e), 0.0).finite();
            }
        }
    }
    base.log().times(exponent).exp().finite()
}

fn function(name: &str, values: &[Complex]) -> Option<Complex> {
    let real = |at: usize| values.get(at).filter(|v| v.1.abs() < 1e-12).map(|v| v.0);
    let x = real(0)?;
    let value = match (name, values.len()) {
        ("sin", 1) => x.sin(),
        ("cos", 1) => x.cos(),
        ("tan", 1) => x.tan(),
        ("cot", 1) => 1.0 / x.tan(),
        ("sec", 1) => 1.0 / x.cos(),
        ("csc", 1) => 1.0 / x.sin(),
        ("arcsin" | "asin", 1) => x.asin(),
        ("arccos" | "acos", 1) => x.acos(),
        ("arctan" | "atan", 1) => x.atan(),
        ("sinh", 1) => x.sinh(),
        ("cosh", 1) => x.cosh(),
        ("tanh", 1) => x.tanh(),
        ("ln" | "log", 1) if x < 0.0 => return Complex(x, 0.0).log().finite(),
        ("ln" | "log", 1) => x.ln(),
        ("lg", 1) => x.log10(),
        ("log", 2) => x.ln() / real(1)?.ln(),
        ("exp", 1) => x.exp(),
        ("sqrt", 1) => return raise(values[0], Complex(0.5, 0.0)),
        ("abs", 1) => x.abs(),
        ("floor", 1) => x.floor(),
        ("ceil", 1) => x.ceil(),
        ("max", _) => values.iter().map(|v| v.0).fold(x, f64::max),
        ("min", _) => values.iter().map(|v| v.0).fold(x, f64::min),
        _ => return None,
    };
    Complex(value, 0.0).finite()
}

/// Sum of two matrices of one shape.
pub fn add(a: &[Vec<Expr>], b: &[Vec<Expr>]) -> Option<Vec<Vec<Expr>>> {
    if a.len() != b.len() || a[0].len() != b[0].len() {
        return None;
    }
    let sum = |(x, y): (&Expr, &Expr)| Expr::Sum(vec![x.clone(), y.clone()]);
    Some(a.iter().zip(b).map(|(r, s)| r.iter().zip(s).map(sum).collect()).collect())
}

/// Product of two small matrices.
pub fn multiply(a: &[Vec<Expr>], b: &[Vec<Expr>]) -> Option<Vec<Vec<Expr>>> {
    if a[0].len() != b.len() || a.len() * b.len() * b[0].len() > 200 {
        return None;
    }
    let entry = |row: &Vec<Expr>, column: usize| {
        Expr::Sum(row.iter().zip(b).map(|(x, r)| Expr::Product(vec![x.clone(), r[column].clone()])).collect())
    };
    Some(a.iter().map(|row| (0..b[0].len()).map(|column| entry(row, column)).collect()).collect())
}
