//! Units that differ by a known factor, so that `75 cents × 4 = $3` is no mistake.

use num_rational::BigRational;

use super::expression::Expression;

/// (dimension, name, numerator, denominator): so many of the dimension's smallest unit.
const UNITS: [(u8, &str, i64); 50] = [
    (0, "cent", 1),
    (0, "cents", 1),
    (0, "dollar", 100),
    (0, "dollars", 100),
    (0, "$", 100),
    (0, "分", 1),
    (0, "角", 10),
    (0, "元", 100),
    (1, "second", 1),
    (1, "seconds", 1),
    (1, "minute", 60),
    (1, "minutes", 60),
    (1, "hour", 3600),
    (1, "hours", 3600),
    (1, "day", 86_400),
    (1, "days", 86_400),
    (1, "week", 604_800),
    (1, "weeks", 604_800),
    (1, "秒", 1),
    (1, "分钟", 60),
    (1, "小时", 3600),
    (1, "天", 86_400),
    (2, "inch", 1),
    (2, "inches", 1),
    (2, "feet", 12),
    (2, "foot", 12),
    (2, "yards", 36),
    (2, "yard", 36),
    (2, "miles", 63_360),
    (2, "mile", 63_360),
    (3, "mm", 1),
    (3, "cm", 10),
    (3, "m", 1000),
    (3, "meters", 1000),
    (3, "km", 1_000_000),
    (3, "kilometers", 1_000_000),
    (4, "ounces", 1),
    (4, "ounce", 1),
    (4, "pounds", 16),
    (4, "pound", 16),
    (5, "g", 1),
    (5, "grams", 1),
    (5, "kg", 1000),
    (5, "kilograms", 1000),
    (6, "ml", 1),
    (6, "milliliters", 1),
    (6, "l", 1000),
    (6, "liters", 1000),
    (7, "month", 1),
    (7, "months", 1),
];
/// Years are only of months exact.
const YEARS: [(u8, &str, i64); 2] = [(7, "year", 12), (7, "years", 12)];

/// Whether two sides are equal once a unit of the one is turned into a unit of the other.
pub(super) fn convertible(text: &str, left: (&Expression, &BigRational), right: (&Expression, &BigRational)) -> bool {
    let scales = [
        ("thousand", 1_000_i64),
        ("million", 1_000_000),
        ("billion", 1_000_000_000),
        ("万", 10_000),
        ("亿", 100_000_000),
    ];
    // `32 / 2 = $16 million`, counted in millions before
    let near: String = text[left.0.start..].chars().take(right.0.end - left.0.start + 12).collect();
    let scaled = scales
        .iter()
        .any(|(word, scale)| near.contains(word) && left.1 * BigRational::from_integer((*scale).into()) == *right.1);
    if scaled {
        return true;
    }
    let (of_left, of_right) = (units(text, left.0), units(text, right.0));
    of_left.iter().any(|(dimension, from)| {
        of_right.iter().any(|(other, to)| {
            dimension == other
                && from != to
                && left.1 * BigRational::from_integer((*from).into())
                    == right.1 * BigRational::from_integer((*to).into())
        })
    })
}

/// The units named in and around a side.
fn units(text: &str, side: &Expression) -> Vec<(u8, i64)> {
    let money = text[..side.start].ends_with('$') || text[side.start..side.end].contains('$');
    let behind = text[side.end..].split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).take(2);
    side.units
        .iter()
        .map(String::as_str)
        .chain(behind)
        .chain(money.then_some("$"))
        .flat_map(|word| UNITS.iter().chain(&YEARS).filter(move |(_, name, _)| *name == word))
        .map(|(dimension, _, factor)| (*dimension, *factor))
        .collect()
}

/// The dimensions of units that are known.
pub(super) fn dimensions(units: &[String]) -> std::collections::BTreeSet<u8> {
    // inches and centimetres are both lengths
    let merge = |dimension: u8| match dimension {
        3 => 2,
        5 => 4,
        7 => 1,
        other => other,
    };
    let known = |unit: &String| UNITS.iter().chain(&YEARS).find(|(_, name, _)| name == unit).map(|(d, ..)| merge(*d));
    units.iter().filter_map(known).collect()
}
