//! Chinese numerals: 一百二十三, 两万三, 二〇二四, 壹佰, 三点一四, 三分之二, 百分之五十, 一半.
//!
//! Positional reading of 十 百 千 in sections of 万 and 亿. A digit after 百, 千, 万 or 亿 with
//! nothing behind it counts the next lower place (两万三 is 23 000, 一百二 is 120; 一百零二 is 102).
//! Digits without any place word are read in order (二〇二四).

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{One, Zero};

use super::number::Number;

/// Longest run of numeral characters that is a number.
const MAX_LENGTH: usize = 64;

/// The longest Chinese numeral at the start of `text`, and its length in bytes.
pub fn scan(text: &str) -> Option<(Number, usize)> {
    if let Some((number, used)) = fraction(text) {
        return Some((number, used));
    }
    let (sign, start) = match text.strip_prefix('负') {
        Some(_) => (-BigRational::one(), '负'.len_utf8()),
        None => (BigRational::one(), 0),
    };
    if text[start..].starts_with("一半") {
        let half = BigRational::new(BigInt::one(), BigInt::from(2));
        return Some((Number { value: sign * half, decimal: false }, start + "一半".len()));
    }
    let (value, decimal, used) = decimal(&text[start..])?;
    Some((Number { value: sign * value, decimal }, start + used))
}

/// `D分之N`, `百分之N`, with an optional whole part `W又D分之N`.
fn fraction(text: &str) -> Option<(Number, usize)> {
    let (first, used) = part(text)?;
    let rest = &text[used..];
    if let Some(rest) = rest.strip_prefix('又') {
        let (denominator, used_d) = part(rest)?;
        let numerator_text = rest[used_d..].strip_prefix("分之")?;
        let (numerator, used_n) = part(numerator_text)?;
        if denominator.is_zero() {
            return None;
        }
        let used = used + '又'.len_utf8() + used_d + "分之".len() + used_n;
        return Some((Number { value: first + numerator / denominator, decimal: false }, used));
    }
    let after = rest.strip_prefix("分之")?;
    let (numerator, used_n) = part(after)?;
    if first.is_zero() {
        return None;
    }
    Some((Number { value: numerator / first, decimal: false }, used + "分之".len() + used_n))
}

/// A part of a fraction: Chinese, or ASCII digits (百分之50, 3分之2). A bare 百 or 千 is its own value.
fn part(text: &str) -> Option<(BigRational, usize)> {
    for (word, value) in [('百', 100), ('千', 1000), ('万', 10_000)] {
        if text.starts_with(word) && text[word.len_utf8()..].starts_with("分之") {
            return Some((BigRational::from_integer(BigInt::from(value)), word.len_utf8()));
        }
    }
    if let Some((value, _, used)) = decimal(text) {
        return Some((value, used));
    }
    super::number::digits(text, super::number::Style::default()).map(|(number, used)| (number.value, used))
}

/// An unsigned numeral with an optional 点 part: (value, has a 点 part, bytes).
fn decimal(text: &str) -> Option<(BigRational, bool, usize)> {
    let (whole, used) = integer(text)?;
    let whole = BigRational::from_integer(whole);
    let Some(tail) = text[used..].strip_prefix('点') else {
        return Some((whole, false, used));
    };
    let places: Vec<u32> = tail.chars().map_while(digit).take(MAX_LENGTH).collect();
    if places.is_empty() {
        return Some((whole, false, used));
    }
    let mut numerator = BigInt::zero();
    for place in &places {
        numerator = numerator * 10 + place;
    }
    let bytes: usize = tail.chars().take(places.len()).map(char::len_utf8).sum();
    let value = whole + BigRational::new(numerator, BigInt::from(10).pow(places.len() as u32));
    Some((value, true, used + '点'.len_utf8() + bytes))
}

/// An unsigned whole number and its bytes.
fn integer(text: &str) -> Option<(BigInt, usize)> {
    let numeral: Vec<char> =
        text.chars().take_while(|c| digit(*c).is_some() || place(*c).is_some()).take(MAX_LENGTH).collect();
    if numeral.is_empty() {
        return None;
    }
    let used = numeral.iter().map(|c| c.len_utf8()).sum();
    if numeral.iter().all(|c| digit(*c).is_some()) {
        let value = numeral.iter().fold(BigInt::zero(), |v, c| v * 10 + digit(*c).unwrap_or(0));
        return Some((value, used));
    }
    // `total` holds closed sections of 亿 and 万, `section` the current one, `pending` a digit that
    // waits for its place word
    let (mut total, mut section, mut pending) = (BigInt::zero(), BigInt::zero(), None::<u32>);
    let (mut last_place, mut zero_between) = (BigInt::one(), false);
    for (i, &c) in numeral.iter().enumerate() {
        if let Some(d) = digit(c) {
            if pending.is_some_and(|p| p != 0) {
                return None; // 二三百: an approximate number, not a value
            }
            zero_between |= d == 0;
            pending = Some(d);
            continue;
        }
        let unit = place(c)?;
        if unit >= BigInt::from(10_000) {
            let inner = section + pending.take().unwrap_or(0);
            // 万 closes its own section only; 亿 closes everything before it
            if unit > BigInt::from(10_000) {
                total = (total + inner) * &unit;
            } else if inner.is_zero() && i == 0 {
                return None;
            } else {
                total += inner * &unit;
            }
            section = BigInt::zero();
        } else {
            // 十五 is 15: a place word in front stands for one of it
            let count = match pending.take() {
                Some(0) | None if unit == BigInt::from(10) => 1,
                Some(d) => d,
                None => return None,
            };
            section += unit.clone() * count;
        }
        (last_place, zero_between) = (unit, false);
    }
    let last = pending.unwrap_or(0);
    let short = last != 0 && !zero_between && last_place > BigInt::from(10);
    let last = if short { last_place / 10 * last } else { BigInt::from(last) };
    Some((total + section + last, used))
}

fn digit(c: char) -> Option<u32> {
    Some(match c {
        '〇' | '零' | '○' => 0,
        '一' | '壹' => 1,
        '二' | '两' | '贰' => 2,
        '三' | '叁' => 3,
        '四' | '肆' => 4,
        '五' | '伍' => 5,
        '六' | '陆' => 6,
        '七' | '柒' => 7,
        '八' | '捌' => 8,
        '九' | '玖' => 9,
        _ => return None,
    })
}

fn place(c: char) -> Option<BigInt> {
    Some(BigInt::from(match c {
        '十' | '拾' => 10,
        '百' | '佰' => 100,
        '千' | '仟' => 1000,
        '万' | '萬' => 10_000,
        '亿' | '億' => 100_000_000,
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Option<String> {
        scan(text).filter(|(_, used)| *used == text.len()).map(|(n, _)| n.value.to_string())
    }

    #[test]
    fn numerals_have_the_values_a_reader_gives_them() {
        for (text, expected) in [
            ("一百二十三", "123"),
            ("十", "10"),
            ("十五", "15"),
            ("二十", "20"),
            ("一百零二", "102"),
            ("一百二", "120"),
            ("一百一十", "110"),
            ("两万三", "23000"),
            ("两万三千", "23000"),
            ("两万零三", "20003"),
            ("三千五", "3500"),
            ("一亿二千万", "120000000"),
            ("一万亿", "1000000000000"),
            ("二〇二四", "2024"),
            ("零", "0"),
            ("壹佰贰拾", "120"),
            ("三点一四", "157/50"),
            ("三分之二", "2/3"),
            ("百分之五十", "1/2"),
            ("百分之50", "1/2"),
            ("一又二分之一", "3/2"),
            ("负五", "-5"),
            ("一半", "1/2"),
        ] {
            assert_eq!(value(text).as_deref(), Some(expected), "{text}");
        }
        for text in ["万一", "二三百", "百", "三分之", "零分之一"] {
            assert_eq!(value(text), None, "{text}");
        }
    }
}
