//! When two formulas are the same answer.
//!
//! Scalars: exact rationals decide where both sides are; a rounded decimal is compared at a number of
//! places; rational functions at 20 random points modulo two primes; what has roots or functions in
//! floating point, at 20 points when it has variables (relative tolerance 10⁻⁹). Groups are compared
//! element by element: tuples and intervals in order, sets and lists in any order. Equations are the
//! same when one is a multiple of the other, inequalities when it is a positive one.
//!
//! Asymmetric on purpose: an inequality as gold answer accepts the interval it describes, and not the
//! other way round unless the options say so.

use std::collections::BTreeSet;

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{One, Signed, Zero};

use super::eval::{Residue, exact, float, residue};
use super::region::region;
use super::{Bracket, Expr, Math, Rel, Scalar, SetOp, eval};
use crate::answer::equal::{EqualOptions, Percent, Units};

/// Random points a comparison looks at.
const POINTS: u64 = 20;
/// Points of them that must have a value on both sides.
const ENOUGH: usize = 5;
/// Relative tolerance of floating-point comparison.
const TOLERANCE: f64 = 1e-9;
/// Most elements of a group compared in any order.
const MAX_UNORDERED: usize = 200;

/// Whether `pred` is the answer `gold`.
pub fn same(gold: &Math, pred: &Math, options: &EqualOptions) -> bool {
    if gold == pred {
        return true;
    }
    if let (Math::Relation(..), Math::Relation(..)) = (gold, pred)
        && relations(gold, pred)
    {
        return true;
    }
    match (assigned(gold), assigned(pred)) {
        (Some(a), Some(b)) => return same(a, b, options),
        (Some(a), None) => return same(a, pred, options),
        (None, Some(b)) => return same(gold, b, options),
        (None, None) => {}
    }
    match (gold, pred) {
        (Math::Relation(..), Math::Relation(..)) => match (region(gold), region(pred)) {
            (Some(a), Some(b)) => same(&a, &b, options),
            _ => false,
        },
        (Math::Relation(..), _) => region(gold).is_some_and(|set| same(&set, pred, options)),
        (_, Math::Relation(..)) => {
            options.relation_for_set && region(pred).is_some_and(|set| same(gold, &set, options))
        }
        (Math::Scalar(a), Math::Scalar(b)) => scalars(a, b, options),
        (Math::Group(a, x), Math::Group(b, y)) => groups((*a, x), (*b, y), options),
        (Math::Group(Bracket::Set | Bracket::List, items), other) if items.len() == 1 => {
            same(&items[0], other, options)
        }
        (other, Math::Group(Bracket::Set | Bracket::List, items)) if items.len() == 1 => {
            same(other, &items[0], options)
        }
        (Math::Group(Bracket::Ratio, parts), Math::Scalar(value)) => {
            quotient(parts).is_some_and(|q| values(&q, &value.value, options))
        }
        (Math::Scalar(value), Math::Group(Bracket::Ratio, parts)) => {
            quotient(parts).is_some_and(|q| values(&value.value, &q, options))
        }
        (Math::Sets(a, x), Math::Sets(b, y)) => {
            a == b && if *a == SetOp::Difference { ordered(x, y, options) } else { unordered(x, y, options) }
        }
        (Math::Matrix(a), Math::Matrix(b)) => {
            a.len() == b.len()
                && a.iter()
                    .zip(b)
                    .all(|(x, y)| x.len() == y.len() && x.iter().zip(y).all(|(x, y)| values(x, y, options)))
        }
        (Math::Matrix(rows), Math::Group(Bracket::Round { .. }, items))
        | (Math::Group(Bracket::Round { .. }, items), Math::Matrix(rows)) => {
            let entries: Vec<_> = rows.iter().flatten().collect();
            (rows.len() == 1 || rows[0].len() == 1)
                && entries.len() == items.len()
                && entries.iter().zip(items).all(|(x, y)| y.expr().is_some_and(|y| values(x, y, options)))
        }
        _ => false,
    }
}

/// The value a name or a computation is given: `x = 5`, `5 + 7 = 12`, `f(1) = 1 + 1 = 2`, `(x, y) = (1, 2)`, `x ∈ S`. An equation
/// whose left side is a sum or a multiple ("2x + z = 1") gives no value, a chain of equations does.
fn assigned(math: &Math) -> Option<&Math> {
    let Math::Relation(sides, relations) = math else { return None };
    if relations.last() == Some(&Rel::In) {
        return sides.last();
    }
    if !relations.iter().all(|r| matches!(r, Rel::Equal | Rel::Approximate)) {
        return None;
    }
    let computed = sides.iter().all(|side| matches!(side, Math::Scalar(s) if !s.value.open()));
    (relations.len() > 1 || computed || names_something(&sides[0])).then(|| sides.last()).flatten()
}

fn names_something(side: &Math) -> bool {
    match side {
        Math::Scalar(Scalar { value, .. }) => name(value),
        Math::Group(..) | Math::Word(_) => true,
        _ => false,
    }
}

/// A product or quotient of symbols and functions: x, AB, NO/BO, f(x), |AB|.
fn name(expr: &Expr) -> bool {
    match expr {
        Expr::Symbol(_) | Expr::Call(..) => true,
        Expr::Number(n) => n.value.is_one(),
        Expr::Product(parts) => parts.iter().all(name),
        Expr::Power(base, exponent) => **exponent == Expr::integer(-1) && name(base),
        _ => false,
    }
}

fn groups((a, x): (Bracket, &[Math]), (b, y): (Bracket, &[Math]), options: &EqualOptions) -> bool {
    let any_order = |bracket| matches!(bracket, Bracket::Set | Bracket::List);
    match (a, b) {
        (Bracket::Ratio, Bracket::Ratio) => ordered(x, y, options) || proportional_parts(x, y),
        (Bracket::Ratio, _) | (_, Bracket::Ratio) => false,
        (a, b) if any_order(a) && any_order(b) => unordered(&distinct(x), &distinct(y), options),
        // two elements in round or square brackets are an interval: its ends matter
        (Bracket::Round { .. }, Bracket::Round { .. }) => (a == b || x.len() != 2) && ordered(x, y, options),
        (Bracket::Round { left, right }, _) | (_, Bracket::Round { left, right }) => {
            left == right && ordered(x, y, options)
        }
        _ => false,
    }
}

fn ordered(x: &[Math], y: &[Math], options: &EqualOptions) -> bool {
    x.len() == y.len() && x.iter().zip(y).all(|(a, b)| same(a, b, options))
}

/// A one-to-one match in any order. Where both sides name the same names, a name keeps its value.
fn unordered(x: &[Math], y: &[Math], options: &EqualOptions) -> bool {
    if x.len() != y.len() || x.len() > MAX_UNORDERED {
        return ordered(x, y, options);
    }
    let named = |items: &[Math]| -> Option<BTreeSet<String>> {
        items
            .iter()
            .map(|item| match item {
                Math::Relation(sides, _) if assigned(item).is_some() => Some(format!("{:?}", sides[0])),
                _ => None,
            })
            .collect()
    };
    let by_name = matches!((named(x), named(y)), (Some(a), Some(b)) if a == b && a.len() == x.len());
    let mut free: Vec<&Math> = y.iter().collect();
    x.iter().all(|a| {
        let fits = |b: &&Math| {
            let names = match (a, b) {
                (Math::Relation(s, _), Math::Relation(t, _)) => !by_name || s[0] == t[0],
                _ => true,
            };
            names && same(a, b, options)
        };
        let found = free.iter().position(fits);
        found.map(|at| free.swap_remove(at)).is_some()
    })
}

/// Without repetitions: sets have none, and neither do lists of solutions.
fn distinct(items: &[Math]) -> Vec<Math> {
    let mut found: Vec<Math> = Vec::new();
    for item in items.iter().take(10 * MAX_UNORDERED) {
        if !found.contains(item) {
            found.push(item.clone());
        }
    }
    found
}

fn quotient(parts: &[Math]) -> Option<Expr> {
    match parts {
        [a, b] => Some(a.expr()?.clone().over(b.expr()?.clone())),
        _ => None,
    }
}

/// 2:4 is 1:2.
fn proportional_parts(x: &[Math], y: &[Math]) -> bool {
    let numbers = |parts: &[Math]| -> Option<Vec<BigRational>> {
        parts.iter().map(|p| p.expr().and_then(exact).filter(|v| !v.is_zero())).collect()
    };
    match (numbers(x), numbers(y)) {
        (Some(a), Some(b)) => a.len() == b.len() && a.iter().zip(&b).all(|(p, q)| p * &b[0] == q * &a[0]),
        _ => false,
    }
}

fn scalars(gold: &Scalar, pred: &Scalar, options: &EqualOptions) -> bool {
    let (mut g, mut p) = (gold.value.clone(), pred.value.clone());
    match (&gold.unit, &pred.unit) {
        (Some(a), Some(b)) => {
            let ((scale_a, dimensions_a), (scale_b, dimensions_b)) = (a.reduced(), b.reduced());
            if dimensions_a != dimensions_b {
                return false;
            }
            if scale_a != scale_b {
                g = Expr::Product(vec![Expr::number(scale_a), g]);
                p = Expr::Product(vec![Expr::number(scale_b), p]);
            }
        }
        (None, None) => {}
        _ if options.units == Units::Strict => return false,
        _ => {}
    }
    if options.percent == Percent::Dropped || (gold.percent && pred.percent) {
        return values(&g, &p, options);
    }
    if options.percent == Percent::Gold && !gold.percent && pred.percent && values(&g, &p, options) {
        return true;
    }
    let hundredth = |e: Expr| Expr::Product(vec![e, Expr::number(BigRational::new(1.into(), 100.into()))]);
    let g = if gold.percent { hundredth(g) } else { g };
    let p = if pred.percent { hundredth(p) } else { p };
    values(&g, &p, options)
}

/// +1 or -1 for ±∞.
pub(super) fn infinite(expr: &Expr) -> Option<i8> {
    match expr {
        Expr::Symbol(name) if name == "\\infty" => Some(1),
        Expr::Product(parts) => {
            let mut sign = 1;
            let mut found = false;
            for part in parts {
                if let Some(s) = infinite(part) {
                    (sign, found) = (sign * s, true);
                } else if exact(part)?.is_negative() {
                    sign = -sign;
                }
            }
            found.then_some(sign)
        }
        _ => None,
    }
}

/// Whether two expressions have the same value.
fn values(a: &Expr, b: &Expr, options: &EqualOptions) -> bool {
    if a == b {
        return true;
    }
    match (infinite(a), infinite(b)) {
        (None, None) => {}
        (x, y) => return x == y,
    }
    let rounded = (a.decimal() || b.decimal()) && !a.open() && !b.open();
    if let (Some(x), Some(y)) = (exact(a), exact(b)) {
        return x == y || (rounded && round(&x, options.places) == round(&y, options.places));
    }
    if rounded {
        let places = 10_f64.powi(-(options.places.min(300) as i32));
        return match (float(a, 0), float(b, 0)) {
            (Some(x), Some(y)) => (x.0 - y.0).abs() < places && (x.1 - y.1).abs() < places,
            _ => false,
        };
    }
    identical(a, b)
}

/// To `places` decimals, half away from zero.
fn round(value: &BigRational, places: u32) -> BigInt {
    (value * BigRational::from_integer(BigInt::from(10).pow(places.min(1000)))).round().to_integer()
}

/// Whether two expressions agree at random points.
fn identical(a: &Expr, b: &Expr) -> bool {
    let mut agreed = 0;
    for p in eval::PRIMES {
        for point in 0..POINTS {
            match (residue(a, p, point), residue(b, p, point)) {
                (Residue::Value(x), Residue::Value(y)) if x == y => agreed += 1,
                (Residue::Value(_), Residue::Value(_)) => return false,
                (Residue::Beyond, _) | (_, Residue::Beyond) => return identical_float(a, b),
                _ => {}
            }
        }
    }
    agreed >= ENOUGH
}

fn identical_float(a: &Expr, b: &Expr) -> bool {
    let open = a.open() || b.open();
    let mut agreed = 0;
    for point in 0..if open { POINTS } else { 1 } {
        let (Some(x), Some(y)) = (float(a, point), float(b, point)) else { continue };
        if !close(x, y) {
            return false;
        }
        agreed += 1;
    }
    agreed >= if open { ENOUGH } else { 1 }
}

fn close(x: eval::Complex, y: eval::Complex) -> bool {
    let size = x.modulus().max(y.modulus());
    let distance = (x.0 - y.0).hypot(x.1 - y.1);
    // both below the smallest normal number: nothing is known
    if size < f64::MIN_POSITIVE {
        return x.modulus() == 0.0 && y.modulus() == 0.0;
    }
    distance <= TOLERANCE * size || (x.modulus() == 0.0 || y.modulus() == 0.0) && distance < 1e-12
}

/// Left minus right.
fn difference(left: &Math, right: &Math) -> Option<Expr> {
    Some(Expr::Sum(vec![left.expr()?.clone(), right.expr()?.clone().negative()]))
}

/// Whether two relations say the same.
fn relations(gold: &Math, pred: &Math) -> bool {
    let (Math::Relation(..), Math::Relation(..)) = (gold, pred) else { return false };
    let (Some(a), Some(b)) = (pairs(gold), pairs(pred)) else { return false };
    a.len() == b.len()
        && a.iter().zip(&b).all(|((d, r), (e, s))| {
            r == s && d.open() && e.open() && multiple(d, e, matches!(r, Rel::Less | Rel::LessEqual))
        })
}

/// Neighbours of a chain as (difference, relation), ascending; of a chain of equations only the ends.
fn pairs(math: &Math) -> Option<Vec<(Expr, Rel)>> {
    let Math::Relation(sides, relations) = math else { return None };
    if relations.iter().all(|r| matches!(r, Rel::Equal | Rel::Approximate)) {
        return Some(vec![(difference(sides.first()?, sides.last()?)?, Rel::Equal)]);
    }
    let mut found = Vec::new();
    for (at, relation) in relations.iter().enumerate() {
        let (left, right) = (&sides[at], &sides[at + 1]);
        found.push(match relation {
            Rel::Greater => (difference(right, left)?, Rel::Less),
            Rel::GreaterEqual => (difference(right, left)?, Rel::LessEqual),
            Rel::In => return None,
            other => (difference(left, right)?, *other),
        });
    }
    if relations.iter().all(|r| matches!(r, Rel::Greater | Rel::GreaterEqual)) {
        found.reverse();
    }
    Some(found)
}

/// Whether one expression is a constant (and positive) multiple of the other.
fn multiple(a: &Expr, b: &Expr, positive: bool) -> bool {
    let p = eval::PRIMES[0];
    let mut first: Option<(u64, u64)> = None;
    let mut agreed = 0;
    let times = |x: u64, y: u64| u128::from(x) * u128::from(y) % u128::from(p);
    for point in 0..POINTS {
        match (residue(a, p, point), residue(b, p, point)) {
            (Residue::Value(x), Residue::Value(y)) => match first {
                None if x != 0 && y != 0 => first = Some((x, y)),
                None => {}
                Some((fx, fy)) if times(x, fy) == times(y, fx) => agreed += 1,
                Some(_) => return false,
            },
            (Residue::Beyond, _) | (_, Residue::Beyond) => return multiple_float(a, b, positive),
            _ => {}
        }
    }
    agreed >= ENOUGH && (!positive || ratio(a, b).is_some_and(|r| r > 0.0))
}

fn multiple_float(a: &Expr, b: &Expr, positive: bool) -> bool {
    let mut first: Option<f64> = None;
    let mut agreed = 0;
    for point in 0..POINTS {
        let (Some(x), Some(y)) = (float(a, point), float(b, point)) else { continue };
        if x.1 != 0.0 || y.1 != 0.0 || y.0 == 0.0 || x.0 == 0.0 {
            continue;
        }
        let r = x.0 / y.0;
        match first {
            None => first = Some(r),
            Some(f) if (f - r).abs() <= TOLERANCE * f.abs() * 10.0 => agreed += 1,
            Some(_) => return false,
        }
    }
    agreed >= ENOUGH && (!positive || first.is_some_and(|r| r > 0.0))
}

fn ratio(a: &Expr, b: &Expr) -> Option<f64> {
    (0..POINTS).find_map(|point| {
        let (x, y) = (float(a, point)?, float(b, point)?);
        (x.0 != 0.0 && y.0 != 0.0).then(|| x.0 / y.0)
    })
}
