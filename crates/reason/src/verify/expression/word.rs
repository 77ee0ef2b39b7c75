//! Words of arithmetic, English and Chinese: operations, relations, numerals.

use num_bigint::BigInt;
use num_rational::BigRational;

use super::token::{Kind, Literal, Operator, Relation};

/// The token of an English word that means an operation or a relation.
pub fn english(word: &str) -> Option<Kind> {
    Some(match word.to_ascii_lowercase().as_str() {
        "plus" => Kind::Operator(Operator::Add),
        "minus" => Kind::Operator(Operator::Subtract),
        "times" => Kind::Operator(Operator::Multiply),
        "equals" => Kind::Relation(Relation::Equal),
        "of" => Kind::Of,
        _ => return None,
    })
}

/// Chinese words of arithmetic, longest first.
const CHINESE: [(&str, Kind); 22] = [
    ("得到", Kind::Relation(Relation::Equal)),
    ("约等于", Kind::Relation(Relation::Approximately)),
    ("大约是", Kind::Relation(Relation::Approximately)),
    ("不等于", Kind::Relation(Relation::NotEqual)),
    ("大于等于", Kind::Relation(Relation::GreaterOrEqual)),
    ("小于等于", Kind::Relation(Relation::LessOrEqual)),
    ("大于", Kind::Relation(Relation::Greater)),
    ("小于", Kind::Relation(Relation::Less)),
    ("约为", Kind::Relation(Relation::Approximately)),
    ("等于", Kind::Relation(Relation::Equal)),
    ("加上", Kind::Operator(Operator::Add)),
    ("减去", Kind::Operator(Operator::Subtract)),
    ("乘以", Kind::Operator(Operator::Multiply)),
    ("乘上", Kind::Operator(Operator::Multiply)),
    ("除以", Kind::Operator(Operator::Divide)),
    ("除去", Kind::Break),
    ("加", Kind::Operator(Operator::Add)),
    ("减", Kind::Operator(Operator::Subtract)),
    ("乘", Kind::Operator(Operator::Multiply)),
    ("除", Kind::Break),
    ("得", Kind::Relation(Relation::Equal)),
    ("的", Kind::Of),
];

/// A Chinese operation, relation or numeral at the start of a text: bytes and token.
pub fn chinese(rest: &str) -> Option<(usize, Kind)> {
    let first = rest.chars().next()?;
    if !('\u{3007}'..='\u{9fff}').contains(&first) {
        return None;
    }
    if let Some((length, value)) = numeral(rest) {
        return Some((length, Kind::Number(Literal { value, decimals: 0, percent: false })));
    }
    CHINESE.iter().find(|(word, _)| rest.starts_with(word)).map(|(word, kind)| (word.len(), kind.clone()))
}

fn digit(c: char) -> Option<u64> {
    "零一二三四五六七八九"
        .chars()
        .position(|d| d == c)
        .or(match c {
            '〇' => Some(0),
            '两' => Some(2),
            _ => None,
        })
        .map(|d| d as u64)
}

/// A Chinese numeral (`三百二十`, `十五`, `两万`) up to 10^16.
fn numeral(rest: &str) -> Option<(usize, BigRational)> {
    let (mut total, mut section, mut current, mut length) = (0_u64, 0_u64, None, 0);
    let mut last_unit = u64::MAX;
    for c in rest.chars().take(24) {
        if let Some(d) = digit(c) {
            // two digits side by side are a list or a year, no numeral
            if current.is_some_and(|have| have != 0) {
                return None;
            }
            current = Some(d);
        } else if let Some(unit) = [('十', 10), ('百', 100), ('千', 1000)].iter().find(|u| u.0 == c).map(|u| u.1) {
            if unit >= last_unit {
                return None;
            }
            section += current.take().unwrap_or(1) * unit;
            last_unit = unit;
        } else if let Some(unit) = [('万', 10_000), ('亿', 100_000_000)].iter().find(|u| u.0 == c).map(|u| u.1) {
            if length == 0 {
                return None;
            }
            total = total.checked_add(section + current.take().unwrap_or(0))?.checked_mul(unit)?;
            section = 0;
            last_unit = u64::MAX;
        } else {
            break;
        }
        length += c.len_utf8();
    }
    if length == 0 {
        return None;
    }
    let value = total.checked_add(section + current.unwrap_or(0))?;
    Some((length, BigRational::from_integer(BigInt::from(value))))
}
