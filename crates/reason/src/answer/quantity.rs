//! A number with what stands around it in prose: "$1,000.50", "12 km/h", "50 percent", "3.5万元",
//! "18 eggs". A word that is no unit is a label and says nothing about the value.

use super::math::{Expr, Math, Scalar};
use super::number::{self, Style};
use super::unit;

/// Signs of currencies in front of a number.
const SIGNS: [(&str, &str); 8] = [
    ("US$", "usd"),
    ("$", "usd"),
    ("\\$", "usd"),
    ("€", "eur"),
    ("£", "gbp"),
    ("¥", "cny"),
    ("RMB", "cny"),
    ("人民币", "cny"),
];

/// Reads a whole text.
pub fn read(text: &str, decimal_comma: bool) -> Option<Math> {
    let text = text.trim();
    let sign = SIGNS.iter().find_map(|(sign, code)| text.strip_prefix(sign).map(|rest| (rest, *code)));
    let (body, currency) = sign.map_or((text, None), |(rest, code)| (rest.trim_start(), Some(code)));
    // 3 0,5: spaces separate thousands only where the whole text is the number
    let (number, used) = number::scan(body, Style { decimal_comma, spaces: true })?;
    let behind = &body[used..];
    let rest = behind.trim();
    let mut scalar = Scalar { value: Expr::Number(number), percent: false, unit: currency.map(unit::money) };
    match rest {
        "" => {}
        "%" | "\\%" | "percent" | "per cent" | "percentage" | "pct" | "％" => scalar.percent = true,
        "€" | "$" | "\\$" | "£" | "¥" => {
            scalar.unit = SIGNS.iter().find(|(sign, _)| *sign == rest).map(|(_, code)| unit::money(code));
        }
        _ => match unit::read(rest.strip_prefix("\\").unwrap_or(rest)) {
            Some(found) if scalar.unit.is_none() => scalar.unit = Some(found),
            _ if label(behind) => {}
            _ => return None,
        },
    }
    Some(Math::Scalar(scalar))
}

/// Words behind a number that name what was counted.
fn label(behind: &str) -> bool {
    let words = behind.trim();
    let long = !words.is_ascii() || words.split(' ').next().is_some_and(|w| w.len() > 2);
    let apart = behind.starts_with(' ') || !words.is_ascii();
    long && apart
        && words.len() <= 60
        && words.chars().all(|c| c.is_alphabetic() || c == ' ' || c == '-')
        && !words.split(' ').any(|w| ["and", "or", "plus", "minus", "times", "pi", "sqrt", "to"].contains(&w))
}
