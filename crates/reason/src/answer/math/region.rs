//! The set an inequality in one unknown describes: `1 < x ≤ 2` is (1, 2].
//!
//! Only what is solved already: the unknown, or its absolute value, stands alone on one side or in
//! the middle. Nothing is rearranged.

use super::{Bracket, Expr, Math, Rel, Scalar, SetOp};

/// The set; none when the relation is not of that form.
pub fn region(math: &Math) -> Option<Math> {
    let Math::Relation(sides, relations) = math else { return None };
    let sides: Option<Vec<Expr>> = sides.iter().map(|s| s.expr().cloned()).collect();
    let mut sides = sides?;
    let mut relations = relations.clone();
    // ascending order
    if matches!(relations[0], Rel::Greater | Rel::GreaterEqual) {
        sides.reverse();
        relations.reverse();
        for r in &mut relations {
            match r {
                Rel::Greater => *r = Rel::Less,
                Rel::GreaterEqual => *r = Rel::LessEqual,
                _ => {}
            }
        }
    }
    let bound = |e: &Expr| (!e.open()).then(|| e.clone());
    let infinity = || Expr::Symbol("\\infty".into());
    let negative_infinity = || infinity().negative();
    let (below, unknown, above) = match (&sides[..], &relations[..]) {
        ([x, c], [Rel::Unequal]) if unknown(x) => {
            let c = bound(c)?;
            let left = interval((negative_infinity(), false), (c.clone(), false));
            return Some(Math::Sets(SetOp::Union, vec![left, interval((c, false), (infinity(), false))]));
        }
        ([x, c], [r]) if unknown(x) && closed(*r).is_some() => (None, x, Some((bound(c)?, closed(*r)?))),
        ([c, x], [r]) if unknown(x) && closed(*r).is_some() => (Some((bound(c)?, closed(*r)?)), x, None),
        ([a, x, b], [r, s]) if unknown(x) => (Some((bound(a)?, closed(*r)?)), x, Some((bound(b)?, closed(*s)?))),
        _ => return None,
    };
    if !matches!(unknown, Expr::Call(name, _) if name == "abs") {
        let below = below.unwrap_or_else(|| (negative_infinity(), false));
        return Some(interval(below, above.unwrap_or_else(|| (infinity(), false))));
    }
    let Some((low, low_closed)) = below else {
        let (high, high_closed) = above?;
        return Some(interval((high.clone().negative(), high_closed), (high, high_closed)));
    };
    let (high, high_closed) = above.unwrap_or_else(|| (infinity(), false));
    Some(Math::Sets(
        SetOp::Union,
        vec![
            interval((high.clone().negative(), high_closed), (low.clone().negative(), low_closed)),
            interval((low, low_closed), (high, high_closed)),
        ],
    ))
}

/// Whether an ascending relation includes its bound.
fn closed(relation: Rel) -> Option<bool> {
    match relation {
        Rel::Less => Some(false),
        Rel::LessEqual => Some(true),
        _ => None,
    }
}

/// A variable, a function of one, or the absolute value of one.
fn unknown(expr: &Expr) -> bool {
    match expr {
        Expr::Symbol(_) | Expr::Call(..) => expr.open(),
        _ => false,
    }
}

fn interval((low, left): (Expr, bool), (high, right): (Expr, bool)) -> Math {
    let end = |value| Math::Scalar(Scalar { value, percent: false, unit: None });
    Math::Group(Bracket::Round { left, right }, vec![end(low), end(high)])
}
