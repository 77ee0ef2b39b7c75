//! Units: length, area, volume, mass, time, speed, angle, money, energy, information; English, SI
//! symbols and Chinese.
//!
//! A unit is a factor and exponents of base dimensions, so 5 km is 5000 m and 36 km/h is 10 m/s.
//! Each currency is a dimension of its own. Celsius and Fahrenheit are, too: no offset is converted.
//! Words that are no unit ("18 eggs") are labels and say nothing.

use std::collections::BTreeMap;

use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::One;

/// A unit in base dimensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    pub factor: BigRational,
    pub dimensions: BTreeMap<&'static str, i32>,
    /// As it was written.
    pub name: String,
}

/// Reads a whole unit: "km", "square meters", "m/s", "dollars per hour", "平方米", "cm^{2}".
pub fn read(text: &str) -> Option<Unit> {
    let name = text.trim().trim_end_matches('.').trim();
    if name.is_empty() || name.len() > 60 {
        return None;
    }
    let spaced = name.replace(" per ", "/").replace("每", "/");
    let mut unit = Unit { factor: BigRational::one(), dimensions: BTreeMap::new(), name: name.to_string() };
    for (at, part) in spaced.split('/').enumerate() {
        let (factor, dimension, power) = factor(part)?;
        let power = if at == 0 { power } else { -power };
        unit.factor *= factor.pow(power);
        *unit.dimensions.entry(dimension).or_insert(0) += power;
    }
    unit.dimensions.retain(|_, power| *power != 0);
    Some(unit)
}

/// Whether one word is a unit.
pub fn known(word: &str) -> bool {
    base(word).is_some()
}

/// The unit of a currency sign.
pub fn money(code: &'static str) -> Unit {
    Unit { factor: BigRational::one(), dimensions: BTreeMap::from([(code, 1)]), name: code.to_string() }
}

/// One factor with its power.
fn factor(text: &str) -> Option<(BigRational, &'static str, i32)> {
    let text = text.trim();
    for (prefix, power) in
        [("square ", 2), ("sq ", 2), ("sq. ", 2), ("cubic ", 3), ("cu ", 3), ("平方", 2), ("立方", 3)]
    {
        if let Some(inner) = text.strip_prefix(prefix) {
            let (factor, dimension) = base(inner.trim())?;
            return Some((factor, dimension, power));
        }
    }
    let (word, power) = match text.split_once('^') {
        Some((word, power)) => (word.trim(), power.trim().trim_matches(['{', '}']).parse().ok()?),
        None => match text.strip_suffix(['2', '3']) {
            Some(word) if !word.is_empty() => (word, if text.ends_with('2') { 2 } else { 3 }),
            _ => (text, 1),
        },
    };
    if !(1..=4).contains(&power) {
        return None;
    }
    let (factor, dimension) = base(word)?;
    Some((factor, dimension, power))
}

/// A unit word: (factor to the base of its dimension, dimension).
fn base(word: &str) -> Option<(BigRational, &'static str)> {
    let found = |word: &str| UNITS.iter().find(|(names, ..)| names.split(' ').any(|n| n == word));
    let lower = word.to_lowercase();
    let entry = found(word)
        .or_else(|| found(&lower))
        .or_else(|| found(lower.strip_suffix("es")?))
        .or_else(|| found(lower.strip_suffix('s').filter(|w| w.len() > 2)?))?;
    Some((BigRational::new(BigInt::from(entry.1), BigInt::from(entry.2)), entry.3))
}

/// Names, factor as a fraction, dimension. Names are matched as written first, so that Mb and mb stay
/// apart, then in lower case, then without a plural ending.
const UNITS: &[(&str, i64, i64, &str)] = &[
    ("m meter metre 米 公尺", 1, 1, "length"),
    ("km kilometer kilometre 千米 公里", 1000, 1, "length"),
    ("dm decimeter 分米", 1, 10, "length"),
    ("cm centimeter centimetre 厘米", 1, 100, "length"),
    ("mm millimeter millimetre 毫米", 1, 1000, "length"),
    ("μm um micrometer 微米", 1, 1_000_000, "length"),
    ("nm nanometer 纳米", 1, 1_000_000_000, "length"),
    ("mi mile 英里", 1_609_344, 1000, "length"),
    ("ft foot feet 英尺", 3048, 10_000, "length"),
    ("inch inche 英寸", 254, 10_000, "length"),
    ("yd yard 码", 9144, 10_000, "length"),
    ("里", 500, 1, "length"),
    ("hectare ha 公顷", 10_000, 1, "area"),
    ("acre 英亩", 40_468_564_224, 10_000_000, "area"),
    ("亩", 2000, 3, "area"),
    ("L l liter litre 升", 1, 1, "volume"),
    ("mL ml milliliter millilitre 毫升", 1, 1000, "volume"),
    ("gallon", 1, 1, "gallon"),
    ("g gram 克", 1, 1000, "mass"),
    ("kg kilogram 千克 公斤", 1, 1, "mass"),
    ("mg milligram 毫克", 1, 1_000_000, "mass"),
    ("t ton tonne 吨", 1000, 1, "mass"),
    ("斤", 1, 2, "mass"),
    ("两", 1, 20, "mass"),
    ("lb lbs pound", 45_359_237, 100_000_000, "mass"),
    ("oz ounce", 45_359_237, 1_600_000_000, "mass"),
    ("s sec second 秒 秒钟", 1, 1, "time"),
    ("ms millisecond 毫秒", 1, 1000, "time"),
    ("min minute 分钟", 60, 1, "time"),
    ("h hr hour 小时 时", 3600, 1, "time"),
    ("day 天 日", 86_400, 1, "time"),
    ("week 周 星期", 604_800, 1, "time"),
    ("month 个月 月", 1, 1, "month"),
    ("year yr 年", 12, 1, "month"),
    ("mph", 44_704, 100_000, "speed"),
    ("kph", 5, 18, "speed"),
    ("degree deg 度", 1, 1, "angle"),
    ("℃ °C celsius 摄氏度", 1, 1, "celsius"),
    ("°F fahrenheit 华氏度", 1, 1, "fahrenheit"),
    ("K kelvin", 1, 1, "kelvin"),
    ("rad radian 弧度", 1, 1, "radian"),
    ("usd dollar buck 美元", 1, 1, "usd"),
    ("cent 美分", 1, 100, "usd"),
    ("eur euro 欧元", 1, 1, "eur"),
    ("gbp 英镑", 1, 1, "gbp"),
    ("cny rmb yuan 元 块 块钱 元钱 人民币", 1, 1, "cny"),
    ("万元", 10_000, 1, "cny"),
    ("亿元", 100_000_000, 1, "cny"),
    ("角 毛 毛钱", 1, 10, "cny"),
    ("jpy yen 日元", 1, 1, "jpy"),
    ("hkd 港元 港币", 1, 1, "hkd"),
    ("N newton 牛 牛顿", 1, 1, "force"),
    ("J joule 焦 焦耳", 1, 1, "energy"),
    ("kJ kilojoule 千焦", 1000, 1, "energy"),
    ("cal calorie 卡", 4184, 1000, "energy"),
    ("kcal 千卡 大卡", 4184, 1, "energy"),
    ("W watt 瓦 瓦特", 1, 1, "power"),
    ("kW kilowatt 千瓦", 1000, 1, "power"),
    ("kWh 千瓦时", 3_600_000, 1, "energy"),
    ("V volt 伏 伏特", 1, 1, "voltage"),
    ("A ampere amp 安 安培", 1, 1, "current"),
    ("Ω ohm 欧 欧姆", 1, 1, "resistance"),
    ("Hz hertz 赫兹", 1, 1, "frequency"),
    ("Pa pascal 帕", 1, 1, "pressure"),
    ("kPa", 1000, 1, "pressure"),
    ("mol mole 摩尔", 1, 1, "amount"),
    ("byte 字节", 8, 1, "information"),
    ("bit 比特", 1, 1, "information"),
];

impl Unit {
    /// The unit with derived dimensions replaced by base ones: a litre is 10⁻³ m³, a hectare 10⁴ m².
    pub fn reduced(&self) -> (BigRational, BTreeMap<&'static str, i32>) {
        let mut factor = self.factor.clone();
        let mut dimensions = BTreeMap::new();
        for (&dimension, &power) in &self.dimensions {
            let (scale, parts): (i64, &[(&'static str, i32)]) = match dimension {
                "area" => (1, &[("length", 2)]),
                "volume" => (-1000, &[("length", 3)]),
                "speed" => (1, &[("length", 1), ("time", -1)]),
                other => (1, &[(other, 1)]),
            };
            let scale = match scale {
                -1000 => BigRational::new(BigInt::one(), BigInt::from(1000)),
                _ => BigRational::one(),
            };
            factor *= scale.pow(power);
            for (part, exponent) in parts {
                *dimensions.entry(*part).or_insert(0) += exponent * power;
            }
        }
        dimensions.retain(|_, power| *power != 0);
        (factor, dimensions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(a: &str, b: &str) -> bool {
        let reduced = |text| read(text).map(|u| u.reduced());
        reduced(a).is_some() && reduced(a) == reduced(b)
    }

    #[test]
    fn names_of_one_unit_agree() {
        for (a, b) in [
            ("kilometers", "公里"),
            ("square meters", "m^{2}"),
            ("平方米", "m2"),
            ("km/h", "kph"),
            ("dollars per hour", "usd/h"),
            ("mL", "cm^3"),
            ("inches", "inch"),
            ("Feet", "ft"),
        ] {
            assert!(same(a, b), "{a} {b}");
        }
        for (a, b) in [("km", "m"), ("eggs", "eggs"), ("元", "美元"), ("m", "m2")] {
            assert!(!same(a, b), "{a} {b}");
        }
    }
}
