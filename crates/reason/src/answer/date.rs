//! Days: 2024-03-05, 2024年3月5日, March 5, 2024, 5 March 2024, 03/05/2024 (month first, unless only
//! the second can be one). The year may be missing.

use std::sync::LazyLock;

use regex::Regex;

use super::{chinese, fold};

/// A day of the Gregorian calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date {
    pub year: Option<i32>,
    pub month: u32,
    pub day: u32,
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

static PATTERNS: LazyLock<[Regex; 5]> = LazyLock::new(|| {
    let month = r"(?<name>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?";
    [
        r"(?<y>\d{4})\s*[-/.]\s*(?<m>\d{1,2})\s*[-/.]\s*(?<d>\d{1,2})(?:T[\d:.Z+]*)?".to_string(),
        r"(?:(?<y>\d{4})\s*年\s*)?(?<m>\d{1,2})\s*月\s*(?<d>\d{1,2})\s*[日号]".to_string(),
        format!(r"(?i){month}\s+(?<d>\d{{1,2}})(?:st|nd|rd|th)?(?:\s*,?\s*(?<y>\d{{4}}))?"),
        format!(r"(?i)(?<d>\d{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?{month}(?:\s*,?\s*(?<y>\d{{4}}))?"),
        r"(?<m>\d{1,2})/(?<d>\d{1,2})/(?<y>\d{4})".to_string(),
    ]
    .map(|p| Regex::new(&format!(r"(?:^|[^\w/.-])(?<all>{p})(?:$|[^\w/-])")).expect("a fixed pattern"))
});

/// A whole answer that is a day; a weekday in front or a clock behind is no part of it.
pub fn read(text: &str) -> Option<Date> {
    let text = prepared(text);
    let trimmed = text.trim().trim_end_matches(['.', '。']);
    let (found, date) = last_in(trimmed)?;
    let rest = format!("{}{}", &trimmed[..found.start], &trimmed[found.end..]);
    let weekday = |w: &str| {
        ["mon", "tue", "wed", "thu", "fri", "sat", "sun"].iter().any(|d| w.starts_with(d)) || w.starts_with("星期")
    };
    let spare = rest.to_lowercase();
    spare.split([' ', ',', '，']).filter(|w| !w.is_empty()).all(weekday).then_some(date)
}

/// The last day a text names, as it is written there.
pub fn last(text: &str) -> Option<(String, Date)> {
    let text = prepared(text);
    last_in(&text).map(|(range, date)| (text[range].to_string(), date))
}

fn last_in(text: &str) -> Option<(std::ops::Range<usize>, Date)> {
    PATTERNS
        .iter()
        .enumerate()
        .filter_map(|(which, pattern)| {
            let captures = pattern.captures_iter(text).last()?;
            let number = |name| captures.name(name).and_then(|m| m.as_str().parse::<u32>().ok());
            let named = captures.name("name").map(|m| m.as_str().to_lowercase());
            let month = match named {
                Some(name) => MONTHS.iter().position(|m| name.starts_with(m)).map(|at| at as u32 + 1)?,
                None => number("m")?,
            };
            let (year, mut month, mut day) = (number("y").map(|y| y as i32), month, number("d")?);
            // only 25/12/2023 may have the day first
            if month > 12 && which == 4 {
                std::mem::swap(&mut month, &mut day);
            }
            valid(year, month, day).then_some((captures.name("all")?.range(), Date { year, month, day }))
        })
        .max_by_key(|(range, _)| range.end)
}

fn valid(year: Option<i32>, month: u32, day: u32) -> bool {
    let leap = year.is_none_or(|y| (y % 4 == 0 && y % 100 != 0) || y % 400 == 0);
    let days = match month {
        2 => 28 + u32::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return false,
    };
    (1..=days).contains(&day)
}

/// Folded, with Chinese numerals in front of 年, 月 and 日 as digits.
fn prepared(text: &str) -> String {
    let folded = fold::characters(text);
    if !folded.contains('月') {
        return folded;
    }
    let mut out = String::with_capacity(folded.len());
    let mut at = 0;
    while at < folded.len() {
        let Some(c) = folded[at..].chars().next() else { break };
        if !c.is_ascii()
            && let Some((number, used)) = chinese::scan(&folded[at..])
            && folded[at + used..].starts_with(['年', '月', '日', '号'])
        {
            out.push_str(&number.value.to_string());
            at += used;
        } else {
            out.push(c);
            at += c.len_utf8();
        }
    }
    out
}

impl std::fmt::Display for Date {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.year {
            Some(year) => write!(f, "{year:04}-{:02}-{:02}", self.month, self.day),
            None => write!(f, "{} {}", MONTHS[self.month as usize - 1], self.day),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_read_in_their_usual_forms() {
        for text in [
            "2024-03-05",
            "2024/3/5",
            "2024年3月5日",
            "二〇二四年三月五日",
            "March 5, 2024",
            "Mar. 5th 2024",
            "5 March 2024",
            "the 5th of March, 2024".trim_start_matches("the "),
            "03/05/2024",
            "Tuesday, March 5, 2024.",
        ] {
            assert_eq!(read(text).map(|d| d.to_string()).as_deref(), Some("2024-03-05"), "{text}");
        }
        assert_eq!(read("3月5日").map(|d| d.to_string()).as_deref(), Some("mar 5"));
        assert_eq!(read("mar 5"), read("3月5日"));
        assert_eq!(read("25/12/2023").map(|d| d.to_string()).as_deref(), Some("2023-12-25"));
        for text in ["2023-02-29", "2024-13-01", "March", "12", "1-2-3"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
