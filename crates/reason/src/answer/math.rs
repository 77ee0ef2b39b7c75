//! Formulas: what LaTeX or plain notation denotes, as far as answers need it.
//!
//! `lex` cuts the text into tokens, `parse` builds a [`Math`], `eval` gives expressions values
//! (exact, modulo a prime, floating), `same` decides equality. Anything that does not parse is left to
//! the caller as text; nothing here fails loudly. Length, depth and work are bounded.

pub mod eval;
mod lex;
mod parse;
mod region;
mod same;

pub use parse::read;
pub use same::same;

use num_rational::BigRational;

use super::number::Number;
use super::unit::Unit;

/// A mathematical object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Math {
    /// A value, perhaps with a percent sign or a unit.
    Scalar(Scalar),
    /// Objects between brackets, or a bare list.
    Group(Bracket, Vec<Math>),
    /// `a ∪ b`, `a ∩ b`, `a \ b`.
    Sets(SetOp, Vec<Math>),
    /// `a < b ≤ c`: one relation fewer than sides.
    Relation(Vec<Math>, Vec<Rel>),
    /// Rows of equal length.
    Matrix(Vec<Vec<Expr>>),
    /// A word where a value could stand.
    Word(String),
}

/// A value with what stands behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scalar {
    pub value: Expr,
    pub percent: bool,
    pub unit: Option<Unit>,
}

/// What encloses a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bracket {
    /// `(a, b)`, `[a, b)`: a tuple or an interval; whether each end is closed (square).
    Round { left: bool, right: bool },
    /// `{a, b}`.
    Set,
    /// `a, b` without brackets.
    List,
    /// `a : b`.
    Ratio,
}

/// Operations on sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetOp {
    Union,
    Intersection,
    Difference,
}

/// Relations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rel {
    Equal,
    Approximate,
    Unequal,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
}

/// A scalar expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    Number(Number),
    /// π, e, i, ∞ under their own names, and variables, with their indices ("x_1").
    Symbol(String),
    Sum(Vec<Expr>),
    Product(Vec<Expr>),
    Power(Box<Expr>, Box<Expr>),
    /// A function by name: known ones have values, others are opaque.
    Call(String, Vec<Expr>),
}

impl Expr {
    /// An exact number.
    pub fn number(value: BigRational) -> Self {
        Self::Number(Number { value, decimal: false })
    }

    /// An exact small integer.
    pub fn integer(value: i64) -> Self {
        Self::number(BigRational::from_integer(value.into()))
    }

    /// Its negative.
    pub fn negative(self) -> Self {
        match self {
            Self::Number(n) => Self::Number(Number { value: -n.value, decimal: n.decimal }),
            other => Self::Product(vec![Self::integer(-1), other]),
        }
    }

    /// `self / other`.
    pub fn over(self, other: Self) -> Self {
        Self::Product(vec![self, Self::Power(Box::new(other), Box::new(Self::integer(-1)))])
    }

    /// Whether a decimal, which may be rounded, is in it.
    pub fn decimal(&self) -> bool {
        match self {
            Self::Number(n) => n.decimal,
            Self::Symbol(_) => false,
            Self::Sum(parts) | Self::Product(parts) | Self::Call(_, parts) => parts.iter().any(Self::decimal),
            Self::Power(base, exponent) => base.decimal() || exponent.decimal(),
        }
    }

    /// Whether a variable or opaque function is in it: its value depends on something.
    pub fn open(&self) -> bool {
        match self {
            Self::Number(_) => false,
            Self::Symbol(name) => !["\\pi", "e", "i", "\\infty"].contains(&name.as_str()),
            Self::Sum(parts) | Self::Product(parts) => parts.iter().any(Self::open),
            Self::Call(name, parts) => !eval::known(name) || parts.iter().any(Self::open),
            Self::Power(base, exponent) => base.open() || exponent.open(),
        }
    }
}

impl Math {
    /// A bare expression.
    pub fn scalar(value: Expr) -> Self {
        Self::Scalar(Scalar { value, percent: false, unit: None })
    }

    /// The expression of a bare scalar.
    pub fn expr(&self) -> Option<&Expr> {
        match self {
            Self::Scalar(Scalar { value, percent: false, unit: None }) => Some(value),
            _ => None,
        }
    }
}
