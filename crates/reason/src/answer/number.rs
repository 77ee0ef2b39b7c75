//! Numbers as people write them, as exact rationals.
//!
//! Digits with a decimal point, thousands separators only in groups of three (1,234,567 and
//! 1 234 567 and 1'234, not 1,23), scientific notation (1.5e3, 1.5×10^3), fractions and mixed
//! numbers (3/4, 1 1/2), and Chinese numerals (`chinese.rs`). A comma is a decimal mark only when
//! the caller says so. Digits and exponents are bounded, so that no text makes a value that cannot
//! be computed with.

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{One, Zero};

use super::chinese;

/// Longest run of digits that is a number.
pub const MAX_DIGITS: usize = 400;
/// Largest exponent of ten.
pub const MAX_EXPONENT: u32 = 1000;

/// An exact value and whether it was written as a decimal, which may be a rounded one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Number {
    pub value: BigRational,
    pub decimal: bool,
}

/// Which marks belong to a number.
#[derive(Debug, Clone, Copy, Default)]
pub struct Style {
    /// A comma is the decimal mark and a point separates thousands.
    pub decimal_comma: bool,
    /// A space may separate thousands.
    pub spaces: bool,
}

/// The number that starts `text`: (number, bytes used). A sign may stand in front.
pub fn scan(text: &str, style: Style) -> Option<(Number, usize)> {
    let (negative, start) = match text.as_bytes().first()? {
        b'-' => (true, 1),
        b'+' => (false, 1),
        _ => (false, 0),
    };
    let start = start + text[start..].len() - text[start..].trim_start_matches(' ').len();
    let body = &text[start..];
    let (mut number, used) =
        digits(body, style).map(|found| extended(body, found, style)).or_else(|| chinese::scan(body))?;
    if negative {
        number.value = -number.value;
    }
    Some((number, start + used))
}

/// Exponent, fraction or mixed part behind plain digits.
fn extended(text: &str, (number, used): (Number, usize), style: Style) -> (Number, usize) {
    let rest = &text[used..];
    if let Some((power, more)) = exponent(rest).or_else(|| scale(rest)) {
        return (Number { value: number.value * power, decimal: number.decimal }, used + more);
    }
    let over = |text: &str| -> Option<(BigRational, usize)> {
        let trimmed = text.trim_start_matches(' ');
        let below = trimmed.strip_prefix('/')?.trim_start_matches(' ');
        let (denominator, more) = digits(below, style)?;
        let after = below[more..].trim_start();
        // 3/4/2024 is a date
        (!denominator.value.is_zero() && !after.starts_with('/'))
            .then(|| (denominator.value, text.len() - below.len() + more))
    };
    if let Some((denominator, more)) = over(rest) {
        return (Number { value: number.value / denominator, decimal: number.decimal }, used + more);
    }
    if number.value.is_integer()
        && !number.decimal
        && let Some(tail) = rest.strip_prefix(' ')
        && let Some((numerator, n)) = digits(tail, style)
        && numerator.value.is_integer()
        && tail[n..].starts_with('/')
        && let Some((denominator, d)) = over(&tail[n..])
        && numerator.value < denominator
    {
        let value = number.value + numerator.value / denominator;
        return (Number { value, decimal: false }, used + 1 + n + d);
    }
    (number, used)
}

/// `e5`, `×10^5`, `x 10^{5}`: (power of ten, bytes).
fn exponent(text: &str) -> Option<(BigRational, usize)> {
    let trimmed = text.trim_start_matches(' ');
    let tail = if let Some(tail) = text.strip_prefix(['e', 'E']) {
        tail
    } else {
        let tail = ["\\times", "\\cdot", "*", "x "].iter().find_map(|sign| trimmed.strip_prefix(sign))?;
        tail.trim_start_matches(' ').strip_prefix("10^").or_else(|| tail.trim_start().strip_prefix("10**"))?
    };
    let (inner, braced) = match tail.strip_prefix('{') {
        Some(inner) => (inner, true),
        None => (tail, false),
    };
    let (negative, body) = match inner.strip_prefix('-') {
        Some(body) => (true, body),
        None => (false, inner.strip_prefix('+').unwrap_or(inner)),
    };
    let count = body.bytes().take_while(u8::is_ascii_digit).count();
    let power: u32 = body[..count].parse().ok().filter(|p| *p <= MAX_EXPONENT)?;
    let mut rest = &body[count..];
    if braced {
        rest = rest.strip_prefix('}')?;
    }
    let ten = BigRational::from_integer(BigInt::from(10).pow(power));
    Some((if negative { BigRational::one() / ten } else { ten }, text.len() - rest.len()))
}

/// "million", 万, 亿: (factor, bytes).
fn scale(text: &str) -> Option<(BigRational, usize)> {
    let trimmed = text.trim_start_matches(' ');
    let spaces = text.len() - trimmed.len();
    for (word, power) in [("万亿", 12), ("亿", 8), ("万", 4), ("千", 3), ("百", 2)] {
        // 千米 and 千克 are units, 百分之 a fraction
        if let Some(rest) = trimmed.strip_prefix(word)
            && !rest.starts_with(['米', '克', '瓦', '卡', '焦', '分'])
        {
            return Some((BigRational::from_integer(BigInt::from(10).pow(power)), spaces + word.len()));
        }
    }
    for (word, power) in [("hundred", 2), ("thousand", 3), ("million", 6), ("billion", 9), ("trillion", 12)] {
        if let Some(rest) = trimmed.strip_prefix(word)
            && !rest.starts_with(|c: char| c.is_ascii_alphabetic())
        {
            return Some((BigRational::from_integer(BigInt::from(10).pow(power)), spaces + word.len()));
        }
    }
    None
}

/// Unsigned digits with separators and a decimal mark: (number, bytes).
pub fn digits(text: &str, style: Style) -> Option<(Number, usize)> {
    let mark = if style.decimal_comma { ',' } else { '.' };
    let run = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
    let mut used = run(text);
    let mut whole = text[..used].to_string();
    if (1..=3).contains(&used) {
        let separator = separators(style).find(|s| grouped(&text[used..], s));
        while let Some(separator) = separator
            && grouped(&text[used..], separator)
            && whole.len() <= MAX_DIGITS
        {
            let group = used + separator.len();
            whole.push_str(&text[group..group + 3]);
            used = group + 3;
        }
    }
    let mut places = "";
    if let Some(tail) = text[used..].strip_prefix(mark) {
        places = &tail[..run(tail)];
        if !places.is_empty() {
            used += 1 + places.len();
        }
    }
    if (whole.is_empty() && places.is_empty()) || whole.len() + places.len() > MAX_DIGITS {
        return None;
    }
    let numerator: BigInt = format!("0{whole}{places}").parse().ok()?;
    let value = BigRational::new(numerator, BigInt::from(10).pow(places.len() as u32));
    Some((Number { value, decimal: !places.is_empty() }, used))
}

fn separators(style: Style) -> impl Iterator<Item = &'static str> {
    let thousands = if style.decimal_comma { "." } else { "," };
    [thousands, "{,}", ",\\!", ",\\! ", "{, }", " {, }", " {,} ", "'"].into_iter().chain(style.spaces.then_some(" "))
}

/// Whether a separator and exactly three digits follow.
fn grouped(text: &str, separator: &str) -> bool {
    text.strip_prefix(separator).is_some_and(|tail| tail.bytes().take(4).take_while(u8::is_ascii_digit).count() == 3)
}

/// Every number in a text that is not part of a word, in order. A minus sign belongs to the number
/// unless it stands directly behind a digit, a letter or a bracket (16-3).
pub fn all(text: &str, style: Style) -> impl Iterator<Item = (Number, std::ops::Range<usize>)> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < text.len() {
            let before = text[..at].chars().next_back();
            let c = text[at..].chars().next()?;
            // part of a word, an index or a power (m^{2}) is no number of its own
            let inside = before.is_some_and(|b| b.is_ascii_alphabetic() || "_^".contains(b))
                || text[..at].ends_with("^{")
                || text[..at].ends_with("_{");
            let signed = c == '-' && !before.is_some_and(|b| b.is_alphanumeric() || ")]}".contains(b));
            let begins = (c.is_ascii_digit() && !inside)
                || (signed && text[at + 1..].starts_with(|c: char| c.is_ascii_digit() || c == '.'))
                || (c == '.' && !inside && !before.is_some_and(|b| b.is_ascii_digit()))
                || (!c.is_ascii() && chinese_begins(&text[at..], before));
            if begins && let Some((number, used)) = scan(&text[at..], style) {
                let range = at..at + used;
                at += used;
                return Some((number, range));
            }
            // digits that are no number are passed over together
            at += if c.is_ascii_digit() {
                text[at..].bytes().take_while(u8::is_ascii_digit).count()
            } else {
                c.len_utf8()
            };
        }
        None
    })
}

/// A Chinese numeral in running text counts only when it is longer than one character or stands
/// before a measure word: 一 is also part of 一些 and 统一.
fn chinese_begins(text: &str, before: Option<char>) -> bool {
    chinese::scan(text).is_some_and(|(_, used)| {
        let rest = &text[used..];
        used > 3
            || (!before.is_some_and(|b| b.is_alphabetic() && b != '是' && b != '为' && b != '有')
                && (rest.is_empty()
                    || rest.starts_with(|c: char| !c.is_alphabetic() || "个元米只人天次本".contains(c))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Style = Style { decimal_comma: false, spaces: true };
    const COMMA: Style = Style { decimal_comma: true, spaces: true };

    fn value(text: &str) -> Option<String> {
        scan(text, WHOLE).filter(|(_, used)| *used == text.len()).map(|(n, _)| n.value.to_string())
    }

    #[test]
    fn written_forms_have_exact_values() {
        for (text, expected) in [
            ("1,234,567", "1234567"),
            ("1 234", "1234"),
            ("1{,}234", "1234"),
            ("12,\\!345", "12345"),
            (".5", "1/2"),
            ("-0.50", "-1/2"),
            ("-0", "0"),
            ("+7", "7"),
            ("3/4", "3/4"),
            ("1 1/2", "3/2"),
            ("1.5e3", "1500"),
            ("2e-2", "1/50"),
            ("1.5\\times 10^{3}", "1500"),
            ("1,000.0", "1000"),
            ("007", "7"),
        ] {
            assert_eq!(value(text).as_deref(), Some(expected), "{text}");
        }
        for text in ["1,23", "1,2345", "1/0", "3/4/2024", "", "-", ".", "1e99999", "A2"] {
            assert_eq!(value(text), None, "{text}");
        }
    }

    #[test]
    fn the_comma_is_a_decimal_mark_only_when_told() {
        let comma = |text| scan(text, COMMA).map(|(n, used)| (n.value.to_string(), used));
        assert_eq!(comma("1,22"), Some(("61/50".into(), 4)));
        assert_eq!(comma("1.000,5"), Some(("2001/2".into(), 7)));
        assert_eq!(scan("1,22", WHOLE).map(|(n, used)| (n.value.to_string(), used)), Some(("1".into(), 1)));
    }

    #[test]
    fn numbers_inside_words_are_no_numbers() {
        let found = |text| all(text, Style::default()).map(|(n, _)| n.value.to_string()).collect::<Vec<_>>();
        assert_eq!(found("AZYUK2A"), Vec::<String>::new());
        assert_eq!(found("16-3=13, then -5 of x2"), ["16", "3", "13", "-5"]);
        assert_eq!(found("共有十二个，另一些不算"), ["12"]);
        assert_eq!(found("she pays $1,000.50."), ["2001/2"]);
    }
}
